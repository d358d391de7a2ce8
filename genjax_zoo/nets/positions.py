"""How a transformer is told of places: rotary angles, and slopes of distance (ALiBi)."""

from __future__ import annotations

import math
from typing import Literal

import jax.numpy as jnp
import numpy as np

from genjax_zoo.contract import Array
from genjax_zoo.nets.linear import wide

Layout = Literal["half", "interleaved"]


def frequencies(
    width: int,
    base: float,
    factor: float = 1.0,
    low: float = 1.0,
    high: float = 4.0,
    context: int = 8192,
) -> np.ndarray:
    """Radians a place of each pair of features [width / 2]: base^(-2i / width).

    Su et al. 2021 (arXiv:2104.09864), section 3.2. With a `factor` those of long waves are divided
    by it, so that a context longer than the one that was learnt fits into the same angles, as
    LLaMA 3.1 has it: waves longer than context / low are stretched, those shorter than
    context / high stay, and between them one passes into the other.
    """
    radians = base ** -(np.arange(0, width, 2) / width)
    if factor == 1:
        return radians
    waves = context * radians / (2 * math.pi)
    kept = np.clip((waves - low) / (high - low), 0, 1)
    return radians * (kept + (1 - kept) / factor)


def rotate(x: Array, places: Array, radians: np.ndarray, layout: Layout) -> Array:
    """Turns each pair of features of x [B, H, S, W] by its angle at places [B, S] (or [1, S]).

    (a, b) -> (a cos θ - b sin θ, a sin θ + b cos θ): q · k then depends on the distance alone.

    Args:
      x: queries or keys.
      places: counted from 0.
      radians: of `frequencies`, W / 2.
      layout: which features are a pair: "half" i and i + W/2, "interleaved" 2i and 2i + 1. Weights
        learnt with one are those of the other with their columns in another order.
    """
    angles = places[:, None, :, None] * jnp.asarray(radians, jnp.float32)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    h = wide(x)
    if layout == "half":
        a, b = jnp.split(h, 2, axis=-1)
        turned = jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)
    else:
        a, b = h[..., 0::2], h[..., 1::2]
        turned = jnp.stack([a * cos - b * sin, a * sin + b * cos], axis=-1).reshape(x.shape)
    return turned.astype(x.dtype)


def slopes(heads: int) -> np.ndarray:
    """By how much a place of distance lowers a key's logit, of each head.

    2^(-8/H), 2^(-16/H), ...; where H is no power of 2, those of the power below it, and then every
    other one of twice as many (Press, Smith & Lewis 2022, the authors' code).
    """
    power = 2 ** int(math.log2(heads))
    of = lambda count: 2.0 ** (-8 / count * np.arange(1, count + 1))
    return np.concatenate([of(power), of(2 * power)[::2][: heads - power]]).astype(np.float32)
