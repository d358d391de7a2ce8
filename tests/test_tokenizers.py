"""Tokenizers: what they give back, what stays text, and that a run keeps its own."""

import hashlib
import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from genjax_zoo.contract import ConfigError, DataError, ZooError
from genjax_zoo.data.config import Data
from genjax_zoo.data.sources import open_source
from genjax_zoo.data.text import subwords, tokenizers
from genjax_zoo.data.text.tokenizer import characters, losses, of_bytes, of_characters
from genjax_zoo.run.record import tokenizer as records
from genjax_zoo.run.record.workdir import Workdir, write_json

hf = pytest.importorskip("tokenizers")
sentencepiece = pytest.importorskip("sentencepiece")
RNG = np.random.default_rng(0)
TEXT = [
    "the cat sat on the mat, and the dog sat on the log.\n",
    "  Two spaces, a\ttab; déjà vu — 東京 🦁\r\n",
    "the other cat and the other dog lie on the other mat.\n",
]


def any_text(length):
    """Characters of all planes, but for surrogates, which are none."""
    codes = RNG.integers(0, 0x110000, length)
    return "".join(chr(c) for c in codes if not 0xD800 <= c < 0xE000)


@pytest.fixture(scope="module")
def bpe():
    return tokenizers.make("bpe:330", TEXT * 5, ["zyxzyxzyx" * 100])


@pytest.fixture(scope="module")
def unigram(tmp_path_factory):
    """A small SentencePiece model, with its defaults."""
    path = tmp_path_factory.mktemp("pieces") / "small.model"
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([TEXT[0], TEXT[2]] * 20),
        model_writer=written,
        vocab_size=26,
        minloglevel=2,
    )
    path.write_bytes(written.getvalue())
    return tokenizers.read(path)


def folder_of(path, made, **about):
    """A folder as the hub has it."""
    path.mkdir(exist_ok=True)
    (path / "tokenizer.json").write_text(made if isinstance(made, str) else made.to_str())
    if about:
        (path / "tokenizer_config.json").write_text(json.dumps(about))
    return path


def words(*known, unknown="[UNK]"):
    """A tokenizer of whole words."""
    made = hf.Tokenizer(
        hf.models.WordLevel({w: i for i, w in enumerate([unknown, *known])}, unk_token=unknown)
    )
    made.pre_tokenizer = hf.pre_tokenizers.Whitespace()
    return made


# ------------------------------------------------------------------------------ what comes back


def test_characters_are_numbered_in_their_order_and_others_named():
    own = characters(["banana", "\n é"])
    assert own.pieces == tuple("\n abné") and own.size == 6
    assert own.encode("nab\n").tolist() == [4, 2, 3, 0] and own.decode([4, 2, 3, 0]) == "nab\n"
    assert own.encode("").dtype == np.int32 and own.specials == {} and losses(own) == ()
    with pytest.raises(DataError, match=r"'x', 'z', '🦁': never seen by the characters"):
        own.encode("zax🦁")
    with pytest.raises(DataError, match="6 is no symbol of a tokenizer"):
        own.decode([0, 6])
    with pytest.raises(DataError, match="'a': never seen"):
        of_characters([]).encode("a")


def test_bytes_take_every_text_and_every_byte():
    own = of_bytes()
    assert own.size == 256 and losses(own) == () and len(set(own.pieces)) == 256
    for text in (*TEXT, any_text(300), ""):
        assert own.encode(text).tolist() == list(text.encode())
        assert own.decode(list(text.encode())) == text
    assert own.decode([0x61, 0xFF, 0x62]) == "a\ufffdb"
    with pytest.raises(DataError, match=r"'\\udcff', which is no character"):
        own.encode("a\udcff")


def test_a_byte_level_bpe_gives_back_every_text(bpe):
    assert losses(bpe) == () and bpe.chat_template is None
    for text in (*TEXT, any_text(500), "\0\x7f\u0301 \u200d", ""):
        assert bpe.decode(bpe.encode(text)) == text
    # Each of the 256 bytes is a symbol, so that no text can hold anything else.
    alphabet = set(hf.pre_tokenizers.ByteLevel.alphabet())
    assert len(alphabet) == 256 and alphabet <= set(bpe.pieces)
    # It was trained on the training texts alone: of what is held out it has merged nothing.
    assert "the" in bpe.pieces and not any("zy" in piece for piece in bpe.pieces)
    assert 257 < bpe.size <= 330 and len(bpe.encode("the cat")) < len("the cat")


def test_the_first_word_two_spaces_and_what_follows_a_special_token(bpe):
    the, spaced = bpe.encode("the"), bpe.encode(" the")
    assert the.tolist() != spaced.tolist() and bpe.decode(the) == "the"
    assert bpe.decode(bpe.encode("  the")) == "  the"
    assert bpe.encode("  the").tolist() == [*bpe.encode(" "), *spaced]
    end = bpe.specials["end"]
    assert bpe.encode_marked(f"{subwords.END} the").tolist() == [end, *spaced]
    assert bpe.encode_marked(f"{subwords.END}the").tolist() == [end, *the]


def test_a_special_token_that_is_typed_stays_text(bpe, unigram):
    end = bpe.specials["end"]
    typed = bpe.encode(subwords.END)
    assert end not in typed and bpe.decode(typed) == subwords.END
    assert bpe.document("the").tolist() == [*bpe.encode("the"), end]
    assert bpe.decode([end]) == subwords.END and bpe.controls == {subwords.END: end}
    assert unigram.specials["end"] not in unigram.encode("the </s>", unknown=True)
    assert unigram.encode_marked("</s>").tolist() == [unigram.specials["end"]]


def test_a_bpe_is_the_same_in_every_process(bpe):
    code = (
        "from genjax_zoo.data.text import tokenizers\n"
        f"print(tokenizers.make('bpe:330', {TEXT!r} * 5, []).sha256)"
    )
    environ = {**os.environ, "PYTHONHASHSEED": "7", "RAYON_NUM_THREADS": "3"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ)
    assert done.stdout.strip() == bpe.sha256, done.stderr


def test_a_bpe_is_that_of_whole_documents(monkeypatch):
    """Though the library is handed them in short parts."""
    texts = ["".join(TEXT) * 9 + "\n\n\n  x. \n \ny", "".join(reversed(TEXT)) * 3]
    made = hf.Tokenizer(hf.models.BPE())
    made.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = hf.pre_tokenizers.ByteLevel.alphabet()
    about = {"special_tokens": [subwords.END], "initial_alphabet": alphabet}
    made.train_from_iterator(texts, hf.trainers.BpeTrainer(vocab_size=300, **about))
    monkeypatch.setattr(subwords, "CHUNK", 40)
    for size in (1, 7, 10**6):
        pieces = [[text[i : i + size] for i in range(0, len(text), size)] for text in texts]
        parts = list(subwords.chunks(pieces))
        assert "".join(parts) == "".join(texts) and len(parts) > 20
        assert subwords.trained(pieces, 300).pieces == tuple(
            sorted(made.get_vocab(), key=made.get_vocab().get)
        )


def test_sentencepiece_is_read_and_what_it_loses_is_said(unigram):
    assert unigram.size == 26 and set(unigram.specials) == {"begin", "end", "unknown"}
    assert unigram.decode(unigram.encode("the cat sat")) == "the cat sat"
    lost = set(losses(unigram))
    assert {"two spaces in a row", "a space at the start", "line breaks"} <= lost
    assert "a first word, which gets a space" not in lost
    with pytest.raises(DataError, match="'Z': never seen by the tokenizer"):
        unigram.encode("the Z cat")
    assert unigram.specials["unknown"] in unigram.encode("the Z cat", unknown=True)
    # Text behind a special token is a text of its own, with the space that is put before each.
    begin, end = unigram.specials["begin"], unigram.specials["end"]
    asked = unigram.encode_marked("<s>the cat</s> the dog")
    assert asked.tolist() == [
        *(begin, *unigram.encode("the cat"), end, *unigram.encode(" the dog")),
    ]
    assert unigram.decode(asked) == "<s>the cat</s>the dog"


def test_a_source_says_what_is_lost_and_what_is_unknown(unigram, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(unigram.files()["tokenizer.model"])
    (tmp_path / "a.txt").write_text("the  cat Z sat on the mat. " * 9 + "the dog Q")
    data = Data(source=f"text:{tmp_path}/a.txt", tokenizer=str(tmp_path), length=5, batch_size=2)
    source = open_source(data, 0)
    assert source.tokenizer.sha256 == unigram.sha256
    (lost,) = (note for note in source.notes if note.startswith("the tokenizer does not give back"))
    assert "two spaces in a row" in lost
    assert "9+1 of them are unknown" in source.notes
    plain = open_source(Data(source=data.source, tokenizer="bytes", length=5, batch_size=2), 0)
    assert not any("give back" in note or "unknown" in note for note in plain.notes)
    few = open_source(Data(source=data.source, tokenizer="bpe:999", length=5, batch_size=2), 0)
    assert any("bpe:999 found" in note and "and no more" in note for note in few.notes)


# ------------------------------------------------------------------------------ files of the hub


def test_a_folder_of_the_hub_says_which_tokens_are_special(tmp_path, bpe):
    made = hf.Tokenizer.from_str(bpe.files()["tokenizer.json"].decode())
    # The file calls neither of these special; one of them is written by the template of chats.
    made.add_tokens(["<|turn|>", "    "])
    made.enable_truncation(2)
    made.enable_padding(length=9)
    template = "{% for m in messages %}<|turn|>{{ m.content }}{% endfor %}"
    about = {"eos_token": {"content": subwords.END}, "bos_token": None, "chat_template": template}
    own = tokenizers.read(folder_of(tmp_path / "hub", made, **about))
    assert own.specials == {"end": bpe.specials["end"]} and own.chat_template == template
    turn, gap = own.pieces.index("<|turn|>"), own.pieces.index("    ")
    assert own.controls == {subwords.END: bpe.specials["end"], "<|turn|>": turn}
    typed = own.encode("<|turn|>    the cat sat on the mat")
    assert turn not in typed and gap in typed and own.decode(typed).startswith("<|turn|>    the")
    assert own.encode_marked("<|turn|>the").tolist() == [turn, *bpe.encode("the")]
    assert set(own.files()) == {"tokenizer.json", "tokenizer_config.json"}
    # The file alone is another tokenizer: of chats it says nothing.
    (tmp_path / "hub" / "tokenizer_config.json").unlink()
    assert tokenizers.read(tmp_path / "hub").sha256 != own.sha256


def test_special_tokens_are_found_where_a_file_says_them(tmp_path):
    made = words("<s>", "</s>", "the", "cat")
    made.add_special_tokens(["<s>", "</s>"])
    made.post_processor = hf.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    own = tokenizers.read(folder_of(tmp_path / "a", made))
    # By the frame of a text, by the model, and by its well-known name.
    assert own.specials == {"begin": 1, "unknown": 0, "end": 2}
    assert own.encode("the cat").tolist() == [3, 4]
    (tmp_path / "a" / "special_tokens_map.json").write_text('{"eos_token": "cat"}')
    (tmp_path / "a" / "chat_template.jinja").write_text("{{ messages }}")
    own = tokenizers.read(tmp_path / "a" / "tokenizer.json")
    assert own.specials["end"] == 4 and own.chat_template == "{{ messages }}"


def test_what_a_tokenizer_does_not_know_is_named(tmp_path):
    own = tokenizers.read(folder_of(tmp_path / "a", words("the", "cat")))
    with pytest.raises(DataError, match="'dog', 'emu': never seen by the tokenizer"):
        own.encode("the dog, the cat, the emu".replace(",", ""))
    assert own.encode("the dog", unknown=True).tolist() == [1, 0]
    # One that has no token for it would leave it out, and say nothing.
    letters = hf.Tokenizer(hf.models.BPE({"a": 0, "b": 1}, []))
    own = tokenizers.read(folder_of(tmp_path / "b", letters))
    with pytest.raises(DataError, match="'c', 'd': never seen"):
        own.encode("abcd")
    with pytest.raises(DataError, match="never seen"):
        own.encode("abcd", unknown=True)


def test_a_space_that_is_put_before_every_text_is_told(tmp_path, bpe):
    raw = json.loads(bpe.files()["tokenizer.json"])
    raw["pre_tokenizer"]["add_prefix_space"] = True
    own = tokenizers.read(folder_of(tmp_path / "a", json.dumps(raw)))
    assert own.encode("the").tolist() == bpe.encode(" the").tolist()
    lost = losses(own)
    assert "a first word, which gets a space" in lost and "a space at the start" not in lost


@pytest.mark.parametrize(
    ("name", "content", "telling"),
    [
        ("tokenizer.json", b"{}", "is no tokenizer.json"),
        ("tokenizer.json", b"\xff", "is no tokenizer.json"),
        ("tokenizer.json", b'{"added_tokens": [], "model": {"type": "BPE"}}', "is no tokenizer"),
        ("tokenizer.model", b"abc", "is no SentencePiece model"),
        ("characters.json", b'{"characters": "ba"}', "is damaged"),
        ("tokenizer.txt", b"a", "is no tokenizer: expected characters, bytes, bpe:SIZE"),
    ],
)
def test_a_file_that_is_no_tokenizer_is_one_sentence(tmp_path, name, content, telling):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=telling) as error:
        tokenizers.read(tmp_path / name)
    assert str(error.value).count("\n") == 0


def test_a_tokenizer_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(DataError, match="holds no tokenizer: expected a file"):
        tokenizers.read(tmp_path)
    with pytest.raises(DataError, match="cannot be read: No such file"):
        tokenizers.read(tmp_path / "none.json")
    for asked, telling in {
        "bpe:256": "SIZE from 257",
        "bpe:": "SIZE from 257",
        "bpe:1e3": "SIZE from 257",
        "bpe:9999999": "SIZE from 257",
        "character": "is none of characters, bytes, bpe:SIZE",
    }.items():
        with pytest.raises(ConfigError, match=telling):
            Data(source="text:a.txt", tokenizer=asked)
    with pytest.raises(ConfigError, match="tokenizer='bytes' is for texts, and digits is none"):
        Data(tokenizer="bytes")


def test_a_library_that_is_not_there_is_asked_for(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(DataError, match=r"needs tokenizers, which .* 'genjax-zoo\[text\]'"):
        tokenizers.make("bpe:300", TEXT, [])
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    (tmp_path / "a.model").write_bytes(b"")
    with pytest.raises(DataError, match="needs sentencepiece, which is not installed"):
        tokenizers.read(tmp_path / "a.model")
    assert tokenizers.make("bytes", TEXT, []).size == 256


# ------------------------------------------------------------------------------ what a run keeps


def begun(folder, own):
    """A workdir whose run has begun with a tokenizer."""
    workdir = Workdir(folder)
    records.keep(workdir, own)
    write_json(workdir.runs, [{"data": {"tokenizer": own and own.record()}}])
    return workdir


@pytest.mark.parametrize("asked", ["characters", "bytes", "bpe:330", "model", "hub"])
def test_a_run_keeps_its_tokenizer(asked, tmp_path, bpe, unigram):
    own = {"bpe:330": bpe, "model": unigram}.get(asked)
    if asked == "hub":
        own = tokenizers.read(folder_of(tmp_path / "hub", words("the", "cat"), eos_token="cat"))
    own = own or tokenizers.make(asked, TEXT, [])
    workdir = begun(tmp_path / "run", own)
    # What lay there before is of another run.
    (workdir.tokenizer / "chat_template.jinja").write_text("another")
    records.keep(workdir, own)
    found = records.kept(workdir)
    assert (found.name, found.sha256, found.pieces) == (own.name, own.sha256, own.pieces)
    assert found.specials == own.specials and found.chat_template == own.chat_template
    assert found.encode("the cat").tolist() == own.encode("the cat").tolist()
    said = own.sha256
    files = sorted(own.files().items())
    stupid = b"".join(f"{n}\n{len(content)}\n".encode() + content for n, content in files)
    assert said == hashlib.sha256(stupid).hexdigest()


def test_another_tokenizer_than_the_runs_is_refused(tmp_path, bpe):
    workdir = begun(tmp_path / "run", bpe)
    refused = lambda asked: pytest.raises(ConfigError, match=f"tokenizer={asked} is another")
    for asked in ("bytes", "bpe:300", "characters"):
        with refused(asked):
            tokenizers.chosen(asked, records.kept(workdir), TEXT, [])
    hub = folder_of(tmp_path / "hub", words("the"))
    with refused(hub):
        tokenizers.chosen(str(hub), bpe, TEXT, [])
    # The same by its path, or by one that is no longer there, or of other texts, is the run's own.
    for asked in (str(workdir.tokenizer), str(tmp_path / "gone.json"), "bpe:330"):
        assert tokenizers.chosen(asked, bpe, [], []) is bpe
    kept = workdir.tokenizer / "tokenizer.json"
    kept.write_text(kept.read_text().replace('"normalized"', ' "normalized"'))
    with pytest.raises(ZooError, match=r"holds another tokenizer .* than the one that"):
        records.kept(workdir)
    kept.unlink()
    with pytest.raises(ZooError, match=r"holds no tokenizer.* bring it back"):
        records.kept(workdir)
    assert records.kept(begun(tmp_path / "images", None)) is None
