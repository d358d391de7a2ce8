"""Normalising flows.

    genjax-zoo train --config=configs/flow.py:VARIANT --workdir=runs/flow

variant          minutes on two cores   to expect on held-out data
digits           0.5                    85.98 nats, a density; 2.15 bits/dim
toy              0.5                    -2.831 nats (entropy 2.8319)
toy_checkerboard 0.5                    -3.566 nats (entropy 3.4657)
mnist_nice       3                      4.324 bits/dim (published, with wider layers: 4.34)
mnist_realnvp    18                     1.925 bits/dim
mnist_glow       not measured yet       not measured yet

Images are dequantised by uniform noise of one level, which bits/dim of discrete data count in. The
toys are the mean over 10,000 fresh draws, standard error .01 and .003.
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

MNIST = {
    "steps": 6000,
    "data": {"source": "tfds:mnist", "batch_size": 100, "dequantise": True},
    "model": {
        "name": "flow",
        "architecture": "realnvp",
        "layers": 4,
        "scales": 2,
        "widths": (64, 64),
        "alpha": 0.05,
        "average": 0.999,
    },
    "optimizer": {**COSINE, "learning_rate": 1e-3},
    "log_every": 200,
    "checkpoint_every": 2000,
    "sample_every": 2000,
    "eval_every": 0,
    "steps_per_call": 20,
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
    # Dinh, Krueger & Bengio 2015, section 5.1, with two layers of 512 units for five of 1000.
    "mnist_nice": {
        **MNIST,
        "data": {**MNIST["data"], "batch_size": 200},
        "model": {
            "name": "flow",
            "architecture": "nice",
            "layers": 4,
            "widths": (512, 512),
            "prior": "logistic",
            "average": 0.999,
        },
    },
    "mnist_realnvp": MNIST,
    "mnist_glow": {**MNIST, "model": {**MNIST["model"], "architecture": "glow"}},
}


def get_config(variant: str = "digits"):
    return assemble(VARIANTS, variant)
