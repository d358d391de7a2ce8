"""Markov chains as pure functions: a state, a kernel that leaves a distribution as it is, a count.

Floor 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from genjax_zoo.contract import Array, Key

S = TypeVar("S")


def run(key: Key, state: S, kernel: Callable[[Key, S], S], k: int) -> S:
    """k >= 1 steps of a chain: state ← kernel(key, state).

    Args:
      key: each step has its own, split off this one.
      state: any pytree; chains that run side by side lie along its leading axes.
      kernel: (key, state) -> state of the same shapes and dtypes.
      k: how many steps; not traced.
    """
    keys = jax.random.split(key, k)
    if k > 1:
        state, _ = jax.lax.scan(lambda s, one: (kernel(one, s), None), state, keys[:-1])
    # The last step stands outside of the loop, where the compiler can share its products with
    # whatever is done with the outcome.
    return kernel(keys[-1], state)


def block_gibbs(
    key: Key,
    hidden: Array,
    visible_given: Callable[[Key, Array], Array],
    hidden_given: Callable[[Key, Array], Array],
    k: int,
) -> tuple[Array, Array]:
    """Gibbs sampling in two blocks, each drawn at once given the other (Geman & Geman 1984).

        v ~ p(v | h),   h ~ p(h | v),   k times

    The joint distribution p(v, h) is left as it is.

    Args:
      key: of the draws.
      hidden: h [M, ...], where the M chains start.
      visible_given: (key, h) -> v, a draw from p(v | h).
      hidden_given: (key, v) -> h, a draw from p(h | v).
      k: how many times, at least 1.

    Returns:
      (v, h) of the last time, h drawn given v.
    """

    def both(key: Key, vh: tuple[Array, Array]) -> tuple[Array, Array]:
        key_v, key_h = jax.random.split(key)
        v = visible_given(key_v, vh[1])
        return v, hidden_given(key_h, v)

    key_first, key_rest = jax.random.split(key)
    if k == 1:
        return both(key_first, (hidden, hidden))
    # The first step finds the shape of v, which the loop needs to begin with.
    return run(key_rest, both(key_first, (hidden, hidden)), both, k - 1)


def swap(key: Key, betas: Array, u: Array, x: S) -> tuple[S, Array]:
    """Neighbours on a ladder of inverse temperatures trade places (parallel tempering).

        log p*_β(x) = g(x) + β u(x)

        x_r <-> x_r+1 with probability min(1, exp((β_r+1 - β_r)(u(x_r) - u(x_r+1))))

    First the pairs (0, 1), (2, 3), ..., then (1, 2), (3, 4), ...; each trade leaves the product of
    the tempered distributions as it is (Swendsen & Wang 1986; Geyer 1991).

    Args:
      key: of the draws.
      betas: β [R].
      u: u(x) [R, M] of each replica of each of M chains, in nats.
      x: the replicas, a pytree with leading axes [R, M].

    Returns:
      (x after the trades, the part of the proposals that each pair took [R - 1]).
    """
    R, M = u.shape
    source = jnp.broadcast_to(jnp.arange(R)[:, None], (R, M))
    accepted = jnp.zeros(R - 1)
    for parity, own in enumerate(jax.random.split(key)):
        low = jnp.arange(parity, R - 1, 2)
        here = jnp.take_along_axis(u, source, axis=0)
        log_ratio = (betas[low + 1] - betas[low])[:, None] * (here[low] - here[low + 1])
        yes = jnp.log(jax.random.uniform(own, log_ratio.shape)) < log_ratio
        one, other = source[low], source[low + 1]
        source = source.at[low].set(jnp.where(yes, other, one))
        source = source.at[low + 1].set(jnp.where(yes, one, other))
        accepted = accepted.at[low].set(jnp.mean(yes, axis=1))

    def move(leaf: Array) -> Array:
        return jnp.take_along_axis(leaf, source.reshape(R, M, *(1,) * (leaf.ndim - 2)), axis=0)

    return jax.tree.map(move, x), accepted
