"""Continuous normalising flows.

    genjax-zoo train --config=configs/continuous_flow.py:VARIANT --workdir=runs/continuous_flow

variant       minutes on two cores   to expect on held-out data
digits        0.6                    2.541 ± 0.016 bits/dim
toy           0.5                    -2.828 ± 0.010 nats (entropy 2.8319); 8 of 8 modes
"""

from genjax_zoo.run.config import assemble

COSINE = {"name": "adam", "learning_rate": 5e-3, "schedule": "cosine"}

VARIANTS = {
    "digits": {
        "steps": 3000,
        "data": {"source": "digits", "batch_size": 100, "dequantise": True},
        "model": {
            "name": "continuous_flow",
            "widths": (128, 128),
            "activation": "softplus",
            "probes": 1,
            "steps": 4,
        },
        "optimizer": {**COSINE, "learning_rate": 1e-3},
        "steps_per_call": 10,
        "log_every": 100,
        "eval_every": 500,
    },
    "toy": {
        "steps": 2000,
        "data": {"source": "density:eight_gaussians", "batch_size": 250},
        "model": {"name": "continuous_flow", "widths": (64, 64), "steps": 6},
        "optimizer": COSINE,
        "samples": 1000,
        "steps_per_call": 20,
        "log_every": 100,
        "eval_every": 1000,
    },
}


def get_config(variant: str = "digits"):
    return assemble(VARIANTS, variant)
