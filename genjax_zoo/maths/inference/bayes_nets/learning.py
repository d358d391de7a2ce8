"""Where a net's tables begin, and the best ones for expected statistics. Floor 1."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from genjax_zoo.contract import Array, Key
from genjax_zoo.maths.inference.bayes_nets.evidence import Evidence
from genjax_zoo.maths.inference.bayes_nets.params import Family, Linear, Params, Table, families
from genjax_zoo.maths.inference.graphs import Net, states_of


def start(key: Key, net: Net, evidence: Evidence, least_variance: float) -> Params:
    """Tables of equal probabilities, and real nodes with the means and variances of the columns.

    They are nearly so for a node that is not observed, or has such a parent: equal ones would stay
    equal.

    Args:
      key: of what is not equal.
      net: the graph.
      evidence: what a first batch shows.
      least_variance: of a real node.
    """
    x, states = evidence.columns(net.columns), states_of(net.nodes)
    real = jnp.array([not states[name] for name in net.columns])
    centre = jnp.where(real, jnp.nan_to_num(jnp.nanmean(x, 0)), 0.0)
    variance = jnp.maximum(jnp.nan_to_num(jnp.nanvar(x, 0), nan=1.0), least_variance)
    hidden = {node.name for node in net.nodes} - set(evidence.names)
    tables = [
        _first(jax.random.fold_in(key, i), key, family, hidden, net, x - centre, variance)
        for i, family in enumerate(families(net))
    ]
    return Params(tuple(tables), centre, net)


def _first(
    own: Key, shared: Key, family: Family, hidden: set[str], net: Net, x: Array, variance: Array
) -> Table | Linear:
    """A family's parameters before any step."""
    n, K, P = len(family.nodes), family.nodes[0].states, len(family.real[0])
    shape = (n, *family.cards)
    node = family.nodes[0]
    if K:
        if hidden & {node.name, *node.parents}:
            return Table(jax.nn.softmax(jax.random.normal(own, (*shape, K), x.dtype) / 2))
        return Table(jnp.full((*shape, K), 1 / K, x.dtype))
    bias, v = jnp.zeros(shape, x.dtype), jnp.ones(shape, x.dtype)
    weight = jnp.zeros((*shape, P), x.dtype)
    if node.name in net.columns:
        column = net.columns.index(node.name)
        v = v * variance[column]
        if hidden & set(family.discrete[0]):
            # A configuration begins at an example; by one key, nodes alike begin at the same.
            row = jax.random.randint(shared, shape, 0, x.shape[0])
            bias = jnp.nan_to_num(x[row, column])
    if hidden & set(family.real[0]):
        weight = jnp.sqrt(v)[..., None] * jax.random.normal(own, weight.shape, x.dtype)
    return Linear(jnp.concatenate([bias[..., None], weight], -1), v)


def best(
    net: Net, sums: tuple[Array, ...], alpha: float, least_variance: float
) -> tuple[Table | Linear, ...]:
    """The tables that maximise the expected log-likelihood.

    Args:
      net: the graph.
      sums: E[T] of each family: counts n_sk of a discrete one, Σ zzᵀ of a real one.
      alpha: α, pseudo-counts of each value for each configuration of the parents.
      least_variance: of a real node.
    """
    tables: list[Table | Linear] = []
    for family, own in zip(families(net), sums, strict=True):
        if family.nodes[0].states:
            # θ_sk = (n_sk + α) / Σ_k' (n_sk' + α), and equal where there is nothing to count
            counts = own + alpha
            of_s = counts.sum(-1, keepdims=True)
            share = counts / jnp.where(of_s > 0, of_s, 1)
            tables.append(Table(jnp.where(of_s > 0, share, 1 / counts.shape[-1])))
        else:
            tables.append(_least_squares(own, least_variance))
    return tuple(tables)


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
