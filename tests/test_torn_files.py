"""Files that are torn or overwritten somewhere are read, or refused in one sentence."""

import io
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from genjax_zoo.contract import ZooError
from genjax_zoo.data.config import Data
from genjax_zoo.data.sources import open_source

RNG = np.random.default_rng(0)


def frames(n):
    return [Image.fromarray(RNG.integers(0, 256, (4, 4), np.uint8)) for _ in range(n)]


def png():
    file = io.BytesIO()
    frames(1)[0].save(file, "png")
    return file.getvalue()


FILES = {"a/1.png": png(), "b/2.png": png(), "metadata.csv": b"file_name,text\na/1.png,a cat\n"}


def zipped():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
    return file.getvalue()


def tarred():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in FILES.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def arrays():
    file = io.BytesIO()
    x = RNG.integers(0, 256, (12, 4, 4), np.uint8)
    np.savez_compressed(file, x=x, label=np.arange(12) % 2)
    return file.getvalue()


def animated():
    file, (first, *more) = io.BytesIO(), frames(4)
    first.save(file, "gif", save_all=True, append_images=more)
    return file.getvalue()


def columns():
    pa, parquet = (pytest.importorskip(n) for n in ("pyarrow", "pyarrow.parquet"))
    file = io.BytesIO()
    images = [{"bytes": png(), "path": "a"}] * 4
    parquet.write_table(pa.table({"image": images, "label": [0, 1, 0, 1]}), file)
    return file.getvalue()


def torn(whole, how):
    """A part of it, other bytes in some places, bytes more, or bytes less."""
    at = int(RNG.integers(len(whole)))
    if how == 0:
        return whole[:at]
    if how == 1:
        made = bytearray(whole)
        for place in RNG.integers(len(whole), size=9):
            made[place] = RNG.integers(256)
        return bytes(made)
    if how == 2:
        return whole[:at] + RNG.bytes(20) + whole[at:]
    return whole[:at] + whole[at + int(RNG.integers(1, 50)) :]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "name", "make"),
    [
        ("folder", "x.zip", zipped),
        ("folder", "x.tar.gz", tarred),
        ("array", "x.npz", arrays),
        ("parquet", "x.parquet", columns),
        ("clip", "x.gif", animated),
        ("text", "x.txt", lambda: ("hello world, " * 50).encode()),
    ],
)
def test_a_torn_file_is_one_sentence(tmp_path, kind, name, make):
    whole, path = make(), tmp_path / name
    for case in range(24):
        path.write_bytes(whole if case == 0 else torn(whole, case % 4))
        try:
            open_source(Data(source=f"{kind}:{path}", batch_size=1, length=10), 0)
        except ZooError as error:
            assert case > 0 and "\n" not in str(error)
