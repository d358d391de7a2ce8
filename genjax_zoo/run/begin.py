"""What a run begins from: the learnt parameters of other runs, by `--begin=NAME=WORKDIR[@STEP]`,
or weights that came from elsewhere, by `--begin=NAME=hf:DIR`.

Floor 6. NAME is one that the model's `init` declares, STEP is last (if none is said), best or a
number, DIR a folder of Hugging Face (run/weights). Where a run came from is written into run.json
at its first start, and holds for good: a run that resumes needs the other workdir no more.
"""

from __future__ import annotations

import hashlib
import inspect
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from genjax_zoo.contract import ConfigError, Model, ZooError
from genjax_zoo.learn.state import eval_params
from genjax_zoo.run import config, trained
from genjax_zoo.run.devices import Devices
from genjax_zoo.run.devices.sharding import lay_out
from genjax_zoo.run.record import files
from genjax_zoo.run.record.provenance import FOREIGN, Origin
from genjax_zoo.run.record.workdir import Workdir
from genjax_zoo.run.setup import Begun
from genjax_zoo.run.weights import imported
from genjax_zoo.typed import nearest


class Where(NamedTuple):
    """What is asked for under one name: an absolute workdir, or a folder after FOREIGN; and last,
    best or a number."""

    workdir: str
    asked: str


def read(words: Sequence[str], run: config.Run, workdir: Workdir) -> Begun:
    """What a run in `workdir` begins from; nothing is written.

    Args:
      words: NAME=WORKDIR[@STEP] each, as the command line has them.
      run: its typed config.
      workdir: where it will be, or is already, trained.

    Raises ZooError for a name that `init` does not declare, for a workdir or a step that is not
    there, and where a run that has begun already began from anything else. Whether the parameters
    fit the model is seen when its parts are set up.
    """
    asked = _parse(words, config.make_model(run))
    if not workdir.has_begun():
        return _load(asked, run)
    begun = trained.begun_of(workdir)
    from_there = {name: Where(o.workdir, o.asked) for name, o in begun.origins.items()}
    if asked and asked != from_there:
        came = " ".join(f"{n}={o.workdir}@{o.asked}" for n, o in from_there.items()) or "nothing"
        raise ConfigError(
            f"{workdir.root} has begun already, from {came}; to begin from anything else use "
            "another --workdir, or leave --begin out to go on."
        )
    if workdir.has_checkpoint():
        return begun
    # It was stopped before its first checkpoint: from the very same parameters again.
    asked = {name: Where(o.workdir, str(o.step)) for name, o in begun.origins.items()}
    again = _load(asked, run)
    for name, origin in begun.origins.items():
        if again.origins[name].sha256 != origin.sha256:
            raise ZooError(
                f"{workdir.root} began from {origin.workdir} as it was after {origin.step} steps, "
                "which has changed since; use another --workdir to begin from what is there now."
            )
    return again._replace(origins=begun.origins)


def names(model: Model) -> list[str]:
    """What a model can be begun from: what its `init` declares beside the key and the batch."""
    parameters = list(inspect.signature(model.init).parameters.values())[2:]
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.kind not in variadic]


def _parse(words: Sequence[str], model: Model) -> dict[str, Where]:
    asked: dict[str, Where] = {}
    for word in words:
        match = re.fullmatch(r"(\w+)=(.+?)(?:@(last|best|\d+))?", word)
        if match is None or match[2] == FOREIGN:
            raise ConfigError(
                f"--begin={word}: expected NAME=WORKDIR or NAME=WORKDIR@STEP, STEP being last, "
                "best or a number, or NAME=hf:DIR."
            )
        name, where, which = match.groups()
        known = names(model)
        if name not in known:
            raise ConfigError(
                f"--begin={word}: {nearest(name, known, 'name to begin this model by:')}"
            )
        if name in asked:
            raise ConfigError(f"--begin={word}: {name!r} is begun twice; leave one out.")
        if where.startswith(FOREIGN):
            if which not in (None, "last", "0"):
                raise ConfigError(
                    f"--begin={word}: such a folder has no steps; leave @{which} out."
                )
            folder = files.place(where.removeprefix(FOREIGN), f"--begin={name}").absolute()
            asked[name] = Where(f"{FOREIGN}{folder}", "last")
            continue
        asked[name] = Where(str(Workdir(where).root.absolute()), which or "last")
    return asked


def _load(asked: Mapping[str, Where], run: config.Run) -> Begun:
    """The parameters that the other runs' models are sampled and measured with."""
    origins, like, params = {}, {}, {}
    for name, (where, which) in asked.items():
        if where.startswith(FOREIGN):
            folder = pathlib.Path(where.removeprefix(FOREIGN))
            found = imported.look_at(folder, run.model, f"--begin={name}={where}")
            params[name] = imported.params(found)
            like[name], origins[name] = found.like, origin(found, params[name])
            continue
        other, flag, layout = Workdir(where), f"--begin={name}={where}", lay_out(Devices())
        if not other.config.exists():
            raise ZooError(f"{flag}: no model was trained there; expected the --workdir of a run.")
        try:
            fields = other.read_config()
            parts = trained.read(other, config.read(fields), layout)
            step, state = trained.restore(parts, other, which, asked=flag + "@{}")
        except ZooError as error:
            raise error if flag in str(error) else type(error)(f"{flag}: {error}") from error
        # Whole on every device, and so on every process, before they come to the host.
        whole = jax.jit(eval_params, out_shardings=layout.everywhere)(state)
        params[name] = jax.tree.map(np.asarray, whole)
        like[name] = jax.eval_shape(lambda tree: tree, params[name])
        origins[name] = Origin(
            *(where, which, step, sha256(params[name]), fields, parts.arrays, other.origins()),
            tokenizer=parts.tokenizer.sha256 if parts.tokenizer else "",
        )
    return Begun(origins, like, params)


def origin(found: imported.Imported, params: Any) -> Origin:
    """Where the weights of a folder came from: a run that has made no step that we know of."""
    return Origin(
        workdir=f"{FOREIGN}{found.folder.path}",
        asked="last",
        step=0,
        sha256=sha256(params),
        config=found.fields,
        arrays=found.arrays,
        tokenizer=found.tokenizer.sha256 if found.tokenizer else "",
        files=found.folder.hashes(),
    )


def sha256(params: Any) -> str:
    """Of the bytes of all arrays of a tree of numpy's, in its order."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        digest.update(leaf.tobytes())
    return digest.hexdigest()
