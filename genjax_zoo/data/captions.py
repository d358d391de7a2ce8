"""Scenes of coloured digits and their captions, drawn inside the step.

Floor 4. What is in a scene, and how it is said, stands in data/scenes.py.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genjax_zoo.contract import Batch, DataError, Key, categorical
from genjax_zoo.data import scenes
from genjax_zoo.data.config import Data
from genjax_zoo.data.pixels import interval, space
from genjax_zoo.data.source import Examples, Source, drawn

HELD_OUT_SCENES = 2000


def of_digits(data: Data) -> Data:
    """The digits that captions:NAME makes scenes of: NAME, in [0, 1], each half a scene wide."""
    name = data.source.removeprefix("captions:")
    side = data.resize or (14 if name == "tfds:mnist" else 0)
    return dataclasses.replace(data, source=name, scale="unit", resize=side)


def captioned(data: Data, seed: int, digits: Source) -> Source:
    """Scenes and their captions.

    Every scene of the training part is of training digits, and has no held-out pair of colour and
    digit; every held-out one is of test digits, and has one.

    Args:
      data: what the config says.
      seed: of the order of the digits.
      digits: the source of `of_digits`.

    Raises DataError where these are no digits, or no grey squares of an even side.
    """
    labels = digits.spaces.get("label", categorical())
    if digits.training is None or digits.size is None or labels.size != 10:
        raise DataError(
            f"{data.source} needs labelled images of the ten digits; choose captions:digits or "
            "captions:tfds:mnist."
        )
    parts = []
    for take, size in ((digits.training, digits.size), (digits.held_out, digits.held_out_size)):
        whole = jax.tree.map(np.asarray, take(jax.random.key(0), 0, size))
        x = whole["x"]
        if x.shape[1] != x.shape[2] or x.shape[1] % 2 or x.shape[3] != 1:
            raise DataError(
                f"{data.source} needs grey squares of an even side, got {list(x.shape[1:])}; set "
                "config.data.resize to an even side."
            )
        parts.append(Examples(np.asarray(x[..., 0], np.float32), whole["label"]))
    train, test = parts
    low, high = interval(data, 2)

    def drawn_of(key: Key, images: Any, label: Any, unseen: Any) -> Batch:
        scene = scenes.scenes(key, jnp.asarray(label, jnp.int32), unseen)
        x = low + (high - low) * scenes.draw(scene, jnp.asarray(images))
        return {"x": x, "text": scenes.tokens(scene)}

    def batch(key: Key, rest: Examples, rows: Any) -> Batch:
        return drawn_of(key, rest.x[rows], rest.label[rows], jnp.zeros(rows.shape, bool))

    @functools.cache
    def held() -> Batch:
        # The same for every run and seed, like any other test set.
        n = HELD_OUT_SCENES
        rng = np.random.default_rng(0)
        any_digit = rng.integers(0, len(test.x), (n, 2))
        rare = rng.choice(np.flatnonzero(np.isin(test.label, scenes.UNSEEN)), (n, 2))
        unseen = np.asarray(scenes.hidden(n))
        rows = np.where(unseen, rare, any_digit)
        made = drawn_of(jax.random.key(2**31 - 1), test.x[rows], test.label[rows], unseen)
        return jax.tree.map(np.asarray, made)

    # A scene's two digits are drawn as the images of a stack are.
    two = dataclasses.replace(of_digits(data), stack=2)
    shape = (2 * train.x.shape[1], 2 * train.x.shape[1], 3)
    return Source(
        resident=train,
        feed=lambda step, rows: drawn(two, seed, len(train.x), step)[rows],
        batch=batch,
        held_out=lambda key, first, last: {k: v[first:last] for k, v in held().items()},
        held_out_split=f"held-out combinations of {digits.held_out_split} digits",
        held_out_size=HELD_OUT_SCENES,
        size=None,
        preprocessing=f"{data.source}, scenes {'x'.join(map(str, shape))} in [{low:g}, {high:g}]",
        interval=(low, high),
        spaces={"x": space(data), "text": categorical(len(scenes.WORDS))},
        symbols={"text": scenes.WORDS},
        digest=digits.digest,
    )
