"""Auto-encoder, plain or denoising: a code from which its input, or the clean input, comes back.

    x~ ~ C(x~ | x)                                         the corruption
    p(x | x~) = Bernoulli(x; sigmoid(g(f(x~))))  or  N(x; g(f(x~)), σ²)      the reconstruction
    loss = -E[log p(x | x~)]

Vincent, Larochelle, Bengio & Manzagol, Extracting and composing robust features with denoising
autoencoders, 2008. The chain that alternates C and p(x | x~) has the data's distribution in the
limit of a perfect reconstruction: Bengio, Yao, Alain & Vincent, Generalized denoising auto-encoders
as generative models, 2013 (arXiv:1305.6663), theorem 1; walkback is its algorithm 1. With Gaussian
corruption the mean tells a score: Vincent 2011; Alain & Bengio 2014 (arXiv:1211.4246).

Without corruption p(x | x) is learnt, and the chain stays wherever it starts: it is no generative
model, and its samples show that. None of them has a likelihood.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import struct

from genjax_zoo import nets
from genjax_zoo.contract import (
    BINARY,
    REAL,
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
from genjax_zoo.maths.probability import corruption, distributions
from genjax_zoo.nets import ACTIVATIONS, Net
from genjax_zoo.typed import choose

VERB = "descend"


@dataclasses.dataclass(frozen=True)
class Config:
    """An auto-encoder.

    Attributes:
      latents: length of the code.
      network: "mlp", or "conv" for images.
      widths: hidden units (mlp) or channels (conv) of the encoder, data first; the decoder has
        the same in reverse. () makes both linear.
      activation: the nonlinearity, a name in nets.ACTIVATIONS.
      corruption: C, a name in corruption.CORRUPTIONS: "none", "gaussian", "masking" or
        "salt_and_pepper".
      noise: its amount, a standard deviation in units of x or a probability.
      reconstruction: "bernoulli" for data that are exactly 0 or 1, "gaussian" for real numbers.
      mean: a Gaussian reconstruction's mean is the network's output ("linear"), its sigmoid, or
        x~ plus the output ("residual").
      variance: a Gaussian reconstruction's σ² stays as it is ("fixed"), or is learnt, one for all
        dimensions of x ("scalar") or one for each ("diagonal").
      noise_std: σ at the start, in units of x.
      walkback: K further steps of the chain from every example, from each of which the example is
        to be found again; 0 is the ordinary denoising loss.
      chain_steps: of corruption and reconstruction behind each sample.
      sample_means: `sample` returns the last reconstruction's mean, and not the draw from it. The
        chain itself always draws.
      average: decay of the moving average of the parameters; 0 keeps none.
    """

    latents: int = 32
    network: Literal["mlp", "conv"] = "mlp"
    widths: tuple[int, ...] = (256,)
    activation: str = "swish"
    corruption: str = "gaussian"
    noise: float = 0.3
    reconstruction: Literal["bernoulli", "gaussian"] = "gaussian"
    mean: Literal["linear", "sigmoid", "residual"] = "linear"
    variance: Literal["fixed", "scalar", "diagonal"] = "scalar"
    noise_std: float = 0.3
    walkback: int = 0
    chain_steps: int = 100
    sample_means: bool = False
    average: float = 0.0

    def __post_init__(self):
        choose(self.activation, ACTIVATIONS, "activation")
        corruption.make(self.corruption, self.noise)
        for name, least in (("latents", 1), ("walkback", 0), ("chain_steps", 1)):
            if getattr(self, name) < least:
                raise ConfigError(
                    f"autoencoder: {name} should be at least {least}, got {getattr(self, name)}."
                )
        if min(self.widths, default=1) < 1:
            raise ConfigError(f"autoencoder: widths should all be at least 1, got {self.widths}.")
        if self.network == "conv" and not self.widths:
            raise ConfigError("autoencoder: a convolutional network needs a width, got none.")
        if self.noise_std <= 0 or not 0 <= self.average < 1:
            raise ConfigError(
                "autoencoder: expected noise_std > 0 and average in [0, 1), got "
                f"{self.noise_std} and {self.average}."
            )


@struct.dataclass
class Params:
    """What an auto-encoder learns.

    Attributes:
      encoder: of f, x~ -> code.
      decoder: of g, code -> logits or means of p(x | x~).
      log_std: log σ of a Gaussian reconstruction, [] or [D]; None where σ is not learnt.
      shape: of one example, without the batch.
    """

    encoder: Any
    decoder: Any
    log_std: Array | None
    shape: tuple[int, ...] = struct.field(pytree_node=False)


@struct.dataclass
class Memory:
    """Where chains start: the moments of the first batch.

    Attributes:
      centre: mean, like one example.
      spread: standard deviation, likewise.
    """

    centre: Array
    spread: Array


def make(config: Config, tx: optax.GradientTransformation) -> Model:
    """An auto-encoder that learns by stochastic gradients on its reconstruction of clean data."""
    corrupt = corruption.make(config.corruption, config.noise)
    encoder, decoder, outputs = _networks(config)
    binary = config.reconstruction == "bernoulli"

    def init(key: Key, batch: Batch) -> tuple[Params, Memory]:
        """Raises ConfigError for data that do not fit the network."""
        x = batch["x"]
        if config.network == "conv" and x.ndim != 4:
            raise ConfigError(
                "autoencoder: a convolutional network needs images [B, H, W, C], and the data "
                f"have shape {x.shape}. Set model.network to 'mlp'."
            )
        key_encoder, key_decoder = jax.random.split(key)
        shape = tuple(x.shape[1:])
        size = () if config.variance == "scalar" else (math.prod(shape),)
        learns_std = not binary and config.variance != "fixed"
        params = Params(
            encoder=encoder().init(key_encoder, x),
            decoder=decoder(shape).init(key_decoder, jnp.zeros((1, config.latents))),
            log_std=jnp.full(size, math.log(config.noise_std), jnp.float32) if learns_std else None,
            shape=shape,
        )
        return params, Memory(jnp.mean(x, 0), jnp.std(x, 0))

    def log_likelihood(params: Params, x: Array, corrupted: Array) -> Array:
        """log p(x | x~) in nats: [B]."""
        f = outputs(params, corrupted)
        if binary:
            return distributions.bernoulli(_flat(x), f)
        return distributions.gaussian(_flat(x), f, _log_std(config, params))

    def draw(key: Key, params: Params, corrupted: Array) -> Array:
        """x ~ p(x | x~): [B, ...]."""
        f = outputs(params, corrupted)
        if binary:
            x = jax.random.bernoulli(key, jax.nn.sigmoid(f)).astype(corrupted.dtype)
        else:
            x = f + jnp.exp(_log_std(config, params)) * jax.random.normal(key, f.shape)
        return x.reshape(corrupted.shape)

    def mean(params: Params, corrupted: Array) -> Array:
        f = outputs(params, corrupted)
        return (jax.nn.sigmoid(f) if binary else f).reshape(corrupted.shape)

    def loss(key: Key, params: Params, memory: Memory, batch: Batch):
        x = batch["x"]
        total, seen = jnp.zeros(()), x
        for k in range(config.walkback + 1):
            key_corrupt, key_draw = jax.random.split(jax.random.fold_in(key, k))
            corrupted = corrupt(key_corrupt, seen)
            # x is to be found again from wherever the chain has come: algorithm 1, line 5.
            total += -jnp.mean(log_likelihood(params, x, corrupted))
            if k < config.walkback:
                seen = jax.lax.stop_gradient(draw(key_draw, params, corrupted))
        info: Info = {}
        return total / (config.walkback + 1), (memory, info)

    def sample(key: Key, state: Any, n: int, steps: int = config.chain_steps) -> Batch:
        """Ends of n chains of `steps` corruptions and reconstructions, begun about the mean."""
        params, start = eval_params(state), state.memory
        key_start, key_chain = jax.random.split(key)
        shape = (n, *params.shape)
        if binary:
            x = jax.random.bernoulli(key_start, start.centre, shape).astype(jnp.float32)
        else:
            x = start.centre + start.spread * jax.random.normal(key_start, shape)

        def step(x: Array, key: Key) -> tuple[Array, None]:
            key_corrupt, key_draw = jax.random.split(key)
            return draw(key_draw, params, corrupt(key_corrupt, x)), None

        keys = jax.random.split(key_chain, steps)
        x, _ = jax.lax.scan(step, x, keys[:-1])
        if config.sample_means:
            return {"x": mean(params, corrupt(keys[-1], x))}
        return {"x": step(x, keys[-1])[0]}

    def denoising(key: Key, params: Params, batch: Batch) -> Array:
        x = batch["x"]
        return -log_likelihood(params, x, corrupt(key, x))

    def reconstruction_error(key: Key, params: Params, batch: Batch) -> Array:
        """‖x - g(f(x))‖² of the clean x: [B]."""
        del key
        x = batch["x"]
        return jnp.sum(_flat(x - mean(params, x)) ** 2, -1)

    def encode(key: Key, params: Params, batch: Batch) -> Array:
        """f(x), the code: [B, latents]."""
        del key
        return encoder().apply(params.encoder, batch["x"])

    def decode(params: Params, codes: Array) -> Batch:
        """The mean of p(x | code); without the x~ that a residual mean is added to."""
        f = decoder(params.shape).apply(params.decoder, codes).reshape(len(codes), *params.shape)
        return {"x": jax.nn.sigmoid(f) if binary or config.mean == "sigmoid" else f}

    residual = not binary and config.mean == "residual"
    noisy = f"{config.corruption} corruption of {config.noise:g}"
    return Model(
        *descend(init, loss, tx, config.average),
        sample=sample,
        measures={
            "denoising": Measure(
                of_params(denoising),
                Exactness.ESTIMATE,
                "nats",
                better="lower",
                detail=f"-log p(x | x~), {noisy}; no likelihood of x",
            ),
            "reconstruction_error": Measure(
                of_params(reconstruction_error), Exactness.EXACT, "squared error", better="lower"
            ),
        },
        spaces={"x": BINARY if binary else REAL},
        latents=Latents(
            decode=None
            if residual
            else lambda key, state, latents: decode(eval_params(state), latents),
            encode=of_params(encode),
        ),
    )


def reconstruction(config: Config, params: Params, corrupted: Array) -> Array:
    """r(x~), the mean of p(x | x~): [B, ...]."""
    _, _, outputs = _networks(config)
    f = outputs(params, corrupted)
    binary = config.reconstruction == "bernoulli"
    return (jax.nn.sigmoid(f) if binary else f).reshape(corrupted.shape)


def score(config: Config, params: Params, x: Array) -> Array:
    """∇ log of the density of data plus noise, (r(x) - x) / σ²: [B, ...].

    Exactly so for the optimal reconstruction, and of the noised density: Vincent 2011; Alain &
    Bengio 2014, equation 10.

    Raises:
      ConfigError: for another corruption than a Gaussian one, which tells no score.
    """
    if config.corruption != "gaussian" or not config.noise:
        raise ConfigError(
            "autoencoder: a score is read off Gaussian corruption with noise > 0, got "
            f"{config.corruption} of {config.noise:g}."
        )
    return (reconstruction(config, params, x) - x) / config.noise**2


def _networks(
    config: Config,
) -> tuple[Callable[[], Net], Callable[[tuple[int, ...]], Net], Callable[[Params, Array], Array]]:
    """The encoder, the decoder of examples of a shape, and g(f(x~)) as logits or means [B, D]."""

    def encoder() -> Net:
        if config.network == "conv":
            return nets.conv_encoder(config.widths, config.latents, config.activation)
        return nets.mlp(config.widths, config.latents, config.activation)

    def decoder(shape: tuple[int, ...]) -> Net:
        widths = config.widths[::-1]
        if config.network == "conv":
            height, width, channels = shape
            return nets.conv_decoder(widths, (height, width, channels), config.activation)
        return nets.mlp(widths, shape, config.activation)

    def outputs(params: Params, corrupted: Array) -> Array:
        code = encoder().apply(params.encoder, corrupted)
        f = _flat(decoder(params.shape).apply(params.decoder, code))
        if config.reconstruction == "bernoulli" or config.mean == "linear":
            return f
        return jax.nn.sigmoid(f) if config.mean == "sigmoid" else f + _flat(corrupted)

    return encoder, decoder, outputs


def _log_std(config: Config, params: Params) -> Array | float:
    """log σ of a Gaussian reconstruction, learnt or not."""
    return math.log(config.noise_std) if params.log_std is None else params.log_std


def _flat(x: Array) -> Array:
    return x.reshape(x.shape[0], -1)
