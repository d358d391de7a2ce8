"""Markov chain of any order: what follows the last k symbols, by counting, from a stream.

    p(x) = Π_t p(x_t | u_t),     u_t = the k symbols before x_t, or ⊥ and all of them

Nothing is hidden, so that one maximisation is exact. What is made of counts, by adding to them or
by Kneser & Ney's interpolation, and the tables that they are kept in: maths/sequences/ngrams.py.

Pictures are read row by row.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import struct

from genjax_zoo import typed
from genjax_zoo.contract import (
    BINARY,
    COUNTS,
    NOTHING,
    Array,
    Autoregression,
    Batch,
    ConfigError,
    Exactness,
    Info,
    Key,
    Measure,
    Model,
    Once,
    categorical,
)
from genjax_zoo.learn.state import TrainState, eval_params, of_params
from genjax_zoo.learn.verbs import em
from genjax_zoo.maths.probability.distributions import flat
from genjax_zoo.maths.probability.given import check_count, part_of, prompt, read_given
from genjax_zoo.maths.sequences import ngrams
from genjax_zoo.maths.sequences.documents import PACKED_SPACES, beginnings, counted
from genjax_zoo.maths.sequences.ngrams import Smoothing
from genjax_zoo.typed import number

VERB = "em"

LARGEST = 2**26
"""Numbers in a dense table of counts at most, of which a step holds a few."""


@typed.config
class Config:
    """A Markov chain.

    Attributes:
      vocabulary: V, how many symbols there are; 0 for data that are exactly 0 or 1, such as pixels.
      order: k, how many symbols a symbol depends on.
      smoothing: what is made of counts: "additive", or interpolated "kneser_ney".
      alpha: α, pseudo-counts of each symbol.
      discount: D, of Kneser-Ney.
      repeats: how often the steps read each place of the data in the mean: counts are divided by
        it, so that α and D are small or large beside what the data hold, and not beside how long
        was learnt. Windows that begin anywhere, of T symbols, read each place T times in an epoch.
      capacity: how many strings of k + 1 symbols a sorted table has room for, which keeps those
        alone that occur; 0 for a dense one of all V^(k + 1).
    """

    vocabulary: int = number(0, least=0)
    order: int = number(2, least=0, most=24)
    smoothing: Literal["additive", "kneser_ney"] = "kneser_ney"
    alpha: float = number(1.0, above=0)
    discount: float = number(0.75, above=0, below=1)
    repeats: float = number(1.0, above=0)
    capacity: int = number(0, least=0, most=LARGEST)

    def __post_init__(self):
        V = self.vocabulary or 2
        if V < 2:
            raise ConfigError(f"markov_chain: vocabulary should be 0 or at least 2, got {V}.")
        if not self.capacity and V ** (self.order + 1) > LARGEST:
            raise ConfigError(
                f"markov_chain: every string of order + 1 symbols is counted, and {V}^"
                f"{self.order + 1} of them are more than {LARGEST}; choose a lower order, or keep "
                "those alone that occur: capacity=1000000 has room for so many."
            )


@struct.dataclass
class Params:
    """What a chain learns.

    Attributes:
      table: log p(w | u) of each context, [R, V] nats, or the sorted table's levels (ngrams.py).
      shape: of one example, without the batch.
    """

    table: Any
    shape: tuple[int, ...] = struct.field(pytree_node=False)


@struct.dataclass
class Statistics:
    """All there is to know of the strings.

    Attributes:
      counts: c(u w), as the table keeps them.
      shape: of one example.
    """

    counts: Any
    shape: tuple[int, ...] = struct.field(pytree_node=False)


def make(config: Config, tx: optax.GradientTransformation | None = None) -> Model:
    """A Markov chain in closed form; there is no gradient, and the optimizer is not used."""
    k, V = config.order, config.vocabulary or 2
    space = categorical(V) if config.vocabulary else BINARY
    smoothing = Smoothing(config.smoothing, config.alpha, config.discount, config.repeats)
    how = (V, k, smoothing)
    table = ngrams.sparse(*how, config.capacity) if config.capacity else ngrams.dense(*how)

    # -------------------------------------------------------------------------------- contexts

    def contexts(before: Array, x: Array, first: Array | None = None) -> Array:
        """The last k symbols before each symbol of x [n, S], and before the next one: [n, S+1, k].

        Args:
          before: those before all of them [n, k], -1 where there were none.
          x: symbols [n, S].
          first: which of them begin a document [n, S], and follow nothing; None for none of them.
        """
        read, S = jnp.concatenate([before, x], axis=1), x.shape[1]
        u = jnp.stack([read[:, i : i + S + 1] for i in range(k)], axis=-1) if k else (
            jnp.zeros((*read.shape[:1], S + 1, 0), jnp.int32)
        )  # fmt: skip
        if first is None:
            return u
        # How many symbols of its own document stand before each place.
        place = jnp.arange(S)
        own = place - jax.lax.cummax(jnp.where(first, place, 0), axis=1)
        own = jnp.pad(own, ((0, 0), (0, 1)), constant_values=k)[..., None]
        return jnp.where(jnp.arange(k, 0, -1) <= own, u, -1)

    def none_before(n: int) -> Array:
        return jnp.full((n, k), -1, jnp.int32)

    def read(batch: Batch) -> tuple[Array, Array, Array, Array]:
        """Of each symbol [B, T]: its context [B, T, k], itself, whether it is one, and counts."""
        x = flat(batch["x"])
        number = jnp.asarray(x, jnp.int32)
        known = (number == x) & (number >= 0) & (number < V)
        number = jnp.where(known, number, 0)
        first = beginnings(batch, x.shape) if "document" in batch else None
        u = contexts(none_before(len(x)), number, first)[:, :-1]
        return u, number, known, counted(batch, x.shape)

    def symbols(params: Params, batch: Batch) -> Array:
        """log p(x_t | u_t) [B, T]: -inf for what is no symbol, and 0 for what does not count."""
        u, x, known, counts = read(batch)
        return jnp.where(counts > 0, jnp.where(known, table.of(params.table, u, x), -jnp.inf), 0.0)

    # --------------------------------------------------------------------------------- learning

    def begin(key: Key, batch: Batch) -> tuple[Params, Statistics]:
        """The counts of nothing, of which every symbol is equally likely."""
        nothing = Statistics(table.nothing(), tuple(batch["x"].shape[1:]))
        return maximise(nothing), nothing

    def expect(key: Key, params: Params, batch: Batch) -> tuple[Statistics, Info]:
        """Counts of the batch, and what it was worth to who had not read it yet."""
        u, x, _, counts = read(batch)
        new = table.tally(u.reshape(x.size, k), x.reshape(-1), counts.reshape(-1))
        nats = -jnp.sum(symbols(params, batch)) / jnp.maximum(jnp.sum(counts), 1)
        return Statistics(new, params.shape), {"nats_per_symbol": nats}

    def add(old: Statistics, new: Statistics) -> Statistics:
        return Statistics(table.add(old.counts, new.counts), old.shape)

    def maximise(s: Statistics) -> Params:
        return Params(table.smoothed(s.counts), s.shape)

    # ------------------------------------------------------------------------------- the numbers

    def log_prob(key: Key, params: Params, batch: Batch, *once: Any) -> Array:
        """log p(x), exactly: [B] nats, and -inf for an x that is no string of symbols."""
        return jnp.sum(symbols(params, batch), axis=1)

    def length_of(batch: Batch) -> Array:
        """How many symbols of each example count [B]."""
        return jnp.sum(counted(batch, flat(batch["x"]).shape), axis=1)

    def room(key: Key, state: TrainState) -> Once:
        """What a full table could not keep stands beside every number of it."""
        left_out = table.left_out(state.memory.counts)
        return Once((), notes={"symbols for which the table had no room": left_out})

    code_length = lambda *of: -log_prob(*of)

    # ------------------------------------------------------------------------------- the samples

    def sample(key: Key, params: Params, n: int, given: Batch = NOTHING) -> Batch:
        """Draws x_1, then x_2 given x_1, and so on, after the beginning that is given."""
        numbers = COUNTS.of(V) if config.vocabulary else BINARY
        told = read_given(given, part_of(numbers, params.shape), n, "markov_chain")
        T = math.prod(params.shape)
        value, known = prompt(told, "markov_chain") or (jnp.zeros((n, T)), jnp.zeros((n, T), bool))

        def draw(before: Array, now: tuple[Key, Array, Array]) -> tuple[Array, Array]:
            key, value, known = now
            log_p = table.row(params.table, contexts(before, before[:, :0])[:, 0])
            x = jnp.where(known, value, jax.random.categorical(key, log_p))
            return jnp.concatenate([before, x[:, None]], axis=1)[:, 1:], x

        value, known = jnp.asarray(value, jnp.int32), jnp.asarray(known)
        keys = jax.random.split(key, T)
        _, x = jax.lax.scan(draw, none_before(n), (keys, value.T, known.T))
        dtype = jnp.int32 if config.vocabulary else jnp.float32
        return {"x": x.T.reshape(n, *params.shape).astype(dtype)}

    def start(state: TrainState, n: int, length: int, given: Batch = NOTHING) -> tuple[Array, Any]:
        """The cache holds the last k symbols [n, k], -1 before there are any; it has no end."""
        read_given(given, {}, n, "markov_chain")
        check_count("length", length, "markov_chain", typed.LARGEST)
        before = none_before(n)
        return table.row(eval_params(state).table, before), before

    def extend(state: TrainState, cache: Array, x: Array) -> tuple[Array, Array]:
        # All padding last; at[i] is the context of what follows i symbols.
        read = jnp.cumsum(x >= 0, axis=1)
        x = jnp.take_along_axis(x, jnp.argsort(x < 0, axis=1, stable=True), axis=1)
        at = jnp.take_along_axis(contexts(cache, x), read[..., None], axis=1)
        last = read[:, -1:] + jnp.arange(k)
        cache = jnp.take_along_axis(jnp.concatenate([cache, x], axis=1), last, axis=1)
        return table.row(eval_params(state).table, at), cache

    once = room if config.capacity else None
    return Model(
        *em(begin, expect, maximise, add=add),
        sample=of_params(sample),
        log_prob=Measure(
            *(of_params(log_prob), Exactness.EXACT), once=once, density=not config.vocabulary
        ),
        measures={
            "nats_per_symbol": Measure(
                *(of_params(code_length), Exactness.EXACT, "nats/symbol", "lower"),
                once=once,
                per=length_of,
            )
        },
        spaces={"x": space, **(PACKED_SPACES if config.vocabulary else {})},
        autoregression=Autoregression(start, extend),
    )
