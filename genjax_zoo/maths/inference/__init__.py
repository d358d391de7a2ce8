"""Inference: bounds, variational families, graphs, factors and filters."""
