"""Variational auto-encoders.

    genjax-zoo train --config=configs/vae.py:VARIANT --workdir=runs/vae

variant      minutes on two cores       to expect on held-out data, nats: ELBO, K-draw estimate
digits       0.3                        -22.40, -22.01 (K = 64)
digits_conv  0.4                        -22.76, -22.28 (K = 64)
digits_grey  0.4                        -86.7, -82.3 (K = 64), 1.854 bits/dim, given the label
toy          0.8                        -2.68, -2.56 (K = 64), a density
mnist        1, and 2 of measuring      -96.8, -93.0 (K = 5000, all 10,000 test images)
mnist_conv   not measured yet           not measured yet (K = 500)
mnist_flow   not measured yet           not measured yet (K = 500)
iwae         5, and 9 of measuring, on  -97.6, -90.8 (K = 5000, all 10,000 test images)
             a core shared with others
iwae_long    not measured yet, a GPU    not measured yet; published -84.78 (K = 5000)
vae_long     not measured yet, a GPU    not measured yet; published -86.76 (K = 5000)

`iwae` learns from 5 samples, `iwae_long` from 50. The published numbers are those of Burda, Grosse
& Salakhutdinov 2016, table 1, one stochastic layer, k = 50 and k = 1.
Images are binarised dynamically, each pixel drawn anew at every access: a Bernoulli decoder gives
no probability to grey values. `digits_grey` gives it to the grey levels themselves, for each label.
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


def iwae(samples):
    """Those steps on the bound with so many samples."""
    return {**MNIST, "model": {**MNIST["model"], "objective": "iwae", "training_samples": samples}}


# Section 5 of the same: 3^i epochs at 1e-3 · 10^(-i / 7), i = 0 ... 7, are 3280 in all. A cosine
# goes as far down, and further.
LONG = {
    "steps": 3280 * 600,
    "optimizer": {**COSINE, "eps": 1e-4},
    "log_every": 6000,
    "checkpoint_every": 60_000,
    "sample_every": 300_000,
    "steps_per_call": 600,
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
    "digits_grey": {
        **DIGITS,
        "steps": 4000,
        "data": {"source": "digits", "batch_size": 100},
        "model": {
            **DIGITS["model"],
            "decoder": "discretised_logistic",
            "levels": 17,
            "noise_std": 0.3,
            "classes": 10,
            "sample_means": False,
        },
    },
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
    "mnist_flow": {
        **MNIST,
        "model": {**MNIST["model"], "flow_steps": 2, "flow_width": 200, "importance_samples": 500},
    },
    "iwae": iwae(5),
    "iwae_long": {**iwae(50), **LONG},
    "vae_long": {**MNIST, **LONG},
}


def get_config(variant: str = "digits"):
    return assemble(VARIANTS, variant)
