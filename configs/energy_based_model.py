"""Deep energy-based models.

    genjax-zoo train --config=configs/energy_based_model.py:digits --workdir=runs/ebm

variant                data, objective                       minutes       to expect (test)
digits                 8x8 digits, persistent Langevin       .5            ais 38.8 nats (see below)
digits_jem             the same, joint energy model          1             ais 25.9 nats, error .039
toy                    eight Gaussians, persistent Langevin  .5            ais -3.10 nats
toy_score_matching     the same, exact score matching        1             ais -2.84 nats
toy_noise_contrastive  the same, noise contrastive           1             ais -3.11, nce -3.15 nats
mnist                  MNIST, convolutional, persistent      not measured  not measured

The minutes are those of a whole run on two busy cores, seed 0. The best that any model of the eight
Gaussians can do is minus their entropy, -2.832 nats. Every log_prob is unnormalised, and no
quality: "ais" is what can be compared, where its log Z can be trusted. That of the digits cannot at
the 2000 temperatures that a run takes (two or three of 100 chains carry it: `effective`); the two
numbers above are of 30,000, from 40 seconds of

    genjax-zoo evaluate --workdir=runs/ebm --config.model.ais.temperatures=30000

with a standard error of .6 nats (log Z: .08 and .16). It is a forward estimate of log Z, which
flatters the model if anything. The chains of `digits` lag behind a sharpening energy: a free energy
gap of some nats below 0 shows it.
"""

from genjax_zoo.run.config import assemble

_STEPS = {"log_every": 100, "checkpoint_every": 1000, "sample_every": 500, "eval_every": 1000}


def _toy(**objective):
    return {
        **_STEPS,
        "steps": 2000,
        "data": {"source": "density:eight_gaussians", "batch_size": 256},
        "model": {
            "name": "energy_based_model",
            "network": {"widths": (128, 128), "activation": "swish"},
            "objective": objective,
            "sampling": {"steps": 300, "first": 0.3, "last": 0.02},
            "ais": {"temperatures": 300, "chains": 500},
            "average": 0.995,
        },
        "optimizer": {"learning_rate": 1e-3, "schedule": "cosine", "b1": 0.5},
        "samples": 1000,
    }


def _digits(**model):
    return {
        **_STEPS,
        "steps": 1500,
        "data": {"source": "digits", "batch_size": 100, "dequantise": True},
        "model": {
            "name": "energy_based_model",
            "network": {"widths": (256, 256), "activation": "swish"},
            "objective": {"chains": 100, "buffer": 1000, "steps": 40, "step": 0.02},
            "sampling": {"steps": 300, "first": 0.1, "last": 0.01},
            "ais": {"temperatures": 2000, "chains": 100},
            "average": 0.995,
            **model,
        },
        "optimizer": {"learning_rate": 3e-4, "schedule": "cosine", "b1": 0.5, "clip_norm": 10.0},
    }


VARIANTS = {
    "digits": _digits(),
    "digits_jem": _digits(classes=10),
    "toy": _toy(chains=256, buffer=2048, steps=10, step=0.02, rate=0.02),
    "toy_score_matching": _toy(name="score_matching"),
    "toy_noise_contrastive": _toy(name="noise_contrastive", ratio=4),
    "mnist": {
        "steps": 20_000,
        "data": {"source": "tfds:mnist", "batch_size": 100, "dequantise": True},
        "model": {
            "name": "energy_based_model",
            "network": {"name": "conv", "widths": (32, 64, 128), "activation": "swish"},
            "objective": {"chains": 100, "buffer": 5000, "steps": 40, "step": 0.005},
            "sampling": {"steps": 500, "first": 0.02, "last": 0.002},
            "ais": {"temperatures": 2000, "chains": 100},
            "average": 0.999,
        },
        "optimizer": {"learning_rate": 1e-4, "b1": 0.5, "clip_norm": 10.0},
        "log_every": 100,
        "checkpoint_every": 2000,
        "sample_every": 2000,
        "eval_every": 0,
    },
}


def get_config(variant: str = "digits"):
    return assemble(VARIANTS, variant)
