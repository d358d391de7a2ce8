"""Stretches of time of a linear-Gaussian chain, joined to longer ones; and what is diffuse before.

A stretch says where a state goes and what was seen on the way, given the state before it. Two that
follow each other are one again, and so they can be joined in any grouping (Särkkä & García-
Fernández, Temporal parallelization of Bayesian smoothers, 2021). Floor 1; kalman.py makes them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genjax_zoo.contract import Array
from genjax_zoo.maths.inference.matrices import matvec, solve, symmetric

_LOG_2PI = math.log(2 * math.pi)


class Stretch(NamedTuple):
    """What times s .. t together make of the state x before them: with x' the state at t,

        p(x', y_s .. y_t | x) ∝ N(x'; F x + b, V) exp(ηᵀx - ½ xᵀJ x)

    Attributes:
      F, b, V: where the state goes [q, q], [q], [q, q].
      eta, J: what these times say of the state before them [q], [q, q].
    """

    F: Array
    b: Array
    V: Array
    eta: Array
    J: Array


def join(early: Stretch, late: Stretch) -> Stretch:
    """Two stretches, of which the second follows the first, as one; over any leading axes.

    Between them lies x ~ N(F x_before + b, V), of which the late one says η and J: so one solve,
    by I + V J, is all there is (Särkkä & García-Fernández 2021, lemma 8).
    """
    F, b, V = conditioned(early.F, early.b, early.V, late.eta, late.J)
    return Stretch(
        F=late.F @ F,
        b=matvec(late.F, b) + late.b,
        V=symmetric(late.F @ V @ late.F.mT) + late.V,
        eta=early.eta + matvec(early.F.mT, late.eta - matvec(late.J, b)),
        J=early.J + symmetric(early.F.mT @ late.J @ F),
    )


def conditioned(F: Array, b: Array, V: Array, eta: Array, J: Array) -> tuple[Array, Array, Array]:
    """N(x; F x_before + b, V) exp(ηᵀx - ½ xᵀJ x) is again one N: its F, b and V.

    (I + V J)⁻¹ [F, b + V η, V]
    """
    q = b.shape[-1]
    right = jnp.concatenate([F, (b + matvec(V, eta))[..., None], V], -1)
    found, _ = solve(jnp.eye(q, dtype=b.dtype) + V @ J, right)
    return found[..., : F.shape[-1]], found[..., -q - 1], symmetric(found[..., -q:])


def so_far(times: Stretch, parallel: bool) -> Stretch:
    """Times 1 .. t as one stretch, for every t."""
    if parallel:
        return jax.lax.associative_scan(join, times)

    def on(early: Stretch, now: Stretch) -> tuple[Stretch, Stretch]:
        both = join(early, now)
        return both, both

    first = jax.tree.map(lambda a: a[0], times)
    later = jax.lax.scan(on, first, jax.tree.map(lambda a: a[1:], times))[1]
    return jax.tree.map(lambda a, b: jnp.concatenate([a[:1], b]), times, later)


# ------------------------------------------------------------------------------ a diffuse start


class Told(NamedTuple):
    """What exp(ηᵀδ - ½ δᵀJ δ) says of δ, of which nothing was known before.

    Attributes:
      mean, cov: J⁻¹η [q] and J⁻¹ [q, q]; where nothing has been said yet, 0 and what stands in.
      log: log ∫ exp(ηᵀδ - ½ δᵀJ δ) dδ [] over what something has been said of.
    """

    mean: Array
    cov: Array
    log: Array


def tell(diffuse: Array, eta: Array, J: Array) -> Told:
    """What is known of δ by η [q] and J [q, q]; `diffuse` [q] is the variance that stands in."""
    said = jnp.diagonal(J)
    unsaid = 1 / jnp.where(diffuse > 0, diffuse, 1)
    # Each number by its own unit, lest one be lost in another's rounding.
    unit = jnp.sqrt(jnp.where(said > 0, said, unsaid))
    value, vector = jnp.linalg.eigh(J / jnp.outer(unit, unit))
    there = value > 100 * jnp.finfo(J.dtype).eps
    value = jnp.where(there, value, 1)
    cov = (vector / value) @ vector.T / jnp.outer(unit, unit)
    mean = cov @ eta
    # log |J| = Σ log λ + 2 Σ log unit
    log_det = jnp.sum(jnp.log(value)) + 2 * jnp.sum(jnp.where(said > 0, jnp.log(unit), 0))
    return Told(mean, cov, 0.5 * (eta @ mean - log_det + jnp.sum(there) * _LOG_2PI))


def integrated(F: Array, b: Array, V: Array, told: Told) -> tuple[Array, Array]:
    """N(F δ + b, V) with δ integrated out, over leading axes."""
    return b + matvec(F, told.mean), symmetric(V + F @ told.cov @ F.mT)
