"""The command line: genjax-zoo train | sample | evaluate | list.

Flags are read here and nowhere else. Floor 5.
"""

from __future__ import annotations

import pathlib
import sys
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from genjax_zoo import platform
from genjax_zoo.contract import ZooError

COMMANDS = {
    "train": "train a model, or go on training it, in --workdir",
    "sample": "draw samples from the model in --workdir: a picture and an array",
    "evaluate": "measure the model in --workdir on held-out data",
    "list": "the roster: every family, how it learns, what it can do, its configs",
}
QUICKSTART = "configs/vae.py:digits"
ROOT = pathlib.Path(__file__).resolve().parents[1]

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", None, "Folder of the run: config, checkpoints, metrics, report.")
flags.DEFINE_string("data_dir", None, "Folder of prepared TFDS data sets, for tfds:NAME.")
flags.DEFINE_bool("allow_config_change", False, "Continue a workdir with another config.")
flags.DEFINE_string("checkpoint", "last", "sample, evaluate: last, best or a number of steps.")
flags.DEFINE_integer("n", 64, "sample: how many samples.", lower_bound=1)
flags.DEFINE_integer("sample_seed", 0, "sample: the seed of the draw.")
flags.DEFINE_integer("examples", None, "evaluate: held-out examples; all if not given.")
flags.DEFINE_list("measures", None, "evaluate: names of the measures; all if not given.")
flags.DEFINE_string("coordinator", None, "Address of process 0, host:port, for several processes.")
flags.DEFINE_integer("processes", None, "How many processes train together.")
flags.DEFINE_integer("process", None, "The number of this process.")


def main(argv: list[str]) -> None:
    """Runs the command that the command line names."""
    if len(argv) != 2 or argv[1] not in COMMANDS:
        came = " ".join(argv[1:]) or "nothing"
        lines = "".join(f"\n  {name:9} {what}" for name, what in COMMANDS.items())
        raise app.UsageError(f"expected one command, got {came}:{lines}")
    _start_jax()
    {"train": _train, "sample": _sample, "evaluate": _evaluate, "list": _list}[argv[1]]()


def _start_jax() -> None:
    import jax

    told = [FLAGS.coordinator, FLAGS.processes, FLAGS.process]
    if any(flag is not None for flag in told):
        if any(flag is None for flag in told):
            raise ZooError("several processes need all of --coordinator, --processes, --process.")
        jax.distributed.initialize(*told)


def _workdir():
    from genjax_zoo.run.workdir import Workdir

    if FLAGS.workdir is None:
        raise ZooError("--workdir is missing: the folder of the run, such as runs/quickstart.")
    return Workdir(FLAGS.workdir)


def _config_of(workdir):
    """The config of a workdir that was trained, with the overrides of the command line."""
    from genjax_zoo.run import config

    return config.read(workdir.read_config())


def _train() -> None:
    from genjax_zoo.run import config, evaluate, loop

    untyped = FLAGS.config
    run = config.read(untyped)
    workdir = _workdir()
    workdir.create()
    workdir.claim(untyped.to_dict(), FLAGS.allow_config_change)
    for result in loop.train(run, workdir, FLAGS.data_dir):
        print(evaluate.describe(result))
    print(f"report: {workdir.root / 'report.html'}")


def _sample() -> None:
    import jax
    import numpy as np

    from genjax_zoo.run import images, loop

    workdir = _workdir()
    setup = loop.set_up(_config_of(workdir), FLAGS.data_dir)
    step, state = loop.restore(setup, workdir, FLAGS.checkpoint)
    key = jax.random.key(FLAGS.sample_seed)
    drawn = jax.jit(lambda k, s: setup.model.sample(k, s, FLAGS.n))(key, state)
    arrays = {name: np.asarray(value) for name, value in drawn.items()}
    stem = workdir.samples / f"sample_step_{step:08d}_seed_{FLAGS.sample_seed}_n_{FLAGS.n}"
    images.write_png(
        stem.with_suffix(".png"), images.picture(arrays["x"], None, *setup.source.interval)
    )
    np.savez(stem.with_suffix(".npz"), **arrays)
    print(f"{stem}.png\n{stem}.npz: " + ", ".join(f"{k} {v.shape}" for k, v in arrays.items()))


def _evaluate() -> None:
    import jax

    from genjax_zoo.run import evaluate, loop, report
    from genjax_zoo.typed import choose

    workdir = _workdir()
    setup = loop.set_up(_config_of(workdir), FLAGS.data_dir)
    known = evaluate.measures_of(setup.model)
    if not known:
        raise ZooError(f"a {setup.run.model['name']} tells no number per example to evaluate.")
    for name in FLAGS.measures or ():
        choose(name, known, "measure")
    step, state = loop.restore(setup, workdir, FLAGS.checkpoint)
    results = evaluate.evaluate(
        setup.model,
        state,
        setup.source,
        jax.random.fold_in(setup.root, loop.EVALUATE),
        step,
        FLAGS.examples,
        tuple(FLAGS.measures) if FLAGS.measures else None,
        progress=_say,
    )
    loop.write_results(workdir, results)
    report.write(workdir.root)
    for result in results:
        print(evaluate.describe(result))


def _say(name: str, done: int, of: int) -> None:
    end = "\n" if done == of else ""
    if sys.stderr.isatty():
        print(f"\r{name}: {done} of {of}", end=end, file=sys.stderr, flush=True)


def _list() -> None:
    from rich.console import Console
    from rich.table import Table

    from genjax_zoo.models import ZOO
    from genjax_zoo.run import config

    table = Table("family", "verb", "evidence", "can", "configs", title="The roster")
    for name, family in sorted(ZOO.items()):
        variants = _variants(ROOT / "configs" / f"{name}.py")
        models = {v: config.make_model(config.read(c)) for v, c in variants.items()}
        kinds = dict.fromkeys(str(model.evidence) for model in models.values())
        can = dict.fromkeys(c for model in models.values() for c in _abilities(model))
        files = "\n".join(f"configs/{name}.py:{variant}" for variant in variants)
        table.add_row(name, family.verb, ", ".join(kinds), ", ".join(can), files)
    console = Console()
    console.print(table)
    for name, family in sorted(ZOO.items()):
        console.print(f"{name}: {family.summary}", highlight=False)


def _abilities(model) -> list[str]:
    fields = ("log_prob", "encode", "decode")
    return ["sample", *(f for f in fields if getattr(model, f) is not None), *model.measures]


def _variants(path: pathlib.Path) -> dict:
    """The configs of a file by variant; none where there is no such file."""
    import importlib.util

    if not path.exists():
        return {}
    spec = importlib.util.spec_from_file_location(f"genjax_zoo_config_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {variant: module.get_config(variant) for variant in module.VARIANTS}


def _parse(argv: list[str]) -> list[str]:
    """Finds the config, defines --config, and parses all flags."""
    try:
        argv = _with_config(argv)
        config_flags.DEFINE_config_file(
            "config",
            help_string="configs/FAMILY.py:VARIANT; any field: --config.FIELD=VALUE.",
            lock_config=True,
        )
        return app.parse_flags_with_usage(argv)
    except (ZooError, AttributeError, KeyError, ValueError, TypeError) as error:
        return _fail(error)


def _with_config(argv: list[str]) -> list[str]:
    """The command line with one --config=PATH, the quickstart's if `train` is given none.

    A config named relative to the project is found from any folder.
    """
    found = []
    rest = iter(argv)
    for arg in rest:
        flag, equals, value = arg.partition("=")
        if flag in ("--config", "-config"):
            arg = "--config=" + _beside_us(value if equals else next(rest, ""))
        found.append(arg)
    if "train" in argv[1:] and not any(arg.startswith("--config=") for arg in found):
        found.insert(1, "--config=" + _beside_us(QUICKSTART))
    return found


def _beside_us(name: str) -> str:
    path, colon, variant = name.partition(":")
    if not pathlib.Path(path).exists() and (ROOT / path).exists():
        path = str(ROOT / path)
    if not pathlib.Path(path).exists():
        known = sorted(f"configs/{p.name}" for p in (ROOT / "configs").glob("*.py"))
        raise ZooError(f"there is no config file {path}; there are {', '.join(known)}.")
    return path + colon + variant


def _fail(error: BaseException) -> NoReturn:
    message = error.args[0] if isinstance(error, KeyError) and error.args else str(error)
    print(f"genjax-zoo: {message}", file=sys.stderr)
    sys.exit(2)


def run() -> None:
    """The entry point: an error that the user can mend is one message, not a traceback."""
    platform.prepare()
    logging.set_verbosity(logging.ERROR)
    try:
        app.run(_main, flags_parser=_parse)
    except ZooError as error:
        _fail(error)


def _main(argv: list[str]) -> None:
    try:
        main(argv)
    except ZooError as error:
        if FLAGS.coordinator is not None:
            # The other processes would wait for us at exit; what we know is on the disk.
            print(f"genjax-zoo: {error}", file=sys.stderr, flush=True)
            import os

            os._exit(2)
        _fail(error)


if __name__ == "__main__":
    run()
