"""What a network is to the rest of the zoo."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from genjax_zoo.contract import Array

Params = Any

ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "softplus": jax.nn.softplus,
    "gelu": jax.nn.gelu,
    "swish": jax.nn.swish,
    "leaky_relu": lambda x: jax.nn.leaky_relu(x, 0.2),
}
"""The nonlinearities by the names that configs use."""


class Net(NamedTuple):
    """A network as two pure functions.

    Attributes:
      init: (key, *inputs) -> params; only the inputs' shapes matter.
      apply: (params, *inputs) -> outputs, whose leading axis is that of the inputs.
    """

    init: Callable[..., Params]
    apply: Callable[..., Any]


def net(module: nn.Module) -> Net:
    """The two pure functions of a Linen module that has nothing but parameters."""
    return Net(
        init=lambda key, *inputs: module.init(key, *inputs)["params"],
        apply=lambda params, *inputs: module.apply({"params": params}, *inputs),
    )
