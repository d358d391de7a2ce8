"""The architecture, read off the imports: each rule is a function of sources, and can fail."""

import ast
import pathlib
from collections.abc import Iterator

import pytest

from genjax_zoo.models import ZOO

ROOT = pathlib.Path(__file__).resolve().parents[1]
FLOORS = {
    "genjax_zoo": 0,
    "genjax_zoo.contract": 0,
    "genjax_zoo.typed": 0,
    "genjax_zoo.nets": 1,
    "genjax_zoo.learn": 2,
    "genjax_zoo.models": 3,
    "genjax_zoo.run": 4,
    "genjax_zoo.measure": 4,
    "genjax_zoo.explore": 4,
    "genjax_zoo.main": 5,
}
"""Any other module at the top level is mathematics: floor 1."""
OUTSIDE = {"absl", "ml_collections", "datetime", "io", "os", "pathlib", "sys", "time"}
"""What flags, files, clocks and processes are made of; `platform.py` alone may, below run/."""


def sources() -> dict[str, str]:
    """Module name -> source, over the whole package."""
    found = {}
    for path in (ROOT / "genjax_zoo").rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text()
    return found


def floor(module: str) -> int:
    """The floor of a module: that of the longest name in the table, or 1."""
    parts = module.split(".")
    if len(parts) == 1:
        return FLOORS[module]
    return FLOORS.get(".".join(parts[:2]), 1)


def imports(module: str, modules: dict[str, str]) -> Iterator[str]:
    """Every module that `module` imports, wherever in its source the import stands."""
    for node in ast.walk(ast.parse(modules[module])):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute, line {node.lineno}"
            for alias in node.names:
                # `from a import b` takes the module a.b if there is one, else a name out of a.
                name = f"{node.module}.{alias.name}"
                inside = name in modules or not name.startswith("genjax_zoo")
                yield name if inside else str(node.module)


def within(module: str, modules: dict[str, str]) -> set[str]:
    return {name for name in imports(module, modules) if name.split(".")[0] == "genjax_zoo"}


def upward(modules: dict[str, str]) -> list[str]:
    return [
        f"{module} (floor {floor(module)}) imports {name} (floor {floor(name)})"
        for module in modules
        for name in within(module, modules)
        if floor(name) > floor(module)
    ]


def circles(modules: dict[str, str]) -> list[str]:
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> Iterator[str]:
        if module in path:
            yield " -> ".join((*path[path.index(module) :], module))
        elif module not in done:
            for name in within(module, modules) & modules.keys() - {module}:
                yield from visit(name, (*path, module))
            done.add(module)

    return [circle for module in modules for circle in visit(module, ())]


def linen(modules: dict[str, str]) -> list[str]:
    return [
        f"{module} imports {name}"
        for module in modules
        for name in imports(module, modules)
        if (name + ".").startswith("flax.linen.") and not module.startswith("genjax_zoo.nets")
    ]


def neighbours(modules: dict[str, str]) -> list[str]:
    models = {m for m in modules if m.startswith("genjax_zoo.models.")}
    return [
        f"{module} imports {name}"
        for module in models
        for name in within(module, modules) & models
        if verb(modules[module]) != "staged"
    ]


def verb(source: str) -> str | None:
    """What a module's own `VERB = "..."` says."""
    for node in ast.parse(source).body:
        match node:
            case ast.Assign(targets=[ast.Name(id="VERB")], value=ast.Constant(value=value)):
                return value
    return None


def named(modules: dict[str, str]) -> list[str]:
    """Where run/ or measure/ knows a model: imports one, or holds the name of a family."""
    guests = [m for m in modules if m.startswith(("genjax_zoo.run", "genjax_zoo.measure"))]
    taken = [
        f"{module} imports {name}"
        for module in guests
        for name in within(module, modules)
        if name.startswith("genjax_zoo.models.")
    ]
    spoken = [
        f"{module} line {node.lineno} says {node.value!r}"
        for module in guests
        for node in ast.walk(ast.parse(modules[module]))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in ZOO
    ]
    return taken + spoken


def worldly(modules: dict[str, str]) -> list[str]:
    """Flags, files and clocks below run/."""
    return [
        f"{module} imports {name}"
        for module in modules
        if floor(module) < 4 and module != "genjax_zoo.platform"
        for name in imports(module, modules)
        if name.split(".")[0] in OUTSIDE
    ]


def flags(modules: dict[str, str]) -> list[str]:
    """Flags and config files are read by main; run.config alone knows what a ConfigDict is."""
    allowed = {
        "absl": {"genjax_zoo.main"},
        "configs": set(),
        "ml_collections": {"genjax_zoo.main", "genjax_zoo.run.config"},
    }
    return [
        f"{module} imports {name}"
        for module in modules
        for name in imports(module, modules)
        if module not in allowed.get(name.split(".")[0], {module})
    ]


RULES = [upward, circles, linen, neighbours, named, worldly, flags]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps_the_rule(rule):
    assert rule(sources()) == []


FAMILY = next(iter(ZOO))


@pytest.mark.parametrize(
    ("rule", "module", "source"),
    [
        (upward, "genjax_zoo.learn", "from genjax_zoo.models import ZOO"),
        (upward, "genjax_zoo.contract", "def f():\n  import genjax_zoo.typed, genjax_zoo.learn"),
        (upward, "genjax_zoo.sde", "from genjax_zoo import learn"),
        (circles, "genjax_zoo.typed", "from genjax_zoo.games import field"),
        (circles, "genjax_zoo.contract", "import genjax_zoo.typed"),
        (linen, "genjax_zoo.models.new", "from flax import linen as nn"),
        (linen, "genjax_zoo.learn", "import flax.linen"),
        (linen, "genjax_zoo.learn", "from flax.linen import Dense"),
        (neighbours, "genjax_zoo.models.new", f"from genjax_zoo.models import {FAMILY}"),
        (neighbours, "genjax_zoo.models.new", f"import genjax_zoo.models.{FAMILY}"),
        (named, "genjax_zoo.run.loop", f"from genjax_zoo.models.{FAMILY} import make"),
        (named, "genjax_zoo.measure.new", f"def f(name): return name == {FAMILY!r}"),
        (worldly, "genjax_zoo.models.new", "def f():\n  import time"),
        (worldly, "genjax_zoo.sde", "from pathlib import Path"),
        (flags, "genjax_zoo.run.loop", "from absl import flags"),
        (flags, "genjax_zoo.run.loop", "from configs import vae"),
        (flags, "genjax_zoo.run.data", "import ml_collections"),
    ],
)
def test_the_rule_can_be_broken(rule, module, source):
    broken = rule({**sources(), module: source})
    assert any(module in complaint for complaint in broken)


def test_a_staged_model_may_import_its_stages():
    source = f'VERB = "staged"\nfrom genjax_zoo.models import {FAMILY}'
    assert neighbours({**sources(), "genjax_zoo.models.new": source}) == []


def test_flax_struct_is_welcome_anywhere():
    assert linen({"genjax_zoo.models.new": "from flax import struct"}) == []


def test_circles_are_spelt_out():
    modules = {
        "genjax_zoo.a": "import genjax_zoo.b",
        "genjax_zoo.b": "from genjax_zoo import c",
        "genjax_zoo.c": "from genjax_zoo.a import name",
        "genjax_zoo": "",
    }
    assert circles(modules) == ["genjax_zoo.a -> genjax_zoo.b -> genjax_zoo.c -> genjax_zoo.a"]
