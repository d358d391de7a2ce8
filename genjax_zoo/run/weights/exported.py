"""Weights that leave for a folder of Hugging Face, by the rules that they would come in by.

Floor 6. The folder is written beside its place and moved there whole.
"""

from __future__ import annotations

import functools
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from genjax_zoo.contract import ZooError
from genjax_zoo.run.record import files
from genjax_zoo.run.weights import dialects, folders, maps
from genjax_zoo.run.weights.imported import by_path

DTYPES: Mapping[str, np.dtype] = {
    name: jnp.dtype(name) for name in ("float32", "bfloat16", "float16")
}
"""What the numbers may be written in."""


def write(
    path: pathlib.Path,
    model: Mapping[str, Any],
    params: Any,
    beside: Mapping[str, bytes],
    dtype: str = "float32",
    largest: int = folders.LARGEST_FILE,
) -> str:
    """Writes a folder that transformers reads; returns the class that reads it.

    Args:
      path: of the folder, which is not there yet, or holds nothing.
      model: all fields of `config.model`.
      params: what has been learnt, as numpy arrays; low-rank adapters are merged.
      beside: further files by their names, such as those of the tokenizer.
      dtype: one of DTYPES, in which the numbers are written.
      largest: bytes of one file of tensors at most.

    Raises ConfigError for a model that no architecture there is, and ZooError where there is
    something already, or a number that the dtype does not reach.
    """
    leaves, kind = by_path(params), DTYPES[dtype]
    architecture, theirs = dialects.write(model, dtype)
    rules = maps.applying(architecture.rules(model["rotary_layout"]), leaves)
    sizes = dialects.sizes(model)

    def tensor(one: maps.Tensor) -> np.ndarray:
        found = maps.written(one.rule, one.layer, sizes, leaves)
        with np.errstate(over="ignore"):
            short = found.astype(kind)
        if not np.isfinite(short).all():
            raise ZooError(
                f"{architecture.named(one.name)} holds numbers that {dtype} does not reach, the "
                f"largest {np.max(np.abs(found)):g}; choose another --dtype."
            )
        return short

    planned = [
        folders.Planned(
            architecture.named(one.name),
            math.prod(maps.shape(one.rule, sizes)) * kind.itemsize,
            functools.partial(tensor, one),
        )
        for one in maps.tensors(rules, sizes)
    ]
    with files.whole_folder(path, "--to") as folder:
        folders.write(folder, theirs, planned, largest)
        for name, content in beside.items():
            files.write(folder / name, content)
    return architecture.class_name
