"""The devices of a run: how they start, and how arrays lie over them."""
