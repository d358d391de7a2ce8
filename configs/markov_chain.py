"""Markov chains: counts of what follows the last few symbols, from a stream.

    genjax-zoo train --config=configs/markov_chain.py:VARIANT --workdir=runs/markov_chain

variant             data, order, smoothing                      minutes          to expect
digits              8x8 digits, 9 pixels, Kneser-Ney            not measured     not measured yet
digits_additive     the same, add-one                           not measured     not measured yet
sticky              strings, the last symbol again by half,     not measured     not measured yet
                    order 1, add-one
shakespeare         characters, 3, Kneser-Ney                   not measured     not measured yet
bible               characters, 1, add-one                      not measured     not measured yet
text                --config.data.source=text:PATH of at most   not measured     not measured yet
                    256 characters, order 1, Kneser-Ney

Texts are tfds:tiny_shakespeare and tfds:king_james_bible (--data_dir=DIR).
"""

from genjax_zoo.run.config import assemble


def _counted(steps, data, **model):
    return {
        "steps": steps,
        "data": data,
        "model": {"name": "markov_chain", **model},
        "log_every": max(steps // 10, 1),
        "checkpoint_every": steps,
        "sample_every": 0,
        "eval_every": 0,
        "steps_per_call": 1,
    }


# Half of the 1438 training digits a step, 32 epochs of binarisations of their own.
_DIGITS = {"source": "digits", "batch_size": 719, "binarise": "dynamic"}
_TEXT = {"batch_size": 100, "length": 64}

VARIANTS = {
    "digits": _counted(64, _DIGITS, order=9, repeats=32),
    "digits_additive": _counted(64, _DIGITS, order=9, repeats=32, smoothing="additive"),
    "sticky": _counted(
        *(100, {"source": "strings:sticky:4", "length": 16, "batch_size": 100}),
        **{"vocabulary": 4, "order": 1, "smoothing": "additive"},
    ),
    # Windows begin anywhere: so many steps read each character ten times in the mean.
    "shakespeare": _counted(
        *(1580, {"source": "tfds:tiny_shakespeare", **_TEXT}),
        **{"vocabulary": 65, "order": 3, "repeats": 10},
    ),
    "bible": _counted(
        *(590, {"source": "tfds:king_james_bible", **_TEXT}),
        **{"vocabulary": 63, "order": 1, "smoothing": "additive"},
    ),
    "text": _counted(1000, {"source": "text:FILE", **_TEXT}, vocabulary=256, order=1),
}


def get_config(variant: str = "digits"):
    return assemble(VARIANTS, variant)
