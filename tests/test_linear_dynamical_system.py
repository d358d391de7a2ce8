"""Linear dynamical systems learnt by EM: what it may never do, and where it has to end."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_zoo.contract import ConfigError, DataError, Exactness
from genjax_zoo.data import tables
from genjax_zoo.learn.state import eval_params
from genjax_zoo.maths.inference import kalman, matrices
from genjax_zoo.models import linear_dynamical_system as lds
from tests.conftest import compiled

KEY = jax.random.key(0)


def series(B=3, T=25, p=3, missing=0.0):
    """Series of a system of two states that turn and fade."""
    rng = np.random.default_rng(0)
    A = 0.95 * np.array([[np.cos(0.6), -np.sin(0.6)], [np.sin(0.6), np.cos(0.6)]])
    C, y = rng.normal(size=(p, 2)), np.empty((B, T, p))
    for b in range(B):
        x = rng.normal(size=2)
        for t in range(T):
            x = A @ x + 0.3 * rng.normal(size=2)
            y[b, t] = 5 + C @ x + 0.2 * rng.normal(size=p)
    y[rng.uniform(size=y.shape) < missing] = np.nan
    return y


def fit(y, steps, **config):
    """A model, its state after so many steps of EM, and log p(y) before each and at the end."""
    model = compiled(lds.make(lds.Config(**config)))
    batch = {"x": jnp.asarray(y)}
    state, step, history = model.init(KEY, batch), model.step, []
    for _ in range(steps):
        history.append(float(model.log_prob(KEY, state, batch).sum()))
        state, info = step(KEY, state, batch)
    return model, state, [*history, float(model.log_prob(KEY, state, batch).sum())], info


@pytest.mark.parametrize(
    "config, missing",
    [
        pytest.param({"states": 2}, 0.0, marks=pytest.mark.slow),
        ({"states": 2, "noise": "isotropic", "start": "random"}, 0.2),
        ({"states": 2, "noise": "full"}, 0.2),
        ({"structure": "local_level"}, 0.2),
    ],
)
def test_em_never_lowers_the_likelihood(config, missing):
    with jax.enable_x64(True):
        y = series(missing=missing)
        history = fit(y, 12, **config)[2]
    assert np.all(np.diff(history) > -1e-6), history
    assert history[-1] > history[0] + 0.1


def test_an_autoregression_learns_its_coefficients():
    rng = np.random.default_rng(1)
    y = np.zeros((1, 2000, 1))
    for t in range(2, 2000):
        y[0, t] = 1.2 * y[0, t - 1] - 0.5 * y[0, t - 2] + rng.normal()
    with jax.enable_x64(True):
        _, state, history, info = fit(y, 6, structure="autoregressive", ar=2)
        A = np.asarray(eval_params(state).system.A)
    assert np.all(np.diff(history) > -1e-6)
    np.testing.assert_allclose(A[0], [1.2, -0.5], atol=0.06)
    np.testing.assert_allclose(info["spectral_radius"], 0.5**0.5, atol=0.05)


@pytest.mark.parametrize("noise", [pytest.param("diagonal", marks=pytest.mark.slow), "full"])
def test_what_is_kept_adds_up_to_one_step_of_all(noise):
    """Two batches by stepwise EM with keep = 1 are one batch of both, by the same parameters."""
    with jax.enable_x64(True):
        y = jnp.asarray(series(B=4, missing=0.1))
        model = compiled(lds.make(lds.Config(states=2, noise=noise, keep=1.0)))
        start, step = model.init(KEY, {"x": y}), model.step
        both = step(KEY, start, {"x": y})[0]
        half, _ = step(KEY, start, {"x": y[:2]})
        # The second half is expected by the first parameters, as it is in the whole batch.
        added, _ = step(KEY, half.replace(params=start.params), {"x": y[2:]})
        for a, b in zip(jax.tree.leaves(added), jax.tree.leaves(both), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9)


def test_a_prior_holds_the_system_where_it_began():
    with jax.enable_x64(True):
        y = series(B=1, T=8)
        away = []
        for nu in (0.0, 10.0, 1e6):
            config = {"states": 2, "start": "random", "pseudo_counts": nu}
            _, state, _, _ = fit(y, 3, **config)
            began, ended = state.params.reference.system, state.params.system
            apart = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), began, ended)
            away.append(max(jax.tree.leaves(apart)))
    assert away[0] > away[1] > 100 * away[2]
    assert away[2] < 1e-3


def test_the_nile_ends_where_its_likelihood_is_largest():
    """Durbin & Koopman's 1469.1 and 15099 within .1 %, in float32 and raw units."""
    y = tables.nile()[None]
    model = compiled(lds.make(lds.Config(structure="local_level", initial_level="given")))
    batch = {"x": jnp.asarray(y)}
    state = model.init(KEY, batch)
    one = lambda state, _: (model.step(KEY, state, batch)[0], None)
    state = jax.jit(lambda s: jax.lax.scan(one, s, None, 2500)[0])(state)
    system = eval_params(state).system
    np.testing.assert_allclose(float(system.Q[0, 0]), 1469.17, rtol=1e-3)
    np.testing.assert_allclose(float(jnp.ravel(system.R)[0]), 15098.52, rtol=1e-3)
    np.testing.assert_allclose(model.log_prob(KEY, state, batch), [-641.5856], atol=2e-3)


@pytest.mark.parametrize(
    "config",
    [
        {"structure": "local_level"},
        {"structure": "local_level", "initial_level": "diffuse"},
        pytest.param({"structure": "autoregressive", "ar": 2}, marks=pytest.mark.slow),
        pytest.param({"states": 2, "noise": "isotropic"}, marks=pytest.mark.slow),
    ],
    ids=lambda config: "-".join(map(str, config.values())),
)
def test_units_and_their_zero_are_nothing_to_a_system(config):
    """Of a y + b each density is that of y over |a|^n, n of what is a number's own; each forecast
    the same in its units. In float32, where the numbers are large beside their changes too."""
    y = np.round(64 * series(B=2, T=30, p=2)).astype(np.float32) / 64
    model = compiled(lds.make(lds.Config(**config)))
    learn = jax.jit(
        lambda state, x: model.step(KEY, model.step(KEY, state, {"x": x})[0], {"x": x})[0]
    )

    def learnt(y):
        state = learn(model.init(KEY, {"x": jnp.asarray(y)}), jnp.asarray(y))
        nats = model.log_prob(KEY, state, {"x": jnp.asarray(y)})
        return nats, model.measures["one_step"](KEY, state, {"x": jnp.asarray(y)})

    nats, error = learnt(y)
    n = y[0].size - (2 if config.get("initial_level") == "diffuse" else 0)
    # 64ths at 50,000 are exact in float32, and so are powers of two.
    for a, b in ((1, 50_000), (2.0**20, 0), (2.0**-30, 0), (-1, -50_000)):
        moved, moved_error = learnt(a * y + np.float32(b))
        np.testing.assert_allclose(moved, nats - n * np.log(abs(a)), rtol=2e-3, atol=0.1)
        np.testing.assert_allclose(moved_error, a**2 * error, rtol=5e-3)


def test_subspace_identification_finds_the_eigenvalues_of_what_has_no_noise():
    turn, T = np.exp(0.4j), 60
    x = np.stack([(0.99 * turn) ** t for t in range(T)])
    C = np.random.default_rng(0).normal(size=(6, 2))
    y = (np.stack([x.real, x.imag], 1) @ C.T)[None]
    with jax.enable_x64(True):
        model = compiled(lds.make(lds.Config(states=2)))
        A = eval_params(model.init(KEY, {"x": jnp.asarray(y)})).system.A
    found = np.linalg.eigvals(np.asarray(A))
    np.testing.assert_allclose(np.abs(found), 0.99, atol=0.02)
    np.testing.assert_allclose(np.abs(np.angle(found)), 0.4, atol=0.02)


def test_stability_is_enforced_where_it_is_asked_for():
    y = 1.06 ** np.arange(40.0)[None, :, None] * np.ones((1, 1, 3))
    y += 0.01 * np.random.default_rng(0).normal(size=y.shape)
    loose = fit(y.astype(np.float32), 3, states=1)[1]
    tight = fit(y.astype(np.float32), 3, states=1, stable="enforce", radius=0.9)[1]
    assert matrices.spectral_radius(eval_params(loose).system.A) > 1
    assert matrices.spectral_radius(eval_params(tight).system.A) < 0.901


def test_frames_are_sampled_continued_encoded_and_decoded():
    y = series().astype(np.float32).reshape(3, 25, 3, 1, 1)
    model, state, _, _ = fit(y, 2, states=2)
    assert model.log_prob.exactness is Exactness.EXACT
    assert model.sample(KEY, state, 4)["x"].shape == (4, 25, 3, 1, 1)
    later = lds.make(lds.Config(states=2, sample_length=7))
    more = later.sample(KEY, state, 500, {"x": y[0]})["x"]
    assert more.shape == (500, 7, 3, 1, 1)
    system = eval_params(state).system
    said = kalman.forecast(system, jnp.asarray(y[0].reshape(25, 3)), 7)
    error = np.abs(np.asarray(more).reshape(500, 7, 3).mean(0) - said.mean)
    assert np.all(error < 5 * said.std / np.sqrt(500))
    latents = model.latents.encode(KEY, state, {"x": y})
    back = model.latents.decode(KEY, state, latents)["x"]
    assert back.shape == y.shape
    assert float(jnp.mean((back - y) ** 2)) < 0.1
    assert model.measures["one_step"](KEY, state, {"x": y}).shape == (3,)


def test_what_is_missing_is_integrated_out():
    """Of binary patterns of missing numbers: the density of the rest is the marginal's."""
    y = series(B=1, T=2, p=2)
    model, state, _, _ = fit(series(p=2), 2, states=1)
    grid = np.linspace(-15, 25, 4001)
    for t, i in itertools.product(range(2), range(2)):
        holed = y.copy()
        holed[0, t, i] = np.nan
        filled = np.repeat(y, len(grid), 0)
        filled[:, t, i] = grid
        whole = np.exp(np.asarray(model.log_prob(KEY, state, {"x": jnp.asarray(filled)}), float))
        marginal = float(model.log_prob(KEY, state, {"x": jnp.asarray(holed)})[0])
        assert np.log(np.trapezoid(whole, grid)) == pytest.approx(marginal, abs=1e-3)


def test_a_past_with_gaps_is_gone_on_from():
    """What is missing, by NaN or by a mask, is integrated out: by the forecast of the rest."""
    y = series(p=2).astype(np.float32)
    _, state, _, _ = fit(y, 2, states=2)
    later = lds.make(lds.Config(states=2, sample_length=3))
    past, mask = y[0, :9].copy(), np.ones((9, 2))
    mask[-2:], mask[3, 1] = 0, 0
    holes = np.where(mask > 0, past, np.nan)
    a = later.sample(KEY, state, 2000, {"x": past, "mask": mask})["x"]
    b = later.sample(KEY, state, 2000, {"x": np.tile(holes, (2000, 1, 1))})["x"]
    np.testing.assert_array_equal(a, b)
    said = lds.forecast(eval_params(state), jnp.asarray(holes)[None], 3)
    error = np.abs(a.mean(0) - said.mean[0])
    assert np.all(error < 5 * said.std[0] / np.sqrt(2000))
    np.testing.assert_allclose(a.std(0), said.std[0], rtol=0.1)
    # Two frames more are known: what comes is surer.
    assert np.all(later.sample(KEY, state, 2000, {"x": past})["x"].std(0)[0] < a.std(0)[0])
    for given, why in (
        (
            {"x": y[0, :, :1]},
            r"x should be .* the shape \[T, 2\] of one example.*got the shape \[25, 1\]",
        ),
        ({"mask": mask}, "no x was given"),
        (
            {"x": past, "mask": mask[:4]},
            r"mask should have the shape of x, got \[4, 2\] for \[9, 2\]",
        ),
        ({"past": past}, "unknown given 'past'"),
    ):
        with pytest.raises(DataError, match=why):
            later.sample(KEY, state, 2, given)
    with pytest.raises(DataError, match="steps should be 1 or more, got -1"):
        lds.forecast(eval_params(state), jnp.asarray(holes)[None], -1)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ConfigError, match="states should be at least 1"):
        lds.Config(states=0)
    with pytest.raises(ConfigError, match="fixed should name some of A, Q, C, d, R, initial"):
        lds.Config(fixed=("B",))
    with pytest.raises(ConfigError, match=r"'start'.*it is called 'initial'"):
        lds.Config(fixed=("start",))
    with pytest.raises(DataError, match="two times or more"):
        lds.make(lds.Config()).init(KEY, {"x": jnp.zeros((3, 1, 2))})
