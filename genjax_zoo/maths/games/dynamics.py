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

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

from genjax_zoo import typed
from genjax_zoo.contract import Array, Batch, ConfigError, Info, Key
from genjax_zoo.typed import MOST_LAYERS, choose, number

Players = dict[str, Any]
"""{player: its parameters}."""
Losses = Callable[[Key, Players, Any, Batch], tuple[dict[str, Array], tuple[Any, Info]]]
"""(key, params, memory, batch) -> ({player: loss}, (memory, info)); the memory, if there is any, is
a dict of what each player remembers."""
Field = Callable[..., tuple[Players, tuple[Any, Info]]]
"""(key, params, memory, batch) -> (a direction for each player, (memory, info))."""
Optimizers: TypeAlias = optax.GradientTransformation | Mapping[str, optax.GradientTransformation]
"""One for all players, or {player: its own}. Each player has its own state of it."""
Rule = tuple[Callable[[Players], Any], Callable[..., tuple[Players, Any, Any, Info]]]
"""(begin, move), as above."""
Dynamics = Callable[[Losses, Optimizers], Rule]


def field(losses: Losses) -> Field:
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


def _of_each(tx: Optimizers, players: Players) -> dict[str, optax.GradientTransformation]:
    """Every player's own optimizer."""
    return dict(tx) if isinstance(tx, Mapping) else dict.fromkeys(players, tx)


def _begin(tx: Optimizers) -> Callable[[Players], Any]:
    def begin(params: Players) -> dict[str, Any]:
        own = _of_each(tx, params)
        return {player: own[player].init(theta) for player, theta in params.items()}

    return begin


def _apply(tx: Optimizers, direction: Players, optimizer: Any, params: Players):
    """Moves the players named in `direction`, and no others; also tells their updates."""
    own, params, optimizer, updates = _of_each(tx, params), dict(params), dict(optimizer), {}
    for player, d in direction.items():
        updates[player], optimizer[player] = own[player].update(
            d, optimizer[player], params[player]
        )
        params[player] = optax.apply_updates(params[player], updates[player])
    return params, optimizer, updates


def _following(direction: Callable[[Losses], Field]) -> Dynamics:
    """The dynamics of all players moving at once along one direction d of the losses."""

    def dynamics(losses: Losses, tx: Optimizers) -> Rule:
        def move(key, params, memory, optimizer, batch):
            d, (memory, info) = direction(losses)(key, params, memory, batch)
            params, optimizer, _ = _apply(tx, d, optimizer, params)
            return params, memory, optimizer, info

        return _begin(tx), move

    return dynamics


def simultaneous() -> Dynamics:
    """d = g: every player moves at once, each as if the others stood still."""
    return _following(field)


def alternating(order: tuple[str, ...] = ("discriminator", "generator"), k: int = 1) -> Dynamics:
    """d = g_p for one player p after another, each seeing the last one's move.

    Goodfellow et al. 2014, algorithm 1: the first of `order` moves k times, on k equal parts of
    the batch in turn, the others once, on the first part. Every move draws its own noise. A
    player's memory and loss are those of its own moves.

    Raises ConfigError where k parts do not divide the batch.
    """
    turns = [(order[0], part) for part in range(k)] + [(player, 0) for player in order[1:]]

    def dynamics(losses: Losses, tx: Optimizers) -> Rule:
        def move(key, params, memory, optimizer, batch):
            logged: Info = {}
            for turn, (player, part) in enumerate(turns):
                # The other players' gradients are not used, so the compiler leaves them out.
                g, (new, info) = field(losses)(
                    jax.random.fold_in(key, turn), params, memory, part_of(batch, part, k)
                )
                params, optimizer, _ = _apply(tx, {player: g[player]}, optimizer, params)
                memory = {**memory, player: new[player]} if memory else new
                others = {f"loss_{other}" for other in params if other != player}
                logged = {name: v for name, v in info.items() if name not in others} | logged
            return params, memory, optimizer, logged

        return _begin(tx), move

    return dynamics


def part_of(batch: Batch, part: int, parts: int) -> Batch:
    """Every `parts`-th example from the `part`-th on; devices that share a batch share its parts.

    Raises ConfigError where the parts would not be equal.
    """
    size = jax.tree.leaves(batch)[0].shape[0] if jax.tree.leaves(batch) else 0
    if size % parts:
        raise ConfigError(
            f"{parts} moves on equal parts of the data do not divide a batch of {size}; choose "
            "config.data.batch_size as a multiple of dynamics.k."
        )
    return jax.tree.map(lambda leaf: leaf[part::parts], batch) if parts > 1 else batch


def consensus(gamma: float) -> Dynamics:
    """d = g + γ ∇ ½‖g‖²: the players also agree to still the field.

    Mescheder, Nowozin & Geiger 2017, algorithm 1. ½‖g‖² is one scalar of all players' parameters,
    and its gradient Jᵀg is taken through all of them: the blocks of the Jacobian J off its
    diagonal are what turns rotation into contraction. `info` has ‖g‖ as `field_norm`.
    """

    def direction(losses: Losses):
        def d(key, params, memory, batch):
            def half_square(theta):
                g, rest = field(losses)(key, theta, memory, batch)
                return optax.tree.norm(g, squared=True) / 2, (g, rest)

            # Reverse over reverse: the networks' convolutions know no forward mode.
            (L, (g, (kept, info))), grad_L = jax.value_and_grad(half_square, has_aux=True)(params)
            # d = g + γ ∇L
            bent = jax.tree.map(lambda a, b: a + gamma * b, g, grad_L)
            return bent, (kept, {**info, "field_norm": jnp.sqrt(2 * L)})

        return d

    return _following(direction)


def symplectic(gamma: float = 1.0, align: bool = True) -> Dynamics:
    """d = g + λ Aᵀg, A = ½(J - Jᵀ): what turns the field is turned against it.

    Symplectic gradient adjustment, Balduzzi et al. 2018, algorithm 1. With their sign criterion λ
    is ±γ, the sign that of ⟨g, ∇L⟩⟨Aᵀg, ∇L⟩ / P + ε, where L = ½‖g‖², P counts parameters and
    ε = .1: to a stable fixed point the adjustment pulls, from an unstable one it pushes away.

    Args:
      gamma: |λ|.
      align: whether λ takes the sign of the criterion; without it λ = γ.
    """

    def direction(losses: Losses):
        def d(key, params, memory, batch):
            of_params = lambda theta: field(losses)(key, theta, memory, batch)
            g, transposed, (kept, info) = jax.vjp(of_params, params, has_aux=True)
            (Jt_g,) = transposed(g)
            # J g is the transpose of u ↦ Jᵀu, and so needs no forward mode either.
            (J_g,) = jax.vjp(lambda u: transposed(u)[0], g)[1](g)
            # Aᵀg = ½(Jᵀg - Jg);  ∇L = Jᵀg
            At_g = jax.tree.map(lambda a, b: (a - b) / 2, Jt_g, J_g)
            sign = jnp.ones(())
            if align:
                count = sum(leaf.size for leaf in jax.tree.leaves(g))
                agree = optax.tree.vdot(g, Jt_g) * optax.tree.vdot(At_g, Jt_g) / count
                sign = jnp.where(agree + 0.1 >= 0, 1.0, -1.0)
            bent = jax.tree.map(lambda a, b: a + gamma * sign * b, g, At_g)
            return bent, (kept, {**info, "adjustment_sign": sign})

        return d

    return _following(direction)


def extragradient() -> Dynamics:
    """d = g(θ - h g(θ)): looks a step ahead, comes back, and moves by what it saw there.

    Korpelevich 1976; Gidel et al. 2019, algorithm 4: both steps go through the optimizer and
    leave their mark on its state. Both see the same data and noise, which Mishchenko et al. 2020
    show to be the better choice.
    """

    def dynamics(losses: Losses, tx: Optimizers) -> Rule:
        def move(key, params, memory, optimizer, batch):
            g, _ = field(losses)(key, params, memory, batch)
            ahead, optimizer, _ = _apply(tx, g, optimizer, params)
            g, (memory, info) = field(losses)(key, ahead, memory, batch)
            params, optimizer, _ = _apply(tx, g, optimizer, params)
            return params, memory, optimizer, info

        return _begin(tx), move

    return dynamics


def optimistic() -> Dynamics:
    """d_t = 2 g_t - g_(t-1): expects of the next field what the last one changed by.

    Daskalakis et al. 2018, equation 5, and with Adam their algorithm 1: what is doubled is the
    optimizer's update u, θ ← θ + 2 u_t - u_(t-1). The first step is u itself.
    """

    def dynamics(losses: Losses, tx: Optimizers) -> Rule:
        def begin(params):
            return {
                "own": _begin(tx)(params),
                "last": jax.tree.map(jnp.zeros_like, params),
                "moved": jnp.zeros((), bool),
            }

        def move(key, params, memory, optimizer, batch):
            g, (memory, info) = field(losses)(key, params, memory, batch)
            _, own, u = _apply(tx, g, optimizer["own"], params)
            last = jax.tree.map(
                lambda now, old: jnp.where(optimizer["moved"], old, now), u, optimizer["last"]
            )
            params = jax.tree.map(lambda p, now, old: p + 2 * now - old, params, u, last)
            return params, memory, {"own": own, "last": u, "moved": jnp.ones((), bool)}, info

        return begin, move

    return dynamics


@typed.config
class Config:
    """Which dynamics, and its numbers; those of other dynamics are ignored.

    Attributes:
      name: one of `DYNAMICS`.
      gamma: γ, the weight of ½‖g‖² in consensus optimization, or |λ| of symplectic gradient
        adjustment (usually 1).
      k: moves of the discriminator for one of the generator, when they alternate (n_critic); each
        sees its own k-th part of the batch. A schedule of the learning rate counts moves: that of
        a player who moves k times a step is over after a k-th of the run (half, extragradient).
    """

    name: str = "alternating"
    gamma: float = number(10.0, least=0)
    k: int = number(1, least=1, most=MOST_LAYERS)

    @property
    def parts(self) -> int:
        """Into how many parts a step divides its batch."""
        return self.k if self.name == "alternating" else 1

    def __post_init__(self):
        make(self)


DYNAMICS: dict[str, Callable[[Config], Dynamics]] = {
    "simultaneous": lambda c: simultaneous(),
    "alternating": lambda c: alternating(k=c.k),
    "consensus": lambda c: consensus(c.gamma),
    "symplectic": lambda c: symplectic(c.gamma),
    "extragradient": lambda c: extragradient(),
    "optimistic": lambda c: optimistic(),
}
"""One entry a dynamics: from its config to itself."""


def make(config: Config) -> Dynamics:
    """The dynamics that a config names; raises ConfigError where there is none of that name."""
    return choose(config.name, DYNAMICS, "dynamics")(config)
