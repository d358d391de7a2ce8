"""Objectives and penalties against quadrature, logarithms written out, and single examples."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax_zoo.contract import ConfigError
from genjax_zoo.maths.games import objectives

KEY = jax.random.key(0)
CROSS_ENTROPY = ("minimax", "non_saturating")


# N(0, 1) as the data, N(1, 1) as the samples, by quadrature over a line.
_LINE = np.linspace(-12, 13, 20_001)
_H = _LINE[1] - _LINE[0]
_normal = lambda x, mean: np.exp(-((x - mean) ** 2) / 2) / math.sqrt(2 * math.pi)


def _expected_losses(loss, logit):
    """The losses under the two densities, with the loss's own code at each point of the line."""
    a = jnp.asarray(logit(_LINE))[:, None]
    # Each point alone is a batch of one; the terms are additive in data and samples.
    each = jax.vmap(objectives.OBJECTIVES[loss])
    far = jnp.full_like(a, 100.0)
    of_data, of_samples = each(a, -far), each(far, a)
    total = lambda lowered, p: float(_H * np.sum(np.asarray(lowered, np.float64) * p))
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


@pytest.mark.parametrize("loss", CROSS_ENTROPY)
def test_no_discriminator_does_better_than_the_optimal_one(loss):
    best = _expected_losses(loss, OPTIMAL)["discriminator"]
    for slope, shift in [(0.9, 0), (1.1, 0), (1, 0.1), (1, -0.1)]:
        other = _expected_losses(loss, lambda x, s=slope, t=shift: s * OPTIMAL(x) + t)
        assert other["discriminator"] > best + 1e-4


@pytest.mark.parametrize("loss", CROSS_ENTROPY)
def test_one_who_cannot_tell_pays_log_4(loss):
    lowered = objectives.OBJECTIVES[loss](jnp.zeros(5), jnp.zeros(5))
    assert abs(lowered["discriminator"] - math.log(4)) < 1e-6
    sign = {"minimax": -1, "non_saturating": 1}[loss]
    assert abs(lowered["generator"] - sign * math.log(2)) < 1e-6


def test_losses_are_the_logarithms_written_out():
    real, fake = jnp.array([0.3, -2.0, 1.0]), jnp.array([-1.0, 0.5, 4.0])
    D, D_made = jax.nn.sigmoid(real), jax.nn.sigmoid(fake)
    V = jnp.mean(jnp.log(D)) + jnp.mean(jnp.log(1 - D_made))
    for loss, wanted in [
        ("minimax", jnp.mean(jnp.log(1 - D_made))),
        ("non_saturating", -jnp.mean(jnp.log(D_made))),
    ]:
        lowered = objectives.OBJECTIVES[loss](real, fake)
        np.testing.assert_allclose(lowered["discriminator"], -V, rtol=1e-5)
        np.testing.assert_allclose(lowered["generator"], wanted, rtol=1e-5)


def test_the_non_saturating_generator_still_learns_where_the_minimax_one_does_not():
    # D is sure that the samples are made: a = -20. Minimax: dL/da = -D(G(z)), which is nothing.
    slope = lambda loss: float(
        jax.grad(lambda a: objectives.OBJECTIVES[loss](jnp.zeros(1), a)["generator"])(
            jnp.array([-20.0])
        )[0]
    )
    assert abs(slope("minimax")) < 1e-8 and abs(slope("non_saturating") + 1) < 1e-6


def test_extreme_logits_stay_finite():
    for loss in objectives.OBJECTIVES.values():
        lowered = loss(jnp.array([-1e4, 1e4]), jnp.array([1e4, -1e4]))
        assert all(jnp.isfinite(v) for v in lowered.values())


def test_the_optimal_least_squares_discriminator_is_d_star():
    # Mao et al. 2017, equation 5, with targets 1 and 0: a*(x) = p / (p + q), here sigmoid(½ - x).
    optimal = lambda x: 1 / (1 + np.exp(-OPTIMAL(x)))
    loss = lambda a: _expected_least_squares(a)["discriminator"]
    best = loss(optimal)
    for slope, shift in [(0.9, 0), (1.1, 0), (1, 0.05), (1, -0.05)]:
        assert loss(lambda x, s=slope, t=shift: s * optimal(x) + t) > best + 1e-4


def _expected_least_squares(a):
    a, p, q = jnp.asarray(a(_LINE)), _normal(_LINE, 0), _normal(_LINE, 1)
    each = jax.vmap(objectives.least_squares)
    # The loss of one player that sees the other exactly at its target is a term by itself.
    of_data = each(a[:, None], jnp.zeros((len(a), 1)))["discriminator"]
    of_samples = each(jnp.ones((len(a), 1)), a[:, None])["discriminator"]
    return {
        "discriminator": float(_H * np.sum(np.asarray(of_data) * p + np.asarray(of_samples) * q))
    }


def test_the_best_linear_critic_of_two_shifted_normals_tells_their_wasserstein_distance():
    x = jax.random.normal(KEY, (1000, 3))
    shift = jnp.array([2.0, -1.0, 2.0])
    lowered = objectives.wasserstein(x @ -shift / 3, (x + shift) @ -shift / 3)
    assert abs(-lowered["discriminator"] - 3) < 1e-4  # |shift| = 3, and the critic has slope 1


def test_hinge_moves_only_within_the_margin():
    loss = lambda real, fake: objectives.hinge(real, fake)["discriminator"]
    slopes = jax.grad(loss, (0, 1))(jnp.array([0.5, 1.5]), jnp.array([-0.5, -1.5]))
    np.testing.assert_allclose(slopes[0], [-0.5, 0])
    np.testing.assert_allclose(slopes[1], [0.5, 0])


# Penalties, example by example.

_W = jax.random.normal(jax.random.key(1), (12, 5))
_V = jax.random.normal(jax.random.key(2), (5,))


def _critic(x):
    return jnp.tanh(x.reshape(len(x), -1) @ _W) @ _V


def _norms(x):
    """‖∇a‖ of each example, stupidly: one gradient at a time."""
    one = jax.grad(lambda x: _critic(x[None])[0])
    return np.array([np.linalg.norm(one(example)) for example in x])


REAL = jax.random.normal(jax.random.key(3), (6, 2, 3, 2))
FAKE = jax.random.normal(jax.random.key(4), (6, 2, 3, 2)) + 1


def test_penalties_are_the_slopes_of_single_examples():
    epsilon = np.asarray(jax.random.uniform(KEY, (6, 1, 1, 1)))
    between = jnp.asarray(epsilon * np.asarray(REAL) + (1 - epsilon) * np.asarray(FAKE))
    expected = {
        "gradient": np.mean((_norms(between) - 1) ** 2),
        "interpolated": np.mean(_norms(between) ** 2) / 2,
        "r1": np.mean(_norms(REAL) ** 2) / 2,
        "r2": np.mean(_norms(FAKE) ** 2) / 2,
    }
    assert expected.keys() == objectives.PENALTIES.keys()
    for name, value in expected.items():
        got = objectives.PENALTIES[name](KEY, _critic, REAL, FAKE)
        np.testing.assert_allclose(got, value, rtol=1e-5)


def test_one_scalar_an_example_lies_between_data_and_samples():
    parts = (objectives._between(KEY, REAL, FAKE) - FAKE) / (REAL - FAKE)
    np.testing.assert_allclose(
        parts, jnp.broadcast_to(parts[:, :1, :1, :1], parts.shape), atol=1e-4
    )
    assert parts.min() >= 0 and parts.max() <= 1
    assert jnp.std(parts[:, 0, 0, 0]) > 0.05


def test_a_flat_critic_has_a_penalty_and_no_nan():
    flat = lambda slope: lambda x: slope * jnp.sum(x, (1, 2, 3))
    of = lambda slope: objectives.gradient(KEY, flat(slope), REAL, FAKE)
    value, slope = jax.value_and_grad(of)(0.0)
    assert value == 1 and jnp.isfinite(slope)


def test_the_config_adds_what_it_names_to_the_discriminators_loss_alone():
    values = (_critic(REAL), _critic(FAKE))
    plain, _ = objectives.Config().losses(KEY, _critic, values, (REAL, FAKE))
    config = objectives.Config(gradient=10.0, r2=3.0)
    lowered, info = config.losses(KEY, _critic, values, (REAL, FAKE))
    extra = 10 * info["penalty_gradient"] + 3 * info["penalty_r2"]
    np.testing.assert_allclose(lowered["discriminator"], plain["discriminator"] + extra, rtol=1e-6)
    assert lowered["generator"] == plain["generator"]
    assert "penalty_r1" not in info


def test_packs_are_neighbours_side_by_side():
    x = jnp.arange(24).reshape(4, 3, 2)
    packed = objectives.pack(x, 2)
    assert packed.shape == (2, 3, 4)
    for k in range(2):
        np.testing.assert_array_equal(packed[k], np.concatenate([x[2 * k], x[2 * k + 1]], axis=-1))
    np.testing.assert_array_equal(objectives.pack(x, 1), x)


def test_instance_noise_is_what_it_says():
    x = jnp.zeros((2000, 3))
    noisy = objectives.Config(instance_noise=0.5).noisy(KEY, x)
    assert abs(float(noisy.std()) - 0.5) < 0.02 and abs(float(noisy.mean())) < 0.02
    assert objectives.Config().noisy(KEY, x) is x


def test_clipped_weights_stay_within():
    tx = objectives.Config(clip=0.1).optimizers(optax.sgd(1.0))
    params = {"w": jnp.array([0.05, -0.09])}
    g = {"w": jnp.array([1.0, 0.005])}
    kept = {}
    for player in ("discriminator", "generator"):
        updates, _ = tx[player].update(g, tx[player].init(params), params)
        kept[player] = optax.apply_updates(params, updates)["w"]
    np.testing.assert_allclose(kept["discriminator"], [-0.1, -0.095], atol=1e-7)
    np.testing.assert_allclose(kept["generator"], [-0.95, -0.095], atol=1e-7)


def test_the_generator_may_learn_faster():
    tx = objectives.Config(generator_rate=5.0).optimizers(optax.sgd(0.1))
    g = jnp.array([2.0])
    step = {player: tx[player].update(g, tx[player].init(g), g)[0] for player in tx}
    np.testing.assert_allclose(step["generator"], 5 * step["discriminator"], rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "wassertein"}, "Did you mean 'wasserstein'"),
        ({"gradient": -1.0}, "objectives: gradient should be not negative, got -1"),
        ({"interpolated": -1.0}, "objectives: interpolated should be not negative"),
        ({"r1": -1.0}, "objectives: r1 should be not negative"),
        ({"r2": -1.0}, "objectives: r2 should be not negative"),
        ({"clip": -0.1}, "objectives: clip should be not negative"),
        ({"instance_noise": -0.1}, "objectives: instance_noise should be not negative"),
        ({"pack": 0}, r"objectives: pack should be in \[1, 1000\], got 0"),
        ({"generator_rate": 0.0}, "objectives: generator_rate should be positive, got 0"),
    ],
)
def test_bad_objectives_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        objectives.Config(**fields)


def test_packs_that_do_not_divide_the_batch_are_refused():
    with pytest.raises(ConfigError, match="packs of 4 do not divide a batch of 6"):
        objectives.pack(jnp.zeros((6, 2)), 4)


def test_a_penalty_on_slopes_refuses_batch_norm():
    with pytest.raises(ConfigError, match="batch norm mixes"):
        objectives.Config(r1=1.0).check("batch", "alternating")
    objectives.Config(r1=1.0).check("layer", "alternating")
    objectives.Config().check("batch", "optimistic")


def test_clipping_refuses_the_dynamics_that_would_leave_it():
    with pytest.raises(ConfigError, match="optimistic dynamics moves by two"):
        objectives.Config(clip=0.01).check("none", "optimistic")
