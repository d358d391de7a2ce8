"""Decoding: strings written symbol after symbol by an `Autoregression`, with a cache.

Floor 1. A cache of fixed size is read into and written from in a `lax.while_loop`, which ends where
every string has met a stop symbol. What is drawn at place t depends on the key and t alone, so that
reading everything again for each symbol would write the same, and so does stopping in between:

    begin     reads the prompts
    go_on     writes up to a place, from wherever the strings have come to
    write     both, to the end

    warping.py      what becomes of the logits before a symbol is drawn
    beam.py         the likeliest string, as far as a beam of W sees
    speculative.py  a draft writes, the target corrects

Prompts of different lengths make one batch: what is below 0 is padding, which `extend` does not
read, and a string that has ended goes on with padding. A symbol is read when the next one is asked
for, and the last one of all never.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from genjax_zoo.contract import NOTHING, Array, Autoregression, Batch, DataError, Key, State
from genjax_zoo.maths.sequences.warping import AS_IT_SAYS, Decoding, warp

PADDING = -1
"""What is no symbol; everything below 0 is none."""


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


class Reading(NamedTuple):
    """How far a model has read n strings.

    Attributes:
      cache: of what has been read.
      unread: symbols [n, U] that come next; padding where there are none.
      logits: of the next symbol [n, V], as far as nothing is unread.
    """

    cache: Any
    unread: Array
    logits: Array


class Writing(NamedTuple):
    """How far n strings have been written.

    Attributes:
      reading: by the model, with U = 1.
      seen: which symbols were read or written [n, V] bool.
      done: which strings have met a stop symbol [n] bool.
      t: how many symbols each has that is not done [] int32.
      written: what stands there.
    """

    reading: Reading
    seen: Array
    done: Array
    t: Array
    written: Written


def write(
    key: Key,
    model: Autoregression,
    state: State,
    n: int,
    length: int,
    rules: Decoding = AS_IT_SAYS,
    prompt: Array | None = None,
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
      prompt: how they begin [n, P]; padding below 0 may stand at either side and in between.
      given: whatever else the model's `start` is told.
    """
    writing = begin(model, state, n, length, prompt, given)
    return go_on(key, model, state, writing, length, rules).written


def begin(
    model: Autoregression,
    state: State,
    n: int,
    length: int,
    prompt: Array | None = None,
    given: Batch = NOTHING,
    room: int | None = None,
) -> Writing:
    """Reads the prompts; as of `write`.

    Args:
      room: how many symbols of each string can be read; by default all of its prompt and of what is
        written, but the last.

    Raises DataError for prompts of another shape, and for symbols, as far as they can be seen (not
    traced), that are none of the vocabulary.
    """
    reading, seen = read_prompt(model, state, n, length, prompt, given, room)
    return Writing(reading, seen, jnp.zeros(n, bool), jnp.int32(0), nothing(n, length))


def go_on(
    key: Key,
    model: Autoregression,
    state: State,
    writing: Writing,
    until: Array | int,
    rules: Decoding = AS_IT_SAYS,
) -> Writing:
    """Writes on until every string has `until` symbols, of L at most, or has met a stop symbol.

    The same is written at once and in parts, if key and rules are the same.
    """
    until, state = jnp.minimum(until, writing.written.x.shape[1]), model.readied(state)

    def unfinished(w: Writing) -> Array:
        return (w.t < until) & ~jnp.all(w.done)

    def one(w: Writing) -> Writing:
        logits, cache = read_on(model, state, w.reading)
        drawn_of = jax.nn.log_softmax(warp(rules, logits, w.seen))
        x = jax.random.categorical(jax.random.fold_in(key, w.t), drawn_of)
        x = jnp.where(w.done, PADDING, x).astype(jnp.int32)
        new = Written(x, ~w.done, of_symbols(logits, x), of_symbols(drawn_of, x))
        put = lambda old, now: old.at[:, w.t].set(jnp.where(w.done, jnp.zeros_like(now), now))
        return Writing(
            Reading(cache, x[:, None], logits),
            also_seen(w.seen, x[:, None]),
            w.done | stops(rules, x),
            w.t + 1,
            Written(*map(put, w.written, new)),
        )

    return jax.lax.while_loop(unfinished, one, writing)


# ------------------------------------------------------------------------------------ its parts


def read_prompt(
    model: Autoregression,
    state: State,
    n: int,
    length: int,
    prompt: Array | None,
    given: Batch = NOTHING,
    room: int | None = None,
) -> tuple[Reading, Array]:
    """What stands after the prompts, and which symbols they have [n, V]; as of `begin`."""
    prompt = jnp.zeros((n, 0), jnp.int32) if prompt is None else prompt
    if prompt.ndim != 2 or len(prompt) != n:
        raise DataError(f"a prompt should be [{n}, P] symbols, got {list(prompt.shape)}.")
    room = max(prompt.shape[1] + length - 1, 1) if room is None else room
    logits, cache = model.start(state, n, room, given)
    vocabulary = logits.shape[-1]
    wrong = prompt >= vocabulary
    if not isinstance(wrong, jax.core.Tracer) and bool(wrong.any()):
        raise DataError(
            f"a prompt should hold symbols 0 .. {vocabulary - 1}, and {int(prompt[wrong][0])} is "
            "none; encode it by the vocabulary that the model learnt."
        )
    reading = Reading(cache, jnp.asarray(prompt, jnp.int32), logits)
    seen = also_seen(jnp.zeros(logits.shape, bool), reading.unread)
    logits, cache = read_on(model, state, reading)
    return Reading(cache, jnp.full((n, 1), PADDING, jnp.int32), logits), seen


def read_on(model: Autoregression, state: State, reading: Reading) -> tuple[Array, Any]:
    """(logits [n, V] of what follows all that was unread, cache)."""
    cache, unread, logits = reading
    if not unread.shape[1]:
        return logits, cache
    after, cache = model.extend(state, cache, unread)
    return following(after, unread, logits), cache


def following(after: Array, x: Array, before: Array) -> Array:
    """The logits [n, V] after the last symbol of x [n, S]; those from before where there is none.

    Args:
      after: logits after each [n, S, V], any numbers where x is padding.
      x: symbols, or padding below 0.
      before: logits [n, V] before x.
    """
    S = x.shape[1]
    last = jnp.max(jnp.where(x < 0, -1, jnp.arange(S)), axis=1)
    found = jnp.take_along_axis(after, jnp.maximum(last, 0)[:, None, None], axis=1)[:, 0]
    return jnp.where((last < 0)[:, None], before, found)


def also_seen(seen: Array, x: Array) -> Array:
    """Which symbols were seen [n, V], those of x [n, S] among them; padding is none."""
    n, vocabulary = seen.shape
    at = jnp.where(x < 0, vocabulary, x)
    return seen.at[jnp.arange(n)[:, None], at].set(True, mode="drop")


def strings(cache: Any, rows: Array) -> Any:
    """The cache of the strings `rows` [m], each as often as it stands there."""
    return jax.tree.map(lambda leaf: leaf[rows], cache)


def nothing(n: int, length: int) -> Written:
    """n strings of which nothing is written yet."""
    zeros = jnp.zeros((n, length))
    return Written(zeros.astype(jnp.int32), zeros.astype(bool), zeros, zeros)


def of_symbols(logits: Array, x: Array) -> Array:
    """log p of symbols x [...] under logits [..., V]; any number where x is padding."""
    at = jnp.maximum(x, 0)[..., None]
    return jnp.take_along_axis(jax.nn.log_softmax(logits), at, axis=-1)[..., 0]


def stops(rules: Decoding, x: Array) -> Array:
    """Which symbols [...] end a string."""
    return jnp.isin(x, jnp.array(rules.stop, jnp.int32)) if rules.stop else jnp.zeros(x.shape, bool)
