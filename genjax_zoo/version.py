"""The version. Floor 0."""

__version__ = "0.2.0"
