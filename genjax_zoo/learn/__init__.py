"""How a model learns: the verbs, and the optimizers they follow gradients with."""
