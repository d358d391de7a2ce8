"""Laws that hold for every model of the zoo, whatever it is.

The roster is read off `configs/`: a new family with a config is tested here without a line of
change. Every variant whose data need no download is held to every law that speaks of it.
"""

import functools
import importlib.util
import itertools
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from genjax_zoo.contract import (
    BINARY,
    MEAN,
    PACKED,
    REAL,
    DataError,
    Exactness,
    Kind,
    Measure,
    Model,
    Space,
    ZooError,
)
from genjax_zoo.data.source import Source
from genjax_zoo.data.sources import open_source
from genjax_zoo.models import VERBS, ZOO
from genjax_zoo.run import config
from genjax_zoo.run.devices import Devices, sharding

ROOT = pathlib.Path(__file__).resolve().parents[1]

FEW = 24
"""Examples enough to see whether a number has its shape, or got better."""
CARE = {"xla_backend_optimization_level": 1, "xla_llvm_disable_expensive_passes": False}
"""How training and sampling are compiled, which run for long; all else is compiled in haste
(conftest.py)."""
SHOWS = 300
"""Steps of training whose effect has to show, or a twelfth of them all if that is less."""
PART = {"staged": 8 / 12}
"""The part that shows where that is not so: what the stages know together is spoilt by one that has
not begun."""
LATE = {"gan:toy": "players that circle come nearer only after a thousand steps"}
"""Variants given their whole twelfth."""
COUNTEREXAMPLES = {"gan:toy_simultaneous": "simultaneous descent circles, and is there to show it"}


WIDE = {"linear_dynamical_system:nile": "its first level may lie anywhere: N(0, 1e7)"}
"""Densities that no window of a few units holds."""


_CHAIN = {"sample_steps": 200, "ais": {"temperatures": 200}}
LESS: dict[str, dict] = {
    "autoencoder:digits": {"model": {"chain_steps": 30}},
    "continuous_flow:toy": {"model": {"steps": 4}},
    "dbm:bars": {"steps": 1200, "model": {"stage_steps": (300, 300), "sample_steps": 200}},
    "dbn:digits_label": {
        "steps": 2400,
        "model": {"stage_steps": (800, 800), "machine": _CHAIN},
    },
    "diffusion:digits": {
        "model": {"ode_steps": 10, "bound_samples": 4, "network": {"width": 128, "blocks": 2}}
    },
    "energy_based_model:digits_jem": {
        "model": {
            "objective": {"steps": 20},
            "sampling": {"steps": 100},
            "ais": {"temperatures": 200},
        }
    },
    "flow:digits": {"model": {"layers": 2}},
    "flow:toy": {"model": {"layers": 2}},
    "latent_diffusion:digits": {"steps": 900, "model": {"first_steps": 340}},
    "progressive_gan:digits": {
        "steps": 1350,
        "model": {"stage_steps": (450, 900)},
        "data": {"batch_size": 16},
    },
    "rbm:bars": {"model": _CHAIN},
    "rbm:digits": {"model": _CHAIN},
    "rbm:digits_gaussian": {"model": _CHAIN},
    "rbm:digits_label": {"model": _CHAIN},
}
"""What is much in a variant and the same code when it is less: stages, layers, steps of chains."""
BATCH = 64
"""Examples of a batch at most, where a step is not of all the data."""


def fields_of(name: str) -> Any:
    """A variant's config, with what takes long made less."""
    family, _, variant = name.partition(":")
    fields = variants_of(family)[variant]
    if ZOO[family].verb != "em":
        fields.data.batch_size = min(fields.data.batch_size, BATCH)
    fields.update(LESS.get(name, {}))
    return fields


def variants_of(family: str) -> dict[str, Any]:
    """The variants of a config file, as `configs/FAMILY.py:VARIANT` gives them."""
    path = ROOT / "configs" / f"{family}.py"
    spec = importlib.util.spec_from_file_location(f"config_{family}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {variant: module.get_config(variant) for variant in module.VARIANTS}


def documented(family: str) -> str:
    spec = importlib.util.spec_from_file_location("_", ROOT / "configs" / f"{family}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.__doc__


def embedded(fields: Any) -> bool:
    """Whether the data come with the package."""
    own = ("density:", "table:", "series:nile", "clip:waves", "strings:")
    return fields.data.source == "digits" or fields.data.source.startswith(own)


ALIKE = {
    "autoencoder:spiral": "autoencoder:digits",
    "bayes_net:digits": "bayes_net:hidden",
    "bayes_net:lecture": "bayes_net:hidden",
    "bayes_net:naive": "bayes_net:hidden",
    "continuous_flow:digits": "continuous_flow:toy",
    "dbm:digits": "dbm:bars",
    "dbm:digits_deep": "dbm:bars",
    "dbn:digits": "dbn:digits_label",
    "diffusion:toy": "diffusion:digits",
    "energy_based_model:digits": "energy_based_model:digits_jem",
    "energy_based_model:toy": "energy_based_model:digits_jem",
    "energy_based_model:toy_noise_contrastive": "energy_based_model:digits_jem",
    "energy_based_model:toy_score_matching": "energy_based_model:digits_jem",
    "flow:toy": "flow:digits",
    "flow:toy_checkerboard": "flow:digits",
    "gan:digits": "gan:digits_conditional",
    "gan:digits_wgan_gp": "gan:digits_conditional",
    "gan:grid": "gan:digits_conditional",
    "gan:grid_pac2": "gan:digits_conditional",
    "gan:ring": "gan:digits_conditional",
    "gan:ring_pac2": "gan:digits_conditional",
    "gan:toy": "gan:digits_conditional",
    "gan:toy_simultaneous": "gan:digits_conditional",
    "gaussian_mixture:digits_mda": "gaussian_mixture:digits",
    "gaussian_mixture:wine": "gaussian_mixture:toy",
    "language_model:sticky": "language_model:sticky_llama",
    "language_model:sticky_experts": "language_model:sticky_llama",
    "linear_dynamical_system:ar": "linear_dynamical_system:nile",
    "linear_dynamical_system:texture": "linear_dynamical_system:digits",
    "markov_chain:digits_additive": "markov_chain:digits",
    "markov_chain:digits_sparse": "markov_chain:digits",
    "naive_bayes:digits_bernoulli": "naive_bayes:digits_counts",
    "naive_bayes:toy": "naive_bayes:digits",
    "rbm:bars": "rbm:digits_label",
    "rbm:digits": "rbm:digits_label",
    "rbm:digits_cd": "rbm:digits_label",
    "rbm:digits_tempering": "rbm:digits_label",
    "recurrent:strings": "recurrent:digits",
    "recurrent:waves": "recurrent:nile",
    "tabular_policy:palindrome": "tabular_policy:toy",
    "tabular_policy:toy_group": "tabular_policy:toy",
    "tabular_policy:toy_ppo": "tabular_policy:toy",
    "tabular_policy:toy_reinforce": "tabular_policy:toy",
    "vae:digits_conv": "vae:digits",
    "vae:toy": "vae:digits_grey",
}
"""Variants that differ from another in data, numbers or a part with tests of its own: --slow."""


CASES = [
    pytest.param(
        f"{family}:{variant}",
        marks=[pytest.mark.slow] if f"{family}:{variant}" in ALIKE else [],
    )
    for family in ZOO
    if (ROOT / "configs" / f"{family}.py").exists()
    for variant, fields in variants_of(family).items()
    if embedded(fields)
]


class Case(NamedTuple):
    """A variant, ready for the laws; what is compiled once serves all of them."""

    run: config.Run
    model: Model
    source: Source
    batch: dict
    few: dict
    """The first rows of the batch, for numbers that take long for each; of EM all."""
    start: Any
    """The state before any step."""
    learn: Any
    """(state, first, count) -> (state, info of the last step): `count` steps, from step `first`.

    One compiled program, however many they are."""
    traces: list
    """The shape of the batch at each trace of the step."""
    n: int
    """How many samples `sample` draws."""
    sample: Any
    """(key, state) -> batch of n."""
    log_prob: Any
    measures: dict


@functools.cache
def case_of(name: str) -> Case:
    run = config.read(fields_of(name))
    source = open_source(run.data, run.seed)
    resident = jax.device_put(source.resident)
    model = config.make_model(run)
    steps = max(steps_of(name, run), 8)
    rows = slice(0, run.data.batch_size)
    each = [source.feed(step, rows) for step in range(steps)]
    fed = jax.tree.map(lambda *feeds: jnp.asarray(np.stack(feeds)), *each)
    traces: list = []

    def batch_at(step, resident, fed):
        feed = jax.tree.map(lambda leaf: leaf[step], fed)
        return dict(source.batch(jax.random.key(step), resident, feed))

    def learn(state, first, count, resident, fed):
        def one(step, carry):
            state, _ = carry
            batch = batch_at(step, resident, fed)
            traces.append(jax.tree.map(jnp.shape, batch))
            return model.step(jax.random.key(step), state, batch)

        said = jax.eval_shape(one, first, (state, None))[1]
        nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), said)
        return jax.lax.fori_loop(first, first + count, one, (state, nothing))

    learn = jax.jit(learn, compiler_options=CARE)
    batch = jax.jit(batch_at)(0, resident, fed)
    few = None if ZOO[run.model["name"]].verb == "em" else FEW
    # Points in the plane cost little, and in few of them a distance drowns in its noise.
    n = min(1000 if source.density is not None else 300, source.held_out_size)
    n = n if n > 1 else 20
    sample = jax.jit(model.sample, static_argnums=2, compiler_options=CARE)
    return Case(
        *(run, model, source, batch),
        few={array: values[:few] for array, values in batch.items()},
        start=jax.jit(model.init)(jax.random.key(0), batch),
        learn=lambda state, first, count: learn(state, first, count, resident, fed),
        traces=traces,
        n=n,
        sample=lambda key, state: sample(key, state, n),
        log_prob=model.log_prob and jax.jit(model.log_prob),
        measures={measured: jax.jit(measure) for measured, measure in model.measures.items()},
    )


def steps_of(name: str, run: config.Run) -> int:
    """How many steps of training have to show an effect."""
    part = PART.get(ZOO[run.model["name"]].verb)
    steps = int(run.steps * (part or 1 / 12))
    if part is None and name not in LATE:
        steps = min(steps, SHOWS)
    return max(steps, 2)


@functools.cache
def trained(name: str) -> Any:
    """The state after a little training."""
    case = case_of(name)
    return case.learn(case.start, 0, steps_of(name, case.run))[0]


@functools.cache
def drawn(name: str) -> dict:
    """Samples of the trained state."""
    return case_of(name).sample(jax.random.key(4), trained(name))


@pytest.fixture(params=CASES, scope="module")
def name(request):
    yield request.param
    for kept in (case_of, trained, drawn, numbers_of_tiny_images):
        kept.cache_clear()
    jax.clear_caches()


@pytest.fixture
def case(name):
    return case_of(name)


def exactness(model: Model) -> Exactness:
    """What kind of number a model's log_prob is."""
    return model.log_prob.exactness if model.log_prob else Exactness.NONE


def same(a: Any, b: Any) -> bool:
    """Two pytrees are alike, bit for bit, and to the compiler."""
    if jax.tree.structure(a) != jax.tree.structure(b):
        return False
    if jax.tree.map(jax.typeof, a) != jax.tree.map(jax.typeof, b):
        return False
    alike = lambda x, y: np.array_equal(np.asarray(x), np.asarray(y), equal_nan=True)
    return all(map(alike, jax.tree.leaves(a), jax.tree.leaves(b)))


def finite(tree: Any) -> bool:
    return all(bool(np.isfinite(np.asarray(leaf)).all()) for leaf in jax.tree.leaves(tree))


# ------------------------------------------------------------------------------ the roster


@pytest.mark.parametrize("family", ZOO)
def test_every_family_has_a_config_whose_data_are_embedded(family):
    path = ROOT / "configs" / f"{family}.py"
    assert path.exists(), f"{family} has no configs/{family}.py"
    variants = variants_of(family)
    assert any(map(embedded, variants.values())), f"all variants of {family} need a download"
    page = documented(family)
    assert f"genjax-zoo train --config=configs/{family}.py" in page
    for variant, fields in variants.items():
        assert fields.model.name == family
        assert re.search(rf"^{variant}\s", page, re.M), (
            f"configs/{family}.py says nothing of {variant}"
        )
        config.read(fields)


# ------------------------------------------------------------------------- init and step


def test_init_is_deterministic(case):
    again = jax.jit(case.model.init)(jax.random.key(0), case.batch)
    assert same(case.start, again)
    assert finite(case.start)


def test_step_keeps_the_state_and_compiles_once(case):
    state, info = case.learn(case.start, 0, 1)
    traced = list(case.traces)
    for i in (1, 2):
        state, info = case.learn(state, i, 1)
    assert case.traces == traced, "the step was traced again"
    shape = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)
    assert shape(state) == shape(case.start)
    # A weak type (of jnp.full(shape, 0.5), say) is lost in the first step, which compiles again.
    weak = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(case.start)
        if leaf.weak_type
    ]
    assert weak == [], "give these a dtype"
    assert set(map(str, traced)) == {str(jax.tree.map(jnp.shape, case.batch))}
    assert isinstance(info, dict)
    assert info
    for said, value in info.items():
        assert isinstance(said, str)
        assert all(leaf.shape == () for leaf in jax.tree.leaves(value)), f"{said!r} is no scalar"
    assert finite(info)


def test_a_step_is_a_function_of_its_arguments(case):
    assert same(case.learn(case.start, 3, 1), case.learn(case.start, 3, 1))


# ----------------------------------------------------------------------------------- sample


def test_the_data_are_what_the_model_learns_from(case):
    for array, space in case.model.spaces.items():
        if array in PACKED and array not in case.source.spaces:
            continue
        assert array in case.source.spaces, f"the data have no {array!r}"
        assert space.holds(case.source.spaces[array]), f"{case.source.spaces[array]} are no {space}"
        assert lies_in(case.batch[array], space), array


def test_samples_are_like_the_data(name, case):
    draws = drawn(name)
    assert finite(draws)
    for array, values in draws.items():
        # What is looked at lies between values of x; x itself is a draw, whatever is looked at.
        like = "x" if array == MEAN else array
        assert values.shape == (case.n, *case.batch[like].shape[1:]), array
        assert values.dtype == case.batch[like].dtype, array
        assert lies_in(values, case.model.spaces[like], of_means=array == MEAN), array
    assert same(draws, case.sample(jax.random.key(4), trained(name)))
    assert not same(draws["x"], case.sample(jax.random.key(1), trained(name))["x"])


def lies_in(values: jax.Array, space: Space, of_means: bool = False) -> bool:
    """Whether all values lie in a space; `of_means`, or between values of it."""
    x = np.asarray(values)
    if (space.kind is Kind.CATEGORICAL) != np.issubdtype(x.dtype, np.integer):
        return False
    whole = np.array_equal(x, np.rint(x))
    return {
        Kind.REAL: True,
        Kind.UNIT: x.min() >= 0 and x.max() <= 1,
        Kind.SIGNED: x.min() >= -1 and x.max() <= 1,
        Kind.BINARY: x.min() >= 0 and x.max() <= 1 and (of_means or set(np.unique(x)) <= {0, 1}),
        Kind.COUNTS: x.min() >= 0 and (of_means or whole),
        Kind.CATEGORICAL: x.min() >= 0 and (not space.size or x.max() < space.size),
    }[space.kind]


def test_what_lies_in_a_space():
    inside = {
        Kind.REAL: [-7.5, 2.0],
        Kind.UNIT: [0.0, 0.3, 1.0],
        Kind.SIGNED: [-1.0, 0.3, 1.0],
        Kind.BINARY: [0.0, 1.0],
        Kind.COUNTS: [0.0, 17.0],
        Kind.CATEGORICAL: [0, 3],
    }
    outside = {
        Kind.REAL: [[1]],
        Kind.UNIT: [[-0.1, 0.5], [0.5, 1.1]],
        Kind.SIGNED: [[-1.1, 0.5], [0.5, 1.1]],
        Kind.BINARY: [[0.0, 0.5], [-1.0, 1.0], [0.0, 2.0]],
        Kind.COUNTS: [[-1.0, 3.0], [0.5, 3.0]],
        Kind.CATEGORICAL: [[-1, 2], [0, 4], [0.0, 1.0]],
    }
    for kind in Kind:
        space = Space(kind, 4 if kind is Kind.CATEGORICAL else 0)
        assert lies_in(np.array(inside[kind]), space), kind
        for values in outside[kind]:
            assert not lies_in(np.array(values), space), (kind, values)
    assert lies_in(np.array([0.0, 0.5]), BINARY, of_means=True)
    assert not lies_in(np.array([0.0, 1.5]), BINARY, of_means=True)
    assert lies_in(np.array([0.5, 3.0]), Space(Kind.COUNTS), of_means=True)


# --------------------------------------------------------------------------------- what is given

GIVEN = 6
"""How many samples honour what is given."""


def refusal(case: Case, given: Mapping[str, Any]) -> str:
    """The sentence by which a model refuses what is given; "" if it takes it."""
    try:
        jax.eval_shape(lambda key: case.model.sample(key, case.start, GIVEN, given), KEY)
    except DataError as error:
        return str(error)
    return ""


KEY = jax.random.key(0)


def test_what_is_given_is_honoured_or_refused(name, case):
    """Labels, and the first half of x; what no model can be told is refused by all of them."""
    assert "'nonsense'" in refusal(case, {"nonsense": 1.0})
    # Of one series alone, itself again and again.
    x = np.resize(np.asarray(case.batch["x"]), (GIVEN, *case.batch["x"].shape[1:]))
    mask = np.broadcast_to((np.arange(x[0].size) < x[0].size // 2).reshape(x[0].shape), x.shape)
    given: dict[str, Any] = {}
    if "label" in case.model.spaces:
        classes = case.model.spaces["label"].size
        for label in (classes, -1):
            assert f"0 .. {classes - 1}" in refusal(case, {"label": label})
        given["label"] = np.arange(GIVEN, dtype=np.int32)[::-1] % classes
        assert refusal(case, given) == ""
    else:
        assert "label" in refusal(case, {"label": 0})
    # Where an x of another length is taken, it is a past, and samples are what comes after it.
    if refusal(case, {"x": x[0][1:]}):
        if not (part := refusal(case, {"x": x, "mask": mask})):
            assert "mask" in refusal(case, {"mask": mask})
            assert "shape" in refusal(case, {"x": x[:2], "mask": mask[:2]})
            given |= {"x": x, "mask": mask}
        assert "cannot be told that" in part or not part
    if not given:
        pytest.skip("the model is told nothing")
    draw = jax.jit(lambda key, state: case.model.sample(key, state, GIVEN, given))
    draws = draw(jax.random.key(0), trained(name))
    if "label" in given:
        np.testing.assert_array_equal(draws["label"], given["label"])
    if "x" in given:
        np.testing.assert_array_equal(np.asarray(draws["x"])[mask], x[mask])
        # The rest is drawn.
        other = draw(jax.random.key(1), trained(name))["x"]
        assert not np.array_equal(np.asarray(draws["x"])[~mask], np.asarray(other)[~mask])


def test_what_is_no_value_of_its_space_is_refused(case):
    """By one sentence, whatever it is called, before anything is computed."""
    names = ("label", "text", "x", "mask", "code", "categorical", "continuous", "A", "steps")
    for array, value in itertools.product(names, ("abc", [[1], [2, 3]])):
        assert array in refusal(case, {array: value}), (array, value)
    for value in (3.7, True, -1, [0, 1], 10**6, 2**70, {}, 1j, []):
        assert "label" in refusal(case, {"label": value}), value
    with pytest.raises(DataError, match="n should be 1 or more, got -3"):
        case.model.sample(KEY, case.start, -3)
    if case.model.autoregression is not None:
        with pytest.raises(DataError, match=r"length should be 1 \.\. .*, got -3"):
            case.model.autoregression.start(case.start, 2, -3)
    for array in ("length", "steps"):
        assert "cannot be told that" in refusal(case, {array: -3})
    x = np.zeros(case.batch["x"].shape[1:])
    if "cannot be told that" not in refusal(case, {"x": x + np.inf}):
        real = case.model.spaces["x"].kind is Kind.REAL
        for number in (np.inf, *(() if real else (0.37, -1, 300))):
            assert f"{number:g} is none" in refusal(case, {"x": x + number}), number
        for mask in (255, 0.5, np.nan):
            assert "mask should be" in refusal(case, {"x": x, "mask": x + mask})


# --------------------------------------------------------------------------------- log_prob


def test_log_prob_is_a_number_an_example(name, case):
    if case.model.log_prob is None:
        pytest.skip("the model has no log_prob")
    log_prob = case.log_prob
    for state in (case.start, trained(name)):
        value = log_prob(jax.random.key(0), state, case.few)
        assert value.shape == (len(case.few["x"]),)
        assert value.dtype == jnp.float32
        assert finite(value)
        assert same(value, log_prob(jax.random.key(0), state, case.few))
        if case.model.log_prob.exactness in (Exactness.EXACT, Exactness.UNNORMALISED):
            # The dice and the neighbours have no say.
            turned = {field: rows[::-1] for field, rows in case.few.items()}
            other = log_prob(jax.random.key(1), state, turned)[::-1]
            np.testing.assert_allclose(other, value, rtol=1e-4, atol=1e-4)


def test_measures_are_a_number_an_example(name, case):
    for measured, measure in case.model.measures.items():
        value = case.measures[measured](jax.random.key(0), trained(name), case.few)
        assert value.shape == (len(case.few["x"]),), measured
        assert finite(value), measured
        assert measure.better in ("higher", "lower", "neither"), measured
        assert measure.unit, measured
        assert measure.exactness in Exactness, measured
    for measure in filter(None, (case.model.log_prob, *case.model.measures.values())):
        if measure.per is not None:
            per = measure.per(case.few)
            assert per.shape == (len(case.few["x"]),)
            assert float(per.min()) > 0


def likelihoods(model: Model) -> dict[str, Measure]:
    """Every number that a model tells of log p(x) itself, in nats, and by what kind of number."""
    kinds = (Exactness.EXACT, Exactness.LOWER_BOUND, Exactness.ESTIMATE)
    told = {"log_prob": model.log_prob} if model.log_prob else {}
    told |= {n: m for n, m in model.measures.items() if m.density and m.unit == "nats"}
    return {n: m for n, m in told.items() if m.exactness in kinds}


def check_order(model: Model, means: Mapping[str, float], errors: Mapping[str, float]) -> None:
    """bound <= estimate <= exact, but for four standard errors; an estimate errs either way."""
    told, slack = likelihoods(model), 0.0
    for low, high in itertools.permutations(told, 2):
        kinds = told[low].exactness, told[high].exactness
        slack = 4 * np.hypot(errors[low], errors[high]) + 1e-3
        gap = means[high] - means[low]
        if kinds[0] is Exactness.LOWER_BOUND and kinds[1] is not Exactness.LOWER_BOUND:
            assert gap >= -slack, f"the bound {low} lies {-gap:.4f} above {high} (± {slack:.4f})"
        if kinds == (Exactness.ESTIMATE, Exactness.EXACT):
            assert abs(gap) <= slack + 0.05, f"{low} is {gap:.4f} away from {high} (± {slack:.4f})"


def test_a_bound_lies_below_what_is_nearer_to_the_truth(name, case):
    """On the data that the model learns from."""
    told = likelihoods(case.model)
    kinds = {measure.exactness for measure in told.values()}
    if Exactness.LOWER_BOUND not in kinds or len(kinds) == 1:
        pytest.skip("there is no bound, or nothing to compare it with")
    numbers = {"log_prob": case.log_prob, **case.measures}
    means, errors = {}, {}
    for n, measure in told.items():
        keys = jax.random.split(jax.random.key(6), 1 if measure.exactness is Exactness.EXACT else 4)
        each = [float(numbers[n](key, trained(name), case.few).mean()) for key in keys]
        means[n] = np.mean(each)
        errors[n] = np.std(each, ddof=1) / len(each) ** 0.5 if len(each) > 1 else 0.0
    check_order(case.model, means, errors)


# ----------------------------------------------------------------------------- tiny domains


def learnt_of(case: Case, x: jax.Array, rows: int) -> Any:
    """A state of the same model that has learnt of a tiny domain for ten steps; to be compiled."""
    batch = {"x": x[jax.random.randint(jax.random.key(0), (rows,), 0, len(x))]}
    if "label" in case.batch:
        batch["label"] = jnp.arange(rows, dtype=jnp.int32) % 10
    step = lambda i, state: case.model.step(jax.random.key(i), state, batch)[0]
    return jax.lax.fori_loop(0, 10, step, case.model.init(jax.random.key(1), batch))


IMAGES = np.array(list(itertools.product((0.0, 1.0), repeat=4)), np.float32).reshape(16, 2, 2, 1)
"""All images of 2 x 2 pixels."""


@functools.cache
def numbers_of_tiny_images(name: str) -> dict[str, np.ndarray]:
    """What the model tells of log p of each of IMAGES: [keys, 16] by each of its likelihoods.

    It has learnt mostly of those whose first pixel is black. Skips where it takes none so small.
    """
    case = case_of(name)
    batch = {"x": jnp.asarray(IMAGES), "label": jnp.zeros(16, jnp.int32)}

    @jax.jit
    def numbers():
        state = learnt_of(case, batch["x"][:10], 64)
        found = {}
        for n, measure in likelihoods(case.model).items():
            # What is annealed once for all images is long, and one chain's error that of all.
            count = 1 if measure.exactness is Exactness.EXACT else 20 if measure.once else 500
            keys = jax.random.split(jax.random.key(2), count)
            found[n] = jax.vmap(measure, (0, None, None))(keys, state, batch)
        return found

    try:
        return jax.tree.map(np.asarray, numbers())
    except ZooError as error:
        pytest.skip(f"the variant takes no images this small: {error}")


def test_probabilities_sum_to_one(name, case):
    """Exactly for an exact log_prob; a lower bound sums to at most one."""
    kind = exactness(case.model)
    if case.model.spaces["x"] != BINARY:
        pytest.skip("not a model of binary data")
    if kind not in (Exactness.EXACT, Exactness.LOWER_BOUND, Exactness.ESTIMATE):
        pytest.skip(f"a log_prob that is {kind.value} sums to nothing in particular")
    values = numbers_of_tiny_images(name)["log_prob"]
    if kind is Exactness.EXACT:
        np.testing.assert_allclose(np.exp(values).sum(), 1, atol=1e-5)
    elif kind is Exactness.ESTIMATE:
        np.testing.assert_allclose(np.exp(values).mean(0).sum(), 1, atol=0.05)
    else:
        # E[bound] <= log p(x), and so the sum of its exponentials is at most that of p(x); but for
        # the noise, of which half the variance of the mean is what the exponential makes of it.
        estimate = np.exp(values.mean(0) - 0.5 * values.var(0) / len(values))
        scatter = np.std((values - values.mean(0)) @ estimate) / len(values) ** 0.5
        assert estimate.sum() <= 1 + max(1e-3, 3 * scatter)
        assert scatter < 0.1, "too few draws: nothing was tested"
    assert np.std(values.mean(0)) > 1e-3, "all images alike: nothing was tested"


def test_bounds_estimates_and_exact_values_of_tiny_images_are_in_order(name, case):
    told = likelihoods(case.model)
    if case.model.spaces["x"] != BINARY or len({m.exactness for m in told.values()}) < 2:
        pytest.skip("not a model of binary data with two kinds of likelihood")
    values = numbers_of_tiny_images(name)
    for image in range(len(IMAGES)):
        each = {n: values[n][:, image] for n in told}
        errors = {n: np.std(v) / max(len(v) - 1, 1) ** 0.5 for n, v in each.items()}
        check_order(case.model, {n: v.mean() for n, v in each.items()}, errors)


def test_an_exact_density_integrates_to_one(name, case):
    if exactness(case.model) is not Exactness.EXACT or case.model.spaces["x"] != REAL:
        pytest.skip("no exact density of real data")
    if name in WIDE:
        pytest.skip(WIDE[name])
    side, width = 200, 16.0
    line = (jnp.arange(side) + 0.5) / side * width - width / 2 + 1
    grid = jnp.stack(jnp.meshgrid(line, line), -1).reshape(-1, 2)
    batch = {"x": grid, "label": jnp.zeros(len(grid), jnp.int32)}

    @jax.jit
    def density():
        points = jax.random.normal(jax.random.key(3), (200, 2)) * jnp.array([0.5, 1.0]) + 1
        state = learnt_of(case, points, rows=200)
        return jnp.exp(case.model.log_prob(jax.random.key(0), state, batch))

    np.testing.assert_allclose(float(density().sum()) * (width / side) ** 2, 1, atol=2e-3)


# ---------------------------------------------------------------------- symbol after symbol


def test_symbols_at_once_one_by_one_uneven_and_log_prob_agree(name, case):
    writes = case.model.autoregression
    if writes is None:
        pytest.skip("the model writes nothing symbol after symbol")
    batch = {array: values[:8] for array, values in case.batch.items()}
    x = np.array(batch["x"].reshape(len(batch["x"]), -1), np.int32)
    given = {a: batch[a] for a in case.model.spaces if a != "x" and a not in PACKED}
    n, T = x.shape
    half, rng = T // 2, np.random.default_rng(0)
    # Padding on the left of the first string, on the right of the second, in between elsewhere.
    place = np.sort([rng.permutation(T + 3)[:T] for _ in range(n)], axis=1)
    place[0], place[1] = np.arange(T) + 3, np.arange(T)
    padded = np.full((n, T + 3), -1, np.int32)
    np.put_along_axis(padded, place, x, axis=1)
    # Of what was read last some symbols are no part of x, another number of each string's.
    wrong = rng.integers(0, T - half + 1, n)
    astray = np.where(np.arange(T - half) < wrong[:, None], np.roll(x, 1)[:, half:], -1)

    @jax.jit
    def ways(state):
        first, empty = writes.start(state, n, T, given)
        rest, _ = writes.extend(state, empty, x)

        def one(so_far, symbol):
            logits, cache = so_far
            after, cache = writes.extend(state, cache, symbol[:, None])
            return (after[:, 0], cache), logits

        _, each = jax.lax.scan(one, (first, empty), x.T)
        head, cache = writes.extend(state, empty, padded[:, :half])
        tail, _ = writes.extend(state, cache, padded[:, half:])
        uneven = jnp.concatenate([head, tail], axis=1)
        found = [rest, jnp.take_along_axis(uneven, place[..., None], axis=1)]
        if writes.rewind is not None:
            head, cache = writes.extend(state, empty, x[:, :half])
            _, cache = writes.extend(state, cache, astray)
            tail, _ = writes.extend(state, writes.rewind(cache, wrong), x[:, half:])
            found.append(jnp.concatenate([head, tail], axis=1))
        follow = lambda after: jnp.concatenate([first[:, None], after[:, :-1]], axis=1)
        return [*map(follow, found), jnp.swapaxes(each, 0, 1)]

    at_once, *others = ways(trained(name))
    for other in others:
        np.testing.assert_allclose(other, at_once, rtol=1e-4, atol=1e-4)
    # The first axis of a cache is that of the strings: it grows with them, and no other does.
    few, more = (
        jax.eval_shape(
            lambda n=n: writes.start(case.start, n, T, {a: g[:n] for a, g in given.items()})
        )
        for n in (2, 3)
    )
    grown = lambda a, b: (3, *a.shape[1:]) == b.shape
    assert all(jax.tree.leaves(jax.tree.map(grown, few[1], more[1])))
    if exactness(case.model) is Exactness.EXACT:
        # log p(x) = Σ_t log p(x_t | x_<t)
        each = np.take_along_axis(np.asarray(jax.nn.log_softmax(at_once)), x[..., None], axis=-1)
        value = case.model.log_prob(jax.random.key(0), trained(name), batch)
        np.testing.assert_allclose(each.sum((1, 2)), value, rtol=1e-4, atol=1e-3)


# -------------------------------------------------------------------------------- latents


def test_prior_is_of_what_decode_takes(name, case):
    latents = case.model.latents
    if latents is None or latents.prior is None:
        pytest.skip("the model tells no prior of its latents")

    @jax.jit
    def decoded(state):
        return latents.decode(jax.random.key(1), state, latents.prior(jax.random.key(0), state, 3))

    x = decoded(trained(name))["x"]
    assert x.shape == (3, *case.batch["x"].shape[1:])
    assert finite(x)


def test_what_is_encoded_is_decoded(name, case):
    """Nearer to x than what other examples' latents become; and x itself, of a bijection."""
    latents = case.model.latents
    if latents is None or latents.encode is None:
        pytest.skip("the model has no encoder")

    @jax.jit
    def there_and_back(state, batch):
        z = latents.encode(jax.random.key(0), state, batch)
        others = jax.tree.map(lambda leaf: jnp.roll(leaf, 1, axis=0), z)
        return z, *(latents.decode(jax.random.key(1), state, each) for each in (z, others))

    z, back, of_others = there_and_back(trained(name), case.few)
    x = np.asarray(case.few["x"])
    assert all(leaf.shape[0] == len(x) for leaf in jax.tree.leaves(z))
    assert back["x"].shape == x.shape
    assert back["x"].dtype == x.dtype
    assert finite(back)
    error = lambda made: float(np.mean((np.asarray(made["x"], np.float32) - x) ** 2))
    if len(x) > 1:
        assert error(back) < error(of_others)
    assert error(back) <= BIJECTIONS.get(case.run.model["name"], np.inf) ** 2


BIJECTIONS = {"flow": 1e-4, "continuous_flow": 1e-2}
"""Families whose latents are all of x, and the root mean square of what comes back less x: of
rounding, and of an ordinary differential equation its solver's error too."""


# ------------------------------------------------------------------------------ checkpoints


def test_a_state_goes_through_its_leaves_and_through_a_checkpoint(name, case, tmp_path):
    state = trained(name)
    leaves, tree = jax.tree.flatten(state)
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    assert same(jax.tree.unflatten(tree, leaves), state)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        shapes = jax.eval_shape(case.model.init, jax.random.key(0), case.batch)
        restored = checkpointer.restore(tmp_path / "state", shapes)
    # Then a step from it is the same step, which is a function of its arguments.
    assert same(restored, state)


# --------------------------------------------------------------------------------- training


def held_out(source: Source, n: int = 300) -> dict:
    return dict(source.held_out(jax.random.key(9), 0, min(n, source.held_out_size)))


def follows_data(model: Model) -> bool:
    """Whether what is learnt is the data, and not what is worth more than they are."""
    return model.log_prob is None or model.log_prob.better != "neither"


def test_training_improves_the_number_the_model_is_for(name, case):
    comparable = (Exactness.EXACT, Exactness.LOWER_BOUND, Exactness.ESTIMATE)
    measures = {t: m for t, m in case.model.measures.items() if m.better != "neither"}
    numbers = {t: (case.measures[t], m.better) for t, m in measures.items()}
    if exactness(case.model) in comparable and follows_data(case.model):
        numbers = {"log_prob": (case.log_prob, "higher")}
    if not numbers:
        pytest.skip("the model tells no number per example")
    # As many as the number is compiled for already.
    data = held_out(case.source, len(case.few["x"]))
    gains = {}
    for n, (value, better) in numbers.items():
        of = lambda state, value=value: float(value(jax.random.key(0), state, data).mean())
        gain = of(trained(name)) - of(case.start)
        gains[n] = gain if better == "higher" else -gain
    assert min(gains.values()) > 0, gains


def energy_distance(x: np.ndarray, y: np.ndarray) -> float:
    """2 E|x - y| - E|x - x'| - E|y - y'|: zero only where two distributions are one."""
    apart = lambda a, b: np.linalg.norm(a[:, None] - b[None], axis=-1).sum()
    n, m = len(x), len(y)
    own = apart(x, x) / (n * (n - 1)) + apart(y, y) / (m * (m - 1))
    return 2 * apart(x, y) / (n * m) - own


def test_training_brings_samples_nearer_to_the_data(name, case):
    if name in COUNTEREXAMPLES:
        pytest.skip(COUNTEREXAMPLES[name])
    if case.source.held_out_size == 1:
        pytest.skip("one series is no sample that samples could be compared with")
    if not follows_data(case.model):
        pytest.skip("the model follows rewards, away from the data")
    n, plane = case.n, case.source.density is not None
    flat = lambda batch: np.asarray(batch["x"]).reshape(n, -1)
    data = flat(held_out(case.source, n))
    start = case.sample(jax.random.key(4), case.start)
    far, near = (energy_distance(flat(samples), data) for samples in (start, drawn(name)))
    if plane:
        # A start may be as near as draws of the density are to each other.
        draws = (case.source.held_out(jax.random.key(9), k * n, (k + 1) * n) for k in (1, 2, 3))
        far = max(far, *(abs(energy_distance(flat(draw), data)) for draw in draws))
    assert near < far


def test_energy_distance_of_two_normals():
    """Of N(0, 1) and N(1, 1) in one dimension, by quadrature over the distribution functions."""
    x = np.random.default_rng(0).normal(size=(2, 1500, 1))
    # 2 * integral of (F - G)^2
    from scipy.stats import norm

    at = np.linspace(-9, 9, 20001)
    exact = 2 * np.trapezoid((norm.cdf(at) - norm.cdf(at - 1)) ** 2, at)
    assert energy_distance(x[0], x[1] + 1) == pytest.approx(exact, abs=0.06)
    assert abs(energy_distance(x[0], x[1])) < 0.02


# ---------------------------------------------------------------------------------- devices

SHARDED = {
    "descend": "vae:digits",
    "play": "gan:digits",
    "contrast": "rbm:digits_label",
    "em": "naive_bayes:digits",
    "reinforce": "tabular_policy:toy",
    "staged": "dbm:bars",
}
"""A variant of every verb."""


def sharded_step(name: str) -> None:
    """One step on one device and on two, which share the batch and split the larger arrays."""
    fields = fields_of(name)
    # An optimizer that divides by the gradient would make much of rounding.
    fields.optimizer = {"name": "sgd", "learning_rate": 0.1}
    fields.data.batch_size -= fields.data.batch_size % 2
    run = config.read(fields)
    source, model = open_source(run.data, run.seed), config.make_model(run)
    feed = source.feed(0, slice(0, run.data.batch_size))
    batch = dict(source.batch(jax.random.key(0), source.resident, feed))
    state = jax.jit(model.init)(jax.random.key(1), batch)
    alone = jax.jit(model.step)(jax.random.key(2), state, batch)
    layout = sharding.lay_out(Devices(fsdp=2), run.data.batch_size)
    shapes = jax.eval_shape(model.init, jax.random.key(1), batch)
    split = sharding.of_state(layout.rules, shapes, min_split=64)
    step = jax.jit(model.step, out_shardings=(split, layout.everywhere))
    placed = jax.device_put(state, split), jax.device_put(batch, layout.over_batch)
    shared = step(jax.random.key(2), *placed)
    leaves = jax.tree.leaves(shared[0])
    assert {len(leaf.sharding.device_set) for leaf in leaves} == {2}
    assert not all(leaf.is_fully_replicated for leaf in leaves), "nothing is split"
    assert not same(alone[0], state), "nothing was learnt"
    close = functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-5)
    jax.tree.map(close, shared, alone)


def test_a_step_on_two_devices_is_the_step_on_one():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    code = f"""
from tests.test_laws import sharded_step
for name in {list(SHARDED.values())}:
    sharded_step(name)
    print(name, flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT, env={**os.environ, "XLA_FLAGS": flags},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert done.stdout.split() == list(SHARDED.values())
    assert {verb: ZOO[name.partition(":")[0]].verb for verb, name in SHARDED.items()} == {
        verb: verb for verb in VERBS
    }
