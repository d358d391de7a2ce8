"""Parquet files as the hub stores data sets: which columns are what, and which split a file is."""

import io
import json
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from genjax_zoo.contract import DataError
from genjax_zoo.data.config import Data
from genjax_zoo.data.sources import open_source

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

X = np.random.default_rng(0).integers(0, 256, (12, 4, 5), np.uint8)
NAMES = {"info": {"features": {"label": {"names": ["cat", "owl"], "_type": "ClassLabel"}}}}


def encoded(x):
    file = io.BytesIO()
    Image.fromarray(x).save(file, "png")
    return {"bytes": file.getvalue(), "path": "0.png"}


def write(path, about=None, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    if about is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps(about)})
    parquet.write_table(table, path)


def opened(path, **fields):
    return open_source(Data(source=f"parquet:{path}", **({"batch_size": 2} | fields)), 0)


def both(source):
    key = jax.random.key(0)
    made = source.training(key, 0, source.size), source.held_out(key, 0, source.held_out_size)
    return jax.tree.map(np.asarray, made)


def test_a_data_set_of_the_hub_is_read_with_its_splits_names_and_captions(tmp_path):
    train, more = "train-00000-of-00002", "train-00001-of-00002"
    files = {train: (0, 4), more: (4, 8), "validation-00000-of-00001": (8, 9), "test-0": (9, 12)}
    for name, ends in files.items():
        rows = slice(*ends)
        write(
            tmp_path / "data" / f"{name}.parquet",
            NAMES,
            image=[encoded(x) for x in X[rows]],
            label=[int(n) for n in np.arange(12)[rows] % 2],
            caption=["an owl"] * len(X[rows]),
            url=["http"] * len(X[rows]),
        )
    source = opened(tmp_path)
    train, held = both(source)
    np.testing.assert_allclose(train["x"][..., 0] * 255, X[:8], atol=1e-4)
    np.testing.assert_allclose(held["x"][..., 0] * 255, X[9:], atol=1e-4)
    assert train["label"].tolist() == [0, 1] * 4 and source.held_out_split == "test"
    assert source.symbols == {"label": ("cat", "owl"), "text": ("", "<unknown>", "an", "owl")}
    assert "columns that were not read: url" in source.notes
    assert "left out the validation arrays" in source.notes
    alone = opened(tmp_path / "data" / "train-00000-of-00002.parquet", channels=3)
    assert alone.size == 4 and alone.held_out_split == "the training images themselves"
    assert both(alone)[0]["x"].shape == (4, 4, 5, 3)


def test_columns_of_numbers_are_a_table(tmp_path):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 40))
    write(tmp_path / "t.parquet", a=a, b=[*b[:-1], None], label=["x", "y"] * 20)
    source = opened(tmp_path / "t.parquet", standardise=False)
    train, _ = both(source)
    np.testing.assert_allclose(train["x"][:5], np.stack([a, b], 1)[:5], rtol=1e-6)
    assert source.size == 36 and source.symbols["label"] == ("x", "y")
    assert "columns: a, b" in source.notes and source.spaces["x"].missing
    assert source.columns == ("a", "b")


def test_numbers_keep_their_digits_and_categories_their_names(tmp_path):
    path = tmp_path / "t.parquet"
    seconds = 1.6e9 + np.arange(40.0)
    write(path, seconds=seconds, label=pa.array(["x", "y"] * 20).dictionary_encode())
    source = opened(path, standardise=True)
    kept = np.delete(seconds, np.arange(9, 40, 10))
    train, _ = both(source)
    np.testing.assert_allclose(train["x"][:, 0], (kept - kept.mean()) / kept.std(), atol=1e-5)
    assert source.symbols["label"] == ("x", "y")
    assert "rounded by up to" in opened(path).preprocessing


def test_a_column_of_text_is_written_end_to_end(tmp_path):
    write(tmp_path / "train.parquet", text=["abc" * 20, "b"])
    write(tmp_path / "test.parquet", text=["cab" * 20])
    source = opened(tmp_path, length=10)
    assert source.tokenizer.pieces == ("\n", "a", "b", "c") and source.held_out_split == "test"
    write(tmp_path / "one.parquet", text=["abc" * 90])
    alone = opened(tmp_path / "one.parquet", length=10)
    assert alone.held_out_split == "validation (last tenth)"


def test_what_is_no_parquet_or_says_too_little_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match=r"holds no \.parquet file"):
        opened(tmp_path / "a")
    (tmp_path / "a" / "x.parquet").write_text("none")
    with pytest.raises(DataError, match=r"x\.parquet cannot be read as parquet"):
        opened(tmp_path / "a")
    with pytest.raises(DataError, match=r"b\.parquet cannot be read as parquet"):
        opened(tmp_path / "b.parquet")
    write(tmp_path / "c.parquet", url=["http"])
    with pytest.raises(DataError, match="has the columns url; expected one of images"):
        opened(tmp_path / "c.parquet")
    write(tmp_path / "e.parquet", a=[1.0, 2.0], label=["x", None])
    with pytest.raises(DataError, match=r"one label for each example.*some have none"):
        opened(tmp_path / "e.parquet", batch_size=1)
    write(tmp_path / "d.parquet", image=[{"bytes": None, "path": "a.png"}, encoded(X[0])])
    with pytest.raises(DataError, match="image has 1 cells without an image"):
        opened(tmp_path / "d.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"needs pyarrow.*genjax-zoo\[parquet\]"):
        opened(tmp_path / "c.parquet")
