"""Rules of decoding: what a model's logits become before a symbol is drawn of them.

Floor 1. Some of these do not commute: of p (.5 .2 .15 .1 .05) temperature 2 leaves three symbols to
a nucleus of .7, which taken first keeps two. The order is one and the same everywhere,

    (0) what there is        of a vocabulary that is larger than its tokenizer is
    (1) repetition penalty   Keskar et al. 2019 (CTRL), of the model's own logits
    (2) temperature          softmax(l / τ); 0 is greedy, and leaves nothing to the rest
    (3) top-k                Fan et al. 2018
    (4) top-p, the nucleus   Holtzman et al. 2020
    (5) min-p                Nguyen et al. 2024

which is that of transformers. Whatever is dropped has a logit of -inf; at least one symbol stays,
and of equal ones the first. V is the size of the vocabulary.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from genjax_zoo import typed
from genjax_zoo.contract import Array
from genjax_zoo.typed import number


@typed.config
class Decoding:
    """How text is written; by default every symbol is drawn as the model says.

    Attributes:
      repetition_penalty: what a symbol that was read or written before has its logit divided by
        where it is positive, and multiplied where it is negative; 1 changes nothing.
      temperature: τ; 0 writes the likeliest symbol.
      top_k: how many of the likeliest symbols stay; 0 keeps all.
      top_p: the likeliest symbols stay until they have this probability; 1 keeps all.
      min_p: symbols stay that have this part of the likeliest one's probability; 0 keeps all.
      stop: symbols after which nothing is written.
      symbols: how many there are, from 0 on, besides those of `stop`; 0 for all of the vocabulary,
        of which a part may be padding, that no tokenizer spells.
    """

    repetition_penalty: float = number(1.0, least=1e-6, most=1e6)
    temperature: float = number(1.0, least=0)
    top_k: int = number(0, least=0)
    top_p: float = number(1.0, above=0, most=1)
    min_p: float = number(0.0, least=0, most=1)
    stop: tuple[int, ...] = number((), least=0)
    symbols: int = number(0, least=0)


AS_IT_SAYS = Decoding()
"""The rules of a plain draw: none."""

COLDEST = 1e-30
"""The least temperature that float32 can divide by; below it is 0."""
ROUNDING = 1e-6
"""By how much a sum of probabilities in float32 may miss the end that it just reaches."""


def warp(rules: Decoding, logits: Array, seen: Array) -> Array:
    """All rules in their order.

    Args:
      rules: which, and how far.
      logits: l [..., V], the model's own.
      seen: which symbols were read or written before [..., V] bool.
    """
    logits = spelt(rules, logits)
    if rules.repetition_penalty != 1:
        logits = penalise(logits, seen, rules.repetition_penalty)
    if rules.temperature < COLDEST:
        return top_k(logits, 1)
    if rules.temperature != 1:
        # The likeliest is 0, however cold it is.
        logits = (logits - jnp.max(logits, axis=-1, keepdims=True)) / rules.temperature
    if rules.top_k:
        logits = top_k(logits, rules.top_k)
    if rules.top_p < 1:
        logits = top_p(logits, rules.top_p)
    if rules.min_p > 0:
        logits = min_p(logits, rules.min_p)
    return logits


def spelt(rules: Decoding, logits: Array) -> Array:
    """The symbols of [..., V] stay that there are."""
    if not rules.symbols:
        return logits
    number = jnp.arange(logits.shape[-1])
    there = (number < rules.symbols) | jnp.isin(number, jnp.array(rules.stop, jnp.int32))
    return jnp.where(there, logits, -jnp.inf)


def penalise(logits: Array, seen: Array, penalty: float) -> Array:
    """Seen symbols [..., V] become rarer, once each, however often they occurred.

    By the sign of a logit, so that it matters what a model adds to all of them: this rule, alone
    of all, is not one of probabilities.
    """
    rarer = jnp.where(logits > 0, logits / penalty, logits * penalty)
    return jnp.where(seen, rarer, logits)


def top_k(logits: Array, k: int) -> Array:
    """The k likeliest of [..., V] stay."""
    return jnp.where(_rank(logits) < k, logits, -jnp.inf)


def top_p(logits: Array, p: float) -> Array:
    """The fewest likeliest of [..., V] stay that have the probability p together."""
    rank = _rank(logits)
    falling = -jnp.sort(-jax.nn.softmax(logits), axis=-1)
    # A symbol stays as long as those above it have not reached p: the first one always does.
    above = jnp.cumsum(falling, axis=-1) - falling
    stays = (above < p - ROUNDING) | (jnp.arange(logits.shape[-1]) == 0)
    return jnp.where(jnp.take_along_axis(stays, rank, axis=-1), logits, -jnp.inf)


def min_p(logits: Array, p: float) -> Array:
    """Those of [..., V] stay that are at least p times as likely as the likeliest."""
    least = jnp.max(logits, axis=-1, keepdims=True) + math.log(p) - ROUNDING
    return jnp.where(logits >= least, logits, -jnp.inf)


def _rank(logits: Array) -> Array:
    """0 for the likeliest of [..., V], 1 for the next one; of equal ones the first comes first."""
    return jnp.argsort(jnp.argsort(-logits, axis=-1, stable=True), axis=-1)
