"""The variational auto-encoder against closed forms, and its densities against stupid twins."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats
from sklearn.datasets import load_digits

from genjax_zoo import contract
from genjax_zoo.contract import ConfigError, DataError, Exactness
from genjax_zoo.learn.state import eval_params
from genjax_zoo.maths.inference import bounds, importance
from genjax_zoo.maths.probability import distributions
from genjax_zoo.models import vae

KEY = jax.random.key(0)
DIGITS = load_digits().data.astype(np.float32)  # 1797 images of 64 levels from 0 to 16
SCALED = jnp.asarray(DIGITS / 16)
LOG_SCALE = 64 * math.log(16)  # log p of the scaled digits is that of the raw ones plus this


def train(model, x, steps, batch_size=None, chunk=200, key=KEY):
    """`steps` steps on random batches of x (on all of x if no size is given), many a call."""

    @jax.jit
    def some(state, first):
        def one(state, i):
            key_rows, key_step = jax.random.split(jax.random.fold_in(key, i))
            rows = x
            if batch_size is not None:
                rows = x[jax.random.randint(key_rows, (batch_size,), 0, len(x))]
            return model.step(key_step, state, {"x": rows})

        return jax.lax.scan(one, state, first + jnp.arange(chunk))

    state = model.init(key, {"x": x})
    for first in range(0, steps, chunk):
        state, info = some(state, first)
    return state, info


# The densities, against scipy's


def test_bernoulli_is_scipys_and_sums_to_one():
    logits = jnp.array([-2.0, 0.3, 1.7])
    everything = jnp.array(list(np.ndindex(2, 2, 2)), jnp.float32)
    nats = distributions.bernoulli(everything, logits)
    p = 1 / (1 + np.exp(-np.asarray(logits)))
    np.testing.assert_allclose(nats, stats.bernoulli.logpmf(everything, p).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(jnp.exp(nats).sum(), 1, rtol=1e-6)


def test_bernoulli_is_finite_where_the_sigmoid_is_not_below_one():
    nats = distributions.bernoulli(jnp.array([0.0]), jnp.array([200.0]))
    np.testing.assert_allclose(nats, -200.0)


def test_gaussian_is_scipys():
    x, mean, log_std = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)
    twin = stats.norm.logpdf(x, mean, np.exp(log_std)).sum(-1)
    np.testing.assert_allclose(distributions.gaussian(x, mean, log_std), twin, rtol=1e-4)
    scalar = stats.norm.logpdf(x, 0.5, 2.0).sum(-1)
    np.testing.assert_allclose(distributions.gaussian(x, 0.5, math.log(2.0)), scalar, rtol=1e-4)


@pytest.mark.parametrize("prior", [(), (np.array([0.3, -1.0]), np.array([0.4, -0.2]))])
def test_kl_closed_form_against_monte_carlo(prior):
    mean, log_std = jnp.array([0.7, -0.4]), jnp.array([-0.5, 0.3])
    z = mean + jnp.exp(log_std) * jax.random.normal(KEY, (400_000, 2))
    log_ratio = distributions.gaussian(z, mean, log_std)
    log_ratio -= distributions.gaussian(z, *(prior or (0.0, 0.0)))
    error = 4 * float(log_ratio.std()) / math.sqrt(len(z))
    closed = float(distributions.gaussian_kl(mean, log_std, *prior))
    assert abs(closed - float(log_ratio.mean())) < error


# A linear VAE is probabilistic PCA, of which everything is known


def linear(latents, draws=64, **fields):
    fields = {"noise_std": 0.3, **fields}
    return vae.Config(
        latents=latents, widths=(), decoder="gaussian", importance_samples=draws, **fields
    )


def by_hand(params, x):
    """Exact log p(x) and exact ELBO of a linear VAE, [B] each, from its matrices, in float64."""
    x = np.asarray(x, np.float64).reshape(len(x), -1)
    enc, dec = (
        jax.tree.map(lambda a: np.asarray(a, np.float64), p["Dense_0"])
        for p in (params.encoder, params.decoder)
    )
    w, b, variance = dec["kernel"], dec["bias"], math.exp(2 * float(params.log_std))
    dims = x.shape[1]
    exact = stats.multivariate_normal(b, w.T @ w + variance * np.eye(dims)).logpdf(x)
    mean, log_std = np.split(x @ enc["kernel"] + enc["bias"], 2, axis=-1)
    # E_q ||x - Wz - b||² = ||x - Wμ - b||² + Σ_j σ_j² ||w_j||²
    squares = ((x - mean @ w - b) ** 2).sum(-1) + np.exp(2 * log_std) @ (w**2).sum(-1)
    reconstruction = -0.5 * (squares / variance + dims * math.log(2 * math.pi * variance))
    kl = 0.5 * (np.exp(2 * log_std) + mean**2 - 1 - 2 * log_std).sum(-1)
    return exact, reconstruction - kl


def ppca(x, latents):
    """The best mean log-likelihood of pPCA with 1/N covariance: Tipping & Bishop 1999, eq. 8."""
    x = np.asarray(x, np.float64)
    eigenvalues = np.linalg.eigvalsh(np.cov(x.T, bias=True))[::-1]
    kept, rest = eigenvalues[:latents], eigenvalues[latents:].mean()
    dims = x.shape[1]
    return -0.5 * (
        dims * math.log(2 * math.pi) + np.log(kept).sum() + (dims - latents) * math.log(rest) + dims
    )


@pytest.fixture(scope="module")
def linear_digits():
    """A linear VAE with two latents, trained on the 8x8 digits."""
    return learnt_linear(2, 2000)


def learnt_linear(latents, steps):
    model = vae.make(linear(latents), optax.adam(optax.cosine_decay_schedule(0.05, steps)))
    return model, train(model, SCALED, steps)[0]


def test_the_published_number_is_this_ppca():
    assert ppca(DIGITS, 2) == pytest.approx(-177.43997, abs=1e-4)
    assert ppca(DIGITS, 10) == pytest.approx(-159.99373, abs=1e-4)


def test_linear_vae_reaches_ppca_and_never_passes_it(linear_digits):
    _, state = linear_digits
    exact, elbo = by_hand(state.params, SCALED)
    best = ppca(DIGITS, 2) + LOG_SCALE
    assert best - 0.05 < elbo.mean() <= exact.mean() <= best


@pytest.mark.slow
def test_ten_latents_reach_ppca_too():
    _, state = learnt_linear(10, 8000)
    exact, elbo = by_hand(state.params, SCALED)
    best = ppca(DIGITS, 10) + LOG_SCALE
    assert best - 0.05 < elbo.mean() <= exact.mean() <= best


def test_log_prob_is_a_bound_whose_mean_is_the_elbo(linear_digits):
    model, state = linear_digits
    assert model.log_prob.exactness is Exactness.LOWER_BOUND
    x = SCALED[:40]
    _, elbo = by_hand(state.params, x)
    draws = jax.vmap(lambda k: model.log_prob(k, state, {"x": x}))(jax.random.split(KEY, 4000))
    error = 5 * draws.std(0) / math.sqrt(len(draws))
    assert np.all(np.abs(draws.mean(0) - elbo) < error)


def test_the_estimate_rises_with_draws_from_the_elbo_to_the_exact_value():
    x = SCALED[:100]
    models = {k: vae.make(linear(4, k), optax.adam(0.01)) for k in (1, 10, 150)}
    state, _ = train(models[1], x, 200)  # far from the optimum, so the bounds lie apart
    exact, elbo = by_hand(state.params, x)
    means, errors = {}, {}
    for k, model in models.items():
        assert model.measures["iwae"].exactness is Exactness.ESTIMATE
        each = jax.vmap(lambda key, model=model: model.measures["iwae"](key, state, {"x": x}))
        values = jax.jit(each)(jax.random.split(KEY, 100)).mean(axis=1)
        means[k], errors[k] = values.mean(), 4 * values.std() / math.sqrt(len(values))
    assert abs(means[1] - elbo.mean()) < errors[1]  # K = 1 is the ELBO
    assert elbo.mean() + 0.1 < means[10] < means[150] < exact.mean() + errors[150]
    assert means[150] == pytest.approx(exact.mean(), abs=0.2)


def test_chunks_of_draws_add_up_to_the_stupid_sum(monkeypatch):
    """Seven draws in chunks of 3 (the last one not full) are seven weights, added in one line.

    σ is wide, so that no one weight outweighs the rest.
    """
    monkeypatch.setattr(importance, "estimate", functools.partial(importance.estimate, chunk=3))
    x = SCALED[:5]
    model = vae.make(linear(3, 7, noise_std=4.0), optax.adam(1e-3))
    state = model.init(KEY, {"x": x})
    enc, dec = state.params.encoder["Dense_0"], state.params.decoder["Dense_0"]
    mean, log_std = np.split(x @ enc["kernel"] + enc["bias"], 2, axis=-1)
    noise = [jax.random.normal(jax.random.fold_in(KEY, c), (3, 5, 3)) for c in range(3)]
    z = mean + np.exp(log_std) * np.concatenate(noise)[:7]
    log_w = stats.norm.logpdf(x, z @ dec["kernel"] + dec["bias"], 4.0).sum(-1)
    log_w += stats.norm.logpdf(z).sum(-1) - stats.norm.logpdf(z, mean, np.exp(log_std)).sum(-1)
    stupid = np.log(np.exp(log_w - log_w.max(0)).mean(0)) + log_w.max(0)
    np.testing.assert_allclose(model.measures["iwae"](KEY, state, {"x": x}), stupid, rtol=1e-5)


@pytest.mark.parametrize("log_std", [-20.0, -100.0])
def test_a_posterior_of_almost_no_width_has_an_estimate(log_std):
    """log w = log p(x, μ) + Σ_j [½ ε_j² + log σ + ½ log 2π], and nothing of it is NaN."""
    x, draws = SCALED[:5], 7
    model = vae.make(linear(3, draws, noise_std=4.0), optax.adam(1e-3))
    state = model.init(KEY, {"x": x})
    enc, dec = state.params.encoder["Dense_0"], state.params.decoder["Dense_0"]
    narrow = {
        "kernel": enc["kernel"].at[:, 3:].set(0),
        "bias": enc["bias"].at[3:].set(log_std),
    }
    state = state.replace(params=state.params.replace(encoder={"Dense_0": narrow}))
    mean = x @ enc["kernel"][:, :3] + enc["bias"][:3]
    noise = np.asarray(jax.random.normal(jax.random.fold_in(KEY, 0), (draws, 5, 3)))
    log_w = 0.5 * (noise**2).sum(-1) + 3 * (log_std + 0.5 * np.log(2 * np.pi))
    at_mean = stats.norm.logpdf(x, mean @ dec["kernel"] + dec["bias"], 4.0).sum(-1)
    at_mean += stats.norm.logpdf(mean).sum(-1)
    stupid = np.log(np.exp(log_w).mean(0) / np.exp(log_w[0])) + log_w[0] + at_mean
    np.testing.assert_allclose(model.measures["iwae"](KEY, state, {"x": x}), stupid, rtol=1e-5)
    assert np.all(np.isfinite(model.log_prob(KEY, state, {"x": x})))


# The objectives


def gradients(fields, keys, x, params=None):
    """The steps of sgd(1) from one state, for every key: a pytree of [keys, ...], and the info."""
    model = vae.make(linear(3, **fields), optax.sgd(1.0))
    state = model.init(KEY, {"x": x})
    if params is not None:
        state = state.replace(params=params)

    def one(key):
        after, info = model.step(key, state, {"x": x})
        return jax.tree.map(lambda old, new: old - new, state.params, after.params), info

    return jax.jit(jax.vmap(one))(keys)


def agree_in_the_mean(one, other, errors=5):
    """Two pytrees of draws [n, ...] have means that differ by no more than chance."""
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        chance = errors * jnp.sqrt((a.var(0) + b.var(0)) / len(a)) + 1e-4 * jnp.abs(b).mean()
        assert jnp.all(jnp.abs(a.mean(0) - b.mean(0)) <= chance)


FEW = SCALED[:4, 20:30]
KEYS = jax.random.split(jax.random.key(7), 4000)


def test_the_bound_of_one_sample_has_the_elbos_gradient():
    of_elbo, _ = gradients({"noise_std": 1.0}, KEYS, FEW)
    of_iwae, _ = gradients({"noise_std": 1.0, "objective": "iwae"}, KEYS, FEW)
    agree_in_the_mean(of_iwae, of_elbo)


def test_a_second_reparameterisation_changes_no_gradient_in_the_mean():
    fields = {"noise_std": 1.0, "training_samples": 5}
    once, info = gradients({**fields, "objective": "iwae"}, KEYS, FEW)
    twice, again = gradients({**fields, "objective": "dreg"}, KEYS, FEW)
    np.testing.assert_allclose(info["loss"], again["loss"], rtol=1e-5)
    for own in ("decoder", "log_std"):  # θ's is the same in every draw.
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
            *(getattr(once, own), getattr(twice, own)),
        )
    agree_in_the_mean(once.encoder, twice.encoder)
    # ... and one that fluctuates less.
    spread = lambda g: sum(float(leaf.var(0).sum()) for leaf in jax.tree.leaves(g.encoder))
    assert spread(twice) < spread(once)


def test_beta_one_and_no_free_bits_are_the_plain_loss():
    key = KEYS[:1]
    plain, of_plain = gradients({}, key, FEW)
    for fields in ({"beta": 1.0, "free_bits": 0.0}, {"training_samples": 1}, {"free_bits": 1e-9}):
        same, info = gradients(fields, key, FEW)
        np.testing.assert_allclose(info["loss"], of_plain["loss"], rtol=1e-6)
        for a, b in zip(jax.tree.leaves(same), jax.tree.leaves(plain), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5)
    _, info = gradients({"beta": 3.0}, key, FEW)
    np.testing.assert_allclose(
        info["loss"], 3 * of_plain["kl"] - of_plain["reconstruction"], rtol=1e-5
    )


def test_free_bits_are_free():
    """λ above every KL: the loss holds λ for each dimension, and the KL has no gradient."""
    _, info = gradients({"free_bits": 50.0}, KEYS[:1], FEW)
    np.testing.assert_allclose(info["loss"], 3 * 50.0 - info["reconstruction"], rtol=1e-5)
    free, _ = gradients({"free_bits": 50.0}, KEYS[:1], FEW)
    none, _ = gradients({"beta": 0.0}, KEYS[:1], FEW)
    for a, b in zip(jax.tree.leaves(free), jax.tree.leaves(none), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    # Between the least and the largest: each dimension by itself, over the batch's mean.
    kl = jnp.array([[0.0, 1.0, 4.0], [0.4, 3.0, 0.0]])
    np.testing.assert_allclose(bounds.free_bits(kl, 0.5), 0.5 + 2.0 + 2.0)
    np.testing.assert_allclose(bounds.free_bits(-kl, 0.0), -(0.2 + 2.0 + 2.0))


def test_the_kl_warms_up_step_by_step():
    model = vae.make(linear(2, beta=4.0, warmup_steps=4), optax.sgd(1e-5))
    state = model.init(KEY, {"x": FEW})
    step = jax.jit(model.step)
    for expected in (0.0, 1.0, 2.0, 3.0, 4.0, 4.0):
        state, info = step(KEY, state, {"x": FEW})
        assert float(info["beta"]) == expected
        loss = expected * info["kl"] - info["reconstruction"]
        np.testing.assert_allclose(info["loss"], loss, rtol=1e-5)


# A posterior that ends in a flow


@pytest.mark.parametrize("given", [0, 3])
def test_the_flow_is_a_bijection_of_that_jacobian(given):
    flow = vae.posterior_flow(3, 16)
    z = jax.random.normal(KEY, (6, 4))
    h = jax.random.normal(jax.random.key(1), (6, given)) if given else None
    params = flow.init(KEY, z, h)
    params = jax.tree.map(lambda p: p + 0.3 * jax.random.normal(KEY, p.shape), params)

    @jax.jit
    def found(z, h):
        end, log_det = flow.forward(params, z, h)
        alone = lambda z, h: flow.forward(params, z[None], None if h is None else h[None])[0][0]
        jacobians = jax.vmap(jax.jacobian(alone), (0, None if h is None else 0))(z, h)
        return log_det, flow.inverse(params, end, h), jnp.linalg.slogdet(jacobians)[1]

    log_det, (back, log_det_back), stupid = found(z, h)
    np.testing.assert_allclose(back, z, atol=1e-4)
    np.testing.assert_allclose(log_det_back, -log_det, atol=1e-4)
    np.testing.assert_allclose(stupid, log_det, atol=1e-5)


def test_the_estimate_is_the_exact_value_whatever_the_posterior():
    """A flow bends q(z | x), which changes the bound and leaves log p(x) alone."""
    x = SCALED[:20]
    model = vae.make(linear(3, 4000, noise_std=1.0, flow_steps=2, flow_width=8), optax.sgd(0.1))
    state = model.init(KEY, {"x": x})
    dec = jax.tree.map(lambda a: np.asarray(a, np.float64), state.params.decoder["Dense_0"])
    cov = dec["kernel"].T @ dec["kernel"] + math.exp(2 * float(state.params.log_std)) * np.eye(64)
    exact = stats.multivariate_normal(dec["bias"], cov).logpdf(np.asarray(x, np.float64))
    estimate = jax.jit(lambda: model.measures["iwae"](KEY, state, {"x": x}))()
    np.testing.assert_allclose(estimate, exact, atol=0.3)
    elbo = jax.jit(jax.vmap(lambda k: model.log_prob(k, state, {"x": x})))(KEYS[:500])
    assert np.all(elbo.mean(0) < exact + 5 * elbo.std(0) / math.sqrt(500))


# Labels


@pytest.mark.parametrize("network", ["mlp", pytest.param("conv", marks=pytest.mark.slow)])
def test_a_model_of_labels_draws_what_is_given(network):
    """Two classes, of black images and of white ones."""
    label = jnp.arange(40, dtype=jnp.int32) % 2
    x = jnp.broadcast_to(label[:, None, None, None], (40, 8, 8, 1)).astype(jnp.float32)
    batch = {"x": x, "label": label}
    config = vae.Config(
        decoder="bernoulli", latents=2, widths=(8,), network=network, classes=2, activation="relu"
    )
    model = vae.make(config, optax.adam(0.02))
    state, step = model.init(KEY, batch), jax.jit(model.step)
    for i in range(300):
        state, _ = step(jax.random.key(i), state, batch)

    @jax.jit
    def found(state):
        drawn = model.sample(KEY, state, 40, {"label": label})
        any_of_them = model.sample(KEY, state, 40)
        right = model.log_prob(KEY, state, batch)
        wrong = model.log_prob(KEY, state, {**batch, "label": 1 - label})
        latents = model.latents.encode(KEY, state, batch)
        decoded = model.latents.decode(KEY, state, latents)["x"]
        return drawn, any_of_them, right - wrong, latents, decoded

    drawn, any_of_them, gain, latents, decoded = found(state)
    assert jnp.all(drawn["label"] == label)
    assert jnp.mean(jnp.abs(drawn["x"] - x)) < 0.1
    assert set(np.unique(any_of_them["label"])) == {0, 1}
    white = any_of_them["x"].mean((1, 2, 3))
    assert jnp.mean(jnp.abs(white - any_of_them["label"])) < 0.1
    assert jnp.all(gain > 10)
    assert latents.shape == (40, 2 + 2)
    assert jnp.mean(jnp.abs(decoded - x)) < 0.1


def test_labels_that_are_missing_or_beyond_the_classes_are_refused():
    model = vae.make(vae.Config(latents=2, widths=(4,), classes=3), optax.sgd(0.1))
    batch = {"x": UNIT[:3], "label": jnp.array([0, 1, 2])}
    state = model.init(KEY, batch)
    assert model.spaces["label"].size == 3
    with pytest.raises(DataError, match="labelled"):
        model.init(KEY, {"x": UNIT[:3]})
    with pytest.raises(DataError, match="classes"):
        model.log_prob(KEY, state, {**batch, "label": jnp.array([0, 1, 3])})
    with pytest.raises(DataError, match=r"label should be integers 0 \.\. 2, .* and 3 is none"):
        model.sample(KEY, state, 2, {"label": 3})
    with pytest.raises(DataError, match="classes"):
        vae.make(vae.Config(), optax.sgd(0.1)).sample(KEY, state, 2, {"label": 0})


# The verbs, over decoders and networks

UNIT = SCALED.reshape(-1, 8, 8, 1)
BINARY = (UNIT > 0.5).astype(jnp.float32)
CASES = {
    "bernoulli, averaged": (BINARY, {"decoder": "bernoulli", "average": 0.95}),
    "bernoulli, conv": (BINARY, {"decoder": "bernoulli", "network": "conv", "widths": (8, 16)}),
    "scalar variance": (UNIT, {"mean": "sigmoid", "noise_std": 0.3}),
    "diagonal variance": (UNIT, {"variance": "diagonal"}),
    "fixed variance": (UNIT, {"variance": "fixed", "noise_std": 0.25}),
    "variance of the network": (UNIT, {"variance": "network", "noise_std": 0.3}),
    "categorical, conv": (
        UNIT,
        {"decoder": "categorical", "levels": 17, "network": "conv", "widths": (8, 16)},
    ),
    "flow": (BINARY, {"decoder": "bernoulli", "flow_steps": 2, "flow_width": 8}),
    "logit-Laplace": (UNIT, {"decoder": "logit_laplace", "noise_std": 0.5}),
    "gaussian, conv": (UNIT, {"network": "conv", "widths": (8, 16), "activation": "relu"}),
}


SPARED = {
    "bernoulli, conv",
    "scalar variance",
    "diagonal variance",
    "fixed variance",
    "gaussian, conv",
}
"""By --slow: the decoder is also another network's, the network another decoder's."""


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in SPARED else []) for n in CASES]
)
def test_every_decoder_and_network_learns_and_keeps_shapes(name):
    x, fields = CASES[name]
    config = vae.Config(**{"latents": 4, "widths": (32,), "importance_samples": 5, **fields})
    model = vae.make(config, optax.adam(3e-3))
    before = model.init(KEY, {"x": x})
    state, _ = train(model, x, 200, batch_size=50, chunk=50)
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, before)
    held = {"x": x[:100]}

    @jax.jit
    def measured(state):
        latents = model.latents.encode(KEY, state, held)
        estimate = model.measures["iwae"](KEY, state, held)
        decoded = model.latents.decode(KEY, state, latents)["x"]
        return model.log_prob(KEY, state, held), estimate, latents, decoded

    untaught = measured(before)[0]
    elbo, estimate, latents, decoded = measured(state)
    assert elbo.shape == estimate.shape == (100,) and elbo.mean() > untaught.mean() + 1
    assert abs(estimate.mean() - elbo.mean()) < 5
    assert latents.shape == (100, 4) and decoded.shape == (100, 8, 8, 1)
    assert jnp.mean((decoded - held["x"]) ** 2) < jnp.var(held["x"])
    both = jax.jit(model.sample, static_argnums=2)(KEY, state, 7)
    for name, drawn in both.items():
        assert drawn.shape == (7, 8, 8, 1) and drawn.dtype == x.dtype
        if config.decoder == "bernoulli" or (name == "mean" and config.mean == "sigmoid"):
            assert drawn.min() >= 0 and drawn.max() <= 1
    if config.levels == 17:
        assert jnp.all(contract.UNIT.of(17).has(both["x"]))
    if config.decoder == "bernoulli":
        assert set(np.unique(both["x"])) <= {0.0, 1.0} and len(np.unique(both["mean"])) > 2


def test_draws_are_the_means_and_the_noise():
    """With one z the draws of p(x | z) scatter around the mean as σ says."""
    config = vae.Config(variance="fixed", noise_std=0.5, widths=())
    model = vae.make(config, optax.sgd(0.1))
    state = model.init(KEY, {"x": UNIT})
    both = model.sample(KEY, state, 400)
    means, draws = both["mean"], both["x"]
    plain = vae.make(dataclasses.replace(config, sample_means=False), optax.sgd(0.1))
    alone = plain.sample(KEY, state, 400)
    assert set(alone) == {"x"} and jnp.array_equal(alone["x"], draws)
    assert float((draws - means).std()) == pytest.approx(0.5, rel=0.02)
    assert abs(float((draws - means).mean())) < 0.02


def test_without_encode_means_encode_draws_of_q():
    """z ~ N(μ, σ²) of a linear encoder, whose mean is what `encode` returns by default."""
    config = linear(3)
    model, drawing = (
        vae.make(dataclasses.replace(config, encode_means=means), optax.sgd(0.1))
        for means in (True, False)
    )
    batch = {"x": SCALED[:5]}
    state = model.init(KEY, batch)
    enc = state.params.encoder["Dense_0"]
    mean, log_std = np.split(batch["x"] @ enc["kernel"] + enc["bias"], 2, axis=-1)
    np.testing.assert_allclose(model.latents.encode(KEY, state, batch), mean, rtol=1e-4, atol=1e-5)
    z = jax.jit(jax.vmap(lambda k: drawing.latents.encode(k, state, batch)))(KEYS)
    error = 5 * np.exp(log_std) / math.sqrt(len(KEYS))
    assert np.all(np.abs(z.mean(0) - mean) < error)
    np.testing.assert_allclose(z.std(0), np.exp(log_std), rtol=0.08)


@pytest.mark.parametrize("decoder", ["discretised_logistic", "categorical"])
def test_bits_are_the_nats_of_all_images_over_all_dimensions(decoder):
    model = vae.make(
        vae.Config(latents=2, widths=(), decoder=decoder, levels=17, importance_samples=3),
        optax.sgd(0.1),
    )
    batch = {"x": UNIT[:5]}
    state = model.init(KEY, batch)
    nats, bits = model.measures["iwae"], model.measures["bits"]
    assert (bits.unit, bits.better, bits.exactness) == ("bits/dim", "lower", Exactness.ESTIMATE)
    total = bits(KEY, state, batch).sum() / bits.per(batch).sum()
    stupid = -nats(KEY, state, batch).mean() / math.log(2) / 64
    assert float(total) == pytest.approx(float(stupid), rel=1e-5)
    assert 0 < float(total) < math.log2(17) + 1


# What was learnt elsewhere


def digits_of(*labels):
    """Binarised images of those digits."""
    return BINARY[np.isin(load_digits().target, labels)]


@pytest.fixture(scope="module")
def fine_tuned():
    """A VAE of the digits 0 to 5, with a moving average, and one begun from it, of the others."""
    config = vae.Config(decoder="bernoulli", latents=8, widths=(64,), average=0.9)
    model = vae.make(config, optax.adam(3e-3))
    origin, _ = train(model, digits_of(0, 1, 2, 3, 4, 5), 1000, batch_size=100)
    x = digits_of(6, 7, 8, 9)
    return model, origin, model.init(KEY, {"x": x}, params=eval_params(origin)), x


def test_a_begun_model_has_the_others_parameters_and_a_fresh_optimizer(fine_tuned):
    model, origin, begun, x = fine_tuned
    fresh = model.init(KEY, {"x": x})
    jax.tree.map(np.testing.assert_array_equal, begun.params, eval_params(origin))
    jax.tree.map(np.testing.assert_array_equal, begun.optimizer, fresh.optimizer)
    jax.tree.map(np.testing.assert_array_equal, begun.average, fresh.average)
    assert jax.tree.structure(begun) == jax.tree.structure(fresh)
    moments = sum(float(jnp.abs(leaf).sum()) for leaf in jax.tree.leaves(origin.optimizer))
    assert moments > 1, "the other's optimizer is as fresh: nothing was tested"


def test_a_begun_model_begins_at_the_others_bound(fine_tuned):
    model, origin, begun, x = fine_tuned
    log_prob = jax.jit(model.log_prob.value)
    own, others = (log_prob(KEY, state, {"x": x}) for state in (begun, origin))
    np.testing.assert_array_equal(own, others)


def test_what_was_learnt_elsewhere_helps_on_other_data(fine_tuned):
    """After as few steps on digits that the other never saw, from its parameters and from none."""
    model, origin, begun, x = fine_tuned
    log_prob = jax.jit(lambda state: model.log_prob(KEY, state, {"x": x}).mean())
    step = jax.jit(model.step)
    fresh = model.init(KEY, {"x": x})
    for i in range(50):
        begun, fresh = (step(jax.random.key(i), state, {"x": x})[0] for state in (begun, fresh))
    assert log_prob(begun) > log_prob(origin) + 1
    assert log_prob(begun) > log_prob(fresh) + 1


@pytest.mark.parametrize(
    ("fields", "array"),
    [
        ({"widths": (32,)}, r"\.encoder\['Dense_0'\]\['bias'\] is \[64\] there"),
        ({"latents": 3}, r"\.encoder\['Dense_1'\]\['bias'\] is \[16\] there"),
        ({"decoder": "gaussian"}, r"\.log_std is absent there"),
    ],
)
def test_a_model_of_another_width_is_refused(fine_tuned, fields, array):
    _, origin, _, x = fine_tuned
    own = {"decoder": "bernoulli", "latents": 8, "widths": (64,), **fields}
    other = vae.make(vae.Config(**own), optax.adam(3e-3))
    with pytest.raises(ConfigError, match=array) as refused:
        other.init(KEY, {"x": x}, params=eval_params(origin))
    assert str(refused.value).startswith("--begin=params: ")


# What is refused


def test_grey_values_are_no_bernoulli_data():
    model = vae.make(vae.Config(decoder="bernoulli"), optax.adam(1e-3))
    assert str(model.spaces["x"].kind) == "binary"  # A run refuses others before it starts.
    state = jax.jit(model.init)(KEY, {"x": BINARY})
    numbers = jax.jit(
        lambda x: (
            model.log_prob(KEY, state, {"x": x}),
            model.measures["iwae"](KEY, state, {"x": x}),
        )
    )
    assert all(jnp.all(nats == -jnp.inf) for nats in numbers(UNIT[:3]))
    assert all(jnp.all(jnp.isfinite(nats)) for nats in numbers(BINARY[:3]))


def test_convolutions_need_images():
    model = vae.make(vae.Config(network="conv", widths=(4,)), optax.adam(1e-3))
    with pytest.raises(ConfigError, match="mlp"):
        model.init(KEY, {"x": SCALED[:3]})


@pytest.mark.parametrize(
    "fields",
    [
        {"latents": 0},
        {"importance_samples": 0},
        {"widths": (10, 0)},
        {"noise_std": 0.0},
        {"average": 1.0},
        {"network": "conv", "widths": ()},
        {"activation": "tnah"},
        {"decoder": "categorical", "levels": 1},
        {"training_samples": 0},
        {"beta": -1.0},
        {"warmup_steps": -1},
        {"free_bits": 0.1, "objective": "iwae"},
        {"flow_steps": 1, "objective": "dreg"},
        {"classes": -1},
    ],
)
def test_bad_configs_are_refused(fields):
    with pytest.raises(ConfigError):
        vae.Config(**fields)
