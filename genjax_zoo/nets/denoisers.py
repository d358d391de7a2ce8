"""Networks that are told a time and a condition: (x_t, t, condition) -> an output like x_t.

    mlp          points and other vectors: residual blocks of two linear maps
    unet         images: Ho et al. 2020, appendix B, with self-attention where it is asked for
    transformer  images: DiT of Peebles & Xie 2023 (arXiv:2212.09748) with adaLN-Zero

The time is embedded in sines, the condition in the same vector: a table of classes, or for a text
the mean of its tokens, which the images also attend to one by one. The last of the classes, or a
text of zeros, stands for none (Ho & Salimans 2022, arXiv:2207.12598). Every residual branch and the
last layer begin at zero, so that at first a network tells nothing but zeros.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from genjax_zoo.contract import Array, ConfigError
from genjax_zoo.nets.dense import Dense
from genjax_zoo.nets.image import Conv, LayerNorm
from genjax_zoo.nets.net import Net, net
from genjax_zoo.nets.norm import group_norm
from genjax_zoo.nets.resample import upsample_conv
from genjax_zoo.typed import choose

ZERO = nn.initializers.zeros


@dataclasses.dataclass(frozen=True)
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
    width: int = 128
    multiples: tuple[int, ...] = (1, 2, 2)
    blocks: int = 2
    attention: tuple[int, ...] = ()
    heads: int = 4
    patch: int = 1

    def __post_init__(self):
        choose(self.name, DENOISERS, "denoiser")
        if min(self.width, self.blocks, self.heads, self.patch, *self.multiples) < 1:
            raise ConfigError("width, multiples, blocks, heads and patch should be at least 1.")
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


# ------------------------------------------------------------------------------------- the parts


def sines(t: Array, features: int, longest: float = 10_000.0) -> Array:
    """t [B] -> [B, features]: cosines and sines of t times 1 .. 1/longest (Vaswani et al. 2017)."""
    half = features // 2
    angles = t[:, None] * jnp.exp(-math.log(longest) * jnp.arange(half) / half)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)


class Told(nn.Module):
    """The time and the condition as one vector [B, features]."""

    features: int
    classes: int

    @nn.compact
    def __call__(self, t: Array, condition: Array | None) -> Array:
        """t [B] and a condition, if there is one -> [B, features]."""
        h = Dense(self.features)(sines(t, self.features))
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


class Attention(nn.Module):
    """A residual branch of tokens x [B, N, C] that look at `seen` [B, M, E], or at themselves."""

    heads: int

    @nn.compact
    def __call__(self, x: Array, seen: Array | None = None) -> Array:
        """x [B, N, C] and `seen` [B, M, E] -> [B, N, C], zero at first."""
        batch, _, channels = x.shape
        seen = x if seen is None else seen
        split = lambda a: a.reshape(batch, a.shape[1], self.heads, -1).swapaxes(1, 2)
        q = split(Dense(channels, bias=False)(x))
        k, v = (split(Dense(channels, bias=False)(seen)) for _ in range(2))
        # softmax(q kᵀ / √d) v
        weights = jax.nn.softmax(q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1]), -1)
        mixed = (weights @ v).swapaxes(1, 2).reshape(batch, -1, channels)
        return Dense(channels, initialiser=ZERO)(mixed)


def cut(x: Array, p: int) -> Array:
    """Images [B, H, W, C] -> their p x p patches, [B, H / p, W / p, p p C]."""
    batch, height, width, channels = x.shape
    if height % p or width % p:
        raise ConfigError(f"patches of {p} do not divide an image of {height}x{width}.")
    parts = x.reshape(batch, height // p, p, width // p, p, channels).swapaxes(2, 3)
    return parts.reshape(batch, height // p, width // p, -1)


def joined(patches: Array, p: int) -> Array:
    """What `cut` has cut."""
    batch, rows, columns, features = patches.shape
    parts = patches.reshape(batch, rows, columns, p, p, features // p**2).swapaxes(2, 3)
    return parts.reshape(batch, rows * p, columns * p, -1)


# ------------------------------------------------------------------------------------------- mlp


class _Mlp(nn.Module):
    config: Denoiser
    outputs: int | None
    classes: int

    @nn.compact
    def __call__(self, x: Array, t: Array, condition: Array | None = None) -> Array:
        shape = x.shape if self.outputs is None else (*x.shape[:-1], self.outputs)
        width = self.config.width
        told = Told(width, self.classes)(t, condition)
        h = Dense(width)(x.reshape(x.shape[0], -1))
        for _ in range(self.config.blocks):
            inner = nn.swish(Dense(width)(LayerNorm()(h)) + Dense(width, bias=False)(told))
            h = h + Dense(width, initialiser=ZERO)(inner)
        h = nn.swish(LayerNorm()(h))
        return Dense(math.prod(shape[1:]), initialiser=ZERO)(h).reshape(shape)


# ------------------------------------------------------------------------------------------ unet


class _Residual(nn.Module):
    """Two convolutions, the vector that was told between them."""

    channels: int

    @nn.compact
    def __call__(self, x: Array, told: Array) -> Array:
        h = Conv(self.channels)(nn.swish(GroupNorm()(x)))
        # y = (1 + scale) h + shift: Dhariwal & Nichol 2021, section 3.1
        scale, shift = jnp.split(Dense(2 * self.channels)(told)[:, None, None], 2, -1)
        h = nn.swish(GroupNorm()(h) * (1 + scale) + shift)
        h = Conv(self.channels, initialiser=ZERO)(h)
        if x.shape[-1] != self.channels:
            x = Conv(self.channels, (1, 1))(x)
        return x + h


class _Look(nn.Module):
    """An image [B, H, W, C] attends to itself, and to the words if there are any."""

    heads: int

    @nn.compact
    def __call__(self, x: Array, words: Array | None) -> Array:
        batch, height, width, channels = x.shape
        h = GroupNorm()(x).reshape(batch, -1, channels)
        h = x.reshape(h.shape) + Attention(self.heads)(h)
        if words is not None:
            h = h + Attention(self.heads)(_whiten(h), words)
        return h.reshape(batch, height, width, channels)


class _UpConv(nn.Module):
    """Twice the size: each pixel repeated, then a 3x3 convolution."""

    channels: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (3, 3, x.shape[-1], self.channels)
        w = self.param("kernel", nn.initializers.lecun_normal(), shape)
        return upsample_conv(x, w) + self.param("bias", ZERO, (self.channels,))


class _Unet(nn.Module):
    config: Denoiser
    outputs: int | None
    classes: int

    @nn.compact
    def __call__(self, x: Array, t: Array, condition: Array | None = None) -> Array:
        config = self.config
        told = Told(4 * config.width, self.classes)(t, condition)
        words = None if self.classes else condition

        def level(h: Array, channels: int, look: bool) -> Array:
            h = _Residual(channels)(h, told)
            return _Look(config.heads)(h, words) if look else h

        widths = [config.width * m for m in config.multiples]
        h = Conv(config.width)(cut(x, config.patch))
        kept = [h]
        for k, channels in enumerate(widths):
            for _ in range(config.blocks):
                h = level(h, channels, h.shape[1] in config.attention)
                kept.append(h)
            if k + 1 < len(widths):
                h = Conv(channels, stride=2)(h)
                kept.append(h)
        looks = bool(config.attention) or words is not None
        h = _Residual(widths[-1])(level(h, widths[-1], looks), told)
        for k, channels in reversed(list(enumerate(widths))):
            for _ in range(config.blocks + 1):
                h = jnp.concatenate([h, kept.pop()], -1)
                h = level(h, channels, h.shape[1] in config.attention)
            if k:
                # An odd side was rounded up on the way down.
                rows, columns = kept[-1].shape[1:3]
                h = _UpConv(channels)(h)[:, :rows, :columns]
        outputs = (self.outputs or x.shape[-1]) * config.patch**2
        return joined(Conv(outputs, initialiser=ZERO)(nn.swish(GroupNorm()(h))), config.patch)


# ----------------------------------------------------------------------------------- transformer


class _Block(nn.Module):
    heads: int

    @nn.compact
    def __call__(self, h: Array, told: Array, words: Array | None) -> Array:
        channels = h.shape[-1]
        # (γ₁, β₁, α₁, γ₂, β₂, α₂), zero at first: Peebles & Xie 2023, section 3.2
        six = jnp.split(Dense(6 * channels, initialiser=ZERO)(told)[:, None], 6, -1)
        norm = lambda a, scale, shift: _whiten(a) * (1 + scale) + shift
        h = h + six[2] * _Mix(self.heads)(norm(h, six[0], six[1]))
        if words is not None:
            h = h + Attention(self.heads)(_whiten(h), words)
        inner = nn.gelu(Dense(4 * channels)(norm(h, six[3], six[4])))
        return h + six[5] * Dense(channels)(inner)


class _Mix(nn.Module):
    """Self-attention whose last map is no zero: its gate is."""

    heads: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, tokens, channels = x.shape
        parts = Dense(3 * channels)(x).reshape(batch, tokens, 3, self.heads, -1)
        q, k, v = parts.transpose(2, 0, 3, 1, 4)
        weights = jax.nn.softmax(q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1]), -1)
        return Dense(channels)((weights @ v).swapaxes(1, 2).reshape(x.shape))


def _whiten(x: Array) -> Array:
    """Layer norm of each token, without a scale of its own."""
    mean = x.mean(-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(jnp.square(x - mean).mean(-1, keepdims=True) + 1e-6)


class _Transformer(nn.Module):
    config: Denoiser
    outputs: int | None
    classes: int

    @nn.compact
    def __call__(self, x: Array, t: Array, condition: Array | None = None) -> Array:
        config = self.config
        patches = cut(x, config.patch)
        batch, rows, columns, _ = patches.shape
        told = Told(config.width, self.classes)(t, condition)
        words = None if self.classes else condition
        place = self.param("place", nn.initializers.normal(0.02), (1, rows * columns, config.width))
        h = Dense(config.width)(patches.reshape(batch, rows * columns, -1)) + place
        for _ in range(config.blocks):
            h = _Block(config.heads)(h, told, words)
        scale, shift = jnp.split(
            Dense(2 * config.width, initialiser=ZERO)(told)[:, None], 2, axis=-1
        )
        outputs = (self.outputs or x.shape[-1]) * config.patch**2
        h = Dense(outputs, initialiser=ZERO)(_whiten(h) * (1 + scale) + shift)
        return joined(h.reshape(batch, rows, columns, outputs), config.patch)


DENOISERS: Mapping[str, Callable[..., Any]] = {
    "mlp": _Mlp,
    "unet": _Unet,
    "transformer": _Transformer,
}
"""The denoising networks by the names that configs use."""
