"""Linear dynamical systems, by EM from a closed form.

    genjax-zoo train --config=configs/linear_dynamical_system.py:digits --workdir=runs/lds

variant  data                                        minutes  to expect (exact log_prob, nats)
digits   8x8 digits, rows as times, 8 states         < 1      38.4 (a density)
nile     100 years of the Nile, local level          < 1      -641.5856
ar       the same, AR(2)                             < 1      -638.12
texture  clip:waves, 160 frames 24x24, 8 states      < 1      230,020 (2.50 a pixel)

nile is measured on the series that it learnt from, 100 terms, the first level N(0, 1e7); its
variances, transition_variance and emission_variance in the metrics, end at 1468.55 and 15099.61,
where the likelihood is largest at 1469.17 and 15098.52 (Durbin & Koopman). With
--config.model.initial_level=diffuse nothing is known of the first level, and the number is the
diffuse likelihood, -632.5457: that of 99 terms, the density of all years given the first (in
Durbin & Koopman's equation 7.4 it is ½ log 2π less). ar has its first two values from N(mean,
variance of the data). Densities of data in different units do not compare.
"""

from genjax_zoo.run.config import assemble


def _one_series(source, steps, **model):
    # One example, all of it in every step: plain EM.
    return {
        "steps": steps,
        "data": {"source": source, "batch_size": 1},
        "model": {"name": "linear_dynamical_system", **model},
        "log_every": max(steps // 20, 1),
        "checkpoint_every": steps,
        "sample_every": 0,
        "eval_every": 0,
        "samples": 4,
        "steps_per_call": max(steps // 20, 1),
    }


VARIANTS = {
    # A step sees all training digits.
    "digits": {
        "steps": 30,
        "data": {"source": "digits", "batch_size": 1438, "dequantise": True},
        "model": {"name": "linear_dynamical_system", "states": 8},
        "log_every": 5,
        "checkpoint_every": 30,
        "sample_every": 0,
        "eval_every": 0,
        "steps_per_call": 5,
    },
    "nile": _one_series(
        "series:nile",
        2000,
        structure="local_level",
        initial_level="given",
        initial_mean=0.0,
        initial_variance=1e7,
    ),
    "ar": _one_series("series:nile", 12, structure="autoregressive", ar=2),
    "texture": _one_series(
        "clip:waves", 60, states=8, noise="isotropic", fixed=("initial",), stable="enforce"
    ),
}


def get_config(variant: str = "digits"):
    return assemble(VARIANTS, variant)
