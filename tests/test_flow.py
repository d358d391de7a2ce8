"""Flows: densities that are densities, of points, images and levels; and what they learn."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax_zoo.contract import UNIT, ConfigError, DataError, Exactness
from genjax_zoo.data import densities
from genjax_zoo.data.config import Data
from genjax_zoo.data.sources import open_source
from genjax_zoo.measure.results import Result, bits_per_dim
from genjax_zoo.models import flow

KEY = jax.random.key(0)
POINTS = densities.make("two_moons").sample(KEY, 400)
IMAGES = jax.random.uniform(KEY, (30, 4, 4, 1))
SMALL = {"layers": 2, "widths": (16,), "bins": 4}


def built(x=POINTS, **fields):
    model = flow.make(flow.Config(**SMALL | fields), optax.adam(5e-3))
    return model, jax.jit(model.init)(KEY, {"x": x})


def trained(x=POINTS, steps=40, **fields):
    model, state = built(x, **fields)
    step = jax.jit(model.step)
    for i in range(steps):
        state, _ = step(jax.random.fold_in(KEY, i), state, {"x": x})
    return model, state


def shaken(state):
    """Parameters that are not those of the start, where couplings are the identity."""
    leaves, tree = jax.tree.flatten(state.params)
    keys = jax.random.split(KEY, len(leaves))
    moved = [p + 0.1 * jax.random.normal(k, p.shape) for k, p in zip(keys, leaves, strict=True)]
    return state.replace(params=jax.tree.unflatten(tree, moved))


@pytest.mark.parametrize(
    "architecture",
    [
        pytest.param(a, marks=[pytest.mark.slow] if a in ("nice", "realnvp") else [])
        for a in flow.ARCHITECTURES
    ],
)
def test_learnt_density_integrates_to_one_and_its_map_inverts(architecture):
    model, state = trained(architecture=architecture)
    assert model.log_prob.exactness is Exactness.EXACT
    line = jnp.linspace(-12, 12, 500)
    grid = jnp.stack(jnp.meshgrid(line, line), -1).reshape(-1, 2)
    p = jnp.exp(jax.jit(model.log_prob.__call__)(KEY, state, {"x": grid}))
    assert float(p.sum()) * float(line[1] - line[0]) ** 2 == pytest.approx(1, abs=1e-3)
    z = jax.jit(model.latents.encode)(KEY, state, {"x": POINTS})
    np.testing.assert_allclose(jax.jit(model.latents.decode)(KEY, state, z)["x"], POINTS, atol=1e-4)


def test_samples_are_of_the_density():
    """E[x] by draws and by quadrature, under a prior that is not Gaussian."""
    model, state = trained(architecture="realnvp", prior="logistic")
    n = 20_000
    x = jax.jit(model.sample, static_argnums=2)(KEY, state, n)["x"]
    line = jnp.linspace(-30, 30, 900)
    grid = jnp.stack(jnp.meshgrid(line, line), -1).reshape(-1, 2)
    p = jnp.exp(jax.jit(model.log_prob.__call__)(KEY, state, {"x": grid}))
    mean = (p[:, None] * grid).sum(0) / p.sum()
    assert np.all(np.abs(x.mean(0) - mean) < 4 * x.std(0) / n**0.5)


@pytest.mark.slow
def test_no_flow_beats_the_entropy():
    """On fresh draws, by more than three standard errors; and splines come close in seconds."""
    truth = densities.make("eight_gaussians")
    config = flow.Config(architecture="spline", layers=4, widths=(64,))
    model = flow.make(config, optax.adam(optax.cosine_decay_schedule(5e-3, 1200)))
    state = jax.jit(model.init)(KEY, {"x": truth.sample(KEY, 500)})

    @jax.jit
    def learn(state):
        def step(state, key):
            return model.step(key, state, {"x": truth.sample(key, 200)})[0], None

        return jax.lax.scan(step, state, jax.random.split(KEY, 1200))[0]

    fresh = truth.sample(jax.random.key(99), 10_000)
    nats = jax.jit(model.log_prob.__call__)(KEY, learn(state), {"x": fresh})
    error = float(nats.std()) / 100
    assert -float(nats.mean()) > truth.entropy - 3 * error
    assert -float(nats.mean()) < truth.entropy + 0.15


@pytest.mark.parametrize("architecture", [pytest.param("realnvp", marks=pytest.mark.slow), "glow"])
def test_scales_keep_the_shape_and_invert(architecture):
    fields = {"architecture": architecture, "layers": 1, "scales": 2, "alpha": 0.05}
    model, state = built(IMAGES, **fields)
    assert model.spaces["x"] == UNIT
    beyond = model.log_prob(KEY, state, {"x": IMAGES.at[0, 0, 0, 0].set(1.2)})
    assert beyond[0] == -np.inf and np.isfinite(beyond[1:]).all()

    @jax.jit
    def there_and_back(state):
        z = model.latents.encode(KEY, state, {"x": IMAGES})
        return (
            z,
            model.latents.decode(KEY, state, z)["x"],
            model.log_prob(KEY, state, {"x": IMAGES}),
        )

    z, x, nats = there_and_back(shaken(state))
    assert z.shape == IMAGES.shape
    np.testing.assert_allclose(x, IMAGES, atol=1e-4)
    assert np.isfinite(nats).all()
    assert nats.shape == (30,)


def test_probabilities_of_levels_sum_to_at_most_one():
    """All images of two pixels and three levels; the bound is averaged over the noise."""
    levels = 3
    everything = jnp.array(list(itertools.product((0, 0.5, 1), repeat=2)))
    # Of nine images, mostly these.
    logits = jnp.array([4.0, 0, 0, 0, 3, 0, 0, 0, 2])
    x = everything[jax.random.categorical(KEY, logits, shape=(300,))]
    fields = {"levels": levels, "dequantisation_layers": 2, "architecture": "realnvp"}
    model, state = trained(x, 60, **fields)
    assert model.log_prob.exactness is Exactness.LOWER_BOUND
    keys = jax.random.split(jax.random.key(3), 2000)
    draws = jax.jit(jax.vmap(lambda k: model.log_prob(k, state, {"x": everything})))(keys)
    # E_q[p(x + u) / q(u | x)] is the mass of x exactly, and the bound lies below its logarithm.
    mass = jnp.exp(jax.nn.logsumexp(draws, 0) - math.log(len(keys)))
    assert 0.5 < float(mass.sum()) < 1.02
    assert np.all(draws.mean(0) < jnp.log(mass) + 1e-6)
    for off in (0.2, 4 / 3, 2.0, -1.0):
        outside = model.log_prob(KEY, state, {"x": everything + off})
        on = np.asarray(((everything + off >= 0) & (everything + off <= 1)).all(1)) & (off != 0.2)
        assert np.all((outside == -np.inf) == ~on), off
    drawn = model.sample(KEY, state, 50)["x"]
    assert set(np.unique(drawn)) <= {0, 0.5, 1}
    bits, batch = model.measures["bits_per_dim"], {"x": everything}
    nats = model.log_prob(KEY, state, batch)
    per_dim = bits(KEY, state, batch) / bits.per(batch)
    np.testing.assert_allclose(per_dim, -nats / (2 * math.log(2)), rtol=1e-6)


@pytest.mark.slow
def test_variational_noise_sees_its_image_and_tightens_the_bound():
    x = jnp.clip(jnp.round(2 * POINTS + 2), 0, 4) / 4
    fields = {"levels": 5, "architecture": "realnvp"}
    uniform, learnt = (
        float(jax.jit(model.log_prob.__call__)(jax.random.key(7), state, {"x": x}).mean())
        for model, state in (trained(x, 300, **fields, dequantisation_layers=n) for n in (0, 2))
    )
    assert learnt > uniform


def test_labels_condition_the_flow():
    label = jnp.asarray(POINTS[:, 1] > 0.25, jnp.int32)
    model = flow.make(flow.Config(**SMALL, architecture="spline", classes=2), optax.adam(1e-2))
    batch = {"x": POINTS, "label": label}
    state, step = jax.jit(model.init)(KEY, batch), jax.jit(model.step)
    for i in range(100):
        state, _ = step(jax.random.fold_in(KEY, i), state, batch)
    log_prob = jax.jit(model.log_prob.__call__)
    right = log_prob(KEY, state, batch).mean()
    wrong = log_prob(KEY, state, {**batch, "label": 1 - label}).mean()
    assert right > wrong + 0.3
    drawn = model.sample(KEY, state, 300, {"label": 1})
    assert np.all(drawn["label"] == 1)
    assert drawn["x"][:, 1].mean() > POINTS[:, 1].mean()
    with pytest.raises(DataError, match=r"0 \.\. 1"):
        model.sample(KEY, state, 3, {"label": 2})


@pytest.mark.parametrize("shape", [(2,), (4, 4, 1)], ids=["points", "images"])
def test_the_label_is_a_part_of_the_latents(shape):
    x = POINTS[:30] if shape == (2,) else IMAGES
    batch = {"x": x, "label": jnp.arange(30, dtype=jnp.int32) % 3}
    fields = {"classes": 3, "scales": 0 if shape == (2,) else 1}
    model = flow.make(flow.Config(**SMALL | fields), optax.adam(5e-3))
    state = shaken(jax.jit(model.init)(KEY, batch))
    z = jax.jit(model.latents.encode)(KEY, state, batch)
    assert z.shape == model.latents.prior(KEY, state, 30).shape == (30, math.prod(shape) + 3)
    np.testing.assert_allclose(jax.jit(model.latents.decode)(KEY, state, z)["x"], x, atol=1e-4)
    # Another label is another flow.
    other = jax.jit(model.latents.encode)(KEY, state, {**batch, "label": batch["label"] * 0})
    assert float(jnp.abs(other - z)[1:3, :-3].max()) > 1e-3
    with pytest.raises(DataError, match="labelled data"):
        model.log_prob(KEY, state, {"x": x})


def test_a_flow_without_labels_takes_none():
    model, state = built()
    with pytest.raises(DataError, match="label was given, and this model knows no labels"):
        model.sample(KEY, state, 3, {"label": 1})


def test_bits_of_a_uniform_density_are_those_of_the_levels():
    nats = Result("log_prob", 0.0, 0.1, "exact", "nats", "test", 5, "", 1, "higher")
    bits = bits_per_dim(nats, dims=10, level=1 / 256)
    assert bits.value == pytest.approx(8)
    assert bits.standard_error == pytest.approx(0.1 / 10 / math.log(2))
    assert (bits.kind, bits.unit, bits.better) == ("lower_bound", "bits/dim", "lower")
    # In raw levels a cell has volume 1, in [0, 1] it has 1/17: the same number of bits.
    raw = open_source(Data(dequantise=True, scale="raw"), 0)
    unit = open_source(Data(dequantise=True), 0)
    assert (raw.level, unit.level) == (1, pytest.approx(1 / 17))
    assert open_source(Data(), 0).level == 0


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"architecture": "realnpv"}, "realnvp"),
        ({"layers": 0}, "layers"),
        ({"architecture": "maf", "scales": 1}, "flow of vectors"),
        ({"levels": 1}, "levels"),
        ({"dequantisation_layers": 2}, "levels"),
        ({"alpha": 0.5}, "alpha"),
        ({"bins": 1}, "bins"),
        ({"widths": (0,)}, "widths"),
    ],
)
def test_bad_configs_are_refused(fields, said):
    with pytest.raises(ConfigError, match=said):
        flow.Config(**fields)


def test_vectors_have_no_scales():
    with pytest.raises(ConfigError, match=r"set model\.scales to 0"):
        built(scales=1)
