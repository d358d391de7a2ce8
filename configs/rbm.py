"""Restricted Boltzmann machines.

    genjax-zoo train --config=configs/rbm.py:digits --workdir=runs/rbm

variant        data, units, chain                         minutes   to expect (log_prob, test)
digits         8x8 digits > 1/2, 64-16, PCD-1, centred    not measured yet
digits_cd      the same, 64-64, CD-1                      not measured yet (unnormalised)
mnist          MNIST > 1/2, 784-16, PCD-1                 not measured yet
mnist_centred  the same, centred                          not measured yet

The two of MNIST are a published protocol (PyDeep, see REFERENCES: batch 100, 100 chains, learning
rate .01, 50 epochs, log Z by enumeration; -149.05 plain, -142.56 centred).
"""

from genjax_zoo.run.config import assemble


def _mnist(centred):
    return {
        "steps": 30_000,
        "data": {"source": "tfds:mnist", "batch_size": 100, "binarise": "threshold"},
        "model": {
            "name": "rbm",
            "hidden": 16,
            "chain": "pcd",
            "k": 1,
            "chains": 100,
            "centred": centred,
            "sample_means": True,
        },
        "optimizer": {"name": "sgd", "learning_rate": 0.01},
        "log_every": 600,
        "checkpoint_every": 6000,
        "sample_every": 6000,
        "eval_every": 6000,
        "steps_per_call": 100,
    }


def _digits(**model):
    return {
        "steps": 10_000,
        "data": {"source": "digits", "batch_size": 100, "binarise": "threshold"},
        "model": {"name": "rbm", "sample_means": True, **model},
        "optimizer": {"name": "sgd", "learning_rate": 0.02},
        "log_every": 200,
        "checkpoint_every": 2000,
        "sample_every": 2000,
        "eval_every": 2000,
        "steps_per_call": 100,
    }


VARIANTS = {
    "digits": _digits(hidden=16, chain="pcd", centred=True),
    "digits_cd": _digits(hidden=64, chain="cd"),
    "mnist": _mnist(centred=False),
    "mnist_centred": _mnist(centred=True),
}


def get_config(variant: str = "digits"):
    return assemble(VARIANTS, variant)
