"""What a verb keeps between two steps, and what of it is begun from, sampled and measured with.

Floor 3.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from genjax_zoo.contract import Array, Batch, ConfigError, DataError, Key, State
from genjax_zoo.nets import lora

Params = Any
Memory = Any
Init = Callable[..., tuple[Params, Memory]]
"""(key, batch, **begun) -> (params, memory), begun under names of its own, if it has any."""


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
class TrainState:
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


@struct.dataclass
class Staged:
    """What `staged` keeps.

    Attributes:
      count: steps done, over all stages [].
      states: each stage's own state; those of later stages are still fresh.
      begun: which stages' parameters come from another run [stages] bool.
      ends: after how many steps each stage ends; the last goes on.
      finished: how many stages have put down their optimizers (`settle`).
    """

    count: Array
    states: tuple[State, ...]
    begun: Array
    ends: tuple[int, ...] = struct.field(pytree_node=False)
    finished: int = struct.field(pytree_node=False, default=0)


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


def eval_params(state: State) -> Params:
    """The parameters to sample, measure and begin with: the debiased average where one is kept.

    Of stages, those of each, in a tuple; of adapters, the whole that they are a part of.
    """
    if isinstance(state, Staged):
        return tuple(eval_params(stage) for stage in state.states)
    if state.average is None:
        return whole(state.params, state.memory)
    weight = state.average.weight
    learnt = jax.tree.map(
        lambda total, now: jnp.where(weight > 0, total / jnp.maximum(weight, 1e-12), now),
        state.average.total,
        state.params,
    )
    return whole(learnt, state.memory)


def whole(params: Params, memory: Memory) -> Params:
    """What a network is applied to: `params`, or the base in the memory which they adapt."""
    base = getattr(memory, "base", None)
    return lora.merged(base.params, params, base.alpha) if isinstance(base, lora.Base) else params


def of_params(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Turns fn(key, params, ...) into the contract's fn(key, state, ...)."""

    @functools.wraps(fn)
    def of_state(key: Key, state: TrainState, *args: Any, **kwargs: Any) -> Any:
        return fn(key, eval_params(state), *args, **kwargs)

    third = list(inspect.signature(fn).parameters)[2:3]
    return reads(of_state) if third == ["batch"] else of_state


def reads(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A function (key, state, batch, ...) whose batch is one, or is said to be none."""

    @functools.wraps(fn)
    def checked(key: Key, state: State, batch: Batch, *args: Any, **kwargs: Any) -> Any:
        with reading(batch):
            return fn(key, state, batch, *args, **kwargs)

    return checked


@contextlib.contextmanager
def reading(batch: Any) -> Iterator[None]:
    """Raises DataError for what is no batch, and where an array is read that is not in it."""
    check_names(batch)
    try:
        yield
    except KeyError as error:
        name = error.args[0] if error.args else None
        if not isinstance(name, str) or name in batch:
            raise
        held = ", ".join(map(repr, batch)) or "nothing"
        raise DataError(
            f"a batch of this model should hold {name!r}, and this one holds {held}; put the array "
            "under that name."
        ) from error


EXPECTED = 'a batch should be {"x": an array [B, ...], ...}, B examples of float32 each'


def check_names(batch: Any) -> None:
    """Raises DataError for what is no {name: array}."""
    if not isinstance(batch, Mapping):
        came = type(batch).__name__ + (f" {list(batch.shape)}" if hasattr(batch, "shape") else "")
        raise DataError(f'{EXPECTED}, got {came}; put it under its name: {{"x": x}}.')


def check_batch(batch: Any) -> None:
    """Raises DataError for what is no batch: {name: array [B, ...]}, floats or integers.

    What is refused would otherwise end deep in a network, or be learnt from as it is not meant:
    pixels of 8 bits overflow in their own arithmetic, and bits have none.
    """
    expected = EXPECTED
    check_names(batch)
    sizes = {}
    for name, array in batch.items():
        shape, dtype = getattr(array, "shape", ()), getattr(array, "dtype", np.dtype(object))
        if not shape or dtype.kind in "OSU":
            came = str(dtype) if shape else type(array).__name__
            raise DataError(
                f"{expected}, and {name!r} is {came}; make an array of all "
                "examples of it, such as numpy.asarray(..., numpy.float32)."
            )
        signed = jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.signedinteger)
        if len(shape) > 1 and not signed:
            raise DataError(
                f"{expected}, and {name!r} is {dtype}; make it float32 in the range that the model "
                f"expects, such as {name} / 255 for pixels of 8 bits in [0, 1], or int32 where its "
                "values are names or symbols."
            )
        sizes[name] = shape[0]
    if len(set(sizes.values())) != 1 or 0 in sizes.values():
        raise DataError(f"{expected}; these arrays do not agree on B, or hold nothing: {sizes}.")


def starting(
    init: Init, optimizer: Callable[[Params], Any], average: float = 0.0
) -> Callable[..., TrainState]:
    """The contract's `init` of whatever learns parameters: (key, batch, params=None, **begun).

    Its signature declares `params`, which are adopted in the place of fresh ones, and whatever
    else `init` can be begun from.

    Args:
      init: (key, batch, **begun) -> (params, memory).
      optimizer: params -> the optimizer's state.
      average: decay of the moving average of the parameters; 0 keeps none.
    """

    def start(
        key: Key, batch: Batch, params: Params | None = None, **begun: Params | None
    ) -> TrainState:
        check_batch(batch)
        with reading(batch):
            fresh, memory = init(key, batch, **begun)
        params = adopt(fresh, params)
        return TrainState(params, memory, optimizer(params), average_start(params, average))

    _, _, *own = inspect.signature(init).parameters
    declare(start, own)
    return start


def declare(start: Callable[..., State], begun: Iterable[str]) -> None:
    """Names in the signature of `start` what stands for **begun there."""
    signature = inspect.signature(start)
    fixed = [
        p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    more = [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=None) for n in begun]
    start.__signature__ = signature.replace(parameters=[*fixed, *more])  # type: ignore[attr-defined]


def adopt(fresh: Params, begun: Params | None, name: str = "params") -> Params:
    """What a model starts from: `begun` if there is anything, else its own fresh parameters.

    Args:
      fresh: as `init` makes them.
      begun: the learnt parameters of another run; None for none.
      name: under which they were begun.

    Raises ConfigError where the two are not of one tree and of the same shapes.
    """
    if begun is None:
        return fresh
    wanted, came = _shapes(fresh), _shapes(begun)
    for leaf in (*wanted, *came):
        if wanted.get(leaf) != came.get(leaf):
            raise ConfigError(
                f"--begin={name}: {leaf} is {came.get(leaf, 'absent')} there, and this config "
                f"needs {wanted.get(leaf, 'none')}; begin from a run of the same model fields."
            )
    try:
        return jax.tree.map(lambda old, new: jnp.asarray(new, old.dtype), fresh, begun)
    except ValueError as error:
        raise ConfigError(
            f"--begin={name}: what was learnt there ({_kind(begun)}) is not what this config "
            f"learns ({_kind(fresh)}); begin from a run of the same model fields and data."
        ) from error


def _kind(tree: Any) -> str:
    return f"{type(tree).__module__.rpartition('.')[2]}.{type(tree).__name__}"


def _shapes(tree: Any) -> dict[str, list[int]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): list(jnp.shape(leaf)) for path, leaf in leaves}


def settle(state: State, step: int) -> State:
    """The state after `step` steps without what nobody needs any more: finished optimizers.

    It is what a loop calls between two compiled calls; a step after it is the same, bit for bit,
    and compiled once more. Every state that is not staged stays as it is.

    Args:
      state: arrays, or their shapes.
      step: how many steps have been made.
    """
    if not isinstance(state, Staged):
        return state
    finished = sum(step >= end for end in state.ends[:-1])
    begins = (0, *state.ends[:-1])
    states = tuple(
        _put_down(own) if k < finished else settle(own, step - begins[k])
        for k, own in enumerate(state.states)
    )
    return dataclasses.replace(state, states=states, finished=finished)


def _put_down(state: State) -> State:
    """A state that learns no more: parameters, memory and average stay."""
    if isinstance(state, Staged):
        return dataclasses.replace(state, states=tuple(map(_put_down, state.states)))
    return dataclasses.replace(state, optimizer=()) if isinstance(state, TrainState) else state
