"""Discrete nodes summed out by variable elimination (factors.py), and expectations as gradients.

Floor 1. Real numbers that were not observed are integrated out first, for each configuration of the
discrete nodes. With p_τ(x) ∝ p(x) exp(τ·T(x)),

    ∂/∂τ log p_τ(e) at τ = 0   =   E[T(x) | e],

Darwiche's differential approach to inference (2003), and Fisher's identity.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genjax_zoo.contract import Array
from genjax_zoo.maths.inference import factors
from genjax_zoo.maths.inference.bayes_nets.evidence import Evidence
from genjax_zoo.maths.inference.bayes_nets.linear_gaussian import components, integrated
from genjax_zoo.maths.inference.bayes_nets.params import (
    Family,
    Params,
    Table,
    centre_of,
    families,
    no_statistics,
    places,
)
from genjax_zoo.maths.inference.factors import Factor
from genjax_zoo.maths.inference.graphs import states_of


def log_factors(
    params: Params, evidence: Evidence, tilt: tuple[Array, ...] | None = None, floor: float = 0.0
) -> list[Factor]:
    """log p(x, e), the real numbers that are not observed integrated out: factors of the rest.

    Args:
      params: of the net.
      evidence: the evidence e; what is surely observed is no axis of any factor.
      tilt: τ, shaped like the statistics; None is 0.
      floor: the least probability in a table.
    """
    net = params.net
    tilts = no_statistics(net) if tilt is None else tilt
    found: list[Factor] = []
    for family, table, tau in zip(families(net), params.tables, tilts, strict=True):
        if isinstance(table, Table):
            found += _looked_up(family, jnp.log(jnp.maximum(table.p, floor)) + tau, evidence)
    for reals in components(net):
        found.append(integrated(params, reals, evidence, tilt))
    states = states_of(net.nodes)
    for name in evidence.names:
        if name in evidence.gaps and states[name]:
            # 1 for the value observed; for all where it is missing.
            value, k = evidence.columns([name]), jnp.arange(states[name])
            known = (value >= 0) & (value < states[name])
            found.append(Factor(jnp.where(known & (value != k), -jnp.inf, 0.0), (name,)))
    return found


def _looked_up(family: Family, log: Array, evidence: Evidence) -> Iterator[Factor]:
    """Π over a family's nodes of θ at the evidence; nodes open to the same variables at once."""
    alike: dict[Any, list[int]] = {}
    axes = [(*parents, n.name) for parents, n in zip(family.discrete, family.nodes, strict=True)]
    for i, names in enumerate(axes):
        known = tuple(evidence.sure(name) for name in names)
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
            value = evidence.columns([axes[i][a] for i in rows])
            index.append(jnp.clip(value, 0, part.shape[1 + place] - 1).astype(jnp.int32))
        # [B, n, *open] -> [B, *open]
        yield Factor(part[(np.arange(len(rows)), *index)].sum(1), open_)


def log_evidence(
    params: Params, evidence: Evidence, tilt: tuple[Array, ...] | None = None, floor: float = 0.0
) -> Array:
    """log p(e): [B] nats, per unit of whatever e is real."""
    nats = factors.eliminate(log_factors(params, evidence, tilt, floor)).log
    return jnp.broadcast_to(nats, evidence.x.shape[:1])


# ----------------------------------------------------------------------------------- expectations


def expected_statistics(params: Params, evidence: Evidence) -> tuple[Array, tuple[Array, ...]]:
    """log p(e) and E[T | e], both summed over the examples."""

    def total(tilt: tuple[Array, ...]) -> Array:
        # What cannot be under any hidden state is put down to the least impossible.
        return jnp.sum(log_evidence(params, evidence, tilt, floor=_LEAST))

    # E[T | e] = ∂/∂τ log p_τ(e) at τ = 0
    return jax.value_and_grad(total)(no_statistics(params.net))


def posteriors(params: Params, evidence: Evidence) -> dict[str, Array]:
    """Of every node that is not observed: p(node | e) [B, K], or E[node | e] [B] if it is real."""
    net, zeros = params.net, no_statistics(params.net)
    # Each of them is a family of its own, for no column holds it.
    own = {n.name: places(net)[n.name][0] for n in net.nodes if n.name not in evidence.names}

    def of(x: Array) -> dict[str, Array]:
        def nats(tilts: dict[str, Array]) -> Array:
            tilt = list(zeros)
            for name, tau in tilts.items():
                tilt[own[name]] = tau
            one = replace(evidence, x=x[None])
            return log_evidence(params, one, tuple(tilt), floor=_LEAST)[0]

        found = jax.grad(nats)({name: zeros[i] for name, i in own.items()})
        return {name: _of_node(params, name, sums, 0) for name, sums in found.items()}

    return jax.vmap(of)(evidence.x)


def means(params: Params, evidence: Evidence, kept: tuple[str, ...]) -> Array:
    """E[columns | kept, e] for every configuration of the discrete nodes `kept`.

    Returns:
      [B, *states of kept, columns]; of a discrete column the mean of its state.
    """
    net, states = params.net, states_of(params.net.nodes)
    sizes = [states[name] for name in kept]

    def of(x: Array) -> Array:
        def nats(tilt: tuple[Array, ...]) -> Array:
            terms = log_factors(params, replace(evidence, x=x[None]), tilt, floor=_LEAST)
            return factors.eliminate(terms, kept).log.reshape(sizes)

        # E[T | kept, e] = ∂/∂τ log p_τ(kept, e)
        found = jax.jacrev(nats)(no_statistics(net))
        each = []
        for name in net.columns:
            p = _of_node(params, name, found[places(net)[name][0]], len(sizes))
            each.append(jnp.sum(p * jnp.arange(states[name]), -1) if states[name] else p)
        return jnp.stack(each, -1)

    return jax.vmap(of)(evidence.x)


def _of_node(params: Params, name: str, sums: Array, ahead: int) -> Array:
    """p(node) [..., K], or a real node's mean [...], of its family's E[T].

    That is E[T] summed over the parents: counts, or the mean in E[zzᵀ].

    Args:
      params: of the net.
      name: of the node.
      sums: E[T] of its family [..., n, ...].
      ahead: how many axes lie ahead of n.
    """
    i, row = places(params.net)[name]
    family, own = families(params.net)[i], jnp.take(sums, row, ahead)
    parents = tuple(range(ahead, ahead + len(family.cards)))
    if family.nodes[0].states:
        return own.sum(parents)
    return own[..., 0, -1].sum(parents) + centre_of(params, [name])[0]


_LEAST = 1e-30
"""The least probability in a table, where a gradient is taken."""
