"""Classification by p(x, y): what a generative model of x and of its label y says of labels.

Floor 1. By Bayes' rule p(y | x) ∝ p(x, y), and the class to guess is the y for which it is largest.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from genjax_zoo.contract import Array, Batch, Exactness, Info, Key, Measure, State


def error(joint: Array, label: Array) -> Array:
    """1 where argmax p(y | x) is not the label [B], else 0; `joint` is log p(x, y) [B, C]."""
    return (jnp.argmax(joint, axis=-1) != label).astype(jnp.float32)


def info(joint: Array, label: Array) -> Info:
    """What a step says: `error`, in the mean, and `labels_outside`, NaN where a label is no class.

    A label may be traced, and then nothing else can refuse it. Of one class there is no error.
    """
    outside = jnp.any((label < 0) | (label >= joint.shape[-1]))
    missed = {"error": jnp.mean(error(joint, label))} if joint.shape[-1] > 1 else {}
    return missed | {"labels_outside": jnp.where(outside, jnp.nan, 0.0)}


def measures(
    joint: Callable[[Key, State, Batch], Array],
    label_of: Callable[[Batch], Array],
    detail: str = "",
) -> dict[str, Measure]:
    """`log_joint`, exact log p(x, y) of the labels that a batch has, and `error`.

    Args:
      joint: (key, state, batch) -> log p(x, y) for every y [B, C] nats.
      label_of: batch -> y [B]; raises DataError for a batch without.
      detail: what else one must know to quote log p(x, y).
    """

    def log_joint(key: Key, state: State, batch: Batch) -> Array:
        at = label_of(batch)[:, None]
        return jnp.take_along_axis(joint(key, state, batch), at, axis=1)[:, 0]

    def miss(key: Key, state: State, batch: Batch) -> Array:
        return error(joint(key, state, batch), label_of(batch))

    return {
        "log_joint": Measure(log_joint, Exactness.EXACT, "nats", detail=detail),
        "error": Measure(miss, Exactness.EXACT, "error", "lower"),
    }
