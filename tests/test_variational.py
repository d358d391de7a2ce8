"""Variational inference where the truth is known: the bound, its gap, its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax_zoo.contract import ConfigError
from genjax_zoo.maths.inference import variational as v

KEY = jax.random.key(0)
L = 3
A = jax.random.normal(jax.random.key(1), (5, L)) + 0.7
MODEL = v.LinearGaussian(A, 0.8)
X = A @ jax.random.normal(jax.random.key(2), (L,)) + 0.8 * jax.random.normal(KEY, (5,))
JOINT = lambda z: MODEL.log_joint(X, z)
FAMILIES = {"mean_field": v.mean_field(L), "full_rank": v.full_rank(L)}


def some(q):
    """ψ that is not the start."""
    leaves, tree = jax.tree.flatten(q.start)
    keys = jax.random.split(jax.random.key(3), len(leaves))
    moved = [a + 0.5 * jax.random.normal(k, a.shape) for k, a in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, moved)


def dense(q, psi):
    """Mean and covariance of q, from its map of noise."""
    mean = q.draw(psi, jnp.zeros(L))
    factor = jax.jacfwd(lambda e: q.draw(psi, e))(jnp.zeros(L))
    return mean, factor @ factor.T


def gaussian_kl(m, S, n, T):
    """KL(N(m, S) || N(n, T)), the textbook's."""
    T_inverse = np.linalg.inv(T)
    logs = np.linalg.slogdet(T)[1] - np.linalg.slogdet(S)[1]
    return 0.5 * (np.trace(T_inverse @ S) + (n - m) @ T_inverse @ (n - m) - len(m) + logs)


@pytest.mark.parametrize("name", FAMILIES)
def test_density_entropy_and_divergence_are_those_of_the_gaussian(name):
    q = FAMILIES[name]
    psi = some(q)
    mean, covariance = dense(q, psi)
    z = jax.random.normal(KEY, (L,))
    truth = jax.scipy.stats.multivariate_normal.logpdf(z, mean, covariance)
    np.testing.assert_allclose(q.log_prob(psi, z), truth, atol=1e-4)
    entropy = 0.5 * np.linalg.slogdet(2 * np.pi * np.e * covariance)[1]
    np.testing.assert_allclose(q.entropy(psi), entropy, atol=1e-4)
    kl = gaussian_kl(mean, covariance, np.zeros(L), np.eye(L))
    np.testing.assert_allclose(q.kl(psi), kl, atol=1e-4)
    np.testing.assert_allclose(q.kl(q.start), 0, atol=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_gap_of_the_bound_is_the_divergence_from_the_posterior(name):
    """log p(x) - ELBO = KL(q || p(z | x)), and both textbook forms are that ELBO."""
    q = FAMILIES[name]
    psi = some(q)
    noise = jax.random.normal(KEY, (200_000, L))
    gap = gaussian_kl(*dense(q, psi), *MODEL.posterior(X))
    bounds = (
        v.energy_entropy(q, psi, JOINT, noise),
        v.reconstruction_kl(q, psi, lambda z: MODEL.log_likelihood(X, z), noise),
    )
    error = 4 * float(jnp.std(v.log_weights(q, psi, JOINT, noise))) / len(noise) ** 0.5
    for bound in bounds:
        assert float(MODEL.evidence(X) - bound) == pytest.approx(float(gap), abs=2 * error)
    assert gap > 0.5


def test_evidence_is_the_integral_of_the_joint():
    """log p(x) by quadrature over one latent."""
    one = v.LinearGaussian(A[:, :1], 0.8)
    line = jnp.linspace(-8, 8, 4001)
    joint = jax.vmap(lambda z: one.log_joint(X, z[None]))(line)
    integral = jax.nn.logsumexp(joint) + jnp.log(line[1] - line[0])
    np.testing.assert_allclose(one.evidence(X), integral, atol=1e-3)


def test_exact_posterior_leaves_no_gap_and_no_variance():
    q, (mean, covariance) = FAMILIES["full_rank"], MODEL.posterior(X)
    factor = jnp.linalg.cholesky(covariance)
    psi = {"mean": mean, "lower": factor, "log_diagonal": jnp.log(jnp.diag(factor))}
    noise = jax.random.normal(KEY, (50, L))
    weights = v.log_weights(q, psi, JOINT, noise)
    np.testing.assert_allclose(weights, MODEL.evidence(X), atol=1e-3)
    # The path's gradient is 0 draw by draw; the reparameterised one only in the mean.
    _, still = v.path(KEY, q, psi, JOINT, 1)
    _, noisy = v.reparameterised(KEY, q, psi, JOINT, 1)
    size = lambda g: float(optax.global_norm({**g, "lower": jnp.tril(g["lower"], -1)}))
    assert size(still) < 1e-3
    assert size(noisy) > 0.1


@pytest.mark.parametrize("name", FAMILIES)
def test_all_gradients_are_that_of_the_closed_form(name):
    """∇_ψ [log p(x) - KL(q || posterior)], by many draws."""
    q = FAMILIES[name]
    psi = jax.tree.map(lambda a: 0.3 * a, some(q))
    mean, covariance = MODEL.posterior(X)
    precision, log_det = jnp.linalg.inv(covariance), jnp.linalg.slogdet(covariance)[1]

    def bound(psi):
        m, S = dense(q, psi)
        apart = jnp.trace(precision @ S) + (m - mean) @ precision @ (m - mean)
        return MODEL.evidence(X) - 0.5 * (apart - L + log_det - jnp.linalg.slogdet(S)[1])

    truth, _ = jax.flatten_util.ravel_pytree(jax.grad(bound)(psi))
    for gradient in v.GRADIENTS.values():

        def once(key, gradient=gradient):
            value, g = gradient(key, q, psi, JOINT, 20)
            return value, jax.flatten_util.ravel_pytree(g)[0]

        values, draws = jax.jit(jax.vmap(once))(jax.random.split(KEY, 2000))
        error = draws.std(0) / 2000**0.5
        assert np.all(np.abs(draws.mean(0) - truth) < 4.5 * error + 1e-4)
        off = float(values.mean() - bound(psi))
        assert abs(off) < 4.5 * float(values.std()) / 2000**0.5


def test_mean_field_finds_its_optimum_and_not_the_truth():
    """The posterior's mean, variances 1 / Λ_jj, and the gap in closed form."""
    q = FAMILIES["mean_field"]
    tx = optax.adam(optax.cosine_decay_schedule(0.05, 2000))
    psi, bounds = jax.jit(lambda key: v.fit(key, q, JOINT, tx, 2000, gradient="path"))(KEY)
    mean, covariance = MODEL.posterior(X)
    np.testing.assert_allclose(psi["mean"], mean, atol=0.02)
    precise = jnp.diag(MODEL.precision())
    np.testing.assert_allclose(jnp.exp(-2 * psi["log_std"]), precise, rtol=0.03)
    assert np.all(1 / precise < jnp.diag(covariance))
    noise = jax.random.normal(jax.random.key(7), (100_000, L))
    gap = float(MODEL.evidence(X) - v.energy_entropy(q, psi, JOINT, noise))
    assert gap == pytest.approx(float(MODEL.mean_field_gap()), abs=0.02)
    assert gap > 0.05
    assert bounds.shape == (2000,)
    assert float(bounds[-100:].mean()) > float(bounds[:100].mean())


def test_full_rank_finds_the_posterior_of_a_regression():
    """Bayesian linear regression: A the inputs, z the weights, one posterior for all targets."""
    inputs = jax.random.normal(jax.random.key(8), (40, 2)) @ jnp.array([[1.0, 0.9], [0.0, 0.4]])
    model = v.LinearGaussian(inputs, 0.5)
    y = inputs @ jnp.array([0.5, -1.0]) + 0.5 * jax.random.normal(KEY, (40,))
    tx = optax.adam(optax.cosine_decay_schedule(0.05, 3000))
    joint = lambda z: model.log_joint(y, z)
    q = v.full_rank(2)
    psi, _ = jax.jit(lambda key: v.fit(key, q, joint, tx, 3000, gradient="path"))(KEY)
    factor = jax.jacfwd(lambda e: q.draw(psi, e))(jnp.zeros(2))
    mean, covariance = model.posterior(y)
    np.testing.assert_allclose(psi["mean"], mean, atol=0.01)
    np.testing.assert_allclose(factor @ factor.T, covariance, atol=2e-3)


def test_unknown_gradients_are_refused():
    with pytest.raises(ConfigError, match="reparameterised"):
        v.fit(KEY, FAMILIES["mean_field"], JOINT, optax.sgd(0.1), 1, gradient="reparametrised")


def test_amortised_inference_pays_for_what_its_network_cannot_say():
    """One linear map of x for all posteriors: exact means, and so the mean field's gap alone.

    A constant in its place, the same q for every x, is further away: that is the price of
    amortising badly.
    """
    q = FAMILIES["mean_field"]
    z = jax.random.normal(jax.random.key(4), (400, L))
    data = z @ A.T + 0.8 * jax.random.normal(jax.random.key(5), (400, 5))

    def bound(phi, noise, sees):
        def one(x, noise):
            psi = {"mean": sees * (phi["W"] @ x) + phi["b"], "log_std": phi["log_std"]}
            return v.energy_entropy(q, psi, lambda z: MODEL.log_joint(x, z), noise)

        return jnp.mean(jax.vmap(one)(data, noise))

    @jax.jit
    def gap(key, sees):
        tx = optax.adam(optax.cosine_decay_schedule(0.02, 1000))
        phi = {"W": jnp.zeros((L, 5)), "b": jnp.zeros(L), "log_std": jnp.zeros(L)}

        def step(carry, key):
            phi, state = carry
            noise = jax.random.normal(key, (400, 4, L))
            g = jax.grad(lambda phi: -bound(phi, noise, sees))(phi)
            updates, state = tx.update(g, state)
            return (optax.apply_updates(phi, updates), state), None

        (phi, _), _ = jax.lax.scan(step, (phi, tx.init(phi)), jax.random.split(key, 1000))
        noise = jax.random.normal(jax.random.fold_in(key, 1), (400, 500, L))
        return jnp.mean(jax.vmap(MODEL.evidence)(data)) - bound(phi, noise, sees)

    amortised, blind = gap(KEY, 1.0), gap(KEY, 0.0)
    assert float(amortised) == pytest.approx(float(MODEL.mean_field_gap()), abs=0.03)
    assert blind > amortised + 0.5
