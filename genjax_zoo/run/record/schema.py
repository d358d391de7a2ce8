"""What the small JSON files of a workdir hold: each is checked when it is read, and not when it is
used.

Floor 6. A shape says it in Python's own words: a type, or a tuple of them; `[shape]` is a list of
such, `{str: shape}` an object with any names, `{"name": shape}` one that has these names at least
(those that end in "?" may be missing), and a function a value that it makes no objection to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

TEXT = (str, type(None))
NUMBER = (int, float)
MAYBE = (int, float, type(None))


def _array(value: Any) -> str | None:
    """A dtype and a shape, such as ["float32", [20, 8, 8, 1]]."""
    expected = 'a dtype and a shape, such as ["float32", [20, 8, 8, 1]]'
    if not isinstance(value, list) or len(value) != 2 or not isinstance(value[1], list):
        return expected
    try:
        np.dtype(value[0])
        sizes = [isinstance(n, int) and 0 <= n < 2**31 for n in value[1]]
        return None if isinstance(value[0], str) and all(sizes) else expected
    except TypeError:
        return expected


def _interval(value: Any) -> str | None:
    """Two numbers."""
    two = isinstance(value, list) and len(value) == 2
    return None if two and not any(problem(v, NUMBER) for v in value) else "two numbers"


def _tokenizer(value: Any) -> str | None:
    """What is said of a tokenizer, or null."""
    wrong = value is not None and problem(value, {"name": str, "size": int, "sha256": str})
    return "the name, size and sha256 of a tokenizer, or null" if wrong else None


OBJECT: Any = {str: lambda value: None}
ARRAYS: Any = {str: _array}
ORIGIN: Any = {
    "workdir": str,
    "asked": str,
    "step": int,
    "sha256": str,
    "config": OBJECT,
    "arrays": ARRAYS,
    "files?": {str: str},
}
BEGUN: Any = {str: ORIGIN}
ORIGIN["tokenizer?"] = str
# What a run began from may have been begun itself.
ORIGIN["begun?"] = BEGUN


RESULT: Any = {
    **dict.fromkeys(("kind?", "unit?", "split?", "preprocessing?", "better?", "detail?"), TEXT),
    **dict.fromkeys(("value?", "standard_error?", "low?", "high?", "per?"), MAYBE),
    **dict.fromkeys(("n?", "step?"), int),
    **dict.fromkeys(("protocol?", "trust?"), (dict, type(None))),
}
"""What a number that was measured says besides its name (measure/results.py)."""


class File(NamedTuple):
    """What a file holds, and what to do where it does not."""

    shape: Any
    advice: str


FILES: Mapping[str, File] = {
    "config.json": File(
        {"model": {"name": str}},
        "Mend it, or move it away and train on with --config=FILE:VARIANT.",
    ),
    "run.json": File(
        [
            {
                "genjax_zoo?": TEXT,
                "commit?": TEXT,
                "data_dir?": TEXT,
                "begun?": BEGUN,
                "data?": {"sha256?": str, "tokenizer?": _tokenizer},
                "first_step?": int,
            }
        ],
        "Mend it, or move it away: then the run no longer knows its earlier starts, nor what it "
        "was begun from.",
    ),
    "example.json": File(
        {"arrays": ARRAYS, "interval": _interval, "symbols": {str: [str]}, "columns?": [str]},
        "Move it away and give the same train command again, which writes it anew and, where the "
        "run is over, trains no further.",
    ),
    "metrics.json": File(
        [{"name": str, **RESULT}],
        "Mend it, or move it away: then only what is measured from now on stands in it.",
    ),
}
"""By name, the files that a workdir is read by."""
ABOUT: Any = {"family": str, "arrays": {str: str}, "fingerprint": {str: int}}
"""What a checkpoint says of itself."""
SCORE: Any = {"score": NUMBER, "measured?": str}
"""What the best checkpoint is judged by, and of what it was measured."""
STEP: Any = {
    **dict.fromkeys(("metrics?", "custom_metadata?"), (dict, type(None))),
    **dict.fromkeys(("init_timestamp_nsecs?", "commit_timestamp_nsecs?"), (int, type(None))),
    "performance_metrics?": dict,
    "item_handlers?": (dict, str, type(None)),
}
"""What orbax says of a checkpoint, by types that it insists on."""


def problem(value: Any, shape: Any, where: str = "") -> str | None:
    """What is wrong with a value, as "[0].begun should be an object, got 3"; None for nothing."""
    if isinstance(shape, dict):
        if not isinstance(value, Mapping):
            return _wrong(where, "an object", value)
        if str in shape:
            parts = [(f".{name}", one, shape[str]) for name, one in value.items()]
        else:
            missing = [name for name in shape if name[-1] != "?" and name not in value]
            if missing:
                return f"{(where + '.' + missing[0]).lstrip('.')} is missing"
            named = {name.rstrip("?"): one for name, one in shape.items()}
            parts = [(f".{name}", value[name], named[name]) for name in named if name in value]
    elif isinstance(shape, list):
        if not isinstance(value, list):
            return _wrong(where, "a list", value)
        parts = [(f"[{i}]", one, shape[0]) for i, one in enumerate(value)]
    elif isinstance(shape, Callable) and not isinstance(shape, type):  # type: ignore[arg-type]
        expected = shape(value)
        return _wrong(where, expected, value) if expected else None
    else:
        kinds = shape if isinstance(shape, tuple) else (shape,)
        right = isinstance(value, kinds) and (not isinstance(value, bool) or bool in kinds)
        return None if right else _wrong(where, " or ".join(_NAMES[kind] for kind in kinds), value)
    return next((p for part, one, of in parts if (p := problem(one, of, where + part))), None)


_NAMES = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    dict: "an object",
    type(None): "null",
}


def _wrong(where: str, expected: str, value: Any) -> str:
    came = repr(value)
    came = came if len(came) <= 40 else came[:37] + "..."
    return f"{where.lstrip('.') or 'it'} should be {expected}, got {came}"
