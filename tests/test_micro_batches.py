"""A batch taken in parts: sums divided by sums, and what cannot be taken so."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax_zoo.contract import ConfigError, Sometimes
from genjax_zoo.learn import micro_batches, optimizers
from genjax_zoo.learn.micro_batches import Mean
from genjax_zoo.learn.verbs import descend
from genjax_zoo.run import config

LENGTHS = np.array([1, 8, 2, 7, 3, 5, 0, 4])


def batch():
    x = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    return {"x": x, "loss_mask": (np.arange(8) < LENGTHS[:, None]).astype(np.float32)}


def of_places(key, params, memory, batch):
    """A loss of places, of which some rows have more than others."""
    each = jnp.tanh(batch["x"] * params["w"] - params["b"]) ** 2
    counted = jnp.sum(batch["loss_mask"])
    some = Sometimes(jnp.sum(batch["x"]), jnp.any(batch["loss_mask"][:, 7] == 1))
    info = {"share": jnp.sum(each * batch["loss_mask"]) / jnp.maximum(counted, 1), "some": some}
    return Mean(jnp.sum(each * batch["loss_mask"]), counted), (memory + 1, info)


def of_examples(key, params, memory, batch):
    _, rest = of_places(key, params, memory, batch)
    each = jnp.tanh(batch["x"] * params["w"] - params["b"]) ** 2
    return jnp.mean(each), rest


PARAMS = {"w": np.linspace(0.1, 2, 8, dtype=np.float32), "b": np.float32(0.3)}


@pytest.mark.parametrize("loss", [of_places, of_examples])
@pytest.mark.parametrize("parts", [2, 8])
def test_parts_add_up_to_the_batch(loss, parts):
    step = lambda k: micro_batches.value_and_grad(loss, k)(
        jax.random.key(0), PARAMS, jnp.int32(3), batch()
    )
    (value, (memory, info)), gradient = step(parts)
    (whole, (memory_whole, info_whole)), expected = step(1)
    np.testing.assert_allclose(value, whole, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), gradient, expected)
    assert memory == memory_whole == 4 and memory.dtype == jnp.int32
    if loss is of_places:
        np.testing.assert_allclose(info["share"], info_whole["share"], rtol=1e-6)
        # The second row alone is of full length, and speaks for the part that it is in.
        assert isinstance(info["some"], Sometimes) and bool(info["some"].said)
        said = batch()["x"][1::parts].sum()
        np.testing.assert_allclose(info["some"].value, said, rtol=1e-4)


def test_a_mean_of_means_would_be_another_number():
    each = [of_places(None, PARAMS, 0, {n: a[m::2] for n, a in batch().items()}) for m in (0, 1)]
    whole = of_places(None, PARAMS, 0, batch())[0].value
    assert abs(np.mean([mean.value for mean, _ in each]) / whole - 1) > 0.05


def test_a_batch_in_which_nothing_counts_teaches_nothing():
    empty = batch() | {"loss_mask": np.zeros((8, 8), np.float32)}
    for parts in (1, 4):
        grad = micro_batches.value_and_grad(of_places, parts)
        (value, _), gradient = grad(jax.random.key(0), PARAMS, 0, empty)
        assert value == 0 and all(not np.any(g) for g in jax.tree.leaves(gradient))


def test_every_part_has_draws_of_its_own():
    def loss(key, params, memory, batch):
        noise = jax.random.normal(key, batch["x"].shape)
        return jnp.mean(noise * params), (memory, {"noise": jnp.sum(noise)})

    one = micro_batches.value_and_grad(loss, 2)(jax.random.key(0), 1.0, (), batch())[0][0]
    key = lambda m: jax.random.normal(jax.random.fold_in(jax.random.key(0), m), (4, 8))
    np.testing.assert_allclose(one, (key(0).mean() + key(1).mean()) / 2, rtol=1e-5)
    assert abs(key(0).mean() - key(1).mean()) > 1e-3


# -------------------------------------------------------------------------- the verb, the config


def optimizer(parts):
    return optimizers.make(optimizers.Config(micro_batches=parts, clip_norm=1.0), 10)


def test_the_step_in_parts_is_the_step():
    init = lambda key, batch: (jax.tree.map(jnp.asarray, PARAMS), jnp.int32(0))
    states = []
    for parts in (1, 4):
        start, step = descend(init, of_places, optimizer(parts), 0.9)
        state = start(jax.random.key(0), batch())
        states.append(step(jax.random.key(1), state, batch())[0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), *states)


def moving(key, params, memory, batch):
    mean = 0.9 * memory["mean"] + 0.1 * jnp.mean(batch["x"])
    return jnp.mean(params * batch["x"]), ({"mean": mean, "first": memory["first"]}, {})


def test_what_is_remembered_of_each_batch_is_refused_and_constants_are_not():
    memory = {"mean": jnp.zeros(()), "first": jnp.ones(3)}
    init = lambda key, batch: (jnp.ones(8), memory)
    start, _ = descend(init, moving, optimizer(2))
    with pytest.raises(ConfigError, match=r"micro_batches=2: this model remembers \['mean'\]"):
        jax.eval_shape(start, jax.random.key(0), batch())
    still = lambda key, params, memory, batch: (moving(key, params, memory, batch)[0], (memory, {}))
    descend(init, still, optimizer(2))[0](jax.random.key(0), batch())
    descend(init, moving, optimizer(1))[0](jax.random.key(0), batch())


def test_a_batch_that_does_not_divide_is_refused():
    start, _ = descend(lambda key, batch: (jnp.ones(8), ()), of_examples, optimizer(3))
    with pytest.raises(ConfigError, match="micro_batches=3 does not divide a batch of 8"):
        start(jax.random.key(0), batch())


def run(family, **model):
    fields = {"model": {"name": family, **model}, "optimizer": {"micro_batches": 2}}
    return config.read(fields)


@pytest.mark.parametrize("family", ["gan", "rbm", "naive_bayes", "dbn", "vq_vae", "tabular_policy"])
def test_what_takes_each_batch_whole_says_so(family):
    with pytest.raises(ConfigError, match=rf"micro_batches=2, but this {family} \(verb \w+\)"):
        run(family)


def test_free_bits_are_of_a_whole_batch():
    own = run("vae", free_bits=0.1)
    model, x = config.make_model(own), np.zeros((8, 4, 4, 1), np.float32)
    with pytest.raises(ConfigError, match="micro_batches=2: free bits are of the mean"):
        jax.eval_shape(model.init, jax.random.key(0), {"x": x})
    assert isinstance(optimizer(2), optax.GradientTransformation)


def strings():
    own = np.random.default_rng(1)
    lengths = np.array([1, 8, 2, 7, 3, 5, 8, 4])[:, None]
    return {
        "x": own.integers(0, 5, (8, 8)).astype(np.int32),
        "document": (np.arange(8) < lengths).astype(np.int32),
        "loss_mask": (own.random((8, 8)) < 0.8).astype(np.float32),
    }


@pytest.mark.parametrize(
    "family, fields, data",
    [
        ("nade", {"hidden": 4}, {"x": (batch()["x"] > 0).astype(np.float32)}),
        ("language_model", {"vocabulary": 5, "context": 8, "layers": 1, "width": 8}, strings()),
    ],
)
def test_a_family_learns_in_parts_what_it_learns_at_once(family, fields, data):
    states = []
    for parts in (1, 4):
        optimizer = {"name": "sgd", "learning_rate": 1.0, "micro_batches": parts}
        own = config.read({"model": {"name": family, **fields}, "optimizer": optimizer})
        model = config.make_model(own)
        state = jax.jit(model.init)(jax.random.key(0), data)
        states.append(jax.jit(model.step)(jax.random.key(1), state, data))
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, *states)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), state.params, states[1][0].params)
    assert max(jax.tree.leaves(moved)) > 1e-3
