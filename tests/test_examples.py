"""Numbers of held-out data: ratios of sums, their errors, and what stands beside each number."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_zoo.commands import evaluate
from genjax_zoo.contract import Exactness, Measure, Model, Once, ZooError, categorical
from genjax_zoo.data.config import Data
from genjax_zoo.data.source import Source
from genjax_zoo.data.sources import open_source
from genjax_zoo.maths.inference import bounds, importance
from genjax_zoo.measure import examples, samples
from genjax_zoo.measure.results import Result, bits_per_dim, describe

KEY = jax.random.key(0)
N = 1203
RNG = np.random.default_rng(0)
# Texts of unequal length, and a loss a token that grows with it: a mean of means is another number.
LENGTH = RNG.integers(1, 40, N)
LOSS = LENGTH * (1 + 0.02 * LENGTH) + RNG.normal(size=N)


def texts(n=N):
    """A source of texts, without any x."""
    batch = {"text": jnp.arange(n)[:, None], "length": jnp.asarray(LENGTH[:n])}
    return Source(
        resident=(),
        feed=lambda step, rows: (),
        batch=lambda key, resident, feed: batch,
        held_out=lambda key, first, last: {name: a[first:last] for name, a in batch.items()},
        held_out_split="test",
        held_out_size=n,
        size=None,
        preprocessing="numbers",
        spaces={"text": categorical(N)},
    )


def reading(**fields):
    """A model that says LOSS of each text, by the token."""
    value = lambda key, state, batch, *once: jnp.asarray(LOSS, jnp.float32)[batch["text"][:, 0]]
    given = {"unit": "nats/token", "better": "lower", "per": lambda batch: batch["length"]}
    measure = Measure(value, Exactness.EXACT, **given | fields)
    nothing = lambda *_: ()
    return Model(nothing, nothing, nothing, measure, spaces={"text": categorical(N)})


def measured(model, source, **fields):
    return examples.evaluate(model, (), source, KEY, step=7, **fields)


def test_the_value_is_a_sum_over_a_sum_and_no_mean_of_means():
    (found,) = measured(reading(), texts())
    assert found.value == pytest.approx(LOSS.sum() / LENGTH.sum(), rel=1e-6)
    assert abs(np.mean(LOSS / LENGTH) - found.value) > 10 * found.standard_error
    assert (found.n, found.per, found.unit) == (N, LENGTH.sum(), "nats/token")
    assert f"n={N} of {LENGTH.sum()} tokens" in describe(found)


def test_without_per_it_is_the_mean_over_examples():
    (found,) = measured(reading(per=None, unit="nats"), texts())
    assert found.value == pytest.approx(LOSS.mean(), rel=1e-6)
    assert found.standard_error == pytest.approx(LOSS.std(ddof=1) / math.sqrt(N), rel=1e-6)
    assert found.per is None and f"n={N}, numbers" in describe(found)


def test_the_error_of_a_ratio_is_what_other_examples_give():
    """The bootstrap knows nothing of the delta method."""
    value, error = examples.ratio(LOSS, LENGTH.astype(float))
    rows = RNG.integers(0, N, (4000, N))
    again = LOSS[rows].sum(1) / LENGTH[rows].sum(1)
    assert value == pytest.approx(again.mean(), abs=5 * error / math.sqrt(4000) + 1e-3)
    assert error == pytest.approx(again.std(), rel=0.1)
    # What is proportional has no error at all; and what every example holds alike is the mean's.
    assert examples.ratio(3.0 * LENGTH, LENGTH)[1] == pytest.approx(0, abs=1e-12)
    same = examples.ratio(LOSS, np.full(N, 8.0))
    np.testing.assert_allclose(same, np.array(examples.ratio(LOSS)) / 8, rtol=1e-12)


def test_one_example_has_no_standard_error_and_none_is_printed():
    assert examples.ratio(np.array([3.0])) == (3.0, None)
    (found,) = measured(reading(), texts(), examples=1)
    assert found.standard_error is None and found.n == 1
    assert "±" not in describe(found) and "nats/token" in describe(found)
    bits = bits_per_dim(found, 4, 0.5)
    assert bits.standard_error is None and "±" not in describe(bits)
    # What all examples share may err all the same.
    once = lambda key, state: Once((), error=0.5)
    (found,) = measured(reading(once=once, per=None), texts(), examples=1)
    assert found.standard_error == 0.5


def test_what_is_printed_keeps_to_short_lines_and_a_number_to_its_unit():
    (found,) = measured(reading(), texts())
    long = found._replace(detail="a sample is of high quality within 3 sigma; 200 resamples" * 2)
    lines = describe(long).splitlines()
    assert max(map(len, lines)) <= 110 and len(lines) > 1
    assert lines[0].startswith(found.name) and all(line.startswith("    ") for line in lines[1:])
    assert " ".join(line.strip() for line in lines) == describe(long).replace("\n    ", " ")
    assert any(f"n={N} of {LENGTH.sum()} tokens" in line for line in lines)


def test_what_was_asked_for_is_no_split():
    (found,) = measured(reading(), texts())
    assert "test split" in describe(found)
    asked = found._replace(split="10 labels", protocol={"asked": "10 labels"})
    assert "of 10 labels," in describe(asked) and "split" not in describe(asked)
    assert "split" not in describe(found._replace(split="the training series itself"))


@pytest.mark.parametrize("per", [True, False])
def test_what_the_examples_share_is_shared_by_what_they_hold(per):
    """An error of log Z moves every example alike: the ratio by the error over the mean per."""
    once = lambda key, state: Once((), error=0.5, notes={"log_z": jnp.float32(2)})
    plain, shared = (
        measured(reading(once=once_of, per=(lambda b: b["length"]) if per else None), texts())[0]
        for once_of in (None, once)
    )
    added = 0.5 / LENGTH.mean() if per else 0.5
    assert shared.standard_error == pytest.approx(math.hypot(plain.standard_error, added))
    assert shared.value == plain.value and shared.detail == "log_z 2"


def test_fewer_examples_and_other_batches_are_the_same_examples(monkeypatch):
    whole, some = (measured(reading(), texts(), examples=n)[0] for n in (None, 700))
    assert some.n == 700 and some.per == LENGTH[:700].sum() and whole.n == N
    monkeypatch.setattr(examples, "BATCH", 64)
    assert measured(reading(), texts())[0].value == pytest.approx(whole.value)


def test_every_number_says_what_it_is():
    source = open_source(Data(dequantise=True, batch_size=20), 0)
    value = lambda key, state, batch: -jnp.sum(batch["x"], (1, 2, 3))
    model = Model(
        *(lambda *_: (),) * 3,
        log_prob=Measure(value, Exactness.EXACT, density=True),
        measures={"by_dim": Measure(value, Exactness.ESTIMATE, "nats/dim", per=dims, density=True)},
    )
    found = {result.name: result for result in measured(model, source)}
    # Bits of a density, and none of what is told by the dimension already.
    assert list(found) == ["log_prob", "bits_per_dim", "by_dim"]
    for one in found.values():
        assert one.kind and one.unit and one.split == "test (every fifth)" and one.n == 359
        assert "dequantised" in one.preprocessing and math.isfinite(one.value) and one.step == 7
    assert found["by_dim"].value == pytest.approx(found["log_prob"].value / 64)
    assert found["by_dim"].per == found["bits_per_dim"].per == 359 * 64
    bits = bits_per_dim(found["log_prob"], 64, source.level)
    assert bits.value == found["bits_per_dim"].value and bits.kind == "lower_bound"


def dims(batch):
    return jnp.full(len(batch["x"]), 64)


def test_of_data_without_x_nothing_is_asked_of_samples():
    assert samples.applicable(reading(), texts(), None) == ()
    assert samples.evaluate(reading(), (), texts(), KEY, step=0) == []


def test_texts_are_as_varied_as_their_places_differ(tmp_path):
    """And not as far apart as the numbers of their characters."""
    (tmp_path / "a.txt").write_text("".join(RNG.choice(list("abcdefgh"), 4000)))
    source = open_source(Data(source=f"text:{tmp_path}/a.txt", batch_size=5, length=20), 0)
    x = np.asarray(source.held_out(KEY, 0, 20)["x"])
    look = functools.partial(samples.quick_look, source=source, reference=x)
    # All characters shifted by as much: other numbers, the same places.
    assert look((x + 3) % 8).numbers["diversity"] == pytest.approx(1)
    near = look(np.where(x < 4, 0, 7)).numbers["diversity"]
    assert near == pytest.approx(0.5 / (7 / 8), abs=0.1)
    assert look(np.repeat(x[:1], 9, 0)).warning == "collapsing: diversity 0.00"


def test_a_result_of_old_is_read_without_per():
    entry = Result("a", 1.0, 0.1, "exact", "nats", "test", 3, "", 1, "higher")._asdict()
    del entry["per"]
    assert Result(**entry).per is None


# Estimates by importance weights


def test_an_estimate_says_how_far_its_weights_can_be_trusted():
    """Weights of N(0, 1) by N(0, 1/4), whose tail index is 3/4: no K makes them reliable."""

    def iwae(key, state, batch, draws):
        def log_weights(key, n):
            z = 0.5 * jax.random.normal(key, (n, len(batch["text"])))
            return -0.5 * z**2 + 2 * z**2 + jnp.log(0.5)

        return importance.estimate(key, log_weights, draws)

    measures = bounds.estimates(iwae, 100, levels=2)
    model = reading()._replace(log_prob=None, measures=measures)
    source = texts(20)._replace(
        held_out=lambda key, first, last: {
            "text": jnp.zeros((last - first, 1)),
            "x": jnp.zeros((last - first, 3)),
        }
    )
    nats, bits = measured(model, source)
    assert nats.trust.keys() == bits.trust.keys()
    assert nats.trust["draws"] == 100 and 1 < nats.trust["effective"] < 100
    assert nats.trust["untrusted"] > 10
    assert "NOT TO BE TRUSTED for" in describe(nats) and "NOT TO BE TRUSTED" in describe(bits)
    np.testing.assert_allclose(bits.value, -nats.value / 3 / math.log(2), atol=0.3)
    (more,) = measured(model, source, only=("iwae",), importance_samples=1600)
    assert more.trust["draws"] == 1600 and more.trust["untrusted"] > 0
    assert abs(more.value) < abs(nats.value)


def test_draws_that_nothing_would_take_are_refused():
    """--importance_samples was ignored by what has no weights, and where it is below K."""
    exact = {"log_prob": Measure(lambda *_: jnp.zeros(1), Exactness.EXACT)}
    weighed = bounds.estimates(lambda *_: None, draws=64)
    for draws, measured in ((0, exact), (0, weighed), (64, weighed), (900, exact | weighed)):
        evaluate._check_draws(draws, measured)
    with pytest.raises(ZooError, match=r"=900: none of log_prob is .* leave the flag out"):
        evaluate._check_draws(900, exact)
    with pytest.raises(ZooError, match=r"=10 is fewer than the 64 .* iwae .*importance_samples=10"):
        evaluate._check_draws(10, exact | weighed)
