"""Measurement: numbers of held-out examples, of samples, and of games."""
