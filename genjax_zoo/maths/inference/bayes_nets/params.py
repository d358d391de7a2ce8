"""A Bayes net and its tables, by families of nodes that are alike; tables of one's own. Floor 1."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import struct

from genjax_zoo.contract import Array, ConfigError
from genjax_zoo.maths.inference.graphs import NETS, Net, Node, blocks, nodes_of, states_of


@struct.dataclass
class Table:
    """Conditional probabilities of n nodes of one kind.

    Attributes:
      p: θ [n, *states of the parents, K]; sums to 1 over the last axis.
    """

    p: Array


@struct.dataclass
class Linear:
    """A real node given each configuration s of its discrete parents; n = 1.

    Attributes:
      beta: (b, w) [n, *states of the discrete parents, 1 + real parents]; b is about the centre.
      variance: v [n, *states of the discrete parents].
    """

    beta: Array
    variance: Array

    @property
    def bias(self) -> Array:
        """b [n, *states of the discrete parents]."""
        return self.beta[..., 0]

    @property
    def weight(self) -> Array:
        """w [n, *states of the discrete parents, real parents]."""
        return self.beta[..., 1:]


@struct.dataclass
class Params:
    """A net and what it has learnt.

    Attributes:
      tables: a Table or Linear for each of `families(net)`.
      centre: what is taken off every column [columns] before a real number is looked at, so that
        in float32 a variance is no small difference of large numbers; 0 for discrete ones.
      net: the graph.
    """

    tables: tuple[Table | Linear, ...]
    centre: Array
    net: Net = struct.field(pytree_node=False)


class Family(NamedTuple):
    """Nodes whose tables have one shape, and lie in one array.

    Attributes:
      nodes: n of them.
      cards: the states of their discrete parents.
      discrete: the names of the discrete parents of each node.
      real: the names of its real parents.
    """

    nodes: tuple[Node, ...]
    cards: tuple[int, ...]
    discrete: tuple[tuple[str, ...], ...]
    real: tuple[tuple[str, ...], ...]


@functools.lru_cache(maxsize=64)
def families(net: Net) -> tuple[Family, ...]:
    """The nodes by kind; alike are columns with as many states and the same hidden parents."""
    states = states_of(net.nodes)
    kinds: dict[Any, list[Node]] = {}
    for node in net.nodes:
        own = node.name if node.name not in net.columns or not node.states else ""
        parents = tuple((states[p], p if p not in net.columns else "") for p in node.parents)
        kinds.setdefault((node.states, parents, own), []).append(node)
    found = []
    for nodes in kinds.values():
        discrete = tuple(tuple(p for p in node.parents if states[p]) for node in nodes)
        real = tuple(tuple(p for p in node.parents if not states[p]) for node in nodes)
        cards = tuple(states[p] for p in discrete[0])
        found.append(Family(tuple(nodes), cards, discrete, real))
    return tuple(found)


@functools.lru_cache(maxsize=64)
def places(net: Net) -> dict[str, tuple[int, int]]:
    """Where each node is: the number of its family, and its row there."""
    found = enumerate(families(net))
    return {n.name: (i, row) for i, family in found for row, n in enumerate(family.nodes)}


def no_statistics(net: Net) -> tuple[Array, ...]:
    """The statistics of no example, for each family."""
    zeros = []
    for family in families(net):
        n, K, P = len(family.nodes), family.nodes[0].states, len(family.real[0])
        zeros.append(jnp.zeros((n, *family.cards, *((K,) if K else (P + 2, P + 2)))))
    return tuple(zeros)


def centre_of(params: Params, names: Sequence[str]) -> Array:
    """What is taken off these nodes [names]; 0 for one that is no column."""
    columns = params.net.columns
    each = [params.centre[columns.index(n)] if n in columns else jnp.zeros(()) for n in names]
    return jnp.stack(each)


def from_tables(text: str, tables: Mapping[str, Any], states: str = "") -> Params:
    """A net with tables of one's own.

    Args:
      text: the product, or a name of NETS.
      tables: for each factor as it is written, "C, D | A, B" (or "C" where that is enough to know
        it), its probabilities [*states of A, B, *states of C, D]; for a real node (b, w, v) of
        shapes [*s], [*s, real parents], [*s] with s the states of the discrete parents.
      states: how many a node has, or that it is real: "A=3, X=real". 2 unless said.

    Raises ConfigError for a table that is missing, has another shape, or does not sum to 1.
    """
    nodes = nodes_of(text, states)
    size = states_of(nodes)
    if "pixel" in size:
        raise ConfigError("bayes_net: tables are given for nodes, not for a plate of pixels.")
    left = {_spell(key): value for key, value in tables.items()}
    own: dict[str, Any] = {}
    for children, parents in blocks(text if "(" in text else NETS[text]):
        spelt = ", ".join(children) + (f" | {', '.join(parents)}" if parents else "")
        key = spelt if spelt in left else ", ".join(children)
        if key not in left:
            raise ConfigError(f"bayes_net: the table of {spelt!r} is missing.")
        own |= _split(spelt, children, parents, size, left.pop(key))
    if left:
        raise ConfigError(
            f"bayes_net: a table is given for {next(iter(left))!r}, which is no factor."
        )
    net = Net(nodes, tuple(size), "", (len(size),))
    made: list[Table | Linear] = []
    for family in families(net):
        each = [own[node.name] for node in family.nodes]
        if family.nodes[0].states:
            made.append(Table(jnp.stack([jnp.asarray(p) for p in each])))
        else:
            b, w, v = (jnp.asarray(part, float)[None] for part in each[0])
            made.append(Linear(jnp.concatenate([b[..., None], w], -1), v))
    return Params(tuple(made), jnp.zeros(len(size)), net)


def _spell(key: str) -> str:
    children, bar, parents = key.partition("|")
    clean = lambda part: ", ".join(name.strip() for name in part.split(","))
    return clean(children) + (f" | {clean(parents)}" if bar else "")


def _split(
    spelt: str,
    children: tuple[str, ...],
    parents: tuple[str, ...],
    size: Mapping[str, int],
    value: Any,
) -> dict[str, Any]:
    """One factor's table as a table for each child, by the chain rule."""
    discrete = tuple(size[p] for p in parents if size[p])
    real = len(parents) - len(discrete)
    if not all(size[c] for c in children):
        shapes = [discrete, (*discrete, real), discrete]
        parts = [np.asarray(part, float) for part in value] if len(children) == 1 else []
        if [part.shape for part in parts] != shapes or not np.all(parts[2] > 0):
            raise ConfigError(
                f"bayes_net: {spelt!r} is real; expected one node and (bias, weights, variance) of "
                f"shapes {', '.join(map(str, shapes))}, the variance positive, got {value!r}."
            )
        return {children[0]: tuple(parts)}
    p = np.asarray(value, float)
    shape = (*discrete, *(size[c] for c in children))
    if p.shape != shape:
        raise ConfigError(
            f"bayes_net: the table of {spelt!r} should have the shape {shape}, an axis for each "
            f"parent and then for each child, got {p.shape}."
        )
    sums = p.sum(tuple(range(len(parents), p.ndim)))
    if not (np.all(p >= 0) and np.all(np.abs(sums - 1) <= 1e-5)):
        raise ConfigError(
            f"bayes_net: the table of {spelt!r} should hold probabilities that sum to 1 for each "
            f"configuration of the parents, got sums {np.array2string(sums, precision=4)}; divide "
            "by them."
        )
    found = {}
    for j, child in enumerate(children):
        # P(c_j | parents, c_<j) = P(c_≤j | parents) / P(c_<j | parents)
        upto = p.sum(tuple(range(len(parents) + j + 1, p.ndim)))
        below = upto.sum(-1, keepdims=True)
        found[child] = np.where(below > 0, upto / np.where(below > 0, below, 1), 1 / size[child])
    return found
