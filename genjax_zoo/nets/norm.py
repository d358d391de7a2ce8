"""Normalisation: of activations by their moments, of weights by their largest singular value.

A normalised activation is affine in the activation itself, y = a x + b. So a, b are worked out
from per-channel sums, which are small, and the large array is read twice and written once; no
reshaping to groups, which a CPU reduces badly. The gradient by an image is written once too, and
has derivatives in reverse mode only, as a convolution's.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from genjax_zoo.contract import Array, ConfigError, Key


class Moments(NamedTuple):
    """Running moments of a batch norm, each an exponential average that starts from nothing.

    Attributes:
      mean: Σ_s (1 - d) d^(t - s) μ_s [C].
      square: the same of the uncentred second moments μ_s² + σ_s² [C].
      weight: 1 - d^t []; the averages are debiased by dividing by it.
    """

    mean: Array
    square: Array
    weight: Array


def group_norm(x: Array, scale: Array, shift: Array, groups: int, eps: float = 1e-5) -> Array:
    """Wu & He 2018: each example's channels are normalised in groups, over the image as well.

    Args:
      x: [B, ..., C].
      scale: γ [C].
      shift: β [C].
      groups: how many groups of neighbouring channels; C groups is instance norm, 1 layer norm.
      eps: added to the variance.

    Returns:
      γ (x - μ) / √(σ² + ε) + β, of the shape of x.

    Raises ConfigError if the groups do not divide the channels.
    """
    channels = x.shape[-1]
    if channels % groups:
        raise ConfigError(f"group norm: {groups} groups do not divide {channels} channels.")
    x = _gradient_once(x)
    over = tuple(range(1, x.ndim - 1))
    # To groups and back by products with M [C, G] of 0 and 1: their results are small arrays that
    # a CPU works out once, where a reshaped one is worked out again at every pixel.
    member = jnp.repeat(jnp.eye(groups, dtype=x.dtype), channels // groups, axis=0)
    moments = jnp.stack([jnp.mean(x, over), jnp.mean(x * x, over)])
    mean, square = jnp.matmul(moments, member * (groups / channels), precision="highest")
    of_groups = jnp.stack([mean, _rate(mean, square, eps)])
    mean, rate = jnp.matmul(of_groups, member.T, precision="highest")
    return _affine(x, mean, rate, scale, shift)


def moments_start(channels: int) -> Moments:
    """The moments of no batch at all."""
    return Moments(jnp.zeros(channels), jnp.zeros(channels), jnp.zeros(()))


def batch_norm(
    x: Array,
    scale: Array,
    shift: Array,
    moments: Moments,
    train: bool,
    decay: float = 0.9,
    eps: float = 1e-5,
) -> tuple[Array, Moments]:
    """Ioffe & Szegedy 2015: each channel is normalised over the batch and the image.

    Args:
      x: [B, ..., C].
      scale: γ [C].
      shift: β [C].
      moments: of the batches seen before.
      train: normalise by this batch's moments and remember them, or by the remembered ones and
        leave them as they are. Before any batch the remembered ones are 0 and 1.
      decay: d, how slowly the running moments move.
      eps: added to the variance.

    Returns:
      γ (x - μ) / √(σ² + ε) + β, of the shape of x, and the moments.
    """
    x = _gradient_once(x)
    if not train:
        weight = jnp.maximum(moments.weight, 1e-12)
        mean = moments.mean / weight
        square = jnp.where(moments.weight > 0, moments.square / weight, 1.0)
        return _affine(x, mean, _rate(mean, square, eps), scale, shift), moments
    over = tuple(range(x.ndim - 1))
    mean, square = jnp.mean(x, over), jnp.mean(x * x, over)
    now = Moments(mean, square, jnp.ones(()))
    kept = jax.tree.map(
        lambda old, new: decay * old + (1 - decay) * jax.lax.stop_gradient(new), moments, now
    )
    return _affine(x, mean, _rate(mean, square, eps), scale, shift), kept


def _gradient_once(x: Array) -> Array:
    return _identity(x) if x.ndim > 2 else x


@jax.custom_vjp
def _identity(x: Array) -> Array:
    return x


def _worked_out(_, g: Array) -> tuple[Array]:
    # On a CPU, XLA works cheap arithmetic out again in all that reads it. This gradient is a chain
    # of it, read by two convolutions, by one of them in the order of a transposed image, at the
    # price of another convolution. A division is not cheap to XLA, so it is kept: of g by 1, where
    # XLA cannot know that it is 1.
    once = lambda g: g / jnp.where(g == g, 1, 2)
    return (jax.lax.platform_dependent(g, cpu=once, default=lambda g: g),)


_identity.defvjp(lambda x: (x, None), _worked_out)


def _rate(mean: Array, square: Array, eps: float) -> Array:
    """1 / √(σ² + ε), σ² = E[x²] - μ², which rounding may leave just below zero."""
    return jax.lax.rsqrt(jnp.maximum(square - mean * mean, 0.0) + eps)


def _affine(x: Array, mean: Array, rate: Array, scale: Array, shift: Array) -> Array:
    # a = γ / √(σ² + ε);  b = β - a μ
    a = scale * rate
    b = shift - a * mean
    if mean.ndim == 2:
        middle = (1,) * (x.ndim - 2)
        a, b = (v.reshape(v.shape[0], *middle, v.shape[1]) for v in (a, b))
    return x * a + b


def spectral_norm(w: Array, u: Array, train: bool, into: int = -1) -> tuple[Array, Array]:
    """Miyato et al. 2018: W / σ(W), whose largest singular value is 1.

    A dense layer of such weights stretches no distance. A convolution's kernel is taken as the
    matrix from one window [kh * kw * C] to its outputs [O], as in the paper (section 2.1); windows
    overlap, so that the convolution as a whole may still stretch, by at most √(kh * kw).

    Args:
      w: [..., O], a matrix from all other axes to the outputs.
      u: the estimate of W's first left singular vector [O], from `spectral_start`.
      train: iterate once and hand the new u back, or estimate by the u there is.
      into: the axis of w that holds the outputs.

    Returns:
      w over its estimated norm, and u. The estimate never exceeds the norm.
    """
    outwards = _matrix(w, into)
    # (algorithm 1, W here the transpose of theirs)  ṽ = W u / |W u|,  ũ = Wᵀ ṽ / |Wᵀ ṽ|
    v, new = _power(jax.lax.stop_gradient(outwards), jax.lax.stop_gradient(u))
    u = new if train else u
    # σ = ṽᵀ W ũ, in which ṽ and ũ are constants: then ∂σ/∂W = ṽ ũᵀ, the true gradient at the end.
    sigma = v @ outwards @ u
    return w / jnp.maximum(sigma, 1e-12), u


def spectral_start(key: Key, w: Array, into: int = -1, iterations: int = 10) -> Array:
    """A first u [O] for `spectral_norm`: a random direction, already turned towards the right one.

    The paper starts at the random one; its norms are half of the true ones at first.
    """
    outwards = _matrix(w, into)
    u = jax.random.normal(key, outwards.shape[1:])
    return jax.lax.fori_loop(0, iterations, lambda _, u: _power(outwards, u)[1], u)


def _matrix(w: Array, into: int) -> Array:
    return jnp.moveaxis(w, into, -1).reshape(-1, w.shape[into])


def _power(outwards: Array, u: Array) -> tuple[Array, Array]:
    """One iteration of the power method on WᵀW: v and the next u, of length 1."""
    unit = lambda a: a / jnp.maximum(jnp.linalg.norm(a), 1e-12)
    v = unit(outwards @ u)
    return v, unit(outwards.T @ v)
