"""Forward processes: how data become noise, from whichever side one looks at it.

A process takes x to x_t = α(t) x + σ(t) ε with ε ~ N(0, I), and nothing else is needed to know it.
It is a stochastic differential equation (Song et al. 2021, arXiv:2011.13456, equation 5)

    dx = f(t) x dt + g(t) dw,      f = α'/α,      g² = (σ²)' - 2 f σ²,

it is a Markov chain between any two times s < t (Ho et al. 2020, arXiv:2006.11239, equation 2)

    x_t = α_ts x_s + σ_ts ε,       α_ts = α_t / α_s,      σ_ts² = σ_t² - α_ts² σ_s²,

and with α = 1 it is noise of growing size (Song & Ermon 2019, arXiv:1907.05600). Time grows from
the data to the noise. Floor 1.
"""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from genjax_zoo import typed
from genjax_zoo.contract import Array, ConfigError
from genjax_zoo.typed import MOST_STEPS, choose, number

Schedule = Callable[[Array], Array]
"""(t) -> a number for each t, of the same shape; a smooth function."""


class Process(NamedTuple):
    """x_t = α(t) x + σ(t) ε.

    Attributes:
      alpha: t -> α(t), what is left of the data.
      sigma: t -> σ(t), the standard deviation of the noise.
      start: the smallest time, where x_t is as good as the data.
      end: the largest time, where x_t is as good as N(0, σ(end)² I).
    """

    alpha: Schedule
    sigma: Schedule
    start: float = 0.0
    end: float = 1.0

    def log_snr(self, t: Array) -> Array:
        """λ(t) = log(α² / σ²), which falls with t (Kingma et al. 2021, equation 3)."""
        return 2 * (jnp.log(self.alpha(t)) - jnp.log(self.sigma(t)))

    def rates(self, t: Array) -> tuple[Array, Array]:
        """α'(t), σ'(t)."""
        return slope(self.alpha, t), slope(self.sigma, t)

    def drift(self, t: Array) -> Array:
        """f(t) = α'(t) / α(t)."""
        return slope(lambda s: jnp.log(self.alpha(s)), t)

    def diffusion(self, t: Array) -> Array:
        """g(t)² = (σ²)'(t) - 2 f(t) σ²(t)."""
        return slope(lambda s: self.sigma(s) ** 2, t) - 2 * self.drift(t) * self.sigma(t) ** 2

    def between(self, s: Array, t: Array) -> tuple[Array, Array]:
        """α_ts and σ_ts² of x_t given x_s, for s < t."""
        alpha = self.alpha(t) / self.alpha(s)
        # σ_t² (1 - SNR_t / SNR_s): the difference of two near squares would lose its digits.
        left = -jnp.expm1(self.log_snr(t) - self.log_snr(s))
        return alpha, self.sigma(t) ** 2 * left

    def noised(self, t: Array, x: Array, noise: Array) -> Array:
        """x_t of x [B, ...] and ε [B, ...], at times t [B] or []."""
        return like(self.alpha(t), x) * x + like(self.sigma(t), x) * noise

    def time_of(self, log_snr: Array, rounds: int = 60) -> Array:
        """t with λ(t) = `log_snr`, by bisection between `start` and `end`."""
        low = jnp.full_like(log_snr, self.start)
        high = jnp.full_like(log_snr, self.end)

        def halve(_, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = ends
            middle = 0.5 * (low + high)
            later = self.log_snr(middle) > log_snr
            return jnp.where(later, middle, low), jnp.where(later, high, middle)

        low, high = jax.lax.fori_loop(0, rounds, halve, (low, high))
        return 0.5 * (low + high)


def slope(of: Schedule, t: Array) -> Array:
    """The derivative at every t."""
    t = jnp.asarray(t, float)
    return jax.jvp(of, (t,), (jnp.ones_like(t),))[1]


def like(t: Array, x: Array) -> Array:
    """t [B] or [] with as many axes as x [B, ...]."""
    t = jnp.asarray(t)
    return t.reshape(t.shape + (1,) * (x.ndim - t.ndim)) if t.ndim else t


# --------------------------------------------------------------------------------- the processes


def variance_preserving(
    beta_min: float = 0.1, beta_max: float = 20.0, start: float = 1e-5
) -> Process:
    """dx = -½ β x dt + √β dw with β linear in t: Song et al. 2021, equations 11 and 33."""
    alpha = lambda t: jnp.exp(_vp(beta_min, beta_max, t))
    sigma = lambda t: jnp.sqrt(-jnp.expm1(2 * _vp(beta_min, beta_max, t)))
    return Process(alpha, sigma, start)


def sub_variance_preserving(
    beta_min: float = 0.1, beta_max: float = 20.0, start: float = 1e-5
) -> Process:
    """The same mean and the square of the variance: Song et al. 2021, equation 12; σ = 1 - α²."""
    alpha = lambda t: jnp.exp(_vp(beta_min, beta_max, t))
    sigma = lambda t: -jnp.expm1(2 * _vp(beta_min, beta_max, t))
    return Process(alpha, sigma, start)


def _vp(beta_min: float, beta_max: float, t: Array) -> Array:
    # log α = -½ ∫_0^t β(s) ds
    return -0.25 * t**2 * (beta_max - beta_min) - 0.5 * t * beta_min


def cosine(offset: float = 0.008, start: float = 1e-3, end: float = 0.9946) -> Process:
    """α = cos(π/2 (t + s)/(1 + s)) over its first value: Nichol & Dhariwal 2021, equation 17.

    The end is where the paper's bound on β, .999, stops a chain of 1000 steps.
    """
    angle = lambda t: 0.5 * math.pi * (t + offset) / (1 + offset)
    first = math.cos(0.5 * math.pi * offset / (1 + offset))
    alpha = lambda t: jnp.cos(angle(t)) / first
    return Process(alpha, lambda t: jnp.sqrt(1 - alpha(t) ** 2), start, end)


def variance_exploding(sigma_min: float = 0.01, sigma_max: float = 50.0) -> Process:
    """α = 1, σ geometric from `sigma_min` to `sigma_max`: Song et al. 2021, equation 9."""
    ratio = sigma_max / sigma_min
    return Process(jnp.ones_like, lambda t: sigma_min * ratio**t)


def edm(sigma_min: float = 0.002, sigma_max: float = 80.0) -> Process:
    """α = 1, σ = t: Karras et al. 2022 (arXiv:2206.00364), table 1; time is the noise itself."""
    return Process(jnp.ones_like, lambda t: t, sigma_min, sigma_max)


def rectified_flow(start: float = 1e-3, end: float = 0.999) -> Process:
    """α = 1 - t, σ = t: the straight path of Liu et al. 2023 (arXiv:2209.03003), reversed.

    The end is short of 1, where nothing is left of the data and λ is infinite.
    """
    return Process(lambda t: 1 - t, lambda t: t, start, end)


def discrete(beta: np.ndarray) -> Process:
    """The chain of T steps with variances β_1 .. β_T, read at times i / T: Ho et al. 2020.

    Between those times log SNR is interpolated; the first step, from data without noise, has none.
    """
    # log ᾱ_i = Σ_{j ≤ i} log(1 - β_j)
    log_alpha = 0.5 * np.cumsum(np.log1p(-np.asarray(beta, np.float64)))
    at = (1 + np.arange(len(beta))) / len(beta)
    log_snr = 2 * log_alpha - np.log(-np.expm1(2 * log_alpha))
    snr = lambda t: jnp.interp(t, *(jnp.asarray(each, float) for each in (at, log_snr)))
    alpha = lambda t: jnp.sqrt(jax.nn.sigmoid(snr(t)))
    return Process(alpha, lambda t: jnp.sqrt(jax.nn.sigmoid(-snr(t))), 1 / len(beta), 1.0)


def linear_betas(steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> np.ndarray:
    """β_1 .. β_T of Ho et al. 2020, section 4."""
    return np.linspace(first, last, steps)


def of_log_snr(log_snr: Schedule, start: float = 0.0, end: float = 1.0) -> Process:
    """α² = sigmoid(λ), σ² = sigmoid(-λ): the process that preserves variance and has this λ(t)."""
    alpha = lambda t: jnp.exp(0.5 * jax.nn.log_sigmoid(log_snr(t)))
    return Process(alpha, lambda t: jnp.exp(0.5 * jax.nn.log_sigmoid(-log_snr(t))), start, end)


@struct.dataclass
class Monotone:
    """η, of a learnt schedule: Kingma et al. 2021, appendix H.

    Attributes:
      slope: [] of the straight part, through exp.
      height: [H] of the waves, through exp.
      width: [H] of them, through exp.
      place: [H] where they rise.
    """

    slope: Array
    height: Array
    width: Array
    place: Array


def monotone(waves: int = 32) -> Monotone:
    """A straight line, nearly, whose waves rise at even distances."""
    return Monotone(
        jnp.zeros(()),
        jnp.full(waves, -8.0),
        jnp.full(waves, math.log(waves)),
        (jnp.arange(waves) + 0.5) / waves,
    )


def learnt(eta: Monotone, most: float = 13.3, least: float = -9.0) -> Process:
    """λ falls from `most` to `least` in a shape that is learnt: Kingma et al. 2021, equation 4.

    The ends stay: with noise added to the data the likelihood would rise for ever with `most`.
    """

    def rise(t: Array) -> Array:
        waves = jax.nn.sigmoid(jnp.exp(eta.width) * (t[..., None] - eta.place))
        return jnp.exp(eta.slope) * t + jnp.sum(jnp.exp(eta.height) * waves, -1)

    first, last = rise(jnp.zeros(())), rise(jnp.ones(()))
    part = lambda t: (rise(jnp.asarray(t, float)) - first) / (last - first)
    return of_log_snr(lambda t: most + (least - most) * part(t))


def tangent(t: Array, log_snr: Array, slope: Array) -> Process:
    """The variance-preserving process with λ(t_i) = `log_snr`_i and λ'(t_i) = `slope`_i: all that
    a loss at the times t [B] sees of it."""
    return of_log_snr(lambda s: log_snr + slope * (s - t))


PROCESSES: Mapping[str, Callable[..., Process]] = {
    "variance_preserving": variance_preserving,
    "sub_variance_preserving": sub_variance_preserving,
    "variance_exploding": variance_exploding,
    "cosine": cosine,
    "edm": edm,
    "rectified_flow": rectified_flow,
    "ddpm": lambda steps=1000, first=1e-4, last=0.02: discrete(linear_betas(steps, first, last)),
}
"""The processes that are given, by the names that configs use; "learnt" is the one that is not."""


@typed.config
class Ends:
    """The numbers that a process is made of; None leaves the process its own.

    Attributes:
      beta_min, beta_max: of "variance_preserving" and "sub_variance_preserving".
      sigma_min, sigma_max: of "variance_exploding" and "edm".
      start, end: times, of "cosine", "rectified_flow" and, start alone, the first two.
      steps, first, last: of "ddpm": T, β_1 and β_T.
      most, least: λ at the ends of "learnt".
    """

    beta_min: float | None = number(None, least=0)
    beta_max: float | None = number(None, above=0)
    sigma_min: float | None = number(None, above=0)
    sigma_max: float | None = number(None, above=0)
    start: float | None = number(None, least=0, below=1)
    end: float | None = number(None, above=0, most=1)
    steps: int | None = number(None, least=1, most=MOST_STEPS)
    first: float | None = number(None, above=0, below=1)
    last: float | None = number(None, above=0, below=1)
    most: float | None = number(None, least=-100, most=100)
    least: float | None = number(None, least=-100, most=100)

    def chosen(self) -> dict[str, Any]:
        """Those that are not None."""
        return {name: value for name, value in vars(self).items() if value is not None}


_RISING = (
    ("beta_min", "beta_max", operator.le),
    ("sigma_min", "sigma_max", operator.lt),
    ("start", "end", operator.lt),
    ("first", "last", operator.le),
    ("least", "most", operator.lt),
)
"""The ends of which the first lies below the second; β may also stay where it is."""


def make(name: str, ends: Ends | None = None) -> Callable[..., Process]:
    """The process of that name with these numbers, as a function of η, which only "learnt" takes.

    Raises:
      ConfigError: for another name, or numbers that it is not made of.
    """
    process = choose(name, {**PROCESSES, "learnt": learnt}, "process")
    chosen = ends.chosen() if ends else {}
    signature = inspect.signature(process)
    own = [p for p in signature.parameters if p != "eta"]
    unknown = sorted(set(chosen) - set(own))
    if unknown:
        raise ConfigError(
            f"process {name!r} is not made of {', '.join(unknown)}; it takes {', '.join(own)}."
        )
    for low, high, below in _RISING:
        if low in own and high in own:
            a, b = (chosen.get(end, signature.parameters[end].default) for end in (low, high))
            if not below(a, b):
                raise ConfigError(f"process {name!r}: {low}={a} should lie below {high}={b}.")
    if name == "learnt":
        return lambda eta: learnt(eta, **chosen)
    made = process(**chosen)
    return lambda eta=None: made
