"""Strings of symbols drawn by a rule: strings:NAME:V, of V symbols 0 .. V - 1. Floor 4."""

from __future__ import annotations

import functools
import string
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from genjax_zoo.contract import Array, ConfigError, Key, categorical
from genjax_zoo.data.source import Source
from genjax_zoo.typed import choose


def sticky(key: Key, shape: tuple[int, int], symbols: int) -> Array:
    """Each symbol is the one before it with probability 1/2, and otherwise a uniform one.

    The conditional entropy is that of (1/2 + 1/(2V), 1/(2V), ..., 1/(2V)).
    """
    key_again, key_new = jax.random.split(key)
    again = jax.random.bernoulli(key_again, 0.5, shape).at[:, 0].set(False)
    new = jax.random.randint(key_new, shape, 0, symbols)
    # A symbol is the last one that was new.
    place = jax.lax.cummax(jnp.where(again, 0, jnp.arange(shape[1])), axis=1)
    return jnp.take_along_axis(new, place, axis=1)


STRINGS: dict[str, Callable[[Key, tuple[int, int], int], Array]] = {
    "uniform": lambda key, shape, symbols: jax.random.randint(key, shape, 0, symbols),
    "sticky": sticky,
}
"""(key, (strings, length), V) -> x [strings, length] int32."""

LETTERS = string.ascii_lowercase
HELD_OUT = 2000


def opened(name: str, length: int, batch_size: int) -> Source:
    """Strings drawn inside the step; `name` is that of their rule and V, such as uniform:3."""
    rule, _, size = name.partition(":")
    if not size.isdecimal() or not 2 <= int(size) <= len(LETTERS):
        raise ConfigError(
            f"strings:{name} should say how many symbols there are, 2 to {len(LETTERS)}, such as "
            "strings:uniform:3."
        )
    symbols = int(size)
    drawn_by = choose(rule, STRINGS, "rule for strings")
    draw = lambda key, n: drawn_by(key, (n, length), symbols)

    @functools.cache
    def held() -> np.ndarray:
        # The same for every run and seed, like any other test set; apart from every step's key.
        return np.asarray(draw(jax.random.key(2**31 - 1), HELD_OUT))

    return Source(
        resident=(),
        feed=lambda step, rows: np.broadcast_to(np.int8(0), (batch_size,))[rows],
        batch=lambda key, resident, feed: {"x": draw(key, feed.shape[0])},
        held_out=lambda key, first, last: {"x": jnp.asarray(held()[first:last])},
        held_out_split="held-out draws",
        held_out_size=HELD_OUT,
        size=None,
        preprocessing=f"strings:{rule}, {length} of {symbols} symbols, as drawn",
        spaces={"x": categorical(symbols)},
        symbols={"x": tuple(LETTERS[:symbols])},
    )
