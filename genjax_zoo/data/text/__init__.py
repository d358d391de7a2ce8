"""Texts: what they are cut into, where they lie, and how they become rows to learn from."""
