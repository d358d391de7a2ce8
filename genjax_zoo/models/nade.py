"""NADE: the neural autoregressive distribution estimator, one hidden layer for each pixel.

    p(x) = Π_i p(x_i | x_<i),     p(x_i = 1 | x_<i) = sigmoid(b_i + V_i · h_i)
                                  h_i = sigmoid(a_i),     a_i = c + Σ_{j<i} W_j x_j

Larochelle & Murray 2011. As weights are shared, a_{i+1} = a_i + W_i x_i: all of it is O(D H).
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from genjax_zoo import typed
from genjax_zoo.contract import (
    BINARY,
    NOTHING,
    Array,
    Autoregression,
    Batch,
    ConfigError,
    Exactness,
    Key,
    Measure,
    Model,
)
from genjax_zoo.learn.state import TrainState, eval_params, of_params
from genjax_zoo.learn.verbs import descend
from genjax_zoo.maths.probability import distributions
from genjax_zoo.maths.probability.distributions import flat
from genjax_zoo.maths.probability.given import check_count, part_of, prompt, read_given
from genjax_zoo.typed import number

VERB = "descend"


@typed.config
class Config:
    """A NADE, for data that are exactly 0 or 1.

    Attributes:
      hidden: H, how many units each hidden layer has.
      order: which pixel comes first, second, ..., counted row by row from 0; empty for just so.
    """

    hidden: int = number(500, least=1)
    order: tuple[int, ...] = number((), least=0)


@struct.dataclass
class Params:
    """What a NADE learns. Pixel i is the i-th in the order in which they are written.

    Attributes:
      into: W [D, H], from pixel i into the hidden layers after it.
      out: V [D, H], from its hidden layer to pixel i.
      bias: b [D].
      hidden_bias: c [H], which is a_1.
      shape: of one example, without the batch; D is its product.
      order: Config.order.
    """

    into: Array
    out: Array
    bias: Array
    hidden_bias: Array
    shape: tuple[int, ...] = struct.field(pytree_node=False)
    order: tuple[int, ...] = struct.field(pytree_node=False)


def make(config: Config, tx: optax.GradientTransformation) -> Model:
    """A NADE that follows the gradient of its likelihood."""

    def init(key: Key, batch: Batch) -> tuple[Params, tuple[()]]:
        shape = tuple(batch["x"].shape[1:])
        D, H = math.prod(shape), config.hidden
        if config.order and sorted(config.order) != list(range(D)):
            raise ConfigError(f"order should hold 0 .. {D - 1}, each once, got {config.order}.")
        into, out = jax.random.normal(key, (2, D, H)) / jnp.array([D, H])[:, None, None] ** 0.5
        return Params(into, out, jnp.zeros(D), jnp.zeros(H), shape, config.order), ()

    def loss(key: Key, params: Params, memory: tuple[()], batch: Batch):
        return -jnp.mean(log_prob(key, params, batch)), (memory, {})

    return Model(
        *descend(init, loss, tx),
        sample=of_params(sample),
        log_prob=Measure(of_params(log_prob), Exactness.EXACT, density=True),
        spaces={"x": BINARY},
        autoregression=Autoregression(start, extend, longest=lambda s: eval_params(s).bias.size),
    )


def log_prob(key: Key, params: Params, batch: Batch) -> Array:
    """log p(x) in nats, [B], and -inf for an x that is not binary."""
    x = in_order(params, batch["x"])
    _, logits = read(jnp.tile(params.hidden_bias, (len(x), 1)), pixels(params), x)
    return jnp.where(distributions.is_binary(x), distributions.bernoulli(x, logits), -jnp.inf)


def sample(key: Key, params: Params, n: int, given: Batch = NOTHING) -> Batch:
    """Draws x_1, then x_2 given x_1, and so on: exact, and O(D H) for each of n.

    What is given of x is its beginning, in the model's order, and is 0 or 1.
    """
    D = params.bias.size
    told = read_given(given, part_of(BINARY, params.shape), n, "nade")
    begun = prompt(told, "nade", params.order)
    value, known = begun or (jnp.zeros((n, D)), jnp.zeros((n, D), bool))
    noise = jax.random.logistic(key, known.T.shape)

    def draw(a: Array, each: Any) -> tuple[Array, Array]:
        (W, V, b), noise, value, known = each
        # x_i = 1 where l_i exceeds a draw of the logistic distribution.
        x = jnp.where(known, value, logit(a, V, b) > noise)
        return a + x[:, None] * W, x

    a = jnp.tile(params.hidden_bias, (n, 1))
    _, x = jax.lax.scan(draw, a, (pixels(params), noise, value.T, known.T))
    x = x.T[:, np.argsort(params.order)] if params.order else x.T
    return {"x": x.reshape(n, *params.shape)}


def pixels(params: Params) -> tuple[Array, ...]:
    """A pixel is (W_i [H], V_i [H], b_i []), and several are those along a first axis: all."""
    return params.into, params.out, params.bias


def logit(a: Array, V: Array, b: Array) -> Array:
    """l_i [B] = b_i + V_i · sigmoid(a_i), a_i [B, H]."""
    return b + jax.nn.sigmoid(a) @ V


def read(a: Array, of: tuple[Array, ...], x: Array) -> tuple[Array, Array]:
    """From a_i [B, H] and S pixels x [B, S] to a_{i+S} and the logits [B, S] of each of them.

    Its gradient keeps a of each block's beginning alone, and computes those within a block once
    more: O(S H) of time, and memory of about 2 √S of [B, H] in the place of S.
    """
    S = x.shape[1]
    block = max(k for k in range(1, math.isqrt(S) + 1) if S % k == 0)

    def one(a: Array, each: Any) -> tuple[Array, Array]:
        (W, V, b), x = each
        # a_{i+1} = a_i + W_i x_i
        return a + x[:, None] * W, logit(a, V, b)

    several = jax.checkpoint(lambda a, each: jax.lax.scan(one, a, each))
    blocks = jax.tree.map(lambda leaf: leaf.reshape(-1, block, *leaf.shape[1:]), (of, x.T))
    a, logits = jax.lax.scan(several, a, blocks)
    return a, logits.reshape(S, -1).T


def in_order(params: Params, x: Array) -> Array:
    """Examples [B, ...] as pixels [B, D] in the order in which they are written."""
    return flat(x)[:, np.array(params.order)] if params.order else flat(x)


def start(state: TrainState, n: int, length: int, given: Batch = NOTHING) -> tuple[Array, Any]:
    """The logits [n, 2] of the first pixel, and the cache (a_1 [n, H], how many are read [n])."""
    read_given(given, {}, n, "nade")
    params = eval_params(state)
    check_count("length", length, "nade", params.bias.size)
    a, (_, V, b) = jnp.tile(params.hidden_bias, (n, 1)), pixels(params)
    return of_two(logit(a, V[0], b[0])), (a, jnp.zeros(n, jnp.int32))


def extend(state: TrainState, cache: Any, x: Array) -> tuple[Array, Any]:
    """Reads S pixels [n, S]; the logits [n, S, 2] of the one after each, which are 0 after all.

    A string's a is no history: none of it can be forgotten, for sums of floats are not undone.
    """
    of = pixels(eval_params(state))

    def one(cache: tuple[Array, Array], x: Array) -> tuple[tuple[Array, Array], Array]:
        (a, i), known = cache, x >= 0
        W, _, _ = _each(of, i)
        a, i = a + jnp.maximum(x, 0)[:, None] * W, i + known
        _, V, b = _each(of, i)
        return (a, i), b + jnp.sum(jax.nn.sigmoid(a) * V, axis=1)

    cache, logits = jax.lax.scan(one, cache, x.T)
    return of_two(logits.T), cache


def _each(of: tuple[Array, ...], i: Array) -> tuple[Array, ...]:
    """The pixels i [n] of all; 0 after the last one."""
    return tuple(leaf.at[i].get(mode="fill", fill_value=0) for leaf in of)


def of_two(logits: Array) -> Array:
    """log-odds of a 1 [...] as logits of 0 and 1 [..., 2]."""
    return jnp.stack([jnp.zeros_like(logits), logits], -1)
