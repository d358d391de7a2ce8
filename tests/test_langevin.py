"""Langevin chains against the distributions that they should, and should not quite, have."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_zoo.maths.mcmc import chains, langevin

KEY = jax.random.key(0)


def normal(x):
    """The energy of N(0, I)."""
    return 0.5 * jnp.sum(x.reshape(len(x), -1) ** 2, -1)


def double_well(x):
    """Two wells of one dimension, one deeper."""
    return jnp.sum((x**2 - 1) ** 2 + 0.5 * x, -1)


@pytest.mark.parametrize("step", [0.2, 1.0])
def test_the_unadjusted_chain_is_too_wide_by_what_the_formula_says(step):
    kernel = functools.partial(langevin.unadjusted, energy=normal, step=step)
    x = chains.run(KEY, jnp.zeros((40_000, 2)), kernel, 80)
    # 80,000 numbers: the standard error of the variance is half a per cent.
    assert float(jnp.var(x)) == pytest.approx(1 / (1 - step / 4), rel=0.02)


def test_noise_of_its_own_is_another_temperature():
    step, T = 0.05, 0.5
    kernel = functools.partial(
        langevin.unadjusted, energy=normal, step=step, noise=float(np.sqrt(step * T))
    )
    x = chains.run(KEY, jnp.zeros((40_000, 1)), kernel, 200)
    assert float(jnp.var(x)) == pytest.approx(T / (1 - step / 4), rel=0.03)


def test_a_clipped_force_is_no_larger_than_said():
    x = jnp.array([[100.0, 0.1]])
    moved = langevin.unadjusted(KEY, x, normal, 0.2, noise=1e-9, clip=3.0)
    np.testing.assert_allclose(moved, x - 0.1 * jnp.array([[3.0, 0.1]]), rtol=1e-5)


def test_the_adjusted_chain_leaves_its_distribution_as_it_is():
    """Exact draws of the double well, by quadrature, stay exact draws, with steps far too long."""
    edges = np.linspace(-3, 3, 6001)
    middle = (edges[1:] + edges[:-1]) / 2
    weight = np.exp(-np.asarray(double_well(jnp.array(middle)[:, None]), np.float64))
    p = weight / weight.sum()
    n = 40_000
    start = np.random.default_rng(0).choice(middle, size=(n, 1), p=p)
    kernel = lambda key, x: langevin.adjusted(key, x, double_well, 0.7)[0]
    x = np.asarray(chains.run(KEY, jnp.asarray(start, jnp.float32), kernel, 10))
    bins = np.linspace(-2.4, 2.4, 17)
    expected = np.histogram(middle, bins, weights=p)[0]
    found = np.histogram(x, bins)[0] / n
    assert np.abs(found - expected).max() < 5 * np.sqrt(expected.max() / n)
    # The same steps without the test are somewhere else.
    loose = functools.partial(langevin.unadjusted, energy=double_well, step=0.7)
    away = np.asarray(chains.run(KEY, jnp.asarray(start, jnp.float32), loose, 10))
    off = np.nan_to_num(np.histogram(away, bins)[0] / n)
    assert np.abs(off - expected).max() > 10 * np.sqrt(expected.max() / n)


def test_there_and_back_are_in_detailed_balance():
    """p(x) q(x'|x) a(x'|x) = p(x') q(x|x') a(x|x'), q written out as a Gaussian density."""
    step = 0.4
    x = jnp.array([[0.3], [-1.2], [0.9]])
    xi = jnp.array([[0.5], [-0.7], [1.1]])
    forth = langevin.propose(xi, x, double_well, step)
    g = jax.vmap(jax.grad(lambda one: double_well(one[None])[0]))
    back_xi = (x - forth.x + step / 2 * g(forth.x)) / np.sqrt(step)
    back = langevin.propose(back_xi, forth.x, double_well, step)
    np.testing.assert_allclose(back.x, x, atol=1e-5)
    np.testing.assert_allclose(back.log_ratio, -forth.log_ratio, atol=1e-4)
    log_q = lambda to, at: -jnp.sum((to - at + step / 2 * g(at)) ** 2, -1) / (2 * step)
    flow = lambda a, b, ratio: -double_well(a) + log_q(b, a) + jnp.minimum(ratio, 0)
    np.testing.assert_allclose(
        flow(x, forth.x, forth.log_ratio), flow(forth.x, x, back.log_ratio), atol=1e-4
    )


def test_a_place_without_energy_is_never_entered():
    walled = lambda x: jnp.where(x[:, 0] > 0, normal(x), jnp.nan)
    x = chains.run(
        KEY, jnp.ones((500, 1)), lambda k, x: langevin.adjusted(k, x, walled, 0.5)[0], 50
    )
    assert float(x.min()) > 0


# The buffer


def test_the_buffer_moves_only_what_was_drawn():
    buffer = jnp.arange(20.0).reshape(10, 2)
    x, which = langevin.draw(KEY, buffer, jnp.full((4, 2), -1.0), rate=0.0)
    assert len(set(np.asarray(which).tolist())) == 4
    np.testing.assert_array_equal(x, buffer[which])
    after = langevin.keep(buffer, which, x + 100)
    moved = np.isin(np.arange(10), np.asarray(which))
    np.testing.assert_array_equal(after[moved], buffer[moved] + 100)
    np.testing.assert_array_equal(after[~moved], buffer[~moved])


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.5, 1.0])
def test_the_part_that_begins_anew(rate):
    n = 20_000
    x, which = langevin.draw(KEY, jnp.zeros((n, 1, 1)), jnp.ones((n, 1, 1)), rate)
    assert sorted(np.asarray(which).tolist()) == list(range(n))
    assert float(x.mean()) == pytest.approx(rate, abs=5 * np.sqrt(rate * (1 - rate) / n) + 1e-9)


def test_steps_go_from_the_first_to_the_last_by_equal_ratios():
    at = langevin.steps_between(0.4, 0.1)(jnp.array([0.0, 0.5, 1.0]))
    np.testing.assert_allclose(at, [0.4, 0.2, 0.1], rtol=1e-5)
