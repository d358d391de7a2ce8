"""Linear dynamical systems: states that move linearly, and how they look; learnt by EM.

    x_1 ~ N(m_1, P_1),    x_t = A x_{t-1} + w_t,    w_t ~ N(0, Q)     what moves: the state
                          y_t = C x_t + d + u_t,    u_t ~ N(0, R)     what is seen: the appearance

With the states of a clip and the appearance of its frames these are dynamic textures (Doretto,
Chiuso, Wu & Soatto 2003), whose closed form by the singular value decomposition is where EM
(Shumway & Stoffer 1982; Ghahramani & Hinton 1996) starts. Special cases, by `structure`:

    free             A, C, d, Q, R, m_1, P_1 are learnt
    local_level      A = C = I, d = 0: a random walk seen through noise; variances are learnt
    autoregressive   y_t - d = Σ_i Φ_i (y_t-i - d) + ε_t: the states are the last values, R = 0

An example is a series [T, D], a clip [T, H, W, C], an image [H, W, C] whose rows are its times, or
[T], a number at each time. NaN is missing: it is integrated out, exactly. The likelihood is that of
genjax_zoo/kalman.py, in nats per unit volume of what is seen.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from genjax_zoo.contract import (
    Array,
    Batch,
    ConfigError,
    DataError,
    Exactness,
    Info,
    Key,
    Latents,
    Measure,
    Model,
)
from genjax_zoo.learn.state import eval_params, of_params
from genjax_zoo.learn.verbs import em
from genjax_zoo.maths.inference import kalman
from genjax_zoo.maths.inference.kalman import Forecast, System, masked, spectral_radius

VERB = "em"

PARTS = ("A", "Q", "C", "d", "R", "start")
LEARNT = {"free": PARTS, "local_level": ("Q", "R"), "autoregressive": ("A", "Q")}
"""What each structure learns of its system; `start` is m_1 and P_1."""


@dataclasses.dataclass(frozen=True)
class Config:
    """A linear dynamical system.

    Attributes:
      structure: "free", "local_level" or "autoregressive".
      states: q, of a free one. A level has as many as there are numbers at a time.
      ar: how many values back an autoregression looks.
      noise: R is "diagonal", "isotropic" (one variance) or "full".
      start: where EM begins a free one: "subspace", the closed form of the first batch, or
        "random".
      fixed: which of A, Q, C, d, R and start stay as they begin. From one series alone P_1 would
        shrink to nothing: fix its start.
      diffuse: variance of a level's first state, whose mean is 0; wide where the level is unknown.
      stable: "report" the spectral radius ρ(A), or "enforce" ρ(A) <= radius in every step, by
        shrinking all eigenvalues of A alike; Q is then the best for that A.
      radius: the largest that is let be.
      imagined: ν, how many moves, looks and starts like those of the first system count besides the
        data's: a conjugate prior about it (matrix normal, inverse Wishart), for data that are fewer
        than parameters. EM then never lowers likelihood times prior; 0 is maximum likelihood.
      ridge: no variance is below this fraction of the data's.
      keep: what remains of the old statistics at each step: 0 is EM on each batch, for batches of
        all data; above it lies stepwise EM, for minibatches.
      parallel: all times at once, for a long series on a wide machine (a GPU).
    """

    structure: Literal["free", "local_level", "autoregressive"] = "free"
    states: int = 8
    ar: int = 1
    noise: Literal["diagonal", "isotropic", "full"] = "diagonal"
    start: Literal["subspace", "random"] = "subspace"
    fixed: tuple[str, ...] = ()
    diffuse: float = 1e7
    stable: Literal["report", "enforce"] = "report"
    radius: float = 0.999
    imagined: float = 0.0
    ridge: float = 1e-6
    keep: float = 0.0
    parallel: bool = False

    def __post_init__(self):
        for name in ("states", "ar"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"linear_dynamical_system: {name} should be at least 1, got "
                    f"{getattr(self, name)}."
                )
        if unknown := sorted(set(self.fixed) - set(PARTS)):
            raise ConfigError(
                f"linear_dynamical_system: fixed should name some of {', '.join(PARTS)}, got "
                f"{', '.join(unknown)}."
            )
        if self.diffuse <= 0 or self.imagined < 0:
            raise ConfigError(
                "linear_dynamical_system: diffuse should be positive and imagined not negative, "
                f"got {self.diffuse} and {self.imagined}."
            )
        if not 0 <= self.keep <= 1:
            raise ConfigError(
                f"linear_dynamical_system: keep should lie in 0 .. 1, got {self.keep}."
            )
        if not 0 < self.radius <= 1:
            raise ConfigError(
                f"linear_dynamical_system: radius should lie in 0 .. 1, got {self.radius}."
            )
        if not 1e-9 <= self.ridge <= 1:
            raise ConfigError(
                f"linear_dynamical_system: ridge should lie in 1e-9 .. 1, got {self.ridge}; below, "
                "a variance may be lost to rounding."
            )


@struct.dataclass
class Reference:
    """Where learning began; sums are taken about it, lest a variance be a difference of large ones.

    Attributes:
      system: A_0, Q_0, C_0, d_0, R_0, m_0, P_0.
      spread: the mean variance of the data [], which floors are fractions of.
    """

    system: System
    spread: Array


@struct.dataclass
class Params:
    """What is learnt.

    Attributes:
      system: A, Q, C, d, R, m_1, P_1.
      reference: where it began.
      shape: of one example, without the batch; its first axis is time.
    """

    system: System
    reference: Reference
    shape: tuple[int, ...] = struct.field(pytree_node=False)


@struct.dataclass
class Statistics:
    """Expected sums, given the series, about the reference.

    With w_t = x_t - A_0 x_t-1, u_t = y_t - C_0 x_t - d_0, z_t = [x_t; 1] and x = x_t-1; r = p rows,
    each with the times that it is seen at, or r = 1 for a full R:

    Attributes:
      moves: how many []; ww, wx, xx: Σ E[w wᵀ], Σ E[w xᵀ], Σ E[x xᵀ], [q, q] each.
      looks: how many [r]; uu: Σ E[u²] [p] or Σ E[u uᵀ] [p, p]; uz: Σ E[u zᵀ] [p, q + 1];
        zz: Σ E[z zᵀ] [r, q + 1, q + 1].
      starts: how many series []; s, ss: Σ E[x_1 - m_0] [q], Σ E[(x_1 - m_0)(x_1 - m_0)ᵀ] [q, q].
      reference: the point itself.
      shape: of one example.
    """

    moves: Array
    ww: Array
    wx: Array
    xx: Array
    looks: Array
    uu: Array
    uz: Array
    zz: Array
    starts: Array
    s: Array
    ss: Array
    reference: Reference
    shape: tuple[int, ...] = struct.field(pytree_node=False)


def make(config: Config, tx: optax.GradientTransformation | None = None) -> Model:
    """Linear dynamical systems by EM; there is no gradient, and the optimizer is not used."""
    learns = tuple(part for part in LEARNT[config.structure] if part not in config.fixed)
    dense = config.noise == "full" and config.structure != "autoregressive"

    # ------------------------------------------------------------------------------- the start

    def begin(key: Key, batch: Batch) -> tuple[Params, Statistics]:
        """The closed form of the first batch, or what the structure says.

        Raises DataError for examples of a single time.
        """
        y, shape = frames(batch["x"]), tuple(batch["x"].shape[1:])
        T = y.shape[1]
        if T < 2:
            raise DataError(
                "linear_dynamical_system: expected examples of two times or more, got "
                f"{list(shape)}; the first axis of an example is time."
            )
        d, e, variance = centred(y)
        if config.structure == "local_level":
            system = first_level(variance)
        elif config.structure == "autoregressive":
            system = first_autoregression(d, variance)
        elif config.start == "subspace":
            system = subspace(e, d, variance, config.states)
        else:
            system = first_random(key, d, variance)
        if dense:
            system = dataclasses.replace(system, R=jnp.diag(system.R))
        elif config.noise == "isotropic":
            system = dataclasses.replace(system, R=jnp.full_like(system.R, jnp.mean(system.R)))
        # ρ(A) <= radius from the first system on
        system = dataclasses.replace(system, A=shrunk(system.A, y.shape[2]))
        reference = Reference(system, jnp.mean(variance))
        return Params(system, reference, shape), nothing(reference, shape)

    def nothing(reference: Reference, shape: tuple[int, ...]) -> Statistics:
        p, q = reference.system.C.shape
        dtype, r = reference.system.A.dtype, 1 if dense else p
        zeros = lambda *axes: jnp.zeros(axes, dtype)
        square = zeros(q, q)
        uu = zeros(p, p) if dense else zeros(p)
        return Statistics(
            *(zeros(), square, square, square),
            *(zeros(r), uu, zeros(p, q + 1), zeros(r, q + 1, q + 1)),
            *(zeros(), zeros(q), square),
            *(reference, shape),
        )

    def first_level(variance: Array) -> System:
        """A = C = I, d = 0; half of the variance moves the level, half is noise."""
        p = variance.size
        eye, zero = jnp.eye(p, dtype=variance.dtype), jnp.zeros_like(variance)
        return System(
            eye, jnp.diag(variance / 2), eye, zero, variance / 2, zero, eye * config.diffuse
        )

    def first_autoregression(d: Array, variance: Array) -> System:
        """Φ = 0 in companion form: the state is (y_t - d, .., y_t-ar+1 - d)."""
        p, q = d.size, d.size * config.ar
        A, eye = jnp.eye(q, k=-p, dtype=d.dtype), jnp.eye(q, dtype=d.dtype)
        Q = jnp.zeros((q, q), d.dtype).at[:p, :p].set(jnp.diag(variance))
        P1 = jnp.diag(jnp.tile(variance, config.ar))
        return System(A, Q, eye[:p], d, jnp.zeros_like(d), jnp.zeros(q, d.dtype), P1)

    def first_random(key: Key, d: Array, variance: Array) -> System:
        """Slowly turning states, seen at random, that account for the variance."""
        key_A, key_C = jax.random.split(key)
        q, spread = config.states, jnp.mean(variance)
        eye = jnp.eye(q, dtype=d.dtype)
        A = 0.9 * jax.random.orthogonal(key_A, q, dtype=d.dtype)
        C = jax.random.normal(key_C, (d.size, q), d.dtype) / math.sqrt(q)
        V = spread * eye
        # V = A V Aᵀ + Q
        return System(A, (1 - 0.9**2) * V, C, d, variance / 2, jnp.zeros(q, d.dtype), V)

    # ----------------------------------------------------------------------------------- learning

    @jax.default_matmul_precision("highest")
    def expect(key: Key, params: Params, batch: Batch) -> tuple[Statistics, Info]:
        """Expected sums over the batch's series, by the smoother."""
        y, s, ref = frames(batch["x"]), params.system, params.reference.system
        found = jax.vmap(lambda y: kalman.smooth(s, y, config.parallel))(y)
        x, P, L = found.mean, found.cov, found.lagged
        B, T, p = y.shape
        q = x.shape[-1]
        # w_t = x_t - A_0 x_t-1
        before, P_before = x[:, :-1].reshape(-1, q), P[:, :-1].sum((0, 1))
        w, P_after = x[:, 1:].reshape(-1, q) - before @ ref.A.T, P[:, 1:].sum((0, 1))
        across = L.sum((0, 1)) - ref.A @ P_before
        # E[w wᵀ] = ŵ ŵᵀ + P_t - A_0 Lᵀ - (L - A_0 P_t-1) A_0ᵀ
        ww = w.T @ w + P_after - ref.A @ L.sum((0, 1)).T - across @ ref.A.T
        wx = w.T @ before + across
        xx = before.T @ before + P_before
        # x_1 - m_0
        first = x[:, 0] - ref.m1
        ss = first.T @ first + P[:, 0].sum(0)
        seen = (looks_dense if dense else looks)(s, ref, y.reshape(-1, p), x.reshape(-1, q), P)
        dtype = x.dtype
        moves, starts = jnp.asarray(B * (T - 1), dtype), jnp.asarray(B, dtype)
        # The reference is no sum: what is kept of it and what is added make it whole again.
        added = jax.tree.map(lambda a: (1 - config.keep) * a, params.reference)
        info = {
            "log_prob": jnp.mean(found.filtered.log_prob.sum(1)),
            "spectral_radius": spectral_radius(s.A),
            "moved_variance": jnp.trace(s.Q) / q,
            "noise_variance": jnp.mean(jnp.diagonal(s.R) if s.R.ndim == 2 else s.R),
        }
        n, uu, uz, zz = seen
        sums = (moves, ww, wx, xx, n, uu, uz, zz, starts, first.sum(0), ss)
        return Statistics(*sums, added, params.shape), info

    def looks(s: System, ref: System, y: Array, x: Array, P: Array) -> tuple[Array, ...]:
        """(how many, uu, uz, zz) of diagonal noise: each number has its own times [N]."""
        o = (~jnp.isnan(y)).astype(x.dtype)
        p, q = ref.C.shape
        # E[u z] and E[u²], with Σ_t P_t over the times of each number [p, q, q]
        spread = (o.T @ P.reshape(-1, q * q)).reshape(p, q, q)
        u = jnp.where(o > 0, y - x @ ref.C.T - ref.d, 0)
        z = jnp.concatenate([x, jnp.ones_like(x[:, :1])], -1)
        seen_cov = jnp.einsum("pi,pij->pj", ref.C, spread)
        uu = jnp.sum(u**2, 0) + jnp.sum(seen_cov * ref.C, -1)
        uz = u.T @ z - jnp.pad(seen_cov, ((0, 0), (0, 1)))
        products = (z[:, :, None] * z[:, None]).reshape(-1, (q + 1) ** 2)
        zz = (o.T @ products).reshape(p, q + 1, q + 1) + jnp.pad(spread, ((0, 0), (0, 1), (0, 1)))
        return o.sum(0), uu, uz, zz

    def looks_dense(s: System, ref: System, y: Array, x: Array, P: Array) -> tuple[Array, ...]:
        """The same of full noise; what is missing of a time is expected, like a state."""
        q = ref.C.shape[1]

        def one(y: Array, x: Array, P: Array) -> tuple[Array, Array, Array]:
            o = (~jnp.isnan(y)).astype(x.dtype)
            # K = R_·o R_oo⁻¹:  E[u | u_o] = K u_o,  Cov(u | u_o) = R - K R_o·
            across = s.R * o
            K = kalman.solve(masked(s.R, o), across.T)[0].T * o
            e = jnp.where(o > 0, y - s.C @ x - s.d, 0)
            # u about the reference is a + G (x - x̂) + the rest
            a = K @ e + (s.C - ref.C) @ x + s.d - ref.d
            G = s.C - ref.C - K @ s.C
            z, left = jnp.append(x, 1), s.R - K @ across.T
            uu = jnp.outer(a, a) + G @ P @ G.T + left
            uz = jnp.outer(a, z) + jnp.pad(G @ P, ((0, 0), (0, 1)))
            return uu, uz, jnp.outer(z, z) + jnp.pad(P, ((0, 1), (0, 1)))

        uu, uz, zz = (a.sum(0) for a in jax.vmap(one)(y, x, P.reshape(-1, q, q)))
        return jnp.full(1, len(y), x.dtype), uu, uz, zz[None]

    @jax.default_matmul_precision("highest")
    def maximise(n: Statistics) -> Params:
        ref, floor = n.reference.system, config.ridge * n.reference.spread
        nu, system = config.imagined, ref
        p, q = ref.C.shape
        # What the prior imagines: ν moves with E[w wᵀ] = Q_0, E[x xᵀ] = V_0 = P_0, and so on.
        moves, looks, starts = n.moves + nu, n.looks + nu, n.starts + nu
        xx, ww = n.xx + nu * ref.P1, n.ww + nu * ref.Q
        if "A" in learns:
            # A = A_0 + Σ E[w xᵀ] (Σ E[x xᵀ])⁻¹
            A = ref.A + free_rows(divided(n.wx, xx), p)
            system = dataclasses.replace(system, A=shrunk(A, p))
        if "Q" in learns:
            # Q = Σ E[(w - ΔA x)(w - ΔA x)ᵀ] / n
            change = system.A - ref.A
            half = change @ n.wx.T
            Q = (ww - half - half.T + change @ xx @ change.T) / moves
            if config.structure == "autoregressive":
                own = at_least(Q[:p, :p], floor)
                Q = jnp.zeros_like(Q).at[:p, :p].set(own)
            else:
                Q = at_least(Q, floor)
            system = dataclasses.replace(system, Q=Q)
        if "start" in learns:
            shift = n.s / starts
            P1 = (n.ss + nu * ref.P1) / starts - jnp.outer(shift, shift)
            system = dataclasses.replace(system, m1=ref.m1 + shift, P1=at_least(P1, floor))
        # [C d] = [C_0 d_0] + Σ E[u zᵀ] (Σ E[z zᵀ])⁻¹, in the columns that are learnt
        prior = jnp.zeros((q + 1, q + 1), xx.dtype).at[:q, :q].set(ref.P1).at[q, q].set(1)
        zz = n.zz + nu * prior
        columns = np.flatnonzero([*["C" in learns] * q, "d" in learns])
        D = jnp.zeros_like(n.uz)
        if len(columns):
            own = zz[:, columns][:, :, columns]
            if dense:
                D = D.at[:, columns].set(divided(n.uz[:, columns], own[0]))
            else:
                rows = jax.vmap(lambda u, z: divided(u[None], z)[0])(n.uz[:, columns], own)
                D = D.at[:, columns].set(rows)
            system = dataclasses.replace(system, C=ref.C + D[:, :q], d=ref.d + D[:, q])
        if "R" in learns and dense:
            half = D @ n.uz.T
            R = (n.uu + nu * ref.R - half - half.T + D @ zz[0] @ D.T) / looks
            system = dataclasses.replace(system, R=at_least(R, floor))
        elif "R" in learns:
            # R = Σ E[(u - D z)²] / n
            squares = n.uu + nu * ref.R - 2 * jnp.sum(D * n.uz, -1)
            squares += jnp.einsum("pi,pij,pj->p", D, zz, D)
            if config.noise == "isotropic":
                squares, looks = jnp.sum(squares), jnp.sum(looks)
            # A number that is never seen has the noise that it began with.
            R = jnp.where(looks > 0, squares / jnp.maximum(looks, 1e-30), ref.R)
            system = dataclasses.replace(system, R=jnp.maximum(jnp.broadcast_to(R, (p,)), floor))
        return Params(system, n.reference, n.shape)

    def free_rows(change: Array, p: int) -> Array:
        """Of a companion matrix only the first rows are learnt; the others are lags."""
        if config.structure != "autoregressive":
            return change
        return change * (jnp.arange(len(change)) < p)[:, None]

    def shrunk(A: Array, p: int) -> Array:
        """A with ρ(A) <= radius, if that is enforced: every eigenvalue times the same s <= 1.

        s A; of a companion matrix s^i Φ_i, which does the same to its eigenvalues.
        """
        if config.stable == "report" or "A" not in learns:
            return A
        s = jnp.minimum(1, config.radius / jnp.maximum(spectral_radius(A), 1e-30))
        if config.structure != "autoregressive":
            return s * A
        i = 1 + jnp.arange(len(A)) // p
        return jnp.where((jnp.arange(len(A)) < p)[:, None], A * s**i, A)

    # ------------------------------------------------------------------------------- what it tells

    def log_prob(key: Key, params: Params, batch: Batch) -> Array:
        """log p(y) of each whole series, of what is known of it."""
        of = lambda y: kalman.log_prob(params.system, y, config.parallel)
        return jax.vmap(of)(frames(batch["x"]))

    def one_step(key: Key, params: Params, batch: Batch) -> Array:
        """Mean of (y_t - E[y_t | y_1 .. y_t-1])² over the numbers known after the first time."""
        s, y = params.system, frames(batch["x"])
        found = jax.vmap(lambda y: kalman.filter(s, y, config.parallel))(y)
        e = (y - found.predicted_mean @ s.C.T - s.d)[:, 1:]
        seen = ~jnp.isnan(e)
        total = jnp.sum(jnp.where(seen, e, 0) ** 2, (1, 2))
        return total / jnp.maximum(jnp.sum(seen, (1, 2)), 1)

    def encode(key: Key, params: Params, batch: Batch) -> Array:
        """E[x_t | y]: [B, T, q]."""
        smooth = lambda y: kalman.smooth(params.system, y, config.parallel).mean
        return jax.vmap(smooth)(frames(batch["x"]))

    def decode(params: Params, x: Array) -> Batch:
        """C x_t + d: [B, T, q] -> [B, T, ...]."""
        y = x @ params.system.C.T + params.system.d
        return {"x": y.reshape(*y.shape[:2], *params.shape[1:])}

    def sample(
        key: Key, params: Params, n: int, length: int | None = None, x: Array | None = None
    ) -> Batch:
        """New series of `length` times, as many as in training if None.

        With `x`, a series [T, ...] or one for each sample [n, T, ...], what comes right after it.
        """
        keys, times = jax.random.split(key, n), int(length or params.shape[0])
        if x is None:
            y, _ = jax.vmap(lambda key: kalman.simulate(key, params.system, times))(keys)
        else:
            y = jax.vmap(lambda key, start: kalman.simulate(key, params.system, times, start)[0])(
                keys, jax.vmap(lambda y: kalman.ahead(params.system, y))(several(params, n, x))
            )
        return {"x": y.reshape(n, times, *params.shape[1:])}

    measures = {
        "one_step": Measure(of_params(one_step), Exactness.EXACT, "squared error a number", "lower")
    }
    init, step = em(begin, expect, maximise, config.keep)
    return Model(
        init,
        step,
        sample=of_params(sample),
        log_prob=Measure(of_params(log_prob), Exactness.EXACT, density=True),
        measures=measures,
        latents=Latents(
            decode=lambda key, state, latents: decode(eval_params(state), latents),
            encode=of_params(encode),
        ),
    )


def forecast(params: Params, x: Array, steps: int) -> Forecast:
    """What may follow each series x [B, T, ...]: means, deviations, states; [B, steps, ...] each.

    Of the mean and the deviation, the numbers of a time lie in a row: [B, steps, p].
    """
    return jax.vmap(lambda y: kalman.forecast(params.system, y, steps))(frames(x))


@jax.default_matmul_precision("highest")
def subspace(e: Array, d: Array, variance: Array, q: int, noise: float = 1e-3) -> System:
    """The closed form for dynamic textures: appearance by an SVD, then movement by least squares.

        [e_t; ..; e_t+h-1] = W x_t,    W the first q directions of the SVD;    C = the first of W
        A = argmin Σ_t ‖x_t+1 - A x_t‖²,    Q, R = what is left

    h = 1 is Doretto et al. 2003, section 5.1; where fewer numbers are seen than there are states, h
    is as many times as are needed twice over (Ho & Kalman 1966).

    Args:
      e: centred series [B, T, p], 0 where they are missing.
      d: what was taken off [p].
      variance: of each number [p].
      q: states; what the data do not fill of them is left at rest.
      noise: R is at least this fraction of the mean variance.
    """
    B, T, p = e.shape
    h = 1 if p >= q else min(math.ceil(2 * q / p), (T + 1) // 2)
    n, floor = T - h + 1, noise * jnp.mean(variance)
    windows = jnp.concatenate([e[:, i : n + i] for i in range(h)], -1)
    W = jnp.linalg.svd(windows.reshape(B * n, h * p), full_matrices=False)[2][:q]
    W = jnp.pad(W, ((0, q - len(W)), (0, 0)))
    x, C = windows @ W.T, W[:, :p].T
    before, after = (part.reshape(-1, q) for part in (x[:, :-1], x[:, 1:]))
    A = (jnp.linalg.pinv(before) @ after).T
    left = after - before @ A.T
    u = (e[:, :n] - x @ C.T).reshape(-1, p)
    all_x, eye = x.reshape(-1, q), jnp.eye(q, dtype=e.dtype)
    return System(
        A=A,
        Q=left.T @ left / len(left) + floor * eye,
        C=C,
        d=d,
        R=jnp.maximum(jnp.mean(u**2, 0), floor),
        m1=jnp.zeros(q, e.dtype),
        P1=all_x.T @ all_x / len(all_x) + floor * eye,
    )


def centred(y: Array) -> tuple[Array, Array, Array]:
    """(mean d [p], y - d with 0 where it is missing [B, T, p], variance [p]) of what is known."""
    seen = ~jnp.isnan(y)
    n = jnp.maximum(jnp.sum(seen, (0, 1)), 1)
    d = jnp.sum(jnp.where(seen, y, 0), (0, 1)) / n
    e = jnp.where(seen, y - d, 0)
    variance = jnp.sum(e**2, (0, 1)) / n
    # A pixel that never changes has a little of what the others have.
    return d, e, jnp.maximum(variance, jnp.maximum(1e-3 * jnp.mean(variance), 1e-12))


def frames(x: Array) -> Array:
    """Series [B, T, p] of examples [B, T, ...]: the numbers of a time in a row."""
    return x.reshape(*x.shape[:2], -1)


def several(params: Params, n: int, x: Array) -> Array:
    """One series [T, ...] n times, or n series [n, T, ...], as [n, T, p]."""
    x = jnp.asarray(x, params.system.d.dtype)
    one = params.shape[1:]
    if x.ndim == len(params.shape):
        x = jnp.broadcast_to(x, (n, *x.shape))
    if x.ndim != len(params.shape) + 1 or len(x) != n or x.shape[2:] != one:
        raise DataError(
            f"linear_dynamical_system: x should be a series [T, {', '.join(map(str, one))}] to go "
            f"on from, or {n} of them, got {list(x.shape)}."
        )
    return frames(x)


def at_least(P: Array, floor: Array) -> Array:
    """The covariance P with no eigenvalue below the floor: the best of those in its likelihood."""
    value, vector = jnp.linalg.eigh((P + P.T) / 2)
    return (vector * jnp.maximum(value, floor)) @ vector.T


def divided(b: Array, M: Array) -> Array:
    """b M⁻¹ for a covariance M [k, k], which may lack a direction to within rounding."""
    k = len(M)
    tiny = jnp.finfo(M.dtype).eps * jnp.trace(M) / k
    return kalman.solve(M + tiny * jnp.eye(k, dtype=M.dtype), b.T)[0].T
