"""What an array may hold: which numbers a space has, which spaces it holds, and what a run says."""

import jax
import numpy as np
import optax
import pytest

from genjax_zoo.contract import (
    BINARY,
    COUNTS,
    REAL,
    SIGNED,
    UNIT,
    DataError,
    Kind,
    Model,
    categorical,
)
from genjax_zoo.data.config import Data
from genjax_zoo.data.images import array
from genjax_zoo.data.pixels import preprocess, space
from genjax_zoo.data.source import Examples, space_of
from genjax_zoo.data.sources import open_source
from genjax_zoo.maths.inference import classification
from genjax_zoo.models import bayes_net, flow, naive_bayes, vae
from genjax_zoo.run.config import Run
from genjax_zoo.run.setup import check_spaces, example_batch

LABELLED = bayes_net.Config(net="P(y) P(A | y) P(B | y)", states="y=3", label="y")
TX = optax.identity()
NAN, INF = float("nan"), float("inf")
MISSING = REAL._replace(missing=True)


@pytest.mark.parametrize(
    ("space", "inside", "outside"),
    [
        (REAL, [-7.5, 2.0], [NAN, INF, -INF]),
        (MISSING, [-7.5, NAN], [INF]),
        (UNIT, [0.0, 0.3, 1.0], [-0.1, 1.1, NAN]),
        (UNIT.of(17), [0.0, 1 / 16, 1.0], [1 / 255, 0.5 / 16, 17 / 16, -1 / 16, NAN]),
        (SIGNED, [-1.0, 0.3, 1.0], [-1.1, 1.1]),
        (SIGNED.of(3), [-1.0, 0.0, 1.0], [0.5, -3.0]),
        (BINARY, [0.0, 1.0], [0.0005, 0.5, -1.0, 2.0, NAN]),
        (BINARY._replace(missing=True), [0.0, 1.0, NAN], [0.5]),
        (COUNTS, [0.0, 17.0], [-1.0, 0.5, INF, NAN]),
        (COUNTS.of(5), [0.0, 4.0], [5.0]),
        (categorical(), [0, 3], [-1]),
        (categorical(4), [0, 3], [-1, 4]),
        (categorical(2), [0, 1], [2]),
        (categorical(1), [0], [1]),
    ],
)
def test_a_space_has_its_numbers_and_no_others(space, inside, outside):
    assert space.has(np.array(inside)).all()
    assert not space.has(np.array(outside)).any()


@pytest.mark.parametrize("levels", [2, 3, 17, 256])
@pytest.mark.parametrize("scale", ["unit", "symmetric", "raw"])
def test_pixels_lie_on_the_levels_that_their_space_says(levels, scale):
    data = Data(scale=scale)
    x = np.asarray(preprocess(data, levels)(None, np.arange(levels)))
    found = space(data, levels)
    assert found.has(x).all() and (found.size == levels or (levels == 2 and found == BINARY))
    assert not space(data, levels).has(x[:-1] + np.diff(x) / 2).any()
    assert space(Data(scale=scale, dequantise=True), levels).size == 0


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [
        (REAL, COUNTS.of(4)),
        (MISSING, REAL),
        (UNIT, UNIT.of(17)),
        (UNIT.of(256), UNIT.of(256)),
        (UNIT.of(256), UNIT.of(52)),
        (UNIT.of(256), BINARY),
        (SIGNED, UNIT.of(256)),
        (SIGNED.of(33), UNIT.of(17)),
        (COUNTS, COUNTS.of(17)),
        (COUNTS.of(3), BINARY),
        (COUNTS.of(3), COUNTS.of(2)),
        (categorical(10), categorical()),
        (categorical(), categorical(10)),
        (categorical(10), categorical(3)),
    ],
)
def test_a_space_holds_what_is_narrower_and_not_what_is_wider(wide, narrow):
    assert wide.holds(narrow) and wide.holds(wide)
    back = wide in (narrow, categorical(), categorical(10)) and narrow.size != 3
    assert narrow.holds(wide) is back


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (UNIT.of(256), UNIT.of(17)),
        (UNIT.of(3), SIGNED.of(4)),
        (UNIT, COUNTS.of(3)),
        (SIGNED.of(256), UNIT.of(256)),
        (COUNTS, categorical(3)),
        (MISSING, categorical(3)),
    ],
)
def test_spaces_that_hold_neither_each_other(one, other):
    assert not one.holds(other)
    assert not other.holds(one)


def test_a_space_in_words():
    assert str(UNIT.of(17)) == "numbers in [0, 1] of 17 levels"
    assert str(categorical(10)) == "integers 0 .. 9"
    assert str(COUNTS.of(5)) == "counts 0 .. 4"
    assert str(COUNTS) == "counts 0, 1, 2, ..."
    assert str(MISSING) == "real numbers, or NaN where they are missing"


@pytest.mark.parametrize(
    ("x", "space"),
    [
        ([0.0, 1.0], BINARY),
        ([0.0, 4.0], COUNTS.of(5)),
        ([0.0, NAN], BINARY._replace(missing=True)),
        ([0.5, 1.0], UNIT),
        ([0.5, 1.5], REAL),
        ([-1.0, NAN], MISSING),
        ([0.0, INF], REAL),
        ([NAN, NAN], BINARY._replace(missing=True)),
    ],
)
def test_the_narrowest_space_of_an_array(x, space):
    assert space_of(np.array(x)) == space


# ----------------------------------------------------- what a run says before it starts


def refusal(model, data, classes_of_data=None, name="vae"):
    """The sentence by which a run of that model on these data is refused; "" if it is not."""
    source = open_source(data, 0)
    if classes_of_data is not None:
        source = source._replace(spaces={**source.spaces, "x": classes_of_data})
    run = Run(model={"name": name}, data=data)
    try:
        check_spaces(model, source, {"x": np.zeros((1, 1))}, run)
    except DataError as error:
        return str(error)
    return ""


def of(space):
    return Model(None, None, None, spaces={"x": space})


@pytest.mark.parametrize("levels", [17, 256])
def test_grey_levels_that_are_not_the_models_are_refused_with_both_numbers(levels):
    """Of a decoder and of a flow: off their levels there is no density, at no learning rate."""
    other = {17: 256, 256: 17}[levels]
    for model in (
        vae.make(vae.Config(decoder="categorical", levels=levels), TX),
        vae.make(vae.Config(decoder="discretised_logistic", levels=levels), TX),
        flow.make(flow.Config(levels=levels), TX),
    ):
        assert refusal(model, Data(), UNIT.of(levels)) == ""
        said = refusal(model, Data(), UNIT.of(other))
        assert f"of {levels} levels" in said and f"of {other} levels" in said
        assert f"config.model.levels={other}" in said
    assert "of 17 levels" in refusal(of(UNIT.of(256)), Data())


@pytest.mark.parametrize(
    ("wanted", "data", "words"),
    [
        (UNIT.of(17), Data(dequantise=True), ["dequantise=False"]),
        (UNIT.of(17), Data(scale="raw"), ["counts 0 .. 16", "scale='unit'"]),
        (UNIT, Data(scale="symmetric"), ["scale='unit'"]),
        (BINARY, Data(), ["binarise"]),
        # What is for images is no advice for anything else.
        (BINARY, Data(source="density:ring"), ["real numbers", "choose other data"]),
        (COUNTS.of(2), Data(source="table:iris"), ["counts 0 .. 1", "choose other data"]),
    ],
)
def test_what_is_not_the_models_is_refused_with_what_to_do(wanted, data, words):
    said = refusal(of(wanted), data)
    for word in words:
        assert word in said
    assert ("config.data" in said) == data.of_images


def test_missing_numbers_are_refused_by_models_that_want_them_all(tmp_path):
    path = tmp_path / "gaps.csv"
    path.write_text("1\n\n3\n")
    gaps = Data(source=f"series:{path}", batch_size=1)
    assert refusal(of(MISSING), gaps) == ""
    assert "fill in what is missing (NaN)" in refusal(of(REAL), gaps)


def test_what_a_source_says_of_its_numbers_is_true():
    for source in ("digits", "density:sprinkler", "density:ring", "table:iris", "series:nile"):
        opened = open_source(Data(source=source, batch_size=1), 0)
        batch = example_batch(opened, jax.random.key(0), 1)
        assert opened.spaces["x"].has(batch["x"]).all()
        assert opened.spaces["x"].kind is not Kind.CATEGORICAL


# ------------------------------------------------------------------------- labels that are none


def labelled(train, held_out, stack=1, classes=()):
    """A source of images 2 x 2 with these labels."""
    parts = [
        Examples(np.zeros((len(label or "..."), 2, 2, 1), np.uint8), label and np.array(label))
        for label in (train, held_out)
    ]
    data = Data(batch_size=1, stack=stack, binarise="threshold")
    return array(data, 0, tuple(parts), "test", 17, classes)


@pytest.mark.parametrize(
    ("train", "held_out", "note"),
    [
        ([3, 3, 3], [3, 3], "labels left out: all of them are 3"),
        ([0, 0, 0], [0], "labels left out: all of them are 0"),
        ([-1, -1], [-1], "labels left out: some are -1, which is none"),
        # As competitions have it: the held-out part's are not told.
        ([0, 1, 2], [-1, -1], "labels left out: some are -1, which is none"),
        ([0, 1, 2], None, "labels left out: only a part has them"),
    ],
)
def test_labels_that_tell_nothing_apart_are_none(train, held_out, note):
    """A classifier of them would be refused before the start, and not say that it errs never."""
    source = labelled(train, held_out)
    assert note in source.notes and set(source.spaces) == {"x"}
    assert set(source.held_out(jax.random.key(0), 0, 1)) == {"x"}
    batch = example_batch(source, jax.random.key(0), 1)
    run = Run(model={"name": "naive_bayes"}, data=Data())
    for model in (naive_bayes.make(naive_bayes.Config()), bayes_net.make(LABELLED)):
        with pytest.raises(DataError, match=r"learns from 'label' .*has: x \(labels left out"):
            check_spaces(model, source, batch, run)


def test_labels_that_tell_apart_stay():
    source = labelled([0, 1, 2], [1], classes=("a", "b", "c"))
    assert source.spaces["label"] == categorical(3) and "label" in source.symbols
    assert labelled([3] * 9, [3] * 9, stack=2).spaces["label"].size == 16


def test_labels_below_0_are_none_where_only_the_first_batch_can_tell():
    source = labelled([0, 1], [0])._replace(spaces={"x": UNIT, "label": categorical()})
    run = Run(model={"name": "naive_bayes"}, data=Data())
    model = naive_bayes.make(naive_bayes.Config())
    check_spaces(model, source, {"label": np.array([0, 9])}, run)
    with pytest.raises(DataError, match=r"learns from 'label' .*has: x;"):
        check_spaces(model, source, {"label": np.array([-1, -1])}, run)


def test_a_bayes_net_with_a_label_needs_labelled_data():
    """It learnt with the label hidden, to the end, and could not be measured then."""
    with pytest.raises(
        DataError, match=r"this batch has no label.*model.hidden and model.label=''"
    ):
        bayes_net.make(LABELLED).init(jax.random.key(0), {"x": np.zeros((2, 2))})


def test_one_class_has_no_error():
    joint = np.zeros((4, 1))
    assert set(classification.info(joint, np.zeros(4, int))) == {"labels_outside"}
