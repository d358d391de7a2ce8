"""Language models: one Transformer of every shape.

    genjax-zoo train --config=configs/language_model.py:VARIANT --workdir=runs/language_model

variant               data, shape                              minutes            exact, to expect
sticky                strings of 8, 2 layers of 32             not measured yet   entropy: .868
sticky_llama          the same as LLaMA is, and a begin token  not measured yet   not measured yet
sticky_experts        the same, ALiBi, 2 of 4 experts          not measured yet   not measured yet
shakespeare_char      tfds:tiny_shakespeare, 4 layers of 128   not measured yet   published: 1.88
shakespeare_char_gpu  the same, 6 layers of 384                not measured yet   published: 1.4697

Numbers are nats a symbol on held-out data.
"""

from genjax_zoo.run.config import assemble

_STICKY = {
    "steps": 1000,
    "data": {"source": "strings:sticky:3", "length": 8, "batch_size": 64},
    "optimizer": {"learning_rate": 3e-3, "schedule": "cosine", "warmup_steps": 20},
}


def _sticky(**model):
    fields = {"vocabulary": 3, "context": 8, "layers": 2, "width": 32, "heads": 2, **model}
    return {**_STICKY, "model": {"name": "language_model", **fields}}


_NANOGPT = {
    "name": "adamw",
    "learning_rate": 1e-3,
    "schedule": "cosine",
    "final_fraction": 0.1,
    "warmup_steps": 100,
    "b2": 0.99,
    "weight_decay": 0.1,
    "decayed": "kernels",
    "clip_norm": 1.0,
}


def _nanogpt(steps, batch_size, context, **model):
    """A setting of nanoGPT: neither biases nor a begin token, and a row is context + 1 long."""
    return {
        "steps": steps,
        "data": {
            "source": "tfds:tiny_shakespeare",
            "batch_size": batch_size,
            "length": context + 1,
        },
        "model": {
            "name": "language_model",
            "vocabulary": 65,
            "context": context,
            "bias": False,
            "norm_bias": False,
            **model,
        },
        "optimizer": _NANOGPT,
        "log_every": 100,
        "checkpoint_every": steps // 4,
        "sample_every": 0,
        "eval_every": steps // 8,
        "samples": 4,
    }


VARIANTS = {
    "sticky": _sticky(),
    "sticky_llama": _sticky(
        norm="rms",
        norm_bias=False,
        bias=False,
        position="rotary",
        key_heads=1,
        activation="silu",
        gated=True,
        inner=48,
        tied=False,
        vocabulary=4,
        begin=3,
    ),
    "sticky_experts": _sticky(
        position="alibi",
        window=4,
        parallel=True,
        norms=1,
        experts=4,
        experts_per_token=2,
        capacity=1.25,
    ),
    "shakespeare_char": _nanogpt(2000, 12, 64, layers=4, width=128, heads=4),
    "shakespeare_char_gpu": _nanogpt(
        *(5000, 64, 256), layers=6, width=384, heads=6, dropout=0.2, dtype="bfloat16"
    ),
}


def get_config(variant: str = "sticky"):
    return assemble(VARIANTS, variant)
