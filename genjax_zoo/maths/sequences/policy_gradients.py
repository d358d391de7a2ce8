"""Policy gradients: how the worth of what was tried becomes a gradient.

Floor 1. A policy p(x) = Π_t p(x_t | x_<t) draws A attempts, G of each prompt side by side, and each
symbol that it chose is worth an advantage A_t: how much more came of it than was to be expected.

    ∇ E[r(x)] = E[Σ_t A_t ∇ log p(x_t | x_<t)]                     (Williams 1992)
    L = -1/(A T) Σ_a Σ_t min(ρ_t A_t, clip(ρ_t, 1 - ε, 1 + ε) A_t)  ρ_t = p(x_t | x_<t) / p_old(...)

At ρ = 1 both are the same gradient but for the constant T; away from it, in the later of several
passes over the same attempts, clipping holds ρ near 1 (Schulman et al. 2017, equation 7). T is the
number of positions, and not of the symbols that an answer has: a division by its own length would
favour long wrong answers. What differs between estimators is the advantage:

    reinforce        return to go, less a moving average of returns     (Williams 1992)
    leave_one_out    return, less the mean of the other G - 1            (Kool et al. 2019, RLOO)
    ppo              generalised advantages of a value function          (Schulman et al. 2016)
    group_relative   return, less the mean of all G, and it may be
                     divided by their deviation                          (Shao et al. 2024, GRPO)

A penalty b KL(p, q) holds the policy near a reference q: as a part of the reward, or of the loss.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from genjax_zoo import typed
from genjax_zoo.contract import Array, Batch, ConfigError, Info
from genjax_zoo.maths.sequences import kl
from genjax_zoo.typed import MOST_LAYERS, MOST_STEPS, choose, number


class Attempts(NamedTuple):
    """What was tried: A attempts, those of one prompt side by side.

    Attributes:
      x: a batch of them, with whatever they were tried under; leading axis A.
      log_prob: of each symbol as it was drawn [A, T].
      mask: 1 where the policy chose the symbol [A, T], which is said by position and not by value;
        the chosen ones of an attempt follow one another.
    """

    x: Batch
    log_prob: Array
    mask: Array


class Worth(NamedTuple):
    """What is known of the attempts before any of them is learnt from; all [A, T].

    Attributes:
      reward: in nats or whatever else a reward is counted in, where it was paid.
      mask: 1 where the policy chose the symbol.
      log_prob: of each symbol under the policy that is about to learn, p_old.
      reference: the same under q; None without one.
      value: what is expected from before each symbol on; None without a value function.
    """

    reward: Array
    mask: Array
    log_prob: Array
    reference: Array | None = None
    value: Array | None = None


# ------------------------------------------------------------------------------ the advantages


def at_end(reward: Array, mask: Array) -> Array:
    """A reward of each attempt [A], paid for the last symbol that was chosen: [A, T]."""
    after = jnp.concatenate([mask[:, 1:], jnp.zeros_like(mask[:, :1])], axis=1)
    return reward[:, None] * mask * (1 - after)


def generalised_advantages(
    reward: Array, value: Array, mask: Array, discount: float, decay: float
) -> Array:
    """A_t = Σ_l (γ λ)^l δ_(t+l), δ_t = r_t + γ V_(t+1) - V_t: Schulman et al. 2016, equation 16.

    Args:
      reward: r [A, T].
      value: V, of what lies before each symbol [A, T]; nothing is expected after the last.
      mask: 1 where the policy chose the symbol [A, T].
      discount: γ.
      decay: λ; 0 trusts the value function, 1 the rewards alone.
    """
    value = value * mask
    after = jnp.concatenate([value[:, 1:], jnp.zeros_like(value[:, :1])], axis=1)
    delta = reward + discount * after - value

    def backwards(later: Array, now: Array) -> tuple[Array, Array]:
        advantage = now + discount * decay * later
        return advantage, advantage

    start = jnp.zeros(len(reward), reward.dtype)
    _, advantages = jax.lax.scan(backwards, start, delta.T, reverse=True)
    return advantages.T * mask


def centred(returns: Array) -> Array:
    """Returns [B, G] less the mean of their group: exactly 0 where all of a group are equal."""
    # Less the first one first, or the mean of equal numbers could differ from them by rounding.
    apart = returns - returns[:, :1]
    return apart - jnp.mean(apart, axis=1, keepdims=True)


def leave_one_out(returns: Array) -> Array:
    """Returns [B, G] less the mean of the others: R_i - 1/(G-1) Σ_j≠i R_j = G/(G-1) (R_i - R̄)."""
    size = returns.shape[1]
    return centred(returns) * size / (size - 1)


Deviation = Literal["none", "population", "sample"]
EPSILON = 1e-6
"""Beside a deviation, which may be 0."""


def group_relative(returns: Array, deviation: Deviation = "none") -> Array:
    """Returns [B, G] less the mean of their group, and over its deviation if asked for.

    Shao et al. 2024, section 4.1. Without division it is (1 - 1/G) of the true advantage (Liu et
    al. 2025); with it all prompts weigh alike, however little their attempts differ.

    Args:
      returns: of each attempt.
      deviation: what to divide by: nothing, the "population" deviation (over G) or that of a
        "sample" (over G - 1).
    """
    apart = centred(returns)
    if deviation == "none":
        return apart
    count = returns.shape[1] - (deviation == "sample")
    scale = jnp.sqrt(jnp.sum(apart**2, axis=1, keepdims=True) / count)
    return apart / (scale + EPSILON)


# -------------------------------------------------------------------------------- the surrogate


def clipped(log_ratio: Array, advantages: Array, clip: float) -> Array:
    """min(ρ A, clip(ρ, 1 - ε, 1 + ε) A): Schulman et al. 2017, equation 7; all [A, T].

    Its gradient is 0 beyond the clip on the side that the advantage pushes to, and there alone.
    Without a clip (0) it is ρ A.
    """
    ratio = jnp.exp(log_ratio)
    if not clip:
        return ratio * advantages
    return jnp.minimum(ratio * advantages, jnp.clip(ratio, 1 - clip, 1 + clip) * advantages)


# ------------------------------------------------------------------------------ the estimators


@typed.config
class Config:
    """How worth becomes a gradient; what another estimator needs is ignored.

    Attributes:
      name: one of `ESTIMATORS`.
      group: G, attempts at each prompt.
      beta: b, the weight of KL(policy, reference), in units of the reward.
      kl: its estimator: k1, k2 or k3 (maths/sequences/kl.py).
      kl_in: where it is charged: in the "reward", in the "loss", or in the loss with each attempt
        "weighted" by p / p_old.
      baseline: decay of the moving average of returns, of reinforce, and of ppo where the model has
        no value function; 0 keeps none.
      deviation: what group_relative divides by: "none", "population" or "sample".
      discount: γ of reinforce and ppo.
      decay: λ of ppo's generalised advantages.
      value_weight: of the value function's squared error in the loss.
      clip: ε of the ratio; 0 leaves it alone.
      passes: over the same attempts.
      minibatches: of equal size that a pass is divided into, each a step of the optimizer, by which
        schedules of the learning rate count.
    """

    name: str = "leave_one_out"
    group: int = number(4, least=1, most=MOST_STEPS)
    beta: float = number(0.1, above=0)
    kl: Literal["k1", "k2", "k3"] = "k1"
    kl_in: Literal["reward", "loss", "weighted"] = "reward"
    baseline: float = number(0.9, least=0, below=1)
    deviation: Deviation = "none"
    discount: float = number(1.0, least=0, most=1)
    decay: float = number(0.95, least=0, most=1)
    value_weight: float = number(0.5, least=0)
    clip: float = number(0.2, least=0, below=1)
    passes: int = number(1, least=1, most=MOST_LAYERS)
    minibatches: int = number(1, least=1, most=MOST_STEPS)

    def __post_init__(self):
        if choose(self.name, ESTIMATORS, "estimator").groups and self.group < 2:
            raise ConfigError(
                f"policy_gradients: {self.name} compares attempts at the same prompt; set group "
                f"to at least 2, got {self.group}."
            )
        if (self.kl, self.kl_in) == ("k1", "loss"):
            raise ConfigError(
                "policy_gradients: k1 in the loss has a gradient of 0 in the mean, and would hold "
                "nothing; set kl_in to 'reward' or 'weighted', or kl to 'k2'."
            )


class Baseline(NamedTuple):
    """A moving average of returns that starts from nothing.

    Attributes:
      total: Σ_s (1 - d) d^(t - s) R_s [].
      weight: 1 - d^t [], 0 before the first step.
    """

    total: Array
    weight: Array

    @property
    def mean(self) -> Array:
        """The average; 0 before anything was seen."""
        return self.total / jnp.where(self.weight > 0, self.weight, 1.0)


Advantage = Callable[[Config, Array, Array, Array], Array]
"""(config, reward [A, T], mask [A, T], what was expected [A, T]) -> advantages [A, T]."""


def _to_go(config: Config, reward: Array, mask: Array, expected: Array) -> Array:
    nothing = jnp.zeros_like(reward)
    return generalised_advantages(reward, nothing, mask, config.discount, 1.0) - expected * mask


def _generalised(config: Config, reward: Array, mask: Array, expected: Array) -> Array:
    return generalised_advantages(reward, expected, mask, config.discount, config.decay)


def _of_groups(compare: Callable[[Config, Array], Array]) -> Advantage:
    """An advantage of whole attempts, given to each symbol of them."""

    def advantage(config: Config, reward: Array, mask: Array, expected: Array) -> Array:
        returns = jnp.sum(reward, axis=1).reshape(-1, config.group)
        return compare(config, returns).reshape(-1, 1) * mask

    return advantage


class Row(NamedTuple):
    """What an estimator is.

    Attributes:
      advantage: how much more came of each symbol than was to be expected.
      groups: whether attempts at the same prompt are compared.
    """

    advantage: Advantage
    groups: bool = False


ESTIMATORS: dict[str, Row] = {
    "reinforce": Row(_to_go),
    "leave_one_out": Row(_of_groups(lambda c, returns: leave_one_out(returns)), groups=True),
    "ppo": Row(_generalised),
    "group_relative": Row(
        _of_groups(lambda c, returns: group_relative(returns, c.deviation)), groups=True
    ),
}
"""By the names that configs use."""


class Judged(NamedTuple):
    """What the attempts teach; all [A, T].

    Attributes:
      advantage: by how much each symbol should become likelier.
      returns: what a value function should have said before each symbol.
    """

    advantage: Array
    returns: Array


class Estimator(NamedTuple):
    """How worth becomes a gradient.

    Attributes:
      begin: () -> what it remembers from step to step.
      judge: (memory, worth) -> (judged, memory, info), once for all passes.
      loss: (log p [a, T], V [a, T] or None, worth, judged) -> (scalar, info), of some attempts.
      group: G, attempts at each prompt, which `judge` takes side by side.
      passes: over the same attempts.
      minibatches: that each pass is divided into.
    """

    begin: Callable[[], Any]
    judge: Callable[[Any, Worth], tuple[Judged, Any, Info]]
    loss: Callable[[Array, Array | None, Worth, Judged], tuple[Array, Info]]
    group: int
    passes: int = 1
    minibatches: int = 1


def make(config: Config) -> Estimator:
    """The estimator that a config names."""
    row, penalty, b = ESTIMATORS[config.name], kl.ESTIMATORS[config.kl], config.beta
    mean = lambda each, mask: jnp.sum(each * mask) / jnp.sum(mask)

    def begin() -> Baseline:
        return Baseline(jnp.zeros(()), jnp.zeros(()))

    def judge(before: Baseline, worth: Worth) -> tuple[Judged, Baseline, Info]:
        reward, mask, info = worth.reward * worth.mask, worth.mask, {}
        if worth.reference is not None:
            log_r = worth.reference - worth.log_prob
            info["kl"] = jnp.sum(kl.k1(log_r) * mask) / len(mask)
            if config.kl_in == "reward":
                reward = reward - b * penalty(log_r) * mask
        returns = jnp.mean(jnp.sum(reward, axis=1))
        expected = jnp.full_like(reward, before.mean) if worth.value is None else worth.value
        advantage = row.advantage(config, reward, mask, expected)
        info |= {"return": returns, "baseline": before.mean}
        mix = lambda old, new: config.baseline * old + (1 - config.baseline) * new
        after = Baseline(mix(before.total, returns), mix(before.weight, 1.0))
        return Judged(advantage, advantage + expected), after if config.baseline else before, info

    def loss(
        log_prob: Array, value: Array | None, worth: Worth, judged: Judged
    ) -> tuple[Array, Info]:
        log_ratio, mask = log_prob - worth.log_prob, worth.mask
        # (1)  min(ρ A, clip(ρ) A)
        objective = clipped(log_ratio, judged.advantage, config.clip)
        beyond = jnp.abs(jnp.exp(log_ratio) - 1) > (config.clip or jnp.inf)
        info = {"clipped": mean(beyond, mask)}
        # (2)  - b KL(p, q)
        if worth.reference is not None and config.kl_in != "reward":
            weight = jnp.exp(log_ratio) if config.kl_in == "weighted" else 1.0
            objective -= b * weight * penalty(worth.reference - log_prob)
        # (3)  - c ½ (V - R)²
        if value is not None:
            error = (value - judged.returns) ** 2 / 2
            objective -= config.value_weight * error
            info["value_error"] = mean(error, mask)
        # A constant: the number of positions, whatever was chosen of them.
        return -jnp.sum(objective * mask) / mask.size, info

    return Estimator(begin, judge, loss, config.group, config.passes, config.minibatches)
