"""The 2-D densities: samples, log-densities and entropies agree with each other."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_zoo.contract import ConfigError
from genjax_zoo.data.densities import DENSITIES, gaussians, make

SHAPES = {
    name: jax.eval_shape(lambda d=d: d.sample(jax.random.key(0), 1)).shape
    for name, d in DENSITIES.items()
}
PLANE = [name for name, shape in SHAPES.items() if shape == (1, 2)]
CLOSED = [name for name in PLANE if DENSITIES[name].log_prob is not None]
MIXTURES = [name for name, d in DENSITIES.items() if d.centres is not None]


@pytest.mark.parametrize("name", PLANE)
def test_samples_are_points_of_the_plane_and_a_function_of_the_key(name):
    sample = DENSITIES[name].sample
    x = sample(jax.random.key(3), 1000)
    assert x.shape == (1000, 2) and x.dtype == jnp.float32
    np.testing.assert_array_equal(x, sample(jax.random.key(3), 1000))
    assert jnp.any(x != sample(jax.random.key(4), 1000))
    assert jnp.all(jnp.abs(x) < 6)


@pytest.mark.parametrize("name", CLOSED)
def test_entropy_is_minus_the_mean_log_density_of_samples(name):
    density = DENSITIES[name]
    nats = -np.asarray(density.log_prob(density.sample(jax.random.key(1), 100_000)), np.float64)
    error = nats.std() / math.sqrt(len(nats))
    assert abs(nats.mean() - density.entropy) < 3 * error + 1e-5


@pytest.mark.parametrize(
    ("name", "entropy"),
    [
        ("ring", -4.29302),
        ("grid", 0.06529),
        ("eight_gaussians", 2.83188),
        ("checkerboard", math.log(32)),
    ],
)
def test_entropies_are_those_of_the_references(name, entropy):
    assert abs(DENSITIES[name].entropy - entropy) < 2e-5


@pytest.mark.parametrize("apart", [0.0, 0.5, 3.0, 7.0, 12.0, 20.0])
def test_modes_that_overlap_have_the_entropy_of_the_integral(apart):
    """Two of them, in whatever direction: along the line between them it is one of a number."""
    sigma, e = 0.3, np.linspace(-12, 12, 20_001)
    p = np.exp(-(e**2) / 2) / math.sqrt(2 * math.pi)
    lost = np.sum(p * np.logaddexp(0, -(e * apart + apart**2 / 2))) * (e[1] - e[0])
    centres = 1 + sigma * apart * np.array([[0.0, 0.0], [0.6, 0.8]])
    exact = math.log(2) + math.log(2 * math.pi * math.e * sigma**2) - lost
    assert gaussians(centres, sigma).entropy == pytest.approx(exact, abs=2e-6)


def test_modes_that_coincide_are_one():
    one = math.log(2 * math.pi * math.e * 0.25)
    assert gaussians(np.zeros((5, 2)), 0.5).entropy == pytest.approx(one, abs=1e-9)


@pytest.mark.parametrize(
    ("centres", "sigma"),
    [(np.zeros((0, 2)), 1.0), (np.zeros((3, 3)), 1.0), (np.zeros(2), 1.0), (np.zeros((3, 2)), 0.0),
     (np.zeros((3, 2)), math.nan), (np.full((3, 2), math.inf), 1.0)],
)  # fmt: skip
def test_what_is_no_mixture_is_refused(centres, sigma):
    with pytest.raises(ConfigError, match="of a mixture"):
        gaussians(centres, sigma)


def _plane(name, side=800, reach=5.0):
    """Midpoints [side², 2] of a square grid, the area of a cell, and the log-density there."""
    h = 2 * reach / side
    line = -reach + h * (np.arange(side) + 0.5)
    x = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    return x, h * h, np.asarray(DENSITIES[name].log_prob(jnp.asarray(x)), np.float64)


@pytest.mark.parametrize("name", ["grid", "eight_gaussians", "checkerboard"])
def test_density_integrates_to_one_and_its_entropy_is_the_integral(name):
    _, area, log_p = _plane(name)
    p = np.exp(log_p)
    assert abs(area * p.sum() - 1) < 2e-5
    entropy = -area * np.sum(np.where(p > 0, p * np.maximum(log_p, -1e3), 0))
    assert abs(entropy - DENSITIES[name].entropy) < 1e-4


@pytest.mark.parametrize("name", MIXTURES)
def test_log_density_of_a_mixture_is_the_sum_written_out(name):
    density = DENSITIES[name]
    x = np.asarray(density.sample(jax.random.key(0), 50), np.float64)
    mu, s2 = density.centres.astype(np.float64), density.sigma**2
    p = [
        sum(math.exp(-np.sum((a - m) ** 2) / (2 * s2)) for m in mu) / (len(mu) * 2 * math.pi * s2)
        for a in x
    ]
    np.testing.assert_allclose(density.log_prob(jnp.asarray(x)), np.log(p), atol=2e-3)


@pytest.mark.parametrize("name", MIXTURES)
def test_modes_of_a_mixture_are_visited_alike(name):
    density = DENSITIES[name]
    x = np.asarray(density.sample(jax.random.key(2), 20_000))
    nearest = np.argmin(np.linalg.norm(x[:, None] - density.centres, axis=-1), 1)
    counts, K = np.bincount(nearest, minlength=len(density.centres)), len(density.centres)
    # χ² with K - 1 degrees of freedom: mean K - 1, variance 2 (K - 1)
    chi2 = np.sum((counts - 20_000 / K) ** 2 / (20_000 / K))
    assert chi2 < K - 1 + 5 * math.sqrt(2 * (K - 1))


def test_checkerboard_is_where_its_samples_are():
    density = DENSITIES["checkerboard"]
    x = density.sample(jax.random.key(0), 5000)
    assert jnp.all(jnp.isfinite(density.log_prob(x)))
    # one square over, or outside the board, there is nothing
    assert jnp.all(jnp.isneginf(density.log_prob(x + jnp.array([2.0, 0.0]))))
    assert jnp.all(jnp.isneginf(density.log_prob(x + 8.0)))
    squares = {tuple(map(int, np.floor(a / 2))) for a in np.asarray(x)}
    assert len(squares) == 8


def test_the_geometry_is_the_papers():
    assert np.allclose(np.linalg.norm(DENSITIES["ring"].centres, axis=1), 1)
    assert len(DENSITIES["ring"].centres) == 8 and DENSITIES["ring"].sigma == 0.01
    assert sorted(set(DENSITIES["grid"].centres.ravel())) == [-4, -2, 0, 2, 4]
    assert len(DENSITIES["grid"].centres) == 25 and DENSITIES["grid"].sigma == 0.05
    # FFJORD's toys have about this spread along each axis: half circles of radius 2, doubled
    moons = DENSITIES["two_moons"].sample(jax.random.key(0), 20_000)
    assert np.allclose(moons.mean(0), [0.0, 0.3], atol=0.05)
    spiral = DENSITIES["spiral"].sample(jax.random.key(0), 20_000)
    assert np.allclose(spiral.mean(0), 0, atol=0.06)


def test_an_unknown_density_names_the_nearest_and_lists_all():
    with pytest.raises(ConfigError, match=r"'checkerbord'.*'checkerboard'\?.*two_moons"):
        make("checkerbord")
