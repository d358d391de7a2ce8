"""InfoGAN: the bound on mutual information, the code's layout, and that the code is found."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.scipy import stats

from genjax_zoo import nets
from genjax_zoo.contract import ConfigError
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
    told = info["mutual_information_categorical"][-200:].mean()
    assert 0.6 < told <= math.log(2) + 1e-5
    batch = draw(jax.random.key(9))
    latents = model.latents.encode(KEY, state, batch)
    assert latents.shape == (64, 2 + 2)
    agrees = jnp.mean(jnp.argmax(latents[:, 2:], 1) == batch["label"])
    assert max(agrees, 1 - agrees) > 0.95
    # A sample made from a code is one in which Q sees that code.
    code = jax.nn.one_hot(jnp.arange(50) % 2, 2)
    x = model.sample(jax.random.key(3), state, 50, code=code)
    seen = model.latents.encode(KEY, state, x)[:, 2:]
    assert jnp.mean(jnp.argmax(seen, 1) == jnp.argmax(code, 1)) > 0.9


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"categorical": (1,)}, "at least 2 values"),
        ({"categorical": (), "continuous": 0}, "at least one factor"),
        ({"weight": -1.0}, "weight and weight_continuous"),
        ({"objective": {"pack": 2}}, "set objective.pack to 1"),
        ({"latents": 0}, "latents"),
        ({"average": 1.0}, "average"),
    ],
)
def test_bad_configs_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        typed(infogan.Config, fields)
