"""The restricted Boltzmann machine against enumeration of everything it could do."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax_zoo import chains, learn
from genjax_zoo.contract import ConfigError, Evidence
from genjax_zoo.models import rbm

KEY = jax.random.key(0)


def states(n):
    """All 2^n states of n units."""
    return jnp.array(list(np.ndindex(*(2,) * n)), jnp.float32).reshape(2**n, n)


def machine(D=5, H=3, offsets=True, key=KEY):
    """A machine with nothing special about any of its parameters."""
    W, b, c, mu, lam = (
        jax.random.normal(k, s)
        for k, s in zip(jax.random.split(key, 5), [(D, H), D, H, D, H], strict=True)
    )
    scale = 0.3 if offsets else 0.0
    return rbm.Params(W, b, c, scale * mu, scale * lam, jnp.full(D, 0.5), shape=(D,))


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
    model = rbm.make(rbm.Config(hidden=params.c.size, **config), tx or optax.sgd(0.1))
    state = model.init(KEY, {"x": jnp.zeros((4, *params.shape))})
    return model, state.replace(params=params)


# The distribution


@pytest.mark.parametrize("offsets", [False, True])
def test_free_energy_sums_over_hidden(offsets):
    p = machine(offsets=offsets)
    twin = -np.log(np.exp(-energies(p, states(5), states(3))).sum(1))
    np.testing.assert_allclose(rbm.free_energy(p, states(5)), twin, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("D, H", [(5, 3), (3, 5), (4, 4)])
def test_probabilities_are_those_of_enumeration_and_sum_to_one(D, H):
    p = machine(D, H)
    model, state = model_and_state(p)
    assert model.evidence is Evidence.EXACT
    log_p = model.log_prob(KEY, state, {"x": states(D)})
    np.testing.assert_allclose(log_p, np.log(joint(p).sum(1)), atol=1e-4)
    np.testing.assert_allclose(jnp.exp(log_p).sum(), 1, rtol=1e-5)


def test_enumeration_of_either_side_and_in_any_blocks_is_the_same():
    p = machine(7, 6)
    over_hidden = rbm.log_partition(p)
    over_visible = jax.nn.logsumexp(-rbm.free_energy(p, states(7)))
    in_blocks = rbm.log_partition(p, block=8)
    np.testing.assert_allclose(over_hidden, over_visible, rtol=1e-6)
    np.testing.assert_allclose(over_hidden, in_blocks, rtol=1e-6)


def test_grey_values_and_too_many_units_have_no_likelihood():
    model, state = model_and_state(machine())
    assert model.log_prob(KEY, state, {"x": jnp.full((1, 5), 0.5)})[0] == -jnp.inf
    assert rbm.make(rbm.Config(hidden=21), optax.sgd(0.1)).evidence is Evidence.UNNORMALISED
    told = rbm.make(rbm.Config(hidden=21, visible=5), optax.sgd(0.1))
    assert told.evidence is Evidence.EXACT
    with pytest.raises(ConfigError, match="at most 20 units"):
        rbm.log_partition(machine(21, 21))
    with pytest.raises(ConfigError, match="visible=5 was promised, but the data have 6"):
        told.init(KEY, {"x": jnp.zeros((2, 3, 2))})


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
    np.testing.assert_allclose(rbm.hidden_mean(p, states(5)), h_given_v, atol=1e-5)
    np.testing.assert_allclose(rbm.visible_mean(p, states(3)), v_given_h, atol=1e-5)


def test_centring_changes_coordinates_and_not_the_distribution():
    p = machine()
    data = states(5)[jnp.array([3, 7, 7, 21, 30])]
    moved = rbm.recentre(p, data, nu=1.0)
    np.testing.assert_allclose(moved.mu, data.mean(0), atol=1e-6)
    np.testing.assert_allclose(moved.lam, rbm.hidden_mean(p, data).mean(0), atol=1e-6)
    assert float(jnp.abs(moved.b - p.b).max()) > 0.1
    np.testing.assert_allclose(joint(moved), joint(p), atol=1e-6)


# The gradient


def explicit_gradient(p, positive, negative):
    """<(v - μ)(h - λ)ᵀ> and so on over the negatives minus over the data, h by enumeration."""
    pvh = joint(p)
    h_given_v = pvh @ np.asarray(states(3)) / pvh.sum(1, keepdims=True)

    def statistics(v):
        rows = (np.asarray(v) @ 2 ** np.arange(4, -1, -1)).astype(int)
        dv, dh = np.asarray(v - p.mu), h_given_v[rows] - np.asarray(p.lam)
        return dv.T @ dh / len(v), dv.mean(0), dh.mean(0)

    return [n - d for d, n in zip(statistics(positive), statistics(negative), strict=True)]


def gap(p, positive, negative):
    return rbm.free_energy(p, positive).mean() - rbm.free_energy(p, negative).mean()


def test_gradient_of_the_gap_is_the_explicit_statistics_and_finite_differences():
    p = machine()
    positive, negative = states(5)[jnp.array([1, 5, 9])], states(5)[jnp.array([2, 30, 17, 4])]
    g = jax.grad(gap)(p, positive, negative)
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


@pytest.mark.parametrize("centred", [False, True])
def test_persistent_chains_arrive_at_the_exact_gradient(centred):
    """One Gibbs step at a time, over many steps of learning that stand still."""
    p, x = machine(offsets=centred), states(5)[jnp.array([1, 5, 9, 30])]
    still, state = model_and_state(p, optax.sgd(0.0), chain="pcd", k=1, chains=20_000)
    step = jax.jit(still.step)
    for i in range(30):
        state, _ = step(jax.random.fold_in(KEY, i), state, {"x": x})
    model, fresh = model_and_state(p, optax.sgd(1.0), chain="pcd", k=1, chains=20_000)
    state = fresh.replace(memory=state.memory)

    def exact(W, b, c):
        q = p.replace(W=W, b=b, c=c)
        return jnp.mean(rbm.free_energy(q, x)) + rbm.log_partition(q)

    truth = jax.grad(exact, argnums=(0, 1, 2))(p.W, p.b, p.c)
    moved, _ = model.step(KEY, state, {"x": x})
    for name, g in zip(("W", "b", "c"), truth, strict=True):
        own = getattr(p, name) - getattr(moved.params, name)
        # One standard error is at most .5 / √20000 = .0035 (of 0/1 statistics).
        np.testing.assert_allclose(own, g, atol=0.02)


# The chain, and learning


def test_block_gibbs_leaves_the_joint_as_it_is():
    p = machine(3, 2)
    h = jnp.zeros((40_000, 2))
    v, h = jax.jit(lambda key: rbm.gibbs(key, p, h, 30))(KEY)
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
    means = model.sample(KEY, state, 40_000, means=True)["x"].mean(0)
    np.testing.assert_allclose(means, x.mean(0), atol=0.012)


def test_the_first_machine_is_the_base_rate_model():
    x = jnp.array([[0, 1.0, 1], [0, 1, 0]])
    for centred in (False, True):
        model = rbm.make(rbm.Config(hidden=3, weight_std=0.0, centred=centred), optax.sgd(0.1))
        state = model.init(KEY, {"x": x})
        rate = np.array([0.25, 0.75, 0.5])
        v = np.asarray(states(3))
        twin = np.where(v == 1, np.log(rate), np.log(1 - rate)).sum(1)
        np.testing.assert_allclose(model.log_prob(KEY, state, {"x": v}), twin, atol=1e-5)


BARS = jnp.array(
    [[0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 1, 0], [0, 1, 0, 1]],
    jnp.float32,
).reshape(6, 2, 2, 1)


@pytest.mark.parametrize("centred", [False, True])
def test_bars_and_stripes_are_learnt_to_near_their_entropy(centred):
    config = rbm.Config(hidden=6, chain="pcd", k=2, chains=200, centred=centred, weight_std=0.1)
    model = rbm.make(config, optax.sgd(optax.linear_schedule(0.2, 0.0, 10_000)))

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
    hidden = model.encode(KEY, state, {"x": BARS})
    assert hidden.shape == (6, 6)
    decoded = model.decode(state, hidden)["x"]
    np.testing.assert_allclose(jnp.sum((decoded - BARS) ** 2, (1, 2, 3)), error, rtol=1e-5)
    assert isinstance(state, learn.Learner)
