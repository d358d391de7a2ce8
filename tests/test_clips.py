"""Clips: frames that are made, or read in the order of time."""

import resource
import zipfile

import jax
import numpy as np
import pytest
from PIL import Image

from genjax_zoo.contract import DataError
from genjax_zoo.data import clips
from genjax_zoo.data.config import Data
from genjax_zoo.data.sources import open_source


def read(name, **fields):
    return clips.clip(str(name), Data(source=f"clip:{name}", batch_size=1, **fields))


def first_batch(source):
    return source.batch(jax.random.key(0), source.resident, source.feed(0, slice(None)))


def test_a_clip_is_made_or_read_from_a_folder_or_an_animation(tmp_path):
    x = read("waves").x
    assert x.shape == (160, 24, 24, 1)
    assert x.min() >= 0
    assert x.max() <= 1
    # It moves, and smoothly.
    assert 0.01 < np.abs(np.diff(x, axis=0)).mean() < np.abs(x - x.mean()).mean()
    frames = [Image.fromarray(np.uint8(255 * f[..., 0])) for f in x[:5]]
    for i, frame in enumerate(frames):
        frame.save(tmp_path / f"{i}.png")
    again = read(tmp_path).x
    np.testing.assert_allclose(again, x[:5], atol=1 / 255)
    moving = tmp_path.with_suffix(".gif")
    frames[0].save(moving, save_all=True, append_images=frames[1:])
    assert read(moving, resize=8).x.shape == (5, 8, 8, 1)
    source = open_source(Data(source=f"clip:{tmp_path}", batch_size=1, resize=8), seed=0)
    assert first_batch(source)["x"].shape == (1, 5, 8, 8, 1)
    Image.new("L", (3, 3)).save(tmp_path / "9.png")
    with pytest.raises(DataError, match="the frames differ in size"):
        read(tmp_path)
    with pytest.raises(
        DataError, match=r"an archive of them, or an animated image: .*none is not there"
    ):
        read(tmp_path / "none")


def test_frames_follow_each_other_by_their_numbers(tmp_path):
    for i in range(12):
        Image.new("L", (2, 2), 20 * i).save(tmp_path / f"frame{i}.png")
    (tmp_path / "readme.txt").write_text("")
    found = read(tmp_path)
    np.testing.assert_allclose(found.x[:, 0, 0, 0] * 255, 20 * np.arange(12), atol=1e-4)
    assert found.notes == ("left out 1 of .txt",)
    (tmp_path / "frame7.png").unlink()
    gap = "frames are missing after frame6.png (1 gap in all), and time closes up there"
    assert read(tmp_path).notes[-1] == gap
    found = read(tmp_path)
    with zipfile.ZipFile(tmp_path / "clip.zip", "w") as file:
        for path in tmp_path.glob("*.png"):
            file.write(path, f"frames/{path.name}")
    np.testing.assert_array_equal(read(tmp_path / "clip.zip").x, found.x)


def test_frames_are_read_as_images_of_a_folder_are(tmp_path):
    deep = np.array([[0, 257 * 100], [257 * 200, 65535]], np.uint16)
    Image.fromarray(deep).save(tmp_path / "0.png")
    exif = Image.Exif()
    exif[0x0112] = 3  # Upside down.
    Image.fromarray((deep[::-1, ::-1] // 257).astype(np.uint8)).save(tmp_path / "1.png", exif=exif)
    clear = np.zeros((2, 2, 4), np.uint8)
    clear[1, 1] = (9, 9, 9, 255)
    Image.fromarray(clear).save(tmp_path / "2.png")
    found = read(tmp_path, background="black")
    levels = [[0, 100], [200, 255]]
    expected = np.array([levels, levels, [[0, 0], [0, 9]]])
    np.testing.assert_allclose(found.x[..., 0] * 255, expected, atol=1e-4)
    assert found.notes == (
        "rounded from 16 bits to 8: 1 frame",
        "transparency laid over black: 1 frame",
        "turned upright by its EXIF: 1 frame",
    )
    np.testing.assert_array_equal(read(tmp_path).x[2, 0, 0], 1)


def test_a_clip_may_have_more_frames_than_a_process_may_open(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for i in range(300):
        Image.new("L", (2, 2)).save(tmp_path / f"{i}.png")
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        assert len(read(tmp_path).x) == 300
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_frames_in_several_folders_or_of_uneven_lengths_are_told_of(tmp_path):
    frames = [Image.new("L", (4, 4), 50 * i) for i in range(3)]
    for folder in ("a", "b"):
        (tmp_path / "both" / folder).mkdir(parents=True)
        frames[0].save(tmp_path / "both" / folder / "0.png")
    with pytest.raises(DataError, match=r"frames in 2 folders \(a, b\), and a clip is one"):
        read(tmp_path / "both")
    gif = tmp_path / "moving.gif"
    frames[0].save(gif, save_all=True, append_images=frames[1:], duration=[40, 40, 200])
    assert "frames are shown for 40 to 200 ms, and each is one time" in read(gif).notes
    (tmp_path / "film.mp4").write_bytes(bytes(100))
    with pytest.raises(DataError, match=r"film\.mp4 is not a readable image"):
        read(tmp_path / "film.mp4")


def test_a_clip_says_that_it_is_one_example():
    source = open_source(Data(source="clip:waves", batch_size=1), 0)
    assert "all of it is one example of 92160 numbers" in source.notes[0]
    grey = read("waves", resize=8)
    assert grey.x.shape == (160, 8, 8, 1) and read("waves", channels=3).x.shape[-1] == 3
