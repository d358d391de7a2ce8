"""What a network is to the rest of the zoo."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from genjax_zoo.contract import Array, Net

Params = Any


class Activation(NamedTuple):
    """A nonlinearity, and how many features it needs for each that it makes.

    A layer of C units before it makes `pieces * C` features, the pieces one after another.

    Attributes:
      function: h [..., pieces * C] -> [..., C].
      pieces: 1 for a function of one number.
      gain: 1 / E[f(h)²] under h ~ N(0, I). Weights of variance gain / fan-in after it keep the
        size of a signal from layer to layer (He et al. 2015, equation 10: 2 for relu).
    """

    function: Callable[[Array], Array]
    pieces: int = 1
    gain: float = 1.0

    def __call__(self, h: Array) -> Array:
        """f(h): [..., pieces * C] -> [..., C]."""
        return self.function(h)


def _gated(h: Array) -> Array:
    # van den Oord et al. 2016, equation 2: one half says how much of the other passes.
    gate, value = jnp.split(h, 2, -1)
    return jax.nn.sigmoid(gate) * jnp.tanh(value)


def _maxout(h: Array) -> Array:
    # Goodfellow et al. 2013, section 2: the largest of five linear maps, a convex function learnt.
    return functools.reduce(jnp.maximum, jnp.split(h, 5, -1))


ACTIVATIONS: Mapping[str, Activation] = {
    "relu": Activation(jax.nn.relu, gain=2.0),
    "tanh": Activation(jnp.tanh, gain=2.536),
    "softplus": Activation(jax.nn.softplus, gain=1.085),
    "gelu": Activation(jax.nn.gelu, gain=2.352),
    "swish": Activation(jax.nn.swish, gain=2.811),
    "leaky_relu": Activation(lambda x: jax.nn.leaky_relu(x, 0.2), gain=1.923),
    "gated": Activation(_gated, pieces=2, gain=8.65),
    "maxout": Activation(_maxout, pieces=5, gain=0.555),
}
"""The nonlinearities by the names that configs use."""


def net(module: nn.Module) -> Net:
    """The two pure functions of a Linen module that has nothing but parameters."""
    return Net(
        init=lambda key, *inputs: module.init(key, *inputs)["params"],
        apply=lambda params, *inputs: module.apply({"params": params}, *inputs),
    )


def batched(own: Net, axes: int = 1) -> Net:
    """The same network for h [..., *own axes], whatever leads: its outputs are led by the same.

    Args:
      own: a network of one input, whose outputs are [B, ...].
      axes: how many axes of an input are its own: 1 of vectors, 3 of grids.
    """

    def apply(params: Params, h: Array) -> Array:
        cut = h.ndim - axes
        y = own.apply(params, h.reshape(-1, *h.shape[cut:]))
        return y.reshape(*h.shape[:cut], *y.shape[1:])

    return Net(own.init, apply)
