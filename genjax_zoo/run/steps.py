"""The steps of a run. They could train anything that keeps the contract, and know no model.

Floor 6. The number of the step is the whole state of the data and of the keys: batch i is a
function of (seed, i), and step i's key is fold_in(root, i). A run that was killed therefore goes
on from its last checkpoint as if nothing had happened: bit for bit, where the device's own sums are
deterministic, as on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genjax_zoo.contract import Batch, Info, Sometimes, State
from genjax_zoo.data.source import feeds
from genjax_zoo.learn.state import settle
from genjax_zoo.run.config import Run
from genjax_zoo.run.devices.sharding import own_rows
from genjax_zoo.run.setup import Setup


class NotFinite(Exception):
    """A step gave a number that is NaN or infinite; run/replay.py finds out which."""


def chunks(run: Run, first: int) -> list[tuple[int, int]]:
    """The calls that lie ahead, as (first step, step after the last).

    They end on one fixed grid, so a resumed run compiles and rounds as one never stopped.
    """
    every = [run.log_every, run.checkpoint_every, run.sample_every, run.eval_every]
    every = [n for n in every if n]
    found = []
    while first < run.steps:
        # Between two events the calls count from the earlier one, so that most are whole.
        event = max(first // n * n for n in every)
        after = min(run.steps, *((first // n + 1) * n for n in every))
        last = min(event + ((first - event) // run.steps_per_call + 1) * run.steps_per_call, after)
        found.append((first, last))
        first = last
    return found


class Calls:
    """Many steps in one compiled call, with what it takes beside the state."""

    def __init__(self, setup: Setup):
        self.setup = setup
        self.resident = jax.device_put(setup.source.resident, setup.layout.everywhere)
        self._rows = own_rows(setup.layout, setup.run.data.batch_size)
        self._compiled: dict[Any, Callable[..., tuple[State, Info, jax.Array]]] = {}

    def feeds(self, ahead: Sequence[tuple[int, int]]) -> Iterator[Any]:
        """What the data send for each of the calls, read ahead, its leading axis the steps."""
        over = self.setup.layout.over_feeds
        whole = lambda rows: jax.make_array_from_process_local_data(over, np.asarray(rows))
        for fed in feeds(self.setup.source, ahead, self._rows):
            yield jax.tree.map(whole, fed)

    def __call__(self, state: State, first: int, fed: Any) -> tuple[State, Info, jax.Array]:
        """(the next state, mean info, whether all of it is finite); the state is donated.

        Between two calls a state puts down what nobody needs any more, and is compiled for anew.
        """
        state = settle(state, first)
        structure = jax.tree.structure(state)
        if structure not in self._compiled:
            self._compiled[structure] = compile_steps(self.setup, settle(self.setup.like, first))
        many = self._compiled[structure]
        state, info, finite = many(state, self.resident, np.uint32(first), fed)
        return settle(state, first + len(jax.tree.leaves(fed)[0])), info, finite


def compile_steps(setup: Setup, like: Any) -> Callable[..., tuple[State, Info, jax.Array]]:
    """Many steps in one compiled call; the state is donated.

    Args:
      setup: the run's parts.
      like: the shapes, dtypes and shardings of the state, before and after.

    Returns (state, resident, first, feeds) -> (state, mean info, all finite), with one step for
    each entry on the leading axis of `feeds`.
    """

    def many(state: State, resident: Any, first: jax.Array, fed: Any):
        def one(state: State, step_and_feed: tuple[jax.Array, Any]):
            _, state, info = one_step(setup, state, resident, *step_and_feed)
            return state, info

        steps = first + jnp.arange(jax.tree.leaves(fed)[0].shape[0], dtype=jnp.uint32)
        state, infos = jax.lax.scan(one, state, (steps, fed))
        finite = jnp.array(True)
        for leaf in jax.tree.leaves((infos, state)):
            if jnp.issubdtype(leaf.dtype, jnp.inexact):
                finite &= jnp.all(jnp.isfinite(leaf))
        return state, {name: averaged(said) for name, said in infos.items()}, finite

    held = jax.tree.map(lambda leaf: leaf.sharding, like)
    everywhere = setup.layout.everywhere
    return jax.jit(many, donate_argnums=0, out_shardings=(held, everywhere, everywhere))


def one_step(
    setup: Setup, state: State, resident: Any, step: jax.Array, feed: Any
) -> tuple[Batch, State, Info]:
    """The batch of a step, the state after it and what it says of itself."""
    key_data, key_step = jax.random.split(jax.random.fold_in(setup.root, step))
    batch = setup.source.batch(key_data, resident, feed)
    over = setup.layout.over_batch
    batch = jax.lax.with_sharding_constraint(batch, jax.tree.map(lambda _: over, batch))
    return batch, *setup.model.step(key_step, state, batch)


def averaged(said: Any) -> Sometimes:
    """The mean over steps of what they say, and whether any of them says it."""
    if not isinstance(said, Sometimes):
        return Sometimes(jnp.mean(said), jnp.ones((), bool))
    count = jnp.sum(said.said)
    return Sometimes(jnp.sum(said.value * said.said) / jnp.maximum(count, 1), count > 0)


def steps(
    calls: Calls,
    state: State,
    first: int,
    due: Callable[[int], bool],
    goes_on: Callable[[int], bool],
) -> Iterator[tuple[int, State, Info]]:
    """Learns; yields (step, state, mean info of the last call) where somebody looks.

    One call is under way while the last one's outcome is read. What is yielded is finite, and the
    state is given up when the next is asked for.

    Args:
      calls: of the run.
      state: after `first` steps; donated.
      first: how many steps it has learnt.
      due: whether somebody looks at the state after so many steps.
      goes_on: called after every call with the step that it reached, and after those who look;
        False ends the run there, with a last yield.

    Raises NotFinite.
    """
    ahead = chunks(calls.setup.run, first)
    pending: Any = True
    for (start, stop), fed in zip(ahead, calls.feeds(ahead), strict=True):
        state, info, finite = calls(state, start, fed)
        _check(pending)
        pending, looked = finite, due(stop)
        if looked:
            _check(finite)
            yield stop, state, info
        if not goes_on(stop):
            _check(finite)
            if not looked:
                yield stop, state, info
            return
    _check(pending)


def _check(finite: Any) -> None:
    if not bool(finite):
        raise NotFinite
