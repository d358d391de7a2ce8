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
import pathlib
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


def family_of(path: pathlib.Path) -> Family:
    """A family as its source describes it; raises TypeError for a file that is none."""
    wanted = {
        "a docstring": r'\A"""(.+?)(?:"""|\n)',
        "VERB": r'^VERB = "(\w+)"',
        "Config": r"^class (Config)\b",
        "make": r"^def (make)\b",
    }
    source = path.read_text(encoding="utf-8")
    found = {what: re.search(how, source, re.MULTILINE) for what, how in wanted.items()}
    summary, verb, *_ = (match[1].strip() if match else "" for match in found.values())
    missing = [what for what, match in found.items() if not match]
    if missing:
        raise TypeError(f"models/{path.name} lacks {', '.join(missing)}: see {__file__}.")
    if verb not in VERBS:
        raise TypeError(f"models/{path.name}: VERB is {verb!r}, not one of {VERBS}.")

    def load() -> tuple[type, Callable[..., Model]]:
        module = importlib.import_module(f"{__name__}.{path.stem}")
        return module.Config, module.make

    return Family(path.stem, verb, summary, load)


ZOO: dict[str, Family] = {
    path.stem: family_of(path)
    for path in sorted(pathlib.Path(__file__).parent.glob("*.py"))
    if path.stem != "__init__"
}


def __getattr__(name: str) -> ModuleType:
    """`models.vae`: a family's module."""
    if name in ZOO:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(nearest(name, ZOO, "family"))


def __dir__() -> list[str]:
    return [*globals(), *ZOO]
