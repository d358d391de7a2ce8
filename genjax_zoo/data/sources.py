"""Where data come from: every kind of name that `config.data.source` takes becomes a `Source`.

Floor 4. What a source is, and in what order it is read, stands in data/source.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genjax_zoo.contract import Batch, ConfigError, DataError, Key, categorical
from genjax_zoo.data import scenes, strings, tables
from genjax_zoo.data.densities import DENSITIES
from genjax_zoo.data.source import (
    Data,
    Examples,
    Source,
    check_stack,
    describe,
    drawn,
    fixed,
    interval,
    level,
    order,
    preprocess,
    resident,
    resized,
    space,
    space_of,
    stacked,
)
from genjax_zoo.typed import choose

RESIDENT_BYTES = 2**30
"""A data set up to this size rests on the device."""
IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
HELD_OUT_DRAWS = 10_000
HELD_OUT_SCENES = 2000
KINDS = (
    "digits, density:NAME, table:NAME, series:PATH, clip:PATH, tfds:NAME, folder:PATH, text:PATH, "
    "captions:digits, captions:tfds:NAME, strings:NAME:SYMBOLS"
)


def open_source(data: Data, seed: int, data_dir: str | None = None) -> Source:
    """Opens `data.source`; raises DataError where it is not there or does not fit."""
    kind, _, name = data.source.partition(":")
    openers: dict[str, Callable[[], Source]] = {
        "digits": lambda: _table(data, seed, *_digits()),
        "density": lambda: _density(data, name),
        "table": lambda: _labelled(data, seed, name),
        "series": lambda: _single(data, tables.series(name)),
        "clip": lambda: _single(data, tables.clip(name, data.resize)),
        "tfds": lambda: _tfds(data, seed, name, data_dir),
        "folder": lambda: _folder(data, seed, name),
        "text": lambda: _text(data, seed, _read_text(name), data.source),
        "captions": lambda: _captions(data, seed, name, data_dir),
        "strings": lambda: strings.opened(name, data.length, data.batch_size),
    }
    if kind not in openers or bool(name) != (kind != "digits"):
        raise ConfigError(f"config.data.source={data.source!r} is none of {KINDS}.")
    source = openers[kind]()
    source = source._replace(name=name if kind in ("tfds", "density", "table") else data.source)
    if source.size is not None and source.size < data.batch_size:
        raise DataError(
            f"config.data.batch_size={data.batch_size} is more than the {source.size} training "
            f"examples of {data.source}; choose a smaller batch."
        )
    return source


# --------------------------------------------------------------------------------- sources


def _digits() -> tuple[Examples, Examples, str, int]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = bunch.images.astype(np.uint8)[..., None]
    label = bunch.target.astype(np.int32)
    test = np.arange(len(x)) % 5 == 4
    train = Examples(x[~test], label[~test])
    return train, Examples(x[test], label[test]), "test (every fifth)", 17


def _table(
    data: Data, seed: int, train: Examples, test: Examples, split: str, levels: int
) -> Source:
    train, test = (Examples(resized(i.x, data.resize), i.label) for i in (train, test))
    for part in (train, test):
        check_stack(data, part.label)
    return resident(
        data,
        seed,
        (train, test),
        split,
        preprocess(data, levels),
        preprocessing=describe(data, levels, train.x.shape[1:]),
        space=space(data),
        interval=interval(data, levels),
        level=level(data, levels),
    )


def _labelled(data: Data, seed: int, name: str) -> Source:
    x, label = tables.table(name)
    test = np.arange(len(x)) % 5 == 4
    x, told = _standardised(data, x, x[~test])
    train, held = (Examples(x[rows], label[rows]) for rows in (~test, test))
    return resident(
        data,
        seed,
        (train, held),
        "test (every fifth)",
        lambda key, x: jnp.asarray(x),
        preprocessing=f"{data.source}, {x.shape[1]} features{told}",
        space=space_of(x),
    )


def _single(data: Data, x: np.ndarray) -> Source:
    """One example x [T, ...], which there is no other of to hold out."""
    x, told = _standardised(data, x, x)
    whole = Examples(x[None], None)
    shape = "x".join(map(str, x.shape[1:]))
    missing = f", {int(np.isnan(x).sum())} numbers missing" if np.isnan(x).any() else ""
    return resident(
        data,
        0,
        (whole, whole),
        "the training series itself",
        lambda key, x: jnp.asarray(x),
        preprocessing=f"{data.source}, {len(x)} times of {shape}{told}{missing}",
        space=space_of(x),
    )


def _standardised(data: Data, x: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, str]:
    """x [N, D] with the training part's mean 0 and deviation 1, if asked; and what to say of it."""
    if not data.standardise:
        return x, ""
    deviation = np.nanstd(train, axis=0)
    scaled = (x - np.nanmean(train, axis=0)) / np.where(deviation > 0, deviation, 1)
    return scaled.astype(x.dtype), ", standardised by the training part"


def _density(data: Data, name: str) -> Source:
    density = choose(name, DENSITIES, "density")

    @functools.cache
    def held() -> np.ndarray:
        # The same for every run and seed, like any other test set; apart from every step's key.
        return np.asarray(density.sample(jax.random.key(2**31 - 1), HELD_OUT_DRAWS))

    return Source(
        resident=(),
        feed=lambda step, rows: np.zeros(data.batch_size, np.int8)[rows],
        batch=lambda key, resident, feed: {"x": density.sample(key, feed.shape[0])},
        held_out=lambda key, first, last: {"x": jnp.asarray(held()[first:last])},
        held_out_split="held-out draws",
        held_out_size=HELD_OUT_DRAWS,
        size=None,
        preprocessing=f"{data.source}, as drawn",
        density=density,
        spaces={"x": density.space},
    )


def _captions(data: Data, seed: int, name: str, data_dir: str | None) -> Source:
    """Scenes of coloured digits and their captions (scenes.py), drawn inside the step.

    Every scene of the training part is of training digits, and has no held-out pair of colour and
    digit; every held-out one is of test digits, and has one.
    """
    side = data.resize or (14 if name == "tfds:mnist" else 0)
    plain = dataclasses.replace(data, source=name, scale="unit", resize=side)
    digits = open_source(plain, seed, data_dir)
    if digits.training is None or digits.size is None or digits.spaces["label"].size != 10:
        raise DataError(
            f"captions:{name} needs labelled images of the ten digits; choose captions:digits or "
            "captions:tfds:mnist."
        )
    parts = []
    for take, size in ((digits.training, digits.size), (digits.held_out, digits.held_out_size)):
        whole = jax.tree.map(np.asarray, take(jax.random.key(0), 0, size))
        x = whole["x"]
        if x.shape[1] != x.shape[2] or x.shape[1] % 2 or x.shape[3] != 1:
            raise DataError(
                f"captions:{name} needs grey squares of an even side, got {list(x.shape[1:])}; set "
                "config.data.resize to an even side."
            )
        parts.append(Examples(np.asarray(x[..., 0], np.float32), whole["label"]))
    train, test = parts
    low, high = interval(data, 2)

    def drawn_of(key: Key, images: Any, label: Any, unseen: Any) -> Batch:
        scene = scenes.scenes(key, jnp.asarray(label, jnp.int32), unseen)
        x = low + (high - low) * scenes.draw(scene, jnp.asarray(images))
        return {"x": x, "text": scenes.tokens(scene)}

    def batch(key: Key, rest: Examples, rows: Any) -> Batch:
        return drawn_of(key, rest.x[rows], rest.label[rows], jnp.zeros(rows.shape, bool))

    @functools.cache
    def held() -> Batch:
        # The same for every run and seed, like any other test set.
        n = HELD_OUT_SCENES
        dice = np.random.default_rng(0)
        any_digit = dice.integers(0, len(test.x), (n, 2))
        rare = dice.choice(np.flatnonzero(np.isin(test.label, scenes.UNSEEN)), (n, 2))
        unseen = np.asarray(scenes.hidden(n))
        rows = np.where(unseen, rare, any_digit)
        made = drawn_of(jax.random.key(2**31 - 1), test.x[rows], test.label[rows], unseen)
        return jax.tree.map(np.asarray, made)

    two = dataclasses.replace(plain, stack=2)
    shape = (2 * train.x.shape[1], 2 * train.x.shape[1], 3)
    return Source(
        resident=train,
        feed=lambda step, rows: drawn(two, seed, len(train.x), step)[rows],
        batch=batch,
        held_out=lambda key, first, last: {k: v[first:last] for k, v in held().items()},
        held_out_split=f"held-out combinations of {digits.held_out_split} digits",
        held_out_size=HELD_OUT_SCENES,
        size=None,
        preprocessing=f"{data.source}, scenes {'x'.join(map(str, shape))} in [{low:g}, {high:g}]",
        interval=(low, high),
        spaces={"x": space(two), "text": categorical(len(scenes.WORDS))},
        symbols={"text": scenes.WORDS},
    )


def tokeniser(data: Data) -> Callable[[str], np.ndarray] | None:
    """What makes tokens [T] of words where the data have captions, or None."""
    return scenes.read if data.source.startswith("captions:") else None


def _tfds(data: Data, seed: int, name: str, data_dir: str | None) -> Source:
    import tensorflow_datasets as tfds

    where = data_dir or tfds.core.constants.DATA_DIR

    @contextlib.contextmanager
    def told() -> Iterator[None]:
        try:
            yield
        except Exception as error:
            why = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise DataError(_no_tfds(name, where, why)) from error

    with told():
        builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
        splits = builder.info.splits
    if not splits:
        raise DataError(_no_tfds(name, where, "it is not prepared there"))
    held = next((s for s in ("test", "validation") if s in splits), None)
    if "train" not in splits or held is None:
        raise DataError(
            f"tfds:{name} needs a train and a test (or validation) split; it has "
            f"{', '.join(splits)}."
        )
    features = builder.info.features or {}
    if "text" in features:
        names = ["train", *(s for s in ("validation", "test") if s in splits)]
        read = lambda s: b"".join(r["text"] for r in builder.as_data_source(split=s)).decode()
        with told():
            texts = {s: read(s) for s in names}
        held_text = "".join(texts[s] for s in names[1:])
        return _text(data, seed, (texts["train"], held_text, "+".join(names[1:])), data.source)
    if "image" not in features or features["image"].np_dtype != np.uint8:
        raise DataError(
            f"tfds:{name} has the features {', '.join(features)}; expected an 'image' of bytes "
            "or a 'text'."
        )
    with told():
        train, test = (_TfdsRecords(builder.as_data_source(split=s)) for s in ("train", held))
    return _records(data, seed, train, test, held)


def _no_tfds(name: str, where: str, why: str) -> str:
    return (
        f"tfds:{name} cannot be read from {where} ({why}). Prepare it once on a machine with "
        f"TensorFlow: tfds.builder({name!r}, data_dir=..., file_format='array_record')"
        ".download_and_prepare(), and pass that folder as --data_dir. "
        f"Without any download: digits, {', '.join('density:' + d for d in DENSITIES)}."
    )


class _TfdsRecords:
    """Random access to (image uint8 [H, W, C], label or None)."""

    def __init__(self, source: Any):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def read(self, rows: Sequence[int]) -> list[tuple[np.ndarray, int | None]]:
        records = self._source.__getitems__([int(r) for r in rows])
        return [(r["image"], int(r["label"]) if "label" in r else None) for r in records]


class _FolderRecords:
    """Random access to a list of image files; a file's folder is its label if there are two."""

    def __init__(self, files: list[tuple[pathlib.Path, int | None]]):
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def read(self, rows: Sequence[int]) -> list[tuple[np.ndarray, int | None]]:
        return [(_read_image(self._files[r][0]), self._files[r][1]) for r in rows]


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


def _records(data: Data, seed: int, train: Any, test: Any, split: str) -> Source:
    """Image records: into a table if they are small, read as they are needed otherwise."""
    first = _image_batch(train.read([0]), data.resize)
    check_stack(data, first.label)
    size, shape = len(train), first.x.shape[1:]
    if first.x.nbytes * (size + len(test)) <= RESIDENT_BYTES:
        whole = [_read_all(records, data.resize, shape) for records in (train, test)]
        return _table(data, seed, whole[0], whole[1], split, 256)
    process = preprocess(data, 256)

    def batch_of(key: Key, raw: Examples) -> Batch:
        made = {"x": process(key, raw.x)}
        return made if raw.label is None else {**made, "label": jnp.asarray(raw.label)}

    def read(records: Any, rows: np.ndarray) -> Examples:
        flat = _image_batch(records.read(rows.reshape(-1)), data.resize, shape)
        check_stack(data, flat.label)
        if data.stack == 1:
            return flat
        x, label = flat.x.reshape(*rows.shape, *shape), flat.label.reshape(rows.shape)
        return stacked(data, Examples(x, label))

    held, kept = fixed(data, len(test)), fixed(data, size)
    return Source(
        resident=(),
        feed=lambda step, rows: read(train, drawn(data, seed, size, step)[rows]),
        batch=lambda key, resident, raw: batch_of(key, raw),
        held_out=lambda key, first, last: batch_of(key, read(test, held[first:last])),
        held_out_split=split,
        held_out_size=len(test),
        size=size,
        preprocessing=describe(data, 256, shape),
        interval=interval(data, 256),
        level=level(data, 256),
        training=lambda key, first, last: batch_of(key, read(train, kept[first:last])),
        spaces={"x": space(data), **({} if first.label is None else {"label": categorical()})},
    )


def _read_all(records: Any, side: int, shape: tuple[int, ...]) -> Examples:
    """All images of a set that is known to fit; a block at a time, so that it is held once."""
    x = np.empty((len(records), *shape), np.uint8)
    labels: list[np.ndarray] = []
    for first in range(0, len(records), 1024):
        rows = range(len(records))[first : first + 1024]
        part = _image_batch(records.read(rows), side, shape)
        x[first : first + 1024] = part.x
        labels += [] if part.label is None else [part.label]
    return Examples(x, np.concatenate(labels) if labels else None)


def _image_batch(
    records: list[tuple[np.ndarray, int | None]], side: int, shape: tuple[int, ...] | None = None
) -> Examples:
    """Stacks images, resized; raises DataError where their shapes differ."""
    images = [resized(image, side) for image, _ in records]
    shapes = {image.shape for image in images} | ({shape} if shape else set())
    if len(shapes) > 1:
        raise DataError(
            f"the images differ in shape ({', '.join(map(str, sorted(shapes)))}); set "
            "config.data.resize to a side in pixels (and keep grey and colour apart)."
        )
    labels = [label for _, label in records]
    known = all(label is not None for label in labels)
    return Examples(np.stack(images), np.array(labels, np.int32) if known else None)


def _folder(data: Data, seed: int, name: str) -> Source:
    root = pathlib.Path(name).expanduser()
    if not root.is_dir():
        raise DataError(f"folder:{name}: there is no such folder ({root.absolute()}).")
    held = next((n for n in ("test", "validation", "val") if (root / n).is_dir()), "")
    folders = [root / "train", root / held] if held and (root / "train").is_dir() else [root]
    parts = [_files(folder) for folder in folders]
    for folder, files in zip(folders, parts, strict=True):
        if not files:
            endings = " ".join(sorted(IMAGE_ENDINGS))
            raise DataError(f"{folder} holds no image (looked for {endings}, in all subfolders).")
    if len(parts) == 1:
        (files,) = parts
        tenth = [f for i, f in enumerate(files) if i % 10 == 9]
        parts = [[f for i, f in enumerate(files) if i % 10 != 9], tenth or files]
        held = "test (every tenth)" if tenth else "the training images themselves"
    # A class is a folder's name below its root, and has one number in both parts.
    classes = sorted({c for files in parts for _, c in files})
    number = {c: i for i, c in enumerate(classes)} if len(classes) > 1 else {}
    train, test = (_FolderRecords([(p, number.get(c)) for p, c in files]) for files in parts)
    return _records(data, seed, train, test, held)


def _files(root: pathlib.Path) -> list[tuple[pathlib.Path, str]]:
    """The images below a folder, each with the name of its own folder; hidden ones are left out."""
    found = sorted(p.relative_to(root) for p in root.rglob("*"))
    seen = [p for p in found if not any(part.startswith(".") for part in p.parts)]
    images = [p for p in seen if p.suffix.lower() in IMAGE_ENDINGS]
    return [(root / p, str(p.parent)) for p in images]


def _read_text(name: str) -> tuple[str, str, str]:
    path = pathlib.Path(name).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"text:{name} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"text:{name} is not UTF-8 ({error.reason}); convert it first.") from error
    cut = len(text) * 9 // 10
    return text[:cut], text[cut:], "validation (last tenth)"


def vocabulary(text: str) -> Mapping[str, int]:
    """The characters of a text in sorted order, numbered."""
    return {c: i for i, c in enumerate(sorted(set(text)))}


def _text(data: Data, seed: int, parts: tuple[str, str, str], name: str) -> Source:
    """Windows of `length` characters, as int32 [B, length]; training ones start anywhere."""
    train, held, split = parts
    codes = vocabulary(train + held)
    coded = [np.array([codes[c] for c in part], np.int32) for part in (train, held)]
    size, windows = len(coded[0]) - data.length + 1, len(coded[1]) // data.length
    if size < 1 or windows < 1:
        raise DataError(
            f"{name} has {len(train)} + {len(held)} characters, too few for "
            f"config.data.length={data.length}; choose a shorter one."
        )
    blocks = coded[1][: windows * data.length].reshape(windows, data.length)
    offsets = jnp.arange(data.length)
    return Source(
        resident=coded[0],
        feed=lambda step, rows: order(seed, size, data.batch_size, step)[rows],
        batch=lambda key, text, starts: {"x": text[starts[:, None] + offsets]},
        held_out=lambda key, first, last: {"x": jnp.asarray(blocks[first:last])},
        held_out_split=split,
        held_out_size=windows,
        size=size,
        preprocessing=f"{name}, characters, {len(codes)} symbols, windows of {data.length}",
        spaces={"x": categorical(len(codes))},
        symbols={"x": tuple(codes)},
    )
