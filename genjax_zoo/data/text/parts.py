"""What of a corpus is learnt from, and what is held out; and what there is of each.

Floor 4. One pass over the texts says all that has to be known before they are cut: how long they
are, and a hash by which they are told from others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from genjax_zoo.contract import DataError
from genjax_zoo.data.files.splits import TRAIN
from genjax_zoo.data.files.tree import counted
from genjax_zoo.data.text.corpus import Corpus, Documents, Filled, Joined, Sole, Some, Within
from genjax_zoo.data.text.tokenizer import utf8

TENTH = "validation (last tenth)"


class Counts(NamedTuple):
    """What documents hold.

    Attributes:
      documents: how many hold anything.
      empty: how many do not.
      characters, bytes: in all, in UTF-8.
      sha256: of the sha256 of each document.
    """

    documents: int
    empty: int
    characters: int
    bytes: int
    sha256: str


def count(documents: Documents) -> Counts:
    """Reads all documents, once."""
    full = empty = characters = size = 0
    every = hashlib.sha256()
    for document in documents:
        own, before = hashlib.sha256(), characters
        for piece in document:
            content = utf8(piece)
            own.update(content)
            characters += len(piece)
            size += len(content)
        if characters == before:
            empty += 1
            continue
        full += 1
        every.update(own.digest())
    return Counts(full, empty, characters, size, every.hexdigest())


class Parts(NamedTuple):
    """A corpus, divided.

    Attributes:
      train: the documents that are learnt from.
      held_out: those that are not, by the name of their split.
      whole: whether each part is one long text, and no document ends.
    """

    train: Documents
    held_out: Mapping[str, Documents]
    whole: bool

    @property
    def all_held_out(self) -> Documents:
        """The documents of all held-out splits."""
        return Joined(tuple(self.held_out.values()))

    @property
    def split(self) -> str:
        """What the held-out part is called."""
        return "+".join(self.held_out)


def divide(corpus: Corpus, counts: Mapping[str, Counts]) -> Parts:
    """The parts of a corpus: its own splits, or else its last tenth is held out.

    Args:
      corpus: the documents.
      counts: of each of its splits.

    Raises DataError where there is nothing in one of them.
    """
    full = {split: Filled(documents) for split, documents in corpus.splits.items()}
    for split, found in counts.items():
        if not found.documents:
            where = f"{corpus.asked}: its {split} split" if split else corpus.asked
            raise DataError(f"{where} is empty; expected a text in UTF-8.")
    if TRAIN in full:
        held = {split: documents for split, documents in full.items() if split != TRAIN}
        if not held:
            raise DataError(f"{corpus.asked} has a train split alone; expected one to hold out.")
        return Parts(full[TRAIN], held, all(found.documents == 1 for found in counts.values()))
    if "" not in full:
        raise DataError(
            f"{corpus.asked} has the splits {', '.join(full)}; expected train and one to hold out."
        )
    (own,) = counts.values()
    if own.documents == 1:
        cut = own.characters * 9 // 10
        text = Sole(full[""])
        tenth: Documents = [Within(text, cut, own.characters)]
        return Parts([Within(text, 0, cut)], {TENTH: tenth}, whole=True)
    cut = own.documents - max(own.documents // 10, 1)
    last = {f"{TENTH} of the documents": Some(full[""], cut, None)}
    return Parts(Some(full[""], 0, cut), last, whole=False)


def digest(counts: Mapping[str, Counts]) -> str:
    """sha256 of a whole corpus, by its splits."""
    said = repr([(split, found.sha256) for split, found in sorted(counts.items())])
    return hashlib.sha256(said.encode()).hexdigest()


def found(corpus: Corpus, counts: Mapping[str, Counts], whole: bool) -> list[str]:
    """What there is, in words."""
    documents = "+".join(str(of.documents) for of in counts.values())
    empty = sum(of.empty for of in counts.values())
    said = [corpus.found, "" if whole else f"{documents} documents"]
    said += [f"{sum(of.bytes for of in counts.values())} bytes"]
    said += [f"left out {counted(empty, 'empty document')}"] if empty else []
    return [each for each in said if each]


def plain(counts: Mapping[str, Counts]) -> dict[str, list[Any]]:
    """What json can hold of them."""
    return {split: list(of) for split, of in counts.items()}


def of_plain(said: Mapping[str, Sequence[Any]]) -> dict[str, Counts]:
    """The same again."""
    return {split: Counts(*of) for split, of in said.items()}
