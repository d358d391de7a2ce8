"""One machine with an accelerator, in nine minutes and without a network: does the zoo hold there?

    python experiments/device.py                              # the page, on one GPU
    python experiments/device.py --parts=speed --only=vae,dit --minutes=3
    python experiments/device.py --long=vae_mnist --data_dir=DIR

Three parts, one after the other, each as far as its time reaches:

    laws    a fast part of tests/test_laws.py, on the accelerator
    speed   twelve workloads beside the same in PyTorch, eager and by torch.compile, where torch is:
            each in a process of its own, whose sides take turns after a warm-up; medians
    long    one real run, by the command of the README, for as long as there is time: the number
            that it has reached, beside the published one

Work is counted, and told as such, by XLA (of the step before it is optimised, loops once) or by a
formula; its share is of the card's peak in third_party/published/cards.json, of bfloat16 or of
TensorFloat-32, in which both sides multiply float32 there; of a card that is not in it, and of a
CPU, of the fastest large product measured. Memory is what XLA plans for the step, arguments among
it; of PyTorch, what it had allocated at most.

The page is written after every workload: whatever ends the script leaves what was measured.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

# Both libraries share the card's memory.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
sys.path.insert(0, str(pathlib.Path(__file__).parent))

import benchmark
import jax
import jax.numpy as jnp
import numpy as np

from genjax_zoo import nets
from genjax_zoo.contract import Array, ZooError
from genjax_zoo.learn import optimizers
from genjax_zoo.learn.verbs import descend
from genjax_zoo.maths.inference import kalman
from genjax_zoo.maths.mcmc import ais, gibbs
from genjax_zoo.maths.mcmc.boltzmann import Machine
from genjax_zoo.maths.probability import distributions
from genjax_zoo.maths.sequences import decoding
from genjax_zoo.run.record import files, provenance

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = ROOT / "experiments" / "results" / "device.md"
CARDS = ROOT / "third_party" / "published" / "cards.json"
LAWS = (
    "vae:digits]", "rbm:digits]", "naive_bayes:digits]", "markov_chain:sticky]", "flow:toy]",
    "gan:digits_conditional]", "linear_dynamical_system:nile]",
)  # fmt: skip
"""Variants of the fast part: one of each verb but staged, and two with exact densities."""
LONG = {
    # config, published number, of what
    "shakespeare_char": ("language_model.py:shakespeare_char_gpu", 1.4697, "nats a character"),
    "vae_mnist": ("vae.py:mnist", -86.76, "nats an image"),
}
SHARES = {"laws": 0.25, "speed": 0.75, "long": 1.0}
"""By which part of all the time each part has to have ended."""


# ------------------------------------------------------------------------------------- the card


def device() -> str:
    """The accelerator's name, as jax has it."""
    return jax.devices()[0].device_kind


def peak(dtype: str, name: str | None = None) -> tuple[float, str]:
    """(operations a second, where that is from) of products in float32 or bfloat16."""
    kind = "tensorfloat32" if dtype == "float32" else dtype
    table = [
        entry
        for entry in json.loads(CARDS.read_text())
        if re.search(entry["card"], device() if name is None else name)
    ]
    of = {entry["dtype"]: entry for entry in table}
    if entry := of.get(kind) or of.get("float32"):
        return entry["value"], f"{entry['what']}: {entry['source']}"
    return benchmark.peak(size=512), "measured, the fastest float32 product of 512 x 512"


# ------------------------------------------------------------------------------------ two sides


class Side(NamedTuple):
    """One side of a workload, ready to take turns.

    Attributes:
      run: does `steps` steps, and waits for them.
      steps: how many.
      memory: bytes, or None where nobody says.
      compile_seconds: before the first step.
    """

    run: Callable[[], Any]
    steps: int
    memory: Callable[[], float | None]
    compile_seconds: float


class Workload(NamedTuple):
    """One row of the table.

    Attributes:
      title: what it is.
      unit: of what a second has so many.
      dtype: of its products.
      ours: steps -> (our side, operations a step, who counted them, what `theirs` needs).
      theirs: (what `ours` handed on) -> (a function that does one step, what shows it the same).
    """

    title: str
    unit: str
    dtype: str
    ours: Callable[[int], tuple[Side, float, str, Any]]
    theirs: Callable[[Any], tuple[Callable[[], Any], Callable[[], float] | None]]


def compiled(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float, float, float]:
    """(compiled, seconds it took, operations as XLA counts them, bytes as it plans them)."""
    start = time.perf_counter()
    lowered = jax.jit(function).lower(*arguments)
    program = lowered.compile()
    seconds = time.perf_counter() - start
    cost = lowered.cost_analysis() or {}
    return program, seconds, float(cost.get("flops", 0.0)), planned(program)


def planned(program: Any) -> float:
    """Bytes that XLA plans for a compiled program: arguments, results, and what is in between."""
    plan = program.memory_analysis()
    of = lambda part: getattr(plan, f"{part}_size_in_bytes", 0)
    return float(of("argument") + of("output") + of("temp") - of("alias"))


def torch_steps(step: Callable[[], Any], steps: int, seconds: float = 0.0) -> Side:
    """A side of PyTorch's."""
    import torch

    cuda = jax.default_backend() == "gpu"

    def run() -> None:
        for _ in range(steps):
            step()
        if cuda:
            torch.cuda.synchronize()

    memory = lambda: float(torch.cuda.max_memory_allocated()) if cuda else None
    return Side(run, steps, memory, seconds)


def training(
    known: benchmark.Workload,
    dtype: str = "float32",
    model: Any = None,
    work: float = 0.0,
) -> Workload:
    """Steps of learning by a family of the zoo, and by its twin.

    Args:
      known: the workload as the benchmark has it.
      dtype: of its products.
      model: in the place of the family's.
      work: operations a step by a formula; 0 lets XLA count.
    """
    own = model or benchmark.family_model(known.family, known.fields, known.optimizer)
    x = benchmark.data(known, 16)

    def ours(steps: int) -> tuple[Side, float, str, Any]:
        table = jnp.asarray(x)
        steps = max(steps // known.moves, 1)
        side = benchmark.Ours(own, lambda key, i: {"x": table[i % 16]}, steps, seed=0)
        state = jax.tree.map(np.asarray, side.state)
        counted = (work, "by formula") if work else (side.flops, "XLA")
        run = Side(side.run, steps, lambda: planned(side.call), side.compile_seconds)
        return run, *counted, (state, table)

    def theirs(handed: tuple[Any, Array]) -> tuple[Callable[[], Any], Callable[[], float] | None]:
        import torch

        state, table = handed
        make = lambda: known.twin(state, known.fields, known.optimizer)
        check = make()
        twin, done = make(), [0]
        xs = twin.prepare(torch.from_numpy(np.array(x)).to(torch.get_default_device()))

        def step() -> None:
            twin.step(xs[done[0] % 16])
            done[0] += 1

        step.twin = twin  # type: ignore[attr-defined]
        there = jax.tree.map(jnp.asarray, state)
        # In bfloat16 the two round apart within steps; in float32 the test shows them the same.
        return step, (lambda: check.check(own, there, table)) if dtype == "float32" else None

    return Workload(known.title, "steps", dtype, ours, theirs)


# -------------------------------------------------------------------------------- the workloads


def workloads(tiny: bool = False) -> dict[str, Workload]:
    """The twelve, by name; tiny ones of the same code for a test."""
    known = benchmark.workloads()
    if tiny:
        conv = lambda normalise: {
            "generator": {"name": "conv", "widths": (8, 4), "normalise": "batch"},
            "discriminator": {
                **{"name": "conv", "widths": (4, 8), "activation": "leaky_relu"},
                "normalise": normalise,
            },
        }
        small: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
            "vae": ({"latents": 3, "widths": (8,)}, (8, 64)),
            "rbm_pcd": ({"hidden": 30}, (8, 64)),
            "dcgan": ({**conv("batch"), "latents": 5}, (8, 8, 8, 1)),
            "wgan_gp": ({**conv("none"), "latents": 5}, (20, 8, 8, 1)),
            "unet": ({"network": {"name": "unet", "width": 8, "multiples": (1, 2), "blocks": 1}},
                     (4, 8, 8, 1)),
            "flow": ({"layers": 3, "widths": (8, 6)}, (8, 10)),
        }  # fmt: skip
        known = {
            name: known[name]._replace(fields={**known[name].fields, **fields}, shape=shape)
            for name, (fields, shape) in small.items()
        }
    return {
        "vae": training(known["vae"]),
        "rbm": training(known["rbm_pcd"]),
        "dcgan": training(known["dcgan"]),
        "wgan_gp": training(known["wgan_gp"]),
        "unet": training(known["unet"]),
        "dit": dit(tiny),
        "pixelcnn": pixelcnn(tiny),
        "gpt": gpt(tiny),
        "decoding": writing(tiny),
        "flow": training(known["flow"]),
        "ais": annealing(tiny),
        "kalman": filtering(tiny),
    }


ADAM = optimizers.Config("adam", 1e-3)


def dit(tiny: bool) -> Workload:
    """A step of DiT: patches of 2 on images of 32 x 32."""
    width, blocks, heads, batch, side = (16, 1, 2, 4, 8) if tiny else (384, 12, 6, 64, 32)
    network = {"name": "transformer", "width": width, "blocks": blocks, "heads": heads, "patch": 2}
    return training(
        benchmark.Workload(
            f"diffusion, DiT of {blocks} blocks of {width}, {side}x{side} in patches of 2, "
            f"batch {batch}",
            *("diffusion", {"network": network, "average": 0.0}, ADAM),
            *((batch, side, side, 4), "signed", benchmark.twin_of("Dit", "device_torch")),
        )
    )


def pixelcnn(tiny: bool) -> Workload:
    """A step of PixelCNN on binary images, which is a network of the zoo and no family yet."""
    width, layers, batch, side = (8, 2, 4, 8) if tiny else (128, 12, 64, 28)
    net = nets.pixelcnn(1, width, layers)

    def init(key: Any, batch: Any) -> tuple[Any, tuple[()]]:
        return net.init(key, batch["x"]), ()

    def loss(key: Any, params: Any, memory: tuple[()], batch: Any) -> Any:
        logits = net.apply(params, batch["x"])
        each = distributions.bernoulli(*map(distributions.flat, (batch["x"], logits)))
        return -jnp.mean(each), (memory, {})

    class Own(NamedTuple):
        init: Any
        step: Any

    own = Own(*descend(init, loss, optimizers.make(ADAM, 1_000_000)))
    known = benchmark.Workload(
        f"PixelCNN, {layers} layers of {width}, {side}x{side}, batch {batch}",
        *("pixelcnn", {"layers": layers, "width": width}, ADAM),
        *((batch, side, side, 1), "binary", benchmark.twin_of("PixelCnn", "device_torch")),
    )
    return training(known, model=own)


def gpt_fields(tiny: bool) -> dict[str, Any]:
    """GPT-2 small as nanoGPT trains it: without biases, its vocabulary a multiple of 64."""
    sizes = (
        {"vocabulary": 17, "context": 8, "layers": 2, "width": 16, "heads": 2, "dtype": "float32"}
        if tiny
        else {"vocabulary": 50_304, "context": 1024, "layers": 12, "width": 768, "heads": 12,
              "dtype": "bfloat16"}
    )  # fmt: skip
    return {"bias": False, "norm_bias": False, **sizes}


def parameters(fields: dict[str, Any]) -> int:
    """N, of a GPT whose head is tied: 12 layers width² and the embedding, which is also a head."""
    return 12 * fields["layers"] * fields["width"] ** 2 + fields["vocabulary"] * fields["width"]


def work_of(fields: dict[str, Any], rows: int) -> float:
    """Operations of a step: 6 N a token, and 12 T times the width a layer of attention.

    Chowdhery et al. 2022 (arXiv:2204.02311), appendix B; a half of attention's is masked away.
    """
    each = 6 * parameters(fields) + 12 * fields["layers"] * fields["width"] * fields["context"]
    return float(each * rows * fields["context"])


def gpt(tiny: bool) -> Workload:
    """A step of GPT-2 small in bfloat16."""
    fields, batch = gpt_fields(tiny), 3 if tiny else 16
    known = benchmark.Workload(
        f"{'GPT of two layers' if tiny else 'GPT-2 small'}, {fields['dtype']}, {batch} rows of "
        f"{fields['context']} symbols",
        *("language_model", fields, ADAM, (batch, fields["context"] + 1)),
        *(fields["vocabulary"], benchmark.twin_of("Gpt", "device_torch")),
    )
    return training(known, fields["dtype"], work=work_of(fields, batch))


def writing(tiny: bool) -> Workload:
    """Symbols a second by GPT-2 small with a cache, the likeliest each: 2 N operations a symbol."""
    fields = gpt_fields(tiny)
    n, prompt_length, length = (2, 3, 4) if tiny else (8, 64, 192)
    model = benchmark.family_model("language_model", fields, ADAM)
    rng = np.random.default_rng(0)
    prompt = rng.integers(0, fields["vocabulary"], (n, prompt_length)).astype(np.int32)
    rules = decoding.Decoding(temperature=0.0)

    def ours(steps: int) -> tuple[Side, float, str, Any]:
        rows = jnp.zeros((1, fields["context"] + 1), jnp.int32)
        state = model.init(jax.random.key(0), {"x": rows})
        write = lambda state, prompt: (
            decoding.write(
                *(jax.random.key(0), model.autoregression, state, n, length, rules, prompt)
            ).x
        )
        program, seconds, _, bytes_ = compiled(write, state, prompt)
        found = np.asarray(program(state, prompt))
        run = lambda: jax.block_until_ready(program(state, prompt))
        side = Side(run, length, lambda: bytes_, seconds)
        return side, 2.0 * n * parameters(fields), "by formula", (state, found)

    def theirs(handed: Any) -> tuple[Callable[[], Any], Callable[[], float] | None]:
        import torch

        state, found = handed
        twin = benchmark.twin_of("Writer", "device_torch")(
            jax.tree.map(np.asarray, state), fields, ADAM
        )
        begun = torch.from_numpy(prompt).long().to(torch.get_default_device())

        def check() -> float:
            other = twin.write_all(begun, length).cpu().numpy()
            if not np.array_equal(found, other):
                raise ZooError("decoding: the two sides write different symbols.")
            return 0.0

        step = lambda: twin.write_all(begun, length)
        step.whole = True  # type: ignore[attr-defined]
        # The likeliest of bfloat16's few numbers is a matter of rounding.
        return step, check if fields["dtype"] == "float32" else None

    title = f"decoding, {'GPT of two layers' if tiny else 'GPT-2 small'}, {fields['dtype']}"
    return Workload(
        f"{title}, {n} strings, {length} symbols after {prompt_length}",
        *("symbols of each", fields["dtype"], ours, theirs),
    )


def annealing(tiny: bool) -> Workload:
    """Temperatures of annealed importance sampling a second, of an RBM of 784 x 500."""
    D, H, temperatures, chains = (12, 5, 200, 50) if tiny else (784, 500, 1000, 1000)
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(0.05 * rng.normal(size=shape), jnp.float32)
    nothing = jnp.zeros(D), jnp.zeros(H)
    machine = Machine(draw(D, H), draw(D), draw(H), *nothing, jnp.full(D, 0.5), (D,))
    config = ais.Config(temperatures=temperatures, chains=chains)

    def ours(steps: int) -> tuple[Side, float, str, Any]:
        once = lambda key, machine: ais.ais(key, gibbs.path(machine), config)
        program, seconds, flops, bytes_ = compiled(once, jax.random.key(0), machine)
        run = lambda: jax.block_until_ready(program(jax.random.key(0), machine))
        side = Side(run, temperatures, lambda: bytes_, seconds)
        return side, flops, "XLA", program(jax.random.key(0), machine)

    def theirs(found: Any) -> tuple[Callable[[], Any], Callable[[], float]]:
        twin = benchmark.twin_of("Ais", "device_torch")(machine, config)
        step = lambda: twin.log_z()
        step.whole = True  # type: ignore[attr-defined]
        return step, lambda: twin.check(found)

    return Workload(f"AIS, RBM {D}x{H}, {chains} chains", "temperatures", "float32", ours, theirs)


def filtering(tiny: bool) -> Workload:
    """Times of Kalman's filter a second, of many series at once."""
    q, p, T, B = (3, 2, 6, 4) if tiny else (16, 8, 256, 512)
    rng = np.random.default_rng(0)
    of = lambda a: jnp.asarray(a, jnp.float32)
    A = 0.95 * np.linalg.qr(rng.normal(size=(q, q)))[0]
    system = kalman.System(
        *map(of, (A, 0.1 * np.eye(q), rng.normal(size=(p, q)), np.zeros(p), np.eye(p))),
        *map(of, (np.zeros(q), np.eye(q))),
    )
    y = of(rng.normal(size=(B, T, p)))

    def ours(steps: int) -> tuple[Side, float, str, Any]:
        all_ = jax.vmap(kalman.log_prob, (None, 0))
        program, seconds, flops, bytes_ = compiled(all_, system, y)
        run = lambda: jax.block_until_ready(program(system, y))
        return Side(run, T, lambda: bytes_, seconds), flops, "XLA", program(system, y)

    def theirs(found: Any) -> tuple[Callable[[], Any], Callable[[], float]]:
        import device_torch

        twin = device_torch.Kalman(system)
        there = device_torch.tensor(y)
        step = lambda: twin.log_prob(there)
        step.whole = True  # type: ignore[attr-defined]
        return step, lambda: twin.check(found, y)

    return Workload(
        f"Kalman filter, {B} series of {p} numbers, {q} states", "times", "float32", ours, theirs
    )


# ----------------------------------------------------------------------------------- measuring


def measure(
    workload: Workload,
    sides: tuple[str, ...],
    steps: int = 20,
    repeats: int = 5,
    kept: Callable[[dict[str, Any]], Any] = lambda row: None,
) -> dict[str, Any]:
    """One row: seconds a step of each side, and what there is to know of it.

    Args:
      workload: what is measured.
      sides: "ours", and of PyTorch "eager" and "compile".
      steps: at a time.
      repeats: turns of each side.
      kept: is told the row whenever it has become more.
    """
    ours, work, counted, handed = workload.ours(steps)
    most, where = peak(workload.dtype)
    row: dict[str, Any] = {
        **{"title": workload.title, "unit": workload.unit, "dtype": workload.dtype},
        **{"work": work, "counted": counted, "peak": most, "peak_source": where},
        **{"seconds": {}, "compile": {}, "memory": {}, "failed": {}},
    }
    there: dict[str, Side] = {"ours": ours}
    _turns(there, row, repeats)
    kept(row)
    if len(sides) == 1:
        return row
    import torch

    torch.set_float32_matmul_precision("high")
    cuda = jax.default_backend() == "gpu"
    with torch.device("cuda" if cuda else "cpu"):
        for side in sides[1:]:
            if cuda:
                torch.cuda.reset_peak_memory_stats()
            try:
                step, check = workload.theirs(handed)
                if side == "eager" and check is not None:
                    row["disagreement"] = check()
                there[side] = _side(step, ours.steps, side == "compile")
                _turns(there, row, repeats)
            except Exception as error:
                # A side that cannot be measured is told of, and takes nothing from the others.
                there.pop(side, None)
                row["failed"][side] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
                if isinstance(error, ZooError):
                    raise
            kept(row)
    return row


def _side(step: Any, steps: int, compile_it: bool) -> Side:
    """PyTorch's side of a step, or of what is `steps` steps as a whole."""
    import torch

    once = 1 if getattr(step, "whole", False) else steps
    start = time.perf_counter()
    if compile_it:
        twin = getattr(step, "twin", None)
        if twin is None:
            step = torch.compile(step)
        else:
            twin.step = torch.compile(twin.step)
        step()
    side = torch_steps(step, once, time.perf_counter() - start if compile_it else 0.0)
    return side._replace(steps=steps)


def _turns(sides: dict[str, Side], row: dict[str, Any], repeats: int) -> None:
    """All sides in turn, after a warm-up of each."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        side.run()
    for _ in range(repeats):
        for name, side in sides.items():
            times[name].append(benchmark.timed(side.run) / side.steps)
    for name, side in sides.items():
        row["seconds"][name] = statistics.median(times[name])
        row["memory"][name] = side.memory()
        row["compile"][name] = side.compile_seconds


# ------------------------------------------------------------------------- laws, and a real run


def laws(seconds: float, names: tuple[str, ...] = LAWS) -> dict[str, Any]:
    """How many laws of these variants hold on this device, as far as the time reaches."""
    command = [
        *(sys.executable, "-m", "pytest", "tests/test_laws.py", "-v", "-n", "0"),
        *("-p", "no:cacheprovider", "-k", " or ".join(names)),
    ]
    platforms = {} if "JAX_PLATFORMS" in os.environ else {"JAX_PLATFORMS": ""}
    with tempfile.TemporaryFile("w+") as told:
        running = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | platforms, stdout=told, stderr=subprocess.STDOUT
        )
        ended = _wait(running, seconds)
        told.seek(0)
        said = told.read()
    count = lambda word: len(re.findall(rf"^tests/test_laws\S* {word}", said, re.M))
    failed = re.findall(r"^(tests/test_laws\S*) (?:FAILED|ERROR)", said, re.M)
    return {
        **{"held": count("PASSED"), "failed": failed, "ended": ended, "variants": list(names)},
        "trouble": "" if count("PASSED") or failed else said[-2000:],
    }


def _wait(process: subprocess.Popen, seconds: float) -> bool:
    """Whether it ended by itself; otherwise it is asked to end, and has half a minute for it."""
    try:
        process.wait(timeout=max(seconds, 1))
        return True
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return False


def long_run(
    name: str, seconds: float, data_dir: str = "", more: tuple[str, ...] = ()
) -> dict[str, Any]:
    """A run of the README's command, stopped when the time is over; the number it has reached."""
    spec, published, unit = LONG[name]
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "genjax_zoo.main", "train", f"--config=configs/{spec}"),
            *(f"--workdir={folder}/run", *more),
            *([f"--data_dir={data_dir}"] if data_dir else []),
        ]
        with tempfile.TemporaryFile("w+") as told:
            running = subprocess.Popen(command, cwd=ROOT, stdout=told, stderr=subprocess.STDOUT)
            # It saves what it has before it ends.
            ended = _wait(running, seconds - 30)
            told.seek(0)
            trouble = "" if running.returncode == 0 else told.read()[-1000:]
        numbers = pathlib.Path(folder) / "run" / "eval" / "metrics.json"
        entries = json.loads(numbers.read_text()) if numbers.exists() else []
    better = max if published < 0 else min
    found = [entry for entry in entries if isinstance(entry.get("value"), int | float)]
    return {
        **{"config": spec, "published": published, "unit": unit, "ended": ended},
        **{"entries": found, "better": better.__name__, "trouble": trouble},
        **{"seconds": time.perf_counter() - start, "command": " ".join(command[3:])},
    }


# ---------------------------------------------------------------------------------------- page


def bytes_of(number: float | None) -> str:
    """In MB."""
    return "" if not number else f"{number / 1e6:,.0f}"


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The workloads as markdown."""
    lines = [
        "| workload | a second | eager | compile | to eager | to compile | GFLOP, counted by "
        "| of peak | compile, s | MB, ours | MB, eager |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows.values():
        seconds = row["seconds"]
        ours = seconds["ours"]
        rate = lambda side, s=seconds: f"{1 / s[side]:,.4g}" if side in s else ""
        ratio = lambda side, s=seconds: f"**{s[side] / s['ours']:.2f}**" if side in s else ""
        lines.append(
            f"| {row['title']} | {rate('ours')} {row['unit']} | {rate('eager')} | "
            f"{rate('compile')} | {ratio('eager')} | {ratio('compile')} | "
            f"{row['work'] / 1e9:.3g}, {row['counted']} | {row['work'] / ours / row['peak']:.1%} | "
            f"{row['compile']['ours']:.1f} | {bytes_of(row['memory']['ours'])} | "
            f"{bytes_of(row['memory'].get('eager'))} |"
        )
    return "\n".join(lines)


def page(result: dict[str, Any]) -> str:
    """The whole page of results/."""
    parts = [
        f"# The zoo on {result['device']}",
        (
            f"{len(result['rows'])} of {result['asked']} workloads were measured. "
            if result["asked"]
            else ""
        )
        + f"All of it took {result['minutes']:.1f} minutes.",
    ]
    if law := result.get("laws"):
        parts += [
            "## Laws",
            f"{law['held']} laws held and {len(law['failed'])} failed"
            f"{'' if law['ended'] else '; then the time was over'}. Variants: "
            f"{', '.join(name.rstrip(']') for name in law['variants'])}.",
            *(f"- failed: `{name}`" for name in law["failed"]),
            *([f"```\n{law['trouble']}\n```"] if law["trouble"] else []),
        ]
    if rows := result["rows"]:
        peaks = sorted({f"{row['peak'] / 1e12:.4g}e12 ({row['peak_source']})" for row in
                        rows.values()})  # fmt: skip
        parts += [
            "## Speed",
            table(rows),
            "Ratios are PyTorch's time over ours (above 1 we are faster), medians of turns that "
            "interleave. MB of ours is what XLA plans for one step or one whole, of PyTorch the "
            "most that it had allocated.",
            "Peaks, in operations a second: " + "; ".join(peaks) + ".",
            *(
                f"- {row['title']}: {side} was not measured: {why}"
                for row in rows.values()
                for side, why in row["failed"].items()
            ),
        ]
    if missing := result.get("missing"):
        parts.append("Not measured: " + "; ".join(f"{n} ({why})" for n, why in missing.items()))
    if run := result.get("long"):
        parts += [
            "## One long number",
            f"`{run['command']}`, {run['seconds'] / 60:.1f} minutes"
            f"{'' if run['ended'] else ', stopped when the time was over'}; published: "
            f"{run['published']} {run['unit']}.",
            *(
                f"- {e.get('name', e.get('measure', ''))} {e['value']:.4f} {e.get('unit', '')}, "
                f"{e.get('kind', '')}, {e.get('split', '')}, step {e.get('step', '')}"
                for e in run["entries"][-6:]
            ),
            *([f"```\n{run['trouble']}\n```"] if run["trouble"] else []),
        ]
    what = provenance.record()
    versions = ", ".join(f"{k} {v}" for k, v in sorted(benchmark._versions(what).items()))
    parts.append(
        f"- command: `{result['command']}`\n"
        f"- date: {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}, commit "
        f"{what.get('commit')}{' (changed)' if what.get('changed') else ''}\n"
        f"- versions: {versions}"
    )
    return "\n\n".join(parts) + "\n"


# ---------------------------------------------------------------------------------------- main


def speed(
    names: list[str], given: argparse.Namespace, until: float, keep: Callable[..., None]
) -> None:
    """Each workload in a process of its own, which has its share of the time that is left."""
    for place, name in enumerate(names):
        left = until - time.monotonic()
        mine = left / (len(names) - place) * 1.5
        if left < 5:
            keep(name, None, "no time was left")
            continue
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "row.json"
            command = [
                *(sys.executable, __file__, f"--one={name}", f"--row={file}"),
                *(f"--sides={given.sides}", f"--steps={given.steps}"),
                *(f"--repeats={given.repeats}", *(["--tiny"] if given.tiny else [])),
            ]
            with tempfile.TemporaryFile("w+") as told:
                running = subprocess.Popen(command, stdout=told, stderr=subprocess.STDOUT)
                ended = _wait(running, min(mine, left))
                told.seek(0)
                said = told.read().strip().splitlines()
            row = json.loads(file.read_text()) if file.exists() else None
            if row is not None and running.returncode:
                sides = set(given.sides.split(",")) - row["seconds"].keys() - row["failed"].keys()
                why = said[-1] if ended and said else "its time was over"
                row["failed"] |= dict.fromkeys(sorted(sides), why)
            keep(name, row, said[-1] if ended and said else "its time was over")


def main(arguments: list[str] | None = None) -> int:
    """Measures what is asked for; prints the page, and writes it where --out says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default="laws,speed,long", help="which, with commas")
    parser.add_argument("--only", default="", help="names of workloads, with commas")
    parser.add_argument("--long", default="shakespeare_char", choices=LONG, help="which real run")
    parser.add_argument("--data_dir", default="", help="of prepared TFDS sets, for the real run")
    parser.add_argument("--minutes", type=float, default=9.0, help="for all parts together")
    parser.add_argument("--steps", type=int, default=20, help="at a time")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="small sizes, which show that it runs")
    torch_there = importlib.util.find_spec("torch") is not None
    default = "ours,eager,compile" if torch_there else "ours"
    parser.add_argument("--sides", default=default, help="ours, eager, compile")
    parser.add_argument("--out", type=pathlib.Path, default=PAGE)
    parser.add_argument("--one", default="", help=argparse.SUPPRESS)
    parser.add_argument("--row", type=pathlib.Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    known = list(workloads(tiny=True))
    names = given.only.split(",") if given.only else known
    parts = given.parts.split(",")
    for said, of, flag in ((names, known, "--only"), (parts, list(SHARES), "--parts")):
        if wrong := [name for name in said if name not in of]:
            parser.error(f"{flag} knows {', '.join(of)}; got {wrong[0]!r}")
    sides = tuple(given.sides.split(","))
    if sides[0] != "ours" or not set(sides) <= {"ours", "eager", "compile"}:
        parser.error(f"--sides begins with ours, then eager and compile; got {given.sides!r}")
    if not math.isfinite(given.minutes) or given.minutes <= 0 or given.repeats < 1:
        parser.error("--minutes should be above 0, and --repeats at least 1")
    if given.one:
        write = lambda row: files.write(given.row, json.dumps(row))
        measure(workloads(given.tiny)[given.one], sides, given.steps, given.repeats, write)
        return 0
    words = sys.argv[1:] if arguments is None else arguments
    began = time.monotonic()
    until = lambda part: began + SHARES[part] * 60 * given.minutes
    result: dict[str, Any] = {
        **{"device": device(), "rows": {}, "missing": {}, "asked": len(names) * ("speed" in parts)},
        "command": " ".join(["python experiments/device.py", *words]),
    }

    def save() -> str:
        result["minutes"] = (time.monotonic() - began) / 60
        text = page(result)
        files.write(given.out, text)
        return text

    def keep(name: str, row: dict[str, Any] | None, why: str) -> None:
        if row is None:
            result["missing"][name] = why
        else:
            result["rows"][name] = row
        print(name, row["seconds"] if row else why, flush=True)
        save()

    if "laws" in parts:
        result["laws"] = laws(until("laws") - time.monotonic(), LAWS[3:4] if given.tiny else LAWS)
        save()
    if "speed" in parts:
        speed(names, given, until("speed"), keep)
    if "long" in parts:
        tiny = ("--config.steps=4", "--config.data.batch_size=2") if given.tiny else ()
        left = until("long") - time.monotonic()
        result["long"] = long_run(given.long, left, given.data_dir, tiny)
    print(save())
    broken = result.get("laws", {}).get("failed") or result["missing"]
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
