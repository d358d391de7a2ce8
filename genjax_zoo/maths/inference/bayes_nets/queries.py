"""Questions to a net: probabilities, moments, interventions and draws, given values of some nodes.

A question is compiled for the nodes that are known in it. Where the discrete nodes have few
configurations in all, their joint table is computed instead, by one program for every question to
such a net, and what is asked for is looked up and summed by numpy. Floor 1.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax_zoo.contract import NOTHING, Array, ConfigError, DataError, Key
from genjax_zoo.maths.inference import factors
from genjax_zoo.maths.inference.bayes_nets.elimination import log_factors
from genjax_zoo.maths.inference.bayes_nets.evidence import Evidence, check_value, of_values
from genjax_zoo.maths.inference.bayes_nets.linear_gaussian import (
    completed,
    components,
    gaussian,
    scope_of,
)
from genjax_zoo.maths.inference.bayes_nets.params import (
    Params,
    Table,
    centre_of,
    families,
    places,
)
from genjax_zoo.maths.inference.graphs import Net, levels, states_of
from genjax_zoo.typed import nearest

SMALL = 2**16
"""The most configurations of all discrete nodes together for which their joint table is made."""


def query(params: Params, wanted: str | Sequence[str], given: Mapping[str, Any] = NOTHING) -> Array:
    """P(wanted | given), exact: a table with an axis for each of the discrete nodes wanted.

    Args:
      params: a net, learnt (`eval_params(state)`) or made of tables.
      wanted: names, "A" or "A, B" or a sequence of them. What is real is asked for by `moments`.
      given: {name: value}, states or real numbers.

    Raises ConfigError for an unknown name or one on both sides, DataError for what cannot be.
    """
    names = _names(params.net, wanted, given)
    states = states_of(params.net.nodes)
    for name in names:
        if not states[name]:
            raise ConfigError(f"bayes_net: {name} is real and has no table; ask for its moments.")
    log = _log_table(params, of_values(params.net, given), names)
    return _normalised(log.reshape([states[name] for name in names]), given)


def _log_table(params: Params, evidence: Evidence, names: tuple[str, ...]) -> Array:
    """log p(names, e): [B, *states of names]."""
    rows = evidence.x.shape[0]
    if _traced(params, evidence) or rows * _configurations(params.net) > SMALL:
        return _eliminated(params, evidence, names)
    return jnp.asarray(_summed(params, evidence, names), params.centre.dtype)


@functools.partial(jax.jit, static_argnames="names")
def _eliminated(params: Params, evidence: Evidence, names: tuple[str, ...]) -> Array:
    """`_log_table`, compiled once for all values of the evidence."""
    return factors.eliminate(log_factors(params, evidence), names).log


@jax.jit
def _joint(params: Params, reals: Array) -> Array:
    """log p(discrete nodes, what is not NaN of the real ones): [B or 1, *states of the nodes]."""
    states = states_of(params.net.nodes)
    known = tuple(name for name, size in states.items() if not size)
    evidence = Evidence(reals, known, frozenset(known))
    keep = [name for name, size in states.items() if size]
    log = factors.eliminate(log_factors(params, evidence), keep).log
    return log.reshape(-1, *(states[name] for name in keep))


def _summed(params: Params, evidence: Evidence, names: tuple[str, ...]) -> np.ndarray:
    """`_log_table` of the joint table, in float64 from there on."""
    states = states_of(params.net.nodes)
    discrete = [name for name, size in states.items() if size]
    real = [name for name, size in states.items() if not size]
    observed = np.asarray(evidence.x)
    x = np.full((len(observed), len(real)), np.nan, params.centre.dtype)
    at: list[Any] = [slice(None)] * len(discrete)
    for name, values in zip(evidence.names, observed.T, strict=True):
        if states[name]:
            at[discrete.index(name)] = values.astype(int)
        else:
            x[:, real.index(name)] = values
    log = np.asarray(_joint(params, x if real else x[:1]), np.float64)
    each = [
        table[tuple(a if isinstance(a, slice) else a[row] for a in at)]
        for row, table in enumerate(np.broadcast_to(log, (len(observed), *log.shape[1:])))
    ]
    left = [name for name in discrete if name not in evidence.names]
    rest = tuple(1 + i for i, name in enumerate(left) if name not in names)
    found = np.logaddexp.reduce(np.stack(each), rest) if rest else np.stack(each)
    kept = [name for name in left if name in names]
    return found.transpose(0, *(1 + kept.index(name) for name in names))


def _configurations(net: Net) -> int:
    """Of all discrete nodes together."""
    return math.prod(node.states for node in net.nodes if node.states)


def _traced(*trees: Any) -> bool:
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))


class Moments(NamedTuple):
    """A mixture of Gaussians, one for each configuration of discrete nodes.

    Attributes:
      weight: p(configuration | given) [*states of scope].
      mean: [*states of scope, R].
      covariance: [*states of scope, R, R].
      scope: the discrete nodes that it is mixed over.
    """

    weight: Array
    mean: Array
    covariance: Array
    scope: tuple[str, ...]


def moments(
    params: Params, wanted: str | Sequence[str], given: Mapping[str, Any] = NOTHING
) -> Moments:
    """p(wanted | given) of real nodes, exact. Arguments and errors are those of `query`."""
    net = params.net
    names, states = _names(net, wanted, given), states_of(net.nodes)
    for name in names:
        if states[name]:
            raise ConfigError(f"bayes_net: {name} is discrete and has no moments; use query.")
    # What is discrete keeps its axis: the weight is 0 where it is not what was given.
    evidence = of_values(net, given)
    gaps = frozenset(n for n in evidence.names if states[n])
    reals = tuple(n for group in components(net) if set(group) & set(names) for n in group)
    held = dataclasses.replace(evidence, gaps=gaps)
    if _configurations(net) <= SMALL:
        # One program for whatever is given: what is not is a gap.
        held = Evidence(evidence.columns(tuple(states)), tuple(states), frozenset(states))
    log_weight, mean, covariance = _moments(params, held, reals)
    at = np.array([reals.index(name) for name in names])
    found = (_normalised(log_weight, given), mean[..., at], covariance[..., at[:, None], at])
    return Moments(*found, scope_of(net, reals))


@functools.partial(jax.jit, static_argnames="reals")
def _moments(
    params: Params, evidence: Evidence, reals: tuple[str, ...]
) -> tuple[Array, Array, Array]:
    """log p(scope, e) and what it weighs: the means and covariances of `reals`."""
    g = gaussian(params, reals, None)
    x, centre = evidence.columns(reals), centre_of(params, reals)
    mean, L = completed(g, x - centre)
    lost = jnp.isnan(x)[0]
    eye = jnp.broadcast_to(jnp.eye(len(reals), dtype=mean.dtype), L[0].shape)
    covariance = jax.scipy.linalg.cho_solve((L[0], True), eye) * lost * lost[:, None]
    R = len(reals)
    return (
        factors.eliminate(log_factors(params, evidence), g.scope).log.reshape(g.sizes),
        (mean[0] + centre).reshape(*g.sizes, R),
        covariance.reshape(*g.sizes, R, R),
    )


def do(params: Params, values: Mapping[str, int]) -> Params:
    """The net after an intervention: discrete nodes that are set, whatever their parents say."""
    _names(params.net, tuple(values))
    tables = list(params.tables)
    for name, value in values.items():
        i, row = places(params.net)[name]
        table = tables[i]
        if not isinstance(table, Table):
            raise ConfigError(f"bayes_net: {name} is real; only discrete nodes are set.")
        check_value(params.net, name, value)
        one = jax.nn.one_hot(value, table.p.shape[-1], dtype=table.p.dtype)
        tables[i] = Table(table.p.at[row].set(jnp.broadcast_to(one, table.p[row].shape)))
    return dataclasses.replace(params, tables=tuple(tables))


# ---------------------------------------------------------------------------------------- draws


def draw(key: Key, params: Params, n: int, given: Mapping[str, Any] = NOTHING) -> dict[str, Array]:
    """n exact draws of all nodes given the values [] or [n] of some: {name: [n]}.

    Where all ancestors of what is given are given too, ancestral: each node given its parents. Else
    the discrete nodes are drawn backwards through an elimination, and then the real ones.
    """
    net = params.net
    _names(net, (), given)
    evidence = of_values(net, given, n)
    impossible = lambda: not bool(jnp.all(jnp.isfinite(_log_table(params, evidence, ()))))
    if given and not _traced(params, evidence) and impossible():
        raise DataError(
            f"bayes_net: the evidence {dict(given)} has probability 0; there is nothing to draw."
        )
    values = {name: jnp.broadcast_to(evidence.columns([name])[:, 0], (n,)) for name in given}
    parents = {node.name: node.parents for node in net.nodes}
    if all(p in given for name in given for p in parents[name]):
        return _ancestral(key, params, n, values)
    return _backwards(key, params, n, evidence, values)


@functools.partial(jax.jit, static_argnames="n")
def _backwards(
    key: Key, params: Params, n: int, evidence: Evidence, values: dict[str, Array]
) -> dict[str, Array]:
    """The discrete nodes given the evidence, and then the real ones given both."""
    net = params.net
    key_discrete, key_real = jax.random.split(key)
    values |= factors.draw(key_discrete, log_factors(params, evidence), n)
    for i, reals in enumerate(components(net)):
        g = gaussian(params, reals, None)
        x = evidence.columns(reals) - centre_of(params, reals)
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
    # The noise of a family all at once: u uniform, and k the first whose P(K <= k) is above it.
    noise, below = [], []
    for i, (family, table) in enumerate(zip(families(net), params.tables, strict=True)):
        random = jax.random.uniform if isinstance(table, Table) else jax.random.normal
        noise.append(random(jax.random.fold_in(key, i), (n, len(family.nodes)), dtype))
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
                drawn = jnp.sum(noise[i][:, rows, None] >= below[i][s], -1).astype(dtype)
            else:
                # b_s + w_sᵀx + ε
                linear = at(family.real[0])
                drawn = table.bias[s] + jnp.sqrt(table.variance[s]) * noise[i] + centre[own]
                drawn += jnp.sum(table.weight[s] * (x - centre)[:, None, linear], -1)
            x = x.at[:, own].set(drawn)
    return {name: x[:, i] for i, name in enumerate(names)}


def _names(
    net: Net, wanted: str | Sequence[str], given: Mapping[str, Any] = NOTHING
) -> tuple[str, ...]:
    """The names wanted; raises ConfigError for one that is no node, or is given as well."""
    names = tuple(wanted.split(",") if isinstance(wanted, str) else wanted)
    names, states = tuple(name.strip() for name in names), states_of(net.nodes)
    for name in (*names, *given):
        if name not in states:
            raise ConfigError(f"bayes_net: {nearest(name, states, 'node')}")
    for name in names:
        if name in given:
            raise ConfigError(f"bayes_net: {name} is both wanted and given; it can be one.")
    return names


def _normalised(log: Array, given: Mapping[str, Any]) -> Array:
    top = jnp.max(log)
    if not isinstance(top, jax.core.Tracer) and not jnp.isfinite(top):
        raise DataError(f"bayes_net: the evidence {dict(given)} has probability 0.")
    return jnp.exp(log - jax.nn.logsumexp(log))
