"""Importance sampling: log p(x) as a mean over weights, and how far that mean can be trusted.

    p(x) ≈ 1/K Σ_k w_k,    w_k = p(x, z_k) / q(z_k | x),    z_k ~ q(z | x)

Where q has thinner tails than p(z | x) the weights have heavy ones: their mean then rests on draws
that K is too small to hold, and it lies below p(x) by far more than its own scatter shows. Two
numbers see that, for each example: how many of the draws carry the mean, and the index k̂ of the
Pareto tail that the largest weights follow. Moments of order 1 / k exist, so that above k = ½ the
weights have no variance; above .7 no K that one can wait for is enough (Vehtari, Simpson, Gelman,
Yao & Gabry, Pareto smoothed importance sampling, 2024, arXiv:1507.02646).

Floor 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from genjax_zoo.contract import Array, Key, Weighed

FEWEST = 25
"""Draws below which there is no tail to speak of: it is a fifth of them, and five at the least."""


def estimate(
    key: Key, log_weights: Callable[[Key, int], Array], draws: int, chunk: int = 50
) -> Weighed:
    """log 1/K Σ_k w_k over chunks of the K draws, so that any K fits the memory.

    Args:
      key: split among the chunks.
      log_weights: (key, n) -> log w of n draws, [n, B].
      draws: K.
      chunk: the most draws at once.
    """
    chunks = -(-draws // chunk)
    size = -(-draws // chunks)
    kept = tail_draws(draws) + 1

    def add(sums: tuple[Array, Array, Array], i: Array) -> tuple[tuple[Array, Array, Array], None]:
        log_sum, log_squares, largest = sums
        log_w = log_weights(jax.random.fold_in(key, i), size)
        # Nothing from beyond the K-th draw
        counts = (i * size + jnp.arange(size) < draws)[:, None]
        log_w = jnp.where(counts, log_w, -jnp.inf)
        largest = jax.lax.top_k(jnp.concatenate([largest, log_w.T], axis=1), kept)[0]
        more = (jax.nn.logsumexp(log_w, axis=0), jax.nn.logsumexp(2 * log_w, axis=0))
        sums = (jnp.logaddexp(log_sum, more[0]), jnp.logaddexp(log_squares, more[1]), largest)
        return sums, None

    like = jax.eval_shape(lambda: log_weights(key, size))
    none = jnp.full(like.shape[1], -jnp.inf, like.dtype)
    start = (none, none, jnp.full((*none.shape, kept), -jnp.inf, like.dtype))
    (log_sum, log_squares, largest), _ = jax.lax.scan(add, start, jnp.arange(chunks))
    return Weighed(
        value=log_sum - math.log(draws),
        # (Σ w)² / Σ w², and no draw carries what is 0
        effective=jnp.where(log_sum > -jnp.inf, jnp.exp(2 * log_sum - log_squares), 0.0),
        tail=tail_index(largest) if draws >= FEWEST else jnp.full_like(none, jnp.nan),
    )


def tail_draws(draws: int) -> int:
    """How many of K weights are their tail: min(K / 5, 3 √K), Vehtari et al. 2024, section 3.2."""
    return math.ceil(min(draws / 5, 3 * math.sqrt(draws)))


def largest_tail(draws: int) -> float:
    """The k̂ up to which a mean of K weights can be trusted: min(1 - 1 / log10 K, .7), ibid. eq. 13.

    No k̂ is small enough for K = 1.
    """
    return min(1 - 1 / math.log10(draws), 0.7) if draws > 1 else -math.inf


def trusted(found: Weighed, draws: int) -> np.ndarray:
    """Of which examples the estimate by K draws can be trusted: bool [B]. No k̂ is no trust."""
    return np.asarray(found.tail) <= largest_tail(draws)


def tail_index(log_w: Array) -> Array:
    """k̂ of the generalised Pareto distribution that the largest weights follow: [B].

    Zhang & Stephens 2009, a posterior mean of θ on a grid, and then ten draws of k = ½ as a prior
    (Vehtari et al. 2024, appendix C). With x the excess over the least of them,

        k(θ) = 1/M Σ_i log(1 - θ x_i),    log L(θ) = M [log(-θ / k(θ)) - k(θ) - 1].

    Args:
      log_w: log of the M + 1 largest weights [B, M + 1] nats, the largest first.

    Returns:
      k̂, 0 where all of them are equal to a hundredth: what is left may be rounding.
    """
    M = log_w.shape[1] - 1
    w = jnp.exp(log_w - log_w[:, :1])
    # What lies further below the largest than a float reaches is as good as nothing.
    x = jnp.maximum(w[:, :-1] - w[:, -1:], 1e-30)
    n = 30 + int(math.sqrt(M))
    at = 1 - np.sqrt(n / (np.arange(n) + 0.5))
    quartile = x[:, M - int(M / 4 + 0.5)]
    # θ_j [n, B]: prior of Zhang & Stephens, equation 7
    theta = at[:, None] / (3 * quartile) + 1 / x[:, 0]
    k_of = lambda theta: jnp.mean(jnp.log1p(-theta[:, None] * x), axis=1)
    k = jax.lax.map(k_of, theta)
    log_likelihood = M * (jnp.log(-theta / k) - k - 1)
    mean = jnp.sum(jax.nn.softmax(log_likelihood, axis=0) * theta, axis=0)
    found = (M * k_of(mean) + 10 * 0.5) / (M + 10)
    first, last = log_w[:, 0], log_w[:, -1]
    return jnp.where((first == last) | (first - last < 0.01), 0.0, found)
