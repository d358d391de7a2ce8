"""Generative adversarial network: one network makes samples, another tells them from the data.

    z ~ p(z),  x = G(z)                                    the generator: a sampler, no density
    D(x) = sigmoid(a(x))                                   the discriminator: P(x is of the data)

    V(D, G) = E_data[log D(x)] + E_z[log(1 - D(G(z)))]     what D raises and G lowers

Goodfellow et al., Generative adversarial nets, 2014 (arXiv:1406.2661). What the players want
(objectives.OBJECTIVES, and the penalties there), how they move (games.DYNAMICS) and what they are
made of (nets.NETWORKS) are three independent choices, each an entry in a table.

Of labelled data the game may be played class by class: G is shown the label beside z, and D's
verdict on (x, y) is a(x, y) = w·φ(x) + e_y·φ(x), the projection of Miyato & Koyama 2018
(equation 3), where φ is all of D below its last, linear layer.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from genjax_zoo import nets
from genjax_zoo.contract import Array, Batch, ConfigError, Key, Latents, Model, categorical
from genjax_zoo.learn.state import TrainState, eval_params
from genjax_zoo.learn.verbs import play
from genjax_zoo.maths import games
from genjax_zoo.maths.games import objectives
from genjax_zoo.nets import generators
from genjax_zoo.nets.generators import OUTPUTS, PRIORS, SPACES, Memory, generate
from genjax_zoo.typed import choose

VERB = "play"


@dataclasses.dataclass(frozen=True)
class Config:
    """A generative adversarial network.

    Attributes:
      objective: what the players want: `name`, the weights of the penalties (`gradient`,
        `interpolated`, `r1`, `r2`), `clip`, `noise` and `pack`.
      dynamics: how they move: `name`, `gamma`, `k`.
      generator, discriminator: what they are made of: `name` (mlp, conv, resnet), `widths` from
        its input to its output, `activation`, `normalise`, `blocks`.
      latents: L, dimensions of z.
      prior: p(z): "normal" N(0, I), or "uniform" on [-1, 1]^L.
      output: the range of x: "linear" (any), "sigmoid" [0, 1] or "tanh" [-1, 1].
      classes: how many labels the game is played for; 0 leaves labels out.
      average: decay of the moving average of the parameters; 0 keeps none. Batch norm's running
        moments are those of the parameters themselves and fit an average only roughly.
    """

    objective: objectives.Config = dataclasses.field(default_factory=objectives.Config)
    dynamics: games.Config = dataclasses.field(default_factory=games.Config)
    generator: nets.Network = dataclasses.field(default_factory=nets.Network)
    discriminator: nets.Network = dataclasses.field(default_factory=nets.Network)
    latents: int = 16
    prior: str = "normal"
    output: str = "linear"
    classes: int = 0
    average: float = 0.0

    def __post_init__(self):
        choose(self.prior, PRIORS, "prior of a generator")
        choose(self.output, OUTPUTS, "output of a generator")
        self.objective.check(self.discriminator.normalise, self.dynamics.name)
        if self.latents < 1:
            raise ConfigError(f"gan: latents should be at least 1, got {self.latents}.")
        if self.classes < 0:
            raise ConfigError(f"gan: classes should be at least 0, got {self.classes}.")
        if not 0 <= self.average < 1:
            raise ConfigError(f"gan: average should lie in [0, 1), got {self.average}.")


def game(config: Config):
    """The players and what they lower, before anybody moves: `(init, losses)`, for `play`.

    Both parameters and memory (batch norm's running moments, if any) are dicts
    {"generator": ..., "discriminator": ...}.
    """
    D = nets.discriminator(config.discriminator, (1 + config.classes,))
    G = functools.partial(generate, config.generator, config.output)

    def init(key: Key, batch: Batch) -> tuple[games.Players, Memory]:
        """Raises ConfigError for data that the networks or the game cannot be played on."""
        parts = games.part_of(batch, 0, config.dynamics.parts)
        x = objectives.pack(parts["x"], config.objective.pack)
        labels(parts)
        z = jnp.zeros((1, config.latents + config.classes))
        return generators.start(key, config.generator, D, z, x, tuple(batch["x"].shape[1:]))

    def labels(batch: Batch) -> Array:
        """y [B, classes], one hot; [B, 0] where labels are left out."""
        if not config.classes:
            return jnp.zeros((len(batch["x"]), 0))
        if "label" not in batch:
            raise ConfigError(
                f"gan: a game of {config.classes} classes needs labelled data; set "
                "config.model.classes to 0 or choose data with labels."
            )
        return jax.nn.one_hot(batch["label"], config.classes)

    def losses(key: Key, params: games.Players, memory: Memory, batch: Batch):
        key_z, key_real, key_fake, key_penalty = jax.random.split(key, 4)
        y = labels(batch)
        z = PRIORS[config.prior](key_z, (len(y), config.latents))
        made, of_generator = G(
            params["generator"], memory["generator"], jnp.concatenate([z, y], axis=1), True
        )
        # D sees packs, and of a pack's labels how many there are of each.
        seen = lambda key, x: objectives.pack(config.objective.blur(key, x), config.objective.pack)
        real, fake = seen(key_real, batch["x"]), seen(key_fake, made)
        counts = y.reshape(len(real), config.objective.pack, config.classes).sum(1)

        def a(of_discriminator: Any, x: Array, train: bool) -> tuple[Array, Any]:
            """a(x, y) [B], and the discriminator's memory."""
            out, new = D.apply(params["discriminator"], of_discriminator, x, train)
            return out[:, 0] + jnp.sum(out[:, 1:] * counts, axis=1), new

        # Data and samples are two batches, each normalised by itself where there is batch norm.
        on_real, of_discriminator = a(memory["discriminator"], real, True)
        on_fake, of_discriminator = a(of_discriminator, fake, True)
        critic = lambda x: a(of_discriminator, x, False)[0]
        lowered, info = config.objective.losses(
            key_penalty, critic, (on_real, on_fake), (real, fake)
        )
        return lowered, ({"generator": of_generator, "discriminator": of_discriminator}, info)

    return init, losses


def make(config: Config, tx: optax.GradientTransformation) -> Model:
    """A generative adversarial network."""
    init, losses = game(config)

    def decode(state: TrainState, z: Array) -> Batch:
        """G(z); of a game with classes z is [n, L + classes], the label one hot at its end."""
        generator, memory = eval_params(state)["generator"], state.memory["generator"]
        return {"x": generate(config.generator, config.output, generator, memory, z, False)[0]}

    def prior(key: Key, state: TrainState, n: int, label: Array | None = None) -> Array:
        """(z, y), z ~ p(z): [n, L + classes]; labels drawn evenly where none are given."""
        key_z, key_label = jax.random.split(key)
        z = PRIORS[config.prior](key_z, (n, config.latents))
        if label is None:
            label = jax.random.randint(key_label, (n,), 0, max(config.classes, 1))
        label = jnp.broadcast_to(jnp.asarray(label, jnp.int32), (n,))
        return jnp.concatenate([z, jax.nn.one_hot(label, config.classes)], axis=1)

    def sample(key: Key, state: TrainState, n: int, label: Array | None = None) -> Batch:
        """x = G(z, y), z ~ p(z); labels [n] or one for all, drawn evenly where none are given."""
        latents = prior(key, state, n, label)
        if not config.classes:
            return decode(state, latents)
        of_label = jnp.argmax(latents[:, config.latents :], axis=1).astype(jnp.int32)
        return {**decode(state, latents), "label": of_label}

    return Model(
        *play(
            init,
            losses,
            config.objective.optimizers(tx),
            dynamics=games.make(config.dynamics),
            average=config.average,
        ),
        sample=sample,
        spaces={
            "x": SPACES[config.output],
            **({"label": categorical(config.classes)} if config.classes else {}),
        },
        latents=Latents(decode=lambda key, state, latents: decode(state, latents), prior=prior),
    )
