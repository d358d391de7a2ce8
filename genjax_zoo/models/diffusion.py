"""Diffusion: one process, many names; process, parametrisation, weighting and sampler are free.

    x_t = α(t) x + σ(t) ε                the forward process        sde.PROCESSES
    F_θ(x_t, t) = a(t) x̂ + b(t) ε̂        what the network tells     sde.PARAMETRISATIONS
    L = E_t w(t) |ε - ε̂|²                what it learns from        sde.WEIGHTINGS
    x_end -> ... -> x_start              how samples are drawn      samplers.SAMPLERS

DDPM (Ho et al. 2020) is "ddpm", "noise", "simple", "ancestral"; NCSN (Song & Ermon 2019) is
"variance_exploding", "score", "simple", "annealed_langevin"; score SDEs (Song et al. 2021) are
"variance_preserving", "noise", "likelihood" and any sampler; EDM (Karras et al. 2022) is "edm",
"preconditioned", "edm", "heun" on the grid "karras"; rectified flow (Liu et al. 2023) is
"straight", "flow", "flow", "euler". Each of the four is one field of the config.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from genjax_zoo import distributions, nets, samplers, sde
from genjax_zoo.contract import (
    Array,
    Batch,
    ConfigError,
    DataError,
    Evidence,
    Info,
    Key,
    Measure,
    Model,
)
from genjax_zoo.learn import descend, learnt, of_params
from genjax_zoo.sde import PARAMETRISATIONS, PROCESSES, WEIGHTINGS, Prediction, like
from genjax_zoo.typed import check_labels, choose

VERB = "descend"


@dataclasses.dataclass(frozen=True)
class Config:
    """A diffusion model.

    Attributes:
      process: a name in sde.PROCESSES.
      parametrisation: a name in sde.PARAMETRISATIONS.
      weighting: a name in sde.WEIGHTINGS.
      sampling: how samples are drawn: sampler, grid of times and steps.
      data_std: σ_data, of the preconditioning and the weighting "edm".
      network: what the denoiser is made of.
      classes: how many labels condition the samples; 0 takes no notice of them.
      text: the encoder of the tokens [B, T] in batch["text"], if texts condition the samples.
      unconditional: the part of examples whose label or text is hidden in training, which guidance
        needs.
      guidance: w of ε̂ = (1 + w) ε̂(label) - w ε̂: Ho & Salimans 2022, equation 6; 0 is none.
      bound_samples: times and noises per example for `bound`.
      ode_steps: of the probability-flow ODE for `log_prob`, two predictions and slopes each.
      probes: of Hutchinson's trace; 0 takes the exact one, of D slopes.
      average: decay of the moving average of the parameters.
    """

    process: str = "variance_preserving"
    parametrisation: str = "noise"
    weighting: str = "simple"
    sampling: samplers.Config = dataclasses.field(default_factory=samplers.Config)
    data_std: float = 0.5
    network: nets.Denoiser = dataclasses.field(default_factory=nets.Denoiser)
    classes: int = 0
    text: nets.Text = dataclasses.field(default_factory=nets.Text)
    unconditional: float = 0.1
    guidance: float = 0.0
    bound_samples: int = 16
    ode_steps: int = 50
    probes: int = 1
    average: float = 0.999

    def __post_init__(self):
        choose(self.process, PROCESSES, "process")
        choose(self.parametrisation, PARAMETRISATIONS, "parametrisation")
        choose(self.weighting, WEIGHTINGS, "weighting")
        for name in ("bound_samples", "ode_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"diffusion: {name} should be at least 1, got {getattr(self, name)}."
                )
        if min(self.classes, self.probes) < 0:
            raise ConfigError("diffusion: classes and probes should be at least 0.")
        if self.data_std <= 0:
            raise ConfigError(f"diffusion: data_std should be positive, got {self.data_std}.")
        if not 0 <= self.unconditional <= 1:
            raise ConfigError(
                f"diffusion: unconditional should lie in [0, 1], got {self.unconditional}."
            )
        if not 0 <= self.average < 1:
            raise ConfigError(f"diffusion: average should lie in [0, 1), got {self.average}.")
        if self.classes and self.text.vocabulary:
            raise ConfigError(
                "diffusion: either labels or texts condition the samples; set model.classes or "
                "model.text.vocabulary to 0."
            )
        told = self.classes or self.text.vocabulary
        if self.guidance and not (told and self.unconditional):
            raise ConfigError(
                "diffusion: guidance needs labels or texts and a network that has seen examples "
                "without them; set model.classes or model.text, and model.unconditional."
            )


@struct.dataclass
class Params:
    """What a diffusion model learns.

    Attributes:
      network: θ, of (x_t, t, label) -> F_θ.
      shape: of one example.
    """

    network: Any
    shape: tuple[int, ...] = struct.field(pytree_node=False)


def make(config: Config, tx: optax.GradientTransformation) -> Model:
    """A diffusion model that learns by weighted denoising."""
    process = PROCESSES[config.process]()
    net = nets.worded(nets.denoiser(config.network, classes=config.classes), config.text)
    weighting = WEIGHTINGS[config.weighting]
    draw = samplers.make(config.sampling)
    first, last = jnp.asarray(process.start), jnp.asarray(process.end)

    def init(key: Key, batch: Batch) -> tuple[Params, tuple[()]]:
        x = batch["x"]
        label = _labels(batch, config)
        return Params(net.init(key, x, jnp.zeros(len(x)), label), tuple(x.shape[1:])), ()

    def predict(params: Params, t: Array, x_t: Array, label: Array | None) -> Prediction:
        """x̂ and ε̂ of x_t [B, ...] at times t [B]."""
        # The network sees numbers of size one, and λ(t) instead of the time, as VDM's does.
        alpha, sigma = process.alpha(t), process.sigma(t)
        scale = jnp.sqrt((alpha * config.data_std) ** 2 + sigma**2)
        told = net.apply(params.network, x_t / like(scale, x_t), _clock(process, t), label)
        return sde.prediction(process, config.parametrisation, t, x_t, told, config.data_std)

    def error(key: Key, params: Params, t: Array, x: Array, label: Array | None) -> Array:
        """|ε - ε̂|² [B] at times t [B]."""
        noise = jax.random.normal(key, x.shape)
        seen = predict(params, t, process.noised(t, x, noise), label)
        return jnp.sum((noise - seen.noise).reshape(len(x), -1) ** 2, -1)

    def loss(key: Key, params: Params, memory: tuple[()], batch: Batch):
        key_hide, key_time, key_error = jax.random.split(key, 3)
        x, label = batch["x"], _labels(batch, config)
        if label is not None:
            hidden = jax.random.bernoulli(key_hide, config.unconditional, (len(x),))
            label = jnp.where(like(hidden, label), config.classes, label)
        t = sde.times(key_time, process, len(x))
        mean_error = error(key_error, params, t, x, label) / x[0].size
        info: Info = {"noise_error": jnp.mean(mean_error)}
        return jnp.mean(weighting(process, t, config.data_std) * mean_error), (memory, info)

    def bound(key: Key, params: Params, batch: Batch) -> Array:
        """A lower bound on log p(x) [B] nats: Kingma et al. 2021, equations 12 to 17.

            log p(x) >= E log p(x | x_0) - KL(q(x_T | x) || N(0, σ_T²)) - ½ ∫ E|ε - ε̂|² dλ

        λ is drawn evenly, for most of the integral lies at times near the start.
        """
        x, label = batch["x"], _labels(batch, config)
        keys = jax.random.split(key, config.bound_samples)
        most, least = process.log_snr(jnp.array([process.start, process.end]))

        def diffusion(key: Key) -> Array:
            key_time, key_error = jax.random.split(key)
            u = (jax.random.uniform(key_time) + jnp.arange(len(x)) / len(x)) % 1
            t = process.time_of(least + (most - least) * u)
            return 0.5 * (most - least) * error(key_error, params, t, x, label)

        # (1) the diffusion loss
        between = jax.lax.map(diffusion, keys).mean(0)
        flat = x.reshape(len(x), -1)
        # (2) the prior loss, KL(N(α x, σ²) || N(0, σ²))
        prior = 0.5 * (process.alpha(last) / process.sigma(last)) ** 2 * jnp.sum(flat**2, -1)
        # (3) the reconstruction, p(x | x_0) = N(x_0 / α, (σ / α)²), in the mean over x_0
        log_ratio = -0.5 * process.log_snr(first)
        mean = -flat.shape[-1] * (0.5 * math.log(2 * math.pi) + log_ratio + 0.5)
        return mean - prior - between

    def field(params: Params, label: Array | None):
        """(t [], x) -> dx/dt of the probability-flow ODE."""

        def seen(t: Array, x: Array) -> Prediction:
            return predict(params, jnp.full(len(x), t), x, label)

        return samplers.velocity(process, seen)

    def flow(key: Key, params: Params, x: Array, label: Array | None) -> tuple[Array, Array]:
        """x at the end of the ODE and ∫ ∇·v dt [B]: Song et al. 2021, equations 39 and 40."""
        move = field(params, label)
        dims = x[0].size
        # One probe for the whole path, as in Grathwohl et al. 2019, section 3.1.
        probes = jax.random.rademacher(key, (max(config.probes, 1), *x.shape), x.dtype)

        def rate(t: Array, x: Array) -> tuple[Array, Array]:
            v, push = jax.linearize(lambda x: move(t, x), x)
            inner = lambda e: jnp.sum((e * push(e)).reshape(len(x), -1), -1)
            if config.probes:
                return v, jax.vmap(inner)(probes).mean(0)
            units = jnp.eye(dims).reshape(dims, 1, *x.shape[1:])
            each = jax.lax.map(lambda e: inner(jnp.broadcast_to(e, x.shape)), units)
            return v, each.sum(0)

        def step(carry: tuple[Array, Array], each: tuple[Array, Array]):
            (x, total), (t, s) = carry, each
            v1, d1 = rate(t, x)
            v2, d2 = rate(s, x + (s - t) * v1)
            half = 0.5 * (s - t)
            return (x + half * (v1 + v2), total + half * (d1 + d2)), None

        times = samplers.even_in_log_snr(process, config.ode_steps)[::-1]
        (end, total), _ = jax.lax.scan(step, (x, jnp.zeros(len(x))), (times[:-1], times[1:]))
        return end, total

    def log_prob(key: Key, params: Params, batch: Batch) -> Array:
        """log p of x by the probability-flow ODE, whose start is x itself."""
        x = batch["x"]
        end, total = flow(key, params, x, _labels(batch, config))
        log_std = jnp.log(process.sigma(last))
        return distributions.gaussian(end.reshape(len(x), -1), 0.0, log_std) + total

    def encode(key: Key, params: Params, batch: Batch) -> Array:
        """Where the ODE takes x, of N(0, I) if x is of the data: [B, ...]."""
        times = samplers.even_in_log_snr(process, config.ode_steps)[::-1]
        seen = lambda t, x: predict(params, jnp.full(len(x), t), x, _labels(batch, config))
        return samplers.heun(key, process, seen, batch["x"], times) / process.sigma(last)

    def decode(params: Params, latents: Array) -> Batch:
        """Back along the ODE; without a label."""
        label = _unsaid(len(latents), config)
        times = samplers.even_in_log_snr(process, config.ode_steps)
        seen = lambda t, x: predict(params, jnp.full(len(x), t), x, label)
        noise = process.sigma(last) * latents
        return {"x": samplers.heun(jax.random.key(0), process, seen, noise, times)}

    def start_of(params: Params, key: Key, n: int) -> Array:
        return process.sigma(last) * jax.random.normal(key, (n, *params.shape))

    def sample(key: Key, params: Params, n: int, label: Any = None, text: Any = None) -> Batch:
        """x by the config's sampler.

        Of `label`, a number or [n], where the model has classes; of `text`, tokens [T] or [n, T],
        where it reads texts, and of none where none is given.
        """
        key_label, key_start, key_walk = jax.random.split(key, 3)
        drawn = _unsaid(n, config)
        if text is not None:
            _check_text(text, config.text.vocabulary, n)
            tokens = jnp.asarray(text, jnp.int32)
            drawn = jnp.broadcast_to(tokens, (n, tokens.shape[-1]))
        if config.classes:
            if label is None:
                drawn = jax.random.randint(key_label, (n,), 0, config.classes)
            else:
                check_labels(label, config.classes, "diffusion", n)
                drawn = jnp.broadcast_to(jnp.asarray(label, jnp.int32), (n,))

        def guided(t: Array, x: Array) -> Prediction:
            at = jnp.full(len(x), t)
            seen = predict(params, at, x, drawn)
            if not config.guidance:
                return seen
            free = predict(params, at, x, _unsaid(len(x), config))
            mix = lambda a, b: (1 + config.guidance) * a - config.guidance * b
            return jax.tree.map(mix, seen, free)

        x = draw(key_walk, process, guided, start_of(params, key_start, n))
        # What is left of noise at the last time is taken away: Jolicoeur-Martineau et al. 2021.
        x = guided(jnp.asarray(process.start), x).x
        return {"x": x} if drawn is None else {"x": x, "label" if config.classes else "text": drawn}

    return Model(
        *descend(init, loss, tx, config.average),
        sample=of_params(sample),
        log_prob=of_params(log_prob),
        evidence=Evidence.ESTIMATE,
        encode=of_params(encode),
        decode=lambda state, latents: decode(learnt(state), latents),
        measures={
            "bound": Measure(
                of_params(bound),
                Evidence.LOWER_BOUND,
                "nats",
                detail=f"{config.bound_samples} times and noises an example",
            )
        },
        classes=config.classes,
    )


def _clock(process: sde.Process, t: Array) -> Array:
    """λ(t) between its ends, in [0, 1000]: how noisy, whatever the process calls it."""
    log_snr = process.log_snr(t)
    return 1000 / (1 + jnp.exp(0.25 * log_snr))


def _labels(batch: Batch, config: Config) -> Array | None:
    """What conditions a batch: labels [B], tokens [B, T], or nothing."""
    if config.text.vocabulary:
        return batch["text"]
    return batch["label"] if config.classes else None


def _unsaid(n: int, config: Config) -> Array | None:
    """What stands for no condition, [n] or [n, 1]: the label after the last, or padding, which is
    0 as the classes of a model of texts are."""
    if config.text.vocabulary:
        return jnp.zeros((n, 1), jnp.int32)
    return jnp.full(n, config.classes) if config.classes else None


def _check_text(text: Any, vocabulary: int, n: int) -> None:
    """Raises DataError for what are no tokens [T] or [n, T] of the vocabulary, if not traced."""
    if not vocabulary:
        raise DataError(
            "diffusion: this model reads no text; train one with model.text.vocabulary and "
            "captions, such as configs/diffusion.py:captions."
        )
    if isinstance(text, jax.core.Tracer):
        return
    seen = np.asarray(text)
    shaped = seen.ndim in (1, 2) and (seen.ndim == 1 or len(seen) in (1, n))
    if not (shaped and seen.size and np.issubdtype(seen.dtype, np.integer)):
        raise DataError(
            f"diffusion: expected the tokens of a text [T], or of {n} texts [{n}, T], as integers, "
            f"got {seen.dtype} of shape {list(seen.shape)}."
        )
    if seen.min() < 0 or seen.max() >= vocabulary:
        raise DataError(
            f"diffusion: tokens should lie in 0 .. {vocabulary - 1}, got {seen.min()} .. "
            f"{seen.max()}; they are those of another vocabulary."
        )
