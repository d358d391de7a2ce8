"""Variational auto-encoders.

    genjax-zoo train --config=configs/vae.py:VARIANT --workdir=runs/vae

variant      minutes on two cores       to expect on held-out data, nats: ELBO, K-draw estimate
digits       0.3                        -22.40, -22.01 (K = 64)
digits_conv  0.4                        -22.76, -22.28 (K = 64)
toy          0.8                        -2.68, -2.56 (K = 64), a density
mnist        1, and 2 of measuring      -96.8, -93.0 (K = 5000, all 10,000 test images)
mnist_conv   not measured yet           not measured yet (K = 500)

Images are binarised dynamically, each pixel drawn anew at every access: a Bernoulli decoder gives
no probability to grey values.
"""

from genjax_zoo.run.config import assemble

COSINE = {"name": "adam", "learning_rate": 1e-3, "schedule": "cosine"}

# Burda, Grosse & Salakhutdinov 2016, section 5, one stochastic layer, in 60 epochs of 600 steps
MNIST = {
    "steps": 36_000,
    "data": {"source": "tfds:mnist", "batch_size": 100, "binarise": "dynamic"},
    "model": {
        "name": "vae",
        "decoder": "bernoulli",
        "latents": 50,
        "widths": (200, 200),
        "activation": "tanh",
        "importance_samples": 5000,
    },
    "optimizer": COSINE,
    "log_every": 600,
    "checkpoint_every": 6000,
    "sample_every": 6000,
    "eval_every": 0,
    "steps_per_call": 50,
}

# Latents, steps and the average were chosen by eye, for samples one can read.
DIGITS = {
    "steps": 16_000,
    "data": {"source": "digits", "batch_size": 100, "binarise": "dynamic"},
    "model": {
        "name": "vae",
        "decoder": "bernoulli",
        "latents": 8,
        "widths": (256, 256),
        "activation": "swish",
        "average": 0.999,
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
    "digits_conv": {**DIGITS, "model": {**DIGITS["model"], "network": "conv", "widths": (32, 64)}},
    "toy": {
        "steps": 10_000,
        "data": {"source": "density:two_moons", "batch_size": 500},
        "model": {
            "name": "vae",
            "decoder": "gaussian",
            "variance": "scalar",
            "noise_std": 0.3,
            "latents": 2,
            "widths": (64, 64),
            "activation": "swish",
            "sample_means": False,
        },
        "optimizer": COSINE,
        "samples": 1000,
        "steps_per_call": 50,
    },
    "mnist": MNIST,
    "mnist_conv": {
        **MNIST,
        "model": {
            **MNIST["model"],
            "network": "conv",
            "widths": (32, 64),
            "activation": "swish",
            "importance_samples": 500,  # each takes about nine times the mlp's products
        },
    },
}


def get_config(variant: str = "digits"):
    return assemble(VARIANTS, variant)
