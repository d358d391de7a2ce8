"""Recurrent networks: cells written out, finite differences, gradients that end, enumeration."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax_zoo import nets
from genjax_zoo.contract import BINARY, REAL, ConfigError, Exactness, Measure
from genjax_zoo.models import recurrent
from genjax_zoo.models.recurrent import Config

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
V, T = 3, 4
TEXT = {"output": "categorical", "vocabulary": V, "width": 6}
STRINGS = np.array(list(itertools.product(range(V), repeat=T)), np.int32)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def elman(a, r, h, c):
    return np.tanh(a + r), None


def lstm(a, r, h, c):
    i, f, g, o = np.split(a + r, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def gru(a, r, h, c):
    (a_s, a_z, a_n), (r_s, r_z, r_n) = np.split(a, 3), np.split(r, 3)
    z = sigmoid(a_z + r_z)
    return (1 - z) * np.tanh(a_n + sigmoid(a_s + r_s) * r_n) + z * h, None


def written_out(cell, params, x, keep, read):
    """A loop over strings, layers and times, of one vector each: [n, T, H]."""
    for own in params:
        kernel, bias = (np.asarray(own["input"][name], np.float64) for name in ("kernel", "bias"))
        U = np.asarray(own["recurrent"]["kernel"], np.float64)
        c0 = np.asarray(own["recurrent"].get("bias", 0.0), np.float64)
        out = np.zeros((*x.shape[:2], len(U)))
        for n in range(len(x)):
            h, c = np.zeros(len(U)), np.zeros(len(U))
            for t in range(x.shape[1]):
                if not keep[n, t]:
                    h, c = np.zeros(len(U)), np.zeros(len(U))
                if read[n, t]:
                    h, c = cell(x[n, t] @ kernel + bias, h @ U + c0, h, c)
                    c = np.zeros(len(U)) if c is None else c
                out[n, t] = h
        x = out
    return x


def shaken(params):
    """Every number of a tree, those that begin at 0 too, drawn anew."""
    leaves, tree = jax.tree.flatten(params)
    drawn = [jnp.asarray(RNG.normal(size=leaf.shape) * 0.7, jnp.float32) for leaf in leaves]
    return jax.tree.unflatten(tree, drawn)


@pytest.mark.parametrize(("name", "by_hand"), [("elman", elman), ("lstm", lstm), ("gru", gru)])
def test_a_network_is_a_loop_over_strings_layers_and_times(name, by_hand):
    net = nets.recurrent(name, 2, 5)
    params = shaken(jax.eval_shape(lambda: net.init(KEY, 3)))
    x = RNG.normal(size=(3, 6, 3))
    keep, read = np.ones((3, 6), bool), np.ones((3, 6), bool)
    keep[1, 3], read[2, :2], read[0, 4] = False, False, False
    masks = nets.Masks(*map(jnp.asarray, (keep.T, np.ones((6, 3), bool), read.T)))
    run = jax.jit(net.read)
    h, state = run(params, net.start(3), jnp.asarray(x, jnp.float32), masks)
    expected = written_out(by_hand, params, x, keep, read)
    np.testing.assert_allclose(h, expected, atol=1e-5)
    np.testing.assert_allclose(state[-1][0], expected[:, -1], atol=1e-5)
    # In two parts, from the state between them.
    half = lambda a: jax.tree.map(lambda m: m[a], masks)
    first, between = run(params, net.start(3), x[:, :2], half(slice(2)))
    second, _ = run(params, between, x[:, 2:], half(slice(2, None)))
    np.testing.assert_allclose(jnp.concatenate([first, second], 1), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["elman", "lstm", "gru"])
def test_gradients_are_finite_differences(name):
    """Along a random direction of all parameters at once, in double precision."""
    with jax.enable_x64(True):
        net = nets.recurrent(name, 1, 4)
        params = jax.tree.map(
            lambda leaf: jnp.asarray(leaf, float), shaken(jax.eval_shape(lambda: net.init(KEY, 2)))
        )
        x, yes = jnp.asarray(RNG.normal(size=(2, 5, 2))), jnp.ones((5, 2), bool)
        start = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), net.start(2))
        weight = jnp.asarray(RNG.normal(size=(2, 5, 4)))
        loss = jax.jit(
            lambda p: jnp.sum(weight * net.read(p, start, x, nets.Masks(yes, yes, yes))[0])
        )
        towards = jax.tree.map(lambda leaf: jnp.asarray(RNG.normal(size=leaf.shape)), params)
        at = lambda s: loss(jax.tree.map(lambda p, d: p + s * d, params, towards))
        slope = sum(map(jnp.vdot, *map(jax.tree.leaves, (jax.grad(loss)(params), towards))))
        assert float(slope) == pytest.approx(float(at(1e-5) - at(-1e-5)) / 2e-5, rel=1e-6)


def test_truncated_gradients_end_where_a_piece_does():
    """∂ log p(x_t | x_<t) / ∂ (the input at s), all of it at once: zero where s is of an earlier
    piece than t, and nowhere else that a network sees."""
    net = nets.recurrent("lstm", 2, 4)
    params, S = net.init(KEY, 1), 6
    read = functools.partial(
        recurrent.read, net=net, state=net.start(1), known=jnp.ones((1, S), bool)
    )
    own = recurrent.Params({}, params, {"kernel": jnp.ones((4, 1)), "bias": jnp.zeros(1)}, (S,))

    def jacobian(truncate, first=None):
        config = Config(truncate=truncate)
        says = lambda x: read(config, params=own, x=x, first=first)[0][0, :, 0]
        return np.asarray(jax.jit(jax.jacrev(says))(jnp.ones((1, S, 1)))[:, 0, :, 0])

    t, s = np.mgrid[:S, :S]
    assert ((jacobian(0) != 0) == (s <= t)).all()
    assert ((jacobian(2) != 0) == ((s <= t) & (t // 2 == s // 2))).all()
    assert ((jacobian(1) != 0) == (s == t)).all()
    # Nothing of an earlier document is read, in neither direction.
    first = jnp.arange(S)[None] == 4
    assert ((jacobian(0, first) != 0) == ((s <= t) & ((t < 4) | (s >= 4)))).all()


@functools.cache
def learnt(**fields):
    """(model, state) whose parameters are drawn at random."""
    model = recurrent.make(Config(**{**TEXT, **fields}), optax.sgd(0.1))
    state = jax.jit(model.init)(KEY, {"x": jnp.asarray(STRINGS)})
    log_prob = Measure(jax.jit(model.log_prob), Exactness.EXACT)
    return model._replace(log_prob=log_prob), state.replace(params=shaken(state.params))


@pytest.mark.parametrize("begin", [-1, 1, V])
def test_strings_have_probabilities_that_sum_to_one(begin):
    model, state = learnt(begin=begin, cell="gru")
    p = np.exp(np.asarray(model.log_prob(KEY, state, {"x": STRINGS}), np.float64))
    assert p.sum() == pytest.approx(1, abs=1e-5)
    first = p.reshape(V, -1).sum(1)
    if begin < 0:
        np.testing.assert_allclose(first, 1 / V, atol=1e-6)
    else:
        assert first.std() > 0.01
    measure = model.measures["nats_per_symbol"]
    np.testing.assert_allclose(measure(KEY, state, {"x": STRINGS}), -np.log(p), rtol=1e-4)
    np.testing.assert_array_equal(measure.per({"x": STRINGS}), T)
    assert np.isneginf(model.log_prob(KEY, state, {"x": STRINGS + V - 1})).any()


@pytest.mark.parametrize("begin", [-1, V])
def test_documents_in_one_row_know_nothing_of_each_other(begin):
    model, state = learnt(begin=begin, layers=2)
    a, b = STRINGS[50], STRINGS[23]
    row = np.concatenate([a, b, [0, 0]])[None]
    document = np.array([[1] * T + [2] * T + [0, 0]])
    apart = model.log_prob(KEY, state, {"x": np.stack([a, b])})
    together = model.log_prob(KEY, state, {"x": row, "document": document})
    assert float(together[0]) == pytest.approx(float(apart.sum()), abs=1e-5)
    measure = model.measures["nats_per_symbol"]
    assert float(measure.per({"x": row, "document": document})[0]) == 2 * T
    # What does not count is read all the same.
    mask = np.array([[0, 1, 1, 1]])
    part = {"x": a[None], "loss_mask": mask}
    alone = model.log_prob(KEY, state, {"x": a[None, :1]})
    found = model.log_prob(KEY, state, part)
    assert float(found[0]) == pytest.approx(float(apart[0] - alone[0]), abs=1e-5)
    assert float(measure.per(part)[0]) == 3


def test_padding_below_zero_is_not_read():
    model, state = learnt(layers=2, begin=V)
    writes = model.autoregression
    x = np.array([[-1, 2, -5, 0, 1], [2, 0, -1, -1, 1], [0, -1, -1, -1, -1]], np.int32)
    read = jax.jit(lambda x: writes.extend(state, writes.start(state, len(x), 5)[1], x))
    logits, cache = read(x)
    for row, symbols in enumerate(([2, 0, 1], [2, 0, 1], [0])):
        alone, kept = read(jnp.array([symbols]))
        np.testing.assert_allclose(logits[row][x[row] >= 0], alone[0], atol=1e-5)
        jax.tree.map(
            lambda one, all_, row=row: np.testing.assert_allclose(all_[row], one[0], atol=1e-5),
            *(kept, cache),
        )


def test_symbols_are_drawn_as_enumeration_says():
    model, state = learnt(begin=V)
    n = 20_000
    x = jax.jit(model.sample, static_argnums=2)(KEY, state, n)["x"]
    share = np.bincount(np.asarray(x) @ V ** np.arange(T - 1, -1, -1), minlength=len(STRINGS)) / n
    p = np.exp(np.asarray(model.log_prob(KEY, state, {"x": STRINGS}), np.float64))
    assert (np.abs(share - p) < 4.5 * np.sqrt(p * (1 - p) / n) + 1e-4).all()


def test_dropout_is_of_learning_alone():
    fields = {**TEXT, "begin": V}
    plain, dropping = (
        recurrent.make(Config(**fields, dropout=d), optax.sgd(0.1)) for d in (0.0, 0.5)
    )
    state, batch = jax.jit(plain.init)(KEY, {"x": STRINGS}), {"x": jnp.asarray(STRINGS)}
    np.testing.assert_array_equal(
        *(model.log_prob(KEY, state, batch) for model in (plain, dropping))
    )
    losses = lambda model: [
        float(jax.jit(model.step)(jax.random.key(k), state, batch)[1]["loss"]) for k in range(2)
    ]
    first, second = losses(dropping)
    assert first != second
    expected = -float(plain.log_prob(KEY, state, batch).mean()) / T
    assert losses(plain) == pytest.approx([expected] * 2)


# --------------------------------------------------------------------------------------- series


@functools.cache
def of_series(K=3, shape=(5, 2)):
    config = Config(output="gaussian", components=K, width=4, cell="elman")
    model = recurrent.make(config, optax.sgd(0.1))
    state = jax.jit(model.init)(KEY, {"x": jnp.zeros((1, *shape))})
    return model, state.replace(params=shaken(state.params))


def mixture_of(params, before, K, D=2):
    """The mixture after a past [t, D], one by one: w [K], μ [K, D], σ [K, D]."""
    x = np.concatenate([np.zeros((1, D)), before])[None]
    yes = np.ones(x.shape[:2], bool)
    h = written_out(elman, params.layers, x, yes, yes)[0, -1]
    f = h @ np.asarray(params.head["kernel"], np.float64) + np.asarray(params.head["bias"])
    w = np.exp(f[:K]) / np.exp(f[:K]).sum()
    return w, f[K : K + K * D].reshape(K, D), np.exp(f[K + K * D :]).reshape(K, D)


def test_a_series_has_the_density_of_its_mixtures():
    model, state = of_series()
    assert model.spaces["x"] == REAL and model.autoregression is None
    x = RNG.normal(size=(5, 2))
    nats, error = 0.0, 0.0
    for t in range(5):
        w, mean, std = mixture_of(state.params, x[:t], 3)
        each = np.exp(-0.5 * ((x[t] - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi))
        nats += np.log(w @ each.prod(1))
        error += ((x[t] - w @ mean) ** 2).sum()
    batch = {"x": jnp.asarray(x[None], jnp.float32)}
    assert float(model.log_prob(KEY, state, batch)[0]) == pytest.approx(nats, rel=1e-4)
    measure = model.measures["forecast_error"]
    assert float(measure(KEY, state, batch)[0]) == pytest.approx(error, rel=1e-4)
    assert float(measure.per(batch)[0]) == 10


def test_the_rest_of_a_time_is_drawn_given_what_is_known_of_it():
    """The component is drawn by its weight times what it says of the known number."""
    model, state = of_series()
    n, known = 20_000, np.array([[0.4, -0.2], [0.9, np.nan]] + [[np.nan] * 2] * 3)
    draws = jax.jit(lambda: model.sample(KEY, state, n, {"x": known})["x"])()
    np.testing.assert_array_equal(draws[:, 0], np.tile(known[:1].astype(np.float32), (n, 1)))
    np.testing.assert_allclose(draws[:, 1, 0], 0.9, atol=1e-6)
    w, mean, std = mixture_of(state.params, known[:1], 3)
    w = w * np.exp(-0.5 * ((0.9 - mean[:, 0]) / std[:, 0]) ** 2) / std[:, 0]
    w /= w.sum()
    first = w @ mean[:, 1]
    spread = np.sqrt(w @ (mean[:, 1] ** 2 + std[:, 1] ** 2) - first**2)
    assert float(draws[:, 1, 1].mean()) == pytest.approx(first, abs=5 * spread / n**0.5)
    assert float(draws[:, 1, 1].std()) == pytest.approx(spread, rel=0.05)


# ------------------------------------------------------------------------------------ refusals


def test_pixels_are_symbols_of_two_kinds():
    model = recurrent.make(Config(output="bernoulli", width=4, begin=2), optax.sgd(0.1))
    images = np.array(list(itertools.product((0.0, 1.0), repeat=4)), np.float32).reshape(16, 2, 2)
    state = jax.jit(model.init)(KEY, {"x": images})
    assert model.spaces["x"] == BINARY
    total = np.exp(np.asarray(model.log_prob(KEY, state, {"x": images}), np.float64)).sum()
    assert total == pytest.approx(1, abs=1e-5)
    assert np.isneginf(model.log_prob(KEY, state, {"x": images / 2})[1:]).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"output": "categorical"}, "vocabulary should be 2 or more for a categorical output"),
        ({**TEXT, "vocabulary": 1}, "vocabulary should be 2 or more"),
        ({"vocabulary": 5, "output": "bernoulli"}, "and 0 for any other, got 5"),
        ({**TEXT, "vocabulary": 5, "begin": 6}, r"begin should be in \[-1, 5\]"),
        ({"output": "gaussian", "begin": 0}, r"begin should be in \[-1, -1\]"),
        ({**TEXT, "vocabulary": 5, "components": 2}, "components=2 is of a gaussian output"),
        ({**TEXT, "vocabulary": 5, "cell": "lstn"}, "Did you mean 'lstm'"),
        ({**TEXT, "vocabulary": 5, "truncate": -1}, "truncate should be not negative"),
    ],
)
def test_bad_configs_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        Config(**fields)


def test_a_forget_gate_begins_open():
    net = nets.recurrent("lstm", 2, 3)
    bias = net.init(KEY, 2)[1]["input"]["bias"].reshape(4, 3)
    np.testing.assert_array_equal(bias, [[0] * 3, [1] * 3, [0] * 3, [0] * 3])
