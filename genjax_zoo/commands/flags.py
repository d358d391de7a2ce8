"""The flags of all commands, and how a command line is taken apart.

Floor 8. Flags are read here and nowhere else.
"""

from __future__ import annotations

import functools
import re
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from absl import flags

from genjax_zoo.contract import ConfigError
from genjax_zoo.typed import nearest

COMMANDS = {
    "train": "train a model, or go on training it, in --workdir",
    "sample": "draw samples from the model in --workdir: a picture and an array",
    "evaluate": "measure the model in --workdir on held-out data, and its samples",
    "explore": "pictures of the latents of the model in --workdir and its samples",
    "list": "the roster: every family, how it learns, what it can do, its configs",
}
"""Each is a module of this folder, whose `run` takes a Call."""
QUICKSTART = "configs/vae.py:digits"


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


def define() -> flags.FlagValues:
    """All flags but the overrides, not yet read."""
    known = flags.FlagValues()
    string = functools.partial(flags.DEFINE_string, flag_values=known)
    strings = functools.partial(flags.DEFINE_multi_string, flag_values=known)
    names = functools.partial(flags.DEFINE_list, flag_values=known)
    integer = functools.partial(flags.DEFINE_integer, flag_values=known)
    switch = functools.partial(flags.DEFINE_boolean, flag_values=known)
    string("config", None, f"train: configs/FAMILY.py:VARIANT; {QUICKSTART} if not given.")
    string("workdir", None, "Folder of the run: config, checkpoints, metrics, report.")
    string("data_dir", None, "Folder of prepared TFDS data sets, for tfds:NAME.")
    switch("allow_config_change", False, "train: go on in a workdir with another config.")
    strings(
        "begin",
        [],
        "train: NAME=WORKDIR, or NAME=WORKDIR@STEP with STEP one of last, best or a number: begin "
        "from what another run has learnt, under a NAME that the model's init declares, such as "
        "params. May be given several times.",
    )
    string("checkpoint", "last", "sample, evaluate, explore: last, best or a number of steps.")
    integer("n", 64, "sample: how many samples.", lower_bound=1)
    strings(
        "given",
        [],
        "sample: NAME=VALUE that the samples shall honour, such as label=3: a number, a list, a "
        "file of an array (.npy), or what a label is called. May be given several times.",
    )
    string(
        "text",
        None,
        "sample: a caption, such as 'a red seven above a blue two', for a model that reads them: "
        "--given=text=CAPTION.",
    )
    integer("sample_seed", 0, "sample: the seed of the draw.", lower_bound=0)
    integer("examples", None, "evaluate: held-out examples; all if not given.", lower_bound=1)
    integer(
        "importance_samples",
        None,
        "evaluate: up to how many draws an example takes of an estimate by importance weights, "
        "such as iwae, while those say that it cannot be trusted; the config's if not given.",
        lower_bound=1,
    )
    names("measures", None, "evaluate: names, with commas; all that apply if not given.")
    integer("num_samples", None, "evaluate: samples; 2500 for modes, 2000 else.", lower_bound=1)
    string(
        "extractor",
        None,
        "evaluate: what samples are seen through, a file of experiments/extractors.py; for the "
        "digits and MNIST the zoo has one.",
    )
    names(
        "what",
        ["all"],
        "explore: reconstructions, interpolation, walk, sweep, traversal, algebra, neighbours, "
        "with commas; or all.",
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
    known = define()
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
    known, overrides, others = define(), [], [argv[0]]
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
