"""Tokenizers that libraries make: byte-level BPE, any tokenizer.json, SentencePiece.

Floor 4. The extra `text` installs `tokenizers` and `sentencepiece`, which are imported here alone,
and where they are used.
"""

from __future__ import annotations

import functools
import json
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from genjax_zoo.contract import DataError
from genjax_zoo.data.text.tokenizer import Tokenizer, checked, never_seen, utf8

JSON, MODEL = "tokenizer.json", "tokenizer.model"
"""What the two kinds of files are called on the hub."""
CHUNK = 2**12
"""Characters, or nearly so, by which texts are handed to the library that learns from them."""
END = "<|endoftext|>"
"""The end of a text, as GPT-2 spells it."""
ROLES = {"begin": "bos", "end": "eos", "pad": "pad", "unknown": "unk"}
"""What the files of the hub call the special tokens."""
KNOWN = {
    "begin": ("<s>", "<|begin_of_text|>", "<bos>", END),
    "end": ("</s>", "<|end_of_text|>", "<eos>", END),
}
"""How they are spelt where a file has none that says which is which."""


def _hugging_face() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise _missing("tokenizers") from error
    return tokenizers


def _sentencepiece() -> Any:
    try:
        import sentencepiece
    except ImportError as error:
        raise _missing("sentencepiece") from error
    return sentencepiece


def _missing(package: str) -> DataError:
    return DataError(
        f"this tokenizer needs {package}, which is not installed: pip install 'genjax-zoo[text]'."
    )


# ------------------------------------------------------------------------- Hugging Face's library


def trained(documents: Iterable[Iterable[str]], size: int) -> Tokenizer:
    """A byte-level BPE of at most `size` symbols, as GPT-2's: the end of a text, and all bytes.

    Args:
      documents: the pieces of each; the same documents make the same tokenizer.
      size: V.
    """
    hf = _hugging_face()
    made = hf.Tokenizer(hf.models.BPE())
    # No space is put before a text: its first word is that of a beginning.
    made.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = hf.decoders.ByteLevel()
    trainer = hf.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END],
        initial_alphabet=hf.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(chunks(documents), trainer)
    content = made.to_str().encode()
    return of_json({JSON: content}, pathlib.Path(JSON), f"bpe:{size}")


def chunks(documents: Iterable[Iterable[str]]) -> Iterator[str]:
    """Documents in short parts that hold the same words, as a byte-level BPE tells them apart.

    The library holds 256 of them, at twenty times their size. What follows a word begins with the
    spaces before it, so that a cut behind a word takes none apart.
    """
    for document in documents:
        text = ""
        for piece in document:
            text += piece
            *parts, text = re.split(r"(?<=\S)(?=\s)", text) if len(text) >= CHUNK else [text]
            for at in range(0, len(parts), CHUNK // 8):
                yield "".join(parts[at : at + CHUNK // 8])
        yield text


def of_json(files: Mapping[str, bytes], path: pathlib.Path, name: str = "") -> Tokenizer:
    """The tokenizer of a tokenizer.json.

    Args:
      files: the bytes of it, called JSON, and of what lies beside it (tokenizers.BESIDE).
      path: of the first, for messages.
      name: what it is called; its file's name if none is said.

    Raises DataError where it is none.
    """
    hf = _hugging_face()
    about = _about(files, path)
    try:
        raw = json.loads(files[JSON])
        added = raw["added_tokens"]
        marks = {token["content"] for token in added if token["special"]}
        # What a template of chats writes marks a turn, whether the file calls it special or not.
        template = _template(files, about)
        marks |= {token["content"] for token in added if token["content"] in (template or "")}
        marks |= {token["content"] for token in added if token["content"] in _named(about).values()}
        for token in added:
            token["special"] = token["content"] in marks
        content = json.dumps(raw)
        plain = _opened(hf, content)
    except Exception as error:
        # The library raises bare Exceptions.
        why = str(error).strip() or type(error).__name__
        raise DataError(
            f"{path} is no tokenizer.json ({why.splitlines()[0][:100]}); expected one as the "
            "library `tokenizers` writes it."
        ) from error
    plain.encode_special_tokens = True
    marked = functools.cache(lambda: _opened(hf, content))
    ids = plain.get_vocab()
    pieces = [""] * (max(ids.values(), default=-1) + 1)
    for piece, i in ids.items():
        pieces[i] = piece
    specials = {role: ids[token] for role, token in _specials(raw, about).items() if token in ids}
    never = specials.get("unknown")

    def encode(text: str, unknown: bool = False) -> np.ndarray:
        utf8(text)
        found = plain.encode(text, add_special_tokens=False)
        symbols = np.array(found.ids, np.int32)
        if never is None:
            # Such a model would leave out what it does not know, and say nothing.
            lost = _left_out(text)
        else:
            at = () if unknown else np.flatnonzero(symbols == never)
            lost = {text[slice(*found.offsets[i])] for i in at}
        if lost:
            raise never_seen(f"the tokenizer {name or path}", lost)
        return symbols

    @functools.cache
    def is_left_out(letter: str) -> bool:
        return not plain.encode(letter, add_special_tokens=False).ids

    def _left_out(text: str) -> set[str]:
        return {letter for letter in set(text) if is_left_out(letter) and not letter.isspace()}

    return Tokenizer(
        name=name or path.name,
        pieces=tuple(pieces),
        encode=encode,
        decode=lambda of: plain.decode(checked(of, len(pieces)), skip_special_tokens=False),
        files=lambda: files,
        encode_marked=lambda text: np.array(
            marked().encode(text, add_special_tokens=False).ids, np.int32
        ),
        specials=specials,
        controls={token: ids[token] for token in sorted(marks) if token in ids},
        chat_template=template,
    )


def _opened(hf: Any, content: str) -> Any:
    """One that neither cuts off nor fills up, whatever its file says."""
    made = hf.Tokenizer.from_str(content)
    made.no_truncation()
    made.no_padding()
    return made


def _about(files: Mapping[str, bytes], path: pathlib.Path) -> dict[str, Any]:
    """What tokenizer_config.json says, over what special_tokens_map.json does."""
    found: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        try:
            found |= json.loads(files.get(name, b"{}"))
        except (ValueError, TypeError) as error:
            raise DataError(f"{path.parent / name} is damaged: {error}.") from error
    return found


def _named(about: Mapping[str, Any]) -> dict[str, str]:
    """How each special token is spelt, as far as it is said."""
    said = {role: about.get(f"{short}_token") for role, short in ROLES.items()}
    # Either a text, or an object that holds it.
    spelt = {r: t.get("content") if isinstance(t, Mapping) else t for r, t in said.items()}
    return {role: token for role, token in spelt.items() if isinstance(token, str)}


def _specials(raw: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, str]:
    """How the special tokens are spelt: as is said, as the file frames a text, or as is known."""
    model, framed = raw["model"], _framed(raw.get("post_processor") or {})
    vocabulary = {token["content"] for token in raw["added_tokens"]}
    known = {r: next((t for t in spelt if t in vocabulary), None) for r, spelt in KNOWN.items()}
    # Without a file that says it, the token that ends a text does not begin one.
    known["begin"] = None if known["begin"] == END else known["begin"]
    unknown = model.get("unk_token")
    if unknown is None and isinstance(model.get("unk_id"), int):
        unknown = model["vocab"][model["unk_id"]][0]
    said = {**known, **framed, "unknown": unknown, **_named(about)}
    return {role: token for role, token in said.items() if token}


def _framed(frame: Mapping[str, Any]) -> dict[str, str]:
    """What a post-processor puts before and behind a text."""
    parts = [frame, *frame.get("processors", ())]
    single: Any = next(
        (part["single"] for part in parts if part.get("type") == "TemplateProcessing"), []
    )
    tokens = [part["SpecialToken"]["id"] if "SpecialToken" in part else None for part in single]
    found = {}
    if tokens and tokens[0] is not None:
        found["begin"] = tokens[0]
    if tokens and tokens[-1] is not None:
        found["end"] = tokens[-1]
    return found


def _template(files: Mapping[str, bytes], about: Mapping[str, Any]) -> str | None:
    """How a chat is written: a file of its own, or a field that may hold several by name."""
    if "chat_template.jinja" in files:
        return files["chat_template.jinja"].decode()
    said = about.get("chat_template")
    if isinstance(said, list):
        named = {each["name"]: each["template"] for each in said}
        said = named.get("default", next(iter(named.values()), None))
    return said


# ---------------------------------------------------------------------------------- SentencePiece


def of_sentencepiece(files: Mapping[str, bytes], path: pathlib.Path) -> Tokenizer:
    """The tokenizer of a SentencePiece model.

    Args:
      files: its bytes, called MODEL, and those of what lies beside it (tokenizers.BESIDE).
      path: of the first.

    Raises DataError where it is none.
    """
    sentencepiece = _sentencepiece()
    about = _about(files, path)
    try:
        model = sentencepiece.SentencePieceProcessor(model_proto=files[MODEL])
        size = model.get_piece_size()
    except Exception as error:
        raise DataError(
            f"{path} is no SentencePiece model; expected what its trainer writes."
        ) from error
    pieces = tuple(model.id_to_piece(i) for i in range(size))
    roles = {role: getattr(model, f"{short}_id")() for role, short in ROLES.items()}
    specials = {role: i for role, i in roles.items() if i >= 0}
    controls = {pieces[i]: i for i in range(size) if model.is_control(i)}
    spelling = {i: piece for piece, i in controls.items()}

    def encode(text: str, unknown: bool = False) -> np.ndarray:
        utf8(text)
        symbols = np.array(model.encode_as_ids(text), np.int32)
        if not unknown and specials.get("unknown") in symbols:
            surfaces = zip(model.encode_as_pieces(text), symbols, strict=True)
            lost = {what for what, symbol in surfaces if symbol == specials["unknown"]}
            raise never_seen(f"the tokenizer {path}", lost)
        return symbols

    def encode_marked(text: str) -> np.ndarray:
        """What stands between special tokens is a text of its own, with the space before it."""
        found = re.split(f"({'|'.join(map(re.escape, controls)) or '(?!)'})", text)
        return np.concatenate(
            [
                np.array([controls[part]], np.int32) if part in controls else encode(part)
                for part in found
                if part
            ]
            or [np.zeros(0, np.int32)]
        )

    def decode(ids: Any) -> str:
        # The library says nothing of special tokens.
        text, run = [], list[int]()
        for i in [*checked(ids, size), None]:
            if i is None or i in spelling:
                text.append(model.decode_ids(run) + ("" if i is None else spelling[i]))
                run = []
            else:
                run.append(i)
        return "".join(text)

    return Tokenizer(
        name=path.name,
        pieces=pieces,
        encode=encode,
        decode=decode,
        files=lambda: files,
        encode_marked=encode_marked,
        specials=specials,
        controls=controls,
        chat_template=_template(files, about),
    )
