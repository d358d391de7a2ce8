"""Measurement: of held-out data, and of samples; every number with what it is.

Floor 5. `evaluate` asks the model for numbers of single examples, `score` looks at its samples.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from genjax_zoo.contract import DataError, Exactness, Key, Measure, Model
from genjax_zoo.data import scenes
from genjax_zoo.data.source import Source
from genjax_zoo.measure import captions as matching
from genjax_zoo.measure import distances, modes, scores
from genjax_zoo.measure.extractors import Extractor

EVAL_BATCH = 500
FAKE_MODES, FAKE_FEATURES = 2500, 2000
"""Samples that mode coverage (Lin et al. 2018) and the measures of features look at."""
FAKE_CAPTIONS = 1000
CAPTIONED = {"caption_match": False, "caption_match_held_out": True}
"""The measures of captions, and whether they ask for what training holds out."""
TRAINING = 100_000
"""Training examples that samples are searched for among, at most: the first so many."""
PAIRS = 256
"""Images among whose pairs diversity is measured."""
COLLAPSED = 0.5
"""Samples less diverse than this, of the data's own diversity, are called collapsing."""


class Result(NamedTuple):
    """One number, and all that one must know to quote it.

    Attributes:
      name: log_prob, or the measure's own.
      value: the mean over n examples, or what n samples are worth, in `unit`.
      standard_error: of the mean, over examples, and of what they share (log Z) where that is
        estimated; None for what is no mean.
      kind: exact, lower_bound, estimate or unnormalised.
      unit: nats, error, ...
      split: which examples.
      n: how many.
      preprocessing: what was done to them.
      step: after how many steps of training.
      better: higher or lower.
      detail: what else one must know, such as the number of importance samples.
      low, high: the 95 % interval of a number of samples; None for one of examples.
      protocol: what must be the same before it is compared (scores.Protocol), as a dict; empty for
        a number of examples. scores.compare takes results as they are.
    """

    name: str
    value: float
    standard_error: float | None
    kind: str
    unit: str
    split: str
    n: int
    preprocessing: str
    step: int
    better: str
    detail: str = ""
    low: float | None = None
    high: float | None = None
    protocol: Mapping[str, Any] = {}


def measures_of(model: Model) -> dict[str, Measure]:
    """All numbers per example that a model can tell: its log_prob first."""
    own = {} if model.log_prob is None else {"log_prob": model.log_prob}
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
        shared: tuple[Any, ...] = ()
        error, detail = 0.0, measure.detail
        if measure.once is not None:
            progress(name, 0, size)
            # A stream apart from those of the batches.
            key_once = jax.random.fold_in(jax.random.fold_in(key, 2**31), index)
            constants = _compiled(measure.once, where)(key_once, state)
            shared, error = (constants.value,), float(constants.error)
            told = [f"{what} {float(number):.6g}" for what, number in constants.notes.items()]
            detail = ", ".join([detail, *told] if detail else told)
        parts = []
        for first in range(0, size, EVAL_BATCH):
            # The data's dice depend on the examples alone: every measure sees the same batch.
            key_data = jax.random.fold_in(jax.random.fold_in(key, 0), first)
            key_value = jax.random.fold_in(jax.random.fold_in(key, index + 1), first)
            batch = source.held_out(key_data, first, min(first + EVAL_BATCH, size))
            batch = jax.tree.map(np.asarray, batch)
            parts.append(np.asarray(value(key_value, state, batch, *shared), np.float64))
            progress(name, min(first + EVAL_BATCH, size), size)
        values = np.concatenate(parts)
        spread = float(values.std(ddof=1) / math.sqrt(size)) if size > 1 else 0.0
        results.append(
            Result(
                name=name,
                value=float(values.mean()),
                standard_error=math.hypot(spread, error),
                kind=str(measure.exactness),
                unit=measure.unit,
                split=source.held_out_split,
                n=size,
                preprocessing=source.preprocessing,
                step=step,
                better=measure.better,
                detail=detail,
            )
        )
        if measure.density and source.level and only is None:
            results.append(bits_per_dim(results[-1], batch["x"][0].size, source.level))
    return results


def bits_per_dim(nats: Result, dims: int, level: float) -> Result:
    """A log-density of dequantised data as bits for each number of the discrete data.

    The mass of a discrete x is the mean density over its cell, of volume w^D, and so

        -1/D log2 P(x) <= -1/D (E_u[log2 p(x + u)] + D log2 w)

    Theis, van den Oord & Bethge 2016 (arXiv:1511.01844), section 3.1: a lower bound of log P.

    Args:
      nats: of log p(x + u).
      dims: D.
      level: w, the width of a level in the units of x.
    """
    assert nats.standard_error is not None
    exact = nats.kind == Exactness.EXACT
    return nats._replace(
        name="bits_per_dim" if nats.name == "log_prob" else f"{nats.name}_bits_per_dim",
        value=-(nats.value / dims + math.log(level)) / math.log(2),
        standard_error=nats.standard_error / dims / math.log(2),
        kind=str(Exactness.LOWER_BOUND) if exact else nats.kind,
        unit="bits/dim",
        better="lower",
        detail="from above: it is the likelihood of the discrete data that is bounded from below",
    )


def applicable(source: Source, extractor: Extractor | None) -> tuple[str, ...]:
    """The names of what samples of these data can be asked, with that extractor."""
    names: list[str] = []
    if source.density is not None and source.density.centres is not None:
        names += modes.OF_MODES
    if extractor is not None:
        at_hand = {"real", *(["train"] if source.training else [])}
        at_hand |= {"probabilities"} if extractor.probabilities else set()
        names += [n for n, kind in scores.OF_FEATURES.items() if at_hand >= set(kind.needs)]
    return tuple(names)


def score(
    model: Model,
    state: Any,
    source: Source,
    key: Key,
    step: int,
    extractor: Extractor | None = None,
    fake: int | None = None,
    only: tuple[str, ...] | None = None,
    where: jax.sharding.Sharding | None = None,
    progress: Callable[[str, int, int], None] = lambda name, done, of: None,
) -> list[Result]:
    """Measures the model's samples.

    Args:
      model, state, source, key, step, where, progress: as those of `evaluate`.
      extractor: what sees the images, which it is given in [0, 1]; None leaves its measures out.
      fake: how many samples; by default `FAKE_MODES` and `FAKE_FEATURES`. As many held-out
        examples are looked at, or all if there are fewer.
      only: names of the measures wanted; None takes all that apply.
    """
    names = [n for n in applicable(source, extractor) if only is None or n in only]
    of_modes = [n for n in names if n in modes.OF_MODES]
    of_features = [n for n in names if n in scores.OF_FEATURES]
    n_modes = (fake or FAKE_MODES) if of_modes else 0
    n_features = (fake or FAKE_FEATURES) if of_features else 0
    if not names:
        return []
    x = draw(model, state, key, max(n_modes, n_features), where, progress)
    shape = _held_out(source, key, 1).shape[1:]
    if x.shape[1:] != shape:
        raise DataError(
            f"the samples have the shape {list(x.shape[1:])} and the data {list(shape)}; only "
            "samples of the data's shape can be measured."
        )
    found: list[scores.Score] = []
    if of_modes:
        assert source.density is not None
        found += modes.scores(x[:n_modes], source.density, source.name, of_modes)
    if of_features:
        assert extractor is not None
        real = _held_out(source, key, min(n_features, source.held_out_size))
        needs = {field for name in of_features for field in scores.OF_FEATURES[name].needs}
        train = _training(source, extractor, key, progress) if "train" in needs else None
        seen = [_seen(images, source.interval) for images in (real, x[:n_features])]
        judge = extractor.probabilities
        clouds = scores.Clouds(
            real=extractor.features(seen[0]),
            fake=extractor.features(seen[1]),
            probabilities=judge(seen[1]) if judge and "probabilities" in needs else None,
            train=train,
        )
        found += scores.of_clouds(
            clouds,
            extractor,
            data=f"{source.preprocessing}; mapped to [0, 1] and cut there",
            split=source.held_out_split,
            only=of_features,
        )
    return [_result(one, source, step) for one in found]


def matches(model: Model, state: Any, source: Source) -> tuple[str, ...]:
    """The names of the caption matches that a model can be asked: it reads texts, the data have
    captions."""
    drawn = jax.eval_shape(lambda key, state: model.sample(key, state, 1), jax.random.key(0), state)
    return tuple(CAPTIONED) if "text" in source.symbols and "text" in drawn else ()


def caption_matches(
    model: Model,
    state: Any,
    source: Source,
    key: Key,
    step: int,
    fake: int | None = None,
    only: tuple[str, ...] | None = None,
    progress: Callable[[str, int, int], None] = lambda name, done, of: None,
) -> list[Result]:
    """How many samples show what their captions say, in percent.

    Args:
      model, state, source, key, step, progress: as those of `evaluate`.
      fake: captions a measure; by default `FAKE_CAPTIONS`.
      only: names of the measures wanted, of CAPTIONED; None takes both.
    """
    names = [n for n in matches(model, state, source) if only is None or n in only]
    if not names:
        return []
    real = source.held_out(key, 0, source.held_out_size)
    side = real["x"].shape[1] // 2
    look = matching.reader(source.name, side)
    real_scenes = [scenes.parse(text) for text in np.asarray(real["text"])]
    shown = jax.tree.map(lambda *parts: np.stack(parts), *real_scenes)
    most = matching.match(shown, look(_seen(np.asarray(real["x"]), source.interval)))
    sample = jax.jit(lambda key, text: model.sample(key, state, len(text), text=text)["x"])
    results = []
    for name in names:
        unseen = CAPTIONED[name]
        own = jax.random.fold_in(jax.random.fold_in(key, 2**32 - 2), unseen)
        n = fake or FAKE_CAPTIONS
        found = matching.caption_match(
            *(sample, look, own, n, unseen, source.interval), progress=progress
        )
        results.append(
            Result(
                name=name,
                value=found.value,
                standard_error=None,
                kind=str(Exactness.ESTIMATE),
                unit="%",
                split="held-out combinations" if unseen else "seen combinations",
                n=found.n,
                preprocessing=source.preprocessing,
                step=step,
                better="higher",
                detail=f"arrangement {found.arrangement:.1f}, colour {found.colour:.1f}, digit "
                f"{found.digit:.1f}; the reader has {most.value:.1f} on {most.n} real scenes",
                low=found.low,
                high=found.high,
                protocol={"reader": look.__name__, "n": found.n, "unseen": unseen},
            )
        )
    return results


def _result(score: scores.Score, source: Source, step: int) -> Result:
    told = score.protocol
    parts = [
        f"{told.n_real} real" if told.n_real else "",
        f"{told.n_train} training examples" if told.n_train else "",
        f"extractor {told.extractor} {told.sha256[:8]}" if told.extractor else "",
        told.parameters,
    ]
    return Result(
        name=score.name,
        value=score.value,
        standard_error=None,
        kind=score.kind,
        unit=score.unit,
        split=told.split,
        n=told.n_fake,
        preprocessing=source.preprocessing,
        step=step,
        better=score.better,
        detail=", ".join(part for part in parts if part),
        low=score.low,
        high=score.high,
        protocol=told._asdict(),
    )


@functools.lru_cache(maxsize=16)
def _sampler(sample: Callable, n: int, where: jax.sharding.Sharding | None) -> Callable:
    return jax.jit(lambda key, state: sample(key, state, n)["x"], out_shardings=where)


def draw(
    model: Model,
    state: Any,
    key: Key,
    n: int,
    where: jax.sharding.Sharding | None = None,
    progress: Callable[[str, int, int], None] = lambda name, done, of: None,
) -> np.ndarray:
    """Samples x [n, ...], drawn in batches of one size."""
    size = min(n, EVAL_BATCH)
    sampler = _sampler(model.sample, size, where)
    parts = []
    for first in range(0, n, size):
        # A stream apart from those of the held-out examples and of the measures.
        own = jax.random.fold_in(jax.random.fold_in(key, 2**32 - 1), first)
        parts.append(np.asarray(sampler(own, state)))
        progress("samples", min(first + size, n), n)
    return np.concatenate(parts)[:n]


def _held_out(source: Source, key: Key, size: int) -> np.ndarray:
    """The first held-out examples x, in the dice that `evaluate` gives them."""
    parts = []
    for first in range(0, size, EVAL_BATCH):
        key_data = jax.random.fold_in(jax.random.fold_in(key, 0), first)
        parts.append(source.held_out(key_data, first, min(first + EVAL_BATCH, size))["x"])
    return np.concatenate([np.asarray(part) for part in parts])


def _training(
    source: Source, extractor: Extractor, key: Key, progress: Callable[[str, int, int], None]
) -> np.ndarray:
    """Features of the training examples, of which a block at a time is held."""
    assert source.training is not None and source.size is not None
    size, parts = min(source.size, TRAINING), []
    for first in range(0, size, 4 * EVAL_BATCH):
        last = min(first + 4 * EVAL_BATCH, size)
        x = source.training(jax.random.fold_in(jax.random.fold_in(key, 0), first), first, last)["x"]
        parts.append(extractor.features(_seen(np.asarray(x), source.interval)))
        progress("training examples", last, size)
    return np.concatenate(parts)


def _seen(x: np.ndarray, interval: tuple[float, float]) -> np.ndarray:
    """Values of the data's range as an extractor sees them: in [0, 1], NaN kept."""
    low, high = interval
    return np.clip((x - low) / (high - low), 0, 1)


class Glance(NamedTuple):
    """What a few samples tell at once of how varied they are.

    Attributes:
      numbers: for a line of metrics: `modes` and `high_quality` (in %) of a density with
        modes, else `diversity`, 1 where samples are as far apart as data are.
      news: "collapsing: ..." where they are not; empty where they are well.
    """

    numbers: dict[str, float]
    news: str


def glance(x: np.ndarray, source: Source, reference: np.ndarray) -> Glance:
    """Whether a sampler is collapsing, from samples drawn for something else; costs milliseconds.

    Args:
      x: samples [n, ...]; less than two tell nothing of diversity.
      source: whose modes they should reach, if it has any.
      reference: data [m, ...], for their diversity.
    """
    density = source.density
    if x.shape[1:] != reference.shape[1:]:
        return Glance({}, "")
    if density is not None and density.centres is not None:
        covered, quality = modes.glance(x, density)
        K = len(density.centres)
        # So few samples may miss a mode by chance: perfect ones all but `missed` in the mean.
        missed = K * (1 - modes.PERFECT / K) ** len(x)
        few = covered < K - missed - 3 * math.sqrt(missed)
        news = f"collapsing: {covered} of {K} modes" if few else ""
        return Glance({"modes": float(covered), "high_quality": 100 * quality}, news)
    diversity = distances.diversity(x[:PAIRS], reference[:PAIRS])
    if not np.isfinite(diversity):
        return Glance({}, "")
    news = f"collapsing: diversity {diversity:.2f}" if diversity < COLLAPSED else ""
    return Glance({"diversity": diversity}, news)


def describe(result: Result) -> str:
    """One line that can be quoted: the value with its error, and what it is."""
    kind = "" if result.kind == Exactness.EXACT else f" {result.kind.replace('_', ' ')},"
    sampled = result.low is not None
    within = (
        f"[{result.low:.4f}, {result.high:.4f}]" if sampled else f"± {result.standard_error:.4f}"
    )
    return (
        f"{f'{result.name} = {result.value:.4f} {within} {result.unit}'.rstrip()},{kind} "
        f"{result.detail + ', ' if result.detail else ''}"
        f"{result.split + ' split, ' if result.split else ''}"
        f"n={result.n}{' samples' if sampled else ''}, {result.preprocessing}, step {result.step}"
    )
