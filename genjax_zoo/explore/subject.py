"""What is explored: a trained model, and the held-out examples that are shown of it. Floor 7."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from genjax_zoo.contract import Key, Model, ZooError
from genjax_zoo.data.source import Source

POOL = 500
"""Held-out examples that are encoded, at most."""
STREAM = 2**32 - 16
"""The stream of keys, apart from those of run/."""


class Subject(NamedTuple):
    """A trained model, and what its explorations share.

    Attributes:
      model, state, source, key: as everywhere; `key` is the exploration's own.
      pool: held-out examples, as numpy arrays; in a random order, those of all labels first.
      number: which held-out example each of them is.
      folder: where the files go.
      pair: the two codes that a sweep moves; None for those that move the decoding most.
    """

    model: Model
    state: Any
    source: Source
    key: Key
    pool: Mapping[str, np.ndarray]
    number: np.ndarray
    folder: pathlib.Path
    pair: tuple[int, int] | None = None


def begin(
    model: Model,
    state: Any,
    source: Source,
    key: Key,
    folder: pathlib.Path,
    pair: tuple[int, int] | None = None,
) -> Subject:
    """Chooses the held-out examples; raises ZooError for data that have no x to show."""
    if "x" not in source.spaces:
        raise ZooError(
            f"explore shows the x of data, and {source.name or 'these data'} have: "
            f"{', '.join(source.spaces)}."
        )
    key_data, key_order, key = jax.random.split(key, 3)
    size = min(POOL, source.held_out_size)
    held_out = source.held_out(key_data, 0, size)
    pool = {name: np.asarray(value) for name, value in held_out.items()}
    number = np.asarray(jax.random.permutation(key_order, size))
    if "label" in pool:
        # Stably, by how many of its label came before: examples of all labels first.
        label, before = pool["label"][number], np.empty(size, int)
        for value in np.unique(label):
            before[label == value] = np.arange(np.sum(label == value))
        number = number[np.argsort(before, kind="stable")]
    pool = {name: value[number] for name, value in pool.items()}
    return Subject(model, state, source, key, pool, number, folder, pair)


def named(subject: Subject, i: int) -> str:
    """Held-out example i of the pool, in words."""
    label = f" ({called(subject, subject.pool['label'][i])})" if "label" in subject.pool else ""
    return f"{int(subject.number[i])}{label}"


def called(subject: Subject, label: Any) -> str:
    """A label by its name, where the data's have any."""
    names = subject.source.symbols.get("label", ())
    return str(names[int(label)]) if int(label) < len(names) else f"label {int(label)}"
