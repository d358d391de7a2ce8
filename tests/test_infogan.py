"""InfoGAN: the bound on mutual information, the code's layout, and that the code is found."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.scipy import stats

from genjax_zoo import nets
from genjax_zoo.contract import ConfigError, DataError
from genjax_zoo.maths.games import objectives
from genjax_zoo.models import infogan
from genjax_zoo.typed import typed

NET = nets.Network(widths=(16,))
CONFIG = infogan.Config(
    categorical=(3, 2), continuous=2, latents=4, generator=NET, discriminator=NET
)
KEY = jax.random.key(0)


def test_the_posterior_is_the_product_of_its_factors_logarithms_written_out():
    c = infogan.prior(CONFIG, KEY, 5)[:, CONFIG.latents :]
    out = jax.random.normal(KEY, (5, 1 + 5 + 4))
    q = infogan.posterior(CONFIG, out)
    discrete, continuous = infogan.log_posterior(CONFIG, q, c)
    for b in range(5):
        values = [int(jnp.argmax(c[b, :3])), int(jnp.argmax(c[b, 3:5]))]
        logits = [out[b, 1:4], out[b, 4:6]]
        expected = sum(
            float(jnp.log(jax.nn.softmax(v)[k])) for v, k in zip(logits, values, strict=True)
        )
        assert abs(discrete[b] - expected) < 1e-5
        mean, log_variance = out[b, 6:8], out[b, 8:10]
        density = stats.norm.logpdf(c[b, 5:], mean, jnp.exp(log_variance / 2)).sum()
        np.testing.assert_allclose(continuous[b], density, rtol=1e-4)


def test_codes_are_drawn_as_the_prior_says():
    latents = infogan.prior(CONFIG, KEY, 3000)
    one_hot, u = infogan.split(CONFIG, latents[:, CONFIG.latents :])
    for values, drawn in zip(CONFIG.categorical, one_hot, strict=True):
        assert jnp.all(jnp.sum(drawn, 1) == 1)
        np.testing.assert_allclose(drawn.mean(0), 1 / values, atol=0.04)
    assert u.min() >= -1 and u.max() <= 1
    np.testing.assert_allclose(u.std(0), 1 / math.sqrt(3), atol=0.02)
    # The factors are independent of one another, and of z.
    assert np.abs(np.corrcoef(latents[:, [0, 4, 7, 9, 10]].T) - np.eye(5)).max() < 0.07


def test_the_bound_is_the_entropy_where_q_knows_and_nothing_where_it_does_not():
    config = infogan.Config(categorical=(4,), continuous=0)
    c = infogan.prior(config, KEY, 50)[:, config.latents :]
    known = infogan.Posterior((100 * c,), jnp.zeros((50, 0)), jnp.zeros((50, 0)))
    blind = infogan.Posterior((jnp.zeros((50, 4)),), jnp.zeros((50, 0)), jnp.zeros((50, 0)))
    bound = lambda q: jnp.mean(infogan.log_posterior(config, q, c)[0]) + config.entropy
    assert abs(bound(known) - math.log(4)) < 1e-5
    assert abs(bound(blind)) < 1e-5


@pytest.mark.slow
def test_the_code_of_two_clusters_is_found_without_labels():
    """Two clumps, one binary factor: each value of it makes one clump, and Q reads it back."""
    config = infogan.Config(
        categorical=(2,),
        continuous=0,
        latents=2,
        generator=nets.Network(widths=(32,)),
        discriminator=nets.Network(widths=(32,)),
        objective=objectives.Config(r1=0.3),
    )
    model, places = infogan.make(config, optax.adam(2e-3, b1=0.5)), jnp.array([[2.0, 0], [-2, 0]])

    def draw(key):
        y = jax.random.randint(key, (64,), 0, 2)
        return {"x": places[y] + 0.3 * jax.random.normal(key, (64, 2)), "label": y}

    def one(state, i):
        key_step, key_batch = jax.random.split(jax.random.fold_in(KEY, i))
        return model.step(key_step, state, draw(key_batch))

    state = model.init(KEY, draw(KEY))
    state, info = jax.jit(lambda s: jax.lax.scan(one, s, jnp.arange(2000)))(state)
    bound = info["mutual_information_categorical"][-200:].mean()
    assert 0.6 < bound <= math.log(2) + 1e-5
    batch = draw(jax.random.key(9))
    latents = model.latents.encode(KEY, state, batch)
    assert latents.shape == (64, 2 + 2)
    agrees = jnp.mean(jnp.argmax(latents[:, 2:], 1) == batch["label"])
    assert max(agrees, 1 - agrees) > 0.95
    # A sample made from a code is one in which Q sees that code.
    code = jax.nn.one_hot(jnp.arange(50) % 2, 2)
    x = model.sample(jax.random.key(3), state, 50, {"code": code})
    seen = model.latents.encode(KEY, state, x)[:, 2:]
    assert jnp.mean(jnp.argmax(seen, 1) == jnp.argmax(code, 1)) > 0.9


def test_a_code_is_given_whole_or_in_parts():
    n, c = 4, infogan.prior(CONFIG, KEY, 4)[:, CONFIG.latents :]
    given = lambda **parts: np.asarray(infogan.given_code(CONFIG, parts, c))
    np.testing.assert_array_equal(given(), c)
    np.testing.assert_array_equal(given(code=c[::-1]), c[::-1])
    np.testing.assert_array_equal(given(code=c[0]), np.broadcast_to(c[0], (n, 7)))
    # A value of each categorical factor, for all or for each; the rest is as it was drawn.
    one = given(categorical=jnp.array([2, 0]))
    np.testing.assert_array_equal(one[:, :5], np.broadcast_to([0, 0, 1, 1, 0], (n, 5)))
    np.testing.assert_array_equal(one[:, 5:], c[:, 5:])
    each = given(categorical=jnp.array([[0, 0], [1, 1], [2, 0], [0, 1]]))
    np.testing.assert_array_equal(each[:, :3].argmax(1), [0, 1, 2, 0])
    np.testing.assert_array_equal(each[:, 3:5].argmax(1), [0, 1, 0, 1])
    both = given(categorical=jnp.array([1, 1]), continuous=jnp.array([0.5, -0.25]))
    np.testing.assert_array_equal(both, np.broadcast_to([0, 1, 0, 0, 1, 0.5, -0.25], (n, 7)))
    # Where there is but one factor it needs no axis of its own.
    single = infogan.Config(categorical=(3,), continuous=1)
    c = infogan.prior(single, KEY, n)[:, single.latents :]
    made = infogan.given_code(single, {"categorical": 2, "continuous": 0.5}, c)
    np.testing.assert_array_equal(made, np.broadcast_to([0, 0, 1, 0.5], (n, 4)))
    made = infogan.given_code(single, {"categorical": jnp.array([0, 1, 2, 0])}, c)
    np.testing.assert_array_equal(made[:, :3].argmax(1), [0, 1, 2, 0])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kode": 1}, "infogan cannot be told that: .*Did you mean 'code'"),
        ({"code": jnp.zeros(6)}, r"infogan: code should be .*the shape \[7\]"),
        ({"code": jnp.zeros(7), "categorical": jnp.zeros(2)}, "both were given"),
        ({"categorical": [3, 0]}, r"categorical should be counts 0 \.\. 2, .*and 3 is none"),
        ({"categorical": [2, 2]}, r"factor 1 has the values 0 \.\. 1, and 2 is none"),
        ({"categorical": jnp.array([0, -1])}, "categorical should be counts .*and -1 is none"),
        ({"categorical": [0, 1.5]}, "categorical should be counts .*and 1.5 is none"),
        ({"categorical": "a"}, "categorical should be counts .*got 'a'"),
        ({"continuous": [0, jnp.nan]}, "continuous should be real numbers.*and nan is none"),
        ({"categorical": 1}, r"infogan: categorical should be .*the shape \[2\]"),
        ({"continuous": jnp.zeros((3, 2))}, r"or \[4, 2\], got the shape \[3, 2\]"),
    ],
)
def test_codes_that_there_are_not_are_refused(given, message):
    c = infogan.prior(CONFIG, KEY, 4)[:, CONFIG.latents :]
    with pytest.raises(DataError, match=message):
        infogan.given_code(CONFIG, given, c)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"categorical": (1,)}, "infogan: categorical should be at least 2, got 1"),
        ({"categorical": (), "continuous": 0}, "at least one factor"),
        ({"continuous": -1}, "infogan: continuous should be not negative"),
        ({"weight": -1.0}, "infogan: weight should be not negative"),
        ({"weight_continuous": -1.0}, "infogan: weight_continuous should be not negative"),
        ({"objective": {"pack": 2}}, "set objective.pack to 1"),
        ({"latents": 0}, "infogan: latents should be at least 1"),
        ({"average": 1.0}, "infogan: average should be in"),
        ({"prior": "norml"}, "Did you mean 'normal'"),
        (
            {"objective": {"r1": 1.0}, "discriminator": {"normalise": "batch"}},
            "batch norm mixes",
        ),
    ],
)
def test_bad_configs_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        typed(infogan.Config, fields)
