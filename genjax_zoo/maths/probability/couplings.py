"""Bijections whose parameters a network gives: couplings and autoregressive maps.

Floor 1. A `Transformer` is an invertible map of single numbers; a `Bijection` made of it takes its
parameters from a network that sees other numbers than those it moves:

    layer = coupling(net, affine(), swap=k % 2)

Sources: NICE (Dinh, Krueger & Bengio 2015, arXiv:1410.8516), RealNVP (Dinh, Sohl-Dickstein & Bengio
2017, arXiv:1605.08803), MAF (Papamakarios, Pavlakou & Murray 2017, arXiv:1705.07057), IAF (Kingma
et al. 2016, arXiv:1606.04934) and rational-quadratic splines (Durkan, Bekasov, Murray &
Papamakarios 2019, arXiv:1906.04032).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genjax_zoo.contract import Array, ConfigError, Key, Net
from genjax_zoo.maths.probability.bijections import Bijection, Params, halves, sum_each

# -------------------------------------------------------------------- maps of single numbers


class Transformer(NamedTuple):
    """An invertible map of single numbers, whose parameters a network gives.

    Attributes:
      parameters: P, for each number; all 0 make the identity, or nearly.
      forward: (θ [P, ...], x [...]) -> (z [...], log dz/dx [...]).
      inverse: (θ, z) -> (x, log dx/dz).
    """

    parameters: int
    forward: Callable[[Array, Array], tuple[Array, Array]]
    inverse: Callable[[Array, Array], tuple[Array, Array]]


def additive() -> Transformer:
    """z = x + t: Dinh et al. 2015, equation 7."""
    return Transformer(
        parameters=1,
        forward=lambda theta, x: (x + theta[0], jnp.zeros_like(x)),
        inverse=lambda theta, z: (z - theta[0], jnp.zeros_like(z)),
    )


def affine(most: float = 2.0) -> Transformer:
    """z = x exp(s) + t, |s| < `most`: Dinh et al. 2017, equations 4 and 7, s bounded by a tanh."""

    def log_scale(theta: Array) -> Array:
        return most * jnp.tanh(theta[0] / most)

    def forward(theta: Array, x: Array) -> tuple[Array, Array]:
        s = log_scale(theta)
        return x * jnp.exp(s) + theta[1], s

    def inverse(theta: Array, z: Array) -> tuple[Array, Array]:
        s = log_scale(theta)
        return (z - theta[1]) * jnp.exp(-s), -s

    return Transformer(2, forward, inverse)


def gated(open: float = 2.0) -> Transformer:
    """z = σ x + (1 - σ) m, σ = sigmoid(s + `open`): Kingma et al. 2016, algorithm 1.

    A gate that is open at first (σ = .88 at θ = 0) nearly lets x through.
    """

    def log_gate(theta: Array) -> Array:
        return jax.nn.log_sigmoid(theta[0] + open)

    def forward(theta: Array, x: Array) -> tuple[Array, Array]:
        gate = jnp.exp(log_gate(theta))
        return gate * x + (1 - gate) * theta[1], log_gate(theta)

    def inverse(theta: Array, z: Array) -> tuple[Array, Array]:
        # (z - (1 - σ) m) / σ = m + (z - m) / σ
        return theta[1] + (z - theta[1]) * jnp.exp(-log_gate(theta)), -log_gate(theta)

    return Transformer(2, forward, inverse)


def spline(bins: int = 8, bound: float = 4.0) -> Transformer:
    """Monotone rational-quadratic pieces on [-bound, bound], and the identity beyond.

    Durkan et al. 2019, section 3.1. θ holds K widths, K heights and the K - 1 inner slopes.
    """
    least, K = 1e-3, bins

    def knots(raw: Array) -> tuple[list[Array], list[Array]]:
        """K sizes of bins and their K left edges, from -bound to bound: raw [K, ...]."""
        sizes = 2 * bound * (least + (1 - least * K) * jax.nn.softmax(raw, 0))
        edges = [jnp.full_like(sizes[0], -bound)]
        for k in range(K - 1):
            edges.append(edges[-1] + sizes[k])
        return list(sizes), edges

    def pieces(theta: Array, at: Array, by_height: bool) -> tuple[Array, ...]:
        """The width, height, left and lower edge and both slopes of the bin that holds `at`."""
        width, left = knots(theta[:K])
        height, low = knots(theta[K : 2 * K])
        # Such that θ = 0 gives slope 1, that of the identity outside.
        inner = least + jax.nn.softplus(theta[2 * K :] + math.log(math.expm1(1 - least)))
        one = jnp.ones_like(at)
        slope = [one, *inner, one]
        # The last bin whose edge is passed, by one comparison a bin: a gather is slower.
        found = [width[0], height[0], left[0], low[0], slope[0], slope[1]]
        for k in range(1, K):
            passed = at >= (low if by_height else left)[k]
            other = (width[k], height[k], left[k], low[k], slope[k], slope[k + 1])
            found = [jnp.where(passed, b, a) for a, b in zip(found, other, strict=True)]
        return tuple(found)

    def slope_at(xi: Array, w: Array, h: Array, d0: Array, d1: Array) -> tuple[Array, Array, Array]:
        """The denominator of equation 4, log dz/dx (equation 5), and the bin's own slope."""
        s = h / w
        both = xi * (1 - xi)
        bottom = s + (d1 + d0 - 2 * s) * both
        top = s**2 * (d1 * xi**2 + 2 * s * both + d0 * (1 - xi) ** 2)
        return bottom, jnp.log(top) - 2 * jnp.log(bottom), s

    def forward(theta: Array, x: Array) -> tuple[Array, Array]:
        within = jnp.abs(x) < bound
        at = jnp.where(within, x, 0.0)
        w, h, left, low, d0, d1 = pieces(theta, at, by_height=False)
        xi = (at - left) / w
        bottom, rate, s = slope_at(xi, w, h, d0, d1)
        # (4)  z = y_k + h [s ξ² + d_k ξ (1 - ξ)] / [s + (d_{k+1} + d_k - 2s) ξ (1 - ξ)]
        z = low + h * (s * xi**2 + d0 * xi * (1 - xi)) / bottom
        return jnp.where(within, z, x), jnp.where(within, rate, 0.0)

    def inverse(theta: Array, z: Array) -> tuple[Array, Array]:
        within = jnp.abs(z) < bound
        at = jnp.where(within, z, 0.0)
        w, h, left, low, d0, d1 = pieces(theta, at, by_height=True)
        s, up = h / w, at - low
        # (6)-(8)  a ξ² + b ξ + c = 0, by the root that loses no digits
        bend = d1 + d0 - 2 * s
        a = h * (s - d0) + up * bend
        b = h * d0 - up * bend
        c = -s * up
        xi = 2 * c / (-b - jnp.sqrt(jnp.maximum(b**2 - 4 * a * c, 0.0)))
        _, rate, _ = slope_at(xi, w, h, d0, d1)
        return jnp.where(within, left + xi * w, z), jnp.where(within, -rate, 0.0)

    if bins < 2 or bound <= 0:
        raise ConfigError(f"spline: expected bins >= 2 and bound > 0, got {bins} and {bound}.")
    return Transformer(3 * K - 1, forward, inverse)


# --------------------------------------------------------- maps whose parameters a network gives

Conditioner = Callable[[tuple[int, ...]], Net]
"""Shape of an output without the batch -> a network of x [B, ..., C] that makes it."""


def _seen(x: Array, condition: Array | None) -> Array:
    """What a network sees: x, and the condition at every place of it."""
    if condition is None:
        return x
    shape = (len(x),) + (1,) * (x.ndim - condition.ndim) + condition.shape[1:]
    everywhere = jnp.broadcast_to(condition.reshape(shape), (*x.shape[:-1], shape[-1]))
    return jnp.concatenate([x, everywhere], -1)


def coupling(conditioner: Conditioner, transformer: Transformer, swap: bool | int = 0) -> Bijection:
    """Moves one half of the channels as a network of the other half says.

        z_a = x_a,   z_b = T(x_b; θ(x_a))                Dinh et al. 2017, equations 4 and 5

    Args:
      conditioner: the network θ. Its outputs are multiplied by gains that start at 0, so that the
        layer starts as the identity.
      transformer: T.
      swap: whether the first half is moved and not the last.
    """
    P = transformer.parameters

    def apart(x: Array) -> tuple[Array, Array]:
        if x.shape[-1] < 2:
            raise ConfigError(
                f"coupling: expected two channels or more to part, got shape {x.shape}; squeeze "
                "images first."
            )
        a, b = halves(x)
        return (b, a) if swap else (a, b)

    def together(a: Array, b: Array) -> Array:
        return jnp.concatenate([b, a] if swap else [a, b], -1)

    def network(moved: Array) -> Net:
        return conditioner((*moved.shape[1:-1], P * moved.shape[-1]))

    def init(key: Key, x: Array, condition: Array | None = None) -> Params:
        kept, moved = apart(x)
        theta = network(moved).init(key, _seen(kept, condition))
        return {"net": theta, "gain": jnp.zeros(P * moved.shape[-1])}

    def parameters(params: Params, kept: Array, moved: Array, condition: Array | None) -> Array:
        theta = network(moved).apply(params["net"], _seen(kept, condition)) * params["gain"]
        # The parameters come first: sums over few of them are slow along the last axis.
        return jnp.moveaxis(theta.reshape(*moved.shape[:-1], P, -1), -2, 0)

    def apply(fn: Callable[[Array, Array], tuple[Array, Array]]):
        def mapped(params: Params, x: Array, condition: Array | None = None):
            kept, moved = apart(x)
            moved, log_rate = fn(parameters(params, kept, moved, condition), moved)
            return together(kept, moved), sum_each(log_rate)

        return mapped

    return Bijection(init, apply(transformer.forward), apply(transformer.inverse))


def autoregressive(conditioner: Conditioner, transformer: Transformer) -> Bijection:
    """z_i = T(x_i; θ_i(x_1, ..., x_{i-1})): MAF (Papamakarios et al. 2017, equation 4).

    Forwards one pass of the network; backwards as many as x has numbers. For vectors [B, D].

    Args:
      conditioner: (D * P,) -> a network of which output (p, i) sees none but the inputs before i,
        such as nets.made.
      transformer: T.
    """
    P = transformer.parameters

    def network(x: Array) -> Net:
        if x.ndim != 2:
            raise ConfigError(f"autoregressive: expected vectors [B, D], got shape {x.shape}.")
        return conditioner((P * x.shape[-1],))

    def seen(x: Array, condition: Array | None) -> tuple[Array, ...]:
        return (x,) if condition is None else (x, condition)

    def init(key: Key, x: Array, condition: Array | None = None) -> Params:
        theta = network(x).init(key, *seen(x, condition))
        return {"net": theta, "gain": jnp.zeros(P * x.shape[-1])}

    def parameters(params: Params, x: Array, condition: Array | None) -> Array:
        theta = network(x).apply(params["net"], *seen(x, condition)) * params["gain"]
        return jnp.moveaxis(theta.reshape(len(x), P, -1), 1, 0)

    def forward(params: Params, x: Array, condition: Array | None = None):
        z, log_rate = transformer.forward(parameters(params, x, condition), x)
        return z, sum_each(log_rate)

    def inverse(params: Params, z: Array, condition: Array | None = None):
        def once(i: Array, x: Array) -> Array:
            # After pass i the first i + 1 numbers are right, and those after it do not matter.
            return transformer.inverse(parameters(params, x, condition), z)[0]

        x = jax.lax.fori_loop(0, z.shape[-1], once, jnp.zeros_like(z))
        _, log_rate = transformer.forward(parameters(params, x, condition), x)
        return x, -sum_each(log_rate)

    return Bijection(init, forward, inverse)
