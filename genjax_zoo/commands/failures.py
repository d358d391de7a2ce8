"""What fails outside of our hands, in one sentence each; and what nobody foresaw, by a last door.

Floor 8. A disk, the threads of libraries that write to it, a package, a device, memory: each has
its sentence. Whatever else is raised is a fault of ours: its traceback goes to a file, and a
sentence says where that is.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import logging as stdlib_logging
import os
import pathlib
import signal
import sys
import tempfile
import threading
import traceback
from typing import Any

from absl import logging

from genjax_zoo.commands.flags import Call
from genjax_zoo.typed import ZooError

FULL, HANDLES = (errno.ENOSPC, errno.EDQUOT), (errno.EMFILE, errno.ENFILE)
UNWRITABLE = (*FULL, errno.EROFS)
NAMES = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
DISK = (*UNWRITABLE, *HANDLES, *NAMES, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE)
INSTEAD = {
    "train": "choose another --workdir; then the same command goes on from the last checkpoint",
    "sample": "choose another folder by --out",
    "explore": "choose another folder by --out",
    "import": "choose another --workdir",
    "export": "choose another folder by --to",
    "evaluate": "the numbers printed above are right, and not kept",
}
"""What each command can do where the disk does not let it."""
READER_GONE = 141
"""128 + SIGPIPE: what a shell says of a program that the signal ends."""

WAKE = signal.SIGURG
"""What a thread that has failed sends the main one; nothing else means anything by it."""

_failed: list[Exception] = []


# ---------------------------------------------------------------------------------- the sentences


def explain(error: Exception, call: Call | None) -> tuple[int, str]:
    """The exit status and the message of an error that has stopped a command.

    Args:
      error: what was raised.
      call: the command; None where the command line itself was at fault.
    """
    known = foreseen(error, call.command if call else "")
    if known is not None:
        return 2, known
    return 1, unforeseen(error, call.flags.workdir if call and "workdir" in call.flags else None)


def foreseen(error: Exception, command: str = "") -> str | None:
    """The message of what a user can mend, or None of what nobody foresaw."""
    if isinstance(error, ZooError):
        return str(error)
    if isinstance(error, OSError):
        return of_disk(error, command)
    if isinstance(error, ModuleNotFoundError):
        return of_package(error)
    return of_devices(error) or of_memory(error)


def of_interrupt(call: Call | None) -> tuple[int, str]:
    """The exit status and the message of an interrupt, which a thread that failed sends too."""
    if _failed:
        return explain(_failed[0], call)
    command = call.command if call else ""
    return 130, "interrupted" + ("; the same command goes on" if command == "train" else "")


def of_disk(error: OSError, command: str = "") -> str | None:
    """The message of a file that a disk does not let one write or open; None of any other error."""
    if error.errno not in DISK:
        return None
    mend = "Mend that, or "
    if error.errno in FULL:
        mend = "Free some room, or "
    elif error.errno in HANDLES:
        mend = "Allow more of them (ulimit -n), or "
    return (
        f"{error.filename or 'a file'} cannot be "
        f"{'written' if error.errno in UNWRITABLE else 'opened'}: {error.strerror}. "
        f"{mend}{INSTEAD.get(command, 'try again')}."
    )


def of_package(error: ModuleNotFoundError) -> str | None:
    """The message of a package that is not installed; None of a module of ours."""
    if not error.name or error.name.partition(".")[0] == "genjax_zoo":
        return None
    return (
        f"the commands need {error.name}, which is not installed: "
        "pip install 'genjax-zoo[run]' brings all that they need."
    )


def of_devices(error: Exception) -> str | None:
    """The message of a machine without the devices that jax was told to use; None of any other.

    Of an NVIDIA GPU that cannot be seen jax asserts, without a word, that there is one.
    """
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or not frames[-1].filename.endswith("xla_bridge.py"):
        return None
    asked = os.environ.get("JAX_PLATFORMS") or os.environ.get("JAX_PLATFORM_NAME")
    why = str(error).partition(" (set ")[0].rstrip(".") or "no such device can be seen"
    return (
        f"{f'JAX_PLATFORMS={asked}: ' if asked else ''}jax finds no device to work on: {why}. "
        "Unset JAX_PLATFORMS to take what there is, set it to cpu, or install jax for that device "
        "(pip install 'jax[cuda13]' for NVIDIA's)."
    )


def of_memory(error: Exception) -> str | None:
    """The message of too little memory, of the machine or a device; None of any other error."""
    said = str(error)
    exhausted = "RESOURCE_EXHAUSTED" in said and "os_error_code" not in said
    if not isinstance(error, MemoryError) and not exhausted:
        return None
    return (
        f"there is not enough memory: {_first_line(error)}. Ask for less at once: a smaller "
        "config.data.batch_size or config.model, or fewer samples (--n, --num_samples)."
    )


# ---------------------------------------------------------------------------------- the last door


def unforeseen(error: Exception, workdir: str | None = None) -> str:
    """The message of a fault of ours; the details go to a file, in the workdir if there is one."""
    try:
        where = f"The details are in {_written(error, workdir)}"
    except OSError:
        where = "The details could not be written to any file"
    return (
        f"something went wrong that nobody foresaw: {type(error).__name__}: {_first_line(error)}. "
        f"{where}; the same command with --debug shows them. That is a fault of genjax_zoo: please "
        "report it with the file, which names the versions, the command and the place in the code."
    )


def _written(error: Exception, workdir: str | None) -> pathlib.Path:
    """Writes all that is known of an error into the workdir, or where temporary files go."""
    about: dict[str, Any] = {"command": sys.argv}
    # Imported where it is needed, for help is shown without it; and it may be what failed.
    with contextlib.suppress(Exception):
        from genjax_zoo.run.record import provenance

        about |= provenance.record()
    details = "".join(traceback.format_exception(error)) + "\n" + json.dumps(about, indent=2)
    when = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    folders = [folder for folder in (workdir, tempfile.gettempdir()) if folder]
    for folder in folders:
        path = pathlib.Path(folder).expanduser() / f"error-{when}-{os.getpid()}.txt"
        with contextlib.suppress(OSError):
            path.write_text(details + "\n", errors="backslashreplace")
            return path.absolute()
    raise FileNotFoundError(folders)


def _first_line(error: Exception) -> str:
    said = str(error).strip()
    return said.splitlines()[0][:200].rstrip(".") if said else "no more is said"


# ------------------------------------------------------------------------------------- the output


def tell(message: str) -> None:
    """Says on stderr what went wrong, if anybody reads that."""
    with contextlib.suppress(OSError):
        print(f"genjax-zoo: {message}", file=sys.stderr, flush=True)
    give_up_output()


def end_output() -> None:
    """Writes what stdout still holds, while an error of that can still be told."""
    if sys.stdout is not None:
        sys.stdout.flush()


def give_up_output() -> None:
    """Forgets what an output holds that takes nothing: at exit it would fail once more."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            with contextlib.suppress(OSError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)


def watch() -> None:
    """Makes of what threads and libraries print by themselves one message, or none.

    What fails a thread of a library stops the run: tensorboardX would print a traceback and then
    wait for ever for its dead thread.
    """
    # tensorstore prints this for each array of a save or a restore that failed; that is raised too.
    closed = "Event loop is closed"

    def failed(args: threading.ExceptHookArgs) -> None:
        error = args.exc_value
        # The run goes on without its progress bar, as where the terminal has gone.
        of_display = type(args.thread).__module__.partition(".")[0] == "rich"
        if isinstance(error, Exception) and str(error) != closed and not of_display:
            _failed.append(error)
            signal.pthread_kill(threading.main_thread().ident or 0, WAKE)

    signal.signal(WAKE, signal.default_int_handler)

    def unraisable(args: sys.UnraisableHookArgs) -> None:
        if str(args.exc_value) != closed:
            sys.__unraisablehook__(args)

    def printed(kind: Any, error: BaseException, trace: Any) -> None:
        if str(error) != closed:
            sys.__excepthook__(kind, error, trace)

    threading.excepthook, sys.unraisablehook, sys.excepthook = failed, unraisable, printed
    # A save that fails is logged with a dozen tracebacks, and raised; once is enough.
    logging.set_verbosity(logging.FATAL)
    stdlib_logging.getLogger("asyncio").setLevel(stdlib_logging.CRITICAL)
    # A terminal that has no ± is shown its number, and is no error.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
