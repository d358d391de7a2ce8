"""A whole run: where it starts, its steps, those who watch them, and its end.

Floor 6. The same call on the same workdir goes on where it was stopped: by a signal, by SIGKILL, by
a power cut.
"""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from genjax_zoo.contract import ConfigError, Kind
from genjax_zoo.data import summary
from genjax_zoo.measure.results import Result
from genjax_zoo.run import replay, trained
from genjax_zoo.run.devices.sharding import left_whole
from genjax_zoo.run.observers import Line, Measurements, Samples, lines, saves, training
from genjax_zoo.run.record import provenance, recipe, results, tokenizer
from genjax_zoo.run.record.checkpoint import barrier
from genjax_zoo.run.record.journal import Journal
from genjax_zoo.run.record.progress import Measuring, Progress, log
from genjax_zoo.run.record.provenance import Origin
from genjax_zoo.run.record.workdir import Workdir
from genjax_zoo.run.setup import Setup
from genjax_zoo.run.steps import Calls, NotFinite, steps
from genjax_zoo.run.stop import PATIENCE, Stopped, on_signals


def train(
    setup: Setup,
    workdir: Workdir,
    config: Mapping[str, Any] | None = None,
    data_dir: str | None = None,
    quiet: bool = False,
) -> list[Result]:
    """Trains, or goes on training, in `workdir`; returns the held-out numbers of the end.

    SIGTERM saves and returns with what there is; the same call then goes on. Raises ZooError, and
    KeyboardInterrupt once it has saved.

    Args:
      setup: the run's parts.
      workdir: a folder that is there.
      config: written to config.json once the checkpoints are known to be of this run.
      data_dir: where the data were found, to be found there again.
      quiet: shows no progress.
    """
    run, is_primary = setup.run, jax.process_index() == 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(setup.layout.named())
        if is_primary:
            stack.enter_context(workdir.lock())
            # What is damaged is found before the steps, and not when there are numbers to add.
            workdir.read_numbers()
        checkpoints = trained.checkpoints(setup, workdir)
        latest = lambda: checkpoints.restore_latest(setup.like) or (0, setup.init())
        first, start = latest()
        if first > run.steps:
            raise ConfigError(
                f"{workdir.root} has learnt {first} steps already, more than "
                f"config.steps={run.steps}; ask for more steps, or use another --workdir."
            )
        entry: dict[str, Any] = {}
        if is_primary:
            for sentence in _sources(setup, workdir, first):
                log(sentence)
            if config is not None:
                workdir.write_config(config)
            trained.describe(setup, workdir)
            tokenizer.keep(workdir, setup.source.tokenizer)
            entry = provenance.start(first, data_dir, setup.begun.origins)
            data = entry["data"] = summary.record(setup.source)
            entry["recipe"] = recipe.keep(workdir.root, config) if config is not None else None
            if first and workdir.data_before().get("sha256", data["sha256"]) != data["sha256"]:
                log("the data are no longer those that this run was trained on before")
            stack.enter_context(provenance.recorded(workdir, entry))
        journal = stack.enter_context(Journal(workdir if is_primary else None, first))
        progress = stack.enter_context(Progress(run.steps, first, quiet or not is_primary))
        stop = stack.enter_context(on_signals())

        measurements = Measurements(setup, stop.watch(Measuring(progress), PATIENCE))
        samples = Samples(setup, journal)
        tellers = [training(run), measurements.observer(), samples.observer()]
        saving = saves(run, checkpoints, journal, measurements.score)
        observers = [*tellers, lines(journal, tellers), saving]

        def due(step: int) -> bool:
            return any(observer.due(step) for observer in observers)

        def goes_on(step: int) -> bool:
            progress.update(step)
            # Several processes meet where all of them look, and nowhere else.
            met = jax.process_count() == 1 or due(step)
            return not (met and stop.any_process(step))

        step, state = first, start
        try:
            for step, state, info in steps(Calls(setup), start, first, due, goes_on):
                checkpoints.check()
                line: Line = {}
                for observer in observers:
                    if observer.due(step):
                        observer.act(step, state, info, line)
                progress.update(step, line, samples.warning)
        except NotFinite:
            checkpoints.wait()
            raise replay.fault(setup, *latest()) from None
        entry["last_step"] = step

        checkpoints.save(step, state, *measurements.score(step))
        checkpoints.wait()
        measured: list[Result] = []
        if step == run.steps:
            samples.draw(step, state)
            than = f", longer than the {step - first} steps took"
            measuring = Measuring(
                progress, SHORTER, progress.seconds(), than if step > first else ""
            )
            with contextlib.suppress(Stopped):
                for result in measurements.final(step, state, stop.watch(measuring)):
                    measured.append(result)
                    if is_primary:
                        results.write(workdir, measured)
        if is_primary and stop.by is not None:
            when = "while measuring the end" if step == run.steps else f"after step {step}"
            log(
                f"stopped by {stop.by.name} {when} of {run.steps} steps, and saved; "
                "the same command goes on"
            )
        checkpoints.close()
        barrier(f"end of run at step {step}")
    if stop.by is signal.SIGINT:
        raise KeyboardInterrupt
    return measured


def _sources(setup: Setup, workdir: Workdir, first: int) -> Iterator[str]:
    """What a run starts from, in words."""
    if first:
        yield f"going on from step {first} in {workdir.root}"
    for name, origin in setup.begun.origins.items() if not first else ():
        step = "" if origin.files else f", step {origin.step}"
        yield f"{name} begins from {origin.workdir}{step}{_otherwise(origin, setup.run.model)}"
    yield summary.line(setup.source)
    yield from unused(setup)
    yield from left_whole(setup.layout.rules, setup.like, setup.run.devices.min_split)


def unused(setup: Setup) -> Iterator[str]:
    """Of which values the data have none: a model gives them probability too."""
    for name, space in setup.model.spaces.items():
        offered = setup.source.spaces.get(name)
        if offered and offered.kind is Kind.CATEGORICAL and 0 < offered.size < space.size:
            known = f"the model has {space.size} values, of which the data have {offered.size}"
            yield f"{name}: {known}"


def _otherwise(origin: Origin, model: Mapping[str, Any]) -> str:
    """By what other fields a model of the same family had learnt what it is begun from, in words.

    Other shapes are refused; an activation or a base of positions does its harm without a word.
    """
    then, now = (json.loads(json.dumps(fields)) for fields in (origin.config["model"], model))
    if then.get("name") != now["name"]:
        return ""
    other = [f"{name}={then[name]!r}" for name in now if then.get(name, now[name]) != now[name]]
    return f", learnt with {', '.join(other)}" if other else ""


SHORTER = (
    "config.final_examples={} takes fewer, and evaluate can measure the rest at any time. Whoever "
    "stops it keeps the checkpoint and the numbers so far."
)
"""What is said of measuring that takes longer than the training."""
