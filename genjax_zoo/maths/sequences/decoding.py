"""Decoding: strings written symbol after symbol by an `Autoregression`, with a cache.

Floor 1. A cache of fixed size is read into and written from in a `lax.while_loop`, which ends where
every string has met a stop symbol. What is drawn at place t depends on the key and t alone, so that
reading everything again for each symbol would write the same.

    warping.py      what becomes of the logits before a symbol is drawn
    beam.py         the likeliest string, as far as a beam of W sees
    speculative.py  a draft writes, the target corrects

The contract's `extend` reads S symbols of every string. Prompts of different lengths are therefore
read by `by_string`, where each string has a cache of its own, and a symbol of padding is not read:
the next place of a string is what it has read, and not what stands before it in the batch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from genjax_zoo.contract import NOTHING, Array, Autoregression, Batch, DataError, Key, State
from genjax_zoo.maths.sequences.warping import AS_IT_SAYS, Decoding, warp


class Prompt(NamedTuple):
    """The beginning of each string.

    Attributes:
      x: [n, P] int32 symbols.
      mask: [n, P], 1 where one is to be read; padding, at whatever side, may be any number. None
        where all are, which is read at once.
    """

    x: Array
    mask: Array | None = None


class Written(NamedTuple):
    """What was written after a prompt, by n strings of L symbols at most.

    Attributes:
      x: [n, L] int32; 0 where nothing was written.
      mask: 1 where a symbol was written, a stop symbol among them [n, L].
      log_prob: log p(x_t | x_<t) under the model [n, L] nats; 0 where nothing was written.
      log_rule: the same under what it was drawn of, after all rules: 0 for a greedy one.
    """

    x: Array
    mask: Array
    log_prob: Array
    log_rule: Array


def write(
    key: Key,
    model: Autoregression,
    state: State,
    n: int,
    length: int,
    rules: Decoding = AS_IT_SAYS,
    prompt: Prompt | None = None,
    given: Batch = NOTHING,
) -> Written:
    """Writes n strings.

    Args:
      key: of the draws; a greedy rule ignores it.
      model: what is written by.
      state: of the model.
      n: how many strings.
      length: L, how many symbols of each at most, beside its prompt.
      rules: by which they are written.
      prompt: how they begin.
      given: whatever else the model's `start` is told.
    """
    begun = begin(model, state, n, length, prompt, given)
    vocabulary = begun.logits.shape[-1]

    def unfinished(carry: tuple[Array, Reading, Array, Written]) -> Array:
        t, _, done, _ = carry
        return (t < length) & ~jnp.all(done)

    def one(carry: tuple[Array, Reading, Array, Written]):
        t, reading, done, written = carry
        drawn_of = jax.nn.log_softmax(warp(rules, reading.logits, reading.seen))
        x = jax.random.categorical(jax.random.fold_in(key, t), drawn_of)
        x = jnp.where(done, 0, x).astype(jnp.int32)
        new = Written(x, ~done, of_symbols(reading.logits, x), of_symbols(drawn_of, x))
        put = lambda old, now: old.at[:, t].set(jnp.where(done, jnp.zeros_like(now), now))
        written = Written(*map(put, written, new))
        logits, cache = begun.model.extend(state, reading.cache, x[:, None])
        seen = reading.seen | (jax.nn.one_hot(x, vocabulary, dtype=bool) & ~done[:, None])
        return t + 1, Reading(logits[:, -1], cache, seen), done | stops(rules, x), written

    reading = Reading(begun.logits, begun.cache, begun.seen)
    start = (jnp.int32(0), reading, jnp.zeros(n, bool), nothing(n, length))
    return jax.lax.while_loop(unfinished, one, start)[-1]


# ------------------------------------------------------------------------------------ its parts


class Reading(NamedTuple):
    """How far each string has come.

    Attributes:
      logits: of the next symbol [n, V].
      cache: of the model.
      seen: which symbols were read [n, V] bool.
    """

    logits: Array
    cache: Any
    seen: Array


class Begun(NamedTuple):
    """The same, with the model that goes on from there: of its own, or `by_string`."""

    logits: Array
    cache: Any
    seen: Array
    model: Autoregression


def begin(
    model: Autoregression,
    state: State,
    n: int,
    length: int,
    prompt: Prompt | None = None,
    given: Batch = NOTHING,
    apart: bool = False,
) -> Begun:
    """Reads the prompts; the cache has room for `length` symbols after them.

    With `apart`, or prompts that have a mask, the model is taken `by_string`.

    Raises DataError for prompts of another shape, and for symbols, as far as they can be seen (not
    traced), that are none of the vocabulary.
    """
    if apart or (prompt is not None and prompt.mask is not None):
        model = by_string(model)
    if prompt is None:
        logits, cache = model.start(state, n, length, given)
        return Begun(logits, cache, jnp.zeros(logits.shape, bool), model)
    x, mask = prompt
    if x.ndim != 2 or len(x) != n or (mask is not None and mask.shape != x.shape):
        shapes = [list(x.shape)] + ([] if mask is None else [list(mask.shape)])
        raise DataError(
            f"a prompt should be [{n}, P] symbols, with a mask of the same shape or none, got "
            f"{' and '.join(map(str, shapes))}."
        )
    read = jnp.ones(x.shape, bool) if mask is None else jnp.asarray(mask) > 0
    logits, cache = model.start(state, n, x.shape[1] + length, given)
    vocabulary = logits.shape[-1]
    wrong = read & ((x < 0) | (x >= vocabulary))
    if not isinstance(wrong, jax.core.Tracer) and bool(wrong.any()):
        raise DataError(
            f"a prompt should hold symbols 0 .. {vocabulary - 1}, and {int(x[wrong][0])} is none; "
            "encode it by the vocabulary that the model learnt."
        )
    x = jnp.where(read, x, 0).astype(jnp.int32)
    seen = jnp.any(jax.nn.one_hot(x, vocabulary, dtype=bool) & read[..., None], axis=1)
    if mask is not None:
        logits, cache = read_where(model, state, logits, cache, x, read)
    elif x.shape[1]:
        after, cache = model.extend(state, cache, x)
        logits = after[:, -1]
    return Begun(logits, cache, seen, model)


def by_string(model: Autoregression) -> Autoregression:
    """The same model, with a cache of each string's own: every leaf of it has n as leading axis.

    Strings can then be read unevenly, left out and put in another order, whatever a cache is: where
    it counts what it has read, that is counted string by string. It costs what batched positions
    cost.
    """

    def start(state: State, n: int, length: int, given: Batch = NOTHING) -> tuple[Array, Any]:
        each = {name: value for name, value in given.items() if value is not None}
        one = lambda own: model.start(
            state, 1, length, {name: value[None] for name, value in own.items()}
        )
        spread = {
            name: jnp.broadcast_to(value, (n, *jnp.shape(value)[1:]) if jnp.ndim(value) else (n,))
            for name, value in each.items()
        }
        logits, cache = jax.vmap(one, axis_size=n)(spread)
        return logits[:, 0], cache

    def extend(state: State, cache: Any, x: Array) -> tuple[Array, Any]:
        one = lambda cache, x: model.extend(state, cache, x[None])
        logits, cache = jax.vmap(one)(cache, x)
        return logits[:, 0], cache

    return Autoregression(start, extend)


def choose(where: Array, these: Any, those: Any) -> Any:
    """Of two pytrees whose leaves are [n, ...], the strings of one where [n], else of the other."""
    pick = lambda a, b: jnp.where(where.reshape(-1, *[1] * (a.ndim - 1)), a, b)
    return jax.tree.map(pick, these, those)


def read_where(
    model: Autoregression, state: State, logits: Array, cache: Any, x: Array, read: Array
) -> tuple[Array, Any]:
    """(logits [n, V], cache) after the symbols of x [n, S] for which `read` [n, S] says so.

    Args:
      model: `by_string`.
      state: of the model.
      logits, cache: before them.
      x, read: symbols, column after column; what is not read changes nothing.
    """

    def column(before: tuple[Array, Any], now: tuple[Array, Array]):
        x, read = now
        logits, cache = model.extend(state, before[1], x[:, None])
        return choose(read, (logits[:, 0], cache), before), None

    return jax.lax.scan(column, (logits, cache), (x.T, read.T))[0]


def nothing(n: int, length: int) -> Written:
    """n strings of which nothing is written yet."""
    zeros = jnp.zeros((n, length))
    return Written(zeros.astype(jnp.int32), zeros.astype(bool), zeros, zeros)


def of_symbols(logits: Array, x: Array) -> Array:
    """log p of symbols x [...] under logits [..., V]."""
    return jnp.take_along_axis(jax.nn.log_softmax(logits), x[..., None], axis=-1)[..., 0]


def stops(rules: Decoding, x: Array) -> Array:
    """Which symbols [...] end a string."""
    return jnp.isin(x, jnp.array(rules.stop, jnp.int32)) if rules.stop else jnp.zeros(x.shape, bool)
