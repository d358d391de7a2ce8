"""The notebooks run, cell after cell, in an empty folder, and end where they say."""

import json
import os
import pathlib
import sys
import types

import matplotlib
import pytest

from tests.conftest import ROOT

BOOKS = sorted((ROOT / "experiments" / "notebooks").glob("*.ipynb"))
TRAINS = True


def test_the_three_are_there():
    assert {book.stem for book in BOOKS} >= {"first_model", "game_and_field", "own_data"}


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_a_notebook_runs(book: pathlib.Path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["notebook"])
    matplotlib.use("agg")
    page = json.loads(book.read_text())
    assert page["nbformat"] == 4
    # Dataclasses look their module up by its name.
    module = types.ModuleType(f"notebook_{book.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for number, cell in enumerate(page["cells"]):
        if cell["cell_type"] == "code":
            code = compile("".join(cell["source"]), f"{book.name}, cell {number}", "exec")
            exec(code, module.__dict__)


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_a_notebook_holds_no_large_outputs(book):
    assert os.path.getsize(book) < 50_000
    assert all(c["outputs"] == [] for c in json.loads(book.read_text())["cells"] if "outputs" in c)
