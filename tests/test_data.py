"""Data: batch i is a function of (seed, i), and what is done to the data is what is declared."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from sklearn.datasets import load_digits

from genjax_zoo.contract import ConfigError, DataError
from genjax_zoo.data import clips, images, tables
from genjax_zoo.data.config import PATHS, Data, located
from genjax_zoo.data.densities import DENSITIES
from genjax_zoo.data.pixels import preprocess, resized
from genjax_zoo.data.source import digest_of, feeds, order
from genjax_zoo.data.sources import open_source
from genjax_zoo.run.devices.sharding import Devices, lay_out, own_rows

TFDS = pathlib.Path(__file__).resolve().parents[2] / "shared" / "tensorflow_datasets"
prepared = pytest.mark.skipif(
    not TFDS.is_dir(), reason=f"needs the data sets prepared in {TFDS}, which is not there"
)


def batch(source, step=0, key=None, size=100):
    fed = source.feed(step, slice(0, size))
    key = jax.random.key(step) if key is None else key
    return jax.tree.map(np.asarray, jax.jit(source.batch)(key, source.resident, fed))


# ------------------------------------------------------------------------------------------ order


@pytest.mark.parametrize("size, batch_size", [(10, 3), (7, 7), (5, 12), (1438, 100)])
def test_every_example_is_seen_once_an_epoch_across_the_seams(size, batch_size):
    rows = np.concatenate([order(3, size, batch_size, step) for step in range(4 * size)])
    for epoch in range(len(rows) // size):
        assert sorted(rows[epoch * size : (epoch + 1) * size]) == list(range(size))


def test_order_is_a_function_of_the_seed_and_the_step():
    first = order(0, 1000, 100, 5)
    for step in range(40):  # Fills and empties the cache of permutations.
        order(1, 1000, 100, step)
    assert np.array_equal(order(0, 1000, 100, 5), first)
    assert not np.array_equal(order(1, 1000, 100, 5), first)
    # Epoch 1 is not epoch 0 again, and its order is no sorted one.
    assert not np.array_equal(order(0, 1000, 100, 15), first)
    assert np.any(np.diff(first) < 0)


def test_feeds_read_ahead_are_the_feeds_in_their_order():
    source = open_source(Data(batch_size=10), seed=0)
    chunks = [(0, 3), (3, 4), (4, 9), (9, 11)]
    ahead = list(feeds(source, chunks, slice(0, 10)))
    assert len(ahead) == len(chunks)
    for (start, stop), fed in zip(chunks, ahead, strict=True):
        assert np.array_equal(fed, [order(0, 1438, 10, step) for step in range(start, stop)])


def test_processes_share_a_batch_without_gap_or_overlap(monkeypatch):
    source = open_source(Data(batch_size=12), seed=0)
    layout = lay_out(Devices())
    # Six devices of three processes, and not in the processes' order.
    held = {0: (3, 0), 1: (1, 4), 2: (2, 5)}
    parts = {}
    for process, places in held.items():
        slices = {p: (slice(2 * p, 2 * p + 2),) for p in places}
        monkeypatch.setattr(
            NamedSharding, "addressable_devices_indices_map", lambda *_, s=slices: s
        )
        parts[process] = source.feed(4, own_rows(layout, 12))
    whole = order(0, 1438, 12, 4)
    for process, places in held.items():
        rows = [r for p in sorted(places) for r in (2 * p, 2 * p + 1)]
        assert np.array_equal(parts[process], whole[rows])


# ----------------------------------------------------------------------------------------- digits


def test_digits_are_split_by_every_fifth_and_nothing_is_in_both():
    source = open_source(Data(), seed=0)
    assert (source.size, source.held_out_size) == (1438, 359)
    all_of_them = load_digits()
    held = source.held_out(jax.random.key(0), 0, 359)
    assert np.array_equal(np.asarray(held["x"])[..., 0] * 16, all_of_them.images[4::5])
    assert np.array_equal(held["label"], all_of_them.target[4::5])
    epoch = np.concatenate([order(0, 1438, 1438, 0)])
    train = source.batch(jax.random.key(0), source.resident, epoch)
    back = np.argsort(epoch)
    rest = np.arange(1797) % 5 != 4
    assert np.array_equal(np.asarray(train["x"])[back, :, :, 0] * 16, all_of_them.images[rest])
    assert np.array_equal(np.asarray(train["label"])[back], all_of_them.target[rest])
    assert train["x"].dtype == jnp.float32 and train["label"].dtype == jnp.int32


def test_a_part_of_the_held_out_data_is_that_part():
    source = open_source(Data(), seed=0)
    key = jax.random.key(0)
    whole = source.held_out(key, 0, 359)["x"]
    assert np.array_equal(source.held_out(key, 100, 200)["x"], whole[100:200])


# ---------------------------------------------------------------------------------- preprocessing


GREY = batch(open_source(Data(), 0))["x"]


def test_threshold():
    x = batch(open_source(Data(binarise="threshold"), 0))["x"]
    assert np.array_equal(x, GREY > 0.5)
    assert np.sum(GREY == 0.5) > 0  # The level in the middle is black, and it occurs.


def test_dynamic_binarisation_is_a_draw_of_the_grey_value_at_every_access():
    source = open_source(Data(binarise="dynamic"), 0)
    draws = np.stack([batch(source, key=jax.random.key(i))["x"] for i in range(400)])
    assert set(np.unique(draws)) == {0.0, 1.0}
    # 6400 means of 400 draws: five standard errors at most, and exact where there is no doubt.
    error = np.abs(draws.mean(0) - GREY)
    assert np.all(error <= 5 * np.sqrt(GREY * (1 - GREY) / 400))
    assert not np.array_equal(draws[0], draws[1])
    assert np.array_equal(batch(source, key=jax.random.key(0))["x"], draws[0])


def test_dequantised_data_are_one_level_wide_and_stay_below_one():
    source = open_source(Data(dequantise=True), 0)
    x = batch(source)["x"]
    level = x * 17 - GREY * 16
    assert -1e-5 < level.min() < 0.01 and 0.99 < level.max() < 1 + 1e-5
    assert abs(level.mean() - 0.5) < 0.02
    assert x.min() >= 0 and x.max() < 1


def test_rounding_does_not_carry_a_dequantised_value_to_one(monkeypatch):
    below = np.nextafter(np.float32(1), np.float32(0))
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape: jnp.full(shape, below))
    white = np.full((1, 1), 255, np.uint8)
    process = preprocess(Data(dequantise=True), 256)
    assert float((np.float32(255) + below) / 256) == 1.0  # What it guards against.
    assert float(process(jax.random.key(0), white)[0, 0]) < 1


@pytest.mark.parametrize("scale, low, high", [("unit", 0, 1), ("symmetric", -1, 1), ("raw", 0, 16)])
def test_scale(scale, low, high):
    source = open_source(Data(scale=scale), 0)
    x = batch(source)["x"]
    assert source.interval == (low, high)
    np.testing.assert_allclose(x, low + (high - low) * GREY, atol=1e-6)
    assert f"[{low}, {high}]" in source.preprocessing


@pytest.mark.parametrize("shape, side", [((8, 8, 1), 16), ((28, 28, 1), 32), ((9, 14, 3), 5)])
def test_resizing_is_jax_image_resize(shape, side):
    x = np.random.default_rng(0).integers(0, 256, (3, *shape), np.uint8)
    ours = resized(x, side)
    like = jax.image.resize(jnp.asarray(x, jnp.float32), (3, side, side, shape[-1]), "bilinear")
    assert ours.dtype == np.uint8 and ours.shape == like.shape
    assert np.max(np.abs(ours - np.asarray(like))) <= 0.501
    assert np.array_equal(resized(x[1], side), ours[1])
    assert resized(x, 0) is x


def test_resized_digits_say_so():
    source = open_source(Data(resize=16), 0)
    assert batch(source)["x"].shape == (100, 16, 16, 1)
    assert "16x16x1 (resized)" in source.preprocessing


@pytest.mark.parametrize(
    "fields, telling",
    [
        ({"source": "digit"}, "none of digits, density:NAME"),
        ({"source": "digits:3"}, "none of"),
        ({"source": "tfds:"}, "none of"),
        ({"source": "density:rings"}, "Did you mean 'ring'"),
        ({"source": "density:rings", "binarise": "dynamic"}, "Did you mean 'ring'"),
        ({"batch_size": 0}, r"^data: batch_size should be in \[1, 1000000\], got 0"),
        ({"binarise": "dynamic", "dequantise": True}, "nothing to dequantise"),
        ({"source": "density:ring", "binarise": "dynamic"}, "is for images"),
        ({"source": "text:x.txt", "resize": 3}, "is for images"),
        ({"stack": 0}, r"stack should be in \[1, 9\], got 0"),
        ({"stack": 10}, r"stack should be in \[1, 9\], got 10"),
        ({"source": "density:ring", "stack": 3}, "is for images"),
        ({"source": "text:x.txt", "stack": 3}, "is for images"),
    ],
)
def test_a_declaration_that_cannot_be_kept_is_refused(fields, telling):
    with pytest.raises(ConfigError, match=telling):
        open_source(Data(**fields), 0)


def test_a_path_without_its_kind_is_told_which_it_may_be(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"")
    for path, kind in ((tmp_path, "folder"), (tmp_path / "a.npz", "array")):
        with pytest.raises(ConfigError, match=f"none of digits.* Did you mean {kind}:{path}"):
            open_source(Data(source=str(path)), 0)


def test_a_batch_larger_than_the_data_is_refused():
    advice = "1438 examples for training, fewer than .*1439: set --config.data.batch_size=1438"
    with pytest.raises(DataError, match=advice):
        open_source(Data(batch_size=1439), 0)
    open_source(Data(batch_size=1438), 0)


@pytest.mark.parametrize(
    ("source", "meant"),
    [
        ("folder:pics", "folder:{here}/pics"),
        ("array:./a.npz", "array:{here}/a.npz"),
        ("text:~/b.txt", "text:{home}/b.txt"),
        ("series:flow.csv", "series:{here}/flow.csv"),
        ("clip:/frames", "clip:/frames"),
        ("captions:folder:digits", "captions:folder:{here}/digits"),
        *[(same, same) for same in ("digits", "series:nile", "clip:waves", "tfds:mnist")],
        *[(same, same) for same in ("table:iris", "captions:digits", "folder:", "none:x")],
    ],
)
def test_a_path_in_the_config_is_kept_as_it_was_meant(source, meant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert located(source) == meant.format(here=tmp_path, home=pathlib.Path.home())
    assert PATHS["series"] == tuple(tables.SERIES) and PATHS["clip"] == tuple(clips.CLIPS)


def test_a_digest_is_of_the_data_and_of_nothing_else():
    one, other, threes = (
        open_source(Data(source=source, **fields), seed)
        for source, seed, fields in (
            ("digits", 0, {}),
            ("digits", 1, {"batch_size": 7, "binarise": "dynamic"}),
            ("digits", 0, {"resize": 3}),
        )
    )
    assert one.digest() == other.digest() != threes.digest()
    assert len(one.digest()) == 64 and open_source(Data(source="density:ring"), 0).digest() == ""
    shapes = np.arange(4), np.arange(4.0), np.arange(4)[:, None], np.arange(4)[::-1]
    arrays = *shapes, np.arange(4.0, dtype=np.float32), None, ("a", "b"), ("ab",), "ab"
    assert len({digest_of(array) for array in arrays}) == len(arrays)
    assert digest_of(np.arange(8)[::2]) == digest_of(np.arange(0, 8, 2))


# ----------------------------------------------------------------------------------------- stacks


def stacks(size=100, seed=0, **fields):
    return open_source(Data(batch_size=size, stack=3, **fields), seed)


def unstacked(made):
    """The images [B, 3, 8, 8] of a batch of stacks, and their labels [B, 3]."""
    label = np.asarray(made["label"])
    return np.moveaxis(np.asarray(made["x"]), -1, 1), np.stack(
        [label // 10**k % 10 for k in (0, 1, 2)], 1
    )


def rows_in(images, x):
    """Which of `images` [n, 8, 8] each of x [m, 8, 8] is, by looking at all of them."""
    same = np.all(np.abs(images - x[:, None]) < 1e-6, axis=(2, 3))
    assert np.all(same.any(1))
    return same.argmax(1)


def test_every_channel_of_a_stack_is_an_image_with_its_digit_of_the_label():
    source, single = stacks(), open_source(Data(), 0)
    made = batch(source, 2)
    assert made["x"].shape == (100, 8, 8, 3) and made["label"].dtype == np.int32
    x, digits = unstacked(made)
    grey = np.asarray(single.resident.x[..., 0]) / np.float32(16)
    for k in range(3):
        assert np.array_equal(single.resident.label[rows_in(grey, x[:, k])], digits[:, k])
    assert (source.size, source.held_out_size) == (single.size, single.held_out_size)
    assert "8x8x3, 3 independently drawn images" in source.preprocessing


def test_places_of_a_stack_go_through_all_images_each_in_its_own_order():
    source = stacks(1438)
    fed = source.feed(0, slice(None))
    assert fed.shape == (1438, 3)
    for k in range(3):
        assert sorted(fed[:, k]) == list(range(1438))
    # Independent orders agree in one place on average: more than ten, once in ten million times.
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.sum(fed[:, one] == fed[:, other]) <= 10
        again = source.feed(1, slice(None))
        assert np.sum(fed[:, one] == again[:, one]) <= 10
    # Chi-square of the 100 pairs of labels against independence: mean 81, deviation 12.7.
    label = source.resident.label[fed]
    counts = np.histogram2d(label[:, 0], label[:, 1], bins=10)[0]
    expected = np.outer(counts.sum(1), counts.sum(0)) / counts.sum()
    assert np.sum((counts - expected) ** 2 / expected) < 81 + 5 * 12.7


def test_stacks_are_a_function_of_the_seed_and_the_step_and_processes_share_them():
    first = stacks(12).feed(130, slice(0, 12))  # Across the seam of two epochs.
    for step in range(40):
        stacks(12, seed=1).feed(step, slice(0, 12))
    source = stacks(12)
    assert np.array_equal(source.feed(130, slice(0, 12)), first)
    assert not np.array_equal(stacks(12, seed=1).feed(130, slice(0, 12)), first)
    parts = [source.feed(130, slice(i, i + 4)) for i in (0, 4, 8)]
    assert np.array_equal(np.concatenate(parts), first)
    (ahead,) = feeds(source, [(129, 131)], slice(4, 8))
    assert np.array_equal(ahead[1], first[4:8])


def test_held_out_stacks_are_the_same_for_every_seed_and_of_held_out_images():
    source, single = stacks(), open_source(Data(), 0)
    key = jax.random.key(0)
    whole, alone = (s.held_out(key, 0, 359) for s in (source, single))
    x, digits = unstacked(whole)
    grey = np.asarray(alone["x"])[..., 0]
    for k in range(3):
        at = rows_in(grey, x[:, k])
        assert sorted(at) == list(range(359))
        assert np.array_equal(np.asarray(alone["label"])[at], digits[:, k])
    part = stacks(seed=5).held_out(key, 100, 200)
    assert np.array_equal(part["x"], whole["x"][100:200])
    assert np.array_equal(part["label"], whole["label"][100:200])


# -------------------------------------------------------------------------------------- densities


@pytest.mark.parametrize("name", DENSITIES)
def test_densities_are_drawn_anew_at_every_step_and_held_out_draws_are_fixed(name):
    source = open_source(Data(source=f"density:{name}", batch_size=20), 0)
    first, second = (batch(source, step, size=20)["x"] for step in (0, 1))
    assert first.dtype == np.float32 and source.size is None
    assert not np.array_equal(first, second)
    assert np.array_equal(batch(source, 0, size=20)["x"], first)
    held = source.held_out(jax.random.key(0), 0, 30)["x"]
    assert np.array_equal(source.held_out(jax.random.key(1), 10, 30)["x"], held[10:])
    if first.shape == (20, 2):
        assert not np.any(np.isin(held, first))


# ------------------------------------------------------------------------------------------ texts


def test_a_text_is_windows_that_start_anywhere(tmp_path):
    text = "".join(np.random.default_rng(0).choice(list("abcdé \n"), 1000))
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    source = open_source(Data(source=f"text:{tmp_path}/a.txt", batch_size=50, length=20), 0)
    letters = np.array(sorted(set(text)))
    spell = lambda codes: ["".join(letters[row]) for row in np.asarray(codes)]
    x = batch(source, size=50)["x"]
    assert x.shape == (50, 20) and x.dtype == np.int32
    starts = source.feed(0, slice(0, 50))
    assert spell(x) == [text[s : s + 20] for s in starts]
    # Every window that fits into the first nine tenths, and no other.
    assert source.size == 900 - 20 + 1
    held = spell(source.held_out(jax.random.key(0), 0, 5)["x"])
    assert source.held_out_size == 5 and "".join(held) == text[900:]
    assert source.tokenizer.pieces == tuple(letters) and source.notes == (
        f"{len(text.encode())} bytes, 900+100 characters",
    )
    # A mark of the order of bytes is no character, and what training never shows is said.
    (tmp_path / "b.txt").write_text("\ufeff" + "ab" * 45 + "cab" * 3, encoding="utf-8")
    marked = open_source(Data(source=f"text:{tmp_path}/b.txt", length=5, batch_size=2), 0)
    assert marked.tokenizer.pieces == ("a", "b", "c")
    assert "1 symbols are held out alone" in marked.notes


def test_texts_that_give_no_data_say_why(tmp_path):
    with pytest.raises(DataError, match="cannot be read: No such file"):
        open_source(Data(source=f"text:{tmp_path}/none.txt"), 0)
    (tmp_path / "latin.txt").write_bytes("déjà vu".encode("latin-1"))
    with pytest.raises(DataError, match="is not UTF-8"):
        open_source(Data(source=f"text:{tmp_path}/latin.txt"), 0)
    (tmp_path / "short.txt").write_text("to be or not to be")
    with pytest.raises(DataError, match=r"16 \+ 2 characters, too few"):
        open_source(Data(source=f"text:{tmp_path}/short.txt"), 0)


# ------------------------------------------------------------------------------------------- tfds


@pytest.mark.slow
@prepared
def test_mnist_whole(monkeypatch):
    source = open_source(Data(source="tfds:mnist"), 0, str(TFDS))
    assert (source.size, source.held_out_size) == (60_000, 10_000)
    assert source.held_out_split == "test" and source.resident.x.shape == (60_000, 28, 28, 1)
    # Well-known facts: the mean grey value and the counts of the ten digits.
    assert source.resident.x.mean() / 255 == pytest.approx(0.1306604, abs=1e-6)
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(source.resident.label).tolist() == counts
    assert "grey levels" in source.preprocessing
    assert "version 3.0.1" in source.notes
    assert source.symbols["label"] == tuple("0123456789")

    monkeypatch.setattr(images, "RESIDENT_BYTES", 10**6)
    on_disk = open_source(Data(source="tfds:mnist"), 0, str(TFDS))
    for step in (0, 599, 600):
        one, other = batch(source, step), batch(on_disk, step)
        assert np.array_equal(one["x"], other["x"]) and np.array_equal(one["label"], other["label"])
    key = jax.random.key(0)
    one, other = (s.held_out(key, 9_900, 10_000) for s in (source, on_disk))
    assert np.array_equal(one["x"], other["x"])


@prepared
def test_tiny_shakespeare():
    data = Data(source="tfds:tiny_shakespeare", batch_size=2, length=30)
    source = open_source(data, 0, str(TFDS))
    # nanoGPT's split: its validation text is validation and test together.
    assert source.size == 1_003_854 - 30 + 1
    assert source.held_out_split == "validation+test"
    assert source.held_out_size == 111_540 // 30
    assert "65 symbols" in source.preprocessing
    # The text begins "First Citizen:\nBefore".
    letters = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    assert "".join(letters[c] for c in source.resident[:14]) == "First Citizen:"


@pytest.mark.parametrize("name", ["mnist", "no_such_data_set"])
def test_a_data_set_that_is_not_there_says_how_to_get_it(name, tmp_path):
    with pytest.raises(DataError) as caught:
        open_source(Data(source=f"tfds:{name}"), 0, str(tmp_path))
    message = str(caught.value)
    assert "\n" not in message and str(tmp_path) in message
    assert "download_and_prepare()" in message and "--data_dir" in message
    assert "digits" in message and "density:ring" in message
    assert list(tmp_path.iterdir()) == []
