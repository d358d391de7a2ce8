"""Integration against solutions in closed form, and the density that a flow carries along."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_zoo.contract import ConfigError
from genjax_zoo.maths.diffusion import ode
from genjax_zoo.maths.probability import distributions

KEY = jax.random.key(0)
GRID = jnp.linspace(0.0, 1.0, 17)
A = jnp.array([[0.3, -1.2], [0.8, -0.5]])


def linear(t, x):
    """dx/dt = A x, whose solution is exp(t A) x and whose divergence is tr A."""
    del t
    return x @ A.T


def bent(t, x):
    """A field with a divergence that depends on where and when."""
    return jnp.sin(2 * x[:, ::-1] + t) * x + jnp.cos(t)


@pytest.mark.parametrize("method", [*ode.FIXED, *ode.ADAPTIVE])
def test_linear_equation_has_its_closed_form(method):
    x = jax.random.normal(KEY, (5, 2))
    times = jnp.linspace(0.0, 1.0, 2001 if method == "euler" else 201)
    end, log_det = ode.transport(linear, x, times, method=method)
    error = 2e-3 if method == "euler" else 1e-4
    np.testing.assert_allclose(end, x @ jax.scipy.linalg.expm(A).T, atol=error)
    np.testing.assert_allclose(log_det, jnp.full(5, jnp.trace(A)), atol=error)


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2), ("rk4", 4)])
def test_error_falls_with_the_order_of_the_method(method, order):
    """Halving the steps divides the error by 2^order: dy/dt = y cos t, y = exp(sin t)."""
    rate = lambda t, y: y * jnp.cos(t)
    with jax.enable_x64(True):
        errors = [
            float(
                jnp.abs(
                    ode.integrate(rate, jnp.ones(()), jnp.linspace(0.0, 2.0, n + 1), method)
                    - jnp.exp(jnp.sin(2.0))
                )
            )
            for n in (20, 40)
        ]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.35)


@pytest.mark.parametrize("shape", [(2,), (3, 2, 1), (5, 4, 1)])
def test_divergence_is_the_trace_of_the_jacobian(shape):
    """Exact in both of its forms (few dimensions and many), and Hutchinson's in the mean."""
    size = int(np.prod(shape))
    w = jax.random.normal(jax.random.key(1), (size, size)) / size**0.5
    field = lambda t, x: (jnp.tanh(x.reshape(len(x), -1) @ w) * (1 + t)).reshape(x.shape)
    x, t = jax.random.normal(KEY, (4, *shape)), jnp.float32(0.3)
    one = lambda x: field(t, x[None])[0].reshape(-1)
    stupid = [jnp.trace(jax.jacfwd(one)(each).reshape(size, size)) for each in x]
    v, trace = ode.with_divergence(field)(t, x)
    np.testing.assert_allclose(v, field(t, x), rtol=1e-6)
    np.testing.assert_allclose(trace, stupid, atol=1e-5)
    probes = ode.probes_of(jax.random.key(2), 4000, x.shape)
    _, estimate = ode.with_divergence(field, probes)(t, x)
    np.testing.assert_allclose(estimate, stupid, atol=0.15)


def test_log_determinant_is_that_of_the_map():
    x = jax.random.normal(KEY, (6, 2))
    _, log_det = ode.transport(bent, x, GRID)
    one = lambda x: ode.transport(bent, x[None], GRID)[0][0]
    jacobians = jax.vmap(jax.jacfwd(one))(x)
    np.testing.assert_allclose(log_det, jnp.linalg.slogdet(jacobians)[1], atol=1e-4)


def test_back_is_the_inverse_of_forth():
    x = jax.random.normal(KEY, (6, 2))
    there, one = ode.transport(bent, x, GRID)
    back, other = ode.transport(bent, there, GRID[::-1])
    np.testing.assert_allclose(back, x, atol=1e-4)
    np.testing.assert_allclose(one + other, jnp.zeros(6), atol=1e-4)


def test_carried_density_integrates_to_one():
    line = jnp.linspace(-9, 9, 300)
    x = jnp.stack(jnp.meshgrid(line, line), -1).reshape(-1, 2)
    z, log_det = ode.transport(bent, x, GRID)
    p = jnp.exp(distributions.gaussian(z, 0.0, 0.0) + log_det)
    assert float(p.sum() * (line[1] - line[0]) ** 2) == pytest.approx(1, abs=1e-3)


def test_gradients_agree_with_and_without_memory():
    def end(scale, remember):
        rate = lambda t, y: jnp.tanh(scale * y) * (1 + t)
        return ode.integrate(rate, jnp.ones(3), GRID, remember=remember).sum()

    kept, again = (jax.grad(end)(0.7, remember) for remember in (True, False))
    np.testing.assert_allclose(kept, again, rtol=1e-5)


def test_unknown_method_is_refused():
    with pytest.raises(ConfigError, match=r"'rk5'.*rk4"):
        ode.integrate(linear, jnp.ones((1, 2)), GRID, "rk5")
