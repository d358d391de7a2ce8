"""What a prediction buys: every sampler of a diffusion model, by how often it asks the network.

The claims, of one trained model and all samplers:
  1. With ten or twenty predictions the deterministic solvers of second order draw better than
     ancestral sampling does with as many.
  2. At twenty predictions the best sampler is as good as ancestral sampling with a thousand, and
     so gives some fifty times as many samples a second.

    python experiments/samplers.py

Quality is the Frechet distance to the held-out digits, seen through the zoo's own classifier, and
on the eight Gaussians the part of the samples within three standard deviations of a mode.
"""

from __future__ import annotations

import argparse
import time

import jax
import numpy as np
import study

from genjax_zoo.data.sources import open_source
from genjax_zoo.measure import distances, extractors, modes
from genjax_zoo.run.config import make_model

ANCESTRAL = "ancestral"
SAMPLERS = {
    # name: (sampler, its fields, predictions a step)
    ANCESTRAL: ("ancestral", {}, 1),
    "ancestral, large variance": ("ancestral", {"variance": "large"}, 1),
    "DDIM": ("ddim", {}, 1),
    "DDIM, η = 1": ("ddim", {"eta": 1.0}, 1),
    "reverse SDE": ("reverse_sde", {}, 1),
    "predictor-corrector": ("predictor_corrector", {}, 2),
    "annealed Langevin": ("annealed_langevin", {}, 1),
    "Euler": ("euler", {}, 1),
    "Heun": ("heun", {}, 2),
    "DPM-Solver++": ("dpm_solver", {}, 1),
}
DETERMINISTIC = ("DPM-Solver++", "Heun")
LANGEVIN = 0.1
"""A step of annealed Langevin, in units of the square of the noise."""


def main(argv=None) -> None:
    """Runs the study and writes its page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budgets", type=int, nargs="+", default=[5, 10, 20, 50, 200, 1000])
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=0, help="of training; the config's if 0")
    parser.add_argument("--seed", type=int, default=0)
    one = study.Study(__file__, parser, argv)
    args = one.args
    if min(args.budgets) < 2 or args.samples < 10 or args.steps < 0:
        parser.error("expected budgets of at least 2, at least 10 samples and no negative steps")

    numbers: dict[str, dict] = {}
    for data in ("digits", "toy"):
        changed = {"seed": args.seed, **({"steps": args.steps} if args.steps else {})}
        run = study.run("diffusion", data, **changed)
        source = open_source(run.data, run.seed)
        _, state = study.learn(run, source)
        quality = _quality(source)
        numbers[data] = {}
        for name, (sampler, fields, cost) in SAMPLERS.items():
            for budget in args.budgets:
                if budget < 2 * cost:
                    continue
                # The last prediction takes away what noise is left.
                steps = (budget - 1) // cost
                own = {f"model__sampling__{k}": v for k, v in fields.items()}
                own |= {"model__sampling__name": sampler, "model__sampling__steps": steps}
                own["model__sampling__grid"] = "even_in_log_snr"
                if sampler == "annealed_langevin":
                    own["model__sampling__rate"] = LANGEVIN * _last_noise(run) ** 2
                drawer = make_model(study.run("diffusion", data, **own))
                draw = jax.jit(drawer.sample, static_argnums=2)
                key = jax.random.key(args.seed + 1)
                x = np.asarray(draw(key, state, args.samples)["x"])
                began = time.perf_counter()
                jax.block_until_ready(draw(key, state, args.samples))
                seconds = time.perf_counter() - began
                found = {**quality(x), "samples a second": args.samples / seconds}
                numbers[data][f"{name} {budget}"] = found
                print(data, name, budget, found, flush=True)
    one.write(_page(one, numbers), _figure(one, numbers), numbers)


def _last_noise(run) -> float:
    from genjax_zoo.maths.diffusion import sde

    process = sde.make(run.model.get("process", "variance_preserving"))()
    return float(process.sigma(np.float32(process.start)))


def _quality(source):
    """x -> what it is worth."""
    if source.density is not None:

        def of_modes(x: np.ndarray) -> dict[str, float]:
            found = modes.coverage(x, source.density)
            return {
                "high quality": 100 * float(found.high_quality),
                "modes": float(found.covered),
            }

        return of_modes
    held = source.held_out(jax.random.key(0), 0, source.held_out_size)
    extractor = extractors.for_data(source.name, held["x"].shape[1:])
    assert extractor is not None
    seen = lambda x: extractor.features(extractors.to_unit(x, source.interval))
    real = seen(held["x"])

    def of_images(x: np.ndarray) -> dict[str, float]:
        if not np.isfinite(x).all():
            return {"Frechet": float("inf"), "low": float("inf"), "high": float("inf")}
        found = distances.frechet_distance(real, seen(x), draws=100)
        return {"Frechet": found.value, "low": found.low, "high": found.high}

    return of_images


def _cell(found: dict | None, what: str) -> str:
    return "" if found is None else f"{found[what]:.1f}"


def _page(one, numbers) -> list[str]:
    budgets = one.args.budgets
    tables = [
        study.table(
            ["sampler", *(f"{b}" for b in budgets)],
            [[n, *(_cell(numbers[d].get(f"{n} {b}"), what) for b in budgets)] for n in SAMPLERS],
        )
        for d, what in (("digits", "Frechet"), ("toy", "high quality"))
    ]
    digits = numbers["digits"]
    sentences = []
    for budget in (10, 20):
        if budget in budgets:
            best = min((digits[f"{n} {budget}"]["Frechet"], n) for n in DETERMINISTIC)
            ours = digits[f"{ANCESTRAL} {budget}"]["Frechet"]
            sentences.append(
                f"With {budget} predictions {best[1]} is at {best[0]:.1f} and ancestral sampling "
                f"at {ours:.1f}: the first claim {'holds' if best[0] < ours else 'does not hold'}."
            )
    most = max(budgets)
    if 20 in budgets and most >= 1000:
        at = {n: digits[f"{n} 20"] for n in SAMPLERS if f"{n} 20" in digits}
        name = min(at, key=lambda n: at[n]["Frechet"])
        slow = digits[f"{ANCESTRAL} {most}"]
        holds = at[name]["low"] <= slow["high"]
        sentences.append(
            f"Of 20 predictions the best is {name}, {at[name]['Frechet']:.1f} "
            f"[{at[name]['low']:.1f}, {at[name]['high']:.1f}], against {slow['Frechet']:.1f} "
            f"[{slow['low']:.1f}, {slow['high']:.1f}] of ancestral sampling with {most}: "
            f"{'as good' if holds else 'not as good'}, and "
            f"{at[name]['samples a second'] / slow['samples a second']:.0f} times as many samples "
            f"a second ({at[name]['samples a second']:.0f} against "
            f"{slow['samples a second']:.0f}). The second claim "
            f"{'holds' if holds else 'does not hold'}."
        )
    return [
        "# What a prediction buys: every sampler by its budget",
        one.picture("Quality of every sampler over the number of predictions, digits and toy."),
        "Frechet distance to the 359 held-out digits (lower is better), by the number of "
        "predictions of the network for a sample, guidance and the last clean-up included:",
        tables[0],
        "Percent of samples of high quality on the eight Gaussians (perfect samples: 98.9):",
        tables[1],
        " ".join(sentences),
        f"One model each, the configs' own; {one.args.samples} samples a cell; all samplers go "
        "down times that are even in log SNR, and annealed Langevin takes steps of "
        f"{LANGEVIN} σ².",
        one.closing(str(one.args.seed)),
    ]


def _figure(one, numbers):
    pyplot = one.pyplot()
    figure, axes = pyplot.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    colours = pyplot.get_cmap("tab10").colors
    for axis, (data, what) in zip(
        axes, (("digits", "Frechet"), ("toy", "high quality")), strict=True
    ):
        for name, colour in zip(SAMPLERS, colours, strict=False):
            points = [
                (b, numbers[data][f"{name} {b}"][what])
                for b in one.args.budgets
                if f"{name} {b}" in numbers[data]
            ]
            axis.plot(*zip(*points, strict=True), "o-", color=colour, label=name, markersize=3)
        axis.set(xscale="log", xlabel="predictions a sample", title=data)
    axes[0].set(yscale="log", ylabel="Frechet distance")
    axes[1].set(ylabel="% of high quality")
    axes[1].legend(fontsize=8)
    return figure


if __name__ == "__main__":
    main()
