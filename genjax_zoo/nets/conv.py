"""The convolution and its transpose, fast on every platform and with gradients of any order.

A convolution is one trilinear form of an image x, a kernel w and an output y,

    T(x, w, y) = Σ_{b,i,j,c,o} x[b, s·i + j - p, c] · w[j, c, o] · y[b, i, o],

with stride s, padding p, output position i and kernel offset j. Its three partial derivatives

    ∂T/∂y = forward(x, w),    ∂T/∂x = spread(w, y),    ∂T/∂w = correlate(x, y)

are the convolution, the transposed convolution (the gradient by the image) and the gradient by the
kernel. Each is bilinear, and the derivatives of each are the other two: so three functions, each
other's `custom_vjp`, are closed under differentiation (in reverse mode only).

On a CPU the two that are not `forward` are spelt out as plain convolutions of operands transposed
by hand. XLA's own gradients keep an uncanonical layout, which a CPU runs naively: inside
`lax.scan`, 60 to 250 times slower. Elsewhere XLA's own are recognised by cuDNN and the TPU.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from genjax_zoo.contract import Array, ConfigError

LAYOUT = ("NHWC", "HWIO", "NHWC")
Pair = tuple[int, int]
Padding = str | Sequence[Pair]


class Geometry(NamedTuple):
    """Which entries of image, kernel and output meet. All pairs are (vertical, horizontal).

    Attributes:
      image: size of x.
      kernel: size of w.
      output: size of y.
      stride: s, the step between two windows.
      padding: (before, after) for each axis of the image; p is `before`.
    """

    image: Pair
    kernel: Pair
    output: Pair
    stride: Pair
    padding: tuple[Pair, Pair]


def _pair(value: int | Sequence[int]) -> Pair:
    vertical, horizontal = (value, value) if isinstance(value, int) else value
    return vertical, horizontal


def geometry(
    image: Sequence[int], kernel: Sequence[int], stride: int | Pair, padding: Padding
) -> Geometry:
    """The geometry of a convolution of `image` with `kernel`.

    Args:
      image: (H, W).
      kernel: (kh, kw).
      stride: one number, or one for each axis.
      padding: "SAME" (ceil(H / s) outputs), "VALID" (none), or ((before, after), ...).

    Raises ConfigError for a padding of another name, and where no window fits in the image.
    """
    strides = _pair(stride)
    if not isinstance(padding, str):
        (top, bottom), (left, right) = padding
        pads = ((top, bottom), (left, right))
    elif padding == "VALID":
        pads = ((0, 0), (0, 0))
    elif padding == "SAME":
        totals = [
            max((-(-n // s) - 1) * s + k - n, 0)
            for n, k, s in zip(image, kernel, strides, strict=True)
        ]
        pads = ((totals[0] // 2, -(-totals[0] // 2)), (totals[1] // 2, -(-totals[1] // 2)))
    else:
        raise ConfigError(f"padding should be 'SAME', 'VALID' or pairs, got {padding!r}.")
    height, width = (
        (n + sum(p) - k) // s + 1 for n, k, s, p in zip(image, kernel, strides, pads, strict=True)
    )
    if height < 1 or width < 1:
        raise ConfigError(f"a kernel of {kernel} does not fit in an image of {image} as {padding}.")
    return Geometry(_pair(image), _pair(kernel), (height, width), strides, pads)


def conv(x: Array, w: Array, stride: int | Pair = 1, padding: Padding = "SAME") -> Array:
    """x [B, H, W, C], w [kh, kw, C, O] -> y [B, h, w, O]."""
    return _forward(geometry(x.shape[1:3], w.shape[:2], stride, padding), x, w)


def conv_transpose(
    y: Array, w: Array, image: Pair, stride: int | Pair = 1, padding: Padding = "SAME"
) -> Array:
    """The transpose of `conv` as a linear map of the image: y [B, h, w, O] -> x [B, *image, C].

    The kernel is that of the convolution it transposes, w [kh, kw, C, O]. Several sizes of image
    have an output of one size under a stride; `image` says which is meant.

    Raises ConfigError if a convolution of `image` would not have the size of `y`.
    """
    geo = geometry(image, w.shape[:2], stride, padding)
    if geo.output != y.shape[1:3]:
        raise ConfigError(
            f"conv_transpose to an image of {image} with stride {stride} and padding {padding} "
            f"expects an input of {geo.output}, got {y.shape[1:3]}."
        )
    return _spread(geo, w, y)


# forward(x, w)[b, i, o] = Σ_{j,c} x[b, s·i + j - p, c] w[j, c, o]
@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _forward(geo: Geometry, x: Array, w: Array) -> Array:
    return lax.conv_general_dilated(x, w, geo.stride, geo.padding, dimension_numbers=LAYOUT)


# spread(w, y)[b, n, c] = Σ_{i,j: s·i + j - p = n} Σ_o w[j, c, o] y[b, i, o]
@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _spread(geo: Geometry, w: Array, y: Array) -> Array:
    def native(w: Array, y: Array) -> Array:
        x = jax.ShapeDtypeStruct((y.shape[0], *geo.image, w.shape[2]), y.dtype)
        return jax.linear_transpose(lambda x: _plain(geo, x, w), x)(y)[0]

    # Every phase needs an entry of the kernel, and enough channels to be worth interleaving.
    strided = geo.stride != (1, 1) and min(map(operator.sub, geo.kernel, geo.stride)) >= 0
    in_phases = strided and w.shape[2] >= 8
    spelt_out = functools.partial(_spread_in_phases if in_phases else _spread_with_zeros, geo)
    return lax.platform_dependent(w, y, cpu=spelt_out, default=native)


def _spread_with_zeros(geo: Geometry, w: Array, y: Array) -> Array:
    # The window of an image point n runs over j backwards: flip the kernel, put s - 1 zeros
    # between the outputs, and pad so that the first window ends at the first output.
    mirrored = w[::-1, ::-1].transpose(0, 1, 3, 2)
    pads = [
        (k - 1 - p, n - 1 - (m - 1) * s + p)
        for n, m, k, s, (p, _) in zip(
            geo.image, geo.output, geo.kernel, geo.stride, geo.padding, strict=True
        )
    ]
    return lax.conv_general_dilated(
        y, mirrored, (1, 1), pads, lhs_dilation=geo.stride, dimension_numbers=LAYOUT
    )


def _spread_in_phases(geo: Geometry, w: Array, y: Array) -> Array:
    # Image points n of one remainder modulo s see the kernel at one remainder: n + p = s·q + r
    # meets j = s·t + r at i = q - t. Each of the s² phases is a plain convolution, and the phases
    # are interleaved. Less work than the zeros, 2-4 times faster on a CPU with many channels, but
    # interleaving costs more than it saves when there are few.
    counts = [-(-n // s) for n, s in zip(geo.image, geo.stride, strict=True)]

    def phase(axis: int, remainder: int) -> tuple[slice, Pair]:
        """Which entries of the kernel this phase sees, and how y is padded for them."""
        p, s = geo.padding[axis][0], geo.stride[axis]
        first, r = divmod(remainder + p, s)
        taps = len(range(r, geo.kernel[axis], s))
        return slice(r, None, s), (taps - 1 - first, first + counts[axis] - geo.output[axis])

    rows = []
    for vertical in range(geo.stride[0]):
        taps_v, pad_v = phase(0, vertical)
        row = []
        for horizontal in range(geo.stride[1]):
            taps_h, pad_h = phase(1, horizontal)
            mirrored = w[taps_v, taps_h][::-1, ::-1].transpose(0, 1, 3, 2)
            row.append(
                lax.conv_general_dilated(
                    y, mirrored, (1, 1), (pad_v, pad_h), dimension_numbers=LAYOUT
                )
            )
        rows.append(jnp.stack(row, 3))
    sizes = (counts[0] * geo.stride[0], counts[1] * geo.stride[1])
    x = jnp.stack(rows, 2).reshape(y.shape[0], *sizes, w.shape[2])
    return x[:, : geo.image[0], : geo.image[1]]


# correlate(x, y)[j, c, o] = Σ_{b,i} x[b, s·i + j - p, c] y[b, i, o]
@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _correlate(geo: Geometry, x: Array, y: Array) -> Array:
    def spelt_out(x: Array, y: Array) -> Array:
        # Channels take the place of examples and examples that of channels; y is the kernel, its
        # entries s apart.
        after = [
            k + (m - 1) * s - n - p
            for n, m, k, s, (p, _) in zip(
                geo.image, geo.output, geo.kernel, geo.stride, geo.padding, strict=True
            )
        ]
        pads = [(p, a) for (p, _), a in zip(geo.padding, after, strict=True)]
        images, kernels = lax.optimization_barrier(
            (x.transpose(3, 1, 2, 0), y.transpose(1, 2, 0, 3))
        )
        g = lax.conv_general_dilated(
            images, kernels, (1, 1), pads, rhs_dilation=geo.stride, dimension_numbers=LAYOUT
        )
        return g.transpose(1, 2, 0, 3)

    def native(x: Array, y: Array) -> Array:
        w = jax.ShapeDtypeStruct((*geo.kernel, x.shape[3], y.shape[3]), x.dtype)
        return jax.linear_transpose(lambda w: _plain(geo, x, w), w)(y)[0]

    return lax.platform_dependent(x, y, cpu=spelt_out, default=native)


def _plain(geo: Geometry, x: Array, w: Array) -> Array:
    return lax.conv_general_dilated(x, w, geo.stride, geo.padding, dimension_numbers=LAYOUT)


_forward.defvjp(
    lambda geo, x, w: (_forward(geo, x, w), (x, w)),
    lambda geo, xw, y: (_spread(geo, xw[1], y), _correlate(geo, xw[0], y)),
)
_spread.defvjp(
    lambda geo, w, y: (_spread(geo, w, y), (w, y)),
    lambda geo, wy, x: (_correlate(geo, x, wy[1]), _forward(geo, x, wy[0])),
)
_correlate.defvjp(
    lambda geo, x, y: (_correlate(geo, x, y), (x, y)),
    lambda geo, xy, w: (_spread(geo, w, xy[1]), _forward(geo, xy[0], w)),
)
