"""genjax_zoo: generative models in JAX, written as pure functions."""

__version__ = "0.1.0"
