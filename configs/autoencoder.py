"""Auto-encoders, plain and denoising.

    genjax-zoo train --config=configs/autoencoder.py:VARIANT --workdir=runs/autoencoder

variant      minutes on two cores   to expect on held-out data
digits       0.3                    10.6 nats of denoising
spiral       0.4                    -0.73 nats of denoising, squared error .0076
mnist        not measured yet       not measured yet
mnist_plain  not measured yet       not measured yet

An auto-encoder has no likelihood: -log p(x | x~) says how well a clean image is found again from a
corrupted one. The plain one's squared error is that of the images themselves.
"""

from genjax_zoo.run.config import assemble

COSINE = {"name": "adam", "learning_rate": 1e-3, "schedule": "cosine"}

MNIST = {
    "steps": 12_000,
    "data": {"source": "tfds:mnist", "batch_size": 100, "binarise": "dynamic"},
    "model": {
        "name": "autoencoder",
        "reconstruction": "bernoulli",
        "corruption": "salt_and_pepper",
        "noise": 0.2,
        "chain_steps": 300,
        "latents": 128,
        "widths": (1024,),
        "sample_means": True,
    },
    "optimizer": COSINE,
    "log_every": 600,
    "checkpoint_every": 6000,
    "sample_every": 6000,
    "eval_every": 0,
    "steps_per_call": 20,
}

VARIANTS = {
    # Bengio, Yao, Alain & Vincent 2013, section 4, on the small digits.
    "digits": {
        "steps": 4000,
        "data": {"source": "digits", "batch_size": 100, "binarise": "dynamic"},
        "model": {
            "name": "autoencoder",
            "reconstruction": "bernoulli",
            "corruption": "salt_and_pepper",
            "noise": 0.2,
            "chain_steps": 300,
            "latents": 64,
            "widths": (512,),
            "sample_means": True,
        },
        "optimizer": COSINE,
        "steps_per_call": 50,
        "eval_every": 2000,
    },
    "spiral": {
        "steps": 6000,
        "data": {"source": "density:spiral", "batch_size": 500},
        "model": {
            "name": "autoencoder",
            "corruption": "gaussian",
            "noise": 0.2,
            "mean": "residual",
            "noise_std": 0.2,
            "latents": 128,
            "widths": (128, 128),
        },
        "optimizer": COSINE,
        "samples": 1000,
        "steps_per_call": 50,
        "eval_every": 2000,
    },
    "mnist": MNIST,
    "mnist_plain": {
        **MNIST,
        "data": {"source": "tfds:mnist", "batch_size": 100},
        "model": {
            "name": "autoencoder",
            "reconstruction": "gaussian",
            "mean": "sigmoid",
            "corruption": "none",
            "noise": 0.0,
            "network": "conv",
            "widths": (32, 64),
            "latents": 32,
        },
    },
}


def get_config(variant: str = "digits"):
    return assemble(VARIANTS, variant)
