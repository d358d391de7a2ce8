"""Two layers of units and an energy between them: the restricted Boltzmann machine.

    E(v, h) = V(v) - cᵀ(h - λ) - ((v - μ) / σ²)ᵀW(h - λ),       p(v, h) = exp(-E(v, h)) / Z

    o = b + W(h - λ)        a = c + Wᵀ((v - μ) / σ²)        p(h_j = 1 | v) = sigmoid(a_j)

Hidden units are 0 or 1. The visible side v is x, binary or real, and beside it the label, of whose
C units one is on: what V(v) and p(v | o) are of each, a row of units.UNITS says. The offsets μ and
λ change no distribution, only the coordinates. Sources: models/rbm.py.

Floor 1. Everything here is a function of a `Machine`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import struct

from genjax_zoo.contract import BINARY, Array, Batch, ConfigError, Key
from genjax_zoo.maths.mcmc.units import UNITS, Units, bernoulli
from genjax_zoo.maths.probability.given import Labels

T = TypeVar("T")

ENUMERABLE = 20
"""The largest number of units whose 2^n states are summed over one by one."""


@struct.dataclass
class Machine:
    """A restricted Boltzmann machine of D + C visible and H hidden units.

    Attributes:
      W: weights between the two sides [D + C, H].
      b: visible biases [D + C].
      c: hidden biases [H].
      mu: μ, visible offsets [D + C]; follow the data's means if centred, else 0. No optimizer
        moves them.
      lam: λ, hidden offsets [H]; likewise.
      rate: mean of the first batch [D + C]; of units that are 0 or 1 with a pseudo-count of one for
        each value, so that no rate is 0 or 1. Where chains of samples start, and annealing.
      shape: of one example x, without the batch; its product is D.
      log_std: log σ [D] of Gaussian units; None where x is binary.
      classes: C, 0 without a label.
      units: what x is made of, a row of UNITS.
    """

    W: Array
    b: Array
    c: Array
    mu: Array
    lam: Array
    rate: Array
    shape: tuple[int, ...] = struct.field(pytree_node=False)
    log_std: Array | None = None
    classes: int = struct.field(pytree_node=False, default=0)
    units: str = struct.field(pytree_node=False, default="bernoulli")


def _parts(machine: Machine, of: Callable[[Units, slice, Array | None], T]) -> list[T]:
    """`of` each part of the visible side: its units, where they are, and their log σ."""
    C = machine.classes
    D = machine.b.size - C
    parts = [of(UNITS[machine.units], slice(0, D), machine.log_std)]
    return [*parts, of(UNITS["softmax"], slice(D, D + C), None)] if C else parts


def _side(machine: Machine, of: Callable[[Units, slice, Array | None], Array]) -> Array:
    """The parts side by side [..., D + C]."""
    parts = _parts(machine, of)
    return jnp.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]


# ------------------------------------------------------------ the two sides: v [B, D + C], h [B, H]


def flat(x: Array) -> Array:
    """[B, ...] -> [B, D]."""
    return x.reshape(x.shape[0], -1)


def visible(batch: Batch, labels: Labels) -> Array:
    """The visible side [B, D + C]: x flat, and its label as C numbers of which one is 1."""
    x = flat(batch["x"])
    return jnp.concatenate([x, labels.one_hot(batch)], axis=-1) if labels.classes else x


def x_part(machine: Machine, v: Array) -> Array:
    """The part of a visible side [..., D + C] that is x: [..., D]."""
    return v[..., : v.shape[-1] - machine.classes]


def label_part(machine: Machine, v: Array) -> Array:
    """The part that is the label: [..., C]."""
    return v[..., v.shape[-1] - machine.classes :]


def hidden_logits(machine: Machine, v: Array) -> Array:
    """a = c + Wᵀ((v - μ) / σ²): [..., D + C] -> [..., H]."""
    return machine.c + ((v - machine.mu) * _precision(machine)) @ machine.W


def visible_logits(machine: Machine, h: Array) -> Array:
    """o = b + W(h - λ): [..., H] -> [..., D + C]; of Gaussian units their mean."""
    return machine.b + (h - machine.lam) @ machine.W.T


def hidden_mean(machine: Machine, v: Array) -> Array:
    """p(h = 1 | v): [..., D + C] -> [..., H]."""
    return jax.nn.sigmoid(hidden_logits(machine, v))


def visible_mean(machine: Machine, h: Array) -> Array:
    """E[v | h]: [..., H] -> [..., D + C]; p(v = 1 | h) where v is binary."""
    o = visible_logits(machine, h)
    return _side(machine, lambda units, at, log_std: units.mean(o[..., at], log_std))


def draw_hidden(key: Key, machine: Machine, v: Array) -> Array:
    """h ~ p(h | v), as 0. and 1.: [..., D + C] -> [..., H]."""
    return bernoulli(key, hidden_mean(machine, v))


def draw_visible(key: Key, machine: Machine, h: Array) -> Array:
    """v ~ p(v | h): [..., H] -> [..., D + C]; binary units as 0. and 1."""
    return draw_units(key, machine, visible_logits(machine, h))


def draw_units(key: Key, machine: Machine, o: Array) -> Array:
    """Visible units with these o [..., D + C]: logits, or means of Gaussian units."""
    return _side(machine, lambda units, at, log_std: units.draw(key, o[..., at], log_std))


def visible_energy(machine: Machine, v: Array) -> Array:
    """V(v), what the energy is without hidden units: [..., D + C] -> [...] nats."""
    b, mu = machine.b, machine.mu
    energy = lambda units, at, log_std: units.energy(v[..., at], b[at], mu[at], log_std)
    return sum(_parts(machine, energy), jnp.zeros(()))


def free_energy(machine: Machine, v: Array) -> Array:
    """F(v) = -log Σ_h exp(-E(v, h)): [..., D + C] -> [...] nats.

        F(v) = V(v) + λᵀa - Σ_j log(1 + exp(a_j)),     a = c + Wᵀ((v - μ) / σ²)

    The offsets are coordinates, not parameters: no gradient reaches them.
    """
    mu, lam = jax.lax.stop_gradient((machine.mu, machine.lam))
    machine = dataclasses.replace(machine, mu=mu, lam=lam)
    a = hidden_logits(machine, v)
    return visible_energy(machine, v) + a @ lam - jnp.sum(jax.nn.softplus(a), axis=-1)


def hidden_free_energy(machine: Machine, h: Array) -> Array:
    """-log of the sum or integral of exp(-E(v, h)) over all v: [..., H] -> [...] nats."""
    o, b, mu = visible_logits(machine, h), machine.b, machine.mu
    log_sum = lambda units, at, log_std: units.log_sum(o[..., at], b[at], mu[at], log_std)
    return -(h - machine.lam) @ machine.c - sum(_parts(machine, log_sum), jnp.zeros(()))


def turned(machine: Machine) -> Machine:
    """The same binary machine with its two sides exchanged: E(v, h) = E'(h, v)."""
    m = machine
    return dataclasses.replace(m, W=m.W.T, b=m.c, c=m.b, mu=m.lam, lam=m.mu)


def log_partition(machine: Machine, block: int = 2**11) -> Array:
    """log Z = log Σ_v Σ_h exp(-E(v, h)) [] nats, by enumeration of the smaller side.

    Args:
      machine: whose smaller side has n <= 20 units; Gaussian units cannot be enumerated, and a
        label's need not be.
      block: how many of the 2^n states are held at once; a power of two.

    Raises ConfigError where both sides are larger.
    """
    D, H = machine.b.size - machine.classes, machine.c.size
    over_x = D <= H and UNITS[machine.units].space == BINARY
    n = D if over_x else H
    log_sum_rest = log_marginal if over_x else (lambda m, h: -hidden_free_energy(m, h))
    if n > ENUMERABLE:
        raise ConfigError(
            f"boltzmann: the sum over all states needs a side of at most {ENUMERABLE} units, got "
            f"{D} visible and {H} hidden ones; choose fewer, or estimate log Z instead."
        )
    if block < 1 or block & (block - 1):
        raise ConfigError(f"boltzmann: a block of states should be a power of two, got {block}.")
    size = min(block, 2**n)

    def add(log_sum: Array, first: Array) -> tuple[Array, None]:
        # State number s has bit i of s as its unit i.
        states = (first + jnp.arange(size)[:, None]) >> jnp.arange(n) & 1
        nats = log_sum_rest(machine, states.astype(jnp.float32))
        return jnp.logaddexp(log_sum, jax.nn.logsumexp(nats)), None

    return jax.lax.scan(add, jnp.array(-jnp.inf), jnp.arange(0, 2**n, size))[0]


def _precision(machine: Machine) -> Array:
    """1 / σ² [D + C]."""
    return _side(machine, lambda units, at, s: units.precision(s, at.stop - at.start))


# -------------------------------------------------------------------------------------- the label


def label_logits(machine: Machine, x: Array) -> Array:
    """-F(x, y) for every y, which is log p(y | x) up to a constant: [B, D] -> [B, C] nats."""
    a = _logits_of_labels(machine, x)
    V = visible_energy(machine, _no_label(machine, x))[:, None] - label_part(machine, machine.b)
    return -V - a @ machine.lam + jnp.sum(jax.nn.softplus(a), axis=-1)


def log_marginal(machine: Machine, x: Array) -> Array:
    """log p*(x) = log Σ_y Σ_h exp(-E(x, y, h)), unnormalised: [B, D] -> [B] nats."""
    if not machine.classes:
        return -free_energy(machine, x)
    return jax.nn.logsumexp(label_logits(machine, x), axis=-1)


def hidden_mean_of_x(machine: Machine, x: Array) -> Array:
    """p(h = 1 | x) = Σ_y p(y | x) p(h = 1 | x, y): [B, D] -> [B, H]."""
    if not machine.classes:
        return hidden_mean(machine, x)
    posterior = jax.nn.softmax(label_logits(machine, x))
    return jnp.einsum("bc,bch->bh", posterior, jax.nn.sigmoid(_logits_of_labels(machine, x)))


def _logits_of_labels(machine: Machine, x: Array) -> Array:
    """a given x and each y: [B, D] -> [B, C, H]. The product with x is done once."""
    rows = machine.W[machine.W.shape[0] - machine.classes :]
    return hidden_logits(machine, _no_label(machine, x))[:, None] + rows


def _no_label(machine: Machine, x: Array) -> Array:
    return jnp.concatenate([x, jnp.zeros((x.shape[0], machine.classes))], axis=-1)


# --------------------------------------------------------------------- beginnings and coordinates


def fresh(
    key: Key,
    x: Array,
    hidden: int,
    weight_std: float,
    units: str = "bernoulli",
    label: Array | None = None,
    std: float = 0.0,
    centred: bool = False,
    base_rate: bool = True,
) -> Machine:
    """A machine that has learnt nothing, the base rates of a first batch excepted.

    Args:
      key: of the weights.
      x: the batch [B, ...].
      hidden: H.
      weight_std: of the weights, drawn from N(0, weight_std²).
      units: what x is made of, a row of UNITS.
      label: [B, C], one hot; None without labels.
      std: σ of Gaussian units; 0 takes each unit's own.
      centred: whether the offsets start at the units' means.
      base_rate: whether the visible biases start at the base rates.
    """
    v, row = flat(x), UNITS[units]
    rate, log_std, C = row.rate(v), row.log_std(v, std), 0
    if label is not None:
        rate, C = jnp.concatenate([rate, UNITS["softmax"].rate(label)]), label.shape[1]
    machine = Machine(
        W=weight_std * jax.random.normal(key, (rate.size, hidden)),
        b=jnp.zeros(rate.size),
        c=jnp.zeros(hidden),
        mu=jnp.zeros(rate.size),
        # Before anything is learnt a hidden unit is on half of the time.
        lam=jnp.full(hidden, 0.5 if centred else 0.0, jnp.float32),
        rate=rate,
        shape=tuple(x.shape[1:]),
        log_std=log_std,
        classes=C,
        units=units,
    )
    return at_rate(machine, rate, centred, base_rate)


def at_rate(machine: Machine, rate: Array, centred: bool, base_rate: bool = True) -> Machine:
    """A fresh machine whose visible side starts from base rates [D + C]; in (0, 1) of 0s and 1s."""
    machine = dataclasses.replace(machine, rate=rate)
    return dataclasses.replace(
        machine,
        b=base_bias(machine) if base_rate else machine.b,
        mu=rate if centred else machine.mu,
    )


def above(machine: Machine, below: Machine, centred: bool, base_rate: bool = True) -> Machine:
    """A fresh machine whose data are the hidden units of `below`.

    If it is centred it begins from their means, which λ has followed.
    """
    if not centred:
        return machine
    rate = inside(below.lam)
    if machine.classes:
        # What is known of the labels is what the first batch said.
        rate = jnp.concatenate([rate, label_part(machine, machine.rate)])
    return at_rate(machine, rate, centred, base_rate)


def inside(rate: Array) -> Array:
    """Means as base rates: one that rounds to 0 or 1 has no finite logit."""
    return jnp.clip(rate, 1e-3, 1 - 1e-3)


def base_bias(machine: Machine) -> Array:
    """Biases [D + C] of visible units that know nothing but their base rates."""
    return _side(machine, lambda units, at, log_std: units.bias(machine.rate[at]))


def at_offsets(machine: Machine, mu: Array, lam: Array) -> Machine:
    """The same distribution p(v, h) in the coordinates of other offsets.

    c' = c + Wᵀ((μ' - μ) / σ²)            b' = b + W(λ' - λ)
    """
    return dataclasses.replace(
        machine,
        mu=mu,
        lam=lam,
        b=machine.b + machine.W @ (lam - machine.lam),
        c=machine.c + ((mu - machine.mu) * _precision(machine)) @ machine.W,
    )


def recentre(machine: Machine, v: Array, nu: float) -> Machine:
    """Moves the offsets towards the units' means, and the biases so that p(v, h) stays the same.

        μ' = (1 - ν) μ + ν <v>            λ' = (1 - ν) λ + ν <p(h | v)>

    Melchior et al. 2016, algorithm 1, with the means of the data alone.

    Args:
      machine: before.
      v: data [B, D + C].
      nu: ν, the pace; 1 takes the batch's means.
    """
    lam = follow(machine.lam, hidden_mean(machine, v), nu)
    return at_offsets(machine, follow(machine.mu, v, nu), lam)


def follow(offset: Array, units: Array, nu: float) -> Array:
    """(1 - ν) offset + ν <units>, of offsets [n] and units [B, n]."""
    return offset + nu * (jnp.mean(units, axis=0) - offset)


LEARNT = ("W", "b", "c")
"""What an optimizer moves of a machine; the offsets not, not even by weight decay."""


def learnt(params: Any, names: Collection[str] = LEARNT) -> Any:
    """Which leaves of a pytree of machines have one of these names: of bool."""
    named = lambda path: any(getattr(part, "name", None) in names for part in path)
    return jax.tree.map_with_path(lambda path, _: named(path), params)


def held(params: T, names: Collection[str] = LEARNT) -> T:
    """The parameters, of which those that are not learnt have no gradient."""
    keep = lambda leaf, moves: leaf if moves else jax.lax.stop_gradient(leaf)
    return jax.tree.map(keep, params, learnt(params, names))
