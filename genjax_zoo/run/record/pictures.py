"""Pictures of samples: arrays of bytes [H, W, 3], PNG files, and GIFs of what moves.

Floor 6. A picture is made of whatever a model in training gives, so nothing here raises on a
value: what is out of range is clipped, and what is not a number is shown in red.
"""

from __future__ import annotations

import io
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from genjax_zoo.contract import DataError
from genjax_zoo.run.record import files, plots
from genjax_zoo.run.record.plots import RED, Plane

GAP = np.uint8(128)
"""The grey between two images of a grid: it shows the edges of black images and of white ones."""
SPACE = 4
"""Pixels between two images: enough that the eye takes each by itself."""
LEGIBLE = 40
"""An image with fewer pixels a side than this is enlarged until it has as many."""
CLIPS, FRAMES = 8, 10
"""How many clips, and how many frames of each are shown, at most."""
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


def picture(
    x: Any, reference: Any = None, low: float = 0.0, high: float = 1.0, plane: Plane | None = None
) -> np.ndarray:
    """The picture that the shape of a batch asks for.

    [N, h, w, 1 or 3] is a grid of images (of other numbers of channels each channel is a grey one,
    from the left), [N, T, h, w, 1 or 3] are clips and strips of film, [N, 2] points of the plane
    (over what a model says of it) and [N, T, D] series over time (both over the `reference`, if
    given), anything else a heat map with an example a row.
    """
    x = np.asarray(x)
    if is_clips(x):
        return film(x, low, high)
    if x.ndim == 4 and x.size:
        return grid(x if x.shape[-1] in (1, 3) else _by_channel(x), low=low, high=high)
    if x.ndim == 2 and x.shape[1] == 2:
        return plots.scatter(x, reference, plane)
    if x.ndim == 3 and x.size:
        return plots.lines(x, reference)
    return heat(x)


def _by_channel(x: np.ndarray) -> np.ndarray:
    """Images [N, h, w, C] of any number of channels as grey ones [N, h, C w + C - 1, 1]: channel
    after channel, parted by a black line."""
    n, h, w, channels = x.shape
    apart = np.zeros((n, h, w + 1, channels), x.dtype)
    apart[:, :, :w] = x
    return np.moveaxis(apart, -1, 2).reshape(n, h, -1, 1)[:, :, :-1]


def is_clips(x: np.ndarray) -> bool:
    """Whether a batch is of clips, which can be shown as a GIF."""
    return x.ndim == 5 and x.shape[-1] in (1, 3) and x.size > 0


def write(
    path: pathlib.Path | str,
    x: Any,
    reference: Any = None,
    low: float = 0.0,
    high: float = 1.0,
    plane: Plane | None = None,
    title: str = "",
) -> tuple[np.ndarray, list[pathlib.Path]]:
    """Writes a batch's picture to a PNG file and, of clips, an animated GIF beside it.

    Returns:
      (the still picture, the files).
    """
    path, still = pathlib.Path(path), picture(x, reference, low, high, plane)
    written = [write_png(path, still, title)]
    if is_clips(np.asarray(x)):
        written.append(write_gif(path.with_suffix(".gif"), movie(x, low, high)))
    return still, written


def write_png(path: pathlib.Path | str, pixels: np.ndarray, title: str = "") -> pathlib.Path:
    """Writes [H, W, 3] bytes to a PNG file, whole or not at all; makes the folder.

    The title, what of a batch it is, stands in the file as PNG's own keyword.
    """
    png, about = io.BytesIO(), PngInfo()
    if title:
        about.add_text("Title", title)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.save(png, format="PNG", optimize=True, pnginfo=about)
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
