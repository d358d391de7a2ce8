"""Latent diffusion: an auto-encoder first, then a diffusion of what it makes of the data.

    auto-encode    z ~ q(z | x), x̂ = D(z)               models/vae.py or models/vq_vae.py
    measure        u = (z - m) / s, of variance one     m, s of every channel of the latents
    diffuse        p_ψ(u | y)                           models/diffusion.py, y a label if there is

Rombach, Blattmann, Lorenz, Esser & Ommer, High-resolution image synthesis with latent diffusion
models, 2022 (arXiv:2112.10752), section 3; its appendix G takes one scale from the first batch,
here s is of each channel, with a mean, from many. The latents of the VQ-VAE are diffused before
they are quantised, which the decoder then does ("VQ-reg", section 3.1).

With the diffusion for a prior the VAE keeps its bound (Vahdat, Kreis & Kautz, Score-based
generative modeling in latent space, 2021, arXiv:2106.05931, equation 1; they learn all at once,
here nothing goes back to the auto-encoder):

    log p(x | y) >= E_q[log p(x | z)] + H[q(z | x)] + E_q[log p(z | y)]
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from genjax_zoo import typed
from genjax_zoo.contract import (
    NOTHING,
    Array,
    Batch,
    ConfigError,
    Decode,
    Encode,
    Exactness,
    Key,
    Latents,
    Measure,
    Model,
    State,
)
from genjax_zoo.learn import optimizers
from genjax_zoo.learn.state import Staged, TrainState, eval_params
from genjax_zoo.learn.verbs import Stage, em, staged
from genjax_zoo.maths.inference.codebooks import nearest
from genjax_zoo.maths.probability import distributions, scales
from genjax_zoo.maths.probability.given import Labels, Texts, read_given
from genjax_zoo.models import diffusion, vae, vq_vae
from genjax_zoo.typed import number

VERB = "staged"


@typed.config
class Config:
    """A latent diffusion model.

    Attributes:
      first: the auto-encoder, "vae" (latents [L]) or "vq_vae" (latents [h, w, D], of images).
      vae: of the first; its labels are the diffusion's, and its `classes` 0.
      vq_vae: of the second; its own prior learns along, and is not used.
      diffusion: of the latents, whose standard deviation σ_data is 1.
      first_steps: steps of the auto-encoder; 0 takes one as another run has learnt it.
      measure_steps: batches from which the mean and the scale of the latents are taken; the
        diffusion has all steps after those.
    """

    first: Literal["vae", "vq_vae"] = "vae"
    vae: vae.Config = dataclasses.field(default_factory=vae.Config)
    vq_vae: vq_vae.Config = dataclasses.field(default_factory=vq_vae.Config)
    diffusion: diffusion.Config = dataclasses.field(
        default_factory=lambda: diffusion.Config(data_std=1.0)
    )
    first_steps: int = number(2000, least=0)
    measure_steps: int = number(100, least=1)

    def __post_init__(self):
        if self.vae.classes:
            raise ConfigError(
                "latent_diffusion: labels are given to the diffusion, and the auto-encoder takes "
                f"none, got vae.classes={self.vae.classes}; set diffusion.classes instead."
            )
        if self.first == "vae" and self.diffusion.network.name != "mlp":
            raise ConfigError(
                "latent_diffusion: the latents of a vae are vectors, for which "
                f"diffusion.network.name should be 'mlp', got {self.diffusion.network.name!r}."
            )


class AutoEncoder(NamedTuple):
    """The first stage.

    Attributes:
      model: as the zoo has it.
      draw: (key, state, batch) -> z [B, ..., C], what is diffused.
      draw_x: (key, state, z) -> x ~ p(x | z), with its mean if that is to be looked at.
      latents: of the same space: `encode` is the mean of what is drawn.
    """

    model: Model
    draw: Encode | Any
    draw_x: Decode | Any
    latents: Latents


def make(config: Config, tx: optax.GradientTransformation) -> Model:
    """An auto-encoder, the scale of its latents, and their diffusion, one after another."""
    auto = AUTO_ENCODERS[config.first](config, tx)
    prior = diffusion.make(config.diffusion, tx)
    labels = Labels(config.diffusion.classes, "latent_diffusion")
    texts = Texts(config.diffusion.text.vocabulary, "latent_diffusion")

    # ----------------------------------------------------------------------------- the stages

    def view_data(key: Key, below: tuple[State, ...], batch: Batch) -> Batch:
        return batch

    def view_latents(key: Key, below: tuple[State, ...], batch: Batch) -> Batch:
        return {**batch, "x": auto.draw(key, below[0], batch)}

    def view_standard(key: Key, below: tuple[State, ...], batch: Batch) -> Batch:
        latents = auto.draw(key, below[0], batch)
        return {**batch, "x": eval_params(below[1]).standard(latents)}

    def begin_diffusion(own: TrainState, below: tuple[State, ...]) -> TrainState:
        """The schedule of the learning rate is the run's: it goes on where it is."""
        done = config.first_steps + config.measure_steps
        optimizer = optimizers.at_step(own.optimizer, done)
        return dataclasses.replace(own, optimizer=optimizer)

    scale_of = Model(*em(scales.start, scales.expect, scales.maximise), sample=_draw_nothing)
    start, step = staged(
        [
            Stage("autoencoder", auto.model, config.first_steps, view_data),
            Stage("scale", scale_of, config.measure_steps, view_latents),
            Stage("diffusion", prior, 1, view_standard, begin_diffusion),
        ]
    )

    def init(
        key: Key, batch: Batch, autoencoder: Any = None, scale: Any = None, diffusion: Any = None
    ) -> Staged:
        """The first state; `autoencoder`, `scale` and `diffusion` are what another run has learnt.

        Raises ConfigError where the auto-encoder would neither learn nor be begun.
        """
        if not config.first_steps and autoencoder is None:
            raise ConfigError(
                "latent_diffusion: with first_steps=0 the auto-encoder is that of another run, and "
                "none was begun; add --begin=autoencoder=WORKDIR, or set model.first_steps."
            )
        return start(key, batch, autoencoder=autoencoder, scale=scale, diffusion=diffusion)

    # -------------------------------------------------------------------------- the functions

    def bound(key: Key, state: Staged, batch: Batch) -> Array:
        """A lower bound on log p(x), or on log p(x | y) with a condition y: [B] nats.

        With z ~ q(z | x), once,

            ELBO + log p(z | y) - log N(z; 0, I)

        whose first two terms hold the VAE's own prior once each, with either sign.
        """
        assert auto.model.log_prob is not None
        key_elbo, key_z, key_prior = jax.random.split(key, 3)
        first, scale, last = state.states
        z = auto.draw(key_z, first, batch)
        # (1)  E_q[log p(x | z)] + H[q(z | x)] + E_q[log N(z; 0, I)]
        elbo = auto.model.log_prob(key_elbo, first, batch)
        # (2)  log p(z | y) = log p(u | y) - Σ log s, the diffusion's bound of it
        s = eval_params(scale)
        u = {**batch, "x": s.standard(z)}
        log_prior = prior.measures["bound"](key_prior, last, u) - jnp.sum(jnp.log(s.std))
        # (3)  log N(z; 0, I), the prior that the VAE learnt with
        return elbo + log_prior - distributions.gaussian(z, 0.0, jnp.zeros(()))

    def draw(key: Key, state: Staged, n: int, given: Batch = NOTHING) -> tuple[Array, Batch]:
        """n latents [n, ..., C] of the diffusion, and their labels or texts if it has any."""
        _, scale, last = state.states
        u = dict(prior.sample(key, last, n, given))
        return eval_params(scale).back(u.pop("x")), u

    def sample(key: Key, state: Staged, n: int, given: Batch = NOTHING) -> Batch:
        """z ~ p(z | y), then x ~ p(x | z), y as it is given or the diffusion draws it."""
        told = read_given(given, labels.told | texts.told, n, "latent_diffusion")
        z, condition = draw(key, state, n, told)
        # A stream apart from those of the diffusion.
        key_x = jax.random.fold_in(key, 2**32 - 1)
        return {**auto.draw_x(key_x, state.states[0], z), **condition}

    def encode(key: Key, state: Staged, batch: Batch) -> Array:
        """z [B, ..., C], the mean of q(z | x)."""
        assert auto.latents.encode is not None
        return auto.latents.encode(key, state.states[0], batch)

    def decode(key: Key, state: Staged, z: Array) -> Batch:
        """The mean of p(x | z)."""
        return auto.latents.decode(key, state.states[0], z)

    def draw_prior(key: Key, state: Staged, n: int) -> Array:
        """z ~ p(z | y), of any y."""
        return draw(key, state, n)[0]

    def of_first(measure: Measure, **changed: Any) -> Measure:
        """A measure of the auto-encoder alone."""
        value = lambda key, state, batch: measure(key, state.states[0], batch)
        return dataclasses.replace(measure, value=value, once=None, **changed)

    log_prob = None
    if config.first == "vae":
        assert auto.model.log_prob is not None
        log_prob = Measure(bound, Exactness.LOWER_BOUND, density=True)
        detail = "the auto-encoder alone, whose prior is N(0, I)"
        alone = of_first(auto.model.log_prob, detail=detail, density=False)
        measures = {"gaussian_prior": alone}
    else:
        measures = {"distortion": of_first(auto.model.measures["distortion"])}
    return Model(
        init,
        step,
        sample,
        log_prob,
        measures,
        spaces={**prior.spaces, "x": auto.model.spaces["x"]},
        latents=Latents(decode, encode, draw_prior),
    )


# -------------------------------------------------------------------------------- the first stage


def _vae(config: Config, tx: optax.GradientTransformation) -> AutoEncoder:
    """z ~ q(z | x) [B, L]."""
    mean, drawn = (
        vae.make(dataclasses.replace(config.vae, encode_means=means), tx) for means in (True, False)
    )
    assert mean.latents is not None and drawn.latents is not None
    draw_x = lambda key, state, z: vae.drawn_from(config.vae, key, eval_params(state), z)
    return AutoEncoder(mean, drawn.latents.encode, draw_x, mean.latents)


def _vq_vae(config: Config, tx: optax.GradientTransformation) -> AutoEncoder:
    """z = z_e(x) [B, h, w, D]; the decoder takes the nearest codes."""
    model, encoder = vq_vae.make(config.vq_vae, tx), vq_vae.encoder_of(config.vq_vae)
    assert model.latents is not None
    decode_codes = model.latents.decode

    def encode(key: Key, state: TrainState, batch: Batch) -> Array:
        return encoder.apply(eval_params(state).encoder, batch["x"])

    def decode(key: Key, state: TrainState, z: Array) -> Batch:
        return decode_codes(key, state, nearest(z, eval_params(state).codebook))

    def draw_x(key: Key, state: TrainState, z: Array) -> Batch:
        params = eval_params(state)
        return vq_vae.drawn_from(config.vq_vae, key, params, nearest(z, params.codebook))

    return AutoEncoder(model, encode, draw_x, Latents(decode, encode))


AUTO_ENCODERS = {"vae": _vae, "vq_vae": _vq_vae}


def _draw_nothing(key: Key, state: TrainState, n: int, given: Batch = NOTHING) -> Batch:
    """The scale alone has no samples."""
    return {}
