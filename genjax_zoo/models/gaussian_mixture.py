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

from dataclasses import replace

import jax
import jax.numpy as jnp
import optax
from flax import struct

from genjax_zoo import typed
from genjax_zoo.contract import (
    NOTHING,
    REAL,
    Array,
    Batch,
    Exactness,
    Info,
    Key,
    Latents,
    Measure,
    Model,
    categorical,
)
from genjax_zoo.learn.state import of_params
from genjax_zoo.learn.verbs import em
from genjax_zoo.maths.inference import classification, gaussians
from genjax_zoo.maths.inference.clustering import k_means_of_classes
from genjax_zoo.maths.inference.gaussians import Form, Gaussians, Moments
from genjax_zoo.maths.inference.matrices import exactly
from genjax_zoo.maths.probability.distributions import flat
from genjax_zoo.maths.probability.given import Labels, known_part, part_of, read_given
from genjax_zoo.typed import MOST_STEPS, number

VERB = "em"

Shape = tuple[int, ...]


@typed.config
class Config:
    """A Gaussian mixture for each class.

    Attributes:
      covariance: "full", a matrix for each component; "tied", one matrix for all components of all
        classes; "diagonal", a variance for each feature of each component; "spherical", a variance
        for each component.
      classes: C, how many classes the data's labels tell apart; 0 leaves labels out.
      components: K, for each class.
      keep: what remains of the old statistics at each step. 0 is EM on each batch alone, for
        batches of all data; 1 counts all examples alike, right where nothing is hidden; between
        them lies stepwise EM, for minibatches of a mixture.
      pseudo_counts: ν, examples that each covariance has besides its own: uncorrelated ones, with
        the variances that the data have within components. 0 is maximum likelihood.
      ridge: every variance gets this fraction of the feature's variance over all data, so that no
        covariance is singular in float32; rescaling a feature changes nothing.
      lloyd: iterations of k-means on the first batch that the components start from, after a start
        of greedy k-means++; features are compared in units of their standard deviation.
    """

    covariance: Form = "full"
    classes: int = number(10, least=0)
    components: int = number(1, least=1)
    keep: float = number(0.0, least=0, most=1)
    pseudo_counts: float = number(1.0, least=0)
    ridge: float = number(1e-5, least=1e-7, most=1)
    lloyd: int = number(10, least=0, most=MOST_STEPS)


@struct.dataclass
class Statistics:
    """Expected sums over the examples of all C K components in a row, each about where it starts.

    Attributes:
      moments: of r_nm = p(component m | x_n, y_n).
      shape: of one example, without the batch; its product is D.
    """

    moments: Moments
    shape: Shape = struct.field(pytree_node=False)


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
    shape: Shape = struct.field(pytree_node=False)


def make(config: Config, tx: optax.GradientTransformation | None = None) -> Model:
    """Gaussian mixtures by EM; there is no gradient, and the optimizer is not used."""
    K, labels = config.components, Labels(config.classes, "gaussian_mixture")

    def in_a_row(params: Params) -> Gaussians:
        """The components of all classes."""
        return Gaussians(config.covariance, _row(params.mean), _row(params.factor))

    def of_classes(prior: Array, weight: Array, g: Gaussians, shift: Array, shape: Shape) -> Params:
        """The parameters, of components in a row; a factor may be one for all of them."""
        fold = lambda a: a.reshape(-1, K, *a.shape[1:]) if len(a) == len(shift) else a[None]
        return Params(prior, weight, fold(g.mean), fold(g.factor), fold(shift), shape)

    # ------------------------------------------------------------------------------- the start

    def begin(key: Key, batch: Batch) -> tuple[Params, Statistics]:
        """k-means of each class on the first batch; one diagonal covariance, as k-means leaves it.

        Raises DataError for labels that are not among the classes, as far as they can be seen
        (not traced).
        """
        x, shape = flat(batch["x"]), tuple(batch["x"].shape[1:])
        member = labels.one_hot(batch) if config.classes else jnp.ones((len(x), 1))
        centres, variance = k_means_of_classes(key, x, member, K, config.lloyd)
        C, mean = len(centres), _row(centres)
        g = gaussians.alike(config.covariance, mean, variance)
        params = of_classes(jnp.ones(C) / C, jnp.ones((C, K)) / K, g, mean, shape)
        return params, Statistics(gaussians.no_moments(config.covariance, mean), shape)

    # ------------------------------------------------------------------- densities of components

    def conditional(params: Params, x: Array) -> Array:
        """log p(x, k | y) of the features that are known: [B, D] -> [B, C, K] nats."""
        nats = gaussians.log_prob(in_a_row(params), x)
        return jnp.log(params.weight) + nats.reshape(-1, *params.weight.shape)

    def joint(params: Params, x: Array) -> Array:
        """log p(x, y, k): [B, D] -> [B, C, K] nats."""
        return jnp.log(params.prior)[:, None] + conditional(params, x)

    # ----------------------------------------------------------------------------------- learning

    def expect(key: Key, params: Params, batch: Batch) -> tuple[Statistics, Info]:
        """Expected sums over the batch. A label outside of the classes makes `labels_outside` NaN.

        Such an example is counted nowhere.
        """
        x = flat(batch["x"])
        inner = conditional(params, x)
        outer = jnp.log(params.prior)[:, None] + inner
        info = {"log_prob": jnp.mean(jax.nn.logsumexp(outer, axis=(1, 2)))}
        if config.classes:
            # r_nyk = [y_n = y] p(k | x_n, y)
            r = labels.one_hot(batch)[:, :, None] * jax.nn.softmax(inner, axis=-1)
            by_class = jax.nn.logsumexp(outer, axis=-1)
            info |= classification.info(by_class, labels.of(batch))
        else:
            # r_nyk = p(y, k | x_n)
            r = jax.nn.softmax(outer, axis=(1, 2))
        g, shift = in_a_row(params), _row(params.shift)
        moments = gaussians.moments(g, x, r.reshape(len(x), -1), shift)
        # The shift is no sum: what is kept of it and what is added make it whole again.
        added = (1 - config.keep) * shift
        return Statistics(replace(moments, shift=added), params.shape), info

    def maximise(s: Statistics) -> Params:
        """p(y) = n_y / n,  p(k | y) = n_yk / n_y; even where there is no example."""
        n_yk = s.moments.counts.reshape(-1, K)
        n_y, n = n_yk.sum(1), s.moments.counts.sum()
        prior = jnp.where(n > 0, n_y / jnp.maximum(n, _SMALLEST), 1 / n_y.size)
        share = n_yk / jnp.maximum(n_y, _SMALLEST)[:, None]
        weight = jnp.where(n_y[:, None] > 0, share, 1 / K)
        form, shift = config.covariance, s.moments.shift
        g = gaussians.estimate(form, s.moments, config.pseudo_counts, config.ridge)
        return of_classes(prior, weight, g, shift, s.shape)

    # ------------------------------------------------------------------------------- the numbers

    def log_prob(key: Key, params: Params, batch: Batch) -> Array:
        """log p(x), whether or not the batch has labels; of the features that are known."""
        return jax.nn.logsumexp(joint(params, flat(batch["x"])), axis=(1, 2))

    def by_class(key: Key, params: Params, batch: Batch) -> Array:
        """log p(x, y) for every y: [B, C] nats."""
        return jax.nn.logsumexp(joint(params, flat(batch["x"])), axis=2)

    # ---------------------------------------------------------------------------- the samples

    def sample(key: Key, params: Params, n: int, given: Batch = NOTHING) -> Batch:
        """y ~ p(y), or a label given; then k ~ p(k | y) and x ~ N(μ_yk, Σ_yk).

        Where a part of x is given, y and k are drawn from their posterior, and of x only the rest.
        """
        told = read_given(given, labels.told | part_of(REAL, params.shape), n, "gaussian_mixture")
        key_m, key_x = jax.random.split(key)
        C, _, D = params.mean.shape
        y, part = told.get("label"), known_part(told, "gaussian_mixture")
        inner = jnp.broadcast_to(jnp.log(params.weight), (n, C, K))
        outer = jnp.log(params.prior)[:, None] + inner
        if part is not None:
            known = flat(jnp.where(part[1], part[0], jnp.nan))
            inner, outer = conditional(params, known), joint(params, known)
        if y is None:
            m = jax.random.categorical(key_m, outer.reshape(n, -1))
        else:
            m = y * K + jax.random.categorical(key_m, inner[jnp.arange(n), y])
        g, noise = in_a_row(params), jax.random.normal(key_x, (n, D))
        x = g.mean[m] + gaussians.centred_draw(g, m, noise)
        if part is not None:
            base = jnp.broadcast_to(x[:, None], (n, C * K, D))
            x = gaussians.fill(g, known, base).mean[jnp.arange(n), m]
        label = {"label": (m // K).astype(jnp.int32)} if config.classes else {}
        return {"x": x.reshape(n, *params.shape), **label}

    def encode(key: Key, params: Params, batch: Batch) -> Array:
        """p(y, k | x): [B, C, K]."""
        return jax.nn.softmax(joint(params, flat(batch["x"])), axis=(1, 2))

    @exactly
    def decode(key: Key, params: Params, posterior: Array) -> Batch:
        """E[x] under p(y, k | x): [B, C, K] -> [B, ...]."""
        x = jnp.einsum("bck,ckd->bd", posterior, params.mean)
        return {"x": x.reshape(-1, *params.shape)}

    measures = classification.measures(of_params(by_class), labels.of)
    return Model(
        *em(begin, expect, maximise, config.keep),
        sample=of_params(sample),
        log_prob=Measure(of_params(log_prob), Exactness.EXACT, density=True),
        measures=measures if config.classes > 1 else {},
        spaces=labels.spaces(REAL._replace(missing=True)),
        latents=Latents(decode=of_params(decode), encode=of_params(encode), space=categorical()),
    )


_SMALLEST = 1e-30
"""The least number that anything is divided by."""


def _row(each: Array) -> Array:
    """[C, K, ...] -> [C K, ...]: all components in a row."""
    return each.reshape(-1, *each.shape[2:])
