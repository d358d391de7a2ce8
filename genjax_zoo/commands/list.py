"""genjax-zoo list: every family, how it learns, what it can do, and its configs.

Floor 8.
"""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from genjax_zoo.commands.configs import CONFIGS, names_of
from genjax_zoo.commands.flags import Call
from genjax_zoo.contract import Exactness, Model
from genjax_zoo.models import ZOO
from genjax_zoo.run.config import Run, make_model
from genjax_zoo.typed import typed


def run(call: Call) -> None:
    """Prints two tables; what a family can do is read off the models of its variants."""
    # The last column is the one that can be broken anywhere.
    table = Table(box=box.SIMPLE_HEAD)
    for head in ("family", "verb", "log_prob"):
        table.add_column(head, no_wrap=head != "log_prob")
    # As wide as the longest name of a measure.
    table.add_column("can", min_width=20)
    configs = Table.grid(padding=(0, 2))
    for name, family in sorted(ZOO.items()):
        path = CONFIGS / f"{name}.py"
        names = names_of(path) if path.exists() else {}
        variants = list(names.get("VARIANTS", ()))
        runs = [typed(Run, names["get_config"](v).to_dict()) for v in variants]
        models = [make_model(run) for run in runs]
        kinds = dict.fromkeys(
            str(model.log_prob.exactness if model.log_prob else Exactness.NONE) for model in models
        )
        can = dict.fromkeys(ability for model in models for ability in _abilities(model))
        table.add_row(f"[bold]{name}", family.verb, ", ".join(kinds), ", ".join(can))
        configs.add_row(f"  [bold]{name}", f"{family.summary}\n[dim]{', '.join(variants)}")
    console = Console(highlight=False)
    console.print(table, configs)
    console.print("\n  genjax-zoo train --config=configs/FAMILY.py:VARIANT --workdir=runs/NAME")


def _abilities(model: Model) -> list[str]:
    latents = ("encode", "decode") if model.latents else ()
    own = [f for f in latents if getattr(model.latents, f) is not None]
    return ["sample", *(["log_prob"] if model.log_prob else []), *own, *model.measures]
