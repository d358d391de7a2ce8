"""Beginning from other runs: what is taken, what is recorded, what is refused, what resumes."""

import hashlib
import json
import os
import shutil
import signal

import jax
import numpy as np
import pytest

from genjax_zoo.commands.configs import load, unjson
from genjax_zoo.contract import ConfigError
from genjax_zoo.learn.state import eval_params
from genjax_zoo.main import main
from genjax_zoo.models import ZOO, Family
from genjax_zoo.run import begin, config, trained
from genjax_zoo.run.record.progress import Progress
from genjax_zoo.run.record.workdir import Workdir
from genjax_zoo.run.setup import set_up
from tests.conftest import ROOT, ToyConfig, make_toy
from tests.test_main import CONFIG_FILE

MOVED = ("--config.seed=1", "--config.steps=9")
"""What the second run has that the first had not."""


@pytest.fixture
def call(toy, tmp_path, monkeypatch, capsys):
    """Runs a command line in a folder that holds the trained run `a`; returns (status, message)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.py").write_text(CONFIG_FILE)

    def run(*words):
        status = main(["genjax-zoo", *words])
        return status, capsys.readouterr().err

    assert run("train", "--config=toy.py:digits", "--workdir=a")[0] == 0
    return run


def train(call, *words, workdir="b"):
    return call("train", "--config=toy.py:digits", f"--workdir={workdir}", *MOVED, *words)


def setup_of(folder="a"):
    return set_up(config.read(unjson(Workdir(folder).read_config())))


def learnt(folder, which="last"):
    """What another run is to begin from."""
    setup = setup_of(folder)
    step, state = trained.restore(setup, Workdir(folder), which)
    return step, jax.tree.map(np.asarray, eval_params(state))


def end_of(folder):
    steps = sorted(int(p.name) for p in (Workdir(folder).checkpoints).iterdir())
    about = Workdir(folder).checkpoints / str(steps[-1]) / "about" / "metadata"
    return steps[-1], json.loads(about.read_text())["fingerprint"]


def same(one, other):
    return all(map(np.array_equal, *map(jax.tree.leaves, (one, other))))


def test_a_run_begins_from_another(call, tmp_path):
    status, err = train(call, "--begin=params=a", "--config.optimizer.learning_rate=1e-9")
    assert status == 0 and f"params begins from {tmp_path / 'a'}, step 6" in err
    step, params = learnt("a")
    after = learnt("b")[1]
    np.testing.assert_allclose(after["mean"], params["mean"], atol=1e-6)
    assert not np.allclose(after["mean"], 0, atol=1e-3)
    (start,) = json.loads((tmp_path / "b" / "run.json").read_text())
    entry = start["begun"]["params"]
    digest = hashlib.sha256(b"".join(leaf.tobytes() for leaf in jax.tree.leaves(params)))
    assert entry == {
        "workdir": str(tmp_path / "a"),
        "asked": "last",
        "step": step,
        "sha256": digest.hexdigest(),
        "config": Workdir("a").read_config(),
        "arrays": {"x": ["float32", [20, 8, 8, 1]], "label": ["int32", [20]]},
        "begun": {},
        "tokenizer": "",
        "files": {},
    }
    page = (tmp_path / "b" / "report.html").read_text()
    assert "begun from" in page and digest.hexdigest()[:16] in page


def test_what_is_taken_are_the_averaged_parameters_and_nothing_else(call):
    setup = set_up(config.read(load("toy.py:digits")))
    for asked, step in {"a": 6, "a@last": 6, "a@6": 6, "a@3": 3}.items():
        begun = begin.read([f"params={asked}"], setup.run, Workdir("new"))
        assert begun.origins["params"].step == step
        expected = learnt("a", str(step))[1]
        assert same(begun.params["params"], expected)
        first, fresh = set_up(setup.run, begun=begun).init(), setup.init()
        assert same(first.params, expected) and same(first.optimizer, fresh.optimizer)
        assert jax.tree.structure(first) == jax.tree.structure(fresh)
    assert not same(learnt("a", "3")[1], learnt("a", "6")[1])


def test_the_best_can_be_asked_for(call):
    words = ("--config.eval_every=3", "--config.eval_examples=20")
    assert train(call, *words, workdir="scored")[0] == 0
    (best,) = {int(p.name) for p in Workdir("scored").checkpoints.iterdir()} & {9}
    begun = begin.read(["params=scored@best"], setup_of("scored").run, Workdir("new"))
    assert begun.origins["params"].step == best and begun.origins["params"].asked == "best"


@pytest.mark.parametrize(
    "word, telling",
    [
        ("parms=a", "unknown name to begin this model by: 'parms'. Did you mean 'params'?"),
        ("key=a", "Known: params."),
        ("params", "expected NAME=WORKDIR or NAME=WORKDIR@STEP"),
        ("params=", "expected NAME=WORKDIR or NAME=WORKDIR@STEP"),
        ("params=nowhere", "nowhere: no model was trained there; expected the --workdir"),
        ("params=toy.py", "no model was trained there"),
        ("params=a@4", "a@4 is not in "),
        ("params=a@4", "or one of [3, 6]"),
        ("params=a@best", "best (where held-out data were measured)"),
        ("params=untrained", "untrained holds no checkpoint"),
        ("params=older", "older was made by genjax_zoo 0.1.0"),
        ("params=ring", "['mean'] is [2] there, and this config needs [8, 8, 1]"),
        ("params=damaged", "the checkpoint of step 6"),
    ],
)
def test_what_cannot_be_begun_from_is_one_sentence_and_nothing_is_written(
    call, tmp_path, word, telling
):
    folder = tmp_path / word.partition("=")[2]
    if folder.name in ("untrained", "older", "damaged"):
        shutil.copytree(tmp_path / "a", folder)
    if folder.name == "untrained":
        shutil.rmtree(folder / "checkpoints")
    elif folder.name == "older":
        starts = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps([{**starts[0], "genjax_zoo": "0.1.0"}]))
        fields = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**fields, "gone": 1}))
    elif folder.name == "damaged":
        (folder / "checkpoints" / "6" / "about" / "metadata").write_text("{")
    elif folder.name == "ring":
        assert train(call, "--config.data.source=density:ring", workdir="ring")[0] == 0
    status, err = train(call, f"--begin={word}")
    assert status == 2 and telling in err
    assert err.count("\n") == 1 and "--begin=" in err
    assert not (tmp_path / "b").exists()


def test_a_name_is_begun_once(call):
    status, err = train(call, "--begin=params=a", "--begin=params=a@3")
    assert status == 2 and "'params' is begun twice" in err


def stop_at(monkeypatch, step, saved):
    """The process ends after `step`: by SIGTERM, if it is to save, or at once."""
    original = Progress.update

    def update(self, now, *more):
        original(self, now, *more)
        if now == step and not saved:
            raise KeyboardInterrupt
        if now == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Progress, "update", update)


def test_a_run_that_resumes_goes_on_and_needs_the_other_no_more(call, tmp_path, monkeypatch):
    assert train(call, "--begin=params=a", workdir="whole")[0] == 0
    with monkeypatch.context() as patch:
        stop_at(patch, 6, saved=True)
        assert train(call, "--begin=params=a")[0] == 0
    assert end_of("b")[0] == 6
    shutil.rmtree("a")
    for word, came in {"a@6": "a@last", "whole": "a@last"}.items():
        status, err = train(call, f"--begin=params={word}")
        assert status == 2 and err.count("\n") == 1
        assert f"has begun already, from params={tmp_path / came}; to begin from anything" in err
    assert train(call, "--begin=params=a")[0] == 0
    assert end_of("b") == end_of("whole")
    # Without the flag it goes on too, and each start says where the run came from.
    assert train(call)[0] == 0
    starts = json.loads((tmp_path / "b" / "run.json").read_text())
    assert len(starts) == 3 and len({s["begun"]["params"]["sha256"] for s in starts}) == 1
    assert end_of("b") == end_of("whole")


def test_a_run_that_began_from_nothing_stays_so(call):
    assert train(call)[0] == 0
    status, err = train(call, "--begin=params=a")
    assert status == 2 and "has begun already, from nothing" in err


def test_a_run_killed_before_it_saved_begins_from_the_very_same(call, tmp_path, monkeypatch):
    words = ("--begin=params=a", "--config.checkpoint_every=9")
    assert train(call, *words, workdir="whole")[0] == 0
    with monkeypatch.context() as patch:
        stop_at(patch, 3, saved=False)
        assert train(call, *words)[0] == 130
        assert train(call, *words, workdir="c")[0] == 130
    # The other run has gone on meanwhile.
    assert call("train", "--workdir=a", "--config.steps=9", "--allow_config_change")[0] == 0
    assert learnt("a")[0] == 9
    assert train(call, *words)[0] == 0
    assert end_of("b") == end_of("whole")
    # It was trained again from the start, otherwise: what is there now is something else.
    shutil.rmtree("a")
    assert call("train", "--config=toy.py:digits", "--workdir=a", "--config.seed=5")[0] == 0
    status, err = train(call, *words)
    assert status == 0, err
    status, err = train(call, *words, workdir="c")
    assert status == 2 and "which has changed since" in err


VAE = (
    "--config.data.batch_size=50",
    "--config.model.widths=(32,)",
    "--config.model.importance_samples=2",
    "--config.log_every=10",
    "--config.checkpoint_every=50",
    "--config.sample_every=0",
    "--config.eval_every=10",
    "--config.eval_examples=200",
)


@pytest.mark.slow
def test_a_vae_is_fine_tuned_from_another_run(call, tmp_path):
    def vae(workdir, steps, *words):
        start = ("train", f"--config={ROOT}/configs/vae.py:digits", f"--workdir={workdir}")
        assert call(*start, *VAE, f"--config.steps={steps}", *words)[0] == 0
        lines = [json.loads(line) for line in (tmp_path / workdir / "metrics.jsonl").open()]
        return [v for line in lines for k, v in line.items() if k.startswith("test/log_prob")]

    first = vae("first", 300)
    # Of other data, binarised otherwise: a few steps from there are worth hundreds from nothing.
    other = ("--config.data.binarise=threshold", "--config.seed=3")
    tuned = vae("tuned", 20, *other, "--begin=params=first")
    fresh = vae("fresh", 20, *other)
    assert first[-1] > first[0] + 5
    assert tuned[0] > fresh[-1] + 5
    status, err = call(
        *("train", f"--config={ROOT}/configs/vae.py:digits", "--workdir=x", *VAE, *other),
        *("--config.model.latents=9", "--begin=params=first"),
    )
    assert status == 2 and err.count("\n") == 1
    assert "--begin=params: .decoder" in err or "--begin=params: .encoder" in err


NEEDS = "this toy begins from another; add --begin=params=WORKDIR"


def make_needy(config, tx):
    """A toy that does not begin from nothing, and whose state is what it began from."""
    toy = make_toy(config, tx)

    def init(key, batch, params=None):
        if params is None:
            raise ConfigError(NEEDS)
        return toy.init(key, batch, params=params)

    return toy._replace(init=init)


def test_a_model_that_must_begin_from_another_resumes_and_is_sampled_without_it(
    call, tmp_path, monkeypatch
):
    family = Family("needy", "descend", "Needs another.", lambda: (ToyConfig, make_needy))
    monkeypatch.setitem(ZOO, "needy", family)
    (tmp_path / "needy.py").write_text(CONFIG_FILE.replace('"toy"', '"needy"'))
    needy = ("train", "--config=needy.py:digits")
    status, err = call(*needy, "--workdir=c")
    assert status == 2 and NEEDS in err
    assert call(*needy, "--workdir=c", "--begin=params=a")[0] == 0
    # One that began from one that began from another.
    assert call(*needy, "--workdir=d", "--begin=params=c", "--config.steps=3")[0] == 0
    for folder in ("a", "c"):
        shutil.rmtree(folder)
    assert call(*needy, "--workdir=d", "--config.steps=6", "--allow_config_change")[0] == 0
    assert end_of("d")[0] == 6
    for command in ("sample", "evaluate"):
        assert call(command, "--workdir=d")[0] == 0


def trained_as(call, folder, spec, *words):
    status, err = call("train", f"--config={ROOT}/configs/{spec}", f"--workdir={folder}", *words)
    assert status == 0, err


@pytest.mark.slow
def test_a_latent_diffusion_is_made_on_a_vae_of_another_run(call, tmp_path):
    few = ("--config.steps=300", "--config.eval_every=0", "--config.sample_every=0")
    same_vae = ("--config.model.widths=(128,128)", "--config.model.importance_samples=2")
    trained_as(call, "vae", "vae.py:digits", *few, *same_vae)
    small = (*few, "--config.model.first_steps=0", "--config.model.diffusion.bound_samples=2")
    latent = ("--begin=autoencoder=vae", *small)
    trained_as(call, "latent", "latent_diffusion.py:digits", *latent)
    params = learnt("vae")[1]
    shutil.rmtree("vae")
    setup = set_up(
        config.read(unjson(Workdir("latent").read_config())),
        begun=trained.begun_of(Workdir("latent")),
    )
    step, state = trained.restore(setup, Workdir("latent"))
    assert step == 300 and same(eval_params(state.states[0]), params)
    # The auto-encoder has nothing to learn, and its optimizer was put down at once.
    assert state.states[0].optimizer == ()
    trained_as(call, "latent", "latent_diffusion.py:digits", *latent)
    assert call("sample", "--workdir=latent", "--given=label=3", "--n=4")[0] == 0
    number = json.loads((tmp_path / "latent" / "eval" / "metrics.json").read_text())[0]
    assert number["kind"] == "lower_bound" and number["value"] > -40


@pytest.mark.slow
def test_a_dbm_is_made_on_an_rbm_of_another_run(call, tmp_path):
    few = ("--config.eval_every=0", "--config.sample_every=0", "--config.log_every=100")
    rbm = ("--config.steps=1000", "--config.model.hidden=64", "--config.model.sample_means=True")
    trained_as(call, "rbm", "rbm.py:digits", *few, *rbm)
    short = ("--config.steps=600", "--config.model.stage_steps=(0,300)")
    dbm = (*few, *short, "--config.model.ais.temperatures=100")
    trained_as(call, "dbm", "dbm.py:digits", *dbm, "--begin=layer_1=rbm")
    trained_as(call, "alone", "dbm.py:digits", *dbm)
    bound = {}
    for folder in ("dbm", "alone"):
        numbers = json.loads((tmp_path / folder / "eval" / "metrics.json").read_text())
        (bound[folder],) = (n["value"] for n in numbers if n["name"] == "bound")
    assert bound["dbm"] > bound["alone"]
    shutil.rmtree("rbm")
    assert call("sample", "--workdir=dbm", "--n=4")[0] == 0
