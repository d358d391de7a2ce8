"""Where a command's config comes from: a file, a workdir, and the overrides of the command line.

Floor 8.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import pathlib
import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from genjax_zoo.commands.flags import Call
from genjax_zoo.contract import ConfigError, ZooError
from genjax_zoo.data.config import located as absolute
from genjax_zoo.data.text import tokenizers
from genjax_zoo.run import config
from genjax_zoo.run.record import files, schema
from genjax_zoo.run.record.workdir import Workdir
from genjax_zoo.typed import nearest


def _folder() -> pathlib.Path:
    """The folder of config files: the checkout's, or where setup.cfg has installed them."""
    checkout = pathlib.Path(__file__).resolve().parents[2] / "configs"
    if checkout.is_dir():
        return checkout
    shared = "share/genjax_zoo/configs/vae.py"
    files = importlib.metadata.files("genjax-zoo") or []
    return next(pathlib.Path(str(f.locate())) for f in files if str(f).endswith(shared)).parent


CONFIGS = _folder()


def load(name: str) -> ConfigDict:
    """The config that `PATH:VARIANT` names, or the config.json of a run, as it was run.

    configs/ is found from any folder.
    """
    if not name.strip():
        raise ConfigError(
            "--config= names no file; expected configs/FAMILY.py:VARIANT, or the config.json of a "
            "run."
        )
    whole, (name, _, variant) = files.place(name, "--config"), name.partition(":")
    if whole.suffix == ".json":
        return unjson(read_run(whole)).lock()
    path = files.place(name, "--config")
    if not path.exists() and path.parent.name == "configs":
        path = CONFIGS / path.name
    if not path.is_file():
        known = {p.stem: f"configs/{p.name}" for p in CONFIGS.glob("[!_]*.py")}
        if own := known.get(pathlib.Path(name).stem):
            asked = f"{own}:{variant}" if variant else own
            raise ConfigError(f"{name!r} is no config file. Did you mean --config={asked}?")
        raise ConfigError(nearest(name, known.values(), "config file"))
    get_config = names_of(path).get("get_config")
    if get_config is None:
        raise ConfigError(f"{path} has no get_config(variant); see configs/ for examples.")
    with _told_by_line(path):
        fields = get_config(variant) if variant else get_config()
    if not isinstance(fields, ConfigDict | Mapping):
        raise ConfigError(
            f"get_config of {path} should return a ConfigDict, got {type(fields).__name__}."
        )
    return ConfigDict(fields).lock()


def read_run(path: pathlib.Path) -> dict[str, Any]:
    """The fields of a config.json; raises ConfigError where that is none."""
    try:
        fields = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"--config={path} cannot be read: {why}.") from error
    wrong = schema.problem(fields, schema.FILES["config.json"].shape)
    if wrong:
        raise ConfigError(f"--config={path} is no config of a run: {wrong}.")
    return fields


def names_of(path: pathlib.Path) -> dict[str, Any]:
    """The names that a config file defines; raises ConfigError where it cannot be run."""
    names: dict[str, Any] = {"__name__": f"genjax_zoo.configs.{path.stem}", "__file__": str(path)}
    with _told_by_line(path):
        exec(compile(path.read_text(), str(path), "exec"), names)
    return names


@contextlib.contextmanager
def _told_by_line(path: pathlib.Path) -> Iterator[None]:
    """Tells of what a config file raises, with its line, while the block lasts."""
    try:
        yield
    except ZooError:
        raise
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
        line = getattr(error, "lineno", None) or (frames[-1].lineno if frames else None)
        raise ConfigError(
            f"{path}{f', line {line},' if line else ''} cannot be run: "
            f"{type(error).__name__}: {error}."
        ) from error


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
        if isinstance(node, ConfigDict):
            example = f"--{where}.{min(node)}={node[min(node)]}"
            raise ConfigError(f"{flag}: {where} is a group of fields; set each, as {example}.")
        if type(node) is int:
            flag = _whole(flag)
        values, argv = flags.FlagValues(), ["genjax-zoo", flag]
        try:
            config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
            values(argv)
        except (flags.Error, ValueError, TypeError) as error:
            kind = type(node).__name__
            raise ConfigError(f"{flag}: expected {kind}, such as {node!r}.") from error
        config = values.config
    return config


def located(config: ConfigDict) -> ConfigDict:
    """The config, whose data are the same from whatever folder it is read."""
    data = config.get("data")
    if isinstance(data, ConfigDict) and isinstance(data.get("source"), str):
        config = config.copy_and_resolve_references()
        config.data.source = absolute(config.data.source)
        asked = config.data.get("tokenizer")
        if isinstance(asked, str) and tokenizers.is_path(asked):
            config.data.tokenizer = tokenizers.located(asked)
        if config.data.get("token_dir"):
            config.data.token_dir = str(pathlib.Path(config.data.token_dir).expanduser().absolute())
    return config


def _whole(flag: str) -> str:
    """The flag, 1e4 written out as the integer that it is."""
    name, equals, value = flag.partition("=")
    with contextlib.suppress(ValueError):
        if "e" in value.lower() and (number := float(value)).is_integer():
            return f"{name}{equals}{int(number)}"
    return flag


def workdir_of(call: Call) -> Workdir:
    """The workdir of a command; raises ZooError where none is named, or an older version's is."""
    if not call.flags.workdir:
        raise ZooError("--workdir is missing: the folder of the run, such as runs/quickstart.")
    workdir = Workdir(call.flags.workdir)
    workdir.check_version()
    return workdir


def out_of(call: Call, within: pathlib.Path) -> pathlib.Path:
    """The folder that a command writes to: --out, or a folder within the workdir.

    Raises ZooError, before anything is computed, where it cannot be written.
    """
    folder = within if call.flags.out is None else files.place(call.flags.out, "--out")
    files.make_writable(folder, "--out")
    return folder


def told_apart(words: Sequence[str], most: int = 120) -> str:
    """The end of a file's name by which samples that were asked for otherwise have other files.

    Words that are long, or that a name cannot hold as they are, are told apart by a hash.
    """
    shown = [re.sub(r"^--?config\.(model\.)?", "", word) for word in words]
    plain = "".join(f"_{re.sub('[^A-Za-z0-9-]+', '_', word)}" for word in shown)
    simple = all(re.fullmatch(r"[A-Za-z0-9_-]+=[A-Za-z0-9-]+", word) for word in shown)
    if simple and len(plain) <= most:
        return plain
    return f"{plain[:most]}_{hashlib.sha256(repr(shown).encode()).hexdigest()[:8]}"


def data_dir_of(call: Call, workdir: Workdir) -> str | None:
    """Where the data are: as the flag says, or where they were when this workdir was trained."""
    starts = workdir.read_runs()
    return call.flags.data_dir or (starts[-1].get("data_dir") if starts else None)


def of_trained(call: Call, workdir: Workdir) -> config.Run:
    """The config of a workdir that was trained, with the overrides of the command line.

    Raises ConfigError for one that only training reads, or by which other examples are held out.
    """
    for flag in call.overrides:
        if not re.match(r"--?(no)?config\.(model|data)\.", flag):
            seeds = {"sample": "--sample_seed", "chat": "--sample_seed", "explore": "--seed"}
            draw = f" Another draw is {seeds[call.command]}=N." if call.command in seeds else ""
            raise ConfigError(
                f"{flag}: {call.command} reads config.model and config.data alone; all else was "
                f"settled when {workdir.root} was trained. Leave it out.{draw}"
            )
    return config.read(located(override(unjson(workdir.read_config()), call.overrides)))


def unjson(tree: Any) -> Any:
    """JSON knows no tuples; configs know no lists."""
    if isinstance(tree, Mapping):
        return ConfigDict({name: unjson(value) for name, value in tree.items()}).lock()
    return tuple(unjson(value) for value in tree) if isinstance(tree, list) else tree
