"""The papers of the house say what is so: their commands, their example, their numbers."""

import importlib.util
import inspect
import json
import pathlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_laws

from genjax_zoo.contract import ConfigError, Exactness
from genjax_zoo.models import VERBS, ZOO, Family
from genjax_zoo.run import config

ROOT = pathlib.Path(__file__).resolve().parents[1]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def test_ci_runs_the_readmes_own_command():
    commands = [line for block in blocks("README.md", "sh") for line in block.splitlines()]
    install, then = "python3 -m venv .venv && .venv/bin/pip install -e", ".venv/bin/"
    tests = [line for line in commands if "pytest" in line]
    assert tests == [f"{install} '.[test]' && {then}python -m pytest -q"]
    assert f"{install} '.[run]' && {then}genjax-zoo train --workdir=runs/quickstart" in commands
    assert tests[0] in (ROOT / ".ci" / "run").read_text().splitlines()


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", (ROOT / page).read_text()):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_every_config_a_page_names_is_there():
    for page in ("README.md", "third_party/README.md"):
        for path in re.findall(r"configs/\w+\.py", (ROOT / page).read_text()):
            assert (ROOT / path).exists(), path


def test_the_readme_names_every_family_and_verb():
    text = (ROOT / "README.md").read_text()
    for family in ZOO:
        assert f"`{family}`" in text, family
    assert set(VERBS) <= set(re.findall(r"`(\w+)", text))


def module_of(name: str, source: str, folder: pathlib.Path, monkeypatch):
    path = folder / f"{name}.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    # A dataclass looks its module up by name.
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """The example of CONTRIBUTING.md, as a member of the zoo and its config."""
    model, configs = blocks("CONTRIBUTING.md", "python")
    made = module_of("base_rate", model, tmp_path, monkeypatch)
    summary = made.__doc__.strip().splitlines()[0]
    family = Family("base_rate", made.VERB, summary, lambda: (made.Config, made.make))
    monkeypatch.setitem(ZOO, "base_rate", family)
    return made, module_of("base_rate_config", configs, tmp_path, monkeypatch)


LAWS = [
    law
    for name, law in vars(test_laws).items()
    if name.startswith("test_") and "case" in inspect.signature(law).parameters
]
"""Those of a variant, which the roster's own are held to."""


def test_the_example_keeps_the_laws(stranger, monkeypatch, tmp_path):
    _, configs = stranger
    variants = {name: configs.get_config(name) for name in configs.VARIANTS}
    monkeypatch.setattr(test_laws, "variants_of", lambda family: variants)
    name = "base_rate:digits"
    known = {"name": name, "case": test_laws.case_of(name), "tmp_path": tmp_path}
    kept = []
    for law in LAWS:
        try:
            law(**{asked: known[asked] for asked in inspect.signature(law).parameters})
            kept.append(law.__name__)
        except pytest.skip.Exception:
            pass
    assert len(kept) >= 11, kept


def test_the_example_finds_the_base_rates(stranger):
    """Its optimum is known: the mean of the data."""
    made, configs = stranger
    run = config.read(configs.get_config("digits"))
    model = config.make_model(run)
    x = jax.random.bernoulli(jax.random.key(0), jnp.linspace(0.1, 0.9, 16), (500, 16))
    batch = {"x": x.astype(jnp.float32)}
    state, step = model.init(jax.random.key(1), batch), jax.jit(model.step)
    for _ in range(run.steps):
        state, _ = step(jax.random.key(2), state, batch)
    assert model.log_prob.exactness is Exactness.EXACT
    found = jax.nn.sigmoid(state.params.bias)
    np.testing.assert_allclose(found, batch["x"].mean(0), atol=2e-3)
    with pytest.raises(ConfigError, match=r"initial should be in \(0, 1\), got 1.0."):
        made.Config(initial=1.0)


PUBLISHED = sorted((ROOT / "third_party" / "published").glob("*.json"))


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_a_published_number_says_what_it_is(path):
    needed = {"what", "value", "unit", "protocol", "source", "mark"}
    for entry in json.loads(path.read_text()):
        assert entry.keys() >= needed, entry
        assert isinstance(entry["value"], int | float), entry
        assert entry["mark"] in ("paper", "repo", "exact"), entry
        # A log-likelihood is none without its kind and its data.
        if entry["unit"].startswith("nats"):
            assert entry["kind"] in set(Exactness), entry
            assert entry["split"], entry
