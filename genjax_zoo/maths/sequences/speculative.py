"""Speculative sampling: a draft q writes g symbols, the target p reads them at once and corrects.

Floor 1. Leviathan, Kalman & Matias 2023; Chen et al. 2023. A symbol x of the draft is accepted with

    min(1, p(x) / q(x)),   and else one is drawn of   (p - q)+ / Σ (p - q)+

so that what is written is drawn of p exactly, whatever the draft; where all g are accepted, one
more of p comes for nothing. With a = Σ min(p, q) = 1 - total variation, the same at every place,

    (1 - a^(g+1)) / (1 - a)   symbols come of a round, in the time of g c + 1 of the target's,

where c is what a symbol costs the draft, of what it costs the target.

A rejected symbol must leave both caches, which roll back together, string by string: a model that
can `rewind` forgets it, and so is read once a round; any other reads what was kept once more, from
where the round began. Each string goes its own way, as far as its draft is right.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from genjax_zoo.contract import NOTHING, Array, Autoregression, Batch, DataError, Key, State
from genjax_zoo.maths.sequences.decoding import (
    PADDING,
    Reading,
    Written,
    also_seen,
    following,
    nothing,
    of_symbols,
    read_on,
    read_prompt,
    stops,
)
from genjax_zoo.maths.sequences.warping import AS_IT_SAYS, Decoding, warp


def acceptance(p: Array, q: Array) -> Array:
    """a = Σ min(p, q): how many of the draft's symbols are accepted; [..., V] -> [...]."""
    return jnp.sum(jnp.minimum(p, q), axis=-1)


def residual(p: Array, q: Array) -> Array:
    """(p - q)+ / Σ (p - q)+ [..., V]; p itself where q leaves nothing of it."""
    left = jnp.maximum(p - q, 0)
    total = jnp.sum(left, axis=-1, keepdims=True)
    return jnp.where(total > 0, left / jnp.where(total > 0, total, 1), p)


def symbols_a_round(a: float, drafts: int) -> float:
    """(1 - a^(g+1)) / (1 - a) = Σ_(i<=g) a^i: the mean count of one string's."""
    return sum(a**i for i in range(drafts + 1))


class Writer(NamedTuple):
    """A model that writes: a target or a draft.

    Attributes:
      writes: its functions.
      state: of it.
    """

    writes: Autoregression
    state: State


class Speculation(NamedTuple):
    """How far n strings have been written.

    Attributes:
      target: how far the target has read them, with U = 1.
      draft: how far the draft has; where all its symbols were accepted, it lacks the last of them
        too, and U = 2.
      seen: which symbols were read or written [n, V] bool.
      done: which strings have met a stop symbol [n] bool.
      t: how many symbols each has [n] int32.
      rounds: how many there were [] int32.
      written: by the target and its rules, as `decoding.write` says it.
    """

    target: Reading
    draft: Reading
    seen: Array
    done: Array
    t: Array
    rounds: Array
    written: Written


def write(
    key: Key,
    target: Writer,
    draft: Writer,
    n: int,
    length: int,
    drafts: int,
    rules: Decoding = AS_IT_SAYS,
    prompt: Array | None = None,
    given: Batch = NOTHING,
) -> Speculation:
    """Writes n strings as the target does, under the same rules: in distribution, not draw by draw.

    A greedy rule writes the same symbols, up to rounding: a model that reads five symbols at once
    may differ in the last bit from itself reading one.

    Args:
      key: of the draws.
      target: p.
      draft: q, of the same vocabulary.
      n: how many strings.
      length: L, symbols of each at most.
      drafts: g, at least 1. None goes beyond L, where neither model may have room.
      rules: of decoding, applied to p and q alike.
      prompt: how the strings begin [n, P], with padding below 0.
      given: whatever else both are told.
    """
    begun = begin(target, draft, n, length, prompt, given)
    return go_on(key, target, draft, begun, length, drafts, rules)


def begin(
    target: Writer,
    draft: Writer,
    n: int,
    length: int,
    prompt: Array | None = None,
    given: Batch = NOTHING,
    room: int | None = None,
) -> Speculation:
    """Both read the prompts; as of `write`, and `room` as of `decoding.begin`."""
    (p, seen), (q, _) = (
        read_prompt(m.writes, m.state, n, length, prompt, given, room) for m in (target, draft)
    )
    if q.logits.shape != p.logits.shape:
        raise DataError(
            f"a draft should write what its target reads, got {q.logits.shape[-1]} symbols "
            f"for the target's {p.logits.shape[-1]}; choose a draft of the same vocabulary."
        )
    q = q._replace(unread=jnp.full((n, 2), PADDING, jnp.int32))
    t = jnp.zeros(n, jnp.int32)
    return Speculation(p, q, seen, jnp.zeros(n, bool), t, jnp.int32(0), nothing(n, length))


def go_on(
    key: Key,
    target: Writer,
    draft: Writer,
    speculation: Speculation,
    until: Array | int,
    drafts: int,
    rules: Decoding = AS_IT_SAYS,
    most: Array | int | None = None,
) -> Speculation:
    """Writes on, round by round, until every string has `until` symbols or has met a stop symbol.

    No string has more than `most`, for which there is room: L by default. The same is written at
    once and in parts, if key, drafts, rules and `most` are the same.
    """
    if drafts < 1:
        raise DataError(f"the number of drafts should be 1 or more, got {drafts}.")
    n, length = speculation.written.x.shape
    target, draft = (m._replace(state=m.writes.readied(m.state)) for m in (target, draft))
    g, place = drafts, jnp.arange(drafts)
    most = length if most is None else jnp.minimum(most, length)
    until = jnp.minimum(until, most)
    strings = jnp.arange(n)[:, None]

    def drafted(key: Key, reading: Reading, seen: Array, count: Array) -> tuple:
        """z [n, g], log q of every symbol at its place [n, g, V], what was seen before each of
        g + 1 places [n, g + 1, V], and the draft's cache, which has read `count` [n] of z at
        most and not the last of g."""
        keys = jax.random.split(key, g)

        def one(carry: tuple[Reading, Array], now: tuple[Key, Array]) -> tuple:
            (reading, seen), (key, i) = carry, now
            logits, cache = read_on(draft.writes, draft.state, reading)
            log_q = jax.nn.log_softmax(warp(rules, logits, seen))
            z = jax.random.categorical(key, log_q).astype(jnp.int32)
            unread = jnp.where(i < count, z, PADDING)[:, None]
            after = Reading(cache, unread, logits), also_seen(seen, z[:, None])
            return after, (z, log_q, seen)

        # Two symbols may be unread before the first of z, and one before each of the others.
        carry, first = one((reading, seen), (keys[0], place[0]))
        rest: tuple[Array, ...]
        (reading, last), rest = jax.lax.scan(one, carry, (keys[1:], place[1:]))
        z, log_q, seen = (
            jnp.concatenate([a[:, None], jnp.swapaxes(b, 0, 1)], axis=1)
            for a, b in zip(first, rest, strict=True)
        )
        return z, log_q, jnp.concatenate([seen, last[:, None]], axis=1), reading.cache

    def unfinished(s: Speculation) -> Array:
        return jnp.any(~s.done & (s.t < until))

    def round_of(s: Speculation) -> Speculation:
        keys = jax.random.split(jax.random.fold_in(key, s.rounds), 3)
        goes_on = ~s.done & (s.t < most)
        pick = lambda symbols: jnp.where(goes_on[:, None], symbols, PADDING)
        # Nothing that the last place or one beyond it holds is read.
        count = jnp.where(goes_on, jnp.minimum(most - 1 - s.t, g), 0)
        # (1)  the draft writes, one by one
        of_draft = s.draft._replace(unread=pick(s.draft.unread))
        z, log_q, seen, cache_q = drafted(keys[0], of_draft, s.seen, count)
        # (2)  the target reads all of it at once
        read = jnp.where(place < count[:, None], z, PADDING)
        x = jnp.concatenate([pick(s.target.unread), read], axis=1)
        after, cache_p = target.writes.extend(target.state, s.target.cache, x)
        now = following(after[:, :1], x[:, :1], s.target.logits)
        logits = jnp.concatenate([now[:, None], after[:, 1:]], axis=1)
        log_p = jax.nn.log_softmax(warp(rules, logits, seen))
        # (3)  and accepts z with min(1, p(z) / q(z)), up to the first that it rejects
        ratio = of_symbols(log_p[:, :g], z) - of_symbols(log_q, z)
        accepted = jnp.log(jax.random.uniform(keys[1], z.shape)) < ratio
        a = jnp.sum(jnp.cumprod(accepted, axis=1), axis=1)[:, None]
        # (4)  in whose place (p - q)+ comes; after all of them p, from which nothing is taken
        q = jnp.pad(jnp.exp(log_q), ((0, 0), (0, 1), (0, 0)))
        at = lambda each: jnp.take_along_axis(each, a[..., None], axis=1)[:, 0]
        left = jnp.log(residual(jnp.exp(at(log_p)), at(q)))
        instead = jax.random.categorical(keys[2], left).astype(jnp.int32)
        z = jnp.pad(z, ((0, 0), (0, 1))).at[strings, a].set(instead[:, None])
        # (5)  m symbols are written, and whatever comes after the last but one of them is unread
        t = s.t[:, None] + jnp.arange(g + 1)
        ends = jnp.cumsum(stops(rules, z), axis=1)
        before = jnp.pad(ends[:, :-1], ((0, 0), (1, 0))) > 0
        mask = (jnp.arange(g + 1) <= a) & ~before & goes_on[:, None] & (t < most)
        m = jnp.sum(mask, axis=1)
        new = Written(z, mask, of_symbols(logits, z), of_symbols(log_p, z))
        there = jnp.where(mask, t, length)
        put = lambda old, now: old.at[strings, there].set(now, mode="drop")
        last = jnp.take_along_axis(z, jnp.maximum(m - 1, 0)[:, None], axis=1)
        keep = jnp.maximum(m - 1, 0)
        lacks = (keep == g)[:, None]
        unread_q = jnp.concatenate([jnp.where(lacks, z[:, g - 1 : g], PADDING), last], axis=1)
        wait = lambda symbols, old: jnp.where(goes_on[:, None], symbols, old)
        cache_p = kept(target, s.target.cache, cache_p, x, 1, keep)
        x = jnp.concatenate([of_draft.unread, read[:, : g - 1]], axis=1)
        cache_q = kept(draft, s.draft.cache, cache_q, x, 2, keep)
        return Speculation(
            Reading(cache_p, wait(last, s.target.unread), s.target.logits),
            Reading(cache_q, wait(unread_q, s.draft.unread), s.draft.logits),
            also_seen(s.seen, jnp.where(mask, z, PADDING)),
            s.done | jnp.any(mask & (ends > 0), axis=1),
            s.t + m,
            s.rounds + 1,
            Written(*map(put, s.written, new)),
        )

    return jax.lax.while_loop(unfinished, round_of, speculation)


def kept(model: Writer, before: Any, after: Any, x: Array, first: int, keep: Array) -> Any:
    """The cache that has read of x [n, S] the `first` and `keep` [n] more.

    Args:
      model: whose it is.
      before, after: the cache before it has read x, and after.
      x: symbols, or padding below 0.
    """
    S = x.shape[1]
    beyond = (x >= 0) & (jnp.arange(S) >= first + keep[:, None])
    if model.writes.rewind is not None:
        return model.writes.rewind(after, jnp.sum(beyond, axis=1, dtype=jnp.int32))
    return model.writes.extend(model.state, before, jnp.where(beyond, PADDING, x))[1]
