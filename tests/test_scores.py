"""Scores of samples: closed forms, stupid twins, and protocols that refuse to be mixed."""

import itertools
import math

import numpy as np
import pytest
import scipy.linalg

from genjax_zoo.contract import DataError, ZooError
from genjax_zoo.measure import distances, scores
from genjax_zoo.measure.extractors import Extractor
from genjax_zoo.measure.scores import compare, of_images

RNG = np.random.default_rng
FLAT = Extractor(
    name="pixels",
    sha256="0" * 64,
    shape=(2, 2, 1),
    preprocessing="as they are",
    features=lambda x: x.reshape(len(x), -1),
    probabilities=lambda x: np.stack([x.mean((1, 2, 3)), 1 - x.mean((1, 2, 3))], 1),
)


def whitened(x):
    """x with mean exactly 0 and covariance exactly I."""
    x = x - x.mean(0)
    return x @ np.linalg.inv(np.linalg.cholesky(np.atleast_2d(np.cov(x, rowvar=False)))).T


# --------------------------------------------------------------------------------------- Frechet


@pytest.mark.parametrize("d, s", [(1, 0.5), (5, 1.0), (8, 3.0)])
def test_frechet_of_two_gaussians(d, s):
    # |mu|^2 + d (1 - s)^2
    mu = RNG(0).normal(size=d)
    a, b = (whitened(RNG(seed).normal(size=(50, d))) for seed in (1, 2))
    found = distances.frechet_distance(a, mu + s * b, draws=10)
    assert found.value == pytest.approx(mu @ mu + d * (1 - s) ** 2, rel=1e-9, abs=1e-9)
    assert found.low <= found.value <= found.high


def test_frechet_against_the_matrix_square_root_of_the_product():
    a, b = (RNG(s).normal(size=(40, 6)) @ RNG(s + 9).normal(size=(6, 6)) for s in (0, 1))
    (mu_a, C_a), (mu_b, C_b) = distances.moments(a), distances.moments(b)
    root = scipy.linalg.sqrtm(C_a @ C_b).real
    expected = np.sum((mu_a - mu_b) ** 2) + np.trace(C_a + C_b - 2 * root)
    assert distances.frechet(mu_a, C_a, mu_b, C_b) == pytest.approx(expected, rel=1e-9)


def test_frechet_of_fewer_examples_than_dimensions():
    x = RNG(0).normal(size=(10, 30))
    mean, covariance = distances.moments(x)
    assert distances.frechet(mean, covariance, mean, covariance) == pytest.approx(0, abs=1e-10)
    assert distances.frechet(mean, covariance, mean + 2, covariance) == pytest.approx(120)


def test_the_frechet_interval_covers_what_other_samples_give():
    draw = lambda seed: (
        RNG(seed).normal(size=(300, 4)),
        0.5 + RNG(seed + 999).normal(size=(300, 4)),
    )
    one = distances.frechet_distance(*draw(0))
    others = [distances.frechet_distance(*draw(s), draws=2).value for s in range(1, 41)]
    width = one.high - one.low
    assert 0.5 < width / (4 * np.std(others)) < 2


# ---------------------------------------------------------------------------------------- kernel


def test_the_kernel_distance_is_unbiased_for_the_closed_form():
    # k(x, y) = (x.y / d + 1)^3, N(0, I_8) against a shift of squared norm 4: 2.796875.
    shift = np.full(8, math.sqrt(4 / 8))
    found = [
        distances.kernel_distance(
            RNG(s).normal(size=(400, 8)), shift + RNG(10**6 + s).normal(size=(400, 8)), draws=1
        ).value
        for s in range(60)
    ]
    error = np.std(found, ddof=1) / math.sqrt(len(found))
    assert error < 0.05
    assert abs(np.mean(found) - 2.796875) < 4 * error


def test_the_kernel_distance_against_loops():
    a, b = RNG(0).normal(size=(7, 3)), RNG(1).normal(size=(5, 3)) + 1
    k = lambda x, y: (x @ y / 3 + 1) ** 3
    expected = (
        np.mean([k(x, y) for x, y in itertools.permutations(a, 2)])
        + np.mean([k(x, y) for x, y in itertools.permutations(b, 2)])
        - 2 * np.mean([k(x, y) for x in a for y in b])
    )
    assert distances.kernel_distance(a, b).value == pytest.approx(expected, rel=1e-12)


def test_the_kernel_distance_may_be_negative_and_its_interval_holds_zero():
    same = [
        distances.kernel_distance(RNG(s).normal(size=(200, 4)), RNG(s + 99).normal(size=(200, 4)))
        for s in range(20)
    ]
    assert min(e.value for e in same) < 0
    assert sum(e.low <= 0 <= e.high for e in same) >= 17


def test_blocks_change_nothing(monkeypatch):
    a, b = RNG(0).normal(size=(57, 3)), RNG(1).normal(size=(43, 3))
    told = lambda: (
        distances.kernel_distance(a, b, draws=5),
        *distances.precision_recall(a, b, draws=5),
        *distances.density_coverage(a, b, draws=5),
        *distances.memorisation(a, b, a[:20], draws=5),
    )
    whole = told()
    monkeypatch.setattr(distances, "BLOCK", 10)
    np.testing.assert_allclose(told(), whole, rtol=1e-9)


# -------------------------------------------------------------------------------- inception style


def test_the_inception_score_between_its_limits():
    sure = np.eye(10)[RNG(0).permutation(np.repeat(np.arange(10), 50))]
    assert distances.inception_score(sure).value == pytest.approx(10)
    assert distances.inception_score(np.full((50, 10), 0.1)).value == pytest.approx(1)
    assert distances.inception_score(np.eye(10)[np.zeros(50, int)]).value == pytest.approx(1)


def test_the_inception_score_against_loops():
    p = RNG(0).dirichlet(np.ones(4), 30)
    marginal = p.mean(0)
    nats = np.mean(
        [sum(q * math.log(q / m) for q, m in zip(row, marginal, strict=True)) for row in p]
    )
    found = distances.inception_score(p)
    assert found.value == pytest.approx(math.exp(nats))
    assert found.low < found.value < found.high


# ------------------------------------------------------------------------------------- manifolds


def _stupid_radius(x, i, k):
    return sorted(math.dist(x[i], y) for j, y in enumerate(x) if j != i)[k - 1]


@pytest.mark.parametrize("shift", [0.0, 1.0, 50.0])
def test_precision_recall_density_coverage_against_loops(shift):
    real, fake = RNG(0).normal(size=(23, 2)), RNG(1).normal(size=(31, 2)) + shift
    inside = lambda point, x, i, k: math.dist(point, x[i]) <= _stupid_radius(x, i, k)
    some = lambda points, x, k: np.mean(
        [any(inside(p, x, i, k) for i in range(len(x))) for p in points]
    )
    precision, recall = distances.precision_recall(real, fake, k=3)
    assert precision.value == pytest.approx(some(fake, real, 3))
    assert recall.value == pytest.approx(some(real, fake, 3))
    density, coverage = distances.density_coverage(real, fake, k=5)
    balls = [[inside(p, real, i, 5) for i in range(len(real))] for p in fake]
    assert density.value == pytest.approx(np.sum(balls) / (5 * len(fake)))
    assert coverage.value == pytest.approx(np.mean(np.any(balls, axis=0)))


def test_a_collapsed_sampler_is_precise_and_covers_nothing():
    real = RNG(0).normal(size=(300, 2))
    fake = np.tile(real[:1] * 0.9, (300, 1))
    precision, recall = distances.precision_recall(real, fake)
    _, coverage = distances.density_coverage(real, fake)
    assert precision.value == 1 and recall.value == 0 and coverage.value < 0.1


def test_good_samples_are_dense_and_cover():
    # Naeem et al. 2020: the expectation of density is 1, that of coverage 1 - 2^-k.
    real, fake = RNG(0).normal(size=(2000, 3)), RNG(1).normal(size=(2000, 3))
    density, coverage = distances.density_coverage(real, fake, k=5)
    assert abs(density.value - 1) < 0.05 and abs(coverage.value - (1 - 2**-5)) < 0.02


# ---------------------------------------------------------------------------------- memorisation


def test_copies_are_found_and_fresh_samples_are_not():
    train, held, fresh = (RNG(s).normal(size=(n, 4)) for s, n in enumerate((2000, 500, 500)))
    memorised, auc = distances.memorisation(train, held, fresh)
    assert memorised.low <= 0.05 <= memorised.high and auc.low <= 0.5 <= auc.high
    memorised, auc = distances.memorisation(train, held, train[:500] + 1e-6)
    assert memorised.value == 1 and auc.value == 1
    # A tenth of copies among fresh ones.
    mixed = np.concatenate([fresh[:450], train[:50]])
    memorised, auc = distances.memorisation(train, held, mixed)
    assert memorised.low > 0.05 and 0.5 < auc.value < 0.65


def test_the_auc_against_loops():
    train, held, fake = (np.round(RNG(s).normal(size=(9, 1)), 1) for s in range(3))
    near = lambda x: min(math.dist(x, t) for t in train)
    rank = lambda a, b: 0.5 if math.isclose(a, b, abs_tol=1e-12) else float(a < b)
    expected = np.mean([rank(near(f), near(h)) for f in fake for h in held])
    _, auc = distances.memorisation(train, held, fake)
    # Distances of rounded numbers tie only up to rounding.
    assert auc.value == pytest.approx(expected, abs=0.05)


# ------------------------------------------------------------------------------------- diversity


def test_diversity_against_loops_and_its_ends():
    x, y = RNG(0).normal(size=(9, 3, 3, 1)), RNG(1).normal(size=(8, 3, 3, 1))
    spread = lambda z: np.mean([np.linalg.norm(a - b) for a, b in itertools.permutations(z, 2)])
    assert distances.diversity(x, y) == pytest.approx(spread(x) / spread(y))
    assert distances.diversity(np.repeat(x[:1], 5, 0), y) == pytest.approx(0, abs=1e-7)
    text = RNG(2).integers(0, 3, (6, 10))
    hamming = np.mean([np.mean(a != b) for a, b in itertools.permutations(text, 2)])
    other = RNG(3).integers(0, 9, (6, 10))
    far = np.mean([np.mean(a != b) for a, b in itertools.permutations(other, 2)])
    assert distances.diversity(text, other) == pytest.approx(hamming / far)
    assert math.isnan(distances.diversity(x[:1], y)) and math.isnan(distances.diversity(x, y[:1]))
    assert math.isnan(distances.diversity(x, np.zeros((4, 3))))


# -------------------------------------------------------------------------------------- protocol


def images(seed, n=60):
    return RNG(seed).random((n, 2, 2, 1))


def test_every_score_carries_its_protocol():
    told = of_images(FLAT, images(0), images(1, 50), images(2), data="noise", split="test")
    assert [s.name for s in told] == list(scores.OF_FEATURES)
    for score in told:
        assert score.low <= score.value <= score.high
        assert score.protocol.n_samples == 50 and score.protocol.extractor == "pixels"
        assert score.protocol.sha256 == FLAT.sha256 and score.protocol.preprocessing
        assert "fid" not in score.name.lower() and "FID" not in score.protocol.method
        assert score.protocol.n_real == (0 if "inception" in score.name else 60)
        assert score.protocol.n_train == (
            60 if "memorised" in score.name or "auc" in score.name else 0
        )


def test_what_the_arrays_do_not_allow_is_left_out():
    blind = FLAT._replace(probabilities=None)
    names = [s.name for s in of_images(blind, images(0), images(1), data="", split="")]
    assert names == [
        "frechet_distance",
        "kernel_distance",
        "precision",
        "recall",
        "density",
        "coverage",
    ]
    told = of_images(FLAT, images(0), images(1), data="", split="", only=["recall"])
    assert [s.name for s in told] == ["recall"]


def test_scores_of_one_protocol_can_be_compared():
    real = images(0, 200)
    told = [
        of_images(FLAT, real, fake, data="noise", split="test", only=["frechet_distance"])[0]
        for fake in (images(1, 200), images(2, 200), images(3, 200) * 0.5)
    ]
    near = compare(told[0], told[1])
    far = compare(told[2], told[0])
    assert near.low <= 0 <= near.high and not near.apart
    assert far.low > 0 and far.apart
    assert far.value == pytest.approx(told[2].value - told[0].value)
    back = compare(told[0], told[2])
    assert (back.low, back.high) == pytest.approx((-far.high, -far.low))


@pytest.mark.parametrize(
    "field, value",
    [
        ("n_real", 61),
        ("n_samples", 61),
        ("split", "validation"),
        ("sha256", "1" * 64),
        ("extractor", "inception"),
        ("preprocessing", "resized"),
        ("parameters", "k = 4"),
        ("data", "other"),
    ],
)
def test_scores_of_different_protocol_cannot(field, value):
    (a,) = of_images(FLAT, images(0), images(1), data="noise", split="test", only=["recall"])
    b = a._replace(protocol=a.protocol._replace(**{field: value}))
    with pytest.raises(ZooError, match=f"(?s)differ in {field}: .*{value}"):
        compare(a, b)


def test_other_measures_cannot_be_compared():
    told = of_images(FLAT, images(0), images(1), data="noise", split="test")
    with pytest.raises(ZooError, match="differ in name"):
        compare(told[0], told[1])


def test_too_few_examples_and_samples_that_are_no_numbers():
    with pytest.raises(DataError, match="at least 4 real and 4 fake"):
        distances.precision_recall(np.zeros((3, 2)), np.zeros((9, 2)))
    with pytest.raises(DataError, match="expected features"):
        distances.frechet_distance(np.zeros((3, 2)), np.zeros((9, 3)))
    broken = images(1)
    broken[3] = np.nan
    with pytest.raises(DataError, match="not finite"):
        of_images(FLAT, images(0), broken, data="", split="")
