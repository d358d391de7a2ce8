"""M Gaussians in a row, whose covariances have one of four forms, and examples with missing parts.

Floor 1. x is [B, D], NaN where a feature is missing: it is integrated out, by the marginal Gaussian
of what is known, and expected by the conditional one (Ghahramani & Jordan, Supervised learning from
incomplete data via an EM approach, 1994). A factor L or σ stands for the covariances:

    full         Σ_m = L_m L_mᵀ, lower triangular     [M, D, D]
    tied         one Σ = L Lᵀ for all of them         [1, D, D]
    diagonal     Σ_m = diag σ_m²                      [M, D]
    spherical    Σ_m = σ_m² I                         [M, 1]
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax.scipy.linalg import solve_triangular

from genjax_zoo.contract import Array
from genjax_zoo.maths.inference.matrices import exactly
from genjax_zoo.maths.probability.scales import of_parts, varies

Form = Literal["full", "tied", "diagonal", "spherical"]
"""How the covariances are made."""
DENSE = ("full", "tied")
"""Those with correlations."""

_LOG_2PI = math.log(2 * math.pi)
_SMALLEST = 1e-30
"""The least variance, and the least number that anything is divided by."""


class Gaussians(NamedTuple):
    """M Gaussians.

    Attributes:
      form: of their covariances.
      mean: μ [M, D].
      factor: as the form has it.
    """

    form: Form
    mean: Array
    factor: Array


class Filled(NamedTuple):
    """What is expected of examples some of whose features are missing, by each Gaussian.

    Attributes:
      mean: E[x | known, m] [B, M, D]; the known features are as they were.
      covariance: of x given what is known, and 0 where a feature is known: [B, M or 1, D, D], or
        its diagonal [B, M, D].
      log_prob: log N(known; μ_m, Σ_m) [B, M], the marginal of what is known.
    """

    mean: Array
    covariance: Array
    log_prob: Array


def alike(form: Form, mean: Array, variance: Array) -> Gaussians:
    """Gaussians about `mean` [M, D] of one diagonal covariance, `variance` [D]."""
    (M, D), sigma = mean.shape, jnp.sqrt(variance)
    factor = {
        "full": lambda: jnp.broadcast_to(jnp.diag(sigma), (M, D, D)),
        "tied": lambda: jnp.diag(sigma)[None],
        "diagonal": lambda: jnp.broadcast_to(sigma, (M, D)),
        "spherical": lambda: jnp.broadcast_to(jnp.sqrt(variance.mean()), (M, 1)),
    }[form]()
    return Gaussians(form, mean, factor)


# ------------------------------------------------------------------------------------ densities


def log_prob(g: Gaussians, x: Array) -> Array:
    """log N(x; μ_m, Σ_m) of what is known of x, by each Gaussian: [B, M] nats."""
    some = lambda: fill(g, x).log_prob
    if g.form not in DENSE:
        return some()
    return jax.lax.cond(jnp.any(jnp.isnan(x)), some, lambda: _whole(g, x))


def _whole(g: Gaussians, x: Array) -> Array:
    """log N(x; μ_m, L_m L_mᵀ) with no feature missing."""
    D = x.shape[1]
    # z = L⁻¹ (x - μ),    log N = -½ ‖z‖² - Σ_d log L_dd - D/2 log 2π
    L = jnp.broadcast_to(g.factor, (len(g.mean), D, D))
    solve = lambda L, mu: solve_triangular(L, (x - mu).T, lower=True)
    z = jax.lax.map(lambda Lm: solve(*Lm), (L, g.mean))
    log_det = jnp.sum(jnp.log(jnp.diagonal(L, axis1=1, axis2=2)), -1)
    return (-0.5 * jnp.sum(z**2, 1) - log_det[:, None] - 0.5 * D * _LOG_2PI).T


@exactly
def fill(g: Gaussians, x: Array, base: Array | None = None) -> Filled:
    """What is known of each example, and what it says of the rest.

    `base` [B, M, D] takes the place of μ in `mean`. Of a draw of N(μ, Σ) it makes one of what is
    missing, given what is known (Matheron's rule).
    """
    mean = g.mean
    base = jnp.broadcast_to(mean, (len(x), *mean.shape)) if base is None else base
    known = ~jnp.isnan(x)
    v = jnp.where(known, x, 0)
    if g.form not in DENSE:
        # Features are independent: each keeps its own mean and variance, or is known.
        sigma = jnp.broadcast_to(g.factor, mean.shape)
        z = (v[:, None] - mean) / sigma
        each = -0.5 * z**2 - jnp.log(sigma) - 0.5 * _LOG_2PI
        there = known[:, None]
        return Filled(
            jnp.where(there, v[:, None], base),
            jnp.where(there, 0, sigma**2),
            jnp.sum(jnp.where(there, each, 0), -1),
        )
    sigma = jnp.einsum("mij,mkj->mik", g.factor, g.factor)

    def one(v: Array, known: Array, base: Array) -> Filled:
        # A = [Σ_oo, 0; 0, I], the covariance of what is known, and Σ_·o the columns of Σ
        o = known.astype(v.dtype)
        A = sigma * o * o[:, None] + jnp.diag(1 - o)
        across = sigma * o
        factor = jnp.linalg.cholesky(A)
        half = solve_triangular(factor, across.swapaxes(1, 2), lower=True)
        # Σ - Σ_·o Σ_oo⁻¹ Σ_o·
        spread = sigma - jnp.einsum("mki,mkj->mij", half, half)
        unknown = (1 - o) * (1 - o)[:, None]
        wide = lambda a: jnp.broadcast_to(a, (len(mean), *a.shape[1:]))
        solve = lambda r: solve_triangular(wide(factor), r[..., None], lower=True)[..., 0]
        # E[x | x_o] = μ + Σ_·o Σ_oo⁻¹ (x_o - μ_o)
        shift = jnp.einsum("mki,mk->mi", wide(half), solve((v - base) * o))
        z = solve((v - mean) * o)
        log_det = jnp.sum(jnp.log(jnp.diagonal(factor, axis1=1, axis2=2)), -1)
        log_p = -0.5 * jnp.sum(z**2, -1) - log_det - 0.5 * o.sum() * _LOG_2PI
        return Filled(jnp.where(known, v, base + shift), spread * unknown, log_p)

    return jax.lax.map(lambda row: one(*row), (v, known, base), batch_size=16)


@exactly
def centred_draw(g: Gaussians, m: Array, noise: Array) -> Array:
    """L_m ε [n, D], ~ N(0, Σ_m) of Gaussians m [n], of ε ~ N(0, I) [n, D]."""
    if g.form == "tied":
        return noise @ g.factor[0].T
    if g.form == "full":
        return jax.lax.map(lambda me: g.factor[me[0]] @ me[1], (m, noise), batch_size=64)
    return g.factor[m] * noise


# ------------------------------------------------------------------------- expected sums, for EM


@struct.dataclass
class Moments:
    """Expected sums over the examples of each Gaussian: n, Σ x and Σ x xᵀ, about a point near it.

    In float32 a variance would otherwise be a small difference of large numbers.

    Attributes:
      counts: Σ_n r_nm [M], r_nm the part of example n that is of Gaussian m.
      sums: Σ_n r_nm (x_n - s_m) [M, D].
      squares: Σ_n r_nm (x_n - s_m)(x_n - s_m)ᵀ, [M, D, D] full, their sum [1, D, D] tied, or
        their diagonals [M, D].
      shift: s [M, D].
    """

    counts: Array
    sums: Array
    squares: Array
    shift: Array


def no_moments(form: Form, shift: Array) -> Moments:
    """The sums over no example, about the points `shift` [M, D]."""
    M, D = shift.shape
    squares = {"full": (M, D, D), "tied": (1, D, D)}.get(form, (M, D))
    return Moments(jnp.zeros(M), jnp.zeros((M, D)), jnp.zeros(squares), shift)


def moments(g: Gaussians, x: Array, r: Array, shift: Array) -> Moments:
    """The sums over examples x [B, D] with parts r [B, M], about the points `shift` [M, D]."""
    filled = lambda: _filled_sums(g, x, r, shift)
    sums, squares = jax.lax.cond(
        jnp.any(jnp.isnan(x)), filled, lambda: _whole_sums(g.form, x, r, shift)
    )
    return Moments(r.sum(0), sums, squares, shift)


@exactly
def _whole_sums(form: Form, x: Array, r: Array, shift: Array) -> tuple[Array, Array]:
    """Sums and squares with no feature missing, a Gaussian at a time."""

    def one(r: Array, s: Array) -> tuple[Array, Array]:
        d = x - s
        second = (r[:, None] * d).T @ d if form in DENSE else (r[None] @ d**2)[0]
        return (r[None] @ d)[0], second

    sums, squares = jax.lax.map(lambda rs: one(*rs), (r.T, shift))
    return sums, squares.sum(0, keepdims=True) if form == "tied" else squares


@exactly
def _filled_sums(g: Gaussians, x: Array, r: Array, shift: Array) -> tuple[Array, Array]:
    """The same of E[x] and E[x xᵀ], given what is known of each example."""
    found = fill(g, x)
    d = found.mean - shift
    sums = jnp.einsum("nm,nmi->mi", r, d)
    if g.form not in DENSE:
        return sums, jnp.einsum("nm,nmi->mi", r, d**2 + found.covariance)
    squares = jnp.einsum("nm,nmi,nmj->mij", r, d, d)
    if g.form == "full":
        return sums, squares + jnp.einsum("nm,nmij->mij", r, found.covariance)
    spread = jnp.einsum("n,nij->ij", r.sum(1), found.covariance[:, 0])
    return sums, (squares.sum(0) + spread)[None]


@exactly
def estimate(form: Form, s: Moments, pseudo_counts: float, ridge: float) -> Gaussians:
    """The Gaussians that maximise the expected log-likelihood, their covariances shrunk:

        Σ_m = (n_m S_m + ν diag V) / (n_m + ν) + ridge · diag(overall)

    Args:
      form: of the covariances.
      s: the sums.
      pseudo_counts: ν, uncorrelated examples with V, the variances that the data have within
        Gaussians.
      ridge: the part of each feature's variance over all data that is added to its variances.
    """
    dense, n, total = form in DENSE, s.counts, s.counts.sum()
    # μ_m = s_m + <x - s_m>
    offset = s.sums / jnp.maximum(n, _SMALLEST)[:, None]
    mean = s.shift + offset
    # n_m S_m = Σ r (x - s_m)(x - s_m)ᵀ - n_m <x - s_m><x - s_m>ᵀ, here its diagonal
    second = jnp.diagonal(s.squares, axis1=1, axis2=2) if dense else s.squares
    moved = n[:, None] * offset**2
    own = jnp.maximum(second - (moved.sum(0) if form == "tied" else moved), 0)
    # V_d, the variance within Gaussians, and V_d + Σ_m n_m / n (μ_md - μ_d)², over all data
    share = (n / jnp.maximum(total, _SMALLEST))[:, None]
    within = own.sum(0) / jnp.maximum(total, _SMALLEST)
    centre, between = of_parts(share, mean)
    overall = within + between
    # A feature that never changed may yet: it is as uncertain as the others are in the mean.
    floor = ridge * jnp.where(varies(overall, centre), overall, jnp.mean(overall))
    floor = jnp.maximum(floor, _SMALLEST)

    def shrunk(scatter: Array, n: Array, target: Array) -> Array:
        # V where a Gaussian has no example, and no pseudo-count
        examples = n + pseudo_counts
        found = (scatter + pseudo_counts * target) / jnp.maximum(examples, _SMALLEST)
        return jnp.where(examples > 0, found, target)

    if dense:
        if form == "tied":
            scatter = (s.squares[0] - (n[:, None] * offset).T @ offset)[None]
            n = total[None]
        else:
            scatter = s.squares - n[:, None, None] * offset[:, :, None] * offset[:, None, :]
        found = shrunk(scatter, n[:, None, None], jnp.diag(within)) + jnp.diag(floor)
        return Gaussians(form, mean, jnp.linalg.cholesky(found))
    if form == "spherical":
        own, within, floor = (a.mean(-1, keepdims=True) for a in (own, within, floor))
    return Gaussians(form, mean, jnp.sqrt(shrunk(own, n[:, None], within) + floor))
