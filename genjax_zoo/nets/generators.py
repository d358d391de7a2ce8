"""A generator and a discriminator: what every GAN that draws latents and judges examples shares.

x = G(latents)              the generator, whose last nonlinearity gives x the range of the data
D(x) [B, outputs]           the discriminator, linear at the end
a(x) = read(D(x)) [B]       its verdict, read off the outputs by the family
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from genjax_zoo import typed
from genjax_zoo.contract import REAL, SIGNED, UNIT, Array, Info, Key, Space
from genjax_zoo.maths import games
from genjax_zoo.maths.games import objectives
from genjax_zoo.nets import players
from genjax_zoo.nets.image import StatefulNet
from genjax_zoo.typed import choose, number

PRIORS: dict[str, Callable[[Key, tuple[int, ...]], Array]] = {
    "normal": jax.random.normal,
    "uniform": lambda key, shape: jax.random.uniform(key, shape, minval=-1.0),
}
"""p(z): N(0, I), or uniform on [-1, 1]^L."""


class Output(NamedTuple):
    """A generator's last nonlinearity, and what the data must be for it to reach them."""

    activation: Callable[[Array], Array]
    space: Space


OUTPUTS: dict[str, Output] = {
    "linear": Output(lambda x: x, REAL),
    "sigmoid": Output(jax.nn.sigmoid, UNIT),
    "tanh": Output(jnp.tanh, SIGNED),
}
"""By the names that configs use."""


@struct.dataclass
class Generator:
    """What a generator learns.

    Attributes:
      net: θ_G, of the network latents -> x.
      shape: of one example, without the batch.
    """

    net: Any
    shape: tuple[int, ...] = struct.field(pytree_node=False)


Memory = dict[str, Any]
"""{player: what its network remembers from step to step}."""


class Round(NamedTuple):
    """What one batch is to both players.

    Attributes:
      losses: what each player lowers.
      memory: what each network remembers.
      info: scalars to log.
      on_samples: D's outputs on the samples [B, outputs].
    """

    losses: dict[str, Array]
    memory: Memory
    info: Info
    on_samples: Array


@typed.config
class Config:
    """A game of a generator and a discriminator.

    Attributes:
      objective: what the players want: `name`, the weights of the penalties (`gradient`,
        `interpolated`, `r1`, `r2`), `clip`, `instance_noise` and `pack`.
      dynamics: how they move: `name`, `gamma`, `k`.
      generator, discriminator: what they are made of: `name` (mlp, conv, resnet), `widths` from
        its input to its output, `activation`, `normalise`, `blocks`.
      latents: L, dimensions of z.
      prior: p(z): "normal" N(0, I), or "uniform" on [-1, 1]^L.
      output: the range of x: "linear" (any), "sigmoid" [0, 1] or "tanh" [-1, 1].
      average: decay of the moving average of the parameters; 0 keeps none. Batch norm's running
        moments are those of the parameters themselves and fit an average only roughly.
    """

    objective: objectives.Config = objectives.Config()
    dynamics: games.Config = games.Config()
    generator: players.Network = players.Network()
    discriminator: players.Network = players.Network()
    latents: int = number(16, least=1)
    prior: str = "normal"
    output: str = "linear"
    average: float = number(0.0, least=0, below=1)

    def __post_init__(self):
        choose(self.prior, PRIORS, "prior of a generator")
        choose(self.output, OUTPUTS, "output of a generator")
        self.objective.check(self.discriminator.normalise, self.dynamics.name)

    @property
    def space(self) -> Space:
        """What the generator's examples are."""
        return OUTPUTS[self.output].space

    def noise(self, key: Key, n: int) -> Array:
        """z ~ p(z): [n, L]."""
        return PRIORS[self.prior](key, (n, self.latents))

    def start(
        self, key: Key, D: StatefulNet, condition: int, x: Array
    ) -> tuple[dict[str, Any], Memory]:
        """Both players' first parameters and memory, each a dict {"generator", "discriminator"}.

        Args:
          key: of the parameters.
          D: the discriminator.
          condition: how many numbers the generator sees beside z.
          x: a batch [B, ...] of the data; only its shape matters.

        Raises ConfigError where the game cannot be played on such data.
        """
        shape = tuple(x.shape[1:])
        latents = jnp.zeros((1, self.latents + condition))
        x = games.part_of({"x": x}, 0, self.dynamics.parts)["x"]
        key_generator, key_discriminator = jax.random.split(key)
        net, of_generator = players.generator(self.generator, shape).init(key_generator, latents)
        discriminator, of_discriminator = D.init(
            key_discriminator, objectives.pack(x, self.objective.pack)
        )
        return (
            {"generator": Generator(net, shape), "discriminator": discriminator},
            {"generator": of_generator, "discriminator": of_discriminator},
        )

    def generate(
        self, generator: Generator, memory: Any, latents: Array, train: bool = False
    ) -> tuple[Array, Any]:
        """G(latents): [n, L + condition] -> x [n, *shape], and the memory."""
        net = players.generator(self.generator, generator.shape)
        x, memory = net.apply(generator.net, memory, latents, train)
        return OUTPUTS[self.output].activation(x), memory

    def play_round(
        self,
        keys: Sequence[Key],
        params: games.Players,
        memory: Memory,
        D: StatefulNet,
        x: Array,
        latents: Array,
        read: Callable[[Array], Array] = lambda outputs: outputs[:, 0],
    ) -> Round:
        """What both players lower, of data and as many samples.

        Args:
          keys: [3], of the instance noise on data and on samples, and of the penalties.
          params, memory: of both players.
          D: the discriminator.
          x: the data [B, ...].
          latents: [B, L + condition], of the samples.
          read: a, of D's outputs [packs, outputs] -> [packs].
        """
        key_data, key_samples, key_penalty = keys
        made, of_generator = self.generate(
            params["generator"], memory["generator"], latents, train=True
        )
        shown = lambda key, x: objectives.pack(self.objective.noisy(key, x), self.objective.pack)
        data, samples = shown(key_data, x), shown(key_samples, made)
        # Data and samples are two batches, each normalised by itself where there is batch norm.
        judge = lambda memory, x: D.apply(params["discriminator"], memory, x, True)
        on_data, of_discriminator = judge(memory["discriminator"], data)
        on_samples, of_discriminator = judge(of_discriminator, samples)
        critic = lambda x: read(D.apply(params["discriminator"], of_discriminator, x, False)[0])
        losses, info = self.objective.losses(
            key_penalty, critic, (read(on_data), read(on_samples)), (data, samples)
        )
        after = {"generator": of_generator, "discriminator": of_discriminator}
        return Round(losses, after, info, on_samples)
