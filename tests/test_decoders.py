"""The likelihoods of decoders: they sum or integrate to one, and draw as they say."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from genjax_zoo.contract import BINARY, REAL, UNIT, ConfigError
from genjax_zoo.maths.probability import distributions, likelihoods

KEY = jax.random.key(0)
KINDS = {
    "bernoulli": likelihoods.make("bernoulli"),
    "gaussian, one variance": likelihoods.make("gaussian", noise_std=0.7),
    "gaussian, a variance a pixel": likelihoods.make("gaussian", variance="diagonal"),
    "gaussian, the network's variance": likelihoods.make("gaussian", "sigmoid", "network", 0.5),
    "discretised logistic": likelihoods.make("discretised_logistic", noise_std=0.2, levels=17),
    "categorical": likelihoods.make("categorical", levels=6),
}


def grid(levels):
    return jnp.arange(levels, dtype=jnp.float32) / (levels - 1)


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("log_scale", [-6.0, -3.0, 0.0, 2.0])
@pytest.mark.parametrize("mean", [-0.3, 0.0, 0.51, 1.4])
def test_discretised_logistic_sums_to_one_and_is_the_difference(levels, log_scale, mean):
    x = grid(levels)[:, None]
    nats = distributions.discretised_logistic(x, jnp.array(mean), jnp.array(log_scale), levels)
    assert jnp.all(jnp.isfinite(nats))
    np.testing.assert_allclose(np.exp(np.asarray(nats, np.float64)).sum(), 1, atol=2e-4)
    # The stupid twin subtracts two distribution functions, in float64.
    edges = (np.arange(levels + 1) - 0.5) / (levels - 1)
    edges[0], edges[-1] = -np.inf, np.inf
    twin = np.diff(stats.logistic.cdf(edges, mean, math.exp(log_scale)))
    np.testing.assert_allclose(np.exp(nats), twin, rtol=2e-3, atol=1e-7)


def test_discretised_logistic_has_gradients_where_a_difference_would_be_zero():
    """A black pixel that the network thinks white, sharply: P is below e^-500, and no float."""
    nats = lambda mean: distributions.discretised_logistic(
        jnp.array([0.25]), mean, jnp.array(-7.0), 17
    )
    value, slope = jax.value_and_grad(nats)(1.0)
    assert -1000 < value < -500
    np.testing.assert_allclose(slope, -math.exp(7.0), rtol=1e-3)


def test_categorical_is_its_table():
    logits = jax.random.normal(KEY, (3, 4, 5))
    k = jnp.array([[0, 4, 2, 1], [1, 1, 0, 3], [4, 4, 4, 4]])
    table = np.log(np.asarray(jax.nn.softmax(logits)))
    stupid = [sum(table[b, d, k[b, d]] for d in range(4)) for b in range(3)]
    np.testing.assert_allclose(distributions.categorical(k / 4, logits), stupid, rtol=1e-5)


def test_levels_are_known_from_what_lies_between():
    x = grid(256)[:, None]
    assert jnp.all(distributions.is_level(x, 256))
    for off in (x + 0.002, x - 0.002, jnp.array([[-1 / 255], [256 / 255], [jnp.nan]])):
        assert not jnp.any(distributions.is_level(off, 256))


@pytest.mark.parametrize("name", ["bernoulli", "discretised logistic", "categorical"])
def test_probabilities_of_all_images_sum_to_one(name):
    """Of two pixels, over every pair of levels."""
    decoder = KINDS[name]
    line = grid(decoder.levels or 2)
    x = jnp.stack(jnp.meshgrid(line, line), -1).reshape(-1, 2)
    f = jax.random.normal(KEY, (1, 2 * decoder.outputs))
    assert jnp.all(decoder.inside(x))
    np.testing.assert_allclose(jnp.exp(decoder.log_prob(None, f, x)).sum(), 1, rtol=1e-4)
    # Grey values of a Bernoulli, and whatever lies between two levels, are no data.
    between = jnp.full((1, 2), 0.43)
    assert decoder.supported(between, jnp.zeros(1)) == -jnp.inf


@pytest.mark.parametrize("name", [name for name in KINDS if name.startswith("gaussian")])
def test_densities_integrate_to_one(name):
    decoder = KINDS[name]
    own = decoder.init(1)
    x = jnp.linspace(-40, 40, 40_001)[:, None]
    f = jax.random.normal(KEY, (1, decoder.outputs))
    density = jnp.exp(decoder.log_prob(own, f, x))
    np.testing.assert_allclose(np.trapezoid(density, x[:, 0]), 1, rtol=1e-4)


@pytest.mark.parametrize("name", KINDS)
def test_draws_have_the_mean_and_the_density_of_the_row(name):
    """The mean of many draws is `mean`, and of -log p(draw) twice: over draws, and over draws of
    another key."""
    decoder, n, size = KINDS[name], 20_000, 3
    own = decoder.init(size)
    f = jax.random.normal(KEY, (1, size * decoder.outputs))
    assert decoder.shape((size,)) == f.shape[1:]
    x = decoder.draw(jax.random.key(1), own, jnp.broadcast_to(f, (n, f.shape[1])))
    assert x.shape == (n, size)
    assert x.dtype == jnp.float32
    assert jnp.all(decoder.inside(x))
    error = 5 * x.std(0) / math.sqrt(n)
    assert jnp.all(jnp.abs(x.mean(0) - decoder.mean(own, f)[0]) < error)
    if decoder.levels:
        # Every level as often as it says
        for level in grid(decoder.levels):
            p = jax.vmap(lambda d, level=level: _of_one(decoder, f, d, level))(jnp.arange(size))
            often = (jnp.abs(x - level) < 1e-4).mean(0)
            assert jnp.all(jnp.abs(often - p) < 5 * jnp.sqrt(p * (1 - p) / n) + 1e-3)


def _of_one(decoder, f, d, level):
    """P(x_d = level), the other dimensions summed out by leaving them out."""
    own = jax.lax.dynamic_slice_in_dim(f, d * decoder.outputs, decoder.outputs, 1)
    return jnp.exp(decoder.log_prob(None, own, jnp.full((1, 1), level))[0])


def test_draws_axes_lead():
    """f [K, B, D n] and x [B, D] -> [K, B], row for row."""
    for decoder in KINDS.values():
        f = jax.random.normal(KEY, (4, 5, 3 * decoder.outputs))
        x = jnp.round(jax.random.uniform(KEY, (5, 3)))
        own = decoder.init(3)
        together = decoder.log_prob(own, f, x)
        assert together.shape == (4, 5)
        for k in range(4):
            np.testing.assert_allclose(together[k], decoder.log_prob(own, f[k], x), rtol=1e-5)


def test_supports():
    assert KINDS["bernoulli"].support is BINARY
    assert KINDS["categorical"].support is KINDS["discretised logistic"].support is UNIT
    assert KINDS["gaussian, one variance"].support is REAL


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "bernouli"},
        {"name": "gaussian", "noise_std": 0.0},
        {"name": "categorical", "levels": 1},
    ],
)
def test_bad_rows_are_refused(fields):
    with pytest.raises(ConfigError):
        likelihoods.make(**fields)
