"""Completions: the first half of an example is given, and the rest is drawn. Floor 7.

Whoever can be told a part of x can show them, and one example is enough: of a series its past is
given, and what comes after it is drawn; of anything else the first half of the numbers (of an image
the upper half), by a mask. Of a text they are texts, and else a picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from genjax_zoo.contract import DataError, ZooError
from genjax_zoo.explore.pictures import Shown, is_image, picture, write, write_lines
from genjax_zoo.explore.subject import Subject, named
from genjax_zoo.run.record.shown import Look, is_text, texts

EXAMPLES, DRAWS = 6, 5
"""Examples that are completed, and how often each of them."""


def show(subject: Subject) -> Iterator[Shown]:
    """Examples, the half that is given of them, and what the model makes of it."""
    x = np.asarray(subject.pool["x"][:EXAMPLES])
    told = np.repeat(x, DRAWS, 0)
    # A model that takes an x of another length goes on from it.
    follows = x.ndim > 2 and not _refused(subject, {"x": x[0][1:]}, 1)
    half = max(1, x[0].shape[0] // 2 if follows else x[0].size // 2)
    if follows:
        given: dict[str, Any] = {"x": told[:, :half]}
    else:
        known = (np.arange(x[0].size) < half).reshape(x[0].shape)
        given = {"x": told, "mask": np.broadcast_to(known, told.shape)}
    if why := _refused(subject, given, len(told)):
        raise ZooError(f"the model cannot be given a part of x ({why.rstrip('.')}).")
    key = jax.random.fold_in(subject.key, 3)
    draw = jax.jit(lambda key, state: subject.model.sample(key, state, len(told), given)["x"])
    made = np.asarray(draw(key, subject.state))
    if follows:
        made = np.concatenate([told[:, :half], made], 1)[:, : x.shape[1]]
    completed = made.reshape(len(x), DRAWS, *made.shape[1:])
    look = Look(subject.source.symbols, tokenizer=subject.source.tokenizer)
    of_text = is_text("x", x, look)
    blocks = [x[:, None], completed]
    if is_image(x) and not follows:
        # What is not given is shown half way between black and white.
        blocks.insert(1, np.where(given["mask"][0], x, np.mean(subject.source.interval))[:, None])
    elif x.ndim == 3:
        blocks = [completed]
    which = ", ".join(named(subject, i) for i in range(len(x)))
    part = (
        f"the first {half} of {x.shape[1]} times are given, and what follows is drawn"
        if follows
        else f"the first {half} of {x[0].size} {'symbols' if of_text else 'numbers'} are given, "
        "and the rest is drawn"
    )
    yield Shown(
        [
            write_lines(subject, "completions", _lines(half, look, *blocks))
            if of_text
            else write(subject, "completions", picture(subject, *blocks))
        ],
        f"Completions of {subject.source.held_out_split}, number {which}: {part}, {DRAWS} times "
        "each, by chance and by what the model knows.",
    )


def _lines(half: int, look: Look, x: np.ndarray, completed: np.ndarray) -> list[str]:
    """Each text with a bar where its known part ends, and below it what was drawn instead."""
    said = lambda rows: texts({"x": rows}, look)["x"]
    lines = []
    for (own,), drawn in zip(x, completed, strict=True):
        (known, rest), ends = said([own[:half], own[half:]]), said(drawn[:, half:])
        lines += [f"{known}|{rest}", *(f"{' ' * len(known)}|{end}" for end in ends), ""]
    return lines[:-1]


def _refused(subject: Subject, given: Mapping[str, Any], n: int) -> str:
    """The sentence by which the model refuses what is given; "" if it takes it."""
    try:
        jax.eval_shape(
            lambda key: subject.model.sample(key, subject.state, n, given), jax.random.key(0)
        )
    except DataError as error:
        return str(error)
    return ""
