"""Linear dynamical system: an appearance, and a state that moves; learnt by EM.

    y_t = C x_t + d + u_t,        u_t ~ N(0, R)            appearance
    x_t = A x_{t-1} + w_t,        w_t ~ N(0, Q)            state,   x_1 ~ N(m_1, P_1)

Everything is Gaussian, so that log p(y_1, ..., y_T) is exact, whatever of y is missing (NaN), and
the states are smoothed in closed form (kalman.py). EM asks what the states were and then regresses:
Shumway & Stoffer, An approach to time series smoothing and forecasting using the EM algorithm,
1982; Ghahramani & Hinton, Parameter estimation for linear dynamical systems, 1996. It starts where
the closed form of Doretto, Chiuso, Wu & Soatto, Dynamic textures, 2003, ends, "subspace
identification": states are the leading singular vectors of the frames, and A regresses each on the
last.

    structure         A                        C          x
    free              learnt                   learnt     what the frames have in common
    local_level       1                        1          a level that wanders (Durbin & Koopman)
    autoregressive    (a_1 .. a_p) and lags    (1 0 ..)   the last p values: AR(p)

An example is a whole series: [T, D], frames [T, H, W, C], or an image, whose rows are its times.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from flax import struct

from genjax_zoo import kalman
from genjax_zoo.contract import (
    Array,
    Batch,
    ConfigError,
    DataError,
    Evidence,
    Info,
    Key,
    Measure,
    Model,
)
from genjax_zoo.learn import em, learnt, of_params

VERB = "em"


@dataclasses.dataclass(frozen=True)
class Config:
    """A linear dynamical system. EM takes each batch by itself: give it all series at once.

    Attributes:
      states: q, the numbers in a state; the order p of "autoregressive"; "local_level" has one for
        each number that is seen, whatever this says.
      structure: as above.
      start: where "free" begins: "subspace" or "random".
      noise: R: a variance for each number that is seen, or one for all ("isotropic").
      initial_variance: of the first state where the structure is "local_level"; large says that
        nothing is known of it.
      seen_through: the variance of the observations' noise of "autoregressive", as a fraction of
        the data's; it is not learnt. At 0 the model would be AR(p) itself.
      least_variance: of Q's and R's directions, as a fraction of the data's variance.
      stable: "report" tells the spectral radius of A; "enforce" also shrinks A where it is above
        `radius`, so that what is sampled cannot explode.
      radius: the largest spectral radius of "enforce".
      parallel: whether filters and smoothers run in O(log T) steps on enough processors.
    """

    states: int = 8
    structure: Literal["free", "local_level", "autoregressive"] = "free"
    start: Literal["subspace", "random"] = "subspace"
    noise: Literal["diagonal", "isotropic"] = "diagonal"
    initial_variance: float = 1e7
    seen_through: float = 1e-4
    least_variance: float = 1e-6
    stable: Literal["report", "enforce"] = "report"
    radius: float = 0.999
    parallel: bool = False

    def __post_init__(self):
        if self.states < 1:
            raise ConfigError(
                f"linear_dynamical_system: states should be at least 1, got {self.states}."
            )
        for name in ("initial_variance", "seen_through", "least_variance"):
            if getattr(self, name) <= 0:
                raise ConfigError(
                    f"linear_dynamical_system: {name} should be positive, got "
                    f"{getattr(self, name)}."
                )
        if not 0 < self.radius < 1:
            raise ConfigError(
                f"linear_dynamical_system: radius should lie in (0, 1), got {self.radius}; at 1 "
                "nothing is ever forgotten."
            )


@struct.dataclass
class Params:
    """What a linear dynamical system learns.

    Attributes:
      system: A, Q, C, d, R, m_1, P_1.
      least: the least variance of each number that is seen [p].
      shape: of one time of a series; its product is p.
      length: T of the first batch, and of samples.
    """

    system: kalman.System
    least: Array
    shape: tuple[int, ...] = struct.field(pytree_node=False)
    length: int = struct.field(pytree_node=False)


@struct.dataclass
class Statistics:
    """Expectations under the smoothed states, summed over series and times.

    They are those of residuals of the present parameters, so that in float32 no variance is a small
    difference of large numbers.

    Attributes:
      params: the present ones.
      series: how many [].
      first, first_square: Σ δ and Σ E[δδᵀ], δ = x_1 - m_1: [q], [q, q].
      moves: how many steps from one time to the next [].
      before: Σ E[x_{t-1} x_{t-1}ᵀ] [q, q].
      moved: Σ E[w x_{t-1}ᵀ], w = x_t - A x_{t-1} [q, q].
      moved_square: Σ E[w wᵀ] [q, q].
      seen: how often each number is seen [p].
      regressors: Σ E[z zᵀ], z = (x_t, 1), over the times that a number is seen [p, q + 1, q + 1].
      off: Σ E[e zᵀ], e = y_t - d - C x_t [p, q + 1].
      off_square: Σ E[e²] [p].
    """

    params: Params
    series: Array
    first: Array
    first_square: Array
    moves: Array
    before: Array
    moved: Array
    moved_square: Array
    seen: Array
    regressors: Array
    off: Array
    off_square: Array


def make(config: Config, tx: optax.GradientTransformation | None = None) -> Model:
    """A linear dynamical system by EM; there is no gradient, and the optimizer is not used."""

    def begin(key: Key, batch: Batch) -> tuple[Params, Statistics]:
        y = series(batch["x"])
        p, T = y.shape[2], y.shape[1]
        if T < 2:
            raise DataError(
                f"linear_dynamical_system: expected series of at least 2 times, got x of shape "
                f"{batch['x'].shape}; its second axis is time."
            )
        variance = jnp.maximum(jnp.nanvar(y, axis=(0, 1)), 1e-12)
        system = START[config.structure](config, key, y, variance)
        params = Params(
            system,
            # A number that never changes, like a corner of a clip, is as certain as the others.
            least=config.least_variance * jnp.maximum(variance, jnp.mean(variance)),
            shape=tuple(batch["x"].shape[2:]),
            length=T,
        )
        q = system.m1.size
        none = lambda *shape: jnp.zeros(shape, y.dtype)
        nothing = Statistics(
            params,
            *(none(), none(q), none(q, q), none(), none(q, q), none(q, q), none(q, q)),
            *(none(p), none(p, q + 1, q + 1), none(p, q + 1), none(p)),
        )
        return params, nothing

    def expect(key: Key, params: Params, batch: Batch) -> tuple[Statistics, Info]:
        y, system = series(batch["x"]), params.system
        smooth = lambda y: kalman.smooth(system, y, config.parallel)
        x = jax.vmap(smooth)(y)
        info = {
            "log_likelihood": jnp.mean(x.filtered.log_prob.sum(-1)),
            "spectral_radius": kalman.spectral_radius(system.A),
        }
        return expectations(params, y, x), info

    def maximise(s: Statistics) -> Params:
        free, old = config.structure == "free", s.params.system
        # A ← A + E[w xᵀ] E[x xᵀ]⁻¹,   Q ← (E[w wᵀ] - ΔA E[x wᵀ]) / n
        change = _regress(s.before, s.moved)
        if config.structure == "autoregressive":
            change = change.at[1:].set(0.0)
        if config.structure == "local_level":
            change = jnp.zeros_like(change)
        A = old.A + change
        Q = s.moved_square - change @ s.moved.T - s.moved @ change.T + change @ s.before @ change.T
        Q = Q / s.moves
        if config.structure == "local_level":
            # Each level wanders by itself.
            Q = jnp.diag(jnp.diag(Q))
        if config.structure == "autoregressive":
            Q = jnp.zeros_like(Q).at[0, 0].set(Q[0, 0])
        if config.stable == "enforce":
            A = A * jnp.minimum(1.0, config.radius / kalman.spectral_radius(A))
        # (C d) ← (C d) + E[e zᵀ] E[z zᵀ]⁻¹,   R ← (E[e²] - ΔW E[z e]) / n
        change = jax.vmap(_regress)(s.regressors, s.off[:, None])[:, 0]
        if config.structure == "autoregressive":
            # d alone
            constant = s.off[:, -1] / jnp.maximum(s.seen, 1)
            change = jnp.zeros_like(change).at[:, -1].set(constant)
        if config.structure == "local_level":
            change = jnp.zeros_like(change)
        squares = s.off_square - 2 * jnp.sum(change * s.off, -1)
        squares += jnp.einsum("pi,pij,pj->p", change, s.regressors, change)
        R = squares / jnp.maximum(s.seen, 1)
        if config.noise == "isotropic":
            R = jnp.full_like(R, jnp.sum(squares) / jnp.sum(s.seen))
        R = jnp.maximum(R, s.params.least)
        if config.structure == "autoregressive":
            R = old.R
        # m_1 ← m_1 + E[δ],   P_1 ← E[δδᵀ] - E[δ] E[δ]ᵀ
        first = s.first / s.series
        m1, P1 = old.m1 + first, s.first_square / s.series - jnp.outer(first, first)
        if config.structure == "local_level":
            m1, P1 = old.m1, old.P1
        system = kalman.System(
            A=A,
            Q=_at_least(Q, jnp.min(s.params.least)) if free else Q,
            C=old.C + change[:, :-1],
            d=old.d + change[:, -1],
            R=R,
            m1=m1,
            P1=(P1 + P1.T) / 2,
        )
        return dataclasses.replace(s.params, system=system)

    def log_prob(key: Key, params: Params, batch: Batch) -> Array:
        """log p(y_1, ..., y_T) of each whole series [B], what is missing left out."""
        own = lambda y: kalman.log_prob(params.system, y, config.parallel)
        return jax.vmap(own)(series(batch["x"]))

    def one_step(key: Key, params: Params, batch: Batch) -> Array:
        """Mean squared error of what the past says of the next time, over all that is seen."""
        y, system = series(batch["x"]), params.system

        def own(y: Array) -> Array:
            said = kalman.filter(system, y, config.parallel).predicted_mean @ system.C.T + system.d
            return jnp.nanmean((y - said)[1:] ** 2)

        return jax.vmap(own)(y)

    def encode(key: Key, params: Params, batch: Batch) -> Array:
        """E[x_t | y]: [B, T, q]."""
        own = lambda y: kalman.smooth(params.system, y, config.parallel).mean
        return jax.vmap(own)(series(batch["x"]))

    def decode(params: Params, latents: Array) -> Batch:
        """C x + d of states [B, T, q]."""
        y = latents @ params.system.C.T + params.system.d
        return {"x": y.reshape(*y.shape[:2], *params.shape)}

    def sample(
        key: Key, params: Params, n: int, length: int | None = None, x: Array | None = None
    ) -> Batch:
        """New series, or ways in which a given one may go on.

        Args:
          key: the dice.
          params: of the system.
          n: how many.
          length: T of each; None takes that of the first batch.
          x: [T, ...], a series that these go on from; None starts anew.

        Raises DataError for a series of another shape.
        """
        T, start = length or params.length, None
        if x is not None:
            x = jnp.asarray(x, params.system.d.dtype)
            if x.shape[1:] != params.shape:
                raise DataError(
                    "linear_dynamical_system: expected a series of shape "
                    f"[T, {', '.join(map(str, params.shape))}] to go on from, got {x.shape}."
                )
            start = kalman.ahead(params.system, x.reshape(len(x), -1))
        draw = lambda key: kalman.simulate(key, params.system, T, start)[0]
        return {"x": jax.vmap(draw)(jax.random.split(key, n)).reshape(n, T, *params.shape)}

    init, step = em(begin, expect, maximise, keep=0.0)
    return Model(
        init,
        step,
        sample=of_params(sample),
        log_prob=of_params(log_prob),
        evidence=Evidence.EXACT,
        encode=of_params(encode),
        decode=lambda state, latents: decode(learnt(state), latents),
        measures={
            "one_step": Measure(of_params(one_step), Evidence.EXACT, "squared error", "lower")
        },
    )


def series(x: Array) -> Array:
    """[B, T, ...] -> [B, T, p]."""
    return x.reshape(*x.shape[:2], math.prod(x.shape[2:]))


def expectations(params: Params, y: Array, x: kalman.Smoothed) -> Statistics:
    """What EM maximises with: sums over the series y [B, T, p] with smoothed states x."""
    s, m, P = params.system, x.mean, x.cov
    delta = m[:, 0] - s.m1
    total = lambda a: a.sum((0, 1))
    outer = lambda a, b: jnp.einsum("bti,btj->ij", a, b)
    # w_t = x_t - A x_{t-1}, whose mean is small where the means of the states are not
    w, back = m[:, 1:] - m[:, :-1] @ s.A.T, m[:, :-1]
    P_back, lagged = total(P[:, :-1]), total(x.lagged)
    moved_square = outer(w, w) + total(P[:, 1:])
    moved_square += s.A @ P_back @ s.A.T - s.A @ lagged.T - lagged @ s.A.T
    # e_t = y_t - d - C x_t where y is seen
    seen = (~jnp.isnan(y)).astype(m.dtype)
    e = jnp.where(seen > 0, y - s.d - m @ s.C.T, 0.0)
    z = jnp.concatenate([m, jnp.ones_like(m[..., :1])], -1)
    P_seen = jnp.einsum("btp,btij->pij", seen, P)
    CP = jnp.einsum("pi,pij->pj", s.C, P_seen)
    widen = lambda a, axes: jnp.pad(a, [(0, 0)] * (a.ndim - axes) + [(0, 1)] * axes)
    return Statistics(
        params,
        series=jnp.asarray(len(y), m.dtype),
        first=delta.sum(0),
        first_square=jnp.einsum("bi,bj->ij", delta, delta) + P[:, 0].sum(0),
        moves=jnp.asarray(len(y) * (y.shape[1] - 1), m.dtype),
        before=outer(back, back) + P_back,
        moved=outer(w, back) + lagged - s.A @ P_back,
        moved_square=moved_square,
        seen=total(seen),
        regressors=jnp.einsum("btp,bti,btj->pij", seen, z, z) + widen(P_seen, 2),
        off=jnp.einsum("btp,bti->pi", e, z) - widen(CP, 1),
        off_square=total(e**2) + jnp.einsum("pi,pi->p", CP, s.C),
    )


def _regress(square: Array, product: Array) -> Array:
    """product · square⁻¹ [r, k]; along directions that were never seen, no change at all."""
    k = len(square)
    ridge = 1e-7 * jnp.trace(square) / k + jnp.finfo(square.dtype).tiny
    return jnp.linalg.solve(square + ridge * jnp.eye(k, dtype=square.dtype), product.T).T


def _at_least(Q: Array, least: Array) -> Array:
    """Q with no direction of a variance below `least`."""
    value, vector = jnp.linalg.eigh((Q + Q.T) / 2)
    return (vector * jnp.maximum(value, least)) @ vector.T


# ----------------------------------------------------------------------------- where EM begins


def _free(config: Config, key: Key, y: Array, variance: Array) -> kalman.System:
    if config.start == "subspace":
        return subspace(y, config.states)
    q, p = config.states, y.shape[2]
    key_A, key_C = jax.random.split(key)
    turn = jnp.linalg.qr(jax.random.normal(key_A, (q, q), y.dtype))[0]
    return kalman.System(
        A=0.9 * turn,
        Q=0.19 * jnp.eye(q, dtype=y.dtype),
        C=jnp.sqrt(variance / (2 * q))[:, None] * jax.random.normal(key_C, (p, q), y.dtype),
        d=jnp.nanmean(y, axis=(0, 1)),
        R=variance / 2,
        m1=jnp.zeros(q, y.dtype),
        P1=jnp.eye(q, dtype=y.dtype),
    )


def _local_level(config: Config, key: Key, y: Array, variance: Array) -> kalman.System:
    p = y.shape[2]
    eye = jnp.eye(p, dtype=y.dtype)
    return kalman.System(
        A=eye,
        Q=jnp.diag(variance / 2),
        C=eye,
        d=jnp.zeros(p, y.dtype),
        R=variance / 2,
        m1=jnp.zeros(p, y.dtype),
        P1=config.initial_variance * eye,
    )


def _autoregressive(config: Config, key: Key, y: Array, variance: Array) -> kalman.System:
    q = config.states
    if y.shape[2] != 1:
        raise DataError(
            "linear_dynamical_system: autoregressive is for one number at a time, and this series "
            f"has {y.shape[2]}; set model.structure to 'free'."
        )
    # x_t = (y_t - d, ..., y_{t-q+1} - d): the first row predicts, the others remember.
    A = jnp.eye(q, k=-1, dtype=y.dtype)
    return kalman.System(
        A=A,
        Q=jnp.zeros((q, q), y.dtype).at[0, 0].set(variance[0]),
        C=jnp.eye(1, q, dtype=y.dtype),
        d=jnp.nanmean(y, axis=(0, 1)),
        R=config.seen_through * variance,
        m1=jnp.zeros(q, y.dtype),
        P1=variance[0] * jnp.eye(q, dtype=y.dtype),
    )


START = {"free": _free, "local_level": _local_level, "autoregressive": _autoregressive}


def subspace(y: Array, q: int) -> kalman.System:
    """Subspace identification in closed form (Doretto et al. 2003, section 4).

        Y = [y_1 - d, ..., y_T - d] = U Σ Vᵀ,     C = U_q,     x = Σ_q V_qᵀ

        A = argmin Σ ‖x_t - A x_{t-1}‖²,     Q, R: of what is left

    Where there are more states than numbers seen, each column holds several times, one below the
    other, and C is U's first block of rows (Van Overschee & De Moor 1994).

    Args:
      y: series [B, T, p]; what is missing counts as the mean.
      q: how many states.

    Raises DataError where the series are too short for so many states.
    """
    B, T, p = y.shape
    lags = 1 if p > q else -(-q // p) + 1
    columns = B * (T - lags + 1)
    if q > min(lags * p, columns) or T - lags < 1:
        raise DataError(
            f"linear_dynamical_system: {q} states cannot be told from {B} series of {T} times of "
            f"{p} numbers; set model.states to fewer, or model.start to 'random'."
        )
    d = jnp.nanmean(y, axis=(0, 1))
    centred = jnp.where(jnp.isnan(y), 0.0, y - d)
    # [B, T - lags + 1, lags p]
    stacked = jnp.concatenate([centred[:, k : T - lags + 1 + k] for k in range(lags)], axis=-1)
    U, size, Vt = jnp.linalg.svd(stacked.reshape(columns, -1).T, full_matrices=False)
    # In units of their own size, states have a variance of about 1.
    size = size[:q] / jnp.sqrt(columns)
    size = jnp.maximum(size, 1e-6 * size[0] + 1e-12)
    C = U[:p, :q] * size
    x = (Vt[:q].T * jnp.sqrt(columns)).reshape(B, T - lags + 1, q)
    flat = lambda a: a.reshape(-1, a.shape[-1])
    now, before = flat(x[:, 1:]), flat(x[:, :-1])
    A = _regress(before.T @ before, now.T @ before)
    w = now - before @ A.T
    e = flat(centred[:, : T - lags + 1] - x @ C.T)
    variance = jnp.mean(centred**2, axis=(0, 1))
    least = 1e-4 * jnp.maximum(variance, jnp.mean(variance)) + 1e-12
    return kalman.System(
        A=A,
        Q=w.T @ w / len(w) + 1e-6 * jnp.eye(q, dtype=y.dtype),
        C=C,
        d=d,
        R=jnp.maximum(jnp.mean(e**2, 0), least),
        m1=jnp.mean(x[:, 0], axis=0),
        P1=jnp.cov(flat(x).T).reshape(q, q).astype(y.dtype),
    )
