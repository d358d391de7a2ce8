"""Mean and standard deviation of a stream of arrays, channel by channel, by which they are scaled.

Floor 1. `start`, `expect` and `maximise` are what learn.verbs.em asks for; the last axis counts the
channels.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import struct

from genjax_zoo.contract import Array, Batch, Info, Key
from genjax_zoo.maths.probability import distributions


@struct.dataclass
class Scale:
    """What standardises arrays.

    Attributes:
      mean: m [C], of each channel: each dimension of a vector.
      std: s [C].
    """

    mean: Array
    std: Array

    def standard(self, z: Array) -> Array:
        """u = (z - m) / s: [B, ..., C]."""
        return (z - self.mean) / self.std

    def back(self, u: Array) -> Array:
        """z = m + s u: [B, ..., C]."""
        return self.mean + self.std * u


@struct.dataclass
class Sums:
    """Of all arrays so far.

    Attributes:
      count: Σ 1 [], over examples and places.
      first: Σ z [C].
      second: Σ z² [C].
    """

    count: Array
    first: Array
    second: Array


def start(key: Key, batch: Batch) -> tuple[Scale, Sums]:
    """Of no example yet: a scale that leaves all as it is."""
    zero = jnp.zeros(batch["x"].shape[-1])
    return Scale(zero, jnp.ones_like(zero)), Sums(jnp.zeros(()), zero, zero)


def expect(key: Key, scale: Scale, batch: Batch) -> tuple[Sums, Info]:
    """The sums of a batch, and how well the scale already fits it, as a Gaussian's."""
    z = batch["x"].reshape(-1, batch["x"].shape[-1])
    sums = Sums(jnp.full((), len(z), z.dtype), jnp.sum(z, 0), jnp.sum(z**2, 0))
    nats = distributions.gaussian(z, scale.mean, jnp.log(scale.std))
    return sums, {"log_prob": jnp.mean(nats)}


def maximise(sums: Sums) -> Scale:
    """m and s of all arrays; a channel that is constant keeps a little width."""
    mean = sums.first / sums.count
    variance = sums.second / sums.count - mean**2
    return Scale(mean, jnp.sqrt(jnp.maximum(variance, 1e-8)))


def varies(variance: Array, mean: Array) -> Array:
    """Whether numbers vary, and not only by rounding: bool, like their variance and their mean.

    What is constant, and not 0, has a mean that may be off by a unit in the last place, and the
    variance that this leaves it.
    """
    least = 2 * jnp.finfo(jnp.result_type(mean)).eps * jnp.abs(mean)
    return variance > least**2


def of_parts(share: Array, mean: Array) -> tuple[Array, Array]:
    """The mean of all parts, and the variance between them: Σ_k s_k μ_k, Σ_k s_k (μ_k - that)².

    About the largest part: a mean of large numbers is rounded, even where all are the same.

    Args:
      share: s, what each part is of all [K, D] or [K, 1]; they add up to 1.
      mean: μ of each part [K, D].

    Returns:
      the mean and the variance, [D] each.
    """
    largest = jnp.broadcast_to(jnp.argmax(share, axis=0, keepdims=True), (1, mean.shape[1]))
    about = jnp.take_along_axis(mean, largest, axis=0)
    middle = jnp.sum(share * (mean - about), 0)
    return about[0] + middle, jnp.sum(share * (mean - about - middle) ** 2, 0)
