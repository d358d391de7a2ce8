"""The transformer block of which U-Nets, DiT and the encoder of texts are made.

Tokens are [B, N, C]: N places of C features, of B examples. The block normalises before each branch
(Xiong et al. 2020, arXiv:2002.04745); with a condition it is that of DiT with adaLN-Zero (Peebles &
Xie 2023, arXiv:2212.09748, section 3.2). Attention itself is nets/attention.py; language models, of
stacked blocks over which one is scanned, are nets/decoder.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from genjax_zoo.contract import Array
from genjax_zoo.nets import linear
from genjax_zoo.nets.attention import attend
from genjax_zoo.nets.dense import Dense, Initialiser

ZERO = nn.initializers.zeros
EPSILON = 1e-6
"""Added to a token's variance."""


def sinusoidal_embedding(t: Array, features: int, longest: float = 10_000.0) -> Array:
    """Times or places t [N] -> [N, features]: cosines and sines of t times 1 .. 1 / longest.

    Vaswani et al. 2017, section 3.5: wavelengths from 2 π to nearly 2 π longest.
    """
    half = features // 2
    angles = t[:, None] * jnp.exp(-math.log(longest) * jnp.arange(half) / half)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)


def normalise_tokens(x: Array) -> Array:
    """Each token [B, N, C] with mean 0 and variance 1 over its own features."""
    apart = x - x.mean(-1, keepdims=True)
    return apart * jax.lax.rsqrt(jnp.square(apart).mean(-1, keepdims=True) + EPSILON)


class TokenNorm(nn.Module):
    """Layer norm of each token by itself: one of the whole example would see its padding."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x [B, N, C] -> the same shape."""
        features = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (features,))
        shift = self.param("shift", ZERO, (features,))
        return linear.layer_norm(x, scale, shift, EPSILON)


class Attention(nn.Module):
    """Tokens attend to each other, or to those of a context.

    Attributes:
      heads: H; each is C / H wide.
      fused: queries, keys and values of the tokens themselves by one map with biases, as GPT and
        DiT have it; else by three maps without.
      initialiser: of the last map.
    """

    heads: int
    fused: bool = False
    initialiser: Initialiser = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Array, context: Array | None = None, mask: Array | None = None) -> Array:
        """x [B, N, C], a context [B, M, E] and a mask as `attend` takes it -> [B, N, C]."""
        batch, _, features = x.shape

        def parts(a: Array) -> Array:
            """[B, M, P C] -> [P, B, H, M, C / H]."""
            width = features // self.heads
            return a.reshape(batch, a.shape[1], -1, self.heads, width).transpose(2, 0, 3, 1, 4)

        if self.fused:
            q, k, v = parts(Dense(3 * features)(x))
        else:
            seen = x if context is None else context
            q, k, v = (parts(Dense(features, bias=False)(a))[0] for a in (x, seen, seen))
        mixed = attend(q, k, v, mask=mask).swapaxes(1, 2).reshape(x.shape)
        return Dense(features, initialiser=self.initialiser)(mixed)


class Block(nn.Module):
    """A transformer block: attention, then an MLP of 4 C units, each added to what it was given.

        h ← h + α₁ Attention(N₁(h)),    h ← h + α₂ MLP(N₂(h))

    Without a condition N is layer norm and α is 1. With one, both N's scale and shift and both α
    are linear in it and zero at first, so that the block begins as the identity (adaLN-Zero). A
    context is attended to in between, by a branch that is zero at first too.

    Attributes:
      heads: of every attention.
    """

    heads: int

    @nn.compact
    def __call__(
        self,
        h: Array,
        condition: Array | None = None,
        context: Array | None = None,
        mask: Array | None = None,
    ) -> Array:
        """h [B, N, C], a condition [B, E], a context [B, M, F] -> [B, N, C].

        The mask is that of the tokens among themselves, as `attend` takes it.
        """
        features = h.shape[-1]
        if condition is None:
            norms: tuple[Any, Any] = (TokenNorm(), TokenNorm())
            gates: tuple[Any, Any] = (1.0, 1.0)
        else:
            # (γ₁, β₁, α₁, γ₂, β₂, α₂)
            six = jnp.split(Dense(6 * features, initialiser=ZERO)(condition)[:, None], 6, -1)
            norms = (_modulated(*six[:2]), _modulated(*six[3:5]))
            gates = (six[2], six[5])
        h = h + gates[0] * Attention(self.heads, fused=True)(norms[0](h), mask=mask)
        if context is not None:
            h = h + Attention(self.heads, initialiser=ZERO)(normalise_tokens(h), context)
        inner = linear.gelu(Dense(4 * features)(norms[1](h)), exact=False)
        return h + gates[1] * Dense(features)(inner)


def _modulated(scale: Array, shift: Array) -> Callable[[Array], Array]:
    return lambda x: normalise_tokens(x) * (1 + scale) + shift
