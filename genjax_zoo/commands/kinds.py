"""What a flag is, and the kinds that absl lacks.

Floor 8.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags

from genjax_zoo.typed import LARGEST

SEEDS = {"lower_bound": 0, "upper_bound": 2**32 - 1}
"""What a key can be folded with."""
COUNTS = {"lower_bound": 1, "upper_bound": LARGEST}


class _Whole(flags.IntegerParser):
    """A whole number in a range, which may be written as 1e4."""

    def convert(self, argument: Any) -> int:
        with contextlib.suppress(ValueError):
            return super().convert(argument)
        with contextlib.suppress(ValueError):
            if "e" in argument.lower() and (number := float(argument)).is_integer():
                return int(number)
        raise ValueError(f"expected {self.syntactic_help}")


def integer(name: str, default: int | None, help: str, flag_values: Any, **range_: int) -> None:
    """absl's DEFINE_integer, of whole numbers however they are written."""
    flags.DEFINE(_Whole(**range_), name, default, help, flag_values, flags.ArgumentSerializer())


class _Real(flags.FloatParser):
    """A number, which is finite."""

    def convert(self, argument: Any) -> float:
        number = super().convert(argument)
        if not math.isfinite(number):
            raise ValueError("expected a finite number")
        return number


def real(name: str, default: float | None, help: str, flag_values: Any) -> None:
    """absl's DEFINE_float, of numbers that there are; whoever reads one knows its range."""
    flags.DEFINE(_Real(), name, default, help, flag_values, flags.ArgumentSerializer())


class Flag(NamedTuple):
    """A flag, and whose it is.

    Attributes:
      name: without its hyphens.
      of: the commands that know it.
      help: what it is.
      kind: the function that defines it: absl's, or `integer`.
      default: where it is not given.
      how: further arguments of `kind`: bounds, a short name.
    """

    name: str
    of: Sequence[str]
    help: str
    kind: Callable[..., Any] = flags.DEFINE_string
    default: Any = None
    how: Mapping[str, Any] = {}
