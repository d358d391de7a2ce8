"""Networks: the fast operations against XLA's own and the textbook, to the second derivative."""

import itertools
import math
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from genjax_zoo import nets
from genjax_zoo.contract import ConfigError
from genjax_zoo.nets import denoisers, norm, resample, transformer
from genjax_zoo.nets.attention import attend
from genjax_zoo.run.devices import startup

LAYOUT = ("NHWC", "HWIO", "NHWC")


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def close(a, b, tolerance=1e-9):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * float(jnp.abs(b).max()))


def plain(x, w, stride, padding):
    stride = (stride, stride) if isinstance(stride, int) else stride
    return lax.conv_general_dilated(x, w, stride, padding, dimension_numbers=LAYOUT)


# (image, kernel, stride, padding, channels in, channels out); eight channels in take the other way
# through a strided transpose.
CASES = [
    ((8, 7), (3, 3), 1, "SAME", 2, 3),
    ((7, 6), (4, 4), 2, "SAME", 2, 3),
    ((7, 6), (4, 4), 2, "SAME", 8, 3),
    ((9, 8), (3, 4), (2, 3), "VALID", 8, 2),
    ((6, 7), (2, 2), 3, "SAME", 8, 2),
    ((6, 5), (3, 5), 2, ((0, 2), (3, 1)), 8, 3),
    ((6, 5), (3, 5), 1, ((4, 2), (0, 6)), 2, 3),
]


def derivatives(f, weights):
    """Value, gradient of <sin f, weights> by both operands, and that of half its squared norm."""
    value = lambda a, b: jnp.sum(jnp.sin(f(a, b)) * weights)
    first = jax.grad(value, (0, 1))
    half = lambda a, b: sum(jnp.sum(g * g) for g in first(a, b)) / 2
    # Small and run once: spare the compiler's effort.
    lazy = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    all_three = lambda a, b: (f(a, b), first(a, b), jax.grad(half, (0, 1))(a, b))
    return jax.jit(all_three, compiler_options=lazy)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_conv_and_conv_transpose_agree_with_xla_to_the_second_derivative(case):
    image, kernel, stride, padding, channels, features = case
    with jax.enable_x64():
        x, w = normal(0, 2, *image, channels), normal(1, *kernel, channels, features)
        theirs = lambda x, w: plain(x, w, stride, padding)
        y = normal(2, *jax.eval_shape(theirs, x, w).shape)
        ours = lambda x, w: nets.conv(x, w, stride, padding)
        jax.tree.map(close, derivatives(ours, y)(x, w), derivatives(theirs, y)(x, w))

        theirs_t = lambda y, w: jax.linear_transpose(lambda x: theirs(x, w), x)(y)[0]
        ours_t = lambda y, w: nets.conv_transpose(y, w, image, stride, padding)
        jax.tree.map(close, derivatives(ours_t, x)(y, w), derivatives(theirs_t, x)(y, w))


def test_conv_against_sums_written_out():
    """The definition, index by index, which no library had a hand in."""
    x, w = np.asarray(normal(0, 1, 5, 4, 2)), np.asarray(normal(1, 3, 2, 2, 3))
    y = np.zeros((1, 3, 2, 3))
    # SAME with stride 2: the kernel's 3 rows overhang by one above and below, its 2 columns do not.
    for i, k, j, l in itertools.product(range(3), range(2), range(3), range(2)):
        row, column = 2 * i + j - 1, 2 * k + l
        if 0 <= row < 5:
            y[0, i, k] += x[0, row, column] @ w[j, l]
    close(nets.conv(x, w, 2), y, 1e-5)


def test_double_backward_against_finite_differences():
    """A gradient penalty's gradient by the kernels, through both operations."""
    with jax.enable_x64():
        x, w, v = normal(0, 2, 6, 6, 8), normal(1, 4, 4, 8, 3), normal(2, 4, 4, 8, 3)

        def score(x, w, v):
            h = jnp.tanh(nets.conv(x, w, 2))
            return jnp.sum(jnp.tanh(nets.conv_transpose(h, v, (6, 6), 2)) ** 2)

        penalty = lambda w, v: jnp.sum(jax.grad(score)(x, w, v) ** 2)
        penalty = jax.jit(penalty)
        gradients = jax.jit(jax.grad(penalty, (0, 1)))(w, v)
        for at, (operand, gradient) in enumerate(zip((w, v), gradients, strict=True)):
            way, h = normal(3, *operand.shape), 1e-5
            moved = lambda t, at=at, way=way: penalty(
                *(p + t * way * (k == at) for k, p in enumerate((w, v)))
            )
            slope = (moved(h) - moved(-h)) / (2 * h)
            close(jnp.sum(gradient * way), slope, 1e-6)


def test_conv_is_the_same_in_a_loop_and_under_vmap():
    x, w = normal(0, 3, 2, 8, 8, 4), normal(1, 4, 4, 4, 5)
    gradient = jax.grad(lambda w, x: jnp.sum(nets.conv(x, w, 2) ** 3))
    each = jnp.stack([gradient(w, one) for one in x])
    close(jax.vmap(gradient, (None, 0))(w, x), each, 1e-4)
    close(lax.map(lambda one: gradient(w, one), x), each, 1e-4)


def test_what_does_not_fit_is_said():
    with pytest.raises(ConfigError, match="does not fit"):
        nets.conv(normal(0, 1, 2, 2, 1), normal(1, 3, 3, 1, 1), 1, "VALID")
    with pytest.raises(ConfigError, match="'SAME', 'VALID'"):
        nets.conv(normal(0, 1, 2, 2, 1), normal(1, 3, 3, 1, 1), 1, "same")
    with pytest.raises(ConfigError, match=r"expects an input of \(4, 4\), got \(3, 3\)"):
        nets.conv_transpose(normal(0, 1, 3, 3, 1), normal(1, 3, 3, 1, 1), (8, 8), 2)


def test_the_loop_runs_no_naive_convolution():
    """In a CPU's loop the gradients must be in the layout for which there is a fast convolution."""
    x, w = normal(0, 4, 16, 16, 8), normal(1, 3, 3, 8, 8)

    def steps(w, x):
        move = lambda w, _: (w - jax.grad(lambda w: jnp.sum(nets.conv(x, w) ** 2))(w), None)
        return lax.scan(move, w, length=2)[0]

    text = jax.jit(steps).lower(w, x).compile().as_text()
    convolutions = [line for line in text.splitlines() if "convolution(" in line]
    assert convolutions
    assert all("dim_labels=b01f_01io->b01f" in line for line in convolutions), convolutions


def textbook_group_norm(x, scale, shift, groups, eps):
    y = np.empty(x.shape)
    per = x.shape[-1] // groups
    for b, g in itertools.product(range(len(x)), range(groups)):
        part = x[b, ..., g * per : (g + 1) * per]
        y[b, ..., g * per : (g + 1) * per] = (part - part.mean()) / math.sqrt(part.var() + eps)
    return y * scale + shift


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_group_norm_is_the_textbooks(groups):
    with jax.enable_x64():
        x, scale, shift = 2 + 3 * normal(0, 2, 4, 5, 6), normal(1, 6), normal(2, 6)
        expected = textbook_group_norm(
            np.asarray(x), np.asarray(scale), np.asarray(shift), groups, 1e-5
        )
        close(nets.group_norm(x, scale, shift, groups), expected)
    with pytest.raises(ConfigError, match="4 groups do not divide 6"):
        nets.group_norm(x, scale, shift, 4)


def test_batch_norm_normalises_by_the_batch_and_remembers_without_bias():
    scale, shift, decay = normal(1, 3), normal(2, 3), 0.8
    moments = norm.moments_start(3)
    x = 5 + 2 * normal(0, 4, 5, 6, 3)
    untouched, _ = nets.batch_norm(x, jnp.ones(3), jnp.zeros(3), moments, train=False)
    close(untouched, x, 1e-5)  # Before any batch: mean 0, variance 1.

    means, squares, weights = [], [], []
    for step in range(4):
        x = 5 + step + 2 * normal(step, 4, 5, 6, 3)
        y, moments = nets.batch_norm(x, scale, shift, moments, train=True, decay=decay)
        mean, square = x.mean((0, 1, 2)), (x * x).mean((0, 1, 2))
        close(y, (x - mean) / jnp.sqrt(x.var((0, 1, 2)) + 1e-5) * scale + shift, 1e-4)
        means.append(mean), squares.append(square), weights.append(decay ** (3 - step))
    mean = np.average(means, 0, weights)
    variance = np.average(squares, 0, weights) - mean**2
    y, after = nets.batch_norm(x, scale, shift, moments, train=False)
    close(y, (x - mean) / np.sqrt(variance + 1e-5) * scale + shift, 1e-4)
    jax.tree.map(np.testing.assert_array_equal, after, moments)


def textbook_batch_norm(x, scale):
    over = tuple(range(x.ndim - 1))
    return (x - x.mean(over)) / jnp.sqrt(x.var(over) + 1e-5) * scale


def textbook_layer_norm(x, scale):
    over = tuple(range(1, x.ndim))
    return (x - x.mean(over, keepdims=True)) / jnp.sqrt(x.var(over, keepdims=True) + 1e-5) * scale


@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (4, 6)], ids=["images", "vectors"])
@pytest.mark.parametrize("kind", ["batch", "layer"])
def test_norms_have_the_textbooks_derivatives(kind, shape):
    """To the second, though the gradient by an image takes a way of its own on a CPU."""
    zero, none = jnp.zeros(6), norm.moments_start(6)
    ours, theirs = {
        "batch": (
            lambda x, s: nets.batch_norm(x, s, zero, none, train=True)[0],
            textbook_batch_norm,
        ),
        "layer": (lambda x, s: nets.group_norm(x, s, zero, 1), textbook_layer_norm),
    }[kind]
    with jax.enable_x64():
        x, scale, weights = 1 + 2 * normal(0, *shape), normal(1, 6), normal(2, *shape)
        # What is not finite must stay so.
        broken = weights.at[0, ..., 0].set(jnp.inf).at[1, ..., 0].set(jnp.nan)
        jax.tree.map(
            close, derivatives(ours, weights)(x, scale), derivatives(theirs, weights)(x, scale)
        )
        pulled = jax.vjp(lambda x: ours(x, scale), x)[1](broken)[0]
        assert not np.isfinite(pulled[:2, ..., 0]).any()
        if len(shape) == 2:  # Vectors keep the derivatives of forward mode.
            close(
                jax.jvp(lambda x: ours(x, scale), (x,), (weights,))[1],
                jax.jvp(lambda x: theirs(x, scale), (x,), (weights,))[1],
            )


def test_upsampled_convolution_is_upsampling_then_convolution():
    with jax.enable_x64():
        x, w = normal(0, 2, 4, 5, 3), normal(1, 3, 3, 3, 8)
        repeated = jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)
        np.testing.assert_array_equal(resample.upsample(x), repeated)
        direct = lambda x, w: plain(jnp.repeat(jnp.repeat(x, 2, 1), 2, 2), w, 1, "SAME")
        close(resample.upsample_conv(x, w), direct(x, w))
        gradients = [
            jax.jit(jax.grad(lambda x, w, f=f: jnp.sum(jnp.sin(f(x, w))), (0, 1)))(x, w)
            for f in (resample.upsample_conv, direct)
        ]
        jax.tree.map(close, *gradients)


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (13, 9, 3), (64, 64, 3)], ids=str)
def test_image_networks_fit_any_size(shape):
    key, x, z = jax.random.key(0), jnp.zeros((2, *shape)), jnp.zeros((2, 5))

    def run(net, given):
        return net.apply(net.init(key, given), given)

    sizes = lambda net, given: jax.eval_shape(lambda g: run(net, g), given).shape
    assert sizes(nets.conv_encoder((4, 8), (2, 3)), x) == (2, 2, 3)
    assert sizes(nets.conv_decoder((8, 4), shape), z) == x.shape


def test_dcgan_remembers_in_training_and_only_then():
    dcgan = nets.Network("conv", (8, 4), "relu", "batch")
    net, z = nets.generator(dcgan, (7, 5, 1)), normal(1, 2, 5)
    params, memory = jax.jit(net.init)(jax.random.key(0), z)
    train = jax.jit(lambda p, m, z: net.apply(p, m, z, True))
    judge = jax.jit(lambda p, m, z: net.apply(p, m, z, False))
    # Debiased after one batch, the running moments are that batch's own.
    y, remembered = train(params, memory, z)
    assert jax.tree.structure(memory) == jax.tree.structure(remembered)
    same, kept = judge(params, remembered, z)
    jax.tree.map(np.testing.assert_array_equal, kept, remembered)
    close(same, y, 1e-4)


def test_decoder_passes_the_variance_on():
    """Unit-variance latents leave a freshly drawn linear-ish decoder neither faint nor loud."""
    decoder = nets.conv_decoder((32, 32), (32, 32, 8), "tanh")
    z = normal(1, 16, 64)
    x = jax.jit(lambda k, z: decoder.apply(decoder.init(k, z), z))(jax.random.key(0), z)
    x = x[:, 4:-4, 4:-4]
    assert 0.15 < float(x.std()) < 1.0


def softmax_by_hand(q, k, v, mask):
    """Attention of one head, place by place: q [N, d], k, v [M, d], mask [N, M]."""
    y = np.zeros((len(q), v.shape[-1]))
    for i in range(len(q)):
        seen = [j for j in range(len(k)) if mask[i, j]]
        weights = np.exp([q[i] @ k[j] / math.sqrt(q.shape[-1]) for j in seen])
        y[i] = sum(w * v[j] for w, j in zip(weights / weights.sum(), seen, strict=True))
    return y


def test_attention_is_the_sums_written_out():
    with jax.enable_x64():
        q, k, v = (np.asarray(normal(i, 2, 3, n, 4)) for i, n in enumerate((5, 6, 6)))
        mask = np.array(normal(3, 2, 1, 5, 6)) > 0
        mask[..., 0] = True
        y = attend(q, k, v, mask=mask)
        for b, h in itertools.product(range(2), range(3)):
            close(y[b, h], softmax_by_hand(q[b, h], k[b, h], v[b, h], mask[b, 0]))
        everything = np.ones((2, 1, 5, 6), bool)
        close(attend(q, k, v), attend(q, k, v, mask=everything))


def stirred(module, *inputs):
    """A module's parameters with no zero left, for what begins as the identity."""
    params = module.init(jax.random.key(0), *inputs)
    leaves, tree = jax.tree.flatten(params)
    return jax.tree.unflatten(tree, [w + 0.3 * normal(i, *w.shape) for i, w in enumerate(leaves)])


def test_a_causal_mask_hides_what_comes_after():
    """Proved by gradients: those of place i by the places after it are exactly zero."""
    h, block = normal(1, 1, 5, 8), transformer.Block(heads=2)
    causal = jnp.tril(jnp.ones((5, 5), bool))
    params = stirred(block, h)
    y = lambda h, mask: block.apply(params, h, mask=mask)[0].sum(-1)
    slopes = lambda mask: np.abs(jax.jit(jax.jacrev(y))(h, mask)[:, 0]).max(-1)
    assert np.array_equal(slopes(causal) > 0, np.tril(np.ones((5, 5), bool)))
    assert np.all(slopes(jnp.ones((5, 5), bool)) > 0)


def test_a_block_with_a_condition_begins_as_the_identity_and_then_follows_it():
    h, condition, context = normal(1, 2, 5, 8), normal(2, 2, 6), normal(3, 2, 3, 4)
    block = transformer.Block(heads=2)
    params = block.init(jax.random.key(0), h, condition, context)
    np.testing.assert_array_equal(block.apply(params, h, condition, context), h)
    params = stirred(block, h, condition, context)
    y = block.apply(params, h, condition, context)
    for other in ((condition[::-1], context), (condition, context[::-1])):
        assert float(jnp.abs(block.apply(params, h, *other) - y).max()) > 1e-3
    # No example sees another.
    close(block.apply(params, h[:1], condition[:1], context[:1]), y[:1], 1e-5)


def test_patches_are_cut_and_put_together_again():
    x = normal(0, 2, 6, 4, 3)
    patches = denoisers.patchify(x, 2)
    assert patches.shape == (2, 3, 2, 12)
    np.testing.assert_array_equal(patches[0, 1, 1].reshape(2, 2, 3), x[0, 2:4, 2:4])
    np.testing.assert_array_equal(denoisers.unpatchify(patches, 2), x)
    with pytest.raises(ConfigError, match="patches of 4 do not divide"):
        denoisers.patchify(x, 4)


def test_sinusoids_have_the_wavelengths_of_the_paper():
    t = jnp.arange(5.0)
    y = transformer.sinusoidal_embedding(t, 6, longest=1000.0)
    want = [[f(i * 1000 ** (-j / 3)) for f in (np.cos, np.sin) for j in range(3)] for i in range(5)]
    np.testing.assert_allclose(y, want, atol=1e-6)


def test_the_platforms_flags_are_left_alone_where_they_should_be(monkeypatch):
    monkeypatch.setattr(startup, "known", lambda *words: True)
    cpu, split = {"JAX_PLATFORMS": "cpu"}, "--xla_force_host_platform_device_count=2"
    both = [f"{flag}={value}" for flag, value in startup.FLAGS.items()]
    scheduler = f"{startup.SCHEDULER}=false"
    assert not startup.prepare({"JAX_PLATFORMS": "cuda"})
    for own, added in (
        ("", both),
        ("--xla_dump_to=", both),
        (f"{startup.CONVOLUTIONS}=dot", [scheduler]),
        (split, [scheduler]),
        (" ".join(both), []),
    ):
        environ = {**cpu, "XLA_FLAGS": own}
        assert startup.prepare(environ) == bool(added)
        assert environ["XLA_FLAGS"].split() == [*own.split(), *added]


def test_batched_lapack_calls_do_not_wait_for_each_other():
    """More of them at once than there are threads, in a process of its own: it must end."""
    code = (
        "from genjax_zoo.run.devices import startup; startup.prepare()\n"
        "import jax, jax.numpy as jnp\n"
        "both = lambda x: jnp.linalg.cholesky(x).sum() + jnp.linalg.qr(x)[0].sum()\n"
        "f = jax.jit(lambda x: sum(both(x + i * jnp.eye(40)) for i in range(4)))\n"
        "x = jnp.tile(9 * jnp.eye(40), (64, 1, 1))\n"
        "print([f(x + i / 1000).item() for i in range(100)][0])"
    )
    environ = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "PJRT_NPROC")}
    environ |= {"JAX_PLATFORMS": "cpu", "PJRT_NPROC": "2"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("plugins", "files", "only"),
    [
        (set(), {}, True),
        ({"libtpu", "xla_cuda13"}, {}, True),
        ({"xla_cuda12"}, {"dev/nvidia0": ""}, False),
        ({"libtpu"}, {"dev/nvidia0": ""}, True),
        ({"xla_rocm7"}, {"dev/kfd": ""}, False),
        ({"libtpu"}, {"dev/accel0": ""}, False),
        ({"libtpu"}, {"pci/vendor": "0x1ae0", "pci/class": "0xff0000"}, False),
        # A network card and a disk of Google's machines
        ({"libtpu"}, {"pci/vendor": "0x1ae0", "pci/class": "0x020000"}, True),
        ({"libtpu"}, {"pci/vendor": "0x1ae0", "pci/class": "0x010802"}, True),
        ({"somebody's own"}, {}, False),
    ],
)
def test_a_plugin_without_a_device_leaves_the_cpu_its_fast_path(
    plugins, files, only, tmp_path, monkeypatch
):
    for name, text in files.items():
        path = tmp_path / name.replace("pci/", "sys/bus/pci/devices/0000:00:04.0/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(startup, "plugins", lambda: plugins)
    assert startup.cpu_only({}, tmp_path) == only
    assert startup.cpu_only({"JAX_PLATFORMS": "cpu"}, tmp_path)


def test_devices_that_the_user_hides_are_not_there(tmp_path, monkeypatch):
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidia0").touch()
    monkeypatch.setattr(startup, "plugins", lambda: {"xla_cuda13"})
    for value, only in (("", True), ("-1", True), ("0", False), ("GPU-8932f937", False)):
        assert startup.cpu_only({"CUDA_VISIBLE_DEVICES": value}, tmp_path) == only
    assert not startup.cpu_only({"HIP_VISIBLE_DEVICES": ""}, tmp_path)


def test_jax_starts_with_the_flag(monkeypatch):
    """XLA aborts on a flag that it does not know: really start it."""
    code = (
        "from genjax_zoo.run.devices import startup; print(startup.prepare());"
        "import jax; print(jax.numpy.ones(3).sum())"
    )
    environ = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[1] == "3.0"


def test_a_flag_that_jaxlib_lacks_is_not_set(monkeypatch):
    monkeypatch.setattr(startup, "FLAGS", {"--xla_cpu_" + "no_such_flag": "1"})
    assert not startup.prepare({"JAX_PLATFORMS": "cpu"})
