"""How a run says how far it is: a bar on a terminal, plain lines elsewhere.

Floor 6.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar


def log(text: str) -> None:
    """One line of news on stderr."""
    print(text, file=sys.stderr, flush=True)


class Progress:
    """Steps done, steps a second, time left, and the newest numbers.

    Args:
      steps: in all.
      first: done before.
      quiet: says nothing at all.
    """

    def __init__(self, steps: int, first: int = 0, quiet: bool = False):
        self.steps, self.first, self.quiet = steps, first, quiet
        self.console = Console(stderr=True)
        self._bar: Bar | None = None

    def __enter__(self) -> Progress:
        self._mark = (self.first, time.time())
        if self.console.is_terminal and not self.quiet:
            columns = (
                BarColumn(30), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(), TextColumn("{task.fields[numbers]}"),
            )  # fmt: skip
            self._bar = Bar(*columns, console=self.console, refresh_per_second=4)
            self._bar.start()
            self._task = self._bar.add_task(
                "steps", total=self.steps, completed=self.first, rate="", numbers="compiling"
            )
        return self

    def __exit__(self, *_) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, step: int, line: Mapping[str, float] | None = None, warning: str = "") -> None:
        """The run is after `step`.

        Args:
          step: how many are done.
          line: new numbers, if there are any; without any the last ones stay, with their warning.
          warning: what must not be overlooked; stands before the numbers.
        """
        if self.quiet:
            return
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in (line or {}).items())
        if warning and numbers:
            numbers = f"{warning}  {numbers}"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, rate=f"{self._rate(step):.0f} steps/s")
            if numbers:
                self._bar.update(self._task, numbers=numbers)
        elif numbers:
            rate = self._rate(step)
            left = (self.steps - step) / max(rate, 1e-9)
            log(f"step {step}/{self.steps}  {rate:.0f} steps/s  {left:.0f} s left  {numbers}")

    def _rate(self, step: int) -> float:
        """Steps a second since a while ago: compiling does not count for ever."""
        now = time.time()
        rate = (step - self._mark[0]) / max(now - self._mark[1], 1e-9)
        if now - self._mark[1] > 5:
            self._mark = (step, now)
        return rate
