"""Good likelihood with bad samples, and the reverse.

The claim (Theis, van den Oord & Bethge, A note on the evaluation of generative models, 2016): how
probable held-out data are and how good samples look say little of each other. On the digits:
  1. Of a VAE, a flow, a diffusion and a GAN the order by bits/dim is not that by Frechet distance.
  2. A hundredth of the flow in 99 parts of uniform noise loses at most log 100 nats, .104 bits/dim,
     and nearly all of its samples are noise.
  3. The training images themselves, drawn again, are better samples than any model's, and give
     held-out images no probability at all.

    python experiments/likelihood_against_quality.py
"""

from __future__ import annotations

import argparse
import math

import jax
import jax.numpy as jnp
import numpy as np
import study

from genjax_zoo.data.sources import open_source
from genjax_zoo.measure import distances, examples, extractors
from genjax_zoo.run.record import pictures

MODELS = {
    # name: (family, variant, the number that says its bits/dim)
    "VAE": ("vae", "digits_grey", "bits"),
    "flow": ("flow", "digits", "bits_per_dim"),
    "diffusion": ("diffusion", "digits", "bits_per_dim"),
    "GAN": ("gan", "digits", None),
}
PART = 0.01
"""Of the flow in the mixture."""


def main(argv=None) -> None:
    """Runs the study and writes its page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=0, help="of training; the configs' if 0")
    parser.add_argument("--seed", type=int, default=0)
    one = study.Study(__file__, parser, argv)
    args = one.args
    if args.samples < 20 or args.steps < 0:
        parser.error("expected at least 20 samples and no negative steps")

    rows: dict[str, dict] = {}
    drawn: dict[str, np.ndarray] = {}
    for name, (family, variant, number) in MODELS.items():
        changed = {"seed": args.seed, **({"steps": args.steps} if args.steps else {})}
        run = study.run(family, variant, **changed)
        source = open_source(run.data, run.seed)
        model, state = study.learn(run, source)
        key = jax.random.key(args.seed + 1)
        draw = jax.jit(model.sample, static_argnums=2)
        x = extractors.to_unit(draw(key, state, args.samples)["x"], source.interval)
        rows[name] = {"bits": None, "kind": "none", **_quality(x, source)}
        drawn[name] = x
        if number is not None:
            found = {
                result.name: result
                for result in examples.evaluate(model, state, source, key, run.steps)
            }[number]
            rows[name] |= {
                "bits": found.value,
                "error": found.standard_error,
                "kind": found.kind,
                "preprocessing": found.preprocessing,
            }
        if name == "flow":
            rows["flow in noise"], drawn["flow in noise"] = _in_noise(model, state, source, key, x)
            rows["training images"], drawn["training images"] = _memory(source, args.samples)
        print(name, rows[name], flush=True)
    one.write(_page(one, rows), _figure(one, rows, drawn), rows)


def _quality(x: np.ndarray, source) -> dict[str, float]:
    """Of samples x in [0, 1], against all held-out images."""
    extractor = extractors.for_data("digits", x.shape[1:])
    assert extractor is not None
    held = source.held_out(jax.random.key(0), 0, source.held_out_size)["x"]
    real, fake = (extractor.features(i) for i in (extractors.to_unit(held, source.interval), x))
    frechet = distances.frechet_distance(real, fake, draws=100)
    precision, recall = distances.precision_recall(real, fake, draws=50)
    return {
        "Frechet": frechet.value,
        "low": frechet.low,
        "high": frechet.high,
        "precision": 100 * precision.value,
        "recall": 100 * recall.value,
    }


def _in_noise(model, state, source, key, x: np.ndarray) -> tuple[dict, np.ndarray]:
    """.01 p(x) + .99 u(x), u uniform on the cube where the data lie."""
    batch = source.held_out(jax.random.key(0), 0, source.held_out_size)
    log_p = jax.jit(model.log_prob)(key, state, batch)
    low, high = source.interval
    dims = batch["x"][0].size
    log_u = -dims * math.log(high - low)
    mixed = jnp.logaddexp(math.log(PART) + log_p, math.log(1 - PART) + log_u)
    bits = -(float(mixed.mean()) / dims + math.log(source.level)) / math.log(2)
    alone = -(float(log_p.mean()) / dims + math.log(source.level)) / math.log(2)
    rng = np.random.default_rng(0)
    noise = rng.uniform(size=x.shape).astype(np.float32)
    samples = np.where(rng.uniform(size=(len(x), 1, 1, 1)) < PART, x, noise)
    return (
        {"bits": bits, "lost": bits - alone, "kind": "lower_bound", **_quality(samples, source)},
        samples,
    )


def _memory(source, n: int) -> tuple[dict, np.ndarray]:
    """Training images, drawn with replacement: a model of points has no density elsewhere."""
    x = source.training(jax.random.key(3), 0, source.size)["x"]
    rows = np.random.default_rng(0).integers(0, source.size, n)
    samples = extractors.to_unit(x, source.interval)[rows]
    return {"bits": math.inf, "kind": "exact", **_quality(samples, source)}, samples


def _page(one, rows) -> list[str]:
    def bits(row: dict) -> str:
        if row["bits"] is None:
            return "none"
        error = f" ± {row['error']:.3f}" if "error" in row else ""
        return "∞" if math.isinf(row["bits"]) else f"{row['bits']:.3f}{error} ({row['kind']})"

    order = sorted(rows, key=lambda n: rows[n]["Frechet"])
    models = [n for n in MODELS if rows[n]["bits"] is not None]
    by_bits = sorted(models, key=lambda n: rows[n]["bits"])
    by_frechet = sorted(models, key=lambda n: rows[n]["Frechet"])
    lost = rows["flow in noise"]["lost"]
    most = math.log2(1 / PART) / 64
    memory = rows["training images"]["Frechet"]
    best = min(rows[n]["Frechet"] for n in MODELS)
    hidden = rows["flow in noise"]["Frechet"] > 2 * rows["flow"]["Frechet"]
    says = lambda holds: "holds" if holds else "does not hold"
    return [
        "# Good likelihood with bad samples, and the reverse",
        one.picture("Bits/dim against Frechet distance, and samples of every model."),
        study.table(
            ["model", "bits/dim", "Frechet distance", "precision, %", "recall, %"],
            [
                [
                    n,
                    bits(rows[n]),
                    f"{rows[n]['Frechet']:.1f} [{rows[n]['low']:.1f}, {rows[n]['high']:.1f}]",
                    f"{rows[n]['precision']:.0f}",
                    f"{rows[n]['recall']:.0f}",
                ]
                for n in order
            ],
        ),
        f"By bits/dim: {', '.join(by_bits)}. By Frechet distance: {', '.join(by_frechet)}, and the "
        f"GAN, which has no likelihood, is at {rows['GAN']['Frechet']:.1f}. Claim 1 "
        f"{says(by_bits != by_frechet)}.",
        f"The flow in noise loses {lost:.3f} bits/dim (at most {most:.3f}), and its samples go "
        f"from {rows['flow']['Frechet']:.1f} to {rows['flow in noise']['Frechet']:.1f}. Claim 2 "
        f"{says(lost <= most + 1e-6 and hidden)}.",
        f"Training images are at {memory:.1f}, the best model at {best:.1f}. Claim 3 "
        f"{says(memory < best)}.",
        "Bits/dim of the 17 grey levels of the 359 held-out digits: the VAE's by its bound on the "
        "levels themselves, the flow's and the diffusion's by the density of uniformly "
        "dequantised ones, the diffusion's by the probability-flow ODE; the VAE and the diffusion "
        "are told the label. Quality is that of the zoo's classifier of digits, "
        f"{one.args.samples} samples against all held-out digits.",
        one.closing(str(one.args.seed)),
    ]


def _figure(one, rows, drawn):
    pyplot = one.pyplot()
    figure, axes = pyplot.subplots(
        1, 2, figsize=(12, 4.5), layout="constrained", width_ratios=(1, 1.2)
    )
    for name, row in rows.items():
        if row["bits"] is not None and math.isfinite(row["bits"]):
            axes[0].plot(row["bits"], row["Frechet"], "o", color=study.BLUE)
            axes[0].annotate(f" {name}", (row["bits"], row["Frechet"]))
        else:
            axes[0].axhline(row["Frechet"], color="0.8", zorder=0)
            axes[0].annotate(
                f"{name} ({'no likelihood' if row['bits'] is None else '∞ bits/dim'})",
                (0.02, row["Frechet"]),
                xycoords=("axes fraction", "data"),
                va="bottom",
                fontsize=8,
            )
    axes[0].set(xlabel="bits/dim (lower is better)", ylabel="Frechet distance", yscale="log")
    grid = pictures.grid(np.concatenate([drawn[n][:14] for n in rows]), 14)
    axes[1].imshow(grid)
    side = len(grid) / len(rows)
    axes[1].set_yticks([side * (i + 0.5) for i in range(len(rows))], list(rows))
    axes[1].set_xticks([])
    return figure


if __name__ == "__main__":
    main()
