"""The parts of a self-contained page: elements whose text is escaped, numbers, the style.

Floor 6.
"""

from __future__ import annotations

import html
import math


class Html(str):
    """Text that is markup already. Any other string is escaped where it enters an element."""


def tag(name: str, /, *children: str | None, **attributes: object) -> Html:
    """An element; None among its children or attributes is left out.

    An underscore at an attribute's end is dropped (`class_`), any other becomes a dash.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inside = "".join(
        c if isinstance(c, Html) else html.escape(c) for c in children if c is not None
    )
    return Html(f"<{name}{written}>{inside}</{name}>")


def quiet(text: str) -> Html:
    """A paragraph in a lighter colour."""
    return tag("p", text, class_="quiet")


def void(name: str, /, **attributes: object) -> Html:
    """An element of HTML that has no inside and no end. (Those of SVG all have one.)"""
    return Html(tag(name, **attributes).removesuffix(f"</{name}>"))


def document(title: str, *body: str | None) -> Html:
    """A whole page. Its policy forbids every request, so that nothing in it can make one."""
    head = tag(
        "head",
        void("meta", charset="utf-8"),
        void("meta", name="viewport", content="width=device-width, initial-scale=1"),
        Html(
            '<meta http-equiv="Content-Security-Policy" content="'
            "default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
        ),
        void("link", rel="icon", href="data:,"),
        tag("title", title),
        tag("style", Html(STYLE)),
    )
    return Html("<!doctype html>\n" + tag("html", head, tag("body", *body), lang="en") + "\n")


def number(value: float, digits: int = 4) -> str:
    """A number of a few significant digits, with a true minus sign."""
    if not math.isfinite(value):
        return {math.inf: "∞", -math.inf: "−∞"}.get(value, "not a number")
    size = abs(value)
    if size and (size < 1e-3 or size >= 1e6):
        written = f"{value:.{digits - 1}g}"
    elif float(value).is_integer():
        written = f"{value:,.0f}"
    else:
        decimals = digits - 1 - (math.floor(math.log10(size)) if size else 0)
        written = f"{value:,.{max(decimals, 0)}f}"
    return written.replace("-", "−")


STYLE = """
:root { color-scheme: light dark; --paper: #fbfaf8; --card: #fff; --ink: #1d2126; --quiet: #69707a;
  --rule: #e4e2dd; --mark: #fff3d1; --c0: #2a6fbb; --c1: #c2571a; --c2: #3b8a4d; --c3: #8452a8; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --card: #1b1f25; --ink: #e4e6e9;
  --quiet: #8f97a3; --rule: #2c323a; --mark: #3d3520; --c0: #6aa9ec; --c1: #ec9560; --c2: #74c188;
  --c3: #bf94de; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 66rem; padding: 2.5rem 1.25rem 4rem; background: var(--paper);
  color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 2rem; line-height: 1.15; margin: 0; letter-spacing: -.02em; font-weight: 650; }
h1 span { color: var(--quiet); font-weight: 400; }
h2 { font-size: .8rem; text-transform: uppercase; letter-spacing: .09em; color: var(--quiet);
  margin: 2.75rem 0 .9rem; font-weight: 600; }
h3 { font-size: .95rem; margin: 0 0 .3rem; font-weight: 600; overflow-wrap: anywhere; }
p { margin: .5rem 0; } .lead { font-size: 1.08rem; max-width: 44rem; }
.quiet, figcaption, small { color: var(--quiet); font-size: .86rem; }
.cards { display: grid; gap: .9rem;
  grid-template-columns: repeat(auto-fill, minmax(15.5rem, 1fr)); }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 10px;
  padding: .9rem 1rem; min-width: 0; }
.value { font-size: 1.75rem; line-height: 1.25; font-variant-numeric: tabular-nums;
  letter-spacing: -.01em; } .value small { font-size: .95rem; margin-left: .3rem; }
.kind { display: inline-block; font-size: .75rem; padding: .05rem .5rem; border-radius: 1rem;
  border: 1px solid currentColor; color: var(--c3); margin-bottom: .35rem; }
.kind.exact { color: var(--c2); } .kind.lower_bound { color: var(--c0); }
.kind.estimate { color: var(--c1); }
.hero { display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: flex-start; margin-top: 2rem; }
.hero > * { flex: 1 1 20rem; min-width: 0; }
.hero .cards { grid-template-columns: repeat(auto-fill, minmax(14rem, 1fr)); }
.figures { display: grid; gap: 1.5rem; margin: 2rem 0 1.5rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); }
figure { margin: 0; } figcaption { margin-top: .35rem; }
img { display: block; width: 100%; height: auto; border-radius: 6px; }
img.pixels { image-rendering: pixelated; }
.strip { display: grid; gap: .9rem; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); }
svg { display: block; width: 100%; height: auto; } svg text { fill: var(--quiet); font-size: 10px;
  font-variant-numeric: tabular-nums; }
svg .y { text-anchor: end; dominant-baseline: central; } svg .x { text-anchor: middle; }
svg .end { text-anchor: end; }
svg .rule { stroke: var(--rule); } polyline { fill: none; stroke-width: 1.6;
  stroke-linejoin: round; stroke-linecap: round; } .band { opacity: .16; }
polyline.s0 { stroke: var(--c0); } polyline.s1 { stroke: var(--c1); }
polyline.s2 { stroke: var(--c2); } polyline.s3 { stroke: var(--c3); }
.band.s0, circle.s0 { fill: var(--c0); } .band.s1, circle.s1 { fill: var(--c1); }
.band.s2, circle.s2 { fill: var(--c2); } .band.s3, circle.s3 { fill: var(--c3); }
circle.point { opacity: 0; } circle.point:hover { opacity: .8; }
.head { display: flex; justify-content: space-between; gap: .75rem; align-items: baseline; }
.head .last { font-variant-numeric: tabular-nums; white-space: nowrap; font-size: .86rem; }
.last.s0 { color: var(--c0); } .last.s1 { color: var(--c1); } .last.s2 { color: var(--c2); }
.last.s3 { color: var(--c3); }
.columns { columns: 17rem; column-gap: .9rem; }
.columns > * { break-inside: avoid; margin-bottom: .9rem; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .87rem; }
th, td { text-align: left; padding: .22rem .9rem .22rem 0; vertical-align: top;
  border-top: 1px solid var(--rule); overflow-wrap: anywhere; }
tr:first-child > * { border-top: 0; }
tr.mean > * { border-top-width: 2px; } .columns th { overflow-wrap: break-word; }
th { font-weight: 400; color: var(--quiet); }
td { font-variant-numeric: tabular-nums; }
mark { background: var(--mark); color: inherit; border-radius: 4px; padding: .05rem .3rem; }
pre { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; overflow-x: auto;
  padding: .9rem 1rem; font: .84rem/1.6 ui-monospace, SFMono-Regular, Menlo, monospace; margin: 0; }
@media (max-width: 34rem) { body { padding-top: 1.5rem; } .strip { grid-template-columns: 1fr 1fr; }
  h1 { font-size: 1.6rem; } }
"""
