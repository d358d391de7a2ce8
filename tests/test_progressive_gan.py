"""Progressive growing: its layers against numpy, what fades, what a stage takes over and draws."""

import functools
import inspect
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax_zoo.contract import REAL, SIGNED, UNIT, ConfigError, DataError, Model
from genjax_zoo.learn.state import eval_params
from genjax_zoo.maths.games import objectives
from genjax_zoo.models import progressive_gan
from genjax_zoo.nets import conv, progressive, upsample

KEY = jax.random.key(0)
ADAM = optax.adam(1e-3, b1=0.0, b2=0.99)
WIDTHS = (8, 6, 4)


def small(widths=WIDTHS, **fields):
    """A model of images of 3 colours, and a batch for it."""
    config = progressive_gan.Config(widths=widths, latents=5, average=0.9, **fields)
    side = config.sides[-1]
    x = jax.random.uniform(KEY, (8, side, side, 3), minval=-1)
    return config, progressive_gan.make(config, ADAM), {"x": x}


class Walk(NamedTuple):
    """A model, the states after 0, 1, ... steps, what each step said, and how often it traced."""

    config: progressive_gan.Config
    model: Model
    batch: dict
    states: list
    infos: list
    traces: list


def walk(steps, **fields):
    config, model, batch = small(**fields)
    traces = []

    @jax.jit
    def step(key, state, batch):
        traces.append(1)
        return model.step(key, state, batch)

    states, infos = [jax.jit(model.init)(KEY, batch)], []
    for i in range(steps):
        state, info = step(jax.random.fold_in(KEY, i), states[-1], batch)
        states.append(state)
        infos.append(info)
    return Walk(config, model, batch, states, infos, traces)


@functools.cache
def growing():
    """Stages of 4, 8 and 16 pixels, of 2, 4 and 8 steps, and two steps more."""
    return walk(16, stage_steps=(2, 4, 8), interval=(-0.2, 0.3))


@functools.cache
def at_once():
    """One stage of 16 pixels."""
    return walk(2, stage_steps=(2,), first=16, drift=0.5)


def same(a, b):
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, a, b)))


def said(info):
    """What the stage in progress says, without its name."""
    spoken = {name: one for name, one in info.items() if name != "stage" and bool(one.said)}
    assert len({name.partition("/")[0] for name in spoken}) == 1
    return {name.partition("/")[2]: one.value for name, one in spoken.items()}


# ------------------------------------------------------------------------------- the layers


def test_weights_are_drawn_from_one_normal_and_scaled_by_fan_in_where_they_are_used():
    players = {
        "generator": progressive.generator((64, 64), True).init(
            KEY, jnp.zeros((1, 32)), jnp.zeros((1, 8, 8, 1))
        ),
        "discriminator": progressive.discriminator((64, 64), True).init(
            KEY, jnp.zeros((1, 8, 8, 1))
        ),
    }
    for path, leaf in jax.tree_util.tree_leaves_with_path(players):
        where = jax.tree_util.keystr(path)
        if where.endswith("['b']"):
            assert not leaf.any()
        else:
            assert abs(float(leaf.std()) - 1) < 5 / np.sqrt(2 * leaf.size), where
    w = players["discriminator"]["block_8"]["first"]["w"]
    np.testing.assert_allclose(progressive.equalised(w), np.sqrt(2 / (3 * 3 * 64)) * w, rtol=1e-6)
    # What He's constant is for: before its nonlinearity a layer passes on E[h²] · gain².
    h = jax.nn.relu(jax.random.normal(KEY, (64, 8, 8, 64))) * np.sqrt(2)
    out = conv(h, progressive.equalised(w, gain=1), padding="VALID")
    np.testing.assert_allclose(float(jnp.var(out)), 1, rtol=0.1)


def test_all_layers_learn_at_one_pace():
    """Weights all start at scale 1, and Adam's first step moves each of them by the rate."""
    before, after = (state.states[0].params for state in at_once().states[:2])
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_allclose(jnp.abs(new - old).max(), 1e-3, rtol=0.02)


def test_pixel_norm_against_numpy():
    h = np.random.default_rng(0).normal(size=(3, 4, 4, 7)).astype(np.float32) * 5
    twin = np.empty_like(h)
    for at in np.ndindex(3, 4, 4):
        twin[at] = h[at] / np.sqrt(np.mean(h[at] ** 2) + 1e-8)
    np.testing.assert_allclose(progressive.pixel_norm(h), twin, rtol=1e-5)
    assert np.isfinite(jax.grad(lambda h: progressive.pixel_norm(h).sum())(jnp.zeros((1, 3)))).all()


@pytest.mark.parametrize("batch, group", [(8, 4), (4, 4), (6, 3), (10, 2), (7, 1), (1, 1)])
def test_minibatch_deviation_against_numpy(batch, group):
    h = np.random.default_rng(1).normal(size=(batch, 4, 4, 3)).astype(np.float32)
    out = np.asarray(progressive.minibatch_deviation(jnp.asarray(h)))
    assert out.shape == (batch, 4, 4, 4)
    np.testing.assert_array_equal(out[..., :3], h)
    for first in range(0, batch, group):
        members = h[first : first + group]
        expected = np.mean(
            [[members[:, i, j, c].std() for c in range(3)] for i, j in np.ndindex(4, 4)]
        )
        np.testing.assert_allclose(out[first : first + group, ..., 3], expected, atol=2e-4)


def test_half_and_upsample_are_averages_and_copies():
    x = jax.random.normal(KEY, (2, 8, 8, 3))
    np.testing.assert_allclose(progressive.half(x)[1, 2, 3], x[1, 4:6, 6:8].mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(progressive.half(upsample(x)), x, rtol=1e-6)
    np.testing.assert_allclose(
        progressive.half(x, 4), progressive.half(progressive.half(x)), atol=1e-6
    )


def test_the_first_layer_is_a_convolution_of_one_padded_pixel():
    """The generator at 4x4, written out with convolutions alone."""
    z = jax.random.normal(KEY, (3, 5))
    net = progressive.generator((8,), False)
    params = net.init(KEY, z, jnp.zeros((1, 4, 4, 2)))
    p = params["block_4"]
    # The kernel slides backwards over the one pixel.
    h = conv(
        progressive.pixel_norm(z)[:, None, None],
        p["first"]["w"][::-1, ::-1] * np.sqrt(2 / (16 * 5)),
        padding=((3, 3), (3, 3)),
    )
    h = progressive.pixel_norm(jax.nn.leaky_relu(h + p["first"]["b"], 0.2))
    h = conv(h, p["second"]["w"] * np.sqrt(2 / (9 * 8))) + p["second"]["b"]
    h = progressive.pixel_norm(jax.nn.leaky_relu(h, 0.2))
    x = h @ (params["to_image_4"]["w"][0, 0] / np.sqrt(8)) + params["to_image_4"]["b"]
    np.testing.assert_allclose(net.apply(params, z), x, atol=1e-5)


# ------------------------------------------------------------------------------- the fade-in


def grown(make):
    """A player of 8 pixels and one of 16 that has taken its parameters over."""
    below, above = make(WIDTHS[:2], True), make(WIDTHS, True)
    z, x8, x16 = jnp.zeros((1, 5)), jnp.zeros((1, 8, 8, 3)), jnp.zeros((1, 16, 16, 3))
    inputs = ((z, x8), (z, x16)) if make is progressive.generator else ((x8,), (x16,))
    old = below.init(KEY, *inputs[0])
    new = above.init(jax.random.key(1), *inputs[1])
    taken = progressive_gan.taken({"player": new}, {"player": old})["player"]
    return below, above, old, new, taken


def test_at_alpha_0_the_generator_is_the_earlier_one_twice_as_large():
    below, above, old, _, new = grown(progressive.generator)
    z = jax.random.normal(KEY, (4, 5))
    np.testing.assert_array_equal(above.apply(new, z, 0.0), upsample(below.apply(old, z, 1.0)))
    first, middle, last = (above.apply(new, z, alpha) for alpha in (0.0, 0.5, 1.0))
    np.testing.assert_allclose(middle, (first + last) / 2, atol=1e-5)
    assert float(jnp.abs(last - first).max()) > 1e-2


def test_at_alpha_0_the_discriminator_is_the_earlier_one_of_the_image_half_as_large():
    below, above, old, _, new = grown(progressive.discriminator)
    x = jax.random.normal(KEY, (8, 16, 16, 3))
    np.testing.assert_array_equal(
        above.apply(new, x, 0.0), below.apply(old, progressive.half(x), 1.0)
    )
    assert float(jnp.abs(above.apply(new, x, 0.5) - above.apply(new, x, 0.0)).max()) > 1e-3


@pytest.mark.parametrize("make", [progressive.generator, progressive.discriminator])
def test_at_alpha_1_nothing_is_left_of_the_earlier_images(make):
    _, above, _, _, new = grown(make)
    plain = make(WIDTHS, False)
    kept = {name: p for name, p in new.items() if name not in ("to_image_8", "from_image_8")}
    x = jax.random.normal(KEY, (4, 16, 16, 3) if make is progressive.discriminator else (4, 5))
    np.testing.assert_array_equal(above.apply(new, x, 1.0), plain.apply(kept, x))


# -------------------------------------------------------------------------------- the stages


def test_a_stage_learns_in_its_time_and_leaves_the_others_alone():
    stages = [0, 0, 1, 1, 1, 1, *[2] * 10]
    assert [int(info["stage"]) for info in growing().infos] == stages
    for stage, (old, new) in zip(stages, itertools.pairwise(growing().states), strict=True):
        for k in range(3):
            assert same(old.states[k], new.states[k]) == (k != stage)


def test_a_stage_takes_over_by_name_with_a_fresh_optimizer():
    run = growing()
    fresh, earlier = run.states[2].states[1], run.states[2].states[0]
    begun = progressive_gan.grow(fresh, (earlier,))
    for player in ("generator", "discriminator"):
        known, own = set(earlier.params[player]), set(begun.params[player])
        assert own - known == {"block_8", f"{'to' if player[0] == 'g' else 'from'}_image_8"}
        for name in own:
            origin = earlier if name in known else fresh
            assert same(begun.params[player][name], origin.params[player][name]), name
            # The moving average goes on: asked for now, it would be the earlier stage's.
            means = (eval_params(state)[player][name] for state in (begun, origin))
            for a, b in zip(*map(jax.tree.leaves, means), strict=True):
                np.testing.assert_allclose(a, b, atol=1e-6)
    np.testing.assert_allclose(begun.average.weight, 1 - 0.9**2, rtol=1e-5)
    assert same(begun.optimizer, fresh.optimizer)
    # And that is where the stage's first step begins: it moves each weight by the rate at most.
    after = run.states[3].states[1].params
    for name in set(earlier.params["generator"]):
        for a, b in zip(
            jax.tree.leaves(begun.params["generator"][name]),
            jax.tree.leaves(after["generator"][name]),
            strict=True,
        ):
            assert float(jnp.abs(a - b).max()) < 1.1e-3


def test_alpha_rises_over_the_first_half_of_each_later_stage():
    alphas = [float(said(info)["alpha"]) for info in growing().infos]
    rising = [0, 0.25, 0.5, 0.75]
    np.testing.assert_allclose(alphas, [1, 1, *rising[::2], 1, 1, *rising, 1, 1, 1, 1, 1, 1])


def test_samples_have_the_size_and_range_of_the_data_in_every_stage():
    run = growing()
    draw = jax.jit(run.model.sample, static_argnums=2)
    latents = run.model.latents
    # In one program, as a sample is: two that are compiled apart may round apart.
    decoded = jax.jit(lambda key, state: latents.decode(key, state, latents.prior(key, state, 5)))
    for t, state in enumerate(run.states):
        x = draw(KEY, state, 5)["x"]
        assert x.shape == (5, 16, 16, 3)
        assert x.dtype == jnp.float32
        assert float(x.min()) >= np.float32(-0.2)
        assert float(x.max()) <= np.float32(0.3)
        # Pixels in blocks of 4, 2 or 1, as the stage that learnt last has them, or the one before
        # while nothing has faded in.
        fine = 1 if t > 6 else 2 if t > 2 else 4
        assert same(x, upsample(x[:, ::fine, ::fine], fine)), t
        assert same(decoded(KEY, state)["x"], x)
    assert same(latents.prior(KEY, state, 5), progressive_gan.prior(run.config, KEY, 5))
    assert not same(x, upsample(x[:, ::2, ::2]))


def test_a_stage_that_has_not_begun_does_not_show():
    """Between two stages the samples are the earlier one's; the later one would draw noise."""
    run = growing()
    state = run.states[2]
    z = progressive_gan.prior(run.config, KEY, 6)
    G = progressive.generator(WIDTHS[:1], False)
    x = upsample(G.apply(eval_params(state.states[0])["generator"], z), 4)
    drawn = run.model.sample(KEY, state, 6)["x"]
    np.testing.assert_allclose(drawn, jnp.clip(x, -0.2, 0.3), atol=1e-6)


def test_full_size_from_the_start_is_one_change_and_the_same_network():
    assert [float(said(info)["alpha"]) for info in at_once().infos] == [1, 1]
    assert len(at_once().states[0].states) == 1
    last = growing().states[0].states[-1].params
    for player, own in at_once().states[0].states[0].params.items():
        for name, theta in own.items():
            assert jax.tree.map(jnp.shape, theta) == jax.tree.map(jnp.shape, last[player][name])
        # What fades out is all that growing adds.
        extra = {"generator": {"to_image_8"}, "discriminator": {"from_image_8"}}[player]
        assert set(last[player]) - set(own) == extra


def test_the_step_compiles_once_over_all_stages():
    assert len(growing().traces) == 1
    assert all(np.isfinite(jax.tree.leaves(info)).all() for info in growing().infos)


def test_the_losses_are_those_of_the_paper():
    """By hand, at the first step, with the keys of the model itself."""
    run = at_once()
    theta, x = run.states[0].states[0].params, run.batch["x"]
    key_step = jax.random.split(jax.random.fold_in(KEY, 0))[1]
    key_z, _, key_between = jax.random.split(jax.random.fold_in(key_step, 0), 3)
    G, D = progressive.generator(WIDTHS, False), progressive.discriminator(WIDTHS, False)
    made = G.apply(theta["generator"], progressive_gan.prior(run.config, key_z, 8))
    a = lambda x: D.apply(theta["discriminator"], x)
    penalty = objectives.gradient(key_between, a, x, made)
    expected = a(made).mean() - a(x).mean() + 10 * penalty + 0.5 * (a(x) ** 2).mean()
    loss = said(run.infos[0])["loss_discriminator"]
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


def test_data_fade_in_as_the_samples_do():
    """At α = ½ the discriminator is shown data with half of their fine detail."""
    run, x = growing(), progressive.half(growing().batch["x"])
    assert float(said(run.infos[3])["alpha"]) == 0.5
    theta = run.states[3].states[1].params["discriminator"]
    a = lambda x: float(progressive.discriminator(WIDTHS[:2], True).apply(theta, x, 0.5).mean())
    shown = (x + upsample(progressive.half(x))) / 2
    np.testing.assert_allclose(said(run.infos[3])["a_of_data"], a(shown), rtol=1e-4)
    assert abs(a(shown) - a(x)) > 1e-3 * abs(a(x))


def energy_distance(x, y):
    apart = lambda a, b: np.linalg.norm(a[:, None] - b[None], axis=-1)
    return 2 * apart(x, y).mean() - apart(x, x).mean() - apart(y, y).mean()


@pytest.mark.slow
def test_a_little_training_brings_samples_nearer_to_the_data_in_both_stages():
    """Two kinds of 8x8 images: bright above or bright below."""
    above = jnp.where(jnp.arange(8)[:, None, None] < 4, 0.8, -0.8) * jnp.ones((8, 8, 1))
    data = jnp.where(jnp.arange(16)[:, None, None, None] % 2 == 0, above, -above)
    config = progressive_gan.Config(
        widths=(8, 8), stage_steps=(300,), latents=4, average=0.9, interval=(-1.0, 1.0)
    )
    model = progressive_gan.make(config, optax.adam(1e-2, b1=0.0, b2=0.99))

    @jax.jit
    def train(state):
        one = lambda s, i: (model.step(jax.random.fold_in(KEY, i), s, {"x": data})[0], None)
        return jax.lax.scan(one, state, state.count + jnp.arange(300))[0]

    states = [model.init(KEY, {"x": data})]
    for _ in range(2):
        states.append(train(states[-1]))
    draw = jax.jit(model.sample, static_argnums=2)
    flat = lambda x: np.asarray(x).reshape(len(x), -1)
    start, half_way, end = (
        energy_distance(flat(draw(KEY, s, 128)["x"]), flat(data)) for s in states
    )
    assert half_way < start / 2
    assert end < half_way


# --------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "fields, says",
    [
        ({"widths": ()}, r"0 widths .* \(none\), .* or model.widths to more"),
        ({"widths": (8, 0)}, "progressive_gan: widths should be at least 1, got 0"),
        ({"latents": 0}, "progressive_gan: latents should be at least 1"),
        ({"first": 12}, "resolutions 4, 8, and first=12"),
        ({"first": 16}, "set model.first"),
        ({"stage_steps": (1, 2, 3)}, "one number or 2"),
        ({"stage_steps": (0,)}, "progressive_gan: stage_steps should be at least 1, got 0"),
        ({"stage_steps": ()}, "one number or 2"),
        ({"fade": 1.5}, r"progressive_gan: fade should be in \[0, 1\], got 1.5"),
        ({"drift": -1.0}, "progressive_gan: drift should be not negative"),
        ({"average": 1.0}, r"progressive_gan: average should be in \[0, 1\)"),
        ({"interval": (1.0, 0.0)}, "interval should rise"),
        ({"objective": objectives.Config(pack=2)}, "set it to 1"),
    ],
)
def test_bad_configs_are_refused(fields, says):
    with pytest.raises(ConfigError, match=says):
        progressive_gan.Config(**fields)


@pytest.mark.parametrize(
    "shape, says",
    [
        (
            (28, 28, 1),
            r"shape \(28, 28, 1\); set config.data.resize=16, or 32 with model.widths of 4",
        ),
        ((32, 32, 1), "set model.widths to 4 numbers, or config.data.resize=16"),
        ((16, 12, 1), r"\(16, 12, 1\); set config.data.resize=16\.(\n|$)"),
        ((8, 8, 1), "set model.widths to 2 numbers"),
        ((2,), "choose a source of images"),
    ],
)
def test_data_of_another_size_are_refused(shape, says):
    _, model, _ = small(stage_steps=(2,))
    with pytest.raises(ConfigError, match=says):
        jax.eval_shape(model.init, KEY, {"x": jnp.zeros((4, *shape))})


def test_the_interval_is_a_space():
    assert small(interval=(0.0, 1.0))[1].spaces["x"] == UNIT
    assert small()[1].spaces["x"] == SIGNED
    assert small(interval=(-0.5, 0.5))[1].spaces["x"] == REAL


def test_a_sample_knows_of_nothing_given():
    run = at_once()
    with pytest.raises(DataError, match="progressive_gan cannot be told that"):
        run.model.sample(KEY, run.states[0], 2, {"label": 1})


def test_any_resolution_is_begun_from_another_run():
    """The later one, which would have taken over from the earlier, keeps what it was given."""
    _, model, batch = small(stage_steps=(1,), widths=WIDTHS[:2])
    assert list(inspect.signature(model.init).parameters) == ["key", "batch", "side_4", "side_8"]
    init, step = jax.jit(model.init), jax.jit(model.step)
    learnt = init(jax.random.key(5), batch).states[1].params
    state = init(KEY, batch, side_8=learnt)
    for i in range(2):
        before = state.states[1].params
        state, _ = step(jax.random.fold_in(KEY, i), state, batch)
    assert same(before, learnt)
    far = lambda a, b: max(float(jnp.abs(x - y).max()) for x, y in zip(
        *map(jax.tree.leaves, (a, b)), strict=True))  # fmt: skip
    assert 0 < far(state.states[1].params, learnt) < 1.1e-3
    with pytest.raises(ConfigError, match=r"'side_9'\. Did you mean 'side_"):
        model.init(KEY, batch, side_9=learnt)
