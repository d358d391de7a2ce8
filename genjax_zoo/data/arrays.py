"""Arrays of one's own, in a .npy or .npz file: images of levels, images in [0, 1], or numbers.

    x, label                                  every tenth is held out
    x_train, y_train, x_test, y_test          as Keras has it; train_images, test_labels, ... too
    classes                                   the names of the labels 0, 1, ...
    text                                      captions

Floor 4.
"""

from __future__ import annotations

import io
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from genjax_zoo.contract import DataError
from genjax_zoo.data import images, words
from genjax_zoo.data.config import IMAGES, Data
from genjax_zoo.data.files import image
from genjax_zoo.data.files.splits import (
    EVERY_TENTH,
    ITSELF,
    TEST,
    TRAIN,
    VALIDATION,
    split_of,
    words_of,
)
from genjax_zoo.data.files.tree import ERRORS, natural
from genjax_zoo.data.source import Examples, Source, resident, space_of
from genjax_zoo.data.tables import standardised

CALLED = {
    "x": "x image images data samples inputs input features arr",
    "label": "y label labels target targets",
    "text": "text texts caption captions",
    "classes": "classes classnames labelnames targetnames names",
}
"""What each array may be called, besides the name of its split."""
MOST_CLASSES = 10**6
"""A label from here on is another number: a time, an identifier."""
_ROLES = {name: role for role, names in CALLED.items() for name in names.split()}
EXPECTED = "x, and label, text or classes; or x_train, y_train, x_test and y_test"


class Arrays(NamedTuple):
    """What a file holds, by what it is for.

    Attributes:
      train, held_out: the arrays of each part by "x", "label" and "text", all of one length.
      split: what the held-out ones are.
      classes: the names of the labels, in order; () where they have none.
      notes: what was left out.
    """

    train: Mapping[str, np.ndarray]
    held_out: Mapping[str, np.ndarray]
    split: str
    classes: tuple[str, ...]
    notes: tuple[str, ...]


class Pictures(NamedTuple):
    """Images [N, H, W, C] of both parts.

    Attributes:
      x: of training, and held out: uint8 for 256 levels, or float32 in [0, 1].
      levels: how many there are; 0 of those that lie anywhere in [0, 1].
      note: what they were taken for.
    """

    x: tuple[np.ndarray, np.ndarray]
    levels: int
    note: str


def opened(data: Data, seed: int, name: str) -> Source:
    """The arrays of a file as a source.

    x of bytes or bits [N, H, W] or [N, H, W, C] are images of levels, and floats of those shapes
    in [0, 1] are images too; all other x [N, ...] are numbers, as they are.

    Raises DataError for a file that cannot be read, or whose arrays do not fit each other.
    """
    return source(data, seed, arranged(load(name, data.source), data.source))


def source(data: Data, seed: int, read: Arrays) -> Source:
    """Arrays that have been read, as a source; an x of objects are image files, each its bytes.

    Raises DataError for arrays that do not fit each other.
    """
    both = (read.train, read.held_out)
    label, classes = labels(read, data.source)
    captions = words.captions(*([str(text) for text in part.get("text", ())] for part in both))
    train, held = map(Examples, (part["x"] for part in both), label, captions[:2])
    read = read._replace(classes=classes, notes=(*read.notes, *captions.notes))
    if train.x.dtype.kind == "O":
        return _recorded(data, seed, (train, held), read, captions.words, _decoded(data))
    train, held = (part._replace(x=_numbers(part.x, data.source)) for part in (train, held))
    if (train.x.shape[1:], train.x.dtype) != (held.x.shape[1:], held.x.dtype):
        of = " and ".join(f"{part.x.dtype} {list(part.x.shape[1:])}" for part in (train, held))
        raise DataError(f"{data.source}: x of both parts should be alike, got {of} for each.")
    found = pictures(train.x, held.x, data.source)
    if found is None:
        return _plain(data, seed, (train, held), read, captions.words)
    _check_pictures(data, found)
    parts = (train._replace(x=found.x[0]), held._replace(x=found.x[1]))
    read = read._replace(notes=(*read.notes, found.note))
    if found.levels == 256:
        return _recorded(data, seed, parts, read, captions.words, images.Record)
    levels, told = found.levels, (captions.words, read.notes)
    return images.array(data, seed, parts, read.split, levels, classes, *told)


def _plain(
    data: Data, seed: int, parts: tuple[Examples, Examples], read: Arrays, called: Sequence[str]
) -> Source:
    """Numbers that are no images, as they are."""
    _check_plain(data, parts[0].x)
    first, second = (np.asarray(part.x, np.float64) for part in parts)
    if (empty := np.isnan(first).all(axis=0)).any():
        at = list(map(int, np.argwhere(empty)[0]))
        raise DataError(
            f"{data.source}: expected numbers at {at} of each x, and all of them are missing in "
            "training; leave that place out."
        )
    x, deviated = standardised(data, first, first)
    held, _ = standardised(data, second, first)
    shape = "x".join(map(str, x.shape[1:]))
    note = f"x: numbers from {np.nanmin(first):g} to {np.nanmax(first):g}"
    missing = int(np.isnan(first).sum() + np.isnan(second).sum())
    note += f", {missing} missing" if missing else ""
    return resident(
        data,
        seed,
        (parts[0]._replace(x=x), parts[1]._replace(x=held)),
        read.split,
        lambda key, x: jnp.asarray(x),
        preprocessing=f"{data.source}, {shape} numbers{deviated}",
        space=space_of(np.concatenate([x, held])),
        classes=read.classes,
        words=called,
        notes=(*read.notes, note),
    )


def _recorded(
    data: Data,
    seed: int,
    parts: tuple[Examples, Examples],
    read: Arrays,
    called: Sequence[str],
    record: Callable[[Any], images.Record],
) -> Source:
    """Images of 256 levels, as those of a folder are; `record` makes one of each x."""

    def records(part: Examples) -> images.Records:
        def rows_of(rows: Sequence[int] | np.ndarray) -> list[images.Record]:
            return [record(part.x[row]) for row in rows]

        return images.Records(len(part.x), rows_of, read.classes, part.label, part.text, called)

    train, held = map(records, parts)
    held = train if read.held_out is read.train else held
    return images.records(data, seed, train, held, read.split, read.notes)


def _decoded(data: Data) -> Callable[[bytes], images.Record]:
    def record(file: bytes) -> images.Record:
        one = image.read(lambda: io.BytesIO(file), f"an image of {data.source}", data.background)
        return images.Record(one.levels, remarks=one.remarks)

    return record


def load(name: str, asked: str) -> dict[str, np.ndarray]:
    """The arrays of a file by their names; "x" of one that is alone."""
    path = pathlib.Path(name).expanduser()
    try:
        # What is not compressed stays on disk until it is asked for.
        held = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(held, np.ndarray):
            return {"x": held}
        with held:
            return {key: _unicode(held[key]) for key in held.files}
    except FileNotFoundError as error:
        raise DataError(f"{asked}: there is no such file ({path.absolute()}).") from error
    except (*ERRORS, ValueError) as error:
        objects = "pickle" in str(error) or "Object arrays" in str(error)
        why = "it holds Python objects, or is no .npy or .npz file" if objects else error
        raise DataError(
            f"{asked} cannot be read ({why}); write it by numpy.savez(FILE, x=..., label=...)."
        ) from error


def _unicode(array: np.ndarray) -> np.ndarray:
    """Words as texts, where they were written as bytes."""
    return np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array


def arranged(held: Mapping[str, np.ndarray], asked: str) -> Arrays:
    """What each array of a file is for, by its name.

    Raises DataError where no x is among them, or two say the same.
    """
    found: dict[tuple[str, str], tuple[str, np.ndarray]] = {}
    left_out = []
    for key, array in held.items():
        split, role = role_of(key)
        if role is None:
            left_out.append(key)
        elif (split, role) in found:
            raise DataError(
                f"{asked}: both {found[split, role][0]!r} and {key!r} are {role}; leave one out."
            )
        else:
            found[split, role] = (key, array)
    parts: dict[str, dict[str, np.ndarray]] = {}
    for (split, role), (_, array) in found.items():
        parts.setdefault(split, {})[role] = array
    classes = parts.get("", {}).pop("classes", np.array([], str))
    parts = {split: arrays for split, arrays in parts.items() if "x" in arrays}
    heldout = next((split for split in (TEST, VALIDATION) if split in parts), None)
    split_so = "" not in parts and TRAIN in parts and heldout is not None
    if len(parts) != 1 and not split_so:
        raise DataError(f"{asked} holds {', '.join(held) or 'nothing'}; expected {EXPECTED}.")
    for split, arrays in parts.items():
        _check_lengths(arrays, split, asked)
    notes = [f"left out {', '.join(left_out)}"] if left_out else []
    names = tuple(str(name) for name in classes)
    if len(parts) == 1:
        ((only, whole),) = parts.items()
        notes += [f"all of it is called {only}"] if only else []
        tenth = np.arange(len(whole["x"])) % 10 == 9
        if not tenth.any():
            return Arrays(whole, whole, ITSELF, names, tuple(notes))
        train, test = ({role: a[rows] for role, a in whole.items()} for rows in (~tenth, tenth))
        return Arrays(train, test, EVERY_TENTH, names, tuple(notes))
    assert heldout is not None
    unused = [split for split in parts if split not in (TRAIN, heldout)]
    notes += [f"left out the {split} arrays" for split in unused]
    return Arrays(parts[TRAIN], parts[heldout], heldout, names, tuple(notes))


def role_of(key: str) -> tuple[str, str | None]:
    """The split and the role that the name of an array speaks of: x_train is ("train", "x")."""
    said = words_of(key)
    split = next((s for word in said if (s := split_of(word))), "")
    rest = "".join(word for word in said if not split_of(word))
    return split, _ROLES.get(rest)


def _check_lengths(arrays: Mapping[str, np.ndarray], split: str, asked: str) -> None:
    lengths = {role: len(a) if np.ndim(a) else 0 for role, a in arrays.items()}
    if len(set(lengths.values())) > 1 or not lengths["x"]:
        said = ", ".join(f"{n} of {role}" for role, n in lengths.items())
        raise DataError(
            f"{asked}: expected as many of each, and one at least, got {said}"
            f"{f' for {split}' if split else ''}."
        )


def _numbers(x: np.ndarray, asked: str) -> np.ndarray:
    """x [N, D ...]; raises DataError where it holds what are no numbers, or infinite ones."""
    if x.dtype.kind not in "biuf" or not x.size:
        raise DataError(f"{asked}: expected numbers for x, got {x.dtype} {list(x.shape)}.")
    x = x.astype(x.dtype.newbyteorder("="), copy=False)
    if x.dtype.kind == "f" and (np.abs(x) > np.finfo(np.float32).max).any():
        raise DataError(
            f"{asked}: some numbers of x are infinite, or too large for float32; leave them out, "
            "or make them NaN, which is missing."
        )
    return x[:, None] if x.ndim == 1 else x


def labels(
    read: Arrays, asked: str
) -> tuple[tuple[np.ndarray | None, np.ndarray | None], tuple[str, ...]]:
    """The labels [N] int32 of both parts, and the names of the classes, () where they have none.

    Raises DataError for what are no labels.
    """
    given = [part.get("label") for part in (read.train, read.held_out)]
    if given[0] is None and given[1] is None:
        return (None, None), ()
    if given[0] is None or given[1] is None:
        raise DataError(f"{asked}: one part has labels and the other none; give both, or neither.")
    first, second = (_one_each(np.asarray(label), asked) for label in given)
    names = read.classes
    if first.dtype.kind in "US":
        names = tuple(sorted({*map(str, first), *map(str, second)}, key=natural))
        number = {name: i for i, name in enumerate(names)}
        first, second = (np.array([number[str(n)] for n in part]) for part in (first, second))
    if len({*names}) < len(names):
        raise DataError(f"{asked}: several classes have one name: {', '.join(names)}.")
    top = int(max(first.max(), second.max()))
    if names and len(names) <= top:
        raise DataError(
            f"{asked}: {len(names)} classes have names, and a label is {top}; name all of them."
        )
    return (first.astype(np.int32), second.astype(np.int32)), names


def _one_each(label: np.ndarray, asked: str) -> np.ndarray:
    """The labels [N], each a name or a class from 0; raises DataError for what are none."""
    flat = label.reshape(len(label), -1)
    kind = label.dtype.kind
    expected = f"{asked}: expected one label for each example, a number from 0 or a name"
    if kind in "OU" and any(each is None or each == "" for each in label.flat):
        raise DataError(f"{expected}, and some have none; leave these out.")
    if flat.shape[1] != 1 or kind not in "iuUSbf":
        raise DataError(
            f"{expected}, got {label.dtype} {list(label.shape[1:])} for each; of rows of ones and "
            "zeros take label.argmax(1)."
        )
    if kind in "iuf":
        odd = flat[~((flat >= 0) & (flat < MOST_CLASSES) & (flat == np.rint(flat)))]
        if odd.size:
            raise DataError(
                f"{expected}, got {odd[0]:g}; number the classes 0, 1, ... (at most {MOST_CLASSES}"
                "; numpy.unique(label, return_inverse=True) does), and leave out what has none."
            )
    return flat[:, 0]


def pictures(train: np.ndarray, held: np.ndarray, asked: str) -> Pictures | None:
    """The images that numbers are, or None where they are none.

    Raises DataError for images whose channels come first.
    """
    parts, kind = (train, held), train.dtype.kind
    low, high = (min(p.min() for p in parts), max(p.max() for p in parts))
    if train.ndim not in (3, 4) or not low >= 0:
        return None
    if (kind == "f" and high > 1) or (kind in "iu" and high > 255 and train.dtype != np.uint16):
        return None
    shape = train.shape
    if len(shape) == 4 and shape[-1] not in (1, 3) and shape[1] in (1, 3):
        raise DataError(
            f"{asked}: expected images of height, width and channels, got {list(shape[1:])} for "
            "each; write x.transpose(0, 2, 3, 1)."
        )
    first, second = (p[..., None] if p.ndim == 3 else p for p in parts)
    if kind in "iu" and high > 255:
        # 65535 / 255 = 257
        deep = [np.rint(p / np.float32(257)).astype(np.uint8) for p in (first, second)]
        return Pictures((deep[0], deep[1]), 256, "x: images of 16 bits, rounded to 8")
    if kind in "iu" and high > 1:
        note = f"x: images of 8 bits, {low} .. {high} of 0 .. 255"
        bytes_ = [p if p.dtype == np.uint8 else p.astype(np.uint8) for p in (first, second)]
        return Pictures((bytes_[0], bytes_[1]), 256, note)
    floats = [np.asarray(p, np.float32) for p in (first, second)]
    between = any(bool(np.any((p > 0) & (p < 1))) for p in floats)
    if between:
        return Pictures((floats[0], floats[1]), 0, "x: images in [0, 1]")
    return Pictures((floats[0], floats[1]), 2, "x: images of 0 and 1")


def _check_plain(data: Data, x: np.ndarray) -> None:
    """Raises DataError where numbers that are no images are to be treated as such."""
    default = Data()
    for field in IMAGES:
        if getattr(data, field) != getattr(default, field):
            raise DataError(
                f"config.data.{field}={getattr(data, field)!r} is for images, and x of "
                f"{data.source} is none: expected bytes, or floats in [0, 1], of height, width and "
                f"perhaps channels, got {x.dtype} {list(x.shape[1:])} for each, {np.nanmin(x):g} "
                f".. {np.nanmax(x):g}; leave it at {getattr(default, field)!r}."
            )


def _check_pictures(data: Data, found: Pictures) -> None:
    """Raises DataError where images are to be treated as other numbers are, or have no levels."""
    if data.standardise:
        raise DataError(
            f"config.data.standardise is for numbers that are no images, and {data.source} has "
            f"{found.note.removeprefix('x: ')}; set it to False."
        )
    if data.dequantise and not found.levels:
        raise DataError(
            f"config.data.dequantise needs levels, and {data.source} has numbers in [0, 1]; save "
            "them as bytes, or set it to False."
        )
