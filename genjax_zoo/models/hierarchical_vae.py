"""Hierarchical variational auto-encoder: stochastic layers, the upper ones a prior of the lower.

    p(x, z) = p(x | z_1) p(z_1 | z_2) ... p(z_{L-1} | z_L) p(z_L),      p(z_L) = N(0, I)

    bottom-up   q(z | x) = q(z_1 | x) q(z_2 | z_1) ... q(z_L | z_{L-1})
    ladder      q(z | x) = q(z_L | x) q(z_{L-1} | x, z_L) ... q(z_1 | x, z_2)

All conditionals are diagonal Gaussians, but for p(x | z_1), a row of likelihoods.py. In a ladder
the posterior comes down the generative model's own way, and at each layer weighs what the data say
against what the layer above says, each by its precision.

Sønderby, Raiko, Maaløe, Sønderby & Winther, Ladder variational autoencoders, 2016
(arXiv:1602.02282), here without batch normalisation; bottom-up: Rezende, Mohamed & Wierstra 2014,
and Burda, Grosse & Salakhutdinov 2016 (arXiv:1509.00519), section 5.
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
from genjax_zoo.maths.probability import distributions, likelihoods
from genjax_zoo.maths.probability.given import read_given
from genjax_zoo.nets import ACTIVATIONS, Net
from genjax_zoo.typed import MOST_STEPS, choose, number

VERB = "descend"


@typed.config
class Config:
    """A hierarchical variational auto-encoder.

    Attributes:
      latents: dimensions of z_1, ..., z_L, the layer next to the data first.
      widths: hidden units between z_{l-1} (or x) and z_l on the way up, one tuple a layer; the
        way down has the same in reverse.
      activation: the nonlinearity, a name in nets.ACTIVATIONS.
      posterior: "bottom_up" or "ladder".
      decoder, mean, variance, noise_std, levels: p(x | z_1), as likelihoods.make has them.
      objective: "elbo", or "iwae", the bound with `training_samples`.
      training_samples: K of the objective; the "elbo" is averaged over them.
      beta: β, the weight of the KL in the objective. Measures have it at 1.
      warmup_steps: steps in which that weight rises linearly from 0 to β.
      free_bits: λ, nats of KL that each latent dimension has for nothing, on average over a batch.
      importance_samples: K of the estimate `iwae`.
      sample_means: `sample` gives the decoder's means too, for looking at.
      average: decay of the moving average of the parameters; 0 keeps none.
    """

    latents: tuple[int, ...] = number((32, 16), least=1)
    widths: tuple[tuple[int, ...], ...] = number(((200, 200), (100, 100)), least=1)
    activation: str = "tanh"
    posterior: Literal["bottom_up", "ladder"] = "ladder"
    decoder: likelihoods.Name = "bernoulli"
    mean: likelihoods.Mean = "linear"
    variance: likelihoods.Variance = "scalar"
    noise_std: float = number(1.0, least=1e-6, most=1e6)
    levels: int = number(256, least=2, most=2**16)
    objective: Literal["elbo", "iwae"] = "elbo"
    training_samples: int = number(1, least=1, most=MOST_STEPS)
    beta: float = number(1.0, least=0)
    warmup_steps: int = number(0, least=0)
    free_bits: float = number(0.0, least=0)
    importance_samples: int = number(64, least=1, most=MOST_STEPS)
    sample_means: bool = True
    average: float = number(0.0, least=0, below=1)

    def __post_init__(self):
        choose(self.activation, ACTIVATIONS, "activation")
        bounds.check_free_bits(self.free_bits, self.objective, "hierarchical_vae")
        if len(self.latents) < 2 or len(self.widths) != len(self.latents):
            raise ConfigError(
                "hierarchical_vae: expected at least two stochastic layers and widths for each, "
                f"got latents {self.latents} and widths {self.widths}; family vae has one layer."
            )
        if self.posterior == "ladder" and not all(self.widths):
            raise ConfigError(
                f"hierarchical_vae: a ladder needs a hidden layer below every z, got {self.widths}."
            )


@struct.dataclass
class Params:
    """What a hierarchical variational auto-encoder learns.

    Attributes:
      up: φ, a network a layer: z_{l-1} -> (μ, log σ) of q(z_l | z_{l-1}), z_0 = x; of a ladder
        d_{l-1} -> d_l, d_0 = x, what the data say.
      message: φ too, of a ladder: d_l -> (μ̂_l, log σ̂_l); () otherwise.
      down: θ, of z_{l+1} -> (μ, log σ) of p(z_l | z_{l+1}), for l = 1, ..., L - 1.
      decoder: θ, of z_1 -> f, the outputs that p(x | z_1) is made of.
      log_std: log σ of p(x | z_1), [] or like one example; None where it is no parameter.
      shape: of one example, without the batch.
    """

    up: tuple[Any, ...]
    message: tuple[Any, ...]
    down: tuple[Any, ...]
    decoder: Any
    log_std: Array | None
    shape: tuple[int, ...] = struct.field(pytree_node=False)


class Normal(NamedTuple):
    """N(μ, diag σ²): two arrays [..., B, L_l], or numbers."""

    mean: Any
    log_std: Any

    def draw(self, noise: Array) -> Array:
        """z = μ + σ ⊙ ε."""
        return self.mean + jnp.exp(self.log_std) * noise


class Layer(NamedTuple):
    """One stochastic layer of a draw of z ~ q(z | x).

    Attributes:
      z: [..., B, L_l].
      noise: ε that it was drawn by.
      q: what it was drawn from.
      p: N(z_l; ...) of the generative model, given the layer above.
      gap: μ of q less μ of p, which both may be large beside their σ.
    """

    z: Array
    noise: Array
    q: Normal
    p: Normal
    gap: Array


def combine(one: Normal, other: Normal) -> Normal:
    """Two normals of one z, each weighed by its precision: Sønderby et al. 2016, eqs. 17, 18.

    σ² = 1 / (σ₁⁻² + σ₂⁻²),    μ = σ² (μ₁ σ₁⁻² + μ₂ σ₂⁻²)
    """
    log_std = -0.5 * jnp.logaddexp(-2 * one.log_std, -2 * other.log_std)
    weigh = lambda n: n.mean * jnp.exp(2 * (log_std - n.log_std))
    return Normal(weigh(one) + weigh(other), log_std)


STANDARD = Normal(0.0, 0.0)


def make(config: Config, tx: optax.GradientTransformation) -> Model:
    """A hierarchical variational auto-encoder that learns by stochastic gradients on its bound."""
    likelihood = likelihoods.make(
        config.decoder, config.mean, config.variance, config.noise_std, config.levels
    )
    act, ladder = ACTIVATIONS[config.activation], config.posterior == "ladder"
    layers = range(len(config.latents))

    def vectors(widths: tuple[int, ...], outputs: int | tuple[int, ...]) -> Net:
        return nets.batched(nets.mlp(widths, outputs, config.activation))

    # Of q(z_l | z_{l-1}); of a ladder d_{l-1} -> d_l, and d_l -> (μ̂_l, log σ̂_l)
    both = [2 * size for size in config.latents]
    if ladder:
        up = [vectors(widths[:-1], act.pieces * widths[-1]) for widths in config.widths]
        message = [vectors((), size) for size in both]
    else:
        up, message = [vectors(*layer) for layer in zip(config.widths, both, strict=True)], []
    # Of p(z_l | z_{l+1}), through the widths that lie between the two
    down = [vectors(config.widths[l + 1][::-1], both[l]) for l in layers[:-1]]

    def decoder(shape: tuple[int, ...]) -> Net:
        return vectors(config.widths[0][::-1], likelihood.shape(shape))

    def init(key: Key, batch: Batch) -> tuple[Params, Any]:
        x = distributions.flat(batch["x"])[:1]
        shape = batch["x"].shape[1:]
        keys = iter(jax.random.split(key, 3 * len(layers)))
        z = [jnp.zeros((1, size)) for size in config.latents]
        d = [jnp.zeros((1, widths[-1])) for widths in config.widths] if ladder else z
        begin = lambda networks, inputs: tuple(
            net.init(next(keys), h) for net, h in zip(networks, inputs, strict=True)
        )
        params = Params(
            up=begin(up, [x, *d[:-1]]),
            message=begin(message, d if ladder else []),
            down=begin(down, z[1:]),
            decoder=decoder(shape).init(next(keys), z[0]),
            log_std=likelihood.init(shape),
            shape=shape,
        )
        return params, bounds.count_of(config.warmup_steps)

    # --------------------------------------------------------------------- p(z), q(z | x)

    def normal(net: Net, params: Any, h: Array) -> Normal:
        """N(z_l; ...) as a network of h [..., B, C] has it."""
        return Normal(*jnp.split(net.apply(params, h), 2, axis=-1))

    def prior(params: Params, layer: int, above: Array | None) -> Normal:
        """p(z_l | z_{l+1}), or p(z_L)."""
        return STANDARD if above is None else normal(down[layer], params.down[layer], above)

    def noise_of(key: Key, examples: int, draws: int = 1) -> list[Array]:
        """ε of every layer, [K, B, L_l]; [B, L_l] for one draw."""
        lead = (examples,) if draws == 1 else (draws, examples)
        keys = jax.random.split(key, len(layers))
        return [jax.random.normal(k, (*lead, n)) for k, n in zip(keys, config.latents, strict=True)]

    def bottom_up(params: Params, x: Array, noise: list[Array]) -> list[Layer]:
        # z_l ~ q(z_l | z_{l-1}),  z_0 = x
        below, drawn = x, []
        for l in layers:
            q = normal(up[l], params.up[l], below)
            below = q.draw(noise[l])
            drawn.append((below, q))
        above = [z for z, _ in drawn[1:]] + [None]
        p = [prior(params, l, above[l]) for l in layers]
        return [Layer(z, noise[l], q, p[l], q.mean - p[l].mean) for l, (z, q) in enumerate(drawn)]

    def top_down(params: Params, x: Array, noise: list[Array]) -> list[Layer]:
        # d_l = MLP(d_{l-1}),  d_0 = x;  (μ̂_l, log σ̂_l) = Linear(d_l)
        d, messages = x, []
        for l in layers:
            d = act(up[l].apply(params.up[l], d))
            messages.append(normal(message[l], params.message[l], d))
        # q(z_L | x) = N(μ̂_L, σ̂_L²);  q(z_l | x, z_{l+1}) weighs that against p(z_l | z_{l+1})
        above, found = None, []
        for l in reversed(layers):
            p = prior(params, l, above)
            q = messages[l] if above is None else combine(messages[l], p)
            # μ - μ_p = σ² / σ̂² (μ̂ - μ_p), of equation 18
            share = jnp.exp(2 * (q.log_std - messages[l].log_std))
            above = q.draw(noise[l])
            found.append(Layer(above, noise[l], q, p, share * (messages[l].mean - p.mean)))
        return found[::-1]

    def infer(params: Params, batch: Batch, noise: list[Array]) -> list[Layer]:
        return (top_down if ladder else bottom_up)(params, distributions.flat(batch["x"]), noise)

    def outputs(params: Params, z: Array) -> Array:
        """f, what p(x | z_1) is made of: [..., B, L_1] -> [..., B, *of one f]."""
        return decoder(params.shape).apply(params.decoder, z)

    def log_likelihood(params: Params, batch: Batch, z: Array) -> Array:
        """log p(x | z_1) in nats, z_1 [..., B, L_1] -> [..., B]."""
        return likelihood.log_prob(params.log_std, outputs(params, z), batch["x"])

    # ------------------------------------------------------------------------- the objectives

    def divergence(layer: Layer, exact: bool) -> Array:
        """A layer's part of KL(q(z | x) || p(z)) by dimension, [..., B, L_l] nats.

        In closed form where q is given what p is given, and by the draw elsewhere.
        """
        each = (layer.gap, layer.noise, layer.q.log_std, layer.p.log_std)
        gap, noise, q, p = (jnp.asarray(a)[..., None] for a in each)
        if exact:
            return distributions.gaussian_kl(gap, q, 0.0, p)
        log_q = distributions.gaussian_of_noise(noise, q)
        return log_q - distributions.gaussian(gap + jnp.exp(q) * noise, 0.0, p)

    def over_draws(nats: Array, axes: int) -> Array:
        """The mean over the draws, if `nats` has an axis of them beside its other `axes`."""
        return nats if nats.ndim == axes else jnp.mean(nats, axis=0)

    def terms(key: Key, params: Params, batch: Batch, draws: int = 1) -> tuple[list[Array], Array]:
        """The ELBO's terms: the KL of each layer [B, L_l] by dimension, and log p(x | z_1) [B]."""
        found = infer(params, batch, noise_of(key, len(batch["x"]), draws))
        # (1)  KL(q(z_l | ...) || p(z_l | z_{l+1})) for l = 1, ..., L
        kl = [over_draws(divergence(layer, ladder or layer is found[-1]), 2) for layer in found]
        # (2)  E_q[log p(x | z_1)]
        return kl, over_draws(log_likelihood(params, batch, found[0].z), 1)

    def negative_elbo(key: Key, params: Params, beta: Array | float, batch: Batch):
        kl, reconstruction = terms(key, params, batch, config.training_samples)
        reconstruction = jnp.mean(reconstruction)
        # (3)  Σ_l Σ_j max(λ, E_batch[KL_lj])
        charged = sum(bounds.free_bits(of_layer, config.free_bits) for of_layer in kl)
        each = {f"kl_{l + 1}": jnp.sum(jnp.mean(kl[l], axis=0)) for l in layers}
        return beta * charged - reconstruction, {**each, "reconstruction": reconstruction}

    def log_weights(
        key: Key, params: Params, batch: Batch, draws: int, beta: Array | float = 1.0
    ) -> Array:
        """log w = log p(x | z_1) + β [log p(z) - log q(z | x)]: [K, B]."""
        found = infer(params, batch, noise_of(key, len(batch["x"]), draws))
        log_ratio = sum(jnp.sum(divergence(layer, exact=False), axis=-1) for layer in found)
        log_w = log_likelihood(params, batch, found[0].z) - beta * log_ratio
        return log_w.reshape(draws, -1)

    def negative_iwae(key: Key, params: Params, beta: Array | float, batch: Batch):
        """-log 1/K Σ_k w_k: Burda et al. 2016, equation 8."""
        log_w = log_weights(key, params, batch, config.training_samples, beta)
        info = {"effective_samples": bounds.effective_samples(bounds.shares(log_w))}
        return -jnp.mean(bounds.log_mean(log_w)), info

    # ----------------------------------------------------------------- the numbers, the samples

    def elbo(key: Key, params: Params, batch: Batch) -> Array:
        kl, reconstruction = terms(key, params, batch)
        return reconstruction - sum(jnp.sum(of_layer, axis=1) for of_layer in kl)

    def iwae(key: Key, params: Params, batch: Batch, draws: int) -> Weighed:
        """log 1/K Σ_k p(x, z_k) / q(z_k | x),  z_k ~ q(z | x)."""
        of_chunk = lambda key, draws: log_weights(key, params, batch, draws)
        return importance.estimate(key, of_chunk, draws)

    def lowest(key: Key, params: Params, n: int) -> Array:
        """z_1 ~ p(z_1), by way of all layers above: [n, L_1]."""
        z, noise = None, noise_of(key, n)
        for l in reversed(layers):
            z = prior(params, l, z).draw(noise[l])
        assert z is not None
        return z

    def sample(key: Key, params: Params, n: int, given: Batch = NOTHING) -> Batch:
        """z_L, then each layer given the one above; at last x, with its mean if wanted."""
        read_given(given, {}, n, "hierarchical_vae")
        key_z, key_x = jax.random.split(key)
        f = outputs(params, lowest(key_z, params, n))
        return likelihood.sample(key_x, params.log_std, f, config.sample_means)

    def decode(key: Key, params: Params, z: Array) -> Batch:
        """The mean of p(x | z_1), of z_1 [B, L_1]."""
        return {"x": likelihood.mean(params.log_std, outputs(params, z))}

    def encode(key: Key, params: Params, batch: Batch) -> Array:
        """z_1 [B, L_1], every layer at the mean of its posterior."""
        still = jax.tree.map(jnp.zeros_like, noise_of(key, len(batch["x"])))
        return infer(params, batch, still)[0].z

    objective = negative_elbo if config.objective == "elbo" else negative_iwae
    loss = bounds.warmed_up(objective, config.beta, config.warmup_steps)
    return Model(
        *descend(init, loss, tx, config.average, bounds.undivided(config.free_bits)),
        sample=of_params(sample),
        log_prob=Measure(of_params(elbo), Exactness.LOWER_BOUND, density=True),
        measures=bounds.estimates(of_params(iwae), config.importance_samples, likelihood.levels),
        spaces={"x": likelihood.space},
        latents=Latents(of_params(decode), of_params(encode), of_params(lowest)),
    )
