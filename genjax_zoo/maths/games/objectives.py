"""Adversarial objectives: what two players of a GAN want, and what holds the discriminator back.

Floor 1. The discriminator's output is a(x): a logit where an objective has probabilities,
D(x) = sigmoid(a(x)), and a critic's verdict elsewhere. An *objective* turns its values on data and
on samples into what each player lowers; a *penalty* is added to the discriminator's loss and sees
its slope ∇_x a. `examples` x are [B, ...]; with packing (`pack`) an example is a pack.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from genjax_zoo import typed
from genjax_zoo.contract import Array, ConfigError, Info, Key
from genjax_zoo.typed import MOST_LAYERS, choose, number

Critic = Callable[[Array], Array]
"""x [B, ...] -> a [B], each example by itself."""

# ------------------------------------------------------------------------------ objectives


def minimax(real: Array, fake: Array) -> dict[str, Array]:
    """Goodfellow et al. 2014, equation 1: both players fight over one value V(D, G), in nats."""
    # (1)  E_data[log D(x)],            log sigmoid(a) = -softplus(-a)
    tells_data = -jnp.mean(jax.nn.softplus(-real))
    # (2)  E_z[log(1 - D(G(z)))],       log(1 - sigmoid(a)) = -softplus(a)
    tells_samples = -jnp.mean(jax.nn.softplus(fake))
    # D raises V = (1) + (2); G lowers the only term of it in which it stands (algorithm 1).
    return {"discriminator": -(tells_data + tells_samples), "generator": tells_samples}


def non_saturating(real: Array, fake: Array) -> dict[str, Array]:
    """Goodfellow et al. 2014, section 3: the same fixed point, and a slope while D still wins."""
    # (3)  E_z[log D(G(z))]
    passes = -jnp.mean(jax.nn.softplus(-fake))
    return {**minimax(real, fake), "generator": -passes}


def least_squares(real: Array, fake: Array) -> dict[str, Array]:
    """Mao et al. 2017 (LSGAN), equation 9: a is drawn to 1 on data and to 0 on samples."""
    return {
        # ½ E_data[(a(x) - 1)²] + ½ E_z[a(G(z))²]
        "discriminator": (jnp.mean((real - 1) ** 2) + jnp.mean(fake**2)) / 2,
        # ½ E_z[(a(G(z)) - 1)²]
        "generator": jnp.mean((fake - 1) ** 2) / 2,
    }


def wasserstein(real: Array, fake: Array) -> dict[str, Array]:
    """Arjovsky, Chintala & Bottou 2017 (WGAN): of all 1-Lipschitz critics the best one's gap

    E_data[a(x)] - E_z[a(G(z))] is the Wasserstein-1 distance. What keeps a Lipschitz is another
    argument: clipped weights, a gradient penalty, spectral normalisation.
    """
    gap = jnp.mean(real) - jnp.mean(fake)
    return {"discriminator": -gap, "generator": -jnp.mean(fake)}


def hinge(real: Array, fake: Array) -> dict[str, Array]:
    """Lim & Ye 2017; Miyato et al. 2018, equations 16, 17: D moves only within the margin."""
    outside = jnp.mean(jax.nn.relu(1 - real)) + jnp.mean(jax.nn.relu(1 + fake))
    return {"discriminator": outside, "generator": -jnp.mean(fake)}


OBJECTIVES: dict[str, Callable[[Array, Array], dict[str, Array]]] = {
    "minimax": minimax,
    "non_saturating": non_saturating,
    "least_squares": least_squares,
    "wasserstein": wasserstein,
    "hinge": hinge,
}
"""What each player lowers: (a(x) [B], a(G(z)) [B]) -> {player: loss}.

Of the first two the discriminator's loss is the *summed* binary cross entropy -V, without the
factor ½ that some write: log 4 where it cannot tell, and log 4 - 2 JSD(data, samples) where it
tells as well as can be.
"""

# ------------------------------------------------------------------------------- penalties


def _squared_slopes(critic: Critic, x: Array) -> Array:
    """‖∇_x a(x)‖² [B], over all axes but the batch's."""
    # Examples do not meet in a, so the gradient of the sum holds every example's own.
    slope = jax.grad(lambda x: jnp.sum(critic(x)))(x)
    return jnp.sum(slope**2, axis=tuple(range(1, x.ndim)))


def _between(key: Key, real: Array, fake: Array) -> Array:
    """ε x + (1 - ε) G(z), with one ε ~ U[0, 1] for each example."""
    epsilon = jax.random.uniform(key, (len(real), *[1] * (real.ndim - 1)))
    return epsilon * real + (1 - epsilon) * fake


def gradient(key: Key, critic: Critic, real: Array, fake: Array) -> Array:
    """E[(‖∇a(x̂)‖ - 1)²] between data and samples.

    Gulrajani et al. 2017 (WGAN-GP), algorithm 1; their weight is 10.
    """
    squared = _squared_slopes(critic, _between(key, real, fake))
    # The root has no slope at 0, where some critics begin; there the norm counts as constant.
    norm = jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1.0)), 0.0)
    return jnp.mean((norm - 1) ** 2)


def interpolated(key: Key, critic: Critic, real: Array, fake: Array) -> Array:
    """½ E[‖∇a(x̂)‖²] between data and samples: zero-centred (Thanh-Tung et al. 2019)."""
    return jnp.mean(_squared_slopes(critic, _between(key, real, fake))) / 2


def r1(key: Key, critic: Critic, real: Array, fake: Array) -> Array:
    """½ E_data[‖∇a(x)‖²] (Mescheder, Geiger & Nowozin 2018, equation 9)."""
    return jnp.mean(_squared_slopes(critic, real)) / 2


def r2(key: Key, critic: Critic, real: Array, fake: Array) -> Array:
    """½ E_z[‖∇a(G(z))‖²] (Mescheder, Geiger & Nowozin 2018, equation 10)."""
    return jnp.mean(_squared_slopes(critic, fake)) / 2


PENALTIES: dict[str, Callable[[Key, Critic, Array, Array], Array]] = {
    "gradient": gradient,
    "interpolated": interpolated,
    "r1": r1,
    "r2": r2,
}
"""(key, critic, data [B, ...], samples [B, ...]) -> what D's loss is raised by, at weight 1."""


# --------------------------------------------------------------------------------- the rest


def pack(x: Array, m: int) -> Array:
    """Packs of m neighbours, side by side on the last axis: [B, ..., C] -> [B / m, ..., m C].

    Lin et al. 2018 (PacGAN): shown several samples at once, the discriminator sees that they are
    all alike. Raises ConfigError where m does not divide B.
    """
    if len(x) % m:
        raise ConfigError(
            f"packs of {m} do not divide a batch of {len(x)}; choose config.data.batch_size as a "
            "multiple of objective.pack (times dynamics.k, if the critic moves k times)."
        )
    packs = jnp.moveaxis(x.reshape(len(x) // m, m, *x.shape[1:]), 1, -2)
    return packs.reshape(*packs.shape[:-2], m * x.shape[-1])


def clip_weights(c: float) -> optax.GradientTransformation:
    """Keeps every parameter in [-c, c] after each move (Arjovsky et al. 2017, algorithm 1)."""

    def update(updates, state, params=None):
        inside = lambda p, u: jnp.clip(p + u, -c, c) - p
        return jax.tree.map(inside, params, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


@typed.config
class Config:
    """What the players want, and what holds the discriminator back. Weights of 0 turn off.

    Attributes:
      name: of the objective, one of `OBJECTIVES`.
      gradient: weight of the one-centred gradient penalty between data and samples (WGAN-GP: 10).
      interpolated: weight of the zero-centred one between data and samples.
      r1: γ of the zero-centred penalty on data.
      r2: γ of the zero-centred penalty on samples.
      clip: c, within which the discriminator's weights are kept (WGAN: .01); 0 lets them grow.
      instance_noise: standard deviation of the noise on all that the discriminator sees (Sønderby
        et al. 2017), in the units of x.
      pack: m, how many examples the discriminator sees at once (PacGAN).
      generator_rate: the generator's learning rate, as a multiple of the optimizer's (two time
        scales, Heusel et al. 2017).
    """

    name: str = "non_saturating"
    gradient: float = number(0.0, least=0)
    interpolated: float = number(0.0, least=0)
    r1: float = number(0.0, least=0)
    r2: float = number(0.0, least=0)
    clip: float = number(0.0, least=0)
    instance_noise: float = number(0.0, least=0)
    pack: int = number(1, least=1, most=MOST_LAYERS)
    generator_rate: float = number(1.0, above=0)

    def __post_init__(self):
        choose(self.name, OBJECTIVES, "objective of a gan")

    def check(self, normalise: str, dynamics: str) -> None:
        """Raises ConfigError for an objective that does not go with the rest of a game.

        Args:
          normalise: of the discriminator; a penalty wants examples that do not meet.
          dynamics: its name; optimism moves by two updates, of which clipping holds but one.
        """
        if self.clip and dynamics == "optimistic":
            raise ConfigError(
                "objective.clip holds a single update, and optimistic dynamics moves by two at "
                "once; choose other dynamics, or objective.gradient in place of the clipping."
            )
        if self.penalties() and normalise == "batch":
            raise ConfigError(
                f"a penalty on slopes ({', '.join(self.penalties())}) needs a discriminator that "
                "sees every example by itself, and batch norm mixes them; set "
                "config.model.discriminator.normalise to 'layer', 'spectral' or 'none'."
            )

    def penalties(self) -> dict[str, float]:
        """The penalties that are on, with their weights."""
        weights = {name: getattr(self, name) for name in PENALTIES}
        return {name: weight for name, weight in weights.items() if weight}

    def optimizers(
        self, tx: optax.GradientTransformation
    ) -> dict[str, optax.GradientTransformation]:
        """Each player's optimizer: `tx` at the player's rate, and clipping for the critic."""
        rate = self.generator_rate
        return {
            "generator": tx if rate == 1 else optax.chain(tx, optax.scale(rate)),
            "discriminator": optax.chain(tx, clip_weights(self.clip)) if self.clip else tx,
        }

    def noisy(self, key: Key, x: Array) -> Array:
        """x [B, ...] with the instance noise on it."""
        if not self.instance_noise:
            return x
        return x + self.instance_noise * jax.random.normal(key, x.shape)

    def losses(
        self,
        key: Key,
        critic: Critic,
        values: tuple[Array, Array],
        examples: tuple[Array, Array],
    ) -> tuple[dict[str, Array], Info]:
        """What each player lowers, and the terms of it to log.

        Args:
          key: for the points between data and samples.
          critic: a, for its slopes.
          values: a on data and on samples, each [B].
          examples: data and samples, each [B, ...], as the critic sees them.
        """
        lowered = dict(OBJECTIVES[self.name](*values))
        info: Info = {"a_of_data": jnp.mean(values[0]), "a_of_samples": jnp.mean(values[1])}
        for name, weight in self.penalties().items():
            info[f"penalty_{name}"] = PENALTIES[name](key, critic, *examples)
            lowered["discriminator"] += weight * info[f"penalty_{name}"]
        return lowered, info
