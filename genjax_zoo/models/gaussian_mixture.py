"""Gaussian mixtures, with classes and without: LDA, QDA, mixture discriminant analysis, and EM.

    p(x, y) = p(y) Σ_k p(k | y) N(x; μ_yk, Σ_yk),      p(x) = Σ_y p(x, y)

    labels, K = 1, one Σ for all       linear discriminant analysis       (Fisher 1936)
    labels, K = 1, a Σ for each        quadratic discriminant analysis
    labels, K > 1                      mixture discriminant analysis      (Hastie & Tibshirani 1996)
    no labels                          a mixture of K, by EM              (Dempster et al. 1977)

With labels and K = 1 nothing is hidden: one pass over the data is maximum likelihood, and `keep`
should be 1. Otherwise k is hidden, and a step is one of EM. Without labels there is one class.

A missing feature is NaN. It is integrated out exactly, by the marginal Gaussian of what is known;
learning fills it in with its conditional mean and variance (Ghahramani & Jordan 1994), so that with
missing features EM has work to do even where k is known.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.scipy.linalg import solve_triangular

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
    categorical,
)
from genjax_zoo.learn.state import eval_params, of_params
from genjax_zoo.learn.verbs import em

VERB = "em"


@dataclasses.dataclass(frozen=True)
class Config:
    """A Gaussian mixture for each class.

    Attributes:
      covariance: "full", a matrix for each component; "tied", one matrix for all components of all
        classes; "diagonal", a variance for each feature of each component; "spherical", a variance
        for each component.
      classes: C, how many classes labelled data have; data without labels have one.
      components: K, for each class.
      keep: what remains of the old statistics at each step. 0 is EM on each batch alone, for
        batches of all data; 1 counts all examples alike, right where nothing is hidden; between
        them lies stepwise EM, for minibatches of a mixture.
      imagined: ν, examples that each covariance imagines besides its own: uncorrelated ones, with
        the variances that the data have within components. 0 is maximum likelihood.
      ridge: every variance gets this fraction of the feature's variance over all data, so that no
        covariance is singular; rescaling a feature changes nothing.
      lloyd: iterations of k-means on the first batch that the components start from, after a start
        of greedy k-means++; features are compared in units of their standard deviation.
    """

    covariance: Literal["full", "tied", "diagonal", "spherical"] = "full"
    classes: int = 10
    components: int = 1
    keep: float = 0.0
    imagined: float = 1.0
    ridge: float = 1e-5
    lloyd: int = 10

    def __post_init__(self):
        for name in ("classes", "components"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"gaussian_mixture: {name} should be at least 1, got {getattr(self, name)}."
                )
        for name in ("imagined", "lloyd"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"gaussian_mixture: {name} should not be negative, got {getattr(self, name)}."
                )
        if not 0 <= self.keep <= 1:
            raise ConfigError(f"gaussian_mixture: keep should lie in 0 .. 1, got {self.keep}.")
        if not 1e-7 <= self.ridge <= 1:
            raise ConfigError(
                f"gaussian_mixture: ridge should lie in 1e-7 .. 1, got {self.ridge}; below, a "
                "covariance may be singular in float32."
            )


@struct.dataclass
class Statistics:
    """Expected sums over the examples of each component: n, Σ x and Σ x xᵀ, about a point near it.

    The point s is where the component starts; in float32 a variance would otherwise be a small
    difference of large numbers. M = CK components in a row; V and W say how many matrices there
    are and of which form, [M, D, D] full, [1, D, D] tied, [M, D] otherwise.

    Attributes:
      counts: Σ_n r_nm [M], r_nm = p(component m | x_n, y_n).
      sums: Σ_n r_nm (x_n - s_m) [M, D].
      squares: Σ_n r_nm (x_n - s_m)(x_n - s_m)ᵀ, or its diagonal: one of the forms above.
      shift: s [M, D].
      shape: of one example, without the batch; its product is D.
    """

    counts: Array
    sums: Array
    squares: Array
    shift: Array
    shape: tuple[int, ...] = struct.field(pytree_node=False)


@struct.dataclass
class Params:
    """p(y), p(k | y) and p(x | y, k).

    Attributes:
      prior: p(y) [C].
      weight: p(k | y) [C, K].
      mean: μ [C, K, D].
      factor: of the covariances. Full and tied: L with Σ = L Lᵀ, lower triangular, [C, K, D, D]
        and [1, 1, D, D]. Diagonal and spherical: σ, [C, K, D] and [C, K, 1].
      shift: s [C, K, D], which further sums are taken about.
      shape: of one example, without the batch.
    """

    prior: Array
    weight: Array
    mean: Array
    factor: Array
    shift: Array
    shape: tuple[int, ...] = struct.field(pytree_node=False)


class Filled(NamedTuple):
    """What is expected of examples some of whose features are missing, for each component.

    Attributes:
      mean: E[x | known, m] [B, M, D]; the known features are as they were.
      covariance: of x given what is known, and 0 where a feature is known: [B, M or 1, D, D], or
        its diagonal [B, M, D].
      log_prob: log N(known; μ_m, Σ_m) [B, M], the marginal of what is known.
    """

    mean: Array
    covariance: Array
    log_prob: Array


def make(config: Config, tx: optax.GradientTransformation | None = None) -> Model:
    """Gaussian mixtures by EM; there is no gradient, and the optimizer is not used."""
    K, dense = config.components, config.covariance in ("full", "tied")

    # ------------------------------------------------------------------------------- the start

    def begin(key: Key, batch: Batch) -> tuple[Params, Statistics]:
        """k-means of each class on the first batch; one diagonal covariance, as k-means leaves it.

        Raises DataError for labels that are not among the classes, as far as they can be seen
        (not traced).
        """
        C = config.classes if "label" in batch else 1
        if "label" in batch and not isinstance(batch["label"], jax.core.Tracer):
            low, high = int(batch["label"].min()), int(batch["label"].max())
            if low < 0 or high >= C:
                raise DataError(
                    f"gaussian_mixture: labels should lie in 0 .. {C - 1}, got {low} .. {high}; "
                    f"set model.classes to {high + 1} or more."
                )
        shape = tuple(batch["x"].shape[1:])
        x = _flat(batch["x"])
        label = batch.get("label", jnp.zeros(x.shape[0], jnp.int32))
        member = jax.nn.one_hot(label, C)
        counted = member.sum(1, keepdims=True)
        # Missing features stand at their mean; k-means is only where EM starts.
        known = (~jnp.isnan(x)) * counted
        n = jnp.maximum(known.sum(0), 1)
        overall = jnp.where(known > 0, x, 0).sum(0) / n
        z = jnp.where(known > 0, x - overall, 0)
        std = jnp.sqrt((z**2).sum(0) / n)
        std = jnp.where(std > 0, std, 1)
        z = z / std
        keys = jax.random.split(key, C)
        start = lambda key, w: k_means(key, z, w, K, config.lloyd)
        centres, inertia = jax.vmap(start, (0, 1))(keys, member)
        mean = overall + std * centres
        variance = std**2 * jnp.maximum(inertia.sum(0) / jnp.maximum(counted.sum(), 1), 1e-3)
        D = x.shape[1]
        sigma = jnp.sqrt(variance)
        factor = {
            "full": lambda: jnp.broadcast_to(jnp.diag(sigma), (C, K, D, D)),
            "tied": lambda: jnp.diag(sigma)[None, None],
            "diagonal": lambda: jnp.broadcast_to(sigma, (C, K, D)),
            "spherical": lambda: jnp.broadcast_to(jnp.sqrt(variance.mean()), (C, K, 1)),
        }[config.covariance]()
        prior, uniform = jnp.ones(C) / C, jnp.ones((C, K)) / K
        params = Params(prior, uniform, mean, factor, mean, shape)
        M = C * K
        form = {"full": (M, D, D), "tied": (1, D, D)}.get(config.covariance, (M, D))
        nothing = Statistics(
            jnp.zeros(M), jnp.zeros((M, D)), jnp.zeros(form), mean.reshape(M, D), shape
        )
        return params, nothing

    # ------------------------------------------------------------------- densities of components

    def log_gaussians(params: Params, x: Array) -> Array:
        """log N(x; μ_m, Σ_m) of what is known, for every component: [B, D] -> [B, C, K] nats."""
        C = params.prior.size
        if not dense:
            return fill(params, x).log_prob.reshape(-1, C, K)
        missing = jnp.any(jnp.isnan(x))
        some = lambda: fill(params, x).log_prob
        return jax.lax.cond(missing, some, lambda: whole(params, x)).reshape(-1, C, K)

    def whole(params: Params, x: Array) -> Array:
        """log N(x; μ_m, L_m L_mᵀ) with no feature missing: [B, D] -> [B, M]."""
        mean, L = _row(params.mean), _row(params.factor)
        D = x.shape[1]
        # z = L⁻¹ (x - μ),    log N = -½ ‖z‖² - Σ_d log L_dd - D/2 log 2π
        if config.covariance == "tied":
            L = jnp.broadcast_to(L, (len(mean), D, D))
        solve = lambda L, mu: solve_triangular(L, (x - mu).T, lower=True)
        z = jax.lax.map(lambda Lm: solve(*Lm), (L, mean))
        log_det = jnp.sum(jnp.log(jnp.diagonal(L, axis1=1, axis2=2)), -1)
        return (-0.5 * jnp.sum(z**2, 1) - log_det[:, None] - 0.5 * D * _LOG_2PI).T

    def fill(params: Params, x: Array, base: Array | None = None) -> Filled:
        """What is known of each example, and what it says of the rest. x [B, D] with NaN.

        `base` [B, M, D] takes the place of μ in `mean`. Of a draw of N(μ, Σ) it makes one of what
        is missing, given what is known (Matheron's rule).
        """
        mean = _row(params.mean)
        base = jnp.broadcast_to(mean, (len(x), *mean.shape)) if base is None else base
        known = ~jnp.isnan(x)
        v = jnp.where(known, x, 0)
        if not dense:
            # Features are independent: each keeps its own mean and variance, or is known.
            sigma = jnp.broadcast_to(_row(params.factor), mean.shape)
            z = (v[:, None] - mean) / sigma
            each = -0.5 * z**2 - jnp.log(sigma) - 0.5 * _LOG_2PI
            there = known[:, None]
            return Filled(
                jnp.where(there, v[:, None], base),
                jnp.where(there, 0, sigma**2),
                jnp.sum(jnp.where(there, each, 0), -1),
            )
        L = _row(params.factor)
        sigma = jnp.einsum("mij,mkj->mik", L, L, precision="highest")

        def one(v: Array, known: Array, base: Array) -> Filled:
            # A = [Σ_oo, 0; 0, I], the covariance of what is known, and Σ_·o the columns of Σ
            o = known.astype(v.dtype)
            A = sigma * o * o[:, None] + jnp.diag(1 - o)
            across = sigma * o
            factor = jnp.linalg.cholesky(A)
            half = solve_triangular(factor, across.swapaxes(1, 2), lower=True)
            # Σ - Σ_·o Σ_oo⁻¹ Σ_o·
            spread = sigma - jnp.einsum("mki,mkj->mij", half, half, precision="highest")
            unknown = (1 - o) * (1 - o)[:, None]
            wide = lambda a: jnp.broadcast_to(a, (len(mean), *a.shape[1:]))
            solve = lambda r: solve_triangular(wide(factor), r[..., None], lower=True)[..., 0]
            # E[x | x_o] = μ + Σ_·o Σ_oo⁻¹ (x_o - μ_o)
            told = jnp.einsum("mki,mk->mi", wide(half), solve((v - base) * o), precision="highest")
            z = solve((v - mean) * o)
            log_det = jnp.sum(jnp.log(jnp.diagonal(factor, axis1=1, axis2=2)), -1)
            log_p = -0.5 * jnp.sum(z**2, -1) - log_det - 0.5 * o.sum() * _LOG_2PI
            return Filled(jnp.where(known, v, base + told), spread * unknown, log_p)

        return jax.lax.map(lambda row: one(*row), (v, known, base), batch_size=16)

    def joint(params: Params, x: Array) -> Array:
        """log p(x, y, k): [B, D] -> [B, C, K] nats."""
        return jnp.log(params.prior)[:, None] + conditional(params, x)

    def conditional(params: Params, x: Array) -> Array:
        """log p(x, k | y): [B, D] -> [B, C, K] nats."""
        return jnp.log(params.weight) + log_gaussians(params, x)

    # ----------------------------------------------------------------------------------- learning

    def expect(key: Key, params: Params, batch: Batch) -> tuple[Statistics, Info]:
        """Expected sums over the batch. A label outside of the classes makes `labels_outside` NaN.

        Such an example is counted nowhere.
        """
        x, C = _flat(batch["x"]), params.prior.size
        inner = conditional(params, x)
        outer = jnp.log(params.prior)[:, None] + inner
        info = {"log_prob": jnp.mean(jax.nn.logsumexp(outer, axis=(1, 2)))}
        if "label" in batch:
            # r_nyk = [y_n = y] p(k | x_n, y)
            label = jnp.asarray(batch["label"])
            r = jax.nn.one_hot(label, C)[:, :, None] * jax.nn.softmax(inner, axis=-1)
            outside = jnp.any((label < 0) | (label >= C))
            info["labels_outside"] = jnp.where(outside, jnp.nan, 0.0)
            guess = jnp.argmax(jax.nn.logsumexp(outer, axis=-1), axis=-1)
            info["error"] = jnp.mean((guess != label).astype(jnp.float32))
        else:
            # r_nyk = p(y, k | x_n)
            r = jax.nn.softmax(outer, axis=(1, 2))
        r, shift = r.reshape(len(x), -1), _row(params.shift)
        missing = jnp.any(jnp.isnan(x))
        sums, squares = jax.lax.cond(
            missing, lambda: filled_sums(params, x, r), lambda: whole_sums(x, r, shift)
        )
        # The shift is no sum: what is kept of it and what is added make it whole again.
        added = (1 - config.keep) * shift
        return Statistics(r.sum(0), sums, squares, added, params.shape), info

    def whole_sums(x: Array, r: Array, shift: Array) -> tuple[Array, Array]:
        """Σ_n r_nm (x_n - s_m) and Σ_n r_nm (x_n - s_m)(x_n - s_m)ᵀ, a component at a time."""

        def one(r: Array, s: Array) -> tuple[Array, Array]:
            d = x - s
            second = _dot((r[:, None] * d).T, d) if dense else _dot(r[None], d**2)[0]
            return _dot(r[None], d)[0], second

        sums, squares = jax.lax.map(lambda rs: one(*rs), (r.T, shift))
        if config.covariance == "tied":
            squares = squares.sum(0, keepdims=True)
        return sums, squares

    def filled_sums(params: Params, x: Array, r: Array) -> tuple[Array, Array]:
        """The same of examples with missing features: E[x] and E[x xᵀ] given what is known."""
        found = fill(params, x)
        d = found.mean - _row(params.shift)
        sums = jnp.einsum("nm,nmi->mi", r, d, precision="highest")
        if not dense:
            return sums, jnp.einsum("nm,nmi->mi", r, d**2 + found.covariance, precision="highest")
        squares = jnp.einsum("nm,nmi,nmj->mij", r, d, d, precision="highest")
        if config.covariance == "full":
            spread = jnp.einsum("nm,nmij->mij", r, found.covariance, precision="highest")
            return sums, squares + spread
        spread = jnp.einsum("n,nij->ij", r.sum(1), found.covariance[:, 0], precision="highest")
        return sums, (squares.sum(0) + spread)[None]

    def maximise(s: Statistics) -> Params:
        M = len(s.counts)
        n, total = s.counts, s.counts.sum()
        # p(y) = n_y / n,    p(k | y) = n_yk / n_y
        n_yk = n.reshape(-1, K)
        n_y = n_yk.sum(1)
        prior = jnp.where(total > 0, n_y / jnp.maximum(total, _SMALLEST), 1 / n_y.size)
        share = n_yk / jnp.maximum(n_y, _SMALLEST)[:, None]
        weight = jnp.where(n_y[:, None] > 0, share, 1 / K)
        # μ_m = s_m + <x - s_m>
        offset = s.sums / jnp.maximum(n, _SMALLEST)[:, None]
        mean = s.shift + offset
        # n_m S_m = Σ r (x - s_m)(x - s_m)ᵀ - n_m <x - s_m><x - s_m>ᵀ, here its diagonal
        second = jnp.diagonal(s.squares, axis1=1, axis2=2) if dense else s.squares
        moved = n[:, None] * offset**2
        own = jnp.maximum(second - (moved.sum(0) if config.covariance == "tied" else moved), 0)
        # V_d, the variance within components, and V_d + Σ_m n_m / n (μ_md - μ_d)², over all data
        share_m = (n / jnp.maximum(total, _SMALLEST))[:, None]
        within = own.sum(0) / jnp.maximum(total, _SMALLEST)
        overall = within + jnp.sum(share_m * (mean - jnp.sum(share_m * mean, 0)) ** 2, 0)
        # A feature that never changed may yet: it is as uncertain as the others are in the mean.
        floor = config.ridge * jnp.where(overall > 0, overall, jnp.mean(overall))
        floor = jnp.maximum(floor, _SMALLEST)
        # Σ_m = (n_m S_m + ν diag V) / (n_m + ν) + ridge · diag(overall)
        if config.covariance == "tied":
            scatter = s.squares[0] - _dot((n[:, None] * offset).T, offset)
            factor = cholesky(scatter[None], total[None], within, floor)
        elif config.covariance == "full":
            scatter = s.squares - n[:, None, None] * offset[:, :, None] * offset[:, None, :]
            factor = cholesky(scatter, n, within, floor)
        else:
            if config.covariance == "spherical":
                own, within, floor = (a.mean(-1, keepdims=True) for a in (own, within, floor))
            factor = jnp.sqrt(shrunk(own, n[:, None], within) + floor)
        of_each = lambda a: a.reshape(-1, K, *a.shape[1:]) if len(a) == M else a[None]
        return Params(prior, weight, of_each(mean), of_each(factor), of_each(s.shift), s.shape)

    def shrunk(scatter: Array, n: Array, target: Array) -> Array:
        """(n S + ν V) / (n + ν); V where a component has no example, and imagines none."""
        examples = n + config.imagined
        found = (scatter + config.imagined * target) / jnp.maximum(examples, _SMALLEST)
        return jnp.where(examples > 0, found, target)

    def cholesky(scatter: Array, n: Array, within: Array, floor: Array) -> Array:
        found = shrunk(scatter, n[:, None, None], jnp.diag(within)) + jnp.diag(floor)
        return jnp.linalg.cholesky(found)

    # ------------------------------------------------------------------------------- what it tells

    def log_prob(key: Key, params: Params, batch: Batch) -> Array:
        """log p(x), whether or not the batch has labels; of the features that are known."""
        return jax.nn.logsumexp(joint(params, _flat(batch["x"])), axis=(1, 2))

    def of_classes(params: Params, batch: Batch) -> Array:
        """log p(x, y) for every y: [B, C] nats."""
        return jax.nn.logsumexp(joint(params, _flat(batch["x"])), axis=2)

    def log_joint(key: Key, params: Params, batch: Batch) -> Array:
        """log p(x, y) of the labels that the batch has."""
        at = labels(params, batch)[:, None]
        return jnp.take_along_axis(of_classes(params, batch), at, axis=1)[:, 0]

    def error(key: Key, params: Params, batch: Batch) -> Array:
        """1 where argmax p(y | x) is not the label, else 0."""
        guess = jnp.argmax(of_classes(params, batch), axis=-1)
        return (guess != labels(params, batch)).astype(jnp.float32)

    def labels(params: Params, batch: Batch) -> Array:
        if "label" in batch:
            return jnp.asarray(batch["label"])
        if params.prior.size > 1:
            raise DataError(
                f"gaussian_mixture: learnt {params.prior.size} classes, and this batch has no "
                "label to measure by; give it one, or ask for log_prob, which needs none."
            )
        return jnp.zeros(batch["x"].shape[0], jnp.int32)

    def encode(key: Key, params: Params, batch: Batch) -> Array:
        """p(y, k | x): [B, C, K]."""
        return jax.nn.softmax(joint(params, _flat(batch["x"])), axis=(1, 2))

    def decode(params: Params, posterior: Array) -> Batch:
        """E[x] under p(y, k | x): [B, C, K] -> [B, ...]."""
        x = jnp.einsum("bck,ckd->bd", posterior, params.mean, precision="highest")
        return {"x": x.reshape(-1, *params.shape)}

    def sample(
        key: Key,
        params: Params,
        n: int,
        label: Array | int | None = None,
        given: Array | None = None,
    ) -> Batch:
        """y ~ p(y), or the `label` given ([] or [n]); then k ~ p(k | y) and x ~ N(μ_yk, Σ_yk).

        `given` [...] or [n, ...] holds features that are known, NaN elsewhere: then y and k are
        drawn from their posterior, and of x only what is missing.

        Raises DataError for a label that is not among the classes, if it is not traced.
        """
        key_m, key_x = jax.random.split(key)
        C, _, D = params.mean.shape
        log_m = jnp.log(params.prior)[:, None] + jnp.log(params.weight)
        inner = jnp.broadcast_to(jnp.log(params.weight), (n, C, K))
        log_m = jnp.broadcast_to(log_m, (n, C, K))
        if given is not None:
            given = jnp.broadcast_to(jnp.asarray(given), (n, *params.shape)).reshape(n, D)
            log_m, inner = joint(params, given), conditional(params, given)
        if label is None:
            m = jax.random.categorical(key_m, log_m.reshape(n, -1))
        else:
            if not isinstance(label, jax.core.Tracer):
                asked = np.asarray(label)
                if int(asked.min()) < 0 or int(asked.max()) >= C:
                    raise DataError(
                        f"gaussian_mixture: label should lie in 0 .. {C - 1}, got {label}."
                    )
            y = jnp.broadcast_to(jnp.asarray(label, jnp.int32), (n,))
            m = y * K + jax.random.categorical(key_m, inner[jnp.arange(n), y])
        x = _row(params.mean)[m] + noise(params, m, jax.random.normal(key_x, (n, D)))
        if given is not None:
            base = jnp.broadcast_to(x[:, None], (n, C * K, D))
            x = fill(params, given, base).mean[jnp.arange(n), m]
        return {"x": x.reshape(n, *params.shape), "label": (m // K).astype(jnp.int32)}

    def noise(params: Params, m: Array, standard: Array) -> Array:
        """L_m ε [n, D], for the components m [n]."""
        factor = _row(params.factor)
        if config.covariance == "tied":
            return _dot(standard, factor[0].T)
        if config.covariance == "full":
            return jax.lax.map(lambda me: factor[me[0]] @ me[1], (m, standard), batch_size=64)
        return factor[m] * standard

    measures = {
        "log_joint": Measure(of_params(log_joint), Exactness.EXACT, "nats"),
        "error": Measure(of_params(error), Exactness.EXACT, "error", "lower"),
    }
    init, step = em(begin, expect, maximise, config.keep)
    return Model(
        init,
        step,
        sample=of_params(sample),
        log_prob=Measure(of_params(log_prob), Exactness.EXACT, density=True),
        measures=measures if config.classes > 1 else {},
        latents=Latents(
            decode=lambda key, state, latents: decode(eval_params(state), latents),
            encode=of_params(encode),
            space=categorical(),
        ),
    )


def k_means(key: Key, z: Array, w: Array, K: int, iterations: int) -> tuple[Array, Array]:
    """Lloyd's algorithm from a greedy k-means++ start (Arthur & Vassilvitskii 2007).

    Each new centre is the best of a few points, drawn with the probability of their squared
    distance to the nearest centre so far.

    Args:
      z: points [B, D].
      w: the weight of each [B]; 0 leaves a point out.
      K: how many centres.
      iterations: of Lloyd's algorithm.

    Returns:
      centres [K, D], and each feature's Σ_n w_n (z_n - its centre)² [D].
    """
    tries = 2 + int(math.log(K))
    norm = jnp.sum(z**2, -1)
    # ‖z - c‖² = ‖z‖² - 2 zᵀc + ‖c‖²
    apart = lambda c: jnp.maximum(norm - 2 * _dot(c, z.T) + jnp.sum(c**2, -1, keepdims=True), 0)
    draw = lambda key, p, n: jax.random.categorical(key, jnp.log(p + _SMALLEST), shape=(n,))
    centres = jnp.zeros((K, z.shape[1])).at[0].set(z[draw(key, w, 1)[0]])

    def add(k: Array, found: tuple[Array, Array]) -> tuple[Array, Array]:
        centres, nearest = found
        tried = z[draw(jax.random.fold_in(key, k), w * nearest, tries)]
        left = jnp.minimum(nearest, apart(tried))
        best = jnp.argmin(_dot(left, w[:, None])[:, 0])
        return centres.at[k].set(tried[best]), left[best]

    centres, _ = jax.lax.fori_loop(1, K, add, (centres, apart(centres[:1])[0]))

    def own(centres: Array) -> Array:
        return jax.nn.one_hot(jnp.argmin(apart(centres), 0), K) * w[:, None]

    def lloyd(_: Array, centres: Array) -> Array:
        member = own(centres)
        n = member.sum(0)[:, None]
        return jnp.where(n > 0, _dot(member.T, z) / jnp.maximum(n, _SMALLEST), centres)

    centres = jax.lax.fori_loop(0, iterations, lloyd, centres)
    member = own(centres)
    return centres, jnp.sum(w[:, None] * (z - _dot((member > 0) * 1.0, centres)) ** 2, 0)


_LOG_2PI = math.log(2 * math.pi)
_SMALLEST = 1e-30
"""The least variance, and the least number that anything is divided by."""


def _flat(x: Array) -> Array:
    return x.reshape(x.shape[0], -1)


def _row(each: Array) -> Array:
    """[C, K, ...] -> [C K, ...]: all components in a row."""
    return each.reshape(-1, *each.shape[2:])


def _dot(a: Array, b: Array) -> Array:
    """A matrix product; never rounded to fewer bits, on any device."""
    return jnp.matmul(a, b, precision="highest")
