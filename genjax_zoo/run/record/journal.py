"""The lines of a run while it runs: metrics.jsonl, and the same in events/ for TensorBoard.

Floor 6.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
from tensorboardX import SummaryWriter

from genjax_zoo.run.record.workdir import Workdir


class Journal:
    """The lines of one workdir from a step on; those after it are forgotten, and come again.

    Args:
      workdir: None for a process that is not the primary one: it writes nothing.
      first: how many steps have been learnt.
    """

    def __init__(self, workdir: Workdir | None, first: int = 0):
        self.workdir = workdir
        if workdir is not None:
            workdir.rewind_metrics(first)
            self._events = SummaryWriter(str(workdir.events), purge_step=first + 1, flush_secs=5)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.workdir is not None:
            self._events.close()

    def numbers(self, step: int, line: Mapping[str, float]) -> None:
        """A line of metrics."""
        if self.workdir is not None and line:
            self.workdir.append_metrics(step, line)
            for name, value in line.items():
                self._events.add_scalar(re.sub(r"[^\w/]+", "_", name).strip("_"), value, step)

    def picture(self, step: int, picture: np.ndarray) -> None:
        """A picture of samples [H, W, 3], beside its file."""
        if self.workdir is not None:
            self._events.add_image("samples", picture, step, dataformats="HWC")

    def flush(self) -> None:
        """Writes what is held back: a run that resumes here does not write these points again."""
        if self.workdir is not None:
            self._events.flush()
