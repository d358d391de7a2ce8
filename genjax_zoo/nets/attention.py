"""Attention: the one door through which every network of the zoo attends.

    Attention(Q, K, V) = softmax(Q Kᵀ / √W) V     Vaswani et al. 2017 (arXiv:1706.03762), eq. 1

Of language models besides: fewer heads of keys than of queries (Shazeer 2019, arXiv:1911.02150;
Ainslie et al. 2023, arXiv:2305.13245), a window (Jiang et al. 2023, arXiv:2310.06825), documents
side by side in one row, and distances that count against a key (ALiBi: Press, Smith & Lewis 2022,
arXiv:2108.12409).

On an NVIDIA GPU bfloat16 goes to cuDNN's fused kernel wherever that can say the same. All else is
worked out in blocks of queries, each against the keys that it can see, with a gradient written by
hand that keeps the weights; XLA splits it over devices as it splits all else, which a kernel of
Pallas would have to be told.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax_zoo.contract import Array, Key
from genjax_zoo.nets.linear import dot, once, turned_product, wide

HIDDEN = -1e9
"""The logit of a key that is not to be seen: a query that sees none sees all alike, and no NaN."""
BLOCK, MOST_BLOCKS = 128, 4
"""How many queries a causal block has at least, and how many blocks there are at most."""


class Kind(NamedTuple):
    """What is known of an attention before its arrays are.

    Attributes:
      causal, window: as `attend` takes them.
      queries, keys: S and M.
      masked: whether there is a mask: then a query may see no key, and looks at all alike.
    """

    causal: bool
    window: int
    queries: int
    keys: int
    masked: bool = False

    def blocks(self) -> list[tuple[slice, slice]]:
        """Blocks of queries, and the keys that one of a block may see."""
        S, M = self.queries, self.keys
        if not self.causal or self.masked:
            return [(slice(0, S), slice(0, M))]
        count = max(1, min(MOST_BLOCKS, S // BLOCK))
        ends = [S * i // count for i in range(count + 1)]
        found = []
        for first, last in itertools.pairwise(ends):
            begin = max(0, M - S + first - self.window + 1) if self.window else 0
            found.append((slice(first, last), slice(begin, M - S + last)))
        return found


class Told(NamedTuple):
    """What else says which key is seen, and how well; see `attend`. None says nothing."""

    mask: Array | None
    documents: Array | None
    slopes: Array | None


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
    (_, H, S, _), (K, M) = q.shape, k.shape[1:3]
    kind, key = Kind(causal, window, S, M, mask is not None), key if dropout else None
    if mask is None and slopes is None and key is None and _fits_cudnn(kind, q):
        return _by_cudnn(kind, q, k, v, documents)
    if K != H:
        k, v = (jnp.repeat(each, H // K, axis=1) for each in (k, v))
    mask = None if mask is None else mask.reshape((1,) * (4 - mask.ndim) + mask.shape)
    told = Told(mask, documents, None if slopes is None else jnp.asarray(slopes))
    if key is None:
        return _attend(kind, q, k, v, jax.lax.stop_gradient(told))
    weights = _weights(kind, (slice(0, S), slice(0, M)), q, k, told)
    kept = jax.random.bernoulli(key, 1 - dropout, weights.shape)
    return jnp.where(kept, weights / (1 - dropout), 0).astype(v.dtype) @ v


def _seen(kind: Kind, block: tuple[slice, slice], told: Told) -> list[Array]:
    """What the queries of a block may look at among its keys: masks that broadcast to
    [B, H, queries, keys], all of which must hold."""
    ahead, found = jnp.asarray(_ahead(kind, block)), []
    if told.mask is not None:
        part = lambda axis: block[axis - 2] if told.mask.shape[axis] > 1 else slice(None)
        found.append(told.mask[:, :, part(2), part(3)])
    if kind.causal:
        found.append(ahead <= 0)
    if kind.window:
        found.append(ahead > -kind.window)
    if told.documents is not None:
        queries, keys = (told.documents[:, each] for each in block)
        found.append((queries[:, :, None] == keys[:, None, :])[:, None])
    return found


def _ahead(kind: Kind, block: tuple[slice, slice]) -> np.ndarray:
    """How far each key of a block stands after each of its queries: [queries, keys]."""
    queries, keys = (np.arange(each.start, each.stop) for each in block)
    return keys - (kind.keys - kind.queries + queries[:, None])


def _weights(kind: Kind, block: tuple[slice, slice], q: Array, k: Array, told: Told) -> Array:
    """softmax(q kᵀ / √W) of a block: [B, H, queries, keys], float32."""
    q, k = q[:, :, block[0]], k[:, :, block[1]]
    logits = dot(q, k.swapaxes(-1, -2)) / math.sqrt(q.shape[-1])
    if told.slopes is not None:
        logits = logits + told.slopes[:, None, None] * _ahead(kind, block)
    for seen in _seen(kind, block, told):
        logits = jnp.where(seen, logits, HIDDEN)
    return jax.nn.softmax(logits, -1)


# O = P V,  P = softmax(L),  L = Q Kᵀ / √W:
# ∂V = Pᵀ ∂O,  ∂P = ∂O Vᵀ,  ∂L = P (∂P - Σ ∂O O),  ∂Q = ∂L K / √W,  ∂K = ∂Lᵀ Q / √W
@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(kind: Kind, q: Array, k: Array, v: Array, told: Told) -> Array:
    return _attend_forward(kind, q, k, v, told)[0]


def _attend_forward(kind: Kind, q: Array, k: Array, v: Array, told: Told):
    weights = [_weights(kind, block, q, k, told).astype(v.dtype) for block in kind.blocks()]
    each = [
        dot(p, v[:, :, keys]).astype(v.dtype)
        for p, (_, keys) in zip(weights, kind.blocks(), strict=True)
    ]
    out = _joined(each)
    return out, (q, k, v, told, weights, out)


def _joined(blocks: list[Array]) -> Array:
    return blocks[0] if len(blocks) == 1 else jnp.concatenate(blocks, axis=2)


def _attend_backward(kind: Kind, kept, g: Array):
    q, k, v, told, weights, out = kept
    g, M = once(g), kind.keys
    along = jnp.sum(wide(g) * wide(out), -1, keepdims=True)
    of_q: list[Array] = []
    of_k, of_v = jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32)
    for block, p in zip(kind.blocks(), weights, strict=True):
        queries, keys = block
        own = g[:, :, queries]
        of_logits = wide(p) * (dot(own, v[:, :, keys].swapaxes(-1, -2)) - along[:, :, queries])
        if kind.masked:
            # A query that sees no key looks at all alike, whatever their logits would be.
            for seen in _seen(kind, block, told):
                of_logits = jnp.where(seen, of_logits, 0)
        of_logits = (of_logits / math.sqrt(q.shape[-1])).astype(q.dtype)
        of_q.append(dot(of_logits, k[:, :, keys]).astype(q.dtype))
        whole = lambda a, keys=keys: jnp.pad(
            a, ((0, 0), (0, 0), (keys.start, M - keys.stop), (0, 0))
        )
        of_k += whole(turned_product(of_logits, q[:, :, queries]))
        of_v += whole(turned_product(p, own))
    nothing = jax.tree.map(lambda _: None, told)
    return _joined(of_q), of_k.astype(k.dtype), of_v.astype(v.dtype), nothing


_attend.defvjp(_attend_forward, _attend_backward)


def _fits_cudnn(kind: Kind, q: Array) -> bool:
    """Whether cuDNN's fused attention can be asked: on an NVIDIA GPU from Ampere on, in 16 bits."""
    width = q.shape[-1]
    if jax.default_backend() != "gpu" or q.dtype not in (jnp.bfloat16, jnp.float16):
        return False
    if width % 8 or width > 128 or kind.queries == 1:
        return False
    if kind.causal and kind.queries != kind.keys:
        return False
    capability = str(getattr(jax.local_devices()[0], "compute_capability", ""))
    return capability.split(".")[0].isdigit() and int(capability.split(".")[0]) >= 8


def _by_cudnn(kind: Kind, q: Array, k: Array, v: Array, documents: Array | None) -> Array:
    same = None
    if documents is not None:
        same = (documents[:, :, None] == documents[:, None, :])[:, None]
    q, k, v = (each.swapaxes(1, 2) for each in (q, k, v))
    out = jax.nn.dot_product_attention(
        *(q, k, v),
        mask=same,
        is_causal=kind.causal,
        local_window_size=(kind.window - 1, 0) if kind.window else None,
        implementation="cudnn",
    )
    return out.swapaxes(1, 2)
