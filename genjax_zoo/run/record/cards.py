"""What was measured, on a page: a card a number, with everything that says what it is. Floor 6."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from genjax_zoo.measure.results import of_what
from genjax_zoo.measure.weighed import in_words
from genjax_zoo.run.record.page import Html, number, quiet, tag
from genjax_zoo.run.record.reading import mapping

ALSO = 3
"""Older values of one number that its card names, at most."""


def cards(entries: Sequence[Mapping]) -> Html:
    """A card a number: measured again, at another step or of more examples, it is the same one; by
    another protocol it is another, for the two do not compare.

    What the preprocessing was is said once where it is the same of all.
    """
    if not entries:
        return quiet("Nothing is measured on held-out data yet.")
    groups: dict[tuple[str, ...], list[Mapping]] = {}
    for entry in entries:
        keys = ("name", "unit", "split", "preprocessing", "protocol")
        same = (str(entry.get(key)) for key in keys)
        groups.setdefault(tuple(same), []).append(entry)
    said = {str(entry.get("preprocessing") or "") for entry in entries}
    once = said.pop() if len(said) == 1 else None
    shown = [_card(newest, older, once is None) for newest, *older in groups.values()]
    return tag("div", tag("div", *shown, class_="cards"), quiet(f"Data: {once}.") if once else None)


def _card(entry: Mapping, older: Sequence[Mapping], with_data: bool) -> Html:
    """One number, with everything that says what it is."""
    kind, unit = str(entry.get("kind", "none")), str(entry.get("unit", ""))
    split, n, step = entry.get("split"), entry.get("n"), entry.get("step")
    shown, within = spelt(entry)
    facts = [
        of_what(str(split), mapping(entry.get("protocol"))) if split else None,
        f"n = {n:,}" if isinstance(n, int) else None,
        f"step {step:,}" if isinstance(step, int) else None,
        f"{entry['better']} is better" if entry.get("better") in ("higher", "lower") else None,
        str(entry["detail"]) if entry.get("detail") else None,
        _trust(entry.get("trust"), n if isinstance(n, int) else 0),
    ]
    also = [
        f"{spelt(one)[0]} at step {one.get('step')} (n = {one.get('n')})" for one in older[:ALSO]
    ]
    return tag(
        "div",
        tag("h3", str(entry.get("name", "")).replace("_", " ")),
        tag("span", kind.replace("_", " "), class_=f"kind {kind}") if kind != "none" else None,
        tag("div", shown, tag("small", f"{within} {unit}".strip()), class_="value"),
        tag("small", " · ".join(fact for fact in facts if fact)),
        quiet(str(entry["preprocessing"])) if with_data and entry.get("preprocessing") else None,
        quiet("Before: " + "; ".join(also)) if also else None,
        class_="card",
    )


def _trust(of: Any, n: int) -> str:
    """How far an estimate of n examples can be trusted; nothing where that is damaged."""
    try:
        # null is NaN in a file
        return in_words({k: math.nan if v is None else v for k, v in mapping(of).items()}, n)
    except (KeyError, TypeError, ValueError):
        return ""


def spelt(entry: Mapping) -> tuple[str, str]:
    """A number, and how sure it is: "± ..." or "[low, high]"."""
    low, high = entry.get("low"), entry.get("high")
    if isinstance(low, int | float) and isinstance(high, int | float):
        return spread(entry.get("value"), low, high)
    return value_of(entry.get("value"), entry.get("standard_error"))


def value_of(value: Any, error: Any) -> tuple[str, str]:
    """A value and its standard error as "± ...", both to the error's second digit."""
    if not isinstance(value, int | float):
        return ("not a number" if value is None else str(value)), ""
    known = isinstance(error, int | float) and math.isfinite(error) and error > 0
    if not known or not math.isfinite(value):
        return number(float(value), 5), ""
    decimals = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:,.{decimals}f}".replace("-", "−"), f"± {error:,.{decimals}f}"


def spread(value: Any, low: float, high: float) -> tuple[str, str]:
    """A value and its interval as "[low, high]", to the second digit of the interval's width."""
    width = high - low
    if not isinstance(value, int | float) or not math.isfinite(width) or width <= 0:
        return value_of(value, None)[0], f"[{number(low)}, {number(high)}]"
    decimals = max(0, 1 - math.floor(math.log10(width)))
    three = [f"{x:,.{decimals}f}".replace("-", "−") for x in (value, low, high)]
    return three[0], f"[{three[1]}, {three[2]}]"
