"""Fully visible sigmoid belief network: each pixel a logistic regression on those before it.

    p(x) = Π_i p(x_i | x_1, ..., x_{i-1}),     p(x_i = 1 | ...) = sigmoid(b_i + Σ_{j<i} W_ij x_j)

Frey, Graphical models for machine learning and digital communication, 1998; earlier as Neal's
sigmoid belief network without hidden units (1992). Pixels go row by row.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from genjax_zoo import typed
from genjax_zoo.contract import (
    BINARY,
    NOTHING,
    Array,
    Autoregression,
    Batch,
    Exactness,
    Info,
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
    """A fully visible sigmoid belief network, for data that are exactly 0 or 1.

    Attributes:
      average: decay of the moving average of the parameters; 0 keeps none.
    """

    average: float = number(0.0, least=0, below=1)


@struct.dataclass
class Params:
    """What a fully visible sigmoid belief network learns.

    Attributes:
      weights: W [D, D]; only what lies strictly below the diagonal is ever used.
      bias: b [D].
      shape: of one example, without the batch; D is its product.
    """

    weights: Array
    bias: Array
    shape: tuple[int, ...] = struct.field(pytree_node=False)


class Cache(NamedTuple):
    """What has been read of n strings.

    Attributes:
      x: their pixels [n, D]; 0 where none has been read yet.
      read: how many of each [n] int32.
    """

    x: Array
    read: Array


def make(config: Config, tx: optax.GradientTransformation) -> Model:
    """A fully visible sigmoid belief network that follows the gradient of its likelihood."""

    def init(key: Key, batch: Batch) -> tuple[Params, tuple[()]]:
        """Independent fair pixels: the loss is convex, so that any start will do."""
        shape = tuple(batch["x"].shape[1:])
        size = math.prod(shape)
        return Params(jnp.zeros((size, size)), jnp.zeros(size), shape), ()

    def loss(key: Key, params: Params, memory: tuple[()], batch: Batch):
        info: Info = {}
        return -jnp.mean(log_prob(key, params, batch)), (memory, info)

    return Model(
        *descend(init, loss, tx, config.average),
        sample=of_params(sample),
        log_prob=Measure(of_params(log_prob), Exactness.EXACT, density=True),
        spaces={"x": BINARY},
        autoregression=Autoregression(
            *(start, extend, rewind), longest=lambda state: eval_params(state).bias.size
        ),
    )


def log_prob(key: Key, params: Params, batch: Batch) -> Array:
    """log p(x) in nats, [B], and -inf for an x that is not binary."""
    x = flat(batch["x"])
    # l_i = b_i + Σ_{j<i} W_ij x_j
    logits = params.bias + x @ jnp.tril(params.weights, -1).T
    nats = distributions.bernoulli(x, logits)
    return jnp.where(distributions.is_binary(x), nats, -jnp.inf)


def sample(key: Key, params: Params, n: int, given: Batch = NOTHING) -> Batch:
    """Draws x_1, then x_2 given x_1, and so on: exact, with one row of W for each pixel.

    What is given of x is its beginning, row by row, and is 0 or 1.
    """
    begun = prompt(read_given(given, part_of(BINARY, params.shape), n, "fvsbn"), "fvsbn")
    if begun is not None:
        value, known = (part.T for part in begun)
    size = params.bias.size
    # x_i = 1 where l_i exceeds a draw of the logistic distribution, drawn for all pixels at once.
    noise = jax.random.logistic(key, (size, n))

    def draw(i: Array, x: Array) -> Array:
        # Needs no mask: x_i and all after it are still 0.
        logits = params.bias[i] + params.weights[i] @ x
        drawn = (logits > noise[i]).astype(x.dtype)
        if begun is not None:
            drawn = jnp.where(jnp.asarray(known)[i], jnp.asarray(value)[i], drawn)
        return x.at[i].set(drawn)

    x = jax.lax.fori_loop(0, size, draw, jnp.zeros((size, n)))
    return {"x": x.T.reshape(n, *params.shape)}


def start(state: TrainState, n: int, length: int, given: Batch = NOTHING) -> tuple[Array, Cache]:
    """The logits [n, 2] of the first pixel, and a cache of n strings; contract.Start."""
    read_given(given, {}, n, "fvsbn")
    params = eval_params(state)
    check_count("length", length, "fvsbn", params.bias.size)
    cache = Cache(jnp.zeros((n, params.bias.size)), jnp.zeros(n, jnp.int32))
    return _of_two(jnp.broadcast_to(params.bias[0], (n,))), cache


def extend(state: TrainState, cache: Cache, x: Array) -> tuple[Array, Cache]:
    """Reads S pixels [n, S]; the logits [n, S, 2] of the one after each; contract.Extend.

    After the last pixel comes nothing: its logits are 0.
    """
    params, strings = eval_params(state), jnp.arange(len(x))
    row = lambda leaf, i: leaf.at[i].get(mode="fill", fill_value=0)

    def one(cache: Cache, x: Array) -> tuple[Cache, Array]:
        at = jnp.where(x < 0, params.bias.size, cache.read)
        known = cache.x.at[strings, at].set(jnp.asarray(x, jnp.float32), mode="drop")
        i = cache.read + (x >= 0)
        # l_i = b_i + Σ_{j<i} W_ij x_j: of what has not been read x is still 0
        logits = row(params.bias, i) + jnp.sum(row(params.weights, i) * known, axis=1)
        return Cache(known, i), logits

    cache, logits = jax.lax.scan(one, cache, x.T)
    return _of_two(logits.T), cache


def rewind(cache: Cache, count: Array) -> Cache:
    """Without the last `count` [n] pixels; contract.Rewind."""
    read = cache.read - count
    kept = jnp.arange(cache.x.shape[1]) < read[:, None]
    return Cache(jnp.where(kept, cache.x, 0), read)


def _of_two(logits: Array) -> Array:
    """log-odds of a 1 [...] as logits of 0 and 1 [..., 2]."""
    return jnp.stack([jnp.zeros_like(logits), logits], -1)
