"""Diffusion: one process, many names; process, parametrisation, weighting and sampler are free.

    x_t = α(t) x + σ(t) ε                the forward process        sde.PROCESSES
    F_θ(x_t, t) = a(t) x̂ + b(t) ε̂        what the network tells     sde.PARAMETRISATIONS
    L = E_t w(t) |ε - ε̂|²                what it learns from        sde.WEIGHTINGS
    x_end -> ... -> x_start              how samples are drawn      samplers.SAMPLERS

DDPM (Ho et al. 2020) is "ddpm", "noise", "simple", "ancestral"; NCSN (Song & Ermon 2019) is
"variance_exploding", "score", "simple", "annealed_langevin"; score SDEs (Song et al. 2021) are
"variance_preserving", "noise", "likelihood" and any sampler; EDM (Karras et al. 2022) is "edm",
"preconditioned", "edm", "heun" on the grid "karras"; rectified flow (Liu et al. 2023) is
"straight", "flow", "flow", "euler"; a variational diffusion model (Kingma et al. 2021) is "learnt",
"noise", "likelihood" and any sampler. Each of the four is one field of the config.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from genjax_zoo import nets
from genjax_zoo.contract import (
    REAL,
    Array,
    Batch,
    ConfigError,
    DataError,
    Exactness,
    Info,
    Key,
    Latents,
    Measure,
    Model,
    categorical,
)
from genjax_zoo.learn.state import eval_params, of_params
from genjax_zoo.learn.verbs import descend
from genjax_zoo.maths.diffusion import ode, samplers, sde
from genjax_zoo.maths.diffusion.sde import PARAMETRISATIONS, WEIGHTINGS, Prediction, Process, like
from genjax_zoo.maths.probability import distributions
from genjax_zoo.maths.probability.given import Labels
from genjax_zoo.typed import choose

VERB = "descend"


@dataclasses.dataclass(frozen=True)
class Config:
    """A diffusion model.

    Attributes:
      process: a name in sde.PROCESSES, or "learnt".
      ends: the numbers that the process is made of, where they are not its own.
      parametrisation: a name in sde.PARAMETRISATIONS.
      weighting: a name in sde.WEIGHTINGS; a process that is learnt needs "likelihood".
      sampling: how samples are drawn: sampler, grid of times and steps.
      data_std: σ_data, of the preconditioning and the weighting "edm".
      network: what the denoiser is made of.
      classes: how many labels condition the samples; 0 takes no notice of them.
      text: the encoder of the tokens [B, T] in batch["text"], if texts condition the samples.
      unconditional: the part of examples whose label or text is hidden in training.
      guide: what guides samples to their label or text: "free" is the network itself, told neither
        (Ho & Salimans 2022); "classifier" is another network, which learns beside it to tell the
        label of x_t (Dhariwal & Nichol 2021).
      guidance: w of either; 0 is none.
      classifier: what the classifier is made of.
      bound_samples: times and noises per example for `bound`.
      bound_steps: T of the chain that `bound` is of; 0 is for T without end.
      ode: of the probability-flow ODE for `log_prob`, `encode` and `decode`: a name in ode.FIXED
        or "dopri5".
      ode_steps: of a fixed method, evenly in log SNR.
      tolerance: of "dopri5".
      probes: of Hutchinson's trace; 0 takes the exact one, of D slopes.
      average: decay of the moving average of the parameters, which samples and numbers are of.
    """

    process: str = "variance_preserving"
    ends: sde.Ends = dataclasses.field(default_factory=sde.Ends)
    parametrisation: str = "noise"
    weighting: str = "simple"
    sampling: samplers.Config = dataclasses.field(default_factory=samplers.Config)
    data_std: float = 0.5
    network: nets.Denoiser = dataclasses.field(default_factory=nets.Denoiser)
    classes: int = 0
    text: nets.Text = dataclasses.field(default_factory=nets.Text)
    unconditional: float = 0.1
    guide: Literal["free", "classifier"] = "free"
    guidance: float = 0.0
    classifier: nets.Denoiser = dataclasses.field(default_factory=nets.Denoiser)
    bound_samples: int = 16
    bound_steps: int = 0
    ode: str = "rk4"
    ode_steps: int = 25
    tolerance: float = 1e-4
    probes: int = 1
    average: float = 0.999

    def __post_init__(self):
        sde.make(self.process, self.ends)
        choose(self.parametrisation, PARAMETRISATIONS, "parametrisation")
        choose(self.weighting, WEIGHTINGS, "weighting")
        choose(self.ode, {name: None for name in (*ode.FIXED, *ode.ADAPTIVE)}, "ode")
        for name in ("bound_samples", "ode_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"diffusion: {name} should be at least 1, got {getattr(self, name)}."
                )
        for name in ("classes", "probes", "bound_steps"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"diffusion: {name} should not be negative, got {getattr(self, name)}."
                )
        for name in ("data_std", "tolerance"):
            if getattr(self, name) <= 0:
                raise ConfigError(
                    f"diffusion: {name} should be positive, got {getattr(self, name)}."
                )
        if not 0 <= self.unconditional <= 1:
            raise ConfigError(
                f"diffusion: unconditional should lie in [0, 1], got {self.unconditional}."
            )
        if not 0 <= self.average < 1:
            raise ConfigError(f"diffusion: average should lie in [0, 1), got {self.average}.")
        if self.process == "learnt" and self.weighting != "likelihood":
            raise ConfigError(
                "diffusion: a learnt process is learnt from the bound; set weighting to "
                f"'likelihood', got {self.weighting!r}."
            )
        if self.classes and self.text.vocabulary:
            raise ConfigError(
                "diffusion: either labels or texts condition the samples; set model.classes or "
                "model.text.vocabulary to 0."
            )
        if self.guidance and not (self.classes or self.text.vocabulary):
            raise ConfigError(
                "diffusion: guidance leads to a label or a text; set model.classes or model.text."
            )
        if self.guidance and self.guide == "free" and not self.unconditional:
            raise ConfigError(
                "diffusion: guidance without a classifier needs a network that has seen examples "
                "without what they are; set model.unconditional above 0, or guide to 'classifier'."
            )
        if self.guide == "classifier" and not self.classes:
            raise ConfigError("diffusion: a classifier needs labels; set model.classes.")


@struct.dataclass
class Params:
    """What a diffusion model learns.

    Attributes:
      network: θ, of (x_t, t, label) -> F_θ.
      shape: of one example.
      schedule: η, of a learnt process; None where it is given.
      classifier: φ, of (x_t, t) -> the logits of its label; None without one.
    """

    network: Any
    shape: tuple[int, ...] = struct.field(pytree_node=False)
    schedule: sde.Monotone | None = None
    classifier: Any = None


def _network(config: Config) -> nets.Net:
    return nets.worded(nets.denoiser(config.network, classes=config.classes), config.text)


def _shown(config: Config, process: Process, t: Array, x_t: Array) -> tuple[Array, Array]:
    """Numbers of size one, and λ(t) instead of the time, as VDM's network sees it."""
    scale = jnp.sqrt((process.alpha(t) * config.data_std) ** 2 + process.sigma(t) ** 2)
    return x_t / like(scale, x_t), _clock(process, t)


def prediction(
    config: Config,
    params: Params,
    process: Process,
    t: Array,
    x_t: Array,
    label: Array | None = None,
) -> Prediction:
    """x̂ and ε̂ of x_t [B, ...] at times t [B]; told a label [B] or a text [B, T], if it is.

    With it and `process_of` one can write a sampler of one's own (samplers.py).
    """
    told = _network(config).apply(params.network, *_shown(config, process, t, x_t), label)
    return sde.prediction(process, config.parametrisation, t, x_t, told, config.data_std)


def process_of(config: Config, params: Params) -> Process:
    """The forward process, of which η is the parameters' where it is learnt."""
    return sde.make(config.process, config.ends)(params.schedule)


def make(config: Config, tx: optax.GradientTransformation) -> Model:
    """A diffusion model that learns by weighted denoising."""
    net = _network(config)
    judge = nets.denoiser(config.classifier, outputs=config.classes) if config.classes else None
    weighting = WEIGHTINGS[config.weighting]
    draw = samplers.make(config.sampling)

    def init(key: Key, batch: Batch) -> tuple[Params, tuple[()]]:
        x, t = batch["x"], jnp.zeros(len(batch["x"]))
        label = _labels(batch, config)
        classifier = None
        if config.guide == "classifier":
            assert judge is not None
            classifier = judge.init(jax.random.fold_in(key, 1), x, t, None)
        return Params(
            network=net.init(key, x, t, label),
            shape=tuple(x.shape[1:]),
            schedule=sde.monotone() if config.process == "learnt" else None,
            classifier=classifier,
        ), ()

    # ------------------------------------------------------------------ what the networks tell

    def predict(
        params: Params, process: Process, t: Array, x_t: Array, label: Array | None
    ) -> Prediction:
        return prediction(config, params, process, t, x_t, label)

    def error(
        key: Key, params: Params, process: Process, t: Array, x: Array, label: Array | None
    ) -> Array:
        """|ε - ε̂|² [B] at times t [B]."""
        noise = jax.random.normal(key, x.shape)
        seen = predict(params, process, t, process.noised(t, x, noise), label)
        return jnp.sum((noise - seen.noise).reshape(len(x), -1) ** 2, -1)

    def logits(params: Params, process: Process, t: Array, x_t: Array) -> Array:
        """Of p(label | x_t), [B, classes]: the mean over places of an image."""
        assert judge is not None
        each = judge.apply(params.classifier, *_shown(config, process, t, x_t), None)
        return each.reshape(len(x_t), -1, config.classes).mean(1)

    # ---------------------------------------------------------------------------- what is learnt

    def loss(key: Key, params: Params, memory: tuple[()], batch: Batch):
        key_hide, key_time, key_error = jax.random.split(key, 3)
        x, label = batch["x"], _labels(batch, config)
        told = label
        if label is not None:
            hidden = jax.random.bernoulli(key_hide, config.unconditional, (len(x),))
            told = jnp.where(like(hidden, label), config.classes, label)
        process = process_of(config, params)
        t = sde.times(key_time, process, len(x))

        # (1)  E_t w(t) |ε - ε̂|² / D
        def denoising(params: Params, process: Process) -> tuple[Array, Array]:
            mean_error = error(key_error, params, process, t, x, told) / x[0].size
            return weighting(process, t, config.data_std) * mean_error, mean_error

        if params.schedule is None:
            weighted, mean_error = denoising(params, process)
            value = jnp.mean(weighted)
            info: Info = {"noise_error": jnp.mean(mean_error)}
        else:
            slope = jax.vmap(jax.grad(process.log_snr))(t)
            value, weighted = sde.mean_and_least_variance(
                lambda params, seen: denoising(params, sde.tangent(t, *seen))[0],
                dataclasses.replace(params, schedule=None),
                (process.log_snr(t), slope),
            )
            info = {"loss_std": jnp.std(weighted)}
        if config.guide == "classifier":
            # (2)  E_t -log p(label | x_t), of parameters of its own
            noise = jax.random.normal(jax.random.fold_in(key_error, 1), x.shape)
            still = process_of(config, jax.lax.stop_gradient(params))
            told_logits = logits(params, still, t, still.noised(t, x, noise))
            each = optax.softmax_cross_entropy_with_integer_labels(told_logits, label)
            info["cross_entropy"] = jnp.mean(each)
            value = value + jnp.mean(each)
        return value, (memory, info)

    # ----------------------------------------------------------------------------- likelihood

    def terms(key: Key, params: Params, batch: Batch) -> tuple[Array, Array, Array]:
        """What the bound is made of, each [B] nats: Kingma et al. 2021, equations 12 to 17.

        log p(x) >= E log p(x | x_0) - KL(q(x_T | x) || N(0, σ_T²)) - ½ ∫ E|ε - ε̂|² dλ
        """
        x, label = batch["x"], _labels(batch, config)
        process = process_of(config, params)
        flat = x.reshape(len(x), -1)
        first, last = jnp.asarray(process.start), jnp.asarray(process.end)
        most, least = process.log_snr(first), process.log_snr(last)

        key_time, key_errors = jax.random.split(key)
        offset = jax.random.uniform(key_time)

        def diffusion(draw: tuple[Array, Key]) -> Array:
            # Evenly spread over the draws of an example, and between them over the examples.
            k, key_error = draw
            u = (offset + (k + jnp.arange(len(x)) / len(x)) / config.bound_samples) % 1
            if not config.bound_steps:
                # Evenly in λ, for most of the integral lies at times near the start.
                t = process.time_of(least + (most - least) * u)
                return 0.5 * (most - least) * error(key_error, params, process, t, x, label)
            # ½ (SNR_s / SNR_t - 1) |ε - ε̂|² of one of the T steps t -> s: equation 13
            times = samplers.even_in_log_snr(process, config.bound_steps)
            i = (u * config.bound_steps).astype(jnp.int32)
            t, s = times[i], times[i + 1]
            gain = jnp.expm1(process.log_snr(s) - process.log_snr(t))
            each = error(key_error, params, process, t, x, label)
            return 0.5 * config.bound_steps * gain * each

        # (1) the diffusion loss
        keys = jax.random.split(key_errors, config.bound_samples)
        between = jax.lax.map(diffusion, (jnp.arange(len(keys)), keys)).mean(0)
        # (2) the prior loss, KL(N(α x, σ²) || N(0, σ²))
        prior = 0.5 * (process.alpha(last) / process.sigma(last)) ** 2 * jnp.sum(flat**2, -1)
        # (3) the reconstruction loss of p(x | x_0) = N(x_0 / α, (σ / α)²), in the mean over x_0
        log_ratio = -0.5 * process.log_snr(first)
        reconstruction = flat.shape[-1] * (0.5 * math.log(2 * math.pi) + log_ratio + 0.5)
        return between, prior, jnp.full_like(prior, reconstruction)

    def bound(key: Key, params: Params, batch: Batch) -> Array:
        """The lower bound of log p(x) [B] nats."""
        between, first, last = terms(key, params, batch)
        return -(between + first + last)

    def in_bits(which: int):
        """A term alone, in bits for each dimension of x."""

        def term(key: Key, params: Params, batch: Batch) -> Array:
            return terms(key, params, batch)[which] / batch["x"][0].size / math.log(2)

        return of_params(term)

    def seen_by(params: Params, process: Process, label: Array | None) -> samplers.Predict:
        """(t [], x_t [B, ...]) -> x̂ and ε̂, for a solver or a sampler."""
        return lambda t, x: predict(params, process, jnp.full(len(x), t), x, label)

    def flow(params: Params, label: Array | None) -> tuple[Process, ode.Field]:
        """The probability-flow ODE: Song et al. 2021, equation 13."""
        process = process_of(config, params)
        return process, samplers.velocity(process, seen_by(params, process, label))

    def along(process: Process, steps: int) -> Array:
        """The times of the ODE, from the data to the noise."""
        return samplers.even_in_log_snr(process, steps)[::-1]

    def density(key: Key, params: Params, batch: Batch, steps: int, tolerance: float) -> Array:
        """log p(x) = log N(x_T; 0, σ_T²) + ∫ ∇·v dt: Song et al. 2021, equation 39."""
        x = batch["x"]
        process, field = flow(params, _labels(batch, config))
        probes = ode.probes_of(key, config.probes, x.shape) if config.probes else None
        times = along(process, steps)
        end, log_det = ode.transport(field, x, times, probes, config.ode, tolerance)
        log_std = jnp.log(process.sigma(times[-1]))
        return distributions.gaussian(end.reshape(len(x), -1), 0.0, log_std) + log_det

    def log_prob(key: Key, params: Params, batch: Batch) -> Array:
        return density(key, params, batch, config.ode_steps, config.tolerance)

    def solver_error(key: Key, params: Params, batch: Batch) -> Array:
        """|log p(x) - log p(x) with coarser steps| [B] nats, more than what is left of error."""
        coarse = density(key, params, batch, (config.ode_steps + 1) // 2, 10 * config.tolerance)
        return jnp.abs(log_prob(key, params, batch) - coarse)

    # -------------------------------------------------------------------------------- samples

    def encode(key: Key, params: Params, batch: Batch) -> Array:
        """Where the ODE takes x, of N(0, I) if x is of the data: [B, ...]; nothing is told."""
        del key
        x = batch["x"]
        process, field = flow(params, _unsaid(len(x), config))
        times = along(process, config.ode_steps)
        end = ode.integrate(field, x, times, config.ode, config.tolerance)
        return end / process.sigma(times[-1])

    def decode(params: Params, latents: Array) -> Batch:
        """Back along the same ODE."""
        process, field = flow(params, _unsaid(len(latents), config))
        times = along(process, config.ode_steps)[::-1]
        noise = process.sigma(times[0]) * latents
        return {"x": ode.integrate(field, noise, times, config.ode, config.tolerance)}

    def prior(key: Key, params: Params, n: int) -> Array:
        """N(0, I), [n, ...]."""
        return jax.random.normal(key, (n, *params.shape))

    def guided(params: Params, process: Process, label: Array | None) -> samplers.Predict:
        told = seen_by(params, process, label)
        if not config.guidance or label is None:
            return told
        if config.guide == "classifier":

            def log_likelihood(t: Array, x: Array) -> Array:
                each = jax.nn.log_softmax(logits(params, process, jnp.full(len(x), t), x))
                return jnp.take_along_axis(each, label[:, None], 1)[:, 0]

            return samplers.classifier_guided(process, told, log_likelihood, config.guidance)
        free = seen_by(params, process, _unsaid(len(label), config))
        # (1 + w) ε̂(label) - w ε̂: Ho & Salimans 2022, equation 6
        mix = lambda a, b: (1 + config.guidance) * a - config.guidance * b
        return lambda t, x: jax.tree.map(mix, told(t, x), free(t, x))

    def sample(
        key: Key,
        params: Params,
        n: int,
        label: Any = None,
        text: Any = None,
        known: Any = None,
        mask: Any = None,
    ) -> Batch:
        """x by the config's sampler.

        Args:
          label: one or [n], where the model has classes; drawn evenly where none is given.
          text: tokens [T] or [n, T], where the model reads texts; nothing is said where none is.
          known: an example, or [n] of them, to be completed ...
          mask: ... where this, which broadcasts to it, is 0; x is as known where it is 1.
        """
        key_label, key_start, key_walk = jax.random.split(key, 3)
        drawn = _unsaid(n, config)
        if text is not None:
            _check_text(text, config.text.vocabulary, n)
            tokens = jnp.asarray(text, jnp.int32)
            drawn = jnp.broadcast_to(tokens, (n, tokens.shape[-1]))
        if label is not None:
            Labels(config.classes, "diffusion").check(label, n)
        if config.classes:
            if label is None:
                label = jax.random.randint(key_label, (n,), 0, config.classes)
            drawn = jnp.broadcast_to(jnp.asarray(label, jnp.int32), (n,))
        process = process_of(config, params)
        seen = guided(params, process, drawn)
        x = process.sigma(jnp.asarray(process.end)) * prior(key_start, params, n)
        if (known is None) != (mask is None):
            raise DataError("diffusion: inpainting needs both what is known and its mask.")
        if known is not None:
            known, mask = _shaped("known", known, x), _shaped("mask", mask, x)
            times = config.sampling.times(process)
            x = samplers.inpaint(
                key_walk, process, seen, x, times, known, mask, config.sampling.moves
            )
        else:
            x = draw(key_walk, process, seen, x)
        # What is left of noise at the last time is taken away: Jolicoeur-Martineau et al. 2021.
        x = seen(jnp.asarray(process.start), x).x
        if known is not None:
            x = mask * known + (1 - mask) * x
        return {"x": x} if drawn is None else {"x": x, "label" if config.classes else "text": drawn}

    # A network that has always been told something has no flow without it.
    reversible = not (config.classes or config.text.vocabulary) or config.unconditional > 0
    bits = "bits/dim"
    chain = f"a chain of {config.bound_steps} steps" if config.bound_steps else "continuous time"
    draws = f"{chain}, {config.bound_samples} times and noises an example"
    draws += ", given its label" if config.classes else ""
    draws += ", given its text" if config.text.vocabulary else ""
    return Model(
        *descend(init, loss, tx, config.average),
        sample=of_params(sample),
        log_prob=Measure(of_params(log_prob), Exactness.ESTIMATE, density=True),
        measures={
            "bound": Measure(
                of_params(bound), Exactness.LOWER_BOUND, "nats", detail=draws, density=True
            ),
            "diffusion_loss": Measure(in_bits(0), Exactness.EXACT, bits, "lower", draws),
            "prior_loss": Measure(in_bits(1), Exactness.EXACT, bits, "lower"),
            "reconstruction_loss": Measure(in_bits(2), Exactness.EXACT, bits, "lower"),
            "solver_error": Measure(
                of_params(solver_error),
                Exactness.EXACT,
                "nats",
                "lower",
                detail="of log_prob, against half the steps or ten times the tolerance",
            ),
        },
        spaces={"x": REAL, **({"label": categorical(config.classes)} if config.classes else {})},
        latents=Latents(
            decode=(lambda key, state, latents: decode(eval_params(state), latents))
            if reversible
            else None,
            encode=of_params(encode) if reversible else None,
            prior=of_params(prior) if reversible else None,
        ),
    )


def _clock(process: sde.Process, t: Array) -> Array:
    """λ(t) between its ends, in [0, 1000]: how noisy, whatever the process calls it."""
    log_snr = process.log_snr(t)
    return 1000 / (1 + jnp.exp(0.25 * log_snr))


def _labels(batch: Batch, config: Config) -> Array | None:
    """What conditions a batch: labels [B], tokens [B, T], or nothing."""
    told = "text" if config.text.vocabulary else "label" if config.classes else None
    if told is None:
        return None
    if told not in batch:
        raise ConfigError(
            f"diffusion: the model is told a {told}, which the data lack; set config.model.classes "
            "and config.model.text.vocabulary to 0, or choose other data."
        )
    if told == "label":
        Labels(config.classes, "diffusion").check(batch["label"])
    return batch[told]


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


def _shaped(name: str, given: Any, x: Array) -> Array:
    """`given` as many and as large as x."""
    try:
        return jnp.broadcast_to(jnp.asarray(given, x.dtype), x.shape)
    except ValueError:
        raise DataError(
            f"diffusion: {name} should be of shape {x.shape[1:]} or {x.shape}, got "
            f"{np.shape(given)}."
        ) from None
