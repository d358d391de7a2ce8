"""A small encoder of texts: tokens -> a vector for each word, which knows its neighbours.

Token 0 is padding, and a text of nothing else says nothing: its vectors are zeros, as those of
padding always are, and no word looks at them.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from genjax_zoo.contract import Array, ConfigError, Key
from genjax_zoo.nets.dense import Dense
from genjax_zoo.nets.net import Net, Params, net


@dataclasses.dataclass(frozen=True)
class Text:
    """What an encoder of texts is made of.

    Attributes:
      vocabulary: how many tokens there are, padding with them; 0 is no text at all.
      width: E, features of a word.
      blocks: of self-attention, each with a hidden layer of 4 E.
      heads: of every attention.
    """

    vocabulary: int = 0
    width: int = 64
    blocks: int = 2
    heads: int = 4

    def __post_init__(self):
        if min(self.vocabulary, self.blocks) < 0 or min(self.width, self.heads) < 1:
            raise ConfigError(
                "text: vocabulary and blocks should be at least 0, width and heads at least 1."
            )
        if self.width % (2 * self.heads):
            raise ConfigError(
                f"text: a width of {self.width} should be a multiple of 2 x {self.heads} heads."
            )


def text_encoder(config: Text) -> Net:
    """Tokens [B, T] int32, 0 for padding -> words [B, T, E], zero where there is padding."""
    return net(_Encoder(config))


def worded(denoiser: Net, config: Text) -> Net:
    """A denoiser of (x, t, words [B, T, E]) as one of (x, t, tokens [B, T]).

    Both learn together; where `config` has no vocabulary it is the denoiser itself.
    """
    if not config.vocabulary:
        return denoiser
    encoder = text_encoder(config)

    def init(key: Key, x: Array, t: Array, tokens: Array) -> Params:
        key_text, key_denoiser = jax.random.split(key)
        text = encoder.init(key_text, tokens)
        words = encoder.apply(text, tokens)
        return {"denoiser": denoiser.init(key_denoiser, x, t, words), "text": text}

    def apply(params: Params, x: Array, t: Array, tokens: Array) -> Array:
        return denoiser.apply(params["denoiser"], x, t, encoder.apply(params["text"], tokens))

    return Net(init, apply)


def _places(length: int, features: int) -> Array:
    """[T, E]: cosines and sines of the place, from wavelengths of 2 π to 2000 π."""
    half = features // 2
    angles = jnp.arange(length)[:, None] * jnp.exp(-math.log(1000) * jnp.arange(half) / half)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)


class _Norm(nn.Module):
    """Layer norm of each word by itself: one that saw the whole text would see its padding."""

    @nn.compact
    def __call__(self, h: Array) -> Array:
        features = h.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (features,))
        shift = self.param("shift", nn.initializers.zeros, (features,))
        apart = h - h.mean(-1, keepdims=True)
        whitened = apart * jax.lax.rsqrt(jnp.square(apart).mean(-1, keepdims=True) + 1e-6)
        return whitened * scale + shift


class _Look(nn.Module):
    """Words [B, T, E] look at all that are words."""

    heads: int

    @nn.compact
    def __call__(self, h: Array, real: Array) -> Array:
        batch, length, features = h.shape
        parts = Dense(3 * features)(h).reshape(batch, length, 3, self.heads, -1)
        q, k, v = parts.transpose(2, 0, 3, 1, 4)
        # softmax(q kᵀ / √d) v, of padding nothing: a finite number keeps an empty text finite.
        logits = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])
        weights = jax.nn.softmax(jnp.where(real[:, None, None], logits, -1e9), -1)
        return Dense(features)((weights @ v).swapaxes(1, 2).reshape(h.shape))


class _Encoder(nn.Module):
    config: Text

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        config, real = self.config, tokens > 0
        shape = (config.vocabulary, config.width)
        h = self.param("table", nn.initializers.normal(1.0), shape)[tokens]
        h = h + _places(tokens.shape[1], config.width)
        for _ in range(config.blocks):
            h = h + _Look(config.heads)(_Norm()(h), real)
            h = h + Dense(config.width)(nn.gelu(Dense(4 * config.width)(_Norm()(h))))
        return jnp.where(real[..., None], _Norm()(h), 0.0)
