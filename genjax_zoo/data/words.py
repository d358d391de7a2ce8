"""Captions of one's own, as tokens: the words that training says, each of which has a number.

Floor 4. Small letters; signs between words say nothing.
"""

from __future__ import annotations

import collections
import difflib
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from genjax_zoo.contract import DataError

PADDING, UNKNOWN = "", "<unknown>"
"""Token 0, and token 1: a word that no caption of the training part has."""


def split(text: str) -> list[str]:
    """The words of a text: letters and digits, with what joins them (it's, mother-in-law)."""
    return re.findall(r"\w+(?:['’-]\w+)*", text.lower())


def vocabulary(texts: Sequence[str]) -> tuple[str, ...]:
    """All words of the texts, the most frequent first, behind padding and what is unknown."""
    counted = collections.Counter(word for text in texts for word in split(text))
    return (PADDING, UNKNOWN, *sorted(counted, key=lambda word: (-counted[word], word)))


def longest(texts: Sequence[str]) -> int:
    """How many words the longest text has, at least one."""
    return max([1, *(len(split(text)) for text in texts)])


def tokens(texts: Sequence[str], words: Sequence[str], length: int) -> np.ndarray:
    """[N, length] int32: the numbers of each text's words, cut or padded to the length."""
    number = {word: i for i, word in enumerate(words)}
    found = np.zeros((len(texts), length), np.int32)
    for row, text in zip(found, texts, strict=True):
        numbers = [number.get(word, number[UNKNOWN]) for word in split(text)][:length]
        row[: len(numbers)] = numbers
    return found


def tokenise(text: str, words: Sequence[str], length: int) -> np.ndarray:
    """A text to sample by -> [length] int32.

    Raises DataError for a word that training never said, or for too many.
    """
    asked = split(text)
    for word in asked:
        if word not in words[2:]:
            # They may be thousands: the nearest are enough.
            close = difflib.get_close_matches(word, words[2:], n=3, cutoff=0.5)
            hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else "."
            raise DataError(f"no caption of the training data says {word!r}{hint}")
    if len(asked) > length:
        raise DataError(
            f"a caption has at most {length} words here, and {text!r} has {len(asked)}; say less."
        )
    return tokens([text], words, length)[0]


class Captions(NamedTuple):
    """Captions of both parts as tokens.

    Attributes:
      train, held_out: [N, T] int32; None where there are no captions.
      words: what the tokens are called.
      notes: of a `Source`.
    """

    train: np.ndarray | None = None
    held_out: np.ndarray | None = None
    words: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def captions(train: Sequence[str], held_out: Sequence[str]) -> Captions:
    """The captions of each example as tokens, by the words of the training part."""
    if not any(train):
        return Captions()
    words, length = vocabulary(train), longest([*train, *held_out])
    said = f"captions: {len(words) - 2} words, at most {length} in one"
    return Captions(tokens(train, words, length), tokens(held_out, words, length), words, (said,))
