"""What a run learns from: batch i is a function of (seed, i) alone.

Floor 4. A `Source` is what every kind of data becomes (sources.py opens them), and `Data` what a
config says of it. Three kinds of source differ in what the host sends:

    a table    rests on the device whole; the host sends row numbers       digits, MNIST, series
    records    stay on disk; grain's threads read and send the rows        large tfds sets, folders
    a density  is drawn inside the compiled step; the host sends nothing   2-D toys

The order of epoch e is numpy's Philox permutation keyed by (seed, e): random access to any batch,
and 40 times less of a core than asking for one shuffled index at a time.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import grain
import jax
import jax.numpy as jnp
import numpy as np

from genjax_zoo.contract import (
    BINARY,
    COUNTS,
    REAL,
    SIGNED,
    UNIT,
    Batch,
    ConfigError,
    DataError,
    Key,
    Space,
    categorical,
)
from genjax_zoo.data.densities import Density


@dataclasses.dataclass(frozen=True)
class Data:
    """What is learnt from, and all that is done to it on the way.

    Attributes:
      source: digits | density:NAME | table:NAME | series:PATH | clip:PATH | tfds:NAME |
        folder:PATH | text:PATH | captions:digits | captions:tfds:NAME | strings:NAME:SYMBOLS. A
        series and a clip are one example each; of captions, `resize` is the side of a digit, half
        that of a scene.
      batch_size: examples in a step, over all devices and processes.
      scale: range of pixel values: unit [0, 1], symmetric [-1, 1], raw (0 to the highest level).
      resize: side in pixels that images are resized to (bilinear, squared); 0 leaves them alone.
      stack: images in an example, drawn independently and laid along its channels; their labels
        are the decimal digits of its label, Σ_k label_k 10^k. 3 makes MNIST the stacked MNIST of
        Metz et al. 2017: 1000 classes.
      binarise: threshold (x > 0.5) or dynamic (a Bernoulli draw of x at every access) or none.
      dequantise: adds uniform noise of one level, so that a density is one.
      standardise: of a table or a series: each column minus the mean of its training part, over
        its standard deviation.
      length: characters in an example of a text, symbols in a string.
    """

    source: str = "digits"
    batch_size: int = 100
    scale: Literal["unit", "symmetric", "raw"] = "unit"
    resize: int = 0
    stack: int = 1
    binarise: Literal["none", "threshold", "dynamic"] = "none"
    dequantise: bool = False
    standardise: bool = False
    length: int = 64

    def __post_init__(self):
        if self.batch_size < 1 or self.length < 1 or self.resize < 0:
            raise ConfigError(
                "config.data expects batch_size >= 1, length >= 1 and resize >= 0, got "
                f"{self.batch_size}, {self.length}, {self.resize}."
            )
        if not 1 <= self.stack <= 9:
            raise ConfigError(
                f"config.data.stack should lie in 1 .. 9, got {self.stack}: it is how many images "
                "make an example, and as many decimal digits its label."
            )
        if self.source.startswith("captions:") and (
            self.stack > 1 or self.dequantise or self.binarise != "none" or self.scale == "raw"
        ):
            raise ConfigError(
                "config.data.source=captions:NAME draws scenes of its own; leave stack, dequantise "
                "and binarise as they are, and scale at 'unit' or 'symmetric'."
            )
        changed = [f for f, default in _OF_IMAGES.items() if getattr(self, f) != default]
        if self.source.startswith("clip:"):
            changed = [f for f in changed if f != "resize"]
        if changed and self.source.startswith(_NO_IMAGES):
            raise ConfigError(
                f"config.data.{changed[0]}={getattr(self, changed[0])!r} is for images, and "
                f"{self.source} is none; leave it at {_OF_IMAGES[changed[0]]!r}."
            )
        if self.standardise and not self.source.startswith(("table:", "series:")):
            raise ConfigError(
                f"config.data.standardise is for tables and series, and {self.source} is neither; "
                "set it to False."
            )
        if self.binarise != "none" and (self.dequantise or self.scale != "unit"):
            raise ConfigError(
                f"config.data.binarise={self.binarise!r} works on [0, 1] and leaves nothing to "
                "dequantise; set scale='unit' and dequantise=False."
            )


_NO_IMAGES = ("density:", "text:", "table:", "series:", "clip:", "strings:")
_OF_IMAGES = {"scale": "unit", "resize": 0, "stack": 1, "binarise": "none", "dequantise": False}


class Source(NamedTuple):
    """A data set, ready to be learnt from.

    Attributes:
      resident: arrays that rest on every device.
      feed: (step, rows) -> what the host sends for these rows of the batch of that step.
      batch: (key, resident, feed) -> batch: pure, runs inside the compiled step; the key is for
        noise (dequantisation, dynamic binarisation) or for the draw of a density.
      held_out: (key, first, last) -> batch of the held-out examples first <= i < last; not jitted.
      held_out_split: "test" or "validation", or what stands in its place.
      held_out_size: how many held-out examples there are.
      size: how many training examples there are; None for a density.
      preprocessing: in words, for every number that is measured on it.
      interval: the range of the values, for pictures and for what looks at them.
      level: the width of a level of discrete data, in units of x, over which uniform noise spreads
        each value; 0 for data that are not dequantised.
      name: of the data, however they are preprocessed: digits, mnist, ring.
      training: (key, first, last) -> batch of the training examples first <= i < last; not
        jitted. None where they have no end.
      density: what draws the data, with its modes, if it is one of densities.DENSITIES.
      spaces: what each array of a batch holds, by its name. The labels of records have no size,
        for that is not known before all of them are read.
      symbols: what the values of a categorical array are called, by the array's name: the words
        of captions, the characters of a text.
    """

    resident: Any
    feed: Callable[[int, Any], Any]
    batch: Callable[[Key, Any, Any], Batch]
    held_out: Callable[[Key, int, int], Batch]
    held_out_split: str
    held_out_size: int
    size: int | None
    preprocessing: str
    interval: tuple[float, float] = (0.0, 1.0)
    level: float = 0.0
    name: str = ""
    training: Callable[[Key, int, int], Batch] | None = None
    density: Density | None = None
    spaces: Mapping[str, Space] = {"x": REAL}
    symbols: Mapping[str, tuple[str, ...]] = {}


def order(seed: int, size: int, batch_size: int, step: int) -> np.ndarray:
    """Which examples make batch `step`: [batch_size] row numbers.

    Batches run through one epoch's permutation after another, across the seam: every example is
    seen exactly once an epoch.
    """
    places = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs = places // size
    rows = np.empty(batch_size, np.int32)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        rows[here] = _permutation(seed, size, int(epoch))[places[here] % size]
    return rows


@functools.lru_cache(maxsize=16)
def _permutation(seed: int, size: int, epoch: int) -> np.ndarray:
    philox = np.random.Philox(key=np.array([seed, epoch], np.uint64))
    return np.random.Generator(philox).permutation(size).astype(np.int32)


def drawn(data: Data, seed: int, size: int, step: int) -> np.ndarray:
    """Rows of batch `step`, [batch_size]; of stacks [batch_size, stack].

    Each place of a stack goes through all images in an order of its own, independent of the rest.
    """
    if data.stack == 1:
        return order(seed, size, data.batch_size, step)
    # A seed is below 2**32, so no other run has these.
    seeds = [seed + (k << 32) for k in range(data.stack)]
    return np.stack([order(s, size, data.batch_size, step) for s in seeds], axis=1)


def fixed(data: Data, size: int) -> np.ndarray:
    """Rows of the examples that do not change from run to run, [size] or [size, stack]."""
    if data.stack == 1:
        return np.arange(size)
    return np.stack([_permutation(k << 32, size, 0) for k in range(data.stack)], axis=1)


def feeds(
    source: Source, chunks: Sequence[tuple[int, int]], rows: Any, threads: int = 2
) -> Iterator[Any]:
    """What the host sends for each chunk of steps, stacked [steps, rows, ...], read ahead."""

    def load(chunk: tuple[int, int]) -> Any:
        each = [source.feed(step, rows) for step in range(*chunk)]
        return jax.tree.map(lambda *xs: np.stack(xs), *each)

    ahead = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(grain.MapDataset.source(list(chunks)).map(load).to_iter_dataset(ahead))


# ---------------------------------------------------------------------------- preprocessing


def preprocess(data: Data, levels: int) -> Callable[[Key, Any], jax.Array]:
    """(key, integer levels 0 .. levels-1) -> x, as the config declares."""

    def process(key: Key, raw: Any) -> jax.Array:
        x = jnp.asarray(raw, jnp.float32)
        if data.dequantise:
            # Theis et al. 2016: density of x + u, u ~ U[0, 1); a bound on the mass of x.
            unit = (x + jax.random.uniform(key, x.shape)) / levels
            # In float32 the sum can round up to `levels`, where a logit would be infinite.
            unit = jnp.minimum(unit, np.nextafter(np.float32(1), np.float32(0)))
        else:
            unit = x / (levels - 1)
        if data.binarise == "threshold":
            return jnp.asarray(unit > 0.5, jnp.float32)
        if data.binarise == "dynamic":
            return jnp.asarray(jax.random.uniform(key, x.shape) < unit, jnp.float32)
        low, high = interval(data, levels)
        return low + (high - low) * unit

    return process


def interval(data: Data, levels: int) -> tuple[float, float]:
    """The range that `scale` gives the values; noise of a level lifts the top by one level."""
    top = float(levels if data.dequantise else levels - 1)
    return {"unit": (0.0, 1.0), "symmetric": (-1.0, 1.0), "raw": (0.0, top)}[data.scale]


def level(data: Data, levels: int) -> float:
    """The width of a level in units of x; 0 where the data are not dequantised."""
    low, high = interval(data, levels)
    return (high - low) / levels if data.dequantise else 0.0


def space(data: Data) -> Space:
    """What `scale` and `binarise` make of an image's values."""
    if data.binarise != "none":
        return BINARY
    raw = REAL if data.dequantise else COUNTS
    return {"unit": UNIT, "symmetric": SIGNED, "raw": raw}[data.scale]


def space_of(x: np.ndarray) -> Space:
    """The narrowest space that holds all numbers of an array."""
    if not np.isfinite(x).all() or x.min() < 0:
        return REAL
    if np.array_equal(x, np.rint(x)):
        return BINARY if x.max() <= 1 else COUNTS
    return UNIT if x.max() <= 1 else REAL


def describe(data: Data, levels: int, shape: Sequence[int]) -> str:
    """The preprocessing in words."""
    *image, channels = shape
    size = "x".join(map(str, [*image, data.stack * channels]))
    size += " (resized)" if data.resize else ""
    if data.stack > 1:
        size += f", {data.stack} independently drawn images stacked along the channels"
    if data.binarise == "threshold":
        values = "binarised by threshold at 0.5"
    elif data.binarise == "dynamic":
        values = "binarised dynamically (a Bernoulli draw at every access)"
    else:
        low, high = interval(data, levels)
        values = f"grey levels scaled to [{low:g}, {high:g}]"
        if data.dequantise:
            values += f", dequantised uniformly ({levels} levels)"
    return f"{data.source}, {size}, {values}"


# ---------------------------------------------------------------------- examples on the device


class Examples(NamedTuple):
    """Examples as they rest or are read: x [N, ...], and label [N] or None."""

    x: Any
    label: Any


def stacked(data: Data, images: Examples) -> Examples:
    """x [B, S, H, W, C] -> [B, H, W, S C] and label [B, S] -> [B]; what is no stack is left."""
    if data.stack == 1:
        return images
    x = images.x.transpose(0, 2, 3, 1, 4)
    # label = Σ_k label_k 10^k
    places = 10 ** np.arange(data.stack, dtype=np.int32)
    return Examples(x.reshape(*x.shape[:3], -1), (images.label * places).sum(1, dtype=np.int32))


def check_stack(data: Data, label: np.ndarray | None) -> None:
    """Raises DataError where the labels cannot be the digits of another."""
    if data.stack > 1 and (label is None or not np.all((label >= 0) & (label < 10))):
        found = "no labels" if label is None else f"labels from {label.min()} to {label.max()}"
        raise DataError(
            f"config.data.stack={data.stack} makes a label of the labels 0 .. 9 of its images, and "
            f"{data.source} has {found}; choose other data or set stack to 1."
        )


def resident(
    data: Data,
    seed: int,
    parts: tuple[Examples, Examples],
    split: str,
    process: Callable[[Key, Any], jax.Array],
    preprocessing: str,
    space: Space,
    interval: tuple[float, float] = (0.0, 1.0),
    level: float = 0.0,
) -> Source:
    """Examples, for training and held out, that rest on the device, whatever they are."""
    train, test = parts
    size, spaces = len(train.x), {"x": space}
    if train.label is not None:
        classes = (1 + int(max(part.label.max() for part in parts))) ** data.stack
        spaces["label"] = categorical(classes)

    def batch_of(key: Key, x: Any, label: Any) -> Batch:
        made = {"x": process(key, x)}
        return made if label is None else {**made, "label": jnp.asarray(label, jnp.int32)}

    def take(images: Examples, rows: Any) -> Examples:
        label = None if images.label is None else images.label[rows]
        return stacked(data, Examples(images.x[rows], label))

    def part(images: Examples, first: int, last: int) -> Examples:
        return take(images, fixed(data, len(images.x))[first:last])

    return Source(
        resident=train,
        feed=lambda step, rows: drawn(data, seed, size, step)[rows],
        batch=lambda key, resident, rows: batch_of(key, *take(resident, rows)),
        held_out=lambda key, first, last: batch_of(key, *part(test, first, last)),
        held_out_split=split,
        held_out_size=len(test.x),
        size=size,
        preprocessing=preprocessing,
        interval=interval,
        level=level,
        training=lambda key, first, last: batch_of(key, *part(train, first, last)),
        spaces=spaces,
    )


def resized(x: np.ndarray, side: int) -> np.ndarray:
    """Integer images [..., H, W, C] resized to [..., side, side, C], in their own levels."""
    if not side or x.shape[-3:-1] == (side, side):
        return x
    rows, columns = (_interpolation(n, side) for n in x.shape[-3:-1])
    planes = np.moveaxis(x, -1, -3).astype(np.float32)
    return np.moveaxis(np.rint(rows @ planes @ columns.T), -3, -1).astype(x.dtype)


@functools.lru_cache(maxsize=256)
def _interpolation(size: int, side: int) -> np.ndarray:
    """The matrix [side, size] of bilinear interpolation along one axis.

    A new pixel weighs the old ones by a triangle about its centre, which is as wide as the wider
    of the two pixels: shrinking averages, and does not skip.
    """
    shrink = size / side
    centres = (np.arange(side) + 0.5) * shrink - 0.5
    distance = np.abs(centres[:, None] - np.arange(size)) / max(shrink, 1)
    weights = np.maximum(1 - distance, 0)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)
