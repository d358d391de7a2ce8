"""Claim: of four objectives only WGAN-GP trains every one of seven architectures.

Gulrajani et al. 2017, figure 2: DCGAN's, least squares and the clipped WGAN each fail on some of
seven pairs of networks, WGAN-GP on none. Here are the same four with the optimizers of the authors'
code, and the same seven at a smaller scale (`OBJECTIVES`, `ARCHITECTURES`, `SIZES`). All 28 runs
make as many *generator* steps, as in the paper; both Wasserstein critics move five times as often,
so they see five times the data and take longer, which the table tells.

What "trains" means was fixed before any of the runs. Samples are judged by the Frechet distance
from held-out images, through the zoo's extractor. The distance of training images is the least
that one can hope for; that of images whose pixels are drawn one by one, each from its own place in
the training images, is what a sampler reaches that knows every pixel and no shape. A run *trains*
if it ends nearer to the former than to the latter on a logarithmic scale (below their geometric
mean) and shows every class, by the extractor's own verdict, in at least 1 % of its samples: the
first sees what is broken, the second what is missing.

    python experiments/wgan_gp_robustness.py                                digits, two cores
    python experiments/wgan_gp_robustness.py --data=mnist --full --data-dir=FOLDER_OF_TFDS

Finished runs are kept in --cells, so that a study that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import math
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import study

from genjax_zoo.contract import Model
from genjax_zoo.data.source import Source
from genjax_zoo.data.sources import open_source
from genjax_zoo.measure import distances, extractors, scores
from genjax_zoo.run import config as configs
from genjax_zoo.run.record import pictures

SHOWN = 24  # samples in a panel
LEAST = 0.01  # of the samples: a class with fewer is missing
BATCH = 64  # images in one move
DATA = {"digits": "digits", "mnist": "tfds:mnist"}

# ------------------------------------------------------------------------------- the 28 games


class Objective(NamedTuple):
    """What the players want, and how they move.

    Attributes:
      name: in the tables.
      fields: of `model.objective`.
      optimizer: of both players.
      moves: of the critic for one of the generator.
      norm: what a critic has where the architecture has batch norm.
    """

    name: str
    fields: dict[str, Any]
    optimizer: dict[str, Any]
    moves: int = 1
    norm: str = "batch"


# The optimizers are those of the authors' gan_64x64.py, but that there WGAN-GP has b1 = 0; .5 is
# what configs/gan.py takes. A gradient penalty is of single examples, hence layer norm (section 4).
OBJECTIVES = (
    Objective(
        "DCGAN",
        {"name": "non_saturating"},
        {"name": "adam", "learning_rate": 2e-4, "b1": 0.5},
    ),
    Objective(
        "LSGAN",
        {"name": "least_squares"},
        {"name": "rmsprop", "learning_rate": 1e-4, "b2": 0.9},
    ),
    Objective(
        "WGAN, clipped",
        {"name": "wasserstein", "clip": 0.01},
        {"name": "rmsprop", "learning_rate": 5e-5, "b2": 0.9},
        moves=5,
    ),
    Objective(
        "WGAN-GP",
        {"name": "wasserstein", "gradient": 10.0},
        {"name": "adam", "learning_rate": 1e-4, "b1": 0.5, "b2": 0.9},
        moves=5,
        norm="layer",
    ),
)


class Size(NamedTuple):
    """How large the networks are, and how long they learn.

    Attributes:
      widths: channels of the generator's pyramid, from its input on; the critic's are the reverse.
      units: of each of the four layers of the MLP.
      residual: channels of the ResNet, all alike.
      blocks: of the ResNet at each resolution, two convolutions each.
      latents: of z.
      steps: of the generator.
      rate: by which all learning rates are multiplied.
      per_call: steps in one compiled call.
    """

    widths: tuple[int, int]
    units: int
    residual: int
    blocks: int
    latents: int
    steps: int
    rate: float
    per_call: int

    @property
    def depth(self) -> int:
        """Layers of the ResNet: two convolutions a block, and one layer at either end."""
        return 2 * self.blocks * len(self.widths) + 2


SIZES = {
    # Runs some hundred times shorter than the authors' take steps that are longer, all alike.
    False: Size((32, 16), 128, 16, 4, 16, steps=1000, rate=5.0, per_call=50),
    True: Size((128, 64), 512, 64, 25, 128, steps=20_000, rate=1.0, per_call=100),
}

Players = tuple[dict[str, Any], dict[str, Any]]
"""Fields of the generator and of the critic."""


def architectures(size: Size) -> dict[str, Players]:
    """The seven pairs of networks; a critic's batch norm is the objective's to replace."""
    down, constant = size.widths[::-1], (size.widths[1],) * len(size.widths)
    dcgan = {"name": "conv", "widths": size.widths, "normalise": "batch", "activation": "relu"}
    critic = {"name": "conv", "widths": down, "normalise": "batch", "activation": "leaky_relu"}
    everywhere = lambda **changed: (dcgan | changed, critic | changed)
    resnet = {"name": "resnet", "blocks": size.blocks, "activation": "relu"}
    resnet["widths"] = (size.residual,) * len(size.widths)
    mlp = {"name": "mlp", "widths": (size.units,) * 4, "normalise": "none", "activation": "relu"}
    return {
        "DCGAN": (dcgan, critic),
        "G: no norm, as many filters everywhere": (
            dcgan | {"normalise": "none", "widths": constant},
            critic,
        ),
        f"G: MLP of 4 x {size.units}": (mlp, critic),
        "no norm in G or D": everywhere(normalise="none"),
        "gated everywhere": everywhere(activation="gated"),
        "tanh everywhere": everywhere(activation="tanh"),
        f"ResNet of {size.depth} layers": everywhere(**resnet),
    }


def config(
    args: argparse.Namespace, size: Size, objective: Objective, players: Players
) -> dict[str, Any]:
    """The whole config of one of the 28."""
    generator, critic = players
    if critic["normalise"] == "batch":
        critic = critic | {"normalise": objective.norm}
    rate = objective.optimizer["learning_rate"] * size.rate
    return {
        "seed": args.seed,
        "steps": args.steps or size.steps,
        "data": {"source": DATA[args.data], "batch_size": BATCH * objective.moves},
        "model": {
            "name": "gan",
            "objective": objective.fields,
            "dynamics": {"name": "alternating", "k": objective.moves},
            "generator": generator,
            "discriminator": critic,
            "latents": size.latents,
            "output": "sigmoid",
        },
        "optimizer": objective.optimizer | {"learning_rate": rate},
        "steps_per_call": min(size.per_call, args.steps or size.steps),
    }


# ----------------------------------------------------------------------------------- the judge


class Judge:
    """What is held against the samples of all 28: held-out images, through the zoo's extractor."""

    def __init__(self, name: str, source: Source, drawn: int):
        self.extractor = extractors.bundled(name)
        self.source, self.drawn = source, drawn
        n = min(source.held_out_size, drawn)
        self.real = np.asarray(source.held_out(jax.random.key(0), 0, n)["x"])
        assert source.training is not None and source.size is not None  # a table has both
        train = source.training(jax.random.key(0), 0, min(source.size, drawn))
        self.train = np.asarray(train["x"])
        columns = self.train.reshape(len(self.train), -1).T
        rng = np.random.default_rng(0)
        alone = np.stack([rng.choice(column, drawn) for column in columns], 1)
        self.pixels = alone.reshape(drawn, *self.train.shape[1:])
        self.least, self.most = (self.frechet(x) for x in (self.train, self.pixels))
        # Half way on a logarithmic scale.
        self.limit = math.sqrt(self.least.value * self.most.value)

    def frechet(self, x: np.ndarray) -> scores.Score:
        """The Frechet distance of samples, with its interval and protocol."""
        (found,) = scores.of_images(
            self.extractor,
            self.real,
            x,
            data=self.source.preprocessing,
            split=self.source.held_out_split,
            only=("frechet_distance",),
        )
        return found

    def classes(self, x: np.ndarray) -> np.ndarray:
        """The share of the samples that the extractor gives to each class [K]."""
        assert self.extractor.probabilities is not None  # the zoo's own are classifiers
        p = self.extractor.probabilities(x)
        return np.bincount(p.argmax(1), minlength=p.shape[1]) / len(x)


class Cell(NamedTuple):
    """What one of the 28 leaves.

    Attributes:
      shown: a few samples, in [0, 1]; NaN where there are none.
      frechet: distance, and its interval's ends; NaN for a diverged run.
      classes: share of the samples in each class [K].
      diversity: mean distance between samples over that between held-out images.
      step: steps done; fewer than asked for where the run diverged.
      diverged: whether a parameter or a sample stopped being a finite number.
      seconds: of learning.
      compiling: seconds besides.
      commit: that ran it.
    """

    shown: np.ndarray
    frechet: tuple[float, float, float]
    classes: np.ndarray
    diversity: float
    step: int
    diverged: bool
    seconds: float
    compiling: float
    commit: str

    @property
    def covered(self) -> int:
        """Classes that are there."""
        return int(np.sum(self.classes >= LEAST))

    def trains(self, judge: Judge) -> bool:
        """Whether the run trains, as the head of this file says."""
        near = self.frechet[0] < judge.limit
        return near and not self.diverged and self.covered == len(self.classes)


# ------------------------------------------------------------------------------------ one run


def learn(run: configs.Run, source: Source, judge: Judge, commit: str) -> Cell:
    """Runs one of the 28, and measures it; a run that diverges ends there, and says so."""
    model = configs.make_model(run)
    root, resident = jax.random.key(run.seed), jax.device_put(source.resident)
    feeds = lambda first: np.stack(
        [source.feed(first + i, slice(None)) for i in range(run.steps_per_call)]
    )
    key_init, key_batch = jax.random.split(jax.random.fold_in(root, 2**32 - 1))
    began = time.perf_counter()
    state = jax.jit(model.init)(key_init, source.batch(key_batch, resident, feeds(0)[0]))
    go_on = _go_on(model, source, run.steps_per_call)
    go_on = go_on.lower(root, state, resident, np.uint32(0), feeds(0)).compile()
    compiling, seconds, step, finite = time.perf_counter() - began, 0.0, 0, True
    while step < run.steps and finite:
        fed, began = feeds(step), time.perf_counter()
        state, sound = go_on(root, state, resident, np.uint32(step), fed)
        finite = bool(sound)
        seconds += time.perf_counter() - began
        step += run.steps_per_call
    began = time.perf_counter()
    sample = jax.jit(lambda key, state: model.sample(key, state, judge.drawn)["x"])
    x = np.asarray(sample(jax.random.fold_in(root, 2**32 - 2), state))
    compiling += time.perf_counter() - began
    diverged = not (finite and np.isfinite(x).all())
    score = None if diverged else judge.frechet(x)
    return Cell(
        shown=x[:SHOWN],
        frechet=(score.value, score.low, score.high) if score else (math.nan,) * 3,
        classes=np.zeros_like(judge.classes(judge.real)) if diverged else judge.classes(x),
        diversity=math.nan if diverged else distances.diversity(x, judge.real),
        step=step,
        diverged=diverged,
        seconds=seconds,
        compiling=compiling,
        commit=commit,
    )


def _go_on(model: Model, source: Source, steps: int) -> Any:
    """(root, state, resident, first step, fed) -> (state, whether all of it is finite)."""

    @functools.partial(jax.jit, donate_argnums=1)
    def go_on(root, state, resident, first, fed):
        def one(state, step_and_feed):
            step, feed = step_and_feed
            key_data, key_step = jax.random.split(jax.random.fold_in(root, step))
            batch = source.batch(key_data, resident, feed)
            return model.step(key_step, state, batch)[0], None

        state = jax.lax.scan(one, state, (first + jnp.arange(steps, dtype=jnp.uint32), fed))[0]
        leaves = jax.tree.leaves(state.params)
        return state, jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))

    return go_on


def kept(folder: pathlib.Path, name: str, fields: Mapping[str, Any], drawn: int, run: Any) -> Cell:
    """The cell of that config in the folder; if there is none yet, that of `run()`, now kept."""
    digest = hashlib.sha256(json.dumps([fields, drawn], sort_keys=True).encode()).hexdigest()
    path = folder / f"{name}-{digest[:12]}.npz"
    if path.is_file():
        with np.load(path, allow_pickle=False) as held:
            rest = {k: held[k].item() for k in ("diversity", "step", "diverged")}
            rest |= {k: held[k].item() for k in ("seconds", "compiling", "commit")}
            found = tuple(float(value) for value in held["frechet"])
            return Cell(held["shown"], found, classes=held["classes"], **rest)  # type: ignore[arg-type]
    cell: Cell = run()
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.npz")
    np.savez(part, **cell._asdict())
    part.replace(path)
    return cell


# ------------------------------------------------------------------------------------ the page

Grid = dict[str, dict[str, Cell]]
"""{architecture: {objective: cell}}."""


def verdict(grid: Grid, judge: Judge) -> str:
    """How many architectures each objective trains, and whether the claim holds."""
    names = [objective.name for objective in OBJECTIVES]
    counts = {name: sum(row[name].trains(judge) for row in grid.values()) for name in names}
    every = [name for name, count in counts.items() if count == len(grid)]
    diverged = sum(cell.diverged for row in grid.values() for cell in row.values())
    holds = every == ["WGAN-GP"]
    listed = ", ".join(f"{name} {count}" for name, count in counts.items())
    return (
        f"Of {len(grid)} architectures, each objective trains: {listed} (one seed). All are "
        f"trained by {_and(every) if every else 'none'}; {diverged or 'no'} "
        f"run{'s' * (diverged != 1)} diverged. Published (LSUN bedrooms at 64x64): WGAN-GP alone "
        f"trains all seven. The claim {'holds' if holds else 'does NOT hold'} here."
    )


def _and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def draw(plt: Any, grid: Grid, judge: Judge) -> Any:
    """A row for each architecture, a column for each objective, as in the paper's figure."""
    rows, columns = len(grid), len(OBJECTIVES)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3.3 * columns, 1.62 * rows + 0.4), layout="constrained"
    )
    for line, (architecture, row) in zip(axes, grid.items(), strict=True):
        for axis, objective in zip(line, OBJECTIVES, strict=True):
            cell = row[objective.name]
            axis.imshow(pictures.grid(cell.shown, columns=8))
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            said = f"{cell.frechet[0]:.3g}, {cell.covered} classes"
            said = f"diverged by step {cell.step:,}" if cell.diverged else said
            trains = cell.trains(judge)
            axis.set_xlabel(
                f"{said}{': trains' if trains else ''}",
                color=study.GREEN if trains else study.RED,
                fontsize=9,
                labelpad=2,
            )
            if axis in axes[0]:
                axis.set_title(objective.name)
            if objective is OBJECTIVES[0]:
                axis.set_ylabel(_folded(architecture), fontsize=9)
    return figure


def _folded(name: str) -> str:
    """A long name on more lines."""
    words, lines = name.split(), [""]
    for word in words:
        if len(lines[-1]) + len(word) > 16:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def page(grid: Grid, judge: Judge, size: Size, run: study.Study) -> list[str]:
    """The results page."""
    rows = []
    for architecture, row in grid.items():
        for name, cell in row.items():
            value, low, high = cell.frechet
            rows.append((
                architecture, name,
                "diverged" if cell.diverged else f"{value:.1f} ({low:.1f} to {high:.1f})",
                "-" if cell.diverged else cell.covered,
                "-" if cell.diverged else f"{cell.diversity:.2f}",
                "yes" if cell.trains(judge) else "no",
                f"{cell.step:,}", f"{cell.seconds:.0f}", f"{cell.compiling:.0f}",
            ))  # fmt: skip
    baselines = {"training images": judge.train, "pixels drawn one by one": judge.pixels}
    for (name, x), score in zip(baselines.items(), (judge.least, judge.most), strict=True):
        value = f"{score.value:.1f} ({score.low:.1f} to {score.high:.1f})"
        covered = int(np.sum(judge.classes(x) >= LEAST))
        spread = f"{distances.diversity(x, judge.real):.2f}"
        rows.append((name, "", value, covered, spread, "", "", "", ""))
    protocol = judge.least.protocol
    head = ["architecture", "objective", "Frechet distance (95 %)", "classes", "diversity",
            "trains", "generator steps", "seconds", "compiling"]  # fmt: skip
    cells = [cell for row in grid.values() for cell in row.values()]
    minutes = sum(cell.seconds + cell.compiling for cell in cells) / 60
    commits = sorted({cell.commit for cell in cells})
    rates = "; ".join(
        f"{o.name}: {o.optimizer['name']} {o.optimizer['learning_rate'] * size.rate:g}"
        f"{f', {o.moves} moves of the critic' if o.moves > 1 else ''}"
        for o in OBJECTIVES
    )
    return [
        "# The robustness of WGAN-GP",
        verdict(grid, judge),
        run.picture("Samples of four objectives on seven architectures"),
        "A row an architecture, a column an objective; below each panel its Frechet distance and "
        f"how many classes its samples show. It *trains* (green) if the distance is below "
        f"{judge.limit:.1f} and no class has less than {100 * LEAST:.0f} % of the samples. That "
        "limit was set before the runs: the geometric mean of the distance of training images "
        f"({judge.least.value:.1f}, what is left of a perfect sampler's) and of images whose "
        f"pixels are drawn one by one from the training images ({judge.most.value:.1f}, what "
        "knowing every pixel and no shape is worth). NaN is shown in red.",
        study.table(head, rows),
        f"Protocol: {judge.source.preprocessing}; Frechet distance (not FID: features of the "
        f"extractor {protocol.extractor!r}, sha256 {protocol.sha256[:12]}) of "
        f"{protocol.n_samples} samples from the {protocol.n_real} images of the {protocol.split} "
        f"split, of training images {len(judge.train)}; interval of resamples of the images, "
        "not of seeds. Diversity: mean distance between samples over that between held-out images. "
        f"Classes are those the extractor sees. As many generator steps for all, batch {BATCH} a "
        f"move; {rates}"
        f"{f' (all rates {size.rate:g} times the published ones)' if size.rate != 1 else ''}. "
        f"Filters {', '.join(map(str, size.widths))} in G and the reverse in D, z of "
        f"{size.latents}, ResNet of {size.depth} layers and {size.residual} channels (published: "
        "four resolutions of 512 to 64 filters, 101 layers, 200,000 steps). WGAN-GP's critic has "
        "layer norm where the others have batch norm. G ends in a sigmoid. The last weights are "
        "shown and scored, not an average.",
        f"Learning and compiling took {minutes:.1f} minutes in all, at commit "
        f"{', '.join(commits)} (finished runs are kept and not done again).",
        run.closing(str(run.args.seed)),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is not kept yet, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=sorted(DATA), default="digits")
    parser.add_argument("--full", action="store_true", help="networks and steps for a GPU")
    parser.add_argument("--steps", type=int, default=0, help="of the generator; 0: of the size")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--drawn", type=int, default=2000, help="samples that are scored")
    parser.add_argument("--data-dir", default="", help="folder of prepared TFDS data sets")
    parser.add_argument("--cells", type=pathlib.Path, help="where finished runs are kept",
                        default=pathlib.Path("runs/wgan_gp_robustness"))  # fmt: skip
    run = Sheet(__file__, parser, argv)
    args, size = run.args, SIZES[run.args.full]
    if args.steps < 0 or args.drawn < SHOWN:
        parser.error(f"expected steps >= 0 and drawn >= {SHOWN}.")
    if args.steps:
        size = size._replace(steps=args.steps)
    judge, grid = None, Grid()
    for architecture, players in architectures(size).items():
        grid[architecture] = {}
        for objective in OBJECTIVES:
            fields = config(args, size, objective, players)
            one = configs.read(fields)
            source = open_source(one.data, args.seed, args.data_dir or None)
            judge = judge or Judge(args.data, source, args.drawn)
            name = f"{args.data}-{objective.name}-{architecture}".replace(" ", "_")
            name = "".join(c for c in name if c.isalnum() or c in "-_")
            learnt = functools.partial(learn, one, source, judge, run.commit)
            cell = kept(args.cells, name, fields, args.drawn, learnt)
            grid[architecture][objective.name] = cell
            print(
                f"{architecture}, {objective.name}: {cell.seconds:.0f} s and {cell.compiling:.0f} "
                f"of compiling; Frechet distance {cell.frechet[0]:.1f}, {cell.covered} classes"
                f"{', DIVERGED' if cell.diverged else ''}",
                flush=True,
            )
    assert judge is not None
    numbers = {"limit": judge.limit, "training images": judge.least.value,
               "pixels drawn one by one": judge.most.value}  # fmt: skip
    numbers |= {
        f"{architecture}, {name}": {
            k: v for k, v in cell._asdict().items() if k not in ("shown", "commit")
        }
        for architecture, row in grid.items()
        for name, cell in row.items()
    }
    run.write(page(grid, judge, size, run), draw(run.pyplot(), grid, judge), numbers)
    print(verdict(grid, judge))


class Sheet(study.Study):
    """A study whose flag `--full` is spelt without a value, and whose folder of runs is not."""

    def command(self) -> str:
        """The command that does all this again."""
        given = {k: v for k, v in vars(self.args).items() if k not in ("out", "cells", "full")}
        words = [f"--{k.replace('_', '-')}={v}" for k, v in given.items() if v != ""]
        flag = ["--full"] if self.args.full else []
        return " ".join([f"python experiments/{self.name}.py", *words, *flag])


if __name__ == "__main__":
    main()
