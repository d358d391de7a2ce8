"""Exploration: what the latents of a model mean, and whether its samples are new.

Floor 7. The mathematics of paths comes first, on vectors of latents [..., L]; then what is shown
of a model that was trained. Every picture has a caption that says what it is.

Spherical interpolation is Shoemake, Animating rotation with quaternion curves, 1985, as White,
Sampling generative networks, 2016, applies it to latents; the algebra of labels is Radford, Metz &
Chintala, Unsupervised representation learning with DCGAN, 2016; the inversion of a generator is
Lipton & Tripathi, Precise recovery of latent vectors from GANs, 2017, without their clipping.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genjax_zoo.contract import BINARY, REAL, Array, ConfigError, Key, Model, ZooError
from genjax_zoo.data.source import Source
from genjax_zoo.measure import samples
from genjax_zoo.models import ZOO
from genjax_zoo.run.record import pictures, workdir
from genjax_zoo.typed import choose

# ---------------------------------------------------------------------------- paths of latents


def linear(a: np.ndarray, b: np.ndarray, t: np.ndarray) -> np.ndarray:
    """(1 - t) a + t b: [L], [L], [T] -> [T, L]."""
    t = np.asarray(t)[:, None]
    return (1 - t) * a + t * b


def spherical(a: np.ndarray, b: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Along the great circle from a to b: [L], [L], [T] -> [T, L].

    The direction turns evenly through the angle ω between them, and the norm goes evenly from |a|
    to |b|: a straight path between draws of N(0, I) crosses the middle, where none of them lie.
    Where no one circle goes through both (parallel, opposite or no directions), it is linear.
    """
    a, b, t = (np.asarray(v, np.float64) for v in (a, b, t))
    long = np.linalg.norm(a), np.linalg.norm(b)
    if min(long) == 0:
        return linear(a, b, t)
    u, v = a / long[0], b / long[1]
    omega = np.arccos(np.clip(u @ v, -1, 1))
    if np.sin(omega) < 1e-6:
        return linear(a, b, t)
    t = t[:, None]
    # u(t) = [sin((1 - t) ω) u + sin(t ω) v] / sin ω
    direction = (np.sin((1 - t) * omega) * u + np.sin(t * omega) * v) / np.sin(omega)
    return ((1 - t) * long[0] + t * long[1]) * direction


PATHS = {"linear": linear, "spherical": spherical}


def loop(points: np.ndarray, steps: int) -> np.ndarray:
    """A smooth closed path through points [P, L] in their order: [P · steps, L].

    A Catmull-Rom spline: at a point the path runs as its two neighbours lie to each other. Every
    `steps`th place, from the first, is one of the points; the last is followed by the first.
    """
    t = (np.arange(steps) / steps)[:, None]
    before, here, after, beyond = (np.roll(points, shift, axis=0) for shift in (1, 0, -1, -2))
    pieces = [
        0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2
               + (3 * b - a - 3 * c + d) * t**3)
        for a, b, c, d in zip(before, here, after, beyond, strict=True)
    ]  # fmt: skip
    return np.concatenate(pieces)


def algebra(
    latents: np.ndarray, labels: np.ndarray, plus: int, minus: int, start: np.ndarray
) -> np.ndarray:
    """start + mean of the latents labelled `plus` - mean of those labelled `minus`: [..., L]."""
    mean = lambda label: latents[labels == label].mean(0)
    return start + mean(plus) - mean(minus)


def quantiles(cloud: np.ndarray, count: int) -> np.ndarray:
    """For each latent of a cloud [N, L], its quantiles at ½/count, 1½/count, ...: [count, L]."""
    return np.quantile(cloud, (np.arange(count) + 0.5) / count, axis=0)


def sweep(base: np.ndarray, codes: Sequence[int], values: Sequence[np.ndarray]) -> np.ndarray:
    """Copies of `base` [L] with some codes set: a grid [len(values[0]), len(values[1]), ..., L]."""
    grid = np.stack(np.meshgrid(*values, indexing="ij"), -1)
    out = np.broadcast_to(base, (*grid.shape[:-1], len(base))).copy()
    out[..., list(codes)] = grid
    return out


# ----------------------------------------------------------------- latents of whatever structure


class Flat(NamedTuple):
    """The latents of a model as vectors, whatever pytree they are.

    Attributes:
      of: latents -> [B, L].
      back: [B, L] -> latents.
      size: L.
    """

    of: Callable[[Any], Array]
    back: Callable[[Array], Any]
    size: int


def flat(like: Any) -> Flat:
    """How latents shaped as `like` (whose leading axis is a batch) become vectors, and back."""
    leaves, tree = jax.tree.flatten(like)
    sizes = [int(np.prod(leaf.shape[1:])) for leaf in leaves]

    def of(latents: Any) -> Array:
        parts = [jnp.asarray(leaf) for leaf in jax.tree.leaves(latents)]
        return jnp.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)

    def back(z: Array) -> Any:
        parts = jnp.split(z, np.cumsum(sizes)[:-1], axis=1)
        shaped = [
            part.reshape(len(z), *leaf.shape[1:]).astype(leaf.dtype)
            for part, leaf in zip(parts, leaves, strict=True)
        ]
        return jax.tree.unflatten(tree, shaped)

    return Flat(of, back, sum(sizes))


# ------------------------------------------------------------------- inversion and neighbours

STEPS, RATE, RESTARTS = 500, 0.05, 4
"""Of an inversion: Adam's steps, its first step size (it falls to 0 as a cosine), its starts."""


def invert(
    decode: Callable[[Array], Array],
    starts: Array,
    x: Array,
    steps: int = STEPS,
    rate: float = RATE,
) -> tuple[Array, Array]:
    """The latents that a decoder turns into given data, by gradient descent.

        z* = argmin_z |x - decode(z)|²       by Adam, from several starts; the best one is kept

    Args:
      decode: [N, L] -> [N, ...], each row by itself.
      starts: [R, B, L], such as draws of the prior.
      x: [B, ...].
      steps, rate: of Adam.

    Returns:
      (z* [B, L], |x - decode(z*)|² [B]).
    """
    R, B, L = starts.shape
    rate_of = optax.cosine_decay_schedule(rate, steps)
    adam = optax.adam(rate_of)

    def error(z: Array) -> Array:
        made = decode(z).reshape(R, B, -1)
        return jnp.sum((made - x.reshape(B, -1)) ** 2, axis=-1)

    def move(carry: tuple[Array, Any], _: None) -> tuple[tuple[Array, Any], None]:
        z, moments = carry
        # Adam moves each number by itself: the sum descends in every example and start alone.
        slope = jax.grad(lambda z: jnp.sum(error(z)))(z)
        by, moments = adam.update(slope, moments)
        return (optax.apply_updates(z, by), moments), None

    z = starts.reshape(R * B, L)
    (z, _), _ = jax.lax.scan(move, (z, adam.init(z)), None, length=steps)
    reached = error(z)
    best = jnp.argmin(jnp.where(jnp.isnan(reached), jnp.inf, reached), axis=0)
    rows = jnp.arange(B)
    return z.reshape(R, B, L)[best, rows], reached[best, rows]


def neighbours(x: np.ndarray, blocks: Iterator[np.ndarray], k: int) -> tuple[np.ndarray, ...]:
    """The k nearest of many examples, which come a block at a time.

    Args:
      x: [n, ...] what neighbours are looked for.
      blocks: arrays [m, ...] that make the examples.
      k: how many, nearest first.

    Returns:
      (the examples [n, k, ...], their numbers [n, k], Euclid's distances [n, k]).
    """
    rows, flat_x = np.arange(len(x))[:, None], np.asarray(x, np.float64).reshape(len(x), -1)
    found = np.zeros((len(x), 0, *x.shape[1:]), x.dtype)
    numbers, apart, first = np.zeros((len(x), 0), int), np.zeros((len(x), 0)), 0
    for block in blocks:
        y = np.asarray(block, np.float64).reshape(len(block), -1)
        # |x - y|² = |x|² + |y|² - 2 x·y finds them; what is told is computed from the difference.
        squared = np.sum(flat_x**2, 1)[:, None] + np.sum(y**2, 1) - 2 * flat_x @ y.T
        near = np.argsort(squared, axis=1, kind="stable")[:, :k]
        distance = np.linalg.norm(flat_x[:, None] - y[near], axis=-1)
        found = np.concatenate([found, np.asarray(block)[near]], 1)
        numbers = np.concatenate([numbers, near + first], 1)
        apart = np.concatenate([apart, distance], 1)
        order = np.argsort(apart, axis=1, kind="stable")[:, :k]
        found, numbers, apart = found[rows, order], numbers[rows, order], apart[rows, order]
        first += len(block)
    return found, numbers, apart


# ------------------------------------------------------------------------------ what is shown

POOL, INVERTED = 500, 64
"""Held-out examples that are encoded, at most; by inversion, which is dear, so many."""
SHOWN, FRAMES, TURN = 6, 9, 16
"""Rows of a picture; images of a path in a row; frames of an animation between two examples."""
GRID, CODES, VALUES = 15, 10, 11
"""Images a side of a sweep; codes that are traversed, at most, and the values each takes."""
CLOUD, NEAREST, SIZE = 4096, 5, 500
"""Draws of the prior, for its quantiles; neighbours shown; samples compared, at most."""
TRAINING = samples.TRAINING
"""Training examples that neighbours are looked for among: the first so many."""
STREAM = 2**32 - 16
"""The stream of keys, apart from those of run/loop.py."""


class Entry(NamedTuple):
    """What one exploration gave, as explore.json holds it.

    Attributes:
      what: one of EXPLORATIONS.
      files: names of its pictures, in the folder of explore.json.
      caption: which examples, which latents, which distance.
      numbers: by name; empty for most.
    """

    what: str
    files: list[str]
    caption: str
    numbers: Mapping[str, float] = {}


class Subject(NamedTuple):
    """A trained model, and what its explorations share.

    Attributes:
      model, state, source, key: as everywhere; `key` is the exploration's own.
      pool: held-out examples, as numpy arrays; in a random order, those of all labels first.
      number: which held-out example each of them is.
      folder: where the files go.
      pair: the two codes that a sweep moves; None for those that move the decoding most.
    """

    model: Model
    state: Any
    source: Source
    key: Key
    pool: Mapping[str, np.ndarray]
    number: np.ndarray
    folder: pathlib.Path
    pair: tuple[int, int] | None = None


class Encoded(NamedTuple):
    """Held-out examples and their latents.

    Attributes:
      z: the latents of the first examples of the pool, as vectors [N, L].
      decode: [N, L] -> x [N, ...].
      how: in words, how they were found.
      cloud: where latents lie [M, L]: draws of the prior where it is known, else z.
      of_cloud: in words, what the cloud is.
    """

    z: np.ndarray
    decode: Callable[[np.ndarray], np.ndarray]
    how: str
    cloud: np.ndarray
    of_cloud: str


def begin(
    model: Model,
    state: Any,
    source: Source,
    key: Key,
    folder: pathlib.Path,
    pair: tuple[int, int] | None = None,
) -> Subject:
    """Chooses the held-out examples; raises nothing."""
    key_data, key_order, key = jax.random.split(key, 3)
    size = min(POOL, source.held_out_size)
    held_out = source.held_out(key_data, 0, size)
    pool = {name: np.asarray(value) for name, value in held_out.items()}
    number = np.asarray(jax.random.permutation(key_order, size))
    if "label" in pool:
        # Stably, by how many of its label came before: examples of all labels first.
        label, before = pool["label"][number], np.empty(size, int)
        for value in np.unique(label):
            before[label == value] = np.arange(np.sum(label == value))
        number = number[np.argsort(before, kind="stable")]
    pool = {name: value[number] for name, value in pool.items()}
    return Subject(model, state, source, key, pool, number, folder, pair)


def families() -> list[str]:
    """The families whose latents can be decoded and lie on paths, read off the roster."""
    able = []
    for name, family in ZOO.items():
        model = family.make(family.Config(), optax.sgd(0.0))
        if model.latents is not None and model.latents.space == REAL:
            able.append(name)
    return able


def _check(model: Model, what: str) -> None:
    """Raises ZooError for what cannot be shown of a model."""
    if what != "neighbours" and model.latents is None:
        raise ZooError(
            "the model has no decode to see latents by; families that have it, with real latents: "
            f"{', '.join(families())}."
        )
    if what not in ("neighbours", "reconstructions") and model.latents.space != REAL:
        raise ZooError(
            f"the latents of this model are {model.latents.space}, and there is no path between "
            f"such codes; families with real ones: {', '.join(families())}."
        )


def encode(subject: Subject) -> Encoded:
    """The latents of the pool: by the model's encode, or else by inversion of its decode."""
    state, latent = subject.state, subject.model.latents
    assert latent is not None
    key_encode, key_cloud = jax.random.split(subject.key)
    key_decode = jax.random.fold_in(subject.key, 2)
    prior = None
    if latent.prior is not None:
        prior = jax.jit(latent.prior, static_argnums=2)(key_cloud, state, CLOUD)
    if latent.encode is not None:
        latents = jax.jit(latent.encode)(key_encode, state, subject.pool)
        own = flat(latents)
        how = "encoded"
    elif prior is not None:
        latents, own = None, flat(prior)
        how = f"found by inversion ({RESTARTS} starts, {STEPS} steps of Adam)"
    else:
        raise ZooError(
            "this model has decode, but neither encode nor prior: nothing tells what its latents "
            "look like; give the family's Model one of them."
        )
    decode = jax.jit(lambda state, z: latent.decode(key_decode, state, own.back(z))["x"])
    if latents is None:
        x = subject.pool["x"][:INVERTED]
        starts = own.of(prior)[: RESTARTS * len(x)].reshape(RESTARTS, len(x), own.size)
        z, _ = jax.jit(lambda s, starts, x: invert(functools.partial(decode, s), starts, x))(
            state, starts, x
        )
    else:
        z = own.of(latents)
    z = np.asarray(z)
    return Encoded(
        z,
        lambda z: np.asarray(decode(state, jnp.asarray(z, jnp.float32))),
        how,
        z if prior is None else np.asarray(own.of(prior)),
        f"these {len(z)} latents" if prior is None else "the prior",
    )


def _named(subject: Subject, i: int) -> str:
    """Held-out example i of the pool, in words."""
    label = f" (label {int(subject.pool['label'][i])})" if "label" in subject.pool else ""
    return f"{int(subject.number[i])}{label}"


def _is_image(x: np.ndarray) -> bool:
    return x.ndim == 4 and x.shape[-1] in (1, 3)


def _picture(subject: Subject, *blocks: np.ndarray) -> np.ndarray:
    """Blocks [rows, columns, ...] side by side; points and series in one frame of the data."""
    low, high = subject.source.interval
    flattened = [b.reshape(-1, *b.shape[2:]) for b in blocks]
    if _is_image(flattened[0]):
        parts = [
            pictures.grid(x, block.shape[1], low, high)
            for x, block in zip(flattened, blocks, strict=True)
        ]
        return pictures.beside(*parts)
    if flattened[0].shape[1:] == (2,):
        # A row is a path; those of all blocks have the same colours.
        return pictures.trails([row for block in blocks for row in block], subject.pool["x"])
    return pictures.picture(np.concatenate(flattened), subject.pool["x"], low, high)


def _first(subject: Subject) -> str:
    """Where a caption's list of rows begins."""
    return "From the top" if _is_image(subject.pool["x"]) else "In turn"


def _write(subject: Subject, name: str, pixels: np.ndarray) -> str:
    return pictures.write_png(subject.folder / f"{name}.png", pixels).name


def _animate(subject: Subject, name: str, frames: np.ndarray) -> list[str]:
    """Frames [T, N, ...], N things side by side, as a GIF; nothing for what is no image."""
    if not _is_image(frames[0]):
        return []
    low, high = subject.source.interval
    film = [pictures.grid(x, min(len(x), 3), low, high) for x in frames]
    factor = max(1, 240 // max(film[0].shape[:2]))
    film = [frame.repeat(factor, 0).repeat(factor, 1) for frame in film]
    return [pictures.write_gif(subject.folder / f"{name}.gif", film).name]


Told = tuple[list[str], str, dict[str, float]]
"""Files, caption and numbers of one picture."""


def _reconstructions(subject: Subject, codes: Encoded) -> Iterator[Told]:
    """Held-out examples, and beside each what its latents decode to."""
    x = subject.pool["x"][: len(codes.z)]
    made = codes.decode(codes.z)
    error = np.mean((made - x).reshape(len(x), -1) ** 2)
    n = min(24, len(x))
    pairs = np.stack([x[:n], made[:n]], 1)
    rows = pairs.reshape(-1, 8, *x.shape[1:]) if n % 4 == 0 else pairs
    yield (
        [_write(subject, "reconstructions", _picture(subject, *_columns(rows)))],
        f"Held-out examples, each beside the decoding of its latents, {codes.how}. Mean squared "
        f"error {error:.4g} a number, over {len(x)} examples.",
        {"squared error a number": float(error)},
    )


def _columns(rows: np.ndarray) -> list[np.ndarray]:
    """Rows [R, C, ...] cut into pairs of columns."""
    return [rows[:, first : first + 2] for first in range(0, rows.shape[1], 2)]


def _interpolation(subject: Subject, codes: Encoded) -> Iterator[Told]:
    """Between pairs of held-out examples, by each kind of path."""
    n = min(SHOWN, len(codes.z) // 2)
    pairs = [(2 * i, 2 * i + 1) for i in range(n)]
    told = ", ".join(f"{_named(subject, a)} to {_named(subject, b)}" for a, b in pairs)
    x = subject.pool["x"]
    there = (1 - np.cos(np.linspace(0, np.pi, 2 * TURN + 1))) / 2
    for name, path in PATHS.items():
        between = lambda t, path=path: np.stack([path(codes.z[a], codes.z[b], t) for a, b in pairs])
        z = between(np.linspace(0, 1, FRAMES))
        made = codes.decode(z.reshape(n * FRAMES, -1)).reshape(n, FRAMES, *x.shape[1:])
        ends = [np.stack([x[pair[side]] for pair in pairs])[:, None] for side in (0, 1)]
        picture = _picture(subject, ends[0], made, ends[1])
        written = [_write(subject, f"interpolation_{name}", picture)]
        # There and back, slowly at the ends.
        z = between(np.concatenate([there, there[::-1]])).swapaxes(0, 1)
        moving = codes.decode(z.reshape(-1, z.shape[-1])).reshape(*z.shape[:2], *x.shape[1:])
        written += _animate(subject, f"interpolation_{name}", moving)
        yield (
            written,
            f"{name.capitalize()} interpolation between the latents of held-out examples, "
            f"{codes.how}; the examples themselves stand at the ends. {_first(subject)}: {told}.",
            {},
        )


def _walk(subject: Subject, codes: Encoded) -> Iterator[Told]:
    """Round a smooth closed path through several encodings."""
    n = min(SHOWN, len(codes.z))
    x = codes.decode(loop(codes.z[:n], TURN))
    rows, ends = x.reshape(n, TURN, *x.shape[1:])[:, ::2], subject.pool["x"][:n, None]
    if not _is_image(x):
        # One line that closes.
        rows = np.concatenate([x, x[:1]])[None]
    written = [_write(subject, "walk", _picture(subject, ends, rows))]
    written += _animate(subject, "walk", x[:, None])
    told = ", ".join(_named(subject, i) for i in range(n))
    yield (
        written,
        f"A walk: decodings along a smooth closed path through the latents of held-out examples "
        f"{told}, {codes.how}. Each row starts at the example to its left; the last leads back to "
        "the first.",
        {},
    )


def _traversals(subject: Subject, codes: Encoded) -> tuple[np.ndarray, np.ndarray]:
    """Decodings of each code over its quantiles [L, VALUES, ...], and how they vary [L]."""
    at, base = quantiles(codes.cloud, VALUES), codes.z[0]
    x = [codes.decode(sweep(base, (j,), (at[:, j],))) for j in range(len(base))]
    shown = np.stack(x)
    return shown, np.mean(shown.reshape(*shown.shape[:2], -1).var(1), axis=1)


def _sweep(subject: Subject, codes: Encoded) -> Iterator[Told]:
    """Two codes over a grid of quantiles, all others at rest."""
    L = codes.z.shape[1]
    if L < 2:
        raise ZooError(
            "sweep: needs two latents, and this model has one; look at --what=traversal."
        )
    pair = subject.pair
    if pair is None:
        moved = _traversals(subject, codes)[1] if L > 2 else np.zeros(L)
        pair = tuple(sorted(np.argsort(-moved, kind="stable")[:2].tolist()))
    if max(pair) >= L:
        raise ConfigError(f"--codes={pair[0]},{pair[1]}: this model has the codes 0 .. {L - 1}.")
    at = quantiles(codes.cloud, GRID)[:, list(pair)]
    # The second code grows upwards, as on a plot.
    z = sweep(codes.z[0], pair[::-1], (at[::-1, 1], at[:, 0]))
    x = codes.decode(z.reshape(GRID * GRID, L)).reshape(GRID, GRID, *subject.pool["x"].shape[1:])
    # Of the plane, the grid's other lines too.
    lines = [x] if _is_image(x[0]) else [x, x.swapaxes(0, 1)]
    rest = "" if L == 2 else f"; the others are those of held-out example {_named(subject, 0)}"
    yield (
        [_write(subject, "sweep", _picture(subject, *lines))],
        f"A sweep of code {pair[0]} (to the right, {at[0, 0]:.2f} to {at[-1, 0]:.2f}) and "
        f"code {pair[1]} (upwards, {at[0, 1]:.2f} to {at[-1, 1]:.2f}) over {GRID} "
        f"quantiles of {codes.of_cloud}{rest}.",
        {},
    )


def _traversal(subject: Subject, codes: Encoded) -> Iterator[Told]:
    """Single codes over their quantiles, those that move the decoding most first."""
    x, moved = _traversals(subject, codes)
    order = np.argsort(-moved, kind="stable")[:CODES]
    told = ", ".join(f"{j} ({moved[j]:.2g})" for j in order)
    yield (
        [_write(subject, "traversal", _picture(subject, x[order]))],
        f"Traversals: one code a row, over {VALUES} quantiles of {codes.of_cloud}, the others "
        f"those of held-out example {_named(subject, 0)}. {_first(subject)}, with the variance a "
        f"number that each gives: {told}; {len(order)} of {len(x)} codes.",
        {},
    )


def _algebra(subject: Subject, codes: Encoded) -> Iterator[Told]:
    """What makes a label, added to examples of another."""
    if "label" not in subject.pool:
        raise ZooError("it takes means over labels, and these data have none.")
    labels = subject.pool["label"][: len(codes.z)]
    known = np.unique(labels)
    if len(known) < 2:
        raise ZooError("it needs examples of two labels, and the held-out data show one.")
    rows, told = [], []
    for k in range(min(SHOWN, len(known))):
        plus, minus, third = (int(known[(k + j) % len(known)]) for j in (1, 0, 2))
        mean = lambda label: codes.z[labels == label].mean(0)
        first = [int(np.flatnonzero(labels == label)[0]) for label in (minus, third)]
        moved = [algebra(codes.z, labels, plus, minus, codes.z[i]) for i in first]
        z = [mean(plus), mean(minus), codes.z[first[0]], moved[0], codes.z[first[1]], moved[1]]
        rows.append(codes.decode(np.stack(z)))
        examples = " and ".join(_named(subject, i) for i in first)
        told.append(f"{plus} - {minus}, added to {examples}")
    yield (
        [_write(subject, "algebra", _picture(subject, *_columns(np.stack(rows))))],
        "Algebra of labels: the decodings of the mean latents of two labels; of an example of the "
        "second, and of it plus the first mean minus the second; the same of an example of a third "
        f"label. Latents are those of {len(labels)} held-out examples, {codes.how}. "
        f"{_first(subject)}: {'; '.join(told)}.",
        {},
    )


def _neighbours(subject: Subject) -> Iterator[Told]:
    """Samples beside the training examples nearest to them, and how near held-out ones are."""
    source, training = subject.source, subject.source.training
    if training is None or source.size is None:
        raise ZooError(
            f"neighbours: {source.name or 'these data'} have no end of training examples."
        )
    key_sample, key_data = jax.random.split(jax.random.fold_in(subject.key, 1))
    held_out = subject.pool["x"]
    fake = samples.draw(subject.model, subject.state, key_sample, min(SIZE, len(held_out)))
    if fake.shape[1:] != held_out.shape[1:]:
        raise ZooError(
            f"samples have the shape {list(fake.shape[1:])} and the data "
            f"{list(held_out.shape[1:])}; only samples of the data's shape can be compared."
        )
    told_as = ""
    if subject.model.spaces["x"] == BINARY and not np.isin(fake, (0, 1)).all():
        # Means of binary numbers lie between the data, and nearer to each than a draw does.
        key_draw = jax.random.fold_in(key_sample, 2**31)
        fake = np.asarray(jax.random.bernoulli(key_draw, fake), fake.dtype)
        told_as = ", drawn from their means as the data are binary"
    size = min(source.size, TRAINING)

    def blocks() -> Iterator[np.ndarray]:
        for first in range(0, size, 2000):
            key = jax.random.fold_in(key_data, first)
            yield np.asarray(training(key, first, min(first + 2000, size))["x"])

    found, _, near = neighbours(fake, blocks(), NEAREST)
    _, _, apart = neighbours(held_out, blocks(), 1)
    apart, shown = apart[:, 0], slice(0, 10)
    nearer = np.mean((near[:, :1] < apart) + 0.5 * (near[:, :1] == apart))
    memorised = float(np.mean(near[:, 0] < np.quantile(apart, 0.05)))
    numbers = {
        "median distance of samples": float(np.median(near[:, 0])),
        "median distance of held-out examples": float(np.median(apart)),
        "memorised": memorised,
        "probability that a sample is nearer": float(nearer),
    }
    median, of_held_out, *_ = numbers.values()
    told = ", ".join(f"{d:.2f}" for d in near[shown, 0])
    yield (
        [
            _write(subject, "neighbours", _picture(subject, fake[shown, None], found[shown])),
            _write(
                subject,
                "distances",
                pictures.histograms(
                    {"samples": near[:, 0], "held-out examples": apart},
                    "distance to the nearest training example",
                ),
            ),
        ],
        f"Samples{told_as} (left), each beside its {NEAREST} nearest of {size} training examples, "
        f"by Euclid's distance of their numbers. To the nearest, from the top: {told}. Median over "
        f"{len(fake)} samples {median:.3f}, over {len(apart)} held-out examples {of_held_out:.3f}; "
        f"a sample is nearer than a held-out example with probability {nearer:.2f} (fresh ones .5, "
        f"copies 1), and {memorised:.0%} of the samples are nearer than all but 5% of these. "
        "Blurred samples are near too: nearness is a sign and no proof.",
        numbers,
    )


SHOW: dict[str, Callable[[Subject, Encoded], Iterator[Told]]] = {
    "reconstructions": _reconstructions,
    "interpolation": _interpolation,
    "walk": _walk,
    "sweep": _sweep,
    "traversal": _traversal,
    "algebra": _algebra,
}
EXPLORATIONS = (*SHOW, "neighbours")


def explore(
    subject: Subject, what: Sequence[str] = ("all",), step: int = 0
) -> tuple[list[Entry], list[str]]:
    """Writes the pictures, and explore.json with what each is.

    Args:
      subject: the model, from `begin`.
      what: names of EXPLORATIONS, or "all": then what cannot be shown is left out.
      step: how long the model has learnt.

    Returns:
      (what was written, a sentence for each reason why something of "all" was left out).

    Raises:
      ConfigError: for a name that is unknown.
      ZooError: for an exploration asked for by name that the model or the data cannot give.
    """
    everything = "all" in what
    for name in what:
        choose(name, dict.fromkeys(("all", *EXPLORATIONS)), "exploration")
    entries: list[Entry] = []
    why: dict[str, list[str]] = {}
    codes: Encoded | None = None
    for name in EXPLORATIONS:
        if not everything and name not in what:
            continue
        try:
            _check(subject.model, name)
            if name == "neighbours":
                shown = _neighbours(subject)
            else:
                codes = codes or encode(subject)
                shown = SHOW[name](subject, codes)
            entries += [Entry(name, *told) for told in shown]
        except ConfigError:
            raise
        except ZooError as error:
            if not everything:
                raise ZooError(f"{name}: {error}") from error
            why.setdefault(str(error), []).append(name)
    left_out = [f"{', '.join(names)}: {reason}" for reason, names in why.items()]
    told = {"step": step, "entries": [entry._asdict() for entry in entries], "left_out": left_out}
    workdir.write_json(subject.folder / "explore.json", told)
    return entries, left_out
