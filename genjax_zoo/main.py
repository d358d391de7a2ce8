"""The command line: genjax-zoo train | sample | evaluate | explore | list.

Floor 8. What a command does stands in commands/, a file each.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from absl import flags

from genjax_zoo.commands import failures
from genjax_zoo.commands.flags import parse, usage
from genjax_zoo.contract import ConfigError, ZooError
from genjax_zoo.run.devices import startup


def main(argv: Sequence[str]) -> int:
    """Runs the command that the command line names; returns the exit status.

    An error that the user can mend is one message and status 2, not a traceback.
    """
    several = any(arg.lstrip("-").startswith("coordinator") for arg in argv)
    try:
        call = parse(argv)
        if call.flags.help:
            print(usage())
        else:
            _join(call.flags)
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


def _join(known: flags.FlagValues) -> None:
    """Makes this process one of several, where the flags say so: before jax finds its devices."""
    place = [known.coordinator, known.processes, known.process]
    if all(flag is None for flag in place):
        return
    if any(flag is None for flag in place) or known.process >= known.processes:
        raise ConfigError(
            "several processes need all of --coordinator=HOST:PORT, --processes=N and "
            f"--process=0 .. N-1, got {place[0]}, {place[1]} and {place[2]}."
        )
    import jax

    jax.distributed.initialize(*place)


def run() -> None:
    """The entry point."""
    startup.prepare()
    startup.keep_compiled()
    failures.watch()
    sys.exit(main(sys.argv))


if __name__ == "__main__":
    run()
