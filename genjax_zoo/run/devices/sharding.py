"""Where arrays live: a mesh of three axes, named axes by the rules, and all others by one rule.

Floor 6. Shapes come first (`eval_shape`), shardings second, arrays last.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from genjax_zoo.contract import ConfigError
from genjax_zoo.nets import axes
from genjax_zoo.run.devices import Devices

MESH_AXES = ("data", "fsdp", "tensor")


class Layout(NamedTuple):
    """How the arrays of a run lie over its devices.

    Attributes:
      mesh: the devices.
      rules: over which of its axes each named axis of an array is split.
      everywhere: every device holds the whole array.
      over_batch: the batch axis, the first one, is split by its rule.
      over_feeds: the same of what the data send for several steps, whose first axis counts them.
    """

    mesh: Mesh
    rules: axes.Rules
    everywhere: NamedSharding
    over_batch: NamedSharding
    over_feeds: NamedSharding

    def named(self) -> contextlib.AbstractContextManager[Any]:
        """While it lasts, activations that have names are laid over the mesh as it is traced."""
        return axes.under(self.rules)


def lay_out(devices: Devices, batch_size: int | None = None, micro_batches: int = 1) -> Layout:
    """The layout over all devices of all processes; raises ConfigError where it does not fit.

    Args:
      devices: what the config says.
      batch_size: of a step; None where there is none to divide, for sampling and measuring.
      micro_batches: in how many parts each batch is taken, every one of which is split.
    """
    mesh = make_mesh(devices)
    rules = rules_of(devices, mesh)
    batch = PartitionSpec(rules.wanted("batch") or None)
    over = lambda *leading: NamedSharding(mesh, PartitionSpec(*leading, *batch))
    layout = Layout(mesh, rules, NamedSharding(mesh, PartitionSpec()), over(), over(None))
    if batch_size is not None:
        parts = math.prod(mesh.shape[axis] for axis in rules.wanted("batch"))
        _check_batch(batch_size, parts, micro_batches)
    return layout


def lay_out_again(devices: Devices) -> Layout:
    """The layout to sample and to measure by, of what was learnt on other devices.

    Parameters are split as they were, where that many devices divide these, and whole else.
    """
    if jax.device_count() % (devices.fsdp * devices.tensor):
        return lay_out(Devices())
    return lay_out(dataclasses.replace(devices, data=-1))


def make_mesh(devices: Devices) -> Mesh:
    """The mesh over all devices of all processes; raises ConfigError where it does not fit."""
    count, group = jax.device_count(), devices.fsdp * devices.tensor
    data = devices.data if devices.data > 0 else max(count // group, 1)
    if data * group != count:
        raise ConfigError(
            f"config.devices asks for data x fsdp x tensor = {data} x {devices.fsdp} x "
            f"{devices.tensor} = {data * group} devices, but this run has {count}; "
            + (f"choose three factors of {count}." if count > 1 else "set all three to 1.")
        )
    shape = (data, devices.fsdp, devices.tensor)
    return jax.make_mesh(shape, MESH_AXES, axis_types=(AxisType.Auto,) * len(shape))


def rules_of(devices: Devices, mesh: Mesh) -> axes.Rules:
    """The rules of the config, over a mesh."""
    return axes.Rules(mesh, tuple(dataclasses.asdict(devices.rules).items()))


def _check_batch(batch_size: int, parts: int, micro_batches: int) -> None:
    whole = parts * micro_batches
    if batch_size % whole:
        near = [b for b in range(whole, batch_size + whole, whole)][-2:]
        by = f"{parts} devices" + f" x {micro_batches} micro-batches" * (micro_batches > 1)
        raise ConfigError(
            f"config.data.batch_size={batch_size} does not divide over {by}; "
            f"try {' or '.join(map(str, near))}."
        )


# ------------------------------------------------------------------------------------- the state


def of_state(rules: axes.Rules, shapes: Any, min_split: int) -> Any:
    """The sharding of each array of a state.

    Where its axes have names (nets/axes.py), by the rules; else its longest axis that divides goes
    over fsdp. Raises ConfigError where `tensor` asks devices to divide what has no names: they
    would all do the same.

    Args:
      rules: of the named axes, over the devices.
      shapes: the state's pytree of `ShapeDtypeStruct`, from `jax.eval_shape`.
      min_split: smaller arrays are replicated.
    """
    if rules.mesh.shape["tensor"] > 1 and not any(_named(shapes)):
        raise ConfigError(
            f"config.devices.tensor={rules.mesh.shape['tensor']} divides the work of layers whose "
            "axes have names, as those of a language_model, and this model's have none; set "
            "tensor=1, and data or fsdp to as many devices."
        )

    def rule(path: Any, leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        names = axes.of_path(path, len(leaf.shape))
        if leaf.size < min_split:
            return NamedSharding(rules.mesh, PartitionSpec())
        return rules.sharding(leaf.shape, names) if names else _longest(rules.mesh, leaf)

    return jax.tree_util.tree_map_with_path(rule, shapes)


def _longest(mesh: Mesh, leaf: jax.ShapeDtypeStruct) -> NamedSharding:
    """The longest axis that divides goes over fsdp."""
    parts = mesh.shape["fsdp"]
    for axis in sorted(range(len(leaf.shape)), key=lambda a: -leaf.shape[a]):
        if parts > 1 and leaf.shape[axis] % parts == 0:
            return NamedSharding(mesh, PartitionSpec(*(None,) * axis, "fsdp"))
    return NamedSharding(mesh, PartitionSpec())


def _named(shapes: Any) -> list[tuple[str, Any, axes.Names]]:
    """The arrays whose axes have names: (path, shape, names)."""
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    found = [(path, leaf, axes.of_path(path, len(leaf.shape))) for path, leaf in leaves]
    spelt = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
    return [(spelt(path), leaf, names) for path, leaf, names in found if names]


def left_whole(rules: axes.Rules, shapes: Any, min_split: int) -> list[str]:
    """What the rules split and the devices do not: a sentence for each kind of it."""
    found: dict[str, list[str]] = {}
    for path, leaf, names in _named(shapes):
        parts = rules.parts(leaf.shape, names)
        for size, name, part in zip(leaf.shape, names, parts, strict=True):
            wanted = rules.wanted(name)
            if leaf.size < min_split or part == wanted:
                continue
            taken = [a for a in wanted if a in sum(parts, ()) and a not in part]
            why = f"{math.prod(rules.mesh.shape[a] for a in wanted)} do not divide {size}"
            if taken:
                why = f"{' x '.join(taken)} splits another axis there"
            found.setdefault(f"{name} over {' x '.join(wanted)}, for {why}", []).append(path)
    return [f"not split as config.devices.rules says: {w}: {_some(p)}" for w, p in found.items()]


def _some(paths: list[str]) -> str:
    return paths[0] + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")


def own_rows(layout: Layout, batch_size: int) -> np.ndarray:
    """The rows of the global batch that this process's devices hold, in order."""
    held = layout.over_batch.addressable_devices_indices_map((batch_size,))
    rows = [np.arange(batch_size)[index[0]] for index in held.values() if index]
    return np.unique(np.concatenate(rows))
