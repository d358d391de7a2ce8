"""What of a batch is shown, and how: an array as a picture, rows as a table, words as text.

Floor 6. Nothing here assumes that a batch has an `x`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from genjax_zoo.contract import MEAN, PACKED
from genjax_zoo.data.text.tokenizers import Tokenizer
from genjax_zoo.run.record import files, pictures
from genjax_zoo.run.record.plots import Plane

RETURN = "⏎"
"""A line's end within a text, of which each is one line."""
WIDEST = 40
"""A row of more numbers than this is no table that one reads; it is a picture."""


class Look(NamedTuple):
    """How a run's batches are shown: what is known of its data.

    Attributes:
      symbols: what the values of categorical arrays are called, by the array's name.
      interval: the values shown black and white.
      columns: what the numbers of a flat x are called; empty where they have no names.
      reference: data that pictures of points and of series are drawn over, by the same names.
      tokenizer: what makes a text of the symbols of x; None where they are no text.
    """

    symbols: Mapping[str, Sequence[str]] = {}
    interval: tuple[float, float] = (0.0, 1.0)
    columns: Sequence[str] = ()
    reference: Mapping[str, Any] = {}
    tokenizer: Tokenizer | None = None


PLAIN = Look()


def is_text(name: str, array: Any, look: Look) -> bool:
    """Whether an array holds strings of symbols, [n, T] integers that have names."""
    array = np.asarray(array)
    called = name in look.symbols or (name == "x" and look.tokenizer is not None)
    return called and array.ndim == 2 and np.issubdtype(array.dtype, np.integer)


def drawn(batch: Mapping[str, Any], look: Look = PLAIN) -> str | None:
    """The name of the array that is drawn: the means of x if they are there, else `x`, else the
    first that can be; None if none can."""
    can = [
        name
        for name, array in batch.items()
        if np.ndim(array) >= 2 and name not in PACKED and not is_text(name, array, look)
    ]
    return next((name for name in (MEAN, "x") if name in can), next(iter(can), None))


def is_table(array: Any) -> bool:
    """Whether an array is read row by row, [n, D]: not the plane's points, and no long rows."""
    shape = np.shape(array)
    return len(shape) == 2 and shape[1] != 2 and 0 < shape[1] <= WIDEST


def stands_alone(array: Any) -> bool:
    """Whether data are to be shown beside an array, which is not drawn over them already."""
    array = np.asarray(array)
    return not (array.ndim == 3 or (array.ndim == 2 and array.shape[1] == 2))


def texts(batch: Mapping[str, Any], look: Look) -> dict[str, list[str]]:
    """The arrays that are texts, a line each: as their tokenizer has them, else characters side by
    side, or words with spaces.

    A symbol without a name, as padding is, leaves nothing.
    """
    found = {}
    for name, array in batch.items():
        if not is_text(name, array, look):
            continue
        rows = list(np.asarray(array))
        if name in look.symbols:
            called = look.symbols[name]
            space = "" if max(map(len, called), default=0) <= 1 else " "
            # A model may know symbols that the data do not have, as a begin token.
            name_of = lambda i, called=called: called[i] if i < len(called) else f"<{i}>"
            said = [space.join(filter(None, map(name_of, row))) for row in rows]
        elif look.tokenizer is not None:
            if "document" in batch:
                rows = [row[of > 0] for row, of in zip(rows, batch["document"], strict=True)]
            said = [decoded(look.tokenizer, row) for row in rows]
        found[name] = [row.replace("\n", RETURN) for row in said]
    return found


def decoded(tokenizer: Tokenizer, row: np.ndarray) -> str:
    """A text; a symbol that its tokenizer does not have, as a larger model may draw, is <280>."""
    known = (row >= 0) & (row < tokenizer.size)
    runs = np.split(row, np.flatnonzero(np.diff(known)) + 1)
    number = lambda run: "".join(f"<{i}>" for i in run.tolist())
    has = lambda run: len(run) and 0 <= run[0] < tokenizer.size
    return "".join(tokenizer.decode(run) if has(run) else number(run) for run in runs)


def table(
    x: Any, columns: Sequence[str] = (), label: Any = None, called: Sequence[str] = ()
) -> str:
    """Rows x [n, D] as CSV, under their names; behind them their labels [n], if there are any."""
    x = np.asarray(x)
    named = columns if len(columns) == x.shape[1] else [f"x{i + 1}" for i in range(x.shape[1])]
    rows: list[list[str]] = [[f"{value:.6g}" for value in row] for row in x.tolist()]
    header = list(named)
    if label is not None and np.shape(label) == (len(x),):
        header.append("label")
        for row, of in zip(rows, np.asarray(label).tolist(), strict=True):
            row.append(called[of] if 0 <= of < len(called) else str(of))
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows([header, *rows])
    return written.getvalue()


class Written(NamedTuple):
    """What `write` has left.

    Attributes:
      picture: the still one [H, W, 3]; None where nothing can be drawn.
      paths: of the files.
    """

    picture: np.ndarray | None
    paths: list[Path]


def write(
    stem: Path, batch: Mapping[str, Any], look: Look = PLAIN, plane: Plane | None = None
) -> Written:
    """Writes the picture of a batch, STEM.png (and a GIF of clips), or the table of its rows,
    STEM.csv, and its texts, STEM.txt.

    Args:
      stem: of the files, without their ends.
      batch: what is shown.
      look: how.
      plane: what a model says of the plane, drawn under its points.
    """
    name, picture = drawn(batch, look), None
    paths: list[Path] = []
    if name is not None and is_table(batch[name]):
        labels = batch.get("label"), look.symbols.get("label", ())
        paths = [files.write(f"{stem}.csv", table(batch[name], look.columns, *labels))]
    elif name is not None:
        under = look.reference.get("x" if name == MEAN else name)
        drawing = (batch[name], under, *look.interval, plane)
        picture, paths = pictures.write(Path(f"{stem}.png"), *drawing, title=name)
    said = texts(batch, look)
    if said:
        rows = ["  ".join(row) for row in zip(*said.values(), strict=True)]
        paths.append(files.write(f"{stem}.txt", "\n".join(rows) + "\n"))
    return Written(picture, paths)
