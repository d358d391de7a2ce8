"""`staged`: whose turn it is, what it logs, what it begins from, and what it puts down."""

import inspect
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct

from genjax_zoo.contract import ConfigError, Model, Sometimes
from genjax_zoo.learn.state import Staged, TrainState, eval_params, of_params, settle
from genjax_zoo.learn.verbs import Stage, descend, staged

KEY = jax.random.key(0)
BATCH = {"x": jnp.arange(8.0).reshape(4, 2)}
ADAM = optax.adam(0.1)


@struct.dataclass
class Mean:
    """The parameters of a model of two numbers."""

    value: jax.Array


def mean_model(traces=None, name="", extra=None, tx=ADAM, average=0.5, size=2):
    """Descends to the mean of the data, with noise of its key; counts its traces by name."""

    def init(key, batch):
        return Mean(jnp.zeros(size)), ()

    def loss(key, params, memory, batch):
        if traces is not None:
            traces.append(name)
        noise = 0.01 * jax.random.normal(key, params.value.shape)
        value = jnp.sum((params.value + noise - batch["x"].mean(0)[:size]) ** 2)
        return value, (memory, dict(extra or {}))

    sample = lambda key, params, n, given=None: {"x": jnp.broadcast_to(params.value, (n, size))}
    return Model(*descend(init, loss, tx, average), sample=of_params(sample))


def plain(key, below, batch):
    return batch


def two(steps=(2, 3), traces=None, begin=None, **fields):
    """Two stages of the same model, the second of which learns from what the first has left."""

    def rest(key, below, batch):
        return {"x": batch["x"] - eval_params(below[0]).value}

    stages = [
        Stage("first", mean_model(traces, "first", **fields), steps[0], plain),
        Stage("second", mean_model(traces, "second", **fields), steps[1], rest, begin),
    ]
    return staged(stages)


class Walk(NamedTuple):
    states: list
    infos: list


def walk(init_step, count, between=lambda state, step: state, **begun):
    init, step = init_step
    step = jax.jit(step)
    states, infos = [init(KEY, BATCH, **begun)], []
    for i in range(count):
        state, info = step(jax.random.fold_in(KEY, i), between(states[-1], i), BATCH)
        states.append(state)
        infos.append(info)
    return Walk(states, infos)


def same(a, b):
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        jax.tree.leaves(jax.tree.map(jnp.array_equal, a, b))
    )


# ------------------------------------------------------------------------------- whose turn it is


def test_stages_learn_in_turn_and_the_last_goes_on():
    states, infos = walk(two(), 8)
    assert [int(info["stage"]) for info in infos] == [0, 0, 1, 1, 1, 1, 1, 1]
    assert all(info["stage"].shape == () for info in infos)
    for t, info in enumerate(infos):
        for k in range(2):
            assert same(states[t].states[k], states[t + 1].states[k]) == (k != int(info["stage"]))
    assert int(states[-1].count) == 8


def test_a_stage_learns_what_it_would_have_learnt_alone():
    """The first stage's steps are those of its model, with the keys that a stage is given."""
    states, _ = walk(two(), 2)
    model = mean_model()
    key_init = jax.random.split(jax.random.fold_in(KEY, 0))[1]
    state = model.init(key_init, BATCH)
    for i in range(2):
        key_step = jax.random.split(jax.random.fold_in(KEY, i))[1]
        state, _ = jax.jit(model.step)(key_step, state, BATCH)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(states[-1].states[0]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_a_stage_sees_what_the_earlier_one_learnt():
    states, infos = walk(two(), 3)
    first = eval_params(states[2].states[0]).value
    key_step = jax.random.split(jax.random.fold_in(KEY, 2))[1]
    noise = 0.01 * jax.random.normal(key_step, (2,))
    expected = jnp.sum((noise - (BATCH["x"].mean(0) - first)) ** 2)
    np.testing.assert_allclose(infos[2]["second/loss"].value, expected, rtol=1e-5)


def test_a_stage_of_no_steps_is_passed_over():
    for steps, turns in [((0, 3), [1, 1, 1]), ((2, 0, 1), [0, 0, 2, 2])]:
        begun = []

        def begin(own, below, begun=begun):
            begun.append(len(below))
            return own

        stages = [Stage(f"s{k}", mean_model(), n, plain, begin=begin) for k, n in enumerate(steps)]
        states, infos = walk(staged(stages), len(turns))
        assert [int(info["stage"]) for info in infos] == turns
        passed = steps.index(0)
        assert same(states[0].states[passed], states[-1].states[passed])
        assert all(float(info[f"s{passed}/loss"].said) == 0 for info in infos)


def test_a_stage_may_be_a_function_of_the_states_below_it():
    """The second one's target is what the first has learnt, frozen at its end."""

    def toward(below):
        def init(key, batch):
            return Mean(eval_params(below[0]).value), ()

        def loss(key, params, memory, batch):
            return jnp.sum((params.value - 2 * eval_params(below[0]).value) ** 2), ((), {})

        return Model(*descend(init, loss, optax.sgd(0.25)), sample=None)

    stages = [Stage("first", mean_model(), 3, plain), Stage("second", toward, 1, plain)]
    states, _ = walk(staged(stages), 30)
    target = 2 * eval_params(states[-1].states[0]).value
    np.testing.assert_allclose(states[-1].states[1].params.value, target, rtol=1e-5)


def test_a_stage_may_be_staged_itself():
    inner = Model(*two(steps=(1, 1)), sample=None)
    stages = [Stage("outer", inner, 2, plain), Stage("last", mean_model(), 1, plain)]
    states, infos = walk(staged(stages), 4, between=settle)
    speaks = lambda info: {
        name for name, said in info.items() if isinstance(said, Sometimes) and bool(said.said)
    }
    assert [speaks(info) for info in infos] == [
        {"outer/first/loss", "outer/stage"},
        {"outer/second/loss", "outer/stage"},
        {"last/loss"},
        {"last/loss"},
    ]
    kept = walk(staged(stages), 4).states[-1]
    assert same(eval_params(states[-1]), eval_params(kept))


# ---------------------------------------------------------------------------------- what is logged


def test_all_stages_log_under_their_names_in_their_time_and_never_nan():
    fields = {"extra": {"one": jnp.float32(1.0), "often": Sometimes(jnp.ones(()), jnp.array(True))}}
    _, infos = walk(two(**fields), 5)
    names = {
        f"{stage}/{what}" for stage in ("first", "second") for what in ("loss", "one", "often")
    }
    for t, info in enumerate(infos):
        assert set(info) == {*names, "stage"}
        for name in names:
            assert isinstance(info[name], Sometimes)
            assert bool(info[name].said) == name.startswith("first" if t < 2 else "second")
        assert np.isfinite(jax.tree.leaves(info)).all()


def test_what_a_stage_leaves_out_stays_left_out():
    silent = {"extra": {"rare": Sometimes(jnp.ones(()), jnp.array(False))}}
    _, infos = walk(two(**silent), 3)
    assert not any(
        bool(info[f"{stage}/rare"].said) for info in infos for stage in ("first", "second")
    )


# ----------------------------------------------------------------------------- tracing, compiling


def test_each_stage_is_traced_once_and_all_are_compiled_once():
    traces, outer = [], []
    init, step = two(traces=traces)

    @jax.jit
    def counted(key, state, batch):
        outer.append(1)
        return step(key, state, batch)

    state = init(KEY, BATCH)
    traces.clear()
    for i in range(6):
        state, _ = counted(jax.random.fold_in(KEY, i), state, BATCH)
    assert traces == ["first", "second"]
    assert len(outer) == 1


# ------------------------------------------------------------------------------------- settling


def arrays(state):
    return sum(leaf.size for leaf in jax.tree.leaves(state) if hasattr(leaf, "size"))


def test_settling_drops_finished_optimizers_and_nothing_else():
    states, _ = walk(two(), 4)
    assert settle(states[1], 1) is not None
    assert same(settle(states[1], 1), states[1])
    done = settle(states[2], 2)
    assert done.states[0].optimizer == () and done.finished == 1
    assert done.states[0].params is states[2].states[0].params
    assert done.states[0].average is states[2].states[0].average
    assert same(done.states[1], states[2].states[1])
    assert arrays(done) == arrays(states[2]) - arrays(states[2].states[0].optimizer)
    assert same(eval_params(done), eval_params(states[2]))
    # The last stage goes on for ever.
    assert settle(states[4], 1000).states[1].optimizer != ()
    # Shapes alone will do, for what a checkpoint is read into.
    shapes = jax.eval_shape(lambda: states[2])
    assert jax.tree.structure(settle(shapes, 2)) == jax.tree.structure(done)
    # What is not staged is left alone.
    assert settle(states[2].states[0], 100) is states[2].states[0]


def test_settled_steps_are_the_same_bits_and_compile_once_more():
    traces = []
    init, step = two(steps=(2, 2), traces=traces, begin=lambda own, below: own)
    compiled, every = jax.jit(step), []
    states = {"kept": init(KEY, BATCH), "settled": init(KEY, BATCH)}
    traces.clear()
    for i in range(6):
        states["settled"] = settle(states["settled"], i)
        for which, state in states.items():
            states[which], info = compiled(jax.random.fold_in(KEY, i), state, BATCH)
            every.append({name: said for name, said in info.items() if "first" not in name})
        assert same(eval_params(states["kept"]), eval_params(states["settled"]))
        assert same(states["kept"].states[1], states["settled"].states[1])
        assert same(every[-1], every[-2])
    assert compiled._cache_size() == 2
    # A finished stage is not traced again.
    assert traces == ["first", "second", "second"]


# ------------------------------------------------------------------------- begun from other runs


def test_the_signature_shows_the_stages():
    assert list(inspect.signature(two()[0]).parameters) == ["key", "batch", "first", "second"]


def test_a_stage_begins_from_another_runs_parameters():
    init, _ = two()
    learnt = Mean(jnp.array([3.0, -1.0]))
    state = init(KEY, BATCH, second=learnt)
    assert isinstance(state, Staged) and isinstance(state.states[1], TrainState)
    np.testing.assert_array_equal(state.states[1].params.value, learnt.value)
    np.testing.assert_array_equal(state.states[0].params.value, 0)
    assert state.begun.tolist() == [False, True]
    fresh = init(KEY, BATCH)
    assert jax.tree.structure(fresh) == jax.tree.structure(state)


@pytest.mark.parametrize("average", [0.0, 0.5])
def test_what_a_stage_was_begun_from_outlives_its_begin(average):
    """`begin` would start from the stage below; it still does where nothing else was asked for."""

    def begin(own, below):
        return own.replace(params=Mean(below[0].params.value + 10), optimizer=own.optimizer)

    fields = {"begin": begin, "tx": optax.sgd(0.0), "average": average}
    learnt = Mean(jnp.array([3.0, -1.0]))
    begun, _ = walk(two(**fields), 4, second=learnt)
    np.testing.assert_array_equal(begun[-1].states[1].params.value, learnt.value)
    np.testing.assert_allclose(eval_params(begun[-1].states[1]).value, learnt.value, rtol=1e-6)
    fresh, _ = walk(two(**fields), 4)
    np.testing.assert_array_equal(fresh[-1].states[1].params.value, 10)


def test_wrong_names_and_shapes_are_refused():
    init, _ = two()
    with pytest.raises(ConfigError, match=r"stage to --begin 'frist'\. Did you mean 'first'"):
        init(KEY, BATCH, frist=Mean(jnp.zeros(2)))
    with pytest.raises(ConfigError, match=r"--begin=second: .value is \[3\] there, .* needs \[2\]"):
        init(KEY, BATCH, second=Mean(jnp.zeros(3)))
    with pytest.raises(ConfigError, match=r"--begin=first: .value is absent there"):
        init(KEY, BATCH, first={"value": jnp.zeros(2)})
    closed = Model(lambda key, batch: TrainState(()), None, sample=None)
    init, _ = staged([Stage("only", closed, 1, plain)])
    with pytest.raises(ConfigError, match="only: this stage begins from no run"):
        init(KEY, BATCH, only=Mean(jnp.zeros(2)))
