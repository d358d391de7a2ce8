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

A machine can be begun from a run of the family rbm instead, under its stage's name: layer_1 from
one of the data, layer_2 from one of its hidden units, ... With 0 in `stage_steps` it need not learn
again. The weights of a middle one are halved, those of the lowest and of the highest stay, and what
these two say of the layer within is right at the units' means, but has twice the slope
(deep_boltzmann.as_layer): they should be centred.

Data are exactly 0 or 1. Grey values have no probability here: binarise them.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from genjax_zoo import typed
from genjax_zoo.contract import (
    BINARY,
    MEAN,
    NOTHING,
    Array,
    Batch,
    ConfigError,
    Exactness,
    Info,
    Key,
    Latents,
    Measure,
    Model,
)
from genjax_zoo.learn import optimizers
from genjax_zoo.learn.state import Memory, Staged, TrainState, eval_params
from genjax_zoo.learn.verbs import Stage, contrast, staged
from genjax_zoo.maths.mcmc import ais as annealing
from genjax_zoo.maths.mcmc import boltzmann, chains, gibbs
from genjax_zoo.maths.mcmc import deep_boltzmann as deep
from genjax_zoo.maths.mcmc.boltzmann import Machine, flat, follow
from genjax_zoo.maths.mcmc.deep_boltzmann import DeepMachine, Layers
from genjax_zoo.maths.probability import distributions
from genjax_zoo.maths.probability.given import known_part, part_of, read_given
from genjax_zoo.typed import MOST_LAYERS, MOST_STEPS, number

VERB = "staged"


@typed.config
class Config:
    """A deep Boltzmann machine.

    Attributes:
      widths: units of each hidden layer, from the data up; two or more layers.
      stage_steps: steps of learning of each machine of two layers, as many as widths; the whole
        then learns for as long as the run does. 0 leaves a machine as it begins: for one that is
        begun from an RBM.
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
      sample_means: `sample` gives p(v = 1 | h¹) beside its draws, which is how images are usually
        shown.
      ais: how log Z is estimated, unless the odd layers have 20 units at most and it is exact.
    """

    widths: tuple[int, ...] = number((64, 64), least=1)
    stage_steps: tuple[int, ...] = number((2000, 2000), least=0)
    k: int = number(1, least=1, most=MOST_STEPS)
    weight_std: float = number(0.01, least=0, most=100)
    weight_decay: float = number(0.0, least=0)
    centred: bool = True
    nu: float = number(0.01, above=0, most=1)
    rate: float = number(1.0, above=0)
    updates: int = number(10, least=1, most=MOST_LAYERS)
    chain_steps: int = number(5, least=1, most=MOST_STEPS)
    chains: int = number(100, least=1)
    sample_steps: int = number(1000, least=1, most=MOST_STEPS)
    sample_means: bool = False
    ais: annealing.Config = dataclasses.field(default_factory=annealing.Config)

    def __post_init__(self):
        if len(self.widths) < 2:
            raise ConfigError(
                f"dbm: widths should name two layers or more, got {self.widths}; a machine of one "
                "hidden layer is the family rbm."
            )
        if len(self.stage_steps) != len(self.widths):
            raise ConfigError(
                f"dbm: stage_steps should be {len(self.widths)} numbers, one for each of the "
                f"widths {self.widths}, got {self.stage_steps}."
            )


def make(config: Config, tx: optax.GradientTransformation) -> Model:
    """A deep Boltzmann machine: machines of two layers first, then the whole by `contrast`."""
    L, greedy = len(config.widths), sum(config.stage_steps)
    exact = sum(config.widths[::2]) <= boltzmann.ENUMERABLE

    # ---------------------------------------------------------- greedily, then the whole of them

    def view(key: Key, below: tuple[TrainState, ...], batch: Batch) -> Batch:
        """hˡ, drawn layer by layer, each from what is below it alone."""
        x = flat(batch["x"]) if below else batch["x"]
        for layer, state in enumerate(below):
            up = deep.upward(eval_params(state), layer, L)
            x = boltzmann.draw_hidden(jax.random.fold_in(key, layer), up, x)
        return {"x": x}

    def begin_machine(own: TrainState, below: tuple[TrainState, ...]) -> TrainState:
        params = boltzmann.above(own.params, below[-1].params, config.centred)
        return _at_step(
            dataclasses.replace(own, params=params), sum(config.stage_steps[: len(below)])
        )

    def begin_whole(own: TrainState, below: tuple[TrainState, ...]) -> TrainState:
        return _at_step(dataclasses.replace(own, params=put_together(below)), greedy)

    machines = [
        Stage(
            f"layer_{layer + 1}",
            machine(config, layer, tx),
            steps=config.stage_steps[layer],
            view=view,
            begin=begin_machine if layer else None,
        )
        for layer in range(L)
    ]
    last = Stage("whole", whole(config, tx), 1, lambda key, below, batch: batch, begin_whole)
    init, step = staged([*machines, last])

    def put_together(states: tuple[TrainState, ...]) -> DeepMachine:
        return deep.put_together(tuple(map(eval_params, states)))

    def now(state: Staged) -> DeepMachine:
        """The whole; until its time comes, what the machines would be, put together."""
        *machines, last = state.states
        return jax.lax.cond(
            state.count > greedy,
            lambda: eval_params(last),
            lambda: put_together(tuple(machines)),
        )

    # ------------------------------------------------------------------------------- measuring

    def bound(key: Key, state: Staged, batch: Batch, log_z: Array) -> Array:
        """E_q[-E(v, h)] + H(q) - log Z: [B] nats. The sum of -E is linear in each unit's mean."""
        v, params = flat(batch["x"]), now(state)
        q = deep.mean_field(params, v, config.updates)
        nats = sum(map(deep.entropy, q[1:]), -deep.energy(params, q)) - log_z
        # Outside of {0, 1}^D the model has no probability.
        return jnp.where(distributions.is_binary(v), nats, -jnp.inf)

    def log_prob(key: Key, state: Staged, batch: Batch) -> Array:
        return bound(key, state, batch, boltzmann.log_partition(deep.two_sided(now(state))))

    def long_chains(key: Key, state: Staged) -> tuple[Key, Array]:
        """The even layers after `sample_steps` from where the persistent chains are."""
        key_chain, key_ais = jax.random.split(key)
        at = jnp.arange(config.ais.chains) % config.chains
        h = tuple(h[at] for h in state.states[-1].memory)
        h = deep.gibbs(key_chain, now(state), h, config.sample_steps)
        return key_ais, jnp.concatenate(h[::2], axis=-1)

    def reconstruction(key: Key, state: Staged, batch: Batch) -> Array:
        """Σ_i (v_i - v̂_i)², v̂ the means given the mean field given v: nothing is drawn."""
        v, params = flat(batch["x"]), now(state)
        q = deep.mean_field(params, v, config.updates)
        return jnp.sum((v - deep.mean(params, q, 0)) ** 2, axis=-1)

    # ------------------------------------------------------------------------------ generating

    def sample(key: Key, state: Staged, n: int, given: Batch = NOTHING) -> Batch:
        """`sample_steps` of Gibbs sampling of all layers; the last v, with its mean if wanted.

        The known part of x, if one is given, stays as it is, and the rest is drawn given it.
        """
        params = now(state)
        part = known_part(read_given(given, part_of(BINARY, params.shape), n, "dbm"), "dbm")
        hold = gibbs.hold(math.prod(params.shape), part)
        key_start, key_chain = jax.random.split(key)
        h = deep.start(key_start, params, n, hold)
        h = deep.gibbs(key_chain, params, h, config.sample_steps, hold)
        drawn = {"x": h[0]}
        if config.sample_means:
            drawn[MEAN] = gibbs.clamp(deep.mean(params, h, 0), hold)
        return {name: v.reshape(n, *params.shape) for name, v in drawn.items()}

    def encode(key: Key, state: Staged, batch: Batch) -> Layers:
        """The mean field (μ¹, ..., μᴸ) of all hidden layers."""
        return deep.mean_field(now(state), flat(batch["x"]), config.updates)[1:]

    def decode(key: Key, state: Staged, latents: Layers) -> Batch:
        """The mean of p(v | h¹), of (h¹, ..., hᴸ)."""
        params = now(state)
        v = deep.mean(params, (params.lam[0], *latents), 0)
        return {"x": v.reshape(-1, *params.shape)}

    error = Measure(reconstruction, Exactness.EXACT, "squared error", "lower")
    measures = {"reconstruction": error}
    if not exact:
        measures |= annealing.measures(
            "bound",
            bound,
            lambda state: gibbs.path(deep.two_sided(now(state))),
            config.ais,
            base="the base rates",
            what="lower bound, log Z by ",
            samples=long_chains,
            origin=f"{config.sample_steps} Gibbs steps away from the chains of learning",
        )
    return Model(
        init,
        step,
        sample=sample,
        log_prob=Measure(log_prob, Exactness.LOWER_BOUND, density=True) if exact else None,
        measures=measures,
        spaces={"x": BINARY},
        latents=Latents(decode=decode, encode=encode, space=BINARY),
    )


# ------------------------------------------------------------------------------------ the stages


def machine(config: Config, layer: int, tx: optax.GradientTransformation) -> Model:
    """Two neighbouring layers, that learn by contrastive divergence before the whole does."""
    L = len(config.widths)
    up = lambda params: deep.upward(params, layer, L)
    down = lambda params: deep.downward(params, layer, L)

    def begin(key: Key, batch: Batch) -> tuple[Machine, Memory]:
        return _fresh(config, layer, key, batch["x"]), ()

    def energy(params: Machine, vh: tuple[Array, Array]) -> Array:
        """-bᵀ(v - μ) - cᵀ(h - λ) - (v - μ)ᵀW(h - λ): its gradient is the statistics."""
        mu, lam = jax.lax.stop_gradient((params.mu, params.lam))
        v, h = vh[0] - mu, vh[1] - lam
        return -v @ params.b - h @ params.c - jnp.sum((v @ params.W) * h, axis=-1)

    def positive(key: Key, params: Machine, memory: Memory, batch: Batch) -> Any:
        v = flat(batch["x"])
        return (v, boltzmann.hidden_mean(up(params), v)), memory

    def negative(key: Key, params: Machine, memory: Memory, batch: Batch) -> Any:
        key_start, key_chain = jax.random.split(key)
        v, _ = chains.block_gibbs(
            key_chain,
            boltzmann.draw_hidden(key_start, up(params), flat(batch["x"])),
            lambda key, h: boltzmann.draw_visible(key, down(params), h),
            lambda key, v: boltzmann.draw_hidden(key, up(params), v),
            config.k,
        )
        return (v, boltzmann.hidden_mean(up(params), v)), memory

    def extra(key: Key, params: Machine, batch: Batch) -> tuple[Array, Info]:
        return 0.5 * config.weight_decay * jnp.sum(params.W**2), {}

    def post_update(params: Machine, memory: Memory, gradient: Any, positive: Any, negative: Any):
        v, h = positive
        mu, lam = follow(params.mu, v, config.nu), follow(params.lam, h, config.nu)
        return deep.machine_at_offsets(params, layer, L, mu, lam), memory

    start, step = contrast(
        begin,
        energy,
        negative,
        optax.masked(tx, boltzmann.learnt),
        positive,
        extra=extra if config.weight_decay else None,
        post_update=post_update if config.centred else None,
    )

    def init(key: Key, batch: Batch, params: Machine | None = None) -> TrainState:
        """`params` are those of an ordinary machine, a run of the family rbm (deep.as_layer)."""
        if params is not None:
            params = deep.as_layer(params, layer, L, flat(batch["x"]))
        return start(key, batch, params)

    return Model(init, step, sample=lambda key, state, n, given=NOTHING: {})


def whole(config: Config, tx: optax.GradientTransformation) -> Model:
    """All layers at once, when the machines have been put together."""

    def begin(key: Key, batch: Batch) -> tuple[DeepMachine, Memory]:
        """Parameters that stay unused until the machines are put together, and the chains."""
        key_chain, *keys = jax.random.split(key, 1 + len(config.widths))
        x, machines = batch["x"], []
        for layer, own in enumerate(keys):
            machines.append(_fresh(config, layer, own, x))
            x = jnp.zeros((x.shape[0], config.widths[layer]))
        params = deep.put_together(tuple(machines))
        return params, deep.start(key_chain, params, config.chains)

    def positive(key: Key, params: DeepMachine, memory: Memory, batch: Batch) -> Any:
        return deep.mean_field(params, flat(batch["x"]), config.updates), memory

    def negative(key: Key, params: DeepMachine, memory: Memory, batch: Batch) -> Any:
        memory = deep.gibbs(key, params, memory, config.chain_steps)
        # Given the odd layers the even ones are independent and the energy is linear in them: their
        # means have the draws' expectation, and less variance.
        return deep.update(params, memory, 0), memory

    def extra(key: Key, params: DeepMachine, batch: Batch) -> tuple[Array, Info]:
        # α/2 Σ_l ‖Wˡ‖²
        squares = jnp.stack([jnp.sum(W**2) for W in params.W])
        return 0.5 * config.weight_decay * jnp.sum(squares), {}

    def post_update(
        params: DeepMachine, memory: Memory, gradient: Any, positive: Layers, negative: Layers
    ) -> tuple[DeepMachine, Memory]:
        # λˡ' = (1 - ν) λˡ + ν <hˡ>_data
        lam = tuple(follow(lam, h, config.nu) for lam, h in zip(params.lam, positive, strict=True))
        return deep.at_offsets(params, lam), memory

    start, step = contrast(
        begin,
        deep.energy,
        negative,
        optax.masked(optax.chain(tx, optax.scale(config.rate)), boltzmann.learnt),
        positive,
        extra=extra if config.weight_decay else None,
        post_update=post_update if config.centred else None,
    )

    # Without `params`: it is put together from its machines, and begins from no other run.
    init = lambda key, batch: start(key, batch)
    return Model(init, step, sample=lambda key, state, n, given=NOTHING: {})


def _fresh(config: Config, layer: int, key: Key, x: Array) -> Machine:
    # The first of three keys, as a machine of the family rbm has them.
    key_W, width = jax.random.split(key, 3)[0], config.widths[layer]
    return boltzmann.fresh(key_W, x, width, config.weight_std, centred=config.centred)


def _at_step(own: TrainState, steps: int) -> TrainState:
    """A stage that begins in the middle of a run, where schedules of the learning rate stand."""
    return dataclasses.replace(own, optimizer=optimizers.at_step(own.optimizer, steps))
