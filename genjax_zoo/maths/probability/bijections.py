"""Bijections with log-determinants, and how they compose: what a flow is made of.

Floor 1. A density p(z) seen through an invertible z = f(x) is

    log p(x) = log p(f(x)) + log |det ∂f/∂x|

A `Bijection` is a pair of pure functions and the start of what they share. Every one keeps the
shape of its input, [B, ..., C]; all act on the last axis, so that vectors and images are one case.

    flow = chain(standardise(), *(coupling(net, affine(), swap=k % 2) for k in range(6)))
    params = flow.init(key, x)
    z, log_det = flow.forward(params, x)

Sources: NICE (Dinh, Krueger & Bengio 2015, arXiv:1410.8516), RealNVP (Dinh, Sohl-Dickstein & Bengio
2017, arXiv:1605.08803), Glow (Kingma & Dhariwal 2018, arXiv:1807.03039), MAF (Papamakarios,
Pavlakou & Murray 2017, arXiv:1705.07057), IAF (Kingma et al. 2016, arXiv:1606.04934) and
rational-quadratic splines (Durkan, Bekasov, Murray & Papamakarios 2019, arXiv:1906.04032).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular

from genjax_zoo.contract import Array, ConfigError, Key, Net

Params = Any


class Bijection(NamedTuple):
    """An invertible map of [B, ..., C] to the same shape, and its log-determinant.

    Attributes:
      init: (key, x, condition=None) -> params. x is a batch of the inputs: its shape, and its
        values where the map starts from the data's statistics.
      forward: (params, x, condition=None) -> (z, log |det ∂z/∂x| [B] nats): data to noise.
      inverse: (params, z, condition=None) -> (x, log |det ∂x/∂z| [B] nats).
    """

    init: Callable[..., Params]
    forward: Callable[..., tuple[Array, Array]]
    inverse: Callable[..., tuple[Array, Array]]


def _sum(x: Array) -> Array:
    """[B, ...] -> [B]."""
    return jnp.sum(x.reshape(len(x), -1), -1)


def _alike(x: Array, log_det: Array | float) -> Array:
    """One log-determinant [] for every example of x: [B]."""
    return jnp.broadcast_to(jnp.asarray(log_det, x.dtype), (len(x),))


# --------------------------------------------------------------------------- composition


def chain(*parts: Bijection) -> Bijection:
    """The first of `parts`, then the second, and so on; each starts from what the last one made."""

    def init(key: Key, x: Array, condition: Array | None = None) -> Params:
        params = []
        for each, part in zip(jax.random.split(key, len(parts)), parts, strict=True):
            params.append(part.init(each, x, condition))
            x, _ = part.forward(params[-1], x, condition)
        return tuple(params)

    def forward(params: Params, x: Array, condition: Array | None = None):
        total = jnp.zeros(len(x), x.dtype)
        for part, own in zip(parts, params, strict=True):
            x, log_det = part.forward(own, x, condition)
            total += log_det
        return x, total

    def inverse(params: Params, z: Array, condition: Array | None = None):
        total = jnp.zeros(len(z), z.dtype)
        for part, own in zip(reversed(parts), reversed(params), strict=True):
            z, log_det = part.inverse(own, z, condition)
            total += log_det
        return z, total

    return Bijection(init, forward, inverse)


def invert(bijection: Bijection) -> Bijection:
    """The same map run backwards. MAF inverted is IAF: slow to score and fast to draw."""
    return Bijection(bijection.init, bijection.inverse, bijection.forward)


def rest(bijection: Bijection) -> Bijection:
    """`bijection` on the last half of the channels alone; the first half is noise already.

    The factoring out of a multi-scale flow: Dinh et al. 2017, section 3.6.
    """

    def init(key: Key, x: Array, condition: Array | None = None) -> Params:
        return bijection.init(key, _halves(x)[1], condition)

    def apply(fn: Callable[..., tuple[Array, Array]]) -> Callable[..., tuple[Array, Array]]:
        def on_the_rest(params: Params, x: Array, condition: Array | None = None):
            done, going = _halves(x)
            going, log_det = fn(params, going, condition)
            return jnp.concatenate([done, going], -1), log_det

        return on_the_rest

    return Bijection(init, apply(bijection.forward), apply(bijection.inverse))


def _halves(x: Array) -> tuple[Array, Array]:
    middle = (x.shape[-1] + 1) // 2
    return x[..., :middle], x[..., middle:]


# ------------------------------------------------------------------- maps that learn nothing


def _fixed(
    forward: Callable[[Array], tuple[Array, Array]], inverse: Callable[[Array], tuple[Array, Array]]
) -> Bijection:
    return Bijection(
        init=lambda key, x, condition=None: (),
        forward=lambda params, x, condition=None: forward(x),
        inverse=lambda params, z, condition=None: inverse(z),
    )


def logit(alpha: float = 1e-5) -> Bijection:
    """x in [0, 1] -> log s / (1 - s), s = α + (1 - 2α) x: Dinh et al. 2017, section 4.1.

    Back, z -> (sigmoid(z) - α) / (1 - 2α), which a wild z takes a little beyond [0, 1].
    """

    def rate(z: Array) -> Array:
        # log dz/dx = log (1 - 2α) - log s - log (1 - s),  s = sigmoid(z)
        return math.log1p(-2 * alpha) + jax.nn.softplus(z) + jax.nn.softplus(-z)

    def forward(x: Array) -> tuple[Array, Array]:
        s = alpha + (1 - 2 * alpha) * x
        z = jnp.log(s) - jnp.log1p(-s)
        return z, _sum(rate(z))

    def inverse(z: Array) -> tuple[Array, Array]:
        return (jax.nn.sigmoid(z) - alpha) / (1 - 2 * alpha), -_sum(rate(z))

    return _fixed(forward, inverse)


def permute(seed: int | None = None) -> Bijection:
    """The last axis in another order: one drawn by `seed`, or backwards for None."""

    def order(size: int) -> np.ndarray:
        if seed is None:
            return np.arange(size)[::-1]
        return np.random.default_rng(seed).permutation(size)

    def forward(x: Array) -> tuple[Array, Array]:
        return x[..., order(x.shape[-1])], _alike(x, 0.0)

    def inverse(z: Array) -> tuple[Array, Array]:
        return z[..., np.argsort(order(z.shape[-1]))], _alike(z, 0.0)

    return _fixed(forward, inverse)


def checkerboard() -> Bijection:
    """Four channels' groups (00, 01, 10, 11) of a squeezed image as (00, 11, 01, 10).

    A split into halves then parts the pixels as a chess board does (Dinh et al. 2017, figure 3).
    """

    def reorder(x: Array, groups: tuple[int, ...]) -> tuple[Array, Array]:
        if x.shape[-1] % 4:
            raise ConfigError(f"checkerboard: expected 4 groups of channels, got {x.shape[-1]}.")
        parts = jnp.split(x, 4, -1)
        return jnp.concatenate([parts[g] for g in groups], -1), _alike(x, 0.0)

    return _fixed(lambda x: reorder(x, (0, 3, 1, 2)), lambda z: reorder(z, (0, 2, 3, 1)))


def reshape(shape: tuple[int, ...], to: tuple[int, ...]) -> Bijection:
    """An example of `shape` as one of `to`, such as an image as a vector."""
    as_shape = lambda x, new: (x.reshape(len(x), *new), _alike(x, 0.0))
    return _fixed(lambda x: as_shape(x, to), lambda z: as_shape(z, shape))


def squeeze() -> Bijection:
    """[B, H, W, C] -> [B, H/2, W/2, 4C]: Dinh et al. 2017, figure 3. Inverted, it unsqueezes.

    Raises ConfigError for an image of odd sides.
    """

    def forward(x: Array) -> tuple[Array, Array]:
        if x.ndim != 4 or x.shape[1] % 2 or x.shape[2] % 2:
            raise ConfigError(
                "squeeze: expected images [B, H, W, C] of even sides, got "
                f"{x.shape}; use fewer scales, or resize."
            )
        b, h, w, c = x.shape
        parts = x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5)
        return parts.reshape(b, h // 2, w // 2, 4 * c), _alike(x, 0.0)

    def inverse(z: Array) -> tuple[Array, Array]:
        b, h, w, c = z.shape
        parts = z.reshape(b, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5)
        return parts.reshape(b, 2 * h, 2 * w, c // 4), _alike(z, 0.0)

    return _fixed(forward, inverse)


# --------------------------------------------------------------------------- linear maps


def _elementwise(start: Callable[[Array], tuple[Array, Array]]) -> Bijection:
    """z = (x - shift) exp(-log_scale); `start`: x -> (shift, log_scale) of the first batch."""

    def init(key: Key, x: Array, condition: Array | None = None) -> Params:
        del key, condition
        shift, log_scale = start(x)
        return {"shift": shift, "log_scale": log_scale}

    def total(params: Params, x: Array) -> Array:
        # Every place of the image has the same scales, where they are the channels' alone.
        each = params["log_scale"]
        return _alike(x, jnp.sum(each) * (x[0].size / each.size))

    def forward(params: Params, x: Array, condition: Array | None = None):
        del condition
        z = (x - params["shift"]) * jnp.exp(-params["log_scale"])
        return z, -total(params, x)

    def inverse(params: Params, z: Array, condition: Array | None = None):
        del condition
        x = z * jnp.exp(params["log_scale"]) + params["shift"]
        return x, total(params, z)

    return Bijection(init, forward, inverse)


def actnorm() -> Bijection:
    """A scale and a shift for each channel, such that the first batch has mean 0, variance 1.

    Kingma & Dhariwal 2018, section 3.1.
    """

    def start(x: Array) -> tuple[Array, Array]:
        axes = tuple(range(x.ndim - 1))
        return jnp.mean(x, axes), jnp.log(jnp.maximum(jnp.std(x, axes), 1e-3))

    return _elementwise(start)


def standardise() -> Bijection:
    """As `actnorm`, for each number of an example and not for each channel."""
    return _elementwise(
        lambda x: (jnp.mean(x, 0), jnp.log(jnp.maximum(jnp.std(x, 0), 1e-3))),
    )


def diagonal() -> Bijection:
    """A scale for each number, 1 at first: the last layer of NICE (Dinh et al. 2015, eq. 8)."""
    return _elementwise(lambda x: (jnp.zeros(x.shape[1:]), jnp.zeros(x.shape[1:])))


def linear(seed: int = 0) -> Bijection:
    """z = W x on the last axis, W = P L (U + diag s): the 1x1 convolution of Glow.

    W starts as a rotation drawn by `seed`; P stays as it is, L, U and s are learnt (Kingma &
    Dhariwal 2018, equations 10 and 11).
    """

    def init(key: Key, x: Array, condition: Array | None = None) -> Params:
        del key, condition
        _, lower, upper, diagonal = _rotation(seed, x.shape[-1])
        return {
            "lower": jnp.asarray(lower),
            "upper": jnp.asarray(upper),
            "log_scale": jnp.log(jnp.abs(diagonal)),
        }

    def factors(params: Params) -> tuple[Array, Array]:
        size = params["log_scale"].size
        _, _, _, diagonal = _rotation(seed, size)
        lower = jnp.tril(params["lower"], -1) + jnp.eye(size)
        scale = jnp.sign(diagonal) * jnp.exp(params["log_scale"])
        return lower, jnp.triu(params["upper"], 1) + jnp.diag(scale)

    def total(params: Params, x: Array) -> Array:
        places = x[0].size // x.shape[-1]
        return _alike(x, places * jnp.sum(params["log_scale"]))

    def forward(params: Params, x: Array, condition: Array | None = None):
        del condition
        lower, upper = factors(params)
        order = _rotation(seed, x.shape[-1])[0]
        return x @ (order @ lower @ upper).T, total(params, x)

    def inverse(params: Params, z: Array, condition: Array | None = None):
        del condition
        lower, upper = factors(params)
        order = _rotation(seed, z.shape[-1])[0]
        flat = z.reshape(-1, z.shape[-1]) @ order
        x = solve_triangular(lower, flat.T, lower=True, unit_diagonal=True)
        return solve_triangular(upper, x).T.reshape(z.shape), -total(params, z)

    return Bijection(init, forward, inverse)


@functools.cache
def _rotation(seed: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """P, L, U and diag s of a random rotation, as float32."""
    import scipy.linalg

    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))
    order, lower, upper = scipy.linalg.lu(rotation)
    parts = (order, np.tril(lower, -1), np.triu(upper, 1), np.diag(upper))
    return tuple(np.asarray(part, np.float32) for part in parts)  # type: ignore[return-value]


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
        a, b = _halves(x)
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
            return together(kept, moved), _sum(log_rate)

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
        return z, _sum(log_rate)

    def inverse(params: Params, z: Array, condition: Array | None = None):
        def once(i: Array, x: Array) -> Array:
            # After pass i the first i + 1 numbers are right, and those after it do not matter.
            return transformer.inverse(parameters(params, x, condition), z)[0]

        x = jax.lax.fori_loop(0, z.shape[-1], once, jnp.zeros_like(z))
        _, log_rate = transformer.forward(parameters(params, x, condition), x)
        return x, -_sum(log_rate)

    return Bijection(init, forward, inverse)
