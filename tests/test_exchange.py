"""Weights from folder to folder by the commands: import, sample, evaluate, begin, adapt, export."""

import dataclasses
import hashlib
import json
import pathlib
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy

from genjax_zoo import typed
from genjax_zoo.learn.state import eval_params
from genjax_zoo.main import main
from genjax_zoo.models.language_model import Config
from genjax_zoo.nets.decoder import network
from genjax_zoo.run import begin, config, train, trained
from genjax_zoo.run.record.workdir import Workdir
from genjax_zoo.run.setup import set_up
from genjax_zoo.run.weights import arrived, exported
from genjax_zoo.run.weights import imported as looked_at
from tests.conftest import ROOT

LLAMA = ROOT / "tests" / "golden" / "llama"
TEXT = "the cat sat on the mat and the dog sat on the log. " * 60


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """The folder in which the golden LLaMA was imported, as `llama`."""
    folder = tmp_path_factory.mktemp("imported")
    assert main(["genjax-zoo", "import", f"--from={LLAMA}", f"--workdir={folder / 'llama'}"]) == 0
    (folder / "text.txt").write_text(TEXT)
    return folder


@pytest.fixture
def call(imported, monkeypatch, capsys):
    """Runs a command line there; returns (status, what was printed, the message)."""
    monkeypatch.chdir(imported)

    def run(*words):
        status = main(["genjax-zoo", *words])
        return status, *capsys.readouterr()

    return run


def tensors(path):
    return safetensors.numpy.load_file(pathlib.Path(path) / "model.safetensors")


def test_an_imported_run_knows_where_it_came_from(imported):
    (start,) = json.loads((imported / "llama" / "run.json").read_text())
    origin = start["begun"]["weights"]
    assert origin["workdir"] == f"hf:{LLAMA}" and origin["step"] == 0
    assert origin["files"] == {
        name: hashlib.sha256((LLAMA / name).read_bytes()).hexdigest()
        for name in ("config.json", "model.safetensors")
    }
    assert start["data"]["tokenizer"]["size"] == 48
    assert (imported / "llama/tokenizer/tokenizer.json").read_bytes() == (
        LLAMA / "tokenizer.json"
    ).read_bytes()
    assert "begun from" in (imported / "llama" / "report.html").read_text()


def test_it_is_sampled_measured_and_exported_bit_for_bit(call):
    status, out, err = call("sample", "--workdir=llama", "--n=2")
    assert status == 0, err
    assert "x (2, " in out
    words = ("--config.data.source=text:text.txt", "--config.data.length=32")
    status, out, err = call("evaluate", "--workdir=llama", *words, "--measures=nats_per_token")
    assert status == 0, err
    assert "nats_per_token = " in out and "after a begin token" in out
    status, out, err = call("evaluate", "--workdir=llama")
    assert status == 2 and "came without data" in err and err.count("\n") == 1
    status, out, err = call("export", "--workdir=llama", "--to=out")
    assert status == 0, err
    assert "LlamaForCausalLM" in out
    ours, theirs = tensors("out"), tensors(LLAMA)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    assert (
        pathlib.Path("out/tokenizer.json").read_bytes() == (LLAMA / "tokenizer.json").read_bytes()
    )
    # What is there already is not written over.
    status, out, err = call("export", "--workdir=llama", "--to=out")
    assert status == 2 and "--to=out holds something already" in err
    status, out, err = call("import", f"--from={LLAMA}", "--workdir=llama")
    assert status == 2 and "holds something already" in err


def test_a_folder_may_be_named_as_begin_names_it(call):
    status, out, _ = call("import", f"--from=hf:{LLAMA}", "--workdir=named")
    assert status == 0 and "LLaMA" in out
    status, _, err = call("import", "--from=meta/Llama", "--workdir=new")
    assert status == 2 and "there is no folder meta/Llama" in err and "nothing is downloaded" in err


def test_flags_are_their_own(call):
    status, _, err = call("import", "--workdir=new")
    assert status == 2 and "--from is missing" in err
    status, _, err = call("export", "--workdir=llama")
    assert status == 2 and "--to is missing" in err
    status, _, err = call("import", f"--from={LLAMA}", "--workdir=new", "--config.steps=3")
    assert status == 2 and "import reads configs as they are" in err
    status, _, err = call("export", "--workdir=llama", "--to=x", "--dtype=float8")
    assert status == 2 and "unknown --dtype 'float8'" in err
    status, _, err = call("export", "--workdir=llama", "--to=x", "--form=y")
    assert status == 2 and "unknown flag of export: '--form'" in err
    assert not pathlib.Path("new").exists() and not pathlib.Path("x").exists()


class Killed(BaseException):
    """What nobody catches."""


@pytest.mark.parametrize("at", ["describe", "keep", "save"])
def test_what_is_stopped_while_importing_leaves_nothing(tmp_path, monkeypatch, at):
    def killed(*args, **kwargs):
        raise Killed

    where = {
        "describe": (arrived.trained, "describe"),
        "keep": (arrived.tokenizer, "keep"),
        "save": (trained.Checkpoints, "save"),
    }[at]
    monkeypatch.setattr(*where, killed)
    with pytest.raises(Killed):
        main(["genjax-zoo", "import", f"--from={LLAMA}", f"--workdir={tmp_path / 'llama'}"])
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, sys
from genjax_zoo.main import main
from genjax_zoo.run.weights import arrived, exported
from genjax_zoo.run.weights import imported as looked_at
arrived.trained.describe = lambda *args: os.kill(os.getpid(), 9)
main(["genjax-zoo", "import", *sys.argv[1:]])
"""


@pytest.mark.slow
def test_one_that_is_killed_leaves_nothing_that_is_read(tmp_path):
    """SIGKILL lets nobody tidy up: what is left is hidden, and a second import does not mind."""
    words = [f"--from={LLAMA}", f"--workdir={tmp_path / 'llama'}"]
    done = subprocess.run([sys.executable, "-c", KILLED, *words], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [path.name[:7] for path in tmp_path.iterdir()] == [".llama."]
    assert main(["genjax-zoo", "import", *words]) == 0
    assert main(["genjax-zoo", "export", words[1], f"--to={tmp_path / 'out'}"]) == 0


GOLDEN = ("gpt2", "llama", "mistral", "falcon7b", "falcon40b")


@pytest.mark.slow
@pytest.mark.parametrize("kind", GOLDEN)
def test_transformers_reads_what_we_write_as_what_it_wrote(tmp_path, kind):
    """Bit for bit, with the same numbers after it: by the extra `oracle`, or not at all."""
    torch = pytest.importorskip("torch", reason="needs pip install 'genjax-zoo[oracle]'")
    told = "needs pip install 'genjax-zoo[oracle]'"
    transformers = pytest.importorskip("transformers", reason=told)
    found = looked_at.look_at(LLAMA.parent / kind, {"name": "language_model"}, "--from")
    model = {**found.fields["model"], "dropout": 0.1}
    exported.write(tmp_path / "out", model, looked_at.params(found), found.tokenizer.files())
    load = transformers.AutoModelForCausalLM.from_pretrained
    ours, told = load(tmp_path / "out", output_loading_info=True)
    assert not any(told.values())
    theirs = load(LLAMA.parent / kind)
    own, other = ours.state_dict(), theirs.state_dict()
    assert own.keys() == other.keys()
    assert all(torch.equal(own[name], other[name]) for name in own)
    with np.load(LLAMA.parent / f"{kind}.npz") as truth, torch.no_grad():
        logits = ours(torch.tensor(truth["x"]).long()).logits.numpy()
        np.testing.assert_allclose(logits, truth["logits"], atol=1e-4)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "out" / "tokenizer.json")
    )
    text = "the dog sat"
    assert tokenizer.encode(text) == found.tokenizer.encode(text).tolist()


_SMALL = {"vocab_size": 20, "bos_token_id": 0, "eos_token_id": 1}
_LLAMA = {
    **{**_SMALL, "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "max_position_embeddings": 32},
}
_GPT2 = {**_SMALL, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 32}
_FALCON = {**_SMALL, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
VARIANTS = {
    "gpt2, a head apart, exact GELU": (
        "GPT2Config",
        {**_GPT2, "tie_word_embeddings": False, "activation_function": "gelu"},
    ),
    "gpt2, relu": ("GPT2Config", {**_GPT2, "activation_function": "relu"}),
    "llama, biases, tied, one key head": (
        "LlamaConfig",
        {**_LLAMA, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}
        | {"num_key_value_heads": 1, "hidden_act": "gelu"},
    ),
    "llama, all key heads, GeGLU": ("LlamaConfig", {**_LLAMA, "hidden_act": "gelu_pytorch_tanh"}),
    "mistral, no window": (
        "MistralConfig",
        {**_LLAMA, "sliding_window": None, "num_key_value_heads": 2},
    ),
    "falcon of 11B": (
        "FalconConfig",
        {**_FALCON, "new_decoder_architecture": True, "num_kv_heads": 2}
        | {"num_ln_in_parallel_attn": 1, "tie_word_embeddings": False},
    ),
    "falcon, biases": ("FalconConfig", {**_FALCON, "bias": True}),
    "falcon, all key heads": ("FalconConfig", {**_FALCON, "multi_query": False}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_whatever_transformers_makes_of_these_kinds_is_the_same_here(tmp_path, name):
    torch = pytest.importorskip("torch", reason="needs pip install 'genjax-zoo[oracle]'")
    told = "needs pip install 'genjax-zoo[oracle]'"
    transformers = pytest.importorskip("transformers", reason=told)
    kind, fields = VARIANTS[name]
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**fields))
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_((weight.ndim == 1) + 0.3 * torch.randn(weight.shape))
    model.eval().save_pretrained(tmp_path / "in")
    found = looked_at.look_at(tmp_path / "in", {"name": "language_model"}, "--from")
    params = looked_at.params(found)
    x = np.random.default_rng(0).integers(0, 20, (2, 12))
    own = {name: value for name, value in found.fields["model"].items() if name != "name"}
    ours = network(typed.typed(Config, own)).logits(params, x)
    with torch.no_grad():
        theirs = model(torch.tensor(x)).logits.numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    exported.write(tmp_path / "out", found.fields["model"], params, {})
    before, after = tensors(tmp_path / "in"), tensors(tmp_path / "out")
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)


# ------------------------------------------------------------------------------- to begin from


def run_of(imported, **model):
    """The config of a run that goes on from the imported one, on a text."""
    fields = json.loads((imported / "llama" / "config.json").read_text())
    fields["model"] |= {"lora_rank": 0, **model}
    fields["data"] |= {"source": f"text:{imported / 'text.txt'}", "length": 16, "batch_size": 4}
    fields["optimizer"] |= {"name": "adamw", "learning_rate": 0.01, "weight_decay": 0.1}
    return config.read(fields)


def begun(run, imported, word=f"weights=hf:{LLAMA}"):
    found = begin.read([word], run, Workdir(imported / "new"))
    setup = set_up(run, begun=found)
    return setup, setup.init()


def same(one, other):
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, one, other)))


@pytest.mark.parametrize("word", ["weights=hf:{hf}", "weights={run}", "params=hf:{hf}"])
def test_a_run_begins_from_the_weights(imported, word):
    word = word.format(hf=LLAMA, run=imported / "llama")
    _, state = begun(run_of(imported), imported, word)
    _, other, _ = trained.load(imported / "llama")
    assert same(eval_params(state), eval_params(other))


def test_adapters_begin_with_nothing_and_are_all_that_is_learnt(imported, tmp_path):
    run = run_of(imported, lora_rank=2, lora_alpha=4.0)
    setup, state = begun(run, imported)
    whole = begun(run_of(imported), imported)[1].params
    assert same(eval_params(state), whole)
    assert set(state.params["blocks"]["attention"]) == {"query", "value"}
    # Neither gradients nor moments are kept of what does not move.
    learnt = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    moments = sum(leaf.size for leaf in jax.tree.leaves(state.optimizer) if leaf.ndim)
    assert moments == 2 * learnt
    step = jax.jit(setup.model.step)
    for i in range(2):
        state, info = step(jax.random.key(i), state, setup.example)
    assert np.isfinite(info["loss"])
    assert same(state.memory.base.params, whole)
    merged = eval_params(state)
    for name, changed in {"query": True, "value": True, "key": False, "out": False}.items():
        kernels = (tree["blocks"]["attention"][name]["kernel"] for tree in (merged, whole))
        assert np.array_equal(*kernels) is not changed
    rest = lambda tree: {**tree, "blocks": {**tree["blocks"], "attention": ()}}
    assert same(rest(merged), rest(whole))
    # They leave as a part of the weights.
    fields = config.assemble({"": {"model": run.model}}, "").model
    exported.write(tmp_path / "out", fields, jax.tree.map(np.asarray, merged), {})
    assert changed_in(tmp_path / "out") == ADAPTED


ADAPTED = {f"model.layers.{i}.self_attn.{name}_proj.weight" for i in (0, 1) for name in ("q", "v")}


def changed_in(folder):
    """The tensors of a folder that are other than those of the golden LLaMA."""
    ours, theirs = tensors(folder), tensors(LLAMA)
    assert ours.keys() == theirs.keys()
    return {name for name in theirs if not np.array_equal(ours[name], theirs[name])}


def test_other_fields_than_those_it_was_learnt_with_are_told(imported):
    origin = begin.read(
        [f"weights=hf:{LLAMA}"], run_of(imported), Workdir(imported / "new")
    ).origins["weights"]
    then = dict(run_of(imported).model)
    assert train._otherwise(origin, then) == ""
    told = train._otherwise(origin, then | {"activation": "gelu", "rotary_base": 1.0})
    assert told == ", learnt with activation='silu', rotary_base=100.0"
    assert train._otherwise(origin, {"name": "vae", "width": 3}) == ""


@pytest.mark.parametrize(
    ("word", "model", "telling"),
    [
        ("weights=hf:nowhere", {}, "--begin=weights=hf:.*nowhere: there is no folder"),
        ("weights=hf:", {}, "expected NAME=WORKDIR .* or NAME=hf:DIR"),
        (f"weights=hf:{LLAMA}@7", {}, "has no steps; leave @7 out"),
        (f"weights=hf:{LLAMA}", {"inner": 25}, "is .* there, and this config needs"),
        (f"weights=hf:{LLAMA}", {"lora_rank": 2, "lora_where": "conv"}, "none of the matrices"),
        (f"weights=hf:{LLAMA}", {"lora_rank": 2, "lora_where": "("}, "is no regular expression"),
        (None, {"lora_alpha": 8.0}, "lora_alpha=8.0 is of adapters, and without a rank"),
        (None, {"lora_rank": 2}, "adapters are of weights that are there already"),
    ],
)
def test_what_does_not_fit_is_one_sentence(imported, word, model, telling):
    with pytest.raises(begin.ZooError, match=telling) as caught:
        run = run_of(imported, **model)
        found = begin.read([word] if word else [], run, Workdir(imported / "new"))
        set_up(run, begun=found)
    assert "\n" not in str(caught.value)


def test_another_tokenizer_is_refused_by_where_the_right_one_lies(imported):
    run = run_of(imported)
    run = dataclasses.replace(run, data=dataclasses.replace(run.data, tokenizer="characters"))
    for word in (f"weights=hf:{LLAMA}", f"weights={imported / 'llama'}"):
        found = begin.read([word], run, Workdir(imported / "new"))
        with pytest.raises(begin.ZooError, match="learnt by another tokenizer") as caught:
            set_up(run, begun=found)
        told = str(caught.value).rpartition("--config.data.tokenizer=")[2].removesuffix(".")
        assert (pathlib.Path(told) / "tokenizer.json").is_file()


@pytest.mark.slow
def test_adapters_are_trained_and_merged_by_the_commands(call, imported):
    fields = json.loads((imported / "llama" / "config.json").read_text())
    fields["model"] |= {"lora_rank": 2, "activation": "gelu"}
    fields["data"] |= {"source": f"text:{imported / 'text.txt'}", "length": 16, "batch_size": 4}
    fields |= {"steps": 2, "steps_per_call": 2, "sample_every": 0, "final_examples": 2}
    pathlib.Path("tune.json").write_text(json.dumps(fields))
    words = ("--config=tune.json", "--workdir=tuned", f"--begin=weights=hf:{LLAMA}")
    status, _, err = call("train", *words)
    assert status == 0, err
    assert f"weights begins from hf:{LLAMA}, learnt with activation='silu'" in err
    assert call("export", "--workdir=tuned", "--to=merged")[0] == 0
    assert changed_in("merged") == ADAPTED
    assert json.loads(pathlib.Path("merged/config.json").read_text())["hidden_act"] == "gelu"
