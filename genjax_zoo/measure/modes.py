"""Mode coverage: which modes of a known mixture a sampler reaches, and how cleanly.

Floor 4. The protocol is that of Lin et al. 2018 (PacGAN), section 4, with the distance of the
plane: a sample belongs to the mode whose centre is nearest, and is of *high quality* if it lies
within three standard deviations of it. The distance has two dimensions, so even perfect samples
are of high quality only with probability 1 - exp(-9/2) = 98.889 %.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from genjax_zoo.contract import Array, DataError
from genjax_zoo.densities import Density

DISTANCE = 3.0
"""Mahalanobis distance from a mode's centre below which a sample is of high quality."""

PERFECT = 1 - math.exp(-(DISTANCE**2) / 2)
"""The fraction of high quality among exact samples of the plane: 0.98889."""


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
        raise DataError(
            "mode coverage needs a density made of modes (its `centres` and `sigma`), and this "
            "one has none; ring, grid and eight_gaussians have."
        )
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


def report(x: Array, density: Density, name: str) -> dict[str, dict[str, Any]]:
    """`coverage` as entries of eval/metrics.json: each value with its unit, n and protocol.

    Args:
      x: samples [n, 2].
      density: the mixture that they should be of.
      name: what it is called in densities.DENSITIES.
    """
    modes = coverage(x, density)
    assert density.centres is not None
    protocol = (
        f"{name}: {len(density.centres)} modes, sigma {density.sigma:g}; a mode is covered by at "
        f"least one sample within {DISTANCE:g} sigma of its centre (perfect samples: "
        f"{100 * PERFECT:.3f} % within); the reverse KL counts every sample at its nearest centre"
    )
    told = {
        "modes_covered": (int(modes.covered), f"modes of {len(density.centres)}"),
        "high_quality": (100 * float(modes.high_quality), "%"),
        "modes_reverse_kl": (float(modes.reverse_kl), "nats"),
    }
    return {
        key: {"value": value, "unit": unit, "kind": "exact", "n": len(x), "protocol": protocol}
        for key, (value, unit) in told.items()
    }
