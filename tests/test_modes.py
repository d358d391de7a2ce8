"""Mode coverage against samplers whose answer is known."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_zoo.contract import DataError
from genjax_zoo.data.densities import DENSITIES
from genjax_zoo.measure.extractors import Extractor
from genjax_zoo.measure.modes import (
    OF_MODES,
    PERFECT,
    classes,
    coverage,
    quick_coverage,
    scores,
    stacked,
)


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


def test_scores_carry_protocol_and_interval():
    density = DENSITIES["ring"]
    x = density.sample(jax.random.key(0), 2500)
    told = {score.name: score for score in scores(x, density, "ring")}
    assert tuple(told) == OF_MODES
    assert told["modes_covered"].value == 8 == told["modes_covered"].low
    for score in told.values():
        assert score.low <= score.value <= score.high and score.unit
        assert score.protocol.n_samples == 2500 and "98.889" in score.protocol.parameters
    # 98.9 % of 2500: a standard error of 0.21 points.
    quality = told["high_quality"]
    assert 0.6 < quality.high - quality.low < 1.1
    modes = coverage(x, density)
    assert quality.value == pytest.approx(100 * float(modes.high_quality), rel=1e-6)
    assert [s.name for s in scores(x, density, "ring", only=["high_quality"])] == ["high_quality"]


def test_a_mode_of_one_sample_may_be_missed_by_the_next():
    density = DENSITIES["ring"]
    x = np.repeat(density.centres[:2], [999, 1], axis=0)
    (score,) = scores(x, density, "ring", only=["modes_covered"])
    assert (score.low, score.value, score.high) == (1, 2, 2)


def test_a_quick_look_sees_what_coverage_sees():
    density = DENSITIES["grid"]
    x = density.sample(jax.random.key(1), 60) + 0.1
    modes = coverage(x, density)
    covered, quality = quick_coverage(np.asarray(x), density)
    assert covered == modes.covered and quality == pytest.approx(float(modes.high_quality))


def test_classes_of_stacked_images():
    # A classifier of one pixel: its class is ten times its grey.
    one_hot = lambda x: np.eye(10)[np.rint(10 * x[:, 0, 0, 0]).astype(int)]
    extractor = Extractor("pixel", "", (1, 1, 1), "", lambda x: x.reshape(len(x), -1), one_hot)
    x = np.array([[0.1, 0.2, 0.3], [0.9, 0.0, 0.5], [0.1, 0.2, 0.3]]).reshape(3, 1, 1, 3)
    label = stacked(x, extractor)
    np.testing.assert_array_equal(label, [321, 509, 321])
    found = classes(label, 1000)
    assert found.covered == 2
    expected = sum(q * math.log(1000 * q) for q in (2 / 3, 1 / 3))
    assert found.reverse_kl == pytest.approx(expected)
    assert classes(np.arange(1000), 1000) == pytest.approx((1000, 0.0))


def test_a_density_without_modes_is_refused():
    with pytest.raises(DataError, match="centres"):
        coverage(jnp.zeros((4, 2)), DENSITIES["checkerboard"])
