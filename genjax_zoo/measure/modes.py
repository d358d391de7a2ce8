"""Mode coverage: which modes of a known mixture a sampler reaches, and how cleanly.

Floor 5. The protocol is that of Lin et al. 2018 (PacGAN), section 4, with the distance of the
plane: a sample belongs to the mode whose centre is nearest, and is of *high quality* if it lies
within three standard deviations of it. The distance has two dimensions, so even perfect samples
are of high quality only with probability 1 - exp(-9/2) = 98.889 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax_zoo.contract import Array, DataError, Exactness
from genjax_zoo.data.densities import Density
from genjax_zoo.measure.distances import DRAWS, Estimate, estimate
from genjax_zoo.measure.extractors import Extractor
from genjax_zoo.measure.scores import Protocol, Score

DISTANCE = 3.0
"""Mahalanobis distance from a mode's centre below which a sample is of high quality."""

PERFECT = 1 - math.exp(-(DISTANCE**2) / 2)
"""The fraction of high quality among exact samples of the plane: 0.98889."""


_NO_MODES = (
    "mode coverage needs a density made of modes (its `centres` and `sigma`), and this one has "
    "none; ring, grid and eight_gaussians have."
)


class Modes(NamedTuple):
    """How samples lie on the modes of a mixture.

    Attributes:
      covered: modes with at least one sample of high quality [].
      high_quality: fraction of the samples within `DISTANCE` of a centre [].
      reverse_kl: KL(q || p) in nats, of the samples' distribution q over the modes, each sample
        counted at its nearest centre, from the uniform p: 0 at best, log K if one has all [].
      counts: samples of high quality at each mode [K].
    """

    covered: Array
    high_quality: Array
    reverse_kl: Array
    counts: Array


def coverage(x: Array, density: Density) -> Modes:
    """Mode coverage of samples x [n, 2] of a mixture; can be jitted and vmapped over x.

    Raises DataError for a density that is no mixture.
    """
    if density.centres is None or density.sigma is None:
        raise DataError(_NO_MODES)
    K, centres = len(density.centres), jnp.asarray(density.centres)
    distance = jnp.linalg.norm(x[:, None, :] - centres, axis=-1) / density.sigma
    belongs = jax.nn.one_hot(jnp.argmin(distance, axis=1), K)
    good = jnp.min(distance, axis=1) < DISTANCE
    counts = jnp.sum(belongs * good[:, None], axis=0)
    q = jnp.mean(belongs, axis=0)
    return Modes(
        covered=jnp.sum(counts > 0),
        high_quality=jnp.mean(good),
        # KL(q || p) = Σ_k q_k log(q_k / (1 / K))
        reverse_kl=jnp.sum(jax.scipy.special.xlogy(q, q * K)),
        counts=counts.astype(jnp.int32),
    )


OF_MODES = ("modes_covered", "high_quality", "modes_reverse_kl")
"""What `scores` measures."""


def scores(
    x: Array | np.ndarray,
    density: Density,
    name: str,
    only: Sequence[str] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[Score]:
    """`coverage` as scores: each with its protocol, and an interval over resamples of x.

    The modes covered are counted, and a resample can only lose some: their interval is that of the
    counts themselves, and ends at what was found.

    Args:
      x: samples [n, 2].
      density: the mixture that they should be of.
      name: what it is called in densities.DENSITIES.
      only: names in `OF_MODES`; None takes all.
      draws, seed: of the intervals.
    """
    modes, n = coverage(jnp.asarray(x), density), len(x)
    centres, sigma = density.centres, density.sigma
    assert centres is not None and sigma is not None
    K = len(centres)
    # A resample of x is a multinomial draw of where its points lie: the mode, and near or not.
    where, good = _places(np.asarray(x), centres, sigma)
    counted = np.bincount(where + K * good, minlength=2 * K)
    again = np.random.default_rng(seed).multinomial(n, counted / n, draws).reshape(draws, 2, K)
    q = again.sum(1) / n
    kl = np.sum(q * np.log(np.maximum(q * K, 1e-300)), 1)
    covered = int(modes.covered)
    low, high = np.percentile(np.sum(again[:, 1] > 0, 1), [2.5, 97.5])
    rule = (
        f"{K} modes, sigma {sigma:g}; a sample is of high quality within {DISTANCE:g} sigma of a "
        f"centre (perfect ones: {100 * PERFECT:.3f} %)"
    )
    measured = {
        "modes_covered": (
            Estimate(float(covered), float(low), float(max(high, covered))),
            f"modes of {K}",
            "higher",
            "modes with at least one sample of high quality (Lin et al. 2018)",
        ),
        "high_quality": (
            estimate(100 * good.mean(), 100 * again[:, 1].sum(1) / n, 0.0, 100.0),
            "%",
            "higher",
            "samples of high quality (Lin et al. 2018)",
        ),
        "modes_reverse_kl": (
            estimate(float(modes.reverse_kl), kl, 0.0, math.log(K)),
            "nats",
            "lower",
            "KL(q || p), q the samples at their nearest centres, p uniform (Lin et al. 2018)",
        ),
    }
    return [
        Score(
            key,
            *value,
            unit,
            better,
            Protocol(
                method=method,
                parameters=f"{rule}; interval of {draws} resamples",
                data=f"density:{name}",
                split="",
                n_real=0,
                n_samples=n,
            ),
            str(Exactness.ESTIMATE),
        )
        for key, (value, unit, better, method) in measured.items()
        if only is None or key in only
    ]


def _places(x: np.ndarray, centres: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """The nearest mode of each point [n], and whether it is of high quality [n]."""
    distance = np.linalg.norm(x[:, None, :] - centres, axis=-1) / sigma
    return distance.argmin(1), distance.min(1) < DISTANCE


def quick_coverage(x: np.ndarray, density: Density) -> tuple[int, float]:
    """(modes covered, fraction of high quality) of x [n, 2], without compiling anything."""
    if density.centres is None or density.sigma is None:
        raise DataError(_NO_MODES)
    where, good = _places(x, density.centres, density.sigma)
    return len(np.unique(where[good])), float(good.mean())


class Classes(NamedTuple):
    """How samples lie on K classes.

    Attributes:
      covered: classes with at least one sample.
      reverse_kl: KL(q || p) in nats, of the samples' distribution q over the classes, from the
        uniform p.
    """

    covered: int
    reverse_kl: float


def classes(label: np.ndarray, K: int) -> Classes:
    """Coverage of samples whose classes [n], of K, a classifier has found.

    Stacked MNIST (Metz et al. 2017; Lin et al. 2018, section 4.2) counts so, K = 1000.
    """
    q = np.bincount(label, minlength=K) / len(label)
    # KL(q || p) = Σ_k q_k log(q_k / (1 / K))
    return Classes(int(np.sum(q > 0)), float(np.sum(q * np.log(np.maximum(q * K, 1e-300)))))


def stacked(x: np.ndarray, extractor: Extractor) -> np.ndarray:
    """The class 0 .. K^C - 1 [n] of images x [n, H, W, C] whose channels are one image each.

    Args:
      x: images in [0, 1].
      extractor: a classifier of one channel, such as extractors.bundled("mnist").
    """
    if extractor.probabilities is None:
        raise DataError(f"the extractor {extractor.name!r} is no classifier; choose another.")
    label = np.zeros(len(x), np.int64)
    for channel in range(x.shape[-1]):
        p = extractor.probabilities(x[..., channel : channel + 1])
        # Σ_k label_k K^k, as `data.stack` numbers them.
        label += p.argmax(1) * p.shape[1] ** channel
    return label
