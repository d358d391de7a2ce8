"""Texts: which documents there are, the rows that are made of them, and files of their symbols."""

import json
import os
import pathlib
import signal

import jax
import numpy as np
import pytest

from genjax_zoo.contract import DataError
from genjax_zoo.data import summary
from genjax_zoo.data.config import Data
from genjax_zoo.data.source import NEW, Own, order, scattered
from genjax_zoo.data.sources import open_source
from genjax_zoo.data.text import corpus, parts, rows, subwords, token_files, tokenizers, tokens
from genjax_zoo.data.text.tokenizer import of_bytes

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
WORDS = ["the", "a", "of", "lamb", "wolf", "12", "sea,", "deep.", "Ünder"]


def prose(count, seed=0):
    return " ".join(np.random.default_rng(seed).choice(WORDS, count))


def write(folder, **files):
    """Files by their names, `__` for a folder and `_` for the dot."""
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def jsonl(*texts):
    return "".join(json.dumps({"text": text, "id": 1}) + "\n" for text in texts)


def opened(path, own=NEW, seed=0, **data):
    data = {"batch_size": 3, "length": 8, "tokenizer": "bytes"} | data
    return open_source(Data(source=f"text:{path}", **data), seed, own=own)


def batch(source, step, taken=slice(0, 3)):
    found = source.batch(KEY, source.resident, source.feed(step, taken))
    return {name: np.asarray(array) for name, array in found.items()}


def same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].dtype == second[name].dtype, name
        assert np.array_equal(first[name], second[name]), name


# ----------------------------------------------------------------------------- the documents


def read(path):
    found = corpus.read(str(path), f"text:{path}")
    return found, {s: ["".join(d) for d in documents] for s, documents in found.splits.items()}


def test_a_folder_is_its_files_in_natural_order(tmp_path):
    files = {"b10_txt": "ten", "b9_txt": "nine", "a__z_md": "deep\r\n", "c_jsonl": jsonl("x", "y")}
    write(tmp_path, **files, d_png=b"\x89PNG\0\0", e="no ending", f_txt="")
    (tmp_path / ".hidden").write_text("hidden")
    found, texts = read(tmp_path)
    assert texts == {"": ["deep\n", "nine", "ten", "x", "y", "no ending", ""]}
    assert found.size == sum(p.stat().st_size for p in tmp_path.rglob("[!.d]*") if p.is_file())
    assert found.found.startswith("6 files (3 of .txt, 1 without an ending, 1 of .jsonl, 1")
    assert found.notes == ("left out 1 of .png, which are no texts", "left out 1 hidden file")
    # As often as it is asked for.
    assert [["".join(d) for d in found.splits[""]] for _ in range(2)][1] == texts[""]


@pytest.mark.parametrize(
    ("files", "splits", "notes"),
    [
        (["train/a", "Test/b", "valid/c", "README"], "a/c/b", ["left out 1 file beside the spl"]),
        (["train.txt", "my-valid.txt"], "train.txt/my-valid.txt", []),
        # Names of essays, of which some happen to say a split.
        (["train.txt", "test.txt", "essay.txt"], None, []),
        (["train/a", "train/b", "other/c"], None, []),
        (["a.txt"], None, []),
    ],
)
def test_splits_are_folders_or_names_of_all_files(files, splits, notes):
    found, said = corpus.splits_of(files)
    if splits is None:
        assert found == {"": files}
    else:
        assert "/".join(p.split("/")[-1] for own in found.values() for p in own) == splits
        assert list(found) == [s for s in ("train", "validation", "test") if s in found]
    assert [note[: len(start)] for note, start in zip(said, notes, strict=True)] == notes


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 2**20])
def test_pieces_of_a_file_are_its_text(piece, tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "PIECE", piece)
    text = "\ufeffdéjà\r\nvu\r🦁 东\r"
    write(tmp_path, a_txt=text, b_txt="\n")
    document = corpus.OfFile(tmp_path / "a.txt")
    assert "".join(document) == "déjà\nvu\n🦁 东\n" == "".join(document)
    # The offset is that of the file, wherever it is cut.
    wrong = "déjà 🦁".encode() + b"\xff" + b"rest"
    (tmp_path / "w.txt").write_bytes(wrong)
    with pytest.raises(DataError, match=r"w.txt is not UTF-8: .* at byte 11 \(0xff\)"):
        list(corpus.OfFile(tmp_path / "w.txt"))
    (tmp_path / "w.txt").write_bytes("déjà".encode()[:-1])
    with pytest.raises(DataError, match=r"end of data at byte 4 \(0xc3\); .* iconv -f LATIN1 -t"):
        list(corpus.OfFile(tmp_path / "w.txt"))
    (tmp_path / "w.txt").write_bytes("déjà".encode("utf-16"))
    with pytest.raises(DataError, match=r"at byte 0 \(0xff\); .* iconv -f UTF-16 -t UTF-8"):
        list(corpus.OfFile(tmp_path / "w.txt"))


@pytest.mark.parametrize(
    ("content", "telling"),
    [
        (b'{"text": "a"}\n\n{"text": 1}\n', 'line 3: expected an object with a "text", got text'),
        (b"[1]\n", 'line 1: expected an object with a "text", got list'),
        (b'{"text": "a"}\n{"text": "b"\n', "line 2, is no JSON"),
        (b'{"text": "a"}\n{"text": "\xff"}\n', r"not UTF-8: .* at byte 24 \(0xff\)"),
        (b"", "is empty; expected a text in UTF-8"),
        (b'{"text": ""}\n', "is empty"),
        (b'{"text": "a"}\n{"text": "\\ud800"}\n', r"line 2: its text holds '\\ud800', half of a"),
    ],
)
def test_lines_without_a_text_are_named(content, telling, tmp_path):
    write(tmp_path, a_jsonl=content)
    with pytest.raises(DataError, match=telling) as error:
        opened(tmp_path / "a.jsonl")
    assert "\n" not in str(error.value)


def test_what_is_no_text_is_one_sentence(tmp_path):
    with pytest.raises(DataError, match=r"none.txt cannot be read: No such file"):
        opened(tmp_path / "none.txt")
    with pytest.raises(DataError, match="holds no text; expected files in UTF-8"):
        opened(tmp_path)
    write(tmp_path, a_png=b"\0", train__a_txt="", test__b_txt="b" * 20)
    (tmp_path / "gone.txt").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"gone.txt cannot be read: No such file"):
        opened(tmp_path)
    (tmp_path / "gone.txt").unlink()
    with pytest.raises(DataError, match="its train split is empty"):
        opened(tmp_path)
    write(tmp_path, train__a_txt="short")
    with pytest.raises(DataError, match=r"has 5 \+ 20 bytes, too few for config.data.length=8"):
        opened(tmp_path)
    write(tmp_path / "many", a_txt="a" * 9, b_txt="b" * 9)
    with pytest.raises(DataError, match=r"9 \+ 9 bytes, too few for config.data.length=64"):
        opened(tmp_path / "many", length=64)
    with pytest.raises(DataError, match="length should be at least 2"):
        opened(tmp_path / "many", length=1)
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("a.txt", "a")
    with pytest.raises(DataError, match="is an archive; unpack it"):
        opened(tmp_path / "a.zip")


def test_what_was_understood_is_said_in_one_line(tmp_path):
    write(tmp_path, **{f"a{i}_txt": "lamb" * 5 for i in range(12)}, b_txt="", c_png=b"\0")
    source = opened(tmp_path, tokenizer="characters")
    said = summary.line(source)
    assert "packed rows of 8; 32 for training, 3 held out (validation (last tenth) of the" in said
    assert "13 files (13 of .txt), 12 documents, 240 bytes, left out 1 empty document" in said
    assert "220+20 characters; left out 1 of .png, which are no texts" in said
    assert summary.record(source)["tokenizer"]["name"] == "characters"
    # What it is learnt from does not depend on where it lies.
    moved = write(tmp_path / "b", **{f"a{i}_txt": "lamb" * 5 for i in range(12)})
    assert opened(moved, tokenizer="characters").digest() == source.digest()
    write(moved, a3_txt="lamb" * 4 + "wolf")
    assert opened(moved).digest() != source.digest()


# --------------------------------------------------------------------------------- the rows


def stupid_rows(documents, length):
    """Rows of documents end to end, written out: (x, document, loss_mask) lists of lists."""
    stream = [(s, d) for d, document in enumerate(documents) for s in document]
    found, counted = [], set()
    for start in range(0, max(len(stream) - 1, 1), length - 1):
        x, of, mask, seen = [], [], [], {}
        for place in range(start, start + length):
            if place >= len(stream):
                x, of, mask = [*x, 0], [*of, 0], [*mask, 0]
                continue
            symbol, document = stream[place]
            x.append(symbol)
            of.append(seen.setdefault(document, len(seen) + 1))
            mask.append(int(place not in counted))
            counted.add(place)
        found.append((x, of, mask))
    assert counted == set(range(len(stream)))
    return found


@pytest.mark.parametrize("length", [2, 3, 5, 8, 40])
@pytest.mark.parametrize("sizes", [(1,), (4, 4, 1, 1, 7), (3, 1, 12), (2, 14, 5)])
def test_packed_rows_are_those_written_out(sizes, length):
    documents = [RNG.integers(1, 200, size) for size in sizes]
    starts = np.cumsum([0, *sizes[:-1]])
    of = tokens.Tokens(np.concatenate(documents).astype(np.uint8), starts, np.zeros(0))
    expected = stupid_rows(documents, length)
    count = rows.count(sum(sizes), length)
    assert count == len(expected)
    asked = RNG.permutation(count)
    found = rows.packed(of, asked, length)
    for row, number in enumerate(asked):
        for name, written in zip(("x", "document", "loss_mask"), expected[number], strict=True):
            assert found[name][row].tolist() == written, name
    assert found["document"].dtype == np.int32 and found["loss_mask"].dtype == np.float32


def test_documents_end_with_the_token_that_says_so(tmp_path):
    texts = [prose(6, seed) for seed in range(20)]
    source = opened(write(tmp_path, a_jsonl=jsonl(*texts)), tokenizer="bpe:280", length=11)
    own = source.tokenizer
    assert set(source.spaces) == {"x", "document", "loss_mask"}
    # Every symbol of an epoch counts once, and they are those of the documents, each with its end.
    seen, order_of = [], [source.feed(s, slice(0, 3)) for s in range(-(-source.size // 3))]
    for fed in order_of:
        seen += [x[m > 0] for x, m in zip(fed["x"], fed["loss_mask"], strict=True)]
    every = np.concatenate([own.document(text) for text in texts[:18]])
    counted = np.bincount(np.concatenate(seen[: source.size]), minlength=own.size)
    assert np.array_equal(counted, np.bincount(every, minlength=own.size))
    assert counted[own.specials["end"]] == 18
    held = source.held_out(KEY, 0, source.held_out_size)
    x, of, mask = (np.asarray(held[name]) for name in ("x", "document", "loss_mask"))
    told = np.concatenate([own.document(text) for text in texts[18:]])
    assert np.concatenate([x[0, :1], x[:, 1:].reshape(-1)])[: len(told)].tolist() == told.tolist()
    assert mask.sum() == len(told) and of.max() == 2
    assert {s: list(t) for s, t in source.texts.items()} == {source.held_out_split: texts[18:]}
    assert source.held_out_split == "validation (last tenth) of the documents"


def test_one_long_text_has_neither_documents_nor_ends(tmp_path):
    text = prose(200)
    source = opened(write(tmp_path, a_txt=text), tokenizer="bpe:280")
    assert set(source.spaces) == {"x"} and source.size == source.resident.size - 8 + 1
    assert source.tokenizer.specials["end"] not in source.resident
    cut = len(text) * 9 // 10
    assert source.tokenizer.decode(source.resident) == text[:cut]
    assert [list(t) for t in source.texts.values()] == [[text[cut:]]]


def test_its_own_splits_are_taken(tmp_path):
    files = {"train_txt": prose(99), "valid_txt": prose(20, 1), "test_txt": prose(20, 2)}
    source = opened(write(tmp_path, **files))
    assert source.held_out_split == "validation+test" and set(source.spaces) == {"x"}
    held = {"validation": files["valid_txt"], "test": files["test_txt"]}
    assert {split: "".join(texts) for split, texts in source.texts.items()} == held
    x = np.asarray(source.held_out(KEY, 0, 10**6)["x"]).reshape(-1)
    both = "".join(held.values()).encode()
    assert bytes(x.astype(np.uint8)) == both[: len(both) // 8 * 8]
    assert bytes(source.resident) == files["train_txt"].encode()


def of_llama(text):
    """A BPE that puts a space before every text, and merges one that stands behind an a or a b."""
    hf = pytest.importorskip("tokenizers")
    merges = [("a", "▁"), ("b", "▁")]
    known = [*sorted({*text.replace(" ", "▁")}), *map("".join, merges)]
    made = hf.Tokenizer(hf.models.BPE({piece: i for i, piece in enumerate(known)}, merges))
    replaced = hf.normalizers.Replace(" ", "▁")
    made.normalizer = hf.normalizers.Sequence([hf.normalizers.Prepend("▁"), replaced])
    return subwords.of_json({"tokenizer.json": made.to_str().encode()}, pathlib.Path("a.json"))


@pytest.mark.parametrize("kind", ["bytes", "bpe:300", "llama", "characters"])
def test_a_long_document_has_the_symbols_of_the_whole(kind, monkeypatch):
    """Though it is encoded piece by piece, whatever the pieces in which it comes."""
    text = prose(400)
    own = of_llama(text) if kind == "llama" else tokenizers.make(kind, [text], [])
    whole = own.encode(text)
    monkeypatch.setattr(tokens, "PIECE", 100)
    monkeypatch.setattr(tokens, "WITHIN", 50)
    cut = list(tokens.pieces([text], own.encode))
    assert len(cut) > 10 and max(map(len, cut)) <= 200
    assert np.concatenate([own.encode(piece) for piece in cut]).tolist() == whole.tolist()
    if kind == "llama":
        # Its own space stands for the one between two pieces.
        assert " ".join(cut) == text
        assert not any(piece.endswith(("a", "b")) for piece in cut[:-1])
    else:
        assert "".join(cut) == text
    for size in (7, 100, 1000):
        apart = [text[i : i + size] for i in range(0, len(text), size)]
        assert list(tokens.pieces(apart, own.encode)) == cut
    # Where there is no place to cut, it stays whole.
    assert list(tokens.pieces(["x" * 999], own.encode)) == ["x" * 999]


def test_an_epoch_of_very_many_examples_is_a_permutation_too(monkeypatch):
    for size in (1, 2, 3, 5, 1000, 65_537):
        found = scattered(3, size, 1, np.arange(size))
        assert np.array_equal(np.sort(found), np.arange(size))
    whole = scattered(0, 10**12, 0, np.arange(1000))
    assert whole.min() >= 0 and whole.max() < 10**12 and len(set(whole.tolist())) == 1000
    assert 4.5e11 < whole.mean() < 5.5e11 and abs(np.corrcoef(whole, np.arange(1000))[0, 1]) < 0.1
    # Any place by itself, another in every epoch and seed, and no seam between epochs.
    assert scattered(0, 10**12, 0, np.array([7])) == whole[7]
    assert not set(scattered(0, 10**12, 1, np.arange(1000))) & set(whole)
    assert not set(scattered(1, 10**12, 0, np.arange(1000))) & set(whole)
    monkeypatch.setattr("genjax_zoo.data.source.LISTED", 9)
    taken = np.concatenate([order(5, 10, 4, step) for step in range(5)])
    assert sorted(taken[:10]) == sorted(taken[10:]) == list(range(10))
    assert taken[:10].tolist() != taken[10:].tolist()
    assert order(0, 2**40, 8, 3).dtype == np.int64


# --------------------------------------------------------------------------- the token files


@pytest.fixture(params=["one text", "documents"])
def texts(request, tmp_path):
    """A path, and how it is changed."""
    if request.param == "one text":
        return write(tmp_path / "in", a_txt=prose(300)) / "a.txt"
    return write(tmp_path / "in", **{f"a{i}_txt": prose(20 + i, i) for i in range(15)})


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe:300"])
def test_files_and_memory_give_the_same_batches(texts, tokenizer, tmp_path):
    own = Own(folder=tmp_path / "tokens")
    in_memory, in_files = (
        opened(texts, own, seed=4, tokenizer=tokenizer, in_memory=most) for most in (256, 0)
    )
    assert list((tmp_path / "tokens").glob("*/tokens.json"))
    for step in (0, 3, 10**4):
        same(batch(in_memory, step), batch(in_files, step))
    # Each process asks for its own rows.
    whole, part = batch(in_files, 5), batch(in_files, 5, slice(1, 3))
    assert all(np.array_equal(whole[name][1:], part[name]) for name in whole)
    assert in_memory.held_out_size == in_files.held_out_size
    held = [s.held_out(KEY, 1, s.held_out_size) for s in (in_memory, in_files)]
    same(*({name: np.asarray(a) for name, a in of.items()} for of in held))
    one, other = ({s: list(t) for s, t in of.texts.items()} for of in (in_memory, in_files))
    assert one == other and in_memory.digest() == in_files.digest()
    assert in_memory.notes == in_files.notes and in_memory.spaces == in_files.spaces
    assert in_memory.size == in_files.size and in_files.resident == ()


def test_they_are_written_once_and_read_by_position(texts, tmp_path, monkeypatch):
    told = []
    own = Own(folder=tmp_path / "tokens", tell=told.append)
    first = opened(texts, own, in_memory=0)
    (about,) = (tmp_path / "tokens").glob("*/tokens.json")
    assert len(told) == 1 and "writing token files" in told[0]
    written = about.stat().st_mtime_ns
    # Nothing of the text is read again, but for the documents that somebody asks for.
    monkeypatch.setattr(corpus, "decoded", lambda *of: pytest.fail("the text was read again"))
    second = opened(texts, own, in_memory=0)
    same(batch(first, 2), batch(second, 2))
    assert about.stat().st_mtime_ns == written and len(told) == 1
    monkeypatch.undo()
    # The same text that was written anew is the same text.
    for path in texts.rglob("*") if texts.is_dir() else [texts]:
        os.utime(path, ns=(1, 1))
    opened(texts, own, in_memory=0)
    assert about.stat().st_mtime_ns == written and len(told) == 1
    # Where they may only be read.
    for path in [about.parent.parent, about.parent]:
        path.chmod(0o555)
    same(batch(first, 3), batch(opened(texts, own, in_memory=0), 3))
    about.parent.parent.chmod(0o755)


def test_those_of_another_text_or_tokenizer_are_not_used(texts, tmp_path):
    own = Own(folder=tmp_path / "tokens")
    opened(texts, own, in_memory=0)
    other = opened(texts, own, in_memory=0, tokenizer="characters")
    assert any("not used: token files of other tokenizers" in note for note in other.notes)
    assert other.spaces["x"].size < 256
    path = texts if texts.is_file() else texts / "a3.txt"
    path.write_text(path.read_text().replace("lamb", "LAMB"))
    changed = opened(texts, own, in_memory=0)
    assert any("written anew: the text has changed" in note for note in changed.notes)
    same(batch(changed, 1), batch(opened(texts), 1))
    # Of the same text again, they are told no more.
    assert not any("anew" in note for note in opened(texts, own, in_memory=0).notes)


@pytest.mark.parametrize("damage", ["shorter", "missing", "said"])
def test_damaged_ones_are_written_anew(damage, texts, tmp_path):
    own = Own(folder=tmp_path / "tokens")
    whole = batch(opened(texts, own, in_memory=0), 1)
    (folder,) = (p for p in (tmp_path / "tokens").iterdir() if p.is_dir())
    if damage == "said":
        (folder / "tokens.json").write_text("{")
    else:
        path = folder / "train.symbols"
        path.write_bytes(path.read_bytes()[:-1]) if damage == "shorter" else path.unlink()
    again = opened(texts, own, in_memory=0)
    assert any("written anew: " in note for note in again.notes)
    same(batch(again, 1), whole)


def killed_after(writes, run):
    """Whether a process that is killed after so many writes of symbols was killed."""
    child = os.fork()
    if child == 0:
        stream = tokens.encoded
        left = iter(range(writes))

        def until(*of):
            for found in stream(*of):
                if next(left, None) is None:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield found

        token_files.encoded = until
        run()
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("writes", [0, 1, 3])
def test_whoever_is_killed_while_writing_leaves_nothing_that_is_read(texts, writes, tmp_path):
    own = Own(folder=tmp_path / "tokens")
    run = lambda: opened(texts, own, in_memory=0)
    assert killed_after(writes, run) and not list((tmp_path / "tokens").glob("*/tokens.json"))
    assert list((tmp_path / "tokens").glob(".*.part"))
    same(batch(run(), 2), batch(opened(texts), 2))
    assert not list((tmp_path / "tokens").glob(".*.part"))
    assert not killed_after(writes, run)


def test_where_they_go_must_be_known(texts, tmp_path):
    with pytest.raises(DataError, match="say where its token files may lie"):
        opened(texts, in_memory=0)
    told = opened(texts, Own(folder=tmp_path / "a"), in_memory=0, token_dir=str(tmp_path / "b"))
    assert not (tmp_path / "a").exists() and list((tmp_path / "b").glob("*/tokens.json"))
    same(batch(told, 0), batch(opened(texts), 0))
    small = opened(texts, token_dir=str(tmp_path / "c"))
    assert "no token files: it fits into config.data.in_memory=256 MB" in small.notes
    write(tmp_path, d="a file")
    with pytest.raises(DataError, match=r"token files cannot be written to .* name another folder"):
        opened(texts, in_memory=0, token_dir=str(tmp_path / "d"))


def test_symbols_take_as_few_bytes_as_they_can():
    assert [tokens.dtype_of(size).itemsize for size in (1, 256, 257, 65_536, 65_537)] == [
        *(1, 1, 2, 2, 4),
    ]
    counts = parts.count([("ab", "é"), (), ("",)])
    assert counts[:4] == (1, 2, 3, 4)
    assert parts.count([("abé",)]).sha256 == counts.sha256 != parts.count([("ab",), ("é",)]).sha256
    found = tokens.in_memory(of_bytes(), [("ab",), ("b",)], ends=True)
    assert found.starts.tolist() == [0, 2] and found.counts[ord("b")] == 2
