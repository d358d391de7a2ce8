"""Directed graphs with a name for every variable, written as the product that they stand for.

Floor 1. "P(A) P(B) P(C, D | A, B)" is a net of four nodes: several names before the bar are one
factor over all of them, by the chain rule P(C | A, B) P(D | A, B, C). In images `pixel` is a plate,
a node for every number of an example, and `left` and `above` are its neighbours:
"P(y) P(pixel | y, left, above)".
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Iterator, Sequence

from genjax_zoo.contract import ConfigError, DataError
from genjax_zoo.typed import choose, nearest

NETS = {
    "lecture": "P(A) P(B) P(C, D | A, B)",
    "sprinkler": "P(cloudy) P(sprinkler | cloudy) P(rain | cloudy) P(wet | sprinkler, rain)",
    # Pearl, Probabilistic reasoning in intelligent systems, 1988.
    "alarm": "P(burglary) P(earthquake) P(alarm | burglary, earthquake) "
    "P(john | alarm) P(mary | alarm)",
    # Of images: a class and its pixels, independent or each given two neighbours.
    "naive": "P(y) P(pixel | y)",
    "grid": "P(y) P(pixel | y, left, above)",
}
"""Nets that have a name."""

OFFSETS = {"left": (0, -1), "above": (-1, 0), "above_left": (-1, -1), "above_right": (-1, 1)}
"""What a pixel may call its neighbours: (rows, columns) from it. At a border they are left out."""


@dataclasses.dataclass(frozen=True)
class Node:
    """A variable: its name, how many states it has (0 for a real number), and its parents."""

    name: str
    states: int
    parents: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Net:
    """A directed acyclic graph, and where its nodes are in the data.

    Attributes:
      nodes: in the order in which they were written.
      columns: the names that the numbers of an example hold, in that order.
      label: the name that `label` holds, or "".
      shape: of one example of x; its product is the number of columns.
    """

    nodes: tuple[Node, ...]
    columns: tuple[str, ...]
    label: str = ""
    shape: tuple[int, ...] = ()


_FACTOR = re.compile(r"P\s*\(([^()|]*)(?:\|([^()|]*))?\)")


def blocks(text: str) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """(children, parents) of every factor of the product, as it is written."""
    if _FACTOR.sub("", text).strip(" *\n") or not _FACTOR.search(text):
        raise ConfigError(
            f"bayes_net: cannot read the net {text!r}; write a product of P(child, ... | parent, "
            f"...), such as 'P(A) P(B | A)', or one of {', '.join(NETS)}."
        )
    return [(_names(m[1], text), _names(m[2] or "", text)) for m in _FACTOR.finditer(text)]


def _names(text: str, where: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",")) if text.strip() else ()
    for name in names:
        if not name.isidentifier():
            raise ConfigError(
                f"bayes_net: {name!r} in {where!r} is no name; use letters, digits and _."
            )
    return names


MOST_STATES = 10**6


def nodes_of(text: str, states: str = "") -> tuple[Node, ...]:
    """The nodes of a product such as "P(A) P(B | A)", or of one of NETS, in the order written.

    Raises ConfigError for what cannot be read, a node that is defined twice, a parent that is not
    defined, a cycle, a discrete node with a real parent, or a number of states below 2.
    """
    text = text if "(" in text else choose(text, NETS, "net")
    parents: dict[str, tuple[str, ...]] = {}
    for children, given_ in blocks(text):
        for j, name in enumerate(children):
            if name in parents:
                raise ConfigError(
                    f"bayes_net: {name} is defined twice in {text!r}; every node stands before the "
                    "bar of one factor alone."
                )
            # P(C, D | A) = P(C | A) P(D | A, C)
            parents[name] = given_ + children[:j]
    size = dict.fromkeys(parents, 2)
    for item in filter(None, (item.strip() for item in states.split(","))):
        name, _, value = (part.strip() for part in item.partition("="))
        if name not in size:
            raise ConfigError(f"bayes_net: states: {nearest(name, size, 'node')}")
        if value != "real" and not (value.isdecimal() and 2 <= float(value) <= MOST_STATES):
            raise ConfigError(
                f"bayes_net: states: {item!r} should be NAME=NUMBER of 2 .. {MOST_STATES}, or "
                "NAME=real."
            )
        size[name] = 0 if value == "real" else int(value)
    neighbours = OFFSETS if "pixel" in parents else {}
    for name, above in parents.items():
        if len(set(above)) < len(above):
            raise ConfigError(f"bayes_net: {name} names a parent twice: {', '.join(above)}.")
        for parent in above:
            if parent not in parents and not (name == "pixel" and parent in neighbours):
                known = [*parents, *(neighbours if name == "pixel" else ())]
                raise ConfigError(
                    f"bayes_net: {name} has a parent that no factor defines: "
                    f"{nearest(parent, known, 'node')} Add a P({parent})."
                )
            if parent == "pixel":
                raise ConfigError(
                    f"bayes_net: pixel is every number of an image, and no parent of {name}; a "
                    f"pixel's own parents may be {', '.join(OFFSETS)}."
                )
            if size[name] and not size.get(parent, size[name]):
                raise ConfigError(
                    f"bayes_net: {name} is discrete and its parent {parent} is real, which leaves "
                    f"the linear-Gaussian family; turn the arrow round, or make {name} real."
                )
    nodes = tuple(Node(name, size[name], above) for name, above in parents.items())
    levels(nodes)
    return nodes


def laid_out(nodes: Sequence[Node], shape: Sequence[int]) -> tuple[Node, ...]:
    """The plate `pixel` as nodes pixel_row_column (_channel where there are several)."""
    (plate,) = (node for node in nodes if node.name == "pixel")
    size = (1, *shape, 1) if len(shape) == 1 else (*shape, 1)[:3]
    H, W, C = size
    if math.prod(size) != math.prod(shape):
        raise DataError(f"bayes_net: pixels are of images [H, W, C], got examples {tuple(shape)}.")

    def name(row: int, column: int, channel: int) -> str:
        return f"pixel_{row}_{column}" + (f"_{channel}" if C > 1 else "")

    def parents(row: int, column: int, channel: int) -> Iterator[str]:
        for parent in plate.parents:
            if parent not in OFFSETS:
                yield parent
                continue
            r, c = row + OFFSETS[parent][0], column + OFFSETS[parent][1]
            if r >= 0 and 0 <= c < W:
                yield name(r, c, channel)

    places = [(r, c, k) for r in range(H) for c in range(W) for k in range(C)]
    laid = [Node(name(*place), plate.states, tuple(parents(*place))) for place in places]
    return (*(node for node in nodes if node.name != "pixel"), *laid)


def states_of(nodes: Iterable[Node]) -> dict[str, int]:
    """How many states each node has; 0 for a real one."""
    return {node.name: node.states for node in nodes}


@functools.lru_cache(maxsize=64)
def levels(nodes: tuple[Node, ...]) -> tuple[tuple[Node, ...], ...]:
    """Nodes whose parents are all in earlier levels; raises ConfigError where there is a cycle."""
    names, done = {node.name for node in nodes}, dict[str, int]()
    left = list(nodes)
    while left:
        ready = [n for n in left if all(p in done or p not in names for p in n.parents)]
        if not ready:
            cycle, at = [], left[0]
            while at.name not in cycle:
                cycle.append(at.name)
                at = next(n for n in left if n.name in at.parents)
            circle = " -> ".join([*cycle[cycle.index(at.name) :], at.name][::-1])
            raise ConfigError(
                f"bayes_net: the arrows run in a circle: {circle}; a Bayes net has none, so take "
                "one of them out or turn it round."
            )
        level = 1 + max(done.values(), default=-1)
        done |= {node.name: level for node in ready}
        left = [node for node in left if node.name not in done]
    last = max(done.values())
    return tuple(tuple(n for n in nodes if done[n.name] == i) for i in range(last + 1))
