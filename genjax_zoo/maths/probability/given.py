"""What is given: the labels, the texts and the known part of x that a sample is to honour.

Floor 1. Every family reads `given` (contract.Sample) and the labels of its batches by these, so
that one mistake has one message.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax_zoo.contract import Array, Batch, DataError, Key, Space, categorical
from genjax_zoo.typed import nearest


def check_names(given: Mapping[str, Any], known: Iterable[str], who: str) -> None:
    """Raises DataError for a name that the model `who` cannot be told.

    Args:
      given: a batch of what is known.
      known: the names that the model can be told.
      who: the family.
    """
    known = list(known)
    for name in given:
        if name not in known:
            raise DataError(f"{who} cannot be told that: {nearest(name, known, 'given')}")


class Labels(NamedTuple):
    """How a model has labels y: 0 .. classes - 1, or none at all.

    Attributes:
      classes: how many there are; 0 for a model that takes no notice of labels.
      who: the family, for messages.
    """

    classes: int
    who: str

    @property
    def names(self) -> tuple[str, ...]:
        """What a sample can be told of them."""
        return ("label",) if self.classes else ()

    def spaces(self, x: Space) -> dict[str, Space]:
        """The model's spaces, of examples `x` and their labels if there are any."""
        return {"x": x, **({"label": categorical(self.classes)} if self.classes else {})}

    def of(self, batch: Batch) -> Array:
        """y [B] int32 of a batch; raises DataError where there is none, or one not known."""
        if "label" not in batch:
            raise DataError(
                f"{self.who}: a model of {self.classes} classes needs labelled data; set "
                "config.model.classes to 0 or choose data with labels."
            )
        self.check(batch["label"])
        return jnp.asarray(batch["label"], jnp.int32)

    def one_hot(self, batch: Batch) -> Array:
        """y [B, classes], one hot; [B, 0] for a model without labels."""
        if not self.classes:
            return jnp.zeros((len(next(iter(batch.values()))), 0))
        return jax.nn.one_hot(self.of(batch), self.classes)

    def given(self, given: Mapping[str, Any], n: int) -> Array | None:
        """y [n] int32 as it is given, one for all or [n]; None where nothing is."""
        if given.get("label") is None:
            return None
        if not self.classes:
            raise DataError(
                f"{self.who}: a label was given, and this model knows none; leave it out, or train "
                "one with config.model.classes."
            )
        self.check(given["label"], n)
        return jnp.broadcast_to(jnp.asarray(given["label"], jnp.int32), (n,))

    def draw(self, key: Key, given: Mapping[str, Any], n: int) -> dict[str, Array]:
        """{"label": y [n]} as it is given, or drawn evenly; {} for a model without labels."""
        y = self.given(given, n)
        if not self.classes:
            return {}
        return {"label": jax.random.randint(key, (n,), 0, self.classes) if y is None else y}

    def check(self, label: Any, n: int | None = None) -> None:
        """Raises DataError for what are no labels, if they are not traced.

        Args:
          label: [] or [B] integers 0 .. classes - 1.
          n: B, where it is known.
        """
        if isinstance(label, jax.core.Tracer):
            return
        # Of numpy, for under jit jax knows nothing of what it has made itself.
        seen = np.asarray(label)
        shaped = n is None or seen.shape in ((), (n,))
        if not (np.issubdtype(seen.dtype, np.integer) and seen.size and shaped):
            raise DataError(
                f"{self.who}: expected a label, or one for each of {n or 'the'} examples, as "
                f"integers, got {label!r}."
            )
        low, high = int(seen.min()), int(seen.max())
        if low < 0 or high >= self.classes:
            raise DataError(
                f"{self.who}: labels should lie in 0 .. {self.classes - 1}, got {low} .. {high}; "
                f"set model.classes to {high + 1} or more, or mend the labels."
            )


class Texts(NamedTuple):
    """How a model reads texts: tokens 0 .. vocabulary - 1, 0 for padding, or none at all.

    Attributes:
      vocabulary: how many tokens there are; 0 for a model that reads no texts.
      who: the family, for messages.
    """

    vocabulary: int
    who: str

    @property
    def names(self) -> tuple[str, ...]:
        """What a sample can be told of them."""
        return ("text",) if self.vocabulary else ()

    def spaces(self, x: Space) -> dict[str, Space]:
        """The model's spaces, of examples `x` and their texts if there are any."""
        return {"x": x, **({"text": categorical(self.vocabulary)} if self.vocabulary else {})}

    def of(self, batch: Batch) -> Array:
        """Tokens [B, T] int32 of a batch; raises DataError where there are none, or others."""
        if "text" not in batch:
            raise DataError(
                f"{self.who}: a model of {self.vocabulary} tokens needs data with texts; set "
                "config.model.text.vocabulary to 0 or choose data with captions."
            )
        self.check(batch["text"])
        return jnp.asarray(batch["text"], jnp.int32)

    def given(self, given: Mapping[str, Any], n: int) -> Array | None:
        """Tokens [n, T] int32 as they are given, [T] for all or [n, T]; None where nothing is."""
        if given.get("text") is None:
            return None
        if not self.vocabulary:
            raise DataError(
                f"{self.who}: this model reads no text; leave it out, or train one with "
                "config.model.text.vocabulary and captions."
            )
        self.check(given["text"], n)
        tokens = jnp.asarray(given["text"], jnp.int32)
        return jnp.broadcast_to(tokens, (n, tokens.shape[-1]))

    def draw(self, key: Key, given: Mapping[str, Any], n: int) -> dict[str, Array]:
        """{"text": tokens [n, T]} as they are given, or all of padding [n, 1], which says nothing;
        {} for a model that reads none."""
        del key
        tokens = self.given(given, n)
        if not self.vocabulary:
            return {}
        return {"text": jnp.zeros((n, 1), jnp.int32) if tokens is None else tokens}

    def check(self, text: Any, n: int | None = None) -> None:
        """Raises DataError for what are no tokens, if they are not traced.

        Args:
          text: [T] or [B, T] integers 0 .. vocabulary - 1.
          n: B, where it is known.
        """
        if isinstance(text, jax.core.Tracer):
            return
        seen = np.asarray(text)
        shaped = seen.ndim == 1 or (seen.ndim == 2 and (n is None or len(seen) in (1, n)))
        if not (shaped and seen.size and np.issubdtype(seen.dtype, np.integer)):
            raise DataError(
                f"{self.who}: expected the tokens of a text [T], or of {n or 'all'} texts, as "
                f"integers, got {seen.dtype} of shape {list(seen.shape)}."
            )
        low, high = int(seen.min()), int(seen.max())
        if low < 0 or high >= self.vocabulary:
            raise DataError(
                f"{self.who}: tokens should lie in 0 .. {self.vocabulary - 1}, got {low} .. "
                f"{high}; they are those of another vocabulary."
            )


def known_part(
    given: Mapping[str, Any], shape: tuple[int, ...], who: str, n: int
) -> tuple[Array, Array] | None:
    """What is known of x: (x [n, *shape], where it is known [n, *shape] bool); None if nothing is.

    `x` holds the values, one for all or [n, ...], and `mask` is 1 where they are known. Without a
    mask, what is NaN is unknown. The x that is returned is 0 where it is unknown. What is not
    traced comes back as numpy's, so that it can be checked under jit too.

    Raises DataError for a mask without x, an x that is known whole, or another shape.
    """
    x, mask = given.get("x"), given.get("mask")
    if x is None and mask is None:
        return None
    if x is None:
        raise DataError(
            f"{who}: mask says where x is known, and no x was given; give both, such as "
            "--given=x=image.npy --given=mask=mask.npy."
        )
    traced = any(isinstance(part, jax.core.Tracer) for part in (x, mask))
    xp: Any = jnp if traced else np
    x = xp.asarray(x, jnp.result_type(float))
    if mask is None:
        if not traced and not np.isnan(x).any():
            raise DataError(
                f"{who}: all of x was given, which leaves nothing to draw; give a mask too (1 "
                "where x is known), or make NaN what is unknown."
            )
        mask = xp.ones(x.shape, bool)
    x, mask = (for_each(part, shape, n, f"{who}: {m}") for m, part in (("x", x), ("mask", mask)))
    known = (mask > 0) & ~xp.isnan(x)
    return xp.where(known, x, 0), known


def for_each(value: Any, shape: tuple[int, ...], n: int, what: str) -> Array:
    """What is given, one for all or one for each of n examples, as [n, *shape].

    Where an example has a single number, [] and [n] will do. Raises DataError for another shape.
    """
    xp: Any = jnp if isinstance(value, jax.Array) else np
    value = xp.asarray(value)
    if shape == (1,) and value.shape in ((), (n,)):
        value = value[..., None]
    if value.shape not in (shape, (n, *shape)):
        raise DataError(
            f"{what} should have the shape {list(shape)} of one example, or {[n, *shape]}, got "
            f"{list(value.shape)}."
        )
    return xp.broadcast_to(value, (n, *shape))


def prompt(
    given: Mapping[str, Any], shape: tuple[int, ...], who: str, n: int, order: Sequence[int] = ()
) -> tuple[Array, Array] | None:
    """What `known_part` says where binary x are written number after number: their beginning.

    Args:
      given, shape, who, n: as of `known_part`.
      order: which number of the flat x comes first, which next; row by row by default.

    Returns:
      x [n, D] and where it is known [n, D] bool, in the order in which they are written; None if
      nothing is known.

    Raises DataError where something else is known, or is not 0 or 1, if it is not traced.
    """
    part = known_part(given, shape, who, n)
    if part is None:
        return None
    rows = np.asarray(order) if len(order) else slice(None)
    x, known = (each.reshape(n, -1)[:, rows] for each in part)
    if isinstance(known, jax.core.Tracer):
        return x, known
    if bool((known[:, 1:] > known[:, :-1]).any()):
        how = "an order of its own" if len(order) else "row by row"
        raise DataError(
            f"{who} writes x number after number, {how}, and goes on from its beginning: what is "
            "known of x should come before all that is not; give such a beginning, or choose a "
            "family that fills in."
        )
    if not np.isin(x, (0, 1)).all():
        raise DataError(
            f"{who}: what is known of x should be 0 or 1, and it holds values between or beyond; "
            "round it, such as by data.binarise='threshold'."
        )
    return x, known
