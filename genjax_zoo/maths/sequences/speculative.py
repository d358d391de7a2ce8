"""Speculative sampling: a draft q writes g symbols, the target p reads them at once and corrects.

Floor 1. Leviathan, Kalman & Matias 2023; Chen et al. 2023. A symbol x of the draft is accepted with

    min(1, p(x) / q(x)),   and else one is drawn of   (p - q)+ / Σ (p - q)+

so that what is written is drawn of p exactly, whatever the draft; where all g are accepted, one
more of p comes for nothing. With a = Σ min(p, q) = 1 - total variation, the same at every place,

    (1 - a^(g+1)) / (1 - a)   symbols come of a round, in the time of g c + 1 of the target's,

where c is what a symbol costs the draft, of what it costs the target.

A rejected symbol must leave both caches. The contract's caches cannot be turned back, and so both
models read what was kept once more, from where the round began: a target reads twice a round, each
time several symbols at once. Strings of one batch go on together, as far as the one that accepts
least: whether a place is kept depends on no later one, so that each string is still drawn of p.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from genjax_zoo.contract import Array, Autoregression, DataError, Key, State
from genjax_zoo.maths.sequences.decoding import (
    Prompt,
    Written,
    begin,
    nothing,
    of_symbols,
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


class Speculated(NamedTuple):
    """What was written, and in how many rounds.

    Attributes:
      written: by the target and its rules, as `decoding.write` says it.
      rounds: [] int32.
    """

    written: Written
    rounds: Array


class Writer(NamedTuple):
    """A model that writes: a target or a draft.

    Attributes:
      writes: its functions.
      state: of it.
    """

    writes: Autoregression
    state: State


class Reading(NamedTuple):
    """How far the strings have come: of the target, and of the draft.

    Attributes:
      logits: of the next symbol, [n, V] of each.
      caches: of each.
      seen: which symbols were read [n, V] bool, which is one for both.
    """

    logits: tuple[Array, Array]
    caches: tuple[Any, Any]
    seen: Array


def write(
    key: Key,
    target: Writer,
    draft: Writer,
    n: int,
    length: int,
    drafts: int,
    rules: Decoding = AS_IT_SAYS,
    prompt: Prompt | None = None,
) -> Speculated:
    """Writes n strings as the target does, under the same rules: in distribution, not draw by draw.

    A greedy rule writes the same symbols, up to rounding: a model that reads five symbols at once
    may differ in the last bit from itself reading one.

    Args:
      key: of the draws.
      target: p.
      draft: q, of the same vocabulary.
      n: how many strings.
      length: L, symbols of each at most; the caches must have room for L + g after the prompt.
      drafts: g, at least 1.
      rules: of decoding, applied to p and q alike.
      prompt: how the strings begin.
    """
    if drafts < 1:
        raise DataError(f"the number of drafts should be 1 or more, got {drafts}.")
    g, room = drafts, length + drafts
    begun_p, begun_q = (begin(m.writes, m.state, n, room, prompt) for m in (target, draft))
    vocabulary = begun_p.logits.shape[-1]
    if begun_q.logits.shape[-1] != vocabulary:
        raise DataError(
            f"a draft should write what its target reads, got {begun_q.logits.shape[-1]} symbols "
            f"for the target's {vocabulary}; choose a draft of the same vocabulary."
        )
    extend_p = lambda cache, x: begun_p.model.extend(target.state, cache, x)
    extend_q = lambda cache, x: begun_q.model.extend(draft.state, cache, x)
    one_hot = lambda x: jax.nn.one_hot(x, vocabulary, dtype=bool)
    reading = Reading(
        (begun_p.logits, begun_q.logits), (begun_p.cache, begun_q.cache), begun_p.seen
    )

    def drafted(key: Key, reading: Reading) -> tuple[Array, Array, Array]:
        """z [n, g], log q of every symbol at its place [n, g, V], and what was seen before each
        of g + 1 places [n, g + 1, V]."""

        def one(carry: tuple[Array, Any, Array], key: Key):
            logits, cache, seen = carry
            log_q = jax.nn.log_softmax(warp(rules, logits, seen))
            z = jax.random.categorical(key, log_q).astype(jnp.int32)
            logits, cache = extend_q(cache, z[:, None])
            return (logits[:, -1], cache, seen | one_hot(z)), (z, log_q, seen)

        first = (reading.logits[1], reading.caches[1], reading.seen)
        (*_, last), (z, log_q, seen) = jax.lax.scan(one, first, jax.random.split(key, g))
        seen = jnp.concatenate([seen, last[None]])
        return z.T, jnp.swapaxes(log_q, 0, 1), jnp.swapaxes(seen, 0, 1)

    def unfinished(carry: tuple) -> Array:
        t, _, _, done, _ = carry
        return (t < length) & ~jnp.all(done)

    def round_of(carry: tuple[Array, Array, Reading, Array, Written]) -> tuple:
        t, rounds, reading, done, written = carry
        keys = jax.random.split(jax.random.fold_in(key, rounds), 3)
        # (1)  the draft writes, one by one
        z, log_q, seen = drafted(keys[0], reading)
        # (2)  the target reads all of it at once
        after, _ = extend_p(reading.caches[0], z)
        logits = jnp.concatenate([reading.logits[0][:, None], after], axis=1)
        log_p = jax.nn.log_softmax(warp(rules, logits, seen))
        # (3)  and accepts z with min(1, p(z) / q(z)), up to the first that it rejects
        ratio = of_symbols(log_p[:, :g], z) - of_symbols(log_q, z)
        accepted = jnp.log(jax.random.uniform(keys[1], z.shape)) < ratio
        most = jnp.sum(jnp.cumprod(accepted, axis=1), axis=1)
        most = jnp.where(done, g, most)
        a = jnp.min(most)
        # (4)  where it did, (p - q)+ comes in its place; after all of them p, from which nothing
        #      is taken; and the draft's own where a string accepts more than the least
        q = jnp.pad(jnp.exp(log_q), ((0, 0), (0, 1), (0, 0)))
        left = jnp.log(residual(jnp.exp(log_p[:, a]), q[:, a]))
        instead = jax.random.categorical(keys[2], left).astype(jnp.int32)
        z = jnp.pad(z, ((0, 0), (0, 1)))
        x = z.at[:, a].set(jnp.where(most > a, z[:, a], instead))
        # (5)  all of which both read, from where the round began
        read = lambda k: lambda p, q: _last(extend_p(p, x[:, :k]), extend_q(q, x[:, :k]))
        following, caches = jax.lax.switch(a, [read(k) for k in range(1, g + 2)], *reading.caches)
        kept = jnp.arange(g + 1) <= a
        ends = jnp.cumsum(stops(rules, x) & kept, axis=1)
        before = jnp.pad(ends[:, :-1], ((0, 0), (1, 0))) > 0
        mask = kept & ~before & ~done[:, None] & (t + jnp.arange(g + 1) < length)
        new = Written(x, mask, of_symbols(logits, x), of_symbols(log_p, x))
        put = lambda old, now: jax.lax.dynamic_update_slice_in_dim(
            old, jnp.where(mask, now, jnp.zeros_like(now)), t, axis=1
        )
        written = Written(*map(put, written, new))
        seen = reading.seen | jnp.any(one_hot(x) & kept[:, None], axis=1)
        reading, done = Reading(following, caches, seen), done | (ends[:, -1] > 0)
        return t + a + 1, rounds + 1, reading, done, written

    start = (jnp.int32(0), jnp.int32(0), reading, jnp.zeros(n, bool), nothing(n, room))
    _, rounds, _, _, written = jax.lax.while_loop(unfinished, round_of, start)
    return Speculated(Written(*(each[:, :length] for each in written)), rounds)


def _last(*of_both: tuple[Array, Any]) -> tuple[tuple, tuple]:
    """Both models' ((logits [n, S, V], cache), ...) as (the last logits of both, the caches)."""
    return tuple(logits[:, -1] for logits, _ in of_both), tuple(cache for _, cache in of_both)
