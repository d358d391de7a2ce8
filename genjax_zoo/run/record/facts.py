"""Facts of a run for its report: the config, what ran on what, and how to run it again. Floor 6."""

from __future__ import annotations

import json
import math
import pathlib
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from genjax_zoo.contract import ConfigError
from genjax_zoo.run.config import assemble
from genjax_zoo.run.record import recipe
from genjax_zoo.run.record.page import Html, number, quiet, tag
from genjax_zoo.run.record.reading import mapping, sequence


def variant_of(starts: Sequence[Mapping]) -> str | None:
    """The variant that the first command named, as in `--config=configs/vae.py:digits`."""
    for argument in command_of(starts)[1:]:
        if match := re.fullmatch(r"(?:--?config=)?.*\.py:(\w+)", argument):
            return match[1]
    return None


def command_of(starts: Sequence[Mapping]) -> list[str]:
    """The command of the first start, with the program's name as one types it."""
    command = [str(word) for word in sequence(starts[0].get("command") if starts else None)]
    if not command:
        return []
    program = pathlib.PurePath(command[0])
    if program.name == "main.py":
        return ["python", "-m", "genjax_zoo.main", *command[1:]]
    return [program.name, *command[1:]]


def config_of(config: Mapping) -> Html:
    """Every field, in a table a section; what differs from the family's defaults is marked."""
    if not config:
        return quiet("config.json is missing or unreadable.")
    defaults = _defaults(config)
    sections: dict[str, list[Html]] = {}
    for name, value in sorted(_flat(config).items()):
        section, _, field = name.rpartition(".")
        changed = defaults is not None and name in defaults and defaults[name] != value
        shown = tag("mark" if changed else "span", _spell(value))
        was = f"default: {_spell(defaults[name])}" if changed and defaults else None
        row = tag("tr", tag("th", field), tag("td", shown, title=was))
        sections.setdefault(section, []).append(row)
    cards = [
        tag("div", tag("h3", section or "run"), tag("table", *rows), class_="card")
        for section, rows in sections.items()
    ]
    marked = quiet("Marked: what differs from the family's defaults.") if defaults else None
    return tag("div", tag("div", *cards, class_="columns"), marked)


def _defaults(config: Mapping) -> dict[str, Any] | None:
    """The family's own defaults as json would hold them, or None for a family not known here."""
    name = mapping(config.get("model")).get("name")
    try:
        fresh = assemble({"": {"model": {"name": name}}}, "")
    except (ConfigError, TypeError):
        return None
    return _flat(json.loads(json.dumps(fresh.to_dict())))


def _flat(fields: Mapping, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _spell(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value)


def facts_of(config: Mapping, starts: Sequence[Mapping]) -> Html:
    """The machine, the versions and the time, of the last start; and each start's share."""
    if not starts:
        return quiet("run.json is missing or unreadable.")
    last = starts[-1]
    commit = last.get("commit")
    seconds = sum(s["seconds"] for s in starts if isinstance(s.get("seconds"), int | float))
    devices = f"{last.get('device_count', '?')} × {last.get('device', '?')}"
    if isinstance(last.get("process_count"), int) and last["process_count"] > 1:
        devices += f" in {last['process_count']} processes"
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
    rows = {
        "devices": devices,
        "processor": f"{last.get('cpu', '?')}, {last.get('cores', '?')} cores",
        "platform": last.get("platform"),
        "wall time": _duration(seconds),
        "steps a second": _pace(starts),
        "started": starts[0].get("started"),
        "seed": config.get("seed"),
        "begun from": "; ".join(_origins(last)) or None,
        "genjax_zoo": last.get("genjax_zoo"),
        "commit": f"{commit}{', with uncommitted changes' if last.get('dirty') else ''}"
        if commit
        else "not a git checkout",
        "versions": ", ".join(
            f"{name} {last[name]}" for name in ("python", *packages) if last.get(name)
        ),
    }
    table = tag(
        "table",
        *(tag("tr", tag("th", k), tag("td", str(v))) for k, v in rows.items() if v is not None),
    )
    return tag("div", tag("div", table, class_="card"), _history(starts))


def _pace(starts: Sequence[Mapping]) -> str | None:
    """How fast a run went from its first start to its last, all that it did included."""
    steps = seconds = 0.0
    for start in starts:
        told = [start.get(key) for key in ("first_step", "last_step", "seconds")]
        known = [float(value) for value in told if isinstance(value, int | float)]
        if len(known) == len(told):
            first, last, took = known
            steps, seconds = steps + last - first, seconds + took
    if not (steps > 0 and seconds > 0 and math.isfinite(seconds)):
        return None
    return f"{number(steps / seconds, 3)}, with compiling, measuring and saving"


def _origins(start: Mapping) -> list[str]:
    """What a run began from, name by name, in words."""
    found = []
    for name, entry in mapping(start.get("begun")).items():
        origin = mapping(entry)
        config = mapping(origin.get("config"))
        model, data = (mapping(config.get(part)) for part in ("model", "data"))
        learnt = f", step {origin.get('step', '?')} of a {model.get('name', '?')}"
        learnt += f" on {data.get('source', '?')}"
        # A folder of others' weights does not tell how they were learnt.
        told = "" if mapping(origin.get("files")) else learnt
        found.append(
            f"{name}: {origin.get('workdir', '?')}{told}, "
            f"sha256 {str(origin.get('sha256', '?'))[:16]}"
        )
    return found


def _history(starts: Sequence[Mapping]) -> Html | None:
    """The starts of a run that was resumed."""
    if len(starts) < 2:
        return None
    header = tag("tr", *(tag("th", h) for h in ("started", "steps", "time", "devices", "commit")))
    rows = [
        tag(
            "tr",
            tag("td", str(s.get("started", "?"))),
            tag("td", f"{s.get('first_step', '?')} to {s.get('last_step', '?')}"),
            tag("td", _duration(s.get("seconds"))),
            tag("td", f"{s.get('device_count', '?')} × {s.get('device', '?')}"),
            tag("td", str(s.get("commit") or "none")[:10]),
        )
        for s in starts
    ]
    note = quiet(f"The run was started {len(starts)} times, and resumed where it had been saved.")
    return tag("div", note, tag("div", tag("table", header, *rows), class_="card scroll"))


def _duration(seconds: Any) -> str:
    if not isinstance(seconds, int | float) or not math.isfinite(seconds):
        return "unknown"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def again(starts: Sequence[Mapping], workdir: pathlib.Path) -> Html:
    """What to type to run it again: what was kept of it, or the command of a run that kept less."""
    told = recipe.again(starts, workdir)
    if told is not None:
        return tag("div", tag("pre", "\n".join(told.lines)), *map(quiet, told.remarks))
    command = command_of(starts)
    if not command:
        return quiet("The command was not recorded.")
    first = starts[0]
    lines = [f"git checkout {first['commit']}"] if first.get("commit") else []
    lines.append(shlex.join(command))
    note = "The same command on the same workdir resumes; a fresh workdir starts over."
    if first.get("dirty"):
        note += " The checkout held changes that were not committed: the commit alone may differ."
    return tag("div", tag("pre", "\n".join(lines)), quiet(note))
