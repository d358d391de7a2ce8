"""Linear dynamical systems: states that move linearly, and what they emit; learnt by EM.

    x_1 ~ N(m_1, P_1),    x_t = A x_{t-1} + w_t,    w_t ~ N(0, Q)     the transition of the state
                          y_t = C x_t + d + u_t,    u_t ~ N(0, R)     the emission that is seen

With a clip's frames for emissions these are dynamic textures (Doretto, Chiuso, Wu & Soatto 2003),
whose closed form by the singular value decomposition is where EM (Shumway & Stoffer 1982;
Ghahramani & Hinton 1996) starts. Special cases, by `structure`:

    free             A, C, d, Q, R, m_1, P_1 are learnt
    local_level      A = C = I: a random walk seen through noise; variances are learnt
    autoregressive   y_t - d = Σ_i Φ_i (y_t-i - d) + ε_t: the states are the last values, R = 0

An example is a series [T, D], a clip [T, H, W, C], an image [H, W, C] whose rows are its times, or
[T], a number at each time. NaN is missing: it is integrated out, exactly. The likelihood is that of
maths/inference/kalman.py, in nats per unit volume of what is seen.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from genjax_zoo import typed
from genjax_zoo.contract import (
    NOTHING,
    REAL,
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
from genjax_zoo.learn.state import of_params
from genjax_zoo.learn.verbs import em
from genjax_zoo.maths.inference import kalman, regressions, subspaces
from genjax_zoo.maths.inference.kalman import System
from genjax_zoo.maths.inference.matrices import at_least, exactly, spectral_radius
from genjax_zoo.maths.inference.regressions import Regression, coefficients, residual
from genjax_zoo.maths.probability.given import check_count, known_part, part_of, read_given
from genjax_zoo.typed import MOST_LAYERS, MOST_STEPS, nearest, number

VERB = "em"

PARTS = ("A", "Q", "C", "d", "R", "initial")
LEARNT = {"free": PARTS, "local_level": ("Q", "R"), "autoregressive": ("A", "Q")}
"""What each structure learns of its system; `initial` is m_1 and P_1."""


@typed.config
class Config:
    """A linear dynamical system.

    Attributes:
      structure: "free", "local_level" or "autoregressive".
      states: q, of a free one. A level has as many as there are numbers at a time.
      ar: how many values back an autoregression looks.
      noise: R is "diagonal", "isotropic" (one variance) or "full".
      start: where EM begins a free one: "subspace", the closed form of the first batch, or
        "random".
      fixed: which of A, Q, C, d, R and initial (m_1, P_1) stay as they begin. From one series
        alone P_1 would shrink to nothing: fix the initial state.
      initial_level: what is known of a level's first state. "data": that it is N(mean, 100 times
        variance) of the first batch, whatever the units. "diffuse": nothing; log_prob is then the
        diffuse likelihood, of all numbers but those that first tell the levels. "given":
        N(initial_mean, initial_variance), in the units of the data.
      initial_mean, initial_variance: of a "given" level.
      stable: "report" the spectral radius ρ(A), or "enforce" ρ(A) <= radius in every step, by
        shrinking all eigenvalues of A alike; Q is then the best for that A.
      radius: the largest that is let be.
      pseudo_counts: ν, how many transitions, emissions and initial states like those of the first
        system count besides the data's: a conjugate prior about it (matrix normal, inverse
        Wishart), for data that are fewer than parameters. EM then never lowers likelihood times
        prior; 0 is maximum likelihood.
      ridge: no variance is below this fraction of the data's; a smaller fraction than its least
        may be lost to rounding.
      keep: what remains of the old statistics at each step: 0 is EM on each batch, for batches of
        all data; above it lies stepwise EM, for minibatches.
      parallel: all times at once, for a long series on a wide machine (a GPU).
      sample_length: how many times a sample has; 0 for as many as an example of the data.
    """

    structure: Literal["free", "local_level", "autoregressive"] = "free"
    states: int = number(8, least=1)
    ar: int = number(1, least=1, most=MOST_LAYERS)
    noise: Literal["diagonal", "isotropic", "full"] = "diagonal"
    start: Literal["subspace", "random"] = "subspace"
    fixed: tuple[str, ...] = ()
    initial_level: Literal["data", "diffuse", "given"] = "data"
    initial_mean: float = number(0.0)
    initial_variance: float = number(1e7, above=0)
    stable: Literal["report", "enforce"] = "report"
    radius: float = number(0.999, above=0, most=1)
    pseudo_counts: float = number(0.0, least=0)
    ridge: float = number(1e-6, least=1e-9, most=1)
    keep: float = number(0.0, least=0, most=1)
    parallel: bool = False
    sample_length: int = number(0, least=0, most=MOST_STEPS)

    def __post_init__(self):
        for part in self.fixed:
            if part not in PARTS:
                raise ConfigError(
                    f"linear_dynamical_system: fixed should name some of {', '.join(PARTS)}: "
                    f"{nearest(part, PARTS, 'part')}"
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
    """Expected sums, given the series, of the three regressions that a system is learnt by.

    Attributes:
      transition: of x_t - A_0 x_t-1 on x_t-1.
      emission: of y_t - C_0 x_t - d_0 on [x_t; 1].
      initial: of x_1 - m_0 on 1.
      reference: the point that they are about.
      shape: of one example.
    """

    transition: Regression
    emission: Regression
    initial: Regression
    reference: Reference
    shape: tuple[int, ...] = struct.field(pytree_node=False)


def make(config: Config, tx: optax.GradientTransformation | None = None) -> Model:
    """Linear dynamical systems by EM; there is no gradient, and the optimizer is not used."""
    learns = tuple(part for part in LEARNT[config.structure] if part not in config.fixed)
    lags = config.structure == "autoregressive"

    # ------------------------------------------------------------------------------- the start

    def begin(key: Key, batch: Batch) -> tuple[Params, Statistics]:
        """The closed form of the first batch, or what the structure says.

        Raises DataError for examples of a single time.
        """
        y, shape = series(batch["x"]), tuple(batch["x"].shape[1:])
        if y.shape[1] < 2:
            raise DataError(
                "linear_dynamical_system: expected examples of two times or more, got "
                f"{list(shape)}; the first axis of an example is time."
            )
        d, e, variance = subspaces.centred(y)
        if config.structure == "local_level":
            system = first_level(subspaces.local_level(d, variance), variance)
        elif lags:
            system = subspaces.autoregression(d, variance, config.ar)
        elif config.start == "subspace":
            system = subspaces.subspace(e, d, variance, config.states)
        else:
            system = subspaces.rotation(key, d, variance, config.states)
        if config.noise == "full" and not lags:
            system = replace(system, R=jnp.diag(system.R))
        elif config.noise == "isotropic":
            system = replace(system, R=jnp.full_like(system.R, jnp.mean(system.R)))
        # ρ(A) <= radius from the first system on
        system = replace(system, A=shrunk(system.A, y.shape[2]))
        params = Params(system, Reference(system, jnp.mean(variance)), shape)
        shapes, _ = jax.eval_shape(expect, key, params, batch)
        nothing = jax.tree.map(lambda like: jnp.zeros(like.shape, like.dtype), shapes)
        return params, replace(nothing, reference=params.reference)

    def first_level(system: System, variance: Array) -> System:
        """The start of a level, as the config has it."""
        zero = jnp.zeros_like(system.P1)
        if config.initial_level == "diffuse":
            return replace(system, P1=zero, diffuse=variance)
        if config.initial_level == "given":
            P1 = zero + config.initial_variance * jnp.eye(len(zero), dtype=zero.dtype)
            return replace(system, m1=config.initial_mean - system.d, P1=P1)
        return system

    # ----------------------------------------------------------------------------------- learning

    def expect(key: Key, params: Params, batch: Batch) -> tuple[Statistics, Info]:
        """Expected sums over the batch's series, by the smoother."""
        y, system, ref = series(batch["x"]), params.system, params.reference.system
        x, P, L, filtered = jax.vmap(lambda y: kalman.smooth(system, y, config.parallel))(y)
        statistics = Statistics(
            transition=regressions.of_transitions(ref, x, P, L),
            emission=regressions.of_emissions(system, ref, y, x, P),
            initial=regressions.of_starts(ref, x, P),
            # No sum: what is kept of it and what is added make it whole again.
            reference=jax.tree.map(lambda a: (1 - config.keep) * a, params.reference),
            shape=params.shape,
        )
        variances = jnp.diagonal(system.R) if system.R.ndim == 2 else system.R
        return statistics, {
            "log_prob": jnp.mean(filtered.log_prob.sum(1)),
            "spectral_radius": spectral_radius(system.A),
            "transition_variance": jnp.trace(system.Q) / len(system.Q),
            "emission_variance": jnp.mean(variances),
        }

    @exactly
    def maximise(n: Statistics) -> Params:
        ref, floor = n.reference.system, config.ridge * n.reference.spread
        p, q = ref.C.shape
        transition, emission, initial = with_prior(n, ref)
        system, change = ref, jnp.zeros_like(ref.A)
        if "A" in learns:
            # A = A_0 + Σ E[w xᵀ] (Σ E[x xᵀ])⁻¹
            A = shrunk(ref.A + free_rows(coefficients(transition), p), p)
            system, change = replace(system, A=A), A - ref.A
        if "Q" in learns:
            # Q = Σ E[(w - ΔA x)(w - ΔA x)ᵀ] / n
            Q = residual(transition, change) / transition.count
            if lags:
                Q = jnp.zeros_like(Q).at[:p, :p].set(at_least(Q[:p, :p], floor))
            else:
                Q = at_least(Q, floor)
            system = replace(system, Q=Q)
        if "initial" in learns:
            # m_1 = m_0 + <x_1 - m_0>
            shift = initial.vz / initial.count
            P1 = at_least(residual(initial, shift) / initial.count, floor)
            system = replace(system, m1=ref.m1 + shift[:, 0], P1=P1)
        # [C d] = [C_0 d_0] + Σ E[u zᵀ] (Σ E[z zᵀ])⁻¹, in the columns that are learnt
        columns = np.flatnonzero([*["C" in learns] * q, "d" in learns])
        D = coefficients(emission, columns)
        system = replace(system, C=ref.C + D[:, :q], d=ref.d + D[:, q])
        if "R" in learns:
            R = emission_noise(residual(emission, D), emission.count, ref.R, floor)
            system = replace(system, R=R)
        return Params(system, n.reference, n.shape)

    def with_prior(n: Statistics, ref: System) -> tuple[Regression, ...]:
        """The statistics, and those of ν transitions, emissions and initial states of the prior."""
        q, one = len(ref.A), jnp.ones((), ref.A.dtype)
        # E[w wᵀ] = Q_0, E[x xᵀ] = P_0, E[u uᵀ] = R_0, and nothing of w or u depends on x.
        zz = jnp.zeros((q + 1, q + 1), ref.A.dtype).at[:q, :q].set(ref.P1).at[q, q].set(1)
        priors = (
            Regression(one, ref.Q, 0 * one, ref.P1),
            Regression(one, ref.R, 0 * one, zz),
            Regression(one, ref.P1, 0 * one, one),
        )
        plus = lambda sums, prior: sums + config.pseudo_counts * prior
        sums = (n.transition, n.emission, n.initial)
        return tuple(jax.tree.map(plus, a, b) for a, b in zip(sums, priors, strict=True))

    def emission_noise(left: Array, count: Array, first: Array, floor: Array) -> Array:
        """R = Σ E[(u - D z)(u - D z)ᵀ] / n, of the kind that the config says."""
        if left.ndim == 2:
            return at_least(left / count, floor)
        if config.noise == "isotropic":
            left, count = jnp.sum(left), jnp.sum(count)
        # A number that is never seen has the noise that it began with.
        R = jnp.where(count > 0, left / jnp.maximum(count, 1e-30), first)
        return jnp.maximum(jnp.broadcast_to(R, first.shape), floor)

    def free_rows(change: Array, p: int) -> Array:
        """Of a companion matrix only the first p rows are learnt; the others are lags."""
        return jnp.where((jnp.arange(len(change)) < p)[:, None], change, 0) if lags else change

    def shrunk(A: Array, p: int) -> Array:
        """A with ρ(A) <= radius, if that is enforced: every eigenvalue times the same s <= 1.

        s A; of a companion matrix s^i Φ_i, which does the same to its eigenvalues.
        """
        if config.stable == "report" or "A" not in learns:
            return A
        s = jnp.minimum(1, config.radius / jnp.maximum(spectral_radius(A), 1e-30))
        if not lags:
            return s * A
        i = 1 + jnp.arange(len(A)) // p
        return jnp.where((jnp.arange(len(A)) < p)[:, None], A * s**i, A)

    # ------------------------------------------------------------------------------- the numbers

    def log_prob(key: Key, params: Params, batch: Batch) -> Array:
        """log p(y) of each whole series, of what is known of it."""
        of = lambda y: kalman.log_prob(params.system, y, config.parallel)
        return jax.vmap(of)(series(batch["x"]))

    def one_step(key: Key, params: Params, batch: Batch) -> Array:
        """Mean of (y_t - E[y_t | y_1 .. y_t-1])² over the numbers known after the first time."""
        s, y = params.system, series(batch["x"])
        found = jax.vmap(lambda y: kalman.filter(s, y, config.parallel))(y)
        e = (y - found.predicted_mean @ s.C.T - s.d)[:, 1:]
        known = ~jnp.isnan(e)
        total = jnp.sum(jnp.where(known, e, 0) ** 2, (1, 2))
        return total / jnp.maximum(jnp.sum(known, (1, 2)), 1)

    # ---------------------------------------------------------------------------- the samples

    def sample(key: Key, params: Params, n: int, given: Batch = NOTHING) -> Batch:
        """New series, or what comes right after a given one.

        `given` may hold x, a series [T, ...] of any length to go on from, or one for each sample
        [n, T, ...], and a mask (1 where it is known); what is NaN is missing.
        """
        can = part_of(REAL, (None, *params.shape[1:]))
        past = past_of(read_given(given, can, n, "linear_dynamical_system"))
        keys, times = jax.random.split(key, n), config.sample_length or params.shape[0]
        ahead = lambda y: kalman.ahead(params.system, y)
        start = None if past is None else jax.vmap(ahead)(past)
        draw = lambda key, start: kalman.simulate(key, params.system, times, start)[0]
        y = jax.vmap(draw)(keys, start)
        return {"x": y.reshape(n, times, *params.shape[1:])}

    def past_of(told: Batch) -> Array | None:
        """The series [n, T, p] to go on from, NaN where it is missing; None if none was told."""
        if "x" in told:
            # All of it may be known, for it is not what is drawn.
            told = {"mask": jnp.ones(told["x"].shape), **told}
        part = known_part(told, "linear_dynamical_system")
        return None if part is None else series(jnp.where(part[1], part[0], jnp.nan))

    def encode(key: Key, params: Params, batch: Batch) -> Array:
        """E[x_t | y]: [B, T, q]."""
        smooth = lambda y: kalman.smooth(params.system, y, config.parallel).mean
        return jax.vmap(smooth)(series(batch["x"]))

    def decode(key: Key, params: Params, x: Array) -> Batch:
        """C x_t + d: [B, T, q] -> [B, T, ...]."""
        y = x @ params.system.C.T + params.system.d
        return {"x": y.reshape(*y.shape[:2], *params.shape[1:])}

    diffuse = config.structure == "local_level" and config.initial_level == "diffuse"
    detail = "diffuse likelihood: of all numbers but those that first tell the levels"
    nats = Measure(
        of_params(log_prob),
        Exactness.EXACT,
        detail=detail if diffuse else "",
        density=not diffuse,
    )
    error = Measure(of_params(one_step), Exactness.EXACT, "squared error a number", "lower")
    return Model(
        *em(begin, expect, maximise, config.keep),
        sample=of_params(sample),
        log_prob=nats,
        measures={"one_step": error},
        spaces={"x": REAL._replace(missing=True)},
        latents=Latents(decode=of_params(decode), encode=of_params(encode)),
    )


def forecast(params: Params, x: Array, steps: int) -> kalman.Forecast:
    """What may follow each series x [B, T, ...]: means, deviations, states; [B, steps, ...] each.

    Of the mean and the deviation, the numbers of a time lie in a row: [B, steps, p]. Raises
    DataError for less than one step.
    """
    check_count("steps", steps, "linear_dynamical_system")
    return jax.vmap(lambda y: kalman.forecast(params.system, y, steps))(series(x))


def series(x: Array) -> Array:
    """[B, T, p] of examples [B, T, ...]: the numbers of a time in a row."""
    return x.reshape(*x.shape[:2], -1)
