"""The command line: genjax-zoo train | sample | evaluate | explore | list.

Flags are read here and nowhere else. Floor 8.
"""

from __future__ import annotations

import ast
import errno
import functools
import importlib.metadata
import inspect
import io
import logging as stdlib_logging
import os
import pathlib
import re
import signal
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from genjax_zoo.contract import ConfigError, Exactness, ZooError
from genjax_zoo.run.devices import startup
from genjax_zoo.typed import nearest

COMMANDS = {
    "train": "train a model, or go on training it, in --workdir",
    "sample": "draw samples from the model in --workdir: a picture and an array",
    "evaluate": "measure the model in --workdir on held-out data, and its samples",
    "explore": "pictures of the latents of the model in --workdir and its samples",
    "list": "the roster: every family, how it learns, what it can do, its configs",
}
QUICKSTART = "configs/vae.py:digits"


def _configs() -> pathlib.Path:
    """The folder of config files: the checkout's, or where setup.cfg has installed them."""
    checkout = pathlib.Path(__file__).resolve().parents[1] / "configs"
    if checkout.is_dir():
        return checkout
    shared = "share/genjax_zoo/configs/vae.py"
    files = importlib.metadata.files("genjax-zoo") or []
    return next(pathlib.Path(str(f.locate())) for f in files if str(f).endswith(shared)).parent


CONFIGS = _configs()


DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


class Call(NamedTuple):
    """A command line, taken apart.

    Attributes:
      command: one of COMMANDS.
      flags: all flags but the overrides.
      overrides: `--config.FIELD=VALUE`, as they came.
    """

    command: str
    flags: flags.FlagValues
    overrides: list[str]


def main(argv: Sequence[str]) -> int:
    """Runs the command that the command line names; returns the exit status.

    An error that the user can mend is one message and status 2, not a traceback.
    """
    several = any(arg.lstrip("-").startswith("coordinator") for arg in argv)
    try:
        call = parse(argv)
        if call.flags.help:
            print(usage())
        else:
            _start_jax(call.flags)
            {
                "train": _train,
                "sample": _sample,
                "evaluate": _evaluate,
                "explore": _explore,
                "list": _list,
            }[call.command](call)
        return 0
    except ZooError as error:
        message = str(error)
    except OSError as error:
        if error.errno not in DISK:
            raise
        message = _unwritten(error)
    except KeyboardInterrupt:
        if not _failed_threads:
            print("\ngenjax-zoo: interrupted; the same command goes on", file=sys.stderr)
            return 130
        message = _unwritten(_failed_threads[0])
    print(f"genjax-zoo: {message}", file=sys.stderr, flush=True)
    if several:
        # The other processes would wait for this one at exit; what it knows is on the disk.
        os._exit(2)
    return 2


def _unwritten(error: OSError) -> str:
    return (
        f"{error.filename or 'a file'} cannot be written: {error.strerror}. Free some room, or "
        "choose another --workdir; then the same command goes on from the last checkpoint."
    )


_failed_threads: list[OSError] = []


def _watch_threads() -> None:
    """A full disk also fails the threads of libraries: the run stops for it, with one message.

    tensorboardX would print a traceback and then wait for ever for its dead thread.
    """

    def failed(args: threading.ExceptHookArgs) -> None:
        if not isinstance(args.exc_value, OSError) or args.exc_value.errno not in DISK:
            threading.__excepthook__(args)
        else:
            _failed_threads.append(args.exc_value)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def told(kind: Any, error: BaseException, trace: Any) -> None:
        # tensorstore prints this for each array of a save that failed; the failure is raised too.
        if str(error) != "Event loop is closed":
            sys.__excepthook__(kind, error, trace)

    threading.excepthook, sys.excepthook = failed, told


# ------------------------------------------------------------------------------ the command line


def _flags() -> flags.FlagValues:
    known = flags.FlagValues()
    string = functools.partial(flags.DEFINE_string, flag_values=known)
    integer = functools.partial(flags.DEFINE_integer, flag_values=known)
    switch = functools.partial(flags.DEFINE_boolean, flag_values=known)
    string("config", None, f"train: configs/FAMILY.py:VARIANT; {QUICKSTART} if not given.")
    string("workdir", None, "Folder of the run: config, checkpoints, metrics, report.")
    string("data_dir", None, "Folder of prepared TFDS data sets, for tfds:NAME.")
    switch("allow_config_change", False, "train: go on in a workdir with another config.")
    string("checkpoint", "last", "sample, evaluate, explore: last, best or a number of steps.")
    integer("n", 64, "sample: how many samples.", lower_bound=1)
    flags.DEFINE_multi_string(
        "condition",
        [],
        "sample: NAME=VALUE that the model's sample takes, such as label=3; a VALUE that ends in "
        ".npy is a file of an array. May be given several times.",
        flag_values=known,
    )
    string(
        "text",
        None,
        "sample: a caption, such as 'a red seven above a blue two', for a model that reads them.",
    )
    integer("sample_seed", 0, "sample: the seed of the draw.", lower_bound=0)
    integer("examples", None, "evaluate: held-out examples; all if not given.", lower_bound=1)
    flags.DEFINE_list(
        "measures",
        None,
        "evaluate: names, with commas; all that apply if not given.",
        flag_values=known,
    )
    integer("fake", None, "evaluate: samples; 2500 for modes, 2000 else.", lower_bound=1)
    string(
        "extractor",
        None,
        "evaluate: what samples are seen through, a file of experiments/extractors.py; for the "
        "digits and MNIST the zoo has one.",
    )
    flags.DEFINE_list(
        "what",
        ["all"],
        "explore: reconstructions, interpolation, walk, sweep, traversal, algebra, neighbours, "
        "with commas; or all.",
        flag_values=known,
    )
    string("out", None, "explore: folder of the pictures; WORKDIR/explore if not given.")
    string(
        "codes", None, "explore: the latents that a sweep moves, as 0,1; the most telling if none."
    )
    integer("seed", 0, "explore: the seed of examples, inversions and samples.", lower_bound=0)
    string("coordinator", None, "Address of process 0, host:port, for several processes.")
    integer("processes", None, "How many processes train together.", lower_bound=1)
    integer("process", None, "The number of this process, from 0.", lower_bound=0)
    switch("help", False, "This page.", short_name="h")
    return known


def usage() -> str:
    """The page that --help prints."""
    known = _flags()
    rows = [f"  {name:9} {what}" for name, what in COMMANDS.items()]
    rows += ["", "  --config.FIELD=VALUE   any field of the config: --config.steps=500,"]
    rows += [" " * 25 + "--config.model.widths='(64,)'"]
    for name in known.get_flags_for_module(known.find_module_defining_flag("workdir")):
        rows += textwrap.wrap(
            name.help, 79, initial_indent=f"  {'--' + name.name:22} ", subsequent_indent=" " * 25
        )
    return "genjax-zoo COMMAND [--FLAG=VALUE ...]\n\n" + "\n".join(rows)


def parse(argv: Sequence[str]) -> Call:
    """Takes a command line apart; raises ConfigError for what is not known."""
    known, overrides, others = _flags(), [], [argv[0]]
    rest = list(argv[1:])
    while rest:
        arg = rest.pop(0)
        if not re.match(r"--?(no)?config\.", arg):
            others.append(arg)
        elif "=" in arg or not rest or re.match(r"--?[a-z]", rest[0]):
            overrides.append(arg)
        else:
            overrides.append(f"{arg}={rest.pop(0)}")
    try:
        words = known(others)[1:]
    except flags.UnrecognizedFlagError as error:
        raise ConfigError(nearest(error.flagname, known, "flag")) from error
    except flags.Error as error:
        raise ConfigError(f"{error}.") from error
    if not known.help and (len(words) != 1 or words[0] not in COMMANDS):
        rows = "".join(f"\n  {name:9} {what}" for name, what in COMMANDS.items())
        came = repr(" ".join(words)) if words else "none"
        raise ConfigError(f"expected one command, got {came}:{rows}\n  --help    all flags")
    return Call(" ".join(words), known, overrides)


def load(name: str) -> ConfigDict:
    """The config that `PATH:VARIANT` names; configs/ is found from any folder."""
    name, _, variant = name.partition(":")
    path = pathlib.Path(name)
    if not path.exists() and path.parent.name == "configs":
        path = CONFIGS / path.name
    if not path.is_file():
        known = [f"configs/{p.name}" for p in CONFIGS.glob("[!_]*.py")]
        raise ConfigError(nearest(name, known, "config file"))
    get_config = _module(path).get("get_config")
    if get_config is None:
        raise ConfigError(f"{path} has no get_config(variant); see configs/ for examples.")
    return ConfigDict(get_config(variant) if variant else get_config()).lock()


def _module(path: pathlib.Path) -> dict[str, Any]:
    """The names that a config file defines."""
    names: dict[str, Any] = {"__name__": f"genjax_zoo.configs.{path.stem}", "__file__": str(path)}
    try:
        exec(compile(path.read_text(), str(path), "exec"), names)
    except ZooError:
        raise
    except Exception as error:
        line = (
            getattr(error, "lineno", None) or traceback.extract_tb(error.__traceback__)[-1].lineno
        )
        raise ConfigError(
            f"{path}, line {line}, cannot be run: {type(error).__name__}: {error}."
        ) from error
    return names


def override(config: ConfigDict, overrides: Sequence[str]) -> ConfigDict:
    """The config with the fields that `--config.FIELD=VALUE` name set; each must be there."""
    for flag in overrides:
        field = re.sub(r"^--?(no)?config\.|=.*$", "", flag, flags=re.DOTALL)
        *inner, last = field.split(".")
        where, node = "config", config
        for name in (*inner, last):
            if not isinstance(node, ConfigDict) or name not in node:
                known = node.keys() if isinstance(node, ConfigDict) else ()
                raise ConfigError(nearest(name, known, f"field of {where}:"))
            where, node = f"{where}.{name}", node[name]
        values, argv = flags.FlagValues(), ["genjax-zoo", flag]
        try:
            config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
            values(argv)
        except (flags.Error, ValueError, TypeError) as error:
            kind = type(node).__name__
            raise ConfigError(f"{flag}: expected {kind}, such as {node!r}.") from error
        config = values.config
    return config


def _workdir(call: Call) -> Any:
    from genjax_zoo.run.record.workdir import Workdir

    if not call.flags.workdir:
        raise ZooError("--workdir is missing: the folder of the run, such as runs/quickstart.")
    return Workdir(call.flags.workdir)


def _data_dir(workdir: Any, call: Call) -> str | None:
    """Where the data are: as told, or where they were when this workdir was trained."""
    starts = workdir.read_runs()
    return call.flags.data_dir or (starts[-1].get("data_dir") if starts else None)


def _config_of(workdir: Any, call: Call) -> Any:
    """The config of a workdir that was trained, with the overrides of the command line."""
    from genjax_zoo.run import config

    if call.flags.config:
        raise ConfigError(
            f"{call.command} takes the config from --workdir; leave --config out, or override "
            "single fields by --config.FIELD=VALUE."
        )
    return config.read(override(_unjson(workdir.read_config()), call.overrides))


def _unjson(tree: Any) -> Any:
    """JSON knows no tuples; configs know no lists."""
    if isinstance(tree, Mapping):
        return ConfigDict({name: _unjson(value) for name, value in tree.items()}).lock()
    return tuple(_unjson(value) for value in tree) if isinstance(tree, list) else tree


def _start_jax(known: flags.FlagValues) -> None:
    told = [known.coordinator, known.processes, known.process]
    if all(flag is None for flag in told):
        return
    if any(flag is None for flag in told) or known.process >= known.processes:
        raise ConfigError(
            "several processes need all of --coordinator=HOST:PORT, --processes=N and "
            f"--process=0 .. N-1, got {told[0]}, {told[1]} and {told[2]}."
        )
    import jax

    jax.distributed.initialize(*told)


# ------------------------------------------------------------------------------------ the commands


def _train(call: Call) -> None:
    workdir = _workdir(call)
    import jax

    from genjax_zoo.measure.results import describe
    from genjax_zoo.run import config, loop

    if call.flags.config or not workdir.config.exists():
        untyped = load(call.flags.config or QUICKSTART)
    else:
        untyped = _unjson(workdir.read_config())
    untyped = override(untyped, call.overrides)
    # The workdir is touched last: a config or data that do not fit leave nothing behind.
    data_dir = _data_dir(workdir, call)
    setup = loop.set_up(config.read(untyped), data_dir)
    workdir.create()
    workdir.claim(untyped.to_dict(), call.flags.allow_config_change)
    results = loop.train(setup, workdir, untyped.to_dict(), data_dir)
    if jax.process_index() == 0:
        for result in results:
            print(describe(result))
        print(f"report: {workdir.root / 'report.html'}")


def _sample(call: Call) -> None:
    run, workdir = _config_of(_workdir(call), call), _workdir(call)
    import jax
    import numpy as np

    from genjax_zoo.data import sources
    from genjax_zoo.run import loop
    from genjax_zoo.run.config import make_model
    from genjax_zoo.run.devices import sharding
    from genjax_zoo.run.record import files, pictures

    # From the workdir alone: neither the data nor the devices of the training are needed.
    known, model = call.flags, make_model(run)
    asked_for = [*known.condition, *([f"text={known.text}"] if known.text is not None else [])]
    condition = _conditions(model.sample, asked_for, sources.tokeniser(run.data))
    example, interval = loop.read_example(workdir)
    like = loop.state_like(run, model, sharding.make_mesh(sharding.Devices()), example)
    step, state = loop.restore(run, model, like, workdir, known.checkpoint)
    # A stream of its own, apart from the keys of the run's steps.
    key = jax.random.fold_in(jax.random.key(run.seed), loop.SAMPLE)
    key = jax.random.fold_in(key, known.sample_seed)
    drawn = jax.jit(lambda k, s: model.sample(k, s, known.n, **condition))(key, state)
    arrays: dict[str, Any] = {name: np.asarray(value) for name, value in drawn.items()}
    asked = "".join(f"_{re.sub('[^A-Za-z0-9-]+', '_', word)}" for word in asked_for)
    name = f"sample_step_{step:08d}_seed_{known.sample_seed}_n_{known.n}{asked}"
    stem = workdir.samples / name[:200]
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    files.write(stem.with_suffix(".npz"), packed.getvalue())
    _, written = pictures.write(stem.with_suffix(".png"), arrays["x"], None, *interval)
    for path in written:
        print(path)
    print(f"{stem}.npz: " + ", ".join(f"{k} {v.shape}" for k, v in arrays.items()))


def _conditions(
    sample: Callable[..., Any],
    words: Sequence[str],
    tokeniser: Callable[[str], Any] | None = None,
) -> dict[str, Any]:
    """What `--condition` asks of a model's `sample`; raises ConfigError for what it does not take.

    Args:
      sample: (key, state, n, ...) -> batch; what it takes besides can be asked for.
      words: each NAME=VALUE.
      tokeniser: makes tokens of the words of a text, where the data have captions; raises DataError
        for a word that is not known.
    """
    import numpy as np

    takes = list(inspect.signature(sample).parameters)[3:]
    asked: dict[str, Any] = {}
    for word in words:
        name, _, value = word.partition("=")
        if name not in takes:
            raise ConfigError(nearest(name, takes, "condition of this model:"))
        is_file = value.endswith(".npy")
        if name == "text" and not is_file:
            if tokeniser is None:
                others = ", ".join(t for t in takes if t != name)
                raise ConfigError(
                    "--text expects a model that learnt from captions; the data of this run have "
                    f"none. What can be asked of it: --condition=NAME=VALUE, of {others}."
                )
            asked[name] = tokeniser(value)
            continue
        try:
            asked[name] = np.load(value) if is_file else ast.literal_eval(value)
        except (ValueError, SyntaxError, OSError) as error:
            raise ConfigError(
                f"--condition={word}: expected NAME=VALUE with a number, a list or a .npy file "
                f"for VALUE, got {value!r} ({error})."
            ) from error
    return asked


def _evaluate(call: Call) -> None:
    run, workdir = _config_of(_workdir(call), call), _workdir(call)
    import jax

    from genjax_zoo.measure import examples, samples
    from genjax_zoo.measure.results import describe
    from genjax_zoo.run import loop
    from genjax_zoo.run.config import make_model
    from genjax_zoo.run.record import report
    from genjax_zoo.typed import choose

    own = examples.measures_of(make_model(run))
    asked = tuple(call.flags.measures or ())
    for name in asked:
        choose(name, {**own, **dict.fromkeys(samples.NAMES)}, "measure")
    setup = loop.set_up(run, _data_dir(workdir, call), learning=False)
    extractor = _extractor(call, setup)
    of_samples = samples.applicable(setup.model, setup.source, extractor)
    _check_measures(run, asked, (*own, *of_samples))
    step, state = loop.restore(run, setup.model, setup.like, workdir, call.flags.checkpoint)
    key = jax.random.fold_in(setup.root, loop.EVALUATE)
    told = (setup.model, state, setup.source, key, step)
    only = asked or None
    results = examples.evaluate(*told, call.flags.examples, only, progress=_say)
    results += samples.evaluate(*told, extractor, call.flags.fake, only, progress=_say)
    loop.write_results(workdir, results)
    report.write(workdir.root)
    for result in results:
        print(describe(result))


def _explore(call: Call) -> None:
    run, workdir = _config_of(_workdir(call), call), _workdir(call)
    import jax

    from genjax_zoo.explore.entries import explore
    from genjax_zoo.explore.explorations import EXPLORATIONS
    from genjax_zoo.explore.subject import STREAM, begin
    from genjax_zoo.run import loop
    from genjax_zoo.run.record import report
    from genjax_zoo.typed import choose

    known = call.flags
    for name in known.what:
        choose(name, dict.fromkeys(("all", *EXPLORATIONS)), "exploration")
    pair = None if known.codes is None else _pair(known.codes)
    setup = loop.set_up(run, _data_dir(workdir, call), learning=False)
    step, state = loop.restore(run, setup.model, setup.like, workdir, known.checkpoint)
    key = jax.random.fold_in(jax.random.fold_in(setup.root, STREAM), known.seed)
    folder = pathlib.Path(known.out).expanduser() if known.out else workdir.explore
    subject = begin(setup.model, state, setup.source, key, folder, pair)
    entries, left_out = explore(subject, known.what, step)
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


def _extractor(call: Call, setup: Any) -> Any:
    """What samples are seen through: as told, or the zoo's own for these data, or None."""
    from genjax_zoo.contract import DataError
    from genjax_zoo.measure import extractors

    shape = setup.example["x"].shape[1:]
    if not call.flags.extractor:
        return extractors.for_data(setup.source.name, shape)
    own = extractors.load(call.flags.extractor)
    extractor = extractors.resized(own, shape)
    if extractor is None:
        raise DataError(
            f"--extractor={call.flags.extractor} sees images {list(own.shape)}, and the data are "
            f"{list(shape)}; make one of such images by experiments/extractors.py."
        )
    return extractor


def _check_measures(run: Any, asked: Sequence[str], known: Sequence[str]) -> None:
    """Raises ZooError where nothing, or not what was asked for, can be measured."""
    why = (
        f"a {run.model['name']} on {run.data.source} has: {', '.join(known) or '(none)'}. Measures "
        "of modes need a density made of them; those of features an extractor: --extractor=FILE."
    )
    missing = [name for name in asked if name not in known]
    if missing:
        raise ZooError(f"--measures={','.join(missing)} cannot be told here; {why}")
    if not known:
        raise ZooError(f"nothing can be measured; {why}")


def _say(name: str, done: int, of: int) -> None:
    end = "\n" if done == of else ""
    if sys.stderr.isatty():
        print(f"\r{name}: {done} of {of}", end=end, file=sys.stderr, flush=True)


def _list(call: Call) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from genjax_zoo.models import ZOO
    from genjax_zoo.run import config

    # The last column is the one that can be broken anywhere.
    table = Table(box=box.SIMPLE_HEAD)
    for head in ("family", "verb", "log_prob"):
        table.add_column(head, no_wrap=head != "log_prob")
    # As wide as the longest name of a measure.
    table.add_column("can", min_width=20)
    configs = Table.grid(padding=(0, 2))
    for name, family in sorted(ZOO.items()):
        path = CONFIGS / f"{name}.py"
        variants = list(_module(path)["VARIANTS"]) if path.exists() else []
        models = [config.make_model(config.read(load(f"{path}:{v}"))) for v in variants]
        kinds = dict.fromkeys(
            str(model.log_prob.exactness if model.log_prob else Exactness.NONE) for model in models
        )
        can = dict.fromkeys(ability for model in models for ability in _abilities(model))
        table.add_row(f"[bold]{name}", family.verb, ", ".join(kinds), ", ".join(can))
        configs.add_row(f"  [bold]{name}", f"{family.summary}\n[dim]{', '.join(variants)}")
    console = Console(highlight=False)
    console.print(table, configs)
    console.print("\n  genjax-zoo train --config=configs/FAMILY.py:VARIANT --workdir=runs/NAME")


def _abilities(model: Any) -> list[str]:
    latents = ("encode", "decode") if model.latents else ()
    own = [f for f in latents if getattr(model.latents, f) is not None]
    return ["sample", *(["log_prob"] if model.log_prob else []), *own, *model.measures]


def run() -> None:
    """The entry point."""
    startup.prepare()
    _watch_threads()
    # A save that fails is logged with a dozen tracebacks, and raised; once is enough.
    logging.set_verbosity(logging.FATAL)
    stdlib_logging.getLogger("asyncio").setLevel(stdlib_logging.CRITICAL)
    sys.exit(main(sys.argv))


if __name__ == "__main__":
    run()
