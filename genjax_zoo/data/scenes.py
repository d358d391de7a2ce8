"""Scenes of one or two coloured digits, and the captions that say what is in them.

    scene    ->  thing | thing place | thing relation thing        "a red seven above a blue two"
    thing    ->  "a" colour digit
    place    ->  "at the top" | "at the bottom" | "on the left" | "on the right"
    relation ->  "above" | "below" | "left of" | "right of"

Four of the forty pairs of colour and digit are held out: training says "red" and says "three", but
never "a red three". A model that draws one has understood the grammar. Floor 4: grey digits and
keys are handed in.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax_zoo.contract import Array, DataError, Key
from genjax_zoo.typed import nearest

COLOURS = {
    "red": (1.0, 0.0, 0.0),
    "green": (0.0, 1.0, 0.0),
    "blue": (0.0, 0.0, 1.0),
    "yellow": (1.0, 1.0, 0.0),
}
"""The names of the colours, each (red, green, blue)."""
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PLACES = ("", "at the top", "at the bottom", "on the left", "on the right")
"""Of a single digit; the first, which says nothing, is the middle."""
RELATIONS = ("above", "below", "left of", "right of")
"""Of the first digit to the second."""
ARRANGEMENTS = (*PLACES, *RELATIONS)
"""What a scene's `arrangement` counts."""
WORDS = ("", "a", *COLOURS, *DIGITS, *dict.fromkeys(" ".join(ARRANGEMENTS).split()))
"""The vocabulary; token 0 is padding."""
LENGTH = 8
"""Tokens in a caption: as many as the longest has words."""
HELD_OUT = {"red": ("three",), "green": ("seven",), "blue": ("two",), "yellow": ("nine",)}
"""The pairs of colour and digit that training never says, nor draws."""

HELD_OUT_TABLE = np.array([[d in HELD_OUT[c] for d in DIGITS] for c in COLOURS])
"""HELD_OUT as a table [colours, digits]."""
UNSEEN = np.flatnonzero(HELD_OUT_TABLE.any(0)).astype(np.int32)
"""The digits that some colour lacks."""


class Scene(NamedTuple):
    """What is to be drawn; integers [] or [B], of jax or of numpy.

    Attributes:
      arrangement: in 0 .. 8, one of ARRANGEMENTS.
      colour: [..., 2] of the first and the second thing, in 0 .. 3.
      digit: [..., 2] likewise, in 0 .. 9. Where there is no second thing, its colour and digit say
        nothing.
    """

    arrangement: Any
    colour: Any
    digit: Any


def pairs(arrangement: Array) -> Array:
    """Whether there is a second thing."""
    return arrangement >= len(PLACES)


# --------------------------------------------------------------------------------- the grammar


def _template(arrangement: int) -> list[int]:
    """A caption's tokens, with -1 .. -4 for first colour and digit, second colour and digit."""
    relation = arrangement >= len(PLACES)
    words = [WORDS.index(w) for w in ARRANGEMENTS[arrangement].split()]
    caption = [1, -1, -2, *words, *([1, -3, -4] if relation else [])]
    return caption + [0] * (LENGTH - len(caption))


_TEMPLATES = np.array([_template(k) for k in range(len(ARRANGEMENTS))])
_FIRST_COLOUR, _FIRST_DIGIT = WORDS.index("red"), WORDS.index("zero")


def tokens(scene: Scene) -> Array:
    """The caption of scenes [B] -> [B, T] int32, or of one -> [T]."""
    caption = jnp.asarray(_TEMPLATES)[scene.arrangement]
    things = jnp.stack([_FIRST_COLOUR + scene.colour, _FIRST_DIGIT + scene.digit], -1)
    things = things.reshape(*things.shape[:-2], 4)
    filled = jnp.take_along_axis(things, jnp.maximum(-caption - 1, 0), -1)
    return jnp.where(caption < 0, filled, caption).astype(jnp.int32)


def detokenise(caption: Any) -> str:
    """Tokens [T] -> the words."""
    return " ".join(WORDS[int(k)] for k in np.asarray(caption) if k)


def tokenise(text: str) -> np.ndarray:
    """Words -> tokens [T] int32; raises DataError for a word that is not known, or too many."""
    words = text.lower().replace(",", " ").split()
    for word in words:
        if word not in WORDS[1:]:
            raise DataError(nearest(word, WORDS[1:], f"word in the caption {text!r}:"))
    if len(words) > LENGTH:
        raise DataError(
            f"a caption has at most {LENGTH} words, and {text!r} has {len(words)}; write it as in "
            "'a red seven above a blue two'."
        )
    found = [WORDS.index(word) for word in words]
    return np.array(found + [0] * (LENGTH - len(found)), np.int32)


def parse(caption: Any) -> Scene:
    """The scene of a caption [T]; raises DataError for one that is not of the grammar."""
    caption = np.asarray(caption)
    for arrangement, template in enumerate(_TEMPLATES):
        if len(caption) == LENGTH and np.all((template < 0) | (template == caption)):
            found = [0, 0, 0, 0]
            for token, hole in zip(caption, template, strict=True):
                if hole < 0:
                    found[-hole - 1] = int(token) - (_FIRST_COLOUR if hole % 2 else _FIRST_DIGIT)
            colour, digit = np.array(found[::2]), np.array(found[1::2])
            if np.all((colour >= 0) & (colour < len(COLOURS)) & (digit >= 0) & (digit < 10)):
                return Scene(np.array(arrangement), colour, digit)
    raise DataError(
        f"{detokenise(caption)!r} is no caption; expected 'a COLOUR DIGIT', with one of "
        f"{', '.join(map(repr, PLACES[1:]))} or with {', '.join(RELATIONS)} 'a COLOUR DIGIT'."
    )


def held_out(scene: Scene) -> Array:
    """Whether scenes [...] show a pair of colour and digit that training never does."""
    rare = jnp.asarray(HELD_OUT_TABLE)[scene.colour, scene.digit]
    return rare[..., 0] | (rare[..., 1] & pairs(scene.arrangement))


# ------------------------------------------------------------------------------- random scenes


def scenes(key: Key, digit: Array, unseen: Array) -> Scene:
    """Scenes [B] of these digits [B, 2]: arrangement and colours are drawn, evenly.

    One thing or two, alike often; but two where only the second is unseen.

    Args:
      key: of the draw.
      digit: of the two things.
      unseen: [B, 2], which of them get a held-out colour; their digits have to be in UNSEEN. All
        others get none.
    """
    key_two, key_place, key_relation, key_colour = jax.random.split(key, 4)
    n = len(digit)
    two = jax.random.bernoulli(key_two, 0.5, (n,)) | (unseen[:, 1] & ~unseen[:, 0])
    place = jax.random.randint(key_place, (n,), 0, len(PLACES))
    relation = jax.random.randint(key_relation, (n,), len(PLACES), len(ARRANGEMENTS))
    allowed = jnp.asarray(HELD_OUT_TABLE.T)[digit] == unseen[..., None]
    colour = jax.random.categorical(key_colour, jnp.where(allowed, 0.0, -jnp.inf))
    return Scene(jnp.where(two, relation, place), colour.astype(jnp.int32), digit)


def asked(key: Key, n: int, unseen: bool) -> Scene:
    """n scenes to ask a model for: with no held-out pair, or one (of four, one has it second)."""
    key_digit, key_unseen, key_scene = jax.random.split(key, 3)
    which = hidden(n) & unseen
    any_digit = jax.random.randint(key_digit, (n, 2), 0, len(DIGITS))
    rare = jax.random.choice(key_unseen, jnp.asarray(UNSEEN), (n, 2))
    return scenes(key_scene, jnp.where(which, rare, any_digit), which)


def hidden(n: int) -> Array:
    """Which things of n held-out scenes are of a held-out pair, [n, 2]: each fourth the second."""
    second = jnp.arange(n) % 4 == 3
    return jnp.stack([~second, second], -1)


# ---------------------------------------------------------------------------------- the drawing

# Upper left corners (row, column) of the first and the second thing, in halves of a digit's side.
_CORNERS = np.array(
    [
        *[[at, at] for at in ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2))],
        *[[(0, 1), (2, 1)], [(2, 1), (0, 1)], [(1, 0), (1, 2)], [(1, 2), (1, 0)]],
    ]
)


def corners(arrangement: Array, side: int) -> Array:
    """Where the things' upper left corners are, (row, column) [..., 2, 2], in pixels."""
    return jnp.asarray(_CORNERS)[arrangement] * side // 2


def draw(scene: Scene, images: Array) -> Array:
    """Grey digits [B, 2, S, S] in [0, 1] -> scenes [B, 2 S, 2 S, 3] in [0, 1], on black."""
    side = images.shape[-1]
    there = jnp.stack([jnp.ones_like(scene.arrangement), pairs(scene.arrangement)], -1)
    colour = jnp.asarray(list(COLOURS.values()))[scene.colour] * there[..., None]
    # Each thing's pixels go to their row and their column: P_row image P_columnᵀ
    to = corners(scene.arrangement, side)[..., None] + jnp.arange(side)
    place = jax.nn.one_hot(to, 2 * side, axis=-2)
    rows, columns = place[..., 0, :, :], place[..., 1, :, :]
    return jnp.einsum("bkip,bkpq,bkjq,bkc->bijc", rows, images, columns, colour)
