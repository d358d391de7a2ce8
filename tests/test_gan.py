"""The adversarial losses against quadrature, and the family's own laws."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax_zoo import densities, games
from genjax_zoo.contract import ConfigError, Evidence
from genjax_zoo.measure.modes import coverage
from genjax_zoo.models import gan
from genjax_zoo.typed import typed

SMALL = gan.Config(generator=(8,), discriminator=(8,), latents=3)
DYNAMICS = [games.Config(name) for name in games.DYNAMICS]


def _batch(shape=(2,), n=16, key=0):
    return {"x": jax.random.uniform(jax.random.key(key), (n, *shape))}


# N(0, 1) as the data, N(1, 1) as the samples, by quadrature over a line.
_LINE = np.linspace(-12, 13, 20_001)
_H = _LINE[1] - _LINE[0]
_normal = lambda x, mean: np.exp(-((x - mean) ** 2) / 2) / math.sqrt(2 * math.pi)


def _expected_losses(loss, logit):
    """The losses under the two densities, with the loss's own code at each point of the line."""
    a = jnp.asarray(logit(_LINE))[:, None]
    # Each point alone is a batch of one; the terms are additive in data and samples.
    each = jax.vmap(gan.LOSSES[loss])
    far = jnp.full_like(a, 100.0)
    of_data, of_samples = each(a, -far), each(far, a)
    total = lambda told, p: float(_H * np.sum(np.asarray(told, np.float64) * p))
    p, q = _normal(_LINE, 0), _normal(_LINE, 1)
    return {
        "discriminator": total(of_data["discriminator"], p) + total(of_samples["discriminator"], q),
        "generator": total(of_samples["generator"], q),
    }


# D*(x) = p / (p + q), whose logit is log p - log q = ½ - x
OPTIMAL = lambda x: 0.5 - x


def test_the_optimal_discriminators_summed_cross_entropy_is_log_4_minus_2_jsd():
    p, q = _normal(_LINE, 0), _normal(_LINE, 1)
    m = (p + q) / 2
    jsd = _H * np.sum(p * np.log(p / m) + q * np.log(q / m)) / 2
    value = _expected_losses("minimax", OPTIMAL)["discriminator"]
    assert abs(value - (math.log(4) - 2 * jsd)) < 1e-5
    assert abs(value - 1.163451) < 1e-5


@pytest.mark.parametrize("loss", gan.LOSSES)
def test_no_discriminator_does_better_than_the_optimal_one(loss):
    best = _expected_losses(loss, OPTIMAL)["discriminator"]
    for slope, shift in [(0.9, 0), (1.1, 0), (1, 0.1), (1, -0.1)]:
        other = _expected_losses(loss, lambda x, s=slope, t=shift: s * OPTIMAL(x) + t)
        assert other["discriminator"] > best + 1e-4


@pytest.mark.parametrize("loss", gan.LOSSES)
def test_one_who_cannot_tell_pays_log_4(loss):
    told = gan.LOSSES[loss](jnp.zeros(5), jnp.zeros(5))
    assert abs(told["discriminator"] - math.log(4)) < 1e-6
    sign = {"minimax": -1, "non_saturating": 1}[loss]
    assert abs(told["generator"] - sign * math.log(2)) < 1e-6


def test_losses_are_the_logarithms_written_out():
    real, fake = jnp.array([0.3, -2.0, 1.0]), jnp.array([-1.0, 0.5, 4.0])
    D, D_made = jax.nn.sigmoid(real), jax.nn.sigmoid(fake)
    V = jnp.mean(jnp.log(D)) + jnp.mean(jnp.log(1 - D_made))
    for loss, wanted in [
        ("minimax", jnp.mean(jnp.log(1 - D_made))),
        ("non_saturating", -jnp.mean(jnp.log(D_made))),
    ]:
        told = gan.LOSSES[loss](real, fake)
        np.testing.assert_allclose(told["discriminator"], -V, rtol=1e-5)
        np.testing.assert_allclose(told["generator"], wanted, rtol=1e-5)


def test_the_non_saturating_generator_still_learns_where_the_minimax_one_does_not():
    # D is sure that the samples are made: a = -20. Minimax: dL/da = -D(G(z)), which is nothing.
    slope = lambda loss: float(
        jax.grad(lambda a: gan.LOSSES[loss](jnp.zeros(1), a)["generator"])(jnp.array([-20.0]))[0]
    )
    assert abs(slope("minimax")) < 1e-8 and abs(slope("non_saturating") + 1) < 1e-6


def test_extreme_logits_stay_finite():
    for loss in gan.LOSSES.values():
        told = loss(jnp.array([-1e4, 1e4]), jnp.array([1e4, -1e4]))
        assert all(jnp.isfinite(v) for v in told.values())


@pytest.mark.parametrize("dynamics", DYNAMICS, ids=lambda d: d.name)
@pytest.mark.parametrize("loss", gan.LOSSES)
def test_a_step_is_pure_compiles_once_and_keeps_the_states_shape(loss, dynamics):
    model = gan.make(
        dataclasses.replace(SMALL, loss=loss, dynamics=dynamics, average=0.9), optax.adam(1e-3)
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
    assert model.log_prob is None and model.evidence == Evidence.NONE


@pytest.mark.parametrize("dynamics", ["alternating", "consensus"])
def test_a_dcgan_makes_images_and_remembers_its_moments(dynamics):
    config = gan.Config(
        architecture="dcgan",
        generator=(4, 3),
        discriminator=(3, 4),
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
    alone = model.decode(after, z[:1])["x"]
    np.testing.assert_allclose(model.decode(after, z)["x"][:1], alone, atol=1e-5)


def test_a_dcgan_of_points_is_refused():
    config = gan.Config(architecture="dcgan", generator=(4,), discriminator=(4,))
    with pytest.raises(ConfigError, match=r"images .* shape \(2,\)"):
        gan.make(config, optax.sgd(0.1)).init(jax.random.key(0), _batch())


def test_decode_is_the_generator_and_a_sample_its_image_of_the_prior():
    for prior in ("normal", "uniform"):
        model = gan.make(dataclasses.replace(SMALL, prior=prior), optax.sgd(0.1))
        state = model.init(jax.random.key(0), _batch())
        z = {
            "normal": jax.random.normal(jax.random.key(2), (5, 3)),
            "uniform": jax.random.uniform(jax.random.key(2), (5, 3), minval=-1.0),
        }[prior]
        x = model.sample(jax.random.key(2), state, 5)["x"]
        np.testing.assert_allclose(model.decode(state, z)["x"], x, rtol=1e-6)


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
        generator=(16,),
        discriminator=(16,),
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
        ({"loss": "minmax"}, "Did you mean 'minimax'"),
        ({"architecture": "mpl"}, "Did you mean 'mlp'"),
        ({"output": "sigmod"}, "Did you mean 'sigmoid'"),
        ({"dynamics": {"name": "konsensus"}}, "Did you mean 'consensus'"),
        ({"dynamics": {"gama": 1.0}}, "Did you mean 'gamma'"),
        ({"latents": 0}, "at least 1, got 0"),
        ({"generator": (4, 0)}, "generator .* at least 1"),
        ({"architecture": "dcgan", "generator": ()}, "dcgan needs a width"),
        ({"average": 1.0}, r"\[0, 1\), got 1"),
    ],
)
def test_bad_configs_are_refused_with_a_hint(fields, message):
    with pytest.raises(ConfigError, match=message):
        typed(gan.Config, fields)
