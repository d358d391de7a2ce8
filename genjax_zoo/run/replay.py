"""Playing a run again, to find the step and the array where a number first was not finite.

Floor 6. Batches and keys are functions of the step, so what broke once breaks again.
"""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genjax_zoo.contract import DivergedError, State
from genjax_zoo.run.record.checkpoint import names
from genjax_zoo.run.setup import Setup
from genjax_zoo.run.steps import Calls, chunks, one_step


def fault(setup: Setup, first: int, state: State) -> DivergedError:
    """Plays the steps from `first` on again until one breaks, and says which, and what of it.

    Args:
      setup: the run's parts.
      first: how many steps the last good checkpoint has learnt; 0 if there is none.
      state: after those; donated.
    """
    calls = Calls(setup)
    kept = f"The last good checkpoint is step {first}." if first else "There is no checkpoint."
    for start, stop in chunks(setup.run, first):
        before = jax.tree.map(jnp.copy, state)
        (fed,) = calls.feeds([(start, stop)])
        state, _, finite = calls(state, start, fed)
        if not bool(finite):
            step, array = _first(setup, before, calls.resident, fed, start)
            return DivergedError(
                f"step {step} of {setup.run.steps} gave a number that is not finite: {array} "
                f"broke first. {kept} Try a smaller config.optimizer.learning_rate, or "
                "config.optimizer.clip_norm."
            )
    return DivergedError(f"a number is not finite, but not when played again. {kept}")


def _first(setup: Setup, state: State, resident: Any, fed: Any, start: int) -> tuple[int, str]:
    """The step within a call, and the first array of (batch, state, info) not finite after it."""

    @jax.jit
    def one(state: State, step: jax.Array, feed: Any):
        batch, state, info = one_step(setup, state, resident, step, feed)
        parts = {"batch": batch, "state": state, "info": info}
        broken = [
            ~jnp.all(jnp.isfinite(leaf))
            if jnp.issubdtype(leaf.dtype, jnp.inexact)
            else jnp.zeros((), bool)
            for leaf in jax.tree.leaves(parts)
        ]
        return state, parts, broken

    count = len(jax.tree.leaves(fed)[0])
    for index in range(count):
        step = start + index
        feed = jax.tree.map(lambda leaf, index=index: leaf[index], fed)
        state, parts, broken = one(state, np.uint32(step), feed)
        wrong = list(itertools.compress(names(parts), (bool(b) for b in broken)))
        if wrong:
            order = ("batch", "state", "info")
            wrong.sort(key=lambda name: order.index(name.split(".")[0]))
            return step, wrong[0]
    return start + count - 1, "an array of the state"
