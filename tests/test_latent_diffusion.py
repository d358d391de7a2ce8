"""Latent diffusion: the bound against quadrature and a case where theory gives equality."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax_zoo.contract import REAL, ConfigError, DataError, Exactness
from genjax_zoo.learn.state import eval_params
from genjax_zoo.maths.diffusion.samplers import Config as Sampling
from genjax_zoo.maths.probability import scales
from genjax_zoo.models import diffusion, latent_diffusion, vae, vq_vae
from genjax_zoo.nets import Denoiser, Net

KEY = jax.random.key(0)
SOLVER = Sampling(name="dpm_solver", grid="even_in_log_snr", steps=15)


# ------------------------------------------------------------------------------------- the bound

WEIGHT, SHIFT, NOISE = 1.5, 0.4, 2.0
"""x = WEIGHT z + SHIFT + NOISE ε; both are scalars."""
TRUE_MEAN, TRUE_STD = 0.8, 2.0
"""p(z), which is not the VAE's N(0, 1)."""
M, S = 0.7, 2.5
"""The scale's m and s, deliberately not those of p(z): the change of variables has to mend it."""


def linear_gaussian(monkeypatch, exact=True, off=0.0):
    """The model x = w z + c + σ ε, z ~ N(μ, τ²) by a diffusion that is exact, in float64.

    `exact` gives q(z | x) the true posterior; `off` adds so much to its mean.
    """
    mean_u, var_u = (TRUE_MEAN - M) / S, (TRUE_STD / S) ** 2

    def predict(params, shown, clock, label):
        # E[u | u_t] of u ~ N(mean_u, var_u); the clock is 1000 / (1 + exp(λ / 4)).
        log_snr = (4 * jnp.log(1000 / clock - 1))[:, None]
        alpha, sigma2 = jnp.sqrt(jax.nn.sigmoid(log_snr)), jax.nn.sigmoid(-log_snr)
        u_t = shown * jnp.sqrt(alpha**2 + sigma2)
        v = alpha**2 * var_u + sigma2
        return mean_u + alpha * var_u / v * (u_t - alpha * mean_u)

    network = Net(lambda key, *inputs: jnp.zeros(()), predict)
    monkeypatch.setattr(diffusion.nets, "denoiser", lambda *a, **k: network)
    config = latent_diffusion.Config(
        vae=vae.Config(latents=1, widths=(), variance="fixed", noise_std=NOISE),
        diffusion=diffusion.Config(parametrisation="data", data_std=1.0, bound_samples=40),
    )
    model = latent_diffusion.make(config, optax.sgd(0.0))
    state = model.init(KEY, {"x": jnp.zeros((4, 1))})
    # The posterior of that model, N(a x + b, d²).
    precision = 1 / TRUE_STD**2 + (WEIGHT / NOISE) ** 2
    a = WEIGHT / NOISE**2 / precision
    b = (TRUE_MEAN / TRUE_STD**2 - WEIGHT * SHIFT / NOISE**2) / precision + off
    d = -0.5 * math.log(precision)
    first = state.states[0]
    encoder = linear(first.params.encoder, [[a, 0.0]], [b, d])
    decoder = linear(first.params.decoder, [[WEIGHT]], [SHIFT])
    params = dataclasses.replace(first.params, encoder=encoder, decoder=decoder)
    first = dataclasses.replace(first, params=params)
    scale = scales.Scale(jnp.array([M]), jnp.array([S]))
    scale = dataclasses.replace(state.states[1], params=scale)
    return model, dataclasses.replace(state, states=(first, scale, state.states[2]))


def linear(params, kernel, bias):
    """A linear network's parameters with these numbers: the matrix is the leaf of two axes."""
    filled = {2: jnp.asarray(kernel), 1: jnp.asarray(bias)}
    return jax.tree.map(lambda leaf: filled[leaf.ndim].reshape(leaf.shape), params)


def log_evidence(x):
    """log p(x) by quadrature over z."""
    z, step = jnp.linspace(-20, 20, 20001, retstep=True)
    normal = lambda x, m, s: -0.5 * ((x - m) / s) ** 2 - jnp.log(s * math.sqrt(2 * math.pi))
    joint = normal(x, WEIGHT * z + SHIFT, NOISE) + normal(z, TRUE_MEAN, TRUE_STD)
    return jax.nn.logsumexp(joint, axis=-1) + jnp.log(step)


@pytest.mark.parametrize("off", [pytest.param(0.0, marks=pytest.mark.slow), 0.5])
def test_the_bound_is_met_with_the_true_posterior_and_missed_with_another(monkeypatch, off):
    with jax.enable_x64(True):
        model, state = linear_gaussian(monkeypatch, off=off)
        assert model.log_prob.exactness is Exactness.LOWER_BOUND
        key_z, key_x = jax.random.split(jax.random.key(1))
        z = TRUE_MEAN + TRUE_STD * jax.random.normal(key_z, (400, 1))
        x = WEIGHT * z + SHIFT + NOISE * jax.random.normal(key_x, z.shape)
        keys = jax.random.split(KEY, 20)
        bounds = jax.jit(jax.vmap(lambda key: model.log_prob(key, state, {"x": x})))(keys)
        gap = log_evidence(x) - bounds.mean(0)
        error = 4 * float(gap.std()) / np.sqrt(len(x)) + 1e-3
        assert error < 0.2
        # What is missed is KL(q || the posterior): ½ (off / d)².
        precision = 1 / TRUE_STD**2 + (WEIGHT / NOISE) ** 2
        assert abs(float(gap.mean()) - 0.5 * off**2 * precision) < error


def test_samples_of_the_exact_model_have_its_mean_and_spread(monkeypatch):
    with jax.enable_x64(True):
        model, state = linear_gaussian(monkeypatch)
        z = jax.jit(model.latents.prior, static_argnums=2)(KEY, state, 4000)
        np.testing.assert_allclose(z.mean(), TRUE_MEAN, atol=0.15)
        np.testing.assert_allclose(z.std(), TRUE_STD, rtol=0.06)
        both = jax.jit(model.sample, static_argnums=2)(KEY, state, 4000)
        # The means spread as z does; what is drawn, as p(x): by the decoder's noise besides.
        of_means = WEIGHT * TRUE_STD
        for name, spread in (("mean", of_means), ("x", math.hypot(of_means, NOISE))):
            np.testing.assert_allclose(both[name].mean(), WEIGHT * TRUE_MEAN + SHIFT, atol=0.25)
            np.testing.assert_allclose(both[name].std(), spread, rtol=0.06)


# ------------------------------------------------------------------------------------ the stages


def bars(n=64):
    """Images of 8 x 8, a bar on the left (label 0) or at the right (1), some of it in noise."""
    label = jnp.arange(n, dtype=jnp.int32) % 2
    column = jnp.arange(8)
    bar = jnp.where(label[:, None] == 0, column < 3, column > 4)
    x = jnp.broadcast_to(bar[:, None, :, None], (n, 8, 8, 1)).astype(jnp.float32)
    flips = jax.random.bernoulli(KEY, 0.05, x.shape)
    return {"x": jnp.where(flips, 1 - x, x), "label": label}


PART = 100
"""Steps of each of the first two stages; the third has three times as many."""


def of_bars(first):
    network = Denoiser(width=32, blocks=1)
    return latent_diffusion.Config(
        first=first,
        vae=vae.Config(latents=4, widths=(32,), decoder="bernoulli"),
        vq_vae=vq_vae.Config(
            *(8, 3, (4, 8), 0),
            decoder="bernoulli",
            prior_width=8,
            prior_layers=1,
        ),
        diffusion=diffusion.Config(
            parametrisation="velocity",
            data_std=1.0,
            network=network,
            classes=2,
            sampling=SOLVER,
            average=0.95,
        ),
        first_steps=PART,
        measure_steps=PART,
    )


@pytest.fixture(scope="module", params=["vae", pytest.param("vq_vae", marks=pytest.mark.slow)])
def learnt_bars(request):
    """(config, model, the states after each stage)."""
    config = of_bars(request.param)
    model, batch = latent_diffusion.make(config, optax.adam(5e-3)), bars()
    state = jax.jit(model.init)(KEY, batch)

    @jax.jit
    def train(state, keys):
        return jax.lax.scan(lambda state, key: model.step(key, state, batch), state, keys)

    ends = []
    for part, stage in enumerate((0, 1, 2, 2, 2)):
        state, info = train(state, jax.random.split(jax.random.key(part), PART))
        said = info[("autoencoder/loss", "scale/log_prob", "diffusion/loss")[stage]]
        assert bool(jnp.isfinite(said.value).all()) and bool(said.said.all())
        assert set(np.asarray(info["stage"])) == {stage}
        ends.append(state)
    return config, model, (*ends[:2], ends[-1])


def alike(a, b):
    return all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


def test_a_stage_leaves_the_earlier_ones_untouched(learnt_bars):
    _, _, (coded, measured, done) = learnt_bars
    assert alike(coded.states[0], measured.states[0])
    assert alike(coded.states[0], done.states[0])
    assert alike(measured.states[1], done.states[1])
    assert not alike(coded.states[1], measured.states[1])
    assert not alike(measured.states[2], done.states[2])


def test_standardised_latents_have_mean_zero_and_variance_one(learnt_bars):
    config, _, (*_, done) = learnt_bars
    auto = latent_diffusion.AUTO_ENCODERS[config.first](config, optax.sgd(0.0))
    z = auto.draw(jax.random.key(7), done.states[0], bars())
    scale = eval_params(done.states[1])
    u = scale.standard(z)
    channels = u.reshape(-1, u.shape[-1])
    # Every channel of each; of the VAE by other draws of q than those measured.
    np.testing.assert_allclose(channels.mean(0), 0, atol=0.3)
    np.testing.assert_allclose(channels.std(0), 1, atol=0.2)
    np.testing.assert_allclose(scale.back(u), z, atol=1e-5)


def test_the_scale_is_the_mean_and_deviation_of_all_that_was_seen():
    parts = 3 + 2 * jax.random.normal(KEY, (5, 10, 4, 2))
    scale, sums = scales.start(KEY, {"x": parts[0]})
    for part in parts:
        new, info = scales.expect(KEY, scale, {"x": part})
        sums = jax.tree.map(jnp.add, sums, new)
        scale = scales.maximise(sums)
        assert info["log_prob"].shape == ()
    flat = np.asarray(parts).reshape(-1, 2)
    np.testing.assert_allclose(scale.mean, flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(scale.std, flat.std(0), rtol=1e-4)
    constant = jax.tree.map(lambda leaf: 3.0 * leaf, scales.Sums(*map(jnp.ones, [1] * 3)))
    assert float(scales.maximise(constant).std[0]) > 0


def test_a_sample_has_the_label_it_was_asked_for(learnt_bars):
    _, model, (*_, done) = learnt_bars
    sample = jax.jit(lambda key, label: model.sample(key, done, 100, {"label": label}))
    for label in (0, 1):
        drawn = sample(KEY, jnp.full(100, label))
        assert bool(jnp.all(drawn["label"] == label))
        x = drawn["x"]
        assert x.shape == (100, 8, 8, 1)
        right = x[:, :, 5:].mean((1, 2, 3)) > x[:, :, :3].mean((1, 2, 3))
        assert float(jnp.mean(right == label)) > 0.95


def test_latents_lead_back_to_the_data(learnt_bars):
    _, model, (*_, done) = learnt_bars
    batch = bars()
    z = jax.jit(model.latents.encode)(KEY, done, batch)
    back = jax.jit(model.latents.decode)(KEY, done, z)["x"]
    assert float(jnp.mean((back > 0.5) == batch["x"])) > 0.9
    drawn = jax.eval_shape(lambda: model.latents.prior(KEY, done, 3))
    assert drawn.shape == (3, *z.shape[1:])


def test_codes_may_come_first():
    """That they learn, by --slow."""
    model, batch = latent_diffusion.make(of_bars("vq_vae"), optax.adam(5e-3)), bars()
    assert model.log_prob is None
    assert set(model.measures) == {"distortion"}
    state = jax.eval_shape(model.init, KEY, batch)
    after, _ = jax.eval_shape(model.step, KEY, state, batch)
    shapes = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)
    assert shapes(after) == shapes(state)
    drawn = jax.eval_shape(lambda key, state: model.sample(key, state, 5), KEY, state)
    assert drawn["x"].shape == (5, *batch["x"].shape[1:])


def test_evidence_is_a_bound_of_the_vae_and_none_of_the_vq_vae(learnt_bars):
    config, model, (*_, done) = learnt_bars
    assert model.latents.space == REAL
    if config.first == "vq_vae":
        assert model.log_prob is None
        assert model.log_prob is None
        assert set(model.measures) == {"distortion"}
        return
    keys = jax.random.split(KEY, 20)
    batch = bars()
    mean = lambda of: float(jnp.mean(jax.jit(jax.vmap(lambda key: of(key, done, batch)))(keys)))
    # Two clusters of z, of which the diffusion is told which, and N(0, I) is not.
    assert mean(model.log_prob) > mean(model.measures["gaussian_prior"]) + 0.1
    with pytest.raises(DataError):
        model.sample(KEY, done, 4, {"label": 2})


# ---------------------------------------------------------------------------- begun from a VAE


def learnt_vae(batch, **fields):
    """A VAE of the bars that has learnt a little, as another run would hand it over."""
    model = vae.make(vae.Config(4, "mlp", (32,), decoder="bernoulli", **fields), optax.adam(5e-3))
    state = jax.jit(model.init)(KEY, batch)
    step = jax.jit(model.step)
    for i in range(20):
        state, _ = step(jax.random.key(i), state, batch)
    return model, state


@pytest.mark.parametrize("average", [pytest.param(0.0, marks=pytest.mark.slow), 0.9])
def test_a_latent_diffusion_begins_from_a_trained_vae(average):
    """The first stage is that VAE and stays it: its parameters, its bound, its decodings."""
    batch = bars()
    alone, learnt = learnt_vae(batch, average=average)
    config = of_bars("vae")
    config = dataclasses.replace(
        config,
        vae=dataclasses.replace(config.vae, average=average),
        first_steps=0,
        measure_steps=5,
    )
    model = latent_diffusion.make(config, optax.adam(5e-3))
    state = model.init(KEY, batch, autoencoder=eval_params(learnt))
    bound = jax.jit(alone.log_prob.__call__)(KEY, learnt, batch)
    step, stages = jax.jit(model.step), []
    for i in range(8):
        state, info = step(jax.random.key(i), state, batch)
        stages.append(int(info["stage"]))
    assert stages == 5 * [1] + 3 * [2]
    assert alike(eval_params(state.states[0]), eval_params(learnt))
    own = jax.jit(model.measures["gaussian_prior"].__call__)(KEY, state, batch)
    np.testing.assert_allclose(own, bound, rtol=1e-5)
    z = alone.latents.encode(KEY, learnt, batch)
    np.testing.assert_allclose(model.latents.encode(KEY, state, batch), z, rtol=1e-5, atol=1e-6)
    decoded, expected = model.latents.decode(KEY, state, z), alone.latents.decode(KEY, learnt, z)
    np.testing.assert_allclose(decoded["x"], expected["x"], rtol=1e-5, atol=1e-6)


def test_a_vae_that_does_not_fit_is_refused():
    batch = bars(8)
    model = latent_diffusion.make(of_bars("vae"), optax.adam(5e-3))
    wide = vae.make(vae.Config(4, "mlp", (48,), decoder="bernoulli"), optax.adam(5e-3))
    params = eval_params(jax.jit(wide.init)(KEY, batch))
    with pytest.raises(ConfigError, match=r"begin=.*48.*32"):
        model.init(KEY, batch, autoencoder=params)
    config = dataclasses.replace(of_bars("vae"), first_steps=0)
    with pytest.raises(ConfigError, match=r"--begin=autoencoder=WORKDIR"):
        latent_diffusion.make(config, optax.adam(5e-3)).init(KEY, batch)


@pytest.mark.parametrize(
    "fields",
    [
        {"first_steps": -1},
        {"measure_steps": 0},
        {"vae": vae.Config(classes=10)},
        {"diffusion": diffusion.Config(network=Denoiser("unet"))},
    ],
)
def test_what_cannot_be_is_refused(fields):
    with pytest.raises(ConfigError, match="latent_diffusion"):
        latent_diffusion.Config(**fields)
