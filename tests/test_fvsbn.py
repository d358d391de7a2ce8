"""The fully visible sigmoid belief network against enumeration, and its order of pixels."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax_zoo.contract import ConfigError, DataError, Exactness
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


# ------------------------------------------------------------------------- symbol after symbol


def logits_of(model, state, x, parts):
    """The logits [n, D, 2] of all pixels x [n, D], read in parts of these lengths."""
    first, cache = model.autoregression.start(state, len(x), x.shape[1])
    extend, found, at = jax.jit(model.autoregression.extend), [first[:, None]], 0
    for part in parts:
        logits, cache = extend(state, cache, x[:, at : at + part])
        found, at = [*found, logits], at + part
    return jnp.concatenate(found, 1)


@pytest.mark.parametrize("parts", [(1,) * 6, (6,), (2, 1, 3), (1, 5)], ids=str)
def test_reading_in_parts_at_once_and_log_prob_agree(model, parts):
    state, x = some_state(model), EVERYTHING.reshape(64, 6).astype(jnp.int32)
    logits = logits_of(model, state, x, parts)
    assert logits.shape == (64, 7, 2)
    each = jnp.take_along_axis(jax.nn.log_softmax(logits[:, :6]), x[..., None], -1)[..., 0]
    nats = model.log_prob(KEY, state, {"x": EVERYTHING})
    np.testing.assert_allclose(each.sum(1), nats, rtol=1e-5, atol=1e-5)
    # After the last pixel there is none, which is said by even odds.
    np.testing.assert_array_equal(logits[:, 6], 0)


def test_pixels_that_were_forgotten_leave_nothing(model):
    state, x = some_state(model), EVERYTHING.reshape(64, 6).astype(jnp.int32)
    _, cache = model.autoregression.start(state, 64, 6)
    once, _ = model.autoregression.extend(state, cache, x)
    _, cache = model.autoregression.extend(state, cache, x[::-1])
    count = jnp.arange(64) % 7
    cache = model.autoregression.rewind(cache, count)
    kept = jnp.arange(6) < 6 - count[:, None]
    again, _ = model.autoregression.extend(state, cache, jnp.where(kept, -1, x))
    mixed, _ = model.autoregression.extend(
        state, model.autoregression.start(state, 64, 6)[1], jnp.where(kept, x[::-1], x)
    )
    np.testing.assert_allclose(again[~kept], mixed[~kept], atol=1e-5)
    assert not np.allclose(again[~kept], once[~kept])


def test_what_follows_a_pixel_is_not_asked_of_the_later_ones(model):
    """The gradient of the logits after pixel t is zero in all pixels after it, and nowhere else."""
    state = some_state(model)
    zeros, rows = jnp.zeros((1, 6)), []
    for t in range(5):
        at = lambda x, t=t: logits_of(model, state, x, (6,))[0, t + 1, 1]
        rows.append(np.asarray(jax.grad(at)(zeros))[0] != 0)
    np.testing.assert_array_equal(rows, np.tri(5, 6, dtype=bool))


def test_drawn_by_the_samplers_own_noise_it_is_the_samplers_draw(model):
    state, n = some_state(model), 500
    x = model.sample(KEY, state, n)["x"].reshape(n, 6)
    noise = jax.random.logistic(KEY, (6, n))
    logits, cache = model.autoregression.start(state, n, 6)
    drawn = []
    for i in range(6):
        drawn.append((logits[:, 1] - logits[:, 0] > noise[i]).astype(jnp.int32))
        after, cache = model.autoregression.extend(state, cache, drawn[-1][:, None])
        logits = after[:, 0]
    np.testing.assert_array_equal(jnp.stack(drawn, 1), x)


def test_drawn_one_by_one_it_has_the_enumerated_frequencies(model):
    """... and those of `sample` therefore, after a prompt too: of three pixels each, here."""
    state, n = some_state(model, scale=0.7), 40_000
    prompt = jnp.tile(jnp.array([1, 0, 1], jnp.int32), (n, 1))
    _, cache = model.autoregression.start(state, n, 6)
    logits, cache = model.autoregression.extend(state, cache, prompt)
    logits, places = logits[:, -1], 0
    for i in range(3):
        drawn = jax.random.categorical(jax.random.key(i), logits).astype(jnp.int32)
        places = 2 * places + np.asarray(drawn)
        after, cache = model.autoregression.extend(state, cache, drawn[:, None])
        logits = after[:, 0]
    p = np.exp(model.log_prob(KEY, state, {"x": EVERYTHING}))[0b101000:0b110000]
    p /= p.sum()
    given = {"x": np.array([1, 0, 1, 0, 0, 0.0]).reshape(SHAPE), "mask": np.arange(6) < 3}
    given["mask"] = given["mask"].reshape(SHAPE)
    x = np.asarray(model.sample(KEY, state, n, given)["x"]).reshape(n, 6)
    assert (x[:, :3] == [1, 0, 1]).all()
    for own in (places, (x[:, 3:] @ [4, 2, 1]).astype(int)):
        error = 5 * np.sqrt(p * (1 - p) / n)
        assert np.all(np.abs(np.bincount(own, minlength=8) / n - p) < error)


def test_each_sample_may_have_a_prompt_of_its_own(model):
    state = some_state(model)
    x = np.full((3, 6), np.nan, np.float32)
    x[0, :2], x[2, :6] = (1, 0), (0, 1, 0, 1, 0, 1)
    drawn = model.sample(KEY, state, 3, {"x": x.reshape(3, *SHAPE)})["x"].reshape(3, 6)
    known = ~np.isnan(x)
    np.testing.assert_array_equal(np.asarray(drawn)[known], x[known])
    # What is not known is drawn as it would be anyway, where nothing is known before it.
    np.testing.assert_array_equal(drawn[1], model.sample(KEY, state, 3)["x"].reshape(3, 6)[1])


def test_what_is_no_prompt_is_refused_under_jit_too(model):
    state = some_state(model)
    hole = np.array([1, np.nan, 1, np.nan, np.nan, np.nan], np.float32).reshape(SHAPE)
    for given, why in (
        ({"x": hole}, "goes on from its beginning"),
        (
            {"x": np.full(SHAPE, 0.5), "mask": np.eye(1, 6).reshape(SHAPE)},
            "should be numbers that are 0 or 1",
        ),
        ({"label": 3}, "unknown given 'label'"),
        ({"x": np.zeros(SHAPE)}, "which leaves nothing to draw"),
        ({"x": np.zeros((2, 2))}, r"got the shape \[2, 2\]"),
    ):
        with pytest.raises(DataError, match=why):
            jax.jit(lambda key, given=given: model.sample(key, state, 2, given))(KEY)
    with pytest.raises(DataError, match=r"length should be 1 \.\. 6, got 7"):
        model.autoregression.start(state, 2, 7)


def test_bad_configs_are_refused():
    with pytest.raises(ConfigError, match="average"):
        fvsbn.Config(average=1.0)
