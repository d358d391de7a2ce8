"""Mode coverage against samplers whose answer is known."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_zoo.contract import DataError
from genjax_zoo.densities import DENSITIES
from genjax_zoo.measure.modes import PERFECT, coverage, report


@pytest.mark.parametrize("name", ["ring", "grid"])
def test_perfect_samples_cover_all_and_score_what_the_plane_allows(name):
    density, n = DENSITIES[name], 50_000
    modes = coverage(density.sample(jax.random.key(0), n), density)
    assert modes.covered == len(density.centres)
    error = math.sqrt(PERFECT * (1 - PERFECT) / n)
    assert abs(modes.high_quality - PERFECT) < 4 * error
    assert abs(PERFECT - 0.98889) < 1e-5
    assert 0 <= modes.reverse_kl < len(density.centres) / n * 2


def test_a_collapsed_sampler_has_one_mode_and_the_largest_divergence():
    density = DENSITIES["ring"]
    modes = coverage(jnp.tile(jnp.asarray(density.centres[3]), (100, 1)), density)
    assert modes.covered == 1 and modes.high_quality == 1
    assert abs(modes.reverse_kl - math.log(8)) < 1e-6
    np.testing.assert_array_equal(modes.counts, [0, 0, 0, 100, 0, 0, 0, 0])


def test_three_sigma_is_where_quality_ends():
    density = DENSITIES["ring"]
    inside, outside = (density.centres[0] + [0, d * 0.01] for d in (2.99, 3.01))
    assert coverage(jnp.asarray([inside], jnp.float32), density).covered == 1
    assert coverage(jnp.asarray([outside], jnp.float32), density).covered == 0


def test_samples_far_from_every_mode_still_belong_to_the_nearest():
    density = DENSITIES["ring"]
    modes = coverage(jnp.asarray(1.2 * density.centres), density)
    assert modes.covered == 0 and modes.high_quality == 0
    assert abs(modes.reverse_kl) < 1e-6


def test_the_report_carries_its_protocol():
    density = DENSITIES["ring"]
    told = report(density.sample(jax.random.key(0), 2500), density, "ring")
    assert told["modes_covered"]["value"] == 8
    for entry in told.values():
        assert entry["n"] == 2500 and entry["unit"] and "98.889" in entry["protocol"]


def test_a_density_without_modes_is_refused():
    with pytest.raises(DataError, match="centres"):
        coverage(jnp.zeros((4, 2)), DENSITIES["checkerboard"])
