"""What a model says of the plane, where its data are points: a density, and components.

Floor 6, by the contract alone. The density is drawn where it is known at once: exactly, or up to a
constant, and not by chains or draws. The components are those of whatever has classes behind its
data, p(k | x) being what its latents `encode` to: of draws x of p(x),

    μ_k = E[p(k | x) x] / p(k),     Σ_k = E[p(k | x) (x - μ_k)(x - μ_k)ᵀ] / p(k)

which for a mixture are the moments of p(x | k).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genjax_zoo.contract import Exactness, Key, Kind, Model, State, ZooError
from genjax_zoo.run.record.plots import Component, Frame, Plane

SIDE, DRAWS = 64, 20_000
"""Cells of a density, a side; draws that components are estimated from: of eight, each σ to 2 %."""
MOST, LEAST = 64, 1e-3
"""More components than this are not drawn, nor those that have less of the mass."""


def of_model(
    model: Model, where: jax.sharding.Sharding | None = None
) -> Callable[[Key, State, Frame], Plane]:
    """(key, state, frame) -> what the model says there: nothing, where nothing is known at once."""
    known = {Exactness.EXACT, Exactness.UNNORMALISED}
    measure = model.log_prob
    has_density = (
        measure is not None
        and measure.density
        and measure.once is None
        and measure.exactness in known
    )
    density = jax.jit(measure.value, out_shardings=where) if measure and has_density else None
    latents = model.latents
    classes = latents is not None and latents.space.kind is Kind.CATEGORICAL
    encode = latents.encode if latents is not None and classes else None

    def classed(key: Key, state: State) -> tuple[Any, Any]:
        """x [n, 2] ~ p(x), and p(k | x) [n, K]."""
        assert encode is not None
        x = model.sample(key, state, DRAWS)["x"]
        return x, encode(key, state, {"x": x})

    classes_of = jax.jit(classed, out_shardings=where) if encode is not None else None

    def plane(key: Key, state: State, frame: Frame) -> Plane:
        log_density, components = None, list[Component]()
        if density is not None:
            grid = frame.grid(SIDE).astype(np.float32)
            # One may want more of an example than its x, such as its label.
            with contextlib.suppress(ZooError):
                log_density = np.asarray(density(key, state, {"x": grid})).reshape(SIDE, SIDE)
        if classes_of is not None:
            x, share = classes_of(key, state)
            components = _moments(np.asarray(x, np.float64), share)
        return Plane(log_density, components)

    return plane


def _moments(x: np.ndarray, share: Any) -> list[Component]:
    """The mean and the covariance of each class: x [n, 2], p(k | x) [n, ..., K]; none of what are
    no probabilities, as codes are."""
    if not (isinstance(share, jax.Array) and jnp.issubdtype(share.dtype, jnp.floating)):
        return []
    share = np.asarray(share, np.float64).reshape(len(x), -1)
    if share.shape[1] > MOST:
        return []
    finite = np.isfinite(x).all(1) & np.isfinite(share).all(1)
    x, share = x[finite], share[finite]
    found = []
    for weights in share.T:
        if weights.sum() > max(LEAST * len(x), 1e-12):
            weights = weights / weights.sum()
            mean = weights @ x
            found.append(Component(mean, (weights[:, None] * (x - mean)).T @ (x - mean)))
    return found
