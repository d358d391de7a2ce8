"""The one loop. It could train anything that keeps the contract, and knows no model.

Floor 6. The number of the step is the whole state of the data and of the dice: batch i is a
function of (seed, i), and step i's key is fold_in(root, i). A run that was killed therefore goes
on from its last checkpoint as if nothing had happened: bit for bit, where the device's own sums are
deterministic, as on a CPU.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import pathlib
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from tensorboardX import SummaryWriter

from genjax_zoo.contract import (
    Batch,
    ConfigError,
    DataError,
    DivergedError,
    Exactness,
    Kind,
    Model,
    Sometimes,
    ZooError,
    categorical,
)
from genjax_zoo.data.source import Source, feeds
from genjax_zoo.data.sources import open_source
from genjax_zoo.measure import examples, modes, samples
from genjax_zoo.measure.results import Result
from genjax_zoo.run.config import Run, make_model
from genjax_zoo.run.devices import sharding
from genjax_zoo.run.record import checkpoint, pictures, provenance, report
from genjax_zoo.run.record.progress import Progress, say
from genjax_zoo.run.record.workdir import Workdir, write_json

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
      example: batch 0, for shapes and for a model's start from the data; the same everywhere.
      like: the state's shapes, dtypes and shardings.
      init: () -> the first state, sharded.
    """

    run: Run
    model: Model
    source: Source
    mesh: jax.sharding.Mesh
    root: jax.Array
    example: Batch
    like: Any
    init: Callable[[], Any]


def set_up(run: Run, data_dir: str | None = None, learning: bool = True) -> Setup:
    """Builds a run's parts; every error of a config or of the data is raised here.

    To measure only (`learning` is False), any devices will do, whatever it was trained on.
    """
    model = make_model(run)
    if learning:
        mesh = sharding.make_mesh(run.devices, run.data.batch_size)
    else:
        mesh = sharding.make_mesh(sharding.Devices())
    source = open_source(run.data, run.seed, data_dir)
    root = jax.random.key(run.seed)
    example = example_batch(source, root, run.data.batch_size)
    check_data(model, source, example, run)
    like = state_like(run, model, mesh, example)
    held = jax.tree.map(lambda leaf: leaf.sharding, like)
    init = jax.jit(model.init, out_shardings=held)
    key = jax.random.fold_in(root, INIT)
    return Setup(run, model, source, mesh, root, example, like, lambda: init(key, example))


def state_like(run: Run, model: Model, mesh: jax.sharding.Mesh, example: Mapping) -> Any:
    """The state's shapes, dtypes and shardings; of the example only shapes and dtypes matter."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), example)
    shardings = sharding.of_state(mesh, shapes, run.devices.min_split)
    return jax.tree.map(
        lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where), shapes, shardings
    )


def example_batch(source: Source, root: jax.Array, batch_size: int) -> Batch:
    """Batch 0, in other dice than step 0's."""
    feed = source.feed(0, slice(0, batch_size))
    batch = source.batch(jax.random.fold_in(root, EXAMPLE), source.resident, feed)
    return jax.tree.map(np.asarray, batch)


def check_data(model: Model, source: Source, batch: Batch, run: Run) -> None:
    """Raises DataError where the data are not what the model learns from, array by array."""
    who = f"this {run.model['name']}"
    for name, wanted in model.spaces.items():
        offered = source.spaces.get(name)
        if offered is None:
            has = ", ".join(source.spaces)
            raise DataError(
                f"{who} learns from {name!r} ({wanted}), and {run.data.source} has: "
                f"{has}; "
                "choose other data, or a config that asks for no such thing (model.classes=0, of labels)."
            )
        if offered.kind is Kind.CATEGORICAL and not offered.size:
            # Where the source cannot tell, the first batch may.
            offered = categorical(int(np.max(batch[name], initial=-1)) + 1)
        if wanted.holds(offered):
            continue
        if wanted.kind is offered.kind is Kind.CATEGORICAL:
            raise DataError(
                f"{who} knows the values 0 .. {wanted.size - 1} of {name!r}, and "
                f"{run.data.source} has 0 .. {offered.size - 1}; set config.model to as many "
                f"(model.classes={offered.size}, of labels), or choose other data."
            )
        raise DataError(
            f"{who} models {name!r} as {wanted}, but {run.data.source} gives {offered}; "
            f"{_ADVICE[wanted.kind]}"
        )


_ADVICE = {
    Kind.REAL: "choose a source of images or of points.",
    Kind.UNIT: "set config.data.scale='unit'.",
    Kind.SIGNED: "set config.data.scale='symmetric'.",
    Kind.BINARY: "set config.data.binarise to 'threshold' or 'dynamic': grey values used as "
    "targets of a Bernoulli give no likelihood.",
    Kind.COUNTS: "set config.data.scale='raw' for the levels of images.",
    Kind.CATEGORICAL: "choose a source of text.",
}


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
        finite = jnp.array(True)
        for leaf in jax.tree.leaves((infos, state)):
            if jnp.issubdtype(leaf.dtype, jnp.inexact):
                finite &= jnp.all(jnp.isfinite(leaf))
        return state, {name: averaged(said) for name, said in infos.items()}, finite

    held = jax.tree.map(lambda leaf: leaf.sharding, setup.like)
    everywhere = sharding.replicated(setup.mesh)
    return jax.jit(many, donate_argnums=0, out_shardings=(held, everywhere, everywhere))


def averaged(said: Any) -> Sometimes:
    """The mean over steps of what they say, and whether any of them says it."""
    if not isinstance(said, Sometimes):
        return Sometimes(jnp.mean(said), jnp.ones((), bool))
    count = jnp.sum(said.said)
    return Sometimes(jnp.sum(said.value * said.said) / jnp.maximum(count, 1), count > 0)


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


def train(
    setup: Setup,
    workdir: Workdir,
    config: Mapping[str, Any] | None = None,
    data_dir: str | None = None,
    quiet: bool = False,
) -> list[Result]:
    """Trains, or goes on training, in `workdir`; returns the held-out numbers of the end.

    SIGTERM saves and returns with what there is; the same call then goes on. Raises ZooError.

    Args:
      setup: the run's parts.
      workdir: a folder that is there.
      config: written to config.json once the checkpoints are known to be of this run.
      data_dir: where the data were found, to be found there again.
      quiet: shows no progress.
    """
    chief = jax.process_index() == 0
    with contextlib.ExitStack() as stack:
        if chief:
            stack.enter_context(workdir.lock())
        checkpoints = checkpoint.Checkpoints(
            workdir.checkpoints,
            setup.run.model["name"],
            setup.run.keep_last,
            _higher_is_better(setup.model),
        )
        found = checkpoints.restore_latest(setup.like)
        first, state = found if found else (0, setup.init())
        if first > setup.run.steps:
            raise ConfigError(
                f"{workdir.root} has learnt {first} steps already, more than "
                f"config.steps={setup.run.steps}; ask for more steps, or use another --workdir."
            )
        if not chief:
            return _train(setup, workdir, checkpoints, state, first, None, quiet=True)
        if first:
            say(f"going on from step {first} in {workdir.root}")
        if config is not None:
            workdir.write_config(config)
        _write_example(setup, workdir)
        workdir.rewind_metrics(first)
        writer = SummaryWriter(str(workdir.events), purge_step=first + 1, flush_secs=5)
        stack.callback(writer.close)
        with _recorded(workdir, first, data_dir) as told:
            results = _train(setup, workdir, checkpoints, state, first, writer, quiet, told)
        report.write(workdir.root)
        return results


def _train(setup, workdir, checkpoints, state, first, writer, quiet, told=None) -> list[Result]:
    """The steps from `first` on, and what is to be written at their end."""
    keeper = _Keeper(setup, workdir, checkpoints, writer)
    with Progress(setup.run.steps, first, quiet) as progress, _until_sigterm() as stop:
        state, step = _steps(setup, state, first, keeper, progress, stop)
        if told is not None:
            told["last_step"] = step
        results = keeper.finish(state, step, stop)
    checkpoint.barrier(f"end of run at step {step}")
    return results


@contextlib.contextmanager
def _recorded(workdir: Workdir, first: int, data_dir: str | None) -> Iterator[dict[str, Any]]:
    """An entry of run.json that is there from the start of a process, however it ends."""
    runs, began = workdir.read_runs(), time.time()
    where = None if data_dir is None else str(pathlib.Path(data_dir).expanduser().absolute())
    told = provenance.record() | {"first_step": first, "data_dir": where}
    write_json(workdir.runs, [*runs, told])
    try:
        yield told
    except BaseException:
        # What stopped the run is the news; a full disk may be it.
        with contextlib.suppress(OSError):
            told["seconds"] = round(time.time() - began, 2)
            write_json(workdir.runs, [*runs, told])
            report.write(workdir.root)
        raise
    told["seconds"] = round(time.time() - began, 2)
    write_json(workdir.runs, [*runs, told])


def _write_example(setup: Setup, workdir: Workdir) -> None:
    """example.json: the shapes that a state is made for, so that sampling needs no data."""
    arrays = {name: [str(a.dtype), list(a.shape)] for name, a in setup.example.items()}
    write_json(workdir.example, {"arrays": arrays, "interval": list(setup.source.interval)})


def read_example(workdir: Workdir) -> tuple[dict[str, Any], tuple[float, float]]:
    """The shapes and dtypes of a batch of a trained workdir, and the range of its values."""
    told = workdir.read(workdir.example, "train in this workdir first.")
    arrays = {
        name: jax.ShapeDtypeStruct(tuple(shape), dtype)
        for name, (dtype, shape) in told["arrays"].items()
    }
    low, high = told["interval"]
    return arrays, (low, high)


def _steps(setup, state, first, keeper, progress, told) -> tuple[Any, int]:
    """Runs the chunks; returns the state and how many steps it has seen."""
    ahead = chunks(setup.run, first)
    compiled = compile_steps(setup)
    everywhere = sharding.replicated(setup.mesh)
    over = sharding.over_batch(setup.mesh, leading=1)
    resident = jax.device_put(setup.source.resident, everywhere)
    rows = sharding.own_rows(setup.mesh, setup.run.data.batch_size)
    step, pending = first, None
    for (start, stop), fed in zip(ahead, feeds(setup.source, ahead, rows), strict=True):
        call = (np.uint32(start), sharding.distribute(over, fed))
        state, info, finite = compiled(state, resident, *call)
        # One call is under way while the last one's outcome is read.
        if pending is not None and not bool(pending):
            raise keeper.diverged(compiled, resident, rows, over)
        pending, step = finite, stop
        due = keeper.due(stop)
        if due:
            if not bool(finite):
                raise keeper.diverged(compiled, resident, rows, over)
            progress.update(stop, keeper.keep(state, stop, info), keeper.news)
        else:
            progress.update(stop)
        if (due or jax.process_count() == 1) and _any_process(told.is_set(), stop):
            break
    if pending is not None and not bool(pending):
        raise keeper.diverged(compiled, resident, rows, over)
    return state, step


class _Keeper:
    """Writes what a run leaves behind: metrics, pictures, measurements, checkpoints."""

    def __init__(self, setup: Setup, workdir: Workdir, checkpoints, writer: SummaryWriter | None):
        """The writer is the chief's; the other processes keep nothing but checkpoints."""
        self.setup, self.workdir, self.checkpoints = setup, workdir, checkpoints
        self.writer, self.drawn = writer, -1
        self.news = ""
        self.everywhere = sharding.replicated(setup.mesh)
        self.measured: dict[int, list[Result]] = {}
        self._sample = jax.jit(
            lambda key, state: setup.model.sample(key, state, setup.run.samples),
            out_shardings=self.everywhere,
        )

    def due(self, step: int) -> bool:
        """Whether anything is to be written after this step."""
        run = self.setup.run
        every = (run.log_every, run.checkpoint_every, run.sample_every, run.eval_every)
        return step == run.steps or any(n and step % n == 0 for n in every)

    def keep(self, state: Any, step: int, info: dict) -> dict[str, float]:
        """Writes all that is due after `step`; returns the line of metrics.

        `self.news` says whether the newest samples are collapsing.
        """
        run = self.setup.run
        hit = lambda n: bool(n) and step % n == 0
        self.checkpoints.check()
        line: dict[str, float] = {}
        if hit(run.log_every) or step == run.steps:
            line |= {name: float(m.value) for name, m in sorted(info.items()) if bool(m.said)}
        if hit(run.eval_every):
            line |= self._measure(state, step)
        if hit(run.sample_every) or step == run.steps:
            line |= self._draw(state, step)
        if line and self.writer is not None:
            self.workdir.append_metrics(step, line)
            for name, value in line.items():
                self.writer.add_scalar(re.sub(r"[^\w/]+", "_", name).strip("_"), value, step)
        if hit(run.checkpoint_every) or step == run.steps:
            if self.writer is not None:
                # A run that resumes here does not write these points again.
                self.writer.flush()
            self.checkpoints.save(step, state, self._score(step))
        return line

    def finish(self, state: Any, step: int, stop: threading.Event) -> list[Result]:
        """Saves, waits until it is saved; at the end of the run also draws and measures."""
        run = self.setup.run
        self.checkpoints.save(step, state, self._score(step))
        self.checkpoints.wait()
        results: list[Result] = []
        if step == run.steps:
            self._draw(state, step)
            with contextlib.suppress(_Stopped):
                results = self.evaluate(
                    state, step, examples=run.final_examples or None, progress=_watching(stop)
                )
                results += self._modes(state, step, progress=_watching(stop))
            if self.writer is not None and results:
                write_results(self.workdir, results)
        if stop.is_set() and self.writer is not None:
            what = "while measuring the end" if step == run.steps else f"after step {step}"
            say(
                f"stopped by SIGTERM {what} of {run.steps} steps, and saved; "
                "the same command goes on"
            )
        self.checkpoints.close()
        return results

    def _modes(self, state: Any, step: int, **kwargs) -> list[Result]:
        """What samples of a density with modes are worth; other scores are dear, and asked for."""
        key, only = jax.random.fold_in(self.setup.root, EVALUATE), modes.OF_MODES
        return samples.evaluate(
            self.setup.model, state, self.setup.source, key, step, only=only,
            where=self.everywhere, **kwargs,
        )  # fmt: skip

    def evaluate(self, state: Any, step: int, **kwargs) -> list[Result]:
        key = jax.random.fold_in(self.setup.root, EVALUATE)
        return examples.evaluate(
            self.setup.model, state, self.setup.source, key, step, where=self.everywhere, **kwargs
        )

    def _measure(self, state: Any, step: int) -> dict[str, float]:
        # log_prob alone while training: a measure may be an estimate that takes minutes.
        own = examples.measures_of(self.setup.model)
        only = ("log_prob",) if "log_prob" in own else tuple(own)
        results = self.evaluate(state, step, examples=self.setup.run.eval_examples, only=only)
        self.measured = {step: results}
        return {f"test/{_with_kind(r)}": r.value for r in results}

    def _score(self, step: int) -> float | None:
        """What `best` is judged by: no number whose unknown constant changes with the step."""
        for result in self.measured.get(step, ())[:1]:
            if result.kind != Exactness.UNNORMALISED and np.isfinite(result.value):
                return result.value
        return None

    def _draw(self, state: Any, step: int) -> dict[str, float]:
        """A picture of samples; returns what they tell of how varied they are."""
        if step == self.drawn:
            return {}
        self.drawn, path = step, self.workdir.sample_path(step)
        key = jax.random.fold_in(self.setup.root, SAMPLE)
        x = np.asarray(self._sample(key, state)["x"])
        if self.writer is None:
            return {}
        reference = np.asarray(self.setup.example["x"])
        picture, _ = pictures.write(path, x, reference, *self.setup.source.interval)
        self.writer.add_image("samples", picture, step, dataformats="HWC")
        numbers, self.news = samples.quick_look(x, self.setup.source, self._data)
        return numbers

    @functools.cached_property
    def _data(self) -> np.ndarray:
        """Held-out examples that samples are to be as varied as."""
        source = self.setup.source
        key = jax.random.fold_in(self.setup.root, EXAMPLE)
        return np.asarray(source.held_out(key, 0, min(samples.PAIRS, source.held_out_size))["x"])

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


def write_results(workdir: Workdir, results: list[Result]) -> None:
    """eval/metrics.json: a list of numbers, each with what it is.

    A number takes the place of an older one that is the same but for its value.
    """
    path = workdir.eval / "metrics.json"
    same = ("name", "step", "n", "split", "preprocessing", "detail")
    identity = lambda e: [*(e.get(k) for k in same), e.get("protocol") or {}]
    new = [result._asdict() for result in results]
    taken = [identity(entry) for entry in new]
    old = workdir.read(path) if path.exists() else []
    write_json(path, [*new, *(entry for entry in old if identity(entry) not in taken)])


def restore(
    run: Run, model: Model, like: Any, workdir: Workdir, which: str = "last"
) -> tuple[int, Any]:
    """The state of a trained workdir at `which`: last, best, or a number of steps."""
    if not workdir.checkpoints.is_dir():
        raise ZooError(
            f"{workdir.root} holds no checkpoint; train there first, for longer than "
            "config.checkpoint_every steps."
        )
    checkpoints = checkpoint.Checkpoints(
        workdir.checkpoints,
        run.model["name"],
        higher_is_better=_higher_is_better(model),
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
        return step, checkpoints.restore(like, step)
    except checkpoint.Damaged as error:
        raise ZooError(
            f"the checkpoint of step {step} in {workdir.root} is damaged: {error}. Choose another "
            f"by --checkpoint: {steps}."
        ) from error


def _with_kind(result: Result) -> str:
    """A number's name, and what kind of number it is unless it is exact."""
    exact = result.kind == Exactness.EXACT
    return result.name if exact else f"{result.name} ({result.kind.replace('_', ' ')})"


class _Stopped(Exception):
    """SIGTERM came while something long was measured."""


def _watching(stop: threading.Event) -> Callable[[str, int, int], None]:
    def look(name: str, done: int, of: int) -> None:
        if stop.is_set() and jax.process_count() == 1:
            raise _Stopped

    return look


def _higher_is_better(model: Model) -> bool:
    first = next(iter(examples.measures_of(model).values()), None)
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


def _any_process(mine: bool, step: int) -> bool:
    """Whether any process was told to stop: all of them stop after the same step."""
    if jax.process_count() == 1:
        return mine
    checkpoint.barrier(f"step {step}")
    return bool(np.any(multihost_utils.process_allgather(np.asarray(mine))))
