"""The diffusion model, with a network that is exact: what is left are the formulas around it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax_zoo.contract import ConfigError, DataError, Evidence
from genjax_zoo.models import diffusion
from genjax_zoo.nets import DENOISERS, Denoiser, Net, denoiser
from genjax_zoo.samplers import Config as Sampling
from genjax_zoo.sde import PROCESSES

KEY = jax.random.key(0)
MEANS = np.array([[-1.0, 0.5], [1.0, 0.0], [0.2, -1.2]])
STD = 0.3


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def density(x):
    """log p of three Gaussians [B]."""
    square = jnp.sum((x[:, None] - MEANS) ** 2, -1) / STD**2
    return jax.nn.logsumexp(-0.5 * square, -1) - jnp.log(3 * 2 * jnp.pi * STD**2)


def draws(key, n):
    key_which, key_noise = jax.random.split(key)
    which = jax.random.randint(key_which, (n,), 0, 3)
    return jnp.asarray(MEANS)[which] + STD * jax.random.normal(key_noise, (n, 2))


def exact_network(wrong=0.0, data_std=0.5):
    """E[x | x_t] of the mixture, from what the network is shown; off by `wrong` times x_t."""

    def apply(params, shown, clock, label):
        # The clock is 1000 / (1 + exp(λ / 4)), and the process preserves variance.
        log_snr = (4 * jnp.log(1000 / clock - 1))[:, None]
        alpha2, sigma2 = jax.nn.sigmoid(log_snr), jax.nn.sigmoid(-log_snr)
        x_t = shown * jnp.sqrt(alpha2 * data_std**2 + sigma2)
        alpha, v = jnp.sqrt(alpha2), alpha2 * STD**2 + sigma2
        apart = x_t[:, None] - alpha[:, None] * MEANS
        which = jax.nn.softmax(-0.5 * jnp.sum(apart**2, -1) / v, -1)
        each = MEANS + (alpha * STD**2 / v)[:, None] * apart
        return jnp.sum(which[..., None] * each, 1) + wrong * x_t

    return Net(lambda key, *inputs: jnp.zeros(()), apply)


def known(monkeypatch, wrong=0.0, **fields):
    monkeypatch.setattr(diffusion.nets, "denoiser", lambda *a, **k: exact_network(wrong))
    config = diffusion.Config(parametrisation="data", **fields)
    model = diffusion.make(config, optax.sgd(0.0))
    return model, model.init(KEY, {"x": draws(KEY, 4)})


def test_the_ode_s_log_density_is_the_exact_one(monkeypatch):
    model, state = known(monkeypatch, probes=0, ode_steps=400)
    assert model.evidence is Evidence.ESTIMATE
    x = draws(jax.random.key(1), 30)
    got = jax.jit(model.log_prob)(KEY, state, {"x": x})
    # α(1) is .0066: a little of the data is left at the end.
    np.testing.assert_allclose(got, density(x), atol=1e-2)
    # With the true density there, nothing but the solver's error is left.
    process = PROCESSES["variance_preserving"]()
    alpha, sigma = (float(f(jnp.asarray(1.0))) for f in (process.alpha, process.sigma))
    end = jax.jit(model.encode)(KEY, state, {"x": x}) * sigma
    v = alpha**2 * STD**2 + sigma**2
    square = jnp.sum((end[:, None] - alpha * MEANS) ** 2, -1) / v
    true = jax.nn.logsumexp(-0.5 * square, -1) - jnp.log(3 * 2 * jnp.pi * v)
    taken = -0.5 * jnp.sum((end / sigma) ** 2, -1) - jnp.log(2 * jnp.pi * sigma**2)
    np.testing.assert_allclose(got - taken + true, density(x), atol=1e-3)


def test_hutchinson_s_trace_is_unbiased(monkeypatch):
    model, state = known(monkeypatch, probes=1, ode_steps=30)
    exact, _ = known(monkeypatch, probes=0, ode_steps=30)
    x = draws(jax.random.key(1), 5)
    keys = jax.random.split(KEY, 400)
    many = jax.jit(jax.vmap(lambda k: model.log_prob(k, state, {"x": x})))(keys)
    error = 4 * many.std(0) / np.sqrt(len(keys)) + 1e-6
    assert bool(jnp.all(jnp.abs(many.mean(0) - exact.log_prob(KEY, state, {"x": x})) < error))
    assert float(many.std()) > 0.01


@pytest.mark.parametrize("wrong", [0.0, 0.05])
def test_the_bound_is_met_by_the_exact_score_and_missed_by_another(monkeypatch, wrong):
    """With the true score the reverse process is the forward one run back, and nothing is lost."""
    model, state = known(monkeypatch, wrong, bound_samples=200)
    x = draws(jax.random.key(1), 200)
    gap = density(x) - jax.jit(model.measures["bound"].__call__)(KEY, state, {"x": x})
    error = 4 * float(gap.std()) / np.sqrt(len(x)) + 1e-3
    assert model.measures["bound"].evidence is Evidence.LOWER_BOUND
    if wrong:
        assert float(gap.mean()) > error + 0.05
    else:
        assert abs(float(gap.mean())) < error


def test_latents_are_normal_and_lead_back(monkeypatch):
    model, state = known(monkeypatch, ode_steps=300)
    x = draws(jax.random.key(1), 2000)
    latents = jax.jit(model.encode)(KEY, state, {"x": x})
    back = jax.jit(model.decode)(state, latents)["x"]
    np.testing.assert_allclose(back, x, atol=5e-3)
    np.testing.assert_allclose(latents.mean(0), 0, atol=4 / np.sqrt(2000))
    np.testing.assert_allclose(jnp.cov(latents.T), np.eye(2), atol=0.13)


@pytest.mark.parametrize("name", ["ancestral", "ddim", "heun", "dpm_solver", "reverse_sde"])
def test_every_sampler_finds_the_three_gaussians(monkeypatch, name):
    sampling = Sampling(name=name, grid="even_in_log_snr", steps=60)
    model, state = known(monkeypatch, sampling=sampling)
    x = jax.jit(model.sample, static_argnums=2)(KEY, state, 3000)["x"]
    apart = jnp.linalg.norm(x[:, None] - MEANS, axis=-1)
    share = np.bincount(np.asarray(jnp.argmin(apart, -1)), minlength=3) / len(x)
    np.testing.assert_allclose(share, 1 / 3, atol=0.05)
    near = x - jnp.asarray(MEANS)[jnp.argmin(apart, -1)]
    assert float(near.std()) == pytest.approx(STD, rel=0.1)


def labelled(n=64):
    label = jnp.arange(n, dtype=jnp.int32) % 2
    x = jnp.where(label == 0, -1.0, 1.0)[:, None] + 0.1 * jax.random.normal(KEY, (n, 1))
    return {"x": x.astype(jnp.float32), "label": label}


def conditional(**fields):
    config = diffusion.Config(
        network=Denoiser(width=32, blocks=1),
        classes=2,
        sampling=Sampling(name="dpm_solver", grid="even_in_log_snr", steps=15),
        average=0.0,
        **fields,
    )
    return diffusion.make(config, optax.adam(1e-2))


def test_labels_are_learnt_and_guidance_follows_them():
    with jax.enable_x64(False):
        model, batch = conditional(), labelled()
        state = model.init(KEY, batch)

        @jax.jit
        def train(state):
            step = lambda state, key: model.step(key, state, batch)
            return jax.lax.scan(step, state, jax.random.split(KEY, 500))

        state, info = train(state)
        assert bool(jnp.isfinite(info["loss"]).all())
        for m in (model, conditional(guidance=1.0)):
            for label, want in ((0, -1.0), (1, 1.0)):
                drawn = m.sample(KEY, state, 200, label=label)
                assert bool(jnp.all(drawn["label"] == label))
                assert float(jnp.mean(jnp.sign(drawn["x"]) == want)) > 0.95
        mixed = model.sample(KEY, state, 400)
        assert 0.3 < float(jnp.mean(mixed["x"] > 0)) < 0.7


def test_a_label_that_does_not_exist_is_refused():
    with jax.enable_x64(False):
        model = conditional()
        state = model.init(KEY, labelled())
        with pytest.raises(DataError, match=r"0 \.\. 1"):
            model.sample(KEY, state, 4, label=2)


@pytest.mark.parametrize("name", DENOISERS)
@pytest.mark.parametrize("told", ["nothing", "label", "words"])
def test_networks_are_silent_at_first_and_hear_what_they_are_told(name, told):
    with jax.enable_x64(False):
        config = Denoiser(name, width=16, multiples=(1, 2), blocks=1, attention=(4,), patch=1)
        shape = (3, 2) if name == "mlp" else (3, 7, 7, 1)
        x, t = jax.random.normal(KEY, shape), jnp.linspace(1.0, 900.0, 3)
        condition = {
            "nothing": None,
            "label": jnp.array([0, 1, 4]),
            "words": jax.random.normal(KEY, (3, 5, 6)),
        }[told]
        net = denoiser(config, classes=4 if told == "label" else 0)
        params = jax.jit(net.init)(KEY, x, t, condition)
        assert bool(jnp.all(jax.jit(net.apply)(params, x, t, condition) == 0))
        # Any other weights.
        keys = iter(jax.random.split(KEY, len(jax.tree.leaves(params))))
        stirred = jax.tree.map(lambda w: w + 0.1 * jax.random.normal(next(keys), w.shape), params)
        apply = jax.jit(net.apply)
        y = apply(stirred, x, t, condition)
        assert y.shape == x.shape
        assert float(jnp.abs(apply(stirred, x, t + 50, condition) - y).max()) > 1e-4
        if condition is not None:
            other = condition[::-1]
            assert float(jnp.abs(apply(stirred, x, t, other) - y)[0].max()) > 1e-4
        # No example sees another.
        alone = apply(stirred, x[:1], t[:1], None if condition is None else condition[:1])
        np.testing.assert_allclose(alone, y[:1], atol=1e-4)


@pytest.mark.parametrize(
    "fields",
    [
        {"process": "variance_preservin"},
        {"parametrisation": "nois"},
        {"weighting": "x"},
        {"ode_steps": 0},
        {"guidance": 1.0},
        {"classes": 3, "guidance": 1.0, "unconditional": 0.0},
        {"average": 1.0},
        {"data_std": 0.0},
    ],
)
def test_bad_configs_are_refused(fields):
    with pytest.raises(ConfigError):
        diffusion.Config(**fields)


@pytest.mark.parametrize("fields", [{"name": "eulr"}, {"steps": 0}, {"eta": 2.0}, {"grid": "x"}])
def test_bad_sampling_is_refused(fields):
    with pytest.raises(ConfigError):
        Sampling(**fields)
