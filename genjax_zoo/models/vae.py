"""Variational auto-encoder: a latent Gaussian, a network, and a network that inverts it.

    p(z)     = N(z; 0, I)                                  the prior
    p(x | z) = Bernoulli(x; sigmoid(f_θ(z)))  or  N(x; f_θ(z), σ²)       the decoder
    q(z | x) = N(z; μ_φ(x), diag σ_φ(x)²)                  the encoder

Kingma & Welling, Auto-encoding variational Bayes, 2014 (arXiv:1312.6114); the estimate with many
samples is from Burda, Grosse & Salakhutdinov, Importance weighted autoencoders, 2016
(arXiv:1509.00519).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import struct

from genjax_zoo import distributions, nets
from genjax_zoo.contract import (
    Array,
    Batch,
    ConfigError,
    Evidence,
    Info,
    Key,
    Measure,
    Model,
    Support,
)
from genjax_zoo.learn import descend, learnt, of_params
from genjax_zoo.nets import ACTIVATIONS, Net
from genjax_zoo.typed import choose

VERB = "descend"


@dataclasses.dataclass(frozen=True)
class Config:
    """A variational auto-encoder.

    Attributes:
      latents: L, dimensions of z.
      network: "mlp", or "conv" for images.
      widths: hidden units (mlp) or channels (conv) of the encoder, data first; the decoder has
        the same in reverse. () makes both linear.
      activation: the nonlinearity, a name in nets.ACTIVATIONS.
      decoder: "bernoulli" for data that are exactly 0 or 1, "gaussian" for real numbers.
      mean: a Gaussian decoder's mean is the network's output ("linear") or, for data in [0, 1],
        its sigmoid (Kingma & Welling, section 5).
      variance: a Gaussian decoder's σ² stays as it is ("fixed"), or is learnt, one for all
        dimensions of x ("scalar") or one for each ("diagonal").
      noise_std: σ at the start, in units of x.
      importance_samples: K of the estimate `iwae`.
      sample_means: `sample` returns the decoder's means, which is how images are usually shown;
        False returns draws from p(x), which is what a density is judged by.
      average: decay of the moving average of the parameters; 0 keeps none.
    """

    latents: int = 16
    network: Literal["mlp", "conv"] = "mlp"
    widths: tuple[int, ...] = (200, 200)
    activation: str = "tanh"
    decoder: Literal["bernoulli", "gaussian"] = "gaussian"
    mean: Literal["linear", "sigmoid"] = "linear"
    variance: Literal["fixed", "scalar", "diagonal"] = "scalar"
    noise_std: float = 1.0
    importance_samples: int = 64
    sample_means: bool = True
    average: float = 0.0

    def __post_init__(self):
        choose(self.activation, ACTIVATIONS, "activation")
        for name in ("latents", "importance_samples"):
            if getattr(self, name) < 1:
                raise ConfigError(f"vae: {name} should be at least 1, got {getattr(self, name)}.")
        if min(self.widths, default=1) < 1:
            raise ConfigError(f"vae: widths should all be at least 1, got {self.widths}.")
        if self.network == "conv" and not self.widths:
            raise ConfigError("vae: a convolutional network needs at least one width, got none.")
        if self.noise_std <= 0:
            raise ConfigError(f"vae: noise_std should be positive, got {self.noise_std}.")
        if not 0 <= self.average < 1:
            raise ConfigError(f"vae: average should lie in [0, 1), got {self.average}.")


@struct.dataclass
class Params:
    """What a variational auto-encoder learns.

    Attributes:
      encoder: φ, of the network x -> (μ, log σ) of q(z | x).
      decoder: θ, of the network z -> logits or means of p(x | z).
      log_std: log σ of a Gaussian decoder, [] or [D]; None where σ is not learnt.
      shape: of one example, without the batch.
    """

    encoder: Any
    decoder: Any
    log_std: Array | None
    shape: tuple[int, ...] = struct.field(pytree_node=False)


def make(config: Config, tx: optax.GradientTransformation) -> Model:
    """A variational auto-encoder that learns by stochastic gradients on the ELBO."""

    def encoder() -> Net:
        outputs = 2 * config.latents
        if config.network == "conv":
            return nets.conv_encoder(config.widths, outputs, config.activation)
        return nets.mlp(config.widths, outputs, config.activation)

    def decoder(shape: tuple[int, ...]) -> Net:
        widths = config.widths[::-1]
        if config.network == "conv":
            height, width, channels = shape
            return nets.conv_decoder(widths, (height, width, channels), config.activation)
        return nets.mlp(widths, shape, config.activation)

    def init(key: Key, batch: Batch) -> tuple[Params, tuple[()]]:
        """Raises ConfigError for data that do not fit the network."""
        x = batch["x"]
        if config.network == "conv" and x.ndim != 4:
            raise ConfigError(
                "vae: a convolutional network needs images [B, H, W, C], and the data have shape "
                f"{x.shape}. Set model.network to 'mlp'."
            )
        key_encoder, key_decoder = jax.random.split(key)
        shape = tuple(x.shape[1:])
        size = () if config.variance == "scalar" else (math.prod(shape),)
        learns_std = config.decoder == "gaussian" and config.variance != "fixed"
        return Params(
            encoder=encoder().init(key_encoder, x),
            decoder=decoder(shape).init(key_decoder, jnp.zeros((1, config.latents))),
            log_std=jnp.full(size, math.log(config.noise_std), jnp.float32) if learns_std else None,
            shape=shape,
        ), ()

    def posterior(params: Params, x: Array) -> tuple[Array, Array]:
        """μ, log σ of q(z | x): two [B, L]."""
        mean, log_std = jnp.split(encoder().apply(params.encoder, x), 2, axis=-1)
        return mean, log_std

    def outputs(params: Params, z: Array) -> Array:
        """f_θ(z), the logits or means of p(x | z): [..., L] -> [..., D]."""
        flat = decoder(params.shape).apply(params.decoder, z.reshape(-1, config.latents))
        f = flat.reshape(*z.shape[:-1], -1)
        squash = config.decoder == "gaussian" and config.mean == "sigmoid"
        return jax.nn.sigmoid(f) if squash else f

    def noise_log_std(params: Params) -> Array | float:
        """log σ of the Gaussian decoder, learnt or not."""
        return math.log(config.noise_std) if params.log_std is None else params.log_std

    def log_likelihood(params: Params, x: Array, z: Array) -> Array:
        """log p(x | z) in nats, x [B, D] and z [..., B, L] -> [..., B]."""
        f = outputs(params, z)
        if config.decoder == "bernoulli":
            return distributions.bernoulli(x, f)
        return distributions.gaussian(x, f, noise_log_std(params))

    def supported(x: Array, nats: Array) -> Array:
        """`nats` [B], and -inf where x [B, D] lies outside the decoder's support."""
        if config.decoder == "bernoulli":
            return jnp.where(distributions.is_binary(x), nats, -jnp.inf)
        return nats

    def terms(key: Key, params: Params, batch: Batch) -> tuple[Array, Array]:
        """The two terms of the ELBO, [B] nats each: Kingma & Welling 2014, equation 7, one draw."""
        x = _flat(batch["x"])
        mean, log_std = posterior(params, batch["x"])
        # z = μ + σ ⊙ ε,  ε ~ N(0, I)
        z = mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape)
        # (1)  KL(q(z | x) || p(z)), in closed form
        kl = distributions.gaussian_kl(mean, log_std)
        # (2)  E_q[log p(x | z)]
        reconstruction = supported(x, log_likelihood(params, x, z))
        return kl, reconstruction

    def loss(key: Key, params: Params, memory: tuple[()], batch: Batch):
        kl, reconstruction = (jnp.mean(term) for term in terms(key, params, batch))
        info: Info = {"kl": kl, "reconstruction": reconstruction}
        return kl - reconstruction, (memory, info)

    def elbo(key: Key, params: Params, batch: Batch) -> Array:
        kl, reconstruction = terms(key, params, batch)
        return reconstruction - kl

    def iwae(key: Key, params: Params, batch: Batch) -> Array:
        """log 1/K Σ_k p(x, z_k) / q(z_k | x),  z_k ~ q(z | x): Burda et al. 2016, equation 8.

        The weights' sum runs over chunks of the K draws, so that any K fits the memory.
        """
        x = _flat(batch["x"])
        mean, log_std = posterior(params, batch["x"])
        draws = config.importance_samples
        chunks = -(-draws // _CHUNK)
        size = -(-draws // chunks)

        def add(log_sum: Array, chunk: Array) -> tuple[Array, None]:
            noise = jax.random.normal(jax.random.fold_in(key, chunk), (size, *mean.shape))
            z = mean + jnp.exp(log_std) * noise
            # log w = log p(x | z) + log p(z) - log q(z | x), and nothing from beyond the K-th draw
            log_w = log_likelihood(params, x, z)
            log_w += distributions.gaussian(z, 0.0, 0.0)
            log_w -= distributions.gaussian(z, mean, log_std)
            counts = (chunk * size + jnp.arange(size) < draws)[:, None]
            log_w = jnp.where(counts, log_w, -jnp.inf)
            return jnp.logaddexp(log_sum, jax.nn.logsumexp(log_w, axis=0)), None

        start = jnp.full(mean.shape[0], -jnp.inf)
        log_sum, _ = jax.lax.scan(add, start, jnp.arange(chunks))
        return supported(x, log_sum - math.log(draws))

    def mean_of(params: Params, z: Array) -> Batch:
        f = outputs(params, z)
        mean = jax.nn.sigmoid(f) if config.decoder == "bernoulli" else f
        return {"x": mean.reshape(-1, *params.shape)}

    def sample(key: Key, params: Params, n: int, means: bool = config.sample_means) -> Batch:
        """z ~ p(z), then the mean of p(x | z), or with `means=False` a draw from it."""
        key_z, key_x = jax.random.split(key)
        x = mean_of(params, jax.random.normal(key_z, (n, config.latents)))["x"]
        if means:
            return {"x": x}
        if config.decoder == "bernoulli":
            return {"x": jax.random.bernoulli(key_x, x).astype(x.dtype)}
        noise = jnp.exp(noise_log_std(params)) * jax.random.normal(key_x, (n, x[0].size))
        return {"x": x + noise.reshape(x.shape)}

    def encode(key: Key, params: Params, batch: Batch) -> Array:
        """The posterior mean μ_φ(x): [B, L]."""
        return posterior(params, batch["x"])[0]

    return Model(
        *descend(init, loss, tx, config.average),
        sample=of_params(sample),
        log_prob=of_params(elbo),
        evidence=Evidence.LOWER_BOUND,
        encode=of_params(encode),
        decode=lambda state, latents: mean_of(learnt(state), latents),
        measures={
            "iwae": Measure(
                of_params(iwae),
                Evidence.ESTIMATE,
                "nats",
                detail=f"K = {config.importance_samples} importance samples",
            )
        },
        support=Support.BINARY if config.decoder == "bernoulli" else Support.REAL,
    )


_CHUNK = 50
"""Draws of z per image that the estimate holds at once."""


def _flat(x: Array) -> Array:
    return x.reshape(x.shape[0], -1)
