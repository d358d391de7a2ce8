"""The tokenizer that a config asks for, or that lies in a folder.

    characters    those of the text, in sorted order      nothing can be written that it never saw
    bytes         the 256 bytes of UTF-8                  every text
    bpe:SIZE      pairs of bytes, merged by how often     every text; trained on the training split
    PATH          a tokenizer.json, a folder with one, or a SentencePiece model

Floor 4.
"""

from __future__ import annotations

import json
import pathlib
import re

from genjax_zoo.contract import ConfigError, DataError
from genjax_zoo.data.text import subwords
from genjax_zoo.data.text.corpus import Documents
from genjax_zoo.data.text.tokenizer import BYTES, OWN, characters, of_bytes, of_characters
from genjax_zoo.data.text.tokenizer import Tokenizer as Tokenizer

SMALLEST_BPE = BYTES + 1
"""All bytes, and the end of a text."""
KINDS = "characters, bytes, bpe:SIZE, or the path of a tokenizer.json, of its folder or of a .model"
FILES = (*OWN.values(), subwords.JSON, subwords.MODEL)
"""What a folder may hold that is a tokenizer, the first that is there."""
BESIDE = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
"""What may lie beside it, and says which tokens are special, and how a chat is written."""


def make(asked: str, train: Documents, held_out: Documents) -> Tokenizer:
    """The tokenizer that `config.data.tokenizer` asks for.

    Args:
      asked: its kind or its path.
      train: the documents for training, by which a BPE is trained.
      held_out: the others, which have characters too.
    """
    if asked == "characters":
        return characters(piece for part in (train, held_out) for text in part for piece in text)
    if asked == "bytes":
        return of_bytes()
    if asked.startswith("bpe:"):
        return subwords.trained(train, bpe_size(asked))
    return read(asked)


def chosen(asked: str, kept: Tokenizer | None, train: Documents, held_out: Documents) -> Tokenizer:
    """The tokenizer that a run has already, or else the one that its config asks for.

    Args:
      asked: `config.data.tokenizer`.
      kept: the run's own; None where it has none yet.
      train, held_out: the documents, as `make` takes them.

    Raises ConfigError where the run's own is not what is asked for: its symbols mean what they have
    meant from the start.
    """
    if kept is None:
        return make(asked, train, held_out)
    where = pathlib.Path(asked).expanduser()
    found = ""
    if is_path(asked) and where.exists() and (own := read(asked).sha256) != kept.sha256:
        found = own[:12]
    elif not is_path(asked) and kept.name != asked:
        found = "of another kind"
    if found:
        raise ConfigError(
            f"config.data.tokenizer={asked} is another tokenizer ({found}) than the one that "
            f"this run learnt by ({kept.name}, {kept.sha256[:12]}), and its symbols would mean "
            "something else; leave it as it was, or use another --workdir."
        )
    return kept


def check(asked: str) -> None:
    """Raises ConfigError for what names no tokenizer; whether its file is one is seen later."""
    if asked.startswith("bpe:"):
        bpe_size(asked)
    elif is_path(asked) and not re.search(r"[/\\.~]", asked) and not pathlib.Path(asked).exists():
        raise ConfigError(f"config.data.tokenizer={asked!r} is none of {KINDS}.")


def is_path(asked: str) -> bool:
    """Whether what is asked for lies in files of one's own."""
    return asked not in OWN and not asked.startswith("bpe:")


def located(asked: str) -> str:
    """A path made absolute, so that it means the same anywhere; what is none, or nowhere, is left
    as it is, so that the error names what was typed."""
    where = pathlib.Path(asked).expanduser()
    return str(where.absolute()) if where.exists() else asked


def bpe_size(asked: str) -> int:
    """SIZE of "bpe:SIZE"; raises ConfigError for what is none."""
    size = asked.removeprefix("bpe:")
    if not size.isdecimal() or not SMALLEST_BPE <= int(size) <= 2**20:
        raise ConfigError(
            f"config.data.tokenizer={asked!r}: expected bpe:SIZE with a SIZE from {SMALLEST_BPE} "
            f"({BYTES} bytes and the end of a text) to {2**20}, such as bpe:1024."
        )
    return int(size)


def read(path: str | pathlib.Path) -> Tokenizer:
    """The tokenizer in a file, or in a folder: of a run, or of the Hugging Face hub.

    Raises DataError where there is none.
    """
    where = pathlib.Path(path).expanduser()
    try:
        if where.is_dir():
            main = next((where / name for name in FILES if (where / name).is_file()), None)
            if main is None:
                raise DataError(
                    f"{where} holds no tokenizer: expected a file called {' or '.join(FILES[2:])}."
                )
        else:
            main = where
        # However it was called, it is kept under the name by which a folder is read.
        files = {{".json": subwords.JSON}.get(main.suffix, subwords.MODEL): main.read_bytes()}
        beside = (main.parent / name for name in BESIDE if main.name in FILES[2:])
        files |= {each.name: each.read_bytes() for each in beside if each.is_file()}
    except OSError as error:
        raise DataError(
            f"the tokenizer {where} cannot be read: {error.strerror or error}; expected {KINDS}."
        ) from error
    if main.name == OWN["characters"]:
        return of_characters(_letters(main))
    if main.name == OWN["bytes"]:
        return of_bytes()
    if main.suffix == ".json":
        return subwords.of_json(files, main)
    if main.suffix == ".model":
        return subwords.of_sentencepiece(files, main)
    raise DataError(f"{where} is no tokenizer: expected {KINDS}.")


def _letters(path: pathlib.Path) -> list[str]:
    try:
        letters = json.loads(path.read_bytes())["characters"]
        if letters == sorted(set(letters)) and all(len(letter) == 1 for letter in letters):
            return letters
    except (ValueError, TypeError, KeyError):
        pass
    raise DataError(f"{path} is damaged: expected the characters of a text, in sorted order.")
