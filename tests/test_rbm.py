"""The restricted Boltzmann machine against enumeration of everything it could do."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax_zoo.contract import ConfigError, DataError, Exactness
from genjax_zoo.learn import verbs
from genjax_zoo.maths.mcmc import ais, boltzmann, chains, gibbs
from genjax_zoo.maths.mcmc.boltzmann import Machine
from genjax_zoo.models import rbm
from tests.conftest import compiled

KEY = jax.random.key(0)


def states(n):
    """All 2^n states of n units."""
    return jnp.array(list(np.ndindex(*(2,) * n)), jnp.float32).reshape(2**n, n)


free_energy = jax.jit(boltzmann.free_energy)
hidden_free_energy = jax.jit(boltzmann.hidden_free_energy)
hidden_mean = jax.jit(boltzmann.hidden_mean)
visible_mean = jax.jit(boltzmann.visible_mean)
log_partition = jax.jit(boltzmann.log_partition, static_argnames="block")
recentre = jax.jit(boltzmann.recentre, static_argnames="nu")


@functools.partial(jax.jit, static_argnames=("D", "H", "offsets"))
def machine(D=5, H=3, offsets=True, key=KEY):
    """A machine with nothing special about any of its parameters."""
    W, b, c, mu, lam = (
        jax.random.normal(k, s)
        for k, s in zip(jax.random.split(key, 5), [(D, H), D, H, D, H], strict=True)
    )
    scale = 0.3 if offsets else 0.0
    return Machine(W, b, c, scale * mu, scale * lam, jnp.full(D, 0.5), shape=(D,))


def energies(p, vs, hs):
    """E(v, h) for all pairs, written down stupidly: [V, H] in float64."""
    W, b, c, mu, lam = (np.asarray(a, np.float64) for a in (p.W, p.b, p.c, p.mu, p.lam))
    E = np.zeros((len(vs), len(hs)))
    for i, v in enumerate(np.asarray(vs, np.float64)):
        for j, h in enumerate(np.asarray(hs, np.float64)):
            E[i, j] = -(v - mu) @ b - c @ (h - lam) - (v - mu) @ W @ (h - lam)
    return E


def joint(p):
    """p(v, h) over all states, [2^D, 2^H]."""
    D, H = p.W.shape
    weight = np.exp(-energies(p, states(D), states(H)))
    return weight / weight.sum()


def model_and_state(params, tx=None, **config):
    """A model, and a state of it that has these parameters."""
    model = compiled(rbm.make(rbm.Config(hidden=params.c.size, **config), tx or optax.sgd(0.1)))
    state = model.init(KEY, {"x": jnp.zeros((4, *params.shape))})
    return model, state.replace(params=params)


# The distribution


@pytest.mark.parametrize("offsets", [False, True])
def test_free_energy_sums_over_hidden(offsets):
    p = machine(offsets=offsets)
    twin = -np.log(np.exp(-energies(p, states(5), states(3))).sum(1))
    np.testing.assert_allclose(free_energy(p, states(5)), twin, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("D, H", [(5, 3), (3, 5), (4, 4)])
def test_probabilities_are_those_of_enumeration_and_sum_to_one(D, H):
    p = machine(D, H)
    model, state = model_and_state(p)
    assert model.log_prob.exactness is Exactness.EXACT
    log_p = model.log_prob(KEY, state, {"x": states(D)})
    np.testing.assert_allclose(log_p, np.log(joint(p).sum(1)), atol=1e-4)
    np.testing.assert_allclose(jnp.exp(log_p).sum(), 1, rtol=1e-5)


def test_enumeration_of_either_side_and_in_any_blocks_is_the_same():
    p = machine(7, 6)
    over_hidden = log_partition(p)
    over_visible = jax.nn.logsumexp(-free_energy(p, states(7)))
    in_blocks = log_partition(p, block=8)
    np.testing.assert_allclose(over_hidden, over_visible, rtol=1e-6)
    np.testing.assert_allclose(over_hidden, in_blocks, rtol=1e-6)


def test_grey_values_and_too_many_units_have_no_likelihood():
    model, state = model_and_state(machine())
    assert model.log_prob(KEY, state, {"x": jnp.full((1, 5), 0.5)})[0] == -jnp.inf
    assert (
        rbm.make(rbm.Config(hidden=21), optax.sgd(0.1)).log_prob.exactness is Exactness.UNNORMALISED
    )
    small = rbm.make(rbm.Config(hidden=21, visible=5), optax.sgd(0.1))
    assert small.log_prob.exactness is Exactness.EXACT
    with pytest.raises(ConfigError, match="at most 20 units"):
        log_partition(machine(21, 21))
    with pytest.raises(ConfigError, match="visible=5 was promised, but the data have 6"):
        small.init(KEY, {"x": jnp.zeros((2, 3, 2))})


def test_unnormalised_differs_from_exact_by_a_constant():
    p = machine(5, 21)
    guess, state = model_and_state(p)
    truth, _ = model_and_state(p, visible=5)
    x = {"x": states(5)}
    gap = guess.log_prob(KEY, state, x) - truth.log_prob(KEY, state, x)
    np.testing.assert_allclose(gap, gap[0], atol=1e-4)


def test_conditionals_are_those_of_the_joint():
    p = machine()
    pvh = joint(p)
    h_given_v = pvh @ np.asarray(states(3)) / pvh.sum(1, keepdims=True)
    v_given_h = pvh.T @ np.asarray(states(5)) / pvh.sum(0)[:, None]
    np.testing.assert_allclose(hidden_mean(p, states(5)), h_given_v, atol=1e-5)
    np.testing.assert_allclose(visible_mean(p, states(3)), v_given_h, atol=1e-5)


def test_centring_changes_coordinates_and_not_the_distribution():
    p = machine()
    data = states(5)[jnp.array([3, 7, 7, 21, 30])]
    moved = recentre(p, data, nu=1.0)
    np.testing.assert_allclose(moved.mu, data.mean(0), atol=1e-6)
    np.testing.assert_allclose(moved.lam, hidden_mean(p, data).mean(0), atol=1e-6)
    assert float(jnp.abs(moved.b - p.b).max()) > 0.1
    np.testing.assert_allclose(joint(moved), joint(p), atol=1e-6)


# The gradient


def explicit_gradient(p, positive, negative):
    """<(v - μ)(h - λ)ᵀ> and so on over the negatives minus over the data, h by enumeration."""
    pvh = joint(p)
    h_given_v = pvh @ np.asarray(states(3)) / pvh.sum(1, keepdims=True)

    def statistics(v):
        rows = (np.asarray(v) @ 2 ** np.arange(4, -1, -1)).astype(int)
        dv, dh = np.asarray(v) - np.asarray(p.mu), h_given_v[rows] - np.asarray(p.lam)
        return dv.T @ dh / len(v), dv.mean(0), dh.mean(0)

    return [n - d for d, n in zip(statistics(positive), statistics(negative), strict=True)]


@jax.jit
def gap(p, positive, negative):
    return free_energy(p, positive).mean() - free_energy(p, negative).mean()


def test_gradient_of_the_gap_is_the_explicit_statistics_and_finite_differences():
    p = machine()
    positive, negative = states(5)[jnp.array([1, 5, 9])], states(5)[jnp.array([2, 30, 17, 4])]
    g = jax.jit(jax.grad(gap))(p, positive, negative)
    for own, twin in zip((g.W, g.b, g.c), explicit_gradient(p, positive, negative), strict=True):
        np.testing.assert_allclose(own, twin, atol=1e-5)
    assert not jnp.any(g.mu) and not jnp.any(g.lam)
    h = 1e-2
    for name, index in (("W", (2, 1)), ("b", (3,)), ("c", (0,))):
        nudged = [p.replace(**{name: getattr(p, name).at[index].add(step)}) for step in (h, -h)]
        difference = (gap(nudged[0], positive, negative) - gap(nudged[1], positive, negative)) / (
            2 * h
        )
        np.testing.assert_allclose(getattr(g, name)[index], difference, atol=1e-3)


@pytest.mark.parametrize("chain", ["cd", "pcd"])
def test_a_step_moves_by_the_gradient_of_the_gap(chain):
    """With rate 1 and plain descent the step is θ - ∇gap for some binary negatives."""
    p, x = machine(), states(5)[4:12]
    model, state = model_and_state(p, optax.sgd(1.0), chain=chain, k=3, chains=8)
    new, info = model.step(KEY, state, {"x": x})
    # b - b' = <v> over negatives - over data gives the negatives' mean away: eighths in [0, 1].
    negatives = np.asarray(p.b - new.params.b + x.mean(0)) * 8
    np.testing.assert_allclose(negatives, np.round(negatives), atol=1e-4)
    assert negatives.min() > -0.1 and negatives.max() < 8.1
    for name in ("mu", "lam", "rate"):
        assert jnp.array_equal(getattr(new.params, name), getattr(p, name))
    assert np.isfinite(info["free_energy_gap"])


def test_no_optimizer_moves_the_offsets():
    model, state = model_and_state(machine(), optax.adamw(0.1, weight_decay=0.5))
    new, _ = model.step(KEY, state, {"x": states(5)})
    for name in ("mu", "lam", "rate"):
        assert jnp.array_equal(getattr(new.params, name), getattr(state.params, name))
    assert float(jnp.abs(new.params.W - state.params.W).max()) > 0.01


def test_weight_decay_is_of_the_weights_alone():
    p, x = machine(), {"x": states(5)}
    plain, state = model_and_state(p, optax.sgd(1.0))
    decayed, _ = model_and_state(p, optax.sgd(1.0), weight_decay=0.25)
    a, b = (m.step(KEY, state, x)[0].params for m in (plain, decayed))
    np.testing.assert_allclose(a.W - b.W, 0.25 * p.W, atol=1e-5)
    np.testing.assert_allclose(a.b, b.b, atol=1e-6)


def test_contrastive_divergence_starts_at_the_data():
    """CD-1's negatives have the law Σ_v data(v) Σ_h p(h | v) p(v' | h), here enumerated."""
    p, data = machine(), states(5)[jnp.array([1, 5, 9, 30])]
    pvh = joint(p)
    h_given_v, v_given_h = pvh / pvh.sum(1, keepdims=True), (pvh / pvh.sum(0)).T
    law = h_given_v[np.array([1, 5, 9, 30])].mean(0) @ v_given_h
    many = jnp.repeat(states(5), np.round(20_000 * law).astype(int), axis=0)
    truth = explicit_gradient(p, data, many)
    model, state = model_and_state(p, optax.sgd(1.0), chain="cd", k=1)
    moved, _ = model.step(KEY, state, {"x": jnp.tile(data, (5000, 1))})
    for name, g in zip(("W", "b", "c"), truth, strict=True):
        own = getattr(p, name) - getattr(moved.params, name)
        np.testing.assert_allclose(own, g, atol=0.02)


@pytest.mark.parametrize("centred", [pytest.param(False, marks=pytest.mark.slow), True])
def test_persistent_chains_arrive_at_the_exact_gradient(centred):
    """One Gibbs step at a time, over many steps of learning that stand still."""
    p, x = machine(offsets=centred), states(5)[jnp.array([1, 5, 9, 30])]
    still, state = model_and_state(p, optax.sgd(0.0), chain="pcd", k=1, chains=20_000)
    step = still.step
    for i in range(30):
        state, _ = step(jax.random.fold_in(KEY, i), state, {"x": x})
    model, fresh = model_and_state(p, optax.sgd(1.0), chain="pcd", k=1, chains=20_000)
    state = fresh.replace(memory=state.memory)

    def exact(W, b, c):
        q = p.replace(W=W, b=b, c=c)
        return jnp.mean(free_energy(q, x)) + log_partition(q)

    truth = jax.jit(jax.grad(exact, argnums=(0, 1, 2)))(p.W, p.b, p.c)
    moved, _ = model.step(KEY, state, {"x": x})
    for name, g in zip(("W", "b", "c"), truth, strict=True):
        own = getattr(p, name) - getattr(moved.params, name)
        # One standard error is at most .5 / √20000 = .0035 (of 0/1 statistics).
        np.testing.assert_allclose(own, g, atol=0.02)


# The chain, and learning


def test_block_gibbs_leaves_the_joint_as_it_is():
    p = machine(3, 2)
    h = jnp.zeros((40_000, 2))
    v, h = jax.jit(lambda key: gibbs.run(key, p, h, 30))(KEY)
    code = np.asarray(v @ jnp.array([4, 2, 1]) * 4 + h @ jnp.array([2, 1])).astype(int)
    seen = np.bincount(code, minlength=32) / len(code)
    np.testing.assert_allclose(seen, joint(p).reshape(-1), atol=0.012)


def test_k_steps_of_a_chain_are_k_applications_of_its_kernel():
    count = chains.run(KEY, jnp.zeros(()), lambda key, s: s + 1, 5)
    assert count == 5
    drawn = chains.run(KEY, jnp.zeros(3), lambda key, s: jax.random.normal(key, (3,)) + s, 2)
    a, b = jax.random.split(KEY, 2)
    twin = jax.random.normal(a, (3,)) + jax.random.normal(b, (3,))
    np.testing.assert_allclose(drawn, twin, rtol=1e-6)


def test_persistent_chains_go_on_and_contrastive_divergence_starts_again():
    x = {"x": states(5)[:6]}
    pcd, state = model_and_state(machine(), chain="pcd", chains=7)
    new, _ = pcd.step(KEY, state, x)
    assert state.memory.shape == new.memory.shape == (7, 3)
    assert not jnp.array_equal(state.memory, new.memory)
    cd, state = model_and_state(machine(), chain="cd")
    assert cd.step(KEY, state, x)[0].memory == ()


def test_samples_follow_the_exact_distribution_and_have_the_shape_of_the_data():
    p = machine(4, 3).replace(shape=(2, 2, 1))
    model, state = model_and_state(p, sample_steps=30)
    x = model.sample(KEY, state, 40_000)["x"]
    assert x.shape == (40_000, 2, 2, 1) and x.dtype == jnp.float32
    code = np.asarray(x.reshape(-1, 4) @ jnp.array([8, 4, 2, 1])).astype(int)
    np.testing.assert_allclose(
        np.bincount(code, minlength=16) / len(code), joint(p).sum(1), atol=0.012
    )
    shown, _ = model_and_state(p, sample_steps=30, sample_means=True)
    both = shown.sample(KEY, state, 40_000)
    np.testing.assert_allclose(both["mean"].mean(0), x.mean(0), atol=0.012)
    assert jnp.array_equal(both["x"], x)


def test_the_first_machine_is_the_base_rate_model():
    x = jnp.array([[0, 1.0, 1], [0, 1, 0]])
    for centred in (False, True):
        config = rbm.Config(hidden=3, weight_std=0.0, centred=centred)
        model = compiled(rbm.make(config, optax.sgd(0.1)))
        state = model.init(KEY, {"x": x})
        rate = np.array([0.25, 0.75, 0.5])
        v = np.asarray(states(3))
        twin = np.where(v == 1, np.log(rate), np.log(1 - rate)).sum(1)
        np.testing.assert_allclose(model.log_prob(KEY, state, {"x": v}), twin, atol=1e-5)


BARS = jnp.array(
    [[0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 1, 0], [0, 1, 0, 1]],
    jnp.float32,
).reshape(6, 2, 2, 1)


def test_the_reconstruction_is_what_is_decoded_of_the_means():
    model, state = model_and_state(machine(4, 6).replace(shape=(2, 2, 1)))
    error = model.measures["reconstruction"](KEY, state, {"x": BARS})
    assert error.shape == (6,)
    hidden = model.latents.encode(KEY, state, {"x": BARS})
    assert hidden.shape == (6, 6)
    decoded = model.latents.decode(KEY, state, hidden)["x"]
    np.testing.assert_allclose(jnp.sum((decoded - BARS) ** 2, (1, 2, 3)), error, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("centred", [False, True])
def test_bars_and_stripes_are_learnt_to_near_their_entropy(centred):
    config = rbm.Config(hidden=6, chain="pcd", k=2, chains=200, centred=centred, weight_std=0.1)
    model = compiled(rbm.make(config, optax.sgd(optax.linear_schedule(0.2, 0.0, 10_000))))

    @jax.jit
    def train(state):
        one = lambda s, i: model.step(jax.random.fold_in(KEY, i), s, {"x": BARS})
        return jax.lax.scan(one, state, jnp.arange(10_000))[0]

    state = train(model.init(KEY, {"x": BARS}))
    nats = float(model.log_prob(KEY, state, {"x": BARS}).mean())
    entropy = math.log(6)
    assert -entropy - 0.15 < nats < -entropy
    error = model.measures["reconstruction"](KEY, state, {"x": BARS})
    assert error.shape == (6,)
    hidden = model.latents.encode(KEY, state, {"x": BARS})
    assert hidden.shape == (6, 6)
    decoded = model.latents.decode(KEY, state, hidden)["x"]
    np.testing.assert_allclose(jnp.sum((decoded - BARS) ** 2, (1, 2, 3)), error, rtol=1e-5)
    assert isinstance(state, verbs.TrainState)


# Every kind of unit: x binary or real, with a label or without, against sums and integrals

KINDS = [("bernoulli", 0), ("bernoulli", 3), ("gaussian", 0), ("gaussian", 3)]
ENDS = [
    pytest.param(*kind, marks=[] if kind in (KINDS[0], KINDS[-1]) else [pytest.mark.slow])
    for kind in KINDS
]
"""The least and the most of them; what lies between, by --slow."""
LEAST = [("tempering", *KINDS[0]), ("tempering", *KINDS[-1]), ("fast_pcd", *KINDS[0])]


@functools.partial(jax.jit, static_argnames=("units", "classes", "D", "H"))
def machine_of(units, classes, D=2, H=3, key=KEY):
    """A machine with nothing special about any of its parameters, offsets and σ included."""
    n = D + classes
    draws = zip(jax.random.split(key, 6), [(n, H), n, H, n, H, D], strict=True)
    W, b, c, mu, lam, s = (jax.random.normal(k, shape) for k, shape in draws)
    rate = jnp.concatenate([jnp.linspace(0.3, 0.6, D), jnp.full(classes, 1 / max(classes, 1))])
    log_std = 0.3 * s - 0.2 if units == "gaussian" else None
    return Machine(W, b, c, 0.3 * mu, 0.3 * lam, rate, (D,), log_std, classes, units)


def cells(p, side=161, reach=11.0):
    """Visible states and the volume of each: all of {0, 1}^D or a grid, times the labels."""
    D, C = p.shape[0], p.classes
    if p.log_std is None:
        x, volume = np.asarray(states(D)), 1.0
    else:
        line = np.linspace(-reach, reach, side)
        x = np.stack(np.meshgrid(*[line] * D), -1).reshape(-1, D)
        volume = (line[1] - line[0]) ** D
    if not C:
        return x, volume
    y = np.eye(C)
    return np.hstack([np.repeat(x, C, 0), np.tile(y, (len(x), 1))]), volume


def full_energy(p, v, h):
    """E(v, h) as in the module's docstring, all pairs, in float64: [V, H]."""
    W, b, c, mu, lam = (np.asarray(a, np.float64) for a in (p.W, p.b, p.c, p.mu, p.lam))
    v, h, D = np.asarray(v, np.float64), np.asarray(h, np.float64), p.shape[0]
    if p.log_std is None:
        variance, V = np.ones(len(b)), -(v - mu) @ b
    else:
        variance = np.exp(2 * np.asarray(p.log_std, np.float64))
        V = ((v - b)[:, :D] ** 2 / (2 * variance)).sum(1) - (v - mu)[:, D:] @ b[D:]
        variance = np.concatenate([variance, np.ones(p.classes)])
    pairs = ((v - mu) / variance) @ W @ (h - lam).T
    return V[:, None] - (h - lam) @ c - pairs


def full_joint(p):
    """(v, p(v, h) times the volume of v's cell [V, H], log Z)."""
    v, volume = cells(p)
    mass = np.exp(-full_energy(p, v, states(p.c.size))) * volume
    return v, mass / mass.sum(), np.log(mass.sum())


@pytest.mark.parametrize("units, classes", KINDS)
def test_every_kind_of_unit_is_its_energy(units, classes):
    p = machine_of(units, classes)
    v, pvh, log_z = full_joint(p)
    h, volume = np.asarray(states(3)), cells(p)[1]
    E = full_energy(p, v, h)
    some = np.argsort(-pvh.sum(1))[:200]
    free = -np.log(np.exp(-E[some]).sum(1))
    np.testing.assert_allclose(free_energy(p, v[some]), free, rtol=1e-4, atol=1e-4)
    other = -np.log(np.exp(-E).sum(0) * volume)
    np.testing.assert_allclose(hidden_free_energy(p, h), other, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(log_partition(p), log_z, atol=1e-4)
    h_given_v = pvh[some] @ h / pvh[some].sum(1, keepdims=True)
    np.testing.assert_allclose(hidden_mean(p, v[some]), h_given_v, atol=1e-4)
    v_given_h = pvh.T @ v / pvh.sum(0)[:, None]
    np.testing.assert_allclose(visible_mean(p, h), v_given_h, atol=1e-4)


@pytest.mark.parametrize("units, classes", KINDS)
def test_offsets_change_the_distribution_of_no_kind(units, classes):
    p = machine_of(units, classes)
    v = jnp.asarray(cells(p)[0][:: 7 if classes else 5])[:50].astype(jnp.float32)
    moved = recentre(p, v, nu=0.5)
    np.testing.assert_allclose(moved.mu, 0.5 * (p.mu + v.mean(0)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(full_joint(moved)[1], full_joint(p)[1], atol=1e-4)


@pytest.mark.parametrize("units, classes", KINDS)
def test_draws_of_every_kind_have_the_moments_of_the_conditional(units, classes):
    p = machine_of(units, classes)
    v, pvh, _ = full_joint(p)
    for j in (0, 5):
        law = pvh[:, j] / pvh[:, j].sum()
        drawn = boltzmann.draw_visible(KEY, p, jnp.tile(states(3)[j], (40_000, 1)))
        mean, square = law @ v, law @ v**2
        scale = np.sqrt(law @ v**4) / 200
        np.testing.assert_array_less(np.abs(drawn.mean(0) - mean), 4 * np.sqrt(square) / 200)
        np.testing.assert_array_less(np.abs((drawn**2).mean(0) - square), 4 * scale)
        if classes:
            assert jnp.array_equal(drawn[:, 2:].sum(1), jnp.ones(40_000))


def batch_of(p, v):
    batch = {"x": jnp.asarray(v[:, : p.shape[0]], jnp.float32)}
    if p.classes:
        batch["label"] = jnp.asarray(v[:, p.shape[0] :].argmax(1), jnp.int32)
    return batch


def model_of(p, tx=None, **config):
    """A model of this machine's kind, and a state of it that has these parameters."""
    config = rbm.Config(hidden=p.c.size, units=p.units, classes=p.classes, **config)
    model = compiled(rbm.make(config, tx or optax.sgd(0.1)))
    batch = {"x": np.ones((4, *p.shape), np.float32), "label": np.zeros(4, np.int32)}
    return model, model.init(KEY, batch).replace(params=p)


@pytest.mark.parametrize("units, classes", KINDS)
def test_probabilities_of_every_kind(units, classes):
    p = machine_of(units, classes)
    model, state = model_of(p)
    v, pvh, _ = full_joint(p)
    some, volume = np.argsort(-pvh.sum(1))[:200], cells(p)[1]
    batch = batch_of(p, v[some])
    joint = pvh.sum(1) / volume
    total = joint.reshape(-1, max(classes, 1)).sum(1)[some // max(classes, 1)]
    assert model.log_prob.exactness is Exactness.EXACT
    np.testing.assert_allclose(model.log_prob(KEY, state, batch), np.log(total), atol=1e-4)
    if not classes:
        assert set(model.measures) == {"reconstruction"}
        return
    measured = {n: np.asarray(m(KEY, state, batch)) for n, m in model.measures.items()}
    np.testing.assert_allclose(measured["log_joint"], np.log(joint[some]), atol=1e-4)
    np.testing.assert_allclose(measured["log_p_label"], np.log(joint[some] / total), atol=1e-4)
    best = joint.reshape(-1, classes).argmax(1)[some // classes]
    assert np.array_equal(measured["error"], best != np.asarray(batch["label"]))
    # p(h | x), the label being summed out
    given = pvh.reshape(-1, classes, 8).sum(1)[some // classes] @ np.asarray(states(3))
    given /= pvh.reshape(-1, classes * 8).sum(1)[some // classes][:, None]
    hidden = model.latents.encode(KEY, state, {"x": batch["x"]})
    np.testing.assert_allclose(hidden, given, atol=1e-4)


@pytest.mark.parametrize("units, classes", KINDS)
def test_gradients_of_every_kind_are_differences_of_the_likelihood(units, classes):
    """E_data - E_model of the energy's gradient against finite differences in float64."""
    p = machine_of(units, classes)
    v, pvh, _ = full_joint(p)
    data = v[np.argsort(-pvh.sum(1))[[3, 40, 41] if units == "gaussian" else [0, 1, 3]]]

    def mean_nats(q):
        return np.log(np.exp(-full_energy(q, data, states(3))).sum(1)).mean() - full_joint(q)[2]

    def objective(q):
        return free_energy(q, jnp.asarray(data, jnp.float32)).mean() + log_partition(q)

    g = jax.jit(jax.grad(objective))(p)
    names = {"W": (1, 2), "b": (0,), "c": (1,)} | ({"log_std": (1,)} if units == "gaussian" else {})
    for name, index in names.items():
        value = np.asarray(getattr(p, name), np.float64)
        nudged = []
        for step in (1e-4, -1e-4):
            other = value.copy()
            other[index] += step
            nudged.append(mean_nats(p.replace(**{name: other})))
        difference = (nudged[1] - nudged[0]) / 2e-4
        np.testing.assert_allclose(getattr(g, name)[index], difference, atol=2e-3)


@jax.jit
def exact_descent(p, v):
    """-∇ of the mean log-likelihood in W, b, c (and log σ), by enumeration."""

    def objective(q):
        return jnp.mean(free_energy(q, v)) + log_partition(q)

    return jax.grad(objective)(p)


@pytest.mark.parametrize(
    "chain, units, classes",
    [
        *LEAST,
        *(
            pytest.param(chain, *kind, marks=pytest.mark.slow)
            for chain, kind in itertools.product(("tempering", "fast_pcd"), KINDS)
            if (chain, *kind) not in LEAST
        ),
    ],
)
def test_other_chains_arrive_at_the_exact_gradient(units, classes, chain):
    """In learning that stands still; fast weights without a rate are none."""
    p = machine_of(units, classes)
    v = jnp.asarray(cells(p, side=9, reach=2.0)[0][:12], jnp.float32)
    batch, fields = batch_of(p, np.asarray(v)), {"chain": chain, "chains": 20_000, "fast_rate": 0.0}
    fields |= {"replicas": 3, "learn_std": units == "gaussian"}
    still, state = model_of(p, optax.sgd(0.0), **fields)
    step = still.step
    for i in range(25):
        state, info = step(jax.random.fold_in(KEY, i), state, batch)
    if chain == "tempering":
        assert 0.02 < info["swapped"] <= 1
        assert state.memory.h.shape == (3, 20_000, 3)
    model, fresh = model_of(p, optax.sgd(1.0), **fields)
    moved, _ = model.step(KEY, fresh.replace(memory=state.memory), batch)
    truth = exact_descent(p, v)
    # Statistics of real units spread as far as v / σ² does.
    for name in ("W", "b", "c") + (("log_std",) if units == "gaussian" else ()):
        own = getattr(p, name) - getattr(moved.params, name)
        atol = 0.02 if units == "bernoulli" else 0.15
        np.testing.assert_allclose(own, getattr(truth, name), atol=atol)


@pytest.mark.slow
def test_persistent_chains_are_where_tempering_is_needed():
    """Two modes that plain chains hardly ever leave: replicas cross over, plain chains do not."""
    p = Machine(
        W=jnp.full((4, 2), 6.0),
        b=jnp.full(4, -6.0),
        c=jnp.full(2, -12.0),
        mu=jnp.zeros(4),
        lam=jnp.zeros(2),
        rate=jnp.full(4, 0.5),
        shape=(4,),
    )
    truth = float(joint(p).sum(1)[-1])
    assert 0.4 < truth < 0.6
    share = {}
    for chain in ("pcd", "tempering"):
        model, state = model_and_state(p, optax.sgd(0.0), chain=chain, chains=2000, k=1)
        # All chains begin at v = 0, h = 0.
        state = state.replace(memory=jax.tree.map(jnp.zeros_like, state.memory))
        step = model.step
        for i in range(60):
            state, _ = step(jax.random.fold_in(KEY, i), state, {"x": states(4)})
        h = state.memory if chain == "pcd" else state.memory.h[-1]
        share[chain] = float(h.mean())
    assert share["pcd"] < 0.2
    assert abs(share["tempering"] - truth) < 0.05


@pytest.mark.parametrize("centred", [pytest.param(False, marks=pytest.mark.slow), True])
def test_fast_weights_follow_the_gradient_and_forget(centred):
    p, x = machine(offsets=centred), {"x": states(5)[3:9]}
    fields = {"chain": "fast_pcd", "chains": 10, "fast_rate": 0.5, "fast_decay": 0.75}
    model, state = model_and_state(p, optax.sgd(1.0), centred=centred, nu=0.1, **fields)
    plain, _ = model_and_state(p, optax.sgd(1.0), **fields)
    one, _ = plain.step(KEY, state, x)
    gradient = {n: getattr(p, n) - getattr(one.params, n) for n in ("W", "b", "c")}
    for name, f in one.memory.weights.items():
        np.testing.assert_allclose(f, -0.5 * gradient[name], atol=1e-5)
    two, _ = plain.step(KEY, one, x)
    for name, f in two.memory.weights.items():
        g = getattr(one.params, name) - getattr(two.params, name)
        np.testing.assert_allclose(f, 0.75 * one.memory.weights[name] - 0.5 * g, atol=1e-5)
    if centred:
        # New coordinates leave both machines' distributions as they are.
        new, _ = model.step(KEY, state, x)
        assert not jnp.array_equal(new.params.mu, p.mu)
        np.testing.assert_allclose(joint(new.params), joint(one.params), atol=1e-5)
        fast = [joint(gibbs.ahead(s.params, s.memory)) for s in (new, one)]
        np.testing.assert_allclose(*fast, atol=1e-5)


def test_chains_of_fast_pcd_run_in_the_machine_ahead():
    p = machine()
    model, state = model_and_state(p, optax.sgd(0.0), chain="fast_pcd", chains=20_000, fast_rate=0)
    away = {"W": 0 * p.W, "b": jnp.full(5, 30.0), "c": jnp.full(3, -60.0)}
    new, _ = model.step(KEY, state.replace(memory=state.memory.replace(weights=away)), {"x": BITS})
    assert float(new.memory.h.max()) == 0
    h = model.step(KEY, state, {"x": BITS})[0].memory.h
    assert float(h.mean()) > 0.1


BITS = states(5)


# Trading places


def test_trades_leave_the_product_of_tempered_distributions_as_it_is():
    """Three states at three temperatures: all 27 triples in their exact proportions."""
    g, u = np.array([0.3, -0.4, 0.1]), np.array([-1.0, 0.5, 2.0])
    betas = np.array([0.0, 0.4, 1.0])
    laws = np.exp(g + betas[:, None] * u)
    laws /= laws.sum(1, keepdims=True)
    triples = np.array(list(np.ndindex(3, 3, 3)))
    law = np.prod(laws[np.arange(3), triples], axis=1)
    count = np.round(300_000 * law).astype(int)
    x = jnp.asarray(np.repeat(triples, count, axis=0).T)
    swap = jax.jit(lambda key, x: chains.swap(key, jnp.asarray(betas), jnp.asarray(u)[x], x))
    after, accepted = swap(KEY, x)
    assert not jnp.array_equal(after, x)
    assert np.all((accepted > 0.2) & (accepted < 1))
    code = np.asarray(9 * after[0] + 3 * after[1] + after[2])
    seen = np.bincount(code, minlength=27) / len(code)
    np.testing.assert_allclose(seen, law, atol=0.004)
    # The first pair's accepted part is the mean of min(1, ratio) over the product.
    ratio = np.exp((betas[1] - betas[0]) * (u[triples[:, 0]] - u[triples[:, 1]]))
    np.testing.assert_allclose(accepted[0], law @ np.minimum(1, ratio), atol=0.005)
    # What belongs together moves together.
    pair, _ = chains.swap(KEY, jnp.asarray(betas), jnp.asarray(u)[x], (x, x[..., None] * 2.0))
    assert jnp.array_equal(pair[0] * 2.0, pair[1][..., 0])
    assert jnp.array_equal(jnp.sort(pair[0], axis=0), jnp.sort(x, axis=0))


# Samples given a part


@pytest.mark.parametrize("units, classes", ENDS)
def test_a_part_that_is_known_stays_and_the_rest_follows_the_conditional(units, classes):
    p = machine_of(units, classes)
    model, state = model_of(p, sample_steps=40)
    x, mask = jnp.array([1.0, 7.0]), jnp.array([1.0, 0.0])
    drawn = model.sample(KEY, state, 20_000, {"x": x, "mask": mask})
    assert jnp.array_equal(drawn["x"][:, 0], jnp.ones(20_000))
    v, pvh, _ = full_joint(p)
    at = np.abs(v[:, 0] - 1).argmin() if units == "gaussian" else None
    here = v[:, 0] == (v[at, 0] if units == "gaussian" else 1.0)
    law = pvh[here].sum(1) / pvh[here].sum()
    spread = np.sqrt(law @ v[here, 1] ** 2)
    assert abs(float(drawn["x"][:, 1].mean()) - law @ v[here, 1]) < 0.03 * spread + 0.02
    if not classes:
        return
    label = np.bincount(np.asarray(drawn["label"]), minlength=3) / 20_000
    np.testing.assert_allclose(label, law @ v[here, 2:], atol=0.03)
    held = model.sample(KEY, state, 20_000, {"label": 2})
    assert jnp.array_equal(held["label"], jnp.full(20_000, 2))
    law = pvh.sum(1) * v[:, 4]
    law /= law.sum()
    spread = np.sqrt(law @ v[:, :2] ** 2)
    assert np.all(np.abs(held["x"].mean(0) - law @ v[:, :2]) < 0.03 * spread + 0.02)


def test_what_is_known_may_differ_from_one_example_to_the_next():
    p = machine(4, 3).replace(shape=(2, 2, 1))
    model, state = model_and_state(p, sample_steps=5, sample_means=True)
    x = states(4).reshape(16, 2, 2, 1)
    mask = jnp.arange(64).reshape(16, 2, 2, 1) % 3 == 0
    sample = jax.jit(lambda key, x, mask: model.sample(key, state, 16, {"x": x, "mask": mask}))
    both = sample(KEY, x, mask)
    drawn, mean = both["x"], both["mean"]
    for one in (drawn, mean):
        assert jnp.array_equal(one[mask], x[mask])
    free = mean[~mask]
    assert bool(jnp.all((free > 0) & (free < 1)))
    assert set(np.unique(drawn)) == {0.0, 1.0}
    # What is NaN is unknown, too.
    again = model.sample(KEY, state, 16, {"x": jnp.where(mask, x, jnp.nan)})["x"]
    np.testing.assert_allclose(again, drawn, atol=1e-6)


def test_what_cannot_be_held_is_refused():
    plain, state = model_and_state(machine())
    with pytest.raises(DataError, match="all of x was given"):
        plain.sample(KEY, state, 2, {"x": jnp.zeros(5)})
    with pytest.raises(DataError, match="mask says where x is known, and no x was given"):
        plain.sample(KEY, state, 2, {"mask": jnp.ones(5)})
    with pytest.raises(DataError, match=r"mask should be .*the shape \[5\]"):
        plain.sample(KEY, state, 2, {"x": jnp.zeros(5), "mask": jnp.ones(4)})
    with pytest.raises(DataError, match=r"rbm: label was given, .* knows no labels"):
        plain.sample(KEY, state, 2, {"label": 1})
    p = machine_of("bernoulli", 3)
    model, state = model_of(p)
    with pytest.raises(DataError, match=r"label should be integers 0 \.\. 2, .*and 3 is none"):
        model.sample(KEY, state, 2, {"label": 3})
    with pytest.raises(DataError, match=r"label should be integers 0 \.\. 2, .*and 9 is none"):
        rbm.make(rbm.Config(hidden=3, classes=3), optax.sgd(0.1)).init(
            KEY, {"x": jnp.zeros((2, 2)), "label": jnp.array([0, 9])}
        )
    with pytest.raises(DataError, match="needs labelled data"):
        model.init(KEY, {"x": jnp.zeros((2, 2))})
    with pytest.raises(DataError, match="needs labelled data"):
        model.measures["error"](KEY, state, {"x": jnp.zeros((2, 2))})
    for fields in ({"classes": 1}, {"replicas": 1}, {"target": 1.0}, {"discriminative": 1.0}):
        with pytest.raises(ConfigError, match=next(iter(fields))):
            rbm.Config(**fields)


# Penalties


def test_penalties_add_their_own_gradients():
    p, x = machine(), {"x": states(5)}
    plain, state = model_and_state(p, optax.sgd(1.0))
    start = plain.step(KEY, state, x)[0].params

    def change(**fields):
        model, _ = model_and_state(p, optax.sgd(1.0), **fields)
        new = model.step(KEY, state, x)[0].params
        for name in ("mu", "lam", "rate"):
            assert jnp.array_equal(getattr(new, name), getattr(p, name))
        return {name: getattr(start, name) - getattr(new, name) for name in ("W", "b", "c")}

    np.testing.assert_allclose(change(l1=0.25)["W"], 0.25 * np.sign(p.W), atol=1e-5)

    def penalty(W, c):
        q = jax.nn.sigmoid(c + (x["x"] - p.mu) @ W).mean(0)
        return -jnp.sum(0.2 * jnp.log(q) + 0.8 * jnp.log(1 - q))

    gW, gc = jax.jit(jax.grad(penalty, (0, 1)))(p.W, p.c)
    own = change(sparsity=3.0, target=0.2)
    np.testing.assert_allclose(own["W"], 3 * gW, atol=1e-4)
    np.testing.assert_allclose(own["c"], 3 * gc, atol=1e-4)
    assert not jnp.any(own["b"])


def test_a_sparse_machine_has_few_units_on():
    x = {"x": jax.random.bernoulli(KEY, 0.5, (50, 5)).astype(jnp.float32)}
    on = {}
    for sparsity in (0.0, 1.0):
        config = rbm.Config(hidden=6, sparsity=sparsity, target=0.05)
        model = compiled(rbm.make(config, optax.sgd(0.1)))
        state, step = model.init(KEY, x), model.step
        for i in range(150):
            state, _ = step(jax.random.fold_in(KEY, i), state, x)
        on[sparsity] = float(model.latents.encode(KEY, state, x).mean())
    assert on[1.0] < 0.1 < 0.3 < on[0.0]


def test_the_discriminative_term_is_the_classifiers_likelihood():
    p = machine_of("bernoulli", 3)
    batch = batch_of(p, cells(p)[0])
    (plain, state), (hybrid, _) = (
        model_of(p, optax.sgd(1.0), discriminative=weight) for weight in (0.0, 2.0)
    )
    a, b = (m.step(KEY, state, batch)[0].params for m in (plain, hybrid))
    loss = lambda q: -hybrid.measures["log_p_label"](KEY, state.replace(params=q), batch).mean()
    g = jax.jit(jax.grad(loss))(p)
    for name in ("W", "b", "c"):
        np.testing.assert_allclose(
            getattr(a, name) - getattr(b, name), 2 * getattr(g, name), atol=1e-4
        )
    assert jnp.array_equal(b.mu, p.mu)
    assert jnp.array_equal(b.lam, p.lam)


def test_the_deviation_moves_only_if_it_is_to_be_learnt():
    p = machine_of("gaussian", 0)
    x = {"x": jax.random.normal(KEY, (30, 2))}
    for learn_std in (False, True):
        model, state = model_of(p, optax.sgd(0.1), learn_std=learn_std)
        new, _ = model.step(KEY, state, x)
        assert jnp.array_equal(new.params.log_std, p.log_std) != learn_std
    fresh = rbm.make(rbm.Config(units="gaussian", weight_std=0.0), optax.sgd(0.1)).init(KEY, x)
    np.testing.assert_allclose(jnp.exp(fresh.params.log_std), x["x"].std(0), rtol=1e-5)
    np.testing.assert_allclose(fresh.params.b, x["x"].mean(0), rtol=1e-5)


# Annealing


@pytest.mark.parametrize("units, classes", ENDS)
def test_the_path_goes_from_the_base_rate_to_the_machine(units, classes):
    p = machine_of(units, classes)
    way, v = gibbs.path(p), jnp.asarray(cells(p, side=9, reach=2.0)[0], jnp.float32)
    np.testing.assert_allclose(way.log_density(1.0, v), -free_energy(p, v), atol=1e-4)

    def heated(beta):
        """The machine at β as a machine of its own."""
        b = (1 - beta) * boltzmann.base_bias(p) + beta * p.b
        return p.replace(W=beta * p.W, b=b, c=beta * p.c)

    for beta in (0.0, 0.3):
        apart = way.log_density(beta, v) + free_energy(heated(beta), v)
        np.testing.assert_allclose(apart, apart[0], atol=2e-4)
    np.testing.assert_allclose(
        way.log_z,
        log_partition(heated(0.0)) + apart_at_zero(way, heated(0.0), v),
        atol=1e-4,
    )
    # Exact draws at β, moved, are still draws at β: forwards and backwards alike.
    q = heated(0.6)
    grid, pvh, _ = full_joint(q)
    some = np.random.default_rng(0).choice(len(grid), 40_000, p=pvh.sum(1))
    before = jnp.asarray(grid, jnp.float32)[some]
    after = way.transition(KEY, jnp.asarray(0.6), before)
    law = pvh.sum(1)
    tolerance = 5 * np.sqrt(law @ grid**2) / 200
    np.testing.assert_array_less(np.abs(after.mean(0) - law @ grid), tolerance)
    # Reversible: E[f(before) g(after)] = E[g(before) f(after)].
    one, other = (
        np.asarray(a.T @ jnp.tanh(b)) / 40_000 for a, b in ((before, after), (after, before))
    )
    spread = np.sqrt((law @ grid**2).max())
    np.testing.assert_allclose(one, other, atol=5 * spread / 200)


def apart_at_zero(way, base, v):
    """What log p*_0 and the base machine's own -F differ by."""
    return float(way.log_density(0.0, v)[0] + free_energy(base, v)[0])


@pytest.mark.parametrize(
    "units, classes", [pytest.param(*KINDS[0], marks=pytest.mark.slow), KINDS[-1]]
)
def test_annealing_finds_log_z_of_twenty_hidden_units(units, classes):
    p = machine_of(units, classes, D=6, H=20)
    p = p.replace(W=0.5 * p.W)
    truth = float(jax.jit(boltzmann.log_partition)(p))
    found = jax.jit(lambda key: ais.ais(key, gibbs.path(p), ais.Config(1000, 200)))(KEY)
    assert found.standard_error < 0.1
    assert abs(float(found.log_z) - truth) < 3 * float(found.standard_error)


@pytest.mark.parametrize("units, classes", ENDS)
def test_annealing_of_zero_weights_is_exact_with_zero_variance(units, classes):
    p = machine_of(units, classes, D=4, H=5)
    p = p.replace(W=0 * p.W, c=0 * p.c, b=boltzmann.base_bias(p))
    found = jax.jit(lambda key: ais.ais(key, gibbs.path(p), ais.Config(10, 50)))(KEY)
    v = found.log_weights
    assert jnp.array_equal(v, jnp.zeros(50))
    assert found.standard_error == 0
    np.testing.assert_allclose(found.log_z, log_partition(p), rtol=1e-6)


@functools.cache
def bars_machine():
    """2 x 2 bars and stripes, given weights: a hidden unit for each line, and two that forbid."""
    model = rbm.make(rbm.Config(hidden=6, k=2, chains=100, weight_std=0.1), optax.sgd(0.1))

    @jax.jit
    def train(state):
        one = lambda s, i: model.step(jax.random.fold_in(KEY, i), s, {"x": BARS})
        return jax.lax.scan(one, state, jnp.arange(4000))[0]

    return train(model.init(KEY, {"x": BARS})).params


def test_annealing_bars_and_stripes_gets_better_with_temperatures():
    p = bars_machine()
    truth = float(log_partition(p))
    assert float(jnp.abs(p.W).max()) > 2
    for temperatures, within in ((100, 0.5), (1000, 0.05), (10_000, 0.005)):
        config = ais.Config(temperatures, 100)
        found = jax.jit(lambda key, c=config: ais.ais(key, gibbs.path(p), c))(KEY)
        assert abs(float(found.log_z) - truth) < within, temperatures


def test_few_temperatures_make_forward_too_low_and_reverse_too_high():
    p = bars_machine()
    truth = float(log_partition(p))
    law = jnp.asarray(joint(p.replace(shape=(4,))).sum(1))
    config = ais.Config(3, 2)

    def both(key):
        key_x, key_f, key_r = jax.random.split(key, 3)
        x = states(4)[jax.random.categorical(key_x, jnp.log(law), shape=(2,))]
        forward = ais.ais(key_f, gibbs.path(p), config)
        back = ais.reverse(key_r, gibbs.path(p), x, config)
        return forward.log_z - truth, back.log_z - truth

    forward, back = jax.jit(jax.vmap(both))(jax.random.split(KEY, 1600))
    error = lambda gaps: float(gaps.std() / 40)
    assert forward.mean() < -3 * error(forward) < 0
    assert back.mean() > 3 * error(back) > 0


@pytest.mark.parametrize(
    "chain",
    ["pcd", *(pytest.param(c, marks=pytest.mark.slow) for c in ("cd", "fast_pcd", "tempering"))],
)
def test_measures_by_annealing_are_the_likelihood(chain):
    p = machine(5, 21).replace(W=0.3 * machine(5, 21).W)
    config = ais.Config(300, 200)
    model, state = model_and_state(p, chain=chain, sample_steps=50, ais=config)
    truth, _ = model_and_state(p, chain=chain, visible=5)
    x = {"x": states(5)[:9]}
    exact = truth.log_prob(KEY, state, x)
    assert set(truth.measures) == {"reconstruction"}
    for name in ("ais", "ais_reverse"):
        measure = model.measures[name]
        assert measure.exactness is Exactness.ESTIMATE
        once = measure.once(KEY, state)
        assert set(once.notes) == {"log_z", "log_z_se", "effective"}
        value = measure.value(KEY, state, x, once.value)
        np.testing.assert_allclose(value, exact, atol=4 * float(once.error) + 1e-3)
    assert "no exact sample" in model.measures["ais_reverse"].detail
