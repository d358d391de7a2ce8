"""Guidance buys fidelity with diversity.

The claim, of a diffusion of the digits given their labels: the more it is guided (Ho & Salimans,
Classifier-free diffusion guidance, 2022), the more of its samples are read as the label that was
asked for, and the less of the data they cover. Beside it the same by a classifier of
noised images (Dhariwal & Nichol 2021), which learns along.

    python experiments/guidance.py
"""

from __future__ import annotations

import argparse

import jax
import numpy as np
import study

from genjax_zoo.data.sources import open_source
from genjax_zoo.measure import distances, extractors
from genjax_zoo.run.config import make_model
from genjax_zoo.run.record import pictures

GUIDES = ("free", "classifier")
MEASURES = ("match", "precision", "recall", "coverage", "Frechet")


def main(argv=None) -> None:
    """Runs the study and writes its page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    weights = [0.0, 0.5, 1.0, 2.0, 4.0, 8.0]
    parser.add_argument("--weights", type=float, nargs="+", default=weights)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=0, help="of training; the config's if 0")
    parser.add_argument("--seed", type=int, default=0)
    one = study.Study(__file__, parser, argv)
    args = one.args
    if min(args.weights) < 0 or args.samples < 20 or args.steps < 0:
        parser.error("expected weights and steps that are not negative, and at least 20 samples")

    rows: dict[str, list[dict]] = {}
    drawn = {}
    for guide in GUIDES:
        changed = {"seed": args.seed, "model__guide": guide}
        changed |= {"steps": args.steps} if args.steps else {}
        # The classifier guides a network without labels: all that follows is its own.
        changed |= {"model__condition_dropout": 1.0} if guide == "classifier" else {}
        run = study.run("diffusion", "digits", **changed)
        source = open_source(run.data, run.seed)
        _, state = study.learn(run, source)
        measured = _measure(source)
        label = np.arange(args.samples) % 10
        rows[guide] = []
        for w in args.weights:
            drawer = make_model(study.run("diffusion", "digits", **changed, model__guidance=w))
            draw = jax.jit(drawer.sample, static_argnums=2)
            key, given = jax.random.key(args.seed + 1), {"label": label}
            x = np.asarray(draw(key, state, args.samples, given)["x"])
            rows[guide].append({"weight": w, **measured(x, label)})
            drawn[guide, w] = x[:10]
            print(guide, rows[guide][-1], flush=True)
    one.write(_page(one, rows), _figure(one, rows, drawn), rows)


def _measure(source):
    """(x, label) -> what they are worth."""
    held = source.held_out(jax.random.key(0), 0, source.held_out_size)
    extractor = extractors.for_data(source.name, held["x"].shape[1:])
    assert extractor is not None and extractor.probabilities is not None
    judge = extractor.probabilities
    unit = lambda x: extractors.to_unit(x, source.interval)
    real = extractor.features(unit(held["x"]))

    def measured(x: np.ndarray, label: np.ndarray) -> dict[str, float]:
        fake = extractor.features(unit(x))
        precision, recall = distances.precision_recall(real, fake, draws=50)
        return {
            "match": 100 * float(np.mean(judge(unit(x)).argmax(1) == label)),
            "precision": 100 * precision.value,
            "recall": 100 * recall.value,
            "coverage": 100 * distances.density_coverage(real, fake, draws=50)[1].value,
            "Frechet": distances.frechet_distance(real, fake, draws=50).value,
        }

    return measured


def _page(one, rows) -> list[str]:
    tables, sentences = [], []
    for guide, title in zip(
        GUIDES, ("Classifier-free guidance", "Guidance by a classifier"), strict=True
    ):
        tables += [
            f"{title}:",
            study.table(
                ["w", *MEASURES],
                [[f"{r['weight']:g}", *(f"{r[m]:.1f}" for m in MEASURES)] for r in rows[guide]],
            ),
        ]
        first, last = rows[guide][0], max(rows[guide], key=lambda r: r["match"])
        final = rows[guide][-1]
        holds = last["match"] > first["match"] and final["recall"] < first["recall"]
        sentences.append(
            f"{title}: the match rises from {first['match']:.1f} % without to "
            f"{last['match']:.1f} % at w = {last['weight']:g}, recall goes from "
            f"{first['recall']:.1f} % to {final['recall']:.1f} % at w = {final['weight']:g}; the "
            f"claim {'holds' if holds else 'does not hold'}."
        )
    return [
        "# Guidance buys fidelity with diversity",
        one.picture("Label match against recall for both guides, and samples at every weight."),
        *tables,
        " ".join(sentences),
        "Match: percent of samples that the zoo's classifier of digits reads as the label asked "
        "for. Precision, recall, coverage (percent) and Frechet distance are those of the "
        f"classifier's features, {one.args.samples} samples against the 359 held-out digits. The "
        "classifier guides a network without labels.",
        one.closing(str(one.args.seed)),
    ]


def _figure(one, rows, drawn):
    pyplot = one.pyplot()
    figure, axes = pyplot.subplots(
        1, 3, figsize=(14, 4.5), layout="constrained", width_ratios=(1, 1, 1)
    )
    for guide, colour in zip(GUIDES, (study.BLUE, study.ORANGE), strict=True):
        x, y = ([r[k] for r in rows[guide]] for k in ("recall", "match"))
        axes[0].plot(x, y, "o-", color=colour, label=guide)
        for r in rows[guide]:
            axes[0].annotate(f"{r['weight']:g}", (r["recall"], r["match"]), fontsize=8)
    axes[0].set(xlabel="recall, %", ylabel="match, %", title="by weight")
    axes[0].legend()
    for axis, guide in zip(axes[1:], GUIDES, strict=True):
        weights = one.args.weights
        grid = pictures.grid(np.concatenate([drawn[guide, w] for w in weights]), 10, -1, 1)
        axis.imshow(grid)
        side = len(grid) / len(weights)
        axis.set_yticks(
            [side * (i + 0.5) for i in range(len(weights))], [f"w = {w:g}" for w in weights]
        )
        axis.set(xticks=[], title=f"{guide}: labels 0 to 9")
    return figure


if __name__ == "__main__":
    main()
