"""Numbers of a text: nats a token, bits a byte, perplexity, each with how the text was read.

Floor 5. Of any model that writes symbols, on the held-out documents of data that are texts. A
string of N symbols is read in windows: window k reads `context` symbols from k `stride` on, and is
asked for the symbol after each of them; those that an earlier window was asked for do not count
again. So every symbol counts once, and all but the first ones are told from at least context -
stride + 1 symbols before them, and from `context` at most.

    nats/token           Σ -log p / tokens
    bits/byte            Σ -log2 p / bytes of UTF-8
    perplexity of a unit exp(Σ -log p / units): tokens, words (between white space), bytes

Sums over sums, over all documents; tokens are those that count, bytes and words those of the text.
Of a tokenizer that does not give its text back those by the byte and the word are too low, for
what it loses is told by nobody: they say so, and are not compared with those of another tokenizer.
The same text read otherwise gives other numbers, by as much as models differ: `Protocol` goes with
each, and scores.compare refuses two that differ.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax_zoo.contract import Array, Autoregression, ConfigError, DataError, Exactness, Model
from genjax_zoo.data.files.tree import counted
from genjax_zoo.data.source import Source
from genjax_zoo.data.text.tokenizer import Tokenizer
from genjax_zoo.measure.examples import Progress, ratio, silent
from genjax_zoo.measure.results import Result

NAMES = (
    "text_nats_per_token",
    "bits_per_byte",
    "perplexity_by_token",
    "perplexity_by_word",
    "perplexity_by_byte",
)
CHUNK = 512
"""Symbols of a string that are read in one call."""
NUMBERS = 2**24
"""Logits that one call may hold."""


class Reading(NamedTuple):
    """How a text is read.

    Attributes:
      context: how many symbols a window reads, at most; 0 reads all that came before.
      stride: how far windows are apart; 0 for as far as they are long.
      documents: whether each document is read by itself, and not all of them as one string.
      first: whether the first symbol of each string counts: told from nothing, or from a begin
        token that the model reads by itself.
    """

    context: int = 0
    stride: int = 0
    documents: bool = False
    first: bool = True


class Protocol(NamedTuple):
    """All that must be the same before two numbers of texts may be compared.

    Attributes:
      data: which text, and what it was cut into.
      split: which part of it.
      strings: "by document" or "joined".
      context: symbols that are read before one at most; 0 for all.
      stride: how far windows are apart; 0 where there is one.
      first: "counted" or "not counted".
      begin: whether the model reads a begin token before each window.
      tokenizer: its sha256; "any" of what is counted in bytes or words, whatever the tokens, where
        these give the text back.
      sha256: of the text, which may change under its name.
    """

    data: str
    split: str
    strings: str
    context: int
    stride: int
    first: str
    begin: bool
    tokenizer: str
    sha256: str


class Text(NamedTuple):
    """A text as it is measured.

    Attributes:
      strings: of symbols, [N] int32 each: its documents, or all of them as one.
      bytes, words: how many it has.
      kept: whether the symbols give it back, as they were cut.
      sha256: of the lengths and bytes of its documents.
    """

    strings: list[np.ndarray]
    bytes: int
    words: int
    kept: bool
    sha256: str


def applicable(model: Model, source: Source) -> bool:
    """Whether there is a text, and somebody who writes its symbols."""
    return model.autoregression is not None and source.tokenizer is not None and bool(source.texts)


def longest(model: Model, state: Any) -> int | None:
    """How many symbols a string of a model can have; None where there is no end."""
    writes = model.autoregression
    return writes.longest(state) if writes is not None and writes.longest is not None else None


def usual(model: Model, state: Any, source: Source, length: int) -> Reading:
    """How a text is read if nothing else is said: as it was learnt from.

    Args:
      model, state: what is measured.
      source: of the text.
      length: symbols in an example that was learnt from: the last is told, and not read.
    """
    context, end = max(length - 1, 1), longest(model, state)
    return Reading(
        context=min(context, end - 1) if end else context,
        documents="document" in source.spaces,
    )


def evaluate(
    model: Model,
    state: Any,
    source: Source,
    reading: Reading,
    step: int,
    only: tuple[str, ...] | None = None,
    where: jax.sharding.Sharding | None = None,
    progress: Progress = silent,
) -> Iterator[Result]:
    """Measures every held-out split of a text.

    Args:
      model: what to measure; one that is `applicable`.
      state: its state.
      source: whose texts.
      reading: how they are read.
      step: how long the state has learnt.
      only: of `NAMES`; None takes all.
      where: where the numbers are put; replicated, if the state is on several processes.
      progress: is called after every call.

    Raises ConfigError for windows that the model cannot read.
    """
    writes, tokenizer = model.autoregression, source.tokenizer
    if writes is None or tokenizer is None:
        raise DataError("a text is measured by what writes its symbols; this model, or data, has "
                        "none.")  # fmt: skip
    reading = checked(reading, longest(model, state))
    wanted = [name for name in NAMES if only is None or name in only]
    if not wanted:
        return
    kind = str(model.log_prob.exactness) if model.log_prob else str(Exactness.EXACT)
    for split, documents in source.texts.items():
        # Of one long text nothing was learnt of ends.
        text = read(documents, tokenizer, "document" in source.spaces, reading)
        counts = sum(len(s) if reading.first else len(s) - 1 for s in text.strings)
        if counts < 1:
            continue
        tell = functools.partial(progress, f"{split} text")
        nats, tokens = code_lengths(writes, state, text.strings, reading, where, tell)
        told = Told(nats, tokens, text, reading)
        protocol = Protocol(
            data=source.name or source.preprocessing.partition(",")[0],
            split=split,
            strings="by document" if reading.documents else "joined",
            context=reading.context,
            stride=reading.stride,
            first="counted" if reading.first else "not counted",
            begin=writes.begin >= 0,
            tokenizer=tokenizer.sha256,
            sha256=text.sha256,
        )
        for name in wanted:
            yield _result(name, told, protocol, tokenizer, kind, step)


# -------------------------------------------------------------------------------- the strings


def checked(reading: Reading, end: int | None) -> Reading:
    """The same with its stride spelt out; raises ConfigError for what cannot be read.

    Args:
      reading: as it is asked for.
      end: how many symbols a string can have, or None.
    """
    context, stride = reading.context, reading.stride or reading.context
    if context < 0 or not 0 <= stride <= context:
        raise ConfigError(
            f"a text is read in windows of 1 or more symbols that leave none out: stride should be "
            f"1 .. {context}, got {reading.stride} for a context of {context}."
        )
    if end and not 0 < context < end:
        raise ConfigError(
            f"this model reads at most {end - 1} symbols before the one that it tells: context "
            f"should be 1 .. {end - 1}, got {context}{'' if context else ' (all)'}."
        )
    return reading._replace(stride=stride)


def read(documents: Iterable[str], tokenizer: Tokenizer, ends: bool, reading: Reading) -> Text:
    """The strings of a text, and how much of it there is.

    Args:
      documents: one after another.
      tokenizer: what makes symbols of them.
      ends: whether each of them ends with the token that says so, where there is one.
      reading: how they are read.
    """
    strings, amounts, kept = list[np.ndarray](), np.zeros(2, np.int64), True
    symbols = tokenizer.document if ends else functools.partial(tokenizer.encode, unknown=True)
    end = -1 if ends and "end" in tokenizer.specials else None
    every = hashlib.sha256()
    for document in documents:
        content = document.encode(errors="surrogatepass")
        every.update(len(content).to_bytes(8) + content)
        strings.append(np.asarray(symbols(document), np.int32))
        kept = kept and tokenizer.decode(strings[-1][:end]) == document
        amounts += len(content), len(document.split())
    if not reading.documents and strings:
        strings = [np.concatenate(strings)]
    strings, (size, words) = [s for s in strings if len(s)], amounts.tolist()
    return Text(strings, size, words, kept, every.hexdigest())


class Window(NamedTuple):
    """A part of a string: symbols first .. last - 1 are read, those from `counts` on count.

    Symbols first + 1 .. last are asked for; of a window that begins its string, the first too.
    """

    string: int
    first: int
    last: int
    counts: int


def windows(lengths: Iterable[int], reading: Reading) -> list[Window]:
    """The windows of all strings; each symbol counts in one."""
    found = []
    for string, N in enumerate(lengths):
        context = reading.context or N
        first, counts = 0, 0 if reading.first else 1
        while True:
            last = min(first + context, N - 1)
            found.append(Window(string, first, last, counts))
            if last >= N - 1:
                break
            first, counts = first + reading.stride, last + 1
    return found


def code_lengths(
    writes: Autoregression,
    state: Any,
    strings: list[np.ndarray],
    reading: Reading,
    where: jax.sharding.Sharding | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> tuple[np.ndarray, np.ndarray]:
    """-log p of what counts in each window, in nats, and how many symbols: both [windows].

    The last symbols of a context are read in pieces, so that a long one needs no more memory.
    """
    all_windows = sorted(
        windows(map(len, strings), reading), key=lambda window: window.first - window.last
    )
    V = jax.eval_shape(lambda state: writes.start(state, 1, 1)[0], state).shape[-1]
    most = max(window.last - window.first for window in all_windows)
    chunk = max(1, min(CHUNK, most))
    rows = max(1, min(NUMBERS // (chunk * V), 256, len(all_windows)))
    begin, go_on = _compiled(writes, where)
    nats, tokens = [], []
    for at in range(0, len(all_windows), rows):
        group = all_windows[at : at + rows]
        width = max(window.last - window.first for window in group)
        room = chunk * -(-width // chunk)
        x = np.full((rows, room + 1), -1, np.int32)
        counted = np.zeros((rows, room + 1), bool)
        for row, (string, first, last, counts) in enumerate(group):
            x[row, : last + 1 - first] = strings[string][first : last + 1]
            counted[row, max(counts - first, 0) : last + 1 - first] = True
        cache, total = begin(state, rows, most + 1, x[:, 0], counted[:, 0])
        sums = np.asarray(total, np.float64)
        for first in range(0, width, chunk):
            piece = slice(first, first + chunk)
            after = slice(first + 1, first + chunk + 1)
            # What is asked for last is not read.
            read = np.where(np.arange(room)[piece] < _read(group, rows), x[:, piece], -1)
            cache, total = go_on(state, cache, read, x[:, after], counted[:, after])
            sums += np.asarray(total, np.float64)
        nats.append(sums[: len(group)])
        tokens.append(counted[: len(group)].sum(1))
        progress(min(at + rows, len(all_windows)), len(all_windows))
    return np.concatenate(nats), np.concatenate(tokens)


def _read(group: list[Window], rows: int) -> np.ndarray:
    """How many symbols each window reads [rows, 1]."""
    sizes = [window.last - window.first for window in group]
    return np.array(sizes + [0] * (rows - len(sizes)))[:, None]


@functools.lru_cache(maxsize=16)
def _compiled(writes: Autoregression, where: jax.sharding.Sharding | None):
    """(begin, go_on): the cache and the nats [rows] of the first symbols, and of further ones."""

    def nats(logits: Array, x: Array, counted: Array) -> Array:
        log_p = jax.nn.log_softmax(logits)
        of = jnp.take_along_axis(log_p, jnp.maximum(x, 0)[..., None], axis=-1)[..., 0]
        return jnp.where(counted, -of, 0.0)

    def begin(state: Any, rows: int, room: int, x: Array, counted: Array) -> tuple[Any, Array]:
        logits, cache = writes.start(state, rows, room)
        return cache, nats(logits, x, counted)

    def go_on(state: Any, cache: Any, x: Array, after: Array, counted: Array) -> tuple[Any, Array]:
        # As precise as a device can: what is printed as exact is not to be rounded.
        with jax.default_matmul_precision("highest"):
            logits, cache = writes.extend(state, cache, x)
        return cache, jnp.sum(nats(logits, after, counted), axis=1)

    spread = None if where is None else (None, where)
    return (
        jax.jit(begin, static_argnums=(1, 2), out_shardings=spread),
        jax.jit(go_on, donate_argnums=1, out_shardings=spread),
    )


# -------------------------------------------------------------------------------- the numbers


class Told(NamedTuple):
    """What the windows of a text told: nats and tokens [windows] of each, the text, how."""

    nats: np.ndarray
    tokens: np.ndarray
    text: Text
    reading: Reading


def _result(
    name: str, told: Told, protocol: Protocol, tokenizer: Tokenizer, kind: str, step: int
) -> Result:
    """One number, with its standard error over windows, of which each is one observation."""
    nats, tokens, text, _ = told
    unit = {"text_nats_per_token": "token", "bits_per_byte": "byte"}.get(name, name.split("_")[-1])
    amount = {"token": int(tokens.sum()), "byte": text.bytes, "word": text.words}[unit]
    each, error = ratio(nats, np.asarray(tokens, np.float64))
    # Bytes and words are those of the whole text: Σ nats / amount, and the error alike.
    scale = float(tokens.sum()) / max(amount, 1)
    value, spread = float(each * scale), None if error is None else float(error * scale)
    if name == "bits_per_byte":
        value, spread = value / math.log(2), None if spread is None else spread / math.log(2)
    elif name.startswith("perplexity"):
        # d exp(v) = exp(v) dv
        value = math.exp(min(value, 700.0))
        spread = None if spread is None else spread * value
    each_by_itself = counted(len(text.strings), "document")
    strings = each_by_itself if told.reading.documents else protocol.strings
    reads = f"context {protocol.context or 'all'}" + (
        f", stride {protocol.stride}" if protocol.context else ""
    )
    by = f"tokenizer {tokenizer.name} {tokenizer.sha256[:8]}"
    begins = ", begin token read" if protocol.begin else ""
    # What symbols do not tell costs nothing.
    loses = "" if unit == "token" or text.kept else ", less than the text: its symbols lose some"
    return Result(
        name=name,
        value=value,
        standard_error=spread,
        kind=kind,
        unit={"text_nats_per_token": "nats/token", "bits_per_byte": "bits/byte"}.get(
            name, f"choices/{unit}"
        ),
        split=protocol.split,
        n=len(nats),
        preprocessing=protocol.data,
        step=step,
        better="lower",
        detail=f"{strings}, {reads}, first symbol {protocol.first}{begins}, {by}{loses}",
        protocol=(
            protocol._replace(tokenizer="any") if text.kept and unit != "token" else protocol
        )._asdict(),
        per=float(amount),
    )


def brief(protocol: Mapping[str, Any]) -> str:
    """A protocol in a few words, for the head of a table."""
    context = f"context {protocol['context'] or 'all'}"
    stride = f", stride {protocol['stride']}" if protocol["context"] else ""
    return f"{protocol['strings']}, {context}{stride}, first symbol {protocol['first']}"
