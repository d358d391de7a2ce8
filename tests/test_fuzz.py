"""Nonsense of every kind, through the door that users come by: one sentence, or what was asked for.

Never a traceback, a hang, or NaN taken for a number. The tables say how the cases are made, some
five thousand, so that a new family, flag or file joins by itself.
"""

import json
import os
import shutil
import signal

import pytest

from genjax_zoo.commands.configs import CONFIGS, load, names_of
from genjax_zoo.commands.flags import COMMANDS, FLAGS
from genjax_zoo.contract import ConfigError
from genjax_zoo.models import ZOO
from genjax_zoo.run import config
from tests.test_main import call, trained_folder

__all__ = ["call", "trained_folder"]
pytestmark = pytest.mark.slow
SECONDS = 90
"""A case that takes longer hangs."""


@pytest.fixture(autouse=True)
def no_hang(monkeypatch):
    def late(*_):
        raise TimeoutError(f"nothing came back within {SECONDS} seconds")

    def left(status):
        raise AssertionError(f"the process ended with {status}")

    before = signal.signal(signal.SIGALRM, late)
    monkeypatch.setattr(os, "_exit", left)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


# ---------------------------------------------------------------------------------- every number


NONSENSE = (float("nan"), float("inf"), -1, 10**12, "8")


def fields_of(nested, path=()):
    """(path, value) of each leaf of a nested config."""
    if isinstance(nested, dict):
        for name, value in nested.items():
            yield from fields_of(value, (*path, name))
    else:
        yield path, nested


def is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def numbers_of(family):
    """The paths of a config that hold a number, or a tuple whose first is one."""
    for path, value in fields_of(variant(family)):
        one = value[0] if isinstance(value, tuple | list) and value else value
        # The outer fields are those of all families.
        if is_number(one) and (path[0] == "model" or family == "vae"):
            yield path


def variant(family):
    path = CONFIGS / f"{family}.py"
    return load(f"{path}:{next(iter(names_of(path)['VARIANTS']))}").to_dict()


def put(nested, path, value):
    """The same nested config with another value at a path; of a tuple, instead of its first."""
    head, *rest = path
    if rest:
        return {**nested, head: put(nested[head], rest, value)}
    old = nested[head]
    return {**nested, head: (value, *old[1:]) if isinstance(old, tuple | list) else value}


NUMBERS = [(family, path) for family in ZOO for path in numbers_of(family)]


@pytest.mark.parametrize(
    ("family", "path"), NUMBERS, ids=[f"{family}-{'.'.join(path)}" for family, path in NUMBERS]
)
def test_a_number_that_nobody_means_is_refused_in_a_sentence(family, path):
    for value in NONSENSE:
        signal.alarm(SECONDS)
        try:
            config.read(put(variant(family), path, value))
        except ConfigError as error:
            assert path[-1] in str(error) and "\n" not in str(error), error
        else:
            assert is_number(value) and abs(value) < float("inf"), f"{value!r} was taken"


# ------------------------------------------------------------------------------------ every flag


WORDS = (
    "",
    "-1",
    "nan",
    "1e99",
    "9" * 40,
    "²",
    "[x]*",
    "\\",
    "a\0b",
    "é" * 300,
    "None",
    "{}",
    "x=y",
)
# One that tells of other processes ends the process when it fails, for they would wait for it.
FLAGGED = [(c, f.name) for f in FLAGS for c in f.of if f.name != "coordinator"]


@pytest.fixture
def trained(call, trained_folder, tmp_path):
    shutil.copytree(trained_folder, tmp_path / "run")
    return call


@pytest.mark.parametrize(("command", "flag"), FLAGGED)
def test_a_flag_that_makes_no_sense_is_refused_in_a_sentence(trained, command, flag):
    for word in WORDS:
        signal.alarm(SECONDS)
        words = {"workdir": "run"} if command != "list" else {}
        if command == "train":
            words["config"] = "toy.py:digits"
        trained(command, *(f"--{name}={value}" for name, value in (words | {flag: word}).items()))


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("word", [*WORDS, "--", "-", "--config", "--config.", "--no", "--=3"])
def test_a_word_that_makes_no_sense_is_refused_in_a_sentence(trained, command, word):
    signal.alarm(SECONDS)
    status, _, _ = trained(command, word)
    assert status == 2


# ------------------------------------------------------------------------------------ every file


FILES = ("config.json", "run.json", "example.json", "eval/metrics.json", "metrics.jsonl")
DAMAGES = {
    "empty": lambda text: "",
    "half": lambda text: text[: len(text) // 2],
    "null": lambda text: "null",
    "list": lambda text: "[]",
    "number": lambda text: "3",
    "dict": lambda text: "{}",
    "others": lambda text: json.dumps(mangled(first_of(text), 0)),
    "deep": lambda text: json.dumps(mangled(first_of(text), 2)),
    "noise": lambda text: "\0\x7f\u2028}{",
}


def first_of(text):
    """A file's JSON, or that of its first line."""
    try:
        return json.loads(text)
    except ValueError:
        return json.loads(text.splitlines()[0])


def mangled(value, depth):
    """The same JSON, at some depth of which every value is of another type."""
    if depth < 0 or not isinstance(value, dict | list):
        return {"x": None} if isinstance(value, str | float | int) else 3
    if isinstance(value, dict):
        return {name: mangled(one, depth - 1) for name, one in value.items()}
    return [mangled(one, depth - 1) for one in value]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_told_of_in_a_sentence(trained, tmp_path, file, damage):
    path = tmp_path / "run" / file
    whole = path.read_text()
    for command in ("sample", "evaluate", "explore", "train"):
        signal.alarm(SECONDS)
        path.write_text(DAMAGES[damage](whole))
        trained(command, "--workdir=run", *(["--config.steps=7"] if command == "train" else []))
