"""Deep energy-based model: a network says how unlikely x is, and nothing says by how much in all.

    E(x) = f(u) + ½ ‖u‖² + n/2 log 2π + n log s,      u = (x - m) / s

    p(x) = exp(-E(x)) / Z = N(x; m, s² I) exp(-f(u)) / Z

f is the network, m [...] the mean of the data's first batch and s its one deviation. The Gaussian
makes p normalisable on all of R^n, sees to it that the energy of what lies far off is high, and is
where the estimate of log Z = log E_{N(m, s² I)}[exp(-f)] starts. All chains, steps and noises are
those of u: of a space in which the data have mean 0 and variance 1.

Four ways to learn (`objective`); the first is what the verb of the family says, the other three
are ways to `descend` that ask for no chain:

    contrastive        the gradient of log p(x), its negative phase by Langevin dynamics: short
                       chains from noise (Nijkamp et al. 2019), or persistent ones, of which some
                       begin anew (Tieleman 2008; Du & Mordatch 2019, arXiv:1903.08689)
    score_matching     ½ ‖ψ‖² + tr ∇ψ, ψ = -∇E (Hyvärinen 2005, equation 4), exact, or in random
                       directions (Song et al. 2019, arXiv:1905.07088, equation 8)
    denoising          ψ points from a noisy example back to it (Vincent 2011, equation 11)
    noise_contrastive  telling the data from the Gaussian, log Z a parameter like the others
                       (Gutmann & Hyvärinen 2010, equation 3)

With `classes` it is a joint energy model (Grathwohl et al. 2020, arXiv:1912.03263): f_y(u) are a
classifier's logits, f = -log Σ_y exp f_y, p(y | x) = softmax f_y, whose cross entropy is learnt
along.
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
    Measure,
    Model,
)
from genjax_zoo.learn.state import Memory, TrainState, eval_params, of_params
from genjax_zoo.learn.verbs import contrast, descend
from genjax_zoo.maths.inference import unnormalised
from genjax_zoo.maths.mcmc import ais as annealing
from genjax_zoo.maths.mcmc import chains, langevin
from genjax_zoo.maths.mcmc.langevin import half_square
from genjax_zoo.maths.probability.given import Labels, known_part, part_of, read_given
from genjax_zoo.maths.probability.scales import varies
from genjax_zoo.typed import MOST_STEPS, number

VERB = "contrast"


@typed.config
class Objective:
    """How the energy is learnt; the numbers of other objectives are ignored.

    Attributes:
      name: one of the four above.
      start: contrastive: chains begin in the Gaussian at every step ("noise"), or go on where
        they were ("persistent").
      chains: how many negative samples a step makes.
      buffer: M, how many persistent chains there are, of which a step moves `chains`.
      rate: how likely a persistent chain begins anew.
      steps: Langevin steps of each.
      step: ε of a Langevin step, in units of s².
      noise: σ of a Langevin step, in units of s; 0 is √ε. Any other samples (nearly) another
        distribution than the model's, exp(-E / T) at temperature T = σ² / ε.
      clip: the largest component of the force ∇E that a chain follows; 0 follows all.
      instance_noise: deviation of the noise on the data, in units of s.
      alpha: α, the weight of f(u)² on data and samples (Du & Mordatch, section 3.3). The
        free_energy_gap of a step then holds that term too.
      slices: score matching: random directions an example; 0 is the exact trace, for few
        dimensions.
      sigma: denoising: σ of the noise, in units of s. What is learnt is the density of the noisy
        data.
      ratio: noise_contrastive: ν, noise examples for each of the data.
    """

    name: Literal["contrastive", "score_matching", "denoising", "noise_contrastive"] = "contrastive"
    start: Literal["noise", "persistent"] = "persistent"
    chains: int = number(100, least=1)
    buffer: int = number(1000, least=1)
    rate: float = number(0.05, least=0, most=1)
    steps: int = number(20, least=1, most=MOST_STEPS)
    step: float = number(0.01, above=0)
    noise: float = number(0.0, least=0)
    clip: float = number(0.0, least=0)
    instance_noise: float = number(0.0, least=0)
    alpha: float = number(0.0, least=0)
    slices: int = number(0, least=0, most=MOST_STEPS)
    sigma: float = number(0.1, above=0)
    ratio: int = number(1, least=1, most=MOST_STEPS)

    def __post_init__(self):
        if self.start == "persistent" and self.chains > self.buffer:
            raise ConfigError(
                f"energy_based_model: a step cannot move {self.chains} different chains of a "
                f"buffer of {self.buffer}; raise objective.buffer or lower objective.chains."
            )

    @property
    def temperature(self) -> float:
        """T of exp(-E / T), which the chains of learning (nearly) sample; 1 is the model."""
        return self.noise**2 / self.step if self.noise else 1.0


@typed.config
class Sampling:
    """How samples are drawn: Metropolis-adjusted Langevin chains.

    Attributes:
      start: "base" anneals from the Gaussian to the model along the first half of the chain;
        "buffer" goes on from persistent chains, a copy of which is all that moves.
      steps: how many.
      first, last: ε where the chain is at the Gaussian, and where it is at the model, in units of
        s²; between them geometrically. Also those of the chains that estimate log Z.
    """

    start: Literal["base", "buffer"] = "base"
    steps: int = number(200, least=1, most=MOST_STEPS)
    first: float = number(0.3, above=0)
    last: float = number(0.03, above=0)


@typed.config
class Config:
    """A deep energy-based model.

    Attributes:
      network: f: `name` (mlp, conv, resnet), `widths` from its input to its output, `activation`
        (smooth: chains follow its slope), `normalise` ("none" or "layer").
      objective: how it is learnt.
      classes: C of a joint energy model; 0 for one without labels.
      cross_entropy: weight of the classifier's loss, where there are classes.
      sampling: how samples are drawn.
      ais: how log Z is estimated.
      average: decay of the moving average of the parameters; 0 keeps none.
    """

    network: nets.Network = dataclasses.field(
        default_factory=lambda: nets.Network(widths=(128, 128), activation="swish")
    )
    objective: Objective = dataclasses.field(default_factory=Objective)
    classes: int = number(0, least=0)
    cross_entropy: float = number(1.0, least=0)
    sampling: Sampling = dataclasses.field(default_factory=Sampling)
    ais: annealing.Config = dataclasses.field(default_factory=annealing.Config)
    average: float = number(0.0, least=0, below=1)

    def __post_init__(self):
        if self.network.normalise not in ("none", "layer"):
            raise ConfigError(
                "energy_based_model: an energy is that of one example alone and remembers no "
                f"other; network.normalise should be none or layer, got {self.network.normalise}."
            )
        if self.classes == 1:
            raise ConfigError("energy_based_model: classes should be 0 or at least 2, got 1.")
        persistent = (self.objective.name, self.objective.start) == ("contrastive", "persistent")
        if self.sampling.start == "buffer" and not persistent:
            raise ConfigError(
                "energy_based_model: sampling.start is 'buffer', and only persistent chains of "
                "the contrastive objective fill one; set it to 'base'."
            )


@struct.dataclass
class Params:
    """What there is to know of the model.

    Attributes:
      f: the network's parameters.
      log_z: c, noise contrastive estimation's own log Z []; nothing else moves it.
      mean: m [...], of the first batch; not learnt.
      std: s [], one deviation of all dimensions of the first batch; not learnt.
    """

    f: Any
    log_z: Array
    mean: Array
    std: Array


def _learnable(params: Params) -> Params:
    return Params(f=True, log_z=True, mean=False, std=False)  # type: ignore[arg-type]


def make(config: Config, tx: optax.GradientTransformation) -> Model:
    """A deep energy-based model."""
    objective, sampling = config.objective, config.sampling
    labels = Labels(config.classes, "energy_based_model")
    net = nets.discriminator(config.network, (config.classes,) if config.classes else ())
    persistent = objective.name == "contrastive" and objective.start == "persistent"

    # ----------------------------------------------------------------------------- the energy

    def init(key: Key, batch: Batch) -> tuple[Params, Memory]:
        key_f, key_buffer = jax.random.split(key)
        x = batch["x"]
        mean = jnp.mean(x, axis=0)
        variance = jnp.mean((x - mean) ** 2)
        std = jnp.where(varies(variance, jnp.max(jnp.abs(mean))), jnp.sqrt(variance), 1.0)
        f, _ = net.init(key_f, x[:1])
        params = Params(f, jnp.zeros(()), mean, std)
        if not persistent:
            return params, ()
        return params, base(key_buffer, objective.buffer, params)

    def base(key: Key, n: int, params: Params) -> Array:
        """u ~ N(0, I): [n, ...]."""
        return jax.random.normal(key, (n, *params.mean.shape))

    def standard(params: Params, x: Array) -> Array:
        """u = (x - m) / s; no gradient moves m and s."""
        mean, std = jax.lax.stop_gradient((params.mean, params.std))
        return (x - mean) / std

    def outputs(params: Params, u: Array) -> Array:
        """What the network says: f(u) [B], or f_y(u) [B, C]."""
        return net.apply(params.f, {}, u, False)[0]

    def f(params: Params, u: Array, label: Array | None = None) -> Array:
        """f(u) [B] nats: of all labels together, f = -log Σ_y exp f_y, or -f_y of one of them."""
        out = outputs(params, u)
        if not config.classes:
            return out
        if label is None:
            return -jax.nn.logsumexp(out, axis=-1)
        return -jnp.take_along_axis(out, label[:, None], axis=1)[:, 0]

    def energy(params: Params, u: Array) -> Array:
        """E in the space of u, but for its constants: f(u) + ½ ‖u‖²  [B] nats."""
        return f(params, u) + half_square(u)

    E = lambda params: functools.partial(energy, params)

    def log_prob(key: Key, params: Params, batch: Batch) -> Array:
        """-E(x), unnormalised; with f = 0 it is the Gaussian's log-density."""
        u = standard(params, batch["x"])
        n = math.prod(u.shape[1:])
        return -energy(params, u) - n / 2 * math.log(2 * math.pi) - n * jnp.log(params.std)

    # --------------------------------------------------------------------------- how it learns

    def classify(key: Key, params: Params, batch: Batch) -> tuple[Array, Info]:
        """-log p(y | x), p(y | x) = softmax f_y  (Grathwohl et al. 2020, equation 8)."""
        if not config.classes:
            return jnp.zeros(()), {}
        logits = outputs(params, standard(params, batch["x"]))
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels.of(batch)).mean()
        return config.cross_entropy * loss, {"cross_entropy": loss}

    def phase_energy(params: Params, configuration: tuple[Array, Array]) -> Array:
        """E + α f² of the data (sign 1), E - α f² of the chains (sign -1).

        Their difference is E(x⁺) - E(x⁻) + α (f(x⁺)² + f(x⁻)²)  (Du & Mordatch 2019, section 3.3).
        """
        u, sign = configuration
        tilt = f(params, u)
        return tilt + half_square(u) + sign * objective.alpha * tilt**2

    def positive(key: Key, params: Params, memory: Memory, batch: Batch):
        u = standard(params, batch["x"])
        return (
            u + objective.instance_noise * jax.random.normal(key, u.shape),
            jnp.ones(len(u)),
        ), memory

    def negative(key: Key, params: Params, memory: Memory, batch: Batch):
        key_base, key_draw, key_chain = jax.random.split(key, 3)
        u, which = base(key_base, objective.chains, params), None
        if persistent:
            u, which = langevin.draw(key_draw, memory, u, objective.rate)
        kernel = functools.partial(
            langevin.unadjusted,
            energy=E(params),
            step=objective.step,
            noise=objective.noise or None,
            clip=objective.clip,
        )
        u = chains.run(key_chain, u, kernel, objective.steps)
        if which is not None:
            memory = langevin.keep(memory, which, u)
        return (u, -jnp.ones(len(u))), memory

    def by_scores(key: Key, params: Params, u: Array) -> Array:
        return unnormalised.score_matching(key, E(params), u, objective.slices)

    def by_denoising(key: Key, params: Params, u: Array) -> Array:
        return unnormalised.denoising(key, E(params), u, objective.sigma)

    def by_noise(key: Key, params: Params, u: Array) -> Array:
        # log p(x) / q(x): the Gaussian is in both, and f and log Z are what is left.
        log_ratio = lambda u: -f(params, u) - params.log_z
        noise = base(key, objective.ratio * len(u), params)
        return unnormalised.noise_contrastive(log_ratio(u), log_ratio(noise))

    losses = {
        "score_matching": by_scores,
        "denoising": by_denoising,
        "noise_contrastive": by_noise,
    }

    def descent(key: Key, params: Params, memory: Memory, batch: Batch):
        key_loss, key_extra = jax.random.split(key)
        loss = losses[objective.name](key_loss, params, standard(params, batch["x"]))
        extra, info = classify(key_extra, params, batch)
        return loss.mean() + extra, (memory, info)

    # ------------------------------------------------------------------------ log Z and samples

    def path(params: Params, tilt: langevin.Energy) -> annealing.Path:
        """From the Gaussian to the model, log p*_β(u) = log N(u; 0, I) - β f(u)."""
        return langevin.path(tilt, params.mean.shape, sampling.first, sampling.last)

    def path_of(state: TrainState) -> annealing.Path:
        params = eval_params(state)
        return path(params, functools.partial(f, params))

    def normalised(key: Key, params: Params, batch: Batch, log_z: Array) -> Array:
        return log_prob(key, params, batch) - log_z

    def by_own_log_z(key: Key, params: Params, batch: Batch) -> Array:
        return log_prob(key, params, batch) - params.log_z

    def sample(key: Key, state: TrainState, n: int, given: Batch = NOTHING) -> Batch:
        """Chains at the model, or at exp(f_y) for a label, and given the known part of x.

        Given anything they start from the Gaussian.
        """
        params = eval_params(state)
        can = labels.told | part_of(REAL, params.mean.shape)
        told = read_given(given, can, n, "energy_based_model")
        key_start, key_chain = jax.random.split(key)
        label, part = told.get("label"), known_part(told, "energy_based_model")
        # What a chain does where x is known is neither looked at nor kept.
        held = lambda x: x if part is None else jnp.where(part[1], part[0], x)
        of_x = lambda u: params.mean + params.std * u
        tilt = lambda u: f(params, standard(params, held(of_x(u))) if part else u, label)
        move = path(params, tilt).transition
        u, rising = base(key_start, n, params), sampling.steps // 2
        if sampling.start == "buffer" and label is None and part is None:
            u, rising = state.memory[jax.random.randint(key_start, (n,), 0, objective.buffer)], 0
        betas = jnp.minimum(jnp.arange(1, sampling.steps + 1) / max(rising, 1), 1.0)
        keys = jax.random.split(key_chain, sampling.steps)
        u, _ = jax.lax.scan(lambda u, at: (move(at[0], at[1], u), None), u, (keys, betas))
        drawn = {"x": held(of_x(u))}
        return drawn if label is None else {**drawn, "label": label}

    def error(key: Key, params: Params, batch: Batch) -> Array:
        """1 where argmax p(y | x) is not the label, else 0."""
        best = jnp.argmax(outputs(params, standard(params, batch["x"])), axis=-1)
        return (best != labels.of(batch)).astype(jnp.float32)

    measures = annealing.measures(
        "ais",
        of_params(normalised),
        path_of,
        config.ais,
        base="the Gaussian",
        more=", Metropolis-adjusted Langevin",
    )
    if objective.name == "noise_contrastive":
        measures["nce"] = Measure(
            of_params(by_own_log_z),
            Exactness.ESTIMATE,
            "nats",
            detail="normalised by the log Z that noise contrastive estimation learnt",
        )
    if config.classes:
        measures["error"] = Measure(of_params(error), Exactness.EXACT, "error", "lower")

    held = optax.masked(tx, _learnable)
    if objective.name == "contrastive":
        verb = contrast(
            init,
            phase_energy,
            negative,
            held,
            positive=positive,
            extra=classify if config.classes else None,
            average=config.average,
        )
    else:
        verb = descend(init, descent, held, average=config.average)
    return Model(
        *verb,
        sample=sample,
        log_prob=Measure(of_params(log_prob), Exactness.UNNORMALISED, density=True),
        measures=measures,
        spaces=labels.spaces(REAL),
    )
