"""Deep Boltzmann machines.

    genjax-zoo train --config=configs/dbm.py:digits --workdir=runs/dbm

variant      data, layers                          minutes  to expect (test)
digits       8x8 digits > 1/2, 64-64-64            < 1      bound -17.27 nats, estimate
digits_deep  the same, 64-12-32-8                  1.2      log_prob -19.15, lower bound
bars         4x4 bars and stripes, 16-8-8          < 1      log_prob -4.16, lower bound
mnist        MNIST, dynamic, 784-500-1000          34       bound -92.3, reverse -92.6, estimates

Where the odd layers have 20 units at most, log Z is exact and log_prob a lower bound. Elsewhere
`bound` is the same number with log Z by annealed importance sampling, `bound_reverse` with log Z
by reverse annealing: an estimate of a bound. The layers of the last are those of Salakhutdinov &
Hinton 2009, whose bound on the test set is -84.62 nats, after far longer learning; here an RBM of
500 units alone does better (configs/rbm.py:mnist_500_dynamic). 34 minutes were beside other jobs.

A machine can be begun from a run of the family rbm, and then needs no steps of its own:

    genjax-zoo train --config=configs/dbm.py:digits --workdir=runs/dbm --begin=layer_1=runs/rbm \\
      --config.model.widths="(16, 64)" --config.model.stage_steps="(0, 2000)"

Two centred RBMs begun so, on the digits and layers of 64-32-20 (seed 0, 397 images held out, bounds
with log Z by AIS): -24.1 nats when they are put together, -19.3 after 500 steps of the whole and
-18.4 after 4,000; from the family's own greedy stages -18.8, -18.5 and -18.2, and from nothing
-25.0, -22.6 and -18.7.
"""

from genjax_zoo.run.config import assemble


def _digits(**model):
    return {
        "steps": 12_000,
        "data": {"source": "digits", "batch_size": 100, "binarise": "threshold"},
        "model": {"name": "dbm", "sample_means": True, **model},
        "optimizer": {"name": "sgd", "learning_rate": 0.1, "schedule": "linear"},
        "log_every": 200,
        "checkpoint_every": 4000,
        "sample_every": 4000,
        "eval_every": 4000,
        "steps_per_call": 100,
    }


VARIANTS = {
    "digits": _digits(widths=(64, 64), stage_steps=(2000, 2000)),
    "digits_deep": _digits(widths=(12, 32, 8), stage_steps=(2000, 2000, 2000)),
    "bars": {
        **_digits(widths=(8, 8), stage_steps=(1000, 1000)),
        "steps": 6000,
        "data": {"source": "density:bars_and_stripes", "batch_size": 100},
        "checkpoint_every": 2000,
        "sample_every": 2000,
        "eval_every": 2000,
    },
    "mnist": {
        "steps": 50_000,
        "data": {"source": "tfds:mnist", "batch_size": 100, "binarise": "dynamic"},
        "model": {
            "name": "dbm",
            "widths": (500, 1000),
            "stage_steps": (12_000, 12_000),
            "rate": 0.3,
            "weight_decay": 2e-4,
            "sample_means": True,
            "ais": {"temperatures": 5000},
        },
        "optimizer": {"name": "sgd", "learning_rate": 0.05, "schedule": "linear"},
        "log_every": 600,
        "checkpoint_every": 6000,
        "sample_every": 12_000,
        "eval_every": 0,
        "steps_per_call": 20,
    },
}


def get_config(variant: str = "digits"):
    return assemble(VARIANTS, variant)
