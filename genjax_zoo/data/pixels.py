"""From the levels of an image to the numbers that are learnt from, and back to words.

Floor 4.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genjax_zoo.contract import BINARY, COUNTS, REAL, SIGNED, UNIT, DataError, Key, Space
from genjax_zoo.data.config import Data


def preprocess(data: Data, levels: int) -> Callable[[Key, Any], jax.Array]:
    """(key, levels 0 .. levels-1, or numbers in [0, 1] where `levels` is 0) -> x, as declared."""

    def process(key: Key, raw: Any) -> jax.Array:
        x = jnp.asarray(raw, jnp.float32)
        if data.dequantise:
            # Theis et al. 2016: density of x + u, u ~ U[0, 1); a bound on the mass of x.
            unit = (x + jax.random.uniform(key, x.shape)) / levels
            # In float32 the sum can round up to `levels`, where a logit would be infinite.
            unit = jnp.minimum(unit, np.nextafter(np.float32(1), np.float32(0)))
        else:
            unit = x / _top(levels)
        if data.binarise == "threshold":
            return jnp.asarray(unit > 0.5, jnp.float32)
        if data.binarise == "dynamic":
            return jnp.asarray(jax.random.uniform(key, x.shape) < unit, jnp.float32)
        if data.scale == "raw" and not data.dequantise:
            # Divided and multiplied again, most levels would be no whole numbers.
            return x
        low, high = interval(data, levels)
        return low + (high - low) * unit

    return process


def _top(levels: int) -> int:
    """The highest of so many levels; 1 of the numbers in [0, 1], which have none."""
    return levels - 1 if levels else 1


def interval(data: Data, levels: int) -> tuple[float, float]:
    """The range that `scale` gives the values; noise of a level lifts the top by one level."""
    top = float(levels if data.dequantise else _top(levels))
    return {"unit": (0.0, 1.0), "symmetric": (-1.0, 1.0), "raw": (0.0, top)}[data.scale]


def level(data: Data, levels: int) -> float:
    """The width of a level in units of x; 0 where the data are not dequantised."""
    low, high = interval(data, levels)
    return (high - low) / levels if data.dequantise else 0.0


def space(data: Data, levels: int = 0) -> Space:
    """What `scale`, `binarise` and `dequantise` make of so many levels; of any number with 0."""
    if data.binarise != "none":
        return BINARY
    if levels == 2 and data.scale != "symmetric" and not data.dequantise:
        return BINARY
    raw = REAL if data.dequantise else COUNTS if levels else UNIT
    found = {"unit": UNIT, "symmetric": SIGNED, "raw": raw}[data.scale]
    return found if data.dequantise else found.of(levels)


def describe(data: Data, levels: int, shape: Sequence[int]) -> str:
    """The preprocessing in words."""
    *image, channels = shape
    size = "x".join(map(str, [*image, data.stack * channels]))
    done = ["cropped"] * data.crop + ["resized"] * bool(data.resize)
    done += [{1: "made grey", 3: "made colour"}[data.channels]] if data.channels else []
    size += f" ({', '.join(done)})" if done else ""
    if data.stack > 1:
        size += f", {data.stack} independently drawn images stacked along the channels"
    if data.binarise == "threshold":
        values = "binarised by threshold at 0.5"
    elif data.binarise == "dynamic":
        values = "binarised dynamically (a Bernoulli draw at every access)"
    else:
        low, high = interval(data, levels)
        values = f"grey levels scaled to [{low:g}, {high:g}]"
        if data.dequantise:
            values += f", dequantised uniformly ({levels} levels)"
    return f"{data.source}, {size}, {values}"


def fitted(data: Data, x: np.ndarray) -> np.ndarray:
    """Images [..., H, W, C] of the channels and the size that the config asks for."""
    x = recoloured(x, data.channels)
    return resized(cropped(x) if data.crop else x, data.resize)


def fitted_shape(data: Data, shape: Sequence[int]) -> tuple[int, int, int]:
    """The shape of the image that `fitted` makes of one of that shape."""
    height, width, channels = shape
    if data.crop:
        height = width = min(height, width)
    return data.resize or height, data.resize or width, data.channels or channels


def cropped(x: np.ndarray) -> np.ndarray:
    """Images [..., H, W, C] cut to the square in their middle."""
    height, width = x.shape[-3:-1]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return x[..., top : top + side, left : left + side, :]


def recoloured(x: np.ndarray, channels: int) -> np.ndarray:
    """Images [..., H, W, 1 or 3] with 1 channel or with 3; as they are where that is 0.

    Grey is the luma of ITU-R BT.601, as Pillow has it.
    """
    if not channels or x.shape[-1] == channels:
        return x
    if channels == 3 and x.shape[-1] == 1:
        return np.repeat(x, 3, axis=-1)
    if channels == 1 and x.shape[-1] == 3:
        luma = x.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
        return _like(x, luma)[..., None]
    raise DataError(
        f"config.data.channels={channels} makes grey of colour or colour of grey, and the images "
        f"have {x.shape[-1]} channels; set it to 0."
    )


def resized(x: np.ndarray, side: int) -> np.ndarray:
    """Images [..., H, W, C] resized to [..., side, side, C]; of levels, in these."""
    if not side or x.shape[-3:-1] == (side, side):
        return x
    rows, columns = (_interpolation(n, side) for n in x.shape[-3:-1])
    planes = np.moveaxis(x, -1, -3).astype(np.float32)
    return np.moveaxis(_like(x, rows @ planes @ columns.T), -3, -1)


def _like(x: np.ndarray, made: np.ndarray) -> np.ndarray:
    """What was made of x, in its dtype: rounded to levels, if it has any."""
    return (np.rint(made) if np.issubdtype(x.dtype, np.integer) else made).astype(x.dtype)


@functools.lru_cache(maxsize=256)
def _interpolation(size: int, side: int) -> np.ndarray:
    """The matrix [side, size] of bilinear interpolation along one axis.

    A new pixel weighs the old ones by a triangle about its centre, which is as wide as the wider
    of the two pixels: shrinking averages, and does not skip.
    """
    shrink = size / side
    centres = (np.arange(side) + 0.5) * shrink - 0.5
    distance = np.abs(centres[:, None] - np.arange(size)) / max(shrink, 1)
    weights = np.maximum(1 - distance, 0)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)
