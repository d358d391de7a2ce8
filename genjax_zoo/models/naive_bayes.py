"""Naive Bayes: a class, and given the class independent features; closed form, from a stream.

    p(x, y) = p(y) Π_d p(x_d | y),      p(y | x) = p(x, y) / p(x),      p(x) = Σ_y p(x, y)

    p(x_d | y) = N(x_d; μ_yd, σ²_yd)   or   Bernoulli(x_d; μ_yd)
    p(x | y, n) = n! Π_d μ_yd^x_d / x_d!   with n = Σ_d x_d, of counts: a multinomial

Nothing is hidden, so one maximisation is exact: p(y), μ and σ² are functions of counts, sums and
sums of squares for each class, which minibatches add up. Duda & Hart, Pattern classification and
scene analysis, 1973, chapters 2 and 3; the multinomial is McCallum & Nigam 1998, section 2.2; the
smoothing is scikit-learn's, whose GaussianNB, BernoulliNB and MultinomialNB give the same numbers.
Without labels there is one class, and the model is one product of independent features.

A missing feature is NaN. It is summed or integrated out, which for independent features means that
its factor is left out, and what is left is exact:

    p(x_S, y) = p(y) Π_{d in S} p(x_d | y)     S: the features that are known

A Gaussian and a Bernoulli learn from examples with missing features too: each feature of a class
has its own number of examples. (That is maximum likelihood if whether a feature is missing does
not depend on its value.)
"""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.scipy.special import gammaln

from genjax_zoo import typed
from genjax_zoo.contract import (
    BINARY,
    COUNTS,
    MEAN,
    NOTHING,
    REAL,
    Array,
    Batch,
    DataError,
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
from genjax_zoo.maths.inference import classification
from genjax_zoo.maths.inference.matrices import exactly
from genjax_zoo.maths.probability import distributions
from genjax_zoo.maths.probability.distributions import flat
from genjax_zoo.maths.probability.given import Labels, known_part, part_of, read_given
from genjax_zoo.maths.probability.scales import of_parts, varies
from genjax_zoo.typed import number

VERB = "em"


@typed.config
class Config:
    """Naive Bayes.

    Attributes:
      kind: "gaussian" for real numbers, "bernoulli" for data that are exactly 0 or 1, "multinomial"
        for counts. How many counts an example has in all is not modelled: every probability is one
        given their sum.
      classes: C, how many classes the data's labels tell apart; 0 leaves labels out. Below 2 there
        is nothing to classify, and no measure of it.
      var_smoothing: a Gaussian's variances all get this fraction of the largest variance that a
        feature has over all classes together.
      alpha: pseudo-counts: a Bernoulli's examples of each value, for each class (Laplace is 1); a
        multinomial's counts of each feature (a Dirichlet prior of α + 1). At 0 a value that was
        never seen would have no probability at all.
      sample_means: `sample` gives the mean of p(x | y), the picture of a class, beside its draws.
    """

    kind: Literal["gaussian", "bernoulli", "multinomial"] = "gaussian"
    classes: int = number(10, least=0)
    var_smoothing: float = number(1e-9, least=0, most=1)
    alpha: float = number(1.0, above=0)
    sample_means: bool = False


@struct.dataclass
class Statistics:
    """Sums over the examples of each class; what a minibatch adds to is all there is to know.

    Squares are summed about a point near each class, so that in float32 a variance is no small
    difference of large numbers. The first batch that shows a feature of a class settles its point,
    and later ones add 0 to it.

    Attributes:
      counts: n_y [C].
      known: n_yd [C, D], the examples of the class whose feature d is not missing.
      sums: Σ (x - s_y) [C, D], over these.
      squares: Σ (x - s_y)² [C, D]; 0 for what is no Gaussian, and has no use for it.
      shift: s_y [C, D]; 0 for what is no Gaussian, whose sums are counts.
      shape: of one example, without the batch; its product is D.
    """

    counts: Array
    known: Array
    sums: Array
    squares: Array
    shift: Array
    shape: tuple[int, ...] = struct.field(pytree_node=False)


@struct.dataclass
class Params:
    """p(y) and p(x | y), with the point that further sums are taken about.

    Attributes:
      prior: p(y) [C]; uniform before any example.
      mean: μ [C, D]; of a Bernoulli the probability of a 1, of a multinomial that of a feature:
        its rows sum to 1.
      variance: σ² [C, D]; of a Bernoulli, or of one count, μ (1 - μ), which keeps 1 - μ where μ
        rounds to 1.
      total: of a multinomial the mean sum of an example's counts [C], which samples have, rounded;
        1 otherwise.
      counts: n_y [C].
      known: n_yd [C, D].
      shift: s_y [C, D].
      shape: of one example, without the batch.
    """

    prior: Array
    mean: Array
    variance: Array
    total: Array
    counts: Array
    known: Array
    shift: Array
    shape: tuple[int, ...] = struct.field(pytree_node=False)


def make(config: Config, tx: optax.GradientTransformation | None = None) -> Model:
    """Naive Bayes in closed form; there is no gradient, and the optimizer is not used."""
    gaussian, multinomial = config.kind == "gaussian", config.kind == "multinomial"
    labels = Labels(config.classes, "naive_bayes")
    space = {"gaussian": REAL, "bernoulli": BINARY, "multinomial": COUNTS}[config.kind]
    space = space._replace(missing=not multinomial)

    # ----------------------------------------------------------------------------------- learning

    def begin(key: Key, batch: Batch) -> tuple[Params, Statistics]:
        """The statistics of no example. Only the batch's shapes matter.

        Raises DataError for labels that are not among the classes, and for missing counts, as far
        as they can be seen (not traced).
        """
        known = not isinstance(batch["x"], jax.core.Tracer)
        if multinomial and known and bool(np.isnan(batch["x"]).any()):
            raise DataError(
                "naive_bayes: a multinomial learns from whole examples, and x has missing counts "
                "(NaN); leave these examples out. It can measure them all the same."
            )
        if config.classes:
            labels.of(batch)
        C, shape = max(config.classes, 1), tuple(batch["x"].shape[1:])
        zeros = jnp.zeros((C, math.prod(shape)))
        nothing = Statistics(jnp.zeros(C), zeros, zeros, zeros, zeros, shape)
        return maximise(nothing), nothing

    @exactly
    def expect(key: Key, params: Params, batch: Batch) -> tuple[Statistics, Info]:
        """Sums over the batch. A label outside of the classes makes `labels_outside` NaN.

        Such an example is counted nowhere.
        """
        x = flat(batch["x"])
        member = labels.one_hot(batch) if config.classes else jnp.ones((len(x), 1))
        # A missing count stays NaN: skipping it would be no maximum likelihood, and so it shows.
        there = jnp.ones_like(x) if multinomial else 1.0 - jnp.isnan(x)
        # n_y = Σ_n [y_n = y],    n_yd = Σ_n [y_n = y, x_nd is known]
        counts, known = member.sum(0), member.T @ there
        value = x if multinomial else jnp.where(there > 0, x, 0)
        shift = params.shift
        if gaussian:
            here = member.T @ value / jnp.maximum(known, 1)
            shift = jnp.where(params.known > 0, params.shift, here)
        centred = (value - member @ shift) * there
        statistics = Statistics(
            counts=counts,
            known=known,
            sums=member.T @ centred,
            squares=member.T @ centred**2 if gaussian else jnp.zeros_like(shift),
            shift=shift - params.shift,
            shape=params.shape,
        )
        info = {"examples": counts.sum()}
        if config.classes:
            info |= classification.info(joint(params, x), labels.of(batch))
        return statistics, info

    def maximise(s: Statistics) -> Params:
        total, n = s.counts.sum(), s.known
        # p(y) = n_y / n
        prior = jnp.where(total > 0, s.counts / jnp.maximum(total, 1), 1 / s.counts.size)
        mean, variance = best(s)
        length = jnp.ones_like(s.counts)
        if multinomial:
            length = s.sums.sum(1) / jnp.maximum(s.counts, 1)
        return Params(prior, mean, variance, length, s.counts, n, s.shift, s.shape)

    def of_gaussian(s: Statistics) -> tuple[Array, Array]:
        n = s.known
        # μ_y = s_y + <x - s_y>,    σ²_y = <(x - s_y)²> - <x - s_y>²
        offset = s.sums / jnp.maximum(n, 1)
        mean = s.shift + offset
        variance = jnp.maximum(s.squares / jnp.maximum(n, 1) - offset**2, 0)
        variance = jnp.where(varies(variance, mean), variance, 0)
        # ε = var_smoothing · max_d Var[x_d],  Var[x_d] = Σ_y n_yd / n_d (σ²_y + (μ_y - μ)²)
        weight = n / jnp.maximum(n.sum(0), 1)
        overall, between = of_parts(weight, mean)
        spread = jnp.sum(weight * variance, 0) + between
        smoothed = variance + config.var_smoothing * jnp.max(spread)
        # A class without examples of a feature has that of all classes, or else N(0, 1); no
        # variance may be 0.
        mean = jnp.where(n > 0, mean, overall)
        variance = jnp.where(n > 0, smoothed, jnp.where(n.sum(0) > 0, spread, 1.0))
        return mean, jnp.maximum(variance, _SMALLEST)

    def of_bernoulli(s: Statistics) -> tuple[Array, Array]:
        # μ_y = (Σ x + α) / (n_y + 2α)
        ones, noughts = s.sums + config.alpha, s.known - s.sums + config.alpha
        mean = ones / (ones + noughts)
        return mean, mean * noughts / (ones + noughts)

    def of_multinomial(s: Statistics) -> tuple[Array, Array]:
        # μ_yd = (Σ x_d + α) / Σ_e (Σ x_e + α)
        counts = s.sums + config.alpha
        every = counts.sum(1, keepdims=True)
        mean = counts / every
        return mean, mean * (every - counts) / every

    best = {"gaussian": of_gaussian, "bernoulli": of_bernoulli, "multinomial": of_multinomial}[
        config.kind
    ]

    # ------------------------------------------------------------------------------ the densities

    def conditional(params: Params, x: Array) -> Array:
        """log p(x | y) of the features that are known, for every y: [B, D] -> [B, C] nats."""
        known = ~jnp.isnan(x)
        # A missing feature stands at a value that is in the support; its factor is left out.
        v, known = jnp.where(known, x, 0)[:, None, :], known[:, None, :]
        if multinomial:
            return log_multinomial(params, v, known)
        # Densities sum over their last axis, which here holds one feature alone.
        each = lambda array: array[..., None]
        if gaussian:
            log_std = 0.5 * jnp.log(params.variance)
            log_x = distributions.gaussian(each(v), each(params.mean), each(log_std))
        else:
            # log μ / (1 - μ) = 2 log μ - log σ²
            logits = 2 * jnp.log(params.mean) - jnp.log(params.variance)
            log_x = distributions.bernoulli(each(v), each(logits))
            log_x = jnp.where(distributions.is_binary(each(v)), log_x, -jnp.inf)
        return jnp.sum(jnp.where(known, log_x, 0), axis=-1)

    def log_multinomial(params: Params, v: Array, known: Array) -> Array:
        """Of the known counts given their own sum, whose probabilities are μ_d / Σ_{e in S} μ_e."""
        there = jnp.sum(jnp.where(known, params.mean, 0), axis=-1)
        n = v.sum(-1)
        # log n! - Σ_d log x_d! + Σ_d x_d log μ_d - n log Σ_{d in S} μ_d
        coefficient = gammaln(n + 1) - gammaln(v + 1).sum(-1)
        log_x = coefficient + jnp.sum(v * jnp.log(params.mean), -1)
        log_x = jnp.where(n > 0, log_x - n * jnp.log(jnp.where(there > 0, there, 1)), log_x)
        return jnp.where(jnp.all((v >= 0) & (v == jnp.round(v)), -1), log_x, -jnp.inf)

    def joint(params: Params, x: Array) -> Array:
        """log p(x, y) for every y: [B, D] -> [B, C] nats."""
        return jnp.log(params.prior) + conditional(params, x)

    def by_class(key: Key, params: Params, batch: Batch) -> Array:
        """log p(x, y) for every y: [B, C] nats."""
        return joint(params, flat(batch["x"]))

    def log_prob(key: Key, params: Params, batch: Batch) -> Array:
        """log p(x) = log Σ_y p(x, y), whether or not the batch has labels: as of other models.

        Of counts it is log p(x | n), given their sum n: it sums to one over all x of that sum.
        """
        return jax.nn.logsumexp(by_class(key, params, batch), axis=-1)

    # ---------------------------------------------------------------------------- the samples

    def expected(params: Params) -> Array:
        """E[x | y]: [C, D]; of counts for the rounded mean total."""
        return params.mean * (jnp.round(params.total)[:, None] if multinomial else 1)

    def sample(key: Key, params: Params, n: int, given: Batch = NOTHING) -> Batch:
        """y ~ p(y), or a label given; then x ~ p(x | y), with its mean if `sample_means` is set.

        Counts sum to their class's mean total, rounded. Where a part of x is given, y is drawn from
        its posterior, and of x only the rest; no part of counts can be given, for one would have to
        know how many are missing.
        """
        parts = {} if multinomial else part_of(space, params.shape)
        told = read_given(given, labels.told | parts, n, f"naive_bayes ({config.kind})")
        key_y, key_x = jax.random.split(key)
        y, part = told.get("label"), known_part(told, "naive_bayes")
        log_y = jnp.broadcast_to(jnp.log(params.prior), (n, params.prior.size))
        if part is not None:
            log_y = joint(params, flat(jnp.where(part[1], part[0], jnp.nan)))
        if y is None:
            y = jax.random.categorical(key_y, log_y).astype(jnp.int32)
        mean = expected(params)[y]
        if gaussian:
            x = mean + jnp.sqrt(params.variance[y]) * jax.random.normal(key_x, mean.shape)
        elif multinomial:
            total = jnp.round(params.total)[y]
            x = jax.random.multinomial(key_x, total, params.mean[y]).astype(mean.dtype)
        else:
            x = jax.random.bernoulli(key_x, mean).astype(mean.dtype)
        drawn = {"x": x, **({MEAN: mean} if config.sample_means else {})}
        for name, value in drawn.items():
            value = value.reshape(n, *params.shape)
            drawn[name] = value if part is None else jnp.where(part[1], part[0], value)
        return {**drawn, **({"label": y} if config.classes else {})}

    def encode(key: Key, params: Params, batch: Batch) -> Array:
        """p(y | x): [B, C]."""
        return jax.nn.softmax(by_class(key, params, batch), axis=-1)

    @exactly
    def decode(key: Key, params: Params, posterior: Array) -> Batch:
        """E[x | y] under p(y | x): [B, C] -> [B, ...]."""
        return {"x": (posterior @ expected(params)).reshape(-1, *params.shape)}

    detail = "given the sum of the counts" if multinomial else ""
    measures = classification.measures(of_params(by_class), labels.of, detail)
    return Model(
        *em(begin, expect, maximise),
        sample=of_params(sample),
        log_prob=Measure(of_params(log_prob), Exactness.EXACT, density=True),
        measures=measures if config.classes > 1 else {},
        spaces=labels.spaces(space),
        latents=Latents(decode=of_params(decode), encode=of_params(encode), space=categorical()),
    )


_SMALLEST = 1e-30
"""The least variance: of features that are constant, where there is no smoothing."""
