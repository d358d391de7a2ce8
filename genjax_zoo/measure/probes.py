"""Probes: something is asked of samples, and each of them is judged right or wrong.

Floor 5. A probe knows what to ask and how to judge; here is what all of them share: the model draws
what it is given, the judge says how many are right, and how many real examples it gets right
itself, for that is the most that any model can reach. Which there are stands in samples.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple, cast

import jax
import numpy as np

from genjax_zoo.contract import Batch, DataError, Exactness, Key, Model
from genjax_zoo.data.source import Source
from genjax_zoo.measure.distances import Estimate
from genjax_zoo.measure.examples import Progress, silent
from genjax_zoo.measure.extractors import to_unit
from genjax_zoo.measure.results import Result

SAMPLES = 1000
"""How many samples a probe asks for by default."""
BATCH = 250
"""Samples that are drawn at once."""
STREAM = 2**32 - 2
"""The stream of keys, apart from those of the held-out examples, the measures and the samples."""


class Judged(NamedTuple):
    """What a judge says of n examples.

    Attributes:
      right: [n] bool, whether all is as it was asked for.
      parts: the same of single parts of it, by name, [n] bool each.
    """

    right: np.ndarray
    parts: Mapping[str, np.ndarray] = {}


class Probe(NamedTuple):
    """Something to ask of samples, and how to judge them.

    Attributes:
      name: of the measure.
      asked: what is asked for, in words.
      ask: (key, n) -> given, a batch of n that a sample can be given.
      judge: (given, x [n, ...] in [0, 1]) -> Judged.
      judge_name: what judges, with a hash of its parameters.
      real: () -> what the same judge says of real examples.
      stream: a number that no other probe has, for its keys.
    """

    name: str
    asked: str
    ask: Callable[[Key, int], Batch]
    judge: Callable[[Batch, np.ndarray], Judged]
    judge_name: str
    real: Callable[[], Judged]
    stream: int


def evaluate(
    probe: Probe,
    model: Model,
    state: Any,
    source: Source,
    key: Key,
    step: int,
    num_samples: int = SAMPLES,
    where: jax.sharding.Sharding | None = None,
    progress: Progress = silent,
) -> Result:
    """How many samples are what was asked for, in percent; one that is not finite is not.

    Args:
      probe: what to ask.
      model, state, source, key, step, where, progress: as those of samples.evaluate.
      num_samples: how many to ask for.

    Raises DataError for samples of another shape than the data's.
    """
    own = jax.random.fold_in(jax.random.fold_in(key, STREAM), probe.stream)
    key_ask, key_draw = jax.random.split(own)
    given = jax.tree.map(np.asarray, dict(probe.ask(key_ask, num_samples)))
    x = _draw(model, state, key_draw, given, num_samples, where, progress)
    check_shape(x, source.held_out(key, 0, 1)["x"].shape[1:])
    finite = np.isfinite(x).reshape(len(x), -1).all(1)
    seen = np.nan_to_num(to_unit(x, source.interval))
    judged, real = probe.judge(given, seen), probe.real()
    value, low, high = share(judged.right & finite)
    percent = lambda right: f"{share(right).value:.1f}"
    parts = ", ".join(f"{name} {percent(part & finite)}" for name, part in judged.parts.items())
    ceiling = f"{probe.judge_name} has {percent(real.right)} on {len(real.right)} real examples"
    return Result(
        name=probe.name,
        value=value,
        standard_error=None,
        kind=str(Exactness.ESTIMATE),
        unit="%",
        split=probe.asked,
        n=num_samples,
        preprocessing=source.preprocessing,
        step=step,
        better="higher",
        detail=f"{parts}; {ceiling}" if parts else ceiling,
        low=low,
        high=high,
        protocol={"judge": probe.judge_name, "asked": probe.asked, "n_samples": num_samples},
    )


def check_shape(x: np.ndarray, shape: tuple[int, ...]) -> None:
    """Raises DataError for samples x [n, ...] of another shape than the data's."""
    if x.shape[1:] != shape:
        raise DataError(
            f"the samples have the shape {list(x.shape[1:])} and the data {list(shape)}; only "
            "samples of the data's shape can be measured."
        )


def share(right: np.ndarray) -> Estimate:
    """How many of n are right, in percent, with the 95 % interval of Clopper & Pearson 1934."""
    # Not at the top of the file, for it takes a second to load, and few runs have a probe.
    import scipy.stats

    interval = scipy.stats.binomtest(int(right.sum()), len(right)).proportion_ci(0.95)
    return Estimate(*(100 * float(x) for x in (np.mean(right), interval.low, interval.high)))


def _draw(
    model: Model,
    state: Any,
    key: Key,
    given: Mapping[str, np.ndarray],
    n: int,
    where: jax.sharding.Sharding | None,
    progress: Progress,
) -> np.ndarray:
    """Samples x [n, ...] that are given what is asked for, in batches of one size."""
    sample, parts = _sampler(cast(Hashable, model.sample), where), []
    for first in range(0, n, BATCH):
        rows = np.minimum(np.arange(first, first + BATCH), n - 1)
        part = jax.tree.map(lambda array, rows=rows: array[rows], given)
        parts.append(np.asarray(sample(jax.random.fold_in(key, first), state, part))[: n - first])
        progress("asked for", min(first + BATCH, n), n)
    return np.concatenate(parts)


@functools.lru_cache(maxsize=16)
def _sampler(sample: Any, where: jax.sharding.Sharding | None) -> Any:
    given_to = lambda key, state, given: sample(key, state, BATCH, given)["x"]
    return jax.jit(given_to, out_shardings=where)
