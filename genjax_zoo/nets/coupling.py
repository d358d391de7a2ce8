"""Networks that give a flow its parameters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from flax import linen as nn

from genjax_zoo.contract import Array
from genjax_zoo.nets.dense import Dense
from genjax_zoo.nets.image import Conv
from genjax_zoo.nets.net import ACTIVATIONS, Net, net


class _Same(nn.Module):
    widths: Sequence[int]
    channels: int
    activation: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        act, h = ACTIVATIONS[self.activation], x
        for k, width in enumerate(self.widths):
            # Kingma & Dhariwal 2018, section 3.3: between two 3x3 convolutions, 1x1 ones.
            h = act(Conv(act.pieces * width, (3, 3) if k == 0 else (1, 1))(h))
        return Conv(self.channels)(h)


def conv_same(widths: Sequence[int], channels: int, activation: str = "relu") -> Net:
    """x [B, H, W, C] -> y [B, H, W, channels]: 3x3, 1x1, ..., 3x3 convolutions of stride 1."""
    return net(_Same(tuple(widths), channels, activation))


class _Made(nn.Module):
    widths: Sequence[int]
    outputs: int
    activation: str

    @nn.compact
    def __call__(self, x: Array, condition: Array | None = None) -> Array:
        size, act = x.shape[-1], ACTIVATIONS[self.activation]
        # m(k), the highest input that unit k may see: equations 12 and 13 of the paper.
        before, h = np.arange(1, size + 1), x
        for k, width in enumerate(self.widths):
            own = np.tile(np.arange(width) % max(size - 1, 1) + min(1, size - 1), act.pieces)
            h = _masked(self, f"hidden_{k}", h, own[None, :] >= before[:, None])
            if condition is not None:
                h += Dense(len(own), bias=False, name=f"condition_{k}")(condition)
            h, before = act(h), own[:width]
        last = np.tile(np.arange(1, size + 1), self.outputs // size)
        y = _masked(self, "output", h, last[None, :] > before[:, None])
        if condition is not None:
            y += Dense(self.outputs, bias=False, name="condition")(condition)
        return y


def _masked(layer: nn.Module, name: str, x: Array, mask: np.ndarray) -> Array:
    """x [B, C] -> [B, F] by the weights that mask [C, F] lets through, and a bias."""
    w = layer.param(f"{name}_kernel", nn.initializers.lecun_normal(), mask.shape)
    return x @ (w * mask) + layer.param(f"{name}_bias", nn.initializers.zeros, (mask.shape[1],))


def made(widths: Sequence[int], outputs: int, activation: str = "relu") -> Net:
    """x [B, D] (and a condition [B, C]) -> [B, outputs]: output i sees inputs before i mod D alone.

    Germain, Gregor, Murray & Larochelle, MADE, 2015 (arXiv:1502.03509). A condition is seen by
    every output.
    """
    return net(_Made(tuple(widths), outputs, activation))
