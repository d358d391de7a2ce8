"""What an array of a batch may hold.

Floor 0.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np


class Kind(enum.StrEnum):
    """What the numbers of an array are: real, in [0, 1], in [-1, 1], 0 or 1, 0 1 2 ..., names."""

    REAL = "real"
    UNIT = "unit"
    SIGNED = "signed"
    BINARY = "binary"
    COUNTS = "counts"
    CATEGORICAL = "categorical"


class Space(NamedTuple):
    """What an array of a batch may hold. Categorical ones are integers, all others floats.

    Attributes:
      kind: real, unit, signed, binary, counts or categorical.
      size: how many values there are: 10 labels, a vocabulary of 50257, counts 0 .. 16, or of a
        unit or signed space 256 grey levels, evenly spaced from end to end. 0 where that is not
        known, or every number between the ends is one.
      missing: whether a number may be missing, which is NaN.
    """

    kind: Kind
    size: int = 0
    missing: bool = False

    def of(self, size: int) -> Space:
        """The same kind of so many values: UNIT.of(256) are the levels of 8 bits."""
        return self._replace(size=size)

    @property
    def ends(self) -> tuple[float, float]:
        """The least number and the largest."""
        low, high = _ENDS[self.kind]
        return low, self.size - 1 if self.size and high == math.inf else high

    @property
    def step(self) -> float:
        """How far its numbers are apart; 0 where there is no gap between them."""
        low, high = self.ends
        if self.kind in (Kind.UNIT, Kind.SIGNED):
            return (high - low) / (self.size - 1) if self.size else 0
        return 0 if self.kind is Kind.REAL else 1

    def has(self, x: Any) -> Any:
        """Which numbers of an array, numpy's or jax's, are values of the space: bool, like x."""
        low, high = self.ends
        found = (x >= low) & (x <= high)
        if high == math.inf:
            found &= abs(x) < high
        if self.step == 1:
            found &= x == x.round()
        elif self.step:
            # float32 divides and multiplies a level back to within a millionth of it.
            place = (x - low) / self.step
            found &= abs(place - place.round()) < 1e-3
        return found | (x != x) if self.missing else found

    def holds(self, other: Space) -> bool:
        """Whether every array of the space `other` is one of this space too."""
        if other.missing > self.missing or other.kind not in _WITHIN[self.kind]:
            return False
        if self.kind is Kind.CATEGORICAL:
            return not (self.size and other.size) or other.size <= self.size
        if not self.size:
            return True
        size = 2 if other.kind is Kind.BINARY else other.size
        return size > 0 and bool(self.has(np.linspace(*other.ends, size)).all())

    def __str__(self) -> str:
        """The space in words."""
        words = _IN_WORDS[self.kind]
        if self.size and self.kind in (Kind.COUNTS, Kind.CATEGORICAL):
            words = f"{words.split()[0]} 0 .. {self.size - 1}"
        elif self.size:
            words += f" of {self.size} levels"
        return words + (", or NaN where they are missing" if self.missing else "")


REAL, UNIT, SIGNED, BINARY, COUNTS = (
    Space(kind) for kind in (Kind.REAL, Kind.UNIT, Kind.SIGNED, Kind.BINARY, Kind.COUNTS)
)


def categorical(size: int = 0) -> Space:
    """The space of the integers 0 .. size - 1."""
    return Space(Kind.CATEGORICAL, size)


_WITHIN: Mapping[Kind, frozenset[Kind]] = {
    Kind.REAL: frozenset({Kind.REAL, Kind.UNIT, Kind.SIGNED, Kind.BINARY, Kind.COUNTS}),
    Kind.UNIT: frozenset({Kind.UNIT, Kind.BINARY}),
    Kind.SIGNED: frozenset({Kind.SIGNED, Kind.UNIT, Kind.BINARY}),
    Kind.BINARY: frozenset({Kind.BINARY}),
    Kind.COUNTS: frozenset({Kind.COUNTS, Kind.BINARY}),
    Kind.CATEGORICAL: frozenset({Kind.CATEGORICAL}),
}
_ENDS: Mapping[Kind, tuple[float, float]] = {
    Kind.REAL: (-math.inf, math.inf),
    Kind.UNIT: (0, 1),
    Kind.SIGNED: (-1, 1),
    Kind.BINARY: (0, 1),
    Kind.COUNTS: (0, math.inf),
    Kind.CATEGORICAL: (0, math.inf),
}
_IN_WORDS: Mapping[Kind, str] = {
    Kind.REAL: "real numbers",
    Kind.UNIT: "numbers in [0, 1]",
    Kind.SIGNED: "numbers in [-1, 1]",
    Kind.BINARY: "numbers that are 0 or 1",
    Kind.COUNTS: "counts 0, 1, 2, ...",
    Kind.CATEGORICAL: "integers",
}
