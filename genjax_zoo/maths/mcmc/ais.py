"""Annealed importance sampling: log Z of whatever a path of distributions joins to a known one.

    p*_0 (known) , ..., p*_β , ..., p*_1 (wanted),        0 = β_0 < β_1 < ... < β_K = 1

    w = Π_k p*_{β_k}(x_{k-1}) / p*_{β_{k-1}}(x_{k-1}),     x_0 ~ p_0,   x_k ~ T_{β_k}(x_k | x_{k-1})

    E[w] = Z_1 / Z_0                                      (Neal, Annealed importance sampling, 2001)

Run backwards from samples of p_1 the same chain gives E[1 / w] = Z_0 / Z_1. By Jensen's inequality
the forward estimate of log Z is too low in expectation and the reverse one too high: a model looks
better than it is by the first, and worse by the second, and the truth lies between. A gap between
the two shows a forward estimate that has missed some of the mass (Burda, Grosse & Salakhutdinov,
Accurate and conservative estimates of MRF log-likelihood using reverse annealing, 2015).

Floor 1. The path is made of three functions and a number; nothing here knows what x is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax_zoo import typed
from genjax_zoo.contract import (
    Array,
    Batch,
    ConfigError,
    Exactness,
    Key,
    Measure,
    Once,
    State,
)
from genjax_zoo.typed import MOST_STEPS, number


class Path(NamedTuple):
    """Distributions p_β(x) = p*_β(x) / Z_β between a base (β = 0) and a target (β = 1).

    Attributes:
      base: (key, n) -> x, exact draws of p_0: any pytree whose leading axis is n.
      log_density: (β [], x) -> log p*_β(x) [N] nats, unnormalised.
      transition: (key, β [], x) -> x, one step of a chain that leaves p_β as it is. `reverse` asks
        more: that it be reversible with respect to p_β, as a block of Gibbs sampling whose other
        block is summed out, and a Metropolis step, are.
      log_z: log Z_0 [] nats.
    """

    base: Callable[[Key, int], Any]
    log_density: Callable[[Array, Any], Array]
    transition: Callable[[Key, Array, Any], Any]
    log_z: Array | float


@typed.config
class Config:
    """How far, how wide and how finely to anneal.

    Attributes:
      temperatures: K, how many steps lead from the base to the target.
      chains: how many run side by side; one alone has no standard error.
      schedule: "linear", or "published", the spacing of Salakhutdinov & Murray 2008 for any K: of
        14,500 steps 500 up to β = .5, 4,000 up to .9 and 10,000 up to 1.
      block: chains held at once, which `chains` is a multiple of; 0 holds all.
    """

    temperatures: int = number(1000, least=1, most=MOST_STEPS)
    chains: int = number(100, least=2, most=MOST_STEPS)
    schedule: Literal["linear", "published"] = "linear"
    block: int = number(0, least=0)

    def __post_init__(self):
        if self.block and self.chains % self.block:
            raise ConfigError(
                f"ais: block should divide the {self.chains} chains, got {self.block}; 0 holds all "
                "chains at once."
            )


class Estimate(NamedTuple):
    """log Z, and how far it can be trusted.

    Attributes:
      log_z: the estimate of log Z_1 [] nats.
      standard_error: of it [] nats, by the delta method: the weights' coefficient of variation over
        the root of their number. It knows nothing of mass that no chain has found.
      log_weights: log w of each chain [chains] nats.
      effective: (Σ w)² / Σ w² [], how many chains carry the estimate (for `reverse` of 1 / w).
    """

    log_z: Array
    standard_error: Array
    log_weights: Array
    effective: Array


def measures(
    name: str,
    value: Callable[[Key, State, Batch, Array], Array],
    path: Callable[[State], Path],
    config: Config,
    base: str,
    what: str = "",
    more: str = "",
    samples: Callable[[Key, State], tuple[Key, Any]] | None = None,
    origin: str = "",
) -> dict[str, Measure]:
    """What a model whose log Z is out of reach can say of data: estimates, by annealing.

    Args:
      name: of the measure that anneals from the base; the one that anneals from samples of the
        model back to the base is called NAME_reverse.
      value: (key, state, batch, log Z []) -> [B] nats.
      path: state -> the path from the base to the model.
      config: how.
      base: what the base is, in words.
      what: what they are besides estimates, for the detail.
      more: what else there is to know of them.
      samples: (key, state) -> (a key of what is left to draw, samples of the model, as many as
        `config.chains`); None where there are none to anneal back from.
      origin: where such samples come from, in words.
    """
    how = f"{config.temperatures} temperatures ({config.schedule}), {config.chains} chains"

    def once(found: Estimate) -> Once:
        notes = {
            "log_z": found.log_z,
            "log_z_se": found.standard_error,
            "effective": found.effective,
        }
        return Once(found.log_z, found.standard_error, notes)

    def backwards(key: Key, state: State) -> Once:
        key, x = samples(key, state)  # type: ignore[misc]
        return once(reverse(key, path(state), x, config))

    def measure(once: Callable[[Key, State], Once], how: str) -> Measure:
        return Measure(value, Exactness.ESTIMATE, "nats", detail=f"{what}{how}{more}", once=once)

    forwards = lambda key, state: once(ais(key, path(state), config))
    found = {name: measure(forwards, f"AIS from {base}, {how}")}
    if samples:
        way = f"reverse AIS, {how}, started {origin}, which is no exact sample"
        found[f"{name}_reverse"] = measure(backwards, way)
    return found


def betas(config: Config) -> np.ndarray:
    """β_0 = 0 < ... < β_K = 1: [K + 1], in float64."""
    if config.schedule == "linear":
        return np.linspace(0, 1, config.temperatures + 1)
    at = np.linspace(0, 14_500, config.temperatures + 1)
    return np.interp(at, [0, 500, 4_500, 14_500], [0, 0.5, 0.9, 1])


def ais(key: Key, path: Path, config: Config) -> Estimate:
    """log Z of the target, annealing from the base: too low in expectation.

    Args:
      key: of the chains.
      path: from base to target.
      config: how.
    """
    key_base, key_chain = jax.random.split(key)
    low, high = _steps(config)

    def block(keys: tuple[Key, Key]) -> Array:
        x = path.base(keys[0], config.block or config.chains)
        # log w += log p*_{β_k}(x) - log p*_{β_{k-1}}(x);  then x ~ T_{β_k}
        return _anneal(keys[1], path, x, low, high)

    log_w = _blocks(block, _split(key_base, config), _split(key_chain, config))
    return _estimate(log_w, path.log_z, sign=1)


def reverse(key: Key, path: Path, x: Any, config: Config) -> Estimate:
    """log Z of the target, annealing from its samples back to the base: too high in expectation.

    Only as good as the samples: they stand for draws of the target itself.

    Args:
      key: of the chains.
      path: from base to target; its transition should be reversible.
      x: samples of the target, as many as `config.chains`.
      config: how.

    Raises ConfigError where there are more or fewer samples than chains.
    """
    n = jax.tree.leaves(x)[0].shape[0]
    if n != config.chains:
        raise ConfigError(f"ais: expected {config.chains} samples to start from, got {n}.")
    low, high = _steps(config)
    size = config.block or config.chains
    blocks = jax.tree.map(lambda leaf: leaf.reshape(n // size, size, *leaf.shape[1:]), x)

    def block(start: tuple[Key, Any]) -> Array:
        # -log w += log p*_{β_{k-1}}(x) - log p*_{β_k}(x);  then x ~ T_{β_{k-1}}
        return -_anneal(start[0], path, start[1], high[::-1], low[::-1])

    log_w = _blocks(block, _split(key, config), blocks)
    return _estimate(log_w, path.log_z, sign=-1)


def _anneal(key: Key, path: Path, x: Any, now: Array, then: Array) -> Array:
    """Σ log p*_then(x) - log p*_now(x) [N] along a chain that moves at each `then`."""

    def step(carry: tuple[Any, Array], at: tuple[Array, Array, Array]) -> tuple[tuple, None]:
        (x, total), (i, old, new) = carry, at
        # In one compiled body the three share whatever does not depend on β.
        total += path.log_density(new, x) - path.log_density(old, x)
        return (path.transition(jax.random.fold_in(key, i), new, x), total), None

    total = jnp.zeros_like(path.log_density(now[0], x))
    (_, total), _ = jax.lax.scan(step, (x, total), (jnp.arange(len(now)), now, then))
    return total


def _steps(config: Config) -> tuple[Array, Array]:
    beta = jnp.asarray(betas(config), jnp.result_type(float))
    return beta[:-1], beta[1:]


def _split(key: Key, config: Config) -> Key:
    return jax.random.split(key, config.chains // (config.block or config.chains))


def _blocks(block: Callable[[Any], Array], *starts: Any) -> Array:
    """`block` of one part of the chains after another, in the memory of one: [chains]."""
    return jax.lax.map(block, starts).reshape(-1)


def _estimate(log_w: Array, log_z: Array | float, sign: int) -> Estimate:
    """Of Z_1 / Z_0 = E[w] (sign 1), or of Z_0 / Z_1 = E[1 / w] (sign -1)."""
    n = log_w.size
    log_mean = jax.nn.logsumexp(sign * log_w) - jnp.log(n)
    # w / mean(w), whose mean is 1
    ratio = jnp.exp(sign * log_w - log_mean)
    return Estimate(
        log_z=log_z + sign * log_mean,
        standard_error=jnp.std(ratio, ddof=1) / jnp.sqrt(n),
        log_weights=log_w,
        effective=n / jnp.mean(ratio**2),
    )
