"""The command line: bad input is one message, status 2, and blocks no corrected command."""

import errno
import functools
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from absl import flags
from jax.sharding import AbstractMesh
from PIL import Image

import genjax_zoo
from genjax_zoo.commands.configs import load, override, told_apart, unjson
from genjax_zoo.commands.flags import COMMANDS, FLAGS, OVERRIDING, integer, parse, real, usage
from genjax_zoo.commands.sample import given
from genjax_zoo.contract import ConfigError, ZooError
from genjax_zoo.main import main
from genjax_zoo.measure import extractors
from genjax_zoo.measure.modes import OF_MODES
from genjax_zoo.measure.results import Result
from genjax_zoo.measure.scores import compare
from genjax_zoo.models import ZOO, Family
from genjax_zoo.run import train as training
from genjax_zoo.run.devices import memory
from genjax_zoo.run.record.workdir import Workdir
from tests.conftest import ROOT, ToyConfig, make_toy
from tests.test_workdir import mounted

TOY = Family("toy", "descend", "A Gaussian.", lambda: (ToyConfig, make_toy))
CONFIG_FILE = """
from genjax_zoo.run.config import assemble

VARIANTS = {
    "digits": {
        "model": {"name": "toy"},
        "steps": 6,
        "data": {"batch_size": 20},
        "optimizer": {"learning_rate": 0.02},
        "log_every": 3,
        "checkpoint_every": 3,
        "samples": 4,
    }
}


def get_config(variant="digits"):
    return assemble(VARIANTS, variant)
"""


@pytest.fixture
def call(toy, tmp_path, monkeypatch, capsys):
    """Runs a command line in an empty folder; returns (status, stdout, the one message)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.py").write_text(CONFIG_FILE)

    def run(*words):
        status = main(["genjax-zoo", *words])
        out, err = capsys.readouterr()
        if status:
            assert status == 2 and out == ""
            # A run that has begun says first what it learns from.
            message = re.sub(r"\A(data: .*\n)*", "", err)
            assert err.count("genjax-zoo: ") == 1 and message.startswith("genjax-zoo: ")
            assert "Traceback" not in err
        return status, out, err

    return run


def train(call, *words, workdir="run"):
    return call("train", "--config=toy.py:digits", f"--workdir={workdir}", *words)


@pytest.fixture(scope="module")
def trained_folder(tmp_path_factory):
    """One trained workdir, which the tests copy."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "toy.py").write_text(CONFIG_FILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ZOO, "toy", TOY)
        words = [f"--config={folder}/toy.py:digits", f"--workdir={folder}/run"]
        assert main(["genjax-zoo", "train", *words]) == 0
    return folder / "run"


@pytest.fixture
def trained(call, trained_folder, tmp_path):
    shutil.copytree(trained_folder, tmp_path / "run")
    return call


# ------------------------------------------------------------------------------------ what it does


def test_train_sample_evaluate(trained, tmp_path):
    run = tmp_path / "run"
    assert json.loads((run / "config.json").read_text())["steps"] == 6
    assert (run / "report.html").exists()

    status, out, _ = trained("sample", "--workdir=run", "--n=5", "--sample_seed=3")
    assert status == 0 and "(5, 8, 8, 1)" in out
    stem = run / "samples" / "sample_step_00000006_seed_3_n_5"
    assert Image.open(f"{stem}.png").size[0] > 8
    first = np.load(f"{stem}.npz")["x"]
    trained("sample", "--workdir=run", "--n=5", "--sample_seed=3")
    assert np.array_equal(np.load(f"{stem}.npz")["x"], first)
    trained("sample", "--workdir=run", "--n=5", "--sample_seed=3", "--checkpoint=3")
    other = run / "samples" / "sample_step_00000003_seed_3_n_5.npz"
    assert not np.array_equal(np.load(other)["x"], first)

    words = ("--examples=10", "--measures=log_prob")
    status, out, _ = trained("evaluate", "--workdir=run", *words)
    assert status == 0 and "n=10" in out and "log_prob" in out
    number, older = json.loads((run / "eval" / "metrics.json").read_text())
    assert (number["n"], older["n"]) == (10, 359)
    assert {"value", "kind", "unit", "split", "n", "preprocessing"} <= set(number)


def test_a_library_loads_what_a_run_has_learnt_in_a_line(trained, tmp_path, caplog):
    model, state, run = genjax_zoo.load("run")
    assert caplog.text == ""
    assert (run.steps, run.model["name"]) == (6, "toy")
    assert model.sample(jax.random.key(0), state, 3)["x"].shape == (3, 8, 8, 1)
    earlier = genjax_zoo.load(tmp_path / "run", checkpoint=3)[1]
    assert not np.array_equal(earlier.params["mean"], state.params["mean"])
    with pytest.raises(ZooError, match=r"checkpoint='4' is not in run; .* one of \[3, 6\]"):
        genjax_zoo.load("run", checkpoint=4)
    with pytest.raises(ZooError, match="train a model in it first"):
        genjax_zoo.load("nowhere")


VAE = (
    f"--config={ROOT}/configs/vae.py:digits_grey",
    "--config.steps=4",
    "--config.data.batch_size=20",
    "--config.final_examples=20",
    "--config.samples=4",
    "--config.model.widths=(8,)",
    "--config.model.importance_samples=2",
)
"""A small VAE of grey digits that is given their labels."""


def test_samples_honour_what_is_given(call, tmp_path):
    """A VAE given labels can be asked for a digit; what it does not know, it refuses."""
    assert call("train", *VAE, "--workdir=run")[0] == 0
    ask = functools.partial(call, "sample", "--workdir=run", "--n=3")
    assert ask("--given=label=7", "--config.model.sample_means=True")[0] == 0
    (path,) = (tmp_path / "run" / "samples").glob("*label_7_sample_means_True.npz")
    assert np.load(path)["label"].tolist() == [7, 7, 7]
    path.unlink()
    np.save(tmp_path / "labels.npy", np.array([1, 2, 3]))
    for value in ("labels.npy", "[1, 2, 3]"):
        assert ask(f"--given=label={value}")[0] == 0
    for path in (tmp_path / "run" / "samples").glob("*label_*_*.npz"):
        assert np.load(path)["label"].tolist() == [1, 2, 3]
    for asked, told in {
        "lable=7": "unknown given 'lable'. Did you mean 'label'",
        "label=?": "expected NAME=VALUE with a number, a list or a .npy file",
        "label=none.npy": "No such file",
        "label=11": "label should be integers 0 .. 9, one for all or one for each of 3 examples",
        "text=a seven": "--text expects a model that learnt from captions",
    }.items():
        status, _, err = ask(f"--given={asked}")
        assert status == 2
        assert told in err


def test_a_name_of_a_label_that_has_none_is_told_so():
    """And nothing of what Python's parser makes of it."""
    with pytest.raises(ConfigError) as error:
        given(["label=dög"], {})
    told = "got 'dög'; the labels of this run have no names."
    assert str(error.value).endswith(told) and "malformed" not in str(error.value)


def test_what_is_given_twice_or_is_no_file_of_an_array_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="--given=label=2: label is given twice"):
        given(["label=1", "label=2"], {})
    for content in (b"", b"PK\x03\x04", b"no array"):
        (tmp_path / "x.npy").write_bytes(content)
        with pytest.raises(ConfigError, match=r"--given=x=.*x\.npy: expected NAME=VALUE"):
            given([f"x={tmp_path / 'x.npy'}"], {})


def test_a_label_can_be_given_by_its_name():
    symbols = {"label": ["t-shirt/top", "trouser", "ankle boot"]}
    assert given(["label=ankle boot"], symbols)["label"] == 2
    assert given(["label=t-shirt/top", "y=[1, 2]"], symbols)["label"] == 0
    assert given(["label=2"], symbols)["label"] == 2
    with pytest.raises(ConfigError, match=r"unknown label 'trousers'. Did you mean 'trouser'"):
        given(["label=trousers"], symbols)
    with pytest.raises(ConfigError, match="expected NAME=VALUE"):
        given(["y=trouser"], symbols)


def test_samples_that_were_asked_for_otherwise_have_other_files():
    words = [
        *([], ["label=7"], ["label=1.5"], ["label=1_5"], ["label=[1,5]"], ["label=[1.5]"]),
        *(["--config.model.sample_steps=50"], ["--config.model.sample_steps=500"]),
        *([f"x={'0' * 300}1"], [f"x={'0' * 300}2"], ["x=a/b"], ["x=a b"]),
    ]
    ends = [told_apart(each) for each in words]
    assert len(set(ends)) == len(words) and max(map(len, ends)) < 140
    assert ends[:2] == ["", "_label_7"] and ends[6] == "_sample_steps_50"
    assert all(re.fullmatch(r"[\w-]*", end) for end in ends)


def test_a_run_that_can_only_be_read_is_sampled_and_measured(trained, tmp_path):
    with mounted(tmp_path / "disk", "size=16m") as disk:
        shutil.copytree(tmp_path / "run", disk / "run")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for command in ("sample", "explore"):
            status, _, err = trained(command, "--workdir=disk/run")
            assert status == 2 and re.search(r"--out=.* cannot be written: Read-only file sy", err)
        assert trained("sample", "--workdir=disk/run", "--out=here", "--n=2")[0] == 0
        assert len(list((tmp_path / "here").iterdir())) == 2
        # The numbers are told, though they cannot be kept.
        words = ["evaluate", "--workdir=disk/run", "--examples=5", "--measures=log_prob"]
        assert main(["genjax-zoo", *words]) == 2


@pytest.mark.parametrize("out", ["toy.py", "toy.py/below", "a\0b", "x" * 300])
@pytest.mark.parametrize("command", ["sample", "explore"])
def test_an_out_that_can_be_no_folder_is_said_so(trained, command, out):
    status, _, err = trained(command, "--workdir=run", f"--out={out}")
    assert status == 2 and err.count("\n") == 1
    assert re.search(r"--out=.* (is no path: |cannot be written: toy.py is a file)", err)


SAMPLED = ("frechet_distance", "kernel_distance", "inception_style_score", "precision", "recall",
           "density", "coverage", "memorised", "memorisation_auc")  # fmt: skip


def entries(folder):
    return json.loads((folder / "eval" / "metrics.json").read_text())


def test_evaluate_looks_at_samples_too(trained, tmp_path):
    status, out, _ = trained("evaluate", "--workdir=run", "--num_samples=80")
    assert status == 0
    told = {e["name"]: e for e in entries(tmp_path / "run")}
    assert set(told) == {"log_prob", *SAMPLED}
    for name in SAMPLED:
        entry = told[name]
        assert entry["low"] <= entry["value"] <= entry["high"] and entry["n"] == 80
        assert entry["protocol"]["extractor"] == "digits" and len(entry["protocol"]["sha256"]) == 64
        assert f"{name} = " in out and "n=80 samples" in out
    assert told["recall"]["protocol"]["n_real"] == 80
    assert told["memorised"]["protocol"]["n_train"] == 1438
    assert "FID" not in out
    # The same again takes its place; another protocol stands beside it.
    before = len(entries(tmp_path / "run"))
    trained("evaluate", "--workdir=run", "--num_samples=80", "--measures=recall")
    assert len(entries(tmp_path / "run")) == before
    trained("evaluate", "--workdir=run", "--num_samples=81", "--measures=recall")
    both = [Result(**e) for e in entries(tmp_path / "run") if e["name"] == "recall"]
    assert [e.protocol["n_samples"] for e in both] == [81, 80]
    with pytest.raises(ZooError, match="differ in n_real: 81 and 80; n_samples: 81 and 80"):
        compare(*both)
    assert compare(both[0], both[0]).value == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "frechet distance" in page and "extractor digits" in page


def test_a_model_without_numbers_of_examples_evaluates_its_samples(call, tmp_path):
    words = ["--config=configs/gan.py:toy", "--workdir=ring", "--config.steps=4"]
    small = [f"--config.{f}=4" for f in ("sample_every", "log_every", "data.batch_size")]
    status, out, err = call("train", *words, *small, "--config.samples=100")
    assert status == 0 and "modes_covered = " in out and "modes of 8" in out
    assert "collapsing: " in err
    assert {e["name"] for e in entries(tmp_path / "ring")} == set(OF_MODES)
    status, out, _ = call("evaluate", "--workdir=ring", "--num_samples=70")
    assert status == 0 and "n=70 samples" in out
    assert len(entries(tmp_path / "ring")) == 2 * len(OF_MODES)
    status, _, err = call("evaluate", "--workdir=ring", "--measures=recall")
    assert (
        status == 2
        and "--measures=recall cannot be measured here" in err
        and "modes_covered" in err
    )


def test_an_extractor_of_ones_own(trained, tmp_path):
    path = extractors.FOLDER / "digits.safetensors"
    shutil.copy(path, tmp_path / "mine.safetensors")
    words = ("evaluate", "--workdir=run", "--num_samples=20", "--measures=precision")
    assert trained(*words, "--extractor=mine.safetensors")[0] == 0
    # One for images of another size is shown them in its own, and the protocol says so.
    assert trained(*words, f"--extractor={extractors.FOLDER / 'mnist.safetensors'}")[0] == 0
    told = json.loads((tmp_path / "run" / "eval" / "metrics.json").read_text())
    seen = [entry.get("protocol", {}).get("preprocessing", "") for entry in told]
    assert sum("resized (bilinear) from 8x8x1 to 28x28x1" in each for each in seen) == 1
    for flag, telling in [
        (tmp_path / "none.safetensors", "does not exist"),
        (tmp_path / "toy.py", "cannot be read as an extractor"),
    ]:
        status, _, err = trained(*words, f"--extractor={flag}")
        assert status == 2 and telling in err
    status, _, err = trained(*words, "--num_samples=3")
    assert status == 2 and "at least 4 real and 4 fake examples, got 3 and 3" in err


def test_train_without_a_config_goes_on_with_the_workdirs_own(trained, tmp_path):
    before = json.loads((tmp_path / "run" / "config.json").read_text())
    assert trained("train", "--workdir=run")[0] == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == before


def test_train_without_anything_is_the_quickstart(call, monkeypatch):
    seen = []
    monkeypatch.setattr(training, "train", lambda setup, *_, **__: seen.append(setup.run) or [])
    assert call("train", "--workdir=run")[0] == 0
    assert seen[0].model["name"] == "vae" and seen[0].data.source == "digits"


def test_list_fits_eighty_columns_and_names_all(call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delitem(ZOO, "toy")
    status, out, _ = call("list")
    assert status == 0 and max(map(len, out.splitlines())) <= 80
    assert "…" not in out
    for name in ZOO:
        assert name in out
    assert "lower_bound" in out and "mnist" in out


def test_help_names_every_command_and_flag(call):
    for words in (["--help"], ["-h"]):
        assert call(*words)[1].strip() == usage()
    for word in (*COMMANDS, "--config.FIELD", *(f"--{flag.name}" for flag in FLAGS)):
        assert word in usage()
    assert max(map(len, usage().splitlines())) <= 80


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_is_of_its_own_flags_alone(call, command):
    for words in ([command, "--help"], ["-h", command]):
        assert call(*words)[1].strip() == usage(command)
    told = set(re.findall(r"^  --([\w.]+)", usage(command), re.MULTILINE))
    assert told - {"config.FIELD"} == {flag.name for flag in FLAGS if command in flag.of}
    assert ("config.FIELD" in told) == (command in OVERRIDING)


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.name)
def test_a_flag_takes_no_nonsense(flag):
    """A number in its range, or one sentence; text is looked at by who reads it."""
    words = ["", " ", "nan", "inf", "-1", "1.5", "1e400", "²", "x", "\0", f"{10**12}", f"{2**64}"]
    for command, word in itertools.product(flag.of, words):
        line = ["genjax-zoo", command, f"--{flag.name}={word}"]
        numeric = flag.kind in (integer, flags.DEFINE_boolean)
        numeric |= flag.kind is real and not re.fullmatch(r"[-\d.]+", word)
        # A caption and a beginning may be of no words; a text may end with a line.
        empty = not word if flag.name == "stop" else not word.strip()
        if numeric or (empty and flag.name not in ("text", "prompt")):
            with pytest.raises(ConfigError, match=rf"--{flag.name}="):
                parse(line)
        else:
            parse(line)


def test_a_whole_number_may_be_written_as_in_a_config():
    call = parse(["genjax-zoo", "sample", "--n=1e3", "--sample_seed", "2e1"])
    assert (call.flags.n, call.flags.sample_seed) == (1000, 20)
    for word in ("1e10", "1e-1", "many", "nan", "1.0"):
        with pytest.raises(ConfigError, match=r"an integer in the range \[1, 1000000000\]\.$"):
            parse(["genjax-zoo", "sample", f"--n={word}"])


def test_help_waits_for_nothing_that_it_does_not_need(tmp_path):
    """Neither jax nor anything else that takes longer to load than to say it."""
    code = "import sys; from genjax_zoo.main import main; sys.argv = ['genjax-zoo', '--help']; "
    code += "main(sys.argv); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == usage()
    brought = {name.partition(".")[0] for name in done.stderr.split()}
    assert not brought & {"jax", "jaxlib", "numpy", "scipy", "flax", "optax", "matplotlib", "rich"}


def test_config_files_are_found_from_any_folder(call, tmp_path, monkeypatch):
    (tmp_path / "far").mkdir()
    monkeypatch.chdir(tmp_path / "far")
    assert load("configs/vae.py:digits") == load(f"{ROOT}/configs/vae.py:digits")
    # A file of one's own goes first.
    (tmp_path / "far" / "configs").mkdir()
    (tmp_path / "far" / "configs" / "vae.py").write_text(CONFIG_FILE)
    assert load("configs/vae.py:digits").model.name == "toy"


def test_an_installed_package_brings_its_configs():
    # setup.cfg lays them beside the package, where main looks if there is no checkout.
    told = (ROOT / "setup.cfg").read_text()
    assert "share/genjax_zoo/configs = configs/*.py" in told


@pytest.mark.parametrize(
    "flag, field, value",
    [
        ("--config.steps=30", "steps", 30),
        ("--config.steps=1e4", "steps", 10_000),
        ("--config.steps=2.5E3", "steps", 2500),
        ("--config.steps=10_000", "steps", 10_000),
        ("--config.data.source=10e2", "data.source", "10e2"),
        ("--config.data.dequantise=False", "data.dequantise", False),
        ("--config.optimizer.learning_rate=1", "optimizer.learning_rate", 1.0),
        ("--config.optimizer.learning_rate=1e-4", "optimizer.learning_rate", 1e-4),
        ("--config.data.source=density:ring", "data.source", "density:ring"),
        ("--config.data.source=text:a=b.txt", "data.source", "text:a=b.txt"),
        ("--config.data.dequantise=true", "data.dequantise", True),
        ("--config.data.dequantise", "data.dequantise", True),
        ("--noconfig.data.dequantise", "data.dequantise", False),
        ("--config.model.widths=(64,)", "model.widths", (64,)),
        ("--config.model.widths=(64, 32, 16)", "model.widths", (64, 32, 16)),
        ("-config.steps=30", "steps", 30),
    ],
)
def test_override(flag, field, value):
    changed = override(load("configs/vae.py:digits"), [flag])
    for name in field.split("."):
        changed = changed[name]
    assert changed == value and type(changed) is type(value)


def test_overrides_of_one_field_take_the_last_and_may_stand_apart():
    call = parse(["x", "train", "--config.steps", "30", "--workdir", "w", "--config.steps=40"])
    assert call.overrides == ["--config.steps=30", "--config.steps=40"]
    assert call.command == "train" and call.flags.workdir == "w"
    assert override(load("configs/vae.py:digits"), call.overrides).steps == 40


def test_configs_read_back_from_a_workdir_can_be_overridden(trained, tmp_path):
    assert trained("sample", "--workdir=run", "--config.data.scale=symmetric")[0] == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["model"]["widths"] = [3, 4]
    back = override(unjson(config), ["--config.model.widths=(5,)"])
    assert back.model.widths == (5,)


# --------------------------------------------------------------------------------------- bad input


def test_what_memory_cannot_hold_is_refused_before_it_is_made(trained, monkeypatch):
    monkeypatch.setattr(memory, "limit", lambda: 10**9)
    for words, told in [
        (["sample", f"--n={10**8}"], "--n=100000000 would take 26 GB, and this CPU has 1 GB"),
        # A sample fits; what it is drawn by does not.
        (["sample", f"--n={3 * 10**6}"], "drawing --n=3000000 would take "),
        (["evaluate", f"--num_samples={10**8}"], "--num_samples=100000000 would take 26 GB"),
        (["sample", f"--n={10**12}"], "--n=1000000000000: 1000000000000 is not an integer in the"),
    ]:
        status, _, err = trained(*words, "--workdir=run")
        assert status == 2 and told in err
        assert told.endswith("in the") or "draw fewer at a time, each time with another" in err
    words = ["train", "--workdir=other", "--config=configs/vae.py:digits"]
    status, _, err = trained(*words, f"--config.model.widths=({10**8},)")
    assert status == 2 and "what the model learns would take " in err
    assert (
        "Choose smaller fields of config.model" in err and "over which config.devices.fsdp" in err
    )
    assert "parameters 61.6 GB, gradient 61.6 GB, optimizer 123 GB" in err
    # Each with its gradient, two moments and the moving average.
    rows = [" ".join(row.split()) for row in err.splitlines()[1:]]
    assert rows[:3] == [
        "128 GB encoder/Dense_0/kernel [64, 100000000]",
        "128 GB decoder/Dense_1/kernel [100000000, 64]",
        "32 GB encoder/Dense_1/kernel [100000000, 16]",
    ]
    status, _, err = trained(*words, f"--config.model.widths=({10**9}, {10**9}, {10**9})")
    assert status == 2 and "EB, and this CPU has 1 GB" in err
    words = ["train", "--workdir=other", "--config=configs/vae.py:toy"]
    monkeypatch.setattr(memory, "limit", lambda: 10**6)
    status, _, err = trained(*words, f"--config.data.batch_size={10**6}")
    assert status == 2 and "config.data.batch_size=1000000 would take 8 MB" in err


@pytest.mark.parametrize(
    "words, telling",
    [
        ([], "expected one command, got none:\n  train "),
        (["trian"], "got 'trian':\n  train "),
        (["train", "sample"], "got 'train sample'"),
        (["train", "--wrkdir=x"], "unknown flag of train: '--wrkdir'. Did you mean '--workdir=x'"),
        (["train", "--seed=5"], "Did you mean '--config.seed=5'?"),
        (["train", "--seed", "5"], "Did you mean '--config.seed'?"),
        (["train", "--learning_rate=1"], "Did you mean '--config.optimizer.learning_rate=1'?"),
        (["train", "--latents=8"], "Did you mean '--config.model.latents=8'?"),
        (["train", "--codez=8", "--config=configs/vq_vae.py"], "'--config.model.codes=8'?"),
        (["train", "--n=5"], "unknown flag of train: '--n'. It is a flag of sample. Known: --al"),
        (["train", "--fake=5"], "unknown flag of train: '--fake'. Known: --al"),
        (
            ["sample", "--seed=5"],
            "unknown flag of sample: '--seed'. Did you mean '--sample_seed=5'",
        ),
        (["sample", "--what=walk"], "unknown flag of sample: '--what'. It is a flag of explore."),
        (["sample", "--sample_means"], "Did you mean '--config.model.sample_means'?"),
        (["sample", "--data_dir=x"], "'--data_dir'. It is a flag of train, evaluate, explore."),
        # Another seed would hold out other examples: the config's own is not proposed.
        (["evaluate", "--seed=5"], "unknown flag of evaluate: '--seed'. It is a flag of explore."),
        (["explore", "--sample_seed=5"], "Did you mean '--seed=5'?"),
        (["list", "--workdir=x"], "unknown flag of list: '--workdir'. It is a flag of train, sam"),
        (
            ["list", "--config.steps=5"],
            "list reads configs as they are; leave --config.steps=5",
        ),
        (["sample", "--workdir=x", f"--sample_seed={2**40}"], "in the range [0, 4294967295]"),
        (["explore", "--workdir=x", f"--seed={2**32}"], "in the range [0, 4294967295]"),
        (["train"], "--workdir is missing"),
        (["sample"], "--workdir is missing"),
        (["sample", "--workdir=x", "--n=0"], "--n=0"),
        (["sample", "--workdir=x", "--n=many"], "--n=many"),
        (["train", "--workdir=x", "--process=1"], "all of --coordinator"),
        (["train", "--workdir=x", "--distributed=auto", "--process=1"], "leave the one or the"),
        (["train", "--workdir=x", "--config=configs/vea.py"], "Did you mean 'configs/vae.py'?"),
        (["train", "--workdir=x", "--config=nowhere.py:a"], "unknown config file 'nowhere.py'"),
        (["train", "--workdir=x", "--config=vae:digits"], "mean --config=configs/vae.py:digits?"),
        (["train", "--workdir=x", "--config=toy.py:digit"], "Did you mean 'digits'? Known: digits"),
        (["train", "--workdir=x", "--config=torn.py"], "torn.py, line 2, cannot be run: NameError"),
        (["train", "--workdir=x", "--config=half.py"], "half.py, line 1, cannot be run: Syntax"),
        (["train", "--workdir=x", "--config=none.py"], "none.py has no get_config"),
        (["train", "--workdir=x", "--config=late.py"], "late.py, line 2, cannot be run: KeyError"),
        (["train", "--workdir=x", "--config=odd.py"], "odd.py should return a ConfigDict, got int"),
        (["train", "--workdir=x", "--config="], "--config= is empty; give it a value, or leave it"),
        (["train", "--config", "--workdir=x"], "--config has no value, for --workdir=x follows"),
        (["sample", "--workdir=x", "--out="], "--out= is empty"),
        (["explore", "--workdir=x", "--what="], "--what= is empty"),
        (["evaluate", "--workdir=x", "--measures="], "--measures= is empty"),
        (["sample", "--workdir=x", "--given", "--n=3"], "--given has no value, for --n=3 follows"),
        (["sample", "--workdir=toy.py"], "--workdir=toy.py is a file; give the folder of a run"),
    ],
)
def test_a_command_line_that_makes_no_sense(call, tmp_path, words, telling):
    (tmp_path / "torn.py").write_text("x = 1\ny = z\n")
    (tmp_path / "half.py").write_text("x = (\n")
    (tmp_path / "none.py").write_text("x = 1\n")
    (tmp_path / "late.py").write_text("def get_config():\n    return {}['a']\n")
    (tmp_path / "odd.py").write_text("def get_config():\n    return 3\n")
    status, _, err = call(*words)
    assert status == 2 and telling in err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "field, telling",
    [
        ("stps=3", "unknown field of config: 'stps'. Did you mean 'steps'?"),
        ("data.batch=3", "unknown field of config.data: 'batch'. Did you mean 'batch_size'?"),
        ("steps.more=3", "unknown field of config.steps: 'more'"),
        ("model.avrage=3", "Did you mean 'average'?"),
        ("steps=abc", "--config.steps=abc: expected int, such as 6"),
        ("steps=1.5", "--config.steps=1.5: expected int, such as 6"),
        ("steps=1e-4", "--config.steps=1e-4: expected int, such as 6"),
        ("steps=1e400", "--config.steps=1e400: expected int, such as 6"),
        ("data=digits", "--config.data=digits: config.data is a group of fields; set each, as --"),
        ("model={'name': 'vae'}", "config.model is a group of fields; set each, as --config.mod"),
        ("devices", "--config.devices: config.devices is a group of fields"),
        ("optimizer.learning_rate=fast", "expected float, such as 0.02"),
        ("data.dequantise=perhaps", "expected bool, such as False"),
        ("steps=0", "config: steps should be at least 1"),
        ("model.name=toi", "unknown model 'toi'. Did you mean 'toy'?"),
        ("optimizer.eps=nan", "optimizers: eps should be in (0, 1], got nan"),
        ("optimizer.clip_norm=inf", "optimizers: clip_norm should be not negative, got inf"),
        ("optimizer.learning_rate=1e400", "learning_rate should be positive, got inf"),
        ("optimizer.weight_decay=0.1", "weight_decay=0.1 is of name 'adamw', and would be ignored"),
        ("optimizer.momentum=0.1", "momentum=0.1 is of name 'sgd' or 'rmsprop', and would be"),
        ("optimizer.final_fraction=0.1", "is of schedule 'cosine' or 'linear', and would be ign"),
        ("devices.min_split=0", "devices: min_split should be at least 1, got 0"),
        (f"seed={2**40}", "config: seed should be in [0, 4294967296), got 1099511627776"),
        (f"samples={10**12}", "config: samples should be in [1, 100000], got 1000000000000"),
        (f"data.batch_size={10**12}", "batch_size should be in [1, 1000000], got 1000000000000"),
        ("data.source=density:rong", "unknown density 'rong'. Did you mean 'ring'?"),
        ("data.source=digit", "config.data.source='digit' is none of digits, density:NAME"),
        ("data.source=tfds:mnist", "Without any download: digits, density:ring"),
        ("data.source=folder:nowhere", "there is no such folder"),
        ("data.source=text:toy.py", "too few for config.data.length=64"),
        ("data.batch_size=2000", "digits has 1438 examples for training, fewer than"),
    ],
)
def test_a_config_that_cannot_be_run_blocks_nothing(call, tmp_path, field, telling):
    status, _, err = train(call, f"--config.{field}", "--data_dir=nowhere")
    assert status == 2 and telling in err
    # Nothing began, and the corrected command is not refused for the config of the wrong one.
    workdir = Workdir(tmp_path / "run")
    assert not workdir.has_begun()
    workdir.create()
    workdir.claim(load("toy.py:digits").to_dict(), False)


def test_a_batch_that_does_not_divide_over_the_devices(call, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 3)
    monkeypatch.setattr(jax, "make_mesh", lambda sizes, names, **how: AbstractMesh(sizes, names))
    status, _, err = train(call, "--config.devices.data=3")
    assert status == 2 and "batch_size=20 does not divide over 3 devices; try 18 or 21" in err


def test_grey_data_for_a_model_of_bits(call):
    words = ["train", "--config=configs/rbm.py:digits", "--workdir=x"]
    status, _, err = call(*words, "--config.data.binarise=none")
    assert status == 2 and "binarise to 'threshold' or 'dynamic'" in err


def test_another_config_in_the_workdir(trained, tmp_path):
    status, _, err = train(trained, "--config.seed=1")
    assert status == 2 and "seed: 0 there, 1 now" in err and "--allow_config_change" in err
    assert json.loads((tmp_path / "run" / "config.json").read_text())["seed"] == 0
    assert train(trained, "--config.samples=5", "--allow_config_change")[0] == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["samples"] == 5


def test_a_workdir_that_was_not_trained(call, tmp_path):
    for command in ("sample", "evaluate"):
        status, _, err = call(command, "--workdir=x")
        assert status == 2 and "train a model in it first" in err
        assert not (tmp_path / "x").exists()


def test_the_run_of_an_older_version_is_one_sentence(trained, tmp_path):
    """Whatever its config holds: fields of then are no error of now."""
    (start,) = json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps([{**start, "genjax_zoo": "0.1.0"}]))
    fields = json.loads((tmp_path / "run" / "config.json").read_text())
    fields["model"]["unconditional"] = 0.1
    (tmp_path / "run" / "config.json").write_text(json.dumps(fields))
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
    for command in ("sample", "evaluate", "explore", "train"):
        status, _, err = trained(command, "--workdir=run")
        assert status == 2 and err.count("\n") == 1
        assert "run was made by genjax_zoo 0.1.0, whose models this version (" in err
    status, _, err = train(trained)
    assert status == 2 and "made by genjax_zoo 0.1.0" in err
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}


def test_what_was_renamed_is_refused_with_its_new_name(trained):
    for command, flag, now in [
        ("sample", "--condition=label=3", "given"),
        ("evaluate", "--fake=30", "num_samples"),
    ]:
        status, _, err = trained(command, "--workdir=run", flag)
        assert status == 2 and f"Since version 0.2.0 it is called {now!r}." in err


def test_what_only_training_reads_cannot_be_set_afterwards(trained):
    for command, field, told in [
        ("sample", "steps=5", "sample reads config.model and config.data alone; all else was set"),
        ("sample", "seed=5", "when run was trained. Leave it out. Another draw is --sample_seed=N"),
        ("explore", "seed=5", "Another draw is --seed=N."),
        # Another seed would hold out what the model has learnt from.
        ("evaluate", "seed=5", "evaluate reads config.model and config.data alone"),
        ("evaluate", "optimizer.learning_rate=1.0", "evaluate reads config.model and config.data"),
    ]:
        status, _, err = trained(command, "--workdir=run", f"--config.{field}")
        assert status == 2 and f"--config.{field}: " in err and told in err


def test_sample_and_evaluate_take_no_config_file(trained):
    for command in ("sample", "evaluate"):
        status, _, err = trained(command, "--workdir=run", "--config=toy.py:digits")
        assert status == 2 and "'--config'. It is a flag of train." in err
        assert "--config.FIELD=VALUE" in err


def test_a_checkpoint_that_is_not_there(trained):
    for command in ("sample", "evaluate"):
        status, _, err = trained(command, "--workdir=run", "--checkpoint=4")
        assert status == 2 and "--checkpoint=4" in err and "[3, 6]" in err
        # A digit, and no number.
        assert (
            "--checkpoint=² is not in run" in trained(command, "--workdir=run", "--checkpoint=²")[2]
        )


def test_an_unknown_measure(trained):
    status, _, err = trained("evaluate", "--workdir=run", "--measures=logprob")
    assert status == 2 and "unknown measure 'logprob'. Did you mean 'log_prob'?" in err


def test_a_relative_path_means_the_same_from_another_folder(call, tmp_path, monkeypatch):
    np.save(tmp_path / "mine.npy", np.random.default_rng(0).random((40, 8, 8)))
    words = ["--config.data.source=array:mine.npy", "--config.data.batch_size=20"]
    status, _, err = train(call, *words)
    assert status == 0 and err.startswith(f"data: reading array:{tmp_path}/mine.npy\n")
    fields = json.loads((tmp_path / "run" / "config.json").read_text())
    assert fields["data"]["source"] == f"array:{tmp_path}/mine.npy"
    assert train(call, *words)[0] == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for command in ("train", "evaluate"):
        assert call(command, f"--workdir={tmp_path}/run")[0] == 0
    status, _, err = call(
        "train", f"--config={tmp_path}/toy.py", f"--workdir={tmp_path}/run", *words
    )
    assert status == 2 and "there is no such file" in err


def test_a_place_that_cannot_be_written(call):
    status, _, err = train(call, workdir="/proc/genjax_zoo")
    assert status == 2 and "cannot be written" in err


def test_a_disk_that_fills_up_while_training(call, tmp_path, monkeypatch):
    def full(self, step, values):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.metrics))

    with monkeypatch.context() as patch:
        patch.setattr("genjax_zoo.run.record.workdir.Workdir.append_metrics", full)
        status, _, err = train(call)
    assert status == 2
    assert "metrics.jsonl cannot be written: No space left on device" in err
    assert train(call)[0] == 0


def test_a_disk_that_fails_another_thread_stops_the_run(tmp_path):
    # tensorboardX's thread dies of it, and would be waited for without end.
    script = """
import sys
from tensorboardX.event_file_writer import EventsWriter
from genjax_zoo.main import run

def full(*_):
    raise OSError(28, "No space left on device")

EventsWriter.write_event = full
sys.argv = ["genjax-zoo", "train", "--workdir=w", "--config.log_every=5"]
run()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "genjax-zoo: a file cannot be written: No space left" in done.stderr


def test_what_nobody_foresaw_is_one_sentence_and_a_file_and_debug_shows_it(
    trained, tmp_path, monkeypatch, capsys
):
    def fault(*_, **__):
        raise FileNotFoundError(errno.ENOENT, "No such file")

    monkeypatch.setattr(training, "train", fault)
    assert main(["genjax-zoo", "train", "--workdir=run"]) == 1
    (told,) = capsys.readouterr().err.splitlines()
    assert "nobody foresaw: FileNotFoundError: [Errno 2] No such file. The details are in" in told
    assert "please report it" in told and "--debug" in told
    (file,) = (tmp_path / "run").glob("error-*.txt")
    details = file.read_text()
    assert str(file) in told and "Traceback" in details and "in fault" in details
    assert '"jax": ' in details and '"command": ' in details
    with pytest.raises(FileNotFoundError):
        trained("train", "--workdir=run", "--debug")


def test_ctrl_c_is_no_traceback(toy, tmp_path, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", interrupt)
    assert main(["genjax-zoo", "train", f"--workdir={tmp_path}/run"]) == 130
    assert "interrupted; the same command goes on" in capsys.readouterr().err


def test_ctrl_c_before_there_is_anything_to_save_ends_without_a_word(tmp_path):
    """A KeyboardInterrupt amid imports was told as a fault of ours, or swallowed."""
    script = """
import os, signal, sys
from genjax_zoo import main
signal.signal(signal.SIGINT, signal.default_int_handler)
main.prepare = lambda: os.kill(os.getpid(), signal.SIGINT)
sys.argv = ["genjax-zoo", "sample", "--workdir=w"]
main.run()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_a_locked_config_takes_no_new_field():
    with pytest.raises(ConfigError, match=r"unknown field of config\.model: 'wdths'"):
        override(load("configs/vae.py:digits"), ["--config.model.wdths=(3,)"])


# ------------------------------------------------------------------------------- as a user calls it


def test_the_module_is_the_command(tmp_path):
    def run(*words):
        command = [sys.executable, "-m", "genjax_zoo.main", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    done = run("train", "--config=configs/vae.py:digist", "--workdir=w")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("genjax-zoo: unknown variant 'digist'. Did you mean 'digits'?")
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
    done = run("--help")
    assert done.returncode == 0 and done.stdout.strip() == usage() and done.stderr == ""
