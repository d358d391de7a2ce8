"""Folders of safetensors: one file, or several with an index. Nothing else is read, and no pickle.

Floor 6. A folder is known by its names, shapes and dtypes before a number of it is read; then it is
read tensor by tensor. It is written file by file, so that no more than one is in memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from genjax_zoo.contract import DataError
from genjax_zoo.run.record import files

CONFIG, SINGLE = "config.json", "model.safetensors"
INDEX = f"{SINGLE}.index.json"
DTYPES = ("F32", "F16", "BF16")
"""What safetensors calls the numbers that a weight may be of: a float32 holds each of them."""
LARGEST_FILE = 5 * 10**9
"""Bytes of one file at most, as transformers cuts them."""


class Stored(NamedTuple):
    """A tensor as the header of its file tells of it."""

    file: str
    dtype: str
    shape: list[int]


class Folder(NamedTuple):
    """What is known of a folder before its numbers are read.

    Attributes:
      path: of the folder, absolute.
      config: its config.json.
      tensors: by their names.
    """

    path: pathlib.Path
    config: Mapping[str, Any]
    tensors: Mapping[str, Stored]

    def hashes(self) -> dict[str, str]:
        """The sha256 of each file that is read, by its name."""
        names = sorted({CONFIG, *(one.file for one in self.tensors.values())})
        found = {}
        for name in names:
            with (self.path / name).open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
        return found

    @contextlib.contextmanager
    def opened(self) -> Iterator[Callable[[str], np.ndarray]]:
        """Reads tensors by their names while the block lasts."""
        with contextlib.ExitStack() as stack:
            handles: dict[str, Any] = {}

            def read(name: str) -> np.ndarray:
                file = self.tensors[name].file
                if file not in handles:
                    handles[file] = stack.enter_context(_open(self.path / file))
                return handles[file].get_tensor(name)

            yield read


def look_at(path: pathlib.Path, flag: str) -> Folder:
    """What lies in a folder; raises DataError for whatever is not there or cannot be read."""
    if not path.is_dir():
        raise DataError(
            f"{flag}: there is no folder {path}; expected one on this machine with a {CONFIG}, for "
            "nothing is downloaded."
        )
    config = _json(path / CONFIG, f"{flag}: {path} has no {CONFIG}, by which weights are known")
    return Folder(path.absolute(), config, _tensors(path, flag))


def _tensors(path: pathlib.Path, flag: str) -> dict[str, Stored]:
    if (path / SINGLE).exists():
        return _header(path, SINGLE)
    if not (path / INDEX).exists():
        cut = next((name for name in (SINGLE, INDEX) if (path / name).is_symlink()), None)
        if cut:
            raise DataError(
                f"{flag}: {path / cut} is a link to {(path / cut).readlink()}, which is not there; "
                "copy the folder with what its links mean (cp -rL)."
            )
        pickles = [*sorted(path.glob("*.bin")), *sorted(path.glob("*.pt*")), *path.glob("*.ckpt")]
        why = (
            f"; {pickles[0].name} is a pickle, which runs whatever is written in it, and is never "
            "opened. Whoever trusts it saves it anew by transformers: "
            "model.save_pretrained(DIR, safe_serialization=True)"
            if pickles
            else ""
        )
        raise DataError(f"{flag}: {path} has neither {SINGLE} nor {INDEX}{why}.")
    index = _json(path / INDEX, "")
    where = index.get("weight_map")
    if not isinstance(where, Mapping) or not all(isinstance(f, str) for f in where.values()):
        raise DataError(f"{path / INDEX} has no weight_map from tensors to files.")
    found: dict[str, Stored] = {}
    for file in sorted(set(where.values())):
        if pathlib.PurePath(file).name != file or file in ("", ".", ".."):
            raise DataError(f"{path / INDEX} names {file!r}, which is no file of this folder.")
        if not (path / file).is_file():
            raise DataError(
                f"{path / INDEX} names {file}, and there is no such file; copy all "
                f"{len(set(where.values()))} of them."
            )
        stored = _header(path, file)
        # Whoever lies in two files has two values, and the index says which of them is meant.
        doubly = next((name for name in stored if where.get(name, file) != file), None)
        if doubly:
            raise DataError(
                f"{path / file} holds {doubly}, which {path / INDEX} says lies in "
                f"{where[doubly]}; the index is of other files."
            )
        found |= stored
    lost = sorted(name for name, file in where.items() if name not in found)
    if lost:
        raise DataError(
            f"{path / INDEX} says that {lost[0]} lies in {where[lost[0]]}, and it does not; the "
            "index is of other files."
        )
    return found


def _header(path: pathlib.Path, file: str) -> dict[str, Stored]:
    with _open(path / file) as handle:
        names = list(handle.keys())
        slices = {name: handle.get_slice(name) for name in names}
        return {
            n: Stored(file, one.get_dtype(), list(one.get_shape())) for n, one in slices.items()
        }


@contextlib.contextmanager
def _open(path: pathlib.Path) -> Iterator[Any]:
    try:
        with safetensors.safe_open(path, framework="numpy") as handle:
            yield handle
    except safetensors.SafetensorError as error:
        raise DataError(
            f"{path} is no whole safetensors file ({str(error).strip().splitlines()[0]}); it was "
            "cut off or damaged on its way: copy it again."
        ) from error
    except OSError as error:
        # A folder of that name, or a file that may not be read; its words have no errno.
        why = "it is no file" if not path.is_file() else str(error).rstrip(".")
        raise DataError(f"{path} cannot be read: {why}.") from error


def _json(path: pathlib.Path, missing: str) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise DataError(f"{missing}.") from error
    except (OSError, ValueError, RecursionError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{path} cannot be read: {why}.") from error
    if not isinstance(value, Mapping):
        raise DataError(f"{path} should be an object, got {type(value).__name__}.")
    return value


# --------------------------------------------------------------------------------------- writing


class Planned(NamedTuple):
    """A tensor that will be written: its name, its bytes, and what makes it."""

    name: str
    size: int
    make: Callable[[], np.ndarray]


def write(
    path: pathlib.Path,
    config: Mapping[str, Any],
    tensors: Sequence[Planned],
    largest: int = LARGEST_FILE,
) -> None:
    """Writes config.json and the tensors into a folder, in as many files as it takes."""
    groups: list[list[Planned]] = [[]]
    for one in tensors:
        if groups[-1] and sum(o.size for o in groups[-1]) + one.size > largest:
            groups.append([])
        groups[-1].append(one)
    names = [SINGLE]
    if len(groups) > 1:
        count = len(groups)
        names = [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    for name, group in zip(names, groups, strict=True):
        made = {one.name: one.make() for one in group}
        # transformers reads no file without it.
        safetensors.numpy.save_file(made, path / name, metadata={"format": "pt"})
        # It makes private files.
        (path / name).chmod(0o644)
    if len(groups) > 1:
        where = {o.name: name for name, group in zip(names, groups, strict=True) for o in group}
        total = sum(one.size for one in tensors)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
        files.write(path / INDEX, files.to_json(index, indent=2) + "\n")
    files.write(path / CONFIG, files.to_json(dict(sorted(config.items())), indent=2) + "\n")
