"""Deep Boltzmann machine: layers of hidden units, each joined to the one below and the one above.

    E(v, h¹, ..., hᴸ) = -Σ_l bˡᵀ(hˡ - λˡ) - Σ_l (hˡ⁻¹ - λˡ⁻¹)ᵀWˡ(hˡ - λˡ),     h⁰ = v

    p(hˡ_j = 1 | the rest) = sigmoid(aˡ_j),     aˡ = bˡ + Wˡᵀ(hˡ⁻¹ - λˡ⁻¹) + Wˡ⁺¹(hˡ⁺¹ - λˡ⁺¹)

Salakhutdinov & Hinton, Deep Boltzmann machines, 2009, whose gradient is

    ∂/∂Wˡ log p(v) = E_data[hˡ⁻¹hˡᵀ] - E_model[hˡ⁻¹hˡᵀ].

Both terms are out of reach. The first is taken in a factorial q(h | v), the fixed point of
μˡ = sigmoid(aˡ(μ)) (mean field); the second from chains that never restart. Odd layers touch even
ones alone, so all of one kind are drawn, or updated, at once given the other kind.

The fixed point is only found from good weights. Every machine of two layers learns first, by
contrastive divergence, as if its missing neighbour said what the known one says (section 3.1):

    machine   up: aˡ given hˡ⁻¹      down: aˡ⁻¹ given hˡ
    lowest    bˡ + 2Wˡᵀhˡ⁻¹          bˡ⁻¹ + Wˡhˡ            (nothing is below the data)
    middle    bˡ + 2Wˡᵀhˡ⁻¹          bˡ⁻¹ + 2Wˡhˡ
    highest   bˡ + Wˡᵀhˡ⁻¹           bˡ⁻¹ + 2Wˡhˡ           (nothing is above the top)

The paper halves the weights of a middle machine once they are learnt; here they are halves from
the start. A layer that two machines share takes the mean of their biases, so that its logits are
the mean of theirs. The offsets λ (centring) are those of Melchior, Fischer & Wiskott, How to center
deep Boltzmann machines, 2016: coordinates, which change no distribution.

    log p(v) >= E_q[-E(v, h)] + H(q) - log Z

Data are exactly 0 or 1. Grey values have no probability here: binarise them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

import genjax_zoo.maths.mcmc.ais as annealing
from genjax_zoo.contract import (
    BINARY,
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
)
from genjax_zoo.learn import optimizers
from genjax_zoo.learn.state import Memory, Staged, TrainState, eval_params
from genjax_zoo.learn.verbs import Stage, contrast, staged
from genjax_zoo.maths.mcmc import chains
from genjax_zoo.maths.probability import distributions
from genjax_zoo.models import rbm

VERB = "staged"


@dataclasses.dataclass(frozen=True)
class Config:
    """A deep Boltzmann machine.

    Attributes:
      widths: units of each hidden layer, from the data up; two or more layers.
      stage_steps: steps of learning of each machine of two layers, as many as widths; the whole
        then learns for as long as the run does.
      k: Gibbs steps of contrastive divergence in those machines.
      weight_std: of the first weights, drawn from N(0, weight_std²).
      weight_decay: α of the penalty α/2 Σ_l ‖Wˡ‖² on each step's objective; biases have none.
      centred: whether the offsets follow the units' means; otherwise they stay 0.
      nu: ν, how much of each batch's means the offsets take over.
      rate: the learning rate of the whole, as a fraction of the optimizer's.
      updates: mean-field updates of all layers, from the upward pass.
      chain_steps: Gibbs steps of the persistent chains in a step of learning.
      chains: how many persistent chains.
      sample_steps: Gibbs steps from the base rates to a sample.
      sample_means: `sample` returns p(v = 1 | h¹), which is how images are usually shown; False
        returns draws, which is what a distribution is judged by.
      ais: how log Z is estimated, unless the odd layers have 20 units at most and it is exact.
    """

    widths: tuple[int, ...] = (64, 64)
    stage_steps: tuple[int, ...] = (2000, 2000)
    k: int = 1
    weight_std: float = 0.01
    weight_decay: float = 0.0
    centred: bool = True
    nu: float = 0.01
    rate: float = 1.0
    updates: int = 10
    chain_steps: int = 5
    chains: int = 100
    sample_steps: int = 1000
    sample_means: bool = False
    ais: annealing.Config = dataclasses.field(default_factory=annealing.Config)

    def __post_init__(self):
        if len(self.widths) < 2:
            raise ConfigError(
                f"dbm: widths should name two layers or more, got {self.widths}; a machine of one "
                "hidden layer is the family rbm."
            )
        if len(self.stage_steps) != len(self.widths) or min(self.stage_steps) < 1:
            raise ConfigError(
                f"dbm: stage_steps should be {len(self.widths)} positive numbers, one for each of "
                f"the widths {self.widths}, got {self.stage_steps}."
            )
        for name in ("updates", "chain_steps", "chains", "sample_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"dbm: {name} should be at least 1, got {getattr(self, name)}.")
        if self.rate <= 0:
            raise ConfigError(f"dbm: rate should be positive, got {self.rate}.")
        for width in self.widths:
            machine_config(self, width)


def machine_config(config: Config, width: int) -> rbm.Config:
    """A machine of two layers, the upper of `width` units; raises ConfigError as it does."""
    return rbm.Config(
        hidden=width,
        chain="cd",
        k=config.k,
        centred=config.centred,
        nu=config.nu,
        weight_std=config.weight_std,
        weight_decay=config.weight_decay,
    )


@struct.dataclass
class Params:
    """What a deep Boltzmann machine learns. Layer 0 is the data, layer l has n_l units.

    Attributes:
      W: (W¹, ..., Wᴸ), Wˡ [n_l-1, n_l].
      b: (b⁰, ..., bᴸ), the biases [n_l] of every layer.
      lam: (λ⁰, ..., λᴸ), the offsets [n_l]; follow the means if centred, else 0. No optimizer
        moves them.
      rate: (r⁰, ..., rᴸ), where each unit's mean lay when the whole began to learn, in (0, 1)
        [n_l]. Where chains of samples start, and annealing.
      shape: of one example, without the batch; its product is n_0.
    """

    W: tuple[Array, ...]
    b: tuple[Array, ...]
    lam: tuple[Array, ...]
    rate: tuple[Array, ...]
    shape: tuple[int, ...] = struct.field(pytree_node=False)


Layers = tuple[Array, ...]
"""(h⁰, ..., hᴸ), hˡ [B, n_l]: states, or their means."""


def make(config: Config, tx: optax.GradientTransformation) -> Model:
    """A deep Boltzmann machine: machines of two layers first, then the whole by `contrast`."""
    L = len(config.widths)
    exact = sum(config.widths[::2]) <= rbm.ENUMERABLE

    # ------------------------------------------------------------------------------- learning

    def begin(key: Key, batch: Batch) -> tuple[Params, Memory]:
        """Parameters that stay unused until the machines are put together, and the chains."""
        key_chain, *keys = jax.random.split(key, 1 + L)
        x, machines = batch["x"], []
        for own, width in zip(keys, config.widths, strict=True):
            machines.append(_fresh(config, width, own, {"x": x}))
            x = jnp.zeros((x.shape[0], width))
        params = put_together(tuple(machines))
        return params, start(key_chain, params, config.chains)

    def positive(key: Key, params: Params, memory: Memory, batch: Batch) -> tuple[Layers, Memory]:
        return mean_field(params, rbm.flat(batch["x"]), config.updates), memory

    def negative(key: Key, params: Params, memory: Memory, batch: Batch) -> tuple[Layers, Memory]:
        memory = gibbs(key, params, memory, config.chain_steps)
        # Given the odd layers the even ones are independent and the energy is linear in them: their
        # means have the draws' expectation, and less variance.
        return update(params, memory, 0), memory

    def extra(key: Key, params: Params, batch: Batch) -> tuple[Array, Info]:
        # α/2 Σ_l ‖Wˡ‖²
        squares = jnp.stack([jnp.sum(W**2) for W in params.W])
        return 0.5 * config.weight_decay * jnp.sum(squares), {}

    def post_update(
        params: Params, memory: Memory, gradient: Params, positive: Layers, negative: Layers
    ) -> tuple[Params, Memory]:
        # λˡ' = (1 - ν) λˡ + ν <hˡ>_data
        follow = lambda lam, h: lam + config.nu * (jnp.mean(h, axis=0) - lam)
        return at_offsets(params, tuple(map(follow, params.lam, positive))), memory

    whole = Model(
        *contrast(
            begin,
            energy,
            negative,
            optax.masked(optax.chain(tx, optax.scale(config.rate)), _learnable),
            positive,
            extra=extra if config.weight_decay else None,
            post_update=post_update if config.centred else None,
        ),
        sample=lambda key, state, n: {},
    )

    def view(key: Key, below: tuple[TrainState, ...], batch: Batch) -> Batch:
        """hˡ, drawn layer by layer, each from what is below it alone."""
        x = rbm.flat(batch["x"]) if below else batch["x"]
        for layer, state in enumerate(below):
            up = upward(eval_params(state), layer, L)
            x = rbm.draw_hidden(jax.random.fold_in(key, layer), up, x)
        return {"x": x}

    def begin_machine(own: TrainState, below: tuple[TrainState, ...]) -> TrainState:
        """λ of the machine below has followed its units' means: the base rates of the next one."""
        done = sum(config.stage_steps[: len(below)])
        own = dataclasses.replace(own, optimizer=optimizers.at_step(own.optimizer, done))
        if not config.centred:
            return own
        width = config.widths[len(below)]
        # A mean that rounds to 0 or 1 has no finite logit.
        rate = jnp.clip(below[-1].params.lam, 1e-3, 1 - 1e-3)
        params = rbm.at_rate(machine_config(config, width), own.params, rate)
        return dataclasses.replace(own, params=params)

    def begin_whole(own: TrainState, below: tuple[TrainState, ...]) -> TrainState:
        optimizer = optimizers.at_step(own.optimizer, sum(config.stage_steps))
        return dataclasses.replace(own, params=put_together(_learnt(below)), optimizer=optimizer)

    stages = [
        Stage(
            f"layer_{layer + 1}",
            machine(config, layer, tx),
            steps=config.stage_steps[layer],
            view=view,
            begin=begin_machine if layer else None,
        )
        for layer in range(L)
    ]
    stages += [
        Stage("whole", whole, steps=1, view=lambda key, below, batch: batch, begin=begin_whole)
    ]
    init, step = staged(stages)

    # ------------------------------------------------------------------------------- measuring

    def now(state: Staged) -> Params:
        """The whole; until its time comes, what the machines would be, put together."""
        *machines, last = state.states
        return jax.lax.cond(
            state.count > sum(config.stage_steps),
            lambda: eval_params(last),
            lambda: put_together(_learnt(tuple(machines))),
        )

    def bound(key: Key, state: Staged, batch: Batch, log_z: Array) -> Array:
        """E_q[-E(v, h)] + H(q) - log Z: [B] nats. The sum of -E is linear in each unit's mean."""
        v, params = rbm.flat(batch["x"]), now(state)
        q = mean_field(params, v, config.updates)
        H = sum(_entropy(mu) for mu in q[1:])
        # Outside of {0, 1}^D the model has no probability.
        return jnp.where(distributions.is_binary(v), -energy(params, q) + H - log_z, -jnp.inf)

    def log_prob(key: Key, state: Staged, batch: Batch) -> Array:
        return bound(key, state, batch, rbm.log_partition(two_sided(now(state))))

    def estimate(key: Key, state: Staged) -> Once:
        """log Z from the base rates to the machine."""
        return annealing.once(annealing.ais(key, rbm.path(two_sided(now(state))), config.ais))

    def estimate_back(key: Key, state: Staged) -> Once:
        """log Z from the machine to the base rates, starting where the persistent chains are."""
        key_chain, key_ais = jax.random.split(key)
        params, memory = now(state), state.states[-1].memory
        at = jnp.arange(config.ais.chains) % config.chains
        h = gibbs(key_chain, params, tuple(h[at] for h in memory), config.sample_steps)
        even = jnp.concatenate(h[::2], axis=-1)
        return annealing.once(
            annealing.reverse(key_ais, rbm.path(two_sided(params)), even, config.ais)
        )

    def reconstruction(key: Key, state: Staged, batch: Batch) -> Array:
        """Σ_i (v_i - v̂_i)², v̂ the means given the mean field given v: no dice."""
        v, params = rbm.flat(batch["x"]), now(state)
        q = mean_field(params, v, config.updates)
        return jnp.sum((v - jax.nn.sigmoid(logits(params, q, 0))) ** 2, axis=-1)

    # ---------------------------------------------------------------------------- generating

    def sample(key: Key, state: Staged, n: int, means: bool = config.sample_means) -> Batch:
        """`sample_steps` of Gibbs sampling of all layers; the last v drawn, or its mean."""
        key_start, key_chain = jax.random.split(key)
        params = now(state)
        h = gibbs(key_chain, params, start(key_start, params, n), config.sample_steps)
        v = jax.nn.sigmoid(logits(params, h, 0)) if means else h[0]
        return {"x": v.reshape(n, *params.shape)}

    def encode(key: Key, state: Staged, batch: Batch) -> Layers:
        """The mean field (μ¹, ..., μᴸ) of all hidden layers."""
        return mean_field(now(state), rbm.flat(batch["x"]), config.updates)[1:]

    def decode(state: Staged, latents: Layers) -> Batch:
        params = now(state)
        v = jax.nn.sigmoid(logits(params, (params.lam[0], *latents), 0))
        return {"x": v.reshape(-1, *params.shape)}

    measures = {
        "reconstruction": Measure(reconstruction, Exactness.EXACT, "squared error", "lower")
    }
    if not exact:
        how = annealing.described(config.ais)
        measures |= {
            "bound": Measure(
                bound,
                Exactness.ESTIMATE,
                "nats",
                detail=f"lower bound, log Z by AIS from the base rates, {how}",
                once=estimate,
            ),
            "bound_reverse": Measure(
                bound,
                Exactness.ESTIMATE,
                "nats",
                detail=f"lower bound, log Z by reverse AIS, {how}, started {config.sample_steps} "
                "Gibbs steps away from the chains of learning, which is no exact sample",
                once=estimate_back,
            ),
        }
    return Model(
        init,
        step,
        sample=sample,
        log_prob=Measure(log_prob, Exactness.LOWER_BOUND, density=True) if exact else None,
        measures=measures,
        spaces={"x": BINARY},
        latents=Latents(
            decode=lambda key, state, latents: decode(state, latents), encode=encode, space=BINARY
        ),
    )


# ------------------------------------------------------------------- the machine, layer by layer


def energy(params: Params, h: Layers) -> Array:
    """E(v, h¹, ..., hᴸ) [B] nats. The offsets are coordinates: no gradient reaches them."""
    d = [x - jax.lax.stop_gradient(lam) for x, lam in zip(h, params.lam, strict=True)]
    E = jnp.zeros(d[0].shape[0])
    for x, b in zip(d, params.b, strict=True):
        E -= x @ b
    for low, W, high in zip(d[:-1], params.W, d[1:], strict=True):
        E -= jnp.sum((low @ W) * high, axis=-1)
    return E


def logits(params: Params, h: Layers, layer: int) -> Array:
    """aˡ = bˡ + Wˡᵀ(hˡ⁻¹ - λˡ⁻¹) + Wˡ⁺¹(hˡ⁺¹ - λˡ⁺¹), of its neighbours alone: [B, n_l]."""
    a = params.b[layer]
    if layer > 0:
        a = a + (h[layer - 1] - params.lam[layer - 1]) @ params.W[layer - 1]
    if layer < len(params.W):
        a = a + (h[layer + 1] - params.lam[layer + 1]) @ params.W[layer].T
    return a


def update(params: Params, h: Layers, first: int) -> Layers:
    """Layers first, first + 2, ... at their means given the others, which stay as they are."""
    new = list(h)
    for layer in range(first, len(h), 2):
        new[layer] = jax.nn.sigmoid(logits(params, h, layer))
    return tuple(new)


def mean_field(params: Params, v: Array, updates: int) -> Layers:
    """(v, μ¹, ..., μᴸ), near the factorial q(h | v) that is nearest to p(h | v) in KL(q || p).

    μˡ = sigmoid(aˡ(μ)), even layers and odd ones by turns. Each turn is the best of its layers
    given the others, so that the bound on log p(v) never falls.

    Args:
      params: of the machine.
      v: data [B, n_0].
      updates: how many turns of both, after the upward pass.
    """
    # The pass up: what is above a layer is not known yet, and what is below it counts twice.
    h, L = [v], len(params.W)
    for layer, (W, b) in enumerate(zip(params.W, params.b[1:], strict=True)):
        up, _ = counts(layer, L)
        h.append(jax.nn.sigmoid(b + up * (h[layer] - params.lam[layer]) @ W))
    q = tuple(h)
    # Not in a loop of the compiler's, where what comes from v would be computed every time.
    for _ in range(updates):
        q = update(params, update(params, q, 2), 1)
    return q


def start(key: Key, params: Params, n: int) -> Layers:
    """All layers from their base rates, where no chain has run yet: hˡ [n, n_l]."""
    keys = jax.random.split(key, len(params.rate))
    return tuple(
        _bernoulli(own, jnp.broadcast_to(r, (n, r.size)))
        for own, r in zip(keys, params.rate, strict=True)
    )


def gibbs(key: Key, params: Params, h: Layers, k: int) -> Layers:
    """k times: the odd layers given the even ones, then the even ones given the odd ones."""

    def half(key: Key, h: Layers, first: int) -> Layers:
        means, keys = update(params, h, first), jax.random.split(key, len(h))
        return tuple(
            _bernoulli(keys[layer], mu) if layer % 2 == first else mu
            for layer, mu in enumerate(means)
        )

    def both(key: Key, h: Layers) -> Layers:
        key_odd, key_even = jax.random.split(key)
        return half(key_even, half(key_odd, h, 1), 0)

    return chains.run(key, h, both, k)


def at_offsets(params: Params, lam: tuple[Array, ...]) -> Params:
    """The same distribution in the coordinates of other offsets.

    bˡ' = bˡ + Wˡᵀ(λˡ⁻¹' - λˡ⁻¹) + Wˡ⁺¹(λˡ⁺¹' - λˡ⁺¹)
    """
    b = tuple(logits(params, lam, layer) for layer in range(len(lam)))
    return dataclasses.replace(params, b=b, lam=lam)


def two_sided(params: Params) -> rbm.Params:
    """The same machine as a restricted one: the even layers are visible, the odd ones hidden.

    Layers that are no neighbours have weights of 0. Its log Z is this machine's, whether summed
    over the odd layers or annealed over the even ones from their base rates.
    """
    L = len(params.W)
    even, odd = range(0, L + 1, 2), range(1, L + 1, 2)

    def between(low: int, high: int) -> Array:
        if low + 1 == high:
            return params.W[low]
        if high + 1 == low:
            return params.W[high].T
        return jnp.zeros((params.b[low].size, params.b[high].size))

    side = lambda of, layers: jnp.concatenate([of[layer] for layer in layers])
    return rbm.Params(
        W=jnp.block([[between(low, high) for high in odd] for low in even]),
        b=side(params.b, even),
        c=side(params.b, odd),
        mu=side(params.lam, even),
        lam=side(params.lam, odd),
        rate=side(params.rate, even),
        shape=(sum(params.b[layer].size for layer in even),),
    )


# ------------------------------------------------------ before: machines of two layers each


def counts(layer: int, L: int) -> tuple[int, int]:
    """How often the weights of machine 0 .. L - 1 count on the way up and on the way down.

    A layer that has a neighbour on both sides, in the end, hears the one it has now twice.
    """
    return (1 if layer == L - 1 else 2), (1 if layer == 0 else 2)


def upward(params: rbm.Params, layer: int, L: int) -> rbm.Params:
    """The machine as it is seen on the way up; its p(h | v) is the one to use."""
    return dataclasses.replace(params, W=counts(layer, L)[0] * params.W)


def downward(params: rbm.Params, layer: int, L: int) -> rbm.Params:
    """The machine as it is seen on the way down; its p(v | h) is the one to use."""
    return dataclasses.replace(params, W=counts(layer, L)[1] * params.W)


def machine(config: Config, layer: int, tx: optax.GradientTransformation) -> Model:
    """Two neighbouring layers, that learn by contrastive divergence before the whole does."""
    L = len(config.widths)

    def begin(key: Key, batch: Batch) -> tuple[rbm.Params, Memory]:
        return _fresh(config, config.widths[layer], key, batch), ()

    def pair_energy(params: rbm.Params, vh: tuple[Array, Array]) -> Array:
        """-bᵀ(v - μ) - cᵀ(h - λ) - (v - μ)ᵀW(h - λ): its gradient is the statistics."""
        mu, lam = jax.lax.stop_gradient((params.mu, params.lam))
        v, h = vh[0] - mu, vh[1] - lam
        return -v @ params.b - h @ params.c - jnp.sum((v @ params.W) * h, axis=-1)

    def positive(key: Key, params: rbm.Params, memory: Memory, batch: Batch) -> Any:
        v = rbm.flat(batch["x"])
        return (v, rbm.hidden_mean(upward(params, layer, L), v)), memory

    def negative(key: Key, params: rbm.Params, memory: Memory, batch: Batch) -> Any:
        up, down = upward(params, layer, L), downward(params, layer, L)
        key_start, key_chain = jax.random.split(key)
        v, _ = chains.block_gibbs(
            key_chain,
            rbm.draw_hidden(key_start, up, rbm.flat(batch["x"])),
            lambda key, h: rbm.draw_visible(key, down, h),
            lambda key, v: rbm.draw_hidden(key, up, v),
            config.k,
        )
        return (v, rbm.hidden_mean(up, v)), memory

    def extra(key: Key, params: rbm.Params, batch: Batch) -> tuple[Array, Info]:
        return 0.5 * config.weight_decay * jnp.sum(params.W**2), {}

    def post_update(
        params: rbm.Params, memory: Memory, gradient: Any, positive: Any, negative: Any
    ):
        v, h = positive
        mu = params.mu + config.nu * (jnp.mean(v, axis=0) - params.mu)
        lam = params.lam + config.nu * (jnp.mean(h, axis=0) - params.lam)
        c = rbm.at_offsets(upward(params, layer, L), mu, lam).c
        b = rbm.at_offsets(downward(params, layer, L), mu, lam).b
        return dataclasses.replace(params, b=b, c=c, mu=mu, lam=lam), memory

    return Model(
        *contrast(
            begin,
            pair_energy,
            negative,
            optax.masked(tx, _learnable),
            positive,
            extra=extra if config.weight_decay else None,
            post_update=post_update if config.centred else None,
        ),
        sample=lambda key, state, n: {},
    )


def put_together(machines: tuple[rbm.Params, ...]) -> Params:
    """The whole that L machines of two layers make.

    Each machine's biases are first taken to offsets of 0, where they are those of its conditionals.
    A layer between two machines has half of what each of them says:

        aˡ = ½ (bˡ_lower + 2Wˡᵀhˡ⁻¹) + ½ (bˡ_upper + 2Wˡ⁺¹hˡ⁺¹)
    """
    L, first = len(machines), machines[0]
    zero = [(jnp.zeros_like(m.mu), jnp.zeros_like(m.lam)) for m in machines]
    said_below = [
        rbm.at_offsets(downward(m, layer, L), *zero[layer]).b for layer, m in enumerate(machines)
    ]
    said_above = [
        rbm.at_offsets(upward(m, layer, L), *zero[layer]).c for layer, m in enumerate(machines)
    ]
    middle = [(c + b) / 2 for c, b in zip(said_above[:-1], said_below[1:], strict=True)]
    b = (said_below[0], *middle, said_above[-1])
    lam = (first.mu, *(m.lam for m in machines))
    # Uncentred offsets of 0 tell nothing of a layer's means, and neither does a rate of ½.
    known = [jnp.where(m.lam > 0, jnp.clip(m.lam, 1e-3, 1 - 1e-3), 0.5) for m in machines]
    at_zero = Params(
        W=tuple(m.W for m in machines),
        b=b,
        lam=tuple(map(jnp.zeros_like, lam)),
        rate=(first.rate, *known),
        shape=first.shape,
    )
    return at_offsets(at_zero, lam)


def _fresh(config: Config, width: int, key: Key, batch: Batch) -> rbm.Params:
    start, _ = rbm.make(machine_config(config, width), optax.identity())[:2]
    return start(key, batch).params


def _learnt(states: tuple[TrainState, ...]) -> tuple[rbm.Params, ...]:
    return tuple(map(eval_params, states))


def _learnable(params: Any) -> Any:
    """Which leaves an optimizer moves; the offsets not, not even by weight decay."""
    return jax.tree.map_with_path(lambda path, _: path[0].name in ("W", "b", "c"), params)


def _entropy(p: Array) -> Array:
    """H of independent units that are 1 with probability p: [B, n] -> [B] nats."""
    return -jnp.sum(jax.scipy.special.xlogy(p, p) + jax.scipy.special.xlog1py(1 - p, -p), axis=-1)


def _bernoulli(key: Key, p: Array) -> Array:
    return jax.random.bernoulli(key, p).astype(p.dtype)
