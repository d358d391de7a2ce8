"""Deep energy-based models against quadrature, explicit Hessians and Gaussians known whole."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax_zoo import nets
from genjax_zoo.contract import ConfigError, DataError
from genjax_zoo.maths.inference import unnormalised
from genjax_zoo.maths.mcmc import ais
from genjax_zoo.models import energy_based_model as ebm
from tests.conftest import compiled

KEY = jax.random.key(0)
SMALL = nets.Network(widths=(16, 16), activation="swish")


def integrate(energy, box, n):
    """log of the integral of exp(-E) over the square [-box, box]², by the midpoint rule."""
    line = (np.arange(n) + 0.5) / n * 2 * box - box
    grid = jnp.asarray(np.stack(np.meshgrid(line, line), -1).reshape(-1, 2), jnp.float32)
    values = -np.asarray(energy(grid), np.float64)
    return np.log(np.exp(values - values.max()).sum()) + values.max() + 2 * np.log(2 * box / n)


def bumpy(u):
    """An energy of two dimensions with a Hessian that is nothing special."""
    x, y = u[:, 0], u[:, 1]
    return jnp.sin(2 * x) * y + 0.5 * x**2 + 0.3 * y**4 + x * y


POINTS = jax.random.normal(jax.random.key(5), (7, 2))


@jax.jit
def explicit(u):
    """½ ‖∇E‖² - tr ∇²E, from the whole Hessian."""
    one = lambda u: bumpy(u[None])[0]
    g = jax.vmap(jax.grad(one))(u)
    H = jax.vmap(jax.hessian(one))(u)
    return 0.5 * jnp.sum(g**2, -1) - jnp.trace(H, axis1=1, axis2=2)


# The losses


def test_score_matching_is_its_definition():
    own = jax.jit(lambda u: unnormalised.score_matching(KEY, bumpy, u))(POINTS)
    np.testing.assert_allclose(own, explicit(POINTS), rtol=1e-4, atol=1e-4)


def test_sliced_score_matching_is_exact_in_the_mean():
    slices = lambda u: unnormalised.score_matching(KEY, bumpy, u, slices=100_000)
    sliced = jax.jit(slices)(POINTS)
    np.testing.assert_allclose(sliced, explicit(POINTS), atol=0.2, rtol=0.02)


def test_denoising_at_small_noise_is_score_matching():
    """loss / σ² - ‖ξ‖² / 2σ² → ½ ‖ψ‖² + tr ∇ψ, in the mean over ξ, of which -ξ is as likely."""
    sigma, n = 0.02, 40_000

    @jax.jit
    def both(u):
        key = jax.random.key(1)
        rows = jnp.broadcast_to(u, (n, 2))
        xi = jax.random.normal(key, rows.shape)
        # E[ψ(u) · ξ / σ] = 0, and that is where nearly all of the variance is.
        psi = -jax.grad(lambda u: bumpy(u[None])[0])(u)
        loss = unnormalised.denoising(key, bumpy, rows, sigma) / sigma**2
        known = 0.5 * jnp.sum(xi**2, -1) / sigma**2 + xi @ psi / sigma
        return (loss - known).mean(), explicit(u[None])[0]

    for u in POINTS[:3]:
        np.testing.assert_allclose(*both(u), atol=0.15)


def test_noise_contrast_on_a_gaussian_finds_its_parameters_and_log_z():
    """log p*(x) = -½ a x² - b x against q = N(0, 1): the data are N(.5, .7²)."""
    mean, std, n = 0.5, 0.7, 4000
    # Stratified draws: the optimum's error is then that of the method, not of the draws.
    at = jax.scipy.stats.norm.ppf((jnp.arange(n) + 0.5) / n)
    data, noise = mean + std * at, jnp.concatenate([at, at])
    log_q = lambda x: -0.5 * x**2 - 0.5 * jnp.log(2 * jnp.pi)

    def loss(theta):
        a, b, log_z = theta
        log_ratio = lambda x: -0.5 * a * x**2 - b * x - log_z - log_q(x)
        return unnormalised.noise_contrastive(log_ratio(data), log_ratio(noise)).mean()

    theta = jnp.array([1.0, 0.0, 0.0])
    newton = jax.jit(lambda t: t - jnp.linalg.solve(jax.hessian(loss)(t), jax.grad(loss)(t)))
    for _ in range(8):
        theta = newton(theta)
    a, b = 1 / std**2, -mean / std**2
    log_z = 0.5 * np.log(2 * np.pi / a) + b**2 / (2 * a)
    np.testing.assert_allclose(theta, [a, b, log_z], atol=0.01)


# The family


def made(batch, tx=None, **config):
    model = compiled(ebm.make(ebm.Config(network=SMALL, **config), tx or optax.sgd(1.0)))
    return model, model.init(KEY, batch)


def ring(key, n):
    angle = 2 * jnp.pi * jax.random.uniform(key, (n,))
    place = jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)
    return 3 + 2 * (place + 0.1 * jax.random.normal(key, (n, 2)))


def test_a_network_of_nothing_is_the_gaussian():
    x = jax.random.normal(KEY, (50, 3)) * 2 + 1
    model, state = made({"x": x})
    zero = state.params.replace(f=jax.tree.map(jnp.zeros_like, state.params.f))
    state = state.replace(params=zero)
    p = zero
    expected = jax.scipy.stats.norm.logpdf(x, p.mean, p.std).sum(-1)
    np.testing.assert_allclose(model.log_prob(KEY, state, {"x": x}), expected, rtol=1e-5)
    np.testing.assert_allclose(p.std, jnp.sqrt(jnp.var(x, axis=0).mean()), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "tx"),
    [
        pytest.param("contrastive", optax.adam(2e-3, b1=0.5), marks=pytest.mark.slow),
        ("noise_contrastive", optax.adam(5e-3)),
    ],
)
def test_a_trained_density_integrates_to_what_annealing_says(name, tx):
    objective = ebm.Objective(name=name, steps=20, step=0.05, chains=200, buffer=400)
    model, state = made(
        {"x": ring(KEY, 200)},
        tx,
        objective=objective,
        ais=ais.Config(temperatures=300, chains=4000),
    )
    body = lambda state, key: model.step(key, state, {"x": ring(key, 200)})
    state, _ = jax.jit(lambda s, keys: jax.lax.scan(body, s, keys))(
        state, jax.random.split(KEY, 400)
    )
    energy = lambda u: -model.log_prob(KEY, state, {"x": 3 + u})
    exact = integrate(energy, 12, 500)
    once = jax.jit(model.measures["ais"].once)(KEY, state)
    assert abs(float(once.value) - exact) < 1e-2
    # The ring has been learnt, or the test would be of a Gaussian.
    grid = {"x": jnp.array([[3.0, 3.0], [5.0, 3.0]])}
    middle, on_ring = model.log_prob(KEY, state, grid)
    assert float(on_ring - middle) > 1
    if name == "noise_contrastive":
        assert abs(float(state.params.log_z) - exact) < 0.15


def test_the_contrast_is_the_gradient_of_the_likelihood():
    """Against quadrature: chains that are long and fine enough sample the model itself."""
    first = ring(KEY, 64)
    # Away from the first batch, whose Gaussian the model starts near, there is a gradient to see.
    x = first + jnp.array([1.0, 0.0])
    objective = ebm.Objective(start="noise", chains=20_000, steps=250, step=0.05)
    model, state = made({"x": first}, objective=objective)
    line = (jnp.arange(200) + 0.5) / 200 * 30 - 15
    grid = 3 + jnp.stack(jnp.meshgrid(line, line), -1).reshape(-1, 2)

    def likelihood(f):
        at = state.replace(params=state.params.replace(f=f))
        log_z = jax.nn.logsumexp(model.log_prob(KEY, at, {"x": grid}))
        return -(model.log_prob(KEY, at, {"x": x}) - log_z).mean()

    before = state.params.f
    exact = jax.jit(jax.grad(likelihood))(before)
    after, _ = jax.jit(model.step)(KEY, state, {"x": x})
    found = jax.tree.map(lambda a, b: a - b, before, after.params.f)
    flat = lambda tree: np.asarray(jax.flatten_util.ravel_pytree(tree)[0])
    apart = np.linalg.norm(flat(found) - flat(exact)) / np.linalg.norm(flat(exact))
    assert apart < 0.05


def test_the_gaussian_is_not_learnt_not_even_by_weight_decay():
    batch = {"x": ring(KEY, 20), "label": jnp.arange(20) % 3}
    for name in ("contrastive", "score_matching", "denoising", "noise_contrastive"):
        model, state = made(
            batch, optax.adamw(0.1, weight_decay=0.1), classes=3, objective=ebm.Objective(name=name)
        )
        after, _ = jax.jit(model.step)(KEY, state, batch)
        np.testing.assert_array_equal(after.params.mean, state.params.mean)
        np.testing.assert_array_equal(after.params.std, state.params.std)


def test_a_joint_energy_is_the_sum_over_labels():
    batch = {"x": ring(KEY, 20), "label": jnp.arange(20, dtype=jnp.int32) % 3}
    model, state = made(batch, classes=3)
    p = state.params
    net = nets.discriminator(SMALL, (3,))
    logits = net.apply(p.f, {}, (batch["x"] - p.mean) / p.std, False)[0]
    gaussian = jax.scipy.stats.norm.logpdf(batch["x"], p.mean, p.std).sum(-1)
    # exp(-E(x)) = Σ_y exp(f_y(x)) N(x)
    summed = np.log(np.exp(np.asarray(logits, np.float64)).sum(-1)) + gaussian
    np.testing.assert_allclose(model.log_prob(KEY, state, batch), summed, rtol=1e-5, atol=1e-5)
    wrong = np.argmax(logits, -1) != batch["label"]
    np.testing.assert_array_equal(model.measures["error"](KEY, state, batch), wrong)


def test_samples_of_a_label_are_of_that_label():
    """Two classes that lie apart; a network that has learnt them draws each where it is."""
    label = jnp.arange(200, dtype=jnp.int32) % 2
    x = jax.random.normal(KEY, (200, 2)) * 0.7 + jnp.where(label == 1, 1.5, -1.5)[:, None]
    model, state = made(
        {"x": x, "label": label},
        optax.adam(3e-3),
        classes=2,
        objective=ebm.Objective(step=0.05, steps=10),
    )
    body = lambda state, key: model.step(key, state, {"x": x, "label": label})
    state, _ = jax.jit(lambda s, keys: jax.lax.scan(body, s, keys))(
        state, jax.random.split(KEY, 150)
    )
    for y, side in ((0, -1), (1, 1)):
        drawn = model.sample(KEY, state, 100, {"label": y})
        assert float((side * drawn["x"].sum(-1) > 0).mean()) > 0.9
        assert drawn["label"].tolist() == [y] * 100
    with pytest.raises(DataError, match="needs labelled data"):
        model.step(KEY, state, {"x": x})


def test_only_the_drawn_chains_of_the_buffer_move():
    objective = ebm.Objective(chains=10, buffer=40, steps=2, rate=0.0)
    batch = {"x": ring(KEY, 16)}
    model, state = made(batch, objective=objective)
    after, _ = jax.jit(model.step)(KEY, state, batch)
    moved = np.any(np.asarray(after.memory != state.memory), axis=1)
    assert moved.sum() == 10
    # Sampling from the buffer leaves it, and all else, as it is: it is a function.
    config = ebm.Config(
        network=SMALL, objective=objective, sampling=ebm.Sampling(start="buffer", steps=3)
    )
    own = ebm.make(config, optax.sgd(1.0))
    assert own.sample(KEY, after, 60)["x"].shape == (60, 2)


def test_the_penalty_is_on_the_size_of_both_energies():
    """gap(α) - gap(0) = α (mean f(x⁺)² + mean f(x⁻)²), read off two steps with the same key."""
    batch = {"x": ring(KEY, 16)}
    gaps = []
    for alpha in (0.0, 1.0, 2.0):
        objective = ebm.Objective(alpha=alpha, chains=8, buffer=8, rate=0.0)
        model, state = made(batch, objective=objective)
        gaps.append(float(jax.jit(model.step)(KEY, state, batch)[1]["free_energy_gap"]))
    assert gaps[1] - gaps[0] > 0
    assert gaps[2] - gaps[1] == pytest.approx(gaps[1] - gaps[0], rel=1e-3)


def test_the_temperature_of_the_chains():
    assert ebm.Objective().temperature == 1
    assert ebm.Objective(step=0.04, noise=0.1).temperature == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("field", "value"),
    [("chains", 0), ("step", 0.0), ("rate", 1.5), ("alpha", -1.0), ("buffer", 5)],
)
def test_what_cannot_be_is_refused(field, value):
    with pytest.raises(ConfigError, match=field):
        dataclasses.replace(ebm.Objective(), **{field: value})


def test_batch_norm_and_an_empty_buffer_are_refused():
    with pytest.raises(ConfigError, match="normalise"):
        ebm.Config(network=nets.Network(normalise="batch"))
    with pytest.raises(ConfigError, match="buffer"):
        ebm.Config(objective=ebm.Objective(name="denoising"), sampling=ebm.Sampling(start="buffer"))


def test_labels_that_the_model_does_not_know_are_refused_under_jit_too():
    model = ebm.make(ebm.Config(classes=4), optax.adam(1e-3))
    state = model.init(KEY, {"x": jnp.zeros((8, 2)), "label": jnp.zeros(8, jnp.int32)})
    for label in (4, -1, 2.7, [0, 1]):
        with pytest.raises(DataError, match="energy_based_model: "):
            jax.jit(lambda s, label=label: model.sample(KEY, s, 3, {"label": label}))(state)


def test_a_known_part_stays_and_the_rest_follows_the_conditional():
    """p(x_2 | x_1) of a random network, by quadrature."""
    batch = {"x": ring(KEY, 64)}
    sampling = ebm.Sampling(steps=200, first=0.3, last=0.1)
    model, state = made(batch, sampling=sampling)
    n, at = 20_000, 1.0
    known = {"x": jnp.array([at, jnp.nan])}
    drawn = jax.jit(model.sample, static_argnums=2)(KEY, state, n, known)["x"]
    assert jnp.array_equal(drawn[:, 0], jnp.full(n, at))
    line = jnp.linspace(-15, 21, 6001)
    points = jnp.stack([jnp.full_like(line, at), line], axis=1)
    law = np.exp(np.asarray(model.log_prob(KEY, state, {"x": points}), np.float64))
    law /= law.sum()
    mean = law @ np.asarray(line)
    spread = np.sqrt(law @ (np.asarray(line) - mean) ** 2)
    assert abs(mean - float(state.params.mean[1])) > 0.5, "the network is not to be seen"
    assert abs(float(drawn[:, 1].mean()) - mean) < 0.03 * spread
    np.testing.assert_allclose(float(drawn[:, 1].std()), spread, rtol=0.03)
    mask = model.sample(KEY, state, 2, {"x": jnp.array([at, 0.0]), "mask": jnp.array([1, 0])})
    assert jnp.array_equal(mask["x"][:, 0], jnp.full(2, at))
    with pytest.raises(DataError, match=r"label was given, .* knows no labels"):
        model.sample(KEY, state, 2, {"label": 1})
