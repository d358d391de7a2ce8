"""Generative adversarial networks.

    genjax-zoo train --config=configs/gan.py:digits --workdir=runs/gan

variant           data                         minutes on two cores  to expect
toy               8 Gaussians, consensus       1                     8 of 8 modes, 84-92 % clean
toy_simultaneous  8 Gaussians, simultaneous    1                     4-6 modes, 90-96 % clean
digits            8x8 digits, alternating      1                     most samples read as digits
mnist             MNIST, alternating           not measured yet      not measured yet
mnist_dcgan       MNIST, convolutional         not measured yet      not measured yet

The two toys are the protocol of Mescheder et al. 2017 and differ in the dynamics alone;
experiments/simultaneous_against_consensus.py runs both over five seeds, whose ends these are.
"Clean" samples lie within 3 sigma of a mode (perfect ones: 98.9 %).
"""

from genjax_zoo.run.config import assemble


def _toy(**dynamics):
    # Four hidden layers of 16 for both players, z of 16 dimensions; the ring of PacGAN (radius 1,
    # sigma .01) is also theirs. RMSProp with decay .9 and epsilon 1e-10 in the root; its squares
    # start at 0, TensorFlow's at 1.
    return {
        "steps": 50_000,
        "data": {"source": "density:ring", "batch_size": 512},
        "model": {
            "name": "gan",
            "loss": "non_saturating",
            "dynamics": dynamics,
            "generator": (16, 16, 16, 16),
            "discriminator": (16, 16, 16, 16),
            "latents": 16,
        },
        "optimizer": {"name": "rmsprop", "learning_rate": 1e-4, "b2": 0.9, "eps": 1e-10},
        "log_every": 500,
        "checkpoint_every": 5000,
        "sample_every": 2500,
        "eval_every": 0,
        "samples": 2500,
        "steps_per_call": 100,
    }


# Adam with b1 = .5, as Radford et al. 2016 (DCGAN) recommend for the alternating game.
_ADAM = {"name": "adam", "learning_rate": 2e-4, "b1": 0.5}

VARIANTS = {
    "toy": _toy(name="consensus", gamma=10.0),
    "toy_simultaneous": _toy(name="simultaneous"),
    "digits": {
        "steps": 20_000,
        "data": {"source": "digits", "batch_size": 64},
        "model": {
            "name": "gan",
            "generator": (256, 256),
            "discriminator": (256, 256),
            "activation": "leaky_relu",
            "latents": 16,
            "output": "sigmoid",
            "average": 0.999,
        },
        "optimizer": _ADAM,
        "checkpoint_every": 5000,
        "sample_every": 2000,
        "eval_every": 0,
        "steps_per_call": 50,
    },
    "mnist": {
        "steps": 60_000,
        "data": {"source": "tfds:mnist", "batch_size": 128},
        "model": {
            "name": "gan",
            "generator": (256, 512, 1024),
            "discriminator": (1024, 512, 256),
            "activation": "leaky_relu",
            "latents": 64,
            "output": "sigmoid",
            "average": 0.999,
        },
        "optimizer": _ADAM,
        "log_every": 500,
        "checkpoint_every": 5000,
        "sample_every": 5000,
        "eval_every": 0,
        "steps_per_call": 50,
    },
    "mnist_dcgan": {
        "steps": 10_000,
        "data": {"source": "tfds:mnist", "batch_size": 64},
        "model": {
            "name": "gan",
            "architecture": "dcgan",
            "generator": (128, 64),
            "discriminator": (64, 128),
            "latents": 64,
            "output": "sigmoid",
        },
        "optimizer": _ADAM,
        "eval_every": 0,
    },
}


def get_config(variant: str = "digits"):
    return assemble(VARIANTS, variant)
