"""N-grams: how often w followed the k symbols u, and the probability that is made of it.

Floor 1. ⊥ stands before each string: its first symbol, its second, ... up to the k-th have counts
of their own. With c(u w) the count of w after u, V symbols in all, and a dot for the sum over what
stands there:

    additive      p(w | u) = (c(u w) + α) / (c(u ·) + α V)                   α = 1 is Laplace's
    Kneser-Ney    p(w | u) = [(c(u w) - D)+ + D N(u ·) q(w | u')] / c(u ·)    u' lacks u's oldest

where N(u ·) says how many symbols have followed u, and q is the same formula of counts of another
kind: how many symbols, ⊥ among them, were seen before u' w. Below all of it q is uniform. Kneser &
Ney 1995, interpolated as in Chen & Goodman 1998, section 4.1.6, with one discount D.

    dense   a number for each of V^(k+1) strings of symbols, whether it occurs or not
    sparse  those that occur, sorted, each with its count

Both are exact and say the same. Contexts are [..., k] symbols, -1 (⊥) where there were none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax_zoo.contract import Array


class Smoothing(NamedTuple):
    """What is made of counts.

    Attributes:
      name: "additive" or "kneser_ney".
      alpha: α.
      discount: D.
      repeats: what counts are divided by before all else: how often each place was read.
    """

    name: Literal["additive", "kneser_ney"]
    alpha: float
    discount: float
    repeats: float


class Table(NamedTuple):
    """A way to keep counts, and probabilities.

    Attributes:
      tally: (contexts [N, k], symbols [N], weight [N], 0 or 1) -> counts of those.
      add: (counts, counts) -> counts of both.
      nothing: () -> the counts of no symbol.
      smoothed: counts -> what `of` and `row` read.
      of: (smoothed, contexts [..., k], symbols [...]) -> log p(w | u) [...] nats.
      row: (smoothed, contexts [..., k]) -> log p(· | u) [..., V].
      left_out: counts -> how many symbols were read for which there was no room.
    """

    tally: Callable[[Array, Array, Array], Any]
    add: Callable[[Any, Any], Any]
    nothing: Callable[[], Any]
    smoothed: Callable[[Any], Any]
    of: Callable[[Any, Array, Array], Array]
    row: Callable[[Any, Array], Array]
    left_out: Callable[[Any], Array]


def additive(smoothing: Smoothing, counts: Array, total: Array, V: int) -> Array:
    """p of symbols of so many counts, in contexts of so many in `total`, both over `repeats`."""
    return (counts + smoothing.alpha) / (total + smoothing.alpha * V)


def discounted(counts: Array, taken: Array, spread: Array, total: Array, lower: Array) -> Array:
    """[(c - D)+ + Σ min(c, D) q] / Σ c: the mass that is taken is that which q spreads."""
    found = (counts - taken + spread * lower) / jnp.maximum(total, 1e-30)
    return jnp.where(total > 0, found, lower)


# ---------------------------------------------------------------------------------------- dense


def dense(V: int, k: int, smoothing: Smoothing) -> Table:
    """Counts [R, V] float32, exact up to 2^24 each, and log p [R, V], for each of R contexts.

    They are numbered like the nodes of a heap: ⊥ alone is 0, and that of number m with the symbol v
    at its end is V m + 1 + v. Those of k symbols lack ⊥; R = 1 + V + ... + V^k.
    """
    ends = [(V**j - 1) // (V - 1) for j in range(k + 2)]
    """Contexts of j symbols are those from ends[j] to ends[j + 1]."""

    def node(contexts: Array) -> Array:
        found = jnp.zeros(contexts.shape[:-1], jnp.int32)
        for i in range(k):
            symbol = contexts[..., i]
            found = jnp.where(symbol < 0, found, V * found + 1 + symbol)
        return found

    def tally(contexts: Array, symbols: Array, weight: Array) -> Array:
        return nothing().at[node(contexts), symbols].add(weight)

    def nothing() -> Array:
        return jnp.zeros((ends[-1], V))

    def smoothed(counts: Array) -> Array:
        counts = counts / smoothing.repeats
        if smoothing.name == "additive":
            total = jnp.sum(counts, axis=1, keepdims=True)
            return jnp.log(additive(smoothing, counts, total, V))
        return jnp.log(kneser_ney(counts))

    def kneser_ney(counts: Array) -> Array:
        # c(⊥ u w) by the length of u, and c(u w) of those of k symbols
        of_length = [counts[ends[j] : ends[j + 1]] for j in range(k + 1)]
        # N(· u w), of the longest u first: a left symbol counts if it was ever seen there
        left = [of_length[k]]
        for begun in of_length[-2::-1]:
            seen = (left[0] > 0).reshape(V, *begun.shape)
            left.insert(0, jnp.sum(seen, axis=0) + jnp.asarray(begun > 0, jnp.float32))
        q, rows = jnp.full((1, V), 1 / V), []
        for j, begun in enumerate(of_length):
            # Every symbol may be the oldest of u, and is lacking in u'.
            q = rows_of(left[j], jnp.tile(q, (V, 1)) if j else q)
            rows.append(q if j == k else rows_of(begun, q))
        return jnp.concatenate(rows)

    def rows_of(counts: Array, lower: Array) -> Array:
        taken = jnp.minimum(counts, smoothing.discount)
        spread, total = (jnp.sum(each, axis=1, keepdims=True) for each in (taken, counts))
        return discounted(counts, taken, spread, total, lower)

    return Table(
        tally,
        jnp.add,
        nothing,
        smoothed,
        of=lambda log_p, contexts, symbols: log_p[node(contexts), symbols],
        row=lambda log_p, contexts: log_p[node(contexts)],
        left_out=lambda counts: jnp.zeros((), jnp.int32),
    )


# --------------------------------------------------------------------------------------- sparse

EMPTY = np.uint32(2**32 - 1)
"""The words of a place in a table where nothing stands: after all n-grams."""

Words = tuple[Array, ...]
"""N-grams as numbers: each word uint32 [...] holds as many symbols as fit, the last ones the last,
⊥ as 0 and v as v + 1. They are ordered as words in a dictionary are."""


class Counts(NamedTuple):
    """The n-grams that were seen.

    Attributes:
      words: of each, in their order [C]; those of no n-gram last.
      counts: how often [C] int32.
      left_out: how often one was seen for which there was no room [] int32.
    """

    words: Words
    counts: Array
    left_out: Array


class Level(NamedTuple):
    """The n-grams of one length, with what is known of the context of each: [C] all.

    Attributes:
      words: of each, in their order.
      counts: c.
      total: Σ_w c, and
      spread: Σ_w min(c, D), over all w that followed the same context.
    """

    words: Words
    counts: Array
    total: Array
    spread: Array


def sparse(V: int, k: int, smoothing: Smoothing, capacity: int) -> Table:
    """At most `capacity` n-grams, as `Counts`, exact up to 2^31 in all, and a `Level` for each
    length of context (of an additive smoothing the longest alone).

    Where there are more, those that come last in their order are left out, and counted.
    """
    base = V + 1
    fit = next(p for p in range(32, 0, -1) if base**p <= int(EMPTY))
    """How many symbols a word holds."""

    def pack(contexts: Array, symbols: Array) -> Words:
        grams = jnp.concatenate([contexts, symbols[..., None]], axis=-1) + 1
        words: list[Array] = []
        for last in range(k + 1, 0, -fit):
            word = jnp.zeros(symbols.shape, jnp.uint32)
            for i in range(max(last - fit, 0), last):
                word = word * base + grams[..., i].astype(jnp.uint32)
            words.insert(0, word)
        return tuple(words)

    def ending(words: Words, length: int) -> Words:
        """The last `length` symbols of each."""
        *rest, first = range(-1, -1 - math.ceil(length / fit), -1)
        size = np.uint32(base ** (length + fit * (first + 1)))
        return (words[first] % size, *(words[i] for i in reversed(rest)))

    def context(words: Words) -> Words:
        """All symbols but the last."""
        return (*words[:-1], words[-1] // base)

    # ------------------------------------------------------------------------------- counting

    def merged(words: Words, counts: Array, room: int) -> Counts:
        """Each n-gram once, with the sum of its counts."""
        *words_, counts = jax.lax.sort((*words, counts), num_keys=len(words))
        some = words_[0] != EMPTY
        new = some & jnp.concatenate([jnp.ones(1, bool), differ(words_)])
        place = jnp.cumsum(new) - 1
        total = jax.ops.segment_sum(jnp.where(some, counts, 0), place, num_segments=room)
        put = jnp.where(new, place, room)
        kept = tuple(
            jnp.full(room, EMPTY, jnp.uint32).at[put].set(word, mode="drop") for word in words_
        )
        return Counts(kept, total, jnp.sum(jnp.where(some & (place >= room), counts, 0)))

    def tally(contexts: Array, symbols: Array, weight: Array) -> Counts:
        words = tuple(jnp.where(weight > 0, word, EMPTY) for word in pack(contexts, symbols))
        return merged(words, jnp.asarray(weight > 0, jnp.int32), len(symbols))

    def add(a: Counts, b: Counts) -> Counts:
        words = tuple(map(lambda *both: jnp.concatenate(both), a.words, b.words))
        found = merged(words, jnp.concatenate([a.counts, b.counts]), capacity)
        return found._replace(left_out=found.left_out + a.left_out + b.left_out)

    def nothing() -> Counts:
        words = tuple(jnp.full(capacity, EMPTY, jnp.uint32) for _ in range(-(-(k + 1) // fit)))
        return Counts(words, jnp.zeros(capacity, jnp.int32), jnp.zeros((), jnp.int32))

    # ------------------------------------------------------------------------------ smoothing

    def smoothed(counts: Counts) -> tuple[Level, ...]:
        longest = level(counts.words, counts.counts / smoothing.repeats)
        if smoothing.name == "additive":
            return (longest,)
        levels, words = [longest], counts.words
        for length in range(k, 0, -1):
            # N(· u w): every n-gram that is one symbol longer counts once.
            some = words[0] != EMPTY
            shorter = tuple(jnp.where(some, word, EMPTY) for word in ending(words, length))
            room = min(capacity, base**length)
            words, seen, _ = merged(shorter, jnp.asarray(some, jnp.int32), room)
            levels.insert(0, level(words, seen.astype(jnp.float32)))
        return tuple(levels)

    def level(words: Words, counts: Array) -> Level:
        C = len(counts)
        new = jnp.concatenate([jnp.ones(1, bool), differ(context(words))])
        of = jnp.cumsum(new) - 1
        over = lambda each: jax.ops.segment_sum(each, of, num_segments=C)[of]
        spread = over(jnp.minimum(counts, smoothing.discount))
        return Level(words, counts, over(counts), spread)

    # ------------------------------------------------------------------------------ look-ups

    def found_at(level: Level, words: Words) -> tuple[Array, Array, Array]:
        """Where the context of each begins in a level, and its total and spread there; 0 if new."""
        begin = context(words)
        first = place_of(level.words, (*begin[:-1], begin[-1] * base))
        at = jnp.minimum(first, len(level.counts) - 1)
        there = alike(context(tuple(word[at] for word in level.words)), begin)
        return first, jnp.where(there, level.total[at], 0), jnp.where(there, level.spread[at], 0)

    def through(levels: tuple[Level, ...], contexts: Array, at: Callable, words: Words) -> Array:
        """p by all levels, the shortest first.

        `at`: (level, words) -> the counts, total and spread there, which broadcast.
        """
        if smoothing.name == "additive":
            counts, total, _ = at(levels[0], words)
            return additive(smoothing, counts, total, V)
        p: Any = 1 / V
        for j, level in enumerate(levels):
            counts, total, spread = at(level, ending(words, j + 1))
            taken = jnp.minimum(counts, smoothing.discount)
            found = discounted(counts, taken, spread, total, p)
            # A beginning has counts of its own, and below them those of the symbols that it has.
            whole = jnp.all(contexts[..., k - j :] >= 0, axis=-1) | (j == k)
            p = jnp.where(whole.reshape(whole.shape + (1,) * (found.ndim - whole.ndim)), found, p)
        return p

    def of(levels: tuple[Level, ...], contexts: Array, symbols: Array) -> Array:
        def at(level: Level, words: Words) -> tuple[Array, Array, Array]:
            _, total, spread = found_at(level, words)
            place = jnp.minimum(place_of(level.words, words), len(level.counts) - 1)
            seen = alike(tuple(word[place] for word in level.words), words)
            return jnp.where(seen, level.counts[place], 0), total, spread

        return jnp.log(through(levels, contexts, at, pack(contexts, symbols)))

    def row(levels: tuple[Level, ...], contexts: Array) -> Array:
        lead, n = contexts.shape[:-1], math.prod(contexts.shape[:-1])
        contexts = contexts.reshape(n, k)

        def at(level: Level, words: Words) -> tuple[Array, Array, Array]:
            first, total, spread = found_at(level, words)
            # Whatever followed a context stands in one piece of at most V.
            places = first[:, None] + jnp.arange(V)
            read = jnp.minimum(places, len(level.counts) - 1)
            there = tuple(word[read] for word in level.words)
            own = alike(context(there), tuple(word[:, None] for word in context(words)))
            own &= places == read
            symbol = jnp.where(own, (there[-1] % base).astype(jnp.int32) - 1, V)
            counts = jnp.zeros((n, V)).at[jnp.arange(n)[:, None], symbol]
            return counts.set(level.counts[read], mode="drop"), total[:, None], spread[:, None]

        words = pack(contexts, jnp.full(n, -1))
        return jnp.log(through(levels, contexts, at, words)).reshape(*lead, V)

    return Table(tally, add, nothing, smoothed, of, row, lambda counts: counts.left_out)


def differ(words: Any) -> Array:
    """Which n-grams [C - 1] are not the one before."""
    found = words[0][1:] != words[0][:-1]
    for word in words[1:]:
        found |= word[1:] != word[:-1]
    return found


def alike(a: Words, b: Words) -> Array:
    """Where two are the same."""
    found = a[0] == b[0]
    for one, other in zip(a[1:], b[1:], strict=True):
        found &= one == other
    return found


def before(a: Words, b: Words) -> Array:
    """Where one stands before another."""
    found = a[-1] < b[-1]
    for one, other in zip(a[-2::-1], b[-2::-1], strict=True):
        found = (one < other) | ((one == other) & found)
    return found


def place_of(table: Words, words: Words) -> Array:
    """The first place in a sorted table that holds nothing smaller: [...], at most C."""
    C = len(table[0])

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) // 2
        smaller = before(tuple(word[middle] for word in table), words)
        on = low < high
        return jnp.where(on & smaller, middle + 1, low), jnp.where(on & ~smaller, middle, high)

    ends = (jnp.zeros(words[0].shape, jnp.int32), jnp.full(words[0].shape, C, jnp.int32))
    return jax.lax.fori_loop(0, C.bit_length() + 1, halve, ends)[0]
