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

import dataclasses
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from genjax_zoo import nets
from genjax_zoo.contract import Array, Batch, ConfigError, Exactness, Key, Latents, Measure, Model
from genjax_zoo.learn.state import eval_params, of_params
from genjax_zoo.learn.verbs import descend
from genjax_zoo.maths.inference import bounds
from genjax_zoo.maths.probability import distributions, likelihoods
from genjax_zoo.nets import ACTIVATIONS, Net
from genjax_zoo.typed import choose

VERB = "descend"


@dataclasses.dataclass(frozen=True)
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
      sample_means: `sample` returns the decoder's means; False returns draws from p(x).
      average: decay of the moving average of the parameters; 0 keeps none.
    """

    latents: tuple[int, ...] = (32, 16)
    widths: tuple[tuple[int, ...], ...] = ((200, 200), (100, 100))
    activation: str = "tanh"
    posterior: Literal["bottom_up", "ladder"] = "ladder"
    decoder: likelihoods.Name = "bernoulli"
    mean: likelihoods.Mean = "linear"
    variance: likelihoods.Variance = "scalar"
    noise_std: float = 1.0
    levels: int = 256
    objective: Literal["elbo", "iwae"] = "elbo"
    training_samples: int = 1
    beta: float = 1.0
    warmup_steps: int = 0
    free_bits: float = 0.0
    importance_samples: int = 64
    sample_means: bool = True
    average: float = 0.0

    def __post_init__(self):
        who = "hierarchical_vae"
        choose(self.activation, ACTIVATIONS, "activation")
        if len(self.latents) < 2 or len(self.widths) != len(self.latents):
            raise ConfigError(
                f"{who}: expected at least two stochastic layers and widths for each, got latents "
                f"{self.latents} and widths {self.widths}; family vae has one layer."
            )
        if min(self.latents) < 1 or min(map(min, filter(None, self.widths)), default=1) < 1:
            raise ConfigError(
                f"{who}: latents and widths should all be at least 1, got {self.latents} and "
                f"{self.widths}."
            )
        if self.posterior == "ladder" and not all(self.widths):
            raise ConfigError(f"{who}: a ladder needs a hidden layer below every z, got none.")
        for name in ("training_samples", "importance_samples"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{who}: {name} should be at least 1, got {getattr(self, name)}.")
        for name in ("beta", "warmup_steps", "free_bits"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"{who}: {name} should not be negative, got {getattr(self, name)}."
                )
        if self.free_bits and self.objective != "elbo":
            raise ConfigError(
                f"{who}: free bits are bits of a KL, which objective {self.objective!r} does not "
                "have; set free_bits to 0 or objective to 'elbo'."
            )
        if not 0 <= self.average < 1:
            raise ConfigError(f"{who}: average should lie in [0, 1), got {self.average}.")
        self.likelihood()

    def likelihood(self) -> likelihoods.Decoder:
        """p(x | f), f the outputs of the network from z_1."""
        return likelihoods.make(self.decoder, self.mean, self.variance, self.noise_std, self.levels)


@struct.dataclass
class Params:
    """What a hierarchical variational auto-encoder learns.

    Attributes:
      up: φ, a network a layer: z_{l-1} -> (μ, log σ) of q(z_l | z_{l-1}), z_0 = x; of a ladder
        d_{l-1} -> d_l, d_0 = x, what the data say.
      tell: φ too, of a ladder: d_l -> (μ̂_l, log σ̂_l); () otherwise.
      down: θ, of z_{l+1} -> (μ, log σ) of p(z_l | z_{l+1}), for l = 1, ..., L - 1.
      decoder: θ, of z_1 -> f, the outputs that p(x | z_1) is made of.
      log_std: log σ of a Gaussian decoder, [] or [D]; None where it is not a parameter.
      shape: of one example, without the batch.
    """

    up: tuple[Any, ...]
    tell: tuple[Any, ...]
    down: tuple[Any, ...]
    decoder: Any
    log_std: Array | None
    shape: tuple[int, ...] = struct.field(pytree_node=False)


class Normal(NamedTuple):
    """N(μ, diag σ²): two arrays [..., B, L_l], or numbers."""

    mean: Any
    log_std: Any

    def log_prob(self, z: Array) -> Array:
        """By dimension: [..., B, L_l] nats."""
        return distributions.gaussian(z[..., None], *(jnp.asarray(a)[..., None] for a in self))


class Layer(NamedTuple):
    """One stochastic layer of a draw of z ~ q(z | x).

    Attributes:
      z: [..., B, L_l].
      q: what it was drawn from.
      p: N(z_l; ...) of the generative model, given the layer above.
    """

    z: Array
    q: Normal
    p: Normal


def combine(one: Normal, other: Normal) -> Normal:
    """Two opinions of one z, each weighed by its precision: Sønderby et al. 2016, eqs. 17, 18.

    σ² = 1 / (σ₁⁻² + σ₂⁻²),    μ = σ² (μ₁ σ₁⁻² + μ₂ σ₂⁻²)
    """
    log_std = -0.5 * jnp.logaddexp(-2 * one.log_std, -2 * other.log_std)
    weigh = lambda n: n.mean * jnp.exp(2 * (log_std - n.log_std))
    return Normal(weigh(one) + weigh(other), log_std)


STANDARD = Normal(0.0, 0.0)


def make(config: Config, tx: optax.GradientTransformation) -> Model:
    """A hierarchical variational auto-encoder that learns by stochastic gradients on its bound."""
    likelihood = config.likelihood()
    act, ladder = ACTIVATIONS[config.activation], config.posterior == "ladder"
    layers = range(len(config.latents))

    def up(layer: int) -> Net:
        widths = config.widths[layer]
        if ladder:
            return nets.mlp(widths[:-1], act.pieces * widths[-1], config.activation)
        return nets.mlp(widths, 2 * config.latents[layer], config.activation)

    def tell(layer: int) -> Net:
        return nets.mlp((), 2 * config.latents[layer])

    def down(layer: int) -> Net:
        """Of p(z_l | z_{l+1}), through the widths that lie between the two."""
        widths = config.widths[layer + 1][::-1]
        return nets.mlp(widths, 2 * config.latents[layer], config.activation)

    def decoder(shape: tuple[int, ...]) -> Net:
        return nets.mlp(config.widths[0][::-1], likelihood.shape(shape), config.activation)

    def init(key: Key, batch: Batch) -> tuple[Params, Any]:
        x = batch["x"]
        shape = tuple(x.shape[1:])
        keys = iter(jax.random.split(key, 3 * len(layers)))
        z = [jnp.zeros((1, size)) for size in config.latents]
        d = [jnp.zeros((1, widths[-1])) for widths in config.widths] if ladder else z
        below = [_flat(x)[:1], *d]
        params = Params(
            up=tuple(up(l).init(next(keys), below[l]) for l in layers),
            tell=tuple(tell(l).init(next(keys), d[l]) for l in layers) if ladder else (),
            down=tuple(down(l).init(next(keys), z[l + 1]) for l in layers[:-1]),
            decoder=decoder(shape).init(next(keys), z[0]),
            log_std=likelihood.init(math.prod(shape)),
            shape=shape,
        )
        # The memory counts steps, where the objective asks for them.
        return params, jnp.zeros((), jnp.int32) if config.warmup_steps else ()

    # --------------------------------------------------------------------- p(z), q(z | x)

    def normal(net: Net, params: Any, h: Array) -> Normal:
        """What a network says of one layer, h [..., B, C], flat for its sake."""
        outputs = net.apply(params, h.reshape(-1, h.shape[-1]))
        return Normal(*jnp.split(outputs.reshape(*h.shape[:-1], -1), 2, axis=-1))

    def prior(params: Params, layer: int, above: Array | None) -> Normal:
        """p(z_l | z_{l+1}), or p(z_L)."""
        return STANDARD if above is None else normal(down(layer), params.down[layer], above)

    def noise_of(key: Key, examples: int, draws: int) -> list[Array]:
        """ε of every layer, [K, B, L_l]; [B, L_l] for one draw."""
        lead = (examples,) if draws == 1 else (draws, examples)
        keys = jax.random.split(key, len(layers))
        return [jax.random.normal(k, (*lead, n)) for k, n in zip(keys, config.latents, strict=True)]

    def bottom_up(params: Params, x: Array, noise: list[Array]) -> list[Layer]:
        # z_l ~ q(z_l | z_{l-1}),  z_0 = x
        below, drawn = x, []
        for l in layers:
            q = normal(up(l), params.up[l], below)
            below = draw(q, noise[l])
            drawn.append((below, q))
        above = [z for z, _ in drawn[1:]] + [None]
        return [Layer(z, q, prior(params, l, above[l])) for l, (z, q) in enumerate(drawn)]

    def top_down(params: Params, x: Array, noise: list[Array]) -> list[Layer]:
        # d_l = MLP(d_{l-1}),  d_0 = x;  (μ̂_l, log σ̂_l) = Linear(d_l)
        d, told = x, []
        for l in layers:
            d = act(up(l).apply(params.up[l], d))
            told.append(normal(tell(l), params.tell[l], d))
        # q(z_L | x) = N(μ̂_L, σ̂_L²);  q(z_l | x, z_{l+1}) weighs that against p(z_l | z_{l+1})
        above, found = None, []
        for l in reversed(layers):
            p = prior(params, l, above)
            q = told[l] if above is None else combine(told[l], p)
            above = draw(q, noise[l])
            found.append(Layer(above, q, p))
        return found[::-1]

    infer = top_down if ladder else bottom_up

    def log_likelihood(params: Params, x: Array, z: Array) -> Array:
        """log p(x | z_1) in nats, z_1 [..., B, L_1] -> [..., B]."""
        return likelihood.log_prob(params.log_std, outputs(params, z), x)

    def outputs(params: Params, z: Array) -> Array:
        flat = decoder(params.shape).apply(params.decoder, z.reshape(-1, z.shape[-1]))
        return flat.reshape(*z.shape[:-1], -1)

    # ------------------------------------------------------------------------- the objectives

    def divergence(layer: Layer, exact: bool) -> Array:
        """A layer's part of KL(q(z | x) || p(z)) by dimension, [..., B, L_l] nats.

        In closed form where q is given what p is given, and by the draw elsewhere.
        """
        if exact:
            spread = (jnp.asarray(a)[..., None] for a in (*layer.q, *layer.p))
            return distributions.gaussian_kl(*spread)
        return layer.q.log_prob(layer.z) - layer.p.log_prob(layer.z)

    def terms(key: Key, params: Params, batch: Batch, draws: int = 1) -> tuple[list[Array], Array]:
        """The ELBO's terms: the KL of each layer [B, L_l] by dimension, and log p(x | z_1) [B]."""
        x = _flat(batch["x"])
        found = infer(params, x, noise_of(key, len(x), draws))
        top = found[-1]
        # (1)  KL(q(z_l | ...) || p(z_l | z_{l+1})) for l = 1, ..., L
        kl = [over_draws(divergence(layer, ladder or layer is top), 2) for layer in found]
        # (2)  E_q[log p(x | z_1)]
        reconstruction = over_draws(log_likelihood(params, x, found[0].z), 1)
        return kl, likelihood.supported(x, reconstruction)

    def over_draws(nats: Array, axes: int) -> Array:
        return nats if nats.ndim == axes else jnp.mean(nats, axis=0)

    def negative_elbo(key: Key, params: Params, beta: Array | float, batch: Batch):
        kl, reconstruction = terms(key, params, batch, config.training_samples)
        reconstruction = jnp.mean(reconstruction)
        # (3)  Σ_l Σ_j max(λ, E_batch[KL_lj])
        charged = sum(bounds.free_bits(of_layer, config.free_bits) for of_layer in kl)
        each = {f"kl_{l + 1}": jnp.sum(jnp.mean(kl[l], axis=0)) for l in layers}
        return beta * charged - reconstruction, {**each, "reconstruction": reconstruction}

    def log_weights(
        params: Params, batch: Batch, noise: list[Array], beta: Array | float = 1.0
    ) -> Array:
        """log w = log p(x | z_1) + β [log p(z) - log q(z | x)]: [..., B]."""
        x = _flat(batch["x"])
        found = infer(params, x, noise)
        log_ratio = sum(jnp.sum(divergence(layer, exact=False), axis=-1) for layer in found)
        return log_likelihood(params, x, found[0].z) - beta * log_ratio

    def negative_iwae(key: Key, params: Params, beta: Array | float, batch: Batch):
        """-log 1/K Σ_k w_k: Burda et al. 2016, equation 8."""
        draws = config.training_samples
        noise = noise_of(key, len(batch["x"]), draws)
        log_w = log_weights(params, batch, noise, beta).reshape(draws, -1)
        bound = likelihood.supported(_flat(batch["x"]), bounds.log_mean(log_w))
        info = {"effective_samples": bounds.effective_samples(bounds.shares(log_w))}
        return -jnp.mean(bound), info

    def loss(key: Key, params: Params, memory: Any, batch: Batch):
        objective = negative_elbo if config.objective == "elbo" else negative_iwae
        if not config.warmup_steps:
            value, info = objective(key, params, config.beta, batch)
            return value, (memory, info)
        beta = bounds.warm_up(config.beta, memory, config.warmup_steps)
        value, info = objective(key, params, beta, batch)
        return value, (memory + 1, {**info, "beta": beta})

    # ----------------------------------------------------------------- the numbers, the samples

    def elbo(key: Key, params: Params, batch: Batch) -> Array:
        kl, reconstruction = terms(key, params, batch)
        return reconstruction - sum(jnp.sum(of_layer, axis=1) for of_layer in kl)

    def iwae(key: Key, params: Params, batch: Batch) -> Array:
        """log 1/K Σ_k p(x, z_k) / q(z_k | x),  z_k ~ q(z | x)."""
        x = _flat(batch["x"])

        def of_chunk(key: Key, draws: int) -> Array:
            noise = noise_of(key, len(x), draws)
            return log_weights(params, batch, noise).reshape(draws, -1)

        estimate = bounds.importance(key, of_chunk, config.importance_samples)
        return likelihood.supported(x, estimate)

    def mean_of(params: Params, z: Array) -> Batch:
        mean = likelihood.mean(params.log_std, outputs(params, z))
        return {"x": mean.reshape(-1, *params.shape)}

    def lowest(key: Key, params: Params, n: int) -> Array:
        """z_1 ~ p(z_1), by way of all layers above: [n, L_1]."""
        z, noise = None, noise_of(key, n, 1)
        for l in reversed(layers):
            z = draw(prior(params, l, z), noise[l])
        assert z is not None
        return z

    def sample(key: Key, params: Params, n: int, means: bool = config.sample_means) -> Batch:
        """z_L, then each layer given the one above; the mean of p(x | z_1), or a draw from it."""
        key_z, key_x = jax.random.split(key)
        z = lowest(key_z, params, n)
        if means:
            return mean_of(params, z)
        x = likelihood.draw(key_x, params.log_std, outputs(params, z))
        return {"x": x.reshape(-1, *params.shape)}

    def encode(key: Key, params: Params, batch: Batch) -> Array:
        """z_1 [B, L_1], every layer at the mean of its posterior."""
        still = jax.tree.map(jnp.zeros_like, noise_of(key, len(batch["x"]), 1))
        return infer(params, _flat(batch["x"]), still)[0].z

    draws = f"K = {config.importance_samples} importance samples"
    measures = {"iwae": Measure(of_params(iwae), Exactness.ESTIMATE, "nats", detail=draws)}
    if likelihood.levels:
        measures["bits"] = bounds.bits(measures["iwae"], likelihood.levels)
    return Model(
        *descend(init, loss, tx, config.average),
        sample=of_params(sample),
        log_prob=Measure(of_params(elbo), Exactness.LOWER_BOUND, density=True),
        measures=measures,
        spaces={"x": likelihood.space},
        latents=Latents(
            decode=lambda key, state, latents: mean_of(eval_params(state), latents),
            encode=of_params(encode),
            prior=of_params(lowest),
        ),
    )


def draw(q: Normal, noise: Array) -> Array:
    """z = μ + σ ⊙ ε."""
    return q.mean + jnp.exp(q.log_std) * noise


def _flat(x: Array) -> Array:
    return x.reshape(x.shape[0], -1)
