"""Generative adversarial network: one network makes samples, another tells them from the data.

    z ~ p(z),  x = G(z)                                    the generator: a sampler, no density
    D(x) = sigmoid(a(x))                                   the discriminator: P(x is of the data)

    V(D, G) = E_data[log D(x)] + E_z[log(1 - D(G(z)))]     what D raises and G lowers

Goodfellow et al., Generative adversarial nets, 2014 (arXiv:1406.2661). What the players want
(`LOSSES`), how they move (games.DYNAMICS) and what they are made of (`ARCHITECTURES`) are three
independent choices, each an entry in a table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import struct

from genjax_zoo import games, nets
from genjax_zoo.contract import Array, Batch, ConfigError, Info, Key, Model
from genjax_zoo.learn import learnt, of_params, play
from genjax_zoo.nets import ACTIVATIONS, Net
from genjax_zoo.typed import choose

VERB = "play"

LOSSES: dict[str, Callable[[Array, Array], dict[str, Array]]] = {}
"""What each player lowers: (a(x) [B], a(G(z)) [B]) -> {player: loss}, mean nats over the batch.

The discriminator's is the *summed* binary cross entropy -V, without the factor ½ that some write:
log 4 where it cannot tell, and log 4 - 2 JSD(data, samples) where it tells as well as can be.
"""


def _minimax(real: Array, fake: Array) -> dict[str, Array]:
    # (1)  E_data[log D(x)],            log sigmoid(a) = -softplus(-a)
    tells_data = -jnp.mean(jax.nn.softplus(-real))
    # (2)  E_z[log(1 - D(G(z)))],       log(1 - sigmoid(a)) = -softplus(a)
    tells_samples = -jnp.mean(jax.nn.softplus(fake))
    # D raises V = (1) + (2); G lowers the only term of it in which it stands (algorithm 1).
    return {"discriminator": -(tells_data + tells_samples), "generator": tells_samples}


def _non_saturating(real: Array, fake: Array) -> dict[str, Array]:
    # (3)  E_z[log D(G(z))]: the same fixed point, and a gradient while D still wins (section 3).
    passes = -jnp.mean(jax.nn.softplus(-fake))
    return {**_minimax(real, fake), "generator": -passes}


LOSSES |= {"minimax": _minimax, "non_saturating": _non_saturating}


def _mlp(config: Config, shape: tuple[int, ...]) -> tuple[Net, Net]:
    generator = nets.mlp(config.generator, shape, config.activation)
    return generator, nets.mlp(config.discriminator, (), config.activation)


ARCHITECTURES: dict[str, Callable[[Config, tuple[int, ...]], tuple[Net, Net]]] = {"mlp": _mlp}
"""What the players are made of: (config, shape of one x) -> (generator, discriminator).

The generator maps z [B, L] to [B, *shape], before its output's nonlinearity; the discriminator
maps x [B, *shape] to logits a [B].
"""

OUTPUTS: dict[str, Callable[[Array], Array]] = {
    "linear": lambda x: x,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
}
"""The generator's last nonlinearity, which gives x the range of the data."""


@dataclasses.dataclass(frozen=True)
class Config:
    """A generative adversarial network.

    Attributes:
      loss: what the players want, a name in `LOSSES`.
      dynamics: how they move: `name` (simultaneous, alternating, consensus), `gamma`, `k`.
      architecture: what they are made of, a name in `ARCHITECTURES`.
      generator, discriminator: their hidden units, each from its input to its output.
      activation: the nonlinearity of both, a name in nets.ACTIVATIONS.
      latents: L, dimensions of z.
      prior: p(z): "normal" N(0, I), or "uniform" on [-1, 1]^L.
      output: the range of x: "linear" (any), "sigmoid" [0, 1] or "tanh" [-1, 1].
      average: decay of the moving average of the parameters; 0 keeps none.
    """

    loss: str = "non_saturating"
    dynamics: games.Config = dataclasses.field(default_factory=games.Config)
    architecture: str = "mlp"
    generator: tuple[int, ...] = (128, 128)
    discriminator: tuple[int, ...] = (128, 128)
    activation: str = "relu"
    latents: int = 16
    prior: Literal["normal", "uniform"] = "normal"
    output: str = "linear"
    average: float = 0.0

    def __post_init__(self):
        choose(self.loss, LOSSES, "loss of a gan")
        choose(self.architecture, ARCHITECTURES, "architecture of a gan")
        choose(self.activation, ACTIVATIONS, "activation")
        choose(self.output, OUTPUTS, "output of a gan")
        if self.latents < 1:
            raise ConfigError(f"gan: latents should be at least 1, got {self.latents}.")
        for player in ("generator", "discriminator"):
            if min(getattr(self, player), default=1) < 1:
                raise ConfigError(
                    f"gan: widths of the {player} should all be at least 1, "
                    f"got {getattr(self, player)}."
                )
        if not 0 <= self.average < 1:
            raise ConfigError(f"gan: average should lie in [0, 1), got {self.average}.")


@struct.dataclass
class Generator:
    """What the generator learns.

    Attributes:
      net: θ_G, of the network z -> x.
      shape: of one example, without the batch.
    """

    net: Any
    shape: tuple[int, ...] = struct.field(pytree_node=False)


def make(config: Config, tx: optax.GradientTransformation) -> Model:
    """A generative adversarial network. Its parameters are {"generator", "discriminator"}."""

    def networks(shape: tuple[int, ...]) -> tuple[Net, Net]:
        return ARCHITECTURES[config.architecture](config, shape)

    def init(key: Key, batch: Batch) -> tuple[games.Players, tuple[()]]:
        key_generator, key_discriminator = jax.random.split(key)
        x = batch["x"]
        shape = tuple(x.shape[1:])
        generator, discriminator = networks(shape)
        return {
            "generator": Generator(
                generator.init(key_generator, jnp.zeros((1, config.latents))), shape
            ),
            "discriminator": discriminator.init(key_discriminator, x),
        }, ()

    def latents(key: Key, n: int) -> Array:
        """z ~ p(z): [n, L]."""
        if config.prior == "uniform":
            return jax.random.uniform(key, (n, config.latents), minval=-1.0)
        return jax.random.normal(key, (n, config.latents))

    def generate(generator: Generator, z: Array) -> Array:
        """G(z): [n, L] -> [n, *shape]."""
        net, _ = networks(generator.shape)
        return OUTPUTS[config.output](net.apply(generator.net, z))

    def losses(key: Key, params: games.Players, memory: tuple[()], batch: Batch):
        x = batch["x"]
        made = generate(params["generator"], latents(key, len(x)))
        _, discriminator = networks(params["generator"].shape)
        real = discriminator.apply(params["discriminator"], x)
        fake = discriminator.apply(params["discriminator"], made)
        # How often D is right of each; both tend to ½ as the game is settled.
        info: Info = {
            "D_of_data": jnp.mean(jax.nn.sigmoid(real)),
            "D_of_samples": jnp.mean(jax.nn.sigmoid(fake)),
        }
        return LOSSES[config.loss](real, fake), (memory, info)

    def sample(key: Key, params: games.Players, n: int) -> Batch:
        """x = G(z), z ~ p(z)."""
        return {"x": generate(params["generator"], latents(key, n))}

    return Model(
        *play(init, losses, tx, dynamics=games.make(config.dynamics), average=config.average),
        sample=of_params(sample),
        decode=lambda state, z: {"x": generate(learnt(state)["generator"], z)},
    )
