"""Decoding: exact numbers of each rule, and every algorithm against enumeration.

The models are small enough to enumerate: a table of what follows each prefix (tabular_policy), and
one whose cache counts what it has read, as caches of networks do, and looks back at its window.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax_zoo.contract import Autoregression, ConfigError, DataError
from genjax_zoo.learn.state import TrainState
from genjax_zoo.maths.sequences import beam, decoding, speculative, warping
from genjax_zoo.maths.sequences.speculative import Writer
from genjax_zoo.maths.sequences.warping import Decoding
from genjax_zoo.models import tabular_policy

KEY = jax.random.key(0)
V, T = 3, 4
STRINGS = np.array(list(itertools.product(range(V), repeat=T)), np.int32)

_policy = tabular_policy.make(tabular_policy.Config(vocabulary=V, length=T), optax.sgd(0.0))
TABLE = _policy.autoregression
LONG = 24


def table(seed):
    """A policy of random logits."""
    logits = 1.5 * jax.random.normal(jax.random.key(seed), ((V**T - 1) // (V - 1), V))
    return TrainState(tabular_policy.Params(logits))


def clock(rewinds=True, window=None):
    """p(x_t | x_<t) of t and the symbol before, of states [LONG + 1, V + 1, V].

    Its cache counts string by string. With a window it holds the last so many symbols in a ring,
    and tells of the symbol before by looking there.
    """

    def start(state, n, length, given=None):
        ring = jnp.full((n, window or 1), -1, jnp.int32)
        return jnp.broadcast_to(state[0, V], (n, V)), (jnp.zeros(n, jnp.int32), ring)

    def extend(state, cache, x):
        def one(cache, x):
            (count, ring), rows = cache, jnp.arange(len(x))
            at = jnp.where(x < 0, ring.shape[1], count % ring.shape[1])
            ring = ring.at[rows, at].set(x, mode="drop")
            count += x >= 0
            before = ring[rows, (count - 1) % ring.shape[1]]
            # After padding come any numbers, and here they are the worst.
            logits = jnp.where((x < 0)[:, None], jnp.nan, state[count, before])
            return (count, ring), logits

        cache, logits = jax.lax.scan(one, cache, x.T)
        return jnp.swapaxes(logits, 0, 1), cache

    def rewind(cache, count):
        return cache[0] - count, cache[1]

    return Autoregression(start, extend, rewind if rewinds else None)


CLOCK = clock(rewinds=False)
ROLLS = clock(window=LONG)
"""The same with room for all, which can roll back."""
CLOCK_STATE = 1.5 * jax.random.normal(jax.random.key(7), (LONG + 1, V + 1, V))


def constant(p):
    """(writes, state) of independent symbols."""
    start = lambda state, n, length, given=None: (jnp.broadcast_to(state, (n, len(p))), ())
    extend = lambda state, cache, x: (jnp.broadcast_to(state, (*x.shape, len(p))), ())
    return Writer(Autoregression(start, extend), jnp.log(jnp.array(p)))


# ------------------------------------------------------------------------------------ the rules

P = jnp.array([0.5, 0.2, 0.15, 0.1, 0.05])
UNSEEN = jnp.zeros(5, bool)


def warped(seen=UNSEEN, logits=None, **rules):
    logits = jnp.log(P) if logits is None else logits
    return np.asarray(jax.nn.softmax(warping.warp(Decoding(**rules), logits, seen)))


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({}, [0.5, 0.2, 0.15, 0.1, 0.05]),
        ({"temperature": 0.5}, [0.7692, 0.1231, 0.0692, 0.0308, 0.0077]),
        ({"top_p": 0.75}, [0.5882, 0.2353, 0.1765, 0, 0]),
        ({"top_p": 0.7}, [0.7143, 0.2857, 0, 0, 0]),
        ({"min_p": 0.25}, [0.5882, 0.2353, 0.1765, 0, 0]),
        ({"min_p": 0.2}, [0.5263, 0.2105, 0.1579, 0.1053, 0]),
        ({"top_k": 2}, [0.7143, 0.2857, 0, 0, 0]),
        ({"temperature": 0}, [1, 0, 0, 0, 0]),
        ({"temperature": 0, "top_p": 0.1, "top_k": 3}, [1, 0, 0, 0, 0]),
        # In this order, and not the nucleus first, which would keep two.
        ({"temperature": 2, "top_p": 0.7}, [0.4587, 0.2901, 0.2512, 0, 0]),
        # The nucleus is one of what top-k has left: .5 of .7 is more than .7.
        ({"top_k": 2, "top_p": 0.7}, [1, 0, 0, 0, 0]),
        ({"top_p": 1e-9}, [1, 0, 0, 0, 0]),
        ({"min_p": 1.0}, [1, 0, 0, 0, 0]),
        ({"top_k": 99}, [0.5, 0.2, 0.15, 0.1, 0.05]),
    ],
)
def test_exact_numbers_of_the_rules(rules, expected):
    np.testing.assert_allclose(warped(**rules), expected, atol=5e-5)
    # Wherever a symbol stands in the vocabulary.
    order = np.array([3, 0, 4, 2, 1])
    np.testing.assert_allclose(
        warped(logits=jnp.log(P)[order], **rules), np.array(expected)[order], atol=5e-5
    )


def test_of_equal_symbols_the_first_stay():
    np.testing.assert_allclose(warped(logits=jnp.zeros(5), top_k=2), [0.5, 0.5, 0, 0, 0])
    np.testing.assert_allclose(warped(logits=jnp.zeros(5), temperature=0), [1, 0, 0, 0, 0])


def test_repetition_penalty_divides_what_is_positive_and_multiplies_what_is_negative():
    logits, seen = jnp.array([2.0, -2.0, 0.0, 1.0]), jnp.array([True, True, True, False])
    np.testing.assert_allclose(warping.penalise(logits, seen, 2.0), [1, -4, 0, 1])
    np.testing.assert_array_equal(warping.penalise(logits, seen, 1.0), logits)


def test_a_repeated_symbol_is_penalised_once_and_not_once_an_occurrence():
    model = constant([0.3, 0.7])
    rules = Decoding(repetition_penalty=2.0)
    log_rules = [
        decoding.write(KEY, *model, 1, 1, rules, jnp.array([prompt])).log_rule[0, 0]
        for prompt in ([0], [0, 0, 0])
    ]
    # Both logits are negative, log .3 and log .7; that of 0 is doubled.
    p = np.array([0.09, 0.7]) / 0.79
    assert float(log_rules[0]) == float(log_rules[1])
    assert np.abs(np.log(p) - float(log_rules[0])).min() < 1e-5


def test_symbols_that_there_are_not_are_never_written():
    logits = jnp.array([0.5, -1.0, 3.0, 2.0, 1.0])
    nothing = jnp.zeros(5, bool)
    # Those of `stop` are none of the tokenizer's and end a text.
    left = warping.warp(Decoding(symbols=2, stop=(4,)), logits, nothing)
    assert left.tolist() == [0.5, -1.0, -np.inf, -np.inf, 1.0]
    assert warping.warp(Decoding(temperature=0, symbols=2), logits, nothing)[0] == 0.5


@pytest.mark.parametrize("temperature", [1e-3, 1e-29, 1e-38, 1e-45])
def test_a_cold_rule_is_the_greedy_one(temperature):
    logits = jnp.array([[-7.0, 3.0, 30.0, 2.0], [-7.0, -3.0, -30.0, -5.0]])
    left = warping.warp(Decoding(temperature=temperature), logits, jnp.zeros((2, 4), bool))
    np.testing.assert_allclose(jax.nn.softmax(left), np.eye(4)[[2, 1]], atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"top_p": 0.0}, r"top_p should be in \(0, 1\], got 0.0"),
        ({"top_p": 1.5}, r"top_p should be in \(0, 1\]"),
        ({"temperature": -1}, "temperature should be not negative, got -1"),
        ({"temperature": float("nan")}, "temperature should be not negative"),
        ({"top_k": -1}, "top_k should be not negative"),
        ({"min_p": 1.1}, r"min_p should be in \[0, 1\]"),
        ({"repetition_penalty": 0}, r"repetition_penalty should be in \[1e-06, "),
        ({"stop": (-1,)}, "stop should be not negative"),
    ],
)
def test_bad_rules_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        Decoding(**fields)


# ---------------------------------------------------------------------------------- the writing


def reread(key, model, state, n, length, rules, prompt):
    """The stupid twin: everything is read again for each symbol, without any cache."""
    x, log_p = prompt, []
    for t in range(length):
        logits, cache = model.start(state, n, prompt.shape[1] + length)
        if x.shape[1]:
            logits = model.extend(state, cache, x)[0][:, -1]
        seen = jnp.array([[v in row for v in range(V)] for row in np.asarray(x)])
        of = jax.nn.log_softmax(warping.warp(rules, logits, seen))
        new = jax.random.categorical(jax.random.fold_in(key, t), of)
        log_p.append(jax.nn.log_softmax(logits)[jnp.arange(n), new])
        x = jnp.concatenate([x, new[:, None].astype(jnp.int32)], axis=1)
    return x[:, prompt.shape[1] :], jnp.stack(log_p, axis=1)


@pytest.mark.parametrize(
    "rules", [Decoding(temperature=0), Decoding(1.7, 0.8, 2)], ids=["greedy", "drawn"]
)
def test_with_a_cache_the_same_is_written_as_without(rules):
    prompt = jax.random.randint(KEY, (5, 3), 0, V)
    written = decoding.write(KEY, CLOCK, CLOCK_STATE, 5, 6, rules, prompt)
    x, log_p = reread(KEY, CLOCK, CLOCK_STATE, 5, 6, rules, prompt)
    np.testing.assert_array_equal(written.x, x)
    np.testing.assert_allclose(written.log_prob, log_p, atol=1e-5)
    assert bool(written.mask.all())
    assert rules.temperature or not written.log_rule.any()


def enumerated(state, **rules):
    """The probability of each of STRINGS under the rules: by reading all of them."""
    logits, cache = TABLE.start(state, len(STRINGS), T)
    after, _ = TABLE.extend(state, cache, STRINGS)
    logits = jnp.concatenate([logits[:, None], after[:, :-1]], axis=1)
    log_p = jax.nn.log_softmax(warping.warp(Decoding(**rules), logits, jnp.zeros(V, bool)))
    each = jnp.take_along_axis(log_p, STRINGS[..., None], axis=-1)[..., 0]
    return np.exp(np.asarray(each.sum(1), np.float64))


def shares(x):
    number = np.asarray(x) @ V ** np.arange(T - 1, -1, -1)
    return np.bincount(number, minlength=len(STRINGS)) / len(x)


def check_drawn(x, p):
    n = len(x)
    assert p.sum() == pytest.approx(1, abs=1e-5)
    assert (np.abs(shares(x) - p) < 4.5 * np.sqrt(p * (1 - p) / n) + 1e-4).all()


def test_strings_are_drawn_as_enumeration_says():
    state, rules = table(1), {"temperature": 0.7, "top_p": 0.9}
    written = jax.jit(lambda key: decoding.write(key, TABLE, state, 20_000, T, Decoding(**rules)))(
        KEY
    )
    p = enumerated(state, **rules)
    check_drawn(written.x, p)
    number = np.asarray(written.x) @ V ** np.arange(T - 1, -1, -1)
    np.testing.assert_allclose(np.exp(written.log_rule.sum(1)), p[number], rtol=1e-4)
    plain = _policy.log_prob(KEY, state, {"x": written.x})
    np.testing.assert_allclose(written.log_prob.sum(1), plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right", "between"])
def test_prompts_of_different_lengths_are_gone_on_with_as_each_alone(side):
    """Places are counted string by string: padding, whatever it says below 0, is not read."""
    lengths, P = np.array([4, 0, 2]), 4
    x = np.asarray(jax.random.randint(KEY, (3, P), 0, V))
    i, first = np.arange(P), lengths[:, None]
    mask = {"left": i >= P - first, "right": i < first, "between": (i % 2 == 0) | (first == 4)}[
        side
    ]
    mask &= first > 0
    rules = Decoding(temperature=0)
    padded = jnp.asarray(np.where(mask, x, [[-9], [-1], [-2]]))
    write = jax.jit(
        lambda prompt: decoding.write(KEY, CLOCK, CLOCK_STATE, len(prompt), 5, rules, prompt)
    )
    written = write(padded)
    assert np.isfinite(written.log_prob).all()
    for row in range(3):
        alone = write(jnp.asarray(x[row : row + 1, mask[row]]))
        np.testing.assert_array_equal(written.x[row], alone.x[0])
        np.testing.assert_allclose(written.log_prob[row], alone.log_prob[0], atol=1e-6)


def test_in_parts_the_same_is_written_as_at_once():
    """... with room for no more than is read, of which the last symbol is none."""
    rules, prompt = Decoding(stop=(1,)), jnp.array([[0, 1], [-1, 2], [-1, -1]])
    whole = decoding.write(KEY, CLOCK, CLOCK_STATE, 3, 6, rules, prompt)
    writing = decoding.begin(CLOCK, CLOCK_STATE, 3, 6, prompt, room=7)
    on = jax.jit(lambda w, until: decoding.go_on(KEY, CLOCK, CLOCK_STATE, w, until, rules))
    for until in (1, 1, 4, 99):
        writing = on(writing, until)
        assert int(writing.t) == min(until, 6) or bool(writing.done.all())
    jax.tree.map(np.testing.assert_array_equal, writing.written, whole)


def test_nothing_is_written_after_a_stop_symbol():
    rules = Decoding(stop=(1,))
    written = decoding.write(KEY, CLOCK, CLOCK_STATE, 50, LONG, rules)
    x, mask = np.asarray(written.x), np.asarray(written.mask)
    free = decoding.write(KEY, CLOCK, CLOCK_STATE, 50, LONG)
    for row in range(50):
        (ends,) = np.nonzero(x[row] == 1)
        size = ends[0] + 1 if len(ends) else LONG
        np.testing.assert_array_equal(mask[row], np.arange(LONG) < size)
        np.testing.assert_array_equal(x[row, :size], free.x[row, :size])
    for array in (x, written.log_prob, written.log_rule):
        assert not np.asarray(array)[~mask].any()


def test_it_ends_where_all_strings_have_ended():
    """A million symbols would take hours."""
    sure = constant([1e-9, 1 - 1e-9])
    calls = lambda length: decoding.write(KEY, *sure, 3, length, Decoding(stop=(1,)))
    assert calls(10**6).mask.sum() == 3


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (jnp.zeros((3, 2), jnp.int32), r"\[2, P\] symbols.*got \[3, 2\]"),
        (jnp.zeros(2, jnp.int32), r"\[2, P\] symbols.*got \[2\]"),
        (jnp.full((2, 1), V), r"symbols 0 \.\. 2, and 3 is none"),
        (jnp.full((2, T + 1), 0), r"length should be 1 \.\. 4, got 5"),
    ],
)
def test_bad_prompts_are_refused(prompt, message):
    with pytest.raises(DataError, match=message):
        decoding.write(KEY, TABLE, table(0), 2, 1, prompt=prompt)


def test_what_is_given_is_told_to_the_model():
    start = lambda state, n, length, given: (jnp.log(given["label"]), CLOCK.start(state, n, 1)[1])
    labels = jax.nn.softmax(jax.random.normal(KEY, (2, V)))
    begun = decoding.begin(CLOCK._replace(start=start), CLOCK_STATE, 2, 3, given={"label": labels})
    np.testing.assert_allclose(begun.reading.logits, jnp.log(labels))


# ----------------------------------------------------------------------------------------- beam


@pytest.mark.parametrize("width", [1, 2, V ** (T - 1), V**T])
def test_a_beam_of_one_is_greedy_and_of_all_finds_the_best(width):
    for seed in range(3):
        state, log_p = table(seed), np.log(enumerated(table(seed)))
        found = jitted_search(state, width)
        greedy = jitted_greedy(state)
        value = dict(zip(map(tuple, STRINGS.tolist()), log_p, strict=True))
        for x, score in zip(found.x[0].tolist(), found.log_prob[0], strict=True):
            assert value[tuple(x)] == pytest.approx(float(score), abs=1e-4)
        if width == 1:
            np.testing.assert_array_equal(found.x[0, 0], greedy.x[0])
        if width >= V ** (T - 1):
            np.testing.assert_array_equal(found.x[0, 0], STRINGS[log_p.argmax()])
        if width == V**T:
            np.testing.assert_array_equal(found.x[0], STRINGS[np.argsort(-log_p, kind="stable")])


@functools.partial(jax.jit, static_argnums=1)
def jitted_search(state, width):
    return beam.search(TABLE, state, 1, T, width)


@jax.jit
def jitted_greedy(state):
    return decoding.write(KEY, TABLE, state, 1, T, Decoding(temperature=0))


@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_a_beam_with_a_stop_symbol_finds_the_best_of_all_that_end(exponent):
    """Of both prompts, by enumeration of what can be written after each, ended or not."""
    length, stop = 3, 2
    prompts = jnp.array([[0, 1], [-1, 0]])
    width = V**length
    found = beam.search(*(CLOCK, CLOCK_STATE, 2, length, width, (stop,), exponent), prompts)
    log_table = np.asarray(jax.nn.log_softmax(CLOCK_STATE))
    for row, prompt in enumerate([[0, 1], [0]]):
        every = {}
        for string in itertools.product(range(V), repeat=length):
            size = string.index(stop) + 1 if stop in string else length
            read = [*prompt, *string[:size]]
            places = range(len(prompt), len(read))
            log_p = sum(log_table[t, read[t - 1], read[t]] for t in places)
            every[string[:size]] = (log_p / size**exponent, log_p)
        best = sorted(every, key=lambda s: -every[s][0])
        for x, there, score, log_p, string in zip(
            found.x[row], found.mask[row], found.score[row], found.log_prob[row], best, strict=False
        ):
            assert tuple(np.asarray(x)[np.asarray(there)].tolist()) == string
            np.testing.assert_allclose([score, log_p], every[string], rtol=1e-4)
        # There are no more, and the beam says so.
        assert np.isneginf(found.log_prob[row, len(best) :]).all()


def test_a_beam_without_width_is_refused():
    with pytest.raises(DataError, match="width of a beam should be 1 or more, got 0"):
        beam.search(TABLE, table(0), 1, T, 0)


# ---------------------------------------------------------------------------------- speculation

TARGET, UNIFORM = jnp.array([0.5, 0.3, 0.15, 0.05]), jnp.full(4, 0.25)


def test_exact_numbers_of_speculation():
    a = float(speculative.acceptance(TARGET, UNIFORM))
    assert a == pytest.approx(0.7)
    assert a == pytest.approx(1 - float(jnp.abs(TARGET - UNIFORM).sum()) / 2)
    np.testing.assert_allclose(
        speculative.residual(TARGET, UNIFORM), [5 / 6, 1 / 6, 0, 0], atol=1e-6
    )
    assert speculative.symbols_a_round(0.7, 4) == pytest.approx(2.7731, abs=5e-5)
    assert speculative.symbols_a_round(1.0, 4) == 5
    np.testing.assert_array_equal(speculative.residual(TARGET, TARGET), TARGET)
    # Accepted and corrected together are the target.
    accepted = UNIFORM * jnp.minimum(1, TARGET / UNIFORM)
    both = accepted + (1 - a) * speculative.residual(TARGET, UNIFORM)
    np.testing.assert_allclose(both, TARGET, atol=1e-6)


def test_so_many_symbols_come_of_a_round():
    """2.7731 in the mean; 4000 symbols are some 1440 rounds, whose counts deviate by 1.6."""
    found = jax.jit(
        lambda key: speculative.write(key, constant(TARGET), constant(UNIFORM), 1, 4000, 4)
    )(KEY)
    assert 4000 / int(found.rounds) == pytest.approx(2.7731, abs=4 * 1.6 / 1440**0.5)
    share = np.bincount(np.asarray(found.written.x[0]), minlength=4) / 4000
    np.testing.assert_allclose(share, TARGET, atol=4 * 0.5 / 4000**0.5)


@pytest.mark.parametrize("rewinds", [True, False])
def test_whatever_the_draft_the_target_writes(rewinds):
    """All strings by enumeration; of two that go each its own way the second one."""
    writes = TABLE if rewinds else TABLE._replace(rewind=None)
    target, draft, rules = Writer(writes, table(1)), Writer(writes, table(2)), {"temperature": 0.8}
    one = lambda key: speculative.write(key, target, draft, 2, T, 2, Decoding(**rules))
    found = jax.jit(jax.vmap(one))(jax.random.split(KEY, 20_000))
    p = enumerated(table(1), **rules)
    x = found.written.x[:, 1]
    check_drawn(x, p)
    assert bool(found.written.mask.all())
    number = np.asarray(x) @ V ** np.arange(T - 1, -1, -1)
    np.testing.assert_allclose(np.exp(found.written.log_rule[:, 1].sum(1)), p[number], rtol=1e-4)
    # And the two are written independently of one another.
    first = np.asarray(found.written.x[:, 0, 0])
    both = np.histogram2d(first, np.asarray(x[:, 0]), bins=V)[0] / len(x)
    np.testing.assert_allclose(both, np.outer(both.sum(1), both.sum(0)), atol=0.015)


def test_who_can_rewind_reads_once_a_round_and_who_cannot_twice():
    """Counted where a round is traced; strings of one batch have different numbers of symbols."""
    calls = []

    def told(name, writes):
        def extend(*args):
            calls.append(name)
            return writes.extend(*args)

        return writes._replace(extend=extend)

    for writes, times in ((ROLLS, 1), (CLOCK, 2)):
        target = Writer(told("target", writes), CLOCK_STATE)
        draft = Writer(told("draft", writes), CLOCK_STATE + 1.0)
        begun = speculative.begin(target, draft, 2, 9)
        calls.clear()
        jax.make_jaxpr(lambda s, p=target, q=draft: speculative.go_on(KEY, p, q, s, 9, 3))(begun)
        # A draft's scan is traced once, after its first symbol.
        assert calls.count("target") == times
        assert calls.count("draft") == times + 1


def test_each_string_goes_its_own_way():
    """Three symbols a round where the draft is right, as it is from place 12 on, else one."""
    right = jnp.log(jnp.eye(V)[jnp.array([1, 2, 0])] + 1e-9)
    shifted = jnp.roll(right, 1, axis=1)
    follow = lambda logits: jnp.tile(jnp.pad(logits, ((0, 1), (0, 0))), (LONG + 1, 1, 1))
    mixed = follow(right).at[: LONG // 2].set(follow(shifted)[: LONG // 2])
    target, draft = Writer(ROLLS, follow(right)), Writer(ROLLS, mixed)
    prompt = jnp.full((2, LONG - 9), -1).at[:, -1].set(0).at[1].set(jnp.arange(LONG - 9) % V)
    on = jax.jit(lambda s, until: speculative.go_on(KEY, target, draft, s, until, 2))
    after = on(speculative.begin(target, draft, 2, 9, prompt), 1)
    np.testing.assert_array_equal(after.t, [1, 3])
    done = on(after, 9)
    np.testing.assert_array_equal(done.written.x[0], jnp.arange(1, 10) % V)
    np.testing.assert_array_equal(done.written.x[1], (prompt[1, -1] + jnp.arange(1, 10)) % V)


def test_a_window_that_evicts_is_read_again():
    """Rejected symbols have overwritten what a length alone cannot bring back: so it says None."""
    window = 3
    ring = clock(window=window)

    def extend(state, cache, x):
        """What follows the oldest symbol of the window."""

        def one(cache, x):
            _, cache = ring.extend(state, cache, x[:, None])
            oldest = jnp.maximum(cache[0] - window, 0) % window
            return cache, state[cache[0], cache[1][jnp.arange(len(x)), oldest]]

        cache, logits = jax.lax.scan(one, cache, x.T)
        return jnp.swapaxes(logits, 0, 1), cache

    rules, length = Decoding(temperature=0), 12
    wrong = CLOCK_STATE + jax.random.normal(KEY, CLOCK_STATE.shape)

    def found(rewind):
        pair = (
            Writer(ring._replace(extend=extend, rewind=rewind), s) for s in (CLOCK_STATE, wrong)
        )
        return jax.jit(lambda: speculative.write(KEY, *pair, 3, length, 4, rules))()

    evicts = ring._replace(extend=extend, rewind=None)
    alone = jax.jit(lambda: decoding.write(KEY, evicts, CLOCK_STATE, 3, length, rules))()
    again = found(rewind=None)
    np.testing.assert_array_equal(again.written.x, alone.x)
    assert length / 5 < int(again.rounds) < length
    # Turned back by a length alone, as if nothing had been evicted, it writes something else.
    assert not np.array_equal(found(ring.rewind).written.x, alone.x)


@pytest.mark.parametrize("rewinds", [True, False])
def test_a_greedy_target_writes_the_same_with_a_draft_and_without(rewinds):
    """With a penalty, a stop symbol, and prompts of different lengths; at once and in parts."""
    rules = Decoding(repetition_penalty=1.5, temperature=0, stop=(2,))
    n, length, writes = 4, 16, ROLLS if rewinds else CLOCK
    # The stop symbol is rare at first, and later sure.
    later = 0.6 * (jnp.arange(LONG + 1)[:, None, None] - 12)
    right = CLOCK_STATE + later * jax.nn.one_hot(2, V)
    mask = jnp.arange(3) >= jnp.array([0, 2, 1, 3])[:, None]
    prompt = jnp.where(mask, jax.random.randint(KEY, (n, 3), 0, V), -1)
    noise = jax.random.normal(KEY, CLOCK_STATE.shape)
    alone = decoding.write(KEY, CLOCK, right, n, length, rules, prompt)
    assert np.isfinite(alone.log_prob).all() and alone.mask.sum(1).min() > 5
    target = Writer(writes, right)

    @jax.jit
    def on(s, until, state):
        # There would be place for more, and there is no room.
        return speculative.go_on(KEY, target, Writer(writes, state), s, until, 3, rules, length)

    begun = jax.jit(lambda: speculative.begin(target, target, n, length + 3, prompt))()
    for state in (right + noise, right):
        found = on(begun, length, state)
        for parts in (found, on(on(on(begun, 1, state), 5, state), length, state)):
            for ours, own in zip(parts.written, alone, strict=True):
                np.testing.assert_allclose(ours[:, :length], own, atol=1e-5)
            assert not parts.written.mask[:, length:].any()
    # The target as its own draft errs never: 4 of a round.
    assert int(found.rounds) <= length / 4
    assert not bool(alone.mask.all())


@pytest.mark.parametrize("rewinds", [True, False])
def test_there_are_as_many_rounds_as_a_draft_errs(rewinds):
    """Counted by hand: in each, both read what stands there, from its beginning."""
    length, g, writes = LONG - 1, 3, ROLLS if rewinds else CLOCK
    noise = jax.random.normal(KEY, CLOCK_STATE.shape)
    first, second = np.array(CLOCK_STATE), np.array(CLOCK_STATE + noise)
    best = lambda table, read: int(table[len(read), read[-1] if read else V].argmax())
    read, counts = [], []
    while len(read) < length:
        drafted = list(read)
        for _ in range(g):
            drafted.append(best(second, drafted))
        begun = len(read)
        while len(read) < length and (len(read) == begun or read[-1] == drafted[len(read) - 1]):
            read.append(best(first, read))
            if len(read) == begun + g + 1:
                break
        counts.append(len(read) - begun)
    assert {1, g + 1} <= set(counts)
    pair = Writer(writes, CLOCK_STATE), Writer(writes, CLOCK_STATE + noise)
    rules = Decoding(temperature=0)
    found = jax.jit(lambda: speculative.write(KEY, *pair, 1, length, g, rules))()
    assert found.written.x[0].tolist() == read and int(found.rounds) == len(counts)


def test_bad_drafts_are_refused():
    pair = constant(TARGET), Writer(TABLE, table(0))
    with pytest.raises(DataError, match="drafts should be 1 or more, got 0"):
        speculative.write(KEY, pair[0], pair[0], 1, 2, 0)
    with pytest.raises(DataError, match="got 3 symbols for the target's 4"):
        speculative.write(KEY, *pair, 1, 2, 1)
