"""Variational inference: the nearest q(z; ψ) to a posterior p(z | x) that is known up to p(x).

    log p(x) = ELBO(ψ) + KL(q || p(z | x))

    ELBO(ψ) = E_q[log p(x | z)] - KL(q || p(z))           reconstruction minus divergence
            = E_q[log p(x, z)] + H[q]                      energy plus entropy

Floor 1. Jordan, Ghahramani, Jaakkola & Saul, An introduction to variational methods for graphical
models, 1999; Blei, Kucukelbir & McAuliffe, Variational inference: a review for statisticians, 2017
(arXiv:1601.00670). Everything is of one posterior; `jax.vmap` makes it of many.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from genjax_zoo.contract import Array, Key
from genjax_zoo.maths.probability.distributions import inverse
from genjax_zoo.typed import choose

Variational = Any
"""ψ, the parameters of q, a pytree."""
LogJoint = Callable[[Array], Array]
"""z [L] -> log p(x, z) in nats []."""

_LOG_2PI = math.log(2 * math.pi)


class Approximation(NamedTuple):
    """A family of distributions q(z; ψ) over z [L].

    Attributes:
      start: ψ of the standard normal.
      draw: (ψ, ε [L]) -> z [L], of q where ε ~ N(0, I): the reparameterisation.
      log_prob: (ψ, z [L]) -> log q(z; ψ) [] nats.
      entropy: ψ -> H[q] [] nats.
      kl: ψ -> KL(q || N(0, I)) [] nats.
    """

    start: Variational
    draw: Callable[[Variational, Array], Array]
    log_prob: Callable[[Variational, Array], Array]
    entropy: Callable[[Variational], Array]
    kl: Callable[[Variational], Array]


def mean_field(latents: int) -> Approximation:
    """q(z) = Π_j N(z_j; μ_j, σ_j²): no latent knows of another."""

    def log_prob(psi: Variational, z: Array) -> Array:
        noise = (z - psi["mean"]) * inverse(psi["log_std"])
        return -0.5 * jnp.sum(noise**2 + 2 * psi["log_std"] + _LOG_2PI)

    def kl(psi: Variational) -> Array:
        mean, log_std = psi["mean"], psi["log_std"]
        return 0.5 * jnp.sum(jnp.exp(2 * log_std) + mean**2 - 1 - 2 * log_std)

    return Approximation(
        start={"mean": jnp.zeros(latents), "log_std": jnp.zeros(latents)},
        draw=lambda psi, noise: psi["mean"] + jnp.exp(psi["log_std"]) * noise,
        log_prob=log_prob,
        entropy=lambda psi: jnp.sum(psi["log_std"] + 0.5 * (1 + _LOG_2PI)),
        kl=kl,
    )


def full_rank(latents: int) -> Approximation:
    """q(z) = N(z; μ, C Cᵀ), C lower triangular: every Gaussian."""

    def factor(psi: Variational) -> Array:
        return jnp.tril(psi["lower"], -1) + jnp.diag(jnp.exp(psi["log_diagonal"]))

    def log_prob(psi: Variational, z: Array) -> Array:
        solve = jax.scipy.linalg.solve_triangular
        noise = solve(factor(psi), z - psi["mean"], lower=True)
        return -0.5 * jnp.sum(noise**2 + _LOG_2PI) - jnp.sum(psi["log_diagonal"])

    def kl(psi: Variational) -> Array:
        trace = jnp.sum(factor(psi) ** 2)
        return 0.5 * (trace + jnp.sum(psi["mean"] ** 2) - latents) - jnp.sum(psi["log_diagonal"])

    return Approximation(
        start={
            "mean": jnp.zeros(latents),
            "lower": jnp.zeros((latents, latents)),
            "log_diagonal": jnp.zeros(latents),
        },
        draw=lambda psi, noise: psi["mean"] + factor(psi) @ noise,
        log_prob=log_prob,
        entropy=lambda psi: jnp.sum(psi["log_diagonal"] + 0.5 * (1 + _LOG_2PI)),
        kl=kl,
    )


# ------------------------------------------------------------------------------- the bound


def energy_entropy(q: Approximation, psi: Variational, log_joint: LogJoint, noise: Array) -> Array:
    """E_q[log p(x, z)] + H[q], by draws from `noise` [K, L], the entropy in closed form: []."""
    z = jax.vmap(lambda e: q.draw(psi, e))(noise)
    return jnp.mean(jax.vmap(log_joint)(z)) + q.entropy(psi)


def reconstruction_kl(
    q: Approximation, psi: Variational, log_likelihood: LogJoint, noise: Array
) -> Array:
    """E_q[log p(x | z)] - KL(q || p(z)), p(z) = N(0, I), the divergence in closed form: []."""
    z = jax.vmap(lambda e: q.draw(psi, e))(noise)
    return jnp.mean(jax.vmap(log_likelihood)(z)) - q.kl(psi)


def log_weights(q: Approximation, psi: Variational, log_joint: LogJoint, noise: Array) -> Array:
    """log p(x, z_k) - log q(z_k), z_k ~ q: [K]. The mean of it is the bound, of its
    exponential p(x); the variance is 0 where q is the posterior.
    """
    z = jax.vmap(lambda e: q.draw(psi, e))(noise)
    return jax.vmap(log_joint)(z) - jax.vmap(lambda z: q.log_prob(psi, z))(z)


# --------------------------------------------------------------- its gradient, three estimates

Gradient = Callable[[Key, Approximation, Variational, LogJoint, int], tuple[Array, Variational]]
"""(key, q, ψ, log_joint, draws) -> (the bound's estimate [], that of ∇_ψ); unbiased both."""


def _noise(key: Key, q: Approximation, psi: Variational, draws: int) -> Array:
    return jax.random.normal(key, (draws, *psi["mean"].shape))


def reparameterised(
    key: Key, q: Approximation, psi: Variational, log_joint: LogJoint, draws: int
) -> tuple[Array, Variational]:
    """∇_ψ of energy plus entropy at z = z(ψ, ε): Kingma & Welling 2014, section 2.3."""
    noise = _noise(key, q, psi, draws)
    return jax.value_and_grad(lambda psi: energy_entropy(q, psi, log_joint, noise))(psi)


def path(
    key: Key, q: Approximation, psi: Variational, log_joint: LogJoint, draws: int
) -> tuple[Array, Variational]:
    """∇_z [log p(x, z) - log q(z)] ∂z/∂ψ: its variance vanishes where q is the posterior.

    Roeder, Wu & Duvenaud, Sticking the landing, 2017 (arXiv:1703.09194): what is left out, the
    score of q, is 0 in the mean.
    """
    noise, still = _noise(key, q, psi, draws), jax.lax.stop_gradient(psi)

    def bound(psi: Variational) -> Array:
        z = jax.vmap(lambda e: q.draw(psi, e))(noise)
        each = jax.vmap(log_joint)(z) - jax.vmap(lambda z: q.log_prob(still, z))(z)
        return jnp.mean(each)

    return jax.value_and_grad(bound)(psi)


def score_function(
    key: Key, q: Approximation, psi: Variational, log_joint: LogJoint, draws: int
) -> tuple[Array, Variational]:
    """1/K Σ_k (f_k - b_k) ∇_ψ log q(z_k; ψ), f = log p(x, z) - log q(z): no ∇_z of p is needed.

    Ranganath, Gerrish & Blei, Black box variational inference, 2014 (arXiv:1401.0118), equation 3.
    b_k is the mean of the other draws' f (Mnih & Rezende 2016, arXiv:1602.06725), 0 for one draw.
    """
    noise = _noise(key, q, psi, draws)
    z = jax.lax.stop_gradient(jax.vmap(lambda e: q.draw(psi, e))(noise))
    f = jax.vmap(log_joint)(z) - jax.vmap(lambda z: q.log_prob(psi, z))(z)
    others = (jnp.sum(f) - f) / (draws - 1) if draws > 1 else jnp.zeros(1)

    def surrogate(psi: Variational) -> Array:
        log_q = jax.vmap(lambda z: q.log_prob(psi, z))(z)
        return jnp.mean(jax.lax.stop_gradient(f - others) * log_q)

    return jnp.mean(f), jax.grad(surrogate)(psi)


GRADIENTS: Mapping[str, Gradient] = {
    "reparameterised": reparameterised,
    "path": path,
    "score_function": score_function,
}
"""Estimates of the bound's gradient by name."""


def fit(
    key: Key,
    q: Approximation,
    log_joint: LogJoint,
    tx: optax.GradientTransformation,
    steps: int,
    draws: int = 10,
    gradient: str = "reparameterised",
) -> tuple[Variational, Array]:
    """Climbs the bound from q.start.

    Args:
      key: of the draws.
      q: the family.
      log_joint: z -> log p(x, z).
      tx: the optimizer.
      steps: of it.
      draws: K, at every step.
      gradient: a name in GRADIENTS.

    Returns:
      ψ, and the bound's estimate at each step, [steps] nats.

    Raises:
      ConfigError: for another name.
    """
    estimate = choose(gradient, GRADIENTS, "gradient of the bound")

    def step(carry: tuple[Variational, Any], key: Key) -> tuple[tuple[Variational, Any], Array]:
        psi, optimizer = carry
        bound, g = estimate(key, q, psi, log_joint, draws)
        updates, optimizer = tx.update(jax.tree.map(jnp.negative, g), optimizer, psi)
        return (optax.apply_updates(psi, updates), optimizer), bound

    start = (q.start, tx.init(q.start))
    (psi, _), bounds = jax.lax.scan(step, start, jax.random.split(key, steps))
    return psi, bounds


# ------------------------------------------------------------ a model whose truth is known


class LinearGaussian(NamedTuple):
    """z ~ N(0, I), x ~ N(A z, s² I): posterior, evidence and every gap in closed form.

    Bishop 2006, section 2.3.3. Bayesian linear regression with a unit prior is one, A the inputs
    and z the weights.

    Attributes:
      weights: A [D, L].
      noise_std: s.
    """

    weights: Array
    noise_std: float

    def log_likelihood(self, x: Array, z: Array) -> Array:
        """log p(x | z) [], x [D] and z [L]."""
        error = (x - self.weights @ z) / self.noise_std
        return -0.5 * jnp.sum(error**2 + _LOG_2PI) - x.size * math.log(self.noise_std)

    def log_joint(self, x: Array, z: Array) -> Array:
        """log p(x, z) []."""
        return self.log_likelihood(x, z) - 0.5 * jnp.sum(z**2 + _LOG_2PI)

    def precision(self) -> Array:
        """Λ = I + Aᵀ A / s², of the posterior: [L, L]."""
        A = self.weights
        return jnp.eye(A.shape[1]) + A.T @ A / self.noise_std**2

    def posterior(self, x: Array) -> tuple[Array, Array]:
        """Mean Λ⁻¹ Aᵀ x / s² [L], and covariance Λ⁻¹ [L, L]."""
        covariance = jnp.linalg.inv(self.precision())
        return covariance @ self.weights.T @ x / self.noise_std**2, covariance

    def evidence(self, x: Array) -> Array:
        """log p(x) = log N(x; 0, A Aᵀ + s² I) []."""
        A = self.weights
        covariance = A @ A.T + self.noise_std**2 * jnp.eye(x.size)
        _, log_det = jnp.linalg.slogdet(covariance)
        return -0.5 * (x @ jnp.linalg.solve(covariance, x) + log_det + x.size * _LOG_2PI)

    def mean_field_gap(self) -> Array:
        """min KL(q || p(z | x)) of independent latents: ½ (Σ_j log Λ_jj - log |Λ|) [] nats.

        Its q has the posterior's mean and variances 1 / Λ_jj, smaller than the posterior's.
        """
        precision = self.precision()
        _, log_det = jnp.linalg.slogdet(precision)
        return 0.5 * (jnp.sum(jnp.log(jnp.diag(precision))) - log_det)
