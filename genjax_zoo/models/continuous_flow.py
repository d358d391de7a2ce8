"""Continuous normalising flow: an ordinary differential equation that carries data to noise.

    dx/dt = f_θ(t, x),   x(0) = the data,   x(1) = z ~ N(0, I)
    log p(x) = log N(z; 0, I) + ∫_0^1 ∇·f_θ(t, x(t)) dt

Chen, Rubanova, Bettencourt & Duvenaud, Neural ordinary differential equations, 2018
(arXiv:1806.07366), section 4; the trace with a random probe is from Grathwohl, Chen, Bettencourt,
Sutskever & Duvenaud, FFJORD, 2019 (arXiv:1810.01367). Before the flow x is brought to mean 0 and
standard deviation 1 by an affine map that starts from the first batch and is learnt on.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from genjax_zoo import nets, typed
from genjax_zoo.contract import (
    NOTHING,
    Array,
    Batch,
    ConfigError,
    Exactness,
    Key,
    Latents,
    Measure,
    Model,
)
from genjax_zoo.learn.state import of_params
from genjax_zoo.learn.verbs import descend
from genjax_zoo.maths.diffusion import ode
from genjax_zoo.maths.probability.distributions import flat
from genjax_zoo.maths.probability.given import read_given
from genjax_zoo.nets import ACTIVATIONS
from genjax_zoo.typed import MOST_STEPS, choose, number

VERB = "descend"


@typed.config
class Config:
    """A continuous normalising flow.

    Attributes:
      widths: hidden units of f_θ, a network of [x, t].
      activation: the nonlinearity, a name in nets.ACTIVATIONS; f_θ should be smooth.
      probes: of Hutchinson's trace, in training and in log_prob, which is then an estimate; 0
        takes the exact trace, of D derivatives.
      method: of integration: "euler", "heun" or "rk4" in `steps` equal steps, or "dopri5", which
        chooses its own.
      steps: of a fixed method.
      tolerance: relative and absolute, of "dopri5".
      average: decay of the moving average of the parameters; 0 keeps none.
    """

    widths: tuple[int, ...] = number((64, 64, 64), least=1)
    activation: str = "tanh"
    probes: int = number(0, least=0, most=MOST_STEPS)
    method: str = "rk4"
    steps: int = number(8, least=1, most=MOST_STEPS)
    tolerance: float = number(1e-5, least=1e-12, most=0.1)
    average: float = number(0.0, least=0, below=1)

    def __post_init__(self):
        choose(self.activation, ACTIVATIONS, "activation")
        choose(self.method, ode.METHODS, "method of integration")
        if not self.widths:
            raise ConfigError("continuous_flow: widths should hold at least one width, got none.")


@struct.dataclass
class Params:
    """What a continuous flow learns.

    Attributes:
      field: θ, of the network (x, t) -> dx/dt.
      shift: m [...], like one example.
      log_scale: log s [...]; the flow sees (x - m) / s.
    """

    field: Any
    shift: Array
    log_scale: Array


def make(config: Config, tx: optax.GradientTransformation) -> Model:
    """A continuous flow that follows the gradient of its likelihood."""
    # Of numpy, for a model is made without a device.
    forwards: Any = np.linspace(0.0, 1.0, config.steps + 1, dtype=np.float32)
    solver = (config.method, config.tolerance)

    def network(shape: tuple[int, ...]) -> nets.Net:
        return nets.mlp(config.widths, shape, config.activation)

    def init(key: Key, batch: Batch) -> tuple[Params, tuple[()]]:
        x = batch["x"]
        theta = network(x.shape[1:]).init(key, _with_time(x, jnp.zeros(())))
        spread = jnp.maximum(jnp.std(x, 0), 1e-3)
        return Params(theta, jnp.mean(x, 0), jnp.log(spread)), ()

    def field(params: Params) -> ode.Field:
        """f_θ: (t [], x [B, ...]) -> [B, ...]."""
        return lambda t, x: network(x.shape[1:]).apply(params.field, _with_time(x, t))

    def standard(params: Params, x: Array) -> Array:
        return (x - params.shift) * jnp.exp(-params.log_scale)

    def log_prob(key: Key, params: Params, batch: Batch) -> Array:
        """log p(x) in nats, [B]."""
        x = standard(params, batch["x"])
        nats = ode.log_density(key, field(params), x, forwards, 0.0, config.probes, *solver)
        return nats - jnp.sum(params.log_scale)

    def loss(key: Key, params: Params, memory: tuple[()], batch: Batch):
        return -jnp.mean(log_prob(key, params, batch)), (memory, {})

    def encode(key: Key, params: Params, batch: Batch) -> Array:
        """z = x(1): [B, ...], of N(0, I) where x is of the model."""
        return ode.integrate(field(params), standard(params, batch["x"]), forwards, *solver)

    def decode(key: Key, params: Params, z: Array) -> Batch:
        """x(0), from x(1) = z."""
        x = ode.integrate(field(params), z, forwards[::-1], *solver)
        return {"x": params.shift + jnp.exp(params.log_scale) * x}

    def prior(key: Key, params: Params, n: int) -> Array:
        """z ~ N(0, I): [n, ...]."""
        return jax.random.normal(key, (n, *params.shift.shape))

    def sample(key: Key, params: Params, n: int, given: Batch = NOTHING) -> Batch:
        """x(0) of x(1) ~ N(0, I); the model can be told nothing."""
        read_given(given, {}, n, "continuous_flow")
        return decode(key, params, prior(key, params, n))

    exactness = Exactness.ESTIMATE if config.probes else Exactness.EXACT
    return Model(
        *descend(init, loss, tx, config.average),
        sample=of_params(sample),
        log_prob=Measure(of_params(log_prob), exactness, density=True),
        latents=Latents(of_params(decode), of_params(encode), of_params(prior)),
    )


def _with_time(x: Array, t: Array) -> Array:
    """[x, t] flat: [B, ...] -> [B, D + 1]."""
    return jnp.concatenate([flat(x), jnp.broadcast_to(t, (len(x), 1))], -1)
