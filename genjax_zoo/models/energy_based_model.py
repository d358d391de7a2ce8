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
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import struct

import genjax_zoo.maths.mcmc.ais as annealing
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
    Measure,
    Model,
    Once,
    categorical,
)
from genjax_zoo.learn.state import Memory, TrainState, eval_params, of_params
from genjax_zoo.learn.verbs import contrast, descend
from genjax_zoo.maths.mcmc import chains, langevin
from genjax_zoo.maths.probability.given import Labels

VERB = "contrast"


@dataclasses.dataclass(frozen=True)
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
      blur: deviation of the noise on the data, in units of s.
      alpha: α, the weight of f(u)² on data and samples (Du & Mordatch, section 3.3). What is told
        as free_energy_gap then holds that term too.
      slices: score matching: random directions an example; 0 is the exact trace, for few
        dimensions.
      sigma: denoising: σ of the noise, in units of s. What is learnt is the density of the noisy
        data.
      ratio: noise_contrastive: ν, noise examples for each of the data.
    """

    name: Literal["contrastive", "score_matching", "denoising", "noise_contrastive"] = "contrastive"
    start: Literal["noise", "persistent"] = "persistent"
    chains: int = 100
    buffer: int = 1000
    rate: float = 0.05
    steps: int = 20
    step: float = 0.01
    noise: float = 0.0
    clip: float = 0.0
    blur: float = 0.0
    alpha: float = 0.0
    slices: int = 0
    sigma: float = 0.1
    ratio: int = 1

    def __post_init__(self):
        for name in ("chains", "buffer", "steps", "ratio"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"energy_based_model: objective.{name} should be at least 1, got "
                    f"{getattr(self, name)}."
                )
        for name in ("noise", "clip", "blur", "alpha", "slices"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"energy_based_model: objective.{name} should not be negative, got "
                    f"{getattr(self, name)}."
                )
        for name in ("step", "sigma"):
            if getattr(self, name) <= 0:
                raise ConfigError(
                    f"energy_based_model: objective.{name} should be positive, got "
                    f"{getattr(self, name)}."
                )
        if not 0 <= self.rate <= 1:
            raise ConfigError(
                f"energy_based_model: objective.rate should lie in [0, 1], got {self.rate}."
            )
        if self.start == "persistent" and self.chains > self.buffer:
            raise ConfigError(
                f"energy_based_model: a step cannot move {self.chains} different chains of a "
                f"buffer of {self.buffer}; raise objective.buffer or lower objective.chains."
            )

    @property
    def temperature(self) -> float:
        """T of exp(-E / T), which the chains of learning (nearly) sample; 1 is the model."""
        return self.noise**2 / self.step if self.noise else 1.0


@dataclasses.dataclass(frozen=True)
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
    steps: int = 200
    first: float = 0.3
    last: float = 0.03

    def __post_init__(self):
        if self.steps < 1 or min(self.first, self.last) <= 0:
            raise ConfigError(
                "energy_based_model: sampling expects steps >= 1 and positive first and last, got "
                f"{self.steps}, {self.first} and {self.last}."
            )


@dataclasses.dataclass(frozen=True)
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
    classes: int = 0
    cross_entropy: float = 1.0
    sampling: Sampling = dataclasses.field(default_factory=Sampling)
    ais: annealing.Config = dataclasses.field(default_factory=annealing.Config)
    average: float = 0.0

    def __post_init__(self):
        if self.network.normalise not in ("none", "layer"):
            raise ConfigError(
                "energy_based_model: an energy is that of one example alone and remembers no "
                f"other; network.normalise should be none or layer, got {self.network.normalise}."
            )
        if self.classes < 0 or self.classes == 1:
            raise ConfigError(
                f"energy_based_model: classes should be 0 or at least 2, got {self.classes}."
            )
        if self.cross_entropy < 0:
            raise ConfigError(
                "energy_based_model: cross_entropy should not be negative, got "
                f"{self.cross_entropy}."
            )
        if not 0 <= self.average < 1:
            raise ConfigError(
                f"energy_based_model: average should lie in [0, 1), got {self.average}."
            )
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
    net = nets.discriminator(config.network, (config.classes,) if config.classes else ())
    step_at = langevin.steps_between(sampling.first, sampling.last)
    persistent = objective.name == "contrastive" and objective.start == "persistent"

    # ----------------------------------------------------------------------------- the energy

    def init(key: Key, batch: Batch) -> tuple[Params, Memory]:
        key_f, key_buffer = jax.random.split(key)
        x = batch["x"]
        mean = jnp.mean(x, axis=0)
        std = jnp.sqrt(jnp.mean((x - mean) ** 2))
        f, _ = net.init(key_f, x[:1])
        params = Params(f, jnp.zeros(()), mean, jnp.where(std > 0, std, 1.0))
        if not persistent:
            return params, ()
        return params, base(key_buffer, objective.buffer, params)

    def base(key: Key, n: int, params: Params) -> Array:
        """u ~ N(0, I): [n, ...]."""
        return jax.random.normal(key, (n, *params.mean.shape))

    def standard(params: Params, batch: Batch) -> Array:
        """u = (x - m) / s; no gradient moves m and s."""
        mean, std = jax.lax.stop_gradient((params.mean, params.std))
        return (batch["x"] - mean) / std

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
        return f(params, u) + _half_square(u)

    def log_prob(key: Key, params: Params, batch: Batch) -> Array:
        """-E(x), unnormalised; with f = 0 it is the Gaussian's log-density."""
        u = standard(params, batch)
        n = math.prod(u.shape[1:])
        return -energy(params, u) - n / 2 * math.log(2 * math.pi) - n * jnp.log(params.std)

    # --------------------------------------------------------------------------- how it learns

    def labels(batch: Batch) -> Array:
        if "label" not in batch:
            raise DataError(
                f"energy_based_model: a joint energy model of {config.classes} classes needs "
                "labels, and this batch has none; set config.model.classes to 0 or choose "
                "labelled data."
            )
        return jnp.asarray(batch["label"])

    def classify(key: Key, params: Params, batch: Batch) -> tuple[Array, Info]:
        """-log p(y | x), p(y | x) = softmax f_y  (Grathwohl et al. 2020, equation 8)."""
        if not config.classes:
            return jnp.zeros(()), {}
        logits = outputs(params, standard(params, batch))
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels(batch)).mean()
        return config.cross_entropy * loss, {"cross_entropy": loss}

    def phase_energy(params: Params, configuration: tuple[Array, Array]) -> Array:
        """E + α f² of the data (sign 1), E - α f² of the chains (sign -1).

        Their difference is E(x⁺) - E(x⁻) + α (f(x⁺)² + f(x⁻)²)  (Du & Mordatch 2019, section 3.3).
        """
        u, sign = configuration
        tilt = f(params, u)
        return tilt + _half_square(u) + sign * objective.alpha * tilt**2

    def positive(key: Key, params: Params, memory: Memory, batch: Batch):
        u = standard(params, batch)
        return (u + objective.blur * jax.random.normal(key, u.shape), jnp.ones(len(u))), memory

    def negative(key: Key, params: Params, memory: Memory, batch: Batch):
        key_base, key_draw, key_chain = jax.random.split(key, 3)
        u, which = base(key_base, objective.chains, params), None
        if persistent:
            u, which = langevin.draw(key_draw, memory, u, objective.rate)
        kernel = functools.partial(
            langevin.unadjusted,
            energy=functools.partial(energy, params),
            step=objective.step,
            noise=objective.noise or None,
            clip=objective.clip,
        )
        u = chains.run(key_chain, u, kernel, objective.steps)
        if which is not None:
            memory = langevin.keep(memory, which, u)
        return (u, -jnp.ones(len(u))), memory

    def descent(key: Key, params: Params, memory: Memory, batch: Batch):
        key_loss, key_extra = jax.random.split(key)
        u, E = standard(params, batch), functools.partial(energy, params)
        if objective.name == "score_matching":
            loss = score_matching(key_loss, E, u, objective.slices)
        elif objective.name == "denoising":
            loss = denoising(key_loss, E, u, objective.sigma)
        else:
            noise = base(key_loss, objective.ratio * len(u), params)
            # log p(x) / q(x): the Gaussian is in both, and f and log Z are what is left.
            log_ratio = lambda u: -f(params, u) - params.log_z
            loss = noise_contrastive(log_ratio(u), log_ratio(noise))
        extra, info = classify(key_extra, params, batch)
        return loss.mean() + extra, (memory, info)

    # ------------------------------------------------------------------------ log Z and samples

    def path(params: Params, tilt: Callable[[Array], Array]) -> annealing.Path:
        """log p*_β(u) = log N(u; 0, I) - β f(u), from the Gaussian to the model."""
        n = params.mean.size

        def log_density(beta: Array, u: Array) -> Array:
            return -beta * tilt(u) - _half_square(u) - n / 2 * math.log(2 * math.pi)

        def transition(key: Key, beta: Array, u: Array) -> Array:
            bent = lambda u: -log_density(beta, u)
            return langevin.adjusted(key, u, bent, step_at(beta))[0]

        return annealing.Path(lambda key, n: base(key, n, params), log_density, transition, 0.0)

    def estimate(key: Key, state: TrainState) -> Once:
        """log Z, from the Gaussian to the model."""
        params = eval_params(state)
        own = path(params, functools.partial(f, params))
        return annealing.once(annealing.ais(key, own, config.ais))

    def normalised(key: Key, params: Params, batch: Batch, log_z: Array) -> Array:
        return log_prob(key, params, batch) - log_z

    def by_own_log_z(key: Key, params: Params, batch: Batch) -> Array:
        return log_prob(key, params, batch) - params.log_z

    def sample(key: Key, state: TrainState, n: int, label: Array | int | None = None) -> Batch:
        """Chains at the model; with `label` [] or [n] at exp(f_y), which start from the Gaussian.

        Raises DataError for a label that the model does not know.
        """
        params = eval_params(state)
        key_start, key_chain = jax.random.split(key)
        if label is not None:
            if not config.classes:
                raise DataError("energy_based_model: this model knows no labels; leave it out.")
            Labels(config.classes, "energy_based_model").check(label, n)
            label = jnp.broadcast_to(jnp.asarray(label, jnp.int32), (n,))
        move = path(params, lambda u: f(params, u, label)).transition
        u, rising = base(key_start, n, params), sampling.steps // 2
        if sampling.start == "buffer" and label is None:
            u, rising = state.memory[jax.random.randint(key_start, (n,), 0, objective.buffer)], 0
        betas = jnp.minimum(jnp.arange(1, sampling.steps + 1) / max(rising, 1), 1.0)
        keys = jax.random.split(key_chain, sampling.steps)
        u, _ = jax.lax.scan(lambda u, at: (move(at[0], at[1], u), None), u, (keys, betas))
        drawn = {"x": params.mean + params.std * u}
        return drawn if label is None else {**drawn, "label": label}

    def error(key: Key, params: Params, batch: Batch) -> Array:
        """1 where argmax p(y | x) is not the label, else 0."""
        guess = jnp.argmax(outputs(params, standard(params, batch)), axis=-1)
        return (guess != labels(batch)).astype(jnp.float32)

    how = annealing.described(config.ais)
    measures = {
        "ais": Measure(
            of_params(normalised),
            Exactness.ESTIMATE,
            "nats",
            detail=f"AIS from the Gaussian, {how}, Metropolis-adjusted Langevin",
            once=estimate,
        )
    }
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
        spaces={"x": REAL, **({"label": categorical(config.classes)} if config.classes else {})},
    )


# ------------------------------------------------------------ losses [B] of an energy u -> [B]


def score_matching(key: Key, energy: langevin.Energy, u: Array, slices: int = 0) -> Array:
    """½ ‖ψ(u)‖² + tr ∇ψ(u), ψ = -∇E: in the mean the Fisher divergence but for a constant.

    Hyvärinen 2005, equation 4. With `slices` the trace is vᵀ ∇ψ v averaged over as many random
    v ~ N(0, I) (Song et al. 2019, equation 8: the one whose first term is exact).

    Args:
      key: draws v.
      energy: E.
      u: [B, ...].
      slices: how many; 0 takes all directions once.
    """
    slope, curve = jax.vjp(lambda u: langevin.slope(energy, u)[1], u)
    if slices:
        v = jax.random.normal(key, (slices, *u.shape))
    else:
        eye = jnp.eye(u[0].size).reshape(-1, 1, *u.shape[1:])
        v = jnp.broadcast_to(eye, (u[0].size, *u.shape))
    # vᵀ H v of each direction and example, H = ∇²E = -∇ψ
    curvature = jax.vmap(lambda v: jnp.sum(_flat(v * curve(v)[0]), -1))(v)
    trace = curvature.mean(0) if slices else curvature.sum(0)
    return _half_square(slope) - trace


def denoising(key: Key, energy: langevin.Energy, u: Array, sigma: float) -> Array:
    """σ²/2 ‖ψ(ũ) - (u - ũ) / σ²‖², ũ = u + σ ξ  (Vincent 2011, equation 11, times σ²)."""
    xi = jax.random.normal(key, u.shape)
    psi = -langevin.slope(energy, u + sigma * xi)[1]
    # (u - ũ) / σ² = -ξ / σ
    return _half_square(sigma * psi + xi)


def noise_contrastive(data: Array, noise: Array) -> Array:
    """-log h(u) - Σ_ν log(1 - h(u')),  h = p / (p + ν q)  (Gutmann & Hyvärinen 2012, equation 8).

    Args:
      data: log p / q of the data [B].
      noise: log p / q of the noise [ν B].
    """
    ratio = len(noise) // len(data)
    at_noise = jax.nn.softplus(noise - math.log(ratio)).reshape(ratio, -1)
    return jax.nn.softplus(math.log(ratio) - data) + at_noise.sum(0)


def _flat(u: Array) -> Array:
    return u.reshape(len(u), -1)


def _half_square(u: Array) -> Array:
    """½ ‖u‖² of each: [B, ...] -> [B]."""
    return 0.5 * jnp.sum(_flat(u) ** 2, axis=-1)
