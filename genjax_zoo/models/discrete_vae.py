"""Discrete variational auto-encoder: a grid of categorical codes, relaxed while it learns.

    p(z)     = Π_i 1 / K                                              the prior: uniform
    q(z | x) = Π_i Categorical(z_i; softmax(f_φ(x)_i))                the encoder
    p(x | z) = Bernoulli, Gaussian or logit-Laplace around g_θ(e_z)   the decoder

Ramesh et al., Zero-shot text-to-image generation, 2021 (arXiv:2102.12092), stage one. Gradients
reach φ through the Gumbel-softmax: Jang, Gu & Poole 2017 (arXiv:1611.01144); Maddison, Mnih & Teh
2017 (arXiv:1611.00712). The relaxation serves learning alone: `log_prob` draws hard codes of q, and
its mean is the true evidence lower bound under the uniform prior, whatever the weight of the KL
was in training. Samples are of that same prior; with a KL weight other than one, q as a whole need
not be uniform, and the bound and the samples both tell so. (DALL-E's second half learns a prior.)
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import struct

from genjax_zoo import nets
from genjax_zoo.contract import (
    BINARY,
    REAL,
    UNIT,
    Array,
    Batch,
    ConfigError,
    Exactness,
    Info,
    Key,
    Latents,
    Measure,
    Model,
    categorical,
)
from genjax_zoo.learn.state import eval_params, of_params
from genjax_zoo.learn.verbs import descend
from genjax_zoo.maths.probability import distributions
from genjax_zoo.nets import ACTIVATIONS, Net
from genjax_zoo.typed import choose

VERB = "descend"


@dataclasses.dataclass(frozen=True)
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
      decoder: "bernoulli" for data that are exactly 0 or 1, "gaussian" for real numbers,
        "logit_laplace" for [0, 1] (see `logit_laplace`).
      mean: a Gaussian decoder's mean is the network's output ("linear") or, for data in [0, 1],
        its sigmoid.
      variance: σ of a Gaussian, or b of a logit-Laplace, stays ("fixed") or is learnt ("scalar").
      noise_std: that σ or b at the start.
      sample_means: `sample` returns the decoder's means; False returns draws from p(x).
      average: decay of the moving average of the parameters; 0 keeps none.
    """

    codes: int = 64
    features: int = 16
    widths: tuple[int, ...] = (32, 64)
    blocks: int = 2
    activation: str = "relu"
    temperature: float = 1.0
    temperature_end: float = 0.0625
    anneal_steps: int = 2000
    straight_through: bool = False
    kl_weight: float = 1.0
    kl_steps: int = 500
    importance_samples: int = 16
    decoder: Literal["bernoulli", "gaussian", "logit_laplace"] = "gaussian"
    mean: Literal["linear", "sigmoid"] = "linear"
    variance: Literal["fixed", "scalar"] = "scalar"
    noise_std: float = 1.0
    sample_means: bool = True
    average: float = 0.0

    def __post_init__(self):
        choose(self.activation, ACTIVATIONS, "activation")
        lows = {"codes": 1, "features": 1, "importance_samples": 1}
        lows |= {"blocks": 0, "anneal_steps": 0, "kl_steps": 0, "kl_weight": 0}
        for name, low in lows.items():
            if getattr(self, name) < low:
                raise ConfigError(
                    f"discrete_vae: {name} should be at least {low}, got {getattr(self, name)}."
                )
        for name in ("temperature", "temperature_end", "noise_std"):
            if getattr(self, name) <= 0:
                raise ConfigError(
                    f"discrete_vae: {name} should be positive, got {getattr(self, name)}."
                )
        if not self.widths or min(self.widths) < 1:
            raise ConfigError(
                "discrete_vae: widths should be one number or more, all at least 1, got "
                f"{self.widths}."
            )
        if not 0 <= self.average < 1:
            raise ConfigError(f"discrete_vae: average should lie in [0, 1), got {self.average}.")


@struct.dataclass
class Params:
    """What a discrete variational auto-encoder learns.

    Attributes:
      encoder: φ, of the network x -> logits [B, h, w, K] of q(z | x).
      decoder: θ, of the network [B, h, w, D] -> logits or means of p(x | z).
      codebook: e [K, D], the vector that stands for each code.
      log_std: log σ or log b [] of the decoder; None where it is not learnt.
      shape: of one image.
    """

    encoder: Any
    decoder: Any
    codebook: Array
    log_std: Array | None
    shape: tuple[int, int, int] = struct.field(pytree_node=False)


def make(config: Config, tx: optax.GradientTransformation) -> Model:
    """A discrete VAE that learns by gradients of a relaxed ELBO; its memory counts the steps []."""
    encoder = nets.grid_encoder(config.widths, config.codes, config.blocks, config.activation)

    def decoder(shape: tuple[int, int, int]) -> Net:
        return nets.grid_decoder(config.widths[::-1], shape, config.blocks, config.activation)

    def init(key: Key, batch: Batch) -> tuple[Params, Array]:
        """Raises ConfigError for data that are not images."""
        x = batch["x"]
        if x.ndim != 4:
            raise ConfigError(
                f"discrete_vae: expected images [B, H, W, C], got data of shape {x.shape}. "
                "Choose images."
            )
        height, width, channels = x.shape[1:]
        shape = (height, width, channels)
        key_encoder, key_decoder, key_codes = jax.random.split(key, 3)
        grid = (1, *nets.grid_shape(shape, len(config.widths)), config.features)
        learns_std = config.decoder != "bernoulli" and config.variance == "scalar"
        return Params(
            encoder=encoder.init(key_encoder, x),
            decoder=decoder(shape).init(key_decoder, jnp.zeros(grid)),
            codebook=jax.random.normal(key_codes, (config.codes, config.features)),
            log_std=jnp.full((), math.log(config.noise_std), jnp.float32) if learns_std else None,
            shape=shape,
        ), jnp.zeros((), jnp.int32)

    def log_posterior(params: Params, x: Array) -> Array:
        """log q(z_i = k | x): [B, h, w, K]."""
        return jax.nn.log_softmax(encoder.apply(params.encoder, x))

    def outputs(params: Params, vectors: Array) -> Array:
        """g_θ, the logits or means of p(x | z): [B, h, w, D] -> [B, H, W, C]."""
        g = decoder(params.shape).apply(params.decoder, vectors)
        squash = config.decoder == "gaussian" and config.mean == "sigmoid"
        return jax.nn.sigmoid(g) if squash else g

    def noise_log_std(params: Params) -> Array | float:
        return math.log(config.noise_std) if params.log_std is None else params.log_std

    def log_likelihood(params: Params, x: Array, vectors: Array) -> Array:
        """log p(x | z) in nats: [B]; -inf where x lies outside the decoder's support."""
        x, g = _flat(x), _flat(outputs(params, vectors))
        if config.decoder == "bernoulli":
            nats = distributions.bernoulli(x, g)
            return jnp.where(distributions.is_binary(x), nats, -jnp.inf)
        if config.decoder == "logit_laplace":
            return logit_laplace(x, g, noise_log_std(params))
        return distributions.gaussian(x, g, noise_log_std(params))

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
            "perplexity": jnp.exp(-jnp.sum(jax.scipy.special.xlogy(share, share))),
        }
        return beta * kl - reconstruction, (memory + 1, info)

    def elbo(key: Key, params: Params, batch: Batch) -> Array:
        """log p(x | z) - KL(q(z | x) || p(z)) with hard codes z ~ q(z | x), in nats: [B]."""
        log_q = log_posterior(params, batch["x"])
        z = jax.random.categorical(key, log_q)
        return log_likelihood(params, batch["x"], params.codebook[z]) - kl_to_uniform(log_q)

    def iwae(key: Key, params: Params, batch: Batch) -> Array:
        """log 1/S Σ_s p(x, z_s) / q(z_s | x), z_s ~ q(z | x), in nats: [B]."""
        log_q = log_posterior(params, batch["x"])

        def log_weight(key: Key) -> Array:
            z = jax.random.categorical(key, log_q)
            # log w = log p(x | z) + log p(z) - log q(z | x)
            log_p = log_likelihood(params, batch["x"], params.codebook[z])
            own = jnp.take_along_axis(log_q, z[..., None], -1) + math.log(config.codes)
            return log_p - jnp.sum(own, axis=(1, 2, 3))

        log_w = jax.lax.map(log_weight, jax.random.split(key, config.importance_samples))
        return jax.nn.logsumexp(log_w, axis=0) - math.log(config.importance_samples)

    def kl_of(key: Key, params: Params, batch: Batch) -> Array:
        del key
        return kl_to_uniform(log_posterior(params, batch["x"]))

    def mean_of(params: Params, codes: Array) -> Batch:
        g = outputs(params, params.codebook[codes])
        if config.decoder == "bernoulli":
            return {"x": jax.nn.sigmoid(g)}
        return {"x": _unsqueeze(g) if config.decoder == "logit_laplace" else g}

    def sample(key: Key, params: Params, n: int, means: bool = config.sample_means) -> Batch:
        """z uniform, then the mean of p(x | z), or with `means=False` a draw from it."""
        key_z, key_x = jax.random.split(key)
        grid = nets.grid_shape(params.shape, len(config.widths))
        z = jax.random.randint(key_z, (n, *grid), 0, config.codes)
        if means:
            return mean_of(params, z)
        if config.decoder == "bernoulli":
            x = mean_of(params, z)["x"]
            return {"x": jax.random.bernoulli(key_x, x).astype(x.dtype)}
        g, scale = outputs(params, params.codebook[z]), jnp.exp(noise_log_std(params))
        if config.decoder == "logit_laplace":
            return {"x": _unsqueeze(g + scale * jax.random.laplace(key_x, g.shape))}
        return {"x": g + scale * jax.random.normal(key_x, g.shape)}

    def encode(key: Key, params: Params, batch: Batch) -> Array:
        """The likeliest code of each place: int32 [B, h, w]."""
        del key
        return jnp.argmax(log_posterior(params, batch["x"]), -1).astype(jnp.int32)

    supports = {"bernoulli": BINARY, "gaussian": REAL}
    return Model(
        *descend(init, loss, tx, config.average),
        sample=of_params(sample),
        log_prob=Measure(of_params(elbo), Exactness.LOWER_BOUND, density=True),
        measures={
            "iwae": Measure(
                of_params(iwae),
                Exactness.ESTIMATE,
                "nats",
                detail=f"{config.importance_samples} importance samples",
            ),
            "kl": Measure(
                of_params(kl_of), Exactness.EXACT, "nats", "lower", detail="KL(q(z | x) || p(z))"
            ),
        },
        spaces={"x": supports.get(config.decoder, UNIT)},
        latents=Latents(
            decode=lambda key, state, codes: mean_of(eval_params(state), codes),
            encode=of_params(encode),
            space=categorical(),
        ),
    )


def gumbel_softmax(key: Key, logits: Array, tau: Array | float, hard: bool = False) -> Array:
    """y = softmax((l + g) / τ), g Gumbel noise: [..., K] -> [..., K] (Jang et al., equation 2).

    As τ → 0, y becomes one-hot, a draw of Categorical(softmax(l)). `hard` makes it so at any τ,
    and leaves the gradient that of the relaxed one.
    """
    y = jax.nn.softmax((logits + jax.random.gumbel(key, logits.shape)) / tau)
    if not hard:
        return y
    return y + jax.lax.stop_gradient(jax.nn.one_hot(jnp.argmax(y, -1), y.shape[-1]) - y)


def kl_to_uniform(log_q: Array) -> Array:
    """Σ_i KL(q_i || uniform) = Σ_i [log K - H(q_i)], in nats: [B, h, w, K] -> [B]."""
    k = log_q.shape[-1]
    return jnp.sum(jnp.exp(log_q) * (log_q + math.log(k)), axis=(1, 2, 3))


_EPSILON = 0.1
"""ε of the logit-Laplace: x in [0, 1] is squeezed into [ε, 1 - ε], where the logit is finite."""


def logit_laplace(x: Array, location: Array, log_scale: Array | float) -> Array:
    """log density of x in [0, 1] in nats per unit volume: [..., D] -> [...].

    Ramesh et al. 2021, appendix A.3: u = (1 - 2ε) x + ε has a logit that is Laplace(μ, b),

        log p(x) = Σ_d [-|logit u_d - μ_d| / b - log 2b u_d (1 - u_d) + log(1 - 2ε)].

    It puts some of its mass a little beyond [0, 1], so what it says of [0, 1] errs downwards.
    """
    u = (1 - 2 * _EPSILON) * x + _EPSILON
    log_scale = jnp.asarray(log_scale)
    logit = jnp.log(u) - jnp.log1p(-u)
    volume = jnp.log(2 * u * (1 - u)) + log_scale - math.log(1 - 2 * _EPSILON)
    nats = jnp.sum(-jnp.abs(logit - location) * jnp.exp(-log_scale) - volume, axis=-1)
    return jnp.where(jnp.all((x >= 0) & (x <= 1), axis=-1), nats, -jnp.inf)


def _unsqueeze(logit: Array) -> Array:
    """From the logit of u back to x, and into [0, 1]."""
    return jnp.clip((jax.nn.sigmoid(logit) - _EPSILON) / (1 - 2 * _EPSILON), 0, 1)


def _flat(x: Array) -> Array:
    return x.reshape(x.shape[0], -1)
