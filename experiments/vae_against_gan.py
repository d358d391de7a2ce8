"""Claim: a VAE's samples are blurred and cover the data; a GAN's are sharp and may leave some out.

A VAE, a GAN and a WGAN-GP: the VAE's decoder and encoder have the layers of the others' generator
and discriminator, the optimizer's rates are those of the config files, and all learn for the same
*seconds*, taking turns on one machine, so that other work on it falls on all. Compiling, measuring
and drawing are on nobody's clock.

Grey pixels are no outcomes of a coin, so the VAE learns from images binarised anew at every access,
which gives its bound a meaning; the GANs see the grey images. Two comparisons are therefore made:

    grey     the VAE's means, which of such data estimate grey values, the GANs' images, and grey
             held-out images: how samples are usually shown, and what the verdict is about
    binary   draws of all three: of the VAE's p(x|z), of the GANs' grey pixels and of the held-out
             images, each binarised by one draw a pixel: the VAE's own distribution, and no less

The claim is of four comparisons, made twice, for the GAN and for the WGAN-GP: the VAE's means are
less sharp than the data and than the GAN's images; the VAE's recall is higher; its precision is
lower. One holds where the 95 % interval of the difference leaves out 0, and the claim where the
sharpness and the recall do, against both.

    python experiments/vae_against_gan.py --data-dir=FOLDER_OF_TFDS
    python experiments/vae_against_gan.py --data=digits
"""

from __future__ import annotations

import argparse
import functools
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import study

from genjax_zoo.contract import MEAN, Exactness
from genjax_zoo.data.source import Source
from genjax_zoo.data.sources import open_source
from genjax_zoo.measure import distances, extractors, scores
from genjax_zoo.run import config as configs
from genjax_zoo.run.record import pictures

ARMS = ("VAE", "GAN", "WGAN-GP")
SHOWN = 48  # samples in a panel
BATCH = 64  # images in one move
PER_CALL = 20  # steps in one compiled call
PART = 500  # images whose bound is computed at once
MEASURES = ("frechet_distance", "precision", "recall", "coverage", "memorised", "memorisation_auc")
DATA: Mapping[str, dict[str, Any]] = {
    "mnist": {"source": "tfds:mnist", "widths": (256, 512), "latents": 32},
    "digits": {"source": "digits", "widths": (128, 128), "latents": 8},
}


def run_of(which: str, args: argparse.Namespace) -> configs.Run:
    """The config of one of the three; all end with a moving average of their parameters."""
    data = DATA[args.data]
    up, down, latents = data["widths"], data["widths"][::-1], data["latents"]
    player = lambda widths: {"name": "mlp", "widths": widths, "activation": "leaky_relu"}
    gan = {
        "name": "gan",
        "generator": player(up),
        "discriminator": player(down),
        "latents": latents,
        "output": "sigmoid",
        "average": 0.999,
    }
    vae = {
        "name": "vae",
        "decoder": "bernoulli",
        "latents": latents,
        "widths": down,
        "activation": "leaky_relu",
        "importance_samples": 100,
        "average": 0.999,
    }
    gp = {"name": "wasserstein", "gradient": 10.0}
    five = {"name": "alternating", "k": 5}
    adam = lambda rate, **moments: {"name": "adam", "learning_rate": rate, **moments}
    model, optimizer, moves, binarise = {
        "VAE": (vae, adam(1e-3), 1, "dynamic"),
        "GAN": (gan, adam(2e-4, b1=0.5), 1, "none"),
        "WGAN-GP": ({**gan, "objective": gp, "dynamics": five},
                    adam(1e-4, b1=0.5, b2=0.9), 5, "none"),
    }[which]  # fmt: skip
    return configs.read({
        "seed": args.seed,
        "data": {"source": data["source"], "batch_size": BATCH * moves, "binarise": binarise},
        "model": model,
        "optimizer": optimizer,
        "steps_per_call": PER_CALL,
    })  # fmt: skip


class Runner:
    """One of the three, on its own clock."""

    def __init__(self, which: str, args: argparse.Namespace):
        self.run = run_of(which, args)
        self.source = open_source(self.run.data, args.seed, args.data_dir or None)
        self.model = configs.make_model(self.run)
        self.root, self.step, self.seconds = jax.random.key(args.seed), 0, 0.0
        self.resident = jax.device_put(self.source.resident)
        key_init, key_batch = jax.random.split(jax.random.fold_in(self.root, 2**32 - 1))
        batch = self.source.batch(key_batch, self.resident, self.fed()[0])
        self.state = jax.jit(self.model.init)(key_init, batch)
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(self.state.params))
        call = (self.root, self.state, self.resident, np.uint32(0), self.fed())
        self.go_on = _go_on(self.model, self.source).lower(*call).compile()

    def fed(self) -> np.ndarray:
        """Row numbers of the next call."""
        steps = range(self.step, self.step + PER_CALL)
        return np.stack([self.source.feed(step, slice(None)) for step in steps])

    def advance(self) -> None:
        """One compiled call of steps."""
        fed, began = self.fed(), time.perf_counter()
        call = (self.root, self.state, self.resident, np.uint32(self.step), fed)
        self.state = jax.block_until_ready(self.go_on(*call))
        self.seconds += time.perf_counter() - began
        self.step += PER_CALL

    def draw(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Draws [n, H, W, C], and the means that they are drawn around, or the draws again."""
        sample = jax.jit(lambda key, state: self.model.sample(key, state, n))
        batch = sample(jax.random.fold_in(self.root, 2**32 - 2), self.state)
        return np.asarray(batch["x"]), np.asarray(batch.get(MEAN, batch["x"]))


def _go_on(model: Any, source: Source) -> Any:
    """(root, state, resident, first step, fed) -> state after as many steps as `fed` has."""

    @functools.partial(jax.jit, donate_argnums=1)
    def go_on(root, state, resident, first, fed):
        def one(state, step_and_feed):
            step, feed = step_and_feed
            key_data, key_step = jax.random.split(jax.random.fold_in(root, step))
            return model.step(key_step, state, source.batch(key_data, resident, feed))[0], None

        steps = first + jnp.arange(PER_CALL, dtype=jnp.uint32)
        return jax.lax.scan(one, state, (steps, fed))[0]

    return go_on


# ----------------------------------------------------------------------------------- measuring


def laplacian(x: np.ndarray) -> np.ndarray:
    """How sharp each image is: the variance of its Laplacian, [n, H, W, C] -> [n].

    Δx[i, j] = x[i-1, j] + x[i+1, j] + x[i, j-1] + x[i, j+1] - 4 x[i, j], at inner pixels.

    Blurring takes away what it measures, noise of single pixels adds to it: images may be too
    sharp, and what is a little above the data's is no praise.
    """
    inner = x[:, 1:-1, 1:-1]
    around = x[:, :-2, 1:-1] + x[:, 2:, 1:-1] + x[:, 1:-1, :-2] + x[:, 1:-1, 2:]
    return np.var((around - 4 * inner).reshape(len(x), -1), axis=1)


def sharpness(x: np.ndarray, real: np.ndarray, protocol: scores.Protocol) -> scores.Score:
    """The mean of `laplacian` of samples over that of held-out images; 1 is as sharp as those."""
    own, data, rng = laplacian(x), laplacian(real), np.random.default_rng(0)
    again = lambda each: rng.choice(each, len(each)).mean()
    ratios = np.array([again(own) / again(data) for _ in range(distances.DRAWS)])
    found = distances.estimate(own.mean() / data.mean(), ratios, least=0.0)
    protocol = protocol._replace(
        method="mean variance of the Laplacian, over that of held-out images",
        parameters=f"inner pixels; interval of {distances.DRAWS} resamples",
        preprocessing="", extractor="", sha256="", n_train=0,
    )  # fmt: skip
    return scores.Score("sharpness", *found, "", "higher", protocol)


class Judge:
    """What samples are held against: held-out images and training images, grey or binarised."""

    def __init__(self, source: Source, args: argparse.Namespace, binary: bool):
        self.extractor, self.source = extractors.bundled(args.data), source
        assert source.training is not None and source.size is not None  # a table has both
        self.key, self.binary = jax.random.key(0), binary
        n, of_train = min(source.held_out_size, args.drawn), min(source.size, 5 * args.drawn)
        self.real = self.as_judged(1, np.asarray(source.held_out(self.key, 0, n)["x"]))
        self.train = self.as_judged(2, np.asarray(source.training(self.key, 0, of_train)["x"]))

    def as_judged(self, place: int, x: np.ndarray) -> np.ndarray:
        """Images as they are, or one draw of every pixel."""
        if not self.binary:
            return x
        u = jax.random.uniform(jax.random.fold_in(self.key, place), x.shape)
        return np.asarray(u < x, np.float32)

    def scores(self, x: np.ndarray, own: bool = False) -> dict[str, scores.Score]:
        """All measures of images as they are judged; `own`: they are training images."""
        wanted = [name for name in MEASURES if not (own and name.startswith("memoris"))]
        found = scores.of_images(
            self.extractor,
            self.real,
            x,
            self.train,
            data=f"{self.source.preprocessing}{'; all binarised by a draw' * self.binary}",
            split=self.source.held_out_split,
            only=wanted,
        )
        named = {score.name: score for score in found}
        return {"sharpness": sharpness(x, self.real, found[0].protocol), **named}


def bounds(runner: Runner, n: int) -> dict[str, tuple[float, float, Exactness]]:
    """The VAE's mean log p(x) of held-out images in nats, its standard error, and its kind."""
    model, n = runner.model, min(n, runner.source.held_out_size)
    assert model.log_prob is not None
    further = model.measures["iwae"]
    kinds = {
        "bound (ELBO)": (model.log_prob.value, model.log_prob.exactness),
        f"estimate ({further.detail})": (further.value, further.exactness),
    }
    found = {}
    for name, (value, exactness) in kinds.items():
        each = [
            jax.jit(value)(
                jax.random.fold_in(runner.root, first),
                runner.state,
                runner.source.held_out(jax.random.key(first), first, min(first + PART, n)),
            )
            for first in range(0, n, PART)
        ]
        nats = np.concatenate([np.asarray(part) for part in each])
        found[name] = (float(nats.mean()), float(nats.std() / math.sqrt(len(nats))), exactness)
    return found


# ------------------------------------------------------------------------------------ the page

Table = dict[str, dict[str, scores.Score]]
"""{whose images: {measure: score}}."""


def verdict(grey: Table) -> str:
    """Each comparison of the claim, and whether the claim holds."""
    vae, parts = grey["VAE"], []
    holds = vae["sharpness"].high < 1
    blurred = f"{vae['sharpness'].value:.2f} times as sharp as the data"
    for name in ARMS[1:]:
        other, compared = grey[name], []
        for measure, lower, needed in (
            ("sharpness", True, True),
            ("recall", False, True),
            ("precision", True, False),
        ):
            gap = scores.compare(vae[measure], other[measure])
            as_claimed = gap.apart and (gap.value < 0) == lower
            holds &= as_claimed or not needed
            how = "as claimed" if as_claimed else ("the other way" if gap.apart else "not apart")
            compared.append(
                f"{measure} {vae[measure].value:.2f} against {other[measure].value:.2f} ({how})"
            )
        parts.append(f"VAE against {name}: {', '.join(compared)}")
    return (
        f"The VAE's means are {blurred}. {'; '.join(parts)}. That the VAE's samples are blurred "
        "and cover more, and the GANs' are sharper and cover less, "
        f"{'holds' if holds else 'does NOT hold'} after this training (one seed)."
    )


def tabled(table: Table, spread: Mapping[str, float]) -> str:
    """A row for each of the three, and one for training images in their place."""
    names = ("sharpness", *MEASURES)
    rows = []
    for who, found in table.items():
        cells = [_cell(found[name]) if name in found else "-" for name in names]
        rows.append((who, *cells, f"{spread[who]:.3f}"))
    head = ["Frechet distance" if n == "frechet_distance" else n.replace("_", " ") for n in names]
    return study.table(["", *head, "diversity"], rows)


def _cell(score: scores.Score) -> str:
    digits = 1 if score.name == "frechet_distance" else 3
    return f"{score.value:.{digits}f} ({score.low:.{digits}f} to {score.high:.{digits}f})"


def draw(plt: Any, panels: Mapping[str, np.ndarray]) -> Any:
    """All of them side by side."""
    figure, axes = plt.subplots(1, len(panels), figsize=(3 * len(panels), 4.3),
                                layout="constrained")  # fmt: skip
    for axis, (title, x) in zip(axes, panels.items(), strict=True):
        axis.imshow(pictures.grid(x, columns=6))
        axis.set(xticks=[], yticks=[], title=title)
        axis.spines[:].set_visible(False)
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    """Trains the three, measures them, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=sorted(DATA), default="mnist")
    parser.add_argument("--minutes", type=float, default=1.8, help="of learning, each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--drawn", type=int, default=2000, help="samples that are scored")
    parser.add_argument("--data-dir", default="", help="folder of prepared TFDS data sets")
    run = study.Study(__file__, parser, argv)
    args = run.args
    if args.minutes <= 0 or args.drawn < SHOWN:
        parser.error(f"expected minutes > 0 and drawn >= {SHOWN}.")
    runners = {which: Runner(which, args) for which in ARMS}
    while (last := min(runners.values(), key=lambda r: r.seconds)).seconds < 60 * args.minutes:
        last.advance()
    print({which: runner.step for which, runner in runners.items()}, flush=True)

    grey, binary = (Judge(runners["GAN"].source, args, binary) for binary in (False, True))
    both = {which: runner.draw(args.drawn) for which, runner in runners.items()}
    drawn = {which: looked_at for which, (_, looked_at) in both.items()}
    broken = [which for which, x in drawn.items() if not np.isfinite(x).all()]
    if broken:
        raise SystemExit(f"{', '.join(broken)} diverged: no finite samples to compare.")
    draws = both["VAE"][0]
    coins = {which: binary.as_judged(3, x) for which, x in drawn.items()} | {"VAE": draws}
    tables: dict[str, Table] = {}
    spread: dict[str, dict[str, float]] = {}
    for name, judge, made in (("grey", grey, drawn), ("binary", binary, coins)):
        rng = np.random.default_rng(0)  # other training images than the first are as good
        chosen = rng.choice(len(judge.train), min(args.drawn, len(judge.train)), replace=False)
        fresh = judge.train[chosen]
        tables[name] = {which: judge.scores(x) for which, x in made.items()}
        tables[name]["training images"] = judge.scores(fresh, own=True)
        made = {**made, "training images": fresh}
        spread[name] = {which: distances.diversity(x, judge.real) for which, x in made.items()}
    nats = bounds(runners["VAE"], args.drawn)
    panels = {
        "data": grey.real[:SHOWN],
        "VAE, means": drawn["VAE"][:SHOWN],
        "VAE, draws of p(x)": draws[:SHOWN],
        "GAN": drawn["GAN"][:SHOWN],
        "WGAN-GP": drawn["WGAN-GP"][:SHOWN],
    }
    page = [
        "# VAE against GAN",
        verdict(tables["grey"]),
        run.picture("Data, means and draws of the VAE, samples of the GAN and of the WGAN-GP"),
        "## Grey: the VAE's means, the GANs' images, grey held-out images",
        tabled(tables["grey"], spread["grey"]),
        "## Binary: draws of all, binarised held-out images",
        tabled(tables["binary"], spread["binary"]),
        "In brackets 95 % intervals, of resamples of the images, not of seeds. The last row is "
        "what training images score in place of samples. Sharpness: variance of the Laplacian "
        "over that of the held-out images; noise of single pixels raises it too, so above 1 is not "
        "better, and of binary images it tells little. Memorised: 0.05 is what fresh data give.",
        "## Learning",
        study.table(
            ["", "parameters", "steps", "images seen", "seconds"],
            [
                (
                    which,
                    f"{r.parameters:,}",
                    f"{r.step:,}",
                    f"{r.step * r.run.data.batch_size:,}",
                    f"{r.seconds:.0f}",
                )
                for which, r in runners.items()
            ],
        ),
        study.table(
            ["log p(x) of held-out binarised images", "nats", "kind"],
            [
                *(
                    (f"VAE, {name}", f"{mean:.2f} ± {error:.2f}", str(kind))
                    for name, (mean, error, kind) in nats.items()
                ),
                *((which, "-", f"{Exactness.NONE}: it has no density") for which in ARMS[1:]),
            ],
        ),
        _protocol(tables["grey"]["GAN"]["memorised"], runners, args),
        run.closing(str(args.seed)),
    ]
    numbers = {
        f"{name}, {which}": {measure: score[1:4] for measure, score in found.items()}
        | {"diversity": spread[name][which]}
        for name, each in tables.items()
        for which, found in each.items()
    }
    numbers["nats"] = {name: [mean, error] for name, (mean, error, _) in nats.items()}
    run.write(page, draw(run.pyplot(), panels), numbers)
    print(page[1])


def _protocol(score: scores.Score, runners: Mapping[str, Runner], args: argparse.Namespace) -> str:
    same, data = score.protocol, DATA[args.data]
    rates = ", ".join(
        f"{which} Adam {r.run.optimizer.learning_rate:g} (b1 {r.run.optimizer.b1:g})"
        for which, r in runners.items()
    )
    return (
        f"Protocol: {same.n_samples} samples against {same.n_real} images of the {same.split} "
        f"split, {same.n_train} training images for memorisation; {same.data}. Features are of the "
        f"extractor {same.extractor!r} (sha256 {same.sha256[:12]}; the Frechet distance is not "
        "FID). Generator and decoder: fully connected, "
        f"{', '.join(map(str, data['widths']))} leaky ReLUs, z of {data['latents']}; discriminator "
        f"and encoder the reverse. Batch {BATCH} a move, {rates}, WGAN-GP 5 moves of the critic; "
        "samples are of the moving average of the parameters (decay .999). The VAE sees images "
        "binarised anew at every access; the GANs see grey ones. Standard errors are over images."
    )


if __name__ == "__main__":
    main()
