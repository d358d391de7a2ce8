"""What the names of files say: which are for training, which are held out, and of what class each.

Floor 4. Paths alone, whose parts are separated by `/`; no file is opened.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from genjax_zoo.contract import DataError
from genjax_zoo.data.files.tree import counted, natural

TRAIN, TEST, VALIDATION = "train", "test", "validation"
NAMES = {
    TRAIN: "train training trn",
    TEST: "test testing tst",
    VALIDATION: "validation validate valid val dev development eval evaluation holdout heldout",
}
"""What each split is called, in whatever case."""
_SPLITS = {name: split for split, names in NAMES.items() for name in names.split()}
EVERY_TENTH = "test (every tenth)"
ITSELF = "the training images themselves"

Folders = Mapping[str, tuple[str, ...]]
"""The folders in which each file lies, by its path: outermost first."""


class Parts(NamedTuple):
    """Which files are learnt from, and which are held out.

    Attributes:
      train, held_out: paths, each with the name of its class; "" where there are no classes.
      split: what the held-out ones are.
      classes: the names of the classes, in natural order; () of less than two, which make no
        labels.
      notes: what else there is to say: how the split was found, what was left out.
    """

    train: Sequence[tuple[str, str]]
    held_out: Sequence[tuple[str, str]]
    split: str
    classes: tuple[str, ...]
    notes: tuple[str, ...]


def split_of(name: str) -> str | None:
    """The split that a name stands for, or None: Train, valid, test_set, val2017."""
    word = re.sub(r"[^a-z]", "", name.casefold())
    return _SPLITS.get(word) or _SPLITS.get(re.sub(r"(set|data|images|split)$", "", word))


def words_of(name: str) -> list[str]:
    """The words of a name, in small letters: seg_train, segTrain and SegTRAIN have two each."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]


def split_within(name: str) -> str | None:
    """The one split that words of a name stand for, or None: seg_train, valid_64x64."""
    found = {split for word in words_of(name) if (split := split_of(word))}
    return found.pop() if len(found) == 1 else None


def parts(paths: Sequence[str], where: str, folders: Collection[str] = ()) -> Parts:
    """Splits files by the folders that are named after splits, and reads classes off the others.

    A class is the first folder that is no split's; folders below it belong to it. Where no folder
    is a split's, every tenth file is held out.

    Args:
      paths: of all files, at least one, in their order.
      where: the folder that they are below, for messages.
      folders: the paths of all folders, of which some may hold none of the files.

    Raises DataError where the names can be understood in two ways.
    """
    lying = {path: tuple(path.split("/")[:-1]) for path in paths}
    within = _sole(lying, stop=split_of)
    _check_empty(lying, within, where, folders)
    split, notes = _split({p: f[len(within) :] for p, f in lying.items()}, where)
    lying = {path: inner for files in split.values() for path, inner in files.items()}
    depth = len(_sole(lying))
    # One name may be written in two ways: é, or e with an accent, as macOS does.
    classes = {
        path: unicodedata.normalize("NFC", inner[depth]) if len(inner) > depth else ""
        for path, inner in lying.items()
    }
    train, held, name = _held_out({k: list(files) for k, files in split.items()})
    names = sorted(set(classes.values()) - {""}, key=natural)
    _check_classes(classes, names, where)
    deeper = sorted({"/".join(f[depth:]) for f in lying.values() if len(f) > depth + 1})
    if deeper:
        more = ", ..." if len(deeper) > 3 else ""
        notes.append(f"folders below a class belong to it ({', '.join(deeper[:3])}{more})")
    return Parts(
        [(path, classes[path]) for path in train],
        [(path, classes[path]) for path in held],
        name,
        tuple(names) if len(names) > 1 else (),
        tuple(notes),
    )


def _sole(lying: Folders, stop=lambda name: None) -> tuple[str, ...]:
    """The outermost folders that all files have in common, up to one that `stop` knows."""
    common: list[str] = []
    # As deep as the least deep of them.
    for name, *others in zip(*lying.values(), strict=False):
        if stop(name) or any(other != name for other in others):
            break
        common.append(name)
    return tuple(common)


def _check_empty(
    lying: Folders, within: tuple[str, ...], where: str, folders: Collection[str]
) -> None:
    """Raises DataError where a split has a folder, and no file in it."""
    holding = {inner[len(within)] for inner in lying.values() if len(inner) > len(within)}
    for folder in folders:
        *above, name = folder.split("/")
        if tuple(above) == within and split_of(name) and name not in holding:
            raise DataError(
                f"{where}/{folder} holds no image; put the {split_of(name)} images there, or "
                "remove it."
            )


def _split(lying: Folders, where: str) -> tuple[dict[str, Folders], list[str]]:
    """The files of each split, without its own folder, and notes; of "" where there are none."""
    tops = {inner[0] if inner else "" for inner in lying.values()}
    known = {name: split for name in sorted(tops) if (split := split_of(name))}
    has_train, has_held = TRAIN in known.values(), {TEST, VALIDATION} & {*known.values()}
    if has_train and has_held:
        return _at(lying, 0, known, where)
    within = {name: split for name in sorted(tops) if (split := split_within(name))}
    if TRAIN in within.values() and {TEST, VALIDATION} & {*within.values()}:
        # bullet_train/ and test_tube/ may be two classes among others, which have none below.
        below = {inner[0] for inner in lying.values() if len(inner) > 1}
        if within.keys() >= tops or within.keys() <= below:
            return _at(lying, 0, within, where)
    if known and len(tops) == len(known) == 1:
        (name,) = known
        return {"": {path: inner[1:] for path, inner in lying.items()}}, [f"all are in {name}/"]
    if has_held:
        others = ", ".join(f"{name}/" if name else "files" for name in sorted(tops - known.keys()))
        raise DataError(
            f"{where} has {', '.join(f'{name}/' for name in known)} and no folder for training"
            + (f", but {others} beside it" if others else "")
            + "; put what is to be learnt from into a folder train/ (with classes below it), or "
            "rename what is no split."
        )
    for name in known:
        _check_is_class(lying, name, where)
    notes = [f"{name}/ is taken for a class: nothing is held out beside it" for name in known]
    for level in range(1, max(map(len, lying.values()), default=0)):
        at = {
            path: split_of(inner[level]) if len(inner) > level else None
            for path, inner in lying.items()
        }
        if TRAIN in at.values() and {TEST, VALIDATION} & {*at.values()}:
            odd = next((path for path, split in at.items() if split is None), None)
            if odd is not None:
                one = next(path for path, split in at.items() if split == TRAIN)
                raise DataError(
                    f"{where} is split in a part of its folders alone: {one} is for training, and "
                    f"{odd} says nothing; split all of them, or none."
                )
            return _at(lying, level, {inner[level]: at[p] for p, inner in lying.items()}, where)
    return {"": lying}, notes


def _check_is_class(lying: Folders, name: str, where: str) -> None:
    """Raises DataError where a folder in train/ is in another one too, as classes are."""
    below: dict[str, set[str]] = {}
    for top, *inner in filter(None, lying.values()):
        below.setdefault(top, set()).update(inner[:1])
    twin = next((top for top in below if top != name and below[top] & below[name]), None)
    if twin is not None:
        raise DataError(
            f"{where}: {name}/ and {twin}/ both hold {min(below[twin] & below[name])}/, so they "
            f"may be splits, or classes; call {twin}/ test/ if it is to be held out, and "
            f"{name}/ by another name if it is a class."
        )


def _at(
    lying: Folders, level: int, known: Mapping[str, str | None], where: str
) -> tuple[dict[str, Folders], list[str]]:
    """The files of each split, whose folders are at that level and are called as `known` says."""
    called: dict[str, list[str]] = {}
    for name, split in known.items():
        called.setdefault(str(split), []).append(name)
    for split, names in called.items():
        if level == 0 and len(names) > 1:
            raise DataError(
                f"{where}: {' and '.join(f'{n}/' for n in names)} both name the {split} split; "
                "make them one, or rename what is no split."
            )
    found: dict[str, dict[str, tuple[str, ...]]] = {split: {} for split in called}
    beside: dict[str, int] = {}
    for path, inner in lying.items():
        name = inner[level] if len(inner) > level else ""
        if name in known:
            found[str(known[name])][path] = (*inner[:level], *inner[level + 1 :])
        else:
            beside[name] = beside.get(name, 0) + 1
    for split, files in found.items():
        # train/train/cat: a folder that all of a split are in may be called as it is, once more.
        again = len(_sole(files, stop=lambda name, own=called[split]: name not in own))
        found[split] = {path: inner[again:] for path, inner in files.items()}
    held = TEST if TEST in found else VALIDATION
    if len(found) > 2:
        unused = found.pop(VALIDATION)
        beside[", ".join(called[VALIDATION])] = len(unused)
    used = f"split by {'/, '.join([*called[TRAIN], *called[held]])}/"
    left_out = [
        f"left out {counted(count, 'image')} {f'in {name}/' if name else 'beside the splits'}"
        for name, count in sorted(beside.items())
    ]
    return dict(found), [used, *left_out]


def _held_out(split: Mapping[str, list[str]]) -> tuple[list[str], list[str], str]:
    """The files for training, those held out, and what these are called."""
    if "" not in split:
        name = TEST if TEST in split else VALIDATION
        return split[TRAIN], split[name], name
    files = split[""]
    tenth = files[9::10]
    if not tenth:
        return files, files, ITSELF
    return [f for i, f in enumerate(files) if i % 10 != 9], tenth, EVERY_TENTH


def _check_classes(classes: Mapping[str, str], names: Iterable[str], where: str) -> None:
    """Raises DataError where some files have a class and others none, or two have one name."""
    without = next((path for path, name in classes.items() if not name), None)
    of_one = next((path for path, name in classes.items() if name), None)
    if without is not None and of_one is not None:
        raise DataError(
            f"{where}: {of_one} lies in the folder of a class, and {without} in none; give every "
            "image a class, in both splits, or none at all, or name one split's folder alone."
        )
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            raise DataError(
                f"{where}: the classes {other!r} and {name!r} differ in capitals alone; give them "
                "one name, or two that differ."
            )
