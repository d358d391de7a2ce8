"""The architecture, read off the imports: each rule is a function of sources, and can fail."""

import ast
import functools
import pathlib
from collections.abc import Iterator

import pytest

from genjax_zoo.models import ZOO

ROOT = pathlib.Path(__file__).resolve().parents[1]
FLOORS = {
    "contract": 0,
    "typed": 0,
    "maths": 1,
    "nets": 2,
    "learn": 3,
    "models": 4,
    "data": 4,
    "measure": 5,
    "run": 6,
    "explore": 7,
    "commands": 8,
    "main": 8,
}
"""Every module and folder of genjax_zoo/, and the floor it lies on: there are no others."""
MATHS = {"probability", "inference", "mcmc", "diffusion", "games", "sequences"}
"""The rooms of maths/, in which every module of it lies."""
OUTSIDE = {"absl", "ml_collections", "datetime", "io", "os", "pathlib", "sys", "time"}
"""What flags, files, clocks and processes are made of; nothing below data/ knows of them."""


def sources() -> dict[str, str]:
    """Module name -> source, over the whole package."""
    found = {}
    for path in (ROOT / "genjax_zoo").rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text()
    return found


def floor(module: str) -> int:
    """The floor of a module; the package itself presents what lies on floor 6 and below."""
    parts = module.split(".")
    return 6 if len(parts) == 1 else FLOORS.get(parts[1], 0)


@functools.cache
def importing(source: str) -> list[ast.Import | ast.ImportFrom]:
    """The imports of a source; most are asked for again and again."""
    return [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Import | ast.ImportFrom)]


def imports(module: str, modules: dict[str, str]) -> Iterator[str]:
    """Every module that `module` imports, wherever in its source the import stands."""
    for node in importing(modules[module]):
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


def loose(modules: dict[str, str]) -> list[str]:
    """Modules that lie on no floor, or in no room of maths/."""
    found = []
    for module in modules:
        _, *parts = module.split(".")
        if parts and parts[0] not in FLOORS:
            found.append(f"{module} lies on no floor")
        elif parts[:1] == ["maths"] and len(parts) > 1 and parts[1] not in MATHS:
            found.append(f"{module} lies in no room of maths/")
    return found


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
    """Flags, files and clocks below data/."""
    return [
        f"{module} imports {name}"
        for module in modules
        if floor(module) < 4 or module.startswith("genjax_zoo.models")
        for name in imports(module, modules)
        if name.split(".")[0] in OUTSIDE
    ]


def flags(modules: dict[str, str]) -> list[str]:
    """Flags and config files are read by commands; beside them run.config knows of ConfigDict."""
    allowed = {"absl": (), "configs": None, "ml_collections": ("genjax_zoo.run.config",)}

    def may(module: str, name: str) -> bool:
        others = allowed.get(name.split(".")[0], (module,))
        return others is not None and (floor(module) == FLOORS["commands"] or module in others)

    return [
        f"{module} imports {name}"
        for module in modules
        for name in imports(module, modules)
        if not may(module, name)
    ]


LONGEST = {"genjax_zoo.models.rbm": 400}
"""Lines of a model's file, and of all others 450: what is more belongs below."""


def long(modules: dict[str, str]) -> list[str]:
    """Models that do not read like their paper, for they hold what others could use."""
    lines = {m: len(s.splitlines()) for m, s in modules.items() if ".models." in m}
    return [f"{m} has {n} lines" for m, n in lines.items() if n > LONGEST.get(m, 450)]


RULES = [loose, upward, circles, linen, neighbours, named, worldly, flags, long]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps_the_rule(rule):
    assert rule(sources()) == []


def test_every_floor_and_room_is_there():
    """As `ls` shows them: the folders and files of FLOORS, and the rooms of maths/."""
    listed = lambda folder: {p.stem for p in folder.iterdir() if not p.name.startswith(("_", "."))}
    assert listed(ROOT / "genjax_zoo") - {"py"} == set(FLOORS)
    assert listed(ROOT / "genjax_zoo" / "maths") == MATHS


FAMILY = next(iter(ZOO))


@pytest.mark.parametrize(
    ("rule", "module", "source"),
    [
        (loose, "genjax_zoo.captions", "pass"),
        (loose, "genjax_zoo.maths.captions", "pass"),
        (upward, "genjax_zoo.learn.verbs", "from genjax_zoo.models import ZOO"),
        (
            upward,
            "genjax_zoo.contract",
            "def f():\n  import genjax_zoo.learn.verbs",
        ),
        (upward, "genjax_zoo.maths.diffusion.sde", "from genjax_zoo.learn import verbs"),
        (upward, "genjax_zoo.measure.new", "from genjax_zoo.run import config"),
        (circles, "genjax_zoo.typed", "from genjax_zoo.maths.games.dynamics import field"),
        (circles, "genjax_zoo.typed", "import genjax_zoo.contract"),
        (linen, "genjax_zoo.models.new", "from flax import linen as nn"),
        (linen, "genjax_zoo.learn.verbs", "import flax.linen"),
        (linen, "genjax_zoo.learn.verbs", "from flax.linen import Dense"),
        (neighbours, "genjax_zoo.models.new", f"from genjax_zoo.models import {FAMILY}"),
        (neighbours, "genjax_zoo.models.new", f"import genjax_zoo.models.{FAMILY}"),
        (named, "genjax_zoo.run.steps", f"from genjax_zoo.models.{FAMILY} import make"),
        (named, "genjax_zoo.measure.new", f"def f(name): return name == {FAMILY!r}"),
        (worldly, "genjax_zoo.models.new", "def f():\n  import time"),
        (worldly, "genjax_zoo.maths.diffusion.sde", "from pathlib import Path"),
        (flags, "genjax_zoo.run.train", "from absl import flags"),
        (flags, "genjax_zoo.explore.new", "from ml_collections import ConfigDict"),
        (flags, "genjax_zoo.commands.train", "from configs import vae"),
        (flags, "genjax_zoo.data.sources", "import ml_collections"),
        (long, "genjax_zoo.models.new", "pass\n" * 451),
        (long, "genjax_zoo.models.rbm", "pass\n" * 401),
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
