"""What variational bounds on log p(x) have in common. Floor 1.

    L_K = E[log 1/K Σ_k w_k],    w_k = p(x, z_k) / q(z_k | x),    z_k ~ q(z | x)

L_1 is the evidence lower bound, and L_K rises with K to log p(x): Burda, Grosse & Salakhutdinov,
Importance weighted autoencoders, 2016 (arXiv:1509.00519), theorem 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from genjax_zoo.contract import (
    Array,
    Batch,
    ConfigError,
    Exactness,
    Key,
    Measure,
    State,
    Weighed,
)


def log_mean(log_w: Array) -> Array:
    """log 1/K Σ_k w_k: [K, B] nats -> [B] (equation 8)."""
    return jax.nn.logsumexp(log_w, axis=0) - math.log(len(log_w))


def shares(log_w: Array) -> Array:
    """w̃_k = w_k / Σ_j w_j, [K, B], as constants."""
    return jax.lax.stop_gradient(jax.nn.softmax(log_w, axis=0))


def effective_samples(share: Array) -> Array:
    """1 / Σ_k w̃_k², between 1 and K: how many of the K draws count, [K, B] -> mean []."""
    return jnp.mean(1 / jnp.sum(share**2, axis=0))


def estimates(
    iwae: Callable[[Key, State, Batch, int], Weighed], draws: int, levels: int = 0
) -> dict[str, Measure]:
    """The measures of an importance-weighted estimate.

    Args:
      iwae: (key, state, batch, K) -> log 1/K Σ_k w_k in nats, as importance.estimate has it.
      draws: K.
      levels: of what is a probability of so many grey levels, which has `bits` too; else 0.
    """
    value = lambda key, state, batch: iwae(key, state, batch, draws).value
    detail = f"K = {draws} importance samples"
    nats = Measure(value, Exactness.ESTIMATE, detail=detail, weighed=iwae, draws=draws)
    return {"iwae": nats, **({"bits": bits(nats, levels)} if levels else {})}


def bits(nats: Measure, levels: int) -> Measure:
    """-log₂ P(x) per dimension of x, of a probability of grey levels, in place of its nats."""

    in_bits = lambda log_p: -log_p / math.log(2)

    def value(key: Key, state: State, batch: Batch) -> Array:
        return in_bits(nats(key, state, batch))

    def weighed(key: Key, state: State, batch: Batch, draws: int) -> Weighed:
        assert nats.weighed is not None
        found = nats.weighed(key, state, batch, draws)
        return found._replace(value=in_bits(found.value))

    def dimensions(batch: Batch) -> Array:
        x = batch["x"]
        return jnp.full(len(x), math.prod(x.shape[1:]), jnp.float32)

    detail = f"{nats.detail}, {levels} levels" if nats.detail else f"{levels} levels"
    return Measure(
        value,
        nats.exactness,
        "bits/dim",
        "lower",
        detail,
        per=dimensions,
        weighed=weighed if nats.weighed else None,
        draws=nats.draws,
    )


# ------------------------------------------------------------------------- the weight of the KL


def warm_up(weight: float, step: Array, steps: int) -> Array:
    """β_t = β min(1, t / steps), t steps after the start: Sønderby et al. 2016, section 2.3."""
    return weight * jnp.minimum(1.0, step / steps)


def count_of(warmup_steps: int) -> Any:
    """The memory of a `warmed_up` loss at the start: no step done, or () where none are counted."""
    return jnp.zeros((), jnp.int32) if warmup_steps else ()


def warmed_up(
    objective: Callable[..., Any], weight: float, warmup_steps: int
) -> Callable[..., Any]:
    """The loss of a bound whose KL has the weight β_t, that `descend` follows.

    Args:
      objective: (key, params, β_t, batch) -> (loss, info).
      weight: β.
      warmup_steps: in which β_t rises to it; 0 has it so from the start.

    Returns:
      (key, params, memory, batch) -> (loss, (memory, info)), the memory that of `count_of`.
    """

    def loss(key: Key, params: Any, memory: Any, batch: Batch):
        if not warmup_steps:
            value, info = objective(key, params, weight, batch)
            return value, (memory, info)
        beta = warm_up(weight, memory, warmup_steps)
        value, info = objective(key, params, beta, batch)
        return value, (memory + 1, {**info, "beta": beta})

    return loss


def free_bits(kl: Array, nats: float) -> Array:
    """Σ_j max(λ, E_batch[KL_j]): Kingma et al. 2016, equation 15.

    Args:
      kl: [B, G] nats, of each of G groups of latent dimensions.
      nats: λ, what each group has for nothing. 0 leaves the KL as it is: by one draw its estimate
        may be negative.
    """
    each = jnp.mean(kl, axis=0)
    return jnp.sum(jnp.maximum(nats, each) if nats else each)


def undivided(free_bits: float) -> str:
    """Why a batch cannot be taken in parts (learn/micro_batches.py); "" where it can."""
    why = "free bits are of the mean over a whole batch; set either model.free_bits to 0 or it to 1"
    return why if free_bits else ""


def check_free_bits(free_bits: float, objective: str, who: str) -> None:
    """Raises ConfigError, in the name of the family `who`, for free bits of what has no KL."""
    if free_bits and objective != "elbo":
        raise ConfigError(
            f"{who}: free bits are bits of a KL, which objective {objective!r} does not have; set "
            "free_bits to 0 or objective to 'elbo'."
        )
