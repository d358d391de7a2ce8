"""Deep belief network: restricted Boltzmann machines, each learning the activities below it.

    p(v, h¹, ..., hᴸ) = p(v | h¹) p(h¹ | h²) ... p(hᴸ⁻² | hᴸ⁻¹) p(hᴸ⁻¹, hᴸ)

The top pair (hᴸ⁻¹, hᴸ) is a restricted Boltzmann machine, whose lower side a label may join; below
it all arrows point down, and recognition goes up through q(hˡ⁺¹ | hˡ). Hinton, Osindero & Teh, A
fast learning algorithm for deep belief nets, 2006, in two parts:

    greedy     every machine models what the one below makes of the data, and both of its
               conditionals are kept: a machine that models q(h¹ | v) better than the one below does
               raises a lower bound on log p(v)
    up-down    the weights up and down go apart, and all of them learn together by contrastive
               wake-sleep: those down from a pass up, those up from a pass down, and between the two
               the top pair by its own contrast

With all but the top layer drawn from q (Salakhutdinov & Murray, On the quantitative analysis of
deep belief networks, 2008, section 4.2),

    log p(v) >= E_q[log p(v | h¹) + ... + log p*(hᴸ⁻¹)] + H(q) - log Z.
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
    DataError,
    Exactness,
    Info,
    Key,
    Latents,
    Measure,
    Model,
    Once,
    categorical,
)
from genjax_zoo.learn import optimizers
from genjax_zoo.learn.state import Memory, Staged, TrainState, eval_params
from genjax_zoo.learn.verbs import Stage, descend, staged
from genjax_zoo.maths.probability import distributions
from genjax_zoo.models import rbm

VERB = "staged"


@dataclasses.dataclass(frozen=True)
class Config:
    """A deep belief network.

    Attributes:
      widths: units of each hidden layer, from the data up.
      stage_steps: steps of each stage before the next begins: each machine is one, and the up-down
        algorithm another. One number fewer than there are stages, for the last goes on as long as
        the run does.
      turned: whether a machine with as many hidden units as the one below has visible ones begins
        as that one turned over. The bound on log p(v) then begins where the greedy algorithm's
        last one was; for the second machine, without a label, it is an equality (Hinton, Osindero
        & Teh 2006, section 4).
      up_down: whether the machines learn together in the end; the penalties of `machine` are of
        the greedy stages alone, and offsets stay where those left them.
      classes: C, the states of a label unit beside the top pair's lower side; 0 has none.
      rate: the learning rate of the up-down algorithm, as a fraction of the optimizer's.
      samples: how many draws of q(h | v) the bound on log p(v) averages.
      machine: every machine, as in models/rbm.py; its hidden units are the widths, and its data
        are 0 or 1. A centred machine begins from the means of the units below it.
    """

    widths: tuple[int, ...] = (64, 64)
    stage_steps: tuple[int, ...] = (2000,)
    turned: bool = False
    up_down: bool = False
    classes: int = 0
    rate: float = 1.0
    samples: int = 10
    machine: rbm.Config = dataclasses.field(default_factory=lambda: rbm.Config(centred=True))

    def __post_init__(self):
        if not self.widths:
            raise ConfigError("dbn: widths should name at least one layer, got none.")
        follow = len(self.widths) - 1 + self.up_down
        if len(self.stage_steps) != follow or min(self.stage_steps, default=1) < 1:
            raise ConfigError(
                f"dbn: stage_steps should be {follow} positive numbers, one for each stage but "
                f"the last, of {len(self.widths)} machines"
                f"{' and up-down' if self.up_down else ''}, got {self.stage_steps}."
            )
        for name, least in (("visible", 0), ("classes", 0), ("units", "bernoulli")):
            if getattr(self.machine, name) != least:
                raise ConfigError(
                    f"dbn: machine.{name} should be {least!r}, got "
                    f"{getattr(self.machine, name)!r}; a label belongs in model.classes, and the "
                    "data are 0 or 1."
                )
        if self.up_down and self.machine.chain not in ("cd", "pcd"):
            raise ConfigError(
                f"dbn: up-down contrasts by cd or pcd, got machine.chain={self.machine.chain!r}."
            )
        if self.samples < 1 or self.rate <= 0:
            raise ConfigError(
                f"dbn: samples should be at least 1 and rate positive, got {self.samples} and "
                f"{self.rate}."
            )
        for layer in range(len(self.widths)):
            machine(self, layer)


def machine(config: Config, layer: int) -> rbm.Config:
    """The machine below hidden layer `layer` + 1; raises ConfigError as its own config does."""
    top = layer == len(config.widths) - 1
    return dataclasses.replace(
        config.machine,
        hidden=config.widths[layer],
        classes=config.classes if top else 0,
    )


@struct.dataclass
class Network:
    """What a deep belief network has learnt.

    Attributes:
      recognise: (q(h¹ | v), ..., q(hᴸ⁻¹ | hᴸ⁻²)), of each machine its conditional going up.
      generate: (p(v | h¹), ..., p(hᴸ⁻² | hᴸ⁻¹)), of each its conditional going down. The same
        machines, until the up-down algorithm takes the two apart.
      top: the machine (hᴸ⁻¹, hᴸ), with the label if there is one.
    """

    recognise: tuple[rbm.Params, ...]
    generate: tuple[rbm.Params, ...]
    top: rbm.Params


def make(config: Config, tx: optax.GradientTransformation) -> Model:
    """A deep belief network that learns greedily; every stage has its own state of `tx`."""
    L, persistent = len(config.widths), config.machine.chain == "pcd"
    # The top machine's lower side is the data, of a size not known here, if there is one layer.
    smaller = min(config.widths[-2:]) if L > 1 else config.widths[-1]
    exact = smaller <= rbm.ENUMERABLE

    # --------------------------------------------------------------------------------- greedy

    def view(key: Key, below: tuple[TrainState, ...], batch: Batch) -> Batch:
        """h ~ q(h | v), drawn layer by layer.

        Drawn and not averaged: the bound that justifies the next machine is an expectation of
        log p(h) over q(h | v), which a draw estimates without bias, and a machine of binary units
        gives probability to nothing but 0 and 1.
        """
        x = wake(key, tuple(map(eval_params, below)), batch["x"])[-1]
        return {**batch, "x": x if below else batch["x"]}

    def begin_machine(own: TrainState, below: tuple[TrainState, ...]) -> TrainState:
        """λ of the machine below has followed its units' means: the base rates of the next one."""
        layer = len(below)
        done = sum(config.stage_steps[:layer])
        own = dataclasses.replace(own, optimizer=optimizers.at_step(own.optimizer, done))
        D = own.params.W.shape[0] - own.params.classes
        if config.turned and (D, config.widths[layer]) == below[-1].params.W.T.shape:
            return turned_over(own, below[-1], persistent)
        if not config.machine.centred:
            return own
        # A mean that rounds to 0 or 1 has no finite logit.
        rate = jnp.clip(below[-1].params.lam, 1e-3, 1 - 1e-3)
        if own.params.classes:
            # What is known of the labels is what the first batch said.
            rate = jnp.concatenate([rate, own.params.rate[-own.params.classes :]])
        return dataclasses.replace(
            own, params=rbm.at_rate(machine(config, layer), own.params, rate)
        )

    # -------------------------------------------------------------------------------- up-down

    def apart(key: Key, batch: Batch) -> tuple[Network, Memory]:
        """A network of fresh machines, and the top pair's chains."""
        keys, x, machines = jax.random.split(key, L + 2), batch["x"], []
        for layer in range(L):
            fresh = rbm.make(machine(config, layer), tx)
            machines.append(fresh.init(keys[layer], {**batch, "x": x}).params)
            x = jnp.zeros((x.shape[0], config.widths[layer]))
        network = of_machines(machines)
        if not persistent:
            return network, ()
        v = rbm.start(keys[L], network.top, config.machine.chains)
        return network, rbm.draw_hidden(keys[L + 1], network.top, v)

    def begin_up_down(own: TrainState, below: tuple[TrainState, ...]) -> TrainState:
        return TrainState(
            params=of_machines([eval_params(state) for state in below]),
            memory=below[-1].memory if persistent else own.memory,
            optimizer=optimizers.at_step(own.optimizer, sum(config.stage_steps)),
        )

    def up_down(
        key: Key, params: Network, memory: Memory, batch: Batch
    ) -> tuple[Array, tuple[Memory, Info]]:
        """Contrastive wake-sleep (Hinton, Osindero & Teh 2006, appendix B).

        The terms' gradients are the delta rules: each unit's state less its probability, times the
        states that it was predicted from.
        """
        key_wake, key_start, key_chain, key_sleep = jax.random.split(key, 4)
        params, fixed = _held(params), jax.lax.stop_gradient(params)
        # Up: h¹, ..., hᴸ⁻¹ ~ q(h | v)
        seen = wake(key_wake, fixed.recognise, batch["x"])
        # The top pair: k Gibbs steps from there, or from where they stopped the last time.
        x_top = rbm.joined(params.top, {**batch, "x": seen[-1]})
        h = memory if persistent else rbm.draw_hidden(key_start, fixed.top, x_top)
        dreamt_top, h = rbm.gibbs(key_chain, fixed.top, h, config.machine.k)
        # Down: hᴸ⁻², ..., v ~ p(. | hᴸ⁻¹)
        dreamt = sleep(key_sleep, fixed.generate, _units(params.top, dreamt_top))
        # 1. -log p(v | h¹) - ... - log p(hᴸ⁻² | hᴸ⁻¹), awake
        generate = -sum(
            jnp.mean(distributions.bernoulli(low, rbm.visible_logits(p, high)))
            for p, low, high in zip(params.generate, seen[:-1], seen[1:], strict=True)
        )
        # 2. the top pair's contrast F(hᴸ⁻¹) - F(dreamt hᴸ⁻¹)
        gap = jnp.mean(rbm.free_energy(params.top, x_top))
        gap -= jnp.mean(rbm.free_energy(params.top, dreamt_top))
        # 3. -log q(h¹ | v) - ... - log q(hᴸ⁻¹ | hᴸ⁻²), asleep
        recognise = -sum(
            jnp.mean(distributions.bernoulli(high, rbm.hidden_logits(p, low)))
            for p, low, high in zip(params.recognise, dreamt[:-1], dreamt[1:], strict=True)
        )
        memory = h if persistent else memory
        return generate + gap + recognise, (memory, {"free_energy_gap": gap})

    tuned = optax.masked(
        optax.chain(tx, optax.scale(config.rate)),
        lambda params: jax.tree.map_with_path(_is_learnt, params),
    )
    tuning = Model(
        *descend(apart, up_down, tuned),
        sample=lambda key, state, n: {},
    )

    steps = (*config.stage_steps, 1)
    stages = [
        Stage(
            f"layer_{layer + 1}",
            rbm.make(machine(config, layer), tx),
            steps=steps[layer],
            view=view,
            begin=begin_machine if layer > 0 else None,
        )
        for layer in range(L)
    ]
    if config.up_down:
        stages += [
            Stage("up_down", tuning, 1, view=lambda key, below, batch: batch, begin=begin_up_down)
        ]
    init, step = staged(stages)

    # ------------------------------------------------------------------------------- measuring

    def now(state: Staged) -> Network:
        """The network; until its parts go apart, the machines."""
        greedy = of_machines([eval_params(stage) for stage in state.states[:L]])
        if not config.up_down:
            return greedy
        begun = state.count > sum(config.stage_steps)
        return jax.lax.cond(begun, lambda: eval_params(state.states[-1]), lambda: greedy)

    def bound(key: Key, state: Staged, batch: Batch, log_z: Array) -> Array:
        """Of x, the label summed out: [B] nats, the mean over `samples` draws of q."""
        params = now(state)
        draw = lambda key: lower_bound(key, params, batch["x"])
        nats = jnp.mean(jax.lax.map(draw, jax.random.split(key, config.samples)), axis=0)
        inside = distributions.is_binary(rbm.flat(batch["x"]))
        return jnp.where(inside, nats - log_z, -jnp.inf)

    def log_prob(key: Key, state: Staged, batch: Batch) -> Array:
        return bound(key, state, batch, rbm.log_partition(now(state).top))

    def estimate(key: Key, state: Staged) -> Once:
        """log Z of the top pair."""
        return annealing.once(annealing.ais(key, rbm.path(now(state).top), config.machine.ais))

    def reconstruction(key: Key, state: Staged, batch: Batch) -> Array:
        """Σ_i (v_i - v̂_i)² of v̂ = the means all the way up and down again."""
        v, params = rbm.flat(batch["x"]), now(state)
        return jnp.sum((v - down(params, up(params, v))) ** 2, axis=-1)

    def error(key: Key, state: Staged, batch: Batch) -> Array:
        """1 where argmax_y -F(h, y) of the top pair is not the label, h the means, else 0."""
        if "label" not in batch:
            raise DataError("dbn: the error is of labels, and the batch has none; give it one.")
        params = now(state)
        h = means_up(params, rbm.flat(batch["x"]))
        guess = jnp.argmax(rbm.label_logits(params.top, h), axis=-1)
        return (guess != batch["label"]).astype(jnp.float32)

    # ------------------------------------------------------------------------------ generating

    def sample(
        key: Key,
        state: Staged,
        n: int,
        label: Array | int | None = None,
        means: bool = config.machine.sample_means,
    ) -> Batch:
        """Gibbs sampling in the top pair from its base rate, then once down, a draw a layer.

        Args:
          key: the dice.
          state: of the network.
          n: how many.
          label: [] or [n], held in the top pair; the network must have classes.
          means: whether x is the mean of p(v | h¹) in the end.
        """
        params = now(state)
        top, *keys = params.top, *jax.random.split(key, 4)
        hold = rbm.known(top, n, None, None, label)
        h = rbm.draw_hidden(keys[0], top, rbm.clamp(rbm.start(keys[1], top, n), hold))
        steps = config.machine.sample_steps
        v = rbm.gibbs_visible(keys[2], top, h, steps, means and L == 1, hold)
        x = sleep(keys[3], params.generate, _units(top, v), means)[0]
        drawn = {"x": x.reshape(n, *shape(params))}
        if config.classes:
            y = v[:, -config.classes :]
            drawn["label"] = jnp.argmax(y, axis=-1).astype(jnp.int32)
        return drawn

    def encode(key: Key, state: Staged, batch: Batch) -> Array:
        """The means of the topmost layer, each layer's computed from the means below it."""
        return up(now(state), rbm.flat(batch["x"]))

    def decode(state: Staged, latents: Array) -> Batch:
        params = now(state)
        return {"x": down(params, latents).reshape(-1, *shape(params))}

    measures = {
        "reconstruction": Measure(reconstruction, Exactness.EXACT, "squared error", "lower")
    }
    if config.classes:
        measures["error"] = Measure(error, Exactness.EXACT, "error", "lower")
    if not exact:
        measures["bound"] = Measure(
            bound,
            Exactness.ESTIMATE,
            "nats",
            detail="lower bound, log Z by AIS from the base rate, "
            f"{annealing.described(config.machine.ais)}; {config.samples} draws of q",
            once=estimate,
        )
    return Model(
        init,
        step,
        sample=sample,
        log_prob=Measure(log_prob, Exactness.LOWER_BOUND, density=True) if exact else None,
        measures=measures,
        spaces={"x": BINARY, **({"label": categorical(config.classes)} if config.classes else {})},
        latents=Latents(
            decode=lambda key, state, latents: decode(state, latents), encode=encode, space=BINARY
        ),
    )


# -------------------------------------------------------------------------- the network's passes


def of_machines(machines: list[rbm.Params]) -> Network:
    """The network that machines make, from the data up."""
    *lower, top = machines
    return Network(tuple(lower), tuple(lower), top)


def turned_over(own: TrainState, below: TrainState, persistent: bool) -> TrainState:
    """The machine above one that it is the mirror of: p(h¹) is what the one below makes it.

    Its chains, if they persist, go on where those below are; its label, if any, knows nothing yet.
    """
    mirror, C = rbm.turned(eval_params(below)), own.params.classes
    # A mean that rounds to 0 or 1 has no finite logit.
    mirror = dataclasses.replace(mirror, rate=jnp.clip(mirror.mu, 1e-3, 1 - 1e-3))
    joined = lambda name: jnp.concatenate(
        [getattr(mirror, name), getattr(own.params, name)[own.params.rate.size - C :]]
    )
    names = ("W", "b", "mu", "rate")
    params = dataclasses.replace(
        own.params, **{name: joined(name) for name in names}, c=mirror.c, lam=mirror.lam
    )
    if persistent:
        h = (rbm.visible_mean(eval_params(below), below.memory) > 0.5).astype(own.memory.dtype)
        own = dataclasses.replace(own, memory=h)
    return dataclasses.replace(own, params=params)


def shape(params: Network) -> tuple[int, ...]:
    """Of one example."""
    return (*params.generate, params.top)[0].shape


def wake(key: Key, recognise: tuple[rbm.Params, ...], x: Array) -> list[Array]:
    """(v, h¹, ...), each drawn from q(hˡ | hˡ⁻¹): [B, ...] -> [B, n_l]."""
    h = [rbm.flat(x)]
    for layer, p in enumerate(recognise):
        h.append(rbm.draw_hidden(jax.random.fold_in(key, layer), p, h[-1]))
    return h


def sleep(key: Key, generate: tuple[rbm.Params, ...], h: Array, means: bool = False) -> list[Array]:
    """(v, h¹, ..., hᴸ⁻¹), each drawn from p(hˡ | hˡ⁺¹), down from hᴸ⁻¹; v its mean if wanted."""
    layers = [h]
    for layer, p in reversed(list(enumerate(generate))):
        own = jax.random.fold_in(key, layer)
        low = rbm.visible_mean(p, layers[0]) if means and layer == 0 else None
        layers.insert(0, rbm.draw_visible(own, p, layers[0]) if low is None else low)
    return layers


def means_up(params: Network, v: Array) -> Array:
    """v [B, D] through the means of all layers below the top pair's upper one: hᴸ⁻¹."""
    for p in params.recognise:
        v = rbm.hidden_mean(p, v)
    return v


def up(params: Network, v: Array) -> Array:
    """v [B, D] through the means of every layer: [B, widths[-1]]; an unknown label at its mean."""
    h = means_up(params, v)
    if params.top.classes:
        y = jax.nn.softmax(rbm.label_logits(params.top, h))
        h = jnp.concatenate([h, y], axis=-1)
    return rbm.hidden_mean(params.top, h)


def down(params: Network, h: Array) -> Array:
    """hᴸ [B, widths[-1]] back to the means of v [B, D]."""
    h = _units(params.top, rbm.visible_mean(params.top, h))
    for p in reversed(params.generate):
        h = rbm.visible_mean(p, h)
    return h


def lower_bound(key: Key, params: Network, x: Array) -> Array:
    """log p(x) + log Z from below, with one draw of q(h | x): [B, ...] -> [B] nats.

    A constant, and no estimate, where q is the posterior.
    """
    h = wake(key, params.recognise, x)
    nats = rbm.log_marginal(params.top, h[-1])
    for p, q, low, high in zip(params.generate, params.recognise, h[:-1], h[1:], strict=True):
        # log p(hˡ | hˡ⁺¹) - log q(hˡ⁺¹ | hˡ), whose second term is an entropy in the mean
        nats += distributions.bernoulli(low, rbm.visible_logits(p, high))
        nats -= distributions.bernoulli(high, rbm.hidden_logits(q, low))
    return nats


def _units(top: rbm.Params, v: Array) -> Array:
    """Of the top pair's lower side the part that is hᴸ⁻¹, and no label."""
    return v[:, : v.shape[1] - top.classes]


def _is_learnt(path: tuple[Any, ...], leaf: Any) -> bool:
    """An optimizer moves weights and biases; the offsets not, not even by weight decay."""
    return path[-1].name in ("W", "b", "c")


def _held(params: Network) -> Network:
    """The parameters, of which those that no optimizer moves have no gradient."""
    return jax.tree.map_with_path(
        lambda path, leaf: leaf if _is_learnt(path, leaf) else jax.lax.stop_gradient(leaf), params
    )
