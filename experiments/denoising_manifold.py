"""A denoising auto-encoder learns the way back to the data, and that way is a score.

The claims, on a spiral in the plane:
  1. (r(x~) - x~) / σ² is the score of the noised density (Vincent 2011; Alain & Bengio 2014).
  2. The chain that corrupts and reconstructs, drawing, wanders over the data (Bengio et al. 2013).
  3. Walkback training brings chains that begin far away nearer to the data. Told with the variance
     of the reconstruction learnt, and kept at what denoising alone learns.

    python experiments/denoising_manifold.py
"""

from __future__ import annotations

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import study

from genjax_zoo.data import densities
from genjax_zoo.learn.state import eval_params
from genjax_zoo.models import autoencoder
from genjax_zoo.run.config import make_model

PLAIN, KEPT, LEARNT = "denoising", "walkback, σ kept", "walkback, σ learnt"
POINTS = 40_000
"""Draws of the spiral that stand for it in the exact score of the noised density."""


def true_score(x: jax.Array, data: jax.Array, std: float) -> jax.Array:
    """∇ log of 1/N Σ_n N(x; x_n, σ² I): [B, 2]. The mean of the x_n by posterior weight, less x."""

    def one(x: jax.Array) -> jax.Array:
        weight = jax.nn.softmax(-jnp.sum((data - x) ** 2, -1) / (2 * std**2))
        return (weight @ data - x) / std**2

    return jax.lax.map(one, x, batch_size=64)


def energy_distance(x: jax.Array, y: jax.Array) -> float:
    """2 E|x - y| - E|x - x'| - E|y - y'|, without bias: 0 in the mean for one distribution."""

    def apart(a: jax.Array, b: jax.Array) -> jax.Array:
        rows = jax.lax.map(lambda a: jnp.linalg.norm(a - b, axis=-1).sum(), a, batch_size=100)
        return rows.sum()

    n, m = len(x), len(y)
    own = apart(x, x) / (n * (n - 1)) + apart(y, y) / (m * (m - 1))
    return float(2 * apart(x, y) / (n * m) - own)


def train(run, seed: int):
    """The model and its state after all steps of `run`."""
    model, draw = make_model(run), densities.make("spiral").sample
    key = jax.random.key(seed)

    @jax.jit
    def learn(state):
        def step(state, key):
            key_data, key_step = jax.random.split(key)
            batch = {"x": draw(key_data, run.data.batch_size)}
            return model.step(key_step, state, batch)[0], None

        return jax.lax.scan(step, state, jax.random.split(key, run.steps))[0]

    start = model.init(key, {"x": draw(key, run.data.batch_size)})
    return model, learn(start)


def main(argv=None) -> None:
    """Runs the study and writes its page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--walkback", type=int, default=4)
    parser.add_argument("--std", type=float, default=0.17, help="σ kept, what denoising learns")
    one = study.Study(__file__, parser, argv)
    args = one.args
    if min(args.seeds, args.steps, args.walkback) < 1 or args.samples < 2:
        parser.error("expected seeds, steps and walkback of at least 1, and samples of at least 2")
    n = args.samples
    data = densities.make("spiral").sample(jax.random.key(10**6), POINTS)
    test = densities.make("spiral").sample(jax.random.key(10**6 + 1), 4000)

    rows, shown = {}, {}
    learns = {"model__walkback": args.walkback}
    keeps = {**learns, "model__variance": "fixed", "model__noise_std": args.std}
    for name, changed in ((PLAIN, {}), (KEPT, keeps), (LEARNT, learns)):
        run = study.run("autoencoder", "spiral", steps=args.steps, **changed)
        config = autoencoder.Config(**{k: v for k, v in run.model.items() if k != "name"})
        for seed in range(args.seeds):
            model, state = train(run, seed)
            params = eval_params(state)
            near = test + config.noise * jax.random.normal(jax.random.key(seed), test.shape)
            own = autoencoder.score(config, params, near)
            truth = true_score(near, data, config.noise)
            error = jnp.sum((own - truth) ** 2) / jnp.sum(truth**2)
            cosine = jnp.sum(own * truth, -1)
            cosine /= jnp.linalg.norm(own, axis=-1) * jnp.linalg.norm(truth, axis=-1)
            sample = jax.jit(model.sample, static_argnums=2)
            chain = sample(jax.random.key(seed + 100), state, n)["x"]
            spread = state.replace(
                memory=state.memory.replace(spread=4 * jnp.ones(2), centre=jnp.zeros(2))
            )
            lost = sample(jax.random.key(seed + 100), spread, n)["x"]
            rows.setdefault(name, []).append(
                {
                    "score error": float(error),
                    "cosine": float(cosine.mean()),
                    "chain": energy_distance(chain, test),
                    "from afar": energy_distance(lost, test),
                }
            )
            if seed == 0:
                shown[name] = (config, params, np.asarray(lost))
            print(name, seed, rows[name][-1], flush=True)
    floor = energy_distance(densities.make("spiral").sample(jax.random.key(10**6 + 3), n), test)

    one.write(_page(one, rows, floor), _figure(one, shown, data, test), rows)


def _interval(values) -> str:
    half = 1.96 * np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{np.mean(values):.4f} ± {half:.4f}"


def _page(one, rows, floor) -> list[str]:
    names = ["score error", "cosine", "chain", "from afar"]
    table = study.table(
        ["training", "score: squared error", "score: cosine", "chain's distance", "from afar"],
        [[n, *(_interval([row[k] for row in rows[n]]) for k in names)] for n in rows],
    )
    plain, walked = ([row["from afar"] for row in rows[n]] for n in (PLAIN, KEPT))
    better = sum(w < p for w, p in zip(walked, plain, strict=True))
    return [
        "# A denoising auto-encoder's arrows are a score, and its chain draws the data",
        one.picture(
            "Arrows of r(x) - x beside those of the true score, and samples of the chains on the "
            "spiral with and without walkback."
        ),
        "Left: the arrows r(x) - x of the auto-encoder trained by denoising alone, over those of "
        "the exact score of the noised spiral, σ² ∇ log p. Middle and right: where chains of 100 "
        "steps end that began far off, N(0, 16 I), without and with walkback (σ kept).",
        table,
        "Score: relative squared error, and mean cosine, against the exact score of the noised "
        f"density ({POINTS:,} draws of the spiral), at noised test points. Distances: energy "
        "distance of the chains' ends to fresh draws of the spiral, without bias, from the "
        "model's own start and from N(0, 16 I); as many draws of the spiral itself are at "
        f"{floor:.4f}. Intervals: 95 % of the mean over seeds.",
        f"From afar walkback with σ kept ends nearer to the data in {better} of {len(plain)} "
        "seeds. Where "
        "σ is learnt, it grows with the walks that it lengthens, and the chain leaves the data.",
        one.closing(f"0 to {len(plain) - 1}"),
    ]


def _figure(one, shown, data, test):
    pyplot = one.pyplot()
    figure, axes = pyplot.subplots(1, 3, figsize=(15, 5), layout="constrained")
    config, params, _ = shown[PLAIN]
    line = jnp.linspace(-3.5, 3.5, 22)
    grid = jnp.stack(jnp.meshgrid(line, line), -1).reshape(-1, 2)
    own = autoencoder.score(config, params, grid) * config.noise**2
    truth = true_score(grid, data, config.noise) * config.noise**2
    axes[0].plot(*test[:1500].T, ".", color="0.8", markersize=2)
    for arrows, color, name in ((truth, study.ORANGE, "true score"), (own, study.BLUE, "learnt")):
        # Long arrows are cut: it is their direction that is to be seen.
        length = jnp.linalg.norm(arrows, axis=-1, keepdims=True)
        arrows = arrows * jnp.minimum(1, 0.4 / jnp.maximum(length, 1e-9))
        axes[0].quiver(
            *grid.T, *arrows.T, color=color, label=name, angles="xy", scale_units="xy", scale=1,
            width=0.003,
        )  # fmt: skip
    axes[0].legend(loc="upper right")
    axes[0].set_title("r(x) - x, cut at length 0.4")
    for axis, name in zip(axes[1:], (PLAIN, KEPT), strict=True):
        axis.plot(*test[:1500].T, ".", color="0.8", markersize=2)
        axis.plot(*shown[name][2][:1500].T, ".", color=study.BLUE, markersize=2)
        axis.set_title(f"chains from afar, {name}")
    for axis in axes:
        axis.set(xlim=(-4, 4), ylim=(-4, 4), aspect="equal")
    return figure


if __name__ == "__main__":
    main()
