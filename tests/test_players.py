"""Players' networks: one table of laws over networks, norms and nonlinearities, and the norms."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_zoo import nets
from genjax_zoo.contract import ConfigError
from genjax_zoo.nets import image, norm, players
from genjax_zoo.nets.net import ACTIVATIONS

# Small and run once: spare the compiler's effort.
LAZY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
jit = functools.partial(jax.jit, compiler_options=LAZY)
KEY = jax.random.key(0)
SHAPE = (5, 6, 2)

# Every network with every norm, and every nonlinearity with some of them.
KINDS = list(itertools.product(nets.NETWORKS, players.NORMS))
SPARED = {
    ("mlp", "batch"),
    ("mlp", "spectral"),
    ("conv", "none"),
    ("conv", "layer"),
    ("resnet", "batch"),
}
"""By --slow: the network has another norm, and the norm another network."""
CASES = [
    pytest.param(*kind, act, marks=[pytest.mark.slow] if kind in SPARED else [])
    for kind, act in zip(KINDS, itertools.cycle(ACTIVATIONS), strict=False)
]


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def close(a, b, tolerance=1e-5):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def network(name, normalise, activation):
    # A second block is a loop, in which a norm may remember: where it does, let there be one.
    widths = (3,) if name == "resnet" else (4, 3)
    blocks = 2 if normalise in ("batch", "spectral") else 1
    return nets.Network(name, widths, activation, normalise, blocks)


@pytest.mark.parametrize("name", nets.NETWORKS)
@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((8, 8, 1), marks=pytest.mark.slow),
        pytest.param((28, 28, 1), marks=pytest.mark.slow),
        (13, 9, 3),
        (1, 2, 1),
    ],
    ids=str,
)
def test_every_network_norm_and_nonlinearity_has_the_shapes_it_says(name, shape):
    z, x = jnp.zeros((4, 5)), jnp.zeros((4, *shape))
    # Tracing takes time: every norm with a nonlinearity of one, two and five pieces.
    kinds = itertools.product(players.NORMS, ("tanh", "gated", "maxout"))
    for k, (normalise, act) in enumerate(kinds):
        if name == "resnet" and k % 3 != k // 3 % 3:
            continue
        kind = nets.Network(name, (3, 5, 4), act, normalise, blocks=1 + k % 2)
        run = lambda net, given: net.apply(*net.init(KEY, given), given, True)[0]
        size = lambda net, given, run=run: jax.eval_shape(lambda g: run(net, g), given).shape
        assert size(nets.generator(kind, shape), z) == x.shape
        assert size(nets.discriminator(kind), x) == (4,)
        assert size(nets.discriminator(kind, (7,)), x) == (4, 7)


def test_images_of_odd_size_shrink_and_grow_through_the_same_sizes():
    assert image.pyramid((28, 28), 3) == [(28, 28), (14, 14), (7, 7), (4, 4)]
    x = np.arange(15.0).reshape(1, 3, 5, 1)
    pooled = players._pool(jnp.asarray(x))[0, :, :, 0]
    # By hand: an edge pixel without a neighbour is its own mean.
    means = [[x[0, i : i + 2, j : j + 2].mean() for j in (0, 2, 4)] for i in (0, 2)]
    close(pooled, means)


def penalty(net, params, memory, x, train):
    """One-centred, at x itself: E[(|∂a/∂x| - 1)²]."""
    total = lambda x: jnp.sum(net.apply(params, memory, x, train)[0])
    g = jax.grad(total)(x).reshape(len(x), -1)
    return jnp.mean((jnp.sqrt(jnp.sum(g * g, 1) + 1e-12) - 1) ** 2)


@pytest.mark.parametrize(("name", "normalise", "act"), CASES)
def test_discriminators(name, normalise, act):
    net, x = nets.discriminator(network(name, normalise, act)), normal(1, 4, *SHAPE)

    @jit
    def run(key, x):
        params, memory = net.init(key, x)
        y, after = net.apply(params, memory, x, True)
        judged, kept = net.apply(params, after, x, False)
        alone = [net.apply(params, m, x[:1], t)[0] for m, t in ((memory, True), (after, False))]
        slope = jax.grad(lambda p: penalty(net, p, memory, x, True))(params)
        return memory, y, (after, kept), judged, alone, slope

    memory, y, (after, kept), judged, alone, slope = run(KEY, x)
    np.testing.assert_array_equal(run(KEY, x)[1], y)
    assert y.shape == (4,) and np.std(y) > 0
    # Memory: of the same structure, there where it should be, and moved by training alone.
    assert jax.tree.structure(memory) == jax.tree.structure(after)
    moved = [
        bool(jnp.any(a != b)) for a, b in zip(*map(jax.tree.leaves, (memory, after)), strict=True)
    ]
    assert moved and any(moved) if normalise in ("batch", "spectral") else not moved
    jax.tree.map(np.testing.assert_array_equal, kept, after)
    # An example knows nothing of its neighbours, except in training under batch norm.
    close(judged[:1], alone[1])
    if normalise == "batch":
        assert abs(float(y[0] - alone[0][0])) > 1e-4
    else:
        close(y[:1], alone[0])
    # A gradient penalty reaches every weight, and breaks none.
    for path, g in jax.tree_util.tree_leaves_with_path(slope):
        assert np.all(np.isfinite(g)), path
        if path[-1].key == "kernel":
            assert np.abs(g).max() > 0, path


@pytest.mark.parametrize(("name", "normalise", "act"), CASES)
def test_generators(name, normalise, act):
    net, z = nets.generator(network(name, normalise, act), SHAPE), normal(1, 4, 5)

    @jit
    def run(key, z):
        params, memory = net.init(key, z)
        x, after = net.apply(params, memory, z, True)
        judged, kept = net.apply(params, after, z, False)
        return memory, x, after, (judged, kept), net.apply(params, after, z[:1], False)[0]

    memory, x, after, (judged, kept), alone = run(KEY, z)
    assert x.shape == (4, *SHAPE) and np.all(np.isfinite(x)) and np.std(x) > 0
    assert jax.tree.structure(memory) == jax.tree.structure(after)
    jax.tree.map(np.testing.assert_array_equal, kept, after)
    close(judged[:1], alone)


@pytest.mark.parametrize(
    ("name", "normalise", "act"),
    [("mlp", "spectral", "gated"), ("conv", "layer", "tanh"), ("resnet", "spectral", "softplus")],
)
def test_a_gradient_penaltys_gradient_against_finite_differences(name, normalise, act):
    with jax.enable_x64():
        net = nets.discriminator(nets.Network(name, (3,), act, normalise, blocks=1))
        x = normal(1, 2, 4, 3, 2)
        params, memory = jit(net.init)(KEY, x)
        value = lambda p: penalty(net, p, memory, x, False)
        way = jax.tree.map(lambda p: normal(p.size, *p.shape), params)
        slope = sum(map(jnp.vdot, *map(jax.tree.leaves, (jit(jax.grad(value))(params), way))))
        moved = jit(lambda t: value(jax.tree.map(lambda p, w: p + t * w, params, way)))
        close(slope, (moved(1e-5) - moved(-1e-5)) / 2e-5, 1e-6)


def test_spectral_norm_is_the_largest_singular_value():
    for seed, shape, into in [(0, (12, 7), -1), (1, (3, 4, 2, 5), -1), (2, (3, 4, 5, 2), -2)]:
        w = normal(seed, *shape)
        way = normal(9, *shape)

        @jit
        def run(key, w=w, way=way, into=into):
            again = lambda _, u: norm.spectral_norm(w, u, True, into)[1]
            u = jax.lax.fori_loop(0, 60, again, norm.spectral_start(key, w, into))
            value = lambda w: jnp.vdot(norm.spectral_norm(w, u, True, into)[0], way)
            trained, _ = norm.spectral_norm(w, u, True, into)
            return u, trained, norm.spectral_norm(w, u, False, into), jax.grad(value)(w)

        u, trained, (judged, kept), gradient = run(KEY)
        matrix = np.moveaxis(np.asarray(w), into, -1).reshape(-1, shape[into])
        truth = np.linalg.svd(matrix, compute_uv=False)[0]
        close(trained * truth, w, 1e-3)
        close(judged * truth, w, 1e-3)
        np.testing.assert_array_equal(kept, u)
        # The gradient flows through σ as well: none is left along w, which is only scaled.
        close(np.vdot(gradient, w), 0.0, 1e-4)
        assert np.linalg.norm(gradient) > 0.1


def test_spectral_norm_of_nothing_is_nothing():
    w = jnp.zeros((4, 3))
    start = norm.spectral_start(KEY, w)
    value = lambda w: jnp.sum(norm.spectral_norm(w, start, True)[0] ** 2)
    assert float(value(w)) == 0.0 and bool(jnp.all(jnp.isfinite(jax.grad(value)(w))))


@pytest.mark.parametrize("act", ["relu", "tanh"])
def test_a_spectrally_normalised_discriminator_stretches_no_distance(act):
    net = nets.discriminator(nets.Network("mlp", (32, 32), act, "spectral"))
    x, y = normal(1, 500, 3), normal(2, 500, 3)
    params, memory = jit(net.init)(KEY, x)
    params = jax.tree.map(lambda p: 7.0 * p + 0.1 * normal(p.size, *p.shape), params)
    train = jit(lambda memory: net.apply(params, memory, x, True)[1])
    for _ in range(100):
        memory = train(memory)
    a = jit(lambda x: net.apply(params, memory, x, False)[0])
    near = x + 1e-2 * y
    for other in (y, near):
        ratio = jnp.abs(a(x) - a(other)) / jnp.linalg.norm(x - other, axis=1)
        assert 0.01 < float(ratio.max()) < 1.001


def test_a_power_iteration_moves_once_a_training_call():
    """The network's singular vectors against the method written out."""
    net = nets.discriminator(nets.Network("mlp", (6,), "relu", "spectral"))
    x = normal(1, 2, 4)
    params, memory = jit(net.init)(KEY, x)
    after = jit(lambda p, m: net.apply(p, m, x, True)[1])(params, memory)
    for layer in ("Dense_0", "Dense_1"):
        w, u = np.asarray(params[layer]["kernel"]), np.asarray(memory[layer]["singular"])
        v = w @ u / np.linalg.norm(w @ u)
        u = w.T @ v / np.linalg.norm(w.T @ v)
        close(after[layer]["singular"], u)


def test_layer_norm_is_over_all_of_one_example():
    x = 3 + 2 * normal(1, 4, 5, 6, 3)
    layer = image.LayerNorm()
    y = layer.apply(layer.init(KEY, x), x)
    flat = np.asarray(x).reshape(4, -1)
    textbook = (flat - flat.mean(1, keepdims=True)) / np.sqrt(flat.var(1, keepdims=True) + 1e-5)
    close(y, textbook.reshape(x.shape), 1e-4)


def test_nonlinearities_of_several_pieces():
    a, b = normal(1, 4, 3), normal(2, 4, 3)
    gated = ACTIVATIONS["gated"](jnp.concatenate([a, b], -1))
    close(gated, jnp.tanh(b) / (1 + jnp.exp(-a)))
    pieces = normal(3, 4, 5, 3)
    close(ACTIVATIONS["maxout"](pieces.reshape(4, 15)), pieces.max(1))


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_a_gain_keeps_the_size_of_a_signal(act):
    act = ACTIVATIONS[act]
    h = np.random.default_rng(0).standard_normal((400_000, act.pieces), dtype=np.float32)
    assert act.gain * float(jnp.mean(act(h) ** 2)) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_every_network_of_the_zoo_takes_every_nonlinearity(act):
    x, z = jnp.zeros((2, 8, 8, 1)), jnp.zeros((2, 3))
    for net, given, shape in [
        (nets.mlp((4, 3), 2, act), x, (2, 2)),
        (nets.conv_encoder((4, 3), 2, act), x, (2, 2)),
        (nets.conv_decoder((4, 3), (8, 8, 1), act), z, x.shape),
    ]:
        run = lambda given, net=net: net.apply(net.init(KEY, given), given)
        assert jax.eval_shape(run, given).shape == shape


def test_dense_layers_stand_between_the_latents_and_the_smallest_image():
    net = nets.Network("conv", (4, 3), dense=(7, 5))
    sizes = lambda params: sorted(
        params[name]["kernel"].shape for name in params if name.startswith("Dense")
    )
    params, _ = nets.generator(net, (8, 8, 1)).init(KEY, jnp.zeros((2, 6)))
    assert sizes(params) == [(5, 2 * 2 * 4), (6, 7), (7, 5)]
    params, _ = nets.discriminator(net, (2,)).init(KEY, jnp.zeros((2, 8, 8, 1)))
    assert sizes(params) == [(5, 7), (7, 2), (2 * 2 * 3, 5)]


def test_a_dcgan_starts_as_its_paper_says():
    shape = (28, 28, 1)
    made = nets.generator(nets.Network("conv", (16, 8), "relu", "batch"), shape)
    seen = nets.discriminator(nets.Network("conv", (8, 16), "leaky_relu", "batch"))
    generator, _ = jax.eval_shape(made.init, KEY, jnp.zeros((2, 100)))
    discriminator, _ = jit(seen.init)(KEY, jnp.zeros((2, *shape)))
    # No norm on the discriminator's first layer and the generator's last; a bias there alone.
    layers = ["BatchNorm_0", "BatchNorm_1", "ConvTranspose_0", "ConvTranspose_1", "Dense_0"]
    assert sorted(generator) == layers
    assert "bias" in generator["ConvTranspose_1"] and "bias" not in generator["ConvTranspose_0"]
    assert sorted(discriminator) == ["BatchNorm_0", "Conv_0", "Conv_1", "Dense_0"]
    assert "bias" in discriminator["Conv_0"] and "bias" not in discriminator["Conv_1"]
    for layer in ("Conv_0", "Conv_1", "Dense_0"):
        assert float(discriminator[layer]["kernel"].std()) == pytest.approx(0.02, rel=0.15)


def test_players_of_plain_units_are_the_zoos_mlp():
    ours, plain = (
        nets.discriminator(nets.Network("mlp", (5, 4), "tanh")),
        nets.mlp((5, 4), (), "tanh"),
    )
    x = normal(1, 3, 2)
    params, memory = ours.init(KEY, x)
    assert memory == {}
    jax.tree.map(np.testing.assert_array_equal, params, plain.init(KEY, x))
    close(ours.apply(params, memory, x, True)[0], plain.apply(params, x))


@pytest.mark.parametrize(
    "normalise", ["none", "batch", pytest.param("layer", marks=pytest.mark.slow)]
)
def test_a_deep_resnet_starts_neither_faint_nor_loud(normalise):
    """A hundred layers: what comes out is of the size of what went in, and so are gradients."""
    kind = nets.Network("resnet", (8,), "relu", normalise, blocks=48)
    made, seen = nets.generator(kind, (8, 8, 1)), nets.discriminator(kind)
    z = normal(1, 16, 8)

    @jit
    def run(key, z):
        params, memory = made.init(key, z)
        play = lambda z: made.apply(params, memory, z, True)[0]
        x = play(z)
        judge = lambda x: seen.apply(*seen.init(key, x), x, True)[0]
        return x, judge(x), jax.grad(lambda x: judge(x).sum())(x)

    x, a, g = run(KEY, z)
    assert 0.2 < float(x.std()) < 5
    assert 0.01 < float(jnp.abs(a).mean()) < 5
    assert 1e-3 < float(jnp.sqrt((g * g).sum((1, 2, 3))).mean()) < 10


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"name": "cnov"}, "unknown network 'cnov'. Did you mean 'conv'"),
        ({"activation": "rleu"}, "unknown activation 'rleu'. Did you mean 'relu'"),
        ({"normalise": "bacth"}, "unknown value of normalise: 'bacth'. Did you mean 'batch'"),
        ({"widths": (4, 0)}, "players: widths should be at least 1, got 0"),
        ({"dense": (0,)}, "players: dense should be at least 1, got 0"),
        ({"name": "conv", "widths": ()}, "a width for each halving"),
        ({"name": "resnet", "widths": ()}, "a width for each halving"),
        ({"name": "resnet", "blocks": 0}, r"players: blocks should be in \[1, 1000\], got 0"),
    ],
)
def test_a_network_that_cannot_be_is_refused(fields, says):
    with pytest.raises(ConfigError, match=says):
        nets.Network(**fields)


@pytest.mark.parametrize("name", ["conv", "resnet"])
def test_points_are_refused_by_networks_of_images(name):
    kind = nets.Network(name, (4,))
    with pytest.raises(ConfigError, match=r"images .* shape \(2,\). Use the network 'mlp'"):
        nets.generator(kind, (2,))
    with pytest.raises(ConfigError, match=r"images .* shape \(2,\). Use the network 'mlp'"):
        nets.discriminator(kind).init(KEY, jnp.zeros((3, 2)))
