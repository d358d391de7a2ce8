"""Deep belief network: restricted Boltzmann machines, each learning the activities below it.

    p(v, h¹, ..., hᴸ) = p(v | h¹) p(h¹ | h²) ... p(hᴸ⁻² | hᴸ⁻¹) p(hᴸ⁻¹, hᴸ)

The top pair (hᴸ⁻¹, hᴸ) is a restricted Boltzmann machine; below it all arrows point down, and each
p(hˡ | hˡ⁺¹) is the conditional of the machine that was learnt there. Recognition goes up through
q(hˡ⁺¹ | hˡ), the machines' other conditionals: exact for the top pair, an approximation below it,
where a machine on top has changed what its hidden units' prior is. Hinton,
Osindero & Teh, A fast learning algorithm for deep belief nets, 2006: a machine that models the
activities q(h¹ | v) of the one below better than that one does raises a lower bound on log p(v).

The bound needs log Z of the top pair and an expectation over q; it is not offered yet.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from genjax_zoo.contract import Array, Batch, ConfigError, Evidence, Key, Measure, Model, Support
from genjax_zoo.learn import Learner, Stage, Staged, learnt, staged
from genjax_zoo.models import rbm

VERB = "staged"


@dataclasses.dataclass(frozen=True)
class Config:
    """A deep belief network.

    Attributes:
      widths: units of each hidden layer, from the data up.
      stage_steps: steps that each machine learns before the next begins; one number fewer than
        widths, for the last goes on as long as the run does.
      chain, k, chains, centred, nu, base_rate, weight_std, weight_decay: of each machine, as in
        models/rbm.py. A centred machine begins from the means of the units below it.
      sample_steps: Gibbs steps in the top pair before a sample goes down.
      sample_means: `sample` returns p(v = 1 | h¹), which is how images are usually shown; False
        returns draws.
    """

    widths: tuple[int, ...] = (64, 64)
    stage_steps: tuple[int, ...] = (2000,)
    chain: Literal["cd", "pcd"] = "pcd"
    k: int = 1
    chains: int = 100
    centred: bool = True
    nu: float = 0.01
    base_rate: bool = True
    weight_std: float = 0.01
    weight_decay: float = 0.0
    sample_steps: int = 1000
    sample_means: bool = False

    def __post_init__(self):
        if not self.widths:
            raise ConfigError("dbn: widths should name at least one layer, got none.")
        if len(self.stage_steps) != len(self.widths) - 1 or min(self.stage_steps, default=1) < 1:
            raise ConfigError(
                f"dbn: stage_steps should be {len(self.widths) - 1} positive numbers, one fewer "
                f"than the {len(self.widths)} widths, got {self.stage_steps}."
            )
        for width in self.widths:
            machine(self, width)


def machine(config: Config, width: int) -> rbm.Config:
    """The restricted Boltzmann machine with `width` hidden units; raises ConfigError as it does."""
    return rbm.Config(
        hidden=width,
        chain=config.chain,
        k=config.k,
        chains=config.chains,
        centred=config.centred,
        nu=config.nu,
        base_rate=config.base_rate,
        weight_std=config.weight_std,
        weight_decay=config.weight_decay,
        sample_steps=config.sample_steps,
    )


def make(config: Config, tx: optax.GradientTransformation) -> Model:
    """A deep belief network that learns greedily; every machine has its own state of `tx`."""

    def see(key: Key, below: tuple[Learner, ...], batch: Batch) -> Batch:
        """h ~ q(h | v), drawn layer by layer.

        Drawn and not averaged: the bound that justifies the next machine is an expectation of
        log p(h) over q(h | v), which a draw estimates without bias, and a machine of binary units
        gives probability to nothing but 0 and 1.
        """
        x = rbm.flat(batch["x"]) if below else batch["x"]
        for layer, state in enumerate(below):
            x = rbm.draw_hidden(jax.random.fold_in(key, layer), learnt(state), x)
        return {**batch, "x": x}

    def begin(own: Learner, below: tuple[Learner, ...]) -> Learner:
        """λ of the machine below has followed its units' means: the base rates of the next one."""
        # A mean that rounds to 0 or 1 has no finite logit.
        rate = jnp.clip(below[-1].params.lam, 1e-3, 1 - 1e-3)
        return dataclasses.replace(
            own, params=rbm.at_rate(machine(config, rate.size), own.params, rate)
        )

    def up(params: tuple[rbm.Params, ...], v: Array) -> Array:
        """v [B, D] through the means of every layer: [B, widths[-1]]."""
        for p in params:
            v = rbm.hidden_mean(p, v)
        return v

    def down(params: tuple[rbm.Params, ...], h: Array) -> Array:
        """h [B, widths[-1]] back to the means of v [B, D]."""
        for p in reversed(params):
            h = rbm.visible_mean(p, h)
        return h

    def sample(key: Key, state: Staged, n: int, means: bool = config.sample_means) -> Batch:
        """Gibbs sampling in the top pair from its base rate, then once down, a draw a layer."""
        *lower, top = layers(state)
        keys = jax.random.split(key, 3 + len(lower))
        h = rbm.draw_hidden(keys[0], top, rbm.start(keys[1], top, n))
        v = rbm.gibbs_visible(keys[2], top, h, config.sample_steps, means and not lower)
        for layer, p in reversed(list(enumerate(lower))):
            # p(hˡ | hˡ⁺¹), and of the data the mean where it is wanted.
            last = means and layer == 0
            v = rbm.visible_mean(p, v) if last else rbm.draw_visible(keys[3 + layer], p, v)
        return {"x": v.reshape(n, *layers(state)[0].shape)}

    def encode(key: Key, state: Staged, batch: Batch) -> Array:
        """The means of the topmost layer, each layer's computed from the means below it."""
        return up(layers(state), rbm.flat(batch["x"]))

    def decode(state: Staged, latents: Array) -> Batch:
        params = layers(state)
        return {"x": down(params, latents).reshape(-1, *params[0].shape)}

    def reconstruction(key: Key, state: Staged, batch: Batch) -> Array:
        """Σ_i (v_i - v̂_i)² of v̂ = the means all the way up and down again."""
        v, params = rbm.flat(batch["x"]), layers(state)
        return jnp.sum((v - down(params, up(params, v))) ** 2, axis=-1)

    steps = (*config.stage_steps, 1)
    stages = [
        Stage(
            rbm.make(machine(config, width), tx),
            steps=steps[layer],
            see=see,
            begin=begin if config.centred and layer > 0 else None,
        )
        for layer, width in enumerate(config.widths)
    ]
    init, step = staged(stages)
    return Model(
        init,
        step,
        sample=sample,
        evidence=Evidence.NONE,
        encode=encode,
        decode=decode,
        measures={
            "reconstruction": Measure(reconstruction, Evidence.EXACT, "squared error", "lower")
        },
        support=Support.BINARY,
    )


def layers(state: Staged) -> tuple[rbm.Params, ...]:
    """The machines' parameters, from the data up."""
    return tuple(learnt(stage) for stage in state.states)
