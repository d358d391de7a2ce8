"""Convolutional networks for images [B, H, W, C] of any size, from 8x8 to 64x64 and beyond.

Every network is a pyramid: each width of it halves the image, rounding up, and the way back up
passes through the very same sizes (28, 14, 7, 4 and 4, 7, 14, 28), since a transposed convolution
here is told the size of its image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from flax import linen as nn

from genjax_zoo.contract import Array, ConfigError, Key
from genjax_zoo.nets.conv import conv, conv_transpose
from genjax_zoo.nets.dense import Dense, Initialiser, weight
from genjax_zoo.nets.net import ACTIVATIONS, Net, Params, net
from genjax_zoo.nets.norm import Moments, batch_norm, group_norm, moments_start

Memory = Any

KERNEL = (4, 4)  # Twice the stride: every pixel is under as many windows as every other.
STRIDE = 2


class StatefulNet(NamedTuple):
    """A network that remembers: two pure functions that carry their memory in and out.

    Attributes:
      init: (key, *inputs) -> (params, memory); only the inputs' shapes matter.
      apply: (params, memory, x, train) -> (y, memory). With `train` (a Python bool) the batch's
        own moments normalise, and are remembered; without it the remembered ones do. Likewise
        for whatever else a network remembers.
    """

    init: Callable[..., tuple[Params, Memory]]
    apply: Callable[..., tuple[Array, Memory]]


def stateful(module: nn.Module) -> StatefulNet:
    """The two pure functions of a Linen module with parameters and a `memory` collection."""

    def init(key: Key, *inputs: Array) -> tuple[Params, Memory]:
        variables = module.init(key, *inputs, train=False)
        return variables["params"], variables.get("memory", {})

    def apply(params: Params, memory: Memory, x: Array, train: bool) -> tuple[Array, Memory]:
        variables = {"params": params, "memory": memory}
        y, new = module.apply(variables, x, train=train, mutable=["memory"])
        return y, new.get("memory", {})

    return StatefulNet(init, apply)


class Conv(nn.Module):
    """A convolution with "SAME" padding."""

    features: int
    kernel: tuple[int, int] = (3, 3)
    stride: int = 1
    bias: bool = True
    initialiser: Initialiser = nn.initializers.lecun_normal()
    spectral: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """x [B, H, W, C] -> y [B, ceil(H / s), ceil(W / s), features]."""
        shape = (*self.kernel, x.shape[-1], self.features)
        y = conv(x, weight(self, self.initialiser, shape, self.spectral, train), self.stride)
        if not self.bias:
            return y
        return y + self.param("bias", nn.initializers.zeros, (self.features,))


class ConvTranspose(nn.Module):
    """The transpose of a convolution with "SAME" padding of an image of size `image`.

    Without an initialiser of its own, the weights have the variance `gain` / fan-in.
    """

    features: int
    image: tuple[int, int]
    kernel: tuple[int, int] = (3, 3)
    stride: int = 1
    bias: bool = True
    initialiser: Initialiser | None = None
    gain: float = 1.0
    spectral: bool = False

    @nn.compact
    def __call__(self, y: Array, train: bool = False) -> Array:
        """y [B, ceil(H / s), ceil(W / s), C] -> x [B, *image, features]."""
        # A pixel is under k²/s² windows, not k²: 1 / fan-in is s² times what it seems to be.
        unit_variance = nn.initializers.variance_scaling(
            self.gain * self.stride**2, "fan_in", "truncated_normal", in_axis=-1, out_axis=-2
        )
        shape = (*self.kernel, self.features, y.shape[-1])
        w = weight(self, self.initialiser or unit_variance, shape, self.spectral, train, into=-2)
        x = conv_transpose(y, w, self.image, self.stride)
        if not self.bias:
            return x
        return x + self.param("bias", nn.initializers.zeros, (self.features,))


class BatchNorm(nn.Module):
    """Batch norm whose running moments are memory."""

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """x [B, ..., C] -> the same shape."""
        channels = x.shape[-1]
        near_one = lambda key, shape: 1 + 0.02 * jax.random.normal(key, shape)
        scale = self.param("scale", near_one, (channels,))
        shift = self.param("shift", nn.initializers.zeros, (channels,))
        memory = self.variable("memory", "moments", moments_start, channels)
        y, moments = batch_norm(x, scale, shift, Moments(*memory.value), train)
        if train:
            memory.value = moments
        return y


class LayerNorm(nn.Module):
    """Layer norm over all of an example but the batch: a batch norm that sees no other example."""

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """x [B, ..., C] -> the same shape."""
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        shift = self.param("shift", nn.initializers.zeros, (channels,))
        return group_norm(x, scale, shift, groups=1)


def pyramid(image: tuple[int, int], levels: int) -> list[tuple[int, int]]:
    """The sizes of an image halved `levels` times, rounding up: the first is `image` itself."""
    sizes = [image]
    for _ in range(levels):
        height, width = sizes[-1]
        sizes.append((-(-height // STRIDE), -(-width // STRIDE)))
    return sizes


def image_shape(x: Array, who: str, instead: str = "Choose images.") -> tuple[int, int, int]:
    """(H, W, C) of images x [B, H, W, C].

    Raises ConfigError, in the name of the family `who`, where x holds no images; `instead` is what
    to do then.
    """
    if x.ndim != 4:
        raise ConfigError(
            f"{who}: expected images [B, H, W, C], got data of shape {list(x.shape)}. {instead}"
        )
    height, width, channels = x.shape[1:]
    return height, width, channels


class _Encoder(nn.Module):
    widths: tuple[int, ...]
    shape: tuple[int, ...]
    activation: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h, act = x, ACTIVATIONS[self.activation]
        for width in self.widths:
            h = act(Conv(act.pieces * width, KERNEL, STRIDE)(h))
        y = Dense(math.prod(self.shape))(h.reshape(h.shape[0], -1))
        return y.reshape(-1, *self.shape)


class _Decoder(nn.Module):
    widths: tuple[int, ...]
    shape: tuple[int, int, int]
    activation: str

    @nn.compact
    def __call__(self, z: Array) -> Array:
        *image, channels = self.shape
        sizes = pyramid((image[0], image[1]), len(self.widths))
        act = ACTIVATIONS[self.activation]
        top = (*sizes[-1], act.pieces * self.widths[0])
        h = act(Dense(math.prod(top))(z.reshape(z.shape[0], -1)).reshape(-1, *top))
        for width, size in zip(self.widths[1:], sizes[-2:0:-1], strict=True):
            h = act(ConvTranspose(act.pieces * width, size, KERNEL, STRIDE)(h))
        return ConvTranspose(channels, sizes[0], KERNEL, STRIDE)(h)


def conv_encoder(
    widths: Sequence[int], outputs: int | tuple[int, ...], activation: str = "relu"
) -> Net:
    """x [B, H, W, C] -> y [B, *outputs]: a 4x4 convolution of stride 2 per width, one linear map.

    Args:
      widths: channels after each halving of the image, from the largest image to the smallest.
      outputs: shape of the output; a number is a vector's length.
      activation: a name of `ACTIVATIONS`.
    """
    shape = (outputs,) if isinstance(outputs, int) else tuple(outputs)
    return net(_Encoder(tuple(widths), shape, activation))


def conv_decoder(widths: Sequence[int], shape: tuple[int, ...], activation: str = "relu") -> Net:
    """z [B, ...] -> x [B, *shape]: `conv_encoder` run backwards, if its widths are reversed.

    Args:
      widths: channels before each doubling of the image, from the smallest image to the largest.
      shape: (H, W, C) of the image; the last layer is linear.
      activation: a name of `ACTIVATIONS`.
    """
    height, width, channels = shape
    return net(_Decoder(tuple(widths), (height, width, channels), activation))
