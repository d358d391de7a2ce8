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
from genjax_zoo.data.config import TABLES, Data
from genjax_zoo.data.files import columns as files
from genjax_zoo.data.files.columns import Header
from genjax_zoo.data.source import Examples, Source, listed, resident, space_of
from genjax_zoo.typed import choose


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
    columns: tuple[str, ...]


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


def series(
    name: str, columns: Sequence[str] = (), header: Header = "auto"
) -> tuple[np.ndarray, tuple[str, ...]]:
    """An embedded series, or a file of columns of numbers (files/columns.py), a time a line.

    Args:
      name: of the series, or a path.
      columns: the names of those that are wanted; () takes all.
      header: what the first line of the file holds.

    Returns:
      x [T, D], NaN where a number is missing, and notes of what was read.

    Raises DataError where there is no such file, or it holds anything but numbers.
    """
    if name in SERIES:
        if columns:
            raise DataError(
                f"series:{name} has one column and no names; set config.data.columns=()."
            )
        return SERIES[name](), ()
    try:
        read = files.read(pathlib.Path(name).expanduser(), f"series:{name}", columns, header)
    except UnicodeDecodeError as error:
        raise DataError(f"series:{name} is no text in UTF-8 ({error}); save it as such.") from error
    except OSError as error:
        raise DataError(
            f"series:{name} is neither a series of the zoo ({', '.join(SERIES)}) nor a file that "
            f"can be read: {error.strerror or error}."
        ) from error
    return read.x, read.notes


# ---------------------------------------------------------------------------- the sources


def labelled(data: Data, seed: int, name: str) -> Source:
    """The rows of a table and their labels; every fifth is held out."""
    x, label, classes, columns = table(name)
    test = np.arange(len(x)) % 5 == 4
    x, scaled = standardised(data, x, x[~test])
    train, held = (Examples(x[rows], label[rows]) for rows in (~test, test))
    source = resident(
        data,
        seed,
        (train, held),
        "test (every fifth)",
        lambda key, x: jnp.asarray(x),
        preprocessing=f"{data.source}, {x.shape[1]} features{scaled}",
        space=space_of(x),
        classes=classes,
        notes=(f"columns: {listed(columns)}",),
    )
    return source._replace(columns=columns)


ONE_EXAMPLE = (
    "all of it is one example of {} numbers: a model that has no times learns to repeat it"
)
"""The note of a series or a clip."""


def of_times(data: Data, name: str) -> Source:
    """A series, in which one column or several go on together."""
    x, notes = series(name, data.columns, data.header)
    return single(data, x, notes)


def single(data: Data, x: np.ndarray, notes: Sequence[str] = ()) -> Source:
    """One example x [T, ...], which there is no other of to hold out; notes: of its `Source`."""
    x, scaled = standardised(data, x, x)
    whole = Examples(x[None], None)
    shape = "x".join(map(str, x.shape[1:]))
    missing = f", {int(np.isnan(x).sum())} numbers missing" if np.isnan(x).any() else ""
    return resident(
        data,
        0,
        (whole, whole),
        "the training series itself",
        lambda key, x: jnp.asarray(x),
        preprocessing=f"{data.source}, {len(x)} times of {shape}{scaled}{missing}",
        space=space_of(x),
        notes=(ONE_EXAMPLE.format(x.size), *notes),
    )


def standardised(data: Data, x: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, str]:
    """x [N, D] with the training part's mean 0 and deviation 1, if asked; and what to say of it."""
    if not data.standardise:
        return _single_precision(x, train)
    whole = np.asarray(train, np.float64)
    mean, deviation = np.nanmean(whole, axis=0), np.nanstd(whole, axis=0)
    # A constant has the deviation that rounding leaves it.
    varies = deviation > 8 * np.finfo(x.dtype).eps * np.abs(mean)
    scaled = (x - mean) / np.where(varies, deviation, 1)
    return scaled.astype(np.float32), ", standardised by the training part"


def _single_precision(x: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, str]:
    """x as float32, and a warning where that takes a part of what columns vary by in training."""
    single = x.astype(np.float32)
    if single.dtype == x.dtype:
        return x, ""
    lost = np.nanmax(np.abs(single - x), axis=0, initial=0)
    worst = np.max(lost / np.maximum(np.nanstd(train, axis=0, dtype=np.float64), 1e-30))
    if worst < 1e-3:
        return single, ""
    return single, (
        f", rounded by up to {worst:.2g} of a column's deviation (float32): "
        "config.data.standardise=True would not"
    )
