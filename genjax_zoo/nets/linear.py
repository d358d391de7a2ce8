"""What a transformer is made of beside attention: products, norms, GELU, cross entropy.

Weights are float32 and stay so. What is computed has the dtype of the activations, float32 or
bfloat16; statistics and what is said of probabilities are float32 always.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from genjax_zoo.contract import Array


def wide(x: Array) -> Array:
    """The same numbers, of float32 at least."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def product(x: Array, w: Array, bias: Array | None = None, axes: int = 1) -> Array:
    """x [..., *A] times w [*A, *C], plus a bias [*C]: [..., *C], of x's dtype.

    Args:
      x: activations.
      w: float32 weights.
      bias: float32, or None.
      axes: how many axes A has: 1 of a width, 2 of heads and their width.
    """
    lead, inner, outer = x.shape[: x.ndim - axes], w.shape[:axes], w.shape[axes:]
    size = math.prod(inner)
    y = (x.reshape(*lead, size) @ w.reshape(size, -1).astype(x.dtype)).reshape(*lead, *outer)
    return y if bias is None else y + bias.astype(x.dtype)


def layer_norm(x: Array, scale: Array, bias: Array | None = None, epsilon: float = 1e-5) -> Array:
    """Layer norm of the last axis (Ba, Kiros & Hinton 2016, arXiv:1607.06450), of x's dtype."""
    h = wide(x)
    apart = h - h.mean(-1, keepdims=True)
    y = apart * jax.lax.rsqrt(jnp.square(apart).mean(-1, keepdims=True) + epsilon) * scale
    return (y if bias is None else y + bias).astype(x.dtype)


def rms_norm(x: Array, scale: Array, epsilon: float = 1e-5) -> Array:
    """RMS norm of the last axis (Zhang & Sennrich 2019, arXiv:1910.07467), of x's dtype.

    The scale is multiplied after the cast back, as LLaMA has it.
    """
    h = wide(x)
    y = h * jax.lax.rsqrt(jnp.square(h).mean(-1, keepdims=True) + epsilon)
    return y.astype(x.dtype) * scale.astype(x.dtype)


def gelu(x: Array, exact: bool = True) -> Array:
    """x Φ(x), or its approximation by a tanh (Hendrycks & Gimpel 2016, arXiv:1606.08415)."""
    return jax.nn.gelu(x, approximate=not exact)


def cross_entropy(logits: Array, targets: Array, mask: Array | None = None) -> Array:
    """-log softmax(logits)_target nats, of each place.

    Args:
      logits: [..., V].
      targets: [...] integers 0 .. V - 1; where the mask is 0, any.
      mask: [...], 0 where a place does not count and its number is 0; None counts all.

    Returns:
      [...] float32.
    """
    logits = wide(logits)
    if mask is not None:
        targets = jnp.where(mask > 0, targets, 0)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    nats = jax.nn.logsumexp(logits, axis=-1) - chosen
    return nats if mask is None else jnp.where(mask > 0, nats, 0.0)
