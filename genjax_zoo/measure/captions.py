"""Caption match: a picture is drawn from a caption, read back, and the two are compared.

The reader knows where things may stand and how colours look, so only the digits are left to a
network, the zoo's own classifier of grey digits (measure/extractors.py). It has never seen a
colour, and so is no better on the combinations that training shows than on those it holds out:

    arrangement   where light is along the rows, and along the columns: low, middle, high, or both
    colour        the palette's nearest to the colour of a thing's light
    digit         the classifier, on the brightest channel of a thing's square

A match is a scene of which all is right. Real scenes are read too: what the reader gets right of
them is the most that any model can reach. Floor 5.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from genjax_zoo.contract import Batch, DataError, Key, Model
from genjax_zoo.data import scenes
from genjax_zoo.data.scenes import Scene
from genjax_zoo.data.source import Source
from genjax_zoo.measure.extractors import Extractor, bundled, to_unit
from genjax_zoo.measure.probes import Judged, Probe

NAMES = {"caption_match": False, "caption_match_held_out": True}
"""The probes, and whether they ask for what training holds out."""
NAMED = "captions:"
"""How the names of the data begin whose captions can be read."""
LIT = 0.06
"""A side of a scene with less than this part of all light is dark."""
BRIGHTER = 1.5
"""What makes up for the light that strokes lose when digits are shrunk: of 2000 of MNIST's test
digits at 14 pixels 98.9 % are then read, and 77 % as they are by bilinear interpolation."""
UNREADABLE = -1
"""The arrangement of a scene whose light is where no arrangement has it."""
_LOW, _MIDDLE, _HIGH, _BOTH = range(4)
# Where (rows, columns) have their light -> the arrangements that look so, the first of them.
_LOOKS = {
    (_MIDDLE, _MIDDLE): "",
    (_LOW, _MIDDLE): "at the top",
    (_HIGH, _MIDDLE): "at the bottom",
    (_MIDDLE, _LOW): "on the left",
    (_MIDDLE, _HIGH): "on the right",
    (_BOTH, _MIDDLE): "above",
    (_MIDDLE, _BOTH): "left of",
}
_ARRANGEMENT = np.full((4, 4), UNREADABLE)
for _where, _name in _LOOKS.items():
    _ARRANGEMENT[_where] = scenes.ARRANGEMENTS.index(_name)


def caption_match(model: Model, source: Source, extractor: Extractor | None) -> list[Probe]:
    """The probes of a model that reads texts, of data with captions; else none.

    One asks for combinations that training has shown, one for those that it holds out. The scenes
    are read by the zoo's own classifier of their digits, and not by the `extractor`.
    """
    if "text" not in model.spaces or not source.name.startswith(NAMED):
        return []
    digits = bundled(source.name.removeprefix(NAMED).removeprefix("tfds:"))

    def judge(given: Batch, x: np.ndarray) -> Judged:
        scenes_asked = [scenes.parse(text) for text in np.asarray(given["text"])]
        together = jax.tree.map(lambda *parts: np.stack(parts), *scenes_asked)
        return match(together, read(x, digits, x.shape[1] // 2))

    @functools.cache
    def real() -> Judged:
        batch = source.held_out(jax.random.key(0), 0, source.held_out_size)
        return judge(batch, to_unit(batch["x"], source.interval))

    def ask(key: Key, n: int, unseen: bool) -> Batch:
        return {"text": scenes.tokens(scenes.asked(key, n, unseen))}

    return [
        Probe(
            name,
            "held-out combinations" if unseen else "seen combinations",
            functools.partial(ask, unseen=unseen),
            judge,
            f"{digits.name} {digits.sha256[:8]}",
            real,
            stream=int(unseen),
        )
        for name, unseen in NAMES.items()
    ]


def read(x: np.ndarray, extractor: Extractor, side: int) -> Scene:
    """The scenes that pictures x [n, 2 S, 2 S, 3] in [0, 1] show.

    Of two things the first is the upper one, or the left one. An arrangement that cannot be read is
    UNREADABLE.
    """
    x = np.clip(np.asarray(x, np.float32), 0, 1)
    if x.shape[1:] != (2 * side, 2 * side, 3):
        raise DataError(
            f"expected scenes [n, {2 * side}, {2 * side}, 3] of digits of side {side}, got "
            f"{list(x.shape)}."
        )
    grey = x.max(-1)
    arrangement = _ARRANGEMENT[_along(grey.sum(2)), _along(grey.sum(1))]
    places = np.asarray(scenes.corners(np.maximum(arrangement, 0), side))
    # Each thing's square, [n, 2, S, S, 3].
    rows, columns = (places[..., k, None] + np.arange(side) for k in (0, 1))
    things = x[np.arange(len(x))[:, None, None, None], rows[..., None], columns[..., None, :]]
    digit = _classified(things.max(-1).reshape(-1, side, side, 1), extractor).reshape(-1, 2)
    return Scene(arrangement, _colours(things), digit)


def _along(light: np.ndarray) -> np.ndarray:
    """Where light [n, 2 S] is along an axis: low, in the middle, high, or both low and high [n]."""
    side = light.shape[1] // 2
    at = np.arange(2 * side) + 0.5
    light = light * (light > 0.02 * light.sum(1, keepdims=True))
    total = np.maximum(light.sum(1), 1e-6)
    parts = [light[:, :side], light[:, side:]]
    share = np.stack([part.sum(1) for part in parts], 1) / total[:, None]
    centre = (light @ at) / total
    halves = [
        part @ where / np.maximum(part.sum(1), 1e-6)
        for part, where in zip(parts, (at[:side], at[side:]), strict=True)
    ]
    # Two digits stand S apart; what lies in the two halves of one digit is half of that apart.
    both = (share.min(1) > LIT) & (halves[1] - halves[0] > 0.75 * side)
    place = np.where(centre < 0.75 * side, _LOW, np.where(centre > 1.25 * side, _HIGH, _MIDDLE))
    return np.where(both, _BOTH, place)


def _colours(things: np.ndarray) -> np.ndarray:
    """The colour in the palette that is nearest to the direction of a thing's light, [n, 2]."""
    light = things.sum((2, 3))
    palette = np.array(list(scenes.COLOURS.values()))
    palette /= np.linalg.norm(palette, axis=-1, keepdims=True)
    return (light @ palette.T).argmax(-1)


def _classified(grey: np.ndarray, extractor: Extractor) -> np.ndarray:
    """The digits on grey squares [m, S, S, 1], shown to the classifier in its own size."""
    assert extractor.probabilities is not None
    if grey.shape[1:] != extractor.shape:
        shown = jax.image.resize(jnp.asarray(grey), (len(grey), *extractor.shape), "lanczos3")
        grey = np.clip(BRIGHTER * np.asarray(shown), 0, 1)
    return extractor.probabilities(grey).argmax(-1)


def match(asked: Scene, seen: Scene) -> Judged:
    """Compares the scenes that captions ask for with those that were read, [n] each.

    The parts are right where they are so of both things, where there are two.
    """
    asked = upright(asked)
    two = np.asarray(scenes.pairs(asked.arrangement))
    placed = asked.arrangement == seen.arrangement
    right = lambda a, b: (a[:, 0] == b[:, 0]) & ((a[:, 1] == b[:, 1]) | ~two)
    coloured, written = right(asked.colour, seen.colour), right(asked.digit, seen.digit)
    parts = {"arrangement": placed, "colour": coloured, "digit": written}
    return Judged(placed & coloured & written, parts)


def upright(scene: Scene) -> Scene:
    """The same picture in the reader's words: above and left of, not below and right of."""
    arrangement, colour, digit = (np.asarray(a) for a in scene)
    turned = np.isin(arrangement, [scenes.ARRANGEMENTS.index(w) for w in ("below", "right of")])
    swap = lambda a: np.where(turned[:, None], a[:, ::-1], a)
    return Scene(arrangement - turned, swap(colour), swap(digit))
