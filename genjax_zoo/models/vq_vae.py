"""Vector-quantised variational auto-encoder: an image is a grid of codes out of a learnt book.

    z_e(x)   = f_φ(x)                                     the encoder: a grid of vectors in R^D
    z_i      = argmin_k ‖z_e(x)_i - e_k‖                  each place takes the nearest code
    p(x | z) = Bernoulli(x; sigmoid(g_θ(e_z)))  or  N(x; g_θ(e_z), σ²)        the decoder
    p(z)     = Π_i p_ψ(z_i | z_1, ..., z_{i-1})           the prior, places row by row

van den Oord, Vinyals & Kavukcuoglu, Neural discrete representation learning, 2017
(arXiv:1711.00937). The paper fits its prior, a PixelCNN, after all else; here a small PixelCNN
learns along, from the codes as they come, and nothing flows from it into the rest. Since the prior
is a true distribution of codes and the decoder a true one of images,

    log p(x) = log Σ_z p(z) p(x | z)  >=  log p(z) + log p(x | z)    at any z, and so at the chosen

one is a lower bound in nats, which `log_prob` returns. It is loose by -log p(z | x).

Codes that no vector takes any more are replaced by vectors of the batch (Dhariwal et al. 2020,
arXiv:2005.00341, section 3.1, "random restarts").
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

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
    Once,
    State,
    categorical,
)
from genjax_zoo.learn.state import TrainState, of_params
from genjax_zoo.learn.verbs import descend
from genjax_zoo.maths.inference import bounds
from genjax_zoo.maths.inference.codebooks import (
    Memory,
    begin,
    ema_update,
    nearest,
    perplexity,
    revive,
    some_rows,
    straight_through,
)
from genjax_zoo.maths.probability import likelihoods
from genjax_zoo.maths.probability.given import read_given
from genjax_zoo.nets import Net
from genjax_zoo.typed import MOST_LAYERS, number

VERB = "descend"


@typed.config
class Config:
    """A vector-quantised variational auto-encoder, for images.

    Attributes:
      codes: K, how many codes the book holds.
      features: D, numbers of a code.
      widths: channels of the encoder after each halving of the image; their number says how much
        smaller the grid is than the image. The decoder has the same in reverse.
      blocks: residual blocks on the grid, in the encoder and in the decoder.
      activation: the nonlinearity, a name in nets.ACTIVATIONS.
      codebook: the codes follow the gradient of ‖sg[z_e] - e‖² ("loss", the paper's equation 3), or
        are moving means of the vectors that took them ("ema", its appendix A.1).
      commitment: β, weight of ‖z_e - sg[e]‖².
      decay: γ, of the moving counts and sums.
      revive_below: a code whose moving count falls below this share of the count that all would
        have were all used alike is replaced by an encoder's vector of the batch; 0 revives none.
      prior_width: channels of the prior's network.
      prior_layers: of its masked 3x3 convolutions after the first.
      decoder, mean, variance, noise_std, levels: p(x | z), as likelihoods.make has them.
      sample_means: `sample` gives the decoder's means too, for looking at.
    """

    codes: int = number(64, least=1)
    features: int = number(16, least=1)
    widths: tuple[int, ...] = number((32, 64), least=1)
    blocks: int = number(2, least=0, most=MOST_LAYERS)
    activation: str = "relu"
    codebook: Literal["ema", "loss"] = "ema"
    commitment: float = number(0.25, least=0)
    decay: float = number(0.99, least=0, below=1)
    revive_below: float = number(0.03, least=0)
    prior_width: int = number(64, least=1)
    prior_layers: int = number(2, least=0, most=MOST_LAYERS)
    decoder: likelihoods.Name = "gaussian"
    mean: likelihoods.Mean = "linear"
    variance: likelihoods.Variance = "scalar"
    noise_std: float = number(1.0, least=1e-6, most=1e6)
    levels: int = number(256, least=2, most=2**16)
    sample_means: bool = True

    def __post_init__(self):
        nets.check_autoencoder("conv", self.widths, self.activation, "vq_vae")

    def likelihood(self) -> likelihoods.Likelihood:
        """p(x | f), f the decoder's outputs."""
        return likelihoods.make(self.decoder, self.mean, self.variance, self.noise_std, self.levels)


@struct.dataclass
class Params:
    """What gradients teach.

    Attributes:
      encoder: φ, of the network x -> z_e [B, h, w, D].
      decoder: θ, of the network [B, h, w, D] -> f, the outputs that p(x | z) is made of.
      prior: ψ, of the PixelCNN, codes -> logits [B, h, w, K].
      codebook: e [K, D], taught by gradients, or moving means that stand here to be read.
      log_std: log σ of p(x | z), [] or like one image; None where it is no parameter.
      shape: of one image.
    """

    encoder: Any
    decoder: Any
    prior: Any
    codebook: Array
    log_std: Array | None
    shape: tuple[int, int, int] = struct.field(pytree_node=False)


def make(config: Config, tx: optax.GradientTransformation) -> Model:
    """A VQ-VAE: gradients teach the networks, and gradients or moving means the codebook."""
    likelihood = config.likelihood()
    encoder = encoder_of(config)
    prior = nets.pixelcnn(config.codes, config.prior_width, config.prior_layers)

    def init(key: Key, batch: Batch) -> tuple[Params, Memory]:
        """The first codes are vectors of the batch. Raises ConfigError for data not images."""
        shape = nets.image_shape(batch["x"], "vq_vae")
        key_encoder, key_decoder, key_prior, key_codes = jax.random.split(key, 4)
        phi = encoder.init(key_encoder, batch["x"])
        z_e = encoder.apply(phi, batch["x"])
        e = some_rows(key_codes, z_e.reshape(-1, config.features), config.codes)
        even = jnp.asarray(z_e.size / config.features / config.codes, jnp.float32)
        return Params(
            encoder=phi,
            decoder=_decoder(config, shape).init(key_decoder, z_e[:1]),
            prior=prior.init(key_prior, jnp.zeros((*z_e[:1].shape[:3], config.codes))),
            codebook=e,
            log_std=likelihood.init(shape),
            shape=shape,
        ), begin(e, even)

    def log_likelihood(params: Params, x: Array, vectors: Array) -> Array:
        """log p(x | z) in nats: [B]."""
        return likelihood.log_prob(params.log_std, outputs_of(config, params, vectors), x)

    def prior_logits(params: Params, codes: Array) -> Array:
        """Of p_ψ(z_i | z_<i): codes [B, h, w] -> [B, h, w, K]."""
        return prior.apply(params.prior, jax.nn.one_hot(codes, config.codes))

    def log_prior(params: Params, codes: Array) -> Array:
        """log p(z) in nats: [B]."""
        logs = jax.nn.log_softmax(prior_logits(params, codes))
        return jnp.sum(jnp.take_along_axis(logs, codes[..., None], -1), axis=(1, 2, 3))

    def loss(key: Key, params: Params, memory: Memory, batch: Batch):
        still, e = jax.lax.stop_gradient, params.codebook
        z_e = encoder.apply(params.encoder, batch["x"])
        codes = nearest(still(z_e), still(e))
        # (1)  log p(x | z_q(x)), whose gradient by z_q goes straight through to z_e
        reconstruction = log_likelihood(params, batch["x"], straight_through(z_e, e[codes]))
        # (2)  ‖sg[z_e(x)] - e‖²: zero, and moving means in its stead, if `codebook` is "ema"
        book = jnp.sum((still(z_e) - e[codes]) ** 2, axis=(1, 2, 3))
        # (3)  β ‖z_e(x) - sg[e]‖²
        commitment = config.commitment * jnp.sum((z_e - still(e[codes])) ** 2, axis=(1, 2, 3))
        # The prior learns of the codes, and they nothing of it.
        code = log_prior(params, codes)
        terms = -reconstruction + commitment - code
        if config.codebook == "loss":
            terms += book

        vectors = still(z_e).reshape(-1, config.features)
        new = ema_update(memory, codes.reshape(-1), vectors, config.decay)
        new = dataclasses.replace(new, offers=some_rows(key, vectors, config.codes))
        used = jnp.bincount(codes.reshape(-1), length=config.codes) / codes.size
        info: Info = {
            "reconstruction": jnp.mean(reconstruction),
            "prior": jnp.mean(code),
            "quantisation": jnp.mean(book),
            "perplexity": perplexity(used),
            "usage": jnp.mean(used > 0),
        }
        return jnp.mean(terms), (new, info)

    start, follow = descend(init, loss, tx)

    def begun(key: Key, batch: Batch, params: Params | None = None) -> TrainState:
        """The state before any step, its moving means those of the codebook it begins with."""
        state = start(key, batch, params)
        memory = begin(state.params.codebook, state.memory.even)
        return dataclasses.replace(state, memory=memory)

    def step(key: Key, state: TrainState, batch: Batch) -> tuple[TrainState, Info]:
        """One step down the loss; then the codes that died are revived."""
        state, info = follow(key, state, batch)
        e, memory, revived = revive(state.params.codebook, state.memory, config.revive_below)
        e = memory.means() if config.codebook == "ema" else e
        params = dataclasses.replace(state.params, codebook=e)
        state = dataclasses.replace(state, params=params, memory=memory)
        return state, {**info, "revived": revived}

    def encode(key: Key, params: Params, batch: Batch) -> Array:
        """The codes of x, int32 [B, h, w]."""
        return nearest(encoder.apply(params.encoder, batch["x"]), params.codebook)

    def bound(key: Key, params: Params, batch: Batch) -> Array:
        """log p(z) + log p(x | z) at the nearest codes z, in nats: [B]."""
        codes = encode(key, params, batch)
        return log_prior(params, codes) + log_likelihood(params, batch["x"], params.codebook[codes])

    def distortion(key: Key, params: Params, batch: Batch) -> Array:
        """-log p(x | z) at the nearest codes, in nats: [B]; what the bound has besides is rate."""
        vectors = params.codebook[encode(key, params, batch)]
        return -log_likelihood(params, batch["x"], vectors)

    def surprise(key: Key, params: Params, batch: Batch, log_usage: Array) -> Array:
        """Mean over the grid of -log of the running share of the code taken, in nats: [B]."""
        return -jnp.mean(log_usage[encode(key, params, batch)], axis=(1, 2))

    def usage(key: Key, state: State) -> Once:
        """log of each code's running share, smoothed by a thousandth of an even one: [K]."""
        del key
        counts = state.memory.counts
        share = counts / jnp.sum(counts)
        smooth = (share + 1e-3 / config.codes) / (1 + 1e-3)
        notes = {"perplexity": perplexity(share), "usage": jnp.mean(share > 0.01 / config.codes)}
        return Once(jnp.log(smooth), notes=notes)

    def draw_codes(key: Key, params: Params, n: int) -> Array:
        """z ~ p(z), code by code: int32 [n, h, w]."""
        h, w = nets.grid_shape(params.shape, len(config.widths))

        def draw(i: Array, codes: Array) -> Array:
            # z_i ~ p_ψ(z_i | z_<i), which is blind to the places after i, not yet drawn
            logits = prior_logits(params, codes)[:, i // w, i % w]
            drawn = jax.random.categorical(jax.random.fold_in(key, i), logits)
            return codes.at[:, i // w, i % w].set(drawn.astype(jnp.int32))

        return jax.lax.fori_loop(0, h * w, draw, jnp.zeros((n, h, w), jnp.int32))

    def sample(key: Key, params: Params, n: int, given: Batch = NOTHING) -> Batch:
        """z ~ p(z), then x ~ p(x | z), with its mean if `sample_means` is set."""
        read_given(given, {}, n, "vq_vae")
        key_z, key_x = jax.random.split(key)
        return drawn_from(config, key_x, params, draw_codes(key_z, params, n))

    def decode(key: Key, params: Params, codes: Array) -> Batch:
        """The mean of p(x | z), of z [B, h, w]."""
        f = outputs_of(config, params, params.codebook[codes])
        return {"x": likelihood.mean(params.log_std, f)}

    log_prob = Measure(of_params(bound), Exactness.LOWER_BOUND, density=True)
    measures = {
        "distortion": Measure(
            *(of_params(distortion), Exactness.EXACT, "nats", "lower"),
            detail="-log p(x | z), nearest codes",
        ),
        "code_surprise": Measure(
            *(of_params(surprise), Exactness.EXACT, "nats"),
            detail="per code, under running shares; its exponential is a perplexity",
            once=usage,
        ),
    }
    if likelihood.levels:
        measures["bits"] = bounds.bits(log_prob, likelihood.levels)
    return Model(
        begun,
        step,
        sample=of_params(sample),
        log_prob=log_prob,
        measures=measures,
        spaces={"x": likelihood.space},
        latents=Latents(
            of_params(decode), of_params(encode), of_params(draw_codes), categorical(config.codes)
        ),
    )


def _decoder(config: Config, shape: tuple[int, ...]) -> Net:
    shape = config.likelihood().shape(shape)
    return nets.grid_decoder(config.widths[::-1], shape, config.blocks, config.activation)


def outputs_of(config: Config, params: Params, vectors: Array) -> Array:
    """f = g_θ(e_z), what p(x | z) is made of: [B, h, w, D] -> [B, *of one f]."""
    return _decoder(config, params.shape).apply(params.decoder, vectors)


def drawn_from(config: Config, key: Key, params: Params, codes: Array) -> Batch:
    """x ~ p(x | z), and its mean with `sample_means`, of codes z [B, h, w]."""
    f = outputs_of(config, params, params.codebook[codes])
    return config.likelihood().sample(key, params.log_std, f, config.sample_means)


def encoder_of(config: Config) -> Net:
    """The network x [B, H, W, C] -> z_e(x) [B, h, w, D]."""
    return nets.grid_encoder(config.widths, config.features, config.blocks, config.activation)
