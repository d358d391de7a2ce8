"""The discrete VAE against frequencies, integrals and all codes one by one."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax_zoo import nets
from genjax_zoo.contract import BINARY, UNIT, ConfigError, Exactness
from genjax_zoo.maths.inference import codebooks
from genjax_zoo.models import discrete_vae

KEY = jax.random.key(0)
SMALL = {"codes": 3, "features": 4, "widths": (6,), "blocks": 1, "anneal_steps": 20, "kl_steps": 5}
IMAGES = jax.random.bernoulli(KEY, 0.4, (12, 4, 4, 1)).astype(jnp.float32)
GRIDS = jnp.array(list(itertools.product(range(3), repeat=4)), jnp.int32).reshape(-1, 2, 2)


def small(**fields):
    """A model of 2 x 2 grids of three codes, and its first state."""
    config = discrete_vae.Config(**{**SMALL, "decoder": "bernoulli", **fields})
    model = discrete_vae.make(config, optax.adam(1e-2))
    return model, jax.jit(model.init)(KEY, {"x": IMAGES})


def train(model, state, steps):
    """The state after so many steps, in one compiled call."""
    one = lambda i, state: model.step(jax.random.fold_in(KEY, i), state, {"x": IMAGES})[0]
    return jax.jit(lambda state: jax.lax.fori_loop(0, steps, one, state))(state)


@pytest.fixture(scope="module")
def taught():
    """A model that has learnt a little, and its state."""
    model, state = small(importance_samples=2000)
    return model, train(model, state, 40)


def joint_of(model, state):
    """log p(x, z) [81, B] of every grid and image, by hand from the decoder's means."""
    mean = np.asarray(jax.jit(model.latents.decode)(KEY, state, GRIDS)["x"], np.float64).reshape(
        81, 1, -1
    )
    x = np.asarray(IMAGES).reshape(1, len(IMAGES), -1)
    return (x * np.log(mean) + (1 - x) * np.log1p(-mean)).sum(-1) - 4 * math.log(3)


# The mathematics


@pytest.mark.parametrize("hard", [False, True])
def test_cold_gumbel_softmax_draws_the_categorical(hard):
    logits, n = jnp.array([0.3, -1.0, 1.2, 0.0]), 50_000
    each = jnp.broadcast_to(logits, (n, 4))
    y = codebooks.gumbel_softmax(KEY, each, 5.0 if hard else 1e-3, hard)
    p = np.asarray(jax.nn.softmax(logits))
    np.testing.assert_allclose(y.sum(-1), 1, rtol=1e-4)
    assert np.all(np.abs(np.asarray(y.mean(0)) - p) < 4 * np.sqrt(p * (1 - p) / n) + 1e-3)
    assert float((y.max(-1) > 0.99).mean()) > 0.98


def test_a_hard_draw_has_the_gradient_of_the_relaxed_one():
    logits, weights = jax.random.normal(KEY, (2, 6))
    grads = [
        jax.grad(lambda l, h=h: codebooks.gumbel_softmax(KEY, l, 0.7, h) @ weights)(logits)
        for h in (False, True)
    ]
    np.testing.assert_allclose(*grads, rtol=1e-5, atol=1e-6)
    assert float(jnp.abs(grads[0]).max()) > 1e-3


def test_kl_to_uniform_is_the_sum_over_all_grids():
    log_q = jax.nn.log_softmax(2 * jax.random.normal(KEY, (1, 2, 2, 3)))
    own = [sum(float(log_q[0, i, j, z[i, j]]) for i, j in np.ndindex(2, 2)) for z in GRIDS]
    brute = sum(math.exp(a) * (a + 4 * math.log(3)) for a in own)
    assert float(codebooks.kl_to_uniform(log_q)[0]) == pytest.approx(brute, rel=1e-4)


# The bound


def test_the_bound_is_the_true_elbo_and_lies_below_log_p_of_x(taught):
    """Both by summing over all 81 grids; hard draws of q must average to the ELBO."""
    model, state = taught
    joint = joint_of(model, state)
    exact = np.logaddexp.reduce(joint, axis=0)
    draws = jax.jit(jax.vmap(model.log_prob.value, (0, None, None)))(
        jax.random.split(KEY, 3000), state, {"x": IMAGES}
    )
    assert model.log_prob.exactness is Exactness.LOWER_BOUND
    error = 5 * np.asarray(draws.std(0)) / math.sqrt(len(draws)) + 1e-4
    mean = np.asarray(draws.mean(0))
    assert np.all(mean <= exact + error)
    # ELBO = Σ_z q(z | x) [log p(x, z) - log q(z | x)]
    encoder = nets.grid_encoder((6,), 3, 1)
    logs = np.asarray(
        jax.nn.log_softmax(jax.jit(encoder.apply)(state.params.encoder, IMAGES)), np.float64
    )
    i, j = np.indices((2, 2))
    log_q = logs[:, i, j, np.asarray(GRIDS)].sum((-1, -2)).T
    elbo = (np.exp(log_q) * (joint - log_q)).sum(0)
    assert np.all(np.abs(mean - elbo) < error)
    assert np.max(exact - elbo) > 1e-3, "the bound is tight: nothing was tested"


def test_the_bound_is_exact_where_q_is_the_posterior():
    """A decoder that takes no notice of z leaves the prior as posterior; so does this encoder."""
    model, state = small()
    params = state.params
    zero = lambda tree: jax.tree.map(jnp.zeros_like, tree)
    params = params.replace(encoder=zero(params.encoder), codebook=zero(params.codebook))
    state = state.replace(params=params)
    exact = np.logaddexp.reduce(joint_of(model, state), axis=0)
    np.testing.assert_allclose(model.log_prob(KEY, state, {"x": IMAGES}), exact, rtol=1e-5)


def test_many_importance_samples_reach_the_exact_value(taught):
    model, state = taught
    exact = np.logaddexp.reduce(joint_of(model, state), axis=0)
    measure = model.measures["iwae"]
    assert measure.exactness is Exactness.ESTIMATE
    value = jax.jit(measure.__call__)(KEY, state, {"x": IMAGES})
    np.testing.assert_allclose(value, exact, atol=0.1)


# The model


def test_the_temperature_falls_and_the_kl_comes_in():
    model, state = small(temperature=2.0, temperature_end=0.5, anneal_steps=4, kl_steps=4)
    step, infos = jax.jit(model.step), []
    for i in range(6):
        state, info = step(jax.random.fold_in(KEY, i), state, {"x": IMAGES})
        infos.append((float(info["temperature"]), float(info["kl_weight"])))
        loss = info["kl_weight"] * info["kl"] - info["reconstruction"]
        assert float(info["loss"]) == pytest.approx(float(loss), rel=1e-5)
    np.testing.assert_allclose([t for t, _ in infos], [2, 2**0.5, 1, 0.5**0.5, 0.5, 0.5], rtol=1e-5)
    np.testing.assert_allclose([b for _, b in infos], [0.25, 0.5, 0.75, 1, 1, 1], rtol=1e-5)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"decoder": "gaussian", "mean": "sigmoid", "straight_through": True, "average": 0.9},
        pytest.param({"decoder": "logit_laplace"}, marks=pytest.mark.slow),
    ],
)
def test_every_decoder_learns(fields):
    model, before = small(**fields)
    state = train(model, before, 60)
    batch, log_prob = {"x": IMAGES}, jax.jit(model.log_prob.value)
    assert log_prob(KEY, state, batch).mean() > log_prob(KEY, before, batch).mean() + 1
    codes = jax.jit(model.latents.encode)(KEY, state, batch)
    assert codes.shape == (12, 2, 2) and codes.dtype == jnp.int32
    back = jax.jit(model.latents.decode)(KEY, state, codes)["x"]
    error = jnp.mean(jnp.abs(back - IMAGES))  # of pixels that are 1 in two of five
    assert error < 2 * 0.4 * 0.6
    both = jax.jit(model.sample, static_argnums=2)(KEY, state, 3)
    assert set(both) == {"x", "mean"}
    for drawn in both.values():
        assert drawn.shape == (3, 4, 4, 1)
        if model.spaces["x"] in (BINARY, UNIT):
            assert drawn.min() >= 0 and drawn.max() <= 1


# What is refused


def test_only_images_are_taken():
    model = discrete_vae.make(discrete_vae.Config(), optax.adam(1e-3))
    with pytest.raises(ConfigError, match="images"):
        model.init(KEY, {"x": jnp.zeros((5, 2))})


@pytest.mark.parametrize(
    "fields",
    [
        {"codes": 0},
        {"features": 0},
        {"widths": ()},
        {"temperature": 0.0},
        {"temperature_end": -1.0},
        {"kl_weight": -1.0},
        {"importance_samples": 0},
        {"noise_std": 0.0},
        {"average": 1.0},
        {"activation": "rleu"},
    ],
)
def test_bad_configs_are_refused(fields):
    with pytest.raises(ConfigError):
        discrete_vae.Config(**fields)
