"""Gaussian mixtures: discriminant analysis in closed form with labels, EM without.

    genjax-zoo train --config=configs/gaussian_mixture.py:digits --workdir=runs/gaussian_mixture

variant     data and model                              minutes  to expect (test): log_prob, error
digits      8x8 digits + noise, LDA: a tied Gaussian    < 1      54.8 nats (a density), 3.9 %
digits_mda  the same, three diagonal Gaussians a class  < 1      64.9 nats (a density), 3.1 %
wine        wine standardised, QDA: a full Gaussian     < 1      -14.35 nats (a density), 0 of 35
toy         eight Gaussians, a mixture of eight by EM   < 1      -2.825 +- .010 (entropy: 2.8319)

log_prob is log p(x), comparable with every other model's; log_joint is log p(x, y), and error the
fraction of the labels that argmax p(y | x) misses.
"""

from genjax_zoo.run.config import assemble

# Each step is one of EM on all of the training data; with nothing hidden the first is the last.
_WHOLE = {"checkpoint_every": 10, "sample_every": 0, "eval_every": 0, "steps_per_call": 1}
# Dequantised, so that a density is one of grey values.
_DIGITS = {"source": "digits", "dequantise": True}

VARIANTS = {
    # Two steps of half of the 1438 training digits each are exactly one epoch.
    "digits": {
        **_WHOLE,
        "steps": 2,
        "log_every": 1,
        "data": {**_DIGITS, "batch_size": 719},
        "model": {"name": "gaussian_mixture", "covariance": "tied", "keep": 1.0},
    },
    "digits_mda": {
        **_WHOLE,
        "steps": 30,
        "log_every": 5,
        "data": {**_DIGITS, "batch_size": 1438},
        "model": {"name": "gaussian_mixture", "covariance": "diagonal", "components": 3},
    },
    "wine": {
        **_WHOLE,
        "steps": 1,
        "log_every": 1,
        "data": {"source": "table:wine", "batch_size": 143, "standardise": True},
        "model": {"name": "gaussian_mixture", "covariance": "full", "classes": 3},
    },
    # A stream without end: stepwise EM, that remembers about twenty batches.
    "toy": {
        "steps": 300,
        "data": {"source": "density:eight_gaussians", "batch_size": 500},
        "model": {
            "name": "gaussian_mixture",
            "covariance": "spherical",
            "classes": 0,
            "components": 8,
            "keep": 0.95,
        },
        "log_every": 20,
        "sample_every": 0,
        "eval_every": 0,
        "samples": 2500,
    },
}


def get_config(variant: str = "digits"):
    return assemble(VARIANTS, variant)
