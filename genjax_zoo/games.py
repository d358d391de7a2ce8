"""Differentiable games: the field of the players' gradients, and the dynamics that move on it.

Floor 1. Player p has parameters θ_p and a loss L_p(θ) of all parameters, in nats for a GAN. The
players' own gradients make the field

    g(θ) = (∂L_1/∂θ_1, ..., ∂L_P/∂θ_P),        v = -g,

which is the gradient of no function: its Jacobian has an antisymmetric part, and along it plain
descent turns instead of arriving. A *dynamics* says how to move on it. Each takes the losses and
an optimizer and returns `(begin, move)`:

    begin: params -> optimizer state
    move:  (key, params, memory, optimizer, batch) -> (params, memory, optimizer, info)

With plain gradient descent of step h every move is θ ← θ - h d(θ), and the dynamics differ in the
direction d. Any optax optimizer may stand between the direction and the move; each player has its
own state of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from genjax_zoo.contract import Array, Batch, ConfigError, Info, Key
from genjax_zoo.typed import choose

Players = dict[str, Any]
"""{player: its parameters}."""
Losses = Callable[[Key, Players, Any, Batch], tuple[dict[str, Array], tuple[Any, Info]]]
"""(key, params, memory, batch) -> ({player: loss}, (memory, info))."""
Rule = tuple[Callable[[Players], Any], Callable[..., tuple[Players, Any, Any, Info]]]
"""(begin, move), as above."""
Dynamics = Callable[[Losses, optax.GradientTransformation], Rule]


def field(losses: Losses) -> Callable[..., tuple[Players, tuple[Any, Info]]]:
    """g(θ): each player's gradient of its own loss, the others held still.

    Returns a function (key, params, memory, batch) -> (g, (memory, info)), in which the losses
    are among the info. The losses' shared work is done once: one forward pass, pulled back once
    for each player.
    """

    def g(key: Key, params: Players, memory: Any, batch: Batch):
        values, pull, (memory, info) = jax.vjp(
            lambda p: losses(key, p, memory, batch), params, has_aux=True
        )
        own = {}
        for player in params:
            only = {q: jnp.full_like(value, float(q == player)) for q, value in values.items()}
            own[player] = pull(only)[0][player]
        named = {f"loss_{player}": value for player, value in values.items()}
        return own, (memory, {**named, **info})

    return g


def _begin(tx: optax.GradientTransformation) -> Callable[[Players], Any]:
    return lambda params: {player: tx.init(own) for player, own in params.items()}


def _apply(tx, direction: Players, optimizer: Any, params: Players) -> tuple[Players, Any]:
    """Moves the players named in `direction`, and no others."""
    params, optimizer = dict(params), dict(optimizer)
    for player, d in direction.items():
        updates, optimizer[player] = tx.update(d, optimizer[player], params[player])
        params[player] = optax.apply_updates(params[player], updates)
    return params, optimizer


def simultaneous() -> Dynamics:
    """d = g: every player moves at once, each as if the others stood still."""

    def dynamics(losses: Losses, tx: optax.GradientTransformation) -> Rule:
        def move(key, params, memory, optimizer, batch):
            g, (memory, info) = field(losses)(key, params, memory, batch)
            params, optimizer = _apply(tx, g, optimizer, params)
            return params, memory, optimizer, info

        return _begin(tx), move

    return dynamics


def alternating(order: tuple[str, ...] = ("discriminator", "generator"), k: int = 1) -> Dynamics:
    """d = g_p for one player p after another, each seeing the last one's move.

    Goodfellow et al. 2014, algorithm 1: the first of `order` moves k times, the others once.
    Every move draws its own noise; unlike there, all moves of a step see the same data.
    """
    if k < 1:
        raise ConfigError(f"alternating dynamics needs k >= 1 moves of {order[0]}, got k={k}.")
    turns = [order[0]] * k + list(order[1:])

    def dynamics(losses: Losses, tx: optax.GradientTransformation) -> Rule:
        def move(key, params, memory, optimizer, batch):
            told: Info = {}
            for turn, player in enumerate(turns):
                # The other players' gradients are not used, so the compiler leaves them out.
                g, (memory, info) = field(losses)(
                    jax.random.fold_in(key, turn), params, memory, batch
                )
                params, optimizer = _apply(tx, {player: g[player]}, optimizer, params)
                told |= info
            return params, memory, optimizer, told

        return _begin(tx), move

    return dynamics


def consensus(gamma: float) -> Dynamics:
    """d = g + γ ∇ ½‖g‖²: the players also agree to still the field.

    Mescheder, Nowozin & Geiger 2017, algorithm 1. ½‖g‖² is one scalar of all players' parameters,
    and its gradient Jᵀg is taken through all of them: the blocks of the Jacobian J off its
    diagonal are what turns rotation into contraction. `info` tells ‖g‖ as `field_norm`.
    """
    if gamma < 0:
        raise ConfigError(f"consensus optimization needs gamma >= 0, got gamma={gamma}.")

    def dynamics(losses: Losses, tx: optax.GradientTransformation) -> Rule:
        def move(key, params, memory, optimizer, batch):
            def half_square(theta):
                g, told = field(losses)(key, theta, memory, batch)
                return optax.tree.norm(g, squared=True) / 2, (g, told)

            # Reverse over reverse: the networks' convolutions know no forward mode.
            (L, (g, (kept, info))), grad_L = jax.value_and_grad(half_square, has_aux=True)(params)
            # d = g + γ ∇L
            d = jax.tree.map(lambda a, b: a + gamma * b, g, grad_L)
            params, optimizer = _apply(tx, d, optimizer, params)
            return params, kept, optimizer, {**info, "field_norm": jnp.sqrt(2 * L)}

        return _begin(tx), move

    return dynamics


@dataclasses.dataclass(frozen=True)
class Config:
    """Which dynamics, and its numbers; those of other dynamics are ignored.

    Attributes:
      name: one of `DYNAMICS`.
      gamma: γ, the weight of ½‖g‖² in consensus optimization.
      k: moves of the discriminator for one of the generator, when they alternate.
    """

    name: str = "alternating"
    gamma: float = 10.0
    k: int = 1

    def __post_init__(self):
        make(self)


DYNAMICS: dict[str, Callable[[Config], Dynamics]] = {
    "simultaneous": lambda c: simultaneous(),
    "alternating": lambda c: alternating(k=c.k),
    "consensus": lambda c: consensus(c.gamma),
}
"""One entry a dynamics: from its config to itself."""


def make(config: Config) -> Dynamics:
    """The dynamics that a config names; raises ConfigError where there is none of that name."""
    return choose(config.name, DYNAMICS, "dynamics")(config)
