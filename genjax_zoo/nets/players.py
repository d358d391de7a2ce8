"""The two networks of an adversarial game: one makes examples, the other judges them.

    generator       z [B, Z]   -> x [B, *shape], before the last nonlinearity
    discriminator   x [B, ...] -> [B, *outputs], linear at the end: logits, or a critic's scores

A `Network` says what either is made of. All can be differentiated twice in reverse, which a
gradient penalty asks for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn

from genjax_zoo import typed
from genjax_zoo.contract import Array, ConfigError
from genjax_zoo.nets.dense import Dense, Initialiser, weight
from genjax_zoo.nets.image import (
    KERNEL,
    STRIDE,
    BatchNorm,
    Conv,
    ConvTranspose,
    LayerNorm,
    StatefulNet,
    pyramid,
    stateful,
)
from genjax_zoo.nets.net import ACTIVATIONS, Activation
from genjax_zoo.nets.resample import upsample, upsample_conv
from genjax_zoo.typed import MOST_LAYERS, choose, number

Shape = tuple[int, ...]


@typed.config
class Network:
    """What one player is made of.

    Attributes:
      name: "mlp", fully connected, for data of any shape; "conv", DCGAN's pyramid of strided
        convolutions (Radford, Metz & Chintala 2016, section 3); "resnet", pre-activation residual
        blocks (He et al. 2016), as in the deepest networks of Gulrajani et al. 2017. The last two
        are for images.
      widths: features of each hidden layer (mlp), or channels at each resolution (conv, resnet),
        from the input to the output. Each width of an image network halves the image, or doubles
        it; a constant number of filters is the same width again and again.
      activation: a name in nets.ACTIVATIONS.
      normalise: of every hidden layer: "none"; "batch", by the moments of the batch, so that
        examples see one another and no gradient is that of one example; "layer", by the moments
        of the example, which stands in for it under a gradient penalty; "spectral", no
        activations but every weight, by its largest singular value (Miyato et al. 2018).
      blocks: residual blocks at each resolution of a resnet, of two convolutions each: 16 with
        three widths make about a hundred layers.
      dense: features of fully connected layers between the latents and the smallest image (conv,
        resnet), in the order in which they stand in a generator; a discriminator has them after
        its smallest image.
    """

    name: str = "mlp"
    widths: tuple[int, ...] = number((128, 128), least=1)
    activation: str = "relu"
    normalise: str = "none"
    blocks: int = number(2, least=1, most=MOST_LAYERS)
    dense: tuple[int, ...] = number((), least=1)

    def __post_init__(self):
        choose(self.name, NETWORKS, "network")
        choose(self.activation, ACTIVATIONS, "activation")
        choose(self.normalise, NORMS, "value of normalise:")
        if NETWORKS[self.name].images and not self.widths:
            raise ConfigError(f"a {self.name} network needs a width for each halving, got none.")

    @property
    def act(self) -> Activation:
        """The nonlinearity itself."""
        return ACTIVATIONS[self.activation]

    @property
    def spectral(self) -> bool:
        """Whether the weights are normalised."""
        return self.normalise == "spectral"

    @property
    def bias(self) -> bool:
        """Whether a layer has a bias of its own, and not that of the norm after it."""
        return NORMS[self.normalise] is None

    def norm(self, h: Array, train: bool) -> Array:
        """The norm of activations, if there is one: [B, ..., C] -> the same shape."""
        layer = NORMS[self.normalise]
        return h if layer is None else layer()(h, train)

    def hidden(self, h: Array, train: bool) -> Array:
        """What follows a linear map: [B, ..., pieces * C] -> [B, ..., C]."""
        return self.act(self.norm(h, train))


NORMS: Mapping[str, type[nn.Module] | None] = {
    "none": None,
    "batch": BatchNorm,
    "layer": LayerNorm,
    "spectral": None,
}
"""By the names that configs use; spectral norm is one of weights."""


def _variance(gain: float) -> Initialiser:
    """Weights of variance gain / fan-in, of which a unit keeps its input's size if gain is 1."""
    return nn.initializers.variance_scaling(gain, "fan_in", "truncated_normal")


def _hidden(net: Network, widths: Shape, initial: Initialiser, x: Array, train: bool) -> Array:
    """Fully connected hidden layers: x [B, ...] -> [B, widths[-1]], flat where there are none."""
    h = x.reshape(x.shape[0], -1)
    for width in widths:
        layer = Dense(net.act.pieces * width, net.bias, initial, net.spectral)
        h = net.hidden(layer(h, train), train)
    return h


class _Mlp(nn.Module):
    network: Network
    shape: Shape

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        net = self.network
        h = _hidden(net, net.widths, Dense.initialiser, x, train)
        y = Dense(math.prod(self.shape), spectral=net.spectral)(h, train)
        return y.reshape(-1, *self.shape)


# Radford, Metz & Chintala 2016, section 4: "all weights ... standard deviation 0.02". Batch norm
# makes up for whatever is too small in it; without batch norm, He et al. 2015.
_DCGAN = nn.initializers.normal(0.02)


class _ConvGenerator(nn.Module):
    network: Network
    shape: Shape

    @nn.compact
    def __call__(self, z: Array, train: bool) -> Array:
        net, (*image, channels) = self.network, self.shape
        sizes = pyramid((image[0], image[1]), len(net.widths))
        initial = _DCGAN if net.normalise == "batch" else None
        up = lambda features, size, bias: ConvTranspose(
            features, size, KERNEL, STRIDE, bias, initial, net.act.gain, net.spectral
        )
        top = (*sizes[-1], net.act.pieces * net.widths[0])
        first = Dense(math.prod(top), net.bias, initial or _variance(1.0), net.spectral)
        h = _hidden(net, net.dense, initial or _variance(net.act.gain), z, train)
        h = net.hidden(first(h, train).reshape(-1, *top), train)
        for width, size in zip(net.widths[1:], sizes[-2:0:-1], strict=True):
            h = net.hidden(up(net.act.pieces * width, size, net.bias)(h, train), train)
        return up(channels, sizes[0], True)(h, train)


class _ConvDiscriminator(nn.Module):
    network: Network
    outputs: Shape

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        _image(self.network, x.shape[1:])
        net = self.network
        initial = _DCGAN if net.normalise == "batch" else _variance(net.act.gain)
        first = _DCGAN if net.normalise == "batch" else _variance(1.0)
        down = lambda width, bias, initial: Conv(
            net.act.pieces * width, KERNEL, STRIDE, bias, initial, net.spectral
        )
        # The first layer has no norm: it would hide the data's own mean and scale.
        h = net.act(down(net.widths[0], True, first)(x, train))
        for width in net.widths[1:]:
            h = net.hidden(down(width, net.bias, initial)(h, train), train)
        h = _hidden(net, net.dense[::-1], initial, h, train)
        last = Dense(math.prod(self.outputs), initialiser=initial, spectral=net.spectral)
        return last(h, train).reshape(-1, *self.outputs)


class _UpsampleConv(nn.Module):
    """A 3x3 convolution of an image made twice as large."""

    features: int
    bias: bool
    initialiser: Initialiser
    spectral: bool

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """x [B, H, W, C] -> y [B, 2H, 2W, features]."""
        shape = (3, 3, x.shape[-1], self.features)
        y = upsample_conv(x, weight(self, self.initialiser, shape, self.spectral, train))
        if not self.bias:
            return y
        return y + self.param("bias", nn.initializers.zeros, (self.features,))


def _pool(x: Array) -> Array:
    """Means of 2x2 pixels: [B, H, W, C] -> [B, ceil(H / 2), ceil(W / 2), C]."""
    # A last pixel without a neighbour is its own mean.
    odd = [(0, size % 2) for size in x.shape[1:3]]
    x = jnp.pad(x, ((0, 0), *odd, (0, 0)), mode="edge")
    rows = x[:, 0::2] + x[:, 1::2]
    return (rows[:, :, 0::2] + rows[:, :, 1::2]) / 4


class _Block(nn.Module):
    """h + F(h), F of two 3x3 convolutions, each after its norm and nonlinearity (He et al. 2016).

    Attributes:
      network: what the layers are like.
      width: C, of the pieces * C channels of the output.
      resize: "up", nearest neighbours; "down", means of 2x2 pixels; "" neither.
    """

    network: Network
    width: int
    resize: str = ""

    @nn.compact
    def __call__(self, h: Array, train: bool) -> Array:
        """[B, H, W, pieces * C] -> [B, H', W', pieces * width]."""
        net, channels = self.network, self.network.act.pieces * self.width
        # F's last weights start 1 / √L smaller: the sum of all L branches is then no larger than
        # what they are added to, however many there are.
        gain, depth = net.act.gain, net.blocks * len(net.widths)
        initial, last = _variance(gain), _variance(gain / depth)
        first: nn.Module
        if self.resize == "up":
            first = _UpsampleConv(channels, net.bias, initial, net.spectral)
        else:
            first = Conv(channels, bias=net.bias, initialiser=initial, spectral=net.spectral)
        branch = first(net.hidden(h, train), train)
        second = Conv(channels, initialiser=last, spectral=net.spectral)
        branch = second(net.hidden(branch, train), train)
        # Where the shape changes, the way past F follows: by one linear map of each pixel, made
        # where there are fewest of them.
        if self.resize == "down":
            h, branch = _pool(h), _pool(branch)
        if h.shape[-1] != channels:
            h = Conv(channels, (1, 1), initialiser=_variance(1.0), spectral=net.spectral)(h, train)
        return (upsample(h) if self.resize == "up" else h) + branch


def _alike(net: Network, width: int, h: Array, train: bool) -> Array:
    """The other blocks of one resolution: as one loop, which compiles as fast as one of them."""
    if net.blocks == 1:
        return h
    step = lambda block, h, _: (block(h, train), None)
    loop = nn.scan(
        step,
        variable_axes={"params": 0, "memory": 0},
        split_rngs={"params": True},
        length=net.blocks - 1,
    )
    return loop(_Block(net, width), h, None)[0]


class _ResnetGenerator(nn.Module):
    network: Network
    shape: Shape

    @nn.compact
    def __call__(self, z: Array, train: bool) -> Array:
        net, (*image, channels) = self.network, self.shape
        sizes = pyramid((image[0], image[1]), len(net.widths))
        top = (*sizes[-1], net.act.pieces * net.widths[0])
        first = Dense(math.prod(top), initialiser=_variance(1.0), spectral=net.spectral)
        h = _hidden(net, net.dense, _variance(net.act.gain), z, train)
        h = first(h, train).reshape(-1, *top)
        for width, (height, breadth) in zip(net.widths, sizes[-2::-1], strict=True):
            h = _Block(net, width, "up")(h, train)[:, :height, :breadth]
            h = _alike(net, width, h, train)
        last = Conv(channels, initialiser=_variance(net.act.gain), spectral=net.spectral)
        return last(net.hidden(h, train), train)


class _ResnetDiscriminator(nn.Module):
    network: Network
    outputs: Shape

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        _image(self.network, x.shape[1:])
        net, initial = self.network, _variance(self.network.act.gain)
        first = net.act.pieces * net.widths[0]
        h = Conv(first, initialiser=_variance(1.0), spectral=net.spectral)(x, train)
        for width in net.widths:
            h = _alike(net, width, _Block(net, width, "down")(h, train), train)
        h = _hidden(net, net.dense[::-1], initial, net.hidden(h, train), train)
        last = Dense(math.prod(self.outputs), initialiser=initial, spectral=net.spectral)
        return last(h, train).reshape(-1, *self.outputs)


def _image(network: Network, shape: Shape) -> None:
    if len(shape) != 3:
        raise ConfigError(
            f"a {network.name} network is for images [H, W, C], and an example of the data has "
            f"shape {tuple(shape)}. Use the network 'mlp'."
        )


class Players(NamedTuple):
    """The two networks of one name.

    Attributes:
      generator: (network, shape of x) -> its module.
      discriminator: (network, shape of the outputs) -> its module.
      images: whether they are for images only.
    """

    generator: Callable[[Network, Shape], nn.Module]
    discriminator: Callable[[Network, Shape], nn.Module]
    images: bool


NETWORKS: Mapping[str, Players] = {
    "mlp": Players(_Mlp, _Mlp, images=False),
    "conv": Players(_ConvGenerator, _ConvDiscriminator, images=True),
    "resnet": Players(_ResnetGenerator, _ResnetDiscriminator, images=True),
}
"""By the names that configs use."""


def generator(network: Network, shape: Shape) -> StatefulNet:
    """z [B, ...] -> x [B, *shape], before the last nonlinearity, which belongs to the data's range.

    Args:
      network: what it is made of.
      shape: of one example; (H, W, C) for the networks of images.

    Raises ConfigError where such a network cannot make that shape.
    """
    players = NETWORKS[network.name]
    if players.images:
        _image(network, shape)
    return stateful(players.generator(network, tuple(shape)))


def discriminator(network: Network, outputs: Shape = ()) -> StatefulNet:
    """x [B, ...] -> [B, *outputs], linear at the end: without `outputs` one number each, [B].

    The number is the logit of being real, or a critic's score. Its `init` and `apply` raise
    ConfigError for an x that such a network cannot see.

    Args:
      network: what it is made of.
      outputs: () or (n,).
    """
    return stateful(NETWORKS[network.name].discriminator(network, tuple(outputs)))
