"""Numbers of held-out data: what a model says of each example, and the mean or the ratio of that.

Floor 5. What its samples are worth is measure/samples.py.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Iterator
from typing import Any, cast

import jax
import numpy as np

from genjax_zoo.contract import Batch, Key, Measure, Model, Weighed
from genjax_zoo.data.source import Source
from genjax_zoo.measure import weighed
from genjax_zoo.measure.results import Result, bits_per_dim

BATCH = 500
"""Examples that are measured at once, or samples that are drawn."""

Progress = Callable[[str, int, int], None]
"""What is done so far: (name, examples done, examples in all) -> None."""


def silent(name: str, done: int, of: int) -> None:
    """A `Progress` that nobody sees."""


def measures_of(model: Model) -> dict[str, Measure]:
    """All numbers per example that a model can say: its log_prob first."""
    own = {} if model.log_prob is None else {"log_prob": model.log_prob}
    return own | dict(model.measures)


def evaluate(
    model: Model,
    state: Any,
    source: Source,
    key: Key,
    step: int,
    examples: int | None = None,
    only: tuple[str, ...] | None = None,
    where: jax.sharding.Sharding | None = None,
    progress: Progress = silent,
    importance_samples: int = 0,
) -> list[Result]:
    """Measures the held-out data: all of `one_by_one` at once, whose arguments these are."""
    how = (examples, only, where, progress, importance_samples)
    return list(one_by_one(model, state, source, key, step, *how))


def one_by_one(
    model: Model,
    state: Any,
    source: Source,
    key: Key,
    step: int,
    examples: int | None = None,
    only: tuple[str, ...] | None = None,
    where: jax.sharding.Sharding | None = None,
    progress: Progress = silent,
    importance_samples: int = 0,
) -> Iterator[Result]:
    """Measures the held-out data, and gives each number when it is known.

    Args:
      model: what to measure.
      state: its state.
      source: whose held-out examples.
      key: for estimates, and for dynamic binarisation; each batch has its own.
      step: how long the state has learnt.
      examples: how many held-out examples, from the first; None takes all.
      only: names of the measures wanted; None takes all.
      where: where the values are put; replicated, if the state is on several processes.
      progress: is called after every batch.
      importance_samples: up to how many an example gets of a measure that is `weighed`, where its
        weights say that fewer cannot be trusted; at least the measure's own `draws`.
    """
    size = min(examples or source.held_out_size, source.held_out_size)
    batches = functools.partial(held_out, source, key, size)
    for index, (name, measure) in enumerate(measures_of(model).items()):
        if only is not None and name not in only:
            continue
        value = _compiled(cast(Hashable, measure.value), where)
        if measure.weighed is not None:
            value = _compiled(cast(Hashable, measure.weighed), where, measure.draws)
        shared: tuple[Any, ...] = ()
        error, detail = 0.0, measure.detail
        progress(name, 0, size)
        if measure.once is not None:
            # A stream apart from those of the batches.
            key_once = jax.random.fold_in(jax.random.fold_in(key, 2**31), index)
            once = _compiled(measure.once, where)(key_once, state)
            shared, error = (once.value,), float(once.error)
            notes = [f"{what} {float(number):.6g}" for what, number in once.notes.items()]
            detail = ", ".join([detail, *notes] if detail else notes)
        own = jax.random.fold_in(key, index + 1)
        values, amounts = [], []
        for first, batch in batches():
            found = value(jax.random.fold_in(own, first), state, batch, *shared)
            values.append(jax.tree.map(lambda a: np.asarray(a, np.float64), found))
            if measure.per is not None:
                amounts.append(np.asarray(measure.per(batch), np.float64))
            progress(name, min(first + BATCH, size), size)
        per = np.concatenate(amounts) if amounts else None
        each: Any = jax.tree.map(lambda *parts: np.concatenate(parts), *values)
        trust: dict[str, float] = {}
        if measure.weighed is not None:
            each, taken = weighed.raised(
                jax.random.fold_in(own, 2**31),
                functools.partial(_weigh, measure.weighed, where, state),
                batches,
                each,
                (measure.draws, importance_samples),
                functools.partial(_progress_of_draws, progress, name),
            )
            trust, each = weighed.diagnostics(each, taken), each.value
        mean, spread = ratio(each, per)
        error /= 1.0 if per is None else float(per.mean())
        # Of one example alone nothing tells how others differ: what they share may still err.
        spread = math.hypot(spread or 0.0, error) if spread is not None or error else None
        result = Result(
            name=name,
            value=mean,
            standard_error=spread,
            kind=str(measure.exactness),
            unit=measure.unit,
            split=source.held_out_split,
            n=size,
            preprocessing=source.preprocessing,
            step=step,
            better=measure.better,
            detail=detail,
            per=None if per is None else float(per.sum()),
            trust=trust,
        )
        yield result
        if measure.density and per is None and source.level and only is None:
            yield bits_per_dim(result, batch["x"][0].size, source.level)


def ratio(values: np.ndarray, per: np.ndarray | None = None) -> tuple[float, float | None]:
    """What examples give together, and its standard error over them: None of one example.

        r = Σ v / Σ p,    se = sd(v - r p) / (√n mean(p))    (the delta method)

    Examples of unequal p weigh as much as they hold: it is no mean of the v / p.

    Args:
      values: v [n].
      per: p [n], how much of it each example holds; None takes 1 of each, and the mean of v.
    """
    n = len(values)
    if per is None:
        per = np.ones(n)
    r = float(values.sum() / per.sum())
    if n < 2:
        return r, None
    spread = float((values - r * per).std(ddof=1))
    return r, spread / (math.sqrt(n) * float(per.mean()))


def held_out(source: Source, key: Key, size: int) -> Iterator[tuple[int, Batch]]:
    """The first `size` held-out examples in batches: (number of the first one, arrays of numpy).

    What is random in the data depends on the examples alone: every measure sees the same batches.
    """
    for first in range(0, size, BATCH):
        own = jax.random.fold_in(jax.random.fold_in(key, 0), first)
        batch = source.held_out(own, first, min(first + BATCH, size))
        yield first, jax.tree.map(np.asarray, batch)


def _weigh(of: Any, where: Any, state: Any, key: Key, batch: Batch, draws: int) -> Weighed:
    return _compiled(of, where, draws)(key, state, batch)


def _progress_of_draws(progress: Progress, name: str, draws: int, done: int, of: int) -> None:
    progress(f"{name}, K = {draws}", done, of)


@functools.lru_cache(maxsize=64)
def _compiled(value: Any, where: jax.sharding.Sharding | None, *last: int) -> Callable:
    def precisely(*args: Any) -> Any:
        # What is printed as exact is not to be rounded to bfloat16 on a TPU, or TF32 on a GPU.
        with jax.default_matmul_precision("highest"):
            return value(*args, *last)

    return jax.jit(precisely, out_shardings=where)
