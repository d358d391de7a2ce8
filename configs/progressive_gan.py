"""Progressively grown GANs.

    genjax-zoo train --config=configs/progressive_gan.py:digits --workdir=runs/progressive_gan

variant      data, resolutions                    minutes on two cores  to expect
digits       8x8 digits, 4 to 8                   1                     most samples read as digits
mnist        MNIST at 32x32, 4 to 32              not measured yet      not measured yet
mnist_full   the same network, 32 from the start  not measured yet      not measured yet
mnist_gpu    MNIST at 32x32, 4 to 32, wider       for a GPU             not measured yet

experiments/progressive_growing.py compares growing with learning at full size for the same time.
"""

from genjax_zoo.run.config import assemble

# Karras et al. 2018, appendix A.1: Adam with b1 = 0, b2 = .99, for every resolution alike. Their
# rate is 1e-3 and their stages are 20 times as long: networks this small bear a higher rate, and
# the average has to be shorter than a stage.
_ADAM = {"name": "adam", "b1": 0.0, "b2": 0.99, "eps": 1e-8}


def _mnist(steps, **fields):
    return {
        "steps": steps,
        "data": {
            "source": "tfds:mnist",
            "batch_size": 32,
            "resize": 32,
            "scale": "symmetric",
        },
        "optimizer": {**_ADAM, "learning_rate": 3e-3},
        "log_every": 100,
        "checkpoint_every": 1000,
        "sample_every": 500,
        "eval_every": 0,
        "steps_per_call": 10,
        **fields,
    }


def _mnist_small(**model):
    return {
        "name": "progressive_gan",
        "widths": (64, 64, 32, 16),
        "latents": 64,
        "stage_steps": (1000, 1500, 1500, 2000),
        "average": 0.99,
        **model,
    }


VARIANTS = {
    "digits": {
        "steps": 3000,
        "data": {"source": "digits", "batch_size": 64, "scale": "symmetric"},
        "model": {
            "name": "progressive_gan",
            "widths": (32, 16),
            "stage_steps": (1000, 2000),
            "latents": 16,
            "average": 0.99,
        },
        "optimizer": {**_ADAM, "learning_rate": 6e-3},
        "log_every": 100,
        "checkpoint_every": 1000,
        "sample_every": 500,
        "eval_every": 0,
        "steps_per_call": 20,
    },
    "mnist": _mnist(6000, model=_mnist_small()),
    # The same network, learnt at full size from the start.
    "mnist_full": _mnist(6000, model=_mnist_small(first=32, stage_steps=(6000,))),
    "mnist_gpu": _mnist(
        120_000,
        model=_mnist_small(widths=(256, 256, 128, 64), latents=256, stage_steps=(30_000,),
                           average=0.999),
        optimizer={**_ADAM, "learning_rate": 1e-3},
        checkpoint_every=10_000,
        sample_every=5000,
        steps_per_call=50,
    ),
}  # fmt: skip


def get_config(variant: str = "digits"):
    return assemble(VARIANTS, variant)
