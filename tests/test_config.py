"""Configs: what is misspelt, of another kind or out of range is named, with what would be right."""

import dataclasses
import json
import time

import jax
import numpy as np
import pytest

from genjax_zoo.commands.configs import CONFIGS, names_of
from genjax_zoo.contract import ConfigError, DataError, Model, ZooError
from genjax_zoo.data.sources import open_source
from genjax_zoo.models import ZOO
from genjax_zoo.run import config
from genjax_zoo.run.config import Run, assemble
from genjax_zoo.run.devices import Devices, memory
from genjax_zoo.run.devices.sharding import lay_out
from genjax_zoo.run.setup import example_batch, state_like
from genjax_zoo.typed import typed

TINY = {"model": {"name": "toy"}}


def test_assemble_fills_in_every_field_and_locks(toy):
    whole = assemble({"a": {**TINY, "data": {"batch_size": 7}}}, "a")
    assert whole.model.average == 0.9 and whole.data.batch_size == 7
    assert whole.data.source == "digits" and whole.optimizer.name == "adam"
    with pytest.raises(AttributeError):
        whole.stepz = 3
    assert config.read(whole).data.batch_size == 7


def test_a_config_survives_json(toy):
    whole = assemble({"a": TINY}, "a")
    assert config.read(json.loads(json.dumps(whole.to_dict()))) == config.read(whole)


@pytest.mark.parametrize(
    "fields, telling",
    [
        ({"stps": 3}, "unknown field of config: 'stps'. Did you mean 'steps'?"),
        ({"data": {"binarize": "none"}}, "Did you mean 'binarise'?"),
        ({"model": {"name": "toy", "avrage": 0.5}}, "config.model: 'avrage'.*'average'"),
        ({"model": {"name": "toi"}}, "unknown model 'toi'. Did you mean 'toy'?"),
        ({"model": {"average": 0.5}}, "config.model.name is missing; known models: .*toy"),
        ({"steps": "many"}, r"config.steps should be int, got 'many' \(str\)"),
        ({"steps": 1.5}, "config.steps should be int, got 1.5"),
        ({"steps": True}, "config.steps should be int, got True"),
        ({"data": 3}, "config.data should be Data, got 3"),
        ({"data": {"scale": "symetric"}}, "Did you mean 'symmetric'?"),
        ({"data": {"binarise": 3}}, "should be one of 'none', 'threshold', 'dynamic', got 3"),
        ({"optimizer": {"name": "adan"}}, "Did you mean 'adam'?"),
        ({"optimizer": {"learning_rate": 0.0}}, "learning_rate should be positive"),
        ({"steps": 0}, "config: steps should be at least 1, got 0"),
        ({"steps_per_call": 0}, "config: steps_per_call should be at least 1"),
        ({"seed": -1}, r"config: seed should be in \[0, 4294967296\)"),
        ({"seed": 2**32}, r"config: seed should be in \[0, 4294967296\)"),
        ({"devices": {"fsdp": 0}}, "devices: fsdp should be at least 1, got 0"),
    ],
)
def test_what_is_wrong_is_named(toy, fields, telling):
    with pytest.raises(ConfigError, match=telling):
        config.read({**TINY, **fields})


def test_an_unknown_variant_lists_the_known(toy):
    with pytest.raises(ConfigError, match=r"unknown variant 'digit'.*'digits'.*digits, mnist"):
        assemble({"digits": TINY, "mnist": TINY}, "digit")


def test_a_misspelt_field_of_a_variant_is_named_when_it_is_read(toy):
    # A table of variants is code; what it adds is not silently kept.
    with pytest.raises(ConfigError, match="Did you mean 'checkpoint_every'"):
        config.read(assemble({"a": {**TINY, "checkpoints_every": 3}}, "a"))


def test_the_fields_of_another_family_are_told_apart_from_a_misspelt_one():
    fields = assemble({"": {"model": {"name": "vae"}}}, "").to_dict()
    fields["model"]["name"] = "gan"
    with pytest.raises(ConfigError) as error:
        config.read(fields)
    assert str(error.value) == (
        "config.model.name='gan', but its other fields are those of a vae; choose that family's "
        "own: --config=configs/gan.py:VARIANT."
    )
    fields["model"]["wdths"] = (3,)
    with pytest.raises(ConfigError, match=r"unknown field of config\.model: "):
        config.read(fields)


def numbers(tree, where=()):
    """Every number of a config, and the first of its tuples: (path, the number, its field)."""
    for name, value in tree.items():
        one = value[0] if isinstance(value, tuple) and value else value
        one = one[0] if isinstance(one, tuple) and one else one
        if isinstance(value, dict):
            yield from numbers(value, (*where, name))
        elif isinstance(one, int | float) and not isinstance(one, bool):
            yield (*where, name), one, value


def nonsense(value, wrong):
    """The same with all its numbers replaced."""
    return tuple(nonsense(v, wrong) for v in value) if isinstance(value, tuple) else wrong


def put(tree, path, value):
    name, *rest = path
    return {**tree, name: put(tree[name], rest, value) if rest else value}


@pytest.mark.parametrize("name", ZOO)
def test_no_number_of_a_family_takes_nonsense(name):
    """Neither NaN nor what is infinite, nor a count that no machine has room or time for."""
    Config = ZOO[name].Config
    fields = dataclasses.asdict(Config())
    for path, one, value in numbers(fields):
        wrongs = [float("nan"), float("inf"), -float("inf"), 10**400, 1e39, -1e39, "8", True]
        for wrong in wrongs + ([10**12, -(10**12), 1.5] if isinstance(one, int) else []):
            with pytest.raises(ConfigError) as error:
                typed(Config, put(fields, path, nonsense(value, wrong)))
            assert path[-1] in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_no_count_of_a_family_hangs_or_exhausts(name, monkeypatch):
    """Each count at a million and at a thousand millions: refused, or of a state that is known.

    The state is known before any of it is made, by shapes alone, and in seconds.
    """
    monkeypatch.setattr(memory, "limit", lambda: 2**34)
    path = CONFIGS / f"{name}.py"
    fields = names_of(path)["get_config"]().to_dict()
    run = config.read(fields)
    source, layout = open_source(run.data, 0), lay_out(Devices())
    batch = example_batch(source, jax.random.key(0), run.data.batch_size)
    for where, one, value in numbers(fields["model"]):
        for many in (10**6, 10**9) if isinstance(one, int) else ():
            begun = time.monotonic()
            try:
                more = config.read(put(fields, ("model", *where), nonsense(value, many)))
                state_like(more, config.make_model(more), layout, batch)
            except ZooError:
                pass
            assert time.monotonic() - begun < 60, (where, many)


@pytest.mark.parametrize("name", ZOO)
def test_every_family_is_a_model_with_its_defaults(name):
    model = config.make_model(Run(model={"name": name}))
    assert isinstance(model, Model)
    # What is no batch is told what one is, before anything looks into it.
    for other in (np.zeros((4, 8, 8, 1), np.float32), {}):
        with pytest.raises(DataError, match="a batch should be"):
            jax.eval_shape(lambda key, x=other: model.init(key, x), jax.random.key(0))
