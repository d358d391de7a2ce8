"""A workdir that was trained, opened to be read: neither its data nor its devices are needed.

Floor 6.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax

from genjax_zoo.contract import Model, State, ZooError
from genjax_zoo.learn.state import eval_params
from genjax_zoo.measure.examples import measures_of
from genjax_zoo.run import config
from genjax_zoo.run.config import Run, make_model
from genjax_zoo.run.devices import Devices
from genjax_zoo.run.devices.sharding import Layout, lay_out
from genjax_zoo.run.record import schema
from genjax_zoo.run.record.checkpoint import Checkpoints, Damaged
from genjax_zoo.run.record.provenance import Origin
from genjax_zoo.run.record.workdir import Workdir, write_json
from genjax_zoo.run.setup import Begun, Setup, state_like


class Parts(Protocol):
    """What a state belongs to: a `Setup` or a `Trained`."""

    @property
    def run(self) -> Run:
        """The typed config."""

    @property
    def model(self) -> Model:
        """The bundle of pure functions."""

    @property
    def like(self) -> Any:
        """The shapes, dtypes and shardings of the state before any step."""


class Trained(NamedTuple):
    """A run that has been, as its workdir knows it.

    Attributes:
      run: the typed config.
      model: the bundle of pure functions.
      like: the shapes, dtypes and shardings of the state before any step.
      interval: the range of the data's values.
      symbols: what the values of categorical arrays are called, by the array's name.
      arrays: (dtype, shape) of each array of a batch.
    """

    run: Run
    model: Model
    like: Any
    interval: tuple[float, float]
    symbols: Mapping[str, Sequence[str]]
    arrays: Mapping[str, Any]


def describe(setup: Setup, workdir: Workdir) -> None:
    """example.json: what a state is made for, so that sampling needs no data."""
    about = {
        "arrays": {name: [str(a.dtype), list(a.shape)] for name, a in setup.example.items()},
        "interval": list(setup.source.interval),
        "symbols": {name: list(called) for name, called in setup.source.symbols.items()},
    }
    write_json(workdir.example, about)


def read(workdir: Workdir, run: Run, layout: Layout | None = None) -> Trained:
    """Opens a workdir; raises ZooError for one that was not trained.

    Args:
      workdir: of the run.
      run: its typed config.
      layout: how its state shall lie over the devices; whole on all of them if None.
    """
    about = workdir.read(workdir.example, "train in this workdir first.")
    model, layout = make_model(run), layout or lay_out(Devices())
    begun = begun_of(workdir).like
    try:
        like = state_like(run, model, layout, _example(about["arrays"]), begun)
    except ZooError:
        raise
    except Exception as error:
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ZooError(
            f"{workdir.example} is not of the model in config.json: no state can be made for its "
            f"arrays ({why[:200]}). {schema.FILES['example.json'].advice}"
        ) from error
    low, high = about["interval"]
    return Trained(run, model, like, (low, high), about["symbols"], about["arrays"])


def begun_of(workdir: Workdir) -> Begun:
    """What a run began from, by run.json alone: the other workdirs may be gone."""
    origins = {name: Origin.read(entry) for name, entry in workdir.origins().items()}
    return Begun(origins, {name: params_like(origin) for name, origin in origins.items()})


def params_like(origin: Origin) -> Any:
    """The shapes and dtypes of what was taken from another run."""
    run = config.read(origin.config)
    begun = {name: params_like(Origin.read(entry)) for name, entry in origin.begun.items()}
    example = _example(origin.arrays)
    return jax.eval_shape(
        eval_params, state_like(run, make_model(run), lay_out(Devices()), example, begun)
    )


def _example(arrays: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    return {
        name: jax.ShapeDtypeStruct(tuple(shape), dtype) for name, (dtype, shape) in arrays.items()
    }


def load(workdir: str | os.PathLike, checkpoint: str | int = "last") -> tuple[Model, State, Run]:
    """What a run has learnt, for a program that goes on with it: (model, state, run).

        model, state, run = genjax_zoo.load("runs/vae")
        model.sample(jax.random.key(0), state, 64)["x"]

    Args:
      workdir: the folder of the run.
      checkpoint: "last", "best" or a number of steps.

    Returns:
      The bundle of pure functions, what they take as state, and the typed config.

    Raises ZooError where nothing was trained there.
    """
    where = Workdir(workdir)
    run = config.read(where.read_config())
    parts = read(where, run)
    _, state = restore(parts, where, str(checkpoint), asked="checkpoint={!r}")
    return parts.model, state, run


def checkpoints(parts: Parts, workdir: Workdir, read_only: bool = False) -> Checkpoints:
    """The checkpoints of a run; the best is judged by the first measure that has a better side."""
    sided = (m for m in measures_of(parts.model).values() if m.better != "neither")
    first = next(sided, None)
    return Checkpoints(
        workdir.checkpoints,
        parts.run.model["name"],
        parts.run.keep_last,
        higher_is_better=first is None or first.better == "higher",
        read_only=read_only,
    )


def restore(
    parts: Parts, workdir: Workdir, which: str = "last", asked: str = "--checkpoint={}"
) -> tuple[int, State]:
    """The state of a trained workdir, and how many steps it has learnt.

    Args:
      parts: what the state belongs to.
      workdir: where it was trained.
      which: last, best, or a number of steps.
      asked: how a user asks for it, for messages.
    """
    saved, steps = None, list[int]()
    if workdir.checkpoints.is_dir():
        saved = checkpoints(parts, workdir, read_only=True)
        steps = saved.steps()
    if saved is None or not steps:
        raise ZooError(
            f"{workdir.root} holds no checkpoint yet; train there first: genjax-zoo train "
            f"--workdir={workdir.root} (it saves every {parts.run.checkpoint_every} steps, "
            "config.checkpoint_every, when it is stopped by SIGTERM, and at the end)."
        )
    known = {str(step): step for step in steps}
    step = (known | {"last": steps[-1], "best": saved.best_step()}).get(which)
    if step is None:
        raise ZooError(
            f"{asked.format(which)} is not in {workdir.root}; expected last, best (where held-out "
            f"data were measured) or one of {steps}."
        )
    try:
        return step, saved.restore(parts.like, step)
    except Damaged as error:
        raise ZooError(
            f"the checkpoint of step {step} in {workdir.root} is damaged: {error}. Choose another "
            f"of {steps} by {asked.format('STEP')}."
        ) from error
