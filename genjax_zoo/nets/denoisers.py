"""Networks of a time and a condition: (x_t, t, condition) -> an output like x_t.

    mlp          points and other vectors: residual blocks of two linear maps
    unet         images: Ho et al. 2020, appendix B, with self-attention where it is asked for
    transformer  images: DiT of Peebles & Xie 2023 (arXiv:2212.09748) with adaLN-Zero

The time is embedded in sines, the condition in the same vector: a table of classes, or for a text
the mean of its tokens, which the images also attend to one by one. The last of the classes, or a
text of zeros, is the null condition (Ho & Salimans 2022, arXiv:2207.12598). Every residual branch
and the last layer begin at zero, so that at first a network tells nothing but zeros.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from genjax_zoo import typed
from genjax_zoo.contract import Array, ConfigError
from genjax_zoo.nets.dense import Dense
from genjax_zoo.nets.image import Conv, LayerNorm
from genjax_zoo.nets.net import Net, net
from genjax_zoo.nets.norm import group_norm
from genjax_zoo.nets.resample import upsample_conv
from genjax_zoo.nets.transformer import (
    ZERO,
    Attention,
    Block,
    normalise_tokens,
    sinusoidal_embedding,
)
from genjax_zoo.typed import MOST_LAYERS, choose, number


@typed.config
class Denoiser:
    """What a denoising network is made of.

    Attributes:
      name: "mlp", "unet" or "transformer".
      width: features of a vector, channels of the largest image or of a token.
      multiples: of the width, the channels at each resolution of a U-Net; each halves the image.
      blocks: residual blocks of an MLP, at each resolution of a U-Net, or of a transformer.
      attention: sides of the images at which a U-Net attends to itself and to a text.
      heads: of every attention.
      patch: side of a token of a transformer; a U-Net takes the pixels of a patch together.
    """

    name: str = "mlp"
    width: int = number(128, least=1)
    multiples: tuple[int, ...] = number((1, 2, 2), least=1)
    blocks: int = number(2, least=1, most=MOST_LAYERS)
    attention: tuple[int, ...] = number((), least=1)
    heads: int = number(4, least=1)
    patch: int = number(1, least=1)

    def __post_init__(self):
        choose(self.name, DENOISERS, "denoiser")
        if self.width % self.heads:
            raise ConfigError(f"{self.heads} heads do not divide a width of {self.width}.")


def denoiser(config: Denoiser, outputs: int | None = None, classes: int = 0) -> Net:
    """(x [B, ...], t [B], condition) -> [B, ..., outputs], outputs as many as inputs if not said.

    Args:
      config: what it is made of.
      outputs: channels.
      classes: of a condition that is labels [B] int32, `classes` itself meaning none; a condition
        may also be vectors of tokens [B, T, E], or None.
    """
    return net(DENOISERS[config.name](config, outputs, classes))


class _Network(nn.Module):
    """What all denoisers are made from; each has `__call__(x [B, ...], t [B], condition)`."""

    config: Denoiser
    outputs: int | None
    classes: int


# ------------------------------------------------------------------------------------- the parts


EMBEDDING = "Told_0"
"""Initial weights are drawn by their names. This one stays as it was when the published numbers
were measured, and so do they."""


class ConditionEmbedding(nn.Module):
    """The time and the condition as one vector [B, features]."""

    features: int
    classes: int

    @nn.compact
    def __call__(self, t: Array, condition: Array | None) -> Array:
        """t [B] and a condition, if there is one -> [B, features]."""
        h = Dense(self.features)(sinusoidal_embedding(t, self.features))
        if condition is not None and self.classes:
            table = self.param(
                "classes", nn.initializers.normal(1.0), (self.classes + 1, self.features)
            )
            h = h + table[condition]
        elif condition is not None:
            h = h + Dense(self.features, bias=False)(condition.mean(1))
        return nn.swish(Dense(self.features)(nn.swish(h)))


class GroupNorm(nn.Module):
    """Group norm of at most 32 groups."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x [B, H, W, C] -> the same shape."""
        channels = x.shape[-1]
        groups = math.gcd(channels, 32) if channels >= 32 else math.gcd(channels, 8)
        scale = self.param("scale", nn.initializers.ones, (channels,))
        shift = self.param("shift", ZERO, (channels,))
        return group_norm(x, scale, shift, groups)


def patchify(x: Array, p: int) -> Array:
    """Images [B, H, W, C] -> their p x p patches, [B, H / p, W / p, p p C]."""
    batch, height, width, channels = x.shape
    if height % p or width % p:
        raise ConfigError(f"patches of {p} do not divide an image of {height}x{width}.")
    parts = x.reshape(batch, height // p, p, width // p, p, channels).swapaxes(2, 3)
    return parts.reshape(batch, height // p, width // p, -1)


def unpatchify(patches: Array, p: int) -> Array:
    """The images [B, H, W, C] of such patches."""
    batch, rows, columns, features = patches.shape
    parts = patches.reshape(batch, rows, columns, p, p, features // p**2).swapaxes(2, 3)
    return parts.reshape(batch, rows * p, columns * p, -1)


# ------------------------------------------------------------------------------------------- mlp


class _Mlp(_Network):
    @nn.compact
    def __call__(self, x: Array, t: Array, condition: Array | None = None) -> Array:
        shape = x.shape if self.outputs is None else (*x.shape[:-1], self.outputs)
        width = self.config.width
        embedding = ConditionEmbedding(width, self.classes, name=EMBEDDING)(t, condition)
        h = Dense(width)(x.reshape(x.shape[0], -1))
        for _ in range(self.config.blocks):
            inner = nn.swish(Dense(width)(LayerNorm()(h)) + Dense(width, bias=False)(embedding))
            h = h + Dense(width, initialiser=ZERO)(inner)
        h = nn.swish(LayerNorm()(h))
        return Dense(math.prod(shape[1:]), initialiser=ZERO)(h).reshape(shape)


# ------------------------------------------------------------------------------------------ unet


class _Residual(nn.Module):
    """Two convolutions, modulated by the embedding between them."""

    channels: int

    @nn.compact
    def __call__(self, x: Array, embedding: Array) -> Array:
        h = Conv(self.channels)(nn.swish(GroupNorm()(x)))
        # y = (1 + scale) h + shift: Dhariwal & Nichol 2021, section 3.1
        scale, shift = jnp.split(Dense(2 * self.channels)(embedding)[:, None, None], 2, -1)
        h = nn.swish(GroupNorm()(h) * (1 + scale) + shift)
        h = Conv(self.channels, initialiser=ZERO)(h)
        if x.shape[-1] != self.channels:
            x = Conv(self.channels, (1, 1))(x)
        return x + h


class _SelfAttention(nn.Module):
    """The pixels of an image attend to each other, and to the context if there is one."""

    heads: int

    @nn.compact
    def __call__(self, x: Array, context: Array | None) -> Array:
        h = GroupNorm()(x).reshape(x.shape[0], -1, x.shape[-1])
        h = x.reshape(h.shape) + Attention(self.heads, initialiser=ZERO)(h)
        if context is not None:
            h = h + Attention(self.heads, initialiser=ZERO)(normalise_tokens(h), context)
        return h.reshape(x.shape)


class _UpConv(nn.Module):
    """Twice the size: each pixel repeated, then a 3x3 convolution."""

    channels: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (3, 3, x.shape[-1], self.channels)
        w = self.param("kernel", nn.initializers.lecun_normal(), shape)
        return upsample_conv(x, w) + self.param("bias", ZERO, (self.channels,))


class _Unet(_Network):
    @nn.compact
    def __call__(self, x: Array, t: Array, condition: Array | None = None) -> Array:
        config = self.config
        embedding = ConditionEmbedding(4 * config.width, self.classes, name=EMBEDDING)(t, condition)
        context = None if self.classes else condition

        def level(h: Array, channels: int, attends: bool) -> Array:
            h = _Residual(channels)(h, embedding)
            return _SelfAttention(config.heads)(h, context) if attends else h

        widths = [config.width * m for m in config.multiples]
        h = Conv(config.width)(patchify(x, config.patch))
        kept = [h]
        for k, channels in enumerate(widths):
            for _ in range(config.blocks):
                h = level(h, channels, h.shape[1] in config.attention)
                kept.append(h)
            if k + 1 < len(widths):
                h = Conv(channels, stride=2)(h)
                kept.append(h)
        attends = bool(config.attention) or context is not None
        h = _Residual(widths[-1])(level(h, widths[-1], attends), embedding)
        for k, channels in reversed(list(enumerate(widths))):
            for _ in range(config.blocks + 1):
                h = jnp.concatenate([h, kept.pop()], -1)
                h = level(h, channels, h.shape[1] in config.attention)
            if k:
                # An odd side was rounded up on the way down.
                rows, columns = kept[-1].shape[1:3]
                h = _UpConv(channels)(h)[:, :rows, :columns]
        outputs = (self.outputs or x.shape[-1]) * config.patch**2
        return unpatchify(Conv(outputs, initialiser=ZERO)(nn.swish(GroupNorm()(h))), config.patch)


# ----------------------------------------------------------------------------------- transformer


class _Transformer(_Network):
    @nn.compact
    def __call__(self, x: Array, t: Array, condition: Array | None = None) -> Array:
        config = self.config
        patches = patchify(x, config.patch)
        batch, rows, columns, _ = patches.shape
        embedding = ConditionEmbedding(config.width, self.classes, name=EMBEDDING)(t, condition)
        context = None if self.classes else condition
        place = self.param("place", nn.initializers.normal(0.02), (1, rows * columns, config.width))
        h = Dense(config.width)(patches.reshape(batch, rows * columns, -1)) + place
        for _ in range(config.blocks):
            h = Block(config.heads)(h, embedding, context)
        both = Dense(2 * config.width, initialiser=ZERO)(embedding)[:, None]
        scale, shift = jnp.split(both, 2, -1)
        outputs = (self.outputs or x.shape[-1]) * config.patch**2
        h = Dense(outputs, initialiser=ZERO)(normalise_tokens(h) * (1 + scale) + shift)
        return unpatchify(h.reshape(batch, rows, columns, outputs), config.patch)


DENOISERS: Mapping[str, Callable[..., Any]] = {
    "mlp": _Mlp,
    "unet": _Unet,
    "transformer": _Transformer,
}
"""The denoising networks by the names that configs use."""
