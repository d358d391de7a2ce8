"""The verbs against their rules written out, and what each of them begins from."""

import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct

from genjax_zoo.contract import ConfigError, DataError
from genjax_zoo.learn.state import TrainState, eval_params, of_params
from genjax_zoo.learn.verbs import contrast, descend, em, play, reinforce
from genjax_zoo.maths import games
from genjax_zoo.maths.sequences import policy_gradients as pg
from genjax_zoo.maths.sequences.policy_gradients import Attempts

KEY = jax.random.key(0)
BATCH = {"x": jnp.arange(6.0).reshape(3, 2)}


@struct.dataclass
class Params:
    """Of a model of two numbers."""

    a: jax.Array


def fresh(key, batch, frozen=None):
    """Parameters at 1, and a memory that can be begun: what is frozen, or nothing."""
    return Params(jnp.ones(2)), jnp.zeros(2) if frozen is None else frozen.a


def quadratic(key, params, memory, batch):
    return jnp.sum((params.a - batch["x"].mean(0)) ** 2), (memory, {})


def test_what_is_no_batch_of_the_model_is_said_wherever_it_is_read():
    init, step = descend(fresh, quadratic, optax.sgd(0.1))
    state = init(KEY, BATCH)
    log_prob = of_params(lambda key, params, batch: params.a.sum() + batch["x"].sum(1))
    for read in (step, jax.jit(step), log_prob):
        with pytest.raises(DataError, match="should hold 'x', and this one holds 'image'; put"):
            read(KEY, state, {"image": BATCH["x"]})
    for read in (step, log_prob):
        with pytest.raises(DataError, match=r"got ArrayImpl \[3, 2\]; put it under its name"):
            read(KEY, state, BATCH["x"])
    # What is missing of the parameters is no matter of the batch's.
    broken = of_params(lambda key, params, batch: {}[0])
    with pytest.raises(KeyError):
        broken(KEY, state, BATCH)


@pytest.mark.parametrize(
    ("batch", "telling"),
    [
        (np.zeros((3, 2), np.float32), r"got ndarray \[3, 2\]; put it under its name: {\"x\": x}"),
        ([[0.0, 1.0]], "got list; put it under"),
        ({"x": [[0.0, 1.0]]}, "'x' is list; make an array of all examples of it"),
        ({"x": jnp.zeros(())}, "'x' is ArrayImpl; make an array of all examples"),
        ({"x": np.zeros((3, 2), np.uint8)}, "'x' is uint8; make it float32 .* such as x / 255"),
        ({"x": np.zeros((3, 2), bool)}, "'x' is bool; make it float32"),
        ({"x": np.zeros((3, 2)), "label": np.zeros(2, int)}, r"agree on B.*'x': 3, 'label': 2"),
        ({"x": np.zeros((0, 2))}, "or hold nothing: {'x': 0}"),
        ({"x": np.array(["a"])}, "'x' is <U1; make an array of all examples"),
        ({}, "or hold nothing: {}"),
    ],
)
def test_what_is_no_batch_is_told_what_one_is(batch, telling):
    """Before a network sees it, whatever the verb; labels may be of any integers."""
    init, _ = descend(fresh, quadratic, optax.sgd(0.1))
    with pytest.raises(DataError, match=telling):
        init(KEY, batch)
    init(KEY, {**BATCH, "label": np.zeros(3, np.uint8)})


def policy_verb(tx=None, **fields):
    """A policy of one symbol of two: the logits are a, and a first symbol is worth 1."""
    config = pg.Config(**{"name": "reinforce", "group": 1, "baseline": 0.0, **fields})
    symbols = lambda logits, x: jax.nn.log_softmax(logits)[x]

    def attempt(key, params, memory, batch):
        x = batch["symbol"]
        return Attempts({"x": x}, symbols(params.a, x), jnp.ones(x.shape)), memory

    return reinforce(
        fresh,
        attempt,
        lambda key, params, memory, attempts: symbols(params.a, attempts["x"]),
        lambda key, params, memory, attempts: (1.0 - attempts["x"][:, 0], {}),
        tx or optax.sgd(0.1),
        pg.make(config),
    )


VERBS = {
    "descend": lambda: descend(fresh, quadratic, optax.sgd(0.1)),
    "play": lambda: play(
        lambda key, batch, frozen=None: (
            {"one": fresh(key, batch)[0]},
            fresh(key, batch, frozen)[1],
        ),
        lambda key, params, memory, batch: (
            {"one": jnp.sum(params["one"].a ** 2)},
            (memory, {}),
        ),
        optax.sgd(0.1),
        games.simultaneous(),
    ),
    "contrast": lambda: contrast(
        fresh,
        lambda params, x: x @ params.a,
        lambda key, params, memory, batch: (batch["x"], memory),
        optax.sgd(0.1),
        lambda key, params, memory, batch: (batch["x"], memory),
    ),
    "em": lambda: em(fresh, lambda key, params, batch: (batch["x"].sum(0), {}), Params),
    "reinforce": policy_verb,
}


# --------------------------------------------------------------------- what they are begun from


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_declares_what_it_is_begun_from(verb):
    init, _ = VERBS[verb]()
    assert list(inspect.signature(init).parameters) == ["key", "batch", "params", "frozen"]
    learnt, frozen = Params(jnp.array([3.0, -1.0])), Params(jnp.array([5.0, 6.0]))
    other = {"one": learnt} if verb == "play" else learnt
    state = init(KEY, BATCH, params=other, frozen=frozen)
    assert isinstance(state, TrainState)
    np.testing.assert_array_equal(jax.tree.leaves(eval_params(state))[0], learnt.a)
    np.testing.assert_array_equal(state.memory, frozen.a)
    plain = init(KEY, BATCH)
    np.testing.assert_array_equal(jax.tree.leaves(eval_params(plain))[0], 1)
    np.testing.assert_array_equal(plain.memory, 0)
    assert jax.tree.structure(plain) == jax.tree.structure(state)


@pytest.mark.parametrize("verb", VERBS)
def test_what_does_not_fit_is_refused_in_one_sentence(verb):
    init, _ = VERBS[verb]()
    wrong = Params(jnp.zeros(3))
    with pytest.raises(ConfigError, match=r"--begin=params: .*\.a is \[3\] there, .* needs \[2\]"):
        init(KEY, BATCH, params={"one": wrong} if verb == "play" else wrong)
    with pytest.raises(TypeError, match="frozn"):
        init(KEY, BATCH, frozn=wrong)


def test_another_kind_of_parameters_is_refused():
    @struct.dataclass
    class Other:
        a: jax.Array

    init, _ = VERBS["descend"]()
    with pytest.raises(ConfigError, match=r"test_verbs.Other\) is not what .*test_verbs\.Params"):
        init(KEY, BATCH, params=Other(jnp.zeros(2)))


def test_what_is_begun_takes_the_fresh_ones_dtype():
    init, _ = VERBS["descend"]()
    state = init(KEY, BATCH, params=Params(np.array([1.0, 2.0], np.float64)))
    assert state.params.a.dtype == jnp.float32


# ------------------------------------------------------------------------------- the old rules


def test_descend_follows_the_gradient_and_keeps_an_average():
    init, step = descend(fresh, quadratic, optax.sgd(0.1), average=0.75)
    state, theta, mean = init(KEY, BATCH), np.ones(2), np.zeros(2)
    target = np.asarray(BATCH["x"].mean(0))
    np.testing.assert_array_equal(eval_params(state).a, theta)
    for i in range(3):
        state, info = step(KEY, state, BATCH)
        assert float(info["loss"]) == pytest.approx(((theta - target) ** 2).sum(), rel=1e-5)
        theta = theta - 0.1 * 2 * (theta - target)
        mean = 0.75 * mean + 0.25 * theta
        np.testing.assert_allclose(state.params.a, theta, rtol=1e-5)
        np.testing.assert_allclose(eval_params(state).a, mean / (1 - 0.75 ** (i + 1)), rtol=1e-5)


def test_contrast_lowers_the_energy_of_data_and_raises_that_of_the_chain():
    seen, dreamt = jnp.array([[1.0, 2.0]]), jnp.array([[0.5, -1.0], [1.5, 0.0]])
    init, step = contrast(
        fresh,
        lambda params, x: x @ params.a,
        lambda key, params, memory, batch: (dreamt, memory + 1),
        optax.sgd(0.1),
        extra=lambda key, params, batch: (jnp.sum(params.a**2) / 2, {}),
        post_update=lambda params, memory, g, positive, negative: (params, memory + g.a),
        positive=lambda key, params, memory, batch: (seen, memory),
    )
    state, info = step(KEY, init(KEY, BATCH), BATCH)
    g = np.asarray(seen.mean(0) - dreamt.mean(0)) + 1
    np.testing.assert_allclose(state.params.a, 1 - 0.1 * g, rtol=1e-6)
    np.testing.assert_allclose(state.memory, 1 + g, rtol=1e-6)
    gap = (seen.mean(0) - dreamt.mean(0)).sum()
    assert float(info["free_energy_gap"]) == pytest.approx(float(gap), rel=1e-6)


@pytest.mark.parametrize("keep", [1.0, 0.5, 0.0])
def test_em_keeps_as_much_of_old_statistics_as_it_is_told(keep):
    count = lambda key, params, batch: (jnp.append(batch["x"].sum(0), len(batch["x"])), {})
    start = lambda key, batch: (Params(jnp.ones(2)), jnp.zeros(3))
    init, step = em(start, count, lambda s: Params(s[:2] / s[2]), keep)
    state, total = init(KEY, BATCH), np.zeros(3)
    for scale in (1.0, 2.0, 5.0):
        x = scale * BATCH["x"]
        state, _ = step(KEY, state, {"x": x})
        total = keep * total + np.array([*np.asarray(x.sum(0)), 3])
        np.testing.assert_allclose(state.params.a, total[:2] / total[2], rtol=1e-5)


# -------------------------------------------------------------------------------------- reinforce


def test_a_step_of_reinforce_is_the_policy_gradient_in_the_mean():
    """Every outcome of two draws, weighed by its chance: the mean step is lr ∇ E[r]."""
    init, step = policy_verb(name="leave_one_out", group=2)
    begun = Params(jnp.array([0.4, -0.3]))
    p = np.asarray(jax.nn.softmax(begun.a))
    mean, steps = np.zeros(2), jax.jit(step)
    for draws in itertools.product((0, 1), repeat=2):
        batch = {"symbol": jnp.array(draws)[:, None]}
        state, info = steps(KEY, init(KEY, batch, params=begun), batch)
        mean += p[draws[0]] * p[draws[1]] * np.asarray(state.params.a - begun.a)
        assert float(info["reward"]) == pytest.approx(1 - np.mean(draws))
    truth = p[0] * p[1] * np.array([1, -1])
    np.testing.assert_allclose(mean, 0.1 * truth, rtol=1e-4)


def several(passes, minibatches, tx, name="ppo", A=8):
    config = {"name": name, "passes": passes, "minibatches": minibatches, "clip": 0.1}
    init, step = policy_verb(tx, **config)
    batch = {"symbol": jnp.asarray(np.random.default_rng(0).integers(0, 2, (A, 1)))}
    begun = Params(jnp.array([0.4, -0.3]))
    state = init(KEY, batch, params=begun)
    return state, *jax.jit(step)(jax.random.key(1), state, batch), batch


def test_passes_over_minibatches_are_the_loop_written_out():
    rate, clip, A, M, passes = 2.0, 0.1, 8, 2, 3
    state, after, info, batch = several(passes, M, optax.sgd(rate))
    key_order = jax.random.split(jax.random.key(1), 4)[3]
    theta, x = np.asarray(state.params.a, np.float64), np.asarray(batch["symbol"])[:, 0]
    log_softmax = lambda t: t - np.log(np.exp(t).sum())
    old, advantage, clipped = log_softmax(theta)[x], 1.0 - x, []
    for k in range(passes):
        order = np.arange(A)
        if k:
            order = np.asarray(jax.random.permutation(jax.random.fold_in(key_order, k), A))
        for m in range(M):
            rows = order[m::M]
            p = np.exp(log_softmax(theta))
            ratio = np.exp(log_softmax(theta)[x[rows]] - old[rows])
            stuck = np.where(advantage[rows] > 0, ratio > 1 + clip, ratio < 1 - clip)
            slope = ratio * advantage[rows] * ~stuck
            score = np.eye(2)[x[rows]] - p
            theta = theta + rate * (slope[:, None] * score).mean(0)
            clipped.append(np.mean(np.abs(ratio - 1) > clip))
    np.testing.assert_allclose(after.params.a, theta, rtol=1e-4)
    assert float(info["clipped"]) == pytest.approx(np.mean(clipped))
    assert 0 < float(info["clipped"]) < 1


def test_the_first_minibatch_has_ratios_of_exactly_1():
    """Whatever the drawn log-probabilities are: old and new are of one code."""
    seen = []

    def spy(estimator):
        def loss(now, value, known, judged):
            jax.debug.callback(lambda old, new: seen.append((old, new)), known.log_prob, now)
            return estimator.loss(now, value, known, judged)

        return estimator._replace(loss=loss)

    symbols = lambda params, x: jax.nn.log_softmax(params.a * 1.1)[x]
    x = jnp.arange(16)[:, None] % 2
    config = pg.Config(name="ppo", group=1, passes=2, minibatches=4)
    init, step = reinforce(
        fresh,
        lambda key, params, memory, batch: (
            Attempts({"x": x}, symbols(params, x) - 0.25, jnp.ones(x.shape)),
            memory,
        ),
        lambda key, params, memory, attempts: symbols(params, attempts["x"]),
        lambda key, params, memory, attempts: (1.0 - attempts["x"][:, 0], {}),
        optax.sgd(1.0),
        spy(pg.make(config)),
    )
    _, info = jax.jit(step)(KEY, init(KEY, BATCH), BATCH)
    jax.effects_barrier()
    assert len(seen) == 8
    np.testing.assert_array_equal(*seen[0])
    assert all(np.abs(old - new).max() > 1e-3 for old, new in seen[1:])
    # That they were drawn of another policy than the one that learns is said.
    assert float(info["mismatch"]) == pytest.approx(0.25, abs=1e-6)


@pytest.mark.parametrize("name", pg.ESTIMATORS)
def test_without_a_learning_rate_nothing_moves(name):
    """And nothing is clipped: the old log-probabilities are the new ones."""
    group = 2 if pg.ESTIMATORS[name].groups else 1
    init, step = policy_verb(
        optax.sgd(0.0), name=name, group=group, passes=3, minibatches=2, clip=1e-3
    )
    batch = {"symbol": jnp.array([[0], [1], [1], [0], [0], [0], [1], [0]])}
    begun = Params(jnp.array([0.4, -0.3]))
    state, info = jax.jit(step)(KEY, init(KEY, batch, params=begun), batch)
    np.testing.assert_array_equal(state.params.a, begun.a)
    assert float(info["clipped"]) == 0
    assert float(info["mismatch"]) < 1e-6


def test_attempts_that_minibatches_do_not_divide_are_refused():
    with pytest.raises(ConfigError, match=r"3 minibatches do not divide 8 attempts"):
        several(1, 3, optax.sgd(0.1))


def test_rewards_may_be_paid_symbol_by_symbol():
    """[A, T] where they are paid, or [A] at the end: of strings of one chosen symbol the same."""
    x = jnp.array([[0, 0], [1, 0]])
    mask = jnp.array([[1.0, 0.0], [1.0, 0.0]])
    moved = []
    for paid in (lambda x: 1.0 - x[:, 0], lambda x: jnp.array([[1.0, 9.0], [0.0, 9.0]])):
        init, step = reinforce(
            fresh,
            lambda key, params, memory, batch: (
                Attempts({"x": x}, jnp.zeros((2, 2)), mask),
                memory,
            ),
            lambda key, params, memory, a: jax.nn.log_softmax(params.a)[a["x"]],
            lambda key, params, memory, a, paid=paid: (paid(a["x"]), {"own": jnp.ones(())}),
            optax.sgd(0.1),
            pg.make(pg.Config(name="reinforce", group=1)),
        )
        state, info = step(KEY, init(KEY, BATCH), BATCH)
        moved.append(state.params.a)
        assert float(info["reward"]) == 0.5 and float(info["own"]) == 1
    np.testing.assert_array_equal(*moved)
    assert float(jnp.abs(moved[0] - 1).max()) > 0


def test_a_reference_and_a_value_function_are_asked_minibatch_by_minibatch():
    """And the same whatever the number of minibatches is, before anything is learnt."""
    x = jnp.arange(8)[:, None] % 2
    config = {"name": "ppo", "group": 1, "beta": 0.5, "decay": 1.0}
    infos = []
    for minibatches in (1, 4):
        shapes = []

        def value(key, params, memory, attempts, shapes=shapes):
            shapes.append(attempts["x"].shape)
            return jnp.broadcast_to(params.a[1], attempts["x"].shape)

        init, step = reinforce(
            fresh,
            lambda key, params, memory, batch: (
                Attempts({"x": x}, jax.nn.log_softmax(params.a)[x], jnp.ones(x.shape)),
                memory,
            ),
            lambda key, params, memory, a: jax.nn.log_softmax(params.a)[a["x"]],
            lambda key, params, memory, a: (1.0 - a["x"][:, 0], {}),
            optax.sgd(0.0),
            pg.make(pg.Config(minibatches=minibatches, **config)),
            reference=lambda key, params, memory, a: jax.nn.log_softmax(memory)[a["x"]],
            value=value,
        )
        frozen = Params(jnp.array([1.0, 0.0]))
        _, info = step(KEY, init(KEY, BATCH, frozen=frozen), BATCH)
        infos.append(info)
        assert set(shapes) == {(8 // minibatches, 1)}
    for name in infos[0]:
        np.testing.assert_allclose(infos[0][name], infos[1][name], rtol=1e-5, atol=1e-7)
    log_p, log_q = np.log([0.5, 0.5]), np.asarray(jax.nn.log_softmax(jnp.array([1.0, 0.0])))
    np.testing.assert_allclose(infos[0]["kl"], np.mean(log_p - log_q), rtol=1e-5)
    assert float(infos[0]["value_error"]) > 0
