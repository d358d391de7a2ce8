"""The clever filter against one dense Gaussian over all times, and against known numbers."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from genjax_zoo.data.tables import nile
from genjax_zoo.maths.inference import kalman, matrices

smooth, filtered = (jax.jit(f, static_argnums=2) for f in (kalman.smooth, kalman.filter))
PARALLEL = pytest.mark.parametrize("parallel", [False, True], ids=["sequential", "parallel"])


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def system_of(q: int, p: int, noise: str = "diagonal", seed: int = 0) -> kalman.System:
    """A random stable system, one of whose states is moved by nothing, so that Q is singular."""
    rng = np.random.default_rng(seed)
    square = lambda n: (lambda B: B @ B.T)(rng.normal(size=(n, n)))
    A = rng.normal(size=(q, q))
    A *= 0.9 / np.abs(np.linalg.eigvals(A)).max()
    Q = 0.3 * square(q)
    Q[-1], Q[:, -1] = 0, 0
    R = square(p) + 0.1 * np.eye(p) if noise == "full" else rng.uniform(0.1, 1, p)
    rest = (rng.normal(size=(p, q)), rng.normal(size=p), R, rng.normal(size=q), square(q))
    return kalman.System(*map(jnp.asarray, (A, Q, *rest)))


class Dense:
    """The stupid twin: all states and all numbers of a series as one Gaussian."""

    def __init__(self, s: kalman.System, y: np.ndarray):
        A, Q, C, d, R, m1, P1 = (
            np.asarray(getattr(s, n)) for n in ("A", "Q", "C", "d", "R", "m1", "P1")
        )
        T, q = len(y), len(A)
        R = np.diag(R) if R.ndim == 1 else R
        mean, V = np.zeros((T, q)), np.zeros((T, q, T, q))
        mean[0], V[0, :, 0] = m1, P1
        for t in range(1, T):
            mean[t] = A @ mean[t - 1]
            for u in range(t):
                V[t, :, u] = A @ V[t - 1, :, u]
                V[u, :, t] = V[t, :, u].T
            V[t, :, t] = A @ V[t - 1, :, t - 1] @ A.T + Q
        V = V.reshape(T * q, T * q)
        big_C = np.kron(np.eye(T), C)
        seen = ~np.isnan(y.ravel())
        self.e = (y - mean @ C.T - d).ravel()[seen]
        self.F = (big_C @ V @ big_C.T + np.kron(np.eye(T), R))[np.ix_(seen, seen)]
        self.log_prob = multivariate_normal.logpdf(self.e, cov=self.F)
        across = (V @ big_C.T)[:, seen]
        K = np.linalg.solve(self.F, across.T).T
        self.mean = mean + (K @ self.e).reshape(T, q)
        cov = (V - K @ across.T).reshape(T, q, T, q)
        self.cov = np.stack([cov[t, :, t] for t in range(T)])
        self.lagged = np.array([cov[t, :, t - 1] for t in range(1, T)])
        self.joint = cov.reshape(T * q, T * q)


def series_of(s: kalman.System, T: int = 7, missing: bool = True) -> np.ndarray:
    y = np.array(kalman.simulate(jax.random.key(3), s, T)[0])
    if missing:
        y[0, 1:2], y[1, 0], y[3] = np.nan, np.nan, np.nan
    return y


CASES = {
    "few numbers": (3, 2, "diagonal"),
    "few numbers, full noise": (3, 2, "full"),
    "many numbers": (3, 5, "diagonal"),
    "many numbers, full noise": (2, 4, "full"),
    "one of each": (1, 1, "diagonal"),
}


@PARALLEL
@pytest.mark.parametrize("missing", [False, True], ids=["whole", "missing"])
@pytest.mark.parametrize(
    "case",
    [
        *("few numbers, full noise", "many numbers", "one of each"),
        *(
            pytest.param(c, marks=pytest.mark.slow)
            for c in ("few numbers", "many numbers, full noise")
        ),
    ],
)
def test_filter_and_smoother_are_the_dense_gaussian(case, missing, parallel):
    s = system_of(*CASES[case])
    y = series_of(s, 5, missing)
    dense, found = Dense(s, y), smooth(s, jnp.asarray(y), parallel)
    near = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8)
    near(found.filtered.log_prob.sum(), dense.log_prob)
    near(found.mean, dense.mean)
    near(found.cov, dense.cov)
    near(found.lagged, dense.lagged)
    # The filter at t is the smoother of what came up to t.
    for t in range(1, len(y)):
        upto = Dense(s, y[: t + 1])
        near(found.filtered.mean[t], upto.mean[-1])
        near(found.filtered.cov[t], upto.cov[-1])


def test_parallel_is_sequential_over_a_longer_series():
    s = system_of(3, 5)
    y = jnp.asarray(series_of(s, 11))
    one, other = (smooth(s, y, parallel) for parallel in (False, True))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9)


def test_both_forms_of_an_observation_agree(monkeypatch):
    s = system_of(3, 5)
    y = jnp.asarray(series_of(s))
    by_information = jax.jit(lambda: kalman.smooth(s, y))()
    monkeypatch.setattr(kalman, "_by_covariance", lambda system: True)
    by_covariance = jax.jit(lambda: kalman.smooth(s, y))()
    for a, b in zip(jax.tree.leaves(by_information), jax.tree.leaves(by_covariance), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9)


def test_a_series_that_is_all_missing_says_nothing():
    s = system_of(3, 5)
    found = smooth(s, jnp.full((4, 5), jnp.nan), False)
    np.testing.assert_array_equal(found.filtered.log_prob, 0)
    V = s.P1
    for t in range(4):
        np.testing.assert_allclose(found.cov[t], V, rtol=1e-10, atol=1e-10)
        V = s.A @ V @ s.A.T + s.Q


@pytest.mark.parametrize(
    ("case", "parallel"), [("few numbers, full noise", False), ("many numbers", True)]
)
def test_gradient_against_finite_differences(case, parallel):
    s = system_of(*CASES[case])
    y = jnp.asarray(series_of(s, 4))
    flat, unravel = jax.flatten_util.ravel_pytree(s)
    of = jax.jit(lambda v: kalman.log_prob(unravel(v), y, parallel))
    gradient = jax.jit(jax.grad(of))(flat)
    assert np.isfinite(gradient).all()
    for direction in np.random.default_rng(1).normal(size=(3, flat.size)):
        # Covariances stay symmetric.
        v = unravel(jnp.asarray(direction))
        sym = lambda M: M + M.T if M.ndim == 2 else M
        v = v.replace(Q=sym(v.Q), P1=sym(v.P1), R=sym(v.R))
        v = jax.flatten_util.ravel_pytree(v)[0]
        h = 1e-5
        slope = (of(flat + h * v) - of(flat - h * v)) / (2 * h)
        np.testing.assert_allclose(gradient @ v, slope, rtol=1e-6, atol=1e-6)


# --------------------------------------------------------------------------------- known numbers


def local_level(dtype=jnp.float64) -> kalman.System:
    """The Nile's, at the variances that Durbin & Koopman print."""
    one = lambda v: jnp.full((1, 1), v, dtype)
    zero = jnp.zeros(1, dtype)
    return kalman.System(one(1), one(1469.1), one(1), zero, one(15099)[0], zero, one(1e7))


@PARALLEL
def test_the_nile(parallel):
    each = filtered(local_level(), jnp.asarray(nile(), jnp.float64), parallel).log_prob
    assert float(each.sum()) == pytest.approx(-641.58558, abs=1e-5)
    # The later terms, with a start as wide as can be: the diffuse likelihood.
    wide = local_level().replace(P1=jnp.full((1, 1), 1e12))
    each = filtered(wide, jnp.asarray(nile(), jnp.float64), parallel).log_prob
    assert float(each[1:].sum()) == pytest.approx(-632.54563, abs=1e-5)


@PARALLEL
def test_the_nile_in_float32(parallel):
    each = filtered(local_level(jnp.float32), jnp.asarray(nile(), jnp.float32), parallel).log_prob
    value = each.sum()
    assert value.dtype == jnp.float32
    assert float(value) == pytest.approx(-641.58558, abs=1e-3)


def autoregression(phi: np.ndarray, variance: float) -> kalman.System:
    """AR(p) in companion form; its stationary start."""
    p = len(phi)
    A = np.eye(p, k=-1)
    A[0] = phi
    Q = np.zeros((p, p))
    Q[0, 0] = variance
    C = np.eye(p)[:1]
    P1 = np.linalg.solve(np.eye(p * p) - np.kron(A, A), Q.ravel()).reshape(p, p)
    return kalman.System(*map(jnp.asarray, (A, Q, C, np.zeros(1), np.zeros(1), np.zeros(p), P1)))


def test_an_autoregression_is_exact_without_noise_of_seeing():
    phi, variance = np.array([0.5, -0.3, 0.2]), 0.7
    s = autoregression(phi, variance)
    y = np.array(kalman.simulate(jax.random.key(0), s, 30)[0])
    # Autocovariances, by the impulse response: γ_k = σ² Σ_j ψ_j ψ_j+k
    psi = np.zeros(600)
    psi[0] = 1
    for j in range(1, 600):
        psi[j] = sum(phi[i] * psi[j - 1 - i] for i in range(min(3, j)))
    gamma = np.array([variance * psi[: 600 - k] @ psi[k:] for k in range(30)])
    toeplitz = gamma[np.abs(np.subtract.outer(range(30), range(30)))]
    exact = multivariate_normal.logpdf(y[:, 0], cov=toeplitz)
    each = filtered(s, jnp.asarray(y), False).log_prob
    np.testing.assert_allclose(each.sum(), exact, rtol=1e-9)
    # From the fourth on it is conditional: log N(y_t; φ₁ y_t-1 + φ₂ y_t-2 + φ₃ y_t-3, σ²).
    e = np.array([y[t, 0] - phi @ y[t - 3 : t, 0][::-1] for t in range(3, 30)])
    conditional = -0.5 * (e**2 / variance + np.log(2 * np.pi * variance))
    np.testing.assert_allclose(each[3:], conditional, rtol=1e-7)
    np.testing.assert_allclose(matrices.stationary(s.A, s.Q), s.P1, rtol=1e-9, atol=1e-12)


# ------------------------------------------------------------------------------ what may come


def test_a_forecast_is_what_is_said_of_missing_times():
    s = system_of(3, 4, "full")
    y = series_of(s)
    longer = np.concatenate([y, np.full((5, 4), np.nan)])
    dense, ahead = Dense(s, longer), kalman.forecast(s, jnp.asarray(y), 5)
    np.testing.assert_allclose(ahead.state_mean, dense.mean[7:], rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(ahead.state_cov, dense.cov[7:], rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(ahead.mean, dense.mean[7:] @ s.C.T + s.d, rtol=1e-8)
    variance = np.stack([np.diag(s.C @ V @ s.C.T + s.R) for V in dense.cov[7:]])
    np.testing.assert_allclose(ahead.std**2, variance, rtol=1e-8)


def test_intervals_hold_what_they_promise():
    s = system_of(2, 3)
    y = jax.vmap(lambda key: kalman.simulate(key, s, 12)[0])(
        jax.random.split(jax.random.key(0), 4000)
    )
    ahead = jax.jit(jax.vmap(lambda y: kalman.forecast(s, y[:8], 4)))(y)
    inside = jnp.abs(y[:, 8:] - ahead.mean) < 1.96 * ahead.std
    np.testing.assert_allclose(inside.mean((0, 2)), 0.95, atol=0.01)


def test_simulated_series_have_the_covariance_of_the_dense_gaussian():
    s = system_of(2, 1)
    keys = jax.random.split(jax.random.key(0), 40_000)
    y = jax.jit(jax.vmap(lambda key: kalman.simulate(key, s, 4)[0]))(keys)[..., 0]
    dense = Dense(s, np.zeros((4, 1)))
    np.testing.assert_allclose(y.mean(0), -dense.e, atol=0.05)
    np.testing.assert_allclose(np.cov(y.T), dense.F, atol=0.06 * dense.F.max())


def test_states_are_drawn_from_their_posterior():
    s = system_of(2, 3)
    y = series_of(s, 5)
    keys = jax.random.split(jax.random.key(0), 40_000)
    x = jax.jit(jax.vmap(lambda key: kalman.draw(key, s, jnp.asarray(y))))(keys)
    dense = Dense(s, y)
    np.testing.assert_allclose(x.mean(0), dense.mean, atol=0.03)
    atol = 0.03 * dense.joint.max()
    np.testing.assert_allclose(np.cov(x.reshape(len(x), -1).T), dense.joint, atol=atol)


# ------------------------------------------------------------------------------------ matrices


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_spectral_radius(scale):
    rng = np.random.default_rng(0)
    for n in (1, 2, 5, 20):
        A = scale * rng.normal(size=(n, n))
        exact = np.abs(np.linalg.eigvals(A)).max()
        for dtype in (jnp.float32, jnp.float64):
            found = matrices.spectral_radius(jnp.asarray(A, dtype))
            np.testing.assert_allclose(found, exact, rtol=2e-5)
    jordan = jnp.array([[0.9, 1.0], [0.0, 0.9]])
    np.testing.assert_allclose(matrices.spectral_radius(jordan), 0.9, rtol=2e-5)
    assert float(matrices.spectral_radius(jnp.array([[0.0, 1.0], [0.0, 0.0]]))) == 0


def test_a_root_may_be_of_a_singular_matrix():
    P = jnp.array([[4.0, 2.0], [2.0, 1.0]])
    L = matrices.root(P)
    np.testing.assert_allclose(L @ L.T, P, atol=1e-12)


# ----------------------------------------------------------------------------- a diffuse start


@PARALLEL
@pytest.mark.parametrize(
    "case",
    ["few numbers, full noise", pytest.param("many numbers", marks=pytest.mark.slow), "a level"],
)
def test_a_diffuse_start_is_the_limit_of_wide_ones(case, parallel):
    """Against the dense Gaussian of a first state of variance κ, as κ grows: the same moments, and
    log p + k/2 log 2πκ."""
    if case == "a level":
        s = system_of(2, 2).replace(A=jnp.eye(2), C=jnp.eye(2), P1=jnp.zeros((2, 2)))
        s, k = s.replace(diffuse=jnp.array([1.0, 5.0])), 2
    else:
        s = system_of(*CASES[case])
        # Of the first two numbers nothing is known, and of the third what P1 says.
        P1 = jnp.zeros((3, 3)).at[2, 2].set(0.5)
        s, k = s.replace(P1=P1, diffuse=jnp.array([2.0, 7.0, 0.0])), 2
    y = series_of(s.replace(diffuse=None), 6)
    found, kappa = smooth(s, jnp.asarray(y), parallel), 1e7
    wide = s.replace(P1=s.P1 + kappa * jnp.diag(s.diffuse > 0), diffuse=None)
    dense = Dense(wide, y)
    near = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    near(found.mean, dense.mean)
    near(found.cov, dense.cov)
    near(found.lagged, dense.lagged)
    limit = dense.log_prob + k / 2 * np.log(2 * np.pi * kappa)
    near(found.filtered.log_prob.sum(), limit)
    # The filter, once all has been told.
    upto = Dense(wide, y[:5])
    near(found.filtered.mean[4], upto.mean[-1])
    near(found.filtered.cov[4], upto.cov[-1])


@PARALLEL
def test_the_nile_of_which_nothing_is_known(parallel):
    """Durbin & Koopman's diffuse likelihood of 99 terms: no term is of the first year."""
    s = local_level().replace(P1=jnp.zeros((1, 1)), diffuse=jnp.ones(1))
    found = filtered(s, jnp.asarray(nile(), jnp.float64), parallel)
    assert float(found.log_prob.sum()) == pytest.approx(-632.54563, abs=1e-5)
    assert float(found.log_prob[0]) == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(found.mean[0], nile()[0])
    s = local_level(jnp.float32).replace(
        P1=jnp.zeros((1, 1), jnp.float32),
        m1=jnp.full(1, 900, jnp.float32),
        diffuse=jnp.ones(1, jnp.float32),
    )
    rough = filtered(s, jnp.asarray(nile(), jnp.float32), parallel).log_prob.sum()
    assert rough.dtype == jnp.float32 and float(rough) == pytest.approx(-632.54563, abs=2e-3)


def test_a_number_that_is_never_seen_adds_nothing_to_a_diffuse_start():
    one = local_level().replace(P1=jnp.zeros((1, 1)), diffuse=jnp.ones(1))
    eye = jnp.eye(2)
    two = kalman.System(
        eye,
        1469.1 * eye,
        eye,
        jnp.zeros(2),
        jnp.full(2, 15099.0),
        jnp.zeros(2),
        0 * eye,
        jnp.full(2, 3.0),
    )
    y = np.full((20, 2), np.nan)
    y[:, 0] = nile()[:20, 0]
    y[:2] = np.nan
    found = filtered(two, jnp.asarray(y), False)
    alone = filtered(one, jnp.asarray(y[:, :1]), False)
    np.testing.assert_allclose(found.log_prob, alone.log_prob, atol=1e-9)
    # Of what was not seen, what stands in and how far it has moved since.
    np.testing.assert_allclose(found.cov[:, 1, 1], 3 + 1469.1 * np.arange(20), rtol=1e-9)


def test_what_was_never_seen_is_divided_by_nothing():
    """A number that is missing in all series has sums of 0: its coefficients are 0 and not NaN."""
    for dtype in (jnp.float32, jnp.float64):
        found = matrices.divided(jnp.zeros((2, 3), dtype), jnp.zeros((3, 3), dtype))
        np.testing.assert_array_equal(found, 0)
