"""How the tensors of a folder lie in our parameters: rules, which are data and are read both ways.

Floor 6. A rule names a tensor and the axes that it is made of, and says of each of our arrays that
lies in it where those axes go there, in the notation of einops (Rogozhnikov 2022):

    h.{}.attn.c_attn.weight   "D (p h W)"  ->  blocks/attention/query/kernel   "D (p h) W", one part

    V D P F     vocabulary, width, places (context), inner width
    h k g W     heads, key heads, queries of a key head (h / k), head width
    c r         the two halves of a head that a rotation mixes, and its W / 2 planes
    p           the parts of a tensor in which several of our arrays lie

{} is the number of a layer; arrays of ours that have layers are stacked along their first axis. A
transposition, another order of a head's rows and a fused tensor are so one thing, and what a rule
has read it writes again, bit for bit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class Leaf(NamedTuple):
    """One of our arrays, and where the axes of a tensor go in it.

    Attributes:
      path: of the array, such as blocks/mlp/up/kernel.
      axes: of it, but for that of the layers.
      parts: how many of the tensor's parts are its own: the letter of a size, or 1.
    """

    path: str
    axes: str
    parts: str = "1"


class Rule(NamedTuple):
    """A tensor, and the arrays of ours that lie in it.

    Attributes:
      name: of the tensor, without the prefix of its architecture.
      axes: of the tensor.
      leaves: ours, in the order of the parts.
    """

    name: str
    axes: str
    leaves: tuple[Leaf, ...]


class Tensor(NamedTuple):
    """One tensor of a folder: the rule that it falls under, and its layer if it has one."""

    rule: Rule
    layer: int | None

    @property
    def name(self) -> str:
        """As the folder calls it, without a prefix."""
        return self.rule.name.format(self.layer)


def one(name: str, axes: str, path: str, ours: str = "") -> Rule:
    """The rule of a tensor that is one array of ours."""
    return Rule(name, axes, (Leaf(path, ours or axes),))


def applying(rules: Iterable[Rule], paths: Iterable[str]) -> list[Rule]:
    """The rules whose arrays a model has: one of a tied head has no head, one without biases none.

    Raises KeyError, with its path, for an array that lies in no tensor.
    """
    left, found = set(paths), []
    for rule in rules:
        own = {leaf.path for leaf in rule.leaves}
        if own <= left:
            found.append(rule)
            left -= own
    if left:
        raise KeyError(min(left))
    return found


def tensors(rules: Sequence[Rule], sizes: Mapping[str, int]) -> list[Tensor]:
    """All tensors of a folder; those of the layers last, layer by layer."""
    single = [Tensor(rule, None) for rule in rules if "{}" not in rule.name]
    stacked = [rule for rule in rules if "{}" in rule.name]
    return single + [Tensor(rule, layer) for layer in range(sizes["N"]) for rule in stacked]


def shape(rule: Rule, sizes: Mapping[str, int]) -> list[int]:
    """Of a rule's tensor."""
    return _shape(rule.axes, {**sizes, "p": sum(_parts(leaf, sizes) for leaf in rule.leaves)})


def read(
    rules: Sequence[Rule],
    sizes: Mapping[str, int],
    like: Mapping[str, Any],
    tensor: Callable[[str], np.ndarray],
) -> dict[str, np.ndarray]:
    """Our arrays by their paths, read tensor by tensor.

    Args:
      rules: those that apply.
      sizes: of the axes, by their letters; N counts the layers.
      like: what has the shape and dtype of each of our arrays; one that is longer than what lies in
        the folder, as a padded vocabulary is, ends in zeros.
      tensor: reads a tensor by its name.
    """
    leaves = [leaf for rule in rules for leaf in rule.leaves]
    found = {leaf.path: np.zeros(like[leaf.path].shape, like[leaf.path].dtype) for leaf in leaves}
    for rule, layer in tensors(rules, sizes):
        apart = _apart(rule, sizes, tensor(Tensor(rule, layer).name))
        for leaf, own, local in _pieces(rule, sizes):
            order = [_letters(rule.axes).index(letter) for letter in _letters(leaf.axes)]
            piece = apart[own].transpose(order).reshape(_shape(leaf.axes, local))
            into = found[leaf.path] if layer is None else found[leaf.path][layer]
            into[tuple(map(slice, piece.shape))] = piece
    return found


def written(
    rule: Rule, layer: int | None, sizes: Mapping[str, int], ours: Mapping[str, np.ndarray]
) -> np.ndarray:
    """The tensor of a rule and a layer, made of our arrays; the reverse of `read`."""
    first = ours[rule.leaves[0].path]
    whole = np.empty(shape(rule, sizes), first.dtype)
    apart = _apart(rule, sizes, whole)
    for leaf, own, local in _pieces(rule, sizes):
        order = [_letters(leaf.axes).index(letter) for letter in _letters(rule.axes)]
        piece = ours[leaf.path] if layer is None else ours[leaf.path][layer]
        piece = piece[tuple(map(slice, _shape(leaf.axes, local)))]
        piece = piece.reshape([local[letter] for letter in _letters(leaf.axes)])
        apart[own] = piece.transpose(order)
    return whole


def _apart(rule: Rule, sizes: Mapping[str, int], whole: np.ndarray) -> np.ndarray:
    """A view of a tensor with an axis for each letter."""
    parts = sum(_parts(leaf, sizes) for leaf in rule.leaves)
    return whole.reshape([{**sizes, "p": parts}[letter] for letter in _letters(rule.axes)])


def _pieces(
    rule: Rule, sizes: Mapping[str, int]
) -> Iterator[tuple[Leaf, tuple[slice, ...], dict[str, int]]]:
    """Each array of a rule, where it lies in the tensor taken apart, and the sizes of its axes."""
    first = 0
    for leaf in rule.leaves:
        end = first + _parts(leaf, sizes)
        own = [slice(first, end) if a == "p" else slice(None) for a in _letters(rule.axes)]
        yield leaf, tuple(own), {**sizes, "p": end - first}
        first = end


def _parts(leaf: Leaf, sizes: Mapping[str, int]) -> int:
    return 1 if leaf.parts == "1" else sizes[leaf.parts]


def _letters(axes: str) -> list[str]:
    return re.findall(r"\w", axes)


def _shape(axes: str, sizes: Mapping[str, int]) -> list[int]:
    groups = re.findall(r"\(([^)]*)\)|(\w)", axes)
    return [math.prod(sizes[a] for a in _letters(group or alone)) for group, alone in groups]
