"""Low-rank adaptation, against the sums written out, and its zeros."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_zoo.contract import ConfigError
from genjax_zoo.nets import lora

N, D, h, W, E, F = 2, 6, 3, 4, 2, 5


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    return {
        "embedding": {"kernel": draw(9, D)},
        "blocks": {
            "attention": {
                "query": {"kernel": draw(N, D, h, W)},
                "out": {"kernel": draw(N, h, W, D)},
            },
            "mlp": {"up": {"kernel": draw(N, D, F), "bias": draw(N, F)}},
            "experts": {"down": {"kernel": draw(N, E, F, D)}},
            "mlp_norm": {"scale": draw(N, D)},
        },
        "head": {"kernel": draw(D, 9)},
    }


def filled(params, where, rank=2):
    """Adapters whose B is not zero any more."""
    fresh = lora.adapters(jax.random.key(1), params, rank, where)
    return jax.tree.map(lambda leaf: leaf + 0.5, fresh)


def test_each_matrix_is_adapted_by_the_product_of_its_own_layer(params):
    new = lora.merged(params, filled(params, "kernel"), alpha=3.0)
    learnt = filled(params, "kernel")
    of = lambda tree, *path: np.asarray(of(tree[path[0]], *path[1:]) if path else tree, np.float64)
    for layer in range(N):
        for path, into, out in (
            (("blocks", "attention", "query"), D, h * W),
            (("blocks", "attention", "out"), h * W, D),
            (("blocks", "mlp", "up"), D, F),
        ):
            w, b = of(params, *path, "kernel")[layer], of(learnt, *path, "kernel", "b")[layer]
            a = of(learnt, *path, "kernel", "a")[layer]
            expected = w.reshape(into, out) + 3 / 2 * np.einsum("ir,ro->io", a, b)
            np.testing.assert_allclose(
                of(new, *path, "kernel")[layer], expected.reshape(w.shape), atol=1e-5
            )
        for expert in range(E):
            path = ("blocks", "experts", "down", "kernel")
            a, b = of(learnt, *path, "a")[layer, expert], of(learnt, *path, "b")[layer, expert]
            expected = of(params, *path)[layer, expert] + 3 / 2 * a @ b
            np.testing.assert_allclose(of(new, *path)[layer, expert], expected, atol=1e-5)


def test_what_is_not_meant_stays_as_it_is(params):
    new = lora.merged(params, filled(params, "attention/(query|value)"), alpha=1.0)
    changed = jax.tree.map(lambda old, now: not np.array_equal(old, now), params, new)
    assert changed["blocks"]["attention"] == {"query": {"kernel": True}, "out": {"kernel": False}}
    changed["blocks"].pop("attention")
    assert not any(jax.tree.leaves(changed))
    # What looks things up, scales or shifts is no matrix, whatever the pattern.
    assert set(filled(params, ".*")) == {"blocks", "head"}
    assert "mlp_norm" not in filled(params, ".*")["blocks"]
    assert set(filled(params, ".*")["blocks"]["mlp"]["up"]) == {"kernel"}


def test_at_first_nothing_is_added_and_b_alone_has_a_gradient(params):
    fresh = lora.adapters(jax.random.key(0), params, 2, "mlp/up")
    for old, now in zip(
        *map(jax.tree.leaves, (params, lora.merged(params, fresh, 8.0))), strict=True
    ):
        np.testing.assert_array_equal(old, now)
    loss = lambda learnt: jnp.sum(
        lora.merged(params, learnt, 8.0)["blocks"]["mlp"]["up"]["kernel"] ** 2
    )
    g = jax.grad(loss)(fresh)["blocks"]["mlp"]["up"]["kernel"]
    assert not np.any(g["a"]) and np.all(g["b"] != 0)
    # dL/dB = (α / r) Aᵀ dL/dW
    up, a = params["blocks"]["mlp"]["up"]["kernel"], fresh["blocks"]["mlp"]["up"]["kernel"]["a"]
    np.testing.assert_allclose(g["b"], 4.0 * np.einsum("nir,nio->nro", a, 2 * up), rtol=1e-4)


def test_a_pattern_that_means_no_matrix_is_refused_with_those_that_there_are(params):
    with pytest.raises(
        ConfigError, match=r"lora_where='attn' .* blocks/mlp/up/kernel, .*head/kernel"
    ):
        lora.adapters(jax.random.key(0), params, 2, "attn")
