"""Naive Bayes: a class, and given the class independent features; closed form, from a stream.

    p(x, y) = p(y) Π_d p(x_d | y),      p(y | x) = p(x, y) / p(x),      p(x) = Σ_y p(x, y)

    p(x_d | y) = N(x_d; μ_yd, σ²_yd)   or   Bernoulli(x_d; μ_yd)

Nothing is hidden, so one maximisation is exact: p(y), μ and σ² are functions of counts, sums and
sums of squares for each class, which minibatches add up. Duda & Hart, Pattern classification and
scene analysis, 1973, chapters 2 and 3; the smoothing is scikit-learn's, whose GaussianNB and
BernoulliNB give the same numbers. Without labels there is one class, and the model is one product
of independent features.
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

from genjax_zoo import distributions
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
    Support,
)
from genjax_zoo.learn import em, learnt, of_params

VERB = "em"


@dataclasses.dataclass(frozen=True)
class Config:
    """Naive Bayes.

    Attributes:
      kind: "gaussian" for real numbers, "bernoulli" for data that are exactly 0 or 1.
      classes: C, how many classes labelled data have; data without labels have one. With 1 there
        is nothing to classify, and no measure of it.
      var_smoothing: a Gaussian's variances all get this fraction of the largest variance that a
        feature has over all classes together.
      alpha: a Bernoulli's imagined examples of each value, for each class (Laplace is 1).
      sample_means: `sample` returns the mean of p(x | y), the picture of a class; False returns
        draws from it, which is what a density is judged by.
    """

    kind: Literal["gaussian", "bernoulli"] = "gaussian"
    classes: int = 10
    var_smoothing: float = 1e-9
    alpha: float = 1.0
    sample_means: bool = False

    def __post_init__(self):
        if self.classes < 1:
            raise ConfigError(f"naive_bayes: classes should be at least 1, got {self.classes}.")
        if self.var_smoothing < 0:
            raise ConfigError(
                f"naive_bayes: var_smoothing should not be negative, got {self.var_smoothing}."
            )
        if self.alpha <= 0:
            raise ConfigError(
                f"naive_bayes: alpha should be positive, got {self.alpha}; at 0 a value that was "
                "never seen has no probability at all."
            )


@struct.dataclass
class Statistics:
    """Sums over the examples of each class; what a minibatch adds to is all there is to know.

    Squares are summed about a point near each class, so that in float32 a variance is no small
    difference of large numbers. The first batch that shows a class settles its point, and later
    ones add 0 to it.

    Attributes:
      counts: n_y [C].
      sums: Σ (x - s_y) [C, D].
      squares: Σ (x - s_y)² [C, D]; 0 for a Bernoulli, which has no use for it.
      shift: s_y [C, D]; 0 for a Bernoulli, whose sums are counts.
      shape: of one example, without the batch; its product is D.
    """

    counts: Array
    sums: Array
    squares: Array
    shift: Array
    shape: tuple[int, ...] = struct.field(pytree_node=False)


@struct.dataclass
class Params:
    """p(y) and p(x | y), with the point that further sums are taken about.

    Attributes:
      prior: p(y) [C]; uniform before any example.
      mean: μ [C, D]; of a Bernoulli the probability of a 1.
      variance: σ² [C, D]; of a Bernoulli μ (1 - μ), which keeps 1 - μ where μ rounds to 1.
      counts: n_y [C].
      shift: s_y [C, D].
      shape: of one example, without the batch.
    """

    prior: Array
    mean: Array
    variance: Array
    counts: Array
    shift: Array
    shape: tuple[int, ...] = struct.field(pytree_node=False)


def make(config: Config, tx: optax.GradientTransformation | None = None) -> Model:
    """Naive Bayes in closed form; there is no gradient, and the optimizer is not used."""
    gaussian = config.kind == "gaussian"

    def begin(key: Key, batch: Batch) -> tuple[Params, Statistics]:
        """The statistics of no example. Only the batch's shapes matter, and whether it has labels.

        Raises DataError for labels that are not among the classes, as far as they can be seen
        (not traced).
        """
        C = config.classes if "label" in batch else 1
        if "label" in batch and not isinstance(batch["label"], jax.core.Tracer):
            low, high = int(batch["label"].min()), int(batch["label"].max())
            if low < 0 or high >= C:
                raise DataError(
                    f"naive_bayes: labels should lie in 0 .. {C - 1}, got {low} .. {high}; set "
                    f"model.classes to {high + 1} or more."
                )
        shape = tuple(batch["x"].shape[1:])
        zeros = jnp.zeros((C, math.prod(shape)))
        nothing = Statistics(jnp.zeros(C), zeros, zeros, zeros, shape)
        return maximise(nothing), nothing

    def expect(key: Key, params: Params, batch: Batch) -> tuple[Statistics, Info]:
        """Sums over the batch. A label outside of the classes makes `labels_outside` NaN."""
        x, C = _flat(batch["x"]), params.counts.size
        label = batch.get("label", jnp.zeros(x.shape[0], jnp.int32))
        member = jax.nn.one_hot(label, C)
        # n_y = Σ_n [y_n = y]
        counts = member.sum(0)
        shift = params.shift
        if gaussian:
            here = _sum(member, x) / jnp.maximum(counts, 1)[:, None]
            shift = jnp.where(params.counts[:, None] > 0, params.shift, here)
        centred = x - _sum(member.T, shift)
        statistics = Statistics(
            counts=counts,
            sums=_sum(member, centred),
            squares=_sum(member, centred**2) if gaussian else jnp.zeros_like(shift),
            shift=shift - params.shift,
            shape=params.shape,
        )
        outside = jnp.any((label < 0) | (label >= C))
        info = {"labels_outside": jnp.where(outside, jnp.nan, 0.0)}
        if "label" in batch:
            info["error"] = jnp.mean(error(key, params, batch))
        return statistics, info

    def maximise(s: Statistics) -> Params:
        total, n = s.counts.sum(), s.counts[:, None]
        # p(y) = n_y / n
        prior = jnp.where(total > 0, s.counts / jnp.maximum(total, 1), 1 / s.counts.size)
        if not gaussian:
            # μ_y = (Σ x + α) / (n_y + 2α)
            ones, noughts = s.sums + config.alpha, n - s.sums + config.alpha
            mean = ones / (ones + noughts)
            variance = mean * noughts / (ones + noughts)
            return Params(prior, mean, variance, s.counts, s.shift, s.shape)
        # μ_y = s_y + <x - s_y>,    σ²_y = <(x - s_y)²> - <x - s_y>²
        offset = s.sums / jnp.maximum(n, 1)
        mean = s.shift + offset
        variance = jnp.maximum(s.squares / jnp.maximum(n, 1) - offset**2, 0)
        # ε = var_smoothing · max_d Var[x_d],  Var[x_d] = Σ_y p(y) (σ²_y + (μ_y - μ)²)
        weight = prior[:, None]
        overall = jnp.sum(weight * mean, 0)
        spread = jnp.max(jnp.sum(weight * (variance + (mean - overall) ** 2), 0))
        smoothed = variance + config.var_smoothing * spread
        # A class without examples has none; neither may a constant one have a variance of 0.
        variance = jnp.where(n > 0, jnp.maximum(smoothed, _SMALLEST), 1.0)
        return Params(prior, mean, variance, s.counts, s.shift, s.shape)

    def joint(params: Params, x: Array) -> Array:
        """log p(x, y) for every y: [B, D] -> [B, C] nats."""
        v = x[:, None, :]
        if gaussian:
            log_x = distributions.gaussian(v, params.mean, 0.5 * jnp.log(params.variance))
        else:
            # log μ / (1 - μ) = 2 log μ - log σ²
            logits = 2 * jnp.log(params.mean) - jnp.log(params.variance)
            log_x = distributions.bernoulli(v, logits)
            log_x = jnp.where(distributions.is_binary(v), log_x, -jnp.inf)
        return jnp.log(params.prior) + log_x

    def log_prob(key: Key, params: Params, batch: Batch) -> Array:
        """log p(x) = log Σ_y p(x, y), whether or not the batch has labels: as of other models."""
        return jax.nn.logsumexp(joint(params, _flat(batch["x"])), axis=-1)

    def log_joint(key: Key, params: Params, batch: Batch) -> Array:
        """log p(x, y) of the labels that the batch has."""
        nats = joint(params, _flat(batch["x"]))
        return jnp.take_along_axis(nats, labels(params, batch)[:, None], axis=1)[:, 0]

    def error(key: Key, params: Params, batch: Batch) -> Array:
        """1 where argmax p(y | x) is not the label, else 0."""
        guess = jnp.argmax(joint(params, _flat(batch["x"])), axis=-1)
        return (guess != labels(params, batch)).astype(jnp.float32)

    def labels(params: Params, batch: Batch) -> Array:
        if "label" in batch:
            return jnp.asarray(batch["label"])
        if params.counts.size > 1:
            raise DataError(
                f"naive_bayes: learnt {params.counts.size} classes, and this batch has no label "
                "to measure by; give it one, or ask for log_prob, which needs none."
            )
        return jnp.zeros(batch["x"].shape[0], jnp.int32)

    def encode(key: Key, params: Params, batch: Batch) -> Array:
        """p(y | x): [B, C]."""
        return jax.nn.softmax(joint(params, _flat(batch["x"])), axis=-1)

    def decode(params: Params, posterior: Array) -> Batch:
        """E[x | y] under p(y | x): [B, C] -> [B, ...]."""
        return {"x": _sum(posterior.T, params.mean).reshape(-1, *params.shape)}

    def sample(
        key: Key,
        params: Params,
        n: int,
        label: Array | int | None = None,
        means: bool = config.sample_means,
    ) -> Batch:
        """y ~ p(y), or the `label` given ([] or [n]); then x ~ p(x | y), or with `means` its mean.

        Raises DataError for a label that is not among the classes, if it is not traced.
        """
        key_y, key_x = jax.random.split(key)
        if label is None:
            y = jax.random.categorical(key_y, jnp.log(params.prior), shape=(n,))
        else:
            if not isinstance(label, jax.core.Tracer):
                C, asked = params.counts.size, np.asarray(label)
                if int(asked.min()) < 0 or int(asked.max()) >= C:
                    raise DataError(f"naive_bayes: label should lie in 0 .. {C - 1}, got {label}.")
            y = jnp.broadcast_to(jnp.asarray(label, jnp.int32), (n,))
        x = params.mean[y]
        if not means and gaussian:
            x = x + jnp.sqrt(params.variance[y]) * jax.random.normal(key_x, x.shape)
        elif not means:
            x = jax.random.bernoulli(key_x, x).astype(x.dtype)
        return {"x": x.reshape(n, *params.shape), "label": y.astype(jnp.int32)}

    measures = {
        "log_joint": Measure(of_params(log_joint), Evidence.EXACT, "nats"),
        "error": Measure(of_params(error), Evidence.EXACT, "error", "lower"),
    }
    init, step = em(begin, expect, maximise)
    return Model(
        init,
        step,
        sample=of_params(sample),
        log_prob=of_params(log_prob),
        evidence=Evidence.EXACT,
        encode=of_params(encode),
        decode=lambda state, latents: decode(learnt(state), latents),
        measures=measures if config.classes > 1 else {},
        support=Support.REAL if gaussian else Support.BINARY,
    )


_SMALLEST = 1e-30
"""The least variance: of features that are constant, where there is no smoothing."""


def _flat(x: Array) -> Array:
    return x.reshape(x.shape[0], -1)


def _sum(member: Array, values: Array) -> Array:
    """Σ_n m_nk v_nd: [N, K], [N, D] -> [K, D]; never rounded to fewer bits, on any device."""
    return jnp.einsum("nk,nd->kd", member, values, precision="highest")
