"""Small data that are no images: tables with labels, series over time, clips of frames.

Floor 4. They are read or made as arrays of numpy; what turns these into sources stands at the end.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageSequence

from genjax_zoo.contract import DataError
from genjax_zoo.data.config import Data
from genjax_zoo.data.source import Examples, Source, resident, space_of
from genjax_zoo.typed import choose

TABLES = ("breast_cancer", "iris", "wine")
FRAME_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"}


class Table(NamedTuple):
    """A table with labels.

    Attributes:
      x: [N, D] float32.
      label: [N] int32.
      classes: the names of the labels, in order.
    """

    x: np.ndarray
    label: np.ndarray
    classes: tuple[str, ...]


def table(name: str) -> Table:
    """One of scikit-learn's embedded tables.

    `breast_cancer` is the Wisconsin diagnostic set: 569 rows, 30 features, 2 classes. `iris` has
    150, 4 and 3, `wine` 178, 13 and 3.
    """
    from sklearn import datasets

    choose(name, dict.fromkeys(TABLES, True), "table")
    bunch = getattr(datasets, f"load_{name}")()
    classes = tuple(map(str, bunch.target_names))
    return Table(bunch.data.astype(np.float32), bunch.target.astype(np.int32), classes)


def nile() -> np.ndarray:
    """The yearly flow of the Nile at Aswan, 1871 to 1970, in 10^8 cubic metres: [100, 1].

    Durbin & Koopman, Time series analysis by state space methods, 2012, section 2.2.
    """
    flow = """
        1120 1160 963 1210 1160 1160 813 1230 1370 1140 995 935 1110 994 1020 960 1180 799 958 1140
        1100 1210 1150 1250 1260 1220 1030 1100 774 840 874 694 940 833 701 916 692 1020 1050 969
        831 726 456 824 702 1120 1100 832 764 821 768 845 864 862 698 845 744 796 1040 759
        781 865 845 944 984 897 822 1010 771 676 649 846 812 742 801 1040 860 874 848 890
        744 749 838 1050 918 986 797 923 975 815 1020 906 901 1170 912 746 919 718 714 740
    """
    return np.array(flow.split(), np.float32)[:, None]


def waves(length: int = 160, side: int = 24, count: int = 4) -> np.ndarray:
    """A texture that moves: plane waves that travel over a field and slowly lose their phase.

        frame_t(r) = Σ_j Re[a_j(t) exp(i k_j·r)],   a_j(t) = ρ exp(i ω_j) a_j(t - 1) + noise

    so that the clip is a linear dynamical system of 2 `count` states, seen through side² pixels.

    Returns:
      [length, side, side, 1] float32 in [0, 1], the same at every call.
    """
    rng = np.random.default_rng(0)
    rho = 0.995
    turns = np.exp(1j * rng.uniform(0.15, 0.7, count))
    angle, waves_across = rng.uniform(0, 2 * np.pi, count), rng.uniform(1, 3, count)
    k = 2 * np.pi * waves_across / side * np.exp(1j * angle)
    row, column = np.mgrid[:side, :side]
    field = np.exp(1j * (k.real[:, None, None] * row + k.imag[:, None, None] * column))
    noise = rng.normal(size=(length, count, 2)) @ [1, 1j] * np.sqrt((1 - rho**2) / 2)
    a = np.exp(2j * np.pi * rng.uniform(size=count))
    frames = np.empty((length, side, side))
    for t in range(length):
        a = rho * turns * a + noise[t]
        frames[t] = np.einsum("j,jrc->rc", a, field).real
    # Grey in the middle; three standard deviations fill the range.
    frames = 0.5 + frames / (6 * frames.std()) + 0.02 * rng.normal(size=frames.shape)
    return np.clip(frames, 0, 1)[..., None].astype(np.float32)


SERIES: dict[str, Callable[[], np.ndarray]] = {"nile": nile}
CLIPS: dict[str, Callable[[], np.ndarray]] = {"waves": waves}


def series(name: str) -> np.ndarray:
    """An embedded series, or a file of numbers, a time a line, a dimension a column: [T, D].

    Columns are separated by commas or by space; one line of names may come first; a missing number
    is empty or `nan`.

    Raises DataError where there is no such file, or it holds anything but numbers.
    """
    if name in SERIES:
        return SERIES[name]()
    path = pathlib.Path(name).expanduser()
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"series:{name} is neither a series of the zoo ({', '.join(SERIES)}) nor a file that "
            f"can be read: {getattr(error, 'strerror', None) or error}."
        ) from error
    cells = [line.split(",") if "," in line else line.split() for line in lines]
    if any("," in line for line in lines) or max(map(len, cells), default=0) > 1:
        # Of one column an empty line is a missing number; of several it is nothing.
        cells = [row for row in cells if any(word.strip() for word in row)]
    else:
        cells = [row or [""] for row in cells]
    if cells and all(word.strip().strip('"').isidentifier() for word in cells[0]):
        named = [word.strip().lower() for word in cells[0]]
        cells = cells if set(named) <= {"nan"} else cells[1:]
    rows = [_numbers(row) for row in cells]
    for row, words in zip(rows, cells, strict=True):
        if row is None or len(row) != len(cells[0]):
            raise DataError(
                f"series:{name}: expected {len(cells[0])} numbers in every line, got "
                f"{','.join(words)!r}; a missing number is empty (between commas) or nan."
            )
    if len(rows) < 2:
        raise DataError(f"series:{name} holds {len(rows)} lines of numbers; expected 2 or more.")
    return np.array(rows, np.float32)


def _numbers(row: list[str]) -> list[float] | None:
    try:
        numbers = [float(word) if word.strip() else np.nan for word in row]
    except ValueError:
        return None
    return None if np.isinf(numbers).any() else numbers


def clip(name: str, side: int = 0) -> np.ndarray:
    """A procedural clip, a folder of frames in the order of their names, or one animated image.

    Args:
      name: of the clip, or a path.
      side: frames are resized to side x side; 0 leaves them as they are.

    Returns:
      [T, H, W, 1 or 3] float32 in [0, 1].

    Raises DataError where there are no frames, or they differ in size.
    """
    if name in CLIPS:
        frames = [Image.fromarray(np.uint8(np.rint(255 * f[..., 0]))) for f in CLIPS[name]()]
        if not side:
            return CLIPS[name]()
        return _stack(frames, side, name)
    path = pathlib.Path(name).expanduser()
    try:
        if path.is_dir():
            files = sorted(p for p in path.iterdir() if p.suffix.lower() in FRAME_ENDINGS)
            frames = [Image.open(p) for p in files]
        else:
            with Image.open(path) as moving:
                frames = [frame.copy() for frame in ImageSequence.Iterator(moving)]
        return _stack(frames, side, name)
    except OSError as error:
        raise DataError(
            f"clip:{name} is neither a clip of the zoo ({', '.join(CLIPS)}), a folder of images "
            f"nor an animated image: {error}."
        ) from error


def _stack(frames: list[Image.Image], side: int, name: str) -> np.ndarray:
    if len(frames) < 2:
        raise DataError(f"clip:{name} has {len(frames)} frames; expected 2 or more.")
    images = [f.convert("RGB") for f in frames]
    if side:
        images = [f.resize((side, side), Image.Resampling.BILINEAR) for f in images]
    sizes = {f.size for f in images}
    if len(sizes) > 1:
        raise DataError(
            f"clip:{name}: the frames differ in size ({', '.join(map(str, sorted(sizes)))}); set "
            "config.data.resize to a side in pixels."
        )
    x = np.stack([np.asarray(f, np.float32) for f in images]) / 255
    grey = np.all(x[..., :1] == x)
    return x[..., :1] if grey else x


# ---------------------------------------------------------------------------- the sources


def labelled(data: Data, seed: int, name: str) -> Source:
    """The rows of a table and their labels; every fifth is held out."""
    x, label, classes = table(name)
    test = np.arange(len(x)) % 5 == 4
    x, standardised = _standardised(data, x, x[~test])
    train, held = (Examples(x[rows], label[rows]) for rows in (~test, test))
    return resident(
        data,
        seed,
        (train, held),
        "test (every fifth)",
        lambda key, x: jnp.asarray(x),
        preprocessing=f"{data.source}, {x.shape[1]} features{standardised}",
        space=space_of(x),
        classes=classes,
    )


def single(data: Data, x: np.ndarray) -> Source:
    """One example x [T, ...], which there is no other of to hold out."""
    x, standardised = _standardised(data, x, x)
    whole = Examples(x[None], None)
    shape = "x".join(map(str, x.shape[1:]))
    missing = f", {int(np.isnan(x).sum())} numbers missing" if np.isnan(x).any() else ""
    return resident(
        data,
        0,
        (whole, whole),
        "the training series itself",
        lambda key, x: jnp.asarray(x),
        preprocessing=f"{data.source}, {len(x)} times of {shape}{standardised}{missing}",
        space=space_of(x),
    )


def _standardised(data: Data, x: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, str]:
    """x [N, D] with the training part's mean 0 and deviation 1, if asked; and what to say of it."""
    if not data.standardise:
        return x, ""
    deviation = np.nanstd(train, axis=0)
    scaled = (x - np.nanmean(train, axis=0)) / np.where(deviation > 0, deviation, 1)
    return scaled.astype(x.dtype), ", standardised by the training part"
