"""Claim: shown packs, or held by a gradient penalty, a GAN keeps more modes of the data.

A GAN, WGAN-GP, and PacGAN whose discriminator is shown two or four examples at once, on data whose
modes can be counted: 8 Gaussians on a ring, 25 on a grid (Lin et al. 2018, section 4.1), and MNIST
stacked three digits high, of 1000 classes (section 4.2). For each of the data the page says
whether PacGAN2 has more modes than the GAN, and whether the 95 % intervals over seeds are apart.

    python experiments/mode_collapse.py --only=ring,grid
    python experiments/mode_collapse.py --only=stacked --data-dir=FOLDER_OF_TFDS
    python experiments/mode_collapse.py --only=ring,grid --full      the published size, for a GPU

The parts may run apart, one after another: each is kept in results/mode_collapse.json, and the
page and the picture are made again of all that is there.
"""

from __future__ import annotations

import argparse
import base64
import concurrent.futures
import functools
import io
import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
import study
from PIL import Image

from genjax_zoo.data import densities
from genjax_zoo.data.sources import open_source
from genjax_zoo.measure import extractors, modes
from genjax_zoo.run import config as configs
from genjax_zoo.run.record import pictures

COLOURS = {
    "GAN": study.RED,
    "WGAN-GP": study.ORANGE,
    "PacGAN2": study.BLUE,
    "PacGAN4": study.GREEN,
}
PLANE = {"ring": ("the ring", 8), "grid": ("the grid", 25)}
STACKED = ("stacked MNIST", 1000)
DRAWN = 2500  # samples a measurement on the plane
DRAWN_STACKED = 26_000
SHOWN = 800  # of the samples, in the picture
CRITIC = 5  # moves of WGAN-GP's critic for one of its generator
STEPS_STACKED = 1000  # but of the published size
MEASUREMENTS = 40  # measurements in a run on the plane

# Gulrajani et al. 2017, algorithm 1. The step of this game is five batches, not one.
_WGAN_GP = {
    "model__objective__name": "wasserstein",
    "model__objective__gradient": 10.0,
    "model__dynamics__name": "alternating",
    "model__dynamics__k": CRITIC,
    "optimizer__b1": 0.5,
    "optimizer__b2": 0.9,
}
METHODS: dict[str, dict[str, Any]] = {
    "GAN": {},
    "WGAN-GP": _WGAN_GP,
    "PacGAN2": {"model__objective__pack": 2},
    "PacGAN4": {"model__objective__pack": 4},
}
OF_STACKED = ("GAN", "PacGAN2")


class Size(NamedTuple):
    """How large the games on the plane are.

    Attributes:
      generator, discriminator: width of the four, and of the three hidden layers.
      rate: of Adam.
      steps: moves of the generator; of WGAN-GP's, a `CRITIC`-th of it.
    """

    generator: int
    discriminator: int
    rate: float
    steps: int


SMALL = Size(100, 50, 1e-3, 20_000)
FULL = Size(400, 200, 1e-4, 400_000)
CHOSEN = (
    "The published game costs 400,000 steps of networks four times as wide. The small one was "
    "chosen by the GAN alone, on seed 0, before any other method was run: after 20,000 steps at "
    "the published rate of 1e-4 it is hardly trained (8 modes and 60 % of high quality on the "
    "ring, 23 modes and 8 % on the grid), and at 1e-3 it has lost about as many modes as the "
    "published one (7 modes and 84 %; 16 modes and 27 %)."
)


def changed(method: str, batch: int) -> dict[str, Any]:
    """The fields that make a GAN's config that of another method."""
    fields = METHODS[method]
    return {**fields, "data__batch_size": moves(method) * batch}


def moves(method: str) -> int:
    """Batches in a step of the method."""
    return METHODS[method].get("model__dynamics__k", 1)


# ----------------------------------------------------------------------------------- the plane


def on_plane(
    data: str, method: str, size: Size, args: argparse.Namespace
) -> tuple[dict[str, Any], configs.Run]:
    """One method on one density, all seeds.

    Returns arrays whose leading axes are [measurement, seed], `covered`, `high_quality` and
    `reverse_kl`, and `x`, some samples of seed 0 at the end [SHOWN, 2]. Besides, the config.
    """
    run = study.run(
        "gan",
        data,
        model__generator__widths=4 * (size.generator,),
        model__discriminator__widths=3 * (size.discriminator,),
        optimizer__learning_rate=size.rate,
        steps=size.steps // moves(method),
        **changed(method, 100),
    )
    model, batch_size = configs.make_model(run), run.data.batch_size
    density, every = densities.make(data), run.steps // MEASUREMENTS
    batch = lambda key: {"x": density.sample(key, batch_size)}

    def begin(root):
        key_init, key_batch = jax.random.split(jax.random.fold_in(root, 0))
        return model.init(key_init, batch(key_batch))

    def step(root, state, i):
        key_step, key_batch = jax.random.split(jax.random.fold_in(root, i))
        return model.step(key_step, state, batch(key_batch))[0]

    def measure(root, state):
        x = model.sample(jax.random.fold_in(root, 2**31 - 1), state, DRAWN)["x"]
        return {**modes.coverage(x, density)._asdict(), "x": x[:SHOWN]}

    # All seeds of a group learn side by side in one compiled loop.
    @functools.partial(jax.jit, donate_argnums=1)
    def go_on(roots, states, first):
        all_seeds = lambda states, i: (
            jax.vmap(step, in_axes=(0, 0, None))(roots, states, i),
            None,
        )
        return jax.lax.scan(all_seeds, states, first + jnp.arange(every))[0]

    begin_all, measure_all = jax.jit(jax.vmap(begin)), jax.jit(jax.vmap(measure))

    def whole(seeds: Sequence[int]) -> list[dict[str, np.ndarray]]:
        roots = jax.vmap(jax.random.key)(jnp.asarray(seeds))
        states = begin_all(roots)
        found = [jax.device_get(measure_all(roots, states))]
        for first in range(0, run.steps, every):
            states = go_on(roots, states, jnp.int32(1 + first))
            found.append(jax.device_get(measure_all(roots, states)))
        print(f"{data}, {method}, seeds {list(seeds)}: {found[-1]['covered']} modes", flush=True)
        return found

    # One group for each core: measured on two busy ones, five seeds in a compiled loop cost 0.71 ms
    # a step and seed, each seed in a loop of its own 0.91; one thread alone 0.92 and 1.12.
    threads = 1 if args.full else len(os.sched_getaffinity(0))
    together = args.together or -(-args.seeds // threads)
    groups = [
        range(first, min(first + together, args.seeds)) for first in range(0, args.seeds, together)
    ]
    # Compiled before the threads begin, which would each do it again.
    roots = jax.vmap(jax.random.key)(jnp.asarray(groups[0]))
    measure_all(roots, go_on(roots, begin_all(roots), jnp.int32(1)))
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        each = list(pool.map(whole, groups))
    measured = {
        name: np.concatenate([np.stack([f[name] for f in found]) for found in each], axis=1)
        for name in ("covered", "high_quality", "reverse_kl")
    }
    return {**measured, "x": each[0][-1]["x"][0]}, run


def plane(data: str, args: argparse.Namespace) -> dict[str, Any]:
    """All methods on one density."""
    size = FULL if args.full else SMALL
    size = size._replace(steps=args.steps or size.steps)
    methods, source = {}, ""
    for method in METHODS:
        methods[method], run = on_plane(data, method, size, args)
        source = run.data.source
    density = densities.make(data)
    assert density.sigma is not None
    return {
        "methods": methods,
        "batches": size.steps,
        "full": bool(args.full),
        "protocol": (
            f"{source} (sigma {density.sigma:g}), drawn afresh for every batch of 100; generator "
            f"of four layers of {size.generator} (ReLU, batch norm), z ~ N(0, I) of 2 dimensions; "
            f"discriminator three maxout layers of {size.discriminator} (5 pieces); "
            f"non-saturating loss, players in turn, Adam {size.rate:g} (b1 .8), {size.steps:,} "
            f"steps (configs/gan.py:{data}). A pack takes its examples from the batch, so PacGAN2 "
            f"sees 50 packs. WGAN-GP: penalty of weight 10, Adam b1 .5, b2 .9, {CRITIC} moves of "
            "the critic, each on a batch of 100 of its own, for one of the generator: it sees as "
            f"much data as the others, in {size.steps // CRITIC:,} steps. Measured at the end, on "
            f"{DRAWN} samples: a mode is covered by at least one sample within 3 sigma of its "
            f"centre; of high quality are samples so near (perfect ones: {100 * modes.PERFECT:.3f} "
            "%); the reverse KL counts every sample at its nearest centre."
        ),
    }


# ------------------------------------------------------------------------------- stacked MNIST


def on_stacked(method: str, steps: int, args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """One method on stacked MNIST, all seeds.

    Returns `covered` and `reverse_kl` [measurement, seed], and `png`, samples of seed 0 at the end.
    Besides, the data in words.
    """
    run = study.run("gan", "stacked_mnist", steps=steps, **changed(method, 64))
    model, extractor = configs.make_model(run), extractors.bundled("mnist")
    measured: dict[str, list] = {"covered": [], "reverse_kl": []}
    made = b""
    for seed in range(args.seeds_stacked):
        source = open_source(run.data, seed, args.data_dir or None)
        root = jax.random.key(seed)

        @functools.partial(jax.jit, donate_argnums=0)
        def go_on(state, root, resident, first, fed, source=source):
            def one(state, step_and_feed):
                step, feed = step_and_feed
                key_data, key_step = jax.random.split(jax.random.fold_in(root, step))
                return model.step(key_step, state, source.batch(key_data, resident, feed))[0], None

            return jax.lax.scan(one, state, (first + jnp.arange(run.steps_per_call), fed))[0]

        draw = jax.jit(lambda key, state: model.sample(key, state, 1000)["x"])
        resident, rows = jax.device_put(source.resident), slice(0, run.data.batch_size)
        key_init, key_batch = jax.random.split(jax.random.fold_in(root, 2**32 - 1))
        state = model.init(key_init, source.batch(key_batch, resident, source.feed(0, rows)))
        measurements: list[modes.Classes] = []
        for first in range(0, steps, run.steps_per_call):
            fed = [source.feed(step, rows) for step in range(first, first + run.steps_per_call)]
            stacked = jax.tree.map(lambda *xs: np.stack(xs), *fed)
            state = go_on(state, root, resident, jnp.int32(first), stacked)
            if (first + run.steps_per_call) % (steps // args.measurements_stacked) == 0:
                keys = jax.random.split(jax.random.fold_in(root, 2**32 - 2), DRAWN_STACKED // 1000)
                parts = [np.asarray(draw(key, state)) for key in keys]
                label = np.concatenate([modes.stacked(part, extractor) for part in parts])
                measurements.append(modes.classes(label, STACKED[1]))
                print(f"stacked, {method}, seed {seed}: {measurements[-1]}", flush=True)
        measured["covered"].append([each.covered for each in measurements])
        measured["reverse_kl"].append([each.reverse_kl for each in measurements])
        made = made or _png(parts[0][:25])
    arrays = {name: np.array(value).T for name, value in measured.items()}
    return {**arrays, "png": base64.b64encode(made).decode()}, source.preprocessing


def _png(x: np.ndarray) -> bytes:
    """Images [n, H, W, 3] in [0, 1], laid out, as a file."""
    held = io.BytesIO()
    Image.fromarray(pictures.grid(x)).save(held, "PNG")
    return held.getvalue()


def stacked(args: argparse.Namespace) -> dict[str, Any]:
    """Both methods on stacked MNIST."""
    run = study.run("gan", "stacked_mnist")
    steps = args.steps or (run.steps if args.full else STEPS_STACKED)
    methods, source = {}, ""
    for method in OF_STACKED:
        methods[method], source = on_stacked(method, steps, args)
    channels = run.model["generator"]["widths"]
    return {
        "methods": methods,
        "batches": steps,
        "full": bool(args.full),
        "protocol": (
            f"{source}; DCGAN of {' and '.join(map(str, channels))} channels, batch norm in both "
            f"players, z ~ N(0, I) of {run.model['latents']} dimensions, batch "
            f"{run.data.batch_size}, Adam {run.optimizer.learning_rate:g} (b1 "
            f"{run.optimizer.b1:g}), {steps:,} steps (configs/gan.py:stacked_mnist). "
            f"{DRAWN_STACKED:,} samples; the digit in each channel is told by the extractor "
            f"'mnist', sha256 {extractors.bundled('mnist').sha256[:12]}, and the KL is that of the "
            "samples' classes from the uniform."
        ),
    }


# --------------------------------------------------------------------------------- the verdict


class Summary(NamedTuple):
    """What the seeds say of one number.

    Attributes:
      mean: over the seeds.
      error: its standard error.
      low, high: the 95 % interval by Student's t.
    """

    mean: float
    error: float
    low: float
    high: float


def summary(values: Sequence[float] | np.ndarray) -> Summary:
    """Of the values of all seeds; of one seed alone nothing is known but the value."""
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return Summary(mean, np.nan, -np.inf, np.inf)
    error = float(np.std(values, ddof=1)) / n**0.5
    half = float(scipy.stats.t.ppf(0.975, n - 1)) * error
    return Summary(mean, error, mean - half, mean + half)


def of(part: Mapping[str, Any], method: str, name: str) -> Summary:
    """Of one of a part's numbers, at the end."""
    return summary(part["methods"][method][name][-1])


def verdict(part: Mapping[str, Any], where: str, K: int, method: str) -> str:
    """Whether a method has more modes than the GAN, in a sentence."""
    ours, base = of(part, method, "covered"), of(part, "GAN", "covered")
    sign = int(np.sign(ours.mean - base.mean))
    order = {1: "more modes than", 0: "as many modes as", -1: "FEWER modes than"}[sign]
    apart = ours.low > base.high or ours.high < base.low
    return (
        f"On {where} {method} has {order} the GAN, {_digits(ours.mean, K)} against "
        f"{_digits(base.mean, K)} of {K} in the mean, and the 95 % intervals "
        f"{'are apart' if apart else 'are not apart'} ({_interval(ours, K)}; "
        f"{_interval(base, K)}).{_caution(part, method)}"
    )


def _caution(part: Mapping[str, Any], method: str) -> str:
    """Where so few samples lie on any mode that a count of modes hardly compares."""
    if "high_quality" not in part["methods"]["GAN"]:
        return ""
    ours, base = (100 * of(part, name, "high_quality").mean for name in (method, "GAN"))
    if ours >= base / 2:
        return ""
    kl, gan = (of(part, name, "reverse_kl").mean for name in (method, "GAN"))
    return (
        f" But only {ours:.0f} % of its samples are of high quality ({base:.0f} % of the GAN's): "
        "at this length it has not come near the modes, and its count says little; by its reverse "
        f"KL, {kl:.2f} against {gan:.2f}, its samples lie {'more' if kl < gan else 'less'} evenly "
        "about them."
    )


def _digits(x: float, K: int = 0) -> str:
    return f"{x:.0f}" if STACKED[1] == K else f"{x:.1f}"


def _interval(value: Summary, K: int) -> str:
    if not np.isfinite(value.low):
        return "one seed: none"
    return f"{_digits(value.low, K)} to {_digits(value.high, K)}"


# ------------------------------------------------------------------------------------ the page


def page(parts: Mapping[str, Any], run: study.Study) -> list[str]:
    """The results page, of all parts there are."""
    published = json.loads((study.ROOT / "third_party/published/gan.json").read_text())
    where = {name: about(name) for name in parts}
    verdicts = [
        " ".join(
            verdict(part, *where[name], method) for method in part["methods"] if method != "GAN"
        )
        for name, part in parts.items()
    ]
    lines = [
        "# Mode collapse",
        *verdicts,
        run.picture("Samples of every method, and modes over time"),
        "On the left the samples of seed 0 at the end, the modes of the plane as grey circles; on "
        "the right the modes covered while learning, every seed as a thin line, the median as a "
        "thick one, against the batches of data seen.",
    ]
    if any(name in PLANE and part["batches"] == SMALL.steps for name, part in parts.items()):
        lines.append(CHOSEN)
    for name, part in parts.items():
        K = where[name][1]
        entries = {e["method"]: e for e in published if e.get("data") == name}
        lines += [
            f"## {where[name][0].removeprefix('the ').capitalize()}",
            _table(part, K, entries),
            f"Protocol: {part['protocol']}",
            f"Published: {next(iter(entries.values()))['source']}; their ± as printed; "
            f"{next(iter(entries.values()))['protocol']}.",
            part["how"],
        ]
    return lines


def about(name: str) -> tuple[str, int]:
    """What a part's data are called, and how many modes they have."""
    return PLANE.get(name, STACKED)


def _table(part: Mapping[str, Any], K: int, published: Mapping[str, Any]) -> str:
    clean = "high_quality" in part["methods"]["GAN"]
    rows = []
    for method, measured in part["methods"].items():
        covered = of(part, method, "covered")
        theirs = published.get(method, {})
        row = [
            method,
            _plus_minus(covered, K),
            _interval(covered, K),
            f"{min(measured['covered'][-1])} to {max(measured['covered'][-1])}",
        ]
        if clean:
            row.append(_plus_minus(summary(100 * np.asarray(measured["high_quality"][-1]))))
        kl = of(part, method, "reverse_kl")
        row.append(f"{kl.mean:.2f} ± {kl.error:.2f}")
        spread = f" ± {theirs['plus_minus']}" if "plus_minus" in theirs else ""
        row.append(f"{theirs['value']:g}{spread}" if theirs else "-")
        row.append(f"{theirs['high_quality' if clean else 'kl']:g}" if theirs else "-")
        rows.append(row)
    quality = ["high quality, %"] if clean else []
    return study.table(
        ["method", f"modes of {K}", "95 %", "least to most", *quality, "reverse KL, nats",
         "published: modes", "high quality, %" if clean else "KL"],
        rows,
    )  # fmt: skip


def _plus_minus(value: Summary, K: int = 0) -> str:
    return f"{_digits(value.mean, K)} ± {value.error:.1f}"


def draw(parts: Mapping[str, Any], plt: Any) -> Any:
    """For each part: samples of every method, and modes over time."""
    figure = plt.figure(figsize=(14, 2.9 * len(parts)), layout="constrained")
    rows = np.atleast_1d(figure.subfigures(len(parts), 1))
    for row, (name, part) in zip(rows, parts.items(), strict=True):
        where, K = about(name)
        methods = part["methods"]
        *panels, line = row.subplots(1, 1 + len(METHODS), width_ratios=[*([1] * len(METHODS)), 1.5])
        for axis in panels:
            axis.set(xticks=[], yticks=[])
            for side in axis.spines.values():
                side.set(visible=name in PLANE, color="0.8")
        for axis in panels[len(methods) :]:
            axis.set_axis_off()
        for axis, (method, measured) in zip(panels, methods.items(), strict=False):
            axis.set_title(f"{where.removeprefix('the ')}, {method}", color=COLOURS[method])
            if name in PLANE:
                _scatter(axis, name, measured["x"], COLOURS[method])
            else:
                axis.imshow(Image.open(io.BytesIO(base64.b64decode(measured["png"]))))
        for method, measured in methods.items():
            covered = np.asarray(measured["covered"])
            # On the plane the first measurement is that of the start.
            first = 0 if name in PLANE else 1
            seen = np.arange(first, first + len(covered)) / (len(covered) - 1 + first)
            thousands = part["batches"] * seen / 1000
            line.plot(thousands, covered, color=COLOURS[method], linewidth=0.5, alpha=0.25)
            line.plot(thousands, np.median(covered, 1), color=COLOURS[method], label=method)
        line.set(xlabel="thousand batches of data", title=f"modes covered, of {K}")
        line.set(ylim=(0, 1.04 * K), xlim=(0, None))
        line.legend(loc="lower right", fontsize=8, frameon=True, framealpha=0.8, edgecolor="none")
    return figure


def _scatter(axis: Any, name: str, x: Any, colour: str) -> None:
    centres = np.asarray(densities.make(name).centres)
    edge = 1.25 * np.abs(centres).max()
    axis.scatter(*centres.T, s=50, facecolors="none", edgecolors="0.7", linewidths=0.8)
    axis.scatter(*np.asarray(x).T, s=2, color=colour, alpha=0.4, linewidths=0)
    axis.set(xlim=(-edge, edge), ylim=(-edge, edge), aspect="equal")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the parts asked for, and writes the page of all there are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = lambda text: text.split(",")
    everything = [*PLANE, "stacked"]
    parser.add_argument("--only", type=names, default=everything, help="which parts, by commas")
    parser.add_argument("--seeds", type=int, default=10, help="on the plane")
    parser.add_argument("--seeds-stacked", type=int, default=3)
    parser.add_argument("--measurements-stacked", type=int, default=5, help="measurements in a run")
    parser.add_argument("--steps", type=int, default=0, help="0: as the page says")
    parser.add_argument("--together", type=int, default=0, help="seeds in a loop; 0: auto")
    parser.add_argument("--full", nargs="?", const="yes", default="", help="the published size")
    parser.add_argument("--data-dir", default="", help="where tfds:mnist is prepared")
    run = study.Study(__file__, parser, argv)
    args = run.args
    if unknown := set(args.only) - set(everything):
        parser.error(f"--only knows {', '.join(everything)}, got {', '.join(unknown)}.")
    if args.steps % (MEASUREMENTS * CRITIC):
        parser.error(f"--steps should be a multiple of {MEASUREMENTS * CRITIC}, got {args.steps}.")

    calls = args.measurements_stacked * study.run("gan", "stacked_mnist").steps_per_call
    if "stacked" in args.only and (args.steps or STEPS_STACKED) % calls:
        parser.error(f"--steps of stacked MNIST should be a multiple of {calls}.")

    held = args.out / f"{run.name}.json"
    parts = json.loads(held.read_text()) if held.exists() else {}
    for name in args.only:
        began = time.time()
        part = plane(name, args) if name in PLANE else stacked(args)
        seeds = args.seeds if name in PLANE else args.seeds_stacked
        minutes = (time.time() - began) / 60
        part["how"] = run.closing(f"0 to {seeds - 1}", {name: minutes})
        parts[name] = json.loads(json.dumps(part, default=study._plain))
        parts = {each: parts[each] for each in everything if each in parts}
        # Written after each part: a later one that fails takes nothing with it.
        run.write(page(parts, run), draw(parts, run.pyplot()), parts)


if __name__ == "__main__":
    main()
