"""What fails outside of our hands: a disk, the threads of libraries that write to it, a package.

Floor 8.
"""

from __future__ import annotations

import errno
import logging as stdlib_logging
import signal
import sys
import threading
from typing import Any

from absl import logging

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)

_failed: list[OSError] = []


def of_disk(error: OSError) -> str:
    """The message of a file that could not be written; any other error is raised again."""
    if error.errno not in DISK:
        raise error
    return (
        f"{error.filename or 'a file'} cannot be written: {error.strerror}. Free some room, or "
        "choose another --workdir; then the same command goes on from the last checkpoint."
    )


def of_threads() -> str | None:
    """The same of a thread that has failed, or None if none has."""
    return of_disk(_failed[0]) if _failed else None


def of_package(error: ModuleNotFoundError) -> str:
    """The message of a package that is not installed; a missing module of ours is raised again."""
    if not error.name or error.name.partition(".")[0] == "genjax_zoo":
        raise error
    return (
        f"the commands need {error.name}, which is not installed: "
        "pip install 'genjax-zoo[run]' brings all that they need."
    )


def watch() -> None:
    """A full disk also fails the threads of libraries: the run stops for it, with one message.

    tensorboardX would print a traceback and then wait for ever for its dead thread.
    """

    def failed(args: threading.ExceptHookArgs) -> None:
        if not isinstance(args.exc_value, OSError) or args.exc_value.errno not in DISK:
            threading.__excepthook__(args)
        else:
            _failed.append(args.exc_value)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def printed(kind: Any, error: BaseException, trace: Any) -> None:
        # tensorstore prints this for each array of a save that failed; the failure is raised too.
        if str(error) != "Event loop is closed":
            sys.__excepthook__(kind, error, trace)

    threading.excepthook, sys.excepthook = failed, printed
    # A save that fails is logged with a dozen tracebacks, and raised; once is enough.
    logging.set_verbosity(logging.FATAL)
    stdlib_logging.getLogger("asyncio").setLevel(stdlib_logging.CRITICAL)
