"""What ran, on what, and when: the facts that a number needs to be measured again.

Floor 6.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import os
import pathlib
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax

import genjax_zoo
from genjax_zoo.run.record import checkout, report
from genjax_zoo.run.record.workdir import Workdir, write_json

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")


def record() -> dict[str, Any]:
    """The provenance of this process, as plain values that json can hold.

    Never fails for a missing fact: outside a git checkout `commit` and `dirty` are None, and a
    package that is not installed has the version None. No host or user is named.
    """
    commit, dirty = checkout.commit()
    return {
        "genjax_zoo": genjax_zoo.__version__,
        "commit": commit,
        "dirty": dirty,
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "device": jax.devices()[0].device_kind,
        "backend": jax.default_backend(),
        "device_count": jax.device_count(),
        "process_count": jax.process_count(),
        "cpu": _cpu(),
        "cores": _cores(),
        "command": list(sys.argv),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


FOREIGN = "hf:"
"""What a folder of the weights of others is named by, in the place of a workdir."""


class Origin(NamedTuple):
    """Where a run took what it began from under one name (run/begin.py).

    Attributes:
      workdir: of the other run, absolute.
      asked: which of its checkpoints: last, best or a number of steps.
      step: how many steps that had learnt.
      sha256: of the bytes of the parameters, array after array.
      config: of the other run.
      arrays: what its state was made for: (dtype, shape) of each array of its batches.
      begun: what it began from itself, each as here.
      tokenizer: the sha256 of the one that it reads texts by; "" where its data are none.
      files: the sha256 of each file that was read, where it was a folder of others' weights.
    """

    workdir: str
    asked: str
    step: int
    sha256: str
    config: Mapping[str, Any]
    arrays: Mapping[str, Any]
    begun: Mapping[str, Any] = {}
    tokenizer: str = ""
    files: Mapping[str, str] = {}

    @property
    def tokenizer_path(self) -> str:
        """Where its tokenizer lies: beside the weights of others, in a run's own folder."""
        folder = self.workdir.removeprefix(FOREIGN)
        return folder if folder != self.workdir else f"{folder}/tokenizer"

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> Origin:
        """Of an entry of run.json; what a later version wrote besides is left."""
        return cls(**{name: entry[name] for name in cls._fields if name in entry})


def start(
    first_step: int, data_dir: str | None = None, begun: Mapping[str, Origin] | None = None
) -> dict[str, Any]:
    """What run.json says of one process that trains, when it starts.

    Args:
      first_step: how many steps had been learnt.
      data_dir: where the data were found.
      begun: what the run began from, by name.
    """
    where = None if data_dir is None else str(pathlib.Path(data_dir).expanduser().absolute())
    origins = {name: origin._asdict() for name, origin in (begun or {}).items()}
    return record() | {"first_step": first_step, "data_dir": where, "begun": origins}


@contextlib.contextmanager
def recorded(workdir: Workdir, entry: dict[str, Any]) -> Iterator[None]:
    """Keeps an entry in run.json from the start of a process on, and writes the report at its end.

    Whatever is put into the entry while the block lasts is written when it ends, however it ends.
    """
    runs, began = workdir.read_runs(), time.time()
    write_json(workdir.runs, [*runs, entry])

    def close() -> None:
        entry["seconds"] = round(time.time() - began, 2)
        write_json(workdir.runs, [*runs, entry])
        report.write(workdir.root)

    try:
        yield
    except BaseException:
        # What stopped the run is the news; a full disk may be it.
        with contextlib.suppress(OSError):
            close()
        raise
    close()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    """The processor's model, as the system calls it."""
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "unknown"


def _cores() -> int | None:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()
