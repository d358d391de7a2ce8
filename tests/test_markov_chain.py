"""Markov chains: against dicts of plain Python, by enumeration, and on strings of known entropy."""

import collections
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_zoo.contract import BINARY, ConfigError, DataError
from genjax_zoo.data.config import Data
from genjax_zoo.data.sources import open_source
from genjax_zoo.models import markov_chain
from genjax_zoo.models.markov_chain import Config

KEY = jax.random.key(0)
V, T = 3, 4
STRINGS = np.array(list(itertools.product(range(V), repeat=T)), np.int32)
RNG = np.random.default_rng(0)
DATA = RNG.choice(V, (12, T), p=[0.7, 0.2, 0.1]).astype(np.int32)
START = "⊥"


def learnt(x=DATA, **fields):
    """(model, state) after one step."""
    model = markov_chain.make(Config(**{"vocabulary": V, **fields}))

    @jax.jit
    def learn(batch):
        return model.step(KEY, model.init(KEY, batch), batch)[0]

    return model, learn({"x": jnp.asarray(x)})


def context_of(string, t, k):
    """The k symbols before place t, or ⊥ and all there are."""
    return tuple(string[t - k : t]) if t >= k else (START, *string[:t])


def counts_of(data, k):
    counts = collections.defaultdict(collections.Counter)
    for string in data.tolist():
        for t, symbol in enumerate(string):
            counts[context_of(string, t, k)][symbol] += 1
    return counts


def additive(data, k, alpha):
    counts = counts_of(data, k)
    return lambda w, u: (counts[u][w] + alpha) / (counts[u].total() + alpha * V)


def kneser_ney(data, k, D, symbols=V):
    """The stupid twin: sets of left symbols, and the formula called again for each shorter context.

    Chen & Goodman 1998, section 4.1.6.
    """
    counts = counts_of(data, k)
    left = collections.defaultdict(lambda: collections.defaultdict(set))
    for string in data.tolist():
        padded = (START, *string)
        for end in range(1, len(padded)):
            for begin in range(1, end + 1):
                left[padded[begin:end]][padded[end]].add(padded[begin - 1])

    def q(w, u):
        return formula({v: len(seen) for v, seen in left[u].items()}, w, u)

    def formula(count, w, u):
        lower = q(w, u[1:]) if u else 1 / symbols
        total = sum(count.values())
        if not total:
            return lower
        return max(count.get(w, 0) - D, 0) / total + D * len(count) / total * lower

    return lambda w, u: formula(counts[u], w, u)


@pytest.mark.parametrize("capacity", [0, 60])
@pytest.mark.parametrize(
    "order", [0, 1, 3, *(pytest.param(k, marks=pytest.mark.slow) for k in (2, 5))]
)
@pytest.mark.parametrize("smoothing", ["additive", "kneser_ney"])
def test_every_string_has_the_probability_that_dicts_say(smoothing, order, capacity):
    fields = {"order": order, "smoothing": smoothing, "alpha": 0.5, "discount": 0.6}
    model, state = learnt(**fields, capacity=capacity)
    twin = {"additive": additive, "kneser_ney": kneser_ney}[smoothing]
    p = twin(DATA, order, {"additive": 0.5, "kneser_ney": 0.6}[smoothing])
    expected = [
        sum(np.log(p(w, context_of(string, t, order))) for t, w in enumerate(string))
        for string in STRINGS.tolist()
    ]
    found = model.log_prob(KEY, state, {"x": STRINGS})
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.exp(np.asarray(found, np.float64)).sum() == pytest.approx(1, abs=1e-5)
    # And so does every context, seen or not, whichever table says it.
    contexts = np.array(list(itertools.product(range(V), repeat=order)), np.int32)
    writes = model.autoregression
    rows, cache = writes.start(state, len(contexts), 9)
    if order:
        after, _ = jax.jit(writes.extend)(state, cache, contexts)
        each = [[p(w, tuple(u)) for w in range(V)] for u in contexts.tolist()]
        np.testing.assert_allclose(np.exp(after[:, -1]), each, rtol=1e-4)
    each = [p(w, context_of((), 0, order)) for w in range(V)]
    np.testing.assert_allclose(np.exp(rows[0]), each, rtol=1e-4)


def test_a_stream_ends_where_one_batch_of_all_does():
    model, at_once = learnt(order=2)
    state = model.init(KEY, {"x": jnp.asarray(DATA[:3])})
    step = jax.jit(model.step)
    for part in np.split(DATA, 4):
        state, info = step(KEY, state, {"x": jnp.asarray(part)})
    jax.tree.map(np.testing.assert_array_equal, state, at_once)
    # What a step says of its batch is from before it has read it.
    assert float(step(KEY, model.init(KEY, {"x": DATA}), {"x": DATA})[1]["nats_per_symbol"]) == (
        pytest.approx(np.log(V))
    )
    assert float(info["nats_per_symbol"]) != pytest.approx(np.log(V))


@pytest.mark.parametrize("smoothing", ["additive", "kneser_ney"])
def test_what_is_read_twice_counts_once(smoothing):
    fields = {"order": 1, "smoothing": smoothing}
    _, once = learnt(**fields)
    _, twice = learnt(np.tile(DATA, (2, 1)), repeats=2.0, **fields)
    np.testing.assert_allclose(once.params.table, twice.params.table, atol=1e-6)


LETTERS = RNG.choice(40, (30, 25), p=np.r_[[0.1] * 5, [0.5 / 35] * 35]).astype(np.int32)


@pytest.mark.parametrize("smoothing", ["additive", "kneser_ney"])
def test_a_sorted_table_says_of_40_letters_what_dicts_do(smoothing):
    """Of order 6: 40^7 strings, each of two words, of which no dense table could be made."""
    fields = {"vocabulary": 40, "order": 6, "smoothing": smoothing, "capacity": 800}
    model, state = learnt(LETTERS, **fields)
    assert len(jax.tree.leaves(state.memory.counts.words)) == 2
    twin = {"additive": additive_of_40, "kneser_ney": kneser_ney_of_40}[smoothing]()
    other = LETTERS[::-1, ::-1]
    for x in (LETTERS[:5], np.concatenate([LETTERS[:5, :12], other[:5, :13]], axis=1)):
        expected = [
            sum(np.log(twin(w, context_of(string, t, 6))) for t, w in enumerate(string))
            for string in x.tolist()
        ]
        np.testing.assert_allclose(model.log_prob(KEY, state, {"x": x}), expected, rtol=1e-5)


def additive_of_40():
    counts = counts_of(LETTERS, 6)
    return lambda w, u: (counts[u][w] + 1) / (counts[u].total() + 40)


def kneser_ney_of_40():
    return kneser_ney(LETTERS, 6, 0.75, symbols=40)


def test_a_stream_fills_a_sorted_table_as_one_batch_does():
    fields = {"order": 3, "capacity": 100}
    model, at_once = learnt(**fields)
    state, step = model.init(KEY, {"x": jnp.asarray(DATA[:3])}), jax.jit(model.step)
    for part in np.split(DATA, 4):
        state, _ = step(KEY, state, {"x": jnp.asarray(part)})
    jax.tree.map(np.testing.assert_array_equal, state, at_once)
    counts = state.memory.counts
    assert int(counts.counts.sum()) == DATA.size and int(counts.left_out) == 0
    _, twice = learnt(np.tile(DATA, (2, 1)), repeats=2.0, **fields)
    # Params count in parts of a reading, and the memory counts what was read.
    alike = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5)
    jax.tree.map(alike, at_once.params.table[-1], twice.params.table[-1])


def test_a_full_table_tells_what_it_left_out():
    model, state = learnt(order=3, capacity=10)
    counts = state.memory.counts
    seen = sum(map(len, counts_of(DATA, 3).values()))
    assert seen > 10 and int(counts.left_out) == DATA.size - int(counts.counts.sum()) > 0
    once = model.log_prob.once(KEY, state)
    assert {"symbols for which the table had no room": counts.left_out} == once.notes
    p = np.exp(np.asarray(model.log_prob(KEY, state, {"x": STRINGS}), np.float64))
    assert p.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("capacity", [0, 100])
def test_documents_of_one_row_are_strings_of_their_own(capacity):
    fields = {"order": 2, "capacity": capacity}
    _, apart = learnt(DATA[:2], **fields)
    row = np.concatenate([DATA[0], DATA[1], [0, 0]])[None]
    document = np.array([[1] * T + [2] * T + [0] * 2], np.int32)
    model = markov_chain.make(Config(vocabulary=V, **fields))
    batch = {"x": jnp.asarray(row), "document": jnp.asarray(document)}
    together = model.step(KEY, model.init(KEY, batch), batch)[0]
    jax.tree.map(np.testing.assert_array_equal, together.params.table, apart.params.table)
    two = model.log_prob(KEY, apart, {"x": DATA[:2]})
    assert float(model.log_prob(KEY, apart, batch)[0]) == pytest.approx(float(two.sum()))
    assert float(model.measures["nats_per_symbol"].per(batch)[0]) == 2 * T
    masked = {"x": DATA[:1], "loss_mask": np.array([[0.0, 1, 1, 1]])}
    first = model.autoregression.start(apart, 1, 1)[0][0, DATA[0, 0]]
    found = model.log_prob(KEY, apart, masked)[0]
    assert float(found) == pytest.approx(float(two[0] - first), abs=1e-5)


def test_strings_are_drawn_as_enumeration_says():
    model, state = learnt(order=2)
    n = 20_000
    x = jax.jit(model.sample, static_argnums=2)(KEY, state, n)["x"]
    share = np.bincount(np.asarray(x) @ V ** np.arange(T - 1, -1, -1), minlength=len(STRINGS)) / n
    p = np.exp(np.asarray(model.log_prob(KEY, state, {"x": STRINGS}), np.float64))
    assert (np.abs(share - p) < 4.5 * np.sqrt(p * (1 - p) / n) + 1e-4).all()
    # After a prompt, as after a context that has been read.
    given = {"x": jnp.array([2, 0, 0, 0]), "mask": jnp.array([1, 1, 0, 0])}
    x = model.sample(KEY, state, n, given)["x"]
    assert (x[:, :2] == jnp.array([2, 0])).all()
    after = np.exp(state.params.table[1 + V + 2 * V + 0])
    np.testing.assert_allclose(np.bincount(x[:, 2], minlength=V) / n, after, atol=0.02)


def test_a_chain_writes_on_beyond_the_length_of_its_data():
    model, state = learnt(order=2)
    writes = model.autoregression
    logits, cache = writes.start(state, 2, 10**6)
    x = jnp.asarray(RNG.choice(V, (2, 3 * T)), jnp.int32)
    every, _ = writes.extend(state, cache, x)
    for t in range(2, 3 * T):
        rows = 1 + V + V * x[:, t - 1] + x[:, t]
        np.testing.assert_array_equal(every[:, t], state.params.table[rows])
    np.testing.assert_array_equal(logits, np.tile(state.params.table[0], (2, 1)))


def test_a_sticky_source_is_learnt_to_its_entropy():
    """H = log V for the first symbol, and that of (5/8, 1/8, 1/8, 1/8) for each of 15 more."""
    source = open_source(Data(source="strings:sticky:4", length=16, batch_size=4000), 0)
    x = source.batch(KEY, (), jnp.zeros(4000))["x"]
    assert x.dtype == jnp.int32 and source.spaces["x"].size == 4
    model, state = learnt(x, vocabulary=4, order=1)
    again = np.exp(np.diag(state.params.table[1:]))
    np.testing.assert_allclose(again, 0.625, atol=0.015)
    held = source.held_out(KEY, 0, 2000)
    measure = model.measures["nats_per_symbol"]
    value, per = measure(KEY, state, held), measure.per(held)
    step = -0.625 * np.log(0.625) - 0.375 * np.log(0.125)
    entropy = (np.log(4) + 15 * step) / 16
    np.testing.assert_array_equal(per, 16)
    assert float(value.sum() / per.sum()) == pytest.approx(entropy, abs=0.01)
    assert measure.unit == "nats/symbol"


@functools.cache
def of_pixels():
    images = RNG.integers(0, 2, (5, 3, 2, 1)).astype(np.float32)
    return images, *learnt(images, vocabulary=0, order=2)


def test_pixels_are_read_row_by_row():
    images, model, state = of_pixels()
    assert model.spaces["x"] == BINARY
    flat, flat_state = learnt(images.reshape(5, 6), vocabulary=0, order=2)
    np.testing.assert_array_equal(
        model.log_prob(KEY, state, {"x": images}),
        flat.log_prob(KEY, flat_state, {"x": images.reshape(5, 6)}),
    )
    turned = model.log_prob(KEY, state, {"x": images[:, ::-1]})
    assert not np.allclose(turned, model.log_prob(KEY, state, {"x": images}))
    drawn = model.sample(KEY, state, 7)["x"]
    assert drawn.shape == (7, 3, 2, 1) and drawn.dtype == jnp.float32


def test_what_is_no_symbol_has_no_probability():
    images, model, state = of_pixels()
    for wrong in (0.5, 2.0, -1.0):
        log_p = model.log_prob(KEY, state, {"x": jnp.asarray(images).at[0, 0, 0, 0].set(wrong)})
        assert np.isneginf(log_p[0]) and np.isfinite(log_p[1:]).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vocabulary": 1}, "vocabulary should be 0 or at least 2, got 1"),
        ({"vocabulary": 65, "order": 4}, r"65\^5 of them are more than"),
        ({"order": -1}, r"order should be in \[0, 24\]"),
        ({"discount": 1.0}, r"discount should be in \(0, 1\)"),
        ({"alpha": 0}, "alpha should be positive"),
        ({"smoothing": "kneser"}, "Did you mean 'kneser_ney'"),
    ],
)
def test_bad_configs_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        Config(**fields)


def test_what_is_no_prompt_is_refused():
    model, state = learnt()
    with pytest.raises(DataError, match=r"counts 0 \.\. 2, .*and 3 is none"):
        model.sample(KEY, state, 2, {"x": np.array([3, 0, 0, 0]), "mask": np.array([1, 0, 0, 0])})
