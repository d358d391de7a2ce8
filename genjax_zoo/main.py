"""The command line: genjax-zoo train | sample | evaluate | explore | list.

Floor 8. What a command does stands in commands/, a file each.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence

from genjax_zoo.commands import failures
from genjax_zoo.commands.flags import parse, usage
from genjax_zoo.errors import ZooError


def main(argv: Sequence[str], prepare: Callable[[], None] = lambda: None) -> int:
    """Runs the command that the command line names; returns the exit status.

    An error that the user can mend is one message and status 2, not a traceback.

    Args:
      argv: the program and its words.
      prepare: what has to be settled before a command starts; help needs none of it.
    """
    several = any(arg.lstrip("-").startswith("coordinator") for arg in argv)
    try:
        call = parse(argv)
        if call.flags.help:
            print(usage(call.command))
        else:
            prepare()
            importlib.import_module(f"genjax_zoo.commands.{call.command}").run(call)
        return 0
    except ZooError as error:
        message = str(error)
    except OSError as error:
        message = failures.of_disk(error)
    except ModuleNotFoundError as error:
        message = failures.of_package(error)
    except KeyboardInterrupt:
        failed = failures.of_threads()
        if failed is None:
            print("\ngenjax-zoo: interrupted; the same command goes on", file=sys.stderr)
            return 130
        message = failed
    print(f"genjax-zoo: {message}", file=sys.stderr, flush=True)
    if several:
        # The other processes would wait for this one at exit; what it knows is on the disk.
        os._exit(2)
    return 2


def prepare() -> None:
    """Settles what jax reads when it starts. It is imported here, for help is shown without it."""
    from genjax_zoo.run.devices import startup

    startup.prepare()
    startup.keep_compiled()


def run() -> None:
    """The entry point."""
    failures.watch()
    sys.exit(main(sys.argv, prepare))


if __name__ == "__main__":
    run()
