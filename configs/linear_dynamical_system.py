"""Linear dynamical systems.

    genjax-zoo train --config=configs/linear_dynamical_system.py:nile --workdir=runs/nile

variant   data                                        minutes   to expect
digits    8x8 digits + noise, a row a time, 8 states  < 1       not measured yet
nile      the Nile, 100 years, local level            < 1       not measured yet
ar        the same, AR(2)                             < 1       not measured yet
texture   160 frames of waves, 24x24, 8 states        < 1       not measured yet

All log_probs are exact, of a whole series. The last three have one series, which they are measured
on as well as learnt from.
"""

from genjax_zoo.run.config import assemble

VARIANTS = {
    "digits": {
        "steps": 60,
        "data": {"source": "digits", "batch_size": 1438, "dequantise": True},
        "model": {"name": "linear_dynamical_system", "states": 8},
        "log_every": 5,
        "checkpoint_every": 30,
        "sample_every": 0,
        "eval_every": 0,
        "steps_per_call": 5,
    },
    "nile": {
        "steps": 2000,
        "data": {"source": "series:nile", "batch_size": 1},
        "model": {"name": "linear_dynamical_system", "structure": "local_level"},
        "log_every": 100,
        "checkpoint_every": 1000,
        "sample_every": 0,
        "eval_every": 0,
        "samples": 8,
        "steps_per_call": 100,
    },
    "ar": {
        "steps": 100,
        "data": {"source": "series:nile", "batch_size": 1},
        "model": {
            "name": "linear_dynamical_system",
            "structure": "autoregressive",
            "states": 2,
        },
        "log_every": 10,
        "checkpoint_every": 100,
        "sample_every": 0,
        "eval_every": 0,
        "samples": 8,
        "steps_per_call": 10,
    },
    "texture": {
        "steps": 50,
        "data": {"source": "clip:waves", "batch_size": 1},
        "model": {
            "name": "linear_dynamical_system",
            "states": 8,
            "noise": "isotropic",
            "stable": "enforce",
        },
        "log_every": 5,
        "checkpoint_every": 50,
        "sample_every": 0,
        "eval_every": 0,
        "samples": 4,
        "steps_per_call": 5,
    },
}


def get_config(variant: str = "digits"):
    return assemble(VARIANTS, variant)
