"""Data sets of TensorFlow Datasets, prepared as array records, which are read without TensorFlow.

Floor 4.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from genjax_zoo.contract import DataError
from genjax_zoo.data import images
from genjax_zoo.data.config import Data
from genjax_zoo.data.densities import DENSITIES
from genjax_zoo.data.source import Own, Source
from genjax_zoo.data.text.corpus import Corpus, decoded
from genjax_zoo.data.text.sources import of_corpus


def opened(data: Data, seed: int, name: str, data_dir: str | None, own: Own) -> Source:
    """The data set `name`: its images, with their labels if there are any, or its text.

    Raises DataError where it is not prepared, or is neither.
    """
    import tensorflow_datasets as tfds

    where = data_dir or tfds.core.constants.DATA_DIR

    @contextlib.contextmanager
    def explained() -> Iterator[None]:
        try:
            yield
        except Exception as error:
            why = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise DataError(_unreadable(name, where, why)) from error

    with explained():
        builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
        splits = builder.info.splits
    if not splits:
        raise DataError(_unreadable(name, where, "it is not prepared there"))
    held = next((s for s in ("test", "validation") if s in splits), None)
    if "train" not in splits or held is None:
        raise DataError(
            f"tfds:{name} needs a train and a test (or validation) split; it has "
            f"{', '.join(splits)}."
        )
    unused = [split for split in splits if split not in ("train", held)]
    notes = [f"version {builder.info.version}"]
    features = dict((builder.info.features or {}).items())
    if "text" in features:
        names = ["train", *(s for s in ("validation", "test") if s in splits)]
        with explained():
            records = {s: Texts(builder.as_data_source(split=s), f"tfds:{name} {s}") for s in names}
        sizes = {s: int(splits[s].num_bytes) for s in names}
        stamp = [(f"{s} {builder.info.version}", sizes[s], splits[s].num_examples) for s in names]
        corpus = Corpus(data.source, records, sum(sizes.values()), tuple(stamp), "", tuple(notes))
        return of_corpus(data, seed, corpus, own)
    if "image" not in features or features["image"].np_dtype != np.uint8:
        raise DataError(
            f"tfds:{name} has the features {', '.join(features)}; expected an 'image' of bytes "
            "or a 'text'."
        )
    classes = tuple(getattr(features.get("label"), "names", None) or ())
    with explained():
        train, test = (
            _records(builder.as_data_source(split=split), classes) for split in ("train", held)
        )
    notes += [f"left out {', '.join(unused)}"] if unused else []
    return images.records(data, seed, train, test, held, notes)


@dataclasses.dataclass(frozen=True)
class Texts:
    """The texts of records, each a document.

    Attributes:
      records: that can be asked for by their numbers.
      where: what they are called, for messages.
    """

    records: Any
    where: str

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        for number in range(len(self.records)):
            text = self.records[number]["text"]
            yield tuple(decoded(io.BytesIO(text), f"{self.where}, record {number},"))


def _records(source: Any, classes: Sequence[str]) -> images.Records:
    def read(rows: Sequence[int] | np.ndarray) -> list[images.Record]:
        found = source.__getitems__([int(r) for r in rows])
        return [images.Record(r["image"], int(r["label"]) if "label" in r else None) for r in found]

    return images.Records(len(source), read, classes)


def _unreadable(name: str, where: str, why: str) -> str:
    return (
        f"tfds:{name} cannot be read from {where} ({why}). Prepare it once on a machine with "
        f"TensorFlow: tfds.builder({name!r}, data_dir=..., file_format='array_record')"
        ".download_and_prepare(), and pass that folder as --data_dir. "
        f"Without any download: digits, {', '.join('density:' + d for d in DENSITIES)}."
    )
