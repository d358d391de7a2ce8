"""The two networks of an auto-encoder between data and vectors: fully connected or convolutional.

Both take the widths of the encoder, data first; the decoder has the same in reverse.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from genjax_zoo.contract import ConfigError
from genjax_zoo.nets.dense import mlp
from genjax_zoo.nets.image import conv_decoder, conv_encoder
from genjax_zoo.nets.net import ACTIVATIONS, Net, batched
from genjax_zoo.typed import choose

AutoEncoder = Literal["mlp", "conv"]


def check_autoencoder(kind: AutoEncoder, widths: Sequence[int], activation: str, who: str) -> None:
    """Raises ConfigError, in the name of the family `who`, for networks that there are not."""
    choose(activation, ACTIVATIONS, "activation")
    if kind == "conv" and not widths:
        raise ConfigError(f"{who}: a convolutional network needs at least one width, got none.")


def vector_encoder(kind: AutoEncoder, widths: Sequence[int], outputs: int, activation: str) -> Net:
    """x [B, ...], images for "conv", -> y [B, outputs]."""
    network = conv_encoder if kind == "conv" else mlp
    return network(widths, outputs, activation)


def vector_decoder(
    kind: AutoEncoder, widths: Sequence[int], shape: tuple[int, ...], activation: str
) -> Net:
    """z [..., L] -> [..., *shape], of images (H, W, C) for "conv"."""
    network = conv_decoder if kind == "conv" else mlp
    return batched(network(widths[::-1], shape, activation))
