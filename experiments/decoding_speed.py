"""How fast texts are written: with a cache, and by reading everything again for each symbol.

    nice python experiments/decoding_speed.py

Claim: with a cache a symbol costs what one symbol costs, and not what all before it cost.

Protocol: a GPT of random weights, for what it writes changes nothing of the time; 64 symbols of a
prompt, and as many after it as its context has room for, greedily, in float32. Each side is one
compiled program, in which the stupid one reads the whole row, padded to the context, at every
place; both must write the same symbols. They take turns after a warm-up, and what is told are
medians.
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from genjax_zoo.run.devices import startup

startup.prepare()

import jax  # noqa: E402  (XLA reads its flags when it starts)
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from benchmark import PAUSE, cores_present, timed  # noqa: E402
from study import Study, table  # noqa: E402

from genjax_zoo.contract import Array, Autoregression  # noqa: E402
from genjax_zoo.maths.sequences import decoding  # noqa: E402
from genjax_zoo.maths.sequences.warping import Decoding  # noqa: E402
from genjax_zoo.models import language_model  # noqa: E402

KEY = jax.random.key(0)
GREEDY = Decoding(temperature=0)
PROMPT = 64
SMALL = {"layers": 4, "width": 128, "heads": 4, "context": 256}
BIG = {"layers": 6, "width": 384, "heads": 6, "context": 256}
SIDES = (("4 layers of 128", SMALL, 1), ("4 layers of 128", SMALL, 4), ("6 layers of 384", BIG, 1))
"""A GPT, by its name, and how many texts it writes at once."""


def interleaved(repeats: int, **sides: Callable[[], Any]) -> dict[str, float]:
    """Median seconds of each side, which take turns after a warm-up each."""
    for run in sides.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, run in sides.items():
            time.sleep(PAUSE)
            times[name].append(timed(run))
    return {name: statistics.median(each) for name, each in times.items()}


def reread(model: Autoregression, state: Any, prompt: Array, length: int) -> Array:
    """The stupid twin: greedy symbols [n, L], each after the whole row was read from its start."""
    n, P = prompt.shape

    def one(t: Array, x: Array) -> Array:
        _, empty = model.start(state, n, P + length)
        seen = jnp.where(jnp.arange(P + length) < P + t, x, decoding.PADDING)
        logits, _ = model.extend(state, empty, seen)
        after = jax.lax.dynamic_index_in_dim(logits, P + t - 1, axis=1, keepdims=False)
        return x.at[:, P + t].set(jnp.argmax(after, axis=-1).astype(jnp.int32))

    x = jnp.pad(prompt, ((0, 0), (0, length)))
    return jax.lax.fori_loop(0, length, one, x)[:, P:]


def measured(repeats: int, n: int, shape: dict[str, int]) -> dict[str, Any]:
    """Symbols a second of both sides, at n texts at once."""
    config = language_model.Config(vocabulary=65, activation="gelu_tanh", **shape)
    model = language_model.make(config, optax.sgd(0.0))
    state = model.init(KEY, {"x": jnp.zeros((1, 8), jnp.int32)})
    writes, length = model.autoregression, config.context - PROMPT
    assert writes is not None
    prompt = jax.random.randint(KEY, (n, PROMPT), 0, config.vocabulary)
    once = jax.jit(lambda s: decoding.write(KEY, writes, s, n, length, GREEDY, prompt).x)
    again = jax.jit(lambda s: reread(writes, s, prompt, length))
    same = float(np.mean(np.asarray(once(state)) == np.asarray(again(state))))
    seconds = interleaved(
        repeats,
        cached=lambda: jax.block_until_ready(once(state)),
        reread=lambda: jax.block_until_ready(again(state)),
    )
    rate = {name: n * length / each for name, each in seconds.items()}
    return {"n": n, "same": same, **rate, "ratio": seconds["reread"] / seconds["cached"]}


def main() -> None:
    """Runs the study and writes its page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    run = Study(__file__, parser)
    cores = cores_present()
    found = {(name, n): measured(run.args.repeats, n, shape) for name, shape, n in SIDES}
    rows = [
        [
            name,
            str(n),
            f"{each['cached']:,.0f}",
            f"{each['reread']:,.0f}",
            f"**{each['ratio']:.1f}**",
        ]
        for (name, n), each in found.items()
    ]
    run.write(
        [
            "# How fast texts are written",
            table(
                [
                    "GPT, context 256, float32",
                    "texts",
                    "symbols/s, cache",
                    "symbols/s, all again",
                    "ratio",
                ],
                rows,
            ),
            "Both wrote the same symbols, but for "
            f"{100 * (1 - min(each['same'] for each in found.values())):.2g} % at most, where two "
            "symbols are equally likely up to rounding. "
            f"{cores:.2f} cores were there when the run began.",
            run.closing("0"),
        ],
        numbers={f"{name}, {n} texts": each for (name, n), each in found.items()},
    )


if __name__ == "__main__":
    main()
