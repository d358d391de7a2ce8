"""Columns of numbers in a text file, a line for each time: CSV, TSV, or numbers between spaces.

Floor 4. The csv module reads the cells, parted by the first of `DELIMITERS` that gives all lines as
many of them. A file that can be understood in two ways is refused, with the field that says which;
what was understood, and what was left out, is said in notes.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from genjax_zoo.contract import ConfigError, DataError
from genjax_zoo.data.files.tree import counted
from genjax_zoo.data.source import listed
from genjax_zoo.typed import nearest

Header = Literal["auto", "names", "numbers"]
"""What the first line holds: the names of the columns, numbers, or what it looks like."""
DELIMITERS: Mapping[str, str] = {
    ";": "semicolons",
    "\t": "tabs",
    "|": "bars",
    ",": "commas",
    " ": "spaces",
}
"""A comma comes late, for with any other it may be that of a decimal."""
MISSING = {"", "nan", "na", "n/a", "#n/a", "<na>", "null", "none"}
"""How a missing number is written, in any case."""

_MARKED = re.compile(r"[-+]?[\d., '\u00a0\u202f]*\d")
"""A number with a decimal comma, or with marks of thousands."""


class Columns(NamedTuple):
    """What was read.

    Attributes:
      names: of the columns; 1, 2, ... where the file has none.
      x: [T, D] float64, NaN where a number is missing.
      notes: what was understood of the file, a phrase each.
    """

    names: tuple[str, ...]
    x: np.ndarray
    notes: tuple[str, ...]


class Line(NamedTuple):
    """A line's number in the file, from 1, and its cells; a blank line has none."""

    number: int
    cells: list[str]


def read(path: Path, asked: str, columns: Sequence[str] = (), header: Header = "auto") -> Columns:
    """The columns of a file.

    Args:
      path: of the file.
      asked: how the user named it, for messages.
      columns: the names of those that are wanted, in this order; () takes all.
      header: what the first line holds.

    Raises OSError or UnicodeDecodeError where it cannot be read, DataError where it holds anything
    but numbers, or can be understood in two ways, and ConfigError for columns that it has not.
    """
    raw = path.read_bytes()
    text = raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    text = text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n")
    written = text.rstrip("\n").split("\n")
    comments = next((i for i, line in enumerate(written) if not _says_nothing(line)), len(written))
    delimiter, lines = _parted(written, comments, asked)
    above = written[comments - 1] if comments and written[comments - 1][0] == "#" else ""
    last = _cells([above.lstrip("# ")], delimiter)[0].cells if above else []
    names, lines = _headed(lines, last, header, asked)
    width = len(names or next((line.cells for line in lines if line.cells), []))
    # Of one column a blank line is a missing number; of several it is nothing.
    there = [Line(at, cells or [""]) for at, cells in lines if cells or width == 1]
    if len(there) < 2:
        held = counted(len(there), "line")
        raise DataError(f"{asked} holds {held} of numbers; expected 2 or more.")
    notes = []
    if blank := len(lines) - len(there) + text.count("\n") - len(written) + 1:
        notes.append(f"{counted(blank, 'blank line')} left out")
    called = [name or str(i + 1) for i, name in enumerate(names or [""] * width)]
    wanted = list(range(width))
    if columns:
        wanted = [_place(name, called, asked) for name in columns]
        left = [name for i, name in enumerate(called) if i not in wanted]
        notes += [f"left out: {', '.join(left)}"] if left else []
    else:
        if names and width > 1 and (not names[0] or names[0].startswith("Unnamed:")):
            notes.append(_index(there, asked))
            wanted.remove(0)
        unnamed = not (names and names[-1])
        if width > 1 and unnamed and not any(line.cells[-1] for line in there):
            notes.append(f"{DELIMITERS[delimiter]} at the ends of lines, which part nothing")
            wanted.remove(width - 1)
    x = _numbers(there, wanted, called, asked)
    kept = tuple(called[i] for i in wanted)
    if not columns:
        notes += [
            f"{called[i]} counts the lines and is learnt from like any other; name in "
            "config.data.columns those to learn from, if it should not be"
            for i in wanted[:1]
            if names and len(wanted) > 1 and _counting([line.cells[i] for line in there])
        ]
    return Columns(kept, x, (_said(kept, x, bool(names)), *notes))


# --------------------------------------------------------------------------------- lines and cells


def _cells(written: Sequence[str], delimiter: str, before: int = 0) -> list[Line]:
    """Lines as cells, `before` lines into a file; raises csv.Error where quotes part otherwise."""
    if delimiter == " ":
        written = [line.replace("\t", " ").strip() for line in written]
    reader = csv.reader(written, delimiter=delimiter, skipinitialspace=True, strict=True)
    return [Line(before + reader.line_num, [cell.strip() for cell in row]) for row in reader]


def _parted(written: Sequence[str], comments: int, asked: str) -> tuple[str, list[Line]]:
    """What parts the cells, and the lines; raises DataError for lines of several lengths."""
    found: dict[str, list[Line]] = {}
    broken: csv.Error | None = None
    for delimiter in DELIMITERS:
        try:
            found[delimiter] = _cells(written[comments:], delimiter, comments)
        except csv.Error as error:
            broken = error
            continue
        widths = {len(line.cells) for line in found[delimiter] if line.cells}
        if len(widths) == 1 and widths != {1}:
            return delimiter, found[delimiter]
    if "," not in found:
        raise DataError(f"{asked}: expected columns of numbers, got broken quotes ({broken}).")
    # One column, or lines that nothing brings to one length.
    first, *others = [line for line in found[","] if line.cells] or [Line(1, [])]
    for at, cells in others:
        if len(cells) != len(first.cells):
            raise DataError(
                f"{asked}, line {at}: expected {counted(len(first.cells), 'cell')} as in line "
                f"{first.number}, got {len(cells)}: {','.join(cells)[:60]!r}."
            )
    return ",", found[","]


def _says_nothing(line: str) -> bool:
    """Whether a line above all others is a comment, or Excel's of what parts the cells."""
    return line.startswith("#") or re.fullmatch("sep=.", line, re.IGNORECASE) is not None


def _missing(cell: str) -> bool:
    return cell.lower() in MISSING


def _number(cell: str) -> float | None:
    """The number of a cell, NaN where it is missing; None for what is none, or is infinite."""
    if _missing(cell):
        return np.nan
    try:
        number = float(cell) if "_" not in cell else np.inf
    except ValueError:
        return None
    return number if abs(number) <= float(np.finfo(np.float32).max) else None


# ---------------------------------------------------------------------------- the first line, names


def _headed(
    lines: list[Line], comment: Sequence[str], header: Header, asked: str
) -> tuple[Sequence[str], list[Line]]:
    """The names of the columns, () without any, and the lines that hold numbers.

    Args:
      lines: all of them.
      comment: the cells of the comment above them, which may be names, if there is one.
      header: what the first line holds.
      asked: how the user named the file.
    """
    start = next((i for i, line in enumerate(lines) if line.cells), len(lines))
    first, *others = [line.cells for line in lines if line.cells] or [[]]
    rest = lines[start + 1 :]
    if header == "names":
        return first, rest
    words = [i for i, cell in enumerate(first) if _number(cell) is None]
    numbers = [i for i, cell in enumerate(first) if i not in words and not _missing(cell)]
    if header == "numbers" or not first:
        return (), lines
    index = [row[0] for row in others]
    corner = len(first) > 1 and not first[0] and len(index) > 1 and _counting(index)
    if words:
        # Beside numbers a word is a name where what stands below it is a number.
        named = not numbers or all(_number(row[i]) is not None for row in others[:1] for i in words)
        if named and all(_may_be_name(first[i]) for i in words):
            return first, rest
        odd = next((i for i in words if _MARKED.fullmatch(first[i])), None)
        if odd is not None:
            raise DataError(_no_number(asked, lines[start].number, str(odd + 1), first[odd]))
    elif corner:
        return first, rest
    elif len(comment) == len(first):
        return comment, lines
    elif not _maybe_names(first, others):
        return (), lines
    raise DataError(
        f"{asked}: expected a first line of names or one of numbers, got {','.join(first)[:60]!r}, "
        "which may be either; set config.data.header to 'names' or 'numbers'."
    )


def _may_be_name(cell: str) -> bool:
    """Whether a cell that is no number begins as a name does, and says a word: no $1, ? or -inf."""
    infinite = cell.lower().lstrip("+-") in ("inf", "infinity")
    return not infinite and not re.match(r"[^\w#]*\d|[\W\d_]*$", cell)


def _counting(cells: Sequence[str]) -> bool:
    """Whether cells count up: 0, 1, 2, ... or 1871, 1872, ..."""
    if not cells or not all(re.fullmatch(r"\d+", cell) for cell in cells):
        return False
    return [int(cell) for cell in cells] == list(range(int(cells[0]), int(cells[0]) + len(cells)))


def _maybe_names(first: Sequence[str], others: Sequence[Sequence[str]]) -> bool:
    """Whether a line of numbers looks like the names 0, 1, 2, ... that a data frame gives."""
    if not _counting(first) or (len(first) == 1 and first != ["0"]):
        return False
    whole = any(re.fullmatch(r"[-+]?\d+", cell) for row in others for cell in row)
    return len(first) > 2 or not whole


def _place(name: str, names: Sequence[str], asked: str) -> int:
    """Where a wanted column stands."""
    if name not in names:
        raise ConfigError(f"{asked}: {nearest(name, names, 'config.data.columns')}")
    if names.count(name) > 1:
        raise ConfigError(f"{asked} has several columns called {name!r}; name them apart.")
    return names.index(name)


def _index(lines: Sequence[Line], asked: str) -> str:
    """The note that an unnamed first column is left out, which counts the lines and no more."""
    cells = [line.cells[0] for line in lines]
    if not _counting(cells):
        raise DataError(
            f"{asked}: expected a first column without a name to count the lines, got "
            f"{', '.join(cells[:3])}, ...; name in config.data.columns those to learn from."
        )
    return f"left out: the first column, which has no name and counts {cells[0]} .. {cells[-1]}"


# ------------------------------------------------------------------------------------- the numbers


def _numbers(
    lines: Sequence[Line], wanted: Sequence[int], names: Sequence[str], asked: str
) -> np.ndarray:
    """The wanted columns [T, D]; raises DataError for a cell that is no number, or none in all."""
    x = np.empty((len(lines), len(wanted)))
    for t, (at, cells) in enumerate(lines):
        for d, i in enumerate(wanted):
            number = _number(cells[i])
            if number is None:
                raise DataError(_no_number(asked, at, names[i], cells[i]))
            x[t, d] = number
    if (empty := np.isnan(x).all(axis=0)).any():
        name = names[wanted[int(np.argmax(empty))]]
        raise DataError(
            f"{asked}: expected numbers in column {name!r}, and all of it is missing; name in "
            "config.data.columns those to learn from."
        )
    return x


def _no_number(asked: str, line: int, name: str, cell: str) -> str:
    what = f"{asked}, line {line}, column {name!r}: expected a number, got {cell[:40]!r}; "
    if _MARKED.fullmatch(cell):
        # 1,234 is two numbers, in two countries.
        return what + "write it without marks of thousands, and with a decimal point: 1234.5."
    return what + (
        "a missing one is empty, nan or NA; name in config.data.columns those to learn from."
    )


def _said(names: Sequence[str], x: np.ndarray, named: bool) -> str:
    """What the columns are, and what is missing of them."""
    gaps = np.isnan(x).sum(axis=0)
    each = [
        f"{name} ({gap} missing)" if gap else name for name, gap in zip(names, gaps, strict=True)
    ]
    said = f"columns: {listed(each)}" + ("" if named else " (the file names none)")
    empty = int(np.isnan(x).all(axis=1).sum())
    return said + (f", {counted(empty, 'time')} with no number at all" if empty else "")
