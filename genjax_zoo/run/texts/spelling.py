"""From symbols to a text that is shown as it comes: whole characters, and nothing of a stop word.

Floor 6. A character may span symbols, and so may a stop word: what may still become part of one is
held back. Nothing is shown twice, taken back or lost: what was shown in parts is the text.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

LENGTH, END, STOP = "length", "end", "stop"
"""Why a text has ended: it is as long as was asked for, by the end token, by a stop word."""
BROKEN = "\ufffd"
"""What stands for bytes that are no character, or not all of one yet."""


class Telling:
    """The text that the symbols of one string spell, one after another.

    Args:
      decode: [T] integers -> text, of a tokenizer.
      before: the symbols of the prompt, which is not told.
      stop: words that end the text, and are no part of it.
      end: symbols that end it, and are not told.

    Attributes:
      text: what has been spelt, as far as it can be shown.
      count: how many symbols there were, the last of which ended it.
      ended: why; "" while it goes on.
    """

    def __init__(
        self,
        decode: Callable[[Any], str],
        before: Sequence[int] = (),
        stop: Sequence[str] = (),
        end: Collection[int] = (),
    ):
        self.text, self.count, self.ended = "", 0, ""
        self._decode, self._stop, self._end = decode, stop, end
        self._held, self._taken = "", 0
        # A window of the symbols is decoded again with each: what one of them spells may depend on
        # the one before it, as the space of a first word does, and on no other.
        self._window = list(before)
        self._told, self._whole = len(self._spelt()), len(self._window)

    def add(self, symbol: int) -> None:
        """The next symbol, of a text that has not ended."""
        self.count += 1
        if symbol in self._end:
            self.close(END)
            return
        self._window.append(symbol)
        spelt = self._spelt()
        whole = spelt.rstrip(BROKEN)
        self._show(whole[self._told :])
        self._told = max(self._told, len(whole))
        if whole == spelt:
            self._window, self._whole = self._window[self._whole :], 0
            self._told, self._whole = len(self._spelt()), len(self._window)

    def close(self, why: str = LENGTH) -> None:
        """The text ends here, if it has not: what was held back belongs to it."""
        if not self.ended:
            self._show(self._spelt()[self._told :])
        if not self.ended:
            self.text += self._held
            self.ended = why

    def take(self) -> str:
        """What of the text has not been taken before."""
        fresh, self._taken = self.text[self._taken :], len(self.text)
        return fresh

    def _spelt(self) -> str:
        return self._decode(self._window)

    def _show(self, more: str) -> None:
        """Tells of what was held back and more, up to a stop word or to what may become one."""
        known = self._held + more
        found = [at for at in map(known.find, self._stop) if at >= 0]
        if found:
            self.text, self.ended = self.text + known[: min(found)], STOP
            return
        free = len(known) - max((_begun(known, word) for word in self._stop), default=0)
        self.text, self._held = self.text + known[:free], known[free:]


def _begun(text: str, word: str) -> int:
    """How many characters at the end of a text may be the beginning of a word."""
    most = min(len(word) - 1, len(text))
    return next((size for size in range(most, 0, -1) if text.endswith(word[:size])), 0)
