"""Restricted Boltzmann machines.

    genjax-zoo train --config=configs/rbm.py:digits --workdir=runs/rbm

variant        data, units, chain                        minutes   to expect (test)
digits         8x8 digits > 1/2, 64-16, PCD-1, centred   < 1       log_prob -18.2 nats, exact
digits_cd      the same, 64-64, CD-1                     < 1       squared error 1.62
mnist          MNIST > 1/2, 784-16, PCD-1                0.3       log_prob -148.1 nats, exact
mnist_centred  the same, centred                         0.3       log_prob -142.0 nats, exact

With a constant learning rate the last two wander by a nat or two. They follow a
published protocol (PyDeep's: batch 100, 100 chains, learning rate .01, 50 epochs, log Z by
enumeration), whose numbers are -149.05 and, centred, -142.56. The log_prob of digits_cd is
unnormalised, and no quality.
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
        "optimizer": {"name": "sgd", "learning_rate": 0.1, "schedule": "linear"},
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
