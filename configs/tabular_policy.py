"""Tabular policies: learnt by trial, against the closed form.

    genjax-zoo train --config=configs/tabular_policy.py:toy --workdir=runs/tabular_policy

variant         estimator, reward, strings            minutes on two cores  to expect
toy             leave-one-out, count, 3^4             not measured yet      not measured yet
toy_reinforce   moving baseline                       not measured yet      not measured yet
toy_ppo         PPO, a value of each prefix           not measured yet      not measured yet
toy_group       group-relative, several passes        not measured yet      not measured yet
palindrome      leave-one-out, palindromes, 2^6       not measured yet      not measured yet
prompted        leave-one-out, alternation after two  not measured yet      not measured yet
                symbols of the data

The gap is that between b log Z, the best that any policy can do, and what this one does, exactly.
"""

from genjax_zoo.run.config import assemble


def _toy(estimator, **model):
    return {
        "steps": 2000,
        "data": {"source": "strings:uniform:3", "length": 4, "batch_size": 16},
        "model": {
            "name": "tabular_policy",
            "vocabulary": 3,
            "length": 4,
            "reward": "count",
            "estimator": {"beta": 0.5, "group": 8, **estimator},
            **model,
        },
        "optimizer": {"name": "adam", "learning_rate": 0.02},
        "log_every": 100,
        "checkpoint_every": 1000,
        "sample_every": 1000,
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
