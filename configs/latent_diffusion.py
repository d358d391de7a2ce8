"""Latent diffusion models.

    genjax-zoo train --config=configs/latent_diffusion.py:VARIANT --workdir=runs/latent_diffusion

variant      minutes on two cores       to expect on held-out data
digits       0.4                        -21.7 ± 0.5 nats; the VAE alone -23.3 ± 0.2
mnist        not measured yet           not measured yet
mnist_vq     not measured yet           not measured yet

The bound is of log p(x | y) in nats, given the label y. Images are binarised dynamically, each
pixel drawn anew at every access: a Bernoulli decoder gives no probability to grey values.

On a VAE of another run, whose model fields model.vae then repeats, only the diffusion is learnt:
--begin=autoencoder=runs/vae --config.model.first_steps=0.
"""

from genjax_zoo.run.config import assemble

COSINE = {"name": "adam", "learning_rate": 1e-3, "schedule": "cosine"}
SOLVER = {"name": "dpm_solver", "grid": "even_in_log_snr", "steps": 50}

DIGITS = {
    "steps": 4000,
    "data": {"source": "digits", "batch_size": 100, "binarise": "dynamic"},
    "model": {
        "name": "latent_diffusion",
        "first_steps": 1500,
        "measure_steps": 50,
        "vae": {
            "decoder": "bernoulli",
            "latents": 8,
            "widths": (128, 128),
            "activation": "swish",
            "average": 0.99,
        },
        "diffusion": {
            "network": {"width": 96, "blocks": 2},
            "sampling": SOLVER,
            "parametrisation": "velocity",
            "classes": 10,
            "bound_samples": 16,
            "average": 0.99,
        },
    },
    "optimizer": COSINE,
    "steps_per_call": 50,
    "log_every": 200,
    "checkpoint_every": 2000,
    "sample_every": 2000,
    "eval_every": 2000,
}

MNIST = {
    **DIGITS,
    "steps": 30_000,
    "data": {"source": "tfds:mnist", "batch_size": 100, "binarise": "dynamic"},
    "model": {
        **DIGITS["model"],
        "first_steps": 15_000,
        "vae": {**DIGITS["model"]["vae"], "latents": 32, "widths": (200, 200), "average": 0.999},
        "diffusion": {
            **DIGITS["model"]["diffusion"],
            "network": {"width": 256, "blocks": 3},
            "average": 0.999,
        },
    },
    "log_every": 600,
    "checkpoint_every": 6000,
    "sample_every": 6000,
    "eval_every": 0,
}

VARIANTS = {
    "digits": DIGITS,
    "mnist": MNIST,
    "mnist_vq": {
        **MNIST,
        "steps": 8000,
        "model": {
            "name": "latent_diffusion",
            "first": "vq_vae",
            "first_steps": 3000,
            "vq_vae": {
                "decoder": "bernoulli",
                "codes": 128,
                "features": 4,
                "widths": (16, 32),
                "blocks": 1,
            },
            "diffusion": {
                "network": {"name": "unet", "width": 32, "multiples": (1, 2), "blocks": 1},
                "parametrisation": "velocity",
                "sampling": SOLVER,
                "classes": 10,
            },
        },
    },
}


def get_config(variant: str = "digits"):
    return assemble(VARIANTS, variant)
