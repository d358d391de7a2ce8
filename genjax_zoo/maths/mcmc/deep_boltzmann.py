"""Layers of units, each joined to the one below and the one above: the deep Boltzmann machine.

    E(v, h¹, ..., hᴸ) = -Σ_l bˡᵀ(hˡ - λˡ) - Σ_l (hˡ⁻¹ - λˡ⁻¹)ᵀWˡ(hˡ - λˡ),     h⁰ = v

    p(hˡ_j = 1 | the rest) = sigmoid(aˡ_j),     aˡ = bˡ + Wˡᵀ(hˡ⁻¹ - λˡ⁻¹) + Wˡ⁺¹(hˡ⁺¹ - λˡ⁺¹)

All units are 0 or 1. Odd layers touch even ones alone, so all of one kind are drawn, or updated, at
once given the other kind. Sources: models/dbm.py.

Floor 1.
"""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
from flax import struct

from genjax_zoo.contract import Array, Key
from genjax_zoo.maths.mcmc import boltzmann, chains
from genjax_zoo.maths.mcmc.boltzmann import Machine
from genjax_zoo.maths.mcmc.gibbs import Hold, clamp
from genjax_zoo.maths.mcmc.units import bernoulli


@struct.dataclass
class DeepMachine:
    """A deep Boltzmann machine. Layer 0 is the data, layer l has n_l units.

    Attributes:
      W: (W¹, ..., Wᴸ), Wˡ [n_l-1, n_l].
      b: (b⁰, ..., bᴸ), the biases [n_l] of every layer.
      lam: (λ⁰, ..., λᴸ), the offsets [n_l]; follow the means if centred, else 0. No optimizer
        moves them.
      rate: (r⁰, ..., rᴸ), where each unit's mean lay when the whole began to learn, in (0, 1)
        [n_l]. Where chains of samples start, and annealing.
      shape: of one example, without the batch; its product is n_0.
    """

    W: tuple[Array, ...]
    b: tuple[Array, ...]
    lam: tuple[Array, ...]
    rate: tuple[Array, ...]
    shape: tuple[int, ...] = struct.field(pytree_node=False)


Layers = tuple[Array, ...]
"""(h⁰, ..., hᴸ), hˡ [B, n_l]: states, or their means."""


def energy(params: DeepMachine, h: Layers) -> Array:
    """E(v, h¹, ..., hᴸ) [B] nats. The offsets are coordinates: no gradient reaches them."""
    d = [x - jax.lax.stop_gradient(lam) for x, lam in zip(h, params.lam, strict=True)]
    E = jnp.zeros(d[0].shape[0])
    for x, b in zip(d, params.b, strict=True):
        E -= x @ b
    for low, W, high in zip(d[:-1], params.W, d[1:], strict=True):
        E -= jnp.sum((low @ W) * high, axis=-1)
    return E


def entropy(p: Array) -> Array:
    """H of independent units that are 1 with probability p: [B, n] -> [B] nats."""
    return -jnp.sum(jax.scipy.special.xlogy(p, p) + jax.scipy.special.xlog1py(1 - p, -p), axis=-1)


def logits(params: DeepMachine, h: Layers, layer: int) -> Array:
    """aˡ = bˡ + Wˡᵀ(hˡ⁻¹ - λˡ⁻¹) + Wˡ⁺¹(hˡ⁺¹ - λˡ⁺¹), of its neighbours alone: [B, n_l]."""
    a = params.b[layer]
    if layer > 0:
        a = a + (h[layer - 1] - params.lam[layer - 1]) @ params.W[layer - 1]
    if layer < len(params.W):
        a = a + (h[layer + 1] - params.lam[layer + 1]) @ params.W[layer].T
    return a


def mean(params: DeepMachine, h: Layers, layer: int) -> Array:
    """p(hˡ = 1 | its neighbours): [B, n_l]."""
    return jax.nn.sigmoid(logits(params, h, layer))


def update(params: DeepMachine, h: Layers, first: int) -> Layers:
    """Layers first, first + 2, ... at their means given the others, which stay as they are."""
    new = list(h)
    for layer in range(first, len(h), 2):
        new[layer] = mean(params, h, layer)
    return tuple(new)


def mean_field(params: DeepMachine, v: Array, updates: int) -> Layers:
    """(v, μ¹, ..., μᴸ), near the factorial q(h | v) that is nearest to p(h | v) in KL(q || p).

    μˡ = sigmoid(aˡ(μ)), even layers and odd ones by turns. Each turn is the best of its layers
    given the others, so that the bound on log p(v) never falls.

    Args:
      params: of the machine.
      v: data [B, n_0].
      updates: how many turns of both, after the upward pass.
    """
    # The pass up: what is above a layer is not known yet, and what is below it counts twice.
    h, L = [v], len(params.W)
    for layer, (W, b) in enumerate(zip(params.W, params.b[1:], strict=True)):
        up, _ = counts(layer, L)
        h.append(jax.nn.sigmoid(b + up * (h[layer] - params.lam[layer]) @ W))
    q = tuple(h)
    # Not in a loop of the compiler's, where what comes from v would be computed every time.
    for _ in range(updates):
        q = update(params, update(params, q, 2), 1)
    return q


def start(key: Key, params: DeepMachine, n: int, hold: Hold = None) -> Layers:
    """All layers from their base rates, where no chain has run yet: hˡ [n, n_l]."""
    keys = jax.random.split(key, len(params.rate))
    v, *hidden = (
        bernoulli(own, jnp.broadcast_to(r, (n, r.size)))
        for own, r in zip(keys, params.rate, strict=True)
    )
    return (clamp(v, hold), *hidden)


def gibbs(key: Key, params: DeepMachine, h: Layers, k: int, hold: Hold = None) -> Layers:
    """k times: the odd layers given the even ones, then the even ones given the odd ones.

    What is known of v is held.
    """

    def half(key: Key, h: Layers, first: int) -> Layers:
        means, keys = update(params, h, first), jax.random.split(key, len(h))
        return tuple(
            bernoulli(keys[layer], mu) if layer % 2 == first else mu
            for layer, mu in enumerate(means)
        )

    def both(key: Key, h: Layers) -> Layers:
        key_odd, key_even = jax.random.split(key)
        v, *hidden = half(key_even, half(key_odd, h, 1), 0)
        return (clamp(v, hold), *hidden)

    return chains.run(key, h, both, k)


def at_offsets(params: DeepMachine, lam: tuple[Array, ...]) -> DeepMachine:
    """The same distribution in the coordinates of other offsets.

    bˡ' = bˡ + Wˡᵀ(λˡ⁻¹' - λˡ⁻¹) + Wˡ⁺¹(λˡ⁺¹' - λˡ⁺¹)
    """
    b = tuple(logits(params, lam, layer) for layer in range(len(lam)))
    return dataclasses.replace(params, b=b, lam=lam)


def two_sided(params: DeepMachine) -> Machine:
    """The same machine as a restricted one: the even layers are visible, the odd ones hidden.

    Layers that are no neighbours have weights of 0. Its log Z is this machine's, whether summed
    over the odd layers or annealed over the even ones from their base rates.
    """
    L = len(params.W)
    even, odd = range(0, L + 1, 2), range(1, L + 1, 2)

    def between(low: int, high: int) -> Array:
        if low + 1 == high:
            return params.W[low]
        if high + 1 == low:
            return params.W[high].T
        return jnp.zeros((params.b[low].size, params.b[high].size))

    side = lambda of, layers: jnp.concatenate([of[layer] for layer in layers])
    return Machine(
        W=jnp.block([[between(low, high) for high in odd] for low in even]),
        b=side(params.b, even),
        c=side(params.b, odd),
        mu=side(params.lam, even),
        lam=side(params.lam, odd),
        rate=side(params.rate, even),
        shape=(sum(params.b[layer].size for layer in even),),
    )


# ------------------------------------------------- the machines of two layers that make the whole


def counts(layer: int, L: int) -> tuple[int, int]:
    """How often the weights of machine 0 .. L - 1 count on the way up and on the way down.

    A layer that has a neighbour on both sides, in the end, hears the one it has now twice.
    """
    return (1 if layer == L - 1 else 2), (1 if layer == 0 else 2)


def upward(machine: Machine, layer: int, L: int) -> Machine:
    """The machine as it is seen on the way up; its p(h | v) is the one to use."""
    return dataclasses.replace(machine, W=counts(layer, L)[0] * machine.W)


def downward(machine: Machine, layer: int, L: int) -> Machine:
    """The machine as it is seen on the way down; its p(v | h) is the one to use."""
    return dataclasses.replace(machine, W=counts(layer, L)[1] * machine.W)


def machine_at_offsets(machine: Machine, layer: int, L: int, mu: Array, lam: Array) -> Machine:
    """A machine of two layers whose two conditionals stay as they are at other offsets."""
    c = boltzmann.at_offsets(upward(machine, layer, L), mu, lam).c
    b = boltzmann.at_offsets(downward(machine, layer, L), mu, lam).b
    return dataclasses.replace(machine, b=b, c=c, mu=mu, lam=lam)


def as_layer(machine: Machine, layer: int, L: int, v: Array) -> Machine:
    """The parameters of an ordinary restricted machine as those of machine 0 .. L - 1 of the whole.

    In the middle, where weights count twice both ways, an ordinary machine is one of half its
    weights, exactly. At the two ends no weights keep both of its conditionals. There they stay as
    they are, which keeps the one that points outwards, p(v | h¹) or p(hᴸ | hᴸ⁻¹), as Salakhutdinov
    & Hinton 2009, section 3.1, have it of the whole; what such a machine says of the layer within
    counts twice about the offsets, and is right at the units' means where those are the offsets. A
    machine that is not centred (λ = 0) is therefore taken there first, its distribution unchanged.

    Args:
      machine: a run of the family rbm, its data those of the layer below.
      layer: which it is to be.
      L: how many there are.
      v: data of it [B, n], whose means the offsets become if it is not centred.
    """
    centred = jnp.any(machine.lam != 0)
    moved = boltzmann.recentre(machine, v, 1.0)
    machine = jax.tree.map(lambda own, new: jnp.where(centred, own, new), machine, moved)
    return dataclasses.replace(machine, W=machine.W / min(counts(layer, L)))


def put_together(machines: tuple[Machine, ...]) -> DeepMachine:
    """The whole that L machines of two layers make.

    Each machine's biases are first taken to offsets of 0, where they are those of its conditionals.
    A layer between two machines has half of what each of them says:

        aˡ = ½ (bˡ_lower + 2Wˡᵀhˡ⁻¹) + ½ (bˡ_upper + 2Wˡ⁺¹hˡ⁺¹)
    """
    L, first = len(machines), machines[0]
    at_zero = [
        machine_at_offsets(m, layer, L, jnp.zeros_like(m.mu), jnp.zeros_like(m.lam))
        for layer, m in enumerate(machines)
    ]
    middle = [(low.c + high.b) / 2 for low, high in itertools.pairwise(at_zero)]
    lam = (first.mu, *(m.lam for m in machines))
    # Uncentred offsets of 0 tell nothing of a layer's means, and neither does a rate of ½.
    known = [jnp.where(m.lam > 0, boltzmann.inside(m.lam), 0.5) for m in machines]
    whole = DeepMachine(
        W=tuple(m.W for m in machines),
        b=(at_zero[0].b, *middle, at_zero[-1].c),
        lam=tuple(map(jnp.zeros_like, lam)),
        rate=(first.rate, *known),
        shape=first.shape,
    )
    return at_offsets(whole, lam)
