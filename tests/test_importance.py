"""Means of importance weights, against stupid sums and closed forms; and which are trusted."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_zoo.contract import Weighed
from genjax_zoo.maths.inference import importance
from genjax_zoo.maths.probability import distributions
from genjax_zoo.measure import weighed

KEY = jax.random.key(0)


@pytest.mark.parametrize("draws", [1, 6, 7])
def test_chunks_of_weights_add_up(draws):
    log_w = lambda key, n: 3 * jax.random.normal(key, (n, 4))
    chunked = importance.estimate(KEY, log_w, draws, chunk=3)
    chunks = -(-draws // 3)
    size = -(-draws // chunks)
    all_of_them = jnp.concatenate([log_w(jax.random.fold_in(KEY, i), size) for i in range(chunks)])
    w = np.exp(np.asarray(all_of_them[:draws], np.float64))
    np.testing.assert_allclose(chunked.value, np.log(np.mean(w, axis=0)), rtol=1e-5)
    np.testing.assert_allclose(chunked.effective, w.sum(0) ** 2 / (w**2).sum(0), rtol=1e-4)
    # A fifth of so few draws is no tail.
    assert np.all(np.isnan(chunked.tail)) and not importance.trusted(chunked, draws).any()


def test_the_weights_of_a_narrow_proposal_have_the_tail_that_they_must_have():
    """z ~ N(0, s²) for N(0, 1): P(w > c) ~ c^(-1 / k) with k = 1 - s²; E[w] = 1 and, for s² > ½,
    E[w²] = s² / √(2 s² - 1)."""
    variance, draws = jnp.array([1.0, 0.8, 0.65, 0.1]), 100_000

    def log_weights(key, n):
        noise = jax.random.normal(key, (n, 4))
        z = (jnp.sqrt(variance) * noise)[..., None]
        log_q = distributions.gaussian(z, 0.0, 0.5 * jnp.log(variance)[:, None])
        return distributions.gaussian(z, 0.0, 0.0) - log_q

    found = importance.estimate(KEY, log_weights, draws, chunk=5000)
    # A tail with a root of a logarithm in it is approached slowly, from below.
    np.testing.assert_allclose(found.tail[1:], [0.2, 0.35, 0.9], atol=0.15)
    np.testing.assert_allclose(found.value[:3], 0, atol=0.01)
    second = np.array([s**2 / math.sqrt(2 * s**2 - 1) for s in np.sqrt(variance[:3])])
    np.testing.assert_allclose(found.effective[:2] / draws, 1 / second[:2], rtol=0.02)
    # A posterior that is exact has weights that are all one, and no tail.
    assert float(found.effective[0]) == pytest.approx(draws, rel=1e-3)
    # The last lies far below the truth, and says so.
    assert found.value[3] < -0.05
    np.testing.assert_array_equal(importance.trusted(found, draws), [True, True, True, False])


@pytest.mark.parametrize("k", [0.5, 0.9, 3.0])
def test_the_tail_index_of_a_pareto_distribution_is_its_own(k):
    u = np.sort(np.random.default_rng(0).uniform(size=(8, 3001)))
    found = importance.tail_index(jnp.asarray(-k * np.log(u), jnp.float32))
    np.testing.assert_allclose(np.mean(found), k, rtol=0.05)


def test_weights_that_are_equal_impossible_or_far_apart_have_a_tail_index():
    far = -(np.arange(51.0) ** 2)
    log_w = jnp.array([np.zeros(51), np.full(51, -np.inf), far, np.full(51, np.nan)], jnp.float32)
    found = importance.tail_index(log_w)
    assert found[0] == 0 and found[1] == 0 and found[2] > 1 and np.isnan(found[3])


def test_a_density_of_almost_no_width_is_one_of_its_noise():
    """(x - μ) / σ is 0 times infinity below log σ = -88, and rounded below -17."""
    noise = jax.random.normal(KEY, (3, 5))
    for log_std in (0.0, -20.0, -100.0):
        spread = jnp.full(5, log_std)
        true = distributions.gaussian(noise, 0.0, 0.0) - 5 * log_std
        np.testing.assert_allclose(distributions.gaussian_of_noise(noise, spread), true, rtol=1e-6)
        at_mean = distributions.gaussian(jnp.ones(5), 1.0, spread)
        np.testing.assert_allclose(at_mean, -5 * (log_std + 0.5 * math.log(2 * math.pi)), rtol=1e-6)
        # No gradient is NaN either.
        slope = jax.grad(lambda s: distributions.gaussian(jnp.ones(5), 1.0, s))(spread)
        np.testing.assert_allclose(slope, -1)
    same = jnp.full(5, -100.0)
    assert distributions.gaussian_kl(jnp.ones(5), same, 1.0, same) == pytest.approx(0)


# More draws where they are asked for


def steady(taken):
    """Examples 0 .. 9; those from 7 on are trusted from K = 400 on, the last one never."""

    def weigh(key, batch, draws):
        taken.append((draws, len(batch["x"])))
        x = np.asarray(batch["x"])
        tail = np.where((x < 7) | ((x < 9) & (draws >= 400)), 0.1, 0.9)
        return Weighed(100.0 * x + draws, 0.5 * draws * np.ones(len(x)), tail)

    return weigh


def halves():
    return ((i, {"x": np.arange(i, i + 5)}) for i in (0, 5))


def test_only_what_cannot_be_trusted_is_drawn_again():
    taken, said = [], []
    weigh = steady(taken)
    first = weigh(KEY, {"x": np.arange(10)}, 100)
    found, draws = weighed.raised(
        KEY, weigh, halves, first, (100, 1000), lambda *at: said.append(at)
    )
    # Three in a batch of four, then one alone; the first half not at all.
    assert taken == [(100, 10), (400, 4), (1000, 1)]
    assert draws.tolist() == 7 * [100] + [400, 400, 1000]
    np.testing.assert_array_equal(found.value, 100.0 * np.arange(10) + draws)
    assert said == [(400, 3, 3), (1000, 1, 1)]
    says = weighed.diagnostics(found, draws)
    assert says == {"draws": 1000, "effective": 50, "tail_index": 0.9, "untrusted": 1}
    words = weighed.in_words(says, 10)
    assert "up to 0.90, NOT TO BE TRUSTED for 1 of 10 examples (a tail too heavy" in words


def test_nothing_is_drawn_again_without_leave():
    taken = []
    weigh = steady(taken)
    first = weigh(KEY, {"x": np.arange(10)}, 100)
    found, draws = weighed.raised(KEY, weigh, halves, first, (100, 0), print)
    assert len(taken) == 1 and set(draws) == {100}
    assert weighed.diagnostics(found, draws)["untrusted"] == 3


def test_too_few_draws_say_nothing():
    found = Weighed(np.zeros(4), np.ones(4), np.full(4, np.nan))
    says = weighed.diagnostics(found, np.full(4, 8))
    assert says == {"draws": 8, "effective": 1, "untrusted": 4}
    assert weighed.in_words(says, 4).endswith("for 4 of 4 examples (too few draws to tell)")
