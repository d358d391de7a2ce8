"""What every study shares: its arguments and clock, its page, and how all studies look.

A study is one file of this folder: a claim, the runs that test it, and a page in results/ with a
picture, a table and the command that made them. A study begins and ends alike:

    study = Study(__file__, parser)        # reads the arguments, notes the commit, starts the clock
    ...
    figure = study.pyplot().figure(...)
    study.write(page, figure, numbers)     # NAME.md, NAME.png, NAME.json; closes with how it ran

and `run(config, variant)` reads one variant of a config file, with any field changed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import pathlib
import runpy
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import matplotlib
import numpy as np

from genjax_zoo.contract import Model
from genjax_zoo.data.source import Source
from genjax_zoo.learn.state import eval_params
from genjax_zoo.run import config as configs
from genjax_zoo.run.devices import startup

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "experiments" / "results"

BLUE, RED, GREEN, ORANGE, VIOLET = "tab:blue", "tab:red", "tab:green", "tab:orange", "tab:purple"
STYLE: Any = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.dpi": 110,
    "savefig.dpi": 110,
    "savefig.facecolor": "white",
}


class Study:
    """One study's run.

    Attributes:
      name: of its file, and of its page, picture and numbers.
      args: what the command line says; of `--out` (where to write) and whatever `parser` has.
      commit: the commit that runs, as it was at the start.
    """

    def __init__(
        self, file: str, parser: argparse.ArgumentParser, argv: Sequence[str] | None = None
    ):
        """Reads the arguments and starts the clock; `parser` may yet refuse (`parser.error`)."""
        startup.prepare()
        self.name = pathlib.Path(file).stem
        parser.add_argument("--out", type=pathlib.Path, default=RESULTS, help="where to write")
        self.args = parser.parse_args(argv)
        self.commit = commit()
        self.began = time.time()

    @staticmethod
    def pyplot() -> Any:
        """matplotlib.pyplot without a window, in the style of all studies."""
        matplotlib.use("Agg")
        from matplotlib import pyplot

        pyplot.rcParams.update(STYLE)
        return pyplot

    def picture(self, says: str) -> str:
        """The line of the page that shows the picture; `says` is for who cannot see it."""
        return f"![{says}]({self.name}.png)"

    def command(self) -> str:
        """The command that does all this again, with every argument spelt out."""
        given = {k: v for k, v in vars(self.args).items() if k != "out"}
        words = [
            f"--{k.replace('_', '-')}" + ("" if v is True else f"={_spell(v)}")
            for k, v in given.items()
            if v != "" and v is not False
        ]
        return " ".join([f"python experiments/{self.name}.py", *words])

    def closing(self, seeds: str, minutes: Mapping[str, float] | None = None) -> str:
        """The paragraph that ends every page.

        Args:
          seeds: which ones, in words: "0 to 4", "none: nothing is random".
          minutes: of each part, where the parts are to be named apart.
        """
        whole = time.time() - self.began
        took = f"{whole:.0f} seconds" if whole < 100 else f"{whole / 60:.1f} minutes"
        parts = ", ".join(f"{name} {each:.1f}" for name, each in (minutes or {}).items())
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return (
            f"Command: `{self.command()}`; seeds {seeds}; commit {self.commit}; {took}"
            f"{f' ({parts})' if parts else ''} on {jax.default_backend()} ({cores} cores), "
            f"jax {jax.__version__}; {datetime.date.today()}."
        )

    def write(self, page: Iterable[str], figure: Any = None, numbers: Any = None) -> None:
        """Writes what there is: the page, a paragraph or table each; picture; numbers."""
        self.args.out.mkdir(parents=True, exist_ok=True)
        path = self.args.out / self.name
        if figure is not None:
            figure.savefig(path.with_suffix(".png"))
        if numbers is not None:
            # One line for each entry of the outermost table: readable, and yet not long.
            plain = json.loads(json.dumps(numbers, default=_plain))
            lines = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in plain.items()]
            path.with_suffix(".json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
        path.with_suffix(".md").write_text("\n\n".join(page) + "\n")
        print(f"written: {path}.md", flush=True)


def run(config: str, variant: str, **changed: Any) -> configs.Run:
    """One variant of a config file, typed and checked, with fields changed.

    Args:
      config: a family's name: "gan" for configs/gan.py.
      variant: which one.
      changed: fields by their place, with __ for the dot: `steps=10, model__latents=3`.
    """
    fields = runpy.run_path(str(ROOT / "configs" / f"{config}.py"))["get_config"](variant)
    for place, value in changed.items():
        fields.update_from_flattened_dict({place.replace("__", "."): value})
    return configs.read(fields)


def learn(run: configs.Run, source: Source) -> tuple[Model, Any]:
    """The model of a run and its state after all steps, in one compiled call, without a workdir."""
    model, root = configs.make_model(run), jax.random.key(run.seed)
    rows = slice(0, run.data.batch_size)
    feed = np.stack([source.feed(step, rows) for step in range(run.steps)])

    @jax.jit
    def whole(state: Any, resident: Any, feed: Any) -> Any:
        def step(state: Any, each: tuple[Any, Any]) -> tuple[Any, None]:
            key_data, key = jax.random.split(jax.random.fold_in(root, each[0]))
            return model.step(key, state, source.batch(key_data, resident, each[1]))[0], None

        return jax.lax.scan(step, state, (np.arange(run.steps), feed))[0]

    first = source.batch(root, source.resident, feed[0])
    return model, whole(jax.jit(model.init)(root, first), source.resident, feed)


def of_text(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The arguments of a study of texts: which one, where it lies, the seed, and a small run."""
    parser.add_argument("--source", default="tfds:king_james_bible")
    parser.add_argument("--data-dir", default="../shared/tensorflow_datasets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true", help="a minute's run of all its parts")
    return parser


class Learnt(NamedTuple):
    """What a run has learnt, and at what cost.

    Attributes:
      model: the bundle of pure functions.
      state: after all steps.
      seconds: of all cores together, compiling included: what sharing the machine does not change.
      parameters: how many numbers were learnt.
    """

    model: Model
    state: Any
    seconds: float
    parameters: int


def clocked(run: configs.Run, source: Source) -> Learnt:
    """`learn`, and what it took."""
    began = time.process_time()
    model, state = learn(run, source)
    state = jax.block_until_ready(state)
    size = sum(leaf.size for leaf in jax.tree.leaves(eval_params(state)))
    return Learnt(model, state, time.process_time() - began, size)


def joules() -> float | None:
    """What the processor's own meter has counted so far; None where there is none to be read."""
    try:
        meters = sorted(pathlib.Path("/sys/class/powercap").glob("intel-rapl:*/energy_uj"))
        return sum(int(meter.read_text()) for meter in meters) / 1e6 if meters else None
    except OSError:
        return None


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A markdown table; numbers should come as they are to be read."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def commit() -> str:
    """The short name of the commit that runs, and whether what has been imported is not of it."""
    files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    code = sorted(f for f in files if f and pathlib.Path(f).is_relative_to(ROOT / "genjax_zoo"))
    name = _git("rev-parse", "--short", "HEAD")
    changed = _git("status", "--porcelain", "configs", "experiments/*.py", *code)
    return f"{name or 'unknown'}{' (changed)' if changed else ''}"


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _spell(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _plain(value: Any) -> Any:
    """Arrays as lists of four significant digits, complex numbers as pairs."""
    array = np.asarray(value)
    if np.iscomplexobj(array):
        array = np.stack([array.real, array.imag], -1)
    if np.issubdtype(array.dtype, np.floating):
        array = np.vectorize(lambda x: float(f"{x:.4g}"), otypes=[float])(array)
    return array.tolist()
