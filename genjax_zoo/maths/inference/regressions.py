"""The regressions that a linear dynamical system is learnt by, as expected sums over its states.

    x_1 = m_1 + ..,    x_t = A x_t-1 + ..,    y_t = C x_t + d + ..

are three regressions, and their best coefficients and noises are functions of expected sums of
products (Ghahramani & Hinton, Parameter estimation for linear dynamical systems, 1996). Sums are
taken about a reference, the system that learning began at, lest a variance be a small difference of
large numbers: of w_t = x_t - A_0 x_t-1 on x_t-1, of u_t = y_t - C_0 x_t - d_0 on z_t = [x_t; 1],
and of x_1 - m_0 on 1. What comes out is then added to the reference.

Floor 1. Series are [B, T, ...]: y [B, T, p] with NaN where it is missing, and of the states given y
the means x [B, T, q], covariances P [B, T, q, q] and Cov(x_t, x_t-1) L [B, T - 1, q, q].
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from genjax_zoo.contract import Array
from genjax_zoo.maths.inference.kalman import System, masked
from genjax_zoo.maths.inference.matrices import divided, exactly, solve


@struct.dataclass
class Regression:
    """Expected sums of a regression of v [p] on z [k].

    Where the noise is diagonal, and each row of v has the times of its own at which it is known,
    each has its own Σ E[z zᵀ].

    Attributes:
      count: how many, [] or of each row [p].
      vv: Σ E[v vᵀ] [p, p], or its diagonal [p].
      vz: Σ E[v zᵀ] [p, k].
      zz: Σ E[z zᵀ] [k, k], or of each row [p, k, k].
    """

    count: Array
    vv: Array
    vz: Array
    zz: Array


def coefficients(r: Regression, columns: np.ndarray | None = None) -> Array:
    """β = Σ E[v zᵀ] (Σ E[z zᵀ])⁻¹ [p, k]; with `columns` of these alone, and 0 in the others."""
    columns = np.arange(r.vz.shape[1]) if columns is None else columns
    if not len(columns):
        return jnp.zeros_like(r.vz)
    vz, zz = r.vz[:, columns], r.zz[..., columns, :][..., columns]
    if zz.ndim == 2:
        found = divided(vz, zz)
    else:
        found = jax.vmap(lambda vz, zz: divided(vz[None], zz)[0])(vz, zz)
    return jnp.zeros_like(r.vz).at[:, columns].set(found)


@exactly
def residual(r: Regression, beta: Array) -> Array:
    """Σ E[(v - β z)(v - β z)ᵀ] [p, p], or its diagonal [p]."""
    if r.zz.ndim == 2:
        half = beta @ r.vz.T
        return r.vv - half - half.T + beta @ r.zz @ beta.T
    squares = r.vv - 2 * jnp.sum(beta * r.vz, -1)
    return squares + jnp.einsum("pi,pij,pj->p", beta, r.zz, beta)


@exactly
def of_transitions(ref: System, x: Array, P: Array, L: Array) -> Regression:
    """Of w_t = x_t - A_0 x_t-1 on x_t-1."""
    B, T, q = x.shape
    before, P_before = x[:, :-1].reshape(-1, q), P[:, :-1].sum((0, 1))
    w, P_after = x[:, 1:].reshape(-1, q) - before @ ref.A.T, P[:, 1:].sum((0, 1))
    lagged = L.sum((0, 1))
    across = lagged - ref.A @ P_before
    # E[w wᵀ] = ŵ ŵᵀ + P_t - A_0 Lᵀ - (L - A_0 P_t-1) A_0ᵀ
    ww = w.T @ w + P_after - ref.A @ lagged.T - across @ ref.A.T
    count = jnp.asarray(B * (T - 1), x.dtype)
    return Regression(count, ww, w.T @ before + across, before.T @ before + P_before)


@exactly
def of_starts(ref: System, x: Array, P: Array) -> Regression:
    """Of x_1 - m_0 on 1."""
    first, count = x[:, 0] - ref.m1, jnp.asarray(len(x), x.dtype)
    square = first.T @ first + P[:, 0].sum(0)
    return Regression(count, square, first.sum(0)[:, None], count[None, None])


def of_emissions(s: System, ref: System, y: Array, x: Array, P: Array) -> Regression:
    """Of u_t = y_t - C_0 x_t - d_0 on [x_t; 1], given y by the system s: its R says which kind."""
    p, q = ref.C.shape
    rows = (y.reshape(-1, p), x.reshape(-1, q), P.reshape(-1, q, q))
    return _emissions_full(s, ref, *rows) if s.R.ndim == 2 else _emissions_diagonal(ref, *rows)


@exactly
def _emissions_diagonal(ref: System, y: Array, x: Array, P: Array) -> Regression:
    """Each number has its own times, [N] in all."""
    o = (~jnp.isnan(y)).astype(x.dtype)
    p, q = ref.C.shape
    # E[u z] and E[u²], with Σ_t P_t over the times of each number [p, q, q]
    spread = (o.T @ P.reshape(-1, q * q)).reshape(p, q, q)
    u = jnp.where(o > 0, y - x @ ref.C.T - ref.d, 0)
    z = jnp.concatenate([x, jnp.ones_like(x[:, :1])], -1)
    emitted = jnp.einsum("pi,pij->pj", ref.C, spread)
    uu = jnp.sum(u**2, 0) + jnp.sum(emitted * ref.C, -1)
    uz = u.T @ z - jnp.pad(emitted, ((0, 0), (0, 1)))
    products = (z[:, :, None] * z[:, None]).reshape(-1, (q + 1) ** 2)
    zz = (o.T @ products).reshape(p, q + 1, q + 1) + jnp.pad(spread, ((0, 0), (0, 1), (0, 1)))
    return Regression(o.sum(0), uu, uz, zz)


@exactly
def _emissions_full(s: System, ref: System, y: Array, x: Array, P: Array) -> Regression:
    """What is missing of a time is expected, like a state."""

    def one(y: Array, x: Array, P: Array) -> tuple[Array, Array, Array]:
        o = (~jnp.isnan(y)).astype(x.dtype)
        # K = R_·o R_oo⁻¹:  E[u | u_o] = K u_o,  Cov(u | u_o) = R - K R_o·
        across = s.R * o
        K = solve(masked(s.R, o), across.T)[0].T * o
        e = jnp.where(o > 0, y - s.C @ x - s.d, 0)
        # u about the reference is a + G (x - x̂) + the rest
        a = K @ e + (s.C - ref.C) @ x + s.d - ref.d
        G = s.C - ref.C - K @ s.C
        z, left = jnp.append(x, 1), s.R - K @ across.T
        uu = jnp.outer(a, a) + G @ P @ G.T + left
        uz = jnp.outer(a, z) + jnp.pad(G @ P, ((0, 0), (0, 1)))
        return uu, uz, jnp.outer(z, z) + jnp.pad(P, ((0, 1), (0, 1)))

    return Regression(jnp.asarray(len(y), x.dtype), *(a.sum(0) for a in jax.vmap(one)(y, x, P)))
