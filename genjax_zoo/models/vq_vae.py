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
    Array,
    Batch,
    ConfigError,
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
from genjax_zoo.learn.state import TrainState, eval_params
from genjax_zoo.learn.verbs import descend
from genjax_zoo.maths.probability import distributions
from genjax_zoo.nets import ACTIVATIONS, Net
from genjax_zoo.typed import choose

VERB = "descend"


@dataclasses.dataclass(frozen=True)
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
      decoder: "bernoulli" for data that are exactly 0 or 1, "gaussian" for real numbers.
      mean: a Gaussian decoder's mean is the network's output ("linear") or, for data in [0, 1],
        its sigmoid.
      variance: a Gaussian decoder's σ² stays as it is ("fixed") or is learnt ("scalar").
      noise_std: σ at the start, in units of x.
      sample_means: `sample` returns the decoder's means; False returns draws from p(x).
    """

    codes: int = 64
    features: int = 16
    widths: tuple[int, ...] = (32, 64)
    blocks: int = 2
    activation: str = "relu"
    codebook: Literal["ema", "loss"] = "ema"
    commitment: float = 0.25
    decay: float = 0.99
    revive_below: float = 0.03
    prior_width: int = 64
    prior_layers: int = 2
    decoder: Literal["bernoulli", "gaussian"] = "gaussian"
    mean: Literal["linear", "sigmoid"] = "linear"
    variance: Literal["fixed", "scalar"] = "scalar"
    noise_std: float = 1.0
    sample_means: bool = True

    def __post_init__(self):
        choose(self.activation, ACTIVATIONS, "activation")
        for name in ("codes", "features", "prior_width"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"vq_vae: {name} should be at least 1, got {getattr(self, name)}."
                )
        for name in ("blocks", "prior_layers", "commitment", "revive_below"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"vq_vae: {name} should be at least 0, got {getattr(self, name)}."
                )
        if not self.widths or min(self.widths) < 1:
            raise ConfigError(
                f"vq_vae: widths should be one number or more, all at least 1, got {self.widths}."
            )
        if not 0 <= self.decay < 1:
            raise ConfigError(f"vq_vae: decay should lie in [0, 1), got {self.decay}.")
        if self.noise_std <= 0:
            raise ConfigError(f"vq_vae: noise_std should be positive, got {self.noise_std}.")


@struct.dataclass
class Params:
    """What gradients teach.

    Attributes:
      encoder: φ, of the network x -> z_e [B, h, w, D].
      decoder: θ, of the network [B, h, w, D] -> logits or means of p(x | z).
      prior: ψ, of the causal network, codes -> logits [B, h, w, K].
      codebook: e [K, D], or None where moving means make it.
      log_std: log σ [] of a Gaussian decoder; None where σ is not learnt.
      shape: of one image.
    """

    encoder: Any
    decoder: Any
    prior: Any
    codebook: Array | None
    log_std: Array | None
    shape: tuple[int, int, int] = struct.field(pytree_node=False)


@struct.dataclass
class Memory:
    """What the codebook remembers.

    Attributes:
      counts: N [K], moving counts of the vectors that took each code in a batch.
      sums: m [K, D], moving sums of those vectors. e = m / N, unless gradients teach the codebook.
      offers: [K, D], vectors of the last batch, one to stand in for each code that dies.
      even: [], the count of each code were all used alike: B h w / K.
    """

    counts: Array
    sums: Array
    offers: Array
    even: Array


def make(config: Config, tx: optax.GradientTransformation) -> Model:
    """A VQ-VAE: gradients teach the networks, and gradients or moving means the codebook."""
    encoder = encoder_of(config)
    prior = nets.causal(config.codes, config.prior_width, config.prior_layers)

    def decoder(shape: tuple[int, int, int]) -> Net:
        return nets.grid_decoder(config.widths[::-1], shape, config.blocks, config.activation)

    def init(key: Key, batch: Batch) -> tuple[Params, Memory]:
        """The first codes are vectors of the batch. Raises ConfigError for data not images."""
        x = batch["x"]
        if x.ndim != 4:
            raise ConfigError(
                f"vq_vae: expected images [B, H, W, C], got data of shape {x.shape}. Choose images."
            )
        height, width, channels = x.shape[1:]
        shape = (height, width, channels)
        keys = dict(
            zip(("encoder", "decoder", "prior", "codes"), jax.random.split(key, 4), strict=True)
        )
        grid = (1, *nets.grid_shape(shape, len(config.widths)))
        learns_std = config.decoder == "gaussian" and config.variance == "scalar"
        phi = encoder.init(keys["encoder"], x)
        z_e = encoder.apply(phi, x)
        e = some_rows(keys["codes"], z_e.reshape(-1, config.features), config.codes)
        even = jnp.asarray(z_e.size / config.features / config.codes, jnp.float32)
        counts = jnp.full(config.codes, even, jnp.float32)
        means = config.codebook == "ema"
        return Params(
            encoder=phi,
            decoder=decoder(shape).init(keys["decoder"], jnp.zeros((*grid, config.features))),
            prior=prior.init(keys["prior"], jnp.zeros((*grid, config.codes))),
            codebook=None if means else e,
            log_std=jnp.full((), math.log(config.noise_std), jnp.float32) if learns_std else None,
            shape=shape,
        ), Memory(counts, counts[:, None] * e, e, even)

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
        return distributions.gaussian(x, g, noise_log_std(params))

    def prior_logits(params: Params, codes: Array) -> Array:
        """Of p_ψ(z_i | z_<i): codes [B, h, w] -> [B, h, w, K]."""
        return prior.apply(params.prior, jax.nn.one_hot(codes, config.codes))

    def log_prior(params: Params, codes: Array) -> Array:
        """log p(z) in nats: [B]."""
        logs = jax.nn.log_softmax(prior_logits(params, codes))
        return jnp.sum(jnp.take_along_axis(logs, codes[..., None], -1), axis=(1, 2, 3))

    def loss(key: Key, params: Params, memory: Memory, batch: Batch):
        still = jax.lax.stop_gradient
        e = codebook_of(params, memory)
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

    def step(key: Key, state: TrainState, batch: Batch) -> tuple[TrainState, Info]:
        """One step down the loss; then the codes that died are revived."""
        state, info = follow(key, state, batch)
        params, memory, revived = revive(state.params, state.memory, config.revive_below)
        state = dataclasses.replace(state, params=params, memory=memory)
        return state, {**info, "revived": revived}

    def quantised(state: State, batch: Batch) -> Array:
        """The codes of x, int32 [B, h, w]."""
        params = eval_params(state)
        return nearest(encoder.apply(params.encoder, batch["x"]), codebook_of(params, state.memory))

    def vectors_of(state: State, codes: Array) -> Array:
        return codebook_of(eval_params(state), state.memory)[codes]

    def bound(key: Key, state: State, batch: Batch) -> Array:
        """log p(z) + log p(x | z) at the nearest codes z, in nats: [B]."""
        del key
        codes, params = quantised(state, batch), eval_params(state)
        likelihood = log_likelihood(params, batch["x"], vectors_of(state, codes))
        return log_prior(params, codes) + likelihood

    def distortion(key: Key, state: State, batch: Batch) -> Array:
        """-log p(x | z) at the nearest codes, in nats: [B]; what the bound has besides is rate."""
        del key
        vectors = vectors_of(state, quantised(state, batch))
        return -log_likelihood(eval_params(state), batch["x"], vectors)

    def surprise(key: Key, state: State, batch: Batch, log_usage: Array) -> Array:
        """Mean over the grid of -log of the running share of the code taken, in nats: [B]."""
        del key
        return -jnp.mean(log_usage[quantised(state, batch)], axis=(1, 2))

    def usage(key: Key, state: State) -> Once:
        """log of each code's running share, smoothed by a thousandth of an even one: [K]."""
        del key
        counts = state.memory.counts
        share = counts / jnp.sum(counts)
        smooth = (share + 1e-3 / config.codes) / (1 + 1e-3)
        told = {"perplexity": perplexity(share), "usage": jnp.mean(share > 0.01 / config.codes)}
        return Once(jnp.log(smooth), told=told)

    def mean_of(params: Params, vectors: Array) -> Array:
        g = outputs(params, vectors)
        return jax.nn.sigmoid(g) if config.decoder == "bernoulli" else g

    def decode(state: State, codes: Array) -> Batch:
        return {"x": mean_of(eval_params(state), vectors_of(state, codes))}

    def sample(key: Key, state: State, n: int, means: bool = config.sample_means) -> Batch:
        """z ~ p(z) code by code, then the mean of p(x | z), or with `means=False` a draw of it."""
        params = eval_params(state)
        key_z, key_x = jax.random.split(key)
        h, w = nets.grid_shape(params.shape, len(config.widths))

        def draw(i: Array, codes: Array) -> Array:
            # z_i ~ p_ψ(z_i | z_<i); what comes after i is not yet drawn, and not seen
            logits = prior_logits(params, codes)[:, i // w, i % w]
            drawn = jax.random.categorical(jax.random.fold_in(key_z, i), logits)
            return codes.at[:, i // w, i % w].set(drawn.astype(jnp.int32))

        codes = jax.lax.fori_loop(0, h * w, draw, jnp.zeros((n, h, w), jnp.int32))
        x = decode(state, codes)["x"]
        if means:
            return {"x": x}
        if config.decoder == "bernoulli":
            return {"x": jax.random.bernoulli(key_x, x).astype(x.dtype)}
        return {"x": x + jnp.exp(noise_log_std(params)) * jax.random.normal(key_x, x.shape)}

    return Model(
        init=start,
        step=step,
        sample=sample,
        log_prob=Measure(bound, Exactness.LOWER_BOUND, density=True),
        measures={
            "distortion": Measure(
                distortion, Exactness.EXACT, "nats", "lower", detail="-log p(x | z), nearest codes"
            ),
            "code_surprise": Measure(
                surprise,
                Exactness.EXACT,
                "nats",
                detail="per code, under running shares; its exponential is a perplexity",
                once=usage,
            ),
        },
        spaces={"x": BINARY if config.decoder == "bernoulli" else REAL},
        latents=Latents(
            decode=lambda key, state, latents: decode(state, latents),
            encode=lambda key, state, batch: quantised(state, batch),
            space=categorical(),
        ),
    )


def encoder_of(config: Config) -> Net:
    """The network x [B, H, W, C] -> z_e(x) [B, h, w, D]."""
    return nets.grid_encoder(config.widths, config.features, config.blocks, config.activation)


def codebook_of(params: Params, memory: Memory) -> Array:
    """e [K, D]: what gradients taught, or e_k = m_k / N_k (appendix A.1, equation 6)."""
    if params.codebook is not None:
        return params.codebook
    return memory.sums / jnp.maximum(memory.counts, 1e-6)[:, None]


def nearest(vectors: Array, codebook: Array) -> Array:
    """argmin_k ‖z - e_k‖ (equation 1): z [..., D] and e [K, D] -> int32 [...]."""
    # ‖z - e_k‖² = ‖z‖² - 2 zᵀe_k + ‖e_k‖², whose first term has no say
    scores = jnp.sum(codebook**2, -1) - 2 * vectors @ codebook.T
    return jnp.argmin(scores, -1).astype(jnp.int32)


def straight_through(vectors: Array, quantised: Array) -> Array:
    """The value of `quantised`, whose gradient goes to `vectors` as if they were the same."""
    return vectors + jax.lax.stop_gradient(quantised - vectors)


def ema_update(memory: Memory, codes: Array, vectors: Array, decay: float) -> Memory:
    """Moving counts and sums after a batch: codes [M] that vectors [M, D] took (appendix A.1).

    N_k ← γ N_k + (1 - γ) n_k,    m_k ← γ m_k + (1 - γ) Σ_{i: z_i = k} z_e(x)_i
    """
    mix = lambda old, new: decay * old + (1 - decay) * new
    taken = jax.nn.one_hot(codes, memory.counts.size)  # [M, K]
    counts = mix(memory.counts, jnp.sum(taken, axis=0))
    sums = mix(memory.sums, taken.T @ vectors)
    return dataclasses.replace(memory, counts=counts, sums=sums)


def revive(params: Params, memory: Memory, below: float) -> tuple[Params, Memory, Array]:
    """Puts an offered vector in the place of each code whose count is less than `below` of even.

    A revived code begins with an even count, so that it is not dead again at once. Returns also
    how many died, [].
    """
    dead = memory.counts < below * memory.even
    counts = jnp.where(dead, memory.even, memory.counts)
    sums = jnp.where(dead[:, None], memory.even * memory.offers, memory.sums)
    if params.codebook is not None:
        codebook = jnp.where(dead[:, None], memory.offers, params.codebook)
        params = dataclasses.replace(params, codebook=codebook)
    memory = dataclasses.replace(memory, counts=counts, sums=sums)
    return params, memory, jnp.sum(dead).astype(jnp.float32)


def perplexity(shares: Array) -> Array:
    """exp H of shares [K] that sum to one: K where all are alike, 1 where one has all."""
    return jnp.exp(-jnp.sum(jax.scipy.special.xlogy(shares, shares)))


def some_rows(key: Key, rows: Array, n: int) -> Array:
    """n random rows of [M, D], none twice before each was taken once: [n, D]."""
    return rows[jax.random.permutation(key, len(rows))[jnp.arange(n) % len(rows)]]


def _flat(x: Array) -> Array:
    return x.reshape(x.shape[0], -1)
