"""Auto-encoders against what linear ones reach in closed form, and the chain's own distribution."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

from genjax_zoo.contract import BINARY, ConfigError
from genjax_zoo.models import autoencoder

KEY = jax.random.key(0)


def learn(config, draw, steps, rate=0.01):
    """The state after `steps` of batches draw(key), in one compiled scan."""
    model = autoencoder.make(config, optax.adam(optax.cosine_decay_schedule(rate, steps)))

    @jax.jit
    def run(state):
        def step(state, key):
            return model.step(key, state, {"x": draw(key)})[0], None

        return jax.lax.scan(step, state, jax.random.split(KEY, steps))[0]

    return model, run(model.init(KEY, {"x": draw(KEY)}))


@pytest.fixture(scope="module")
def line():
    """A linear denoiser of N(0, 1), its noise of variance 1/4."""
    config = autoencoder.Config(
        latents=4, widths=(), corruption="gaussian", noise=0.5, chain_steps=60
    )
    return config, *learn(config, lambda key: jax.random.normal(key, (1000, 1)), 2000)


def test_denoiser_of_a_normal_has_its_closed_form(line):
    """r(x) = x / (1 + 1/4) = .8 x, and the reconstruction's variance 1/5."""
    config, _, state = line
    x = jnp.linspace(-2, 2, 9)[:, None]
    r = autoencoder.reconstruction(config, state.params, x)
    np.testing.assert_allclose(r, 0.8 * x, atol=0.03)
    assert float(jnp.exp(2 * state.params.log_std)) == pytest.approx(0.2, rel=0.05)
    # The score is that of N(0, 1 + 1/4), the noised density.
    np.testing.assert_allclose(
        autoencoder.score(config, state.params, x), -x / 1.25, atol=0.03 / 0.25
    )


def test_chain_has_the_distribution_of_the_data(line):
    """x' = .8 (x + ε / 2) + η has variance 1; drawn means alone would have less."""
    config, model, state = line
    x = jax.jit(model.sample, static_argnums=2)(KEY, state, 20_000)["x"]
    assert float(x.mean()) == pytest.approx(0, abs=0.1)
    r = autoencoder.reconstruction(config, state.params, jnp.array([[1.0], [0.0]]))
    a, b = float(r[0, 0] - r[1, 0]), float(jnp.exp(2 * state.params.log_std))
    # v = a² (v + 1/4) + b, of the weights as they were learnt
    stationary = (a**2 / 4 + b) / (1 - a**2)
    assert float(x.var()) == pytest.approx(stationary, rel=0.04)
    assert stationary == pytest.approx(1, abs=0.15)


def test_linear_autoencoder_reaches_principal_components():
    x = load_digits().data.astype(np.float32) / 16
    centred = x - x.mean(0)
    singular = np.linalg.svd(centred, compute_uv=False)
    best = (singular[6:] ** 2).sum() / len(x)
    config = autoencoder.Config(
        latents=6, widths=(), corruption="none", variance="fixed", noise_std=1.0
    )
    model, state = learn(config, lambda key: jnp.asarray(x), 1500, rate=0.02)
    error = model.measures["reconstruction_error"](KEY, state, {"x": jnp.asarray(x)}).mean()
    assert best * (1 - 1e-4) < float(error) < best * 1.02


def test_walkback_finds_binary_images_again():
    x = jnp.asarray(jax.random.bernoulli(KEY, 0.5, (4, 4, 4, 1)), jnp.float32)
    config = autoencoder.Config(
        network="conv",
        widths=(32,),
        latents=8,
        reconstruction="bernoulli",
        corruption="salt_and_pepper",
        noise=0.1,
        walkback=2,
        chain_steps=50,
    )
    draw = lambda key: x[jax.random.randint(key, (64,), 0, 4)]
    model, state = learn(config, draw, 500, rate=5e-3)
    assert model.spaces["x"] == BINARY
    assert model.log_prob is None
    drawn = jax.jit(model.sample, static_argnums=2)(KEY, state, 100)["x"]
    assert set(np.unique(drawn)) <= {0, 1}
    nearest = jnp.abs(drawn[:, None] - x[None]).sum((2, 3, 4)).min(1)
    assert float(nearest.mean()) < 0.7
    which = jnp.abs(drawn[:, None] - x[None]).sum((2, 3, 4)).argmin(1)
    assert len(np.unique(which)) > 1
    codes = model.latents.encode(KEY, state, {"x": x})
    np.testing.assert_allclose(
        model.latents.decode(KEY, state, codes)["x"],
        autoencoder.reconstruction(config, state.params, x),
        atol=1e-6,
    )


def test_walkback_averages_the_loss_of_every_step():
    """With nothing corrupted and nearly no variance the chain stays, and all its terms are one."""
    x = jax.random.normal(KEY, (8, 3))
    fields = {"corruption": "none", "widths": (), "mean": "residual", "variance": "fixed"}
    fields |= {"noise_std": 1e-4, "latents": 1}
    losses = []
    for walkback in (0, 3):
        model = autoencoder.make(
            autoencoder.Config(**fields, walkback=walkback), optax.set_to_zero()
        )
        state = model.init(KEY, {"x": x})
        zero = jax.tree.map(jnp.zeros_like, state.params)
        losses.append(model.step(KEY, state.replace(params=zero), {"x": x})[1]["loss"])
    # Step k has drifted by k times the noise: its expected square is k times the first's.
    D, once = 3, losses[0]
    assert float(losses[1] - once) == pytest.approx(0.5 * D * (0 + 1 + 2 + 3) / 4, rel=0.5)


def test_latents_of_a_residual_mean_lead_back_to_it():
    """They hold x~, to which the decoder's output is added."""
    config = autoencoder.Config(latents=3, widths=(5,), mean="residual")
    model = autoencoder.make(config, optax.sgd(0.1))
    x = jax.random.normal(KEY, (6, 4))
    state = model.init(KEY, {"x": x})
    code, corrupted = model.latents.encode(KEY, state, {"x": x})
    assert code.shape == (6, 3)
    np.testing.assert_allclose(
        model.latents.decode(KEY, state, (code, corrupted))["x"],
        autoencoder.reconstruction(config, state.params, x),
        rtol=1e-6,
    )


def test_every_step_of_the_chain_is_one(line):
    """`chain_steps` of 1 is one corruption and one reconstruction of the start."""
    config, _, state = line
    start = state.replace(memory=state.memory.replace(spread=jnp.zeros(1), centre=jnp.full(1, 9.0)))
    for steps in (1, 2):
        own = dataclasses.replace(config, chain_steps=steps, sample_means=True)
        x = autoencoder.make(own, optax.sgd(0.1)).sample(KEY, start, 4000)["mean"]
        r = autoencoder.reconstruction(config, state.params, jnp.full((1, 1), 9.0))
        if steps == 2:
            r = autoencoder.reconstruction(config, state.params, r)
        assert float(x.mean()) == pytest.approx(float(r[0, 0]), abs=0.06)


def test_score_wants_gaussian_noise(line):
    _, _, state = line
    with pytest.raises(ConfigError, match=r"got masking of 0\.5"):
        autoencoder.score(
            autoencoder.Config(corruption="masking", noise=0.5), state.params, jnp.zeros((1, 1))
        )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"corruption": "gausian"}, "gaussian"),
        ({"noise": -1.0}, "got -1"),
        ({"latents": 0}, "latents"),
        ({"walkback": -1}, "walkback"),
        ({"network": "conv", "widths": ()}, "convolutional"),
        ({"noise_std": 0.0}, "noise_std"),
        ({"average": 1.0}, "average"),
    ],
)
def test_bad_configs_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        autoencoder.Config(**fields)


def test_convolutions_want_images():
    model = autoencoder.make(autoencoder.Config(network="conv", widths=(4,)), optax.sgd(0.1))
    with pytest.raises(ConfigError, match=r"Set model\.network to 'mlp'"):
        model.init(KEY, {"x": jnp.zeros((2, 5))})
