"""The vector-quantised VAE against brute force, closed forms and all codes one by one."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax_zoo import nets
from genjax_zoo.contract import ConfigError, Exactness
from genjax_zoo.learn.state import eval_params
from genjax_zoo.maths.inference import codebooks
from genjax_zoo.models import vq_vae

KEY = jax.random.key(0)
SMALL = {"codes": 5, "features": 3, "widths": (6,), "blocks": 1, "prior_width": 8}
IMAGES = jax.random.bernoulli(KEY, 0.4, (12, 4, 4, 1)).astype(jnp.float32)


@functools.cache
def small(**fields):
    """A model of 2 x 2 grids, and its first state."""
    config = vq_vae.Config(**{**SMALL, "decoder": "bernoulli", **fields})
    model = vq_vae.make(config, optax.adam(1e-2))
    return model, jax.jit(model.init)(KEY, {"x": IMAGES})


# The mathematics


def test_the_nearest_code_is_the_one_of_the_smallest_distance():
    z, e = jax.random.normal(KEY, (4, 3, 3, 6)), jax.random.normal(jax.random.key(1), (9, 6))
    found = codebooks.nearest(z, e)
    assert found.dtype == jnp.int32
    for place in np.ndindex(4, 3, 3):
        distances = [float(np.sum((z[place] - e[k]) ** 2)) for k in range(9)]
        assert int(found[place]) == int(np.argmin(distances))


def test_the_gradient_goes_straight_through():
    """d/dz_e of f(z_e straight through to e) is f's own gradient at e."""
    z, e = jax.random.normal(KEY, (2, 7))
    f = lambda v: jnp.sum(jnp.sin(v) * jnp.arange(7.0))
    through = jax.grad(lambda z: f(codebooks.straight_through(z, e)))(z)
    np.testing.assert_allclose(through, jax.grad(f)(e), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(codebooks.straight_through(z, e), e, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 20])
def test_moving_means_are_the_closed_form(steps):
    """After t batches, N = γ^t N_0 + (1 - γ) Σ_s γ^(t - s) n_s, and m likewise."""
    decay, rng = 0.9, np.random.default_rng(0)
    batches = [(rng.integers(0, 4, 30), rng.normal(size=(30, 3))) for _ in range(steps)]
    start = codebooks.Memory(jnp.ones(4), jnp.full((4, 3), 2.0), jnp.zeros((4, 3)), jnp.array(7.5))
    memory = start
    for codes, vectors in batches:
        memory = codebooks.ema_update(
            memory, jnp.array(codes), jnp.array(vectors, jnp.float32), decay
        )
    counts = decay**steps * np.ones(4)
    sums = decay**steps * np.full((4, 3), 2.0)
    for s, (codes, vectors) in enumerate(batches, 1):
        share = (1 - decay) * decay ** (steps - s)
        for code, vector in zip(codes, vectors, strict=True):
            counts[code] += share
            sums[code] += share * vector
    np.testing.assert_allclose(memory.counts, counts, rtol=1e-5)
    np.testing.assert_allclose(memory.sums, sums, rtol=1e-4, atol=1e-5)


def test_perplexity_counts_the_codes_in_use():
    assert float(codebooks.perplexity(jnp.full(8, 1 / 8))) == pytest.approx(8, rel=1e-6)
    assert float(codebooks.perplexity(jnp.eye(8)[3])) == pytest.approx(1)
    two = jnp.array([0.5, 0.5, 0, 0])
    assert float(codebooks.perplexity(two)) == pytest.approx(2, rel=1e-6)


def test_the_dead_are_replaced_and_the_living_left():
    before, offers = jax.random.normal(KEY, (2, 5, 3))
    even = jnp.array(4.0)
    counts = jnp.array([1.0, 0.001, 0.5, 0.0, 2.0]) * even
    memory = codebooks.Memory(counts, counts[:, None] * before, offers, even)
    learnt, memory, died = codebooks.revive(before, memory, 0.03)
    dead, living = jnp.array([1, 3]), jnp.array([0, 2, 4])
    assert float(died) == 2
    for after in (learnt, memory.means()):
        np.testing.assert_allclose(after[dead], offers[dead], rtol=1e-5)
        np.testing.assert_allclose(after[living], before[living], rtol=1e-5)
    np.testing.assert_allclose(memory.counts[dead], even)
    assert float(codebooks.revive(learnt, memory, 0.03)[2]) == 0


@pytest.mark.parametrize("codebook", ["ema", "loss"])
def test_a_step_revives_what_no_vector_takes(codebook):
    """A code moved far away is taken by none, dies, and comes back among the encoder's vectors."""
    model, state = small(codebook=codebook, decay=0.5, revive_below=0.2)
    params = state.params.replace(codebook=state.params.codebook.at[2].set(1e3))
    sums = state.memory.counts[:, None] * params.codebook
    state = state.replace(params=params, memory=state.memory.replace(sums=sums))
    step, revived = jax.jit(model.step), 0.0
    for i in range(5):
        state, info = step(jax.random.fold_in(KEY, i), state, {"x": IMAGES})
        revived += float(info["revived"])
    assert revived >= 1
    assert float(jnp.abs(state.params.codebook[2]).max()) < 100


# The prior


def test_the_prior_sees_what_precedes_and_nothing_else():
    """d y[i] / d x[j] is zero unless j < i in the order of rows, and not zero where it should."""
    net = nets.pixelcnn(2, width=6, layers=2, activation="tanh")
    x = jax.random.normal(KEY, (1, 4, 4, 3))
    params = jax.jit(net.init)(KEY, x)
    jacobian = jax.jit(jax.jacrev(lambda x: net.apply(params, x).sum(-1).reshape(16)))(x)
    felt = np.abs(np.asarray(jacobian).reshape(16, 16, 3)).sum(-1) > 0
    assert not np.triu(felt).any()
    assert felt[15, 14] and felt[15, 0] and felt[1, 0] and felt[4, 3]


def test_draws_of_the_prior_are_as_frequent_as_it_says_and_sum_to_one():
    """On a grid of 2 x 2 with three codes: 81 grids, each one's share of many draws."""
    model, state = small(codes=3, prior_layers=1)
    grids = jnp.array(list(itertools.product(range(3), repeat=4)), jnp.int32).reshape(-1, 2, 2)
    net = nets.pixelcnn(3, 8, 1)
    prior = jax.tree.map(lambda a: 3 * a, state.params.prior)
    state = state.replace(params=state.params.replace(prior=prior))
    logs = jax.nn.log_softmax(net.apply(prior, jax.nn.one_hot(grids, 3)))
    p = jnp.exp(jnp.take_along_axis(logs, grids[..., None], -1).sum((1, 2, 3)))
    np.testing.assert_allclose(p.sum(), 1, rtol=1e-5)
    n = 8000
    drawn = jax.jit(model.sample, static_argnums=2)(KEY, state, n)["mean"].reshape(n, -1)
    decoded = np.asarray(jax.jit(model.latents.decode)(KEY, state, grids)["x"]).reshape(
        len(grids), -1
    )
    # Each sample is the mean image of one grid: find which.
    distances = ((np.asarray(drawn)[:, None] - decoded[None]) ** 2).sum(-1)
    which = distances.argmin(1)
    assert distances.min(1).max() < 1e-8
    share = np.bincount(which, minlength=len(grids)) / n
    error = 5 * np.sqrt(np.asarray(p) / n) + 1e-3
    assert np.all(np.abs(share - np.asarray(p)) < error)
    assert np.asarray(p).max() > 2 / 81, "the prior is all but uniform: nothing was tested"


# The model


def test_the_bound_lies_below_the_exact_value_of_all_codes():
    """log p(x) of a 2 x 2 grid with three codes is a sum over 81 grids."""
    model, state = small(codes=3, prior_layers=1)
    step = jax.jit(model.step)
    for i in range(30):
        state, _ = step(jax.random.fold_in(KEY, i), state, {"x": IMAGES})
    grids = jnp.array(list(itertools.product(range(3), repeat=4)), jnp.int32).reshape(-1, 2, 2)
    logs = jax.nn.log_softmax(
        nets.pixelcnn(3, 8, 1).apply(state.params.prior, jax.nn.one_hot(grids, 3))
    )
    log_p_z = np.asarray(jnp.take_along_axis(logs, grids[..., None], -1).sum((1, 2, 3)))
    mean = np.asarray(jax.jit(model.latents.decode)(KEY, state, grids)["x"], np.float64).reshape(
        81, 1, -1
    )
    x = np.asarray(IMAGES).reshape(1, len(IMAGES), -1)
    joint = log_p_z[:, None] + (x * np.log(mean) + (1 - x) * np.log1p(-mean)).sum(-1)
    exact = np.logaddexp.reduce(joint, axis=0)
    bound = np.asarray(jax.jit(model.log_prob.value)(KEY, state, {"x": IMAGES}))
    assert model.log_prob.exactness is Exactness.LOWER_BOUND
    assert np.all(bound <= exact + 1e-4)
    # And it is the joint at the codes that `encode` finds.
    codes = np.asarray(jax.jit(model.latents.encode)(KEY, state, {"x": IMAGES}))
    place = codes.reshape(len(codes), -1) @ 3 ** np.arange(4)[::-1]
    np.testing.assert_allclose(bound, joint[place, np.arange(len(codes))], rtol=1e-4)


def test_the_encoder_learns_as_if_codes_were_not_there():
    """Without commitment, φ's gradient is the decoder's at the quantised vectors, pulled back."""
    fields = {"commitment": 0.0, "codebook": "loss", "revive_below": 0}
    config = vq_vae.Config(**SMALL, decoder="bernoulli", **fields)
    plain = vq_vae.make(config, optax.sgd(1.0))
    state = jax.jit(plain.init)(KEY, {"x": IMAGES})
    moved, _ = jax.jit(plain.step)(KEY, state, {"x": IMAGES})
    step = jax.tree.map(lambda new, old: old - new, moved.params.encoder, state.params.encoder)
    encoder = nets.grid_encoder((6,), 3, 1)
    decoder = nets.grid_decoder((6,), (4, 4, 1), 1)
    z, pull = jax.vjp(jax.jit(lambda phi: encoder.apply(phi, IMAGES)), state.params.encoder)
    e = state.params.codebook[codebooks.nearest(z, state.params.codebook)]

    def nats(vectors):
        logits = decoder.apply(state.params.decoder, vectors)
        return -jnp.mean(jnp.sum(IMAGES * logits - jax.nn.softplus(logits), axis=(1, 2, 3)))

    (expected,) = pull(jax.jit(jax.grad(nats))(e))
    for got, want in zip(jax.tree.leaves(step), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize(
    "fields",
    [
        {"codebook": "ema"},
        {"codebook": "loss"},
        pytest.param({"decoder": "gaussian"}, marks=pytest.mark.slow),
        {"decoder": "categorical", "levels": 2},
    ],
)
def test_every_codebook_and_decoder_learns(fields):
    model, state = small(**fields)
    batch, log_prob = {"x": IMAGES}, jax.jit(model.log_prob.value)
    before = log_prob(KEY, state, batch).mean()
    step = jax.jit(model.step)
    for i in range(60):
        state, info = step(jax.random.fold_in(KEY, i), state, batch)
    assert log_prob(KEY, state, batch).mean() > before + 1
    assert 1 <= float(info["perplexity"]) <= 5 + 1e-4 and 0 < float(info["usage"]) <= 1
    codes = jax.jit(model.latents.encode)(KEY, state, batch)
    assert codes.shape == (12, 2, 2) and codes.dtype == jnp.int32
    both = jax.jit(model.sample, static_argnums=2)(KEY, state, 3)
    assert both["x"].shape == both["mean"].shape == (3, 4, 4, 1)
    if fields.get("decoder", "bernoulli") != "gaussian":
        assert set(np.unique(both["x"])) <= {0.0, 1.0}
    if "levels" in fields:
        bits = model.measures["bits"]
        total = bits.value(KEY, state, batch).sum() / bits.per(batch).sum()
        nats = log_prob(KEY, state, batch).mean()
        assert float(total) == pytest.approx(-float(nats) / 16 / math.log(2), rel=1e-5)


@pytest.mark.parametrize("codebook", ["ema", "loss"])
def test_a_begun_model_has_the_others_codebook_and_keeps_it(codebook):
    """Its first step moves the codes a little; it does not begin the moving means anew."""
    model, state = small(codebook=codebook)
    step = jax.jit(model.step)
    for i in range(40):
        state, _ = step(jax.random.fold_in(KEY, i), state, {"x": IMAGES})
    begin = jax.jit(lambda key, params: model.init(key, {"x": IMAGES}, params=params))
    begun = begin(jax.random.key(9), eval_params(state))
    log_prob = jax.jit(model.log_prob.value)
    np.testing.assert_array_equal(*(log_prob(KEY, each, {"x": IMAGES}) for each in (begun, state)))
    np.testing.assert_allclose(begun.memory.means(), state.params.codebook, rtol=1e-5)
    after, _ = step(KEY, begun, {"x": IMAGES})
    moved = jnp.abs(after.params.codebook - state.params.codebook).max()
    fresh = model.init(jax.random.key(9), {"x": IMAGES}).params.codebook
    assert 0 < float(moved) < 0.1 * float(jnp.abs(fresh - state.params.codebook).max())


def test_surprise_is_the_cross_entropy_of_the_codes():
    model, state = small()
    measure = model.measures["code_surprise"]
    once = jax.jit(measure.once)(KEY, state)
    assert float(once.notes["perplexity"]) == pytest.approx(5, rel=1e-4)  # all alike at the start
    value = jax.jit(measure.__call__)(KEY, state, {"x": IMAGES})
    np.testing.assert_allclose(value, math.log(5), rtol=1e-4)


# What is refused


def test_only_images_are_taken():
    model, _ = small()
    with pytest.raises(ConfigError, match="images"):
        model.init(KEY, {"x": jnp.zeros((5, 2))})


@pytest.mark.parametrize(
    "fields",
    [
        {"codes": 0},
        {"features": 0},
        {"widths": ()},
        {"widths": (8, 0)},
        {"blocks": -1},
        {"commitment": -0.1},
        {"decay": 1.0},
        {"noise_std": 0.0},
        {"activation": "rleu"},
    ],
)
def test_bad_configs_are_refused(fields):
    with pytest.raises(ConfigError):
        vq_vae.Config(**fields)
