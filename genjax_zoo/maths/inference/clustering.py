"""k-means: Lloyd's algorithm from a greedy k-means++ start, of points with weights.

Floor 1.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from genjax_zoo.contract import Array, Key
from genjax_zoo.maths.inference.matrices import exactly
from genjax_zoo.maths.probability.scales import varies

_SMALLEST = 1e-30
"""The least number that anything is divided by, and the least probability of a draw."""


@exactly
def k_means(key: Key, z: Array, w: Array, K: int, iterations: int) -> tuple[Array, Array]:
    """Lloyd's algorithm from a greedy k-means++ start (Arthur & Vassilvitskii 2007).

    Each new centre is the best of a few points, drawn with the probability of their squared
    distance to the nearest centre so far.

    Args:
      key: of the draws.
      z: points [B, D].
      w: the weight of each [B]; 0 leaves a point out.
      K: how many centres.
      iterations: of Lloyd's algorithm.

    Returns:
      centres [K, D], and each feature's Σ_n w_n (z_n - its centre)² [D].
    """
    tries = 2 + int(math.log(K))
    norm = jnp.sum(z**2, -1)
    # ‖z - c‖² = ‖z‖² - 2 zᵀc + ‖c‖²
    apart = lambda c: jnp.maximum(norm - 2 * (c @ z.T) + jnp.sum(c**2, -1, keepdims=True), 0)
    draw = lambda key, p, n: jax.random.categorical(key, jnp.log(p + _SMALLEST), shape=(n,))
    centres = jnp.zeros((K, z.shape[1])).at[0].set(z[draw(key, w, 1)[0]])

    def add(k: Array, found: tuple[Array, Array]) -> tuple[Array, Array]:
        centres, nearest = found
        tried = z[draw(jax.random.fold_in(key, k), w * nearest, tries)]
        left = jnp.minimum(nearest, apart(tried))
        best = jnp.argmin((left @ w[:, None])[:, 0])
        return centres.at[k].set(tried[best]), left[best]

    centres, _ = jax.lax.fori_loop(1, K, add, (centres, apart(centres[:1])[0]))

    def own(centres: Array) -> Array:
        return jax.nn.one_hot(jnp.argmin(apart(centres), 0), K) * w[:, None]

    def lloyd(_: Array, centres: Array) -> Array:
        member = own(centres)
        n = member.sum(0)[:, None]
        return jnp.where(n > 0, member.T @ z / jnp.maximum(n, _SMALLEST), centres)

    centres = jax.lax.fori_loop(0, iterations, lloyd, centres)
    member = own(centres)
    return centres, jnp.sum(w[:, None] * (z - ((member > 0) * 1.0) @ centres) ** 2, 0)


def k_means_of_classes(
    key: Key, x: Array, member: Array, K: int, iterations: int
) -> tuple[Array, Array]:
    """k-means of each class, features compared in units of their standard deviation.

    Missing features stand at their mean.

    Args:
      key: of the starts.
      x: points [B, D], NaN where a feature is missing.
      member: 1 where a point is of a class [B, C], of one at most.
      K: how many centres a class has.
      iterations: of Lloyd's algorithm.

    Returns:
      centres [C, K, D], and each feature's variance about them [D].
    """
    counted = member.sum(1, keepdims=True)
    known = (~jnp.isnan(x)) * counted
    n = jnp.maximum(known.sum(0), 1)
    # About a number of each feature's own, so that of a constant nothing is left.
    own = jnp.take_along_axis(x, jnp.argmax(known, axis=0, keepdims=True), axis=0)
    own = jnp.where(jnp.isnan(own), 0, own)
    mean = own[0] + jnp.where(known > 0, x - own, 0).sum(0) / n
    z = jnp.where(known > 0, x - mean, 0)
    std = jnp.sqrt((z**2).sum(0) / n)
    std = jnp.where(varies(std**2, mean), std, 1)
    z = z / std
    keys = jax.random.split(key, member.shape[1])
    of_class = lambda key, w: k_means(key, z, w, K, iterations)
    centres, squares = jax.vmap(of_class, (0, 1))(keys, member)
    variance = jnp.maximum(squares.sum(0) / jnp.maximum(counted.sum(), 1), 1e-3)
    return mean + std * centres, std**2 * variance
