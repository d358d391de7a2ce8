"""What is given, and labels: every branch of their one reader."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_zoo.contract import BINARY, DataError, categorical
from genjax_zoo.maths.probability.given import Labels, check_names, known_part

KEY = jax.random.key(0)
NAN = float("nan")
TEN, NONE = Labels(10, "vae"), Labels(0, "vae")


def refused(*words):
    return pytest.raises(DataError, match=r".*".join(words))


# ------------------------------------------------------------------------------------- names


def test_known_names_pass():
    check_names({}, (), "vae")
    check_names({"label": 3}, iter(("label", "x")), "vae")


def test_an_unknown_name_is_refused_with_the_nearest():
    with refused("^vae", "'lable'", "Did you mean 'label'", "Known: label, x."):
        check_names({"lable": 3}, ("x", "label"), "vae")
    with refused("'label'", r"Known: \(none\)"):
        check_names({"label": 3}, (), "vae")


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
        ({"label": np.array([0, 10])}, [r"0 \.\. 9, got 0 \.\. 10", "model.classes to 11"]),
        ({"label": np.array([-1, 3])}, [r"got -1 \.\. 3"]),
        ({"label": np.array([0.0, 1.0])}, ["as integers"]),
        ({"label": np.array([], int)}, ["as integers"]),
    ],
)
def test_labels_that_are_none_are_refused(batch, words):
    with refused("^vae", *words):
        TEN.of(batch)


def test_one_label_for_all_or_one_for_each():
    assert TEN.given({}, 3) is None
    assert TEN.given({"label": None}, 3) is None
    assert NONE.given({}, 3) is None
    assert TEN.given({"label": 4}, 3).tolist() == [4, 4, 4]
    assert TEN.given({"label": [4, 5, 6]}, 3).tolist() == [4, 5, 6]
    assert TEN.given({"label": 4}, 3).dtype == jnp.int32


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (10, [r"0 \.\. 9, got 10 \.\. 10"]),
        (-1, [r"got -1 \.\. -1"]),
        (1.5, ["one for each of 3 examples, as integers, got 1.5"]),
        ("3", ["as integers, got '3'"]),
        ([1, 2], ["one for each of 3 examples"]),
        ([[1], [2], [3]], ["one for each of 3 examples"]),
    ],
)
def test_labels_that_were_not_learnt_are_refused(label, words):
    with refused("^vae", *words):
        TEN.given({"label": label}, 3)


def test_a_model_without_labels_says_so():
    with refused("^vae", "a label was given, and this model knows none"):
        NONE.given({"label": 1}, 3)


def test_labels_are_drawn_evenly_unless_they_are_given():
    assert NONE.draw(KEY, {}, 5) == {}
    assert TEN.draw(KEY, {"label": 2}, 5)["label"].tolist() == [2] * 5
    drawn = TEN.draw(KEY, {}, 5000)["label"]
    assert drawn.dtype == jnp.int32
    # 500 ± 21 of each: five standard deviations.
    assert np.abs(np.bincount(drawn, minlength=10) - 500).max() < 107


def test_traced_labels_pass_unread():
    """Under jit a label has no value yet: its range is for the caller to have checked."""
    y = jax.jit(lambda label: TEN.given({"label": label}, 3))(jnp.int32(4))
    assert y.tolist() == [4, 4, 4]


def test_labels_that_jit_closes_over_are_read():
    with refused("got 12"):
        jax.jit(lambda: TEN.given({"label": 12}, 3))()


# -------------------------------------------------------------------------- the known part of x


def test_nothing_is_known_by_default():
    assert known_part({}, (2,), "rbm", 3) is None
    assert known_part({"label": 3}, (2,), "rbm", 3) is None


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
        # All may be known where a mask says so.
        ({"x": [7.0, 8.0], "mask": [1, 1]}, [[7.0, 8.0]] * 3, [[True, True]] * 3),
        ({"x": [7, 8], "mask": [True, False]}, [[7.0, 0.0]] * 3, [[True, False]] * 3),
    ],
)
def test_the_known_part(given, x, known):
    for got in (
        known_part(given, (2,), "rbm", 3),
        jax.jit(lambda given: known_part(given, (2,), "rbm", 3))(
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
        ({"x": [7.0, 8.0, NAN]}, [r"x should have the shape \[2\]", r"\[3, 2\], got \[3\]"]),
        ({"x": X[:2], "mask": [1, 0]}, [r"x should have", r"got \[2, 2\]"]),
        ({"x": [7.0, 8.0], "mask": [1]}, [r"mask should have", r"got \[1\]"]),
    ],
)
def test_parts_that_do_not_fit_are_refused(given, words):
    with refused("^rbm", *words):
        known_part(given, (2,), "rbm", 3)
