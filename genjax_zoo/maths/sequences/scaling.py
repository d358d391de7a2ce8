"""Scaling laws: a language model's loss by parameters N, tokens D and operations C = 6 N D.

    L(N, D) = E + A / N^α + B / D^β     Hoffmann et al. 2022 (arXiv:2203.15556), equation 2

Floor 1. Losses are nats a token, of the text and the tokens that a law was fitted to.
"""

from __future__ import annotations

from typing import NamedTuple


class Law(NamedTuple):
    """L(N, D) = E + A / N^α + B / D^β.

    Attributes:
      floor: E, what no size and no data take away.
      by_parameters: A.
      parameters_exponent: α.
      by_tokens: B.
      tokens_exponent: β.
    """

    floor: float
    by_parameters: float
    parameters_exponent: float
    by_tokens: float
    tokens_exponent: float

    def loss(self, parameters: float, tokens: float) -> float:
        """L(N, D) in nats a token."""
        of_parameters = self.by_parameters / parameters**self.parameters_exponent
        return self.floor + of_parameters + self.by_tokens / tokens**self.tokens_exponent

    def best(self, operations: float) -> tuple[float, float]:
        """(N, D) of the least loss for C = 6 N D operations.

        N = G (C / 6)^(β / (α + β)), G = (α A / (β B))^(1 / (α + β)): Hoffmann et al., equation 4.
        """
        a, b = self.parameters_exponent, self.tokens_exponent
        G = (a * self.by_parameters / (b * self.by_tokens)) ** (1 / (a + b))
        parameters = G * (operations / 6) ** (b / (a + b))
        return parameters, operations / 6 / parameters


CHINCHILLA = Law(1.69, 406.4, 0.34, 410.7, 0.28)
"""Hoffmann et al. 2022, equation 10."""
REFITTED = Law(1.8172, 482.01, 0.3478, 2085.43, 0.3658)
"""The same data fitted again: Besiroglu et al. 2024 (arXiv:2404.10102)."""


class Power(NamedTuple):
    """L(X) = (X_c / X)^α, where nothing but X is short.

    Attributes:
      scale: X_c.
      exponent: α.
    """

    scale: float
    exponent: float

    def loss(self, amount: float) -> float:
        """L(X) in nats a token."""
        return (self.scale / amount) ** self.exponent


KAPLAN = {
    "parameters": Power(8.8e13, 0.076),
    "tokens": Power(5.4e13, 0.095),
    "petaflop_days": Power(3.1e8, 0.050),
}
"""Kaplan et al. 2020 (arXiv:2001.08361), equations 1.1 to 1.3: parameters without embeddings, and
operations in units of 8.64e19 where they are spent as well as can be."""
