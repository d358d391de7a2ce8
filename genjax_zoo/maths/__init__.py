"""Pure functions: no network, no file, no flag, no clock."""
