"""A generator, and how it and its discriminator start: what every GAN's networks share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from genjax_zoo.contract import REAL, SIGNED, UNIT, Array, Key, Space
from genjax_zoo.nets import players
from genjax_zoo.nets.image import StatefulNet

PRIORS: dict[str, Callable[[Key, tuple[int, ...]], Array]] = {
    "normal": jax.random.normal,
    "uniform": lambda key, shape: jax.random.uniform(key, shape, minval=-1.0),
}
"""p(z): N(0, I), or uniform on [-1, 1]^L."""

OUTPUTS: dict[str, Callable[[Array], Array]] = {
    "linear": lambda x: x,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
}
"""The generator's last nonlinearity, which gives x the range of the data."""

SPACES: dict[str, Space] = {
    "linear": REAL,
    "sigmoid": UNIT,
    "tanh": SIGNED,
}
"""What the data must be for such a generator to reach them."""


@struct.dataclass
class Generator:
    """What a generator learns.

    Attributes:
      net: θ_G, of the network z -> x.
      shape: of one example, without the batch.
    """

    net: Any
    shape: tuple[int, ...] = struct.field(pytree_node=False)


Memory = dict[str, Any]
"""{player: what its network remembers from step to step}."""


def start(
    key: Key, network: players.Network, D: StatefulNet, z: Array, x: Array, shape: tuple[int, ...]
) -> tuple[dict[str, Any], Memory]:
    """Both players' first parameters and memory, each a dict {"generator", "discriminator"}.

    Args:
      network: what the generator is made of.
      D: the discriminator.
      z: latents [B, ...], as the generator sees them; only their shape matters.
      x: examples [B, ...], as the discriminator sees them; only their shape matters.
      shape: of one example of the data, which the generator makes.

    Raises ConfigError where the networks cannot make or see such examples.
    """
    key_generator, key_discriminator = jax.random.split(key)
    net, of_generator = players.generator(network, shape).init(key_generator, z)
    discriminator, of_discriminator = D.init(key_discriminator, x)
    return (
        {"generator": Generator(net, shape), "discriminator": discriminator},
        {"generator": of_generator, "discriminator": of_discriminator},
    )


def generate(
    network: players.Network, output: str, generator: Generator, memory: Any, z: Array, train: bool
) -> tuple[Array, Any]:
    """G(z): latents [n, ...] -> x [n, *shape] in the range of `output`, and the memory."""
    x, memory = players.generator(network, generator.shape).apply(generator.net, memory, z, train)
    return OUTPUTS[output](x), memory
