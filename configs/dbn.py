"""Deep belief networks.

    genjax-zoo train --config=configs/dbn.py:digits --workdir=runs/dbn

variant  data, layers                    minutes            to expect (test)
digits   8x8 digits > 1/2, 64-64-64      < 1                squared error 2.25
mnist    MNIST > 1/2, 784-500-500-2000   4                  squared error 16.9

There is no log_prob: it would need log Z of the top pair. The squared error of the means, up
through all layers and down again, is measured instead; it is no likelihood.
"""

from genjax_zoo.run.config import assemble

VARIANTS = {
    "digits": {
        "steps": 12_000,
        "data": {"source": "digits", "batch_size": 100, "binarise": "threshold"},
        "model": {
            "name": "dbn",
            "widths": (64, 64),
            "stage_steps": (6000,),
            "chain": "pcd",
            "sample_means": True,
        },
        "optimizer": {"name": "sgd", "learning_rate": 0.1},
        "log_every": 200,
        "checkpoint_every": 2000,
        "sample_every": 2000,
        "eval_every": 2000,
        "steps_per_call": 100,
    },
    # The layers of Hinton, Osindero & Teh 2006, 30 epochs each; theirs had labels at the top too.
    "mnist": {
        "steps": 54_000,
        "data": {"source": "tfds:mnist", "batch_size": 100, "binarise": "threshold"},
        "model": {
            "name": "dbn",
            "widths": (500, 500, 2000),
            "stage_steps": (18_000, 18_000),
            "chain": "pcd",
            "sample_means": True,
        },
        "optimizer": {"name": "sgd", "learning_rate": 0.01},
        "log_every": 600,
        "checkpoint_every": 6000,
        "sample_every": 6000,
        "eval_every": 6000,
        "steps_per_call": 100,
    },
}


def get_config(variant: str = "digits"):
    return assemble(VARIANTS, variant)
