"""What is installed with what, and what an import brings along."""

import configparser
import pathlib
import re
import subprocess
import sys

import pytest

import genjax_zoo
from genjax_zoo.models import ZOO
from tests.conftest import ROOT
from tests.test_floors import floor, imports, sources

MODULES = {
    "absl-py": "absl",
    "pillow": "PIL",
    "scikit-learn": "sklearn",
    "orbax-checkpoint": "orbax",
}
"""What a distribution is imported as, where it is not its own name."""


def declared(section: str, option: str) -> set[str]:
    """The modules of the distributions that setup.cfg names there."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup[section][option].splitlines()
    names = [re.split(r"[<>=\[;]", line)[0].strip() for line in lines if not line.startswith("#")]
    return {MODULES.get(name, name.replace("-", "_")) for name in names if name}


CORE = declared("options", "install_requires")
RUN = declared("options.extras_require", "run")
PARQUET = declared("options.extras_require", "parquet")
TEXT = declared("options.extras_require", "text")
OWN = {
    "genjax_zoo.data.parquet": PARQUET,
    "genjax_zoo.data.text.subwords": TEXT,
    "genjax_zoo.run.texts.chats": TEXT,
}
"""Where they are imported: one source of data, some tokenizers and the templates of chats say so
where they are not."""


def brought(modules: dict[str, str]) -> dict[str, set[str]]:
    """Of each module, the packages of others that it imports, wherever the import stands."""
    own = {"genjax_zoo", "__future__"} | sys.stdlib_module_names
    return {
        module: {name.split(".")[0] for name in imports(module, modules)} - own
        for module in modules
    }


def undeclared(modules: dict[str, str]) -> list[str]:
    """Where something is imported that is not installed with it."""
    found = []
    for module, packages in brought(modules).items():
        below = module == "genjax_zoo" or module.startswith("genjax_zoo.models")
        below |= floor(module) < 4
        packages -= CORE | OWN.get(module, set()) | (set() if below else RUN)
        found += [f"{module} imports {package}" for package in packages]
    return sorted(found)


def test_everything_imported_is_declared():
    assert undeclared(sources()) == []


def test_everything_declared_is_imported():
    everywhere = set().union(*brought(sources()).values())
    # tensorflow-datasets imports importlib_resources and does not declare it.
    everything = CORE | RUN | PARQUET | TEXT
    assert everything - everywhere == {"importlib_resources"}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("genjax_zoo.models.new", "def f():\n  import rich"),
        ("genjax_zoo.maths.new", "from PIL import Image"),
        ("genjax_zoo.run.new", "import pandas"),
        ("genjax_zoo", "import orbax.checkpoint"),
    ],
)
def test_what_is_not_declared_is_found(module, source):
    assert any(module in complaint for complaint in undeclared({**sources(), module: source}))


CORE_ALONE = f"""
import sys, jax, flax.linen, flax.struct, optax, diffrax
brought = set(sys.modules)
# What is None there is not to be found. Some of the extra's packages are jax's and flax's own too.
sys.modules.update({{name: None for name in {sorted(RUN)} if name not in sys.modules}})
"""


def run(code: str, status: int = 0) -> str:
    """What a process says in which the extra `run` is not installed."""
    done = subprocess.run(
        [sys.executable, "-c", CORE_ALONE + code],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == status, done.stdout
    return done.stdout


def test_a_family_comes_alone():
    """Neither the other families nor anything of the extra `run` is imported with it."""
    new = run(
        "from genjax_zoo.models import vae\nprint(*(set(sys.modules) - brought), sep=chr(10))"
    ).split()
    new = [name for name in new if name not in RUN]
    assert [n for n in new if n.startswith("genjax_zoo.models.")] == ["genjax_zoo.models.vae"]
    assert not {name.split(".")[0] for name in new} & RUN
    assert not [n for n in new if re.match(r"genjax_zoo\.(data|measure|run|explore|commands)", n)]


def test_the_list_is_made_without_a_device():
    """A family's model computes nothing before it is begun: `list` makes a hundred of them.

    Nor does a command load the statistics of probes, a second alone, before there is a probe.
    """
    code = """
import sys
import genjax_zoo.commands.list as command
from jax._src import xla_bridge
command.run(None)
assert not xla_bridge.backends_are_initialized()
import genjax_zoo.commands.train
assert "scipy.stats" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_family_is_made_by_the_core_alone():
    made = run(
        """
import genjax_zoo
for name, family in genjax_zoo.ZOO.items():
    assert isinstance(family.make(family.Config(), optax.adam(1e-3)), genjax_zoo.Model)
    assert getattr(genjax_zoo.models, name).VERB == family.verb
    print(name)
"""
    )
    assert made.split() == list(ZOO)


def test_a_command_says_which_extra_it_needs():
    code = "import runpy; sys.argv = ['genjax-zoo', 'train']; "
    said = run(code + "runpy.run_module('genjax_zoo.main', run_name='__main__')", status=2)
    assert said.count("\n") == 1
    assert said.startswith("genjax-zoo: ")
    assert "pip install 'genjax-zoo[run]'" in said


def test_the_package_says_that_it_is_typed():
    assert (pathlib.Path(genjax_zoo.__file__).parent / "py.typed").exists()
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert "py.typed" in setup["options.package_data"]["genjax_zoo"].split()
    assert setup["metadata"]["version"] == genjax_zoo.__version__
