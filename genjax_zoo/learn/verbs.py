"""The five verbs: how a model learns. Each returns the `(init, step)` pair of a `Model`.

    descend   the gradient of one loss
    play      a field made of each player's own gradient, bent by a dynamics (maths/games)
    contrast  an energy, and a chain that supplies its negative phase
    em        expect, then maximise; a closed form is EM with nothing hidden
    staged    one model after another, each stage seeing what the last one learnt

Floor 3. The verbs know no model: a model hands them functions of `(key, params, memory, batch)`.
`params` is what is learnt; `memory` is whatever else a rule carries from step to step (persistent
chains, sufficient statistics, running moments), and is `()` for a model without one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from genjax_zoo.contract import Array, Batch, Info, Key, Model, State
from genjax_zoo.maths.games.dynamics import Dynamics, Losses, Optimizers

Params = Any
Memory = Any
Init = Callable[[Key, Batch], tuple[Params, Memory]]
"""(key, batch) -> (params, memory)."""
Loss = Callable[[Key, Params, Memory, Batch], tuple[Array, tuple[Memory, Info]]]
"""(key, params, memory, batch) -> (loss, (memory, info)); the loss is a scalar."""
Configuration = Any
"""What an energy is an energy of: a pytree whose leading axis counts examples or chains."""
Phase = Callable[[Key, Params, Memory, Batch], tuple[Configuration, Memory]]
"""(key, params, memory, batch) -> (configuration, memory)."""
Verb = tuple[Callable[[Key, Batch], State], Callable[[Key, State, Batch], tuple[State, Info]]]


@struct.dataclass
class Average:
    """An exponential moving average of the parameters that starts from nothing, not from noise.

    Attributes:
      total: Σ_s (1 - d) d^(t - s) θ_s, a pytree like the parameters.
      weight: Σ_s (1 - d) d^(t - s) = 1 - d^t. `total / weight` is the debiased average
        (Kingma & Ba 2015, section 3).
    """

    total: Params
    weight: Array


@struct.dataclass
class Learner:
    """What a verb keeps of a model between two steps.

    Attributes:
      params: what is learnt, the model's own named pytree.
      memory: what the rule carries besides; `()` if nothing.
      optimizer: the optimizer's state; `()` for a closed form.
      average: the moving average of `params`, or None if none is kept.
    """

    params: Params
    memory: Memory = ()
    optimizer: Any = ()
    average: Average | None = None


def average_start(params: Params, decay: float) -> Average | None:
    """An empty average, or None where `decay` is 0."""
    if not decay:
        return None
    return Average(jax.tree.map(jnp.zeros_like, params), jnp.zeros(()))


def average_update(average: Average | None, params: Params, decay: float) -> Average | None:
    """One step of the moving average."""
    if average is None:
        return None
    mix = lambda old, new: decay * old + (1 - decay) * new
    return Average(jax.tree.map(mix, average.total, params), mix(average.weight, jnp.ones(())))


def learnt(state: Learner) -> Params:
    """The parameters to sample and measure with: the debiased average where one is kept."""
    if state.average is None:
        return state.params
    weight = state.average.weight
    return jax.tree.map(
        lambda total, now: jnp.where(weight > 0, total / jnp.maximum(weight, 1e-12), now),
        state.average.total,
        state.params,
    )


def of_params(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Turns fn(key, params, ...) into the contract's fn(key, state, ...)."""

    @functools.wraps(fn)
    def of_state(key: Key, state: Learner, *args: Any, **kwargs: Any) -> Any:
        return fn(key, learnt(state), *args, **kwargs)

    return of_state


def descend(init: Init, loss: Loss, tx: optax.GradientTransformation, average: float = 0.0) -> Verb:
    """Follows the gradient of one loss: θ ← θ - tx(∇_θ loss).

    Args:
      init: (key, batch) -> (params, memory).
      loss: (key, params, memory, batch) -> (loss, (memory, info)).
      tx: the optimizer.
      average: decay of the moving average of the parameters; 0 keeps none.
    """

    def start(key: Key, batch: Batch) -> Learner:
        params, memory = init(key, batch)
        return Learner(params, memory, tx.init(params), average_start(params, average))

    def step(key: Key, state: Learner, batch: Batch) -> tuple[Learner, Info]:
        grad = jax.value_and_grad(loss, argnums=1, has_aux=True)
        (value, (memory, info)), g = grad(key, state.params, state.memory, batch)
        updates, optimizer = tx.update(g, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        kept = average_update(state.average, params, average)
        return Learner(params, memory, optimizer, kept), {"loss": value, **info}

    return start, step


def play(
    init: Init,
    losses: Losses,
    tx: Optimizers,
    dynamics: Dynamics,
    average: float = 0.0,
) -> Verb:
    """Lets players, each with parameters and a loss of its own, play a differentiable game.

    Args:
      init: (key, batch) -> ({player: params}, memory).
      losses: (key, {player: params}, memory, batch) -> ({player: loss}, (memory, info)).
      tx: the optimizer, or {player: its own}; every player has its own state of it.
      dynamics: how the players move on the field of their gradients (maths/games).
      average: decay of the moving average of the parameters; 0 keeps none.
    """
    begin, move = dynamics(losses, tx)

    def start(key: Key, batch: Batch) -> Learner:
        params, memory = init(key, batch)
        return Learner(params, memory, begin(params), average_start(params, average))

    def step(key: Key, state: Learner, batch: Batch) -> tuple[Learner, Info]:
        params, memory, optimizer, info = move(
            key, state.params, state.memory, state.optimizer, batch
        )
        kept = average_update(state.average, params, average)
        return Learner(params, memory, optimizer, kept), info

    return start, step


def contrast(
    init: Init,
    energy: Callable[[Params, Configuration], Array],
    negative: Phase,
    tx: optax.GradientTransformation,
    positive: Phase | None = None,
    extra: Callable[[Key, Params, Batch], tuple[Array, Info]] | None = None,
    renew: Callable[..., tuple[Params, Memory]] | None = None,
    average: float = 0.0,
) -> Verb:
    """Lowers the energy of the data and raises it where a chain says the model's mass is.

        ∂/∂θ [-log p(x)] = E_data[∂F(x)/∂θ] - E_model[∂F(x)/∂θ]      (Hinton 2002)

    A configuration is whatever the energy is an energy of: a pytree whose leading axis counts
    examples or chains.

    Args:
      init: (key, batch) -> (params, memory); the memory holds the persistent chains, if any.
      energy: (params, configuration) -> energy or free energy [B], in nats.
      negative: (key, params, memory, batch) -> (configuration, memory): samples of (nearly) the
        model; no gradient flows through them.
      tx: the optimizer.
      positive: the same of the data: the batch, with what is hidden filled in; no gradient flows
        through it either. None takes the batch as it is, where the energy is of nothing else.
      extra: (key, params, batch) -> (scalar, info), added to the objective: weight decay,
        sparsity, a classifier's loss.
      renew: (params, memory, gradient, positive, negative) -> (params, memory), after each step: a
        change of coordinates (centring), or weights that follow the gradient at a rate of their
        own.
      average: decay of the moving average of the parameters; 0 keeps none.
    """

    def start(key: Key, batch: Batch) -> Learner:
        params, memory = init(key, batch)
        return Learner(params, memory, tx.init(params), average_start(params, average))

    def objective(
        params: Params, key: Key, batch: Batch, seen: Configuration, dreamt: Configuration
    ):
        # The gap is no likelihood: it hovers about 0 however good the model is.
        gap = jnp.mean(energy(params, seen)) - jnp.mean(energy(params, dreamt))
        more, info = extra(key, params, batch) if extra else (0.0, {})
        return gap + more, {"free_energy_gap": gap, **info}

    def step(key: Key, state: Learner, batch: Batch) -> tuple[Learner, Info]:
        params, memory = state.params, state.memory
        seen: Configuration = batch
        if positive:
            # Streams apart from whatever `negative` makes of its key.
            seen, memory = positive(jax.random.fold_in(key, 2**31), params, memory, batch)
        dreamt, memory = negative(key, params, memory, batch)
        seen, dreamt = jax.lax.stop_gradient((seen, dreamt))
        own = jax.random.fold_in(key, 2**31 + 1)
        g, info = jax.grad(objective, has_aux=True)(params, own, batch, seen, dreamt)
        updates, optimizer = tx.update(g, state.optimizer, params)
        params = optax.apply_updates(params, updates)
        if renew:
            params, memory = renew(params, memory, g, seen, dreamt)
        kept = average_update(state.average, params, average)
        return Learner(params, memory, optimizer, kept), info

    return start, step


def em(
    init: Init,
    expect: Callable[[Key, Params, Batch], tuple[Memory, Info]],
    maximise: Callable[[Memory], Params],
    keep: float = 1.0,
) -> Verb:
    """Expects, then maximises: statistics of the batch under the parameters, then the best ones.

    The statistics are sums over examples, so a stream of minibatches ends where one batch of all
    of them does. With nothing hidden the first maximisation is already exact.

    Args:
      init: (key, batch) -> (params, statistics), the statistics of no example at all.
      expect: (key, params, batch) -> (sufficient statistics summed over the batch, info).
      maximise: statistics -> the parameters that maximise the expected log-likelihood.
      keep: what remains of the old statistics at each step: 1 counts every example ever seen
        alike, 0 is EM on each batch alone, between them lies stepwise EM (Cappé & Moulines 2009).
    """

    def start(key: Key, batch: Batch) -> Learner:
        params, statistics = init(key, batch)
        return Learner(params, statistics)

    def step(key: Key, state: Learner, batch: Batch) -> tuple[Learner, Info]:
        new, info = expect(key, state.params, batch)
        statistics = jax.tree.map(lambda old, now: keep * old + now, state.memory, new)
        return Learner(maximise(statistics), statistics), info

    return start, step


class Stage(NamedTuple):
    """One model of several, its time, and how it sees the data.

    Attributes:
      model: any Model of the zoo.
      steps: how many steps it learns; the last stage goes on for as long as the run does.
      see: (key, states of the earlier stages, batch) -> the batch that this stage learns from.
      begin: (this stage's fresh state, states of the earlier stages) -> its first state, called
        when its time comes; None begins fresh.
    """

    model: Model
    steps: int
    see: Callable[[Key, tuple[State, ...], Batch], Batch]
    begin: Callable[[State, tuple[State, ...]], State] | None = None


@struct.dataclass
class Staged:
    """What `staged` keeps.

    Attributes:
      count: steps done, over all stages [].
      states: each stage's own state; those of later stages are still fresh.
    """

    count: Array
    states: tuple[State, ...]


def staged(stages: Sequence[Stage]) -> Verb:
    """Teaches one model after another; each sees what the earlier ones learnt, which stay put.

    A step compiles once, whatever the stage. `info` holds what every stage tells, and `stage`.
    """
    ends = [sum(s.steps for s in stages[: k + 1]) for k in range(len(stages))]

    def start(key: Key, batch: Batch) -> Staged:
        states: tuple[State, ...] = ()
        for k, stage in enumerate(stages):
            key_see, key_init = jax.random.split(jax.random.fold_in(key, k))
            states += (stage.model.init(key_init, stage.see(key_see, states, batch)),)
        return Staged(jnp.zeros((), jnp.int32), states)

    def learn_stage(k: int) -> Callable[..., tuple[tuple[State, ...], Info]]:
        def learn(key: Key, states: tuple[State, ...], batch: Batch, first: Array):
            key_see, key_step = jax.random.split(key)
            own, begin = states[k], stages[k].begin
            if begin is not None:
                own = jax.lax.cond(first, lambda: begin(own, states[:k]), lambda: own)
            seen = stages[k].see(key_see, states[:k], batch)
            own, info = stages[k].model.step(key_step, own, seen)
            return (*states[:k], own, *states[k + 1 :]), info

        return learn

    def step(key: Key, state: Staged, batch: Batch) -> tuple[Staged, Info]:
        stage = jnp.minimum(jnp.searchsorted(jnp.array(ends), state.count, "right"), len(ends) - 1)
        first = jnp.any(state.count == jnp.array([0, *ends[:-1]]))
        learners = [learn_stage(k) for k in range(len(stages))]
        infos = [jax.eval_shape(f, key, state.states, batch, first)[1] for f in learners]
        shared = sorted(set.intersection(*(set(info) for info in infos)))

        def only_shared(learner):
            def learn(*args):
                states, info = learner(*args)
                return states, {name: info[name] for name in shared}

            return learn

        states, info = jax.lax.switch(
            stage, [only_shared(f) for f in learners], key, state.states, batch, first
        )
        return Staged(state.count + 1, states), {**info, "stage": stage.astype(jnp.float32)}

    return start, step
