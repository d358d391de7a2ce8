"""Files that are there whole or not at all.

Floor 6.
"""

from __future__ import annotations

import os
import pathlib
import tempfile


def write(path: pathlib.Path | str, content: bytes | str) -> pathlib.Path:
    """Writes a file whole or not at all, whenever the process is killed; makes its folder.

    Raises OSError where the folder cannot be written or the disk is full; what stood at `path`
    before is then untouched.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes private files; a result may be read by whoever may read its folder.
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        pathlib.Path(name).unlink(missing_ok=True)
        raise
    return path
