"""Diffusion: one process, many names; process, parametrisation, weighting and sampler are free.

    x_t = α(t) x + σ(t) ε                the forward process        sde.PROCESSES
    F_θ(x_t, t) = a(t) x̂ + b(t) ε̂        the network's output       denoising.PARAMETRISATIONS
    L = E_t w(t) |ε - ε̂|²                what it learns from        denoising.WEIGHTINGS
    x_end -> ... -> x_start              how samples are drawn      samplers.SAMPLERS

DDPM (Ho et al. 2020) is "ddpm", "noise", "simple", "ancestral"; NCSN (Song & Ermon 2019) is
"variance_exploding", "score", "simple", "annealed_langevin"; score SDEs (Song et al. 2021) are
"variance_preserving", "noise", "likelihood" and any sampler; EDM (Karras et al. 2022) is "edm",
"preconditioned", "edm", "heun" on the grid "karras"; rectified flow (Liu et al. 2023) is
"rectified_flow", "flow", "flow", "euler"; a variational diffusion model (Kingma et al. 2021) is
"learnt", "noise", "likelihood" and any sampler. Each of the four is one field of the config.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import struct

from genjax_zoo import nets, typed
from genjax_zoo.contract import (
    NOTHING,
    REAL,
    Array,
    Batch,
    ConfigError,
    Exactness,
    Info,
    Key,
    Latents,
    Measure,
    Model,
)
from genjax_zoo.learn.state import of_params
from genjax_zoo.learn.verbs import descend
from genjax_zoo.maths.diffusion import denoising, guidance, likelihood, ode, samplers, sde
from genjax_zoo.maths.diffusion.denoising import PARAMETRISATIONS, WEIGHTINGS, Predict
from genjax_zoo.maths.diffusion.sde import Process, like
from genjax_zoo.maths.probability.given import Labels, Texts, known_part, part_of, read_given
from genjax_zoo.typed import MOST_STEPS, choose, number

VERB = "descend"


@typed.config
class Config:
    """A diffusion model.

    Attributes:
      process: a name in sde.PROCESSES, or "learnt".
      ends: the numbers that the process is made of, where they are not its own.
      parametrisation: a name in denoising.PARAMETRISATIONS.
      weighting: a name in denoising.WEIGHTINGS; a process that is learnt needs "likelihood".
      sampling: how samples are drawn: sampler, grid of times and steps.
      data_std: σ_data, of the preconditioning and the weighting "edm".
      network: what the denoiser is made of.
      classes: how many labels condition the samples; 0 takes no notice of them.
      text: the encoder of the tokens [B, T] in batch["text"], if texts condition the samples.
      condition_dropout: the part of examples whose label or text is hidden in training.
      guide: what guides samples to their label or text: "free" is the network itself, given neither
        (Ho & Salimans 2022); "classifier" is another network, which learns beside it to tell the
        label of x_t (Dhariwal & Nichol 2021).
      guidance: w of either. Without a classifier (1 + w) ε̂(y) - w ε̂, as Ho & Salimans 2022 have it:
        0 is conditional and not guided, -1 unconditional. Elsewhere (Imagen, Stable Diffusion) the
        guidance scale is s = 1 + w: 1 is not guided, 0 unconditional, and 7.5 is 6.5 here. By a
        classifier, the weight of ∇ log p(y | x_t): 0 is none, 1 Bayes' rule.
      classifier: what the classifier is made of.
      bound_samples: times and noises per example for `bound` (Kingma et al. 2021), and for
        `ddpm_bound_small` and `ddpm_bound_large` (Ho et al. 2020): the same process, but of the
        chain of ancestral sampling at the times of `sampling`, with either of its variances.
      bound_steps: T of the chain, even in log SNR, that `bound` is of; 0 is for T without end.
      ode: of the probability-flow ODE for `log_prob`, `encode` and `decode`: a name in ode.METHODS.
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
    data_std: float = number(0.5, least=1e-6, most=1e6)
    network: nets.Denoiser = dataclasses.field(default_factory=nets.Denoiser)
    classes: int = number(0, least=0)
    text: nets.Text = dataclasses.field(default_factory=nets.Text)
    condition_dropout: float = number(0.1, least=0, most=1)
    guide: Literal["free", "classifier"] = "free"
    guidance: float = number(0.0, least=-1)
    classifier: nets.Denoiser = dataclasses.field(default_factory=nets.Denoiser)
    bound_samples: int = number(16, least=1, most=MOST_STEPS)
    bound_steps: int = number(0, least=0, most=MOST_STEPS)
    ode: str = "rk4"
    ode_steps: int = number(25, least=1, most=MOST_STEPS)
    tolerance: float = number(1e-4, least=1e-12, most=0.1)
    probes: int = number(1, least=0, most=MOST_STEPS)
    average: float = number(0.999, least=0, below=1)

    def __post_init__(self):
        sde.make(self.process, self.ends)
        choose(self.parametrisation, PARAMETRISATIONS, "parametrisation")
        choose(self.weighting, WEIGHTINGS, "weighting")
        choose(self.ode, ode.METHODS, "ode")
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
        if self.guidance and not self.conditional:
            raise ConfigError(
                "diffusion: guidance leads to a label or a text; set model.classes or model.text."
            )
        if self.guidance and self.guide == "free" and not self.condition_dropout:
            raise ConfigError(
                "diffusion: guidance without a classifier needs a network that has seen examples "
                "without their condition; set model.condition_dropout above 0, or guide to "
                "'classifier'."
            )
        if self.guide == "classifier" and not self.classes:
            raise ConfigError("diffusion: a classifier needs labels; set model.classes.")

    @property
    def conditional(self) -> bool:
        """Whether labels or texts condition the samples."""
        return bool(self.classes or self.text.vocabulary)


@struct.dataclass
class Params:
    """What a diffusion model learns.

    Attributes:
      network: θ, of (x_t, t, condition) -> F_θ.
      shape: of one example.
      schedule: η, of a learnt process; None where it is given.
      classifier: φ, of (x_t, t) -> the logits of its label; None without one.
    """

    network: Any
    shape: tuple[int, ...] = struct.field(pytree_node=False)
    schedule: sde.Monotone | None = None
    classifier: Any = None


def process_of(config: Config, params: Params) -> Process:
    """The forward process, of which η is the parameters' where it is learnt."""
    return sde.make(config.process, config.ends)(params.schedule)


def network_of(config: Config) -> nets.Net:
    """F_θ, of (x, t, condition): labels [B], tokens [B, T] or None."""
    denoiser = nets.denoiser(config.network, classes=config.classes)
    return nets.with_text_encoder(denoiser, config.text)


def predictor(
    config: Config, params: Params, process: Process, condition: Array | None = None
) -> Predict:
    """(t, x_t) -> x̂ and ε̂, given the labels [B] or the texts [B, T] if the model has any.

    With it and `process_of` one can write a sampler of one's own (samplers.py).
    """
    network = network_of(config)

    def predict(t: Array, x_t: Array) -> denoising.Prediction:
        t = jnp.broadcast_to(t, len(x_t))
        shown = denoising.inputs(process, t, x_t, config.data_std)
        output = network.apply(params.network, *shown, condition)
        own = (config.parametrisation, t, x_t, output, config.data_std)
        return denoising.prediction(process, *own)

    return predict


def make(config: Config, tx: optax.GradientTransformation) -> Model:
    """A diffusion model that learns by weighted denoising."""
    labels = Labels(config.classes, "diffusion")
    texts = Texts(config.text.vocabulary, "diffusion")
    conditions = texts if config.text.vocabulary else labels
    judge = nets.denoiser(config.classifier, outputs=config.classes)
    weighting = WEIGHTINGS[config.weighting]
    draw = samplers.make(config.sampling)
    solver = likelihood.Solver(config.ode, config.ode_steps, config.tolerance)

    def init(key: Key, batch: Batch) -> tuple[Params, tuple[()]]:
        """Raises DataError for data that lack the labels or texts of the config."""
        x, t, classifier = batch["x"], jnp.zeros(len(batch["x"])), None
        if config.guide == "classifier":
            classifier = judge.init(jax.random.fold_in(key, 1), x, t, None)
        return Params(
            network=network_of(config).init(key, x, t, condition_of(batch)),
            shape=tuple(x.shape[1:]),
            schedule=sde.monotone() if config.process == "learnt" else None,
            classifier=classifier,
        ), ()

    # -------------------------------------------------------------------------- the conditions

    def condition_of(batch: Batch) -> Array | None:
        """What conditions a batch: labels [B], tokens [B, T], or nothing."""
        return conditions.of(batch) if config.conditional else None

    def null_condition(n: int) -> Array | None:
        """No label, the one after the last, [n], or no text, padding alone, [n, 1]."""
        if config.text.vocabulary:
            return jnp.zeros((n, 1), jnp.int32)
        return jnp.full(n, config.classes) if config.classes else None

    def dropped(key: Key, condition: Array | None) -> Array | None:
        """The condition, of some examples the null one."""
        if condition is None:
            return None
        hidden = jax.random.bernoulli(key, config.condition_dropout, (len(condition),))
        # Padding is 0, and so are the classes of a model of texts.
        return jnp.where(like(hidden, condition), config.classes, condition)

    def logits(params: Params, process: Process, t: Array, x_t: Array) -> Array:
        """Of p(label | x_t), [B, classes]: the mean over places of an image."""
        shown = denoising.inputs(process, jnp.broadcast_to(t, len(x_t)), x_t, config.data_std)
        each = judge.apply(params.classifier, *shown, None)
        return each.reshape(len(x_t), -1, config.classes).mean(1)

    # ---------------------------------------------------------------------------- what is learnt

    def loss(key: Key, params: Params, memory: tuple[()], batch: Batch):
        key_drop, key_time, key_error = jax.random.split(key, 3)
        x, condition = batch["x"], condition_of(batch)
        shown = dropped(key_drop, condition)
        process = process_of(config, params)
        t = denoising.times(key_time, process, len(x))

        # (1)  E_t w(t) |ε - ε̂|² / D
        def weighted_error(params: Params, process: Process) -> tuple[Array, Array]:
            predict = predictor(config, params, process, shown)
            error = denoising.squared_error(key_error, process, predict, t, x) / x[0].size
            return weighting(process, t, config.data_std) * error, error

        info: Info = {}
        if params.schedule is None:
            weighted, error = weighted_error(params, process)
            value = jnp.mean(weighted)
            info["noise_error"] = jnp.mean(error)
        else:
            slope = jax.vmap(jax.grad(process.log_snr))(t)
            value, weighted = denoising.mean_and_least_variance(
                lambda params, at: weighted_error(params, sde.tangent(t, *at))[0],
                dataclasses.replace(params, schedule=None),
                (process.log_snr(t), slope),
            )
            info["loss_std"] = jnp.std(weighted)
        if config.guide == "classifier":
            # (2)  E_t -log p(label | x_t), of parameters of its own
            noise = jax.random.normal(jax.random.fold_in(key_error, 1), x.shape)
            still = process_of(config, jax.lax.stop_gradient(params))
            y = logits(params, still, t, still.noised(t, x, noise))
            each = optax.softmax_cross_entropy_with_integer_labels(y, condition)
            info["cross_entropy"] = jnp.mean(each)
            value = value + jnp.mean(each)
        return value, (memory, info)

    # ----------------------------------------------------------------------------- likelihood

    def given_condition(params: Params, condition: Array | None) -> tuple[Process, Predict]:
        process = process_of(config, params)
        return process, predictor(config, params, process, condition)

    def of_batch(params: Params, batch: Batch) -> tuple[Process, Predict]:
        return given_condition(params, condition_of(batch))

    def unconditional(params: Params, n: int) -> tuple[Process, Predict]:
        return given_condition(params, null_condition(n))

    def terms(key: Key, params: Params, batch: Batch) -> likelihood.Terms:
        chain = (config.bound_samples, config.bound_steps)
        return likelihood.terms(key, *of_batch(params, batch), batch["x"], *chain)

    def bound(key: Key, params: Params, batch: Batch) -> Array:
        return terms(key, params, batch).bound()

    def ancestral(variance: samplers.Variance, key: Key, params: Params, batch: Batch) -> Array:
        """DDPM's bound, of the chain that samples are drawn by if they are by "ancestral"."""
        process, predict = of_batch(params, batch)
        chain = (config.bound_samples, config.sampling.times(process), variance)
        return likelihood.ancestral_terms(key, process, predict, batch["x"], *chain).bound()

    def in_bits(name: str):
        """A term alone, in bits for each dimension of x."""

        def term(key: Key, params: Params, batch: Batch) -> Array:
            nats = getattr(terms(key, params, batch), name)
            return nats / batch["x"][0].size / math.log(2)

        return of_params(term)

    def log_prob(
        key: Key, params: Params, batch: Batch, solver: likelihood.Solver = solver
    ) -> Array:
        process, predict = of_batch(params, batch)
        return likelihood.log_density(key, process, predict, batch["x"], solver, config.probes)

    def log_prob_error(key: Key, params: Params, batch: Batch) -> Array:
        """|log p(x) - log p(x) with coarser steps|, and what the end leaves out: [B] nats."""
        coarse = log_prob(key, params, batch, solver.coarser())
        left_out = likelihood.end_error(
            jax.random.fold_in(key, 1), process_of(config, params), batch["x"]
        )
        return jnp.abs(log_prob(key, params, batch) - coarse) + left_out

    # -------------------------------------------------------------------- latents and samples

    def encode(key: Key, params: Params, batch: Batch) -> Array:
        """Where the ODE takes x, of N(0, I) if x is of the data: [B, ...], without a condition."""
        x = batch["x"]
        return likelihood.encode(*unconditional(params, len(x)), x, solver)

    def decode(key: Key, params: Params, z: Array) -> Batch:
        """Back along the same ODE."""
        return {"x": likelihood.decode(*unconditional(params, len(z)), z, solver)}

    def prior(key: Key, params: Params, n: int) -> Array:
        """N(0, I), [n, ...]."""
        return jax.random.normal(key, (n, *params.shape))

    def guided(params: Params, condition: Array | None) -> tuple[Process, Predict]:
        """The process, and the predictor that samples follow."""
        process, predict = given_condition(params, condition)
        if not config.guidance or condition is None:
            return process, predict
        if config.guide == "free":
            _, free = unconditional(params, len(condition))
            return process, guidance.classifier_free(predict, free, config.guidance)

        def log_likelihood(t: Array, x: Array) -> Array:
            each = jax.nn.log_softmax(logits(params, process, t, x))
            return jnp.take_along_axis(each, condition[:, None], 1)[:, 0]

        return process, guidance.by_classifier(process, predict, log_likelihood, config.guidance)

    def sample(key: Key, params: Params, n: int, given: Batch = NOTHING) -> Batch:
        """x by the config's sampler, or where a part of it is known, by ancestral inpainting.

        Labels are drawn evenly where none are given, and texts say nothing.
        """
        can = labels.told | texts.told | part_of(REAL, params.shape)
        told = read_given(given, can, n, "diffusion")
        key_label, key_start, key_walk = jax.random.split(key, 3)
        condition = labels.draw(key_label, told, n) | texts.draw(key_label, told, n)
        known = known_part(told, "diffusion")
        process, predict = guided(params, next(iter(condition.values()), None))
        x = process.sigma(jnp.asarray(process.end)) * prior(key_start, params, n)
        return {"x": draw(key_walk, process, predict, x, known), **condition}

    # A network that has always had a condition has no flow without it.
    reversible = not config.conditional or config.condition_dropout > 0
    latents = Latents(of_params(decode), of_params(encode), of_params(prior))
    chain = f"a chain of {config.bound_steps} steps" if config.bound_steps else "continuous time"
    draws = f"{config.bound_samples} times and noises an example"
    draws += "".join(f", given its {name}" for name in conditions.names)
    of_chain = f"VDM's, {chain}, {draws}"

    def ddpm(variance: samplers.Variance, symbol: str) -> Measure:
        steps = f"{config.sampling.steps + 1} steps, the grid {config.sampling.grid!r}"
        detail = f"DDPM's, {steps}, the {variance} variance {symbol}, {draws}"
        value = functools.partial(ancestral, variance)
        return Measure(of_params(value), Exactness.LOWER_BOUND, detail=detail, density=True)

    computed = lambda fn, unit, detail="": Measure(fn, Exactness.EXACT, unit, "lower", detail)
    return Model(
        *descend(init, loss, tx, config.average),
        sample=of_params(sample),
        log_prob=Measure(of_params(log_prob), Exactness.ESTIMATE, density=True),
        measures={
            "bound": Measure(
                of_params(bound), Exactness.LOWER_BOUND, detail=of_chain, density=True
            ),
            "ddpm_bound_small": ddpm("small", "β̃"),
            "ddpm_bound_large": ddpm("large", "β"),
            "diffusion_loss": computed(in_bits("diffusion"), "bits/dim", of_chain),
            "prior_loss": computed(in_bits("prior"), "bits/dim"),
            "reconstruction_loss": computed(in_bits("reconstruction"), "bits/dim"),
            "log_prob_error": computed(
                of_params(log_prob_error),
                "nats",
                "against half the steps or ten times the tolerance, and what lies at the end in "
                "place of N(0, σ²)",
            ),
        },
        spaces=conditions.spaces(REAL),
        latents=latents if reversible else None,
    )
