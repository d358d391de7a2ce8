"""Whether what is asked for fits into memory, told before any of it is made.

Floor 6. Shapes cost nothing: `jax.eval_shape` has those of a state, a compiled function its own.
"""

from __future__ import annotations

import collections
import contextlib
import math
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from genjax_zoo.contract import ConfigError, State
from genjax_zoo.learn.state import Staged, TrainState

_GROUPS = ("memory.max", "memory/memory.limit_in_bytes")
"""Where Linux keeps what a container may hold, of version 2 and of version 1."""


def limit() -> int | None:
    """Bytes that a device of this process holds; None where that cannot be told.

    CPUs have the memory of the machine, or of the container, in equal parts.
    """
    told = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in told:
        return int(told["bytes_limit"])
    found = []
    for name in _GROUPS:
        with contextlib.suppress(OSError, ValueError):
            found.append(int(pathlib.Path("/sys/fs/cgroup", name).read_text()))
    with contextlib.suppress(OSError, ValueError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    whole = min((n for n in found if n > 0), default=None)
    return whole and whole // jax.local_device_count()


def check(what: str, size: int, advice: str) -> None:
    """Raises ConfigError where so many bytes are more than a device of this process holds.

    Args:
      what: would take them, as the subject of a sentence.
      size: in bytes, on one device.
      advice: what to do.
    """
    most = limit()
    if most is not None and size > most:
        kind, count = jax.local_devices()[0].platform.upper(), jax.local_device_count()
        whose = f"each {kind} of {count}" if count > 1 else f"this {kind}"
        raise ConfigError(
            f"{what} would take {_words(size)}, and {whose} has {_words(most)}; {advice}"
        )


def check_state(like: State, learning: bool = False) -> None:
    """Raises ConfigError where a state is larger than a device: by kind, and by array.

    Args:
      like: the pytree of `ShapeDtypeStruct`, with shardings where there are any.
      learning: whether it is going to learn, which takes a gradient where the verb follows one.
    """
    kinds, arrays = collections.Counter[str](), collections.Counter[tuple[str, str]]()
    for kind, name, leaf in _held(like, learning):
        kinds[kind] += bytes_of(leaf)
        arrays[name, f"{list(leaf.shape)}"] += bytes_of(leaf)
    told = ", ".join(f"{kind} {_words(size)}" for kind, size in kinds.items() if size)
    rows = [f"{_words(size):>10}  {' '.join(array)}" for array, size in arrays.most_common(ROWS)]
    check(
        "what the model learns",
        sum(kinds.values()),
        f"it is {told}. Choose smaller fields of config.model (widths, layers, latents, classes, "
        "chains), or more devices, over which config.devices.fsdp splits it. By array, with all "
        "that is kept of it, the largest first:\n" + "\n".join(rows),
    )


ROWS = 8
"""How many arrays are told of by name."""


def _held(state: State, learning: bool) -> Iterator[tuple[str, str, Any]]:
    """What a state holds: of which kind, of which array of the parameters, and its shape."""
    if isinstance(state, Staged):
        # One stage learns at a time.
        sizes = [sum(map(bytes_of, jax.tree.leaves(stage))) for stage in state.states]
        for k, stage in enumerate(state.states):
            for kind, name, leaf in _held(stage, learning and k == sizes.index(max(sizes))):
                yield kind, f"stage {k + 1}: {name}", leaf
    elif isinstance(state, TrainState):
        params = dict(_named(state.params))
        learns = learning and state.optimizer != ()
        for kind in ("parameters", *(["gradient"] if learns else [])):
            yield from ((kind, *each) for each in params.items())
        for kind, tree in (
            ("optimizer", state.optimizer),
            ("moving average", state.average),
            ("memory", state.memory),
        ):
            for name, leaf in _named(tree):
                yield kind, _end_of(name, params), leaf
    else:
        yield from (("state", *each) for each in _named(state))


def _named(tree: Any) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(p, simple=True, separator="/"), leaf) for p, leaf in leaves]


def _end_of(name: str, params: Mapping[str, Any]) -> str:
    """The array of the parameters that a moment or an average is of; its own name if of none."""
    steps = name.split("/")
    ends = ("/".join(steps[k:]) for k in range(len(steps)))
    return next((end for end in ends if end in params), name)


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
