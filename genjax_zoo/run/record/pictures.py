"""Pictures of samples: arrays of bytes [H, W, 3], PNG files, and GIFs of what moves.

Floor 6. A picture is made of whatever a model in training gives, so nothing here raises on a
value: what is out of range is clipped, and what is not a number is shown in red.
"""

from __future__ import annotations

import io
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from genjax_zoo.contract import DataError
from genjax_zoo.run.record import files

RED = np.array([214, 39, 40], np.uint8)
"""The colour of a number that is none."""
GAP = np.uint8(128)
"""The grey between two images of a grid: it shows the edges of black images and of white ones."""
SPACE = 4
"""Pixels between two images: enough that the eye takes each by itself."""
LEGIBLE = 40
"""An image with fewer pixels a side than this is enlarged until it has as many."""
BLUE, GREY = "#2a6fbb", "#b8bcc4"
LINES = (BLUE, "#c8553d", "#3a8f5c", "#8a5fb0", "#b58a1b", "#4a4e57")
"""The colours of a series' dimensions; of more dimensions than these, the first ones are shown."""
PANELS, CLIPS, FRAMES = 9, 8, 10
"""How many series, how many clips, and how many frames of each are shown, at most."""
POINTS = 4000
"""Of a longer series, this many times are drawn, evenly."""
SIDE, GIF_BYTES, GIF_RATE = 800, 1_500_000, 12
"""A GIF is at most so many pixels wide and high and bytes long; and frames a second."""


def grid(x: Any, columns: int | None = None, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """Images side by side, row by row, in one picture.

    Args:
      x: [N, h, w, c] with c = 1 (grey) or 3 (red, green, blue).
      columns: images in a row; as square as can be if None.
      low: the value shown black.
      high: the value shown white.

    Returns:
      [H, W, 3] bytes. Small images are enlarged by a whole factor, every pixel alike.
    """
    x = np.asarray(x)
    if x.ndim != 4 or x.shape[-1] not in (1, 3) or 0 in x.shape:
        raise DataError(f"expected images [N, h, w, 1 or 3] for a grid, got shape {x.shape}.")
    n, h, w, _ = x.shape
    factor = max(1, math.ceil(LEGIBLE / max(h, w)))
    pixels = _bytes(x, low, high).repeat(factor, 1).repeat(factor, 2)
    h, w = h * factor, w * factor
    columns = min(n, columns or math.ceil(math.sqrt(n)))
    rows = math.ceil(n / columns)
    picture = np.full((rows * (h + SPACE) + SPACE, columns * (w + SPACE) + SPACE, 3), GAP, np.uint8)
    for i, image in enumerate(pixels):
        top, left = SPACE + i // columns * (h + SPACE), SPACE + i % columns * (w + SPACE)
        picture[top : top + h, left : left + w] = image
    return picture


def beside(*pictures: np.ndarray) -> np.ndarray:
    """Pictures [H, W, 3] of one height side by side, parted by a white line."""
    line = np.full((len(pictures[0]), SPACE, 3), 255, np.uint8)
    parts = [part for picture in pictures for part in (line, picture)]
    return np.concatenate(parts[1:], axis=1)


def _bytes(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """[..., 1 or 3] numbers -> [..., 3] bytes; a pixel with a NaN in it is red."""
    x = x.astype(np.float64)
    broken = np.isnan(x).any(-1)
    # Halved first, for the difference of two huge numbers would overflow.
    span = (high / 2 - low / 2) or 1.0
    unit = np.nan_to_num((x / 2 - low / 2) / span, nan=0.0, posinf=1.0, neginf=0.0)
    pixels = np.round(np.clip(unit, 0, 1) * 255).astype(np.uint8)
    pixels = np.array(np.broadcast_to(pixels, (*x.shape[:-1], 3)))
    pixels[broken] = RED
    return pixels


def scatter(x: Any, reference: Any = None, size: int = 480) -> np.ndarray:
    """Points of the plane.

    Args:
      x: [N, 2] samples, drawn in blue. Those that are not finite are counted in red.
      reference: [M, 2] points of the data, drawn in grey underneath. They set the frame, so that
        pictures of one run can be compared; samples beyond it are drawn on its edge.
      size: pixels a side.

    Returns:
      [size, size, 3] bytes.
    """
    x = np.asarray(x, np.float64).reshape(-1, 2)
    finite = np.isfinite(x).all(-1)
    points = x[finite]
    framed = points if reference is None else np.asarray(reference, np.float64).reshape(-1, 2)
    framed = framed[np.isfinite(framed).all(-1)]
    centre, half = np.zeros(2), 1.0
    if len(framed):
        # Clipped, for the width of a frame of huge numbers would overflow.
        lowest, highest = np.clip([framed.min(0), framed.max(0)], -1e30, 1e30)
        centre, half = (lowest + highest) / 2, max(float(np.max(highest - lowest)) * 0.6, 1e-3)
    figure = Figure(figsize=(size / 100, size / 100), dpi=100, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    # Drawn in units of the frame, which spans [-1, 1], whatever the data's.
    within = lambda p: (np.clip(p, -1e300, 1e300) - centre) / half
    axes.set(xlim=(-1, 1), ylim=(-1, 1))
    if reference is not None:
        axes.scatter(*_columns(within(framed)), s=5, color=GREY, linewidths=0)
    inside = np.clip(within(points), -0.985, 0.985)
    axes.scatter(*_columns(inside), s=6, color=BLUE, alpha=0.7, linewidths=0)
    if not finite.all():
        lost = f"{np.sum(~finite)} of {len(x)} not finite"
        axes.text(-0.97, 0.97, lost, color=RED / 255, va="top", fontsize=11)
    return _drawn(figure)


def trails(x: Sequence[np.ndarray], reference: Any, size: int = 480) -> np.ndarray:
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
    points = np.asarray(reference, np.float64).reshape(-1, 2)
    low, high = points.min(0), points.max(0)
    centre, width = (low + high) / 2, max(float(np.max(high - low)), 1e-3)
    inside = [np.clip((np.asarray(path) - centre) / width, -1.5, 1.5) for path in x]
    farthest = max(np.max(np.abs(path[np.isfinite(path)]), initial=0) for path in inside)
    figure = Figure(figsize=(size / 100, size / 100), dpi=100, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    half = 1.05 * max(0.55, farthest)
    axes.set(xlim=(-half, half), ylim=(-half, half))
    axes.scatter(*_columns((points - centre) / width), s=5, color=GREY, linewidths=0)
    colours = LINES if len(x) <= 3 * len(LINES) else LINES[:1]
    for i, path in enumerate(inside):
        colour = colours[i % len(colours)]
        axes.plot(*_columns(path), color=colour, linewidth=1, marker=".", markersize=4)
    return _drawn(figure)


def _columns(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return points[:, 0], points[:, 1]


def lines(x: Any, reference: Any = None, size: int = 640) -> np.ndarray:
    """Series over time, a panel each.

    Args:
      x: [N, T, D] samples: the first few series, a colour for each of the first few dimensions.
        Numbers that are not finite leave a gap, and are counted in red.
      reference: [M, U, D] series of the data, drawn in grey underneath, one a panel in turn. They
        set the frame, which all panels share; samples beyond it are drawn on its edge.
      size: pixels of the width.

    Returns:
      [H, size, 3] bytes.
    """
    x = np.asarray(x, np.float64)[:PANELS]
    n, T, D = x.shape
    data = None if reference is None else np.asarray(reference, np.float64)
    if data is None or data.ndim != 3 or data.shape[-1] != D or 0 in data.shape:
        data = None
    framed = (x if data is None else data)[..., : len(LINES)]
    framed = framed[np.isfinite(framed)]
    low, high = np.clip([framed.min(), framed.max()], -1e30, 1e30) if len(framed) else (0.0, 1.0)
    centre, half = (low + high) / 2, max((high - low) * 0.65, 1e-3)
    last = max(T, 2 if data is None else data.shape[1], 2) - 1
    columns = 1 if n == 1 else 2 if n <= 4 else 3
    rows = math.ceil(n / columns)
    height = max(140, 240 // columns + 60)
    figure = Figure(figsize=(size / 100, rows * height / 100), dpi=100, facecolor="white")
    for i, series in enumerate(x):
        axes = figure.add_subplot(rows, columns, i + 1)
        axes.set(xlim=(0, last), ylim=(-1, 1))
        axes.spines[["top", "right"]].set_visible(False)
        # Drawn in units of the frame, as in `scatter`.
        axes.set_yticks(
            [(v - centre) / half for v in (low, high)], [f"{v:.4g}" for v in (low, high)]
        )
        axes.set_xticks([0, last], ["0", str(last)])
        axes.tick_params(labelsize=7, length=2)
        if data is not None:
            for line in data[i % len(data)].T[: len(LINES)]:
                _line(axes, line, centre, half, color=GREY, linewidth=1.2)
        for line, colour in zip(series.T, LINES, strict=False):
            _line(axes, line, centre, half, color=colour, linewidth=1)
        lost = np.sum(~np.isfinite(series))
        if lost:
            note = f"{lost} of {series.size} not finite"
            axes.text(
                0.02, 0.98, note, color=RED / 255, va="top", fontsize=8, transform=axes.transAxes
            )
    edge = 0.35 / rows
    figure.subplots_adjust(0.5 / 6.4, edge * 0.5, 0.97, 1 - edge * 0.25, wspace=0.25, hspace=0.3)
    return _drawn(figure)


def _line(axes: Any, y: np.ndarray, centre: float, half: float, **style: Any) -> None:
    """One line within the frame, with a gap where y [T] is not finite."""
    times = np.arange(len(y))
    if len(y) > POINTS:
        times = np.linspace(0, len(y) - 1, POINTS).round().astype(int)
    y = np.where(np.isfinite(y), y, np.nan)[times]
    inside = np.clip((np.clip(y, -1e300, 1e300) - centre) / half, -0.985, 0.985)
    # A number between two gaps would be a line of no length.
    axes.plot(times, inside, marker="." if np.isnan(y).any() else None, markersize=2, **style)


def histograms(x: Mapping[str, np.ndarray], label: str, size: int = 640) -> np.ndarray:
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
    figure = Figure(figsize=(size / 100, size / 200), dpi=100, facecolor="white")
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


def _drawn(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(np.asarray(canvas.buffer_rgba())[..., :3])


def film(x: Any, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """Clips as strips of film: [N, T, h, w, 1 or 3], a clip a row, some of its frames, evenly."""
    x = np.asarray(x)
    if x.ndim != 5:
        raise DataError(f"expected clips [N, T, h, w, 1 or 3] for a film, got shape {x.shape}.")
    shown = np.linspace(0, x.shape[1] - 1, min(FRAMES, x.shape[1])).round().astype(int)
    x = x[:CLIPS, shown]
    return grid(x.reshape(-1, *x.shape[2:]), len(shown), low, high)


def movie(x: Any, low: float = 0.0, high: float = 1.0) -> list[np.ndarray]:
    """Clips [N, T, h, w, 1 or 3] side by side, the first few: T pictures [H, W, 3]."""
    x = np.asarray(x)
    if x.ndim != 5:
        raise DataError(f"expected clips [N, T, h, w, 1 or 3] for a movie, got shape {x.shape}.")
    return [grid(frames, low=low, high=high) for frames in x[:CLIPS].swapaxes(0, 1)]


def heat(x: Any) -> np.ndarray:
    """A batch of anything as one matrix, an example a row, grey from its least to its largest."""
    x = np.asarray(x)
    if x.size == 0:
        return np.full((1, 1, 3), GAP, np.uint8)
    x = x.reshape(len(x), -1) if x.ndim > 1 else x.reshape(-1, 1)
    finite = np.isfinite(x)
    low, high = (float(x[finite].min()), float(x[finite].max())) if finite.any() else (0.0, 1.0)
    pixels = _bytes(x[..., None], low, high)
    factor = max(1, 256 // max(x.shape))
    return pixels.repeat(factor, 0).repeat(factor, 1)


def picture(x: Any, reference: Any = None, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """The picture that the shape of a batch asks for.

    [N, h, w, 1 or 3] is a grid of images, [N, T, h, w, 1 or 3] are clips and strips of film, [N, 2]
    points of the plane and [N, T, D] series over time (both over the `reference`, if given),
    anything else a heat map with an example a row.
    """
    x = np.asarray(x)
    if is_clips(x):
        return film(x, low, high)
    if x.ndim == 4 and x.shape[-1] in (1, 3) and x.size:
        return grid(x, low=low, high=high)
    if x.ndim == 2 and x.shape[1] == 2:
        return scatter(x, reference)
    if x.ndim == 3 and x.size:
        return lines(x, reference)
    return heat(x)


def is_clips(x: np.ndarray) -> bool:
    """Whether a batch is of clips, which can be shown as a GIF."""
    return x.ndim == 5 and x.shape[-1] in (1, 3) and x.size > 0


def write(
    path: pathlib.Path | str, x: Any, reference: Any = None, low: float = 0.0, high: float = 1.0
) -> tuple[np.ndarray, list[pathlib.Path]]:
    """Writes a batch's picture to a PNG file and, of clips, an animated GIF beside it.

    Returns:
      (the still picture, the files).
    """
    path, still = pathlib.Path(path), picture(x, reference, low, high)
    written = [write_png(path, still)]
    if is_clips(np.asarray(x)):
        written.append(write_gif(path.with_suffix(".gif"), movie(x, low, high)))
    return still, written


def write_png(path: pathlib.Path | str, pixels: np.ndarray) -> pathlib.Path:
    """Writes [H, W, 3] bytes to a PNG file, whole or not at all; makes the folder."""
    png = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(png, format="PNG", optimize=True)
    return files.write(path, png.getvalue())


def write_gif(
    path: pathlib.Path | str,
    frames: Sequence[np.ndarray],
    most: int = GIF_BYTES,
    rate: float = GIF_RATE,
) -> pathlib.Path:
    """Writes frames [H, W, 3] to an animated GIF that repeats for ever; makes the folder.

    Args:
      path: of the file, written whole or not at all.
      frames: at least one; large ones are made smaller.
      most: bytes of the file. Of more frames than that, the first ones are kept.
      rate: frames a second.
    """
    smaller = math.ceil(max(frames[0].shape[:2]) / SIDE)
    shown = [Image.fromarray(np.ascontiguousarray(frame)).reduce(smaller) for frame in frames]
    while True:
        content = _gif(shown, round(1000 / rate))
        if len(content) <= most or len(shown) == 1:
            return files.write(path, content)
        shown = shown[: max(1, int(0.95 * len(shown) * most / len(content)))]


def _gif(frames: Sequence[Image.Image], milliseconds: int) -> bytes:
    """All frames share one palette, so that what stands still does not flicker."""
    some = frames[:: math.ceil(len(frames) / FRAMES)]
    together = Image.fromarray(np.concatenate([np.asarray(frame) for frame in some]))
    if all(np.ptp(np.asarray(frame), -1).max() == 0 for frame in frames):
        first, *rest = [frame.convert("L") for frame in frames]
    else:
        palette = together.quantize(255)
        # Broken pixels are few, and yet should be red.
        colours = (palette.getpalette() or [])[: 3 * 255]
        palette.putpalette(colours + RED.tolist())
        dither = Image.Dither.NONE
        first, *rest = [frame.quantize(palette=palette, dither=dither) for frame in frames]
    gif = io.BytesIO()
    first.save(
        gif, "GIF", save_all=True, append_images=rest, duration=milliseconds, loop=0, optimize=False
    )
    return gif.getvalue()
