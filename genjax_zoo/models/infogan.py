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

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import optax
from flax import struct

from genjax_zoo import nets
from genjax_zoo.contract import Array, Batch, ConfigError, Key, Latents, Model
from genjax_zoo.learn.state import TrainState, eval_params
from genjax_zoo.learn.verbs import play
from genjax_zoo.maths import games
from genjax_zoo.maths.games import objectives
from genjax_zoo.nets import generators
from genjax_zoo.nets.generators import OUTPUTS, PRIORS, SPACES, Memory, generate
from genjax_zoo.typed import choose

VERB = "play"

MIN_LOG_VARIANCE = -6.0
"""Below it Q could earn without end from one code that it knows exactly."""


@dataclasses.dataclass(frozen=True)
class Config:
    """An InfoGAN.

    Attributes:
      categorical: how many values each categorical factor of the code has.
      continuous: how many factors on [-1, 1].
      weight: λ of the categorical factors.
      weight_continuous: λ of the continuous ones, less where they would drown the game.
      objective, dynamics, generator, discriminator: as of the gan.
      latents: L, dimensions of z.
      prior: p(z): "normal" N(0, I), or "uniform" on [-1, 1]^L.
      output: the range of x: "linear" (any), "sigmoid" [0, 1] or "tanh" [-1, 1].
      average: decay of the moving average of the parameters; 0 keeps none.
    """

    categorical: tuple[int, ...] = (10,)
    continuous: int = 2
    weight: float = 1.0
    weight_continuous: float = 0.1
    objective: objectives.Config = dataclasses.field(default_factory=objectives.Config)
    dynamics: games.Config = dataclasses.field(default_factory=games.Config)
    generator: nets.Network = dataclasses.field(default_factory=nets.Network)
    discriminator: nets.Network = dataclasses.field(default_factory=nets.Network)
    latents: int = 16
    prior: str = "normal"
    output: str = "linear"
    average: float = 0.0

    def __post_init__(self):
        choose(self.prior, PRIORS, "prior of a generator")
        choose(self.output, OUTPUTS, "output of a generator")
        self.objective.check(self.discriminator.normalise, self.dynamics.name)
        if min(self.categorical, default=2) < 2:
            raise ConfigError(
                f"infogan: a categorical factor needs at least 2 values, got {self.categorical}."
            )
        if self.continuous < 0 or not (self.categorical or self.continuous):
            raise ConfigError(
                "infogan: a code needs at least one factor, categorical or continuous, got "
                f"{self.categorical} and {self.continuous}."
            )
        if min(self.weight, self.weight_continuous) < 0:
            raise ConfigError(
                "infogan: weight and weight_continuous should be at least 0, got "
                f"{self.weight} and {self.weight_continuous}."
            )
        if self.objective.pack > 1:
            raise ConfigError("infogan: Q reads a code off one sample; set objective.pack to 1.")
        if self.latents < 1:
            raise ConfigError(f"infogan: latents should be at least 1, got {self.latents}.")
        if not 0 <= self.average < 1:
            raise ConfigError(f"infogan: average should lie in [0, 1), got {self.average}.")

    @property
    def code(self) -> int:
        """How many numbers G is shown of a code: a one-hot vector for each categorical factor."""
        return sum(self.categorical) + self.continuous

    @property
    def entropy(self) -> float:
        """H of the categorical factors, in nats: what their part of L_I cannot pass."""
        return sum(map(math.log, self.categorical))


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
    K, C = sum(config.categorical), config.continuous
    D = nets.discriminator(config.discriminator, (1 + K + 2 * C,))
    G = functools.partial(generate, config.generator, config.output)

    def init(key: Key, batch: Batch) -> tuple[games.Players, Memory]:
        """Raises ConfigError for data that the networks or the game cannot be played on."""
        x = games.part_of(batch, 0, config.dynamics.parts)["x"]
        latents = jnp.zeros((1, config.latents + config.code))
        return generators.start(key, config.generator, D, latents, x, tuple(x.shape[1:]))

    def losses(key: Key, params: games.Players, memory: Memory, batch: Batch):
        key_latents, key_real, key_fake, key_penalty = jax.random.split(key, 4)
        latents = prior(config, key_latents, len(batch["x"]))
        made, of_generator = G(params["generator"], memory["generator"], latents, True)
        real = config.objective.blur(key_real, batch["x"])
        fake = config.objective.blur(key_fake, made)
        on_real, of_discriminator = D.apply(
            params["discriminator"], memory["discriminator"], real, True
        )
        on_fake, of_discriminator = D.apply(params["discriminator"], of_discriminator, fake, True)
        critic = lambda x: D.apply(params["discriminator"], of_discriminator, x, False)[0][:, 0]
        # V(D, G), or another objective in its place
        lowered, info = config.objective.losses(
            key_penalty, critic, (on_real[:, 0], on_fake[:, 0]), (real, fake)
        )
        # L_I = E[log Q(c | x)] + H(c), factor by factor; uniform on [-1, 1] has log 2 nats, but a
        # differential entropy is no limit
        c = latents[:, config.latents :]
        discrete, continuous = log_posterior(config, posterior(config, on_fake), c)
        of_discrete = jnp.mean(discrete) + config.entropy
        of_continuous = jnp.mean(continuous) + config.continuous * math.log(2)
        told = config.weight * of_discrete + config.weight_continuous * of_continuous
        lowered = {player: loss - told for player, loss in lowered.items()}
        info |= {
            "mutual_information_categorical": of_discrete,
            "mutual_information_continuous": of_continuous,
        }
        return lowered, ({"generator": of_generator, "discriminator": of_discriminator}, info)

    return init, losses


def posterior(config: Config, out: Array) -> Posterior:
    """Q(c | x) from the last layer [B, 1 + K + 2 C] that D and Q share."""
    logits, rest = split(config, out[:, 1:])
    mean, log_variance = jnp.split(rest, 2, axis=1)
    return Posterior(logits, mean, jnp.maximum(log_variance, MIN_LOG_VARIANCE))


def prior(config: Config, key: Key, n: int) -> Array:
    """(z, c) ~ p(z) p(c), side by side: [n, L + code]."""
    key_z, key_c, key_u = jax.random.split(key, 3)
    z = PRIORS[config.prior](key_z, (n, config.latents))
    c = [
        jax.nn.one_hot(jax.random.randint(jax.random.fold_in(key_c, k), (n,), 0, values), values)
        for k, values in enumerate(config.categorical)
    ]
    u = jax.random.uniform(key_u, (n, config.continuous), minval=-1.0)
    return jnp.concatenate([z, *c, u], axis=1)


def make(config: Config, tx: optax.GradientTransformation) -> Model:
    """An InfoGAN. Its latents are (z, c), side by side, a categorical factor one hot."""
    init, losses = game(config)
    K, C = sum(config.categorical), config.continuous
    D = nets.discriminator(config.discriminator, (1 + K + 2 * C,))

    def encode(key: Key, state: TrainState, batch: Batch) -> Array:
        """The code that Q sees in x, and z = 0: of z nothing is known. [B, L + code]"""
        params, memory = eval_params(state)["discriminator"], state.memory["discriminator"]
        q = posterior(config, D.apply(params, memory, batch["x"], False)[0])
        c = [jax.nn.one_hot(jnp.argmax(v, axis=1), v.shape[1]) for v in q.logits]
        z = jnp.zeros((len(batch["x"]), config.latents))
        return jnp.concatenate([z, *c, jnp.clip(q.mean, -1, 1)], axis=1)

    def decode(state: TrainState, latents: Array) -> Batch:
        """G(z, c)."""
        generator, memory = eval_params(state)["generator"], state.memory["generator"]
        return {
            "x": generate(config.generator, config.output, generator, memory, latents, False)[0]
        }

    def sample(key: Key, state: TrainState, n: int, code: Array | None = None) -> Batch:
        """x = G(z, c), z ~ p(z), and c ~ p(c) unless a code [n, code] is given."""
        latents = prior(config, key, n)
        if code is not None:
            latents = jnp.concatenate([latents[:, : config.latents], code], axis=1)
        return decode(state, latents)

    return Model(
        *play(
            init,
            losses,
            config.objective.optimizers(tx),
            dynamics=games.make(config.dynamics),
            average=config.average,
        ),
        sample=sample,
        spaces={"x": SPACES[config.output]},
        latents=Latents(
            decode=lambda key, state, latents: decode(state, latents),
            encode=encode,
            prior=lambda key, state, n: prior(config, key, n),
        ),
    )
