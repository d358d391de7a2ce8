"""Chains of a Boltzmann machine: Gibbs sampling, and whatever supplies its negative phase.

    cd         k Gibbs steps from the data: Hinton, Training products of experts by minimizing
               contrastive divergence, 2002
    pcd        k more steps of chains that never restart: Tieleman, Training restricted Boltzmann
               machines using approximations to the likelihood gradient, 2008
    fast_pcd   the same, in a machine that runs ahead of the learnt one by weights which learn fast
               and forget fast: Tieleman & Hinton, Using fast weights to improve persistent
               contrastive divergence, 2009
    tempering  the same, with hotter replicas that trade places: Desjardins et al., Tempered Markov
               chain Monte Carlo for training of restricted Boltzmann machines, 2010

Floor 1.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from genjax_zoo.contract import Array, Info, Key
from genjax_zoo.maths.mcmc import ais, chains
from genjax_zoo.maths.mcmc.boltzmann import (
    LEARNT,
    Machine,
    at_offsets,
    base_bias,
    draw_hidden,
    draw_units,
    draw_visible,
    flat,
    hidden_free_energy,
    hidden_logits,
    visible_energy,
    visible_logits,
    visible_mean,
)
from genjax_zoo.maths.mcmc.units import bernoulli

# --------------------------------------------------------------- Gibbs sampling given what is known

Hold = tuple[Array, Array] | None
"""What is known: v [n, D + C], and where it is known (bool)."""


def hold(size: int, part: Hold, label: Array | None = None, classes: int = 0) -> Hold:
    """What is given of n visible sides; None if nothing is.

    Args:
      size: D.
      part: (x [n, ...], where it is known), as `known_part` reads them; None where x is unknown.
      label: y [n]; None where it is unknown.
      classes: C.
    """
    if part is None:
        if label is None:
            return None
        part = jnp.zeros((len(label), size)), jnp.zeros((len(label), size), bool)
    v, where = map(flat, part)
    if classes:
        y = jnp.zeros((len(v), classes)) if label is None else jax.nn.one_hot(label, classes)
        v = jnp.concatenate([v, y], axis=-1)
        where = jnp.concatenate([where, jnp.full(y.shape, label is not None)], axis=-1)
    return v, where


def clamp(v: Array, hold: Hold) -> Array:
    """v with what is known put back in its place."""
    return v if hold is None else jnp.where(hold[1], hold[0], v)


def start(key_v: Key, key_h: Key, machine: Machine, n: int, hold: Hold = None) -> Array:
    """h [n, H] where no chain has run yet: given v from the base rates, and what is known."""
    o = base_bias(machine)
    v = draw_units(key_v, machine, jnp.broadcast_to(o, (n, o.size)))
    return draw_hidden(key_h, machine, clamp(v, hold))


def run(key: Key, machine: Machine, h: Array, k: int, hold: Hold = None) -> tuple[Array, Array]:
    """k Gibbs steps from h: (v [M, D + C], h [M, H]); what is known of v is held."""
    return chains.block_gibbs(
        key,
        h,
        lambda key, h: clamp(draw_visible(key, machine, h), hold),
        lambda key, v: draw_hidden(key, machine, v),
        k,
    )


def visible(key: Key, machine: Machine, h: Array, k: int, hold: Hold = None) -> tuple[Array, Array]:
    """(v, its mean E[v | h]) of the last of k Gibbs steps from h."""
    key_chain, key_last = jax.random.split(key)
    if k > 1:
        _, h = run(key_chain, machine, h, k - 1, hold)
    drawn, mean = draw_visible(key_last, machine, h), visible_mean(machine, h)
    return clamp(drawn, hold), clamp(mean, hold)


def path(machine: Machine) -> ais.Path:
    """From the base rate to the machine, over its visible units [N, D + C].

        E_β(v, h) = (1 - β) V_0(v) + β E(v, h),     V_0(v) = V(v) at the biases b_0

        p(h_j = 1 | v) = sigmoid(β a_j)             o_β = b_0 + β (o - b_0)

    Salakhutdinov & Murray, On the quantitative analysis of deep belief networks, 2008, whose
    machine A has no weights; Gaussian units keep their σ. The transition draws h given v and v
    given h, and with h summed out it is reversible.
    """
    b_0 = base_bias(machine)
    base = dataclasses.replace(
        machine, b=b_0, W=jnp.zeros_like(machine.W), c=jnp.zeros_like(machine.c)
    )

    def log_density(beta: Array, v: Array) -> Array:
        # log p*_β(v) = -(1 - β) V_0(v) - β V(v) - β λᵀa + Σ_j log(1 + exp(β a_j))
        V_0, V, a = visible_energy(base, v), visible_energy(machine, v), hidden_logits(machine, v)
        mass = jnp.sum(jax.nn.softplus(beta * a), axis=-1)
        return mass - V_0 - beta * (V - V_0 + a @ machine.lam)

    def transition(key: Key, beta: Array, v: Array) -> Array:
        key_h, key_v = jax.random.split(key)
        h = bernoulli(key_h, jax.nn.sigmoid(beta * hidden_logits(machine, v)))
        return draw_units(key_v, machine, b_0 + beta * (visible_logits(machine, h) - b_0))

    return ais.Path(
        base=lambda key, N: draw_units(key, machine, jnp.broadcast_to(b_0, (N, b_0.size))),
        log_density=log_density,
        transition=transition,
        log_z=machine.c.size * math.log(2) - hidden_free_energy(base, machine.lam),
    )


# ------------------------------------------------------------------------------- negative phases


class NegativePhase(NamedTuple):
    """Where the second term of the gradient comes from. A chain is kept by its hidden units.

    Its last draw of them, from p(h | v), then shares its product with the gradient's.

    Attributes:
      start: (key_v, key_h, machine) -> memory: the chains, from the base rates; () without any.
      step: (key_start, key_chain, machine, memory, v) -> (v of the chains [M, D + C], memory), v
        the data [B, D + C].
      learn: (memory, gradient) -> memory, after each step of learning.
      move: (machine, the same one in other coordinates, memory) -> memory.
      hidden: memory -> h [M, H], where the chains are; None without any.
      info: memory -> what there is to say of them.
    """

    start: Callable[[Key, Key, Machine], Any]
    step: Callable[[Key, Key, Machine, Any, Array], tuple[Array, Any]]
    learn: Callable[[Any, Machine], Any] = lambda memory, gradient: memory
    move: Callable[[Machine, Machine, Any], Any] = lambda machine, moved, memory: memory
    hidden: Callable[[Any], Array | None] = lambda memory: memory
    info: Callable[[Any], Info] = lambda memory: {}


def cd(k: int) -> NegativePhase:
    """k Gibbs steps from the data."""

    def step(key_start: Key, key_chain: Key, machine: Machine, memory: tuple, v: Array):
        return run(key_chain, machine, draw_hidden(key_start, machine, v), k)[0], memory

    return NegativePhase(lambda key_v, key_h, machine: (), step, hidden=lambda memory: None)


def pcd(k: int, chains: int) -> NegativePhase:
    """k more steps of chains that never restart, h [M, H]."""

    def step(key_start: Key, key_chain: Key, machine: Machine, memory: Array, v: Array):
        return run(key_chain, machine, memory, k)

    return NegativePhase(lambda key_v, key_h, machine: start(key_v, key_h, machine, chains), step)


@struct.dataclass
class Fast:
    """The memory of fast PCD.

    Attributes:
      h: the chains' hidden units [M, H].
      weights: what is added to W, b and c where the chains run, by name.
    """

    h: Array
    weights: dict[str, Any]


def ahead(machine: Machine, memory: Fast) -> Machine:
    """The machine that fast PCD's chains run in: θ + θ_fast."""
    at = {name: getattr(machine, name) + f for name, f in memory.weights.items()}
    return dataclasses.replace(machine, **at)


def fast_pcd(k: int, chains: int, rate: float, decay: float) -> NegativePhase:
    """k more steps of chains in the machine ahead, whose lead learns at `rate` and decays."""

    def begin(key_v: Key, key_h: Key, machine: Machine) -> Fast:
        zeros = {name: jnp.zeros_like(getattr(machine, name)) for name in LEARNT}
        return Fast(start(key_v, key_h, machine, chains), zeros)

    def step(key_start: Key, key_chain: Key, machine: Machine, memory: Fast, v: Array):
        v, h = run(key_chain, ahead(machine, memory), memory.h, k)
        return v, Fast(h, memory.weights)

    def learn(memory: Fast, gradient: Machine) -> Fast:
        # θ_fast ← 19/20 θ_fast - ε_fast ∇
        follow = lambda name, f: decay * f - rate * getattr(gradient, name)
        return Fast(memory.h, {name: follow(name, f) for name, f in memory.weights.items()})

    def move(machine: Machine, moved: Machine, memory: Fast) -> Fast:
        # The machine ahead keeps its distribution too.
        fast = dataclasses.replace(machine, **memory.weights)
        fast = at_offsets(fast, moved.mu, moved.lam)
        return Fast(memory.h, {name: getattr(fast, name) for name in memory.weights})

    return NegativePhase(begin, step, learn, move, hidden=lambda memory: memory.h)


@struct.dataclass
class Replicas:
    """The memory of tempering.

    Attributes:
      h: the hidden units [R, M, H] at each inverse temperature, the machine's own last.
      accepted: how much of the last proposals to trade places neighbours took [R - 1].
    """

    h: Array
    accepted: Array


def tempering(k: int, chains: int, replicas: int) -> NegativePhase:
    """k more steps of R replicas of each chain, the last of which is the machine's own."""

    def begin(key_v: Key, key_h: Key, machine: Machine) -> Replicas:
        h = start(key_v, key_h, machine, replicas * chains)
        return Replicas(h.reshape(replicas, chains, -1), jnp.zeros(replicas - 1))

    def step(key_start: Key, key_chain: Key, machine: Machine, memory: Replicas, v: Array):
        return temper(key_chain, machine, memory, k)

    return NegativePhase(
        begin,
        step,
        hidden=lambda memory: memory.h[-1],
        info=lambda memory: {"swapped": jnp.mean(memory.accepted)},
    )


def temper(key: Key, machine: Machine, memory: Replicas, k: int) -> tuple[Array, Replicas]:
    """k times a Gibbs step of every replica at its own β on `path`, then trades of places.

    The inverse temperatures are evenly spaced from 0, the base rate's, to 1.

    Returns:
      (v [M, D + C] of the machine itself, the memory).
    """
    R = memory.h.shape[0]
    b_0, betas = base_bias(machine), jnp.linspace(0, 1, R)
    base, beta = dataclasses.replace(machine, b=b_0), betas[:, None, None]

    def step(key: Key, vh: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        key_v, key_h, key_swap = jax.random.split(key, 3)
        o = visible_logits(machine, vh[1])
        v = draw_units(key_v, machine, b_0 + beta * (o - b_0))
        a = hidden_logits(machine, v)
        h = bernoulli(key_h, jax.nn.sigmoid(beta * a))
        # -E_β(v, h) = -V_0(v) + β u(v, h)
        u = visible_energy(base, v) - visible_energy(machine, v)
        u += jnp.sum(a * (h - machine.lam), axis=-1)
        (v, h), accepted = chains.swap(key_swap, betas, u, (v, h))
        return v, h, accepted

    v = jnp.zeros((*memory.h.shape[:2], b_0.size))
    v, h, accepted = chains.run(key, (v, memory.h, memory.accepted), step, k)
    return v[-1], Replicas(h, accepted)
