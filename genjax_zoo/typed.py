"""From a config file's untyped fields to a family's own dataclass, with errors that help.

Floor 0. `ConfigDict` stops here: below this door every field is named, typed and checked. Neither
genjax_zoo nor jax is imported here, so that a command line is read before jax is; the errors are
the contract's, which hands them on.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import numbers
import struct
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


# ------------------------------------------------------------- the errors that a user can mend


class ZooError(Exception):
    """Something the user can mend. The message says what was expected, what came, what to do."""


class ConfigError(ZooError):
    """A config holds a field, a value or a name that does not exist."""


class DataError(ZooError):
    """The data are missing, unreadable or of the wrong shape."""


class CheckpointError(ZooError):
    """A checkpoint is damaged, belongs to another model, or could not be written."""


class DivergedError(ZooError):
    """A number became NaN or infinite."""


# ------------------------------------------------------------------------- names, and the nearest


RENAMED: Mapping[str, str] = {
    "condition": "given",
    "fake": "num_samples",
    "unconditional": "condition_dropout",
    "straight": "rectified_flow",
    "moves": "corrector_steps",
    "imagined": "pseudo_counts",
    "blur": "instance_noise",
    "noise": "instance_noise",
    "start": "initial",
    "diffuse": "initial_variance",
    "solver_error": "log_prob_error",
}
"""What fields, values and flags were called before version 0.2.0, and are now."""


def nearest(name: str, known: Iterable[str], what: str) -> str:
    """The sentence that an unknown name deserves: what came, the nearest, and all there are."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    if RENAMED.get(name) in known:
        hint = f" Since version 0.2.0 it is called {RENAMED[name]!r}."
    return f"unknown {what} {name!r}.{hint} Known: {', '.join(filter(None, known)) or '(none)'}."


def choose(name: str, known: Mapping[str, T], what: str) -> T:
    """`known[name]`, or a ConfigError that names the nearest and lists the others."""
    if name not in known:
        raise ConfigError(nearest(name, known, what))
    return known[name]


# ------------------------------------------------------------------------------- declared ranges


class Range(NamedTuple):
    """Where a number of a config may lie; None leaves a side open, but for infinity and NaN.

    Attributes:
      least, most: the ends, where they are allowed themselves.
      above, below: the ends, where they are not.
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def holds(self, value: float) -> bool:
        """Whether the value lies there, and its float32 too; NaN and the infinite never do."""
        held = in_float32(value)
        return (
            (isinstance(value, int) or math.isfinite(held))
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or min(value, held) > self.above)
            and (self.below is None or max(value, held) < self.below)
        )

    def __str__(self) -> str:
        """As the end of "should be ..."."""
        low = self.least if self.above is None else self.above
        high = self.most if self.below is None else self.below
        if low is None and high is None:
            return "a finite number"
        if high is None:
            if low == 0:
                return "positive" if self.above is not None else "not negative"
            return f"{'above' if self.above is not None else 'at least'} {low:.16g}"
        if low is None:
            return f"{'below' if self.below is not None else 'at most'} {high:.16g}"
        left, right = "(" if self.above is not None else "[", ")" if self.below is not None else "]"
        return f"in {left}{low:.16g}, {high:.16g}{right}"


def in_float32(value: float) -> float:
    """A number as jax computes with it: 1e39 is infinite there, 1e-39 is 0, .99999999999 is 1.

    Integers stay what they are.
    """
    if isinstance(value, int) or not math.isfinite(value):
        return value
    try:
        (held,) = struct.unpack("f", struct.pack("f", value))
    except OverflowError:
        return math.copysign(math.inf, value)
    return held if abs(held) >= SMALLEST else 0.0


SMALLEST = 2.0**-126
"""The smallest positive number that every device tells from 0 in float32."""
LARGEST = 10**9
"""What an integer field may be at most where it declares no end: jax counts in 32 bits."""
FINITE = Range()
MOST_LAYERS = 1000
"""Most layers, blocks or turns that are traced one by one: more would compile for hours."""
MOST_STEPS = 10**6
"""Most steps of a chain or a solver, or draws of an estimate, in one call: more take days."""


def number(
    default: Any,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Any:
    """A field whose number, or each of whose numbers in (nested) tuples, lies in a declared range.

    A config of `config` checks it when it is made, and None passes where the type allows it. NaN
    and the infinite lie in no range; a field that declares none takes what is finite.
    """
    return dataclasses.field(default=default, metadata={RANGE: Range(least, most, above, below)})


RANGE = "range"


# `number` is no field specifier: mypy takes its first argument for no default.
@typing.dataclass_transform(
    frozen_default=True, field_specifiers=(dataclasses.field, dataclasses.Field)
)
def config(cls: type[T]) -> type[T]:
    """Makes a frozen dataclass of a typed config, whose fields keep to their types and ranges.

    Every field has a default. What no range can say, a `__post_init__` does, the class's own or
    the one it inherits. A list becomes the tuple that the field declares, a whole number the float.
    """
    own = getattr(cls, "__post_init__", lambda self: None)

    def __post_init__(self: Any) -> None:
        check(self)
        own(self)

    cls.__post_init__ = __post_init__  # type: ignore[attr-defined]
    return dataclasses.dataclass(frozen=True)(cls)


def check(made: Any) -> None:
    """Raises ConfigError for a field of a dataclass that is not of its type, or out of its range.

    What has another form of its type takes the declared one.
    """
    cls: Any = type(made)
    who, hints = _who(cls), _hints(cls)
    for field in dataclasses.fields(made):
        value = _convert(getattr(made, field.name), hints[field.name], f"{who}.{field.name}")
        object.__setattr__(made, field.name, value)
        allowed = field.metadata.get(RANGE, FINITE)
        for one in _numbers(value):
            if not allowed.holds(one):
                held = in_float32(one)
                lost = held != one and held in (
                    0,
                    math.inf,
                    -math.inf,
                    allowed.above,
                    allowed.below,
                )
                came = f"{one}{f', which is {held:g} in float32' if lost else ''}"
                raise ConfigError(f"{who}: {field.name} should be {allowed}, got {came}.")
            if isinstance(one, int) and allowed.most is allowed.below is None and one > LARGEST:
                raise ConfigError(f"{who}: {field.name} should be at most {LARGEST}, got {one}.")


def _who(cls: Any) -> str:
    """Whose fields these are: vae, optimizers, data (of data/config.py), config (of a run)."""
    rooms, _, module = cls.__module__.rpartition(".")
    room = rooms.rpartition(".")[2]
    return room if module == "config" and room != "run" else module


def _numbers(value: Any) -> list[float]:
    """The numbers of a field: itself, or those of a tuple, or of tuples in a tuple."""
    if isinstance(value, tuple):
        return [number for part in value for number in _numbers(part)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


# ---------------------------------------------------------------------------------- typed configs


def typed(cls: type[T], fields: Mapping[str, Any], where: str = "config") -> T:
    """Builds the dataclass `cls` from a mapping; nested dataclasses from nested mappings.

    Raises ConfigError for an unknown or missing field, or a value of another type. The dataclass's
    own `__post_init__` checks ranges and raises ConfigError itself.
    """
    hints = _hints(cls)  # type: ignore[arg-type]
    declared = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name in fields:
        if name not in declared:
            raise ConfigError(nearest(name, declared, f"field of {where}:"))
    values = {}
    for name, field in declared.items():
        if name in fields:
            values[name] = _convert(fields[name], hints[name], f"{where}.{name}")
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{where}.{name} is missing; expected {_spell(hints[name])}.")
    return cls(**values)


def _float(value: numbers.Real) -> float:
    """A number of any type as a float; what no float holds is infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _spell(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(hint)))
    return getattr(hint, "__name__", str(hint)) if not typing.get_args(hint) else str(hint)


def _convert(value: Any, hint: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if isinstance(value, bool) and hint in (int, float):
        raise ConfigError(f"{where} should be {_spell(hint)}, got {value!r} (bool).")
    if origin in (types.UnionType, typing.Union):
        for option in args:
            try:
                return _convert(value, option, where)
            except ConfigError:
                pass
    elif origin is typing.Literal:
        if value in args:
            return value
        if isinstance(value, str):
            raise ConfigError(nearest(value, [str(a) for a in args], f"value of {where}:"))
    elif origin is tuple and isinstance(value, list | tuple):
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(_convert(v, args[0], f"{where}[{i}]") for i, v in enumerate(value))
        if len(args) == len(value):
            return tuple(
                _convert(v, a, f"{where}[{i}]")
                for i, (v, a) in enumerate(zip(value, args, strict=True))
            )
    elif origin in (dict, Mapping) or hint in (dict, Mapping):
        if isinstance(value, Mapping):
            return dict(value)
    elif dataclasses.is_dataclass(hint):
        if isinstance(value, hint):  # type: ignore[arg-type]
            return value
        if isinstance(value, Mapping):
            return typed(hint, value, where)  # type: ignore[arg-type,type-var]
    elif hint in (None, types.NoneType):
        if value is None:
            return None
    elif hint is int and isinstance(value, numbers.Integral):
        return int(value)
    elif hint is float and isinstance(value, numbers.Real):
        return _float(value)
    elif isinstance(hint, type) and isinstance(value, hint):
        return value
    raise ConfigError(f"{where} should be {_spell(hint)}, got {value!r} ({type(value).__name__}).")
