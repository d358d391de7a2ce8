"""How a run is run again: it is told by what was run, and whoever follows it gets the same bits."""

import json
import shlex
import subprocess

import pytest

from genjax_zoo.commands.configs import load
from genjax_zoo.contract import ConfigError, ZooError
from genjax_zoo.main import main
from genjax_zoo.run.record import checkout, recipe
from genjax_zoo.run.record.workdir import Workdir
from tests.test_loop import outcome
from tests.test_main import CONFIG_FILE


@pytest.fixture
def train(toy, tmp_path, monkeypatch, capsys):
    """Trains by the words of a command line in an empty folder; returns what it says on stderr."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.py").write_text(CONFIG_FILE)

    def run(*words, status=0):
        assert main(["genjax-zoo", "train", *words]) == status
        return capsys.readouterr().err

    return run


def commands(folder):
    """The commands by which a run is done again, as words."""
    told = recipe.again(Workdir(folder).read_runs(), Workdir(folder).root)
    words = [shlex.split(line) for line in told.lines if " train " in line]
    return [line[line.index("train") + 1 :] for line in words], told


def test_whoever_follows_the_recipe_gets_the_same_bits(train, tmp_path):
    """Of a run that began by overrides, was resumed, and then changed its config."""
    train("--config=toy.py:digits", "--workdir=a", "--config.seed=7", "--config.model.average=0.5")
    train("--workdir=a")
    train("--workdir=a", "--config.steps=9", "--config.log_every=2", "--allow_config_change")
    # Its own files are all that is needed.
    (tmp_path / "toy.py").unlink()
    lines, told = commands("a")
    assert [" ".join(line).count("--allow_config_change") for line in lines] == [0, 1]
    assert not any("SIGTERM" in remark for remark in told.remarks)
    for line in lines:
        train(*line)
    assert outcome(tmp_path / "a-again") == outcome(tmp_path / "a")
    page = (tmp_path / "a" / "report.html").read_text()
    assert "--config=a/again/config-" in page and "--workdir=a-again" in page
    (first, _, last) = Workdir("a").read_runs()
    assert first["data"]["sha256"] == last["data"]["sha256"] and len(first["data"]["sha256"]) == 64
    assert any(first["data"]["sha256"][:16] in remark for remark in told.remarks)
    packages = (tmp_path / "a" / first["recipe"]["packages"]).read_text().splitlines()
    assert packages[0].startswith("# python 3.") and any(p.startswith("jax==") for p in packages)


def test_the_config_of_a_run_is_a_config(train, tmp_path):
    train("--config=toy.py:digits", "--workdir=a", "--config.seed=7")
    train("--config=a/config.json", "--workdir=b")
    assert outcome(tmp_path / "a") == outcome(tmp_path / "b")
    assert load("a/config.json") == load("b/config.json")
    for text, telling in {
        "{": "cannot be read: Expecting",
        "[]": "is no config of a run: it should be an object",
        '{"steps": 3}': "is no config of a run: model is missing",
    }.items():
        (tmp_path / "c.json").write_text(text)
        assert telling in train("--config=c.json", "--workdir=c", status=2)
    assert "cannot be read: No such file" in train("--config=d.json", "--workdir=c", status=2)
    # What is lost is not replaced by the quickstart in silence.
    (tmp_path / "a" / "config.json").unlink()
    assert "config.json does not exist" in train("--workdir=a", status=2)


@pytest.mark.parametrize("name", ["", " ", "\0", "x" * 300, "x" * 300 + ".py:a"])
def test_a_config_that_is_no_file_is_refused(name):
    with pytest.raises((ConfigError, ZooError), match=r"names no file|is no path"):
        load(name)


def test_a_checkout_with_changes_keeps_them_as_a_patch(monkeypatch, tmp_path):
    git = ["git", "-C", str(tmp_path / "repo"), "-c", "user.name=n", "-c", "user.email=e@x"]
    package = tmp_path / "repo" / "genjax_zoo"
    package.mkdir(parents=True)
    subprocess.run([*git, "init", "-q"], check=True)
    (package / "__init__.py").write_text("a = 1\n")
    (package / "gone.py").write_text("")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "one"], check=True)
    monkeypatch.setattr(checkout, "PACKAGE", package)
    assert checkout.commit()[1] is False and checkout.changes() is None
    (package / "__init__.py").write_bytes(b"a = 2  # \xff\n")
    (package / "gone.py").unlink()
    (package / "new.bin").write_bytes(bytes(range(256)))
    kept = recipe.keep(tmp_path / "run", {"steps": 3})
    status = subprocess.run([*git, "status", "--short"], capture_output=True, text=True).stdout
    assert "A " not in status and "?? genjax_zoo/new.bin" in status
    clone = ["git", "clone", "-q", str(tmp_path / "repo"), str(tmp_path / "clone")]
    subprocess.run(clone, check=True)
    patch = str(tmp_path / "run" / kept["changes"])
    subprocess.run(["git", "-C", str(tmp_path / "clone"), "apply", patch], check=True)
    same = {p.name: p.read_bytes() for p in package.iterdir()}
    assert {p.name: p.read_bytes() for p in (tmp_path / "clone/genjax_zoo").iterdir()} == same


def start(first, last, config="a", commit="c", **more):
    kept = {"config": f"again/{config}", "steps": 100, "packages": "again/p", "environ": {}}
    about = {"first_step": first, "last_step": last, "commit": commit}
    return about | {"recipe": kept | {"changes": None} | more}


def test_the_recipe_is_of_what_is_left_of_the_run(tmp_path):
    again = lambda *starts: recipe.again(starts, tmp_path / "run")
    # One that was killed before it saved anything, and two that resumed, are one command.
    told = again(start(0, None, "wrong"), start(0, 60), start(60, 100))
    assert len(told.lines) == 3 and told.lines[0] == "git checkout c"
    assert told.lines[1] == f"pip install -r {tmp_path}/run/again/p"
    assert told.lines[2].startswith(f"genjax-zoo train --config={tmp_path}/run/again/a --workdir=")
    # Another config in the middle: the first must be stopped where it was.
    told = again(
        start(0, 60), start(60, 100, "b", changes="again/d.diff", environ={"XLA_FLAGS": "-x"})
    )
    assert told.lines[3:5] == ["git checkout c", f"git apply {tmp_path}/run/again/d.diff"]
    assert told.lines[5].startswith("env XLA_FLAGS=-x genjax-zoo train --config=")
    assert "left after step 60 of 100: stop it there" in told.remarks[0]
    older = start(0, 60)
    del older["recipe"]
    assert again() is again(older) is again(older, start(60, 100)) is again({"recipe": 3}) is None


def test_the_environment_is_told_without_what_the_command_sets_itself():
    ours = " ".join(f"{flag}={value}" for flag, value in recipe.startup.FLAGS.items())
    own = {"XLA_FLAGS": f"--a {ours}", "JAX_ENABLE_X64": "1"}
    assert recipe._environ(own | {"HOME": "x"}) == {"XLA_FLAGS": "--a", "JAX_ENABLE_X64": "1"}
    assert recipe._environ({"XLA_FLAGS": ours}) == {}


def test_data_that_have_changed_are_said_so(train, tmp_path):
    train("--config=toy.py:digits", "--workdir=a")
    runs = json.loads((tmp_path / "a" / "run.json").read_text())
    assert "no longer" not in train("--workdir=a")
    runs[0]["data"]["sha256"] = "0" * 64
    (tmp_path / "a" / "run.json").write_text(json.dumps(runs))
    said = train("--workdir=a", status=2)
    assert "has learnt from 1438 training examples of digits, and there are as many, but" in said
    said = train("--workdir=a", "--allow_config_change")
    assert "the data are no longer those that this run was trained on before" in said
