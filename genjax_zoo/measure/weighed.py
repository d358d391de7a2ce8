"""Estimates by importance weights: more draws where the weights ask for them, and what is said.

Floor 5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from genjax_zoo.contract import Batch, Key, Weighed
from genjax_zoo.maths.inference.importance import trusted

RISE = 4
"""How many times as many draws an example gets that cannot be trusted yet."""

Weigh = Callable[[Key, Batch, int], Weighed]
"""(key, batch, K) -> Weighed of every example of the batch."""


def raised(
    key: Key,
    weigh: Weigh,
    batches: Callable[[], Iterable[tuple[int, Batch]]],
    found: Weighed,
    draws: tuple[int, int],
    progress: Callable[[int, int, int], None],
) -> tuple[Weighed, np.ndarray]:
    """Weighs again, with more draws each time, the examples whose estimate cannot be trusted.

    Args:
      key: of the further draws.
      weigh: with any number of draws.
      batches: the examples again: (number of the first one, batch).
      found: of all n examples, with `draws`.
      draws: K so far, and the most that it may become.
      progress: (K, examples done, examples to do).

    Returns:
      (found, K [n]) with the last K of every example.
    """
    K, most = draws
    each: Any = jax.tree.map(lambda part: np.array(part, np.float64), found)
    taken = np.full(len(each.value), K)
    left = np.flatnonzero(~trusted(each, K))
    while len(left) and most > K:
        K, done = min(RISE * K, most), 0
        for first, batch in batches():
            size = len(jax.tree.leaves(batch)[0])
            rows = left[(left >= first) & (left < first + size)]
            if not len(rows):
                continue
            # A few sizes alone, each of which compiles: the rows once more, up to a power of two.
            padded = np.resize(rows, min(size, 1 << (len(rows) - 1).bit_length())) - first
            own = jax.random.fold_in(jax.random.fold_in(key, K), first)
            again = weigh(own, jax.tree.map(lambda a, at=padded: a[at], batch), K)
            for part, new in zip(each, again, strict=True):
                part[rows] = np.asarray(new)[: len(rows)]
            taken[rows] = K
            done += len(rows)
            progress(K, done, len(left))
        left = left[~trusted(jax.tree.map(lambda part, at=left: part[at], each), K)]
    return each, taken


def diagnostics(found: Weighed, draws: np.ndarray) -> dict[str, float]:
    """What one must know to trust the mean of n estimates, by name.

    Returns:
      {"draws": the largest K, "effective": the median over the examples of how many draws carry
      the estimate, "tail_index": the largest k̂, where there is any, "untrusted": of how many
      examples the estimate cannot be trusted}.
    """
    untrusted = sum(
        int(np.sum(~trusted(jax.tree.map(lambda part, at=draws == K: part[at], found), K)))
        for K in np.unique(draws)
    )
    tails = np.asarray(found.tail)[~np.isnan(found.tail)]
    return {
        "draws": float(np.max(draws)),
        "effective": float(np.median(found.effective)),
        **({"tail_index": float(np.max(tails))} if len(tails) else {}),
        "untrusted": float(untrusted),
    }


def in_words(of: Mapping[str, float], n: int) -> str:
    """What `diagnostics` of n examples say, for one line; nothing of none."""
    if not of:
        return ""
    tail = f", tail index up to {of['tail_index']:.2f}" if "tail_index" in of else ""
    words = f"{of['effective']:.3g} effective of up to {of['draws']:.0f}{tail}"
    if not of["untrusted"]:
        return words
    why = "a tail too heavy for so many draws" if tail else "too few draws to tell"
    return f"{words}, NOT TO BE TRUSTED for {of['untrusted']:.0f} of {n} examples ({why})"
