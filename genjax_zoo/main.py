"""The command line: genjax-zoo train | sample | chat | evaluate | explore | import | export | list.

Floor 8. What a command does stands in commands/, a file each. Whatever is not needed to be ready
for Ctrl-C is imported after that.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence


def main(argv: Sequence[str], prepare: Callable[[], None] = lambda: None) -> int:
    """Runs the command that the command line names; returns the exit status.

    An error is one message and not a traceback: status 2 for what the user can mend, 1 for what
    nobody foresaw. With `--debug` it is raised as it is.

    Args:
      argv: the program and its words.
      prepare: what has to be settled before a command that works in a workdir starts; help and
        the list touch no device.
    """
    from genjax_zoo.commands import failures
    from genjax_zoo.commands.flags import module_of, parse, usage

    call = None
    try:
        call = parse(argv)
        if call.flags.help:
            print(usage(call.command))
        else:
            if "workdir" in call.flags:
                prepare()
            command = importlib.import_module(module_of(call.command))
            ends_by_interrupt(False)
            command.run(call)
        failures.end_output()
        return 0
    except BrokenPipeError:
        failures.give_up_output()
        return failures.READER_GONE
    except KeyboardInterrupt:
        status, message = failures.of_interrupt(call)
    except Exception as error:
        if call is not None and call.flags.debug:
            raise
        status, message = failures.explain(error, call)
    failures.tell(message)
    jax = sys.modules.get("jax")
    if jax is not None and jax.distributed.is_initialized():
        # The other processes would wait for this one at exit; what it knows is on the disk.
        os._exit(status)
    return status


def prepare() -> None:
    """Settles what jax reads when it starts. It is imported here, for help is shown without it."""
    from genjax_zoo.run.devices import startup

    startup.prepare()
    startup.keep_compiled()


def ends_by_interrupt(at_once: bool) -> None:
    """Ctrl-C ends the process without a word, or raises KeyboardInterrupt.

    While modules are imported there is nothing to save, and what a KeyboardInterrupt leaves behind
    in the middle of one is another error. Where somebody else has decided, as a shell does that
    has the process ignore it, nothing is changed.
    """
    raises, ends = signal.default_int_handler, signal.SIG_DFL
    if at_once and signal.getsignal(signal.SIGINT) is raises:
        signal.signal(signal.SIGINT, ends)
    elif not at_once and signal.getsignal(signal.SIGINT) is ends:
        signal.signal(signal.SIGINT, raises)


def run() -> None:
    """The entry point."""
    ends_by_interrupt(True)
    from genjax_zoo.commands import failures

    failures.watch()
    sys.exit(main(sys.argv, prepare))


if __name__ == "__main__":
    run()
