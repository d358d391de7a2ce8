"""A workdir that was trained, opened to be read: neither its data nor its devices are needed.

Floor 6.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from genjax_zoo.contract import Model, State, ZooError
from genjax_zoo.data.text.tokenizers import Tokenizer
from genjax_zoo.learn.state import eval_params
from genjax_zoo.measure.examples import measures_of
from genjax_zoo.run import config
from genjax_zoo.run.config import Run, make_model
from genjax_zoo.run.devices import Devices
from genjax_zoo.run.devices.sharding import Layout, lay_out, lay_out_again
from genjax_zoo.run.record import files, schema, tokenizer
from genjax_zoo.run.record.checkpoint import Checkpoints, Damaged
from genjax_zoo.run.record.progress import log
from genjax_zoo.run.record.provenance import Origin
from genjax_zoo.run.record.shown import Look
from genjax_zoo.run.record.workdir import Workdir, write_json
from genjax_zoo.run.setup import Begun, Setup, state_like

DATA_BYTES = 4_000_000
"""Of the data, at most so much is kept in a workdir for its pictures."""


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
      arrays: (dtype, shape) of each array of a batch.
      look: how its batches are shown, over some of the data where the workdir holds them.
      tokenizer: that its texts are read by; None where its data are none.
    """

    run: Run
    model: Model
    like: Any
    arrays: Mapping[str, Any]
    look: Look
    tokenizer: Tokenizer | None = None

    @property
    def symbols(self) -> Mapping[str, Sequence[str]]:
        """What the values of categorical arrays are called, by the array's name."""
        return self.look.symbols


def look_of(setup: Setup) -> Look:
    """How a run's batches are shown."""
    source = setup.source
    return Look(source.symbols, source.interval, source.columns, setup.example, source.tokenizer)


def describe(setup: Setup, workdir: Workdir) -> None:
    """example.json: what a state is made for, so that sampling needs no data; and some of these,
    for its pictures."""
    learnt = jax.eval_shape(eval_params, setup.like)
    if setup.source.size != 0:
        size = sum(array.nbytes for array in setup.example.values()) / setup.run.data.batch_size
        some = max(1, min(setup.run.samples, int(DATA_BYTES / max(size, 1))))
        packed = io.BytesIO()
        kept: dict[str, Any] = {name: a[:some] for name, a in setup.example.items()}
        np.savez_compressed(packed, **kept)
        files.write(workdir.data, packed.getvalue())
    about = {
        "arrays": {name: [str(a.dtype), list(a.shape)] for name, a in setup.example.items()},
        "interval": list(setup.source.interval),
        "symbols": {name: list(called) for name, called in setup.source.symbols.items()},
        "columns": list(setup.source.columns),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(learnt)),
    }
    write_json(workdir.example, about)


def read(workdir: Workdir, run: Run, layout: Layout | None = None) -> Trained:
    """Opens a workdir; raises ZooError for one that was not trained.

    Args:
      workdir: of the run.
      run: its typed config.
      layout: how its state shall lie over the devices; as it did, if these are as many, if None.
    """
    about = workdir.read(workdir.example, "give the train command of this run again.")
    model, layout = make_model(run), layout or lay_out_again(run.devices)
    begun = begun_of(workdir).like
    try:
        like = state_like(run, model, layout, example_of(about["arrays"]), begun)
    except ZooError:
        raise
    except Exception as error:
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ZooError(
            f"{workdir.example} is not of the model in config.json: no state can be made for its "
            f"arrays ({why[:200]}). {schema.FILES['example.json'].advice}"
        ) from error
    low, high = about["interval"]
    own = tokenizer.kept(workdir)
    look = Look(about["symbols"], (low, high), about.get("columns", ()), _kept(workdir), own)
    return Trained(run, model, like, about["arrays"], look, own)


def _kept(workdir: Workdir) -> dict[str, np.ndarray]:
    """Some of the data, for pictures; without them these have a frame of their own."""
    try:
        with np.load(workdir.data) as kept:
            return dict(kept)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        log(f"{workdir.data} cannot be read: pictures are drawn without the data.")
        return {}


def begun_of(workdir: Workdir) -> Begun:
    """What a run began from, by run.json alone: the other workdirs may be gone."""
    origins = {name: Origin.read(entry) for name, entry in workdir.origins().items()}
    return Begun(origins, {name: params_like(origin) for name, origin in origins.items()})


def params_like(origin: Origin) -> Any:
    """The shapes and dtypes of what was taken from another run."""
    run = config.read(origin.config)
    begun = {name: params_like(Origin.read(entry)) for name, entry in origin.begun.items()}
    example = example_of(origin.arrays)
    return jax.eval_shape(
        eval_params, state_like(run, make_model(run), lay_out(Devices()), example, begun)
    )


def example_of(arrays: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    """A batch's shapes and dtypes, by what `Trained.arrays` says of each."""
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
    of = saved.measured() if which == "best" else {}
    if len({*of.values()}) > 1:
        # One step of each way.
        each = {way: step for step, way in of.items()}
        told = "; ".join(f"step {step}: {way}" for way, step in each.items())
        raise ZooError(
            f"which checkpoint of {workdir.root} is best cannot be told, for they were measured of "
            f"different data or in different ways ({told}); choose one of {steps} by "
            f"{asked.format('STEP')}."
        )
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
