"""Where arrays live: a mesh of two axes, the batch over both, the parameters by one rule.

Floor 6. Shapes come first (`eval_shape`), shardings second, arrays last.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from genjax_zoo.contract import ConfigError
from genjax_zoo.run.devices import Devices

BATCH_AXES = ("data", "fsdp")


class Layout(NamedTuple):
    """How the arrays of a run lie over its devices.

    Attributes:
      mesh: the devices.
      everywhere: every one of them holds the whole array.
      over_batch: the batch axis, the first one, is split over all of them.
      over_feeds: the same of what the data send for several steps, whose first axis counts them.
    """

    mesh: Mesh
    everywhere: NamedSharding
    over_batch: NamedSharding
    over_feeds: NamedSharding


def lay_out(devices: Devices, batch_size: int | None = None) -> Layout:
    """The layout over all devices of all processes; raises ConfigError where it does not fit."""
    mesh = make_mesh(devices, batch_size)
    return Layout(mesh, replicated(mesh), over_batch(mesh), over_batch(mesh, leading=1))


def make_mesh(devices: Devices, batch_size: int | None = None) -> Mesh:
    """The mesh over all devices of all processes; raises ConfigError where it does not fit.

    Without a batch size there is no batch to divide: for sampling and measuring.
    """
    count = jax.device_count()
    data = devices.data if devices.data > 0 else max(count // devices.fsdp, 1)
    if data * devices.fsdp != count:
        raise ConfigError(
            f"config.devices asks for data x fsdp = {data} x {devices.fsdp} = "
            f"{data * devices.fsdp} devices, but this run has {count}; choose two factors of "
            f"{count}, or data=-1."
        )
    if batch_size is not None and batch_size % count:
        near = [b for b in range(count, batch_size + count, count)][-2:]
        raise ConfigError(
            f"config.data.batch_size={batch_size} does not divide over {count} devices; "
            f"try {' or '.join(map(str, near))}."
        )
    axes = (AxisType.Auto,) * 2
    return jax.make_mesh((data, devices.fsdp), BATCH_AXES, axis_types=axes)


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def over_batch(mesh: Mesh, leading: int = 0) -> NamedSharding:
    """The batch axis, which stands behind `leading` others, is split over all devices."""
    return NamedSharding(mesh, PartitionSpec(*(None,) * leading, BATCH_AXES))


def of_state(mesh: Mesh, shapes: Any, min_split: int) -> Any:
    """The sharding of each array of a state: its longest axis that divides goes over fsdp.

    Args:
      mesh: the devices.
      shapes: the state's pytree of `ShapeDtypeStruct`, from `jax.eval_shape`.
      min_split: smaller arrays are replicated.
    """
    parts = mesh.shape["fsdp"]

    def rule(leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        axes = sorted(range(len(leaf.shape)), key=lambda a: -leaf.shape[a])
        for axis in axes:
            if parts > 1 and leaf.size >= min_split and leaf.shape[axis] % parts == 0:
                return NamedSharding(mesh, PartitionSpec(*(None,) * axis, "fsdp"))
        return replicated(mesh)

    return jax.tree.map(rule, shapes)


def own_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """The rows of the global batch that this process's devices hold, in order."""
    held = over_batch(mesh).addressable_devices_indices_map((batch_size,))
    rows = [np.arange(batch_size)[index[0]] for index in held.values() if index]
    return np.unique(np.concatenate(rows))
