"""The few log-densities that models are made of, in nats, summed over the last axis.

Floor 1. Every function takes arrays [..., D] that broadcast against each other and returns [...].
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from genjax_zoo.contract import BINARY, Array

_LOG_2PI = math.log(2 * math.pi)


def flat(x: Array) -> Array:
    """Examples [B, ...] as vectors [B, D], which the densities below are of."""
    return x.reshape(x.shape[0], -1)


def bernoulli(x: Array, logits: Array) -> Array:
    """log Π_d Bernoulli(x_d; sigmoid(l_d)), for x_d in {0, 1}.

        log p = Σ_d [x_d l_d - log(1 + exp(l_d))]

    For other x this is a cross entropy and the logarithm of no density: see `is_binary`.
    """
    return jnp.sum(x * logits - jax.nn.softplus(logits), axis=-1)


def is_binary(x: Array) -> Array:
    """Whether x lies in {0, 1}^D, the support of `bernoulli`: [..., D] -> bool [...]."""
    return jnp.all(BINARY.has(x), axis=-1)


def inverse(log_std: Array | float) -> Array:
    """1 / σ, or that of the least σ that a float holds, log σ = -87 in float32: never infinite.

    What lies within such a σ of the mean is the mean itself, and 0 / σ is to be 0.
    """
    log_std = jnp.asarray(log_std)
    least = math.log(jnp.finfo(jnp.result_type(log_std, float)).tiny)
    return jnp.exp(-jnp.maximum(log_std, least))


def gaussian(x: Array, mean: Array | float, log_std: Array | float) -> Array:
    """log Π_d N(x_d; μ_d, σ_d²), with log σ given; in nats per unit volume of x.

    log p = -½ Σ_d [((x_d - μ_d) / σ_d)² + 2 log σ_d + log 2π]
    """
    z = (x - mean) * inverse(log_std)
    return -0.5 * jnp.sum(z**2 + 2 * log_std + _LOG_2PI, axis=-1)


def gaussian_of_noise(noise: Array, log_std: Array) -> Array:
    """log N(μ + σ ε; μ, σ²) of the noise ε that it was drawn by, in nats per unit volume.

    Of x itself the ε could not be had back where σ is small beside μ: (x - μ) / σ is rounded.
    """
    return gaussian(noise, 0.0, 0.0) - jnp.sum(log_std, axis=-1)


def gaussian_kl(
    mean: Array, log_std: Array, prior_mean: Array | float = 0.0, prior_log_std: Array | float = 0.0
) -> Array:
    """KL(N(μ, σ²) || N(m, s²)) of diagonal Gaussians; the second one is standard if not given.

        KL = ½ Σ_d [(σ_d² + (μ_d - m_d)²) / s_d² - 1 + 2 log(s_d / σ_d)]

    Kingma & Welling 2014, appendix B, has it for m = 0, s = 1.
    """
    prior_log_std = jnp.asarray(prior_log_std)
    spread = jnp.exp(2 * (log_std - prior_log_std))
    shift = ((mean - prior_mean) * inverse(prior_log_std)) ** 2
    return 0.5 * jnp.sum(spread + shift - 1 + 2 * (prior_log_std - log_std), axis=-1)


def discretised_logistic(x: Array, mean: Array, log_scale: Array, levels: int) -> Array:
    """log Π_d P(x_d) on the grid {0, 1, ..., levels - 1} / (levels - 1): a logistic, rounded.

        P(x) = σ((x + δ - μ) / s) - σ((x - δ - μ) / s),     δ = ½ / (levels - 1)

    and what lies beyond the ends is theirs: no lower bin at 0, no upper one at 1 (Salimans et al.,
    PixelCNN++, 2017, equation 2, with one logistic). With a and b the two arguments,

        log P(x) = log σ(a) + log σ(-b) + log(1 - exp(b - a)),    a - b = 2δ / s

    is that difference without a cancellation; at 0 only its first term is left, at 1 its second.
    For x off the grid, which is UNIT.of(levels), this is the logarithm of no probability.
    """
    half = 0.5 / (levels - 1)
    rate = jnp.exp(-log_scale)
    up = jax.nn.log_sigmoid((x + half - mean) * rate)
    down = jax.nn.log_sigmoid((mean - x + half) * rate)
    inside = jnp.log(-jnp.expm1(-2 * half * rate))
    bottom, top = x < half, x > 1 - half
    nats = jnp.where(bottom, up, jnp.where(top, down, up + down + inside))
    return jnp.sum(nats, axis=-1)


def categorical(x: Array, logits: Array) -> Array:
    """log Π_d P(x_d), x [..., D] on the grid {0, ..., K - 1} / (K - 1), logits [..., D, K].

    log P(x) = l_k - log Σ_j exp(l_j),     k = x (K - 1)
    """
    levels = logits.shape[-1]
    k = jnp.round(x * (levels - 1))[..., None]
    # As a sum over all levels, for x and logits may each be broadcast.
    chosen = jnp.where(k == jnp.arange(levels), jax.nn.log_softmax(logits), 0.0)
    return jnp.sum(chosen, axis=(-2, -1))


MARGIN = 0.1
"""ε of the logit-Laplace: x in [0, 1] is squeezed into [ε, 1 - ε], where the logit is finite."""


def logit_laplace(x: Array, location: Array, log_scale: Array | float) -> Array:
    """log density of x in [0, 1] in nats per unit volume.

    Ramesh et al. 2021, appendix A.3: u = (1 - 2ε) x + ε has a logit that is Laplace(μ, b),

        log p(x) = Σ_d [-|logit u_d - μ_d| / b_d - log 2 b_d u_d (1 - u_d) + log(1 - 2ε)].

    It puts some of its mass a little beyond [0, 1], so what it says of [0, 1] errs downwards.
    """
    u = (1 - 2 * MARGIN) * x + MARGIN
    log_scale = jnp.asarray(log_scale)
    logit = jnp.log(u) - jnp.log1p(-u)
    volume = jnp.log(2 * u * (1 - u)) + log_scale - math.log(1 - 2 * MARGIN)
    return jnp.sum(-jnp.abs(logit - location) * inverse(log_scale) - volume, axis=-1)
