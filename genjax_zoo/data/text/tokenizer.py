"""What a tokenizer is, and the two that need no library: characters, and bytes.

Floor 4. A tokenizer is a bundle of functions and of the bytes that it is made of, by which it is
kept beside a run and told from any other.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from genjax_zoo.contract import DataError

BYTES = 256
OWN = {"characters": "characters.json", "bytes": "bytes.json"}
"""The files that the zoo's own tokenizers are kept in."""


class Encode(Protocol):
    """From a text to symbols."""

    def __call__(self, text: str, unknown: bool = False) -> np.ndarray:
        """The symbols of a text, [T] int32. Nothing is added, and a special token stays text.

        Args:
          text: any.
          unknown: whether the tokenizer's own token for what is unknown, if it has one, may stand
            for what it has never seen.

        Raises DataError that names the characters which it has never seen.
        """


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
    """How texts are cut into symbols.

    Attributes:
      name: characters, bytes, bpe:SIZE, or the name of its file.
      pieces: what each symbol is called, [V]; "" of a number that is no symbol.
      encode: text -> [T] int32.
      decode: [T] integers -> text; special tokens are spelt out, and bytes that are no UTF-8 are
        U+FFFD. Raises DataError for a number that is no symbol.
      files: () -> the bytes of each file that it is made of, by its name.
      specials: the symbols of "begin", "end" (of a text), "pad" and "unknown", as far as there are.
      controls: the symbols of all special tokens, by their spelling.
      encode_marked: text -> [T] int32, where what is spelt like a special token is one: for the
        templates of chats, and never for what a user types.
      chat_template: how a chat is written, in Jinja; None where the tokenizer does not say it.
    """

    name: str
    pieces: tuple[str, ...]
    encode: Encode
    decode: Callable[[Any], str]
    files: Callable[[], Mapping[str, bytes]]
    encode_marked: Callable[[str], np.ndarray]
    specials: Mapping[str, int] = dataclasses.field(default_factory=dict)
    controls: Mapping[str, int] = dataclasses.field(default_factory=dict)
    chat_template: str | None = None

    @property
    def size(self) -> int:
        """V, how many symbols there are."""
        return len(self.pieces)

    @functools.cached_property
    def sha256(self) -> str:
        """Of the names and bytes of its files, by which one is told from another."""
        found = hashlib.sha256()
        for name, content in sorted(self.files().items()):
            found.update(f"{name}\n{len(content)}\n".encode() + content)
        return found.hexdigest()

    def document(self, text: str) -> np.ndarray:
        """The symbols of a whole text, [T] int32: its own, and the end where there is one."""
        end = [self.specials["end"]] if "end" in self.specials else []
        return np.concatenate([self.encode(text, unknown=True), np.array(end, np.int32)])

    def record(self) -> dict[str, Any]:
        """What a run keeps of it besides its files, as plain values."""
        return {"name": self.name, "size": self.size, "sha256": self.sha256}


# ------------------------------------------------------------------------------ the zoo's own


def characters(texts: Iterable[str]) -> Tokenizer:
    """The characters of the texts, in sorted order, numbered."""
    found: set[str] = set()
    for text in texts:
        found.update(text)
    return of_characters(sorted(found))


def of_characters(letters: Sequence[str]) -> Tokenizer:
    """The characters that are given, in sorted order."""
    codes = np.array([ord(letter) for letter in letters], np.uint32)

    def encode(text: str, unknown: bool = False) -> np.ndarray:
        asked = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        at = np.minimum(np.searchsorted(codes, asked), max(len(codes) - 1, 0))
        if len(asked) and not (len(codes) and np.array_equal(codes[at], asked)):
            raise never_seen("the characters of the training text", set(text) - set(letters))
        return at.astype(np.int32)

    def decode(ids: Any) -> str:
        return "".join(letters[i] for i in checked(ids, len(letters)))

    content = json.dumps({"characters": list(letters)}).encode()
    return Tokenizer(
        *("characters", tuple(letters), encode, decode),
        files=lambda: {OWN["characters"]: content},
        encode_marked=encode,
    )


def of_bytes() -> Tokenizer:
    """The bytes of UTF-8, each its own number."""

    def encode(text: str, unknown: bool = False) -> np.ndarray:
        return np.frombuffer(utf8(text), np.uint8).astype(np.int32)

    def decode(ids: Any) -> str:
        return bytes(checked(ids, BYTES)).decode(errors="replace")

    return Tokenizer(
        name="bytes",
        pieces=tuple(chr(i) if i < 128 else f"<0x{i:02X}>" for i in range(BYTES)),
        encode=encode,
        decode=decode,
        files=lambda: {OWN["bytes"]: b'{"bytes": 256}'},
        encode_marked=encode,
    )


# ------------------------------------------------------------------------------ what all share


def utf8(text: str) -> bytes:
    """The bytes of a text; raises DataError where it holds what no text can."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"a text holds {text[error.start : error.end]!r}, which is no character; expected "
            "UTF-8."
        ) from error


def checked(ids: Any, size: int) -> list[int]:
    """Symbols as a list; raises DataError for one that is none."""
    ids = np.asarray(ids).reshape(-1)
    wrong = ids[(ids < 0) | (ids >= size)]
    if wrong.size:
        raise DataError(f"{wrong[0]} is no symbol of a tokenizer that has 0 .. {size - 1}.")
    return ids.tolist()


def never_seen(who: str, what: Iterable[str]) -> DataError:
    """The error of a text with characters, or words, that a tokenizer has never seen."""
    found = sorted(what)
    more = f" and {len(found) - 10} more" if len(found) > 10 else ""
    return DataError(
        f"{', '.join(map(repr, found[:10]))}{more}: never seen by {who}; leave it out, or choose "
        "a tokenizer that takes every text (config.data.tokenizer=bytes or bpe:SIZE) and train."
    )


PROBES = {
    "a first word, which gets a space": "a",
    "a space at the start": " a",
    "two spaces in a row": "a  a",
    "line breaks": "a\na",
    "spaces at the end": "a ",
    "capital letters": "A",
    "accents that are characters of their own": "a\u0301",
}
"""What some tokenizers do not give back."""


def losses(tokenizer: Tokenizer) -> tuple[str, ...]:
    """What is not the same once it is decoded again, of what `encode` takes."""

    def lost(text: str) -> bool:
        try:
            return tokenizer.decode(tokenizer.encode(text)) != text
        except DataError:
            return False

    return tuple(what for what, text in PROBES.items() if lost(text))
