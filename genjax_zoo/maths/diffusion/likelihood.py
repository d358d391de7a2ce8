"""What a diffusion model says of data: a bound, term by term, and the density of its ODE.

Floor 1. Kingma, Salimans, Poole & Ho, Variational diffusion models, 2021 (arXiv:2107.00630); Song,
Sohl-Dickstein, Kingma, Kumar, Ermon & Poole, Score-based generative modeling through stochastic
differential equations, 2021 (arXiv:2011.13456).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genjax_zoo.contract import Array, Key
from genjax_zoo.maths.diffusion import ode, samplers
from genjax_zoo.maths.diffusion.denoising import Predict, squared_error
from genjax_zoo.maths.diffusion.sde import Process
from genjax_zoo.maths.probability.distributions import flat

# --------------------------------------------------------------------------------------- the bound


class Terms(NamedTuple):
    """What the bound is made of, each [B] nats: Kingma et al. 2021, equations 12 to 17.

        log p(x) >= -(½ ∫ E|ε - ε̂|² dλ + KL(q(x_T | x) || N(0, σ_T²)) - E log p(x | x_0))

    Attributes:
      diffusion: the first term.
      prior: the second.
      reconstruction: the third.
    """

    diffusion: Array
    prior: Array
    reconstruction: Array

    def bound(self) -> Array:
        """The lower bound of log p(x) [B] nats."""
        return -(self.diffusion + self.prior + self.reconstruction)


def terms(
    key: Key, process: Process, predict: Predict, x: Array, draws: int = 16, steps: int = 0
) -> Terms:
    """The terms of the bound of x [B, ...].

    Args:
      draws: times and noises for each example.
      steps: T of the chain that the bound is of; 0 is for T without end.
    """
    x_flat = flat(x)
    first, last = jnp.asarray(process.start), jnp.asarray(process.end)
    most, least = process.log_snr(first), process.log_snr(last)

    key_time, key_errors = jax.random.split(key)
    offset = jax.random.uniform(key_time)

    def diffusion(draw: tuple[Array, Key]) -> Array:
        # Evenly spread over the draws of an example, and between them over the examples.
        k, key_error = draw
        u = (offset + (k + jnp.arange(len(x)) / len(x)) / draws) % 1
        if not steps:
            # Evenly in λ, for most of the integral lies at times near the start.
            t = process.time_of(least + (most - least) * u)
            return 0.5 * (most - least) * squared_error(key_error, process, predict, t, x)
        # ½ (SNR_s / SNR_t - 1) |ε - ε̂|² of one of the T steps t -> s: equation 13
        times = samplers.even_in_log_snr(process, steps)
        i = (u * steps).astype(jnp.int32)
        t, s = times[i], times[i + 1]
        gain = jnp.expm1(process.log_snr(s) - process.log_snr(t))
        return 0.5 * steps * gain * squared_error(key_error, process, predict, t, x)

    # (1) the diffusion loss
    keys = jax.random.split(key_errors, draws)
    between = jax.lax.map(diffusion, (jnp.arange(draws), keys)).mean(0)
    # (2) the prior loss, KL(N(α x, σ²) || N(0, σ²))
    prior = 0.5 * (process.alpha(last) / process.sigma(last)) ** 2 * jnp.sum(x_flat**2, -1)
    # (3) the reconstruction loss of p(x | x_0) = N(x_0 / α, (σ / α)²), in the mean over x_0
    log_ratio = -0.5 * process.log_snr(first)
    reconstruction = x_flat.shape[-1] * (0.5 * math.log(2 * math.pi) + log_ratio + 0.5)
    return Terms(between, prior, jnp.full_like(prior, reconstruction))


# ----------------------------------------------------------------------------------------- the ODE


class Solver(NamedTuple):
    """How the probability-flow ODE is solved, from the data to the noise and back.

    Attributes:
      method: a name in ode.METHODS.
      steps: of a fixed method, evenly in log SNR.
      tolerance: of one that chooses its own steps.
    """

    method: str = "rk4"
    steps: int = 25
    tolerance: float = 1e-4

    def coarser(self) -> Solver:
        """Half the steps, or ten times the tolerance."""
        return Solver(self.method, (self.steps + 1) // 2, 10 * self.tolerance)

    def integrate(self, process: Process, predict: Predict, x: Array, times: Array) -> Array:
        """x [B, ...] carried from times[0] to times[-1]."""
        field = samplers.velocity(process, predict)
        return ode.integrate(field, x, times, self.method, self.tolerance)

    def times(self, process: Process) -> Array:
        """From the data to the noise."""
        return samplers.even_in_log_snr(process, self.steps)[::-1]


def log_density(
    key: Key, process: Process, predict: Predict, x: Array, solver: Solver, probes: int = 0
) -> Array:
    """log p(x) = log N(x_T; 0, σ_T²) + ∫ ∇·v dt [B] nats: Song et al. 2021, equation 39.

    Args:
      probes: of Hutchinson's trace, by the key; 0 takes the exact one, of D slopes.
    """
    field, times = samplers.velocity(process, predict), solver.times(process)
    log_std = jnp.log(process.sigma(times[-1]))
    own = (solver.method, solver.tolerance)
    return ode.log_density(key, field, x, times, log_std, probes, *own)


def encode(process: Process, predict: Predict, x: Array, solver: Solver) -> Array:
    """Where the ODE takes x, of N(0, I) if x is of the data: [B, ...]."""
    times = solver.times(process)
    return solver.integrate(process, predict, x, times) / process.sigma(times[-1])


def decode(process: Process, predict: Predict, latents: Array, solver: Solver) -> Array:
    """Back along the same ODE: latents [B, ...] of N(0, I) -> x [B, ...]."""
    times = solver.times(process)[::-1]
    return solver.integrate(process, predict, process.sigma(times[0]) * latents, times)
