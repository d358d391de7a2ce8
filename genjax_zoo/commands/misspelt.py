"""What a flag that no command knows was most likely meant to be.

Floor 8. Nothing that needs jax is imported before it is needed: help is shown without it.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def nearest(name: str, own: Sequence[str], is_others: bool, fields: Sequence[str]) -> str:
    """The command's flag or field of the config that is most likely meant; "" for none."""
    flat = [field for field in fields if f".{field}".endswith(f".{name}")]
    parts = set(name.split("_"))
    # --seed of --sample_seed, and the other way round.
    longer = [flag for flag in own if parts <= set(flag.split("_")) or set(flag.split("_")) < parts]
    if flat or longer or is_others:
        return (flat + longer + [""])[0]
    ends = {field.rpartition(".")[2]: field for field in reversed(fields)}
    (close,) = difflib.get_close_matches(name, [*own, *ends], 1, 0.6) or [""]
    return ends.get(close, close) if close not in own else close


def fields(own: str | None, workdir: str | None, else_of: str, trained: bool) -> list[str]:
    """The fields of the config as flags, config.model.latents, the outer ones first.

    Args:
      own: the config that the command line names, by whose family they go.
      workdir: the run that it names, by which they go otherwise.
      else_of: the config where neither is named.
      trained: whether only those are meant by which a trained model is asked otherwise.
    """
    from genjax_zoo.models import ZOO
    from genjax_zoo.run.config import assemble

    family = pathlib.PurePath((own or else_of).partition(":")[0]).stem
    if not own and workdir:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            told = pathlib.Path(workdir, "config.json").read_text()
            family = json.loads(told)["model"]["name"]
    if family not in ZOO:
        return []
    paths = list(_paths(assemble({"": {"model": {"name": family}}}, "").to_dict(), "config."))
    kept = [path for path in paths if not trained or path.startswith("config.model.")]
    return sorted(kept, key=lambda path: path.count("."))


def _paths(tree: Mapping[str, Any], where: str) -> Iterator[str]:
    for name, value in tree.items():
        yield from _paths(value, f"{where}{name}.") if isinstance(value, dict) else [where + name]
