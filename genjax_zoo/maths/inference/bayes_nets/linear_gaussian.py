"""Real nodes as Gaussians, one for each configuration of their discrete parents. Floor 1.

With a tilt τ, p_τ(x) ∝ p(x) exp(τ·T(x)) with T(x) = zzᵀ of each node's z = (1, parents, itself).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax_zoo.contract import Array
from genjax_zoo.maths.inference import factors
from genjax_zoo.maths.inference.bayes_nets.evidence import Evidence
from genjax_zoo.maths.inference.bayes_nets.params import Linear, Params, centre_of, families
from genjax_zoo.maths.inference.factors import Factor
from genjax_zoo.maths.inference.graphs import Net, states_of
from genjax_zoo.maths.inference.matrices import exactly, matvec


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


@exactly
def completed(g: Gaussian, x: Array) -> tuple[Array, Array]:
    """x̂ and L: the mean of what is not observed given what is, and the factor of its precision.

    Args:
      g: the Gaussians.
      x: [B, R], NaN where it is not observed.

    Returns:
      x with its NaN filled in [B, M, R], and L [B, M, R, R] with LLᵀ the precision of what is not
      observed, and 1 on the diagonal for what is.
    """
    lost = jnp.isnan(x)[:, None]
    zero = jnp.where(lost, 0, x[:, None])
    m = lost.astype(x.dtype)
    # Λ = Aᵀ diag(1/v) A - 2 τ,  and the gradient of -log p where what is lost is 0
    precision = (g.A.mT / g.v[:, None, :]) @ g.A - 2 * g.tilt[:, 1:, 1:]
    residual = matvec(g.A, zero) - g.b
    slope = matvec(g.A.mT, residual / g.v) - 2 * matvec(g.tilt[:, 1:, 1:], zero)
    slope = slope - 2 * g.tilt[:, 1:, 0]
    J = m[..., :, None] * m[..., None, :] * precision + (1 - m)[..., None] * jnp.eye(x.shape[-1])
    L = jnp.linalg.cholesky(J)
    # x̂ = x₀ - Λ_mm⁻¹ g_m
    move = jax.scipy.linalg.cho_solve((L, True), (m * slope)[..., None])[..., 0]
    return zero - m * move, L


@exactly
def integrated(
    params: Params, reals: tuple[str, ...], evidence: Evidence, tilt: tuple[Array, ...] | None
) -> Factor:
    """log ∫ p(reals | scope) over what is not observed: [B, *scope]. Laplace's, hence exact.

    log p(x_o | s) = log p(x_o, x̂_m | s) + |m|/2 log 2π - ½ log |Λ_mm|
    """
    g = gaussian(params, reals, tilt)
    x = evidence.columns(reals) - centre_of(params, reals)
    sure = all(evidence.sure(name) for name in reals)
    full, L = (x[:, None], None) if sure else completed(g, x)
    residual = matvec(g.A, full) - g.b
    nats = -0.5 * jnp.sum(residual**2 / g.v + jnp.log(2 * math.pi * g.v), -1)
    if tilt is not None:
        # + τ·zzᵀ
        z = jnp.pad(full, [(0, 0), (0, 0), (1, 0)], constant_values=1)
        nats = nats + jnp.sum(z * matvec(g.tilt, z), -1)
    if L is not None:
        lost = jnp.sum(jnp.isnan(x), -1)[:, None]
        half_log_det = jnp.sum(jnp.log(jnp.diagonal(L, axis1=-2, axis2=-1)), -1)
        nats = nats + 0.5 * lost * math.log(2 * math.pi) - half_log_det
    factor = Factor(nats.reshape(-1, *g.sizes), g.scope)
    known = [name for name in g.scope if evidence.sure(name)]
    sizes = dict(zip(g.scope, g.sizes, strict=True))
    values = {name: jnp.clip(evidence.columns([name])[:, 0], 0, sizes[name] - 1) for name in known}
    return factors.given(factor, values)
