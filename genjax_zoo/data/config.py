"""What a config says of the data. Floor 4."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, Literal

from genjax_zoo import typed
from genjax_zoo.contract import ConfigError
from genjax_zoo.data.densities import DENSITIES
from genjax_zoo.data.text import tokenizers
from genjax_zoo.typed import choose, number

TABLES = ("breast_cancer", "iris", "wine")
"""scikit-learn's embedded tables."""
NAMED: Mapping[str, Mapping[str, Any]] = {
    "density": DENSITIES,
    "table": dict.fromkeys(TABLES),
}
"""The names that there are of a kind of source which has no others."""

PATHS: Mapping[str, tuple[str, ...]] = {
    "folder": (),
    "array": (),
    "parquet": (),
    "text": (),
    "series": ("nile",),
    "clip": ("waves",),
}
"""The kinds of sources whose name is a path, and what it may be besides."""

IMAGES = ("scale", "crop", "resize", "channels", "stack", "binarise", "dequantise")
"""What is done to images."""
TEXTS = ("tokenizer", "in_memory", "token_dir")
"""What is said of texts."""
TAKES: Mapping[str, tuple[str, ...]] = {
    "digits": IMAGES,
    "tfds": (*IMAGES, *TEXTS),
    "folder": (*IMAGES, "background"),
    "captions": IMAGES,
    "array": (*IMAGES, "standardise"),
    "parquet": (*IMAGES, "background", "standardise", *TEXTS),
    "clip": ("crop", "resize", "channels", "background"),
    "table": ("standardise",),
    "series": ("standardise", "columns", "header"),
    "density": (),
    "text": TEXTS,
    "strings": (),
    "none": ("tokenizer",),
}
"""Which fields each kind of source takes, of those that are not for all."""


@typed.config
class Data:
    """What is learnt from, and all that is done to it on the way.

    Attributes:
      source: digits | density:NAME | table:NAME | series:PATH | clip:PATH | tfds:NAME |
        folder:PATH | array:PATH | parquet:PATH | text:PATH | captions:digits | captions:tfds:NAME |
        strings:NAME:SYMBOLS. A series and a clip are one example each; of captions, `resize` is the
        side of a digit, half that of a scene. Weights that were imported have the source none.
      batch_size: examples in a step, over all devices and processes.
      scale: range of pixel values: unit [0, 1], symmetric [-1, 1], raw (0 to the highest level).
      crop: cuts the square in the middle out of images, before they are resized.
      resize: side in pixels that images are resized to (bilinear, squared); 0 leaves them alone.
      channels: 1 makes grey of colour, 3 makes colour of grey; 0 leaves both alone.
      background: what is seen where an image file is transparent.
      stack: images in an example, drawn independently and laid along its channels; their labels
        are the decimal digits of its label, Σ_k label_k 10^k. 3 makes MNIST the stacked MNIST of
        Metz et al. 2017: 1000 classes.
      binarise: threshold (x > 0.5) or dynamic (a Bernoulli draw of x at every access) or none.
      dequantise: adds uniform noise of one level, so that a density is one.
      standardise: of a table or a series: each column minus the mean of its training part, over
        its standard deviation.
      columns: names of the columns of a series to learn from, in this order; () takes all.
      header: what the first line of a series holds: the names of its columns, numbers, or (auto)
        what it looks like.
      length: symbols in an example of a text, or in a string.
      tokenizer: what texts are cut into: characters, bytes, bpe:SIZE (byte-level, trained on the
        training split), or the path of a tokenizer.json, of a folder with one or of a SentencePiece
        model.
      in_memory: megabytes of texts that are held in memory; what is more is read by position from
        token files, which are written once.
      token_dir: the folder of token files, which several runs may share; "" is the workdir's own.
    """

    source: str = "digits"
    batch_size: int = number(100, least=1, most=10**6)
    scale: Literal["unit", "symmetric", "raw"] = "unit"
    crop: bool = False
    resize: int = number(0, least=0, most=4096)
    channels: Literal[0, 1, 3] = 0
    background: Literal["white", "grey", "black"] = "white"
    stack: int = number(1, least=1, most=9)
    binarise: Literal["none", "threshold", "dynamic"] = "none"
    dequantise: bool = False
    standardise: bool = False
    columns: tuple[str, ...] = ()
    header: Literal["auto", "names", "numbers"] = "auto"
    length: int = number(64, least=1, most=10**6)
    tokenizer: str = "characters"
    in_memory: int = number(256, least=0)
    token_dir: str = ""

    @property
    def of_images(self) -> bool:
        """Whether the source is one of images."""
        return "scale" in TAKES.get(self.source.partition(":")[0], ())

    def __post_init__(self):
        kind, _, name = self.source.partition(":")
        if name and kind in NAMED:
            # Before what is done to it: a name that is none has no fields.
            choose(name, NAMED[kind], kind)
        tokenizers.check(self.tokenizer)
        if self.source.startswith("captions:") and (
            self.stack > 1 or self.dequantise or self.binarise != "none" or self.scale == "raw"
        ):
            raise ConfigError(
                "config.data.source=captions:NAME draws scenes of its own; leave stack, dequantise "
                "and binarise as they are, and scale at 'unit' or 'symmetric'."
            )
        # What the kind of a source is, data/sources.py knows; one that is none is refused there.
        foreign = {*_DEFAULTS} - {*TAKES.get(kind, _DEFAULTS)}
        for field in sorted(f for f in foreign if getattr(self, f) != _DEFAULTS[f]):
            raise ConfigError(
                f"config.data.{field}={getattr(self, field)!r} is for {_MEANT[field]}, "
                f"and {self.source} is none; leave it at {_DEFAULTS[field]!r}."
            )
        if self.binarise != "none" and (self.dequantise or self.scale != "unit"):
            raise ConfigError(
                f"config.data.binarise={self.binarise!r} works on [0, 1] and leaves nothing to "
                "dequantise; set scale='unit' and dequantise=False."
            )


_DEFAULTS = {
    field.name: field.default
    for field in dataclasses.fields(Data)
    if any(field.name in fields for fields in TAKES.values())
}
_MEANT = {
    **dict.fromkeys(IMAGES, "images"),
    "standardise": "tables and series",
    "background": "image files",
    "columns": "series",
    "header": "series",
    **dict.fromkeys(TEXTS, "texts"),
}


def is_read(source: str) -> bool:
    """Whether data are read from files of one's own or from a prepared set: it may take a while."""
    kind, _, name = source.partition(":")
    if kind == "captions":
        return is_read(name)
    return kind == "tfds" or (kind in PATHS and name not in PATHS[kind])


def located(source: str) -> str:
    """`config.data.source` with the path in it made absolute, so that it means the same anywhere.

    What names no path, or something of the zoo, is left as it is.
    """
    kind, _, name = source.partition(":")
    if kind == "captions":
        return f"captions:{located(name)}"
    if kind not in PATHS or not name or name in PATHS[kind]:
        return source
    return f"{kind}:{pathlib.Path(name).expanduser().absolute()}"
