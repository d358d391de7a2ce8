"""Gradient accumulation: the gradient of a batch, made of those of its parts, one after another.

    loss = Σ_m total_m / Σ_m weight_m,     ∇ loss = Σ_m ∇ total_m / Σ_m weight_m

Floor 3. Sums are divided by sums: a mean of the parts' means is another number as soon as one part
has more to average than another, as texts of different lengths have. Devices that share a batch
need nothing of this: there every sum is over all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from genjax_zoo.contract import Array, Batch, ConfigError, Info, Key, Sometimes

Params = Any
Memory = Any


class Mean(NamedTuple):
    """A loss that says of what it is the mean.

    Attributes:
      total: the sum [], of which the gradient is taken.
      weight: over how many [], which does not depend on what is learnt: tokens, say.
    """

    total: Array
    weight: Array

    @property
    def value(self) -> Array:
        """total / weight [], and 0 where nothing counts."""
        return self.total / jnp.where(self.weight > 0, self.weight, 1)


Loss = Callable[[Key, Params, Memory, Batch], tuple[Array | Mean, tuple[Memory, Info]]]
"""(key, params, memory, batch) -> (loss, (memory, info)); a scalar is a mean over examples."""


def value_and_grad(loss: Loss, micro_batches: int = 1) -> Callable[..., tuple[Any, Params]]:
    """(key, params, memory, batch) -> ((loss [], (memory, info)), gradient) of the whole batch.

    Each part has a key of its own, and of what a loss draws the draws differ from those of the
    batch taken whole. A part is every `micro_batches`-th example, so that devices that share the
    batch share each part. `info` is averaged as the loss is.
    """

    def whole(params: Params, key: Key, memory: Memory, batch: Batch):
        value, rest = loss(key, params, memory, batch)
        return value.value if isinstance(value, Mean) else value, rest

    def total(params: Params, key: Key, memory: Memory, batch: Batch):
        value, (memory, info) = loss(key, params, memory, batch)
        if not isinstance(value, Mean):
            value = Mean(value * _size(batch), jnp.float32(_size(batch)))
        return value.total, (jnp.asarray(value.weight, jnp.float32), memory, info)

    def of_whole(key: Key, params: Params, memory: Memory, batch: Batch):
        return jax.value_and_grad(whole, has_aux=True)(params, key, memory, batch)

    def of_parts(key: Key, params: Params, memory: Memory, batch: Batch):
        def sums(m: Array, part: Batch) -> tuple[Any, Memory]:
            """What is added up over the parts, and the memory, which each has from the batch."""
            own = jax.random.fold_in(key, m)
            grad = jax.value_and_grad(total, has_aux=True)
            (value, (weight, after, info)), g = grad(params, own, memory, part)
            said = {name: _weighed(each, weight) for name, each in info.items()}
            return (value, weight, g, said), after

        def add(carry: Any, each: tuple[Array, Batch]) -> tuple[Any, None]:
            more, after = sums(*each)
            return (jax.tree.map(jnp.add, carry[0], more), after), None

        each = (jnp.arange(micro_batches), _parts(batch, micro_batches))
        like, _ = jax.eval_shape(sums, *jax.tree.map(lambda leaf: leaf[0], each))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)
        ((value, weight, g, said), after), _ = jax.lax.scan(add, (zeros, memory), each)
        mean = lambda leaf: Mean(leaf, weight).value
        info = {name: _averaged(summed) for name, summed in said.items()}
        return (mean(value), (after, info)), jax.tree.map(mean, g)

    return of_whole if micro_batches == 1 else of_parts


def check(
    loss: Loss,
    micro_batches: int,
    key: Key,
    params: Params,
    memory: Memory,
    batch: Batch,
    undivided: str = "",
) -> None:
    """Raises ConfigError where a batch cannot be taken in parts.

    A memory that only counts steps is the same after each part, and so is one that never changes;
    moving means are not.
    """
    if micro_batches > 1 and undivided:
        raise ConfigError(f"config.optimizer.micro_batches={micro_batches}: {undivided}.")
    if _size(batch) % micro_batches:
        raise ConfigError(
            f"config.optimizer.micro_batches={micro_batches} does not divide a batch of "
            f"{_size(batch)} examples; choose a divisor of config.data.batch_size."
        )
    leaves = jax.tree_util.tree_leaves_with_path(memory)
    if micro_batches == 1 or not any(_is_real(leaf) for _, leaf in leaves):
        return
    traced = jax.make_jaxpr(lambda memory: loss(key, params, memory, batch)[1][0])(memory).jaxpr
    for (path, leaf), old, new in zip(leaves, traced.invars, traced.outvars, strict=True):
        if _is_real(leaf) and new is not old:
            raise ConfigError(
                f"config.optimizer.micro_batches={micro_batches}: this model remembers "
                f"{jax.tree_util.keystr(path)} of each batch, which the parts of a batch do not "
                "add up to; set it to 1."
            )


def _size(batch: Batch) -> int:
    """B."""
    return len(jax.tree.leaves(batch)[0])


def _is_real(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def _parts(batch: Batch, count: int) -> Batch:
    """[B, ...] -> [count, B / count, ...]: every count-th example, so that devices share each."""
    apart = lambda leaf: leaf.reshape(-1, count, *leaf.shape[1:]).swapaxes(0, 1)
    return jax.tree.map(apart, batch)


def _weighed(said: Any, weight: Array) -> Mean | Sometimes:
    """What a part says of itself, as sums over what its loss counts."""
    if isinstance(said, Sometimes):
        return Sometimes(said.value * said.said * weight, said.said * weight)
    return Mean(said * weight, weight)


def _averaged(sums: Mean | Sometimes) -> Any:
    """What all parts together say."""
    if isinstance(sums, Mean):
        return sums.value
    return Sometimes(Mean(*sums).value, sums.said > 0)
