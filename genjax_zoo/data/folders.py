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
    said = metadata.read(files, found)
    others = sorted(files.files.keys() - said.files - {*found})
    left_out = [tree.endings(others)] if others else []
    if files.hidden:
        left_out.append(f"{files.hidden} hidden")
    if not found:
        raise DataError(
            f"{files.where} holds no image (looked for {' '.join(sorted(image.ENDINGS))}, in all "
            f"folders below it); it holds {', '.join(left_out) or 'no file'}."
        )
    spoken = [path for path in found if path in said.paths]
    if not spoken:
        raise DataError(f"{files.where}: {said.notes[0]}, of none of the images there.")
    if len(spoken) < len(found):
        left_out.append(f"{counted(len(found) - len(spoken), 'image')} without a line")
    parts = splits.parts(spoken, files.where, files.folders)
    labels, classes = dict((*parts.train, *parts.held_out)), parts.classes
    if said.label:
        labels, classes = {**said.label}, tuple(sorted({*said.label.values()}, key=tree.natural))
    notes = [*parts.notes, *said.notes]
    notes += [f"left out {', '.join(left_out)}"] if left_out else []
    paths = [[path for path, _ in part] for part in (parts.train, parts.held_out)]
    captions = words.captions(*([said.text.get(path, "") for path in part] for part in paths))
    train, held = (
        _records(data, files, part, labels, classes, tokens, captions.words)
        for part, tokens in zip(paths, captions[:2], strict=True)
    )
    notes += captions.notes
    if paths[0] == paths[1]:
        held = train
    return images.records(data, seed, train, held, parts.split, notes)


def _ending(path: str) -> str:
    return posixpath.splitext(path)[1].lower()


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

    def named(row: int) -> tuple[tree.Opens, str]:
        return files.files[paths[row]], f"{files.where}/{paths[row]}"

    def look(row: int) -> tuple[int, int, int]:
        return image.shape(*named(row))

    def read(rows: Sequence[int] | np.ndarray) -> list[images.Record]:
        found = [image.read(*named(row), data.background) for row in rows]
        return [images.Record(one.levels, remarks=one.remarks) for one in found]

    return images.Records(len(paths), read, classes, label, text, vocabulary, paths, look)
