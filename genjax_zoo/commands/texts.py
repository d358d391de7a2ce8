"""genjax-zoo sample --prompt: writes texts, as text, as arrays and with their log-probabilities.

Floor 8.
"""

from __future__ import annotations

import io
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from genjax_zoo.commands import configs, prompts
from genjax_zoo.commands.flags import Call
from genjax_zoo.maths.sequences.decoding import PADDING
from genjax_zoo.run import trained
from genjax_zoo.run.devices import memory
from genjax_zoo.run.record import files
from genjax_zoo.run.record.workdir import Workdir, write_json
from genjax_zoo.run.texts.writer import Author, Text
from genjax_zoo.run.trained import Trained

BYTES_WRITTEN, BYTES_NEXT = 13, 9
"""Of a symbol that is written: itself, its mask and two numbers; of one that may be: its logits
before and after the rules, and whether it was seen."""


def write(call: Call, workdir: Workdir, parts: Trained) -> None:
    """Prints the texts, and writes samples/sample_step_... .txt, .npz and .json.

    All that can be wrong with the flags is found before anything is computed.
    """
    known, n = call.flags, call.flags.n or 1
    tokenizer = prompts.tokenizer_of(parts)
    begun = [tokenizer.encode(prompt) for prompt in known.prompt]
    prompts.rules_of(call)
    prompts.writes_of(parts)
    rows, most = len(begun) * n * (known.beams or 1), known.max_new or prompts.USUAL
    # Before anything is made: what is written, with its numbers, and the logits of what comes next.
    size = rows * (BYTES_WRITTEN * most + BYTES_NEXT * tokenizer.size)
    memory.check(f"writing {rows} texts of {most} symbols", size, memory.FEWER)
    folder = configs.out_of(call, workdir.samples)
    step, state = trained.restore(parts, workdir, known.checkpoint)
    author = prompts.author_of(call, parts, state)
    length = author.fitting(begun, known.max_new, prompts.USUAL)
    if known.beams is None:
        texts = _drawn(call, parts, author, [x for x in begun for _ in range(n)], length)
    else:
        found = author.search(begun, length, known.beams, known.stop)
        texts = [text for beam in found for text in beam[:n]]
    said = {name: known[name].value for name in prompts.OF_TEXTS if known[name].present}
    if not known.stream:
        print(page(texts, tokenizer.decode))
    if author.rounds:
        written = sum(len(text.x) for text in texts) / len(texts)
        print(f"--- with its draft, {written / author.rounds:.2f} symbols a round")
    words = [f"prompt={prompt}" for prompt in known.prompt]
    words += [f"{name}={value}" for name, value in said.items() if name != "stream"]
    name = f"sample_step_{step:08d}_seed_{known.sample_seed}_n_{n}"
    stem = folder / (name + configs.told_apart([*words, *call.overrides]))
    record = {
        "step": step,
        "seed": known.sample_seed,
        "tokenizer": tokenizer.record(),
        "rules": said,
        "texts": [_record(text, tokenizer.decode, tokenizer.pieces) for text in texts],
    }
    packed = io.BytesIO()
    kept: dict[str, Any] = arrays(texts)
    np.savez(packed, **kept)
    print(files.write(f"{stem}.txt", page(texts, tokenizer.decode) + "\n"))
    write_json(pathlib.Path(f"{stem}.json"), record)
    of_each = " of each symbol" if known.beams is None else ""
    print(f"{stem}.json: the texts, and log p{of_each}")
    print(files.write(f"{stem}.npz", packed.getvalue()))


def _drawn(
    call: Call, parts: Trained, author: Author, begun: Sequence[np.ndarray], length: int
) -> list[Text]:
    """The texts, of which one can be watched."""
    known, texts = call.flags, list[Text]()
    every = 1 if known.stream else None
    if known.stream:
        print(known.prompt[0], end="", flush=True)
    for texts in author.write(prompts.key_of(call, parts), begun, length, known.stop, every):
        if known.stream:
            print(texts[0].told.take(), end="", flush=True)
    if known.stream:
        print()
    return texts


def page(texts: Sequence[Text], decode: Any) -> str:
    """The texts with their prompts, and below each what is known of it."""
    return "\n".join(
        f"{decode(text.prompt)}{text.told.text}\n"
        f"--- {i} of {len(texts)}: {len(text.x)} symbols, log p = {text.total:.3f} nats, "
        f"ended by {text.told.ended}"
        for i, text in enumerate(texts, 1)
    )


def arrays(texts: Sequence[Text]) -> dict[str, np.ndarray]:
    """Prompts with padding below 0 on the left, and what was written, with its mask."""
    P, L = (max((len(of(text)) for text in texts), default=0) for of in (_prompt, _symbols))
    left = lambda a: np.pad(a, (P - len(a), 0), constant_values=PADDING)
    right = lambda a: np.pad(a, (0, L - len(a)))
    found = {
        "prompt": np.stack([left(text.prompt) for text in texts]),
        "x": np.stack([right(text.x) for text in texts]),
        "mask": np.stack([np.arange(L) < len(text.x) for text in texts]),
        "total": np.array([text.total for text in texts], np.float32),
    }
    for name in ("log_prob", "log_rule"):
        each = [getattr(text, name) for text in texts]
        if all(row is not None for row in each):
            found[name] = np.stack([right(row) for row in each])
    return found


def _prompt(text: Text) -> np.ndarray:
    return text.prompt


def _symbols(text: Text) -> np.ndarray:
    return text.x


def _record(text: Text, decode: Any, pieces: Sequence[str]) -> dict[str, Any]:
    """A text as plain values."""
    each = {} if text.log_prob is None else {"log_prob": text.log_prob.tolist()}
    return {
        "prompt": decode(text.prompt),
        "text": text.told.text,
        "ended": text.told.ended,
        "log_p": text.total,
        "symbols": [pieces[symbol] for symbol in text.x],
        **each,
    }
