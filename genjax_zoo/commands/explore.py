"""genjax-zoo explore: pictures of the latents of the model in --workdir and of its samples.

Floor 8.
"""

from __future__ import annotations

import re
import textwrap

import jax

from genjax_zoo.commands import configs
from genjax_zoo.commands.flags import Call
from genjax_zoo.contract import ConfigError
from genjax_zoo.explore.entries import explore
from genjax_zoo.explore.explorations import EXPLORATIONS
from genjax_zoo.explore.subject import STREAM, begin
from genjax_zoo.run import trained
from genjax_zoo.run.record import report, tokenizer
from genjax_zoo.run.setup import set_up
from genjax_zoo.typed import choose


def run(call: Call) -> None:
    """Writes explore/, adds it to the report, and prints what each picture is."""
    known, workdir = call.flags, configs.workdir_of(call)
    own_run = configs.of_trained(call, workdir)
    for name in known.what:
        choose(name, dict.fromkeys(("all", *EXPLORATIONS)), "exploration")
    pair = None if known.codes is None else _pair(known.codes)
    data_dir, begun = configs.data_dir_of(call, workdir), trained.begun_of(workdir)
    own = tokenizer.own(workdir)
    setup = set_up(own_run, data_dir, learning=False, begun=begun, own=own)
    folder = configs.out_of(call, workdir.explore)
    step, state = trained.restore(setup, workdir, known.checkpoint)
    key = jax.random.fold_in(jax.random.fold_in(setup.root, STREAM), known.seed)
    subject = begin(setup.model, state, setup.source, key, folder, pair)
    entries, left_out = explore(subject, known.what, step)
    if folder == workdir.explore:
        # The report shows what lies in the workdir, which may be one that is read alone.
        report.write(workdir.root)
    for entry in entries:
        print(*(folder / name for name in entry.files))
        print(textwrap.fill(entry.caption, 99, initial_indent="  ", subsequent_indent="  "))
    for sentence in left_out:
        print(f"left out: {sentence}")


def _pair(word: str) -> tuple[int, int]:
    """The two codes that `--codes=I,J` names."""
    if not re.fullmatch(r"\d+,\d+", word) or len(set(word.split(","))) < 2:
        raise ConfigError(f"--codes={word}: expected two different numbers from 0, such as 0,1.")
    first, second = word.split(",")
    return int(first), int(second)
