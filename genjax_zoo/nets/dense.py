"""Fully connected networks."""

from __future__ import annotations

import math
from collections.abc import Sequence

from flax import linen as nn

from genjax_zoo.contract import Array
from genjax_zoo.nets.net import ACTIVATIONS, Net, net


class _Mlp(nn.Module):
    widths: Sequence[int]
    activation: str
    shape: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = x.reshape(x.shape[0], -1)
        for width in self.widths:
            h = ACTIVATIONS[self.activation](nn.Dense(width)(h))
        return nn.Dense(math.prod(self.shape))(h).reshape(-1, *self.shape)


def mlp(widths: Sequence[int], shape: int | tuple[int, ...], activation: str = "relu") -> Net:
    """x [B, ...] -> y [B, *shape]: hidden layers of `widths`, and a linear last one."""
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    return net(_Mlp(tuple(widths), activation, shape))
