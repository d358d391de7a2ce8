"""Making noise of data is easy; the way back is learnt, and meets the same distributions.

The claim: at every time the samples on their way back are distributed as the data on their way to
noise, though no path is the same: the energy distance between them stays within a tenth of that
between the data and the noise.

    python experiments/easy_forward_hard_backward.py

Drawn for the eight Gaussians and for the digits.
"""

from __future__ import annotations

import argparse
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import study

from genjax_zoo.data.sources import open_source
from genjax_zoo.learn.state import eval_params
from genjax_zoo.maths.diffusion import samplers
from genjax_zoo.models import diffusion
from genjax_zoo.run.record import pictures
from genjax_zoo.typed import typed


def energy_distance(x: np.ndarray, y: np.ndarray) -> float:
    """2 E|x - y| - E|x - x'| - E|y - y'|, without bias."""
    x, y = x.reshape(len(x), -1), y.reshape(len(y), -1)
    apart = lambda a, b: sum(
        np.linalg.norm(rows[:, None] - b, axis=-1).sum() for rows in np.array_split(a, 20)
    )
    n, m = len(x), len(y)
    own = apart(x, x) / (n * (n - 1)) + apart(y, y) / (m * (m - 1))
    return float(2 * apart(x, y) / (n * m) - own)


def main(argv=None) -> None:
    """Runs the study and writes its page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=6, help="at which the two are compared")
    parser.add_argument("--samples", type=int, default=1500)
    parser.add_argument("--predictions", type=int, default=250, help="on the whole way back")
    parser.add_argument("--steps", type=int, default=0, help="of training; the config's if 0")
    parser.add_argument("--seed", type=int, default=0)
    one = study.Study(__file__, parser, argv)
    args = one.args
    if args.times < 2 or args.predictions < args.times or args.samples < 20 or args.steps < 0:
        parser.error("expected two times or more, as many predictions, and at least 20 samples")

    rows, drawn = {}, {}
    for data in ("toy", "digits"):
        changed = {"seed": args.seed, **({"steps": args.steps} if args.steps else {})}
        run = study.run("diffusion", data, **changed)
        source = open_source(run.data, run.seed)
        _, state = study.learn(run, source)
        fields = {k: v for k, v in run.model.items() if k != "name"}
        config, params = typed(diffusion.Config, fields), eval_params(state)
        process = diffusion.process_of(config, params)
        keys = jax.random.split(jax.random.key(args.seed + 1), 4)
        n = min(args.samples, source.held_out_size)
        held = source.held_out(keys[0], 0, n)
        x, label = jnp.asarray(held["x"]), held.get("label") if config.classes else None

        predict = diffusion.predictor(config, params, process, label)
        # Some times of the grid, from the end to the start.
        grid = samplers.even_in_log_snr(process, args.predictions)
        marks = np.linspace(0, args.predictions, args.times).round().astype(int)
        forward = [process.noised(grid[m], x, jax.random.normal(keys[1], x.shape)) for m in marks]
        backward = [process.sigma(grid[0]) * jax.random.normal(keys[2], x.shape)]
        for k, (first, last) in enumerate(itertools.pairwise(marks)):
            go = jax.jit(
                lambda key, x, times, process=process, predict=predict: samplers.ancestral(
                    key, process, predict, x, times
                )
            )
            key = jax.random.fold_in(keys[3], k)
            backward.append(go(key, backward[-1], grid[first : last + 1]))
        whole = energy_distance(np.asarray(x), np.asarray(backward[0]))
        rows[data] = [
            {
                "log SNR": float(process.log_snr(grid[m])),
                "distance": energy_distance(np.asarray(f), np.asarray(b)),
                "whole": whole,
            }
            for m, f, b in zip(marks, forward, backward, strict=True)
        ]
        drawn[data] = [[np.asarray(a) for a in way] for way in (forward, backward)]
        print(data, rows[data], flush=True)
    one.write(_page(one, rows), _figure(one, rows, drawn), rows)


def _page(one, rows) -> list[str]:
    names = {"toy": "Eight Gaussians", "digits": "Digits"}
    parts, sentences = [], []
    for data, name in names.items():
        parts.append(
            study.table(
                [name, *(f"λ = {r['log SNR']:.1f}" for r in rows[data])],
                [["energy distance", *(f"{r['distance']:.4f}" for r in rows[data])]],
            )
        )
        worst, whole = max(r["distance"] for r in rows[data]), rows[data][0]["whole"]
        sentences.append(
            f"{name}: at most {worst:.4f}, and {whole:.3f} between data and noise; the claim "
            f"{'holds' if worst < 0.1 * whole else 'does not hold'}."
        )
    return [
        "# The way to noise is easy, the way back is learnt",
        one.picture("Points and digits on their way to noise, and other ones on their way back."),
        "Upper rows: held-out data on their way to noise, from right to left. Lower rows: samples "
        "on their way back, from left to right, by ancestral sampling. Between the two, at the "
        "same log SNR λ:",
        *parts,
        " ".join(sentences),
        f"{one.args.samples} points, and all 359 held-out digits with their labels; energy "
        "distances without bias, so that those of one distribution scatter about 0.",
        one.closing(str(one.args.seed)),
    ]


def _figure(one, rows, drawn):
    pyplot = one.pyplot()
    n = one.args.times
    figure, axes = pyplot.subplots(4, n, figsize=(2.1 * n, 8.6), layout="constrained")
    for row, (data, way) in enumerate((d, w) for d in ("toy", "digits") for w in (0, 1)):
        columns = zip(axes[row], drawn[data][way], drawn[data][0], rows[data], strict=True)
        for axis, x, forward, at in columns:
            if data == "toy":
                colour = (study.ORANGE, study.BLUE)[way]
                axis.plot(*x[:800].T, ".", color=colour, markersize=2)
                axis.set(xlim=(-6, 6), ylim=(-6, 6), aspect="equal")
            else:
                # Both ways of a time on one scale, whatever a few pixels are.
                scale = np.quantile(np.abs(forward), 0.99)
                axis.imshow(pictures.grid(x[:16], 4, -scale, scale))
            axis.set(xticks=[], yticks=[])
            if way == 0:
                axis.set_title(f"λ = {at['log SNR']:.1f}")
        axes[row][0].set_ylabel(("← to noise", "back →")[way])
    return figure


if __name__ == "__main__":
    main()
