"""What variational bounds on log p(x) have in common. Floor 1.

    L_K = E[log 1/K Σ_k w_k],    w_k = p(x, z_k) / q(z_k | x),    z_k ~ q(z | x)

L_1 is the evidence lower bound, and L_K rises with K to log p(x): Burda, Grosse & Salakhutdinov,
Importance weighted autoencoders, 2016 (arXiv:1509.00519), theorem 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from genjax_zoo.contract import Array, Batch, Key, Measure, State


def log_mean(log_w: Array) -> Array:
    """log 1/K Σ_k w_k: [K, B] nats -> [B] (equation 8)."""
    return jax.nn.logsumexp(log_w, axis=0) - math.log(len(log_w))


def shares(log_w: Array) -> Array:
    """w̃_k = w_k / Σ_j w_j, [K, B], as constants."""
    return jax.lax.stop_gradient(jax.nn.softmax(log_w, axis=0))


def effective_samples(share: Array) -> Array:
    """1 / Σ_k w̃_k², between 1 and K: how many of the K draws count, [K, B] -> mean []."""
    return jnp.mean(1 / jnp.sum(share**2, axis=0))


def importance(
    key: Key, log_weights: Callable[[Key, int], Array], draws: int, chunk: int = 50
) -> Array:
    """log 1/K Σ_k w_k over chunks of the K draws, so that any K fits the memory: [B] nats.

    Args:
      key: split among the chunks.
      log_weights: (key, n) -> log w of n draws, [n, B].
      draws: K.
      chunk: the most draws at once.
    """
    chunks = -(-draws // chunk)
    size = -(-draws // chunks)

    def add(log_sum: Array, i: Array) -> tuple[Array, None]:
        log_w = log_weights(jax.random.fold_in(key, i), size)
        # Nothing from beyond the K-th draw
        counts = (i * size + jnp.arange(size) < draws)[:, None]
        log_w = jnp.where(counts, log_w, -jnp.inf)
        return jnp.logaddexp(log_sum, jax.nn.logsumexp(log_w, axis=0)), None

    examples = jax.eval_shape(lambda: log_weights(key, size)).shape[1]
    log_sum, _ = jax.lax.scan(add, jnp.full(examples, -jnp.inf), jnp.arange(chunks))
    return log_sum - math.log(draws)


def warm_up(weight: float, step: Array, steps: int) -> Array:
    """β_t = β min(1, t / steps), t steps after the start: Sønderby et al. 2016, section 2.3."""
    return weight * jnp.minimum(1.0, step / steps)


def free_bits(kl: Array, nats: float) -> Array:
    """Σ_j max(λ, E_batch[KL_j]): Kingma et al. 2016, equation 15.

    Args:
      kl: [B, G] nats, of each of G groups of latent dimensions.
      nats: λ, what each group has for nothing. 0 leaves the KL as it is: by one draw its estimate
        may be negative.
    """
    each = jnp.mean(kl, axis=0)
    return jnp.sum(jnp.maximum(nats, each) if nats else each)


def bits(nats: Measure, levels: int) -> Measure:
    """-log₂ P(x) / D of a probability of grey levels, in place of its nats."""

    def value(key: Key, state: State, batch: Batch) -> Array:
        return -nats(key, state, batch) / (math.prod(batch["x"].shape[1:]) * math.log(2))

    detail = f"{nats.detail}, {levels} levels"
    return Measure(value, nats.exactness, "bits/dim", "lower", detail)
