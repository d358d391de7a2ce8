"""Factors over discrete variables: products, sums, and variable elimination in a good order.

Floor 1. A factor is a table with an axis for each of its variables, in logarithms. A distribution
is a product of them, and what one asks of it is a sum of that product over the rest:

    p(wanted, e) = Σ_rest Π_f f(scope of f)

Elimination moves each sum as far to the right as it goes (Zhang & Poole, A simple approach to
Bayesian network computations, 1994; Dechter, Bucket elimination, 1999): for each variable in turn
the factors that mention it are multiplied and it is summed out of their product alone. The cost is
exponential in the largest product's scope, for which the order is decisive; a greedy one serves
(Koller & Friedman, Probabilistic graphical models, 2009, section 9.4.3).

Tables may have further axes in front, for examples; they broadcast against each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import struct

from genjax_zoo.contract import Array, ConfigError, Key

LARGEST = 2**26
"""The most numbers that one table made on the way may have, over all examples."""


@struct.dataclass
class Factor:
    """A non-negative function of a few discrete variables.

    Attributes:
      log: its logarithm [..., *sizes of the variables], in nats; axes in front are examples.
      scope: the variables' names, an axis each.
    """

    log: Array
    scope: tuple[str, ...] = struct.field(pytree_node=False)


def sizes(factors: Iterable[Factor]) -> dict[str, int]:
    """How many values each variable has; raises ConfigError where two factors disagree."""
    found: dict[str, int] = {}
    for factor in factors:
        for name, size in zip(factor.scope, _sizes(factor), strict=True):
            if found.setdefault(name, size) != size:
                raise ConfigError(
                    f"factors: {name} has {found[name]} values in one factor and {size} in "
                    "another; give all of them the same."
                )
    return found


def product(factors: Sequence[Factor]) -> Factor:
    """Π_f f, over the union of the scopes in order of appearance; of nothing it is 1."""
    scope = tuple(dict.fromkeys(name for factor in factors for name in factor.scope))
    size = sizes(factors)
    _bearable(factors, [size[name] for name in scope])
    return Factor(sum((_aligned(f, scope) for f in factors), start=jnp.zeros(())), scope)


def sum_out(factor: Factor, names: Iterable[str]) -> Factor:
    """Σ_names f; raises ConfigError for a name that the factor does not have."""
    gone = tuple(names)
    axes = tuple(_axis(factor, name) for name in gone)
    kept = tuple(name for name in factor.scope if name not in gone)
    return Factor(jax.nn.logsumexp(factor.log, axis=axes), kept)


def given(factor: Factor, values: Mapping[str, Array]) -> Factor:
    """f with some variables held at values, [] for all alike or [B], one for each example.

    Values lie in 0 .. size - 1. Names that the factor does not have are ignored.
    """
    known = [name for name in factor.scope if name in values]
    if not known:
        return factor
    open_ = tuple(name for name in factor.scope if name not in values)
    ahead = factor.log.ndim - len(factor.scope)
    order = [_axis(factor, name) + factor.log.ndim for name in (*known, *open_)]
    log = factor.log.transpose(*range(ahead), *order)
    index = tuple(jnp.asarray(values[name], jnp.int32) for name in known)
    if ahead:
        # Example b has its own table, and its own values.
        index = (jnp.arange(log.shape[0]), *index)
    return Factor(log[index], open_)


def ordering(
    scopes: Iterable[Sequence[str]], size: Mapping[str, int], keep: Sequence[str] = ()
) -> tuple[str, ...]:
    """An order to eliminate all variables but `keep` in: each time the one that costs least.

    The cost is the size of the product that it would take (min-weight), and among equals how many
    pairs of variables would meet there for the first time (min-fill).
    """
    neighbours: dict[str, set[str]] = {name: {name} for name in size}
    for scope in scopes:
        for name in scope:
            neighbours[name] |= set(scope)

    def cost(name: str) -> tuple[int, int]:
        clique = neighbours[name]
        fill = sum(len(clique - neighbours[other]) for other in clique)
        return math.prod(size[other] for other in clique), fill

    order: list[str] = []
    free = [name for name in size if name not in keep]
    while free:
        name = min(free, key=cost)
        free.remove(name)
        order.append(name)
        clique = neighbours.pop(name) - {name}
        for other in clique:
            neighbours[other] = (neighbours[other] | clique) - {name}
    return tuple(order)


def eliminate(
    factors: Sequence[Factor], keep: Sequence[str] = (), order: Sequence[str] | None = None
) -> Factor:
    """Σ over all variables but `keep` of Π_f f: a factor over `keep`, in that order.

    Args:
      factors: of the product.
      keep: the variables that stay; with none, the logarithm of the whole sum remains.
      order: in which the others are summed out; by default the greedy one of `ordering`.

    Raises ConfigError for an unknown name, an incomplete order, or a table of more than `LARGEST`
    numbers on the way.
    """
    size = sizes(factors)
    for name in keep:
        if name not in size:
            raise ConfigError(f"factors: {name!r} is in no factor; there are {', '.join(size)}.")
    others = {name: k for name, k in size.items() if name not in keep}
    if order is None:
        order = ordering([f.scope for f in factors], size, keep)
    elif sorted(order) != sorted(others):
        raise ConfigError(
            f"factors: the order should name each of {', '.join(others)} once, got "
            f"{', '.join(order)}."
        )
    left = list(factors)
    for name in order:
        touched = [f for f in left if name in f.scope]
        left = [f for f in left if name not in f.scope]
        left.append(sum_out(product(touched), (name,)))
    result = product(left)
    return Factor(_aligned(result, tuple(keep)), tuple(keep))


def draw(key: Key, factors: Sequence[Factor], n: int) -> dict[str, Array]:
    """n exact draws of all variables from p ∝ Π_f f: {name: [n] int32}.

    Each variable is drawn in the reverse of the order of elimination, given those drawn before: of
    the product that it was summed out of, which mentions no others. Tables have no examples, or n.
    """
    left, products = list(factors), []
    for name in ordering([f.scope for f in factors], sizes(factors)):
        touched = product([f for f in left if name in f.scope])
        left = [f for f in left if name not in f.scope] + [sum_out(touched, (name,))]
        products.append((name, touched))
    drawn: dict[str, Array] = {}
    for i, (name, factor) in enumerate(reversed(products)):
        logits = given(factor, drawn).log
        logits = jnp.broadcast_to(logits, (n, logits.shape[-1]))
        drawn[name] = jax.random.categorical(jax.random.fold_in(key, i), logits).astype(jnp.int32)
    return drawn


def _sizes(factor: Factor) -> tuple[int, ...]:
    return factor.log.shape[factor.log.ndim - len(factor.scope) :]


def _axis(factor: Factor, name: str) -> int:
    """Where the variable's axis is, counted from the end."""
    if name not in factor.scope:
        raise ConfigError(
            f"factors: {name!r} is not in the scope ({', '.join(factor.scope)}) of the factor."
        )
    return factor.scope.index(name) - len(factor.scope)


def _aligned(factor: Factor, scope: tuple[str, ...]) -> Array:
    """The table with an axis for each name of `scope`, of size 1 where the factor lacks it."""
    ahead = factor.log.ndim - len(factor.scope)
    there = [name for name in scope if name in factor.scope]
    order = [_axis(factor, name) + factor.log.ndim for name in there]
    log = factor.log.transpose(*range(ahead), *order)
    size = dict(zip(there, log.shape[ahead:], strict=True))
    return log.reshape(*log.shape[:ahead], *(size.get(name, 1) for name in scope))


def _bearable(factors: Sequence[Factor], shape: Sequence[int]) -> None:
    ahead = max((math.prod(f.log.shape[: f.log.ndim - len(f.scope)]) for f in factors), default=1)
    if ahead * math.prod(shape) > LARGEST:
        raise ConfigError(
            f"factors: a table of {math.prod(shape):,} numbers for each of {ahead:,} examples "
            f"would be needed on the way, and {LARGEST:,} in all is the most; ask for fewer "
            "examples at once, give more evidence, or choose a net with fewer parents."
        )
