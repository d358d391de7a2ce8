"""Captions: the grammar, the drawing, what is held out, the text encoder, and the measure."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax_zoo import nets
from genjax_zoo.commands.sample import given
from genjax_zoo.contract import NOTHING, SIGNED, ConfigError, DataError, Model, categorical
from genjax_zoo.data import scenes
from genjax_zoo.data.config import Data
from genjax_zoo.data.scenes import ARRANGEMENTS, COLOURS, HELD_OUT_TABLE, PLACES, Scene
from genjax_zoo.data.sources import open_source, tokeniser
from genjax_zoo.measure import captions as matching
from genjax_zoo.measure import samples
from genjax_zoo.measure.extractors import bundled
from genjax_zoo.measure.probes import share
from genjax_zoo.models import diffusion

KEY = jax.random.key(0)


def every_scene():
    """All scenes of one thing, and for each relation a few hundred of two."""
    rng = np.random.default_rng(0)
    rows = [(k, c, 0, d, 0) for k in range(len(PLACES)) for c in range(4) for d in range(10)]
    for k in range(len(PLACES), len(ARRANGEMENTS)):
        rows += [(k, *rng.integers(0, 4, 2), *rng.integers(0, 10, 2)) for _ in range(200)]
    k, c1, c2, d1, d2 = np.array(rows).T
    return Scene(k, np.stack([c1, c2], 1), np.stack([d1, d2], 1))


def parsed(said):
    each = [scenes.parse(row) for row in np.asarray(said)]
    return Scene(*(np.stack(part) for part in zip(*each, strict=True)))


# ----------------------------------------------------------------------------------- the grammar


def test_a_caption_is_what_a_person_would_say():
    scene = Scene(jnp.array(5), jnp.array([0, 2]), jnp.array([7, 2]))
    assert scenes.detokenise(scenes.tokens(scene)) == "a red seven above a blue two"
    one = scene._replace(arrangement=jnp.array(0))
    assert scenes.detokenise(scenes.tokens(one)) == "a red seven"
    place = scene._replace(arrangement=jnp.array(1))
    assert scenes.detokenise(scenes.tokens(place)) == "a red seven at the top"


def test_scenes_go_through_tokens_and_through_words():
    shown = every_scene()
    for i, said in enumerate(np.asarray(scenes.tokens(shown))):
        assert np.array_equal(scenes.tokenise(scenes.detokenise(said)), said)
        back = scenes.parse(said)
        things = 2 if shown.arrangement[i] >= len(PLACES) else 1
        assert back.arrangement == shown.arrangement[i]
        assert np.array_equal(back.colour[:things], shown.colour[i, :things])
        assert np.array_equal(back.digit[:things], shown.digit[i, :things])


def test_captions_are_told_apart():
    said = np.asarray(scenes.tokens(every_scene()))
    assert len(np.unique(said[:200], axis=0)) == 200
    assert set(np.unique(said)) == set(range(len(scenes.WORDS)))


@pytest.mark.parametrize(
    "text, told",
    [
        ("a rad seven", "Did you mean 'red'"),
        ("a red seven above a blue two right of it", "'it'"),
        ("a red seven above a blue two at the top", "at most 8 words"),
    ],
)
def test_what_cannot_be_read_is_said(text, told):
    with pytest.raises(DataError, match=told):
        scenes.tokenise(text)


def test_what_is_no_sentence_is_not_parsed():
    for text in ("seven red a", "a red seven above", "a red seven above a two blue", ""):
        with pytest.raises(DataError, match="is no caption"):
            scenes.parse(scenes.tokenise(text))


# ---------------------------------------------------------------------------------- what is drawn


def test_each_colour_lacks_a_digit_and_each_digit_has_a_colour():
    assert HELD_OUT_TABLE.sum(1).tolist() == [1] * len(COLOURS)
    assert HELD_OUT_TABLE.sum(0).max() == 1
    assert len(scenes.UNSEEN) == 4


def test_scenes_of_either_part_are_of_that_part():
    for unseen in (False, True):
        shown = scenes.asked(KEY, 4000, unseen)
        assert bool(jnp.all(scenes.held_out(shown) == unseen))
        # Everything that may be said is said.
        assert len(np.unique(shown.arrangement)) == len(ARRANGEMENTS)
        things = np.concatenate([shown.colour[:, :1], shown.digit[:, :1]], 1)
        assert len(np.unique(things, axis=0)) == (40 if unseen else 36)


@pytest.fixture(scope="module")
def source():
    return open_source(Data(source="captions:digits", batch_size=100, scale="symmetric"), 0)


def test_training_never_shows_a_held_out_pair(source):
    assert source.symbols["text"] == scenes.WORDS
    batch = jax.jit(source.batch)
    for step in range(20):
        fed = source.feed(step, slice(0, 100))
        made = batch(jax.random.key(step), source.resident, fed)
        assert not scenes.held_out(parsed(made["text"])).any()
    held = source.held_out(KEY, 0, 500)
    assert scenes.held_out(parsed(held["text"])).all()
    assert held["x"].shape == (500, 16, 16, 3)
    assert made["x"].min() == -1 and made["x"].max() == 1 and source.spaces["x"] == SIGNED


def test_the_picture_is_what_the_caption_says(source):
    """By pixels: every thing has its colour's channels, where the words say, and no other light."""
    held = source.held_out(KEY, 0, 300)
    for x, said in zip((held["x"] + 1) / 2, held["text"], strict=True):
        words = scenes.detokenise(said).split()
        rest = np.array(x)
        found = scenes.parse(said)
        boxes = {
            "": [(4, 4)], "at the top": [(0, 4)], "at the bottom": [(8, 4)],
            "on the left": [(4, 0)], "on the right": [(4, 8)],
            "above": [(0, 4), (8, 4)], "below": [(8, 4), (0, 4)],
            "left of": [(4, 0), (4, 8)], "right of": [(4, 8), (4, 0)],
        }[ARRANGEMENTS[int(found.arrangement)]]  # fmt: skip
        colours = [word for word in words if word in COLOURS]
        for (row, column), colour in zip(boxes, colours, strict=True):
            thing = rest[row : row + 8, column : column + 8]
            lit = thing.sum((0, 1)) > 1
            assert lit.tolist() == [level > 0 for level in COLOURS[colour]], words
            thing[:] = 0
        assert rest.max() == 0, words


def test_drawing_is_pasting():
    rng = np.random.default_rng(1)
    images = rng.random((900, 2, 4, 4), np.float32)
    shown = every_scene()
    shown = Scene(*(a[:900] for a in shown))
    got = np.asarray(scenes.draw(shown, jnp.asarray(images)))
    palette = np.array(list(COLOURS.values()))
    for i in range(0, 900, 7):
        canvas = np.zeros((8, 8, 3))
        corners = np.asarray(scenes.corners(shown.arrangement[i], 4))
        for k in range(2 if shown.arrangement[i] >= len(PLACES) else 1):
            row, column = corners[k]
            thing = images[i, k][..., None] * palette[shown.colour[i, k]]
            canvas[row : row + 4, column : column + 4] += thing
        np.testing.assert_allclose(got[i], canvas, atol=1e-6)


def test_sources_without_digits_are_refused():
    with pytest.raises(DataError, match="ten digits"):
        open_source(Data(source="captions:density:ring"), 0)
    with pytest.raises(ConfigError, match="scenes of its own"):
        Data(source="captions:digits", binarise="threshold")


# ------------------------------------------------------------------------------------- the text


def test_no_word_looks_at_padding():
    """Proved by gradients: those of the words by the padding's vector and by its number are 0."""
    encoder = nets.text_encoder(nets.Text(vocabulary=12, width=16, blocks=2, heads=2))
    said = jnp.array([[3, 5, 7, 0, 0], [0, 0, 0, 0, 0]])
    params, apply = jax.jit(encoder.init)(KEY, said), jax.jit(encoder.apply)
    words = apply(params, said)
    assert bool(jnp.all(words[0, 3:] == 0)) and bool(jnp.all(words[1] == 0))
    told = lambda p: jnp.sum(jnp.sin(encoder.apply(p, said)[0]))
    slope = jax.jit(jax.grad(told))(params)["table"]
    assert bool(jnp.all(slope[0] == 0))
    assert bool(jnp.all(jnp.abs(slope[jnp.array([3, 5, 7])]).max(-1) > 0))
    # More padding changes nothing; another order of the words does.
    longer = apply(params, jnp.array([[3, 5, 7, 0, 0, 0, 0]]))
    np.testing.assert_allclose(longer[0, :3], words[0, :3], atol=1e-5)
    turned = apply(params, jnp.array([[7, 5, 3, 0, 0]]))
    assert float(jnp.abs(turned[0, 1] - words[0, 1]).max()) > 1e-3


def reading_model(**fields):
    config = diffusion.Config(
        network=nets.Denoiser(name="transformer", width=16, patch=2, blocks=1, heads=2),
        text=nets.Text(vocabulary=5, width=16, blocks=1, heads=2),
        sampling=diffusion.samplers.Config(name="dpm_solver", grid="even_in_log_snr", steps=8),
        parametrisation="velocity",
        weighting="edm",
        bound_samples=8,
        average=0.0,
        **fields,
    )
    return diffusion.make(config, optax.adam(5e-3))


def test_texts_are_learnt_guidance_follows_them_and_without_one_both_are_drawn():
    """A word of two says whether the picture is bright; another only fills the place before it."""
    model = reading_model(guidance=1.0, condition_dropout=0.2)
    bright = jnp.arange(64) % 2
    text = jnp.stack([jnp.full(64, 3), 1 + bright, jnp.zeros(64, jnp.int32)], 1)
    noise = 0.1 * jax.random.normal(KEY, (64, 2, 2, 1))
    batch = {"x": noise + jnp.where(bright, 1.0, -1.0)[:, None, None, None], "text": text}

    @jax.jit
    def train(key):
        body = lambda state, key: (model.step(key, state, batch)[0], None)
        return jax.lax.scan(body, model.init(key, batch), jax.random.split(key, 200))[0]

    state = train(KEY)
    sample = jax.jit(lambda key, text: model.sample(key, state, 40, {"text": text}))
    for word, sign in ((1, -1.0), (2, 1.0)):
        drawn = sample(KEY, jnp.broadcast_to(jnp.array([3, word, 0]), (40, 3)))
        assert drawn["text"].shape == (40, 3)
        assert float((jnp.sign(drawn["x"].mean((1, 2, 3))) == sign).mean()) > 0.95
    # A text that says nothing leaves it to chance, as no text does.
    free = sample(KEY, jnp.zeros((40, 3), jnp.int32))["x"].mean((1, 2, 3))
    assert 0.1 < float((free > 0).mean()) < 0.9
    bound = jax.jit(model.measures["bound"].__call__)
    value = bound(KEY, state, batch)
    swapped = {**batch, "text": text.at[:, 1].set(2 - bright)}
    assert float((value - bound(KEY, state, swapped)).mean()) > 1


def test_a_text_that_is_none_is_refused():
    model = reading_model()
    x = jnp.zeros((4, 2, 2, 1))
    state = jax.jit(model.init)(KEY, {"x": x, "text": jnp.ones((4, 3), jnp.int32)})
    with pytest.raises(DataError, match=r"0 \.\. 4"):
        model.sample(KEY, state, 4, {"text": np.array([1, 5])})
    with pytest.raises(DataError, match=r"text should be integers 0 \.\. 4, .*got float64"):
        model.sample(KEY, state, 4, {"text": np.array([1.0, 2.0])})
    deaf = diffusion.make(diffusion.Config(network=nets.Denoiser(width=8)), optax.sgd(0.1))
    state = jax.jit(deaf.init)(KEY, {"x": x})
    with pytest.raises(DataError, match="reads no text"):
        deaf.sample(KEY, state, 4, {"text": np.array([1, 2])})
    with pytest.raises(ConfigError, match="either labels or texts"):
        diffusion.Config(classes=10, text=nets.Text(vocabulary=5))


def test_the_command_line_reads_words():
    own = tokeniser(Data(source="captions:digits"))
    asked = given(["text=a red seven above a blue two"], {}, own)
    assert scenes.detokenise(asked["text"]) == "a red seven above a blue two"
    with pytest.raises(DataError, match="Did you mean 'seven'"):
        given(["text=a red sevn"], {}, own)
    with pytest.raises(ConfigError, match=r"--text expects a model that learnt from captions"):
        given(["text=a red seven"], {}, None)
    assert tokeniser(Data(source="digits")) is None


# ----------------------------------------------------------------------------------- the measure


READER = functools.partial(matching.read, extractor=bundled("digits"), side=8)


def real(source, n=1000):
    held = source.held_out(KEY, 0, n)
    return (held["x"] + 1) / 2, parsed(held["text"])


def matched(asked, x):
    """The percent of scenes that are right, with an interval, and of their parts."""
    judged = matching.match(asked, READER(x))
    return share(judged.right), {name: share(part).value for name, part in judged.parts.items()}


def test_the_reader_reads_real_scenes(source):
    x, shown = real(source)
    whole, parts = matched(shown, x)
    assert whole.value > 95
    assert parts["arrangement"] > 99 and parts["colour"] > 99
    assert whole.low < whole.value < whole.high


def test_the_reader_is_not_fooled(source):
    """Of pictures in another's place as many match as two scenes are alike by chance: few."""
    x, shown = real(source, 400)
    assert matched(shown, np.roll(x, 1, 0))[0].value < 5
    # Another colour, another place, another order of things: each is seen.
    assert matched(shown, x[..., [1, 2, 0]])[1]["colour"] < 1
    assert matched(shown, np.swapaxes(x, 1, 2))[1]["arrangement"] < 20
    assert matched(shown, np.zeros_like(x))[0].value < 5


def test_below_is_above_seen_from_the_other():
    above = Scene(np.array([5]), np.array([[0, 1]]), np.array([[3, 4]]))
    below = Scene(np.array([6]), np.array([[1, 0]]), np.array([[4, 3]]))
    for one, other in ((above, below), (below, above)):
        same = zip(matching.upright(one), matching.upright(other), strict=True)
        assert all(np.array_equal(a, b) for a, b in same)


def drawing(of_text):
    """A model that draws the scene of each text, once `of_text` has turned it."""
    test = open_source(Data(source="digits"), 0).held_out(KEY, 0, 300)
    grey, label = test["x"][..., 0], test["label"]
    rows = np.stack([np.flatnonzero(np.asarray(label) == d)[:14] for d in range(10)])

    def draw(text):
        shown = parsed(text)
        which = rows[shown.digit, np.arange(len(text))[:, None] % 14]
        return np.asarray(2 * scenes.draw(shown, grey[which]) - 1)

    def sample(key, state, n, given=NOTHING):
        like = jax.ShapeDtypeStruct((n, 16, 16, 3), jnp.float32)
        return {"x": jax.pure_callback(lambda text: draw(of_text(text)), like, given["text"])}

    nothing = lambda *_: ()
    spaces = {"x": SIGNED, "text": categorical(len(scenes.WORDS))}
    return Model(nothing, nothing, sample, spaces=spaces)


def test_the_match_counts_what_follows_the_text(source):
    """A sampler that draws what it is given matches as real scenes do; a deaf one hardly."""
    obedient, deaf = drawing(lambda text: text), drawing(lambda text: np.asarray(text)[::-1])
    asked = functools.partial(samples.evaluate, state=(), source=source, key=KEY, step=3)
    followed = asked(obedient, num_samples=300)
    assert [r.name for r in followed] == ["caption_match", "caption_match_held_out"]
    assert [r.split for r in followed] == ["seen combinations", "held-out combinations"]
    for one in followed:
        assert one.value > 95 and one.low < one.value < one.high and one.n == 300
        assert one.unit == "%" and one.kind == "estimate" and one.preprocessing
        parts = dict(re.findall(r"(\w+) ([0-9.]+)[,;]", one.detail))
        assert list(parts) == ["arrangement", "colour", "digit"]
        assert min(map(float, parts.values())) >= round(one.value, 1)
        # The most that any model can reach.
        ceiling = re.search(r"digits [0-9a-f]{8} has ([0-9.]+) on 2000 real examples", one.detail)
        assert 95 < float(ceiling[1]) <= 100
    assert all(one.value < 10 for one in asked(deaf, num_samples=300))
    (one,) = asked(deaf, num_samples=30, only=("caption_match_held_out",))
    assert one.n == 30 and one.protocol["n_samples"] == 30
    # Of what reads no text, or has none, nothing is asked.
    assert samples.applicable(obedient._replace(spaces={"x": SIGNED}), source, None) == ()
    assert samples.applicable(obedient, open_source(Data(), 0), None) == ()
