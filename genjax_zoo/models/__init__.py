"""The roster. Every file in this folder is a family of models; nothing else needs to know it.

Floor 4. A family's module has a docstring, whose first line is its summary, and three names:

    VERB              how it learns: descend, play, contrast, em, reinforce or staged
    Config            its typed configuration (typed.config)
    make(config, tx)  its factory: (Config, optax.GradientTransformation) -> Model

Summary and verb are read off the source: a family is imported when it is asked for.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import pkgutil
from collections.abc import Callable
from typing import Any, NamedTuple

from genjax_zoo.contract import Model

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


def _family(name: str) -> Family:
    """A family as its source describes it; raises TypeError for a file that is none."""
    spec = importlib.util.find_spec(f"{__name__}.{name}")
    source = ast.parse(importlib.util.decode_source(spec.loader.get_data(spec.origin)))  # type: ignore[union-attr,arg-type]
    own: dict[str, Any] = {"__doc__": ast.get_docstring(source)}
    for node in source.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=target)], value=ast.Constant(value=value)):
                own[target] = value
            case ast.FunctionDef(name=defined) | ast.ClassDef(name=defined):
                own[defined] = node
    missing = [n for n in ("__doc__", "VERB", "Config", "make") if not own.get(n)]
    if missing:
        raise TypeError(f"models/{name}.py lacks {', '.join(missing)}: see {__file__}.")
    if own["VERB"] not in VERBS:
        raise TypeError(f"models/{name}.py: VERB is {own['VERB']!r}, not one of {VERBS}.")

    @functools.cache
    def load() -> tuple[type, Callable[..., Model]]:
        module = importlib.import_module(f"{__name__}.{name}")
        return module.Config, module.make

    return Family(name, own["VERB"], own["__doc__"].splitlines()[0], load)


ZOO: dict[str, Family] = {
    found.name: _family(found.name) for found in pkgutil.iter_modules(__path__)
}
