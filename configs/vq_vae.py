"""Vector-quantised variational auto-encoders.

    genjax-zoo train --config=configs/vq_vae.py:VARIANT --workdir=runs/vq_vae

variant      minutes on two cores   to expect on held-out data: bound in nats, perplexity of codes
digits       1                      -26.6, 31.6 of 32
mnist        not measured yet       not measured yet

Images are binarised dynamically, each pixel drawn anew at every access: a Bernoulli decoder gives
no probability to grey values. The bound is log p(z) + log p(x | z) at the nearest codes z.
The codebook is made of moving means; on the digits --config.model.codebook=loss, which learns it by
gradients, gave -26.6 and 30.9.
"""

from genjax_zoo.run.config import assemble

COSINE = {"name": "adam", "learning_rate": 1e-3, "schedule": "cosine"}

DIGITS = {
    "steps": 4000,
    "data": {"source": "digits", "batch_size": 100, "binarise": "dynamic"},
    "model": {
        "name": "vq_vae",
        "decoder": "bernoulli",
        "codes": 32,
        "features": 8,
        "widths": (16, 32),
        "blocks": 1,
        "prior_width": 32,
        "prior_layers": 1,
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
    "mnist": {
        **DIGITS,
        "steps": 3000,
        "data": {"source": "tfds:mnist", "batch_size": 100, "binarise": "dynamic"},
        "model": {
            "name": "vq_vae",
            "decoder": "bernoulli",
            "codes": 128,
            "features": 16,
            "widths": (16, 32, 64),
            "blocks": 1,
        },
        "eval_every": 0,
    },
}


def get_config(variant: str = "digits"):
    return assemble(VARIANTS, variant)
