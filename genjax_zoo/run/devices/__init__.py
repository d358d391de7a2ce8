"""The devices of a run: how many share what, how they start, and how arrays lie over them.

Floor 6.
"""

from __future__ import annotations

from genjax_zoo import typed
from genjax_zoo.contract import ConfigError
from genjax_zoo.typed import number


@typed.config
class Devices:
    """How many devices share what.

    Attributes:
      data: groups of devices that hold the same parameters; -1 takes all that are left.
      fsdp: devices in a group, over which large parameters are split.
      min_split: the fewest elements of an array that is worth splitting.
    """

    data: int = number(-1, least=-1)
    fsdp: int = number(1, least=1)
    min_split: int = number(65536, least=1)

    def __post_init__(self):
        if self.data == 0:
            raise ConfigError(
                "devices: data should be at least 1, or -1 for all devices that are left, got 0."
            )
