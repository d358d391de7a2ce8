"""Weights that leave for a folder of Hugging Face, by the rules that they would come in by.

Floor 6. The folder is written beside its place and moved there whole.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from genjax_zoo.contract import ZooError
from genjax_zoo.run.record import files
from genjax_zoo.run.weights import dialects, folders, maps
from genjax_zoo.run.weights.imported import by_path

LARGEST_FILE = folders.LARGEST_FILE


def write(
    path: pathlib.Path,
    model: Mapping[str, Any],
    params: Any,
    beside: Mapping[str, bytes],
    largest: int = LARGEST_FILE,
) -> str:
    """Writes a folder that transformers reads; returns the class that reads it.

    Args:
      path: of the folder, which is not there yet, or holds nothing.
      model: all fields of `config.model`.
      params: what has been learnt, as numpy arrays; low-rank adapters are merged.
      beside: further files by their names, such as those of the tokenizer.
      largest: bytes of one file of tensors at most.

    Raises ConfigError for a model that no architecture there is, and ZooError where there is
    something already.
    """
    leaves = by_path(params)
    dtype = next(iter(leaves.values())).dtype
    architecture, theirs = dialects.write(model, dtype.name)
    rules = maps.applying(architecture.rules(model["rotary_layout"]), leaves)
    sizes = dialects.sizes(model)
    planned = [
        folders.Planned(
            architecture.named(one.name),
            math.prod(maps.shape(one.rule, sizes)) * dtype.itemsize,
            functools.partial(maps.written, one.rule, one.layer, sizes, leaves),
        )
        for one in maps.tensors(rules, sizes)
    ]
    with whole(path) as folder:
        folders.write(folder, theirs, planned, largest)
        for name, content in beside.items():
            files.write(folder / name, content)
    return architecture.class_name


@contextlib.contextmanager
def whole(path: pathlib.Path, flag: str = "--to") -> Iterator[pathlib.Path]:
    """A folder to write into, which becomes `path` when the block ends, and is gone if it fails.

    Killed in between it leaves a hidden folder beside `path` that nobody reads.

    Raises ZooError where there is something at `path` already, or nothing can be written there.
    """
    check_empty(path, flag)
    files.make_writable(path.parent, flag)
    made = pathlib.Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield made
        # mkdtemp makes private folders.
        made.chmod(0o755)
        os.replace(made, path)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def check_empty(path: pathlib.Path, flag: str) -> None:
    """Raises ZooError where something is at `path` that would be lost."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ZooError(f"{flag}={path} holds something already; choose a folder that does not.")
