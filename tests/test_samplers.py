"""Samplers on Gaussian data with the exact score, where what each ends in has a closed form.

Data N(0, s²) make E[x | x_t] = α s² / v x_t and E[ε | x_t] = σ / v x_t with v = α² s² + σ². A step
of every sampler is then x_s = m x_t + τ z, and the variance follows var ← m² var + τ². The closed
forms of m and τ below are derived from the papers, not from the code.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_zoo.maths.diffusion import samplers, sde
from genjax_zoo.maths.diffusion.denoising import Prediction
from genjax_zoo.maths.diffusion.samplers import GRIDS, SAMPLERS
from genjax_zoo.maths.diffusion.sde import PROCESSES

KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def exact(process, variance):
    def predict(t, x):
        alpha, sigma = process.alpha(t), process.sigma(t)
        v = alpha**2 * variance + sigma**2
        return Prediction(alpha * variance / v * x, sigma / v * x)

    return predict


def ended(monkeypatch, sampler, process, variance, times, first, **kwargs):
    """Var of a sampler's end that begins with the variance `first`: exactly, by feeding it zeros.

    A sampler is affine in its start and in its noise. One chain of ones without noise gives the
    product of the m; and a unit noise at one step alone gives what that step contributes.
    """
    draws = []

    def counted(key, shape, *args, **kw):
        draws.append(shape)
        return jnp.zeros(shape)

    predict = exact(process, variance)
    scan = lambda step, carry, xs: _unrolled(step, carry, xs)
    monkeypatch.setattr(jax.lax, "scan", scan)
    monkeypatch.setattr(jax.random, "normal", counted)
    run = lambda x: SAMPLERS[sampler](KEY, process, predict, x, times, **kwargs)
    gain = float(run(jnp.ones(1))[0])
    n = len(draws)
    total = gain**2 * first
    # All unit noises at once: chain k of n + 1 gets its noise at draw k.
    place = iter(range(n))
    monkeypatch.setattr(jax.random, "normal", lambda key, shape: jnp.eye(n)[next(place)])
    parts = run(jnp.zeros(n)) if n else jnp.zeros(1)
    return total + float(jnp.sum(parts**2))


def _unrolled(step, carry, xs):
    for i in range(len(jax.tree.leaves(xs)[0])):
        carry, _ = step(carry, jax.tree.map(lambda each, i=i: each[i], xs))
    return carry, None


def recursion(process, variance, times, first, one):
    """var ← m² var + τ², with (m, τ²) = one(α_t, σ_t, α_s, σ_s, t, s), in plain numbers."""
    value = first
    for t, s in zip(np.asarray(times[:-1]), np.asarray(times[1:]), strict=True):
        numbers = [float(f(jnp.asarray(u))) for u in (t, s) for f in (process.alpha, process.sigma)]
        m, tau2 = one(*numbers, float(t), float(s))
        value = m**2 * value + tau2
    return value


@pytest.mark.parametrize(
    ("kind", "published"),
    [pytest.param("large", 0.999900, marks=pytest.mark.slow), ("small", 0.991067)],
)
def test_a_thousand_ancestral_steps_end_in_the_published_variance(kind, published):
    """DDPM's linear chain on N(0, 1), and x̂ itself at the end instead of a last noise."""
    process = PROCESSES["ddpm"]()
    times = samplers.even(process, 999)
    (m, noise), at = _gaussian_ancestral(process, 1.0, kind), jnp.asarray(times)
    step, value = lambda s, t: (m(s, t) ** 2, noise(s, t)), 1.0
    for shrunk, added in zip(*map(np.asarray, jax.jit(step)(at[1:], at[:-1])), strict=True):
        value = float(shrunk * value + added)
    value *= float(process.alpha(at[-1])) ** 2
    assert value == pytest.approx(published, abs=5e-7)
    # And so end samples: of 4,000 the variance is known to some 2 %.
    x = samplers.ancestral(
        KEY, process, exact(process, 1.0), jax.random.normal(KEY, (4000,)), times, variance=kind
    )
    seen = exact(process, 1.0)(times[-1], x).x
    assert float(seen.var()) == pytest.approx(published, rel=4 * math.sqrt(2 / 4000))


def _gaussian_ancestral(process, variance, kind):
    def m(s, t):
        a_ts, v_ts = process.between(s, t)
        v_t = process.sigma(t) ** 2
        seen = process.alpha(t) * variance / (process.alpha(t) ** 2 * variance + v_t)
        return a_ts * process.sigma(s) ** 2 / v_t + process.alpha(s) * v_ts / v_t * seen

    def noise(s, t):
        v_ts = process.between(s, t)[1]
        return v_ts if kind == "large" else v_ts * (process.sigma(s) / process.sigma(t)) ** 2

    return m, noise


def ancestral_small(variance):
    def one(a_t, s_t, a_s, s_s, t, s):
        # q(x_s | x_t, x) in the form of precisions: 1/τ² = 1/σ_s² + α_ts²/σ_ts²
        a = a_t / a_s
        v = s_t**2 - a**2 * s_s**2
        tau2 = 1 / (1 / s_s**2 + a**2 / v)
        seen = a_t * variance / (a_t**2 * variance + s_t**2)
        return tau2 * (a / v + a_s / s_s**2 * seen), tau2

    return one


def ddim_by_hand(variance):
    def one(a_t, s_t, a_s, s_s, t, s):
        v = a_t**2 * variance + s_t**2
        return (a_s * a_t * variance + s_s * s_t) / v, 0.0

    return one


CASES = {
    "ancestral": ("ancestral", {}, ancestral_small),
    "ddim, eta 1": ("ddim", {"eta": 1.0}, ancestral_small),
    "ddim": ("ddim", {}, ddim_by_hand),
}
KNOWN = ["variance_preserving", "edm", "sub_variance_preserving", "ddpm"]


@pytest.mark.parametrize("variance", [1.0, 0.3])
@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("case", CASES)
def test_the_final_variance_is_the_closed_form(monkeypatch, case, name, variance):
    sampler, kwargs, by_hand = CASES[case]
    process = PROCESSES[name]()
    times = GRIDS["even_in_log_snr"](process, 12)
    first = float(process.sigma(times[0])) ** 2
    want = recursion(process, variance, times, first, by_hand(variance))
    got = ended(monkeypatch, sampler, process, variance, times, first, **kwargs)
    assert got == pytest.approx(want, rel=1e-6)


def vp_rates(t):
    return 0.1 + 19.9 * t


@pytest.mark.parametrize("variance", [1.0, 0.3])
@pytest.mark.parametrize("sampler", ["reverse_sde", "euler", "heun", "predictor_corrector"])
def test_the_variance_preserving_solvers_end_in_their_closed_forms(monkeypatch, sampler, variance):
    process = PROCESSES["variance_preserving"]()
    times = samplers.even(process, 10)

    def slope(a_t, s_t, t):
        # dx/dt = -½ β x - ½ β ∇log p = -½ β (1 - 1/v) x
        return -0.5 * vp_rates(t) * (1 - 1 / (a_t**2 * variance + s_t**2))

    def one(a_t, s_t, a_s, s_s, t, s):
        h, beta = t - s, vp_rates(t)
        k = slope(a_t, s_t, t)
        if sampler == "euler":
            return 1 - h * k, 0.0
        if sampler == "heun":
            return 1 - 0.5 * h * (k + slope(a_s, s_s, s) * (1 - h * k)), 0.0
        m, tau2 = 1 + h * (0.5 * beta - beta / (a_t**2 * variance + s_t**2)), beta * h
        if sampler == "predictor_corrector":
            # x + ½ ε ∇log p + √ε z with ε = 4 (r σ)²
            size = 4 * (0.16 * s_s) ** 2
            again = 1 - 0.5 * size / (a_s**2 * variance + s_s**2)
            m, tau2 = m * again, tau2 * again**2 + size
        return m, tau2

    want = recursion(process, variance, times, 1.0, one)
    got = ended(monkeypatch, sampler, process, variance, times, 1.0)
    assert got == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("variance", [1.0, 0.3])
def test_annealed_langevin_ends_in_its_closed_form(monkeypatch, variance):
    process = PROCESSES["variance_exploding"](0.1, 3.0)
    times = samplers.even(process, 4)
    rate, steps, first = 2e-3, 3, 9.0
    value = first
    for s in np.asarray(times[1:]):
        noise = 0.1 * 30**s
        size = rate * (noise / 0.1) ** 2
        for _ in range(steps):
            value = (1 - 0.5 * size / (variance + noise**2)) ** 2 * value + size
    got = ended(
        *(monkeypatch, "annealed_langevin", process, variance, times, first),
        rate=rate,
        corrector_steps=steps,
    )
    assert got == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("name", ["variance_preserving", "edm", "rectified_flow"])
@pytest.mark.parametrize(
    ("sampler", "order"), [("ddim", 1), ("euler", 1), ("heun", 2), ("dpm_solver", 2)]
)
def test_the_ode_s_solvers_converge_at_their_order(sampler, order, name):
    """The flow takes x_t to √(v_s / v_t) x_t: Gaussians stay Gaussians of the same quantile."""
    variance = 0.3
    process = PROCESSES[name]()._replace(start=0.05, end=0.95)
    spread = lambda t: jnp.sqrt(process.alpha(t) ** 2 * variance + process.sigma(t) ** 2)
    errors = []
    for steps in (40, 80):
        times = samplers.even_in_log_snr(process, steps)
        x = jnp.ones(1) * spread(times[0])
        end = SAMPLERS[sampler](KEY, process, exact(process, variance), x, times)
        errors.append(abs(float(end[0] / spread(times[-1])) - 1))
    assert errors[1] < 2e-2
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.35)


@pytest.mark.parametrize("name", ["variance_preserving", "variance_exploding", "rectified_flow"])
def test_the_adaptive_solver_ends_where_the_flow_does(name):
    process, variance = PROCESSES[name](), 0.3
    spread = lambda t: jnp.sqrt(process.alpha(t) ** 2 * variance + process.sigma(t) ** 2)
    times = samplers.even(process, 1)
    x = spread(times[0]) * jnp.array([-1.0, 0.5, 2.0])
    end = samplers.adaptive(KEY, process, exact(process, variance), x, times, tolerance=1e-7)
    np.testing.assert_allclose(end, spread(times[1]) * jnp.array([-1.0, 0.5, 2.0]), rtol=1e-4)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", PROCESSES)
def test_grids_go_down_from_end_to_start(grid, name):
    process = PROCESSES[name]()._replace(end=0.9)
    times = GRIDS[grid](process, 7)
    assert times.shape == (8,)
    assert float(times[0]) == pytest.approx(process.end)
    assert float(times[-1]) == pytest.approx(process.start)
    assert bool(jnp.all(jnp.diff(times) < 0))


def test_karras_times_are_the_paper_s():
    """σ_i of equation 5, for σ_min .002, σ_max 80, ρ 7."""
    times = samplers.karras(sde.edm(), 17)
    i = np.arange(18)
    want = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(times, want, rtol=1e-6)
