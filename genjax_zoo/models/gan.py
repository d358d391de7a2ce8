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

import jax
import jax.numpy as jnp
import optax

from genjax_zoo import nets, typed
from genjax_zoo.contract import NOTHING, Array, Batch, Key, Latents, Model
from genjax_zoo.learn.state import TrainState, eval_params
from genjax_zoo.learn.verbs import play
from genjax_zoo.maths import games
from genjax_zoo.maths.probability.given import Labels, read_given
from genjax_zoo.nets import generators
from genjax_zoo.nets.generators import Memory
from genjax_zoo.typed import number

VERB = "play"


@typed.config
class Config(generators.Config):
    """A generative adversarial network.

    Attributes:
      objective, dynamics, generator, discriminator, latents, prior, output, average: of the game,
        as in generators.Config.
      classes: how many labels the game is played for; 0 leaves labels out.
    """

    classes: int = number(0, least=0)


def game(config: Config):
    """The players and what they lower, before anybody moves: `(init, losses)`, for `play`.

    Both parameters and memory (batch norm's running moments, if any) are dicts
    {"generator": ..., "discriminator": ...}.
    """
    D = nets.discriminator(config.discriminator, (1 + config.classes,))
    labels = Labels(config.classes, "gan")

    def init(key: Key, batch: Batch) -> tuple[games.Players, Memory]:
        """Raises ConfigError for data that the networks or the game cannot be played on."""
        labels.one_hot(batch)
        return config.start(key, D, config.classes, batch["x"])

    def losses(key: Key, params: games.Players, memory: Memory, batch: Batch):
        key_z, *keys = jax.random.split(key, 4)
        y = labels.one_hot(batch)
        latents = jnp.concatenate([config.noise(key_z, len(y)), y], axis=1)
        # Of a pack's labels D sees how many there are of each.
        pack = config.objective.pack
        counts = y.reshape(len(y) // pack, pack, config.classes).sum(1)

        def verdict(out: Array) -> Array:
            """a(x, y) = w·φ(x) + e_y·φ(x): [B, 1 + classes] -> [B]."""
            return out[:, 0] + jnp.sum(out[:, 1:] * counts, axis=1)

        # V(D, G), or another objective in its place
        played = config.play_round(keys, params, memory, D, batch["x"], latents, verdict)
        return played.losses, (played.memory, played.info)

    return init, losses


def make(config: Config, tx: optax.GradientTransformation) -> Model:
    """A generative adversarial network. Its latents are (z, y), side by side, y one hot."""
    init, losses = game(config)
    labels = Labels(config.classes, "gan")

    def draw(key: Key, n: int, told: Batch = NOTHING) -> tuple[Array, Batch]:
        """(z, y), z ~ p(z): [n, L + classes], and y as it goes beside x.

        Labels are drawn evenly where none were told.
        """
        key_z, key_label = jax.random.split(key)
        z, y = config.noise(key_z, n), labels.draw(key_label, told, n)
        return jnp.concatenate([z, labels.one_hot({"x": z, **y})], axis=1), y

    def decode(key: Key, state: TrainState, latents: Array) -> Batch:
        """G(z, y)."""
        generator, memory = eval_params(state)["generator"], state.memory["generator"]
        return {"x": config.generate(generator, memory, latents)[0]}

    def sample(key: Key, state: TrainState, n: int, given: Batch = NOTHING) -> Batch:
        """x = G(z, y), z ~ p(z)."""
        latents, y = draw(key, n, read_given(given, labels.told, n, "gan"))
        return {**decode(key, state, latents), **y}

    tx_each, dynamics = config.objective.optimizers(tx), games.make(config.dynamics)
    return Model(
        *play(init, losses, tx_each, dynamics, config.average),
        sample=sample,
        spaces=labels.spaces(config.space),
        latents=Latents(decode, prior=lambda key, state, n: draw(key, n)[0]),
    )
