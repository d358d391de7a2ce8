"""The README's Python is Python: what it lists is the contract, and its example runs."""

import ast
import re

import jax
import jax.numpy as jnp
import pytest

import genjax_zoo
from genjax_zoo.contract import Model
from tests.conftest import ROOT

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_every_block_is_python(block):
    ast.parse(block)


def test_the_contract_is_listed_as_it_is():
    (listed,) = (block for block in BLOCKS if "class Model(NamedTuple)" in block)
    (made,) = (n for n in ast.walk(ast.parse(listed)) if isinstance(n, ast.ClassDef))
    fields = [node.target.id for node in made.body if isinstance(node, ast.AnnAssign)]
    assert tuple(fields) == Model._fields


def test_the_example_runs():
    (example,) = (block for block in BLOCKS if "vae.make" in block)
    names: dict = {}
    exec(compile(example, "README.md", "exec"), names)
    assert names["x"].shape == (64, *names["batch"]["x"].shape[1:])
    assert bool(jnp.isfinite(names["x"]).all())
    assert jax.tree.leaves(names["info"])


def test_everything_the_package_presents_is_there():
    for name in genjax_zoo.__all__:
        assert getattr(genjax_zoo, name) is not None, name
