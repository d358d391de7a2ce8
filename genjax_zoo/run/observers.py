"""Those who watch a run: each looks at the state after the steps that are due, and acts.

    training      what the steps say of themselves
    Measurements  numbers of held-out data
    Samples       pictures, and what they tell at once of how varied samples are
    lines         writes what the three before have found
    saves         checkpoints

Floor 6. They come in this order: what is saved has been written down, and what was not saved is
done again by the run that resumes.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from genjax_zoo.contract import Exactness, Info, State
from genjax_zoo.measure import examples, modes, texts
from genjax_zoo.measure import samples as measured
from genjax_zoo.measure.results import Result
from genjax_zoo.run.config import Run
from genjax_zoo.run.record import planes, shown
from genjax_zoo.run.record.checkpoint import Checkpoints
from genjax_zoo.run.record.journal import Journal
from genjax_zoo.run.record.plots import Plane, frame_of
from genjax_zoo.run.record.progress import log
from genjax_zoo.run.setup import EVALUATE, EXAMPLE, SAMPLE, Setup
from genjax_zoo.run.stop import Stopped
from genjax_zoo.run.trained import look_of

Line = dict[str, float]
"""The numbers of one step, by name: each observer adds its own."""


class Observer(NamedTuple):
    """Somebody who watches a run.

    Attributes:
      due: (step) -> whether it looks at the state after so many steps.
      act: (step, state, info, line) -> None: it adds numbers to the line, or writes.
    """

    due: Callable[[int], bool]
    act: Callable[[int, State, Info, Line], None]


def each(every: int, end: int | None = None) -> Callable[[int], bool]:
    """Due every so many steps, 0 being never, and at the end if there is one."""
    return lambda step: (bool(every) and step % every == 0) or step == end


def training(run: Run) -> Observer:
    """Adds the means of what the last call's steps say of themselves, of those who say anything."""

    def act(step: int, state: State, info: Info, line: Line) -> None:
        line |= {name: float(m.value) for name, m in sorted(info.items()) if bool(m.said)}

    return Observer(each(run.log_every, run.steps), act)


class Measurements:
    """Numbers of held-out data, while a run lasts and at its end."""

    def __init__(self, setup: Setup, progress: examples.Progress = examples.silent):
        self._setup, self._newest = setup, (0, list[Result]())
        self._progress = progress
        self._key = jax.random.fold_in(setup.root, EVALUATE)

    def observer(self) -> Observer:
        """Adds log_prob alone where the model is to raise it: another may be an estimate that
        takes minutes."""
        run, own = self._setup.run, examples.measures_of(self._setup.model)
        aimed = "log_prob" in own and own["log_prob"].better != "neither"
        only = ("log_prob",) if aimed else tuple(own)

        def act(step: int, state: State, info: Info, line: Line) -> None:
            asked = {"examples": run.eval_examples, "only": only, "progress": self._progress}
            try:
                results = list(self._ask(examples.one_by_one, step, state, **asked))
            except Stopped:
                log(f"stopped while measuring: the numbers of step {step} are left out")
                return
            self._newest = step, results
            line |= {f"test/{_with_kind(r)}": r.value for r in results}

        return Observer(each(run.eval_every), act)

    def score(self, step: int) -> tuple[float | None, str]:
        """What `best` is judged by, the first number that training should raise or lower, but none
        whose unknown constant changes with the step; and of what it was measured, for only what
        was measured alike compares."""
        measured, results = self._newest
        aims = [result for result in results if result.better != "neither"]
        for result in aims[:1] if measured == step else ():
            if result.kind != Exactness.UNNORMALISED and np.isfinite(result.value):
                of = f"{result.name} of {result.n} of {result.split}, {result.preprocessing}"
                return result.value, of + (f", {result.protocol}" if result.protocol else "")
        return None, ""

    def final(self, step: int, state: State, progress: examples.Progress) -> Iterator[Result]:
        """The numbers of the end: of examples, of a text as it was learnt from, and where data have
        modes, what samples of them are worth.

        Other measures of samples are dear, and asked for by `genjax-zoo evaluate`.
        """
        n = self._setup.run.final_examples or None
        yield from self._ask(examples.one_by_one, step, state, examples=n, progress=progress)
        model, source, run = self._setup.model, self._setup.source, self._setup.run
        if texts.applicable(model, source):
            reading = texts.usual(model, state, source, run.data.length)
            where = self._setup.layout.everywhere
            yield from texts.evaluate(
                model, state, source, reading, step, where=where, progress=progress
            )
        of_modes = {"only": modes.OF_MODES, "progress": progress}
        yield from self._ask(measured.evaluate, step, state, **of_modes)

    def _ask(
        self, ask: Callable[..., Iterable[Result]], step: int, state: State, **how: Any
    ) -> Iterable[Result]:
        setup = self._setup
        where = setup.layout.everywhere
        return ask(setup.model, state, setup.source, self._key, step, where=where, **how)


class Samples:
    """Samples as pictures or as texts.

    Attributes:
      warning: "collapsing: ..." where the newest ones are; empty where they are well.
    """

    def __init__(self, setup: Setup, journal: Journal):
        self._setup, self._journal = setup, journal
        self.warning, self._newest = "", -1
        self._key = jax.random.fold_in(setup.root, SAMPLE)
        self._sample = jax.jit(
            lambda key, state: setup.model.sample(key, state, setup.run.samples),
            out_shardings=setup.layout.everywhere,
        )
        self._look, self._beside = look_of(setup), False
        self._on_plane = planes.of_model(setup.model, setup.layout.everywhere)

    def observer(self) -> Observer:
        """Draws them, and adds what they tell."""

        def act(step: int, state: State, info: Info, line: Line) -> None:
            line |= self.draw(step, state)

        return Observer(each(self._setup.run.sample_every, self._setup.run.steps), act)

    def draw(self, step: int, state: State) -> Mapping[str, float]:
        """Draws and writes them, once a step; returns what they tell of how varied they are."""
        if step == self._newest:
            return {}
        self._newest = step
        batch = jax.tree.map(np.asarray, self._sample(self._key, state))
        name = shown.drawn(batch, self._look)
        # On all processes, for all of them hold a part of the state.
        plane = self._plane(state) if name == "x" and batch["x"].shape[1:] == (2,) else None
        if self._journal.workdir is None:
            return {}
        source, stem = self._setup.source, self._journal.workdir.sample_stem(step)
        self._write_data(self._journal.workdir.data)
        written = shown.write(stem, batch, self._look, plane)
        if written.picture is not None:
            self._journal.picture(step, written.picture)
        if "x" not in batch or "x" not in self._data:
            return {}
        numbers, self.warning = measured.quick_look(batch["x"], source, self._data["x"])
        return numbers

    def _write_data(self, path: pathlib.Path) -> None:
        """As many of the data as there are samples, to be seen beside them, once."""
        name = shown.drawn(self._look.reference, self._look)
        if self._beside or (name and not shown.stands_alone(self._look.reference[name])):
            return
        some = {n: array[: self._setup.run.samples] for n, array in self._look.reference.items()}
        shown.write(path.with_suffix(""), some, self._look)
        self._beside = True

    def _plane(self, state: State) -> Plane:
        """What the model says of the plane, in the frame of the data."""
        frame = frame_of(self._look.reference["x"])
        return self._on_plane(jax.random.fold_in(self._key, 1), state, frame)

    @functools.cached_property
    def _data(self) -> Mapping[str, np.ndarray]:
        """Held-out examples that samples are to be as varied as."""
        source, key = self._setup.source, jax.random.fold_in(self._setup.root, EXAMPLE)
        held_out = source.held_out(key, 0, min(measured.PAIRS, source.held_out_size))
        return jax.tree.map(np.asarray, held_out)


def lines(journal: Journal, others: Sequence[Observer]) -> Observer:
    """Writes the line, whenever one of the others has looked."""
    due = lambda step: any(other.due(step) for other in others)
    return Observer(due, lambda step, state, info, line: journal.numbers(step, line))


def saves(
    run: Run,
    checkpoints: Checkpoints,
    journal: Journal,
    score: Callable[[int], tuple[float | None, str]],
) -> Observer:
    """Saves the state, with the score of the step."""

    def act(step: int, state: State, info: Info, line: Line) -> None:
        journal.flush()
        checkpoints.save(step, state, *score(step))

    return Observer(each(run.checkpoint_every, run.steps), act)


def _with_kind(result: Result) -> str:
    """A number's name, and what kind of number it is unless it is exact."""
    exact = result.kind == Exactness.EXACT
    return result.name if exact else f"{result.name} ({result.kind.replace('_', ' ')})"
