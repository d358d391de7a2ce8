"""Runs that learn from texts: what they keep, how they go on, and what they refuse."""

import json
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from genjax_zoo.contract import DataError
from genjax_zoo.data.sources import open_source
from genjax_zoo.data.text import tokenizers
from genjax_zoo.main import main
from genjax_zoo.run import config, trained
from genjax_zoo.run.record.progress import Progress
from genjax_zoo.run.record.workdir import Workdir
from genjax_zoo.run.setup import check_spaces, example_batch, set_up
from tests.conftest import ROOT
from tests.test_text import jsonl, prose

WORDS = [
    *("--config=configs/markov_chain.py:text", "--config.model.order=1"),
    *("--config.model.vocabulary=280", "--config.data.tokenizer=bpe:280"),
    *("--config.data.length=16", "--config.data.batch_size=7", "--config.final_examples=9"),
    *("--config.steps=40", "--config.log_every=5", "--config.checkpoint_every=10"),
    "--config.data.in_memory=0",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A text, and a run that learnt from it, from token files."""
    where = tmp_path_factory.mktemp("runs")
    (where / "a.txt").write_text(prose(400))
    assert main(["genjax-zoo", *command(where, where / "run")]) == 0
    return where


def command(where, workdir, *words):
    return [
        "train",
        *WORDS,
        f"--config.data.source=text:{where}/a.txt",
        f"--workdir={workdir}",
        *words,
    ]


def outcome(workdir):
    """The lines of metrics and the bits of the last state."""
    last = max((workdir / "checkpoints").iterdir(), key=lambda path: int(path.name))
    about = json.loads((last / "about" / "metadata").read_text())
    return (workdir / "metrics.jsonl").read_text(), last.name, about["fingerprint"]


@pytest.fixture
def call(capsys):
    """Runs a command; returns (status, stdout, stderr)."""

    def run(*words):
        status = main(["genjax-zoo", *words])
        out, err = capsys.readouterr()
        return status, out, err

    return run


def test_a_run_keeps_its_tokenizer_and_shows_texts(folder, call, tmp_path):
    shutil.copytree(folder / "run", tmp_path / "run")
    kept = tokenizers.read(tmp_path / "run" / "tokenizer")
    (start,) = json.loads((tmp_path / "run" / "run.json").read_text())
    assert start["data"]["tokenizer"] == {"name": "bpe:280", "size": 280, "sha256": kept.sha256}
    where = Workdir(tmp_path / "run")
    read = trained.read(where, config.read(where.read_config()))
    assert read.tokenizer.sha256 == kept.sha256 and read.tokenizer.name == "bpe:280"
    status, out, _ = call("sample", f"--workdir={tmp_path}/run", "--n=2")
    assert status == 0
    drawn = next((tmp_path / "run" / "samples").glob("sample*.npz"))
    written = drawn.with_suffix(".txt").read_text().splitlines()
    rows = np.load(drawn)["x"]
    assert written == [kept.decode(row).replace("\n", "⏎") for row in rows]
    # Other texts are measured by the run's own tokenizer.
    (tmp_path / "b.txt").write_text(prose(300, 7))
    status, out, err = call(
        "evaluate", f"--workdir={tmp_path}/run", f"--config.data.source=text:{tmp_path}/b.txt"
    )
    assert status == 0 and f"text:{tmp_path}/b.txt, bpe:280, 280 symbols" in out.replace(
        "\n   ", ""
    )
    # Without it nothing is read for another.
    shutil.rmtree(tmp_path / "run" / "tokenizer")
    for name in ("sample", "evaluate"):
        status, _, err = call(name, f"--workdir={tmp_path}/run")
        assert status == 2 and "cannot be read: No such file" in err and "bring it back" in err


def test_another_tokenizer_is_refused_however_it_comes(folder, call, tmp_path):
    shutil.copytree(folder / "run", tmp_path / "run")
    again = command(folder, tmp_path / "run", "--allow_config_change")
    status, _, err = call(*again, "--config.data.tokenizer=bytes", "--config.steps=50")
    assert (
        status == 2 and "config.data.tokenizer=bytes is another tokenizer (of another kind)" in err
    )
    status, _, err = call("evaluate", f"--workdir={tmp_path}/run", "--config.data.tokenizer=bytes")
    assert status == 2 and "is another tokenizer" in err
    # Nor does a run begin from one that reads by another.
    (tmp_path / "a.txt").write_text(prose(300, 7))
    begin = f"--begin=params={tmp_path}/run"
    status, _, err = call(*command(tmp_path, tmp_path / "new", begin))
    assert status == 2 and f"set --config.data.tokenizer={tmp_path}/run/tokenizer" in err


def test_a_text_that_has_changed_since_is_said(folder, call, tmp_path):
    shutil.copytree(folder, tmp_path / "f")
    words = (f"--workdir={tmp_path}/f/run", "--measures=bits_per_byte")
    source = f"--config.data.source=text:{tmp_path}/f/b.txt"
    (tmp_path / "f" / "b.txt").write_text(prose(300))
    status, _, err = call("evaluate", *words, source)
    assert status == 0 and "no longer" not in err
    text = (folder / "a.txt").read_text()
    try:
        (folder / "a.txt").write_text(text.replace("e", "i"))
        status, _, err = call("evaluate", *words)
    finally:
        (folder / "a.txt").write_text(text)
    assert status == 0 and "a.txt is no longer what this run learnt from" in err


def test_a_run_that_died_goes_on_bit_for_bit(folder, tmp_path, monkeypatch, call):
    update = Progress.update

    def dies(self, now, *told):
        update(self, now, *told)
        if now == 25:
            # What is saved in the background would end with a process.
            deadline = time.time() + 60
            while not (tmp_path / "run" / "checkpoints" / "20").exists() and time.time() < deadline:
                time.sleep(0.01)
            raise RuntimeError("died")

    monkeypatch.setattr(Progress, "update", dies)
    assert call(*command(folder, tmp_path / "run"))[0] == 1
    monkeypatch.undo()
    # It goes on by what it has: of its tokenizer nothing is made again.
    monkeypatch.setattr(tokenizers, "make", lambda *of: pytest.fail("made again"))
    status, _, err = call(*command(folder, tmp_path / "run"))
    assert status == 0 and "going on from step 20" in err
    assert outcome(tmp_path / "run") == outcome(folder / "run")


@pytest.mark.slow
def test_sigkill_at_any_moment_changes_nothing(folder, tmp_path):
    """The real command, killed while it writes token files, or trains."""
    words = [sys.executable, "-m", "genjax_zoo.main", *command(folder, tmp_path / "run")]
    metrics, kills = tmp_path / "run" / "metrics.jsonl", 0
    begun = [
        lambda: list((tmp_path / "run" / "tokens").glob("*")),
        lambda: metrics.exists() and len(metrics.read_text().splitlines()) > 3,
    ]
    for moment in begun:
        process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL)
        deadline = time.time() + 120
        while process.poll() is None and not moment() and time.time() < deadline:
            time.sleep(0.001)
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert kills
    whole = [*words[:3], *command(folder, tmp_path / "whole")]
    for each in (words, whole):
        subprocess.run(each, cwd=ROOT, check=True, capture_output=True)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def run_of(source, **model):
    model = {"name": "markov_chain", "vocabulary": 256, "order": 0} | model
    data = {"source": f"text:{source}", "tokenizer": "bytes", "length": 8, "batch_size": 2}
    return config.read({"model": model, "data": data})


def test_more_symbols_than_the_model_has_are_told_with_the_field(tmp_path):
    (tmp_path / "a.txt").write_text(prose(100))
    telling = (
        r"integers 0 .. 255; set --config.model.vocabulary=256, for as many symbols, or choose"
    )
    with pytest.raises(DataError, match=telling):
        set_up(run_of(tmp_path / "a.txt", vocabulary=65))
    assert set_up(run_of(tmp_path / "a.txt")).source.tokenizer.size == 256
    # A model may have more.
    assert set_up(run_of(tmp_path / "a.txt", vocabulary=300)).source.tokenizer.size == 256


def test_a_path_of_a_tokenizer_means_the_same_from_anywhere(folder, call, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    words = command(folder, tmp_path / "run", "--config.data.tokenizer=run/tokenizer")
    words += ["--config.steps=10", "--config.data.token_dir=shared"]
    assert call(*words)[0] == 0
    kept = json.loads((tmp_path / "run" / "config.json").read_text())["data"]
    assert kept["tokenizer"] == str(folder / "run" / "tokenizer")
    assert kept["token_dir"] == str(folder / "shared")
    assert not (tmp_path / "run" / "tokens").exists()
    monkeypatch.chdir(pathlib.Path("/"))
    assert call("evaluate", f"--workdir={tmp_path}/run")[0] == 0


def test_documents_are_refused_by_who_would_make_one_text_of_them(tmp_path):
    (tmp_path / "a.jsonl").write_text(jsonl(*(prose(9, seed) for seed in range(9))))
    run = run_of(tmp_path / "a.jsonl")
    model, source = config.make_model(run), open_source(run.data, 0)
    example = example_batch(source, jax.random.key(0), 2)
    check_spaces(model, source, example, run)
    deaf = model._replace(spaces={"x": model.spaces["x"]})
    with pytest.raises(DataError, match=r"'document' and no 'loss_mask', and .* several documents"):
        check_spaces(deaf, source, example, run)
    # What reads documents reads a text that is none of several.
    (tmp_path / "a.txt").write_text(prose(100))
    whole = open_source(run_of(tmp_path / "a.txt").data, 0)
    check_spaces(model, whole, example_batch(whole, jax.random.key(0), 2), run)
