"""Claim: what counting gains from a longer past ends with the data, and what is learnt goes on.

Markov chains of orders 0 to 6, recurrent networks and Transformers read the same text, character by
character, and are measured alike (measure/texts.py: one protocol for all, so that scores.compare
takes any two). Three claims, fixed before any run:

  1. With add-one smoothing bits/byte rise again before order 6, and with Kneser-Ney they never do.
  2. The best network has fewer bits/byte than the best chain, and fewer numbers than its table.
  3. Of two networks of about as many numbers the Transformer is ahead of the Elman network.

    python experiments/from_counting_to_attention.py --data-dir=../shared/tensorflow_datasets

writes a page, a picture and the numbers to experiments/results/.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import study

from genjax_zoo.contract import Model
from genjax_zoo.data.source import Source
from genjax_zoo.data.sources import open_source
from genjax_zoo.maths.sequences import decoding
from genjax_zoo.measure import scores, texts
from genjax_zoo.measure.results import Result
from genjax_zoo.models import markov_chain

ORDERS = range(7)
SMOOTHING = {"additive": "add-one", "kneser_ney": "Kneser-Ney"}
NETWORKS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "Elman 128": ("recurrent", {"cell": "elman", "width": 128}),
    "GRU 128": ("recurrent", {"cell": "gru", "width": 128}),
    "LSTM 256": ("recurrent", {"cell": "lstm", "width": 256}),
    "Transformer 2 x 48": ("language_model", {"layers": 2, "width": 48, "heads": 2}),
    "Transformer 4 x 96": ("language_model", {"layers": 4, "width": 96, "heads": 4}),
}
ALIKE = ("Elman 128", "Transformer 2 x 48")
"""Of claim 3: some 37 and 63 thousand numbers."""
COLOURS = {
    "add-one": study.ORANGE,
    "Kneser-Ney": study.RED,
    "recurrent": study.GREEN,
    "language_model": study.BLUE,
}
PUBLISHED = {0: 4.3607, 1: 3.2692, 2: 2.5375, 3: 2.0620}
"""../shared/DATA.md: add-one counts on the Bible's validation part, bits a character. Of order 0
nothing was added there."""
CONTEXT, STRIDE = 128, 96
"""Each character is told from 33 before it at least: more than any chain remembers."""
PROMPT = "In the beginning "


class Entry(NamedTuple):
    """One model, measured.

    Attributes:
      name, kind: of it.
      model, state: it.
      numbers: how many it holds: n-grams with their counts, or parameters.
      seconds: of all cores, to learn it.
      joules: that the processor's meter counted meanwhile; None without a meter.
      results: bits/byte of each split.
    """

    name: str
    kind: str
    model: Model
    state: Any
    numbers: int
    seconds: float
    joules: float | None
    results: dict[str, Result]


def measured(model: Model, state: Any, source: Source, reading: texts.Reading) -> dict[str, Result]:
    """Bits/byte of each held-out split."""
    found = texts.evaluate(model, state, source, reading, 0, ("bits_per_byte",))
    return {result.split: result for result in found}


def counted(source: Source, order: int, smoothing: str, capacity: int) -> tuple[Model, Any, int]:
    """A chain that has counted the whole training text, as one string; and its n-grams."""
    vocabulary = source.tokenizer.size
    config = markov_chain.Config(
        vocabulary=vocabulary, order=order, smoothing=smoothing, alpha=1.0, capacity=capacity
    )
    model = markov_chain.make(config)
    batch = {"x": jnp.asarray(source.resident, jnp.int32)[None]}
    learn = jax.jit(lambda x: model.step(jax.random.key(0), model.init(jax.random.key(0), x), x)[0])
    state = jax.block_until_ready(learn(batch))
    counts = state.memory.counts
    if int(counts.left_out):
        raise SystemExit(f"{int(counts.left_out)} n-grams found no room; raise --capacity.")
    return model, state, int((counts.counts > 0).sum())


def metered(learn: Any) -> tuple[Any, float, float | None]:
    """What `learn` gives, the seconds of all cores, and joules where there is a meter."""
    clock, meter = time.process_time(), study.joules()
    found = learn()
    after = study.joules()
    used = None if meter is None or after is None else after - meter
    return found, time.process_time() - clock, used


def sample(entry: Entry, source: Source, length: int, seed: int) -> str:
    """What it writes after `PROMPT`, drawn as it says: `length` symbols together."""
    known = set("".join(source.tokenizer.pieces))
    prompt = source.tokenizer.encode("".join(c for c in PROMPT if c in known))[: length // 2]

    @jax.jit
    def write(key: jax.Array, state: Any, prompt: jax.Array) -> jax.Array:
        writes = entry.model.autoregression
        return decoding.write(key, writes, state, 1, length - len(prompt), prompt=prompt[None]).x

    return source.tokenizer.decode(np.asarray(write(jax.random.key(seed), entry.state, prompt))[0])


def main(argv=None) -> None:
    """Runs the study and writes its page."""
    parser = study.of_text(argparse.ArgumentParser(description=__doc__.splitlines()[0]))
    parser.add_argument("--steps", type=int, default=400, help="of each network")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--capacity", type=int, default=2**20, help="n-grams a table has room for")
    parser.add_argument("--learning-rate", type=float, default=4e-3)
    one = study.Study(__file__, parser, argv)
    args = one.args
    orders, networks, context = list(ORDERS), dict(NETWORKS), CONTEXT
    if args.small:
        orders, context = [0, 5], 16
        networks = {
            "Elman 128": ("recurrent", {"cell": "elman", "width": 8}),
            "Transformer 2 x 48": ("language_model", {"layers": 1, "width": 8, "heads": 1}),
        }
    reading = texts.Reading(context=context, stride=context * STRIDE // CONTEXT)
    data = {"data__source": args.source, "data__length": context + 1, "seed": args.seed}
    source = open_source(study.run("markov_chain", "text", **data).data, args.seed, args.data_dir)
    V = source.tokenizer.size
    first = next(iter(source.texts))

    entries: list[Entry] = []
    whole: dict[int, float] = {}
    for order in orders:
        for smoothing, called in SMOOTHING.items():
            (model, state, numbers), seconds, energy = metered(
                lambda order=order, smoothing=smoothing: counted(
                    source, order, smoothing, args.capacity
                )
            )
            results = measured(model, state, source, reading)
            entry = Entry(
                *(f"order {order}, {called}", called, model, state, numbers, seconds, energy),
                results,
            )
            entries.append(entry)
            if called == "add-one" and order in PUBLISHED:
                # As DATA.md counts: all of the text in one string, its first symbol left out.
                own = measured(model, state, source, texts.Reading(first=False))
                whole[order] = own[first].value
            print(entry.name, f"{results[first].value:.4f}, {seconds:.0f} s", flush=True)
    for name, (family, fields) in networks.items():
        changed = {f"model__{field}": value for field, value in fields.items()}
        changed |= {"model__vocabulary": V} | data
        changed |= {"steps": args.steps, "data__batch_size": args.batch_size}
        changed |= {"optimizer__learning_rate": args.learning_rate}
        if family == "language_model":
            changed |= {"model__context": context}
        variant = {"recurrent": "bible", "language_model": "shakespeare_char"}[family]
        run = study.run(family, variant, **changed)
        learnt, seconds, energy = metered(lambda run=run: study.clocked(run, source))
        results = measured(learnt.model, learnt.state, source, reading)
        entry = Entry(
            *(name, family, learnt.model, learnt.state, learnt.parameters, seconds, energy),
            results,
        )
        entries.append(entry)
        print(name, f"{results[first].value:.4f}, {seconds:.0f} s", flush=True)

    written = {e.name: sample(e, source, context, args.seed) for e in told(entries)}
    numbers = {
        e.name: {
            "numbers": e.numbers,
            "seconds": e.seconds,
            "joules": e.joules,
            **{split: result.value for split, result in e.results.items()},
        }
        for e in entries
    }
    one.write(_page(one, entries, whole, written, source), _figure(one, entries, first), numbers)


def told(entries: list[Entry]) -> list[Entry]:
    """Whose samples are shown: some chains, and all networks."""
    chains = [e for e in entries if e.kind == "Kneser-Ney"]
    return chains[::2] + [e for e in entries if e.kind in ("recurrent", "language_model")]


def claims(entries: list[Entry], split: str) -> list[str]:
    """What became of the three claims, a sentence each."""
    bits = lambda e: e.results[split].value
    says = lambda holds: "holds" if holds else "does NOT hold"
    of = {kind: [e for e in entries if e.kind == kind] for kind in SMOOTHING.values()}
    curve = {kind: np.array([bits(e) for e in own]) for kind, own in of.items()}
    best = {kind: min(own, key=bits).name.partition(",")[0] for kind, own in of.items()}
    rises = bool(np.diff(curve["add-one"])[-1] > 0)
    falls = bool((np.diff(curve["Kneser-Ney"]) <= 0).all())
    chains = [e for e in entries if e.kind in SMOOTHING.values()]
    networks = [e for e in entries if e not in chains]
    chain, network = min(chains, key=bits), min(networks, key=bits)
    gap = scores.compare(network.results[split], chain.results[split])
    second = gap.high < 0 and network.numbers < chain.numbers
    by_name = {e.name: e for e in entries}
    elman, transformer = (by_name[name] for name in ALIKE)
    other = scores.compare(transformer.results[split], elman.results[split])
    return [
        f"Claim 1 {says(rises and falls)}: with add-one the fewest bits/byte are at "
        f"{best['add-one']}, with Kneser-Ney at {best['Kneser-Ney']}.",
        f"Claim 2 {says(second)}: {network.name} ({network.numbers:,} numbers) has "
        f"{bits(network):.3f} bits/byte, {chain.name} ({chain.numbers:,}) {bits(chain):.3f}: "
        f"{gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}].",
        f"Claim 3 {says(other.high < 0)}: {transformer.name} ({transformer.numbers:,}) has "
        f"{bits(transformer):.3f}, {elman.name} ({elman.numbers:,}) {bits(elman):.3f}: "
        f"{other.value:+.3f} [{other.low:+.3f}, {other.high:+.3f}].",
    ]


def _page(one, entries, whole, written, source) -> list[str]:
    splits = list(entries[0].results)
    any_result = entries[0].results[splits[0]]
    head = ["model", "numbers", "core-seconds", *(f"bits/byte, {split}" for split in splits)]
    rows = [
        [
            e.name,
            f"{e.numbers:,}",
            f"{e.seconds:.0f}",
            *(f"{r.value:.3f} ± {r.standard_error:.3f}" for r in e.results.values()),
        ]
        for e in entries
    ]
    energy = [e.joules for e in entries]
    of_energy = (
        "Energy is not known: the machine has no meter that can be read (powercap). Core-seconds, "
        "which sharing the machine does not change, stand in its place."
        if None in energy
        else "Joules by the processor's meter, of all that it did meanwhile: "
        + ", ".join(f"{e.name} {e.joules:.0f}" for e in entries)
        + "."
    )
    is_bible = source.name == "king_james_bible" or source.name.endswith(":king_james_bible")
    known = [
        f"order {order}: {value:.4f} (DATA.md: {PUBLISHED[order]:.4f})"
        for order, value in whole.items()
    ]
    steps = one.args.steps * one.args.batch_size * any_result.protocol["context"]
    fence = lambda text: "```\n" + text.replace("`", "'") + "\n```"
    return [
        "# From counting to attention",
        *claims(entries, splits[0]),
        one.picture("Bits a byte against the numbers that a model holds, and against its time."),
        study.table(head, rows),
        "Numbers: of a chain the n-grams of its longest length that occur, each with its count; of "
        "a network its parameters. Core-seconds: processor time of all cores to learn it, "
        "compiling included. ±: one standard error over windows.",
        of_energy,
        f"Each network read {steps / 1e6:.1f} million characters ({one.args.steps} steps), each "
        "chain all of the training text once. None of them was tuned: one learning rate "
        f"({one.args.learning_rate:g}, cosine) for all.",
        f"Protocol of all: {texts.brief(any_result.protocol)}; {any_result.preprocessing}.",
        *(
            [
                "Counted as in DATA.md (one string, its first character not counted), add-one on "
                f"{splits[0]}: " + "; ".join(known) + ". Of order 0 DATA.md adds nothing."
            ]
            if is_bible
            else []
        ),
        f"What they write after {PROMPT!r}, drawn as they say:",
        *(f"{name}\n\n{fence(text)}" for name, text in written.items()),
        one.closing(str(one.args.seed)),
    ]


def _figure(one, entries, split):
    figure, axes = one.pyplot().subplots(1, 2, figsize=(11, 4.6), layout="constrained", sharey=True)
    for kind, colour in COLOURS.items():
        own = [e for e in entries if e.kind == kind]
        bits = [e.results[split].value for e in own]
        for axis, what in zip(axes, ("numbers", "seconds"), strict=True):
            chain = kind in SMOOTHING.values()
            axis.plot(
                [getattr(e, what) for e in own], bits, "o-" if chain else "s",
                color=colour, label={"language_model": "Transformer"}.get(kind, kind),
            )  # fmt: skip
        for e, value in zip(own, bits, strict=True):
            name = e.name.partition(",")[0].removeprefix("order ")
            axes[0].annotate(name, (e.numbers, value), xytext=(4, 4), textcoords="offset points",
                             fontsize=7)  # fmt: skip
    axes[0].set(xscale="log", xlabel="numbers that it holds", ylabel=f"bits/byte, {split}")
    axes[1].set(xscale="log", xlabel="core-seconds to learn it")
    axes[0].legend(fontsize=8)
    low = math.floor(10 * min(e.results[split].value for e in entries)) / 10
    axes[0].set_ylim(low - 0.1, None)
    return figure


if __name__ == "__main__":
    main()
