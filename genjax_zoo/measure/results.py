"""Results: one number each, with all that one must know to quote it. Floor 5."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from typing import Any, NamedTuple

from genjax_zoo.contract import Exactness
from genjax_zoo.measure.weighed import in_words

WIDTH = 99
"""Characters of a line that is printed."""


class Result(NamedTuple):
    """One number, and all that one must know to quote it.

    Attributes:
      name: log_prob, or the measure's own.
      value: in `unit`: the mean over n examples, or Σ value / Σ per; or what n samples are worth.
      standard_error: of the value, over examples, and of what they share (log Z) where that is
        estimated; None for what is no mean, and for one example alone.
      kind: exact, lower_bound, estimate or unnormalised.
      unit: nats, nats/token, error, ...
      split: which examples.
      n: how many.
      preprocessing: what was done to them.
      step: after how many steps of training.
      better: higher, lower or neither.
      detail: what else one must know, such as the number of importance samples.
      low, high: the 95 % interval of a number of samples; None for one of examples.
      protocol: what must be the same before it is compared (scores.Protocol), as a dict; empty for
        a number of examples. scores.compare takes results as they are.
      per: Σ per, how much the n examples hold of what the unit divides by (tokens, dimensions);
        None for a mean over examples.
      trust: how far an estimate by importance weights can be trusted (weighed.diagnostics); empty
        for any other number.
    """

    name: str
    value: float
    standard_error: float | None
    kind: str
    unit: str
    split: str
    n: int
    preprocessing: str
    step: int
    better: str
    detail: str = ""
    low: float | None = None
    high: float | None = None
    protocol: Mapping[str, Any] = {}
    per: float | None = None
    trust: Mapping[str, float] = {}


def bits_per_dim(nats: Result, dims: int, level: float) -> Result:
    """A log-density of dequantised data as bits for each number of the discrete data.

    The mass of a discrete x is the mean density over its cell, of volume w^D, and so

        -1/D log2 P(x) <= -1/D (E_u[log2 p(x + u)] + D log2 w)

    Theis, van den Oord & Bethge 2016 (arXiv:1511.01844), section 3.1: a lower bound of log P.

    Args:
      nats: of log p(x + u).
      dims: D.
      level: w, the width of a level in the units of x.
    """
    error = nats.standard_error
    exact = nats.kind == Exactness.EXACT
    return nats._replace(
        name="bits_per_dim" if nats.name == "log_prob" else f"{nats.name}_bits_per_dim",
        value=-(nats.value / dims + math.log(level)) / math.log(2),
        standard_error=None if error is None else error / dims / math.log(2),
        kind=str(Exactness.LOWER_BOUND) if exact else nats.kind,
        unit="bits/dim",
        better="lower",
        detail="from above: it is the likelihood of the discrete data that is bounded from below",
        per=float(nats.n * dims),
    )


def of_what(split: str, protocol: Mapping[str, Any]) -> str:
    """Which examples a number is of, in words: "test split", "of 10 labels" that were asked for."""
    return f"of {split}" if "asked" in protocol or split.startswith("the ") else f"{split} split"


def describe(result: Result) -> str:
    """A sentence that can be quoted, the value with its error and what it is, in short lines."""
    kind = "" if result.kind == Exactness.EXACT else f" {result.kind.replace('_', ' ')},"
    of_samples = result.low is not None
    within = ""
    if of_samples:
        within = f"[{result.low:.4f}, {result.high:.4f}] "
    elif result.standard_error is not None:
        within = f"± {result.standard_error:.4f} "
    where = of_what(result.split, result.protocol)
    what, trust = "samples" if of_samples else "", in_words(result.trust, result.n)
    if result.per is not None:
        what = f"of {result.per:.0f} {result.unit.partition('/')[2] or 'unit'}s"
    sentence = (
        f"{f'{result.name} = {result.value:.4f} {within}{result.unit}'.rstrip()},{kind} "
        f"{result.detail + ', ' if result.detail else ''}{f'{trust}, ' if trust else ''}"
        f"{where + ', ' if result.split else ''}"
        f"n={f'{result.n} {what}'.rstrip()}, {result.preprocessing}, step {result.step}"
    )
    # Lines end behind a comma or a semicolon: a number stays with its unit.
    whole = sentence.replace(" ", "\xa0").replace(",\xa0", ", ").replace(";\xa0", "; ")
    how: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
    lines = textwrap.fill(whole, WIDTH, subsequent_indent="    ", **how)
    return lines.replace("\xa0", " ")
