"""genjax_zoo: generative models in JAX, written as pure functions.

from genjax_zoo.models import vae            a family, imported when it is asked for
from genjax_zoo import ZOO, Model, verbs     the roster, the contract, how models learn
"""

from genjax_zoo import models
from genjax_zoo.contract import (
    BINARY,
    COUNTS,
    NOTHING,
    REAL,
    SIGNED,
    UNIT,
    Autoregression,
    ConfigError,
    DataError,
    Exactness,
    Latents,
    Measure,
    Model,
    Once,
    Sometimes,
    Space,
    ZooError,
    categorical,
)
from genjax_zoo.learn import verbs
from genjax_zoo.models import ZOO

__version__ = "0.2.0"

__all__ = [
    "BINARY",
    "COUNTS",
    "NOTHING",
    "REAL",
    "SIGNED",
    "UNIT",
    "ZOO",
    "Autoregression",
    "ConfigError",
    "DataError",
    "Exactness",
    "Latents",
    "Measure",
    "Model",
    "Once",
    "Sometimes",
    "Space",
    "ZooError",
    "categorical",
    "models",
    "verbs",
]
