"""An inverse autoregressive flow: a posterior that is no diagonal Gaussian.

    (m, s) = ARNN(z, h),    σ = sigmoid(s)
    z' = σ ⊙ z + (1 - σ) ⊙ m,    log|det dz'/dz| = Σ log σ

with m_i and s_i functions of z_1 ... z_{i-1} and of the condition h alone, so that the Jacobian is
triangular, and the dimensions reversed between two steps.

Kingma, Salimans, Jozefowicz, Chen, Sutskever & Welling, Improving variational inference with
inverse autoregressive flow, 2016 (arXiv:1606.04934), algorithm 1. Floor 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax_zoo.contract import Array, Key

_GATE = 2.0
"""s at the start: σ = 0.88, so that a fresh flow nearly lets z through (section 4 of the paper)."""


class Bijection(NamedTuple):
    """A pure pair with its log-determinant.

    Attributes:
      init: (key, z [B, L], condition [B, C] or None) -> params.
      forward: (params, z, condition) -> (z' [B, L], log|det dz'/dz| [B] nats).
      inverse: (params, z', condition) -> (z, log|det dz/dz'|).
    """

    init: Callable[..., Any]
    forward: Callable[..., tuple[Array, Array]]
    inverse: Callable[..., tuple[Array, Array]]


def iaf(width: int) -> Bijection:
    """One step, its ARNN with one masked hidden layer of `width` (Germain et al., MADE, 2015)."""

    def masks(size: int) -> tuple[np.ndarray, np.ndarray]:
        """Hidden unit j sees z_1 ... z_{d_j}, 0 <= d_j < L; output i sees the units of d_j < i."""
        degree = np.arange(width) % size
        place = np.arange(1, size + 1)
        return place[:, None] <= degree, np.tile(degree[:, None] < place, (1, 2))

    def init(key: Key, z: Array, condition: Array | None = None) -> dict[str, Array]:
        size = z.shape[-1]
        given = 0 if condition is None else condition.shape[-1]
        key_in, key_given, key_out = jax.random.split(key, 3)
        draw = lambda key, a, b, gain: gain * jax.random.normal(key, (a, b)) / max(a, 1) ** 0.5
        gate = jnp.full(size, _GATE, jnp.float32)
        return {
            "w_in": draw(key_in, size, width, 1.0),
            "w_given": draw(key_given, given, width, 1.0),
            "b_in": jnp.zeros(width),
            "w_out": draw(key_out, width, 2 * size, 0.1),
            "b_out": jnp.concatenate([jnp.zeros(size), gate]),
        }

    def arnn(p: dict[str, Array], z: Array, condition: Array | None) -> list[Array]:
        """m, s, each [B, L]."""
        mask_in, mask_out = masks(z.shape[-1])
        a = z @ (p["w_in"] * mask_in) + p["b_in"]
        if condition is not None:
            a += condition @ p["w_given"]
        return jnp.split(jnp.tanh(a) @ (p["w_out"] * mask_out) + p["b_out"], 2, axis=-1)

    def forward(params: Any, z: Array, condition: Array | None = None) -> tuple[Array, Array]:
        m, s = arnn(params, z, condition)
        gate = jax.nn.sigmoid(s)
        return gate * z + (1 - gate) * m, jnp.sum(jax.nn.log_sigmoid(s), axis=-1)

    def inverse(params: Any, z: Array, condition: Array | None = None) -> tuple[Array, Array]:
        # z_i = (z'_i - (1 - σ_i) m_i) / σ_i, whose m_i and σ_i need z_1 ... z_{i-1}: L rounds
        def refine(_: Array, known: Array) -> Array:
            m, s = arnn(params, known, condition)
            return m + (z - m) * (1 + jnp.exp(-s))

        back = jax.lax.fori_loop(0, z.shape[-1], refine, jnp.zeros_like(z))
        return back, -forward(params, back, condition)[1]

    return Bijection(init, forward, inverse)


def chain(steps: int, width: int) -> Bijection:
    """`steps` of `iaf`, with the dimensions reversed after each."""
    each = iaf(width)

    def init(key: Key, z: Array, condition: Array | None = None) -> list[Any]:
        return [each.init(key_step, z, condition) for key_step in jax.random.split(key, steps)]

    def forward(params: Any, z: Array, condition: Array | None = None) -> tuple[Array, Array]:
        log_det = jnp.zeros(z.shape[:-1])
        for p in params:
            z, more = each.forward(p, z, condition)
            z, log_det = z[..., ::-1], log_det + more
        return z, log_det

    def inverse(params: Any, z: Array, condition: Array | None = None) -> tuple[Array, Array]:
        log_det = jnp.zeros(z.shape[:-1])
        for p in params[::-1]:
            z, more = each.inverse(p, z[..., ::-1], condition)
            log_det += more
        return z, log_det

    return Bijection(init, forward, inverse)
