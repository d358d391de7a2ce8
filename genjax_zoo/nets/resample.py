"""Making images larger: by repeating pixels, and by repeating them before a 3x3 convolution."""

from __future__ import annotations

import jax.numpy as jnp

from genjax_zoo.contract import Array, ConfigError
from genjax_zoo.nets.conv import conv_transpose

# A 1-D convolution w of a signal repeated twice spreads each of its points over four:
# w₂ one step before it, w₁ + w₂ and w₀ + w₁ on its two copies, w₀ one step after them.
_SPREAD = ((0, 0, 1), (0, 1, 1), (1, 1, 0), (1, 0, 0))


def upsample(x: Array, factor: int = 2) -> Array:
    """Nearest neighbours: x [B, H, W, C] -> [B, factor·H, factor·W, C], each pixel repeated."""
    batch, height, width, channels = x.shape
    repeated = jnp.broadcast_to(
        x[:, :, None, :, None], (batch, height, factor, width, factor, channels)
    )
    return repeated.reshape(batch, factor * height, factor * width, channels)


def upsample_conv(x: Array, w: Array) -> Array:
    """`conv(upsample(x, 2), w)` for 3x3 kernels, without ever making the larger input.

    A pixel of the result sees two neighbours each way, whose weights are sums of the kernel's:
    four phases of 2x2 weights, 16 products instead of 36, which together are one transposed 4x4
    convolution of stride 2. Odena, Dumoulin & Olah 2016 say why one upsamples so.

    Args:
      x: [B, H, W, C].
      w: [3, 3, C, O].

    Returns:
      [B, 2H, 2W, O].

    Raises ConfigError for a kernel of another size.
    """
    if w.shape[:2] != (3, 3):
        raise ConfigError(f"upsample_conv expects a kernel of 3x3, got {w.shape[:2]}.")
    spread = jnp.array(_SPREAD, w.dtype)
    phases = jnp.einsum("ai,bj,ijco->aboc", spread, spread, w, precision="highest")
    return conv_transpose(x, phases, (2 * x.shape[1], 2 * x.shape[2]), stride=2)
