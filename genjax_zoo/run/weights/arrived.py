"""A workdir made of weights that came from elsewhere: a run that has made no step.

Floor 6. It is whole or it is not there, whenever the process is killed.
"""

from __future__ import annotations

import pathlib

import jax
import numpy as np

from genjax_zoo.contract import DataError
from genjax_zoo.data import sources, summary
from genjax_zoo.data.text import tokenizers
from genjax_zoo.data.text.tokenizers import Tokenizer
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


def tokenizer_of(found: Imported) -> Tokenizer | None:
    """The tokenizer that lies with the weights, or None.

    Raises DataError where it is damaged, or has symbols that the model has none of.
    """
    path = found.folder.path
    if not any((path / name).is_file() for name in tokenizers.FILES):
        return None
    own, size = tokenizers.read(path), found.fields["model"]["vocabulary"]
    if own.size > size:
        raise DataError(
            f"{path}: its tokenizer has {own.size} symbols, and config.json says {size} "
            "(vocab_size); take the files of one model."
        )
    return own


def write(found: Imported, root: pathlib.Path) -> Tokenizer | None:
    """Makes a workdir that is sampled, measured and begun from; returns its tokenizer, if any.

    Raises ZooError where something is there already, or for weights that are of no use.
    """
    checkpoint_path(root)
    files.check_empty(root)
    own = tokenizer_of(found)
    fields = {**found.fields}
    if own is not None:
        fields["data"] = {**fields["data"], "tokenizer": str(found.folder.path)}
    params = imported.params(found)
    setup = _setup(found, config.read(fields), params, own)
    entry = provenance.start(0, None, setup.begun.origins)
    entry |= {"data": summary.record(setup.source), "last_step": 0}
    with files.whole_folder(root) as folder:
        workdir = Workdir(folder)
        checkpoints = trained.checkpoints(setup, workdir)
        checkpoints.save(0, setup.init())
        checkpoints.close()
        workdir.write_config(fields)
        trained.describe(setup, workdir)
        tokenizer.keep(workdir, own)
        write_json(workdir.runs, [entry])
        report.write(folder)
    return own


def _setup(found: Imported, run: config.Run, params: object, own: Tokenizer | None) -> Setup:
    """The parts of a run that begins from these weights, and learns from nothing."""
    model, layout = config.make_model(run), lay_out(Devices())
    shapes = trained.example_of(found.arrays)
    begun = Begun(
        {NAME: begin.origin(found, params)}, like={NAME: found.like}, params={NAME: params}
    )
    return Setup(
        run=run,
        model=model,
        source=sources.nothing(model.spaces, own),
        layout=layout,
        root=jax.random.key(run.seed),
        example=jax.tree.map(lambda of: np.zeros(of.shape, of.dtype), shapes),
        like=state_like(run, model, layout, shapes, begun.like),
        begun=begun,
    )
