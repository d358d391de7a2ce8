"""Laws that hold for every model of the zoo, whatever it is.

The roster is read off `configs/`: a new family with a config is tested here without a line of
change. Every variant whose data need no download is held to every law that speaks of it.
"""

import functools
import importlib.util
import itertools
import pathlib
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from genjax_zoo.contract import BINARY, REAL, SIGNED, UNIT, Exactness, Model, ZooError
from genjax_zoo.data.source import Source
from genjax_zoo.data.sources import open_source
from genjax_zoo.models import ZOO
from genjax_zoo.run import config

ROOT = pathlib.Path(__file__).resolve().parents[1]
TRAINS = True
"""Longer than it compiles (conftest.py)."""
SHOWS = 500
"""Steps of training whose effect has to show, or a twelfth of them all if that is less."""
PART = {"staged": 8 / 12}
"""The part that shows where that is not so: what the stages know together is spoilt by one that has
not begun."""
LATE = {"gan:toy": "players that circle come nearer only after a thousand steps"}
"""Variants given their whole twelfth."""
COUNTEREXAMPLES = {"gan:toy_simultaneous": "simultaneous descent circles, and is there to show it"}


WIDE = {"linear_dynamical_system:nile": "its first level may lie anywhere: N(0, 1e7)"}
"""Densities that no window of a few units holds."""


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
    own = ("density:", "table:", "series:nile", "clip:waves")
    return fields.data.source == "digits" or fields.data.source.startswith(own)


ALIKE = {
    "bayes_net:naive": "bayes_net:lecture",
    "continuous_flow:digits": "continuous_flow:toy",
    "dbm:digits_deep": "dbm:digits",
    "dbn:digits": "dbn:digits_label",
    "energy_based_model:digits": "energy_based_model:digits_jem",
    "flow:toy_checkerboard": "flow:toy",
    "gan:digits": "gan:digits_conditional",
    "gan:grid": "gan:ring",
    "gan:grid_pac2": "gan:ring_pac2",
    "gaussian_mixture:wine": "gaussian_mixture:toy",
    "linear_dynamical_system:texture": "linear_dynamical_system:digits",
    "naive_bayes:toy": "naive_bayes:digits",
    "rbm:digits_cd": "rbm:digits",
    "rbm:digits_tempering": "rbm:digits",
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
    start: Any
    """The state before any step."""
    step: Any
    """The compiled step; `traces` holds the shape of the batch at each of its traces."""
    traces: list
    sample: Any
    log_prob: Any
    measures: dict


@functools.cache
def case_of(name: str) -> Case:
    family, _, variant = name.partition(":")
    run = config.read(variants_of(family)[variant])
    source = open_source(run.data, run.seed)
    source = source._replace(resident=jax.device_put(source.resident))
    source = source._replace(batch=jax.jit(source.batch))
    model = config.make_model(run)
    batch = batch_of(source, run, 0)
    start = jax.jit(model.init)(jax.random.key(0), batch)
    traces: list = []

    def step(key, state, batch):
        traces.append(batch["x"].shape)
        return model.step(key, state, batch)

    return Case(
        *(run, model, source, batch, start, jax.jit(step), traces),
        sample=jax.jit(model.sample, static_argnums=2),
        log_prob=model.log_prob and jax.jit(model.log_prob),
        measures={told: jax.jit(measure) for told, measure in model.measures.items()},
    )


def batch_of(source: Source, run: config.Run, step: int) -> dict:
    feed = source.feed(step, slice(0, run.data.batch_size))
    return dict(source.batch(jax.random.key(step), source.resident, feed))


@functools.cache
def trained(name: str) -> Any:
    """The state after a little training."""
    case = case_of(name)
    state = case.start
    part = PART.get(ZOO[case.run.model["name"]].verb)
    steps = int(case.run.steps * (part or 1 / 12))
    if part is None and name not in LATE:
        steps = min(steps, SHOWS)
    for i in range(max(steps, 2)):
        batch = batch_of(case.source, case.run, i)
        state, _ = case.step(jax.random.key(i), state, batch)
    return state


@pytest.fixture(params=CASES, scope="module")
def name(request):
    yield request.param
    case_of.cache_clear()
    trained.cache_clear()
    jax.clear_caches()


@pytest.fixture
def case(name):
    return case_of(name)


def exactness(model: Model) -> Exactness:
    """What kind of number a model's log_prob is."""
    return model.log_prob.exactness if model.log_prob else Exactness.NONE


def same(a: Any, b: Any) -> bool:
    """Two pytrees are alike, bit for bit."""
    if jax.tree.structure(a) != jax.tree.structure(b):
        return False
    alike = lambda x, y: np.array_equal(np.asarray(x), np.asarray(y), equal_nan=True)
    return all(map(alike, jax.tree.leaves(a), jax.tree.leaves(b)))


def finite(tree: Any) -> bool:
    return all(bool(np.isfinite(np.asarray(leaf)).all()) for leaf in jax.tree.leaves(tree))


# ------------------------------------------------------------------------------ the roster


@pytest.mark.parametrize("family", ZOO)
def test_every_family_has_a_config_for_the_digits(family):
    path = ROOT / "configs" / f"{family}.py"
    assert path.exists(), f"{family} has no configs/{family}.py"
    variants = variants_of(family)
    assert variants["digits"].data.source == "digits"
    told = documented(family)
    assert f"genjax-zoo train --config=configs/{family}.py" in told
    for variant, fields in variants.items():
        assert fields.model.name == family
        assert re.search(rf"^{variant}\s", told, re.M), (
            f"configs/{family}.py says nothing of {variant}"
        )
        config.read(fields)


# ------------------------------------------------------------------------- init and step


def test_init_is_deterministic(case):
    again = jax.jit(case.model.init)(jax.random.key(0), case.batch)
    assert same(case.start, again)
    assert finite(case.start)


def test_step_keeps_the_state_and_compiles_once(case):
    state = case.start
    for i in range(3):
        state, info = case.step(jax.random.key(i), state, batch_of(case.source, case.run, i))
    shape = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)
    assert shape(state) == shape(case.start)
    # A weak type (of jnp.full(shape, 0.5), say) is lost in the first step, which compiles again.
    weak = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(case.start)
        if leaf.weak_type
    ]
    assert weak == [], "give these a dtype"
    assert case.traces.count(case.batch["x"].shape) == 1, case.traces
    assert isinstance(info, dict)
    assert info
    for told, value in info.items():
        assert isinstance(told, str)
        assert all(leaf.shape == () for leaf in jax.tree.leaves(value)), f"{told!r} is no scalar"
    assert finite(info)


def test_a_step_is_a_function_of_its_arguments(case):
    first = case.step(jax.random.key(3), case.start, case.batch)
    assert same(first, case.step(jax.random.key(3), case.start, case.batch))


# ----------------------------------------------------------------------------------- sample


def test_samples_are_like_the_data(name, case):
    drawn = case.sample(jax.random.key(0), trained(name), 20)
    x = drawn["x"]
    assert x.shape == (20, *case.batch["x"].shape[1:])
    assert x.dtype == case.batch["x"].dtype
    assert finite(drawn)
    low = {BINARY: 0.0, UNIT: 0.0, SIGNED: -1.0}.get(case.model.spaces["x"])
    if low is not None:
        assert float(x.min()) >= low
        assert float(x.max()) <= 1
    assert same(drawn, case.sample(jax.random.key(0), trained(name), 20))
    assert not same(drawn["x"], case.sample(jax.random.key(1), trained(name), 20)["x"])


# --------------------------------------------------------------------------------- log_prob


def test_log_prob_is_a_number_an_example(name, case):
    if case.model.log_prob is None:
        pytest.skip("the model has no log_prob")
    log_prob = case.log_prob
    for state in (case.start, trained(name)):
        value = log_prob(jax.random.key(0), state, case.batch)
        assert value.shape == (len(case.batch["x"]),)
        assert value.dtype == jnp.float32
        assert finite(value)
        assert same(value, log_prob(jax.random.key(0), state, case.batch))
        if case.model.log_prob.exactness in (Exactness.EXACT, Exactness.UNNORMALISED):
            # The dice and the neighbours have no say.
            turned = {field: rows[::-1] for field, rows in case.batch.items()}
            other = log_prob(jax.random.key(1), state, turned)[::-1]
            np.testing.assert_allclose(other, value, rtol=1e-4, atol=1e-4)


def test_measures_are_a_number_an_example(name, case):
    for told, measure in case.model.measures.items():
        value = case.measures[told](jax.random.key(0), trained(name), case.batch)
        assert value.shape == (len(case.batch["x"]),), told
        assert finite(value), told
        assert measure.better in ("higher", "lower"), told
        assert measure.unit, told
        assert measure.exactness in Exactness, told


def tiny(case: Case, x: jax.Array, rows: int = 64) -> Any:
    """A state of the same model that has learnt from a tiny domain for a few steps."""
    x = x[jax.random.randint(jax.random.key(0), (rows,), 0, len(x))]
    batch = {"x": x}
    if "label" in case.batch:
        batch["label"] = jnp.arange(rows, dtype=jnp.int32) % 10
    state = jax.jit(case.model.init)(jax.random.key(1), batch)
    for i in range(10):
        state, _ = case.step(jax.random.key(i), state, batch)
    return state


def test_probabilities_sum_to_one(case):
    """Exactly for an exact log_prob; a lower bound sums to at most one."""
    kind = exactness(case.model)
    if case.model.spaces["x"] != BINARY:
        pytest.skip("not a model of binary data")
    if kind not in (Exactness.EXACT, Exactness.LOWER_BOUND, Exactness.ESTIMATE):
        pytest.skip(f"a log_prob that is {kind.value} sums to nothing in particular")
    # All images of 2 x 2 pixels; the model learns mostly of those with the first pixel black.
    everything = jnp.array(list(itertools.product((0.0, 1.0), repeat=4))).reshape(16, 2, 2, 1)
    try:
        state = tiny(case, everything[:10])
    except ZooError as error:
        pytest.skip(f"the variant takes no images this small: {error}")
    keys = jax.random.split(jax.random.key(2), 1 if kind is Exactness.EXACT else 500)
    batch = {"x": everything, "label": jnp.zeros(16, jnp.int32)}
    values = jax.jit(jax.vmap(case.model.log_prob, (0, None, None)))(keys, state, batch)
    if kind is Exactness.EXACT:
        np.testing.assert_allclose(float(jnp.exp(values).sum()), 1, atol=1e-5)
    elif kind is Exactness.ESTIMATE:
        np.testing.assert_allclose(float(jnp.exp(values).mean(0).sum()), 1, atol=0.05)
    else:
        # E[bound] <= log p(x), and so the sum of its exponentials is at most that of p(x); but for
        # the dice, of which half the variance of the mean is what the exponential makes of them.
        estimate = jnp.exp(values.mean(0) - 0.5 * values.var(0) / len(keys))
        scatter = float(jnp.std((values - values.mean(0)) @ estimate)) / len(keys) ** 0.5
        assert float(estimate.sum()) <= 1 + max(1e-3, 3 * scatter)
        assert scatter < 0.1, "too few dice: nothing was tested"
    assert float(jnp.std(values.mean(0))) > 1e-3, "all images alike: nothing was tested"


def test_an_exact_density_integrates_to_one(name, case):
    if exactness(case.model) is not Exactness.EXACT or case.model.spaces["x"] != REAL:
        pytest.skip("no exact density of real data")
    if name in WIDE:
        pytest.skip(WIDE[name])
    points = jax.random.normal(jax.random.key(3), (200, 2)) * jnp.array([0.5, 1.0]) + 1
    state = tiny(case, points, rows=200)
    side, width = 200, 16.0
    line = (jnp.arange(side) + 0.5) / side * width - width / 2 + 1
    grid = jnp.stack(jnp.meshgrid(line, line), -1).reshape(-1, 2)
    batch = {"x": grid, "label": jnp.zeros(len(grid), jnp.int32)}
    density = jnp.exp(jax.jit(case.model.log_prob)(jax.random.key(0), state, batch))
    np.testing.assert_allclose(float(density.sum()) * (width / side) ** 2, 1, atol=2e-3)


# -------------------------------------------------------------------------------- latents


def test_prior_is_of_what_decode_takes(name, case):
    if case.model.latents is None or case.model.latents.prior is None:
        pytest.skip("the model tells no prior of its latents")
    drawn = jax.jit(case.model.latents.prior, static_argnums=2)(jax.random.key(0), trained(name), 3)
    x = jax.jit(case.model.latents.decode)(jax.random.key(1), trained(name), drawn)["x"]
    assert x.shape == (3, *case.batch["x"].shape[1:])
    assert finite(x)


def test_encode_and_decode_agree(name, case):
    if case.model.latents is None or case.model.latents.encode is None:
        pytest.skip("the model has no encoder")
    rows = len(case.batch["x"])
    latents = jax.jit(case.model.latents.encode)(jax.random.key(0), trained(name), case.batch)
    assert all(leaf.shape[0] == rows for leaf in jax.tree.leaves(latents))
    back = jax.jit(case.model.latents.decode)(jax.random.key(1), trained(name), latents)
    assert back["x"].shape == case.batch["x"].shape
    assert back["x"].dtype == case.batch["x"].dtype
    assert finite(back)


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
    assert same(restored, state)
    again = case.step(jax.random.key(5), restored, case.batch)
    assert same(again, case.step(jax.random.key(5), state, case.batch))


# --------------------------------------------------------------------------------- training


def held_out(source: Source, n: int = 300) -> dict:
    return dict(source.held_out(jax.random.key(9), 0, min(n, source.held_out_size)))


def test_training_improves_the_number_the_model_is_for(name, case):
    comparable = (Exactness.EXACT, Exactness.LOWER_BOUND, Exactness.ESTIMATE)
    numbers = {t: (case.measures[t], m.better) for t, m in case.model.measures.items()}
    if exactness(case.model) in comparable:
        numbers = {"log_prob": (case.log_prob, "higher")}
    if not numbers:
        pytest.skip("the model tells no number per example")
    # As many as in a batch, for which the number is compiled already.
    data = held_out(case.source, case.run.data.batch_size)
    gains = {}
    for told, (value, better) in numbers.items():
        of = lambda state, value=value: float(value(jax.random.key(0), state, data).mean())
        gain = of(trained(name)) - of(case.start)
        gains[told] = gain if better == "higher" else -gain
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
    # Points in the plane cost little, and in few of them the distance drowns in its noise.
    plane = case.source.density is not None
    n = 1500 if plane else 300
    data = np.asarray(held_out(case.source, n)["x"]).reshape(-1, case.batch["x"][0].size)
    far, near = (
        energy_distance(
            np.asarray(case.sample(jax.random.key(4), state, len(data))["x"]).reshape(
                len(data), -1
            ),
            data,
        )
        for state in (case.start, trained(name))
    )
    if plane:
        # A start may be as near as draws of the density are to each other.
        draws = (case.source.held_out(jax.random.key(9), k * n, (k + 1) * n) for k in (1, 2, 3))
        others = (np.asarray(draw["x"]).reshape(n, -1) for draw in draws)
        far = max(far, *(abs(energy_distance(other, data)) for other in others))
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
