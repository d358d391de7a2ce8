"""Texts: windows of characters, each of which has a number.

Floor 4.
"""

from __future__ import annotations

import functools
import pathlib
from typing import NamedTuple

import jax.numpy as jnp

from genjax_zoo.contract import DataError, categorical
from genjax_zoo.data.config import Data
from genjax_zoo.data.source import NEW, Own, Source, digest_of, order
from genjax_zoo.data.text.tokenizers import chosen


class Parts(NamedTuple):
    """A text, cut in two.

    Attributes:
      train: what is learnt from.
      held_out: what is not.
      split: what that part is called.
    """

    train: str
    held_out: str
    split: str


def read(name: str) -> Parts:
    """The file `name`, in UTF-8; its last tenth is held out. Raises DataError where it is none."""
    path = pathlib.Path(name).expanduser()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"text:{name} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"text:{name} is not UTF-8 ({error.reason}); convert it first.") from error
    return cut(text)


def cut(text: str) -> Parts:
    """A text whose last tenth is held out."""
    first = len(text) * 9 // 10
    return Parts(text[:first], text[first:], "validation (last tenth)")


def windows(data: Data, seed: int, parts: Parts, own: Own = NEW) -> Source:
    """Windows of `length` symbols, as int32 [B, length]; training ones start anywhere.

    Raises DataError for a text that is shorter than one.
    """
    tokenizer = chosen(data.tokenizer, own.tokenizer, [parts.train], [parts.held_out])
    train, held = (tokenizer.encode(part, unknown=True) for part in parts[:2])
    unit = "characters" if tokenizer.name == "characters" else "tokens"
    size, blocks = len(train) - data.length + 1, len(held) // data.length
    if size < 1 or blocks < 1:
        raise DataError(
            f"{data.source} has {len(train)} + {len(held)} {unit}, too few for "
            f"config.data.length={data.length}; choose a shorter one."
        )
    unseen = set(held.tolist()) - set(train.tolist())
    notes = [f"{len(train)}+{len(held)} {unit}"]
    notes += [f"{len(unseen)} symbols are held out alone"] if unseen else []
    held = held[: blocks * data.length].reshape(blocks, data.length)
    offsets = jnp.arange(data.length)
    return Source(
        resident=train,
        feed=lambda step, rows: order(seed, size, data.batch_size, step)[rows],
        batch=lambda key, text, starts: {"x": text[starts[:, None] + offsets]},
        held_out=lambda key, first, last: {"x": jnp.asarray(held[first:last])},
        held_out_split=parts.split,
        held_out_size=blocks,
        size=size,
        preprocessing=(
            f"{data.source}, {tokenizer.name}, {tokenizer.size} symbols, windows of {data.length}"
        ),
        spaces={"x": categorical(tokenizer.size)},
        tokenizer=tokenizer,
        texts={parts.split: [parts.held_out]},
        notes=tuple(notes),
        digest=functools.cache(lambda: digest_of(parts.train, parts.held_out)),
    )
