"""Exact inference in Bayes nets of discrete and linear-Gaussian nodes, and questions to them.

Floor 1. A discrete node has a table of probabilities for each configuration s of its parents, and a
real one is linear in its real parents x, for each configuration s of its discrete ones:

    p(x_i = k | s) = θ_sk                      p(x_i | s, x) = N(x_i; b_s + w_sᵀx, v_s)

(Lauritzen, Propagation of probabilities, means and variances in mixed graphical association models,
1992; a discrete node has no real parent). Real numbers that were not seen are integrated out for
each configuration of the discrete nodes, which then are summed out by variable elimination
(factors.py). Expectations are gradients: with p_τ(x) ∝ p(x) exp(τ·T(x)),

    ∂/∂τ log p_τ(e) at τ = 0   =   E[T(x) | e],

Darwiche's differential approach to inference (2003), and Fisher's identity. Koller & Friedman,
Probabilistic graphical models, 2009, have all of it.

    net = given("P(rain) P(wet | rain)", {"rain": [0.8, 0.2], "wet | rain": [[0.9, 0.1], [0, 1]]})
    query(net, "rain", {"wet": 1})           # [.286, .714]: P(rain | wet = 1)
    query(do(net, {"wet": 1}), "rain")       # [.8, .2]: to pour water on it makes no rain
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from genjax_zoo.contract import Array, ConfigError, DataError, Key
from genjax_zoo.maths.inference import factors
from genjax_zoo.maths.inference.factors import Factor
from genjax_zoo.maths.inference.graphs import NETS, Net, Node, blocks, levels, nodes_of, states_of
from genjax_zoo.typed import nearest


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


def nothing(net: Net) -> tuple[Array, ...]:
    """The statistics of no example, for each family."""
    zeros = []
    for family in families(net):
        n, K, P = len(family.nodes), family.nodes[0].states, len(family.real[0])
        zeros.append(jnp.zeros((n, *family.cards, *((K,) if K else (P + 2, P + 2)))))
    return tuple(zeros)


# -------------------------------------------------------------------------------------- inference


@struct.dataclass
class Seen:
    """Exactness e for B examples.

    Attributes:
      x: the values that are seen [B, names].
      names: of their nodes.
      doubtful: those whose value is NaN where it is missing.
    """

    x: Array
    names: tuple[str, ...] = struct.field(pytree_node=False)
    doubtful: frozenset[str] = struct.field(pytree_node=False, default=frozenset())

    def columns(self, names: Sequence[str]) -> Array:
        """[B, names]; NaN for a name that is not seen."""
        if all(name in self.names for name in names):
            return self.x[:, np.array([self.names.index(name) for name in names], int)]
        nan = jnp.full(self.x.shape[0], jnp.nan, self.x.dtype)
        each = [self.x[:, self.names.index(m)] if m in self.names else nan for m in names]
        return jnp.stack(each, -1)

    def sure(self, name: str) -> bool:
        """Whether the node's value is there in every example."""
        return name in self.names and name not in self.doubtful


def inside(net: Net, seen: Seen) -> Array:
    """Whether all numbers are states of their nodes: bool [B]."""
    states = states_of(net.nodes)
    K = jnp.array([states[name] for name in seen.names], seen.x.dtype)
    may = jnp.array([name in seen.doubtful for name in seen.names], bool)
    whole = (seen.x == jnp.round(seen.x)) & (seen.x >= 0) & (seen.x < K)
    return jnp.all(whole | ((K == 0) & ~jnp.isnan(seen.x)) | (may & jnp.isnan(seen.x)), axis=-1)


def terms(
    params: Params, seen: Seen, tilt: tuple[Array, ...] | None = None, floor: float = 0.0
) -> list[Factor]:
    """log p(x, e), the real numbers that are not seen integrated out, as factors of the rest.

    Args:
      params: of the net.
      seen: the evidence e; what is surely seen is no axis of any factor.
      tilt: τ, shaped like the statistics; None is 0.
      floor: the least probability in a table.
    """
    net = params.net
    tilts = nothing(net) if tilt is None else tilt
    found: list[Factor] = []
    for family, table, tau in zip(families(net), params.tables, tilts, strict=True):
        if isinstance(table, Table):
            found += _looked_up(family, jnp.log(jnp.maximum(table.p, floor)) + tau, seen)
    for reals in components(net):
        found.append(_integrated(params, reals, seen, tilt))
    states = states_of(net.nodes)
    for name in seen.names:
        if name in seen.doubtful and states[name]:
            # 1 for the value seen; for all where it is missing.
            value, k = seen.columns([name]), jnp.arange(states[name])
            known = (value >= 0) & (value < states[name])
            found.append(Factor(jnp.where(known & (value != k), -jnp.inf, 0.0), (name,)))
    return found


def _looked_up(family: Family, log: Array, seen: Seen) -> Iterator[Factor]:
    """Π over a family's nodes of θ at what is seen; nodes open to the same variables at once."""
    alike: dict[Any, list[int]] = {}
    axes = [(*parents, n.name) for parents, n in zip(family.discrete, family.nodes, strict=True)]
    for i, names in enumerate(axes):
        known = tuple(seen.sure(name) for name in names)
        open_ = tuple(name for name, k in zip(names, known, strict=True) if not k)
        alike.setdefault((known, open_), []).append(i)
    for (known, open_), rows in alike.items():
        part = log if len(rows) == len(axes) else log[np.array(rows)]
        first = [a for a, k in enumerate(known) if k]
        rest = [a for a, k in enumerate(known) if not k]
        part = part.transpose(0, *(1 + a for a in (*first, *rest)))
        if not first:
            yield Factor(part.sum(0), open_)
            continue
        index = []
        for place, a in enumerate(first):
            value = seen.columns([axes[i][a] for i in rows])
            index.append(jnp.clip(value, 0, part.shape[1 + place] - 1).astype(jnp.int32))
        # [B, n, *open] -> [B, *open]
        yield Factor(part[(np.arange(len(rows)), *index)].sum(1), open_)


@functools.lru_cache(maxsize=64)
def components(net: Net) -> tuple[tuple[str, ...], ...]:
    """The real nodes, those that arrows join together."""
    states, groups = states_of(net.nodes), list[set[str]]()
    for node in net.nodes:
        if not node.states:
            joined = {node.name, *(p for p in node.parents if not states[p])}
            apart = [g for g in groups if not g & joined]
            groups = [*apart, joined.union(*(g for g in groups if g & joined))]
    order = [node.name for node in net.nodes]
    return tuple(tuple(sorted(g, key=order.index)) for g in groups)


def scope_of(net: Net, reals: Sequence[str]) -> tuple[str, ...]:
    """The discrete parents of these real nodes."""
    states = states_of(net.nodes)
    parents = {node.name: node.parents for node in net.nodes}
    return tuple(dict.fromkeys(p for name in reals for p in parents[name] if states[p]))


class Gaussian(NamedTuple):
    """R real nodes given each of the M configurations of their discrete parents.

        A x = b + noise,  noise ~ N(0, diag v),      hence  Λ = Aᵀ diag(1/v) A,  and |A| = 1

    Attributes:
      scope: the discrete parents of them all.
      A: I - W, [M, R, R]. In the order of the arrows W is a triangle.
      b: [M, R].
      v: [M, R].
      tilt: of (1, x), symmetric [M, R + 1, R + 1].
      sizes: of the scope.
    """

    scope: tuple[str, ...]
    A: Array
    b: Array
    v: Array
    tilt: Array
    sizes: tuple[int, ...]


def gaussian(params: Params, reals: Sequence[str], tilt: tuple[Array, ...] | None) -> Gaussian:
    """The real nodes `reals`, with all their real parents among them, as one Gaussian."""
    net = params.net
    at = {f.nodes[0].name: i for i, f in enumerate(families(net)) if not f.nodes[0].states}
    own = [families(net)[at[name]] for name in reals]
    scope, states = scope_of(net, reals), states_of(net.nodes)
    sizes = tuple(states[name] for name in scope)
    M, R = math.prod(sizes), len(reals)
    grid = dict(zip(scope, np.indices(sizes).reshape(len(scope), M), strict=True))
    A = jnp.broadcast_to(jnp.eye(R, dtype=params.centre.dtype), (M, R, R))
    T = jnp.zeros((M, R + 1, R + 1), params.centre.dtype)
    b, v = [], []
    for i, (name, family) in enumerate(zip(reals, own, strict=True)):
        s = (0, *(grid[p] for p in family.discrete[0]))
        if not family.discrete[0]:
            s = (np.zeros(M, int),)
        table = params.tables[at[name]]
        assert isinstance(table, Linear)
        b.append(table.bias[s])
        v.append(table.variance[s])
        parents = np.array([reals.index(p) for p in family.real[0]], int)
        A = A.at[:, i, parents].add(-table.weight[s])
        if tilt is not None:
            z = np.array([0, *(1 + parents), 1 + i])
            T = T.at[:, z[:, None], z].add(tilt[at[name]][s])
    return Gaussian(scope, A, jnp.stack(b, -1), jnp.stack(v, -1), (T + T.mT) / 2, sizes)


def completed(g: Gaussian, x: Array) -> tuple[Array, Array]:
    """x̂ and L: the mean of what is not seen given what is, and the factor of its precision.

    Args:
      g: the Gaussians.
      x: [B, R], NaN where it is not seen.

    Returns:
      x with its NaN filled in [B, M, R], and L [B, M, R, R] with LLᵀ the precision of what is not
      seen, and 1 on the diagonal for what is.
    """
    lost = jnp.isnan(x)[:, None]
    zero = jnp.where(lost, 0, x[:, None])
    m = lost.astype(x.dtype)
    # Λ = Aᵀ diag(1/v) A - 2 τ,  and the gradient of -log p where what is lost is 0
    precision = _product(g.A.mT / g.v[:, None, :], g.A) - 2 * g.tilt[:, 1:, 1:]
    residual = _times(g.A, zero) - g.b
    slope = _times(g.A.mT, residual / g.v) - 2 * _times(g.tilt[:, 1:, 1:], zero)
    slope = slope - 2 * g.tilt[:, 1:, 0]
    J = m[..., :, None] * m[..., None, :] * precision + (1 - m)[..., None] * jnp.eye(x.shape[-1])
    L = jnp.linalg.cholesky(J)
    # x̂ = x₀ - Λ_mm⁻¹ g_m
    move = jax.scipy.linalg.cho_solve((L, True), (m * slope)[..., None])[..., 0]
    return zero - m * move, L


def _integrated(
    params: Params, reals: tuple[str, ...], seen: Seen, tilt: tuple[Array, ...] | None
) -> Factor:
    """log ∫ p(reals | scope) over what is not seen of them: [B, *scope]. Laplace's, hence exact.

    log p(x_o | s) = log p(x_o, x̂_m | s) + |m|/2 log 2π - ½ log |Λ_mm|
    """
    g = gaussian(params, reals, tilt)
    x = seen.columns(reals) - centre_of(params, reals)
    sure = all(seen.sure(name) for name in reals)
    full, L = (x[:, None], None) if sure else completed(g, x)
    residual = _times(g.A, full) - g.b
    nats = -0.5 * jnp.sum(residual**2 / g.v + jnp.log(2 * math.pi * g.v), -1)
    if tilt is not None:
        # + τ·zzᵀ
        z = jnp.pad(full, [(0, 0), (0, 0), (1, 0)], constant_values=1)
        nats = nats + jnp.sum(z * _times(g.tilt, z), -1)
    if L is not None:
        lost = jnp.sum(jnp.isnan(x), -1)[:, None]
        half_log_det = jnp.sum(jnp.log(jnp.diagonal(L, axis1=-2, axis2=-1)), -1)
        nats = nats + 0.5 * lost * math.log(2 * math.pi) - half_log_det
    factor = Factor(nats.reshape(-1, *g.sizes), g.scope)
    known = [name for name in g.scope if seen.sure(name)]
    sizes = dict(zip(g.scope, g.sizes, strict=True))
    values = {name: jnp.clip(seen.columns([name])[:, 0], 0, sizes[name] - 1) for name in known}
    return factors.given(factor, values)


def log_evidence(
    params: Params, seen: Seen, tilt: tuple[Array, ...] | None = None, floor: float = 0.0
) -> Array:
    """log p(e): [B] nats, per unit of whatever e is real."""
    nats = factors.eliminate(terms(params, seen, tilt, floor)).log
    return jnp.broadcast_to(nats, seen.x.shape[:1])


def posteriors(params: Params, seen: Seen) -> dict[str, Array]:
    """Of every node that is not seen: p(node | e) [B, K], or E[node | e] [B] if it is real."""
    net = params.net
    place = {f.nodes[0].name: i for i, f in enumerate(families(net)) if len(f.nodes) == 1}
    names = [node.name for node in net.nodes if node.name not in seen.names]

    def of(x: Array) -> dict[str, Array]:
        def nats(tilts: dict[str, Array]) -> Array:
            tilt = list(nothing(net))
            for name, tau in tilts.items():
                tilt[place[name]] = tau
            return log_evidence(
                params, dataclasses.replace(seen, x=x[None]), tuple(tilt), floor=1e-30
            )[0]

        zeros = nothing(net)
        found = jax.grad(nats)({name: zeros[place[name]] for name in names})
        states = states_of(net.nodes)
        # The family's own statistics, summed over its parents: counts, or the mean in E[zzᵀ].
        return {
            name: found[name].reshape(-1, states[name]).sum(0)
            if states[name]
            else found[name][..., 0, -1].sum() + centre_of(params, [name])[0]
            for name in names
        }

    return jax.vmap(of)(seen.x)


# ------------------------------------------------------------------------------------- questions


def given(text: str, tables: Mapping[str, Any], states: str = "") -> Params:
    """A net with tables of one's own.

    Args:
      text: the product, or a name of NETS.
      tables: for each factor as it is written, "C, D | A, B" (or "C" where that is enough to know
        it), its probabilities [*states of A, B, *states of C, D]; for a real node (b, w, v) of
        shapes [*s], [*s, real parents], [*s] with s the states of the discrete parents.
      states: as of Config.

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


def query(
    params: Params, wanted: str | Sequence[str], evidence: Mapping[str, Any] | None = None
) -> Array:
    """P(wanted | evidence), exact: a table with an axis for each of the discrete nodes wanted.

    Args:
      params: a net, learnt (`learn.eval_params(state)`) or given.
      wanted: names, "A" or "A, B" or a sequence of them. What is real is asked for by `moments`.
      evidence: {name: value}, states or real numbers.

    Raises ConfigError for an unknown name or one on both sides, DataError for impossible evidence.
    """
    names = _asked(params.net, wanted, evidence)
    states = states_of(params.net.nodes)
    for name in names:
        if not states[name]:
            raise ConfigError(f"bayes_net: {name} is real and has no table; ask for its moments.")
    log = _log_table(params, _held(params.net, evidence), names)
    return _normalised(log.reshape([states[name] for name in names]), evidence)


@functools.partial(jax.jit, static_argnames="names")
def _log_table(params: Params, seen: Seen, names: tuple[str, ...]) -> Array:
    """log p(names, e): [B, *states of names]. Compiled once for all values of the evidence."""
    return factors.eliminate(terms(params, seen), names).log


class Moments(NamedTuple):
    """A mixture of Gaussians, one for each configuration of discrete nodes.

    Attributes:
      weight: p(configuration | evidence) [*states of scope].
      mean: [*states of scope, R].
      covariance: [*states of scope, R, R].
      scope: the discrete nodes that it is mixed over.
    """

    weight: Array
    mean: Array
    covariance: Array
    scope: tuple[str, ...]


def moments(
    params: Params, wanted: str | Sequence[str], evidence: Mapping[str, Any] | None = None
) -> Moments:
    """p(wanted | evidence) of real nodes, exact. Arguments and errors are those of `query`."""
    net = params.net
    names, states = _asked(net, wanted, evidence), states_of(net.nodes)
    for name in names:
        if states[name]:
            raise ConfigError(f"bayes_net: {name} is discrete and has no moments; use query.")
    # Discrete evidence keeps its axis: the weight is 0 where it is not what was seen.
    seen = _held(net, evidence)
    doubtful = frozenset(n for n in seen.names if states[n])
    reals = tuple(n for group in components(net) if set(group) & set(names) for n in group)
    held = dataclasses.replace(seen, doubtful=doubtful)
    log_weight, mean, covariance = _moments(params, held, reals, names)
    return Moments(_normalised(log_weight, evidence), mean, covariance, scope_of(net, reals))


@functools.partial(jax.jit, static_argnames=("reals", "names"))
def _moments(
    params: Params, seen: Seen, reals: tuple[str, ...], names: tuple[str, ...]
) -> tuple[Array, Array, Array]:
    """log p(scope, e) and what it weighs: the means and covariances of `names` among `reals`."""
    g = gaussian(params, reals, None)
    x, centre = seen.columns(reals), centre_of(params, reals)
    mean, L = completed(g, x - centre)
    lost = jnp.isnan(x)[0]
    eye = jnp.broadcast_to(jnp.eye(len(reals), dtype=mean.dtype), L[0].shape)
    covariance = jax.scipy.linalg.cho_solve((L[0], True), eye) * lost * lost[:, None]
    at = np.array([reals.index(name) for name in names])
    return (
        factors.eliminate(terms(params, seen), g.scope).log.reshape(g.sizes),
        (mean[0] + centre)[:, at].reshape(*g.sizes, len(at)),
        covariance[:, at[:, None], at].reshape(*g.sizes, len(at), len(at)),
    )


def do(params: Params, values: Mapping[str, int]) -> Params:
    """The net after an intervention: discrete nodes that are set, whatever their parents say."""
    _asked(params.net, tuple(values), {})
    tables = list(params.tables)
    for i, family in enumerate(families(params.net)):
        for row, node in enumerate(family.nodes):
            if node.name in values:
                table = tables[i]
                if not isinstance(table, Table):
                    raise ConfigError(
                        f"bayes_net: {node.name} is real; only discrete nodes are set."
                    )
                check_value(params.net, node.name, values[node.name])
                one = jax.nn.one_hot(values[node.name], node.states, dtype=table.p.dtype)
                tables[i] = Table(table.p.at[row].set(jnp.broadcast_to(one, table.p[row].shape)))
    return params.replace(tables=tuple(tables))  # type: ignore[attr-defined]


def draw(
    key: Key, params: Params, n: int, evidence: Mapping[str, Any] | None = None
) -> dict[str, Array]:
    """n exact draws of all nodes given the values [] or [n] of some: {name: [n]}.

    Where all ancestors of the evidence are evidence too, ancestral: each node given its parents.
    Else the discrete nodes are drawn backwards through an elimination, and then the real ones.
    """
    net = params.net
    known = dict(evidence or {})
    _asked(net, (), known)
    seen = _held(net, known, n)
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((params, seen)))
    if known and not traced and not bool(jnp.all(jnp.isfinite(log_evidence(params, seen)))):
        raise DataError(
            f"bayes_net: the evidence {dict(known)} has probability 0; there is nothing to draw."
        )
    values = {name: jnp.broadcast_to(seen.columns([name])[:, 0], (n,)) for name in known}
    parents = {node.name: node.parents for node in net.nodes}
    if all(p in known for name in known for p in parents[name]):
        return _ancestral(key, params, n, values)
    return _backwards(key, params, n, seen, values)


@functools.partial(jax.jit, static_argnames="n")
def _backwards(
    key: Key, params: Params, n: int, seen: Seen, values: dict[str, Array]
) -> dict[str, Array]:
    """The discrete nodes given the evidence, and then the real ones given both."""
    net = params.net
    key_discrete, key_real = jax.random.split(key)
    values |= factors.draw(key_discrete, terms(params, seen), n)
    for i, reals in enumerate(components(net)):
        g = gaussian(params, reals, None)
        x = seen.columns(reals) - centre_of(params, reals)
        mean, L = completed(g, x)
        s = [values[name].astype(jnp.int32) for name in g.scope]
        q = jnp.ravel_multi_index(s, g.sizes, mode="clip") if s else jnp.zeros(n, jnp.int32)
        b = jnp.arange(x.shape[0])
        # x̂ + L⁻ᵀ ε, with LLᵀ the precision
        noise = jax.random.normal(jax.random.fold_in(key_real, i), (n, len(reals), 1), x.dtype)
        noise = jax.scipy.linalg.solve_triangular(L[b, q], noise, trans=1, lower=True)[..., 0]
        full = mean[b, q] + jnp.isnan(x) * noise + centre_of(params, reals)
        values |= {name: full[:, j] for j, name in enumerate(reals)}
    return values


@functools.partial(jax.jit, static_argnames="n")
def _ancestral(key: Key, params: Params, n: int, known: Mapping[str, Array]) -> dict[str, Array]:
    """Level by level: x_i ~ p(x_i | parents), unless it is known."""
    net, dtype = params.net, params.centre.dtype
    names = [node.name for node in net.nodes]
    place = {name: i for i, name in enumerate(names)}
    at = lambda wanted: np.array([place[name] for name in wanted], int)
    centre = centre_of(params, names)
    x = jnp.zeros((n, len(names)), dtype)
    for name, value in known.items():
        x = x.at[:, place[name]].set(value)
    # The dice of a family all at once: u uniform, and k the first whose P(K <= k) is above it.
    dice, below = [], []
    for i, (family, table) in enumerate(zip(families(net), params.tables, strict=True)):
        roll = jax.random.uniform if isinstance(table, Table) else jax.random.normal
        dice.append(roll(jax.random.fold_in(key, i), (n, len(family.nodes)), dtype))
        cumulated = jnp.cumsum(table.p, -1) if isinstance(table, Table) else jnp.ones(1)
        # Exactly 1 at the end, so that what has no probability is not drawn.
        below.append((cumulated / cumulated[..., -1:])[..., :-1])
    for nodes in levels(net.nodes):
        ready = {node.name for node in nodes} - set(known)
        for i, family in enumerate(families(net)):
            rows = np.array([r for r, node in enumerate(family.nodes) if node.name in ready], int)
            if not rows.size:
                continue
            own = at([family.nodes[r].name for r in rows])
            above = np.array([at(family.discrete[r]) for r in rows])
            s = (rows, *(x[:, column].astype(jnp.int32) for column in above.T))
            table = params.tables[i]
            if isinstance(table, Table):
                drawn = jnp.sum(dice[i][:, rows, None] >= below[i][s], -1).astype(dtype)
            else:
                # b_s + w_sᵀx + ε
                linear = at(family.real[0])
                drawn = table.bias[s] + jnp.sqrt(table.variance[s]) * dice[i] + centre[own]
                drawn += jnp.sum(table.weight[s] * (x - centre)[:, None, linear], -1)
            x = x.at[:, own].set(drawn)
    return {name: x[:, i] for i, name in enumerate(names)}


def _held(net: Net, evidence: Mapping[str, Any] | None, n: int = 1) -> Seen:
    """{name: [] or [n]} as evidence of one example, or of n; DataError for what is no state."""
    for name, value in (evidence or {}).items():
        check_value(net, name, value, n)
    held = {name: jnp.asarray(value, float) for name, value in (evidence or {}).items()}
    rows = n if any(value.ndim for value in held.values()) else 1
    each = [jnp.broadcast_to(value, (rows,)) for value in held.values()]
    x = jnp.stack(each, -1) if each else jnp.zeros((1, 0))
    seen = Seen(x, tuple(held))
    check(net, seen)
    return seen


def check_value(net: Net, name: str, value: Any, n: int = 1) -> None:
    """Raises DataError for what is no value of a node, or of n draws of it, if it is not traced."""
    if isinstance(value, jax.core.Tracer):
        return
    try:
        # Of numpy, for under jit jax knows nothing of what it has made itself.
        known = np.asarray(value, float)
    except (TypeError, ValueError):
        known = np.full((), np.nan)
    states = states_of(net.nodes)[name]
    expected = f"a state 0 .. {states - 1}" if states else "a finite number"
    fits = np.isfinite(known).all() and known.shape in ((), (n,))
    if states:
        fits = fits and bool(np.all((known >= 0) & (known < states) & (known == np.round(known))))
    if not fits:
        each = f", or one for each of the {n} draws" if n > 1 else ""
        raise DataError(f"bayes_net: expected {expected} of {name}{each}, got {value!r}.")


def check(net: Net, seen: Seen) -> None:
    """Raises DataError for numbers that are no states of their nodes, if they are not traced."""
    if isinstance(seen.x, jax.core.Tracer) or bool(jnp.all(inside(net, seen))):
        return
    states = states_of(net.nodes)
    for name in seen.names:
        one = Seen(seen.columns([name]), (name,), seen.doubtful)
        wrong = ~inside(net, one)
        if bool(jnp.any(wrong)):
            value = float(one.x[jnp.argmax(wrong), 0])
            if math.isnan(value):
                raise DataError(
                    f"bayes_net: {name} holds NaN; set model.missing to True where numbers are "
                    "missing at random."
                )
            raise DataError(
                f"bayes_net: {name} has the states 0 .. {states[name] - 1}, and the data hold "
                f"{value:g}; say in model.states how many there are, or that it is real."
            )


def _asked(
    net: Net, wanted: str | Sequence[str], evidence: Mapping[str, Any] | None
) -> tuple[str, ...]:
    names = (
        tuple(w.strip() for w in wanted.split(",")) if isinstance(wanted, str) else tuple(wanted)
    )
    states = states_of(net.nodes)
    for name in (*names, *(evidence or {})):
        if name not in states:
            raise ConfigError(f"bayes_net: {nearest(name, states, 'node')}")
    for name in names:
        if name in (evidence or {}):
            raise ConfigError(f"bayes_net: {name} is both wanted and evidence; it can be one.")
    return names


def _normalised(log: Array, evidence: Mapping[str, Any] | None) -> Array:
    top = jnp.max(log)
    if not isinstance(top, jax.core.Tracer) and not jnp.isfinite(top):
        raise DataError(f"bayes_net: the evidence {dict(evidence or {})} has probability 0.")
    return jnp.exp(log - jax.nn.logsumexp(log))


def centre_of(params: Params, names: Sequence[str]) -> Array:
    """What is taken off these nodes [names]; 0 for one that is no column."""
    columns = params.net.columns
    each = [params.centre[columns.index(n)] if n in columns else jnp.zeros(()) for n in names]
    return jnp.stack(each)


def _times(matrix: Array, vector: Array) -> Array:
    """[..., R, R] by [..., R]; never rounded to fewer bits, on any device."""
    return jnp.einsum("...ij,...j->...i", matrix, vector, precision="highest")


def _product(a: Array, b: Array) -> Array:
    return jnp.einsum("...ij,...jk->...ik", a, b, precision="highest")
