"""Three ways to learn an energy u [B, ...] -> [B] nats, whose log Z is unknown, without a chain.

    score_matching     Hyvärinen, Estimation of non-normalized statistical models by score matching,
                       2005; in random directions Song, Garg, Shi & Ermon, Sliced score matching,
                       2019 (arXiv:1905.07088)
    denoising          Vincent, A connection between score matching and denoising autoencoders, 2011
    noise_contrastive  Gutmann & Hyvärinen, Noise-contrastive estimation of unnormalized statistical
                       models, 2012

Floor 1. Each returns a loss per example [B].
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from genjax_zoo.contract import Array, Key
from genjax_zoo.maths.mcmc.langevin import Energy, half_square, slope


def score_matching(key: Key, energy: Energy, u: Array, slices: int = 0) -> Array:
    """½ ‖ψ(u)‖² + tr ∇ψ(u), ψ = -∇E: in the mean the Fisher divergence but for a constant.

    Hyvärinen 2005, equation 4. With `slices` the trace is vᵀ ∇ψ v averaged over as many random
    v ~ N(0, I) (Song et al. 2019, equation 8: the one whose first term is exact).

    Args:
      key: of v.
      energy: E.
      u: [B, ...].
      slices: how many; 0 takes all directions once.
    """
    gradient, curve = jax.vjp(lambda u: slope(energy, u)[1], u)
    if slices:
        v = jax.random.normal(key, (slices, *u.shape))
    else:
        eye = jnp.eye(u[0].size).reshape(-1, 1, *u.shape[1:])
        v = jnp.broadcast_to(eye, (u[0].size, *u.shape))
    # vᵀ H v of each direction and example, H = ∇²E = -∇ψ
    curvature = jax.vmap(lambda v: jnp.sum((v * curve(v)[0]).reshape(len(u), -1), -1))(v)
    trace = curvature.mean(0) if slices else curvature.sum(0)
    return half_square(gradient) - trace


def denoising(key: Key, energy: Energy, u: Array, sigma: float) -> Array:
    """σ²/2 ‖ψ(ũ) - (u - ũ) / σ²‖², ũ = u + σ ξ  (Vincent 2011, equation 11, times σ²)."""
    xi = jax.random.normal(key, u.shape)
    psi = -slope(energy, u + sigma * xi)[1]
    # (u - ũ) / σ² = -ξ / σ
    return half_square(sigma * psi + xi)


def noise_contrastive(data: Array, noise: Array) -> Array:
    """-log h(u) - Σ_ν log(1 - h(u')),  h = p / (p + ν q)  (Gutmann & Hyvärinen 2012, equation 8).

    Args:
      data: log p / q of the data [B].
      noise: log p / q of the noise [ν B].
    """
    ratio = len(noise) // len(data)
    at_noise = jax.nn.softplus(noise - math.log(ratio)).reshape(ratio, -1)
    return jax.nn.softplus(math.log(ratio) - data) + at_noise.sum(0)
