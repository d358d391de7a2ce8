"""What a diffusion model says of data: a bound, term by term, and the density of its ODE.

Floor 1. Kingma, Salimans, Poole & Ho, Variational diffusion models, 2021 (arXiv:2107.00630); Song,
Sohl-Dickstein, Kingma, Kumar, Ermon & Poole, Score-based generative modeling through stochastic
differential equations, 2021 (arXiv:2011.13456).
"""

from __future__ import annotations

import math
from collections.abc import Callable
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
    """The terms of the bound of x [B, ...], of a chain of evenly many steps in λ (VDM's).

    Args:
      draws: times and noises for each example.
      steps: T of the chain that the bound is of; 0 is for T without end.
    """
    first, last = jnp.asarray(process.start), jnp.asarray(process.end)
    most, least = process.log_snr(first), process.log_snr(last)

    def at(u: Array) -> tuple[Array, Array]:
        if not steps:
            # Evenly in λ, for most of the integral lies at times near the start.
            return process.time_of(least + (most - least) * u), 0.5 * (most - least)
        # ½ (SNR_s / SNR_t - 1) |ε - ε̂|² of one of the T steps t -> s: equation 13
        times = samplers.even_in_log_snr(process, steps)
        i = (u * steps).astype(jnp.int32)
        t, s = times[i], times[i + 1]
        return t, 0.5 * steps * jnp.expm1(process.log_snr(s) - process.log_snr(t))

    # (1) the diffusion loss
    between = _mean_error(key, process, predict, x, draws, at)
    # (2) the prior loss
    prior = prior_loss(process, x)
    # (3) the reconstruction loss of p(x | x_0) = N(x_0 / α, (σ / α)²), in the mean over x_0
    log_ratio = -0.5 * process.log_snr(first)
    reconstruction = x[0].size * (0.5 * math.log(2 * math.pi) + log_ratio + 0.5)
    return Terms(between, prior, jnp.full_like(prior, reconstruction))


def ancestral_terms(
    key: Key,
    process: Process,
    predict: Predict,
    x: Array,
    draws: int,
    times: Array,
    variance: samplers.Variance,
) -> Terms:
    """The same of the chain that ancestral sampling is: Ho et al. 2020, equation 5 (DDPM's).

        Σ_i KL(q(x_s | x_t, x) || N(x_s; μ(x_t, x̂), v_ts)) + KL(q(x_T | x) || N(0, σ_T²))
        - log N(x; x̂(x_1), σ_1²),    v_ts = β̃ or β

    With the smaller variance, β̃, each KL is that of `terms`; at DDPM's own times, few of which are
    at little noise, they add up to much more than evenly in λ. The larger one, β, loses nothing of
    data N(0, I).

    Args:
      draws: times and noises for each example, of the first sum.
      times: of the chain, from the end to the start; x itself comes after them.
      variance: which of the two.
    """
    later, earlier = times[:-1], times[1:]
    # β / v: β = σ_ts², β̃ = σ_ts² σ_s² / σ_t²
    narrow = (process.sigma(earlier) / process.sigma(later)) ** 2
    ratio = jnp.ones_like(narrow) if variance == "small" else narrow
    # ½ |x - x̂|² (SNR_s - SNR_t) β̃ / v: of all steps the more is drawn, the more it weighs
    weights = 0.5 * jnp.expm1(process.log_snr(earlier) - process.log_snr(later)) * ratio
    total = jnp.sum(weights)
    share = jnp.cumsum(weights) / total

    def at(u: Array) -> tuple[Array, Array]:
        i = jnp.minimum(jnp.searchsorted(share, u, side="right"), len(later) - 1)
        return later[i], total

    # (1) the KL of each step, its variances [] and its means [B]
    of_variances = 0.5 * x[0].size * jnp.sum(ratio - 1 - jnp.log(ratio))
    between = of_variances + _mean_error(key, process, predict, x, draws, at)
    # (2) the prior loss
    prior = prior_loss(process, x)
    # (3) the last step, to data
    t = jnp.full(len(x), process.start)
    alpha, sigma = process.alpha(t), process.sigma(t)
    error = squared_error(jax.random.fold_in(key, 2), process, predict, t, x)
    log_volume = 0.5 * x[0].size * jnp.log(2 * math.pi * sigma**2)
    return Terms(between, prior, log_volume + error / (2 * alpha**2))


def prior_loss(process: Process, x: Array) -> Array:
    """KL(q(x_T | x) || N(0, σ_T²)) = ½ |α x / σ|² [B] nats."""
    last = jnp.asarray(process.end)
    return 0.5 * (process.alpha(last) / process.sigma(last)) ** 2 * jnp.sum(flat(x) ** 2, -1)


def _mean_error(
    key: Key,
    process: Process,
    predict: Predict,
    x: Array,
    draws: int,
    at: Callable[[Array], tuple[Array, Array]],
) -> Array:
    """The mean of w |ε - ε̂|² [B] over draws of u in [0, 1), which `at` turns to (time, w)."""
    key_time, key_errors = jax.random.split(key)
    offset = jax.random.uniform(key_time)

    def one(draw: tuple[Array, Key]) -> Array:
        # Evenly spread over the draws of an example, and between them over the examples.
        k, key_error = draw
        t, weight = at((offset + (k + jnp.arange(len(x)) / len(x)) / draws) % 1)
        return weight * squared_error(key_error, process, predict, t, x)

    keys = jax.random.split(key_errors, draws)
    return jax.lax.map(one, (jnp.arange(draws), keys)).mean(0)


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


def end_error(key: Key, process: Process, x: Array) -> Array:
    """What `log_density` leaves out at the end, where it takes N(0, σ_T²): [B] nats.

    |log q(x_T) - log N(x_T; 0, σ_T²)| at an x_T ~ q(x_T | x), with the examples x themselves for
    the data that q(x_T) = E_x q(x_T | x) is the mean over. It is of the size of α_T, and not of its
    square, as in the mean over x_T, where it is a KL.
    """
    last = jnp.asarray(process.end)
    alpha, sigma = process.alpha(last), process.sigma(last)
    data = flat(x)
    noise = jax.random.normal(key, data.shape)
    # log N(x_T; α x', σ²) - log N(x_T; 0, σ²) = (α / σ) x'·x_T / σ - ½ (α / σ)² |x'|²
    ratio = alpha / sigma
    at = ratio * data + noise
    each = ratio * at @ data.T - 0.5 * ratio**2 * jnp.sum(data**2, -1)
    return jnp.abs(jax.nn.logsumexp(each, -1) - math.log(len(data)))


def encode(process: Process, predict: Predict, x: Array, solver: Solver) -> Array:
    """Where the ODE takes x, of N(0, I) if x is of the data: [B, ...]."""
    times = solver.times(process)
    return solver.integrate(process, predict, x, times) / process.sigma(times[-1])


def decode(process: Process, predict: Predict, latents: Array, solver: Solver) -> Array:
    """Back along the same ODE: latents [B, ...] of N(0, I) -> x [B, ...]."""
    times = solver.times(process)[::-1]
    return solver.integrate(process, predict, process.sigma(times[0]) * latents, times)
