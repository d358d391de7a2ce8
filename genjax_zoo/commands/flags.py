"""The flags of each command, and how a command line is taken apart.

Floor 8. Flags are read here and nowhere else, before anything that needs jax is imported.
"""

from __future__ import annotations

import keyword
import re
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

from absl import flags

from genjax_zoo.commands import misspelt
from genjax_zoo.commands.kinds import COUNTS, SEEDS, Flag, integer, real
from genjax_zoo.typed import LARGEST, RENAMED, ConfigError

COMMANDS = {
    "train": "train a model, or go on training it, in --workdir",
    "sample": "draw samples from the model in --workdir: a picture and an array",
    "chat": "talk with the model in --workdir, if it has learnt from turns",
    "evaluate": "measure the model in --workdir on held-out data, and its samples",
    "explore": "pictures of the latents of the model in --workdir and its samples",
    "import": "make a run in --workdir of the weights in a folder of Hugging Face",
    "export": "write the model in --workdir into a folder that transformers reads",
    "list": "the roster: every family, how it learns, what it can do, its configs",
}
"""Each is a module of this folder, whose `run` takes a Call."""


def module_of(command: str) -> str:
    """The module of a command: a word of Python's has an underscore behind it (PEP 8)."""
    return f"genjax_zoo.commands.{command}{'_' if keyword.iskeyword(command) else ''}"


QUICKSTART = "configs/vae.py:digits"


class Call(NamedTuple):
    """A command line, taken apart.

    Attributes:
      command: one of COMMANDS; "" where nothing but help is asked for.
      flags: the flags of the command, but the overrides.
      overrides: `--config.FIELD=VALUE`, as they came.
    """

    command: str
    flags: flags.FlagValues
    overrides: list[str]


TRAINED = ("sample", "chat", "evaluate", "explore")
WRITE = ("sample", "chat")
OVERRIDING = ("train", *TRAINED)
"""The commands that take --config.FIELD=VALUE."""
FLAGS = (
    Flag("config", ["train"], f"configs/FAMILY.py:VARIANT; {QUICKSTART} if not given."),
    Flag(
        "workdir",
        [*OVERRIDING, "import", "export"],
        "Folder of the run: config, checkpoints, metrics, report.",
    ),
    Flag(
        "data_dir",
        ["train", "evaluate", "explore"],
        "Folder of prepared TFDS data sets, for tfds:NAME.",
    ),
    Flag(
        "allow_config_change",
        ["train"],
        "Go on in a workdir with another config.",
        flags.DEFINE_boolean,
        False,
    ),
    Flag(
        "begin",
        ["train"],
        "NAME=WORKDIR, or NAME=WORKDIR@STEP with STEP one of last, best or a number: begin from "
        "what another run has learnt, under a NAME that the model's init declares, such as params; "
        "or NAME=hf:DIR, a folder of Hugging Face. May be given several times.",
        flags.DEFINE_multi_string,
        [],
    ),
    Flag("coordinator", ["train"], "Address of process 0, host:port, for several processes."),
    Flag(
        "processes",
        ["train"],
        "How many processes train together.",
        integer,
        how=COUNTS,
    ),
    Flag(
        "process",
        ["train"],
        "The number of this process, from 0.",
        integer,
        how={"lower_bound": 0, "upper_bound": LARGEST},
    ),
    Flag(
        "distributed",
        ["train"],
        "auto: jax finds out what --coordinator, --processes and --process tell, in a TPU pod, "
        "under SLURM, Open MPI or Kubernetes. Or one of its ways alone, such as slurm or ompi.",
    ),
    Flag(
        "distributed_seconds",
        ["train"],
        "How long the processes wait for each other at the start.",
        integer,
        300,
        COUNTS,
    ),
    Flag(
        "from",
        ["import"],
        "A folder of Hugging Face: config.json, and model.safetensors or its index.",
    ),
    Flag("to", ["export"], "The folder to write, which is not there yet."),
    Flag(
        "dtype",
        ["export"],
        "What the weights are written in: float32, bfloat16 or float16.",
        default="float32",
    ),
    Flag("checkpoint", [*TRAINED, "export"], "last, best or a number of steps.", default="last"),
    Flag(
        "n",
        ["sample"],
        "How many samples, 64 if not given; how many texts after each --prompt, 1.",
        integer,
        how=COUNTS,
    ),
    Flag(
        "given",
        ["sample"],
        "NAME=VALUE that the samples shall honour, such as label=3: a number, a list, a file of an "
        "array (.npy), or what a label is called. May be given several times.",
        flags.DEFINE_multi_string,
        [],
    ),
    Flag(
        "text",
        ["sample"],
        "A caption, such as 'a red seven above a blue two', for a model that reads them: "
        "--given=text=CAPTION.",
    ),
    Flag(
        "prompt",
        ["sample"],
        "How a text begins, for a model of texts, which is written on; '' is nothing. May be given "
        "several times.",
        flags.DEFINE_multi_string,
        [],
    ),
    Flag("system", ["chat"], "What the model is told before the first turn."),
    Flag(
        "max_new",
        WRITE,
        "How many symbols are written at most; 256 if not given, or what the context has room for.",
        integer,
        how=COUNTS,
    ),
    Flag(
        "temperature",
        WRITE,
        "By what logits are divided, 1 if not given; 0 writes the likeliest symbol.",
        real,
    ),
    Flag(
        "top_k",
        WRITE,
        "How many of the likeliest symbols stay; all if not given.",
        integer,
        how={"lower_bound": 0, "upper_bound": LARGEST},
    ),
    Flag(
        "top_p",
        WRITE,
        "The likeliest symbols stay until they have this probability, in (0, 1].",
        real,
    ),
    Flag(
        "min_p",
        WRITE,
        "Symbols stay that have this part of the likeliest one's probability.",
        real,
    ),
    Flag(
        "repetition_penalty",
        WRITE,
        "Divides the logits of symbols that were read or written; 1 changes nothing.",
        real,
    ),
    Flag(
        "stop",
        WRITE,
        "A word at which a text ends, and which is no part of it. May be given several times.",
        flags.DEFINE_multi_string,
        [],
    ),
    Flag(
        "beams",
        ["sample"],
        "Searches the likeliest text with a beam of so many, and draws none.",
        integer,
        how=COUNTS,
    ),
    Flag(
        "draft",
        WRITE,
        "The workdir of a smaller model of the same tokenizer, which writes ahead: faster, and "
        "drawn of this model still.",
    ),
    Flag("drafts", WRITE, "How many symbols it writes ahead, 4 if not given.", integer, how=COUNTS),
    Flag("stream", ["sample"], "Show the text as it comes.", flags.DEFINE_boolean, False),
    Flag("sample_seed", WRITE, "The seed of the draw.", integer, 0, SEEDS),
    Flag(
        "examples",
        ["evaluate"],
        "Held-out examples; all if not given.",
        integer,
        how=COUNTS,
    ),
    Flag(
        "importance_samples",
        ["evaluate"],
        "Up to how many draws an example takes of an estimate by importance weights, such as iwae, "
        "while those say that it cannot be trusted; the config's if not given.",
        integer,
        how=COUNTS,
    ),
    Flag(
        "measures",
        ["evaluate"],
        "Names, with commas; all that apply if not given.",
        flags.DEFINE_list,
    ),
    Flag(
        "context",
        ["evaluate"],
        "Of a text: how many symbols are read before one, at most; 0 for all, where a model has no "
        "end. As in training if not given.",
        integer,
        how={"lower_bound": 0, "upper_bound": LARGEST},
    ),
    Flag(
        "stride",
        ["evaluate"],
        "Of a text: how far the windows of a context are apart; a short one tells each symbol from "
        "more of what came before, and takes longer. The context if not given.",
        integer,
        how=COUNTS,
    ),
    Flag(
        "documents",
        ["evaluate"],
        "Of a text: read each document by itself (--nodocuments: all as one). As in training if "
        "not given.",
        flags.DEFINE_boolean,
    ),
    Flag(
        "first_symbol",
        ["evaluate"],
        "Of a text: count the first symbol too, before which nothing was read.",
        flags.DEFINE_boolean,
        True,
    ),
    Flag(
        "num_samples",
        ["evaluate"],
        "Samples; 2500 for modes, 2000 else.",
        integer,
        how=COUNTS,
    ),
    Flag(
        "extractor",
        ["evaluate"],
        "What samples are seen through, a file of experiments/extractors.py; for the digits and "
        "MNIST the zoo has one.",
    ),
    Flag(
        "what",
        ["explore"],
        "Reconstructions, interpolation, walk, sweep, traversal, algebra, completions, "
        "neighbours, with commas; or all.",
        flags.DEFINE_list,
        ["all"],
    ),
    Flag(
        "out",
        ["sample", "explore"],
        "Folder of what is written; WORKDIR/samples or WORKDIR/explore if not given.",
    ),
    Flag("codes", ["explore"], "The latents that a sweep moves, as 0,1; the most telling if none."),
    Flag(
        "seed",
        ["explore"],
        "The seed of examples, inversions and samples.",
        integer,
        0,
        SEEDS,
    ),
    Flag(
        "debug",
        list(COMMANDS),
        "Raise an error as it is, with its traceback, and not as one sentence.",
        flags.DEFINE_boolean,
        False,
    ),
    Flag(
        "help",
        list(COMMANDS),
        "This page; with a command, the command's.",
        flags.DEFINE_boolean,
        False,
        {"short_name": "h"},
    ),
)


def of_command(command: str) -> list[Flag]:
    """The flags that a command knows; without one, all of them."""
    return [flag for flag in FLAGS if command in flag.of or not command]


def usage(command: str = "") -> str:
    """The page that --help prints: of one command, or of all."""
    own = of_command(command)
    rows = [f"  {COMMANDS[command]}"] if command else _rows()
    rows = [f"genjax-zoo {command or 'COMMAND'} [--FLAG=VALUE ...]", "", *rows, ""]
    if not command or command in OVERRIDING:
        rows += [
            "  --config.FIELD=VALUE   any field of the config: --config.steps=500,",
            f"{'':25}--config.model.widths='(64,)'",
        ]
        if command != "train":
            rows += [f"{'':25}after training: of config.model and config.data"]
    for flag in own:
        # Where all commands are told of, those that know a flag are named before it.
        whose = "" if command or len(flag.of) >= len(COMMANDS) - 1 else f"{', '.join(flag.of)}: "
        first, *more = textwrap.wrap(whose + flag.help, 54)
        rows += [f"  {'--' + flag.name:22} {first}", *(" " * 25 + line for line in more)]
    return "\n".join(rows)


def _rows() -> list[str]:
    return [f"  {name:9} {what}" for name, what in COMMANDS.items()]


def parse(argv: Sequence[str]) -> Call:
    """Takes a command line apart; raises ConfigError for what the command does not know."""
    command = next((word for word in argv[1:] if word in COMMANDS), "")
    known, overrides, others = flags.FlagValues(), [], [argv[0]]
    for flag in of_command(command):
        flag.kind(flag.name, flag.default, flag.help, flag_values=known, **flag.how)
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
        words = known(others, known_only=True)[1:]
    except flags.Error as error:
        raise ConfigError(f"{error}.") from error
    if known.help and (not words or words == [command]):
        return Call(command, known, overrides)
    unknown = [word for word in words if re.match(r"--?[^-\d]", word)]
    if command and unknown:
        raise ConfigError(_unknown(command, unknown[0], known))
    if words != [command]:
        came = repr(" ".join(words)) if words else "none"
        rows = "\n".join(_rows())
        raise ConfigError(f"expected one command, got {came}:\n{rows}\n  --help    all flags")
    for flag in of_command(command):
        if problem := _no_value(flag, known[flag.name].value, f"--{flag.name}" in others):
            raise ConfigError(problem)
    if overrides and command not in OVERRIDING:
        raise ConfigError(f"{command} reads configs as they are; leave {overrides[0]} out.")
    return Call(command, known, overrides)


def value_of(call: Call, flag: str, what: str) -> str:
    """What a flag says that a command cannot do without; raises ConfigError where it is missing."""
    value = call.flags[flag].value
    if not value:
        raise ConfigError(f"--{flag} is missing: {what}.")
    return value


def _no_value(flag: Flag, value: Any, bare: bool) -> str | None:
    """What is said of a flag whose value is missing, as that of an unset variable of a shell.

    Args:
      flag: which.
      value: of it.
      bare: whether it stood without a `=`.
    """
    if not isinstance(value, str | list) or value == flag.default:
        return None
    words = [value] if isinstance(value, str) else value
    each = words if flag.kind is flags.DEFINE_multi_string else ["".join(words)]
    says = bool if flag.name == "stop" else str.strip
    # absl takes the next word for the value of a flag that stands without one.
    taken = [word for word in words if bare and re.match(r"--[a-z]", word)]
    if taken:
        came = f"--{flag.name} has no value, for {taken[0]} follows"
    # A caption, and the beginning of a text, may be of no words; its end may be a line's.
    elif flag.name not in ("text", "prompt") and not all(map(says, each)):
        came = f"--{flag.name}= is empty"
    else:
        return None
    return f"{came}; give it a value, or leave it out. It is: {flag.help}"


# ---------------------------------------------------------------- what a command does not know


def _unknown(command: str, word: str, known: flags.FlagValues) -> str:
    """The sentence that an unknown flag deserves: the nearest one, and all there are."""
    name, equals, value = re.sub(r"^--?", "", word).partition("=")
    own = [flag.name for flag in of_command(command)]
    others = [flag.of for flag in FLAGS if flag.name == name]
    if RENAMED.get(name) in own:
        hint = f" Since version 0.2.0 it is called {RENAMED[name]!r}."
    elif near := misspelt.nearest(name, own, bool(others), _fields(command, known)):
        hint = f" Did you mean '--{near}{equals}{value}'?"
    else:
        hint = f" It is a flag of {', '.join(others[0])}." if others else ""
    every = [f"--{flag}" for flag in sorted(own)]
    every += ["--config.FIELD=VALUE"] if command in OVERRIDING else []
    return f"unknown flag of {command}: '--{name}'.{hint} Known: {', '.join(every)}."


def _fields(command: str, known: flags.FlagValues) -> list[str]:
    """The fields of the config that a command takes as flags."""
    if command not in OVERRIDING:
        return []
    own = known.config if "config" in known else None
    return misspelt.fields(own, known.workdir, QUICKSTART, command != "train")
