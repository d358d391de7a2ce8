"""Annealed importance sampling against distributions whose log Z is known."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_zoo.contract import ConfigError
from genjax_zoo.maths.mcmc import ais

KEY = jax.random.key(0)


def ising(J, base=0.0, key=KEY):
    """Three binary units with random couplings: p*_β = exp(β x'Jx + (1 - β) base Σx).

    The transition tries one flip of each unit in turn and back again, so that it is reversible.
    """
    D = len(J)

    def log_density(beta, x):
        return beta * jnp.einsum("nd,de,ne->n", x, J, x) + (1 - beta) * base * x.sum(1)

    def flip(key, beta, x, d):
        other = x.at[:, d].set(1 - x[:, d])
        ratio = log_density(beta, other) - log_density(beta, x)
        accept = jnp.log(jax.random.uniform(key, ratio.shape)) < ratio
        return jnp.where(accept[:, None], other, x)

    def transition(key, beta, x):
        order = [*range(D), *reversed(range(D))]
        for own, d in zip(jax.random.split(key, 2 * D), order, strict=True):
            x = flip(own, beta, x, d)
        return x

    return ais.Path(
        base=lambda key, n: jax.random.bernoulli(key, jax.nn.sigmoid(base), (n, D)).astype(float),
        log_density=log_density,
        transition=transition,
        log_z=D * math.log(1 + math.exp(base)),
    )


J = 2.0 * jax.random.normal(KEY, (3, 3))
STATES = jnp.array(list(np.ndindex(2, 2, 2)), float)
MASS = jnp.einsum("nd,de,ne->n", STATES, J, STATES)
LOG_Z = float(jax.nn.logsumexp(MASS))


def exact_draws(n):
    return STATES[jax.random.categorical(jax.random.key(7), MASS, shape=(n,))]


@pytest.mark.parametrize("base", [0.0, 0.7])
@pytest.mark.parametrize("block", [0, 250])
def test_forward_and_reverse_agree_with_enumeration(base, block):
    path, config = ising(J, base), ais.Config(50, 2000, block=block)
    for found in (
        jax.jit(lambda key: ais.ais(key, path, config))(KEY),
        jax.jit(lambda key: ais.reverse(key, path, exact_draws(2000), config))(KEY),
    ):
        assert abs(float(found.log_z) - LOG_Z) < 3 * float(found.standard_error)
        assert 0 < found.standard_error < 0.05
        assert found.log_weights.shape == (2000,)
        assert 100 < found.effective < 2000


def test_weights_are_the_product_along_the_chain():
    """With two temperatures and one chain, written out by hand."""
    path, config = ising(J, 0.7), ais.Config(2, 4)
    found = ais.ais(KEY, path, config)
    key_base, key_chain = jax.random.split(KEY)
    (key_base,), (key_chain,) = jax.random.split(key_base, 1), jax.random.split(key_chain, 1)
    x = path.base(key_base, 4)
    by_hand = path.log_density(0.5, x) - path.log_density(0.0, x)
    x = path.transition(jax.random.fold_in(key_chain, 0), 0.5, x)
    by_hand += path.log_density(1.0, x) - path.log_density(0.5, x)
    np.testing.assert_allclose(found.log_weights, by_hand, rtol=1e-5)
    log_z = path.log_z + jax.nn.logsumexp(by_hand) - math.log(4)
    np.testing.assert_allclose(found.log_z, log_z, rtol=1e-6)


def test_the_reverse_chain_is_the_forward_chain_backwards():
    path, config = ising(J, 0.7), ais.Config(2, 4)
    x = start = exact_draws(4)
    found = ais.reverse(KEY, path, start, config)
    (key,) = jax.random.split(KEY, 1)
    by_hand = path.log_density(1.0, x) - path.log_density(0.5, x)
    x = path.transition(jax.random.fold_in(key, 0), 0.5, x)
    by_hand += path.log_density(0.5, x) - path.log_density(0.0, x)
    np.testing.assert_allclose(found.log_weights, by_hand, rtol=1e-5)


def test_few_temperatures_err_on_their_own_sides():
    """In expectation forward is too low and reverse too high, and more temperatures help."""
    path = ising(2 * J)
    truth = float(jax.nn.logsumexp(2 * MASS))
    draws = STATES[jax.random.categorical(KEY, 2 * MASS, shape=(400 * 4,))].reshape(400, 4, 3)
    keys = jax.random.split(KEY, 400)
    gaps = []
    for temperatures in (1, 10, 100):
        config = ais.Config(temperatures, 4)
        forward = jax.vmap(lambda k, c=config: ais.ais(k, path, c).log_z)(keys) - truth
        backward = jax.vmap(lambda k, x, c=config: ais.reverse(k, path, x, c).log_z)(keys, draws)
        gaps.append((float(forward.mean()), float(backward.mean()) - truth))
    for low, high in gaps[:2]:
        assert low < 0 < high
    forward, backward = np.abs(gaps).T
    assert forward[0] > forward[1] > forward[2]
    assert backward[0] > backward[1] > backward[2]


def test_nothing_to_anneal_is_exact_with_zero_variance():
    path = ising(jnp.diag(jnp.full(3, 0.7)), base=0.7)
    for found in (
        ais.ais(KEY, path, ais.Config()),
        ais.reverse(KEY, path, path.base(KEY, 100), ais.Config()),
    ):
        np.testing.assert_allclose(found.log_z, 3 * math.log(1 + math.exp(0.7)), rtol=1e-6)
        assert found.standard_error < 1e-6
        np.testing.assert_allclose(found.effective, 100, rtol=1e-5)


def test_standard_error_is_that_of_many_repetitions():
    path, config = ising(J), ais.Config(5, 200)
    many = jax.vmap(lambda key: ais.ais(key, path, config))(jax.random.split(KEY, 300))
    np.testing.assert_allclose(many.standard_error.mean(), many.log_z.std(), rtol=0.15)


@pytest.mark.parametrize("temperatures", [1, 29, 14_500])
def test_schedules_go_from_nought_to_one(temperatures):
    for schedule in ("linear", "published"):
        beta = ais.betas(ais.Config(temperatures, schedule=schedule))
        assert len(beta) == temperatures + 1
        assert beta[0] == 0
        assert beta[-1] == 1
        assert np.all(np.diff(beta) > 0)
    if temperatures == 14_500:
        steps = np.diff(beta)
        for first, last, step in ((0, 500, 1e-3), (500, 4500, 1e-4), (4500, 14_500, 1e-5)):
            np.testing.assert_allclose(steps[first:last], step, rtol=1e-6)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ConfigError, match=r"temperatures should be in \[1, 1000000\]"):
        ais.Config(0)
    with pytest.raises(ConfigError, match=r"chains should be in \[2, 1000000\]"):
        ais.Config(chains=1)
    with pytest.raises(ConfigError, match="divide the 100 chains, got 30"):
        ais.Config(block=30)
    with pytest.raises(ConfigError, match="expected 100 samples to start from, got 7"):
        ais.reverse(KEY, ising(J), exact_draws(7), ais.Config())
