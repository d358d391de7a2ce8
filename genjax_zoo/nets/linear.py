"""What a transformer is made of beside attention: products, norms, GELU, cross entropy.

Weights are float32 and stay so. What is computed has the dtype of the activations, float32 or
bfloat16; statistics and what is said of probabilities are float32 always, and so are the sums
within a product.

Each has a gradient written by hand that keeps no more than it needs, and has derivatives itself,
in reverse mode. What is done for the sake of a CPU is done there alone (`once`, `turned_product`).
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Layout, with_layout_constraint

from genjax_zoo.contract import Array


def wide(x: Array) -> Array:
    """The same numbers, of float32 at least."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def once(x: Any) -> Any:
    """The same array, or tree of them, worked out once, and what is worked out of it apart.

    A CPU's compiler works cheap arithmetic out again in all that reads it, also a whole gradient
    within each product that reads it: of a transformer's step that is half of the time. And it
    keeps what was worked out on the way forward for the way back, be that ever so cheap.
    """
    return jax.lax.platform_dependent(x, cpu=jax.lax.optimization_barrier, default=lambda x: x)


def dot(a: Array, b: Array) -> Array:
    """a b, float32 at least: asked for less, a CPU widens both, and leaves its bfloat16 unit."""
    return jnp.matmul(a, b, preferred_element_type=jnp.promote_types(a.dtype, jnp.float32))


def turned_product(a: Array, b: Array) -> Array:
    """aᵀ b of a [..., M, K] and b [..., M, N]: [..., K, N], float32 at least.

    aᵀ of bfloat16 is moved in memory. Otherwise a CPU's compiler leaves the transpose to the
    product, and the processor's unit for bfloat16 matrices, which reads rows alone, stays unused:
    a factor of four.
    """
    turned = a.swapaxes(-1, -2)
    return dot(turned, b) if a.dtype != jnp.bfloat16 else row_major(dot(row_major(turned), b))


def row_major(x: Array) -> Array:
    """The same numbers; on a CPU written down, the last axis next to each other."""
    layout = Layout(major_to_minor=tuple(range(x.ndim)))
    written = lambda x: with_layout_constraint(x, layout)
    return jax.lax.platform_dependent(x, cpu=written, default=lambda x: x)


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
    y = _product(x.reshape(*lead, size), w.reshape(size, -1)).reshape(*lead, *outer)
    return y if bias is None else y + bias.astype(x.dtype)


# Y = X W:  ∂X = ∂Y Wᵀ,  ∂W = Xᵀ ∂Y
@jax.custom_vjp
def _product(x: Array, w: Array) -> Array:
    return dot(x, w.astype(x.dtype)).astype(x.dtype)


def _product_forward(x: Array, w: Array) -> tuple[Array, tuple[Array, Array]]:
    x = once(x)
    return _product(x, w), (x, w)


def _product_backward(kept: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, w = kept
    g = once(g.astype(x.dtype))
    rows = lambda a: a.reshape(-1, a.shape[-1])
    of_x = dot(g, w.astype(x.dtype).T).astype(x.dtype)
    return of_x, turned_product(rows(x), rows(g)).astype(w.dtype)


_product.defvjp(_product_forward, _product_backward)


def layer_norm(x: Array, scale: Array, bias: Array | None = None, epsilon: float = 1e-5) -> Array:
    """Layer norm of the last axis (Ba, Kiros & Hinton 2016, arXiv:1607.06450), of x's dtype."""
    return _normalised(True, epsilon, x, scale, bias)


def rms_norm(x: Array, scale: Array, epsilon: float = 1e-5) -> Array:
    """RMS norm of the last axis (Zhang & Sennrich 2019, arXiv:1910.07467), of x's dtype.

    The scale is multiplied after the cast back, as LLaMA has it.
    """
    return _normalised(False, epsilon, x, None, None) * scale.astype(x.dtype)


# y = γ n + β,  n = (x - μ) ρ,  ρ = 1 / √(mean (x - μ)² + ε),  and of an RMS norm μ = 0:
# ∂x = ρ (γ ∂y - mean(γ ∂y) - n mean(γ ∂y n)), of an RMS norm without the mean in the middle
@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _normalised(
    centred: bool, epsilon: float, x: Array, scale: Array | None, bias: Array | None
) -> Array:
    return _normalised_forward(centred, epsilon, x, scale, bias)[0]


def _normalised_forward(
    centred: bool, epsilon: float, x: Array, scale: Array | None, bias: Array | None
):
    h = wide(x)
    mean = h.mean(-1, keepdims=True) if centred else 0.0
    rate = jax.lax.rsqrt(jnp.square(h - mean).mean(-1, keepdims=True) + epsilon)
    y = (h - mean) * rate
    y = y if scale is None else y * scale
    return (y if bias is None else y + bias).astype(x.dtype), (x, mean, rate, scale, bias)


def _normalised_backward(centred: bool, epsilon: float, kept, g: Array):
    x, mean, rate, scale, bias = once(kept)
    n, g = (wide(x) - mean) * rate, wide(once(g))
    lead = tuple(range(x.ndim - 1))
    of_scale = None if scale is None else jnp.sum(g * n, lead)
    of_bias = None if bias is None else jnp.sum(g, lead)
    g = g if scale is None else g * scale
    along = jnp.mean(g * n, -1, keepdims=True)
    middle = g.mean(-1, keepdims=True) if centred else 0.0
    return (rate * (g - middle - n * along)).astype(x.dtype), of_scale, of_bias


_normalised.defvjp(_normalised_forward, _normalised_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def gelu(x: Array, exact: bool = True) -> Array:
    """x Φ(x), or its approximation by a tanh (Hendrycks & Gimpel 2016, arXiv:1606.08415)."""
    h = wide(x)
    return (h * _gate(h, exact)[0]).astype(x.dtype)


def _gate(h: Array, exact: bool) -> tuple[Array, Array]:
    """Φ(h) and its derivative, or of the approximation to it."""
    if exact:
        # erf, not erfc, which a CPU works out three times as slowly.
        return 0.5 + 0.5 * jax.lax.erf(h / np.sqrt(2)), jnp.exp(-0.5 * h * h) / np.sqrt(2 * np.pi)
    a, b = np.sqrt(2 / np.pi), 0.044715
    t = jnp.tanh(a * (h + b * h**3))
    return 0.5 + 0.5 * t, 0.5 * (1 - t * t) * a * (1 + 3 * b * h * h)


def _gelu_backward(exact: bool, x: Array, g: Array) -> tuple[Array]:
    h = wide(once(x))
    value, slope = _gate(h, exact)
    return ((wide(g) * (value + h * slope)).astype(x.dtype),)


gelu.defvjp(lambda x, exact: (gelu(x, exact), x), _gelu_backward)


def cross_entropy(logits: Array, targets: Array, mask: Array | None = None) -> Array:
    """-log softmax(logits)_target nats, of each place.

    Args:
      logits: [..., V].
      targets: [...] integers 0 .. V - 1; where the mask is 0, any.
      mask: [...], 0 where a place does not count and its number is 0; None counts all.

    Returns:
      [...] float32.
    """
    if mask is not None:
        targets = jnp.where(mask > 0, targets, 0)
    nats = _nats(logits, targets)
    return nats if mask is None else jnp.where(mask > 0, nats, 0.0)


# l = log Σ_v exp(y_v) - y_target,  ∂y = softmax(y) - 1[target]
@jax.custom_vjp
def _nats(logits: Array, targets: Array) -> Array:
    return _nats_forward(logits, targets)[0]


def _nats_forward(logits: Array, targets: Array):
    total = jax.nn.logsumexp(wide(logits), axis=-1)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return total - wide(chosen), (logits, targets, total)


def _nats_backward(kept, g: Array):
    logits, targets, total = kept
    p = jnp.exp(wide(logits) - total[..., None])
    hit = targets[..., None] == jnp.arange(logits.shape[-1])
    return ((p - hit) * g[..., None]).astype(logits.dtype), None


_nats.defvjp(_nats_forward, _nats_backward)
