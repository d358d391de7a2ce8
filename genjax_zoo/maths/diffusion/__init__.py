"""Diffusion: ordinary and stochastic differential equations, and samplers."""
