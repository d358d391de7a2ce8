"""What is given: the labels, the texts and the known part of x that a sample is to honour.

Floor 1. Every family says by `Told` what its samples can be told, and `read_given` is the one door
through which all of it comes: names, shapes and numbers are checked there, by the family's own
spaces, so that one mistake has one message. Labels and texts of batches are checked alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax_zoo.contract import BINARY, Array, Batch, DataError, Key, Kind, Space, categorical
from genjax_zoo.typed import nearest


class Told(NamedTuple):
    """Something that a sample can be told.

    Attributes:
      space: what its numbers are.
      shape: of one example's; None is any length.
      unless: why this model cannot be told it after all, and what to do; "" where it can.
      mask: the name of what says where its numbers count, 1, and where they are nothing, 0.
    """

    space: Space
    shape: tuple[int | None, ...] = ()
    unless: str = ""
    mask: str = ""


def read_given(
    given: Mapping[str, Any], can: Mapping[str, Told], n: int, who: str
) -> dict[str, Array]:
    """What is given, as [n, *shape]: integers as int32, all else as floats; numpy's if not traced.

    Args:
      given: what is known, by name: one for all, or one for each of n examples. None is nothing.
      can: what the model can be told, by name.
      n: how many are to be drawn.
      who: the family, for messages.

    Raises DataError for an n below 1, what is no dictionary, a name that the model cannot be told,
    and for numbers of another kind or shape or, as far as they can be seen (not traced), outside of
    their space.
    """
    check_count("n", n, who)
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        names = ", ".join(can) or "nothing"
        raise DataError(
            f"{who}: given should be a dictionary of what is known by its name ({names}), got "
            f"{str(given)[:60]!r}; write {{}} where nothing is."
        )
    open_to = {name: told for name, told in can.items() if not told.unless}
    for name, value in given.items():
        if name in can and can[name].unless and value is not None:
            raise DataError(f"{who}: {name} was given, and {can[name].unless}")
        if name not in can:
            raise DataError(f"{who} cannot be told that: {nearest(name, open_to, 'given')}")
    there = [name for name, value in given.items() if value is not None]
    read: dict[str, Array] = {}
    for name in sorted(there, key=lambda name: open_to[name].mask != ""):
        told = open_to[name]
        read[name] = _one(given[name], told, n, f"{who}: {name}", mask=read.get(told.mask))
    return {name: read[name] for name in there}


def check_count(name: str, count: int, who: str, most: float = math.inf) -> None:
    """Raises DataError for a number of samples, symbols or steps that there cannot be.

    Args:
      name: what it is called.
      count: the number.
      who: the family, for messages.
      most: the largest that there can be.
    """
    whole = hasattr(count, "__index__") and not isinstance(count, bool)
    if not whole or not 1 <= count <= most:
        may = ("" if whole else "a whole number, ") + (
            f"1 .. {most}" if most < math.inf else "1 or more"
        )
        raise DataError(f"{who}: {name} should be {may}, got {count!r}.")


def _one(
    value: Any,
    told: Told,
    n: int | None,
    what: str,
    advice: str = "",
    mask: Array | None = None,
) -> Array:
    """One thing that is given; with n None, of a batch [B, *shape], which is left as long."""
    space, shape = told.space, told.shape
    traced = isinstance(value, jax.core.Tracer)
    try:
        # Of numpy, for under jit jax knows nothing of what it has made itself.
        array: Any = value if traced else np.asarray(value)
    except (TypeError, ValueError):
        array = np.array(None)

    def refusal(why: str) -> DataError:
        return DataError(f"{what} should be {space}, {_spelt(shape, n)}, {why}{advice or '.'}")

    whole = space.kind is Kind.CATEGORICAL
    if array.dtype == object:
        raise refusal("got what is no array of numbers")
    if not any(jnp.issubdtype(array.dtype, kind) for kind in _dtypes(space)):
        raise refusal(f"got {array.dtype}" if array.ndim else f"got {array.item()!r}")
    if shape == (1,) and array.shape in ((), (n,)):
        array = array[..., None]
    lead = array.ndim - len(shape)
    if not (
        ((lead == 1 and (n is None or array.shape[0] in (1, n))) or (lead == 0 and n is not None))
        and all(want in (None, size) for size, want in zip(array.shape[lead:], shape, strict=True))
    ):
        raise refusal(f"got the shape {list(array.shape)}")
    with np.errstate(over="ignore"):
        array = array if whole else array.astype(jnp.result_type(float))
    if mask is not None and mask.shape[1:] == array.shape[lead:]:
        # What stands where nothing is known may be anything.
        traced = traced or isinstance(mask, jax.core.Tracer)
        array = (jnp if traced else np).where(mask > 0, array, np.nan).astype(array.dtype)
        lead = 1
    if not traced:
        strange = array[~space.has(array)]
        if strange.size or not array.size:
            raise refusal(f"and {strange.max():g} is none" if strange.size else "got nothing")
    array = array.astype(jnp.int32) if whole else array
    xp = jnp if traced else np
    return array if n is None else xp.broadcast_to(array, (n, *array.shape[lead:]))


def _dtypes(space: Space) -> tuple[Any, ...]:
    """What numbers of a space may be given as."""
    if space.kind is Kind.CATEGORICAL:
        return (jnp.integer,)
    of_two = (jnp.bool_,) if space.kind is Kind.BINARY else ()
    return (jnp.integer, jnp.floating, *of_two)


def _spelt(shape: tuple[int | None, ...], n: int | None) -> str:
    """How many and of what shape, in words."""
    one = ", ".join("T" if size is None else str(size) for size in shape)
    if n is None:
        return f"[B, {one}]" if shape else "one for each example"
    if not shape:
        return f"one for all or one for each of {n} examples"
    return f"of the shape [{one}] of one example, or [{n}, {one}]"


# ----------------------------------------------------------------------------------- labels, texts


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

    @property
    def told(self) -> dict[str, Told]:
        """How a sample is told of them."""
        unless = (
            "this model knows no labels; leave it out, or train one with config.model.classes and "
            "labelled data."
        )
        return {"label": Told(categorical(self.classes), (), "" if self.classes else unless)}

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
        advice = "; set config.model.classes to more, or mend the labels."
        told = self.told["label"]
        return jnp.asarray(_one(batch["label"], told, None, f"{self.who}: label", advice))

    def one_hot(self, batch: Batch) -> Array:
        """y [B, classes], one hot; [B, 0] for a model without labels."""
        if not self.classes:
            return jnp.zeros((len(next(iter(batch.values()))), 0))
        return jax.nn.one_hot(self.of(batch), self.classes)

    def draw(self, key: Key, told: Mapping[str, Array], n: int) -> dict[str, Array]:
        """{"label": y [n]} as it was told, or drawn evenly; {} for a model without labels."""
        if not self.classes:
            return {}
        y = told.get("label")
        return {"label": jax.random.randint(key, (n,), 0, self.classes) if y is None else y}


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

    @property
    def told(self) -> dict[str, Told]:
        """How a sample is told of them: tokens [T] for all, or [n, T]."""
        unless = (
            "this model reads no text; leave it out, or train one with "
            "config.model.text.vocabulary and captions."
        )
        told = Told(categorical(self.vocabulary), (None,), "" if self.vocabulary else unless)
        return {"text": told}

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
        advice = "; they are tokens of another vocabulary."
        told = self.told["text"]
        return jnp.asarray(_one(batch["text"], told, None, f"{self.who}: text", advice))

    def draw(self, key: Key, told: Mapping[str, Array], n: int) -> dict[str, Array]:
        """{"text": tokens [n, T]} as they were told, or all of padding [n, 1], which says nothing;
        {} for a model that reads none."""
        del key
        if not self.vocabulary:
            return {}
        return {"text": told.get("text", jnp.zeros((n, 1), jnp.int32))}


# --------------------------------------------------------------------------------- a part of x


def part_of(space: Space, shape: tuple[int | None, ...]) -> dict[str, Told]:
    """How a sample is told a part of x: its values, NaN where unknown, and a mask, 1 where known.

    Args:
      space: of x.
      shape: of one x; None is any length.
    """
    x = Told(space._replace(missing=True), shape, mask="mask")
    return {"x": x, "mask": Told(BINARY, shape)}


def known_part(told: Mapping[str, Array], who: str) -> tuple[Array, Array] | None:
    """What is known of x: (x [n, ...], where it is known [n, ...] bool); None if nothing is.

    The x that is returned is 0 where it is unknown. Without a mask, what is NaN is unknown. What
    is not traced comes back as numpy's, so that it can be checked under jit too.

    Args:
      told: x, or x and its mask, as they were read.
      who: the family, for messages.

    Raises DataError for a mask without x or of another length, or an x that is known whole.
    """
    x, mask = told.get("x"), told.get("mask")
    if x is None and mask is None:
        return None
    if x is None:
        raise DataError(
            f"{who}: mask says where x is known, and no x was given; give both, such as "
            "--given=x=image.npy --given=mask=mask.npy."
        )
    traced = any(isinstance(part, jax.core.Tracer) for part in (x, mask))
    xp: Any = jnp if traced else np
    if mask is None:
        if not traced and not np.isnan(x).any():
            raise DataError(
                f"{who}: all of x was given, which leaves nothing to draw; give a mask too (1 "
                "where x is known), or make NaN what is unknown."
            )
        mask = xp.ones(x.shape)
    if mask.shape != x.shape:
        lengths = [list(part.shape[1:]) for part in (mask, x)]
        raise DataError(
            f"{who}: mask should have the shape of x, got {lengths[0]} for {lengths[1]}."
        )
    known = (mask > 0) & ~xp.isnan(x)
    return xp.where(known, x, 0), known


def prompt(
    told: Mapping[str, Array], who: str, order: Sequence[int] = ()
) -> tuple[Array, Array] | None:
    """What `known_part` says where x is written number after number: its beginning.

    Args:
      told, who: as of `known_part`.
      order: which number of the flat x comes first, which next; row by row by default.

    Returns:
      x [n, D] and where it is known [n, D] bool, in the order in which they are written; None if
      nothing is known.

    Raises DataError where something else is known, if it is not traced.
    """
    part = known_part(told, who)
    if part is None:
        return None
    rows = np.asarray(order) if len(order) else slice(None)
    x, known = (each.reshape(len(each), -1)[:, rows] for each in part)
    if not isinstance(known, jax.core.Tracer) and bool((known[:, 1:] > known[:, :-1]).any()):
        how = "an order of its own" if len(order) else "row by row"
        raise DataError(
            f"{who} writes x number after number, {how}, and goes on from its beginning: what is "
            "known of x should come before all that is not; give such a beginning, or choose a "
            "family that fills in."
        )
    return x, known
