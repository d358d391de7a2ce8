"""Scores: what samples are worth, each number with the protocol that it must be quoted with.

Floor 5. Two scores may be compared only if everything but the samples was the same: so many real
and so many fake examples, that split, that preprocessing, that extractor. `compare` refuses
otherwise. The Frechet distance has its own name here, FID that through the Inception network, which
this is not, unless you bring it as an extractor and say so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from genjax_zoo.contract import DataError, Exactness, ZooError
from genjax_zoo.measure import distances
from genjax_zoo.measure.distances import Estimate
from genjax_zoo.measure.extractors import Extractor


class Protocol(NamedTuple):
    """All that must be the same before two scores may be compared.

    Attributes:
      method: the measure, and the paper that it is of.
      parameters: of the method, in words: neighbours, kernel, resamples behind the interval.
      data: which data, and what was done to them.
      split: which of the data.
      n_real: how many of them; 0 where the measure looks at none.
      n_samples: how many samples.
      preprocessing: what the extractor does to an image first: resizing, scaling.
      extractor: its name; empty where there is none.
      sha256: of the extractor.
      n_train: how many training examples were looked at; 0 where the measure looks at none.
    """

    method: str
    parameters: str
    data: str
    split: str
    n_real: int
    n_samples: int
    preprocessing: str = ""
    extractor: str = ""
    sha256: str = ""
    n_train: int = 0


class Score(NamedTuple):
    """One number about samples.

    Attributes:
      name: of the measure, a name in `OF_FEATURES` or in modes.OF_MODES.
      value: in `unit`.
      low, high: its 95 % interval over resamples of the examples.
      unit: nats, %, ...; empty for a plain number.
      better: higher or lower.
      protocol: what it must be quoted with.
      kind: estimate, or exact where it was counted.
    """

    name: str
    value: float
    low: float
    high: float
    unit: str
    better: str
    protocol: Protocol
    kind: str = str(Exactness.ESTIMATE)


class Difference(NamedTuple):
    """What one score has over another.

    Attributes:
      value: first minus second.
      low, high: its 95 % interval.
    """

    value: float
    low: float
    high: float

    @property
    def apart(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def compare(a: Any, b: Any) -> Difference:
    """a - b, with an interval from both of theirs; raises ZooError where protocols differ.

    The interval is that of Zou & Donner 2008 (MOVER) for independent estimates: the squares of
    the two distances to the limits add up. Scores of one and the same real sample depend on each
    other a little, and the interval is then rather too wide.

    Args:
      a, b: a `Score`, or a results.Result of samples or of a text, whose interval is that of its
        standard error.
    """
    of_a, of_b = _fields(a), _fields(b)
    differ = [name for name in of_a | of_b if of_a.get(name) != of_b.get(name)]
    if differ:
        both = "; ".join(f"{name}: {of_a.get(name)!r} and {of_b.get(name)!r}" for name in differ)
        raise ZooError(
            f"two scores of different protocol cannot be compared. They differ in {both}. Measure "
            "both again in the same way."
        )
    (low_a, high_a), (low_b, high_b) = map(_interval, (a, b))
    value = a.value - b.value
    low = value - np.hypot(a.value - low_a, high_b - b.value)
    high = value + np.hypot(high_a - a.value, b.value - low_b)
    return Difference(float(value), float(low), float(high))


def _interval(score: Any) -> tuple[float, float]:
    """The 95 % interval of a score, or of a mean with a standard error."""
    if score.low is not None and score.high is not None:
        return score.low, score.high
    error = getattr(score, "standard_error", None)
    if error is None:
        raise ZooError(f"{score.name} has no interval, and cannot be compared.")
    return score.value - 1.96 * error, score.value + 1.96 * error


def _fields(score: Any) -> dict[str, Any]:
    protocol = score.protocol
    own = protocol._asdict() if isinstance(protocol, Protocol) else dict(protocol)
    if not own:
        raise ZooError(f"{score.name} carries no protocol, and cannot be compared.")
    return {"name": score.name, **own}


# ------------------------------------------------------------------------------------- the table


class Clouds(NamedTuple):
    """What the measures of this table look at.

    Attributes:
      real, fake: features [n, D] and [m, D].
      probabilities: p(y|x) of the samples [m, K], or None.
      train: features of training examples [N, D], or None.
    """

    real: np.ndarray
    fake: np.ndarray
    probabilities: np.ndarray | None = None
    train: np.ndarray | None = None


class Kind(NamedTuple):
    """A measure of this table.

    Attributes:
      value: (clouds, draws, seed) -> Estimate.
      method: it and its paper.
      parameters: of it, in words.
      better: higher or lower.
      unit: of its value.
      needs: fields of `Clouds` besides `fake`.
    """

    value: Callable[[Clouds, int, int], Estimate]
    method: str
    parameters: str
    better: str
    needs: tuple[str, ...] = ("real",)
    unit: str = ""


K_MANIFOLD, K_BALLS = 3, 5

OF_FEATURES: Mapping[str, Kind] = {
    "frechet_distance": Kind(
        lambda c, draws, seed: distances.frechet_distance(c.real, c.fake, draws, seed),
        "Frechet distance of Gaussian fits (Heusel et al. 2017)",
        "unbiased covariances",
        "lower",
    ),
    "kernel_distance": Kind(
        lambda c, draws, seed: distances.kernel_distance(c.real, c.fake, draws, seed),
        "kernel distance, unbiased MMD^2 (Binkowski et al. 2018)",
        "kernel (x.y / D + 1)^3, all examples",
        "lower",
    ),
    "inception_style_score": Kind(
        lambda c, draws, seed: distances.inception_score(c.probabilities, draws, seed),  # type: ignore[arg-type]
        "exp E KL(p(y|x) || p(y)) (Salimans et al. 2016)",
        "one split",
        "higher",
        ("probabilities",),
    ),
    "precision": Kind(
        lambda c, draws, seed: distances.precision_recall(c.real, c.fake, K_MANIFOLD, draws, seed)[
            0
        ],
        "improved precision (Kynkaanniemi et al. 2019)",
        f"k = {K_MANIFOLD}",
        "higher",
    ),
    "recall": Kind(
        lambda c, draws, seed: distances.precision_recall(c.real, c.fake, K_MANIFOLD, draws, seed)[
            1
        ],
        "improved recall (Kynkaanniemi et al. 2019)",
        f"k = {K_MANIFOLD}",
        "higher",
    ),
    "density": Kind(
        lambda c, draws, seed: distances.density_coverage(c.real, c.fake, K_BALLS, draws, seed)[0],
        "density (Naeem et al. 2020)",
        f"k = {K_BALLS}",
        "higher",
    ),
    "coverage": Kind(
        lambda c, draws, seed: distances.density_coverage(c.real, c.fake, K_BALLS, draws, seed)[1],
        "coverage (Naeem et al. 2020)",
        f"k = {K_BALLS}",
        "higher",
    ),
    "memorised": Kind(
        lambda c, draws, seed: distances.memorisation(c.train, c.real, c.fake, draws, seed)[0],  # type: ignore[arg-type]
        "fraction of samples nearer to a training example than the nearest of held-out data are",
        f"quantile {distances.QUANTILE:g}, which is what fresh data give",
        "lower",
        ("real", "train"),
    ),
    "memorisation_auc": Kind(
        lambda c, draws, seed: distances.memorisation(c.train, c.real, c.fake, draws, seed)[1],  # type: ignore[arg-type]
        "P(a sample is nearer to a training example than a held-out one) (Meehan et al. 2020)",
        "0.5 is what fresh data give, 1 is copies",
        "lower",
        ("real", "train"),
    ),
}
"""The measures of features, by name."""


def of_images(
    extractor: Extractor,
    real: np.ndarray,
    fake: np.ndarray,
    train: np.ndarray | None = None,
    *,
    data: str,
    split: str,
    only: Sequence[str] | None = None,
    seed: int = 0,
) -> list[Score]:
    """All scores that the arrays allow, each with its protocol.

    Args:
      extractor: what looks at the images.
      real: held-out images [n, H, W, C] in [0, 1].
      fake: samples [m, H, W, C] in [0, 1].
      train: training images, for the two measures of memorisation; None leaves these out.
      data: which data, and what was done to them, for the protocol.
      split: which of them are `real`, for the protocol.
      only: names in `OF_FEATURES`; None takes all.
      seed: of the resamples behind the intervals.
    """
    wanted = list(OF_FEATURES) if only is None else [n for n in only if n in OF_FEATURES]
    needed = {field for name in wanted for field in OF_FEATURES[name].needs}
    judge = extractor.probabilities
    clouds = Clouds(
        real=extractor.features(real),
        fake=extractor.features(fake),
        probabilities=judge(fake) if judge and "probabilities" in needed else None,
        train=extractor.features(train) if train is not None and "train" in needed else None,
    )
    return of_clouds(clouds, extractor, data=data, split=split, only=wanted, seed=seed)


def of_clouds(
    clouds: Clouds,
    extractor: Extractor,
    *,
    data: str,
    split: str,
    only: Sequence[str],
    seed: int = 0,
) -> list[Score]:
    """`of_images`, of features that are there already; leaves out what they do not allow."""
    for what, cloud in clouds._asdict().items():
        if cloud is not None and not np.isfinite(cloud).all():
            raise DataError(
                f"the {what} have features that are not finite; look at the samples: "
                "genjax-zoo sample."
            )
    # A hundred square roots of a 2048 x 2048 matrix would take an hour.
    draws = distances.DRAWS if clouds.fake.shape[1] <= 256 else 20
    scores = []
    for name in only:
        kind = OF_FEATURES[name]
        if any(getattr(clouds, field) is None for field in kind.needs):
            continue
        found = kind.value(clouds, draws, seed)
        protocol = Protocol(
            method=kind.method,
            parameters=f"{kind.parameters}; interval of {draws} resamples",
            data=data,
            split=split if "real" in kind.needs else "",
            n_real=len(clouds.real) if "real" in kind.needs else 0,
            n_samples=len(clouds.fake),
            preprocessing=extractor.preprocessing,
            extractor=extractor.name,
            sha256=extractor.sha256,
            n_train=len(clouds.train) if "train" in kind.needs else 0,  # type: ignore[arg-type]
        )
        scores.append(Score(name, *found, kind.unit, kind.better, protocol))
    return scores
