"""The files below a folder, or within an archive, by their paths: one way to list and open both.

Floor 4.
"""

from __future__ import annotations

import collections
import functools
import io
import os
import pathlib
import re
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO, NamedTuple

from genjax_zoo.contract import DataError

UNPACKED_BYTES = 2**30
"""A compressed tar up to this size, unpacked, is held in memory: it can only be read from its
start on."""
ERRORS = (OSError, EOFError, RuntimeError, zipfile.BadZipFile, tarfile.TarError, zlib.error)
"""What goes wrong where a file or an archive is torn, encrypted or of a kind nobody knows."""
JUNK = {"__MACOSX", "Thumbs.db", "desktop.ini"}
"""What file browsers leave behind, as if it were hidden."""


Opens = Callable[[], IO[bytes]]
"""What opens a file, at its start."""


class Tree(NamedTuple):
    """The files below a folder or within an archive.

    Attributes:
      where: the folder or archive, for messages.
      files: what opens each, by its path below that, with `/`; in natural order.
      folders: the paths of the folders, whether they hold files or not.
      hidden: how many files there are besides, of whose path a part is hidden.
    """

    where: str
    files: Mapping[str, Opens]
    folders: frozenset[str] = frozenset()
    hidden: int = 0


def read(name: str | os.PathLike, asked: str) -> Tree:
    """The files of the folder or the .zip or .tar archive `name`, links followed.

    Args:
      name: a path; ~ is the home.
      asked: how the user named it, for messages.

    Raises DataError where there is no such thing, or it cannot be read.
    """
    path = pathlib.Path(name).expanduser()
    try:
        if path.is_dir():
            found = dict(_below(path, "", ()))
        elif not path.exists():
            raise DataError(f"{asked}: there is no such folder or archive ({path.absolute()}).")
        elif zipfile.is_zipfile(path):
            found = dict(_in_zip(path))
        elif tarfile.is_tarfile(path):
            found = dict(_in_tar(path))
        else:
            raise DataError(
                f"{asked} is neither a folder nor an archive that can be read: .zip, .tar, .tar.gz."
            )
    except ERRORS as error:
        raise DataError(f"{asked} cannot be read: {error}.") from error
    seen = {p for p in found if not any(s.startswith(".") or s in JUNK for s in p.split("/"))}
    files = {p: open_ for p in sorted(seen, key=natural) if (open_ := found[p]) is not None}
    folders = {p.rstrip("/") for p in seen if found[p] is None}
    folders |= {p[:at] for p in files for at, letter in enumerate(p) if letter == "/"}
    hidden = sum(open_ is not None for path, open_ in found.items() if path not in seen)
    return Tree(str(path), files, frozenset(folders), hidden)


def is_archive(path: pathlib.Path) -> bool:
    """Whether `read` takes a file for an archive."""
    return zipfile.is_zipfile(path) or tarfile.is_tarfile(path)


def natural(path: str) -> tuple[tuple[tuple[bool, int, str], ...], ...]:
    """What paths are sorted by, so that their numbers count: 2 comes before 10."""
    return tuple(
        tuple(
            (not word.isdecimal(), int(word) if word.isdecimal() else 0, word)
            for word in re.findall(r"\d+|\D+", part)
        )
        for part in path.split("/")
    )


def counted(count: int, what: str) -> str:
    """So many of something, which is one or several: "1 image", "2 images"."""
    return f"{count} {what}" + ("" if count == 1 else "s")


def endings(paths: Iterable[str]) -> str:
    """How many files there are of each ending: "3 of .txt, 1 without an ending"."""
    each = collections.Counter(os.path.splitext(path)[1].lower() for path in paths)
    return ", ".join(
        f"{count} of {ending}" if ending else f"{count} without an ending"
        for ending, count in sorted(each.items(), key=lambda pair: (-pair[1], pair[0]))
    )


Found = Iterator[tuple[str, Opens | None]]
"""Paths, and what opens each; None for a folder."""


def _below(folder: pathlib.Path, path: str, above: tuple[str, ...]) -> Found:
    """All files below a folder; a link that leads back up to a folder above is not followed."""
    real = os.path.realpath(folder)
    if real in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            inner = f"{path}{entry.name}"
            if entry.is_dir():
                yield inner, None
                yield from _below(folder / entry.name, f"{inner}/", (*above, real))
            else:
                yield inner, functools.partial(_open, folder / entry.name)


def _open(path: pathlib.Path) -> IO[bytes]:
    if path.exists() and not path.is_file():
        # To open a pipe is to wait for ever.
        raise OSError("it is a pipe, a socket or a device, and no file")
    return path.open("rb")


def _in_zip(path: pathlib.Path) -> Found:
    # It locks itself, so that several threads may read.
    archive = zipfile.ZipFile(path)
    for entry in archive.infolist():
        opens: Opens = functools.partial(archive.open, entry)
        # Some tools of Windows write its own separator.
        yield _relative(entry.filename.replace("\\", "/")), None if entry.is_dir() else opens


def _relative(path: str) -> str:
    """A path within an archive, without what says that it begins there."""
    return path.removeprefix("./").lstrip("/")


def _in_tar(path: pathlib.Path) -> Found:
    """Of a plain tar each file is read where it lies; a compressed one is unpacked to memory."""
    archive = tarfile.open(path)  # noqa: SIM115, for its files are read until the process ends
    one_at_a_time = threading.Lock()

    def content(entry: tarfile.TarInfo) -> IO[bytes]:
        with one_at_a_time:
            try:
                file = archive.extractfile(entry)
            except KeyError as error:
                raise OSError(f"{entry.name} links to what is not there") from error
            return io.BytesIO(file.read() if file else b"")

    entries = [e for e in archive.getmembers() if e.isfile() or e.issym() or e.islnk()]
    with path.open("rb") as file:
        compressed = file.read(262)[257:] != b"ustar"
    size = sum(entry.size for entry in entries)
    if compressed and size > UNPACKED_BYTES:
        raise DataError(
            f"{path} is a compressed tar of {size / 2**30:.1f} GiB, which cannot be read here and "
            "there; unpack it, or make it a .zip."
        )
    for entry in entries:
        read: Opens = functools.partial(content, entry)
        if compressed:
            read = functools.partial(io.BytesIO, read().read())
        yield _relative(entry.name), read
