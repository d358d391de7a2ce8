"""What was measured, in eval/metrics.json: a list of numbers, each with what it is.

Floor 6.
"""

from __future__ import annotations

from collections.abc import Sequence

from genjax_zoo.measure.results import Result
from genjax_zoo.run.record.workdir import Workdir, write_json


def write(workdir: Workdir, results: Sequence[Result]) -> None:
    """Adds numbers; one takes the place of an older one that is the same but for its value."""
    path = workdir.eval / "metrics.json"
    same = ("name", "step", "n", "split", "preprocessing", "detail")
    identity = lambda e: [*(e.get(k) for k in same), e.get("protocol") or {}]
    new = [result._asdict() for result in results]
    taken = [identity(entry) for entry in new]
    old = workdir.read(path) if path.exists() else []
    write_json(path, [*new, *(entry for entry in old if identity(entry) not in taken)])
