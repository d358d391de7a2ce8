"""The contract: what every model of the zoo is, and nothing about how it learns or runs.

Floor 0. Nothing here imports anything of genjax_zoo.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

Key = jax.Array
Array = jax.Array
Batch = Mapping[str, Array]
"""A flat dict of arrays whose leading axis is the batch: `x` [B, ...], and `label` [B] if known."""
State = Any
"""One named, documented pytree per model."""
Info = dict[str, Array]
"""Scalars that a step tells of itself, by name."""


class Evidence(enum.StrEnum):
    """What kind of number a log-probability is. It travels with every number that is printed.

    A lower bound lies below the exact value in expectation; an estimate is consistent but may
    err on either side; an unnormalised one differs from the truth by an unknown constant.
    """

    EXACT = "exact"
    LOWER_BOUND = "lower_bound"
    ESTIMATE = "estimate"
    UNNORMALISED = "unnormalised"
    NONE = "none"


class Support(enum.StrEnum):
    """Where a model puts its probability: what `x` must be for `log_prob` to be one of `x`."""

    REAL = "real"
    UNIT = "unit-interval"
    SIGNED = "signed-unit-interval"
    BINARY = "binary"
    COUNTS = "counts"
    CATEGORICAL = "categorical"


class Once(NamedTuple):
    """What a measure computes once for all examples, such as log Z by annealed importance sampling.

    Attributes:
      value: a pytree, handed to the measure's `value`.
      error: the standard error [] that it lends to every example alike, in the measure's unit.
      told: scalars worth printing beside the measure, by name.
    """

    value: Any
    error: Array | float = 0.0
    told: Mapping[str, Array] = {}


class Measure(NamedTuple):
    """A further number per example that a model can tell of data, with what it is.

    Attributes:
      value: (key, state, batch) -> [B], in `unit`; with `once`, (key, state, batch, once.value).
      evidence: what kind of number it is; EXACT for one that is simply computed, like an error.
      unit: "nats", "error", "squared error", ...
      better: "higher" or "lower".
      detail: what else one must know to quote it, such as the number of importance samples.
      once: (key, state) -> Once, computed once for a whole measurement; None if nothing is.
      density: whether it is a log-density of x, of which bits per dimension can be told.
    """

    value: Callable[..., Array]
    evidence: Evidence
    unit: str
    better: str = "higher"
    detail: str = ""
    once: Callable[[Key, State], Once] | None = None
    density: bool = False

    def __call__(self, key: Key, state: State, batch: Batch) -> Array:
        """The numbers [B] of one batch alone."""
        if self.once is None:
            return self.value(key, state, batch)
        key_once, key_value = jax.random.split(key)
        return self.value(key_value, state, batch, self.once(key_once, state).value)


class Model(NamedTuple):
    """A generative model is a bundle of pure functions.

    Key first, state second, `(state, info)` back, without exception. All functions can be jitted,
    differentiated and vmapped, read no flag, no file and no clock, and keep no state of their own.

    Attributes:
      init: (key, batch) -> state. The batch is an example of the data: its shapes and, where a
        model starts from the data's statistics, its values.
      step: (key, state, batch) -> (state, info): one step of learning. `info` is a dict of scalars.
      sample: (key, state, n, **condition) -> batch of n, of the data's shape, dtype and range.
      log_prob: (key, state, batch) -> [B] nats. The key feeds an estimate; an exact one ignores it.
      evidence: what kind of number `log_prob` is.
      encode: (key, state, batch) -> latents, a pytree whose leading axis is B.
      decode: (state, latents) -> batch: the mean of p(x | latents).
      prior: (key, state, n) -> n latents as `decode` takes them, drawn from p(latents). It tells
        what one of them looks like where there is no `encode`; None where p(latents) is unknown.
      codes: what the latents are. Between real ones there are paths; binary or categorical ones
        (the means of units, the probabilities of classes) have none.
      measures: further numbers per example, each with its own evidence and unit.
      support: what the data must be; a run refuses others before it starts.
      classes: how many labels the model tells apart, 0 .. classes - 1; a run refuses others. 0 for
        a model that takes no notice of labels.
    """

    init: Callable[[Key, Batch], State]
    step: Callable[[Key, State, Batch], tuple[State, Info]]
    sample: Callable[..., Batch]
    log_prob: Callable[[Key, State, Batch], Array] | None = None
    evidence: Evidence = Evidence.NONE
    encode: Callable[[Key, State, Batch], Any] | None = None
    decode: Callable[[State, Any], Batch] | None = None
    prior: Callable[[Key, State, int], Any] | None = None
    codes: Support = Support.REAL
    measures: Mapping[str, Measure] = {}
    support: Support = Support.REAL
    classes: int = 0


class Net(NamedTuple):
    """A network as two pure functions.

    Attributes:
      init: (key, *inputs) -> params; only the inputs' shapes matter.
      apply: (params, *inputs) -> outputs, whose leading axis is that of the inputs.
    """

    init: Callable[..., Any]
    apply: Callable[..., Any]


class ZooError(Exception):
    """Something the user can mend. The message says what was expected, what came, what to do."""


class ConfigError(ZooError):
    """A config holds a field, a value or a name that does not exist."""


class DataError(ZooError):
    """The data are missing, unreadable or of the wrong shape."""


class CheckpointError(ZooError):
    """A checkpoint is damaged, belongs to another model, or could not be written."""


class DivergedError(ZooError):
    """A number became NaN or infinite."""
