"""A run's parts, built from its config: everything but the state.

Floor 6. Shapes come first: what a state looks like is known before a single array of it is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from genjax_zoo.contract import (
    PACKED,
    Batch,
    ConfigError,
    DataError,
    Kind,
    Model,
    Space,
    State,
    categorical,
)
from genjax_zoo.data.source import NEW, Own, Source
from genjax_zoo.data.sources import open_source
from genjax_zoo.run.config import Run, make_model
from genjax_zoo.run.devices import memory, sharding
from genjax_zoo.run.record.provenance import Origin

# Streams of the root key besides the steps', which count from 0 up.
INIT, SAMPLE, EVALUATE, EXAMPLE = (2**32 - k for k in range(1, 5))


class Begun(NamedTuple):
    """What a run begins from, or began from, by the names that its model's `init` declares.

    Attributes:
      origins: where it came from.
      like: the shapes and dtypes of the learnt parameters of other runs.
      params: the parameters themselves, as numpy arrays; empty for a run that only goes on.
    """

    origins: Mapping[str, Origin] = {}
    like: Mapping[str, Any] = {}
    params: Mapping[str, Any] = {}


NOTHING = Begun()


class Setup(NamedTuple):
    """A run's parts.

    Attributes:
      run: the typed config.
      model: the bundle of pure functions.
      source: the data.
      layout: the devices, and how arrays lie over them.
      root: the root key.
      example: batch 0, for shapes and for a model's start from the data; the same everywhere.
      like: the shapes, dtypes and shardings of the state before any step.
      begun: what it begins from.
    """

    run: Run
    model: Model
    source: Source
    layout: sharding.Layout
    root: jax.Array
    example: Batch
    like: Any
    begun: Begun = NOTHING

    def init(self) -> State:
        """The state before any step, sharded."""
        held = jax.tree.map(lambda leaf: leaf.sharding, self.like)
        init = jax.jit(self.model.init, out_shardings=held)
        return init(jax.random.fold_in(self.root, INIT), self.example, **self.begun.params)


def set_up(
    run: Run,
    data_dir: str | None = None,
    learning: bool = True,
    begun: Begun = NOTHING,
    own: Own = NEW,
) -> Setup:
    """Builds a run's parts.

    Args:
      run: the typed config.
      data_dir: where prepared data sets lie.
      learning: False to measure only: any devices will do, whatever it was trained on.
      begun: what it begins from, or began from.
      own: what it has already of what its data are read by.

    Raises ConfigError or DataError for whatever does not fit: all that can be wrong is found here.
    """
    model = make_model(run)
    if learning:
        parts = run.optimizer.micro_batches
        layout = sharding.lay_out(run.devices, run.data.batch_size, parts)
    else:
        layout = sharding.lay_out_again(run.devices)
    source = open_source(run.data, run.seed, data_dir, own)
    check_tokenizers(source, begun.origins, run)
    root = jax.random.key(run.seed)
    example = example_batch(source, root, run.data.batch_size)
    check_spaces(model, source, example, run)
    like = state_like(run, model, layout, example, begun.like, learning)
    return Setup(run, model, source, layout, root, example, like, begun)


def state_like(
    run: Run,
    model: Model,
    layout: sharding.Layout,
    example: Mapping,
    begun: Mapping[str, Any] | None = None,
    learning: bool = False,
) -> Any:
    """The state's shapes, dtypes and shardings before any step.

    Of the example, and of what the state is begun from, only shapes and dtypes matter. Raises
    ConfigError for a state that no device of this machine can hold; `learning`, its gradient too.
    """
    try:
        shapes = jax.eval_shape(model.init, jax.random.key(0), example, **(begun or {}))
    except OverflowError as error:
        raise ConfigError(
            f"this {run.model['name']} has arrays larger than any machine holds; choose smaller "
            "fields of config.model (widths, latents, classes, chains)."
        ) from error
    shardings = sharding.of_state(layout.rules, shapes, run.devices.min_split)
    like = jax.tree.map(
        lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where), shapes, shardings
    )
    memory.check_state(like, learning)
    return like


def example_batch(source: Source, root: jax.Array, batch_size: int) -> Batch:
    """Batch 0, by another key than step 0's; raises ConfigError for one that memory cannot hold."""
    own = jax.random.fold_in(root, EXAMPLE)
    one = jax.eval_shape(source.batch, own, source.resident, source.feed(0, slice(0, 1)))
    memory.check(
        f"a batch of config.data.batch_size={batch_size}",
        batch_size * sum(map(memory.bytes_of, one.values())),
        "choose a smaller one.",
    )
    feed = source.feed(0, slice(0, batch_size))
    batch = source.batch(own, source.resident, feed)
    return jax.tree.map(np.asarray, batch)


def check_tokenizers(source: Source, origins: Mapping[str, Origin], run: Run) -> None:
    """Raises ConfigError where a run reads texts by another tokenizer than what it begins from."""
    own = source.tokenizer
    for name, origin in origins.items():
        if own and origin.tokenizer and origin.tokenizer != own.sha256:
            raise ConfigError(
                f"{name} begins from {origin.workdir}, which learnt by another tokenizer "
                f"({origin.tokenizer[:12]}) than {run.data.tokenizer} here ({own.sha256[:12]}), so "
                "that its symbols mean something else; set "
                f"--config.data.tokenizer={origin.tokenizer_path}."
            )


def check_spaces(model: Model, source: Source, batch: Batch, run: Run) -> None:
    """Raises DataError where the data are not what the model learns from, array by array."""
    who = f"this {run.model['name']}"
    unread = [name for name in PACKED if name in source.spaces and name not in model.spaces]
    if unread:
        raise DataError(
            f"{who} reads no {' and no '.join(map(repr, unread))}, and {run.data.source} holds "
            "several documents, of which it would make one text; choose a language_model, or put "
            "them into one file."
        )
    for name, wanted in model.spaces.items():
        offered = source.spaces.get(name)
        if offered is None and name in PACKED:
            continue
        if offered and offered.kind is Kind.CATEGORICAL and not offered.size:
            # Where the source cannot tell, the first batch may: below 0 there are no labels.
            seen = np.asarray(batch[name])
            offered = categorical(int(seen.max(initial=-1)) + 1) if (seen >= 0).all() else None
        if offered is None:
            has = ", ".join(other for other in source.spaces if other != name)
            why = "".join(f" ({note})" for note in source.notes if note.startswith(name))
            raise DataError(
                f"{who} learns from {name!r} ({wanted}), and {run.data.source} has: {has}{why}; "
                "choose other data, or a config that asks for no such thing (of labels: "
                "model.classes=0, of a Bayes net model.label='')."
            )
        if wanted.holds(offered):
            continue
        raise DataError(
            f"{who} models {name!r} as {wanted}, but {run.data.source} gives {offered}; "
            f"{_advice(wanted, offered, source.tokenizer is not None, run.data.of_images)}"
        )


def _advice(wanted: Space, offered: Space, text: bool, images: bool) -> str:
    """What to do about data that are not in the space of a model."""
    if offered.missing and not wanted.missing:
        return (
            "fill in what is missing (NaN) or leave it out, or choose a model that learns from "
            "incomplete examples (of a Bayes net: model.missing=True)."
        )
    if text and offered.size > wanted.size > 0:
        return (
            f"set --config.model.vocabulary={offered.size}, for as many symbols, or choose a "
            "config.data.tokenizer that has fewer."
        )
    if wanted.kind is Kind.CATEGORICAL and wanted.of(0).holds(offered):
        return (
            f"set config.model to as many (model.vocabulary={offered.size} of symbols, "
            f"model.classes={offered.size} of labels)."
        )
    if not images:
        return "choose other data, or a model of such numbers."
    if wanted.size and wanted.of(0).holds(offered):
        if not offered.size:
            return "set config.data.dequantise=False, for numbers between the levels have none."
        return f"set config.model.levels={offered.size}: between its levels a model has nothing."
    return _OF_IMAGES[wanted.kind]


_OF_IMAGES = {
    Kind.REAL: "choose a source of images or of points.",
    Kind.UNIT: "set config.data.scale='unit'.",
    Kind.SIGNED: "set config.data.scale='symmetric'.",
    Kind.BINARY: "set config.data.binarise to 'threshold' or 'dynamic': grey values used as "
    "targets of a Bernoulli give no likelihood.",
    Kind.COUNTS: "set config.data.scale='raw' for the levels of images.",
    Kind.CATEGORICAL: "choose a source of text.",
}
