"""Markov chain of any order: what follows the last k symbols, by counting, from a stream.

    p(x) = Π_t p(x_t | u_t),     u_t = the k symbols before x_t, or ⊥ and all of them

Nothing is hidden, so that one maximisation is exact. ⊥ stands before each string: its first symbol,
its second, ... up to the k-th have counts of their own, and p(x_1) is that of a beginning. With
c(u w) the count of w after u, V symbols in all, and a dot for the sum over what stands there:

    additive      p(w | u) = (c(u w) + α) / (c(u ·) + α V)                   α = 1 is Laplace's
    Kneser-Ney    p(w | u) = [(c(u w) - D)+ + D N(u ·) q(w | u')] / c(u ·)    u' lacks u's oldest

where N(u ·) says how many symbols have followed u, and q is the same formula of counts of another
kind: how many symbols, ⊥ among them, were seen before u' w. Below all of it q is uniform. Kneser &
Ney 1995, interpolated as in Chen & Goodman 1998, section 4.1.6, with one discount D.

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
    categorical,
)
from genjax_zoo.learn.state import TrainState, eval_params, of_params
from genjax_zoo.learn.verbs import em
from genjax_zoo.maths.probability.distributions import flat
from genjax_zoo.maths.probability.given import check_count, part_of, prompt, read_given
from genjax_zoo.typed import number

VERB = "em"

LARGEST = 2**26
"""Numbers in the table of counts at most, of which a step holds a few."""


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
    """

    vocabulary: int = number(0, least=0)
    order: int = number(2, least=0, most=24)
    smoothing: Literal["additive", "kneser_ney"] = "kneser_ney"
    alpha: float = number(1.0, above=0)
    discount: float = number(0.75, above=0, below=1)
    repeats: float = number(1.0, above=0)

    def __post_init__(self):
        V = self.vocabulary or 2
        if V < 2:
            raise ConfigError(f"markov_chain: vocabulary should be 0 or at least 2, got {V}.")
        if V ** (self.order + 1) > LARGEST:
            raise ConfigError(
                f"markov_chain: every string of order + 1 symbols is counted, and {V}^"
                f"{self.order + 1} of them are more than {LARGEST}; choose a lower order."
            )


@struct.dataclass
class Params:
    """What a chain learns, for each of R contexts.

    They are numbered like the nodes of a heap: ⊥ alone is 0, and that of number m with the symbol v
    at its end is V m + 1 + v. Those of k symbols lack ⊥; R = 1 + V + ... + V^k.

    Attributes:
      log_p: log p(w | u) [R, V] nats.
      shape: of one example, without the batch.
    """

    log_p: Array
    shape: tuple[int, ...] = struct.field(pytree_node=False)


@struct.dataclass
class Statistics:
    """All there is to know of the strings.

    Attributes:
      counts: c(u w) [R, V], exact up to 2^24 each.
      shape: of one example.
    """

    counts: Array
    shape: tuple[int, ...] = struct.field(pytree_node=False)


def make(config: Config, tx: optax.GradientTransformation | None = None) -> Model:
    """A Markov chain in closed form; there is no gradient, and the optimizer is not used."""
    k, V = config.order, config.vocabulary or 2
    space = categorical(V) if config.vocabulary else BINARY
    ends = [(V**j - 1) // (V - 1) for j in range(k + 2)]
    """Contexts of j symbols are those from ends[j] to ends[j + 1]."""

    # -------------------------------------------------------------------------------- contexts

    def contexts(before: Array, x: Array) -> Array:
        """The number of the context of each symbol of x [n, S] and of the next one: [n, S + 1].

        Args:
          before: the k symbols before them [n, k], -1 where there were none.
          x: symbols [n, S].
        """
        read, S = jnp.concatenate([before, x], axis=1), x.shape[1]
        node = jnp.zeros((len(x), S + 1), jnp.int32)
        for i in range(k):
            symbol = read[:, i : i + S + 1]
            node = jnp.where(symbol < 0, node, V * node + 1 + symbol)
        return node

    def none_before(n: int) -> Array:
        return jnp.full((n, k), -1, jnp.int32)

    def symbols(log_p: Array, x: Array) -> Array:
        """log p(x_t | u_t) of strings [B, T]: [B, T], -inf for what is no symbol."""
        number = jnp.asarray(x, jnp.int32)
        known = (number == x) & (number >= 0) & (number < V)
        number = jnp.where(known, number, 0)
        of = log_p[contexts(none_before(len(x)), number)[:, :-1], number]
        return jnp.where(known, of, -jnp.inf)

    # --------------------------------------------------------------------------------- learning

    def begin(key: Key, batch: Batch) -> tuple[Params, Statistics]:
        """The counts of nothing, of which every symbol is equally likely."""
        nothing = Statistics(jnp.zeros((ends[-1], V)), tuple(batch["x"].shape[1:]))
        return maximise(nothing), nothing

    def expect(key: Key, params: Params, batch: Batch) -> tuple[Statistics, Info]:
        """Counts of the batch, and what it was worth to who had not read it yet."""
        x = flat(batch["x"])
        number = jnp.asarray(x, jnp.int32)
        at = contexts(none_before(len(x)), number)[:, :-1]
        counts = jnp.zeros((ends[-1], V)).at[at, number].add(1.0)
        found = jnp.mean(symbols(params.log_p, x))
        return Statistics(counts, params.shape), {"nats_per_symbol": -found}

    def maximise(s: Statistics) -> Params:
        return Params(jnp.log(smoothed(s.counts / config.repeats)), s.shape)

    def additive(counts: Array) -> Array:
        counts = counts + config.alpha
        return counts / jnp.sum(counts, axis=1, keepdims=True)

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
            q = discounted(left[j], jnp.tile(q, (V, 1)) if j else q)
            rows.append(q if j == k else discounted(begun, q))
        return jnp.concatenate(rows)

    def discounted(counts: Array, lower: Array) -> Array:
        """[(c - D)+ + Σ min(c, D) q] / Σ c: the mass that is taken is that which q spreads."""
        total = jnp.sum(counts, axis=1, keepdims=True)
        taken = jnp.minimum(counts, config.discount)
        spread = jnp.sum(taken, axis=1, keepdims=True) * lower
        return jnp.where(total > 0, (counts - taken + spread) / jnp.maximum(total, 1e-30), lower)

    smoothed = {"additive": additive, "kneser_ney": kneser_ney}[config.smoothing]

    # ------------------------------------------------------------------------------- the numbers

    def log_prob(key: Key, params: Params, batch: Batch) -> Array:
        """log p(x), exactly: [B] nats, and -inf for an x that is no string of symbols."""
        return jnp.sum(symbols(params.log_p, flat(batch["x"])), axis=1)

    def length_of(batch: Batch) -> Array:
        """How many symbols each example has [B]."""
        x = flat(batch["x"])
        return jnp.full(len(x), x.shape[1], jnp.float32)

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
            at = contexts(before, before[:, :0])[:, 0]
            x = jnp.where(known, value, jax.random.categorical(key, params.log_p[at]))
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
        return jnp.broadcast_to(eval_params(state).log_p[0], (n, V)), none_before(n)

    def extend(state: TrainState, cache: Array, x: Array) -> tuple[Array, Array]:
        # All padding last; at[i] is the context of what follows i symbols.
        read = jnp.cumsum(x >= 0, axis=1)
        x = jnp.take_along_axis(x, jnp.argsort(x < 0, axis=1, stable=True), axis=1)
        at = jnp.take_along_axis(contexts(cache, x), read, axis=1)
        last = read[:, -1:] + jnp.arange(k)
        cache = jnp.take_along_axis(jnp.concatenate([cache, x], axis=1), last, axis=1)
        return eval_params(state).log_p[at], cache

    return Model(
        *em(begin, expect, maximise),
        sample=of_params(sample),
        log_prob=Measure(of_params(log_prob), Exactness.EXACT, density=not config.vocabulary),
        measures={
            "nats_per_symbol": Measure(
                *(of_params(code_length), Exactness.EXACT, "nats/symbol", "lower"), per=length_of
            )
        },
        spaces={"x": space},
        autoregression=Autoregression(start, extend),
    )
