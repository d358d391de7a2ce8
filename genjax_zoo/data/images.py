"""Images: in an array, in a folder, or wherever else records of them are read from.

Floor 4. A set up to `RESIDENT_BYTES` rests on the device; of a larger one the host reads what it
sends.
"""

from __future__ import annotations

import collections
import concurrent.futures
import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from genjax_zoo.contract import Batch, DataError, Key
from genjax_zoo.data.config import TAKES, Data
from genjax_zoo.data.files.tree import counted
from genjax_zoo.data.pixels import (
    describe,
    fitted,
    fitted_shape,
    interval,
    level,
    preprocess,
    space,
)
from genjax_zoo.data.source import (
    Examples,
    Source,
    batch_of,
    class_notes,
    digest_of,
    drawn,
    fixed,
    resident,
    stacked,
    told_spaces,
    told_symbols,
)

RESIDENT_BYTES = 2**30
"""A data set up to this size rests on the device."""


class Record(NamedTuple):
    """One image that was read.

    Attributes:
      levels: uint8 [H, W, C].
      label: of it, where it is not known before.
      remarks: what reading did to it besides decoding.
    """

    levels: np.ndarray
    label: int | None = None
    remarks: tuple[str, ...] = ()


class Records(NamedTuple):
    """Images that stay where they are until they are read.

    Attributes:
      size: how many.
      read: their numbers -> each of them.
      classes: the names of the labels, in order; () where they have none.
      label: [size] of all of them, where it is known before they are read.
      text: [size, T] tokens of their captions, if they have any.
      words: what the tokens are called.
      names: of all of them, where they have any: they stand for the images that are not read.
      look: the number of one -> its shape (H, W, C), by far faster than by reading it; None where
        all are known to be of one shape, or it is no faster.
    """

    size: int
    read: Callable[[Sequence[int] | np.ndarray], list[Record]]
    classes: Sequence[str] = ()
    label: np.ndarray | None = None
    text: np.ndarray | None = None
    words: Sequence[str] = ()
    names: Sequence[str] = ()
    look: Callable[[int], tuple[int, int, int]] | None = None


def digits(data: Data, seed: int) -> Source:
    """The 1797 digits of scikit-learn, 8x8 of 17 levels; every fifth is held out."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = bunch.images.astype(np.uint8)[..., None]
    label = bunch.target.astype(np.int32)
    test = np.arange(len(x)) % 5 == 4
    train, held = (Examples(x[rows], label[rows]) for rows in (~test, test))
    return array(data, seed, (train, held), "test (every fifth)", 17)


def array(
    data: Data,
    seed: int,
    parts: tuple[Examples, Examples],
    split: str,
    levels: int,
    classes: Sequence[str] = (),
    words: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Source:
    """Images which rest on the device, of levels 0 .. levels - 1, or in [0, 1] with 0 levels."""
    for part in parts:
        _check_stack(data, part)
    train, test = (part._replace(x=fitted(data, part.x)) for part in parts)
    return resident(
        data,
        seed,
        (train, test),
        split,
        preprocess(data, levels),
        preprocessing=describe(data, levels, train.x.shape[1:]),
        space=space(data, levels),
        interval=interval(data, levels),
        level=level(data, levels),
        classes=classes,
        words=words,
        notes=notes,
    )


def _check_stack(data: Data, part: Examples) -> None:
    """Raises DataError where the labels cannot be the digits of another."""
    label = part.label
    if data.stack > 1 and (label is None or not np.all((label >= 0) & (label < 10))):
        found = "no labels" if label is None else f"labels from {label.min()} to {label.max()}"
        raise DataError(
            f"config.data.stack={data.stack} makes a label of the labels 0 .. 9 of its images, and "
            f"{data.source} has {found}; choose other data or set stack to 1."
        )
    if data.stack > 1 and part.text is not None:
        raise DataError(
            f"config.data.stack={data.stack} has no caption for several images, and {data.source} "
            "has one for each; choose other data or set stack to 1."
        )


def records(
    data: Data, seed: int, train: Records, test: Records, split: str, notes: Sequence[str] = ()
) -> Source:
    """Records of bytes: read whole if they are small, and as they are needed otherwise."""
    first, _ = _batch(data, train, np.arange(1))
    _check_stack(data, first)
    shape, classes, words = first.x.shape[1:], train.classes, train.words
    if first.x.nbytes * (train.size + test.size) <= RESIDENT_BYTES:
        parts, said = _read_whole(data, train, test, shape)
        return array(data, seed, parts, split, 256, classes, words, (*notes, *said))
    # What is odd about one of them is found now, and not when its turn comes.
    sizes = {size for part in (train, test) for size in _look(data, part, shape)}
    of_files = "background" in TAKES[data.source.partition(":")[0]]
    laid = f", upright, over {data.background} where transparent" if of_files else ""
    notes = (*notes, *_squared(data, sizes), "decoded as needed" + laid)
    process = preprocess(data, 256)

    def read(part: Records, rows: np.ndarray) -> Examples:
        flat, _ = _batch(data, part, rows.reshape(-1), shape)
        _check_stack(data, flat)
        if data.stack == 1:
            return flat
        x, label = flat.x.reshape(*rows.shape, *shape), flat.label.reshape(rows.shape)
        return stacked(data, Examples(x, label))

    def part(key: Key, which: Records, rows: np.ndarray) -> Batch:
        return batch_of(process, key, read(which, rows))

    held, kept = fixed(data, test.size), fixed(data, train.size)
    return Source(
        resident=(),
        feed=lambda step, rows: read(train, drawn(data, seed, train.size, step)[rows]),
        batch=lambda key, resident, raw: batch_of(process, key, raw),
        held_out=lambda key, first, last: part(key, test, held[first:last]),
        held_out_split=split,
        held_out_size=test.size,
        size=train.size,
        preprocessing=describe(data, 256, shape),
        interval=interval(data, 256),
        level=level(data, 256),
        training=lambda key, first, last: part(key, train, kept[first:last]),
        spaces={"x": space(data, 256)} | told_spaces(data, first, len(classes), len(words)),
        symbols=told_symbols(data, classes, words),
        notes=(*class_notes(classes, train.label, test.label), *notes),
        digest=functools.cache(
            lambda: digest_of(
                first.x, *(a for p in (train, test) for a in (p.size, p.names, p.label, p.text))
            )
        ),
    )


def _look(data: Data, part: Records, shape: tuple[int, ...]) -> set[tuple[int, int]]:
    """The sizes of all images; raises DataError where one is of another shape, once fitted."""
    if part.look is None:
        return set()
    with concurrent.futures.ThreadPoolExecutor() as threads:
        shapes = set(threads.map(part.look, range(part.size)))
    _check_shapes(data, {fitted_shape(data, seen) for seen in shapes} | {shape})
    return {seen[:2] for seen in shapes}


def _squared(data: Data, sizes: set[tuple[int, int]]) -> list[str]:
    """A note where images lose their proportions: not all are squares, and are made such."""
    if not data.resize or data.crop or all(height == width for height, width in sizes):
        return []
    low, high = ("x".join(map(str, size)) for size in (min(sizes), max(sizes)))
    ends = low if low == high else f"{low} to {high}"
    return [f"{ends} made square, out of proportion (config.data.crop=True cuts the middle out)"]


def _check_shapes(data: Data, shapes: set[tuple[int, ...]]) -> None:
    if len(shapes) > 1:
        some = ", ".join(map(str, sorted(shapes)[:5])) + (", ..." if len(shapes) > 5 else "")
        raise DataError(
            f"the images of {data.source} differ in shape ({some}); set config.data.resize to a "
            "side in pixels, and config.data.channels to 1 (grey) or 3 (colour) where some are "
            "grey."
        )


class _Seen(NamedTuple):
    """What was seen of images besides their levels: how often each remark came, and the sizes."""

    remarks: collections.Counter[str]
    sizes: set[tuple[int, int]]


def _read_whole(
    data: Data, train: Records, test: Records, shape: tuple[int, ...]
) -> tuple[tuple[Examples, Examples], list[str]]:
    """All images of a set that is known to fit, and what there is to say of them."""
    one, seen = _read_part(data, train, shape)
    notes, other = [], one
    if test is not train:
        other, more = _read_part(data, test, shape)
        seen = _Seen(seen.remarks + more.remarks, seen.sizes | more.sizes)
        known = {_digest(x) for x in one.x}
        twice = sum(_digest(x) in known for x in other.x)
        notes += [f"{twice} of those held out are in the training part too"] if twice else []
    notes += _squared(data, seen.sizes)
    notes += [f"{remark}: {counted(n, 'image')}" for remark, n in sorted(seen.remarks.items())]
    return (one, other), notes


def _read_part(data: Data, part: Records, shape: tuple[int, ...]) -> tuple[Examples, _Seen]:
    """A block at a time, so that it is held once."""
    x = np.empty((part.size, *shape), np.uint8)
    labels: list[np.ndarray] = []
    seen = _Seen(collections.Counter(), set())
    for first in range(0, part.size, 1024):
        rows = np.arange(first, min(first + 1024, part.size))
        block, more = _batch(data, part, rows, shape)
        x[rows] = block.x
        labels += [] if block.label is None else [block.label]
        seen.remarks.update(more.remarks)
        seen.sizes.update(more.sizes)
    return Examples(x, np.concatenate(labels) if labels else None, part.text), seen


def _batch(
    data: Data, part: Records, rows: np.ndarray, shape: tuple[int, ...] | None = None
) -> tuple[Examples, _Seen]:
    """Reads and stacks images, fitted; raises DataError where their shapes differ."""
    block = part.read(rows)
    images = [fitted(data, record.levels) for record in block]
    _check_shapes(data, {image.shape for image in images} | ({shape} if shape else set()))
    label = part.label
    if label is not None:
        label = label[rows]
    elif all(record.label is not None for record in block):
        label = np.array([record.label for record in block], np.int32)
    seen = _Seen(
        collections.Counter(remark for record in block for remark in record.remarks),
        {(record.levels.shape[0], record.levels.shape[1]) for record in block},
    )
    text = None if part.text is None else part.text[rows]
    return Examples(np.stack(images), label, text), seen


def _digest(x: np.ndarray) -> bytes:
    return hashlib.blake2b(x.tobytes(), digest_size=16).digest()
