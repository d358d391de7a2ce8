"""Linear-Gaussian states seen through noise: filter, smoother, likelihood and forecast.

    x_t = A x_{t-1} + w_t,   w ~ N(0, Q),   x_1 ~ N(m_1, P_1)
    y_t = C x_t + d + u_t,   u ~ N(0, R),   R diagonal

Nothing is asked of an observation but what it says of the state,

    p(y_t | x) ∝ exp(-½ xᵀS_t x + r_tᵀx),     S_t = CᵀR⁻¹C,   r_t = CᵀR⁻¹(y_t - d),

where what is missing (NaN) has no row. So a frame of thousands of pixels costs no more than its
product with C, and no covariance of observations is ever formed. The filter conditions by

    P_t|t = (I + P S)⁻¹ P,          m_t|t = m + P_t|t CᵀR⁻¹(y_t - d - C m),

and the smoother joins it with p(y_{t+1:T} | x_t) ∝ exp(-½ xᵀJ_t x + η_tᵀx), which runs backwards

    J_t = Aᵀ(I + S̃Q)⁻¹S̃A,   η_t = Aᵀ(I + S̃Q)⁻¹r̃,   S̃ = S_{t+1} + J_{t+1},  r̃ = r_{t+1} + η_{t+1}.

No covariance is inverted, so those of states that are known exactly, such as a lag, may be 0.
Both directions are products of one associative operation (Särkkä & García-Fernández, Temporal
parallelization of Bayesian smoothers, 2021), which `parallel` computes in O(log T) steps. Kalman
1960; Rauch, Tung & Striebel 1965; the two filters are Fraser & Potter's, 1969.

Floor 1. One series y [T, p] at a time; jax.vmap takes several. In float64 where jax is.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from genjax_zoo.contract import Array, Key

_LOG_2PI = math.log(2 * math.pi)


@struct.dataclass
class System:
    """A linear dynamical system of q states, seen through p numbers.

    Attributes:
      A: how states move [q, q].
      Q: covariance of what moves them besides [q, q].
      C: how they are seen [p, q].
      d: what is seen of the state 0 [p].
      R: variances of the observations' noise [p], positive.
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
    """What the observations up to each time say.

    Attributes:
      mean, cov: of p(x_t | y_1..t): [T, q], [T, q, q].
      predicted_mean, predicted_cov: of p(x_t | y_1..t-1).
      log_likelihood: log p(y_t | y_1..t-1) [T] nats; 0 where all is missing.
    """

    mean: Array
    cov: Array
    predicted_mean: Array
    predicted_cov: Array
    log_likelihood: Array


class Smoothed(NamedTuple):
    """What all observations say.

    Attributes:
      mean, cov: of p(x_t | y): [T, q], [T, q, q].
      lagged: Cov(x_t, x_t-1 | y) for t = 2 .. T: [T - 1, q, q].
      log_likelihood: log p(y) [] nats.
    """

    mean: Array
    cov: Array
    lagged: Array
    log_likelihood: Array


class Element(NamedTuple):
    """What a stretch of observations makes of the state before it.

        p(x_last, y_stretch | x_before) ∝ N(x_last; F x + b, V) exp(-½ xᵀJ x + ηᵀx),  x = x_before

    Attributes:
      F, b, V: of where the state goes [q, q], [q], [q, q].
      eta, J: of what the stretch says of the state before it [q], [q, q].
    """

    F: Array
    b: Array
    V: Array
    eta: Array
    J: Array


# --------------------------------------------------------------------------------- observations


def said(system: System, y: Array) -> tuple[Array, Array]:
    """What each observation says of its state: (r [T, q], S [T, q, q])."""
    seen = ~jnp.isnan(y)
    weight = jnp.where(seen, 1 / system.R, 0.0)
    r = jnp.where(seen, y - system.d, 0.0) * weight @ system.C
    return r, jnp.einsum("tp,pi,pj->tij", weight, system.C, system.C)


def _log_likelihood(system: System, y: Array, m: Array, P: Array, S: Array) -> Array:
    """log N(y; C m + d, C P Cᵀ + R) [] nats, by what is seen of y.

    With e = y - d - C m, by the lemmas of Woodbury and Sylvester,

        -½ [eᵀR⁻¹e - uᵀ(I + P S)⁻¹P u + log|R| + log|I + P S| + n log 2π],    u = CᵀR⁻¹e.
    """
    seen = ~jnp.isnan(y)
    e = jnp.where(seen, y - system.d - system.C @ m, 0.0)
    u = (e / system.R) @ system.C
    gain = jnp.eye(len(m), dtype=P.dtype) + P @ S
    squares = jnp.sum(e**2 / system.R) - u @ jnp.linalg.solve(gain, P @ u)
    log_det = jnp.sum(jnp.where(seen, jnp.log(system.R) + _LOG_2PI, 0.0))
    return -0.5 * (squares + log_det + jnp.linalg.slogdet(gain)[1])


def _condition(system: System, y: Array, m: Array, P: Array, S: Array) -> tuple[Array, Array]:
    """(mean, covariance) of x ~ N(m, P) given y."""
    e = jnp.where(jnp.isnan(y), 0.0, y - system.d - system.C @ m)
    P = _symmetric(jnp.linalg.solve(jnp.eye(len(m), dtype=P.dtype) + P @ S, P))
    return m + P @ ((e / system.R) @ system.C), P


# ----------------------------------------------------------------------------- one after another


def filter(system: System, y: Array, parallel: bool = False) -> Filtered:
    """p(x_t | y_1..t) and p(y_t | y_1..t-1) for all t.

    Args:
      system: the system.
      y: the series [T, p]; NaN is missing.
      parallel: whether by an associative scan rather than one step after another.
    """
    r, S = said(system, y)
    if parallel:
        found = jax.lax.associative_scan(_join, _elements(system, r, S))
        mean, cov = found.b, _symmetric(found.V)
        m, P = _predict(system, mean, cov)
    else:

        def step(predicted: tuple[Array, Array], at: tuple[Array, Array]) -> tuple:
            m, P = predicted
            mean, cov = _condition(system, at[0], m, P, at[1])
            return _move(system, mean, cov), (mean, cov, m, P)

        _, (mean, cov, m, P) = jax.lax.scan(step, (system.m1, system.P1), (y, S))
    nats = jax.vmap(_log_likelihood, (None, 0, 0, 0, 0))(system, y, m, P, S)
    return Filtered(mean, cov, m, P, nats)


def smooth(system: System, y: Array, parallel: bool = False) -> Smoothed:
    """p(x_t, x_t-1 | y) for all t, and log p(y); arguments as of `filter`."""
    found, (r, S) = filter(system, y, parallel), said(system, y)
    q = system.m1.size
    if parallel:
        # The stretch t+1 .. T, for every t: its η and J are of x_t.
        rest = jax.tree.map(lambda x: x[::-1], _elements(system, r, S))
        rest = jax.lax.associative_scan(lambda a, b: _join(b, a), rest)
        eta, J = (jnp.concatenate([x[::-1][1:], jnp.zeros_like(x[:1])]) for x in (rest.eta, rest.J))
    else:

        def back(after: tuple[Array, Array], at: tuple[Array, Array]) -> tuple:
            before = _pull_back(system, at[0] + after[0], at[1] + after[1])
            return before, after

        last = (jnp.zeros(q, r.dtype), jnp.zeros((q, q), r.dtype))
        _, (eta, J) = jax.lax.scan(back, last, (r, S), reverse=True)
    cov = jax.vmap(lambda P, J: _symmetric(jnp.linalg.solve(jnp.eye(q) + P @ J, P)))(found.cov, J)
    mean = found.mean + jnp.einsum("tij,tj->ti", cov, eta - jnp.einsum("tij,tj->ti", J, found.mean))

    def lag(P: Array, S: Array, before: Array) -> Array:
        # Cov(x_t, x_t-1 | y) = (I + P S̃)⁻¹ A P_t-1|t-1, P that of the prediction
        return jnp.linalg.solve(jnp.eye(q) + P @ S, system.A @ before)

    lagged = jax.vmap(lag)(found.predicted_cov[1:], (S + J)[1:], found.cov[:-1])
    return Smoothed(mean, cov, lagged, jnp.sum(found.log_likelihood))


def log_likelihood(system: System, y: Array, parallel: bool = False) -> Array:
    """log p(y) [] nats of one series [T, p], what is missing (NaN) left out."""
    return jnp.sum(filter(system, y, parallel).log_likelihood)


def _move(system: System, mean: Array, cov: Array) -> tuple[Array, Array]:
    return system.A @ mean, _symmetric(system.A @ cov @ system.A.T + system.Q)


def _predict(system: System, mean: Array, cov: Array) -> tuple[Array, Array]:
    """What was expected of each state before it was seen, from what was known after the last."""
    m, P = jax.vmap(_move, (None, 0, 0))(system, mean[:-1], cov[:-1])
    return jnp.concatenate([system.m1[None], m]), jnp.concatenate([system.P1[None], P])


def _pull_back(system: System, r: Array, S: Array) -> tuple[Array, Array]:
    """(η, J) of x_t-1 from what is said of x_t."""
    q = len(r)
    both = jnp.linalg.solve(jnp.eye(q) + S @ system.Q, jnp.column_stack([r, S @ system.A]))
    return system.A.T @ both[:, 0], _symmetric(system.A.T @ both[:, 1:])


# ------------------------------------------------------------------------------------ in parallel


def _elements(system: System, r: Array, S: Array) -> Element:
    """Each time by itself; the first one knows where the state comes from."""
    q = system.m1.size
    eye = jnp.eye(q, dtype=r.dtype)

    def one(r: Array, S: Array) -> Element:
        gain = jnp.linalg.inv(eye + system.Q @ S)
        eta, J = _pull_back(system, r, S)
        V = _symmetric(gain @ system.Q)
        return Element(gain @ system.A, V @ r, V, eta, J)

    all_ = jax.vmap(one)(r, S)
    V = _symmetric(jnp.linalg.solve(eye + system.P1 @ S[0], system.P1))
    b = system.m1 + V @ (r[0] - S[0] @ system.m1)
    zero = jnp.zeros((q, q), r.dtype)
    first = Element(zero, b, V, jnp.zeros(q, r.dtype), zero)
    return jax.tree.map(lambda x, x0: x.at[0].set(x0), all_, first)


def _join(early: Element, late: Element) -> Element:
    """Two stretches, the late one right after the early one, as one (lemma 8); over leading axes.

    Between them lies x ~ N(F x_before + b, V), of which the late one says η and J.
    """
    eye = jnp.eye(early.b.shape[-1], dtype=early.b.dtype)
    turned = jnp.swapaxes(eye + early.V @ late.J, -1, -2)
    # F_late (I + V J)⁻¹
    forth = jnp.swapaxes(jnp.linalg.solve(turned, jnp.swapaxes(late.F, -1, -2)), -1, -2)
    # F_earlyᵀ (I + J V)⁻¹
    back = jnp.swapaxes(jnp.linalg.solve(eye + early.V @ late.J, early.F), -1, -2)
    dot = lambda M, v: jnp.einsum("...ij,...j->...i", M, v)
    return Element(
        F=forth @ early.F,
        b=dot(forth, early.b + dot(early.V, late.eta)) + late.b,
        V=_symmetric(forth @ early.V @ jnp.swapaxes(late.F, -1, -2) + late.V),
        eta=dot(back, late.eta - dot(late.J, early.b)) + early.eta,
        J=_symmetric(back @ late.J @ early.F + early.J),
    )


# --------------------------------------------------------------------------------- what may come


def simulate(key: Key, system: System, length: int, start: tuple[Array, Array] | None = None):
    """A series drawn from the system: (y [T, p], x [T, q]).

    Args:
      key: the dice.
      system: the system.
      length: T.
      start: mean [q] and covariance [q, q] of the first state; None takes the system's own.
    """
    key_first, key_w, key_u = jax.random.split(key, 3)
    m, P = start or (system.m1, system.P1)
    q, p = m.size, system.d.size
    x1 = m + _root(P) @ jax.random.normal(key_first, (q,), m.dtype)
    w = jax.random.normal(key_w, (length, q), m.dtype) @ _root(system.Q).T

    def step(x: Array, w: Array) -> tuple[Array, Array]:
        return system.A @ x + w, x

    _, x = jax.lax.scan(step, x1, w)
    u = jnp.sqrt(system.R) * jax.random.normal(key_u, (length, p), m.dtype)
    return x @ system.C.T + system.d + u, x


def ahead(system: System, y: Array) -> tuple[Array, Array]:
    """Mean and covariance of the state right after a series [T, p] has ended."""
    found = filter(system, y)
    return _move(system, found.mean[-1], found.cov[-1])


def forecast(system: System, y: Array, steps: int) -> tuple[Array, Array]:
    """Mean and standard deviation of what a series [T, p] will show next: [steps, p] each.

    y lies within mean ± 1.96 deviations with probability .95, if the system is the right one.
    """

    def step(state: tuple[Array, Array], _: None) -> tuple:
        m, P = state
        variance = jnp.einsum("pi,ij,pj->p", system.C, P, system.C) + system.R
        return _move(system, m, P), (system.C @ m + system.d, jnp.sqrt(variance))

    return jax.lax.scan(step, ahead(system, y), None, steps)[1]


def spectral_radius(A: Array, doublings: int = 12) -> Array:
    """The largest modulus of an eigenvalue of A [], by Gelfand: lim ‖A^n‖^(1/n), n = 2^doublings.

    On any device; within a factor of q^(1/n). Below 1 the states forget, above 1 they explode.
    """

    def square(carry: tuple[Array, Array], _: None) -> tuple:
        M, log_size = carry
        size = jnp.linalg.norm(M)
        M = M / jnp.where(size > 0, size, 1.0)
        return (M @ M, 2 * (log_size + jnp.log(size))), None

    zero = jnp.zeros((), A.dtype)
    (M, log_size), _ = jax.lax.scan(square, (A, zero), None, doublings)
    return jnp.exp((log_size + jnp.log(jnp.linalg.norm(M))) / 2**doublings)


def _root(P: Array) -> Array:
    """L with L Lᵀ = P, which may be singular."""
    value, vector = jnp.linalg.eigh(P)
    return vector * jnp.sqrt(jnp.maximum(value, 0.0))


def _symmetric(P: Array) -> Array:
    return (P + jnp.swapaxes(P, -1, -2)) / 2
