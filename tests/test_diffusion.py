"""The diffusion model, with a network that is exact: what is left are the formulas around it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax_zoo.contract import REAL, ConfigError, DataError, Exactness, categorical
from genjax_zoo.maths.diffusion import denoising, guidance, likelihood, ode, samplers, sde
from genjax_zoo.maths.diffusion.denoising import Prediction
from genjax_zoo.maths.diffusion.samplers import Config as Sampling
from genjax_zoo.maths.diffusion.sde import PROCESSES
from genjax_zoo.models import diffusion
from genjax_zoo.nets import DENOISERS, Denoiser, Net, Text, denoiser
from genjax_zoo.typed import typed

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
    model, state = known(monkeypatch, probes=0, ode_steps=60)
    assert model.log_prob.exactness is Exactness.ESTIMATE
    x = draws(jax.random.key(1), 30)
    got = jax.jit(model.log_prob.__call__)(KEY, state, {"x": x})
    # α(1) is .0066: a little of the data is left at the end.
    np.testing.assert_allclose(got, density(x), atol=1e-2)
    # With the true density there, nothing but the solver's error is left.
    process = PROCESSES["variance_preserving"]()
    alpha, sigma = (float(f(jnp.asarray(1.0))) for f in (process.alpha, process.sigma))
    end = jax.jit(model.latents.encode)(KEY, state, {"x": x}) * sigma
    v = alpha**2 * STD**2 + sigma**2
    square = jnp.sum((end[:, None] - alpha * MEANS) ** 2, -1) / v
    true = jax.nn.logsumexp(-0.5 * square, -1) - jnp.log(3 * 2 * jnp.pi * v)
    taken = -0.5 * jnp.sum((end / sigma) ** 2, -1) - jnp.log(2 * jnp.pi * sigma**2)
    np.testing.assert_allclose(got - taken + true, density(x), atol=1e-3)


def test_hutchinson_s_trace_is_unbiased(monkeypatch):
    model, state = known(monkeypatch, probes=1, ode="heun", ode_steps=30)
    exact, _ = known(monkeypatch, probes=0, ode="heun", ode_steps=30)
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
    assert model.measures["bound"].exactness is Exactness.LOWER_BOUND
    if wrong:
        assert float(gap.mean()) > error + 0.05
    else:
        assert abs(float(gap.mean())) < error


def test_latents_are_normal_and_lead_back(monkeypatch):
    model, state = known(monkeypatch, ode_steps=60)
    x = draws(jax.random.key(1), 2000)
    latents = jax.jit(model.latents.encode)(KEY, state, {"x": x})
    back = jax.jit(model.latents.decode)(KEY, state, latents)["x"]
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


@pytest.mark.slow
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
                drawn = m.sample(KEY, state, 200, {"label": label})
                assert bool(jnp.all(drawn["label"] == label))
                assert float(jnp.mean(jnp.sign(drawn["x"]) == want)) > 0.95
        mixed = model.sample(KEY, state, 400)
        assert 0.3 < float(jnp.mean(mixed["x"] > 0)) < 0.7


def test_a_label_that_does_not_exist_is_refused():
    with jax.enable_x64(False):
        model = conditional()
        state = model.init(KEY, labelled())
        with pytest.raises(DataError, match=r"0 \.\. 1"):
            model.sample(KEY, state, 4, {"label": 2})


def test_a_chain_of_twice_the_steps_loses_half_as_much_of_the_bound(monkeypatch):
    """Kingma et al. 2021, equation 13 and appendix F: more steps are better, by O(1/T)."""
    x = {"x": draws(jax.random.key(1), 500)}

    def bound(steps):
        model, state = known(monkeypatch, bound_steps=steps, bound_samples=300)
        return jax.jit(model.measures["bound"].__call__)(KEY, state, x).mean()

    endless, lost = bound(0), []
    for steps in (100, 200):
        lost.append(float(endless - bound(steps)))
    assert lost[1] > 0.1
    assert lost[0] / lost[1] == pytest.approx(2, rel=0.15)


def test_the_terms_of_the_bound_are_the_bound(monkeypatch):
    model, state = known(monkeypatch, bound_samples=4)
    x = {"x": draws(KEY, 10)}
    of = lambda name: model.measures[name](KEY, state, x)
    parts = sum(of(f"{name}_loss") for name in ("diffusion", "prior", "reconstruction"))
    np.testing.assert_allclose(of("bound"), -parts * 2 * np.log(2), rtol=1e-9)


@pytest.mark.parametrize("data_std", [pytest.param(1.0, marks=pytest.mark.slow), 0.4])
def test_the_bounds_of_gaussian_data_are_their_closed_forms(data_std):
    """Over the entropy, by nats a dimension. With x ~ N(0, s²) the error E|ε - ε̂|² is
    α² s² / (α² s² + σ²), and each step's KL is one of two Gaussians."""
    process, D, variance = PROCESSES["ddpm"](), 8, data_std**2

    def predict(t, x):
        alpha, sigma = sde.like(process.alpha(t), x), sde.like(process.sigma(t), x)
        v = alpha**2 * variance + sigma**2
        return Prediction(alpha * variance / v * x, sigma / v * x)

    x = data_std * jax.random.normal(KEY, (1000, D))
    entropy = 0.5 * np.log(2 * np.pi * np.e * variance)
    mean = lambda terms: -float(terms.bound().mean()) / D - entropy
    # What is in x alone and no matter of the bound
    chance = float(0.5 * (x**2).mean() / variance - 0.5)

    lam = -np.cumsum(np.log1p(-np.linspace(1e-4, 0.02, 1000)))
    lam = -np.log(np.expm1(lam))
    times = samplers.even(process, 999)
    np.testing.assert_allclose(process.log_snr(times), lam[::-1], rtol=1e-6)

    def stupid(lam, large):
        """Σ KL(q(x_s | x_t, x) || p), from the last step to the first, and both ends."""
        a2, s2 = 1 / (1 + np.exp(-lam)), 1 / (1 + np.exp(lam))
        gap = 0.5 * a2[0] / s2[0] * variance
        for i in range(len(lam) - 1):
            a_ts2 = a2[i] / a2[i + 1]
            beta = s2[i] - a_ts2 * s2[i + 1]
            tilde = beta * s2[i + 1] / s2[i]
            v = beta if large else tilde
            # μ's x has the factor α_s σ_ts² / σ_t²
            apart = a2[i + 1] * (beta / s2[i]) ** 2 * variance * s2[i] / (a2[i] * variance + s2[i])
            gap += 0.5 * (tilde / v - 1 - np.log(tilde / v)) + 0.5 * apart / v
        left = variance * s2[-1] / (a2[-1] * variance + s2[-1])
        last = 0.5 * np.log(2 * np.pi * s2[-1]) + 0.5 * left / s2[-1]
        return gap, last

    for name in ("small", "large"):
        found = likelihood.ancestral_terms(KEY, process, predict, x, 40, times, name)
        gap, last = stupid(lam[::-1], name == "large")
        want = gap + last - entropy
        assert mean(found) == pytest.approx(want, abs=0.02 + 3 * abs(chance))
        if data_std == 1:
            assert want == pytest.approx({"small": 0.4649, "large": 0.0}[name], abs=1e-3)
    even = np.linspace(lam[-1], lam[0], 1001)
    found = likelihood.terms(KEY, process, predict, x, 40, 1000)
    ratio = np.exp(-lam[0] / 2)
    want = stupid(even, False)[0] + 0.5 * np.log(2 * np.pi * ratio**2) + 0.5 - entropy
    assert mean(found) == pytest.approx(want, abs=0.02 + 3 * abs(chance))
    if data_std == 1:
        assert want == pytest.approx(0.0400, abs=1e-4)


@pytest.mark.parametrize("end", [1.0, 0.4])
def test_what_the_end_of_the_ode_leaves_out_is_stated(end):
    """Of x ~ N(0, s²) the true end is N(0, α² s² + σ²), and N(0, σ²) is taken for it."""
    process = PROCESSES["variance_preserving"]()._replace(end=end)
    alpha, sigma = (float(f(jnp.asarray(end))) for f in (process.alpha, process.sigma))
    x = 2.0 * jax.random.normal(KEY, (2000, 3))
    x_T = alpha * x + sigma * jax.random.normal(jax.random.key(1), x.shape)
    log_normal = lambda v: -0.5 * jnp.sum(x_T**2 / v + jnp.log(v), -1)
    true = jnp.abs(log_normal(4 * alpha**2 + sigma**2) - log_normal(sigma**2))
    found = likelihood.end_error(jax.random.key(1), process, x)
    assert float(found.mean()) > 0.8 * float(true.mean())
    assert float(found.mean()) < 1.5 * float(true.mean()) + 0.01


def test_the_adaptive_solver_agrees_and_the_error_is_known(monkeypatch):
    fixed, state = known(monkeypatch, probes=0, ode_steps=60)
    adaptive, _ = known(monkeypatch, probes=0, ode="dopri5", tolerance=1e-7)
    x = {"x": draws(jax.random.key(1), 8)}
    want = jax.jit(fixed.log_prob.__call__)(KEY, state, x)
    np.testing.assert_allclose(jax.jit(adaptive.log_prob.__call__)(KEY, state, x), want, atol=5e-4)
    # A coarse solver is further from it, and says by how much or more.
    coarse, _ = known(monkeypatch, probes=0, ode="heun", ode_steps=12)
    off = jnp.abs(jax.jit(coarse.log_prob.__call__)(KEY, state, x) - want)
    error = jax.jit(coarse.measures["log_prob_error"].__call__)(KEY, state, x)
    assert float(off.mean()) > 1e-3
    assert bool(jnp.all(error > 0.9 * off))


@pytest.mark.slow
def test_a_learnt_schedule_scatters_less_and_leaves_the_bound_alone():
    """Kingma et al. 2021, table 4: what is learnt is how to estimate, not what."""
    with jax.enable_x64(False):
        config = diffusion.Config(
            process="learnt",
            weighting="likelihood",
            network=Denoiser(width=32, blocks=1),
            data_std=1.0,
            average=0.0,
        )
        model = diffusion.make(config, optax.adam(3e-3))
        state = model.init(KEY, {"x": draws(KEY, 4).astype(jnp.float32)})

        @jax.jit
        def train(state):
            def step(state, key):
                key_data, key = jax.random.split(key)
                return model.step(key, state, {"x": draws(key_data, 256).astype(jnp.float32)})

            return jax.lax.scan(step, state, jax.random.split(KEY, 1500))

        state, _ = train(state)
        params = state.params
        x = draws(jax.random.key(2), 4000).astype(jnp.float32)

        def scatter(schedule):
            """Of the loss, at independent times, with one network."""
            process = sde.learnt(schedule)
            t = jnp.linspace(0, 1, 4000)
            seen, slope = process.log_snr(t), jax.vmap(jax.grad(process.log_snr))(t)
            tangent = sde.tangent(t, seen, slope)
            net = denoiser(config.network)
            noise = jax.random.normal(KEY, x.shape)
            x_t = tangent.noised(t, x, noise)
            output = net.apply(params.network, x_t, denoising.clock(tangent, t), None)
            each = -0.5 * slope * jnp.sum((noise - output) ** 2, -1)
            return float(each.mean()), float(each.std())

        (mean, spread), (mean_before, before) = scatter(params.schedule), scatter(sde.monotone())
        assert spread < 0.9 * before
        assert mean == pytest.approx(mean_before, rel=0.15)
        assert float(sde.learnt(params.schedule).log_snr(jnp.asarray(0.0))) == pytest.approx(13.3)


def test_the_gradient_of_a_learnt_schedule_is_that_of_the_variance():
    of = lambda theta, eta: (theta * jnp.arange(1.0, 6.0) + eta) ** 2
    theta, eta = jnp.asarray(0.7), jnp.linspace(-1.0, 1.0, 5)
    value, pull = jax.value_and_grad(
        lambda a, b: denoising.mean_and_least_variance(of, a, b)[0], argnums=(0, 1)
    )(theta, eta)
    each = of(theta, eta)
    assert float(value) == pytest.approx(float(each.mean()))
    np.testing.assert_allclose(pull[0], jax.grad(lambda a: of(a, eta).mean())(theta), rtol=1e-9)
    want = jax.grad(lambda b: (of(theta, b) ** 2).mean())(eta) / (2 * each.mean())
    np.testing.assert_allclose(pull[1], want, rtol=1e-9)


def test_a_classifier_guides_by_bayes_rule(monkeypatch):
    """p(x_t) = ½ Σ N(±α, v): with the exact classifier and w = 1, E[x | x_t, y] of one Gaussian."""
    process, v = PROCESSES["variance_preserving"](), 0.09
    moments = lambda t: (process.alpha(t), process.alpha(t) ** 2 * v + process.sigma(t) ** 2)

    def one(t, x, sign):
        alpha, total = moments(t)
        mean = sign + alpha * v / total * (x - alpha * sign)
        return Prediction(mean, (x - alpha * mean) / process.sigma(t))

    def log_joint(t, x, sign):
        alpha, total = moments(t)
        return (-0.5 * (x - alpha * sign) ** 2 / total)[:, 0]

    def both(t, x):
        share = jax.nn.sigmoid(log_joint(t, x, 1) - log_joint(t, x, -1))[:, None]
        mix = lambda a, b: share * a + (1 - share) * b
        return jax.tree.map(mix, one(t, x, 1), one(t, x, -1))

    def likelihood(t, x):
        return jax.nn.log_sigmoid(log_joint(t, x, 1) - log_joint(t, x, -1))

    x = jnp.linspace(-2, 2, 7)[:, None]
    for t in (0.05, 0.3, 0.8):
        t = jnp.asarray(t)
        got = guidance.by_classifier(process, both, likelihood, 1.0)(t, x)
        np.testing.assert_allclose(got.x, one(t, x, 1).x, rtol=1e-6)
        np.testing.assert_allclose(got.noise, one(t, x, 1).noise, rtol=1e-6, atol=1e-9)


def test_guidance_of_0_is_conditional_and_of_minus_1_unconditional():
    """w, as the field has it; the scale that others speak of is 1 + w."""
    predict = lambda x: lambda t, x_t: denoising.Prediction(x + x_t, 2 * x + x_t)
    x_t, t = jnp.zeros(3), jnp.float32(0.5)
    of = lambda w: guidance.classifier_free(predict(5.0), predict(3.0), w)(t, x_t).x
    np.testing.assert_array_equal(of(0.0), 5 + x_t)
    np.testing.assert_array_equal(of(-1.0), 3 + x_t)
    # s = 7.5 elsewhere: ε̂ + s (ε̂(y) - ε̂).
    np.testing.assert_array_equal(of(6.5), 3 + 7.5 * (5 - 3) + x_t)


@pytest.mark.slow
def test_a_learnt_classifier_leads_to_its_label():
    """The network itself never sees a label, so what follows it is the classifier's work."""
    with jax.enable_x64(False):
        fields = {"condition_dropout": 1.0, "guide": "classifier", "guidance": 2.0}
        model = conditional(classifier=Denoiser(width=32, blocks=1), **fields)
        batch = labelled()
        state = model.init(KEY, batch)

        @jax.jit
        def train(state):
            step = lambda state, key: model.step(key, state, batch)
            return jax.lax.scan(step, state, jax.random.split(KEY, 500))

        state, info = train(state)
        assert float(info["cross_entropy"][-50:].mean()) < 0.6
        for label, want in ((0, -1.0), (1, 1.0)):
            x = model.sample(KEY, state, 200, {"label": label})["x"]
            assert float(jnp.mean(jnp.sign(x) == want)) > 0.9


def test_inpainting_draws_what_is_missing_given_the_rest():
    """Of x with covariance [[1, r], [r, 1]] the second, where the first is known: N(1.35, .19)."""
    process, r, n = PROCESSES["variance_preserving"](), 0.9, 600
    values, vectors = jnp.linalg.eigh(jnp.array([[1, r], [r, 1]]))

    def predict(t, x):
        alpha, sigma = process.alpha(t), process.sigma(t)
        mean = (x @ vectors * (alpha * values / (alpha**2 * values + sigma**2))) @ vectors.T
        return Prediction(mean, (x - alpha * mean) / sigma)

    part = jnp.full((n, 2), 1.5), jnp.array([True, False])
    x = jax.random.normal(KEY, (n, 2))
    off, spread = {}, {}
    for name, fields in {
        "one": {"resampling_steps": 1},
        "default": {},
        "large": {"variance": "large"},
    }.items():
        draw = jax.jit(
            lambda part, fields=fields: samplers.make(Sampling(**fields))(
                KEY, process, predict, x, part
            )
        )
        drawn = draw(part)
        np.testing.assert_array_equal(drawn[:, 0], 1.5)
        off[name], spread[name] = float(drawn[:, 1].mean()) - r * 1.5, float(drawn[:, 1].std())
    # Replacement alone is known to be off; going back and forth mends it.
    assert off["one"] < -0.35
    assert abs(off["default"]) < 0.08 and abs(off["large"]) < 0.08
    # The deviation lies between that of the smaller variance and that of the larger.
    assert spread["one"] > 0.5 and 0.37 < spread["default"] < 0.19**0.5 < spread["large"] < 0.48


def test_inpainting_keeps_what_is_known_and_refuses_other_shapes(monkeypatch):
    model, state = known(monkeypatch, sampling=Sampling(steps=10))
    mask = np.array([1.0, 0.0])
    x = model.sample(KEY, state, 5, {"x": np.array([0.25, 9.0]), "mask": mask})["x"]
    np.testing.assert_allclose(x[:, 0], 0.25)
    assert float(jnp.abs(x[:, 1]).max()) < 4
    # What is NaN is unknown without a mask.
    again = model.sample(KEY, state, 5, {"x": np.array([0.25, np.nan])})["x"]
    np.testing.assert_array_equal(again, x)
    for given, message in (
        ({"x": np.zeros(2)}, "nothing to draw"),
        ({"mask": mask}, "no x was given"),
        ({"x": np.zeros(3), "mask": mask}, r"x should be .*the shape \[2\]"),
        ({"known": np.zeros(2)}, "cannot be told that"),
        ({"label": 1}, "knows no labels"),
        ({"text": np.array([1, 2])}, "reads no text"),
    ):
        with pytest.raises(DataError, match=message):
            model.sample(KEY, state, 5, given)


def test_spaces_name_what_conditions_the_model():
    of = lambda **fields: diffusion.make(diffusion.Config(**fields), optax.sgd(0.1)).spaces
    assert of() == {"x": REAL}
    assert of(classes=3) == {"x": REAL, "label": categorical(3)}
    assert of(text=Text(vocabulary=7)) == {"x": REAL, "text": categorical(7)}


def test_what_conditions_the_model_must_be_in_the_data():
    x = jnp.zeros((4, 1))
    for fields, name in (({"classes": 2}, "labelled data"), ({"text": Text(7)}, "data with texts")):
        model = diffusion.make(diffusion.Config(**fields), optax.sgd(0.1))
        with pytest.raises(DataError, match=name):
            model.init(KEY, {"x": x})


def test_a_process_refuses_numbers_it_is_not_made_of():
    with pytest.raises(ConfigError, match=r"sigma_max.*beta_min"):
        diffusion.Config(ends=sde.Ends(sigma_max=3.0))
    process = sde.make("variance_exploding", sde.Ends(sigma_max=3.0))()
    assert float(process.sigma(jnp.asarray(1.0))) == pytest.approx(3.0)


@pytest.mark.parametrize(
    "name, kind",
    [
        pytest.param(
            *(name, kind),
            marks=[pytest.mark.slow]
            if kind != "words" and (name, kind) != ("mlp", "label")
            else [],
        )
        for kind in ("nothing", "label", "words")
        for name in DENOISERS
    ],
)
def test_networks_say_nothing_at_first_and_follow_their_condition(name, kind):
    with jax.enable_x64(False):
        config = Denoiser(name, width=16, multiples=(1, 2), blocks=1, attention=(4,), patch=1)
        shape = (3, 2) if name == "mlp" else (3, 7, 7, 1)
        x, t = jax.random.normal(KEY, shape), jnp.linspace(1.0, 900.0, 3)
        condition = {
            "nothing": None,
            "label": jnp.array([0, 1, 4]),
            "words": jax.random.normal(KEY, (3, 5, 6)),
        }[kind]
        net = denoiser(config, classes=4 if kind == "label" else 0)
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
    "name", [pytest.param(n, marks=pytest.mark.slow) if n == "unet" else n for n in DENOISERS]
)
def test_the_ode_knows_the_divergence_of_every_network(name):
    config = Denoiser(name, width=8, multiples=(1, 2), blocks=1, attention=(2,), patch=1)
    shape = (2, 3) if name == "mlp" else (2, 4, 4, 1)
    x, t = jax.random.normal(KEY, shape), jnp.array(300.0)
    net = denoiser(config, classes=0)
    params = jax.jit(net.init)(KEY, x, jnp.full(2, t), None)
    keys = iter(jax.random.split(KEY, len(jax.tree.leaves(params))))
    params = jax.tree.map(lambda w: w + 0.1 * jax.random.normal(next(keys), w.shape), params)
    field = jax.jit(lambda t, x: net.apply(params, x, jnp.full(len(x), t), None))
    _, trace = ode.with_divergence(field)(t, x)
    size, h = x[0].size, 1e-5
    units = jnp.eye(size).reshape(size, 1, *shape[1:])
    slopes = [(field(t, x + h * e) - field(t, x - h * e)) * e / (2 * h) for e in units]
    expected = sum(s.reshape(2, -1).sum(-1) for s in slopes)
    np.testing.assert_allclose(trace, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "fields",
    [
        {"process": "variance_preservin"},
        {"parametrisation": "nois"},
        {"weighting": "x"},
        {"ode_steps": 0},
        {"guidance": 1.0},
        {"classes": 3, "guidance": -2.0},
        {"classes": 3, "guidance": float("nan")},
        {"process": "learnt"},
        {"guide": "classifier"},
        {"ode": "x"},
        {"bound_steps": -1},
        {"classes": 3, "guidance": 1.0, "condition_dropout": 0.0},
        {"average": 1.0},
        {"data_std": 0.0},
    ],
)
def test_bad_configs_are_refused(fields):
    with pytest.raises(ConfigError):
        diffusion.Config(**fields)


def test_names_of_before_are_refused_with_those_of_now():
    with pytest.raises(ConfigError, match="called 'rectified_flow'"):
        diffusion.Config(process="straight")
    with pytest.raises(ConfigError, match="called 'condition_dropout'"):
        typed(diffusion.Config, {"unconditional": 0.2})
    with pytest.raises(ConfigError, match="called 'corrector_steps'"):
        typed(diffusion.Config, {"sampling": {"moves": 2}})


@pytest.mark.parametrize("fields", [{"name": "eulr"}, {"steps": 0}, {"eta": 2.0}, {"grid": "x"}])
def test_bad_sampling_is_refused(fields):
    with pytest.raises(ConfigError):
        Sampling(**fields)
