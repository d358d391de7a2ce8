"""Markov chains, Langevin dynamics and annealed importance sampling."""
