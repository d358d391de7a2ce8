"""Guidance: predictions that lead to a condition, by a network without it or by a classifier.

Floor 1.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from genjax_zoo.contract import Array
from genjax_zoo.maths.diffusion.denoising import Predict, Prediction
from genjax_zoo.maths.diffusion.sde import Process


def classifier_free(conditional: Predict, unconditional: Predict, w: float) -> Predict:
    """(1 + w) ε̂(y) - w ε̂, and so of x̂: Ho & Salimans 2022 (arXiv:2207.12598), equation 6.

    Args:
      conditional: of the network with its condition y.
      unconditional: of the same with the null condition.
      w: how much; 0 is the conditional one alone, -1 the unconditional one. The guidance scale of
        Imagen (Saharia et al. 2022, equation 2) and of Stable Diffusion is 1 + w.
    """
    mix = lambda a, b: (1 + w) * a - w * b
    return lambda t, x_t: jax.tree.map(mix, conditional(t, x_t), unconditional(t, x_t))


def by_classifier(
    process: Process, predict: Predict, log_likelihood: Callable[[Array, Array], Array], w: float
) -> Predict:
    """Predicts what also pleases a classifier: Dhariwal & Nichol 2021 (arXiv:2105.05233), alg. 2.

    Args:
      log_likelihood: (t [], x_t [B, ...]) -> log p(y | x_t) [B] nats.
      w: how much; 1 is Bayes' rule.
    """

    def guided(t: Array, x_t: Array) -> Prediction:
        slope = jax.grad(lambda x: jnp.sum(log_likelihood(t, x)))(x_t)
        # ε̂ - w σ ∇ log p(y | x_t)
        noise = predict(t, x_t).noise - w * process.sigma(t) * slope
        return Prediction((x_t - process.sigma(t) * noise) / process.alpha(t), noise)

    return guided
