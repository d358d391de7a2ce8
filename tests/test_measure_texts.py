"""Numbers of texts: against one symbol at a time, by definition; what differs is not compared."""

import dataclasses
import functools
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax_zoo.contract import (
    Autoregression,
    ConfigError,
    Exactness,
    Measure,
    Model,
    ZooError,
)
from genjax_zoo.data.text import tokenizer as tokenizers
from genjax_zoo.measure import scores, texts
from genjax_zoo.measure.results import describe
from genjax_zoo.measure.texts import Reading
from genjax_zoo.models import markov_chain, recurrent
from genjax_zoo.run.record import cards

KEY = jax.random.key(0)
DOCUMENTS = ("in the beginning", "b", "", "god created the\nheaven and the earth", "été")
LETTERS = tokenizers.characters(DOCUMENTS)
V = LETTERS.size
FACTORS = np.linspace(0.5, 3, V)


def toy(longest=None, begin=-1):
    """What comes next depends on all symbols since the window began: c' = c / 2 + x + 1."""

    def start(state, n, length):
        if longest and length > longest:
            raise AssertionError("the window is longer than the model is")
        first = jnp.full(n, 0.3 if begin >= 0 else 0.0)
        return says(first), first

    def says(c):
        return jnp.sin(c[..., None] * jnp.asarray(FACTORS)) * 2

    def extend(state, cache, x):
        def one(c, x):
            c = jnp.where(x >= 0, c / 2 + x + 1, c)
            return c, says(c)

        cache, logits = jax.lax.scan(one, cache, x.T)
        return jnp.swapaxes(logits, 0, 1), cache

    writes = Autoregression(
        start, extend, longest=None if longest is None else lambda state: longest, begin=begin
    )
    exact = Measure(lambda key, state, batch: jnp.zeros(1), Exactness.EXACT)
    return Model(None, None, None, log_prob=exact, autoregression=writes)


def source(documents=DOCUMENTS, tokenizer=LETTERS, **more):
    return types.SimpleNamespace(
        texts={"validation": documents, **more}, tokenizer=tokenizer, name="text:bible",
        preprocessing="text:bible, characters", spaces={},
    )  # fmt: skip


def brute_force(documents, context, stride, joined, first, begin=-1):
    """(nats, symbols) with one reading, from its window's first symbol, of each symbol."""
    strings = [LETTERS.encode(d).tolist() for d in documents]
    if joined:
        strings = [[symbol for string in strings for symbol in string]]
    total = count = 0
    for x in strings:
        for j, symbol in enumerate(x):
            if j == 0 and not first:
                continue
            # The first of all windows that is asked for symbol j.
            k = 0
            while context and j > k * stride + context:
                k += 1
            c = 0.3 if begin >= 0 else 0.0
            for read in x[k * stride : j]:
                c = c / 2 + read + 1
            logits = np.sin(c * FACTORS) * 2
            total += np.log(np.exp(logits).sum()) - logits[symbol]
            count += 1
    return total, count


READINGS = [
    (context, stride, joined, first)
    for context, stride in ((0, 0), (5, 5), (5, 2), (1, 1), (40, 7), (1000, 1000))
    for joined, first in ((True, True), (False, True), (False, False))
]


@pytest.mark.parametrize(("context", "stride", "joined", "first"), READINGS)
def test_every_symbol_counts_once_told_from_its_window(context, stride, joined, first, monkeypatch):
    # Windows in several calls, and long ones in several pieces.
    monkeypatch.setattr(texts, "CHUNK", 16)
    monkeypatch.setattr(texts, "NUMBERS", 5 * 16 * V)
    reading = Reading(context, stride, not joined, first)
    found = {r.name: r for r in texts.evaluate(MODEL, (), source(), reading, 3)}
    nats, count = brute_force(DOCUMENTS, context, stride, joined, first)
    whole = "".join(DOCUMENTS)
    size, words = len(whole.encode()), sum(len(d.split()) for d in DOCUMENTS)
    assert tuple(found) == texts.NAMES
    assert found["text_nats_per_token"].value == pytest.approx(nats / count, rel=1e-6)
    assert found["bits_per_byte"].value == pytest.approx(nats / size / math.log(2), rel=1e-6)
    for unit, amount in (("token", count), ("word", words), ("byte", size)):
        one = found[f"perplexity_by_{unit}"]
        assert one.value == pytest.approx(math.exp(nats / amount), rel=1e-5)
        assert one.per == amount
    assert {r.kind for r in found.values()} == {"exact"}
    assert found["text_nats_per_token"].per == count


MODEL = toy()


def test_strides_tell_more_and_windows_less():
    """Reading again what was read before tells each symbol from no less."""
    value = lambda *how: next(texts.evaluate(MODEL, (), source(), Reading(*how), 0)).protocol
    assert value(5)["stride"] == 5
    assert value(5, 2)["stride"] == 2
    all_windows = texts.windows([11], Reading(5, 2))
    told = [j for w in all_windows for j in range(max(w.counts, w.first), w.last + 1)]
    assert told == list(range(11))
    # Each but those of the first window from at least context - stride + 1 symbols.
    assert all(w.counts - w.first >= 4 for w in all_windows[1:])


def test_of_a_stride_as_long_as_the_context_are_the_rows_that_are_learnt_from():
    """Rows of context + 1 symbols, whose first one the row before has told."""
    config = recurrent.Config(output="categorical", vocabulary=V, width=5)
    model = recurrent.make(config, optax.sgd(0.1))
    x = LETTERS.encode("".join(DOCUMENTS))
    x = x[: 1 + 8 * ((len(x) - 1) // 8)]
    state = jax.jit(model.init)(KEY, {"x": x[None]})
    rows = np.stack([x[8 * k : 8 * k + 9] for k in range(len(x) // 8)])
    mask = np.ones(rows.shape)
    mask[1:, 0] = 0
    log_p = jax.jit(model.log_prob)(KEY, state, {"x": rows, "loss_mask": jnp.asarray(mask)})
    text = source((LETTERS.decode(x),))
    found = next(texts.evaluate(model, state, text, Reading(8), 0))
    assert found.value == pytest.approx(-float(log_p.sum()) / len(x), rel=1e-5)
    # All that came before is one row.
    whole = next(texts.evaluate(model, state, text, Reading(), 0))
    log_p = jax.jit(model.log_prob)(KEY, state, {"x": x[None]})
    assert whole.value == pytest.approx(-float(log_p[0]) / len(x), rel=1e-5)
    assert whole.value != pytest.approx(found.value, rel=1e-4)


def test_a_markov_chain_is_measured_as_it_counts():
    model = markov_chain.make(markov_chain.Config(vocabulary=V, order=1, smoothing="additive"))
    x = LETTERS.encode("".join(DOCUMENTS))
    batch = {"x": jnp.asarray(x[None])}
    state = jax.jit(lambda: model.step(KEY, model.init(KEY, batch), batch)[0])()
    pairs = np.ones((V, V))
    np.add.at(pairs, (x[:-1], x[1:]), 1)
    p = (pairs / pairs.sum(1, keepdims=True))[x[:-1], x[1:]]
    found = next(texts.evaluate(model, state, source(), Reading(first=False), 0))
    assert found.value == pytest.approx(-np.log(p).mean(), rel=1e-5)


def test_the_error_is_that_of_windows():
    (found,) = texts.evaluate(MODEL, (), source(), Reading(5), 0, ("text_nats_per_token",))
    nats, tokens = texts.code_lengths(
        MODEL.autoregression, (), [LETTERS.encode("".join(DOCUMENTS))], Reading(5, 5)
    )
    r = nats.sum() / tokens.sum()
    expected = (nats - r * tokens).std(ddof=1) / math.sqrt(len(nats)) / tokens.mean()
    assert found.standard_error == pytest.approx(expected, rel=1e-6)
    assert found.n == len(nats)
    (bits,) = texts.evaluate(MODEL, (), source(), Reading(5), 0, ("perplexity_by_token",))
    assert bits.standard_error == pytest.approx(math.exp(r) * expected, rel=1e-5)


# ------------------------------------------------------------------------- protocols, refusals


def number(name="text_nats_per_token", tokenizer=LETTERS, model=MODEL, **reading):
    of = source(tokenizer=tokenizer)
    return next(texts.evaluate(model, (), of, Reading(**reading), 0, (name,)))


BYTES = tokenizers.of_bytes()


@functools.cache
def of_bytes():
    """The same numbers, by another tokenizer: of a model that knows 256 symbols."""
    uniform = Autoregression(
        lambda state, n, length: (jnp.zeros((n, 256)), jnp.zeros(n)),
        lambda state, cache, x: (jnp.zeros((*x.shape, 256)), cache),
    )
    return toy()._replace(autoregression=uniform)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"context": 6}, "context: 5 and 6"),
        ({"context": 5, "stride": 2}, "stride: 5 and 2"),
        ({"context": 5, "documents": True}, "strings: 'joined' and 'by document'"),
        ({"context": 5, "first": False}, "first: 'counted' and 'not counted'"),
        ({"context": 5, "model": toy(begin=0)}, "begin: False and True"),
        (
            {"context": 5, "name": "bits_per_byte"},
            "name: 'text_nats_per_token' and 'bits_per_byte'",
        ),
    ],
)
def test_numbers_of_another_protocol_are_not_compared(other, named):
    first = number(context=5)
    with pytest.raises(ZooError, match="cannot be compared") as refused:
        scores.compare(first, number(**other))
    assert named in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_text_that_has_changed_under_its_name_is_another():
    was, now = (
        next(texts.evaluate(MODEL, (), source(of), Reading(5), 0, ("bits_per_byte",)))
        for of in (DOCUMENTS, ("in the ", "beginning", *DOCUMENTS[1:]))
    )
    assert was.value == now.value
    with pytest.raises(ZooError, match="They differ in sha256: "):
        scores.compare(was, now)


def test_other_tokens_compare_by_the_byte_alone():
    """Uniform over 256 bytes: 8 bits each."""
    mine, others = (
        {name: number(name, context=5, **how) for name in texts.NAMES}
        for how in ({}, {"tokenizer": BYTES, "model": of_bytes()})
    )
    assert others["bits_per_byte"].value == pytest.approx(8)
    for name in ("bits_per_byte", "perplexity_by_word", "perplexity_by_byte"):
        gap = scores.compare(mine[name], others[name])
        assert gap.value == pytest.approx(mine[name].value - others[name].value)
        assert gap.low < gap.value < gap.high
    for name in ("text_nats_per_token", "perplexity_by_token"):
        with pytest.raises(ZooError, match="tokenizer: "):
            scores.compare(mine[name], others[name])


def test_what_a_tokenizer_loses_is_said_and_compared_with_nothing():
    """Without capitals a text is shorter to tell, and is not the text."""
    small = tokenizers.characters(["abcdefgh "])
    deaf = dataclasses.replace(
        small, encode=lambda text, unknown=False: small.encode(text.lower(), unknown)
    )
    mine, own = (
        {name: next(texts.evaluate(MODEL, (), source(("A bad Egg",), by), Reading(5), 0, (name,)))
         for name in texts.NAMES}
        for by in (deaf, tokenizers.characters(["A bad Egg"]))
    )  # fmt: skip
    for name, number in mine.items():
        by_token = number.unit.endswith("token")
        assert ("its symbols lose some" in number.detail) is not by_token
        assert (number.protocol["tokenizer"] == "any") is False
        assert "lose" not in own[name].detail
    with pytest.raises(ZooError, match="tokenizer: "):
        scores.compare(mine["bits_per_byte"], own["bits_per_byte"])
    # The end of a document is no part of its text.
    ending = dataclasses.replace(LETTERS, specials={"end": 0})
    packed = source(tokenizer=ending)
    packed.spaces = {"document": None}
    (number,) = texts.evaluate(MODEL, (), packed, Reading(5), 0, ("bits_per_byte",))
    assert number.protocol["tokenizer"] == "any"


def test_what_cannot_be_read_is_refused():
    with pytest.raises(ConfigError, match=r"stride should be 1 \.\. 5, got 6 for a context of 5"):
        number(context=5, stride=6)
    with pytest.raises(ConfigError, match=r"context should be 1 \.\. 8, got 9"):
        number(model=toy(longest=9), context=9)
    with pytest.raises(ConfigError, match=r"context should be 1 \.\. 8, got 0 \(all\)"):
        number(model=toy(longest=9))
    assert number(model=toy(longest=9), context=8).value == number(context=8).value
    # As it was learnt from: rows of 33 symbols, of which the last is not read.
    assert texts.usual(MODEL, (), source(), 33).context == 32
    assert texts.usual(toy(longest=9), (), source(), 33).context == 8
    packed = source()
    packed.spaces = {"document": None}
    assert texts.usual(MODEL, (), packed, 33).documents
    assert texts.applicable(MODEL, source())
    assert not texts.applicable(MODEL._replace(autoregression=None), source())


def test_a_number_says_how_the_text_was_read():
    one = number("bits_per_byte", context=5)
    said = " ".join(describe(one).split())
    assert "bits/byte, joined, context 5, stride 5, first symbol counted, tokenizer characters" in (
        said
    )
    assert f"of {len(''.join(DOCUMENTS).encode())} bytes" in said
    # On the page, another protocol is another card, with nothing "before".
    entries = [r._asdict() for r in (one, number("bits_per_byte", context=6))]
    page = str(cards.cards(entries))
    assert page.count("bits per byte") == 2
    assert "Before" not in page
    again = [one._replace(step=0)._asdict(), one._asdict()]
    assert "Before" in str(cards.cards(again))


def test_documents_that_were_learnt_to_end_are_told_to_the_end():
    """Of packed documents the end counts as a token; it has no bytes. A long text has none."""
    ending = dataclasses.replace(LETTERS, specials={"end": 0})
    of = source(tokenizer=ending)
    (long,) = texts.evaluate(MODEL, (), of, Reading(5), 0, ("text_nats_per_token",))
    of.spaces = {"document": None}
    packed = {r.name: r for r in texts.evaluate(MODEL, (), of, Reading(5, documents=True), 0)}
    size = len("".join(DOCUMENTS))
    assert long.per == size
    assert packed["text_nats_per_token"].per == size + len(DOCUMENTS)
    assert packed["bits_per_byte"].per == len("".join(DOCUMENTS).encode())


def test_each_split_has_its_own():
    of = source(test=("the end",))
    found = list(texts.evaluate(MODEL, (), of, Reading(5), 0, ("bits_per_byte",)))
    assert [r.split for r in found] == ["validation", "test"]
    assert found[1].per == 7
