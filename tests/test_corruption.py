"""What corruption does to numbers, by the statistics of many."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_zoo.contract import ConfigError
from genjax_zoo.maths.probability import corruption

KEY = jax.random.key(0)
X = jnp.tile(jnp.array([0.0, 0.25, 1.0]), (40_000, 1))


def test_none_changes_nothing():
    assert np.array_equal(corruption.make("none", 0.0)(KEY, X), X)


def test_gaussian_adds_its_standard_deviation():
    noise = corruption.make("gaussian", 0.3)(KEY, X) - X
    np.testing.assert_allclose(noise.mean(0), 0, atol=4 * 0.3 / 200)
    np.testing.assert_allclose(noise.std(0), 0.3, rtol=0.02)


def test_masking_forgets_its_part():
    masked = corruption.make("masking", 0.3)(KEY, X)
    assert set(np.unique(masked)) == {0, 0.25, 1}
    np.testing.assert_allclose((masked[:, 1:] == 0).mean(0), 0.3, atol=0.01)
    # Numbers are masked each on its own.
    both = ((masked[:, 1] == 0) & (masked[:, 2] == 0)).mean()
    assert float(both) == pytest.approx(0.09, abs=0.01)


def test_salt_and_pepper_are_as_frequent():
    spoilt = corruption.make("salt_and_pepper", 0.4)(KEY, X)
    np.testing.assert_allclose((spoilt[:, 1] == 0).mean(), 0.2, atol=0.01)
    np.testing.assert_allclose((spoilt[:, 1] == 1).mean(), 0.2, atol=0.01)
    np.testing.assert_allclose((spoilt[:, 1] == 0.25).mean(), 0.6, atol=0.01)
    assert spoilt.dtype == X.dtype


@pytest.mark.parametrize("name", corruption.CORRUPTIONS)
def test_bad_amounts_are_refused(name):
    if name == "none":
        return
    with pytest.raises(ConfigError, match="got -1"):
        corruption.make(name, -1.0)
    if name != "gaussian":
        with pytest.raises(ConfigError, match=r"a probability, got 1.5"):
            corruption.make(name, 1.5)


def test_unknown_names_are_told_the_nearest():
    with pytest.raises(ConfigError, match="salt_and_pepper"):
        corruption.make("salt_and_peper", 0.1)
