"""The checkout that the code came from: its commit, and what of it was not committed.

Floor 6. Nothing here fails: outside of a checkout, or without git, the facts are None.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import tempfile

PACKAGE = pathlib.Path(__file__).resolve().parents[2]
"""The folder of genjax_zoo, as it was imported."""


def commit() -> tuple[str | None, bool | None]:
    """The commit of the checkout that the package was imported from, and if it was changed."""
    # An installed copy may lie inside a checkout that is not ours (a venv in somebody's project).
    if _git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None, None
    head = _git("rev-parse", "HEAD")
    status = _git("-C", "..", "status", "--porcelain", "--", PACKAGE.name, "configs")
    return head and head.strip(), None if status is None else bool(status.strip())


def changes() -> str | None:
    """What `git apply` adds to the commit to make what ran, new files with it; None for nothing."""
    if not commit()[1]:
        return None
    parts = [part for part in (PACKAGE.name, "configs") if (PACKAGE.parent / part).exists()]
    with tempfile.TemporaryDirectory() as folder:
        # An index of our own: the user's is left as it is.
        own = {"GIT_INDEX_FILE": str(pathlib.Path(folder) / "index")}
        for words in (("read-tree", "HEAD"), ("-C", "..", "add", "-A", "--", *parts)):
            if _git(*words, **own) is None:
                return None
        return _git("-C", "..", "diff", "--cached", "--binary", "HEAD", **own) or None


def _git(*words: str, **environ: str) -> str | None:
    """What git answers, or None where there is no git, no checkout or no answer in time."""
    try:
        done = subprocess.run(
            ["git", "-C", str(PACKAGE), *words],
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=10,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **environ},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None
