"""Discrete variational auto-encoder: a grid of categorical codes, relaxed while it learns.

    p(z)     = Π_i 1 / K                                              the prior: uniform
    q(z | x) = Π_i Categorical(z_i; softmax(f_φ(x)_i))                the encoder
    p(x | z) = Bernoulli, Gaussian or logit-Laplace around g_θ(e_z)   the decoder

Ramesh et al., Zero-shot text-to-image generation, 2021 (arXiv:2102.12092), stage one. Gradients
reach φ through the Gumbel-softmax: Jang, Gu & Poole 2017 (arXiv:1611.01144); Maddison, Mnih & Teh
2017 (arXiv:1611.00712). The relaxation serves learning alone: `log_prob` draws hard codes of q, and
its mean is the true evidence lower bound under the uniform prior, whatever the weight of the KL
was in training. Samples are of that same prior; with a KL weight other than one, q as a whole need
not be uniform, and the bound and the samples both show it. (DALL-E's second half learns a prior.)
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from genjax_zoo import nets, typed
from genjax_zoo.contract import (
    NOTHING,
    Array,
    Batch,
    Exactness,
    Info,
    Key,
    Latents,
    Measure,
    Model,
    Weighed,
    categorical,
)
from genjax_zoo.learn.state import of_params
from genjax_zoo.learn.verbs import descend
from genjax_zoo.maths.inference import bounds, importance
from genjax_zoo.maths.inference.codebooks import gumbel_softmax, kl_to_uniform, perplexity
from genjax_zoo.maths.probability import likelihoods
from genjax_zoo.maths.probability.given import read_given
from genjax_zoo.nets import Net
from genjax_zoo.typed import MOST_LAYERS, MOST_STEPS, number

VERB = "descend"


@typed.config
class Config:
    """A discrete variational auto-encoder, for images.

    Attributes:
      codes: K, how many values each code has.
      features: D, numbers of the vector that stands for a code before the decoder.
      widths: channels of the encoder after each halving of the image; their number says how much
        smaller the grid is than the image. The decoder has the same in reverse.
      blocks: residual blocks on the grid, in the encoder and in the decoder.
      activation: the nonlinearity, a name in nets.ACTIVATIONS.
      temperature: τ of the relaxation at the start.
      temperature_end: τ from `anneal_steps` on; until then it falls geometrically.
      anneal_steps: how many steps the temperature falls.
      straight_through: the decoder sees one-hot codes, and only gradients see the relaxed ones.
      kl_weight: of the KL term in the training loss; 1 trains the bound itself.
      kl_steps: over so many steps that weight rises from zero in a straight line.
      importance_samples: of the estimate `iwae`.
      decoder, mean, variance, noise_std, levels: p(x | z), as likelihoods.make has them.
      sample_means: `sample` gives the decoder's means too, for looking at.
      average: decay of the moving average of the parameters; 0 keeps none.
    """

    codes: int = number(64, least=1)
    features: int = number(16, least=1)
    widths: tuple[int, ...] = number((32, 64), least=1)
    blocks: int = number(2, least=0, most=MOST_LAYERS)
    activation: str = "relu"
    temperature: float = number(1.0, above=0)
    temperature_end: float = number(0.0625, above=0)
    anneal_steps: int = number(2000, least=0)
    straight_through: bool = False
    kl_weight: float = number(1.0, least=0)
    kl_steps: int = number(500, least=0)
    importance_samples: int = number(16, least=1, most=MOST_STEPS)
    decoder: likelihoods.Name = "gaussian"
    mean: likelihoods.Mean = "linear"
    variance: likelihoods.Variance = "scalar"
    noise_std: float = number(1.0, least=1e-6, most=1e6)
    levels: int = number(256, least=2, most=2**16)
    sample_means: bool = True
    average: float = number(0.0, least=0, below=1)

    def __post_init__(self):
        nets.check_autoencoder("conv", self.widths, self.activation, "discrete_vae")


@struct.dataclass
class Params:
    """What a discrete variational auto-encoder learns.

    Attributes:
      encoder: φ, of the network x -> logits [B, h, w, K] of q(z | x).
      decoder: θ, of the network [B, h, w, D] -> f, the outputs that p(x | z) is made of.
      codebook: e [K, D], the vector that stands for each code.
      log_std: log σ or log b of p(x | z), [] or like one image; None where it is no parameter.
      shape: of one image.
    """

    encoder: Any
    decoder: Any
    codebook: Array
    log_std: Array | None
    shape: tuple[int, int, int] = struct.field(pytree_node=False)


def make(config: Config, tx: optax.GradientTransformation) -> Model:
    """A discrete VAE that learns by gradients of a relaxed ELBO; its memory counts the steps []."""
    likelihood = likelihoods.make(
        config.decoder, config.mean, config.variance, config.noise_std, config.levels
    )
    encoder = nets.grid_encoder(config.widths, config.codes, config.blocks, config.activation)

    def decoder(shape: tuple[int, ...]) -> Net:
        shape, widths = likelihood.shape(shape), config.widths[::-1]
        return nets.batched(nets.grid_decoder(widths, shape, config.blocks, config.activation), 3)

    def init(key: Key, batch: Batch) -> tuple[Params, Array]:
        """Raises ConfigError for data that are not images."""
        shape = nets.image_shape(batch["x"], "discrete_vae")
        key_encoder, key_decoder, key_codes = jax.random.split(key, 3)
        grid = (1, *nets.grid_shape(shape, len(config.widths)), config.features)
        return Params(
            encoder=encoder.init(key_encoder, batch["x"]),
            decoder=decoder(shape).init(key_decoder, jnp.zeros(grid)),
            codebook=jax.random.normal(key_codes, (config.codes, config.features)),
            log_std=likelihood.init(shape),
            shape=shape,
        ), jnp.zeros((), jnp.int32)

    def log_posterior(params: Params, x: Array) -> Array:
        """log q(z_i = k | x): [B, h, w, K]."""
        return jax.nn.log_softmax(encoder.apply(params.encoder, x))

    def outputs(params: Params, vectors: Array) -> Array:
        """f = g_θ(e_z), what p(x | z) is made of: [..., B, h, w, D] -> [..., B, *of one f]."""
        return decoder(params.shape).apply(params.decoder, vectors)

    def log_likelihood(params: Params, x: Array, vectors: Array) -> Array:
        """log p(x | z) in nats: [..., B]."""
        return likelihood.log_prob(params.log_std, outputs(params, vectors), x)

    def loss(key: Key, params: Params, memory: Array, batch: Batch):
        log_q = log_posterior(params, batch["x"])
        # τ_t = τ_0 (τ_end / τ_0)^(t / T), and β_t = β t / T
        cooled = jnp.minimum(memory / max(config.anneal_steps, 1), 1)
        tau = config.temperature * (config.temperature_end / config.temperature) ** cooled
        beta = config.kl_weight * jnp.minimum((memory + 1) / max(config.kl_steps, 1), 1)
        y = gumbel_softmax(key, log_q, tau, config.straight_through)
        # (1)  E_q[log p(x | z)], over relaxed codes
        reconstruction = jnp.mean(log_likelihood(params, batch["x"], y @ params.codebook))
        # (2)  KL(q(z | x) || p(z)), in closed form
        kl = jnp.mean(kl_to_uniform(log_q))
        share = jnp.mean(jnp.exp(log_q), axis=(0, 1, 2))
        info: Info = {
            "reconstruction": reconstruction,
            "kl": kl,
            "temperature": tau,
            "kl_weight": beta,
            "perplexity": perplexity(share),
        }
        return beta * kl - reconstruction, (memory + 1, info)

    def elbo(key: Key, params: Params, batch: Batch) -> Array:
        """log p(x | z) - KL(q(z | x) || p(z)) with hard codes z ~ q(z | x), in nats: [B]."""
        log_q = log_posterior(params, batch["x"])
        z = jax.random.categorical(key, log_q)
        return log_likelihood(params, batch["x"], params.codebook[z]) - kl_to_uniform(log_q)

    def iwae(key: Key, params: Params, batch: Batch, draws: int) -> Weighed:
        """log 1/S Σ_s p(x, z_s) / q(z_s | x), z_s ~ q(z | x), in nats: [B]."""
        log_q = log_posterior(params, batch["x"])

        def log_weights(key: Key, draws: int) -> Array:
            z = jax.random.categorical(key, log_q, shape=(draws, *log_q.shape[:-1]))
            # log w = log p(x | z) + log p(z) - log q(z | x)
            log_p = log_likelihood(params, batch["x"], params.codebook[z])
            each = jnp.take_along_axis(log_q[None], z[..., None], -1) + math.log(config.codes)
            return log_p - jnp.sum(each, axis=(2, 3, 4))

        return importance.estimate(key, log_weights, draws, chunk=1)

    def kl_of(key: Key, params: Params, batch: Batch) -> Array:
        return kl_to_uniform(log_posterior(params, batch["x"]))

    def prior(key: Key, params: Params, n: int) -> Array:
        """z ~ p(z), uniform: int32 [n, h, w]."""
        grid = nets.grid_shape(params.shape, len(config.widths))
        return jax.random.randint(key, (n, *grid), 0, config.codes)

    def sample(key: Key, params: Params, n: int, given: Batch = NOTHING) -> Batch:
        """z ~ p(z), then x ~ p(x | z), with its mean if `sample_means` is set."""
        read_given(given, {}, n, "discrete_vae")
        key_z, key_x = jax.random.split(key)
        f = outputs(params, params.codebook[prior(key_z, params, n)])
        return likelihood.sample(key_x, params.log_std, f, config.sample_means)

    def decode(key: Key, params: Params, codes: Array) -> Batch:
        """The mean of p(x | z), of z [B, h, w]."""
        return {"x": likelihood.mean(params.log_std, outputs(params, params.codebook[codes]))}

    def encode(key: Key, params: Params, batch: Batch) -> Array:
        """The likeliest code of each place: int32 [B, h, w]."""
        return jnp.argmax(log_posterior(params, batch["x"]), -1).astype(jnp.int32)

    kl = Measure(of_params(kl_of), Exactness.EXACT, "nats", "lower", detail="KL(q(z | x) || p(z))")
    estimates = bounds.estimates(of_params(iwae), config.importance_samples, likelihood.levels)
    return Model(
        *descend(init, loss, tx, config.average),
        sample=of_params(sample),
        log_prob=Measure(of_params(elbo), Exactness.LOWER_BOUND, density=True),
        measures={**estimates, "kl": kl},
        spaces={"x": likelihood.space},
        latents=Latents(
            of_params(decode), of_params(encode), of_params(prior), categorical(config.codes)
        ),
    )
