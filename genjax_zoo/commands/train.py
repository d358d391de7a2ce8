"""genjax-zoo train: trains a model, or goes on training it, in --workdir.

Floor 8.
"""

from __future__ import annotations

import jax

from genjax_zoo.commands import configs
from genjax_zoo.commands.flags import QUICKSTART, Call
from genjax_zoo.contract import ConfigError
from genjax_zoo.data import summary
from genjax_zoo.data.config import is_read
from genjax_zoo.measure.results import describe
from genjax_zoo.run import begin, config, train
from genjax_zoo.run.devices import cluster
from genjax_zoo.run.record import tokenizer
from genjax_zoo.run.record.progress import log
from genjax_zoo.run.setup import set_up


def run(call: Call) -> None:
    """The workdir is touched last: a config or data that do not fit leave nothing behind, but for
    token files, which serve the next run too."""
    _join(call)
    workdir = configs.workdir_of(call)
    if call.flags.config is not None:
        fields = configs.load(call.flags.config)
    elif workdir.config.exists() or workdir.has_begun():
        fields = configs.unjson(workdir.read_config())
    else:
        fields = configs.load(QUICKSTART)
    fields = configs.located(configs.override(fields, call.overrides))
    data_dir = configs.data_dir_of(call, workdir)
    own_run = config.read(fields)
    begun = begin.read(call.flags.begin, own_run, workdir)
    if is_read(own_run.data.source) and jax.process_index() == 0:
        log(f"data: reading {own_run.data.source}")
    setup = set_up(own_run, data_dir, begun=begun, own=tokenizer.own(workdir))
    workdir.create()
    workdir.claim(fields.to_dict(), call.flags.allow_config_change)
    workdir.claim_data(summary.record(setup.source), call.flags.allow_config_change)
    results = train.train(setup, workdir, fields.to_dict(), data_dir)
    if jax.process_index() == 0:
        for result in results:
            print(describe(result))
        print(f"report: {workdir.root / 'report.html'}")


def _join(call: Call) -> None:
    """Makes this process one of several, where the flags say so: before jax finds its devices."""
    known = call.flags
    by_hand = [known.coordinator, known.processes, known.process]
    if known.distributed is None and by_hand == [None] * 3:
        return
    if known.distributed is None:
        place = cluster.told(*by_hand)
    elif by_hand == [None] * 3:
        place = cluster.found(known.distributed, known.distributed_seconds)
    else:
        raise ConfigError(
            f"--distributed={known.distributed} finds out what --coordinator, --processes and "
            "--process tell; leave the one or the others out."
        )
    cluster.join(place, known.distributed_seconds)
    if place.process == 0:
        log(f"{place.processes} processes are here; process 0 is at {place.coordinator}")
