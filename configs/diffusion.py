"""Diffusion models.

    genjax-zoo train --config=configs/diffusion.py:VARIANT --workdir=runs/diffusion

variant      minutes on two cores       to expect
digits       not measured yet
toy          not measured yet           eight Gaussians, entropy 2.8314 nats
"""

from genjax_zoo.run.config import assemble

COSINE = {"name": "adam", "learning_rate": 1e-3, "schedule": "cosine"}
VARIANTS = {
    "digits": {
        "steps": 8000,
        "data": {"source": "digits", "batch_size": 100, "dequantise": True, "scale": "symmetric"},
        "model": {"name": "diffusion", "network": {"width": 256, "blocks": 3}, "classes": 10},
        "optimizer": COSINE,
        "steps_per_call": 50,
    },
    "toy": {
        "steps": 10_000,
        "data": {"source": "density:eight_gaussians", "batch_size": 500},
        "model": {
            "name": "diffusion",
            "network": {"width": 128, "blocks": 3},
            "data_std": 2.0,
            "sampling": {"name": "dpm_solver", "grid": "even_in_log_snr", "steps": 50},
            "parametrisation": "velocity",
        },
        "optimizer": COSINE,
        "samples": 1000,
        "steps_per_call": 50,
    },
}


def get_config(variant: str = "digits"):
    return assemble(VARIANTS, variant)
