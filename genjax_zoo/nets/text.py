"""A small encoder of texts: tokens -> a vector for each word, which knows its neighbours.

Token 0 is padding, and a text of nothing else says nothing: its vectors are zeros, as those of
padding always are, and no word attends to them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from genjax_zoo import typed
from genjax_zoo.contract import Array, ConfigError, Key
from genjax_zoo.nets.net import Net, Params, net
from genjax_zoo.nets.transformer import Block, TokenNorm, sinusoidal_embedding
from genjax_zoo.typed import MOST_LAYERS, number


@typed.config
class Text:
    """What an encoder of texts is made of.

    Attributes:
      vocabulary: how many tokens there are, padding with them; 0 is no text at all.
      width: E, features of a word.
      blocks: of self-attention, each with a hidden layer of 4 E.
      heads: of every attention.
    """

    vocabulary: int = number(0, least=0)
    width: int = number(64, least=1)
    blocks: int = number(2, least=0, most=MOST_LAYERS)
    heads: int = number(4, least=1)

    def __post_init__(self):
        if self.width % (2 * self.heads):
            raise ConfigError(
                f"text: a width of {self.width} should be a multiple of 2 x {self.heads} heads."
            )


def text_encoder(config: Text) -> Net:
    """Tokens [B, T] int32, 0 for padding -> words [B, T, E], zero where there is padding."""
    return net(_Encoder(config))


def with_text_encoder(denoiser: Net, config: Text) -> Net:
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


class _Encoder(nn.Module):
    config: Text

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        config, real = self.config, tokens > 0
        shape = (config.vocabulary, config.width)
        h = self.param("table", nn.initializers.normal(1.0), shape)[tokens]
        h = h + sinusoidal_embedding(jnp.arange(tokens.shape[1]), config.width, longest=1000.0)
        for _ in range(config.blocks):
            h = Block(config.heads)(h, mask=real[:, None, None])
        return jnp.where(real[..., None], TokenNorm()(h), 0.0)
