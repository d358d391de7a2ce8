"""Measurement: what samples are worth."""
