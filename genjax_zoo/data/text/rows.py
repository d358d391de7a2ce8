"""Rows to learn from, by their numbers: windows of one text, or documents packed end to end.

Floor 4. Arrays of numpy, in memory or memory-mapped: only what a batch holds is read.
"""

from __future__ import annotations

import numpy as np

from genjax_zoo.data.text.tokens import Tokens


def windows(symbols: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    """[B, length] symbols, from the places `starts` [B] on."""
    return symbols[np.asarray(starts)[:, None] + np.arange(length)]


def count(symbols: int, length: int) -> int:
    """How many rows of `length` so many symbols are packed into, each beginning with the last
    symbol of the one before."""
    return max(-(-(symbols - 1) // (length - 1)), 1)


def packed(tokens: Tokens, rows: np.ndarray, length: int) -> dict[str, np.ndarray]:
    """Rows of documents end to end, each [B, length]: x, document and loss_mask.

    Row r begins at symbol r (length - 1): its first is the last one of row r - 1, where it counted,
    and so every symbol counts once, and all but those behind a row's end are read by what follows.

    Args:
      tokens: N symbols of D documents.
      rows: [B] numbers from 0 to count(N, length) - 1.
      length: at least 2.

    Returns:
      x, symbols, and 0 where there is none; document, int32 from 1 on in every row, and 0 there;
      loss_mask, float32, 1 where a symbol counts.
    """
    at = np.asarray(rows, np.int64)[:, None] * (length - 1) + np.arange(length)
    there = at < len(tokens.symbols)
    at = np.minimum(at, len(tokens.symbols) - 1)
    document = np.searchsorted(tokens.starts, at, side="right")
    counts = there & ((np.arange(length) > 0) | (at == 0))
    return {
        "x": np.where(there, tokens.symbols[at], 0).astype(tokens.symbols.dtype),
        "document": np.where(there, document - document[:, :1] + 1, 0).astype(np.int32),
        "loss_mask": counts.astype(np.float32),
    }
