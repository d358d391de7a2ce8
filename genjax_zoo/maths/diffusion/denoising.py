"""Denoising: what a network tells of noised data, how its errors are weighted, at which times.

What a network tells at a time is one linear combination of x and ε, and which one is its
parametrisation; with x_t = α x + σ ε it gives both. Floor 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from genjax_zoo.contract import Array, Key
from genjax_zoo.maths.diffusion.sde import Process, like, slope
from genjax_zoo.maths.probability.distributions import flat

# -------------------------------------------------------------------------- the parametrisations


class Prediction(NamedTuple):
    """What is known of x_t: the data and the noise it is made of, x_t = α x + σ ε.

    Attributes:
      x: E[x | x_t], [B, ...].
      noise: E[ε | x_t], [B, ...].
    """

    x: Array
    noise: Array


Predict = Callable[[Array, Array], Prediction]
"""(t [] or [B], x_t [B, ...]) -> Prediction, as a network or the truth gives it."""
Row = Callable[[Process, Array, float], tuple[Array, Array]]
"""(process, t, σ_data) -> (a, b): the network's output is a x + b ε."""


def _noise(process: Process, t: Array, data_std: float) -> tuple[Array, Array]:
    return jnp.zeros_like(t), jnp.ones_like(t)


def _data(process: Process, t: Array, data_std: float) -> tuple[Array, Array]:
    return jnp.ones_like(t), jnp.zeros_like(t)


def _score(process: Process, t: Array, data_std: float) -> tuple[Array, Array]:
    # ∇ log p(x_t) = -E[ε | x_t] / σ
    return jnp.zeros_like(t), -1 / process.sigma(t)


def _velocity(process: Process, t: Array, data_std: float) -> tuple[Array, Array]:
    # v = α ε - σ x: Salimans & Ho 2022 (arXiv:2202.00512), section 4
    return -process.sigma(t), process.alpha(t)


def _flow(process: Process, t: Array, data_std: float) -> tuple[Array, Array]:
    # dx_t/dt = α' x + σ' ε: Lipman et al. 2023 (arXiv:2210.02747), equation 14
    return process.rates(t)


def _preconditioned(process: Process, t: Array, data_std: float) -> tuple[Array, Array]:
    # F with x = c_skip x_t + c_out F and E[F²] = 1: Karras et al. 2022, table 1, where α = 1
    alpha, sigma = process.alpha(t), process.sigma(t)
    total = (alpha * data_std) ** 2 + sigma**2
    skip = alpha * data_std**2 / total
    out = sigma * data_std / jnp.sqrt(total)
    return (1 - skip * alpha) / out, -skip * sigma / out


PARAMETRISATIONS: Mapping[str, Row] = {
    "noise": _noise,
    "data": _data,
    "score": _score,
    "velocity": _velocity,
    "flow": _flow,
    "preconditioned": _preconditioned,
}
"""What a network's output may be, by the names that configs use."""


def target(
    process: Process, name: str, t: Array, x: Array, noise: Array, data_std: float = 0.5
) -> Array:
    """What the network's output should be: a x + b ε, [B, ...] for t [B]."""
    a, b = PARAMETRISATIONS[name](process, t, data_std)
    return like(a, x) * x + like(b, x) * noise


def prediction(
    process: Process, name: str, t: Array, x_t: Array, output: Array, data_std: float = 0.5
) -> Prediction:
    """x and ε, from x_t = α x + σ ε and `output` = a x + b ε: two linear equations."""
    a, b = (like(c, x_t) for c in PARAMETRISATIONS[name](process, t, data_std))
    alpha, sigma = like(process.alpha(t), x_t), like(process.sigma(t), x_t)
    det = alpha * b - sigma * a
    return Prediction((b * x_t - sigma * output) / det, (alpha * output - a * x_t) / det)


def inputs(process: Process, t: Array, x_t: Array, data_std: float = 0.5) -> tuple[Array, Array]:
    """What a network is shown of x_t [B, ...] and t [B]: numbers of size one, and `clock`."""
    scale = jnp.sqrt((process.alpha(t) * data_std) ** 2 + process.sigma(t) ** 2)
    return x_t / like(scale, x_t), clock(process, t)


def clock(process: Process, t: Array) -> Array:
    """λ(t) between its ends, in [0, 1000]: how noisy, whatever the process calls it.

    λ in place of t is what the network of Kingma et al. 2021 sees.
    """
    return 1000 / (1 + jnp.exp(0.25 * process.log_snr(t)))


# -------------------------------------------------------------------------------- the weightings


Weighting = Callable[[Process, Array, float], Array]
"""(process, t, σ_data) -> w(t) of |ε - ε̂|², which is SNR(t) times the squared error of x."""


def _simple(process: Process, t: Array, data_std: float) -> Array:
    # Ho et al. 2020, equation 14
    return jnp.ones_like(t)


def _likelihood(process: Process, t: Array, data_std: float) -> Array:
    # -λ'(t) / 2: the bound on log p(x) in nats, Kingma et al. 2021 (arXiv:2107.00630), equation 17
    return -0.5 * slope(process.log_snr, t)


def _clipped(process: Process, t: Array, data_std: float) -> Array:
    # min(SNR, 5) / SNR: Hang et al. 2023 (arXiv:2303.09556), section 3.4
    snr = jnp.exp(process.log_snr(t))
    return jnp.minimum(snr, 5.0) / snr


def _edm(process: Process, t: Array, data_std: float) -> Array:
    # (σ² + σ_data²) / (σ σ_data)² of x: Karras et al. 2022, table 1, whose σ is our σ / α
    return 1 + jnp.exp(-process.log_snr(t)) / data_std**2


def _flow_matching(process: Process, t: Array, data_std: float) -> Array:
    # |v - v̂|² of v = α' x + σ' ε, for an error of ε that leaves x_t as it is: equation 14 of
    # Lipman et al. 2023 in Ho's letters
    alpha_rate, sigma_rate = process.rates(t)
    return (sigma_rate - alpha_rate * process.sigma(t) / process.alpha(t)) ** 2


WEIGHTINGS: Mapping[str, Weighting] = {
    "simple": _simple,
    "likelihood": _likelihood,
    "clipped": _clipped,
    "edm": _edm,
    "flow": _flow_matching,
}
"""The weightings by the names that configs use."""


# ------------------------------------------------------------------------------------- the errors


def squared_error(key: Key, process: Process, predict: Predict, t: Array, x: Array) -> Array:
    """|ε - ε̂|² [B] of data x [B, ...] at times t [B], with one ε each."""
    noise = jax.random.normal(key, x.shape)
    error = noise - predict(t, process.noised(t, x, noise)).noise
    return jnp.sum(flat(error) ** 2, -1)


def times(key: Key, process: Process, n: int) -> Array:
    """n times over [start, end], each uniform, together evenly spread: Kingma et al. 2021, I.1."""
    u = (jax.random.uniform(key) + jnp.arange(n) / n) % 1
    return process.start + u * (process.end - process.start)


def mean_and_least_variance(
    of: Callable[[Any, Any], Array], params: Any, schedule: Any
) -> tuple[Array, Array]:
    """The mean of of(params, schedule) [B], and each; the schedule learns to make them equal.

    A bound does not depend on the shape of λ(t), but how far its estimates scatter does. The mean
    is returned with a gradient that is its own for `params`, and for `schedule`, whose leaves are
    [B], that of the mean square over twice the mean: Kingma et al. 2021, appendix I.2.
    """

    @jax.custom_vjp
    def mean(params: Any, schedule: Any) -> tuple[Array, Array]:
        each = of(params, schedule)
        return jnp.mean(each), each

    def forward(params: Any, schedule: Any):
        each, back = jax.vjp(of, params, schedule)
        return (jnp.mean(each), each), (each, back)

    def backward(kept: tuple[Array, Callable], slope: tuple[Array, Array]):
        each, back = kept
        of_params, of_schedule = back(jnp.full_like(each, 1 / len(each)) * slope[0])
        scale = each / jnp.mean(each)
        return of_params, jax.tree.map(lambda g: scale * g, of_schedule)

    mean.defvjp(forward, backward)
    return mean(params, schedule)
