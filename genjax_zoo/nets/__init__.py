"""The networks, behind one door: outside this folder a network is a pair of pure functions.

Floor 1. Only here is flax.linen imported; a caller sees `(params, inputs) -> outputs`.
"""

from genjax_zoo.nets.dense import mlp
from genjax_zoo.nets.net import ACTIVATIONS, Net

__all__ = ["ACTIVATIONS", "Net", "mlp"]
