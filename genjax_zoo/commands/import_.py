"""genjax-zoo import: makes a run of the weights in a folder of Hugging Face.

Floor 8. `import` is a word of Python's, so that the module has its name with an underscore.
"""

from __future__ import annotations

from genjax_zoo.commands import configs
from genjax_zoo.commands.flags import Call, value_of
from genjax_zoo.run.record import files
from genjax_zoo.run.record.provenance import FOREIGN
from genjax_zoo.run.weights import arrived, imported

FAMILY = "language_model"
"""Whose weights are known (run/weights)."""


def run(call: Call) -> None:
    """Nothing is written before the folder is understood, and the workdir is written whole."""
    workdir = configs.workdir_of(call)
    asked = value_of(call, "from", "a folder with config.json and model.safetensors")
    files.check_empty(workdir.root)
    flag = f"--from={asked}"
    # As --begin names such a folder, it may be named here.
    folder = files.place(asked.removeprefix(FOREIGN) or asked, "--from")
    found = imported.look_at(folder, {"name": FAMILY}, flag)
    arrived.write(found, workdir.root)
    for remark in found.remarks:
        print(f"config.json: {remark}")
    if found.tokenizer is None:
        print("there is no tokenizer: samples are numbers, and texts cannot be read")
    model = found.fields["model"]
    print(
        f"{workdir.root}: {found.architecture.kind}, {model['layers']} layers of {model['width']}, "
        f"{model['vocabulary']} symbols"
    )
