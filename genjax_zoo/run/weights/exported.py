"""Weights that leave for a folder of Hugging Face, by the rules that they would come in by.

Floor 6. The folder is written beside its place and moved there whole.
"""

from __future__ import annotations

import functools
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from genjax_zoo.run.record import files
from genjax_zoo.run.weights import dialects, folders, maps
from genjax_zoo.run.weights.imported import by_path


def write(
    path: pathlib.Path,
    model: Mapping[str, Any],
    params: Any,
    beside: Mapping[str, bytes],
    largest: int = folders.LARGEST_FILE,
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
    with files.whole_folder(path, "--to") as folder:
        folders.write(folder, theirs, planned, largest)
        for name, content in beside.items():
            files.write(folder / name, content)
    return architecture.class_name
