"""What of a batch is shown, and how: an array as a picture, words as text.

Floor 6. Nothing here assumes that a batch has an `x`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from genjax_zoo.contract import MEAN
from genjax_zoo.run.record import files, pictures

Symbols = Mapping[str, Sequence[str]]
"""What the values of a categorical array are called, by the array's name."""
RETURN = "⏎"
"""A line's end within a text, of which each is one line."""


def is_text(name: str, array: Any, symbols: Symbols) -> bool:
    """Whether an array holds strings of symbols, [n, T] integers that have names."""
    array = np.asarray(array)
    return name in symbols and array.ndim == 2 and np.issubdtype(array.dtype, np.integer)


def drawn(batch: Mapping[str, Any], symbols: Symbols | None = None) -> str | None:
    """The name of the array that is drawn: the means of x if they are there, else `x`, else the
    first that can be; None if none can."""
    can = [
        name
        for name, array in batch.items()
        if np.ndim(array) >= 2 and not is_text(name, array, symbols or {})
    ]
    return next((name for name in (MEAN, "x") if name in can), next(iter(can), None))


def texts(batch: Mapping[str, Any], symbols: Symbols) -> dict[str, list[str]]:
    """The arrays that are texts, a line each: characters side by side, or words with spaces.

    A symbol without a name, as padding is, leaves nothing.
    """
    found = {}
    for name, array in batch.items():
        if is_text(name, array, symbols):
            called = symbols[name]
            space = "" if max(map(len, called), default=0) <= 1 else " "
            rows = [[called[i] for i in row if called[i]] for row in np.asarray(array).tolist()]
            found[name] = [space.join(row).replace("\n", RETURN) for row in rows]
    return found


class Written(NamedTuple):
    """What `write` has left.

    Attributes:
      picture: the still one [H, W, 3]; None where nothing can be drawn.
      paths: of the files.
    """

    picture: np.ndarray | None
    paths: list[Path]


def write(
    stem: Path,
    batch: Mapping[str, Any],
    symbols: Symbols | None = None,
    reference: Mapping[str, Any] | None = None,
    interval: tuple[float, float] = (0.0, 1.0),
) -> Written:
    """Writes the picture of a batch, STEM.png (and a GIF of clips), and its texts, STEM.txt.

    Args:
      stem: of the files, without their ends.
      batch: what is shown.
      symbols: what its integers are called.
      reference: data that the picture is drawn over, by the same names.
      interval: the values shown black and white.
    """
    name, picture = drawn(batch, symbols), None
    paths: list[Path] = []
    if name is not None:
        under = (reference or {}).get("x" if name == MEAN else name)
        picture, paths = pictures.write(Path(f"{stem}.png"), batch[name], under, *interval)
    said = texts(batch, symbols or {})
    if said:
        rows = ["  ".join(row) for row in zip(*said.values(), strict=True)]
        paths.append(files.write(f"{stem}.txt", "\n".join(rows) + "\n"))
    return Written(picture, paths)
