"""Estimators of KL(p, q) from draws of p, of which only log p and log q are known.

Floor 1. With r = q(x) / p(x) and x ~ p (Schulman, Approximating KL divergence, 2020):

    estimator          mean over p     its gradient, differentiated at x ~ p held still
    k1 = -log r        KL(p, q)        0
    k2 = ½ (log r)²    neither         the gradient of KL(p, q)
    k3 = r - 1 - log r KL(p, q)        the gradient of KL(q, p)

k1 and k3 have no bias as numbers, and the wrong gradient as losses. As part of a reward, where it
is a number and log p alone is differentiated, k1 gives the gradient of KL(p, q); so do k1 and k3 in
a loss that weighs each draw by p(x) / p_old(x), for there the weight is differentiated too.

Of a string, log r of each symbol is what its own conditional says. Their sum is log r of the whole:
k1 of the symbols adds up to k1 of the string, and k2 and k3 do so only as numbers of each symbol
given the ones before.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from genjax_zoo.contract import Array


def k1(log_r: Array) -> Array:
    """-log r: without bias, and negative where q is above p."""
    return -log_r


def k2(log_r: Array) -> Array:
    """½ (log r)²: biased, and never negative."""
    return log_r**2 / 2


def k3(log_r: Array) -> Array:
    """r - 1 - log r: without bias, and never negative."""
    # r - 1 by expm1: for r near 1 the difference is all there is.
    return jnp.expm1(log_r) - log_r


ESTIMATORS: dict[str, Callable[[Array], Array]] = {"k1": k1, "k2": k2, "k3": k3}
"""log r = log q(x) - log p(x), x ~ p -> an estimate of KL(p, q) in nats, of the same shape."""
