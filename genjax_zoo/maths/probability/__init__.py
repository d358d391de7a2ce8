"""Distributions, likelihoods, bijections and corruption."""
