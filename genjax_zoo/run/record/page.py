"""The parts of a self-contained page: elements whose text is escaped, line charts, the style.

Floor 6.
"""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Mapping, Sequence

Series = Sequence[tuple[float, float]]
"""(step, value), in the order of the steps. A value that is not finite leaves a gap."""


class Html(str):
    """Text that is markup already. Any other string is escaped where it enters an element."""


def tag(name: str, /, *children: str | None, **attributes: object) -> Html:
    """An element; None among its children or attributes is left out.

    An underscore at an attribute's end is dropped (`class_`), any other becomes a dash.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inside = "".join(
        c if isinstance(c, Html) else html.escape(c) for c in children if c is not None
    )
    return Html(f"<{name}{written}>{inside}</{name}>")


def void(name: str, /, **attributes: object) -> Html:
    """An element of HTML that has no inside and no end. (Those of SVG all have one.)"""
    return Html(tag(name, **attributes).removesuffix(f"</{name}>"))


def document(title: str, *body: str | None) -> Html:
    """A whole page. Its policy forbids every request, so that nothing in it can make one."""
    head = tag(
        "head",
        void("meta", charset="utf-8"),
        void("meta", name="viewport", content="width=device-width, initial-scale=1"),
        Html(
            '<meta http-equiv="Content-Security-Policy" content="'
            "default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
        ),
        void("link", rel="icon", href="data:,"),
        tag("title", title),
        tag("style", Html(STYLE)),
    )
    return Html("<!doctype html>\n" + tag("html", head, tag("body", *body), lang="en") + "\n")


def number(value: float, digits: int = 4) -> str:
    """A number of a few significant digits, with a true minus sign."""
    if not math.isfinite(value):
        return {math.inf: "∞", -math.inf: "−∞"}.get(value, "not a number")
    size = abs(value)
    if size and (size < 1e-3 or size >= 1e6):
        written = f"{value:.{digits - 1}g}"
    elif float(value).is_integer():
        written = f"{value:,.0f}"
    else:
        decimals = digits - 1 - (math.floor(math.log10(size)) if size else 0)
        written = f"{value:,.{max(decimals, 0)}f}"
    return written.replace("-", "−")


WIDTH, HEIGHT = 320, 168
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 8, 22
POINTS = 200
"""A line shows at most as many points; more are averaged, with a band from least to largest."""


def chart(lines: Mapping[str, Series]) -> Html:
    """A small line chart of one quantity over the steps, as inline SVG in the page's colours.

    The axis is logarithmic where all values are positive and span a factor of more than fifty.
    """
    drawn = {n: [(s, v) for s, v in line if math.isfinite(v)] for n, line in lines.items()}
    values = [v for line in drawn.values() for _, v in line]
    steps = [s for line in lines.values() for s, _ in line]
    if not values:
        return tag("p", "No finite value yet.", class_="quiet")
    log = min(values) > 0 and max(values) / min(values) > 50
    scale = math.log10 if log else float
    low, high = scale(min(values)), scale(max(values))
    margin = (high - low) * 0.06 or abs(high) * 0.05 or 1.0
    low, high = low - margin, high + margin
    first, last = 0, max(1, *steps)

    def x(step: float) -> float:
        return LEFT + (step - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return TOP + (high - scale(value)) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for tick in _decades(low, high) if log else _ticks(low, high):
        at = f"{y(tick):.1f}"
        parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at, class_="rule"))
        parts.append(tag("text", _short(tick), x=LEFT - 6, y=at, class_="y"))
    for tick in _ticks(first, last, 3):
        # The last label ends where the frame does.
        edge = "x end" if x(tick) > WIDTH - RIGHT - 12 else "x"
        parts.append(tag("text", _short(tick), x=f"{x(tick):.1f}", y=HEIGHT - 5, class_=edge))
    for i, (name, line) in enumerate(lines.items()):
        for piece in _pieces(line):
            parts.append(_line(piece, x, y, f"s{i % 4}", name))
    lasts = ", ".join(f"{n or 'training'} {number(line[-1][1])}" for n, line in lines.items())
    return tag(
        "svg",
        *parts,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=f"Curve; last values: {lasts}{'; logarithmic axis' if log else ''}",
    )


def _pieces(line: Series) -> list[list[tuple[float, float]]]:
    """The line cut where it is not finite."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for step, value in line:
        if math.isfinite(value):
            pieces[-1].append((step, value))
        elif pieces[-1]:
            pieces.append([])
    return [piece for piece in pieces if piece]


def _line(points, x, y, colour: str, name: str) -> Html:
    if len(points) == 1:
        (step, value), *_ = points
        return tag("circle", cx=f"{x(step):.1f}", cy=f"{y(value):.1f}", r=2.5, class_=colour)
    band = None
    if len(points) > POINTS:
        # Bins of (nearly) equal size: the line goes through their means.
        cuts = [round(i * len(points) / POINTS) for i in range(POINTS + 1)]
        bins = [points[a:b] for a, b in itertools.pairwise(cuts)]
        middle = [sum(s for s, _ in b) / len(b) for b in bins]
        upper = [(s, max(v for _, v in b)) for s, b in zip(middle, bins, strict=True)]
        lower = [(s, min(v for _, v in b)) for s, b in zip(middle, bins, strict=True)]
        points = [(s, sum(v for _, v in b) / len(b)) for s, b in zip(middle, bins, strict=True)]
        outline = " ".join(f"{x(s):.1f},{y(v):.1f}" for s, v in [*upper, *reversed(lower)])
        band = tag("polygon", points=outline, class_=f"band {colour}")
    path = " ".join(f"{x(s):.1f},{y(v):.1f}" for s, v in points)
    return tag("g", band, tag("polyline", points=path, class_=colour))


def _ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers between two."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    unit = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    start = math.ceil(low / unit)
    return [i * unit for i in range(start, start + 2 * count + 2) if i * unit <= high]


def _decades(low: float, high: float) -> list[float]:
    """Powers of ten between two, given as logarithms; few enough to be read."""
    inside = range(math.ceil(low), math.floor(high) + 1)
    return [10.0**p for p in inside[:: max(1, math.ceil(len(inside) / 5))]]


def _short(value: float) -> str:
    """A tick's label: 12000 is 12k."""
    size = abs(value)
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= unit * 10 or size == unit:
            return f"{value / unit:g}{letter}".replace("-", "−")
    written = f"{round(value, 10):g}" if size >= 1e-4 else f"{value:.0e}" if value else "0"
    return written.replace("-", "−")


STYLE = """
:root { color-scheme: light dark; --paper: #fbfaf8; --card: #fff; --ink: #1d2126; --quiet: #69707a;
  --rule: #e4e2dd; --mark: #fff3d1; --c0: #2a6fbb; --c1: #c2571a; --c2: #3b8a4d; --c3: #8452a8; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --card: #1b1f25; --ink: #e4e6e9;
  --quiet: #8f97a3; --rule: #2c323a; --mark: #3d3520; --c0: #6aa9ec; --c1: #ec9560; --c2: #74c188;
  --c3: #bf94de; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 66rem; padding: 2.5rem 1.25rem 4rem; background: var(--paper);
  color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 2rem; line-height: 1.15; margin: 0; letter-spacing: -.02em; font-weight: 650; }
h1 span { color: var(--quiet); font-weight: 400; }
h2 { font-size: .8rem; text-transform: uppercase; letter-spacing: .09em; color: var(--quiet);
  margin: 2.75rem 0 .9rem; font-weight: 600; }
h3 { font-size: .95rem; margin: 0 0 .3rem; font-weight: 600; overflow-wrap: anywhere; }
p { margin: .5rem 0; } .lead { font-size: 1.08rem; max-width: 44rem; }
.quiet, figcaption, small { color: var(--quiet); font-size: .86rem; }
.cards { display: grid; gap: .9rem;
  grid-template-columns: repeat(auto-fill, minmax(15.5rem, 1fr)); }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 10px;
  padding: .9rem 1rem; min-width: 0; }
.value { font-size: 1.75rem; line-height: 1.25; font-variant-numeric: tabular-nums;
  letter-spacing: -.01em; } .value small { font-size: .95rem; margin-left: .3rem; }
.kind { display: inline-block; font-size: .75rem; padding: .05rem .5rem; border-radius: 1rem;
  border: 1px solid currentColor; color: var(--c3); margin-bottom: .35rem; }
.kind.exact { color: var(--c2); } .kind.lower_bound { color: var(--c0); }
.kind.estimate { color: var(--c1); }
.hero { display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: flex-start; margin-top: 2rem; }
.hero > figure { flex: 0 1 21rem; } .hero > div { flex: 1 1 18rem; min-width: 0; }
.hero .cards { grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); }
figure { margin: 0; } figcaption { margin-top: .35rem; }
img { display: block; width: 100%; height: auto; border-radius: 6px; image-rendering: pixelated; }
.strip { display: grid; gap: .9rem; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); }
svg { display: block; width: 100%; height: auto; } svg text { fill: var(--quiet); font-size: 10px;
  font-variant-numeric: tabular-nums; }
svg .y { text-anchor: end; dominant-baseline: central; } svg .x { text-anchor: middle; }
svg .end { text-anchor: end; }
svg .rule { stroke: var(--rule); } polyline { fill: none; stroke-width: 1.6;
  stroke-linejoin: round; stroke-linecap: round; } .band { opacity: .16; }
polyline.s0 { stroke: var(--c0); } polyline.s1 { stroke: var(--c1); }
polyline.s2 { stroke: var(--c2); } polyline.s3 { stroke: var(--c3); }
.band.s0, circle.s0 { fill: var(--c0); } .band.s1, circle.s1 { fill: var(--c1); }
.band.s2, circle.s2 { fill: var(--c2); } .band.s3, circle.s3 { fill: var(--c3); }
.head { display: flex; justify-content: space-between; gap: .75rem; align-items: baseline; }
.head .last { font-variant-numeric: tabular-nums; white-space: nowrap; font-size: .86rem; }
.last.s0 { color: var(--c0); } .last.s1 { color: var(--c1); } .last.s2 { color: var(--c2); }
.last.s3 { color: var(--c3); }
.columns { columns: 17rem; column-gap: .9rem; }
.columns > * { break-inside: avoid; margin-bottom: .9rem; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .87rem; }
th, td { text-align: left; padding: .22rem .9rem .22rem 0; vertical-align: top;
  border-top: 1px solid var(--rule); overflow-wrap: anywhere; }
tr:first-child > * { border-top: 0; } th { font-weight: 400; color: var(--quiet); }
td { font-variant-numeric: tabular-nums; }
mark { background: var(--mark); color: inherit; border-radius: 4px; padding: .05rem .3rem; }
pre { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; overflow-x: auto;
  padding: .9rem 1rem; font: .84rem/1.6 ui-monospace, SFMono-Regular, Menlo, monospace; margin: 0; }
@media (max-width: 34rem) { body { padding-top: 1.5rem; } .strip { grid-template-columns: 1fr 1fr; }
  .hero > figure { flex-basis: 100%; } h1 { font-size: 1.6rem; } }
"""
