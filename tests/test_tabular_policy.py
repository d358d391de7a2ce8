"""A tabular policy against the closed form of what it raises, and against enumeration."""

import dataclasses
import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax_zoo.commands.configs import unjson
from genjax_zoo.contract import ConfigError, DataError, Exactness
from genjax_zoo.data.config import Data
from genjax_zoo.data.sources import open_source
from genjax_zoo.learn.state import eval_params
from genjax_zoo.main import main
from genjax_zoo.maths.sequences import optimum, policy_gradients
from genjax_zoo.models import tabular_policy
from genjax_zoo.models.tabular_policy import REWARDS, Config, Params
from genjax_zoo.run import trained
from genjax_zoo.run.config import read
from genjax_zoo.run.record.workdir import Workdir
from genjax_zoo.run.setup import set_up
from genjax_zoo.typed import typed
from tests.conftest import ROOT

KEY = jax.random.key(0)
V, T = 3, 4
STRINGS = jnp.array(list(itertools.product(range(V), repeat=T)))
BATCH = {"x": STRINGS[:: len(STRINGS) // 8][:8]}
BETA = 0.5
ESTIMATORS = {
    "reinforce": {"name": "reinforce", "group": 1},
    "leave_one_out": {"name": "leave_one_out", "group": 4},
    "ppo": {"name": "ppo", "group": 1, "passes": 2, "minibatches": 2},
    "group_relative": {"name": "group_relative", "group": 4, "passes": 2, "minibatches": 2},
    "group_deviation": {"name": "group_relative", "group": 8, "deviation": "population"},
}


def config_of(name="leave_one_out", **fields):
    estimator = policy_gradients.Config(beta=BETA, **ESTIMATORS[name])
    return Config(estimator=estimator, value=name == "ppo", **fields)


def table(config, key=KEY, scale=1.0):
    """Any policy of a config."""
    rows = (config.vocabulary**config.length - 1) // (config.vocabulary - 1)
    return Params(scale * jax.random.normal(key, (rows, config.vocabulary)))


@functools.cache
def untrained():
    """A model, and the state of any policy with any reference."""
    model = tabular_policy.make(config_of(), optax.adam(0.01))
    reference, policy = (table(config_of(), jax.random.key(k)) for k in (1, 2))
    return model, model.init(KEY, BATCH, params=policy, reference=reference)


def twin(logits, x):
    """log p(x) of one string, stupidly: a dictionary of prefixes, numbered like a heap."""
    total, prefix = 0.0, 0
    for symbol in np.asarray(x):
        total += float(jax.nn.log_softmax(logits[prefix])[symbol])
        prefix = V * prefix + 1 + int(symbol)
    return total


# ----------------------------------------------------------------------------------- the numbers


def test_the_log_probability_is_exact_and_sums_to_1():
    model, state = untrained()
    assert model.log_prob.exactness is Exactness.EXACT
    log_p = model.log_prob(KEY, state, {"x": STRINGS})
    for k in (0, 17, 80):
        assert float(log_p[k]) == pytest.approx(twin(state.params.logits, STRINGS[k]), abs=1e-5)
    assert float(jnp.exp(log_p).sum()) == pytest.approx(1, abs=1e-6)


def test_the_measures_are_the_sums_over_all_strings():
    model, state = untrained()
    log_p = np.array([twin(state.params.logits, x) for x in STRINGS])
    log_q = np.array([twin(state.memory, x) for x in STRINGS])
    reward, p = np.asarray(REWARDS["count"](STRINGS)), np.exp(log_p)
    kl = p @ (log_p - log_q)
    best = BETA * np.log(np.exp(log_q + reward / BETA).sum())
    value = p @ reward - BETA * kl
    exact = {"expected_reward": p @ reward, "kl": kl, "value": value, "gap": best - value}
    assert set(exact) == set(model.measures)
    for name, expected in exact.items():
        got = model.measures[name](KEY, state, BATCH)
        np.testing.assert_allclose(got, np.full(8, expected), rtol=1e-4, err_msg=name)
        assert model.measures[name].exactness is Exactness.EXACT
    assert exact["gap"] > 0.1


def test_after_a_prompt_the_measures_are_those_of_its_own_continuations():
    config = config_of(prompt=2, reward="alternation")
    model = tabular_policy.make(config, optax.adam(0.01))
    state = model.init(KEY, BATCH, params=table(config))
    got = model.measures["value"](KEY, state, BATCH)
    for b, x in enumerate(BATCH["x"]):
        rows = jnp.array([s for s in STRINGS if (s[:2] == x[:2]).all()])
        parts = jnp.array([[twin(state.params.logits, s) for s in rows]])
        log_p = jax.nn.log_softmax(parts[0])  # p(rest | prompt), of p(prompt, rest)
        value = jnp.exp(log_p) @ REWARDS["alternation"](rows) - BETA * (
            jnp.exp(log_p) @ (log_p + 2 * np.log(V))
        )
        assert float(got[b]) == pytest.approx(float(value), abs=1e-4)


def test_the_example_of_three_answers(monkeypatch):
    """q (.5 .3 .2), r (1 0 2), b 1/2: value 1.351155, KL .721790, optimum (.248 .020 .732)."""
    monkeypatch.setitem(REWARDS, "example", lambda x: jnp.array([1.0, 0.0, 2.0])[x[:, 0]])
    config = Config(vocabulary=3, length=1, reward="example", estimator=config_of().estimator)
    model = tabular_policy.make(config, optax.adam(0.05))
    q = Params(jnp.log(jnp.array([[0.5, 0.3, 0.2]])))
    batch = {"x": jnp.zeros((8, 1), jnp.int32)}
    state = model.init(KEY, batch, reference=q)
    at_start = model.measures["gap"](KEY, state, batch)[0]
    assert float(at_start) == pytest.approx(1.351155 - 0.9, abs=1e-5)
    step = lambda state, i: model.step(jax.random.fold_in(KEY, i), state, batch)
    state, _ = jax.jit(lambda s: jax.lax.scan(step, s, jnp.arange(500)))(state)
    np.testing.assert_allclose(
        jax.nn.softmax(state.params.logits[0]), [0.24772, 0.02012, 0.73217], atol=2e-3
    )
    assert float(model.measures["value"](KEY, state, batch)[0]) == pytest.approx(1.351155, abs=1e-4)
    assert float(model.measures["kl"](KEY, state, batch)[0]) == pytest.approx(0.721790, abs=5e-3)


@pytest.mark.parametrize(
    ("reward", "x", "value"),
    [
        ("count", [0, 1, 0, 0], 3),
        ("palindrome", [0, 1, 1, 0], 1),
        ("palindrome", [0, 1, 0, 0], 0),
        ("alternation", [0, 1, 1, 2], 2),
    ],
)
def test_rewards(reward, x, value):
    assert REWARDS[reward](jnp.array([x, x])).tolist() == [value, value]


# ------------------------------------------------------------------------------------- learning


@functools.cache
def source():
    return open_source(Data(source=f"strings:uniform:{V}", length=T, batch_size=16), 0)


def learn(config, tx=None, steps=1000):
    """With Adam at a rate that falls to 0, unless told otherwise."""
    updates = steps * config.estimator.passes * config.estimator.minibatches
    adam = optax.adam(optax.linear_schedule(0.03, 0.0, updates), eps=1e-5)
    model = tabular_policy.make(config, tx or adam)
    state = model.init(KEY, source().batch(KEY, (), jnp.zeros(16)))

    def one(state, i):
        key_data, key_step = jax.random.split(jax.random.fold_in(KEY, i))
        return model.step(key_step, state, source().batch(key_data, (), jnp.zeros(16)))

    state, info = jax.jit(lambda s: jax.lax.scan(one, s, jnp.arange(steps)))(state)
    return model, state, info


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_reaches_the_closed_form(name):
    model, state, info = learn(config_of(name))
    log_q, reward = jnp.full(len(STRINGS), -T * np.log(V)), REWARDS["count"](STRINGS)
    best, value = optimum.optimum(log_q, reward, BETA)
    gap = model.measures["gap"](KEY, state, BATCH)
    assert 0 <= float(gap.max()) + 1e-6 < 0.01 * float(value)
    log_p = model.log_prob(KEY, state, {"x": STRINGS})
    variation = jnp.abs(jnp.exp(log_p) - jnp.exp(best)).sum() / 2
    assert float(variation) < 0.05
    kl = model.measures["kl"](KEY, state, BATCH)
    np.testing.assert_allclose(kl, optimum.divergence(best, log_q), rtol=0.05)
    assert all(np.isfinite(np.asarray(v)).all() for v in info.values())
    # What it was drawn of is what it is judged by.
    assert float(info["mismatch"].max()) < 1e-5
    # The start was far from it.
    far = model.measures["gap"](KEY, model.init(KEY, BATCH), BATCH)
    assert float(far.min()) > 0.3 * float(value)


def test_the_numbers_that_are_logged_are_those_of_the_draws():
    """In the mean over 300 settled steps: reward and KL to the reference, as they are exactly."""
    model, state, info = learn(config_of())
    for name, measure in [("reward", "expected_reward"), ("kl", "kl")]:
        exact = float(model.measures[measure](KEY, state, BATCH)[0])
        assert float(info[name][-300:].mean()) == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("name", ["reinforce", "ppo", "group_relative"])
def test_without_a_learning_rate_nothing_moves(name):
    _, state, info = learn(config_of(name), optax.sgd(0.0), steps=3)
    np.testing.assert_array_equal(state.params.logits, 0)
    np.testing.assert_array_equal(state.memory, 0)
    assert float(info["clipped"].max()) == 0


def test_a_value_function_learns_what_is_to_be_expected():
    """Of the empty prefix, at the optimum: b log Z."""
    _, state, _ = learn(config_of("ppo"))
    _, value = optimum.optimum(
        jnp.full(len(STRINGS), -T * np.log(V)), REWARDS["count"](STRINGS), BETA
    )
    assert float(state.params.values[0]) == pytest.approx(float(value), rel=0.02)


def test_a_policy_learns_after_the_prompts_of_its_data():
    config = config_of(prompt=2, reward="alternation")
    model, state, _ = learn(config)
    assert float(model.measures["gap"](KEY, state, {"x": STRINGS}).max()) < 0.02
    # Of the prompts themselves it has learnt nothing.
    np.testing.assert_array_equal(state.params.logits[: 1 + V], 0)


# ------------------------------------------------------------------------ what it is begun from


def test_a_run_begins_from_another_ones_reference():
    config = config_of()
    model = tabular_policy.make(config, optax.sgd(0.0))
    reference, policy = table(config, jax.random.key(1)), table(config, jax.random.key(2))
    state = model.init(KEY, BATCH, reference=reference)
    np.testing.assert_array_equal(state.params.logits, reference.logits)
    np.testing.assert_array_equal(state.memory, reference.logits)
    state = model.init(KEY, BATCH, reference=reference, params=policy)
    np.testing.assert_array_equal(state.params.logits, policy.logits)
    np.testing.assert_array_equal(state.memory, reference.logits)
    # It stays frozen, and holds the policy: the KL to it is what is charged.
    after, _ = jax.jit(model.step)(KEY, state, BATCH)
    np.testing.assert_array_equal(after.memory, reference.logits)
    assert float(model.measures["kl"](KEY, state, BATCH)[0]) > 0.1
    # A reference that had a value function has the policy alone to give.
    valued = Params(reference.logits, jnp.zeros(len(reference.logits)))
    np.testing.assert_array_equal(model.init(KEY, BATCH, reference=valued).memory, reference.logits)


def test_a_reference_that_does_not_fit_is_refused():
    model, _ = untrained()
    with pytest.raises(ConfigError, match=r"--begin=reference: .*logits.* is \[15, 2\] there"):
        model.init(KEY, BATCH, reference=table(Config(vocabulary=2, length=4)))
    with pytest.raises(ConfigError, match=r"--begin=reference: .*logits.* needs \[40, 3\]"):
        model.init(KEY, BATCH, reference={"weights": jnp.zeros(3)})


# ------------------------------------------------------------------------------------ the samples


def test_samples_are_drawn_as_the_policy_says():
    model, state = untrained()
    n = 20_000
    x = jax.jit(model.sample, static_argnums=2)(KEY, state, n)["x"]
    assert x.dtype == jnp.int32 and x.shape == (n, T)
    number = x @ V ** jnp.arange(T - 1, -1, -1)
    share = jnp.bincount(number, length=len(STRINGS)) / n
    p = jnp.exp(model.log_prob(KEY, state, {"x": STRINGS}))
    assert (jnp.abs(share - p) < 4.5 * jnp.sqrt(p * (1 - p) / n) + 1e-4).all()


def test_a_prompt_is_kept_and_gone_on_with():
    model, state = untrained()
    n = 5000
    given = {"x": jnp.array([2, 0, 0, 0]), "mask": jnp.array([1, 1, 0, 0])}
    x = model.sample(KEY, state, n, given)["x"]
    assert (x[:, :2] == jnp.array([2, 0])).all()
    after = jax.nn.softmax(state.params.logits[V * (V * 0 + 1 + 2) + 1 + 0])
    np.testing.assert_allclose(jnp.bincount(x[:, 2], length=V) / n, after, atol=0.03)
    # Each sample its own prompt; NaN is unknown.
    each = jnp.where(jnp.arange(T) < 1, jnp.arange(6)[:, None] % V, jnp.nan)
    own = model.sample(KEY, state, 6, {"x": each})["x"]
    np.testing.assert_array_equal(own[:, 0], jnp.arange(6) % V)


@pytest.mark.parametrize(
    ("x", "mask", "words"),
    [
        ([0, 0, 0, 0], [0, 1, 0, 0], "what is known of x should come before"),
        ([1.5, 0, 0, 0], [1, 0, 0, 0], r"counts 0 \.\. 2, .*and 1.5 is none"),
        ([V, 0, 0, 0], [1, 0, 0, 0], r"counts 0 \.\. 2, .*and 3 is none"),
        ([-1, 0, 0, 0], [1, 0, 0, 0], r"counts 0 \.\. 2, .*and -1 is none"),
    ],
)
def test_what_is_no_prompt_is_refused(x, mask, words):
    model, state = untrained()
    given = {"x": jnp.array(x), "mask": jnp.array(mask)}
    with pytest.raises(DataError, match=words):
        model.sample(KEY, state, 2, given)
    # Under jit too, where what jax computes of it has no value.
    with pytest.raises(DataError, match=words):
        jax.eval_shape(lambda state: model.sample(KEY, state, 2, given), state)
    with pytest.raises(DataError, match="cannot be told that"):
        model.sample(KEY, state, 2, {"label": 1})


def test_the_best_of_n_is_drawn_as_the_closed_form_says():
    """E[r] and KL of the best of 4 by enumeration, ties and all."""
    model, state = untrained()
    best = tabular_policy.make(dataclasses.replace(config_of(), sample_best_of=4), optax.adam(0.01))
    log_p = model.log_prob(KEY, state, {"x": STRINGS})
    reward = REWARDS["count"](STRINGS)
    exact = jnp.exp(optimum.best_of_n(log_p, reward, 4))
    n = 20_000
    x = jax.jit(best.sample, static_argnums=2)(KEY, state, n)["x"]
    share = jnp.bincount(x @ V ** jnp.arange(T - 1, -1, -1), length=len(STRINGS)) / n
    assert (jnp.abs(share - exact) < 4.5 * jnp.sqrt(exact * (1 - exact) / n) + 1e-4).all()
    assert float(exact @ reward) > float(jnp.exp(log_p) @ reward) + 0.5


# -------------------------------------------------------------------------------- autoregression


@pytest.mark.parametrize("cuts", [(1, 1, 1), (3,), (2, 1), (1, 2), (1, 1, 1, 1), (4,)])
def test_symbols_one_by_one_and_all_at_once_have_the_same_log_probability(cuts):
    model, state = untrained()
    logits, cache = model.autoregression.start(state, len(STRINGS), T)
    every, at = [logits[:, None]], 0
    for size in cuts:
        logits, cache = model.autoregression.extend(state, cache, STRINGS[:, at : at + size])
        assert logits.shape == (len(STRINGS), size, V)
        every.append(logits)
        at += size
    log_p = jax.nn.log_softmax(jnp.concatenate(every, axis=1)[:, :T])
    of_symbols = jnp.take_along_axis(log_p, STRINGS[:, :, None], axis=2)[..., 0]
    np.testing.assert_allclose(
        of_symbols.sum(1), model.log_prob(KEY, state, {"x": STRINGS}), rtol=1e-5
    )
    if at == T:
        # Nothing follows the last symbol.
        np.testing.assert_array_equal(logits[:, -1], 0)


def test_no_more_symbols_than_there_are_and_nothing_that_is_not_known():
    model, state = untrained()
    with pytest.raises(DataError, match=r"length should be 1 \.\. 4, got 5"):
        model.autoregression.start(state, 1, 5)
    with pytest.raises(DataError, match="cannot be told that"):
        model.autoregression.start(state, 1, 4, {"label": 0})


# ------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"reward": "cuont"}, "Did you mean 'count'"),
        ({"vocabulary": 1}, "vocabulary should be at least 2"),
        ({"vocabulary": 10, "length": 5}, r"10\^5 strings are enumerated"),
        ({"prompt": 4}, "prompt should be below length=4, got 4"),
        ({"estimator": {"name": "pop"}}, "Did you mean 'ppo'"),
        ({"estimator": {"group": 1}}, "set group to at least 2"),
        ({"sample_best_of": 0}, r"sample_best_of should be in \[1, 1000000\]"),
    ],
)
def test_bad_configs_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        typed(Config, fields)


def test_strings_of_another_length_are_refused():
    model, _ = untrained()
    with pytest.raises(ConfigError, match=r"shape \(5,\); set config.data.length"):
        model.init(KEY, {"x": jnp.zeros((2, 5), jnp.int32)})


# --------------------------------------------------------------------------- strings, as data


def test_strings_are_drawn_by_their_rule():
    found = source()
    assert found.spaces["x"].size == V and found.symbols["x"] == ("a", "b", "c")
    x = found.batch(KEY, (), jnp.zeros(6000))["x"]
    assert x.shape == (6000, T) and x.dtype == jnp.int32
    assert jnp.abs(jnp.bincount(x.ravel(), length=V) / x.size - 1 / V).max() < 0.02
    held = found.held_out(KEY, 5, 9)["x"]
    np.testing.assert_array_equal(held, found.held_out(jax.random.key(3), 0, 20)["x"][5:9])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("strings:uniform", "such as strings:uniform:3"),
        ("strings:uniform:1", "2 to 26"),
        ("strings:uniform:many", "2 to 26"),
        ("strings:unifrom:3", "Did you mean 'uniform'"),
    ],
)
def test_bad_names_of_strings_are_refused(name, message):
    with pytest.raises(ConfigError, match=message):
        open_source(Data(source=name, length=4), 0)


def test_learnt_parameters_are_the_averaged_ones_where_an_average_is_kept():
    config = dataclasses.replace(config_of(), average=0.9)
    _, state, _ = learn(config, steps=20)
    assert float(jnp.abs(eval_params(state).logits - state.params.logits).max()) > 1e-3


# -------------------------------------------------------------------------------------- a whole run


def test_a_run_is_trained_begun_sampled_and_measured_by_the_commands(tmp_path, capsys):
    """Two runs: the second is held by the policy that the first has learnt, and starts from it."""
    toy, first, second = ROOT / "configs" / "tabular_policy.py", tmp_path / "a", tmp_path / "b"
    fields = ["steps=200", "checkpoint_every=100", "eval_every=100", "sample_every=0", "samples=4"]
    call = lambda *words: main(["genjax-zoo", *words])
    flags = [f"--config.{field}" for field in fields]
    assert call("train", f"--config={toy}:toy", f"--workdir={first}", *flags) == 0
    begun = f"--begin=reference={first}"
    other = "--config.model.reward=alternation"
    assert call("train", f"--config={toy}:toy", f"--workdir={second}", *flags, begun, other) == 0
    lines = lambda folder: [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    learnt = lines(first)[-1]
    assert learnt["test/gap"] < 0.05 * learnt["test/value"]
    # Of the first run's habit, to write 0, the second does not let go at once.
    assert lines(second)[-1]["test/kl"] < 3
    # The best is the one of the highest value, and not the one likest to its data.
    scores = {line["step"]: line["test/value"] for line in lines(first) if "test/value" in line}
    setup = set_up(read(unjson(Workdir(first).read_config())))
    assert trained.restore(setup, Workdir(first), "best")[0] == max(scores, key=scores.get)
    prompt = ["--given=x=[2,0,0,0]", "--given=mask=[1,0,0,0]"]
    assert call("sample", f"--workdir={first}", "--n=5", *prompt) == 0
    assert call("evaluate", f"--workdir={first}", "--measures=gap,expected_reward") == 0
    assert "gap" in capsys.readouterr().out
