"""The deep belief network: who learns when, what each layer sees, and what comes out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax_zoo.contract import ConfigError, DataError, Exactness, categorical
from genjax_zoo.maths.mcmc import ais as annealing
from genjax_zoo.maths.mcmc import boltzmann, gibbs
from genjax_zoo.maths.mcmc.boltzmann import Machine
from genjax_zoo.models import dbn, rbm

KEY = jax.random.key(0)
X = jax.random.bernoulli(KEY, 0.4, (12, 2, 2, 1)).astype(jnp.float32)
Y = jnp.arange(12, dtype=jnp.int32) % 3


def states(n):
    return np.array(list(np.ndindex(*(2,) * n)), np.float32).reshape(2**n, n)


def config_of(machine=None, **fields):
    own = rbm.Config(**{"chains": 5, "centred": True, **(machine or {})})
    return dbn.Config(**{"widths": (3, 2), "stage_steps": (3,), "machine": own, **fields})


def odd(p, key, scale=1.5):
    """The same machine with parameters far from 0."""
    key_W, key_b, key_c = jax.random.split(key, 3)
    return p.replace(
        W=scale * jax.random.normal(key_W, p.W.shape),
        b=jax.random.normal(key_b, p.b.shape),
        c=jax.random.normal(key_c, p.c.shape),
    )


def deep(machine=None, **fields):
    """A network with 4 visible units and layers of 3 and 2, its parameters far from 0."""
    model = dbn.make(config_of(machine, **fields), optax.sgd(0.1))
    state = model.init(KEY, {"x": X, "label": Y})
    grown = [
        stage.replace(params=odd(stage.params, jax.random.fold_in(KEY, layer)))
        for layer, stage in enumerate(state.states)
        if isinstance(stage.params, Machine)
    ]
    return model, state.replace(states=(*grown, *state.states[len(grown) :]))


def apart(machine=None, tx=None, **fields):
    """A network in its up-down stage, whose weights up and down are not the same."""
    fields = {"widths": (3, 2, 2), "stage_steps": (1, 1, 1), "up_down": True, **fields}
    model = dbn.make(config_of(machine, **fields), tx or optax.sgd(1.0))
    state = model.init(KEY, {"x": X, "label": Y})
    *greedy, last = state.states
    p, keys = last.params, iter(jax.random.split(KEY, 9))
    p = p.replace(
        recognise=tuple(odd(m, next(keys)) for m in p.recognise),
        generate=tuple(odd(m, next(keys)) for m in p.generate),
        top=odd(p.top, next(keys)),
    )
    done = jnp.array(sum(fields["stage_steps"]) + 1, jnp.int32)
    return model, state.replace(count=done, states=(*greedy, last.replace(params=p)))


def chance(p, s):
    """Π_i p_i^s_i (1 - p_i)^(1 - s_i) of all rows of p and s, in float64: [P, S]."""
    p, s = np.asarray(p, np.float64), np.asarray(s, np.float64)
    return np.prod(np.where(s[None] == 1, p[:, None], 1 - p[:, None]), -1)


def log_marginal(params):
    """log p(v) of all v, by enumeration of everything, and log Z of the top pair."""
    H = params.top.W.shape[0] - params.top.classes
    log_star = np.asarray(boltzmann.log_marginal(params.top, states(H)), np.float64)
    log_z = np.log(np.exp(log_star).sum())
    p = np.exp(log_star - log_z)
    for machine in reversed(params.generate):
        n, m = machine.W.shape
        p = p @ chance(boltzmann.visible_mean(machine, states(m)), states(n))
    return np.log(p), log_z


def same(a, b):
    return all(jax.tree.leaves(jax.tree.map(jnp.array_equal, a, b)))


def test_layers_learn_one_after_another_and_stay_put():
    model, state = deep()
    step = jax.jit(model.step)
    for i in range(6):
        new, info = step(jax.random.fold_in(KEY, i), state, {"x": X})
        learning = 0 if i < 3 else 1
        gap = info[f"layer_{learning + 1}/free_energy_gap"]
        assert info["stage"] == learning and gap.said and np.isfinite(gap.value)
        assert not same(new.states[learning].params, state.states[learning].params)
        assert same(new.states[1 - learning], state.states[1 - learning])
        state = new


def test_the_second_machine_begins_at_the_means_below_it():
    model, state = deep()
    state = state.replace(count=jnp.array(3, jnp.int32))
    lam = state.states[0].params.lam * jnp.array([0.2, 1.0, 1.8])
    first = state.states[0].replace(params=state.states[0].params.replace(lam=lam))
    state = state.replace(states=(first, state.states[1]))
    begun = model.step(KEY, state, {"x": X})[0].states[1].params
    np.testing.assert_allclose(begun.rate, lam, rtol=1e-6)
    # The offsets have since moved by one part in a hundred towards the first batch.
    np.testing.assert_allclose(begun.mu, lam, atol=0.011)
    later = model.step(KEY, state.replace(count=jnp.array(4, jnp.int32)), {"x": X})[0]
    assert same(later.states[1].params.rate, state.states[1].params.rate)


@pytest.mark.parametrize("chain", ["cd", pytest.param("pcd", marks=pytest.mark.slow)])
def test_a_machine_turned_over_leaves_p_as_it_is(chain):
    """p(v) of what begins is that of the machine alone, and the bound is an equality."""
    _, state = deep({"chain": chain}, widths=(3, 4), turned=True)
    alone = boltzmann.log_marginal(state.states[0].params, jnp.asarray(states(4)))
    alone = alone - boltzmann.log_partition(state.states[0].params)
    still = dbn.make(
        config_of({"chain": chain, "centred": False}, widths=(3, 4), turned=True), optax.sgd(0.0)
    )
    begun = still.step(KEY, state.replace(count=jnp.array(3, jnp.int32)), {"x": X})[0]
    top = begun.states[1].params
    assert top.W.shape == (3, 4)
    np.testing.assert_allclose(top.W, state.states[0].params.W.T)
    v = states(4).reshape(-1, 2, 2, 1)
    np.testing.assert_allclose(still.log_prob(KEY, begun, {"x": v}), alone, atol=1e-4)
    network = dbn.of_machines([s.params for s in begun.states])
    np.testing.assert_allclose(log_marginal(network)[0], alone, atol=1e-4)
    if chain == "pcd":
        assert begun.states[1].memory.shape == (5, 4)


def test_samples_follow_the_top_pair_and_one_pass_down():
    """p(v) = Σ_h p(v | h) p_top(h), by enumeration of everything."""
    model, state = deep({"sample_steps": 30})
    low, top = (s.params for s in state.states)
    hs, vs = states(3), states(4)
    p_top = np.exp(-np.asarray(boltzmann.free_energy(top, hs), np.float64))
    p_top /= p_top.sum()
    on = np.asarray(boltzmann.visible_mean(low, hs), np.float64)
    v_given_h = np.prod(np.where(vs[None] == 1, on[:, None], 1 - on[:, None]), -1)
    p = p_top @ v_given_h
    np.testing.assert_allclose(p.sum(), 1, rtol=1e-6)
    x = model.sample(KEY, state, 40_000)["x"]
    assert x.shape == (40_000, 2, 2, 1) and set(np.unique(x)) == {0.0, 1.0}
    code = (np.asarray(x).reshape(-1, 4) @ [8, 4, 2, 1]).astype(int)
    np.testing.assert_allclose(np.bincount(code, minlength=16) / len(code), p, atol=0.012)
    shown, _ = deep({"sample_steps": 30, "sample_means": True})
    both = shown.sample(KEY, state, 40_000)
    means = both["mean"].reshape(-1, 4)
    assert jnp.array_equal(both["x"], x)
    np.testing.assert_allclose(means.mean(0), p @ vs, atol=0.012)


def test_means_go_up_and_down():
    model, state = deep()
    low, top = (s.params for s in state.states)
    h = model.latents.encode(KEY, state, {"x": X})
    v = X.reshape(12, 4)
    np.testing.assert_allclose(
        h, boltzmann.hidden_mean(top, boltzmann.hidden_mean(low, v)), rtol=1e-6
    )
    x = model.latents.decode(KEY, state, h)["x"]
    assert x.shape == X.shape
    error = model.measures["reconstruction"](KEY, state, {"x": X})
    np.testing.assert_allclose(error, jnp.sum((x - X) ** 2, (1, 2, 3)), rtol=1e-5)


def test_one_layer_is_a_restricted_boltzmann_machine():
    config = config_of(widths=(3,), stage_steps=())
    one = dbn.make(config, optax.sgd(0.1))
    alone = rbm.make(dbn.machine(config, 0), optax.sgd(0.1))
    key_init = jax.random.split(jax.random.fold_in(KEY, 0))[1]
    key_step = jax.random.split(KEY)[1]
    a, _ = one.step(KEY, one.init(KEY, {"x": X}), {"x": X})
    b, _ = alone.step(key_step, alone.init(key_init, {"x": X}), {"x": X})
    for own, twin in zip(jax.tree.leaves(a.states[0]), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(own, twin, atol=1e-6)


@pytest.mark.slow
def test_greedy_layers_learn_four_patterns_and_sample_all_of_them():
    """Of 64 states four are in the data: chance hits one of them once in sixteen draws."""
    data = jnp.array([[0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0],
                      [1, 1, 1, 1, 1, 1]], jnp.float32)  # fmt: skip
    config = config_of({"chains": 100, "weight_std": 0.1}, widths=(8, 6), stage_steps=(1500,))
    model = dbn.make(config, optax.sgd(0.1))

    @jax.jit
    def train(state):
        one = lambda s, i: model.step(jax.random.fold_in(KEY, i), s, {"x": data})
        return jax.lax.scan(one, state, jnp.arange(3000))[0]

    state = train(model.init(KEY, {"x": data}))
    x = model.sample(KEY, state, 2000)["x"]
    hits = jnp.any(jnp.all(x[:, None] == data, -1), -1).mean()
    assert hits > 0.8
    assert jnp.all((x[:, None] == data).all(-1).mean(0) > 0.1)


@pytest.mark.parametrize(
    "fields, says",
    [
        ({"widths": ()}, "at least one layer"),
        ({"widths": (3, 3, 3), "stage_steps": (5,)}, "2 numbers"),
        ({"widths": (3, 0)}, "widths should be at least 1"),
        ({"up_down": True}, "2 numbers"),
        ({"classes": 1}, "classes should be 0, or 2 and more"),
        ({"machine": rbm.Config(classes=3)}, "belongs in model.classes"),
        (
            {"up_down": True, "stage_steps": (1, 1), "machine": rbm.Config(chain="tempering")},
            "cd or pcd",
        ),
    ],
)
def test_bad_configs_are_refused(fields, says):
    with pytest.raises(ConfigError, match=says):
        dbn.Config(**fields)


def test_a_third_layer_sees_draws_of_the_second():
    model = dbn.make(config_of(widths=(3, 2, 4), stage_steps=(1, 1)), optax.sgd(0.1))
    state = model.init(KEY, {"x": X})
    assert [s.params.W.shape for s in state.states] == [(4, 3), (3, 2), (2, 4)]
    for stage in state.states:
        # Of 12 examples and two pseudo-counts: a whole number of ones, so none was averaged.
        ones = stage.params.rate * 14 - 1
        np.testing.assert_allclose(ones, jnp.round(ones), atol=1e-4)
    assert model.sample(KEY, state, 7)["x"].shape == (7, 2, 2, 1)


# The bound


@pytest.mark.parametrize(
    "split, classes",
    [
        (False, 0),
        (True, 3),
        *(pytest.param(*o, marks=pytest.mark.slow) for o in ((False, 3), (True, 0))),
    ],
)
def test_the_bound_lies_below_the_exact_probability(split, classes):
    """In the mean over draws of q; each draw alone may lie above it."""
    if split:
        model, state = apart(classes=classes, samples=500)
        params = state.states[-1].params
    else:
        model, state = deep(classes=classes, samples=500)
        params = dbn.of_machines([s.params for s in state.states])
    assert model.log_prob.exactness is Exactness.LOWER_BOUND
    exact, log_z = log_marginal(params)
    np.testing.assert_allclose(np.exp(exact).sum(), 1, rtol=1e-5)
    np.testing.assert_allclose(boltzmann.log_partition(params.top), log_z, rtol=1e-5)
    v = states(4).reshape(-1, 2, 2, 1)
    own = model.log_prob(KEY, state, {"x": v})
    # Σ_h q(h | v) [log p(v, h) - log q(h | v)], by enumeration of every layer in turn.
    value = np.asarray(boltzmann.log_marginal(params.top, states(params.top.W.shape[0] - classes)))
    for q, p in reversed(list(zip(params.recognise, params.generate, strict=True))):
        n, m = p.W.shape
        up = chance(boltzmann.hidden_mean(q, states(n)), states(m))
        down = chance(boltzmann.visible_mean(p, states(m)), states(n))
        value = np.sum(up * (np.log(down.T) + value[None] - np.log(up)), 1)
    assert np.all(value - log_z <= exact + 1e-5)
    assert (exact - value + log_z).max() > 0.05
    np.testing.assert_allclose(own, value - log_z, atol=0.5)
    np.testing.assert_allclose(own.mean(), (value - log_z).mean(), atol=0.1)
    assert model.log_prob(KEY, state, {"x": jnp.full((1, 2, 2, 1), 0.5)})[0] == -jnp.inf


def test_the_bound_is_exact_where_nothing_below_the_top_is_joined():
    model, state = deep()
    low, top = state.states
    state = state.replace(states=(low.replace(params=low.params.replace(W=0 * low.params.W)), top))
    params = dbn.of_machines([s.params for s in state.states])
    # Then q(h) is the same for all v; with a top of that prior alone it is the posterior.
    prior = params.top.replace(
        W=0 * top.params.W, b=boltzmann.hidden_logits(params.recognise[0], jnp.zeros((1, 4)))[0]
    )
    state = state.replace(states=(state.states[0], top.replace(params=prior)))
    params = dbn.of_machines([s.params for s in state.states])
    v = states(4).reshape(-1, 2, 2, 1)
    np.testing.assert_allclose(
        model.log_prob(KEY, state, {"x": v}), log_marginal(params)[0], atol=1e-4
    )


def test_annealing_tells_log_z_of_a_large_top():
    ais = annealing.Config(temperatures=300, chains=100)
    model, state = deep({"ais": ais}, widths=(21, 21))
    assert model.log_prob is None
    small = state.states[1].params
    small = small.replace(W=small.W.at[:, 9:].set(0) * 0.3)
    state = state.replace(states=(state.states[0], state.states[1].replace(params=small)))
    measure = model.measures["bound"]
    once = measure.once(KEY, state)
    # Hidden units without weights are summed out by hand, and the rest enumerated.
    kept = small.replace(W=small.W[:, :9], c=small.c[:9], lam=small.lam[:9])
    free = jnp.sum(jax.nn.softplus(small.c[9:]) - small.c[9:] * small.lam[9:])
    assert abs(once.value - boltzmann.log_partition(kept) - free) < 3 * once.error
    assert measure.exactness is Exactness.ESTIMATE and "AIS" in measure.detail
    assert measure(KEY, state, {"x": X}).shape == (12,)


# Up and down


def test_up_down_follows_the_delta_rules():
    """Every weight moves by the mean of (state - probability) times what it was predicted from,
    recomputed here from the same keys."""
    model, state = apart({"chain": "cd", "k": 2})
    p = state.states[-1].params
    new, info = model.step(KEY, state, {"x": X})
    moved = new.states[-1].params
    gap = info["up_down/free_energy_gap"]
    assert info["stage"] == 3 and gap.said and np.isfinite(gap.value)
    key = jax.random.split(KEY)[1]
    key_wake, key_start, key_chain, key_sleep = jax.random.split(key, 4)
    awake = dbn.wake(key_wake, p.recognise, X)
    h = boltzmann.draw_hidden(key_start, p.top, awake[-1])
    top, _ = gibbs.run(key_chain, p.top, h, 2)
    asleep = dbn.sleep(key_sleep, p.generate, top)
    for layer in range(2):
        old, own = p.generate[layer], moved.generate[layer]
        low, high = awake[layer], awake[layer + 1]
        miss = low - boltzmann.visible_mean(old, high)
        np.testing.assert_allclose(own.W - old.W, miss.T @ (high - old.lam) / 12, atol=1e-5)
        np.testing.assert_allclose(own.b - old.b, miss.mean(0), atol=1e-5)
        assert jnp.array_equal(own.c, old.c) and jnp.array_equal(own.lam, old.lam)
        old, own = p.recognise[layer], moved.recognise[layer]
        low, high = asleep[layer], asleep[layer + 1]
        miss = high - boltzmann.hidden_mean(old, low)
        np.testing.assert_allclose(own.W - old.W, (low - old.mu).T @ miss / 12, atol=1e-5)
        np.testing.assert_allclose(own.c - old.c, miss.mean(0), atol=1e-5)
        assert jnp.array_equal(own.b, old.b) and jnp.array_equal(own.mu, old.mu)
    g = [
        (v - p.top.mu).T @ (boltzmann.hidden_mean(p.top, v) - p.top.lam) / 12
        for v in (awake[-1], asleep[-1])
    ]
    np.testing.assert_allclose(moved.top.W - p.top.W, g[0] - g[1], atol=1e-5)


def test_up_down_begins_with_the_machines_and_keeps_their_chains():
    model = dbn.make(
        config_of(widths=(3, 2), stage_steps=(2, 3), up_down=True, classes=3),
        optax.sgd(optax.linear_schedule(1.0, 0.0, 10)),
    )
    state, step = model.init(KEY, {"x": X, "label": Y}), jax.jit(model.step)
    for i in range(7):
        before = state
        state, info = step(jax.random.fold_in(KEY, i), state, {"x": X, "label": Y})
        assert info["stage"] == [0, 0, 1, 1, 1, 2, 2][i]
    assert same(before.states[:2], state.states[:2])
    counts = [
        [int(leaf) for leaf in jax.tree.leaves(s.optimizer) if leaf.dtype == jnp.int32]
        for s in state.states
    ]
    assert counts == [[2], [5], [7]]
    # Weights up and down have come apart, from the same machine.
    low, last = state.states[0].params, state.states[2].params
    assert not jnp.array_equal(last.recognise[0].W, last.generate[0].W)
    assert float(jnp.abs(last.generate[0].W - low.W).max()) < 1.0


@pytest.mark.slow
def test_up_down_raises_the_exact_likelihood_of_four_patterns():
    data = jnp.array([[0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0],
                      [1, 1, 1, 1, 1, 1]], jnp.float32)  # fmt: skip
    config = config_of(
        {"chains": 100, "weight_std": 0.1},
        widths=(6, 6),
        stage_steps=(300, 300),
        up_down=True,
    )
    model = dbn.make(config, optax.sgd(0.1))

    def train(state, first, steps):
        one = lambda s, i: (model.step(jax.random.fold_in(KEY, i), s, {"x": data})[0], None)
        return jax.lax.scan(one, state, first + jnp.arange(steps))[0]

    train = jax.jit(train, static_argnums=2)
    greedy = train(model.init(KEY, {"x": data}), 0, 600)
    tuned = train(greedy, 600, 2000)
    rows = (np.asarray(data) @ [32, 16, 8, 4, 2, 1]).astype(int)
    before, after = (
        log_marginal(params)[0][rows].mean()
        for params in (
            dbn.of_machines([s.params for s in greedy.states[:2]]),
            tuned.states[-1].params,
        )
    )
    assert after > before + 0.1 and after > -2.2


# Labels


@pytest.mark.parametrize("label", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_samples_of_a_class_follow_the_exact_conditional(label):
    model, state = deep({"sample_steps": 60}, classes=3)
    params = dbn.of_machines([s.params for s in state.states])
    y = np.eye(3, dtype=np.float32)[[label] * 8]
    joint = jnp.concatenate([states(3), y], axis=1)
    p_h = np.exp(-np.asarray(boltzmann.free_energy(params.top, joint), np.float64))
    p_h /= p_h.sum()
    p = p_h @ chance(boltzmann.visible_mean(params.generate[0], states(3)), states(4))
    drawn = model.sample(KEY, state, 40_000, {"label": label})
    assert jnp.all(drawn["label"] == label)
    code = (np.asarray(drawn["x"]).reshape(-1, 4) @ [8, 4, 2, 1]).astype(int)
    np.testing.assert_allclose(np.bincount(code, minlength=16) / len(code), p, atol=0.012)


def test_the_error_is_of_the_top_pairs_free_energy():
    model, state = deep(classes=3)
    params = dbn.of_machines([s.params for s in state.states])
    h = boltzmann.hidden_mean(params.recognise[0], X.reshape(12, 4))
    F = jnp.stack(
        [
            boltzmann.free_energy(params.top, jnp.concatenate([h, jnp.tile(y, (12, 1))], axis=1))
            for y in jnp.eye(3)
        ]
    )
    error = model.measures["error"](KEY, state, {"x": X, "label": Y})
    np.testing.assert_array_equal(error, (jnp.argmin(F, axis=0) != Y) * 1.0)
    assert model.spaces["label"] == categorical(3)


# What is given, and what it is begun from


def test_a_part_of_x_can_be_held_in_the_top_pair_alone():
    model, state = deep(widths=(3, 2))
    with pytest.raises(DataError, match=r"dbn cannot be told that: unknown given 'x'.*\(none\)"):
        model.sample(KEY, state, 2, {"x": X[0], "mask": X[0]})
    one, state = deep({"sample_steps": 30}, widths=(3,), stage_steps=())
    mask = jnp.array([1.0, 0, 1, 0]).reshape(2, 2, 1)
    drawn = one.sample(KEY, state, 20_000, {"x": X[0], "mask": mask})["x"]
    assert jnp.array_equal(drawn * mask, jnp.broadcast_to(X[0] * mask, drawn.shape))
    top, v = state.states[0].params, states(4)
    p = np.exp(np.asarray(boltzmann.log_marginal(top, v), np.float64))
    p *= np.all((v == np.asarray(X[0]).reshape(4)) | (np.asarray(mask).reshape(4) == 0), axis=1)
    np.testing.assert_allclose(drawn.reshape(-1, 4).mean(0), (p / p.sum()) @ v, atol=0.015)


def test_a_network_begun_from_rbms_is_made_of_them():
    """In the last stage at once: the machines' own stages have no steps."""
    machines = {}
    x = {1: X, 2: jax.random.bernoulli(KEY, 0.5, (12, 3)).astype(jnp.float32)}
    for layer, width in ((1, 3), (2, 2)):
        own = rbm.make(rbm.Config(hidden=width, chains=5, centred=True), optax.sgd(0.1))
        params = own.init(jax.random.fold_in(KEY, layer), {"x": x[layer]}).params
        machines[f"layer_{layer}"] = odd(params, jax.random.fold_in(KEY, layer))
    config = config_of(widths=(3, 2), stage_steps=(0, 0), up_down=True)
    model = dbn.make(config, optax.sgd(0.0))
    state = model.init(KEY, {"x": X}, **machines)
    for own, (name, params) in zip(state.states, machines.items(), strict=False):
        assert same(own.params, params), name
    truth = log_marginal(dbn.of_machines(list(machines.values())))[0]
    bound = model.log_prob(KEY, state, {"x": states(4).reshape(-1, 2, 2, 1)})
    assert abs(float(bound.mean()) - truth.mean()) < 0.5
    after, info = model.step(KEY, state, {"x": X})
    assert info["stage"] == 2
    assert same(after.states[-1].params, dbn.of_machines(list(machines.values())))
    # Where it has steps to learn, a machine goes on from what was begun, and is not turned over.
    model = dbn.make(config_of(widths=(3, 4), stage_steps=(0,), turned=True), optax.sgd(0.0))
    upper = rbm.make(rbm.Config(hidden=4, chains=5, centred=True), optax.sgd(0.1))
    upper = odd(upper.init(KEY, {"x": x[2]}).params, KEY)
    state = model.init(KEY, {"x": X}, layer_1=machines["layer_1"], layer_2=upper)
    after, info = model.step(KEY, state, {"x": X})
    assert info["stage"] == 1
    np.testing.assert_array_equal(after.states[1].params.W, upper.W)


def test_what_does_not_fit_is_refused_and_up_down_begins_from_no_run():
    own = rbm.make(rbm.Config(hidden=5), optax.sgd(0.1))
    params = own.init(KEY, {"x": X}).params
    model = dbn.make(config_of(widths=(3, 2), stage_steps=(0, 0), up_down=True), optax.sgd(0.1))
    with pytest.raises(ConfigError, match=r"=layer_1: \.W is \[4, 5\] there.*needs \[4, 3\]"):
        model.init(KEY, {"x": X}, layer_1=params)
    with pytest.raises(ConfigError, match="--begin=up_down: this stage begins from no run"):
        model.init(KEY, {"x": X}, up_down=params)
