"""Texts as they lie in files: which documents there are, and in which split each of them is.

    text:FILE      one text, or of a .jsonl one for each line, under "text"
    text:FOLDER    the same of each file below it, in natural order

Floor 4. A document is read piece by piece, as often as it is asked for, and held by nobody: a text
may be larger than memory. It is UTF-8; a mark of the order of bytes is left out, and all ends of
lines are "\\n".
"""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import io
import itertools
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, NamedTuple

from genjax_zoo.contract import DataError
from genjax_zoo.data.files import tree
from genjax_zoo.data.files.splits import TEST, TRAIN, VALIDATION, split_of, split_within
from genjax_zoo.data.files.tree import Opens, counted

Document = Iterable[str]
"""The pieces of a text, in their order."""
Documents = Iterable[Document]
"""Documents one after another, as often as they are asked for."""

PIECE = 2**20
"""Bytes of a file that are read at once."""
SNIFFED = 8000
"""Bytes by whose zeros a file is known to be no text, as git does."""
NAME = "text"
"""What a record calls its text."""


class Corpus(NamedTuple):
    """The documents that a source names.

    Attributes:
      asked: how the user named it, for messages.
      splits: the documents of "train", "validation" and "test"; or of "" where none is told apart.
      size: how many bytes there are in all.
      stamp: what tells that nothing has changed, without reading it: (name, bytes, time) of files.
      found: what there is, in words, such as "3 files".
      notes: what else there is to say, such as what was left out.
    """

    asked: str
    splits: Mapping[str, Documents]
    size: int
    stamp: tuple[tuple[str, int, int], ...]
    found: str
    notes: tuple[str, ...] = ()


def read(name: str, asked: str) -> Corpus:
    """The texts of a file, or of the files below a folder; raises DataError where there are none.

    Files with a zero byte near their start are no texts, and left out.
    """
    path = pathlib.Path(name).expanduser()
    try:
        if not path.is_dir():
            if path.is_file() and tree.is_archive(path):
                raise DataError(f"{asked} is an archive; unpack it, and give its folder.")
            return _corpus(asked, path.parent, [path.name])
        found = tree.read(path, asked)
        files = {p: _starts_as_text(opens, p, asked) for p, opens in found.files.items()}
        texts = [p for p, is_text in files.items() if is_text]
        others = [p for p, is_text in files.items() if not is_text]
    except OSError as error:
        raise _unreadable(asked, error) from error
    notes = [f"left out {tree.endings(others)}, which are no texts"] if others else []
    notes += [f"left out {counted(found.hidden, 'hidden file')}"] if found.hidden else []
    if not texts:
        raise DataError(
            f"{asked} holds no text{f' ({notes[0]})' if notes else ''}; expected files in UTF-8, "
            'such as .txt, or .jsonl with a "text" in each line.'
        )
    return _corpus(asked, path, texts, notes)


def _corpus(
    asked: str, folder: pathlib.Path, files: Sequence[str], notes: Sequence[str] = ()
) -> Corpus:
    try:
        about = [(f, os.stat(folder / f)) for f in files]
    except OSError as error:
        raise _unreadable(asked, error) from error
    splits, how = splits_of(files)
    return Corpus(
        asked=asked,
        splits={split: OfFiles(folder, tuple(own)) for split, own in splits.items()},
        size=sum(stat.st_size for _, stat in about),
        stamp=tuple((f, stat.st_size, stat.st_mtime_ns) for f, stat in about),
        found=f"{counted(len(files), 'file')} ({tree.endings(files)})" if len(files) > 1 else "",
        notes=(*how, *notes),
    )


def splits_of(files: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """The files of each split, by the folder on top of each, or else by all of their names.

    Returns ({split: files}, notes); all files are in "" where no split is told apart.
    """
    of_folder = {f: split_of(f.split("/")[0]) if "/" in f else None for f in files}
    of_name = {f: split_within(pathlib.PurePosixPath(f).stem) for f in files}
    held = {TEST, VALIDATION}
    for found, complete in ((of_folder, False), (of_name, True)):
        named = {*found.values()}
        if TRAIN in named and held & named and not (complete and None in named):
            splits = {s: [f for f in files if found[f] == s] for s in (TRAIN, VALIDATION, TEST)}
            beside = [f for f in files if found[f] is None]
            notes = [f"left out {counted(len(beside), 'file')} beside the splits"] if beside else []
            return {split: own for split, own in splits.items() if own}, notes
    return {"": list(files)}, []


# --------------------------------------------------------------------------- documents in files


@dataclasses.dataclass(frozen=True)
class OfFiles:
    """The documents of files.

    Attributes:
      folder: that they lie in.
      files: their paths below it.
    """

    folder: pathlib.Path
    files: tuple[str, ...]

    def __iter__(self) -> Iterator[Document]:
        for file in self.files:
            path = self.folder / file
            if path.suffix.lower() == ".jsonl":
                yield from ((text,) for text in lines(path))
            else:
                yield OfFile(path)


@dataclasses.dataclass(frozen=True)
class OfFile:
    """The pieces of a text file."""

    path: pathlib.Path

    def __iter__(self) -> Iterator[str]:
        ends = io.IncrementalNewlineDecoder(None, translate=True)
        with _opened(self.path) as file:
            for text in itertools.chain(decoded(file, str(self.path)), ("",)):
                piece = ends.decode(text, final=not text)
                if piece:
                    yield piece


def decoded(file: IO[bytes], where: str) -> Iterator[str]:
    """The text of a file in UTF-8, piece by piece; raises DataError where it is none."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    at = 0
    while True:
        content = file.read(PIECE)
        pending = len(decoder.getstate()[0])
        try:
            text = decoder.decode(content, final=not content)
        except UnicodeDecodeError as error:
            raise _not_utf8(where, at - pending + error.start, error) from error
        if at - pending == 0:
            text = text.removeprefix("\ufeff")
        at += len(content)
        if text:
            yield text
        if not content:
            return


def lines(path: pathlib.Path) -> Iterator[str]:
    """The text of each line of a .jsonl; raises DataError where one has none."""
    with _opened(path) as file:
        at = 0
        for number, line in enumerate(file, 1):
            here, at = at, at + len(line)
            if not line.strip():
                continue
            try:
                record = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                raise _not_utf8(str(path), here + error.start, error) from error
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}, line {number}, is no JSON: {error}.") from error
            text = record.get(NAME) if isinstance(record, dict) else None
            if not isinstance(text, str):
                came = ", ".join(record) if isinstance(record, dict) else type(record).__name__
                raise DataError(
                    f'{path}, line {number}: expected an object with a "{NAME}", got {came[:80]}.'
                )
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise DataError(
                    f"{path}, line {number}: its text holds {text[error.start]!r}, half of a "
                    "character; expected a text in UTF-8."
                ) from error
            yield text


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[IO[bytes]]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise _unreadable(str(path), error) from error


def _starts_as_text(opens: Opens, path: str, asked: str) -> bool:
    try:
        with opens() as file:
            return b"\0" not in file.read(SNIFFED)
    except OSError as error:
        raise _unreadable(f"{asked}: {path}", error) from error


def _unreadable(what: str, error: OSError) -> DataError:
    return DataError(f"{what} cannot be read: {error.strerror or error}.")


def _not_utf8(where: str, at: int, error: UnicodeDecodeError) -> DataError:
    # A mark of the order of two bytes, where a file begins.
    encoding = "UTF-16" if at == 0 and error.object[error.start] >= 0xFE else "LATIN1"
    return DataError(
        f"{where} is not UTF-8: {error.reason} at byte {at} (0x{error.object[error.start]:02x}); "
        f"convert it first, as by iconv -f {encoding} -t UTF-8."
    )


# ---------------------------------------------------------------------- what is done to documents


def held(documents: Documents) -> list[tuple[str, ...]]:
    """The same documents, read once into memory."""
    return [tuple(document) for document in documents]


@dataclasses.dataclass(frozen=True)
class Filled:
    """The documents that hold anything."""

    documents: Documents

    def __iter__(self) -> Iterator[Document]:
        for document in self.documents:
            if any(document):
                yield document


@dataclasses.dataclass(frozen=True)
class Sole:
    """The pieces of the first document, which is the only one."""

    documents: Documents

    def __iter__(self) -> Iterator[str]:
        return iter(next(iter(self.documents)))


@dataclasses.dataclass(frozen=True)
class Joined:
    """The documents of several parts, one after another."""

    parts: tuple[Documents, ...]

    def __iter__(self) -> Iterator[Document]:
        return itertools.chain.from_iterable(self.parts)


@dataclasses.dataclass(frozen=True)
class Some:
    """The documents from number `first` on, up to but not with `last`; None is the end."""

    documents: Documents
    first: int
    last: int | None

    def __iter__(self) -> Iterator[Document]:
        return itertools.islice(iter(self.documents), self.first, self.last)


@dataclasses.dataclass(frozen=True)
class Within:
    """A part of a document, from character `first` on, up to but not with `last`."""

    document: Document
    first: int
    last: int

    def __iter__(self) -> Iterator[str]:
        at = 0
        for piece in self.document:
            part = piece[max(self.first - at, 0) : max(self.last - at, 0)]
            at += len(piece)
            if part:
                yield part
            if at >= self.last:
                return


@dataclasses.dataclass(frozen=True)
class Whole:
    """Documents as texts, one after another, as often as they are asked for."""

    documents: Documents

    def __iter__(self) -> Iterator[str]:
        return ("".join(document) for document in self.documents)
