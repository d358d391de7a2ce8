"""Data: batch i is a function of (seed, i) alone.

Floor 4. Three kinds of source become one shape, a `Source`:

    a table    rests on the device whole; the host sends row numbers       digits, MNIST, series
    records    stay on disk; grain's threads read and send the rows        large tfds sets, folders
    a density  is drawn inside the compiled step; the host sends nothing   2-D toys

The order of epoch e is numpy's Philox permutation keyed by (seed, e): random access to any batch,
and 40 times less of a core than asking for one shuffled index at a time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import grain
import jax
import jax.numpy as jnp
import numpy as np

from genjax_zoo.contract import Batch, ConfigError, DataError, Key
from genjax_zoo.densities import DENSITIES, Density
from genjax_zoo.run import tables
from genjax_zoo.typed import choose

RESIDENT_BYTES = 2**30
"""A data set up to this size rests on the device."""
IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
HELD_OUT_DRAWS = 10_000
KINDS = (
    "digits, density:NAME, table:NAME, series:PATH, clip:PATH, tfds:NAME, folder:PATH, text:PATH"
)


@dataclasses.dataclass(frozen=True)
class Data:
    """What is learnt from, and all that is done to it on the way.

    Attributes:
      source: digits | density:NAME | table:NAME | series:PATH | clip:PATH | tfds:NAME |
        folder:PATH | text:PATH. A series and a clip are one example each.
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
      length: characters in an example of a text.
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


_NO_IMAGES = ("density:", "text:", "table:", "series:", "clip:")
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
      name: of the data, however they are preprocessed: digits, mnist, ring.
      training: (key, first, last) -> batch of the training examples first <= i < last; not
        jitted. None where they have no end.
      density: what draws the data, with its modes, if it is one of densities.DENSITIES.
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
    name: str = ""
    training: Callable[[Key, int, int], Batch] | None = None
    density: Density | None = None


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


def _drawn(data: Data, seed: int, size: int, step: int) -> np.ndarray:
    """Rows of batch `step`, [batch_size]; of stacks [batch_size, stack].

    Each place of a stack goes through all images in an order of its own, independent of the rest.
    """
    if data.stack == 1:
        return order(seed, size, data.batch_size, step)
    # A seed is below 2**32, so no other run has these.
    seeds = [seed + (k << 32) for k in range(data.stack)]
    return np.stack([order(s, size, data.batch_size, step) for s in seeds], axis=1)


def _fixed(data: Data, size: int) -> np.ndarray:
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


def _preprocess(data: Data, levels: int) -> Callable[[Key, Any], jax.Array]:
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
        low, high = _interval(data, levels)
        return low + (high - low) * unit

    return process


def _interval(data: Data, levels: int) -> tuple[float, float]:
    """The range that `scale` gives the values; noise of a level lifts the top by one level."""
    top = float(levels if data.dequantise else levels - 1)
    return {"unit": (0.0, 1.0), "symmetric": (-1.0, 1.0), "raw": (0.0, top)}[data.scale]


def _describe(data: Data, levels: int, shape: Sequence[int]) -> str:
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
        low, high = _interval(data, levels)
        values = f"grey levels scaled to [{low:g}, {high:g}]"
        if data.dequantise:
            values += f", dequantised uniformly ({levels} levels)"
    return f"{data.source}, {size}, {values}"


# --------------------------------------------------------------------------------- sources


class _Images(NamedTuple):
    x: Any
    label: Any


def _stacked(data: Data, images: _Images) -> _Images:
    """x [B, S, H, W, C] -> [B, H, W, S C] and label [B, S] -> [B]; what is no stack is left."""
    if data.stack == 1:
        return images
    x = images.x.transpose(0, 2, 3, 1, 4)
    # label = Σ_k label_k 10^k
    places = 10 ** np.arange(data.stack, dtype=np.int32)
    return _Images(x.reshape(*x.shape[:3], -1), (images.label * places).sum(1, dtype=np.int32))


def _check_stack(data: Data, label: np.ndarray | None) -> None:
    """Raises DataError where the labels cannot be the digits of another."""
    if data.stack > 1 and (label is None or not np.all((label >= 0) & (label < 10))):
        found = "no labels" if label is None else f"labels from {label.min()} to {label.max()}"
        raise DataError(
            f"config.data.stack={data.stack} makes a label of the labels 0 .. 9 of its images, and "
            f"{data.source} has {found}; choose other data or set stack to 1."
        )


def _digits() -> tuple[_Images, _Images, str, int]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = bunch.images.astype(np.uint8)[..., None]
    label = bunch.target.astype(np.int32)
    test = np.arange(len(x)) % 5 == 4
    train = _Images(x[~test], label[~test])
    return train, _Images(x[test], label[test]), "test (every fifth)", 17


def _table(data: Data, seed: int, train: _Images, test: _Images, split: str, levels: int) -> Source:
    train, test = (_Images(_resized(i.x, data.resize), i.label) for i in (train, test))
    for part in (train, test):
        _check_stack(data, part.label)
    return _resident(
        data,
        seed,
        (train, test),
        split,
        _preprocess(data, levels),
        preprocessing=_describe(data, levels, train.x.shape[1:]),
        interval=_interval(data, levels),
    )


def _resident(
    data: Data,
    seed: int,
    parts: tuple[_Images, _Images],
    split: str,
    process: Callable[[Key, Any], jax.Array],
    preprocessing: str,
    interval: tuple[float, float] = (0.0, 1.0),
) -> Source:
    """Examples, for training and held out, that rest on the device, whatever they are."""
    train, test = parts
    size = len(train.x)

    def batch_of(key: Key, x: Any, label: Any) -> Batch:
        made = {"x": process(key, x)}
        return made if label is None else {**made, "label": jnp.asarray(label, jnp.int32)}

    def take(images: _Images, rows: Any) -> _Images:
        label = None if images.label is None else images.label[rows]
        return _stacked(data, _Images(images.x[rows], label))

    def fixed(images: _Images, first: int, last: int) -> _Images:
        return take(images, _fixed(data, len(images.x))[first:last])

    return Source(
        resident=train,
        feed=lambda step, rows: _drawn(data, seed, size, step)[rows],
        batch=lambda key, resident, rows: batch_of(key, *take(resident, rows)),
        held_out=lambda key, first, last: batch_of(key, *fixed(test, first, last)),
        held_out_split=split,
        held_out_size=len(test.x),
        size=size,
        preprocessing=preprocessing,
        interval=interval,
        training=lambda key, first, last: batch_of(key, *fixed(train, first, last)),
    )


def _labelled(data: Data, seed: int, name: str) -> Source:
    x, label = tables.table(name)
    test = np.arange(len(x)) % 5 == 4
    x, told = _standardised(data, x, x[~test])
    train, held = (_Images(x[rows], label[rows]) for rows in (~test, test))
    return _resident(
        data,
        seed,
        (train, held),
        "test (every fifth)",
        lambda key, x: jnp.asarray(x),
        preprocessing=f"{data.source}, {x.shape[1]} features{told}",
    )


def _single(data: Data, x: np.ndarray) -> Source:
    """One example x [T, ...], which there is no other of to hold out."""
    x, told = _standardised(data, x, x)
    whole = _Images(x[None], None)
    shape = "x".join(map(str, x.shape[1:]))
    missing = f", {int(np.isnan(x).sum())} numbers missing" if np.isnan(x).any() else ""
    return _resident(
        data,
        0,
        (whole, whole),
        "the training series itself",
        lambda key, x: jnp.asarray(x),
        preprocessing=f"{data.source}, {len(x)} times of {shape}{told}{missing}",
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
    )


def _resized(x: np.ndarray, side: int) -> np.ndarray:
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
    _check_stack(data, first.label)
    size, shape = len(train), first.x.shape[1:]
    if first.x.nbytes * (size + len(test)) <= RESIDENT_BYTES:
        whole = [_read_all(records, data.resize, shape) for records in (train, test)]
        return _table(data, seed, whole[0], whole[1], split, 256)
    process = _preprocess(data, 256)

    def batch_of(key: Key, raw: _Images) -> Batch:
        made = {"x": process(key, raw.x)}
        return made if raw.label is None else {**made, "label": jnp.asarray(raw.label)}

    def read(records: Any, rows: np.ndarray) -> _Images:
        flat = _image_batch(records.read(rows.reshape(-1)), data.resize, shape)
        _check_stack(data, flat.label)
        if data.stack == 1:
            return flat
        x, label = flat.x.reshape(*rows.shape, *shape), flat.label.reshape(rows.shape)
        return _stacked(data, _Images(x, label))

    held, kept = _fixed(data, len(test)), _fixed(data, size)
    return Source(
        resident=(),
        feed=lambda step, rows: read(train, _drawn(data, seed, size, step)[rows]),
        batch=lambda key, resident, raw: batch_of(key, raw),
        held_out=lambda key, first, last: batch_of(key, read(test, held[first:last])),
        held_out_split=split,
        held_out_size=len(test),
        size=size,
        preprocessing=_describe(data, 256, shape),
        interval=_interval(data, 256),
        training=lambda key, first, last: batch_of(key, read(train, kept[first:last])),
    )


def _read_all(records: Any, side: int, shape: tuple[int, ...]) -> _Images:
    """All images of a set that is known to fit; a block at a time, so that it is held once."""
    x = np.empty((len(records), *shape), np.uint8)
    labels: list[np.ndarray] = []
    for first in range(0, len(records), 1024):
        rows = range(len(records))[first : first + 1024]
        part = _image_batch(records.read(rows), side, shape)
        x[first : first + 1024] = part.x
        labels += [] if part.label is None else [part.label]
    return _Images(x, np.concatenate(labels) if labels else None)


def _image_batch(
    records: list[tuple[np.ndarray, int | None]], side: int, shape: tuple[int, ...] | None = None
) -> _Images:
    """Stacks images, resized; raises DataError where their shapes differ."""
    images = [_resized(image, side) for image, _ in records]
    shapes = {image.shape for image in images} | ({shape} if shape else set())
    if len(shapes) > 1:
        raise DataError(
            f"the images differ in shape ({', '.join(map(str, sorted(shapes)))}); set "
            "config.data.resize to a side in pixels (and keep grey and colour apart)."
        )
    labels = [label for _, label in records]
    known = all(label is not None for label in labels)
    return _Images(np.stack(images), np.array(labels, np.int32) if known else None)


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
    )
