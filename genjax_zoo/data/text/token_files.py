"""Symbols of documents in files, for what is larger than memory: written once, read by position.

    DIR/TEXT-TOKENIZER/tokens.json           what they are of, and how many there are
                      /train.symbols         N unsigned integers of 8, 16 or 32 bits
                      /train.starts          D of 64 bits, where each document begins
                      /train.counts          V of 64 bits, how often each symbol occurs
                      /held_out.symbols  held_out.starts  held_out.counts

Floor 4. A folder gets its name once everything in it is on the disk: whenever its writer is killed,
what it has written is nothing, and is written again. What lies there is used if it is of the same
texts and tokenizer, and counts as many bytes as it says; whatever else lies there is told, and
written anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from genjax_zoo.contract import DataError
from genjax_zoo.data.text import parts
from genjax_zoo.data.text.corpus import Corpus, Documents
from genjax_zoo.data.text.parts import Counts, Parts
from genjax_zoo.data.text.tokenizer import Tokenizer
from genjax_zoo.data.text.tokens import Tokens, dtype_of, encoded

ABOUT = "tokens.json"
FORMAT = 1
"""Of what is written; another one is written anew."""
PARTS = ("train", "held_out")
KINDS = ("symbols", "starts", "counts")
WIDE = np.dtype("<i8")


class Found(NamedTuple):
    """Token files, opened.

    Attributes:
      train, held_out: memory-mapped.
      notes: what else there was, and why it was not used.
    """

    train: Tokens
    held_out: Tokens
    notes: tuple[str, ...]


def folder_of(where: pathlib.Path, corpus: Corpus, tokenizer: Tokenizer) -> pathlib.Path:
    """Where the token files of a corpus lie; it says nothing of whether they are of its texts."""
    named = hashlib.sha256(corpus.asked.encode()).hexdigest()
    return where / f"{named[:10]}-{tokenizer.sha256[:10]}"


def counts_of(where: pathlib.Path, corpus: Corpus) -> dict[str, Counts] | None:
    """What was counted of the very same files before, by any tokenizer; None where nothing was."""
    named = hashlib.sha256(corpus.asked.encode()).hexdigest()
    for path in sorted(where.glob(f"{named[:10]}-*/{ABOUT}")):
        about = _about(path.parent)
        if about and corpus.stamp and about["stamp"] == _stamp(corpus):
            return parts.of_plain(about["counts"])
    return None


def opened(
    where: pathlib.Path,
    corpus: Corpus,
    counts: Mapping[str, Counts],
    divided: Parts,
    tokenizer: Tokenizer,
    tell: Callable[[str], None],
) -> Found:
    """The token files of a corpus, written if they are not there; one process writes, others wait.

    Args:
      where: the folder of all token files.
      corpus, counts, divided: the texts.
      tokenizer: what makes symbols of them.
      tell: says what takes long.

    Raises DataError where they cannot be written.
    """
    folder = folder_of(where, corpus, tokenizer)
    about = {
        "format": FORMAT,
        "asked": corpus.asked,
        "text": parts.digest(counts),
        "tokenizer": tokenizer.sha256,
        "dtype": dtype_of(tokenizer.size).str,
    }
    notes = _others(folder)
    try:
        if _unusable(folder, about):
            where.mkdir(parents=True, exist_ok=True)
            with _locked(where / f".{folder.name}.lock"):
                # Another process may have written them while this one waited.
                why = _unusable(folder, about)
                if why and folder.exists():
                    notes.append(f"the token files in {folder} were written anew: {why}")
                if why:
                    tell(f"writing token files of {corpus.asked} to {folder}")
                    _write(folder, about, corpus, counts, divided, tokenizer)
    except OSError as error:
        raise DataError(
            f"token files cannot be written to {folder}: {error.strerror or error}; name another "
            "folder by --config.data.token_dir=DIR, or free some room."
        ) from error
    train, held = (_mapped(folder, part, np.dtype(str(about["dtype"]))) for part in PARTS)
    return Found(train, held, tuple(notes))


def _write(
    folder: pathlib.Path,
    about: Mapping[str, Any],
    corpus: Corpus,
    counts: Mapping[str, Counts],
    divided: Parts,
    tokenizer: Tokenizer,
) -> None:
    new = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    sizes: dict[str, int] = {}
    for part, documents in zip(PARTS, (divided.train, divided.all_held_out), strict=True):
        sizes |= _stream(new, part, tokenizer, documents, about["dtype"], not divided.whole)
    said = {**about, "stamp": _stamp(corpus), "counts": parts.plain(counts), "sizes": sizes}
    with _syncing(new / ABOUT) as file:
        file.write(json.dumps(said, indent=2).encode())
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(new, folder)


def _stream(
    folder: pathlib.Path,
    part: str,
    tokenizer: Tokenizer,
    documents: Documents,
    dtype: str,
    ends: bool,
) -> dict[str, int]:
    """Writes the files of one part; returns how many bytes each of them has."""
    paths = [folder / f"{part}.{kind}" for kind in KINDS]
    at, counts = 0, np.zeros(tokenizer.size, WIDE)
    with _syncing(paths[0]) as symbols, _syncing(paths[1]) as starts:
        for found, begins in encoded(tokenizer, documents, ends):
            if begins:
                starts.write(np.array(at, WIDE).tobytes())
            symbols.write(found.astype(dtype).tobytes())
            counts += np.bincount(found, minlength=tokenizer.size)
            at += len(found)
    with _syncing(paths[2]) as file:
        file.write(counts.tobytes())
    return {path.name: path.stat().st_size for path in paths}


def _mapped(folder: pathlib.Path, part: str, dtype: np.dtype) -> Tokens:
    def mapped(path: pathlib.Path, dtype: np.dtype) -> np.ndarray:
        # Nothing cannot be mapped.
        return np.memmap(path, dtype, "r") if path.stat().st_size else np.zeros(0, dtype)

    dtypes = (dtype, WIDE, WIDE)
    return Tokens(
        *(mapped(folder / f"{part}.{kind}", of) for kind, of in zip(KINDS, dtypes, strict=True))
    )


def _unusable(folder: pathlib.Path, about: Mapping[str, Any]) -> str:
    """Why token files cannot be used; "" if they can."""
    said = _about(folder)
    if said is None:
        return "they are damaged"
    if any(said.get(name) != about[name] for name in ("format", "dtype", "tokenizer")):
        return "they are of another tokenizer, or of another version"
    if said["text"] != about["text"]:
        return "the text has changed"
    for name, size in said["sizes"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            return f"{name} should have {size} bytes"
    return ""


def _about(folder: pathlib.Path) -> dict[str, Any] | None:
    """What a folder says of its token files; None where it says nothing."""
    try:
        about = json.loads((folder / ABOUT).read_text())
        return about if {"text", "stamp", "counts", "sizes"} <= about.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def _stamp(corpus: Corpus) -> list[list[Any]]:
    return [list(file) for file in corpus.stamp]


def _others(folder: pathlib.Path) -> list[str]:
    """A note of token files of the same text by other tokenizers."""
    text = folder.name.partition("-")[0]
    found = [path.name for path in folder.parent.glob(f"{text}-*") if path != folder]
    return [f"not used: token files of other tokenizers ({', '.join(found)})"] if found else []


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
    with path.open("w") as file:
        # Some network file systems have no locks.
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _syncing(path: pathlib.Path) -> Iterator[Any]:
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
