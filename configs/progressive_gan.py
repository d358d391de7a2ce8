"""Progressively grown GANs.

    genjax-zoo train --config=configs/progressive_gan.py:digits --workdir=runs/progressive_gan

variant      data, resolutions                    minutes on two cores  to expect
digits       8x8 digits, 4 to 8                   not measured yet      not measured yet
mnist        MNIST at 32x32, 4 to 32              not measured yet      not measured yet
mnist_full   the same network, 32 from the start  not measured yet      not measured yet
mnist_gpu    MNIST at 32x32, 4 to 32, wider       for a GPU             not measured yet

experiments/progressive_growing.py compares growing with learning at full size for the same time.
"""

from genjax_zoo.run.config import assemble

# Karras et al. 2018, appendix A.1: Adam with b1 = 0, b2 = .99, for every resolution alike.
_ADAM = {"name": "adam", "learning_rate": 1e-3, "b1": 0.0, "b2": 0.99, "eps": 1e-8}


def _mnist(steps, **model):
    return {
        "steps": steps,
        "data": {
            "source": "tfds:mnist",
            "batch_size": 32,
            "resize": 32,
            "scale": "symmetric",
        },
        "model": {"name": "progressive_gan", "widths": (64, 64, 32, 16), "latents": 64, **model},
        "optimizer": _ADAM,
        "log_every": 100,
        "checkpoint_every": 1000,
        "sample_every": 500,
        "eval_every": 0,
        "steps_per_call": 10,
    }


VARIANTS = {
    "digits": {
        "steps": 6000,
        "data": {"source": "digits", "batch_size": 64, "scale": "symmetric"},
        "model": {
            "name": "progressive_gan",
            "widths": (32, 16),
            "stage_steps": (3000,),
            "latents": 16,
        },
        "optimizer": _ADAM,
        "log_every": 100,
        "checkpoint_every": 1000,
        "sample_every": 1000,
        "eval_every": 0,
        "steps_per_call": 20,
    },
    "mnist": _mnist(8000, stage_steps=(2000,)),
    # One change: growing begins at the end.
    "mnist_full": _mnist(8000, stage_steps=(2000,), first=32),
}


def get_config(variant: str = "digits"):
    return assemble(VARIANTS, variant)
