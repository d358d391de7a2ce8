"""Checkpoints: written behind the run's back by orbax, read back only if every bit is as it was.

Floor 6. Each checkpoint is opened again once it is written: a save that left nothing to read is no
success. It carries a fingerprint of every array, so damage that a file format lets through is still
found. A damaged one is moved aside, never deleted, and the one before it is used.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers, multihost

from genjax_zoo.contract import CheckpointError
from genjax_zoo.learn.state import settle
from genjax_zoo.run.record import schema
from genjax_zoo.run.record.progress import log

BARRIER_SECONDS = int(os.environ.get("GENJAX_ZOO_BARRIER_SECONDS", "300"))
"""How long one process waits for the others before it says which barrier it waited at."""


def barrier(name: str, seconds: int | None = None) -> None:
    """Waits until every process is here; raises CheckpointError, with the name, if one is not."""
    count = jax.process_count()
    if count == 1:
        return
    seconds = seconds or BARRIER_SECONDS
    try:
        multihost.sync_global_processes(name, timeout=seconds, processes=set(range(count)))
    except Exception as error:
        raise CheckpointError(
            f"process {jax.process_index()} waited {seconds} s at the barrier {name!r}: another of "
            f"the {count} processes did not come. Look at its log; the last checkpoint is whole."
        ) from error


def names(tree: Any) -> list[str]:
    """The path of each array of a tree, such as `params.encoder.Dense_0.kernel`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]


def _describe(tree: Any) -> dict[str, str]:
    leaves = jax.tree.leaves(tree)
    spelt = [f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]" for leaf in leaves]
    return dict(zip(names(tree), spelt, strict=True))


@jax.jit
def _fingerprints(tree: Any) -> list[jax.Array]:
    """One 32-bit number per array: Σ_i (2 i + 1) · word_i · 2654435761 mod 2^32."""

    def one(leaf: jax.Array) -> jax.Array:
        if leaf.dtype == jnp.bool_:
            leaf = leaf.astype(jnp.uint8)
        width = min(leaf.dtype.itemsize, 4)
        words = jax.lax.bitcast_convert_type(leaf, jnp.dtype(f"uint{8 * width}"))
        words = words.astype(jnp.uint32).reshape(-1)
        odd = 2 * jnp.arange(words.size, dtype=jnp.uint32) + 1
        return jnp.sum(words * jnp.uint32(2654435761) * odd, dtype=jnp.uint32)

    return [one(leaf) for leaf in jax.tree.leaves(tree)]


def fingerprint(tree: Any) -> dict[str, int]:
    """A number for each array that changes with any single bit of it."""
    return dict(zip(names(tree), (int(f) for f in _fingerprints(tree)), strict=True))


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Without orbax's, that what is only to be read will only be read."""
    said = logging.getLogger("absl")
    level = said.level
    said.setLevel(logging.ERROR)
    try:
        yield
    finally:
        said.setLevel(level)


class Checkpoints:
    """The checkpoints of one workdir: the last few, and the best.

    Args:
      folder: where they live.
      family: the model's name; a checkpoint of another is refused.
      keep_last: how many of the latest are kept; a newer one counts once it has been looked at.
      higher_is_better: of the score given to `save`.
      read_only: opens without writing, cleaning or creating anything.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        family: str,
        keep_last: int = 2,
        higher_is_better: bool = True,
        read_only: bool = False,
    ):
        self.folder, self.family = folder.absolute(), family
        sign = 1.0 if higher_is_better else -1.0
        self._best: Callable[[dict], float] = lambda metrics: sign * metrics["score"]
        self._keep_last = keep_last
        # One more, for the newest is not looked at until it is written.
        keep = checkpoint_managers.AnyPreservationPolicy(
            [
                checkpoint_managers.LatestN(keep_last + 1),
                checkpoint_managers.BestN(
                    get_metric_fn=self._best, n=1, keep_checkpoints_without_metrics=False
                ),
            ]
        )
        self._unseen: dict[int, dict[str, str]] = {}
        processes = set(range(jax.process_count())) if jax.process_count() > 1 else None
        options = ocp.CheckpointManagerOptions(
            preservation_policy=keep,
            best_fn=self._best,
            create=False,
            read_only=read_only,
            save_interval_steps=0 if read_only else 1,
            cleanup_tmp_directories=not read_only and jax.process_count() == 1,
            async_options=ocp.AsyncOptions(timeout_secs=BARRIER_SECONDS),
            multiprocessing_options=ocp.options.MultiprocessingOptions(active_processes=processes),
        )
        try:
            if not read_only:
                self.folder.mkdir(parents=True, exist_ok=True)
            self._look_over(read_only)
            with _without_warnings() if read_only else contextlib.nullcontext():
                self._manager = ocp.CheckpointManager(self.folder, options=options)
        except OSError as error:
            raise CheckpointError(
                f"{self.folder} cannot be used for checkpoints: {error.strerror or error}."
            ) from error

    def _look_over(self, read_only: bool) -> None:
        """Tells of saves that were cut off, and sets aside steps that orbax could not list."""
        if jax.process_index() == 0:
            if not read_only:
                for torn in sorted(self.folder.glob("*.orbax-checkpoint-tmp*")):
                    log(f"the save {torn.name} was cut off before it was whole; it is removed")
            for path in sorted(self.folder.iterdir() if self.folder.is_dir() else ()):
                if not path.name.isdecimal():
                    continue
                for file, shape in ABOUT_STEP.items():
                    if not _holds(path / file, shape):
                        self._unusable(int(path.name), f"its {file} cannot be read", read_only)
                        break
        barrier("checkpoints looked over")

    def _unusable(self, step: int, why: str, read_only: bool) -> None:
        """Sets aside a checkpoint whose description would fail all the others too."""
        if read_only:
            raise CheckpointError(
                f"the checkpoint of step {step} in {self.folder} is damaged: {why}; train on in "
                "this workdir, which sets it aside."
            )
        self._set_aside(step, why)

    def _set_aside(self, step: int, why: str) -> None:
        """Moves a damaged checkpoint to `damaged/` beside the checkpoints, and says so."""
        aside = self.folder.parent / "damaged" / str(step)
        aside.parent.mkdir(exist_ok=True)
        while aside.exists():
            aside = aside.with_name(aside.name + "_")
        (self.folder / str(step)).rename(aside)
        log(f"the checkpoint of step {step} is damaged: {why}. It is kept as {aside}")

    def steps(self) -> list[int]:
        """The steps at which there is a checkpoint, in order."""
        self._manager.reload()
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        """The step of the best score; None where none was scored."""
        return self._manager.best_step()

    def measured(self) -> dict[int, str]:
        """Of what each step's score was measured, where that is known: only alike ones compare."""
        of = {step: (self._manager.metrics(step) or {}) for step in self._manager.all_steps()}
        return {step: str(m["measured"]) for step, m in of.items() if m.get("measured")}

    def save(self, step: int, state: Any, score: float | None = None, measured: str = "") -> None:
        """Begins to save the state after `step` steps; returns before it is on disk.

        Args:
          step: how many.
          state: after them.
          score: what the best is judged by; None where nothing was measured.
          measured: of what: the name, the data and the protocol of the number.
        """
        if step in self._manager.all_steps():
            return
        self.check()
        about: dict[str, Any] = {
            "family": self.family,
            "arrays": _describe(state),
            "fingerprint": fingerprint(state),
        }
        metrics = None if score is None else {"score": score, "measured": measured}
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), about=ocp.args.JsonSave(about)
        )
        try:
            # Otherwise the older ones would go before this one's predecessor has been looked at.
            self.wait()
            self._manager.save(step, args=items, metrics=metrics, force=True)
        except CheckpointError:
            raise
        except Exception as error:
            raise self._failed(error) from error
        self._unseen[step] = about["arrays"]

    def check(self) -> None:
        """Raises CheckpointError if a save in the background has failed, or left nothing."""
        try:
            self._manager.check_for_errors()
        except Exception as error:
            raise self._failed(error) from error
        if self._unseen and not self._manager.is_saving_in_progress():
            # Over, but perhaps by an error that came since.
            self.wait()

    def wait(self) -> None:
        """Waits until the last save is on disk; raises CheckpointError if it is not there then."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._failed(error) from error
        self._look_again()

    def _look_again(self) -> None:
        """Opens what was saved since the last look, array by array, but for the numbers in it."""
        for step, arrays in self._unseen.items():
            if jax.process_index() == 0:
                try:
                    found = ocp.StandardCheckpointHandler().metadata(
                        epath.Path(self.folder) / str(step) / "state"
                    )
                    there = _describe(found)
                except Exception as error:
                    raise self._failed(error, step) from error
                if there != arrays:
                    wrong = sorted(n for n in arrays if there.get(n) != arrays[n])
                    raise self._failed(
                        ValueError(f"{(wrong or ['an array'])[0]} cannot be found again"), step
                    )
        self._unseen.clear()

    def close(self) -> None:
        """Waits, keeps as many as shall be kept, and lets go."""
        self.wait()
        for step in self.steps()[: -self._keep_last]:
            if step != self.best_step():
                self._manager.delete(step)
        self._manager.close()

    def _failed(self, error: BaseException, hollow: int | None = None) -> CheckpointError:
        """The error of a save that failed, or of one that left a step which cannot be read."""
        kept = [step for step in self.steps() if step != hollow]
        what = "could not be written to" if hollow is None else "was written, but cannot be read in"
        return CheckpointError(
            f"a checkpoint {what} {self.folder}: {_reason(error).rstrip('.')}. "
            + (f"The last whole one is step {kept[-1]}; " if kept else "There is none yet; ")
            + "free some room or mend the disk, and run the same command again."
        )

    def restore(self, like: Any, step: int) -> Any:
        """The state at `step`, checked bit for bit.

        Args:
          like: the shapes, dtypes and shardings of the state before any step, as
            `ShapeDtypeStruct`s.
          step: one of `steps()`.

        Raises:
          CheckpointError: it belongs to another model, or cannot be read at present.
          Damaged: it cannot be read, or is not what was saved.
        """
        try:
            about = self._manager.restore(
                step, args=ocp.args.Composite(about=ocp.args.JsonRestore())
            )
            about = about["about"]
        except Exception as error:
            self._not_now(error, step)
            raise Damaged(f"its description cannot be read ({_first_line(error)})") from error
        wrong = schema.problem(about, schema.ABOUT)
        if wrong:
            raise Damaged(f"its description cannot be read ({wrong})")
        # What a state has put down until that step was not saved.
        like = settle(like, step)
        self._same_model(about, like, step)
        try:
            items = ocp.args.Composite(state=ocp.args.StandardRestore(like))
            state = self._manager.restore(step, args=items)["state"]
        except Exception as error:
            self._not_now(error, step)
            raise Damaged(f"it cannot be read ({_first_line(error)})") from error
        now = fingerprint(state)
        prints = about["fingerprint"]
        changed = [name for name, value in now.items() if prints.get(name) != value]
        if changed:
            raise Damaged(f"{changed[0]} is not what was saved")
        return state

    def _not_now(self, error: BaseException, step: int) -> None:
        """Raises CheckpointError where the machine failed, and not the checkpoint."""
        for cause in _causes(error):
            machine = isinstance(cause, MemoryError | jax.errors.JaxRuntimeError)
            if machine or (isinstance(cause, OSError) and cause.errno not in (None, errno.ENOENT)):
                raise CheckpointError(
                    f"the checkpoint of step {step} in {self.folder} cannot be read at present: "
                    f"{_first_line(cause)}. Nothing was changed; mend this and try again."
                ) from error

    def _same_model(self, about: dict, like: Any, step: int) -> None:
        arrays, expected = about["arrays"], _describe(like)
        if about["family"] == self.family and arrays == expected:
            return
        differing = sorted(k for k in arrays | expected if arrays.get(k) != expected.get(k))
        where = self.folder / str(step)
        if about["family"] != self.family:
            raise CheckpointError(
                f"the checkpoint {where} is of a {about['family']!r}, and this run's model is a "
                f"{self.family!r}. Use another workdir."
            )
        wide, narrow = ("64[" in str(side.get(differing[0])) for side in (arrays, expected))
        if wide != narrow:
            raise CheckpointError(
                f"the checkpoint {where} holds numbers of {'64' if wide else '32'} bits, and this "
                f"process works with {'32' if wide else '64'}: "
                f"{'set JAX_ENABLE_X64=1' if wide else 'unset JAX_ENABLE_X64'} to go on with it."
            )
        name = differing[0]
        raise CheckpointError(
            f"the checkpoint {where} is of another model than this run's {self.family!r}: "
            f"{len(differing)} arrays differ, the first is {name}: {arrays.get(name, 'absent')} "
            f"there, {expected.get(name, 'absent')} here. Use another workdir."
        )

    def restore_latest(self, like: Any) -> tuple[int, Any] | None:
        """The newest whole checkpoint as (step, state); None where there never was one.

        A damaged one is reported, moved to `damaged/` beside the checkpoints, and the one before
        it is tried. Raises CheckpointError if none of them is whole.
        """
        steps = self.steps()
        for step in reversed(steps):
            problem, state = "", None
            try:
                state = self.restore(like, step)
            except Damaged as error:
                problem = str(error)
            if _everywhere(not problem, f"checkpoint {step} read"):
                return step, state
            if jax.process_index() == 0:
                self._set_aside(step, problem or "another process could not read it")
            barrier(f"damaged checkpoint {step} set aside")
            self._manager.reload()
        if steps:
            raise CheckpointError(
                f"none of the checkpoints {steps} is whole; they are kept in "
                f"{self.folder.parent / 'damaged'}. Mend one and move it back to {self.folder}, or "
                "run the same command again to begin anew."
            )
        return None


class Damaged(CheckpointError):
    """A checkpoint that cannot be trusted."""


def _everywhere(ok: bool, name: str) -> bool:
    if jax.process_count() == 1:
        return ok
    barrier(name)
    return bool(np.all(multihost_utils.process_allgather(np.asarray(ok))))


ABOUT_STEP = {"metrics/metrics": schema.SCORE, "_CHECKPOINT_METADATA": schema.STEP}
"""What orbax reads of every checkpoint before it opens any."""


def _holds(path: pathlib.Path, shape: Any) -> bool:
    """Whether a JSON file, if it is there, holds what it should."""
    try:
        return schema.problem(json.loads(path.read_text()), shape) is None
    except FileNotFoundError:
        return True
    except (ValueError, RecursionError):
        return False


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and the errors beneath it."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _reason(error: BaseException) -> str:
    """What the operating system said, if it lies beneath; else the error's first line."""
    said = [c.strerror for c in _causes(error) if isinstance(c, OSError) and c.strerror]
    # tensorstore spells it out at the end of a long line.
    spelt = re.search(r"os_error_code='(\d+)'", str(error))
    if not said and spelt:
        said = [os.strerror(int(spelt[1]))]
    return said[0] if said else _first_line(error)
