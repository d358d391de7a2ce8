"""Extractors: the zoo's own see what they claim to, and a file that is not what it says is told."""

import json
import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from genjax_zoo.contract import ConfigError, DataError
from genjax_zoo.data.config import Data
from genjax_zoo.data.sources import open_source
from genjax_zoo.measure import extractors
from tests.conftest import ROOT

MNIST = ROOT.parent / "shared" / "tensorflow_datasets"
SMALL = extractors.Architecture(shape=(4, 4, 1), classes=3, widths=(2,), features=5)


@pytest.fixture
def small(tmp_path):
    """A file of a tiny extractor."""
    params = extractors.classifier(SMALL).init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))
    extractors.save(tmp_path / "small.safetensors", "small", SMALL, params, {"data": "none"})
    return tmp_path / "small.safetensors"


BINARISED = {
    "grey": lambda x: x,
    "threshold": lambda x: x > 0.5,
    "dynamic": lambda x: np.random.default_rng(0).random(x.shape) < x,
}


def knows(name, source, least):
    batch = source.held_out(jax.random.key(0), 0, source.held_out_size)
    x, label, extractor = (
        np.asarray(batch["x"]),
        np.asarray(batch["label"]),
        extractors.bundled(name),
    )
    for binarised, accuracy in least.items():
        p = extractor.probabilities(BINARISED[binarised](x))
        np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)
        assert np.mean(p.argmax(1) == label) >= accuracy, binarised


def test_the_extractor_of_the_digits_knows_digits():
    knows("digits", open_source(Data(), 0), {"grey": 0.985, "threshold": 0.97})


def test_the_extractor_of_mnist_knows_mnist():
    if not (MNIST / "mnist").is_dir():
        pytest.skip(f"MNIST is not prepared in {MNIST}")
    source = open_source(Data("tfds:mnist"), 0, str(MNIST))
    knows("mnist", source, {"grey": 0.99, "threshold": 0.99, "dynamic": 0.985})


def test_those_of_the_zoo_are_small_and_say_how_they_were_made():
    assert extractors.names() == ["digits", "mnist"]
    for name in extractors.names():
        path = extractors.FOLDER / f"{name}.safetensors"
        assert path.stat().st_size < 500_000
        header = extractors.about(path)
        assert {"data", "command", "seed", "accuracy", "sha256", "made"} <= set(header)
        assert float(header["accuracy"].split()[0]) >= 0.985
        assert extractors.bundled(name).sha256 == header["sha256"]
    told = (ROOT / "setup.cfg").read_text()
    assert "extractors/*.safetensors" in told and "safetensors>=" in told


def test_features_do_not_depend_on_the_batch(small):
    extractor = extractors.load(small)
    x = np.random.default_rng(0).random((extractors.BATCH + 7, 4, 4, 1), np.float32)
    whole = extractor.features(x)
    assert whole.shape == (len(x), 5)
    np.testing.assert_array_equal(extractor.features(x[-9:]), whole[-9:])
    assert extractor.probabilities(x).shape == (len(x), 3)


def test_a_file_gives_back_what_was_saved(small):
    params = extractors.classifier(SMALL).init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))
    own, back = extractors.make("small", SMALL, params), extractors.load(small)
    x = np.random.default_rng(0).random((3, 4, 4, 1))
    np.testing.assert_array_equal(own.features(x), back.features(x))
    assert (own.name, own.sha256, own.shape) == (back.name, back.sha256, back.shape)


def test_the_hash_sees_a_bit_a_name_and_the_architecture():
    params = {"a": {"b": np.ones((2, 3), np.float32)}}
    bit = np.ones((2, 3), np.float32)
    bit.view(np.uint32)[1, 1] ^= 1
    other = extractors.Architecture((4, 4, 1), 4, (2,), 5)
    prints = [
        extractors.fingerprint(SMALL, params),
        extractors.fingerprint(SMALL, {"a": {"b": bit}}),
        extractors.fingerprint(SMALL, {"a": {"c": params["a"]["b"]}}),
        extractors.fingerprint(SMALL, {"a": {"b": np.ones((3, 2), np.float32)}}),
        extractors.fingerprint(other, params),
    ]
    assert len(set(prints)) == 5
    assert extractors.fingerprint(SMALL, {"a": {"b": np.ones((2, 3), np.float32)}}) == prints[0]


def test_images_of_another_shape(small):
    with pytest.raises(DataError, match=r"takes images \[4, 4, 1\], got \[8, 8, 1\]"):
        extractors.load(small).features(np.zeros((2, 8, 8, 1)))
    assert extractors.for_data("digits", (8, 8, 3)) is None
    assert extractors.for_data("elsewhere", (8, 8, 1)) is None
    assert extractors.for_data("digits", (8, 8, 1)).name == "digits"


def _cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 0x10
    path.write_bytes(bytes(content))


def _replace(path):
    path.write_text("not an extractor")


def _empty(path):
    path.write_bytes(b"")


def _foreign(path):
    safetensors.numpy.save_file({"w": np.zeros(3)}, path)


def _other_shape(path):
    header = extractors.about(path)
    fields = json.loads(header["architecture"]) | {"features": 6}
    header["architecture"] = json.dumps(fields, sort_keys=True)
    tensors = safetensors.numpy.load_file(path)
    safetensors.numpy.save_file(tensors, path, metadata=header)


def _other_field(path):
    header = extractors.about(path)
    header["architecture"] = json.dumps({"depth": 6})
    tensors = safetensors.numpy.load_file(path)
    safetensors.numpy.save_file(tensors, path, metadata=header)


@pytest.mark.parametrize(
    "damage, telling",
    [
        (_cut, "cannot be read"),
        (_flip, "is damaged"),
        (_replace, "cannot be read"),
        (_empty, "cannot be read"),
        (_foreign, "is no extractor"),
        (_other_shape, "is damaged"),
        (_other_field, "cannot be read"),
        (pathlib.Path.unlink, "does not exist"),
    ],
)
def test_a_damaged_file_is_one_clear_error(small, damage, telling):
    damage(small)
    with pytest.raises(DataError, match=telling) as caught:
        extractors.load(small)
    assert "\n" not in str(caught.value)


def test_an_unknown_name():
    with pytest.raises(ConfigError, match="Did you mean 'mnist'"):
        extractors.bundled("mnits")


def test_the_script_makes_one(tmp_path, monkeypatch):
    path = tmp_path / "mine.safetensors"
    words = ["--source=digits", "--steps=3", f"--out={path}"]
    monkeypatch.setattr("sys.argv", ["extractors.py", *words])
    runpy.run_path(str(ROOT / "experiments" / "extractors.py"))["main"]()
    assert extractors.load(path).shape == (8, 8, 1)
    assert str(tmp_path) not in str(extractors.about(path))


def test_images_of_another_size_are_resized_and_the_protocol_says_so():
    own, larger = extractors.bundled("digits"), extractors.for_data("digits", (16, 16, 1))
    x = np.random.default_rng(0).uniform(size=(5, 8, 8, 1)).astype(np.float32)
    doubled = np.repeat(np.repeat(x, 2, 1), 2, 2)
    # Bilinear shrinking by two averages with neighbours, so the features are near, not equal.
    assert larger.features(doubled).shape == own.features(x).shape
    flat = np.full((2, 16, 16, 1), 0.3, np.float32)
    np.testing.assert_allclose(
        larger.features(flat), own.features(flat[:, :8, :8]), rtol=1e-4, atol=1e-5
    )
    assert larger.sha256 == own.sha256 and larger.preprocessing != own.preprocessing
    assert "resized (bilinear) from 16x16x1 to 8x8x1" in larger.preprocessing
