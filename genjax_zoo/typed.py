"""From a config file's untyped fields to a family's own dataclass, with errors that help.

Floor 0. `ConfigDict` stops here: below this door every field is named, typed and checked.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np

from genjax_zoo.contract import ConfigError, DataError

T = TypeVar("T")


def nearest(name: str, known: Iterable[str], what: str) -> str:
    """The sentence that an unknown name deserves: what came, the nearest, and all there are."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"unknown {what} {name!r}.{hint} Known: {', '.join(known) or '(none)'}."


def choose(name: str, known: Mapping[str, T], what: str) -> T:
    """`known[name]`, or a ConfigError that names the nearest and lists the others."""
    if name not in known:
        raise ConfigError(nearest(name, known, what))
    return known[name]


def check_labels(label: Any, classes: int, who: str, n: int | None = None) -> None:
    """Raises DataError for what are no labels of `who`, if they are not traced.

    Args:
      label: [] or [B] integers 0 .. classes - 1.
      classes: how many there are.
      who: the family.
      n: B, where it is known.
    """
    if isinstance(label, jax.core.Tracer):
        return
    # Of numpy, for under jit jax knows nothing of what it has made itself.
    seen = np.asarray(label)
    shaped = n is None or seen.shape in ((), (n,))
    if not (np.issubdtype(seen.dtype, np.integer) and seen.size and shaped):
        raise DataError(
            f"{who}: expected a label, or one for each of {n or 'the'} examples, as integers, got "
            f"{label!r}."
        )
    low, high = int(seen.min()), int(seen.max())
    if low < 0 or high >= classes:
        raise DataError(
            f"{who}: labels should lie in 0 .. {classes - 1}, got {low} .. {high}; set "
            f"model.classes to {high + 1} or more, or mend the labels."
        )


def typed(cls: type[T], fields: Mapping[str, Any], where: str = "config") -> T:
    """Builds the dataclass `cls` from a mapping; nested dataclasses from nested mappings.

    Raises ConfigError for an unknown or missing field, or a value of another type. The dataclass's
    own `__post_init__` checks ranges and raises ConfigError itself.
    """
    hints = typing.get_type_hints(cls)
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
    elif hint is float and isinstance(value, int | float):
        return float(value)
    elif isinstance(hint, type) and isinstance(value, hint):
        return value
    raise ConfigError(f"{where} should be {_spell(hint)}, got {value!r} ({type(value).__name__}).")
