"""Paths among latents, inversion, neighbours, and the command that shows them."""

import json
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from genjax_zoo.contract import BINARY, REAL, ConfigError, Latents, Model, ZooError, categorical
from genjax_zoo.data.config import Data
from genjax_zoo.data.sources import open_source
from genjax_zoo.explore import completions, explorations, paths
from genjax_zoo.explore import latents as of_latents
from genjax_zoo.explore.entries import explore
from genjax_zoo.explore.explorations import EXPLORATIONS
from genjax_zoo.explore.latents import encode, flat, invert
from genjax_zoo.explore.neighbours import neighbours
from genjax_zoo.explore.subject import begin, named
from genjax_zoo.main import main
from genjax_zoo.maths.probability.given import known_part, part_of, read_given
from genjax_zoo.models import ZOO, Family
from genjax_zoo.run.config import assemble, make_model, read
from tests.conftest import ToyConfig, make_toy

rng = np.random.default_rng(0)
L = 3
CONFIG_FILE = """
from genjax_zoo.models import ZOO, Family
from genjax_zoo.run.config import assemble

FIELDS = {"model": {"name": "toy"}, "steps": 4, "data": {"batch_size": 20}, "samples": 4}
VARIANTS = {"digits": FIELDS | {"log_every": 4, "checkpoint_every": 4, "eval_examples": 20}}


def get_config(variant="digits"):
    return assemble(VARIANTS, variant)
"""


# ------------------------------------------------------------------------------------- the paths


def test_paths_begin_and_end_where_they_should():
    a, b = rng.normal(size=(2, 7))
    for path in paths.PATHS.values():
        np.testing.assert_allclose(path(a, b, np.array([0.0, 1.0])), [a, b], atol=1e-12)


def test_spherical_interpolation_keeps_the_norm_and_turns_evenly():
    a, b = rng.normal(size=(2, 7))
    b *= np.linalg.norm(a) / np.linalg.norm(b)
    path = paths.spherical(a, b, np.linspace(0, 1, 9))
    np.testing.assert_allclose(np.linalg.norm(path, axis=1), np.linalg.norm(a))
    unit = path / np.linalg.norm(a)
    turns = np.arccos(np.sum(unit[1:] * unit[:-1], axis=1))
    np.testing.assert_allclose(turns, turns[0])
    # It stays in the plane of the two.
    assert np.linalg.matrix_rank(np.stack([*path, a, b]), tol=1e-8) == 2
    # The straight path does not keep the norm.
    straight = paths.linear(a, b, np.array([0.5]))
    assert np.linalg.norm(straight) < 0.99 * np.linalg.norm(a)


def test_spherical_interpolation_of_unequal_norms_goes_evenly_from_one_to_the_other():
    a, b = np.array([1.0, 0.0]), np.array([0.0, 3.0])
    norms = np.linalg.norm(paths.spherical(a, b, np.linspace(0, 1, 5)), axis=1)
    np.testing.assert_allclose(norms, [1, 1.5, 2, 2.5, 3])


@pytest.mark.parametrize("b", [[2.0, 4.0], [-1.0, -2.0], [0.0, 0.0]])
def test_where_there_is_no_one_circle_the_path_is_straight(b):
    a, t = np.array([1.0, 2.0]), np.linspace(0, 1, 4)
    np.testing.assert_allclose(paths.spherical(a, np.array(b), t), paths.linear(a, np.array(b), t))


def test_the_loop_goes_smoothly_through_its_points_and_closes():
    points = rng.normal(size=(5, 3))
    path = paths.loop(points, 200)
    np.testing.assert_allclose(path[::200], points)
    steps = np.diff(np.concatenate([path, path[:2]]), axis=0)
    # No jump and no kink anywhere, the seam included: a corner would turn by a whole step.
    bends = np.linalg.norm(np.diff(steps, axis=0), axis=1)
    assert bends.max() < 0.05 * np.linalg.norm(steps, axis=1).max()


def test_a_sweep_sets_two_codes_and_leaves_the_others():
    base = np.arange(4.0)
    z = paths.sweep(base, (3, 1), (np.array([10.0, 20.0]), np.array([7.0, 8.0, 9.0])))
    assert z.shape == (2, 3, 4)
    for i, third in enumerate((10, 20)):
        for j, first in enumerate((7, 8, 9)):
            np.testing.assert_array_equal(z[i, j], [0, first, 2, third])
    np.testing.assert_array_equal(base, np.arange(4.0))


def test_quantiles_of_normal_draws_are_those_of_the_normal():
    cloud = rng.normal(size=(40_000, 2))
    expected = np.asarray(jax.scipy.stats.norm.ppf((np.arange(9) + 0.5) / 9))
    np.testing.assert_allclose(paths.quantiles(cloud, 9).T, [expected, expected], atol=0.05)


def test_flat_latents_come_back_as_they_were():
    latents = {
        "a": jnp.asarray(rng.normal(size=(4, 2, 3)), jnp.float32),
        "b": (jnp.arange(4), jnp.ones((4, 1))),
    }
    own = flat(latents)
    z = own.of(latents)
    assert z.shape == (4, own.size) == (4, 8)
    again = own.back(z)
    assert jax.tree.structure(again) == jax.tree.structure(latents)
    for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(latents), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


# ------------------------------------------------------------------------ algebra and inversion

W, BIAS = jnp.asarray(rng.normal(size=(L, 64)) / 8, jnp.float32), 0.5


def decode(z):
    return (z @ W + BIAS).reshape(-1, 8, 8, 1)


def test_algebra_on_a_linear_model_is_that_of_the_images():
    """Decoded, the mean of codes is the mean of images: differences of labels are exact."""
    z, labels = rng.normal(size=(30, L)), np.arange(30) % 3
    x = np.asarray(decode(z))
    made = np.asarray(decode(paths.algebra(z, labels, 2, 0, z[1])[None]))[0]
    expected = x[1] + x[labels == 2].mean(0) - x[labels == 0].mean(0)
    np.testing.assert_allclose(made, expected, atol=1e-5)


def test_inversion_recovers_the_latents_of_a_linear_decoder():
    z = rng.normal(size=(5, L)).astype(np.float32)
    starts = jnp.asarray(rng.normal(size=(2, 5, L)), jnp.float32)
    found, error = invert(decode, starts, decode(z), steps=400, rate=0.1)
    np.testing.assert_allclose(found, z, atol=1e-2)
    np.testing.assert_allclose(error, 0, atol=1e-3)


def test_inversion_keeps_the_best_of_its_starts():
    """A decoder with a flat side: from there, no gradient leads back."""
    flat_side = lambda z: jnp.maximum(z, -1.0)
    starts = jnp.asarray([[[-5.0]], [[0.0]], [[-6.0]]])
    found, error = invert(flat_side, starts, jnp.asarray([[2.0]]), steps=300, rate=0.1)
    np.testing.assert_allclose(found, [[2.0]], atol=1e-2)
    assert error.shape == (1,) and error[0] < 1e-3
    _, error = invert(flat_side, starts[:1], jnp.asarray([[2.0]]), steps=300, rate=0.1)
    assert error[0] > 1


# ------------------------------------------------------------------------------------ neighbours


def test_neighbours_against_brute_force():
    x, y = rng.normal(size=(7, 4, 4, 1)), rng.normal(size=(50, 4, 4, 1))
    blocks = [y[:20], y[20:22], y[22:]]
    found, number, apart = neighbours(x, iter(blocks), 3)
    for i in range(len(x)):
        distance = np.sqrt([np.sum((x[i] - one) ** 2) for one in y])
        order = np.argsort(distance)[:3]
        np.testing.assert_array_equal(number[i], order)
        np.testing.assert_allclose(apart[i], distance[order])
        np.testing.assert_array_equal(found[i], y[order])


def test_neighbours_of_texts_differ_in_the_fewest_places():
    """Characters are names: that one's number is near another's says nothing."""
    x, y = rng.integers(0, 50, (6, 12)), rng.integers(0, 50, (40, 12))
    y[:20, :6] = x[0, :6]
    found, number, apart = neighbours(x, iter([y[:15], y[15:]]), 4)
    for i in range(len(x)):
        differ = np.array([sum(a != b for a, b in zip(x[i], one, strict=True)) for one in y])
        np.testing.assert_array_equal(number[i], np.argsort(differ, kind="stable")[:4])
        np.testing.assert_array_equal(apart[i], differ[number[i]])
        np.testing.assert_array_equal(found[i], y[number[i]])


def test_a_copy_is_at_distance_nought():
    y = 1e3 + rng.normal(size=(50, 16))
    _, number, apart = neighbours(y[[3, 8]], iter([y]), 1)
    np.testing.assert_array_equal(number, [[3], [8]])
    np.testing.assert_array_equal(apart, 0)


# ------------------------------------------------------------------------------- of whole models


def sample(key, state, n, given=MappingProxyType({})):
    """Draws, but for what is known of x."""
    x = decode(jax.random.normal(key, (n, L)))
    part = known_part(read_given(given, part_of(REAL, (8, 8, 1)), n, "linear"), "linear")
    return {"x": x if part is None else jnp.where(part[1], part[0], x)}


def linear_model(**fields):
    """x = z W + b with W of orthogonal rows' pseudo-inverse; `encode` is its least squares."""
    given = {
        "init": lambda key, batch: (),
        "step": lambda key, state, batch: (state, {}),
        "sample": sample,
    }
    latents = {
        "encode": lambda key, state, batch: (
            (batch["x"].reshape(-1, 64) - BIAS) @ jnp.linalg.pinv(W)
        ),
        "decode": lambda key, state, z: {"x": decode(z)},
    }
    latents |= {name: fields.pop(name) for name in Latents._fields if name in fields}
    given["latents"] = None if latents["decode"] is None else Latents(**latents)
    return Model(**given | fields)


@pytest.fixture(scope="module")
def digits():
    return open_source(Data(source="digits", batch_size=20), seed=0)


def shown(model, source, folder, what=("all",), **fields):
    subject = begin(model, (), source, jax.random.key(0), folder, **fields)
    entries, left_out = explore(subject, what, step=7)
    return {entry.what: entry for entry in entries}, left_out


def test_everything_is_shown_of_a_model_with_encode_and_decode(digits, tmp_path):
    entries, left_out = shown(linear_model(), digits, tmp_path)
    assert set(entries) == set(EXPLORATIONS) and left_out == []
    told = json.loads((tmp_path / "explore.json").read_text())
    assert told["step"] == 7
    named = {name for entry in told["entries"] for name in entry["files"]}
    # Whole files, and nothing else: no torn or temporary one stays behind.
    assert named | {"explore.json"} == {path.name for path in tmp_path.iterdir()}
    for name in named:
        with Image.open(tmp_path / name) as picture:
            picture.load()
            assert min(picture.size) > 40
            assert getattr(picture, "n_frames", 1) > (1 if name.endswith(".gif") else 0)
    assert all(entry["caption"].endswith(".") for entry in told["entries"])


def test_the_examples_first_shown_have_different_labels(digits, tmp_path):
    subject = begin(linear_model(), (), digits, jax.random.key(1), tmp_path)
    assert sorted(subject.pool["label"][:10]) == list(range(10))
    x = np.asarray(digits.held_out(jax.random.key(5), 0, digits.held_out_size)["x"])
    np.testing.assert_array_equal(subject.pool["x"], x[subject.number])


def test_a_model_with_prior_and_decode_is_inverted(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(of_latents, "INVERTED", 12)
    prior = lambda key, state, n: jax.random.normal(key, (n, L))
    subject = begin(linear_model(encode=None, prior=prior), (), digits, jax.random.key(0), tmp_path)
    codes = encode(subject)
    assert codes.z.shape == (12, L) and "inversion" in codes.how
    exact = linear_model().latents.encode(None, (), {"x": subject.pool["x"][:12]})
    np.testing.assert_allclose(codes.z, exact, atol=0.05)
    assert codes.of_cloud == "the prior" and abs(codes.cloud.std() - 1) < 0.05


def test_examples_are_named_by_their_class(digits, tmp_path):
    named_digits = digits._replace(symbols={"label": tuple(f"digit {i}" for i in range(9))})
    subject = begin(linear_model(), (), named_digits, jax.random.key(1), tmp_path)
    of = {int(label): i for i, label in enumerate(subject.pool["label"][:10])}
    assert named(subject, of[3]) == f"{subject.number[of[3]]} (digit 3)"
    assert "(label 9)" in named(subject, of[9]), "which has no name"


def test_data_without_x_are_refused(digits, tmp_path):
    with pytest.raises(ZooError, match="shows the x of data, and digits have: text"):
        spaces = {"text": categorical(5)}
        begin(linear_model(), (), digits._replace(spaces=spaces), jax.random.key(0), tmp_path)


def test_what_a_model_cannot_show_is_one_sentence(digits, tmp_path):
    none = linear_model(encode=None, decode=None)
    with pytest.raises(ZooError, match=r"walk.*no decode.*vae"):
        shown(none, digits, tmp_path, ("walk",))
    entries, left_out = shown(none, digits, tmp_path)
    assert set(entries) == {"neighbours", "completions"} and len(left_out) == 1
    binary = linear_model(space=BINARY)
    with pytest.raises(ZooError, match=r"0 or 1.*no path"):
        shown(binary, digits, tmp_path, ("interpolation",))
    entries, left_out = shown(binary, digits, tmp_path)
    assert set(entries) == {"reconstructions", "completions", "neighbours"} and len(left_out) == 1
    with pytest.raises(ZooError, match="neither encode nor prior"):
        shown(linear_model(encode=None), digits, tmp_path, ("walk",))
    with pytest.raises(ConfigError, match=r"codes 0 \.\. 2"):
        shown(linear_model(), digits, tmp_path, ("sweep",), pair=(0, 3))
    with pytest.raises(ConfigError, match="interpolation"):
        shown(linear_model(), digits, tmp_path, ("interpolatoin",))


def test_a_model_that_copies_its_training_data_is_told(digits, tmp_path):
    train = jnp.asarray(digits.training(jax.random.key(0), 0, digits.size)["x"])
    copy = lambda key, state, n: {"x": train[jax.random.randint(key, (n,), 0, len(train))]}
    fresh = jnp.asarray(digits.held_out(jax.random.key(0), 0, digits.held_out_size)["x"])
    new = lambda key, state, n: {"x": fresh[jax.random.randint(key, (n,), 0, len(fresh))]}
    numbers = [
        shown(linear_model(sample=sample), digits, tmp_path, ("neighbours",))[0][
            "neighbours"
        ].numbers
        for sample in (copy, new)
    ]
    copied, drawn = numbers
    assert copied["memorised"] == 1 and copied["median distance of samples"] == 0
    assert copied["probability that a sample is nearer"] > 0.99
    assert drawn["memorised"] < 0.12
    assert abs(drawn["probability that a sample is nearer"] - 0.5) < 0.07


def test_neighbours_are_those_of_draws_whatever_is_looked_at(tmp_path):
    """A mean between 0 and 1 is near everything."""
    source = open_source(Data(source="digits", batch_size=20, binarise="threshold"), seed=0)
    grey = jnp.full((500, 8, 8, 1), 0.4)
    both = lambda key, state, n: {
        "x": jax.random.bernoulli(key, grey[:n]).astype(jnp.float32),
        "mean": grey[:n],
    }
    model = linear_model(sample=both, spaces={"x": BINARY})
    entry = shown(model, source, tmp_path, ("neighbours",))[0]["neighbours"]
    squared = entry.numbers["median distance of samples"] ** 2
    np.testing.assert_allclose(squared, round(squared), atol=1e-6)
    assert squared > 5


def test_points_of_the_plane_are_shown_too(tmp_path):
    source = open_source(Data(source="density:two_moons", batch_size=20), seed=0)
    model = linear_model(
        sample=lambda key, state, n, given=(): (
            read_given(given, {}, n, "normal") or {"x": jax.random.normal(key, (n, 2))}
        ),
        encode=lambda key, state, batch: batch["x"] / 2,
        decode=lambda key, state, z: {"x": 2 * z},
    )
    entries, left_out = shown(model, source, tmp_path)
    assert {"interpolation", "walk", "sweep"} <= set(entries)
    assert any("neighbours: it looks among all" in sentence for sentence in left_out)
    assert any("completions: the model cannot be given a part" in one for one in left_out)
    with pytest.raises(ZooError, match=r"^neighbours: it looks among all training examples, and"):
        shown(model, source, tmp_path, ("neighbours",))


def test_of_one_example_is_shown_what_it_allows(tmp_path):
    """A series has no second one to go to, no spread and no neighbours; it has a past."""
    source = open_source(Data(source="series:nile", batch_size=1), seed=0)
    config = {"name": "linear_dynamical_system", "structure": "local_level"}
    model = make_model(read(assemble({"one": {"model": config}}, "one")))
    state = model.init(jax.random.key(0), source.held_out(jax.random.key(0), 0, 1))
    subject = begin(model, state, source, jax.random.key(0), tmp_path)
    entries, left_out = explore(subject, ("all",))
    assert [entry.what for entry in entries] == ["reconstructions", "completions"]
    assert "the first 50 of 100 times are given" in entries[1].caption
    whys = dict(sentence.split(": ") for sentence in left_out)
    assert whys["interpolation, walk"] == "it needs 2 examples, and these data hold one."
    assert "spread" in whys["sweep, traversal"] and "hold one" in whys["neighbours"]


def test_the_given_half_stays_and_the_rest_is_drawn(digits, tmp_path, monkeypatch):
    seen = []
    keep = lambda subject, *blocks: seen.append(blocks) or np.zeros((4, 4, 3), np.uint8)
    monkeypatch.setattr(completions, "picture", keep)
    shown(linear_model(), digits, tmp_path, ("completions",))
    ((x, told, made),) = seen
    assert x.shape[1:] == told.shape[1:] == (1, 8, 8, 1) and made.shape[1:] == (5, 8, 8, 1)
    np.testing.assert_array_equal(made[:, :, :4], np.broadcast_to(x, made.shape)[:, :, :4])
    assert np.ptp(made[:, :, 4:], axis=1).min() > 0
    np.testing.assert_array_equal(told[:, :, 4:], 0.5)


def test_a_text_is_completed_by_texts(tmp_path):
    (tmp_path / "a.txt").write_text("the cat sat on\nthe mat\n" * 30)
    words = [
        *("--config=configs/markov_chain.py:text", f"--config.data.source=text:{tmp_path}/a.txt"),
        *("--config.steps=2", "--config.data.length=8", f"--workdir={tmp_path}/run"),
        "--config.model.vocabulary=13",
    ]
    assert main(["genjax-zoo", "train", *words]) == 0
    assert main(["genjax-zoo", "explore", f"--workdir={tmp_path}/run"]) == 0
    lines = (tmp_path / "run" / "explore" / "completions.txt").read_text().split("\n")
    own, drawn = lines[0], lines[1:6]
    assert len(own) == 9 and own[4] == "|" and own.replace("|", "").strip("\u23ce")
    assert all(line.startswith("    |") and len(line) == 9 for line in drawn) and lines[6] == ""
    entries = json.loads((tmp_path / "run" / "explore" / "explore.json").read_text())
    assert "4 of 8 symbols are given" in json.dumps(entries)
    assert "are parts of texts" in json.dumps(entries)
    assert own in (tmp_path / "run" / "report.html").read_text()


def test_of_very_many_codes_some_are_tried(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(explorations, "TRIED", 2)
    entry = shown(linear_model(), digits, tmp_path, ("traversal",))[0]["traversal"]
    assert "2 of 3 codes, of 2 that were tried" in entry.caption


@pytest.mark.parametrize("model", [{"name": "gan", "classes": 2}, {"name": "infogan"}])
def test_samples_are_decoded_draws_of_the_prior(model):
    small = {"widths": (4,)}
    given = {"model": {**model, "generator": small, "discriminator": small}}
    model = make_model(read(assemble({"small": given}, "small")))
    batch = {"x": jnp.zeros((4, 8, 8, 1)), "label": jnp.zeros(4, jnp.int32)}
    state = jax.jit(model.init)(jax.random.key(0), batch)
    drawn = jax.jit(model.sample, static_argnums=2)(jax.random.key(1), state, 4)
    z = jax.jit(model.latents.prior, static_argnums=2)(jax.random.key(1), state, 4)
    np.testing.assert_allclose(
        jax.jit(model.latents.decode)(jax.random.key(2), state, z)["x"], drawn["x"], atol=1e-5
    )
    if "label" in drawn:
        np.testing.assert_array_equal(z[:, -2:], jax.nn.one_hot(drawn["label"], 2))


# ----------------------------------------------------------------------------------- the command


def make_linear(config, tx):
    """The toy, whose latents are those of the linear decoder."""
    linear = linear_model()
    return make_toy(config, tx)._replace(latents=linear.latents)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny run of it, for as long as the family is in the roster."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    (folder.parent / "toy.py").write_text(CONFIG_FILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(
            ZOO, "toy", Family("toy", "descend", "Linear.", lambda: (ToyConfig, make_linear))
        )
        words = [f"--config={folder.parent}/toy.py:digits", f"--workdir={folder}"]
        assert main(["genjax-zoo", "train", *words]) == 0
        yield folder


def test_the_command_end_to_end(trained, capsys):
    words = [f"--workdir={trained}", "--what=interpolation,neighbours,sweep"]
    assert main(["genjax-zoo", "explore", *words]) == 0
    out, _ = capsys.readouterr()
    told = json.loads((trained / "explore" / "explore.json").read_text())
    assert told["step"] == 4
    report = (trained / "report.html").read_text()
    assert "Exploration" in report and "data:image/gif" in report
    for entry in told["entries"]:
        for name in entry["files"]:
            assert (trained / "explore" / name).exists() and name in out
    # The same seed shows the same; another one other examples.
    first = (trained / "explore" / "interpolation_linear.png").read_bytes()
    again = [f"--workdir={trained}", "--what=interpolation", f"--out={trained}/again"]
    assert main(["genjax-zoo", "explore", *again]) == 0
    assert (trained / "again" / "interpolation_linear.png").read_bytes() == first
    assert main(["genjax-zoo", "explore", *again, "--seed=1"]) == 0
    assert (trained / "again" / "interpolation_linear.png").read_bytes() != first


@pytest.mark.parametrize(
    ("word", "message"),
    [("--what=swep", "sweep"), ("--codes=1", "two different numbers"), ("--codes=0,9", "0 .. 2")],
)
def test_bad_words_are_one_message(trained, capsys, word, message):
    words = [f"--workdir={trained}", word]
    words += [] if word.startswith("--what") else ["--what=sweep"]
    assert main(["genjax-zoo", "explore", *words]) == 2
    _, err = capsys.readouterr()
    assert message in err and err.count("genjax-zoo: ") == 1 and "Traceback" not in err
