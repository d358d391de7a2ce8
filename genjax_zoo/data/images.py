"""Images: in an array, in a folder, or wherever else records of them are read from.

Floor 4. A set up to `RESIDENT_BYTES` rests on the device; of a larger one the host reads what it
sends.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from genjax_zoo.contract import Batch, DataError, Key
from genjax_zoo.data.config import Data
from genjax_zoo.data.pixels import describe, interval, level, preprocess, resized, space
from genjax_zoo.data.source import (
    Examples,
    Source,
    drawn,
    fixed,
    label_space,
    label_symbols,
    resident,
    stacked,
)

RESIDENT_BYTES = 2**30
"""A data set up to this size rests on the device."""
ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}


class Records(NamedTuple):
    """Images that stay where they are until they are read.

    Attributes:
      size: how many.
      read: their numbers -> of each (image uint8 [H, W, C], its label or None).
      classes: the names of the labels, in order; () where they have none.
    """

    size: int
    read: Callable[[Sequence[int] | np.ndarray], list[tuple[np.ndarray, int | None]]]
    classes: Sequence[str] = ()


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
) -> Source:
    """Images of integer levels 0 .. levels - 1, which rest on the device."""
    for part in parts:
        _check_stack(data, part.label)
    train, test = (Examples(resized(part.x, data.resize), part.label) for part in parts)
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
    )


def _check_stack(data: Data, label: np.ndarray | None) -> None:
    """Raises DataError where the labels cannot be the digits of another."""
    if data.stack > 1 and (label is None or not np.all((label >= 0) & (label < 10))):
        found = "no labels" if label is None else f"labels from {label.min()} to {label.max()}"
        raise DataError(
            f"config.data.stack={data.stack} makes a label of the labels 0 .. 9 of its images, and "
            f"{data.source} has {found}; choose other data or set stack to 1."
        )


def records(data: Data, seed: int, train: Records, test: Records, split: str) -> Source:
    """Records of bytes: read whole if they are small, and as they are needed otherwise."""
    first = _image_batch(train.read([0]), data.resize)
    _check_stack(data, first.label)
    shape, classes = first.x.shape[1:], train.classes
    if first.x.nbytes * (train.size + test.size) <= RESIDENT_BYTES:
        whole = _read_all(train, data.resize, shape), _read_all(test, data.resize, shape)
        return array(data, seed, whole, split, 256, classes)
    process = preprocess(data, 256)

    def batch_of(key: Key, raw: Examples) -> Batch:
        made = {"x": process(key, raw.x)}
        return made if raw.label is None else {**made, "label": jnp.asarray(raw.label)}

    def read(part: Records, rows: np.ndarray) -> Examples:
        flat = _image_batch(part.read(rows.reshape(-1)), data.resize, shape)
        _check_stack(data, flat.label)
        if data.stack == 1:
            return flat
        x, label = flat.x.reshape(*rows.shape, *shape), flat.label.reshape(rows.shape)
        return stacked(data, Examples(x, label))

    held, kept = fixed(data, test.size), fixed(data, train.size)
    spaces = {"x": space(data, 256)}
    if first.label is not None:
        spaces["label"] = label_space(data, len(classes))
    return Source(
        resident=(),
        feed=lambda step, rows: read(train, drawn(data, seed, train.size, step)[rows]),
        batch=lambda key, resident, raw: batch_of(key, raw),
        held_out=lambda key, first, last: batch_of(key, read(test, held[first:last])),
        held_out_split=split,
        held_out_size=test.size,
        size=train.size,
        preprocessing=describe(data, 256, shape),
        interval=interval(data, 256),
        level=level(data, 256),
        training=lambda key, first, last: batch_of(key, read(train, kept[first:last])),
        spaces=spaces,
        symbols=label_symbols(data, classes),
    )


def _read_all(part: Records, side: int, shape: tuple[int, ...]) -> Examples:
    """All images of a set that is known to fit; a block at a time, so that it is held once."""
    x = np.empty((part.size, *shape), np.uint8)
    labels: list[np.ndarray] = []
    for first in range(0, part.size, 1024):
        block = _image_batch(part.read(range(part.size)[first : first + 1024]), side, shape)
        x[first : first + 1024] = block.x
        labels += [] if block.label is None else [block.label]
    return Examples(x, np.concatenate(labels) if labels else None)


def _image_batch(
    block: list[tuple[np.ndarray, int | None]], side: int, shape: tuple[int, ...] | None = None
) -> Examples:
    """Stacks images, resized; raises DataError where their shapes differ."""
    images = [resized(image, side) for image, _ in block]
    shapes = {image.shape for image in images} | ({shape} if shape else set())
    if len(shapes) > 1:
        raise DataError(
            f"the images differ in shape ({', '.join(map(str, sorted(shapes)))}); set "
            "config.data.resize to a side in pixels (and keep grey and colour apart)."
        )
    labels = [label for _, label in block]
    known = all(label is not None for label in labels)
    return Examples(np.stack(images), np.array(labels, np.int32) if known else None)


# --------------------------------------------------------------------------------- folders


def folder(data: Data, seed: int, name: str) -> Source:
    """All images below a folder; those below `train` and `test` (or `validation`) are kept apart.

    A class is a folder with images; one alone makes no labels. Without `test` every tenth image is
    held out.
    """
    root = pathlib.Path(name).expanduser()
    if not root.is_dir():
        raise DataError(f"folder:{name}: there is no such folder ({root.absolute()}).")
    held = next((n for n in ("test", "validation", "val") if (root / n).is_dir()), "")
    folders = [root / "train", root / held] if held and (root / "train").is_dir() else [root]
    parts = [_files(where) for where in folders]
    for where, files in zip(folders, parts, strict=True):
        if not files:
            endings = " ".join(sorted(ENDINGS))
            raise DataError(f"{where} holds no image (looked for {endings}, in all subfolders).")
    if len(parts) == 1:
        (files,) = parts
        tenth = [f for i, f in enumerate(files) if i % 10 == 9]
        parts = [[f for i, f in enumerate(files) if i % 10 != 9], tenth or files]
        held = "test (every tenth)" if tenth else "the training images themselves"
    # A class is a folder's name below its root, and has one number in both parts.
    classes = sorted({c for files in parts for _, c in files})
    classes = classes if len(classes) > 1 else []
    train, test = (_of_files(files, classes) for files in parts)
    return records(data, seed, train, test, held)


def _of_files(files: Sequence[tuple[pathlib.Path, str]], classes: Sequence[str]) -> Records:
    number = {name: i for i, name in enumerate(classes)}

    def read(rows: Sequence[int] | np.ndarray) -> list[tuple[np.ndarray, int | None]]:
        return [(_read_image(path), number.get(name)) for path, name in (files[r] for r in rows)]

    return Records(len(files), read, classes)


def _files(root: pathlib.Path) -> list[tuple[pathlib.Path, str]]:
    """The images below a folder, each with the name of its own folder; hidden ones are left out."""
    found = sorted(p.relative_to(root) for p in root.rglob("*"))
    seen = [p for p in found if not any(part.startswith(".") for part in p.parts)]
    images = [p for p in seen if p.suffix.lower() in ENDINGS]
    return [(root / p, str(p.parent)) for p in images]


def _read_image(path: pathlib.Path) -> np.ndarray:
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            if image.mode in ("I", "F"):
                raise ValueError(f"its pixels are not bytes but of mode {image.mode}")
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):
                x = np.asarray(np.rint(np.asarray(upright) / 257), np.uint8)
            else:
                x = np.asarray(upright.convert("L" if upright.mode in ("1", "L", "LA") else "RGB"))
    except Exception as error:
        raise DataError(
            f"{path} is not a readable image ({error}); mend or remove the file."
        ) from error
    return x[..., None] if x.ndim == 2 else x
