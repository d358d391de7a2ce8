"""Whether what is asked for fits into memory, told before any of it is made.

Floor 6. Shapes cost nothing: `jax.eval_shape` has those of a state, a compiled function its own.
"""

from __future__ import annotations

import contextlib
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from genjax_zoo.contract import ConfigError

_GROUPS = ("memory.max", "memory/memory.limit_in_bytes")
"""Where Linux keeps what a container may hold, of version 2 and of version 1."""


def limit() -> int | None:
    """Bytes that a device of this process holds; None where that cannot be told."""
    told = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in told:
        return int(told["bytes_limit"])
    found = []
    for name in _GROUPS:
        with contextlib.suppress(OSError, ValueError):
            found.append(int(pathlib.Path("/sys/fs/cgroup", name).read_text()))
    with contextlib.suppress(OSError, ValueError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min((n for n in found if n > 0), default=None)


def check(what: str, size: int, advice: str) -> None:
    """Raises ConfigError where so many bytes are more than a device of this process holds.

    Args:
      what: would take them, as the subject of a sentence.
      size: in bytes, on one device.
      advice: what to do.
    """
    most = limit()
    if most is not None and size > most:
        kind = jax.local_devices()[0].platform.upper()
        raise ConfigError(
            f"{what} would take {_words(size)}, and this {kind} has {_words(most)}; {advice}"
        )


def check_state(like: Any) -> None:
    """Raises ConfigError where a state is larger than a device; names its largest array.

    Args:
      like: the pytree of `ShapeDtypeStruct`, with shardings where there are any.
    """
    leaves = jax.tree_util.tree_leaves_with_path(like)
    if not leaves:
        return
    path, largest = max(leaves, key=lambda each: bytes_of(each[1]))
    check(
        "what the model learns",
        sum(bytes_of(leaf) for _, leaf in leaves),
        f"its largest array, {jax.tree_util.keystr(path)}, is {list(largest.shape)}: choose "
        "smaller fields of config.model (widths, latents, classes, chains).",
    )


FEWER = "draw fewer at a time, each time with another seed."


def check_samples(flag: str, n: int, batch: Mapping[str, Any]) -> None:
    """Raises ConfigError where a device cannot hold n samples like the examples of a batch.

    Args:
      flag: by which they are asked for.
      n: how many.
      batch: arrays, or their shapes and dtypes, whose leading axis counts examples.
    """
    one = sum(math.prod(leaf.shape[1:]) * leaf.dtype.itemsize for leaf in batch.values())
    check(f"--{flag}={n}", n * one, FEWER)


def check_compiled(what: str, compiled: Any, advice: str) -> None:
    """Raises ConfigError where a compiled function needs more than a device holds."""
    told = compiled.memory_analysis()
    if told is not None:
        size = told.output_size_in_bytes + told.temp_size_in_bytes
        check(what, size + told.argument_size_in_bytes, advice)


def bytes_of(leaf: Any) -> int:
    """Of an array, or of its shape and dtype: on one device, where it is divided over several."""
    held = getattr(leaf, "sharding", None)
    shape = held.shard_shape(leaf.shape) if held is not None else leaf.shape
    return math.prod(shape) * leaf.dtype.itemsize


def _words(size: float) -> str:
    """Bytes in words."""
    power = min(int(math.log10(max(size, 1)) / 3), len(_UNITS) - 1)
    return f"{size / 1000**power:.3g} {_UNITS[power]}"


_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
