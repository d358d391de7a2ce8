"""report.html: what a run learnt, on one self-contained page, built from its workdir alone.

Floor 6. Reads `config.json`, `run.json`, `metrics.jsonl`, `samples/step_*.png` (of clips, the GIF
beside the last one too) and `step_*.txt`, `eval/metrics.json`, and `explore/explore.json` with the
pictures that it names; whatever is missing or damaged is left out, and the page says so.
"""

from __future__ import annotations

import base64
import json
import math
import pathlib
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from genjax_zoo.contract import ConfigError
from genjax_zoo.measure.results import of_what
from genjax_zoo.measure.weighed import in_words
from genjax_zoo.models import ZOO
from genjax_zoo.run.config import assemble
from genjax_zoo.run.record import files
from genjax_zoo.run.record.page import Html, Series, chart, document, number, tag, void

PICTURES, TEXTS, TEXT_LINES = 8, 3, 16
"""Pictures in the strip of samples through time; texts beneath them, and samples of each."""
GIF = b"GIF8"
"""How such a file begins."""


def write(workdir: pathlib.Path) -> pathlib.Path:
    """Builds `workdir/report.html`, and returns its path."""
    workdir = pathlib.Path(workdir)
    config = _mapping(_json(workdir / "config.json"))
    starts = [_mapping(s) for s in _list(_json(workdir / "run.json"))]
    numbers = [_mapping(m) for m in _list(_json(workdir / "eval" / "metrics.json"))]
    curves = _curves(workdir / "metrics.jsonl")
    pictures = _pictures(workdir / "samples")
    texts = _thinned(workdir / "samples", "txt", TEXTS)
    family = str(_mapping(config.get("model")).get("name", workdir.resolve().name))
    variant = _variant(starts)
    title = f"{family} · {variant}" if variant else family
    page = document(
        f"{title} · genjax_zoo",
        tag("header", *_title(family, variant, config, curves)),
        _hero(numbers, _moving(workdir / "samples", pictures)),
        _section("Curves", _charts(curves)),
        _section("Samples through time", _strip(pictures, texts)),
        _exploration(workdir / "explore"),
        _section("Config", _config(config)),
        _section("What ran, on what", _facts(config, starts)),
        _section("How to run it again", _again(starts)),
    )
    return files.write(workdir / "report.html", page)


# ---------------------------------------------------------------------------------- reading


def _json(path: pathlib.Path) -> Any:
    """What a json file holds, or None where it is missing or damaged."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else []


def _curves(path: pathlib.Path) -> dict[str, Series]:
    """Metric -> its line. Of a step written twice, before and after a resume, the last holds."""
    lines: dict[str, dict[float, float]] = {}
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return {}
    for row in text.splitlines():
        try:
            line = _mapping(json.loads(row))
        except ValueError:
            continue  # a line cut short by a kill
        if not isinstance(step := line.get("step"), int | float):
            continue
        for name, value in line.items():
            if name != "step" and isinstance(value, int | float):
                lines.setdefault(name, {})[step] = float(value)
    return {name: sorted(line.items()) for name, line in lines.items()}


def _thinned(folder: pathlib.Path, end: str, most: int) -> list[tuple[int, bytes]]:
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


def _pictures(folder: pathlib.Path) -> list[tuple[int, bytes]]:
    return _thinned(folder, "png", PICTURES)


def _moving(
    folder: pathlib.Path, pictures: Sequence[tuple[int, bytes]]
) -> tuple[int, bytes] | None:
    """The last of the pictures, as the GIF beside it if there is one: (step, PNG or GIF)."""
    if not pictures:
        return None
    step, still = pictures[-1]
    try:
        gif = (folder / f"step_{step:08d}.gif").read_bytes()
    except OSError:
        return step, still
    return step, gif if gif.startswith(GIF) else still


def _variant(starts: Sequence[Mapping]) -> str | None:
    """The variant that the first command named, as in `--config=configs/vae.py:digits`."""
    for argument in _command(starts)[1:]:
        if match := re.fullmatch(r"(?:--?config=)?.*\.py:(\w+)", argument):
            return match[1]
    return None


def _command(starts: Sequence[Mapping]) -> list[str]:
    """The command of the first start, with the program's name as one types it."""
    command = [str(word) for word in _list(starts[0].get("command") if starts else None)]
    if not command:
        return []
    program = pathlib.PurePath(command[0])
    if program.name == "main.py":
        return ["python", "-m", "genjax_zoo.main", *command[1:]]
    return [program.name, *command[1:]]


# ---------------------------------------------------------------------------------- writing


def _section(title: str, *content: str | None) -> Html:
    return tag("section", tag("h2", title), *content)


def _quiet(text: str) -> Html:
    return tag("p", text, class_="quiet")


def _title(family: str, variant: str | None, config: Mapping, curves: Mapping) -> list[Html]:
    parts = [tag("h1", family, tag("span", f" {variant}") if variant else None)]
    if family in ZOO:
        parts.append(tag("p", ZOO[family].summary, class_="lead"))
    done = max((line[-1][0] for line in curves.values()), default=0)
    data, steps = _mapping(config.get("data")), config.get("steps")
    facts = [
        f"learnt by {ZOO[family].verb}" if family in ZOO else None,
        f"from {data['source']}" if "source" in data else None,
        f"step {done:,.0f}" + (f" of {steps:,}" if isinstance(steps, int) else ""),
        f"seed {config['seed']}" if "seed" in config else None,
    ]
    return [*parts, _quiet(" · ".join(fact for fact in facts if fact))]


def _hero(entries: Sequence[Mapping], last: tuple[int, bytes] | None) -> Html:
    """The last samples beside what was measured."""
    cards = [_measurement(entry) for entry in entries]
    numbers = (
        tag("div", *cards, class_="cards")
        if cards
        else _quiet("Nothing is measured on held-out data yet.")
    )
    figure = _figure(*last, caption="Samples, step") if last else None
    return tag("section", figure, tag("div", numbers), class_="hero")


def _measurement(entry: Mapping) -> Html:
    """One number, with everything that says what it is."""
    value, error = entry.get("value"), entry.get("standard_error")
    unit, kind = str(entry.get("unit", "")), str(entry.get("kind", "none"))
    split, n, step = entry.get("split"), entry.get("n"), entry.get("step")
    low, high = entry.get("low"), entry.get("high")
    if isinstance(low, int | float) and isinstance(high, int | float):
        shown, within = _spread(value, low, high)
    else:
        shown, within = _value(value, error)
    facts = [
        of_what(str(split), _mapping(entry.get("protocol"))) if split else None,
        f"n = {n:,}" if isinstance(n, int) else None,
        f"step {step:,}" if isinstance(step, int) else None,
        f"{entry['better']} is better" if entry.get("better") in ("higher", "lower") else None,
        str(entry["detail"]) if entry.get("detail") else None,
        in_words(entry.get("trust") or {}, n if isinstance(n, int) else 0),
    ]
    return tag(
        "div",
        tag("h3", str(entry.get("name", "")).replace("_", " ")),
        tag("span", kind.replace("_", " "), class_=f"kind {kind}") if kind != "none" else None,
        tag("div", shown, tag("small", f"{within} {unit}".strip()), class_="value"),
        tag("small", " · ".join(fact for fact in facts if fact)),
        tag("p", str(entry["preprocessing"]), class_="quiet")
        if entry.get("preprocessing")
        else None,
        class_="card",
    )


def _value(value: Any, error: Any) -> tuple[str, str]:
    """A value and its standard error as "± ...", both to the error's second digit."""
    if not isinstance(value, int | float):
        return ("not measured" if value is None else str(value)), ""
    known = isinstance(error, int | float) and math.isfinite(error) and error > 0
    if not known or not math.isfinite(value):
        return number(float(value), 5), ""
    decimals = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:,.{decimals}f}".replace("-", "−"), f"± {error:,.{decimals}f}"


def _spread(value: Any, low: float, high: float) -> tuple[str, str]:
    """A value and its interval as "[low, high]", to the second digit of the interval's width."""
    width = high - low
    if not isinstance(value, int | float) or not math.isfinite(width) or width <= 0:
        return _value(value, None)[0], f"[{number(low)}, {number(high)}]"
    decimals = max(0, 1 - math.floor(math.log10(width)))
    three = [f"{x:,.{decimals}f}".replace("-", "−") for x in (value, low, high)]
    return three[0], f"[{three[1]}, {three[2]}]"


def _figure(step: int, picture: bytes, caption: str = "step") -> Html:
    kind = "gif" if picture.startswith(GIF) else "png"
    source = f"data:image/{kind};base64," + base64.b64encode(picture).decode()
    image = void("img", src=source, alt=f"Samples at step {step}", loading="lazy")
    return tag("figure", image, tag("figcaption", f"{caption} {step:,}"))


def _charts(curves: Mapping[str, Series]) -> Html:
    """One chart a metric. A metric of training and of held-out data shares one."""
    charts: dict[str, dict[str, Series]] = {}
    for name, line in curves.items():
        split, _, metric = name.rpartition("/")
        both = not split and any(other.endswith(f"/{metric}") for other in curves)
        charts.setdefault(metric, {})["training" if both else split] = line
    if not charts:
        return _quiet("No metrics yet.")
    cards = []
    for metric, lines in charts.items():
        lasts = [
            tag("span", f"{split} {number(line[-1][1])}".strip(), class_=f"last s{i % 4}")
            for i, (split, line) in enumerate(lines.items())
        ]
        head = tag("div", tag("h3", metric.replace("_", " ")), *lasts, class_="head")
        cards.append(tag("div", head, chart(lines), class_="card"))
    return tag("div", *cards, class_="cards")


def _strip(pictures: Sequence[tuple[int, bytes]], texts: Sequence[tuple[int, bytes]]) -> Html:
    if not pictures and not texts:
        return _quiet("No samples drawn yet.")
    strip = tag("div", *(_figure(*picture) for picture in pictures), class_="strip")
    return tag("div", strip if pictures else None, *(_text(*text) for text in texts))


def _text(step: int, content: bytes) -> Html:
    lines = content.decode(errors="replace").splitlines()[:TEXT_LINES]
    return tag("figure", tag("pre", "\n".join(lines)), tag("figcaption", f"step {step:,}"))


def _exploration(folder: pathlib.Path) -> Html | None:
    """The pictures of `genjax-zoo explore`, each with what it is; None where there are none."""
    explored = _mapping(_json(folder / "explore.json"))
    figures = []
    for entry in map(_mapping, _list(explored.get("entries"))):
        for name in _list(entry.get("files")):
            try:
                picture = (folder / pathlib.PurePath(str(name)).name).read_bytes()
            except OSError:
                continue
            kind = "gif" if picture.startswith(GIF) else "png"
            written = base64.b64encode(picture).decode()
            caption = str(entry.get("caption", ""))
            shown = void("img", src=f"data:image/{kind};base64,{written}", alt=caption)
            heading = tag("h3", pathlib.PurePath(str(name)).stem.replace("_", " "))
            figures.append(tag("figure", heading, shown, tag("figcaption", caption), class_="card"))
    if not figures:
        return None
    step = explored.get("step")
    after = _quiet(f"Of the model after {step:,} steps.") if isinstance(step, int) else None
    return _section("Exploration", after, tag("div", *figures, class_="columns"))


def _config(config: Mapping) -> Html:
    """Every field, in a table a section; what differs from the family's defaults is marked."""
    if not config:
        return _quiet("config.json is missing or unreadable.")
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
    marked = _quiet("Marked: what differs from the family's defaults.") if defaults else None
    return tag("div", tag("div", *cards, class_="columns"), marked)


def _defaults(config: Mapping) -> dict[str, Any] | None:
    """The family's own defaults as json would hold them, or None for a family not known here."""
    name = _mapping(config.get("model")).get("name")
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


def _facts(config: Mapping, starts: Sequence[Mapping]) -> Html:
    """The machine, the versions and the time, of the last start; and each start's share."""
    if not starts:
        return _quiet("run.json is missing or unreadable.")
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


def _origins(start: Mapping) -> list[str]:
    """What a run began from, name by name, in words."""
    found = []
    for name, entry in _mapping(start.get("begun")).items():
        origin = _mapping(entry)
        config = _mapping(origin.get("config"))
        model, data = (_mapping(config.get(part)) for part in ("model", "data"))
        found.append(
            f"{name}: {origin.get('workdir', '?')}, step {origin.get('step', '?')} of a "
            f"{model.get('name', '?')} on {data.get('source', '?')}, "
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
    note = _quiet(f"The run was started {len(starts)} times, and resumed where it had been saved.")
    return tag("div", note, tag("div", tag("table", header, *rows), class_="card scroll"))


def _duration(seconds: Any) -> str:
    if not isinstance(seconds, int | float) or not math.isfinite(seconds):
        return "unknown"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _again(starts: Sequence[Mapping]) -> Html:
    command = _command(starts)
    if not command:
        return _quiet("The command was not recorded.")
    first = starts[0]
    lines = [f"git checkout {first['commit']}"] if first.get("commit") else []
    lines.append(shlex.join(command))
    note = "The same command on the same workdir resumes; a fresh workdir starts over."
    if first.get("dirty"):
        note += " The checkout held changes that were not committed: the commit alone may differ."
    return tag("div", tag("pre", "\n".join(lines)), _quiet(note))
