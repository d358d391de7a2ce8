"""The deep belief network: who learns when, what each layer sees, and what comes out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax_zoo.contract import ConfigError, Evidence
from genjax_zoo.models import dbn, rbm

KEY = jax.random.key(0)
X = jax.random.bernoulli(KEY, 0.4, (12, 2, 2, 1)).astype(jnp.float32)


def states(n):
    return np.array(list(np.ndindex(*(2,) * n)), np.float32).reshape(2**n, n)


def deep(**config):
    """A network with 4 visible units and layers of 3 and 2, its parameters far from 0."""
    model = dbn.make(
        dbn.Config(**{"widths": (3, 2), "stage_steps": (3,), "chains": 5, **config}),
        optax.sgd(0.1),
    )
    state = model.init(KEY, {"x": X})
    grown = []
    for layer, stage in enumerate(state.states):
        key_W, key_b, key_c = jax.random.split(jax.random.fold_in(KEY, layer), 3)
        p = stage.params
        p = p.replace(
            W=1.5 * jax.random.normal(key_W, p.W.shape),
            b=jax.random.normal(key_b, p.b.shape),
            c=jax.random.normal(key_c, p.c.shape),
        )
        grown.append(stage.replace(params=p))
    return model, state.replace(states=tuple(grown))


def same(a, b):
    return all(jax.tree.leaves(jax.tree.map(jnp.array_equal, a, b)))


def test_layers_learn_one_after_another_and_stay_put():
    model, state = deep()
    step = jax.jit(model.step)
    for i in range(6):
        new, info = step(jax.random.fold_in(KEY, i), state, {"x": X})
        learning = 0 if i < 3 else 1
        assert info["stage"] == learning and np.isfinite(info["free_energy_gap"])
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


def test_samples_follow_the_top_pair_and_one_pass_down():
    """p(v) = Σ_h p(v | h) p_top(h), by enumeration of everything."""
    model, state = deep(sample_steps=30)
    low, top = (s.params for s in state.states)
    hs, vs = states(3), states(4)
    p_top = np.exp(-np.asarray(rbm.free_energy(top, hs), np.float64))
    p_top /= p_top.sum()
    on = np.asarray(rbm.visible_mean(low, hs), np.float64)
    v_given_h = np.prod(np.where(vs[None] == 1, on[:, None], 1 - on[:, None]), -1)
    p = p_top @ v_given_h
    np.testing.assert_allclose(p.sum(), 1, rtol=1e-6)
    x = model.sample(KEY, state, 40_000)["x"]
    assert x.shape == (40_000, 2, 2, 1) and set(np.unique(x)) == {0.0, 1.0}
    code = (np.asarray(x).reshape(-1, 4) @ [8, 4, 2, 1]).astype(int)
    np.testing.assert_allclose(np.bincount(code, minlength=16) / len(code), p, atol=0.012)
    means = model.sample(KEY, state, 40_000, means=True)["x"].reshape(-1, 4)
    np.testing.assert_allclose(means.mean(0), p @ vs, atol=0.012)


def test_means_go_up_and_down():
    model, state = deep()
    low, top = (s.params for s in state.states)
    h = model.encode(KEY, state, {"x": X})
    v = X.reshape(12, 4)
    np.testing.assert_allclose(h, rbm.hidden_mean(top, rbm.hidden_mean(low, v)), rtol=1e-6)
    x = model.decode(state, h)["x"]
    assert x.shape == X.shape
    error = model.measures["reconstruction"](KEY, state, {"x": X})
    np.testing.assert_allclose(error, jnp.sum((x - X) ** 2, (1, 2, 3)), rtol=1e-5)
    assert model.log_prob is None and model.evidence is Evidence.NONE


def test_one_layer_is_a_restricted_boltzmann_machine():
    config = dbn.Config(widths=(3,), stage_steps=(), chains=5)
    one = dbn.make(config, optax.sgd(0.1))
    alone = rbm.make(dbn.machine(config, 3), optax.sgd(0.1))
    key_init = jax.random.split(jax.random.fold_in(KEY, 0))[1]
    key_step = jax.random.split(KEY)[1]
    a, _ = one.step(KEY, one.init(KEY, {"x": X}), {"x": X})
    b, _ = alone.step(key_step, alone.init(key_init, {"x": X}), {"x": X})
    for own, twin in zip(jax.tree.leaves(a.states[0]), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(own, twin, atol=1e-6)


def test_greedy_layers_learn_four_patterns_and_sample_all_of_them():
    """Of 64 states four are in the data: chance hits one of them once in sixteen draws."""
    data = jnp.array([[0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0],
                      [1, 1, 1, 1, 1, 1]], jnp.float32)  # fmt: skip
    config = dbn.Config(widths=(8, 6), stage_steps=(1500,), chains=100, weight_std=0.1)
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
        ({"widths": (3, 3, 3), "stage_steps": (5,)}, "2 positive numbers"),
        ({"widths": (3, 0)}, "hidden should be at least 1"),
    ],
)
def test_bad_configs_are_told(fields, says):
    with pytest.raises(ConfigError, match=says):
        dbn.Config(**fields)


def test_a_third_layer_sees_draws_of_the_second():
    model = dbn.make(dbn.Config(widths=(3, 2, 4), stage_steps=(1, 1), chains=5), optax.sgd(0.1))
    state = model.init(KEY, {"x": X})
    assert [s.params.W.shape for s in state.states] == [(4, 3), (3, 2), (2, 4)]
    for stage in state.states:
        # Of 12 examples and two imagined ones: a whole number of ones, so none was averaged.
        ones = stage.params.rate * 14 - 1
        np.testing.assert_allclose(ones, jnp.round(ones), atol=1e-4)
    assert model.sample(KEY, state, 7)["x"].shape == (7, 2, 2, 1)
