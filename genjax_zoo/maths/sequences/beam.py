"""Beam search: the likeliest string, as far as a beam of W beginnings sees.

Floor 1. Of all that can follow the W likeliest beginnings, the W likeliest go on (Lowerre 1976).
Width 1 is greedy; of strings of T symbols, V^(T-1) beginnings are all there are, and what is found
is the likeliest of all. It is a search and no sampler: nothing is drawn.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from genjax_zoo.contract import NOTHING, Array, Autoregression, Batch, DataError, State
from genjax_zoo.maths.sequences.decoding import (
    PADDING,
    Reading,
    read_on,
    read_prompt,
    stops,
    strings,
)
from genjax_zoo.maths.sequences.warping import Decoding, spelt


class Beams(NamedTuple):
    """The strings that were found for each of n prompts, the best first.

    Attributes:
      x: [n, W, L] int32; 0 where nothing was written.
      mask: 1 where a symbol was written, a stop symbol among them.
      log_prob: log p of each string after its prompt [n, W] nats; -inf where there are no W.
      score: log p / symbols^a [n, W], by which they are ordered.
    """

    x: Array
    mask: Array
    log_prob: Array
    score: Array


def search(
    model: Autoregression,
    state: State,
    n: int,
    length: int,
    width: int,
    stop: tuple[int, ...] = (),
    length_exponent: float = 0.0,
    prompt: Array | None = None,
    given: Batch = NOTHING,
    room: int | None = None,
    most: Array | int | None = None,
    symbols: int = 0,
) -> Beams:
    """Searches after each of n prompts.

    Args:
      model: what is written by.
      state: of the model.
      n: how many prompts.
      length: L, symbols after a prompt at most.
      width: W.
      stop: symbols that end a string; what has ended stays in the beam as long as it is likely
        enough, and nothing is added to it.
      length_exponent: a of the score; 0 orders by probability, and 1 by that of a symbol, without
        which short strings win. The beam itself goes by probability.
      prompt, given: as of `decoding.write`, and `room` as of `decoding.begin`.
      most: symbols of each at most, if these are fewer than L.
      symbols: how many there are, as of `Decoding`.
    """
    if width < 1:
        raise DataError(f"the width of a beam should be 1 or more, got {width}.")
    rules, W, state = Decoding(stop=stop, symbols=symbols), width, model.readied(state)
    most = length if most is None else jnp.minimum(most, length)
    begun, _ = read_prompt(model, state, n, length, prompt, given, room)
    V = begun.logits.shape[-1]
    # The strings of one prompt lie side by side: [n W, ...].
    of_prompt = jnp.repeat(jnp.arange(n), W)
    reading = Reading(strings(begun.cache, of_prompt), *(leaf[of_prompt] for leaf in begun[1:]))

    def unfinished(carry: tuple) -> Array:
        t, _, _, done, _, _ = carry
        return (t < most) & ~jnp.all(done)

    def one(carry: tuple[Array, Reading, Array, Array, Array, Array]) -> tuple:
        t, reading, log_p, done, x, mask = carry
        logits, cache = read_on(model, state, reading)
        # log p(x_<=t) = log p(x_<t) + log p(x_t | x_<t); an ended string goes on in one way: as 0.
        after = spelt(rules, jax.nn.log_softmax(logits)).reshape(n, W, V)
        ended = jnp.where(jnp.arange(V) == 0, 0.0, -jnp.inf)
        every = log_p[..., None] + jnp.where(done[..., None], ended, after)
        log_p, best = jax.lax.top_k(every.reshape(n, W * V), W)
        parent, symbol = best // V, (best % V).astype(jnp.int32)
        of_parent = lambda leaf: jnp.take_along_axis(
            leaf, parent.reshape(n, W, *[1] * (leaf.ndim - 2)), axis=1
        )
        done, x, mask = map(of_parent, (done, x, mask))
        x, mask = x.at[:, :, t].set(symbol), mask.at[:, :, t].set(~done)
        rows = (W * jnp.arange(n)[:, None] + parent).reshape(-1)
        unread = jnp.where(done, PADDING, symbol).reshape(-1, 1)
        reading = Reading(strings(cache, rows), unread, logits[rows])
        return t + 1, reading, log_p, done | stops(rules, symbol), x, mask

    # One beginning, the empty one; the other places of the beam are free.
    log_p = jnp.where(jnp.arange(W) == 0, 0.0, jnp.full((n, W), -jnp.inf))
    x = jnp.zeros((n, W, length), jnp.int32)
    start = (jnp.int32(0), reading, log_p, jnp.zeros((n, W), bool), x, x > 0)
    *_, log_p, _, x, mask = jax.lax.while_loop(unfinished, one, start)
    score = log_p / jnp.maximum(mask.sum(-1), 1) ** length_exponent
    order = jnp.argsort(-score, axis=1, stable=True)
    x, mask = (jnp.take_along_axis(leaf, order[..., None], axis=1) for leaf in (x, mask))
    log_p, score = (jnp.take_along_axis(leaf, order, axis=1) for leaf in (log_p, score))
    return Beams(x, mask, log_p, score)
