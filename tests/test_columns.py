"""Columns of numbers in a file: what is read as what, what is said of it, and what is refused."""

import numpy as np
import pytest

from genjax_zoo.contract import ConfigError, DataError
from genjax_zoo.data import summary
from genjax_zoo.data.config import Data
from genjax_zoo.data.files import columns
from genjax_zoo.data.sources import open_source

NAN = float("nan")


def read(tmp_path, text, *wanted, **options):
    path = tmp_path / "file.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return columns.read(path, "series:file.csv", *wanted, **options)


TWO = [[1.0, 2.0], [3.0, NAN], [5.0, 6.0]]
AB = ("a", "b")


@pytest.mark.parametrize(
    ("text", "names", "x"),
    [
        # A time at which nothing is known is a time all the same.
        ("a,b\n1,2\n,\n5,6\n", AB, [[1, 2], [NAN, NAN], [5, 6]]),
        ("1,\n,\n3,", ("1",), [[1], [NAN], [3]]),
        ("1\n\n\n4\n", ("1",), [[1], [NAN], [NAN], [4]]),
        ("a\n1\nNA\n3\n", ("a",), [[1], [NAN], [3]]),
        # Names of any kind.
        ("x1 (m),x2 (m)\n1,2\n3,\n5,6\n", ("x1 (m)", "x2 (m)"), TWO),
        ('"x, y","a ""b"""\n1,2\n3,\n5,6\n', ("x, y", 'a "b"'), TWO),
        ("#x,y\n1,2\n3,nan\n5,6\n", ("x", "y"), TWO),
        ("# made today\n# x y\n1 2\n3 nan\n5 6\n", ("x", "y"), TWO),
        ("# made today\na,b\n1,2\n3,\n5,6", AB, TWO),
        ("flow rate\n1\n3\n", ("flow rate",), [[1], [3]]),
        ("time,2019,2020\n0,1.5,2.5\n1,3.5,4.5", ("time", "2019", "2020"), None),
        # Quoted numbers, and what data frames write of their own.
        ('"a","b"\n"1","2"\n"3",""\n"5","6"\n', AB, TWO),
        (",a,b\n0,1,2\n1,3,\n2,5,6\n", AB, TWO),
        (",0,1\n0,1.0,2.0\n1,3.0,\n2,5.0,6.0\n", ("0", "1"), TWO),
        ('"","a","b"\n"1",1,2\n"2",3,NA\n"3",5,6\n', AB, TWO),
        ("Unnamed: 0,a,b\n7,1,2\n8,3,\n9,5,6\n", AB, TWO),
        # What parts them.
        ("a;b\n1;2\n3;\n5;6\n", AB, TWO),
        ("a\tb\n1\t2\n3\t\n5\t6\n", AB, TWO),
        ("a|b\n1|2\n3|\n5|6\n", AB, TWO),
        ("  1.0    2.0\n 3.0    nan\n  5.0\t 6.0", ("1", "2"), TWO),
        ("a , b\r\n1 , 2\r\n3 ,\r\n5 , 6\r\n", AB, TWO),
        ("1,2,\n3,,\n5,6,\n", ("1", "2"), TWO),
        ("1 2\n3 nan\n\n5 6\n", ("1", "2"), TWO),
        ("a,b\n1e0,+2\n3,None\n5.,6", AB, TWO),
        ("sep=;\na;b\n1;2\n3;\n5;6\n", AB, TWO),
        ("SEP=;\n1;2\n3;\n5;6\n", ("1", "2"), TWO),
        # How it is encoded.
        ("\ufeffa,b\n1,2\n3,\n5,6", AB, TWO),
        ("a\tb\r\n1\t2\r\n3\t\r\n5\t6\r\n".encode("utf-16"), AB, TWO),
        # Numbers that are no names.
        ("0,1\n1,0\n0,0", ("1", "2"), [[0, 1], [1, 0], [0, 0]]),
        ("0.0\n0.3\n0.1", ("1",), [[0], [0.3], [0.1]]),
        ("3,4\n1,2", ("1", "2"), [[3, 4], [1, 2]]),
        (",2\n1,2", ("1", "2"), [[NAN, 2], [1, 2]]),
    ],
)
def test_what_is_read(tmp_path, text, names, x):
    found = read(tmp_path, text)
    assert found.names == names
    if x is not None:
        np.testing.assert_array_equal(found.x, x)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0,1,2\n.5,.5,.5\n", ["names or one of numbers, got '0,1,2'", "config.data.header"]),
        ("2019,2020\n.5,.5\n", ["may be either"]),
        ("0\n.5\n", ["may be either"]),
        ("112O\n2\n3\n", ["'112O'", "may be either"]),
        ("2020-01-01,5\n2020-01-02,6\n", ["may be either"]),
        ("x,1\ny,2\n", ["may be either"]),
        # A first number that is written oddly is no name, for that would lose a time.
        ("inf\n1\n2\n", ["'inf'", "may be either"]),
        ("-Infinity\n1\n2\n", ["may be either"]),
        ("-\n1\n2\n", ["may be either"]),
        ("?\n1\n2\n", ["may be either"]),
        ("$1\n2\n3\n", ["may be either"]),
        ("\u22121\n2\n3\n", ["may be either"]),
        ("1,5;2,5\n3,5;4,5\n", ["line 1, column '1'", "with a decimal point: 1234.5"]),
        ("date,a\n2020-01-01,5\n2020-01-02,6\n", ["line 2, column 'date'", "config.data.columns"]),
        (
            ",a\n2020-01-01,5\n2020-01-02,6\n",
            ["first column without a name", "config.data.columns"],
        ),
        (",a\n0,5\n2,6\n", ["first column without a name to count", "0, 2"]),
        ("a,b\n1,c\n2,3", ["line 2, column 'b': expected a number, got 'c'"]),
        ("a,b\n1,2\n3\n", ["line 3: expected 2 cells as in line 1, got 1: '3'"]),
        ("a,b\n1,2\n3,4,5\n", ["line 3", "got 3"]),
        ("a;b\n1,5;2,5\n3,5;4,5\n", ["got '1,5'", "with a decimal point: 1234.5"]),
        ('a,b\n"1,234",2\n5,6\n', ["got '1,234'", "without marks of thousands"]),
        ("a;b\n1.234,5;2\n5;6\n", ["got '1.234,5'", "without marks of thousands"]),
        ("a;b\n1 234;2\n5;6\n", ["got '1 234'", "without marks of thousands"]),
        ("1\ninf\n", ["line 2, column '1': expected a number, got 'inf'"]),
        ("1\n1e39\n", ["expected a number, got '1e39'"]),
        ("1\n1_000\n", ["expected a number, got '1_000'"]),
        ("a,b\n1,\n2,\n", ["column 'b'", "all of it is missing", "config.data.columns"]),
        ('a,b\n1,"2\n3,4\n', ["expected columns of numbers, got broken quotes"]),
        ("", ["holds 0 lines", "expected 2 or more"]),
        ("\n\n", ["holds 0 lines"]),
        ("a,b\n", ["holds 0 lines"]),
        ("a\n1\n", ["holds 1 line "]),
        ("# only words\n", ["holds 0 lines"]),
    ],
)
def test_what_is_refused(tmp_path, text, words):
    with pytest.raises(DataError) as refused:
        read(tmp_path, text)
    for word in ("series:file.csv", *words):
        assert word in str(refused.value)


def test_what_is_declared_is_not_looked_for(tmp_path):
    text = "0,1,2\n.5,.25,.125\n"
    named = read(tmp_path, text + "1,2,3\n", header="names")
    assert named.names == ("0", "1", "2") and len(named.x) == 2
    assert read(tmp_path, text, header="numbers").x.tolist() == [[0, 1, 2], [0.5, 0.25, 0.125]]
    with pytest.raises(DataError, match="line 1, column '1': expected a number, got 'a'"):
        read(tmp_path, "a\n1\n2\n", header="numbers")
    dated = "date,a,b\n2020-01-01,1,2\n2020-01-02,3,4\n"
    found = read(tmp_path, dated, ("b", "a"))
    assert found.names == ("b", "a") and found.x.tolist() == [[2, 1], [4, 3]]
    assert "left out: date" in found.notes
    # What counts is told of where it is learnt from unasked alone.
    assert not any("counts" in n for n in read(tmp_path, "n,a\n0,1\n1,5\n", ("n", "a")).notes)
    assert not any("counts" in n for n in read(tmp_path, "n,a\n0,1\n2,5\n").notes)
    with pytest.raises(ConfigError, match=r"'c'. .*Known: a, b, date"):
        read(tmp_path, dated, ("c",))
    with pytest.raises(ConfigError, match="several columns called 'a'"):
        read(tmp_path, "a,a\n1,2\n3,4\n", ("a",))


@pytest.mark.parametrize(
    ("text", "notes"),
    [
        (
            "a,b\n1,2\n3,\n,\n",
            ["columns: a (1 missing), b (2 missing), 1 time with no number at all"],
        ),
        ("1 2\n\n3 4\n\n\n", ["columns: 1, 2 (the file names none)", "3 blank lines left out"]),
        (",a\n0,1\n1,2\n", ["left out: the first column, which has no name and counts 0 .. 1"]),
        (
            "year,a\n1871,5\n1872,2\n",
            [
                "year counts the lines and is learnt from like any other; name in "
                "config.data.columns those to learn from, if it should not be"
            ],
        ),
        ("1,2,\n3,4,\n", ["commas at the ends of lines, which part nothing"]),
    ],
)
def test_what_is_said(tmp_path, text, notes):
    found = read(tmp_path, text)
    for note in notes:
        assert note in found.notes


def test_a_source_says_what_it_read(tmp_path):
    path = tmp_path / "tank.csv"
    path.write_text("level (m),flow\n1,2\n,\n5,6\n")
    source = open_source(Data(source=f"series:{path}", batch_size=1), 0)
    line = summary.line(source)
    assert "3 times of 2, 2 numbers missing" in line
    assert "columns: level (m) (1 missing), flow (1 missing), 1 time with no number" in line
    assert source.spaces["x"].missing
    one = open_source(Data(source=f"series:{path}", batch_size=1, columns=("flow",)), 0)
    np.testing.assert_array_equal(one.resident.x, [[[2], [NAN], [6]]])
    assert "left out: level (m)" in summary.line(one)


def test_large_numbers_are_standardised_before_they_are_rounded(tmp_path):
    """float32 has 128 seconds between two numbers at 1.6e9, and would make steps of them."""
    path = tmp_path / "seconds.csv"
    path.write_text("".join(f"{1_600_000_000 + 60 * t},0.1\n" for t in range(40)))
    opened = lambda **fields: open_source(
        Data(source=f"series:{path}", batch_size=1, **fields), seed=0
    )
    x = opened(standardise=True).resident.x[0]
    np.testing.assert_allclose(np.diff(x[:, 0]), np.diff(x[:2, 0])[0], rtol=1e-3)
    # A constant column is 0, and not what rounding made of .1 over what it left of a deviation.
    np.testing.assert_allclose(x[:, 1], 0, atol=1e-9)
    assert "rounded by up to" in opened().preprocessing


def test_files_that_numpy_writes_are_read(tmp_path):
    x = np.random.default_rng(0).normal(size=(5, 3))
    for options in ({}, {"delimiter": ","}, {"header": "a b c"}, {"delimiter": ";", "fmt": "%.9g"}):
        np.savetxt(tmp_path / "file.csv", x, **options)
        found = columns.read(tmp_path / "file.csv", "series:file.csv")
        np.testing.assert_allclose(found.x, x, rtol=1e-6)
        assert found.names == (("a", "b", "c") if "header" in options else ("1", "2", "3"))


def test_what_is_no_utf_8_and_what_has_no_names_say_so(tmp_path):
    path = tmp_path / "old.csv"
    path.write_bytes("d\u00e9bit\n1\n2\n".encode("latin1"))
    with pytest.raises(DataError, match=r"is no text in UTF-8 .* save it as such"):
        open_source(Data(source=f"series:{path}", batch_size=1), 0)
    with pytest.raises(DataError, match="series:nile has one column and no names"):
        open_source(Data(source="series:nile", columns=("flow",), batch_size=1), 0)
