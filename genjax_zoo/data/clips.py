"""Clips: frames in the order of time, made here or read from a folder, an archive or an animation.

Floor 4. A clip is one example, which there is no other of to hold out.
"""

from __future__ import annotations

import collections
import itertools
import pathlib
import posixpath
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from genjax_zoo.contract import DataError
from genjax_zoo.data.config import Data
from genjax_zoo.data.files import image, tree
from genjax_zoo.data.files.tree import counted
from genjax_zoo.data.pixels import fitted, recoloured
from genjax_zoo.data.source import Source
from genjax_zoo.data.tables import single


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


CLIPS: dict[str, Callable[[], np.ndarray]] = {"waves": waves}


class Clip(NamedTuple):
    """Frames in the order of time.

    Attributes:
      x: [T, H, W, 1 or 3] float32 in [0, 1].
      notes: what else was understood.
    """

    x: np.ndarray
    notes: tuple[str, ...] = ()


def opened(data: Data, name: str) -> Source:
    """The clip `name` as a source."""
    found = clip(name, data)
    return single(data, found.x, found.notes)


def clip(name: str, data: Data) -> Clip:
    """A procedural clip, or the frames in a folder, in an archive or in one animated image.

    Args:
      name: of the clip, or a path. Frames of a folder follow each other in the natural order of
        their names: 2 comes before 10.
      data: how frames are resized, recoloured, and what is seen where they are transparent.

    Raises DataError where there are no frames, they differ in size, or cannot be read.
    """
    if name in CLIPS:
        x = CLIPS[name]()
        if not (data.crop or data.resize or data.channels):
            return Clip(x)
        return Clip(_joined(data, list(np.rint(255 * x).astype(np.uint8))))
    path = pathlib.Path(name).expanduser()
    if not path.exists():
        raise DataError(
            f"{data.source} is neither a clip of the zoo ({', '.join(CLIPS)}) nor a folder of "
            f"images, an archive of them, or an animated image: {path.absolute()} is not there."
        )
    if path.is_dir() or tree.is_archive(path):
        frames, notes = _in_folder(data, tree.read(name, data.source))
    else:
        frames, lasting = image.frames(lambda: path.open("rb"), str(path), data.background)
        uneven = f"frames are shown for {min(lasting)} to {max(lasting)} ms, and each is one time"
        notes = [uneven] if len(lasting) > 1 else []
    done = collections.Counter(remark for frame in frames for remark in frame.remarks)
    notes += [f"{remark}: {counted(n, 'frame')}" for remark, n in sorted(done.items())]
    return Clip(_joined(data, [frame.levels for frame in frames]), tuple(notes))


def _in_folder(data: Data, files: tree.Tree) -> tuple[list[image.Image], list[str]]:
    """The frames of a folder, and what was left out."""
    paths = [p for p in files.files if posixpath.splitext(p)[1].lower() in image.ENDINGS]
    folders = sorted({posixpath.dirname(path) for path in paths}, key=tree.natural)
    if len(folders) > 1:
        raise DataError(
            f"{data.source} has frames in {len(folders)} folders ({', '.join(folders[:3])}), and a "
            "clip is one; name one of them."
        )
    others = [path for path in files.files if path not in paths]
    notes = [f"left out {tree.endings(others)}"] if others else []
    read = [
        image.read(files.files[path], f"{files.where}/{path}", data.background) for path in paths
    ]
    return read, [*notes, *_gaps(paths)]


def _gaps(paths: list[str]) -> list[str]:
    """A note where the numbers of frames leave some out, at which time closes up."""
    numbers = [int(found[-1]) for path in paths if (found := re.findall(r"\d+", path))]
    steps = [after - before for before, after in itertools.pairwise(numbers)]
    if len(numbers) < len(paths) or not steps or min(steps) == max(steps) or min(steps) < 1:
        return []
    gaps = [path for path, step in zip(paths, steps, strict=False) if step > min(steps)]
    return [
        f"frames are missing after {gaps[0]} ({counted(len(gaps), 'gap')} in all), and time closes "
        "up there"
    ]


def _joined(data: Data, frames: list[np.ndarray]) -> np.ndarray:
    """Levels [H, W, C] of each frame -> [T, H, W, C] float32 in [0, 1]; grey where all are."""
    if len(frames) < 2:
        raise DataError(f"{data.source} has {counted(len(frames), 'frame')}; expected 2 or more.")
    # Of one that is grey and coloured in turn all frames are coloured.
    sized = [fitted(data, frame if data.channels else recoloured(frame, 3)) for frame in frames]
    sizes = sorted({frame.shape[1::-1] for frame in sized})
    if len(sizes) > 1:
        raise DataError(
            f"{data.source}: the frames differ in size ({', '.join(map(str, sizes))}); set "
            "config.data.resize to a side in pixels."
        )
    x = np.stack(sized).astype(np.float32) / 255
    return x[..., :1] if not data.channels and np.all(x[..., :1] == x) else x
