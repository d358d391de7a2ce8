"""Auto-encoder, plain or denoising: a code from which its input, or the clean input, comes back.

    x~ ~ C(x~ | x)                                         the corruption
    p(x | x~) = Bernoulli(x; sigmoid(g(f(x~))))  or  N(x; g(f(x~)), σ²)      the reconstruction
    loss = -E[log p(x | x~)]

Vincent, Larochelle, Bengio & Manzagol, Extracting and composing robust features with denoising
autoencoders, 2008. The chain that alternates C and p(x | x~) has the data's distribution in the
limit of a perfect reconstruction: Bengio, Yao, Alain & Vincent, Generalized denoising auto-encoders
as generative models, 2013 (arXiv:1305.6663), theorem 1; walkback is its algorithm 1. With Gaussian
corruption the mean gives a score: Vincent 2011; Alain & Bengio 2014 (arXiv:1211.4246).

Without corruption p(x | x) is learnt, and the chain stays wherever it starts: it is no generative
model, and its samples show that. None of them has a likelihood.
"""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import struct

from genjax_zoo import nets, typed
from genjax_zoo.contract import (
    BINARY,
    NOTHING,
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
from genjax_zoo.learn.state import TrainState, eval_params, of_params
from genjax_zoo.learn.verbs import descend
from genjax_zoo.maths.probability import corruption, distributions, likelihoods
from genjax_zoo.maths.probability.given import read_given
from genjax_zoo.nets import Net
from genjax_zoo.typed import MOST_LAYERS, MOST_STEPS, number

VERB = "descend"


@typed.config
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
      sample_means: `sample` gives the last reconstruction's mean beside the draw from it, for
        looking at.
      average: decay of the moving average of the parameters; 0 keeps none.
    """

    latents: int = number(32, least=1)
    network: nets.AutoEncoder = "mlp"
    widths: tuple[int, ...] = number((256,), least=1)
    activation: str = "swish"
    corruption: str = "gaussian"
    noise: float = number(0.3, least=0)
    reconstruction: Literal["bernoulli", "gaussian"] = "gaussian"
    mean: Literal["linear", "sigmoid", "residual"] = "linear"
    variance: Literal["fixed", "scalar", "diagonal"] = "scalar"
    noise_std: float = number(0.3, least=1e-6, most=1e6)
    walkback: int = number(0, least=0, most=MOST_LAYERS)
    chain_steps: int = number(100, least=1, most=MOST_STEPS)
    sample_means: bool = False
    average: float = number(0.0, least=0, below=1)

    def __post_init__(self):
        nets.check_autoencoder(self.network, self.widths, self.activation, "autoencoder")
        corruption.make(self.corruption, self.noise)

    @property
    def residual(self) -> bool:
        """Whether x~ is added to the network's output."""
        return self.reconstruction == "gaussian" and self.mean == "residual"

    def likelihood(self) -> likelihoods.Likelihood:
        """p(x | f), f the decoder's outputs."""
        mean: likelihoods.Mean = "sigmoid" if self.mean == "sigmoid" else "linear"
        return likelihoods.make(self.reconstruction, mean, self.variance, self.noise_std)


@struct.dataclass
class Params:
    """What an auto-encoder learns.

    Attributes:
      encoder: of f, x~ -> code.
      decoder: of g, code -> the outputs that p(x | x~) is made of.
      log_std: log σ of p(x | x~), [] or like one example; None where it is no parameter.
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
    likelihood, encoder = config.likelihood(), _encoder(config)

    def init(key: Key, batch: Batch) -> tuple[Params, Memory]:
        """Raises ConfigError for data that do not fit the network."""
        x = batch["x"]
        if config.network == "conv":
            nets.image_shape(x, "autoencoder", "Set model.network to 'mlp'.")
        key_encoder, key_decoder = jax.random.split(key)
        shape = x.shape[1:]
        params = Params(
            encoder=encoder.init(key_encoder, x),
            decoder=_decoder(config, shape).init(key_decoder, jnp.zeros((1, config.latents))),
            log_std=likelihood.init(shape),
            shape=shape,
        )
        return params, Memory(jnp.mean(x, 0), jnp.std(x, 0))

    def log_likelihood(params: Params, x: Array, corrupted: Array) -> Array:
        """log p(x | x~) in nats: [B]; a cross entropy for an x outside the support."""
        return likelihood.nats(params.log_std, outputs(config, params, corrupted), x)

    def draw(key: Key, params: Params, corrupted: Array) -> Array:
        """x ~ p(x | x~): [B, ...]."""
        return likelihood.draw(key, params.log_std, outputs(config, params, corrupted))

    def loss(key: Key, params: Params, memory: Memory, batch: Batch):
        clean = x = batch["x"]
        total = jnp.zeros(())
        for k in range(config.walkback + 1):
            key_corrupt, key_draw = jax.random.split(jax.random.fold_in(key, k))
            corrupted = corrupt(key_corrupt, x)
            # It is to be found again from wherever the chain has come: algorithm 1, line 5.
            total += -jnp.mean(log_likelihood(params, clean, corrupted))
            if k < config.walkback:
                x = jax.lax.stop_gradient(draw(key_draw, params, corrupted))
        info: Info = {}
        return total / (config.walkback + 1), (memory, info)

    def sample(key: Key, state: TrainState, n: int, given: Batch = NOTHING) -> Batch:
        """Ends of n chains of corruption and reconstruction, begun about the data's mean."""
        read_given(given, {}, n, "autoencoder")
        params, start = eval_params(state), state.memory
        key_start, key_chain = jax.random.split(key)
        shape = (n, *params.shape)
        if likelihood.space == BINARY:
            x = jax.random.bernoulli(key_start, start.centre, shape).astype(jnp.float32)
        else:
            x = start.centre + start.spread * jax.random.normal(key_start, shape)

        def step(x: Array, key: Key) -> tuple[Array, None]:
            key_corrupt, key_draw = jax.random.split(key)
            return draw(key_draw, params, corrupt(key_corrupt, x)), None

        keys = jax.random.split(key_chain, config.chain_steps)
        x, _ = jax.lax.scan(step, x, keys[:-1])
        key_corrupt, key_draw = jax.random.split(keys[-1])
        f = outputs(config, params, corrupt(key_corrupt, x))
        return likelihood.sample(key_draw, params.log_std, f, config.sample_means)

    def denoising(key: Key, params: Params, batch: Batch) -> Array:
        x = batch["x"]
        return -log_likelihood(params, x, corrupt(key, x))

    def reconstruction_error(key: Key, params: Params, batch: Batch) -> Array:
        """‖x - g(f(x))‖² of the clean x: [B]."""
        x = batch["x"]
        return jnp.sum(distributions.flat(x - reconstruction(config, params, x)) ** 2, -1)

    def encode(key: Key, params: Params, batch: Batch) -> Any:
        """f(x), the code [B, latents]; with a residual mean x is a latent too: (f(x), x)."""
        code = encoder.apply(params.encoder, batch["x"])
        return (code, batch["x"]) if config.residual else code

    def decode(key: Key, params: Params, latents: Any) -> Batch:
        """The mean of p(x | code), or of p(x | code, x~)."""
        code, corrupted = latents if config.residual else (latents, None)
        return {"x": likelihood.mean(params.log_std, outputs_of(config, params, code, corrupted))}

    noisy = f"{config.corruption} corruption of {config.noise:g}"
    return Model(
        *descend(init, loss, tx, config.average),
        sample=sample,
        measures={
            "denoising": Measure(
                *(of_params(denoising), Exactness.ESTIMATE, "nats", "lower"),
                detail=f"-log p(x | x~), {noisy}; no likelihood of x",
            ),
            "reconstruction_error": Measure(
                of_params(reconstruction_error), Exactness.EXACT, "squared error", "lower"
            ),
        },
        spaces={"x": likelihood.space},
        latents=Latents(of_params(decode), of_params(encode)),
    )


def _encoder(config: Config) -> Net:
    return nets.vector_encoder(config.network, config.widths, config.latents, config.activation)


def _decoder(config: Config, shape: tuple[int, ...]) -> Net:
    return nets.vector_decoder(config.network, config.widths, shape, config.activation)


def outputs_of(config: Config, params: Params, code: Array, corrupted: Array | None) -> Array:
    """g(code), with x~ added to a residual mean: what p(x | x~) is made of, [B, ...]."""
    f = _decoder(config, params.shape).apply(params.decoder, code)
    return f + corrupted if config.residual else f


def outputs(config: Config, params: Params, corrupted: Array) -> Array:
    """g(f(x~)), likewise."""
    code = _encoder(config).apply(params.encoder, corrupted)
    return outputs_of(config, params, code, corrupted)


def reconstruction(config: Config, params: Params, corrupted: Array) -> Array:
    """r(x~), the mean of p(x | x~): [B, ...]."""
    return config.likelihood().mean(params.log_std, outputs(config, params, corrupted))


def score(config: Config, params: Params, x: Array) -> Array:
    """∇ log of the density of data plus noise, (r(x) - x) / σ²: [B, ...].

    Exactly so for the optimal reconstruction, and of the noised density: Vincent 2011; Alain &
    Bengio 2014, equation 10.

    Raises:
      ConfigError: for another corruption than a Gaussian one, which gives no score.
    """
    if config.corruption != "gaussian" or not config.noise:
        raise ConfigError(
            "autoencoder: a score is read off Gaussian corruption with noise > 0, got "
            f"{config.corruption} of {config.noise:g}."
        )
    return (reconstruction(config, params, x) - x) / config.noise**2
