"""The kinds of units of a Boltzmann machine, each a row of functions.

    bernoulli  V(v) = -(v - μ)ᵀb                p(v_i = 1 | o) = sigmoid(o_i)   v in {0, 1}, σ = 1
    gaussian   V(v) = Σ_i (v_i - b_i)² / 2σ_i²  p(v_i | o) = N(v_i; o_i, σ_i²)  v real
    softmax    V(v) = -(v - μ)ᵀb                p(v = e_i | o) = softmax(o)_i   one of C is on

V is the energy of a unit alone, o what the units that it is joined to make of it, b its bias and μ
its offset (boltzmann.py).

Floor 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from genjax_zoo.contract import BINARY, REAL, Array, Key, Space, categorical

LogStd = Any
"""log σ [n]; None for units without one."""


class Units(NamedTuple):
    """One kind of visible units, n of them.

    Attributes:
      mean: (o, log_std) -> E[v | o], [..., n] -> [..., n].
      draw: (key, o, log_std) -> v ~ p(v | o), the same shapes.
      energy: (v, b, mu, log_std) -> V(v), [..., n] -> [...] nats.
      log_sum: (o, b, mu, log_std) -> the log of the sum or integral over v of
        exp(-V(v) + ((v - μ) / σ²)ᵀ(o - b)), [..., n] -> [...] nats.
      precision: (log_std, n) -> 1 / σ² [n].
      rate: v [B, n] -> its base rates [n].
      bias: rate [n] -> the biases [n] of units that know nothing but their base rates.
      log_std: (v [B, n], σ) -> log σ [n] before anything is learnt; a σ of 0 takes the batch's.
      space: where v lies.
    """

    mean: Callable[[Array, LogStd], Array]
    draw: Callable[[Key, Array, LogStd], Array]
    energy: Callable[[Array, Array, Array, LogStd], Array]
    log_sum: Callable[[Array, Array, Array, LogStd], Array]
    precision: Callable[[LogStd, int], Array]
    rate: Callable[[Array], Array]
    bias: Callable[[Array], Array]
    log_std: Callable[[Array, float], LogStd]
    space: Space


def bernoulli(key: Key, p: Array) -> Array:
    """Units that are 1. with probability p, else 0."""
    return jax.random.bernoulli(key, p).astype(p.dtype)


def _gaussian_log_sum(o: Array, b: Array, mu: Array, log_std: Array) -> Array:
    # Σ_i (o_i - b_i)((o_i + b_i) / 2 - μ_i) / σ_i² + ½ log 2πσ_i²
    gain = (o - b) * ((o + b) / 2 - mu) * jnp.exp(-2 * log_std)
    return jnp.sum(gain + log_std + 0.5 * math.log(2 * math.pi), axis=-1)


def _gaussian_log_std(v: Array, std: float) -> Array:
    if std:
        return jnp.full(v.shape[1], math.log(std), jnp.float32)
    # A unit that never changes, like a corner of an image, would have no density.
    return jnp.log(jnp.maximum(jnp.std(v, axis=0), 1e-2))


UNITS: Mapping[str, Units] = {
    "bernoulli": Units(
        mean=lambda o, log_std: jax.nn.sigmoid(o),
        draw=lambda key, o, log_std: bernoulli(key, jax.nn.sigmoid(o)),
        energy=lambda v, b, mu, log_std: -(v - mu) @ b,
        log_sum=lambda o, b, mu, log_std: jnp.sum(jax.nn.softplus(o), axis=-1) - o @ mu,
        precision=lambda log_std, n: jnp.ones(n),
        rate=lambda v: (v.sum(0) + 1) / (v.shape[0] + 2),
        bias=lambda rate: jnp.log(rate) - jnp.log1p(-rate),
        log_std=lambda v, std: None,
        space=BINARY,
    ),
    "gaussian": Units(
        mean=lambda o, log_std: o,
        draw=lambda key, o, log_std: o + jnp.exp(log_std) * jax.random.normal(key, o.shape),
        energy=lambda v, b, mu, log_std: 0.5 * jnp.sum(((v - b) * jnp.exp(-log_std)) ** 2, axis=-1),
        log_sum=_gaussian_log_sum,
        precision=lambda log_std, n: jnp.exp(-2 * log_std),
        rate=lambda v: v.mean(0),
        bias=lambda rate: rate,
        log_std=_gaussian_log_std,
        space=REAL,
    ),
    "softmax": Units(
        mean=lambda o, log_std: jax.nn.softmax(o),
        # A stream apart from that of x beside it.
        draw=lambda key, o, log_std: jax.nn.one_hot(
            jax.random.categorical(jax.random.fold_in(key, 1), o), o.shape[-1]
        ),
        energy=lambda v, b, mu, log_std: -(v - mu) @ b,
        log_sum=lambda o, b, mu, log_std: jax.nn.logsumexp(o, axis=-1) - o @ mu,
        precision=lambda log_std, n: jnp.ones(n),
        rate=lambda v: (v.sum(0) + 1) / (v.shape[0] + v.shape[1]),
        bias=jnp.log,
        log_std=lambda v, std: None,
        space=categorical(),
    ),
}
