"""Texts after prompts: a batch of any lengths, compiled once for each bucket of them.

Floor 6. Prompts are padded on the left, and their number, their lengths and that of what is written
are rounded up to powers of two, so that another prompt seldom is another program. What stops on
words is written in parts, between which the text is looked at.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax_zoo.contract import Array, DataError, Key
from genjax_zoo.data.text.tokenizers import Tokenizer
from genjax_zoo.maths.sequences import beam, decoding, speculative
from genjax_zoo.maths.sequences.decoding import PADDING
from genjax_zoo.maths.sequences.speculative import Writer
from genjax_zoo.maths.sequences.warping import Decoding
from genjax_zoo.run.texts.spelling import Telling

LEAST = 16
"""Symbols of the smallest bucket."""
PART = 16
"""Symbols that are written between two looks at a text that may stop on a word."""


class Text(NamedTuple):
    """What was written after one prompt.

    Attributes:
      prompt: its symbols [P].
      x: symbols [T], up to the one that ended it.
      log_prob: log p of each under the model [T] nats; None of a beam, which knows its sum alone.
      log_rule: the same under what they were drawn of; None of a beam, which draws nothing.
      total: log p of all of them, in nats.
      told: as a text.
    """

    prompt: np.ndarray
    x: np.ndarray
    log_prob: np.ndarray | None
    log_rule: np.ndarray | None
    total: float
    told: Telling


class Author:
    """A model that writes texts.

    Args:
      target: the model, and its state.
      tokenizer: of its texts.
      rules: how it writes. Its stop symbols are those of `end` besides.
      end: symbols that end a text, besides those of the rules.
      draft: a model of the same tokenizer that writes before the target does; None for nobody.
      drafts: how many symbols it writes a round.

    Attributes:
      longest: how many symbols prompt and text can have together; None where there is no end.
      rounds: of the draft, in the last texts.
    """

    def __init__(
        self,
        target: Writer,
        tokenizer: Tokenizer,
        rules: Decoding,
        end: Sequence[int] = (),
        draft: Writer | None = None,
        drafts: int = 4,
    ):
        self.tokenizer, self.rounds = tokenizer, 0
        self._end = (*rules.stop, *end)
        # A vocabulary may be larger than its tokenizer, and a text is what can be spelt.
        rules = dataclasses.replace(rules, stop=self._end, symbols=tokenizer.size)
        writers = (target, *([] if draft is None else [draft]))
        limits = [each.writes.longest(each.state) for each in writers if each.writes.longest]
        self.longest = min(limits, default=None)
        # Once, and not for each part of a text.
        self._states = tuple(jax.jit(each.writes.readied)(each.state) for each in writers)

        def of(states: tuple[Any, ...]) -> list[Writer]:
            return [Writer(w.writes, state) for w, state in zip(writers, states, strict=True)]

        def begin(states: tuple[Any, ...], x: Array, n: Array, length: int, room: int) -> Any:
            """The rows from n on fill a bucket, and have ended before they begin."""
            begun: Any
            if draft is None:
                writes, state = of(states)[0]
                begun = decoding.begin(writes, state, len(x), length, x, room=room)
            else:
                first, second = of(states)
                begun = speculative.begin(first, second, len(x), length, x, room=room)
            return begun._replace(done=jnp.arange(len(x)) >= n)

        def go_on(states: tuple[Any, ...], key: Key, begun: Any, until: Array, most: Array) -> Any:
            if draft is None:
                return decoding.go_on(key, *of(states)[0], begun, until, rules)
            first, second = of(states)
            return speculative.go_on(key, first, second, begun, until, drafts, rules, most)

        def search(
            states: tuple[Any, ...], x: Array, length: int, room: int, width: int, most: Any
        ):
            writes, state = of(states)[0]
            return beam.search(
                *(writes, state, len(x), length, width),
                stop=self._end, prompt=x, room=room, most=most, symbols=tokenizer.size,
            )  # fmt: skip

        self._begin = jax.jit(begin, static_argnames=("length", "room"))
        self._go_on = jax.jit(go_on, donate_argnums=2)
        self._search = jax.jit(search, static_argnames=("length", "room", "width"))

    # ------------------------------------------------------------------------------- before it

    def fitting(self, prompts: Sequence[np.ndarray], length: int | None, usual: int) -> int:
        """How many symbols are written: as is asked for, or as usual, as far as there is room.

        Raises DataError where a prompt leaves no room for that.
        """
        most = max(map(len, prompts), default=0)
        if self.longest is None:
            return length or usual
        left = self.longest - most
        if left < 1:
            raise DataError(
                f"a prompt of {most} symbols is longer than the context, which has room for "
                f"{self.longest - 1} before the first that is written; shorten it."
            )
        if length is not None and length > left:
            raise DataError(
                f"{length} symbols after a prompt of {most} are more than the {self.longest} that "
                f"this model can have in all; ask for at most {left}."
            )
        return length or min(usual, left)

    # ------------------------------------------------------------------------------ the writing

    def write(
        self,
        key: Key,
        prompts: Sequence[np.ndarray],
        length: int,
        stop: Sequence[str] = (),
        every: int | None = None,
    ) -> Iterator[list[Text]]:
        """Writes after each prompt; yields all texts as far as they are, and at last whole.

        Args:
          key: of the draws.
          prompts: symbols [P] each, as `fitting` finds them.
          length: how many symbols of each at most.
          stop: words that end a text.
          every: how many symbols are written between two yields; all if nothing is to be seen.
        """
        x, L, room = self._bucket(prompts, length)
        begun = self._begin(self._states, x, len(prompts), length=L, room=room)
        tellings = [self._telling(prompt, stop) for prompt in prompts]
        every, until = every or (PART if stop else length), 0
        while until < length:
            until = min(until + every, length)
            begun = self._go_on(self._states, key, begun, until, length)
            written = jax.device_get(begun.written)
            rows = zip(tellings, written.x, written.mask.sum(axis=1), strict=False)
            for telling, symbols, count in rows:
                while not telling.ended and telling.count < count:
                    telling.add(int(symbols[telling.count]))
                if until == length:
                    telling.close()
            self.rounds = int(getattr(begun, "rounds", 0))
            yield [self._text(*row) for row in zip(prompts, tellings, *written, strict=False)]
            ended = np.array([bool(telling.ended) for telling in tellings])
            if ended.all():
                return
            begun = begun._replace(done=begun.done | np.pad(ended, (0, len(x) - len(ended))))

    def search(
        self, prompts: Sequence[np.ndarray], length: int, width: int, stop: Sequence[str] = ()
    ) -> list[list[Text]]:
        """The likeliest texts after each prompt, the best first, as far as a beam sees.

        A stop word cuts what was found, and does not lead the search.
        """
        x, L, room = self._bucket(prompts, length, fill=True)
        found = jax.device_get(
            self._search(self._states, x, length=L, room=room, width=width, most=length)
        )
        texts = []
        for prompt, strings, masks, log_probs in zip(prompts, *found[:3], strict=False):
            beams = []
            for symbols, mask, log_prob in zip(strings, masks, log_probs, strict=True):
                if log_prob == -np.inf:
                    continue
                telling, x = self._telling(prompt, stop), symbols[mask]
                while not telling.ended and telling.count < len(x):
                    telling.add(int(x[telling.count]))
                telling.close()
                beams.append(Text(prompt, x[: telling.count], None, None, float(log_prob), telling))
            texts.append(beams)
        return texts

    # ---------------------------------------------------------------------------------- its parts

    def _bucket(
        self, prompts: Sequence[np.ndarray], length: int, fill: bool = False
    ) -> tuple[np.ndarray, int, int]:
        """The prompts [n, P] with padding on the left, L, and the room of a cache.

        Rows that are too many are of padding, or with `fill` the last prompt's.
        """
        longest = max(map(len, prompts))
        P, L = bucket(longest, LEAST) if longest else 0, bucket(length, LEAST)
        x = np.full((bucket(len(prompts)), P), PADDING, np.int32)
        for i, row in enumerate(x):
            if fill or i < len(prompts):
                prompt = prompts[min(i, len(prompts) - 1)]
                row[P - len(prompt) :] = prompt
        room = P + L - 1
        return x, L, room if self.longest is None else max(min(room, self.longest - 1), 1)

    def _telling(self, prompt: np.ndarray, stop: Sequence[str]) -> Telling:
        return Telling(self.tokenizer.decode, prompt.tolist(), stop, self._end)

    def _text(
        self,
        prompt: np.ndarray,
        telling: Telling,
        x: np.ndarray,
        mask: np.ndarray,
        log_prob: np.ndarray,
        log_rule: np.ndarray,
    ) -> Text:
        """What counts of a string: no symbol behind the one that ended its text."""
        x, log_prob, log_rule = (each[: telling.count] for each in (x, log_prob, log_rule))
        return Text(prompt, x, log_prob, log_rule, float(log_prob.sum()), telling)


def bucket(size: int, least: int = 1) -> int:
    """The power of two that holds so many."""
    return max(least, 1 << (size - 1).bit_length())
