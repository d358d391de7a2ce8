"""Weights of others, against what transformers made of them (tests/golden), and by laws of maps."""

import dataclasses
import json
import math
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy

from genjax_zoo import typed
from genjax_zoo.contract import ZooError
from genjax_zoo.learn.state import TrainState
from genjax_zoo.main import main
from genjax_zoo.models.language_model import Config, make
from genjax_zoo.nets.decoder import network
from genjax_zoo.run.weights import dialects, exported, folders, imported, maps
from genjax_zoo.run.weights.architectures import ARCHITECTURES
from tests.conftest import ROOT

GOLDEN = ROOT / "tests" / "golden"
KINDS = ("gpt2", "llama", "mistral", "falcon7b", "falcon40b")


def look_at(path, **door):
    return imported.look_at(path, {"name": "language_model", **door}, f"--from={path}")


def config_of(found):
    return typed.typed(Config, {k: v for k, v in found.fields["model"].items() if k != "name"})


@pytest.fixture(scope="module", params=KINDS)
def golden(request):
    """(what was found, our parameters, what transformers computes)."""
    found = look_at(GOLDEN / request.param)
    with np.load(GOLDEN / f"{request.param}.npz") as truth:
        return found, imported.params(found), dict(truth)


def stored(path):
    """All tensors of a folder, by name."""
    tensors = {}
    for file in path.glob("*.safetensors"):
        tensors |= safetensors.numpy.load_file(file)
    return tensors


# ---------------------------------------------------------------------------- the same numbers


def test_the_logits_are_those_of_transformers(golden):
    found, params, truth = golden
    logits = jax.jit(network(config_of(found)).logits)(params, truth["x"])
    np.testing.assert_allclose(logits, truth["logits"], atol=1e-4)


def test_what_is_written_greedily_is_the_same_symbol_by_symbol(golden):
    found, params, truth = golden
    model, state = make(config_of(found), optax.sgd(0.1)), TrainState(params)
    n, P, G = *truth["prompt"].shape, truth["greedy"].shape[1]
    logits, cache = model.autoregression.start(state, n, P + G)
    extend = jax.jit(model.autoregression.extend)
    written = []
    # The first symbol of the prompt is that of a beginning, which `start` has read.
    for t in range(1, P + G):
        x = truth["prompt"][:, t] if t < P else jnp.argmax(logits, axis=-1)
        written += [] if t < P else [np.asarray(x)]
        logits, cache = extend(state, cache, jnp.asarray(x)[:, None])
        logits = logits[:, 0]
    np.testing.assert_array_equal(np.stack(written, axis=1), truth["greedy"])


@pytest.mark.parametrize("kind", ["llama", "falcon40b"])
def test_neighbours_may_turn_together_instead_of_halves(kind):
    """The rows of queries and keys are put in another order on the way, and the model is one."""
    found = look_at(GOLDEN / kind, rotary_layout="interleaved")
    params, half = imported.params(found), imported.params(look_at(GOLDEN / kind))
    with np.load(GOLDEN / f"{kind}.npz") as truth:
        logits = jax.jit(network(config_of(found)).logits)(params, truth["x"])
        np.testing.assert_allclose(logits, truth["logits"], atol=1e-4)
    for name in ("query", "key", "value", "out"):
        own, other = (tree["blocks"]["attention"][name]["kernel"] for tree in (params, half))
        if name in ("query", "key"):
            # Feature i of the first half and of the second become 2 i and 2 i + 1.
            W = own.shape[-1]
            for i in range(W // 2):
                np.testing.assert_array_equal(own[..., 2 * i], other[..., i])
                np.testing.assert_array_equal(own[..., 2 * i + 1], other[..., W // 2 + i])
        else:
            np.testing.assert_array_equal(own, other)


# ------------------------------------------------------------------------------- in and out again


def test_what_came_in_goes_out_bit_for_bit(golden, tmp_path):
    found, params, _ = golden
    beside = found.tokenizer.files()
    exported.write(tmp_path / "out", found.fields["model"], params, beside)
    before, after = stored(found.folder.path), stored(tmp_path / "out")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        np.testing.assert_array_equal(tensor, after[name])
        assert tensor.dtype == after[name].dtype
    again = look_at(tmp_path / "out")
    assert again.fields["model"] == found.fields["model"] and not again.remarks
    assert again.tokenizer.sha256 == found.tokenizer.sha256
    header = (tmp_path / "out" / "model.safetensors").read_bytes()[8:80]
    assert b'"__metadata__":{"format":"pt"}' in header


def test_other_orders_and_a_padded_vocabulary_go_out_as_they_came(tmp_path):
    found = look_at(GOLDEN / "llama", rotary_layout="interleaved", pad_vocabulary_to=32)
    params = imported.params(found)
    assert params["embedding"]["kernel"].shape == (64, 16)
    assert (
        not params["embedding"]["kernel"][48:].any() and not params["head"]["kernel"][:, 48:].any()
    )
    exported.write(tmp_path / "out", found.fields["model"], params, {}, largest=10_000)
    files = sorted(p.name for p in (tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 1 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert all((tmp_path / "out" / name).stat().st_size < 12_000 for name in files)
    index = json.loads((tmp_path / "out" / folders.INDEX).read_text())
    assert set(index["weight_map"].values()) == set(files)
    before, after = stored(GOLDEN / "llama"), stored(tmp_path / "out")
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in before.values())
    assert before.keys() == after.keys()
    assert all(np.array_equal(tensor, after[name]) for name, tensor in before.items())


def test_rows_of_falcon_are_grouped_by_key_heads():
    """Written out as a loop: of each key head its queries, its key, its value."""
    params = imported.params(look_at(GOLDEN / "falcon40b"))["blocks"]["attention"]
    k, g, W = 2, 3, 4
    for layer in range(2):
        rows = stored(GOLDEN / "falcon40b")[
            f"transformer.h.{layer}.self_attention.query_key_value.weight"
        ]
        at = 0
        for key_head in range(k):
            for name, heads in (
                ("query", range(g * key_head, g * (key_head + 1))),
                ("key", [key_head]),
                ("value", [key_head]),
            ):
                for head in heads:
                    own = params[name]["kernel"][layer, :, head]
                    np.testing.assert_array_equal(own.T, rows[at : at + W])
                    at += W
        assert at == len(rows)


SIZES = {"N": 3, "V": 11, "D": 12, "P": 7, "F": 5, "h": 6, "k": 2, "g": 3, "W": 4, "c": 2, "r": 2}


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda one: one.kind)
@pytest.mark.parametrize("layout", ["half", "interleaved"])
def test_every_rule_writes_what_it_has_read(architecture, layout):
    rules = architecture.rules(layout)
    sizes = SIZES | ({"h": 6, "k": 6, "g": 1} if architecture.kind == "GPT-2" else {})
    rng = np.random.default_rng(0)
    tensors = {
        one.name: rng.normal(size=maps.shape(one.rule, sizes)).astype(np.float32)
        for one in maps.tensors(rules, sizes)
    }
    assert len(tensors) == len(maps.tensors(rules, sizes))
    like = {}
    for rule in rules:
        for leaf in rule.leaves:
            shape = maps._shape(leaf.axes, sizes | {"p": maps._parts(leaf, sizes)})
            stacked = [sizes["N"]] if "{}" in rule.name else []
            like[leaf.path] = np.zeros(stacked + shape, np.float32)
    ours = maps.read(rules, sizes, like, tensors.__getitem__)
    # Every number comes in once, and goes out where it was.
    flat = lambda arrays: np.sort(np.concatenate([a.ravel() for a in arrays.values()]))
    np.testing.assert_array_equal(flat(ours), flat(tensors))
    for one in maps.tensors(rules, sizes):
        back = maps.written(one.rule, one.layer, sizes, ours)
        np.testing.assert_array_equal(back, tensors[one.name])
    assert len(maps.applying(rules, like)) == len(rules)
    with pytest.raises(KeyError, match="blocks/experts/up/kernel"):
        maps.applying(rules, [*like, "blocks/experts/up/kernel"])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bits_are_the_same_numbers_in_thirty_two(folder, dtype):
    path = folder("gpt2")
    short = {n: np.asarray(t).astype(jnp.dtype(dtype)) for n, t in stored(path).items()}
    safetensors.numpy.save_file(short, path / folders.SINGLE)
    params = imported.params(look_at(path))
    wte = params["embedding"]["kernel"]
    assert wte.dtype == np.float32
    np.testing.assert_array_equal(wte, short["transformer.wte.weight"].astype(np.float32))
    model = look_at(path).fields["model"]
    exported.write(path.parent / "out", model, params, {}, dtype)
    after = stored(path.parent / "out")
    for name, tensor in short.items():
        assert after[name].dtype == tensor.dtype
        np.testing.assert_array_equal(after[name], tensor)
    assert look_at(path.parent / "out").folder.config["torch_dtype"] == dtype
    if dtype == "float16":
        params["embedding"]["kernel"][3, 4] = 1e5
        with pytest.raises(ZooError, match=r"wte.weight holds numbers that float16 does not reach"):
            exported.write(path.parent / "far", model, params, {}, dtype)
        assert not (path.parent / "far").exists()


# -------------------------------------------------------------------------------- the dialects


@pytest.fixture
def folder(tmp_path):
    """Copies a golden folder, with fields of its config.json set, or taken out by None."""

    def copied(kind, tensors=None, **fields):
        path = tmp_path / kind
        shutil.copytree(GOLDEN / kind, path)
        config = json.loads((path / "config.json").read_text()) | fields
        config = {name: value for name, value in config.items() if value is not ...}
        (path / "config.json").write_text(json.dumps(config))
        if tensors is not None:
            (path / "model.safetensors").unlink()
            safetensors.numpy.save_file(tensors, path / "model.safetensors")
        return path

    return copied


def older(config):
    """A config.json of transformers 5 as 4 would have written it."""
    rope = dict(config["rope_parameters"])
    theta = rope.pop("rope_theta")
    plain = rope == {"rope_type": "default"}
    rest = {k: v for k, v in config.items() if k not in ("rope_parameters", "dtype")}
    scaling = None if plain else rope
    return rest | {"rope_theta": theta, "rope_scaling": scaling, "torch_dtype": "float32"}


@pytest.mark.parametrize("kind", KINDS[1:])
def test_both_dialects_say_the_same(kind):
    config = json.loads((GOLDEN / kind / "config.json").read_text())
    assert dialects.read(older(config), "here") == dialects.read(config, "here")
    # Ours is read by either, and both are there.
    ours = look_at(GOLDEN / kind).fields["model"]
    _, written = dialects.write(ours, "float32")
    parts = {k: v for k, v in written.items() if k not in ("rope_scaling", "torch_dtype")}
    parts.pop("rope_theta")
    four = {k: v for k, v in written.items() if k != "rope_parameters"}
    read = [dialects.read(one, "here").fields for one in (written, parts, four, config)]
    resolved = [dialects.resolved({**ours, **fields}) for fields in read]
    assert resolved[0] == resolved[1] == resolved[2] == resolved[3]


_LLAMA = {
    **{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu"},
    **{
        "attention_bias": False,
        "initializer_range": 0.02,
        "rms_norm_eps": 1e-05,
        "use_cache": True,
    },
    **{"pretraining_tp": 1, "torch_dtype": "bfloat16", "transformers_version": "4.40.0"},
}
_LLAMA3 = {
    **{"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_type": "llama3"},
    "original_max_position_embeddings": 8192,
}
_FALCON = {
    **{"model_type": "falcon", "alibi": False, "bias": False, "parallel_attn": True},
    **{"apply_residual_connection_post_layernorm": False, "vocab_size": 65024},
    **{"layer_norm_epsilon": 1e-05, "bos_token_id": 11, "eos_token_id": 11},
}
PUBLISHED = {
    "gpt2": (
        {"model_type": "gpt2", "activation_function": "gelu_new", "vocab_size": 50257}
        | {"n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024, "n_ctx": 1024},
        124_439_808,
    ),
    "cerebras-gpt-111m": (
        {"model_type": "gpt2", "activation_function": "gelu", "vocab_size": 50257}
        | {"n_embd": 768, "n_head": 12, "n_layer": 10, "n_positions": 2048, "n_inner": 3072},
        111_050_496,
    ),
    "llama-3.1-8b": (
        {**_LLAMA, "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32}
        | {"num_hidden_layers": 32, "num_key_value_heads": 8, "vocab_size": 128256}
        | {"rope_theta": 500000.0, "rope_scaling": _LLAMA3, "max_position_embeddings": 131072}
        | {"bos_token_id": 128000, "eos_token_id": 128001, "tie_word_embeddings": False},
        8_030_261_248,
    ),
    "llama-3.2-1b": (
        {**_LLAMA, "hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 32}
        | {"num_hidden_layers": 16, "num_key_value_heads": 8, "vocab_size": 128256, "head_dim": 64}
        | {"rope_theta": 500000.0, "rope_scaling": {**_LLAMA3, "factor": 32.0}}
        | {"bos_token_id": 128000, "eos_token_id": 128001, "tie_word_embeddings": True},
        1_235_814_400,
    ),
    "openhermes-2.5": (
        {"model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336}
        | {"num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8}
        | {"sliding_window": 4096, "vocab_size": 32002, "max_position_embeddings": 32768}
        | {"rope_theta": 10000.0, "tie_word_embeddings": False, "eos_token_id": 32000},
        7_241_748_480,
    ),
    "falcon-7b": (
        {**_FALCON, "hidden_size": 4544, "num_attention_heads": 71, "num_hidden_layers": 32}
        | {"multi_query": True, "new_decoder_architecture": False},
        6_921_720_704,
    ),
    "falcon-40b": (
        {**_FALCON, "hidden_size": 8192, "num_attention_heads": 128, "num_hidden_layers": 60}
        | {"num_kv_heads": 8, "multi_query": True, "new_decoder_architecture": True},
        41_303_293_952,
    ),
}
"""config.json as these were published, and how many numbers their weights are."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_asks_for_as_many_numbers_as_there_are(name):
    theirs, count = PUBLISHED[name]
    read = dialects.read(theirs, "here")
    assert not read.remarks
    config = typed.typed(Config, read.fields)
    like = imported.by_path(jax.eval_shape(network(config).init, jax.random.key(0)))
    rules = maps.applying(read.architecture.rules("half"), like)
    sizes = dialects.sizes(dataclasses.asdict(config))
    tensors = maps.tensors(rules, sizes)
    assert sum(math.prod(maps.shape(one.rule, sizes)) for one in tensors) == count
    assert sum(leaf.size for leaf in like.values()) == count
    _, back = dialects.write(dataclasses.asdict(config) | {"name": "any"}, "bfloat16")
    for field, value in theirs.items():
        if field in back and field not in ("architectures", "torch_dtype", "rope_scaling"):
            assert back[field] == value, field


def test_what_a_field_is_where_it_is_not_written():
    config = json.loads((GOLDEN / "llama" / "config.json").read_text())
    names = ("head_dim", "num_key_value_heads", "rms_norm_eps", "rope_parameters", "hidden_act")
    fields = dialects.read({k: v for k, v in config.items() if k not in names}, "here").fields
    assert fields["head_width"] == fields["key_heads"] == 0
    assert (fields["epsilon"], fields["rotary_base"], fields["rotary_factor"]) == (1e-6, 1e4, 1)
    assert fields["activation"] == "silu"


def test_an_unknown_field_and_further_ends_are_told():
    config = json.loads((GOLDEN / "llama" / "config.json").read_text())
    read = dialects.read(config | {"colour": "red", "eos_token_id": [1, 2]}, "here")
    assert read.fields["end"] == 1
    assert "of the ends [1, 2]" in read.remarks[0] and "colour" in read.remarks[1]


def test_a_model_that_is_no_architecture_is_refused_by_its_fields():
    ours = look_at(GOLDEN / "llama").fields["model"]
    with pytest.raises(ZooError, match=r"of LLaMA, the nearest, it differs by position='alibi'\."):
        dialects.write({**ours, "position": "alibi"}, "float32")
    with pytest.raises(ZooError, match=r"differs by experts=4"):
        dialects.write({**ours, "experts": 4}, "float32")
    assert dialects.write({**ours, "dropout": 0.1, "remat": True}, "float32")[0].kind == "LLaMA"
    assert dialects.write({**ours, "window": 8}, "float32")[0].kind == "Mistral"


def test_old_files_of_gpt2_have_no_prefix_and_masks(folder):
    tensors = {n.removeprefix("transformer."): t for n, t in stored(GOLDEN / "gpt2").items()}
    for layer in range(2):
        tensors[f"h.{layer}.attn.bias"] = np.tril(np.ones((1, 1, 32, 32), np.float32))
        tensors[f"h.{layer}.attn.masked_bias"] = np.float32([-1e4])
    path = folder("gpt2", tensors)
    same = jax.tree.map(
        np.array_equal, imported.params(look_at(path)), imported.params(look_at(GOLDEN / "gpt2"))
    )
    assert all(jax.tree.leaves(same))


def test_a_tied_head_that_is_stored_must_be_the_embedding(folder):
    tensors = stored(GOLDEN / "gpt2")
    head = tensors["transformer.wte.weight"].copy()
    path = folder("gpt2", tensors | {"lm_head.weight": head})
    assert "head" not in imported.params(look_at(path))
    head[3, 4] += 1
    safetensors.numpy.save_file(tensors | {"lm_head.weight": head}, path / "model.safetensors")
    with pytest.raises(ZooError, match="tie_word_embeddings"):
        imported.params(look_at(path))


# ------------------------------------------------------------------------------------ bad input


def without(name):
    return {n: t for n, t in stored(GOLDEN / "llama").items() if n != name}


NORM = "model.layers.1.input_layernorm.weight"
BAD_FIELDS = {
    "model_type": ("bert", "unknown architecture 'bert'. .*Known: falcon, gpt2, llama, mistral"),
    "vocab_size": (..., "vocab_size is missing"),
    "hidden_size": ("wide", "describes no model of ours: .*width"),
    "num_attention_heads": (3, "heads"),
    "hidden_act": ("mish", "unknown hidden_act 'mish'"),
    "attention_bias": (True, "attention_bias and mlp_bias differ"),
    "rope_parameters": ({"rope_type": "yarn", "rope_theta": 1e4}, "rope_type is 'yarn', which we"),
    "rope_scaling": ({"rope_type": "default"}, "rope_type is 'default' and, in rope_parameters"),
    "rope_parameters.": ({"full_attention": {"rope_theta": 1e4}}, "from layer to layer"),
    "quantization_config": ({"bits": 4}, "quantized"),
    "num_hidden_layers": (3, r"the tensor model.layers.2.\S+ and 8 more .* is missing"),
    "intermediate_size": (25, r"mlp.down_proj.weight is \[16, 24\], .* needs \[16, 25\]"),
}


@pytest.mark.parametrize("field", BAD_FIELDS)
def test_a_config_that_does_not_fit_is_one_sentence(folder, field):
    value, telling = BAD_FIELDS[field]
    with pytest.raises(ZooError, match=telling) as caught:
        look_at(folder("llama", **{field.rstrip("."): value}))
    assert "\n" not in str(caught.value)


def test_llama3_needs_all_its_numbers(folder):
    with pytest.raises(ZooError, match="factor is missing in rope_parameters"):
        look_at(folder("llama", rope_parameters={"rope_type": "llama3", "rope_theta": 1e4}))


@pytest.mark.parametrize(
    ("tensors", "telling"),
    [
        (without(NORM), "layers.1.input_layernorm.weight of the model in config.json is missing"),
        (without("lm_head.weight"), "lm_head.weight .* is missing"),
        (
            stored(GOLDEN / "llama") | {"model.layers.2.mlp.up_proj.weight": np.zeros((2, 2))},
            "model.layers.2.mlp.up_proj.weight is none of the model",
        ),
        (stored(GOLDEN / "llama") | {NORM: np.ones(15, np.float32)}, r"\[15\], .* needs \[16\]"),
        (
            stored(GOLDEN / "llama") | {NORM: np.ones(16, np.int32)},
            "is of I32; expected one of F32",
        ),
        (stored(GOLDEN / "llama") | {NORM[6:]: np.ones(16, np.float32)}, "are one, and which"),
        (stored(GOLDEN / "llama") | {NORM: np.ones(16)}, "is of F64; expected one of F32"),
        (stored(GOLDEN / "llama") | {NORM: np.full(16, np.nan, np.float32)}, "holds NaN"),
    ],
)
def test_tensors_that_do_not_fit_are_one_sentence(folder, tensors, telling):
    with pytest.raises(ZooError, match=telling) as caught:
        imported.params(look_at(folder("llama", tensors)))
    assert "\n" not in str(caught.value)


def cut(path):
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def pickled(path):
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


def renamed(path):
    (path / "model-00002-of-00003.safetensors").rename(path / "elsewhere")


def index(change):
    def changed(path):
        file = path / folders.INDEX
        told = json.loads(file.read_text())
        change(told["weight_map"])
        file.write_text(json.dumps(told))

    return changed


EMBEDDING = "transformer.word_embeddings.weight"


def a_folder(path):
    (path / "model.safetensors").unlink()
    (path / "model.safetensors").mkdir()


def a_dead_link(path):
    (path / "model.safetensors").unlink()
    (path / "model.safetensors").symlink_to("../blobs/1a2b")


def in_two_files(path):
    """As files of two versions beside each other are: of one tensor two values."""
    where = json.loads((path / folders.INDEX).read_text())["weight_map"]
    other = path / max(set(where.values()) - {where[EMBEDDING]})
    tensors = safetensors.numpy.load_file(other)
    own = safetensors.numpy.load_file(path / where[EMBEDDING])
    safetensors.numpy.save_file(tensors | {EMBEDDING: 7 + own[EMBEDDING]}, other)


@pytest.mark.parametrize(
    ("kind", "damage", "telling"),
    [
        ("llama", cut, "is no whole safetensors file"),
        ("llama", lambda path: (path / "model.safetensors").write_bytes(b""), "no whole"),
        ("llama", pickled, "pytorch_model.bin is a pickle, .* never opened"),
        ("llama", lambda path: (path / "model.safetensors").unlink(), "has neither"),
        ("llama", a_folder, "cannot be read: it is no file"),
        ("llama", a_dead_link, "is a link to ../blobs/1a2b, which is not there"),
        ("llama", lambda path: (path / "config.json").unlink(), "has no config.json"),
        ("llama", lambda path: (path / "config.json").write_text("{"), "cannot be read"),
        ("llama", lambda path: (path / "config.json").write_text("[]"), "should be an object"),
        ("llama", shutil.rmtree, "there is no folder"),
        ("falcon40b", renamed, "names model-00002-of-00003.safetensors, and there is no such"),
        ("falcon40b", index(lambda m: m.update({EMBEDDING: "../a"})), "no file of this folder"),
        ("falcon40b", index(lambda m: m.update({"more": m[EMBEDDING]})), "says that more lies in"),
        ("falcon40b", in_two_files, f"holds {EMBEDDING}, which .* says lies in"),
        ("falcon40b", lambda path: (path / folders.INDEX).write_text("{}"), "has no weight_map"),
    ],
)
def test_a_damaged_folder_is_one_sentence_and_nothing_is_written(
    folder, tmp_path, capsys, kind, damage, telling
):
    path = folder(kind)
    damage(path)
    assert main(["genjax-zoo", "import", f"--from={path}", f"--workdir={tmp_path / 'w'}"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert re.search(telling, said), said
    assert sorted(p.name for p in tmp_path.iterdir()) == ([kind] if path.exists() else [])
