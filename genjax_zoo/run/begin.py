"""What a run begins from: the learnt parameters of other runs, by `--begin=NAME=WORKDIR[@STEP]`.

Floor 6. NAME is one that the model's `init` declares, STEP is last (if none is said), best or a
number. Where a run came from is written into run.json at its first start, and holds for good: a run
that resumes needs the other workdir no more.
"""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from genjax_zoo.contract import ConfigError, ZooError
from genjax_zoo.learn.state import eval_params
from genjax_zoo.run import config, trained
from genjax_zoo.run.record.provenance import Origin
from genjax_zoo.run.record.workdir import Workdir
from genjax_zoo.run.setup import Setup
from genjax_zoo.typed import nearest


class Begun(NamedTuple):
    """What a run begins from, or began from.

    Attributes:
      origins: by the names that `init` declares.
      params: the parameters themselves, as numpy arrays; empty for a run that resumes.
    """

    origins: Mapping[str, Origin] = {}
    params: Mapping[str, Any] = {}


NOTHING = Begun()
"""Where a run begins from nothing."""


def read(words: Sequence[str], setup: Setup, workdir: Workdir) -> Begun:
    """What a run in `workdir` begins from; nothing is written.

    Args:
      words: NAME=WORKDIR[@STEP] each, as the command line has them.
      setup: the run's parts.
      workdir: where it will be, or is already, trained.

    Raises ZooError for a name that `init` does not declare, a workdir or a step that is not there,
    parameters that do not fit, and for anything else than a run that has begun already began from.
    """
    asked = _asked(words, setup)
    if not workdir.has_begun():
        found = {name: _load(name, *where, setup) for name, where in asked.items()}
        begun = Begun(*({n: pair[k] for n, pair in found.items()} for k in (0, 1)))
        return _checked(begun, setup)
    origins = {name: Origin(**entry) for name, entry in workdir.origins().items()}
    if asked and asked != {name: (o.workdir, o.asked) for name, o in origins.items()}:
        came = " ".join(f"{n}={o.workdir}@{o.asked}" for n, o in origins.items()) or "nothing"
        raise ConfigError(
            f"{workdir.root} has begun already, from {came}; to begin from anything else use "
            "another --workdir, or leave --begin out to go on."
        )
    if workdir.has_checkpoint():
        return Begun(origins)
    # Stopped before its first checkpoint: from the very same parameters again.
    params = {}
    for name, origin in origins.items():
        again, params[name] = _load(name, origin.workdir, str(origin.step), setup)
        if again.sha256 != origin.sha256:
            raise ZooError(
                f"{workdir.root} began from {origin.workdir} as it was after {origin.step} steps, "
                "which has changed since; use another --workdir to begin from what is there now."
            )
    return _checked(Begun(origins, params), setup)


def names(setup: Setup) -> list[str]:
    """What the model can be begun from: what its `init` declares beside the key and the batch."""
    parameters = list(inspect.signature(setup.model.init).parameters.values())[2:]
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.kind not in variadic]


def _asked(words: Sequence[str], setup: Setup) -> dict[str, tuple[str, str]]:
    """NAME -> (absolute WORKDIR, STEP)."""
    asked: dict[str, tuple[str, str]] = {}
    for word in words:
        match = re.fullmatch(r"(\w+)=(.+?)(?:@(last|best|\d+))?", word)
        if match is None:
            raise ConfigError(
                f"--begin={word}: expected NAME=WORKDIR or NAME=WORKDIR@STEP, STEP being last, "
                "best or a number."
            )
        name, where, which = match.groups()
        known = names(setup)
        if name not in known:
            raise ConfigError(
                f"--begin={word}: {nearest(name, known, 'name to begin this model by:')}"
            )
        if name in asked:
            raise ConfigError(f"--begin={word}: {name!r} is begun twice; leave one out.")
        asked[name] = str(Workdir(where).root.absolute()), which or "last"
    return asked


def _load(name: str, where: str, which: str, setup: Setup) -> tuple[Origin, Any]:
    """The origin, and the parameters that its model is sampled and measured with."""
    other, flag = Workdir(where), f"--begin={name}={where}"
    if not other.config.exists():
        raise ZooError(f"{flag}: no model was trained there; expected the --workdir of a run.")
    try:
        fields = other.read_config()
        parts = trained.read(other, config.read(fields), setup.layout)
        step, state = trained.restore(parts, other, which, asked=flag + "@{}")
    except ZooError as error:
        raise error if flag in str(error) else type(error)(f"{flag}: {error}") from error
    # Whole on every device, and so on every process, before they come to the host.
    whole = jax.jit(eval_params, out_shardings=setup.layout.everywhere)(state)
    params = jax.tree.map(np.asarray, whole)
    return Origin(where, which, step, sha256(params), fields), params


def _checked(begun: Begun, setup: Setup) -> Begun:
    """Raises ConfigError where the parameters do not fit the config."""
    shapes = jax.eval_shape(setup.model.init, jax.random.key(0), setup.example, **begun.params)
    plain = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)
    if plain(shapes) != plain(setup.like):
        raise ConfigError(
            f"--begin={','.join(begun.params)}: the state that is begun so is not one of this "
            "config; begin from a run of the same model fields."
        )
    return begun


def sha256(params: Any) -> str:
    """Of the bytes of all arrays of a tree of numpy's, in its order."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        digest.update(leaf.tobytes())
    return digest.hexdigest()
