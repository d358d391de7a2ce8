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
from genjax_zoo.contract import Array, Batch, ConfigError, Info, Key, Model, Support
from genjax_zoo.learn import Learner, learnt, play
from genjax_zoo.nets import ACTIVATIONS, Net, StatefulNet
from genjax_zoo.typed import choose

VERB = "play"

Memory = dict[str, Any]
"""{player: what its network remembers from step to step}."""


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


LOSSES: dict[str, Callable[[Array, Array], dict[str, Array]]] = {
    "minimax": _minimax,
    "non_saturating": _non_saturating,
}
"""What each player lowers: (a(x) [B], a(G(z)) [B]) -> {player: loss}, mean nats over the batch.

The discriminator's is the *summed* binary cross entropy -V, without the factor ½ that some write:
log 4 where it cannot tell, and log 4 - 2 JSD(data, samples) where it tells as well as can be.
"""


Networks = dict[str, StatefulNet]
"""{player: its network}: of the generator z [B, L] -> x [B, *shape] before the last nonlinearity,
of the discriminator x [B, *shape] -> the logits a [B]."""


def _mlp(config: Config, shape: tuple[int, ...]) -> Networks:
    return {
        "generator": _memoryless(nets.mlp(config.generator, shape, config.activation)),
        "discriminator": _memoryless(nets.mlp(config.discriminator, (), config.activation)),
    }


def _dcgan(config: Config, shape: tuple[int, ...]) -> Networks:
    # Radford, Metz & Chintala 2016, with their own activations and batch norm.
    if len(shape) != 3:
        raise ConfigError(
            f"gan: the dcgan architecture makes images [H, W, C], and an example of the data has "
            f"shape {shape}. Set model.architecture to 'mlp'."
        )
    height, width, channels = shape
    return {
        "generator": nets.dcgan_generator(config.generator, (height, width, channels)),
        "discriminator": nets.dcgan_discriminator(config.discriminator),
    }


def _memoryless(net: Net) -> StatefulNet:
    """A network without memory as one whose memory stays empty."""
    return StatefulNet(
        init=lambda key, x: (net.init(key, x), {}),
        apply=lambda params, memory, x, train: (net.apply(params, x), memory),
    )


ARCHITECTURES: dict[str, Callable[[Config, tuple[int, ...]], Networks]] = {
    "mlp": _mlp,
    "dcgan": _dcgan,
}
"""What the players are made of: (config, shape of one x) -> their networks."""

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
      generator, discriminator: their hidden units (mlp) or channels (dcgan), each from its
        input to its output.
      activation: the nonlinearity of both (mlp), a name in nets.ACTIVATIONS.
      latents: L, dimensions of z.
      prior: p(z): "normal" N(0, I), or "uniform" on [-1, 1]^L.
      output: the range of x: "linear" (any), "sigmoid" [0, 1] or "tanh" [-1, 1].
      average: decay of the moving average of the parameters; 0 keeps none. Batch norm's running
        moments (dcgan) are those of the parameters themselves and fit an average only roughly.
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
            if self.architecture == "dcgan" and not getattr(self, player):
                raise ConfigError(f"gan: the {player} of a dcgan needs a width, got none.")
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
    """A generative adversarial network.

    Its parameters and its memory (batch norm's running moments, if any) are both dicts
    {"generator": ..., "discriminator": ...}.
    """

    def networks(shape: tuple[int, ...]) -> Networks:
        return ARCHITECTURES[config.architecture](config, shape)

    def init(key: Key, batch: Batch) -> tuple[games.Players, Memory]:
        """Raises ConfigError where the architecture cannot make data of that shape."""
        key_generator, key_discriminator = jax.random.split(key)
        x = batch["x"]
        shape = tuple(x.shape[1:])
        net, z = networks(shape), jnp.zeros((1, config.latents))
        generator, of_generator = net["generator"].init(key_generator, z)
        discriminator, of_discriminator = net["discriminator"].init(key_discriminator, x)
        return (
            {"generator": Generator(generator, shape), "discriminator": discriminator},
            {"generator": of_generator, "discriminator": of_discriminator},
        )

    def prior(key: Key, n: int) -> Array:
        """z ~ p(z): [n, L]."""
        if config.prior == "uniform":
            return jax.random.uniform(key, (n, config.latents), minval=-1.0)
        return jax.random.normal(key, (n, config.latents))

    def G(generator: Generator, memory: Any, z: Array, train: bool) -> tuple[Array, Any]:
        """G(z): [n, L] -> [n, *shape], and the generator's memory."""
        net = networks(generator.shape)["generator"]
        x, memory = net.apply(generator.net, memory, z, train)
        return OUTPUTS[config.output](x), memory

    def losses(key: Key, params: games.Players, memory: Memory, batch: Batch):
        generator, of_generator = params["generator"], memory["generator"]
        a = networks(generator.shape)["discriminator"].apply
        x, z = batch["x"], prior(key, len(batch["x"]))
        made, of_generator = G(generator, of_generator, z, train=True)
        # Data and samples are two batches, each normalised by itself where there is batch norm.
        of_discriminator = memory["discriminator"]
        real, of_discriminator = a(params["discriminator"], of_discriminator, x, True)
        fake, of_discriminator = a(params["discriminator"], of_discriminator, made, True)
        # D's mean verdict on each; both tend to ½ as the game is settled.
        info: Info = {
            "D_of_data": jnp.mean(jax.nn.sigmoid(real)),
            "D_of_samples": jnp.mean(jax.nn.sigmoid(fake)),
        }
        remembered = {"generator": of_generator, "discriminator": of_discriminator}
        return LOSSES[config.loss](real, fake), (remembered, info)

    def decode(state: Learner, z: Array) -> Batch:
        """G(z)."""
        generator, memory = learnt(state)["generator"], state.memory["generator"]
        return {"x": G(generator, memory, z, train=False)[0]}

    def sample(key: Key, state: Learner, n: int) -> Batch:
        """x = G(z), z ~ p(z)."""
        return decode(state, prior(key, n))

    return Model(
        *play(init, losses, tx, dynamics=games.make(config.dynamics), average=config.average),
        sample=sample,
        decode=decode,
        support=Support.UNIT if config.output == "sigmoid" else Support.REAL,
    )
