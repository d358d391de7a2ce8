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

A machine can be begun from a run of the family rbm, as it is, under its stage's name: layer_1 from
one of the data, layer_2 from one of its hidden units, ... With 0 in `stage_steps` it need not learn
again.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import optax
from flax import struct

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
from genjax_zoo.learn.verbs import Stage, descend, staged
from genjax_zoo.maths.mcmc import ais as annealing
from genjax_zoo.maths.mcmc import boltzmann, gibbs
from genjax_zoo.maths.mcmc.boltzmann import Machine, flat
from genjax_zoo.maths.probability import distributions
from genjax_zoo.maths.probability.given import Labels, known_part, part_of, read_given
from genjax_zoo.models import rbm
from genjax_zoo.typed import MOST_STEPS, number

VERB = "staged"


@typed.config
class Config:
    """A deep belief network.

    Attributes:
      widths: units of each hidden layer, from the data up.
      stage_steps: steps of each stage before the next begins: each machine is one, and the up-down
        algorithm another. One number fewer than there are stages, for the last goes on as long as
        the run does. 0 leaves a machine as it begins: for one that is begun from an RBM.
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

    widths: tuple[int, ...] = number((64, 64), least=1)
    stage_steps: tuple[int, ...] = number((2000,), least=0)
    turned: bool = False
    up_down: bool = False
    classes: int = number(0, least=0)
    rate: float = number(1.0, above=0)
    samples: int = number(10, least=1, most=MOST_STEPS)
    machine: rbm.Config = dataclasses.field(default_factory=lambda: rbm.Config(centred=True))

    def __post_init__(self):
        if not self.widths:
            raise ConfigError("dbn: widths should name at least one layer, got none.")
        follow = len(self.widths) - 1 + self.up_down
        if len(self.stage_steps) != follow:
            raise ConfigError(
                f"dbn: stage_steps should be {follow} numbers, one for each stage but the last, of "
                f"{len(self.widths)} machines{' and up-down' if self.up_down else ''}, got "
                f"{self.stage_steps}."
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

    recognise: tuple[Machine, ...]
    generate: tuple[Machine, ...]
    top: Machine


def make(config: Config, tx: optax.GradientTransformation) -> Model:
    """A deep belief network that learns greedily; every stage has its own state of `tx`."""
    L, greedy = len(config.widths), sum(config.stage_steps)
    labels = Labels(config.classes, "dbn")
    # The top machine's lower side is the data, of a size not known here, if there is one layer.
    exact = min(config.widths[-2:]) <= boltzmann.ENUMERABLE

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
        done = sum(config.stage_steps[: len(below)])
        own = dataclasses.replace(own, optimizer=optimizers.at_step(own.optimizer, done))
        hidden, sides = own.params.c.size, below[-1].params.W.shape
        if config.turned and (own.params.b.size - own.params.classes, hidden) == sides[::-1]:
            return turned_over(own, below[-1], config.machine.chain == "pcd")
        centred, base_rate = config.machine.centred, config.machine.base_rate
        return dataclasses.replace(
            own, params=boltzmann.above(own.params, below[-1].params, centred, base_rate)
        )

    machines = [
        Stage(
            f"layer_{layer + 1}",
            rbm.make(machine(config, layer), tx),
            steps=(*config.stage_steps, 1)[layer],
            view=view,
            begin=begin_machine if layer else None,
        )
        for layer in range(L)
    ]

    # -------------------------------------------------------------------------------- up-down

    phase = config.machine.negative_phase()

    def apart(key: Key, batch: Batch) -> tuple[Network, Memory]:
        """A network of fresh machines, and the top pair's chains."""
        keys, x, fresh = jax.random.split(key, L + 2), batch["x"], []
        for layer in range(L):
            model = rbm.make(machine(config, layer), tx)
            fresh.append(model.init(keys[layer], {**batch, "x": x}).params)
            x = jnp.zeros((x.shape[0], config.widths[layer]))
        network = of_machines(fresh)
        return network, phase.start(keys[L], keys[L + 1], network.top)

    def begin_up_down(own: TrainState, below: tuple[TrainState, ...]) -> TrainState:
        return TrainState(
            params=of_machines([eval_params(state) for state in below]),
            memory=below[-1].memory,
            optimizer=optimizers.at_step(own.optimizer, greedy),
        )

    def up_down(
        key: Key, params: Network, memory: Memory, batch: Batch
    ) -> tuple[Array, tuple[Memory, Info]]:
        """Contrastive wake-sleep (Hinton, Osindero & Teh 2006, appendix B).

        The terms' gradients are the delta rules: each unit's state less its probability, times the
        states that it was predicted from.
        """
        key_wake, key_start, key_chain, key_sleep = jax.random.split(key, 4)
        params, fixed = boltzmann.held(params), jax.lax.stop_gradient(params)
        # Up: h¹, ..., hᴸ⁻¹ ~ q(h | v)
        awake = wake(key_wake, fixed.recognise, batch["x"])
        # The top pair: k Gibbs steps from there, or from where they stopped the last time.
        top = boltzmann.visible({**batch, "x": awake[-1]}, labels)
        top_asleep, memory = phase.step(key_start, key_chain, fixed.top, memory, top)
        # Down: hᴸ⁻², ..., v ~ p(. | hᴸ⁻¹)
        asleep = sleep(key_sleep, fixed.generate, boltzmann.x_part(params.top, top_asleep))
        # 1. -log p(v | h¹) - ... - log p(hᴸ⁻² | hᴸ⁻¹), awake
        generate = -sum(
            jnp.mean(distributions.bernoulli(low, boltzmann.visible_logits(p, high)))
            for p, low, high in zip(params.generate, awake[:-1], awake[1:], strict=True)
        )
        # 2. the top pair's contrast F(hᴸ⁻¹) - F(hᴸ⁻¹ asleep)
        gap = jnp.mean(boltzmann.free_energy(params.top, top))
        gap -= jnp.mean(boltzmann.free_energy(params.top, top_asleep))
        # 3. -log q(h¹ | v) - ... - log q(hᴸ⁻¹ | hᴸ⁻²), asleep
        recognise = -sum(
            jnp.mean(distributions.bernoulli(high, boltzmann.hidden_logits(p, low)))
            for p, low, high in zip(params.recognise, asleep[:-1], asleep[1:], strict=True)
        )
        return generate + gap + recognise, (memory, {"free_energy_gap": gap})

    tuned = optax.masked(optax.chain(tx, optax.scale(config.rate)), boltzmann.learnt)
    start, tune = descend(apart, up_down, tuned)

    # Without `params`: it begins with the machines, and from no other run.
    start_up_down = lambda key, batch: start(key, batch)
    tuning = Model(start_up_down, tune, sample=lambda key, state, n, given=NOTHING: {})
    last = Stage("up_down", tuning, 1, lambda key, below, batch: batch, begin_up_down)
    init, step = staged([*machines, last] if config.up_down else machines)

    # ------------------------------------------------------------------------------- measuring

    def now(state: Staged) -> Network:
        """The network; until its parts go apart, the machines."""
        together = of_machines([eval_params(stage) for stage in state.states[:L]])
        if not config.up_down:
            return together
        return jax.lax.cond(
            state.count > greedy, lambda: eval_params(state.states[-1]), lambda: together
        )

    def bound(key: Key, state: Staged, batch: Batch, log_z: Array) -> Array:
        """Of x, the label summed out: [B] nats, the mean over `samples` draws of q."""
        params = now(state)
        draw = lambda key: lower_bound(key, params, batch["x"])
        nats = jnp.mean(jax.lax.map(draw, jax.random.split(key, config.samples)), axis=0)
        inside = distributions.is_binary(flat(batch["x"]))
        return jnp.where(inside, nats - log_z, -jnp.inf)

    def log_prob(key: Key, state: Staged, batch: Batch) -> Array:
        return bound(key, state, batch, boltzmann.log_partition(now(state).top))

    def reconstruction(key: Key, state: Staged, batch: Batch) -> Array:
        """Σ_i (v_i - v̂_i)² of v̂ = the means all the way up and down again."""
        v, params = flat(batch["x"]), now(state)
        return jnp.sum((v - down(params, up(params, v))) ** 2, axis=-1)

    def error(key: Key, state: Staged, batch: Batch) -> Array:
        """1 where argmax_y -F(h, y) of the top pair is not the label, h the means, else 0."""
        params = now(state)
        h = means_up(params, flat(batch["x"]))
        best = jnp.argmax(boltzmann.label_logits(params.top, h), axis=-1)
        return (best != labels.of(batch)).astype(jnp.float32)

    # ------------------------------------------------------------------------------ generating

    def sample(key: Key, state: Staged, n: int, given: Batch = NOTHING) -> Batch:
        """Gibbs sampling in the top pair from its base rate, then once down, a draw a layer.

        A label is held in the top pair. Of x a part can be known where the top pair is all there
        is: below it arrows point down, and what they lead to cannot be held.
        """
        params = now(state)
        top, *keys = params.top, *jax.random.split(key, 4)
        parts = part_of(BINARY, top.shape) if L == 1 else {}
        told = read_given(given, labels.told | parts, n, "dbn")
        part = known_part(told, "dbn")
        hold = gibbs.hold(math.prod(top.shape), part, told.get("label"), config.classes)
        h = gibbs.start(keys[1], keys[0], top, n, hold)
        v, mean = gibbs.visible(keys[2], top, h, config.machine.sample_steps, hold)
        x, *above = sleep(keys[3], params.generate, boltzmann.x_part(top, v))
        drawn = {"x": x}
        if config.machine.sample_means:
            # Given the layer above it, which is the top pair's upper one where no arrows are.
            alone = boltzmann.x_part(top, mean)
            drawn[MEAN] = boltzmann.visible_mean(params.generate[0], above[0]) if above else alone
        drawn = {name: value.reshape(n, *shape(params)) for name, value in drawn.items()}
        if config.classes:
            y = boltzmann.label_part(top, v)
            drawn["label"] = jnp.argmax(y, axis=-1).astype(jnp.int32)
        return drawn

    def encode(key: Key, state: Staged, batch: Batch) -> Array:
        """The means of the topmost layer, each layer's computed from the means below it."""
        return up(now(state), flat(batch["x"]))

    def decode(key: Key, state: Staged, latents: Array) -> Batch:
        """The means of v, of hᴸ [B, widths[-1]], each layer's computed from the means above it."""
        params = now(state)
        return {"x": down(params, latents).reshape(-1, *shape(params))}

    measures = {
        "reconstruction": Measure(reconstruction, Exactness.EXACT, "squared error", "lower")
    }
    if config.classes:
        measures["error"] = Measure(error, Exactness.EXACT, "error", "lower")
    if not exact:
        measures |= annealing.measures(
            "bound",
            bound,
            lambda state: gibbs.path(now(state).top),
            config.machine.ais,
            base="the base rate",
            what="lower bound, log Z by ",
            more=f"; {config.samples} draws of q",
        )
    return Model(
        init,
        step,
        sample=sample,
        log_prob=Measure(log_prob, Exactness.LOWER_BOUND, density=True) if exact else None,
        measures=measures,
        spaces=labels.spaces(BINARY),
        latents=Latents(decode=decode, encode=encode, space=BINARY),
    )


# -------------------------------------------------------------------------- the network's passes


def of_machines(machines: list[Machine]) -> Network:
    """The network that machines make, from the data up."""
    *lower, top = machines
    return Network(tuple(lower), tuple(lower), top)


def turned_over(own: TrainState, below: TrainState, persistent: bool) -> TrainState:
    """The machine above one that it is the mirror of: p(h¹) is what the one below makes it.

    Its chains, if they persist, go on where those below are; its label, if any, knows nothing yet.
    """
    mirror, fresh = boltzmann.turned(eval_params(below)), own.params
    mirror = dataclasses.replace(mirror, rate=boltzmann.inside(mirror.mu))
    rows = slice(fresh.b.size - fresh.classes, None)
    joined = lambda name: jnp.concatenate([getattr(mirror, name), getattr(fresh, name)[rows]])
    sides = {name: joined(name) for name in ("W", "b", "mu", "rate")}
    own = dataclasses.replace(
        own, params=dataclasses.replace(fresh, **sides, c=mirror.c, lam=mirror.lam)
    )
    if persistent:
        h = boltzmann.visible_mean(eval_params(below), below.memory) > 0.5
        own = dataclasses.replace(own, memory=h.astype(own.memory.dtype))
    return own


def shape(params: Network) -> tuple[int, ...]:
    """Of one example."""
    return (*params.generate, params.top)[0].shape


def wake(key: Key, recognise: tuple[Machine, ...], x: Array) -> list[Array]:
    """(v, h¹, ...), each drawn from q(hˡ | hˡ⁻¹): [B, ...] -> [B, n_l]."""
    h = [flat(x)]
    for layer, p in enumerate(recognise):
        h.append(boltzmann.draw_hidden(jax.random.fold_in(key, layer), p, h[-1]))
    return h


def sleep(key: Key, generate: tuple[Machine, ...], h: Array) -> list[Array]:
    """(v, h¹, ..., hᴸ⁻¹), each drawn from p(hˡ | hˡ⁺¹), down from hᴸ⁻¹."""
    layers = [h]
    for layer, p in reversed(list(enumerate(generate))):
        low = boltzmann.draw_visible(jax.random.fold_in(key, layer), p, layers[0])
        layers.insert(0, low)
    return layers


def means_up(params: Network, v: Array) -> Array:
    """v [B, D] through the means of all layers below the top pair's upper one: hᴸ⁻¹."""
    for p in params.recognise:
        v = boltzmann.hidden_mean(p, v)
    return v


def up(params: Network, v: Array) -> Array:
    """v [B, D] through the means of every layer: [B, widths[-1]]; an unknown label at its mean."""
    h = means_up(params, v)
    if params.top.classes:
        y = jax.nn.softmax(boltzmann.label_logits(params.top, h))
        h = jnp.concatenate([h, y], axis=-1)
    return boltzmann.hidden_mean(params.top, h)


def down(params: Network, h: Array) -> Array:
    """hᴸ [B, widths[-1]] back to the means of v [B, D]."""
    h = boltzmann.x_part(params.top, boltzmann.visible_mean(params.top, h))
    for p in reversed(params.generate):
        h = boltzmann.visible_mean(p, h)
    return h


def lower_bound(key: Key, params: Network, x: Array) -> Array:
    """log p(x) + log Z from below, with one draw of q(h | x): [B, ...] -> [B] nats.

    A constant, and no estimate, where q is the posterior.
    """
    h = wake(key, params.recognise, x)
    nats = boltzmann.log_marginal(params.top, h[-1])
    for p, q, low, high in zip(params.generate, params.recognise, h[:-1], h[1:], strict=True):
        # log p(hˡ | hˡ⁺¹) - log q(hˡ⁺¹ | hˡ), whose second term is an entropy in the mean
        nats += distributions.bernoulli(low, boltzmann.visible_logits(p, high))
        nats -= distributions.bernoulli(high, boltzmann.hidden_logits(q, low))
    return nats
