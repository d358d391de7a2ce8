"""Small matrices, never rounded to fewer bits: solved, divided by, rooted, and their eigenvalues.

Floor 1. Matrices are [..., q, q], over any leading axes where it says so.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from genjax_zoo.contract import Array

exactly = jax.default_matmul_precision("highest")
"""Decorates a function whose matrix products keep all their bits, on any device."""


def symmetric(P: Array) -> Array:
    """(P + Pᵀ) / 2."""
    return (P + P.mT) / 2


def matvec(M: Array, v: Array) -> Array:
    """M v: [..., p, q] by [..., q]."""
    return (M @ v[..., None])[..., 0]


@exactly
def solve(M: Array, b: Array) -> tuple[Array, Array]:
    """(M⁻¹ b [..., q, k], log |det M| [...]) of small matrices M [..., q, q], over leading axes.

    Gauss and Jordan's elimination, each pivot the largest of its column. It is written out since
    LAPACK's of many small matrices at once may wait for ever on a CPU (jaxlib 0.10.2, two batches
    of `lax.linalg.lu` or `triangular_solve` in one program), and is not slower there.
    """
    q = M.shape[-1]

    def column(i: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        rows, order, log_det = carry
        ith = jax.lax.dynamic_index_in_dim(rows, i, -1, keepdims=False)
        free = 1 - order.sum(-2)
        # The row that is left over with the largest entry; e is 1 there.
        e = jax.nn.one_hot(jnp.argmax(jnp.where(free > 0, jnp.abs(ith), -1), -1), q, dtype=M.dtype)
        pivot = jnp.sum(e * ith, -1)
        row = jnp.sum(e[..., None] * rows, -2) / pivot[..., None]
        # That row becomes `row`, and column i of all others 0.
        others = rows - ith[..., None] * row[..., None, :]
        rows = jnp.where(e[..., None] > 0, row[..., None, :], others)
        order = jax.lax.dynamic_update_index_in_dim(order, e, i, order.ndim - 2)
        return rows, order, log_det + jnp.log(jnp.abs(pivot))

    b = jnp.broadcast_to(b, (*M.shape[:-1], b.shape[-1]))
    start = (jnp.concatenate([M, b], -1), jnp.zeros_like(M), jnp.zeros_like(M[..., 0, 0]))
    rows, order, log_det = jax.lax.fori_loop(0, q, column, start)
    return order @ rows[..., q:], log_det


def divided(b: Array, M: Array) -> Array:
    """b M⁻¹ for a covariance M [k, k], which may lack a direction to within rounding.

    Where M is 0, of what was never seen, so is b, and 0 is returned.
    """
    k = len(M)
    tiny = jnp.maximum(jnp.finfo(M.dtype).eps * jnp.trace(M) / k, 1e-30)
    return solve(M + tiny * jnp.eye(k, dtype=M.dtype), b.T)[0].T


def root(P: Array) -> Array:
    """A matrix whose product with its transpose is P [..., q, q], which may be singular."""
    value, vector = jnp.linalg.eigh(P)
    return vector * jnp.sqrt(jnp.maximum(value, 0))[..., None, :]


@exactly
def at_least(P: Array, floor: Array) -> Array:
    """The covariance P [q, q] with no eigenvalue below the floor: the likeliest of those."""
    value, vector = jnp.linalg.eigh(symmetric(P))
    return (vector * jnp.maximum(value, floor)) @ vector.T


@exactly
def spectral_radius(A: Array, squarings: int = 20) -> Array:
    """The largest modulus of an eigenvalue of A [q, q], to a relative 1e-5 or so; on any device.

        ρ(A) = lim ‖A^n‖^(1/n),    n = 2^squarings                           (Gelfand 1941)

    Below 1 the states x_t = A x_t-1 forget where they were, above 1 they run away.
    """

    def square(M_log: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        # A^(2^k) = exp(log) M with ‖M‖ = 1
        M, log = M_log
        M = M @ M
        size = jnp.linalg.norm(M)
        return (M / jnp.where(size > 0, size, 1), 2 * log + jnp.log(size)), None

    size = jnp.linalg.norm(A)
    start = (A / jnp.where(size > 0, size, 1), jnp.log(size))
    (_, log), _ = jax.lax.scan(square, start, None, squarings)
    return jnp.exp(log / 2**squarings)


@exactly
def stationary(A: Array, Q: Array, doublings: int = 30) -> Array:
    """The covariance V = A V Aᵀ + Q that states settle in, if ρ(A) < 1: Σ_k A^k Q A^kᵀ.

    By doubling the number of terms (Smith 1968).
    """

    def double(VM: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        V, M = VM
        return (V + M @ V @ M.T, M @ M), None

    return jax.lax.scan(double, (Q, A), None, doublings)[0][0]
