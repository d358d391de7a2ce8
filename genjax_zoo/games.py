"""Differentiable games: the field of the players' gradients, and the dynamics that move on it.

Floor 1. Player p has parameters θ_p and a loss L_p(θ) of all parameters. The players' own
gradients make the field

    g(θ) = (∂L_1/∂θ_1, ..., ∂L_P/∂θ_P),        v = -g,

which is the gradient of no function: its Jacobian has an antisymmetric part, and along it plain
descent turns instead of arriving. A *dynamics* says how to move on it. Each takes the losses and
an optimizer and returns `(begin, move)`:

    begin: params -> optimizer state
    move:  (key, params, memory, optimizer, batch) -> (params, memory, optimizer, info)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from genjax_zoo.contract import Array, Batch, ConfigError, Info, Key

Players = dict[str, Any]
"""{player: its parameters}."""
Losses = Callable[[Key, Players, Any, Batch], tuple[dict[str, Array], tuple[Any, Info]]]
"""(key, params, memory, batch) -> ({player: loss}, (memory, info))."""
Rule = tuple[Callable[[Players], Any], Callable[..., tuple[Players, Any, Any, Info]]]
Dynamics = Callable[[Losses, optax.GradientTransformation], Rule]


def field(losses: Losses) -> Callable[..., tuple[Players, tuple[Any, Info]]]:
    """g(θ): each player's gradient of its own loss, the others held still.

    Returns a function (key, params, memory, batch) -> (g, (memory, info)), in which the losses
    are among the info. The loss functions' shared work is done once: one forward pass is
    linearised, and pulled back once for each player.
    """

    def g(key: Key, params: Players, memory: Any, batch: Batch):
        values, pull, (memory, info) = jax.vjp(
            lambda p: losses(key, p, memory, batch), params, has_aux=True
        )
        own = {}
        for player in params:
            seed = {q: jnp.asarray(float(q == player), values[q].dtype) for q in values}
            own[player] = pull(seed)[0][player]
        named = {f"loss_{player}": value for player, value in values.items()}
        return own, (memory, {**named, **info})

    return g


def _begin(tx: optax.GradientTransformation) -> Callable[[Players], Any]:
    return lambda params: {player: tx.init(own) for player, own in params.items()}


def _apply(tx, gradients: Players, optimizer: Any, params: Players) -> tuple[Players, Any]:
    """Moves the players named in `gradients`, each with its own optimizer state."""
    params, optimizer = dict(params), dict(optimizer)
    for player, g in gradients.items():
        updates, optimizer[player] = tx.update(g, optimizer[player], params[player])
        params[player] = optax.apply_updates(params[player], updates)
    return params, optimizer


def simultaneous() -> Dynamics:
    """θ ← θ - h g(θ): every player moves at once."""

    def dynamics(losses: Losses, tx: optax.GradientTransformation) -> Rule:
        def move(key, params, memory, optimizer, batch):
            g, (memory, info) = field(losses)(key, params, memory, batch)
            params, optimizer = _apply(tx, g, optimizer, params)
            return params, memory, optimizer, info

        return _begin(tx), move

    return dynamics


def alternating(order: tuple[str, ...] = ("discriminator", "generator"), k: int = 1) -> Dynamics:
    """The players move in turn, each seeing the last one's move; the first moves `k` times.

    Goodfellow et al. 2014, algorithm 1, with fresh noise for every move and the same real batch.
    """
    if k < 1:
        raise ConfigError(f"alternating dynamics needs at least one move per turn, got k={k}.")

    def dynamics(losses: Losses, tx: optax.GradientTransformation) -> Rule:
        def move(key, params, memory, optimizer, batch):
            turns = [order[0]] * k + list(order[1:])
            told: Info = {}
            for turn, player in enumerate(turns):
                key_turn = jax.random.fold_in(key, turn)
                own = lambda p, key=key_turn, player=player, rest=params, memory=memory: (
                    lambda out: (out[0][player], (out[0], *out[1]))
                )(losses(key, {**rest, player: p}, memory, batch))
                g, (values, memory, info) = jax.grad(own, has_aux=True)(params[player])
                params, optimizer = _apply(tx, {player: g}, optimizer, params)
                told |= {f"loss_{p}": value for p, value in values.items()} | info
            return params, memory, optimizer, told

        return _begin(tx), move

    return dynamics


def consensus(gamma: float) -> Dynamics:
    """θ ← θ - h (g(θ) + γ ∇ ½‖g(θ)‖²): the players also agree to still the field.

    Mescheder, Nowozin & Geiger 2017, algorithm 1. The regulariser is one scalar of all players'
    parameters, and its gradient is taken through all of them, which is where the off-diagonal
    blocks of the Jacobian come in.
    """
    if gamma < 0:
        raise ConfigError(f"consensus optimization needs gamma >= 0, got {gamma}.")

    def dynamics(losses: Losses, tx: optax.GradientTransformation) -> Rule:
        def move(key, params, memory, optimizer, batch):
            def half_squared_norm(p):
                g, aux = field(losses)(key, p, memory, batch)
                return optax.tree.norm(g, squared=True) / 2, (g, aux)

            gradient = jax.grad(half_squared_norm, has_aux=True)
            regulariser, (g, (new_memory, info)) = gradient(params)
            bent = jax.tree.map(lambda a, r: a + gamma * r, g, regulariser)
            params, optimizer = _apply(tx, bent, optimizer, params)
            return params, new_memory, optimizer, info

        return _begin(tx), move

    return dynamics


DYNAMICS: dict[str, Callable[..., Dynamics]] = {
    "simultaneous": simultaneous,
    "alternating": alternating,
    "consensus": consensus,
}
