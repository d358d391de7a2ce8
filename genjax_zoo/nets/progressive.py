"""Two players that grow: a generator and a discriminator of images 4, 8, 16, ... pixels wide.

Karras, Aila, Laine & Lehtinen, Progressive growing of GANs for improved quality, stability, and
variation, 2018 (arXiv:1710.10196); the layers are those of its table 2. Parameters are named by
their resolution (`block_8`, `to_image_8`, `from_image_8`), and have the same shape in every network
that has them: a network of twice the resolution takes them by name, and fades its own block in.

    G_R(z) = α · to_image_R(block_R(h)) + (1 - α) · twice(to_image_R/2(h))             (figure 2)
    D_R(x) = D_R/2 with α · half(block_R(from_image_R(x))) + (1 - α) · from_image_R/2(half(x))
             in the place of its own first features

so that at α = 0 they are the networks of half the resolution, and at α = 1 have forgotten them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from genjax_zoo.contract import Array, ConfigError, Key
from genjax_zoo.nets.conv import conv
from genjax_zoo.nets.net import ACTIVATIONS, Net, Params
from genjax_zoo.nets.resample import upsample, upsample_conv

SMALLEST = 4
HE = math.sqrt(2)
"""The gain of a layer before a (leaky) ReLU, after He et al. 2015; a linear layer's is 1."""
EPSILON = 1e-8
GROUP = 4

activate = ACTIVATIONS["leaky_relu"]


def sides(widths: Sequence[int]) -> tuple[int, ...]:
    """4, 8, 16, ...: one resolution a width."""
    return tuple(SMALLEST * 2**level for level in range(len(widths)))


def check_size(shape: tuple[int, ...], full: int) -> None:
    """Raises ConfigError where an example of the data is not [full, full, C]."""
    if len(shape) == 3 and shape[:2] == (full, full):
        return
    # The resolution that would hold such images, by doubling.
    top = SMALLEST * 2 ** math.ceil(math.log2(max((*shape[:2], SMALLEST)) / SMALLEST))
    levels = int(math.log2(top // SMALLEST)) + 1
    if len(shape) != 3:
        advice = "choose a source of images"
    elif shape[:2] == (top, top):
        advice = f"set model.widths to {levels} numbers, or config.data.resize={full}"
    elif top == full:
        advice = f"set config.data.resize={full}"
    else:
        advice = f"set config.data.resize={full}, or {top} with model.widths of {levels} numbers"
    raise ConfigError(
        f"progressive_gan: its widths grow square images up to {full}x{full}, by doubling from 4, "
        f"and an example of the data has shape {shape}; {advice}."
    )


# ------------------------------------------------------------------------ the paper's parts


def equalised(w: Array, gain: float = HE) -> Array:
    """ŵ = c w, c = gain / √fan-in: the weights as they are used (section 4.1).

    w ~ N(0, 1) at the start, and He's constant comes at run time. Adam moves each weight by about
    the learning rate, whatever its scale: scaled here, all layers learn at one pace.
    """
    return gain / math.sqrt(math.prod(w.shape[:-1])) * w


def pixel_norm(h: Array) -> Array:
    """b = a / √(mean over channels of a² + ε), at every pixel by itself (section 4.2)."""
    return h * jax.lax.rsqrt(jnp.mean(h**2, axis=-1, keepdims=True) + EPSILON)


def minibatch_deviation(h: Array) -> Array:
    """h [B, H, W, C] -> [B, H, W, C + 1]: how much its neighbours in the batch differ (section 3).

    The standard deviation over a group of neighbours, averaged over pixels and channels to one
    number a group. Groups are of 4, or of the largest number below it that divides B.
    """
    size = max(g for g in range(1, GROUP + 1) if len(h) % g == 0)
    groups = h.reshape(-1, size, *h.shape[1:])
    deviation = jnp.sqrt(jnp.var(groups, axis=1) + EPSILON)
    each = jnp.repeat(jnp.mean(deviation, axis=(1, 2, 3)), size)
    plane = jnp.broadcast_to(each[:, None, None, None], (*h.shape[:3], 1))
    return jnp.concatenate([h, plane], axis=-1)


def half(x: Array, factor: int = 2) -> Array:
    """x [B, H, W, C] -> [B, H / factor, W / factor, C]: the means of squares of pixels."""
    batch, height, width, channels = x.shape
    squares = x.reshape(batch, height // factor, factor, width // factor, factor, channels)
    return jnp.mean(squares, axis=(2, 4))


def _drawn(key: Key, shapes: dict[str, Any]) -> Params:
    """A layer's parameters for each shape: w ~ N(0, 1) [..., outputs], b = 0 [outputs]."""
    each, names = jax.tree.flatten(shapes, is_leaf=lambda leaf: isinstance(leaf, tuple))
    # All in one draw: to compile as many draws as there are layers takes longer than a step's.
    ends = list(itertools.accumulate(math.prod(shape) for shape in each))
    parts = jnp.split(jax.random.normal(key, (ends[-1],)), ends[:-1])
    layers = [
        {"w": part.reshape(shape), "b": jnp.zeros(shape[-1])}
        for part, shape in zip(parts, each, strict=True)
    ]
    return jax.tree.unflatten(names, layers)


def _conv(p: Params, h: Array, gain: float = HE, padding: str = "SAME") -> Array:
    return conv(h, equalised(p["w"], gain), padding=padding) + p["b"]


# ------------------------------------------------------------------------------ the players


def generator(widths: Sequence[int], fades: bool) -> Net:
    """z [B, L], α -> x [B, R, R, C], linear; `init` is (key, z, x).

    Args:
      widths: channels at 4x4, at 8x8, ... and at last R x R.
      fades: whether R is new, and its image is blended with that of R / 2; without it α is idle.
    """
    levels = list(zip(sides(widths), widths, strict=True))
    last = levels[-1][0]
    images = (last // 2, last) if fades else (last,)

    def init(key: Key, z: Array, x: Array) -> Params:
        shapes: dict[str, Any] = {}
        below = z.shape[-1]
        for side, width in levels:
            kernel = SMALLEST if side == SMALLEST else 3
            shapes[f"block_{side}"] = {
                "first": (kernel, kernel, below, width),
                "second": (3, 3, width, width),
            }
            if side in images:
                shapes[f"to_image_{side}"] = (1, 1, width, x.shape[-1])
            below = width
        return _drawn(key, shapes)

    def block(p: Params, h: Array) -> Array:
        # Upsample, Conv 3x3, LReLU, PixelNorm; Conv 3x3, LReLU, PixelNorm
        h = pixel_norm(activate(upsample_conv(h, equalised(p["first"]["w"])) + p["first"]["b"]))
        return pixel_norm(activate(_conv(p["second"], h)))

    def block_4(p: Params, z: Array) -> Array:
        # A 4x4 convolution of one padded pixel: each weight meets it once, so it is a product.
        # Its fan-in is counted as a convolution's, 16 L.
        h = jnp.einsum("bl,ijlo->bijo", pixel_norm(z), equalised(p["first"]["w"]))
        h = pixel_norm(activate(h + p["first"]["b"]))
        return pixel_norm(activate(_conv(p["second"], h)))

    def apply(params: Params, z: Array, alpha: Array | float = 1.0) -> Array:
        h = block_4(params[f"block_{SMALLEST}"], z)
        h_below = h
        for side, _ in levels[1:]:
            h_below, h = h, block(params[f"block_{side}"], h)
        x = _conv(params[f"to_image_{last}"], h, gain=1)
        if not fades:
            return x
        return blend(alpha, x, upsample(_conv(params[f"to_image_{last // 2}"], h_below, gain=1)))

    return Net(init, apply)


def discriminator(widths: Sequence[int], fades: bool) -> Net:
    """x [B, R, R, C], α -> a [B]; `init` is (key, x). The generator's mirror image.

    Examples meet in the minibatch standard deviation, within groups of four neighbours.

    Args:
      widths: channels at 4x4, at 8x8, ... and at last R x R.
      fades: whether R is new, and its features are blended with those of R / 2.
    """
    levels = list(zip(sides(widths), widths, strict=True))
    last = levels[-1][0]
    images = (last // 2, last) if fades else (last,)

    def init(key: Key, x: Array) -> Params:
        shapes: dict[str, Any] = {}
        below = widths[0]
        for side, width in levels:
            shapes[f"block_{side}"] = {
                "first": (3, 3, width, width),
                "second": (3, 3, width, below),
            }
            if side in images:
                shapes[f"from_image_{side}"] = (1, 1, x.shape[-1], width)
            below = width
        shapes[f"block_{SMALLEST}"] = {
            "first": (3, 3, widths[0] + 1, widths[0]),
            "second": (SMALLEST, SMALLEST, widths[0], widths[0]),
            "verdict": (widths[0], 1),
        }
        return _drawn(key, shapes)

    def block(p: Params, h: Array) -> Array:
        # Conv 3x3, LReLU, Conv 3x3, LReLU, Downsample
        return half(activate(_conv(p["second"], activate(_conv(p["first"], h)))))

    def block_4(p: Params, h: Array) -> Array:
        # Minibatch stddev, Conv 3x3, LReLU, Conv 4x4, LReLU, Fully-connected
        h = activate(_conv(p["first"], minibatch_deviation(h)))
        h = activate(_conv(p["second"], h, padding="VALID"))[:, 0, 0]
        return (h @ equalised(p["verdict"]["w"], gain=1) + p["verdict"]["b"])[:, 0]

    def from_image(params: Params, x: Array) -> Array:
        return activate(_conv(params[f"from_image_{x.shape[1]}"], x))

    def apply(params: Params, x: Array, alpha: Array | float = 1.0) -> Array:
        h = from_image(params, x)
        for side, _ in reversed(levels[1:]):
            h = block(params[f"block_{side}"], h)
            if fades and side == last:
                h = blend(alpha, h, from_image(params, half(x)))
        return block_4(params[f"block_{SMALLEST}"], h)

    return Net(init, apply)


def blend(alpha: Array | float, new: Array, old: Array) -> Array:
    """α new + (1 - α) old."""
    return alpha * new + (1 - alpha) * old
