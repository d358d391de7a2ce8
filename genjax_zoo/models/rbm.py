"""Restricted Boltzmann machine: binary visible and hidden units, and an energy between the two.

    E(v, h) = -(v - μ)ᵀb - cᵀ(h - λ) - (v - μ)ᵀW(h - λ),       p(v, h) = exp(-E(v, h)) / Z

    p(h_j = 1 | v) = sigmoid(c_j + (v - μ)ᵀW_j)        p(v_i = 1 | h) = sigmoid(b_i + W_i(h - λ))

With offsets μ = λ = 0 this is the machine of Smolensky 1986; other offsets give the same family of
distributions in coordinates in which the gradient is better conditioned. W follows

    E_data[(v - μ)(h - λ)ᵀ] - E_model[(v - μ)(h - λ)ᵀ],

whose second term a Gibbs chain supplies: started at the data for k steps (CD-k: Hinton, Training
products of experts by minimizing contrastive divergence, 2002) or never restarted (PCD-k: Tieleman,
Training restricted Boltzmann machines using approximations to the likelihood gradient, 2008).
Centring is Melchior, Fischer & Wiskott, How to center deep Boltzmann machines, 2016.

The data are exactly 0 or 1. Grey values have no probability under p(v): binarise them.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import struct

from genjax_zoo import chains, distributions
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
from genjax_zoo.learn import Memory, contrast, learnt, of_params

VERB = "contrast"

ENUMERABLE = 20
"""The largest number of units whose 2^n states are summed over one by one."""


@dataclasses.dataclass(frozen=True)
class Config:
    """A restricted Boltzmann machine.

    Attributes:
      hidden: H, the number of hidden units.
      visible: D, the number of visible units; 0 leaves it to the data. It need only be told where
        D <= 20 < H, so that the likelihood is known to be exact.
      chain: "cd" starts every negative phase at the batch, "pcd" goes on where the last one ended.
      k: Gibbs steps in a step of learning.
      chains: how many persistent chains ("pcd" only; "cd" has one for each example).
      centred: whether the offsets follow the units' means; otherwise they stay 0.
      nu: ν, how much of each batch's means the offsets take over.
      base_rate: whether the visible biases start at the base rates of the first batch, in logits,
        rather than at 0.
      weight_std: of the first weights, drawn from N(0, weight_std²).
      weight_decay: α of the penalty α/2 ‖W‖² on each step's objective; biases have none.
      sample_steps: Gibbs steps from the base rate to a sample.
      sample_means: the last step of `sample` returns p(v = 1 | h), which is how images are usually
        shown; False returns draws, which is what a distribution is judged by.
    """

    hidden: int = 64
    visible: int = 0
    chain: Literal["cd", "pcd"] = "pcd"
    k: int = 1
    chains: int = 100
    centred: bool = False
    nu: float = 0.01
    base_rate: bool = True
    weight_std: float = 0.01
    weight_decay: float = 0.0
    sample_steps: int = 1000
    sample_means: bool = False

    def __post_init__(self):
        for name in ("hidden", "k", "chains", "sample_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"rbm: {name} should be at least 1, got {getattr(self, name)}.")
        for name in ("visible", "weight_std", "weight_decay"):
            if getattr(self, name) < 0:
                raise ConfigError(f"rbm: {name} should not be negative, got {getattr(self, name)}.")
        if not 0 < self.nu <= 1:
            raise ConfigError(f"rbm: nu should lie in (0, 1], got {self.nu}.")


@struct.dataclass
class Params:
    """What a restricted Boltzmann machine learns.

    Attributes:
      W: weights between the two sides [D, H].
      b: visible biases [D].
      c: hidden biases [H].
      mu: μ, visible offsets [D]; follow the data's means if centred, else 0. No optimizer moves
        them.
      lam: λ, hidden offsets [H]; likewise.
      rate: mean of the first batch [D], with one imagined 0 and one imagined 1 besides, so that no
        rate is 0 or 1. Where chains of samples start.
      shape: of one example, without the batch; its product is D.
    """

    W: Array
    b: Array
    c: Array
    mu: Array
    lam: Array
    rate: Array
    shape: tuple[int, ...] = struct.field(pytree_node=False)


def make(config: Config, tx: optax.GradientTransformation) -> Model:
    """A restricted Boltzmann machine that learns by contrasting the data with a Gibbs chain."""
    exact = min(config.hidden, config.visible or config.hidden) <= ENUMERABLE

    def begin(key: Key, batch: Batch) -> tuple[Params, Memory]:
        """The parameters, and the persistent chains' hidden units [chains, H], if any."""
        key_W, key_v, key_h = jax.random.split(key, 3)
        shape = tuple(batch["x"].shape[1:])
        D, H = math.prod(shape), config.hidden
        if config.visible not in (0, D):
            raise ConfigError(
                f"rbm: visible={config.visible} was promised, but the data have {D} numbers "
                f"{shape} in an example; set model.visible to {D}, or to 0."
            )
        v = flat(batch["x"])
        params = Params(
            W=config.weight_std * jax.random.normal(key_W, (D, H)),
            b=jnp.zeros(D),
            c=jnp.zeros(H),
            mu=jnp.zeros(D),
            # Before anything is learnt a hidden unit is on half of the time.
            lam=jnp.full(H, 0.5 if config.centred else 0.0, jnp.float32),
            rate=jnp.zeros(D),
            shape=shape,
        )
        params = at_rate(config, params, (v.sum(0) + 1) / (v.shape[0] + 2))
        if config.chain == "cd":
            return params, ()
        return params, draw_hidden(key_h, params, start(key_v, params, config.chains))

    def negative(
        key: Key, params: Params, memory: Memory, batch: Batch
    ) -> tuple[dict[str, Array], Memory]:
        """The negative phase: x [M, D]. A chain is kept by its hidden units.

        Its last draw of them, from p(h | v), then shares its product with the gradient's.
        """
        key_start, key_chain = jax.random.split(key)
        if config.chain == "cd":
            h = draw_hidden(key_start, params, flat(batch["x"]))
            return {"x": gibbs(key_chain, params, h, config.k)[0]}, memory
        v, memory = gibbs(key_chain, params, memory, config.k)
        return {"x": v}, memory

    def decay(key: Key, params: Params, batch: Batch) -> tuple[Array, Info]:
        # α/2 ‖W‖²
        return 0.5 * config.weight_decay * jnp.sum(params.W**2), {}

    def renew(
        params: Params, memory: Memory, gradient: Params, positive: Batch, negative: Batch
    ) -> tuple[Params, Memory]:
        return recentre(params, flat(positive["x"]), config.nu), memory

    def log_prob(key: Key, params: Params, batch: Batch) -> Array:
        """Exact: log p(v) = -F(v) - log Z. Else unnormalised: -F(v)."""
        v = flat(batch["x"])
        nats = -free_energy(params, v)
        if exact:
            nats = nats - log_partition(params)
        # Outside of {0, 1}^D there is no probability.
        return jnp.where(distributions.is_binary(v), nats, -jnp.inf)

    def reconstruction(key: Key, params: Params, batch: Batch) -> Array:
        """Σ_i (v_i - v̂_i)², v̂ the visible means given the hidden means given v: no dice."""
        v = flat(batch["x"])
        return jnp.sum((v - visible_mean(params, hidden_mean(params, v))) ** 2, axis=-1)

    def sample(key: Key, params: Params, n: int, means: bool = config.sample_means) -> Batch:
        """`sample_steps` of Gibbs sampling from the base rate; the last v drawn, or its mean."""
        key_v, key_h, key_chain = jax.random.split(key, 3)
        h = draw_hidden(key_h, params, start(key_v, params, n))
        v = gibbs_visible(key_chain, params, h, config.sample_steps, means)
        return {"x": v.reshape(n, *params.shape)}

    def encode(key: Key, params: Params, batch: Batch) -> Array:
        """The hidden means p(h = 1 | v): [B, H]."""
        return hidden_mean(params, flat(batch["x"]))

    def decode(params: Params, latents: Array) -> Batch:
        return {"x": visible_mean(params, latents).reshape(-1, *params.shape)}

    init, step = contrast(
        begin,
        lambda params, batch: free_energy(params, flat(batch["x"])),
        negative,
        optax.masked(tx, _moved),
        extra=decay if config.weight_decay else None,
        renew=renew if config.centred else None,
    )
    return Model(
        init,
        step,
        sample=of_params(sample),
        log_prob=of_params(log_prob),
        evidence=Evidence.EXACT if exact else Evidence.UNNORMALISED,
        encode=of_params(encode),
        decode=lambda state, latents: decode(learnt(state), latents),
        measures={
            "reconstruction": Measure(
                of_params(reconstruction), Evidence.EXACT, "squared error", "lower"
            )
        },
        support=Support.BINARY,
    )


# ------------------------------------------------------------- the machine: v [B, D] and h [B, H]


def flat(x: Array) -> Array:
    """[B, ...] -> [B, D]."""
    return x.reshape(x.shape[0], -1)


def hidden_logits(params: Params, v: Array) -> Array:
    """a = c + Wᵀ(v - μ): [B, D] -> [B, H]."""
    return params.c + (v - params.mu) @ params.W


def hidden_mean(params: Params, v: Array) -> Array:
    """p(h = 1 | v): [B, D] -> [B, H]."""
    return jax.nn.sigmoid(hidden_logits(params, v))


def visible_mean(params: Params, h: Array) -> Array:
    """p(v = 1 | h): [B, H] -> [B, D]."""
    return hidden_mean(turned(params), h)


def draw_hidden(key: Key, params: Params, v: Array) -> Array:
    """h ~ p(h | v), as 0. and 1.: [B, D] -> [B, H]."""
    return _bernoulli(key, hidden_mean(params, v))


def draw_visible(key: Key, params: Params, h: Array) -> Array:
    """v ~ p(v | h), as 0. and 1.: [B, H] -> [B, D]."""
    return _bernoulli(key, visible_mean(params, h))


def start(key: Key, params: Params, n: int) -> Array:
    """v [n, D] from the base rate, where no chain has run yet."""
    return _bernoulli(key, jnp.broadcast_to(params.rate, (n, params.rate.size)))


def gibbs(key: Key, params: Params, h: Array, k: int) -> tuple[Array, Array]:
    """k Gibbs steps from h: (v [M, D], h [M, H])."""
    return chains.block_gibbs(
        key,
        h,
        lambda key, h: draw_visible(key, params, h),
        lambda key, v: draw_hidden(key, params, v),
        k,
    )


def gibbs_visible(key: Key, params: Params, h: Array, k: int, means: bool) -> Array:
    """The v [M, D] of k Gibbs steps from h, the last of them drawn or, with `means`, expected."""
    key_chain, key_last = jax.random.split(key)
    if k > 1:
        _, h = gibbs(key_chain, params, h, k - 1)
    return visible_mean(params, h) if means else draw_visible(key_last, params, h)


def free_energy(params: Params, v: Array) -> Array:
    """F(v) = -log Σ_h exp(-E(v, h)): [B, D] -> [B] nats.

        F(v) = -(v - μ)ᵀb + λᵀa - Σ_j log(1 + exp(a_j)),     a = c + Wᵀ(v - μ)

    The offsets are coordinates, not parameters: no gradient reaches them.
    """
    mu, lam = jax.lax.stop_gradient((params.mu, params.lam))
    centred = v - mu
    a = params.c + centred @ params.W
    return a @ lam - centred @ params.b - jnp.sum(jax.nn.softplus(a), axis=-1)


def turned(params: Params) -> Params:
    """The same machine with its two sides exchanged: E(v, h) = E'(h, v)."""
    p = params
    return dataclasses.replace(p, W=p.W.T, b=p.c, c=p.b, mu=p.lam, lam=p.mu)


def log_partition(params: Params, block: int = 2**11) -> Array:
    """log Z = log Σ_v Σ_h exp(-E(v, h)) [] nats, by enumeration of the smaller side.

    Args:
      params: of a machine whose smaller side has n <= 20 units.
      block: how many of the 2^n states are held at once; a power of two.

    Raises ConfigError where both sides are larger.
    """
    D, H = params.W.shape
    machine, n = (params, D) if D <= H else (turned(params), H)
    if n > ENUMERABLE:
        raise ConfigError(
            f"rbm: the sum over all states needs a side of at most {ENUMERABLE} units, got "
            f"{D} visible and {H} hidden ones; choose fewer, or estimate log Z instead."
        )
    if block < 1 or block & (block - 1):
        raise ConfigError(f"rbm: a block of states should be a power of two, got {block}.")
    size = min(block, 2**n)

    def add(log_sum: Array, first: Array) -> tuple[Array, None]:
        # State number s has bit i of s as its unit i.
        states = (first + jnp.arange(size)[:, None]) >> jnp.arange(n) & 1
        minus_F = -free_energy(machine, states.astype(jnp.float32))
        return jnp.logaddexp(log_sum, jax.nn.logsumexp(minus_F)), None

    return jax.lax.scan(add, jnp.array(-jnp.inf), jnp.arange(0, 2**n, size))[0]


# ----------------------------------------------------------------------------------- coordinates


def at_rate(config: Config, params: Params, rate: Array) -> Params:
    """A fresh machine whose visible side starts from base rates [D] in (0, 1)."""
    logit = jnp.log(rate) - jnp.log1p(-rate)
    return dataclasses.replace(
        params,
        rate=rate,
        b=logit if config.base_rate else params.b,
        mu=rate if config.centred else params.mu,
    )


def recentre(params: Params, v: Array, nu: float) -> Params:
    """Moves the offsets towards the units' means, and the biases so that p(v, h) stays the same.

        μ' = (1 - ν) μ + ν <v>            c' = c + Wᵀ(μ' - μ)
        λ' = (1 - ν) λ + ν <p(h | v)>     b' = b + W(λ' - λ)

    Melchior et al. 2016, algorithm 1, with the means of the data alone.

    Args:
      params: before.
      v: data [B, D].
      nu: ν, the pace; 1 takes the batch's means.
    """
    d_mu = nu * (jnp.mean(v, axis=0) - params.mu)
    d_lam = nu * (jnp.mean(hidden_mean(params, v), axis=0) - params.lam)
    return dataclasses.replace(
        params,
        mu=params.mu + d_mu,
        lam=params.lam + d_lam,
        b=params.b + params.W @ d_lam,
        c=params.c + d_mu @ params.W,
    )


def _moved(params: Params) -> Any:
    """Which parameters an optimizer moves: not the offsets, not even by weight decay."""
    by_gradient = lambda path, _: path[-1].name in ("W", "b", "c")
    return jax.tree.map_with_path(by_gradient, params)


def _bernoulli(key: Key, p: Array) -> Array:
    return jax.random.bernoulli(key, p).astype(p.dtype)
