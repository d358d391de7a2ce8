"""Pictures of samples: arrays of bytes [H, W, 3], and PNG files.

Floor 4. A picture is made of whatever a model in training gives, so nothing here raises on a
value: what is out of range is clipped, and what is not a number is shown in red.
"""

from __future__ import annotations

import io
import math
import pathlib
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from genjax_zoo.contract import DataError
from genjax_zoo.run import files

RED = np.array([214, 39, 40], np.uint8)
"""The colour of a number that is none."""
GAP = np.uint8(128)
"""The grey between two images of a grid: it shows the edges of black images and of white ones."""
SPACE = 4
"""Pixels between two images: enough that the eye takes each by itself."""
LEGIBLE = 40
"""An image with fewer pixels a side than this is enlarged until it has as many."""
BLUE, GREY = "#2a6fbb", "#b8bcc4"


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
    seen = points if reference is None else np.asarray(reference, np.float64).reshape(-1, 2)
    seen = seen[np.isfinite(seen).all(-1)]
    centre, half = np.zeros(2), 1.0
    if len(seen):
        # Clipped, for the width of a frame of huge numbers would overflow.
        lowest, highest = np.clip([seen.min(0), seen.max(0)], -1e30, 1e30)
        centre, half = (lowest + highest) / 2, max(float(np.max(highest - lowest)) * 0.6, 1e-3)
    figure = Figure(figsize=(size / 100, size / 100), dpi=100, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    # Drawn in units of the frame, which spans [-1, 1], whatever the data's.
    within = lambda p: (np.clip(p, -1e300, 1e300) - centre) / half
    axes.set(xlim=(-1, 1), ylim=(-1, 1))
    if reference is not None:
        axes.scatter(*_columns(within(seen)), s=5, color=GREY, linewidths=0)
    inside = np.clip(within(points), -0.985, 0.985)
    axes.scatter(*_columns(inside), s=6, color=BLUE, alpha=0.7, linewidths=0)
    if not finite.all():
        lost = f"{np.sum(~finite)} of {len(x)} not finite"
        axes.text(-0.97, 0.97, lost, color=RED / 255, va="top", fontsize=11)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(np.asarray(canvas.buffer_rgba())[..., :3])


def _columns(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return points[:, 0], points[:, 1]


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

    [N, h, w, 1 or 3] is a grid of images, [N, 2] points of the plane (over the `reference`, if
    given), anything else a heat map with an example a row.
    """
    x = np.asarray(x)
    if x.ndim == 4 and x.shape[-1] in (1, 3) and x.size:
        return grid(x, low=low, high=high)
    if x.ndim == 2 and x.shape[1] == 2:
        return scatter(x, reference)
    return heat(x)


def write_png(path: pathlib.Path | str, pixels: np.ndarray) -> pathlib.Path:
    """Writes [H, W, 3] bytes to a PNG file, whole or not at all; makes the folder."""
    png = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(png, format="PNG", optimize=True)
    return files.write(path, png.getvalue())
