"""Diffusion models.

    genjax-zoo train --config=configs/diffusion.py:VARIANT --workdir=runs/diffusion

variant       minutes on two cores   to expect on held-out data
digits        1                      2.37 bits/dim by the ODE, the bound 2.53
toy           1.5                    -2.838 nats by the ODE (entropy 2.8319); 8 of 8 modes
mnist         9                      2.298 +- .026 bits/dim by the ODE, the bound 3.095 +- .022 (200
                                     test images); Frechet distance 10.7 (2000 samples)
mnist_vdm     not measured yet       not measured yet
captions      8 (beside others)      caption match 95.4 % of seen, 66.8 % of held-out combinations
                                     (1000 of each; of real scenes the reader has 98.2 %)
mnist_captions 14, and 3 measuring   the same of MNIST: 90.7 % and 90.0 %; the reader has 97.5 %
cifar10       not measured, a GPU    not measured; published FID 3.17 (DDPM)
cifar10_sde   not measured, a GPU    not measured; published FID 3.24, 3.28 bits/dim (score SDE, VP)

Of captioned scenes (genjax_zoo/data/scenes.py): genjax-zoo sample --workdir=runs/diffusion
--text="a red seven above a blue two". Their guidance was chosen among 0 .. 6 by the caption match
of 250 scenes of MNIST, on the run that is measured. The published numbers are those of Ho, Jain &
Abbeel 2020 and of Song et al. 2021 (third_party/published/diffusion.json).
"""

from genjax_zoo.data import scenes
from genjax_zoo.run.config import assemble

COSINE = {"name": "adam", "learning_rate": 1e-3, "schedule": "cosine"}
FAST = {"name": "dpm_solver", "grid": "even_in_log_snr", "steps": 30}
WORDS = {"vocabulary": len(scenes.WORDS)}

# Patches of 2 x 2 pixels: a quarter of the work.
MNIST = {
    "steps": 3000,
    "data": {
        "source": "tfds:mnist",
        "batch_size": 64,
        "dequantise": True,
        "scale": "symmetric",
    },
    "model": {
        "name": "diffusion",
        "process": "cosine",
        "parametrisation": "velocity",
        "network": {"name": "unet", "width": 48, "multiples": (1, 2), "blocks": 1, "patch": 2},
        "classes": 10,
        "sampling": FAST,
        "ode_steps": 20,
        "bound_samples": 16,
    },
    "optimizer": COSINE,
    # Two hundred solutions of the ODE of a U-Net: minutes. All of the test split: an hour.
    "final_examples": 200,
    "log_every": 200,
    "checkpoint_every": 1000,
    "sample_every": 2000,
    "eval_every": 0,
    "steps_per_call": 20,
}

# Text to image: coloured digits in their places, of which some pairs are never shown.
CAPTIONS = {
    "steps": 5000,
    "data": {"source": "captions:digits", "batch_size": 32, "scale": "symmetric"},
    "model": {
        "name": "diffusion",
        "network": {
            **{"name": "unet", "width": 24, "multiples": (1, 2, 3), "blocks": 1},
            "attention": (8, 4),
        },
        "text": WORDS,
        "parametrisation": "velocity",
        # What stands where is settled where there is much noise, which the others hardly weigh.
        "weighting": "edm",
        "guidance": 3.0,
        "sampling": {**FAST, "steps": 20},
        **{"ode_steps": 20, "bound_samples": 8},
    },
    "optimizer": {**COSINE, "learning_rate": 1.5e-3},
    "steps_per_call": 20,
    **{"sample_every": 0, "eval_every": 0, "final_examples": 200, "samples": 36},
}

# Ho et al. 2020, appendix B, without its random flips: 10.6 hours on a TPU v3-8, the paper says.
CIFAR10 = {
    "steps": 800_000,
    "data": {
        "source": "tfds:cifar10",
        "batch_size": 128,
        "dequantise": True,
        "scale": "symmetric",
    },
    "model": {
        "name": "diffusion",
        "process": "ddpm",
        "network": {
            "name": "unet",
            "width": 128,
            "multiples": (1, 2, 2, 2),
            "blocks": 2,
            "attention": (16,),
            "heads": 1,
        },
        "sampling": {"name": "ancestral", "variance": "large", "steps": 999},
        "average": 0.9999,
    },
    "optimizer": {
        "name": "adam",
        "learning_rate": 2e-4,
        "warmup_steps": 5000,
        "clip_norm": 1.0,
    },
    "log_every": 1000,
    "checkpoint_every": 20_000,
    "sample_every": 50_000,
    "eval_every": 0,
    "steps_per_call": 10,
}

VARIANTS = {
    "digits": {
        "steps": 8000,
        "data": {"source": "digits", "batch_size": 100, "dequantise": True, "scale": "symmetric"},
        "model": {
            "name": "diffusion",
            "parametrisation": "velocity",
            "network": {"width": 256, "blocks": 3},
            "classes": 10,
            "sampling": FAST,
        },
        "optimizer": COSINE,
        "steps_per_call": 50,
    },
    "toy": {
        "steps": 10_000,
        "data": {"source": "density:eight_gaussians", "batch_size": 500},
        "model": {
            "name": "diffusion",
            "parametrisation": "velocity",
            "network": {"width": 128, "blocks": 3},
            "data_std": 2.0,
            "sampling": {"name": "dpm_solver", "grid": "even_in_log_snr", "steps": 50},
            "probes": 0,
        },
        "optimizer": COSINE,
        "samples": 1000,
        "steps_per_call": 50,
    },
    "captions": CAPTIONS,
    "mnist_captions": {
        **CAPTIONS,
        "steps": 12_000,
        "data": {**CAPTIONS["data"], "source": "captions:tfds:mnist"},
        "model": {
            **CAPTIONS["model"],
            "network": {
                **{"name": "unet", "width": 32, "multiples": (1, 2, 3), "blocks": 1, "patch": 2},
                "attention": (7, 4),
            },
        },
    },
    "mnist": MNIST,
    # Kingma et al. 2021: the bound itself, with a schedule that is learnt.
    "mnist_vdm": {
        **MNIST,
        "model": {
            **MNIST["model"],
            "process": "learnt",
            "parametrisation": "noise",
            "weighting": "likelihood",
            "classes": 0,
        },
    },
    "cifar10": CIFAR10,
    # Song et al. 2021: the same in continuous time, and its likelihood by the ODE.
    "cifar10_sde": {
        **CIFAR10,
        "model": {
            **CIFAR10["model"],
            "process": "variance_preserving",
            "sampling": {"name": "predictor_corrector", "steps": 1000},
            "ode": "dopri5",
            "tolerance": 1e-5,
        },
    },
}


def get_config(variant: str = "digits"):
    return assemble(VARIANTS, variant)
