"""The training examples nearest to samples: is what a model draws new? Floor 7."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import numpy as np

from genjax_zoo.contract import ZooError
from genjax_zoo.explore.pictures import Shown, picture, write
from genjax_zoo.explore.subject import Subject
from genjax_zoo.measure import samples
from genjax_zoo.measure.probes import check_shape
from genjax_zoo.run.record import plots

NEAREST, SIZE, BLOCK = 5, 500, 2000
"""Neighbours shown; samples compared, at most; training examples that are held at once."""
TRAINING = samples.TRAINING
"""Training examples that neighbours are looked for among: the first so many."""


def neighbours(x: np.ndarray, blocks: Iterator[np.ndarray], k: int) -> tuple[np.ndarray, ...]:
    """The k nearest of many examples, which come a block at a time.

    Args:
      x: [n, ...] what neighbours are looked for.
      blocks: arrays [m, ...] that make the examples.
      k: how many, nearest first.

    Returns:
      (the examples [n, k, ...], their numbers [n, k], distances [n, k]): Euclid's, and of integers,
      which are names, how many places differ.
    """
    rows, flat_x = np.arange(len(x))[:, None], np.asarray(x).reshape(len(x), -1)
    found = np.zeros((len(x), 0, *x.shape[1:]), x.dtype)
    numbers, apart, first = np.zeros((len(x), 0), int), np.zeros((len(x), 0)), 0
    for block in blocks:
        near, distance = _nearest(flat_x, np.asarray(block).reshape(len(block), -1), k)
        found = np.concatenate([found, np.asarray(block)[near]], 1)
        numbers = np.concatenate([numbers, near + first], 1)
        apart = np.concatenate([apart, distance], 1)
        order = np.argsort(apart, axis=1, kind="stable")[:, :k]
        found, numbers, apart = found[rows, order], numbers[rows, order], apart[rows, order]
        first += len(block)
    return found, numbers, apart


def _nearest(x: np.ndarray, y: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Which of y [m, D] are the k nearest to each x [n, D], and how far they are: [n, k] twice."""
    first = lambda distance: np.argsort(distance, axis=1, kind="stable")[:, :k]
    if np.issubdtype(x.dtype, np.integer):
        differ = np.stack([np.sum(row != y, axis=1) for row in x])
        near = first(differ)
        return near, np.take_along_axis(differ, near, 1).astype(float)
    x, y = x.astype(np.float64), y.astype(np.float64)
    # |x - y|² = |x|² + |y|² - 2 x·y finds them; the distance is computed from the difference.
    near = first(np.sum(x**2, 1)[:, None] + np.sum(y**2, 1) - 2 * x @ y.T)
    return near, np.linalg.norm(x[:, None] - y[near], axis=-1)


def show(subject: Subject) -> Iterator[Shown]:
    """Samples beside the training examples nearest to them, and how near held-out ones are."""
    source, training = subject.source, subject.source.training
    if training is None or source.size is None:
        drawn = "parts of texts" if source.tokenizer is not None else "drawn without end"
        raise ZooError(f"it looks among all training examples, and these data are {drawn}.")
    if source.size < 2:
        raise ZooError("it looks among training examples, and these data hold one.")
    key_sample, key_data = jax.random.split(jax.random.fold_in(subject.key, 1))
    held_out = subject.pool["x"]
    fake = samples.draw(subject.model, subject.state, key_sample, min(SIZE, len(held_out)))
    check_shape(fake, held_out.shape[1:])
    size = min(source.size, TRAINING)

    def blocks() -> Iterator[np.ndarray]:
        for first in range(0, size, BLOCK):
            key = jax.random.fold_in(key_data, first)
            yield np.asarray(training(key, first, min(first + BLOCK, size))["x"])

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
    distances = ", ".join(f"{d:.2f}" for d in near[shown, 0])
    integers = np.issubdtype(fake.dtype, np.integer)
    measure = "the places that differ" if integers else "Euclid's distance of their numbers"
    lines = {"samples": near[:, 0], "held-out examples": apart}
    compared = plots.histograms(lines, "distance to the nearest training example")
    yield Shown(
        [
            write(subject, "neighbours", picture(subject, fake[shown, None], found[shown])),
            write(subject, "distances", compared),
        ],
        f"Samples (left), each beside its {NEAREST} nearest of {size} training examples, "
        f"by {measure}. To the nearest, from the top: {distances}. Median over "
        f"{len(fake)} samples {median:.3f}, over {len(apart)} held-out examples {of_held_out:.3f}; "
        f"a sample is nearer than a held-out example with probability {nearer:.2f} (fresh ones .5, "
        f"copies 1), and {memorised:.0%} of the samples are nearer than all but 5% of these. "
        "Blurred samples are near too: nearness is a sign and no proof.",
        numbers,
    )
