"""Being stopped: the signals by which a run is asked to save and leave, and who looks for them.

Floor 6. A scheduler sends SIGTERM or SIGUSR1, a keyboard SIGINT, a terminal that closes SIGHUP. The
steps of a call are finished, what is due is written down, and the state is saved.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from genjax_zoo.run.record.checkpoint import barrier

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
PATIENCE = 5.0
"""Seconds that something which is measured while a run lasts may still take when it is to stop."""


class Stopped(Exception):
    """The run was asked to stop while something long was measured."""


class Stop:
    """Whether a run was asked to stop.

    Attributes:
      by: the signal; None while it was not.
    """

    def __init__(self) -> None:
        self.by: signal.Signals | None = None
        self._since = 0.0

    def ask(self, number: int, frame: object = None) -> None:
        """A signal has come. A second SIGINT is raised: whoever types it will not wait."""
        if self.by is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        if number == signal.SIGINT:
            # A print may have been what the signal has interrupted.
            with contextlib.suppress(OSError):
                os.write(2, b"\nstopping, and saving; Ctrl-C once more leaves at once\n")
        self.by, self._since = signal.Signals(number), time.time()

    def watch(
        self, then: Callable[[str, int, int], None], patience: float = 0.0
    ) -> Callable[[str, int, int], None]:
        """A `Progress` of what is measured, which raises Stopped when the run is to stop.

        Args:
          then: told of the progress first.
          patience: seconds that it may still take.
        """

        def look(name: str, done: int, of: int) -> None:
            then(name, done, of)
            late = self.by is not None and time.time() - self._since >= patience
            # Several processes measure together, or not at all.
            if late and done < of and jax.process_count() == 1:
                raise Stopped

        return look

    def any_process(self, step: int) -> bool:
        """Whether any process was asked to stop: all of them stop after the same step."""
        mine = self.by is not None
        if jax.process_count() == 1:
            return mine
        barrier(f"step {step}")
        return bool(np.any(multihost_utils.process_allgather(np.asarray(mine))))


@contextlib.contextmanager
def on_signals() -> Iterator[Stop]:
    """What the signals ask for, while the block lasts; in a thread that gets none, nothing.

    A signal that the process ignores, as nohup has it ignore SIGHUP, stays ignored.
    """
    stop, before = Stop(), {}
    if threading.current_thread() is threading.main_thread():
        for one in SIGNALS:
            if signal.getsignal(one) is not signal.SIG_IGN:
                before[one] = signal.signal(one, stop.ask)
    try:
        yield stop
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
