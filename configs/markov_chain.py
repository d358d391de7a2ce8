"""Markov chains: counts of what follows the last few symbols, from a stream.

    genjax-zoo train --config=configs/markov_chain.py:VARIANT --workdir=runs/markov_chain

variant          data, order, smoothing                 minutes   exact, to expect on held-out data
digits           8x8 digits, 9 pixels, Kneser-Ney       below 1   -26.8 nats (dynamic binarisation)
digits_additive  the same, add-one                      below 1   -26.8 nats (dynamic binarisation)
digits_sparse    the same as digits, in a sorted table  below 1   -26.8 nats (dynamic binarisation)
sticky           strings of 16, 1, add-one              below 1   1.100 nats/symbol (entropy: 1.093)
shakespeare      tfds:tiny_shakespeare, 3, Kneser-Ney   2         1.767 nats/symbol, 2.550 bits
bible            tfds:king_james_bible, 1, add-one      below 1   2.272 nats/symbol, 3.279 bits
bible_6          the same, 6, Kneser-Ney, sorted table  not measured yet
text             text:PATH, 1, Kneser-Ney               not measured yet

A sorted table keeps the strings of k + 1 symbols that occur: 495,556 of the Bible's at order 6.
Counted once, as one string, Kneser-Ney of order 6 has 1.4515 bits/byte on its validation part and
1.5011 on test (experiments/from_counting_to_attention.py).

The sets of tfds are prepared ones (--data_dir=DIR). Windows of 64 characters are measured one by
one, each from ⊥ on; of one long text the Bible's add-one chain has 3.2692 bits a character on
validation and 3.2516 on test. A text is told by --config.data.source=text:PATH, and may have as
many characters, or other symbols (--config.data.tokenizer), as model.vocabulary says.
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
    "digits_sparse": _counted(64, _DIGITS, order=9, repeats=32, capacity=1024),
    "sticky": _counted(
        *(100, {"source": "strings:sticky:4", "length": 16, "batch_size": 100}),
        **{"vocabulary": 4, "order": 1, "smoothing": "additive"},
    ),
    # Windows begin anywhere: so many steps read each character ten times in the mean. Each of them
    # smooths all 65^4 counts, so that few and large ones are fast.
    "shakespeare": _counted(
        *(158, {"source": "tfds:tiny_shakespeare", **_TEXT, "batch_size": 1000}),
        **{"vocabulary": 65, "order": 3, "repeats": 10},
    ),
    "bible": _counted(
        *(590, {"source": "tfds:king_james_bible", **_TEXT}),
        **{"vocabulary": 63, "order": 1, "smoothing": "additive"},
    ),
    # Three readings of each character in the mean, in few steps: each sorts all of the table.
    "bible_6": _counted(
        *(30, {"source": "tfds:king_james_bible", "batch_size": 100, "length": 4096}),
        **{"vocabulary": 63, "order": 6, "repeats": 3.28, "capacity": 2**20},
    ),
    "text": _counted(1000, {"source": "text:FILE", **_TEXT}, vocabulary=256, order=1),
}


def get_config(variant: str = "digits"):
    return assemble(VARIANTS, variant)
