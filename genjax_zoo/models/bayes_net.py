"""Bayes nets: a joint distribution as a product over a graph; exact inference, closed form or EM.

    p(x_1, ..., x_V) = Π_i p(x_i | parents of x_i)

A net is written as that product: "P(A) P(B) P(C, D | A, B)" (graphs.py). Its nodes are discrete,
with tables of probabilities, or real and linear-Gaussian, and inference is exact (bayes_nets/):

    p(x_i = k | s) = θ_sk                      p(x_i | s, x) = N(x_i; b_s + w_sᵀx, v_s)

Where everything is observed, one maximisation learns all:

    θ_sk = (n_sk + α) / Σ_k' (n_sk' + α),     b, w and v by least squares for each s

and what is hidden or missing is expected first, which is EM (Lauritzen, The EM algorithm for
graphical association models with missing data, 1995). What was learnt answers questions:

    net = eval_params(state)
    bayes_nets.query(net, "A", {"C": 1, "D": 0})               # P(A | C = 1, D = 0), a table
    bayes_nets.moments(net, "X, Y", {"A": 1, "Z": 0.5})        # means, covariances of real nodes
    bayes_nets.query(bayes_nets.do(net, {"B": 1}), "C, D")     # P(C, D | do(B = 1))
    model.sample(key, state, 100, {"D": 1})                    # exact draws given D = 1

`bayes_nets.from_tables` makes a net of tables of one's own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax.numpy as jnp
import optax
from flax import struct

from genjax_zoo import typed
from genjax_zoo.contract import (
    BINARY,
    COUNTS,
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
    Space,
    categorical,
)
from genjax_zoo.learn.state import of_params
from genjax_zoo.learn.verbs import em
from genjax_zoo.maths.inference import classification, factors
from genjax_zoo.maths.inference.bayes_nets import Params, draw, elimination, learning
from genjax_zoo.maths.inference.bayes_nets.evidence import Evidence, check, inside
from genjax_zoo.maths.inference.bayes_nets.params import no_statistics
from genjax_zoo.maths.inference.graphs import Net, laid_out, nodes_of, states_of
from genjax_zoo.maths.probability.given import Labels, Told, read_given
from genjax_zoo.typed import nearest, number

VERB = "em"


@typed.config
class Config:
    """A Bayes net.

    Attributes:
      net: a name of NETS, or the product itself: "P(A) P(B) P(C, D | A, B)".
      states: how many states a node has, or that it is real: "A=3, X=real". 2 unless said.
      hidden: names of the nodes that no column of the data holds. The others are the columns, in
        the order in which the product names them.
      label: the node that `batch["label"]` holds, if any; it is summed out where it is not given.
      alpha: α, pseudo-counts of each value for each configuration of the parents; 0 is maximum
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
    alpha: float = number(1.0, least=0)
    keep: float = number(1.0, least=0, most=1)
    missing: bool = False
    least_variance: float = number(1e-6, above=0)

    def __post_init__(self):
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
    """Sums over examples of what was observed or, of what was not, is expected.

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
    unseen = [node for node in nodes if node.name in (*config.hidden, config.label)]
    labels = Labels(states_of(nodes).get(config.label, 0), "bayes_net")

    def evidence_of(net: Net, batch: Batch, label: bool = False) -> Evidence:
        """What a batch shows: its columns, and with `label` its label if there is one."""
        x, names = batch["x"].reshape(batch["x"].shape[0], -1), net.columns
        if label and net.label and "label" in batch:
            x = jnp.concatenate([x, jnp.asarray(batch["label"], x.dtype)[:, None]], 1)
            names = (*names, net.label)
        return Evidence(x, names, frozenset(net.columns) if config.missing else frozenset())

    # ----------------------------------------------------------------------------------- learning

    def begin(key: Key, batch: Batch) -> tuple[Params, Statistics]:
        """Tables of equal probabilities, nearly so where a node is hidden.

        Raises DataError where the label is missing and, as far as they can be seen (not traced),
        for numbers that are no states of their nodes.
        """
        net = net_of(config, batch["x"].shape[1:])
        if config.label:
            label_of(batch)
        evidence = evidence_of(net, batch, label=True)
        check(net, evidence)
        params = learning.start(key, net, evidence, config.least_variance)
        return params, Statistics(no_statistics(net), params.centre, net)

    def expect(key: Key, params: Params, batch: Batch) -> tuple[Statistics, Info]:
        """E[T | e] summed over the batch. A number that is no state makes `outside` NaN."""
        net, evidence = params.net, evidence_of(params.net, batch, label=True)
        nats, sums = elimination.expected_statistics(params, evidence)
        # What `em` keeps of the old centre and this make one centre.
        statistics = Statistics(sums, (1 - config.keep) * params.centre, net)
        outside = jnp.where(jnp.all(inside(net, evidence)), 0.0, jnp.nan)
        return statistics, {"log_prob": nats / evidence.x.shape[0], "outside": outside}

    def maximise(s: Statistics) -> Params:
        tables = learning.best(s.net, s.sums, config.alpha, config.least_variance)
        return Params(tables, s.centre, s.net)

    # ------------------------------------------------------------------------------- the numbers

    def log_prob(key: Key, params: Params, batch: Batch) -> Array:
        """log p(x), whatever is hidden summed out, and the label too: as of other models."""
        evidence = evidence_of(params.net, batch)
        nats = elimination.log_evidence(params, evidence)
        return jnp.where(inside(params.net, evidence), nats, -jnp.inf)

    def by_label(key: Key, params: Params, batch: Batch) -> Array:
        """log p(x, y) for every y: [B, C] nats."""
        evidence = evidence_of(params.net, batch)
        terms = elimination.log_factors(params, evidence)
        nats = factors.eliminate(terms, (config.label,)).log
        return jnp.where(inside(params.net, evidence)[:, None], nats, -jnp.inf)

    def label_of(batch: Batch) -> Array:
        if "label" not in batch:
            raise DataError(
                f"bayes_net: the label is the node {config.label}, and this batch has no label; "
                "give it one, or learn with that node in model.hidden and model.label=''. log_prob "
                "needs none."
            )
        return jnp.asarray(batch["label"])

    # ---------------------------------------------------------------------------- the samples

    def encode(key: Key, params: Params, batch: Batch) -> dict[str, Array]:
        """Of every hidden node, and the label: p(node | x) [B, K], or E[node | x] [B] if real."""
        return elimination.posteriors(params, evidence_of(params.net, batch))

    def decode(key: Key, params: Params, latents: dict[str, Array]) -> Batch:
        """E[x | hidden], of hidden nodes with such probabilities, or at such values if real.

        E[x] = Σ_h Π_i q_i(h_i) E[x | h]
        """
        discrete = tuple(node.name for node in unseen if node.states)
        real = tuple(node.name for node in unseen if not node.states)
        at = jnp.stack([latents[name] for name in real], -1) if real else jnp.zeros((1, 0))
        x = elimination.means(params, Evidence(at, real), discrete)
        for name in discrete:
            # Σ_k q(k) E[x | k, ...], the next node's states being the first axis after B
            q = latents[name]
            x = jnp.sum(q.reshape(*q.shape, *[1] * (x.ndim - 2)) * x, 1)
        return {"x": x.astype(params.centre.dtype).reshape(-1, *params.net.shape)}

    def sample(key: Key, params: Params, n: int, given: Batch = NOTHING) -> Batch:
        """n exact draws, given the values [] or [n] of some nodes, by name, or of the label."""
        net = params.net
        each = {name: Told(COUNTS.of(K) if K else REAL) for name, K in states_of(net.nodes).items()}
        told = read_given(given, (labels.told if net.label else {}) | each, n, "bayes_net")
        # As they were given: what is one for all is one query, and not n.
        known = {(name if name in each else net.label): given[name] for name in told}
        if len(known) < len(told):
            raise DataError(f"bayes_net: the label is the node {net.label}; give one of the two.")
        drawn = draw(key, params, n, known)
        x = jnp.stack([drawn[name] for name in net.columns], -1)
        label = {"label": drawn[net.label].astype(jnp.int32)} if net.label else {}
        return {"x": x.astype(params.centre.dtype).reshape(n, *net.shape), **label}

    measures = classification.measures(of_params(by_label), label_of)
    latents = Latents(
        decode=of_params(decode),
        encode=of_params(encode),
        space=categorical() if any(node.states for node in unseen) else REAL,
    )
    return Model(
        *em(begin, expect, maximise, config.keep),
        sample=of_params(sample),
        log_prob=Measure(of_params(log_prob), Exactness.EXACT, density=True),
        measures=measures if config.label else {},
        spaces=labels.spaces(_space([n.states for n in nodes if n not in unseen], config.missing)),
        latents=latents if unseen else None,
    )


def _space(states: Sequence[int], missing: bool) -> Space:
    """What columns of so many states each hold."""
    of_states = BINARY if set(states) == {2} else COUNTS.of(max(states))
    return (of_states if all(states) else REAL)._replace(missing=missing)


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
