"""The tokenizer of a run: WORKDIR/tokenizer, whose hash stands in run.json.

Floor 6. A symbol means what it meant at the first step: whoever goes on, samples or measures reads
texts by what lies there, and no other tokenizer is taken for it.
"""

from __future__ import annotations

import dataclasses
import shutil

from genjax_zoo.contract import DataError, ZooError
from genjax_zoo.data.source import Own
from genjax_zoo.data.text import tokenizers
from genjax_zoo.data.text.tokenizers import Tokenizer
from genjax_zoo.run.record import files
from genjax_zoo.run.record.progress import log
from genjax_zoo.run.record.workdir import Workdir


def keep(workdir: Workdir, tokenizer: Tokenizer | None) -> None:
    """Writes its files, before any record says that they are there, and no others beside them."""
    if tokenizer is None:
        return
    own = tokenizer.files()
    for name, content in own.items():
        if not _holds(workdir, name, content):
            files.write(workdir.tokenizer / name, content)
    for path in workdir.tokenizer.iterdir():
        if path.name not in own:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _holds(workdir: Workdir, name: str, content: bytes) -> bool:
    path = workdir.tokenizer / name
    return path.is_file() and path.read_bytes() == content


def kept(workdir: Workdir) -> Tokenizer | None:
    """The tokenizer of a run that has begun; None where its data are no texts.

    Raises ZooError where it is gone or damaged.
    """
    about = workdir.data_before().get("tokenizer")
    if not about:
        return None
    mend = "bring it back, or train again in another --workdir"
    try:
        found = tokenizers.read(workdir.tokenizer)
    except DataError as error:
        raise ZooError(f"{error} It is what this run reads texts by; {mend}.") from error
    if found.sha256 != about["sha256"]:
        raise ZooError(
            f"{workdir.tokenizer} holds another tokenizer ({found.sha256[:12]}) than the one that "
            f"this run learnt by ({about['name']}, {about['sha256'][:12]}); {mend}."
        )
    return dataclasses.replace(found, name=about["name"])


def own(workdir: Workdir) -> Own:
    """What a run reads its data by, as far as it has begun."""
    tokenizer = kept(workdir) if workdir.has_begun() else None
    return Own(tokenizer, workdir.tokens, log)
