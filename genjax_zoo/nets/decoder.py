"""The decoder-only Transformer, whose differences from model to model are arguments.

    h_0 = E x + P,    a_l = h_{l-1} + Attention(N₁ h_{l-1}),    h_l = a_l + MLP(N₂ a_l)
    logits = W N h

Vaswani et al. 2017 without its encoder (Radford et al. 2018), normalised before each branch
(Radford et al. 2019); `parallel` adds both branches to the same h (Chowdhery et al. 2022,
arXiv:2204.02311, section 2).

What it is made of, and every parameter that it has, is in nets/architecture.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from genjax_zoo.contract import Array, Key
from genjax_zoo.nets import experts, linear, positions
from genjax_zoo.nets.architecture import Decoder, Params, Tensor, tensors
from genjax_zoo.nets.attention import attend
from genjax_zoo.nets.axes import constrain
from genjax_zoo.nets.linear import product

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": lambda x: linear.gelu(x, exact=True),
    "gelu_tanh": lambda x: linear.gelu(x, exact=False),
    "silu": jax.nn.silu,
    "relu": jax.nn.relu,
}


MOST_UNROLLED = 12
"""How many layers are written out at most."""
HIDDEN = ("batch", "length", "hidden")
"""What the axes of h count."""


class Cache(NamedTuple):
    """What n strings have read so far, with room for M - 1 symbols each: the last place is that of
    padding.

    Attributes:
      read: how many symbols [n] int32.
      keys: [n, N, key heads, W, M], or of layers that are written out a tuple of N without that
        axis; that of the symbol at place m stands at m, and what stands behind `read` is nothing.
        The places come last, as a product with a query reads them.
      values: [n, N, key heads, M, W], likewise.
    """

    read: Array
    keys: Array | tuple[Array, ...]
    values: Array | tuple[Array, ...]


def rewind(cache: Cache, count: Array) -> Cache:
    """Without the last `count` [n] symbols; contract.Rewind."""
    return cache._replace(read=cache.read - count)


class Network(NamedTuple):
    """The network of a `Decoder` config, as pure functions.

    Attributes:
      init: (key) -> params.
      hidden: (params, x [B, L], document=None, key=None) -> (h [B, L, D] after the last norm,
        info): place t has read x_<=t, and of its own document alone where `document` [B, L] says
        which that is, 0 none. With a key, of dropout, it is in training. Info has what experts
        say, the means over layers of `balance` and `dropped`; it is empty without any.
      head: (params, h [..., D]) -> logits [..., V] float32.
      logits: head of hidden.
      cache: (n, length) -> the cache of n strings of which nothing has been read.
      ready: (params) -> the same as `extend` reads them soonest: to be asked for before a loop, for
        on a CPU each symbol would take its layers' weights out of their stack, by copying them.
      extend: (params, cache, x [n, S]) -> (logits [n, S, V], cache), as contract.Extend has it.
    """

    init: Callable[[Key], Params]
    hidden: Callable[..., tuple[Array, dict[str, Array]]]
    head: Callable[[Params, Array], Array]
    logits: Callable[..., Array]
    cache: Callable[[int, int], Cache]
    ready: Callable[[Params], Params]
    extend: Callable[[Params, Cache, Array], tuple[Array, Cache]]


def network(config: Decoder) -> Network:
    """The network that a config describes."""
    c, dtype = config, jnp.dtype(config.dtype)
    radians = positions.frequencies(
        *(c.of_head, c.rotary_base, c.rotary_factor),
        *(c.rotary_low, c.rotary_high, c.rotary_context),
    )
    slopes = positions.slopes(c.heads) if c.position == "alibi" else None

    def init(key: Key) -> Params:
        table = tensors(c)
        leaves, tree = jax.tree.flatten(table, is_leaf=lambda leaf: isinstance(leaf, Tensor))
        keys = jax.random.split(key, len(leaves))
        return jax.tree.unflatten(tree, map(Tensor.start, leaves, keys))

    # --------------------------------------------------------------------------------- one block

    def norm(p: Params, h: Array) -> Array:
        if c.norm == "rms":
            return linear.rms_norm(h, p["scale"], c.epsilon)
        return linear.layer_norm(h, p["scale"], p.get("bias"), c.epsilon)

    def dense(p: Params, x: Array, axes: int = 1) -> Array:
        return product(x, p["kernel"], p.get("bias"), axes)

    def drop(x: Array, key: Key | None) -> Array:
        if key is None or not c.dropout:
            return x
        kept = jax.random.bernoulli(key, 1 - c.dropout, x.shape)
        return jnp.where(kept, x / (1 - c.dropout), 0)

    def attention(p: Params, a: Array, places: Array, look: Callable[..., Array]) -> Array:
        """a [B, S, D] at places [B, S] -> [B, S, D]; look: (q, k, v) -> what q sees."""
        q, k, v = (dense(p[name], a).swapaxes(1, 2) for name in ("query", "key", "value"))
        if c.position == "rotary":
            q, k = (positions.rotate(each, places, radians, c.rotary_layout) for each in (q, k))
        q = constrain(q, ("batch", "heads", "length", "head_width"))
        k, v = (constrain(each, ("batch", "key_heads", "length", "head_width")) for each in (k, v))
        return dense(p["out"], look(q, k, v).swapaxes(1, 2), axes=2)

    def inner(up: Callable[[str], Array]) -> Array:
        act = ACTIVATIONS[c.activation]
        return act(up("gate")) * up("up") if c.gated else act(up("up"))

    def mlp(p: Params, a: Array, training: bool, counted: Array | None):
        """a [B, S, D] -> ([B, S, D], what experts say of it)."""
        if not c.experts:
            own = p["mlp"]
            made = inner(lambda name: dense(own[name], a))
            return dense(own["down"], constrain(made, ("batch", "length", "inner"))), {}
        own = p["experts"]
        each = lambda x, name: jnp.matmul(x, own[name]["kernel"].astype(x.dtype))
        routed = experts.route(
            *(a.reshape(-1, c.width), own["router"]["kernel"]),
            lambda x: each(inner(lambda name: each(x, name)), "down"),
            c.experts_per_token,
            c.capacity if training else 0.0,
            None if counted is None else counted.reshape(-1),
        )
        return routed.y.reshape(a.shape), {"balance": routed.balance, "dropped": routed.dropped}

    def block(
        p: Params,
        h: Array,
        places: Array,
        look: Callable[..., Array],
        key: Key | None = None,
        counted: Array | None = None,
    ) -> tuple[Array, dict[str, Array]]:
        """h [B, S, D] -> (h [B, S, D], what experts say)."""
        first, second = (None, None) if key is None else jax.random.split(key)
        a = norm(p["attention_norm"], h)
        seen = drop(attention(p["attention"], a, places, look), first)
        if not c.parallel:
            h = h + seen
        b = norm(p["mlp_norm"], h) if c.norms == 2 else a
        made, info = mlp(p, b, key is not None, counted)
        h = h + drop(made, second)
        return constrain(h + seen if c.parallel else h, HIDDEN), info

    # --------------------------------------------------------------------------- the whole of it

    def embed(params: Params, x: Array, places: Array) -> Array:
        # Each device looks up its own examples in whole rows, not all of them in its part of each.
        row_of = lambda name, kernel: constrain(kernel, (name, None))
        h = row_of("vocabulary", params["embedding"]["kernel"])[x]
        if c.position == "learnt":
            h = h + row_of("positions", params["positions"]["kernel"])[places]
        return constrain(h.astype(dtype), HIDDEN)

    def hidden(
        params: Params, x: Array, document: Array | None = None, key: Key | None = None
    ) -> tuple[Array, dict[str, Array]]:
        places = jnp.arange(x.shape[1])[None] if document is None else places_of(document)
        of_embedding, of_layers = None, None
        if key is not None:
            of_embedding, key = jax.random.split(key)
            of_layers = jax.random.split(key, c.layers)
        h = drop(embed(params, x, places), of_embedding)
        counted = None if document is None else document > 0

        def one(h: Array, now: tuple[Params, Key | None]) -> tuple[Array, dict[str, Array]]:
            p, own = now
            of_weights, of_branches = (None,) * 2 if own is None else jax.random.split(own)

            def look(q: Array, k: Array, v: Array) -> Array:
                return attend(
                    *(q, k, v),
                    causal=True,
                    window=c.window,
                    documents=document,
                    slopes=slopes,
                    dropout=c.dropout,
                    key=of_weights,
                )

            return block(p, h, places, look, of_branches, counted)

        body = jax.checkpoint(one, prevent_cse=False) if c.remat else one
        h, info = jax.lax.scan(body, h, (params["blocks"], of_layers), unroll=unrolled(c.layers))
        return norm(params["final_norm"], h), jax.tree.map(jnp.mean, info)

    def head(params: Params, h: Array) -> Array:
        kernel = params["embedding"]["kernel"].T if c.tied else params["head"]["kernel"]
        found = jnp.matmul(h, kernel.astype(h.dtype), preferred_element_type=jnp.float32)
        if found.ndim == 3:
            found = constrain(found, ("batch", "length", "vocabulary"))
        return found[..., : c.vocabulary]

    def logits(
        params: Params, x: Array, document: Array | None = None, key: Key | None = None
    ) -> Array:
        return head(params, hidden(params, x, document, key)[0])

    # ------------------------------------------------------------------------ symbol after symbol

    def cache(n: int, length: int) -> Cache:
        def empty(*shape: int) -> Array | tuple[Array, ...]:
            if is_written_out(c.layers):
                return tuple(jnp.zeros((n, *shape), dtype) for _ in range(c.layers))
            return jnp.zeros((n, c.layers, *shape), dtype)

        # One place more is where padding goes: what may be dropped must be copied first.
        keys = empty(c.of_keys, c.of_head, length + 1)
        return Cache(jnp.zeros(n, jnp.int32), keys, empty(c.of_keys, length + 1, c.of_head))

    def ready(params: Params) -> Params:
        if not is_written_out(c.layers) or isinstance(params["blocks"], tuple):
            return params
        layer = lambda i: jax.tree.map(lambda leaf: leaf[i], params["blocks"])
        return {**params, "blocks": tuple(map(layer, range(c.layers)))}

    def extend(params: Params, cache: Cache, x: Array) -> tuple[Array, Cache]:
        room = jax.tree.leaves(cache.keys)[0].shape[-1]
        read = jnp.asarray(x) >= 0
        places = cache.read[:, None] + jnp.cumsum(read, axis=1) - 1
        slots = jnp.where(read, jnp.minimum(places, room - 1), room - 1)
        behind = places[:, None, :, None] - jnp.arange(room)
        visible = behind >= 0
        if c.window:
            visible &= behind < c.window

        def layer(p: Params, h: Array, keys: Array, values: Array, *at: Array):
            """(h, keys, values), written where they are: all layers' in one, of which this is at
            i, or this layer's own."""
            kept = [keys, values]

            def look(q: Array, k: Array, v: Array) -> Array:
                kept[0] = _put(kept[0], k.swapaxes(2, 3), slots, 3, at)
                kept[1] = _put(kept[1], v, slots, 2, at)
                own_keys, own_values = (each[:, at[0]] if at else each for each in kept)
                return attend(q, own_keys.swapaxes(-1, -2), own_values, mask=visible, slopes=slopes)

            h, _ = block(p, h, places, look, counted=read)
            return h, *kept

        h: Any = embed(params, jnp.maximum(x, 0), places)
        now: Any = (h, cache.keys, cache.values)
        if isinstance(cache.keys, tuple):
            made = []
            blocks = ready(params)["blocks"]
            for p, k, v in zip(blocks, cache.keys, cache.values, strict=True):
                h, *kept = layer(p, h, k, v)
                made.append(kept)
            now = (h, *zip(*made, strict=True))
        else:
            of = lambda now, each: (layer(each[0], *now, each[1]), None)
            layers = (params["blocks"], jnp.arange(c.layers))
            now, _ = jax.lax.scan(of, now, layers)
        h, keys, values = now
        found = head(params, norm(params["final_norm"], h))
        return found, Cache(cache.read + jnp.sum(read, axis=1), keys, values)

    return Network(init, hidden, head, logits, cache, ready, extend)


def _put(old: Array, new: Array, slots: Array, axis: int, at: tuple[Array, ...]) -> Array:
    """A cache with new entries at their slots.

    Args:
      old: [n, K, ..., M, ...], or [n, N, K, ..., M, ...] of all layers, of which `at` says which.
      new: [n, K, ..., S, ...].
      slots: [n, S] places 0 .. M - 1.
      axis: of S, 2 or 3.
    """
    new = new.astype(old.dtype)
    if slots.size == 1:
        # One symbol of one string is written in its place, and once: a scatter copies all of it
        # first, and what is not written down is worked out for each that reads it, in a copy.
        begin: list[Any] = [0, *at, 0, 0, 0]
        begin[len(at) + axis] = slots[0, 0]
        new = new[:, None] if at else new
        return linear.row_major(jax.lax.dynamic_update_slice(old, new, begin))
    strings = jnp.arange(len(slots))[:, None]
    where = (strings, *at, *(slice(None),) * (axis - 1), slots)
    return old.at[where].set(jnp.moveaxis(new, axis, 1), mode="promise_in_bounds")


def is_written_out(layers: int) -> bool:
    """Whether all layers are written out one after another, and none is left to a loop."""
    return unrolled(layers) == layers


def unrolled(layers: int) -> int:
    """How many layers are written out in one turn of the scan.

    All of a few on a CPU: in a loop each turn copies what it keeps for the gradient to its place
    among all layers', a third of a step. Elsewhere, and of many, a loop compiles sooner.
    """
    return layers if jax.default_backend() == "cpu" and layers <= MOST_UNROLLED else 1


def places_of(document: Array) -> Array:
    """The place of each symbol in its own document, counted from 0: [B, L] of numbers [B, L]."""
    at = jnp.arange(document.shape[1])
    return at - jax.lax.cummax(jnp.where(first_of(document), at, 0), axis=1)


def first_of(document: Array) -> Array:
    """Which places [B, L] bool begin a document."""
    changed = document[:, 1:] != document[:, :-1]
    return jnp.concatenate([jnp.ones_like(document[:, :1], bool), changed], axis=1)
