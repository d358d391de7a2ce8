"""The few log-densities that models are made of, in nats, summed over the last axis.

Floor 1. Every function takes arrays [..., D] that broadcast against each other and returns [...].
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from genjax_zoo.contract import Array

_LOG_2PI = math.log(2 * math.pi)


def bernoulli(x: Array, logits: Array) -> Array:
    """log Π_d Bernoulli(x_d; sigmoid(l_d)), for x_d in {0, 1}.

        log p = Σ_d [x_d l_d - log(1 + exp(l_d))]

    For other x this is a cross entropy and the logarithm of no density: see `is_binary`.
    """
    return jnp.sum(x * logits - jax.nn.softplus(logits), axis=-1)


def is_binary(x: Array) -> Array:
    """Whether x lies in {0, 1}^D, the support of `bernoulli`: [..., D] -> bool [...]."""
    return jnp.all((x == 0) | (x == 1), axis=-1)


def gaussian(x: Array, mean: Array | float, log_std: Array | float) -> Array:
    """log Π_d N(x_d; μ_d, σ_d²), with log σ given; in nats per unit volume of x.

    log p = -½ Σ_d [((x_d - μ_d) / σ_d)² + 2 log σ_d + log 2π]
    """
    z = (x - mean) * jnp.exp(-jnp.asarray(log_std))
    return -0.5 * jnp.sum(z**2 + 2 * log_std + _LOG_2PI, axis=-1)


def gaussian_kl(
    mean: Array, log_std: Array, prior_mean: Array | float = 0.0, prior_log_std: Array | float = 0.0
) -> Array:
    """KL(N(μ, σ²) || N(m, s²)) of diagonal Gaussians; the second one is standard if not given.

        KL = ½ Σ_d [(σ_d² + (μ_d - m_d)²) / s_d² - 1 + 2 log(s_d / σ_d)]

    Kingma & Welling 2014, appendix B, has it for m = 0, s = 1.
    """
    prior_log_std = jnp.asarray(prior_log_std)
    spread = jnp.exp(2 * (log_std - prior_log_std))
    shift = ((mean - prior_mean) * jnp.exp(-prior_log_std)) ** 2
    return 0.5 * jnp.sum(spread + shift - 1 + 2 * (prior_log_std - log_std), axis=-1)
