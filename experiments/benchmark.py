"""How fast is a training step: against the machine's peak, and against PyTorch.

    python experiments/benchmark.py                                     # the table, against PyTorch
    python experiments/benchmark.py --config=configs/vae.py:digits      # any config, ours alone

Claim: on a CPU a step of the zoo takes no longer than the same step in eager PyTorch at its best
setting (fused Adam, channels_last, gradients written out by hand where that is faster). Protocol:
both sides hold the same data in memory and draw their own noise; they are shown the same noise
once, and must then give the same losses, before and after a move of the optimizer (of the RBM: the
same free energies and gradient norms for the same negatives); then they take turns, `--steps` steps
at a time, after a warm-up; the ratio is that of the medians, PyTorch's time over ours, so above 1
we are faster. Utilisation is the floating-point work of our step, as XLA
counts it, over the time, over the fastest large matrix product on this machine.

PyTorch comes with `pip install -e '.[bench]'`. The table is written to --out. A quiet machine is
needed; what every core gives while all are busy is measured first and stands in the page.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from genjax_zoo.run.devices import startup

startup.prepare()

import jax  # noqa: E402  (XLA reads its flags when it starts)
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from genjax_zoo.contract import Array, Batch, Key, Model, ZooError  # noqa: E402
from genjax_zoo.learn import optimizers  # noqa: E402
from genjax_zoo.maths.diffusion import samplers, sde  # noqa: E402
from genjax_zoo.models import ZOO  # noqa: E402
from genjax_zoo.run.record import provenance  # noqa: E402
from genjax_zoo.typed import typed  # noqa: E402

PAGE = pathlib.Path(__file__).parent / "results" / "benchmark.md"
PAUSE = 0.3
"""Seconds between the two sides: idle OpenMP threads spin for a while before they let go."""


# --------------------------------------------------------------------------------- the machine


def _spin(seconds: float, counted: Any) -> None:
    """Counts how often a fixed piece of work is done in this time."""
    end, done = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        sum(range(10_000))
        done += 1
    counted.put(done)


def cores_present(seconds: float = 0.5) -> float:
    """How many cores' worth of work is done by as many processes as there are cores."""

    def work(processes: int) -> int:
        context = multiprocessing.get_context("fork")
        counted = context.SimpleQueue()
        running = [context.Process(target=_spin, args=(seconds, counted)) for _ in range(processes)]
        for process in running:
            process.start()
        total = sum(counted.get() for _ in running)
        for process in running:
            process.join()
        return total

    cores = len(os.sched_getaffinity(0))
    alone = max(work(1) for _ in range(3))
    return work(cores) / alone


def peak(size: int = 2048, repeats: int = 7) -> float:
    """Floating-point operations a second of the fastest large float32 product at hand."""
    a = np.random.default_rng(0).normal(size=(size, size)).astype(np.float32)
    ours = jax.jit(jnp.matmul)
    on_device = jnp.asarray(a)
    products: list[Callable[[], Any]] = [lambda: ours(on_device, on_device).block_until_ready()]
    if jax.default_backend() == "cpu" and importlib.util.find_spec("torch"):
        import torch

        b = torch.from_numpy(a)
        products.append(lambda: b @ b)
    fastest = float("inf")
    for product in products:
        for _ in range(repeats):
            fastest = min(fastest, timed(product))
    return 2 * size**3 / fastest


def timed(run: Callable[[], Any]) -> float:
    """Seconds."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


# ------------------------------------------------------------------------------------ our side


class Ours:
    """A model's training, `steps` steps in one compiled call, as the loop runs it."""

    def __init__(self, model: Model, batch: Callable[[Key, Array], Batch], steps: int, seed: int):
        """`batch` makes the batch of a step inside the compiled call, from a key and its number."""
        self.root = jax.random.key(seed)
        self.model, self.batch, self.done = model, batch, 0
        first = batch(self.root, jnp.zeros((), jnp.int32))
        self.state = jax.jit(model.init)(self.root, first)

        def one(state: Any, number: Array) -> tuple[Any, Any]:
            key_data, key = jax.random.split(jax.random.fold_in(self.root, number))
            return model.step(key, state, batch(key_data, number))

        def call(state: Any, first: Array) -> tuple[Any, Any]:
            return jax.lax.scan(one, state, first + jnp.arange(steps))

        number = jnp.zeros((), jnp.int32)
        start = time.perf_counter()
        self.call = jax.jit(call, donate_argnums=0).lower(self.state, number).compile()
        self.compile_seconds = time.perf_counter() - start
        # Before it is optimised, when a product is still one, whatever library will do it.
        cost = jax.jit(one).lower(self.state, number).cost_analysis() or {}
        self.flops = float(cost.get("flops", 0.0))
        self.steps = steps
        # Donated arrays must be this side's own.
        self.state = jax.tree.map(jnp.copy, self.state)

    def run(self) -> None:
        """`steps` steps."""
        self.state, info = self.call(self.state, jnp.asarray(self.done, jnp.int32))
        self.done += self.steps
        jax.block_until_ready((self.state, info))


def family_model(name: str, fields: dict[str, Any], optimizer: optimizers.Config) -> Model:
    """The model that these fields of a config describe."""
    config: Any = typed(ZOO[name].Config, fields, "config.model")
    return ZOO[name].make(config, optimizers.make(optimizer, 1_000_000))


def from_config(spec: str) -> tuple[Model, Callable[[Key, Array], Batch], int]:
    """A config file's model, its data read once and kept on the device, and steps per call."""
    from genjax_zoo.data.sources import open_source
    from genjax_zoo.run import config as run_config

    path, _, variant = spec.partition(":")
    found = importlib.util.spec_from_file_location("benchmarked_config", path)
    if found is None or found.loader is None or not pathlib.Path(path).exists():
        raise ZooError(f"--config expects FILE.py or FILE.py:VARIANT, got {spec!r}.")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    run = run_config.read(module.get_config(*([variant] if variant else [])))
    source = open_source(run.data, run.seed)
    rows = slice(0, run.data.batch_size)
    fed = [source.feed(step, rows) for step in range(run.steps_per_call)]
    stacked = jax.tree.map(lambda *each: jnp.stack([jnp.asarray(e) for e in each]), *fed)

    def batch(key: Key, number: Array) -> Batch:
        feed = jax.tree.map(lambda each: each[number % run.steps_per_call], stacked)
        return source.batch(key, source.resident, feed)

    return run_config.make_model(run), batch, run.steps_per_call


# ----------------------------------------------------------------------------------- workloads


class Workload(NamedTuple):
    """One row of the table: a model of the zoo and its twin.

    Attributes:
      title: what it is.
      family: of the zoo.
      fields: the model's config.
      optimizer: its optimizer.
      shape: of a batch of data, which are drawn once and kept.
      data: "binary" of 0 and 1, "signed" in [-1, 1], or how many symbols there are.
      twin: (state, fields, optimizer) -> the same in PyTorch.
      moves: how many moves of a player a step is; a turn has so many fewer steps.
    """

    title: str
    family: str
    fields: dict[str, Any]
    optimizer: optimizers.Config
    shape: tuple[int, ...]
    data: str | int
    twin: Callable[..., Any]
    moves: int = 1


def data(workload: Workload, batches: int) -> np.ndarray:
    """Batches of noise, [batches, B, ...]: what the pixels or symbols are changes no time."""
    rng = np.random.default_rng(0)
    shape = (batches, *workload.shape)
    if isinstance(workload.data, int):
        return rng.integers(workload.data, size=shape, dtype=np.int32)
    if workload.data == "binary":
        return (rng.random(shape) < 0.2).astype(np.float32)
    return rng.uniform(-1, 1, shape).astype(np.float32)


def twin_of(name: str, module: str = "benchmark_torch") -> Callable[..., Any]:
    """A twin in PyTorch, which is read when it is needed: without it, ours can run alone."""

    def make(*arguments: Any) -> Any:
        # Whether run as a file or imported, the twins lie beside this file.
        beside = str(pathlib.Path(__file__).parent)
        if beside not in sys.path:
            sys.path.insert(0, beside)
        return getattr(importlib.import_module(module), name)(*arguments)

    return make


def workloads() -> dict[str, Workload]:
    """The rows of the table, by name."""
    adam = optimizers.Config("adam", 1e-3)
    gan = optimizers.Config("adam", 2e-4, b1=0.5)
    gan_gp = optimizers.Config("adam", 1e-4, b1=0.5, b2=0.9)
    sgd = optimizers.Config("sgd", 1e-2)
    rbm = {"hidden": 500, "base_rate": False}
    vae = {"latents": 50, "widths": (500,), "activation": "relu", "decoder": "bernoulli"}
    conv_vae = {**vae, "network": "conv", "widths": (32, 64)}
    flow = {"architecture": "realnvp", "layers": 6, "widths": (256, 256)}
    dcgan = {
        "generator": {"name": "conv", "widths": (256, 128, 64), "normalise": "batch"},
        "discriminator": {
            "name": "conv",
            "widths": (64, 128, 256),
            "activation": "leaky_relu",
            "normalise": "batch",
        },
        "latents": 100,
        "output": "tanh",
        "dynamics": {"name": "simultaneous"},
    }
    wgan_gp = {
        **dcgan,
        "objective": {"name": "wasserstein", "gradient": 10.0},
        "dynamics": {"name": "alternating", "k": 5},
        "generator": {"name": "conv", "widths": (128, 64), "normalise": "batch"},
        "discriminator": {"name": "conv", "widths": (64, 128), "activation": "leaky_relu"},
    }
    unet = {"network": {"name": "unet", "width": 32, "multiples": (1, 2, 2), "blocks": 1}}
    return {
        "vae": Workload(
            "MLP VAE 784-500-50, batch 128", "vae", vae, adam, (128, 784), "binary", twin_of("Vae")
        ),
        "conv_vae": Workload(
            "convolutional VAE 32-64 channels, 28x28, 50 latents, batch 128",
            "vae", conv_vae, adam, (128, 28, 28, 1), "binary", twin_of("ConvVae"),
        ),
        "flow": Workload(
            "RealNVP, 6 couplings by networks 256-256, 64 dimensions, batch 256",
            "flow", flow, adam, (256, 64), "signed", twin_of("Flow"),
        ),
        "unet": Workload(
            "diffusion, U-Net 32-64-64 channels, 28x28, batch 32",
            "diffusion", {**unet, "average": 0.0}, adam, (32, 28, 28, 1), "signed", twin_of("Unet"),
        ),
        "dcgan": Workload(
            "DCGAN 64-128-256 channels, 28x28, both players, batch 64",
            "gan", dcgan, gan, (64, 28, 28, 1), "signed", twin_of("Dcgan"),
        ),
        "wgan_gp": Workload(
            "WGAN-GP 64-128 channels, 28x28, 5 critic moves of 64 images and one of the generator",
            "gan", wgan_gp, gan_gp, (320, 28, 28, 1), "signed", twin_of("WganGp"), moves=6,
        ),
        "rbm_cd": Workload(
            "RBM 784x500, CD-1, batch 100",
            "rbm", {**rbm, "chain": "cd"}, sgd, (100, 784), "binary", twin_of("Rbm"),
        ),
        "rbm_pcd": Workload(
            "RBM 784x500, PCD-1, batch 100",
            "rbm", {**rbm, "chain": "pcd"}, sgd, (100, 784), "binary", twin_of("Rbm"),
        ),
        **{
            f"{name}{kind}": Workload(
                f"{title}, {dtype} against PyTorch's {other}",
                "language_model", {**fields, "dtype": dtype}, adam, shape, 65, twin,
            )
            for name, (title, fields, shape) in gpts().items()
            for kind, dtype, other, twin in (
                ("", "float32", "float32", twin_of("Gpt")),
                ("_bf16", "bfloat16", "bfloat16", twin_of("Gpt")),
                ("_bf16_f32", "bfloat16", "float32", twin_of("GptFloat32")),
            )
        },
    }  # fmt: skip


def gpts() -> dict[str, tuple[str, dict[str, Any], tuple[int, ...]]]:
    """nanoGPT's CPU setting and its GPU setting with smaller batches: title, config, shape."""

    def one(layers: int, width: int, heads: int, context: int, batch: int):
        fields = {
            "vocabulary": 65,
            "context": context,
            "layers": layers,
            "width": width,
            "heads": heads,
            "bias": False,
            "norm_bias": False,
            "dtype": "float32",
        }
        title = f"GPT {layers} layers x {width}, context {context}, batch {batch}"
        return title, fields, (batch, context + 1)

    return {"gpt_small": one(4, 128, 4, 64, 12), "gpt_big": one(6, 384, 6, 256, 8)}


class Row(NamedTuple):
    """What was measured of one workload; seconds are medians of a step."""

    title: str
    ours: float
    theirs: float | None
    compile_seconds: float
    flops: float
    disagreement: float | None


def compare(workload: Workload, steps: int, repeats: int, batches: int = 16) -> Row:
    """Checks that both sides do the same, then lets them take turns."""
    if not importlib.util.find_spec("torch"):
        raise ZooError("the comparison needs PyTorch: pip install -e '.[bench]'.")
    import torch

    steps = -(-steps // workload.moves)
    model = family_model(workload.family, workload.fields, workload.optimizer)
    x = data(workload, batches)
    table = jnp.asarray(x)
    ours = Ours(model, lambda key, i: {"x": table[i % batches]}, steps, seed=0)
    theirs = workload.twin(
        jax.tree.map(np.asarray, ours.state), workload.fields, workload.optimizer
    )
    disagreement = theirs.check(model, ours.state, table)
    xs = theirs.prepare(torch.from_numpy(x))

    def run_theirs() -> None:
        for i in range(steps):
            theirs.step(xs[i % batches])

    for run in (ours.run, run_theirs):
        run()
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(repeats):
        for name, run in (("ours", ours.run), ("theirs", run_theirs)):
            time.sleep(PAUSE)
            times[name].append(timed(run) / steps)
    mine, other = (statistics.median(times[n]) for n in ("ours", "theirs"))
    return Row(workload.title, mine, other, ours.compile_seconds, ours.flops, disagreement)


def epoch(data_dir: str, repeats: int) -> list[Row]:
    """The MLP VAE over all of MNIST, in memory on both sides, shuffled and binarised anew.

    Against torchvision's MNIST through a DataLoader, which is how PyTorch's own examples load it
    (where torchvision is installed); against a DataLoader of one tensor; and against indexing that
    tensor by hand, which is the fastest that PyTorch has. All of them in this process.
    """
    import torch

    from genjax_zoo.data.config import Data
    from genjax_zoo.data.source import feeds
    from genjax_zoo.data.sources import open_source

    known, size = workloads()["vae"], 100
    fields = {"source": "tfds:mnist", "batch_size": size, "binarise": "dynamic"}
    source = open_source(typed(Data, fields, "config.data"), 0, data_dir)
    rows = slice(0, size)
    model = family_model(known.family, known.fields, known.optimizer)
    key, resident = jax.random.key(0), jax.device_put(source.resident)
    batch = lambda key, fed: source.batch(key, resident, fed)
    state = model.init(key, batch(key, source.feed(0, rows)))
    chunk, done = 50, 0
    steps = source.size // size

    def call(state: Any, first: Array, fed: Any) -> tuple[Any, Any]:
        def one(state, each):
            number, fed = each
            key_data, key_step = jax.random.split(jax.random.fold_in(key, number))
            return model.step(key_step, state, batch(key_data, fed))

        return jax.lax.scan(one, state, (first + jnp.arange(chunk), fed))

    compiled = jax.jit(call, donate_argnums=0)
    theirs = known.twin(jax.tree.map(np.asarray, state), known.fields, known.optimizer)
    state = jax.tree.map(jnp.copy, state)

    def run_ours() -> None:
        nonlocal state, done
        chunks = [(first, first + chunk) for first in range(done, done + steps, chunk)]
        for fed in feeds(source, chunks, rows):
            state, info = compiled(state, jnp.asarray(done, jnp.int32), fed)
            done += chunk
        jax.block_until_ready((state, info))

    pixels = torch.from_numpy(np.array(jax.tree.leaves(resident)[0]).reshape(-1, 784))
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(pixels), batch_size=size, shuffle=True, drop_last=True
    )

    def binarised(grey: torch.Tensor) -> torch.Tensor:
        grey = grey.float() / 255 if grey.dtype == torch.uint8 else grey
        return torch.bernoulli(grey)

    def run_loader(loader: Any = loader) -> None:
        for grey, *_ in loader:
            theirs.step(binarised(grey.reshape(size, -1)))

    def run_tensor() -> None:
        for rows in torch.randperm(len(pixels)).split(size):
            theirs.step(binarised(pixels[rows]))

    sides = {"ours": run_ours}
    with tempfile.TemporaryDirectory() as folder:
        examples = _torchvision(pathlib.Path(folder), pixels.reshape(-1, 28, 28).numpy())
    if examples is not None:
        shuffled = torch.utils.data.DataLoader(
            examples, batch_size=size, shuffle=True, drop_last=True
        )
        sides["torchvision's MNIST by DataLoader"] = lambda: run_loader(shuffled)
    sides |= {"a tensor by DataLoader": run_loader, "one tensor, indexed": run_tensor}
    times: dict[str, list[float]] = {name: [] for name in sides}
    run_ours()
    # An epoch is hundreds of steps: few of them say as much as many turns.
    for _ in range(min(repeats, 3)):
        for name, side in sides.items():
            time.sleep(PAUSE)
            times[name].append(timed(side) / steps)
    seconds = {name: statistics.median(each) for name, each in times.items()}
    title = "an epoch of MNIST with loading, MLP VAE, batch 100, against "
    return [
        Row(title + name, seconds["ours"], seconds[name], 0.0, 0.0, None)
        for name in sides
        if name != "ours"
    ]


def _torchvision(folder: pathlib.Path, images: np.ndarray) -> Any:
    """torchvision's MNIST of these images [N, 28, 28], from files as it wants them, or None."""
    try:
        from torchvision import datasets, transforms
    except (ImportError, RuntimeError):
        return None
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, some in (("train", images), ("t10k", images[:1])):
        for what, data in (("images-idx3", some), ("labels-idx1", np.zeros(len(some), np.uint8))):
            # Two zeros, 8 for bytes, how many axes; then their lengths.
            head = bytes([0, 0, 8, data.ndim]) + np.array(data.shape, ">i4").tobytes()
            (raw / f"{part}-{what}-ubyte").write_bytes(head + data.tobytes())
    return datasets.MNIST(str(folder), train=True, transform=transforms.ToTensor())


def sampling(workload: Workload, steps: int, repeats: int) -> Row:
    """A step of DDIM with the workload's network: a whole chain of `steps`, both ways."""
    import torch

    own = {"name": "ddim", "grid": "even_in_log_snr", "steps": steps}
    fields = {**workload.fields, "sampling": own}
    model = family_model(workload.family, fields, workload.optimizer)
    first = {"x": jnp.zeros(workload.shape)}
    state = model.init(jax.random.key(0), first)
    theirs = workload.twin(jax.tree.map(np.asarray, state), fields, workload.optimizer)
    state, theirs = theirs.elsewhere(state)
    n, key = workload.shape[0], jax.random.key(1)
    start = time.perf_counter()
    call = jax.jit(model.sample, static_argnums=2).lower(key, state, n).compile()
    compile_seconds = time.perf_counter() - start
    process = sde.variance_preserving()
    times = np.asarray(samplers.even_in_log_snr(process, steps))
    # The start is the second of the three keys that `sample` makes of its own.
    noise = jax.random.normal(jax.random.split(key, 3)[1], workload.shape)
    noise = theirs.prepare(torch.tensor(np.array(noise * process.sigma(jnp.ones(()))))[None])[0]

    def ours() -> np.ndarray:
        return np.asarray(call(key, state)["x"])

    def other() -> np.ndarray:
        return theirs.sample(noise, times).permute(0, 2, 3, 1).numpy()

    mine, his = ours(), other()
    disagreement = float(np.abs(mine - his).max() / np.abs(his).max())
    if not disagreement < 1e-2:
        raise ZooError(f"sampling: the two sides disagree by {disagreement:.2g} of the largest.")
    taken: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(repeats):
        for name, run in (("ours", ours), ("theirs", other)):
            time.sleep(PAUSE)
            # A chain of `steps` has one prediction more, at its end.
            taken[name].append(timed(run) / (steps + 1))
    cost = call.cost_analysis() or {}
    # XLA counts a loop once: one of its steps, and the prediction at the end.
    return Row(
        f"sampling, {workload.title}",
        *(statistics.median(taken[name]) for name in ("ours", "theirs")),
        compile_seconds,
        float(cost.get("flops", 0.0)) / 2,
        disagreement,
    )


def decoding(workload: Workload, repeats: int) -> Row:
    """A symbol of one string as long as the context, drawn with a cache of keys and values."""
    import torch

    model = family_model(workload.family, workload.fields, workload.optimizer)
    length, key = workload.fields["context"], jax.random.key(0)
    table = jnp.asarray(data(workload, 1)[0])
    state = model.init(key, {"x": table})
    # Ten times the first weights: at first all symbols are as likely.
    state = state.replace(params=jax.tree.map(lambda p: 10 * p if p.ndim > 2 else p, state.params))
    theirs = workload.twin(jax.tree.map(np.asarray, state), workload.fields, workload.optimizer)
    how = model.autoregression
    if how is None:
        raise ZooError(f"{workload.title}: the model writes nothing symbol after symbol.")
    _, cache = how.start(state, 1, length)
    told = table[0, :length]
    logits = []
    extend = jax.jit(how.extend)
    for x in told:
        each, cache = extend(state, cache, x[None, None])
        logits.append(np.asarray(each[0, 0]))
    other = theirs.write(length, torch.tensor(np.array(told))).numpy()
    disagreement = float(np.abs(np.stack(logits) - other).max() / np.abs(other).max())
    if not disagreement < 1e-3:
        raise ZooError(f"decoding: the two sides disagree by {disagreement:.2g} of the largest.")
    start = time.perf_counter()
    call = jax.jit(model.sample, static_argnums=2).lower(key, state, 1).compile()
    compile_seconds = time.perf_counter() - start
    taken: dict[str, list[float]] = {"ours": [], "theirs": []}
    sides = {
        "ours": lambda: call(key, state)["x"].block_until_ready(),
        "theirs": lambda: theirs.write(length),
    }
    for run in sides.values():
        run()
    for _ in range(repeats):
        for name, run in sides.items():
            time.sleep(PAUSE)
            # A row has one symbol more, of which the last is drawn.
            taken[name].append(timed(run) / (length + (name == "ours")))
    title = workload.title.partition(", batch")[0]
    seconds = (statistics.median(taken[name]) for name in sides)
    # XLA counts a loop once, which is one symbol.
    flops = float((call.cost_analysis() or {}).get("flops", 0.0))
    return Row(f"decoding, {title}, batch 1", *seconds, compile_seconds, flops, disagreement)


def alone(title: str, model: Model, batch, steps: int, repeats: int) -> Row:
    """Ours, against nothing but the machine."""
    ours = Ours(model, batch, steps, seed=0)
    ours.run()
    seconds = statistics.median(timed(ours.run) / steps for _ in range(repeats))
    return Row(title, seconds, None, ours.compile_seconds, ours.flops, None)


# ---------------------------------------------------------------------------------------- page


def table(rows: list[Row], flops_a_second: float) -> str:
    """The rows as markdown."""
    lines = [
        "| step | ours, steps/s | PyTorch, steps/s | ratio | GFLOP a step | of peak | compile, s |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        theirs = "" if row.theirs is None else f"{1 / row.theirs:.4g}"
        ratio = "" if row.theirs is None else f"**{row.theirs / row.ours:.2f}**"
        lines.append(
            f"| {row.title} | {1 / row.ours:.4g} | {theirs} | {ratio} | {row.flops / 1e9:.3g} | "
            f"{row.flops / row.ours / flops_a_second:.0%} | {row.compile_seconds:.1f} |"
        )
    return "\n".join(lines)


def page(rows: list[Row], flops_a_second: float, cores: float, command: str) -> str:
    """The whole page of results/."""
    what = provenance.record()
    versions = ", ".join(f"{k} {v}" for k, v in sorted(_versions(what).items()))
    disagreements = "; ".join(
        f"{row.title}: {row.disagreement:.1e}" for row in rows if row.disagreement is not None
    )
    agreed = (
        f"\nLargest relative difference between the two sides' numbers, same weights and same "
        f"noise (of the RBM, same negatives): {disagreements}.\n"
        if disagreements
        else ""
    )
    return f"""# Steps per second, against PyTorch and against the machine

{table(rows, flops_a_second)}

Ratio: PyTorch's time / ours (above 1 we are faster), medians of interleaved turns after a warm-up.
{agreed}
- command: `{command}`
- date: {time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())}, commit {what.get("commit")}\
{" (changed)" if what.get("changed") else ""}
- versions: {versions}
- machine: {len(os.sched_getaffinity(0))} cores, together worth {cores:.2f} when the run began; \
peak {flops_a_second / 1e9:.0f} GFLOP/s (float32 product of 2048 x 2048)
- XLA_FLAGS: `{os.environ.get("XLA_FLAGS", "")}`
"""


def _versions(what: dict[str, Any]) -> dict[str, str]:
    versions = {k: v for k, v in (what.get("versions") or {}).items() if v}
    chosen = {k: versions[k] for k in ("jax", "jaxlib", "flax", "optax") if k in versions}
    chosen.setdefault("jax", jax.__version__)
    if importlib.util.find_spec("torch"):
        import torch

        chosen["torch"] = torch.__version__
    return chosen


def main(arguments: list[str] | None = None) -> int:
    """Measures what is asked for and prints the page; writes it where --out says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", action="append", default=[], help="FILE.py:VARIANT, ours alone")
    parser.add_argument("--only", default="", help="names of rows, with commas")
    parser.add_argument("--steps", type=int, default=20, help="steps in one compiled call")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--data_dir", default="", help="of prepared TFDS sets: adds MNIST's epoch")
    parser.add_argument("--out", default="", help=f"where to write; the table's home is {PAGE}")
    given = parser.parse_args(arguments)
    if given.repeats < 1 or given.steps < 1:
        parser.error("--steps and --repeats should be at least 1")
    cores, flops_a_second = cores_present(), peak()
    expected = len(os.sched_getaffinity(0))
    quiet = cores > 0.85 * expected
    if not quiet:
        # A core late at a barrier costs OpenMP far more than XLA: such ratios flatter us.
        print(
            f"warning: {expected} cores give the work of {cores:.2f}: others are using this "
            "machine, and the ratios are worth nothing; nothing will be written",
            file=sys.stderr,
        )
    rows = []
    if given.config:
        for spec in given.config:
            model, batch, steps = from_config(spec)
            rows.append(alone(spec, model, batch, steps, given.repeats))
    else:
        known = workloads()
        written = {f"decode_{name}": name for name in gpts()}
        names = (*known, "sampling", *written)
        for name in given.only.split(",") if given.only else names:
            if name not in names:
                parser.error(f"--only knows {', '.join(names)}; got {name!r}")
            if name in written:
                rows.append(decoding(known[written[name]], given.repeats))
            elif name == "sampling":
                rows.append(sampling(known["unet"], given.steps, given.repeats))
            else:
                rows.append(compare(known[name], given.steps, given.repeats))
            print(table(rows[-1:], flops_a_second).splitlines()[-1], flush=True)
        if given.data_dir:
            rows += epoch(given.data_dir, given.repeats)
    words = sys.argv[1:] if arguments is None else arguments
    text = page(rows, flops_a_second, cores, " ".join(["python experiments/benchmark.py", *words]))
    print(text)
    if given.out and quiet:
        pathlib.Path(given.out).write_text(text)
    return 0 if quiet or not given.out else 1


if __name__ == "__main__":
    sys.exit(main())
