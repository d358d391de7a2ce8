"""Numbers of samples: modes, features and probes, each with the protocol it must be quoted with.

Floor 5. What a model says of held-out examples is measure/examples.py.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable
from typing import Any, NamedTuple, cast

import jax
import numpy as np

from genjax_zoo.contract import Key, Model
from genjax_zoo.data.source import Source
from genjax_zoo.measure import captions, distances, labels, modes, probes, scores
from genjax_zoo.measure.examples import BATCH, Progress, held_out, silent
from genjax_zoo.measure.extractors import Extractor, to_unit
from genjax_zoo.measure.probes import Probe
from genjax_zoo.measure.results import Result

MODE_SAMPLES, FEATURE_SAMPLES = 2500, 2000
"""Samples that mode coverage (Lin et al. 2018) and the measures of features look at."""
TRAINING = 100_000
"""Training examples that samples are searched for among, at most: the first so many."""
PAIRS = 256
"""Images among whose pairs diversity is measured."""
COLLAPSED = 0.5
"""Samples less diverse than this, of the data's own diversity, are called collapsing."""

PROBES = (captions.caption_match, labels.label_match)
"""(model, source, extractor) -> the probes that apply there, for each kind of them."""
NAMES = (*modes.OF_MODES, *scores.OF_FEATURES, *captions.NAMES, *labels.NAMES)
"""All that samples of any data can be asked."""


def probes_of(model: Model, source: Source, extractor: Extractor | None) -> dict[str, Probe]:
    """What this model can be given, and its samples then judged by; by name."""
    return {probe.name: probe for find in PROBES for probe in find(model, source, extractor)}


def applicable(model: Model, source: Source, extractor: Extractor | None) -> tuple[str, ...]:
    """The names of what samples of these data can be asked, with that extractor."""
    if "x" not in source.spaces:
        return ()
    names: list[str] = []
    if source.density is not None and source.density.centres is not None:
        names += modes.OF_MODES
    if extractor is not None:
        at_hand = {"real", *(["train"] if source.training else [])}
        at_hand |= {"probabilities"} if extractor.probabilities else set()
        names += [n for n, kind in scores.OF_FEATURES.items() if at_hand >= set(kind.needs)]
    return (*names, *probes_of(model, source, extractor))


def evaluate(
    model: Model,
    state: Any,
    source: Source,
    key: Key,
    step: int,
    extractor: Extractor | None = None,
    num_samples: int | None = None,
    only: tuple[str, ...] | None = None,
    where: jax.sharding.Sharding | None = None,
    progress: Progress = silent,
) -> list[Result]:
    """Measures the model's samples.

    Args:
      model, state, source, key, step, where, progress: as those of examples.evaluate.
      extractor: what sees the images, which it is given in [0, 1]; None leaves its measures out.
      num_samples: how many; by default `MODE_SAMPLES`, `FEATURE_SAMPLES` and `probes.SAMPLES`. As
        many held-out examples are looked at, or all if there are fewer.
      only: names of the measures wanted; None takes all that apply.
    """
    asked = probes_of(model, source, extractor)
    names = [n for n in applicable(model, source, extractor) if only is None or n in only]
    of_modes = [n for n in names if n in modes.OF_MODES]
    of_features = [n for n in names if n in scores.OF_FEATURES]
    n_modes = (num_samples or MODE_SAMPLES) if of_modes else 0
    n_features = (num_samples or FEATURE_SAMPLES) if of_features else 0
    found: list[scores.Score] = []
    if of_modes or of_features:
        x = draw(model, state, key, max(n_modes, n_features), where, progress)
        probes.check_shape(x, _real(source, key, 1).shape[1:])
    if of_modes:
        assert source.density is not None
        found += modes.scores(x[:n_modes], source.density, source.name, of_modes)
    if of_features:
        assert extractor is not None
        found += _of_features(x[:n_features], source, extractor, key, of_features, progress)
    results = [_result(one, source, step) for one in found]
    shared = (model, state, source, key, step, num_samples or probes.SAMPLES, where, progress)
    return results + [probes.evaluate(asked[name], *shared) for name in names if name in asked]


def _of_features(
    x: np.ndarray,
    source: Source,
    extractor: Extractor,
    key: Key,
    names: list[str],
    progress: Progress,
) -> list[scores.Score]:
    """The scores of samples x [n, ...] as an extractor sees them, beside as many real ones."""
    real = _real(source, key, min(len(x), source.held_out_size))
    needs = {field for name in names for field in scores.OF_FEATURES[name].needs}
    train = _training(source, extractor, key, progress) if "train" in needs else None
    seen = [to_unit(images, source.interval) for images in (real, x)]
    judge = extractor.probabilities
    clouds = scores.Clouds(
        real=extractor.features(seen[0]),
        fake=extractor.features(seen[1]),
        probabilities=judge(seen[1]) if judge and "probabilities" in needs else None,
        train=train,
    )
    return scores.of_clouds(
        clouds,
        extractor,
        data=f"{source.preprocessing}; mapped to [0, 1] and cut there",
        split=source.held_out_split,
        only=names,
    )


def _result(score: scores.Score, source: Source, step: int) -> Result:
    protocol = score.protocol
    parts = [
        f"{protocol.n_real} real" if protocol.n_real else "",
        f"{protocol.n_train} training examples" if protocol.n_train else "",
        f"extractor {protocol.extractor} {protocol.sha256[:8]}" if protocol.extractor else "",
        protocol.parameters,
    ]
    return Result(
        name=score.name,
        value=score.value,
        standard_error=None,
        kind=score.kind,
        unit=score.unit,
        split=protocol.split,
        n=protocol.n_samples,
        preprocessing=source.preprocessing,
        step=step,
        better=score.better,
        detail=", ".join(part for part in parts if part),
        low=score.low,
        high=score.high,
        protocol=protocol._asdict(),
    )


@functools.lru_cache(maxsize=16)
def _sampler(sample: Any, n: int, where: jax.sharding.Sharding | None) -> Any:
    return jax.jit(lambda key, state: sample(key, state, n)["x"], out_shardings=where)


def draw(
    model: Model,
    state: Any,
    key: Key,
    n: int,
    where: jax.sharding.Sharding | None = None,
    progress: Progress = silent,
) -> np.ndarray:
    """Samples x [n, ...], drawn in batches of one size."""
    size = min(n, BATCH)
    sampler = _sampler(cast(Hashable, model.sample), size, where)
    parts = []
    for first in range(0, n, size):
        # A stream apart from those of the held-out examples and of the measures.
        own = jax.random.fold_in(jax.random.fold_in(key, 2**32 - 1), first)
        parts.append(np.asarray(sampler(own, state)))
        progress("samples", min(first + size, n), n)
    return np.concatenate(parts)[:n]


def _real(source: Source, key: Key, size: int) -> np.ndarray:
    """The first held-out examples x, as `examples.evaluate` sees them."""
    return np.concatenate([batch["x"] for _, batch in held_out(source, key, size)])


def _training(source: Source, extractor: Extractor, key: Key, progress: Progress) -> np.ndarray:
    """Features of the training examples, of which a block at a time is held."""
    assert source.training is not None and source.size is not None
    size, parts = min(source.size, TRAINING), []
    for first in range(0, size, 4 * BATCH):
        last = min(first + 4 * BATCH, size)
        x = source.training(jax.random.fold_in(jax.random.fold_in(key, 0), first), first, last)["x"]
        parts.append(extractor.features(to_unit(x, source.interval)))
        progress("training examples", last, size)
    return np.concatenate(parts)


class QuickLook(NamedTuple):
    """What a few samples tell at once of how varied they are.

    Attributes:
      numbers: for a line of metrics: `modes` and `high_quality` (in %) of a density with
        modes, else `diversity`, 1 where samples are as far apart as data are.
      warning: "collapsing: ..." where they are not; empty where they are well.
    """

    numbers: dict[str, float]
    warning: str


def quick_look(x: np.ndarray, source: Source, reference: np.ndarray) -> QuickLook:
    """Whether a sampler is collapsing, from samples drawn for something else; costs milliseconds.

    Args:
      x: samples [n, ...]; less than two tell nothing of diversity.
      source: whose modes they should reach, if it has any.
      reference: data [m, ...], for their diversity.
    """
    density = source.density
    if x.shape[1:] != reference.shape[1:]:
        return QuickLook({}, "")
    if density is not None and density.centres is not None:
        covered, quality = modes.quick_coverage(x, density)
        K = len(density.centres)
        # So few samples may miss a mode by chance: perfect ones all but `missed` in the mean.
        missed = K * (1 - modes.PERFECT / K) ** len(x)
        few = covered < K - missed - 3 * math.sqrt(missed)
        warning = f"collapsing: {covered} of {K} modes" if few else ""
        return QuickLook({"modes": float(covered), "high_quality": 100 * quality}, warning)
    diversity = distances.diversity(x[:PAIRS], reference[:PAIRS])
    if not np.isfinite(diversity):
        return QuickLook({}, "")
    warning = f"collapsing: diversity {diversity:.2f}" if diversity < COLLAPSED else ""
    return QuickLook({"diversity": diversity}, warning)
