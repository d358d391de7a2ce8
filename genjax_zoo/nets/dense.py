"""Fully connected networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from flax import linen as nn

from genjax_zoo.contract import Array
from genjax_zoo.nets.net import ACTIVATIONS, Net, net
from genjax_zoo.nets.norm import spectral_norm, spectral_start

Initialiser = Callable[..., Array]


def weight(
    layer: nn.Module,
    initialiser: Initialiser,
    shape: tuple[int, ...],
    spectral: bool = False,
    train: bool = False,
    into: int = -1,
) -> Array:
    """A layer's `kernel`, or the kernel over its largest singular value.

    Args:
      layer: the module whose parameter it is; with `spectral`, it remembers a singular vector.
      initialiser: (key, shape) -> the first kernel.
      shape: of the kernel.
      spectral: whether to normalise (nets.norm.spectral_norm).
      train: whether the singular vector moves.
      into: the axis of the kernel that holds the layer's outputs.
    """
    w = layer.param("kernel", initialiser, shape)
    if not spectral:
        return w
    start = lambda: spectral_start(layer.make_rng("params"), w, into)
    memory = layer.variable("memory", "singular", start)
    w, u = spectral_norm(w, memory.value, train, into)
    if train:
        memory.value = u
    return w


class Dense(nn.Module):
    """A linear map of the last axis, and a bias."""

    features: int
    bias: bool = True
    initialiser: Initialiser = nn.initializers.lecun_normal()
    spectral: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """x [B, ..., C] -> y [B, ..., features]."""
        shape = (x.shape[-1], self.features)
        y = x @ weight(self, self.initialiser, shape, self.spectral, train)
        if not self.bias:
            return y
        return y + self.param("bias", nn.initializers.zeros, (self.features,))


class _Mlp(nn.Module):
    widths: Sequence[int]
    activation: str
    shape: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        act = ACTIVATIONS[self.activation]
        h = x.reshape(x.shape[0], -1)
        for width in self.widths:
            h = act(Dense(act.pieces * width)(h))
        return Dense(math.prod(self.shape))(h).reshape(-1, *self.shape)


def mlp(widths: Sequence[int], shape: int | tuple[int, ...], activation: str = "relu") -> Net:
    """x [B, ...] -> y [B, *shape]: hidden layers of `widths`, and a linear last one."""
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    return net(_Mlp(tuple(widths), activation, shape))
