"""Fully visible sigmoid belief network: each pixel a logistic regression on those before it.

    p(x) = Π_i p(x_i | x_1, ..., x_{i-1}),     p(x_i = 1 | ...) = sigmoid(b_i + Σ_{j<i} W_ij x_j)

Frey, Graphical models for machine learning and digital communication, 1998; earlier as Neal's
sigmoid belief network without hidden units (1992). Pixels go row by row.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import optax
from flax import struct

from genjax_zoo.contract import (
    BINARY,
    Array,
    Batch,
    ConfigError,
    Exactness,
    Info,
    Key,
    Measure,
    Model,
)
from genjax_zoo.learn.state import of_params
from genjax_zoo.learn.verbs import descend
from genjax_zoo.maths.probability import distributions

VERB = "descend"


@dataclasses.dataclass(frozen=True)
class Config:
    """A fully visible sigmoid belief network, for data that are exactly 0 or 1.

    Attributes:
      average: decay of the moving average of the parameters; 0 keeps none.
    """

    average: float = 0.0

    def __post_init__(self):
        if not 0 <= self.average < 1:
            raise ConfigError(f"fvsbn: average should lie in [0, 1), got {self.average}.")


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


def make(config: Config, tx: optax.GradientTransformation) -> Model:
    """A fully visible sigmoid belief network that follows the gradient of its likelihood."""

    def init(key: Key, batch: Batch) -> tuple[Params, tuple[()]]:
        """Independent fair pixels: the loss is convex, so that any start will do."""
        del key
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
    )


def log_prob(key: Key, params: Params, batch: Batch) -> Array:
    """log p(x) in nats, [B], and -inf for an x that is not binary."""
    del key
    x = _flat(batch["x"])
    # l_i = b_i + Σ_{j<i} W_ij x_j
    logits = params.bias + x @ jnp.tril(params.weights, -1).T
    nats = distributions.bernoulli(x, logits)
    return jnp.where(distributions.is_binary(x), nats, -jnp.inf)


def sample(key: Key, params: Params, n: int) -> Batch:
    """Draws x_1, then x_2 given x_1, and so on: exact, with one row of W for each pixel."""
    size = params.bias.size
    # x_i = 1 where l_i exceeds a draw of the logistic distribution, drawn for all pixels at once.
    noise = jax.random.logistic(key, (size, n))

    def draw(i: Array, x: Array) -> Array:
        # Needs no mask: x_i and all after it are still 0.
        logits = params.bias[i] + params.weights[i] @ x
        return x.at[i].set((logits > noise[i]).astype(x.dtype))

    x = jax.lax.fori_loop(0, size, draw, jnp.zeros((size, n)))
    return {"x": x.T.reshape(n, *params.shape)}


def _flat(x: Array) -> Array:
    return x.reshape(x.shape[0], -1)
