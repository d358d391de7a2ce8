"""Naive Bayes, in closed form: one epoch, and all is learnt.

    genjax-zoo train --config=configs/naive_bayes.py:digits --workdir=runs/naive_bayes

variant           data                               minutes   to expect (test): log_prob, error
digits            8x8 digits + noise, Gaussian       < 1       55.0 nats (a density), 6.1 %
digits_bernoulli  8x8 digits > 1/2, Bernoulli        < 1       -19.59 nats, 10.3 %
digits_counts     8x8 digits 0 .. 16, multinomial    < 1       -128.4 nats given their sum, 8.1 %
toy               two moons, one Gaussian            < 1       -3.405 nats (a density)
mnist             MNIST > 1/2, Bernoulli             < 1       -168.92 nats, 15.7 %

log_prob is log p(x), comparable with every other model's; log_joint is log p(x, y), and error the
fraction of the labels that argmax p(y | x) misses.
"""

from genjax_zoo.run.config import assemble

# Two steps of half of the 1438 training digits each are exactly one epoch.
_DIGITS = {
    "steps": 2,
    "log_every": 1,
    "checkpoint_every": 1,
    "sample_every": 0,
    "eval_every": 0,
    "steps_per_call": 1,
}

VARIANTS = {
    # Dequantised, so that no variance is 0 and a density is one of grey values.
    "digits": {
        **_DIGITS,
        "data": {"source": "digits", "batch_size": 719, "dequantise": True},
        "model": {"name": "naive_bayes", "kind": "gaussian"},
    },
    "digits_bernoulli": {
        **_DIGITS,
        "data": {"source": "digits", "batch_size": 719, "binarise": "threshold"},
        "model": {"name": "naive_bayes", "kind": "bernoulli"},
    },
    # An example's 64 levels are counts of ink; given how much there is in all.
    "digits_counts": {
        **_DIGITS,
        "data": {"source": "digits", "batch_size": 719, "scale": "raw"},
        "model": {"name": "naive_bayes", "kind": "multinomial"},
    },
    "toy": {
        "steps": 100,
        "data": {"source": "density:two_moons", "batch_size": 500},
        "model": {"name": "naive_bayes", "kind": "gaussian", "classes": 0},
        "log_every": 10,
        "sample_every": 0,
        "eval_every": 0,
        "samples": 2500,
    },
    "mnist": {
        "steps": 60,
        "data": {"source": "tfds:mnist", "batch_size": 1000, "binarise": "threshold"},
        "model": {"name": "naive_bayes", "kind": "bernoulli"},
        "log_every": 10,
        "sample_every": 0,
        "eval_every": 0,
    },
}


def get_config(variant: str = "digits"):
    return assemble(VARIANTS, variant)
