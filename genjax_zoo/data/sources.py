"""Where data come from: every kind of name that `config.data.source` takes becomes a `Source`.

Floor 4. What a source is, and in what order it is read, stands in data/source.py.
"""

from __future__ import annotations

import difflib
import functools
import pathlib
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genjax_zoo.contract import ConfigError, DataError, Space
from genjax_zoo.data import (
    arrays,
    captions,
    clips,
    folders,
    images,
    parquet,
    scenes,
    strings,
    tables,
    tfds,
    words,
)
from genjax_zoo.data.config import TAKES, Data
from genjax_zoo.data.densities import DENSITIES
from genjax_zoo.data.files.tree import counted
from genjax_zoo.data.source import NEW, Own, Source
from genjax_zoo.data.text import sources as texts
from genjax_zoo.data.text.tokenizer import Tokenizer
from genjax_zoo.typed import choose

HELD_OUT_DRAWS = 10_000
SUFFIXES = {
    **{".npy": "array", ".npz": "array", ".parquet": "parquet", ".csv": "series", ".txt": "text"},
    **{".zip": "folder", ".tar": "folder", ".tgz": "folder", ".gif": "clip"},
}
"""What files of these endings may be."""
NONE: Mapping[str, Any] = types.MappingProxyType({})
KINDS = (
    "digits, density:NAME, table:NAME, series:PATH, clip:PATH, tfds:NAME, folder:PATH, array:PATH, "
    "parquet:PATH, text:PATH, captions:digits, captions:tfds:NAME, strings:NAME:SYMBOLS"
)


def open_source(data: Data, seed: int, data_dir: str | None = None, own: Own = NEW) -> Source:
    """Opens `data.source`; raises DataError where it is not there or does not fit.

    Args:
      data: what the config says.
      seed: of the order of the examples.
      data_dir: where prepared data sets lie.
      own: what the run has already of what its data are read by.
    """
    kind, _, name = data.source.partition(":")
    openers: dict[str, Callable[[], Source]] = {
        "digits": lambda: images.digits(data, seed),
        "density": lambda: _density(data, name),
        "table": lambda: tables.labelled(data, seed, name),
        "series": lambda: tables.of_times(data, name),
        "clip": lambda: clips.opened(data, name),
        "tfds": lambda: tfds.opened(data, seed, name, data_dir, own),
        "folder": lambda: folders.folder(data, seed, name),
        "array": lambda: arrays.opened(data, seed, name),
        "parquet": lambda: parquet.opened(data, seed, name, own),
        "text": lambda: texts.of_path(data, seed, name, own),
        "captions": lambda: captions.captioned(
            data, seed, open_source(captions.of_digits(data), seed, data_dir)
        ),
        "strings": lambda: strings.opened(name, data.length, data.batch_size),
        "none": _none,
    }
    if kind not in openers or bool(name) != (kind not in ("digits", "none")):
        raise ConfigError(f"config.data.source={data.source!r} is none of {KINDS}.{_hint(data)}")
    source = openers[kind]()
    source = source._replace(name=name if kind in ("tfds", "density", "table") else data.source)
    if source.size is not None and source.size < data.batch_size:
        raise DataError(
            f"{data.source} has {counted(source.size, 'example')} for training, fewer than "
            f"config.data.batch_size={data.batch_size}: set --config.data.batch_size={source.size} "
            "for all of them at once, or to less."
        )
    return source


def nothing(spaces: Mapping[str, Space], tokenizer: Tokenizer | None) -> Source:
    """The source of a run that has learnt nothing here: its weights came without their data.

    Args:
      spaces: what it would learn from.
      tokenizer: that its texts are read by.
    """
    nobody = np.zeros((0, 0), np.int32)
    return Source(
        resident=(),
        feed=lambda step, rows: nobody,
        batch=lambda key, resident, feed: {},
        held_out=lambda key, first, last: {},
        held_out_split="none",
        held_out_size=0,
        size=0,
        preprocessing="none",
        spaces=spaces,
        tokenizer=tokenizer,
        name="none",
    )


def _none() -> Source:
    raise DataError(
        "config.data.source=none: these weights came without data to learn from or to measure on; "
        "name some, such as --config.data.source=text:PATH."
    )


def _hint(data: Data) -> str:
    """What a kind that is misspelt, or a path without its kind, may have meant."""
    written, _, name = data.source.partition(":")
    close = difflib.get_close_matches(written.lower(), TAKES, n=1, cutoff=0.7)
    if name and close and close[0] not in ("digits", written):
        return f" Did you mean {close[0]}:{name}?"
    path = pathlib.Path(data.source).expanduser()
    if not path.exists():
        return ""
    kind = "folder" if path.is_dir() else SUFFIXES.get(path.suffix.lower())
    return f" Did you mean {kind}:{data.source}?" if kind else ""


def tokeniser(
    data: Data, symbols: Mapping[str, Sequence[str]] = NONE, arrays: Mapping[str, Any] = NONE
) -> Callable[[str], np.ndarray] | None:
    """What makes tokens [T] of words where the data have captions, or None.

    Args:
      data: what the config says.
      symbols: of the source.
      arrays: (dtype, shape) of each array of a batch, by its name.
    """
    if data.source.startswith("captions:"):
        return scenes.tokenise
    if "text" not in symbols or "text" not in arrays:
        return None
    length = arrays["text"][1][-1]
    return functools.partial(words.tokenise, words=tuple(symbols["text"]), length=length)


def _density(data: Data, name: str) -> Source:
    density = choose(name, DENSITIES, "density")

    @functools.cache
    def held() -> np.ndarray:
        # The same for every run and seed, like any other test set; apart from every step's key.
        return np.asarray(density.sample(jax.random.key(2**31 - 1), HELD_OUT_DRAWS))

    return Source(
        resident=(),
        feed=lambda step, rows: np.broadcast_to(np.int8(0), (data.batch_size,))[rows],
        batch=lambda key, resident, feed: {"x": density.sample(key, feed.shape[0])},
        held_out=lambda key, first, last: {"x": jnp.asarray(held()[first:last])},
        held_out_split="held-out draws",
        held_out_size=HELD_OUT_DRAWS,
        size=None,
        preprocessing=f"{data.source}, as drawn",
        density=density,
        spaces={"x": density.space},
        columns=density.columns,
    )
