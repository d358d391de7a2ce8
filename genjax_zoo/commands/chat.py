"""genjax-zoo chat: talks with the model in --workdir, which has learnt from turns.

Floor 8. Ctrl-C stops an answer, and what it has said so far stands; /exit, or the end of the input,
ends the chat.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator, Sequence

import jax

from genjax_zoo.commands import configs, prompts
from genjax_zoo.commands.flags import Call
from genjax_zoo.contract import DataError, Key
from genjax_zoo.run import trained
from genjax_zoo.run.record.progress import log
from genjax_zoo.run.texts.chats import Template, Turn, fitted, turn
from genjax_zoo.run.texts.writer import Author

EXIT = "/exit"


def run(call: Call) -> None:
    """Answers turn after turn, each as it comes."""
    known, workdir = call.flags, configs.workdir_of(call)
    parts = trained.read(workdir, configs.of_trained(call, workdir))
    prompts.check(call)
    prompts.rules_of(call)
    template = Template(prompts.tokenizer_of(parts), prompts.writes_of(parts).begin)
    ends = template.ends()
    _, state = trained.restore(parts, workdir, known.checkpoint)
    author = prompts.author_of(call, parts, state, ends.symbols)
    length = _length(author, known.max_new)
    turns = [turn("system", known.system)] if known.system else []
    template.symbols([*turns, turn("user", "?")])
    for said in _said():
        asked = [*turns, turn("user", said)]
        key = jax.random.fold_in(prompts.key_of(call, parts), len(asked))
        stop = (*known.stop, *ends.words)
        try:
            turns = [*asked, turn("assistant", _answer(key, author, template, asked, length, stop))]
        except DataError as error:
            # The chat goes on without this turn.
            log(f"{error}")


def _length(author: Author, asked: int | None) -> int:
    """Symbols of an answer at most: half of the context at least is left for what it answers."""
    if author.longest is None or asked is not None:
        return author.fitting([], asked, prompts.USUAL)
    return max(min(prompts.USUAL, author.longest // 2), 1)


def _answer(
    key: Key,
    author: Author,
    template: Template,
    turns: Sequence[Turn],
    length: int,
    stop: Sequence[str],
) -> str:
    """Prints an answer, and returns it."""
    most = None if author.longest is None else author.longest - length
    chat, answer = fitted(template, turns, most), ""
    if chat.left_out:
        log(f"(the oldest {chat.left_out} turns are left out: the context holds no more)")
    try:
        for (text,) in author.write(key, [chat.symbols], length, stop, every=1):
            print(text.told.take(), end="", flush=True)
            answer = text.told.text
    except KeyboardInterrupt:
        log(" (stopped)")
    print(flush=True)
    return answer


def _said() -> Iterator[str]:
    """What somebody types, line by line."""
    asks = sys.stdin.isatty()
    if isinstance(sys.stdin, io.TextIOWrapper):
        # A byte that is no character is one turn's fault, and does not end the chat.
        sys.stdin.reconfigure(errors="replace")
    if asks:
        # Lines can then be edited, and called back.
        with contextlib.suppress(ImportError):
            import readline as readline
        log(f"Ctrl-C stops an answer, {EXIT} ends.")
    while True:
        try:
            said = input("> " if asks else "")
        except EOFError:
            return
        except KeyboardInterrupt:
            if not asks:
                raise
            log(f"\n{EXIT} ends.")
            continue
        if said.strip() == EXIT:
            return
        if said.strip():
            yield said
