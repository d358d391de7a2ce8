"""How a run says how far it is, in training and in measuring: bars on a terminal, lines elsewhere.

Floor 6.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping
from typing import Any, cast

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar

SILENCE = 10.0
"""Seconds of measuring after which a line says how far it is, where there is no terminal."""
LONG = 30.0
"""Seconds below which no measurement is called long, however short the training was."""


def log(text: str) -> None:
    """One line of news on stderr; where the reader or the terminal has gone, the run goes on."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def speed(rate: float) -> str:
    """Steps a second, as seconds a step where they are slower than that."""
    if rate >= 1:
        return f"{rate:.0f} steps/s" if rate >= 10 else f"{rate:.1f} steps/s"
    return f"{1 / max(rate, 1e-9):.3g} s/step"


def duration(seconds: float) -> str:
    """As one says it: 40 s, 12 min, 3 h 20 min."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


class Progress:
    """Steps done, steps a second, time left, and the newest numbers.

    Args:
      steps: in all; 0 where there is only something to be measured.
      first: done before.
      quiet: says nothing at all.

    Attributes:
      bar: of the terminal, while the block lasts; None elsewhere.
    """

    def __init__(self, steps: int = 0, first: int = 0, quiet: bool = False):
        self.steps, self.first, self.quiet = steps, first, quiet
        self.console = Console(stderr=True)
        self.bar: Bar | None = None

    def __enter__(self) -> Progress:
        self._began = time.time()
        self._mark = (self.first, self._began)
        if self.console.is_terminal and not self.quiet:
            columns = (
                BarColumn(30), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(), TextColumn("{task.fields[numbers]}"),
            )  # fmt: skip
            self.bar = Bar(*columns, console=self.console, refresh_per_second=4)
            self.bar.start()
            self._task = self.bar.add_task(
                "steps",
                total=self.steps,
                completed=self.first,
                visible=self.steps > 0,
                rate="",
                numbers="compiling",
            )
        return self

    def __exit__(self, *_) -> None:
        if self.bar is not None:
            self.bar.stop()

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
        if self.bar is not None:
            self.bar.update(self._task, completed=step, rate=speed(self._rate(step)))
            if numbers:
                self.bar.update(self._task, numbers=numbers)
        elif numbers:
            rate = self._rate(step)
            left = duration((self.steps - step) / max(rate, 1e-9))
            log(f"step {step}/{self.steps}  {speed(rate)}  {left} left  {numbers}")

    def seconds(self) -> float:
        """How long the block has lasted."""
        return time.time() - self._began

    def _rate(self, step: int) -> float:
        """Steps a second since a while ago: compiling does not count for ever."""
        now = time.time()
        rate = (step - self._mark[0]) / max(now - self._mark[1], 1e-9)
        if now - self._mark[1] > 5:
            self._mark = (step, now)
        return rate


class Measuring:
    """Examples measured, and the time left, a measure after another; what will be long is said.

    Args:
      progress: whose terminal, and whose silence.
      shorter: what would make it shorter, with {} for a number of examples; "" warns of nothing.
      seconds: a measure that takes longer than so many is warned of.
      than: what took so long, in words.
    """

    def __init__(self, progress: Progress, shorter: str = "", seconds: float = 0, than: str = ""):
        self._progress, self._shorter, self._than = progress, shorter, than
        self._most = max(seconds, LONG)
        self._name, self._done, self._of = "", 0, 0

    def __call__(self, name: str, done: int, of: int) -> None:
        """`done` of `of` have been measured, or drawn; 0 while what they share is computed."""
        if self._progress.quiet:
            return
        now = time.time()
        if (name, of) != (self._name, self._of) or done <= self._done:
            self._name, self._of, self._said, self._warned = name, of, now, False
            self._began, self._first = now, cast(tuple[int, float] | None, None)
            self._task = self._added(name, of)
            if not done and self._shorter and self._task is None:
                log(f"measuring {name}: 0 of {of}")
        self._done = done
        left = self._left(done, now)
        if self._progress.bar is not None:
            self._progress.bar.update(self._task, completed=done, visible=done < of)
        elif done >= of and now - self._began > SILENCE:
            log(f"measured {name}: {of} in {duration(now - self._began)}")
        elif done < of and now - self._said > SILENCE:
            self._said = now
            log(f"measuring {name}: {done} of {of}" + (f"  {duration(left)} left" if left else ""))
        if left is not None and self._shorter and left > self._most and not self._warned:
            self._warned = True
            self._say(
                f"measuring {name} takes some {duration(left)} more{self._than}; "
                + self._shorter.format(max(done, _one_digit(of * self._most / left)))
            )

    def _left(self, done: int, now: float) -> float | None:
        """Seconds left, told by all batches but the first, which is compiled for.

        One that has taken long all the same is told by itself, until the next one is done.
        """
        if not done:
            return None
        first, began = self._first or (0, self._began)
        if self._first is None:
            self._first = (done, now)
            if now - began < LONG:
                return None
        return (self._of - done) * (now - began) / (done - first)

    def _added(self, name: str, of: int) -> Any:
        bar, what = self._progress.bar, f"measuring {name}"
        return None if bar is None else bar.add_task(name, total=of, rate="", numbers=what)

    def _say(self, text: str) -> None:
        if self._progress.bar is None:
            log(text)
        else:
            self._progress.bar.console.print(text, highlight=False, markup=False)


def _one_digit(number: float) -> int:
    """Its first digit, and zeros."""
    return int(float(f"{number:.0e}"))
