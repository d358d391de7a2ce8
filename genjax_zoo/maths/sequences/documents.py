"""Rows of text: where a document begins within one, and which of its symbols count.

Floor 1. A batch of text is `x` [B, L], symbols 0 .. V - 1. Where several documents share a row it
has `document` [B, L] too, one number for all places of a document and 0 for padding, which is
neither read nor counted; and where not every symbol counts, `loss_mask` [B, L], 1 where one does.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp

from genjax_zoo.contract import BINARY, Array, Batch, Space, categorical

PACKED_SPACES: Mapping[str, Space] = {"document": categorical(), "loss_mask": BINARY}
"""What a model that reads documents says of them, beside its x."""


def beginnings(batch: Batch, shape: tuple[int, ...]) -> Array:
    """Where a document begins: bool [B, L]; at the first place of a row one always does.

    Args:
      batch: of text.
      shape: (B, L).
    """
    first = jnp.broadcast_to(jnp.arange(shape[1]) == 0, shape)
    if "document" not in batch:
        return first
    document = jnp.asarray(batch["document"])
    return first | jnp.pad(document[:, 1:] != document[:, :-1], ((0, 0), (1, 0)))


def counted(batch: Batch, shape: tuple[int, ...]) -> Array:
    """1 where the log-probability of a symbol counts, else 0: float32 [B, L]; as `beginnings`."""
    counts = jnp.ones(shape, jnp.float32)
    if "document" in batch:
        counts = counts * (jnp.asarray(batch["document"]) > 0)
    return counts * batch["loss_mask"] if "loss_mask" in batch else counts
