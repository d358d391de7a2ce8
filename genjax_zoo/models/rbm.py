"""Restricted Boltzmann machine: visible units, hidden units, and an energy between the two.

    E(v, h) = V(v) - cᵀ(h - λ) - ((v - μ) / σ²)ᵀW(h - λ),       p(v, h) = exp(-E(v, h)) / Z

    V(v) = -(v - μ)ᵀb                   p(v_i = 1 | h) = sigmoid(o_i)      v in {0, 1}, and σ = 1
    V(v) = Σ_i (v_i - b_i)² / 2σ_i²     p(v_i | h) = N(v_i; o_i, σ_i²)     v real

    o = b + W(h - λ)        a = c + Wᵀ((v - μ) / σ²)        p(h_j = 1 | v) = sigmoid(a_j)

Binary units are Smolensky's, 1986; the Gaussian energy is that of Cho, Ilin & Raiko, Improved
learning of Gaussian-Bernoulli restricted Boltzmann machines, 2011. A label y joins the visible
side as C more units with σ = 1 of which one is on, p(y | h) = softmax(o_y): Larochelle & Bengio,
Classification using discriminative restricted Boltzmann machines, 2008. The offsets μ and λ change
no distribution, only the coordinates, in which the gradient can be better conditioned. W follows

    E_data[((v - μ) / σ²)(h - λ)ᵀ] - E_model[((v - μ) / σ²)(h - λ)ᵀ],

whose second term a chain supplies: contrastive divergence, persistent chains, the same with fast
weights, or tempered ones (maths/mcmc/gibbs.py, with their sources).

Centring is Melchior, Fischer & Wiskott, How to center deep Boltzmann machines, 2016; log Z by
annealing is Salakhutdinov & Murray, On the quantitative analysis of deep belief networks, 2008.

Data of binary units are exactly 0 or 1. Grey values have no probability there: binarise them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from genjax_zoo import typed
from genjax_zoo.contract import (
    BINARY,
    MEAN,
    NOTHING,
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
from genjax_zoo.learn.state import Memory, TrainState, eval_params, of_params
from genjax_zoo.learn.verbs import contrast
from genjax_zoo.maths.mcmc import ais as annealing
from genjax_zoo.maths.mcmc import boltzmann, gibbs
from genjax_zoo.maths.mcmc.boltzmann import Machine, flat, visible
from genjax_zoo.maths.mcmc.units import UNITS
from genjax_zoo.maths.probability import distributions
from genjax_zoo.maths.probability.given import Labels, known_part, part_of, read_given
from genjax_zoo.typed import MOST_STEPS, number

VERB = "contrast"


@typed.config
class Config:
    """A restricted Boltzmann machine.

    Attributes:
      hidden: H, the number of hidden units.
      visible: D, the number of visible units; 0 leaves it to the data. It need only be told where
        D <= 20 < H, so that the likelihood is known to be exact.
      units: the visible units: "bernoulli" for data that are exactly 0 or 1, "gaussian" for real
        ones.
      classes: C, the states of a label unit, which learns from the batch's label; 0 has none.
      std: σ of Gaussian units when learning starts; 0 takes each unit's own in the first batch.
      learn_std: whether the optimizer moves log σ.
      chain: where the negative phase comes from: "cd", "pcd", "fast_pcd" or "tempering", as above.
      k: Gibbs steps in a step of learning.
      chains: how many persistent chains ("cd" has one for each example instead).
      fast_rate: the learning rate of the fast weights ("fast_pcd").
      fast_decay: what is left of the fast weights after each step.
      replicas: R, how many inverse temperatures each chain runs at ("tempering"), evenly spaced
        from 0, where it draws from the base rate, to 1.
      centred: whether the offsets follow the units' means; otherwise they stay 0.
      nu: ν, how much of each batch's means the offsets take over.
      base_rate: whether the visible biases start at the base rates of the first batch, in logits
        (of Gaussian units at its means), rather than at 0.
      weight_std: of the first weights, drawn from N(0, weight_std²).
      weight_decay: α of the penalty α/2 ‖W‖² on each step's objective; biases have none.
      l1: α of the penalty α ‖W‖₁.
      sparsity: κ of the penalty κ Σ_j -[q log q_j + (1 - q) log(1 - q_j)], q_j the mean of
        p(h_j = 1 | v) over the batch (Hinton, A practical guide to training restricted Boltzmann
        machines, 2010, section 11).
      target: q, how often a hidden unit should be on.
      discriminative: weight of -log p(y | x) in the objective (Larochelle & Bengio 2008, hybrid).
      sample_steps: Gibbs steps from the base rate to a sample.
      sample_means: `sample` gives the mean of p(v | h) beside its draws, which is how images are
        usually shown.
      ais: how log Z is estimated where both sides are too large to enumerate.
    """

    hidden: int = number(64, least=1)
    visible: int = number(0, least=0)
    units: Literal["bernoulli", "gaussian"] = "bernoulli"
    classes: int = number(0, least=0)
    std: float = number(0.0, least=0)
    learn_std: bool = False
    chain: Literal["cd", "pcd", "fast_pcd", "tempering"] = "pcd"
    k: int = number(1, least=1, most=MOST_STEPS)
    chains: int = number(100, least=1)
    fast_rate: float = number(0.01, least=0)
    fast_decay: float = number(0.95, least=0, below=1)
    replicas: int = number(10, least=2, most=MOST_STEPS)
    centred: bool = False
    nu: float = number(0.01, above=0, most=1)
    base_rate: bool = True
    weight_std: float = number(0.01, least=0, most=100)
    weight_decay: float = number(0.0, least=0)
    l1: float = number(0.0, least=0)
    sparsity: float = number(0.0, least=0)
    target: float = number(0.1, above=0, below=1)
    discriminative: float = number(0.0, least=0)
    sample_steps: int = number(1000, least=1, most=MOST_STEPS)
    sample_means: bool = False
    ais: annealing.Config = dataclasses.field(default_factory=annealing.Config)

    def __post_init__(self):
        if self.classes == 1:
            raise ConfigError(
                "rbm: classes should be 0, or 2 and more, got 1; a label that has one value says "
                "nothing."
            )
        if self.discriminative and not self.classes:
            raise ConfigError(
                f"rbm: discriminative={self.discriminative} is the weight of -log p(y | x), and "
                "without classes there is no y; set model.classes, or discriminative to 0."
            )

    def negative_phase(self) -> gibbs.NegativePhase:
        """What supplies the second term of the gradient."""
        return NEGATIVE_PHASES[self.chain](self)


NEGATIVE_PHASES: Mapping[str, Callable[[Config], gibbs.NegativePhase]] = {
    "cd": lambda c: gibbs.cd(c.k),
    "pcd": lambda c: gibbs.pcd(c.k, c.chains),
    "fast_pcd": lambda c: gibbs.fast_pcd(c.k, c.chains, c.fast_rate, c.fast_decay),
    "tempering": lambda c: gibbs.tempering(c.k, c.chains, c.replicas),
}


def make(config: Config, tx: optax.GradientTransformation) -> Model:
    """A restricted Boltzmann machine that learns by contrasting the data with a Gibbs chain."""
    labels, units, phase = (
        Labels(config.classes, "rbm"),
        UNITS[config.units],
        config.negative_phase(),
    )
    countable = [config.hidden, config.visible if units.space == BINARY else 0]
    exact = min(filter(None, countable)) <= boltzmann.ENUMERABLE
    moved = (*boltzmann.LEARNT, "log_std") if config.learn_std else boltzmann.LEARNT

    # ------------------------------------------------------------------------------- learning

    def begin(key: Key, batch: Batch) -> tuple[Machine, Memory]:
        """The parameters, and the persistent chains, if any."""
        key_W, key_v, key_h = jax.random.split(key, 3)
        x, D = batch["x"], math.prod(batch["x"].shape[1:])
        if config.visible not in (0, D):
            raise ConfigError(
                f"rbm: visible={config.visible} was promised, but the data have {D} numbers "
                f"{x.shape[1:]} in an example; set model.visible to {D}, or to 0."
            )
        params = boltzmann.fresh(
            key_W,
            x,
            config.hidden,
            config.weight_std,
            config.units,
            labels.one_hot(batch) if config.classes else None,
            config.std,
            config.centred,
            config.base_rate,
        )
        return params, phase.start(key_v, key_h, params)

    def energy(params: Machine, v: Array) -> Array:
        return boltzmann.free_energy(boltzmann.held(params, moved), v)

    def positive(key: Key, params: Machine, memory: Memory, batch: Batch) -> tuple[Array, Memory]:
        return visible(batch, labels), memory

    def negative(key: Key, params: Machine, memory: Memory, batch: Batch) -> tuple[Array, Memory]:
        key_start, key_chain = jax.random.split(key)
        return phase.step(key_start, key_chain, params, memory, visible(batch, labels))

    def extra(key: Key, params: Machine, batch: Batch) -> tuple[Array, Info]:
        params, terms = boltzmann.held(params, moved), jnp.zeros(())
        if config.weight_decay:
            # α/2 ‖W‖²
            terms += 0.5 * config.weight_decay * jnp.sum(params.W**2)
        if config.l1:
            # α ‖W‖₁
            terms += config.l1 * jnp.sum(jnp.abs(params.W))
        if config.sparsity:
            # κ Σ_j -[q log q_j + (1 - q) log(1 - q_j)]
            q, on = config.target, boltzmann.hidden_mean(params, visible(batch, labels))
            q_j = jnp.clip(jnp.mean(on, 0), 1e-6, 1 - 1e-6)
            terms -= config.sparsity * jnp.sum(q * jnp.log(q_j) + (1 - q) * jnp.log1p(-q_j))
        if config.discriminative:
            # -log p(y | x)
            terms -= config.discriminative * jnp.mean(log_posterior(key, params, batch))
        return terms, {}

    def post_update(
        params: Machine, memory: Memory, gradient: Machine, positive: Array, negative: Array
    ) -> tuple[Machine, Memory]:
        memory = phase.learn(memory, gradient)
        if not config.centred:
            return params, memory
        centred = boltzmann.recentre(params, positive, config.nu)
        return centred, phase.move(params, centred, memory)

    tx = optax.masked(tx, lambda params: boltzmann.learnt(params, moved))
    init, learn = contrast(
        begin, energy, negative, tx, positive, extra=extra, post_update=post_update
    )

    def step(key: Key, state: TrainState, batch: Batch) -> tuple[TrainState, Info]:
        state, info = learn(key, state, batch)
        return state, {**info, **phase.info(state.memory)}

    # ------------------------------------------------------------------------------ measuring

    def supported(batch: Batch, nats: Array) -> Array:
        """Outside of {0, 1}^D binary units give no probability."""
        inside = units.space != BINARY or distributions.is_binary(flat(batch["x"]))
        return jnp.where(inside, nats, -jnp.inf)

    def log_z(params: Machine) -> Array:
        return boltzmann.log_partition(params) if exact else jnp.zeros(())

    def log_prob(key: Key, params: Machine, batch: Batch) -> Array:
        """Of x. Exact: log p(x) = log p*(x) - log Z. Else unnormalised: log p*(x)."""
        return normalised(key, params, batch, log_z(params))

    def normalised(key: Key, params: Machine, batch: Batch, log_z: Array) -> Array:
        return supported(batch, boltzmann.log_marginal(params, flat(batch["x"])) - log_z)

    def log_joint(key: Key, params: Machine, batch: Batch) -> Array:
        """Of x and its label, normalised where log_prob is."""
        nats = -boltzmann.free_energy(params, visible(batch, labels))
        return supported(batch, nats - log_z(params))

    def log_posterior(key: Key, params: Machine, batch: Batch) -> Array:
        """log p(y | x) [B] of the labels that the batch has."""
        nats = jax.nn.log_softmax(boltzmann.label_logits(params, flat(batch["x"])))
        return jnp.take_along_axis(nats, labels.of(batch)[:, None], axis=1)[:, 0]

    def error(key: Key, params: Machine, batch: Batch) -> Array:
        """1 where argmax p(y | x) is not the label, else 0."""
        best = jnp.argmax(boltzmann.label_logits(params, flat(batch["x"])), axis=-1)
        return (best != labels.of(batch)).astype(jnp.float32)

    def reconstruction(key: Key, params: Machine, batch: Batch) -> Array:
        """Σ_i (x_i - x̂_i)², x̂ the visible means given the hidden means given x: nothing drawn."""
        back = decode(key, params, encode(key, params, batch))
        return jnp.sum((flat(batch["x"]) - flat(back["x"])) ** 2, -1)

    def long_chains(key: Key, state: TrainState) -> tuple[Key, Array]:
        """v after `sample_steps` from where the chains of learning are, or from the base rate."""
        params, n = eval_params(state), config.ais.chains
        key_v, key_h, key_chain, key_ais = jax.random.split(key, 4)
        h = phase.hidden(state.memory)
        if h is None:
            h = gibbs.start(key_v, key_h, params, n)
        h = h[jnp.arange(n) % h.shape[0]]
        return key_ais, gibbs.visible(key_chain, params, h, config.sample_steps)[0]

    # ----------------------------------------------------------------------------- generating

    def sample(key: Key, params: Machine, n: int, given: Batch = NOTHING) -> Batch:
        """`sample_steps` of Gibbs sampling from the base rate; the last v, with its mean if wanted.

        What is given, the label or a part of x, stays as it is, and the rest is drawn given it.
        """
        told = read_given(given, labels.told | part_of(units.space, params.shape), n, "rbm")
        part = known_part(told, "rbm")
        hold = gibbs.hold(math.prod(params.shape), part, told.get("label"), config.classes)
        key_v, key_h, key_chain = jax.random.split(key, 3)
        h = gibbs.start(key_v, key_h, params, n, hold)
        v, mean = gibbs.visible(key_chain, params, h, config.sample_steps, hold)
        x_part = lambda v: boltzmann.x_part(params, v).reshape(n, *params.shape)
        drawn = {"x": x_part(v), **({MEAN: x_part(mean)} if config.sample_means else {})}
        if config.classes:
            y = boltzmann.label_part(params, v)
            drawn["label"] = jnp.argmax(y, axis=-1).astype(jnp.int32)
        return drawn

    def encode(key: Key, params: Machine, batch: Batch) -> Array:
        """The hidden means p(h = 1 | x), or p(h = 1 | x, y) if the batch has a label: [B, H]."""
        if config.classes and "label" not in batch:
            return boltzmann.hidden_mean_of_x(params, flat(batch["x"]))
        return boltzmann.hidden_mean(params, visible(batch, labels))

    def decode(key: Key, params: Machine, h: Array) -> Batch:
        """The mean of p(x | h), h [B, H]."""
        x = boltzmann.x_part(params, boltzmann.visible_mean(params, h))
        return {"x": x.reshape(-1, *params.shape)}

    exactness = Exactness.EXACT if exact else Exactness.UNNORMALISED
    error_of_x = Measure(of_params(reconstruction), Exactness.EXACT, "squared error", "lower")
    measures = {"reconstruction": error_of_x}
    if config.classes:
        measures |= {
            "error": Measure(of_params(error), Exactness.EXACT, "error", "lower"),
            "log_p_label": Measure(of_params(log_posterior), Exactness.EXACT),
            "log_joint": Measure(of_params(log_joint), exactness),
        }
    if not exact:
        origin = "the base rate" if config.chain == "cd" else "the chains of learning"
        measures |= annealing.measures(
            "ais",
            of_params(normalised),
            lambda state: gibbs.path(eval_params(state)),
            config.ais,
            base="the base rate",
            samples=long_chains,
            origin=f"{config.sample_steps} Gibbs steps away from {origin}",
        )
    return Model(
        init,
        step,
        sample=of_params(sample),
        log_prob=Measure(of_params(log_prob), exactness, density=True),
        measures=measures,
        spaces=labels.spaces(units.space),
        latents=Latents(decode=of_params(decode), encode=of_params(encode), space=BINARY),
    )
