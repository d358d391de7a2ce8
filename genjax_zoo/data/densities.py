"""Densities on the plane and small tables, drawn by formula: no file, no network, no end.

Floor 4. Each has the geometry of the paper that made it known, so that numbers can be compared.
Where there is a closed form the log-density and the entropy H = -E[log p(x)] come along: H is the
floor of every test negative log-likelihood.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from genjax_zoo.contract import BINARY, COUNTS, REAL, Array, ConfigError, Key, Space
from genjax_zoo.typed import choose


class Density(NamedTuple):
    """A distribution whose draws are [n, ...] float32: points of the plane unless it says so.

    Attributes:
      sample: (key, n) -> [n, ...]; [n, 2] on the plane.
      log_prob: [B, ...] -> [B] nats (on the plane per unit of area); None where there is no closed
        form.
      entropy: -E[log p(x)] in nats, or None where it is not known.
      centres: [K, 2], the means of an equally weighted mixture of isotropic Gaussians; None for
        anything else.
      sigma: the standard deviation of each of them; None for anything else.
      space: what the numbers of a draw are.
      columns: what they are called, in their order; empty where they have no names.
    """

    sample: Callable[[Key, int], Array]
    log_prob: Callable[[Array], Array] | None = None
    entropy: float | None = None
    centres: np.ndarray | None = None
    sigma: float | None = None
    space: Space = REAL
    columns: tuple[str, ...] = ()


def gaussians(centres: np.ndarray, sigma: float) -> Density:
    """p(x) = 1/K Σ_k N(x; μ_k, σ² I), whether its modes lie apart, overlap or coincide.

    Args:
      centres: μ [K, 2].
      sigma: σ.

    Raises ConfigError for centres of another shape, or a σ that is not positive.
    """
    means, K = np.asarray(centres, np.float32), len(centres)
    if means.ndim != 2 or means.shape[1] != 2 or not K or not np.isfinite(means).all():
        raise ConfigError(f"expected finite centres [K, 2] of a mixture, got {means.shape}.")
    if not 0 < sigma < math.inf:
        raise ConfigError(f"sigma of a mixture should be positive, got {sigma}.")

    def sample(key: Key, n: int) -> Array:
        key_mode, key_noise = jax.random.split(key)
        k = jax.random.randint(key_mode, (n,), 0, K)
        return jnp.asarray(means)[k] + sigma * jax.random.normal(key_noise, (n, 2))

    def log_prob(x: Array) -> Array:
        # log p(x) = log Σ_k exp(-‖x - μ_k‖² / 2σ²) - log K - log(2π σ²)
        squared = jnp.sum((x[:, None, :] - means) ** 2, -1)
        constant = math.log(K) + math.log(2 * math.pi * sigma**2)
        return logsumexp(-squared / (2 * sigma**2), axis=1) - constant

    # H of modes that lie apart: log K + log(2πe σ²), of the mode and of the place within it.
    apart = math.log(K) + math.log(2 * math.pi * math.e * sigma**2)
    return Density(sample, log_prob, apart - _shared(means / sigma), means, sigma)


def _shared(centres: np.ndarray, reach: float = 8.0, step: float = 0.2) -> float:
    """What modes that overlap take from the entropy of modes that lie apart, in nats.

        1/K Σ_k E_{ε ~ N(0, I)}[log Σ_j exp(-(‖ε + μ_k - μ_j‖² - ‖ε‖²) / 2)]

    By the trapezoid rule, which is exact to rounding for what is so smooth (1e-14 nats, of modes
    any distance apart).

    Args:
      centres: μ / σ [K, 2].
      reach: of the integral, in σ.
      step: h.
    """
    line = np.arange(-reach, reach + step / 2, step)
    weight = np.exp(-(line**2) / 2) * step / math.sqrt(2 * math.pi)
    shared = 0.0
    for centre in np.asarray(centres, np.float64):
        away = centre - centres
        # A mode farther off than twice the reach weighs less than 1e-15 anywhere within it.
        away = away[(away**2).sum(1) < (2 * reach) ** 2]
        if len(away) > 1:
            # ‖ε + d‖² - ‖ε‖² = 2 εᵀd + ‖d‖²
            across = [np.multiply.outer(line, d) + d**2 / 2 for d in away.T]
            far = across[0][:, None] + across[1][None, :]
            near = np.log(np.exp(-far).sum(-1))
            shared += float(weight @ near @ weight)
    return shared / len(centres)


def on_circle(modes: int, radius: float) -> np.ndarray:
    """`modes` points [modes, 2], evenly spaced on the circle of that radius about the origin."""
    angle = 2 * np.pi * np.arange(modes) / modes
    return radius * np.stack([np.cos(angle), np.sin(angle)], -1)


def on_grid(side: int, step: float) -> np.ndarray:
    """side² points [side², 2] of a square grid about the origin."""
    line = step * (np.arange(side) - (side - 1) / 2)
    return np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)


def _checkerboard() -> Density:
    """Uniform on the eight 2 x 2 squares of one colour of the board [-4, 4]²."""

    def sample(key: Key, n: int) -> Array:
        key_square, key_place = jax.random.split(key)
        square = jax.random.randint(key_square, (n,), 0, 8)
        column, row = square % 4, square // 4
        # Columns -2 .. 1; in an odd column the coloured squares sit one higher.
        corner = jnp.stack([column - 2, 2 * row - 2 + column % 2], -1)
        return 2 * (corner + jax.random.uniform(key_place, (n, 2)))

    def log_prob(x: Array) -> Array:
        column, row = jnp.floor(x / 2).astype(jnp.int32).T
        coloured = (column + row) % 2 == 0
        inside = jnp.all(jnp.abs(x) < 4, axis=-1)
        return jnp.where(coloured & inside, -math.log(32), -jnp.inf)

    return Density(sample, log_prob, entropy=math.log(32))


def _two_moons(noise: float = 0.1) -> Density:
    """Two half circles, hooked into each other, doubled in size and moved to the middle."""

    def sample(key: Key, n: int) -> Array:
        key_moon, key_angle, key_noise = jax.random.split(key, 3)
        lower = jax.random.bernoulli(key_moon, 0.5, (n,))
        angle = jax.random.uniform(key_angle, (n,), maxval=jnp.pi)
        x = jnp.where(lower, 1 - jnp.cos(angle), jnp.cos(angle))
        y = jnp.where(lower, 0.5 - jnp.sin(angle), jnp.sin(angle))
        moons = jnp.stack([x, y], -1) + noise * jax.random.normal(key_noise, (n, 2))
        return 2 * moons + jnp.array([-1.0, -0.2])

    return Density(sample)


def _spiral(turns: float = 1.5, jitter: float = 0.5, noise: float = 0.1) -> Density:
    """Two arms, one the other turned by half a circle, evenly filled along the angle's square."""

    def sample(key: Key, n: int) -> Array:
        key_arm, key_angle, key_jitter, key_noise = jax.random.split(key, 4)
        angle = 2 * jnp.pi * turns * jnp.sqrt(jax.random.uniform(key_angle, (n,)))
        arm = angle[:, None] * jnp.stack([-jnp.cos(angle), jnp.sin(angle)], -1)
        arm += jitter * jax.random.uniform(key_jitter, (n, 2))
        sign = jnp.where(jax.random.bernoulli(key_arm, 0.5, (n, 1)), 1.0, -1.0)
        return sign * arm / 3 + noise * jax.random.normal(key_noise, (n, 2))

    return Density(sample)


def _bars_and_stripes(side: int = 4) -> Density:
    """Binary images whose columns (bars) or rows (stripes) are all on or all off.

    MacKay, Information theory, inference and learning algorithms, 2003, section 43.3. Half of the
    images have bars; each line is on half of the time, so that all off and all on, which are both,
    come twice as often as any other image.
    """

    def sample(key: Key, n: int) -> Array:
        key_line, key_turn = jax.random.split(key)
        line = jax.random.bernoulli(key_line, 0.5, (n, 1, side)).astype(jnp.float32)
        bars = jnp.broadcast_to(line, (n, side, side))
        turned = jax.random.bernoulli(key_turn, 0.5, (n, 1, 1))
        return jnp.where(turned, bars.transpose(0, 2, 1), bars)[..., None]

    def log_prob(x: Array) -> Array:
        x = x[..., 0]
        binary = jnp.all((x == 0) | (x == 1), (1, 2))
        bars = binary & jnp.all(x == x[:, :1], (1, 2))
        stripes = binary & jnp.all(x == x[:, :, :1], (1, 2))
        # log 2^-(side + 1), once for each way to make the image
        ways = bars.astype(jnp.float32) + stripes
        return jnp.log(ways) - (side + 1) * math.log(2)

    # All but two of the 2^(side + 1) ways make an image of their own; four of them make two.
    entropy = math.log(2) * (side + 1 - 4 / 2 ** (side + 1))
    return Density(sample, log_prob, entropy, space=BINARY)


def table(p: np.ndarray, columns: Sequence[str] = ()) -> Density:
    """A distribution over a few discrete variables, given whole: p [K_1, ..., K_V], draws [n, V].

    A draw holds the value of variable i, 0 .. K_i - 1, in column i.
    """
    joint = np.asarray(p, np.float64)
    with np.errstate(divide="ignore"):
        log_p = np.log(joint).astype(np.float32)

    def sample(key: Key, n: int) -> Array:
        place = jax.random.categorical(key, jnp.asarray(log_p).ravel(), shape=(n,))
        return jnp.stack(jnp.unravel_index(place, joint.shape), -1).astype(jnp.float32)

    def log_prob(x: Array) -> Array:
        index = x.astype(jnp.int32)
        inside = jnp.all((x == index) & (x >= 0) & (x < jnp.array(joint.shape)), axis=-1)
        return jnp.where(inside, jnp.asarray(log_p)[tuple(index.T)], -jnp.inf)

    # H = -Σ p log p, over what can happen.
    can = joint[joint > 0]
    space = BINARY if max(joint.shape) <= 2 else COUNTS.of(max(joint.shape))
    entropy = float(-np.sum(can * np.log(can)))
    return Density(sample, log_prob, entropy, space=space, columns=tuple(columns))


def _lecture_net() -> Density:
    """P(A) P(B) P(C, D | A, B), all of them 0 or 1: columns A, B, C, D.

    C is mostly A xor B, and D mostly 1 where C and A are: neither is independent of the other once
    A and B are known.
    """
    a, b = np.array([0.7, 0.3]), np.array([0.4, 0.6])
    cd = np.array(
        [
            [[[0.80, 0.10], [0.08, 0.02]], [[0.05, 0.05], [0.60, 0.30]]],
            [[[0.10, 0.10], [0.15, 0.65]], [[0.25, 0.55], [0.05, 0.15]]],
        ]
    )
    return table(np.einsum("a,b,abcd->abcd", a, b, cd), "ABCD")


def _sprinkler() -> Density:
    """Cloudy, sprinkler, rain, wet grass: columns C, S, R, W, each 0 or 1.

    The example of Murphy, A brief introduction to graphical models and Bayesian networks, 1998:
    P(S=1 | W=1) = .430, P(R=1 | W=1) = .708, and rain explains the sprinkler away.
    """
    c = np.array([0.5, 0.5])
    s = np.array([[0.5, 0.5], [0.9, 0.1]])
    r = np.array([[0.8, 0.2], [0.2, 0.8]])
    w = np.array([[[1.0, 0.0], [0.1, 0.9]], [[0.1, 0.9], [0.01, 0.99]]])
    return table(np.einsum("c,cs,cr,srw->csrw", c, s, r, w), "CSRW")


DENSITIES: dict[str, Density] = {
    # Lin et al. 2018 (PacGAN), section 4.1. The ring is also the eight Gaussians of Mescheder et
    # al. 2017 (consensus optimization).
    "ring": gaussians(on_circle(8, radius=1.0), sigma=0.01),
    "grid": gaussians(on_grid(5, step=2.0), sigma=0.05),
    # Grathwohl et al. 2019 (FFJORD), the authors' toy data. The eight overlap a little.
    "eight_gaussians": gaussians(on_circle(8, radius=4 / 1.414), 0.5 / 1.414),
    "checkerboard": _checkerboard(),
    "two_moons": _two_moons(),
    "spiral": _spiral(),
    "bars_and_stripes": _bars_and_stripes(),
    # Bayes nets, known whole.
    "lecture_net": _lecture_net(),
    "sprinkler": _sprinkler(),
}


def make(name: str) -> Density:
    """The density of that name; raises ConfigError, naming the nearest and listing all."""
    return choose(name, DENSITIES, "density")
