"""Probes: what is asked of samples is what is judged, and a judge says how good it is itself."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import beta

from genjax_zoo.contract import NOTHING, UNIT, DataError, Model, categorical
from genjax_zoo.data.config import Data
from genjax_zoo.data.sources import open_source
from genjax_zoo.measure import extractors, labels, probes, samples
from genjax_zoo.measure.scores import compare

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def digits():
    return open_source(Data(batch_size=20), 0)


@pytest.fixture(scope="module")
def train(digits):
    """A training image of each label, several times."""
    x = digits.training(KEY, 0, digits.size)
    order = jnp.argsort(x["label"], stable=True)
    first = jnp.searchsorted(x["label"][order], jnp.arange(10))
    return x["x"][order[first[:, None] + jnp.arange(100)]]


def conditional(train, shown=lambda label: label, classes=10, **fields):
    """A model that draws training images of the label `shown` where one is given."""

    def sample(key, state, n, given=NOTHING):
        label = jnp.broadcast_to(given.get("label", jnp.zeros(n, jnp.int32)), (n,))
        which = jax.random.randint(key, (n,), 0, train.shape[1])
        return {"x": train[shown(label), which], "label": label}

    nothing = lambda *_: ()
    fields = {"spaces": {"x": UNIT, "label": categorical(classes)}, "sample": sample} | fields
    return Model(nothing, nothing, **fields)


def measured(model, source, num_samples=400, **fields):
    extractor = extractors.bundled("digits")
    only = ("label_match",)
    given = {"extractor": extractor, "num_samples": num_samples, "only": only} | fields
    (result,) = samples.evaluate(model, (), source, KEY, 5, **given)
    return result


def test_samples_of_their_labels_match_and_others_do_not(digits, train):
    found = measured(conditional(train), digits)
    assert found.value > 97 and found.low < found.value <= found.high
    assert (found.unit, found.kind, found.n, found.step) == ("%", "estimate", 400, 5)
    assert found.preprocessing == digits.preprocessing and found.split == "10 labels"
    assert found.protocol["n_samples"] == 400 and found.protocol["judge"].startswith("digits ")
    # What the judge itself makes of real data is said beside it.
    ceiling = re.search(r"digits [0-9a-f]{8} has ([0-9.]+) on 359 real examples", found.detail)
    assert 97 < float(ceiling[1]) <= 100
    assert measured(conditional(train, lambda label: (label + 1) % 10), digits).value < 3
    # Half of the labels shown, half of the samples right.
    half = measured(conditional(train, lambda label: jnp.where(label < 5, label, 0)), digits)
    assert abs(half.value - 50) < 3
    # Results of one protocol can be compared, of others not.
    assert compare(found, half).apart


def test_every_label_is_asked_for_as_often():
    probe = labels.label_match(
        conditional(jnp.zeros((10, 1, 8, 8, 1))),
        open_source(Data(), 0),
        extractors.bundled("digits"),
    )[0]
    asked = np.asarray(probe.ask(KEY, 1000)["label"])
    assert np.bincount(asked).tolist() == [100] * 10


def test_samples_that_are_no_numbers_are_wrong(digits, train):
    broken = train.at[:5].set(jnp.nan)
    assert abs(measured(conditional(broken), digits).value - 50) < 3


def test_samples_of_another_shape_are_refused(digits):
    small = conditional(jnp.zeros((10, 100, 4, 4, 1)))
    with pytest.raises(DataError, match=r"shape \[4, 4, 1\] and the data \[8, 8, 1\]"):
        measured(small, digits)


def test_it_is_asked_of_what_has_labels_that_the_classifier_knows(digits, train):
    own = extractors.bundled("digits")
    applies = lambda model, source, extractor: samples.applicable(model, source, extractor)
    model = conditional(train)
    assert applies(model, digits, own)[-1] == "label_match"
    for other in (
        applies(model._replace(spaces={"x": UNIT}), digits, own),
        applies(conditional(train, classes=3), digits, own),
        applies(model, digits, None),
        applies(model, digits, own._replace(probabilities=None)),
        applies(model, digits, own._replace(classes=0)),
        applies(model, digits._replace(spaces={"x": UNIT}), own),
    ):
        assert "label_match" not in other
    # One that sees images in another size is the same classifier.
    assert extractors.resized(own, (16, 16, 1)).classes == own.classes == 10


def test_it_is_measured_among_all_that_apply(digits, train):
    found = samples.evaluate(
        conditional(train), (), digits, KEY, 0, extractors.bundled("digits"), num_samples=60
    )
    names = [result.name for result in found]
    assert names[-1] == "label_match" and "precision" in names
    assert set(names) <= set(samples.NAMES)


def test_the_interval_is_clopper_and_pearsons():
    right = np.arange(200) < 150
    value, low, high = probes.share(right)
    assert value == 75
    assert low == pytest.approx(100 * beta.ppf(0.025, 150, 51))
    assert high == pytest.approx(100 * beta.ppf(0.975, 151, 50))
    assert probes.share(np.ones(10, bool)).high == 100


def test_as_many_are_drawn_as_are_asked_for_and_each_as_it_was_asked(digits, train):
    """Across batches: the model is given every label in its place, the last batch filled up."""
    given = []

    def judge(asked, x):
        given.append(np.asarray(asked["label"]))
        same = np.abs(x[:, None] - np.asarray(train)[asked["label"]]).max((2, 3, 4)) < 1e-6
        return probes.Judged(same.any(1), {"bright": x.max((1, 2, 3)) > 0.9})

    probe = probes.Probe(
        "own",
        "any",
        lambda key, n: {"label": jax.random.randint(key, (n,), 0, 10)},
        judge,
        "eyes",
        lambda: probes.Judged(np.ones(4, bool)),
        stream=9,
    )
    ask = functools.partial(probes.evaluate, probe, state=(), source=digits, key=KEY, step=0)
    result = ask(conditional(train), num_samples=probes.BATCH + 33)
    assert result.value == 100 and result.n == len(given[0]) == probes.BATCH + 33
    assert re.fullmatch(r"bright [0-9.]+; eyes has 100.0 on 4 real examples", result.detail)
