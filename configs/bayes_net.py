"""Bayes nets, fitted in closed form, or by EM where nodes are hidden.

    genjax-zoo train --config=configs/bayes_net.py:digits --workdir=runs/bayes_net

variant   data, net                                          minutes  to expect (test): log_prob
digits    8x8 digits > 1/2, P(y) P(pixel | y, left, above)   < 1      -17.62 nats, error 8.1 %
naive     8x8 digits > 1/2, P(y) P(pixel | y)                < 1      -19.59 nats, error 10.3 %
lecture   P(A) P(B) P(C, D | A, B)                           < 1      -2.198 nats (best: -2.198)
hidden    sprinkler, four children of a hidden H of 6        < 1      -1.906 nats (best: -1.906)
gaussian  two moons, P(M) P(X | M) P(Y | M, X), M of 8       < 1      -2.490 nats (a density)

All are exact, log p(x) with the label and whatever is hidden summed out; the best is the density's
own log p(x) on the same held-out draws.
"""

from genjax_zoo.run.config import assemble

# Two steps of half of the 1438 training digits each are exactly one epoch.
_DIGITS = {
    "steps": 2,
    "data": {"source": "digits", "batch_size": 719, "binarise": "threshold"},
    "log_every": 1,
    "checkpoint_every": 1,
    "sample_every": 0,
    "eval_every": 0,
    "steps_per_call": 1,
}
_DRAWS = {"steps": 100, "log_every": 10, "sample_every": 0, "eval_every": 0}

VARIANTS = {
    "digits": {
        **_DIGITS,
        "model": {"name": "bayes_net", "net": "grid", "states": "y=10", "label": "y"},
    },
    "naive": {
        **_DIGITS,
        "model": {"name": "bayes_net", "net": "naive", "states": "y=10", "label": "y"},
    },
    "lecture": {
        **_DRAWS,
        "data": {"source": "density:lecture_net", "batch_size": 500},
        "model": {"name": "bayes_net", "net": "lecture"},
    },
    "hidden": {
        **_DRAWS,
        "steps": 500,
        "data": {"source": "density:sprinkler", "batch_size": 500},
        "model": {
            "name": "bayes_net",
            "net": "P(H) P(C | H) P(S | H) P(R | H) P(W | H)",
            "states": "H=6",
            "hidden": ("H",),
            "keep": 0.98,
        },
    },
    "gaussian": {
        **_DRAWS,
        "steps": 500,
        "data": {"source": "density:two_moons", "batch_size": 500},
        "model": {
            "name": "bayes_net",
            "net": "P(M) P(X | M) P(Y | M, X)",
            "states": "M=8, X=real, Y=real",
            "hidden": ("M",),
            "keep": 0.95,
        },
        "samples": 2500,
    },
}


def get_config(variant: str = "digits"):
    return assemble(VARIANTS, variant)
