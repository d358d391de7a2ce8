"""Hierarchical variational auto-encoders: two stochastic layers, bottom-up and ladder.

    genjax-zoo train --config=configs/hierarchical_vae.py:VARIANT --workdir=runs/hierarchical_vae

variant          minutes on two cores   to expect on held-out data, nats: ELBO, K-draw estimate
digits           0.4                    -23.20, -22.67 (K = 64)
mnist            7, and 6 of measuring, -98.9, -95.8 (K = 500, all 10,000 test images)
                 on a busy core
mnist_bottom_up  not measured yet       not measured yet (K = 500)

`digits` and `mnist` are ladders. Images are binarised dynamically, each pixel drawn anew at every
access.
"""

from genjax_zoo.run.config import assemble

COSINE = {"name": "adam", "learning_rate": 1e-3, "schedule": "cosine"}

# The two stochastic layers of Burda, Grosse & Salakhutdinov 2016, section 5: 784-200-200-100 and
# 100-100-100-50, in 60 epochs of 600 steps; the warm-up of Sønderby et al. 2016 over 20 of them.
MNIST = {
    "steps": 36_000,
    "data": {"source": "tfds:mnist", "batch_size": 100, "binarise": "dynamic"},
    "model": {
        "name": "hierarchical_vae",
        "posterior": "ladder",
        "latents": (100, 50),
        "widths": ((200, 200), (100, 100)),
        "activation": "tanh",
        "warmup_steps": 12_000,
        "importance_samples": 500,
    },
    "optimizer": COSINE,
    "log_every": 600,
    "checkpoint_every": 6000,
    "sample_every": 6000,
    "eval_every": 0,
    "steps_per_call": 50,
}

VARIANTS = {
    "digits": {
        "steps": 8000,
        "data": {"source": "digits", "batch_size": 100, "binarise": "dynamic"},
        "model": {
            "name": "hierarchical_vae",
            "posterior": "ladder",
            "latents": (8, 4),
            "widths": ((128,), (64,)),
            "activation": "swish",
            "warmup_steps": 500,
            "free_bits": 0.05,
        },
        "optimizer": COSINE,
        "steps_per_call": 50,
        "log_every": 200,
        "checkpoint_every": 2000,
        "sample_every": 2000,
        "eval_every": 2000,
    },
    "mnist": MNIST,
    "mnist_bottom_up": {**MNIST, "model": {**MNIST["model"], "posterior": "bottom_up"}},
}


def get_config(variant: str = "digits"):
    return assemble(VARIANTS, variant)
