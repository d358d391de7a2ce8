"""Workdirs: files whole or not at all, one run in each, and disks that are full."""

import contextlib
import errno
import fcntl
import json
import math
import os
import shutil
import subprocess
import types

import jax.numpy as jnp
import numpy as np
import pytest

from genjax_zoo.contract import CheckpointError, ConfigError, ZooError
from genjax_zoo.run import trained
from genjax_zoo.run.record import files, schema
from genjax_zoo.run.record.checkpoint import Checkpoints
from genjax_zoo.run.record.reading import curves_of
from genjax_zoo.run.record.workdir import Workdir, write_json

CONFIG = {"seed": 0, "model": {"name": "toy", "widths": (3, 4)}}


@pytest.fixture
def workdir(tmp_path):
    made = Workdir(tmp_path / "deep" / "run")
    made.create()
    return made


def begin(workdir):
    workdir.append_metrics(1, {"loss": 0.5})


def test_create_leaves_only_the_folder(workdir):
    workdir.create()
    assert list(workdir.root.iterdir()) == []


def test_home_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Workdir("~/x").root == tmp_path / "x"


def start(workdir, config, allow_change=False):
    """What a run does before its first step."""
    workdir.claim(config, allow_change)
    workdir.write_config(config)


def test_one_run_at_a_time(workdir):
    another = pytest.raises(ZooError, match="another process is training")
    with workdir.lock(), another, workdir.lock():
        pass
    with workdir.lock():
        pass


def test_a_file_system_without_locks_is_said_so_and_trained_on(workdir, monkeypatch, capsys):
    def none(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    with workdir.lock():
        pass
    told = capsys.readouterr().err
    assert "without locks (No locks available): see to it that no second process" in told


def test_a_link_to_nothing_is_said_so(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for place in (tmp_path / "link", tmp_path / "link" / "below"):
        with pytest.raises(ZooError, match=r"cannot be written: .*link is a link to nothing\. "):
            Workdir(place).create()


def test_the_same_config_claims_again(workdir):
    start(workdir, CONFIG)
    begin(workdir)
    workdir.claim(CONFIG, False)
    assert workdir.read_config() == {"seed": 0, "model": {"name": "toy", "widths": [3, 4]}}


def test_another_config_is_refused_with_the_difference(workdir):
    start(workdir, CONFIG)
    begin(workdir)
    other = {"seed": 1, "model": {"name": "toy", "widths": (3, 5), "new": True}}
    with pytest.raises(ConfigError) as caught:
        workdir.claim(other, False)
    assert str(caught.value).splitlines()[1:4] == [
        "  model.new: '(absent)' there, True now",
        "  model.widths: [3, 4] there, [3, 5] now",
        "  seed: 0 there, 1 now",
    ]
    assert "--allow_config_change" in str(caught.value)
    assert workdir.read_config()["seed"] == 0
    start(workdir, other, True)
    assert workdir.read_config()["seed"] == 1


def test_a_run_that_never_began_claims_nothing(workdir):
    # The first command named a data set that is not there; the corrected one must not be refused.
    start(workdir, CONFIG)
    workdir.checkpoints.mkdir()
    start(workdir, CONFIG | {"seed": 1})
    assert workdir.read_config()["seed"] == 1
    (workdir.checkpoints / "20").mkdir()
    with pytest.raises(ConfigError, match="seed: 1 there, 2 now"):
        workdir.claim(CONFIG | {"seed": 2}, False)


def test_an_untrained_workdir_says_what_to_do(tmp_path):
    with pytest.raises(ZooError, match=r"config\.json does not exist; train a model in it first"):
        Workdir(tmp_path).read_config()


@pytest.mark.parametrize(
    ("made", "commit", "advice"),
    [
        ("0.1.0", "c" * 40, "check out commit cccccccccc to work with it"),
        ("0.1.3.dev1", None, "use version 0.1.3.dev1 to work with it"),
    ],
)
def test_a_run_of_an_older_version_is_said_so(workdir, made, commit, advice):
    start(workdir, CONFIG)
    write_json(workdir.runs, [{"genjax_zoo": made, "commit": commit}])
    with pytest.raises(ZooError) as caught:
        workdir.read_config()
    assert f"was made by genjax_zoo {made}, whose models this version" in str(caught.value)
    assert advice in str(caught.value) and "train again in another --workdir" in str(caught.value)


@pytest.mark.parametrize("made", ["0.2.0", "0.10", "1.0.0", "0.2.1+local", None, "unknown"])
def test_a_run_of_this_version_or_a_later_one_is_read(workdir, made):
    start(workdir, CONFIG)
    write_json(workdir.runs, [{"genjax_zoo": made}])
    assert workdir.read_config()["seed"] == 0


def test_a_torn_config_is_said_so(workdir):
    workdir.config.write_text('{"seed": ')
    with pytest.raises(ZooError, match=r"config\.json cannot be read"):
        workdir.read_config()


def test_rewinding_forgets_later_lines_and_a_torn_one(workdir):
    for step in (10, 20, 30):
        workdir.append_metrics(step, {"loss": 1 / step})
    whole = workdir.metrics.read_text().splitlines(keepends=True)
    workdir.rewind_metrics(20)
    assert workdir.metrics.read_text() == "".join(whole[:2])
    with workdir.metrics.open("a") as file:
        file.write('{"step": 30, "lo')
    workdir.rewind_metrics(30)
    assert workdir.metrics.read_text() == "".join(whole[:2])


def test_a_damaged_line_of_metrics_takes_no_other_with_it(workdir, capsys):
    whole = ['{"step": 10, "loss": 1.0}', '{"step": 30, "loss": 1.0}', '{"step": 40, "loss": 1.0}']
    for damage in ("{", "3", "[]", '{"loss": 1}', '{"step": "x"}', "[" * 100_000):
        workdir.metrics.write_text("\n".join([whole[0], damage, *whole[1:], "torn"]))
        workdir.rewind_metrics(30)
        assert workdir.metrics.read_text().splitlines() == whole[:2]
        assert capsys.readouterr().err.count("cannot be read, and is left out") == 1


NOT_JSON = ("", "{", "\x00\xff", "[" * 100_000)
ORIGIN = {"workdir": "a", "asked": "last", "step": 1, "sha256": "", "config": {}, "arrays": {}}
GOOD = {
    "config.json": {"model": {"name": "toy"}},
    "run.json": [{"genjax_zoo": None, "begun": {"params": ORIGIN | {"begun": {"x": ORIGIN}}}}],
    "example.json": {"arrays": {"x": ["float32", [2, 3]]}, "interval": [0, 1.0], "symbols": {}},
    "metrics.json": [{"name": "log_prob", "value": float("nan")}],
}
DAMAGED = {
    "config.json": [None, 3, "x", [], {}, {"model": 3}, {"model": {"name": 3}}],
    "run.json": [
        *(None, 3, {}, [1], [{"commit": 3}], [{"begun": 3}], [{"begun": {"x": {}}}]),
        *([{"begun": {"x": ORIGIN | {"step": "1"}}}], [{"begun": {"x": ORIGIN | {"step": True}}}]),
        [{"begun": {"params": ORIGIN | {"begun": {"x": ORIGIN | {"arrays": {"x": 3}}}}}}],
    ],
    "example.json": [
        *(None, [], {}, GOOD["example.json"] | {"interval": [0]}),
        *(GOOD["example.json"] | {"arrays": {"x": a}} for a in (3, ["float99", [1]], ["int8", 1])),
        *(GOOD["example.json"] | {"arrays": {"x": ["int8", s]}} for s in ([-1], [1.5], [2**80])),
        *(GOOD["example.json"] | {"symbols": s} for s in (3, {"label": 3}, {"label": [3]})),
    ],
    "metrics.json": [None, {}, [3], [{}], [{"name": 3}], [{"name": "a", "protocol": 3}]],
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_one_sentence_with_its_own_advice(workdir, name):
    path = workdir.root / name
    write_json(path, GOOD[name])
    workdir.read(path)
    for text in (*NOT_JSON, *map(json.dumps, DAMAGED[name])):
        path.write_bytes(text.encode("latin1"))
        with pytest.raises(ZooError) as caught:
            workdir.read(path)
        told = str(caught.value)
        assert told.startswith((f"{path} is damaged: ", f"{path} cannot be read: "))
        assert told.endswith(schema.FILES[name].advice) and len(told) < 400 and "\n" not in told


def test_what_is_damaged_is_said_by_its_place():
    shape = schema.FILES["run.json"].shape
    told = schema.problem([{}, {"begun": {"params": ORIGIN | {"arrays": {"x": 3}}}}], shape)
    assert told.startswith("[1].begun.params.arrays.x should be a dtype and a shape, such as ")
    assert told.endswith(", got 3")
    assert (
        schema.problem([{"begun": {"params": {}}}], shape) == "[0].begun.params.workdir is missing"
    )


# ------------------------------------------------------------------------ disks that do not take it


def test_a_place_that_cannot_be_written_is_said_so(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below", "/proc/genjax_zoo"):
        with pytest.raises(ZooError, match=r"--workdir=.* cannot be written: .*Choose another"):
            Workdir(place).create()


def test_a_write_that_fails_leaves_what_was_there(workdir, monkeypatch):
    target = files.write(workdir.root / "a.json", "old")

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write(target, "new")
    assert target.read_text() == "old"
    assert list(workdir.root.iterdir()) == [target]


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("a\0b", "embedded null byte"),
        ("x" * 300, "File name too long"),
        ("y/" * 3000, r"\(6002 characters\) is no path: File name too long"),
        ("a\udcff", "its name is not UTF-8"),
        ("~nobody_of_this_name/a", "home directory"),
    ],
)
def test_what_can_be_no_path_is_said_so(path, why):
    with pytest.raises(ZooError, match=why) as caught:
        Workdir(path)
    assert len(str(caught.value)) < 250 and str(caught.value).endswith(". Choose another.")


@pytest.mark.parametrize("name", ["a[1]", "b\\c", "d*", "e?", "[f]/g"])
def test_a_path_that_the_saver_reads_as_a_pattern_is_refused_before_training(tmp_path, name):
    with pytest.raises(ZooError, match="the checkpoints would be lost; choose a path without any"):
        Workdir(tmp_path / name).create()
    assert list(tmp_path.iterdir()) == []
    Workdir(tmp_path / "]{1}, ü'#% ~!").create()


def test_a_checkpoint_that_cannot_be_found_again_is_no_success(tmp_path):
    """Nobody looked: orbax returns, says nothing, and has lost what it was given."""
    state = {"mean": jnp.arange(3.0), "count": jnp.zeros((), jnp.int32)}
    whole = Checkpoints(tmp_path / "whole", "toy")
    whole.save(1, state)
    whole.save(2, state, score=1.0)
    whole.wait()
    lost = Checkpoints(tmp_path / "lost[1]", "toy")
    lost.save(1, state)
    with pytest.raises(CheckpointError, match=r"was written, but cannot be read .* none yet"):
        lost.wait()
    with pytest.raises(CheckpointError, match="was written, but cannot be read"):
        lost.save(2, state)
    assert not (tmp_path / "lost[1]" / "2").exists()


def test_a_score_is_kept_with_what_it_was_measured_of(tmp_path):
    """By which `restore` refuses to tell the best of numbers that do not compare."""
    state = {"mean": jnp.arange(3.0)}
    checkpoints = Checkpoints(tmp_path / "checkpoints", "toy", keep_last=3)
    for step, score, of in ((1, 2.0, "windows of 64"), (2, 1.0, "windows of 9"), (3, None, "")):
        checkpoints.save(step, state, score, of)
    checkpoints.wait()
    assert checkpoints.measured() == {1: "windows of 64", 2: "windows of 9"}
    again = Checkpoints(tmp_path / "checkpoints", "toy", read_only=True)
    assert again.measured() == checkpoints.measured()
    parts = types.SimpleNamespace(
        model=types.SimpleNamespace(log_prob=None, measures={}), like=state,
        run=types.SimpleNamespace(model={"name": "toy"}, keep_last=3, checkpoint_every=1),
    )  # fmt: skip
    workdir = types.SimpleNamespace(checkpoints=tmp_path / "checkpoints", root=tmp_path)
    with pytest.raises(ZooError, match=r"best cannot be told.*step 1: windows of 64; step 2: wind"):
        trained.restore(parts, workdir, "best")
    assert trained.restore(parts, workdir, "1")[0] == 1


def test_a_checkpoint_of_other_arrays_than_were_saved_is_no_success(tmp_path):
    """It can be read, and is not what was written."""
    other = Checkpoints(tmp_path / "other", "toy")
    other.save(1, {"mean": jnp.arange(4.0)})
    other.wait()
    checkpoints = Checkpoints(tmp_path / "checkpoints", "toy")
    checkpoints.save(1, {"mean": jnp.arange(3.0)})
    checkpoints._manager.wait_until_finished()
    shutil.rmtree(tmp_path / "checkpoints" / "1" / "state")
    shutil.copytree(tmp_path / "other" / "1" / "state", tmp_path / "checkpoints" / "1" / "state")
    with pytest.raises(CheckpointError, match=r"cannot be read in .*mean.* cannot be found again"):
        checkpoints.wait()


def test_the_last_checkpoint_goes_when_the_next_has_been_looked_at(tmp_path):
    """It went when the next was written, which nobody had opened yet."""
    state = {"mean": jnp.arange(3.0)}
    checkpoints = Checkpoints(tmp_path / "checkpoints", "toy", keep_last=1)
    checkpoints.save(1, state)
    checkpoints.save(2, state)
    checkpoints._manager.wait_until_finished()
    (tmp_path / "checkpoints" / "2" / "state" / "_METADATA").unlink()
    with pytest.raises(CheckpointError, match=r"cannot be read in .* The last whole one is step 1"):
        checkpoints.wait()
    after = Checkpoints(tmp_path / "after", "toy", keep_last=1)
    for step, score in ((1, 2.0), (2, 1.0), (3, 1.0)):
        after.save(step, state, score)
    after.close()
    assert after.steps() == [1, 3]


def test_numbers_that_are_no_json_are_written_so_that_all_can_read_them(workdir):
    workdir.append_metrics(1, {"a": float("nan"), "b": float("-inf"), "c": 0.1})
    write_json(workdir.root / "x.json", {"d": [float("inf")], "said": "NaN, Infinity"})
    text = workdir.metrics.read_text() + (workdir.root / "x.json").read_text()
    refused = lambda constant: pytest.fail(f"{constant} is no JSON")
    assert json.loads(workdir.metrics.read_text(), parse_constant=refused) == {
        "step": 1,
        "a": None,
        "b": -math.inf,
        "c": 0.1,
    }
    assert json.loads((workdir.root / "x.json").read_text(), parse_constant=refused) == {
        "d": [math.inf],
        "said": "NaN, Infinity",
    }
    assert "1e999" in text
    # What was written before is read as well.
    workdir.metrics.write_text(
        '{"step": 1, "a": NaN, "b": -Infinity}\n' + workdir.metrics.read_text()
    )
    assert curves_of(workdir.metrics)["b"] == [(1, -math.inf)]


@contextlib.contextmanager
def mounted(folder, options):
    """A little file system of its own; skips where this user may not mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip("this user may not mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_found_before_the_run_begins(tmp_path):
    with mounted(tmp_path / "disk", "size=64k") as disk:
        with contextlib.suppress(OSError), (disk / "filler").open("wb") as filler:
            while True:
                filler.write(bytes(4096))
                filler.flush()
        with pytest.raises(ZooError, match="cannot be written: No space left"):
            Workdir(disk / "run").create()
        assert not any((disk / "run").glob("*"))


def test_a_disk_that_is_full_of_the_checkpoint_is_said_so(tmp_path):
    with mounted(tmp_path / "disk", "size=256k") as disk:
        saved = Checkpoints(disk / "checkpoints", "toy")
        state = {"mean": jnp.asarray(np.random.default_rng(0).normal(size=200_000))}
        with pytest.raises(CheckpointError) as caught:
            saved.save(1, state)
            saved.wait()
        assert ": No space left on device. There is none yet; free some room" in str(caught.value)


def test_a_read_only_disk_is_found_before_the_run_begins(tmp_path):
    with mounted(tmp_path / "disk", "size=64k,ro") as disk:
        for place in (disk, disk / "run"):
            with pytest.raises(ZooError, match="cannot be written: Read-only"):
                Workdir(place).create()
