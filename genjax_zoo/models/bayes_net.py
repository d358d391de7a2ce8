"""Bayes nets: a joint distribution as a product over a graph; exact inference, closed form or EM.

    p(x_1, ..., x_V) = Π_i p(x_i | parents of x_i)

A net is written as that product: "P(A) P(B) P(C, D | A, B)" (graphs.py). Its nodes are discrete,
with tables of probabilities, or real and linear-Gaussian, and inference is exact (bayes_nets.py):

    p(x_i = k | s) = θ_sk                      p(x_i | s, x) = N(x_i; b_s + w_sᵀx, v_s)

Where everything is seen, one maximisation learns all:

    θ_sk = (n_sk + α) / Σ_k' (n_sk' + α),     b, w and v by least squares for each s

and what is hidden or missing is expected first, which is EM (Lauritzen, The EM algorithm for
graphical association models with missing data, 1995). What was learnt answers questions:

    net = learn.eval_params(state)
    inference.query(net, "A", {"C": 1, "D": 0})               # P(A | C = 1, D = 0), a table
    inference.moments(net, "X, Y", {"A": 1, "Z": 0.5})        # means and covariances of real nodes
    inference.query(inference.do(net, {"B": 1}), "C, D")      # P(C, D | do(B = 1))
    model.sample(key, state, 100, evidence={"D": 1})          # exact draws given D = 1

`inference.given` makes a net of tables of one's own.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from genjax_zoo.contract import (
    BINARY,
    COUNTS,
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
from genjax_zoo.maths.inference import factors
from genjax_zoo.maths.inference.bayes_nets import (
    Family,
    Linear,
    Params,
    Seen,
    Table,
    check,
    draw,
    families,
    inside,
    log_evidence,
    nothing,
    posteriors,
    terms,
)
from genjax_zoo.maths.inference.graphs import Net, laid_out, nodes_of, states_of
from genjax_zoo.typed import nearest

VERB = "em"


@dataclasses.dataclass(frozen=True)
class Config:
    """A Bayes net.

    Attributes:
      net: a name of NETS, or the product itself: "P(A) P(B) P(C, D | A, B)".
      states: how many states a node has, or that it is real: "A=3, X=real". 2 unless said.
      hidden: names of the nodes that no column of the data holds. The others are the columns, in
        the order in which the product names them.
      label: the node that `batch["label"]` holds, if any; it is summed out where it is not given.
      alpha: α, imagined examples of each value for each configuration of the parents; 0 is maximum
        likelihood, and gives what was never seen no probability at all.
      keep: what remains of the old statistics at each step. 1 counts all examples alike, which is
        right with nothing hidden; with hidden nodes early ones were guesses, and less is better.
      missing: whether x may hold NaN, for numbers that are missing at random.
      least_variance: of a real node; larger ones stay as they are.
    """

    net: str = "lecture"
    states: str = ""
    hidden: tuple[str, ...] = ()
    label: str = ""
    alpha: float = 1.0
    keep: float = 1.0
    missing: bool = False
    least_variance: float = 1e-6

    def __post_init__(self):
        if self.alpha < 0:
            raise ConfigError(f"bayes_net: alpha should not be negative, got {self.alpha}.")
        if not 0 <= self.keep <= 1:
            raise ConfigError(f"bayes_net: keep should lie in 0 .. 1, got {self.keep}.")
        if self.least_variance <= 0:
            raise ConfigError(
                f"bayes_net: least_variance should be positive, got {self.least_variance}."
            )
        nodes = nodes_of(self.net, self.states)
        names = [node.name for node in nodes]
        for name in (*self.hidden, *filter(None, (self.label,))):
            if name not in names or name == "pixel":
                raise ConfigError(f"bayes_net: {nearest(name, names, 'node')}")
        if self.label in self.hidden:
            raise ConfigError(
                f"bayes_net: {self.label} is both hidden and the label; it can be one of them."
            )
        if self.label and not states_of(nodes)[self.label]:
            raise ConfigError(f"bayes_net: the label {self.label} should be discrete, not real.")
        left = [n for n in names if n not in (*self.hidden, self.label, "pixel")]
        if "pixel" in names and left:
            raise ConfigError(
                f"bayes_net: where x is an image of pixels no column holds {left[0]}; name it in "
                "hidden, or as the label."
            )
        if "pixel" not in names and not left:
            raise ConfigError("bayes_net: all nodes are hidden; leave one for the data.")


@struct.dataclass
class Statistics:
    """Sums over examples of what was seen or, of what was not, is expected.

    Attributes:
      sums: for each family; of discrete nodes the counts n [n, *parents' states, K], of a real one
        Σ zzᵀ [n, *discrete parents' states, P + 2, P + 2] with z = (1, real parents, itself).
      centre: as of Params.
      net: the graph.
    """

    sums: tuple[Array, ...]
    centre: Array
    net: Net = struct.field(pytree_node=False)


def make(config: Config, tx: optax.GradientTransformation | None = None) -> Model:
    """A Bayes net in closed form, or by EM; there is no gradient, and the optimizer is not used."""
    nodes = nodes_of(config.net, config.states)
    seen_states = [n.states for n in nodes if n.name not in (*config.hidden, config.label)]
    doubtful = config.missing

    def begin(key: Key, batch: Batch) -> tuple[Params, Statistics]:
        """Tables of equal probabilities, or nearly so for a node that is hidden or has such a
        parent: equal ones would stay equal. Raises DataError for numbers that are no states of
        their nodes, as far as they can be seen (not traced).
        """
        net = net_of(config, batch["x"].shape[1:])
        seen = look(net, batch, doubtful)
        check(net, seen)
        x = seen.x[:, : len(net.columns)]
        states = states_of(net.nodes)
        real = jnp.array([not states[name] for name in net.columns])
        centre = jnp.where(real, jnp.nan_to_num(jnp.nanmean(x, 0)), 0.0)
        variance = jnp.maximum(jnp.nan_to_num(jnp.nanvar(x, 0), nan=1.0), config.least_variance)
        guessed = {n.name for n in net.nodes} - set(seen.names)
        tables = []
        for i, family in enumerate(families(net)):
            own = jax.random.fold_in(key, i)
            tables.append(_first(own, key, family, guessed, net, x - centre, variance))
        return Params(tuple(tables), centre, net), Statistics(nothing(net), centre, net)

    def expect(key: Key, params: Params, batch: Batch) -> tuple[Statistics, Info]:
        """E[T | e] summed over the batch. A number that is no state makes `outside` NaN."""
        seen, net = look(params.net, batch, doubtful), params.net

        def total(tilt: tuple[Array, ...]) -> Array:
            # What cannot be under any hidden state is put down to the least impossible.
            return jnp.sum(log_evidence(params, seen, tilt, floor=1e-30))

        # E[T | e] = ∂/∂τ log p_τ(e) at τ = 0
        value, sums = jax.value_and_grad(total)(nothing(net))
        # What `em` keeps of the old centre and this make one centre.
        statistics = Statistics(sums, (1 - config.keep) * params.centre, net)
        outside = jnp.where(jnp.all(inside(net, seen)), 0.0, jnp.nan)
        return statistics, {"log_likelihood": value / seen.x.shape[0], "outside": outside}

    def maximise(statistics: Statistics) -> Params:
        net = statistics.net
        tables: list[Table | Linear] = []
        for family, sums in zip(families(net), statistics.sums, strict=True):
            if family.nodes[0].states:
                # θ_sk = (n_sk + α) / Σ_k' (n_sk' + α)
                counts = sums + config.alpha
                of_s = counts.sum(-1, keepdims=True)
                equal = 1 / counts.shape[-1]
                tables.append(
                    Table(jnp.where(of_s > 0, counts / jnp.where(of_s > 0, of_s, 1), equal))
                )
            else:
                tables.append(_least_squares(sums, config.least_variance))
        return Params(tuple(tables), statistics.centre, net)

    def log_prob(key: Key, params: Params, batch: Batch) -> Array:
        """log p(x), whatever is hidden summed out, and the label too: as of other models."""
        seen = look(params.net, {"x": batch["x"]}, doubtful)
        return jnp.where(inside(params.net, seen), log_evidence(params, seen), -jnp.inf)

    def by_label(params: Params, batch: Batch) -> Array:
        """log p(x, y) for every y: [B, C] nats."""
        seen = look(params.net, {"x": batch["x"]}, doubtful)
        log = factors.eliminate(terms(params, seen), (config.label,)).log
        return jnp.where(inside(params.net, seen)[:, None], log, -jnp.inf)

    def log_joint(key: Key, params: Params, batch: Batch) -> Array:
        """log p(x, y) of the labels that the batch has."""
        nats = by_label(params, batch)
        return jnp.take_along_axis(nats, labels(batch)[:, None], axis=1)[:, 0]

    def error(key: Key, params: Params, batch: Batch) -> Array:
        """1 where argmax p(y | x) is not the label, else 0."""
        return (jnp.argmax(by_label(params, batch), -1) != labels(batch)).astype(jnp.float32)

    def labels(batch: Batch) -> Array:
        if "label" not in batch:
            raise DataError(
                f"bayes_net: the label is the node {config.label}, and this batch has no label to "
                "measure by; give it one, or ask for log_prob, which needs none."
            )
        return jnp.asarray(batch["label"])

    def encode(key: Key, params: Params, batch: Batch) -> dict[str, Array]:
        """Of every hidden node, and the label: p(node | x) [B, K], or E[node | x] [B] if real."""
        return posteriors(params, look(params.net, {"x": batch["x"]}, doubtful))

    def sample(
        key: Key,
        params: Params,
        n: int,
        evidence: Mapping[str, Any] | None = None,
        label: Array | int | None = None,
    ) -> Batch:
        """n exact draws, given the values [] or [n] of some nodes: {name: value}."""
        known = dict(evidence or {})
        if label is not None:
            if not params.net.label:
                raise DataError("bayes_net: no node is the label; name one in model.label.")
            known[params.net.label] = label
        drawn = draw(key, params, n, known)
        x = jnp.stack([drawn[name] for name in params.net.columns], -1)
        made = {"x": x.astype(params.centre.dtype).reshape(n, *params.net.shape)}
        if params.net.label:
            made["label"] = drawn[params.net.label].astype(jnp.int32)
        return made

    measures = {
        "log_joint": Measure(of_params(log_joint), Exactness.EXACT, "nats"),
        "error": Measure(of_params(error), Exactness.EXACT, "error", "lower"),
    }
    # A NaN for a missing number is a real number among the supports.
    support = COUNTS if all(seen_states) and not doubtful else REAL
    if set(seen_states) == {2} and not doubtful:
        support = BINARY
    init, step = em(begin, expect, maximise, keep=config.keep)
    return Model(
        init,
        step,
        sample=of_params(sample),
        log_prob=Measure(of_params(log_prob), Exactness.EXACT, density=True),
        measures=measures if config.label else {},
        spaces={"x": support},
        latents=Latents(
            decode=None, encode=of_params(encode) if config.hidden or config.label else None
        ),
    )


def _first(
    own: Key, shared: Key, family: Family, guessed: set[str], net: Net, x: Array, variance: Array
) -> Table | Linear:
    """A family's parameters before any step."""
    n, K, P = len(family.nodes), family.nodes[0].states, len(family.real[0])
    shape = (n, *family.cards)
    node = family.nodes[0]
    free = guessed & {node.name, *node.parents}
    if K:
        if free:
            return Table(jax.nn.softmax(jax.random.normal(own, (*shape, K), x.dtype) / 2))
        return Table(jnp.full((*shape, K), 1 / K, x.dtype))
    bias, v = jnp.zeros(shape, x.dtype), jnp.ones(shape, x.dtype)
    weight = jnp.zeros((*shape, P), x.dtype)
    if node.name in net.columns:
        column = net.columns.index(node.name)
        v = v * variance[column]
        if guessed & set(family.discrete[0]):
            # A configuration begins at an example; by one key, nodes alike begin at the same.
            row = jax.random.randint(shared, shape, 0, x.shape[0])
            bias = jnp.nan_to_num(x[row, column])
    if guessed & set(family.real[0]):
        weight = jnp.sqrt(v)[..., None] * jax.random.normal(own, weight.shape, x.dtype)
    return Linear(jnp.concatenate([bias[..., None], weight], -1), v)


def _least_squares(sums: Array, least: float) -> Linear:
    """b, w, v of x = b + wᵀ(parents) + noise for each s, from Σ zzᵀ with z = (1, parents, x)."""
    n = sums[..., 0, 0]
    Szz, Szx, Sxx = sums[..., :-1, :-1], sums[..., :-1, -1], sums[..., -1, -1]
    # A ridge as large as what was rounded: parents may be collinear, and s may have no example.
    diagonal = jnp.diagonal(Szz, axis1=-2, axis2=-1)
    ridge = 10 * jnp.finfo(sums.dtype).eps * diagonal + 1e-30
    ridge = jnp.where(diagonal > 0, ridge, 1.0)
    # β = (Σ zzᵀ)⁻¹ Σ zx
    beta = jnp.linalg.solve(Szz + ridge[..., None] * jnp.eye(Szz.shape[-1]), Szx[..., None])[..., 0]
    # v = <(x - βᵀz)²>
    squares = Sxx - 2 * jnp.sum(beta * Szx, -1) + jnp.einsum("...i,...ij,...j", beta, Szz, beta)
    v = jnp.where(n > 0, jnp.maximum(squares / jnp.where(n > 0, n, 1), least), 1.0)
    return Linear(beta, v)


def net_of(config: Config, shape: Sequence[int]) -> Net:
    """The net for examples of that shape; raises DataError where they do not fit."""
    nodes = nodes_of(config.net, config.states)
    if any(node.name == "pixel" for node in nodes):
        nodes = laid_out(nodes, shape)
    hidden = (*config.hidden, config.label)
    columns = tuple(node.name for node in nodes if node.name not in hidden)
    if math.prod(shape) != len(columns):
        raise DataError(
            f"bayes_net: the net has {len(columns)} nodes for the columns of x "
            f"({', '.join(columns)}), and an example has {math.prod(shape)} numbers "
            f"{tuple(shape)}; write a net of that many, or name more nodes in hidden."
        )
    return Net(nodes, columns, config.label, tuple(shape))


def look(net: Net, batch: Batch, missing: bool = False) -> Seen:
    """What a batch shows: its columns, and its label if the net has one."""
    x = batch["x"].reshape(batch["x"].shape[0], -1)
    names = net.columns
    if net.label and "label" in batch:
        x = jnp.concatenate([x, jnp.asarray(batch["label"], x.dtype)[:, None]], 1)
        names = (*names, net.label)
    return Seen(x, names, frozenset(net.columns) if missing else frozenset())
