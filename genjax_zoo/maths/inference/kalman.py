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

`join` (stretches.py) makes one stretch of time of two that follow each other; it is associative, so
that a series is filtered and smoothed in O(log T) joins on a machine that is wide enough. The
smoother meets a forward filter with a backward one (Fraser & Potter 1969), and inverts no
covariance: those of states that are known exactly, such as the lags of an autoregression, are
singular. Of a diffuse start, the stretch from before the first time is as good as any other.

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
from genjax_zoo.maths.inference.stretches import (
    Stretch,
    conditioned,
    integrated,
    join,
    so_far,
    tell,
)

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
      diffuse: [q], not 0 where nothing at all is known of a number of the first state, whose
        variance is without end (an exact diffuse start, about m1). Its value is the variance that
        stands in where a number has to be drawn all the same. None for none.
    """

    A: Array
    Q: Array
    C: Array
    d: Array
    R: Array
    m1: Array
    P1: Array
    diffuse: Array | None = None


class Filtered(NamedTuple):
    """What the series up to each time says.

    Attributes:
      mean, cov: of p(x_t | y_1 .. y_t): [T, q], [T, q, q].
      predicted_mean, predicted_cov: of p(x_t | y_1 .. y_t-1).
      log_prob: log p(y_t | y_1 .. y_t-1) [T] nats; 0 where all of y_t is missing. Of a diffuse
        start their sum is the diffuse likelihood, see `log_prob`.
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


def _each_time(system: System, y: Array, S: Array | None) -> Stretch:
    """Each time as a stretch of its own; the first one knows where the state comes from."""
    zero = jnp.zeros_like(system.m1)

    def one(y: Array, S: Array | None) -> Stretch:
        now = _observe(system, y, S, zero, system.Q)
        eta, J = system.A.T @ now.eta, symmetric(system.A.T @ now.J @ system.A)
        return Stretch(now.gain @ system.A, now.mean, now.cov, eta, J)

    first = _observe(system, y[0], None if S is None else S[0], system.m1, system.P1)
    none = jnp.zeros_like(system.Q)
    start = Stretch(none, first.mean, first.cov, zero, none)
    if system.diffuse is not None:
        # x_1 = m_1 + δ + N(0, P_1): what comes before the first state is δ, of which nothing is
        # known.
        D = jnp.diag((system.diffuse > 0).astype(zero.dtype))
        eta, J = D @ first.eta, D @ first.J @ D
        start = start._replace(F=first.gain @ D, eta=eta, J=J)
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
    if parallel or system.diffuse is not None:
        return _filter_at_once(system, y, S, so_far(_each_time(system, y, S), parallel))

    def step(predicted: tuple[Array, Array], at: tuple[Array, Array | None]):
        m, P = predicted
        now = _observe(system, *at, m, P)
        return _predict(system, now.mean, now.cov), Filtered(now.mean, now.cov, m, P, now.log_prob)

    return jax.lax.scan(step, (system.m1, system.P1), (y, S))[1]


def _filter_at_once(system: System, y: Array, S: Array | None, whole: Stretch) -> Filtered:
    """What the times so far say, as `so_far` has joined them."""

    def ahead(mean: Array, cov: Array, P1: Array) -> tuple[Array, Array]:
        m, P = jax.vmap(_predict, (None, 0, 0))(system, mean[:-1], cov[:-1])
        return jnp.concatenate([system.m1[None], m]), jnp.concatenate([P1[None], P])

    m, P = ahead(whole.b, whole.V, system.P1)
    log_prob = jax.vmap(lambda y, S, m, P: _observe(system, y, S, m, P).log_prob)(y, S, m, P)
    if system.diffuse is None:
        return Filtered(whole.b, whole.V, m, P, log_prob)
    # All this was given δ = 0, and is affine in it.
    told = jax.vmap(tell, (None, 0, 0))(system.diffuse, whole.eta, whole.J)
    mean, cov = integrated(whole.F, whole.b, whole.V, told)
    more = jnp.diff(told.log, prepend=jnp.zeros_like(told.log[:1]))
    P1 = system.P1 + jnp.diag(system.diffuse)
    return Filtered(mean, cov, *ahead(mean, cov, P1), log_prob + more)


def log_prob(system: System, y: Array, parallel: bool = False) -> Array:
    """log p(y) [] nats of a series [T, p]; what is missing is integrated out.

    Of a diffuse start it is the diffuse likelihood, that of all numbers but those which first tell
    the k diffuse ones:

        log ∫ p(y | x_1) dx_1 = lim_κ→∞ [log p(y) + k/2 log 2πκ]

    where κ is their variance. Durbin & Koopman, Time series analysis by state space methods, 2012,
    have chapter 5 of it, and k/2 log 2π less in equation 7.4.
    """
    return jnp.sum(filter(system, y, parallel).log_prob)


class _Both(NamedTuple):
    """A series from both sides.

    Attributes:
      found: what the times up to each say.
      times: each time as a stretch.
      rest: what all later times say of x_t, in eta and J.
      mean, cov: of p(x_t | y), which is where the two meet.
    """

    found: Filtered
    times: Stretch
    rest: Stretch
    mean: Array
    cov: Array


def _from_both_sides(system: System, y: Array, parallel: bool) -> _Both:
    S = _precision(system, y)
    times = _each_time(system, y, S)
    # After the last time comes nothing, which says nothing.
    end = jax.tree.map(lambda a: jnp.zeros_like(a[:1]), times)
    if parallel or system.diffuse is not None:
        whole = so_far(times, parallel)
        found = _filter_at_once(system, y, S, whole)
    else:
        found = filter(system, y)
        whole = times._replace(F=jnp.zeros_like(found.cov), b=found.mean, V=found.cov)
    if parallel:
        # Stretches t+1 .. T for every t: scanned from the end, so what comes second is earlier.
        rest = jax.lax.associative_scan(lambda a, b: join(b, a), times, reverse=True)
    else:

        def back(later: Stretch, now: Stretch) -> tuple[Stretch, Stretch]:
            both = join(now, later)
            return both, both

        last = jax.tree.map(lambda a: a[0], end)
        rest = jax.lax.scan(back, last, times, reverse=True)[1]
    rest = jax.tree.map(lambda a, e: jnp.concatenate([a[1:], e]), rest, end)
    # N(x_t; F δ + b, V), of which the rest says η and J
    F, mean, cov = conditioned(whole.F, whole.b, whole.V, rest.eta, rest.J)
    if system.diffuse is not None:
        mean, cov = integrated(F, mean, cov, tell(system.diffuse, whole.eta[-1], whole.J[-1]))
    return _Both(found, times, rest, mean, cov)


@exactly
def smooth(system: System, y: Array, parallel: bool = False) -> Smoothed:
    """p(x_t, x_t-1 | y) for all t, from the whole series; arguments as those of `filter`."""
    found, times, rest, mean, cov = _from_both_sides(system, y, parallel)
    # p(x_t | x_t-1, y) = N(G x_t-1 + g, ..)  and so  Cov(x_t, x_t-1 | y) = G Cov(x_t-1 | y)
    G, _, _ = conditioned(times.F, times.b, times.V, rest.eta, rest.J)
    return Smoothed(mean, cov, G[1:] @ cov[:-1], found)


@exactly
def draw(key: Key, system: System, y: Array, parallel: bool = False) -> Array:
    """x ~ p(x_1 .. x_T | y) [T, q]: the states of a series, drawn together."""
    _, times, rest, mean, cov = _from_both_sides(system, y, parallel)
    G, g, V = conditioned(times.F, times.b, times.V, rest.eta, rest.J)
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
    spread = 0 if system.diffuse is None else jnp.diag(system.diffuse)
    m, P = (system.m1, system.P1 + spread) if start is None else start
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
