"""report.html: what a run learnt, on one self-contained page, built from its workdir alone.

    reading   what the workdir holds, damaged or not          page     elements, and the style
    gallery   samples beside the data, and through time       charts   the curves
    cards     what was measured                               facts    config, machine, command

Floor 6. Reads `config.json`, `run.json`, `example.json`, `metrics.jsonl`, of `samples/` the files
`step_*` and `data.*` (png, of clips gif, csv, txt), `eval/metrics.json`, and `explore/explore.json`
with the pictures that it names; whatever is missing or damaged is left out, and the page says so.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

from genjax_zoo.models import ZOO
from genjax_zoo.run.record import facts, files, gallery
from genjax_zoo.run.record.cards import cards
from genjax_zoo.run.record.charts import charts
from genjax_zoo.run.record.page import Html, document, quiet, tag
from genjax_zoo.run.record.reading import curves_of, json_of, mapping, sequence


def write(workdir: pathlib.Path) -> pathlib.Path:
    """Builds `workdir/report.html`, and returns its path."""
    workdir = pathlib.Path(workdir)
    config = mapping(json_of(workdir / "config.json"))
    starts = [mapping(s) for s in sequence(json_of(workdir / "run.json"))]
    numbers = [mapping(m) for m in sequence(json_of(workdir / "eval" / "metrics.json"))]
    example = mapping(json_of(workdir / "example.json"))
    curves = curves_of(workdir / "metrics.jsonl")
    family = str(mapping(config.get("model")).get("name", workdir.resolve().name))
    variant = facts.variant_of(starts)
    title = f"{family} · {variant}" if variant else family
    figures, earlier = gallery.last(workdir / "samples"), gallery.before(workdir / "samples")
    page = document(
        f"{title} · genjax_zoo",
        tag("header", *_title(family, variant, config, example, curves)),
        gallery.hero(figures or [gallery.nothing()], cards(numbers)),
        _section("Curves", charts(curves)),
        _section("Samples before", earlier) if earlier else None,
        _exploration(workdir / "explore"),
        _section("Config", facts.config_of(config)),
        _section("What ran, on what", facts.facts_of(config, starts)),
        _section("How to run it again", facts.again(starts, workdir)),
    )
    return files.write(workdir / "report.html", page)


def _section(title: str, *content: str | None) -> Html:
    return tag("section", tag("h2", title), *content)


def _title(
    family: str, variant: str | None, config: Mapping, example: Mapping, curves: Mapping
) -> list[Html]:
    parts = [tag("h1", family, tag("span", f" {variant}") if variant else None)]
    if family in ZOO:
        parts.append(tag("p", ZOO[family].summary, class_="lead"))
    done = max((line[-1][0] for line in curves.values()), default=0)
    data, steps = mapping(config.get("data")), config.get("steps")
    size = example.get("parameters")
    told = [
        f"learnt by {ZOO[family].verb}" if family in ZOO else None,
        f"from {data['source']}" if "source" in data else None,
        f"{size:,} parameters" if isinstance(size, int) else None,
        f"step {done:,.0f}" + (f" of {steps:,}" if isinstance(steps, int) else ""),
        f"seed {config['seed']}" if "seed" in config else None,
    ]
    return [*parts, quiet(" · ".join(fact for fact in told if fact))]


def _exploration(folder: pathlib.Path) -> Html | None:
    """What `genjax-zoo explore` has shown, each with what it is; None where there is nothing."""
    explored = mapping(json_of(folder / "explore.json"))
    figures = []
    for entry in map(mapping, sequence(explored.get("entries"))):
        for name in sequence(entry.get("files")):
            try:
                content = (folder / pathlib.PurePath(str(name)).name).read_bytes()
            except OSError:
                continue
            caption = str(entry.get("caption", ""))
            is_text = str(name).endswith(".txt")
            shown = (
                gallery.text(content)
                if is_text
                else gallery.embedded(content, caption, gallery.LARGE)
            )
            heading = tag("h3", pathlib.PurePath(str(name)).stem.replace("_", " "))
            figures.append(tag("figure", heading, shown, tag("figcaption", caption), class_="card"))
    if not figures:
        return None
    step = explored.get("step")
    after = quiet(f"Of the model after {step:,} steps.") if isinstance(step, int) else None
    return _section("Exploration", after, tag("div", *figures, class_="columns"))
