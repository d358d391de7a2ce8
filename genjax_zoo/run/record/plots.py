"""Plots of samples that are numbers and no images: points of the plane, series, histograms.

Floor 6. Each is an array of bytes [H, W, 3] with axes that can be read. Like pictures.py, nothing
here raises on a value: what is beyond the frame lies on its edge, and what is no number is counted
in red.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

RED = np.array([214, 39, 40], np.uint8)
"""The colour of a number that is none."""
BLUE, GREY, GREEN, AMBER = "#2a6fbb", "#b8bcc4", "#2f7d4f", "#f6b765"
LINES = (BLUE, "#c8553d", "#3a8f5c", "#8a5fb0", "#b58a1b", "#4a4e57")
"""The colours of a series' dimensions; of more dimensions than these, the first ones are shown."""
PANELS = 9
"""How many series are shown, at most."""
POINTS = 4000
"""Of a longer series, this many times are drawn, evenly."""
DOTS = 200
"""Pixels an inch: plots stay sharp where a page or a screen enlarges them."""
LEFT, BOTTOM, SIDE = 0.1, 0.05, 0.88
"""Where the axes of a plane lie in its picture, and how wide and high they are; the legend is
above them, where it hides no point."""
MARGIN = 0.3
"""Inches above and below the panels of series: for the legend, and for the times."""
BEYOND = 0.985
"""Where on the frame, which spans [-1, 1], lies what is beyond it."""


class Frame(NamedTuple):
    """What of the plane is shown: `centre` [2], give or take `half` in each direction."""

    centre: np.ndarray
    half: float

    def within(self, points: np.ndarray) -> np.ndarray:
        """Points [..., 2] in units of the frame, which spans [-1, 1] whatever the data's are."""
        # Clipped, for the difference of huge numbers would overflow.
        return (np.clip(points, -1e300, 1e300) - self.centre) / self.half

    def grid(self, side: int) -> np.ndarray:
        """The middles of side x side cells, row after row from the lowest: [side², 2]."""
        at = (np.arange(side) + 0.5) / side * 2 - 1
        across, up = np.meshgrid(at, at)
        return self.centre + self.half * np.stack([across.ravel(), up.ravel()], 1)


class Component(NamedTuple):
    """A cluster of a model: drawn as the ellipse of two standard deviations.

    Attributes:
      mean: [2].
      covariance: [2, 2].
    """

    mean: np.ndarray
    covariance: np.ndarray


class Plane(NamedTuple):
    """What a model says of the plane (run/record/planes.py).

    Attributes:
      log_density: [G, G] over the cells of the frame, the lowest row first; None if not known.
      components: of a mixture.
    """

    log_density: np.ndarray | None = None
    components: Sequence[Component] = ()


def frame_of(points: Any) -> Frame:
    """The frame that holds points [N, 2], and a tenth more on each side."""
    points = np.asarray(points, np.float64).reshape(-1, 2)
    points = points[np.isfinite(points).all(-1)]
    if not len(points):
        return Frame(np.zeros(2), 1.0)
    # Clipped, for the width of a frame of huge numbers would overflow.
    low, high = np.clip([points.min(0), points.max(0)], -1e30, 1e30)
    return Frame((low + high) / 2, max(float(np.max(high - low)) * 0.6, 1e-3))


def scatter(
    x: Any, reference: Any = None, plane: Plane | None = None, size: int = 960
) -> np.ndarray:
    """Points of the plane.

    Args:
      x: [N, 2] samples, drawn in blue. Those that are not finite are counted in red.
      reference: [M, 2] points of the data, drawn in grey underneath. They set the frame, so that
        pictures of one run can be compared; samples beyond it are drawn on its edge, and counted.
      plane: what the model says of the plane, drawn underneath.
      size: pixels a side.

    Returns:
      [size, size, 3] bytes.
    """
    x = np.asarray(x, np.float64).reshape(-1, 2)
    finite = np.isfinite(x).all(-1)
    points, plane = x[finite], plane or Plane()
    frame = frame_of(points if reference is None else reference)
    figure, axes = _axes_of(frame, size)
    if plane.log_density is not None:
        _heat(axes, plane.log_density)
    if reference is not None:
        axes.scatter(
            *_columns(frame.within(_points(reference))), s=5, color=GREY, linewidths=0, label="data"
        )
    inside = frame.within(points)
    axes.scatter(
        *_columns(np.clip(inside, -BEYOND, BEYOND)),
        **{"s": 6, "color": BLUE, "alpha": 0.7, "linewidths": 0, "label": "samples"},
    )
    for i, component in enumerate(plane.components):
        outline = frame.within(_ellipse(component))
        if np.isfinite(outline).all():
            label = "components, 2 σ" if i == 0 else None
            axes.plot(*_columns(outline), color=GREEN, linewidth=1, label=label)
    beyond = int(np.sum(np.abs(inside).max(-1, initial=0) > 1))
    lost = [f"{np.sum(~finite)} of {len(x)} not finite"] if not finite.all() else []
    lost += [f"{beyond} of {len(x)} beyond the frame"] if beyond else []
    axes.text(-0.97, 0.97, "\n".join(lost), color=RED / 255, va="top", fontsize=8)
    _legend(axes)
    return _drawn(figure)


def trails(x: Sequence[np.ndarray], reference: Any, size: int = 960) -> np.ndarray:
    """Paths of the plane, over points of the data.

    Args:
      x: paths [T, 2], each with a mark at its every place; of a few, each in its own colour.
        What is not finite leaves a gap.
      reference: [M, 2] points, drawn in grey underneath.
      size: pixels a side.

    Returns:
      [size, size, 3] bytes. The frame holds the data, and the paths as far as they stray from it
      by no more than its width.
    """
    points = _points(reference)
    low, high = points.min(0), points.max(0)
    centre, width = (low + high) / 2, max(float(np.max(high - low)), 1e-3)
    inside = [np.clip((np.asarray(path) - centre) / width, -1.5, 1.5) for path in x]
    farthest = max(np.max(np.abs(path[np.isfinite(path)]), initial=0) for path in inside)
    frame = Frame(centre, width * 1.05 * max(0.55, float(farthest)))
    figure, axes = _axes_of(frame, size)
    data = _columns(frame.within(points))
    axes.scatter(*data, s=5, color=GREY, linewidths=0, label="data")
    colours = LINES if len(x) <= 3 * len(LINES) else LINES[:1]
    for i, path in enumerate(inside):
        # Back from units of the data's width to those of the frame.
        across, up = _columns(path * width / frame.half)
        style: dict[str, Any] = {"linewidth": 1, "marker": ".", "markersize": 4}
        axes.plot(across, up, color=colours[i % len(colours)], **style)
    _legend(axes)
    return _drawn(figure)


def lines(x: Any, reference: Any = None, size: int = 1280) -> np.ndarray:
    """Series over time, a panel each.

    Args:
      x: [N, T, D] samples: the first few series, a colour for each of the first few dimensions.
        Numbers that are not finite leave a gap, and are counted in red.
      reference: [M, U, D] series of the data, drawn in grey underneath, one a panel in turn. They
        set the frame, which panels share; samples beyond it are drawn on its edge. A series that
        lies off it for the greater part has a frame of its own, and says so; then a panel of the
        data alone comes first.
      size: pixels of the width.

    Returns:
      [H, size, 3] bytes.
    """
    x = np.asarray(x, np.float64)[:PANELS]
    _, T, D = x.shape
    data = None if reference is None else np.asarray(reference, np.float64)
    if data is None or data.ndim != 3 or data.shape[-1] != D or 0 in data.shape:
        data = None
    shared = _span((x if data is None else data)[..., : len(LINES)])
    panels = []
    for i, series in enumerate(x):
        if data is not None and _is_off(series[:, : len(LINES)], shared):
            panels.append(_Panel(series, None, _span(series[:, : len(LINES)]), own=True))
        else:
            panels.append(_Panel(series, None if data is None else data[i % len(data)], shared))
    if data is not None and any(panel.own for panel in panels):
        panels = [_Panel(x[0, :0], data[0], shared), *panels][:PANELS]
    last = max(T, 2 if data is None else data.shape[1], 2) - 1
    columns = 1 if len(panels) == 1 else 2 if len(panels) <= 4 else 3
    rows = math.ceil(len(panels) / columns)
    inches = size / DOTS
    height = max(1.4, 2.4 / columns + 0.6) * inches / 6.4
    figure = _figure((inches, rows * height))
    for i, panel in enumerate(panels):
        axes = figure.add_subplot(rows, columns, i + 1)
        _ticks(axes.set_xticks, 0, last, lambda v: v)
        axes.set(xlim=(0, last), ylim=(-1, 1))
        _draw_panel(axes, panel)
        if i == 0:
            _legend(axes)
    edge = MARGIN / (rows * height)
    figure.subplots_adjust(0.6 / 6.4, edge, 0.97, 1 - edge, wspace=0.25, hspace=0.3)
    return _drawn(figure)


def histograms(x: Mapping[str, np.ndarray], label: str, size: int = 1280) -> np.ndarray:
    """Histograms of several samples in one frame, as outlines of densities.

    Args:
      x: name -> numbers [N]; those that are not finite are left out.
      label: of the axis that the numbers lie on.
      size: pixels of the width.

    Returns:
      [H, size, 3] bytes.
    """
    finite = {name: np.asarray(v, np.float64)[np.isfinite(v)] for name, v in x.items()}
    together = np.concatenate(list(finite.values()))
    low, high = (together.min(), together.max()) if len(together) else (0.0, 1.0)
    edges = np.linspace(low, high if high > low else low + 1, 31)
    figure = _figure((size / DOTS, size / 2 / DOTS))
    axes = figure.add_axes((0.03, 0.17, 0.94, 0.8))
    for (name, values), colour in zip(finite.items(), LINES, strict=False):
        height = np.histogram(values, edges)[0] / max(len(values), 1)
        axes.stairs(height, edges, fill=True, color=colour, alpha=0.25)
        axes.stairs(height, edges, color=colour, linewidth=1.5, label=name)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_yticks([])
    axes.tick_params(labelsize=8)
    axes.set_xlabel(label, fontsize=9)
    axes.legend(frameon=False, fontsize=9)
    return _drawn(figure)


# ------------------------------------------------------------------------------------- the parts


class _Span(NamedTuple):
    """Of an axis: the least and the largest number, and the frame that holds them."""

    low: float
    high: float
    centre: float
    half: float


def _span(x: np.ndarray) -> _Span:
    """Of all finite numbers of x, and 0.15 of their width more on each side."""
    x = x[np.isfinite(x)]
    low, high = np.clip([x.min(), x.max()], -1e30, 1e30).tolist() if len(x) else (0.0, 1.0)
    return _Span(low, high, (low + high) / 2, max((high - low) * 0.65, 1e-3))


class _Panel(NamedTuple):
    """A series [T, D] over another of the data, in a frame; `own` where that is not the data's."""

    series: np.ndarray
    data: np.ndarray | None
    span: _Span
    own: bool = False


def _is_off(x: np.ndarray, span: _Span) -> bool:
    """Whether the greater part of what is finite lies off a frame."""
    x = np.clip(x[np.isfinite(x)], -1e300, 1e300)
    return 2 * int(np.sum(np.abs(x - span.centre) > span.half)) > x.size


def _draw_panel(axes: Any, panel: _Panel) -> None:
    series, span = panel.series, panel.span
    axes.spines[["top", "right"]].set_visible(False)
    _ticks(axes.set_yticks, span.low, span.high, lambda v: (v - span.centre) / span.half)
    axes.tick_params(labelsize=7, length=2)
    for d, line in enumerate([] if panel.data is None else panel.data.T[: len(LINES)]):
        _line(axes, line, span, color=GREY, linewidth=1.2, label="data" if d == 0 else None)
    D = series.shape[1]
    for d, (line, colour) in enumerate(zip(series.T, LINES, strict=False)):
        name = "sample" if D == 1 else f"sample, x{d + 1}"
        _line(axes, line, span, color=colour, linewidth=1, label=name)
    lost = int(np.sum(~np.isfinite(series)))
    notes = [f"{lost} of {series.size} not finite"] if lost else []
    notes += ["on a scale of its own"] if panel.own else []
    style = {"color": RED / 255, "va": "top", "fontsize": 7, "transform": axes.transAxes}
    axes.text(0.02, 0.98, "\n".join(notes), **style)


def _points(x: Any) -> np.ndarray:
    return np.asarray(x, np.float64).reshape(-1, 2)


def _columns(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return points[:, 0], points[:, 1]


def _ellipse(component: Component) -> np.ndarray:
    """The outline of two standard deviations: [64, 2]."""
    turn = np.linspace(0, 2 * np.pi, 64)
    values, vectors = np.linalg.eigh(np.nan_to_num(component.covariance))
    circle = np.stack([np.cos(turn), np.sin(turn)], 1)
    return component.mean + 2 * circle * np.sqrt(np.maximum(values, 0)) @ vectors.T


def _heat(axes: Any, log_density: np.ndarray) -> None:
    """p over the frame, white where it is nought; by its root, so that tails are seen too."""
    finite = np.isfinite(log_density)
    if not finite.any():
        return
    p = np.exp(np.where(finite, log_density, -np.inf) - log_density[finite].max())
    # An artist with a label stands for the picture, which a legend does not know.
    extent: dict[str, Any] = {"extent": (-1, 1, -1, 1), "origin": "lower", "aspect": "auto"}
    # From white to AMBER, in which blue and grey points are still seen.
    amber = np.array([int(AMBER[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    axes.imshow(1 - np.sqrt(p)[..., None] * (1 - amber), interpolation="bilinear", **extent)
    axes.plot([], [], "s", color=AMBER, label="p(x) of the model")


def _figure(inches: tuple[float, float]) -> Any:
    # Imported here, for it takes most of a second, which most commands need not spend.
    from matplotlib.figure import Figure

    return Figure(figsize=inches, dpi=DOTS, facecolor="white")


def _axes_of(frame: Frame, size: int) -> tuple[Any, Any]:
    """A figure and its axes over a frame of the plane, with ticks in the data's units."""
    figure = _figure((size / DOTS, size / DOTS))
    axes = figure.add_axes((LEFT, BOTTOM, SIDE, SIDE))
    axes.set(xlim=(-1, 1), ylim=(-1, 1))
    for which, centre in ((axes.set_xticks, frame.centre[0]), (axes.set_yticks, frame.centre[1])):
        low, high = centre - frame.half, centre + frame.half
        _ticks(which, low, high, lambda v, c=centre: (v - c) / frame.half)
    axes.tick_params(labelsize=7, length=2)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _ticks(set_ticks: Any, low: float, high: float, at: Any) -> None:
    """About five round numbers between two, at their places on an axis of another unit."""
    from matplotlib.ticker import MaxNLocator

    values = MaxNLocator(5).tick_values(low, high) if high > low else np.array([low])
    room = 1e-9 * (high - low)
    values = [float(v) for v in values if low - room <= v <= high + room]
    size = max(map(abs, values), default=0.0)
    set_ticks(
        [at(v) for v in values], [f"{0.0 if abs(v) < 1e-9 * size else v:.6g}" for v in values]
    )


def _legend(axes: Any) -> None:
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 7}
    axes.legend(
        **place, fontsize=7, frameon=False, borderpad=0.2, columnspacing=1.2, markerscale=1.5
    )


def _line(axes: Any, y: np.ndarray, span: _Span, **style: Any) -> None:
    """One line within the frame, with a gap where y [T] is not finite."""
    times = np.arange(len(y))
    if len(y) > POINTS:
        times = np.linspace(0, len(y) - 1, POINTS).round().astype(int)
    y = np.where(np.isfinite(y), y, np.nan)[times]
    inside = np.clip((np.clip(y, -1e300, 1e300) - span.centre) / span.half, -BEYOND, BEYOND)
    # A number between two gaps would be a line of no length.
    axes.plot(times, inside, marker="." if np.isnan(y).any() else None, markersize=2, **style)


def _drawn(figure: Any) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(np.asarray(canvas.buffer_rgba())[..., :3])
