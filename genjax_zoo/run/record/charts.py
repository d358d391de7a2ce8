"""Line charts of the page, as inline SVG in its colours.

Floor 6. What a point is worth is told where one points at it, without a script.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

from genjax_zoo.run.record.page import Html, number, quiet, tag

Series = Sequence[tuple[float, float]]
"""(step, value), in the order of the steps. A value that is not finite leaves a gap."""

WIDTH, HEIGHT = 320, 168
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 8, 22
LETTER = 6
"""Pixels of a letter of a label, about: long ones move the frame."""
DWARFS = 8
"""A start that makes the axis so many times as long as what follows leaves the frame."""
POINTS, TOLD = 200, 50
"""A line shows at most as many points; more are averaged, with a band from least to largest. Of so
many it tells the value where one points at them."""


def charts(curves: Mapping[str, Series]) -> Html:
    """One chart a metric. A metric of training and of held-out data shares one."""
    shared: dict[str, dict[str, Series]] = {}
    for name, line in curves.items():
        split, _, metric = name.rpartition("/")
        both = not split and any(other.endswith(f"/{metric}") for other in curves)
        shared.setdefault(metric, {})["training" if both else split] = line
    if not shared:
        return quiet("No metrics yet.")
    cards = []
    for metric, lines in shared.items():
        lasts = [
            tag("span", f"{split} {number(line[-1][1])}".strip(), class_=f"last s{i % 4}")
            for i, (split, line) in enumerate(lines.items())
        ]
        head = tag("div", tag("h3", metric.replace("_", " ")), *lasts, class_="head")
        cards.append(tag("div", head, chart(lines), class_="card"))
    return tag("div", *cards, class_="cards")


def chart(lines: Mapping[str, Series]) -> Html:
    """A small line chart of one quantity over the steps, as inline SVG in the page's colours.

    The axis is logarithmic where all values are positive and span a factor of more than fifty. A
    start that dwarfs all that follows lies on the frame's edge, and says what it is.
    """
    drawn = {n: [(s, v) for s, v in line if math.isfinite(v)] for n, line in lines.items()}
    values = [v for line in drawn.values() for _, v in line]
    steps = [s for line in lines.values() for s, _ in line]
    if not values:
        return tag("p", "No finite value yet.", class_="quiet")
    log = min(values) > 0 and max(values) / min(values) > 50
    whole, values = values, values if log else _settled(drawn, values, max(steps))
    scale = math.log10 if log else float
    low, high = scale(min(values)), scale(max(values))
    margin = (high - low) * 0.06 or abs(high) * 0.05 or 1.0
    low, high = low - margin, high + margin
    first, last = 0, max(1, *steps)
    ticks = _decades(low, high) if log else _ticks(low, high)
    labels = _labels(ticks)
    left = max(LEFT, 10 + LETTER * max(map(len, labels), default=0))

    def x(step: float) -> float:
        return left + (step - first) / (last - first) * (WIDTH - left - RIGHT)

    def y(value: float) -> float:
        at = TOP + (high - scale(value)) / (high - low) * (HEIGHT - TOP - BOTTOM)
        return min(max(at, TOP), HEIGHT - BOTTOM)

    parts = []
    for tick, label in zip(ticks, labels, strict=True):
        at = f"{y(tick):.1f}"
        parts.append(tag("line", x1=left, x2=WIDTH - RIGHT, y1=at, y2=at, class_="rule"))
        parts.append(tag("text", label, x=left - 6, y=at, class_="y"))
    times = _ticks(first, last, 3)
    for tick, label in zip(times, _labels(times), strict=True):
        # The last label ends where the frame does.
        edge = "x end" if x(tick) > WIDTH - RIGHT - 12 else "x"
        parts.append(tag("text", label, x=f"{x(tick):.1f}", y=HEIGHT - 5, class_=edge))
    for i, (name, line) in enumerate(lines.items()):
        for piece in _pieces(line):
            parts.append(_line(piece, x, y, f"s{i % 4}"))
        parts += _points(drawn[name], x, y, f"s{i % 4}", name)
    if values is not whole:
        least, most = min(whole), max(whole)
        beyond = f"from {number(least if least < low else most)}, off the frame"
        beside = HEIGHT - BOTTOM - 4 if least < low else TOP + 9
        parts.append(tag("text", beyond, x=left + 12, y=beside))
    lasts = ", ".join(f"{n or 'training'} {number(line[-1][1])}" for n, line in lines.items())
    return tag(
        "svg",
        *parts,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=f"Curve; last values: {lasts}{'; logarithmic axis' if log else ''}",
    )


def _settled(lines: Mapping[str, Series], of: list[float], last: float) -> list[float]:
    """All values, without those of the first tenth of the steps where these dwarf the rest."""
    rest = [v for line in lines.values() for s, v in line if s > last / 10]
    span = lambda some: max(some) - min(some)
    dwarfed = len(rest) >= 8 and span(rest) > 0 and span(of) > DWARFS * span(rest)
    return rest if dwarfed else of


def _pieces(line: Series) -> list[list[tuple[float, float]]]:
    """The line cut where it is not finite."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for step, value in line:
        if math.isfinite(value):
            pieces[-1].append((step, value))
        elif pieces[-1]:
            pieces.append([])
    return [piece for piece in pieces if piece]


Place = Callable[[float], float]
"""A step or a value -> its pixel."""


def _points(line: Series, x: Place, y: Place, colour: str, name: str) -> list[Html]:
    """Circles that are seen where one points at them, and say what the line is worth there."""
    apart = max(1.0, (len(line) - 1) / (TOLD - 1))
    chosen = sorted({min(round(i * apart), len(line) - 1) for i in range(min(TOLD, len(line)))})
    return [
        tag(
            "circle",
            tag("title", f"{name} {number(value, 5)} at step {number(step)}".strip()),
            **{"cx": f"{x(step):.1f}", "cy": f"{y(value):.1f}", "r": 4},
            class_=f"point {colour}",
        )
        for step, value in (line[i] for i in chosen)
    ]


def _line(points: Series, x: Place, y: Place, colour: str) -> Html:
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
    """About `count` round numbers between two, and three at least."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    unit = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    start = math.ceil(low / unit)
    found = [i * unit for i in range(start, start + 2 * count + 2) if i * unit <= high]
    return found if len(found) > 2 or count > 16 else _ticks(low, high, count + 1)


def _decades(low: float, high: float) -> list[float]:
    """Powers of ten between two, given as logarithms, or 1, 2 and 5 times them where these are
    few; not so many that they could not be read."""
    inside = range(math.ceil(low), math.floor(high) + 1)
    if len(inside) > 2:
        return [10.0**p for p in inside[:: max(1, math.ceil(len(inside) / 5))]]
    powers = range(math.floor(low), math.ceil(high) + 1)
    between = [m * 10.0**p for p in powers for m in (1, 2, 5)]
    return [value for value in between if low <= math.log10(value) <= high]


def _labels(ticks: Sequence[float]) -> list[str]:
    """What the ticks are called, in as many digits as tell each from the next."""
    apart = min((abs(b - a) for a, b in itertools.pairwise(ticks)), default=math.inf)
    right = lambda digits: all(abs(float(f"{t:.{digits}g}") - t) < apart / 100 for t in ticks)
    digits = next((digits for digits in range(3, 17) if right(digits)), 17)
    return [_short(tick, digits) for tick in ticks]


def _short(value: float, digits: int) -> str:
    """A tick's label: 12000 is 12k."""
    size = abs(value)
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= unit * 10 or size == unit:
            return f"{value / unit:.{digits}g}{letter}".replace("-", "−")
    # From 1e4 on it is in thousands.
    return f"{value:.{max(digits, 4)}g}".replace("-", "−")
