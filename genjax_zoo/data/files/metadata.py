"""What stands beside images in files: their labels and captions.

    metadata.csv     file_name,label,text         a line for each image below the table's folder
    metadata.jsonl   {"file_name": ..., "label": ..., "text": ...}
    NAME.txt         or NAME.caption, the caption of the image NAME.png
    NAME.cls         its label

The tables are those of Hugging Face's folders, https://huggingface.co/docs/datasets/image_dataset;
small files beside each image are what WebDataset and trainers of text-to-image models have.

Floor 4.
"""

from __future__ import annotations

import csv
import io
import json
import posixpath
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from genjax_zoo.contract import DataError
from genjax_zoo.data.files.tree import ERRORS, Tree, counted

NAMES = ("metadata.csv", "metadata.jsonl")
FILE, LABEL, TEXT = "file_name", ("label", "labels"), ("text", "caption", "captions", "prompt")


class Metadata(NamedTuple):
    """What is said of images, by their paths.

    Attributes:
      paths: of the images that are spoken of.
      label: the name of each one's class; empty where no column is of labels.
      text: each one's caption; empty where no column is of texts.
      notes: what else there is to say: what was not read.
      files: the paths that all this was read from.
    """

    paths: frozenset[str]
    label: Mapping[str, str]
    text: Mapping[str, str]
    notes: tuple[str, ...] = ()
    files: frozenset[str] = frozenset()


def read(tree: Tree, images: Sequence[str]) -> Metadata:
    """What all tables of a tree say of its images, or else small files beside each, or nothing.

    Raises DataError for a file that cannot be read, or that says two things of one image.
    """
    tables = [path for path in tree.files if posixpath.basename(path) in NAMES]
    return _in_tables(tree, tables) if tables else _beside(tree, images)


def _beside(tree: Tree, images: Sequence[str]) -> Metadata:
    """What small files beside each image say; nothing where there are none of them."""
    found: dict[str, dict[str, str]] = {"cls": {}, "txt": {}}
    files = set[str]()
    for path in images:
        stem = posixpath.splitext(path)[0]
        for kind, endings in (("cls", (".cls",)), ("txt", (".txt", ".caption"))):
            at = next((stem + ending for ending in endings if stem + ending in tree.files), None)
            if at is not None:
                files.add(at)
                found[kind][path] = _content(tree, at)
    label, text = found["cls"], found["txt"]
    if not files:
        return Metadata(frozenset(images), {}, {})
    bare = next((path for path in images if label and not label.get(path)), None)
    if bare is not None:
        raise DataError(f"{tree.where}: {bare} has no .cls beside it and others do; give it one.")
    notes = ["files beside the images say" + _both(label, text)]
    if text and len(text) < len(images):
        notes.append(f"{counted(len(images) - len(text), 'image')} without a caption")
    return Metadata(frozenset(images), label, text, tuple(notes), frozenset(files))


def _content(tree: Tree, path: str) -> str:
    try:
        with tree.files[path]() as file:
            return file.read().decode("utf-8-sig").strip()
    except (*ERRORS, UnicodeDecodeError) as error:
        raise DataError(f"{tree.where}/{path} cannot be read as text: {error}.") from error


def _in_tables(tree: Tree, tables: Sequence[str]) -> Metadata:
    label: dict[str, str] = {}
    text: dict[str, str] = {}
    paths, unread, lost = set[str](), set[str](), list[str]()
    for table in tables:
        for row in _rows(tree, table):
            where = f"{tree.where}/{table}"
            if not row.get(FILE):
                raise DataError(f"{where}: expected a {FILE} in every line, got {row}.")
            path = posixpath.normpath(posixpath.join(posixpath.dirname(table), str(row[FILE])))
            if path not in tree.files:
                lost.append(str(row[FILE]))
                continue
            if path in paths:
                raise DataError(f"{where} speaks of {row[FILE]} twice; leave one line of it.")
            paths.add(path)
            for columns, found in ((LABEL, label), (TEXT, text)):
                column = next((c for c in columns if c in row), None)
                if column is not None:
                    found[path] = _word(row[column], column, where)
            unread |= row.keys() - {FILE, *LABEL, *TEXT}
    for found, columns in ((label, LABEL), (text, TEXT)):
        bare = next((path for path in sorted(paths) if found and not found.get(path)), None)
        if bare is not None and found is label:
            raise DataError(f"{tree.where}: {bare} has no {columns[0]} and others do; give it one.")
    notes = [f"{posixpath.basename(tables[0])} says" + _both(label, text)]
    if unread:
        notes.append(f"columns that were not read: {', '.join(sorted(unread))}")
    if lost:
        notes.append(f"{counted(len(lost), 'line')} of it name no file here ({lost[0]})")
    return Metadata(frozenset(paths), label, text, tuple(notes), frozenset(tables))


def _both(label: Mapping[str, str], text: Mapping[str, str]) -> str:
    said = [name for name, found in (("labels", label), ("captions", text)) if found]
    return " the " + " and ".join(said) if said else " neither labels nor captions"


def _word(value: Any, column: str, where: str) -> str:
    if isinstance(value, str | int):
        return unicodedata.normalize("NFC", str(value).strip())
    if value is None:
        return ""
    raise DataError(f"{where}: expected a word or a number as {column}, got {value!r}.")


def _rows(tree: Tree, table: str) -> Iterator[Mapping[str, Any]]:
    """The lines of a table, by their columns."""
    try:
        with tree.files[table]() as file:
            lines = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
            if table.endswith(".csv"):
                table_of = csv.DictReader(lines, strict=True)
                for row in table_of:
                    if None in row:
                        raise ValueError(
                            f"line {table_of.line_num} has more cells than the first; put what "
                            "holds a comma between quotes"
                        )
                    yield row
                return
            for line in lines:
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise ValueError(f"expected an object in every line, got {line.strip()}")
                    yield row
    except (*ERRORS, ValueError, csv.Error) as error:
        raise DataError(f"{tree.where}/{table} cannot be read: {error}.") from error
