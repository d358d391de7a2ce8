"""Networks between images and grids of vectors, and a PixelCNN on grids of codes.

The encoder and decoder follow van den Oord, Vinyals & Kavukcuoglu, Neural discrete representation
learning, 2017 (arXiv:1711.00937), section 4.1: convolutions of stride 2, then residual blocks, and
the same backwards. The PixelCNN (van den Oord, Kalchbrenner & Kavukcuoglu 2016, arXiv:1601.06759,
section 3.4) has a few layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from genjax_zoo.contract import Array
from genjax_zoo.nets.conv import conv
from genjax_zoo.nets.dense import Dense
from genjax_zoo.nets.image import KERNEL, STRIDE, Conv, ConvTranspose, pyramid
from genjax_zoo.nets.net import ACTIVATIONS, Net, net


class _Residual(nn.Module):
    activation: str

    @nn.compact
    def __call__(self, h: Array) -> Array:
        act, width = ACTIVATIONS[self.activation], h.shape[-1]
        # A block looks at h through the nonlinearity; one with pieces must first be given them.
        r = h if act.pieces == 1 else Conv(act.pieces * width, (1, 1))(h)
        r = act(Conv(act.pieces * width)(act(r)))
        return h + Conv(width, (1, 1))(r)


class _GridEncoder(nn.Module):
    widths: tuple[int, ...]
    features: int
    blocks: int
    activation: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h, act = x, ACTIVATIONS[self.activation]
        for width in self.widths:
            h = act(Conv(act.pieces * width, KERNEL, STRIDE)(h))
        for _ in range(self.blocks):
            h = _Residual(self.activation)(h)
        return Conv(self.features, (1, 1))(h)


class _GridDecoder(nn.Module):
    widths: tuple[int, ...]
    shape: tuple[int, int, int]
    blocks: int
    activation: str

    @nn.compact
    def __call__(self, z: Array) -> Array:
        *image, channels = self.shape
        sizes = pyramid((image[0], image[1]), len(self.widths))
        act = ACTIVATIONS[self.activation]
        h = Conv(self.widths[0])(z)
        for _ in range(self.blocks):
            h = _Residual(self.activation)(h)
        h = act(Conv(act.pieces * self.widths[0], (1, 1))(h))
        for width, size in zip(self.widths[1:], sizes[-2:0:-1], strict=True):
            h = act(ConvTranspose(act.pieces * width, size, KERNEL, STRIDE)(h))
        return ConvTranspose(channels, sizes[0], KERNEL, STRIDE)(h)


class _PixelCNN(nn.Module):
    outputs: int
    width: int
    layers: int
    activation: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        act = ACTIVATIONS[self.activation]

        def masked(name: str, h: Array, features: int, size: int, itself: bool) -> Array:
            shape = (size, size, h.shape[-1], features)
            w = self.param(name, nn.initializers.lecun_normal(), shape)
            return conv(h, w * causal_mask(size, itself)[:, :, None, None])

        # A bias of each place of its own: a small grid is nowhere alike.
        place = self.param("place", nn.initializers.zeros, (*x.shape[1:3], act.pieces * self.width))
        h = act(masked("first", x, act.pieces * self.width, 7, itself=False) + place)
        for k in range(self.layers):
            r = act(masked(f"next_{k}", h, act.pieces * self.width, 3, itself=True))
            h = h + Dense(self.width)(r)
        return Dense(self.outputs)(h)


def causal_mask(size: int, itself: bool) -> Array:
    """Which of a window's [size, size] entries come before its centre, row by row: 1, else 0.

    Args:
      size: of the window, an odd number.
      itself: whether the centre counts (mask B of the paper) or not (mask A).
    """
    centre = size * size // 2
    before = np.arange(size * size) < centre + itself
    return jnp.asarray(before.reshape(size, size), jnp.float32)


def grid_shape(shape: Sequence[int], levels: int) -> tuple[int, int]:
    """(h, w) of the grid that `levels` halvings, rounding up, make of an image (H, W, C)."""
    return pyramid((shape[0], shape[1]), levels)[-1]


def grid_encoder(
    widths: Sequence[int], features: int, blocks: int = 2, activation: str = "relu"
) -> Net:
    """x [B, H, W, C] -> y [B, h, w, features], (h, w) as `grid_shape` tells.

    Args:
      widths: channels after each halving of the image.
      features: channels of the grid; the last layer is linear.
      blocks: residual blocks on the grid.
      activation: a name of `ACTIVATIONS`.
    """
    return net(_GridEncoder(tuple(widths), features, blocks, activation))


def grid_decoder(
    widths: Sequence[int],
    shape: tuple[int, ...],
    blocks: int = 2,
    activation: str = "relu",
) -> Net:
    """z [B, h, w, D] -> x [B, *shape]: `grid_encoder` run backwards, if its widths are reversed."""
    height, width, channels = shape
    return net(_GridDecoder(tuple(widths), (height, width, channels), blocks, activation))


def pixelcnn(outputs: int, width: int = 64, layers: int = 2, activation: str = "relu") -> Net:
    """A causal network: x [B, h, w, C] -> y [B, h, w, outputs], y_ij of what precedes (i, j).

    Places follow each other row by row. One masked 7x7 convolution that leaves the centre out,
    and `layers` of 3x3 that do not; each place has a bias of its own.
    """
    return net(_PixelCNN(outputs, width, layers, activation))
