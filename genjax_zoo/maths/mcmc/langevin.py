"""Langevin dynamics: chains that follow the slope of an energy, and where they are kept.

    x' = x - ε/2 ∇E(x) + √ε ξ,     ξ ~ N(0, I)

For small ε the chain's distribution nears p(x) = exp(-E(x)) / Z; for any other it is off by a
little (on N(0, 1) the stationary variance is 1 / (1 - ε/4)), and a Metropolis test sets it right.

Floor 1. An energy is a function x [N, ...] -> [N] nats, each row's of that row alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genjax_zoo.contract import Array, Key
from genjax_zoo.maths.mcmc.ais import Path

Energy = Callable[[Array], Array]
"""x [N, ...] -> E(x) [N] nats."""


def slope(energy: Energy, x: Array) -> tuple[Array, Array]:
    """(E(x) [N], ∇E(x) [N, ...])."""
    value, pull = jax.vjp(energy, x)
    return value, pull(jnp.ones_like(value))[0]


def unadjusted(
    key: Key,
    x: Array,
    energy: Energy,
    step: Array | float,
    noise: float | None = None,
    clip: float = 0.0,
) -> Array:
    """One step without a test: x - ε/2 ∇E(x) + σ ξ  (Roberts & Tweedie 1996, section 1.4.1).

    Args:
      key: of the draws.
      x: where the N chains are [N, ...].
      energy: E.
      step: ε.
      noise: σ; None is √ε. Another one samples, nearly, exp(-E / T) at temperature T = σ² / ε.
      clip: the largest |∂E/∂x_d| that is followed; 0 follows all. A force that is cut off is that
        of another energy.
    """
    force = slope(energy, x)[1]
    if clip:
        force = jnp.clip(force, -clip, clip)
    sigma = jnp.sqrt(step) if noise is None else noise
    return x - step / 2 * force + sigma * jax.random.normal(key, x.shape, x.dtype)


class Proposal(NamedTuple):
    """Where the Metropolis-adjusted chain might go.

    Attributes:
      x: the place itself [N, ...].
      log_ratio: log of p(x') q(x | x') / p(x) q(x' | x) [N] nats; it goes there with probability
        min(1, ratio).
    """

    x: Array
    log_ratio: Array


def propose(xi: Array, x: Array, energy: Energy, step: Array | float) -> Proposal:
    """x' = x - ε/2 ∇E(x) + √ε ξ, and how likely it is to be taken.

        log q(x' | x) = -‖x' - x + ε/2 ∇E(x)‖² / 2ε + constant

    Args:
      xi: ξ, standard normal [N, ...].
      x, energy, step: as in `unadjusted`.
    """
    E, g = slope(energy, x)
    there = x - step / 2 * g + jnp.sqrt(step) * xi
    E_there, g_there = slope(energy, there)
    squares = lambda a: jnp.sum(a.reshape(len(a), -1) ** 2, axis=1)
    forth = -squares(there - x + step / 2 * g) / (2 * step)
    back = -squares(x - there + step / 2 * g_there) / (2 * step)
    return Proposal(there, E - E_there + back - forth)


def adjusted(key: Key, x: Array, energy: Energy, step: Array | float) -> tuple[Array, Array]:
    """One Metropolis-adjusted step (Roberts & Tweedie 1996, section 1.4.2): p is left as it is.

    It is reversible with respect to p, as annealed importance sampling backwards asks for.

    Returns:
      (x, whether each of the proposals was taken: bool [N]).
    """
    key_xi, key_test = jax.random.split(key)
    there = propose(jax.random.normal(key_xi, x.shape, x.dtype), x, energy, step)
    # A proposal where the energy is not a number compares false, and is refused.
    taken = jnp.log(jax.random.uniform(key_test, (len(x),))) < there.log_ratio
    return jnp.where(taken.reshape(-1, *(1,) * (x.ndim - 1)), there.x, x), taken


# ------------------------------------------------------------------------ from a Gaussian to there


def steps_between(first: float, last: float) -> Callable[[Array], Array]:
    """ε(β) = ε_0^(1 - β) ε_1^β: steps that shrink evenly while a distribution sharpens."""
    return lambda beta: jnp.exp((1 - beta) * math.log(first) + beta * math.log(last))


def path(tilt: Energy, shape: tuple[int, ...], first: float, last: float) -> Path:
    """log p*_β(u) = log N(u; 0, I) - β f(u), from the Gaussian to exp(-f) times it.

    Args:
      tilt: f, u [N, ...] -> [N] nats.
      shape: of one u.
      first, last: ε of the Metropolis-adjusted steps at the Gaussian and at the end.
    """
    constant, step_at = math.prod(shape) / 2 * math.log(2 * math.pi), steps_between(first, last)

    def log_density(beta: Array, u: Array) -> Array:
        return -beta * tilt(u) - half_square(u) - constant

    def transition(key: Key, beta: Array, u: Array) -> Array:
        return adjusted(key, u, lambda u: -log_density(beta, u), step_at(beta))[0]

    base = lambda key, n: jax.random.normal(key, (n, *shape))
    return Path(base, log_density, transition, 0.0)


def half_square(u: Array) -> Array:
    """½ ‖u‖² of each: [N, ...] -> [N]."""
    return 0.5 * jnp.sum(u.reshape(len(u), -1) ** 2, axis=-1)


# ---------------------------------------------------------------------------------- the buffer


def draw(key: Key, buffer: Array, fresh: Array, rate: float) -> tuple[Array, Array]:
    """Some of the buffer's chains, a few of which begin anew (Du & Mordatch 2019, section 3.2).

    Args:
      key: of the draws.
      buffer: M chains [M, ...].
      fresh: N <= M new beginnings [N, ...].
      rate: the probability that a chain begins anew.

    Returns:
      (x [N, ...], which chains of the buffer they are: int [N], all different).
    """
    key_which, key_fresh = jax.random.split(key)
    n = len(fresh)
    which = jax.random.choice(key_which, len(buffer), (n,), replace=False)
    anew = jax.random.bernoulli(key_fresh, rate, (n,))
    return jnp.where(anew.reshape(-1, *(1,) * (fresh.ndim - 1)), fresh, buffer[which]), which


def keep(buffer: Array, which: Array, x: Array) -> Array:
    """The buffer with the chains [N] where they have come to, x [N, ...]."""
    return buffer.at[which].set(x)
