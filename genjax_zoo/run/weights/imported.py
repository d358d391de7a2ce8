"""Weights that come from a folder of Hugging Face: what they are, and as parameters of ours.

Floor 6. A folder is taken for a run of somebody else's: a config of ours, the arrays that its
batches would have, and what it has learnt. Which family that is, is told from without.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from genjax_zoo.contract import ConfigError, DataError, ZooError
from genjax_zoo.data.text import tokenizers
from genjax_zoo.data.text.tokenizers import Tokenizer
from genjax_zoo.learn.state import eval_params
from genjax_zoo.run import config
from genjax_zoo.run.weights import dialects, folders, maps
from genjax_zoo.run.weights.architectures import HEAD, Architecture

DOOR = ("name", "rotary_layout", "pad_vocabulary_to")
"""Our fields that a model which begins from weights has its own of: they are settled on the way."""
LONGEST = 1024
"""Symbols of a row that is sampled or measured at most, unless the config says more."""


class Imported(NamedTuple):
    """A folder, understood and checked, of which no number has been read.

    Attributes:
      folder: its names, shapes and dtypes.
      architecture: which kind it is.
      fields: the config of ours, of a run that would have learnt it.
      arrays: (dtype, shape) of each array of its batches.
      like: the shapes and dtypes of our parameters.
      rules: of its tensors.
      names: of the tensors in the folder, by what the rules call them.
      tokenizer: that lies beside the weights, or None.
      remarks: what of its config.json was not taken, in words.
    """

    folder: folders.Folder
    architecture: Architecture
    fields: Mapping[str, Any]
    arrays: Mapping[str, Any]
    like: Any
    rules: list[maps.Rule]
    names: Mapping[str, str]
    tokenizer: Tokenizer | None
    remarks: tuple[str, ...]

    @property
    def sizes(self) -> dict[str, int]:
        """Of the axes of its tensors."""
        return dialects.sizes(self.fields["model"])


def look_at(path: pathlib.Path, model: Mapping[str, Any], flag: str) -> Imported:
    """What a folder holds; raises ZooError where it is not, whole, what we know to compute.

    Args:
      path: of the folder.
      model: `config.model` of a run that takes the weights in: its family's name, and DOOR.
      flag: how the user asked for it, for messages.
    """
    folder = folders.look_at(path, flag)
    where = f"{flag}: {folder.path / folders.CONFIG}"
    told = dialects.read(folder.config, where)
    own = {name: model[name] for name in DOOR if name in model}
    try:
        fields = config.assemble({"": {**RUN, "model": {**told.fields, **own}}}, "")
        fields.data.length = length = min(fields.model.context, LONGEST)
        run = config.read(fields)
        example = {"x": jax.ShapeDtypeStruct((run.data.batch_size, length), np.int32)}
        init = config.make_model(run).init
        like = jax.eval_shape(lambda key, x: eval_params(init(key, x)), jax.random.key(0), example)
    except (ZooError, ValueError, TypeError, OverflowError) as error:
        # A field of another type, heads that do not divide the width, arrays beyond all machines.
        said = str(error).rstrip(".")
        raise ConfigError(f"{where} describes no model of ours: {said}.") from error
    arrays = {"x": ["int32", [run.data.batch_size, length]]}
    rules = maps.applying(told.architecture.rules(run.model["rotary_layout"]), by_path(like))
    sizes = dialects.sizes(run.model)
    expected = {one.name: maps.shape(one.rule, sizes) for one in maps.tensors(rules, sizes)}
    names = _names(folder, told.architecture)
    _check(folder, told.architecture, expected, names, bool(run.model["tied"]))
    tokenizer = _tokenizer(folder.path, run.model["vocabulary"])
    if tokenizer is not None:
        fields.data.tokenizer = str(folder.path)
    return Imported(
        folder=folder,
        architecture=told.architecture,
        fields=fields.to_dict(),
        arrays=arrays,
        like=like,
        rules=rules,
        names=names,
        tokenizer=tokenizer,
        remarks=told.remarks,
    )


RUN: Mapping[str, Any] = {
    "data": {"source": "none", "batch_size": 8},
    # Nothing is learnt here, and no moments are kept.
    "optimizer": {"name": "sgd"},
    "steps": 1,
}
"""What a run of weights says besides its model."""


def params(imported: Imported) -> Any:
    """The parameters, as numpy arrays in our own tree; raises DataError for numbers that are none.

    What is stored in 16 bits is exactly that in 32.
    """
    folder, names = imported.folder, imported.names
    with folder.opened() as read:

        def tensor(name: str) -> np.ndarray:
            array = read(names[name])
            if not np.isfinite(array).all():
                raise DataError(
                    f"{folder.path / folder.tensors[names[name]].file}: {names[name]} holds NaN or "
                    "infinity; these weights are of no use."
                )
            return array

        if HEAD in names and imported.fields["model"]["tied"]:
            _check_tied(imported, tensor)
        found = maps.read(imported.rules, imported.sizes, by_path(imported.like), tensor)
    tree = jax.tree.structure(imported.like)
    return jax.tree.unflatten(tree, [found[path] for path in by_path(imported.like)])


def _tokenizer(path: pathlib.Path, vocabulary: int) -> Tokenizer | None:
    """What lies in a folder; raises DataError where it is damaged, or of another model."""
    if not any((path / name).is_file() for name in tokenizers.FILES):
        return None
    own = tokenizers.read(path)
    if own.size > vocabulary:
        raise DataError(
            f"{path}: its tokenizer has {own.size} symbols, and config.json says {vocabulary} "
            "(vocab_size); take the files of one model."
        )
    return own


def by_path(tree: Any) -> dict[str, Any]:
    """Leaves by their paths, in the tree's order: blocks/mlp/up/kernel."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _names(folder: folders.Folder, architecture: Architecture) -> dict[str, str]:
    """The folder's tensors by their names without prefix; what is computed is left out.

    Raises DataError for one that is there with its prefix and without.
    """
    computed, found = re.compile("|".join(architecture.buffers) or "$^"), dict[str, str]()
    for there in sorted(folder.tensors):
        name = there.removeprefix(architecture.prefix)
        if name in found:
            raise DataError(
                f"{folder.path}: the tensors {found[name]} and {there} are one, and which of them "
                "was learnt is not known; take all files of one model."
            )
        if not computed.fullmatch(name):
            found[name] = there
    return found


def _check(
    folder: folders.Folder,
    architecture: Architecture,
    expected: Mapping[str, list[int]],
    names: Mapping[str, str],
    tied: bool,
) -> None:
    """Raises DataError for a tensor that is missing, one too many, or of another shape or kind."""
    config = folder.path / folders.CONFIG
    missing = sorted(set(expected) - set(names))
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        first = architecture.named(missing[0]) + more
        raise DataError(
            f"{folder.path}: the tensor {first} of the model in {config.name} is missing; "
            f"{len(folder.tensors)} tensors are there. Take all files of one model."
        )
    # Some store a tied head nevertheless; that it is the embedding is seen when it is read.
    surplus = sorted(set(names) - set(expected) - ({HEAD} if tied else set()))
    if surplus:
        more = f" and {len(surplus) - 1} more" if len(surplus) > 1 else ""
        raise DataError(
            f"{folder.path}: the tensor {names[surplus[0]]}{more} is none of the model in "
            f"{config.name}, and would be lost; take all files of one model."
        )
    for name, there in names.items():
        stored, shape = folder.tensors[there], expected.get(name)
        if shape is not None and stored.shape != shape:
            raise DataError(
                f"{folder.path}: the tensor {there} is {stored.shape}, and the model in "
                f"{config.name} needs {shape}; take all files of one model."
            )
        if stored.dtype not in folders.DTYPES:
            raise DataError(
                f"{folder.path}: the tensor {there} is of {stored.dtype}; expected one of "
                f"{', '.join(folders.DTYPES)}."
            )


def _check_tied(imported: Imported, tensor: Any) -> None:
    head, embedding = tensor(HEAD), tensor(_embedding(imported))
    if not np.array_equal(head, embedding):
        raise DataError(
            f"{imported.folder.path}: config.json says that the head is the embedding "
            f"(tie_word_embeddings), and {HEAD} is another; set tie_word_embeddings to false there "
            "if it is the head that was learnt."
        )


def _embedding(imported: Imported) -> str:
    """What the folder's rules call the embedding."""
    of = {leaf.path: rule.name for rule in imported.rules for leaf in rule.leaves}
    return of["embedding/kernel"]
