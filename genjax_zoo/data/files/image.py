"""An image file as levels 0 .. 255: one reader for folders, archives, tables and clips.

Floor 4. What it does to an image besides decoding it, it says: `Image.remarks`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import PIL.Image
from PIL import ImageOps, ImageSequence

from genjax_zoo.contract import DataError
from genjax_zoo.data.files.tree import Opens

ENDINGS = frozenset(
    {".apng", ".avif", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"}
    | {".pbm", ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"}
)
"""What image files are called, in small letters."""
ORIENTATION = 0x0112
"""The EXIF tag of the way up, 1 being upright."""


class Image(NamedTuple):
    """An image as it is learnt from.

    Attributes:
      levels: uint8 [H, W, 1] of a grey one, [H, W, 3] of a coloured one.
      remarks: what was done to it besides decoding.
    """

    levels: np.ndarray
    remarks: tuple[str, ...] = ()


def read(opens: Opens, name: str, background: str = "white") -> Image:
    """The image in a file, which is closed again; of an animation the first frame.

    Args:
      opens: the file, at its start.
      name: of it, for messages.
      background: the colour that is seen where the image is transparent.

    Raises DataError for what cannot be read, or whose numbers have no known range.
    """
    with _explained(opens, name) as image:
        first = _levels(image, background)
        count = getattr(image, "n_frames", 1)
        more = ("the first frame alone of several",) if count > 1 else ()
        return first._replace(remarks=(*first.remarks, *more))


def shape(opens: Opens, name: str) -> tuple[int, int, int]:
    """The shape (H, W, C) of what `read` makes of a file, by its head alone.

    Raises DataError for what is no image, or whose numbers have no known range.
    """
    with _explained(opens, name) as image:
        width, height = image.size
        turned = image.getexif().get(ORIENTATION, 1) >= 5
        channels = 1 if _is_grey(image) or _is_deep(image) else 3
        return (width, height, channels) if turned else (height, width, channels)


def frames(opens: Opens, name: str, background: str = "white") -> tuple[list[Image], set[int]]:
    """All frames of an animated image, and the milliseconds that each is shown for.

    The arguments and the errors are those of `read`.
    """
    with _explained(opens, name) as image:
        found, lasting = [], set()
        for frame in ImageSequence.Iterator(image):
            found.append(_levels(frame, background))
            lasting.add(round(frame.info.get("duration", 0)))
        return found, lasting


@contextlib.contextmanager
def _explained(opens: Opens, name: str) -> Iterator[PIL.Image.Image]:
    """The opened image; whatever goes wrong with it is a DataError that names it."""
    try:
        with opens() as file, PIL.Image.open(file) as image:
            yield image
    except PIL.UnidentifiedImageError as error:
        raise DataError(
            f"{name} is not a readable image (of no known format); mend or remove the file."
        ) from error
    except Exception as error:
        raise DataError(
            f"{name} is not a readable image ({error}); mend or remove the file."
        ) from error


def _is_deep(image: PIL.Image.Image) -> bool:
    """Whether levels are of 16 bits; raises ValueError where nothing says which are black."""
    # Pillow scales the levels of portable grey maps to 16 bits itself, and calls them 32.
    deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
    if (image.mode in ("I", "F") and not deep) or (deep and image.has_transparency_data):
        kinds = {"I": "32-bit integers", "F": "32-bit floats"}
        kind = kinds.get(image.mode, "16-bit levels of which one is transparent")
        raise ValueError(
            f"its pixels are {kind}, and nothing says which are black and white: save it in 8 or "
            "16 bits, or all of them as array:FILE.npy"
        )
    return deep


def _is_grey(image: PIL.Image.Image) -> bool:
    return image.mode in ("1", "L", "LA", "La")


def _levels(image: PIL.Image.Image, background: str) -> Image:
    """Upright, over the background, in eight bits, grey or coloured."""
    turned = image.getexif().get(ORIENTATION, 1) != 1
    remarks = ["turned upright by its EXIF"] if turned else []
    deep, grey = _is_deep(image), _is_grey(image)
    upright = ImageOps.exif_transpose(image) if turned else image
    if deep:
        # 65535 / 255 = 257
        x = np.rint(np.asarray(upright) / 257).astype(np.uint8)
        return Image(x[..., None], (*remarks, "rounded from 16 bits to 8"))
    if upright.has_transparency_data:
        upright = upright.convert("LA") if upright.mode == "La" else upright
        layer = upright.convert("RGBA")
        if np.asarray(layer)[..., 3].min(initial=255) < 255:
            remarks.append(f"transparency laid over {background}")
        upright = PIL.Image.new("RGBA", layer.size, background)
        upright.alpha_composite(layer)
    x = np.asarray(upright.convert("L" if grey else "RGB"))
    return Image(x[..., None] if grey else x, tuple(remarks))
