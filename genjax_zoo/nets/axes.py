"""Names of axes: what each axis of a large array counts, and how a mesh of devices splits it.

Floor 2. A network's arrays say by name what they count, and one table of rules says over which
axes of the mesh each name is split; no model knows of any device. Of parameters the names are those
of `PARAMETERS`, by the end of their path: so a gradient, an optimizer's moments and a moving
average lie as the parameters do. Of activations a network says them itself, by `constrain`.

    batch      examples, prompts, strings        hidden      features between the blocks, D
    length     places of a string                inner       features within an MLP, F
    heads      of queries                        vocabulary  symbols, and those that pad them
    key_heads  of keys and values                layers      blocks that are scanned
    head_width features of one head, W           experts     of a mixture
    positions  places that have a learnt vector

Named axes are those of Mesh TensorFlow (Shazeer et al. 2018, arXiv:1811.02084); the rules of one
table, of which each array takes what it can, those of T5X (Roberts et al. 2022, arXiv:2203.17189).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from genjax_zoo.contract import Array

Names = tuple[str | None, ...]
"""What each axis of an array counts; None is split over nothing."""

_ATTENTION: Mapping[str, Names] = {
    "query": ("heads", "head_width"),
    "key": ("key_heads", "head_width"),
    "value": ("key_heads", "head_width"),
}
PARAMETERS: Mapping[str, Names] = {
    "embedding/kernel": ("vocabulary", "hidden"),
    "positions/kernel": ("positions", "hidden"),
    "blocks/attention_norm/scale": ("layers", "hidden"),
    "blocks/attention_norm/bias": ("layers", "hidden"),
    "blocks/mlp_norm/scale": ("layers", "hidden"),
    "blocks/mlp_norm/bias": ("layers", "hidden"),
    **{f"blocks/attention/{n}/kernel": ("layers", "hidden", *a) for n, a in _ATTENTION.items()},
    **{f"blocks/attention/{n}/bias": ("layers", *a) for n, a in _ATTENTION.items()},
    "blocks/attention/out/kernel": ("layers", "heads", "head_width", "hidden"),
    "blocks/attention/out/bias": ("layers", "hidden"),
    "blocks/mlp/gate/kernel": ("layers", "hidden", "inner"),
    "blocks/mlp/up/kernel": ("layers", "hidden", "inner"),
    "blocks/mlp/down/kernel": ("layers", "inner", "hidden"),
    "blocks/mlp/gate/bias": ("layers", "inner"),
    "blocks/mlp/up/bias": ("layers", "inner"),
    "blocks/mlp/down/bias": ("layers", "hidden"),
    "blocks/experts/router/kernel": ("layers", "hidden", "experts"),
    "blocks/experts/gate/kernel": ("layers", "experts", "hidden", "inner"),
    "blocks/experts/up/kernel": ("layers", "experts", "hidden", "inner"),
    "blocks/experts/down/kernel": ("layers", "experts", "inner", "hidden"),
    "final_norm/scale": ("hidden",),
    "final_norm/bias": ("hidden",),
    "head/kernel": ("hidden", "vocabulary"),
}
"""The end of a parameter's path -> what its axes count."""


class Rules(NamedTuple):
    """How a mesh splits named axes. It can be a key of jax's caches.

    Attributes:
      mesh: the devices, each of whose axes has a name and a size.
      table: (name, the axes of the mesh over which an axis of that name is split), each once.
    """

    mesh: Mesh
    table: tuple[tuple[str, tuple[str, ...]], ...]

    def wanted(self, name: str | None) -> tuple[str, ...]:
        """The axes of the mesh that a name is split over, where there is more than one device."""
        found = next((over for named, over in self.table if named == name), ())
        return tuple(axis for axis in found if self.mesh.shape[axis] > 1)

    def parts(self, shape: Sequence[int], names: Names) -> tuple[tuple[str, ...], ...]:
        """The axes of the mesh that each axis of an array is split over, () for none.

        From left to right an axis takes all of its own that are still free, if they divide it: an
        axis of the mesh splits an array once. So the batch of an activation takes fsdp before its
        features do, and a single key head is the same on all devices.
        """
        found: list[tuple[str, ...]] = []
        for size, name in zip(shape, names, strict=True):
            free = tuple(a for a in self.wanted(name) if a not in sum(found, ()))
            divides = size % math.prod(self.mesh.shape[a] for a in free) == 0
            found.append(free if divides else ())
        return tuple(found)

    def sharding(self, shape: Sequence[int], names: Names) -> NamedSharding:
        """Where an array of such names lies."""
        one = [part[0] if len(part) == 1 else part or None for part in self.parts(shape, names)]
        return NamedSharding(self.mesh, PartitionSpec(*one))


def of_path(path: Sequence[Any], ndim: int) -> Names | None:
    """What the axes of an array of a state count, by the end of its path; None where unknown.

    Args:
      path: as jax.tree_util.tree_leaves_with_path gives it.
      ndim: how many axes the array has: an array of another number of them is another array.
    """
    steps = jax.tree_util.keystr(tuple(path), simple=True, separator="/").split("/")
    ends = ("/".join(steps[first:]) for first in range(len(steps)))
    names = next((PARAMETERS[end] for end in ends if end in PARAMETERS), ())
    return names if len(names) == ndim > 0 else None


# Not a variable of our own: what is traced under other rules is another program to jax.
_rules = jax.make_user_context(None)


def under(rules: Rules) -> contextlib.AbstractContextManager[Any]:
    """While it lasts, `constrain` lays what is traced over the mesh by these rules."""
    return _rules(rules)


def constrain(x: Array, names: Names) -> Array:
    """The same array, which jax is told to split by the rules; as it is where there are none.

    Args:
      x: an activation.
      names: what its axes count.
    """
    rules = _rules.value
    if rules is None or rules.mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, rules.sharding(x.shape, names))
