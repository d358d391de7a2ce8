"""Attention and what a transformer is made of, each against its plain twin: values, gradients."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax_zoo.nets import attention, linear
from genjax_zoo.nets.attention import attend

KEY = jax.random.key(0)
B, H, W = 2, 4, 8


def plain(q, k, v, mask=None, causal=False, window=0, documents=None, slopes=None):
    """softmax(q kᵀ / √W + what is told) v, in one matrix and float32."""
    (S, M), groups = (q.shape[2], k.shape[2]), q.shape[1] // k.shape[1]
    q, k, v = (each.astype(jnp.float32) for each in (q, k, v))
    # Query head h is served by key head h // groups.
    k, v = (jnp.stack([each[:, h // groups] for h in range(q.shape[1])], 1) for each in (k, v))
    logits = jnp.einsum("bhsw,bhmw->bhsm", q, k) / np.sqrt(q.shape[-1])
    place, at = np.arange(M - S, M)[:, None], np.arange(M)
    if slopes is not None:
        logits += np.asarray(slopes)[:, None, None] * (at - place)
    seen = np.ones((S, M), bool)
    if causal:
        seen &= at <= place
    if window:
        seen &= at > place - window
    if documents is not None:
        seen = seen & (documents[:, None, :, None] == documents[:, None, None, :])
    if mask is not None:
        seen = seen & mask
    logits = jnp.where(seen, logits, -1e9)
    return jax.nn.softmax(logits, -1) @ v


def arrays(S, M, keys=H, dtype=jnp.float32):
    ks = jax.random.split(KEY, 4)
    shapes = [(B, H, S, W), (B, keys, M, W), (B, keys, M, W), (B, H, S, W)]
    return [jax.random.normal(k, s).astype(dtype) for k, s in zip(ks, shapes, strict=True)]


def value_and_gradient(fn, told, q, k, v, g):
    """fn's value, and its gradients by q, k and v, of one compiled call."""

    def both(q, k, v, g):
        value, back = jax.vjp(functools.partial(fn, **told), q, k, v)
        return value, *back(g.astype(value.dtype))

    return jax.jit(both)(q, k, v, g)


DOCUMENTS = np.repeat([[1, 2, 0], [1, 1, 2]], 3, axis=1)
MASK = np.random.default_rng(0).random((B, 1, 9, 9)) < 0.5
MASK[0, 0, 3] = False  # A query that may look nowhere.
KINDS = {
    "all": {},
    "causal": {"causal": True},
    "window": {"causal": True, "window": 4},
    "documents": {"causal": True, "documents": DOCUMENTS},
    "slopes": {"causal": True, "slopes": np.array([0.5, 0.25, 0.1, 0.0])},
    "mask": {"mask": MASK},
    "mask of keys": {"mask": MASK[:, :, :1], "causal": True},
}


@pytest.fixture
def small_blocks(monkeypatch):
    """Four blocks of nine queries, of unequal lengths."""
    monkeypatch.setattr(attention, "BLOCK", 2)


@pytest.mark.parametrize(
    ("kind", "keys"), [*((kind, H) for kind in KINDS), ("causal", 2), ("mask", 1)]
)
def test_attention_is_the_plain_one_and_so_is_its_gradient(kind, keys, small_blocks):
    told = KINDS[kind]
    q, k, v, g = arrays(9, 9, keys)
    for a, b in zip(
        value_and_gradient(attend, told, q, k, v, g),
        value_and_gradient(plain, told, q, k, v, g),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=5e-6)


def test_fewer_queries_than_keys_stand_at_the_end(small_blocks):
    q, k, v, _ = arrays(5, 9)
    told = {"causal": True, "window": 3}
    np.testing.assert_allclose(attend(q, k, v, **told), plain(q, k, v, **told), atol=2e-6)


def test_blocks_hold_all_that_is_seen_and_little_else():
    for S, M, window in ((9, 9, 0), (9, 9, 2), (512, 512, 100), (300, 700, 0), (1, 5, 3)):
        kind = attention.Kind(True, window, S, M)
        blocks = kind.blocks()
        assert blocks[0][0].start == 0 and blocks[-1][0].stop == S
        assert all(a[0].stop == b[0].start for a, b in itertools.pairwise(blocks))
        for queries, keys in blocks:
            last = M - S + queries.stop - 1
            first = M - S + queries.start
            assert keys.stop == last + 1
            assert keys.start == (max(0, first - window + 1) if window else 0)
    assert len(attention.Kind(True, 0, 512, 512).blocks()) == 4


def test_second_derivatives_of_attention(small_blocks):
    q, k, v, g = arrays(5, 5)
    of = lambda fn: lambda q: jnp.sum(jax.grad(lambda q: jnp.sum(fn(q, k, v) * g))(q) ** 2)
    ours = jax.jit(jax.grad(of(functools.partial(attend, causal=True))))(q)
    theirs = jax.jit(jax.grad(of(functools.partial(plain, causal=True))))(q)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_place_that_is_not_seen_has_no_gradient(small_blocks):
    """Padding is a document of its own, number 0: nothing of it reaches the others."""
    q, k, v, _ = arrays(9, 9)
    real = jnp.asarray(DOCUMENTS > 0)[:, None, :, None]

    def loss(k, v):
        out = attend(q, k, v, causal=True, documents=jnp.asarray(DOCUMENTS))
        return jnp.sum(jnp.where(real, out, 0) ** 2)

    for of in jax.grad(loss, (0, 1))(k, v):
        assert not np.any(np.where(real, 0, of)) and np.any(np.where(real, of, 0))


@pytest.mark.parametrize("keys", [H, 2])
def test_attention_in_bfloat16(keys, small_blocks):
    q, k, v, g = arrays(9, 9, keys, jnp.bfloat16)
    found = value_and_gradient(attend, {"causal": True}, q, k, v, g)
    expected = value_and_gradient(plain, {"causal": True}, q, k, v, g)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(a.astype(jnp.float32), b.astype(jnp.float32), atol=0.12)


@pytest.mark.parametrize("kind", ["all", "causal", "window", "documents"])
def test_what_cudnn_is_asked_for_is_the_same(kind, monkeypatch):
    """By jax's own attention, of which cuDNN's is another implementation."""
    asked = jax.nn.dot_product_attention

    def by_xla(*given, implementation, **told):
        assert implementation == "cudnn"
        return asked(*given, implementation="xla", **told)

    monkeypatch.setattr(jax.nn, "dot_product_attention", by_xla)
    monkeypatch.setattr(attention, "_fits_cudnn", lambda *_: True)
    q, k, v, _ = arrays(9, 9, 2)
    told = KINDS[kind]
    np.testing.assert_allclose(attend(q, k, v, **told), plain(q, k, v, **told), atol=2e-6)


def test_cudnn_is_not_asked_where_it_cannot_answer():
    kind = attention.Kind(True, 0, 16, 16)
    assert not attention._fits_cudnn(kind, jnp.zeros((1, 1, 16, 8), jnp.bfloat16))  # A CPU.


# ----------------------------------------------------------------------------- what it is made of


def layer(x, scale, bias, centred=True):
    x = x.astype(jnp.float32)
    mean = x.mean(-1, keepdims=True) if centred else 0.0
    y = (x - mean) / jnp.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + 1e-5) * scale
    return y if bias is None else y + bias


def entropy(logits, targets, mask):
    each = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(targets, 0))
    return jnp.where(mask > 0, each, 0)


X = np.random.default_rng(1).normal(1, 2, (3, 4, 6)).astype(np.float32)
V6, M65 = X[0, 0] + 0.5, X[:2].reshape(-1, 6)[:6] @ np.ones((6, 5), np.float32) + X[0, 0, :5]
TARGETS, COUNTED = np.array([[0, 5, 2, -1]] * 3), np.array([[1, 1, 0.5, 0]] * 3, np.float32)
TWINS = {
    "product": (linear.product, lambda x, w: jnp.einsum("abc,cd->abd", x, w), (X, M65)),
    "product of heads": (
        lambda x, w: linear.product(x.reshape(3, 4, 2, 3), w.reshape(2, 3, 5), axes=2),
        lambda x, w: jnp.einsum("abc,cd->abd", x, w),
        (X, M65),
    ),
    "product with a bias": (
        linear.product,
        lambda x, w, b: jnp.einsum("abc,cd->abd", x, w) + b,
        (X, M65, V6[:5]),
    ),
    "layer norm": (linear.layer_norm, layer, (X, V6, X[1, 1])),
    "layer norm without a bias": (linear.layer_norm, lambda x, s: layer(x, s, None), (X, V6)),
    "RMS norm": (linear.rms_norm, lambda x, s: layer(x, s, None, False), (X, V6)),
    "gelu": (linear.gelu, lambda x: x * jax.scipy.stats.norm.cdf(x), (X,)),
    "gelu by tanh": (
        lambda x: linear.gelu(x, False),
        lambda x: jax.nn.gelu(x, approximate=True),
        (X,),
    ),
    "cross entropy": (
        lambda y: linear.cross_entropy(y, TARGETS, COUNTED),
        lambda y: entropy(y, TARGETS, COUNTED),
        (X,),
    ),
}


@pytest.mark.parametrize("name", TWINS)
def test_a_part_is_its_plain_twin(name):
    """In value, gradient and a second derivative in float32; in value and gradient in bfloat16."""
    ours, theirs, given = TWINS[name]
    g = np.random.default_rng(2).normal(size=jax.eval_shape(theirs, *given).shape)
    g = jnp.asarray(g, jnp.float32)
    every = tuple(range(len(given)))

    def derivatives(fn, twice):
        first = jax.grad(lambda *a: jnp.sum(fn(*a).astype(jnp.float32) * g), every)
        if not twice:
            return lambda *a: (fn(*a), first(*a))
        second = jax.grad(lambda *a: sum(jnp.sum(d**2) for d in first(*a)), every)
        return lambda *a: (fn(*a), first(*a), second(*a))

    given = tuple(map(jnp.asarray, given))
    found, expected = (
        jax.tree.leaves(jax.jit(derivatives(f, True))(*given)) for f in (ours, theirs)
    )
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4 * float(jnp.abs(b).max()))
    half = (given[0].astype(jnp.bfloat16), *given[1:])
    as_read = (half[0].astype(jnp.float32), *given[1:])
    found = jax.tree.leaves(jax.jit(derivatives(ours, False))(*half))
    expected = jax.tree.leaves(derivatives(theirs, False)(*as_read))
    assert found[1].dtype == jnp.bfloat16
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(
            a.astype(jnp.float32), b, rtol=0.03, atol=0.02 * float(jnp.abs(b).max())
        )
