"""Discrete codes behind data: the vectors that stand for them, and gradients past them.

    nearest           argmin_k ‖z - e_k‖                     a vector takes a code (VQ-VAE)
    straight_through  the code's value, the vector's gradient
    gumbel_softmax    softmax((l + g) / τ)                   a draw of codes, relaxed
    ema_update        e_k as a moving mean of what took it
    revive            a code that nothing takes begins anew

Floor 1. van den Oord, Vinyals & Kavukcuoglu, Neural discrete representation learning, 2017
(arXiv:1711.00937); the relaxation: Jang, Gu & Poole 2017 (arXiv:1611.01144); Maddison, Mnih & Teh
2017 (arXiv:1611.00712).
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import struct

from genjax_zoo.contract import Array, Key


@struct.dataclass
class Memory:
    """What a codebook remembers.

    Attributes:
      counts: N [K], moving counts of the vectors that took each code in a batch.
      sums: m [K, D], moving sums of those vectors.
      offers: [K, D], vectors of the last batch, one to stand in for each code that dies.
      even: [], the count of each code were all used alike: vectors in a batch / K.
    """

    counts: Array
    sums: Array
    offers: Array
    even: Array

    def means(self) -> Array:
        """e_k = m_k / N_k, [K, D]: van den Oord et al. 2017, appendix A.1, equation 6."""
        return self.sums / jnp.maximum(self.counts, 1e-6)[:, None]


def begin(codebook: Array, even: Array) -> Memory:
    """Of a codebook e [K, D] whose codes have all been used alike, `even` times a batch."""
    counts = jnp.full(len(codebook), even, jnp.float32)
    return Memory(counts, counts[:, None] * codebook, codebook, even)


def some_rows(key: Key, rows: Array, n: int) -> Array:
    """n random rows of [M, D], none twice before each was taken once: [n, D]."""
    return rows[jax.random.permutation(key, len(rows))[jnp.arange(n) % len(rows)]]


def nearest(vectors: Array, codebook: Array) -> Array:
    """argmin_k ‖z - e_k‖ (equation 1): z [..., D] and e [K, D] -> int32 [...]."""
    # ‖z - e_k‖² = ‖z‖² - 2 zᵀe_k + ‖e_k‖², whose first term has no say
    scores = jnp.sum(codebook**2, -1) - 2 * vectors @ codebook.T
    return jnp.argmin(scores, -1).astype(jnp.int32)


def straight_through(vectors: Array, quantised: Array) -> Array:
    """The value of `quantised`, whose gradient goes to `vectors` as if they were the same."""
    return vectors + jax.lax.stop_gradient(quantised - vectors)


def ema_update(memory: Memory, codes: Array, vectors: Array, decay: float) -> Memory:
    """Moving counts and sums after a batch: codes [M] that vectors [M, D] took (appendix A.1).

    N_k ← γ N_k + (1 - γ) n_k,    m_k ← γ m_k + (1 - γ) Σ_{i: z_i = k} z_e(x)_i
    """
    mix = lambda old, new: decay * old + (1 - decay) * new
    taken = jax.nn.one_hot(codes, memory.counts.size)  # [M, K]
    counts = mix(memory.counts, jnp.sum(taken, axis=0))
    sums = mix(memory.sums, taken.T @ vectors)
    return dataclasses.replace(memory, counts=counts, sums=sums)


def revive(codebook: Array, memory: Memory, below: float) -> tuple[Array, Memory, Array]:
    """Puts an offered vector in the place of each code whose count is less than `below` of even.

    "Random restarts": Dhariwal et al. 2020 (arXiv:2005.00341), section 3.1. A revived code begins
    with an even count, so that it is not dead again at once. Returns (codebook, memory, how many
    died []).
    """
    dead = memory.counts < below * memory.even
    counts = jnp.where(dead, memory.even, memory.counts)
    sums = jnp.where(dead[:, None], memory.even * memory.offers, memory.sums)
    codebook = jnp.where(dead[:, None], memory.offers, codebook)
    memory = dataclasses.replace(memory, counts=counts, sums=sums)
    return codebook, memory, jnp.sum(dead).astype(jnp.float32)


def perplexity(shares: Array) -> Array:
    """exp H of shares [K] that sum to one: K where all are alike, 1 where one has all."""
    return jnp.exp(-jnp.sum(jax.scipy.special.xlogy(shares, shares)))


def gumbel_softmax(key: Key, logits: Array, tau: Array | float, hard: bool = False) -> Array:
    """y = softmax((l + g) / τ), g Gumbel noise: [..., K] -> [..., K] (Jang et al., equation 2).

    As τ → 0, y becomes one-hot, a draw of Categorical(softmax(l)). `hard` makes it so at any τ,
    and leaves the gradient that of the relaxed one.
    """
    y = jax.nn.softmax((logits + jax.random.gumbel(key, logits.shape)) / tau)
    return straight_through(y, jax.nn.one_hot(jnp.argmax(y, -1), y.shape[-1])) if hard else y


def kl_to_uniform(log_q: Array) -> Array:
    """Σ_i KL(q_i || uniform) = Σ_i [log K - H(q_i)], in nats: [B, h, w, K] -> [B]."""
    k = log_q.shape[-1]
    return jnp.sum(jnp.exp(log_q) * (log_q + math.log(k)), axis=(1, 2, 3))
