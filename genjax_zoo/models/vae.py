"""Variational auto-encoder: a latent Gaussian, a network, and a network that inverts it.

    p(z)     = N(z; 0, I)                                  the prior
    p(x | z) = Bernoulli(x; sigmoid(f_θ(z)))  or  N(x; f_θ(z), σ²)  ...   (likelihoods.py)
    q(z | x) = N(z; μ_φ(x), diag σ_φ(x)²)                  the encoder, or a flow that starts there

Kingma & Welling, Auto-encoding variational Bayes, 2014 (arXiv:1312.6114); the bound with many
samples is from Burda, Grosse & Salakhutdinov, Importance weighted autoencoders, 2016
(arXiv:1509.00519), and its gradient for φ from Tucker et al., Doubly reparameterized gradient
estimators, 2019 (arXiv:1810.04152); β from Higgins et al., β-VAE, 2017; the warm-up from Sønderby
et al. 2016 (arXiv:1602.02282), free bits and the flow from Kingma et al. 2016 (arXiv:1606.04934);
with labels all is given y (Sohn, Lee & Yan, Learning structured output representation, 2015).
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
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
    Weighed,
)
from genjax_zoo.learn.state import of_params
from genjax_zoo.learn.verbs import descend
from genjax_zoo.maths.inference import bounds, importance
from genjax_zoo.maths.probability import bijections, couplings, distributions, likelihoods
from genjax_zoo.maths.probability.given import Labels, read_given
from genjax_zoo.nets import Net
from genjax_zoo.typed import MOST_LAYERS, MOST_STEPS, number

VERB = "descend"


@typed.config
class Config:
    """A variational auto-encoder.

    Attributes:
      latents: L, dimensions of z.
      network: "mlp", or "conv" for images.
      widths: hidden units (mlp) or channels (conv) of the encoder, data first; the decoder has
        the same in reverse. () makes both linear.
      activation: the nonlinearity, a name in nets.ACTIVATIONS.
      decoder, mean, variance, noise_std, levels: p(x | z), as likelihoods.make has them.
      classes: how many labels y the model is given beside x and beside z; 0 leaves labels out.
      flow_steps: steps of the inverse autoregressive flow that ends q(z | x); 0 is none.
      flow_width: hidden units of each of them, and length of the condition that the encoder
        gives them.
      objective: "elbo"; "iwae", the bound with `training_samples`; "dreg", the same bound, whose
        gradient for φ is reparameterised twice.
      training_samples: K of the objective; the "elbo" is averaged over them.
      beta: β, the weight of the KL in the objective. Measures have it at 1.
      warmup_steps: steps in which that weight rises linearly from 0 to β.
      free_bits: λ, nats of KL that each latent dimension has for nothing, on average over a batch;
        with a flow the L dimensions have λ L together.
      importance_samples: K of the estimate `iwae`.
      sample_means: beside its draws from p(x), which is what a density is judged by, `sample` gives
        the decoder's means, which is how images are usually shown.
      encode_means: `latents.encode` returns means of q(z | x); False returns draws from it.
      average: decay of the moving average of the parameters; 0 keeps none.
    """

    latents: int = number(16, least=1)
    network: nets.AutoEncoder = "mlp"
    widths: tuple[int, ...] = number((200, 200), least=1)
    activation: str = "tanh"
    decoder: likelihoods.Name = "gaussian"
    mean: likelihoods.Mean = "linear"
    variance: likelihoods.Variance = "scalar"
    noise_std: float = number(1.0, least=1e-6, most=1e6)
    levels: int = number(256, least=2, most=2**16)
    classes: int = number(0, least=0)
    flow_steps: int = number(0, least=0, most=MOST_LAYERS)
    flow_width: int = number(64, least=1)
    objective: Literal["elbo", "iwae", "dreg"] = "elbo"
    training_samples: int = number(1, least=1, most=MOST_STEPS)
    beta: float = number(1.0, least=0)
    warmup_steps: int = number(0, least=0)
    free_bits: float = number(0.0, least=0)
    importance_samples: int = number(64, least=1, most=MOST_STEPS)
    sample_means: bool = True
    encode_means: bool = True
    average: float = number(0.0, least=0, below=1)

    def __post_init__(self):
        nets.check_autoencoder(self.network, self.widths, self.activation, "vae")
        bounds.check_free_bits(self.free_bits, self.objective, "vae")
        if self.flow_steps and self.objective == "dreg":
            raise ConfigError(
                "vae: objective 'dreg' needs the density of q(z | x) at a given z, and a flow "
                "has only that of its own draws; set flow_steps to 0 or objective to 'iwae'."
            )

    def likelihood(self) -> likelihoods.Likelihood:
        """p(x | f), f the decoder's outputs."""
        return likelihoods.make(self.decoder, self.mean, self.variance, self.noise_std, self.levels)


@struct.dataclass
class Params:
    """What a variational auto-encoder learns.

    Attributes:
      encoder: φ, of the network x -> (μ, log σ) of q(z | x), and the flow's condition.
      decoder: θ, of the network z -> f, the outputs that p(x | z) is made of.
      log_std: log σ of p(x | z), [] or like one example; None where it is no parameter.
      shape: of one example, without the batch.
      flow: φ too, of the flow that ends q(z | x); None where there is none.
    """

    encoder: Any
    decoder: Any
    log_std: Array | None
    shape: tuple[int, ...] = struct.field(pytree_node=False)
    flow: Any = None


class Posterior(NamedTuple):
    """q(z | x), or where it starts: μ and log σ [B, L], and the flow's condition h [B, C].

    Without a flow h is empty.
    """

    mean: Array
    log_std: Array
    condition: Array


def make(config: Config, tx: optax.GradientTransformation) -> Model:
    """A variational auto-encoder that learns by stochastic gradients on its bound."""
    likelihood = config.likelihood()
    labels = Labels(config.classes, "vae")
    flow = posterior_flow(config.flow_steps, config.flow_width) if config.flow_steps else None
    size = 2 * config.latents + (config.flow_width if flow else 0)
    encoder = nets.vector_encoder(config.network, config.widths, size, config.activation)

    def init(key: Key, batch: Batch) -> tuple[Params, Any]:
        """Raises ConfigError for data that do not fit the network, DataError where y is missing."""
        shape = batch["x"].shape[1:]
        if config.network == "conv":
            nets.image_shape(batch["x"], "vae", "Set model.network to 'mlp'.")
        key_encoder, key_decoder = jax.random.split(key)
        z, y = jnp.zeros((1, config.latents)), jnp.zeros((1, config.classes))
        h = jnp.zeros((1, config.flow_width))
        params = Params(
            encoder=encoder.init(key_encoder, with_y(batch)),
            decoder=_decoder(config, shape).init(key_decoder, jnp.concatenate([z, y], axis=1)),
            log_std=likelihood.init(shape),
            shape=shape,
            flow=flow.init(jax.random.fold_in(key, 2), z, h) if flow else None,
        )
        return params, bounds.count_of(config.warmup_steps)

    # ---------------------------------------------------------------- q(z | x, y), p(x | z, y)

    def with_y(batch: Batch) -> Array:
        """What the encoder is given: x, and y beside it; beside every pixel of a convolution."""
        x = batch["x"]
        if not config.classes:
            return x
        y = labels.one_hot(batch)
        if config.network == "mlp":
            return jnp.concatenate([distributions.flat(x), y], axis=1)
        planes = jnp.broadcast_to(y[:, None, None], (*x.shape[:3], config.classes))
        return jnp.concatenate([x, planes], axis=-1)

    def z_with_y(z: Array, batch: Batch) -> Array:
        """What the decoder is given: z [..., B, L], and y beside it."""
        if not config.classes:
            return z
        y = jnp.broadcast_to(labels.one_hot(batch), (*z.shape[:-1], config.classes))
        return jnp.concatenate([z, y], axis=-1)

    def posterior(params: Params, batch: Batch) -> Posterior:
        outputs = encoder.apply(params.encoder, with_y(batch))
        return Posterior(*jnp.split(outputs, [config.latents, 2 * config.latents], axis=-1))

    def noise_of(key: Key, q: Posterior, draws: int) -> Array:
        """ε ~ N(0, I): [K, B, L]."""
        return jax.random.normal(key, (draws, *q.mean.shape))

    def draw(params: Params, q: Posterior, noise: Array) -> tuple[Array, Array]:
        """z [..., B, L] made of ε [..., B, L], and log q(z | x) [..., B]."""
        # z = μ + σ ⊙ ε
        z = q.mean + jnp.exp(q.log_std) * noise
        log_q = distributions.gaussian_of_noise(noise, q.log_std)
        if flow is None:
            return z, log_q
        # log q(z_T) = log q(z_0) - Σ_t log|det dz_t / dz_{t-1}|: Rezende & Mohamed 2015, eq. 7
        h = jnp.broadcast_to(q.condition, (*z.shape[:-1], config.flow_width))
        start = (z.reshape(-1, config.latents), h.reshape(-1, config.flow_width))
        end, log_det = flow.forward(params.flow, *start)
        return end.reshape(z.shape), log_q - log_det.reshape(log_q.shape)

    def log_likelihood(params: Params, batch: Batch, z: Array) -> Array:
        """log p(x | z, y) in nats, z [..., B, L] -> [..., B]."""
        f = outputs_of(config, params, z_with_y(z, batch))
        return likelihood.log_prob(params.log_std, f, batch["x"])

    # ------------------------------------------------------------------------- the objectives

    def terms(key: Key, params: Params, batch: Batch, draws: int = 1) -> tuple[Array, Array]:
        """The two terms of the ELBO: Kingma & Welling 2014, equation 7.

        The KL in nats [B, L], by dimension; by all of them together, [B, 1], with a flow.
        log p(x | z) in nats, [B].
        """
        q = posterior(params, batch)
        z, log_q = draw(params, q, noise_of(key, q, draws))
        if flow is None:
            # (1)  KL(q(z | x) || p(z)), in closed form
            kl = distributions.gaussian_kl(q.mean[..., None], q.log_std[..., None])
        else:
            # (1)  the same, estimated by the draws: log q(z | x) - log p(z)
            kl = jnp.mean(log_q - distributions.gaussian(z, 0.0, 0.0), axis=0)[:, None]
        # (2)  E_q[log p(x | z)]
        return kl, jnp.mean(log_likelihood(params, batch, z), axis=0)

    def negative_elbo(key: Key, params: Params, beta: Array | float, batch: Batch):
        kl, reconstruction = terms(key, params, batch, config.training_samples)
        kl_each, reconstruction = jnp.mean(kl, axis=0), jnp.mean(reconstruction)
        # (3)  Σ_j max(λ, E_batch[KL_j]), which for λ = 0 is their sum
        charged = bounds.free_bits(kl, config.free_bits * config.latents / len(kl_each))
        info = {"kl": jnp.sum(kl_each), "reconstruction": reconstruction}
        return beta * charged - reconstruction, info

    def log_weights(
        params: Params, batch: Batch, z: Array, log_q: Array, beta: Array | float = 1.0
    ) -> Array:
        """log w = log p(x | z) + β [log p(z) - log q(z | x)]: [K, B]."""
        log_ratio = distributions.gaussian(z, 0.0, 0.0) - log_q
        return log_likelihood(params, batch, z) + beta * log_ratio

    def negative_iwae(key: Key, params: Params, beta: Array | float, batch: Batch):
        """-log 1/K Σ_k w_k: Burda et al. 2016, equation 8."""
        q = posterior(params, batch)
        noise = noise_of(key, q, config.training_samples)
        z, log_q = draw(params, q, noise)
        log_w = log_weights(params, batch, z, log_q, beta)
        bound, share = bounds.log_mean(log_w), bounds.shares(log_w)
        if config.objective == "dreg":
            # ∇_θ = Σ_k w̃_k ∇_θ log w_k,  ∇_φ = Σ_k w̃_k² (∂ log w_k / ∂z_k) ∇_φ z_k
            # (Tucker et al. 2019, equations 7 and 8); φ within log q(z | x) itself is held still.
            still = jax.lax.stop_gradient
            of_theta = log_weights(params, batch, still(z), still(log_q), beta)
            moved = noise + (z - still(z)) * distributions.inverse(still(q.log_std))
            held = distributions.gaussian_of_noise(moved, still(q.log_std))
            of_phi = log_weights(still(params), batch, z, held, beta)
            climb = jnp.sum(share * of_theta + share**2 * of_phi, axis=0)
            bound = still(bound) + climb - still(climb)
        return -jnp.mean(bound), {"effective_samples": bounds.effective_samples(share)}

    # ---------------------------------------------------------------------------- the numbers

    def elbo(key: Key, params: Params, batch: Batch) -> Array:
        kl, reconstruction = terms(key, params, batch)
        return reconstruction - jnp.sum(kl, axis=1)

    def iwae(key: Key, params: Params, batch: Batch, draws: int) -> Weighed:
        """log 1/K Σ_k p(x, z_k) / q(z_k | x),  z_k ~ q(z | x): Burda et al. 2016, equation 8."""
        q = posterior(params, batch)

        def of_chunk(key: Key, draws: int) -> Array:
            return log_weights(params, batch, *draw(params, q, noise_of(key, q, draws)))

        return importance.estimate(key, of_chunk, draws)

    # ---------------------------------------------------------------------------- the samples

    def sample(key: Key, params: Params, n: int, given: Batch = NOTHING) -> Batch:
        """z ~ p(z), then x ~ p(x | z, y), with its mean if `sample_means` is set.

        Labels are drawn evenly where none are given.
        """
        told = read_given(given, labels.told, n, "vae")
        key_z, key_x = jax.random.split(key)
        z = jax.random.normal(key_z, (n, config.latents))
        y = labels.draw(jax.random.fold_in(key, 2), told, n)
        return {**drawn_from(config, key_x, params, z_with_y(z, y)), **y}

    def decode(key: Key, params: Params, z_and_y: Array) -> Batch:
        """The mean of p(x | z, y), of z [B, L] and y at its end."""
        return {"x": likelihood.mean(params.log_std, outputs_of(config, params, z_and_y))}

    def encode(key: Key, params: Params, batch: Batch) -> Array:
        """μ_φ(x), or where a flow takes it, or without `encode_means` z ~ q(z | x, y).

        [B, L], and y at its end.
        """
        q = posterior(params, batch)
        noise = jnp.zeros_like(q.mean) if config.encode_means else noise_of(key, q, 1)[0]
        return z_with_y(draw(params, q, noise)[0], batch)

    def prior(key: Key, params: Params, n: int) -> Array:
        """z ~ p(z): [n, L], and y of any label at its end."""
        key_z, key_y = jax.random.split(key)
        z = jax.random.normal(key_z, (n, config.latents))
        return z_with_y(z, labels.draw(key_y, {}, n))

    objective = negative_elbo if config.objective == "elbo" else negative_iwae
    loss = bounds.warmed_up(objective, config.beta, config.warmup_steps)
    return Model(
        *descend(init, loss, tx, config.average, bounds.undivided(config.free_bits)),
        sample=of_params(sample),
        log_prob=Measure(of_params(elbo), Exactness.LOWER_BOUND, density=True),
        measures=bounds.estimates(of_params(iwae), config.importance_samples, likelihood.levels),
        spaces=labels.spaces(likelihood.space),
        latents=Latents(of_params(decode), of_params(encode), of_params(prior)),
    )


def _decoder(config: Config, shape: tuple[int, ...]) -> Net:
    shape = config.likelihood().shape(shape)
    return nets.vector_decoder(config.network, config.widths, shape, config.activation)


def outputs_of(config: Config, params: Params, z_and_y: Array) -> Array:
    """f_θ(z, y), what p(x | z, y) is made of: [..., B, L + classes] -> [..., B, *of one f]."""
    return _decoder(config, params.shape).apply(params.decoder, z_and_y)


def drawn_from(config: Config, key: Key, params: Params, z_and_y: Array) -> Batch:
    """x ~ p(x | z, y), and its mean with `sample_means`, of z [B, L] and y at its end."""
    f = outputs_of(config, params, z_and_y)
    return config.likelihood().sample(key, params.log_std, f, config.sample_means)


def posterior_flow(steps: int, width: int) -> bijections.Bijection:
    """Inverse autoregressive steps of z [B, L] given h [B, C], z reversed after each.

    Kingma, Salimans, Jozefowicz, Chen, Sutskever & Welling, Improving variational inference with
    inverse autoregressive flow, 2016 (arXiv:1606.04934), algorithm 1: each step scores its own
    draws in one pass, m and s of the dimensions before and of h.
    """
    network = lambda shape: nets.made((width,), shape[0], "tanh")
    step = couplings.autoregressive(network, couplings.gated())
    return bijections.chain(*(each for _ in range(steps) for each in (step, bijections.permute())))
