"""Reading a workdir for its report: whatever is missing or damaged costs only itself. Floor 6."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from genjax_zoo.run.record.charts import Series


def json_of(path: pathlib.Path) -> Any:
    """What a json file holds, or None where it is missing or damaged."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return None


def mapping(value: Any) -> Mapping[str, Any]:
    """The value, or nothing where it is of another kind."""
    return value if isinstance(value, dict) else {}


def sequence(value: Any) -> Sequence[Any]:
    """The value, or nothing where it is of another kind."""
    return value if isinstance(value, list) else []


def curves_of(path: pathlib.Path) -> dict[str, Series]:
    """Metric -> its line. Of a step written twice, before and after a resume, the last holds."""
    lines: dict[str, dict[float, float]] = {}
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return {}
    for row in text.splitlines():
        try:
            line = mapping(json.loads(row))
        except (ValueError, RecursionError):
            continue  # a line cut short by a kill
        if not isinstance(step := line.get("step"), int | float):
            continue
        for name, value in line.items():
            if name != "step" and isinstance(value, int | float):
                lines.setdefault(name, {})[step] = float(value)
    return {name: sorted(line.items()) for name, line in lines.items()}


def thinned(folder: pathlib.Path, end: str, most: int) -> list[tuple[int, bytes]]:
    """(step, content) of step_*.END from the first to the last; of many, some, evenly."""
    found = []
    for path in folder.glob(f"step_*.{end}"):
        if match := re.fullmatch(rf"step_(\d+)\.{end}", path.name):
            found.append((int(match[1]), path))
    found.sort()
    if len(found) > most:
        apart = (len(found) - 1) / (most - 1)
        found = [found[round(i * apart)] for i in range(most)]
    return [(step, path.read_bytes()) for step, path in found]
