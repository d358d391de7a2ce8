"""NADE against enumeration and a product of plain networks, in any order of the pixels."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax_zoo.contract import ConfigError, DataError, Exactness
from genjax_zoo.models import nade

KEY = jax.random.key(0)
SHAPE = (2, 2, 1)
EVERYTHING = jnp.array(list(itertools.product((0.0, 1.0), repeat=4))).reshape(-1, *SHAPE)
ORDERS = [(), (2, 0, 3, 1)]
"""Row by row, and one that is not its own inverse."""


def made(order=(), everything=EVERYTHING, scale=1.5):
    """A model, and a state of large weights, in which every pixel has a say."""
    model = nade.make(nade.Config(hidden=5, order=order), optax.adam(0.05))
    state = model.init(KEY, {"x": everything})
    leaves, tree = jax.tree.flatten(state.params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    drawn = [scale * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    return model, state.replace(params=jax.tree.unflatten(tree, drawn))


@pytest.mark.parametrize("order", [*itertools.permutations(range(4)), ()], ids=str)
def test_exact_and_sums_to_one_in_any_order(order):
    model, state = made(order)
    assert model.log_prob.exactness is Exactness.EXACT
    nats = model.log_prob(KEY, state, {"x": EVERYTHING})
    assert nats.shape == (16,) and np.std(nats) > 1
    np.testing.assert_allclose(jnp.exp(nats).sum(), 1, rtol=1e-5)


@pytest.mark.parametrize("order", [(), tuple(np.random.RandomState(0).permutation(12).tolist())])
def test_twelve_pixels_sum_to_one(order):
    """Of twelve the gradient keeps blocks of three, which four have none of."""
    everything = jnp.array(list(itertools.product((0.0, 1.0), repeat=12))).reshape(-1, 3, 4, 1)
    model, state = made(order, everything)
    nats = model.log_prob(KEY, state, {"x": everything})
    np.testing.assert_allclose(jnp.exp(nats).sum(), 1, rtol=1e-4)


def stupid(params, order, x):
    """log p of one x [D], each pixel by a network of its own with the whole sum in it."""
    order, total = order or tuple(range(x.size)), 0.0
    sigmoid = lambda t: 1 / (1 + jnp.exp(-t))
    for i, pixel in enumerate(order):
        before = sum((x[order[j]] * params.into[j] for j in range(i)), jnp.zeros(5))
        on = sigmoid(params.bias[i] + params.out[i] @ sigmoid(params.hidden_bias + before))
        total += jnp.log(jnp.where(x[pixel] == 1, on, 1 - on))
    return total


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_log_prob_and_its_gradient_are_those_of_the_stupid_product(order):
    model, state = made(order)
    x = EVERYTHING[jnp.array([0, 5, 11, 14])]
    ours = lambda p: model.log_prob(KEY, state.replace(params=p), {"x": x})
    theirs = lambda p: jnp.stack([stupid(p, order, each.reshape(4)) for each in x])
    np.testing.assert_allclose(ours(state.params), theirs(state.params), rtol=1e-4)
    own, plain = (jax.grad(lambda p, f=f: f(p).sum())(state.params) for f in (ours, theirs))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), own, plain)
    # Nothing comes after the last pixel.
    assert not own.into[-1].any() and own.into[:-1].all()


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("parts", [(1,) * 4, (4,), (2, 1, 1), (1, 3)], ids=str)
def test_reading_in_parts_at_once_and_log_prob_agree(order, parts):
    model, state = made(order)
    x = EVERYTHING.reshape(16, 4)[:, np.array(order or range(4))].astype(jnp.int32)
    first, cache = model.autoregression.start(state, 16, 4)
    extend, found, at = jax.jit(model.autoregression.extend), [first[:, None]], 0
    for part in parts:
        logits, cache = extend(state, cache, x[:, at : at + part])
        found, at = [*found, logits], at + part
    logits = jnp.concatenate(found, 1)
    assert logits.shape == (16, 5, 2)
    each = jnp.take_along_axis(jax.nn.log_softmax(logits[:, :4]), x[..., None], -1)[..., 0]
    nats = model.log_prob(KEY, state, {"x": EVERYTHING})
    np.testing.assert_allclose(each.sum(1), nats, rtol=1e-5, atol=1e-5)
    # After the last pixel there is none, which is said by even odds.
    np.testing.assert_array_equal(logits[:, 4], 0)


def frequencies(x):
    return np.bincount((np.asarray(x).reshape(-1, 4) @ [8, 4, 2, 1]).astype(int), minlength=16)


def alike(counts, p):
    n = counts.sum()
    return np.all(np.abs(counts / n - p) <= 5 * np.sqrt(p * (1 - p) / n))


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_draws_have_the_enumerated_frequencies_after_a_prompt_too(order):
    (model, state), n = made(order, scale=1.0), 40_000
    p = np.exp(model.log_prob(KEY, state, {"x": EVERYTHING}))
    x = model.sample(KEY, state, n)["x"]
    assert x.shape == (n, *SHAPE) and x.dtype == jnp.float32
    assert alike(frequencies(x), p)
    # What comes first in this order is known: 1, then 0.
    begun = np.full(4, np.nan, np.float32)
    begun[list(order or range(4))[:2]] = 1, 0
    known = ~np.isnan(begun)
    x = np.asarray(model.sample(KEY, state, n, {"x": begun.reshape(SHAPE)})["x"]).reshape(n, 4)
    assert (x[:, known] == begun[known]).all()
    agrees = (np.asarray(EVERYTHING).reshape(16, 4)[:, known] == begun[known]).all(1)
    assert agrees.sum() == 4
    assert alike(frequencies(x), p * agrees / p[agrees].sum())


def test_each_sample_may_have_a_prompt_of_its_own():
    model, state = made()
    x = np.full((3, 4), np.nan, np.float32)
    x[0, :2], x[2] = (1, 0), (0, 1, 0, 1)
    drawn = np.asarray(model.sample(KEY, state, 3, {"x": x.reshape(3, *SHAPE)})["x"]).reshape(3, 4)
    known = ~np.isnan(x)
    np.testing.assert_array_equal(drawn[known], x[known])
    # What is not known is drawn as it would be anyway, where nothing is known before it.
    np.testing.assert_array_equal(drawn[1], model.sample(KEY, state, 3)["x"].reshape(3, 4)[1])


def test_learning_nears_the_network_that_drew_the_data():
    model, truth = made(scale=1.0)
    drawn = {"x": model.sample(KEY, truth, 4000)["x"]}
    step, state = jax.jit(model.step), model.init(KEY, drawn)
    for i in range(400):
        state, info = step(jax.random.fold_in(KEY, i), state, drawn)
    reached, entropy = (model.log_prob(KEY, s, drawn).mean() for s in (state, truth))
    # No more than a table of 15 free probabilities could pass the truth by, 15 / 2 / 4000.
    assert -0.002 < reached - entropy < 0.006
    np.testing.assert_allclose(info["loss"], -reached, atol=1e-3)


def test_grey_values_have_no_probability():
    model, state = made()
    nats = model.log_prob(KEY, state, {"x": EVERYTHING / 2})
    assert nats[0] > -jnp.inf and jnp.all(nats[1:] == -jnp.inf)


def test_what_is_no_prompt_is_refused_under_jit_too():
    model, state = made()
    other, turned = made((3, 2, 1, 0))
    beginning = np.array([1, 0, np.nan, np.nan], np.float32).reshape(SHAPE)
    for one, of, given, why in (
        (model, state, {"x": beginning[::-1]}, "goes on from its beginning"),
        (other, turned, {"x": beginning}, "goes on from its beginning"),
        (model, state, {"x": beginning / 2}, "should be numbers that are 0 or 1"),
        (model, state, {"label": 3}, "unknown given 'label'"),
    ):
        with pytest.raises(DataError, match=why):
            jax.jit(lambda key, a=one, s=of, g=given: a.sample(key, s, 2, g))(KEY)
    with pytest.raises(DataError, match=r"length should be 1 \.\. 4, got 5"):
        model.autoregression.start(state, 2, 5)


def test_bad_configs_are_refused():
    for fields in ({"hidden": 0}, {"order": (-1, 0)}):
        with pytest.raises(ConfigError, match=next(iter(fields))):
            nade.Config(**fields)
    for order in ((1, 0), (0, 1, 2, 2), (1, 2, 3, 4)):
        model = nade.make(nade.Config(order=order), optax.adam(0.1))
        with pytest.raises(ConfigError, match=r"order should hold 0 .. 3, each once"):
            model.init(KEY, {"x": EVERYTHING})
