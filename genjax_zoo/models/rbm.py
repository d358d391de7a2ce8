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

whose second term a chain supplies:

    cd         k Gibbs steps from the data: Hinton, Training products of experts by minimizing
               contrastive divergence, 2002
    pcd        k more steps of chains that never restart: Tieleman, Training restricted Boltzmann
               machines using approximations to the likelihood gradient, 2008
    fast_pcd   the same, in a machine that runs ahead of the learnt one by weights which learn fast
               and forget fast: Tieleman & Hinton, Using fast weights to improve persistent
               contrastive divergence, 2009
    tempering  the same, with hotter replicas that trade places: Desjardins et al., Tempered Markov
               chain Monte Carlo for training of restricted Boltzmann machines, 2010

Centring is Melchior, Fischer & Wiskott, How to center deep Boltzmann machines, 2016; log Z by
annealing is Salakhutdinov & Murray, On the quantitative analysis of deep belief networks, 2008.

Data of binary units are exactly 0 or 1. Grey values have no probability there: binarise them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import struct

import genjax_zoo.maths.mcmc.ais as annealing
from genjax_zoo.contract import (
    BINARY,
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
    Once,
    categorical,
)
from genjax_zoo.learn.state import Memory, TrainState, eval_params, of_params
from genjax_zoo.learn.verbs import contrast
from genjax_zoo.maths.mcmc import chains
from genjax_zoo.maths.probability import distributions
from genjax_zoo.maths.probability.given import Labels

VERB = "contrast"

ENUMERABLE = 20
"""The largest number of units whose 2^n states are summed over one by one."""


@dataclasses.dataclass(frozen=True)
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
      sample_means: the last step of `sample` returns the mean of p(v | h), which is how images are
        usually shown; False returns draws, which is what a distribution is judged by.
      ais: how log Z is estimated where both sides are too large to enumerate.
    """

    hidden: int = 64
    visible: int = 0
    units: Literal["bernoulli", "gaussian"] = "bernoulli"
    classes: int = 0
    std: float = 0.0
    learn_std: bool = False
    chain: Literal["cd", "pcd", "fast_pcd", "tempering"] = "pcd"
    k: int = 1
    chains: int = 100
    fast_rate: float = 0.01
    fast_decay: float = 0.95
    replicas: int = 10
    centred: bool = False
    nu: float = 0.01
    base_rate: bool = True
    weight_std: float = 0.01
    weight_decay: float = 0.0
    l1: float = 0.0
    sparsity: float = 0.0
    target: float = 0.1
    discriminative: float = 0.0
    sample_steps: int = 1000
    sample_means: bool = False
    ais: annealing.Config = dataclasses.field(default_factory=annealing.Config)

    def __post_init__(self):
        for name in ("hidden", "k", "chains", "sample_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"rbm: {name} should be at least 1, got {getattr(self, name)}.")
        for name in (
            *("visible", "std", "fast_rate", "weight_std"),
            *("weight_decay", "l1", "sparsity", "discriminative"),
        ):
            if getattr(self, name) < 0:
                raise ConfigError(f"rbm: {name} should not be negative, got {getattr(self, name)}.")
        if not 0 < self.nu <= 1:
            raise ConfigError(f"rbm: nu should lie in (0, 1], got {self.nu}.")
        if not 0 < self.target < 1:
            raise ConfigError(f"rbm: target should lie in (0, 1), got {self.target}.")
        if not 0 <= self.fast_decay < 1:
            raise ConfigError(f"rbm: fast_decay should lie in [0, 1), got {self.fast_decay}.")
        if self.classes < 0 or self.classes == 1:
            raise ConfigError(
                f"rbm: classes should be 0, or 2 and more, got {self.classes}; a label that has "
                "one value says nothing."
            )
        if self.replicas < 2:
            raise ConfigError(
                f"rbm: replicas should be at least 2, the base rate's and the machine's, got "
                f"{self.replicas}."
            )
        if self.discriminative and not self.classes:
            raise ConfigError(
                f"rbm: discriminative={self.discriminative} is the weight of -log p(y | x), and "
                "without classes there is no y; set model.classes, or discriminative to 0."
            )


@struct.dataclass
class Params:
    """What a restricted Boltzmann machine learns. The visible side is x, then the label's C units.

    Attributes:
      W: weights between the two sides [D + C, H].
      b: visible biases [D + C].
      c: hidden biases [H].
      mu: μ, visible offsets [D + C]; follow the data's means if centred, else 0. No optimizer
        moves them.
      lam: λ, hidden offsets [H]; likewise.
      rate: mean of the first batch [D + C]; of units that are 0 or 1 with each value imagined once
        besides, so that no rate is 0 or 1. Where chains of samples start, and annealing.
      shape: of one example x, without the batch; its product is D.
      log_std: log σ [D] of Gaussian units; None where x is binary.
      classes: C, 0 without a label.
    """

    W: Array
    b: Array
    c: Array
    mu: Array
    lam: Array
    rate: Array
    shape: tuple[int, ...] = struct.field(pytree_node=False)
    log_std: Array | None = None
    classes: int = struct.field(pytree_node=False, default=0)


@struct.dataclass
class Fast:
    """The memory of fast PCD.

    Attributes:
      h: the chains' hidden units [M, H].
      weights: what is added to W, b and c where the chains run, by name.
    """

    h: Array
    weights: dict[str, Array]


@struct.dataclass
class Replicas:
    """The memory of tempering.

    Attributes:
      h: the hidden units [R, M, H] at each inverse temperature, the machine's own last.
      accepted: how much of the last proposals to trade places neighbours took [R - 1].
    """

    h: Array
    accepted: Array


def make(config: Config, tx: optax.GradientTransformation) -> Model:
    """A restricted Boltzmann machine that learns by contrasting the data with a Gibbs chain."""
    gaussian = config.units == "gaussian"
    smaller = min(config.hidden, config.hidden if gaussian else config.visible or config.hidden)
    exact = smaller <= ENUMERABLE
    moved = ("W", "b", "c", "log_std") if config.learn_std else ("W", "b", "c")

    def begin(key: Key, batch: Batch) -> tuple[Params, Memory]:
        """The parameters, and the persistent chains, if any.

        Raises DataError where the labels are missing, or are not among the classes as far as they
        can be seen (not traced).
        """
        key_W, key_v, key_h = jax.random.split(key, 3)
        shape = tuple(batch["x"].shape[1:])
        D, C, H = math.prod(shape), config.classes, config.hidden
        if config.visible not in (0, D):
            raise ConfigError(
                f"rbm: visible={config.visible} was promised, but the data have {D} numbers "
                f"{shape} in an example; set model.visible to {D}, or to 0."
            )
        if C and "label" not in batch:
            raise DataError(
                f"rbm: a machine of {C} classes learns from labels, and the data have none; set "
                "model.classes to 0."
            )
        if C:
            Labels(C, "rbm").check(batch["label"])
        x = flat(batch["x"])
        params = Params(
            W=config.weight_std * jax.random.normal(key_W, (D + C, H)),
            b=jnp.zeros(D + C),
            c=jnp.zeros(H),
            mu=jnp.zeros(D + C),
            # Before anything is learnt a hidden unit is on half of the time.
            lam=jnp.full(H, 0.5 if config.centred else 0.0, jnp.float32),
            rate=jnp.zeros(D + C),
            shape=shape,
            log_std=_first_log_std(config, x) if gaussian else None,
            classes=C,
        )
        n = x.shape[0]
        rate = x.mean(0) if gaussian else (x.sum(0) + 1) / (n + 2)
        if C:
            counts = jax.nn.one_hot(batch["label"], C).sum(0)
            rate = jnp.concatenate([rate, (counts + 1) / (n + C)])
        params = at_rate(config, params, rate)
        if config.chain == "cd":
            return params, ()
        if config.chain == "tempering":
            M, R = config.chains, config.replicas
            h = draw_hidden(key_h, params, start(key_v, params, R * M))
            return params, Replicas(h.reshape(R, M, H), jnp.zeros(R - 1))
        h = draw_hidden(key_h, params, start(key_v, params, config.chains))
        if config.chain == "fast_pcd":
            zeros = {name: jnp.zeros_like(getattr(params, name)) for name in ("W", "b", "c")}
            return params, Fast(h, zeros)
        return params, h

    def energy(params: Params, v: Array) -> Array:
        return free_energy(_held(params, moved), v)

    def positive(key: Key, params: Params, memory: Memory, batch: Batch) -> tuple[Array, Memory]:
        return joined(params, batch), memory

    def negative(key: Key, params: Params, memory: Memory, batch: Batch) -> tuple[Array, Memory]:
        """The negative phase: v [M, D + C]. A chain is kept by its hidden units.

        Its last draw of them, from p(h | v), then shares its product with the gradient's.
        """
        key_start, key_chain = jax.random.split(key)
        if config.chain == "cd":
            h = draw_hidden(key_start, params, joined(params, batch))
            return gibbs(key_chain, params, h, config.k)[0], memory
        if config.chain == "tempering":
            return temper(key_chain, params, memory, config.k)
        if config.chain == "fast_pcd":
            v, h = gibbs(key_chain, ahead(params, memory), memory.h, config.k)
            return v, memory.replace(h=h)
        return gibbs(key_chain, params, memory, config.k)

    def extra(key: Key, params: Params, batch: Batch) -> tuple[Array, Info]:
        params, terms = _held(params, moved), jnp.zeros(())
        if config.weight_decay:
            # α/2 ‖W‖²
            terms += 0.5 * config.weight_decay * jnp.sum(params.W**2)
        if config.l1:
            # α ‖W‖₁
            terms += config.l1 * jnp.sum(jnp.abs(params.W))
        if config.sparsity:
            # κ Σ_j -[q log q_j + (1 - q) log(1 - q_j)]
            q = config.target
            q_j = jnp.clip(jnp.mean(hidden_mean(params, joined(params, batch)), 0), 1e-6, 1 - 1e-6)
            terms -= config.sparsity * jnp.sum(q * jnp.log(q_j) + (1 - q) * jnp.log1p(-q_j))
        if config.discriminative:
            # -log p(y | x)
            terms -= config.discriminative * jnp.mean(log_posterior(params, batch))
        return terms, {}

    def post_update(
        params: Params, memory: Memory, gradient: Params, positive: Array, negative: Array
    ) -> tuple[Params, Memory]:
        if config.chain == "fast_pcd":
            # θ_fast ← 19/20 θ_fast - ε_fast ∇
            follow = lambda name, f: (
                config.fast_decay * f - config.fast_rate * getattr(gradient, name)
            )
            memory = memory.replace(weights={n: follow(n, f) for n, f in memory.weights.items()})
        if not config.centred:
            return params, memory
        new = recentre(params, positive, config.nu)
        if config.chain == "fast_pcd":
            # The machine ahead keeps its distribution too.
            fast = dataclasses.replace(params, **memory.weights)
            fast = at_offsets(fast, new.mu, new.lam)
            memory = memory.replace(weights={n: getattr(fast, n) for n in memory.weights})
        return new, memory

    def log_prob(key: Key, params: Params, batch: Batch) -> Array:
        """Of x. Exact: log p(x) = log p*(x) - log Z. Else unnormalised: log p*(x)."""
        return supported(batch, log_marginal(params, flat(batch["x"])), log_z(params))

    def log_joint(key: Key, params: Params, batch: Batch) -> Array:
        """Of x and its label, normalised where log_prob is."""
        return supported(batch, -free_energy(params, joined(params, batch)), log_z(params))

    def log_z(params: Params) -> Array:
        return log_partition(params) if exact else jnp.zeros(())

    def supported(batch: Batch, nats: Array, log_z: Array) -> Array:
        """Outside of {0, 1}^D binary units give no probability."""
        inside = gaussian or distributions.is_binary(flat(batch["x"]))
        return jnp.where(inside, nats - log_z, -jnp.inf)

    def log_posterior(params: Params, batch: Batch) -> Array:
        """log p(y | x) [B] of the labels that the batch has."""
        nats = jax.nn.log_softmax(label_logits(params, flat(batch["x"])))
        label = jnp.asarray(_labels(batch))[:, None]
        return jnp.take_along_axis(nats, label, axis=1)[:, 0]

    def error(key: Key, params: Params, batch: Batch) -> Array:
        """1 where argmax p(y | x) is not the label, else 0."""
        guess = jnp.argmax(label_logits(params, flat(batch["x"])), axis=-1)
        return (guess != jnp.asarray(_labels(batch))).astype(jnp.float32)

    def reconstruction(key: Key, params: Params, batch: Batch) -> Array:
        """Σ_i (x_i - x̂_i)², x̂ the visible means given the hidden means given x: no dice."""
        x = flat(batch["x"])
        return jnp.sum((x - _x(params, visible_mean(params, encode(key, params, batch)))) ** 2, -1)

    def estimate(key: Key, state: TrainState) -> Once:
        """log Z from the base rate to the machine."""
        return annealing.once(annealing.ais(key, path(eval_params(state)), config.ais))

    def estimate_back(key: Key, state: TrainState) -> Once:
        """log Z from the machine to the base rate, starting where long chains are."""
        params, n = eval_params(state), config.ais.chains
        key_v, key_h, key_chain, key_ais = jax.random.split(key, 4)
        if config.chain == "cd":
            h = draw_hidden(key_h, params, start(key_v, params, n))
        else:
            at = {"pcd": lambda m: m, "fast_pcd": lambda m: m.h, "tempering": lambda m: m.h[-1]}
            h = at[config.chain](state.memory)
            h = h[jnp.arange(n) % h.shape[0]]
        v = gibbs_visible(key_chain, params, h, config.sample_steps, means=False)
        return annealing.once(annealing.reverse(key_ais, path(params), v, config.ais))

    def normalised(key: Key, params: Params, batch: Batch, log_z: Array) -> Array:
        return supported(batch, log_marginal(params, flat(batch["x"])), log_z)

    def sample(
        key: Key,
        params: Params,
        n: int,
        x: Array | None = None,
        mask: Array | None = None,
        label: Array | int | None = None,
        means: bool = config.sample_means,
    ) -> Batch:
        """`sample_steps` of Gibbs sampling from the base rate; the last v drawn, or its mean.

        What is known stays as it is, and the rest is drawn given it.

        Args:
          key: the dice.
          params: of the machine.
          n: how many.
          x: [...] or [n, ...], of which the part that `mask` names is known.
          mask: like x; 1 where x is known, 0 where it is wanted.
          label: [] or [n], known; the machine must have a label unit.
          means: whether x is the mean of p(x | h) in the end.

        Raises DataError for x without mask or mask without x, and for a label that is not among
        the machine's classes, if it is not traced.
        """
        hold = known(params, n, x, mask, label)
        key_v, key_h, key_chain = jax.random.split(key, 3)
        h = draw_hidden(key_h, params, clamp(start(key_v, params, n), hold))
        v = gibbs_visible(key_chain, params, h, config.sample_steps, means, hold)
        drawn = {"x": _x(params, v).reshape(n, *params.shape)}
        if params.classes:
            drawn["label"] = jnp.argmax(_y(params, v), axis=-1).astype(jnp.int32)
        return drawn

    def encode(key: Key, params: Params, batch: Batch) -> Array:
        """The hidden means p(h = 1 | x), or p(h = 1 | x, y) if the batch has a label: [B, H]."""
        if params.classes and "label" not in batch:
            x = flat(batch["x"])
            # Σ_y p(y | x) p(h = 1 | x, y)
            posterior = jax.nn.softmax(label_logits(params, x))
            given = jax.nn.sigmoid(_logits_of_labels(params, x))
            return jnp.einsum("bc,bch->bh", posterior, given)
        return hidden_mean(params, joined(params, batch))

    def decode(params: Params, latents: Array) -> Batch:
        return {"x": _x(params, visible_mean(params, latents)).reshape(-1, *params.shape)}

    needed = config.weight_decay or config.l1 or config.sparsity or config.discriminative
    init, step = contrast(
        begin,
        energy,
        negative,
        optax.masked(tx, lambda params: _named(params, moved)),
        positive,
        extra=extra if needed else None,
        post_update=post_update if config.centred or config.chain == "fast_pcd" else None,
    )

    def tempered_step(key: Key, state: TrainState, batch: Batch) -> tuple[TrainState, Info]:
        state, info = step(key, state, batch)
        return state, {**info, "swapped": jnp.mean(state.memory.accepted)}

    evidence = Exactness.EXACT if exact else Exactness.UNNORMALISED
    measures = {
        "reconstruction": Measure(
            of_params(reconstruction), Exactness.EXACT, "squared error", "lower"
        )
    }
    if config.classes:
        measures |= {
            "error": Measure(of_params(error), Exactness.EXACT, "error", "lower"),
            "log_p_label": Measure(
                of_params(lambda key, params, batch: log_posterior(params, batch)),
                Exactness.EXACT,
                "nats",
            ),
            "log_joint": Measure(of_params(log_joint), evidence, "nats"),
        }
    if not exact:
        how = annealing.described(config.ais)
        begun = "the base rate" if config.chain == "cd" else "the chains of learning"
        measures |= {
            "ais": Measure(
                of_params(normalised),
                Exactness.ESTIMATE,
                "nats",
                detail=f"AIS from the base rate, {how}",
                once=estimate,
            ),
            "ais_reverse": Measure(
                of_params(normalised),
                Exactness.ESTIMATE,
                "nats",
                detail=f"reverse AIS, {how}, started {config.sample_steps} Gibbs steps away from "
                f"{begun}, which is no exact sample",
                once=estimate_back,
            ),
        }
    return Model(
        init,
        tempered_step if config.chain == "tempering" else step,
        sample=of_params(sample),
        log_prob=Measure(of_params(log_prob), evidence, density=True),
        measures=measures,
        spaces={
            "x": REAL if gaussian else BINARY,
            **({"label": categorical(config.classes)} if config.classes else {}),
        },
        latents=Latents(
            decode=lambda key, state, latents: decode(eval_params(state), latents),
            encode=of_params(encode),
            space=BINARY,
        ),
    )


# --------------------------------------------------------- the machine: v [B, D + C] and h [B, H]


def flat(x: Array) -> Array:
    """[B, ...] -> [B, D]."""
    return x.reshape(x.shape[0], -1)


def joined(params: Params, batch: Batch) -> Array:
    """The visible side: x flat [B, D], and its label as C numbers of which one is 1."""
    x = flat(batch["x"])
    if not params.classes:
        return x
    return jnp.concatenate([x, jax.nn.one_hot(_labels(batch), params.classes)], axis=-1)


def hidden_logits(params: Params, v: Array) -> Array:
    """a = c + Wᵀ((v - μ) / σ²): [B, D + C] -> [B, H]."""
    centred = v - params.mu
    if params.log_std is not None:
        centred = centred * _precision(params)
    return params.c + centred @ params.W


def visible_logits(params: Params, h: Array) -> Array:
    """o = b + W(h - λ): [B, H] -> [B, D + C]; of Gaussian units their mean."""
    return params.b + (h - params.lam) @ params.W.T


def hidden_mean(params: Params, v: Array) -> Array:
    """p(h = 1 | v): [B, D + C] -> [B, H]."""
    return jax.nn.sigmoid(hidden_logits(params, v))


def visible_mean(params: Params, h: Array) -> Array:
    """E[v | h]: [B, H] -> [B, D + C]; p(v = 1 | h) where v is binary."""
    o = visible_logits(params, h)
    x = _x(params, o) if params.log_std is not None else jax.nn.sigmoid(_x(params, o))
    return _with_label(params, x, lambda: jax.nn.softmax(_y(params, o)))


def draw_hidden(key: Key, params: Params, v: Array) -> Array:
    """h ~ p(h | v), as 0. and 1.: [B, D + C] -> [B, H]."""
    return _bernoulli(key, hidden_mean(params, v))


def draw_visible(key: Key, params: Params, h: Array) -> Array:
    """v ~ p(v | h): [B, H] -> [B, D + C]; binary units as 0. and 1."""
    return draw_units(key, params, visible_logits(params, h))


def draw_units(key: Key, params: Params, o: Array) -> Array:
    """Visible units with these o [..., D + C]: logits, or means of Gaussian units."""
    m = _x(params, o)
    if params.log_std is not None:
        x = m + jnp.exp(params.log_std) * jax.random.normal(key, m.shape)
    else:
        x = _bernoulli(key, jax.nn.sigmoid(m))

    def one_of() -> Array:
        y = jax.random.categorical(jax.random.fold_in(key, 1), _y(params, o))
        return jax.nn.one_hot(y, params.classes)

    return _with_label(params, x, one_of)


def start(key: Key, params: Params, n: int) -> Array:
    """v [n, D + C] from the base rate, where no chain has run yet."""
    bias = base_bias(params)
    return draw_units(key, params, jnp.broadcast_to(bias, (n, bias.size)))


Hold = tuple[Array, Array] | None
"""What is known: v [n, D + C], and where it is known (bool)."""


def clamp(v: Array, hold: Hold) -> Array:
    """v with what is known put back in its place."""
    return v if hold is None else jnp.where(hold[1], hold[0], v)


def gibbs(key: Key, params: Params, h: Array, k: int, hold: Hold = None) -> tuple[Array, Array]:
    """k Gibbs steps from h: (v [M, D + C], h [M, H]); what is known of v is held."""
    return chains.block_gibbs(
        key,
        h,
        lambda key, h: clamp(draw_visible(key, params, h), hold),
        lambda key, v: draw_hidden(key, params, v),
        k,
    )


def gibbs_visible(
    key: Key, params: Params, h: Array, k: int, means: bool, hold: Hold = None
) -> Array:
    """The v of k Gibbs steps from h, the last of them drawn or, with `means`, expected."""
    key_chain, key_last = jax.random.split(key)
    if k > 1:
        _, h = gibbs(key_chain, params, h, k - 1, hold)
    v = visible_mean(params, h) if means else draw_visible(key_last, params, h)
    return clamp(v, hold)


def visible_energy(params: Params, v: Array) -> Array:
    """V(v), what the energy is without hidden units: [..., D + C] -> [...] nats."""
    if params.log_std is None:
        # V(v) = -(v - μ)ᵀb
        return -(v - params.mu) @ params.b
    # V(v) = Σ_i (x_i - b_i)² / 2σ_i² - (y - μ_y)ᵀb_y
    z = (_x(params, v) - _x(params, params.b)) * jnp.exp(-params.log_std)
    return 0.5 * jnp.sum(z**2, -1) - _y(params, v - params.mu) @ _y(params, params.b)


def free_energy(params: Params, v: Array) -> Array:
    """F(v) = -log Σ_h exp(-E(v, h)): [B, D + C] -> [B] nats.

        F(v) = V(v) + λᵀa - Σ_j log(1 + exp(a_j)),     a = c + Wᵀ((v - μ) / σ²)

    The offsets are coordinates, not parameters: no gradient reaches them.
    """
    mu, lam = jax.lax.stop_gradient((params.mu, params.lam))
    params = dataclasses.replace(params, mu=mu, lam=lam)
    a = hidden_logits(params, v)
    return visible_energy(params, v) + a @ lam - jnp.sum(jax.nn.softplus(a), axis=-1)


def hidden_free_energy(params: Params, h: Array) -> Array:
    """-log of the sum or integral of exp(-E(v, h)) over all v: [..., H] -> [...] nats.

    -cᵀ(h - λ) + μᵀo - Σ_i log(1 + exp(o_i)) - log Σ_y exp(o_y),      o = b + W(h - λ),

    where Gaussian units have Σ_i -(o_i - b_i)((o_i + b_i) / 2 - μ_i) / σ_i² - ½ log 2πσ_i².
    """
    o = visible_logits(params, h)
    m, mu = _x(params, o), _x(params, params.mu)
    if params.log_std is None:
        log_sum = jnp.sum(jax.nn.softplus(m), -1) - m @ mu
    else:
        b = _x(params, params.b)
        gain = (m - b) * ((m + b) / 2 - mu) * jnp.exp(-2 * params.log_std)
        log_sum = jnp.sum(gain + params.log_std + 0.5 * math.log(2 * math.pi), -1)
    if params.classes:
        o_y = _y(params, o)
        log_sum = log_sum + jax.nn.logsumexp(o_y, axis=-1) - o_y @ _y(params, params.mu)
    return -(h - params.lam) @ params.c - log_sum


def turned(params: Params) -> Params:
    """The same binary machine with its two sides exchanged: E(v, h) = E'(h, v)."""
    p = params
    return dataclasses.replace(p, W=p.W.T, b=p.c, c=p.b, mu=p.lam, lam=p.mu)


def log_partition(params: Params, block: int = 2**11) -> Array:
    """log Z = log Σ_v Σ_h exp(-E(v, h)) [] nats, by enumeration of the smaller side.

    Args:
      params: of a machine whose smaller side has n <= 20 units; Gaussian units cannot be
        enumerated, and a label's need not be.
      block: how many of the 2^n states are held at once; a power of two.

    Raises ConfigError where both sides are larger.
    """
    D, H = params.W.shape[0] - params.classes, params.W.shape[1]
    over_x = D <= H and params.log_std is None
    n = D if over_x else H
    log_sum_rest = log_marginal if over_x else (lambda p, h: -hidden_free_energy(p, h))
    if n > ENUMERABLE:
        raise ConfigError(
            f"rbm: the sum over all states needs a side of at most {ENUMERABLE} units, got "
            f"{D} visible and {H} hidden ones; choose fewer, or estimate log Z instead."
        )
    if block < 1 or block & (block - 1):
        raise ConfigError(f"rbm: a block of states should be a power of two, got {block}.")
    size = min(block, 2**n)

    def add(log_sum: Array, first: Array) -> tuple[Array, None]:
        # State number s has bit i of s as its unit i.
        states = (first + jnp.arange(size)[:, None]) >> jnp.arange(n) & 1
        nats = log_sum_rest(params, states.astype(jnp.float32))
        return jnp.logaddexp(log_sum, jax.nn.logsumexp(nats)), None

    return jax.lax.scan(add, jnp.array(-jnp.inf), jnp.arange(0, 2**n, size))[0]


# -------------------------------------------------------------------------------------- the label


def label_logits(params: Params, x: Array) -> Array:
    """-F(x, y) for every y, which is log p(y | x) up to a constant: [B, D] -> [B, C] nats."""
    a = _logits_of_labels(params, x)
    no_label = jnp.concatenate([x, jnp.zeros((x.shape[0], params.classes))], axis=-1)
    V = visible_energy(params, no_label)[:, None] - _y(params, params.b)
    return -V - a @ params.lam + jnp.sum(jax.nn.softplus(a), axis=-1)


def log_marginal(params: Params, x: Array) -> Array:
    """log p*(x) = log Σ_y Σ_h exp(-E(x, y, h)), unnormalised: [B, D] -> [B] nats."""
    if not params.classes:
        return -free_energy(params, x)
    return jax.nn.logsumexp(label_logits(params, x), axis=-1)


def known(
    params: Params, n: int, x: Array | None, mask: Array | None, label: Array | int | None
) -> Hold:
    """What is known of n examples, side by side as the visible units are; None if nothing is."""
    D, C = params.W.shape[0] - params.classes, params.classes
    if (x is None) != (mask is None):
        raise DataError(
            "rbm: x and mask go together: x holds the values, and mask is 1 where they are known; "
            f"got {'no x' if x is None else 'no mask'}."
        )
    if label is not None and not C:
        raise DataError(
            "rbm: this machine has no label unit to hold; train one with model.classes, or sample "
            "without label."
        )
    if x is None and label is None:
        return None
    wide = lambda part: jnp.broadcast_to(jnp.asarray(part), (n, *params.shape)).reshape(n, D)
    v, where = jnp.zeros((n, D + C)), jnp.zeros((n, D + C), bool)
    if x is not None:
        v, where = v.at[:, :D].set(wide(x)), where.at[:, :D].set(wide(mask) > 0)
    if label is not None:
        Labels(C, "rbm").check(label, n)
        y = jnp.broadcast_to(jnp.asarray(label, jnp.int32), (n,))
        v, where = v.at[:, D:].set(jax.nn.one_hot(y, C)), where.at[:, D:].set(True)
    return v, where


def _logits_of_labels(params: Params, x: Array) -> Array:
    """a given x and each y: [B, D] -> [B, C, H]. The product with x is done once."""
    no_label = jnp.concatenate([x, jnp.zeros((x.shape[0], params.classes))], axis=-1)
    return hidden_logits(params, no_label)[:, None] + _rows_of_labels(params)


def _rows_of_labels(params: Params) -> Array:
    return params.W[params.W.shape[0] - params.classes :]


def _labels(batch: Batch) -> Array:
    if "label" not in batch:
        raise DataError(
            "rbm: this machine has a label unit, and the batch no label; give it one, or ask for "
            "log_prob, which needs none."
        )
    return batch["label"]


# --------------------------------------------------------- between the base rate and the machine


def base_bias(params: Params, rate: Array | None = None) -> Array:
    """Biases [D + C] of visible units that know nothing but their base rates.

    Args:
      params: whose units they are.
      rate: [D + C]; of units that are 0 or 1 in (0, 1). None takes the machine's own.
    """
    rate = params.rate if rate is None else rate
    r = _x(params, rate)
    x = r if params.log_std is not None else jnp.log(r) - jnp.log1p(-r)
    return _with_label(params, x, lambda: jnp.log(_y(params, rate)))


def path(params: Params, rate: Array | None = None) -> annealing.Path:
    """From the base rate to the machine, over its visible units [N, D + C].

        E_β(v, h) = (1 - β) V_0(v) + β E(v, h),     V_0(v) = V(v) at the biases b_0

        p(h_j = 1 | v) = sigmoid(β a_j)             o_β = b_0 + β (o - b_0)

    Salakhutdinov & Murray 2008, whose machine A has no weights; Gaussian units keep their σ. The
    transition draws h given v and v given h, and with h summed out it is reversible.

    Args:
      params: of the machine.
      rate: base rates [D + C]; None takes the machine's own.
    """
    b_0 = base_bias(params, rate)
    base = dataclasses.replace(
        params, b=b_0, W=jnp.zeros_like(params.W), c=jnp.zeros_like(params.c)
    )
    n, H = b_0.size, params.c.size

    def log_density(beta: Array, v: Array) -> Array:
        # log p*_β(v) = -(1 - β) V_0(v) - β V(v) - β λᵀa + Σ_j log(1 + exp(β a_j))
        V_0, V, a = visible_energy(base, v), visible_energy(params, v), hidden_logits(params, v)
        mass = jnp.sum(jax.nn.softplus(beta * a), axis=-1)
        return mass - V_0 - beta * (V - V_0 + a @ params.lam)

    def transition(key: Key, beta: Array, v: Array) -> Array:
        key_h, key_v = jax.random.split(key)
        h = _bernoulli(key_h, jax.nn.sigmoid(beta * hidden_logits(params, v)))
        return draw_units(key_v, params, b_0 + beta * (visible_logits(params, h) - b_0))

    return annealing.Path(
        base=lambda key, N: draw_units(key, params, jnp.broadcast_to(b_0, (N, n))),
        log_density=log_density,
        transition=transition,
        log_z=H * math.log(2) - hidden_free_energy(base, params.lam),
    )


def temper(key: Key, params: Params, memory: Replicas, k: int) -> tuple[Array, Replicas]:
    """k times a Gibbs step of every replica at its own β on that path, then trades of places.

    Returns:
      (v [M, D + C] of the machine itself, the memory).
    """
    R = memory.h.shape[0]
    b_0, betas = base_bias(params), jnp.linspace(0, 1, R)
    base, beta = dataclasses.replace(params, b=b_0), betas[:, None, None]

    def step(key: Key, vh: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        key_v, key_h, key_swap = jax.random.split(key, 3)
        o = visible_logits(params, vh[1])
        v = draw_units(key_v, params, b_0 + beta * (o - b_0))
        a = hidden_logits(params, v)
        h = _bernoulli(key_h, jax.nn.sigmoid(beta * a))
        # -E_β(v, h) = -V_0(v) + β u(v, h)
        u = visible_energy(base, v) - visible_energy(params, v)
        u += jnp.sum(a * (h - params.lam), axis=-1)
        (v, h), accepted = chains.swap(key_swap, betas, u, (v, h))
        return v, h, accepted

    v = jnp.zeros((*memory.h.shape[:2], b_0.size))
    v, h, accepted = chains.run(key, (v, memory.h, memory.accepted), step, k)
    return v[-1], Replicas(h, accepted)


def ahead(params: Params, memory: Fast) -> Params:
    """The machine that fast PCD's chains run in: θ + θ_fast."""
    at = {name: getattr(params, name) + f for name, f in memory.weights.items()}
    return dataclasses.replace(params, **at)


# ----------------------------------------------------------------------------------- coordinates


def at_rate(config: Config, params: Params, rate: Array) -> Params:
    """A fresh machine whose visible side starts from base rates [D + C]; in (0, 1) of 0s and 1s."""
    params = dataclasses.replace(params, rate=rate)
    return dataclasses.replace(
        params,
        b=base_bias(params) if config.base_rate else params.b,
        mu=rate if config.centred else params.mu,
    )


def at_offsets(params: Params, mu: Array, lam: Array) -> Params:
    """The same distribution p(v, h) in the coordinates of other offsets.

    c' = c + Wᵀ((μ' - μ) / σ²)            b' = b + W(λ' - λ)
    """
    d_mu, d_lam = mu - params.mu, lam - params.lam
    if params.log_std is not None:
        d_mu = d_mu * _precision(params)
    return dataclasses.replace(
        params,
        mu=mu,
        lam=lam,
        b=params.b + params.W @ d_lam,
        c=params.c + d_mu @ params.W,
    )


def recentre(params: Params, v: Array, nu: float) -> Params:
    """Moves the offsets towards the units' means, and the biases so that p(v, h) stays the same.

        μ' = (1 - ν) μ + ν <v>            λ' = (1 - ν) λ + ν <p(h | v)>

    Melchior et al. 2016, algorithm 1, with the means of the data alone.

    Args:
      params: before.
      v: data [B, D + C].
      nu: ν, the pace; 1 takes the batch's means.
    """
    mu = params.mu + nu * (jnp.mean(v, axis=0) - params.mu)
    lam = params.lam + nu * (jnp.mean(hidden_mean(params, v), axis=0) - params.lam)
    return at_offsets(params, mu, lam)


def _first_log_std(config: Config, x: Array) -> Array:
    """log σ [D] of Gaussian units before anything is learnt."""
    if config.std:
        return jnp.full(x.shape[1], math.log(config.std), jnp.float32)
    # A unit that never changes, like a corner of an image, would have no density.
    return jnp.log(jnp.maximum(jnp.std(x, axis=0), 1e-2))


def _named(params: Params, names: tuple[str, ...]) -> Any:
    """Which leaves have one of these names. An optimizer moves not the offsets, not even by
    weight decay."""
    return jax.tree.map_with_path(lambda path, _: path[-1].name in names, params)


def _held(params: Params, moved: tuple[str, ...]) -> Params:
    """The parameters, of which those that are not moved have no gradient."""
    keep = lambda leaf, moves: leaf if moves else jax.lax.stop_gradient(leaf)
    return jax.tree.map(keep, params, _named(params, moved))


# --------------------------------------------------------------------------- the two kinds of units


def _x(params: Params, v: Array) -> Array:
    """The part of a visible side [..., D + C] that is x: [..., D]."""
    return v[..., : v.shape[-1] - params.classes] if params.classes else v


def _y(params: Params, v: Array) -> Array:
    """The part that is the label: [..., C]."""
    return v[..., v.shape[-1] - params.classes :]


def _with_label(params: Params, x: Array, label: Callable[[], Array]) -> Array:
    return jnp.concatenate([x, label()], axis=-1) if params.classes else x


def _precision(params: Params) -> Array:
    """1 / σ² [D + C]; the label's units have 1."""
    x = jnp.exp(-2 * jnp.asarray(params.log_std))
    return _with_label(params, x, lambda: jnp.ones(params.classes))


def _bernoulli(key: Key, p: Array) -> Array:
    return jax.random.bernoulli(key, p).astype(p.dtype)
