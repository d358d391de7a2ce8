"""Images in a folder or an archive, with the classes and captions that names and tables give them.

Floor 4. How names are understood stands in data/files/splits.py, tables in data/files/metadata.py.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence

import numpy as np

from genjax_zoo.contract import DataError
from genjax_zoo.data import images, words
from genjax_zoo.data.config import Data
from genjax_zoo.data.files import image, metadata, splits, tree
from genjax_zoo.data.files.tree import Tree, counted
from genjax_zoo.data.source import Source


def folder(data: Data, seed: int, name: str) -> Source:
    """All images below a folder or within an archive, whatever is there besides said in notes.

    Raises DataError where there are none, or their names can be understood in two ways.
    """
    files = tree.read(name, data.source)
    found = [path for path in files.files if _ending(path) in image.ENDINGS]
    said = metadata.read(files)
    others = [p for p in files.files if _ending(p) not in image.ENDINGS and not _is_table(p)]
    left_out = [tree.endings(others)] if others else []
    if files.hidden:
        left_out.append(f"{files.hidden} hidden")
    if not found:
        raise DataError(
            f"{files.where} holds no image (looked for {' '.join(sorted(image.ENDINGS))}, in all "
            f"folders below it); it holds {', '.join(left_out) or 'no file'}."
        )
    if said is not None:
        spoken = [path for path in found if path in said.paths]
        if not spoken:
            raise DataError(f"{files.where}: {said.notes[0]}, of none of the images there.")
        if len(spoken) < len(found):
            left_out.append(f"{counted(len(found) - len(spoken), 'image')} without a line")
        found = spoken
    parts = splits.parts(found, files.where, files.folders)
    labels = dict((*parts.train, *parts.held_out)) if said is None or not said.label else said.label
    named = parts.classes
    if said is not None and said.label:
        named = tuple(sorted(set(said.label.values()), key=tree.natural))
    notes = [*parts.notes, *(said.notes if said is not None else ())]
    notes += [f"left out {', '.join(left_out)}"] if left_out else []
    paths = [[path for path, _ in part] for part in (parts.train, parts.held_out)]
    tokens, vocabulary = _captions(said.text if said is not None else {}, *paths)
    train, held = (
        _records(data, files, part, labels, named, text, vocabulary)
        for part, text in zip(paths, tokens, strict=True)
    )
    if tokens[0] is not None:
        length = tokens[0].shape[1]
        notes.append(f"captions: {len(vocabulary) - 2} words, at most {length} in one")
    if paths[0] == paths[1]:
        held = train
    return images.records(data, seed, train, held, parts.split, notes)


def _ending(path: str) -> str:
    return posixpath.splitext(path)[1].lower()


def _is_table(path: str) -> bool:
    return posixpath.basename(path) in metadata.NAMES


def _captions(
    text: Mapping[str, str], train: Sequence[str], held: Sequence[str]
) -> tuple[tuple[np.ndarray | None, np.ndarray | None], tuple[str, ...]]:
    """The tokens of both parts, and the words of the training part; none where there are none."""
    if not any(text.values()):
        return (None, None), ()
    said = [[text.get(path, "") for path in part] for part in (train, held)]
    vocabulary = words.vocabulary(said[0])
    length = words.longest([*said[0], *said[1]])
    first, second = (words.tokens(part, vocabulary, length) for part in said)
    return (first, second), vocabulary


def _records(
    data: Data,
    files: Tree,
    paths: Sequence[str],
    labels: Mapping[str, str],
    classes: Sequence[str],
    text: np.ndarray | None,
    vocabulary: Sequence[str],
) -> images.Records:
    number = {name: i for i, name in enumerate(classes)}
    label = np.array([number[labels[p]] for p in paths], np.int32) if classes else None

    def read(rows: Sequence[int] | np.ndarray) -> list[images.Record]:
        found = []
        for row in rows:
            path = paths[row]
            where = f"{files.where}/{path}"
            one = image.read(files.files[path], where, data.background)
            known = None if label is None else int(label[row])
            found.append(images.Record(one.levels, known, one.remarks))
        return found

    return images.Records(len(paths), read, classes, label, text, vocabulary)
