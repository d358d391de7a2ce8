"""Progressive growing: a GAN of 4x4 images, then of 8x8, each taking over what the last one knew.

    stage R learns images of R x R pixels;  R = 4, 8, 16, ... up to the data's
    θ_R ← θ_R/2 where both have a parameter of one name, and N(0, 1) where R is new
    α rises from 0 to 1 over the first half of a stage: the new layers fade in

Karras, Aila, Laine & Lehtinen, Progressive growing of GANs for improved quality, stability, and
variation, 2018 (arXiv:1710.10196). The layers are in nets/progressive.py. Both players play for the
Wasserstein distance with a gradient penalty (their appendix A), and move in turn.

`first` is where growing begins. Where it is the data's own resolution there is one stage and
nothing fades: the same network, learnt at full size from the start.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genjax_zoo import typed
from genjax_zoo.contract import (
    NOTHING,
    REAL,
    SIGNED,
    UNIT,
    Array,
    Batch,
    ConfigError,
    Key,
    Latents,
    Model,
)
from genjax_zoo.learn.state import Average, Params, Staged, TrainState, check_batch, eval_params
from genjax_zoo.learn.verbs import Stage, play, staged
from genjax_zoo.maths import games
from genjax_zoo.maths.games import objectives
from genjax_zoo.maths.probability.given import read_given
from genjax_zoo.nets import progressive, upsample
from genjax_zoo.nets.generators import Memory
from genjax_zoo.typed import number

VERB = "staged"

# Appendix A: WGAN-GP with λ = 10, and one move of the discriminator for one of the generator.
WGAN_GP = objectives.Config(name="wasserstein", gradient=10.0)
IN_TURN = games.Config(name="alternating", k=1)


@typed.config
class Config:
    """A progressively grown GAN.

    Attributes:
      widths: channels of both players at 4x4, 8x8, 16x16, ...: as many as it takes to reach the
        resolution of the data.
      first: the resolution of the first stage.
      stage_steps: steps of each stage, or one number for all; the last goes on as long as the run.
      fade: the part of a stage over which α rises; the first stage never fades.
      latents: L, the length of z ~ N(0, I).
      objective: what the players want, as in objectives.Config.
      drift: ε of ε E_data[a(x)²], which keeps the critic's values near 0.
      dynamics: how they move: `name`, `gamma`, `k`.
      average: decay of the moving average of the parameters, which samples are drawn with; its
        memory, 1 / (1 - decay) steps, should be short beside a stage.
      interval: the range of the data. The generator is linear; samples are cut to this range.
    """

    widths: tuple[int, ...] = number((64, 32), least=1)
    first: int = number(4, least=1)
    stage_steps: tuple[int, ...] = number((2000,), least=1)
    fade: float = number(0.5, least=0, most=1)
    latents: int = number(32, least=1)
    objective: objectives.Config = WGAN_GP
    drift: float = number(0.001, least=0)
    dynamics: games.Config = IN_TURN
    average: float = number(0.99, least=0, below=1)
    interval: tuple[float, float] = (-1.0, 1.0)

    def __post_init__(self):
        if self.first not in progressive.sides(self.widths):
            raise ConfigError(
                f"progressive_gan: {len(self.widths)} widths are those of the resolutions "
                f"{_listed(progressive.sides(self.widths)) or '(none)'}, and first={self.first} is "
                "none of them; set model.first to one, or model.widths to more."
            )
        if len(self.stage_steps) not in (1, len(self.sides)):
            raise ConfigError(
                f"progressive_gan: stage_steps should be one number or {len(self.sides)}, one for "
                f"each of the resolutions {_listed(self.sides)}, got {self.stage_steps}."
            )
        if self.interval[0] >= self.interval[1]:
            raise ConfigError(f"progressive_gan: interval should rise, got {self.interval}.")
        self.objective.check("none", self.dynamics.name)
        if self.objective.pack != 1:
            raise ConfigError(
                f"progressive_gan: objective.pack={self.objective.pack}, but its discriminator "
                "compares neighbours already (minibatch standard deviation); set it to 1."
            )

    @property
    def sides(self) -> tuple[int, ...]:
        """The resolution of each stage; the last is that of the data."""
        return tuple(side for side in progressive.sides(self.widths) if side >= self.first)

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps of each stage."""
        one = len(self.stage_steps) == 1
        return self.stage_steps * len(self.sides) if one else self.stage_steps


def make(config: Config, tx: optax.GradientTransformation) -> Model:
    """A GAN for each resolution, one after another; each begins with a fresh state of `tx`."""
    *_, full = config.sides
    models = [
        at_resolution(config, tx, *stage) for stage in zip(config.sides, config.steps, strict=True)
    ]
    grows = lambda side: grow if side > config.first else None
    init, step = staged(
        [
            Stage(f"side_{side}", model, steps, view=_shown(side, full), begin=grows(side))
            for model, side, steps in zip(models, config.sides, config.steps, strict=True)
        ]
    )
    ends = np.cumsum(config.steps, dtype=np.int32)

    @functools.wraps(init)
    def start(key: Key, batch: Batch, **begun: Params) -> Staged:
        check_batch(batch)
        progressive.check_size(batch["x"].shape[1:], full)
        return init(key, batch, **begun)

    def decode(key: Key, state: Staged, z: Array) -> Batch:
        """G(z) of the stage in progress: z [B, L] -> images of the data's size and range."""

        def of_stage(k: int):
            def draw(states: tuple[TrainState, ...], z: Array) -> Array:
                x = models[k].latents.decode(key, states[k], z)["x"]  # type: ignore[union-attr]
                return jnp.clip(upsample(x, full // x.shape[1]), *config.interval)

            return draw

        # A stage whose time has just come has learnt nothing yet: the last that did is shown.
        k = jnp.minimum(jnp.searchsorted(ends, state.count), len(models) - 1)
        return {"x": jax.lax.switch(k, [*map(of_stage, range(len(models)))], state.states, z)}

    return Model(
        start,
        step,
        sample=_sampler(config, decode),
        spaces={"x": {(0.0, 1.0): UNIT, (-1.0, 1.0): SIGNED}.get(config.interval, REAL)},
        latents=Latents(decode, prior=lambda key, state, n: prior(config, key, n)),
    )


def prior(config: Config, key: Key, n: int) -> Array:
    """z ~ N(0, I): [n, L]."""
    return jax.random.normal(key, (n, config.latents))


def _sampler(config: Config, decode: Callable[..., Batch]) -> Callable[..., Batch]:
    def sample(key: Key, state: Staged | TrainState, n: int, given: Batch = NOTHING) -> Batch:
        """x = G(z), z ~ N(0, I)."""
        read_given(given, {}, n, "progressive_gan")
        return decode(key, state, prior(config, key, n))

    return sample


def at_resolution(config: Config, tx: optax.GradientTransformation, side: int, steps: int) -> Model:
    """The GAN of one resolution, a Model of images [B, side, side, C]."""
    fades = side > config.first
    widths = config.widths[: progressive.sides(config.widths).index(side) + 1]
    G = progressive.generator(widths, fades)
    D = progressive.discriminator(widths, fades)

    def init(key: Key, batch: Batch) -> tuple[games.Players, Memory]:
        key_generator, key_discriminator = jax.random.split(key)
        z, x = jnp.zeros((1, config.latents)), batch["x"]
        params = {
            "generator": G.init(key_generator, z, x),
            "discriminator": D.init(key_discriminator, x),
        }
        # The generator remembers how many moves it has made in this stage: they say what α is.
        return params, {"generator": jnp.zeros((), jnp.int32), "discriminator": ()}

    def alpha(moves: Array) -> Array:
        """α, from 0 at the first move to 1 after `fade` of the stage."""
        faded = config.fade * steps
        return jnp.minimum(moves / faded, 1.0) if fades and faded else jnp.ones(())

    def losses(key: Key, params: games.Players, memory: Memory, batch: Batch):
        key_z, key_noise, key_between = jax.random.split(key, 3)
        now = alpha(memory["generator"])
        critic = lambda x: D.apply(params["discriminator"], x, now)
        # The data fade in like the samples: D should know them by what they show.
        x = batch["x"]
        if fades:
            x = progressive.blend(now, x, upsample(progressive.half(x)))
        made = G.apply(params["generator"], prior(config, key_z, len(x)), now)
        of_data, of_samples = jax.random.split(key_noise)
        x, made = config.objective.noisy(of_data, x), config.objective.noisy(of_samples, made)
        a_of_data, a_of_samples = critic(x), critic(made)
        # (1)  E[a(G(z))] - E[a(x)]  and  -E[a(G(z))]
        # (2)  + λ E[(‖∇a(x̂)‖ - 1)²]; the slope of a sum, though examples meet in their group
        lowered, info = config.objective.losses(
            key_between, critic, (a_of_data, a_of_samples), (x, made)
        )
        # (3)  + ε E[a(x)²]
        lowered["discriminator"] += config.drift * jnp.mean(a_of_data**2)
        after: Memory = {"generator": memory["generator"] + 1, "discriminator": ()}
        return lowered, (after, {**info, "alpha": now})

    def decode(key: Key, state: TrainState, z: Array) -> Batch:
        """G(z), as far as it has faded in."""
        now = alpha(state.memory["generator"])
        return {"x": G.apply(eval_params(state)["generator"], z, now)}

    tx_each, dynamics = config.objective.optimizers(tx), games.make(config.dynamics)
    return Model(
        *play(init, losses, tx_each, dynamics, config.average),
        sample=_sampler(config, decode),
        latents=Latents(decode),
    )


def grow(own: TrainState, below: tuple[TrainState, ...]) -> TrainState:
    """The first state of a stage: all that the one before it learnt, and a fresh optimizer.

    The moving average goes on too: new parameters count as having stood where they start.
    """
    earlier, average = below[-1], own.average
    if earlier.average is not None:
        weight = earlier.average.weight
        known = taken(own.params, eval_params(earlier))
        average = Average(jax.tree.map(lambda leaf: weight * leaf, known), weight)
    params = taken(own.params, earlier.params)
    return dataclasses.replace(own, params=params, average=average)


def taken(own: games.Players, earlier: games.Players) -> games.Players:
    """Each player's own parameters, and those of the earlier stage where they share a name."""
    return {
        player: {name: earlier[player].get(name, fresh) for name, fresh in params.items()}
        for player, params in own.items()
    }


def _shown(side: int, full: int) -> Callable[..., Batch]:
    """What a stage learns from: the data, averaged down to its resolution."""
    return lambda key, below, batch: {**batch, "x": progressive.half(batch["x"], full // side)}


def _listed(sides: tuple[int, ...]) -> str:
    return ", ".join(map(str, sides))
