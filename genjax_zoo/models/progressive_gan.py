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
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from genjax_zoo.contract import (
    REAL,
    SIGNED,
    UNIT,
    Array,
    Batch,
    ConfigError,
    Info,
    Key,
    Latents,
    Model,
)
from genjax_zoo.learn.state import Average, Staged, TrainState, eval_params
from genjax_zoo.learn.verbs import Stage, play, staged
from genjax_zoo.maths import games
from genjax_zoo.maths.games import objectives
from genjax_zoo.nets import progressive, upsample

VERB = "staged"

# Appendix A: WGAN-GP with λ = 10, and one move of the discriminator for one of the generator.
WGAN_GP = objectives.Config(name="wasserstein", gradient=10.0)
IN_TURN = games.Config(name="alternating", k=1)


@dataclasses.dataclass(frozen=True)
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

    widths: tuple[int, ...] = (64, 32)
    first: int = 4
    stage_steps: tuple[int, ...] = (2000,)
    fade: float = 0.5
    latents: int = 32
    objective: objectives.Config = WGAN_GP
    drift: float = 0.001
    dynamics: games.Config = IN_TURN
    average: float = 0.99
    interval: tuple[float, float] = (-1.0, 1.0)

    def __post_init__(self):
        if not self.widths or min(self.widths) < 1 or self.latents < 1:
            raise ConfigError(
                "progressive_gan: widths should be at least one positive number and latents "
                f"positive, got {self.widths} and {self.latents}."
            )
        if self.first not in progressive.sides(self.widths):
            raise ConfigError(
                f"progressive_gan: {len(self.widths)} widths are those of the resolutions "
                f"{_listed(progressive.sides(self.widths))}, and first={self.first} is none of "
                "them; set model.first to one."
            )
        if len(self.stage_steps) not in (1, len(self.sides)) or min(self.stage_steps) < 1:
            raise ConfigError(
                f"progressive_gan: stage_steps should be one positive number or {len(self.sides)}, "
                f"one for each of the resolutions {_listed(self.sides)}, got {self.stage_steps}."
            )
        if not 0 <= self.fade <= 1 or self.drift < 0 or not 0 <= self.average < 1:
            raise ConfigError(
                "progressive_gan: fade should lie in 0 .. 1, drift be at least 0 and average lie "
                f"in 0 .. 1 (1 excluded), got {self.fade}, {self.drift} and {self.average}."
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
        at_resolution(config, tx, side, steps)
        for side, steps in zip(config.sides, config.steps, strict=True)
    ]
    stages = [
        Stage(
            f"side_{side}",
            model,
            steps,
            view=_shown(side, full),
            begin=grow if side > config.first else None,
        )
        for model, side, steps in zip(models, config.sides, config.steps, strict=True)
    ]
    init, step = staged(stages)
    ends = jnp.cumsum(jnp.array(config.steps))

    def start(key: Key, batch: Batch) -> Staged:
        check_size(batch["x"].shape[1:], full)
        return init(key, batch)

    def decode(state: Staged, z: Array) -> Batch:
        """G(z) of the stage in progress: z [B, L] -> images of the data's size and range."""

        def of_stage(k: int):
            def draw(states: tuple[TrainState, ...], z: Array) -> Array:
                x = models[k].decode(states[k], z)["x"]  # type: ignore[misc]
                return jnp.clip(upsample(x, full // x.shape[1]), *config.interval)

            return draw

        # A stage whose time has just come has learnt nothing yet: the last that did is shown.
        k = jnp.minimum(jnp.searchsorted(ends, state.count), len(models) - 1)
        return {"x": jax.lax.switch(k, [*map(of_stage, range(len(models)))], state.states, z)}

    def sample(key: Key, state: Staged, n: int) -> Batch:
        """x = G(z), z ~ N(0, I)."""
        return decode(state, prior(config, key, n))

    known = {(0.0, 1.0): UNIT, (-1.0, 1.0): SIGNED}
    support = known.get(config.interval, REAL)
    return Model(
        start,
        step,
        sample=sample,
        spaces={"x": support},
        latents=Latents(decode=lambda key, state, latents: decode(state, latents)),
    )


def prior(config: Config, key: Key, n: int) -> Array:
    """z ~ N(0, I): [n, L]."""
    return jax.random.normal(key, (n, config.latents))


def at_resolution(config: Config, tx: optax.GradientTransformation, side: int, steps: int) -> Model:
    """The GAN of one resolution, a Model of images [B, side, side, C]."""
    fades = side > config.first
    widths = config.widths[: progressive.sides(config.widths).index(side) + 1]
    G = progressive.generator(widths, fades)
    D = progressive.discriminator(widths, fades)

    def init(key: Key, batch: Batch) -> tuple[games.Players, dict[str, Any]]:
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

    def losses(key: Key, params: games.Players, memory: dict[str, Any], batch: Batch):
        key_z, key_blur, key_between = jax.random.split(key, 3)
        now = alpha(memory["generator"])
        critic = lambda x: D.apply(params["discriminator"], x, now)
        # The data fade in like the samples: D should know them by what they show.
        x = batch["x"]
        if fades:
            x = progressive.blend(now, x, upsample(progressive.half(x)))
        made = G.apply(params["generator"], prior(config, key_z, len(x)), now)
        of_data, of_samples = jax.random.split(key_blur)
        x, made = config.objective.blur(of_data, x), config.objective.blur(of_samples, made)
        a_of_data, a_of_samples = critic(x), critic(made)
        # (1)  E[a(G(z))] - E[a(x)]  and  -E[a(G(z))]
        # (2)  + λ E[(‖∇a(x̂)‖ - 1)²]; the slope of a sum, though examples meet in their group
        lowered, info = config.objective.losses(
            key_between, critic, (a_of_data, a_of_samples), (x, made)
        )
        # (3)  + ε E[a(x)²]
        lowered["discriminator"] += config.drift * jnp.mean(a_of_data**2)
        told: Info = {**info, "alpha": now}
        return lowered, ({"generator": memory["generator"] + 1, "discriminator": ()}, told)

    def decode(state: TrainState, z: Array) -> Batch:
        """G(z), as far as it has faded in."""
        now = alpha(state.memory["generator"])
        return {"x": G.apply(eval_params(state)["generator"], z, now)}

    return Model(
        *play(
            *(init, losses, config.objective.optimizers(tx)),
            dynamics=games.make(config.dynamics),
            average=config.average,
        ),
        sample=lambda key, state, n: decode(state, prior(config, key, n)),
        latents=Latents(
            decode=lambda key, state, latents: decode(state, latents),
            prior=lambda key, state, n: prior(config, key, n),
        ),
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


def check_size(shape: tuple[int, ...], full: int) -> None:
    """Raises ConfigError where an example of the data is not [full, full, C]."""
    if len(shape) == 3 and shape[:2] == (full, full):
        return
    side, top = max(shape[:2], default=0), progressive.SMALLEST
    while top < side:
        top *= 2
    levels = int(math.log2(top // progressive.SMALLEST)) + 1
    if len(shape) != 3:
        advice = "choose a source of images."
    elif shape[:2] == (top, top):
        advice = f"set model.widths to {levels} numbers, or config.data.resize={full}."
    else:
        advice = (
            f"set config.data.resize={full}"
            + (f", or {top} with model.widths of {levels} numbers" if top != full else "")
            + "."
        )
    raise ConfigError(
        f"progressive_gan: its widths grow square images up to {full}x{full}, by doubling from 4, "
        f"and an example of the data has shape {shape}; {advice}"
    )


def _shown(side: int, full: int):
    """What a stage learns from: the data, averaged down to its resolution."""

    def view(key: Key, below: tuple[TrainState, ...], batch: Batch) -> Batch:
        return {**batch, "x": progressive.half(batch["x"], full // side)}

    return view


def _listed(sides: tuple[int, ...]) -> str:
    return ", ".join(map(str, sides))
