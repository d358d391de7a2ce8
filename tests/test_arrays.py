"""Arrays of one's own: what their names say, and what their numbers are taken for."""

import warnings

import jax
import numpy as np
import pytest

from genjax_zoo.contract import BINARY, COUNTS, REAL, SIGNED, UNIT, DataError
from genjax_zoo.data import images
from genjax_zoo.data.arrays import role_of
from genjax_zoo.data.config import Data
from genjax_zoo.data.sources import open_source

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (40, 6, 5, 3), np.uint8)
LABEL = np.arange(40) % 3


def saved(tmp_path, **held):
    np.savez(tmp_path / "a.npz", **held)
    return tmp_path / "a.npz"


def opened(path, **fields):
    return open_source(Data(source=f"array:{path}", **({"batch_size": 4} | fields)), 0)


def both(source):
    train = source.training(KEY, 0, source.size)
    return jax.tree.map(np.asarray, (train, source.held_out(KEY, 0, source.held_out_size)))


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("x", ("", "x")), ("arr_0", ("", "x")), ("X_train", ("train", "x")),
        ("y_test", ("test", "label")), ("train_images", ("train", "x")),
        ("val_labels", ("validation", "label")), ("trainTargets", ("train", "label")),
        ("label", ("", "label")), ("class_names", ("", "classes")), ("captions", ("", "text")),
        ("XTrain", ("train", "x")), ("testX", ("test", "x")),
        ("train", ("train", None)), ("weights", ("", None)),
    ],
)  # fmt: skip
def test_what_the_name_of_an_array_says(key, said):
    assert role_of(key) == said


def test_bytes_are_images_of_which_every_tenth_is_held_out(tmp_path, monkeypatch):
    path = saved(tmp_path, x=BYTES, label=LABEL, weights=np.zeros(3))
    source = opened(path)
    train, held = both(source)
    tenth = np.arange(40) % 10 == 9
    np.testing.assert_allclose(train["x"] * 255, BYTES[~tenth], atol=1e-4)
    np.testing.assert_allclose(held["x"] * 255, BYTES[tenth], atol=1e-4)
    assert train["label"].tolist() == LABEL[~tenth].tolist()
    assert source.held_out_split == "test (every tenth)" and source.spaces["label"].size == 3
    assert "left out weights" in source.notes
    assert any(note.startswith("x: images of 8 bits") for note in source.notes)
    assert opened(path, resize=4, channels=1).preprocessing.count("4x4x1 (resized, made grey)")
    # A set too large to rest on the device is read from its file.
    np.save(tmp_path / "x.npy", BYTES)
    monkeypatch.setattr(images, "RESIDENT_BYTES", 100)
    on_disk = opened(tmp_path / "x.npy")
    assert on_disk.resident == ()
    np.testing.assert_array_equal(both(on_disk)[0]["x"], train["x"])


def test_the_splits_of_a_file_are_kept_as_keras_and_others_name_them(tmp_path):
    for x, y in (("x_{}", "y_{}"), ("{}_images", "{}_labels")):
        parts = {"train": slice(0, 30), "test": slice(30, 36), "val": slice(36, 40)}
        held = {x.format(name): BYTES[rows, ..., 0] for name, rows in parts.items()}
        held |= {y.format(name): LABEL[rows, None] for name, rows in parts.items()}
        source = opened(saved(tmp_path, **held))
        train, test = both(source)
        assert train["x"].shape == (30, 6, 5, 1) and test["label"].tolist() == LABEL[30:36].tolist()
        assert source.held_out_split == "test"
        assert "left out the validation arrays" in source.notes


def test_one_split_alone_is_split_again(tmp_path):
    source = opened(saved(tmp_path, x_train=BYTES))
    assert source.size == 36 and "all of it is called train" in source.notes


def test_names_of_classes_are_kept(tmp_path):
    names = np.array(["cat", "owl", "10"])
    by_number = opened(saved(tmp_path, x=BYTES, y=LABEL.astype(float), class_names=names))
    assert by_number.symbols["label"] == ("cat", "owl", "10")
    by_name = opened(saved(tmp_path, x=BYTES, y=names[LABEL]))
    assert by_name.symbols["label"] == ("10", "cat", "owl")
    assert both(by_name)[0]["label"][:3].tolist() == [1, 2, 0]


def test_what_is_written_in_other_ways_is_the_same(tmp_path):
    deep = RNG.integers(0, 2**16, (40, 6, 5), np.uint16)
    plain = opened(saved(tmp_path, x=deep, y=["cat", "owl"] * 20))
    other = opened(saved(tmp_path, x=deep.astype(">u2"), y=[b"cat", b"owl"] * 20))
    assert other.notes == plain.notes and other.symbols == plain.symbols
    jax.tree.map(np.testing.assert_array_equal, both(other), both(plain))


def test_numbers_that_no_held_out_example_has_warn_of_nothing(tmp_path):
    x = RNG.normal(size=(40, 2))
    x[9::10, 1] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source = opened(saved(tmp_path, x=x))
    assert source.spaces["x"].missing


def test_captions_are_read(tmp_path):
    said = np.array(["a red owl", "a cat"] * 20)
    source = opened(saved(tmp_path, x=BYTES, text=said))
    train, held = both(source)
    assert source.symbols["text"] == ("", "<unknown>", "a", "owl", "red", "cat")
    assert train["text"][0].tolist() == [2, 4, 3] and held["text"].shape == (4, 3)


@pytest.mark.parametrize(
    ("x", "fields", "space", "note"),
    [
        (BYTES[..., 0] > 99, {}, BINARY, "x: images of 0 and 1"),
        ((BYTES[..., 0] > 99).astype(np.uint8), {"binarise": "threshold"}, BINARY, "0 and 1"),
        (BYTES / 255, {"scale": "symmetric"}, SIGNED, "x: images in [0, 1]"),
        (BYTES / 255, {"scale": "raw"}, UNIT, "x: images in [0, 1]"),
        (BYTES / 255, {"binarise": "dynamic"}, BINARY, "x: images in [0, 1]"),
        (BYTES.astype(np.int64), {"scale": "raw"}, COUNTS, "x: images of 8 bits"),
        (BYTES.astype(np.uint16) * 257, {}, UNIT, "x: images of 16 bits, rounded to 8"),
        (RNG.normal(size=(40, 7)), {"standardise": True}, REAL, "x: numbers from -"),
        (RNG.normal(size=(40, 7, 2)), {}, REAL, "x: numbers from -"),
        (BYTES.reshape(40, -1) % 5, {}, COUNTS, "x: numbers from 0 to 4"),
        (LABEL % 2, {}, BINARY, "x: numbers from 0 to 1"),
        (np.where(LABEL, np.nan, 1.5), {}, REAL, "x: numbers from 1.5 to 1.5, 26 missing"),
    ],
)
def test_what_numbers_are_taken_for(tmp_path, x, fields, space, note):
    source = opened(saved(tmp_path, x=x), **fields)
    assert source.spaces["x"].kind is space.kind
    if np.issubdtype(x.dtype, np.floating):
        assert source.spaces["x"].size in (0, 2)  # No levels.
    assert any(note in said for said in source.notes)
    made = np.asarray(both(source)[0]["x"])
    kept = np.delete(x, np.arange(9, 40, 10), axis=0).astype(np.float32)
    if fields.get("standardise"):
        np.testing.assert_allclose(made, (kept - kept.mean(0)) / kept.std(0), atol=1e-5)
    elif "numbers" in note:
        np.testing.assert_allclose(made, kept.reshape(made.shape))
    elif not fields:
        np.testing.assert_allclose(made, kept.reshape(made.shape) / kept.max(), atol=1e-6)


def test_numbers_far_from_zero_keep_what_they_vary_by(tmp_path):
    seconds = 1.6e9 + np.arange(40.0)
    assert "rounded by up to" in opened(saved(tmp_path, x=seconds)).preprocessing
    made = both(opened(saved(tmp_path, x=seconds), standardise=True))[0]["x"][:, 0]
    kept = np.delete(np.arange(40.0), np.arange(9, 40, 10))
    np.testing.assert_allclose(made, (kept - kept.mean()) / kept.std(), atol=1e-6)


def test_resized_images_in_the_unit_interval_stay_fine(tmp_path):
    smooth = np.linspace(0, 1, 40)[:, None, None] * np.ones((40, 6, 6))
    made = both(opened(saved(tmp_path, x=smooth), resize=3))[0]["x"]
    kept = np.delete(smooth, np.arange(9, 40, 10), axis=0)
    np.testing.assert_allclose(made[..., 0], kept[:, :3, :3], atol=1e-6)


@pytest.mark.parametrize(
    ("held", "fields", "telling"),
    [
        ({"y": LABEL}, {}, "holds y; expected x, and label, text or classes; or x_train"),
        ({"x": BYTES, "images": BYTES}, {}, "both 'x' and 'images' are x"),
        ({"x": BYTES, "x_train": BYTES}, {}, "expected x"),
        ({"x_test": BYTES, "x_val": BYTES}, {}, "expected x, and label"),
        ({"x": BYTES, "y": LABEL[1:]}, {}, "as many of each, and one at least, got 40 of x, 39 of"),
        ({"x": BYTES[:0]}, {}, "got 0 of x"),
        (
            {"x_train": BYTES, "x_test": BYTES / 1.0},
            {},
            r"alike, got uint8 \[6, 5, 3\] and float64",
        ),
        (
            {"x": BYTES, "y": np.eye(40)},
            {},
            r"got float64 \[40\] for each; of rows .* label.argmax",
        ),
        ({"x": BYTES, "y": -LABEL}, {}, "a number from 0 or a name, got -1; number the classes"),
        ({"x": BYTES, "y": LABEL * 10**9}, {}, r"got 1e\+09; number the classes 0, 1, ..."),
        ({"x": np.full((40, 2), 1e39)}, {}, "too large for float32"),
        ({"x": np.full((40, 2), np.nan)}, {}, r"expected numbers at \[0\] of each x"),
        ({"x": np.array([[0, np.nan]] * 40)}, {}, r"expected numbers at \[1\] of each x"),
        ({"x": BYTES, "y": LABEL + 0.5}, {}, "a number from 0 or a name"),
        ({"x": BYTES, "y": LABEL, "classes": ["a"]}, {}, "1 classes have names, and a label is 2"),
        ({"x_train": BYTES, "y_train": LABEL, "x_test": BYTES}, {}, "the other none"),
        ({"x": BYTES.transpose(0, 3, 1, 2)}, {}, r"got \[3, 6, 5\] for each; write x.trans"),
        ({"x": np.full((40, 2), np.inf)}, {}, "some numbers of x are infinite"),
        ({"x": np.array(["a"] * 40)}, {}, "expected numbers for x, got <U1"),
        ({"x": np.zeros((40, 0))}, {}, r"expected numbers for x, got float64 \[36, 0\]"),
        ({"x": BYTES, "y": ["a", ""] * 20}, {}, "and some have none"),
        ({"x": BYTES, "y": LABEL, "classes": ["a", "b", "a"]}, {}, "several classes have one name"),
        ({"x": np.array([{}] * 40)}, {}, "it holds Python objects"),
        (
            {"x": RNG.normal(size=(40, 7))},
            {"resize": 4},
            r"resize=4 is for images.*\[7\] for each",
        ),
        ({"x": BYTES}, {"standardise": True}, "no images, and .* has images of 8 bits"),
        ({"x": BYTES / 255}, {"dequantise": True}, "dequantise needs levels"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, held, fields, telling):
    with pytest.raises(DataError, match=telling):
        opened(saved(tmp_path, **held), **fields)


def test_files_that_are_no_arrays_are_refused(tmp_path):
    with pytest.raises(DataError, match="there is no such file"):
        opened(tmp_path / "none.npy")
    (tmp_path / "torn.npz").write_bytes(saved(tmp_path, x=BYTES).read_bytes()[:500])
    (tmp_path / "text.npy").write_text("no array")
    for name in ("torn.npz", "text.npy"):
        with pytest.raises(DataError, match=r"cannot be read .*numpy.savez"):
            opened(tmp_path / name)
