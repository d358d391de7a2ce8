"""What was measured, in eval/metrics.json: a list of numbers, each with what it is.

Floor 6.
"""

from __future__ import annotations

from collections.abc import Sequence

from genjax_zoo.measure.results import Result
from genjax_zoo.run.record.workdir import Workdir, write_json


def write(workdir: Workdir, results: Sequence[Result]) -> None:
    """Adds numbers; one takes the place of an older one that is the same but for its value."""
    same = ("name", "step", "n", "split", "preprocessing", "detail")
    identity = lambda e: [*(e.get(k) for k in same), e.get("protocol") or {}]
    new = [result._asdict() for result in results]
    taken = [identity(entry) for entry in new]
    old = [entry for entry in workdir.read_numbers() if identity(entry) not in taken]
    write_json(workdir.numbers, [*new, *old])
