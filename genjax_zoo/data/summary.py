"""What a source says of itself before anything is learnt: one line to read, and a record to keep.

Floor 4.
"""

from __future__ import annotations

from typing import Any

from genjax_zoo.data.source import Source


def line(source: Source) -> str:
    """What was understood of the data, in one line."""
    if source.size is None:
        sizes = f"drawn anew at every step, {source.held_out_size} held out"
    else:
        sizes = f"{source.size} for training, {source.held_out_size} held out"
    first = f"data: {source.preprocessing}; {sizes} ({source.held_out_split})"
    # The names of files may break lines.
    return " ".join("; ".join((first, *source.notes)).split())


def record(source: Source) -> dict[str, Any]:
    """The same as plain values that json can hold, with all names."""
    return {
        "name": source.name,
        "size": source.size,
        "held_out_size": source.held_out_size,
        "held_out_split": source.held_out_split,
        "preprocessing": source.preprocessing,
        "spaces": {name: str(space) for name, space in source.spaces.items()},
        "symbols": {name: list(called) for name, called in source.symbols.items()},
        "tokenizer": source.tokenizer and source.tokenizer.record(),
        "notes": list(source.notes),
        "sha256": source.digest(),
    }
