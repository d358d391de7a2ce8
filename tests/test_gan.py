"""The family's own laws: the game its config says, its networks, packs, labels and dynamics."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax_zoo import nets
from genjax_zoo.contract import ConfigError, DataError
from genjax_zoo.data import densities
from genjax_zoo.maths import games
from genjax_zoo.maths.games import objectives
from genjax_zoo.measure.modes import coverage
from genjax_zoo.models import gan
from genjax_zoo.typed import typed

NET = nets.Network(widths=(8,))
SMALL = gan.Config(generator=NET, discriminator=NET, latents=3)
DYNAMICS = [games.Config(name) for name in games.DYNAMICS]


def _batch(shape=(2,), n=16, key=0):
    return {"x": jax.random.uniform(jax.random.key(key), (n, *shape))}


@pytest.mark.parametrize(
    "loss, dynamics",
    [
        # Each loss and each dynamics; by --slow each loss under each.
        pytest.param(
            *(loss, dynamics),
            marks=[pytest.mark.slow] if i and j else [],
            id=f"{loss}-{dynamics.name}",
        )
        for i, loss in enumerate(objectives.OBJECTIVES)
        for j, dynamics in enumerate(DYNAMICS)
    ],
)
def test_a_step_is_pure_compiles_once_and_keeps_the_states_shape(loss, dynamics):
    model = gan.make(
        dataclasses.replace(
            SMALL, objective=objectives.Config(loss), dynamics=dynamics, average=0.9
        ),
        optax.adam(1e-3),
    )
    batch, key = _batch(), jax.random.key(1)
    state = model.init(key, batch)
    step = jax.jit(model.step)
    after, info = step(key, state, batch)
    again, _ = step(key, state, batch)
    jax.tree.map(np.testing.assert_array_equal, after, again)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    same = lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype)
    assert all(jax.tree.leaves(jax.tree.map(same, after, state)))
    step(key, after, _batch(key=3))
    assert step._cache_size() == 1
    assert all(v.shape == () and jnp.isfinite(v) for v in info.values())
    for player in ("generator", "discriminator"):
        moved = jax.tree.map(
            lambda a, b: jnp.any(a != b), state.params[player], after.params[player]
        )
        assert any(jax.tree.leaves(moved))


@pytest.mark.parametrize(("output", "low", "high"), [("sigmoid", 0, 1), ("tanh", -1, 1)])
def test_samples_have_the_datas_shape_and_range(output, low, high):
    model = gan.make(dataclasses.replace(SMALL, output=output), optax.sgd(0.1))
    batch = _batch((4, 4, 1))
    state = model.init(jax.random.key(0), batch)
    x = model.sample(jax.random.key(1), state, 7)["x"]
    assert x.shape == (7, 4, 4, 1) and x.dtype == jnp.float32
    assert low <= x.min() and x.max() <= high
    assert model.log_prob is None


@pytest.mark.parametrize(
    "dynamics", ["alternating", pytest.param("consensus", marks=pytest.mark.slow)]
)
def test_a_dcgan_makes_images_and_remembers_its_moments(dynamics):
    config = gan.Config(
        generator=nets.Network("conv", (4, 3), normalise="batch"),
        discriminator=nets.Network("conv", (3, 4), "leaky_relu", "batch"),
        latents=3,
        output="sigmoid",
        dynamics=games.Config(dynamics, gamma=0.1),
    )
    model, batch = gan.make(config, optax.adam(1e-3)), _batch((8, 8, 1))
    state = model.init(jax.random.key(0), batch)
    after, info = jax.jit(model.step)(jax.random.key(1), state, batch)
    assert all(jnp.isfinite(v) for v in info.values())
    assert jax.tree.structure(after) == jax.tree.structure(state)
    for player in ("generator", "discriminator"):
        old, new = (jax.tree.leaves(s.memory[player]) for s in (state, after))
        assert old and all(jnp.any(a != b) for a, b in zip(old, new, strict=True))
    x = model.sample(jax.random.key(2), after, 5)["x"]
    assert x.shape == (5, 8, 8, 1) and x.min() >= 0 and x.max() <= 1
    # An image does not depend on those it is sampled with.
    z = jax.random.normal(jax.random.key(3), (4, 3))
    alone = model.latents.decode(jax.random.key(0), after, z[:1])["x"]
    np.testing.assert_allclose(
        model.latents.decode(jax.random.key(0), after, z)["x"][:1], alone, atol=1e-5
    )


def test_a_dcgan_of_points_is_refused():
    config = gan.Config(generator=nets.Network("conv", (4,)))
    with pytest.raises(ConfigError, match="mlp"):
        gan.make(config, optax.sgd(0.1)).init(jax.random.key(0), _batch())


def test_decode_is_the_generator_and_a_sample_its_image_of_the_prior():
    key_z = jax.random.split(jax.random.key(2))[0]
    for prior in ("normal", "uniform"):
        model = gan.make(dataclasses.replace(SMALL, prior=prior), optax.sgd(0.1))
        state = model.init(jax.random.key(0), _batch())
        z = {
            "normal": jax.random.normal(key_z, (5, 3)),
            "uniform": jax.random.uniform(key_z, (5, 3), minval=-1.0),
        }[prior]
        x = model.sample(jax.random.key(2), state, 5)["x"]
        np.testing.assert_allclose(
            model.latents.decode(jax.random.key(0), state, z)["x"], x, rtol=1e-6
        )


def test_the_step_is_the_game_that_its_config_says():
    """Consensus with γ = 0 is simultaneous; with γ > 0 it is not."""
    batch, key = _batch(), jax.random.key(4)

    def after(**dynamics):
        config = dataclasses.replace(SMALL, dynamics=games.Config(**dynamics))
        model = gan.make(config, optax.sgd(0.1))
        params = model.step(key, model.init(key, batch), batch)[0].params
        return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(params)])

    plain = after(name="simultaneous")
    np.testing.assert_allclose(after(name="consensus", gamma=0.0), plain, rtol=1e-6)
    assert jnp.max(jnp.abs(after(name="consensus", gamma=5.0) - plain)) > 1e-4


def test_training_moves_the_samples_to_the_data():
    """From a blob at the origin to a Gaussian at (2, -1), by consensus."""
    target = densities.gaussians(np.array([[2.0, -1.0]]), 0.3)
    config = gan.Config(
        dynamics=games.Config("consensus", gamma=1.0),
        generator=nets.Network(widths=(16,)),
        discriminator=nets.Network(widths=(16,)),
        latents=2,
    )
    model = gan.make(config, optax.rmsprop(2e-3))
    root = jax.random.key(0)

    def one(state, i):
        key_step, key_batch = jax.random.split(jax.random.fold_in(root, i))
        return model.step(key_step, state, {"x": target.sample(key_batch, 128)})[0], None

    state = model.init(root, {"x": target.sample(root, 128)})
    distance = lambda s: jnp.linalg.norm(
        model.sample(root, s, 500)["x"].mean(0) - target.centres[0]
    )
    before = distance(state)
    state = jax.jit(lambda s: jax.lax.scan(one, s, jnp.arange(1500))[0])(state)
    assert distance(state) < 0.3 < before
    assert coverage(model.sample(root, state, 500)["x"], target).high_quality > 0.5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"objective": {"name": "minmax"}}, "Did you mean 'minimax'"),
        ({"generator": {"name": "mpl"}}, "Did you mean 'mlp'"),
        ({"prior": "norml"}, "Did you mean 'normal'"),
        ({"classes": -1}, "gan: classes should be not negative, got -1"),
        (
            {"objective": {"r1": 1.0}, "discriminator": {"normalise": "batch"}},
            "batch norm mixes",
        ),
        ({"output": "sigmod"}, "Did you mean 'sigmoid'"),
        ({"dynamics": {"name": "konsensus"}}, "Did you mean 'consensus'"),
        ({"dynamics": {"gama": 1.0}}, "Did you mean 'gamma'"),
        ({"latents": 0}, "gan: latents should be at least 1, got 0"),
        ({"average": 1.0}, r"gan: average should be in \[0, 1\), got 1"),
        ({"objective": {"noise": 0.1}}, "Since version 0.2.0 it is called 'instance_noise'"),
    ],
)
def test_bad_configs_are_refused_with_a_hint(fields, message):
    with pytest.raises(ConfigError, match=message):
        typed(gan.Config, fields)


# Packs, labels, penalties: the game with each of them.


def _step(config, batch, key=1):
    model = gan.make(config, optax.adam(1e-3))
    state = model.init(jax.random.key(0), batch)
    return model, state, *jax.jit(model.step)(jax.random.key(key), state, batch)


def test_packs_are_judged_as_one():
    config = dataclasses.replace(SMALL, objective=objectives.Config(pack=4))
    model, state, _, info = _step(config, _batch(n=16))
    first = jax.tree.leaves(state.params["discriminator"])
    assert any(leaf.shape == (8, 8) for leaf in first)  # 4 points of the plane -> 8 hidden units
    assert all(jnp.isfinite(v) for v in info.values())
    with pytest.raises(ConfigError, match="packs of 4 do not divide a batch of 6"):
        model.init(jax.random.key(0), _batch(n=6))


def test_the_critics_moves_divide_the_batch():
    config = dataclasses.replace(SMALL, dynamics=games.Config(k=5))
    with pytest.raises(ConfigError, match=r"5 moves .* do not divide a batch of 16"):
        gan.make(config, optax.sgd(0.1)).init(jax.random.key(0), _batch(n=16))


@pytest.mark.parametrize("network", [pytest.param("mlp", marks=pytest.mark.slow), "conv"])
def test_wgan_gp_moves_the_critic_against_its_slopes(network):
    player = nets.Network(network, (4,), "leaky_relu")
    config = gan.Config(
        objective=objectives.Config("wasserstein", gradient=10.0),
        dynamics=games.Config(k=2),
        generator=player,
        discriminator=dataclasses.replace(player, normalise="layer"),
        latents=3,
    )
    *_, after, info = _step(config, _batch((4, 4, 1), n=8))
    assert info["penalty_gradient"] > 0
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(after))


@pytest.mark.parametrize("dynamics", [name for name in games.DYNAMICS if name != "optimistic"])
def test_clipped_critics_stay_clipped(dynamics):
    config = dataclasses.replace(
        SMALL,
        objective=objectives.Config("wasserstein", clip=0.01),
        dynamics=games.Config(dynamics, gamma=1.0),
    )
    *_, after, _ = _step(config, _batch())
    for leaf in jax.tree.leaves(after.params["discriminator"]):
        assert jnp.max(jnp.abs(leaf)) <= 0.01 + 1e-7
    assert max(jnp.max(jnp.abs(g)) for g in jax.tree.leaves(after.params["generator"])) > 0.01


def test_a_game_of_classes_samples_what_it_is_asked_for():
    config = dataclasses.replace(SMALL, classes=3)
    batch = {**_batch(n=12), "label": jnp.arange(12) % 3}
    model, _, after, _ = _step(config, batch)
    drawn = model.sample(jax.random.key(2), after, 6, {"label": jnp.array([0, 1, 2, 0, 1, 2])})
    np.testing.assert_array_equal(drawn["label"], [0, 1, 2, 0, 1, 2])
    assert (model.sample(jax.random.key(2), after, 50)["label"] < 3).all()
    one = model.sample(jax.random.key(2), after, 6, {"label": 1})
    np.testing.assert_array_equal(one["label"], 1)
    # The same z with another label is another x.
    assert jnp.any(one["x"][0] != drawn["x"][0])
    np.testing.assert_allclose(one["x"][1], drawn["x"][1], rtol=1e-5)
    # Its latents hold the label too.
    latents = model.latents.prior(jax.random.key(3), after, 5)
    assert latents.shape == (5, 3 + 3)
    np.testing.assert_array_equal(latents[:, 3:].sum(1), 1)
    with pytest.raises(DataError, match="needs labelled data"):
        model.init(jax.random.key(0), _batch(n=12))
    with pytest.raises(DataError, match=r"label should be integers 0 \.\. 2, .*and 3 is none"):
        model.sample(jax.random.key(2), after, 6, {"label": 3})
    with pytest.raises(
        DataError, match=r"gan cannot be told that: .*'lable'. Did you mean 'label'"
    ):
        model.sample(jax.random.key(2), after, 6, {"lable": 1})


def test_a_game_without_classes_knows_no_labels():
    model = gan.make(SMALL, optax.sgd(0.1))
    state = model.init(jax.random.key(0), _batch())
    assert set(model.sample(jax.random.key(1), state, 3)) == {"x"} == set(model.spaces)
    with pytest.raises(DataError, match=r"gan: label was given, .* knows no labels"):
        model.sample(jax.random.key(1), state, 3, {"label": 1})


@pytest.mark.slow
def test_a_conditional_generator_learns_which_class_lies_where():
    """Two labels, two places: each label's samples go to its own."""
    places = jnp.array([[1.5, 0.0], [-1.5, 0.0]])
    config = gan.Config(
        objective=objectives.Config(r1=1.0),
        generator=nets.Network(widths=(16,)),
        discriminator=nets.Network(widths=(16,)),
        classes=2,
        latents=2,
    )
    model, root = gan.make(config, optax.adam(3e-3, b1=0.5)), jax.random.key(0)

    def batch(key):
        y = jax.random.randint(key, (64,), 0, 2)
        return {"x": places[y] + 0.3 * jax.random.normal(key, (64, 2)), "label": y}

    def one(state, i):
        key_step, key_batch = jax.random.split(jax.random.fold_in(root, i))
        return model.step(key_step, state, batch(key_batch))[0], None

    state = model.init(root, batch(root))
    state = jax.jit(lambda s: jax.lax.scan(one, s, jnp.arange(1500))[0])(state)
    for label in (0, 1):
        mean = model.sample(root, state, 200, {"label": label})["x"].mean(0)
        assert jnp.linalg.norm(mean - places[label]) < 0.6
