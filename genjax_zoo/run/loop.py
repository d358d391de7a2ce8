"""The one loop. It could train anything that keeps the contract, and knows no model.

Floor 4. The number of the step is the whole state of the data and of the dice: batch i is a
function of (seed, i), and step i's key is fold_in(root, i). A run that was killed therefore goes
on from its last checkpoint as if nothing had happened, bit for bit.
"""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from tensorboardX import SummaryWriter

from genjax_zoo.contract import (
    Batch,
    DataError,
    DivergedError,
    Model,
    Support,
    ZooError,
)
from genjax_zoo.run import checkpoint, evaluate, images, provenance, report, sharding
from genjax_zoo.run.config import Run, make_model
from genjax_zoo.run.data import Source, feeds, open_source
from genjax_zoo.run.progress import Progress, say
from genjax_zoo.run.workdir import Workdir, write_json

# Streams of the root key besides the steps', which count from 0 up.
INIT, SAMPLE, EVALUATE, EXAMPLE = (2**32 - k for k in range(1, 5))


class Setup(NamedTuple):
    """A run's parts, built from its config: everything but the state.

    Attributes:
      run: the typed config.
      model: the bundle of pure functions.
      source: the data.
      mesh: the devices.
      root: the root key.
      like: the state's shapes, dtypes and shardings.
      init: () -> the first state, sharded.
    """

    run: Run
    model: Model
    source: Source
    mesh: jax.sharding.Mesh
    root: jax.Array
    like: Any
    init: Callable[[], Any]


def set_up(run: Run, data_dir: str | None = None) -> Setup:
    """Builds a run's parts; every error of a config or of the data is raised here."""
    model = make_model(run)
    mesh = sharding.make_mesh(run.devices, run.data.batch_size)
    source = open_source(run.data, run.seed, data_dir)
    root = jax.random.key(run.seed)
    example = example_batch(source, root, run.data.batch_size)
    check_support(model, example, run)
    key = jax.random.fold_in(root, INIT)
    shapes = jax.eval_shape(model.init, key, example)
    shardings = sharding.of_state(mesh, shapes, run.devices.min_split)
    like = jax.tree.map(
        lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where), shapes, shardings
    )
    init = jax.jit(model.init, out_shardings=shardings)
    return Setup(run, model, source, mesh, root, like, lambda: init(key, example))


def example_batch(source: Source, root: jax.Array, batch_size: int) -> Batch:
    """Batch 0, for shapes and for a model's start from the data; the same on every process."""
    feed = source.feed(0, slice(0, batch_size))
    batch = source.batch(jax.random.fold_in(root, EXAMPLE), source.resident, feed)
    return jax.tree.map(np.asarray, batch)


def check_support(model: Model, batch: Batch, run: Run) -> None:
    """Raises DataError where the data lie outside of what the model gives probability to."""
    x = np.asarray(batch["x"])
    fits = {
        Support.REAL: np.issubdtype(x.dtype, np.floating),
        Support.UNIT: np.issubdtype(x.dtype, np.floating) and x.min() >= 0 and x.max() <= 1,
        Support.BINARY: np.isin(x, (0, 1)).all(),
        Support.CATEGORICAL: np.issubdtype(x.dtype, np.integer),
    }
    if not fits[model.support]:
        advice = {
            Support.REAL: "choose a source of images or of points.",
            Support.UNIT: "set config.data.scale='unit'.",
            Support.BINARY: "set config.data.binarise to 'threshold' or 'dynamic': grey values "
            "used as targets of a Bernoulli give no likelihood.",
            Support.CATEGORICAL: "choose a source of text.",
        }
        raise DataError(
            f"this {run.model['name']} models {model.support} data, but {run.data.source} gives "
            f"{x.dtype} between {x.min():g} and {x.max():g}; {advice[model.support]}"
        )


def compile_steps(setup: Setup) -> Callable[..., tuple[Any, dict, Any]]:
    """Many steps in one compiled call; the state is donated.

    Returns (state, resident, first, feeds) -> (state, mean info, all finite), with one step for
    each entry on the leading axis of `feeds`.
    """
    model, source, root = setup.model, setup.source, setup.root
    over = sharding.over_batch(setup.mesh)

    def many(state: Any, resident: Any, first: jax.Array, fed: Any):
        def one(state: Any, step_and_feed: tuple[jax.Array, Any]):
            step, feed = step_and_feed
            key_data, key_step = jax.random.split(jax.random.fold_in(root, step))
            batch = source.batch(key_data, resident, feed)
            batch = jax.lax.with_sharding_constraint(batch, jax.tree.map(lambda _: over, batch))
            return model.step(key_step, state, batch)

        steps = first + jnp.arange(jax.tree.leaves(fed)[0].shape[0], dtype=jnp.uint32)
        state, infos = jax.lax.scan(one, state, (steps, fed))
        finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(v)) for v in infos.values()]))
        for leaf in jax.tree.leaves(state):
            if jnp.issubdtype(leaf.dtype, jnp.inexact):
                finite &= jnp.all(jnp.isfinite(leaf))
        return state, {name: jnp.mean(v) for name, v in infos.items()}, finite

    held = jax.tree.map(lambda leaf: leaf.sharding, setup.like)
    everywhere = sharding.replicated(setup.mesh)
    return jax.jit(many, donate_argnums=0, out_shardings=(held, everywhere, everywhere))


def chunks(run: Run, first: int) -> list[tuple[int, int]]:
    """The calls that lie ahead, as (first step, step after the last).

    They end on one fixed grid, so a resumed run compiles and rounds as one never stopped.
    """
    every = [run.log_every, run.checkpoint_every, run.sample_every, run.eval_every]
    every = [n for n in every if n]
    found = []
    while first < run.steps:
        # Between two events the calls count from the earlier one, so that most are whole.
        event = max(first // n * n for n in every)
        after = min(run.steps, *((first // n + 1) * n for n in every))
        last = min(event + ((first - event) // run.steps_per_call + 1) * run.steps_per_call, after)
        found.append((first, last))
        first = last
    return found


def train(setup: Setup, workdir: Workdir, quiet: bool = False) -> list[evaluate.Result]:
    """Trains, or goes on training, in `workdir`; returns the held-out numbers of the end.

    SIGTERM saves and returns with what there is; the same call then goes on. Raises ZooError.
    """
    began, run = time.time(), setup.run
    chief = jax.process_index() == 0
    checkpoints = checkpoint.Checkpoints(
        workdir.checkpoints, run.model["name"], run.keep_last, _higher_is_better(setup.model)
    )
    found = checkpoints.restore_latest(setup.like)
    first, state = found if found else (0, setup.init())
    if first and chief:
        say(f"going on from step {first} in {workdir.root}")
    if chief:
        workdir.rewind_metrics(first)
    runs = workdir.read_runs()
    record = provenance.record() | {"first_step": first}
    writer = SummaryWriter(str(workdir.events), purge_step=first + 1) if chief else None
    keeper = _Keeper(setup, workdir, checkpoints, writer, chief)
    try:
        with Progress(run.steps, first, quiet or not chief) as progress, _until_sigterm() as told:
            state, step = _steps(setup, state, first, keeper, progress, told)
        results = keeper.finish(state, step)
    finally:
        if writer is not None:
            writer.close()
    if chief:
        record |= {"last_step": step, "seconds": round(time.time() - began, 2)}
        write_json(workdir.runs, [*runs, record])
        report.write(workdir.root)
    checkpoint.barrier(f"end of run at step {step}")
    return results


def _steps(setup, state, first, keeper, progress, told) -> tuple[Any, int]:
    """Runs the chunks; returns the state and how many steps it has seen."""
    ahead = chunks(setup.run, first)
    compiled = compile_steps(setup)
    everywhere = sharding.replicated(setup.mesh)
    over = sharding.over_batch(setup.mesh, leading=1)
    resident = jax.device_put(setup.source.resident, everywhere)
    rows = sharding.own_rows(setup.run.data.batch_size)
    step, pending = first, None
    for (start, stop), fed in zip(ahead, feeds(setup.source, ahead, rows), strict=True):
        call = (np.uint32(start), sharding.distribute(over, fed))
        state, info, finite = compiled(state, resident, *call)
        # One call is under way while the last one's outcome is read.
        if pending is not None and not bool(pending):
            raise keeper.diverged(compiled, resident, rows, over)
        pending, step = finite, stop
        if keeper.due(stop):
            if not bool(finite):
                raise keeper.diverged(compiled, resident, rows, over)
            progress.update(stop, keeper.keep(state, stop, info))
        else:
            progress.update(stop)
        if _any_process(told.is_set()):
            break
    if pending is not None and not bool(pending):
        raise keeper.diverged(compiled, resident, rows, over)
    return state, step


class _Keeper:
    """Writes what a run leaves behind: metrics, pictures, measurements, checkpoints."""

    def __init__(self, setup: Setup, workdir: Workdir, checkpoints, writer, chief: bool):
        self.setup, self.workdir, self.checkpoints = setup, workdir, checkpoints
        self.writer, self.chief = writer, chief
        self.measured: dict[int, list[evaluate.Result]] = {}
        self._sample = jax.jit(
            lambda key, state: setup.model.sample(key, state, setup.run.samples),
            out_shardings=sharding.replicated(setup.mesh),
        )
        self._reference = np.asarray(
            example_batch(setup.source, setup.root, setup.run.data.batch_size)["x"]
        )

    def due(self, step: int) -> bool:
        """Whether anything is to be written after this step."""
        run = self.setup.run
        every = (run.log_every, run.checkpoint_every, run.sample_every, run.eval_every)
        return step == run.steps or any(n and step % n == 0 for n in every)

    def keep(self, state: Any, step: int, info: dict) -> dict[str, float]:
        """Writes all that is due after `step`; returns the line of metrics."""
        run = self.setup.run
        hit = lambda n: bool(n) and step % n == 0
        self.checkpoints.check()
        line: dict[str, float] = {}
        if hit(run.log_every) or step == run.steps:
            line |= {name: float(value) for name, value in sorted(info.items())}
        if hit(run.eval_every):
            line |= self._measure(state, step)
        if line and self.chief:
            self.workdir.append_metrics(step, line)
            for name, value in line.items():
                self.writer.add_scalar(name, value, step)
        if hit(run.checkpoint_every) or step == run.steps:
            self.checkpoints.save(step, state, self._score(step))
        if hit(run.sample_every):
            self._draw(state, step)
        return line

    def finish(self, state: Any, step: int) -> list[evaluate.Result]:
        """Saves, waits until it is saved; at the end of the run also draws and measures."""
        self.checkpoints.save(step, state, self._score(step))
        results: list[evaluate.Result] = []
        if step == self.setup.run.steps:
            self._draw(state, step)
            results = self.evaluate(state, step)
            if self.chief:
                write_results(self.workdir, results)
        elif self.chief:
            say(
                f"stopped by SIGTERM after step {step} of {self.setup.run.steps}, and saved; "
                "the same command goes on"
            )
        self.checkpoints.close()
        return results

    def evaluate(self, state: Any, step: int, **kwargs) -> list[evaluate.Result]:
        key = jax.random.fold_in(self.setup.root, EVALUATE)
        return evaluate.evaluate(self.setup.model, state, self.setup.source, key, step, **kwargs)

    def _measure(self, state: Any, step: int) -> dict[str, float]:
        # log_prob alone while training: a measure may be an estimate that takes minutes.
        own = evaluate.measures_of(self.setup.model)
        only = ("log_prob",) if "log_prob" in own else tuple(own)
        results = self.evaluate(state, step, examples=self.setup.run.eval_examples, only=only)
        self.measured = {step: results}
        return {f"test/{r.name}": r.value for r in results}

    def _score(self, step: int) -> float | None:
        results = self.measured.get(step)
        return results[0].value if results else None

    def _draw(self, state: Any, step: int) -> None:
        path = self.workdir.sample_path(step)
        key = jax.random.fold_in(self.setup.root, SAMPLE)
        x = np.asarray(self._sample(key, state)["x"])
        if self.chief:
            picture = images.picture(x, self._reference, *self.setup.source.interval)
            images.write_png(path, picture)
            self.writer.add_image("samples", picture, step, dataformats="HWC")

    def diverged(self, compiled, resident, rows, over) -> DivergedError:
        """Plays the steps since the last good checkpoint again, one by one, and names the fault."""
        self.checkpoints.wait()
        setup = self.setup
        found = self.checkpoints.restore_latest(setup.like)
        first, state = found if found else (0, setup.init())
        kept = f"The last good checkpoint is step {first}." if found else "There is no checkpoint."
        for start, stop in chunks(setup.run, first):
            before = jax.tree.map(jnp.copy, state)
            (fed,) = feeds(setup.source, [(start, stop)], rows)
            call = (np.uint32(start), sharding.distribute(over, fed))
            state, _, finite = compiled(state, resident, *call)
            if not bool(finite):
                step, fault = _first_fault(setup, before, resident, call[1], start)
                return DivergedError(
                    f"step {step} of {setup.run.steps} gave a number that is not finite: {fault} "
                    f"broke first. {kept} Try a smaller config.optimizer.learning_rate, or "
                    "config.optimizer.clip_norm."
                )
        return DivergedError(f"a number is not finite, but not when played again. {kept}")


def _first_fault(setup: Setup, state: Any, resident: Any, fed: Any, start: int) -> tuple[int, str]:
    """The step within a chunk, and the first array of (batch, state, info) not finite after it."""

    @jax.jit
    def one(state, step, feed):
        key_data, key_step = jax.random.split(jax.random.fold_in(setup.root, step))
        batch = setup.source.batch(key_data, resident, feed)
        state, info = setup.model.step(key_step, state, batch)
        told = {"batch": batch, "state": state, "info": info}
        broken = [
            ~jnp.all(jnp.isfinite(leaf))
            if jnp.issubdtype(leaf.dtype, jnp.inexact)
            else jnp.zeros((), bool)
            for leaf in jax.tree.leaves(told)
        ]
        return state, told, broken

    count = jax.tree.leaves(fed)[0].shape[0]
    for index in range(count):
        step = start + index
        feed = jax.tree.map(lambda leaf, index=index: leaf[index], fed)
        state, told, broken = one(state, np.uint32(step), feed)
        wrong = list(itertools.compress(checkpoint.names(told), (bool(b) for b in broken)))
        if wrong:
            order = ("batch", "state", "info")
            wrong.sort(key=lambda name: order.index(name.split(".")[0]))
            return step, wrong[0]
    return start + count - 1, "an array of the state"


def write_results(workdir: Workdir, results: list[evaluate.Result]) -> None:
    """eval/metrics.json: a list of numbers of one step, each with what it is.

    A number takes the place of an older one of its name; the others of the same step stay.
    """
    path = workdir.eval / "metrics.json"
    new = [result._asdict() for result in results]
    taken = {(entry["name"], entry["step"]) for entry in new}
    steps = {entry["step"] for entry in new}
    old = workdir.read(path) if path.exists() else []
    kept = [e for e in old if e["step"] in steps and (e["name"], e["step"]) not in taken]
    write_json(path, [*new, *kept])


def restore(setup: Setup, workdir: Workdir, which: str = "last") -> tuple[int, Any]:
    """The state of a trained workdir at `which`: last, best, or a number of steps."""
    if not workdir.checkpoints.is_dir():
        raise ZooError(
            f"{workdir.root} holds no checkpoint; train there first, for longer than "
            "config.checkpoint_every steps."
        )
    checkpoints = checkpoint.Checkpoints(
        workdir.checkpoints,
        setup.run.model["name"],
        higher_is_better=_higher_is_better(setup.model),
        read_only=True,
    )
    steps = checkpoints.steps()
    step = {"last": steps[-1] if steps else None, "best": checkpoints.best_step()}.get(which)
    if step is None and which.isdigit() and int(which) in steps:
        step = int(which)
    if step is None:
        raise ZooError(
            f"--checkpoint={which} is not in {workdir.root}; expected last, best (where held-out "
            f"data were measured) or one of {steps}."
        )
    try:
        return step, checkpoints.restore(setup.like, step)
    except checkpoint.Damaged as error:
        raise ZooError(
            f"the checkpoint of step {step} in {workdir.root} is damaged: {error}. Choose another "
            f"by --checkpoint: {steps}."
        ) from error


def _higher_is_better(model: Model) -> bool:
    first = next(iter(evaluate.measures_of(model).values()), None)
    return first is None or first.better == "higher"


class _until_sigterm:
    """An event that SIGTERM sets, while the block lasts; other threads get one never set."""

    def __enter__(self) -> threading.Event:
        self._event = threading.Event()
        self._main = threading.current_thread() is threading.main_thread()
        if self._main:
            self._old = signal.signal(signal.SIGTERM, lambda *_: self._event.set())
        return self._event

    def __exit__(self, *_) -> None:
        if self._main:
            signal.signal(signal.SIGTERM, self._old)


def _any_process(mine: bool) -> bool:
    """Whether any process was told to stop: all of them stop after the same step."""
    if jax.process_count() == 1:
        return mine
    return bool(np.any(multihost_utils.process_allgather(np.asarray(mine))))
