"""Arrays laid over eight devices by names: they lie as the rules say, and a step is the step."""

import dataclasses
import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import traceback

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_zoo.contract import ConfigError
from genjax_zoo.nets import architecture, axes
from genjax_zoo.run import config
from genjax_zoo.run.devices import Devices, Rules, memory, sharding
from genjax_zoo.run.record.checkpoint import Checkpoints
from tests.conftest import ROOT

PLAIN = {
    **{"vocabulary": 13, "pad_vocabulary_to": 16, "context": 8, "layers": 2, "width": 16},
    **{"heads": 4, "key_heads": 1, "head_width": 2, "inner": 24},
}
"""Tied, with one key head and a vocabulary that is padded."""
EXPERTS = {
    **PLAIN,
    **{"experts": 4, "experts_per_token": 2, "capacity": 1.0, "key_heads": 2, "tied": False},
    **{"position": "rotary", "parallel": True, "norms": 1, "gated": True, "norm_bias": False},
}
NONE = {field.name: () for field in dataclasses.fields(Rules)}
MESHES = {"fsdp": (1, 8, 1), "tensor": (1, 1, 8), "all": (2, 2, 2)}


def run_of(fields, devices, **optimizer):
    return config.read(
        {
            "data": {"batch_size": 16},
            "model": {"name": "language_model", **fields},
            # An optimizer that divides by the gradient would make much of rounding.
            "optimizer": {"name": "sgd", "learning_rate": 1.0, "momentum": 0.9, **optimizer},
            "devices": {"min_split": 1, **devices},
        }
    )


def batch_of(size=16, length=8):
    """Documents of one and several symbols, padding, and places that do not count."""
    own = np.random.default_rng(0)
    document = np.sort(own.integers(0, 3, (size, length)), axis=1)[:, ::-1]
    mask = own.random((size, length)) < np.linspace(0.1, 1, size)[:, None]
    x = own.integers(0, 13, (size, length))
    return {
        "x": jnp.asarray(x, jnp.int32),
        "document": jnp.asarray(document.copy(), jnp.int32),
        "loss_mask": jnp.asarray(mask, jnp.float32),
    }


@functools.cache
def alone(fields, optimizer=()):
    """(state, the state after one step and what it says) without any layout."""
    model = config.make_model(run_of(dict(fields), {}))
    state = jax.jit(model.init)(jax.random.key(1), batch_of())
    return state, jax.jit(model.step)(jax.random.key(2), state, batch_of())


def laid(fields, devices, **optimizer):
    """(run, model, layout, the state's shapes with their shardings)."""
    run = run_of(fields, devices, **optimizer)
    model = config.make_model(run)
    layout = sharding.lay_out(run.devices, run.data.batch_size)
    shapes = jax.eval_shape(model.init, jax.random.key(1), batch_of())
    return run, model, layout, sharding.of_state(layout.rules, shapes, run.devices.min_split)


def a_step(fields, devices, **optimizer):
    """The step over the devices is the step on one: state, loss, and so the gradient."""
    state, shared = steps_of(json.dumps([fields, devices, optimizer]))
    assert not np.allclose(*(s.params["embedding"]["kernel"] for s in (state, shared[0])))
    close = functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-6)
    jax.tree.map(close, shared, alone(tuple(fields.items()))[1])
    return shared[0]


@functools.cache
def steps_of(told):
    """(the state before, the state after a step over the devices and what it says)."""
    fields, devices, optimizer = json.loads(told)
    state, _ = alone(tuple(fields.items()))
    _, model, layout, split = laid(fields, devices, **optimizer)
    with layout.named():
        step = jax.jit(model.step, out_shardings=(split, layout.everywhere))
        placed = jax.device_put(state, split), jax.device_put(batch_of(), layout.over_batch)
        return state, step(jax.random.key(2), *placed)


def mesh(name):
    return dict(zip(sharding.MESH_AXES, MESHES[name], strict=True))


# ------------------------------------------------------------- what runs on eight devices


def by_the_rules():
    """Every array of the state has the part of its axes that the default rules give it."""
    state = a_step(PLAIN, mesh("all"))
    wanted = {
        "embedding": {"kernel": (8, 8)},
        "positions": {"kernel": (8, 8)},
        "attention": {
            "query": {"kernel": (2, 8, 2, 2), "bias": (2, 2, 2)},
            "key": {"kernel": (2, 8, 1, 2), "bias": (2, 1, 2)},
            "value": {"kernel": (2, 8, 1, 2), "bias": (2, 1, 2)},
            "out": {"kernel": (2, 2, 2, 8), "bias": (2, 8)},
        },
        "mlp": {
            "up": {"kernel": (2, 8, 12), "bias": (2, 12)},
            "down": {"kernel": (2, 12, 8), "bias": (2, 8)},
        },
        "final_norm": {"scale": (8,), "bias": (8,)},
    }
    part = lambda tree: jax.tree.map(lambda leaf: leaf.addressable_shards[0].data.shape, tree)
    params, moments = state.params, state.optimizer[0].trace
    for tree in (params, moments):
        found = part({n: tree[n] for n in ("embedding", "positions", "final_norm")})
        assert found == {n: wanted[n] for n in found}, found
        found = part({n: tree["blocks"][n] for n in ("attention", "mlp")})
        assert found == {n: wanted[n] for n in found}, found
    assert memory.bytes_of(params["embedding"]["kernel"]) == 8 * 8 * 4


def by_other_rules():
    """What the default rules leave whole is split too."""
    rules = NONE | {"batch": ("data",), "length": ("fsdp",), "head_width": ("tensor",)}
    rules |= {"layers": ("fsdp",), "positions": ("data", "fsdp"), "inner": ("data", "tensor")}
    state = a_step(PLAIN, mesh("all") | {"rules": rules})
    part = lambda leaf: leaf.sharding.shard_shape(leaf.shape)
    assert part(state.params["positions"]["kernel"]) == (2, 16)
    assert part(state.params["blocks"]["mlp"]["up"]["kernel"]) == (1, 16, 6)
    assert part(state.params["blocks"]["attention"]["query"]["kernel"]) == (1, 16, 4, 1)
    assert part(state.params["embedding"]["kernel"]) == (16, 16)


def experts_over_tensor():
    state = a_step(EXPERTS, mesh("all") | {"rules": {"experts": ("tensor",), "hidden": ()}})
    own = state.params["blocks"]["experts"]["up"]["kernel"]
    assert own.sharding.shard_shape(own.shape) == (2, 2, 16, 24)


def one_rule(name, where="tensor", fields=PLAIN):
    """One name alone is split, over eight devices or two."""
    devices = mesh("tensor" if where == "tensor" else "fsdp") | {"rules": NONE | {name: (where,)}}
    if name in ("heads", "key_heads", "layers", "experts", "head_width"):
        devices |= {"data": 4, where: 2}
    return a_step(fields, devices)


def a_checkpoint_elsewhere():
    """Saved as one layout has it, read as another has it, bit for bit."""
    state = a_step(PLAIN, mesh("all"))
    _, model, _, other = laid(PLAIN, mesh("fsdp"))
    shapes = jax.eval_shape(model.init, jax.random.key(1), batch_of())
    put = lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where)
    with tempfile.TemporaryDirectory() as folder:
        saved = Checkpoints(pathlib.Path(folder), "language_model")
        saved.save(1, state, None)
        saved.wait()
        step, again = saved.restore_latest(jax.tree.map(put, shapes, other))
        saved.close()
    assert step == 1
    jax.tree.map(np.testing.assert_array_equal, again, state)
    kernel = again.params["embedding"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (16, 2)


CASES = {
    "by the rules": by_the_rules,
    "a checkpoint elsewhere": a_checkpoint_elsewhere,
    "experts over tensor": experts_over_tensor,
    "by other rules": by_other_rules,
}
ALONE = {name: functools.partial(one_rule, name) for name in NONE if name != "experts"} | {
    "experts": lambda: one_rule("experts", "tensor", EXPERTS),
    "experts over fsdp": lambda: one_rule("experts", "fsdp", EXPERTS),
    "batch over fsdp": lambda: one_rule("batch", "fsdp"),
    "in parts": lambda: a_step(PLAIN, mesh("all"), micro_batches=2),
}


OVER = "a case is over"


def on_eight_devices(cases):
    """Prints of each case what became of it."""
    for name, case in cases.items():
        try:
            case()
            told = ""
        except Exception:
            told = traceback.format_exc()
        print(json.dumps([name, told]), flush=True)
        print(OVER, file=sys.stderr, flush=True)


def told_of(cases):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", f"from tests.test_sharding import *; on_eight_devices({cases})"],
        cwd=ROOT, env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # By the default rules XLA goes from each array to the next without gathering any of them whole.
    by_default, *_ = done.stderr.partition(f"{OVER}\n")
    assert "rematerialization" not in by_default, by_default
    return dict(map(json.loads, done.stdout.splitlines()))


@pytest.fixture(scope="module")
def told():
    return told_of("CASES")


@pytest.mark.parametrize("case", CASES)
def test_on_eight_devices(told, case):
    assert not told[case], told[case]


@pytest.fixture(scope="module")
def told_of_each():
    return told_of("ALONE")


@pytest.mark.slow
@pytest.mark.parametrize("case", ALONE)
def test_each_rule_alone(told_of_each, case):
    assert not told_of_each[case], told_of_each[case]


# ---------------------------------------------------------------------------- names and rules


def rules_over(shape=(2, 2, 2), **rules):
    layout = jax.sharding.AbstractMesh(shape, sharding.MESH_AXES)
    return sharding.rules_of(Devices(rules=Rules(**rules)), layout)


def test_every_parameter_of_a_decoder_has_names_of_the_right_sizes():
    sizes = {"vocabulary": 16, "hidden": 16, "positions": 8, "layers": 2, "heads": 4}
    sizes |= {"key_heads": 1, "head_width": 2, "inner": 24, "experts": 4}
    seen = set()
    for fields in (PLAIN | {"gated": True, "tied": False}, EXPERTS | {"key_heads": 1}):
        tree = architecture.tensors(architecture.Decoder(**fields))
        shapes = jax.tree_util.tree_leaves_with_path(
            tree, is_leaf=lambda leaf: isinstance(leaf, architecture.Tensor)
        )
        for path, tensor in shapes:
            names = axes.of_path(path, len(tensor.shape))
            assert names and tuple(map(sizes.get, names)) == tensor.shape, (path, names)
            seen.add(names)
    assert set(axes.PARAMETERS.values()) == seen


def test_moments_and_averages_have_the_names_of_their_parameters():
    fields = {"name": "language_model", **PLAIN, "average": 0.9}
    model = config.make_model(config.read({"model": fields, "optimizer": {"name": "adam"}}))
    state = jax.eval_shape(model.init, jax.random.key(0), batch_of())
    found = {"params": 0, "optimizer": 0, "average": 0}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        found[path[0].name] += axes.of_path(path, leaf.ndim) is not None
    count = len(jax.tree.leaves(state.params))
    assert found == {"params": count, "optimizer": 2 * count, "average": count}
    key = jax.tree_util.DictKey
    assert axes.of_path([key("encoder"), key("kernel")], 2) is None
    assert axes.of_path([key("head"), key("kernel")], 4) is None
    assert axes.of_path([key("overhead"), key("kernel")], 2) is None


def test_an_axis_of_the_mesh_splits_an_array_once_and_only_where_it_divides():
    rules = rules_over()
    assert rules.parts((4, 8), ("batch", "hidden")) == (("data", "fsdp"), ())
    assert rules.parts((2, 8), ("batch", "hidden")) == ((), ("fsdp",))
    assert rules.parts((8, 1, 4), ("hidden", "key_heads", "head_width")) == (("fsdp",), (), ())
    assert rules.parts((8, 3), ("hidden", "heads")) == (("fsdp",), ())
    assert rules.parts((8, 5), ("vocabulary", None)) == (("tensor",), ())
    assert tuple(rules.sharding((4, 8, 6), ("batch", "length", "inner")).spec) == (
        ("data", "fsdp"), None, "tensor",
    )  # fmt: skip
    assert rules_over((1, 2, 1)).parts((4, 8), ("batch", "inner")) == (("fsdp",), ())


def test_constrain_does_nothing_outside_of_a_mesh_or_on_one_device():
    x = jnp.ones((2, 3))
    assert axes.constrain(x, ("batch", "hidden")) is x
    with sharding.lay_out(Devices()).named():
        assert axes.constrain(x, ("batch", "hidden")) is x


def test_what_is_traced_under_other_rules_is_another_program():
    names = []

    @jax.jit
    def double(x):
        names.append(axes._rules.value)
        return 2 * x

    for devices in (Devices(), Devices(rules=Rules(hidden=())), Devices()):
        with sharding.lay_out(devices).named():
            double(1.0)
    double(1.0)
    assert [rules and rules.wanted("hidden") for rules in names] == [(), (), None]


def test_what_is_left_whole_is_said_once():
    shapes = {
        "blocks": {
            "attention": {"key": {"kernel": jax.ShapeDtypeStruct((2, 8, 1, 4), jnp.float32)}}
        },
        "head": {"kernel": jax.ShapeDtypeStruct((8, 16), jnp.float32)},
    }
    rules, more = rules_over(), rules_over(vocabulary=("fsdp",))
    assert sharding.left_whole(rules, [shapes, shapes], 1) == [
        "not split as config.devices.rules says: key_heads over tensor, for 2 do not divide 1: "
        "0/blocks/attention/key/kernel and 1 more"
    ]
    assert sharding.left_whole(more, {"head": shapes["head"]}, 1) == [
        "not split as config.devices.rules says: vocabulary over fsdp, for fsdp splits another "
        "axis there: head/kernel"
    ]
    assert sharding.left_whole(rules, shapes, 1000) == []
    assert sharding.left_whole(rules_over((8, 1, 1)), shapes, 1) == []


def test_wrong_rules_say_so_in_one_sentence():
    for devices, said in (
        ({"rules": {"heds": ()}}, "unknown field of config.devices.rules: 'heds'. Did you mean"),
        ({"rules": {"heads": ("tenser",)}}, r"rules.heads\[0\]: 'tenser'. Did you mean 'tensor'"),
        ({"rules": {"heads": ("data", "data")}}, "heads names an axis of the mesh twice"),
        ({"tensor": 0}, "tensor should be at least 1"),
    ):
        with pytest.raises(ConfigError, match=said):
            run_of(PLAIN, devices)
    unnamed = {"encoder": {"kernel": jax.ShapeDtypeStruct((8, 8), jnp.float32)}}
    with pytest.raises(ConfigError, match=r"config.devices.tensor=2 divides the work of layers"):
        sharding.of_state(rules_over(), unnamed, 1)
    sharding.of_state(rules_over((2, 2, 1)), unnamed, 1)


def test_a_batch_divides_over_its_devices_and_its_parts():
    with pytest.raises(
        ConfigError, match=r"batch_size=10 does not divide over 1 devices x 4 micro"
    ):
        sharding.lay_out(Devices(), 10, 4)
    sharding.lay_out(Devices(), 12, 4)
