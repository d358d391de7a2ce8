"""Label match: samples are given labels, and a classifier that learnt from real data reads them.

Shmelkov, Schmid & Alahari, How good is my GAN?, 2018 (arXiv:1807.09499), call it GAN-test: near the
classifier's accuracy on real data the samples are what they should be, and above it they are too
easy: the most usual images of each label. It says nothing of how varied they are. Floor 5.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from genjax_zoo.contract import Batch, Key, Kind, Model
from genjax_zoo.data.source import Source
from genjax_zoo.measure.examples import held_out
from genjax_zoo.measure.extractors import Extractor, to_unit
from genjax_zoo.measure.probes import Judged, Probe

NAMES = ("label_match",)
REAL = 10_000
"""Real examples that the classifier is tried on, at most."""


def label_match(model: Model, source: Source, extractor: Extractor | None) -> list[Probe]:
    """The probe of a model that has labels, of data whose labels the extractor knows; else none."""
    labels = model.spaces.get("label")
    if extractor is None or extractor.probabilities is None or labels is None:
        return []
    known = source.spaces.get("label")
    if known is None or labels.kind is not Kind.CATEGORICAL or labels.size != extractor.classes:
        return []
    classify = extractor.probabilities

    def ask(key: Key, n: int) -> Batch:
        # Each label as often as any other.
        return {"label": jnp.arange(n, dtype=jnp.int32) % labels.size}

    def judge(given: Batch, x: np.ndarray) -> Judged:
        return Judged(classify(x).argmax(1) == np.asarray(given["label"]))

    @functools.cache
    def real() -> Judged:
        size = min(REAL, source.held_out_size)
        parts = [
            judge(batch, to_unit(batch["x"], source.interval)).right
            for _, batch in held_out(source, jax.random.key(0), size)
        ]
        return Judged(np.concatenate(parts))

    name = f"{extractor.name} {extractor.sha256[:8]}"
    return [Probe(*NAMES, f"{labels.size} labels", ask, judge, name, real, stream=2)]
