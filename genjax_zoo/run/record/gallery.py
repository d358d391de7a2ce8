"""Samples on a page: the last ones beside the data, and those before them. Floor 6."""

from __future__ import annotations

import base64
import contextlib
import csv
import io
import pathlib
import statistics
from collections.abc import Sequence

from PIL import Image

from genjax_zoo.contract import MEAN
from genjax_zoo.run.record.page import Html, number, quiet, tag, void
from genjax_zoo.run.record.reading import thinned

PICTURES, TEXTS, TEXT_LINES, ROWS = 8, 3, 16, 8
"""Pictures in the strip of samples through time; texts beneath them, and lines of each; rows of a
table."""
GIF = b"GIF8"
"""How such a file begins."""
LARGE, SMALL, SHARP, BYTES = 500, 200, 3, 200_000
"""Pixels across of a picture at the top of the page, and in the strip, about. One of more bytes and
of more than `SHARP` times these pixels is made smaller: a page of hundreds of megabytes opens in no
browser, and the files are in samples/."""

Step = tuple[int, bytes]
"""(step, content of its file)."""


def pictures_of(folder: pathlib.Path) -> list[Step]:
    """The pictures of a run, from the first to the last; of many, some, evenly."""
    return thinned(folder, "png", PICTURES)


def last(folder: pathlib.Path) -> list[Html]:
    """The last samples, and beside them the data where these are not drawn in the same picture."""
    data = [_of_file(folder / f"data.{end}", "Data") for end in ("gif", "png", "csv", "txt")]
    beside = next((figure for figure in data if figure is not None), None)
    samples = []
    if pictures := pictures_of(folder):
        step, content = _moving(folder, pictures[-1])
        what = "Means of p(x | what is hidden)" if _title(content) == MEAN else "Samples"
        samples.append(_picture(content, f"{what}, step {step:,}", LARGE))
    for end, figure in (("csv", _table), ("txt", _text)):
        if found := thinned(folder, end, TEXTS):
            step, content = found[-1]
            samples.append(figure(content, f"Samples, step {step:,}"))
    return ([beside] if beside and samples else []) + samples


def before(folder: pathlib.Path) -> Html | None:
    """The samples before the last, a picture or a text each; None where there are none."""
    strip = [_picture(content, f"step {step:,}", SMALL) for step, content in pictures_of(folder)]
    texts = [_text(c, f"step {step:,}") for step, c in thinned(folder, "txt", TEXTS)]
    if len(strip) < 2 and len(texts) < 2:
        return None
    shown = tag("div", *strip[:-1], class_="strip") if len(strip) > 1 else None
    return tag("div", shown, *texts[:-1])


def embedded(content: bytes, caption: str, width: int) -> Html:
    """A picture within the page. What is smaller than its place keeps its pixels' edges; what is
    larger is made smaller smoothly, or plots and images would be ragged."""
    kind = "gif" if content.startswith(GIF) else "png"
    across = 0
    with contextlib.suppress(OSError, ValueError), Image.open(io.BytesIO(content)) as image:
        across = image.width
        if kind == "png" and len(content) > BYTES and across > SHARP * width:
            content = _smaller(image, SHARP * width)
    source = f"data:image/{kind};base64," + base64.b64encode(content).decode()
    edges = "pixels" if 0 < across < width else None
    return void("img", src=source, alt=caption, loading="lazy", class_=edges)


def _smaller(image: Image.Image, width: int) -> bytes:
    """A picture of so many pixels across, as PNG."""
    size = width, max(1, round(image.height * width / image.width))
    png = io.BytesIO()
    image.convert("RGB").resize(size, Image.Resampling.LANCZOS).save(png, "PNG", optimize=True)
    return png.getvalue()


def _picture(content: bytes, caption: str, width: int) -> Html:
    return tag("figure", embedded(content, caption, width), tag("figcaption", caption))


def _title(content: bytes) -> str:
    """What of a batch a PNG shows (shown.write), where it says so."""
    with contextlib.suppress(OSError, ValueError), Image.open(io.BytesIO(content)) as image:
        return str(image.info.get("Title", ""))
    return ""


def _moving(folder: pathlib.Path, still: Step) -> Step:
    """A picture, as the GIF beside it if there is one."""
    step, content = still
    with contextlib.suppress(OSError):
        gif = (folder / f"step_{step:08d}.gif").read_bytes()
        return step, gif if gif.startswith(GIF) else content
    return still


def _of_file(path: pathlib.Path, caption: str) -> Html | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if path.suffix == ".csv":
        return _table(content, caption)
    if path.suffix == ".txt":
        return _text(content, caption)
    if path.suffix == ".gif" and not content.startswith(GIF):
        return None
    return _picture(content, caption, LARGE)


def _text(content: bytes, caption: str) -> Html:
    return tag("figure", text(content, TEXT_LINES), tag("figcaption", caption))


def text(content: bytes, most: int | None = None) -> Html:
    """The lines of a text, or the first of them."""
    return tag("pre", "\n".join(content.decode(errors="replace").split("\n")[:most]))


def _table(content: bytes, caption: str) -> Html:
    """The first rows of a table under their names, and the means of all of them."""
    header, *rows = [*csv.reader(io.StringIO(content.decode(errors="replace")))] or [[]]
    cells = lambda kind, row: tag("tr", *(tag(kind, cell) for cell in row))
    means = [_mean(rows, i) for i in range(len(header))]
    body = [cells("th", header), *(cells("td", row) for row in rows[:ROWS])]
    if any(means):
        body.append(tag("tr", *(tag("td", tag("strong", mean)) for mean in means), class_="mean"))
    more = f", {min(ROWS, len(rows))} of {len(rows):,}; below them the means of all"
    table = tag("div", tag("table", *body), class_="card scroll")
    return tag("figure", table, tag("figcaption", caption + more))


def _mean(rows: Sequence[Sequence[str]], column: int) -> str:
    """The mean of a column of numbers; empty for one of words."""
    try:
        values = [float(row[column]) for row in rows]
    except (ValueError, IndexError):
        return ""
    return number(statistics.fmean(values), 3) if values else ""


def hero(figures: Sequence[Html], numbers: Html) -> Html:
    """The top of a page, over its whole width: figures side by side, what was measured below them;
    beside a figure that is alone."""
    if len(figures) > 1:
        return tag("section", tag("div", *figures, class_="figures"), numbers)
    return tag("section", *figures, tag("div", numbers), class_="hero")


def nothing() -> Html:
    """What a page says of a run that has drawn no samples."""
    return quiet("No samples drawn yet.")
