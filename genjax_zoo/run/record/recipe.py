"""How a run is run again: kept in files when a process starts to train, and told as commands.

    WORKDIR/again/config-HASH.json  packages-HASH.txt  changes-HASH.diff

Floor 6. It is made of what was run, and not of what was typed: every field of the config, the
commit with what of it was not committed, the versions of all packages, a hash of the data. A file
is named by its content, so that starts which share it share the file.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from genjax_zoo.run.devices import startup
from genjax_zoo.run.record import checkout, files, schema

FOLDER = "again"
ENVIRON = (
    "JAX_ENABLE_X64",
    "JAX_DEFAULT_MATMUL_PRECISION",
    "JAX_DEFAULT_PRNG_IMPL",
    "JAX_THREEFRY_PARTITIONABLE",
    "JAX_NUMPY_DTYPE_PROMOTION",
    "JAX_PLATFORMS",
    "NVIDIA_TF32_OVERRIDE",
    "XLA_FLAGS",
)
"""The variables of the environment by which the same code computes other numbers."""
RECIPE = {"config": str, "packages": str, "changes": schema.TEXT, "environ": {str: str}}
START: Any = {
    "first_step": int,
    "recipe": RECIPE,
    "last_step?": (int, type(None)),
    "begun?": schema.BEGUN,
}
"""What a start must have told of itself, to be told how it is done again."""


def keep(root: pathlib.Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Writes what it takes to run this again into WORKDIR/again; returns where, for run.json."""

    def kept(name: str, end: str, content: str) -> str:
        data = content.encode(errors="surrogateescape")
        path = f"{FOLDER}/{name}-{hashlib.sha256(data).hexdigest()[:8]}.{end}"
        if not (root / path).exists():
            files.write(root / path, data)
        return path

    changes = checkout.changes()
    return {
        "config": kept("config", "json", files.to_json(config, indent=2) + "\n"),
        "steps": config.get("steps"),
        "packages": kept("packages", "txt", packages()),
        "changes": changes and kept("changes", "diff", changes),
        "environ": _environ(os.environ),
    }


def _environ(environ: Mapping[str, str]) -> dict[str, str]:
    """What the user has set, without what startup.prepare sets for every CPU."""
    own = {name: environ[name] for name in ENVIRON if name in environ}
    ours = {f"{flag}={value}" for flag, value in startup.FLAGS.items()}
    flags = " ".join(flag for flag in own.get("XLA_FLAGS", "").split() if flag not in ours)
    return {name: value for name, value in (own | {"XLA_FLAGS": flags}).items() if value}


@functools.cache
def packages() -> str:
    """All that is installed, as `pip install -r` reads it."""
    found = {
        f"{dist.name}=={dist.version}"
        for dist in importlib.metadata.distributions()
        if dist.name and dist.name.replace("_", "-").lower() != "genjax-zoo"
    }
    head = f"# python {platform.python_version()}, {platform.platform()}"
    return "\n".join([head, *sorted(found, key=str.lower)]) + "\n"


class Again(NamedTuple):
    """How to run it again: lines for a shell, and what else one must know."""

    lines: list[str]
    remarks: list[str]


def again(starts: Sequence[Mapping[str, Any]], root: pathlib.Path) -> Again | None:
    """What the starts of run.json make of it; None where one of them kept no recipe.

    Starts of the same config, code and packages are one: a run that is resumed ends bit for bit as
    one that never stopped.
    """
    if not starts or schema.problem(list(starts), [START]):
        return None
    stretches: list[Mapping[str, Any]] = []
    for start in _that_count(starts):
        if not stretches or _identity(start) != _identity(stretches[-1]):
            stretches.append(start)
    lines: list[str] = []
    remarks: list[str] = []
    before: Mapping[str, Any] = {}
    for index, start in enumerate(stretches):
        now = _identity(start)
        if now["commit"] and any(before.get(k) != now[k] for k in ("commit", "changes")):
            lines.append(f"git checkout {now['commit']}")
            if now["changes"]:
                lines.append(shlex.join(["git", "apply", str((root / now["changes"]).absolute())]))
        if before.get("packages") != now["packages"]:
            lines.append(shlex.join(["pip", "install", "-r", str(root / now["packages"])]))
        lines.append(shlex.join(_train(start, root, goes_on=index > 0)))
        steps, after = start["recipe"].get("steps"), stretches[index + 1 : index + 2]
        if after and after[0]["first_step"] != steps:
            remarks.append(
                f"The first config was left after step {after[0]['first_step']} of {steps}: stop "
                "it there (SIGTERM saves) before the next command."
            )
        before = now
    return Again(lines, [*remarks, *_remarks(starts[-1])])


def _that_count(starts: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The starts whose steps are part of the run: of one that was killed early nothing is left."""
    ends = [*(start.get("first_step") for start in starts[1:]), starts[-1].get("last_step")]
    left = [s for s, end in zip(starts, ends, strict=True) if end is None or end > s["first_step"]]
    return left or [starts[-1]]


def _identity(start: Mapping[str, Any]) -> dict[str, Any]:
    """What two starts share that are one run."""
    recipe = start["recipe"]
    own = {name: recipe.get(name) for name in ("config", "packages", "changes", "environ")}
    return {**own, "commit": start.get("commit"), "devices": start.get("device_count")}


def _train(start: Mapping[str, Any], root: pathlib.Path, goes_on: bool) -> list[str]:
    """The words of the command that trains as a start did, or goes on as it did."""
    recipe, where = start["recipe"], root if root.name else root.absolute()
    program = pathlib.PurePath((start.get("command") or ["genjax-zoo"])[0]).name
    environ = [f"{name}={value}" for name, value in recipe["environ"].items()]
    words = ["env", *environ] if environ else []
    words += ["python", "-m", "genjax_zoo.main"] if program == "main.py" else ["genjax-zoo"]
    words += ["train", f"--config={where / recipe['config']}", f"--workdir={where}-again"]
    words += [f"--data_dir={start['data_dir']}"] if start.get("data_dir") else []
    if goes_on:
        return [*words, "--allow_config_change"]
    origins = (start.get("begun") or {}).items()
    return [*words, *(f"--begin={name}={o['workdir']}@{o['step']}" for name, o in origins)]


def _remarks(start: Mapping[str, Any]) -> Iterator[str]:
    """What else must be the same, of the last start."""
    yield (
        f"The same bits come of the same processor ({start.get('cpu', '?')}) and devices "
        f"({start.get('device_count', '?')} × {start.get('device', '?')}); others round otherwise."
    )
    sha256 = (start.get("data") or {}).get("sha256")
    if sha256:
        yield f"The data have the sha256 {sha256[:16]}, which run.json of the new run tells too."
    if not start.get("commit"):
        yield f"The code was no git checkout, but genjax_zoo {start.get('genjax_zoo')}."
    count = start.get("process_count") or 1
    if count > 1:
        yield (
            f"{count} processes trained together: give the command to each of them, with "
            "--coordinator, --processes and --process, or --distributed=auto in a cluster."
        )
