"""The Transformer against its sums written out, documents against each other, and its counts."""

import functools
import itertools
import json
import math
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax_zoo.contract import ConfigError, DataError
from genjax_zoo.learn import optimizers
from genjax_zoo.maths.sequences import scaling
from genjax_zoo.models import language_model
from genjax_zoo.nets import architecture, decoder, experts, positions
from genjax_zoo.nets.attention import attend
from tests.conftest import ROOT
from tests.test_laws import variants_of

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def stirred(c, scale=0.3):
    """Parameters of which none is what it is at first: normal numbers about its first mean."""
    rng = np.random.default_rng(1)
    draw = lambda leaf: jnp.asarray(leaf.mean + scale * rng.normal(size=leaf.shape), jnp.float32)
    is_tensor = lambda leaf: isinstance(leaf, architecture.Tensor)
    return jax.tree.map(draw, architecture.tensors(c), is_leaf=is_tensor)


# ---------------------------------------------------------- every kind of block, written out

TINY = {"vocabulary": 11, "context": 9, "layers": 2, "width": 12, "heads": 6, "inner": 7}
RMS = {"norm": "rms", "norm_bias": False}
KINDS = {
    "gpt": {"activation": "gelu_tanh"},
    "llama": {
        **{**RMS, "bias": False, "position": "rotary", "activation": "silu", "gated": True},
        **{"tied": False, "key_heads": 2, "rotary_base": 50.0},
        **{"rotary_factor": 4.0, "rotary_high": 2.0, "rotary_context": 16},
    },
    "palm": {
        **{"norm_bias": False, "bias": False, "position": "rotary", "activation": "silu"},
        **{"rotary_layout": "interleaved", "gated": True, "parallel": True, "norms": 1},
        **{"key_heads": 1, "head_width": 4},
    },
    "falcon": {"bias": False, "position": "rotary", "parallel": True, "key_heads": 3},
    "alibi": {"position": "alibi", "window": 3, "activation": "gelu", "gated": True},
    "switch": {"position": "none", "activation": "relu", "experts": 3},
    "mixtral": {**RMS, "experts": 4, "experts_per_token": 2, "gated": True, "activation": "silu"},
}
GELU = {
    "gelu": lambda x: 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "relu": lambda x: np.maximum(x, 0),
}


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def written_out(c, params, x):
    """Logits [L, V] of one string, place by place and head by head, in float64."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    W, per_key = c.of_head, c.heads // c.of_keys

    def norm(p, h):
        if c.norm == "layer":
            h = (h - h.mean()) / np.sqrt(h.var() + c.epsilon)
        else:
            h = h / np.sqrt((h**2).mean() + c.epsilon)
        return h * p["scale"] + p.get("bias", 0)

    def dense(p, a):
        flat = a.reshape(-1)
        kernel = p["kernel"].reshape(len(flat), -1)
        return flat @ kernel + np.reshape(p.get("bias", 0), -1)

    def turned(a, t):
        """Each pair of features as a complex number, times e^(i t θ)."""
        if c.position != "rotary":
            return a
        out = np.zeros_like(a)
        for i in range(W // 2):
            theta = c.rotary_base ** (-2 * i / W)
            waves = c.rotary_context * theta / (2 * np.pi)
            if c.rotary_factor != 1 and waves < c.rotary_low:
                theta /= c.rotary_factor
            elif c.rotary_factor != 1 and waves < c.rotary_high:
                kept = (waves - c.rotary_low) / (c.rotary_high - c.rotary_low)
                theta = kept * theta + (1 - kept) * theta / c.rotary_factor
            pair = [i, i + W // 2] if c.rotary_layout == "half" else [2 * i, 2 * i + 1]
            z = (a[pair[0]] + 1j * a[pair[1]]) * np.exp(1j * t * theta)
            out[pair] = z.real, z.imag
        return out

    def attention(p, a):
        q, k, v = (
            np.array([dense(p[name], each).reshape(-1, W) for each in a])
            for name in ("query", "key", "value")
        )
        mixed = np.zeros_like(q)
        for t, j in itertools.product(range(len(a)), range(c.heads)):
            seen = [s for s in range(t + 1) if not c.window or t - s < c.window]
            logits = np.array(
                [turned(q[t, j], t) @ turned(k[s, j // per_key], s) / W**0.5 for s in seen]
            )
            if c.position == "alibi":
                logits -= slope(c.heads, j) * (t - np.array(seen))
            mixed[t, j] = softmax(logits) @ v[seen, j // per_key]
        return np.array([dense(p["out"], each) for each in mixed])

    def mlp(up, down, a):
        act = GELU[c.activation]
        return down(act(up("gate", a)) * up("up", a) if c.gated else act(up("up", a)))

    def branch(p, a):
        if not c.experts:
            own = p["mlp"]
            return mlp(lambda n, a: dense(own[n], a), lambda u: dense(own["down"], u), a)
        own = p["experts"]
        gates = softmax(a @ own["router"]["kernel"])
        chosen = np.argsort(-gates)[: c.experts_per_token]
        total = 1 if c.experts_per_token == 1 else gates[chosen].sum()
        each = [
            mlp(
                lambda n, a, e=e: a @ own[n]["kernel"][e],
                lambda u, e=e: u @ own["down"]["kernel"][e],
                a,
            )
            for e in chosen
        ]
        return sum(gates[e] / total * y for e, y in zip(chosen, each, strict=True))

    h = p["embedding"]["kernel"][x]
    if c.position == "learnt":
        h = h + p["positions"]["kernel"][: len(x)]
    for layer in range(c.layers):
        own = jax.tree.map(lambda leaf, layer=layer: leaf[layer], p["blocks"])
        a = [norm(own["attention_norm"], each) for each in h]
        seen = attention(own["attention"], a)
        read = h if c.parallel else h + seen
        b = a if c.norms == 1 else [norm(own["mlp_norm"], each) for each in read]
        h = h + seen + np.array([branch(own, each) for each in b])
    h = np.array([norm(p["final_norm"], each) for each in h])
    return h @ (p["embedding"]["kernel"].T if c.tied else p["head"]["kernel"])


def slope(heads, j):
    """ALiBi's slopes by the authors' recursion."""

    def of(n):
        power = 2 ** math.floor(math.log2(n))
        if power == n:
            return [2 ** (-8 * (i + 1) / n) for i in range(n)]
        return of(power) + of(2 * power)[0::2][: n - power]

    return of(heads)[j]


@functools.cache
def made(kind):
    """(config, network, parameters) of a kind, and its logits as one compiled function."""
    c = language_model.Config(**TINY | KINDS[kind])
    net = decoder.network(c)
    return c, net, stirred(c), jax.jit(net.logits)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_the_sums_written_out(kind):
    c, _, params, logits = made(kind)
    x = RNG.integers(0, 11, (2, 9), np.int32)
    found = logits(params, x, np.ones_like(x))
    assert found.dtype == jnp.float32
    twin = np.array([written_out(c, params, row) for row in x])
    assert twin.std() > 0.5, "nothing was tested"
    np.testing.assert_allclose(found, twin, atol=2e-5 * np.abs(twin).max())


@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_says_what_reading_all_at_once_says(kind):
    """One string is read in pieces, another unevenly, and what was read wrongly is forgotten."""
    _, net, params, logits = made(kind)
    x = RNG.integers(0, 11, (2, 9), np.int32)
    all_at_once = logits(params, x, np.ones_like(x))
    extend = jax.jit(net.extend)
    read = lambda cache, first, second: extend(params, cache, np.array([first, second]))
    a, b = x.tolist()
    head, cache = read(net.cache(2, 9), a[:4], [-1, b[0], -1, b[1]])
    _, cache = read(cache, [7, 7, -1, -1], [7, 7, 7, -1])
    cache = decoder.rewind(cache, jnp.array([2, 3]))
    middle, cache = read(cache, [*a[4:7], -1], b[2:6])
    tail, cache = read(cache, [-1, -1, *a[7:]], [*b[6:], -1])
    assert cache.read.tolist() == [9, 9]
    found = [
        np.concatenate([head[0], middle[0, :3], tail[0, 2:]]),
        np.concatenate([head[1, 1::2], middle[1], tail[1, :3]]),
    ]
    np.testing.assert_allclose(found, all_at_once, atol=2e-5 * np.abs(all_at_once).max())


@pytest.mark.parametrize("most", [0, 12])
def test_layers_in_a_loop_and_written_out_say_the_same(most, monkeypatch):
    """Symbol by symbol, of one string, with padding in between, and of two; the cache is ready or
    not; also at once, and the gradient."""
    monkeypatch.setattr(decoder, "MOST_UNROLLED", most)
    c, _, params, logits = made("gpt")
    net = decoder.network(c)
    assert isinstance(net.cache(1, 1).keys, tuple) == (most > 0)
    x = RNG.integers(0, 11, (2, 5), np.int32)
    document = np.ones_like(x)
    expected = logits(params, x, document)
    extend = jax.jit(net.extend)
    for n in (1, 2):
        cache, found = net.cache(n, 5), []
        for symbol in (*x[:n].T, None):
            read = np.full(n, -1) if symbol is None else symbol
            after, cache = extend(net.ready(params), cache, np.full((n, 1), -1))
            after, cache = extend(params, cache, read[:, None])
            found.append(after[:, 0])
        assert cache.read.tolist() == [5] * n
        np.testing.assert_allclose(np.stack(found[:5], 1), expected[:n], atol=1e-4)
    np.testing.assert_allclose(net.logits(params, x, document), expected, atol=1e-4)
    gradient = lambda fn: jax.grad(lambda p: jnp.sum(jnp.sin(fn(p, x, document))))(params)
    for a, b in zip(*map(jax.tree.leaves, (gradient(net.logits), gradient(logits))), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * max(1, float(jnp.abs(b).max())))


def test_a_state_that_is_ready_says_the_same_and_is_smaller():
    """Of averaged weights: the average is taken once."""
    c = language_model.Config(**TINY | KINDS["gpt"], average=0.9)
    model = language_model.make(c, optax.sgd(0.1))
    batch = {"x": jnp.asarray(RNG.integers(0, 11, (2, 6), np.int32))}
    state, _ = model.step(KEY, model.init(KEY, batch), batch)
    writes = model.autoregression
    ready = writes.readied(state)
    assert ready.average is None and state.average is not None
    told = [writes.extend(s, writes.start(s, 2, 6)[1], batch["x"])[0] for s in (state, ready)]
    np.testing.assert_array_equal(*told)


def test_noise_is_the_same_whenever_it_is_drawn(monkeypatch):
    c = language_model.Config(**TINY | KINDS["gpt"])
    model = language_model.make(c, optax.sgd(0.1))
    state = model.init(KEY, {"x": jnp.zeros((2, 6), jnp.int32)})
    before = model.sample(KEY, state, 3)["x"]
    monkeypatch.setattr(language_model, "MOST_DRAWN", 0)
    np.testing.assert_array_equal(before, model.sample(KEY, state, 3)["x"])


@pytest.mark.parametrize("kind", ["gpt", "llama", "alibi", "mixtral"])
def test_documents_in_a_row_are_as_alone(kind):
    """Positions begin anew, and neither attention nor a window reaches across."""
    _, _, params, logits = made(kind)
    x = RNG.integers(0, 11, (2, 9), np.int32)
    document = np.array([[1, 1, 1, 1, 2, 2, 2, 3, 0], [4, 2, 2, 2, 2, 2, 0, 0, 0]])
    packed = np.asarray(logits(params, x, document))
    for row, number in ((0, 1), (0, 2), (0, 3), (1, 4), (1, 2)):
        at = np.flatnonzero(document[row] == number)
        alone = np.zeros_like(x)
        alone[:, : len(at)] = x[row, at]
        found = logits(params, alone, np.ones_like(x))[0, : len(at)]
        np.testing.assert_allclose(packed[row, at], found, atol=1e-5 * np.abs(found).max())


@pytest.mark.parametrize("kind", ["llama", "alibi"])
def test_what_is_not_seen_has_no_gradient(kind):
    """Every place has a symbol of its own, whose embedding is moved: exact zeros, and no others."""
    c = language_model.Config(**TINY | KINDS[kind] | {"tied": False, "layers": 1})
    net, params = decoder.network(c), stirred(c)
    x = np.arange(9)[None]
    document = np.array([[1, 1, 1, 1, 2, 2, 2, 2, 2]])

    @jax.jit
    @jax.jacobian
    def moved(kernel):
        return net.logits({**params, "embedding": {"kernel": kernel}}, x, document)[0].sum(-1)

    found = np.abs(moved(params["embedding"]["kernel"])[:, :9]).max(-1) > 0
    t, s = np.mgrid[:9, :9]
    seen = (s <= t) & (document[0][t] == document[0][s])
    if c.window:
        seen &= t - s < c.window
    np.testing.assert_array_equal(found, seen)


# --------------------------------------------------------------------------------- the numbers


def model_of(**fields):
    c = language_model.Config(
        **{"vocabulary": 3, "context": 4, "layers": 1, "width": 8, "heads": 2} | fields
    )
    return language_model.make(c, optax.sgd(0.1)), stirred(c, 1.0)


def state_of(model, params, length):
    shapes = jax.eval_shape(model.init, KEY, {"x": np.zeros((1, length), np.int32)})
    return shapes.replace(params=params)


@pytest.mark.parametrize(("begin", "length"), [(-1, 5), (2, 4)])
def test_probabilities_sum_to_one(begin, length):
    model, params = model_of(begin=begin)
    state = state_of(model, params, length)
    x = np.array(list(itertools.product(range(3), repeat=length)), np.int32)
    nats = np.asarray(jax.jit(model.log_prob)(KEY, state, {"x": x}))
    assert nats.std() > 1
    np.testing.assert_allclose(np.exp(nats).sum(), 1, rtol=1e-5)
    if begin < 0:
        # Of the first symbol nothing is known, which costs what it costs.
        first = [np.exp(nats[x[:, 0] == v]).sum() for v in range(3)]
        np.testing.assert_allclose(first, 1 / 3, rtol=1e-5)
    with pytest.raises(DataError, match=rf"a row of 6 symbols is longer .* tells, {length}; set"):
        model.log_prob(KEY, state, {"x": np.zeros((1, 6), np.int32)})


@pytest.mark.parametrize("begin", [-1, 2])
def test_a_packed_row_is_worth_its_documents(begin):
    """And padding nothing, whatever stands there; `per` counts what was predicted."""
    model, params = model_of(begin=begin, context=8)
    c = language_model.Config(vocabulary=3, context=8, layers=1, width=8, heads=2)
    state = state_of(model, params, 8).replace(optimizer=(optax.EmptyState(),) * 2)

    def told(x):
        """log p of each symbol of one document, by the sums written out."""
        read = x[:-1] if begin < 0 else np.array([begin, *x[:-1]])
        p = [softmax(row) for row in written_out(c, params, read)] if len(read) else []
        first = [np.full(3, 1 / 3)] if begin < 0 else []
        return np.log([q[v] for q, v in zip([*first, *p], x, strict=True)])

    @jax.jit
    def all_of_it(batch):
        per_token = model.measures["nats_per_token"]
        value, said = (each(KEY, state, batch) for each in (model.log_prob, per_token))
        return value, said, per_token.per(batch), model.step(KEY, state, batch)[1]["loss"]

    x = np.array([[1, 0, 1, 0, 2, -7, -7, -7]], np.int32)
    document = np.array([[1, 1, 1, 2, 2, 0, 0, 0]])
    each = np.concatenate([told(x[0, :3]), told(x[0, 3:5])])
    predicted = np.array([begin >= 0, True, True, begin >= 0, True])
    for counted in ([1, 1, 1, 1, 1], [0, 0, 0, 0, 1], [1, 0, 1, 1, 0]):
        mask = np.array([[*counted, 1, 1, 1]])
        batch = {"x": x, "document": document, "loss_mask": mask}
        value, said, count, loss = all_of_it(batch)
        keep = np.array(counted) == 1
        asked = keep & predicted
        np.testing.assert_allclose(value, [each[keep].sum()], rtol=1e-5)
        np.testing.assert_allclose(said, [-each[asked].sum()], rtol=1e-5)
        assert count.tolist() == [asked.sum()]
        # A step divides the sum over a batch by the count of what was predicted in it.
        np.testing.assert_allclose(loss, -each[asked].mean(), rtol=1e-5)
    for wrong in (3, -1):
        strange = x.copy()
        strange[0, 0] = wrong
        assert float(all_of_it({**batch, "x": strange})[0][0]) == -np.inf


def test_padded_symbols_take_no_probability():
    wide, params = model_of(pad_vocabulary_to=16, tied=False)
    narrow, _ = model_of(tied=False)
    assert params["embedding"]["kernel"].shape == (16, 8)
    cut = {**params, "embedding": {"kernel": params["embedding"]["kernel"][:3]}}
    cut["head"] = {"kernel": params["head"]["kernel"][:, :3]}
    x = RNG.integers(0, 3, (4, 5), np.int32)
    found = wide.log_prob(KEY, state_of(wide, params, 5), {"x": x})
    same = narrow.log_prob(KEY, state_of(narrow, cut, 5), {"x": x})
    np.testing.assert_allclose(found, same, rtol=1e-6)


def test_a_checkpointed_block_and_one_in_bfloat16_are_nearly_the_same():
    c = language_model.Config(**TINY | KINDS["llama"])
    params = stirred(c)
    x = RNG.integers(0, 11, (2, 9), np.int32)

    def of(**fields):
        net = decoder.network(language_model.Config(**TINY | KINDS["llama"] | fields))
        loss = lambda params: jnp.mean(jax.nn.logsumexp(net.logits(params, x), axis=-1))
        return jax.jit(jax.value_and_grad(loss))(params)

    (value, grad), again, half = of(), of(remat=True), of(dtype="bfloat16")
    np.testing.assert_allclose(again[0], value, rtol=1e-6)
    near = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    jax.tree.map(near, again[1], grad)
    assert half[0] != value
    np.testing.assert_allclose(half[0], value, rtol=0.02)
    for leaf, exact in zip(*map(jax.tree.leaves, (half[1], grad)), strict=True):
        assert leaf.dtype == jnp.float32
        np.testing.assert_allclose(leaf, exact, atol=0.1 * np.abs(exact).max())


# ------------------------------------------------------------------------------------- experts


@functools.partial(jax.jit, static_argnums=(1, 2))
def routed(logits, chosen, capacity=0.0, counted=True):
    """Tokens [T, E] that are their own logits, through experts that multiply by 1 .. E."""
    T, E = logits.shape
    read = lambda x: x * jnp.arange(1.0, E + 1)[:, None, None]
    counted = jnp.broadcast_to(counted, (T,))
    return experts.route(jnp.asarray(logits), jnp.eye(E), read, chosen, capacity, counted)


@pytest.mark.parametrize("chosen", [1, 2])
def test_experts_are_the_sums_written_out(chosen):
    logits = RNG.normal(size=(20, 4)).astype(np.float32)
    p = np.array([softmax(row) for row in logits])
    order = np.argsort(-p, axis=1)[:, :chosen]
    room, taken = 6, np.zeros(4, int)
    everything, dropped = np.zeros_like(logits), 0
    for k, t in itertools.product(range(chosen), range(20)):
        e = order[t, k]
        gate = p[t, e] / (p[t, order[t]].sum() if chosen > 1 else 1)
        if taken[e] < room:
            everything[t] += gate * (e + 1) * logits[t]
        else:
            dropped += 1
        taken[e] += 1
    assert dropped
    found = routed(logits, chosen, capacity=room * 4 / (20 * chosen))
    np.testing.assert_allclose(found.y, everything, rtol=1e-5, atol=1e-6)
    assert float(found.dropped) == pytest.approx(dropped / (20 * chosen))
    share = np.bincount(order.reshape(-1), minlength=4) / (20 * chosen)
    assert float(found.balance) == pytest.approx(4 * share @ p.mean(0), rel=1e-5)
    assert float(routed(logits, chosen).dropped) == 0


def test_the_balancing_loss_is_1_of_even_routing_and_E_where_one_takes_all():
    even = np.tile(50 * np.eye(4, dtype=np.float32), (3, 1))
    assert float(routed(even, 1).balance) == pytest.approx(1)
    one = np.tile(50 * np.eye(4, dtype=np.float32)[:1], (12, 1))
    assert float(routed(one, 1).balance) == pytest.approx(4)
    # An expert takes its even share, 3 of 12, and no more.
    full = routed(one, 1, capacity=1.0)
    assert float(full.dropped) == pytest.approx(0.75)
    assert (np.abs(full.y).max(1) > 0).tolist() == [True] * 3 + [False] * 9
    # What is padding is not counted, and takes no room.
    real = np.arange(12) >= 9
    some = routed(one, 1, 1.0, real)
    assert float(some.dropped) == 0
    assert (np.abs(some.y).max(1) > 0).tolist() == real.tolist()
    assert float(some.balance) == pytest.approx(4)


def test_in_training_experts_say_what_they_drop():
    fields = {"experts": 2, "capacity": 0.5, "balance": 0.25, "context": 8}
    model, params = model_of(**fields)
    state = state_of(model, params, 8).replace(optimizer=(optax.EmptyState(),) * 2)
    batch = {"x": RNG.integers(0, 3, (4, 8), np.int32)}
    info = jax.jit(model.step)(KEY, state, batch)[1]
    assert float(info["dropped"]) >= 0.5
    whole = float(info["nats_per_token"] + 0.25 * info["balance"])
    assert float(info["loss"]) == pytest.approx(whole, rel=1e-6)
    # What is measured drops nothing: no string may depend on another.
    value = jax.jit(model.log_prob)
    others = np.concatenate([batch["x"][:1], np.zeros((3, 8), np.int32)])
    one, same = (float(value(KEY, state, {"x": x})[0]) for x in (batch["x"], others))
    assert one == pytest.approx(same, rel=1e-6)


# ------------------------------------------------------------------------ how learning begins


def test_dropout_is_of_training_alone():
    c = language_model.Config(**TINY | {"dropout": 0.4})
    net, params = decoder.network(c), stirred(c)
    x = RNG.integers(0, 11, (1, 9), np.int32)
    found = jax.jit(net.logits)(params, x, np.ones_like(x))
    np.testing.assert_allclose(found, written_out(c, params, x[0])[None], atol=1e-3)
    in_training = jax.jit(lambda key: net.logits(params, x, key=key))
    draws = [in_training(key) for key in (KEY, KEY, jax.random.key(1))]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert np.abs(draws[0] - draws[2]).max() > 0.1
    assert np.abs(draws[0] - found).max() > 0.1


def test_attention_drops_weights_and_keeps_their_mean():
    v = jnp.ones((1, 1, 400, 1))
    q = jnp.zeros((1, 1, 400, 1))
    mixed = attend(q, q, v, dropout=0.25, key=KEY)
    assert float(mixed.mean()) == pytest.approx(1, abs=0.01)
    # The mean of 400 weights of which each is kept with probability 3/4.
    assert float(mixed.std()) == pytest.approx((0.25 / 0.75 / 400) ** 0.5, rel=0.15)
    np.testing.assert_allclose(attend(q, q, v, dropout=0.25), 1, rtol=1e-6)


def test_weights_begin_as_those_of_gpt2():
    c = language_model.Config(vocabulary=50, layers=8, width=32)
    params = jax.jit(decoder.network(c).init)(KEY)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path)
        if "kernel" not in name:
            np.testing.assert_array_equal(leaf, 1.0 if "scale" in name else 0.0)
            continue
        last = "out" in name or "down" in name
        assert float(leaf.std()) == pytest.approx(0.02 / (4 if last else 1), rel=0.06), name


def test_decay_is_of_kernels_alone():
    c = language_model.Config(**TINY)
    params = stirred(c)
    fields = {"name": "adamw", "learning_rate": 0.5, "weight_decay": 0.1, "decayed": "kernels"}
    tx = optimizers.make(optimizers.Config(**fields), 10)
    nothing = jax.tree.map(jnp.zeros_like, params)
    moved, _ = jax.jit(lambda g, p: tx.update(g, tx.init(p), p))(nothing, params)
    for (path, leaf), update in zip(
        jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(moved), strict=True
    ):
        rate = 0.05 if "kernel" in jax.tree_util.keystr(path) else 0.0
        np.testing.assert_allclose(update, -rate * leaf, rtol=1e-5, atol=1e-8)
    with pytest.raises(ConfigError, match="this model has none; set it to 'all'"):
        tx.init({"bias": jnp.zeros(3)})


def test_rotary_positions_tell_distances_alone():
    q, k = jnp.asarray(RNG.normal(size=(2, 1, 1, 1, 8)), jnp.float32)
    radians = positions.frequencies(8, 100.0)
    for layout in ("half", "interleaved"):
        at = lambda x, t, layout=layout: positions.rotate(x, jnp.array([[t]]), radians, layout)
        dots = [float(jnp.sum(at(q, t + 3) * at(k, t))) for t in (0, 5, 100)]
        np.testing.assert_allclose(dots, dots[0], rtol=1e-4)
        assert abs(dots[0] - float(jnp.sum(at(q, 4) * at(k, 0)))) > 1e-3
    # The longest waves are stretched by all of the factor, the shortest not at all.
    plain = positions.frequencies(128, 500_000.0)
    long = positions.frequencies(128, 500_000.0, 8.0, 1.0, 4.0, 8192)
    waves = 2 * np.pi / plain
    np.testing.assert_allclose(long[waves < 2048], plain[waves < 2048])
    np.testing.assert_allclose(long[waves > 8192], plain[waves > 8192] / 8)
    assert ((long < plain) & (long > plain / 8)).sum() == ((waves > 2048) & (waves < 8192)).sum()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 10, "heads": 4}, "4 heads do not divide a width of 10"),
        ({"heads": 4, "key_heads": 3}, "set key_heads to a divisor, or to 0"),
        ({"norm": "rms"}, "an RMS norm has no bias; set norm_bias=False"),
        ({"norms": 1}, "have a norm each; set norms=2 or parallel=True"),
        ({"position": "rotary", "head_width": 3}, "a head has 3; set an even head_width"),
        ({"rotary_factor": 2.0, "rotary_low": 5.0}, "set rotary_high above it"),
        ({"rotary_factor": 8.0}, "stretches rotary positions, and position is 'learnt'"),
        ({"lora_where": "mlp"}, "lora_where='mlp' is of adapters, and without a rank"),
        ({"experts": 2, "experts_per_token": 3}, "3 experts a token are more than 2"),
        ({"capacity": 1.0}, "is of experts, and there are none; set capacity=0 or experts"),
        ({"begin": 256}, r"begin should be a symbol 0 .. 255 or -1, got 256"),
        ({"end": 300}, r"end should be a symbol 0 .. 255 or -1, got 300"),
    ],
)
def test_what_is_no_transformer_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        language_model.Config(**fields)


def test_what_is_no_symbol_is_as_unlikely_by_either_number():
    model, params = model_of()
    state = state_of(model, params, 3)
    batch = {"x": jnp.array([[0, 1, 2], [0, 9999, 2]], jnp.int32)}
    assert np.isneginf(model.log_prob(KEY, state, batch)).tolist() == [False, True]
    measured = model.measures["nats_per_token"](KEY, state, batch)
    assert np.isposinf(measured).tolist() == [False, True]


def test_data_that_do_not_fit_are_refused():
    model, _ = model_of()
    for x, message in (
        (np.zeros((2, 6), np.int32), r"longer than what a context of 4 tells, 5; set config.data"),
        (np.zeros((2, 4, 4), np.int32), r"x should be integers \[B, L\], got int32 \[2, 4, 4\]"),
        (np.zeros((2, 4), np.float32), r"got float32 \[2, 4\]; choose data of symbols"),
    ):
        with pytest.raises(ConfigError, match=message):
            model.init(KEY, {"x": x})


# -------------------------------------------------------------------- what was published, counted

PUBLISHED = json.loads((ROOT / "third_party" / "published" / "language_models.json").read_text())


@functools.cache
def variants():
    return variants_of("language_model")


def config_of(entry):
    fields = variants()[entry["variant"]].model.to_dict() | entry.get("model", {})
    del fields["name"]
    return language_model.Config(**fields)


def published(unit):
    return [pytest.param(e, id=e["what"]) for e in PUBLISHED if e["unit"] == unit]


@pytest.mark.parametrize("entry", published("parameters"))
def test_every_published_shape_has_its_parameters(entry):
    """Nothing is allocated, and none takes two seconds."""
    begun = time.process_time()
    c = config_of(entry)
    shapes = jax.eval_shape(decoder.network(c).init, KEY)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == entry["value"]
    assert architecture.size(c) == entry["value"]
    assert time.process_time() - begun < 2


def test_every_shape_of_the_configs_is_counted_and_its_page_says_so():
    plain = {e["variant"]: e for e in PUBLISHED if e["unit"] == "parameters" and "model" not in e}
    page = (ROOT / "configs" / "language_model.py").read_text()
    for variant, fields in variants().items():
        if fields.data.source == "text:FILE":
            line = next(line for line in page.splitlines() if line.startswith(f"{variant} "))
            assert line.endswith(f" {plain[variant]['value']:,}")
            assert f" {fields.model.layers} " in line and f" {fields.model.heads} " in line


@pytest.mark.parametrize("entry", published("bytes a token"))
def test_what_a_cache_keeps_of_a_symbol(entry):
    c = config_of(entry)
    assert architecture.bytes_a_token(c) == entry["value"]
    one, two = (jax.eval_shape(lambda n=n: decoder.network(c).cache(1, n)) for n in (1, 2))
    size = lambda cache: sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(cache))
    assert size(two) - size(one) == entry["value"]


def test_operations_of_training():
    palm, gpt3 = (config_of({"variant": name}) for name in ("palm_540b", "gpt3_175b"))
    operations = architecture.operations_a_token(palm, 2048)
    (entry,) = (e for e in PUBLISHED if e["unit"] == "operations a token")
    assert operations == entry["value"]
    assert 238.3e3 * operations / (6144 * 275e12) == pytest.approx(0.462, abs=5e-4)
    assert 6 * architecture.size(gpt3) * 300e9 == pytest.approx(3.14e23, rel=2e-3)
    # Of experts those count that read a symbol: one of four, and the router whole.
    plain = language_model.Config(bias=False)
    four = language_model.Config(bias=False, experts=4)
    more = [architecture.operations_a_token(c, 64) for c in (plain, four)]
    assert more[1] - more[0] == 6 * 4 * 128 * 4


def test_scaling_laws_say_what_was_printed():
    assert scaling.CHINCHILLA.loss(70e9, 1.4e12) == pytest.approx(1.9366, abs=5e-5)
    assert scaling.REFITTED.loss(70e9, 1.4e12) == pytest.approx(1.9739, abs=5e-5)
    for law in (scaling.CHINCHILLA, scaling.REFITTED):
        N, D = law.best(5.76e23)
        assert pytest.approx(5.76e23) == 6 * N * D
        grid = [law.loss(N * 1.01**i, D / 1.01**i) for i in range(-300, 301)]
        assert np.argmin(grid) == 300
    of = scaling.KAPLAN
    assert of["parameters"].loss(8.8e13) == of["tokens"].loss(5.4e13) == 1
    # Twice the parameters: 2^-.076 of the loss, five hundredths less.
    assert of["parameters"].loss(2e9) / of["parameters"].loss(1e9) == pytest.approx(
        0.9487, abs=1e-4
    )
    assert of["petaflop_days"].loss(3.1e8 / 32) == pytest.approx(2 ** (5 * 0.05))
