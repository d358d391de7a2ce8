"""Claim: every rule of decoding buys likelihood with variety, and all of them at about one price.

A Transformer writes after beginnings of held-out text, by each rule of maths/sequences/warping.py.
What it writes is judged by a larger model that it has never seen, a Kneser-Ney chain of order 6
that counted all of the training text (quality), and by how many of its n-grams are distinct
(diversity). Beside it stands how the text really goes on. Claims, fixed before any run:

  1. As the model says, its text is less likely under the judge than the real one, and greedily
     written it is likelier (Holtzman et al. 2020).
  2. In each rule's own sweep, what is likelier is less varied.
  3. Where they are as likely as the real text, all rules are as varied, within .05 of distinct
     n-grams (Nadeem et al. 2020, of top-k, nucleus and temperature).

    python experiments/samplers_of_text.py --data-dir=../shared/tensorflow_datasets

writes a page, a picture and the numbers to experiments/results/.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import from_counting_to_attention as counting
import jax
import jax.numpy as jnp
import numpy as np
import study

from genjax_zoo.contract import Model
from genjax_zoo.data.sources import open_source
from genjax_zoo.maths.sequences import decoding
from genjax_zoo.maths.sequences.warping import Decoding

SWEEPS: Mapping[str, Sequence[Decoding]] = {
    "temperature": [Decoding(temperature=t) for t in (0.3, 0.6, 0.8, 1.2)],
    "top-k": [Decoding(top_k=k) for k in (2, 4, 8)],
    "top-p": [Decoding(top_p=p) for p in (0.5, 0.75, 0.9)],
    "min-p": [Decoding(min_p=p) for p in (0.4, 0.15, 0.05)],
}
"""Each from what is likeliest to what is most varied."""
ALONE = {
    "as it says": Decoding(),
    "greedy": Decoding(temperature=0),
    "greedy, repetition penalty 1.3": Decoding(temperature=0, repetition_penalty=1.3),
}
COLOURS = dict(zip(SWEEPS, (study.BLUE, study.ORANGE, study.GREEN, study.VIOLET), strict=True))
GRAM, COPY, ALLOWED = 8, 20, 0.05
"""Characters of an n-gram, and of a passage that counts as copied; how far apart claim 3 allows."""
BOOTSTRAPS = 200


class Row(NamedTuple):
    """What one rule wrote.

    Attributes:
      name: of the rule.
      bits: a character under the judge, and
      error: its standard error over strings.
      distinct: the share of all n-grams that are distinct, and
      distinct_error: its deviation over resamples of half of the strings, over √2.
      words: the share of words that the training text has.
      copied: the share of passages that stand in the training text.
      sample: the first string.
    """

    name: str
    bits: float
    error: float
    distinct: float
    distinct_error: float
    words: float
    copied: float
    sample: str


def distinct(strings: Sequence[str], n: int = GRAM) -> float:
    """The share of all n-grams of characters that are distinct."""
    grams = [s[i : i + n] for s in strings for i in range(len(s) - n + 1)]
    return len(set(grams)) / max(len(grams), 1)


def known_words(strings: Sequence[str], known: set[str]) -> float:
    """The share of words in `known`; the first and last of each string may be cut, and are left."""
    words = [word for s in strings for word in s.split()[1:-1]]
    return sum(word in known for word in words) / max(len(words), 1)


def copied(strings: Sequence[str], text: str, n: int = COPY) -> float:
    """The share of passages of n characters, one after another, that stand in a text."""
    parts = [s[i : i + n] for s in strings for i in range(0, len(s) - n + 1, n)]
    return sum(part in text for part in parts) / max(len(parts), 1)


def spread(strings: Sequence[str], seed: int, draws: int = BOOTSTRAPS) -> float:
    """The standard error of `distinct`, by halves drawn without replacement.

    Of a resample with replacement every string that is drawn twice would count as repeated.
    """
    rng = np.random.default_rng(seed)
    half = max(len(strings) // 2, 1)
    each = [
        distinct([strings[i] for i in rng.permutation(len(strings))[:half]]) for _ in range(draws)
    ]
    return float(np.std(each) / math.sqrt(2))


def at(bits: float, rows: Sequence[Row]) -> float:
    """How varied a sweep is where it has so many bits, between its rows; NaN beyond its ends."""
    order = sorted(rows, key=lambda row: row.bits)
    x, y = [row.bits for row in order], [row.distinct for row in order]
    return float(np.interp(bits, x, y)) if x[0] <= bits <= x[-1] else math.nan


class Judge(NamedTuple):
    """Who tells how likely a string is after its beginning.

    Attributes:
      model, state: of it.
      prompt: how many characters are given.
    """

    model: Model
    state: Any
    prompt: int

    def bits(self, x: np.ndarray) -> tuple[float, float]:
        """Bits a character of strings [n, T] after their prompts, and the standard error."""
        mask = np.broadcast_to(np.arange(x.shape[1]) >= self.prompt, x.shape)
        batch = {"x": jnp.asarray(x), "loss_mask": jnp.asarray(mask, jnp.float32)}
        log_p = np.asarray(jax.jit(self.model.log_prob)(jax.random.key(0), self.state, batch))
        each = -log_p / (x.shape[1] - self.prompt) / math.log(2)
        return float(each.mean()), float(each.std(ddof=1) / math.sqrt(len(each)))


def main(argv=None) -> None:
    """Runs the study and writes its page."""
    parser = study.of_text(argparse.ArgumentParser(description=__doc__.splitlines()[0]))
    parser.add_argument("--steps", type=int, default=400, help="of the writer")
    parser.add_argument("--strings", type=int, default=256)
    parser.add_argument("--capacity", type=int, default=2**20, help="n-grams that the judge holds")
    one = study.Study(__file__, parser, argv)
    args = one.args
    context, prompt, sweeps, shape = 128, 32, dict(SWEEPS), (2, 64, 4)
    if args.small:
        context, prompt, shape = 24, 8, (1, 8, 1)
        sweeps = {name: rules[::2][:2] for name, rules in list(SWEEPS.items())[:2]}
    run = study.run(
        *("language_model", "shakespeare_char"),
        seed=args.seed,
        steps=args.steps,
        data__source=args.source,
        data__length=context + 1,
        data__batch_size=32 if not args.small else 4,
        model__context=context,
        optimizer__learning_rate=4e-3,
        **dict(zip(("model__layers", "model__width", "model__heads"), shape, strict=True)),
        model__vocabulary=_vocabulary(args),
    )
    source = open_source(run.data, args.seed, args.data_dir)
    decode, split = source.tokenizer.decode, next(iter(source.texts))
    training = decode(np.asarray(source.resident))
    words = set(training.split())
    model, state, grams = counting.counted(source, 6, "kneser_ney", args.capacity)
    judge = Judge(model, state, prompt)
    writer = study.clocked(run, source)
    print(f"writer: {writer.parameters:,} numbers, {writer.seconds:.0f} s", flush=True)

    held = source.tokenizer.encode("".join(source.texts[split]))
    places = np.linspace(0, len(held) - context - 1, args.strings).astype(int)
    real = held[places[:, None] + np.arange(context)]
    prompts = jnp.asarray(real[:, :prompt])

    def row(name: str, x: np.ndarray) -> Row:
        strings = [decode(s) for s in x[:, prompt:]]
        found = Row(
            name,
            *judge.bits(x),
            distinct(strings),
            spread(strings, args.seed),
            known_words(strings, words),
            copied(strings, training),
            strings[0],
        )
        print(found, flush=True)
        return found

    def written(rules: Decoding) -> np.ndarray:
        @jax.jit
        def write(key: jax.Array, state: Any, prompts: jax.Array) -> jax.Array:
            how = (writer.model.autoregression, state, args.strings, context - prompt, rules)
            return decoding.write(key, *how, prompt=prompts).x

        x = write(jax.random.key(args.seed + 1), writer.state, prompts)
        return np.concatenate([real[:, :prompt], np.asarray(x)], axis=1)

    text = row("the text itself", real)
    alone = {name: row(name, written(rules)) for name, rules in ALONE.items()}
    swept = {
        name: [row(_spelt(rules), written(rules)) for rules in several]
        for name, several in sweeps.items()
    }
    rows = [text, *alone.values(), *(r for several in swept.values() for r in several)]
    told = {"writer": writer.parameters, "judge": grams, "rows": rows}
    page = _page(one, writer, grams, text, alone, swept, decode(real[0, :prompt]))
    one.write(page, _figure(one, text, alone, swept), told)


def _vocabulary(args) -> int:
    """How many characters the text has."""
    data = study.run("markov_chain", "text", data__source=args.source, data__length=16).data
    return open_source(data, args.seed, args.data_dir).tokenizer.size


def _spelt(rules: Decoding) -> str:
    """What a rule changes, in words."""
    plain = Decoding()
    fields = ("temperature", "top_k", "top_p", "min_p")
    changed = [f for f in fields if getattr(rules, f) != getattr(plain, f)]
    return ", ".join(f"{f.replace('_', '-')} {getattr(rules, f):g}" for f in changed)


def claims(text: Row, alone: Mapping[str, Row], swept: Mapping[str, Sequence[Row]]) -> list[str]:
    """What became of the three claims, a sentence each."""
    says = lambda holds: "holds" if holds else "does NOT hold"
    plain, greedy = alone["as it says"], alone["greedy"]
    apart = lambda a, b: (a.bits - b.bits) > 1.96 * math.hypot(a.error, b.error)
    first = apart(plain, text) and apart(text, greedy)
    turned = [
        name
        for name, rows in swept.items()
        for a, b in itertools.pairwise(rows)
        # From the likeliest on: neither may fall by more than chance.
        if a.bits - b.bits > 1.96 * math.hypot(a.error, b.error)
        or a.distinct - b.distinct > 1.96 * math.hypot(a.distinct_error, b.distinct_error)
    ]
    # Between a rule's likeliest and what it is without the rule.
    there = {name: at(text.bits, [*rows, plain]) for name, rows in swept.items()}
    known = {name: value for name, value in there.items() if not math.isnan(value)}
    near = max(known.values()) - min(known.values()) if len(known) > 1 else math.nan
    each = ", ".join(f"{name} {value:.3f}" for name, value in known.items())
    return [
        f"Claim 1 {says(first)}: as it says the writer has {plain.bits:.2f} ± {plain.error:.2f} "
        f"bits a character under the judge, the text itself {text.bits:.2f} ± {text.error:.2f}, "
        f"greedy {greedy.bits:.2f} ± {greedy.error:.2f}.",
        f"Claim 2 {says(not turned)}"
        + (f", but for {', '.join(dict.fromkeys(turned))}." if turned else " in every sweep."),
        f"Claim 3 {says(near <= ALLOWED)}: as likely as the text itself, the shares of distinct "
        f"{GRAM}-grams are {each or 'not reached by any rule'} (the text's own: "
        f"{text.distinct:.3f}).",
    ]


def _page(one, writer, grams, text, alone, swept, prompt) -> list[str]:
    rows = [text, *alone.values(), *(r for several in swept.values() for r in several)]
    line = lambda r: [
        r.name,
        f"{r.bits:.3f} ± {r.error:.3f}",
        f"{2**r.bits:.2f}",
        f"{r.distinct:.3f} ± {r.distinct_error:.3f}",
        f"{100 * r.words:.1f}",
        f"{100 * r.copied:.1f}",
    ]
    head = ["rule", "bits/character", "perplexity", f"distinct {GRAM}-grams", "known words, %"]
    shown = [text, *alone.values(), *(several[len(several) // 2] for several in swept.values())]
    fence = lambda s: "```\n" + s.replace("`", "'") + "\n```"
    return [
        "# Samplers of text",
        *claims(text, alone, swept),
        one.picture("Bits a character under the judge against distinct n-grams, by rule."),
        study.table([*head, f"copied {COPY}-grams, %"], map(line, rows)),
        "Bits and perplexity by character under the judge, of what comes after the prompt (± one "
        "standard error over strings); known words are those that the training text has; copied "
        f"are passages of {COPY} characters that stand in it.",
        f"Writer: a Transformer of {writer.parameters:,} numbers, {one.args.steps} steps. Judge: a "
        f"Kneser-Ney chain of order 6 with {grams:,} n-grams, which counted all of the training "
        f"text; it sees six characters back, and no further. {one.args.strings} strings, each "
        "after another beginning of the held-out text; every rule has the same key.",
        f"After {prompt!r}:",
        *(f"{r.name}\n\n{fence(r.sample)}" for r in shown),
        one.closing(str(one.args.seed)),
    ]


def _figure(one, text, alone, swept):
    figure, axis = one.pyplot().subplots(figsize=(7.5, 5), layout="constrained")
    for name, rows in swept.items():
        own = sorted([*rows, alone["as it says"]], key=lambda row: row.bits)
        x, y = [row.bits for row in own], [row.distinct for row in own]
        axis.plot(x, y, "o-", color=COLOURS[name], label=name)
    for (name, row), marker in zip(alone.items(), "sDv", strict=True):
        axis.plot(row.bits, row.distinct, marker, color="0.3", label=name)
    axis.plot(text.bits, text.distinct, "*", color=study.RED, markersize=14, label=text.name)
    axis.axvline(text.bits, color=study.RED, linestyle=":", linewidth=1)
    axis.set(xlabel="bits a character under the judge", ylabel=f"distinct {GRAM}-grams, share")
    axis.legend(fontsize=8)
    return figure


if __name__ == "__main__":
    main()
