"""Claim: a moving texture is a linear dynamical system, and a short clip of it is enough to go on.

Doretto, Chiuso, Wu & Soatto, Dynamic textures, 2003: frames are y_t = C x_t + d + noise and states
x_t = A x_{t-1} + noise; both are identified in closed form ("subspace": C are the leading singular
vectors of the frames, A regresses each state on the last), and new frames are drawn for as long as
one likes. Here the closed form meets EM that starts from it, and EM that also keeps the spectral
radius of A below 1. They learn from the first part of a clip and are measured on the last:

    does each predict the next frame better than this frame does, and than the mean frame?
    does EM give what was held out more probability than the closed form?
    do clips longer than what was seen keep its variance over time?
    do 95 % intervals of a forecast cover 95 %?

How many states there are is chosen on the first part alone, by what the closed form of its first
three quarters says of its last one. A clip of your own is a folder of frames or an animated GIF.

    python experiments/dynamic_texture.py
    python experiments/dynamic_texture.py --clip=FOLDER --side=48
"""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import study

from genjax_zoo.contract import Batch, DataError, Model, State
from genjax_zoo.data.clips import clip as read_clip
from genjax_zoo.data.config import Data
from genjax_zoo.learn.state import eval_params
from genjax_zoo.maths.inference import kalman
from genjax_zoo.models import linear_dynamical_system as lds
from genjax_zoo.run.record import pictures

STATES = (2, 4, 6, 8, 12, 16, 24)
"""Tried; those that a clip is too short for are left out."""
HELD_OUT = 0.25
"""The last part of the clip; and of what is left, of which the number of states is judged by."""
LONGER = 4
"""Generated clips are so many times as long as what was learnt from."""
SHOWN = 2
"""... and the animated picture so many times."""
GREYS = 24
"""Levels in the animated picture, so that it is small."""
GIF_BYTES = 950_000
LEARNERS = {"subspace": study.BLUE, "EM": study.RED, "EM, stable": study.GREEN}
Z = 1.959964
"""The normal's .975 quantile."""


class Clip(NamedTuple):
    """A clip x [T, H, W, C] in [0, 1], of which the first `seen` frames may be learnt from."""

    x: np.ndarray
    seen: int

    @property
    def flat(self) -> np.ndarray:
        """[T, p]."""
        return self.x.reshape(len(self.x), -1)


class Prediction(NamedTuple):
    """How well the held-out frames are predicted, one after the other; H of them.

    Attributes:
      error: squared error of the one-step prediction, a pixel [H].
      log_prob: log p(frame | all before) in nats a pixel [H].
    """

    error: np.ndarray
    log_prob: np.ndarray


def config(q: int, **changed: Any) -> lds.Config:
    """One noise for all pixels; where a clip starts is kept, since one clip says nothing of it."""
    return lds.Config(states=q, noise="isotropic", fixed=("initial",), **changed)


def batch(x: np.ndarray) -> Batch:
    """A clip as a batch of one series."""
    return {"x": jnp.asarray(x)[None]}


def split(x: np.ndarray) -> Clip:
    """The last part is held out; raises DataError for a clip too short to learn from."""
    seen = len(x) - round(HELD_OUT * len(x))
    if seen < 16:
        raise DataError(f"a clip of {len(x)} frames is too short; give one of 22 or more.")
    return Clip(x, seen)


# ------------------------------------------------------------------------------- one after another


@jax.jit
def foretell(system: kalman.System, y: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """For each time of y [T, p]: mean and deviation of what comes, and log p of what came."""
    found = kalman.filter(system, y)
    mean = found.predicted_mean @ system.C.T + system.d
    variance = jnp.einsum("pi,tij,pj->tp", system.C, found.predicted_cov, system.C) + system.R
    return mean, jnp.sqrt(variance), found.log_prob


def gaussian(e: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Mean over the pixels of log N(e [H, p]; 0, variance [p])."""
    return -0.5 * np.mean(e**2 / variance + np.log(2 * np.pi * variance), axis=-1)


def baselines(clip: Clip) -> dict[str, Prediction]:
    """Persistence (the next frame is this one) and the mean frame, each with a variance a pixel."""
    y, n = clip.flat.astype(np.float64), clip.seen
    least = 1e-4 * y[:n].var()
    still = y[n:] - y[n - 1 : -1], np.mean(np.diff(y[:n], axis=0) ** 2, 0)
    mean = y[n:] - y[:n].mean(0), y[:n].var(0)
    of = lambda e, variance: Prediction(np.mean(e**2, -1), gaussian(e, np.maximum(variance, least)))
    return {"persistence": of(*still), "mean frame": of(*mean)}


def measured(model: Model, state: State, clip: Clip) -> Prediction:
    """Prediction by the filter, and checked against the model's own log_prob and measure."""
    y, n, p = clip.flat, clip.seen, clip.flat.shape[1]
    mean, _, log_prob = foretell(eval_params(state).system, y)
    found = Prediction(np.mean((y - np.asarray(mean))[n:] ** 2, -1), np.asarray(log_prob)[n:] / p)
    key = jax.random.key(0)
    whole, first = batch(clip.x), batch(clip.x[:n])
    assert model.log_prob is not None
    density = jax.jit(model.log_prob.value)
    held = (density(key, state, whole) - density(key, state, first))[0] / p
    np.testing.assert_allclose(found.log_prob.sum(), held, rtol=1e-3, atol=1e-3)
    value = jax.jit(model.measures["one_step"].value)
    # Both are means over all frames but the first.
    T = len(y)
    squares = (T - 1) * value(key, state, whole)[0] - (n - 1) * value(key, state, first)[0]
    np.testing.assert_allclose(found.error.sum(), squares, rtol=1e-2)
    return found


def choose(clip: Clip) -> tuple[int, dict[int, float]]:
    """How many states, and for each number what it says of the seen part's end, a pixel."""
    first = split(clip.x[: clip.seen])
    said = {}
    for q in STATES:
        if q > first.seen // 2 or q > first.flat.shape[1] // 2:
            continue
        model = lds.make(config(q))
        state = jax.jit(model.init)(jax.random.key(0), batch(first.x[: first.seen]))
        log_prob = foretell(eval_params(state).system, first.flat)[2]
        said[q] = float(np.mean(np.asarray(log_prob)[first.seen :]) / first.flat.shape[1])
    return max(said, key=lambda q: said[q]), said


def learn(clip: Clip, q: int, steps: int) -> tuple[Model, dict[str, State], np.ndarray]:
    """(model, learner -> state, log-likelihood of the seen part before each step of EM)."""
    seen, key = batch(clip.x[: clip.seen]), jax.random.key(0)
    keys = jax.random.split(jax.random.key(1), steps)
    free, bounded = lds.make(config(q)), lds.make(config(q, stable="enforce"))

    def em(model: Model) -> tuple[State, State, Any]:
        step = lambda state, key: model.step(key, state, seen)
        start = jax.jit(model.init)(key, seen)
        return start, *jax.jit(lambda state: jax.lax.scan(step, state, keys))(start)

    start, best, info = em(free)
    _, stable, _ = em(bounded)
    states = {"subspace": start, "EM": best, "EM, stable": stable}
    return free, states, np.asarray(info["log_prob"])


# ---------------------------------------------------------------------------- what may come


def covered(state: State, clip: Clip) -> tuple[np.ndarray, np.ndarray]:
    """Parts of pixels within their 95 % interval: [H] one step ahead, [H] 1 .. H ahead."""
    system, y, n = eval_params(state).system, clip.flat, clip.seen
    mean, deviation, _ = foretell(system, y)
    one = np.abs(y - mean)[n:] <= Z * np.asarray(deviation)[n:]
    said = kalman.forecast(system, jnp.asarray(y[:n]), len(y) - n)
    far = np.abs(y[n:] - said.mean) <= Z * np.asarray(said.std)
    return one.mean(-1), far.mean(-1)


def generated(q: int, state: State, clip: Clip, seeds: int) -> np.ndarray:
    """Clips [seeds, LONGER * seen, H, W, C], one for each seed."""
    model = lds.make(config(q, sample_length=LONGER * clip.seen))
    draw = jax.jit(lambda key: model.sample(key, state, 1)["x"][0])
    return np.stack([draw(jax.random.key(seed)) for seed in range(seeds)])


def variance_over_time(x: np.ndarray) -> np.ndarray:
    """[..., T, H, W, C] -> [...]: each pixel's variance over time, in the mean over the pixels."""
    return x.var(axis=-4).mean(axis=(-3, -2, -1))


# ---------------------------------------------------------------------------------- the picture


def beside(clip: Clip, clips: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Frames of data | learners, side by side; where the data end, their place is grey."""
    length = SHOWN * clip.seen
    data = np.full((length, *clip.x.shape[1:]), pictures.GAP / 255, np.float32)
    data[: len(clip.x)] = clip.x[:length]
    shown = np.stack([data, *(x[0, :length] for x in clips.values())], axis=1)
    shown = np.round(np.clip(shown, 0, 1) * (GREYS - 1)) / (GREYS - 1)
    return [pictures.grid(frames, columns=len(frames)) for frames in shown]


def figure(
    work: study.Study,
    clip: Clip,
    said: dict[int, float],
    states: dict[str, State],
    predicted: dict[str, Prediction],
    clips: dict[str, np.ndarray],
    coverage: dict[str, tuple[np.ndarray, np.ndarray]],
) -> Any:
    """Strips of film; the choice of q; eigenvalues; error and coverage over the held-out frames."""
    drawn = work.pyplot().figure(figsize=(12, 7.6), layout="constrained")
    over, under = drawn.subfigures(2, 1, height_ratios=(1.15, 1))
    axes = over.subplots()
    strips = np.stack([clip.x[: clip.seen], *(x[0, : clip.seen] for x in clips.values())])
    axes.imshow(pictures.film(strips))
    places = (np.arange(len(strips)) + 0.5) / len(strips) * axes.get_ylim()[0]
    axes.set_yticks(places, ["data", *clips])
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(f"{pictures.FRAMES} of the first {clip.seen} frames; generated ones start anew")

    states_, eigen, error, cover = under.subplots(1, 4)
    states_.plot(list(said), list(said.values()), "o-", color=study.BLUE)
    states_.set(title="choice of q, on the seen part alone", xlabel="states q")
    states_.set_ylabel("held-out nats a pixel")
    circle = np.exp(2j * np.pi * np.linspace(0, 1, 200))
    eigen.plot(circle.real, circle.imag, color="0.8", linewidth=1)
    for (name, state), marker in zip(states.items(), "o+x", strict=True):
        value = np.linalg.eigvals(np.asarray(eval_params(state).system.A))
        style = {"color": LEARNERS[name], "linestyle": "none", "fillstyle": "none"}
        eigen.plot(value.real, value.imag, marker=marker, label=name, **style)
    eigen.set(
        title="eigenvalues of A, upper half", aspect="equal", xlim=(-1.15, 1.15), ylim=(-0.1, 1.15)
    )
    eigen.legend(fontsize=7, loc="lower center")
    times = np.arange(clip.seen + 1, len(clip.x) + 1)
    for name, each in predicted.items():
        colour = LEARNERS.get(name, "0.35" if name == "persistence" else "0.7")
        error.semilogy(times, each.error, color=colour, label=name, linewidth=1.2)
    error.set(title="squared error, one step ahead", xlabel="frame")
    error.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.25), ncols=3)
    for name, (_, far) in coverage.items():
        cover.plot(1 + np.arange(len(far)), far, color=LEARNERS[name], label=name, linewidth=1.2)
    cover.axhline(0.95, color="0.7", linewidth=1, linestyle="--")
    cover.set(title="coverage of 95 % intervals", xlabel="frames ahead", ylim=(0, 1.03))
    cover.legend(fontsize=7, loc="lower left")
    return drawn


# ------------------------------------------------------------------------------------- the page


def difference(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Mean of a - b over the frames, and its standard error; errors of prediction hardly depend on
    each other over time."""
    gap = np.asarray(a, np.float64) - b
    return float(gap.mean()), float(gap.std(ddof=1) / np.sqrt(len(gap)))


def main() -> None:
    """Learns, measures, and writes the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clip", default="waves", help="waves, a folder of frames, or a GIF")
    parser.add_argument("--side", type=int, default=0, help="frames are resized to; 0: as they are")
    parser.add_argument("--em-steps", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=20, help="clips generated by each")
    work = study.Study(__file__, parser)
    args = work.args
    # In float32 a sum of so many pixels is rounded by more than EM gains in a step.
    jax.config.update("jax_enable_x64", True)
    try:
        data = Data(source=f"clip:{args.clip}", resize=args.side)
        clip = split(read_clip(args.clip, data).x.astype(np.float64))
    except DataError as error:
        parser.error(str(error))
    n, held, shape = clip.seen, len(clip.x) - clip.seen, "x".join(map(str, clip.x.shape[1:]))

    q, said = choose(clip)
    model, states, likelihood = learn(clip, q, args.em_steps)
    predicted = baselines(clip) | {name: measured(model, s, clip) for name, s in states.items()}
    coverage = {name: covered(state, clip) for name, state in states.items()}
    clips = {name: generated(q, s, clip, args.seeds) for name, s in states.items()}
    ratio = {
        name: [variance_over_time(x[:, part]) / variance_over_time(clip.x[:n])
               for part in (slice(None, n), slice(-n, None))]
        for name, x in clips.items()
    }  # fmt: skip
    radius = {
        name: float(np.abs(np.linalg.eigvals(np.asarray(eval_params(s).system.A))).max())
        for name, s in states.items()
    }

    rows = []
    for name, each in predicted.items():
        row = [name, f"{each.error.mean():.3g}", f"{each.log_prob.mean():.4f}"]
        if name in states:
            one, far = coverage[name]
            row += [f"{radius[name]:.4f}", f"{100 * one.mean():.1f} %", f"{100 * far.mean():.1f} %"]
            row += [f"{r.mean():.2f} ± {r.std(ddof=1):.2f}" for r in ratio[name]]
        rows.append(row + [""] * (8 - len(row)))
    head = ["", "squared error", "nats a pixel", "radius of A", "covered, 1 ahead",
            f"covered, 1 to {held} ahead", f"variance, frames 1 to {n}",
            f"variance, the last {n} of {LONGER * n}"]  # fmt: skip

    gain = {name: difference(predicted[name].log_prob, predicted["subspace"].log_prob)
            for name in ("EM", "EM, stable")}  # fmt: skip
    less = {name: difference(predicted[name].error, predicted["subspace"].error) for name in gain}
    best = {b: predicted[b].error.mean() for b in ("persistence", "mean frame")}
    worst = max(predicted[name].error.mean() for name in states)
    rises = np.diff(likelihood)
    fell = int(np.sum(rises < -1e-10 * np.abs(likelihood[1:])))
    each_pixel = likelihood / clip.flat[:n].size
    ahead = [difference(predicted[b].error, predicted[name].error) for b in best for name in states]
    surely = all(mean > 2 * se for mean, se in ahead)
    holds = lambda yes: "holds" if yes else "does not hold"
    sure = lambda mean, se: "more" if mean > 2 * se else "less" if mean < -2 * se else "neither"
    within = [name for name, (_, late) in ratio.items()
              if abs(late.mean() - 1) < 2 * late.std(ddof=1) and 0.5 < late.mean() < 2]  # fmt: skip
    claims = [
        f"Predicts better than persistence and the mean frame: {holds(surely)}."
        f" The largest error of the three is {worst:.2g} a pixel, that of persistence "
        f"{best['persistence']:.2g}, of the mean frame {best['mean frame']:.2g}.",
        *(f"{name} gives held-out frames more probability than the closed form: "
          f"{holds(sure(*gain[name]) == 'more')}; {gain[name][0]:+.4f} ± {gain[name][1]:.4f} nats "
          f"a pixel (standard error over the frames). Smaller squared error: "
          f"{holds(sure(*less[name]) == 'less')}; {less[name][0]:+.1e} ± {less[name][1]:.1e}."
          for name in gain),
        f"EM never decreases the likelihood of what it learns from: "
        f"{holds(fell == 0)} in {args.em_steps} steps ({each_pixel[0]:.4f} "
        f"nats a pixel and frame; {likelihood[-1] - likelihood[0]:+.1f} nats in all).",
        *(f"{name}: states stay bounded (spectral radius below 1): {holds(radius[name] < 1)}; "
          f"clips keep the variance of the data to the end of {LONGER} times their length (mean "
          f"ratio between 0.5 and 2, and 1 within two deviations): {holds(name in within)}."
          for name in states),
        *(f"{name}: 95 % intervals cover 90 to 99 % one step ahead: "
          f"{holds(0.9 <= coverage[name][0].mean() <= 0.99)}; up to {held} ahead: "
          f"{holds(0.9 <= coverage[name][1].mean() <= 0.99)}."
          for name in states),
    ]  # fmt: skip
    page = [
        "# Dynamic textures: a short clip, learnt and continued",
        f"{len(clip.x)} frames of {shape} (`clip:{args.clip}`): the first {n} are learnt from, the "
        f"last {held} held out. {q} states, chosen among {', '.join(map(str, said))} on the seen "
        "part alone, by what the closed form of its first three quarters says of the rest"
        + (", which is what the clip was made with." if args.clip == "waves" and q == 8 else "."),
        f'<img src="{work.name}.gif" alt="Data, subspace, EM, stable EM" width="720">',
        "Data | subspace | EM | EM, stable. The data end (grey) where the generated clips, drawn "
        "anew from seed 0, go on.",
        work.picture("Strips of film, choice of q, eigenvalues, errors and coverage"),
        study.table(head, rows),
        "Squared error of the next frame, a pixel, and log p(frame | all before), nats a pixel and "
        "frame, a density of values in [0, 1]: both means over the held-out frames, with "
        "parameters that never saw them. Persistence and the mean frame have a variance a pixel, "
        "of the seen part. Variance: each pixel's over time, of clips generated from "
        f"{args.seeds} seeds, as a part of the data's; mean ± deviation over the seeds.",
        "\n".join(f"- {claim}" for claim in claims),
        "One clip is one draw: its pixels move together, so that a forecast's coverage far ahead "
        "is of a few states, whatever the number of pixels. The intervals take the parameters as "
        "known. \"EM, stable\" shrinks A to a spectral radius of .999 wherever it is larger.",
        work.closing(f"0 and 1 to learn, 0 to {args.seeds - 1} to generate"),
    ]  # fmt: skip
    numbers = {
        "clip": args.clip, "frames": len(clip.x), "seen": n, "states": q,
        "nats_a_pixel_by_states": said,
        "squared_error": {name: each.error.mean() for name, each in predicted.items()},
        "log_prob": {name: each.log_prob.mean() for name, each in predicted.items()},
        "log_prob_gain_and_standard_error": gain,
        "spectral_radius": radius,
        "coverage_one_ahead": {name: one.mean() for name, (one, _) in coverage.items()},
        "coverage_by_frames_ahead": {name: far for name, (_, far) in coverage.items()},
        "variance_ratio_first_and_last": ratio,
        "log_likelihood_of_em": likelihood,
    }  # fmt: skip
    drawn = figure(work, clip, said, states, predicted, clips, coverage)
    work.write(page, drawn, numbers)
    pictures.write_gif(args.out / f"{work.name}.gif", beside(clip, clips), most=GIF_BYTES)


if __name__ == "__main__":
    main()
