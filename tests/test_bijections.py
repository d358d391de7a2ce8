"""Laws of every bijection: its inverse, its log-determinant by autodiff, and its composition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_zoo import nets
from genjax_zoo.contract import ConfigError
from genjax_zoo.maths.probability import bijections as b
from genjax_zoo.maths.probability import couplings as c
from genjax_zoo.maths.probability import distributions

KEY = jax.random.key(0)


def dense(shape):
    return nets.mlp((16,), shape, "tanh")


def conv(shape):
    return nets.conv_same((8,), shape[-1], "tanh")


def made(shape):
    return nets.made((24, 24), shape[0], "tanh")


VECTOR, IMAGE = (5,), (4, 4, 4)
CASES = {
    "logit": (b.invert(b.logit(0.05)), VECTOR),
    "permute": (b.permute(seed=3), VECTOR),
    "reverse": (b.permute(), IMAGE),
    "checkerboard": (b.checkerboard(), IMAGE),
    "squeezed": (b.chain(b.squeeze(), b.actnorm(), b.invert(b.squeeze())), IMAGE),
    "actnorm": (b.actnorm(), IMAGE),
    "standardise": (b.standardise(), VECTOR),
    "diagonal": (b.diagonal(), VECTOR),
    "linear": (b.linear(seed=1), VECTOR),
    "linear of channels": (b.linear(seed=1), IMAGE),
    "additive": (c.coupling(dense, c.additive()), VECTOR),
    "affine": (c.coupling(dense, c.affine(), swap=1), VECTOR),
    "affine of images": (c.coupling(conv, c.affine()), IMAGE),
    "spline": (c.coupling(dense, c.spline(6, 2.0)), VECTOR),
    "spline of images": (c.coupling(conv, c.spline(4, 2.0)), IMAGE),
    "maf": (c.autoregressive(made, c.affine()), VECTOR),
    "gated": (c.autoregressive(made, c.gated()), VECTOR),
    "iaf": (b.invert(c.autoregressive(made, c.affine())), VECTOR),
    "autoregressive spline": (c.autoregressive(made, c.spline(5, 2.0)), VECTOR),
    "rest": (b.rest(c.coupling(conv, c.affine())), IMAGE),
    "chain": (
        b.chain(b.standardise(), b.linear(), c.coupling(dense, c.affine()), b.permute()),
        VECTOR,
    ),
}
CONDITIONED = ("affine", "affine of images", "gated", "spline", "maf", "rest", "chain")


def start(bijection, shape, condition=None, rows=7):
    """Inputs, and parameters that are not those of the start: no gain is 0, no scale 1."""
    x = 1.3 * jax.random.normal(KEY, (rows, *shape)) + 0.2
    params = jax.jit(bijection.init)(jax.random.key(1), x, condition)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), max(len(leaves), 1))
    moved = [p + 0.3 * jax.random.normal(k, p.shape) for k, p in zip(keys, leaves, strict=False)]
    return x, jax.tree.unflatten(tree, moved)


def jacobians(fn, x, condition=None):
    """log |det| of the whole Jacobian of every example, the stupid way."""
    size = x[0].size

    def one(x, *condition):
        return fn(x[None], *(c[None] for c in condition))[0].reshape(-1)

    more = () if condition is None else (condition,)
    full = jax.vmap(jax.jacrev(one))(x, *more).reshape(len(x), size, size)
    return jnp.linalg.slogdet(full)[1]


@pytest.mark.parametrize("name", CASES)
def test_inverse_and_log_determinant(name):
    bijection, shape = CASES[name]
    x, params = start(bijection, shape)

    @jax.jit
    def there_and_back(params, x):
        z, log_det = bijection.forward(params, x)
        truth = jacobians(lambda x: bijection.forward(params, x)[0], x)
        return z, log_det, truth, *bijection.inverse(params, z)

    z, log_det, _, back, other = there_and_back(params, x)
    assert z.shape == x.shape
    assert log_det.shape == (len(x),)
    np.testing.assert_allclose(back, x, atol=1e-4)
    np.testing.assert_allclose(log_det + other, 0, atol=1e-4)
    with jax.enable_x64(True):
        wide = lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64)
        _, log_det, truth, back, _ = there_and_back(jax.tree.map(wide, params), wide(x))
        np.testing.assert_allclose(log_det, truth, atol=1e-5)
        np.testing.assert_allclose(back, x, atol=1e-6)


@pytest.mark.parametrize("name", CONDITIONED)
def test_condition_moves_the_map_and_not_its_laws(name):
    bijection, shape = CASES[name]
    condition = jax.random.normal(jax.random.key(5), (7, 3))
    x, params = start(bijection, shape, condition)

    @jax.jit
    def there_and_back(x, condition):
        z, log_det = bijection.forward(params, x, condition)
        truth = jacobians(lambda x, c: bijection.forward(params, x, c)[0], x, condition)
        return z, log_det, truth, bijection.inverse(params, z, condition)[0]

    z, log_det, truth, back = there_and_back(x, condition)
    other = there_and_back(x, -condition)[0]
    assert float(jnp.abs(z - other).max()) > 1e-3
    np.testing.assert_allclose(back, x, atol=1e-4)
    np.testing.assert_allclose(log_det, truth, atol=2e-4)


@pytest.mark.parametrize("name", ["additive", "affine", "spline", "maf", "autoregressive spline"])
def test_conditioned_layers_start_as_the_identity(name):
    bijection, shape = CASES[name]
    x = jax.random.normal(KEY, (4, *shape))
    z, log_det = jax.jit(lambda x: bijection.forward(bijection.init(KEY, x), x))(x)
    np.testing.assert_allclose(z, x, atol=1e-5)
    np.testing.assert_allclose(log_det, 0, atol=1e-5)


def test_norms_start_from_the_batch():
    x = 3 * jax.random.normal(KEY, (500, 4, 4, 2)) + 5
    for norm, axes in ((b.actnorm(), (0, 1, 2)), (b.standardise(), 0)):
        z, _ = norm.forward(norm.init(KEY, x), x)
        np.testing.assert_allclose(z.mean(axes), 0, atol=1e-4)
        np.testing.assert_allclose(z.std(axes), 1, atol=1e-4)


def test_linear_starts_as_a_rotation():
    x = jax.random.normal(KEY, (6, 5))
    layer = b.linear(seed=4)
    z, log_det = layer.forward(layer.init(KEY, x), x)
    np.testing.assert_allclose(jnp.linalg.norm(z, axis=1), jnp.linalg.norm(x, axis=1), rtol=1e-4)
    np.testing.assert_allclose(log_det, 0, atol=1e-5)


def test_autoregressive_jacobian_is_triangular():
    bijection, shape = CASES["maf"]
    x, params = start(bijection, shape)
    jacobian = jax.jacfwd(lambda x: bijection.forward(params, x[None])[0][0])(x[0])
    assert np.all(np.triu(jacobian, 1) == 0)
    assert np.all(np.abs(np.tril(jacobian)[np.tril_indices(5)]) > 1e-6)


def test_spline_is_monotone_and_the_identity_outside():
    T = c.spline(8, 3.0)
    theta = 2 * jax.random.normal(KEY, (T.parameters, 1))
    x = jnp.linspace(-5, 5, 4001)
    z, rate = T.forward(jnp.broadcast_to(theta, (T.parameters, x.size)), x)
    assert np.all(np.diff(z) > -1e-6)
    assert float(jnp.abs(z - x).max()) > 0.1
    outside = np.abs(x) > 3
    assert np.all(z[outside] == x[outside])
    assert np.all(rate[outside] == 0)
    slope = jax.vmap(jax.grad(lambda x: T.forward(theta, x[None])[0][0]))(x)
    np.testing.assert_allclose(rate, jnp.log(slope), atol=1e-3)


@pytest.mark.parametrize(
    "name",
    ["affine", "spline", "maf", pytest.param("autoregressive spline", marks=pytest.mark.slow)],
)
def test_densities_integrate_to_one(name):
    bijection = b.chain(CASES[name][0], b.linear(), CASES[name][0])
    _, params = start(bijection, (2,))
    line = jnp.linspace(-16, 16, 900)
    grid = jnp.stack(jnp.meshgrid(line, line), -1).reshape(-1, 2)
    z, log_det = jax.jit(bijection.forward)(params, grid)
    mass = jnp.exp(distributions.gaussian(z, 0.0, 0.0) + log_det).sum()
    assert float(mass) * float(line[1] - line[0]) ** 2 == pytest.approx(1, abs=1e-3)


def test_squeeze_keeps_neighbours_together():
    """Channels 0 .. 3 are the four pixels of a 2 x 2 square, row by row."""
    image = jnp.arange(16.0).reshape(1, 4, 4, 1)
    z, _ = b.squeeze().forward((), image)
    np.testing.assert_array_equal(z[0, 0, 0], [0, 1, 4, 5])
    np.testing.assert_array_equal(z[0, 1, 1], [10, 11, 14, 15])


def test_what_does_not_fit_is_refused():
    odd = jnp.zeros((2, 3, 4, 1))
    with pytest.raises(ConfigError, match="even sides, got"):
        b.squeeze().forward((), odd)
    with pytest.raises(ConfigError, match="two channels or more"):
        c.coupling(dense, c.affine()).init(KEY, jnp.zeros((2, 1)))
    with pytest.raises(ConfigError, match="vectors"):
        c.autoregressive(made, c.affine()).init(KEY, odd)
    with pytest.raises(ConfigError, match="bins >= 2"):
        c.spline(1)
