"""The study's own statistics: where curves cross, intervals, splits."""

import pathlib
import sys

import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "experiments"))

import discriminative_against_generative as study

SIZES = np.array([10.0, 20.0, 40.0, 80.0])


def test_a_crossing_is_interpolated_in_the_logarithm():
    assert study.crossing(SIZES, np.array([-2.0, -1.0, 1.0, 2.0])) == pytest.approx(20 * 2**0.5)
    assert study.crossing(SIZES, np.array([-2.0, -3.0, 1.0, 2.0])) == pytest.approx(20 * 2**0.75)
    # Only the last one counts, and a curve that turns back has none.
    assert study.crossing(SIZES, np.array([-1.0, 1.0, -1.0, 1.0])) == pytest.approx(40 * 2**0.5)
    for gap in ([1, 2, 3, 4], [-1, -2, -3, -4], [3, 1, -1, -2], [-1, 1, 1, -1]):
        assert np.isnan(study.crossing(SIZES, np.array(gap, float)))


def test_the_bootstrap_covers_and_tells_how_many_cross():
    rng = np.random.default_rng(1)
    truth = np.log(SIZES / 30.0)
    covered = []
    for _ in range(100):
        gaps = truth + rng.normal(size=(30, 4))
        found = study.bootstrap(SIZES, gaps, resamples=300)
        covered.append(found.low <= 30 <= found.high)
    assert 0.85 <= np.mean(covered) <= 1
    assert study.bootstrap(SIZES, np.abs(gaps) + 1, 50).share == 0
    assert study.bootstrap(SIZES, np.tile(truth, (5, 1)), 50).share == 1


def test_an_interval_is_of_the_mean():
    values = np.random.default_rng(0).normal(size=(400, 3)) * [1, 2, 3]
    mean, half = study.interval(values)
    np.testing.assert_allclose(half, 1.96 * values.std(0, ddof=1) / 20)
    np.testing.assert_allclose(mean, values.mean(0))


def test_a_split_is_one_and_begins_with_two_of_each_class():
    y = np.repeat([0, 1, 2], [40, 10, 50])
    train, test = study.split(y, np.random.default_rng(0))
    assert sorted(np.concatenate([train, test])) == list(range(100))
    np.testing.assert_array_equal(np.bincount(y[train[:6]]), [2, 2, 2])
    assert len(test) == 30


def test_padding_changes_no_error():
    each = study.load()["iris"]
    rows = study.split(each.y, np.random.default_rng(0))
    tasks = [study.task(each, rows, n) for n in (10, 60)]
    together = study.generative("LDA", tasks, 3)
    alone = [study.generative("LDA", [t], 3)[0] for t in tasks]
    np.testing.assert_allclose(together, alone)


def test_a_claim_needs_both_ends():
    rng = np.random.default_rng(0)
    ends = lambda first, last: np.stack([first + 0.01 * rng.normal(size=30),
                                         last + 0.01 * rng.normal(size=30)], 1)  # fmt: skip
    assert study.as_claimed(ends(-0.1, 0.1))
    for first, last in ((0.1, 0.2), (-0.1, -0.2), (0.1, -0.1), (0.0, 0.1)):
        assert not study.as_claimed(ends(first, last))
