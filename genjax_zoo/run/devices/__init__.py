"""The devices of a run: how many share what, how they start, and how arrays lie over them.

Floor 6.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from genjax_zoo import typed
from genjax_zoo.contract import ConfigError
from genjax_zoo.typed import number

MeshAxis = Literal["data", "fsdp", "tensor"]


@typed.config
class Rules:
    """Over which axes of the mesh an axis of an array is split, by its name (nets/axes.py).

    () is none: every device has all of it. An axis that the devices do not divide is left whole,
    and so is one whose devices split another axis of the same array already; a run says which.

    Attributes:
      batch: examples; also of families whose parameters have no names.
      length: places of a string.
      heads: of the queries of attention.
      key_heads: of its keys and values; the single one of multi-query attention stays whole.
      head_width: features of one head.
      hidden: features between the blocks; of activations the batch has taken fsdp already.
      inner: features within an MLP.
      vocabulary: symbols.
      layers: blocks.
      experts: of a mixture.
      positions: places that have a learnt vector.
    """

    batch: tuple[MeshAxis, ...] = ("data", "fsdp")
    length: tuple[MeshAxis, ...] = ()
    heads: tuple[MeshAxis, ...] = ("tensor",)
    key_heads: tuple[MeshAxis, ...] = ("tensor",)
    head_width: tuple[MeshAxis, ...] = ()
    hidden: tuple[MeshAxis, ...] = ("fsdp",)
    inner: tuple[MeshAxis, ...] = ("tensor",)
    vocabulary: tuple[MeshAxis, ...] = ("tensor",)
    layers: tuple[MeshAxis, ...] = ()
    experts: tuple[MeshAxis, ...] = ()
    positions: tuple[MeshAxis, ...] = ()

    def __post_init__(self):
        for name, axes in dataclasses.asdict(self).items():
            if len(set(axes)) < len(axes):
                raise ConfigError(f"devices.rules: {name} names an axis of the mesh twice: {axes}.")


@typed.config
class Devices:
    """How many devices share what: data x fsdp x tensor of them.

    Attributes:
      data: groups of devices that hold the same parameters; -1 takes all that are left.
      fsdp: devices in a group, over which large parameters are split.
      tensor: devices that divide every layer's work, heads and inner features, among them: for
        families whose parameters have names.
      min_split: the fewest elements of an array that is worth splitting.
      rules: which axis of an array is split over which of the three.
    """

    data: int = number(-1, least=-1)
    fsdp: int = number(1, least=1)
    tensor: int = number(1, least=1)
    min_split: int = number(65536, least=1)
    rules: Rules = dataclasses.field(default_factory=Rules)

    def __post_init__(self):
        if self.data == 0:
            raise ConfigError(
                "devices: data should be at least 1, or -1 for all devices that are left, got 0."
            )
