"""Chats: turns become symbols by the template that a tokenizer brings, in Jinja's sandbox.

Floor 6. A template frames turns by special tokens, and says once what begins a text. What somebody
types is never one of them, however it is spelt. A turn of the model ends with what the template
puts behind one, which is what training saw there.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from genjax_zoo.contract import DataError
from genjax_zoo.data.text.tokenizers import Tokenizer

Turn = Mapping[str, str]
"""{"role": "system", "user" or "assistant", "content": what was said}."""
ANSWER = "\ue000"
"""Stands for an answer, where a template is asked for what comes behind one."""


def turn(role: str, content: str) -> Turn:
    """What somebody has said."""
    return {"role": role, "content": content}


class Ends(NamedTuple):
    """What ends an answer.

    Attributes:
      symbols: special tokens.
      words: as text, where the template ends a turn by no special token.
    """

    symbols: tuple[int, ...]
    words: tuple[str, ...]


class Template:
    """How turns are written, one after another.

    Args:
      tokenizer: whose template it is.
      begin: the symbol that the model reads before a text by itself; below 0 for none.

    Raises DataError where there is no template, or none that can be read.
    """

    def __init__(self, tokenizer: Tokenizer, begin: int = -1):
        if tokenizer.chat_template is None:
            raise DataError(
                f"the tokenizer {tokenizer.name} has no chat template: this model has learnt from "
                "texts, and not from turns. Write after a prompt instead: genjax-zoo sample "
                "--prompt='...'."
            )
        self._tokenizer, self._begin = tokenizer, begin
        self._template = _opened(tokenizer.chat_template)
        spellings = sorted(tokenizer.controls, key=len, reverse=True)
        self._controls = re.compile("|".join(map(re.escape, spellings)) or "(?!)")
        self._named = {
            f"{name}_token": tokenizer.pieces[tokenizer.specials[role]]
            for role, name in {"begin": "bos", "end": "eos", "pad": "pad", "unknown": "unk"}.items()
            if role in tokenizer.specials
        }

    def symbols(self, turns: Sequence[Turn], answering: bool = True) -> np.ndarray:
        """The symbols of a chat [T] int32, up to where the model answers.

        Raises DataError for turns that the template does not take.
        """
        # A character that nobody has typed is put into what is spelt like a special token, and cuts
        # it in two where the template has done its work.
        said = "".join(t["content"] for t in turns)
        mark = next(letter for letter in map(chr, range(0xE000, 0xF900)) if letter not in said)
        cut = lambda found: found[0][:1] + mark + found[0][1:]
        safe = [turn(t["role"], self._controls.sub(cut, t["content"])) for t in turns]
        parts = self._rendered(safe, answering).split(mark)
        found = np.concatenate([self._tokenizer.encode_marked(part) for part in parts])
        # The model reads it by itself, and a text begins once.
        twice = len(found) and found[0] == self._begin
        return found[1:] if twice else found

    def ends(self) -> Ends:
        """What ends an answer: the first special token behind one, or the text if there is none."""
        asked = [turn("user", "?"), turn("assistant", ANSWER)]
        _, _, behind = self._rendered(asked, answering=False).partition(ANSWER)
        found = self._controls.search(behind)
        own = {self._tokenizer.specials["end"]} if "end" in self._tokenizer.specials else set()
        if found:
            own.add(self._tokenizer.controls[found[0]])
        words = () if found or not behind.strip(" ") else (behind,)
        return Ends(tuple(sorted(own)), words)

    def _rendered(self, turns: Sequence[Turn], answering: bool) -> str:
        try:
            return self._template.render(
                messages=turns, add_generation_prompt=answering, **self._named
            )
        except Exception as error:
            # Whatever a template does, it is data.
            why = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise DataError(
                f"the chat template of {self._tokenizer.name} takes no such turns: {why[:200]}."
            ) from error


def _opened(source: str) -> Any:
    """A template of the hub, which can touch nothing but what it is told."""
    try:
        import jinja2
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise DataError(
            "chat templates need jinja2, which is not installed: pip install 'genjax-zoo[text]'."
        ) from error

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    made.globals["raise_exception"] = refuse
    made.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    try:
        return made.from_string(source)
    except jinja2.TemplateError as error:
        raise DataError(f"the chat template of this tokenizer is damaged: {error}.") from error


class Fitted(NamedTuple):
    """A chat that fits into a context.

    Attributes:
      symbols: of its turns [T].
      turns: those that are left.
      left_out: how many of the oldest are not, a system's turn being none of them.
    """

    symbols: np.ndarray
    turns: list[Turn]
    left_out: int


def fitted(template: Template, turns: Sequence[Turn], most: int | None) -> Fitted:
    """The newest turns whose symbols are `most` at most; None is no bound.

    An answer goes with what it answers. Raises DataError where the last turn alone has more.
    """
    first = 1 if turns and turns[0]["role"] == "system" else 0
    kept = list(turns)
    while True:
        symbols = template.symbols(kept)
        left_out = len(turns) - len(kept)
        if most is None or len(symbols) <= most:
            return Fitted(symbols, kept, left_out)
        later = [i for i in range(first + 1, len(kept)) if kept[i]["role"] == "user"]
        if not later:
            raise DataError(
                f"this turn alone has {len(symbols)} symbols, with what frames it, and the context "
                f"has room for {most} before an answer; say it in fewer words, or ask for a "
                "shorter answer (--max_new)."
            )
        del kept[first : later[0]]
