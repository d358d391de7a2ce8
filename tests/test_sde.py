"""Processes against their papers' own formulas, and parametrisations against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_zoo.maths.diffusion import sde
from genjax_zoo.maths.diffusion.denoising import (
    PARAMETRISATIONS,
    WEIGHTINGS,
    prediction,
    target,
    times,
)
from genjax_zoo.maths.diffusion.sde import PROCESSES

KEY = jax.random.key(0)
T = np.array([0.1, 0.37, 0.8])


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def inner(process, n=5):
    """Times well within the process."""
    return process.start + (process.end - process.start) * jnp.linspace(0.1, 0.9, n)


def test_the_linear_schedule_is_the_paper_s_sde():
    process, beta = PROCESSES["variance_preserving"](), 0.1 + 19.9 * T
    np.testing.assert_allclose(process.drift(T), -beta / 2, rtol=1e-9)
    np.testing.assert_allclose(process.diffusion(T), beta, rtol=1e-9)


def test_sub_vp_has_the_same_drift_and_less_noise():
    process, vp = PROCESSES["sub_variance_preserving"](), PROCESSES["variance_preserving"]()
    np.testing.assert_allclose(process.drift(T), vp.drift(T), rtol=1e-9)
    # g² = β (1 - exp(-2 ∫β))
    want = vp.diffusion(T) * (1 - vp.alpha(T) ** 4)
    np.testing.assert_allclose(process.diffusion(T), want, rtol=1e-8)


def test_ve_and_edm_only_add_noise():
    process = PROCESSES["variance_exploding"]()
    np.testing.assert_allclose(process.drift(T), 0, atol=1e-12)
    # g = σ_min (σ_max/σ_min)^t √(2 log(σ_max/σ_min))
    want = (0.01 * 5000**T) ** 2 * 2 * np.log(5000)
    np.testing.assert_allclose(process.diffusion(T), want, rtol=1e-9)
    np.testing.assert_allclose(PROCESSES["edm"]().diffusion(T), 2 * T, rtol=1e-9)


def test_the_chain_is_ddpm_s():
    beta = sde.linear_betas(50, 1e-3, 0.2)
    process = sde.discrete(beta)
    at = (1 + jnp.arange(50)) / 50
    np.testing.assert_allclose(process.alpha(at) ** 2, jnp.cumprod(1 - beta), rtol=1e-9)
    np.testing.assert_allclose(process.sigma(at) ** 2, 1 - jnp.cumprod(1 - beta), rtol=1e-9)
    alpha, variance = process.between(at[:-1], at[1:])
    np.testing.assert_allclose(alpha**2, 1 - beta[1:], rtol=1e-9)
    np.testing.assert_allclose(variance, beta[1:], rtol=1e-9)


@pytest.mark.parametrize("name", PROCESSES)
def test_two_steps_are_one(name):
    process = PROCESSES[name]()
    r, s, t = inner(process, 3)
    (a_sr, v_sr), (a_ts, v_ts), (a_tr, v_tr) = (
        process.between(*pair) for pair in ((r, s), (s, t), (r, t))
    )
    np.testing.assert_allclose(a_ts * a_sr, a_tr, rtol=1e-9)
    np.testing.assert_allclose(a_ts**2 * v_sr + v_ts, v_tr, rtol=1e-9)


@pytest.mark.parametrize("name", PROCESSES)
def test_log_snr_falls_and_is_inverted(name):
    process = PROCESSES[name]()
    t = inner(process, 9)
    log_snr = process.log_snr(t)
    assert bool(jnp.all(jnp.diff(log_snr) < 0))
    np.testing.assert_allclose(process.time_of(log_snr), t, rtol=1e-7)


@pytest.mark.parametrize("name", PROCESSES)
def test_small_steps_are_the_sde(name):
    """α_ts and σ_ts² over a short time are 1 + f dt and g² dt."""
    process, dt = PROCESSES[name](), 1e-6
    # Away from the knots of a table.
    t = inner(process, 4) + 0.00037 * (process.end - process.start)
    alpha, variance = process.between(t - dt / 2, t + dt / 2)
    np.testing.assert_allclose((alpha - 1) / dt, process.drift(t), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(variance / dt, process.diffusion(t), rtol=1e-3)


@pytest.mark.parametrize("name", PARAMETRISATIONS)
@pytest.mark.parametrize("process", ["variance_preserving", "edm", "rectified_flow"])
def test_the_output_gives_back_data_and_noise(name, process):
    process = PROCESSES[process]()
    x, noise = jax.random.normal(KEY, (2, 5, 3))
    t = inner(process)
    x_t = process.noised(t, x, noise)
    output = target(process, name, t, x, noise)
    back = prediction(process, name, t, x_t, output)
    np.testing.assert_allclose(back.x, x, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(back.noise, noise, rtol=1e-6, atol=1e-6)


def test_the_rectified_flow_moves_from_data_to_noise():
    x, noise = jax.random.normal(KEY, (2, 3, 4))
    output = target(PROCESSES["rectified_flow"](), "flow", T, x, noise)
    np.testing.assert_allclose(output, noise - x, rtol=1e-12)


def test_preconditioning_is_the_paper_s():
    """c_skip and c_out of table 1, and a target of unit variance for data of variance σ_data²."""
    process, s, sigma = PROCESSES["edm"](), 0.5, jnp.array([0.01, 0.3, 7.0])
    x, noise = jax.random.normal(KEY, (2, 3, 200_000)) * jnp.array([s, 1.0])[:, None, None]
    output = target(process, "preconditioned", sigma, x, noise, s)
    skip = (s**2 / (sigma**2 + s**2))[:, None]
    out = (sigma * s / jnp.sqrt(sigma**2 + s**2))[:, None]
    np.testing.assert_allclose(skip * (x + sigma[:, None] * noise) + out * output, x, atol=1e-9)
    np.testing.assert_allclose(output.var(-1), 1, rtol=0.02)


def test_weightings():
    process, sigma = PROCESSES["edm"](), jnp.array([0.05, 0.5, 3.0])
    snr = sigma**-2.0
    named = {name: weighting(process, sigma, 0.5) for name, weighting in WEIGHTINGS.items()}
    np.testing.assert_allclose(named["simple"], 1)
    # λ = -2 log σ, and so -λ'/2 = 1/σ
    np.testing.assert_allclose(named["likelihood"], 1 / sigma, rtol=1e-9)
    np.testing.assert_allclose(named["clipped"], jnp.minimum(snr, 5) / snr, rtol=1e-9)
    # λ(σ) of table 1, of the error of x
    want = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
    np.testing.assert_allclose(named["edm"] * snr, want, rtol=1e-9)


@pytest.mark.parametrize("process", ["rectified_flow", "variance_preserving"])
def test_flow_matching_is_a_weighting(process):
    """|v - v̂|² of the velocity that any ε̂ with its x̂ makes."""
    process = PROCESSES[process]()
    x, noise, output = jax.random.normal(KEY, (3, 3, 4))
    x_t = process.noised(T, x, noise)
    seen = prediction(process, "noise", T, x_t, output)
    off = target(process, "flow", T, x, noise) - target(process, "flow", T, seen.x, seen.noise)
    want = WEIGHTINGS["flow"](process, T, 0.5) * jnp.sum((noise - output) ** 2, -1)
    np.testing.assert_allclose(jnp.sum(off**2, -1), want, rtol=1e-9)


def test_a_learnt_schedule_falls_between_its_ends():
    eta = sde.monotone(8)
    stirred = jax.tree.map(lambda e: e + jax.random.normal(KEY, e.shape), eta)
    process, t = sde.learnt(stirred, most=9.0, least=-4.0), jnp.linspace(0, 1, 50)
    log_snr = process.log_snr(t)
    np.testing.assert_allclose(log_snr[jnp.array([0, -1])], [9.0, -4.0], rtol=1e-6)
    assert bool(jnp.all(jnp.diff(log_snr) < 0))
    np.testing.assert_allclose(process.alpha(t) ** 2 + process.sigma(t) ** 2, 1, rtol=1e-9)


def test_times_are_spread_evenly_and_each_is_uniform():
    process = PROCESSES["variance_preserving"]()
    drawn = np.sort(times(KEY, process, 16))
    np.testing.assert_allclose(np.diff(drawn), (process.end - process.start) / 16, rtol=1e-6)
    many = np.stack([times(jax.random.key(i), process, 4) for i in range(2000)])
    np.testing.assert_allclose(many.mean(0), 0.5, atol=4 / np.sqrt(12 * 2000))
