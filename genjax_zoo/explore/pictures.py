"""Pictures, films and texts of what is decoded, in the folder of explore.json. Floor 7."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from genjax_zoo.explore.subject import Subject
from genjax_zoo.run.record import files, pictures, plots


class Shown(NamedTuple):
    """What is shown at once.

    Attributes:
      files: names of its pictures or texts, in the folder of explore.json.
      caption: which examples, which latents, which distance.
      numbers: by name; empty for most.
    """

    files: list[str]
    caption: str
    numbers: Mapping[str, float] = {}


def is_image(x: np.ndarray) -> bool:
    """Whether [n, ...] are images, one of which can stand beside another."""
    return x.ndim == 4 and x.shape[-1] in (1, 3)


def picture(subject: Subject, *blocks: np.ndarray) -> np.ndarray:
    """Blocks [rows, columns, ...] side by side; points and series in one frame of the data."""
    low, high = subject.source.interval
    flattened = [b.reshape(-1, *b.shape[2:]) for b in blocks]
    if is_image(flattened[0]):
        parts = [
            pictures.grid(x, block.shape[1], low, high)
            for x, block in zip(flattened, blocks, strict=True)
        ]
        return pictures.beside(*parts)
    if flattened[0].shape[1:] == (2,):
        # A row is a path; those of all blocks have the same colours.
        return plots.trails([row for block in blocks for row in block], subject.pool["x"])
    return pictures.picture(np.concatenate(flattened), subject.pool["x"], low, high)


def pairs_of_columns(rows: np.ndarray) -> list[np.ndarray]:
    """Rows [R, C, ...] cut into pairs of columns."""
    return [rows[:, first : first + 2] for first in range(0, rows.shape[1], 2)]


def in_order(subject: Subject) -> str:
    """Where a caption's list of rows begins."""
    return "From the top" if is_image(subject.pool["x"]) else "In turn"


def write(subject: Subject, name: str, pixels: np.ndarray) -> str:
    """Writes one picture; the name of its file."""
    return pictures.write_png(subject.folder / f"{name}.png", pixels).name


def write_lines(subject: Subject, name: str, lines: Sequence[str]) -> str:
    """Writes one text; the name of its file."""
    return files.write(subject.folder / f"{name}.txt", "\n".join(lines) + "\n").name


def animate(subject: Subject, name: str, frames: np.ndarray) -> list[str]:
    """Frames [T, N, ...], N things side by side, as a GIF; nothing for what is no image."""
    if not is_image(frames[0]):
        return []
    low, high = subject.source.interval
    film = [pictures.grid(x, min(len(x), 3), low, high) for x in frames]
    factor = max(1, 240 // max(film[0].shape[:2]))
    film = [frame.repeat(factor, 0).repeat(factor, 1) for frame in film]
    return [pictures.write_gif(subject.folder / f"{name}.gif", film).name]
