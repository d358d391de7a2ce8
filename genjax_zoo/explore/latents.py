"""The latents of a model as vectors, whatever they are, and how data get there.

Floor 7. Where nothing encodes, the decoder is inverted: Lipton & Tripathi, Precise recovery of
latent vectors from GANs, 2017, without their clipping.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genjax_zoo.contract import Array, ZooError
from genjax_zoo.explore.subject import Subject

STEPS, RATE, RESTARTS = 500, 0.05, 4
"""Of an inversion: Adam's steps, its first step size (it falls to 0 as a cosine), its starts."""
INVERTED = 64
"""Held-out examples whose latents are found by inversion, which is dear, at most."""
CLOUD = 4096
"""Draws of the prior, for its quantiles."""


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
