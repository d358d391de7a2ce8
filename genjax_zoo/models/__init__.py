"""The roster. Every file in this folder is a family of models; nothing else needs to know it.

Floor 4. A family's module has a docstring, whose first line is its summary, and three names:

    VERB              how it learns: descend, play, contrast, em, reinforce or staged
    Config            its typed configuration (typed.config)
    make(config, tx)  its factory: (Config, optax.GradientTransformation) -> Model

Summary and verb are read off the source: a family is imported when it is asked for, be it by
`from genjax_zoo.models import vae`, as `models.vae`, or by what the roster holds of it.
"""

from __future__ import annotations

import importlib
import importlib.resources
import pkgutil
import re
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

from genjax_zoo.contract import Model
from genjax_zoo.typed import nearest

VERBS = ("descend", "play", "contrast", "em", "reinforce", "staged")


class Family(NamedTuple):
    """A family of models, as the commands see it.

    Attributes:
      name: what `config.model.name` says; the module's name.
      verb: how it learns.
      summary: one line.
      load: () -> (Config, make), which imports it.
    """

    name: str
    verb: str
    summary: str
    load: Callable[[], tuple[type, Callable[..., Model]]]

    @property
    def Config(self) -> type:
        """Its typed configuration."""
        return self.load()[0]

    @property
    def make(self) -> Callable[..., Model]:
        """(Config, optimizer) -> Model."""
        return self.load()[1]


def family_of(name: str, source: str) -> Family:
    """The family `name` as its source describes it; raises TypeError for a file that is none."""
    wanted = {
        "a docstring": r'\A"""(.+?)(?:"""|\n)',
        "VERB": r'^VERB = "(\w+)"',
        "Config": r"^class (Config)\b",
        "make": r"^def (make)\b",
    }
    found = {what: re.search(how, source, re.MULTILINE) for what, how in wanted.items()}
    summary, verb, *_ = (match[1].strip() if match else "" for match in found.values())
    missing = [what for what, match in found.items() if not match]
    if missing:
        raise TypeError(f"models/{name}.py lacks {', '.join(missing)}: see {__file__}.")
    if verb not in VERBS:
        raise TypeError(f"models/{name}.py: VERB is {verb!r}, not one of {VERBS}.")

    def load() -> tuple[type, Callable[..., Model]]:
        module = importlib.import_module(f"{__name__}.{name}")
        return module.Config, module.make

    return Family(name, verb, summary, load)


_SOURCES = importlib.resources.files(__name__)

ZOO: dict[str, Family] = {
    name: family_of(name, _SOURCES.joinpath(f"{name}.py").read_text("utf-8"))
    for _, name, _ in pkgutil.iter_modules(__path__)
}


def __getattr__(name: str) -> ModuleType:
    """`models.vae`: a family's module."""
    if name in ZOO:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(nearest(name, ZOO, "family"))


def __dir__() -> list[str]:
    return [*globals(), *ZOO]
