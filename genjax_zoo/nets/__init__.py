"""The networks, behind one door: outside this folder a network is a pair of pure functions.

Floor 2. Only here is flax.linen imported; a caller sees `(params, inputs) -> outputs`.
"""

from genjax_zoo.nets import progressive
from genjax_zoo.nets.autoencoders import (
    AutoEncoder,
    check_autoencoder,
    vector_decoder,
    vector_encoder,
)
from genjax_zoo.nets.conv import conv, conv_transpose
from genjax_zoo.nets.coupling import conv_same, made
from genjax_zoo.nets.denoisers import DENOISERS, Denoiser, denoiser
from genjax_zoo.nets.dense import mlp
from genjax_zoo.nets.grid import grid_decoder, grid_encoder, grid_shape, pixelcnn
from genjax_zoo.nets.image import StatefulNet, conv_decoder, conv_encoder, image_shape
from genjax_zoo.nets.net import ACTIVATIONS, Net, batched
from genjax_zoo.nets.norm import batch_norm, group_norm
from genjax_zoo.nets.players import NETWORKS, Network, discriminator, generator
from genjax_zoo.nets.recurrent import Masks, Recurrent, recurrent
from genjax_zoo.nets.resample import upsample, upsample_conv
from genjax_zoo.nets.text import Text, text_encoder, with_text_encoder

__all__ = [
    "ACTIVATIONS",
    "DENOISERS",
    "NETWORKS",
    "AutoEncoder",
    "Denoiser",
    "Masks",
    "Net",
    "Network",
    "Recurrent",
    "StatefulNet",
    "Text",
    "batch_norm",
    "batched",
    "check_autoencoder",
    "conv",
    "conv_decoder",
    "conv_encoder",
    "conv_same",
    "conv_transpose",
    "denoiser",
    "discriminator",
    "generator",
    "grid_decoder",
    "grid_encoder",
    "grid_shape",
    "group_norm",
    "image_shape",
    "made",
    "mlp",
    "pixelcnn",
    "progressive",
    "recurrent",
    "text_encoder",
    "upsample",
    "upsample_conv",
    "vector_decoder",
    "vector_encoder",
    "with_text_encoder",
]
