"""What is observed of a net's nodes, and whether it can be. Floor 1."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from genjax_zoo.contract import Array, DataError
from genjax_zoo.maths.inference.graphs import Net, states_of


@struct.dataclass
class Evidence:
    """The evidence e of B examples.

    Attributes:
      x: the values that are observed [B, names].
      names: of their nodes.
      gaps: those whose value is NaN where it is missing.
    """

    x: Array
    names: tuple[str, ...] = struct.field(pytree_node=False)
    gaps: frozenset[str] = struct.field(pytree_node=False, default=frozenset())

    def columns(self, names: Sequence[str]) -> Array:
        """[B, names]; NaN for a name that is not observed."""
        if all(name in self.names for name in names):
            return self.x[:, np.array([self.names.index(name) for name in names], int)]
        nan = jnp.full(self.x.shape[0], jnp.nan, self.x.dtype)
        each = [self.x[:, self.names.index(m)] if m in self.names else nan for m in names]
        return jnp.stack(each, -1)

    def sure(self, name: str) -> bool:
        """Whether the node's value is there in every example."""
        return name in self.names and name not in self.gaps


def inside(net: Net, evidence: Evidence) -> Array:
    """Whether all numbers are states of their nodes: bool [B]."""
    states, x = states_of(net.nodes), evidence.x
    K = jnp.array([states[name] for name in evidence.names], x.dtype)
    may = jnp.array([name in evidence.gaps for name in evidence.names], bool)
    whole = (x == jnp.round(x)) & (x >= 0) & (x < K)
    return jnp.all(whole | ((K == 0) & ~jnp.isnan(x)) | (may & jnp.isnan(x)), axis=-1)


def of_values(net: Net, values: Mapping[str, Any], n: int = 1) -> Evidence:
    """{name: [] or [n]} as evidence of one example, or of n; DataError for what is no state."""
    for name, value in values.items():
        check_value(net, name, value, n)
    held = {name: jnp.asarray(value, float) for name, value in values.items()}
    rows = n if any(value.ndim for value in held.values()) else 1
    each = [jnp.broadcast_to(value, (rows,)) for value in held.values()]
    return Evidence(jnp.stack(each, -1) if each else jnp.zeros((1, 0)), tuple(held))


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
        raise DataError(
            f"bayes_net: expected {expected} of {name}{each}, got {np.asarray(value).tolist()!r}."
        )


def check(net: Net, evidence: Evidence) -> None:
    """Raises DataError for numbers that are no states of their nodes, if they are not traced."""
    if isinstance(evidence.x, jax.core.Tracer) or bool(jnp.all(inside(net, evidence))):
        return
    states = states_of(net.nodes)
    for name in evidence.names:
        one = Evidence(evidence.columns([name]), (name,), evidence.gaps)
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
