"""Linear transitions seen through linear emissions: filter, smoother, likelihood, forecast.

    x_1 ~ N(m_1, P_1),    x_t = A x_{t-1} + w_t,    w_t ~ N(0, Q)
                          y_t = C x_t + d + u_t,    u_t ~ N(0, R)

What is missing of y is NaN, a number of a time or all of them; it has no row of C, and what is left
is exact. Kalman 1960; Rauch, Tung & Striebel 1965.

All rests on two operations. `_observe` turns N(x; m, P) and y_t into what is known of x then, and
what y_t said. Of two ways to the same numbers it takes the one that fits: by the covariance of y_t,
C P Cᵀ + R, where that is small or R is no diagonal (R may then be 0), or by what y_t says of x,

    p(y_t | x) ∝ exp(rᵀx - ½ xᵀS x),    S = CᵀR⁻¹C,    r = CᵀR⁻¹(y_t - d),

where a frame of thousands of pixels costs its products with C, and no matrix of its size is formed.

`_join` makes one stretch of time of two that follow each other; it is associative, so that a series
is filtered and smoothed in O(log T) joins on a machine that is wide enough (Särkkä & García-
Fernández, Temporal parallelization of Bayesian smoothers, 2021). The smoother meets a forward
filter with a backward one (Fraser & Potter 1969), and inverts no covariance: those of states that
are known exactly, such as the lags of an autoregression, are singular.

Floor 1. One series [T, p] at a time; jax.vmap takes several. In float64 where its arrays are.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from genjax_zoo.contract import Array, Key
from genjax_zoo.maths.inference.matrices import exactly, matvec, root, solve, symmetric

_LOG_2PI = math.log(2 * math.pi)


@struct.dataclass
class System:
    """A linear dynamical system of q states, seen through p numbers.

    Attributes:
      A: the transition [q, q].
      Q: covariance of the transition's noise [q, q].
      C: the emission [p, q].
      d: what the state 0 emits [p].
      R: covariance of the emission's noise: [p, p], or its diagonal [p].
      m1: mean of the first state [q].
      P1: its covariance [q, q].
    """

    A: Array
    Q: Array
    C: Array
    d: Array
    R: Array
    m1: Array
    P1: Array


class Filtered(NamedTuple):
    """What the series up to each time says.

    Attributes:
      mean, cov: of p(x_t | y_1 .. y_t): [T, q], [T, q, q].
      predicted_mean, predicted_cov: of p(x_t | y_1 .. y_t-1).
      log_prob: log p(y_t | y_1 .. y_t-1) [T] nats; 0 where all of y_t is missing.
    """

    mean: Array
    cov: Array
    predicted_mean: Array
    predicted_cov: Array
    log_prob: Array


class Smoothed(NamedTuple):
    """What the whole series says.

    Attributes:
      mean, cov: of p(x_t | y): [T, q], [T, q, q].
      lagged: Cov(x_t, x_t-1 | y) for t = 2 .. T: [T - 1, q, q].
      filtered: what came first.
    """

    mean: Array
    cov: Array
    lagged: Array
    filtered: Filtered


class Forecast(NamedTuple):
    """What may follow a series, h = 1 .. H steps ahead.

    Attributes:
      mean: of y_T+h [H, p].
      std: of each number of it [H, p]: it lies in mean ± 1.96 std with probability .95.
      state_mean, state_cov: of x_T+h: [H, q], [H, q, q]. Cov(y) is C state_cov Cᵀ + R.
    """

    mean: Array
    std: Array
    state_mean: Array
    state_cov: Array


# ---------------------------------------------------------------------------------- the two steps


class _Observed(NamedTuple):
    """What y says of x ~ N(m, P), with H the rows of C that are seen, e = y - d - H m and
    F = H P Hᵀ + R.

    Attributes:
      mean, cov: of p(x | y).
      gain: I - K H [q, q], K = P Hᵀ F⁻¹.
      eta, J: Hᵀ F⁻¹ e [q] and Hᵀ F⁻¹ H [q, q].
      log_prob: log N(y; d + H m, F) [] nats.
    """

    mean: Array
    cov: Array
    gain: Array
    eta: Array
    J: Array
    log_prob: Array


def _by_covariance(system: System) -> bool:
    p, q = system.C.shape
    return p <= q or system.R.ndim == 2


def _precision(system: System, y: Array) -> Array | None:
    """S_t = Hᵀ R⁻¹ H [T, q, q], or None where it is not needed."""
    if _by_covariance(system):
        return None
    p, q = system.C.shape
    products = (system.C[:, :, None] * system.C[:, None, :]).reshape(p, q * q)
    return (jnp.where(jnp.isnan(y), 0, 1 / system.R) @ products).reshape(-1, q, q)


def _observe(system: System, y: Array, S: Array | None, m: Array, P: Array) -> _Observed:
    """One time: y [p] with NaN where it is missing, x ~ N(m [q], P [q, q])."""
    known = ~jnp.isnan(y)
    o, y = known.astype(m.dtype), jnp.where(known, y, 0)
    eye = jnp.eye(m.size, dtype=m.dtype)
    e = o * (y - system.d - system.C @ m)
    if S is None:
        # What is missing gets a row of its own that nothing depends on: variance 1, e = 0.
        H = system.C * o[:, None]
        R = masked(system.R, o)
        F = symmetric(H @ P @ H.T + R)
        found, log_det = solve(F, jnp.column_stack([H, e]))
        F_H, F_e = found[:, :-1], found[:, -1]
        K = P @ F_H.T
        gain, eta, J = eye - K @ H, H.T @ F_e, symmetric(H.T @ F_H)
        # Joseph's form, for P - K H P loses digits where P is large
        cov = gain @ P @ gain.T + K @ R @ K.T
        log_prob = -0.5 * (e @ F_e + log_det + jnp.sum(o) * _LOG_2PI)
        return _Observed(m + P @ eta, symmetric(cov), gain, eta, J, log_prob)
    # I - K H = (I + P S)⁻¹,    Hᵀ F⁻¹ e = (I + S P)⁻¹ Hᵀ R⁻¹ e            (Woodbury)
    gain, log_gain = solve(eye + P @ S, eye)
    eta = gain.T @ ((e / system.R) @ system.C)
    mean = m + P @ eta
    # eᵀ F⁻¹ e = e₊ᵀ R⁻¹ e₊ + ηᵀ P η,  e₊ = y - d - H E[x | y]: no difference of large numbers
    left = o * (y - system.d - system.C @ mean)
    # log |F| = log |R| + log |I + P S|                                   (Sylvester)
    log_det = jnp.sum(o * jnp.log(system.R)) + log_gain
    squares = jnp.sum(left**2 / system.R) + eta @ P @ eta
    log_prob = -0.5 * (squares + log_det + jnp.sum(o) * _LOG_2PI)
    cov, J = symmetric(gain @ P), symmetric(gain.T @ S)
    return _Observed(mean, cov, gain, eta, J, log_prob)


def masked(R: Array, o: Array) -> Array:
    """The noise [p, p] of what is seen (o [p] is 1), and variance 1 for what is missing."""
    R = R * o[:, None] * o if R.ndim == 2 else jnp.diag(R * o)
    return R + jnp.diag(1 - o)


def _predict(system: System, mean: Array, cov: Array) -> tuple[Array, Array]:
    """x_t from x_t-1."""
    return system.A @ mean, symmetric(system.A @ cov @ system.A.T + system.Q)


class _Stretch(NamedTuple):
    """What times s .. t together make of the state x before them: with x' the state at t,

        p(x', y_s .. y_t | x) ∝ N(x'; F x + b, V) exp(ηᵀx - ½ xᵀJ x)

    Attributes:
      F, b, V: where the state goes [q, q], [q], [q, q].
      eta, J: what these times say of the state before them [q], [q, q].
    """

    F: Array
    b: Array
    V: Array
    eta: Array
    J: Array


def _join(early: _Stretch, late: _Stretch) -> _Stretch:
    """Two stretches, of which the second follows the first, as one; over any leading axes.

    Between them lies x ~ N(F x_before + b, V), of which the late one says η and J: so one solve,
    by I + V J, is all there is (Särkkä & García-Fernández 2021, lemma 8).
    """
    F, b, V = _conditioned(early.F, early.b, early.V, late.eta, late.J)
    return _Stretch(
        F=late.F @ F,
        b=matvec(late.F, b) + late.b,
        V=symmetric(late.F @ V @ late.F.mT) + late.V,
        eta=early.eta + matvec(early.F.mT, late.eta - matvec(late.J, b)),
        J=early.J + symmetric(early.F.mT @ late.J @ F),
    )


def _conditioned(F: Array, b: Array, V: Array, eta: Array, J: Array) -> tuple[Array, Array, Array]:
    """N(x; F x_before + b, V) exp(ηᵀx - ½ xᵀJ x) is again one N: its F, b and V.

    (I + V J)⁻¹ [F, b + V η, V]
    """
    q = b.shape[-1]
    right = jnp.concatenate([F, (b + matvec(V, eta))[..., None], V], -1)
    found, _ = solve(jnp.eye(q, dtype=b.dtype) + V @ J, right)
    return found[..., : F.shape[-1]], found[..., -q - 1], symmetric(found[..., -q:])


def _stretches(system: System, y: Array, S: Array | None) -> _Stretch:
    """Each time as a stretch of its own; the first one knows where the state comes from."""
    zero = jnp.zeros_like(system.m1)

    def one(y: Array, S: Array | None) -> _Stretch:
        now = _observe(system, y, S, zero, system.Q)
        eta, J = system.A.T @ now.eta, symmetric(system.A.T @ now.J @ system.A)
        return _Stretch(now.gain @ system.A, now.mean, now.cov, eta, J)

    first = _observe(system, y[0], None if S is None else S[0], system.m1, system.P1)
    none = jnp.zeros_like(system.Q)
    start = _Stretch(none, first.mean, first.cov, zero, none)
    return jax.tree.map(lambda all_, x: all_.at[0].set(x), jax.vmap(one)(y, S), start)


# --------------------------------------------------------------------------- filter and smoother


@exactly
def filter(system: System, y: Array, parallel: bool = False) -> Filtered:
    """p(x_t | y_1 .. y_t) and log p(y_t | y_1 .. y_t-1) for all t.

    Args:
      system: the system.
      y: the series [T, p]; NaN is missing.
      parallel: all times at once by an associative scan, for a wide machine and a long series; or
        one after the other.
    """
    S = _precision(system, y)
    if parallel:
        return _filter_at_once(system, y, S, _stretches(system, y, S))

    def step(predicted: tuple[Array, Array], at: tuple[Array, Array | None]):
        m, P = predicted
        now = _observe(system, *at, m, P)
        return _predict(system, now.mean, now.cov), Filtered(now.mean, now.cov, m, P, now.log_prob)

    return jax.lax.scan(step, (system.m1, system.P1), (y, S))[1]


def _filter_at_once(system: System, y: Array, S: Array | None, times: _Stretch) -> Filtered:
    whole = jax.lax.associative_scan(_join, times)
    mean, cov = whole.b, whole.V
    m, P = jax.vmap(_predict, (None, 0, 0))(system, mean[:-1], cov[:-1])
    m, P = jnp.concatenate([system.m1[None], m]), jnp.concatenate([system.P1[None], P])
    log_prob = jax.vmap(lambda y, S, m, P: _observe(system, y, S, m, P).log_prob)(y, S, m, P)
    return Filtered(mean, cov, m, P, log_prob)


def log_prob(system: System, y: Array, parallel: bool = False) -> Array:
    """log p(y) [] nats of a series [T, p]; what is missing is integrated out."""
    return jnp.sum(filter(system, y, parallel).log_prob)


def _backwards(system: System, y: Array, parallel: bool) -> tuple[Filtered, _Stretch, _Stretch]:
    """(filtered; each time; for each t, what all later times say of x_t in eta and J)."""
    S = _precision(system, y)
    times = _stretches(system, y, S)
    # After the last time comes nothing, which says nothing.
    end = jax.tree.map(lambda a: jnp.zeros_like(a[:1]), times)
    if parallel:
        found = _filter_at_once(system, y, S, times)
        # Stretches t+1 .. T for every t: scanned from the end, so what comes second is earlier.
        rest = jax.lax.associative_scan(lambda a, b: _join(b, a), times, reverse=True)
    else:
        found = filter(system, y)

        def back(later: _Stretch, now: _Stretch) -> tuple[_Stretch, _Stretch]:
            both = _join(now, later)
            return both, both

        last = jax.tree.map(lambda a: a[0], end)
        rest = jax.lax.scan(back, last, times, reverse=True)[1]
    return found, times, jax.tree.map(lambda a, e: jnp.concatenate([a[1:], e]), rest, end)


@exactly
def smooth(system: System, y: Array, parallel: bool = False) -> Smoothed:
    """p(x_t, x_t-1 | y) for all t, from the whole series; arguments as those of `filter`."""
    found, times, rest = _backwards(system, y, parallel)
    # N(x_t; m, P), of which the rest says η and J
    _, mean, cov = _conditioned(jnp.zeros_like(found.cov), found.mean, found.cov, rest.eta, rest.J)
    # p(x_t | x_t-1, y) = N(G x_t-1 + g, ..)  and so  Cov(x_t, x_t-1 | y) = G Cov(x_t-1 | y)
    G, _, _ = _conditioned(times.F, times.b, times.V, rest.eta, rest.J)
    return Smoothed(mean, cov, G[1:] @ cov[:-1], found)


@exactly
def draw(key: Key, system: System, y: Array, parallel: bool = False) -> Array:
    """x ~ p(x_1 .. x_T | y) [T, q]: the states of a series, drawn together."""
    found, times, rest = _backwards(system, y, parallel)
    _, mean, cov = _conditioned(jnp.zeros_like(found.cov), found.mean, found.cov, rest.eta, rest.J)
    G, g, V = _conditioned(times.F, times.b, times.V, rest.eta, rest.J)
    noise = jax.random.normal(key, mean.shape, mean.dtype)
    first = mean[0] + root(cov[0]) @ noise[0]
    shift = g[1:] + matvec(root(V[1:]), noise[1:])

    def step(x: Array, Gs: tuple[Array, Array]) -> tuple[Array, Array]:
        x = Gs[0] @ x + Gs[1]
        return x, x

    return jnp.concatenate([first[None], jax.lax.scan(step, first, (G[1:], shift))[1]])


# ------------------------------------------------------------------------------ what may come


@exactly
def simulate(
    key: Key, system: System, length: int, start: tuple[Array, Array] | None = None
) -> tuple[Array, Array]:
    """A series drawn from the system, and its states: (y [length, p], x [length, q]).

    `start` is the mean [q] and the covariance [q, q] of its first state, the system's by default.
    """
    key_first, key_w, key_u = jax.random.split(key, 3)
    m, P = (system.m1, system.P1) if start is None else start
    x1 = m + root(P) @ jax.random.normal(key_first, m.shape, m.dtype)
    w = jax.random.normal(key_w, (length, m.size), m.dtype) @ root(system.Q).T

    def step(x: Array, w: Array) -> tuple[Array, Array]:
        return system.A @ x + w, x

    _, x = jax.lax.scan(step, x1, w)
    u = jax.random.normal(key_u, (length, system.d.size), m.dtype)
    u = u @ root(system.R).T if system.R.ndim == 2 else u * jnp.sqrt(system.R)
    return x @ system.C.T + system.d + u, x


@exactly
def ahead(system: System, y: Array, parallel: bool = False) -> tuple[Array, Array]:
    """Mean and covariance of the state right after a series [T, p]."""
    found = filter(system, y, parallel)
    return _predict(system, found.mean[-1], found.cov[-1])


@exactly
def forecast(system: System, y: Array, steps: int, parallel: bool = False) -> Forecast:
    """What may follow a series [T, p], up to `steps` ahead."""
    noise = jnp.diagonal(system.R) if system.R.ndim == 2 else system.R

    def step(state: tuple[Array, Array], _: None):
        m, P = state
        variance = jnp.sum((system.C @ P) * system.C, -1) + noise
        here = Forecast(system.C @ m + system.d, jnp.sqrt(variance), m, P)
        return _predict(system, m, P), here

    return jax.lax.scan(step, ahead(system, y, parallel), None, steps)[1]
