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
    "logit-Laplace": likelihoods.make("logit_laplace", noise_std=0.5),
    "logit-Laplace, the network's scale": likelihoods.make("logit_laplace", variance="network"),
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
    assert jnp.all(UNIT.of(256).has(x))
    for off in (x + 0.002, x - 0.002, jnp.array([[-1 / 255], [256 / 255], [jnp.nan]])):
        assert not jnp.any(UNIT.of(256).has(off))


@pytest.mark.parametrize("name", ["bernoulli", "discretised logistic", "categorical"])
def test_probabilities_of_all_images_sum_to_one(name):
    """Of two pixels, over every pair of levels."""
    likelihood = KINDS[name]
    line = grid(likelihood.levels or 2)
    x = jnp.stack(jnp.meshgrid(line, line), -1).reshape(-1, 2)
    f = jax.random.normal(KEY, (1, 2 * likelihood.outputs))
    assert jnp.all(likelihood.inside(x))
    np.testing.assert_allclose(jnp.exp(likelihood.log_prob(None, f, x)).sum(), 1, rtol=1e-4)
    # Grey values of a Bernoulli, and whatever lies between two levels, are no data.
    between = jnp.full((1, 2), 0.43)
    assert not likelihood.inside(between)
    assert likelihood.log_prob(None, f, between) == -jnp.inf


@pytest.mark.parametrize("name", [name for name in KINDS if name.startswith("gaussian")])
def test_densities_integrate_to_one(name):
    likelihood = KINDS[name]
    own = likelihood.init((1,))
    x = jnp.linspace(-40, 40, 40_001)[:, None]
    f = jax.random.normal(KEY, (1, likelihood.outputs))
    density = jnp.exp(likelihood.log_prob(own, f, x))
    np.testing.assert_allclose(np.trapezoid(density, x[:, 0]), 1, rtol=1e-4)


@pytest.mark.parametrize("name", KINDS)
def test_draws_have_the_mean_and_the_density_of_the_row(name):
    """The mean of many draws is `mean`, and every level comes as often as it should; of a
    logit-Laplace it is the median."""
    likelihood, n, size = KINDS[name], 20_000, 3
    own = likelihood.init((size,))
    f = jax.random.normal(KEY, (1, size * likelihood.outputs))
    assert likelihood.shape((size,)) == f.shape[1:]
    x = likelihood.draw(jax.random.key(1), own, jnp.broadcast_to(f, (n, f.shape[1])))
    assert x.shape == (n, size)
    assert x.dtype == jnp.float32
    assert jnp.all(likelihood.inside(x))
    shown = likelihood.mean(own, f)[0]
    if name.startswith("logit"):
        assert jnp.all(jnp.abs((x < shown).mean(0) - 0.5) < 5 * 0.5 / math.sqrt(n))
    else:
        assert jnp.all(jnp.abs(x.mean(0) - shown) < 5 * x.std(0) / math.sqrt(n))
    if likelihood.levels:
        # Every level as often as it says
        for level in grid(likelihood.levels):
            p = jax.vmap(lambda d, level=level: _of_one(likelihood, f, d, level))(jnp.arange(size))
            often = (jnp.abs(x - level) < 1e-4).mean(0)
            assert jnp.all(jnp.abs(often - p) < 5 * jnp.sqrt(p * (1 - p) / n) + 1e-3)


def _of_one(likelihood, f, d, level):
    """P(x_d = level), the other dimensions summed out by leaving them out."""
    own = jax.lax.dynamic_slice_in_dim(f, d * likelihood.outputs, likelihood.outputs, 1)
    return jnp.exp(likelihood.log_prob(None, own, jnp.full((1, 1), level))[0])


def test_draws_axes_lead():
    """f [K, B, D n] and x [B, D] -> [K, B], row for row."""
    for likelihood in KINDS.values():
        f = jax.random.normal(KEY, (4, 5, 3 * likelihood.outputs))
        x = jnp.round(jax.random.uniform(KEY, (5, 3)))
        own = likelihood.init((3,))
        together = likelihood.log_prob(own, f, x)
        assert together.shape == (4, 5)
        for k in range(4):
            np.testing.assert_allclose(together[k], likelihood.log_prob(own, f[k], x), rtol=1e-5)


def test_logit_laplace_is_the_density_of_its_own_draws():
    """On [0, 1] it integrates to the share of draws that fall there."""
    location, scale = 0.4, 0.5
    line = (jnp.arange(20_000) + 0.5) / 20_000
    log_prob = likelihoods.make("logit_laplace").log_prob
    f = jnp.full((len(line), 1), location)
    nats = log_prob(jnp.array(math.log(scale)), f, line[:, None])
    u = 1 / (1 + np.exp(-(location + scale * np.random.default_rng(0).laplace(size=400_000))))
    drawn = (u - 0.1) / 0.8
    for low, high in ((0.0, 1.0), (0.2, 0.5), (0.6, 0.9)):
        inside = (line > low) & (line < high)
        mass = float(jnp.where(inside, jnp.exp(nats), 0).mean())
        assert mass == pytest.approx(((drawn > low) & (drawn < high)).mean(), abs=5e-3)
    assert log_prob(jnp.zeros(()), jnp.array([[0.0]]), jnp.array([[1.2]])) == -jnp.inf


@pytest.mark.parametrize("name", KINDS)
def test_images_are_as_their_numbers_in_a_row(name):
    """f [K, B, H, W, C n] and x [B, H, W, C] are f [K, B, D n] and x [B, D], nothing else."""
    likelihood, shape = KINDS[name], (2, 3, 2)
    f = jax.random.normal(KEY, (4, 5, *likelihood.shape(shape)))
    x = jnp.round(jax.random.uniform(KEY, (5, *shape)))
    own = likelihood.init(shape)
    if own is not None:
        own += jax.random.normal(KEY, own.shape)
    in_a_row = own if own is None or not own.ndim else own.reshape(-1)
    rows = f.reshape(4, 5, -1)
    np.testing.assert_array_equal(
        likelihood.log_prob(own, f, x), likelihood.log_prob(in_a_row, rows, x.reshape(5, -1))
    )
    both = likelihood.sample(KEY, own, f[0], True)
    same = likelihood.sample(KEY, in_a_row, rows[0], True)
    assert set(both) == {"x", "mean"}
    for name, drawn in both.items():
        assert drawn.shape == (5, *shape)
        np.testing.assert_allclose(drawn.reshape(5, -1), same[name], rtol=1e-6)
    alone = likelihood.sample(KEY, own, f[0], False)
    assert set(alone) == {"x"} and jnp.array_equal(alone["x"], both["x"])


def test_a_variance_a_pixel_is_that_pixels():
    likelihood = KINDS["gaussian, a variance a pixel"]
    log_std = jnp.log(jnp.array([[0.1, 1.0], [2.0, 0.5]]))[..., None]
    assert likelihood.init((2, 2, 1)).shape == (2, 2, 1)
    x = jax.random.normal(KEY, (7, 2, 2, 1))
    twin = stats.norm.logpdf(x, 0.3, np.exp(log_std)).sum((1, 2, 3))
    f = jnp.full((7, 2, 2, 1), 0.3)
    np.testing.assert_allclose(likelihood.log_prob(log_std, f, x), twin, rtol=1e-4)
    drawn = likelihood.draw(KEY, log_std, jnp.zeros((20_000, 2, 2, 1)))
    np.testing.assert_allclose(drawn.std(0), jnp.exp(log_std), rtol=0.03)


def test_supports():
    assert KINDS["bernoulli"].space is BINARY
    assert KINDS["logit-Laplace"].space is UNIT
    for name in ("categorical", "discretised logistic"):
        assert KINDS[name].space == UNIT.of(KINDS[name].levels)
    assert KINDS["gaussian, one variance"].space is REAL


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "bernouli"},
        {"name": "logit_laplace", "noise_std": -1.0},
        {"name": "gaussian", "noise_std": 0.0},
        {"name": "categorical", "levels": 1},
    ],
)
def test_bad_rows_are_refused(fields):
    with pytest.raises(ConfigError):
        likelihoods.make(**fields)
