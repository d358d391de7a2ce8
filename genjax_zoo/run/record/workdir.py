"""A workdir: everything a run leaves behind, and nothing else. It can be deleted without regret.

    config.json  run.json  example.json  metrics.jsonl  events/  checkpoints/  damaged/
    samples/  eval/  explore/  report.html  again/  tokenizer/  tokens/  error-*.txt

Floor 6.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import genjax_zoo
from genjax_zoo.contract import ConfigError, ZooError
from genjax_zoo.run.record import files, schema
from genjax_zoo.run.record.progress import log

OLDEST = (0, 2)
"""The oldest version whose workdirs this one reads."""


PATTERN = "*?[\\"
"""What the saver of checkpoints reads as a pattern in the path that it is given."""


def checkpoint_path(folder: pathlib.Path) -> None:
    """Raises ZooError for a folder in which orbax would not find again what it has written.

    It looks for the parts of a save by a glob whose pattern holds the path: with `[` or a backslash
    it finds none of them, with `*` or `?` perhaps those of another run.
    """
    path = str(folder.absolute())
    found = [character for character in PATTERN if character in path]
    if found:
        raise ZooError(
            f"--workdir={folder}: its whole path, {path}, holds {' and '.join(found)}, which the "
            "library that saves checkpoints takes for a pattern, and the checkpoints would be "
            f"lost; choose a path without any of {' '.join(PATTERN)}."
        )


class Workdir:
    """Paths of one run, and its small files, each written whole or not at all."""

    def __init__(self, root: str | os.PathLike):
        self.root = files.place(root)
        self.config = self.root / "config.json"
        self.runs = self.root / "run.json"
        self.metrics = self.root / "metrics.jsonl"
        self.checkpoints = self.root / "checkpoints"
        self.samples = self.root / "samples"
        self.eval = self.root / "eval"
        self.numbers = self.eval / "metrics.json"
        self.explore = self.root / "explore"
        self.events = self.root / "events"
        self.example = self.root / "example.json"
        self.tokenizer = self.root / "tokenizer"
        self.tokens = self.root / "tokens"

    def create(self) -> None:
        """Makes the folder; raises ZooError where it, or what will be saved in it, cannot be."""
        checkpoint_path(self.root)
        files.make_writable(self.root)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps a second run out while the block lasts; raises ZooError if one is here."""
        with (self.root / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ZooError(
                    f"another process is training in {self.root}; stop it, or choose another "
                    "--workdir."
                ) from error
            except OSError as error:
                # Some network file systems have none (ENOLCK, EOPNOTSUPP, 524).
                log(
                    f"{self.root} lies on a file system without locks ({error.strerror or error}): "
                    "see to it that no second process trains there."
                )
            yield

    def has_begun(self) -> bool:
        """Whether a run has left anything here that another config could spoil."""
        checkpoints = self.checkpoints.is_dir() and any(self.checkpoints.iterdir())
        return checkpoints or (self.metrics.exists() and self.metrics.stat().st_size > 0)

    def has_checkpoint(self) -> bool:
        """Whether a run that goes on here has something to go on from."""
        return any(path.name.isdecimal() for path in self.checkpoints.glob("*"))

    def check_version(self) -> None:
        """Raises ZooError where an older version trained here, which this one cannot read."""
        for start in self.read_runs():
            made, commit = str(start.get("genjax_zoo") or ""), start.get("commit")
            if () < _numbers(made) < OLDEST:
                with_it = f"check out commit {commit[:10]}" if commit else f"use version {made}"
                raise ZooError(
                    f"{self.root} was made by genjax_zoo {made}, whose models this version "
                    f"({genjax_zoo.__version__}) does not read: {with_it} to work with it, or "
                    "train again in another --workdir."
                )

    def read_config(self) -> dict[str, Any]:
        """The config that this workdir was trained with."""
        self.check_version()
        return self.read(self.config, "train a model in it first: genjax-zoo train --workdir=...")

    def claim(self, config: Mapping[str, Any], allow_change: bool) -> None:
        """Checks that the config is the one that is here already, unless it may change.

        The config of a run that never began, for the data were missing or it was killed at once,
        is no claim.
        """
        config = json.loads(json.dumps(config))
        if self.has_begun() and self.config.exists():
            old = _flat(self.read_config())
            new = _flat(config)
            changed = sorted(k for k in old | new if old.get(k) != new.get(k))
            if changed and not allow_change:
                lines = "".join(
                    f"\n  {k}: {old.get(k, '(absent)')!r} there, {new.get(k, '(absent)')!r} now"
                    for k in changed
                )
                raise ConfigError(
                    f"{self.root} holds a run with another config:{lines}\nUse another --workdir, "
                    "delete this one, or continue it with the new config by --allow_config_change."
                )

    def claim_data(self, data: Mapping[str, Any], allow_change: bool) -> None:
        """Checks that what was learnt from here is what is learnt from now, unless it may change.

        Args:
          data: what the source says of itself (data/summary.py).
          allow_change: whether it may.
        """
        before = self.data_before() if self.has_begun() else {}
        same = before.get("sha256", data["sha256"]) == data["sha256"]
        if not same and not allow_change:
            sizes = before.get("size"), data["size"]
            what = "as many, but others" if sizes[0] == sizes[1] else f"{sizes[1]} instead"
            raise ConfigError(
                f"{self.root} has learnt from {sizes[0]} training examples of {data['name']}, and "
                f"there are {what} now; bring them back, use another --workdir, or go on with "
                "these by --allow_config_change."
            )

    def data_before(self) -> Mapping[str, Any]:
        """What the last start's source said of itself; empty where nothing was kept of it."""
        starts = self.read_runs()
        return (starts[-1].get("data") or {}) if starts else {}

    def others_now(self, data: Mapping[str, Any]) -> bool:
        """Whether data of the same name were others when they were learnt from here."""
        before = self.data_before()
        was, of_name = (before.get(key, data[key]) == data[key] for key in ("sha256", "name"))
        return of_name and not was

    def write_config(self, config: Mapping[str, Any]) -> None:
        """config.json: the whole config of the run."""
        write_json(self.config, config)

    def read_runs(self) -> list[dict[str, Any]]:
        """One record for each time a process trained here."""
        return self.read(self.runs) if self.runs.exists() else []

    def read_numbers(self) -> list[dict[str, Any]]:
        """What was measured here."""
        return self.read(self.numbers) if self.numbers.exists() else []

    def origins(self) -> dict[str, Any]:
        """What the run here began from, by name; empty where it began from nothing."""
        starts = self.read_runs()
        return starts[-1].get("begun", {}) if starts else {}

    def read(self, path: pathlib.Path, advice: str = "") -> Any:
        """A JSON file of this workdir, of which `schema.FILES` says what it holds.

        Args:
          path: of the file.
          advice: what to do where there is none.

        Raises ZooError where it is not there, cannot be read or does not hold that.
        """
        about = schema.FILES[path.name]
        try:
            value = json.loads(path.read_text())
        except FileNotFoundError as error:
            raise ZooError(f"{path} does not exist; {advice}") from error
        except NotADirectoryError as error:
            raise ZooError(
                f"--workdir={self.root} is a file; give the folder of a run, such as "
                "runs/quickstart."
            ) from error
        except PermissionError as error:
            raise ZooError(f"{path} cannot be read: {error.strerror}; ask its owner.") from error
        except (OSError, ValueError, RecursionError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise ZooError(f"{path} cannot be read: {why}. {about.advice}") from error
        wrong = schema.problem(value, about.shape)
        if wrong:
            raise ZooError(f"{path} is damaged: {wrong}. {about.advice}")
        return value

    def rewind_metrics(self, step: int) -> None:
        """Forgets the lines of steps after `step`, and a torn last line; they will come again."""
        if not self.metrics.exists():
            return
        kept, text = [], self.metrics.read_text(errors="replace")
        for line in text.splitlines():
            try:
                at = json.loads(line)["step"]
                if at > step:
                    break
                kept.append(line + "\n")
            except (ValueError, KeyError, TypeError, RecursionError):
                # The last one was torn by what stopped the run, and its step comes again.
                if line != text.splitlines()[-1]:
                    log(f"a line of {self.metrics} cannot be read, and is left out: {line[:40]!r}")
        files.write(self.metrics, "".join(kept))

    def append_metrics(self, step: int, values: Mapping[str, float]) -> None:
        """One line of metrics.jsonl."""
        with self.metrics.open("a") as file:
            file.write(files.to_json({"step": step, **values}) + "\n")

    @property
    def data(self) -> pathlib.Path:
        """Some of the data: what pictures of samples are drawn over, and shown beside."""
        return self.samples / "data.npz"

    def sample_stem(self, step: int) -> pathlib.Path:
        """Where the samples after `step` steps go, but for the files' ends."""
        return self.samples / f"step_{step:08d}"


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes JSON whole."""
    files.write(path, files.to_json(value, indent=2) + "\n")


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version, such as (0, 2, 0)."""
    return tuple(int(n) for n in re.findall(r"\d+", version)[:3])


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
