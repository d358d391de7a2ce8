"""A mixture of experts: of many MLPs, each token is read by a few.

    y = Σ_{e chosen} g_e MLP_e(x),     p = softmax(x W_router)

Shazeer et al. 2017 (arXiv:1701.06538); one expert a token: Fedus, Zoph & Shazeer 2022 (Switch,
arXiv:2101.03961), where g is p itself; with more, g is p among those chosen, so that they sum to 1
(Lepikhin et al. 2020, GShard, arXiv:2006.16668).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genjax_zoo.contract import Array
from genjax_zoo.nets.linear import wide


class Routed(NamedTuple):
    """What experts made of tokens.

    Attributes:
      y: [T, D]; 0 of a token that no expert has read.
      balance: E Σ_e f_e P_e [], f_e the share of choices that fell on e, P_e the mean of p_e: 1
        where both are even, E where one expert takes all (Fedus et al. 2022, equation 4).
      dropped: the share of choices that found their expert full [].
    """

    y: Array
    balance: Array
    dropped: Array


def route(
    x: Array,
    router: Array,
    read: Callable[[Array], Array],
    chosen: int,
    capacity: float = 0.0,
    counted: Array | None = None,
) -> Routed:
    """Sends each token to its likeliest experts.

    Args:
      x: tokens [T, D].
      router: [D, E].
      read: every expert's own MLP, [E, C, D] -> [E, C, D].
      chosen: how many experts read a token.
      capacity: an expert takes at most capacity × T × chosen / E choices, the first choices of all
        tokens before the second ones, and drops the rest; 0 drops none.
      counted: [T] bool, which tokens are any; None is all.
    """
    T, E = len(x), router.shape[1]
    p = jax.nn.softmax(wide(x) @ wide(router))
    gates, experts = jax.lax.top_k(p, chosen)
    if chosen > 1:
        gates = gates / jnp.sum(gates, axis=-1, keepdims=True)
    real = jnp.ones(T) if counted is None else jnp.asarray(counted, jnp.float32)
    total = jnp.maximum(jnp.sum(real), 1)
    # Choices in the order in which they are served: [chosen T].
    expert, gate = experts.T.reshape(-1), gates.T.reshape(-1)
    token = jnp.tile(jnp.arange(T), chosen)
    one_hot = jax.nn.one_hot(expert, E) * real[token][:, None]
    place = jnp.sum((jnp.cumsum(one_hot, axis=0) - one_hot) * one_hot, axis=1).astype(jnp.int32)
    room = min(T, math.ceil(capacity * T * chosen / E)) if capacity else T
    served = (place < room) & (real[token] > 0)
    slot = jnp.where(served, place, room)
    taken = jnp.zeros((E, room, x.shape[1]), x.dtype).at[expert, slot].set(x[token], mode="drop")
    made = read(taken).at[expert, slot].get(mode="fill", fill_value=0)
    weighed = made * jnp.where(served, gate, 0)[:, None].astype(made.dtype)
    share = jnp.sum(one_hot, axis=0) / (total * chosen)
    mean = jnp.sum(p * real[:, None], axis=0) / total
    return Routed(
        y=jnp.sum(weighed.reshape(chosen, T, -1), axis=0),
        balance=E * jnp.sum(share * mean),
        dropped=1 - jnp.sum(served) / (total * chosen),
    )
