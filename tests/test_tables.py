"""Tables and series: what is read and what is made."""

import jax
import numpy as np
import pytest

from genjax_zoo.contract import ConfigError, DataError
from genjax_zoo.data import tables
from genjax_zoo.data.config import Data
from genjax_zoo.data.densities import DENSITIES
from genjax_zoo.data.sources import open_source

KEY = jax.random.key(0)


def first_batch(source):
    return source.batch(KEY, source.resident, source.feed(0, slice(None)))


@pytest.mark.parametrize("name", tables.TABLES)
def test_a_table_is_split_and_standardised_by_its_training_part(name):
    x, label, classes, columns = tables.table(name)
    assert len(columns) == x.shape[1] and all(columns)
    source = open_source(Data(source=f"table:{name}", batch_size=7, standardise=True), seed=0)
    assert source.size + source.held_out_size == len(x)
    train = source.training(KEY, 0, source.size)
    np.testing.assert_allclose(np.mean(train["x"], 0), 0, atol=1e-3)
    np.testing.assert_allclose(np.std(train["x"], 0), 1, atol=1e-3)
    held = source.held_out(KEY, 0, 3)
    assert np.array_equal(held["label"], label[4::5][:3])
    own = np.delete(x, np.arange(4, len(x), 5), axis=0)
    np.testing.assert_allclose(held["x"], (x[4::5][:3] - own.mean(0)) / own.std(0), rtol=1e-3)
    assert first_batch(source)["x"].shape == (7, x.shape[1])
    assert source.name == name
    assert source.symbols == {"label": classes} and len(classes) == label.max() + 1
    assert "standardised" in source.preprocessing
    assert f"columns: {columns[0]}, " in source.notes[-1]


def test_the_nile_has_the_likelihood_that_is_published():
    """The local level model of Durbin & Koopman, filtered by hand: no number is mistyped."""
    level, variance, nats = 0.0, 1e7, 0.0
    for flow in tables.nile()[:, 0].astype(float):
        total = variance + 15099
        nats -= 0.5 * (np.log(2 * np.pi * total) + (flow - level) ** 2 / total)
        gain = variance / total
        level, variance = level + gain * (flow - level), variance * (1 - gain) + 1469.1
    assert nats == pytest.approx(-641.58558, abs=1e-4)


def test_a_series_is_one_example_held_out_from_nobody():
    source = open_source(Data(source="series:nile", batch_size=1), seed=0)
    x = first_batch(source)["x"]
    assert x.shape == (1, 100, 1)
    assert np.array_equal(x, source.held_out(KEY, 0, 1)["x"])
    assert source.held_out_split == "the training series itself"
    with pytest.raises(DataError, match="has 1 example for training, fewer than"):
        open_source(Data(source="series:nile"), seed=0)


@pytest.mark.parametrize(
    "text", ["a,b\n1,2\n3,\n5,6\n", "1 2\n3 nan\n\n5 6\n", "1, 2\n3, nan\n5, 6"]
)
def test_a_series_is_read_from_a_file_with_what_is_missing(tmp_path, text):
    path = tmp_path / "series.csv"
    path.write_text(text)
    np.testing.assert_array_equal(tables.series(str(path))[0], [[1, 2], [3, np.nan], [5, 6]])
    source = open_source(Data(source=f"series:{path}", batch_size=1, standardise=True), seed=0)
    assert "1 numbers missing" in source.preprocessing
    np.testing.assert_allclose(np.nanmean(first_batch(source)["x"], 1), 0, atol=1e-6)


def test_a_column_with_gaps_keeps_its_times(tmp_path):
    path = tmp_path / "series.csv"
    path.write_text("\ufeffflow\n1\n\n3\n", encoding="utf-8")
    np.testing.assert_array_equal(tables.series(str(path))[0], [[1], [np.nan], [3]])


@pytest.mark.parametrize("text", ["1,2\n3\n", "a,b\n1,c\n", "", "1\n", "112O\n2\n", "1\ninf\n"])
def test_a_file_that_is_no_series_is_refused(tmp_path, text):
    path = tmp_path / "series.csv"
    path.write_text(text)
    with pytest.raises(DataError, match="expected"):
        tables.series(str(path))
    with pytest.raises(DataError, match=r"neither a series of the zoo \(nile\) nor a file"):
        tables.series(str(tmp_path / "none.csv"))


def test_what_is_for_other_data_is_refused():
    with pytest.raises(ConfigError, match="standardise=True is for tables and series, and digits"):
        Data(standardise=True)
    with pytest.raises(ConfigError, match="binarise='threshold' is for images"):
        Data(source="table:iris", binarise="threshold")
    # A name that there is not comes first, whatever else does not fit.
    for fields in ({}, {"binarise": "dynamic"}):
        with pytest.raises(ConfigError, match=r"unknown table 'irish'\. Did you mean 'iris'"):
            Data(source="table:irish", **fields)
        with pytest.raises(ConfigError, match=r"unknown density 'rings'\. Did you mean 'ring'"):
            Data(source="density:rings", **fields)


def test_bars_and_stripes_are_drawn_as_often_as_their_probability_says():
    density = DENSITIES["bars_and_stripes"]
    x = np.asarray(density.sample(KEY, 50_000))
    seen, counts = np.unique(x.reshape(-1, 16), axis=0, return_counts=True)
    assert len(seen) == 30
    p = np.exp(density.log_prob(seen.reshape(-1, 4, 4, 1)))
    assert p.sum() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(counts / len(x), p, atol=0.004)
    assert -(p * np.log(p)).sum() == pytest.approx(density.entropy, abs=1e-5)
    other = np.zeros((1, 4, 4, 1), np.float32)
    other[0, 0, 0] = 1
    assert density.log_prob(other)[0] == -np.inf
