"""What stops a command without being asked for: each is one sentence, and no traceback."""

import errno
import os
import re
import subprocess
import sys
import threading
import time

import jax.numpy as jnp
import pytest

from genjax_zoo.commands import failures
from genjax_zoo.contract import CheckpointError
from genjax_zoo.run.record.checkpoint import Checkpoints
from tests.conftest import ROOT

COMMAND = (sys.executable, "-m", "genjax_zoo.main")


def shell(line, **environ):
    """What a shell makes of a line in which `zoo` is the command."""
    line = line.replace("zoo", " ".join(COMMAND))
    words = ["bash", "-c", f"set -o pipefail; {line}"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), **environ}
    return subprocess.run(words, capture_output=True, text=True, env=environ)


def python(script, **environ):
    """What a process makes of a script."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT), **environ}
    words = [sys.executable, "-c", script]
    return subprocess.run(words, capture_output=True, text=True, env=environ)


def test_a_reader_that_has_gone_is_told_nothing():
    for line in ("zoo --help | true", "zoo --nothing 2>&1 | true"):
        done = shell(line)
        assert done.stderr == "" and done.returncode in (141, 2, 0)
    assert shell("zoo --help >&-").stderr == ""


def test_an_output_that_takes_nothing_is_one_sentence():
    done = shell("zoo --help > /dev/full")
    assert done.returncode == 2
    (told,) = done.stderr.splitlines()
    assert told.startswith("genjax-zoo: a file cannot be written: No space left on device.")


def test_a_terminal_without_the_letters_is_shown_something_else():
    script = "from genjax_zoo.commands import failures; failures.watch(); print('± 1')"
    done = python(script, PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and done.stdout == "\\xb1 1\n"


FIND = """
import jax
from genjax_zoo.commands import failures

try:
    jax.devices()
except Exception as error:
    print(failures.foreseen(error))
"""


@pytest.mark.parametrize("platform", ["cuda", "nonsense"])
def test_devices_that_are_not_there_are_one_sentence(platform):
    if os.path.exists("/dev/nvidia0"):
        pytest.skip("there is a GPU to be seen")
    told = python(FIND, JAX_PLATFORMS=platform).stdout
    assert told.startswith(f"JAX_PLATFORMS={platform}: jax finds no device to work on: ")
    assert "set it to cpu" in told and len(told.splitlines()) == 1


@pytest.mark.parametrize(
    ("code", "command", "telling"),
    [
        (
            errno.ENOSPC,
            "train",
            "cannot be written: .* Free some room, or choose another --workdir",
        ),
        (errno.EROFS, "sample", "cannot be written: .* Mend that, or choose another .* by --out"),
        (errno.EACCES, "explore", "cannot be opened: Permission denied.*--out"),
        (errno.EROFS, "evaluate", "printed above are right, and not kept"),
        (errno.EMFILE, "train", "cannot be opened: Too many open files. Allow more .*ulimit -n"),
        (errno.EIO, "", "cannot be opened: .* try again"),
    ],
)
def test_a_disk_has_its_sentence_and_its_advice(code, command, telling):
    error = OSError(code, os.strerror(code), "/far/file")
    assert failures.foreseen(error, command).startswith("/far/file cannot be ")

    assert re.search(telling, failures.foreseen(error, command))


def test_memory_has_its_sentence_and_others_have_none():
    error = RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes.\nand more")
    told = failures.foreseen(error)
    assert told.startswith("there is not enough memory: RESOURCE_EXHAUSTED: Out of memory alloc")
    assert "batch_size" in told and "\n" not in told
    assert failures.foreseen(MemoryError()).startswith("there is not enough memory: no more is")
    for other in (ValueError("x"), OSError(errno.ENOENT, "x"), AssertionError()):
        assert failures.foreseen(other) is None


def test_what_is_unforeseen_goes_elsewhere_where_the_workdir_takes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(failures.tempfile, "gettempdir", lambda: str(tmp_path))
    told = failures.unforeseen(ValueError("a\nb"), "/proc/nowhere")
    (file,) = tmp_path.iterdir()
    assert (
        f"ValueError: a. The details are in {file};" in told and "ValueError: a" in file.read_text()
    )
    monkeypatch.setattr(failures.tempfile, "gettempdir", lambda: "/proc/nowhere")
    assert "could not be written to any file; the same command with --debug" in failures.unforeseen(
        ValueError("a")
    )


def test_what_libraries_print_of_a_loop_that_is_closed_is_left_out(monkeypatch, capsys):
    for hook in ("excepthook", "unraisablehook"):
        monkeypatch.setattr(sys, hook, getattr(sys, hook))
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    failures.watch()
    for message in ("Event loop is closed", "another"):
        sys.excepthook(RuntimeError, RuntimeError(message), None)
        leaving = Leaving()
        leaving.message = message
        del leaving
    told = capsys.readouterr().err
    assert "closed" not in told and told.count("RuntimeError: another") == 2


def test_what_fails_a_thread_of_a_library_stops_the_run_by_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    for hook in ("excepthook", "unraisablehook"):
        monkeypatch.setattr(sys, hook, getattr(sys, hook))
    monkeypatch.setattr(failures, "_failed", [])
    monkeypatch.setattr(failures, "_written", lambda *_: "error.txt")
    failures.watch()

    def fail(error, kind=threading.Thread):
        thread = kind(target=lambda: (_ for _ in ()).throw(error))
        thread.start()
        thread.join()
        time.sleep(0.01)

    # A bar that cannot be drawn is no reason to stop.
    fail(ValueError(), kind=type("Bar", (threading.Thread,), {"__module__": "rich.progress"}))
    fail(RuntimeError("Event loop is closed"))
    with pytest.raises(KeyboardInterrupt):
        fail(ZeroDivisionError("division by zero"))
    status, told = failures.of_interrupt(None)
    assert status == 1 and "nobody foresaw: ZeroDivisionError: division by zero. The det" in told
    assert capsys.readouterr().err == ""


class Leaving:
    """What cannot raise when it leaves, and so is printed."""

    def __del__(self):
        raise RuntimeError(self.message)


def test_a_checkpoint_of_other_bits_says_which_and_of_another_model_says_that(tmp_path):
    state = {"mean": jnp.arange(3.0), "count": jnp.zeros((), jnp.int32)}
    saved = Checkpoints(tmp_path, "toy")
    saved.save(1, state)
    saved.wait()
    about = {"family": "toy", "arrays": {"mean": "float64[3]", "count": "int64[]"}}
    with pytest.raises(CheckpointError) as caught:
        saved._same_model(about, state, 1)
    assert "holds numbers of 64 bits, and this process works with 32: set JAX_ENABLE_X64=1" in str(
        caught.value
    )
    with pytest.raises(CheckpointError, match="is of a 'vae', and this run's model is a 'toy'"):
        saved._same_model(about | {"family": "vae"}, state, 1)
    about["arrays"] = {"mean": "float32[4]", "count": "int32[]"}
    with pytest.raises(CheckpointError, match=r"another model than this run's 'toy': 1 arrays"):
        saved._same_model(about, state, 1)
