"""Normalising flows.

    genjax-zoo train --config=configs/flow.py:VARIANT --workdir=runs/flow

variant          minutes on two cores   to expect on held-out data
digits           not measured yet       not measured yet
toy              not measured yet       not measured yet (entropy 2.8314)
"""

from genjax_zoo.run.config import assemble

COSINE = {"name": "adam", "learning_rate": 2e-3, "schedule": "cosine"}

TOY = {
    "steps": 6000,
    "data": {"source": "density:eight_gaussians", "batch_size": 500},
    "model": {"name": "flow", "architecture": "spline", "layers": 4, "widths": (64, 64)},
    "optimizer": COSINE,
    "samples": 1000,
    "steps_per_call": 50,
    "eval_every": 2000,
}

VARIANTS = {
    "digits": {
        "steps": 3000,
        "data": {"source": "digits", "batch_size": 100, "dequantise": True},
        "model": {
            "name": "flow",
            "architecture": "realnvp",
            "layers": 4,
            "scales": 2,
            "widths": (32, 32),
            "alpha": 0.05,
        },
        "optimizer": {**COSINE, "learning_rate": 1e-3},
        "steps_per_call": 20,
        "eval_every": 500,
    },
    "toy": TOY,
    "toy_checkerboard": {
        **TOY,
        "data": {"source": "density:checkerboard", "batch_size": 500},
    },
}


def get_config(variant: str = "digits"):
    return assemble(VARIANTS, variant)
