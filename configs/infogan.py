"""InfoGAN: codes that the samples must show, and that so become classes.

    genjax-zoo train --config=configs/infogan.py:digits --workdir=runs/infogan

variant  data                        minutes on two cores  to expect
digits   8x8 digits, MLP             not measured yet      not measured yet
mnist    MNIST, convolutional        16, if nothing else   the code alone errs on 4.0 % of the
                                     runs (58 as it was)   test images (seed 0)

One categorical factor of ten values, two continuous ones, after Chen et al. 2016, appendix C.1;
published for MNIST: the categorical factor alone classifies with 5 % error.
"""

from genjax_zoo.run.config import assemble

VARIANTS = {
    "digits": {
        "steps": 10_000,
        "data": {"source": "digits", "batch_size": 64},
        "model": {
            "name": "infogan",
            "generator": {"widths": (256, 256), "activation": "leaky_relu"},
            "discriminator": {"widths": (256, 256), "activation": "leaky_relu"},
            "latents": 16,
            "output": "sigmoid",
        },
        "optimizer": {"name": "adam", "learning_rate": 2e-4, "b1": 0.5},
        "checkpoint_every": 5000,
        "sample_every": 1000,
        "eval_every": 0,
        "steps_per_call": 50,
    },
    "mnist": {
        "steps": 12_000,
        "data": {"source": "tfds:mnist", "batch_size": 64},
        "model": {
            "name": "infogan",
            "generator": {
                "name": "conv",
                "widths": (128, 64),
                "dense": (1024,),
                "normalise": "batch",
            },
            "discriminator": {
                "name": "conv",
                "widths": (64, 128),
                "dense": (1024,),
                "activation": "leaky_relu",
                "normalise": "batch",
            },
            "latents": 62,
            "prior": "uniform",
            "output": "sigmoid",
            # The paper's rates: 2e-4 for the discriminator, 1e-3 for the generator.
            "objective": {"generator_rate": 5.0},
        },
        "optimizer": {"name": "adam", "learning_rate": 2e-4, "b1": 0.5},
        "checkpoint_every": 2000,
        "sample_every": 1000,
        "eval_every": 0,
    },
}


def get_config(variant: str = "digits"):
    return assemble(VARIANTS, variant)
