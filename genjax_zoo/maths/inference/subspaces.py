"""Where a linear dynamical system may begin: subspace identification, and systems of known form.

Floor 1. Series are y [B, T, p], NaN where they are missing; q counts states.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from genjax_zoo.contract import Array, Key
from genjax_zoo.maths.inference.kalman import System
from genjax_zoo.maths.inference.matrices import exactly


def centred(y: Array) -> tuple[Array, Array, Array]:
    """(mean d [p], y - d with 0 where it is missing [B, T, p], variance [p]) of what is known."""
    known = ~jnp.isnan(y)
    n = jnp.maximum(jnp.sum(known, (0, 1)), 1)
    mean = lambda a: jnp.sum(jnp.where(known, a, 0), (0, 1)) / n
    d = mean(y)
    # Again, for a sum of large numbers is rounded.
    d = d + mean(y - d)
    e = jnp.where(known, y - d, 0)
    variance = jnp.sum(e**2, (0, 1)) / n
    # A pixel that never changes has a little of what the others have; where none changes, what
    # rounding leaves of it.
    rounding = jnp.maximum(jnp.max((jnp.finfo(y.dtype).eps * d) ** 2), 1e-24)
    return d, e, jnp.maximum(variance, jnp.maximum(1e-3 * jnp.mean(variance), rounding))


def principal(x: Array, q: int) -> Array:
    """The q directions [q, D] of centred rows x [N, D] in which they vary most; 0 beyond D."""
    W = jnp.linalg.svd(x, full_matrices=False)[2][:q]
    return jnp.pad(W, ((0, q - len(W)), (0, 0)))


@exactly
def subspace(e: Array, d: Array, variance: Array, q: int, noise: float = 1e-3) -> System:
    """The closed form for dynamic textures: emission by an SVD, then transition by least squares.

        [e_t; ..; e_t+h-1] = W x_t,    W the first q directions of the SVD;    C = the first of W
        A = argmin Σ_t ‖x_t+1 - A x_t‖²,    Q, R = what is left

    h = 1 is Doretto et al. 2003, section 5.1; where fewer numbers are seen than there are states, h
    is as many times as are needed twice over (Ho & Kalman 1966).

    Args:
      e: centred series [B, T, p], 0 where they are missing.
      d: what was taken off [p].
      variance: of each number [p].
      q: states; what the data do not fill of them is left at rest.
      noise: R is at least this fraction of the mean variance.
    """
    B, T, p = e.shape
    h = 1 if p >= q else min(math.ceil(2 * q / p), (T + 1) // 2)
    n, floor = T - h + 1, noise * jnp.mean(variance)
    windows = jnp.concatenate([e[:, i : n + i] for i in range(h)], -1)
    W = principal(windows.reshape(B * n, h * p), q)
    x, C = windows @ W.T, W[:, :p].T
    before, after = (part.reshape(-1, q) for part in (x[:, :-1], x[:, 1:]))
    A = (jnp.linalg.pinv(before) @ after).T
    left = after - before @ A.T
    u = (e[:, :n] - x @ C.T).reshape(-1, p)
    all_x, eye = x.reshape(-1, q), jnp.eye(q, dtype=e.dtype)
    return System(
        A=A,
        Q=left.T @ left / len(left) + floor * eye,
        C=C,
        d=d,
        R=jnp.maximum(jnp.mean(u**2, 0), floor),
        m1=jnp.zeros(q, e.dtype),
        P1=all_x.T @ all_x / len(all_x) + floor * eye,
    )


def rotation(key: Key, d: Array, variance: Array, q: int, radius: float = 0.9) -> System:
    """States that turn and fade, emitted at random, that account for the variance."""
    key_A, key_C = jax.random.split(key)
    A = radius * jax.random.orthogonal(key_A, q, dtype=d.dtype)
    C = jax.random.normal(key_C, (d.size, q), d.dtype) / math.sqrt(q)
    V = jnp.mean(variance) * jnp.eye(q, dtype=d.dtype)
    # V = A V Aᵀ + Q
    return System(A, (1 - radius**2) * V, C, d, variance / 2, jnp.zeros(q, d.dtype), V)


def local_level(d: Array, variance: Array, wide: float = 100.0) -> System:
    """A = C = I: half of the variance moves the level, half is noise.

    States are levels less d, the mean of the data, so that none is large beside its changes.

    Args:
      d: that mean [p].
      variance: of each number [p].
      wide: the first level is N(d, `wide` times the variance), whatever the units.
    """
    eye, zero = jnp.eye(variance.size, dtype=variance.dtype), jnp.zeros_like(variance)
    return System(
        eye, jnp.diag(variance / 2), eye, d, variance / 2, zero, jnp.diag(wide * variance)
    )


def autoregression(d: Array, variance: Array, lags: int) -> System:
    """Φ = 0 in companion form: the state is (y_t - d, .., y_t-lags+1 - d)."""
    p, q = d.size, d.size * lags
    A, eye = jnp.eye(q, k=-p, dtype=d.dtype), jnp.eye(q, dtype=d.dtype)
    Q = jnp.zeros((q, q), d.dtype).at[:p, :p].set(jnp.diag(variance))
    P1 = jnp.diag(jnp.tile(variance, lags))
    return System(A, Q, eye[:p], d, jnp.zeros_like(d), jnp.zeros(q, d.dtype), P1)
