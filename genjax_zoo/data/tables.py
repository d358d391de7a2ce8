"""Small data that are no images: tables with labels, series over time.

Floor 4. They are read or made as arrays of numpy; what turns these into sources stands at the end.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from genjax_zoo.contract import DataError
from genjax_zoo.data.config import Data
from genjax_zoo.data.source import Examples, Source, resident, space_of
from genjax_zoo.typed import choose

TABLES = ("breast_cancer", "iris", "wine")


class Table(NamedTuple):
    """A table with labels.

    Attributes:
      x: [N, D] float32.
      label: [N] int32.
      classes: the names of the labels, in order.
      columns: the names of the features, in order.
    """

    x: np.ndarray
    label: np.ndarray
    classes: tuple[str, ...]
    columns: tuple[str, ...] = ()


def table(name: str) -> Table:
    """One of scikit-learn's embedded tables.

    `breast_cancer` is the Wisconsin diagnostic set: 569 rows, 30 features, 2 classes. `iris` has
    150, 4 and 3, `wine` 178, 13 and 3.
    """
    from sklearn import datasets

    choose(name, dict.fromkeys(TABLES, True), "table")
    bunch = getattr(datasets, f"load_{name}")()
    classes = tuple(map(str, bunch.target_names))
    columns = tuple(map(str, bunch.feature_names))
    return Table(bunch.data.astype(np.float32), bunch.target.astype(np.int32), classes, columns)


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


SERIES: dict[str, Callable[[], np.ndarray]] = {"nile": nile}


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


# ---------------------------------------------------------------------------- the sources


def labelled(data: Data, seed: int, name: str) -> Source:
    """The rows of a table and their labels; every fifth is held out."""
    x, label, classes, columns = table(name)
    test = np.arange(len(x)) % 5 == 4
    x, standardised = _standardised(data, x, x[~test])
    train, held = (Examples(x[rows], label[rows]) for rows in (~test, test))
    source = resident(
        data,
        seed,
        (train, held),
        "test (every fifth)",
        lambda key, x: jnp.asarray(x),
        preprocessing=f"{data.source}, {x.shape[1]} features{standardised}",
        space=space_of(x),
        classes=classes,
    )
    return source._replace(columns=columns)


ONE_EXAMPLE = (
    "all of it is one example of {} numbers: a model that has no times learns to repeat it"
)
"""The note of a series or a clip."""


def single(data: Data, x: np.ndarray, notes: Sequence[str] = ()) -> Source:
    """One example x [T, ...], which there is no other of to hold out; notes: of its `Source`."""
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
        notes=(ONE_EXAMPLE.format(x.size), *notes),
    )


def _standardised(data: Data, x: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, str]:
    """x [N, D] with the training part's mean 0 and deviation 1, if asked; and what to say of it."""
    if not data.standardise:
        return x, ""
    deviation = np.nanstd(train, axis=0)
    scaled = (x - np.nanmean(train, axis=0)) / np.where(deviation > 0, deviation, 1)
    return scaled.astype(x.dtype), ", standardised by the training part"
