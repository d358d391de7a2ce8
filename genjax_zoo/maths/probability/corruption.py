"""Corruption processes C(x~ | x): what a denoising auto-encoder learns to undo.

Floor 1. Each is a pure function of (key, x) that forgets part of every number of x on its own
(Vincent, Larochelle, Lajoie, Bengio & Manzagol, Stacked denoising autoencoders, 2010, section 3.3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from genjax_zoo.contract import Array, ConfigError, Key
from genjax_zoo.typed import choose

Corruption = Callable[[Key, Array], Array]
"""(key, x [...]) -> x~ [...], of the same shape and dtype."""


def none() -> Corruption:
    """x~ = x."""
    return lambda key, x: x


def gaussian(std: float) -> Corruption:
    """x~ = x + σ ε,  ε ~ N(0, I)."""
    return lambda key, x: x + std * jax.random.normal(key, x.shape, x.dtype)


def masking(probability: float) -> Corruption:
    """Each number becomes 0 with this probability, and stays otherwise."""

    def corrupt(key: Key, x: Array) -> Array:
        return jnp.where(jax.random.bernoulli(key, probability, x.shape), 0, x)

    return corrupt


def salt_and_pepper(probability: float) -> Corruption:
    """Each number becomes 0 or 1, either as often, with this probability in all."""

    def corrupt(key: Key, x: Array) -> Array:
        u = jax.random.uniform(key, x.shape)
        return jnp.where(u < probability / 2, 0, jnp.where(u < probability, 1, x)).astype(x.dtype)

    return corrupt


CORRUPTIONS: Mapping[str, Callable[[float], Corruption]] = {
    "none": lambda amount: none(),
    "gaussian": gaussian,
    "masking": masking,
    "salt_and_pepper": salt_and_pepper,
}
"""From the amount of noise, a standard deviation or a probability, to the process, by name."""


def make(name: str, amount: float) -> Corruption:
    """The process of that name.

    Raises:
      ConfigError: for an unknown name, a negative standard deviation, no probability.
    """
    process = choose(name, CORRUPTIONS, "corruption")
    if amount < 0 or (name in ("masking", "salt_and_pepper") and amount > 1):
        what = "a standard deviation, at least 0" if name == "gaussian" else "a probability"
        raise ConfigError(f"corruption: the noise of {name} is {what}, got {amount}.")
    return process(amount)
