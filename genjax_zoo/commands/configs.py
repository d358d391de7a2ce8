"""Where a command's config comes from: a file, a workdir, and the overrides of the command line.

Floor 8.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import pathlib
import re
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from genjax_zoo.commands.flags import Call
from genjax_zoo.contract import ConfigError, ZooError
from genjax_zoo.run import config
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
    """The config that `PATH:VARIANT` names; configs/ is found from any folder."""
    name, _, variant = name.partition(":")
    path = pathlib.Path(name)
    if not path.exists() and path.parent.name == "configs":
        path = CONFIGS / path.name
    if not path.is_file():
        known = [f"configs/{p.name}" for p in CONFIGS.glob("[!_]*.py")]
        raise ConfigError(nearest(name, known, "config file"))
    get_config = names_of(path).get("get_config")
    if get_config is None:
        raise ConfigError(f"{path} has no get_config(variant); see configs/ for examples.")
    return ConfigDict(get_config(variant) if variant else get_config()).lock()


def names_of(path: pathlib.Path) -> dict[str, Any]:
    """The names that a config file defines; raises ConfigError where it cannot be run."""
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
            seeds = {"sample": "--sample_seed", "explore": "--seed"}
            draw = f" Another draw is {seeds[call.command]}=N." if call.command in seeds else ""
            raise ConfigError(
                f"{flag}: {call.command} reads config.model and config.data alone; all else was "
                f"settled when {workdir.root} was trained. Leave it out.{draw}"
            )
    return config.read(override(unjson(workdir.read_config()), call.overrides))


def unjson(tree: Any) -> Any:
    """JSON knows no tuples; configs know no lists."""
    if isinstance(tree, Mapping):
        return ConfigDict({name: unjson(value) for name, value in tree.items()}).lock()
    return tuple(unjson(value) for value in tree) if isinstance(tree, list) else tree
