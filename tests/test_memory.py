"""What a state takes, by its shapes alone, and what is said where that is too much."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_zoo.commands.configs import load
from genjax_zoo.contract import ConfigError
from genjax_zoo.learn import optimizers
from genjax_zoo.learn.state import Staged, TrainState
from genjax_zoo.models import language_model
from genjax_zoo.run import config
from genjax_zoo.run.devices import Devices, memory, sharding

SHAPE = {
    **{"vocabulary": 512, "context": 64, "layers": 8, "width": 128, "heads": 8, "inner": 512},
    **{"bias": False, "norm": "rms", "norm_bias": False, "position": "rotary", "average": 0.9},
}


def laid(fields, mesh, optimizer="adam"):
    """The shapes of a language model's state, over a mesh that nobody has."""
    tx = optimizers.make(optimizers.Config(name=optimizer), 10)
    model = language_model.make(language_model.Config(**fields), tx)
    batch = {"x": jax.ShapeDtypeStruct((8, 32), jnp.int32)}
    shapes = jax.eval_shape(model.init, jax.random.key(0), batch)
    layout = jax.sharding.AbstractMesh(mesh, sharding.MESH_AXES)
    split = sharding.of_state(sharding.rules_of(Devices(), layout), shapes, 1)
    put = lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where)
    return jax.tree.map(put, shapes, split)


def bytes_by_kind(like, learning=True):
    found = {}
    for kind, _, leaf in memory._held(like, learning):
        found[kind] = found.get(kind, 0) + memory.bytes_of(leaf)
    return found


@pytest.mark.parametrize("mesh", [(1, 1, 1), (4, 1, 1), (1, 8, 1), (2, 2, 4)])
def test_adam_takes_sixteen_bytes_a_parameter_divided_as_the_rules_divide(mesh):
    like = laid(SHAPE, mesh)
    N = sum(leaf.size for leaf in jax.tree.leaves(like.params))
    found, degree = bytes_by_kind(like), mesh[1] * mesh[2]
    # Norms alone are not over tensor.
    norms = 4 * (2 * 8 * 128 + 128) / mesh[1]
    one = (4 * N - norms * mesh[1]) / degree + norms
    assert found["parameters"] == found["gradient"] == one
    assert found["moving average"] == one + 4 and found["optimizer"] == 2 * one + 8


def test_a_gradient_is_of_learning_alone_and_of_one_stage():
    like = laid(SHAPE, (1, 1, 1))
    assert "gradient" not in bytes_by_kind(like, learning=False)
    closed = TrainState({"mean": jax.ShapeDtypeStruct((5,), jnp.float32)}, (), ())
    assert bytes_by_kind(closed) == {"parameters": 20}
    staged = Staged(jnp.zeros(()), (closed, like, like), jnp.zeros(3, bool), (1, 2, 3))
    found = bytes_by_kind(staged)
    one = bytes_by_kind(like)
    assert found["parameters"] == 2 * one["parameters"] + 20
    assert found["gradient"] == one["gradient"]


def test_the_largest_arrays_are_told_first_with_all_that_is_kept_of_them(monkeypatch):
    monkeypatch.setattr(memory, "limit", lambda: 10**6)
    like = laid(SHAPE, (1, 1, 1))
    with pytest.raises(ConfigError) as caught:
        memory.check_state(like, learning=True)
    first, *rows = str(caught.value).splitlines()
    N = sum(leaf.size for leaf in jax.tree.leaves(like.params))
    assert first.startswith(
        f"what the model learns would take {memory._words(20 * N + 12)}, and this"
    )
    assert f"parameters {memory._words(4 * N)}, gradient {memory._words(4 * N)}" in first
    # 8 x 128 x 512 numbers of 4 bytes: parameter, gradient, two moments, average.
    assert [" ".join(row.split()) for row in rows[:2]] == [
        "10.5 MB blocks/mlp/down/kernel [8, 512, 128]",
        "10.5 MB blocks/mlp/up/kernel [8, 128, 512]",
    ]
    assert len(rows) == memory.ROWS


@pytest.mark.parametrize("variant", ["gpt3_175b", "palm_540b"])
def test_the_largest_shapes_are_refused_at_once(variant, monkeypatch):
    monkeypatch.setattr(memory, "limit", lambda: 80 * 10**9)
    began = time.monotonic()
    run = config.read(load(f"configs/language_model.py:{variant}"))
    fields = {name: value for name, value in run.model.items() if name != "name"}
    with pytest.raises(ConfigError, match=r"it is parameters [.\d]+ [TG]B, gradient"):
        memory.check_state(laid(fields, (1, 1, 1)), learning=True)
    assert time.monotonic() - began < 5
    # A pod of 1,024 of them holds it.
    memory.check_state(laid(fields, (1, 128, 8)), learning=True)


def test_cpus_share_the_memory_of_the_machine(monkeypatch):
    whole = memory.limit()
    monkeypatch.setattr(jax, "local_device_count", lambda: 4)
    assert memory.limit() == whole // 4
    with pytest.raises(ConfigError, match="and each CPU of 4 has"):
        memory.check("it", 2 * whole, "no.")
    assert np.isfinite(whole)
