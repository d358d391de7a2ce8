"""genjax-zoo export: writes what the model in --workdir has learnt into a folder of Hugging Face.

Floor 8.
"""

from __future__ import annotations

import jax
import numpy as np

from genjax_zoo.commands import configs
from genjax_zoo.commands.flags import Call, value_of
from genjax_zoo.commands.import_ import FAMILY
from genjax_zoo.contract import ConfigError
from genjax_zoo.learn.state import eval_params
from genjax_zoo.run import config, trained
from genjax_zoo.run.record import files
from genjax_zoo.run.weights import exported
from genjax_zoo.typed import choose


def run(call: Call) -> None:
    """Writes --to whole, and prints what reads it."""
    workdir = configs.workdir_of(call)
    to = files.place(value_of(call, "to", "the folder to write"), "--to")
    files.check_empty(to, "--to")
    choose(call.flags.dtype, exported.DTYPES, "--dtype")
    fields = workdir.read_config()
    if fields["model"]["name"] != FAMILY:
        raise ConfigError(
            f"{workdir.root} holds a {fields['model']['name']}, and what others read is a "
            f"{FAMILY}; nothing was written."
        )
    parts = trained.read(workdir, config.read(configs.unjson(fields)))
    # Fields that are younger than the workdir have their defaults.
    model = config.assemble({"": {"model": parts.run.model}}, "").model.to_dict()
    step, state = trained.restore(parts, workdir, call.flags.checkpoint)
    params = jax.tree.map(np.asarray, jax.jit(eval_params)(state))
    beside = parts.tokenizer.files() if parts.tokenizer else {}
    reader = exported.write(to, model, params, beside, call.flags.dtype)
    print(f"{to}: {reader}, after {step} steps; transformers reads it by from_pretrained")
    foreign = [name for name in beside if not name.startswith(("tokenizer", "special", "chat"))]
    if foreign:
        print(f"{', '.join(foreign)} is a tokenizer of ours, which transformers does not know")
