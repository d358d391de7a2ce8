"""Bijections with log-determinants, and how they compose: what a flow is made of.

Floor 1. A density p(z) seen through an invertible z = f(x) is

    log p(x) = log p(f(x)) + log |det ∂f/∂x|

A `Bijection` is a pair of pure functions and the start of what they share. Every one keeps the
shape of its input, [B, ..., C]; all act on the last axis, so that vectors and images are one case.

    flow = chain(standardise(), linear(), couplings.coupling(net, couplings.affine()))
    params = flow.init(key, x)
    z, log_det = flow.forward(params, x)

Those whose parameters a network gives are in couplings.py. Sources: NICE (Dinh, Krueger & Bengio
2015, arXiv:1410.8516), RealNVP (Dinh, Sohl-Dickstein & Bengio 2017, arXiv:1605.08803), Glow (Kingma
& Dhariwal 2018, arXiv:1807.03039).
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

from genjax_zoo.contract import Array, ConfigError, Key
from genjax_zoo.maths.probability.distributions import flat

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


def sum_each(x: Array) -> Array:
    """[B, ...] -> [B]."""
    return jnp.sum(flat(x), -1)


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
        return bijection.init(key, halves(x)[1], condition)

    def apply(fn: Callable[..., tuple[Array, Array]]) -> Callable[..., tuple[Array, Array]]:
        def on_the_rest(params: Params, x: Array, condition: Array | None = None):
            done, going = halves(x)
            going, log_det = fn(params, going, condition)
            return jnp.concatenate([done, going], -1), log_det

        return on_the_rest

    return Bijection(init, apply(bijection.forward), apply(bijection.inverse))


def halves(x: Array) -> tuple[Array, Array]:
    """The first half of the channels, the larger one, and the last."""
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
        return z, sum_each(rate(z))

    def inverse(z: Array) -> tuple[Array, Array]:
        return (jax.nn.sigmoid(z) - alpha) / (1 - 2 * alpha), -sum_each(rate(z))

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
