"""Fully visible sigmoid belief networks.

    genjax-zoo train --config=configs/fvsbn.py:VARIANT --workdir=runs/fvsbn

variant   minutes on two cores   exact log-likelihood to expect on held-out data
digits    0.2                    -23.3 nats (dynamic binarisation)
mnist     0.3                    -96.9 nats (dynamic binarisation; published: -96.58)
"""

from genjax_zoo.run.config import assemble

COSINE = {"name": "adam", "learning_rate": 1e-2, "schedule": "cosine"}

VARIANTS = {
    "digits": {
        "steps": 3000,
        "data": {"source": "digits", "batch_size": 100, "binarise": "dynamic"},
        "model": {"name": "fvsbn"},
        "optimizer": COSINE,
        "steps_per_call": 50,
    },
    "mnist": {
        "steps": 12_000,
        "data": {"source": "tfds:mnist", "batch_size": 100, "binarise": "dynamic"},
        "model": {"name": "fvsbn"},
        "optimizer": COSINE,
        "log_every": 600,
        "checkpoint_every": 6000,
        "sample_every": 6000,
        "eval_every": 6000,
        "steps_per_call": 50,
    },
}


def get_config(variant: str = "digits"):
    return assemble(VARIANTS, variant)
