"""Normalising flow: bijections that carry data to noise, one after another.

    z = f(x),   z ~ p(z)             log p(x) = log p(f(x)) + log |det ∂f/∂x|

One family, and its architectures are what each layer is: see ARCHITECTURES. With `scales`, images
pass through the multi-scale scheme of Dinh et al. 2017, figure 4b:

    squeeze, layers, (squeeze, layers, (...) on half of the channels, unsqueeze) , unsqueeze

The bijections and their papers: maths/probability/bijections.py. Variational dequantisation is of
Ho, Chen, Srinivas, Duan & Abbeel, Flow++, 2019 (arXiv:1902.00275), section 3.1.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import struct

from genjax_zoo import nets, typed
from genjax_zoo.contract import (
    NOTHING,
    REAL,
    UNIT,
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
from genjax_zoo.maths.inference import bounds
from genjax_zoo.maths.probability import bijections, couplings, distributions
from genjax_zoo.maths.probability.bijections import Bijection
from genjax_zoo.maths.probability.distributions import flat
from genjax_zoo.maths.probability.given import Labels, read_given
from genjax_zoo.nets import ACTIVATIONS
from genjax_zoo.typed import MOST_LAYERS, choose, number

VERB = "descend"


@typed.config
class Config:
    """A normalising flow.

    Attributes:
      architecture: what a layer is, a name in ARCHITECTURES.
      layers: of them; at every scale, for images.
      scales: 0 takes an example for a vector, and networks are fully connected; of images, each
        scale squeezes once more, and networks are convolutional.
      widths: hidden units or channels of a layer's network.
      activation: the nonlinearity, a name in nets.ACTIVATIONS.
      bins: pieces of a spline.
      bound: splines bend within [-bound, bound]; the data come to them with variance 1.
      prior: p(z), "gaussian" or "logistic" (of NICE), both standard.
      alpha: data in [0, 1] pass through logit(α + (1 - 2α) x) first, and samples are cut to that
        range; 0 leaves them as they are.
      levels: of discrete data in [0, 1], which the model dequantises itself: x is a multiple of
        1 / (levels - 1), and log_prob bounds the probability of x and not a density. 0 for data
        that have a density.
      dequantisation_layers: with levels, couplings of q(u | x); 0 makes it uniform.
      classes: labels that condition every layer; 0 takes no notice of them.
      average: decay of the moving average of the parameters; 0 keeps none.
    """

    architecture: str = "realnvp"
    layers: int = number(6, least=1, most=MOST_LAYERS)
    scales: int = number(0, least=0, most=MOST_LAYERS)
    widths: tuple[int, ...] = number((128, 128), least=1)
    activation: str = "relu"
    bins: int = number(8, least=2, most=MOST_LAYERS)
    bound: float = number(4.0, above=0)
    prior: Literal["gaussian", "logistic"] = "gaussian"
    alpha: float = number(0.0, least=0, below=0.5)
    levels: int = number(0, least=0, most=2**16)
    dequantisation_layers: int = number(0, least=0, most=MOST_LAYERS)
    classes: int = number(0, least=0)
    average: float = number(0.0, least=0, below=1)

    def __post_init__(self):
        choose(self.architecture, ARCHITECTURES, "architecture of a flow")
        choose(self.activation, ACTIVATIONS, "activation")
        if not self.widths:
            raise ConfigError("flow: widths should hold at least one width, got none.")
        if self.scales and self.architecture in ("maf", "iaf"):
            raise ConfigError(
                f"flow: {self.architecture} is a flow of vectors, and scales={self.scales} asks "
                "for images; set scales to 0, or take realnvp, glow or spline."
            )
        if self.levels == 1:
            raise ConfigError("flow: levels should be 0, or at least 2, got 1.")
        if self.dequantisation_layers and not self.levels:
            raise ConfigError(
                "flow: dequantisation_layers wants discrete data, and levels says that there are "
                "none; set levels to how many there are (256 for 8 bits), with data.dequantise "
                "False."
            )


def _conditioner(config: Config) -> couplings.Conditioner:
    """Networks for couplings of vectors or, with scales, of images."""

    def network(shape: tuple[int, ...]) -> nets.Net:
        if len(shape) == 1:
            return nets.mlp(config.widths, shape, config.activation)
        return nets.conv_same(config.widths, shape[-1], config.activation)

    return network


def _nice(config: Config, k: int) -> Bijection:
    return couplings.coupling(_conditioner(config), couplings.additive(), swap=k % 2)


def _realnvp(config: Config, k: int) -> Bijection:
    return bijections.chain(
        bijections.actnorm(),
        couplings.coupling(_conditioner(config), couplings.affine(), swap=k % 2),
    )


def _glow(config: Config, k: int) -> Bijection:
    return bijections.chain(
        bijections.actnorm(),
        bijections.linear(seed=k),
        couplings.coupling(_conditioner(config), couplings.affine()),
    )


def _spline(config: Config, k: int) -> Bijection:
    return bijections.chain(
        bijections.linear(seed=k),
        couplings.coupling(
            _conditioner(config), couplings.spline(config.bins, config.bound), swap=k % 2
        ),
    )


def _maf(config: Config, k: int) -> Bijection:
    network = lambda shape: nets.made(config.widths, math.prod(shape), config.activation)
    return bijections.chain(
        bijections.actnorm(),
        couplings.autoregressive(network, couplings.affine()),
        bijections.permute(None if k % 2 == 0 else k),
    )


ARCHITECTURES: Mapping[str, Callable[[Config, int], Bijection]] = {
    "nice": _nice,
    "realnvp": _realnvp,
    "glow": _glow,
    "spline": _spline,
    "maf": _maf,
    "iaf": lambda config, k: bijections.invert(_maf(config, k)),
}
"""Layer k of a flow, by name."""


def bijection(config: Config, shape: tuple[int, ...]) -> Bijection:
    """The whole map of examples of `shape` to noise."""
    layer = ARCHITECTURES[config.architecture]
    layers = lambda scale: [layer(config, scale * config.layers + k) for k in range(config.layers)]
    first = [bijections.logit(config.alpha)] if config.alpha else []
    first.append(bijections.standardise())
    last = [bijections.diagonal()] if config.architecture == "nice" else []
    if not config.scales:
        size = math.prod(shape)
        mixed = [bijections.permute(seed=0)] if size > 2 else []
        parts = [bijections.reshape(shape, (size,)), *mixed, *layers(0), *last]
        return bijections.chain(*first, *parts, bijections.reshape((size,), shape))

    def scale(s: int) -> Bijection:
        inner = [bijections.rest(scale(s + 1))] if s + 1 < config.scales else []
        squeeze = bijections.squeeze()
        return bijections.chain(
            *(squeeze, bijections.checkerboard(), *layers(s), *inner), bijections.invert(squeeze)
        )

    return bijections.chain(*first, scale(0), *last)


@struct.dataclass
class Params:
    """What a flow learns.

    Attributes:
      flow: of the bijection from x to z.
      dequantisation: of the bijection from ε to the noise within a level; () without one.
      shape: of one example, without the batch.
    """

    flow: Any
    dequantisation: Any
    shape: tuple[int, ...] = struct.field(pytree_node=False)


def make(config: Config, tx: optax.GradientTransformation) -> Model:
    """A flow that follows the gradient of its likelihood, or of a bound on it."""
    labels = Labels(config.classes, "flow")
    space = UNIT.of(config.levels) if config.levels or config.alpha else REAL

    def noise_of(shape: tuple[int, ...]) -> Bijection:
        """ε -> logit u, of q(u | x): affine couplings that see x."""
        own = dataclasses.replace(
            config, architecture="realnvp", layers=config.dequantisation_layers, alpha=0.0
        )
        return bijection(dataclasses.replace(own, scales=min(config.scales, 1)), shape)

    def condition_of(batch: Batch) -> Array | None:
        """One-hot labels [B, classes], if there are classes."""
        return labels.one_hot(batch) if config.classes else None

    def init(key: Key, batch: Batch) -> tuple[Params, tuple[()]]:
        """Starts from the batch's moments: Kingma & Dhariwal 2018, section 3.1."""
        x = batch["x"]
        shape = tuple(x.shape[1:])
        if config.scales and len(shape) != 3:
            raise ConfigError(
                f"flow: scales={config.scales} asks for images [B, H, W, C], and the data have "
                f"shape {x.shape}; set model.scales to 0."
            )
        key_flow, key_u, key_noise = jax.random.split(key, 3)
        noise: Any = ()
        if config.dequantisation_layers:
            start = jax.random.normal(key_u, x.shape)
            noise = noise_of(shape).init(key_noise, start, _context(x, config.scales))
        if config.levels:
            x = continuous(x, jax.random.uniform(key_u, x.shape))
        flow = bijection(config, shape).init(key_flow, x, condition_of(batch))
        return Params(flow, noise, shape), ()

    # ------------------------------------------------------------------------------ likelihood

    def density(params: Params, x: Array, condition: Array | None) -> Array:
        """log p(x) of real x, in nats per unit of volume: [B]."""
        z, log_det = bijection(config, params.shape).forward(params.flow, x, condition)
        return PRIORS[config.prior][0](flat(z)) + log_det

    def continuous(x: Array, u: Array | float) -> Array:
        """(k + u) / levels in [0, 1], of the levels k = 0 .. levels - 1 and u in [0, 1)."""
        return (x * (config.levels - 1) + u) / config.levels

    def dequantise(key: Key, params: Params, x: Array) -> tuple[Array, Array]:
        """u ~ q(u | x) in [0, 1) like x, and log q(u | x) [B]."""
        if not config.dequantisation_layers:
            return jax.random.uniform(key, x.shape), jnp.zeros(len(x))
        noise = jax.random.normal(key, x.shape)
        context = _context(x, config.scales)
        v, log_det = noise_of(params.shape).forward(params.dequantisation, noise, context)
        log_q = distributions.gaussian(flat(noise), 0.0, 0.0) - log_det
        # u = sigmoid(v),  log du/dv = -log(1 + e^v) - log(1 + e^-v)
        return jax.nn.sigmoid(v), log_q - _logistic(flat(v))

    def log_prob(key: Key, params: Params, batch: Batch) -> Array:
        """log p(x) [B] nats, or for discrete data log p(x + u) - log q(u | x), u ~ q: a bound."""
        x, condition = batch["x"], condition_of(batch)
        inside = jnp.all(space.has(flat(x)), axis=-1)
        if not config.levels:
            return jnp.where(inside, density(params, x, condition), -jnp.inf)
        u, log_q = dequantise(key, params, x)
        # Of y = k + u, k = 0 .. levels - 1: the density of x in [0, 1], less D log levels.
        nats = density(params, continuous(x, u), condition)
        bound = nats - x[0].size * math.log(config.levels) - log_q
        return jnp.where(inside, bound, -jnp.inf)

    def loss(key: Key, params: Params, memory: tuple[()], batch: Batch):
        return -jnp.mean(log_prob(key, params, batch)), (memory, {})

    # -------------------------------------------------------------------- latents and samples

    def to_data(params: Params, z: Array, condition: Array | None) -> Array:
        """x = f⁻¹(z)."""
        x, _ = bijection(config, params.shape).inverse(params.flow, z, condition)
        if config.levels:
            most = config.levels - 1
            return jnp.clip(jnp.floor(x * config.levels), 0, most) / most
        # The logit of α + (1 - 2α) x leaves a wild z a little room beyond [0, 1].
        return jnp.clip(x, 0, 1) if config.alpha else x

    def draw(key: Key, params: Params, n: int) -> Array:
        """z ~ p(z): [n, ...]."""
        return PRIORS[config.prior][1](key, (n, *params.shape))

    def sample(key: Key, params: Params, n: int, given: Batch = NOTHING) -> Batch:
        """f⁻¹(z), z ~ p(z), of labels that are drawn evenly where none are given."""
        told = read_given(given, labels.told, n, "flow")
        key_z, key_label = jax.random.split(key)
        z, y = draw(key_z, params, n), labels.draw(key_label, told, n)
        return {"x": to_data(params, z, condition_of(y)), **y}

    def with_label(z: Array, condition: Array | None) -> Array:
        """z as it is, or where labels condition the flow as a vector with y at its end."""
        if condition is None:
            return z
        return jnp.concatenate([flat(z), condition], -1)

    def encode(key: Key, params: Params, batch: Batch) -> Array:
        """z = f(x): [B, ...], like x, or with classes [B, D + classes], y at its end.

        Of discrete data from the middle of their level.
        """
        x, condition = batch["x"], condition_of(batch)
        x = continuous(x, 0.5) if config.levels else x
        z, _ = bijection(config, params.shape).forward(params.flow, x, condition)
        return with_label(z, condition)

    def decode(key: Key, params: Params, z: Array) -> Batch:
        """x = f⁻¹(z), of z as `encode` makes it."""
        if not config.classes:
            return {"x": to_data(params, z, None)}
        z, condition = jnp.split(z, [math.prod(params.shape)], axis=-1)
        return {"x": to_data(params, z.reshape(-1, *params.shape), condition)}

    def prior(key: Key, params: Params, n: int) -> Array:
        """z ~ p(z), and y of any label at its end if there are classes."""
        key_label = jax.random.fold_in(key, 1)
        return with_label(draw(key, params, n), condition_of(labels.draw(key_label, {}, n)))

    exactness = Exactness.LOWER_BOUND if config.levels else Exactness.EXACT
    nats = Measure(of_params(log_prob), exactness, density=True)
    if config.levels:
        kind = "variational" if config.dequantisation_layers else "uniform"
        nats = dataclasses.replace(nats, detail=f"{kind} dequantisation")
    return Model(
        *descend(init, loss, tx, config.average),
        sample=of_params(sample),
        log_prob=nats,
        measures={"bits_per_dim": bounds.bits(nats, config.levels)} if config.levels else {},
        spaces=labels.spaces(space),
        latents=Latents(of_params(decode), of_params(encode), of_params(prior)),
    )


def _gaussian(z: Array) -> Array:
    return distributions.gaussian(z, 0.0, 0.0)


def _logistic(z: Array) -> Array:
    # -z - 2 log(1 + e^-z): Dinh et al. 2015, equation 9
    return -jnp.sum(jax.nn.softplus(z) + jax.nn.softplus(-z), -1)


PRIORS = {"gaussian": (_gaussian, jax.random.normal), "logistic": (_logistic, jax.random.logistic)}
"""log p(z) of z [B, D], and how z are drawn, by name."""


def _context(x: Array, scales: int) -> Array:
    """x as a condition for a flow of noise of its shape: squeezed once for images, else flat."""
    if scales:
        return bijections.squeeze().forward((), x)[0] - 0.5
    return flat(x) - 0.5
