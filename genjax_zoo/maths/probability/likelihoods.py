"""p(x | f): what a decoder network's outputs f say of x. One row a likelihood.

    bernoulli              x_d in {0, 1}           Bernoulli(x_d; σ(f_d))
    gaussian               x_d real                N(x_d; μ_d, σ_d²)
    discretised_logistic   x_d one of K levels     a logistic, rounded (PixelCNN++)
    categorical            x_d one of K levels     softmax(f_d1, ..., f_dK)

Floor 1. The dimensions of x are independent given f; x is flat, [B, D], and f is [..., B, D n] with
n outputs for each dimension of x, one after another. The last two speak of grey levels themselves,
{0, 1, ..., K - 1} / (K - 1): their nats are those of a probability, and have bits per dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from genjax_zoo.contract import BINARY, REAL, UNIT, Array, ConfigError, Key, Space
from genjax_zoo.maths.probability import distributions
from genjax_zoo.typed import choose

Name = Literal["bernoulli", "gaussian", "discretised_logistic", "categorical"]
Mean = Literal["linear", "sigmoid"]
Variance = Literal["fixed", "scalar", "diagonal", "network"]

FLOOR = -7.0
"""The least log σ or log s that a network can say. Where a pixel never changes the likelihood of
a density has no maximum; PixelCNN++ stops at the same number."""


class Decoder(NamedTuple):
    """A likelihood.

    Attributes:
      outputs: n, the numbers that a network gives for each dimension of x.
      init: D -> what is learnt beside the network (a log σ [] or [D]), or None.
      log_prob: (own, f [..., B, D n], x [B, D]) -> [..., B] nats.
      mean: (own, f) -> E[x | f], [..., B, D].
      draw: (key, own, f) -> x ~ p(x | f), [..., B, D].
      inside: x [B, D] -> bool [B], whether x has a probability or density at all.
      space: the same, for a run to refuse data by.
      levels: K of a probability of grey levels, 0 for any other.
    """

    outputs: int
    init: Callable[[int], Any]
    log_prob: Callable[[Any, Array, Array], Array]
    mean: Callable[[Any, Array], Array]
    draw: Callable[[Key, Any, Array], Array]
    inside: Callable[[Array], Array]
    space: Space
    levels: int = 0

    def supported(self, x: Array, nats: Array) -> Array:
        """`nats` [B], and -inf where x [B, D] lies outside the support."""
        return jnp.where(self.inside(x), nats, -jnp.inf)

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of f for one x of this shape: its last axis n times as long."""
        *rest, last = shape
        return (*rest, last * self.outputs)


def make(
    name: Name,
    mean: Mean = "linear",
    variance: Variance = "scalar",
    noise_std: float = 1.0,
    levels: int = 256,
) -> Decoder:
    """The likelihood of that name.

    Args:
      name: a row of `DECODERS`.
      mean: of a Gaussian: f itself, or for data in [0, 1] its sigmoid.
      variance: of a Gaussian: σ² stays as it is ("fixed"), is learnt, one for all dimensions
        ("scalar") or one for each ("diagonal"), or is said of each x by the network ("network").
      noise_std: σ at the start (gaussian, discretised_logistic), in units of x.
      levels: K (discretised_logistic, categorical): 256 for 8 bits.

    Raises ConfigError for another name, and for values out of range.
    """
    if noise_std <= 0:
        raise ConfigError(f"noise_std should be positive, got {noise_std}.")
    if levels < 2:
        raise ConfigError(f"levels should be at least 2, got {levels}.")
    rows: Mapping[str, Callable[[], Decoder]] = {
        "bernoulli": bernoulli,
        "gaussian": lambda: gaussian(mean, variance, noise_std),
        "discretised_logistic": lambda: discretised_logistic(levels, noise_std),
        "categorical": lambda: categorical(levels),
    }
    return choose(name, rows, "decoder")()


def bernoulli() -> Decoder:
    """Black or white, f the logits; grey values have probability 0."""
    return Decoder(
        outputs=1,
        init=lambda size: None,
        log_prob=lambda own, f, x: distributions.bernoulli(x, f),
        mean=lambda own, f: jax.nn.sigmoid(f),
        draw=lambda key, own, f: jax.random.bernoulli(key, jax.nn.sigmoid(f)).astype(f.dtype),
        inside=distributions.is_binary,
        space=BINARY,
    )


def gaussian(mean: Mean, variance: Variance, noise_std: float) -> Decoder:
    """Real numbers, f their means, and with variance "network" their log σ too."""
    start = math.log(noise_std)

    def init(size: int) -> Array | None:
        sizes = {"scalar": (), "diagonal": (size,)}
        return jnp.full(sizes[variance], start, jnp.float32) if variance in sizes else None

    def moments(own: Any, f: Array) -> tuple[Array, Array | float]:
        """μ, log σ."""
        log_std: Array | float = start if own is None else own
        if variance == "network":
            f, log_std = _split(f, 2)
            log_std = jnp.maximum(log_std + start, FLOOR)
        return (jax.nn.sigmoid(f) if mean == "sigmoid" else f), log_std

    def draw(key: Key, own: Any, f: Array) -> Array:
        mu, log_std = moments(own, f)
        return mu + jnp.exp(log_std) * jax.random.normal(key, mu.shape)

    return Decoder(
        outputs=2 if variance == "network" else 1,
        init=init,
        log_prob=lambda own, f, x: distributions.gaussian(x, *moments(own, f)),
        mean=lambda own, f: moments(own, f)[0],
        draw=draw,
        inside=lambda x: jnp.ones(x.shape[:-1], bool),
        space=REAL,
    )


def discretised_logistic(levels: int, noise_std: float) -> Decoder:
    """Grey levels in their order, f the location μ and the log scale of a logistic.

    At f = 0 it is centred on mid-grey, with standard deviation `noise_std` before it is rounded.
    """
    # The variance of a logistic is π² s² / 3.
    start = math.log(noise_std * math.sqrt(3) / math.pi)

    def parts(f: Array) -> tuple[Array, Array]:
        mu, log_scale = _split(f, 2)
        return mu + 0.5, jnp.maximum(log_scale + start, FLOOR)

    def mean(own: Any, f: Array) -> Array:
        # E[x] = 1 / (K - 1) Σ_{k=1}^{K-1} P(x >= k / (K - 1))
        mu, log_scale = parts(f)
        rate = jnp.exp(-log_scale)
        above = lambda k: jax.nn.sigmoid((mu - (k - 0.5) / (levels - 1)) * rate)
        total = jax.lax.fori_loop(1, levels, lambda k, s: s + above(k), jnp.zeros_like(mu))
        return total / (levels - 1)

    def draw(key: Key, own: Any, f: Array) -> Array:
        mu, log_scale = parts(f)
        y = mu + jnp.exp(log_scale) * jax.random.logistic(key, mu.shape)
        return jnp.round(jnp.clip(y, 0, 1) * (levels - 1)) / (levels - 1)

    return Decoder(
        outputs=2,
        init=lambda size: None,
        log_prob=lambda own, f, x: distributions.discretised_logistic(x, *parts(f), levels),
        mean=mean,
        draw=draw,
        inside=lambda x: distributions.is_level(x, levels),
        space=UNIT,
        levels=levels,
    )


def categorical(levels: int) -> Decoder:
    """Grey levels without an order, f their logits."""
    logits = lambda f: f.reshape(*f.shape[:-1], -1, levels)
    grey = jnp.arange(levels, dtype=jnp.float32) / (levels - 1)
    return Decoder(
        outputs=levels,
        init=lambda size: None,
        log_prob=lambda own, f, x: distributions.categorical(x, logits(f)),
        mean=lambda own, f: jax.nn.softmax(logits(f)) @ grey,
        draw=lambda key, own, f: grey[jax.random.categorical(key, logits(f))],
        inside=lambda x: distributions.is_level(x, levels),
        space=UNIT,
        levels=levels,
    )


def _split(f: Array, n: int) -> list[Array]:
    """f [..., D n] -> n of [..., D]."""
    pieces = f.reshape(*f.shape[:-1], -1, n)
    return [pieces[..., i] for i in range(n)]
