"""Claim: a progressively grown GAN improves from stage to stage, and loses nothing by growing.

Two runs of configs/progressive_gan.py that differ in one field, `model.first`: one grows from 4x4,
the other learns at full size from the start. Both have the same network in the end, and are given
the same *seconds*: they take turns on one machine, the second stopping each time its clock has
reached the first's, so that other work on the machine falls on both. Compiling, measuring and
drawing are on nobody's clock. The claim holds for a data set if, at the median of the seeds, the
Frechet distance falls from the end of each stage to the end of the next, and the grown network's
final one is at most that of the network learnt at full size.

    python experiments/progressive_growing.py --data=digits,mnist --data-dir=FOLDER_OF_TFDS
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import study

from genjax_zoo.data.source import Source
from genjax_zoo.data.sources import open_source
from genjax_zoo.learn.state import Staged
from genjax_zoo.measure import distances, extractors, scores
from genjax_zoo.models import progressive_gan
from genjax_zoo.nets import progressive, upsample
from genjax_zoo.run import config as configs
from genjax_zoo.run.record import pictures
from genjax_zoo.typed import typed

VARIANTS = {"digits": "digits", "mnist": "mnist"}
ARMS = {"grown": study.BLUE, "full size": study.RED}
SHOWN = 36  # samples in a grid


class Arm(NamedTuple):
    """One of the two runs, compiled; the same for every seed.

    Attributes:
      run: its config.
      sides: the resolution of each stage.
      ends: the step at which each stage ends.
      init: (key, batch) -> state.
      go_on: (root, state, resident, first, fed) -> state after as many steps as `fed` has.
      sample: (key, state) -> samples in the range of the data.
      coarse: for each stage, the Frechet distance of data that are no finer than its images.
    """

    run: configs.Run
    sides: tuple[int, ...]
    ends: tuple[int, ...]
    init: Any
    go_on: Any
    sample: Any
    coarse: tuple[float, ...]


class Measurement(NamedTuple):
    """What one measurement found.

    Attributes:
      step: steps done.
      seconds: on the run's own clock.
      frechet: the distance of the samples from held-out data.
    """

    step: int
    seconds: float
    frechet: float


class Outcome(NamedTuple):
    """What one run of one seed leaves.

    Attributes:
      measurements: in time.
      ends: those at the end of each stage (of the full-size run: the last one).
      grids: some samples at each of `ends`, in [0, 1].
      score: the last one, with its interval and protocol.
    """

    measurements: list[Measurement]
    ends: list[Measurement]
    grids: list[np.ndarray]
    score: scores.Score


def arm(run: configs.Run, source: Source, drawn: int, judge: Judge) -> Arm:
    """A run's parts."""
    model = configs.make_model(run)
    fields = {name: value for name, value in run.model.items() if name != "name"}
    config = typed(progressive_gan.Config, fields)

    @functools.partial(jax.jit, donate_argnums=1)
    def go_on(root, state, resident, first, fed):
        def one(state, step_and_feed):
            step, feed = step_and_feed
            key_data, key_step = jax.random.split(jax.random.fold_in(root, step))
            batch = source.batch(key_data, resident, feed)
            return model.step(key_step, state, batch)[0], None

        steps = first + jnp.arange(run.steps_per_call, dtype=jnp.uint32)
        return jax.lax.scan(one, state, (steps, fed))[0]

    sample = jax.jit(lambda key, state: model.sample(key, state, drawn)["x"])
    ends = tuple(int(end) for end in np.cumsum(config.steps))
    coarse = tuple(judge.coarse(side) for side in config.sides)
    return Arm(run, config.sides, ends, jax.jit(model.init), go_on, sample, coarse)


class Runner:
    """One run of one seed, on its own clock."""

    def __init__(self, arm: Arm, source: Source, seed: int, judge: Judge):
        self.arm, self.source, self.judge = arm, source, judge
        self.root, self.step, self.seconds = jax.random.key(seed), 0, 0.0
        self.resident = jax.device_put(source.resident)
        key_init, key_batch = jax.random.split(jax.random.fold_in(self.root, 2**32 - 1))
        feed = source.feed(0, slice(0, arm.run.data.batch_size))
        batch = source.batch(key_batch, self.resident, feed)
        init = functools.partial(arm.init, key_init, batch)
        self._call(init())  # compiles, on nobody's clock
        self.state: Staged = init()
        self.measurements: list[Measurement] = []
        self.ends: list[Measurement] = []
        self.grids: list[np.ndarray] = []

    def _call(self, state: Staged) -> Staged:
        calls = range(self.step, self.step + self.arm.run.steps_per_call)
        rows = slice(0, self.arm.run.data.batch_size)
        fed = [self.source.feed(step, rows) for step in calls]
        fed = jax.tree.map(lambda *xs: np.stack(xs), *fed)
        call = (self.root, state, self.resident, np.uint32(self.step), fed)
        return jax.block_until_ready(self.arm.go_on(*call))

    def advance(self) -> None:
        """One compiled call of steps."""
        began = time.perf_counter()
        self.state = self._call(self.state)
        self.seconds += time.perf_counter() - began
        self.step += self.arm.run.steps_per_call

    def measure(self, end: bool = False) -> None:
        """Measures; at the `end` of a stage also keeps a few samples."""
        x = self.judge.unit(self.draw())
        found = Measurement(self.step, self.seconds, self.judge.frechet(x))
        self.measurements.append(found)
        if end:
            self.ends.append(found)
            self.grids.append(x[:SHOWN])

    def draw(self) -> np.ndarray:
        """Samples, always of the same latents."""
        return np.asarray(self.arm.sample(jax.random.fold_in(self.root, 2**32 - 2), self.state))

    def outcome(self) -> Outcome:
        """All of it, and the last score with its interval."""
        score = self.judge.score(self.judge.unit(self.draw()))
        return Outcome(self.measurements, self.ends, self.grids, score)


class Judge:
    """Frechet distances from the held-out images of one data set, through the zoo's extractor."""

    def __init__(self, name: str, source: Source, data: str):
        self.extractor = extractors.bundled(name)
        self.low, self.high = source.interval
        self.data, self.split = data, source.held_out_split
        held = source.held_out(jax.random.key(0), 0, source.held_out_size)["x"]
        self.held = self.unit(np.asarray(held))
        self.real = self.features(self.held)
        self.moments = distances.moments(self.real.astype(np.float64))

    def unit(self, x: np.ndarray) -> np.ndarray:
        """Images in [0, 1]."""
        return (x - self.low) / (self.high - self.low)

    def features(self, x: np.ndarray) -> np.ndarray:
        """Of images [n, H, W, C] in [0, 1], resized (bilinear) to what the extractor takes."""
        if x.shape[1:] != tuple(self.extractor.shape):
            x = np.asarray(jax.image.resize(x, (len(x), *self.extractor.shape), "linear"))
        return self.extractor.features(x)

    def frechet(self, x: np.ndarray) -> float:
        """Without an interval."""
        own = distances.moments(self.features(x).astype(np.float64))
        return distances.frechet(*self.moments, *own)

    def coarse(self, side: int) -> float:
        """Of the held-out images themselves, averaged to `side` pixels and enlarged again."""
        factor = self.held.shape[1] // side
        return self.frechet(np.asarray(upsample(progressive.half(self.held, factor), factor)))

    def score(self, x: np.ndarray) -> scores.Score:
        """With its interval and protocol."""
        (found,) = scores.of_clouds(
            scores.Clouds(self.real, self.features(x)),
            self.extractor,
            data=self.data,
            split=self.split,
            only=("frechet_distance",),
        )
        return found


def compete(name: str, args: argparse.Namespace) -> tuple[Arm, dict[str, list[Outcome]]]:
    """Both runs over all seeds, on one data set."""
    changed = shortened(name, args.part)
    if args.rate:
        changed["optimizer__learning_rate"] = args.rate
    run = study.run("progressive_gan", VARIANTS[name], **changed)
    full = 4 * 2 ** (len(run.model["widths"]) - 1)
    at_once = {"model__first": full, "model__stage_steps": (run.steps,)}
    whole = study.run("progressive_gan", VARIANTS[name], **{**changed, **at_once})
    sources = [open_source(run.data, seed, args.data_dir) for seed in range(args.seeds)]
    shown = sources[0].preprocessing + "; resized (bilinear) to the extractor's size if another"
    judge = Judge(name, sources[0], shown)
    arms = {
        "grown": arm(run, sources[0], args.drawn, judge),
        "full size": arm(whole, sources[0], args.drawn, judge),
    }
    outcomes: dict[str, list[Outcome]] = {which: [] for which in ARMS}
    for seed, source in enumerate(sources):
        grown, other = (Runner(arms[which], source, seed, judge) for which in ARMS)
        marks = sorted({*arms["grown"].ends, *marks_of(run, args.marks)})
        for runner in (grown, other):
            runner.measure()
        for mark in marks:
            while grown.step < mark:
                grown.advance()
                while other.seconds < grown.seconds:
                    other.advance()
            grown.measure(end=mark in arms["grown"].ends)
            other.measure(end=mark == marks[-1])
            print(
                f"{name}, seed {seed}: {grown.seconds / 60:.2f} minutes, grown {grown.step} steps "
                f"{grown.measurements[-1].frechet:.2f}, full size {other.step} steps "
                f"{other.measurements[-1].frechet:.2f}",
                flush=True,
            )
        for which, runner in zip(ARMS, (grown, other), strict=True):
            outcomes[which].append(runner.outcome())
    return arms["grown"], outcomes


def shortened(name: str, part: float) -> dict[str, Any]:
    """The fields that give a run `part` of its steps, in whole compiled calls."""
    run = study.run("progressive_gan", VARIANTS[name])
    fields = {field: value for field, value in run.model.items() if field != "name"}
    call = run.steps_per_call
    steps = tuple(
        max(round(part * steps / call), 1) * call
        for steps in typed(progressive_gan.Config, fields).steps
    )
    return {"model__stage_steps": steps, "steps": sum(steps)}


def marks_of(run: configs.Run, marks: int) -> list[int]:
    """`marks` steps, evenly apart, on the grid of compiled calls; the last is the end."""
    calls = run.steps // run.steps_per_call
    return [round(calls * (i + 1) / marks) * run.steps_per_call for i in range(marks)]


# --------------------------------------------------------------------------------- the verdict


def medians(outcomes: dict[str, list[Outcome]]) -> tuple[np.ndarray, float]:
    """Medians over the seeds: at the end of each stage [stages]; at full size, at the end."""
    stages = np.array([[one.frechet for one in each.ends] for each in outcomes["grown"]])
    whole = [each.ends[-1].frechet for each in outcomes["full size"]]
    return np.median(stages, axis=0), float(np.median(whole))


def verdict(name: str, outcomes: dict[str, list[Outcome]]) -> tuple[bool, str]:
    """Whether the claim holds, and the sentence that says so."""
    stages, whole = medians(outcomes)
    falls, wins = bool(np.all(np.diff(stages) < 0)), bool(stages[-1] <= whole)
    better = sum(
        a.ends[-1].frechet <= b.ends[-1].frechet
        for a, b in zip(outcomes["grown"], outcomes["full size"], strict=True)
    )
    steps = ", ".join(f"{value:.1f}" for value in stages)
    return falls and wins, (
        f"On {name} the Frechet distance at the ends of the stages is {steps} (medians of "
        f"{len(outcomes['grown'])} seeds), and {whole:.1f} after the same time at full size; "
        f"growing ends at least as well in {better} of {len(outcomes['grown'])} seeds. The claim "
        f"{'holds' if falls and wins else 'does NOT hold'}."
    )


# ------------------------------------------------------------------------------------ the page


def draw(plt: Any, results: dict[str, tuple[Arm, dict[str, list[Outcome]]]]) -> Any:
    """For each data set: seed 0's samples at the end of each stage, and every seed's score."""
    figure = plt.figure(figsize=(13, 5.4 * len(results)), layout="constrained")
    rows = np.atleast_1d(figure.subfigures(len(results), 1))
    for row, (name, (grown, outcomes)) in zip(rows, results.items(), strict=True):
        above, below = row.subfigures(2, 1, height_ratios=[2.6, 2.8])
        last = grown.sides[-1]
        panels = [
            *((f"{side}x{side}", grid)
              for side, grid in zip(grown.sides, outcomes["grown"][0].grids, strict=True)),
            (f"{last}x{last} from the start", outcomes["full size"][0].grids[-1]),
        ]  # fmt: skip
        axes = above.subplots(1, len(panels))
        for axis, (title, grid) in zip(axes, panels, strict=True):
            axis.imshow(pictures.grid(grid))
            axis.set(xticks=[], yticks=[])
            axis.set_title(f"{name}, {title}")
            for spine in axis.spines.values():
                spine.set_visible(False)
        axis = below.subplots()
        for which, colour in ARMS.items():
            lines = [
                (
                    np.array([one.seconds / 60 for one in each.measurements]),
                    np.array([one.frechet for one in each.measurements]),
                )
                for each in outcomes[which]
            ]
            for minutes, values in lines:
                axis.plot(minutes, values, color=colour, linewidth=0.6, alpha=0.4)
            middle = [np.median([line[part] for line in lines], 0) for part in (0, 1)]
            axis.plot(*middle, color=colour, label=which)
        for k, side in enumerate(grown.sides):
            end = np.median([each.ends[k].seconds for each in outcomes["grown"]]) / 60
            axis.axvline(end, color="0.7", linewidth=0.8, linestyle=":")
            axis.text(end, 0.98, f"{side}x{side} ends ", rotation=90, ha="right", va="top",
                      fontsize=8, color="0.4", transform=axis.get_xaxis_transform())  # fmt: skip
        axis.set(
            xlabel="minutes of learning", ylabel="Frechet distance", yscale="log", xlim=(0, None)
        )
        axis.legend(loc="lower left", title="thick: median of the seeds")
    return figure


def page(results: dict[str, tuple[Arm, dict[str, list[Outcome]]]], run: study.Study) -> list[str]:
    """The results page."""
    parts = [
        "# Progressive growing",
        *(verdict(name, outcomes)[1] for name, (_, outcomes) in results.items()),
        run.picture("Samples at the end of each stage, and the score against minutes"),
        "Above, samples of seed 0 at the end of each stage (of the moving average, always of the "
        "same latents), and after the same time at full size; below, every seed as a thin line, "
        "the median as a thick one. That the score falls from stage to stage is partly given: an "
        "image of 4x4 pixels, enlarged, is far from the data whatever it shows. The last line of "
        "each table is the score of the held-out images themselves, averaged to that resolution.",
    ]
    for name, (grown, outcomes) in results.items():
        rows = []
        for seed in range(run.args.seeds):
            for which in ARMS:
                each = outcomes[which][seed]
                stages = [f"{one.frechet:.1f}" for one in each.ends[:-1]]
                stages = stages or ["-"] * (len(grown.sides) - 1)
                score = each.score
                took, final = each.ends[-1].seconds / 60, f"{score.value:.1f}"
                interval = f"{score.low:.1f} to {score.high:.1f}"
                steps = f"{each.ends[-1].step:,}"
                row = (seed, which, f"{took:.2f}", steps, *stages, f"{final} ({interval})")
                rows.append(row)
        heads = [f"{side}x{side}" for side in grown.sides[:-1]]
        coarse = [f"{value:.1f}" for value in grown.coarse]
        rows.append(("", "the data, as coarse", "", "", *coarse))
        parts += [
            f"## {name}",
            study.table(["seed", "run", "minutes", "steps", *heads, "final (95 %)"], rows),
            _protocol(grown, outcomes["grown"][0].score),
        ]
    minutes = {
        name: sum(each.ends[-1].seconds for each in outcomes["grown"] + outcomes["full size"]) / 60
        for name, (_, outcomes) in results.items()
    }
    return [*parts, run.closing(f"0 to {run.args.seeds - 1}", minutes)]


def _protocol(grown: Arm, score: scores.Score) -> str:
    protocol, model = score.protocol, grown.run.model
    return (
        "Frechet distance (not FID: the features are those of the extractor "
        f"{protocol.extractor!r}, sha256 {protocol.sha256[:12]}) of {protocol.n_samples} samples "
        f"from the {protocol.n_real} images of the {protocol.split} split; {protocol.data}. "
        f"Channels {', '.join(map(str, model['widths']))}, stages of "
        f"{', '.join(f'{n:,}' for n in np.diff((0, *grown.ends)))} steps, batch "
        f"{grown.run.data.batch_size}, Adam {grown.run.optimizer.learning_rate:g}, WGAN-GP: "
        "configs/progressive_gan.py."
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the study, and writes its page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = lambda text: text.split(",")
    parser.add_argument("--data", type=names, default=["digits", "mnist"], help="which, by commas")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--part", type=float, default=1.0, help="of the configs' steps")
    parser.add_argument(
        "--rate", type=float, default=0.0, help="learning rate of both; 0 is the config's"
    )
    parser.add_argument("--marks", type=int, default=16, help="measurements in a run")
    parser.add_argument("--drawn", type=int, default=2000, help="samples in a measurement")
    parser.add_argument("--data-dir", default="", help="folder of prepared TFDS data sets")
    run = study.Study(__file__, parser, argv)
    unknown = [name for name in run.args.data if name not in VARIANTS]
    if unknown:
        parser.error(f"--data knows {', '.join(VARIANTS)}, got {', '.join(unknown)}.")
    if (
        min(run.args.seeds, run.args.marks) < 1
        or run.args.part <= 0
        or run.args.drawn < SHOWN
        or run.args.rate < 0
    ):
        parser.error(f"expected seeds, marks >= 1, part > 0, rate >= 0, drawn >= {SHOWN}.")
    run.args.data_dir = run.args.data_dir or None
    results = {name: compete(name, run.args) for name in run.args.data}
    run.args.data_dir = run.args.data_dir or ""
    numbers = {
        f"{name}, {which}, seed {seed}": [list(one) for one in each.measurements]
        for name, (_, outcomes) in results.items()
        for which in ARMS
        for seed, each in enumerate(outcomes[which])
    }
    head = {"each line": "steps, seconds, Frechet distance"}
    run.write(page(results, run), draw(run.pyplot(), results), head | numbers)
    for name, (_, outcomes) in results.items():
        print(verdict(name, outcomes)[1])


if __name__ == "__main__":
    main()
