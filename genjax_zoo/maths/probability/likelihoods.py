"""p(x | f): what a decoder network's outputs f say of x. One row a likelihood.

    bernoulli              x_d in {0, 1}           Bernoulli(x_d; σ(f_d))
    gaussian               x_d real                N(x_d; μ_d, σ_d²)
    logit_laplace          x_d in [0, 1]           Laplace(logit x_d; μ_d, b_d), squeezed (DALL-E)
    discretised_logistic   x_d one of K levels     a logistic, rounded (PixelCNN++)
    categorical            x_d one of K levels     softmax(f_d1, ..., f_dK)

Floor 1. The dimensions of x are independent given f, which has n outputs for each of them, one
after another: where x is [B, ..., C], f is [B, ..., C n], and may have further axes before B. The
last two speak of grey levels themselves, {0, 1, ..., K - 1} / (K - 1): their nats are those of a
probability, and have bits per dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from genjax_zoo.contract import BINARY, MEAN, REAL, UNIT, Array, Batch, ConfigError, Key, Space
from genjax_zoo.maths.probability import distributions
from genjax_zoo.typed import choose

Name = Literal["bernoulli", "gaussian", "logit_laplace", "discretised_logistic", "categorical"]
Mean = Literal["linear", "sigmoid"]
Variance = Literal["fixed", "scalar", "diagonal", "network"]

FLOOR = -7.0
"""The least log σ, log b or log s that a network can give. Where a pixel never changes the
likelihood of a density has no maximum; PixelCNN++ stops at the same number."""

Shape = tuple[int, ...]
LogScale = Array | None
"""log σ or log b, learnt beside the network: [], or one for each dimension, shaped like an x; None
where there is none."""


class Likelihood(NamedTuple):
    """p(x | f).

    Attributes:
      outputs: n, the numbers that a network gives for each dimension of x.
      init: shape of one x -> the log scale that is learnt beside the network, or None.
      of_flat: (log_scale, f [..., B, D n], x [B, D]) -> log p(x | f) [..., B] nats, for x within
        the support.
      mean: (log_scale, f [B, ..., C n]) -> the x [B, ..., C] to show: E[x | f], or a median.
      draw: (key, log_scale, f) -> x ~ p(x | f), likewise.
      space: where x has a probability or density at all, which a run refuses other data by.
      levels: K of a probability of grey levels, 0 for any other.
    """

    outputs: int
    init: Callable[[Shape], LogScale]
    of_flat: Callable[[LogScale, Array, Array], Array]
    mean: Callable[[LogScale, Array], Array]
    draw: Callable[[Key, LogScale, Array], Array]
    space: Space
    levels: int = 0

    def shape(self, shape: Shape) -> Shape:
        """The shape of f for one x of this shape: its last axis n times as long."""
        *rest, last = shape
        return (*rest, last * self.outputs)

    def nats(self, log_scale: LogScale, f: Array, x: Array) -> Array:
        """log p(x | f) in nats, for x within the support.

        Args:
          log_scale: what `init` began.
          f: [..., B, *shape], its shape that of `shape`.
          x: [B, ...].

        Returns:
          [..., B].
        """
        lead = f.shape[: f.ndim - x.ndim + 1]
        log_scale = jax.tree.map(jnp.ravel, log_scale)
        return self.of_flat(log_scale, f.reshape(*lead, -1), distributions.flat(x))

    def inside(self, x: Array) -> Array:
        """Whether x [B, D] lies in the support: bool [B]."""
        return jnp.all(self.space.has(x), axis=-1)

    def log_prob(self, log_scale: LogScale, f: Array, x: Array) -> Array:
        """The same for any x: -inf where it lies outside the support."""
        return jnp.where(self.inside(distributions.flat(x)), self.nats(log_scale, f, x), -jnp.inf)

    def sample(self, key: Key, log_scale: LogScale, f: Array, means: bool) -> Batch:
        """{"x": draws from p(x | f) [B, ...]}, and if wanted their means beside them."""
        x = {"x": self.draw(key, log_scale, f)}
        return {**x, MEAN: self.mean(log_scale, f)} if means else x


def make(
    name: Name,
    mean: Mean = "linear",
    variance: Variance = "scalar",
    noise_std: float = 1.0,
    levels: int = 256,
) -> Likelihood:
    """The likelihood of that name.

    Args:
      name: a row of the table above.
      mean: of a Gaussian: f itself, or for data in [0, 1] its sigmoid (Kingma & Welling 2014,
        section 5).
      variance: σ of a Gaussian, or b of a logit-Laplace, stays as it is ("fixed"), is learnt, one
        for all dimensions ("scalar") or one for each ("diagonal"), or is given for each x by
        the network ("network").
      noise_std: σ at the start (gaussian, discretised_logistic), in units of x, or b.
      levels: K (discretised_logistic, categorical): 256 for 8 bits.

    Raises ConfigError for another name, and for values out of range.
    """
    if noise_std <= 0:
        raise ConfigError(f"noise_std should be positive, got {noise_std}.")
    if levels < 2:
        raise ConfigError(f"levels should be at least 2, got {levels}.")
    rows: Mapping[str, Callable[[], Likelihood]] = {
        "bernoulli": bernoulli,
        "gaussian": lambda: gaussian(mean, variance, noise_std),
        "logit_laplace": lambda: logit_laplace(variance, noise_std),
        "discretised_logistic": lambda: discretised_logistic(levels, noise_std),
        "categorical": lambda: categorical(levels),
    }
    return choose(name, rows, "decoder")()


def bernoulli() -> Likelihood:
    """Black or white, f the logits; grey values have probability 0."""
    return Likelihood(
        outputs=1,
        init=lambda shape: None,
        of_flat=lambda log_scale, f, x: distributions.bernoulli(x, f),
        mean=lambda log_scale, f: jax.nn.sigmoid(f),
        draw=lambda key, log_scale, f: jax.random.bernoulli(key, jax.nn.sigmoid(f)).astype(f.dtype),
        space=BINARY,
    )


def gaussian(mean: Mean, variance: Variance, noise_std: float) -> Likelihood:
    """Real numbers, f their means, and with variance "network" their log σ too."""
    outputs, init, split = _location_and_scale(variance, noise_std)

    def moments(log_scale: LogScale, f: Array) -> tuple[Array, Array | float]:
        """μ, log σ."""
        mu, log_std = split(log_scale, f)
        return (jax.nn.sigmoid(mu) if mean == "sigmoid" else mu), log_std

    def draw(key: Key, log_scale: LogScale, f: Array) -> Array:
        mu, log_std = moments(log_scale, f)
        return mu + jnp.exp(log_std) * jax.random.normal(key, mu.shape)

    return Likelihood(
        outputs=outputs,
        init=init,
        of_flat=lambda log_scale, f, x: distributions.gaussian(x, *moments(log_scale, f)),
        mean=lambda log_scale, f: moments(log_scale, f)[0],
        draw=draw,
        space=REAL,
    )


def logit_laplace(variance: Variance, scale: float) -> Likelihood:
    """Numbers in [0, 1], f the location of their logits, and with variance "network" log b too.

    What is shown is the median, as in Ramesh et al. 2021; draws beyond [0, 1] are cut off there.
    """
    outputs, init, split = _location_and_scale(variance, scale)

    def back(logit: Array) -> Array:
        margin = distributions.MARGIN
        return jnp.clip((jax.nn.sigmoid(logit) - margin) / (1 - 2 * margin), 0, 1)

    def draw(key: Key, log_scale: LogScale, f: Array) -> Array:
        mu, log_b = split(log_scale, f)
        return back(mu + jnp.exp(log_b) * jax.random.laplace(key, mu.shape))

    return Likelihood(
        outputs=outputs,
        init=init,
        of_flat=lambda log_scale, f, x: distributions.logit_laplace(x, *split(log_scale, f)),
        mean=lambda log_scale, f: back(split(log_scale, f)[0]),
        draw=draw,
        space=UNIT,
    )


def discretised_logistic(levels: int, noise_std: float) -> Likelihood:
    """Grey levels in their order, f the location μ and the log scale of a logistic.

    At f = 0 it is centred on mid-grey, with standard deviation `noise_std` before it is rounded.
    """
    # The variance of a logistic is π² s² / 3.
    start = math.log(noise_std * math.sqrt(3) / math.pi)

    def parts(f: Array) -> tuple[Array, Array]:
        mu, log_scale = _split(f, 2)
        return mu + 0.5, jnp.maximum(log_scale + start, FLOOR)

    def mean(log_scale: LogScale, f: Array) -> Array:
        # E[x] = 1 / (K - 1) Σ_{k=1}^{K-1} P(x >= k / (K - 1))
        mu, log_s = parts(f)
        rate = jnp.exp(-log_s)
        above = lambda k: jax.nn.sigmoid((mu - (k - 0.5) / (levels - 1)) * rate)
        total = jax.lax.fori_loop(1, levels, lambda k, s: s + above(k), jnp.zeros_like(mu))
        return total / (levels - 1)

    def draw(key: Key, log_scale: LogScale, f: Array) -> Array:
        mu, log_s = parts(f)
        y = mu + jnp.exp(log_s) * jax.random.logistic(key, mu.shape)
        return jnp.round(jnp.clip(y, 0, 1) * (levels - 1)) / (levels - 1)

    return Likelihood(
        outputs=2,
        init=lambda shape: None,
        of_flat=lambda log_scale, f, x: distributions.discretised_logistic(x, *parts(f), levels),
        mean=mean,
        draw=draw,
        space=UNIT.of(levels),
        levels=levels,
    )


def categorical(levels: int) -> Likelihood:
    """Grey levels without an order, f their logits."""
    logits = lambda f: f.reshape(*f.shape[:-1], -1, levels)
    grey = jnp.arange(levels, dtype=jnp.float32) / (levels - 1)
    return Likelihood(
        outputs=levels,
        init=lambda shape: None,
        of_flat=lambda log_scale, f, x: distributions.categorical(x, logits(f)),
        mean=lambda log_scale, f: jax.nn.softmax(logits(f)) @ grey,
        draw=lambda key, log_scale, f: grey[jax.random.categorical(key, logits(f))],
        space=UNIT.of(levels),
        levels=levels,
    )


def _location_and_scale(variance: Variance, scale: float):
    """(n, init, split) of a likelihood with a location and a scale, which begins at `scale`.

    `split` is (log_scale, f [..., D n]) -> location [..., D], log scale.
    """
    start = math.log(scale)

    def init(shape: Shape) -> LogScale:
        shapes: Mapping[str, Shape] = {"scalar": (), "diagonal": shape}
        return jnp.full(shapes[variance], start, jnp.float32) if variance in shapes else None

    def split(log_scale: LogScale, f: Array) -> tuple[Array, Array | float]:
        if variance != "network":
            return f, start if log_scale is None else log_scale
        location, own = _split(f, 2)
        return location, jnp.maximum(own + start, FLOOR)

    return (2 if variance == "network" else 1), init, split


def _split(f: Array, n: int) -> list[Array]:
    """f [..., D n] -> n of [..., D]."""
    pieces = f.reshape(*f.shape[:-1], -1, n)
    return [pieces[..., i] for i in range(n)]
