"""InfoGAN: a GAN whose generator is told a code, and must let it be seen in what it makes.

    z ~ p(z),  c ~ p(c),  x = G(z, c)                      z is what varies, c what it is about
    min over G, Q  max over D:  V(D, G) - λ L_I(G, Q)      (equation 6)

    L_I(G, Q) = E[log Q(c | x)] + H(c)  <=  I(c; G(z, c))  (equation 5)

L_I is a lower bound, in nats, on the mutual information of code and sample, tight where Q is the
posterior. Q is D with another last layer. Chen et al., InfoGAN, 2016 (arXiv:1606.03657).

The code is a list of factors, each drawn by itself: categorical ones, Q(c|x) a softmax, and
continuous ones on [-1, 1], Q(c|x) a normal of learnt mean and variance. Nobody tells the factors
what they are for: that a categorical one becomes the digit's class is what the training finds.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import optax
from flax import struct

from genjax_zoo import nets, typed
from genjax_zoo.contract import (
    COUNTS,
    NOTHING,
    REAL,
    Array,
    Batch,
    ConfigError,
    DataError,
    Key,
    Latents,
    Model,
)
from genjax_zoo.learn.state import TrainState, eval_params
from genjax_zoo.learn.verbs import play
from genjax_zoo.maths import games
from genjax_zoo.maths.probability.given import Told, check_count, read_given
from genjax_zoo.nets import StatefulNet, generators
from genjax_zoo.nets.generators import Memory
from genjax_zoo.typed import number

VERB = "play"

MIN_LOG_VARIANCE = -6.0
"""Below it Q could earn without end from one code that it knows exactly."""


@typed.config
class Config(generators.Config):
    """An InfoGAN.

    Attributes:
      categorical: how many values each categorical factor of the code has.
      continuous: how many factors on [-1, 1].
      weight: λ of the categorical factors.
      weight_continuous: λ of the continuous ones, less where they would drown the game.
      objective, dynamics, generator, discriminator, latents, prior, output, average: of the game,
        as in generators.Config.
    """

    categorical: tuple[int, ...] = number((10,), least=2)
    continuous: int = number(2, least=0)
    weight: float = number(1.0, least=0)
    weight_continuous: float = number(0.1, least=0)

    def __post_init__(self):
        super().__post_init__()
        if not (self.categorical or self.continuous):
            raise ConfigError(
                "infogan: a code needs at least one factor, categorical or continuous, got "
                f"{self.categorical} and {self.continuous}."
            )
        if self.objective.pack > 1:
            raise ConfigError("infogan: Q reads a code off one sample; set objective.pack to 1.")

    @property
    def code(self) -> int:
        """How many numbers G is shown of a code: a one-hot vector for each categorical factor."""
        return sum(self.categorical) + self.continuous

    @property
    def entropy(self) -> float:
        """H of the categorical factors, in nats: what their part of L_I cannot pass."""
        return sum(map(math.log, self.categorical))

    @property
    def network(self) -> StatefulNet:
        """D and Q, which share all but the last layer: x -> [B, 1 + K + 2 C]."""
        outputs = 1 + sum(self.categorical) + 2 * self.continuous
        return nets.discriminator(self.discriminator, (outputs,))


@struct.dataclass
class Posterior:
    """Q(c | x), the factors independent.

    Attributes:
      logits: of each categorical factor, [B, K].
      mean: of the continuous factors [B, C].
      log_variance: the same [B, C].
    """

    logits: tuple[Array, ...]
    mean: Array
    log_variance: Array


def split(config: Config, c: Array) -> tuple[tuple[Array, ...], Array]:
    """A code [B, code] as its one-hot vectors, each [B, K], and its continuous factors [B, C]."""
    ends = [sum(config.categorical[: k + 1]) for k in range(len(config.categorical))]
    *one_hot, continuous = jnp.split(c, ends, axis=1)
    return tuple(one_hot), continuous


def log_posterior(config: Config, q: Posterior, c: Array) -> tuple[Array, Array]:
    """log Q(c | x) [B] of the categorical factors, and of the continuous ones."""
    one_hot, u = split(config, c)
    discrete = sum(
        (
            jnp.sum(y * jax.nn.log_softmax(logits), 1)
            for y, logits in zip(one_hot, q.logits, strict=True)
        ),
        start=jnp.zeros(len(c)),
    )
    # log N(u; μ, σ²) = -½ [(u - μ)² / σ² + log σ² + log 2π]
    square = (u - q.mean) ** 2 * jnp.exp(-q.log_variance)
    return discrete, -jnp.sum(square + q.log_variance + math.log(2 * math.pi), 1) / 2


def game(config: Config):
    """The players and what they lower: `(init, losses)`, as `play` takes them.

    Parameters and memory are dicts {"generator": ..., "discriminator": ...}; Q is part of the
    second, and both players lower -λ L_I.
    """

    def init(key: Key, batch: Batch) -> tuple[games.Players, Memory]:
        """Raises ConfigError for data that the networks or the game cannot be played on."""
        return config.start(key, config.network, config.code, batch["x"])

    def losses(key: Key, params: games.Players, memory: Memory, batch: Batch):
        key_latents, *keys = jax.random.split(key, 4)
        latents = prior(config, key_latents, len(batch["x"]))
        # V(D, G), or another objective in its place
        played = config.play_round(keys, params, memory, config.network, batch["x"], latents)
        # L_I = E[log Q(c | x)] + H(c), factor by factor; uniform on [-1, 1] has log 2 nats, but a
        # differential entropy is no limit
        c = latents[:, config.latents :]
        discrete, continuous = log_posterior(config, posterior(config, played.on_samples), c)
        of_discrete = jnp.mean(discrete) + config.entropy
        of_continuous = jnp.mean(continuous) + config.continuous * math.log(2)
        bound = config.weight * of_discrete + config.weight_continuous * of_continuous
        lowered = {player: loss - bound for player, loss in played.losses.items()}
        info = played.info | {
            "mutual_information_categorical": of_discrete,
            "mutual_information_continuous": of_continuous,
        }
        return lowered, (played.memory, info)

    return init, losses


def posterior(config: Config, out: Array) -> Posterior:
    """Q(c | x) from the last layer [B, 1 + K + 2 C] that D and Q share."""
    logits, rest = split(config, out[:, 1:])
    mean, log_variance = jnp.split(rest, 2, axis=1)
    return Posterior(logits, mean, jnp.maximum(log_variance, MIN_LOG_VARIANCE))


def prior(config: Config, key: Key, n: int) -> Array:
    """(z, c) ~ p(z) p(c), side by side: [n, L + code]."""
    key_z, key_c, key_u = jax.random.split(key, 3)
    c = [
        jax.nn.one_hot(jax.random.randint(jax.random.fold_in(key_c, k), (n,), 0, values), values)
        for k, values in enumerate(config.categorical)
    ]
    u = jax.random.uniform(key_u, (n, config.continuous), minval=-1.0)
    return jnp.concatenate([config.noise(key_z, n), *c, u], axis=1)


def given_code(config: Config, given: Batch, c: Array) -> Array:
    """A code c [n, code], with what is given in the place of what was drawn.

    Given can be the whole `code` [code], or the values of its categorical factors as integers,
    `categorical` [factors], and the `continuous` ones [C]: each for all, or [n, ...] for each.

    Raises DataError for a name, a shape or a value that the code does not have.
    """
    factors = config.categorical
    can = {"code": Told(REAL, (config.code,))}
    if factors:
        can["categorical"] = Told(COUNTS.of(max(factors)), (len(factors),))
    if config.continuous:
        can["continuous"] = Told(REAL, (config.continuous,))
    told = read_given(given, can, len(c), "infogan")
    if "code" in told:
        if len(told) > 1:
            raise DataError("infogan: give the whole code or parts of it; both were given.")
        return jnp.asarray(told["code"])
    one_hot, u = split(config, c)
    if "categorical" in told:
        values = told["categorical"].T
        for k, (value, size) in enumerate(zip(values, factors, strict=True)):
            if not isinstance(value, jax.core.Tracer) and (value >= size).any():
                raise DataError(
                    f"infogan: the categorical factor {k} has the values 0 .. {size - 1}, and "
                    f"{value.max():g} is none."
                )
        one_hot = tuple(map(jax.nn.one_hot, values.astype(jnp.int32), factors))
    u = told.get("continuous", u)
    return jnp.concatenate([*one_hot, u], axis=1)


def make(config: Config, tx: optax.GradientTransformation) -> Model:
    """An InfoGAN. Its latents are (z, c), side by side, a categorical factor one hot."""
    init, losses = game(config)

    def encode(key: Key, state: TrainState, batch: Batch) -> Array:
        """The code that Q sees in x, and z = 0: of z nothing is known. [B, L + code]"""
        params, memory = eval_params(state)["discriminator"], state.memory["discriminator"]
        q = posterior(config, config.network.apply(params, memory, batch["x"], False)[0])
        c = [jax.nn.one_hot(jnp.argmax(v, axis=1), v.shape[1]) for v in q.logits]
        z = jnp.zeros((len(batch["x"]), config.latents))
        return jnp.concatenate([z, *c, jnp.clip(q.mean, -1, 1)], axis=1)

    def decode(key: Key, state: TrainState, latents: Array) -> Batch:
        """G(z, c)."""
        generator, memory = eval_params(state)["generator"], state.memory["generator"]
        return {"x": config.generate(generator, memory, latents)[0]}

    def sample(key: Key, state: TrainState, n: int, given: Batch = NOTHING) -> Batch:
        """x = G(z, c), z ~ p(z), and c ~ p(c) but for what is given of it (`given_code`)."""
        check_count("n", n, "infogan")
        z, c = jnp.split(prior(config, key, n), [config.latents], axis=1)
        latents = jnp.concatenate([z, given_code(config, given, c)], axis=1)
        return decode(key, state, latents)

    tx_each, dynamics = config.objective.optimizers(tx), games.make(config.dynamics)
    return Model(
        *play(init, losses, tx_each, dynamics, config.average),
        sample=sample,
        spaces={"x": config.space},
        latents=Latents(decode, encode, prior=lambda key, state, n: prior(config, key, n)),
    )
