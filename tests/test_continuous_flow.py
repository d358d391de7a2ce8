"""The continuous flow: a density that is one, its inverse, and what it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax_zoo.contract import ConfigError, DataError, Exactness
from genjax_zoo.data import densities
from genjax_zoo.models import continuous_flow

KEY = jax.random.key(0)
POINTS = densities.make("two_moons").sample(KEY, 500)


def built(**fields):
    config = continuous_flow.Config(**{"widths": (32, 32), "steps": 10} | fields)
    model = continuous_flow.make(config, optax.adam(5e-3))
    return model, model.init(KEY, {"x": POINTS})


def test_first_batch_gives_the_affine_map():
    _, state = built()
    np.testing.assert_allclose(state.params.shift, POINTS.mean(0), rtol=1e-5)
    np.testing.assert_allclose(jnp.exp(state.params.log_scale), POINTS.std(0), rtol=1e-5)


def test_density_integrates_to_one_before_and_after_learning():
    model, state = built()
    step = jax.jit(model.step)
    line = jnp.linspace(-8, 8, 300)
    grid = jnp.stack(jnp.meshgrid(line, line), -1).reshape(-1, 2)
    log_prob = jax.jit(model.log_prob.__call__)
    before = float(log_prob(KEY, state, {"x": POINTS}).mean())
    for i in range(60):
        state, _ = step(jax.random.key(i), state, {"x": POINTS})
    after = float(log_prob(KEY, state, {"x": POINTS}).mean())
    assert after > before + 0.3
    mass = jnp.exp(log_prob(KEY, state, {"x": grid})).sum() * (line[1] - line[0]) ** 2
    assert float(mass) == pytest.approx(1, abs=1e-3)


def test_decode_undoes_encode_and_the_samples_are_the_density_s():
    model, state = built()
    z = model.latents.encode(KEY, state, {"x": POINTS})
    np.testing.assert_allclose(model.latents.decode(KEY, state, z)["x"], POINTS, atol=1e-4)
    # E_p[x] by samples and by quadrature
    x = model.sample(KEY, state, 20_000)["x"]
    with pytest.raises(DataError, match="cannot be told that"):
        model.sample(KEY, state, 3, {"label": 1})
    line = jnp.linspace(-8, 8, 300)
    grid = jnp.stack(jnp.meshgrid(line, line), -1).reshape(-1, 2)
    p = jnp.exp(model.log_prob(KEY, state, {"x": grid}))
    mean = (p[:, None] * grid).sum(0) / p.sum()
    np.testing.assert_allclose(x.mean(0), mean, atol=4 * float(x.std()) / 20_000**0.5)


def test_probes_estimate_the_exact_log_prob_without_bias():
    exact, state = built()
    probed, _ = built(probes=1)
    assert (exact.log_prob.exactness, probed.log_prob.exactness) == (
        Exactness.EXACT,
        Exactness.ESTIMATE,
    )
    few = {"x": POINTS[:5]}
    keys = jax.random.split(KEY, 400)
    draws = jax.jit(jax.vmap(lambda key: probed.log_prob(key, state, few)))(keys)
    error = draws.std(0) / len(keys) ** 0.5
    assert float(error.max()) > 0
    truth = exact.log_prob(KEY, state, few)
    assert np.all(np.abs(draws.mean(0) - truth) < 4 * error + 1e-4)


def test_adaptive_steps_agree_with_equal_ones():
    model, state = built(steps=40)
    adaptive, _ = built(method="dopri5", tolerance=1e-6)
    few = {"x": POINTS[:20]}
    one, other = (m.log_prob(KEY, state, few) for m in (model, adaptive))
    np.testing.assert_allclose(one, other, atol=1e-3)
    state, info = jax.jit(adaptive.step)(KEY, state, few)
    assert np.isfinite(info["loss"])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"widths": ()}, "widths"),
        ({"steps": 0}, "steps"),
        ({"probes": -1}, "probes"),
        ({"method": "rk5"}, "Known: dopri5, euler, heun, rk4"),
        ({"activation": "reluu"}, "relu"),
        ({"average": 1.0}, "average"),
    ],
)
def test_bad_configs_are_refused(fields, said):
    with pytest.raises(ConfigError, match=said):
        continuous_flow.Config(**fields)
