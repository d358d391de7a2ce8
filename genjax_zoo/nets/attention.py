"""Attention: the one door through which every network of the zoo attends.

    Attention(Q, K, V) = softmax(Q Kᵀ / √W) V     Vaswani et al. 2017 (arXiv:1706.03762), eq. 1

Of language models besides: fewer heads of keys than of queries (Shazeer 2019, arXiv:1911.02150;
Ainslie et al. 2023, arXiv:2305.13245), a window (Jiang et al. 2023, arXiv:2310.06825), documents
side by side in one row, and distances that count against a key (ALiBi: Press, Smith & Lewis 2022,
arXiv:2108.12409).
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from genjax_zoo.contract import Array, Key
from genjax_zoo.nets.linear import wide

HIDDEN = -1e9
"""The logit of a key that is not to be seen: a query that sees none sees all alike, and no NaN."""


def attend(
    q: Array,
    k: Array,
    v: Array,
    *,
    mask: Array | None = None,
    causal: bool = False,
    window: int = 0,
    documents: Array | None = None,
    slopes: Array | np.ndarray | None = None,
    dropout: float = 0.0,
    key: Key | None = None,
) -> Array:
    """softmax(q kᵀ / √W) v: [B, H, S, W].

    Args:
      q: queries [B, H, S, W], of H heads of width W.
      k, v: keys and values [B, K, M, W], of K heads; K divides H, and head j of the keys serves the
        queries' heads j H/K .. (j + 1) H/K - 1.
      mask: broadcasts to [B, H, S, M]: True where a query may look. One that may look nowhere
        looks everywhere alike, and stays finite.
      causal: the last query stands at the last key's place, and each sees no key after its own.
      window: how many keys a causal query sees at most, its own among them; 0 is all.
      documents: [B, M], S = M: a query sees keys of its own document's number alone.
      slopes: [H]; the logit of the key at place m is raised by slope × (m - the query's place).
        As a softmax takes no notice of what all keys have in common, places of queries matter not.
      dropout: the part of the weights that is dropped, with a key.
      key: of what is dropped; None drops nothing.
    """
    (_, H, S, W), (K, M) = q.shape, k.shape[1:3]
    if K != H:
        k, v = (jnp.repeat(each, H // K, axis=1) for each in (k, v))
    logits = wide(q @ k.swapaxes(-1, -2) / math.sqrt(W))
    ahead = jnp.arange(M) - (M - S + jnp.arange(S))[:, None]
    if slopes is not None:
        logits = logits + slopes[:, None, None] * ahead
    for seen in _seen(mask, ahead, causal, window, documents):
        logits = jnp.where(seen, logits, HIDDEN)
    weights = jax.nn.softmax(logits, -1)
    if dropout and key is not None:
        kept = jax.random.bernoulli(key, 1 - dropout, weights.shape)
        weights = jnp.where(kept, weights / (1 - dropout), 0)
    return weights.astype(v.dtype) @ v


def _seen(
    mask: Array | None, ahead: Array, causal: bool, window: int, documents: Array | None
) -> list[Array]:
    """What a query may look at: masks that broadcast to [B, H, S, M], all of which must hold.

    `ahead` [S, M] says how far a key stands after a query.
    """
    found = [] if mask is None else [mask]
    if causal:
        found.append(ahead <= 0)
    if window:
        found.append(ahead > -window)
    if documents is not None:
        found.append((documents[:, :, None] == documents[:, None, :])[:, None])
    return found
