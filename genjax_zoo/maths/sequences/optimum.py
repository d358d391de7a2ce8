"""The best that a policy near a reference can be: in closed form, by rejection, and by best of n.

Floor 1. Over all distributions p, for a reward r(x) and a reference q,

    E_p[r(x)] - b KL(p, q)    is highest at    p*(x) = q(x) exp(r(x) / b) / Z

where it is b log Z (Peters, Mülling & Altün 2010; of language models Korbak, Perez & Buckley 2022).
All x are enumerated on the last axis.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from genjax_zoo.contract import Array, Key


def optimum(log_q: Array, reward: Array, beta: float) -> tuple[Array, Array]:
    """(log p* [..., X], its value b log Z [...]), of log q and r [..., X] and b = beta > 0."""
    tilted = log_q + reward / beta
    log_z = jax.nn.logsumexp(tilted, axis=-1, keepdims=True)
    return tilted - log_z, beta * log_z[..., 0]


def divergence(log_p: Array, log_q: Array) -> Array:
    """KL(p, q) in nats [...], of log p and log q [..., X]; what p never draws counts as nothing."""
    p = jnp.exp(log_p)
    return jnp.sum(jnp.where(p > 0, p * (log_p - log_q), 0.0), axis=-1)


def accept(key: Key, reward: Array, highest: float, beta: float) -> Array:
    """Which draws of q [n] to keep, with exp((r - max r) / b): those that are kept are drawn of p*.

    Args:
      key: of the decision.
      reward: r of each draw.
      highest: max r over all x.
      beta: b.
    """
    return jnp.log(jax.random.uniform(key, reward.shape)) < (reward - highest) / beta


def best_of_n(log_q: Array, reward: Array, n: int) -> Array:
    """log of the distribution [X] of the draw with the highest reward among n of q.

    Of draws that are worth the same the first is taken. Without ties its KL from q is
    log n - (n - 1) / n, which with ties is only an upper bound (Beirami et al. 2024).
    """
    # P(no draw is worth more than x) and P(all are worth less): their difference is P(worth of x)
    below, at = (
        jnp.sum(jnp.where(which, jnp.exp(log_q), 0.0), axis=-1)
        for which in (reward < reward[:, None], reward == reward[:, None])
    )
    # Within what is worth the same, as q has it.
    return log_q + jnp.log((below + at) ** n - below**n) - jnp.log(at)
