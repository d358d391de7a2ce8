"""Explorations: the table of what can be shown of a trained model, and what shows it.

Floor 7. Every picture has a caption that says what it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Literal, NamedTuple

import numpy as np

from genjax_zoo.contract import ConfigError, ZooError
from genjax_zoo.explore import completions, neighbours, paths
from genjax_zoo.explore.latents import Encoded
from genjax_zoo.explore.pictures import (
    Shown,
    animate,
    in_order,
    is_image,
    pairs_of_columns,
    picture,
    write,
)
from genjax_zoo.explore.subject import Subject, called, named

SHOWN, FRAMES, TURN = 6, 9, 16
"""Rows of a picture; images of a path in a row; frames of an animation between two examples."""
GRID, CODES, VALUES, TRIED = 15, 10, 11, 256
"""Images a side of a sweep; codes that are traversed, at most, and the values each takes; of more
codes than `TRIED` only so many are tried, evenly."""


def reconstructions(subject: Subject, codes: Encoded) -> Iterator[Shown]:
    """Held-out examples, and beside each what its latents decode to."""
    x = subject.pool["x"][: len(codes.z)]
    made = codes.decode(codes.z)
    error = np.mean((made - x).reshape(len(x), -1) ** 2)
    n = min(24, len(x))
    pairs = np.stack([x[:n], made[:n]], 1)
    rows = pairs.reshape(-1, 8, *x.shape[1:]) if n % 4 == 0 else pairs
    yield Shown(
        [write(subject, "reconstructions", picture(subject, *pairs_of_columns(rows)))],
        f"Examples of {subject.source.held_out_split}, each beside the decoding of its latents, "
        f"{codes.how}. Mean squared error {error:.4g} a number, n = {len(x)}.",
        {"squared error a number": float(error)},
    )


def interpolation(subject: Subject, codes: Encoded) -> Iterator[Shown]:
    """Between pairs of held-out examples, by each kind of path."""
    _check_pool(codes, 2)
    n = min(SHOWN, len(codes.z) // 2)
    pairs = [(2 * i, 2 * i + 1) for i in range(n)]
    words = ", ".join(f"{named(subject, a)} to {named(subject, b)}" for a, b in pairs)
    x = subject.pool["x"]
    there = (1 - np.cos(np.linspace(0, np.pi, 2 * TURN + 1))) / 2
    for name, path in paths.PATHS.items():
        between = lambda t, path=path: np.stack([path(codes.z[a], codes.z[b], t) for a, b in pairs])
        z = between(np.linspace(0, 1, FRAMES))
        made = codes.decode(z.reshape(n * FRAMES, -1)).reshape(n, FRAMES, *x.shape[1:])
        ends = [np.stack([x[pair[side]] for pair in pairs])[:, None] for side in (0, 1)]
        still = picture(subject, ends[0], made, ends[1])
        written = [write(subject, f"interpolation_{name}", still)]
        # There and back, slowly at the ends.
        z = between(np.concatenate([there, there[::-1]])).swapaxes(0, 1)
        moving = codes.decode(z.reshape(-1, z.shape[-1])).reshape(*z.shape[:2], *x.shape[1:])
        written += animate(subject, f"interpolation_{name}", moving)
        yield Shown(
            written,
            f"{name.capitalize()} interpolation between the latents of held-out examples, "
            f"{codes.how}; the examples themselves stand at the ends. {in_order(subject)}: "
            f"{words}.",
        )


def walk(subject: Subject, codes: Encoded) -> Iterator[Shown]:
    """Round a smooth closed path through several encodings."""
    _check_pool(codes, 2)
    n = min(SHOWN, len(codes.z))
    x = codes.decode(paths.loop(codes.z[:n], TURN))
    rows, ends = x.reshape(n, TURN, *x.shape[1:])[:, ::2], subject.pool["x"][:n, None]
    if not is_image(x):
        # One line that closes.
        rows = np.concatenate([x, x[:1]])[None]
    written = [write(subject, "walk", picture(subject, ends, rows))]
    written += animate(subject, "walk", x[:, None])
    points = ", ".join(named(subject, i) for i in range(n))
    yield Shown(
        written,
        f"A walk: decodings along a smooth closed path through the latents of held-out examples "
        f"{points}, {codes.how}. Each row starts at the example to its left; the last leads back "
        "to the first.",
    )


def _check_pool(codes: Encoded, least: int) -> None:
    """Raises ZooError where there are fewer examples than an exploration needs."""
    if len(codes.z) < least:
        raise ZooError(f"it needs {least} examples, and these data hold one.")


def _check_cloud(codes: Encoded) -> None:
    """Raises ZooError where nothing tells how latents spread."""
    if len(codes.cloud) < 2:
        raise ZooError(
            "it moves latents over their spread, which neither a prior of the model nor a second "
            "example tells here."
        )


def _traversal(codes: Encoded, j: int) -> np.ndarray:
    """Decodings of code j over its quantiles, the others at rest: [VALUES, ...]."""
    at = paths.quantiles(codes.cloud[:, [j]], VALUES)[:, 0]
    return codes.decode(paths.sweep(codes.z[0], (j,), (at,)))


def _moved(codes: Encoded) -> dict[int, float]:
    """How much each code moves the decoding, as a variance a number; of very many codes, some."""
    L = codes.z.shape[1]
    tried = np.unique(np.linspace(0, L - 1, min(L, TRIED)).round().astype(int)).tolist()
    variance = lambda x: float(np.mean(x.reshape(len(x), -1).var(0)))
    return {j: variance(_traversal(codes, j)) for j in tried}


def sweep(subject: Subject, codes: Encoded) -> Iterator[Shown]:
    """Two codes over a grid of quantiles, all others at rest."""
    L = codes.z.shape[1]
    if L < 2:
        raise ZooError("it needs two latents, and this model has one; look at --what=traversal.")
    _check_cloud(codes)
    pair = subject.pair
    if pair is None:
        moved = _moved(codes) if L > 2 else {0: 0.0, 1: 0.0}
        first, second = sorted(sorted(moved, key=lambda j: -moved[j])[:2])
        pair = (first, second)
    if max(pair) >= L:
        raise ConfigError(f"--codes={pair[0]},{pair[1]}: this model has the codes 0 .. {L - 1}.")
    at = paths.quantiles(codes.cloud, GRID)[:, list(pair)]
    # The second code grows upwards, as on a plot.
    z = paths.sweep(codes.z[0], pair[::-1], (at[::-1, 1], at[:, 0]))
    x = codes.decode(z.reshape(GRID * GRID, L)).reshape(GRID, GRID, *subject.pool["x"].shape[1:])
    # Of the plane, the grid's other lines too.
    lines = [x] if is_image(x[0]) else [x, x.swapaxes(0, 1)]
    rest = "" if L == 2 else f"; the others are those of held-out example {named(subject, 0)}"
    yield Shown(
        [write(subject, "sweep", picture(subject, *lines))],
        f"A sweep of code {pair[0]} (to the right, {at[0, 0]:.2f} to {at[-1, 0]:.2f}) and "
        f"code {pair[1]} (upwards, {at[0, 1]:.2f} to {at[-1, 1]:.2f}) over {GRID} "
        f"quantiles of {codes.of_cloud}{rest}.",
    )


def traversal(subject: Subject, codes: Encoded) -> Iterator[Shown]:
    """Single codes over their quantiles, those that move the decoding most first."""
    _check_cloud(codes)
    moved = _moved(codes)
    order = sorted(moved, key=lambda j: -moved[j])[:CODES]
    x = np.stack([_traversal(codes, j) for j in order])
    variances = ", ".join(f"{j} ({moved[j]:.2g})" for j in order)
    L = codes.z.shape[1]
    tried = "" if len(moved) == L else f", of {len(moved)} that were tried"
    yield Shown(
        [write(subject, "traversal", picture(subject, x))],
        f"Traversals: one code a row, over {VALUES} quantiles of {codes.of_cloud}, the others "
        f"those of held-out example {named(subject, 0)}. {in_order(subject)}, with the variance a "
        f"number that each gives: {variances}; {len(order)} of {L} codes{tried}.",
    )


def algebra(subject: Subject, codes: Encoded) -> Iterator[Shown]:
    """What makes a label, added to examples of another."""
    if "label" not in subject.pool:
        raise ZooError("it takes means over labels, and these data have none.")
    labels = subject.pool["label"][: len(codes.z)]
    known = np.unique(labels)
    if len(known) < 2:
        raise ZooError("it needs examples of two labels, and the held-out data show one.")
    rows, words = [], []
    for k in range(min(SHOWN, len(known))):
        plus, minus, third = (int(known[(k + j) % len(known)]) for j in (1, 0, 2))
        mean = lambda label: codes.z[labels == label].mean(0)
        first = [int(np.flatnonzero(labels == label)[0]) for label in (minus, third)]
        moved = [paths.algebra(codes.z, labels, plus, minus, codes.z[i]) for i in first]
        z = [mean(plus), mean(minus), codes.z[first[0]], moved[0], codes.z[first[1]], moved[1]]
        rows.append(codes.decode(np.stack(z)))
        examples = " and ".join(named(subject, i) for i in first)
        moving = f"{called(subject, plus)} - {called(subject, minus)}"
        words.append(f"{moving}, added to {examples}")
    yield Shown(
        [write(subject, "algebra", picture(subject, *pairs_of_columns(np.stack(rows))))],
        "Algebra of labels: the decodings of the mean latents of two labels; of an example of the "
        "second, and of it plus the first mean minus the second; the same of an example of a third "
        f"label. Latents are those of {len(labels)} held-out examples, {codes.how}. "
        f"{in_order(subject)}: {'; '.join(words)}.",
    )


class Exploration(NamedTuple):
    """A row of the table.

    Attributes:
      show: (subject, its latents) -> what is shown; (subject) for one of samples.
      needs: "samples", "latents" that can be decoded, or real ones with "paths".
    """

    show: Callable[..., Iterator[Shown]]
    needs: Literal["samples", "latents", "paths"] = "paths"


EXPLORATIONS: Mapping[str, Exploration] = {
    "reconstructions": Exploration(reconstructions, "latents"),
    "interpolation": Exploration(interpolation),
    "walk": Exploration(walk),
    "sweep": Exploration(sweep),
    "traversal": Exploration(traversal),
    "algebra": Exploration(algebra),
    "completions": Exploration(completions.show, "samples"),
    "neighbours": Exploration(neighbours.show, "samples"),
}
