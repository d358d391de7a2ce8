"""Files of a workdir, damaged in every way that came to mind: a sentence or nothing; by --slow."""

import itertools
import json
import random
import shutil

import pytest

from genjax_zoo.main import main
from tests.test_main import trained_folder

__all__ = ["trained_folder"]

FILES = ("config.json", "run.json", "example.json", "eval/metrics.json", "metrics.jsonl")
FILES += ("checkpoints/6/about/metadata", "checkpoints/6/_CHECKPOINT_METADATA")
FILES += ("checkpoints/6/state/_METADATA", "checkpoints/6/state/manifest.ocdbt")
COMMANDS = {
    "sample": ("--n=2",),
    "evaluate": ("--examples=5", "--measures=log_prob"),
    "explore": ("--what=neighbours",),
    "train": (),
}
VALUES = (None, True, -1, 2**70, 1.5, "", "x", [], {}, [[]], [{}], {"x": None})


def of_bytes(content, chance):
    """Cut, emptied, with a bit flipped, with a part twice, of zeros."""
    middle = chance.randrange(max(len(content), 1))
    flipped = bytearray(content)
    if flipped:
        flipped[middle] ^= 1 << chance.randrange(8)
    return [b"", content[:middle], bytes(flipped), content + content[middle:], bytes(len(content))]


def of_json(content, chance):
    """With one value, wherever it lies, another one, or gone; none of what is no JSON."""
    try:
        tree = json.loads(content)
    except ValueError:
        return
    places = list(_places(tree))
    for value in VALUES:
        yield json.dumps(value).encode()
        damaged = json.loads(content)
        *inner, last = chance.choice(places) if places else ((),)
        if last != ():
            node = damaged
            for name in inner:
                node = node[name]
            if value is None and isinstance(node, dict):
                del node[last]
            else:
                node[last] = value
            yield json.dumps(damaged).encode()


def _places(tree, before=()):
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for name, value in pairs if isinstance(tree, dict | list) else ():
        yield (*before, name)
        if isinstance(value, dict | list):
            yield from _places(value, (*before, name))


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_a_sentence_and_no_fault_of_ours(
    name, trained_folder, toy, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    chance = random.Random(name)
    content = (trained_folder / name).read_bytes()
    cases = [*of_bytes(content, chance), *of_json(content, chance)]
    faults = []
    for damaged, command in itertools.product(cases, COMMANDS):
        shutil.rmtree("run", ignore_errors=True)
        shutil.copytree(trained_folder, "run")
        (tmp_path / "run" / name).write_bytes(damaged)
        status = main(["genjax-zoo", command, "--workdir=run", *COMMANDS[command]])
        err = capsys.readouterr().err
        told = [line for line in err.splitlines() if line.startswith("genjax-zoo: ")]
        well = status in (0, 2) and len(told) == (status == 2) and "Traceback" not in err
        faults += [] if well else [(command, damaged, err)]
    assert not faults, "\n".join(
        f"{command}: {damaged!r}\n{err}" for command, damaged, err in faults
    )
