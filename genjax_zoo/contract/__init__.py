"""The contract: what every model of the zoo is, and nothing about how it learns or runs.

Floor 0. Of genjax_zoo nothing but the errors is imported here. Throughout, B counts the examples of
a batch, a key comes first and a state second, and what a function says of the data it says in a
batch:

    Space           what an array of a batch may hold
    Measure         a number per example, with what kind of number it is
    Latents         a space behind the data
    Autoregression  p(x) = Π_t p(x_t | x_<t)
    Model           the bundle of functions, which has the other four as fields
"""

from __future__ import annotations

import dataclasses
import enum
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax

from genjax_zoo.contract.spaces import BINARY as BINARY
from genjax_zoo.contract.spaces import COUNTS as COUNTS
from genjax_zoo.contract.spaces import REAL as REAL
from genjax_zoo.contract.spaces import SIGNED as SIGNED
from genjax_zoo.contract.spaces import UNIT as UNIT
from genjax_zoo.contract.spaces import Kind as Kind
from genjax_zoo.contract.spaces import Space as Space
from genjax_zoo.contract.spaces import categorical as categorical
from genjax_zoo.typed import CheckpointError as CheckpointError
from genjax_zoo.typed import ConfigError as ConfigError
from genjax_zoo.typed import DataError as DataError
from genjax_zoo.typed import DivergedError as DivergedError
from genjax_zoo.typed import ZooError as ZooError

Key = jax.Array
Array = jax.Array
Batch = Mapping[str, Array]
"""A flat dict of arrays whose leading axis is B: most have `x` [B, ...], some a `label` [B]."""
NOTHING: Batch = types.MappingProxyType({})
"""Where nothing is given."""
MEAN = "mean"
"""What a batch of samples may hold beside `x`, to be looked at: see `Sample`."""
PACKED = ("document", "loss_mask")
"""What stands beside an `x` [B, L] in which several texts are packed: the `document` that each
symbol is of (int32 from 1 on; 0 is padding, neither read nor predicted), and its `loss_mask`, 1
where it counts. A model that reads them names them in its `spaces`, and learns from data without
them too; one that does not is refused packed data, of which it would make one text."""
State = Any
"""One named, documented pytree per model."""


class Sometimes(NamedTuple):
    """A scalar that only some steps have something to say of, such as the loss of a later stage.

    Attributes:
      value: [], any number where it is not said.
      said: [] bool, whether this step says it. It is averaged over the steps that do, and left
        out where none does.
    """

    value: Array
    said: Array


Info = dict[str, Any]
"""Scalars that a step says of itself, by name: arrays [], or `Sometimes`."""


class Exactness(enum.StrEnum):
    """What kind of number a log-probability is. It travels with every number that is printed.

    A lower bound lies below the exact value in expectation; an estimate is consistent but may
    err on either side; an unnormalised one differs from the truth by an unknown constant.
    """

    EXACT = "exact"
    LOWER_BOUND = "lower_bound"
    ESTIMATE = "estimate"
    UNNORMALISED = "unnormalised"
    NONE = "none"


# ----------------------------------------------------------------- the functions, each a protocol


class Init(Protocol):
    """How a model begins."""

    def __call__(self, key: Key, batch: Batch, **begun: Any) -> State:
        """The state before any step.

        Args:
          key: of the first parameters.
          batch: an example of the data: its shapes and, where a model starts from the data's
            statistics, its values.
          begun: what the run starts from: the learnt parameters of other runs, under the names
            that this function's own signature declares. None where it starts from nothing.

        Raises ConfigError for data, or for something begun, that do not fit the config, and
        DataError for what is no batch.
        """


class Step(Protocol):
    """One step of learning."""

    def __call__(self, key: Key, state: State, batch: Batch) -> tuple[State, Info]:
        """The next state, of the same tree, shapes and dtypes, and scalars to say of the step."""


class Sample(Protocol):
    """How a model draws."""

    def __call__(self, key: Key, state: State, n: int, given: Batch = NOTHING) -> Batch:
        """n examples, of the data's shapes, dtypes and spaces, which honour what is given.

        They are draws of p(x), by which a density is judged. Where each x is drawn around a mean,
        E[x | what is hidden], and that is what one looks at, it stands beside x as `mean`: of the
        same shape, and between values of the data's space.

        Args:
          key: of the draw.
          state: of the model.
          n: how many.
          given: a batch of what is known, by the names of the data: `label` or `text`, each one
            for all or [n, ...]; the known part of `x`, with its `mask` (1 where it is known; what
            is NaN is unknown too); whatever else a family can be told. Nothing is known by
            default.

        Raises DataError for a name that the model cannot be told, or a value that it does not know.
        """


class Value(Protocol):
    """What a measure computes."""

    def __call__(self, key: Key, state: State, batch: Batch, *once: Any) -> Array:
        """A number per example [B], in the measure's unit. An exact one ignores the key."""


class Once(NamedTuple):
    """What a measure computes once for all examples, such as log Z by annealed importance sampling.

    Attributes:
      value: a pytree, handed to the measure's `value`.
      error: the standard error [] that it lends to every example alike, in the measure's unit.
      notes: scalars worth printing beside the measure, by name.
    """

    value: Any
    error: Array | float = 0.0
    notes: Mapping[str, Array] = {}


class Weighed(NamedTuple):
    """A mean over importance weights, and how far it can be trusted, of each example.

    Attributes:
      value: what is made of the mean [B], in the measure's unit.
      effective: (Σ w)² / Σ w² [B], how many of the draws carry it.
      tail: k̂ [B], the index of the Pareto tail of the largest weights: above .7 the mean cannot be
        trusted. NaN where there are too few draws to tell.
    """

    value: Array
    effective: Array
    tail: Array


@dataclasses.dataclass(frozen=True, eq=False)
class Measure:
    """A number per example that a model can say of data, with what it is.

    It is called like the function that it holds, and jax.jit takes it as one.

    What is printed is Σ value / Σ per: a mean over examples where `per` is None, and nats/token or
    bits/dim, as sums over sums and never as means of means, where it counts tokens or dimensions.

    Attributes:
      value: (key, state, batch) -> [B], in `unit`; with `once`, (key, state, batch, once.value).
      exactness: what kind of number it is; EXACT for one that is simply computed, like an error.
      unit: of the printed number: "nats", "bits/dim", "nats/token", "error", "squared error", ...
      better: "higher", "lower", or "neither" of what the model does not learn to raise or lower,
        such as what a policy that follows rewards makes of the data. The first of a model's
        measures that has a side is what its best checkpoint is the best by.
      detail: what else one must know to quote it, such as the number of importance samples.
      once: (key, state) -> Once, computed once for a whole measurement; None if nothing is.
      density: whether it is a log-density of x, of which bits per dimension can be said.
      per: batch -> [B], how much of it each example holds: tokens, bytes, dimensions.
      weighed: (key, state, batch, K) -> Weighed, of what is a mean over K importance weights; its
        `value` with K = `draws` is the measure's. None of any other.
      draws: K.
    """

    value: Value | Callable[..., Array]
    exactness: Exactness
    unit: str = "nats"
    better: str = "higher"
    detail: str = ""
    once: Callable[[Key, State], Once] | None = None
    density: bool = False
    per: Callable[[Batch], Array] | None = None
    weighed: Callable[[Key, State, Batch, int], Weighed] | None = None
    draws: int = 0

    def __call__(self, key: Key, state: State, batch: Batch) -> Array:
        """The numbers [B] of one batch alone."""
        if self.once is None:
            return self.value(key, state, batch)
        key_once, key_value = jax.random.split(key)
        return self.value(key_value, state, batch, self.once(key_once, state).value)


class Decode(Protocol):
    """From latents to data."""

    def __call__(self, key: Key, state: State, latents: Any) -> Batch:
        """The mean of p(x | latents), for latents whose leading axis is B."""


class Encode(Protocol):
    """From data to latents."""

    def __call__(self, key: Key, state: State, batch: Batch) -> Any:
        """The latents of a batch, a pytree whose leading axis is B."""


class Prior(Protocol):
    """Latents of no data."""

    def __call__(self, key: Key, state: State, n: int) -> Any:
        """n latents as `decode` takes them, drawn from p(latents)."""


class Latents(NamedTuple):
    """For whatever has a space behind its data.

    Attributes:
      decode: (key, state, latents) -> batch: the mean of p(x | latents).
      encode: (key, state, batch) -> latents; None where nothing leads back.
      prior: (key, state, n) -> n latents. It says what one of them looks like where there is no
        `encode`; None where p(latents) is unknown.
      space: what they are. Between real ones there are paths; binary or categorical ones (the
        means of units, the probabilities of classes) have none.
    """

    decode: Decode | Callable[..., Batch]
    encode: Encode | Callable[..., Any] | None = None
    prior: Prior | Callable[..., Any] | None = None
    space: Space = REAL


class Start(Protocol):
    """Before the first symbol."""

    def __call__(
        self, state: State, n: int, length: int, given: Batch = NOTHING
    ) -> tuple[Array, Any]:
        """What may come first, and the cache of n strings of which nothing has been read.

        Args:
          state: of the model.
          n: how many strings.
          length: how many symbols of each the cache has room for; padding takes none.
          given: what else is known, as `sample` takes it.

        Returns:
          (logits [n, V] of the first symbol, cache: a pytree whose leaves have n as leading axis).
        """


class Extend(Protocol):
    """From symbols to what may follow them."""

    def __call__(self, state: State, cache: Any, x: Array) -> tuple[Array, Any]:
        """Reads up to S more symbols of each string.

        Strings may be read unevenly: what has been read is counted string by string, and padding,
        wherever it stands, leaves the string's cache as it is.

        Args:
          state: of the model.
          cache: of what has been read before.
          x: [n, S] integers 0 .. V - 1, and below 0 for padding. S > 1 reads a prompt, S = 1
            follows what was drawn.

        Returns:
          (logits [n, S, V] of the symbol after each of them, and any numbers after padding; cache).
        """


class Rewind(Protocol):
    """Back from symbols that were read."""

    def __call__(self, cache: Any, count: Array) -> Any:
        """The cache that forgets the last `count` [n] symbols of each string, as if never read."""


class Autoregression(NamedTuple):
    """p(x) = Π_t p(x_t | x_<t, given), symbol after symbol.

    The symbols are those of `x`, flat, in the model's own order.

    Attributes:
      start: (state, n, length, given) -> (logits [n, V], cache): p(x_1), and nothing read.
      extend: (state, cache, x [n, S]) -> (logits [n, S, V], cache): what follows each of x.
      rewind: (cache, count [n]) -> cache: without the last symbols; None where a cache keeps too
        little for that, such as a sum of what was read or a window of it.
      longest: (state) -> how many symbols a string can have, of which the last need not be read;
        None where there is no end.
      begin: the symbol before each string that `start` has read by itself, and that is none of the
        string; below 0 where there is none.
      end: the symbol that is a string's last, where a writer stops; below 0 where there is none.
      ready: (state) -> a state of which `start` and `extend` say the same and sooner, to be asked
        for once before a loop of them: averages are taken, weights laid out as they are read. None
        where the state is as good as any.
    """

    start: Start | Callable[..., tuple[Array, Any]]
    extend: Extend | Callable[..., tuple[Array, Any]]
    rewind: Rewind | Callable[..., Any] | None = None
    longest: Callable[[State], int] | None = None
    begin: int = -1
    end: int = -1
    ready: Callable[[State], State] | None = None

    def readied(self, state: State) -> State:
        """The state to write with, by `ready` where there is one."""
        return state if self.ready is None else self.ready(state)


class Model(NamedTuple):
    """A generative model is a bundle of pure functions.

    Key first, state second, `(state, info)` back, without exception. All functions can be jitted,
    differentiated and vmapped, read no flag, no file and no clock, and keep no state of their own.

    Attributes:
      init: (key, batch, **begun) -> state.
      step: (key, state, batch) -> (state, info): one step of learning.
      sample: (key, state, n, given={}) -> batch of n.
      log_prob: a number per example, with what kind of number it is; None without one.
      measures: further ones, each with its own exactness and unit.
      spaces: what each array that the model learns from must be, by its name: "x", "label",
        "text", ... A run compares them with the data's own before it starts.
      latents: the space behind the data, if there is one.
      autoregression: how an x is written symbol after symbol, if it is.
    """

    init: Init | Callable[..., State]
    step: Step | Callable[..., tuple[State, Info]]
    sample: Sample | Callable[..., Batch]
    log_prob: Measure | None = None
    measures: Mapping[str, Measure] = {}
    spaces: Mapping[str, Space] = {"x": REAL}
    latents: Latents | None = None
    autoregression: Autoregression | None = None


class Net(NamedTuple):
    """A network as two pure functions.

    Attributes:
      init: (key, *inputs) -> params; only the inputs' shapes matter.
      apply: (params, *inputs) -> outputs, whose leading axis is that of the inputs.
    """

    init: Callable[..., Any]
    apply: Callable[..., Any]
