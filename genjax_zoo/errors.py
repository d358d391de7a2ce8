"""The errors that a user can mend.

Floor 0. Nothing is imported here, so that a command line is read before jax is.
"""

from __future__ import annotations


class ZooError(Exception):
    """Something the user can mend. The message says what was expected, what came, what to do."""


class ConfigError(ZooError):
    """A config holds a field, a value or a name that does not exist."""


class DataError(ZooError):
    """The data are missing, unreadable or of the wrong shape."""


class CheckpointError(ZooError):
    """A checkpoint is damaged, belongs to another model, or could not be written."""


class DivergedError(ZooError):
    """A number became NaN or infinite."""
