"""The loop: resuming, stopping, diverging, and what a killed run must not change, bit for bit."""

import errno
import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from genjax_zoo.contract import (
    NOTHING,
    REAL,
    CheckpointError,
    ConfigError,
    DataError,
    DivergedError,
    Exactness,
    Measure,
    Model,
    ZooError,
    categorical,
)
from genjax_zoo.data.source import feeds
from genjax_zoo.data.sources import open_source
from genjax_zoo.data.text.tokenizer import of_characters
from genjax_zoo.learn.state import average_start, average_update, eval_params
from genjax_zoo.learn.verbs import Stage, staged
from genjax_zoo.main import main
from genjax_zoo.measure import distances, modes, samples
from genjax_zoo.models import ZOO, Family
from genjax_zoo.run import observers, stop, trained
from genjax_zoo.run import setup as setups
from genjax_zoo.run import train as training
from genjax_zoo.run.record import checkpoint, progress, shown
from genjax_zoo.run.record.progress import Measuring, Progress
from genjax_zoo.run.record.workdir import Workdir
from genjax_zoo.run.setup import set_up
from genjax_zoo.run.steps import chunks, compile_steps
from genjax_zoo.run.train import train
from tests.conftest import ROOT, ToyConfig, make_toy


def run_in(folder, run):
    """Trains `run` in `folder`; returns its metrics as text and its last state's fingerprint."""
    workdir = Workdir(folder)
    workdir.create()
    train(set_up(run), workdir, quiet=True)
    return outcome(folder)


def outcome(folder):
    steps = sorted(int(p.name) for p in (folder / "checkpoints").iterdir())
    about = json.loads((folder / "checkpoints" / str(steps[-1]) / "about" / "metadata").read_text())
    return (folder / "metrics.jsonl").read_text(), steps[-1], about["fingerprint"]


def stop_after(monkeypatch, step, by=signal.SIGTERM):
    """A signal arrives while the loop tells of `step`."""
    original, ahead = Progress.update, [step]

    def update(self, now, *told):
        original(self, now, *told)
        if now in ahead:
            ahead.remove(now)
            os.kill(os.getpid(), by)

    monkeypatch.setattr(Progress, "update", update)


def test_run_leaves_what_it_promises(tmp_path, toy):
    run_in(tmp_path, toy())
    left = {p.name for p in tmp_path.iterdir()}
    assert {"run.json", "metrics.jsonl", "events", "checkpoints", "samples", "eval"} <= left
    assert [p.name for p in sorted((tmp_path / "samples").iterdir())] == [
        "data.npz",
        "data.png",
        "step_00000030.png",
        "step_00000060.png",
    ]
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").open()]
    assert steps == [10, 20, 30, 40, 50, 60]
    (number,) = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert number["kind"] == "exact" and number["unit"] == "nats" and number["n"] == 359
    assert "digits" in number["preprocessing"] and number["step"] == 60
    (start,) = json.loads((tmp_path / "run.json").read_text())
    assert (start["data"]["size"], start["data"]["held_out_size"]) == (1438, 359)
    assert start["data"]["notes"][0].startswith("classes: 0 151+27, 1 161+21")


def test_what_was_understood_of_the_data_is_said_before_the_first_step(tmp_path, toy, capsys):
    run_in(tmp_path, toy(steps=1))
    said = capsys.readouterr().err
    assert "data: digits, 8x8x1" in said and "1438 for training, 359 held out" in said


@pytest.mark.parametrize(("final", "measured"), [(0, 359), (50, 50), (1000, 359)])
def test_the_end_measures_as_many_examples_as_it_is_told(tmp_path, toy, final, measured):
    run_in(tmp_path, toy(final_examples=final))
    (number,) = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert number["n"] == measured


@pytest.mark.parametrize("step", [25, 40, 45])
def test_sigterm_saves_and_the_same_call_ends_as_if_never_stopped(tmp_path, toy, monkeypatch, step):
    whole = run_in(tmp_path / "whole", toy())
    with monkeypatch.context() as patch:
        stop_after(patch, step)
        assert run_in(tmp_path / "stopped", toy())[1] == step
    assert run_in(tmp_path / "stopped", toy()) == whole


@pytest.fixture
def heeded():
    """SIGINT is heeded, which it is not in what a shell has started in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeded")
def test_ctrl_c_saves_too_and_says_that_it_was_ctrl_c(tmp_path, toy, monkeypatch, capsys):
    stop_after(monkeypatch, 25, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run_in(tmp_path, toy())
    assert outcome(tmp_path)[1] == 25
    assert "stopped by SIGINT after step 25 of 60 steps, and saved" in capsys.readouterr().err
    assert (tmp_path / "report.html").exists()


@pytest.mark.usefixtures("heeded")
def test_a_second_ctrl_c_leaves_at_once_and_what_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop.on_signals() as asked:
            assert asked.by is None and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGUSR1)
            assert asked.by is signal.SIGUSR1 and asked.any_process(3)
            os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_is_measured_while_a_run_lasts_may_end_if_it_is_short(clock, monkeypatch):
    monkeypatch.setattr(stop.time, "time", progress.time.time)
    asked, told = stop.Stop(), []
    look = asked.watch(lambda *now: told.append(now), patience=5)
    look("a", 1, 3)
    asked.ask(signal.SIGTERM)
    clock(3)
    look("a", 2, 3)
    clock(3)
    # What is whole is kept.
    look("a", 3, 3)
    with pytest.raises(stop.Stopped):
        look("b", 0, 3)
    with pytest.raises(stop.Stopped):
        asked.watch(lambda *now: None)("a", 1, 3)
    assert told[-1] == ("b", 0, 3)


def test_a_long_measurement_in_the_middle_does_not_keep_a_run_from_stopping(
    tmp_path, toy, monkeypatch, capsys
):
    """A scheduler's grace is a minute; what was learnt would be lost."""
    monkeypatch.setattr(stop, "PATIENCE", 0.0)
    monkeypatch.setattr(training, "PATIENCE", 0.0)
    original = observers.examples.one_by_one

    def slow(*args, progress, **how):
        progress("log_prob", 0, 10)
        os.kill(os.getpid(), signal.SIGTERM)
        progress("log_prob", 1, 10)
        yield from original(*args, progress=progress, **how)

    monkeypatch.setattr(observers.examples, "one_by_one", slow)
    assert run_in(tmp_path, toy())[1] == 20
    assert "the numbers of step 20 are left out" in capsys.readouterr().err
    assert "loss" in lines(tmp_path)[1] and "test/log_prob" not in lines(tmp_path)[1]


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").open()]


def test_whenever_samples_are_drawn_their_diversity_is_told(tmp_path, toy):
    run_in(tmp_path, toy())
    told = {line["step"]: line.get("diversity") for line in lines(tmp_path)}
    assert [step for step, value in told.items() if value is not None] == [30, 60]
    setup = set_up(toy())
    state = trained.restore(setup, Workdir(tmp_path))[1]
    key = jax.random.fold_in(setup.root, setups.SAMPLE)
    x = np.asarray(setup.model.sample(key, state, 64)["x"])
    data = np.asarray(setup.source.held_out(key, 0, 256)["x"])
    assert told[60] == pytest.approx(distances.diversity(x, data), rel=1e-5)


def test_samples_at_the_end_alone_are_told_of_too(tmp_path, toy):
    run_in(tmp_path, toy(sample_every=0))
    assert [line["step"] for line in lines(tmp_path) if "diversity" in line] == [60]
    run_in(tmp_path, toy(sample_every=0))
    assert [line["step"] for line in lines(tmp_path)] == [10, 20, 30, 40, 50, 60]


def test_modes_are_told_where_data_have_modes_and_measured_at_the_end(tmp_path, toy, capsys):
    workdir = Workdir(tmp_path)
    workdir.create()
    run = toy(data={"source": "density:grid", "batch_size": 20}, samples=200)
    results = train(set_up(run), workdir)
    last = lines(tmp_path)[-1]
    assert 0 <= last["modes"] <= 25 and 0 <= last["high_quality"] <= 100
    assert "diversity" not in last
    # One Gaussian at the middle of a grid of 25: the line says so, until samples say otherwise.
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step ")]
    assert f"collapsing: {last['modes']:.0f} of 25 modes" in told[-1]
    assert [("collapsing" in line) for line in told] == [False, False, True, True, True, True]
    assert [r.name for r in results] == ["log_prob", *modes.OF_MODES]
    numbers = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert numbers[1]["protocol"]["n_samples"] == 2500 and "grid" in numbers[1]["protocol"]["data"]


@pytest.mark.parametrize("source", ["digits", "density:ring", "density:checkerboard"])
def test_a_collapsed_sampler_is_called_so(toy, source):
    opened = set_up(toy(data={"source": source, "batch_size": 20})).source
    x = np.asarray(opened.held_out(jax.random.key(0), 0, 200)["x"])
    well = samples.quick_look(x, opened, x)
    one = samples.quick_look(np.repeat(x[:1], 200, 0), opened, x)
    assert well.warning == ""
    expected = "collapsing: 1 of 8 modes" if "ring" in source else "collapsing: diversity 0.00"
    assert one.warning == expected
    assert samples.quick_look(x[:, :1], opened, x).numbers == {}
    if "ring" not in source:
        assert samples.quick_look(x[:1], opened, x).numbers == {}


def test_news_stand_before_the_numbers_and_silence_is_no_news(capsys):
    with Progress(10) as shown:
        shown.update(5, {"loss": 1.0}, "collapsing: 1 of 8 modes")
        shown.update(6, {}, "collapsing: 1 of 8 modes")
        shown.update(10, {"loss": 1.0})
    first, second = capsys.readouterr().err.splitlines()
    assert "collapsing: 1 of 8 modes  loss 1" in first and "collapsing" not in second


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is told to go on, of all that says how long it takes."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "time", lambda: now[0])

    def go_on(seconds):
        now[0] += seconds

    return go_on


def test_slow_steps_are_seconds_a_step(clock, capsys):
    with Progress(100) as shown:
        for step, seconds in {1: 4, 2: 2.5, 8: 5, 38: 3, 98: 1}.items():
            clock(seconds)
            shown.update(step, {"loss": 1.0})
    told = [line.split("  ")[1:3] for line in capsys.readouterr().err.splitlines()]
    assert told[0] == ["4 s/step", "7 min left"]
    assert (
        told[1][0] == "3.25 s/step" and told[2][0] == "1.2 steps/s" and told[4][0] == "60 steps/s"
    )
    assert [progress.duration(s) for s in (0.2, 40, 754, 12000)] == [
        *("0 s", "40 s", "13 min", "3 h 20 min")
    ]


def test_measuring_says_how_far_it_is_and_what_will_be_long_with_the_field_that_shortens_it(
    clock, capsys
):
    with Progress(300) as shown:
        clock(40)
        measuring = Measuring(
            shown, "config.final_examples={} takes fewer.", shown.seconds(), "; x"
        )
        measuring("log_prob", 0, 2000)
        for done in (500, 1000, 1500, 2000):
            clock(1)
            measuring("log_prob", done, 2000)
        measuring("iwae", 0, 10_000)
        for done in range(500, 10_001, 500):
            clock(25)
            measuring("iwae", done, 10_000)
    told = capsys.readouterr().err.splitlines()
    assert told[:2] == ["measuring log_prob: 0 of 2000", "measuring iwae: 0 of 10000"]
    # The first batch is compiled for, and promises nothing.
    assert told[2:4] == [
        "measuring iwae: 500 of 10000",
        "measuring iwae: 1000 of 10000  8 min left",
    ]
    long = "measuring iwae takes some 8 min more; x; config.final_examples=1000 takes fewer."
    assert told[4] == long and told[-2:] == [
        "measuring iwae: 9500 of 10000  25 s left",
        "measured iwae: 10000 in 8 min",
    ]
    assert len(told) == 2 + 19 + 2
    # One that fits in a batch is said to be over.
    measuring("bits", 0, 9)
    clock(40)
    measuring("bits", 9, 9)
    assert capsys.readouterr().err.splitlines()[1:] == ["measured bits: 9 in 40 s"]
    # One that takes that long is told of at once.
    measuring("iwae", 0, 10_000)
    clock(60)
    measuring("iwae", 500, 10_000)
    assert "takes some 19 min more; x; config.final_examples=500" in capsys.readouterr().err


def test_measuring_is_a_bar_on_a_terminal_and_nothing_where_it_should_be_quiet(monkeypatch, capsys):
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=100)
    monkeypatch.setattr(progress, "Console", lambda **_: terminal)
    for steps in (10, 0):
        with Progress(steps) as shown:
            measuring = Measuring(shown)
            for done in (0, 5):
                measuring("iwae", done, 10)
            shown.bar.refresh()
            measuring("iwae", 10, 10)
    assert "measuring iwae" in screen.getvalue() and " 5/10" in screen.getvalue()
    with Progress(10, quiet=True) as shown:
        Measuring(shown, "{}")("iwae", 0, 10)
    assert capsys.readouterr().err == ""


def make_slow(config, tx):
    """The toy, with two more numbers; SIGTERM arrives while the first of them is computed."""
    model = make_toy(config, tx)

    def slow(key, state, batch):
        jax.debug.callback(lambda: os.kill(os.getpid(), signal.SIGTERM))
        return model.log_prob.value(key, state, batch)

    never = Measure(model.log_prob.value, Exactness.EXACT)
    return model._replace(measures={"slow": Measure(slow, Exactness.EXACT), "never": never})


def test_whoever_stops_the_measuring_keeps_the_numbers_so_far(tmp_path, toy, monkeypatch, capsys):
    family = Family("slow", "descend", "Slow.", lambda: (ToyConfig, make_slow))
    monkeypatch.setitem(ZOO, "slow", family)
    assert run_in(tmp_path, toy(model={"name": "slow"}, sample_every=0))[1] == 60
    numbers = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert [(n["name"], n["step"]) for n in numbers] == [("log_prob", 60), ("slow", 60)]
    assert "stopped by SIGTERM while measuring the end of 60" in capsys.readouterr().err


def test_a_run_whose_reader_has_gone_goes_on(monkeypatch):
    class Gone:
        def write(self, text):
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

        flush = write

    monkeypatch.setattr(sys, "stderr", Gone())
    progress.log("nobody reads this")


def test_another_seed_ends_elsewhere(tmp_path, toy):
    # Guards the tests above: a fingerprint that never changed would pass them.
    assert run_in(tmp_path / "a", toy())[2] != run_in(tmp_path / "b", toy(seed=1))[2]


def test_a_finished_run_trains_no_further(tmp_path, toy):
    whole = run_in(tmp_path, toy())
    assert run_in(tmp_path, toy()) == whole


def test_steps_per_call_changes_nothing_but_rounding(tmp_path, toy):
    states = []
    for per_call in (1, 10):
        run = toy(steps_per_call=per_call, log_every=60)
        run_in(tmp_path / str(per_call), run)
        setup = set_up(run)
        states.append(trained.restore(setup, Workdir(tmp_path / str(per_call)))[1])
    for a, b in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("every", [(10, 20, 30, 20), (7, 20, 0, 13), (100, 33, 50, 0)])
def test_chunks_lie_on_one_grid_wherever_a_run_resumes(toy, every):
    names = ("log_every", "checkpoint_every", "sample_every", "eval_every")
    run = toy(steps=101, steps_per_call=8, **dict(zip(names, every, strict=True)))
    whole = chunks(run, 0)
    assert whole[0][0] == 0 and whole[-1][1] == 101
    assert all(a[1] == b[0] for a, b in itertools.pairwise(whole))
    assert max(last - first for first, last in whole) <= 8
    for first, _ in whole:
        assert chunks(run, first) == [c for c in whole if c[0] >= first]
    ends = {last for _, last in whole}
    assert all(step in ends for n in every if n for step in range(n, 102, n))


def test_nan_names_the_step_and_the_array_and_keeps_the_last_good_checkpoint(tmp_path, toy):
    # At this rate the scale turns negative within a few steps, and its logarithm is not a number.
    run = toy(optimizer={"name": "sgd", "learning_rate": 0.05}, checkpoint_every=1)
    with pytest.raises(DivergedError) as caught:
        run_in(tmp_path, run)
    message = str(caught.value)
    setup = set_up(run)
    step = next(int(word) for word in message.split() if word.isdigit())
    last = trained.restore(setup, Workdir(tmp_path))
    assert "info.loss broke first" in message and f"checkpoint is step {last[0]}" in message
    assert step == last[0]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(last[1]))


def test_damaged_checkpoint_is_said_so_kept_and_the_one_before_used(tmp_path, toy, capsys):
    whole = run_in(tmp_path / "whole", toy())
    for damage in (truncate, flip, remove_description, empty_description, tear_score, other_score):
        folder = tmp_path / damage.__name__
        shutil.copytree(tmp_path / "whole", folder)
        damage(folder / "checkpoints" / "60")
        capsys.readouterr()
        assert run_in(folder, toy()) == whole
        told = capsys.readouterr().err
        assert "checkpoint of step 60 is damaged" in told and "going on from step 40" in told
        assert (folder / "damaged" / "60").is_dir()
        assert (folder / "checkpoints" / "40").is_dir()


def data_files(folder):
    return [p for p in folder.rglob("*") if p.is_file() and p.parent.name == "d"]


def truncate(folder):
    for path in data_files(folder / "state"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(folder):
    for path in data_files(folder / "state"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0x10
        path.write_bytes(bytes(content))


def remove_description(folder):
    (folder / "about" / "metadata").write_text("{")


def empty_description(folder):
    (folder / "about" / "metadata").write_text("{}")


def tear_score(folder):
    (folder / "metrics" / "metrics").write_text('{"score": -1')


def other_score(folder):
    (folder / "metrics" / "metrics").write_text('{"score": "high"}')


def test_numbers_that_are_damaged_are_found_before_the_steps(tmp_path, toy):
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "metrics.json").write_text('{"log_prob": 3}')
    with pytest.raises(ZooError, match=r"metrics.json is damaged: it should be a list, got"):
        run_in(tmp_path, toy())
    assert not (tmp_path / "metrics.jsonl").exists()


def test_what_cannot_be_read_at_present_is_no_damage(tmp_path, toy, monkeypatch):
    whole = run_in(tmp_path, toy())

    def stale(*args, **kwargs):
        raise OSError(116, "Stale file handle")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.ocp.StandardCheckpointHandler, "restore", stale)
        with pytest.raises(CheckpointError, match=r"cannot be read at present: .*Stale"):
            run_in(tmp_path, toy())
    assert not (tmp_path / "damaged").exists()
    assert run_in(tmp_path, toy()) == whole


def test_no_whole_checkpoint_is_said_and_nothing_lost(tmp_path, toy):
    metrics = run_in(tmp_path, toy())[0]
    for step in (20, 40, 60):
        if (tmp_path / "checkpoints" / str(step)).exists():
            truncate(tmp_path / "checkpoints" / str(step))
    with pytest.raises(CheckpointError, match="none of the checkpoints"):
        run_in(tmp_path, toy())
    assert (tmp_path / "metrics.jsonl").read_text() == metrics


def test_a_run_longer_than_asked_for_is_said(tmp_path, toy):
    run_in(tmp_path, toy())
    with pytest.raises(ConfigError, match="has learnt 60 steps already"):
        run_in(tmp_path, toy(steps=40))


def test_fingerprint_sees_a_single_bit():
    x = np.linspace(0, 1, 1000, dtype=np.float32)
    y = x.copy()
    y.view(np.uint32)[777] ^= 1
    swapped = x[np.r_[1, 0, 2:1000]]
    prints = [checkpoint.fingerprint({"x": v})["x"] for v in (x, y, swapped, x.copy())]
    assert len(set(prints[:3])) == 3 and prints[0] == prints[3]


def test_checkpoint_of_another_model_is_refused(tmp_path, toy):
    run_in(tmp_path, toy())
    other = toy(data={"source": "density:ring", "batch_size": 20})
    with pytest.raises(CheckpointError, match="another model"):
        run_in(tmp_path, other)
    assert outcome(tmp_path)[1] == 60


def test_background_save_that_fails_stops_the_run_with_its_reason(tmp_path, toy, monkeypatch):
    from orbax.checkpoint import StandardCheckpointHandler

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(StandardCheckpointHandler, "finalize", full)
    with pytest.raises(CheckpointError, match="No space left"):
        run_in(tmp_path, toy())


def test_best_and_last_are_kept_and_can_be_asked_for(tmp_path, toy):
    run = toy(checkpoint_every=10, eval_every=10, optimizer={"learning_rate": 0.5})
    run_in(tmp_path, run)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    best = max(lines, key=lambda line: line["test/log_prob"])["step"]
    kept = {int(p.name) for p in (tmp_path / "checkpoints").iterdir()}
    assert {50, 60, best} == kept
    setup = set_up(run)
    assert trained.restore(setup, Workdir(tmp_path), "best")[0] == best
    for wrong in ("1234", "²", "-1", "", "9" * 5000):
        with pytest.raises(ZooError, match="expected last, best"):
            trained.restore(setup, Workdir(tmp_path), wrong)


def test_a_workdir_without_a_checkpoint_says_train_first(tmp_path, toy):
    setup = set_up(toy())
    for folder in (tmp_path, tmp_path / "checkpoints"):
        folder.mkdir(exist_ok=True)
        message = r"holds no checkpoint yet; train there first: genjax-zoo train --workdir=.* \(it "
        with pytest.raises(ZooError, match=message) as caught:
            trained.restore(setup, Workdir(tmp_path))
        assert "--checkpoint" not in str(caught.value)


def test_parameters_are_donated(toy):
    setup = set_up(toy())
    state = setup.init()
    (fed,) = feeds(setup.source, [(0, 2)], slice(0, 20))
    compile_steps(setup, setup.like)(state, setup.source.resident, np.uint32(0), fed)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


def test_average_is_debiased():
    # Constant parameters have themselves as average from the first step on; two values mix as
    # d (1-d) a + (1-d) b over 1 - d^2.
    from genjax_zoo.learn.state import TrainState

    d, a, b = 0.9, np.float32(2.0), np.float32(5.0)
    average = average_update(average_start(a, d), a, d)
    assert eval_params(TrainState(a, average=average)) == pytest.approx(2.0, rel=1e-6)
    average = average_update(average, b, d)
    expected = (d * (1 - d) * a + (1 - d) * b) / (1 - d**2)
    assert eval_params(TrainState(b, average=average)) == pytest.approx(expected, rel=1e-6)
    assert eval_params(TrainState(b, average=average_start(b, d))) == pytest.approx(5.0)


COMMAND = [
    *(sys.executable, "-m", "genjax_zoo.main", "train", "--config=configs/vae.py:digits"),
    *("--config.steps=400", "--config.log_every=20", "--config.checkpoint_every=40"),
    *("--config.eval_every=80", "--config.sample_every=0", "--config.model.widths=(16,)"),
    "--config.model.importance_samples=5",
]


@pytest.mark.parametrize("moments", [(3,), pytest.param((3, 9), marks=pytest.mark.slow)])
def test_sigkill_at_any_moment_changes_nothing(moments, tmp_path, monkeypatch):
    """The real command, killed at arbitrary moments, ends bit for bit the same."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    monkeypatch.chdir(ROOT)
    assert main(["genjax-zoo", *COMMAND[3:], f"--workdir={whole}"]) == 0
    metrics = killed / "metrics.jsonl"
    lines = lambda: len(metrics.read_text().splitlines()) if metrics.exists() else 0
    kills = 0
    for wanted in moments:
        process = subprocess.Popen(
            [*COMMAND, f"--workdir={killed}"], cwd=ROOT, stderr=subprocess.DEVNULL
        )
        deadline = time.time() + 120
        while process.poll() is None and lines() < wanted and time.time() < deadline:
            time.sleep(0.002)
        kills += process.poll() is None
        process.kill()
        process.wait()
    done = subprocess.run([*COMMAND, f"--workdir={killed}"], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert kills, "the run was over before it could be killed"
    assert outcome(killed) == outcome(whole)
    numbers = [json.loads((f / "eval" / "metrics.json").read_text()) for f in (whole, killed)]
    assert numbers[0] == numbers[1]


def test_labels_that_the_model_does_not_know_are_refused_before_anything_is_written(toy):
    run = toy()
    setup = set_up(run)
    model, seen = setup.model, setup.example
    of = lambda classes: model._replace(spaces={"x": REAL, "label": categorical(classes)})
    for classes in (0, 10, 12):
        setups.check_spaces(of(classes), setup.source, seen, run)
    # A batch of threes alone: the source knows of all ten.
    seen = {**seen, "label": np.full_like(seen["label"], 3)}
    message = (
        r"'label' as integers 0 \.\. 6, but digits gives integers 0 \.\. 9; .*model.classes=10"
    )
    with pytest.raises(DataError, match=message):
        setups.check_spaces(of(7), setup.source, seen, run)
    unsized = setup.source._replace(spaces={"x": REAL, "label": categorical()})
    setups.check_spaces(of(7), unsized, seen, run)
    with pytest.raises(DataError, match=r"'label' .*, and digits has: x"):
        setups.check_spaces(of(7), setup.source._replace(spaces={"x": REAL}), seen, run)


# --------------------------------------------------------------------------- stages, and other data

STAGE = 23
"""Steps of the first stage of the toy of two: it ends within a call."""


def make_two(config, tx):
    """The toy twice; the second learns what the first leaves of x."""
    own = lambda key, states, batch: batch
    rest = lambda key, states, batch: {"x": batch["x"] - eval_params(states[0])["mean"]}
    toys = [make_toy(config, tx) for _ in range(2)]
    stages = [Stage("first", toys[0], STAGE, own), Stage("second", toys[1], 0, rest)]
    of_last = lambda fn: lambda key, state, *more: fn(key, state.states[1], *more)
    measure = Measure(of_last(toys[1].log_prob.value), Exactness.EXACT)
    return Model(*staged(stages), sample=of_last(toys[1].sample), log_prob=measure)


@pytest.fixture
def two(toy, monkeypatch):
    family = Family("two", "staged", "Two Gaussians.", lambda: (ToyConfig, make_two))
    monkeypatch.setitem(ZOO, "two", family)
    return lambda **fields: toy(model={"name": "two"}, keep_last=9, **fields)


def arrays(folder, step):
    about = folder / "checkpoints" / str(step) / "about" / "metadata"
    return set(json.loads(about.read_text())["arrays"])


@pytest.mark.parametrize("step", [15, 25, 45])
def test_a_stage_that_is_over_keeps_no_optimizer_and_a_resumed_run_ends_the_same(
    tmp_path, two, monkeypatch, step
):
    whole = run_in(tmp_path / "whole", two())
    early, late = (arrays(tmp_path / "whole", n) for n in (20, 40))
    gone = early - late
    assert gone and all(name.startswith("states.0.optimizer.") for name in gone)
    assert late < early and any(name.startswith("states.1.optimizer.") for name in late)
    setup = set_up(two())
    for saved in (20, 40, 60):
        state = trained.restore(setup, Workdir(tmp_path / "whole"), str(saved))[1]
        assert int(state.count) == saved and state.finished == (saved > STAGE)
    with monkeypatch.context() as patch:
        stop_after(patch, step)
        assert run_in(tmp_path / "stopped", two())[1] == step
    assert run_in(tmp_path / "stopped", two()) == whole


def test_a_stage_speaks_in_its_time_alone(tmp_path, two):
    run_in(tmp_path, two(steps_per_call=10))
    said = {
        line["step"]: {n.partition("/")[0] for n in line if n.startswith(("first/", "second/"))}
        for line in lines(tmp_path)
    }
    # The call of steps 20 to 30 has a bit of both.
    assert said == {10: {"first"}, 20: {"first"}, 30: {"first", "second"}} | {
        step: {"second"} for step in (40, 50, 60)
    }
    assert all(np.isfinite(value) for line in lines(tmp_path) for value in line.values())


def test_the_first_step_that_breaks_within_a_stage_is_named(tmp_path, two):
    run = two(optimizer={"name": "sgd", "learning_rate": 0.05}, checkpoint_every=1)
    with pytest.raises(DivergedError, match=r"step \d+ of 60 .* info.first/loss.* broke first"):
        run_in(tmp_path, run)


WORDS = ("", "left", "right", "up")


def without_x(names):
    """Opens the digits as other arrays: a signal [B, 64], and words [B, 3] that say something."""

    def opened(*args):
        source = open_source(*args)

        def other(batch):
            flat = batch["x"].reshape(len(batch["x"]), -1)
            made = {"words": jnp.asarray(flat[:, 20:23] * 3, jnp.int32), "signal": flat}
            return {name: made[name] for name in names}

        spaces = {"words": categorical(len(WORDS)), "signal": REAL}
        return source._replace(
            batch=lambda *args: other(source.batch(*args)),
            held_out=lambda *args: other(source.held_out(*args)),
            spaces={name: spaces[name] for name in names},
            symbols={"words": WORDS} if "words" in names else {},
        )

    return opened


def make_other(name):
    """The toy, of an array of another name; its samples are the last batch's, noise added."""

    def make(config, tx):
        as_x = lambda batch: {"x": jnp.asarray(batch[name], jnp.float32)}
        toy = make_toy(config, tx)
        measure = toy.log_prob.value
        whole = jnp.array([[1, 0, 2], [3, 3, 0]])

        def sample(key, state, n, given=NOTHING):
            x = toy.sample(key, state, n)["x"]
            words = whole[jax.random.randint(key, (n,), 0, 2)]
            return {"words": words} if name == "words" else {"words": words, "signal": x}

        return Model(
            init=lambda key, batch: toy.init(key, as_x(batch)),
            step=lambda key, state, batch: toy.step(key, state, as_x(batch)),
            sample=sample,
            log_prob=Measure(lambda k, s, b: measure(k, s, as_x(b)), Exactness.EXACT),
            spaces={name: categorical(4) if name == "words" else REAL},
        )

    return make


@pytest.mark.parametrize("name", ["signal", "words"])
def test_data_without_an_x_are_learnt_from_and_shown(tmp_path, toy, monkeypatch, name):
    other = Family("other", "descend", "Another.", lambda: (ToyConfig, make_other(name)))
    monkeypatch.setitem(ZOO, "other", other)
    names = ("words",) if name == "words" else ("words", "signal")
    monkeypatch.setattr(setups, "open_source", without_x(names))
    run = toy(model={"name": "other"}, samples=5, steps=30)
    run_in(tmp_path, run)
    left = {p.name for p in (tmp_path / "samples").iterdir()}
    drawn = {"step_00000030.png", "data.png"} if name == "signal" else set()
    assert left == {"step_00000030.txt", "data.npz", "data.txt"} | drawn
    said = (tmp_path / "samples" / "step_00000030.txt").read_text().splitlines()
    assert len(said) == 5 and set(said) <= {"left right", "up up"}
    assert "test/log_prob" in lines(tmp_path)[1]
    again = trained.read(Workdir(tmp_path), run)
    assert again.symbols == {"words": list(WORDS)}
    assert trained.restore(again, Workdir(tmp_path))[0] == 30
    assert said[0] in (tmp_path / "report.html").read_text()


def test_what_is_shown_of_a_batch():
    images, flat, label = np.zeros((4, 8, 8, 1)), np.zeros((4, 3)), np.zeros(4, int)
    assert shown.drawn({"a": flat, "x": images, "label": label}) == "x"
    assert shown.drawn({"label": label, "a": flat, "b": images}) == "a"
    assert shown.drawn({"label": label}) is None
    text = np.array([[0, 1, 2], [2, 2, 0]])
    look = shown.Look({"x": ["a", "\n", "b"], "label": ["none"], "image": ["never"]})
    assert shown.drawn({"x": text, "label": label}, look) is None
    assert shown.drawn({"x": text, "image": images}, look) == "image"
    assert shown.texts({"x": text, "label": label, "image": images}, look) == {"x": ["a⏎b", "bba"]}
    words = shown.Look({"x": ["", "one", "two"]})
    assert shown.texts({"x": text}, words) == {"x": ["one two", "two two"]}
    # By its tokenizer, without what fills up a row; what says of x how it is packed is no picture.
    packed = {"x": text, "document": np.array([[1, 1, 1], [1, 2, 0]]), "loss_mask": np.ones((2, 3))}
    spelt = shown.Look(tokenizer=of_characters(["a", "b", "c"]))
    assert shown.drawn(packed, spelt) is None
    assert shown.texts(packed, spelt) == {"x": ["abc", "cc"]}
    # A model may have more symbols than its tokenizer.
    assert shown.texts({"x": text + 1}, spelt) == {"x": ["bc<3>", "<3><3>b"]}
    assert shown.texts({"x": text[:, :0]}, spelt) == {"x": ["", ""]}
