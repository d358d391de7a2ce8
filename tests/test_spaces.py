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
from genjax_zoo.data.pixels import preprocess, space
from genjax_zoo.data.source import space_of
from genjax_zoo.data.sources import open_source
from genjax_zoo.models import flow, vae
from genjax_zoo.run.config import Run
from genjax_zoo.run.setup import check_spaces, example_batch

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
    assert space(data, levels).has(x).all() and space(data, levels).size == levels
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
