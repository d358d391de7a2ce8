"""Generative adversarial networks.

    genjax-zoo train --config=configs/gan.py:digits --workdir=runs/gan

variant           data                         minutes on two cores  to expect
toy               8 Gaussians, consensus       1                     8 of 8 modes, 86-92 % clean
toy_simultaneous  8 Gaussians, simultaneous    1                     3-7 modes, 68-97 % clean
ring              8 Gaussians, PacGAN's nets   not measured yet      not measured yet
ring_pac2         the same, packs of two       not measured yet      not measured yet
grid              25 Gaussians, PacGAN's nets  not measured yet      not measured yet
grid_pac2         the same, packs of two       not measured yet      not measured yet
digits            8x8 digits, alternating      1                     most samples read as digits
digits_conditional  the same, label by label   not measured yet      not measured yet
digits_wgan_gp    the same, WGAN-GP            not measured yet      not measured yet
mnist             MNIST, MLP                   not measured yet      not measured yet
mnist_dcgan       MNIST, convolutional         not measured yet      not measured yet
mnist_conditional   the same, label by label   not measured yet      not measured yet
mnist_lsgan       the same, least squares      not measured yet      not measured yet
mnist_wgan        the same, clipped WGAN       not measured yet      not measured yet
mnist_wgan_gp     the same, WGAN-GP            not measured yet      not measured yet
mnist_spectral    the same, hinge, spectral    not measured yet      not measured yet
stacked_mnist     three digits an image, DCGAN  not measured yet     not measured yet
stacked_mnist_pac2  the same, packs of two     not measured yet      not measured yet

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
            "objective": {"name": "non_saturating"},
            "dynamics": dynamics,
            "generator": {"widths": (16, 16, 16, 16)},
            "discriminator": {"widths": (16, 16, 16, 16)},
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


def _pacgan(density, pack=1):
    # Lin et al. 2018 (PacGAN), section 4.1, but for the length: theirs is 400,000 steps. Batch
    # norm in the generator, maxout in the discriminator.
    return {
        "steps": 20_000,
        "data": {"source": f"density:{density}", "batch_size": 100},
        "model": {
            "name": "gan",
            "objective": {"name": "non_saturating", "pack": pack},
            "generator": {"widths": (400, 400, 400, 400), "normalise": "batch"},
            "discriminator": {"widths": (200, 200, 200), "activation": "maxout"},
            "latents": 2,
        },
        "optimizer": {"name": "adam", "learning_rate": 1e-4, "b1": 0.8},
        "log_every": 500,
        "checkpoint_every": 5000,
        "sample_every": 1000,
        "eval_every": 0,
        "samples": 2500,
        "steps_per_call": 100,
    }


# Adam with b1 = .5, as Radford et al. 2016 (DCGAN) recommend for the alternating game.
_ADAM = {"name": "adam", "learning_rate": 2e-4, "b1": 0.5}
# Gulrajani et al. 2017 (WGAN-GP): five moves of the critic for one of the generator.
_WGAN_GP = {"name": "wasserstein", "gradient": 10.0}
_FIVE = {"name": "alternating", "k": 5}
_ADAM_GP = {"name": "adam", "learning_rate": 1e-4, "b1": 0.5, "b2": 0.9}


def _digits(**model):
    return {
        "steps": 20_000,
        "data": {"source": "digits", "batch_size": 64},
        "model": {
            "name": "gan",
            "generator": {"widths": (256, 256), "activation": "leaky_relu"},
            "discriminator": {"widths": (256, 256), "activation": "leaky_relu"},
            "latents": 16,
            "output": "sigmoid",
            "average": 0.999,
            **model,
        },
        "optimizer": _ADAM,
        "checkpoint_every": 5000,
        "sample_every": 2000,
        "eval_every": 0,
        "steps_per_call": 50,
    }


def _mnist(steps, normalise=("batch", "batch"), **model):
    return {
        "steps": steps,
        "data": {"source": "tfds:mnist", "batch_size": 64},
        "model": {
            "name": "gan",
            "generator": {"name": "conv", "widths": (128, 64), "normalise": normalise[0]},
            "discriminator": {
                "name": "conv",
                "widths": (64, 128),
                "activation": "leaky_relu",
                "normalise": normalise[1],
            },
            "latents": 64,
            "output": "sigmoid",
            **model,
        },
        "optimizer": _ADAM,
        "log_every": 100,
        "checkpoint_every": 2000,
        "sample_every": 1000,
        "eval_every": 0,
    }


def _critic(variant, optimizer=_ADAM_GP):
    # Each of the five moves of the critic sees 64 images of its own.
    return {**variant, "data": {**variant["data"], "batch_size": 320}, "optimizer": optimizer}


def _stacked(pack=1):
    # Metz et al. 2017; Lin et al. 2018 (PacGAN), section 4.2: 1000 classes, for their collapse.
    variant = _mnist(10_000, objective={"name": "non_saturating", "pack": pack})
    return {**variant, "data": {**variant["data"], "stack": 3}}


VARIANTS = {
    "toy": _toy(name="consensus", gamma=10.0),
    "toy_simultaneous": _toy(name="simultaneous"),
    "ring": _pacgan("ring"),
    "ring_pac2": _pacgan("ring", 2),
    "grid": _pacgan("grid"),
    "grid_pac2": _pacgan("grid", 2),
    "digits": _digits(),
    "digits_conditional": _digits(classes=10),
    "digits_wgan_gp": {
        **_critic(_digits(objective=_WGAN_GP, dynamics=_FIVE)),
        "steps": 10_000,
    },
    "mnist": {
        "steps": 60_000,
        "data": {"source": "tfds:mnist", "batch_size": 128},
        "model": {
            "name": "gan",
            "generator": {"widths": (256, 512, 1024), "activation": "leaky_relu"},
            "discriminator": {"widths": (1024, 512, 256), "activation": "leaky_relu"},
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
    "mnist_dcgan": _mnist(10_000),
    "mnist_conditional": _mnist(10_000, classes=10),
    "mnist_lsgan": _mnist(10_000, objective={"name": "least_squares"}),
    "mnist_wgan": _critic(
        _mnist(5_000, objective={"name": "wasserstein", "clip": 0.01}, dynamics=_FIVE),
        {"name": "rmsprop", "learning_rate": 5e-5},
    ),
    "mnist_wgan_gp": _critic(_mnist(5_000, ("batch", "layer"), objective=_WGAN_GP, dynamics=_FIVE)),
    "mnist_spectral": _mnist(10_000, ("batch", "spectral"), objective={"name": "hinge"}),
    "stacked_mnist": _stacked(),
    "stacked_mnist_pac2": _stacked(pack=2),
}


def get_config(variant: str = "digits"):
    return assemble(VARIANTS, variant)
