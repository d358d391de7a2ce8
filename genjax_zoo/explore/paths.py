"""Paths among latents, on vectors [..., L] of them. Floor 7.

Spherical interpolation is Shoemake, Animating rotation with quaternion curves, 1985, as White,
Sampling generative networks, 2016, applies it to latents; the algebra of labels is Radford, Metz &
Chintala, Unsupervised representation learning with DCGAN, 2016.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


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
