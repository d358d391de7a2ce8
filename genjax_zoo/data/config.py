"""What a config says of the data. Floor 4."""

from __future__ import annotations

from typing import Literal

from genjax_zoo import typed
from genjax_zoo.contract import ConfigError
from genjax_zoo.typed import number

_NO_IMAGES = ("density:", "text:", "table:", "series:", "clip:", "strings:")
_OF_IMAGES = {"scale": "unit", "resize": 0, "stack": 1, "binarise": "none", "dequantise": False}


@typed.config
class Data:
    """What is learnt from, and all that is done to it on the way.

    Attributes:
      source: digits | density:NAME | table:NAME | series:PATH | clip:PATH | tfds:NAME |
        folder:PATH | text:PATH | captions:digits | captions:tfds:NAME | strings:NAME:SYMBOLS. A
        series and a clip are one example each; of captions, `resize` is the side of a digit, half
        that of a scene.
      batch_size: examples in a step, over all devices and processes.
      scale: range of pixel values: unit [0, 1], symmetric [-1, 1], raw (0 to the highest level).
      resize: side in pixels that images are resized to (bilinear, squared); 0 leaves them alone.
      stack: images in an example, drawn independently and laid along its channels; their labels
        are the decimal digits of its label, Σ_k label_k 10^k. 3 makes MNIST the stacked MNIST of
        Metz et al. 2017: 1000 classes.
      binarise: threshold (x > 0.5) or dynamic (a Bernoulli draw of x at every access) or none.
      dequantise: adds uniform noise of one level, so that a density is one.
      standardise: of a table or a series: each column minus the mean of its training part, over
        its standard deviation.
      length: characters in an example of a text, symbols in a string.
    """

    source: str = "digits"
    batch_size: int = number(100, least=1)
    scale: Literal["unit", "symmetric", "raw"] = "unit"
    resize: int = number(0, least=0, most=4096)
    stack: int = number(1, least=1, most=9)
    binarise: Literal["none", "threshold", "dynamic"] = "none"
    dequantise: bool = False
    standardise: bool = False
    length: int = number(64, least=1, most=10**6)

    def __post_init__(self):
        if self.source.startswith("captions:") and (
            self.stack > 1 or self.dequantise or self.binarise != "none" or self.scale == "raw"
        ):
            raise ConfigError(
                "config.data.source=captions:NAME draws scenes of its own; leave stack, dequantise "
                "and binarise as they are, and scale at 'unit' or 'symmetric'."
            )
        changed = [f for f, default in _OF_IMAGES.items() if getattr(self, f) != default]
        if self.source.startswith("clip:"):
            changed = [f for f in changed if f != "resize"]
        if changed and self.source.startswith(_NO_IMAGES):
            raise ConfigError(
                f"config.data.{changed[0]}={getattr(self, changed[0])!r} is for images, and "
                f"{self.source} is none; leave it at {_OF_IMAGES[changed[0]]!r}."
            )
        if self.standardise and not self.source.startswith(("table:", "series:")):
            raise ConfigError(
                f"config.data.standardise is for tables and series, and {self.source} is neither; "
                "set it to False."
            )
        if self.binarise != "none" and (self.dequantise or self.scale != "unit"):
            raise ConfigError(
                f"config.data.binarise={self.binarise!r} works on [0, 1] and leaves nothing to "
                "dequantise; set scale='unit' and dequantise=False."
            )
