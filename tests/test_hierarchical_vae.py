"""Hierarchical variational auto-encoders against quadrature over two latents of one dimension."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from genjax_zoo.contract import BINARY, ConfigError, Exactness
from genjax_zoo.maths.inference import bounds
from genjax_zoo.models import hierarchical_vae as family

KEY = jax.random.key(0)
KEYS = jax.random.split(jax.random.key(1), 3000)
EVERYTHING = jnp.array(list(np.ndindex(2, 2, 2)), jnp.float32)  # all images of three pixels
SMALL = family.Config(latents=(1, 1), widths=((3,), (3,)), importance_samples=300)
POSTERIORS = ("bottom_up", "ladder")


def small(posterior, **fields):
    """A model, and parameters of which no one is zero."""
    model = family.make(dataclasses.replace(SMALL, posterior=posterior, **fields), optax.sgd(1.0))
    state = model.init(KEY, {"x": EVERYTHING})
    leaves, tree = jax.tree.flatten(state.params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    moved = [
        0.6 * p + 0.1 * jax.random.normal(k, p.shape) for k, p in zip(keys, leaves, strict=True)
    ]
    return model, state.replace(params=jax.tree.unflatten(tree, moved))


# The stupid twin: every density on a grid of (z_1, z_2), in float64


def dense(layer, h):
    return h @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"], np.float64)


def network(params, h):
    h = np.asarray(h, np.float64)
    for i in range(len(params)):
        h = dense(params[f"Dense_{i}"], np.tanh(h) if i else h)
    return h


def two(outputs):
    """μ, σ of one dimension."""
    return outputs[..., 0], np.exp(outputs[..., 1])


LINE = np.linspace(-15, 15, 601)
AREA = (LINE[1] - LINE[0]) ** 2


def by_quadrature(params, posterior):
    """log p(x) and the ELBO of every image, [8] each."""
    column = LINE[:, None]
    # p(z_1 | z_2) p(z_2), [z_1, z_2]
    mean_p, std_p = two(network(params.down[0], column))
    log_p = stats.norm.logpdf(LINE[:, None], mean_p, std_p) + stats.norm.logpdf(LINE)
    logits = network(params.decoder, column)
    exact, elbo = [], []
    for x in np.asarray(EVERYTHING):
        log_joint = log_p + (x * logits - np.logaddexp(0, logits)).sum(1)[:, None]
        if posterior == "bottom_up":
            # q(z_1 | x) q(z_2 | z_1)
            log_q = stats.norm.logpdf(LINE, *two(network(params.up[0], x)))[:, None]
            mean, std = two(network(params.up[1], column))
            log_q = log_q + stats.norm.logpdf(LINE, mean[:, None], std[:, None])
        else:
            # q(z_2 | x), and q(z_1 | x, z_2) with the precisions added
            d = np.tanh(network(params.up[0], x))
            mean_1, std_1 = two(network(params.message[0], d))
            d = np.tanh(network(params.up[1], d))
            log_q = stats.norm.logpdf(LINE, *two(network(params.message[1], d)))
            precision = std_1**-2 + std_p**-2
            mean = (mean_1 * std_1**-2 + mean_p * std_p**-2) / precision
            log_q = log_q + stats.norm.logpdf(LINE[:, None], mean, precision**-0.5)
        exact.append(np.log(np.exp(log_joint).sum() * AREA))
        q = np.exp(log_q)
        assert q.sum() * AREA == pytest.approx(1, abs=1e-3)
        elbo.append((q * (log_joint - log_q)).sum() * AREA)
    return np.array(exact), np.array(elbo)


@pytest.fixture(scope="module", params=POSTERIORS)
def known(request):
    model, state = small(request.param)
    return request.param, model, state, *by_quadrature(state.params, request.param)


def test_probabilities_of_all_images_sum_to_one(known):
    *_, exact, elbo = known
    assert np.exp(exact).sum() == pytest.approx(1, abs=1e-4)
    assert np.all(elbo < exact)


def test_log_prob_is_the_elbo_of_the_quadrature_in_the_mean(known):
    _, model, state, _, elbo = known
    assert model.log_prob.exactness is Exactness.LOWER_BOUND
    assert model.spaces["x"] == BINARY
    draws = jax.jit(jax.vmap(lambda k: model.log_prob(k, state, {"x": EVERYTHING})))(KEYS)
    assert np.all(np.abs(draws.mean(0) - elbo) < 5 * draws.std(0) / math.sqrt(len(KEYS)))


def test_the_bound_rises_with_its_samples_from_the_elbo_to_the_exact_value(known):
    posterior, _, state, exact, elbo = known
    batch, previous = {"x": EVERYTHING}, None
    for draws in (1, 5, 300):
        measure = small(posterior, importance_samples=draws)[0].measures["iwae"]
        many = jax.jit(jax.vmap(lambda k, measure=measure: measure(k, state, batch)))(KEYS[:600])
        each = many.mean(1)
        error = 5 * each.std() / math.sqrt(len(each))
        if draws == 1:
            assert abs(each.mean() - elbo.mean()) < error
        if previous is not None:
            paired = each - previous
            assert paired.mean() > 5 * paired.std() / math.sqrt(len(paired))
        previous = each
    assert exact.mean() - 0.05 < each.mean() < exact.mean() + error


def test_draws_are_as_frequent_as_the_quadrature_says(known):
    posterior, _, state, exact, _ = known
    model, _ = small(posterior, sample_means=False)
    n = 20_000
    x = jax.jit(lambda k: model.sample(k, state, n)["x"])(KEY)
    often = np.bincount(np.asarray(x @ jnp.array([4, 2, 1])).astype(int), minlength=8) / n
    p = np.exp(exact)
    assert np.all(np.abs(often - p) < 5 * np.sqrt(p * (1 - p) / n))


def test_precisions_add_up():
    """The product of two densities is proportional to the combined one."""
    one, other = family.Normal(0.3, -0.4), family.Normal(-1.1, 0.6)
    both = family.combine(*(family.Normal(*map(jnp.asarray, n)) for n in (one, other)))
    z = np.linspace(-3, 3, 50)
    log_density = lambda n: stats.norm.logpdf(z, n.mean, np.exp(n.log_std))
    gap = log_density(one) + log_density(other) - log_density(both)
    np.testing.assert_allclose(gap, gap[0], atol=1e-4)


# The objective


def gradient(posterior, key=KEY, **fields):
    model, state = small(posterior, **fields)
    after, info = jax.jit(model.step)(key, state, {"x": EVERYTHING})
    return jax.tree.map(lambda a, b: a - b, state.params, after.params), info


@pytest.mark.parametrize(
    "posterior", [POSTERIORS[0], pytest.param(POSTERIORS[1], marks=pytest.mark.slow)]
)
def test_beta_one_and_no_free_bits_are_the_plain_loss(posterior):
    _, info = gradient(posterior)
    kl = info["kl_1"] + info["kl_2"]
    np.testing.assert_allclose(info["loss"], kl - info["reconstruction"], rtol=1e-5)
    _, warm = gradient(posterior, beta=2.0, warmup_steps=10)
    np.testing.assert_allclose(warm["loss"], -warm["reconstruction"], rtol=1e-5)
    _, free = gradient(posterior, free_bits=100.0)
    np.testing.assert_allclose(free["loss"], 200.0 - info["reconstruction"], rtol=1e-5)


@pytest.mark.parametrize("posterior", POSTERIORS)
def test_the_bound_of_one_sample_is_the_elbo_in_value_and_gradient(posterior):
    found = []
    for objective in ("elbo", "iwae"):
        model, state = small(posterior, objective=objective)

        def one(key, model=model, state=state):
            after, info = model.step(key, state, {"x": EVERYTHING})
            moved = jax.tree.map(lambda a, b: a - b, state.params, after.params)
            return info["loss"], jax.tree.leaves(moved)

        found.append(jax.tree.leaves(jax.jit(jax.vmap(one))(KEYS)))
    for a, b in zip(*found, strict=True):
        chance = 5 * jnp.sqrt((a.var(0) + b.var(0)) / len(KEYS)) + 1e-4
        assert jnp.all(jnp.abs(a.mean(0) - b.mean(0)) < chance)


def test_three_layers_and_several_samples_keep_shapes():
    config = family.Config(
        latents=(5, 4, 3), widths=((9, 8), (7,), (6,)), objective="iwae", training_samples=3
    )
    x = jnp.round(jax.random.uniform(KEY, (10, 4, 4, 1)))
    for posterior in POSTERIORS:
        model = family.make(dataclasses.replace(config, posterior=posterior), optax.adam(1e-3))
        # Shapes alone: the laws run such models.
        state = jax.eval_shape(model.init, KEY, {"x": x})
        after, info = jax.eval_shape(model.step, KEY, state, {"x": x})
        assert after == state
        assert set(info) == {"loss", "effective_samples"}
        decoded = jax.eval_shape(
            lambda s, m=model: m.latents.decode(KEY, s, m.latents.encode(KEY, s, {"x": x})), after
        )
        assert decoded["x"].shape == x.shape


# The parts of bounds.py


def test_effective_samples():
    assert float(bounds.effective_samples(bounds.shares(jnp.zeros((5, 2))))) == pytest.approx(5)
    one = jnp.zeros((5, 2)).at[0].set(100.0)
    assert float(bounds.effective_samples(bounds.shares(one))) == pytest.approx(1)


@pytest.mark.parametrize(
    "fields",
    [
        {"latents": (3,), "widths": ((4,),)},
        {"latents": (3, 2), "widths": ((4,),)},
        {"latents": (3, 0)},
        {"widths": ((4,), (0,))},
        {"widths": ((4,), ())},
        {"activation": "tnah"},
        {"noise_std": 0.0},
        {"warmup_steps": -1},
        {"beta": -1.0},
        {"importance_samples": 0},
        {"average": 1.0},
        {"free_bits": 0.1, "objective": "iwae"},
    ],
)
def test_bad_configs_are_refused(fields):
    with pytest.raises(ConfigError):
        family.Config(**fields)
