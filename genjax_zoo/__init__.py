"""genjax_zoo: generative models in JAX, written as pure functions.

from genjax_zoo.models import vae            a family, imported when it is asked for
from genjax_zoo import ZOO, Model, verbs     the roster, the contract, how models learn
genjax_zoo.load("runs/vae")                  what a run has learnt: (model, state, run)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
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
    "__version__",
    "categorical",
    "load",
    "models",
    "verbs",
]

_MODULES = {"models": "genjax_zoo.models", "verbs": "genjax_zoo.learn.verbs"}
_HOMES = {"ZOO": "genjax_zoo.models", "load": "genjax_zoo.run.trained"}
"""Where a name comes from that is not the contract's."""


def __getattr__(name: str) -> Any:
    """What the package presents, imported when it is asked for: `--help` needs no jax."""
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name in __all__:
        return getattr(importlib.import_module(_HOMES.get(name, "genjax_zoo.contract")), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
