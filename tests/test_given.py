"""What is given, and labels: every branch of the one door."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_zoo.contract import BINARY, COUNTS, REAL, UNIT, DataError, categorical
from genjax_zoo.maths.probability.given import (
    Labels,
    Texts,
    Told,
    check_count,
    known_part,
    part_of,
    prompt,
    read_given,
)

KEY = jax.random.key(0)
NAN = float("nan")
TEN, NONE, TEXTS = Labels(10, "vae"), Labels(0, "vae"), Texts(5, "vae")


def refused(*words):
    return pytest.raises(DataError, match=r".*".join(words))


def told(given, labels=TEN):
    return read_given(given, labels.told, 3, "vae")


def known_of(given, space=REAL):
    return known_part(read_given(given, part_of(space, (2,)), 3, "rbm"), "rbm")


# ------------------------------------------------------------------------------------- names


def test_known_names_pass():
    assert read_given({}, {}, 3, "vae") == {}
    told = read_given({"label": 3, "text": None}, TEN.told | TEXTS.told, 3, "vae")
    assert list(told) == ["label"]


def test_an_unknown_name_is_refused_with_the_nearest():
    with refused("^vae", "'lable'", "Did you mean 'label'", "Known: label, mask, x."):
        read_given({"lable": 3}, part_of(REAL, (2,)) | TEN.told, 3, "vae")
    with refused("'label'", r"Known: \(none\)"):
        read_given({"label": 3}, {}, 3, "vae")


# ------------------------------------------------------------------------------------ labels


def test_names_and_spaces_are_of_the_classes_there_are():
    assert TEN.names == ("label",)
    assert NONE.names == ()
    assert TEN.spaces(BINARY) == {"x": BINARY, "label": categorical(10)}
    assert NONE.spaces(BINARY) == {"x": BINARY}


def test_labels_of_a_batch():
    y = TEN.of({"label": np.array([9, 0, 3], np.uint8)})
    assert y.dtype == jnp.int32
    assert y.tolist() == [9, 0, 3]
    np.testing.assert_array_equal(TEN.one_hot({"label": y}), np.eye(10)[[9, 0, 3]])


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ({"x": 0}, ["a model of 10 classes needs labelled data", "classes to 0"]),
        (
            {"label": np.array([0, 10])},
            [r"0 \.\. 9, one for each", "and 10 is none", "model.classes"],
        ),
        ({"label": np.array([-1, 3])}, [r"0 \.\. 9", "and -1 is none"]),
        ({"label": np.array([0.0, 1.0])}, ["integers", "got float64"]),
        ({"label": np.array([], int)}, ["integers", "got nothing"]),
        ({"label": np.array(3)}, ["one for each example, got the shape"]),
    ],
)
def test_labels_that_are_none_are_refused(batch, words):
    with refused("^vae", *words):
        TEN.of(batch)


def test_one_label_for_all_or_one_for_each():
    assert told({}) == told({"label": None}) == {}
    assert told({"label": 4})["label"].tolist() == [4, 4, 4]
    assert told({"label": [4, 5, 6]})["label"].tolist() == [4, 5, 6]
    assert told({"label": 4})["label"].dtype == jnp.int32


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (10, [r"label should be integers 0 \.\. 9", "and 10 is none"]),
        (-1, [r"0 \.\. 9", "and -1 is none"]),
        (1.5, ["integers", "one for each of 3 examples, got 1.5"]),
        (3.0, ["integers", "got 3.0"]),
        (True, ["integers", "got True"]),
        (1j, ["integers", "got 1j"]),
        ("3", ["integers", "got '3'"]),
        ([1, 2], ["one for each of 3 examples", r"shape \[2\]"]),
        ([[1], [2], [3]], ["one for each of 3 examples", r"shape \[3, 1\]"]),
        ([[1], [2, 3]], ["integers", "no array of numbers"]),
        ({"a": 1}, ["integers", "no array of numbers"]),
        (2**70, ["integers", "no array of numbers"]),
        ([], ["integers"]),
    ],
)
def test_labels_that_were_not_learnt_are_refused(label, words):
    with refused("^vae", *words):
        told({"label": label})


def test_a_model_without_labels_says_so():
    with refused("^vae", "label was given, and this model knows no labels", "model.classes"):
        told({"label": 1}, NONE)
    with refused("^vae", "text was given, and this model reads no text", "model.text.vocabulary"):
        read_given({"text": [1]}, Texts(0, "vae").told, 3, "vae")
    # Nor is it among what is known where another name is wrong.
    with refused("'lable'", r"Known: \(none\)"):
        told({"lable": 1}, NONE)


def test_labels_are_drawn_evenly_unless_they_are_given():
    assert NONE.draw(KEY, {}, 5) == {}
    assert TEN.draw(KEY, {"label": jnp.full(5, 2)}, 5)["label"].tolist() == [2] * 5
    drawn = TEN.draw(KEY, {}, 5000)["label"]
    assert drawn.dtype == jnp.int32
    # 500 ± 21 of each: five standard deviations.
    assert np.abs(np.bincount(drawn, minlength=10) - 500).max() < 107


def test_traced_labels_pass_unread():
    """Under jit a label has no value yet: its range is for the caller to have checked."""
    y = jax.jit(lambda label: told({"label": label})["label"])(jnp.int32(4))
    assert y.tolist() == [4, 4, 4]
    with refused("got the shape"):
        jax.jit(lambda label: told({"label": label}))(jnp.zeros(2, int))


def test_labels_that_jit_closes_over_are_read():
    with refused("12 is none"):
        jax.jit(lambda: told({"label": 12}))()


# -------------------------------------------------------------------------- the known part of x


def test_nothing_is_known_by_default():
    assert known_of({}) is None


X = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]


@pytest.mark.parametrize(
    ("given", "x", "known"),
    [
        ({"x": [7.0, 8.0], "mask": [1, 0]}, [[7.0, 0.0]] * 3, [[True, False]] * 3),
        ({"x": X, "mask": [0, 1]}, [[0.0, 2.0], [0.0, 4.0], [0.0, 6.0]], [[False, True]] * 3),
        (
            {"x": [7.0, 8.0], "mask": np.eye(3, 2)},
            [[7.0, 0.0], [0.0, 8.0], [0.0, 0.0]],
            [[True, False], [False, True], [False, False]],
        ),
        # What is NaN is unknown, whatever the mask.
        ({"x": [NAN, 8.0]}, [[0.0, 8.0]] * 3, [[False, True]] * 3),
        ({"x": [NAN, 8.0], "mask": [1, 1]}, [[0.0, 8.0]] * 3, [[False, True]] * 3),
        # What stands where the mask is 0 may be anything.
        ({"x": [float("inf"), 8.0], "mask": [0, 1]}, [[0.0, 8.0]] * 3, [[False, True]] * 3),
        # All may be known where a mask says so.
        ({"x": [7.0, 8.0], "mask": [1, 1]}, [[7.0, 8.0]] * 3, [[True, True]] * 3),
        ({"x": [7, 8], "mask": [True, False]}, [[7.0, 0.0]] * 3, [[True, False]] * 3),
    ],
)
def test_the_known_part(given, x, known):
    for got in (
        known_of(given),
        jax.jit(known_of)(
            jax.tree.map(jnp.asarray, given, is_leaf=lambda leaf: isinstance(leaf, list))
        ),
    ):
        assert got[0].dtype == jnp.float32
        assert got[1].dtype == jnp.bool_
        np.testing.assert_array_equal(got[0], x)
        np.testing.assert_array_equal(got[1], known)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"mask": [1, 0]}, ["mask says where x is known, and no x was given", "--given=x"]),
        ({"x": [7.0, 8.0]}, ["all of x was given, which leaves nothing to draw"]),
        ({"x": [7.0, 8.0, NAN]}, [r"x should be", r"the shape \[2\]", r"\[3, 2\], got .* \[3\]"]),
        ({"x": X[:2], "mask": [1, 0]}, [r"x should be", r"got the shape \[2, 2\]"]),
        ({"x": [7.0, 8.0], "mask": [1]}, [r"mask should be", r"got the shape \[1\]"]),
        ({"x": "abc"}, ["x should be real numbers", "got 'abc'"]),
        ({"x": [NAN, float("inf")]}, ["x should be real numbers", "inf is none"]),
        ({"x": [NAN, 1e39]}, ["inf is none"]),
        ({"x": [NAN, 1j]}, ["got complex128"]),
        ({"x": [7.0, 8.0], "mask": [255, 0]}, ["mask should be numbers that are 0 or 1", "255"]),
        ({"x": [7.0, 8.0], "mask": [0.5, 0]}, ["mask should be", "0.5 is none"]),
        ({"x": [7.0, 8.0], "mask": [NAN, 0]}, ["mask should be", "nan is none"]),
    ],
)
def test_parts_that_do_not_fit_are_refused(given, words):
    with refused("^rbm", *words):
        known_of(given)


@pytest.mark.parametrize(
    ("space", "x", "word"),
    [(BINARY, 0.37, "0.37"), (BINARY, 2.0, "2"), (UNIT, 255, "255"), (COUNTS.of(3), 3.0, "3")],
)
def test_a_known_part_lies_in_the_space_of_the_data(space, x, word):
    """Grey pixels of a binary machine, bytes of one that learnt from [0, 1], states beyond."""
    with refused("^rbm: x should be", str(space)[:8], f"and {word} is none"):
        known_of({"x": [NAN, x]}, space)
    known_of({"x": [NAN, 1.0]}, space)
    # It counts where the mask says so alone.
    known_of({"x": [x, 1.0], "mask": [0, 1]}, space)
    with refused(f"and {word} is none"):
        known_of({"x": [x, 1.0], "mask": [1, 0]}, space)


def test_a_prompt_is_a_beginning():
    told = lambda *mask: read_given(
        {"x": [1, 2, 0], "mask": mask}, part_of(COUNTS.of(3), (3,)), 2, "nade"
    )
    assert prompt({}, "nade") is None
    x, known = prompt(told(1, 1, 0), "nade")
    assert x.tolist() == [[1, 2, 0]] * 2 and known.tolist() == [[True, True, False]] * 2
    with refused("^nade writes x number after number, row by row"):
        prompt(told(1, 0, 1), "nade")
    x, known = prompt(told(1, 0, 1), "nade", order=(2, 0, 1))
    assert x.tolist() == [[0, 1, 0]] * 2 and known.tolist() == [[True, True, False]] * 2
    with refused("an order of its own"):
        prompt(told(1, 1, 0), "nade", order=(2, 0, 1))


@pytest.mark.parametrize("count", [0, -3, 5])
def test_counts_that_there_cannot_be_are_refused(count):
    with refused(r"^nade: length should be 1 \.\. 4, got", str(count)):
        check_count("length", count, "nade", 4)
    if count < 1:
        with refused("^vae: n should be 1 or more, got", str(count)):
            read_given({}, TEN.told, count, "vae")


@pytest.mark.parametrize("count", [2.0, "3", True, None])
def test_counts_are_whole_numbers(count):
    with refused("^vae: n should be a whole number, 1 or more, got", repr(count)):
        read_given({}, TEN.told, count, "vae")
    assert read_given({}, TEN.told, np.int64(2), "vae") == {}


@pytest.mark.parametrize("given", [None, 3, "label", ["label"], {3: 1}])
def test_what_is_given_has_names(given):
    with refused("^vae: given should be a dictionary .*label.*got"):
        read_given(given, TEN.told, 3, "vae")


def test_texts_and_pasts_are_of_any_length():
    assert read_given({"text": [1, 2]}, TEXTS.told, 3, "vae")["text"].shape == (3, 2)
    assert read_given({"text": [[1, 2]] * 3}, TEXTS.told, 3, "vae")["text"].shape == (3, 2)
    assert TEXTS.draw(KEY, {}, 3)["text"].tolist() == [[0]] * 3
    past = part_of(REAL, (None, 1))
    assert read_given({"x": np.zeros((7, 1))}, past, 3, "vae")["x"].shape == (3, 7, 1)
    for text in (3, [1.5], "abc", [9], [[1, 2]] * 2):
        with refused("^vae: text should be integers", r"\[T\] of one example, or \[3, T\]"):
            read_given({"text": text}, TEXTS.told, 3, "vae")
    with refused("^vae: x", r"\[T, 1\]"):
        read_given({"x": np.zeros((7, 2))}, past, 3, "vae")


def test_where_an_example_is_one_number_it_needs_no_axis():
    can = {"A": Told(REAL, (1,))}
    assert read_given({"A": 2}, can, 3, "net")["A"].tolist() == [[2.0]] * 3
    assert read_given({"A": [1, 2, 3]}, can, 3, "net")["A"].tolist() == [[1.0], [2.0], [3.0]]
