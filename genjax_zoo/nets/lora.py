"""Low-rank adaptation: matrices that stay as they are, and what is learnt to be added to them.

    W' = W + (α / r) A B,     A [in, r] drawn, B [r, out] zero at first      (Hu et al. 2021)

Floor 2. Functions of trees: a network is applied to the merged tree and knows nothing of it. The
paper's matrices are (out, in), so that its B A is A B here. In and out may be several axes, as
those of heads are, and layers or experts may be stacked before them.
"""

from __future__ import annotations

import math
import re
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct, traverse_util

from genjax_zoo.contract import Array, ConfigError, Key


@struct.dataclass
class Base:
    """What is adapted, and stays as it is: it belongs into a state's memory, under the name `base`.

    Attributes:
      params: the whole tree of a network.
      alpha: α.
    """

    params: Any
    alpha: float = struct.field(pytree_node=False)


AXES = (
    (r"blocks/experts/(gate|up|down)/kernel", 2, 1),
    (r"blocks/attention/out/kernel", 1, 2),
    (r"blocks/.*/kernel", 1, 1),
    (r"head/kernel", 0, 1),
)
"""Of the matrices by their paths: how many axes are stacked before, and how many are its input."""


def adapters(key: Key, params: Any, rank: int, where: str) -> dict[str, Any]:
    """What is learnt in the place of matrices: zero, until it has learnt anything.

    Args:
      key: of the draw.
      params: nested dicts of arrays, float32.
      rank: r.
      where: a pattern of paths, such as attention/(query|value), that is found in those of the
        matrices that are adapted.

    Returns:
      Nested dicts like `params`, of these matrices alone: each is {"a": [..., in, r], "b":
      [..., r, out]}.

    Raises ConfigError where no matrix is meant, or `where` is no pattern.
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    axes = {path: known for path in flat if (known := _axes(path))}
    try:
        chosen = [path for path in axes if re.search(where, path)]
    except re.error as error:
        raise ConfigError(
            f"model.lora_where={where!r} is no regular expression: {error}."
        ) from error
    if not chosen:
        raise ConfigError(
            f"model.lora_where={where!r} is found in none of the matrices: {', '.join(axes)}."
        )
    made = {}
    for path, own in zip(chosen, jax.random.split(key, len(chosen)), strict=True):
        shape, (stacked, inputs) = flat[path].shape, axes[path]
        before, into = shape[:stacked], math.prod(shape[stacked : stacked + inputs])
        out = math.prod(shape[stacked + inputs :])
        # The variance of A x is that of x.
        a = jax.random.normal(own, (*before, into, rank)) / math.sqrt(into)
        made[path] = {"a": a, "b": jnp.zeros((*before, rank, out))}
    return traverse_util.unflatten_dict(made, sep="/")


def merged(params: Any, adapters: Any, alpha: float) -> Any:
    """The tree with W' in the place of each W that is adapted; all else is as it was."""
    flat = traverse_util.flatten_dict(params, sep="/")
    learnt = traverse_util.flatten_dict(adapters, sep="/")
    for path in {name.rpartition("/")[0] for name in learnt}:
        flat[path] = _sum(flat[path], learnt[f"{path}/a"], learnt[f"{path}/b"], alpha)
    return traverse_util.unflatten_dict(flat, sep="/")


def _sum(w: Array, a: Array, b: Array, alpha: float) -> Array:
    return w + (alpha / a.shape[-1]) * (a @ b).reshape(w.shape)


def _axes(path: str) -> tuple[int, int] | None:
    """How many axes of a matrix are stacked, and how many are its input; None for what is none."""
    found = (axes for pattern, *axes in AXES if re.fullmatch(pattern, path))
    stacked_inputs = next(found, None)
    return None if stacked_inputs is None else (stacked_inputs[0], stacked_inputs[1])
