"""Files that are there whole or not at all, folders that can be written before they are needed, and
JSON that every reader takes.

Floor 6.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from genjax_zoo.contract import ZooError


def place(path: str | os.PathLike, flag: str = "--workdir") -> pathlib.Path:
    """The path that a flag names, home expanded; raises ZooError where no file system has it."""
    try:
        found = pathlib.Path(path).expanduser()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            found.lstat()
        str(found).encode()
    # A name of NUL or of broken UTF-8; a name that is too long, a loop; a home that is nobody's.
    except (ValueError, OSError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or str(error).rstrip(".")
        why = "its name is not UTF-8" if isinstance(error, UnicodeError) else why
        shown = ascii(os.fspath(path))
        shown = shown if len(shown) < 100 else f"{shown[:80]}... ({len(shown)} characters)"
        raise ZooError(f"{flag}={shown} is no path: {why}. Choose another.") from error
    return found


def make_writable(folder: pathlib.Path, flag: str = "--workdir") -> None:
    """Makes a folder; raises ZooError where it cannot be written."""
    probe = folder / f".writable.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Not empty: a full disk still takes names.
        probe.write_bytes(bytes(4096))
    except OSError as error:
        why = error.strerror or error
        for part in (folder, *folder.parents):
            if part.is_file():
                why = f"{part} is a file"
            elif part.is_symlink() and not part.exists():
                why = f"{part} is a link to nothing"
        raise ZooError(
            f"{flag}={folder} cannot be written: {why}. Choose another folder, or free some room."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def write(path: pathlib.Path | str, content: bytes | str) -> pathlib.Path:
    """Writes a file whole or not at all, whenever the process is killed; makes its folder.

    Raises OSError where the folder cannot be written or the disk is full; what stood at `path`
    before is then untouched.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes private files; a result may be read by whoever may read its folder.
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        pathlib.Path(name).unlink(missing_ok=True)
        raise
    return path


@contextlib.contextmanager
def whole_folder(path: pathlib.Path, flag: str = "--workdir") -> Iterator[pathlib.Path]:
    """A folder to write into, which becomes `path` when the block ends, and is gone if it fails.

    Whoever is killed in between leaves a hidden folder beside `path`, which nobody reads.

    Raises ZooError where there is something at `path` already, or nothing can be written there.
    """
    check_empty(path, flag)
    make_writable(path.parent, flag)
    made = pathlib.Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield made
        # mkdtemp makes private folders; a result may be read by whoever may read its folder.
        made.chmod(0o755)
        os.replace(made, path)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def check_empty(path: pathlib.Path, flag: str = "--workdir") -> None:
    """Raises ZooError where something is at `path` that would be lost."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ZooError(f"{flag}={path} holds something already; choose a folder that does not.")


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON that every reader takes: of NaN and Infinity, which Python writes bare, it knows none.

    NaN is null. Infinite numbers are 1e999 and -1e999, which JavaScript, Python and C read as such.
    """
    text = json.dumps(_spelt(value), indent=indent, allow_nan=False)
    return re.sub(rf'"{_INFINITE}(-?)inf"', r"\g<1>1e999", text)


_INFINITE = "infinite number "


def _spelt(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _spelt(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_spelt(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else f"{_INFINITE}{value}"
    return value
