"""Deep belief networks.

    genjax-zoo train --config=configs/dbn.py:digits --workdir=runs/dbn

variant       data, layers                          minutes            to expect (test)
digits        8x8 digits > 1/2, 64-64-64, up-down   < 1                bound -17.65 nats, estimate
digits_label  the same with labels at the top       1.2                error 8.4 %, bound -17.59
mnist         MNIST, dynamic, 784-500-2000, up-down not measured yet   bound not measured yet
mnist_label   784-500-500-2000 and labels, up-down  not measured yet   error not measured yet

`bound` lies below log p(x) if log Z, estimated by annealing the top pair, does not flatter. The
layers of the last are those of Hinton, Osindero & Teh 2006.
"""

from genjax_zoo.run.config import assemble


def _digits(**model):
    return {
        "steps": 12_000,
        "data": {"source": "digits", "batch_size": 100, "binarise": "threshold"},
        "model": {
            "name": "dbn",
            "widths": (64, 64),
            "stage_steps": (4000, 4000),
            "up_down": True,
            "machine": {"chain": "pcd", "sample_means": True},
            **model,
        },
        "optimizer": {"name": "sgd", "learning_rate": 0.1, "schedule": "linear"},
        "log_every": 200,
        "checkpoint_every": 4000,
        "sample_every": 4000,
        "eval_every": 4000,
        "steps_per_call": 100,
    }


def _mnist(**model):
    return {
        "steps": 60_000,
        "data": {"source": "tfds:mnist", "batch_size": 100, "binarise": "dynamic"},
        "model": {
            "name": "dbn",
            "up_down": True,
            "machine": {"chain": "pcd", "sample_means": True, "ais": {"temperatures": 5000}},
            **model,
        },
        "optimizer": {"name": "sgd", "learning_rate": 0.05, "schedule": "linear"},
        "log_every": 600,
        "checkpoint_every": 6000,
        "sample_every": 12_000,
        "eval_every": 0,
        "steps_per_call": 20,
    }


VARIANTS = {
    "digits": _digits(),
    "digits_label": _digits(classes=10),
    "mnist": _mnist(widths=(500, 2000), stage_steps=(24_000, 18_000)),
    "mnist_label": _mnist(
        widths=(500, 500, 2000), stage_steps=(15_000, 10_000, 15_000), classes=10
    ),
}


def get_config(variant: str = "digits"):
    return assemble(VARIANTS, variant)
