"""Parquet files, as the Hugging Face hub stores data sets: images, texts or tables of numbers.

    data/train-00000-of-00002.parquet  data/train-00001-of-00002.parquet  data/test-....parquet

https://huggingface.co/docs/hub/datasets-file-names-and-splits. They are read by pyarrow, which the
extra `parquet` installs. Floor 4.
"""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from genjax_zoo.contract import DataError
from genjax_zoo.data import arrays
from genjax_zoo.data.config import Data
from genjax_zoo.data.files import tree
from genjax_zoo.data.files.splits import split_of
from genjax_zoo.data.source import NEW, Own, Source
from genjax_zoo.data.text.corpus import Corpus
from genjax_zoo.data.text.sources import of_corpus
from genjax_zoo.data.text.tokenizer import utf8


class Columns(NamedTuple):
    """Which columns of a table are what.

    Attributes:
      image: of image files; None without one.
      text: of captions, or of what is to be written; None without one.
      label: of classes; None without one.
      numbers: all other ones of numbers.
      unread: what is left.
      classes: the names of the labels, where the file says them.
    """

    image: str | None
    text: str | None
    label: str | None
    numbers: tuple[str, ...]
    unread: tuple[str, ...]
    classes: tuple[str, ...]


def opened(data: Data, seed: int, name: str, own: Own = NEW) -> Source:
    """The parquet files of a path: one, or all below a folder, whose names say the split.

    Raises DataError where they cannot be read, or hold nothing that can be learnt from.
    """
    tables = _read(name, data.source)
    first = next(iter(tables.values()))
    columns = columns_of(first.schema, data.source)
    if columns.image is None and not columns.numbers:
        return _text(data, seed, tables, columns, own)
    held: dict[str, np.ndarray] = {}
    for split, table in tables.items():
        said = _roles(table, columns, data.source)
        held |= {f"{role}_{split}" if split else role: array for role, array in said.items()}
    if columns.classes:
        held["classes"] = np.array(columns.classes)
    read = arrays.arranged(held, data.source)
    notes = list(read.notes)
    if columns.image is None:
        notes.insert(0, f"columns: {', '.join(columns.numbers)}")
    if columns.unread:
        notes.append(f"columns that were not read: {', '.join(columns.unread)}")
    source = arrays.source(data, seed, read._replace(notes=tuple(notes)))
    return source if columns.image is not None else source._replace(columns=tuple(columns.numbers))


def columns_of(schema: Any, asked: str) -> Columns:
    """Which columns of a pyarrow schema are what.

    Raises DataError where there is nothing to learn from.
    """
    from pyarrow import types

    kinds = {field.name: field.type for field in schema}

    def is_word(kind: Any) -> bool:
        # What pandas calls a category is a dictionary here.
        kind = kind.value_type if types.is_dictionary(kind) else kind
        return types.is_string(kind) or types.is_large_string(kind)

    def is_image(kind: Any) -> bool:
        inner = types.is_struct(kind) and {f.name for f in kind} >= {"bytes"}
        return inner or types.is_binary(kind) or types.is_large_binary(kind)

    def first(role: str, fits: Any) -> str | None:
        fitting = (n for n, kind in kinds.items() if arrays.role_of(n) == ("", role) and fits(kind))
        return next(fitting, None)

    image = next((n for n, kind in kinds.items() if is_image(kind)), None)
    label = first("label", lambda kind: types.is_integer(kind) or is_word(kind))
    said = first("text", is_word)
    numeric = lambda kind: (
        types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
    )
    numbers = tuple(n for n, kind in kinds.items() if numeric(kind) and n != label)
    if image is not None:
        numbers = ()
    if image is None and said is None and not numbers:
        raise DataError(
            f"{asked} has the columns {', '.join(map(str, schema.names))}; expected one of images, "
            "one called text, or some of numbers."
        )
    used = {image, said, label, *numbers}
    unread = tuple(name for name in kinds if name not in used)
    return Columns(image, said, label, numbers, unread, _classes(schema, label))


def _classes(schema: Any, label: str | None) -> tuple[str, ...]:
    """The names of the labels that the library `datasets` has written into a schema."""
    try:
        about = json.loads((schema.metadata or {})[b"huggingface"])
        return tuple(map(str, about["info"]["features"][label]["names"]))
    except (KeyError, ValueError, TypeError):
        return ()


def _roles(table: Any, columns: Columns, asked: str) -> dict[str, np.ndarray]:
    """The arrays of a table by "x", "label" and "text"."""
    found = {}
    if columns.image is not None:
        cells = table.column(columns.image).to_pylist()
        files = [cell.get("bytes") if isinstance(cell, dict) else cell for cell in cells]
        if any(file is None for file in files):
            raise DataError(
                f"{asked}: {columns.image} has {sum(f is None for f in files)} cells without an "
                "image; expected the bytes of its file in each."
            )
        x = np.empty(len(files), object)
        x[:] = files
        found["x"] = x
    else:
        numbers = [_column(table, name, np.float64) for name in columns.numbers]
        found["x"] = np.stack(numbers, axis=1)
    if columns.label is not None:
        found["label"] = _column(table, columns.label)
    if columns.text is not None and columns.image is not None:
        found["text"] = np.array([text or "" for text in table.column(columns.text).to_pylist()])
    return found


def _column(table: Any, name: str, dtype: Any = None) -> np.ndarray:
    cells = table.column(name)
    made = cells.to_numpy(zero_copy_only=False) if dtype else np.array(cells.to_pylist())
    return made.astype(dtype or made.dtype)


def _text(data: Data, seed: int, tables: Mapping[str, Any], columns: Columns, own: Own) -> Source:
    """A column of texts, end to end, as one long text."""
    whole = {
        split: "\n".join(cell or "" for cell in table.column(columns.text).to_pylist())
        for split, table in tables.items()
    }
    splits = {split: [(text,)] for split, text in whole.items()}
    size = sum(len(utf8(text)) for text in whole.values())
    return of_corpus(data, seed, Corpus(data.source, splits, size, (), ""), own)


def _read(name: str, asked: str) -> dict[str, Any]:
    """A pyarrow table of each split; of "" where no name of a file says one."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(
            f"{asked} needs pyarrow, which is not installed: pip install 'genjax-zoo[parquet]'."
        ) from error
    path = pathlib.Path(name).expanduser()
    if path.is_dir():
        files = {p: f for p, f in tree.read(path, asked).files.items() if p.endswith(".parquet")}
    else:
        files = {path.name: lambda: path.open("rb")}
    found: dict[str, list[Any]] = {}
    for inner, opens in files.items():
        try:
            with opens() as file:
                split = _split(inner) if path.is_dir() else ""
                found.setdefault(split, []).append(parquet.read_table(file))
        except (OSError, pyarrow.ArrowException) as error:
            why = str(error).splitlines()[0]
            raise DataError(f"{asked}: {inner} cannot be read as parquet ({why}).") from error
    if not found:
        raise DataError(f"{asked} holds no .parquet file.")
    if "" in found and len(found) > 1:
        raise DataError(
            f"{asked}: some files name a split and others do not; name the one that is meant."
        )
    try:
        return {split: pyarrow.concat_tables(tables) for split, tables in found.items()}
    except pyarrow.ArrowException as error:
        raise DataError(f"{asked}: the files differ in their columns.") from error


def _split(path: str) -> str:
    """The split that the path of a file names: data/train-00000-of-00002.parquet, test/0.parquet.

    "" where it names none.
    """
    words = (re.split(r"[-_.]", part)[0] for part in path.split("/"))
    return next((split for word in words if (split := split_of(word))), "")
