"""The deep Boltzmann machine against enumeration of everything it could do."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax_zoo.contract import ConfigError, DataError, Exactness
from genjax_zoo.maths.mcmc import ais as annealing
from genjax_zoo.maths.mcmc import boltzmann, gibbs
from genjax_zoo.maths.mcmc import deep_boltzmann as deep
from genjax_zoo.maths.mcmc.boltzmann import Machine
from genjax_zoo.maths.mcmc.deep_boltzmann import DeepMachine
from genjax_zoo.models import dbm, rbm
from tests.conftest import compiled

KEY = jax.random.key(0)
X = jax.random.bernoulli(KEY, 0.4, (12, 2, 2, 1)).astype(jnp.float32)
DEPTHS = pytest.mark.parametrize("widths", [(3, 2), (3, 2, 3)])
MIDDLE = pytest.mark.parametrize(
    "widths", [pytest.param((3, 2), marks=pytest.mark.slow), (3, 2, 3)]
)
"""Two layers are what three are without the one in the middle."""


def states(n):
    return np.array(list(np.ndindex(*(2,) * n)), np.float32).reshape(2**n, n)


energy = jax.jit(deep.energy)
log_partition = jax.jit(boltzmann.log_partition)
mean_field = jax.jit(deep.mean_field, static_argnums=2)


@functools.partial(jax.jit, static_argnames=("widths", "D", "scale"))
def machine(widths=(3, 2), D=4, scale=1.0, key=KEY):
    """A machine with nothing special about any of its parameters."""
    sizes = (D, *widths)
    draw = lambda tag, i, *shape: jax.random.normal(
        jax.random.fold_in(jax.random.fold_in(key, tag), i), shape
    )
    return DeepMachine(
        W=tuple(scale * draw(0, i, a, b) for i, (a, b) in enumerate(itertools.pairwise(sizes))),
        b=tuple(draw(1, i, n) for i, n in enumerate(sizes)),
        lam=tuple(0.3 * draw(2, i, n) for i, n in enumerate(sizes)),
        rate=tuple(jax.nn.sigmoid(draw(3, i, n)) for i, n in enumerate(sizes)),
        shape=(2, 2, 1) if D == 4 else (D,),
    )


def everything(p):
    """All joint states (h⁰, ..., hᴸ) and E of each, written down stupidly in float64."""
    sizes = [b.size for b in p.b]
    joint = states(sum(sizes)).astype(np.float64)
    h = np.split(joint, np.cumsum(sizes)[:-1], axis=1)
    W, b, lam = ([np.asarray(a, np.float64) for a in part] for part in (p.W, p.b, p.lam))
    E = np.zeros(len(joint))
    for s in range(len(joint)):
        for layer in range(len(sizes)):
            E[s] -= b[layer] @ (h[layer][s] - lam[layer])
            if layer:
                low, high = h[layer - 1][s] - lam[layer - 1], h[layer][s] - lam[layer]
                E[s] -= low @ W[layer - 1] @ high
    return h, E


def log_sum(x, axis=None):
    top = x.max(axis=axis, keepdims=True)
    out = np.log(np.exp(x - top).sum(axis=axis, keepdims=True)) + top
    return out.squeeze(axis) if axis is not None else out.item()


def log_marginal(p):
    """log p(v) of all v, in the order of `states`, and log Z."""
    _, E = everything(p)
    log_z = log_sum(-E)
    return log_sum(-E.reshape(2 ** p.b[0].size, -1), axis=1) - log_z, log_z


def model_and_state(params, tx=None, begun=True, **config):
    """A model, and a state of it in which the whole has begun and has these parameters."""
    widths = tuple(b.size for b in params.b[1:])
    steps = (1,) * len(widths)
    config = dbm.Config(**{"widths": widths, "stage_steps": steps, **config})
    model = compiled(dbm.make(config, tx or optax.sgd(0.1)))
    state = model.init(KEY, {"x": jnp.zeros((4, *params.shape))})
    whole = dataclasses.replace(state.states[-1], params=params)
    count = jnp.array(sum(steps) + 1 if begun else 0, jnp.int32)
    return model, state.replace(count=count, states=(*state.states[:-1], whole))


# The distribution


@DEPTHS
def test_energy_and_conditionals_are_those_of_enumeration(widths):
    p = machine(widths)
    h, E = everything(p)
    h32 = tuple(jnp.asarray(x, jnp.float32) for x in h)
    np.testing.assert_allclose(energy(p, h32), E, rtol=1e-4, atol=1e-4)
    # p(hˡ_j = 1 | the rest) = 1 / (1 + exp(E(with 1) - E(with 0)))
    for layer in range(len(h)):
        mean = jax.nn.sigmoid(deep.logits(p, h32, layer))
        for j in range(h[layer].shape[1]):
            on, off = ([x.copy() for x in h] for _ in range(2))
            on[layer][:, j], off[layer][:, j] = 1, 0
            rise = energy(p, tuple(map(jnp.array, on))) - energy(p, tuple(map(jnp.array, off)))
            np.testing.assert_allclose(mean[:, j], 1 / (1 + np.exp(rise)), atol=1e-4)


@DEPTHS
def test_two_sides_have_the_same_log_z_and_offsets_do_not_change_it(widths):
    p = machine(widths)
    _, log_z = log_marginal(p)
    two = deep.two_sided(p)
    np.testing.assert_allclose(log_partition(two), log_z, rtol=1e-5)
    np.testing.assert_allclose(log_partition(boltzmann.turned(two)), log_z, rtol=1e-5)
    moved = deep.at_offsets(p, machine(widths, key=jax.random.key(5)).lam)
    assert float(jnp.abs(moved.b[1] - p.b[1]).max()) > 0.1
    np.testing.assert_allclose(log_marginal(moved)[0], log_marginal(p)[0], atol=1e-5)


@MIDDLE
def test_the_bound_lies_below_and_each_update_raises_it(widths):
    p = machine(widths, scale=2.0)
    exact, _ = log_marginal(p)
    v, bounds = jnp.asarray(states(4)), []
    for updates in (1, 2, 4, 8, 30):
        model, state = model_and_state(p, updates=updates)
        assert model.log_prob.exactness is Exactness.LOWER_BOUND
        bounds.append(np.asarray(model.log_prob(KEY, state, {"x": v.reshape(-1, 2, 2, 1)})))
    for worse, better in itertools.pairwise(bounds):
        assert np.all(better >= worse - 1e-4)
    assert np.all(bounds[-1] <= exact + 1e-4)
    assert bounds[-1].mean() > bounds[0].mean() + 1e-3
    # With these weights a factorial q is not the truth.
    assert (exact - bounds[-1]).max() > 0.005


@DEPTHS
def test_the_bound_is_exact_where_the_posterior_factorises(widths):
    p = machine(widths)
    p = p.replace(W=(p.W[0], *(jnp.zeros_like(W) for W in p.W[1:])))
    model, state = model_and_state(p)
    bound = model.log_prob(KEY, state, {"x": states(4).reshape(-1, 2, 2, 1)})
    np.testing.assert_allclose(bound, log_marginal(p)[0], atol=1e-4)
    grey = model.log_prob(KEY, state, {"x": jnp.full((1, 2, 2, 1), 0.5)})
    assert grey[0] == -jnp.inf


def test_mean_field_is_a_fixed_point():
    p = machine((3, 2, 3))
    q = mean_field(p, jnp.asarray(states(4)), 200)
    for layer in (1, 2, 3):
        again = jax.nn.sigmoid(deep.logits(p, q, layer))
        np.testing.assert_allclose(q[layer], again, atol=1e-5)


# log Z


@MIDDLE
def test_annealing_finds_the_enumerated_log_z(widths):
    p = machine(widths)
    config = annealing.Config(temperatures=300, chains=200)
    found = jax.jit(lambda key: annealing.ais(key, gibbs.path(deep.two_sided(p)), config))(KEY)
    assert found.standard_error < 0.05
    assert abs(found.log_z - log_marginal(p)[1]) < 3 * found.standard_error


@DEPTHS
def test_annealing_to_base_rates_without_weights_is_exact(widths):
    p = machine(widths, scale=0.0)
    logit = lambda r: jnp.log(r) - jnp.log1p(-r)
    # Odd layers are even odds at the base.
    b = tuple(jnp.zeros_like(b) if i % 2 else logit(p.rate[i]) for i, b in enumerate(p.b))
    p = p.replace(b=b)
    config = annealing.Config(temperatures=10, chains=20)
    found = jax.jit(lambda key: annealing.ais(key, gibbs.path(deep.two_sided(p)), config))(KEY)
    np.testing.assert_allclose(found.log_z, log_marginal(p)[1], rtol=1e-5)
    np.testing.assert_allclose(found.log_weights, found.log_weights[0], atol=1e-4)


def test_a_machine_too_large_to_enumerate_says_what_its_bound_is():
    p = machine((21, 3), scale=0.3)
    ais = annealing.Config(temperatures=300, chains=100)
    model, state = model_and_state(p, ais=ais, sample_steps=20)
    assert model.log_prob is None
    truth = log_partition(deep.two_sided(p))
    for name in ("bound", "bound_reverse"):
        measure = model.measures[name]
        assert measure.exactness is Exactness.ESTIMATE and "lower bound, log Z by" in measure.detail
        once = measure.once(KEY, state)
        assert abs(once.value - truth) < 4 * once.error + 1e-3
    v = {"x": states(4).reshape(-1, 2, 2, 1)}
    q = mean_field(p, jnp.asarray(states(4)), 10)
    value = model.measures["bound"].value(KEY, state, v, truth)
    # Σ_h q(h)(-E(v, h) - log q(h)), by drawing from q.
    drawn = tuple(
        jax.random.bernoulli(jax.random.fold_in(KEY, i), mu, (4000, *mu.shape)).astype(jnp.float32)
        for i, mu in enumerate(q)
    )
    minus_E = -jax.vmap(lambda h: energy(p, h))(drawn)
    log_q = sum(
        jnp.sum(jnp.log(jnp.where(h == 1, mu, 1 - mu)), -1)
        for h, mu in zip(drawn[1:], q[1:], strict=True)
    )
    np.testing.assert_allclose(value, (minus_E - log_q).mean(0) - truth, atol=0.25)


# Sampling and the gradient


@MIDDLE
def test_gibbs_sampling_finds_the_joint(widths):
    p = machine(widths)
    model, state = model_and_state(p, sample_steps=50)
    x = model.sample(KEY, state, 40_000)["x"]
    assert x.shape == (40_000, 2, 2, 1) and set(np.unique(x)) == {0.0, 1.0}
    code = (np.asarray(x).reshape(-1, 4) @ [8, 4, 2, 1]).astype(int)
    truth = np.exp(log_marginal(p)[0])
    np.testing.assert_allclose(np.bincount(code, minlength=16) / len(code), truth, atol=0.012)
    shown, _ = model_and_state(p, sample_steps=50, sample_means=True)
    both = shown.sample(KEY, state, 40_000)
    means = both["mean"].reshape(-1, 4)
    assert jnp.array_equal(both["x"], x)
    np.testing.assert_allclose(means.mean(0), truth @ states(4), atol=0.012)


@MIDDLE
def test_a_step_follows_the_exact_gradient_of_the_bound(widths):
    """With rate 1 and plain descent, chains near the model and mean field at its fixed point, the
    step is the gradient of E_q[-E] - log Z with q held; by the envelope theorem of the bound."""
    p = machine(widths)
    model, state = model_and_state(
        p, optax.sgd(1.0), centred=False, chains=20_000, chain_steps=30, updates=100
    )
    v = X.reshape(12, 4)
    q = mean_field(p, v, 100)
    h, _ = everything(p)
    h = tuple(jnp.asarray(x, jnp.float32) for x in h)

    def bound(params):
        log_z = jax.nn.logsumexp(-energy(params, h))
        return jnp.mean(-energy(params, q)) - log_z

    truth = jax.jit(jax.grad(bound))(p)
    new, info = model.step(KEY, state, {"x": X})
    moved = new.states[-1].params
    for name in ("W", "b"):
        for own, old, g in zip(
            getattr(moved, name), getattr(p, name), getattr(truth, name), strict=True
        ):
            # One standard error is at most .5 / √20000 = .0035 (of 0/1 statistics).
            np.testing.assert_allclose(own - old, g, atol=0.02)
    for own, old in zip(moved.lam, p.lam, strict=True):
        assert jnp.array_equal(own, old)
    gap = info["whole/free_energy_gap"]
    assert gap.said and np.isfinite(gap.value)


def test_centring_moves_the_offsets_and_no_optimizer_does():
    p = machine((3, 2))
    still, state = model_and_state(p, optax.sgd(0.0), centred=True, nu=1.0)
    moved = still.step(KEY, state, {"x": X})[0].states[-1].params
    q = mean_field(p, X.reshape(12, 4), 10)
    for lam, mu in zip(moved.lam, q, strict=True):
        np.testing.assert_allclose(lam, mu.mean(0), atol=1e-6)
    np.testing.assert_allclose(log_marginal(moved)[0], log_marginal(p)[0], atol=1e-5)
    decayed, state = model_and_state(p, optax.adamw(0.1, weight_decay=0.5), centred=False)
    moved = decayed.step(KEY, state, {"x": X})[0].states[-1].params
    for part in ("lam", "rate"):
        for own, old in zip(getattr(moved, part), getattr(p, part), strict=True):
            assert jnp.array_equal(own, old)


# The machines it is put together from


def test_machines_count_their_neighbours_twice_where_one_is_missing():
    assert [deep.counts(layer, 3) for layer in range(3)] == [(2, 1), (2, 2), (1, 2)]
    assert [deep.counts(layer, 2) for layer in range(2)] == [(2, 1), (1, 2)]


@DEPTHS
def test_the_whole_is_put_together_from_what_machines_say(widths):
    """Each layer's logit is the mean of what the machines below and above it say of it."""
    sizes, L = (4, *widths), len(widths)
    machines = tuple(
        Machine(*map(jax.random.normal, keys, shapes), shape=(n,))
        for n, H, keys in zip(
            sizes[:-1], sizes[1:], jax.random.split(KEY, (L, 6)), strict=True
        )
        for shapes in [((n, H), (n,), (H,), (n,), (H,), (n,))]
    )  # fmt: skip
    p = deep.put_together(machines)
    h = tuple(
        jax.random.bernoulli(jax.random.fold_in(KEY, i), 0.5, (6, n)) * 1.0
        for i, n in enumerate(sizes)
    )
    for layer in range(L + 1):
        said = []
        if layer:
            m = machines[layer - 1]
            said.append(m.c + (2 if layer < L else 1) * (h[layer - 1] - m.mu) @ m.W)
        if layer < L:
            m = machines[layer]
            said.append(m.b + (2 if layer else 1) * (h[layer + 1] - m.lam) @ m.W.T)
        np.testing.assert_allclose(deep.logits(p, h, layer), sum(said) / len(said), atol=1e-4)


def test_contrastive_divergence_of_a_machine_is_the_explicit_statistics():
    """CD-1 of the lowest machine, by enumeration of h and of v'."""
    config = dbm.Config(widths=(3, 2), centred=False)
    model = compiled(dbm.machine(config, 0, optax.sgd(1.0)))
    x = jnp.tile(X, (3000, 1, 1, 1))
    state = model.init(KEY, {"x": x})
    W, b, c = (
        jax.random.normal(jax.random.fold_in(KEY, i), s) for i, s in enumerate([(4, 3), 4, 3])
    )
    state = state.replace(params=state.params.replace(W=W, b=b, c=c))
    sigmoid = lambda a: 1 / (1 + np.exp(-np.asarray(a, np.float64)))
    v, hs, vs = X.reshape(12, 4), states(3), states(4)
    up = lambda v: sigmoid(c + 2 * v @ W)
    chance = lambda p, s: np.prod(np.where(s[None] == 1, p[:, None], 1 - p[:, None]), -1)
    law = (chance(up(v), hs) @ chance(sigmoid(b + hs @ W.T), vs)).mean(0)
    g_W = np.asarray(v).T @ up(v) / 12 - vs.T @ (law[:, None] * up(vs))
    g_b = np.asarray(v).mean(0) - law @ vs
    g_c = up(v).mean(0) - law @ up(vs)
    moved = model.step(KEY, state, {"x": x})[0].params
    for own, g in ((moved.W - W, g_W), (moved.b - b, g_b), (moved.c - c, g_c)):
        np.testing.assert_allclose(own, g, atol=0.02)


def test_stages_follow_one_another_and_the_schedule_follows_the_run():
    model = dbm.make(
        dbm.Config(widths=(3, 2), stage_steps=(2, 3), chains=5),
        optax.sgd(optax.linear_schedule(1.0, 0.0, 10)),
    )
    state, step = model.init(KEY, {"x": X}), jax.jit(model.step)
    stages = []
    for i in range(7):
        state, info = step(jax.random.fold_in(KEY, i), state, {"x": X})
        stages.append(int(info["stage"]))
        said = [name for name, gap in info.items() if name != "stage" and gap.said]
        assert said == [f"{['layer_1', 'layer_2', 'whole'][stages[-1]]}/free_energy_gap"]
    assert stages == [0, 0, 1, 1, 1, 2, 2]
    counts = [
        [int(leaf) for leaf in jax.tree.leaves(s.optimizer) if leaf.dtype == jnp.int32]
        for s in state.states
    ]
    assert counts == [[2], [5], [7]]


def test_until_the_whole_learns_it_is_what_the_machines_make():
    p = machine((3, 2))
    model, state = model_and_state(p, begun=False)
    made = deep.put_together(tuple(s.params for s in state.states[:-1]))
    own = model.log_prob(KEY, state, {"x": X})
    exact = log_marginal(made)[0]
    assert np.all(own <= exact[(np.asarray(X).reshape(-1, 4) @ [8, 4, 2, 1]).astype(int)] + 1e-4)
    assert not np.allclose(own, model_and_state(p)[0].log_prob(
        KEY, model_and_state(p)[1], {"x": X}))  # fmt: skip


@pytest.mark.slow
def test_a_small_machine_learns_four_patterns():
    """The best possible is log 4 = 1.386 nats; a uniform guess has 4.16."""
    data = jnp.array([[0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0],
                      [1, 1, 1, 1, 1, 1]], jnp.float32)  # fmt: skip
    config = dbm.Config(widths=(8, 6), stage_steps=(500, 500), weight_std=0.1)
    model = dbm.make(config, optax.sgd(0.1))

    @jax.jit
    def train(state):
        one = lambda s, i: model.step(jax.random.fold_in(KEY, i), s, {"x": data})
        return jax.lax.scan(one, state, jnp.arange(3000))[0]

    state = train(model.init(KEY, {"x": data}))
    assert model.log_prob(KEY, state, {"x": data}).mean() > -2.0
    x = model.sample(KEY, state, 2000)["x"]
    assert jnp.all((x[:, None] == data).all(-1).mean(0) > 0.1)


def test_encode_gives_all_layers_and_decode_the_means():
    p = machine((3, 2, 3))
    model, state = model_and_state(p)
    latents = model.latents.encode(KEY, state, {"x": X})
    assert [h.shape for h in latents] == [(12, 3), (12, 2), (12, 3)]
    x = model.latents.decode(KEY, state, latents)["x"]
    error = model.measures["reconstruction"](KEY, state, {"x": X})
    np.testing.assert_allclose(error, jnp.sum((x - X) ** 2, (1, 2, 3)), rtol=1e-5)


@pytest.mark.parametrize(
    "fields, says",
    [
        ({"widths": (3,)}, "the family rbm"),
        ({"widths": (3, 3), "stage_steps": (5,)}, "2 numbers"),
        ({"stage_steps": (2000, -1)}, "stage_steps should be not negative"),
        ({"widths": (3, 0)}, "widths should be at least 1"),
        ({"updates": 0}, r"updates should be in \[1, 1000\]"),
    ],
)
def test_bad_configs_are_refused(fields, says):
    with pytest.raises(ConfigError, match=says):
        dbm.Config(**fields)


# What is given, and what it is begun from


@MIDDLE
@pytest.mark.parametrize("means", [False, True])
def test_a_known_part_stays_and_the_rest_follows_the_conditional(widths, means):
    p = machine(widths)
    model, state = model_and_state(p, sample_steps=50, sample_means=means)
    x, mask = jnp.array([1.0, 7, 0, 7]), jnp.array([1.0, 0, 1, 0])
    given = {"x": x.reshape(2, 2, 1), "mask": mask.reshape(2, 2, 1)}
    name = "mean" if means else "x"
    drawn = model.sample(KEY, state, 40_000, given)[name].reshape(-1, 4)
    assert jnp.array_equal(drawn[:, [0, 2]], jnp.tile(jnp.array([1.0, 0.0]), (40_000, 1)))
    v, truth = states(4), np.exp(log_marginal(p)[0])
    here = (v[:, 0] == 1) & (v[:, 2] == 0)
    law = truth[here] / truth[here].sum()
    np.testing.assert_allclose(drawn.mean(0), law @ v[here], atol=0.012)
    if not means:
        code = np.asarray(drawn[:, 1] * 2 + drawn[:, 3]).astype(int)
        np.testing.assert_allclose(np.bincount(code, minlength=4) / len(code), law, atol=0.012)


def test_a_label_is_refused():
    model, state = model_and_state(machine())
    with pytest.raises(DataError, match="dbm cannot be told that: unknown given 'label'"):
        model.sample(KEY, state, 2, {"label": 1})


def runs(widths, centred=True):
    """Ordinary machines, one on the data and each other one on draws of the one below."""
    x, learnt = X, []
    for layer, width in enumerate(widths):
        model = rbm.make(rbm.Config(hidden=width, centred=centred, weight_std=0.5), optax.sgd(0.3))
        state = jax.jit(model.init)(jax.random.fold_in(KEY, layer), {"x": x})
        step = jax.jit(model.step)
        for i in range(5):
            state, _ = step(jax.random.fold_in(KEY, i), state, {"x": x})
        learnt.append(state.params)
        x = boltzmann.draw_hidden(KEY, state.params, x.reshape(12, -1))
    return {f"layer_{layer + 1}": params for layer, params in enumerate(learnt)}


def begun(widths, centred=True, **config):
    """A model whose machines need not learn, and its first state, begun from ordinary ones."""
    steps = config.pop("stage_steps", (0,) * len(widths))
    config = dbm.Config(widths=widths, stage_steps=steps, chains=5, **config)
    model, machines = dbm.make(config, optax.sgd(0.0)), runs(widths, centred)
    return model, jax.jit(model.init)(KEY, {"x": X}, **machines), list(machines.values())


@MIDDLE
def test_machines_begun_from_rbms_are_those_rbms(widths):
    model, state, machines = begun(widths)
    L = len(widths)
    for layer, (own, one) in enumerate(zip(state.states, machines, strict=False)):
        half = 0.5 if 0 < layer < L - 1 else 1.0
        for name in ("W", "b", "c", "mu", "lam", "rate"):
            scale = half if name == "W" else 1.0
            np.testing.assert_array_equal(getattr(own.params, name), scale * getattr(one, name))
        # What points outwards is the ordinary machine's own conditional, and so are a middle one's.
        up, down = (turn(own.params, layer, L) for turn in (deep.upward, deep.downward))
        n, H = one.W.shape
        if layer == 0 or half == 0.5:
            np.testing.assert_allclose(
                boltzmann.visible_mean(down, states(H)), boltzmann.visible_mean(one, states(H)),
                atol=1e-6)  # fmt: skip
        if layer == L - 1 or half == 0.5:
            np.testing.assert_allclose(
                boltzmann.hidden_mean(up, states(n)), boltzmann.hidden_mean(one, states(n)),
                atol=1e-6)  # fmt: skip
        # What points inwards is right where the units are at their means.
        for seen in (up, down):
            np.testing.assert_allclose(boltzmann.hidden_logits(seen, one.mu), one.c, atol=1e-6)
            np.testing.assert_allclose(boltzmann.visible_logits(seen, one.lam), one.b, atol=1e-6)
    # Before any step the model is what they make, and the first step is the whole's.
    made = deep.put_together(tuple(s.params for s in state.states[:L]))
    bound = model.log_prob(KEY, state, {"x": states(4).reshape(-1, 2, 2, 1)})
    assert np.all(bound <= log_marginal(made)[0] + 1e-4)
    again, info = jax.jit(model.step)(KEY, state, {"x": X})
    assert info["stage"] == L and info["whole/free_energy_gap"].said
    for own, old in zip(again.states[:L], state.states[:L], strict=True):
        jax.tree.map(np.testing.assert_array_equal, own.params, old.params)
    jax.tree.map(np.testing.assert_array_equal, again.states[-1].params.W, made.W)
    # Centring may have moved the coordinates, and nothing else.
    np.testing.assert_allclose(
        log_marginal(again.states[-1].params)[0], log_marginal(made)[0], atol=1e-5
    )


def test_an_rbm_that_is_not_centred_is_taken_to_the_means_first():
    _, state, machines = begun((3, 2), centred=False)
    one, own = machines[0], state.states[0].params
    assert not jnp.any(one.lam)
    v = X.reshape(12, 4)
    moved = boltzmann.recentre(one, v, 1.0)
    for name in ("W", "b", "c", "mu", "lam"):
        np.testing.assert_allclose(getattr(own, name), getattr(moved, name), atol=1e-6)
    # The same ordinary machine, in other coordinates.
    np.testing.assert_allclose(
        boltzmann.hidden_mean(own, v), boltzmann.hidden_mean(one, v), atol=1e-6
    )
    np.testing.assert_allclose(own.lam, boltzmann.hidden_mean(one, v).mean(0), atol=1e-6)


def test_a_begun_machine_may_learn_on_from_where_it_is():
    model, state, machines = begun((3, 2), stage_steps=(0, 1))
    after, info = model.step(KEY, state, {"x": X})
    assert info["stage"] == 1
    # Its rate of learning is 0, and it did not begin from the means below it.
    np.testing.assert_array_equal(after.states[1].params.W, machines[1].W)
    np.testing.assert_array_equal(after.states[1].params.rate, machines[1].rate)


def test_what_does_not_fit_is_refused_and_the_whole_begins_from_no_run():
    machines = runs((3, 2))
    wider = dbm.make(dbm.Config(widths=(5, 2), stage_steps=(0, 0)), optax.sgd(0.1))
    with pytest.raises(
        ConfigError, match=r"=layer_1: \.W is \[4, 3\] there, and this config needs \[4, 5\]"
    ):
        wider.init(KEY, {"x": X}, **machines)
    with pytest.raises(ConfigError, match=r"--begin=whole: this stage begins from no run"):
        wider.init(KEY, {"x": X}, whole=machine((5, 2)))
    labelled = rbm.make(rbm.Config(hidden=3, classes=3), optax.sgd(0.1))
    params = labelled.init(KEY, {"x": X, "label": jnp.arange(12) % 3}).params
    own = dbm.make(dbm.Config(widths=(3, 2), stage_steps=(0, 0)), optax.sgd(0.1))
    with pytest.raises(ConfigError, match=r"=layer_1: \.W is \[7, 3\] there"):
        own.init(KEY, {"x": X}, layer_1=params)
