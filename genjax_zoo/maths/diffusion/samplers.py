"""From noise to data: every sampler of a diffusion model, one a screen, for any process.

A sampler goes down a grid of times, end = t_N > ... > t_0 = start, with

    predict(t, x_t) -> Prediction     E[x | x_t] and E[ε | x_t], each [B, ...]

and returns x at the last time. All are of one signature, (key, process, predict, x, times), what is
theirs alone comes after. With the exact prediction each is a discretisation of the same reverse
process; they differ in how many predictions they need. Floor 1.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from genjax_zoo import typed
from genjax_zoo.contract import Array, Key
from genjax_zoo.maths.diffusion import ode
from genjax_zoo.maths.diffusion.denoising import Predict
from genjax_zoo.maths.diffusion.sde import Process
from genjax_zoo.typed import MOST_STEPS, choose, number

Sampler = Callable[..., Array]
Variance = Literal["small", "large"]
"""Of an ancestral step: β̃, which is that of q(x_s | x_t, x), or β, that of q(x_t | x_s)."""


# ----------------------------------------------------------------------------------------- grids


def even(process: Process, steps: int) -> Array:
    """`steps` + 1 times from end to start, evenly spaced."""
    return jnp.linspace(process.end, process.start, steps + 1)


def even_in_log_snr(process: Process, steps: int) -> Array:
    """Times at which λ rises by equal amounts: Lu et al. 2022 (arXiv:2206.00927), section 3.3."""
    ends = process.log_snr(jnp.array([process.end, process.start]))
    inner = process.time_of(jnp.linspace(ends[0], ends[1], steps + 1)[1:-1])
    return jnp.concatenate([jnp.array([process.end]), inner, jnp.array([process.start])])


def karras(process: Process, steps: int, rho: float = 7.0) -> Array:
    """Times at which (σ / α)^(1/ρ) falls by equal amounts: Karras et al. 2022, equation 5."""
    ends = jnp.exp(-0.5 * process.log_snr(jnp.array([process.end, process.start])))
    ratio = jnp.linspace(ends[0] ** (1 / rho), ends[1] ** (1 / rho), steps + 1)[1:-1] ** rho
    inner = process.time_of(-2 * jnp.log(ratio))
    return jnp.concatenate([jnp.array([process.end]), inner, jnp.array([process.start])])


def _down(step: Callable, key: Key, x: Array, times: Array) -> Array:
    """x after step(key, x, t, s) for each neighbouring t > s of the grid."""

    def one(x: Array, each: tuple[Key, Array, Array]) -> tuple[Array, None]:
        return step(each[0], x, each[1], each[2]), None

    keys = jax.random.split(key, len(times) - 1)
    return jax.lax.scan(one, x, (keys, times[:-1], times[1:]))[0]


# ------------------------------------------------------------------------------------ stochastic


def ancestral(
    key: Key,
    process: Process,
    predict: Predict,
    x: Array,
    times: Array,
    variance: Variance = "small",
) -> Array:
    """x_s ~ q(x_s | x_t, x̂): Ho et al. 2020, equations 6, 7 and 11.

    Args:
      variance: "small", β̃, that of q(x_s | x_t, x), or "large", β, which is right for data N(0, I).
    """

    def step(key: Key, x_t: Array, t: Array, s: Array) -> Array:
        a_ts, v_ts = process.between(s, t)
        v_s, v_t = process.sigma(s) ** 2, process.sigma(t) ** 2
        # μ = α_ts σ_s² / σ_t² x_t + α_s σ_ts² / σ_t² x̂
        mean = a_ts * v_s / v_t * x_t + process.alpha(s) * v_ts / v_t * predict(t, x_t).x
        spread = jnp.sqrt(v_ts * v_s / v_t) if variance == "small" else jnp.sqrt(v_ts)
        return mean + spread * jax.random.normal(key, x_t.shape)

    return _down(step, key, x, times)


def ddim(
    key: Key, process: Process, predict: Predict, x: Array, times: Array, eta: float = 0.0
) -> Array:
    """x_s = α_s x̂ + √(σ_s² - τ²) ε̂ + τ z: Song, Meng & Ermon 2021 (arXiv:2010.02502), equation 12.

    Args:
      eta: 0 draws nothing, 1 is `ancestral` with the small variance.
    """

    def step(key: Key, x_t: Array, t: Array, s: Array) -> Array:
        seen, v_ts = predict(t, x_t), process.between(s, t)[1]
        sigma = process.sigma(s)
        # τ = η √(σ_ts² σ_s² / σ_t²)
        tau = eta * jnp.sqrt(v_ts) * sigma / process.sigma(t)
        z = jax.random.normal(key, x_t.shape)
        return process.alpha(s) * seen.x + jnp.sqrt(sigma**2 - tau**2) * seen.noise + tau * z

    return _down(step, key, x, times)


def reverse_sde(key: Key, process: Process, predict: Predict, x: Array, times: Array) -> Array:
    """dx = [f x - g² ∇log p] dt + g dw̄, by Euler and Maruyama: Song et al. 2021, equation 6."""

    def step(key: Key, x_t: Array, t: Array, s: Array) -> Array:
        score = -predict(t, x_t).noise / process.sigma(t)
        f, g2, h = process.drift(t), process.diffusion(t), t - s
        noise = jax.random.normal(key, x_t.shape)
        return x_t - h * (f * x_t - g2 * score) + jnp.sqrt(g2 * h) * noise

    return _down(step, key, x, times)


def annealed_langevin(
    key: Key,
    process: Process,
    predict: Predict,
    x: Array,
    times: Array,
    rate: float = 2e-5,
    corrector_steps: int = 1,
) -> Array:
    """Langevin steps at every noise, from the largest: Song & Ermon 2019, algorithm 1.

    Args:
      rate: ε; the size of a step at noise σ is ε σ² / σ_last².
      corrector_steps: T, at each noise; the paper takes 100.
    """
    last = process.sigma(times[-1])

    def step(key: Key, x: Array, t: Array, s: Array) -> Array:
        size = rate * (process.sigma(s) / last) ** 2
        # To the next noise's own scale, then as many steps as wanted.
        x = process.alpha(s) / process.alpha(t) * x
        return _langevin(key, process, predict, x, s, size, corrector_steps)

    return _down(step, key, x, times)


def _langevin(
    key: Key, process: Process, predict: Predict, x: Array, t: Array, size: Array, steps: int
) -> Array:
    """x + ½ ε ∇log p(x) + √ε z, `steps` times."""

    def step(x: Array, key: Key) -> tuple[Array, None]:
        score = -predict(t, x).noise / process.sigma(t)
        return x + 0.5 * size * score + jnp.sqrt(size) * jax.random.normal(key, x.shape), None

    return jax.lax.scan(step, x, jax.random.split(key, steps))[0]


def predictor_corrector(
    key: Key,
    process: Process,
    predict: Predict,
    x: Array,
    times: Array,
    snr: float = 0.16,
    corrector_steps: int = 1,
) -> Array:
    """A step of the reverse SDE, then Langevin steps at the new time: Song et al. 2021, alg. 2-5.

    Args:
      snr: r of algorithms 4 and 5: the size of a Langevin step is 2 (r |z| / |∇log p|)², where |z|
        and the score's norm are those they have in the mean, √D and √D / σ.
      corrector_steps: M, after each step of the SDE.
    """

    def step(key: Key, x_t: Array, t: Array, s: Array) -> Array:
        key_predict, key_correct = jax.random.split(key)
        x_s = reverse_sde(key_predict, process, predict, x_t, jnp.stack([t, s]))
        # In Song's letters a step is x + ε ∇log p + √(2 ε) z: half of ours.
        size = 4 * (snr * process.sigma(s)) ** 2
        return _langevin(key_correct, process, predict, x_s, s, size, corrector_steps)

    return _down(step, key, x, times)


# --------------------------------------------------------------------------------- deterministic


def velocity(process: Process, predict: Predict) -> Callable[[Array, Array], Array]:
    """(t, x) -> dx/dt of the probability-flow ODE, α' x̂ + σ' ε̂: Song et al. 2021, equation 13."""

    def field(t: Array, x: Array) -> Array:
        alpha_rate, sigma_rate = process.rates(t)
        seen = predict(t, x)
        return alpha_rate * seen.x + sigma_rate * seen.noise

    return field


def euler(key: Key, process: Process, predict: Predict, x: Array, times: Array) -> Array:
    """The probability-flow ODE by Euler's method; one prediction a step, nothing drawn."""
    field = velocity(process, predict)
    return _down(lambda _, x, t, s: x + (s - t) * field(t, x), key, x, times)


def heun(key: Key, process: Process, predict: Predict, x: Array, times: Array) -> Array:
    """The same by Heun's second-order method: Karras et al. 2022, algorithm 1; two a step."""
    field = velocity(process, predict)

    def step(_: Key, x_t: Array, t: Array, s: Array) -> Array:
        first = field(t, x_t)
        second = field(s, x_t + (s - t) * first)
        return x_t + 0.5 * (s - t) * (first + second)

    return _down(step, key, x, times)


def dpm_solver(key: Key, process: Process, predict: Predict, x: Array, times: Array) -> Array:
    """DPM-Solver++(2M): Lu et al. 2022 (arXiv:2211.01095), algorithm 2; one prediction a step."""
    log_ratio = lambda t: 0.5 * process.log_snr(t)

    def step(carry: tuple, each: tuple[Array, Array]) -> tuple[tuple, None]:
        x_t, before, h_before = carry
        t, s = each
        seen, h = predict(t, x_t).x, log_ratio(s) - log_ratio(t)
        # D = (1 + 1/(2r)) x̂_t - 1/(2r) x̂_before, r = h_before / h; the first step has none before
        half = jnp.where(h_before > 0, h / (2 * jnp.maximum(h_before, 1e-12)), 0.0)
        mixed = (1 + half) * seen - half * before
        # x_s = σ_s / σ_t x_t - α_s (e^-h - 1) D
        x_s = process.sigma(s) / process.sigma(t) * x_t - process.alpha(s) * jnp.expm1(-h) * mixed
        return (x_s, seen, h), None

    start = (x, jnp.zeros_like(x), jnp.zeros(()))
    return jax.lax.scan(step, start, (times[:-1], times[1:]))[0][0]


def adaptive(
    key: Key,
    process: Process,
    predict: Predict,
    x: Array,
    times: Array,
    tolerance: float = 1e-4,
) -> Array:
    """The same between the ends of the grid, by Dormand and Prince's method of order 5.

    It chooses its own steps, six predictions each: Song et al. 2021, section 4.3.

    Args:
      tolerance: relative and absolute, of a step.
    """
    ends = jnp.stack([times[0], times[-1]])
    return ode.integrate(velocity(process, predict), x, ends, "dopri5", tolerance)


# ----------------------------------------------------------------------------------- inpainting


def inpaint(
    key: Key,
    process: Process,
    predict: Predict,
    x: Array,
    times: Array,
    known: Array,
    mask: Array,
    resampling_steps: int = 10,
    variance: Variance = "small",
) -> Array:
    """Ancestral sampling of what is not known: RePaint, Lugmayr et al. 2022, algorithm 1.

    It is biased, for the two parts of x_t know too little of each other, and U is what that is
    mended by. Of x_2 given x_1 = 1.5, both N(0, 1) with correlation .9, the exact score and 200
    times, the mean and the deviation are

        U        1       10      true           at as many predictions in all, 200
        mean     .94     1.32    1.35           1.29 by U = 10 with 20 times
        std      .55     .40     .44            .33 (.49 with the larger variance)

    and of a mixture of three, whose other modes the known part all but excludes, -.49, -1.02 and
    truly -1.17. At 200 predictions U = 10 has 1.29 and -.93, guidance by the gradient of the
    reconstruction (Song, Vahdat, Mardani & Kautz 2023) 1.27 and -.66, and particles (Trippe et al.
    2023) 1.2 to 1.4 with deviations of .3, twenty of them -1.10: no one of them is the best
    throughout, and the simplest is here.

    Args:
      known: an x [B, ...], of which what the mask leaves out is not looked at.
      mask: like it, True where it is known and False where it is to be drawn.
      resampling_steps: U, how often each step is taken, with noise put back between; 1 is the
        replacement method of Song et al. 2021, appendix I.2.
      variance: of the ancestral steps.
    """

    def step(key: Key, x_t: Array, t: Array, s: Array) -> Array:
        def one(x_t: Array, each: tuple[Key, Array]) -> tuple[Array, None]:
            key_known, key_drawn, key_back = jax.random.split(each[0], 3)
            kept = process.noised(s, known, jax.random.normal(key_known, x.shape))
            drawn = ancestral(key_drawn, process, predict, x_t, jnp.stack([t, s]), variance)
            x_s = jnp.where(mask, kept, drawn)
            a_ts, v_ts = process.between(s, t)
            again = a_ts * x_s + jnp.sqrt(v_ts) * jax.random.normal(key_back, x.shape)
            return jnp.where(each[1], x_s, again), None

        last = jnp.arange(resampling_steps) == resampling_steps - 1
        return jax.lax.scan(one, x_t, (jax.random.split(key, resampling_steps), last))[0]

    return _down(step, key, x, times)


SAMPLERS: dict[str, Sampler] = {
    "ancestral": ancestral,
    "ddim": ddim,
    "reverse_sde": reverse_sde,
    "annealed_langevin": annealed_langevin,
    "predictor_corrector": predictor_corrector,
    "euler": euler,
    "heun": heun,
    "dpm_solver": dpm_solver,
    "adaptive": adaptive,
}
"""The samplers by the names that configs use."""
GRIDS: dict[str, Callable[..., Array]] = {
    "even": even,
    "even_in_log_snr": even_in_log_snr,
    "karras": karras,
}
"""The grids of times by the names that configs use."""


@typed.config
class Config:
    """How samples are drawn.

    Attributes:
      name: in SAMPLERS.
      grid: in GRIDS, and `steps` how many it has.
      eta: of "ddim".
      variance: of "ancestral", and of inpainting, "small" or "large".
      rate: of "annealed_langevin".
      snr: of "predictor_corrector".
      corrector_steps: of the Langevin chains of either, at each noise.
      resampling_steps: of inpainting, how often it takes each step, and so how many times as much
        it costs. By 1 what is drawn hardly knows what is given: the mean of a number with
        correlation .9 is 30 % too near to 0, by 10 it is 2 % (`inpaint`).
      tolerance: of "adaptive", which of the grid takes the ends alone.
      rho: of the grid "karras".
    """

    name: str = "ancestral"
    grid: str = "even"
    steps: int = number(200, least=1, most=MOST_STEPS)
    eta: float = number(0.0, least=0, most=1)
    variance: Variance = "small"
    rate: float = number(2e-5, above=0, most=1)
    snr: float = number(0.16, above=0, most=10)
    corrector_steps: int = number(1, least=1, most=MOST_STEPS)
    resampling_steps: int = number(10, least=1, most=MOST_STEPS)
    tolerance: float = number(1e-4, least=1e-12, most=0.1)
    rho: float = number(7.0, above=0, most=100)

    def __post_init__(self):
        choose(self.name, SAMPLERS, "sampler")
        choose(self.grid, GRIDS, "grid")

    def times(self, process: Process) -> Array:
        """The grid [steps + 1], from the end to the start."""
        return GRIDS[self.grid](process, self.steps, **self.own(GRIDS[self.grid]))

    def own(self, of: Callable) -> dict[str, Any]:
        """Of the fields those that a sampler or a grid names."""
        named = inspect.signature(of).parameters
        fields = [f.name for f in dataclasses.fields(self) if f.name not in ("name", "steps")]
        return {name: getattr(self, name) for name in fields if name in named}


def make(config: Config) -> Callable[..., Array]:
    """(key, process, predict, x at the end, known part) -> x of the data, without noise.

    The known part of x is (known, mask), as `inpaint` takes them, which then draws the rest by
    ancestral steps; None leaves x to the config's sampler.
    """
    sampler = SAMPLERS[config.name]
    own = config.own(sampler)

    def draw(
        key: Key,
        process: Process,
        predict: Predict,
        x: Array,
        part: tuple[Array, Array] | None = None,
    ) -> Array:
        times = config.times(process)
        if part is None:
            x = sampler(key, process, predict, x, times, **own)
        else:
            x = inpaint(key, process, predict, x, times, *part, **config.own(inpaint))
        # What is left of noise at the last time is taken away: Jolicoeur-Martineau et al. 2021.
        x = predict(jnp.asarray(process.start), x).x
        return x if part is None else jnp.where(part[1], part[0], x)

    return draw
