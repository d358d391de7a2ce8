"""What a run learns from: batch i is a function of (seed, i) alone.

Floor 4. A `Source` is what every kind of data becomes (sources.py opens them). Three kinds of it
differ in what the host sends:

    a table    rests on the device whole; the host sends row numbers       digits, MNIST, series
    records    stay on disk; grain's threads read and send the rows        large tfds sets, folders
    a density  is drawn inside the compiled step; the host sends nothing   2-D toys

The order of epoch e is numpy's Philox permutation keyed by (seed, e): random access to any batch,
and 40 times less of a core than asking for one shuffled index at a time. That of more than 2^24
examples is computed place by place.
"""

from __future__ import annotations

import functools
import hashlib
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax_zoo.contract import BINARY, COUNTS, REAL, UNIT, Batch, Key, Space, categorical
from genjax_zoo.data.config import Data
from genjax_zoo.data.densities import Density
from genjax_zoo.data.text.tokenizer import Tokenizer

LISTED = 2**24
"""Examples up to which an epoch's permutation is listed."""
ROUNDS = 6
"""Of a permutation that is not listed."""


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
      spaces: what each array of a batch holds, by its name. Labels without names, of records that
        stay on disk, have no size, for that is not known before all of them are read.
      symbols: what the values 0, 1, ... of a categorical array are called, by the array's name: the
        classes that labels count, the words of captions; what the x of a text is, its tokenizer
        says.
      tokenizer: what made x of a text; None where it is none.
      texts: of data that are texts, the held-out documents of each split by its name, one after
        another as often as they are asked for; one long text is one document.
      columns: what the numbers of a flat x are called, in their order; empty where they have no
        names.
      digest: () -> sha256 of the examples, whatever is made of them; of those that stay on disk, of
        the first and of the names of the rest. "" of what is drawn.
      notes: what else was understood of the data, a phrase each: its classes and how many there
        are of each, the columns of a table, what is missing, what was left out and why. A run says
        them in one line before it trains, and keeps them (data/summary.py).
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
    tokenizer: Tokenizer | None = None
    texts: Mapping[str, Iterable[str]] = {}
    columns: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    digest: Callable[[], str] = str


class Own(NamedTuple):
    """What a run keeps of how its data are read, and reads them by when it goes on.

    Attributes:
      tokenizer: by which its texts became symbols; None where it has none yet.
      folder: where it may write what is read by position, such as token files; None for nowhere.
      tell: says what takes long.
    """

    tokenizer: Tokenizer | None = None
    folder: pathlib.Path | None = None
    tell: Callable[[str], None] = lambda said: None


NEW = Own()
"""Of a run that has nothing yet."""


def digest_of(*parts: Any) -> str:
    """sha256 of arrays, texts, sequences of texts and None, each told from the others."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            found.update(f"{part.dtype}{part.shape}".encode())
            found.update(np.ascontiguousarray(part).view(np.uint8).data)
        else:
            found.update(repr(part).encode())
    return found.hexdigest()


def order(seed: int, size: int, batch_size: int, step: int) -> np.ndarray:
    """Which examples make batch `step`: [batch_size] row numbers.

    Batches run through one epoch's permutation after another, across the seam: every example is
    seen exactly once an epoch.
    """
    places = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs = places // size
    rows = np.empty(batch_size, np.int32 if size < 2**31 else np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        rows[here] = _permuted(seed, size, int(epoch), places[here] % size)
    return rows


def _permuted(seed: int, size: int, epoch: int, places: np.ndarray) -> np.ndarray:
    """What an epoch's permutation has at some places."""
    if size <= LISTED:
        return _permutation(seed, size, epoch)[places]
    return scattered(seed, size, epoch, places)


def scattered(seed: int, size: int, epoch: int, places: np.ndarray) -> np.ndarray:
    """The same of another permutation, which is never listed: a Feistel network, cycle-walked.

    Rounds (l, r) -> (r, l ^ f(r)) permute the numbers of 2 h bits, whatever f is; a number that
    falls beyond `size` is permuted again until one falls within. Black & Rogaway 2002.
    """
    half = np.uint64(((size - 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << int(half)) - 1)
    philox = np.random.Philox(key=np.array([seed, epoch], np.uint64))
    keys = np.random.Generator(philox).integers(0, 2**64, ROUNDS, np.uint64)
    found, beyond = places.astype(np.uint64), np.ones(places.shape, bool)
    while beyond.any():
        left, right = found[beyond] >> half, found[beyond] & mask
        for key in keys:
            left, right = right, left ^ (_mixed(right ^ key) & mask)
        found[beyond] = left << half | right
        beyond = found >= size
    return found.astype(np.int64)


def _mixed(x: np.ndarray) -> np.ndarray:
    """64 bits, each of which depends on all of x: the finaliser of splitmix64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


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

    # Not at the top of the file, for whoever draws samples reads no data.
    import grain

    ahead = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(grain.MapDataset.source(list(chunks)).map(load).to_iter_dataset(ahead))


# ---------------------------------------------------------------------- examples on the device


class Examples(NamedTuple):
    """Examples as they rest or are read: x [N, ...], and label [N] and text [N, T], or None."""

    x: Any
    label: Any = None
    text: Any = None


def batch_of(
    process: Callable[[Key, Any], jax.Array], key: Key, examples: Examples
) -> dict[str, jax.Array]:
    """The batch that examples make: x as `process` has it, and what else there is, int32."""
    told = {"label": examples.label, "text": examples.text}
    made = {"x": process(key, examples.x)}
    return made | {n: jnp.asarray(a, jnp.int32) for n, a in told.items() if a is not None}


def stacked(data: Data, images: Examples) -> Examples:
    """x [B, S, H, W, C] -> [B, H, W, S C] and label [B, S] -> [B]; what is no stack is left."""
    if data.stack == 1:
        return images
    x = images.x.transpose(0, 2, 3, 1, 4)
    # label = Σ_k label_k 10^k
    places = 10 ** np.arange(data.stack, dtype=np.int32)
    return Examples(x.reshape(*x.shape[:3], -1), (images.label * places).sum(1, dtype=np.int32))


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
    classes: Sequence[str] = (),
    words: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Source:
    """Examples, for training and held out, that rest on the device, whatever they are.

    Args:
      data: what the config says of them.
      seed: of their order.
      parts: those for training, and those held out.
      split: what the held-out ones are called.
      process: (key, x as it rests) -> x as it is learnt from.
      preprocessing, interval, level: fields of the `Source`.
      space: of x.
      classes: the names of the labels, in order; () where they have none.
      words: what the tokens of the texts are called, in order; () where there are no texts.
      notes: what else was understood of them; their classes are counted here.
    """
    (train, test), unlabelled = _labelled(data, parts, classes)
    classes = () if unlabelled else classes
    size, known = len(train.x), len(classes)
    if train.label is not None and not known:
        known = 1 + int(max(part.label.max() for part in (train, test)))

    def take(key: Key, images: Examples, rows: Any) -> Batch:
        taken = Examples(*(None if array is None else array[rows] for array in images))
        return batch_of(process, key, stacked(data, taken))

    def part(key: Key, images: Examples, first: int, last: int) -> Batch:
        return take(key, images, fixed(data, len(images.x))[first:last])

    return Source(
        resident=train,
        feed=lambda step, rows: drawn(data, seed, size, step)[rows],
        batch=take,
        held_out=lambda key, first, last: part(key, test, first, last),
        held_out_split=split,
        held_out_size=len(test.x),
        size=size,
        preprocessing=preprocessing,
        interval=interval,
        level=level,
        training=lambda key, first, last: part(key, train, first, last),
        spaces={"x": space} | told_spaces(data, train, known, len(words)),
        symbols=told_symbols(data, classes, words),
        notes=(*unlabelled, *class_notes(classes, train.label, test.label), *notes),
        digest=functools.cache(lambda: digest_of(*train, *test, tuple(classes), tuple(words))),
    )


def _labelled(
    data: Data, parts: tuple[Examples, Examples], classes: Sequence[str]
) -> tuple[tuple[Examples, Examples], tuple[str, ...]]:
    """The parts, without labels where these tell nothing apart, and a note that says so."""
    labels = [part.label for part in parts if part.label is not None]
    if not labels or data.stack > 1:
        return parts, ()
    low, high = min(each.min() for each in labels), max(each.max() for each in labels)
    if low < 0:
        why = f"some are {low}, which is none"
    elif low == high:
        why = f"all of them are {classes[low] if classes else low}"
    elif len(labels) < len(parts):
        why = "only a part has them"
    else:
        return parts, ()
    train, test = (part._replace(label=None) for part in parts)
    return (train, test), (f"labels left out: {why}",)


def class_notes(
    classes: Sequence[str], train: np.ndarray | None, held_out: np.ndarray | None
) -> tuple[str, ...]:
    """How many examples each class has, as a note of a `Source`; none where there are no labels.

    Args:
      classes: the names of the labels 0, 1, ...; () where they have none.
      train, held_out: the labels of each part; None where they are not known.
    """
    if train is None or held_out is None:
        return (f"classes: {listed(classes)}",) if classes else ()
    count = 1 + int(max(train.max(), held_out.max(), len(classes) - 1))
    names = classes or [str(label) for label in range(count)]
    counts = (np.bincount(part, minlength=count) for part in (train, held_out))
    each = zip(names, *counts, strict=True)
    return ("classes: " + listed([f"{name} {some}+{other}" for name, some, other in each]),)


def listed(words: Sequence[str], most: int = 10) -> str:
    """The first words, and how many there are where these are not all."""
    rest = f", ... ({len(words)} in all)" if len(words) > most else ""
    return ", ".join(words[:most]) + rest


def told_spaces(data: Data, first: Examples, classes: int, words: int) -> dict[str, Space]:
    """The spaces of what examples have besides x.

    Args:
      data: what the config says.
      first: an example or more, of which only what they have matters.
      classes: how many labels there are, before they are stacked; 0 where that is not known.
      words: how many tokens.
    """
    found = {}
    if first.label is not None:
        found["label"] = categorical(classes**data.stack)
    if first.text is not None:
        found["text"] = categorical(words)
    return found


def told_symbols(
    data: Data, classes: Sequence[str], words: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """What `Source.symbols` holds of examples; labels of stacks are numbers, and have no names."""
    found = {"label": tuple(classes) if data.stack == 1 else (), "text": tuple(words)}
    return {name: called for name, called in found.items() if called}


def space_of(x: np.ndarray) -> Space:
    """The narrowest space that holds all numbers of an array, of which NaN are missing."""
    there = x[~np.isnan(x)]
    low, high = there.min(initial=0), there.max(initial=0)
    if low < 0 or high == np.inf:
        found = REAL
    elif np.array_equal(there, np.rint(there)):
        found = BINARY if high <= 1 else COUNTS.of(int(high) + 1)
    else:
        found = UNIT if high <= 1 else REAL
    return found._replace(missing=len(there) < x.size)
