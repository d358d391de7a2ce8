"""Recurrent networks: cells, and layers of them along time, as pure functions.

Floor 2. A cell sees a = W x + b, which is one product over all times, and r = U h + c, which must
wait for its turn; what it makes of them is elementwise:

    Elman   h' = tanh(a + r)                                          Elman 1990
    LSTM    c' = σ(f) c + σ(i) tanh(g),  h' = σ(o) tanh(c')           Hochreiter & Schmidhuber 1997,
            (i, f, g, o) = a + r                                      forget gate: Gers et al. 2000
    GRU     h' = (1 - σ(z)) tanh(a_n + σ(s) r_n) + σ(z) h             Cho et al. 2014, the reset
            (s, z) = a + r but for n                                  gate after U, as in cuDNN

a of all times is one product before the loop. (One for the gradient of U after it, by a custom_vjp,
was no faster on a CPU than what jax makes of the loop: LSTM of 128 to 512 units, 0.9 to 1.1 times.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from genjax_zoo.contract import Array, Key

Cells = tuple[Array, ...]
"""What a layer remembers: h [n, H], and of an LSTM c [n, H]."""
Params = Any


class Cell(NamedTuple):
    """What happens at one time.

    Attributes:
      gates: G, how many numbers of a and of r there are for each of H units.
      remembers: how many arrays [n, H] it keeps, h the first of them.
      update: (a [n, G H], r [n, G H], cells) -> the next cells.
      open: the gate whose bias begins at 1 (that of forgetting), or -1.
      second_bias: whether r has a bias of its own; where a and r are only added it would be idle.
    """

    gates: int
    remembers: int
    update: Callable[[Array, Array, Cells], Cells]
    open: int = -1
    second_bias: bool = False


def _elman(a: Array, r: Array, cells: Cells) -> Cells:
    return (jnp.tanh(a + r),)


def _lstm(a: Array, r: Array, cells: Cells) -> Cells:
    i, f, g, o = jnp.split(a + r, 4, axis=-1)
    c = jax.nn.sigmoid(f) * cells[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def _gru(a: Array, r: Array, cells: Cells) -> Cells:
    (a_s, a_z, a_n), (r_s, r_z, r_n) = (jnp.split(part, 3, axis=-1) for part in (a, r))
    z = jax.nn.sigmoid(a_z + r_z)
    new = jnp.tanh(a_n + jax.nn.sigmoid(a_s + r_s) * r_n)
    return ((1 - z) * new + z * cells[0],)


CELLS: Mapping[str, Cell] = {
    "elman": Cell(1, 1, _elman),
    # Jozefowicz et al. 2015: a forget gate that begins open lets gradients through.
    "lstm": Cell(4, 2, _lstm, open=1),
    "gru": Cell(3, 1, _gru, second_bias=True),
}


class Masks(NamedTuple):
    """What a layer does with its cells at each time: [T, n] bool each.

    Attributes:
      keep: whether it goes on with what it remembers; otherwise it begins anew, with zeros.
      back: whether gradients go back through what it remembers.
      read: whether it reads at all; what is not read changes nothing but by `keep`.
    """

    keep: Array
    back: Array
    read: Array


class Recurrent(NamedTuple):
    """Layers of one kind of cell.

    Attributes:
      init: (key, inputs) -> params; inputs is how many numbers there are at each time.
      start: n -> state, the cells of every layer, zeros.
      read: (params, state, x [n, T, inputs], masks, drop) -> (h of the last layer [n, T, H],
        state): `drop` is what is done to the inputs of each layer (l, x) -> x, such as dropout.
    """

    init: Callable[[Key, int], Params]
    start: Callable[[int], tuple[Cells, ...]]
    read: Callable[..., tuple[Array, tuple[Cells, ...]]]


def recurrent(cell: str, layers: int, width: int) -> Recurrent:
    """A network of `layers` layers of `width` units each.

    Args:
      cell: a name in `CELLS`.
      layers: each reads the h of the one below.
      width: H.
    """
    kind, H = CELLS[cell], width
    G = kind.gates * H

    def init(key: Key, inputs: int) -> Params:
        """Kernels of variance 1 / fan-in, those of U orthogonal (Saxe et al. 2014) gate by gate."""
        found = []
        for l, own in enumerate(jax.random.split(key, layers)):
            key_in, key_back = jax.random.split(own)
            size = inputs if l == 0 else H
            orthogonal = jax.nn.initializers.orthogonal()
            gates = [orthogonal(k, (H, H)) for k in jax.random.split(key_back, kind.gates)]
            bias = jnp.zeros((kind.gates, H)).at[kind.open].add(kind.open >= 0)
            back = {"kernel": jnp.concatenate(gates, axis=1)}
            if kind.second_bias:
                back["bias"] = jnp.zeros(G)
            into = {
                "kernel": jax.random.normal(key_in, (size, G)) / math.sqrt(size),
                "bias": bias.reshape(-1),
            }
            found.append({"input": into, "recurrent": back})
        return tuple(found)

    def start(n: int) -> tuple[Cells, ...]:
        return tuple(tuple(jnp.zeros((n, H)) for _ in range(kind.remembers)) for _ in range(layers))

    def read(
        params: Params,
        state: tuple[Cells, ...],
        x: Array,
        masks: Masks,
        drop: Callable[[int, Array], Array] = lambda l, x: x,
    ) -> tuple[Array, tuple[Cells, ...]]:
        h, after = jnp.swapaxes(x, 0, 1), []
        for l, (own, cells) in enumerate(zip(params, state, strict=True)):
            h = drop(l, h)
            a = h @ own["input"]["kernel"] + own["input"]["bias"]
            every = unrolled(kind, own["recurrent"], a, cells, masks)
            h = every[0]
            after.append(tuple(each[-1] for each in every))
        return jnp.swapaxes(h, 0, 1), tuple(after)

    return Recurrent(init, start, read)


# --------------------------------------------------------------------------------- through time


def unrolled(cell: Cell, params: Params, a: Array, cells: Cells, masks: Masks) -> Cells:
    """One layer through time: its cells after each time, [T, n, H] each.

    Args:
      cell: what happens at one time.
      params: U [H, G H] as `kernel`, and c [G H] as `bias` where there is one.
      a: what comes from below [T, n, G H].
      cells: before the first time [n, H].
      masks: at each time.
    """
    kernel, bias = params["kernel"], params.get("bias", 0.0)

    def one(cells: Cells, now: tuple[Array, Masks]) -> tuple[Cells, Cells]:
        a, (keep, back, read) = now
        where = lambda mask, these, those: jax.tree.map(
            lambda a, b: jnp.where(mask[:, None], a, b), these, those
        )
        kept = where(back, cells, jax.lax.stop_gradient(cells))
        kept = where(keep, kept, jax.tree.map(jnp.zeros_like, cells))
        after = where(read, cell.update(a, kept[0] @ kernel + bias, kept), kept)
        return after, after

    return jax.lax.scan(one, cells, (a, masks))[1]
