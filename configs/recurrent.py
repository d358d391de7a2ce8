"""Recurrent networks: Elman's, LSTM and GRU, over texts, pixels in reading order and series.

    genjax-zoo train --config=configs/recurrent.py:VARIANT --workdir=runs/recurrent

variant      data and cell                                    minutes    exact, to expect
digits       8x8 digits, dynamically binarised, GRU 64        below 1    -23.8 nats
nile         series:nile standardised, Elman 16, 2 Gaussians  below 1    -0.2 nats (a density)
waves        clip:waves, LSTM 64                              below 1    87,667 nats (a density)
strings      strings:sticky:4, 16 symbols, Elman 32           below 1    1.100 nats/symbol
shakespeare  tfds:tiny_shakespeare, LSTM 256                  not measured yet
bible        tfds:king_james_bible, LSTM 256                  not measured yet
text         text:PATH, LSTM 256                              not measured yet

The entropy of strings is 1.093. nile and waves are measured on the series that they learn from. The
sets of tfds are prepared ones (--data_dir=DIR); a text is told by --config.data.source=text:PATH.
"""

from genjax_zoo.run.config import assemble


def _texts(source, vocabulary, steps=3000):
    return {
        "steps": steps,
        "data": {"source": source, "batch_size": 32, "length": 129},
        "model": {
            "name": "recurrent",
            "output": "categorical",
            "vocabulary": vocabulary,
            "width": 256,
            "embedding": 64,
        },
        "optimizer": {"learning_rate": 3e-3, "schedule": "cosine", "clip_norm": 1.0},
        "eval_examples": 200,
        "final_examples": 0,
    }


def _one_series(source, steps, **model):
    return {
        "steps": steps,
        "data": {"source": source, "batch_size": 1},
        "model": {"name": "recurrent", "output": "gaussian", **model},
        "optimizer": {"learning_rate": 3e-3, "schedule": "cosine", "clip_norm": 1.0},
        "log_every": max(steps // 20, 1),
        "checkpoint_every": steps,
        "sample_every": 0,
        "eval_every": 0,
        "samples": 4,
        "steps_per_call": max(steps // 20, 1),
    }


VARIANTS = {
    "digits": {
        "steps": 1500,
        "data": {"source": "digits", "binarise": "dynamic", "batch_size": 64},
        # begin=2, a symbol of its own: the first pixel is learnt too.
        "model": {"name": "recurrent", "cell": "gru", "width": 64, "begin": 2},
        "optimizer": {"learning_rate": 3e-3, "schedule": "cosine", "clip_norm": 1.0},
    },
    "nile": _one_series("series:nile", 300, cell="elman", width=16, components=2),
    "waves": _one_series("clip:waves", 1000, width=64),
    "strings": {
        "steps": 1000,
        "data": {"source": "strings:sticky:4", "length": 16, "batch_size": 100},
        "model": {
            "name": "recurrent",
            "output": "categorical",
            "vocabulary": 4,
            "cell": "elman",
            "width": 32,
            "begin": 4,
        },
        "optimizer": {"learning_rate": 3e-3, "schedule": "cosine"},
    },
    "shakespeare": _texts("tfds:tiny_shakespeare", 65),
    "bible": _texts("tfds:king_james_bible", 63),
    "text": _texts("text:FILE", 256),
}
VARIANTS["nile"]["data"]["standardise"] = True


def get_config(variant: str = "digits"):
    return assemble(VARIANTS, variant)
