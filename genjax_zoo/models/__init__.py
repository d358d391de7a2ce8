"""The roster. Every file in this folder is a family of models; nothing else needs to know it.

Floor 4. A family's module has a docstring, whose first line is its summary, and three names:

    VERB              how it learns: descend, play, contrast, em or staged
    Config            its typed configuration, a frozen dataclass
    make(config, tx)  its factory: (Config, optax.GradientTransformation) -> Model
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import NamedTuple

from genjax_zoo.contract import Model

VERBS = ("descend", "play", "contrast", "em", "staged")


class Family(NamedTuple):
    """A family of models, as the commands see it.

    Attributes:
      name: what `config.model.name` says; the module's name.
      verb: how it learns.
      summary: one line.
      Config: its typed configuration.
      make: (Config, optimizer) -> Model.
    """

    name: str
    verb: str
    summary: str
    Config: type
    make: Callable[..., Model]


def _families() -> dict[str, Family]:
    families = {}
    for found in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{found.name}")
        missing = [n for n in ("__doc__", "VERB", "Config", "make") if not getattr(module, n, None)]
        if missing:
            raise TypeError(f"models/{found.name}.py lacks {', '.join(missing)}: see {__file__}.")
        if module.VERB not in VERBS:
            raise TypeError(f"models/{found.name}.py: VERB is {module.VERB!r}, not one of {VERBS}.")
        summary = (module.__doc__ or "").strip().splitlines()[0]
        families[found.name] = Family(found.name, module.VERB, summary, module.Config, module.make)
    return families


ZOO: dict[str, Family] = _families()
