"""Diffusion models.

    genjax-zoo train --config=configs/diffusion.py:VARIANT --workdir=runs/diffusion

variant      minutes on two cores       to expect
digits       not measured yet
toy          not measured yet           eight Gaussians, entropy 2.8314 nats
captions     not measured yet           caption match, seen and held-out combinations
mnist_captions not measured yet         the same of MNIST's digits

Of the captioned scenes (genjax_zoo/captions.py): genjax-zoo sample --workdir=runs/diffusion
--text="a red seven above a blue two".
"""

from genjax_zoo import captions
from genjax_zoo.run.config import assemble

COSINE = {"name": "adam", "learning_rate": 1e-3, "schedule": "cosine"}
WORDS = {"vocabulary": len(captions.WORDS)}
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
    "captions": {
        "steps": 5000,
        "data": {"source": "captions:digits", "batch_size": 32, "scale": "symmetric"},
        "model": {
            "name": "diffusion",
            "network": {
                **{"name": "unet", "width": 24, "multiples": (1, 2, 3), "blocks": 1},
                "attention": (8, 4),
            },
            "text": WORDS,
            "parametrisation": "velocity",
            # What stands where is told where there is much noise, which the others hardly weigh.
            "weighting": "edm",
            "guidance": 1.0,
            "sampling": {"name": "dpm_solver", "grid": "even_in_log_snr", "steps": 20},
            **{"ode_steps": 20, "bound_samples": 8},
        },
        "optimizer": {**COSINE, "learning_rate": 1.5e-3},
        "steps_per_call": 20,
        **{"sample_every": 0, "eval_every": 0, "samples": 36},
    },
    "mnist_captions": {
        "steps": 50_000,
        "data": {"source": "captions:tfds:mnist", "batch_size": 128, "scale": "symmetric"},
        "model": {
            "name": "diffusion",
            "network": {
                **{"name": "unet", "width": 64, "multiples": (1, 2, 2), "blocks": 1},
                "attention": (14, 7),
            },
            "text": WORDS,
            "guidance": 1.0,
            "sampling": {"name": "dpm_solver", "grid": "even_in_log_snr", "steps": 20},
        },
        "optimizer": COSINE,
        "steps_per_call": 20,
    },
}


def get_config(variant: str = "digits"):
    return assemble(VARIANTS, variant)
