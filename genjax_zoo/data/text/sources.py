"""A corpus becomes a `Source`: windows of one long text, or rows of packed documents.

Floor 4. Where it fits into memory, one long text rests on the device and the host sends where its
windows begin; all else the host sends row by row, from arrays or from token files alike.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from genjax_zoo.contract import BINARY, Batch, DataError, categorical
from genjax_zoo.data.config import Data
from genjax_zoo.data.source import NEW, Own, Source, order
from genjax_zoo.data.text import corpus as corpora
from genjax_zoo.data.text import parts, rows, token_files, tokenizers, tokens
from genjax_zoo.data.text.corpus import Corpus, Whole
from genjax_zoo.data.text.tokenizer import Tokenizer, losses
from genjax_zoo.data.text.tokens import Tokens

MEGA = 10**6


class Opened(NamedTuple):
    """A corpus as symbols.

    Attributes:
      tokenizer: that they are of.
      train, held_out: the symbols.
      split: what the held-out ones are called.
      whole: whether each part is one long text.
      in_memory: whether they lie there, and not in files.
      texts: the held-out documents of each split.
      notes: what there is, in words.
      digest: sha256 of the texts.
    """

    tokenizer: Tokenizer
    train: Tokens
    held_out: Tokens
    split: str
    whole: bool
    in_memory: bool
    texts: Mapping[str, Whole]
    notes: tuple[str, ...]
    digest: str


def of_path(data: Data, seed: int, name: str, own: Own = NEW) -> Source:
    """The texts of a file or a folder; raises DataError where they cannot be learnt from."""
    return of_corpus(data, seed, corpora.read(name, data.source), own)


def of_corpus(data: Data, seed: int, corpus: Corpus, own: Own = NEW) -> Source:
    """A corpus, ready to be learnt from.

    Args:
      data: what the config says.
      seed: of the order of its windows or rows.
      corpus: its documents.
      own: what the run has already: its tokenizer, and where its token files go.

    Raises DataError for texts that are empty or too short.
    """
    opened = symbols(data, corpus, own)
    return (of_one_text if opened.whole else of_documents)(data, seed, opened)


def symbols(data: Data, corpus: Corpus, own: Own) -> Opened:
    """The symbols of a corpus, in memory or in files."""
    where = None
    if corpus.size > data.in_memory * MEGA:
        where = folder(data, corpus, own)
    else:
        held = {split: corpora.held(documents) for split, documents in corpus.splits.items()}
        corpus = corpus._replace(splits=held)
    known = token_files.counts_of(where, corpus) if where else None
    counts = known or {split: parts.count(of) for split, of in corpus.splits.items()}
    divided = parts.divide(corpus, counts)
    documents = divided.train, divided.all_held_out
    tokenizer = tokenizers.chosen(data.tokenizer, own.tokenizer, *documents)
    notes = corpus.notes
    if where:
        files = token_files.opened(where, corpus, counts, divided, tokenizer, own.tell)
        train, held_out = files.train, files.held_out
        notes += files.notes
    else:
        train, held_out = (
            tokens.in_memory(tokenizer, part, not divided.whole) for part in documents
        )
        if data.token_dir:
            notes += (f"no token files: it fits into config.data.in_memory={data.in_memory} MB",)
    return Opened(
        tokenizer=tokenizer,
        train=train,
        held_out=held_out,
        split=divided.split,
        whole=divided.whole,
        in_memory=where is None,
        texts={split: Whole(documents) for split, documents in divided.held_out.items()},
        notes=(*said(corpus, counts, divided.whole, tokenizer, train, held_out), *notes),
        digest=parts.digest(counts),
    )


def folder(data: Data, corpus: Corpus, own: Own) -> pathlib.Path:
    """Where token files lie; raises DataError where nobody says it."""
    if data.token_dir:
        return pathlib.Path(data.token_dir).expanduser()
    if own.folder is None:
        raise DataError(
            f"{corpus.asked} has {corpus.size / MEGA:.1f} MB, more than config.data.in_memory="
            f"{data.in_memory}; say where its token files may lie by --config.data.token_dir=DIR."
        )
    return own.folder


def said(
    corpus: Corpus,
    counts: Mapping[str, parts.Counts],
    whole: bool,
    tokenizer: Tokenizer,
    train: Tokens,
    held_out: Tokens,
) -> list[str]:
    """What was understood, and what is lost or unknown."""
    unit = tokenizer.name if tokenizer.name in tokenizers.OWN else "tokens"
    sizes = f"{len(train.symbols)}+{len(held_out.symbols)} {unit}"
    notes = [", ".join([*parts.found(corpus, counts, whole), sizes])]
    alone = int(np.sum((held_out.counts > 0) & (train.counts == 0)))
    notes += [f"{alone} symbols are held out alone"] if alone else []
    if "unknown" in tokenizer.specials:
        each = [int(of.counts[tokenizer.specials["unknown"]]) for of in (train, held_out)]
        notes += [f"{each[0]}+{each[1]} of them are unknown"] if any(each) else []
    if tokenizer.name.startswith("bpe:") and tokenizer.name != f"bpe:{tokenizer.size}":
        notes.append(f"{tokenizer.name} found {tokenizer.size} symbols to make, and no more")
    lost = losses(tokenizer)
    notes += [f"the tokenizer does not give back {', '.join(lost)}"] if lost else []
    return notes


# ------------------------------------------------------------------------------- one long text


def of_one_text(data: Data, seed: int, of: Opened) -> Source:
    """Windows of `length` symbols, as int32 [B, length]; training ones start anywhere.

    Raises DataError for a text that is shorter than one.
    """
    text, held, length = of.train.symbols, of.held_out.symbols, data.length
    size, blocks = len(text) - length + 1, len(held) // length
    if size < 1 or blocks < 1:
        raise too_short(data, of)
    starts = lambda step, taken: order(seed, size, data.batch_size, step)[taken]
    offsets = jnp.arange(length)

    def on_device(key: Any, text: Any, starts: Any) -> Batch:
        return {"x": text[starts[:, None] + offsets].astype(jnp.int32)}

    def from_host(key: Any, none: Any, x: Any) -> Batch:
        return {"x": x.astype(jnp.int32)}

    def held_out(key: Any, first: int, last: int) -> Batch:
        x = held[first * length : min(last, blocks) * length].reshape(-1, length)
        return {"x": jnp.asarray(x, jnp.int32)}

    return Source(
        resident=text if of.in_memory else (),
        feed=starts
        if of.in_memory
        else lambda step, taken: rows.windows(text, starts(step, taken), length),
        batch=on_device if of.in_memory else from_host,
        held_out=held_out,
        held_out_split=of.split,
        held_out_size=blocks,
        size=size,
        **shared(data, of, "windows"),
        spaces={"x": categorical(of.tokenizer.size)},
    )


# -------------------------------------------------------------------------- packed documents


def of_documents(data: Data, seed: int, of: Opened) -> Source:
    """Rows of `length` symbols of documents end to end: x, document, loss_mask [B, length].

    Raises DataError for documents that fill no row.
    """
    if data.length < 2:
        raise DataError(
            f"{data.source} has several documents, whose rows begin with the last symbol of the "
            "one before: config.data.length should be at least 2."
        )
    sizes = [len(part.symbols) for part in (of.train, of.held_out)]
    if sizes[0] < data.length or not sizes[1]:
        raise too_short(data, of)
    size, blocks = (rows.count(symbols, data.length) for symbols in sizes)

    def feed(step: int, taken: slice) -> dict[str, np.ndarray]:
        numbers = order(seed, size, data.batch_size, step)[taken]
        return rows.packed(of.train, numbers, data.length)

    def widened(fed: Mapping[str, Any]) -> Batch:
        return {**fed, "x": jnp.asarray(fed["x"], jnp.int32)}

    def held_out(key: Any, first: int, last: int) -> Batch:
        found = rows.packed(of.held_out, np.arange(first, min(last, blocks)), data.length)
        return widened({name: jnp.asarray(array) for name, array in found.items()})

    return Source(
        resident=(),
        feed=feed,
        batch=lambda key, none, fed: widened(fed),
        held_out=held_out,
        held_out_split=of.split,
        held_out_size=blocks,
        size=size,
        **shared(data, of, "packed rows"),
        spaces={
            "x": categorical(of.tokenizer.size),
            "document": categorical(),
            "loss_mask": BINARY,
        },
    )


def shared(data: Data, of: Opened, shape: str) -> dict[str, Any]:
    """What both kinds say of themselves alike."""
    name, size = of.tokenizer.name, of.tokenizer.size
    return {
        "preprocessing": f"{data.source}, {name}, {size} symbols, {shape} of {data.length}",
        "tokenizer": of.tokenizer,
        "texts": of.texts,
        "notes": of.notes,
        "digest": lambda: of.digest,
    }


def too_short(data: Data, of: Opened) -> DataError:
    """The error of a text that fills no row."""
    unit = of.tokenizer.name if of.tokenizer.name in tokenizers.OWN else "tokens"
    return DataError(
        f"{data.source} has {len(of.train.symbols)} + {len(of.held_out.symbols)} {unit}, too few "
        f"for config.data.length={data.length}; choose a shorter one."
    )
