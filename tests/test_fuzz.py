"""Words that make no sense, given to the commands themselves: a sentence, or what was asked for.

Never a traceback, a hang or the last door. A new command or flag joins by itself; what numbers of a
config take is in test_config, damaged files in test_damage and test_torn_files.
"""

import os
import shutil
import signal

import pytest

from genjax_zoo.commands.flags import COMMANDS, FLAGS
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
FLAGGED = [(c, f.name) for f in FLAGS for c in f.of]


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
