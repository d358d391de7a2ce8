"""Pictures that never raise, facts that never fail, and a page that holds what a workdir holds."""

import base64
import csv
import html.parser
import json
import math
import os
import subprocess
import sys
import types
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import genjax_zoo
from genjax_zoo.contract import DataError, Exactness, Latents, Measure, Model, categorical
from genjax_zoo.data.config import Data
from genjax_zoo.data.sources import open_source
from genjax_zoo.learn.state import TrainState
from genjax_zoo.models import ZOO
from genjax_zoo.run import trained
from genjax_zoo.run.config import assemble
from genjax_zoo.run.observers import Samples
from genjax_zoo.run.record import (
    cards,
    charts,
    checkout,
    files,
    gallery,
    page,
    pictures,
    planes,
    plots,
    provenance,
    report,
    shown,
)
from genjax_zoo.run.record.workdir import Workdir

FAMILY = next(iter(ZOO))

# ----------------------------------------------------------------------------------- images


@pytest.fixture(autouse=True)
def warnings_are_errors():
    """A division by a NaN or an overflow would warn before it went wrong."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_a_grid_lays_images_out_row_by_row():
    x = np.zeros((5, 50, 60, 1))
    x[4] = 1
    picture = pictures.grid(x, columns=2)
    gap = pictures.SPACE
    assert picture.shape == (3 * 50 + 4 * gap, 2 * 60 + 3 * gap, 3)
    assert picture.dtype == np.uint8
    # The fifth image stands first in the third row, and nothing beside it.
    top, left = gap + 2 * (50 + gap), gap
    assert (picture[top : top + 50, left : left + 60] == 255).all()
    assert (picture[gap : gap + 50, gap : gap + 60] == 0).all()
    assert (picture[top : top + 50, left + 60 + gap : -gap] == pictures.GAP).all()


def test_pictures_beside_one_another_are_parted_by_white():
    parts = [np.full((6, width, 3), width, np.uint8) for width in (5, 7)]
    picture = pictures.beside(*parts)
    assert picture.shape == (6, 5 + pictures.SPACE + 7, 3)
    assert (picture[:, 5:-7] == 255).all() and (picture[:, -7:] == 7).all()


@pytest.mark.parametrize("values", [[0.1, 0.5, np.nan, np.inf], [2.0, 2.0], []])
def test_histograms_of_whatever_numbers(values):
    drawn = plots.histograms({"samples": np.array(values), "data": np.ones(3)}, "distance")
    assert drawn.shape == (640, 1280, 3) and drawn.min() < 128


def test_small_images_are_enlarged_by_a_whole_factor():
    x = np.random.default_rng(0).integers(0, 2, (1, 8, 8, 1)).astype(float)
    picture = pictures.grid(x)
    gap = pictures.SPACE
    inside = picture[gap:-gap, gap:-gap, 0]
    assert inside.shape == (40, 40)
    np.testing.assert_array_equal(inside, 255 * x[0, :, :, 0].repeat(5, 0).repeat(5, 1))


def test_the_interval_and_the_colours():
    x = np.array([-1.0, 0.0, 1.0]).reshape(1, 1, 1, 3)
    pixel = pictures.grid(x, low=-1, high=1)[20, 20]
    np.testing.assert_array_equal(pixel, [0, 128, 255])


def test_what_is_out_of_range_is_clipped_and_nan_is_red():
    x = np.array([np.nan, np.inf, -np.inf, 1e300, -1e300, 7.0]).reshape(1, 1, 6, 1)
    picture = pictures.grid(x)
    row = picture[picture.shape[0] // 2, pictures.SPACE + 3 :: 7][:6]
    np.testing.assert_array_equal(row[0], pictures.RED)
    np.testing.assert_array_equal(row[1:, 0], [255, 0, 255, 0, 255])


@pytest.mark.parametrize("shape", [(0, 8, 8, 1), (4, 8, 8), (4, 8, 8, 2)])
def test_a_grid_is_of_images(shape):
    with pytest.raises(DataError, match="expected images"):
        pictures.grid(np.zeros(shape))


def test_points_lie_where_they_should():
    corner = np.array([[-1.0, -1.0], [1.0, 1.0]])
    picture = plots.scatter(np.array([[0.5, 0.5]] * 9), reference=corner, size=600)
    assert picture.shape == (600, 600, 3)
    picture = picture[50:]  # beneath the legend
    blue = np.argwhere((picture[..., 2].astype(int) - picture[..., 0]) > 80)
    # The frame is 1.2 times the data's: (0.5, 0.5) lies at (0.5 / 1.2 + 1) / 2 of it.
    across, up = blue[:, 1].mean(), 549 - blue[:, 0].mean()
    share = (0.5 / 1.2 + 1) / 2
    assert across == pytest.approx(600 * (plots.LEFT + plots.SIDE * share), abs=2)
    assert up == pytest.approx(600 * (plots.BOTTOM + plots.SIDE * share), abs=2)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e308, -1e308, 0.0])
@pytest.mark.parametrize(
    "shape",
    [
        (4, 2),
        (0, 2),
        (4, 8, 8, 1),
        (4, 7),
        (4, 3, 3),
        (3,),
        (0, 8),
        (1, 9, 1),
        (0, 9, 1),
        (12, 1, 9),
        (2, 5, 3, 4, 3),
        (1, 0, 8, 8, 1),
    ],
)
def test_no_value_and_no_shape_raises(value, shape):
    for reference in (None, np.full((4, 2), -value), np.full((2, 5, shape[-1]), -value)):
        picture = pictures.picture(np.full(shape, value), reference)
        assert picture.ndim == 3
        assert picture.dtype == np.uint8
        assert picture.size


def test_the_shape_chooses_the_picture():
    x = np.random.default_rng(0)
    same = np.testing.assert_array_equal
    images, points, text = x.random((4, 8, 8, 1)), x.random((9, 2)), x.integers(0, 65, (3, 20))
    same(pictures.picture(images, low=-1), pictures.grid(images, low=-1))
    same(pictures.picture(points, points), plots.scatter(points, points))
    same(pictures.picture(text), pictures.heat(text))
    series, clips = x.random((3, 9, 2)), x.random((3, 5, 8, 8, 3))
    same(pictures.picture(series, series), plots.lines(series, series))
    same(pictures.picture(clips, high=2), pictures.film(clips, high=2))


def bluish(picture):
    return (picture[..., 2].astype(int) - picture[..., 0]) > 80


def test_a_line_lies_where_its_series_does_and_ends_at_the_edge():
    step = np.where(np.arange(100) < 50, 1.0, 9e9)[None, :, None]
    data = np.where(np.arange(100) < 50, 0.0, 1.0)[None, :, None]
    plot = lambda x: plots.lines(x, data)[int(plots.MARGIN * plots.DOTS) :]  # beneath the legend
    rows, columns = np.nonzero(bluish(plot(step)))
    early, late = (rows[columns < columns.mean()], rows[columns > columns.mean() + 30])
    # The frame is 1.3 times the data's, [0, 1], and what is beyond it lies on its upper edge.
    assert late.min() == late.max() or np.ptp(late) <= 6
    assert late.max() < early.max()
    grey = np.argwhere((plot(step) == (0xB8, 0xBC, 0xC4)).all(-1))
    assert abs(grey[:, 0].min() - np.median(early)) <= 6


def test_a_series_off_the_frame_has_its_own_and_the_data_a_panel_before_it():
    """In the data's frame it would be a line on the edge, of which nothing is seen."""
    data = np.sin(np.arange(50.0))[None, :, None]
    far = 1e6 + 1e3 * np.cos(np.arange(50.0))[None, :, None]
    near, off = plots.lines(data, data), plots.lines(np.concatenate([data, far]), data)
    red = lambda picture: np.sum((picture[..., 0].astype(int) - picture[..., 2]) > 150)
    assert red(near) == 0 and red(off) > 50
    # Three panels in two columns: the data, a sample over them, and the far one by itself.
    upper, lower = np.array_split(off[60:], 2)
    blue = lambda picture: int(bluish(picture).sum())
    left, right = np.array_split(upper, 2, axis=1)
    assert blue(left) == 0 and blue(right) > 500
    rows = np.nonzero(bluish(lower).any(1))[0]
    assert np.ptp(rows) > 0.3 * len(lower), "it is seen whole"


def test_a_number_that_is_none_leaves_a_gap_and_is_counted():
    whole = np.zeros((1, 101, 1))
    gap = whole.copy()
    gap[0, 40:61] = np.nan
    whole, gap = plots.lines(whole), plots.lines(gap)
    across = np.flatnonzero(bluish(whole).any(0))
    left, right = across.min(), across.max()
    middle = (left + right) // 2
    assert bluish(whole)[:, middle].any()
    assert not bluish(gap)[:, middle - 30 : middle + 30].any()
    red = lambda picture: np.sum((picture[..., 0].astype(int) - picture[..., 2]) > 120)
    assert red(gap) > 50 and red(whole) == 0


@pytest.mark.parametrize("channels", [2, 4])
def test_images_of_any_number_of_channels_are_images(channels):
    """Two digits in two channels were one row of a heat map, 1568 pixels wide."""
    x = np.zeros((4, 28, 28, channels))
    x[1, :, :, 1] = 1
    picture = pictures.picture(x)
    wide = 2 * (28 * channels + channels - 1) + 3 * pictures.SPACE
    assert picture.shape == (2 * 28 + 3 * pictures.SPACE, wide, 3)
    inside = picture[pictures.SPACE : pictures.SPACE + 28, :, 0]
    # The second image, beside the first, is white in its second channel alone.
    second = 2 * pictures.SPACE + 28 * channels + channels - 1
    assert (inside[:, second : second + 28] == 0).all()
    assert (inside[:, second + 29 : second + 57] == 255).all()


def test_a_page_of_large_pictures_can_be_opened(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (300, 1600, 3)).astype(np.uint8)
    for step in range(4):
        pictures.write_png(tmp_path / f"samples/step_{step:08d}.png", noise)
    size = (tmp_path / "samples/step_00000000.png").stat().st_size
    page = report.write(tmp_path)
    assert page.stat().st_size < 1.7 * size, "four of them, of which three are in the strip"
    assert outline(tmp_path).tags.count("img") == 4


def test_a_film_shows_some_frames_from_first_to_last():
    x = np.linspace(0, 1, 46)[None, :, None, None, None] * np.ones((2, 1, 50, 50, 1))
    picture = pictures.film(x)
    assert picture.shape[0] == 2 * 50 + 3 * pictures.SPACE
    row = picture[pictures.SPACE + 25, pictures.SPACE + 25 :: 50 + pictures.SPACE, 0] / 255
    np.testing.assert_allclose(row, np.linspace(0, 1, pictures.FRAMES), atol=0.003)


def played(path):
    """The frames [T, H, W, 3] of a GIF, each for as long as it is shown."""
    with Image.open(path) as moving:
        assert moving.info["loop"] == 0
        shown = []
        for i in range(moving.n_frames):
            moving.seek(i)
            times = round(moving.info["duration"] * pictures.GIF_RATE / 1000)
            shown += [np.asarray(moving.convert("RGB")).astype(int)] * times
    return np.stack(shown)


def test_a_gif_plays_the_clips_side_by_side(tmp_path):
    x = np.random.default_rng(0).random((4, 7, 40, 40, 1))
    still, (png, gif) = pictures.write(tmp_path / "a.png", x)
    assert (png.name, gif.name) == ("a.png", "a.gif")
    np.testing.assert_array_equal(still, pictures.film(x))
    # Grey is kept to the byte.
    np.testing.assert_array_equal(played(gif), pictures.movie(x))
    assert [p.name for p in pictures.write(tmp_path / "b.png", x[:, 0])[1]] == ["b.png"]


def test_a_gif_in_colour_is_nearly_so_and_what_is_broken_is_red(tmp_path):
    x = np.zeros((1, 30, 40, 40, 3))
    x += np.linspace(0, 1, 40)[:, None] * [1, 0.5, 0]
    x[0, 1, 5, 5, 0] = np.nan  # a frame that no palette was made from
    frames = pictures.movie(x)
    shown = played(pictures.write_gif(tmp_path / "a.gif", frames))
    assert np.abs(shown - frames).max() <= 16
    edge = pictures.SPACE
    np.testing.assert_array_equal(shown[1, edge + 5, edge + 5], pictures.RED)


def test_a_gif_keeps_its_bounds(tmp_path):
    frames = list(np.random.default_rng(0).integers(0, 256, (30, 50, 60, 3)).astype(np.uint8))
    path = pictures.write_gif(tmp_path / "a.gif", frames, most=40_000)
    assert 20_000 < path.stat().st_size <= 40_000
    assert 2 < len(played(path)) < 30
    large = [np.zeros((pictures.SIDE + 1, 2 * pictures.SIDE, 3), np.uint8)] * 2
    with Image.open(pictures.write_gif(tmp_path / "b.gif", large)) as gif:
        assert max(gif.size) == pictures.SIDE


def test_a_png_holds_the_picture_and_leaves_nothing_else(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    path = pictures.write_png(tmp_path / "new" / "a.png", picture)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), picture)
    assert os.listdir(path.parent) == ["a.png"]


def test_a_file_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    path = files.write(tmp_path / "a", "old")

    def full(_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        files.write(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_pictures_show_the_means_and_what_is_measured_are_the_draws(tmp_path):
    """Grey means of binary digits are near one another: they tell nothing of the draws."""
    source = open_source(Data(source="digits", batch_size=50, binarise="threshold"), seed=0)
    x = np.asarray(source.held_out(jax.random.key(0), 0, 50)["x"])

    def sample(key, state, n):
        return {"x": jnp.asarray(x[:n]), "mean": 0.4 + 0.2 * jnp.asarray(x[:n])}

    setup = types.SimpleNamespace(
        model=Model(lambda *_: None, lambda *_: None, sample),
        run=types.SimpleNamespace(samples=50),
        layout=types.SimpleNamespace(everywhere=None),
        root=jax.random.key(0),
        source=source,
        example={"x": x},
    )
    shown_pictures = []
    journal = types.SimpleNamespace(
        workdir=Workdir(tmp_path),
        picture=lambda step, pixels: shown_pictures.append(pixels),
    )
    watching = Samples(setup, journal)
    told = watching.draw(0, None)
    assert told["diversity"] == pytest.approx(1, abs=0.05) and not watching.warning
    np.testing.assert_array_equal(shown_pictures[0], pictures.grid(0.4 + 0.2 * x))


def test_a_workdir_keeps_some_of_the_data_for_its_pictures(tmp_path, monkeypatch):
    """So that samples are drawn in the frame of training, where the data are no more."""
    x = np.arange(40.0, dtype=np.float32).reshape(20, 2)
    setup = types.SimpleNamespace(
        source=types.SimpleNamespace(
            symbols={"label": ("no", "yes")}, interval=(0.0, 1.0), columns=("a", "b"), size=20
        ),
        example={"x": x, "label": np.zeros(20, np.int32)},
        run=types.SimpleNamespace(samples=8, data=types.SimpleNamespace(batch_size=20)),
        like=TrainState({"w": np.zeros((3, 4)), "b": np.zeros(4)}, (), (), None),
    )
    workdir = Workdir(tmp_path)
    trained.describe(setup, workdir)
    assert json.loads(workdir.example.read_text())["parameters"] == 16
    with np.load(workdir.data) as kept:
        np.testing.assert_array_equal(kept["x"], x[:8])
    # Of large examples fewer, and one at least.
    for size, n in ((12 * 3 + 1, 3), (1, 1)):
        monkeypatch.setattr(trained, "DATA_BYTES", size)
        trained.describe(setup, workdir)
        with np.load(workdir.data) as kept:
            assert len(kept["x"]) == len(kept["label"]) == n


@pytest.mark.parametrize("content", [None, b"", b"PK", b"no zip at all", b"\x93NUMPY"])
def test_without_the_data_samples_are_drawn_all_the_same(tmp_path, capsys, content):
    workdir = Workdir(tmp_path)
    if content is not None:
        files.write(workdir.data, content)
    assert trained._kept(workdir) == {}
    said = "".join(capsys.readouterr())
    assert ("data.npz cannot be read" in said) == (content is not None)


MEANS, STDS = np.array([[-2.0, 0.0], [2.0, 1.0]]), np.array([0.5, 1.0])
"""A mixture of two Gaussians, evenly."""


def mixture(**fields):
    """Of the contract alone, as planes.py sees it."""

    def by_class(key, state, batch):
        squares = jnp.sum((batch["x"][:, None] - MEANS) ** 2, -1) / (2 * STDS**2)
        return -squares - jnp.log(4 * jnp.pi * STDS**2)

    def sample(key, state, n):
        which = jax.random.randint(key, (n,), 0, 2)
        noise = jax.random.normal(jax.random.fold_in(key, 1), (n, 2))
        return {"x": jnp.asarray(MEANS)[which] + jnp.asarray(STDS)[which, None] * noise}

    log_prob = lambda *args: jax.nn.logsumexp(by_class(*args), -1)
    nothing = lambda *_: None
    encode = lambda *args: jax.nn.softmax(by_class(*args), -1)
    given = {
        "log_prob": Measure(log_prob, Exactness.EXACT, density=True),
        "latents": Latents(nothing, encode, space=categorical()),
    }
    return Model(nothing, nothing, sample, **given | fields)


def test_the_plane_knows_a_density_and_the_components_of_a_mixture():
    frame = plots.frame_of(np.array([[-7.0, -7.0], [7.0, 7.0]]))
    plane = planes.of_model(mixture())(jax.random.key(0), None, frame)
    p, cell = np.exp(plane.log_density), (2 * frame.half / planes.SIDE) ** 2
    assert p.sum() * cell == pytest.approx(1, abs=0.01)
    # The lowest row first, and the leftmost column: the mean over the cells is the mixture's.
    at = frame.grid(planes.SIDE)
    np.testing.assert_allclose((at * p.ravel()[:, None]).sum(0) * cell, MEANS.mean(0), atol=0.01)
    for component, mean, std in zip(plane.components, MEANS, STDS, strict=True):
        np.testing.assert_allclose(component.mean, mean, atol=0.05 * std)
        # Circles are to look like circles: 2000 draws among eight left them 5 % out of round.
        np.testing.assert_allclose(component.covariance, std**2 * np.eye(2), atol=0.05 * std**2)
    outline = plots._ellipse(plots.Component(MEANS[1], np.diag([4.0, 1.0])))
    assert np.abs(outline - MEANS[1]).max(0) == pytest.approx([4, 2], abs=0.02)
    # Where the density is a bound, or wants a label, and the latents are codes, there is nothing.
    bound = Measure(lambda *_: jnp.zeros(4096), Exactness.LOWER_BOUND, density=True)
    codes = Latents(lambda *_: None, lambda k, s, b: jnp.zeros((2000, 3), int), space=categorical())

    def unlabelled(key, state, batch):
        raise DataError("needs labelled data")

    for fields in (
        {"log_prob": bound, "latents": codes},
        {"log_prob": Measure(unlabelled, Exactness.EXACT, density=True), "latents": None},
        {"log_prob": None, "latents": None},
    ):
        nothing = planes.of_model(mixture(**fields))(jax.random.key(0), None, frame)
        assert nothing.log_density is None and list(nothing.components) == []


def test_what_a_model_says_of_the_plane_is_drawn_and_points_beyond_it_are_counted():
    data = np.random.default_rng(0).normal(size=(50, 2))
    frame = plots.frame_of(data)
    density = -np.sum(frame.grid(8) ** 2, 1).reshape(8, 8)
    whole = plots.scatter(
        data, data, plots.Plane(density, [plots.Component(np.ones(2), np.eye(2))])
    )
    plain = plots.scatter(data, data)
    amber = lambda picture: np.sum((picture[..., 0] > 230) & (picture[..., 2] < 200))
    green = lambda picture: np.sum((picture == (0x2F, 0x7D, 0x4F)).all(-1))
    assert amber(whole) > 1000 + amber(plain) and green(whole) > 100 and green(plain) == 0
    red = lambda picture: np.sum((picture[..., 0].astype(int) - picture[..., 2]) > 150)
    assert red(plots.scatter(data + np.array([99.0, 0]), data)) > 50 and red(plain) == 0
    for broken in (np.full((8, 8), np.nan), np.full((8, 8), -np.inf)):
        plots.scatter(
            data,
            data,
            plots.Plane(broken, [plots.Component(np.full(2, np.nan), np.full((2, 2), np.nan))]),
        )


# ------------------------------------------------------------------------------- provenance


def test_the_record_is_plain_and_whole():
    record = provenance.record()
    assert json.loads(json.dumps(record)) == record
    assert record["genjax_zoo"] == genjax_zoo.__version__
    assert record["command"] == sys.argv
    for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "device", "cpu", "cores"):
        assert record[name], name
    assert record["started"].endswith("+00:00")


def test_no_git_and_no_checkout_are_no_failure(monkeypatch, tmp_path):
    def absent(*args, **kwargs):
        raise FileNotFoundError("git")

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "run", absent)
        assert provenance.record()["commit"] is None
    monkeypatch.setattr(checkout, "PACKAGE", tmp_path)
    record = provenance.record()
    assert (record["commit"], record["dirty"]) == (None, None)


def test_an_installed_copy_in_a_foreign_checkout_is_not_that_commit(monkeypatch, tmp_path):
    package = tmp_path / "genjax_zoo"
    package.mkdir()
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@x"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "theirs"], check=True)
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(checkout, "PACKAGE", package)
    assert provenance.record()["commit"] is None
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "ours"], check=True)
    record = provenance.record()
    assert len(record["commit"]) == 40
    assert record["dirty"] is False
    (package / "new_model.py").write_text("")  # Not tracked, and yet part of what ran.
    assert provenance.record()["dirty"] is True


# ------------------------------------------------------------------------------------- page


class Outline(html.parser.HTMLParser):
    """Checks that elements close in order; keeps the text and what could be requested."""

    VOID = frozenset({"meta", "img", "link"})

    def __init__(self, page):
        super().__init__()
        self.open, self.text, self.links, self.tags = [], [], [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href", "action", "srcset")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)


def outline(workdir):
    return Outline(report.write(workdir).read_text())


def text_of(workdir):
    return " ".join(" ".join(outline(workdir).text).split())


MEASURED = {
    "name": "log_prob",
    "value": -17.8234,
    "standard_error": 0.2134,
    "kind": "lower_bound",
    "unit": "nats",
    "split": "test",
    "n": 360,
    "preprocessing": "binarised by threshold at 0.5",
    "step": 40,
    "better": "higher",
}


@pytest.fixture
def workdir(tmp_path):
    """A run of a family of the zoo, told by hand."""
    given = {"model": {"name": FAMILY}, "steps": 40, "seed": 7, "data": {"scale": "symmetric"}}
    config = assemble({"digits": given}, "digits").to_dict()
    (tmp_path / "config.json").write_text(json.dumps(config))
    command = [
        "/x/bin/genjax-zoo",
        "train",
        f"--config=configs/{FAMILY}.py:digits",
        "--workdir=a b",
    ]
    start = {**provenance.record(), "command": command, "commit": "c" * 40, "dirty": True}
    starts = [
        {**start, "first_step": 0, "last_step": 25, "seconds": 61.0},
        {**start, "first_step": 20, "last_step": 40, "seconds": 59.4},
    ]
    (tmp_path / "run.json").write_text(json.dumps(starts))
    rows = [{"step": s, "loss": 100.0 / s, "test/loss": 120.0 / s} for s in range(1, 41)]
    rows.append({"step": 40, "loss": 2.125, "odd": math.nan, "label": "not a number"})
    text = "\n".join(map(json.dumps, rows))
    (tmp_path / "metrics.jsonl").write_text(text + '\n[1]\n{"step": "x"}\n{"step": 41, "lo')
    for step in range(20):
        pictures.write_png(tmp_path / f"samples/step_{step:08d}.png", np.zeros((2, 2, 3), np.uint8))
    pictures.write_png(tmp_path / "samples/sample_x.png", np.zeros((2, 2, 3), np.uint8))
    files.write(tmp_path / "eval" / "metrics.json", json.dumps([MEASURED]))
    return tmp_path


def test_the_page_tells_the_run(workdir):
    text = text_of(workdir)
    for words in (
        f"{FAMILY} digits",
        ZOO[FAMILY].summary,
        f"learnt by {ZOO[FAMILY].verb}",
        "step 40 of 40",
        "seed 7",
        "lower bound",
        "−17.82 ± 0.21 nats",
        "test split · n = 360 · step 40 · higher is better",
        "binarised by threshold at 0.5",
        "training 2.125",
        "test 3",
        "2 min 0 s",
        "started 2 times",
        "git checkout " + "c" * 40,
        f"genjax-zoo train --config=configs/{FAMILY}.py:digits '--workdir=a b'",
        "changes that were not committed",
    ):
        assert words in text, words


def test_the_page_requests_nothing(workdir):
    page = outline(workdir)
    assert all(link.startswith("data:") for link in page.links)
    assert "script" not in page.tags
    assert "http" not in (workdir / "report.html").read_text().replace("http-equiv", "")


def test_many_pictures_are_thinned_to_first_and_last_and_some_between(workdir):
    steps = [step for step, _ in gallery.pictures_of(workdir / "samples")]
    assert len(steps) == gallery.PICTURES
    assert (steps[0], steps[-1]) == (0, 19)
    assert steps == sorted(set(steps))


def test_clips_move_on_the_page_and_only_they(workdir):
    still = report.write(workdir).read_text()
    assert "image/gif" not in still
    clip = pictures.write(workdir / "samples/step_00000019.png", np.random.rand(2, 5, 8, 8, 1))[1][
        1
    ]
    moving = report.write(workdir).read_text()
    assert moving.count("data:image/gif") == 1
    assert base64.b64encode(clip.read_bytes()).decode() in moving
    for content in (b"", b"GIF", b"<script>"):
        clip.write_bytes(content)
        assert "image/gif" not in report.write(workdir).read_text()


def test_texts_and_origins_are_on_the_page(workdir):
    files.write(workdir / "samples/step_00000019.txt", "".join(f"line {k}\n" for k in range(99)))
    starts = json.loads((workdir / "run.json").read_text())
    origin = {"workdir": "/runs/vae", "asked": "last", "step": 60, "sha256": "ab" * 32}
    whole = {**origin, "config": {"model": {"name": "vae"}, "data": {"source": "digits"}}}
    starts[-1]["begun"] = {"params": whole, "other": origin, "broken": None}
    (workdir / "run.json").write_text(json.dumps(starts))
    text = text_of(workdir)
    assert "line 15 Samples, step 19" in text and "line 16" not in text
    assert "params: /runs/vae, step 60 of a vae on digits, sha256 abababababababab" in text
    assert "other: /runs/vae, step 60 of a ? on ?" in text and "broken: ?, step ?" in text


def test_what_differs_from_the_defaults_is_marked(workdir):
    page = (workdir / "report.html") if report.write(workdir) else None
    marked = page.read_text().split("<mark>")[1:]
    values = [piece.partition("<")[0] for piece in marked]
    assert set(values) == {"40", "7", "symmetric"}


def test_an_empty_folder_is_a_page_too(tmp_path):
    text = text_of(tmp_path)
    assert "No metrics yet" in text
    assert "No samples drawn yet" in text
    assert "Nothing is measured" in text


@pytest.mark.parametrize("name", ["config.json", "run.json", "metrics.jsonl", "eval/metrics.json"])
@pytest.mark.parametrize("content", [None, "", "{", "3", "[3]", "[[]]", "{}", "\x00\xff"])
def test_a_missing_or_damaged_piece_costs_only_itself(workdir, name, content):
    (workdir / name).unlink()
    if content is not None:
        (workdir / name).write_bytes(content.encode("latin-1"))
    assert "genjax_zoo" in text_of(workdir)


def test_an_unknown_family_is_a_page_too(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model": {"name": "from elsewhere"}}))
    assert "from elsewhere" in text_of(tmp_path)


def test_all_text_is_escaped(tmp_path):
    evil = "<script>alert('&\"')</script>"
    (tmp_path / "config.json").write_text(json.dumps({"model": {"name": evil}, evil: evil}))
    (tmp_path / "run.json").write_text(json.dumps([{"command": [evil, evil], "cpu": evil}]))
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, evil: 2, f"a/{evil}": 1}))
    told = {key: evil for key in MEASURED}
    files.write(tmp_path / "eval" / "metrics.json", json.dumps([told]))
    page = outline(tmp_path)
    assert "script" not in page.tags
    assert evil in "".join(page.text)


def test_a_value_keeps_to_its_error():
    assert cards.value_of(-94.4712, 0.0312) == ("−94.471", "± 0.031")
    assert cards.value_of(1234.5, 17.3) == ("1,234", "± 17")
    assert cards.value_of(0.5, None) == ("0.50000", "")
    assert cards.value_of(math.nan, 1.0) == ("not a number", "")
    # What a file says of NaN
    assert cards.value_of(None, None) == ("not a number", "")


@pytest.mark.parametrize("trust", [3, {"x": 1}, {"draws": "a", "effective": 1, "untrusted": 1}])
def test_a_damaged_word_of_trust_costs_only_itself(trust):
    assert "−30" in str(cards.cards([{"name": "iwae", "value": -30.0, "n": 4, "trust": trust}]))
    doubted = {"draws": 64.0, "effective": None, "untrusted": 4.0}
    told = cards.cards([{"name": "iwae", "value": None, "n": 4, "trust": doubted}])
    assert "NOT TO BE TRUSTED for 4 of 4" in str(told)


def test_a_score_is_shown_with_its_interval(workdir):
    entry = {"name": "kernel_distance", "value": -0.01234, "low": -0.034, "high": 0.0123, "n": 2000}
    files.write(workdir / "eval" / "metrics.json", json.dumps([entry]))
    assert "−0.012 [−0.034, 0.012]" in text_of(workdir)
    assert cards.spread(8.0, 8.0, 8.0) == ("8", "[8, 8]")
    assert cards.spread(7.0, 6.0, 8.0) == ("7.0", "[6.0, 8.0]")
    assert cards.spread(math.nan, math.nan, math.nan)[0] == "not a number"


@pytest.mark.parametrize(
    ("value", "written"),
    [(0, "0"), (-1.5, "−1.500"), (123456.7, "123,457"), (1e-5, "1e−05"), (2e7, "2e+07")],
)
def test_numbers_are_short(value, written):
    assert page.number(value) == written


@pytest.mark.parametrize(
    "line",
    [
        [(1, 1.0)],
        [(1, math.nan)],
        [(5, 3.0), (5.0, 3.0)],
        [(s, 0.0) for s in range(9)],
        [(s, 10.0**s) for s in range(-9, 9)],
        [(s, -(10.0**s)) for s in range(300)],
        [(s, math.nan if s % 3 else s) for s in range(1000)],
        [(s, math.sin(s)) for s in range(5000)],
    ],
)
def test_any_line_is_a_chart(line):
    drawn = Outline(charts.chart({"": line}))
    assert "nan" not in charts.chart({"": line}).lower()
    assert "svg" in drawn.tags or "No finite value" in "".join(drawn.text)


def test_a_line_of_many_points_keeps_its_extremes():
    line = [(s, 100.0 if s == 777 else 0.0) for s in range(5000)]
    drawn = charts.chart({"": line})
    assert "band" in drawn
    heights = [float(p.split(",")[1]) for p in drawn.split('points="')[1].split('"')[0].split()]
    assert min(heights) == pytest.approx(charts.TOP + 0.06 / 1.12 * 138, abs=0.1)


@pytest.mark.parametrize(
    "values", [(230017.01, 230018.6), (0.99900001, 0.9990001), (-1.01e-10, -0.9e-10), (0, 3e9)]
)
def test_no_two_ticks_are_called_alike(values):
    """230.018k three times, one above the other, and 0.999."""
    ticks = charts._ticks(*values)
    labels = charts._labels(ticks)
    units = {"k": 1e3, "M": 1e6, "G": 1e9}
    plain = [label.replace("−", "-") for label in labels]
    meant = [float(v.rstrip("kMG")) * units.get(v[-1], 1) for v in plain]
    np.testing.assert_allclose(meant, ticks, rtol=0, atol=(ticks[1] - ticks[0]) / 50)
    assert charts._labels([0, 10000, 20000]) == ["0", "10k", "20k"]
    assert charts._labels([1000, 1250, 1500]) == ["1k", "1250", "1500"]


@pytest.mark.parametrize("values", [(230_016.5, 230_018.5), (-0.0003755, -0.000377)])
def test_long_labels_have_room(values):
    """They were cut off: "30.018k" of 230.018k."""
    drawn = charts.chart({"": list(enumerate(np.linspace(*values, 9)))})
    for part in drawn.split('<text x="')[1:]:
        place, _, rest = part.partition('"')
        label = rest.partition(">")[2].partition("<")[0]
        if 'class="y"' in rest.partition(">")[0]:
            assert float(place) >= charts.LETTER * len(label), label


def test_a_start_that_dwarfs_the_rest_leaves_the_frame_and_is_told():
    """log p(x) of a first step may be thousands of nats below all others."""
    line = [(1, -9e4), *((s, -90.0 - 5 * math.cos(s)) for s in range(20, 400, 10))]
    drawn = charts.chart({"": line})
    assert "from −90,000, off the frame" in drawn and "−90,000" in drawn.split("<title>")[1]
    heights = [float(p.split(",")[1]) for p in drawn.split('points="')[1].split('"')[0].split()]
    assert heights[0] == charts.HEIGHT - charts.BOTTOM == max(heights)
    assert max(heights[1:]) - min(heights[1:]) > 100
    # A fall that goes on is no start; what is positive has a logarithmic axis.
    for other in ([(s, -1e4 + s) for s in range(1, 400)], [(1, 1e6), (2, 3.0), (3, 2.0)]):
        assert "off the frame" not in charts.chart({"": other})


def test_a_gap_cuts_the_line():
    drawn = charts.chart({"": [(1, 1), (2, 2), (3, math.nan), (4, 1), (5, 2)]})
    assert drawn.count("<polyline") == 2


def test_the_last_samples_stand_beside_the_data_and_are_no_second_time_on_the_page(workdir):
    folder = workdir / "samples"
    last = pictures.write_png(folder / "step_00000019.png", np.full((9, 9, 3), 99, np.uint8))
    assert text_of(workdir).count("Samples, step 19") == 1
    whole = report.write(workdir).read_text()
    assert whole.count(base64.b64encode(last.read_bytes()).decode()) == 1
    assert "Data" not in outline(workdir).text
    pictures.write_png(folder / "data.png", np.full((3, 40, 3), 7, np.uint8), "x")
    assert outline(workdir).text.count("Data") == 1
    pictures.write_png(folder / "step_00000019.png", np.zeros((2, 2, 3), np.uint8), "mean")
    assert "Means of p(x | what is hidden), step 19" in text_of(workdir)
    # One step alone stands at the top, and there is none before it.
    for path in folder.glob("step_000000[01][0-8].png"):
        path.unlink()
    (folder / "step_00000009.png").unlink()
    assert "Samples before" not in text_of(workdir)


def test_small_pictures_keep_their_edges_and_large_ones_are_smooth(workdir):
    folder = workdir / "samples"
    for name, width in (("data", 2000), ("step_00000019", 60)):
        pictures.write_png(folder / f"{name}.png", np.zeros((9, width, 3), np.uint8))
    images = [part for part in report.write(workdir).read_text().split("<img ")[1:]]
    of = {caption: part.split(">")[0] for part in images for caption in (part.split('alt="')[1],)}
    edges = {key.partition('"')[0]: 'class="pixels"' in tag for key, tag in of.items()}
    assert edges["Data"] is False and edges["Samples, step 19"] is True


def test_rows_are_a_table_with_names_and_the_means_of_all(tmp_path):
    x = np.arange(36.0).reshape(12, 3)
    look = shown.Look(columns=("A", "B", "<C>"), symbols={"label": ("no", "yes")})
    written = shown.write(tmp_path / "samples/step_00000004", {"x": x, "label": [0, 1] * 6}, look)
    assert written.picture is None and [p.suffix for p in written.paths] == [".csv"]
    with written.paths[0].open() as file:
        header, first, *rest = csv.reader(file)
    assert header == ["A", "B", "<C>", "label"] and first == ["0", "1", "2", "no"]
    assert len(rest) == 11
    text = text_of(tmp_path)
    assert "A B <C> label 0 1 2 no 3 4 5 yes" in text
    assert "16.5 17.5 18.5 Samples, step 4, 8 of 12; below them the means of all" in text
    # Without names they are numbered; long rows, images and points of the plane are pictures.
    assert shown.table(x).startswith("x1,x2,x3\n")
    is_table = {shape: shown.is_table(np.zeros(shape)) for shape in [(4, 1), (4, 2), (4, 99), (4,)]}
    assert is_table == {(4, 1): True, (4, 2): False, (4, 99): False, (4,): False}


@pytest.mark.parametrize("content", ["", "A,B", "A\n1\nx", "A,B\n1\n", "\x00\xff\n1"])
def test_a_damaged_table_is_a_page_too(tmp_path, content):
    files.write(tmp_path / "samples" / "step_00000004.csv", content)
    assert "genjax_zoo" in text_of(tmp_path)


def test_the_page_tells_how_large_and_how_fast(workdir):
    (workdir / "example.json").write_text(json.dumps({"parameters": 12345}))
    text = text_of(workdir)
    # 25 + 20 steps in 61 + 59.4 seconds.
    assert "12,345 parameters" in text and "steps a second 0.374" in text


def test_a_number_measured_again_is_one_card_and_says_what_it_was(workdir):
    older = {**MEASURED, "value": -19.25, "step": 20, "n": 100}
    other = {**MEASURED, "name": "iwae", "preprocessing": "as they are"}
    files.write(workdir / "eval" / "metrics.json", json.dumps([MEASURED, older, other]))
    text = text_of(workdir)
    assert text.count("log prob") == 1 and text.count("iwae") == 1
    assert "Before: −19.25 at step 20 (n = 100)" in text.replace("−19.250", "−19.25")
    assert text.count("binarised by threshold at 0.5") == 1 and "as they are" in text


def test_a_chart_tells_its_values_and_has_three_ticks_at_least():
    rng = np.random.default_rng(0)
    for _ in range(200):
        low = float(rng.normal()) * 10.0 ** rng.integers(-3, 4)
        width = abs(low) * 10.0 ** rng.uniform(-3, 0.2) + 1e-6
        line = [(s, low + width * s / 30) for s in range(31)]
        drawn = charts.chart({"test": line})
        assert drawn.count('class="y"') >= 3, (low, width)
        assert drawn.count('class="y"') <= 20
    assert "<title>test" in drawn and drawn.count("<title>") == 31
    assert f"{page.number(line[-1][1], 5)} at step 30</title>" in drawn
    many = charts.chart({"": [(s, math.sin(s)) for s in range(5000)]})
    assert many.count("<title>") == charts.TOLD
