"""Folders and archives of images: what names say, what is left out, and what is read."""

import csv
import io
import json
import os
import tarfile
import zipfile

import jax
import numpy as np
import pytest
from PIL import Image

from genjax_zoo.commands.sample import given
from genjax_zoo.contract import ConfigError, DataError
from genjax_zoo.data import images, summary
from genjax_zoo.data.config import Data
from genjax_zoo.data.files import image, tree
from genjax_zoo.data.files.splits import parts, split_of
from genjax_zoo.data.source import feeds
from genjax_zoo.data.sources import open_source, tokeniser
from tests.test_data import batch


def draw(path, shape=(6, 5), seed=0, mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (*shape, 3) if mode == "RGB" else shape
    x = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    Image.fromarray(x, mode).save(path)
    return x


def folder(path, **fields):
    return open_source(Data(source=f"folder:{path}", **({"batch_size": 2} | fields)), 0)


def rows_of(source):
    """The training images in the order of their files."""
    rows = np.arange(source.size)
    return jax.tree.map(np.asarray, source.batch(jax.random.key(0), source.resident, rows))


def test_a_flat_folder_keeps_every_tenth_image_back(tmp_path):
    drawn = [draw(tmp_path / f"{i:02}.png", seed=i) for i in range(20)]
    draw(tmp_path / "._hidden.png")
    (tmp_path / "notes.txt").write_text("no image")
    source = folder(tmp_path)
    assert (source.size, source.held_out_size) == (18, 2)
    train = [drawn[i] for i in range(20) if i not in (9, 19)]
    np.testing.assert_allclose(rows_of(source)["x"][..., 0] * 255, train, atol=1e-4)
    held = source.held_out(jax.random.key(0), 0, 2)
    np.testing.assert_allclose(held["x"][..., 0] * 255, [drawn[9], drawn[19]], atol=1e-4)
    assert "label" not in held


def test_classes_have_one_number_in_both_parts(tmp_path):
    for i, name in enumerate(["train/a", "train/b", "train/c", "test/c", "test/a"]):
        draw(tmp_path / name / "x.png", seed=i, mode="RGB")
    source = folder(tmp_path)
    assert rows_of(source)["x"].shape == (3, 6, 5, 3)
    assert rows_of(source)["label"].tolist() == [0, 1, 2]
    assert source.symbols == {"label": ("a", "b", "c")} and source.spaces["label"].size == 3
    assert source.held_out_split == "test"
    assert source.held_out(jax.random.key(0), 0, 2)["label"].tolist() == [0, 2]


def test_a_few_images_are_their_own_test_and_that_is_said(tmp_path):
    for i in range(3):
        draw(tmp_path / f"{i}.png", seed=i)
    assert folder(tmp_path).held_out_split == "the training images themselves"


def test_sixteen_bits_are_not_clipped_to_eight(tmp_path):
    x = np.array([[0, 257 * 100], [257 * 200, 65535]], np.uint16)
    for i in range(2):
        Image.fromarray(x).save(tmp_path / f"{i}.png")
    np.testing.assert_allclose(rows_of(folder(tmp_path))["x"][0, ..., 0] * 255, x / 257, atol=1e-4)


def test_images_that_differ_in_size_need_resize(tmp_path):
    draw(tmp_path / "a.png", (6, 5))
    draw(tmp_path / "b.png", (4, 9))
    with pytest.raises(DataError, match=r"\(4, 9, 1\), \(6, 5, 1\).*config.data.resize"):
        folder(tmp_path)
    assert rows_of(folder(tmp_path, resize=4))["x"].shape == (2, 4, 4, 1)


def test_grey_among_colour_is_refused_or_made_one(tmp_path):
    draw(tmp_path / "a.png", (4, 4))
    draw(tmp_path / "b.png", (4, 4), mode="RGB")
    with pytest.raises(DataError, match=r"config\.data\.channels to 1 .grey. or 3 .colour."):
        folder(tmp_path)
    grey, colour = (rows_of(folder(tmp_path, channels=n))["x"] for n in (1, 3))
    assert grey.shape == (2, 4, 4, 1) and colour.shape == (2, 4, 4, 3)
    # Of what is coloured the luma, of what is grey three times the same.
    with Image.open(tmp_path / "b.png") as image:
        np.testing.assert_allclose(grey[1, ..., 0] * 255, np.asarray(image.convert("L")), atol=1.01)
    assert np.all(colour[0] == colour[0][..., :1])
    np.testing.assert_array_equal(colour[0][..., :1], grey[0])


def test_folders_that_give_no_data_say_why(tmp_path):
    with pytest.raises(DataError, match="there is no such folder"):
        folder(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no image"):
        folder(tmp_path / "empty")
    draw(tmp_path / "half" / "train" / "a.png")
    (tmp_path / "half" / "test").mkdir()
    with pytest.raises(DataError, match="half/test holds no image"):
        folder(tmp_path / "half")
    draw(tmp_path / "torn" / "a.png", (60, 50))
    draw(tmp_path / "torn" / "b.png", (60, 50))
    whole = (tmp_path / "torn" / "b.png").read_bytes()
    (tmp_path / "torn" / "b.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"b\.png is not a readable image"):
        folder(tmp_path / "torn")
    (tmp_path / "torn" / "b.png").write_text("not at all an image")
    with pytest.raises(DataError, match=r"b\.png is not a readable image"):
        folder(tmp_path / "torn")


@pytest.mark.parametrize(
    "fields",
    [{}, {"binarise": "dynamic"}, {"dequantise": True, "scale": "symmetric"}, {"stack": 2}],
)
@pytest.mark.parametrize("resize", [0, 7])
def test_what_stays_on_disk_gives_the_bits_of_what_rests_on_the_device(
    tmp_path, monkeypatch, fields, resize
):
    for i in range(23):
        draw(tmp_path / "ab"[i % 2] / f"{i:02}.png", seed=i, mode="RGB")
    declared = {"batch_size": 4, "resize": resize, **fields}
    resident = folder(tmp_path, **declared)
    monkeypatch.setattr(images, "RESIDENT_BYTES", 100)
    on_disk = folder(tmp_path, **declared)
    assert resident.resident and on_disk.resident == ()
    for key in range(2):
        whole, read = (s.training(jax.random.key(key), 3, 9) for s in (resident, on_disk))
        jax.tree.map(np.testing.assert_array_equal, whole, read)
    assert on_disk.notes == (
        *resident.notes,
        "decoded as needed, upright, over white where transparent",
    )
    plain = [s._replace(training=None, notes=(), digest=None)[4:] for s in (resident, on_disk)]
    assert plain[0] == plain[1]  # split, sizes, preprocessing, interval, name, spaces, symbols
    for step in range(8):
        one, other = (batch(source, step, size=4) for source in (resident, on_disk))
        assert np.array_equal(one["x"], other["x"]) and one["x"].dtype == other["x"].dtype
        assert np.array_equal(one["label"], other["label"])
    key = jax.random.key(1)
    one, other = (source.held_out(key, 0, 2) for source in (resident, on_disk))
    assert np.array_equal(one["x"], other["x"]) and np.array_equal(one["label"], other["label"])
    # The feeds of two processes, read ahead by threads, are the two halves.
    for rows in (slice(0, 2), slice(2, 4)):
        (ahead,) = feeds(on_disk, [(2, 4)], rows)
        direct = [on_disk.feed(step, rows) for step in (2, 3)]
        assert np.array_equal(ahead.x, np.stack([d.x for d in direct]))
        assert np.array_equal(ahead.label, np.stack([d.label for d in direct]))


def test_an_image_torn_while_reading_ahead_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "RESIDENT_BYTES", 100)
    for i in range(10):
        draw(tmp_path / f"{i:02}.png", seed=i)
    source = folder(tmp_path)
    (tmp_path / "05.png").write_text("torn")
    with pytest.raises(DataError, match=r"05\.png is not a readable image"):
        list(feeds(source, [(0, 3), (3, 6)], slice(0, 2)))


def test_stacks_need_labels_that_are_digits(tmp_path, monkeypatch):
    for i in range(22):
        draw(tmp_path / "plain" / f"{i:02}.png", seed=i)
        draw(tmp_path / "many" / f"{i:02}" / "x.png", seed=i)
    for limit in (images.RESIDENT_BYTES, 10):
        monkeypatch.setattr(images, "RESIDENT_BYTES", limit)
        with pytest.raises(DataError, match=r"stack=2 makes a label .* has no labels; choose"):
            folder(tmp_path / "plain", stack=2)
        with pytest.raises(DataError, match=r"has labels from \d+ to \d+; choose"):
            source = folder(tmp_path / "many", stack=2, batch_size=15)
            source.feed(0, slice(0, 15))


# ------------------------------------------------------------------------------- what names say


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *[(name, "train") for name in ("train", "Train", "TRAINING", "trainset", "train_images")],
        *[(name, "test") for name in ("test", "Testing", "test_set", "TEST2017")],
        *[
            (name, "validation")
            for name in ("val", "valid", "Validation", "dev", "val2017", "eval")
        ],
        *[(name, None) for name in ("trains", "cat", "extra", "trainer", "contest", "2017", "")],
    ],
)
def test_a_split_is_known_by_many_names(name, split):
    assert split_of(name) == split


def classed(train, held, classes=("cat", "dog"), count=3):
    return [
        f"{split}/{c}/{i}.png" for split in (train, held) for c in classes for i in range(count)
    ]


@pytest.mark.parametrize(
    ("train", "held", "split"),
    [
        ("train", "valid", "validation"),
        ("Train", "Test", "test"),
        ("training", "testing", "test"),
        ("train", "dev", "validation"),
        ("TRAIN", "Validation", "validation"),
        ("pets/train", "pets/val", "validation"),
        ("train_64x64", "valid_64x64", "validation"),
        ("seg_train", "seg_test", "test"),
        ("trainA", "testA", "test"),
        ("SegTrain", "SegTEST", "test"),
        ("train/train", "test/test", "test"),
        ("seg_train/seg_train", "seg_test/seg_test", "test"),
    ],
)
def test_no_held_out_image_is_learnt_from_whatever_the_splits_are_called(train, held, split):
    found = parts(classed(train, held), "pets")
    assert found.classes == ("cat", "dog") and found.split == split
    assert {path.split("/cat")[0].split("/dog")[0] for path, _ in found.train} == {train}
    assert {path.split("/cat")[0].split("/dog")[0] for path, _ in found.held_out} == {held}
    assert all(path.split("/")[-2] == name for path, name in (*found.train, *found.held_out))


def test_splits_may_lie_within_classes():
    paths = [
        f"{c}/{split}/{i}.png" for c in ("cat", "dog") for split in ("Train", "val") for i in "12"
    ]
    found = parts(paths, "pets")
    assert found.classes == ("cat", "dog") and found.split == "validation"
    assert [path for path, _ in found.held_out] == [p for p in paths if "val" in p]


def test_a_word_of_a_name_is_a_split_where_classes_lie_below_it():
    found = parts([*classed("seg_train", "seg_test"), "seg_pred/1.png"], "scenes")
    assert found.classes == ("cat", "dog") and len(found.held_out) == 6
    assert "left out 1 image in seg_pred/" in found.notes
    things = parts(
        [f"{c}/{i}.png" for c in ("bullet_train", "car", "test_tube") for i in "12"], "x"
    )
    assert things.classes == ("bullet_train", "car", "test_tube")


def test_what_is_beside_the_splits_is_left_out_and_said():
    found = parts([*classed("train", "test"), *classed("val", "extra"), "cover.png"], "pets")
    assert len(found.train) == len(found.held_out) == 6 and found.split == "test"
    assert found.notes == (
        "split by train/, test/",
        "left out 1 image beside the splits",
        "left out 6 images in extra/",
        "left out 6 images in val/",
    )


def test_one_split_alone_is_no_class_and_is_split_again():
    found = parts([f"train/{c}/{i}.png" for c in "ab" for i in range(10)], "pets")
    assert found.classes == ("a", "b") and found.split == "test (every tenth)"
    assert len(found.train) == 18 and "all are in train/" in found.notes


def test_a_class_may_be_called_train_where_nothing_is_held_out_beside_it():
    found = parts(["bus/1.png", "car/1.png", "train/1.png"], "traffic")
    assert found.classes == ("bus", "car", "train")
    assert found.notes == ("train/ is taken for a class: nothing is held out beside it",)


def test_a_class_that_is_written_in_two_ways_is_one():
    found = parts(["train/caf\u00e9/1", "train/bar/2", "test/cafe\u0301/3", "test/bar/4"], "here")
    assert found.classes == ("bar", "caf\u00e9")


def test_classes_are_the_first_folders_and_count_naturally():
    found = parts([f"{c}/x.png" for c in ("0", "1", "10", "2", "9/b")], "digits")
    assert found.classes == ("0", "1", "2", "9", "10")
    assert found.notes == ("folders below a class belong to it (9/b)",)


@pytest.mark.parametrize(
    ("paths", "telling"),
    [
        (["train/1.png", "Training/1.png", "test/1.png"], "Training/ and train/ both name the tr"),
        (["test/1.png", "cat/1.png"], "has test/ and no folder for training, but cat/ beside it"),
        (["test/1.png", "val/1.png"], "has test/, val/ and no folder for training; put"),
        (["cat/1.png", "2.png"], "cat/1.png lies in the folder of a class, and 2.png in none"),
        (["train/cat/1.png", "train/dog/1.png", "test/2.png"], "test/2.png in none"),
        (["train/Cat/1.png", "train/dog/1.png", "val/cat/2.png"], "'Cat' and 'cat' differ in cap"),
        (classed("train", "unseen"), "train/ and unseen/ both hold cat/, so they may be splits"),
        (classed("trainA", "testA") + classed("trainB", "testB"), "testA/ and testB/ both name"),
        (["cat/train/1.png", "cat/val/2.png", "dog/3.png"], "in a part of its folders alone"),
    ],
)
def test_names_that_can_be_understood_in_two_ways_are_refused(paths, telling):
    with pytest.raises(DataError, match=telling):
        parts(paths, "here")


def test_whatever_folders_are_called_nothing_is_in_both_parts():
    rng = np.random.default_rng(0)
    names = ("train", "Test", "val", "dev", "cat", "dog", "Cat", "1", "02")
    understood = 0
    for _ in range(400):
        some = rng.choice(names, rng.integers(1, 5))
        depth = rng.integers(0, 4)
        paths = [
            "/".join([*rng.choice(some, depth), f"{i}.png"]) for i in range(rng.integers(1, 24))
        ]
        try:
            found = parts(paths, "here")
        except DataError as error:
            assert "here" in str(error) and "\n" not in str(error)
            continue
        understood += 1
        train, held = ([path for path, _ in part] for part in (found.train, found.held_out))
        assert train and held and {*train, *held} <= {*paths} and len({*train}) == len(train)
        assert train == held or not {*train} & {*held}
        labels = {name for part in (found.train, found.held_out) for _, name in part}
        assert labels == {*found.classes} or len(labels) == 1
        if {*train, *held} != {*paths}:
            assert any(note.startswith("left out") for note in found.notes)
        # Outside of splits no folder that names one is a class, but where that is said.
        if not any(note.startswith(("split by", "all are in")) for note in found.notes):
            odd = [name for name in found.classes if split_of(name)]
            assert all(
                any(f"{n}/ is taken for a class" in note for note in found.notes) for n in odd
            )
    assert understood > 100


def test_archives_of_windows_have_folders_too(tmp_path):
    x = draw(tmp_path / "x.png")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        for name in ("pets\\cat\\1.png", "pets\\dog\\1.png"):
            file.write(tmp_path / "x.png", name)
    source = folder(tmp_path / "a.zip")
    assert source.symbols["label"] == ("cat", "dog") and len(x) == 6


def test_natural_order():
    names = ["frame10.png", "frame9.png", "a/2/1", "a/10/1", "1b", "1", "x007", "x7"]
    assert sorted(names, key=tree.natural) == [
        "1", "1b", "a/2/1", "a/10/1", "frame9.png", "frame10.png", "x007", "x7",
    ]  # fmt: skip


# ------------------------------------------------------------------------- what is found and said


def test_what_was_understood_is_said_and_classes_are_called_by_name(tmp_path):
    for i, name in enumerate(classed("Train", "valid", ("owl", "cat"))):
        draw(tmp_path / name, seed=i)
    (tmp_path / "Train" / "list.txt").write_text("")
    (tmp_path / ".DS_Store").write_text("")
    draw(tmp_path / "Train" / "owl" / "0.HEIC.png", seed=99)
    (tmp_path / "Train" / "owl" / "0.HEIC.png").rename(tmp_path / "Train" / "owl" / "9.HEIC")
    source = folder(tmp_path)
    line = summary.line(source)
    assert "\n" not in line
    assert "6 for training, 6 held out (validation); classes: cat 3+3, owl 3+3" in line
    assert "split by Train/, valid/; left out 1 of .heic, 1 of .txt, 1 hidden" in line
    kept = json.loads(json.dumps(summary.record(source)))
    assert kept["symbols"]["label"] == ["cat", "owl"] and kept["size"] == 6
    assert given(["label=owl"], kept["symbols"]) == {"label": 1}
    with pytest.raises(ConfigError, match="Did you mean 'owl'"):
        given(["label=owls"], kept["symbols"])


def test_classes_that_are_called_by_numbers_are_asked_for_by_these():
    labels = {"label": ("3", "5", "7")}
    assert given(["label=5"], labels) == {"label": 1}
    assert given(["label=[7, 3]"], labels)["label"].tolist() == [2, 0]
    for word in ("label=1", "label=[3, 1]"):
        with pytest.raises(ConfigError, match=r"'1'. .*Known: 3, 5, 7"):
            given([word], labels)
    animals = {"label": ("cat", "owl")}
    assert given(["label=['owl', 'cat']"], animals)["label"].tolist() == [1, 0]
    assert given(["label=[1, 0]"], animals)["label"].tolist() == [1, 0]
    with pytest.raises(ConfigError, match="Did you mean 'owl'"):
        given(["label=['owls']"], animals)


def test_a_pipe_among_images_is_named_and_not_waited_for(tmp_path):
    draw(tmp_path / "0.png")
    os.mkfifo(tmp_path / "1.png")
    with pytest.raises(DataError, match=r"1\.png is not a readable image \(it is a pipe"):
        folder(tmp_path)


def test_the_line_is_one_whatever_classes_are_called(tmp_path):
    for name in ("a\nb", "c"):
        draw(tmp_path / name / "0.png")
    assert "classes: a b 1+1, c 1+1" in summary.line(folder(tmp_path))


@pytest.mark.parametrize(
    ("written", "meant"),
    [("Folder:here", "folder:here"), ("arrays:a.npz", "array:a.npz"), ("densty:x", "density:x")],
)
def test_a_kind_of_data_that_is_misspelt_is_told_of(written, meant):
    with pytest.raises(ConfigError, match=f"is none of .* Did you mean {meant}?"):
        open_source(Data(source=written), 0)


def test_links_are_followed_but_not_back_up(tmp_path):
    for i in range(3):
        draw(tmp_path / "elsewhere" / f"{i}.png", seed=i)
    (tmp_path / "all" / "cat").mkdir(parents=True)
    (tmp_path / "all" / "cat" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "all" / "dog").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "all" / "dog" / "up").symlink_to(tmp_path / "all")
    found = tree.read(tmp_path / "all", "folder:all").files
    assert set(found) == {f"{c}/{i}.png" for c in ("cat/more", "dog") for i in range(3)}


def test_other_endings_are_images_too(tmp_path):
    x = draw(tmp_path / "a.png", (4, 4))
    for i, ending in enumerate(("jfif", "JPE", "pgm", "tga", "webp")):
        kind = {"jfif": "jpeg", "JPE": "jpeg", "pgm": "ppm"}.get(ending, ending)
        Image.fromarray(x).save(tmp_path / f"{i}.{ending}", format=kind)
    assert folder(tmp_path, channels=1).size == 6


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_an_archive_is_the_folder_that_was_packed(tmp_path, monkeypatch, kind):
    for i, name in enumerate(classed("train", "val")):
        draw(tmp_path / "pets" / name, seed=i)
    draw(tmp_path / "pets" / "__MACOSX" / "x.png")
    packed = tmp_path / f"pets.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(packed, "w") as file:
            for path in sorted(tmp_path.glob("pets/**/*")):
                file.write(path, path.relative_to(tmp_path))
    else:
        with tarfile.open(packed, f"w:{kind[4:]}") as file:
            file.add(tmp_path / "pets", "./pets")
    unpacked, source = folder(tmp_path / "pets"), folder(packed)
    assert source.symbols == unpacked.symbols and source.notes == unpacked.notes
    jax.tree.map(np.testing.assert_array_equal, rows_of(source), rows_of(unpacked))
    # Threads read ahead from one archive.
    monkeypatch.setattr(images, "RESIDENT_BYTES", 100)
    on_disk = folder(packed)
    fed = list(feeds(on_disk, [(i, i + 1) for i in range(6)], slice(0, 2), threads=4))
    for step, ahead in enumerate(fed):
        rows = on_disk.feed(step, slice(0, 2))
        assert np.array_equal(ahead.x[0], rows.x) and np.array_equal(ahead.label[0], rows.label)


def test_what_is_no_archive_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("no archive")
    with pytest.raises(DataError, match="neither a folder nor an archive that can be read"):
        folder(tmp_path / "a.txt")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as file:
        file.writestr("readme.md", "nothing")
    with pytest.raises(DataError, match=r"b\.zip holds no image .*it holds 1 of \.md\."):
        folder(tmp_path / "b.zip")
    (tmp_path / "b.zip").write_bytes((tmp_path / "b.zip").read_bytes()[:-30])
    with pytest.raises(DataError, match="neither a folder nor an archive that can be read"):
        folder(tmp_path / "b.zip")


def test_images_of_both_parts_and_of_many_sizes_are_said(tmp_path):
    for i, name in enumerate(classed("train", "test", ("",))):
        draw(tmp_path / name, (4 + i, 5), seed=i)
    draw(tmp_path / "train" / "same.png", (9, 5), seed=5)
    notes = folder(tmp_path, resize=4).notes
    assert "1 of those held out are in the training part too" in notes
    squared = (
        "4x5 to 9x5 made square, out of proportion (config.data.crop=True cuts the middle out)"
    )
    assert squared in notes
    assert squared not in folder(tmp_path, resize=4, crop=True).notes


def test_the_middle_is_cut_out_before_resizing(tmp_path):
    wide = draw(tmp_path / "a.png", (4, 9), mode="RGB")
    high = draw(tmp_path / "b.png", (9, 4), mode="RGB")
    source = folder(tmp_path, crop=True)
    expected = [wide[:, 2:6], high[2:6]]
    np.testing.assert_allclose(rows_of(source)["x"] * 255, expected, atol=1e-4)
    assert "4x4x3 (cropped)" in source.preprocessing


def test_a_large_set_is_known_by_the_names_of_its_files(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "RESIDENT_BYTES", 100)
    for i in range(12):
        draw(tmp_path / f"{i}.png", seed=i)
    before = folder(tmp_path).digest()
    assert folder(tmp_path).digest() == before
    (tmp_path / "3.png").rename(tmp_path / "12.png")
    assert folder(tmp_path).digest() != before


@pytest.mark.parametrize(
    ("name", "content", "telling"),
    [
        ("z.png", b"", r"z\.png is not a readable image \(of no known format\)"),
        ("z.png", "colour", r"differ in shape \(\(6, 5, 1\), \(6, 5, 3\)\).* config.data.channels"),
        ("z.tif", "floats", "its pixels are 32-bit floats"),
    ],
)
def test_what_is_odd_in_a_large_set_is_found_before_training(
    tmp_path, monkeypatch, name, content, telling
):
    monkeypatch.setattr(images, "RESIDENT_BYTES", 100)
    for i in range(30):
        draw(tmp_path / f"{i:02}.png", seed=i)
    if content == "colour":
        draw(tmp_path / name, mode="RGB")
    elif content == "floats":
        Image.new("F", (5, 6)).save(tmp_path / name)
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=telling):
        folder(tmp_path)


def test_a_look_at_the_head_tells_the_shape_of_what_is_read(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # A quarter turn.
    grey, colour = Image.new("L", (7, 5)), Image.new("RGB", (7, 5))
    for name, drawn, fields in (
        ("a.jpg", colour, {"exif": exif}), ("b.png", grey, {"exif": exif}), ("c.png", grey, {}),
        ("d.gif", colour, {}), ("e.png", Image.new("LA", (7, 5)), {}), ("f.bmp", colour, {}),
        ("g.png", Image.new("I;16", (7, 5)), {}), ("h.jpg", Image.new("CMYK", (7, 5)), {}),
        ("i.tif", grey, {}), ("j.webp", colour, {}),
    ):  # fmt: skip
        drawn.save(tmp_path / name, **fields)
    for path, opens in tree.read(tmp_path, "here").files.items():
        assert image.shape(opens, path) == image.read(opens, path).levels.shape, path


# -------------------------------------------------------------------------------- one reader


def test_what_is_transparent_lies_over_a_declared_background(tmp_path):
    x = np.full((2, 2, 4), 200, np.uint8)
    x[0, 0] = (255, 0, 0, 0)  # Red, that nobody ever saw.
    x[0, 1, 3] = 255
    x[1, :, 3] = 51
    for i in range(2):
        Image.fromarray(x).save(tmp_path / f"{i}.png")
    for background, level in (("white", 255), ("black", 0), ("grey", 128)):
        source = folder(tmp_path, background=background)
        seen = rows_of(source)["x"][0] * 255
        np.testing.assert_allclose(seen[0, 0], level, atol=1e-4)
        # α x + (1 - α) background
        np.testing.assert_allclose(seen[1, 1], 0.2 * 200 + 0.8 * level, atol=0.6)
        assert f"transparency laid over {background}: 2 images" in source.notes
    np.testing.assert_allclose(seen[0, 1], 200, atol=1e-4)


@pytest.mark.parametrize("mode", ["LA", "P", "L"])
def test_every_kind_of_transparency_is_seen(tmp_path, mode):
    grey = np.array([[0, 100], [200, 50]], np.uint8)
    image = Image.fromarray(grey)
    if mode == "LA":
        image.putalpha(Image.fromarray(np.array([[0, 255], [255, 255]], np.uint8)))
        image.save(tmp_path / "0.png")
    else:
        # One level, or one colour of a palette, is transparent.
        image.convert(mode).save(tmp_path / "0.png", transparency=0)
    seen = rows_of(folder(tmp_path, batch_size=1, channels=1))["x"][0, ..., 0] * 255
    np.testing.assert_allclose(seen, [[255, 100], [200, 50]], atol=1e-4)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_levels_without_a_known_range_are_refused(tmp_path, mode):
    Image.new(mode, (4, 4), 3).save(tmp_path / "0.tiff")
    for kind in ("folder", "clip"):
        with pytest.raises(DataError, match=r"0\.tiff is not .*pixels are 32-bit .*8 or 16 bits"):
            open_source(Data(source=f"{kind}:{tmp_path}", batch_size=1), 0)


def test_sixteen_bits_of_portable_maps_are_scaled(tmp_path):
    (tmp_path / "0.pgm").write_bytes(b"P5 2 1 65535\n" + np.array([257, 65535], ">u2").tobytes())
    source = folder(tmp_path, batch_size=1)
    np.testing.assert_allclose(rows_of(source)["x"][0, 0, :, 0] * 255, [1, 255], atol=1e-4)
    assert "rounded from 16 bits to 8: 1 image" in source.notes


def test_an_animation_among_images_says_that_its_first_frame_is_taken(tmp_path):
    first, *more = [Image.fromarray(np.full((3, 3), 80 * i, np.uint8)) for i in range(3)]
    first.save(tmp_path / "0.gif", save_all=True, append_images=more)
    notes = folder(tmp_path, batch_size=1).notes
    assert "the first frame alone of several: 1 image" in notes


def test_no_file_is_kept_open(tmp_path):
    for i in range(9):
        draw(tmp_path / f"{i}.png", seed=i)
    before = len(os.listdir("/proc/self/fd"))
    for kind in ("folder", "clip"):
        open_source(Data(source=f"{kind}:{tmp_path}", batch_size=1), 0)
        assert len(os.listdir("/proc/self/fd")) == before


# -------------------------------------------------------------------- what a table says of them


ROWS = [("a.png", "owl", "A grey owl, asleep"), ("b.png", "cat", "a cat"), ("c.png", "owl", "")]


def with_table(folder, kind, rows=ROWS, columns=("file_name", "label", "text")):
    for i, row in enumerate(rows):
        draw(folder / row[0], seed=i)
    lines = [dict(zip(columns, row, strict=True)) for row in rows]
    if kind == "jsonl":
        text = "".join(json.dumps(line) + "\n" for line in lines)
    else:
        table = io.StringIO()
        writer = csv.DictWriter(table, columns)
        writer.writeheader()
        writer.writerows(lines)
        text = table.getvalue()
    (folder / f"metadata.{kind}").write_text(text)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_labels_and_captions_of_a_table_beside_the_images(tmp_path, monkeypatch, kind):
    with_table(tmp_path / "train", kind)
    with_table(tmp_path / "test", kind, [("d.png", "cat", "a cat and an owl")])
    draw(tmp_path / "train" / "e.png")
    source = folder(tmp_path)
    made = rows_of(source)
    assert made["label"].tolist() == [1, 0, 1] and source.symbols["label"] == ("cat", "owl")
    called = source.symbols["text"]
    assert called == ("", "<unknown>", "a", "asleep", "cat", "grey", "owl")
    said = [" ".join(called[t] for t in row if t) for row in made["text"]]
    assert said == ["a grey owl asleep", "a cat", ""]
    held = np.asarray(source.held_out(jax.random.key(0), 0, 1)["text"])
    assert [called[t] for t in held[0]] == ["a", "cat", "<unknown>", "<unknown>", "owl"]
    assert source.spaces["text"].size == 7 and made["text"].shape == (3, 5)
    assert "captions: 5 words, at most 5 in one" in source.notes
    assert any("left out 1 image without a line" in note for note in source.notes)
    # A caption to sample by is made of the words that the workdir keeps.
    tokenise = tokeniser(Data(), source.symbols, {"text": ("int32", [2, 5])})
    assert [called[t] for t in tokenise("A CAT, asleep!")] == ["a", "cat", "asleep", "", ""]
    with pytest.raises(DataError, match=r"no caption .* says 'owls'; did you mean 'owl'"):
        tokenise("owls")
    with pytest.raises(DataError, match="at most 5 words here"):
        tokenise("a a a a a a")
    monkeypatch.setattr(images, "RESIDENT_BYTES", 10)
    on_disk = folder(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, batch(on_disk, size=2), batch(source, size=2))
    assert on_disk.spaces == source.spaces and on_disk.symbols == source.symbols
    with pytest.raises(DataError, match="no caption for several images"):
        folder(tmp_path, stack=2)


@pytest.mark.parametrize(
    ("rows", "columns", "telling"),
    [
        ([("a.png", "x")], ("file", "label"), "expected a file_name in every line"),
        ([("a.png", "x"), ("a.png", "y")], ("file_name", "label"), "speaks of a.png twice"),
        ([("a.png", "x"), ("b.png", "")], ("file_name", "label"), "b.png has no label and others"),
        ([("a.png", 0.5)], ("file_name", "label"), "number as label, got 0.5"),
        ([("a.png", [1, 2])], ("file_name", "caption"), r"number as caption, got \[1, 2\]"),
    ],
)
def test_a_table_that_says_too_little_or_too_much_is_refused(tmp_path, rows, columns, telling):
    with_table(tmp_path, "jsonl", rows, columns)
    with pytest.raises(DataError, match=telling):
        folder(tmp_path)


def test_a_line_of_more_cells_than_columns_is_refused(tmp_path):
    draw(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,a cat, asleep\n")
    with pytest.raises(DataError, match=r"line 2 has more cells than the first; put .* quotes"):
        folder(tmp_path)


def test_columns_and_lines_that_say_nothing_of_images_are_said(tmp_path):
    with_table(tmp_path, "csv", columns=("file_name", "label", "author"))
    with (tmp_path / "metadata.csv").open("a") as file:
        file.write("gone.png,cat,me\n")
    notes = folder(tmp_path).notes
    assert "metadata.csv says the labels" in notes
    assert "columns that were not read: author" in notes
    assert "1 line of it name no file here (gone.png)" in notes


def test_labels_and_captions_in_files_beside_each_image(tmp_path):
    for i, (name, said, label) in enumerate((("a", "an owl\n", "7"), ("b", "a cat", "10"))):
        draw(tmp_path / f"{name}.png", seed=i)
        (tmp_path / f"{name}.txt").write_text(said)
        (tmp_path / f"{name}.cls").write_text(label)
    (tmp_path / "notes.txt").write_text("of no image")
    source = folder(tmp_path)
    assert source.symbols["label"] == ("7", "10") and rows_of(source)["label"].tolist() == [0, 1]
    called = source.symbols["text"]
    said = [" ".join(called[t] for t in row if t) for row in rows_of(source)["text"]]
    assert said == ["an owl", "a cat"]
    assert "files beside the images say the labels and captions" in source.notes
    assert "left out 1 of .txt" in source.notes
    draw(tmp_path / "c.png", seed=2)
    with pytest.raises(DataError, match=r"c\.png has no \.cls beside it and others do"):
        folder(tmp_path)
    (tmp_path / "c.cls").write_text("7")
    assert "1 image without a caption" in folder(tmp_path).notes
