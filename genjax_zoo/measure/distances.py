"""How far samples are from data, as numbers of two clouds of feature vectors.

Floor 5. Pure functions of numpy arrays: `real` [n, D] and `fake` [m, D] are features of held-out
data and of samples; what the features are is the caller's business (extractors.py). All sums are
in float64. Every number comes with a 95 % interval over resamples of the examples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from genjax_zoo.contract import DataError

Vectors = np.ndarray

DRAWS = 200
"""Resamples behind an interval."""
BLOCK = 1000
"""Rows of a matrix of distances that are held at once."""


class Estimate(NamedTuple):
    """A number of a finite sample, with its 95 % interval.

    Attributes:
      value: the number.
      low, high: the 2.5th and 97.5th percentile of its bootstrap distribution, moved so that its
        mean is `value`: a resample holds fewer different examples than the sample, and is biased
        against the sample as the sample is against the truth. The interval therefore tells the
        spread at this number of examples, and not the bias, which belongs to the protocol. Where
        all examples agree (a recall of 0) it has no width, which is no certainty.
    """

    value: float
    low: float
    high: float


def estimate(
    value: float, replicates: np.ndarray, least: float = -math.inf, most: float = math.inf
) -> Estimate:
    """`value` with the interval that its bootstrap replicates [R] give, cut to [least, most]."""
    low, high = np.percentile(replicates, [2.5, 97.5]) + (value - np.mean(replicates))
    return Estimate(float(value), float(max(min(low, value), least)),
                    float(min(max(high, value), most)))  # fmt: skip


def frechet_distance(real: Vectors, fake: Vectors, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """Squared 2-Wasserstein distance of the Gaussians fitted to two clouds (Heusel et al. 2017).

    0 at best. That of finite samples lies above the true one, the more the fewer they are: numbers
    of different n cannot be compared.
    """
    a, b = _vectors(real, fake, at_least=2)
    rng = np.random.default_rng(seed)
    # On a busy machine the threads of matrices this small wait for one another, a hundred times
    # longer than the work takes.
    with threadpool_limits(1):
        again = [
            frechet(*moments(_resampled(rng, a)), *moments(_resampled(rng, b)))
            for _ in range(draws)
        ]
    return estimate(frechet(*moments(a), *moments(b)), np.array(again), least=0.0)


def moments(x: Vectors) -> tuple[np.ndarray, np.ndarray]:
    """Mean [D] and unbiased covariance [D, D] of x [n, D]."""
    return x.mean(0), np.atleast_2d(np.cov(x, rowvar=False))


def frechet(mean_a: np.ndarray, cov_a: np.ndarray, mean_b: np.ndarray, cov_b: np.ndarray) -> float:
    """The squared 2-Wasserstein distance of two Gaussians (Dowson & Landau 1982).

    d² = ‖μ_a - μ_b‖² + tr(C_a + C_b - 2 (C_a^½ C_b C_a^½)^½)
    """
    # The eigenvalues of C_a^½ C_b C_a^½ are the squared singular values of C_a^½ C_b^½: taken from
    # there, small ones keep all their digits, and singular covariances are nothing special.
    cross = np.linalg.svd(_root(cov_a) @ _root(cov_b), compute_uv=False).sum()
    gap = np.sum((mean_a - mean_b) ** 2)
    return float(max(gap + np.trace(cov_a) + np.trace(cov_b) - 2 * cross, 0.0))


def _root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric square root of a positive semidefinite matrix."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def kernel_distance(real: Vectors, fake: Vectors, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """MMD² with the kernel k(x, y) = (x·y / D + 1)³, unbiased (Bińkowski et al. 2018, eq. 4).

    Its mean does not depend on the number of examples, and as an unbiased estimate of something
    that may be 0 it may be negative.
    """
    a, b = _vectors(real, fake, at_least=2)
    rng = np.random.default_rng(seed)
    v, w = (_weights(rng, len(x), draws) for x in (a, b))

    def within(x: Vectors, weights: np.ndarray) -> np.ndarray:
        # Σ_{i≠j} w_i w_j k(x_i, x_j) / Σ_{i≠j} w_i w_j: a pair of an example and its own copy in a
        # resample counts for as little as that of an example and itself.
        own = weights**2
        diagonal = own @ (np.sum(x * x, 1) / x.shape[1] + 1) ** 3
        pairs = weights.sum(1) ** 2 - own.sum(1)
        return (_bilinear(x, x, weights, weights) - diagonal) / pairs

    between = _bilinear(a, b, v, w) / (v.sum(1) * w.sum(1))
    values = within(a, v) + within(b, w) - 2 * between
    return estimate(values[0], values[1:])


def _bilinear(x: Vectors, y: Vectors, v: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Σ_ij v_ri w_rj k(x_i, y_j) for every row r of the weights: [R]."""
    total = np.zeros(len(v))
    for rows in _blocks(len(x)):
        k = (x[rows] @ y.T / x.shape[1] + 1) ** 3
        total += np.sum((v[:, rows] @ k) * w, axis=1)
    return total


def inception_score(probabilities: np.ndarray, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """exp E_x KL(p(y|x) ‖ p(y)), p(y) = E_x p(y|x) (Salimans et al. 2016, section 4).

    Between 1 (all samples alike to the classifier) and K (each sure, all classes alike). It asks
    for recognisable and varied samples; it never looks at the data, nor for variety in a class.

    Args:
      probabilities: p(y|x) [m, K] of the samples.
      draws, seed: of the interval.
    """
    p = np.asarray(probabilities, np.float64)
    w = _weights(np.random.default_rng(seed), len(p), draws) / len(p)
    log = lambda q: np.log(np.maximum(q, 1e-300))
    # E_x KL(p(y|x) ‖ p(y)) = H(E_x p(y|x)) - E_x H(p(y|x))
    marginal = w @ p
    information = w @ np.sum(p * log(p), 1) - np.sum(marginal * log(marginal), 1)
    scores = np.exp(information)
    return estimate(scores[0], scores[1:], least=1.0, most=float(p.shape[1]))


def precision_recall(
    real: Vectors, fake: Vectors, k: int = 3, draws: int = DRAWS, seed: int = 0
) -> tuple[Estimate, Estimate]:
    """Improved precision and recall (Kynkäänniemi et al. 2019, equations 1-3).

    Precision is the fraction of samples within the data's manifold, recall that of the data
    within the samples'. A manifold is the union of the balls about its points, each as wide as
    the distance to the point's k-th neighbour. The intervals are over the points that are counted,
    the manifold held fast.
    """
    a, b = _vectors(real, fake, at_least=k + 1)
    rng = np.random.default_rng(seed)
    counts_fake, _ = balls(b, a, radii(a, k))
    counts_real, _ = balls(a, b, radii(b, k))
    return _mean(counts_fake > 0, rng, draws, 1.0), _mean(counts_real > 0, rng, draws, 1.0)


def density_coverage(
    real: Vectors, fake: Vectors, k: int = 5, draws: int = DRAWS, seed: int = 0
) -> tuple[Estimate, Estimate]:
    """Density and coverage (Naeem et al. 2020, equations 3 and 4).

    Both see the balls about the *data* alone, so that an outlying sample spoils no manifold.
    Density is the mean number of balls that a sample lies in, over k: 1 where samples are as dense
    as the data, and more where they crowd about its modes. Coverage is the fraction of balls that
    hold a sample. Intervals as in `precision_recall`.
    """
    a, b = _vectors(real, fake, at_least=k + 1)
    rng = np.random.default_rng(seed)
    counts, held = balls(b, a, radii(a, k))
    return _mean(counts / k, rng, draws), _mean(held > 0, rng, draws, 1.0)


def radii(x: Vectors, k: int) -> np.ndarray:
    """The distance [n] of each point of x [n, D] to its k-th nearest neighbour, not itself."""
    found = np.empty(len(x))
    for rows, squared in _squared_distances(x, x):
        squared[np.arange(len(squared)), np.arange(len(x))[rows]] = np.inf
        found[rows] = np.sqrt(np.partition(squared, k - 1, axis=1)[:, k - 1])
    return found


def balls(points: Vectors, centres: Vectors, radius: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many balls each point lies in [n], and how many points each ball holds [m]."""
    counts, held = np.empty(len(points)), np.zeros(len(centres))
    for rows, squared in _squared_distances(points, centres):
        inside = squared <= radius**2
        counts[rows] = inside.sum(1)
        held += inside.sum(0)
    return counts, held


QUANTILE = 0.05
"""Held-out examples this near to the training examples are the nearest of their kind."""


def memorisation(
    train: Vectors, held_out: Vectors, fake: Vectors, draws: int = DRAWS, seed: int = 0
) -> tuple[Estimate, Estimate]:
    """Are samples nearer to the training examples than fresh data are?

    For each sample, and for each held-out example, the distance to its nearest training example;
    held-out data are what a sampler of the true distribution would give. Returns

      memorised: the fraction of samples that are nearer than the 5th percentile of the held-out
        distances. Fresh samples give 0.05, copies 1. It sees a few copies among many samples.
      auc: P(a sample is nearer than a held-out example), ties counted half: the Mann-Whitney
        statistic that Meehan et al. 2020 use to test for data-copying. Fresh samples give 1/2,
        copies 1; below 1/2 the samples are farther from the training data than data are (blurred,
        noisy, or simply bad). It sees a shift of all samples.

    Nearness is a sign and no proof: a sampler that makes only the most usual images is near, too.
    """
    near, apart = nearest(fake, train), nearest(held_out, train)
    rng = np.random.default_rng(seed)
    below = lambda d, reference: np.mean(d < np.quantile(reference, QUANTILE))
    again = [below(_resampled(rng, near), _resampled(rng, apart)) for _ in range(draws)]
    memorised = estimate(below(near, apart), np.array(again), 0.0, 1.0)
    v, w = _weights(rng, len(near), draws), _weights(rng, len(apart), draws)
    total = np.zeros(len(v))
    for rows in _blocks(len(near)):
        d = near[rows, None]
        wins = (d < apart) + 0.5 * (d == apart)
        total += np.sum((v[:, rows] @ wins) * w, axis=1)
    auc = total / (len(near) * len(apart))
    return memorised, estimate(auc[0], auc[1:], 0.0, 1.0)


def nearest(x: Vectors, y: Vectors) -> np.ndarray:
    """The distance [n] of each x [n, D] to the nearest of y [m, D]."""
    x, y = _vectors(x, y, at_least=1)
    found = np.empty(len(x))
    for rows, squared in _squared_distances(x, y):
        found[rows] = np.sqrt(squared.min(1))
    return found


def diversity(samples: np.ndarray, data: np.ndarray) -> float:
    """Mean distance between pairs of samples over that between pairs of data.

    1 where samples are as diverse as the data, near 0 where they are one image. The distance is
    Euclid's; of integers (a text) it is the fraction of places that differ. NaN for less than two
    of either, and for data that are all alike.
    """
    if min(len(samples), len(data)) < 2:
        return math.nan
    of_data = _spread(data)
    return _spread(samples) / of_data if of_data else math.nan


def _spread(x: np.ndarray) -> float:
    flat = x.reshape(len(x), -1)
    pairs = len(x) * (len(x) - 1)
    if np.issubdtype(flat.dtype, np.integer):
        return float(sum(np.mean(flat != row, axis=1).sum() for row in flat) / pairs)
    total = 0.0
    centred = np.asarray(flat, np.float64) - flat.mean(0, dtype=np.float64)
    for rows, squared in _squared_distances(centred, centred):
        squared[np.arange(len(squared)), np.arange(len(x))[rows]] = 0.0
        total += np.sqrt(squared).sum()
    return float(total / pairs)


# ------------------------------------------------------------------------------------ the tools


def _vectors(a: Vectors, b: Vectors, at_least: int) -> tuple[Vectors, Vectors]:
    """Both clouds in float64; raises DataError where they do not fit together."""
    a, b = (np.asarray(x, np.float64) for x in (a, b))
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise DataError(f"expected features [n, D] and [m, D], got {a.shape} and {b.shape}.")
    if min(len(a), len(b)) < at_least:
        raise DataError(
            f"this measure needs at least {at_least} real and {at_least} fake examples, got "
            f"{len(a)} and {len(b)}; take more."
        )
    return a, b


def _blocks(n: int) -> Iterator[slice]:
    yield from (slice(first, min(first + BLOCK, n)) for first in range(0, n, BLOCK))


def _squared_distances(x: Vectors, y: Vectors) -> Iterator[tuple[slice, np.ndarray]]:
    """Blocks of rows of ‖x_i - y_j‖² [n, m], each with its rows."""
    # ‖x - y‖² = ‖x‖² + ‖y‖² - 2 x·y, about a common centre so that little cancels.
    centre = y.mean(0)
    x, y = x - centre, y - centre
    of_x, of_y = np.sum(x * x, 1), np.sum(y * y, 1)
    for rows in _blocks(len(x)):
        yield rows, np.maximum(of_x[rows, None] + of_y - 2 * (x[rows] @ y.T), 0)


def _weights(rng: np.random.Generator, n: int, draws: int) -> np.ndarray:
    """How often each of n examples stands in the sample itself, and in each resample of it."""
    return np.vstack([np.ones(n), rng.multinomial(n, np.full(n, 1 / n), draws)])


def _resampled(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    return x[rng.integers(0, len(x), len(x))]


def _mean(each: np.ndarray, rng: np.random.Generator, draws: int, most: float = math.inf):
    """The mean over examples, with its interval."""
    means = _weights(rng, len(each), draws) @ np.asarray(each, np.float64) / len(each)
    return estimate(means[0], means[1:], 0.0, most)
