"""What ran, on what, and when: the facts that a number needs to be measured again.

Floor 6.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import pathlib
import platform
import subprocess
import sys
from typing import Any

import jax

import genjax_zoo

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")


def record() -> dict[str, Any]:
    """The provenance of this process, as plain values that json can hold.

    Never fails for a missing fact: outside a git checkout `commit` and `dirty` are None, and a
    package that is not installed has the version None. No host or user is named.
    """
    commit, dirty = _commit()
    return {
        "genjax_zoo": _version("genjax-zoo"),
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


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> tuple[str | None, bool | None]:
    """The commit of the checkout that this package was imported from, and if it was changed."""
    package = pathlib.Path(genjax_zoo.__file__).resolve().parent
    # An installed copy may lie inside a checkout that is not ours (a venv in somebody's project).
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None, None
    commit = _git(package, "rev-parse", "HEAD")
    status = _git(package.parent, "status", "--porcelain", "--", package.name, "configs")
    return commit, None if status is None else bool(status)


def _git(folder: pathlib.Path, *arguments: str) -> str | None:
    """What git answers, or None where there is no git, no checkout or no answer in time."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


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
