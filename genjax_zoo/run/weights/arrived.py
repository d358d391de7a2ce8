"""A workdir made of weights that came from elsewhere: a run that has made no step.

Floor 6. It is whole or it is not there, whenever the process is killed.
"""

from __future__ import annotations

import pathlib

import jax
import numpy as np

from genjax_zoo.data import sources, summary
from genjax_zoo.run import begin, config, trained
from genjax_zoo.run.devices import Devices
from genjax_zoo.run.devices.sharding import lay_out
from genjax_zoo.run.record import files, provenance, report, tokenizer
from genjax_zoo.run.record.workdir import Workdir, checkpoint_path, write_json
from genjax_zoo.run.setup import Begun, Setup, state_like
from genjax_zoo.run.weights import imported
from genjax_zoo.run.weights.imported import Imported

NAME = "weights"
"""What a family's `init` begins from."""


def write(found: Imported, root: pathlib.Path) -> None:
    """Makes a workdir that is sampled, measured and begun from.

    Raises ZooError where something is there already, or for weights that are of no use.
    """
    checkpoint_path(root)
    files.check_empty(root)
    setup = _setup(found)
    entry = provenance.start(0, None, setup.begun.origins)
    entry |= {"data": summary.record(setup.source), "last_step": 0}
    with files.whole_folder(root) as folder:
        workdir = Workdir(folder)
        checkpoints = trained.checkpoints(setup, workdir)
        checkpoints.save(0, setup.init())
        checkpoints.close()
        workdir.write_config(found.fields)
        trained.describe(setup, workdir)
        tokenizer.keep(workdir, found.tokenizer)
        write_json(workdir.runs, [entry])
        report.write(folder)


def _setup(found: Imported) -> Setup:
    """The parts of a run that begins from these weights, and learns from nothing."""
    run, layout = config.read(found.fields), lay_out(Devices())
    model, shapes = config.make_model(run), trained.example_of(found.arrays)
    # Before a number is read: what no memory holds is refused here.
    like = state_like(run, model, layout, shapes, {NAME: found.like})
    params = imported.params(found)
    begun = Begun(
        {NAME: begin.origin(found, params)}, like={NAME: found.like}, params={NAME: params}
    )
    return Setup(
        run=run,
        model=model,
        source=sources.nothing(model.spaces, found.tokenizer),
        layout=layout,
        root=jax.random.key(run.seed),
        example=jax.tree.map(lambda of: np.zeros(of.shape, of.dtype), shapes),
        like=like,
        begun=begun,
    )
