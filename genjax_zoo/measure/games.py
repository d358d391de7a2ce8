"""The numerics of a game: Jacobians, eigenvalues, and what they say of a point and of a path.

Floor 5. A game is taken at one point, with key, data and memory held fixed, as a function of one
flat vector θ [N] of all players' parameters (`Flat`), and there are two of these:

    flatten   the field v = -g, along which all players would like to go   (games.field)
    update    the map θ -> θ' of one move of any dynamics under plain gradient descent of step h

Either has a `jacobian`, `eigenvalues` and, where that is too large to hold, `leading_eigenvalues`.
A fixed point of a map attracts if all eigenvalues μ of its Jacobian lie within the unit circle.
Simultaneous descent is the map I + h v, so that μ = 1 + h λ with λ those of v' (`convergence`). Of
v = the gradient of one function all λ are real; a game's are not, and the nearer they lie to the
imaginary axis the smaller a step has to be (Mescheder, Nowozin & Geiger 2017, section 3).

That a dynamics stays at a point does not make the point a solution: `nash` takes each player alone.
`path_angle` takes a whole line, and needs no eigenvalue.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.sparse.linalg as arpack
from jax.flatten_util import ravel_pytree

from genjax_zoo.contract import Array, Batch, ConfigError, Key, ZooError
from genjax_zoo.maths import games

ROWS = 64
"""Rows of a dense Jacobian that are pulled back side by side."""
DENSE = 256
"""Parameters of a player up to which `nash` takes its Hessian whole."""
ROUNDING = 1e-6
"""How far from the unit circle, or the imaginary axis, a float32 number counts as not on it."""


class Flat(NamedTuple):
    """A field, or a map, as a function of one vector, and the point at which to look at it.

    Attributes:
      function: [N] -> [N], jitted.
      at: the point θ [N].
      unravel: [N] -> {player: parameters}; of a map with a state, its leading part.
      ranges: {player: where its parameters lie in the vector}.
    """

    function: Callable[[Array], Array]
    at: Array
    unravel: Callable[[Array], games.Players]
    ranges: dict[str, slice]


def flatten(
    losses: games.Losses, key: Key, params: games.Players, memory: Any, batch: Batch
) -> Flat:
    """The field v(θ) = -g(θ) of a game, as `Flat`.

    Args:
      losses: (key, params, memory, batch) -> ({player: loss}, (memory, info)).
      key: of the draws within the losses, the same wherever the field is asked for.
      params: {player: parameters}, N numbers in all.
      memory, batch: held fixed.

    Raises ConfigError where the losses and the parameters name other players.
    """
    losing = set(jax.eval_shape(losses, key, params, memory, batch)[0])
    if losing != set(params):
        raise ConfigError(
            f"every player needs both a loss and parameters: losses are of {sorted(losing)}, "
            f"parameters of {sorted(params)}."
        )
    at, unravel, ranges = _vector(params)

    def v(theta: Array) -> Array:
        g, _ = games.field(losses)(key, unravel(theta), memory, batch)
        return -ravel_pytree(g)[0]

    return Flat(jax.jit(v), at, unravel, ranges)


def update(
    losses: games.Losses,
    dynamics: games.Dynamics,
    h: float,
    key: Key,
    params: games.Players,
    memory: Any,
    batch: Batch,
) -> Flat:
    """One move of a dynamics under gradient descent of step h, as a map of one vector.

    The vector is θ [N], and behind it whatever real numbers the dynamics itself carries from move
    to move: optimism its last update, so that its map is (θ, u) -> (θ + 2 u(θ) - u, u(θ)), of 2 N
    numbers. What it carries is taken as it is after one move from θ; that its first move is
    another map is no matter of convergence.

    A dynamics that follows one direction, θ' = θ - h d(θ), has μ = 1 + h λ, and λ = (μ - 1) / h
    are the eigenvalues of -d': with consensus those of v - γ ∇½‖v‖².

    Args:
      losses, key, params, memory, batch: as in `flatten`.
      dynamics: one of maths/games.
      h: the step, > 0.

    Raises ConfigError for h <= 0, and where the dynamics asks for a player that is not there.
    """
    _check_step(h)
    begin, move = dynamics(losses, optax.sgd(h))
    at, unravel, ranges = _vector(params)
    try:
        carried = move(key, params, memory, begin(params), batch)[2]
    except KeyError as missing:
        raise ConfigError(
            f"the dynamics moves a player {missing}, and the game has {sorted(params)}."
        ) from missing
    real, whole = _coordinates(carried)
    behind, unravel_behind = ravel_pytree(real)

    def step(vector: Array) -> Array:
        carried = whole(unravel_behind(vector[len(at) :]))
        theta, _, carried, _ = move(key, unravel(vector[: len(at)]), memory, carried, batch)
        return jnp.concatenate([ravel_pytree(theta)[0], ravel_pytree(_coordinates(carried)[0])[0]])

    lead = lambda vector: unravel(vector[: len(at)])
    return Flat(jax.jit(step), jnp.concatenate([at, behind.astype(at.dtype)]), lead, ranges)


def _vector(params: games.Players) -> tuple[Array, Callable[[Array], games.Players], dict]:
    """θ, its inverse, and where each player lies: players are in the order of their names."""
    at, unravel = ravel_pytree(dict(params))
    ranges, start = {}, 0
    for player in sorted(params):
        size = sum(jnp.size(leaf) for leaf in jax.tree.leaves(params[player]))
        ranges[player], start = slice(start, start + size), start + size
    return at, unravel, ranges


def _coordinates(carried: Any) -> tuple[list, Callable[[list], Any]]:
    """The real arrays of a dynamics' state, and the way back; flags and counters stay."""
    leaves, shape = jax.tree.flatten(carried)
    which = [i for i, x in enumerate(leaves) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]

    def whole(real: list) -> Any:
        filled = list(leaves)
        for i, x in zip(which, real, strict=True):
            filled[i] = x
        return jax.tree.unflatten(shape, filled)

    return [leaves[i] for i in which], whole


# ------------------------------------------------------------------------------ eigenvalues


def jacobian(flat: Flat, at: Array | None = None) -> Array:
    """The dense Jacobian J_ij = ∂f_i/∂θ_j [N, N], for N up to a few thousand.

    In reverse mode, a row eᵢᵀJ at a time: the networks' convolutions know no forward mode.
    """
    point = flat.at if at is None else at

    @jax.jit
    def rows(point: Array) -> Array:
        pull = jax.vjp(flat.function, point)[1]
        return jax.lax.map(lambda e: pull(e)[0], jnp.eye(len(point)), batch_size=ROWS)

    return rows(point)


def eigenvalues(flat: Flat, at: Array | None = None) -> np.ndarray:
    """All eigenvalues of the Jacobian: [N] complex, the largest modulus first."""
    values = np.linalg.eigvals(np.asarray(jacobian(flat, at), np.float64))
    return _sorted(values.astype(complex), "LM")


def leading_eigenvalues(
    flat: Flat,
    k: int,
    which: Literal["LM", "LR", "LI"] = "LM",
    *,
    at: Array | None = None,
    tolerance: float = 1e-5,
    iterations: int | None = None,
) -> np.ndarray:
    """The k leading eigenvalues of the Jacobian, which is never made: [k] complex, leading first.

    Implicitly restarted Arnoldi (ARPACK through scipy) sees the Jacobian only through products.
    J and Jᵀ have the same eigenvalues, and Jᵀu is one pull back of the field; J u would be two.

    Args:
      flat: the field or the map.
      k: how many; a pair of conjugates counts as two.
      which: leading by modulus ("LM"), by real part ("LR") or by absolute imaginary part ("LI").
      at: the point, if not `flat.at`.
      tolerance: relative accuracy.
      iterations: restarts allowed; scipy's default is 10 N.

    Raises ConfigError for k < 1 or k > N - 2, which ARPACK cannot do, and ZooError where it does
    not converge: eigenvalues in the middle of a crowd ("LR" of a field most of whose real parts
    are about 0) are found last.
    """
    point = flat.at if at is None else at
    size = len(point)
    if which not in ("LM", "LR", "LI"):
        raise ConfigError(f"which should be 'LM', 'LR' or 'LI', got {which!r}.")
    if not 1 <= k <= size - 2:
        raise ConfigError(
            f"Arnoldi finds 1 to N - 2 = {size - 2} eigenvalues of a game of N = {size} "
            f"parameters, got k = {k}; `eigenvalues` gives all of them."
        )

    @jax.jit
    def transposed(u: Array) -> Array:
        return jax.vjp(flat.function, point)[1](u)[0]

    # The crowd about 0 asks for a larger space than scipy's 2 k + 1.
    options = {"ncv": min(size, max(4 * k + 1, 40)), "tol": tolerance, "maxiter": iterations}
    values = _arpack(arpack.eigs, transposed, point, k, which, **options)
    return _sorted(values, which)[:k]


def _arpack(
    solve: Any, product: Callable[[Array], Array], like: Array, k: int, which: str, **options: Any
) -> np.ndarray:
    """k eigenvalues of a matrix that is known by its products with vectors like `like`."""
    size = len(like)
    matvec = lambda u: np.asarray(product(jnp.asarray(u.reshape(-1), like.dtype)), np.float64)
    operator = arpack.LinearOperator((size, size), matvec=matvec, dtype=np.float64)
    # scipy's own starting vector is random, and so would the last digits be.
    start = np.random.default_rng(0).normal(size=size)
    try:
        return solve(operator, k, which=which, v0=start, return_eigenvectors=False, **options)
    except arpack.ArpackNoConvergence as stopped:
        raise ZooError(
            f"Arnoldi found {len(stopped.eigenvalues)} of the {k} eigenvalues asked for "
            f"({which}) of {size} parameters and then did not converge. Ask for fewer, allow more "
            "iterations or a larger tolerance, take `eigenvalues` if the Jacobian can be held, or "
            "look at a smaller player or another point."
        ) from stopped


def _sorted(values: np.ndarray, which: str) -> np.ndarray:
    first = {"LM": np.abs(values), "LR": values.real, "LI": np.abs(values.imag)}[which]
    # Of a pair of conjugates, whose keys are equal but for rounding, the upper one comes first.
    digits = lambda x: np.round(x, 9)
    return values[np.lexsort((-values.imag, -digits(values.real), -digits(first)))]


# ------------------------------------------------------------------------------ convergence

CONVERGES, DIVERGES, NEITHER = "converges", "diverges", "neither at first order"


class Convergence(NamedTuple):
    """What simultaneous gradient descent of step h does near a fixed point of v.

    Attributes:
      moduli: |1 + h λ| [N].
      verdict: `CONVERGES` (all moduli < 1), `DIVERGES` (some > 1), or `NEITHER`: the largest is
        1, and what happens is for higher orders to say.
      largest_step: below this h it converges, and from it on it does not; 0 if for no h it does.
    """

    moduli: np.ndarray
    verdict: str
    largest_step: float


def convergence(eigenvalues: np.ndarray, h: float, rounding: float = ROUNDING) -> Convergence:
    """The local verdict on θ ← θ + h v(θ), from the eigenvalues λ of v' at a fixed point.

        |1 + h λ|² = 1 + 2 h Re λ + h² |λ|² < 1    if and only if    h < -2 Re λ / |λ|²

    (Mescheder, Nowozin & Geiger 2017, lemma 4; continuous time, h → 0, asks for Re λ < 0 alone:
    Nagarajan & Kolter 2017.) Where only leading eigenvalues are given it speaks of those alone:
    that a game diverges can be seen from one eigenvalue, that it converges only from all.

    Args:
      eigenvalues: λ [N] complex.
      h: the step, > 0.
      rounding: what counts as 0, relative to the largest |λ| where that is above 1.

    Raises ConfigError for h <= 0.
    """
    _check_step(h)
    values = np.asarray(eigenvalues, complex).reshape(-1)
    moduli = np.abs(1 + h * values)
    scale = rounding * max(1.0, np.abs(values).max(initial=0.0))
    largest = 0.0
    if (values.real < -scale).all():
        largest = float(np.min(-2 * values.real / np.abs(values) ** 2, initial=np.inf))
    # (|1 + h λ|² - 1) / h: of a small step the modulus itself is 1 up to rounding.
    growth = float(np.max(2 * values.real + h * np.abs(values) ** 2, initial=-np.inf))
    outcome = DIVERGES if growth > scale else CONVERGES if growth < -scale else NEITHER
    return Convergence(moduli, outcome, largest)


def verdict(multipliers: np.ndarray, rounding: float = ROUNDING) -> str:
    """The local verdict on any map, from the eigenvalues μ [N] of its Jacobian at a fixed point.

    `CONVERGES` if the spectral radius max |μ| < 1, `DIVERGES` if > 1, else `NEITHER`.
    """
    growth = spectral_radius(multipliers) - 1
    return DIVERGES if growth > rounding else CONVERGES if growth < -rounding else NEITHER


def spectral_radius(values: np.ndarray) -> float:
    """max |μ|: of a map at a fixed point, the factor by which errors shrink, or grow, a move."""
    return float(np.abs(values).max(initial=0.0))


def _check_step(h: float) -> None:
    if not h > 0:
        raise ConfigError(f"a step of gradient descent should be h > 0, got h = {h}.")


# --------------------------------------------------------------------------------- the path


class Path(NamedTuple):
    """The field along a line.

    Attributes:
      alpha: where, [n]: θ(α) = θ_0 + α (θ_1 - θ_0).
      cosine: of the angle between v(θ(α)) and the line's direction [n]; nan where v is 0.
      norm: ‖v(θ(α))‖ [n].
    """

    alpha: Array
    cosine: Array
    norm: Array


def path_angle(flat: Flat, start: Array, end: Array, alpha: Array) -> Path:
    """The path angle: does the field point along a line, against it, or across?

        c(α) = ⟨θ_1 - θ_0, v(θ(α))⟩ / (‖θ_1 - θ_0‖ ‖v(θ(α))‖),    θ(α) = θ_0 + α (θ_1 - θ_0)

    Berard et al. 2020 (their v is our -v). About a point θ_1 that attracts, c switches
    from 1 to -1 as α passes 1. About one that the field turns around, v is across the line, so that
    c, small on both sides, keeps its sign and makes a bump where the line passes the centre at a
    little distance. Both may be seen at once.

    Args:
      flat: the field.
      start, end: θ_0 and θ_1 [N]; usually an early and the last point of a run.
      alpha: [n], usually from below 1 to beyond it.
    """
    start, end, alpha = (jnp.asarray(x, flat.at.dtype) for x in (start, end, alpha))
    line = end - start
    length = float(jnp.linalg.norm(line))
    if length == 0:
        raise ConfigError("a path needs two points, and its start and end are the same.")

    def along(a: Array) -> tuple[Array, Array]:
        v = flat.function(start + a * line)
        norm = jnp.linalg.norm(v)
        return jnp.vdot(line, v) / (length * norm), norm

    return Path(alpha, *jax.lax.map(along, alpha))


# --------------------------------------------------------------------------------- the Nash check

STRICT, NOT, UNDECIDED = "strict local Nash", "not a local Nash", "undecided"


class OnePlayer(NamedTuple):
    """One player at a point, the others held still.

    Attributes:
      gradient: ‖∂L_p/∂θ_p‖.
      smallest, largest: eigenvalue of its own Hessian block ∂²L_p/∂θ_p².
    """

    gradient: float
    smallest: float
    largest: float


class Nash(NamedTuple):
    """Whether no player would rather be elsewhere nearby.

    Attributes:
      players: {player: `OnePlayer`}.
      verdict: `STRICT`, `NOT`, or `UNDECIDED`: nobody can leave at first order and no curvature
        is negative, but some is 0, so that higher orders decide.
    """

    players: dict[str, OnePlayer]
    verdict: str


def nash(
    flat: Flat, at: Array | None = None, tolerance: float = 1e-4, rounding: float = 1e-5
) -> Nash:
    """The local Nash check: each player's own gradient, and its own curvature.

        first order    ∂L_p/∂θ_p = 0                     of every player p
        second order   ∂²L_p/∂θ_p² > 0   strict          < 0 somewhere: not a local Nash

    These are the diagonal blocks of -v', which is a game's Jacobian but for its sign (Balduzzi et
    al. 2018). The check is not one of convergence: a dynamics may settle where a player sits on a
    saddle or a maximum of its own loss, as descent on the conservative ½‖v‖² does (Mescheder,
    Nowozin & Geiger 2017, section 4), and may circle around a Nash point for ever.

    Args:
      flat: the field, made by `flatten`.
      at: the point θ [N], if not `flat.at`.
      tolerance: a gradient's norm that counts as 0.
      rounding: a curvature that counts as 0, relative to the largest of the same player.
    """
    point = flat.at if at is None else at
    v = flat.function(point)
    players = {
        player: OnePlayer(float(jnp.linalg.norm(v[own])), *_curvatures(flat, point, own))
        for player, own in flat.ranges.items()
    }
    zeros = {p: rounding * max(abs(one.smallest), abs(one.largest)) for p, one in players.items()}
    if any(one.gradient > tolerance or one.smallest < -zeros[p] for p, one in players.items()):
        return Nash(players, NOT)
    strict = all(one.smallest > zeros[p] for p, one in players.items())
    return Nash(players, STRICT if strict else UNDECIDED)


def _curvatures(flat: Flat, point: Array, own: slice) -> tuple[float, float]:
    """The smallest and the largest eigenvalue of one player's own Hessian."""
    size = own.stop - own.start
    if size == 0:
        return 0.0, 0.0

    @jax.jit
    def product(u: Array) -> Array:
        # The block is symmetric, so that a product with it is one pull back: H u = -(uᵀ ∂v_p/∂θ_p)
        gradient = lambda theta: -flat.function(point.at[own].set(theta))[own]
        return jax.vjp(gradient, point[own])[1](u)[0]

    if size <= DENSE:
        rows = jax.lax.map(product, jnp.eye(size, dtype=point.dtype), batch_size=ROWS)
        values = np.linalg.eigvalsh(np.asarray((rows + rows.T) / 2, np.float64))
        return float(values[0]), float(values[-1])
    values = _arpack(arpack.eigsh, product, point[own], 2, "BE", ncv=min(size, 40), tol=1e-5)
    return float(values.min()), float(values.max())
