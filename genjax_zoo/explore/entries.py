"""Explores a trained model: what can be shown of it, and why the rest cannot. Floor 7."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import optax

from genjax_zoo.contract import REAL, ConfigError, Model, ZooError
from genjax_zoo.explore.explorations import EXPLORATIONS
from genjax_zoo.explore.latents import Encoded, encode
from genjax_zoo.explore.subject import Subject
from genjax_zoo.models import ZOO
from genjax_zoo.run.record import workdir
from genjax_zoo.typed import choose


class Entry(NamedTuple):
    """What one exploration gave, as explore.json holds it.

    Attributes:
      what: one of EXPLORATIONS.
      files, caption, numbers: as in `Shown`.
    """

    what: str
    files: list[str]
    caption: str
    numbers: Mapping[str, float] = {}


def families() -> list[str]:
    """The families whose latents can be decoded and lie on paths, read off the roster."""
    able = []
    for name, family in ZOO.items():
        model = family.make(family.Config(), optax.sgd(0.0))
        if model.latents is not None and model.latents.space == REAL:
            able.append(name)
    return able


def _check(model: Model, needs: str) -> None:
    """Raises ZooError for what cannot be shown of a model."""
    if needs != "samples" and model.latents is None:
        raise ZooError(
            "the model has no decode to see latents by; families that have it, with real latents: "
            f"{', '.join(families())}."
        )
    if needs == "paths" and model.latents is not None and model.latents.space != REAL:
        raise ZooError(
            f"the latents of this model are {model.latents.space}, and there is no path between "
            f"such codes; families with real ones: {', '.join(families())}."
        )


def explore(
    subject: Subject, what: Sequence[str] = ("all",), step: int = 0
) -> tuple[list[Entry], list[str]]:
    """Writes the pictures, and explore.json with what each is.

    Args:
      subject: the model, from subject.begin.
      what: names of EXPLORATIONS, or "all": then what cannot be shown is left out.
      step: how long the model has learnt.

    Returns:
      (what was written, a sentence for each reason why something of "all" was left out).

    Raises:
      ConfigError: for a name that is unknown.
      ZooError: for an exploration asked for by name that the model or the data cannot give.
    """
    everything = "all" in what
    for name in what:
        choose(name, dict.fromkeys(("all", *EXPLORATIONS)), "exploration")
    entries: list[Entry] = []
    why: dict[str, list[str]] = {}
    codes: Encoded | None = None
    for name, row in EXPLORATIONS.items():
        if not everything and name not in what:
            continue
        try:
            _check(subject.model, row.needs)
            if row.needs == "samples":
                shown = row.show(subject)
            else:
                codes = codes or encode(subject)
                shown = row.show(subject, codes)
            entries += [Entry(name, *one) for one in shown]
        except ConfigError:
            raise
        except ZooError as error:
            if not everything:
                raise ZooError(f"{name}: {error}") from error
            why.setdefault(str(error), []).append(name)
    left_out = [f"{', '.join(names)}: {reason}" for reason, names in why.items()]
    written = {"step": step, "entries": [e._asdict() for e in entries], "left_out": left_out}
    workdir.write_json(subject.folder / "explore.json", written)
    return entries, left_out
