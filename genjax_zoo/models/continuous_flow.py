"""Continuous normalising flow: an ordinary differential equation that carries data to noise.

    dx/dt = f_θ(t, x),   x(0) = the data,   x(1) = z ~ N(0, I)
    log p(x) = log N(z; 0, I) + ∫_0^1 ∇·f_θ(t, x(t)) dt

Chen, Rubanova, Bettencourt & Duvenaud, Neural ordinary differential equations, 2018
(arXiv:1806.07366), section 4; the trace with a random probe is from Grathwohl, Chen, Bettencourt,
Sutskever & Duvenaud, FFJORD, 2019 (arXiv:1810.01367). Before the flow x is brought to mean 0 and
standard deviation 1 by an affine map that starts from the first batch and is learnt on.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from genjax_zoo import nets
from genjax_zoo.contract import (
    Array,
    Batch,
    ConfigError,
    Exactness,
    Info,
    Key,
    Latents,
    Measure,
    Model,
)
from genjax_zoo.learn.state import eval_params, of_params
from genjax_zoo.learn.verbs import descend
from genjax_zoo.maths.diffusion import ode
from genjax_zoo.maths.probability import distributions
from genjax_zoo.nets import ACTIVATIONS
from genjax_zoo.typed import choose

VERB = "descend"


@dataclasses.dataclass(frozen=True)
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

    widths: tuple[int, ...] = (64, 64, 64)
    activation: str = "tanh"
    probes: int = 0
    method: str = "rk4"
    steps: int = 8
    tolerance: float = 1e-5
    average: float = 0.0

    def __post_init__(self):
        choose(self.activation, ACTIVATIONS, "activation")
        choose(self.method, dict.fromkeys((*ode.FIXED, *ode.ADAPTIVE)), "method of integration")
        if not self.widths or min(self.widths) < 1:
            raise ConfigError(
                f"continuous_flow: widths should be one or more of at least 1, got {self.widths}."
            )
        if self.probes < 0 or self.steps < 1 or self.tolerance <= 0:
            raise ConfigError(
                "continuous_flow: expected probes >= 0, steps >= 1 and tolerance > 0, got "
                f"{self.probes}, {self.steps} and {self.tolerance}."
            )
        if not 0 <= self.average < 1:
            raise ConfigError(f"continuous_flow: average should lie in [0, 1), got {self.average}.")


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
    forwards = jnp.linspace(0.0, 1.0, config.steps + 1)

    def network(shape: tuple[int, ...]) -> nets.Net:
        return nets.mlp(config.widths, shape, config.activation)

    def field(params: Params) -> ode.Field:
        """f_θ: (t [], x [B, ...]) -> [B, ...]."""

        def move(t: Array, x: Array) -> Array:
            return network(x.shape[1:]).apply(params.field, _with_time(x, t))

        return move

    def init(key: Key, batch: Batch) -> tuple[Params, tuple[()]]:
        x = batch["x"]
        theta = network(x.shape[1:]).init(key, _with_time(x, jnp.zeros(())))
        spread = jnp.maximum(jnp.std(x, 0), 1e-3)
        return Params(theta, jnp.mean(x, 0), jnp.log(spread)), ()

    def carry(params: Params, x: Array, times: Array, probes: Array | None) -> tuple[Array, Array]:
        method = (config.method, config.tolerance)
        return ode.transport(field(params), x, times, probes, *method)

    def log_prob(key: Key, params: Params, batch: Batch) -> Array:
        """log p(x) in nats, [B]."""
        x = (batch["x"] - params.shift) * jnp.exp(-params.log_scale)
        probes = ode.probes_of(key, config.probes, x.shape) if config.probes else None
        z, log_det = carry(params, x, forwards, probes)
        normal = distributions.gaussian(z.reshape(len(z), -1), 0.0, 0.0)
        return normal + log_det - jnp.sum(params.log_scale)

    def loss(key: Key, params: Params, memory: tuple[()], batch: Batch):
        info: Info = {}
        return -jnp.mean(log_prob(key, params, batch)), (memory, info)

    def move(params: Params, x: Array, times: Array) -> Array:
        return ode.integrate(field(params), x, times, config.method, config.tolerance)

    def encode(key: Key, params: Params, batch: Batch) -> Array:
        """z = x(1): [B, ...], of N(0, I) where x is of the model."""
        del key
        return move(params, (batch["x"] - params.shift) * jnp.exp(-params.log_scale), forwards)

    def decode(params: Params, z: Array) -> Batch:
        """x(0), from x(1) = z."""
        x = move(params, z, forwards[::-1])
        return {"x": params.shift + jnp.exp(params.log_scale) * x}

    def prior(key: Key, params: Params, n: int) -> Array:
        """z ~ N(0, I): [n, ...]."""
        return jax.random.normal(key, (n, *params.shift.shape))

    def sample(key: Key, params: Params, n: int) -> Batch:
        return decode(params, prior(key, params, n))

    return Model(
        *descend(init, loss, tx, config.average),
        sample=of_params(sample),
        log_prob=Measure(
            of_params(log_prob),
            Exactness.ESTIMATE if config.probes else Exactness.EXACT,
            density=True,
        ),
        latents=Latents(
            decode=lambda key, state, latents: decode(eval_params(state), latents),
            encode=of_params(encode),
            prior=of_params(prior),
        ),
    )


def _with_time(x: Array, t: Array) -> Array:
    """[x, t] flat: [B, ...] -> [B, D + 1]."""
    return jnp.concatenate([x.reshape(len(x), -1), jnp.broadcast_to(t, (len(x), 1))], -1)
