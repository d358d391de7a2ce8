"""Symbols of documents, end to end: how texts become them, in memory.

Floor 4. A long document is encoded piece by piece, cut where its tokenizer would have cut: the
symbols are the same wherever they are kept, and no text is ever whole in memory for them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from genjax_zoo.data.text.corpus import Document, Documents
from genjax_zoo.data.text.tokenizer import Tokenizer

PIECE = 2**16
"""Characters of a document that are encoded at once, or nearly so."""
WITHIN = 2**12
"""Characters at its end in which a place to cut is looked for."""
AROUND = 100
"""Characters on both sides of a cut by which it is tried."""
TRIED = 100
"""Places of a piece where a cut is tried, before the piece is made longer."""


class Tokens(NamedTuple):
    """Documents end to end.

    Attributes:
      symbols: [N] unsigned integers, in memory or memory-mapped.
      starts: [D] int64, where each document begins.
      counts: [V] int64, how often each symbol occurs.
    """

    symbols: np.ndarray
    starts: np.ndarray
    counts: np.ndarray


def dtype_of(size: int) -> np.dtype:
    """The narrowest unsigned integers for so many symbols."""
    return np.min_scalar_type(max(size - 1, 0))


def encoded(
    tokenizer: Tokenizer, documents: Documents, ends: bool
) -> Iterator[tuple[np.ndarray, bool]]:
    """The symbols of documents, part by part: (symbols [T], whether they begin a document).

    Args:
      tokenizer: by which.
      documents: that are not empty.
      ends: whether each of them ends with the token that says so, where there is one.
    """
    encode = lambda text: tokenizer.encode(text, unknown=True)
    end = [tokenizer.specials["end"]] if ends and "end" in tokenizer.specials else []
    for document in documents:
        begins = True
        for piece in pieces(document, encode):
            yield encode(piece), begins
            begins = False
        yield np.array(end, np.int32), begins


def in_memory(tokenizer: Tokenizer, documents: Documents, ends: bool) -> Tokens:
    """The same as arrays."""
    dtype, at = dtype_of(tokenizer.size), 0
    parts, starts = [np.zeros(0, dtype)], list[int]()
    for part, begins in encoded(tokenizer, documents, ends):
        if begins:
            starts.append(at)
        parts.append(part.astype(dtype))
        at += len(part)
    symbols = np.concatenate(parts)
    counts = np.bincount(symbols, minlength=tokenizer.size)
    return Tokens(symbols, np.array(starts, np.int64), counts)


def pieces(document: Document, encode: Callable[[str], np.ndarray]) -> Iterator[str]:
    """A document in pieces whose symbols, end to end, are those of the whole.

    They depend on the text alone, and not on the pieces in which it comes. Where no cut can be
    found, as of a text without spaces whose tokenizer merges all, a piece is as long as it takes.
    """
    text, length = "", PIECE
    for part in document:
        text, at = text + part, 0
        while len(text) - at > 2 * length:
            cut = cut_of(text[at : at + length + AROUND], length, encode)
            if cut is None:
                length *= 2
                continue
            yield text[at : at + cut[0]]
            at, length = at + cut[1], PIECE
        text = text[at:]
    if text:
        yield text


def cut_of(text: str, most: int, encode: Callable[[str], np.ndarray]) -> tuple[int, int] | None:
    """Where a piece of at most so many characters ends, and where the next one begins.

    It ends behind a word. The next one begins with the space, or behind it where its tokenizer puts
    one before every text; both are tried on what stands around. None where neither is the same.
    """
    first = max(most - WITHIN, 0)
    spaces = [first + m.start() for m in re.finditer(r"(?<=\w) (?=\w)", text[first:most])]
    for cut in reversed(spaces[-TRIED:]):
        # From the beginning of a word on, as every piece begins.
        left = text[max(cut - AROUND, 0) : cut].partition(" ")[2] or text[:cut][-AROUND:]
        whole = encode(left + text[cut : cut + AROUND])
        for after in (cut, cut + 1):
            parts = encode(left), encode(text[after : cut + AROUND])
            if np.array_equal(np.concatenate(parts), whole):
                return cut, after
    return None
