"""Tabular policies: learnt by trial, against the closed form.

    genjax-zoo train --config=configs/tabular_policy.py:toy --workdir=runs/tabular_policy

variant         estimator, reward, strings            minutes on two cores  gap to expect
toy             leave-one-out, count, 3^4             below 1               below 0.001 of 2.282
toy_reinforce   moving baseline                       below 1               0.006 of 2.282
toy_ppo         PPO, a value of each prefix           below 1               0.001 of 2.282
toy_group       group-relative, several passes        below 1               below 0.001 of 2.282
palindrome      leave-one-out, palindromes, 2^6       below 1               below 0.001 of 0.294
prompted        leave-one-out, alternation after two  below 1               below 0.001 of 2.285
                symbols of the data

The gap is that between b log Z, the best that any policy can do, and what this one does, exactly
(seed 0, 1000 steps).
"""

from genjax_zoo.run.config import assemble


def _toy(estimator, **model):
    return {
        "steps": 1000,
        "data": {"source": "strings:uniform:3", "length": 4, "batch_size": 16},
        "model": {
            "name": "tabular_policy",
            "vocabulary": 3,
            "length": 4,
            "reward": "count",
            "estimator": {"beta": 0.5, "group": 8, **estimator},
            **model,
        },
        # At the optimum all attempts are worth the same, and Adam would enlarge what rounding
        # leaves.
        "optimizer": {"name": "adam", "learning_rate": 0.02, "eps": 1e-5},
        "log_every": 100,
        "checkpoint_every": 500,
        "sample_every": 500,
        "eval_every": 500,
        "steps_per_call": 50,
    }


VARIANTS = {
    "toy": _toy({"name": "leave_one_out"}),
    "toy_reinforce": _toy({"name": "reinforce", "group": 1}),
    "toy_ppo": _toy({"name": "ppo", "group": 1, "passes": 2, "minibatches": 2}, value=True),
    "toy_group": _toy({"name": "group_relative", "passes": 2, "minibatches": 2}),
    "palindrome": {
        **_toy({"name": "leave_one_out"}, vocabulary=2, length=6, reward="palindrome"),
        "data": {"source": "strings:uniform:2", "length": 6, "batch_size": 16},
    },
    "prompted": _toy({"name": "leave_one_out"}, reward="alternation", prompt=2),
}


def get_config(variant: str = "toy"):
    return assemble(VARIANTS, variant)
