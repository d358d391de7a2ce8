"""genjax-zoo sample: draws samples from the model in --workdir, a picture and an array; or writes
texts after prompts (texts.py).

Floor 8. From the workdir alone: neither the data nor the devices of the training are needed.
"""

from __future__ import annotations

import ast
import io
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from genjax_zoo.commands import configs, prompts, texts
from genjax_zoo.commands.flags import Call
from genjax_zoo.contract import ConfigError
from genjax_zoo.data import sources
from genjax_zoo.run import trained
from genjax_zoo.run.devices import memory
from genjax_zoo.run.record import files, planes, shown
from genjax_zoo.run.record.plots import frame_of
from genjax_zoo.typed import nearest

N = 64
"""Samples that are drawn where nothing is said."""


def run(call: Call) -> None:
    """Writes samples/sample_step_..., and prints where."""
    known, workdir = call.flags, configs.workdir_of(call)
    parts = trained.read(workdir, configs.of_trained(call, workdir))
    prompts.check(call)
    if known.prompt:
        texts.write(call, workdir, parts)
        return
    n = known.n or N
    memory.check_samples("n", n, trained.example_of(parts.arrays))
    words = [*known.given, *([f"text={known.text}"] if known.text is not None else [])]
    tokeniser = sources.tokeniser(parts.run.data, parts.symbols, parts.arrays)
    asked = given(words, parts.symbols, tokeniser)
    folder = configs.out_of(call, workdir.samples)
    step, state = trained.restore(parts, workdir, known.checkpoint)
    key = prompts.key_of(call, parts)
    draw = jax.jit(lambda key, state: parts.model.sample(key, state, n, asked))
    compiled = draw.lower(key, state).compile()
    memory.check_compiled(f"drawing --n={n}", compiled, memory.FEWER)
    batch = jax.tree.map(np.asarray, compiled(key, state))
    name = f"sample_step_{step:08d}_seed_{known.sample_seed}_n_{n}"
    stem = folder / (name + configs.told_apart([*words, *call.overrides]))
    packed = io.BytesIO()
    np.savez(packed, **batch)
    arrays = files.write(f"{stem}.npz", packed.getvalue())
    plane = None
    if not asked and parts.look.reference and np.shape(batch.get("x"))[1:] == (2,):
        frame = frame_of(parts.look.reference["x"])
        plane = planes.of_model(parts.model)(key, state, frame)
    for path in shown.write(stem, batch, parts.look, plane).paths:
        print(path)
    for path in sorted(workdir.samples.glob("data.*")):
        if path != workdir.data:
            print(f"{path}: the data, shown alike")
    print(f"{arrays}: " + ", ".join(f"{name} {value.shape}" for name, value in batch.items()))


def given(
    words: Sequence[str],
    symbols: Mapping[str, Sequence[str]],
    tokeniser: Callable[[str], Any] | None = None,
) -> dict[str, Any]:
    """What samples shall honour; whether the model can be told that, it says itself.

    Args:
      words: NAME=VALUE each; VALUE is a number, a list, a .npy file, what a label is called, or a
        text.
      symbols: what the values of categorical arrays are called, by the array's name.
      tokeniser: makes tokens of the words of a text, where the data have captions; raises DataError
        for a word that is not known.

    Raises ConfigError for a VALUE that is none of these.
    """
    asked: dict[str, Any] = {}
    for word in words:
        name, _, value = word.partition("=")
        if name in asked:
            raise ConfigError(f"--given={word}: {name} is given twice; give it once.")
        is_file = value.endswith(".npy")
        if name == "text" and not is_file:
            if tokeniser is None:
                raise ConfigError(
                    "--text expects a model that learnt from captions; the data of this run have "
                    "none. Anything else is given by --given=NAME=VALUE, such as label=3."
                )
            asked[name] = tokeniser(value)
            continue
        called = symbols.get(name, ()) if name == "label" else ()
        if value in called:
            asked[name] = np.int32(called.index(value))
            continue
        try:
            read = np.asarray(np.load(value) if is_file else ast.literal_eval(value))
            asked[name] = read if is_file or not called else _numbered(read, called, word)
        except (ValueError, SyntaxError, OSError, EOFError, zipfile.BadZipFile) as error:
            if called and re.fullmatch(r"[^\W\d][\w -]*", value):
                raise ConfigError(f"--given={word}: {nearest(value, called, name)}") from error
            # What the parser of Python says of a word is nothing to its user.
            why = f" ({error})" if is_file else ""
            if name == "label" and not called:
                why += "; the labels of this run have no names"
            raise ConfigError(
                f"--given={word}: expected NAME=VALUE with a number, a list or a .npy file "
                f"for VALUE, got {value!r}{why}."
            ) from error
    return asked


def _numbered(labels: np.ndarray, called: Sequence[str], word: str) -> np.ndarray:
    """Labels by their numbers 0, 1, ...; raises ConfigError for a name that there is not.

    Names are names, and numbers too where all classes are called by numbers: of 3, 5 and 7 the
    label 5 is the second, and 1 is none.
    """
    if labels.dtype.kind != "U" and not all(name.isdecimal() for name in called):
        return labels
    names = [str(label) for label in labels.flat]
    for name in names:
        if name not in called:
            raise ConfigError(f"--given={word}: {nearest(name, called, 'label')}")
    return np.array([called.index(name) for name in names], np.int32).reshape(labels.shape)
