"""Discrete variational auto-encoders: DALL-E's first half.

    genjax-zoo train --config=configs/discrete_vae.py:VARIANT --workdir=runs/discrete_vae

variant      minutes on two cores   to expect on held-out data, nats: ELBO, iwae (16 samples)
digits       1                      -23.53, -22.66
mnist        not measured yet       not measured yet

Images are binarised dynamically, each pixel drawn anew at every access: a Bernoulli decoder gives
no probability to grey values. The prior over codes is uniform, in the bound as in the samples.
"""

from genjax_zoo.run.config import assemble

COSINE = {"name": "adam", "learning_rate": 1e-3, "schedule": "cosine"}

DIGITS = {
    "steps": 4000,
    "data": {"source": "digits", "batch_size": 100, "binarise": "dynamic"},
    "model": {
        "name": "discrete_vae",
        "decoder": "bernoulli",
        "codes": 16,
        "features": 16,
        "widths": (16, 32),
        "blocks": 1,
        "temperature_end": 0.25,
        "anneal_steps": 3000,
        "kl_steps": 300,
    },
    "optimizer": COSINE,
    "steps_per_call": 50,
    "log_every": 200,
    "checkpoint_every": 2000,
    "sample_every": 2000,
    "eval_every": 2000,
}

VARIANTS = {
    "digits": DIGITS,
    "mnist": {
        **DIGITS,
        "steps": 3000,
        "data": {"source": "tfds:mnist", "batch_size": 100, "binarise": "dynamic"},
        "model": {
            **DIGITS["model"],
            "codes": 32,
            "widths": (16, 32, 64),
            "anneal_steps": 2500,
            "kl_steps": 1000,
        },
        "eval_every": 0,
    },
}


def get_config(variant: str = "digits"):
    return assemble(VARIANTS, variant)
