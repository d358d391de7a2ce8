"""The fully visible sigmoid belief network against enumeration, and its order of pixels."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax_zoo.contract import ConfigError, Exactness
from genjax_zoo.models import fvsbn

KEY = jax.random.key(0)
SHAPE = (2, 3, 1)
EVERYTHING = jnp.array(list(itertools.product((0.0, 1.0), repeat=6))).reshape(-1, *SHAPE)


def some_state(model, scale=1.5):
    """A state with weights everywhere, above the diagonal too."""
    state = model.init(KEY, {"x": EVERYTHING})
    keys = jax.random.split(jax.random.key(1), 2)
    p = state.params
    weights = scale * jax.random.normal(keys[0], p.weights.shape)
    bias = scale * jax.random.normal(keys[1], p.bias.shape)
    return state.replace(params=p.replace(weights=weights, bias=bias))


@pytest.fixture
def model():
    return fvsbn.make(fvsbn.Config(), optax.adam(0.05))


def test_exact_and_sums_to_one(model):
    assert model.log_prob.exactness is Exactness.EXACT
    nats = model.log_prob(KEY, some_state(model), {"x": EVERYTHING})
    assert nats.shape == (64,)
    np.testing.assert_allclose(jnp.exp(nats).sum(), 1, rtol=1e-5)


def test_log_prob_is_the_stupid_product(model):
    state = some_state(model)
    w, b = np.asarray(state.params.weights), np.asarray(state.params.bias)
    for x in np.asarray(EVERYTHING.reshape(64, 6))[::7]:
        p = 1.0
        for i in range(6):
            on = 1 / (1 + np.exp(-(b[i] + sum(w[i, j] * x[j] for j in range(i)))))
            p *= on if x[i] else 1 - on
        ours = model.log_prob(KEY, state, {"x": x.reshape(1, *SHAPE)})
        np.testing.assert_allclose(ours, np.log(p), rtol=1e-4)


def test_no_pixel_sees_itself_or_a_later_one(model):
    """The gradient in W is zero on and above the diagonal, and nowhere below."""
    state = some_state(model)
    total = lambda p: model.log_prob(KEY, state.replace(params=p), {"x": EVERYTHING}).sum()
    g = np.asarray(jax.grad(total)(state.params).weights)
    below = np.tril(np.ones((6, 6), bool), -1)
    assert np.all(g[~below] == 0) and np.all(g[below] != 0)


def test_draws_have_the_enumerated_frequencies(model):
    state, n = some_state(model, scale=0.7), 40_000
    x = model.sample(KEY, state, n)["x"]
    assert x.shape == (n, *SHAPE) and x.dtype == jnp.float32
    places = (np.asarray(x).reshape(n, 6) @ 2 ** np.arange(5, -1, -1)).astype(int)
    p = np.asarray(jnp.exp(model.log_prob(KEY, state, {"x": EVERYTHING})))
    error = 5 * np.sqrt(p * (1 - p) / n)
    assert np.all(np.abs(np.bincount(places, minlength=64) / n - p) < error)


def test_learning_finds_the_network_that_drew_the_data(model):
    truth = some_state(model, scale=0.7)
    drawn = {"x": model.sample(KEY, truth, 4000)["x"]}
    state = model.init(KEY, drawn)
    fair = model.log_prob(KEY, state, drawn).mean()
    np.testing.assert_allclose(fair, -6 * np.log(2), rtol=1e-5)
    step = jax.jit(model.step)
    for i in range(300):
        state, info = step(jax.random.fold_in(KEY, i), state, drawn)
    reached, entropy = (model.log_prob(KEY, s, drawn).mean() for s in (state, truth))
    # The maximum of the likelihood passes the truth by about (21 parameters / 2) / 4000 examples.
    assert 0 < reached - entropy < 0.01
    np.testing.assert_allclose(info["loss"], -reached, atol=1e-4)


def test_grey_values_have_no_probability(model):
    grey = {"x": EVERYTHING / 2}
    nats = model.log_prob(KEY, some_state(model), grey)
    assert nats[0] > -jnp.inf and jnp.all(nats[1:] == -jnp.inf)


def test_bad_configs_are_refused():
    with pytest.raises(ConfigError, match="average"):
        fvsbn.Config(average=1.0)
