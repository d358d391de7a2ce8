"""Claim: a second layer raises the bound on log p(x) over what the machine alone reaches.

Hinton, Osindero & Teh 2006: turned over and put on top of itself, a restricted Boltzmann machine
becomes a deep belief network with the same p(x); from there every step by which the upper machine
models q(h | x) better raises a lower bound on log p(x), which is an equality at the start. Here a
machine that has been trained (`--workdir`, a run of configs/rbm.py with weights of its own) gets
such a layer, which learns by persistent contrastive divergence at a rate that falls to 0; both are
measured on the whole test set.

    genjax-zoo train --config=configs/rbm.py:mnist_500_dynamic --workdir=runs/rbm --data_dir=DIR
    python experiments/depth_raises_the_bound.py --workdir=runs/rbm --data-dir=DIR
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import study

from genjax_zoo.contract import ZooError
from genjax_zoo.data import source as sources
from genjax_zoo.learn import optimizers
from genjax_zoo.measure import examples
from genjax_zoo.measure.results import Result
from genjax_zoo.models import dbn
from genjax_zoo.models import rbm as family
from genjax_zoo.run import config as configs
from genjax_zoo.run import trained as runs
from genjax_zoo.run.record.workdir import Workdir
from genjax_zoo.run.setup import Setup, set_up
from genjax_zoo.typed import typed

CHUNK = 500


def log_z_error(result: Result) -> float:
    """The standard error of log Z, which a result's detail tells."""
    found = re.search(r"log_z_se ([0-9.e+-]+)", result.detail)
    assert found is not None, result.detail
    return float(found[1])


def trained(workdir: Workdir, data_dir: str) -> tuple[Setup, int, Any]:
    """A run of the family rbm: its set-up, how long it has learnt, and its state."""
    run = configs.read(workdir.read_config())
    if run.model["name"] != "rbm":
        raise ZooError(f"--workdir should hold an rbm, got {run.model['name']}.")
    setup = set_up(run, data_dir or None, learning=False)
    return setup, *runs.restore(setup, workdir)


def network(setup: Setup, state: Any, rate: float, steps: int) -> tuple[Any, Any]:
    """A deep belief network whose lower machine is learnt already, about to begin the upper one."""
    fields = {k: v for k, v in setup.run.model.items() if k != "name"}
    machine = typed(family.Config, fields)
    D, H = state.params.W.shape
    machine = dataclasses.replace(machine, hidden=family.Config().hidden)
    tx = optimizers.make(optimizers.Config("sgd", rate, schedule="linear"), steps + 1)
    config = dbn.Config(widths=(H, D), stage_steps=(1,), turned=True, machine=machine)
    model = dbn.make(config, tx)
    fresh = jax.jit(model.init)(jax.random.key(0), setup.example)
    # The optimizer of the lower machine has nothing left to do.
    below = fresh.states[0].replace(params=state.params, memory=state.memory)
    return model, fresh.replace(count=jnp.ones((), jnp.int32), states=(below, fresh.states[1]))


def main() -> None:
    """Trains the upper machine, measures both, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, help="of a trained rbm")
    parser.add_argument("--data-dir", default="", help="of prepared TFDS sets")
    parser.add_argument("--steps", type=int, default=60_000)
    parser.add_argument("--rate", type=float, default=0.02)
    run = study.Study(__file__, parser)
    args = run.args
    setup, learnt, state = trained(Workdir(args.workdir), args.data_dir)
    source, size = setup.source, setup.run.data.batch_size
    model, deep = network(setup, state, args.rate, args.steps)
    step_zero = deep

    @jax.jit
    def chunk(deep: Any, resident: Any, first: Any, rows: Any) -> tuple[Any, Any]:
        def one(deep: Any, at: tuple[Any, Any]) -> tuple[Any, Any]:
            key_data, key = jax.random.split(jax.random.fold_in(jax.random.key(1), at[0]))
            deep, info = model.step(key, deep, source.batch(key_data, resident, at[1]))
            return deep, info["layer_2/free_energy_gap"].value

        return jax.lax.scan(one, deep, (first + jnp.arange(CHUNK), rows))

    resident = jax.device_put(source.resident)
    blocks = [(i, min(i + CHUNK, args.steps)) for i in range(0, args.steps, CHUNK)]
    for (first, _), rows in zip(blocks, sources.feeds(source, blocks, slice(0, size)), strict=True):
        deep, gap = chunk(deep, resident, first, rows)
        if first % (20 * CHUNK) == 0:
            print(f"step {first + CHUNK}: free energy gap {float(gap.mean()):.3f}", flush=True)

    key = jax.random.key(2)
    measure = lambda model, state, only, step: examples.evaluate(
        model, state, source, key, step, only=only
    )
    machine = measure(setup.model, state, ("ais", "ais_reverse"), learnt)
    # One step moves next to nothing: the network as it begins.
    begun = model.step(jax.random.key(3), step_zero, dict(setup.example))[0]
    start = measure(model, begun, ("bound",), 1)
    end = measure(model, deep, ("bound",), args.steps)
    named = [("RBM alone", one) for one in machine]
    named += [("DBN before the upper machine learns", start[0]), ("DBN", end[0])]
    # Both are means over the same images, whose spread they share: log Z is what they do not.
    gain = end[0].value - machine[0].value
    error = math.hypot(*(log_z_error(one) for one in (machine[0], end[0])))
    verdict = "is not seen" if abs(gain) < 2 * error else "holds" if gain > 0 else "does NOT hold"
    H, D = deep.states[1].params.W.shape
    run.write(
        [
            "# A second layer raises the bound",
            f"The claim {verdict} here: the network's bound lies {gain:+.2f} nats from the "
            f"machine's log-likelihood, {error:.2f} being one standard error of the two estimates "
            "of log Z (forward AIS both).",
            study.table(
                ["model", "number", "nats", "standard error", "what it is"],
                [
                    [who, one.name, f"{one.value:.2f}", f"{one.standard_error:.2f}", one.detail]
                    for who, one in named
                ],
            ),
            f"Data: {machine[0].preprocessing}, {machine[0].split} split, n={machine[0].n}. "
            f"Machine: {D} visible and {H} hidden units after {learnt} steps; upper machine: {H} "
            f"and {D}, begun as the lower one turned over, PCD-{setup.run.model['k']}, "
            f"{args.steps} steps of {size} at a rate from {args.rate} to 0. Nothing else was "
            "tried. A bound by AIS is an estimate of a bound: where log Z is underestimated it "
            "flatters.",
            run.closing("0"),
        ],
        numbers={f"{who}, {one.name}": one._asdict() for who, one in named},
    )


if __name__ == "__main__":
    main()
