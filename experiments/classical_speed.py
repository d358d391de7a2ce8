"""How fast counting, energies and states are: RBM against scikit-learn, AIS, the Kalman filter.

    nice python experiments/classical_speed.py

Claims: a PCD-1 step of a restricted Boltzmann machine is at least 2.5 times as fast as
scikit-learn's; annealed importance sampling counts chains times temperatures a second, beside
the products that it consists of; the parallel Kalman filter is held against the sequential one,
and against dynamax's where that is installed (`pip install dynamax`, not needed otherwise).

Protocol: the two sides of a ratio take turns in one process after a warm-up; ratios are of medians,
the other's time over ours, so above 1 we are faster. Both sides of the filter must first give the
same log-likelihood. PyTorch is in experiments/benchmark.py.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from genjax_zoo.run.devices import startup

startup.prepare()

import jax  # noqa: E402  (XLA reads its flags when it starts)
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from benchmark import PAUSE, Ours, cores_present, timed  # noqa: E402
from study import Study, table  # noqa: E402

from genjax_zoo.contract import Array, ZooError  # noqa: E402
from genjax_zoo.maths.inference import kalman  # noqa: E402
from genjax_zoo.maths.mcmc import ais, gibbs  # noqa: E402
from genjax_zoo.models import rbm  # noqa: E402

KEY = jax.random.key(0)


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


def machine_against_sklearn(repeats: int, D: int, H: int, steps: int = 20) -> dict[str, float]:
    """Seconds of a PCD-1 step of a D x H machine, batch 100, float32 on both sides."""
    from sklearn.neural_network import BernoulliRBM

    x = (np.random.default_rng(0).random((16, 100, D)) < 0.2).astype(np.float32)
    on_device = jnp.asarray(x)
    model = rbm.make(rbm.Config(hidden=H, chain="pcd"), optax.sgd(0.01))
    ours = Ours(model, lambda key, i: {"x": on_device[i % 16]}, steps, seed=0)
    theirs = BernoulliRBM(n_components=H, learning_rate=0.01, batch_size=100, random_state=0)

    def run_theirs() -> None:
        for i in range(steps):
            theirs.partial_fit(x[i % 16])

    seconds = interleaved(repeats, ours=ours.run, theirs=run_theirs)
    return {name: each / steps for name, each in seconds.items()}


def annealing(repeats: int, D: int, H: int, chains: int = 100, temperatures: int = 500):
    """Seconds of AIS on a D x H machine, and of the matrix products that it cannot do without."""
    config = ais.Config(temperatures, chains)
    W = 0.05 * jax.random.normal(KEY, (D, H))
    model = rbm.make(rbm.Config(hidden=H), optax.sgd(0.01))
    params = model.init(KEY, {"x": jnp.zeros((2, D))}).params.replace(W=W)
    run = jax.jit(lambda key, params: ais.ais(key, gibbs.path(params), config).log_z)

    @jax.jit
    def products(x: Any) -> Any:
        # Up and down once a temperature, and nothing else.
        step = lambda x, _: (((x @ W) @ W.T) * 1e-3, None)
        return jax.lax.scan(step, x, None, temperatures)[0]

    x = jnp.ones((chains, D))
    return interleaved(
        repeats,
        ais=lambda: run(KEY, params).block_until_ready(),
        products=lambda: products(x).block_until_ready(),
    )


class Series(NamedTuple):
    """A stable system and a series of it, as numpy has them."""

    A: np.ndarray
    Q: np.ndarray
    C: np.ndarray
    R: np.ndarray
    y: np.ndarray


def drawn(states: int, observed: int, length: int) -> Series:
    """`length` times of `observed` numbers, from `states` states that turn and fade."""
    rng = np.random.default_rng(0)
    A = 0.95 * np.linalg.qr(rng.normal(size=(states, states)))[0]
    C, x, y = rng.normal(size=(observed, states)), np.zeros(states), []
    for _ in range(length):
        x = A @ x + np.sqrt(0.1) * rng.normal(size=states)
        y.append(C @ x + rng.normal(size=observed))
    kinds = (A, 0.1 * np.eye(states), C, np.ones(observed), np.array(y))
    return Series(*(a.astype(np.float32) for a in kinds))


def ours(s: Series, parallel: bool) -> Callable[[], Array]:
    """log p(y) by the zoo's filter, compiled."""
    q, p = s.A.shape[0], s.C.shape[0]
    system = kalman.System(
        *map(jnp.asarray, (s.A, s.Q, s.C, np.zeros(p, np.float32), s.R)),
        m1=jnp.zeros(q),
        P1=jnp.eye(q),
    )
    run = jax.jit(lambda system, y: kalman.log_prob(system, y, parallel))
    y = jnp.asarray(s.y)
    return lambda: run(system, y).block_until_ready()


def dynamax(s: Series, parallel: bool) -> Callable[[], Array] | None:
    """The same by dynamax, or None where it is not installed."""
    if importlib.util.find_spec("dynamax") is None:
        return None
    from dynamax.linear_gaussian_ssm import inference, parallel_inference

    q, p = s.A.shape[0], s.C.shape[0]
    zeros = lambda *shape: jnp.zeros(shape)
    params = inference.ParamsLGSSM(
        inference.ParamsLGSSMInitial(zeros(q), jnp.eye(q)),
        inference.ParamsLGSSMDynamics(jnp.asarray(s.A), zeros(q), zeros(q, 0), jnp.asarray(s.Q)),
        inference.ParamsLGSSMEmissions(
            jnp.asarray(s.C), zeros(p), zeros(p, 0), jnp.diag(jnp.asarray(s.R))
        ),
    )
    found = parallel_inference.lgssm_filter if parallel else inference.lgssm_filter
    run = jax.jit(lambda params, y: found(params, y).marginal_loglik)
    y = jnp.asarray(s.y)
    return lambda: run(params, y).block_until_ready()


def filters(repeats: int, states: int, observed: int, length: int) -> dict[str, float]:
    """Median seconds of log p(y) of one series, each way; all of them must agree first."""
    series = drawn(states, observed, length)
    sides = {"one after another": ours(series, False), "in parallel": ours(series, True)}
    sides |= {
        f"dynamax, {name}": run
        for name, parallel in (("one after another", False), ("in parallel", True))
        if (run := dynamax(series, parallel)) is not None
    }
    values = {name: float(run()) for name, run in sides.items()}
    first = values["one after another"]
    for name, nats in values.items():
        if abs(nats - first) > 1e-3 * abs(first):
            raise ZooError(f"the filters disagree: {name} says {nats}, ours {first}.")
    return interleaved(repeats, **sides)


def main() -> None:
    """Measures everything and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    run = Study(__file__, parser)
    if run.args.repeats < 1:
        parser.error("--repeats should be at least 1")
    repeats, cores = run.args.repeats, cores_present()

    D, H = 784, 500
    machine = machine_against_sklearn(repeats, D, H)
    ratio = machine["theirs"] / machine["ours"]
    chains, temperatures = 100, 500
    annealed = annealing(repeats, D, H, chains, temperatures)
    rate = chains * temperatures / annealed["ais"]
    rows = []
    for states, observed, length in ((4, 2, 1000), (4, 2, 10_000), (8, 100, 1000)):
        seconds = filters(repeats, states, observed, length)
        peer = lambda name, seconds=seconds: (
            f"{seconds[f'dynamax, {name}'] / seconds[name]:.2f}"
            if f"dynamax, {name}" in seconds
            else "not installed"
        )
        rows.append(
            [
                f"{states} states, {observed} numbers, {length} times",
                f"{1e3 * seconds['one after another']:.2f}",
                f"{1e3 * seconds['in parallel']:.2f}",
                peer("one after another"),
                peer("in parallel"),
            ]
        )
    run.write(
        [
            "# Speed of the classical models",
            table(
                ["step", "ours, ms", "scikit-learn, ms", "ratio"],
                [
                    [
                        f"RBM {D}x{H}, PCD-1, batch 100, float32",
                        f"{1e3 * machine['ours']:.2f}",
                        f"{1e3 * machine['theirs']:.2f}",
                        f"**{ratio:.2f}**",
                    ]
                ],
            ),
            f"The claim of 2.5 {'holds' if ratio >= 2.5 else 'does NOT hold'}.",
            f"Annealed importance sampling of that machine with {chains} chains: {rate:,.0f} "
            f"chain-temperatures a second; the products alone, up and down once a temperature, "
            f"take {100 * annealed['products'] / annealed['ais']:.0f} % of its time.",
            table(
                [
                    "log-likelihood of one series",
                    "one time after another, ms",
                    "in parallel, ms",
                    "dynamax / ours, one after another",
                    "dynamax / ours, in parallel",
                ],
                rows,
            ),
            "Ratios are of medians of interleaved turns, the other's time over ours: above 1 we "
            "are faster. The filters gave the same log-likelihood within one part in a thousand, "
            "in float32. The parallel filter does more work, which two cores do not make up for: "
            "it is for wide machines.",
            f"{len(os.sched_getaffinity(0))} cores were together worth {cores:.2f} when the run "
            "began.",
            run.closing("0"),
        ],
        numbers={"rbm": machine, "ais": annealed},
    )


if __name__ == "__main__":
    main()
