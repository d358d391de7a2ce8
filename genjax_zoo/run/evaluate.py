"""Measurement on held-out data: every number with what it is.

Floor 4.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from genjax_zoo.contract import Evidence, Key, Measure, Model
from genjax_zoo.run.data import Source

EVAL_BATCH = 500


class Result(NamedTuple):
    """One number, and all that one must know to quote it.

    Attributes:
      name: log_prob, or the measure's own.
      value: the mean over n examples, in `unit`.
      standard_error: of the mean, over examples.
      evidence: exact, lower_bound, estimate or unnormalised.
      unit: nats, error, ...
      split: which examples.
      n: how many.
      preprocessing: what was done to them.
      step: after how many steps of training.
      better: higher or lower.
      detail: what else one must know, such as the number of importance samples.
    """

    name: str
    value: float
    standard_error: float
    evidence: str
    unit: str
    split: str
    n: int
    preprocessing: str
    step: int
    better: str
    detail: str = ""


def measures_of(model: Model) -> dict[str, Measure]:
    """All numbers per example that a model can tell: its log_prob first."""
    own = {}
    if model.log_prob is not None:
        own["log_prob"] = Measure(model.log_prob, model.evidence, "nats")
    return own | dict(model.measures)


@functools.lru_cache(maxsize=64)
def _compiled(value: Callable, where: jax.sharding.Sharding | None) -> Callable:
    def precisely(*args: Any) -> jax.Array:
        # What is printed as exact is not to be rounded to bfloat16 on a TPU, or TF32 on a GPU.
        with jax.default_matmul_precision("highest"):
            return value(*args)

    return jax.jit(precisely, out_shardings=where)


def evaluate(
    model: Model,
    state: Any,
    source: Source,
    key: Key,
    step: int,
    examples: int | None = None,
    only: tuple[str, ...] | None = None,
    where: jax.sharding.Sharding | None = None,
    progress: Callable[[str, int, int], None] = lambda name, done, of: None,
) -> list[Result]:
    """Measures the held-out data.

    Args:
      model: what to measure.
      state: its state.
      source: whose held-out examples.
      key: for estimates, and for dynamic binarisation; each batch has its own.
      step: how long the state has learnt.
      examples: how many held-out examples, from the first; None takes all.
      only: names of the measures wanted; None takes all.
      where: where the values are put; replicated, if the state is on several processes.
      progress: told (name, examples done, examples in all).
    """
    size = min(examples or source.held_out_size, source.held_out_size)
    results = []
    for index, (name, measure) in enumerate(measures_of(model).items()):
        if only is not None and name not in only:
            continue
        value = _compiled(measure.value, where)
        parts = []
        for first in range(0, size, EVAL_BATCH):
            # The data's dice depend on the examples alone: every measure sees the same batch.
            key_data = jax.random.fold_in(jax.random.fold_in(key, 0), first)
            key_value = jax.random.fold_in(jax.random.fold_in(key, index + 1), first)
            batch = source.held_out(key_data, first, min(first + EVAL_BATCH, size))
            batch = jax.tree.map(np.asarray, batch)
            parts.append(np.asarray(value(key_value, state, batch), np.float64))
            progress(name, min(first + EVAL_BATCH, size), size)
        values = np.concatenate(parts)
        results.append(
            Result(
                name=name,
                value=float(values.mean()),
                standard_error=float(values.std(ddof=1) / math.sqrt(size)) if size > 1 else 0.0,
                evidence=str(measure.evidence),
                unit=measure.unit,
                split=source.held_out_split,
                n=size,
                preprocessing=source.preprocessing,
                step=step,
                better=measure.better,
                detail=measure.detail,
            )
        )
    return results


def describe(result: Result) -> str:
    """One line that can be quoted: the value with its error, and what it is."""
    kind = "" if result.evidence == Evidence.EXACT else f" {result.evidence.replace('_', ' ')},"
    return (
        f"{result.name} = {result.value:.4f} ± {result.standard_error:.4f} {result.unit},{kind} "
        f"{result.detail + ', ' if result.detail else ''}"
        f"{result.split} split, n={result.n}, {result.preprocessing}, step {result.step}"
    )
