"""Neural autoregressive distribution estimators.

    genjax-zoo train --config=configs/nade.py:VARIANT --workdir=runs/nade

variant   minutes on two cores   exact log-likelihood to expect on held-out data
digits    1.1, beside other jobs -22.5 nats (dynamic binarisation)
mnist     not measured yet       not measured yet (dynamic binarisation; published: -85.65)
"""

from genjax_zoo.run.config import assemble

COSINE = {"name": "adam", "learning_rate": 1e-3, "schedule": "cosine"}

VARIANTS = {
    "digits": {
        "steps": 5000,
        "data": {"source": "digits", "batch_size": 100, "binarise": "dynamic"},
        "model": {"name": "nade", "hidden": 100},
        "optimizer": {**COSINE, "learning_rate": 3e-3},
        "steps_per_call": 50,
    },
    "mnist": {
        "steps": 12_000,
        "data": {"source": "tfds:mnist", "batch_size": 100, "binarise": "dynamic"},
        "model": {"name": "nade", "hidden": 500},
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
