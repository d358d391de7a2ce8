"""What a decoder-only Transformer is made of: its config, and every parameter that it has.

Parameters are a tree of float32, by names that say what they are; those of the N blocks are stacked
along a leading axis, over which one block is scanned:

    embedding/kernel [V', D]                      positions/kernel [P, D], of learnt positions
    blocks/attention_norm, blocks/mlp_norm        scale, bias [N, D]
    blocks/attention/query, key, value            kernel [N, D, heads, W], bias [N, heads, W]
    blocks/attention/out                          kernel [N, heads, W, D], bias [N, D]
    blocks/mlp/gate, up                           kernel [N, D, F], bias [N, F]
    blocks/mlp/down                               kernel [N, F, D], bias [N, D]
    blocks/experts/router, gate, up, down         kernel [N, D, E], [N, E, D, F] twice, [N, E, F, D]
    final_norm                                    scale, bias [D]
    head/kernel [D, V']                           where it is not the embedding's
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from genjax_zoo import typed
from genjax_zoo.contract import Array, ConfigError, Key
from genjax_zoo.nets import positions
from genjax_zoo.typed import MOST_LAYERS, number

Params = dict[str, Any]


@typed.config
class Decoder:
    """What a decoder-only Transformer is made of.

    Attributes:
      vocabulary: V, how many symbols there are.
      context: P, how many symbols it reads at most.
      layers: N blocks.
      width: D.
      heads: of the queries.
      key_heads: of keys and values; 0 is as many as of queries, 1 multi-query attention.
      head_width: W; 0 is width / heads.
      inner: F, hidden units of an MLP; 0 is 4 width.
      norm: "layer" or "rms".
      norm_bias: whether layer norms have biases; RMS norms have none.
      epsilon: of the norms.
      position: "learnt", "rotary", "alibi" or "none".
      rotary_layout: which features turn together: "half" or "interleaved".
      rotary_base: of the wave lengths.
      rotary_factor, rotary_low, rotary_high, rotary_context: how LLaMA 3.1 stretches long waves
        (nets.positions.frequencies); a factor of 1 leaves them.
      activation: of the MLP: "gelu", "gelu_tanh", "silu" or "relu".
      gated: whether the MLP is act(gate x) ⊙ up x, as in SwiGLU and GeGLU, and not act(up x)
        (Shazeer 2020, arXiv:2002.05202).
      parallel: both branches read the same h, and are added to it together.
      norms: 2, one for each branch; a parallel block may have 1 for both.
      bias: whether products have biases; those of experts and of the head never have.
      tied: the head is the embedding.
      window: how many symbols a query sees at most, its own among them; 0 is all.
      experts: E MLPs of which each token is read by a few (nets.experts); 0 is one MLP for all.
      experts_per_token: how many.
      capacity: in training an expert takes at most this times its even share; 0 drops nothing.
      dropout: in training, of embeddings, of attention's weights and of what each branch adds.
      init_std: standard deviation of weights at first.
      residual_init: the last product of each branch begins 1 / √(2 N) as large (Radford et al.
        2019, section 2.3).
      pad_vocabulary_to: V' is the next multiple of it; the logits of the symbols that are none do
        not exist. 0 is V' = V.
      dtype: of what is computed, "float32" or "bfloat16"; weights are float32.
      remat: keeps only each block's input, and computes the rest again for the gradient.
    """

    vocabulary: int = number(256, least=2)
    context: int = number(64, least=1, most=2**24)
    layers: int = number(4, least=1, most=MOST_LAYERS)
    width: int = number(128, least=1)
    heads: int = number(4, least=1)
    key_heads: int = number(0, least=0)
    head_width: int = number(0, least=0)
    inner: int = number(0, least=0)
    norm: Literal["layer", "rms"] = "layer"
    norm_bias: bool = True
    epsilon: float = number(1e-5, above=0, most=1)
    position: Literal["learnt", "rotary", "alibi", "none"] = "learnt"
    rotary_layout: positions.Layout = "half"
    rotary_base: float = number(10_000.0, least=1)
    rotary_factor: float = number(1.0, least=1)
    rotary_low: float = number(1.0, above=0)
    rotary_high: float = number(4.0, above=0)
    rotary_context: int = number(8192, least=1)
    activation: Literal["gelu", "gelu_tanh", "silu", "relu"] = "gelu"
    gated: bool = False
    parallel: bool = False
    norms: Literal[1, 2] = 2
    bias: bool = True
    tied: bool = True
    window: int = number(0, least=0)
    experts: int = number(0, least=0)
    experts_per_token: int = number(1, least=1)
    capacity: float = number(0.0, least=0)
    dropout: float = number(0.0, least=0, below=1)
    init_std: float = number(0.02, least=0)
    residual_init: bool = True
    pad_vocabulary_to: int = number(0, least=0)
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: bool = False

    def __post_init__(self):
        who = "language_model"
        if not self.head_width and self.width % self.heads:
            raise ConfigError(
                f"{who}: {self.heads} heads do not divide a width of {self.width}; choose another "
                "of the two, or tell head_width."
            )
        if self.heads % self.of_keys:
            raise ConfigError(
                f"{who}: each key head serves as many of the {self.heads} heads, which "
                f"{self.of_keys} do not divide; set key_heads to a divisor, or to 0."
            )
        for wrong, what, mend in (
            (self.norm == "rms" and self.norm_bias, "an RMS norm has no bias", "norm_bias=False"),
            (
                self.norms == 1 and not self.parallel,
                "branches one after the other have a norm each",
                "norms=2 or parallel=True",
            ),
            (
                self.position == "rotary" and self.of_head % 2,
                f"rotary positions turn pairs of features, and a head has {self.of_head}",
                "an even head_width",
            ),
            (
                self.rotary_factor != 1 and self.rotary_low >= self.rotary_high,
                f"waves pass from rotary_low={self.rotary_low} up to a higher rotary_high",
                "rotary_high above it",
            ),
            (
                self.rotary_factor != 1 and self.position != "rotary",
                f"rotary_factor={self.rotary_factor} stretches rotary positions, and position is "
                f"{self.position!r}",
                "rotary_factor=1 or position='rotary'",
            ),
            (
                self.experts_per_token > max(self.experts, 1),
                f"{self.experts_per_token} experts a token are more than {self.experts}",
                "experts_per_token to less",
            ),
            (
                self.capacity and not self.experts,
                f"capacity={self.capacity} is of experts, and there are none",
                "capacity=0 or experts",
            ),
        ):
            if wrong:
                raise ConfigError(f"{who}: {what}; set {mend}.")

    @property
    def of_keys(self) -> int:
        """How many heads keys and values have."""
        return self.key_heads or self.heads

    @property
    def of_head(self) -> int:
        """W."""
        return self.head_width or self.width // self.heads

    @property
    def of_inner(self) -> int:
        """F."""
        return self.inner or 4 * self.width

    @property
    def padded(self) -> int:
        """V'."""
        step = self.pad_vocabulary_to or 1
        return -(-self.vocabulary // step) * step


class Tensor(NamedTuple):
    """A parameter before any learning.

    Attributes:
      shape: of it.
      mean: of its numbers at first.
      std: their standard deviation.
    """

    shape: tuple[int, ...]
    mean: float = 0.0
    std: float = 0.0

    def start(self, key: Key) -> Array:
        """Its first numbers, normal ones."""
        if not self.std:
            return jnp.full(self.shape, self.mean, jnp.float32)
        return self.mean + self.std * jax.random.normal(key, self.shape, jnp.float32)


def tensors(config: Decoder) -> dict[str, Any]:
    """Every parameter of a config, by its name: a tree of `Tensor`s."""
    c = config
    N, D, H, K, W, F, E = (
        *(c.layers, c.width, c.heads, c.of_keys, c.of_head, c.of_inner, c.experts),
    )
    std = c.init_std
    last = std / math.sqrt(2 * N) if c.residual_init else std

    def dense(*shape: int, std: float = std, bias: tuple[int, ...] = ()) -> dict[str, Tensor]:
        found = {"kernel": Tensor(shape, std=std)}
        return found | ({"bias": Tensor(bias)} if c.bias and bias else {})

    def norm(*shape: int) -> dict[str, Tensor]:
        return {"scale": Tensor(shape, mean=1.0)} | ({"bias": Tensor(shape)} if c.norm_bias else {})

    up = ("gate", "up") if c.gated else ("up",)
    blocks: dict[str, Any] = {
        "attention_norm": norm(N, D),
        "attention": {
            "query": dense(N, D, H, W, bias=(N, H, W)),
            "key": dense(N, D, K, W, bias=(N, K, W)),
            "value": dense(N, D, K, W, bias=(N, K, W)),
            "out": dense(N, H, W, D, std=last, bias=(N, D)),
        },
    }
    if c.norms == 2:
        blocks["mlp_norm"] = norm(N, D)
    if E:
        blocks["experts"] = {
            "router": dense(N, D, E),
            **{name: dense(N, E, D, F) for name in up},
            "down": dense(N, E, F, D, std=last),
        }
    else:
        blocks["mlp"] = {
            **{name: dense(N, D, F, bias=(N, F)) for name in up},
            "down": dense(N, F, D, std=last, bias=(N, D)),
        }
    table = {
        "embedding": dense(c.padded, D),
        "blocks": blocks,
        "final_norm": norm(D),
    }
    if c.position == "learnt":
        table["positions"] = dense(c.context, D)
    if not c.tied:
        table["head"] = dense(D, c.padded)
    return table


def size(config: Decoder) -> int:
    """How many numbers are learnt; nothing is allocated."""
    return _count(tensors(config))


def _count(table: dict[str, Any]) -> int:
    leaves = jax.tree.leaves(table, is_leaf=lambda leaf: isinstance(leaf, Tensor))
    return sum(math.prod(leaf.shape) for leaf in leaves)


def bytes_a_token(config: Decoder) -> int:
    """What a cache keeps of each symbol: keys and values of every layer, of what is computed."""
    c = config
    return 2 * jnp.dtype(c.dtype).itemsize * c.layers * c.of_keys * c.of_head


def operations_a_token(config: Decoder, length: int) -> int:
    """Additions and multiplications of a training step for each symbol of rows of `length`.

    6 N + 12 L h W T (Chowdhery et al. 2022, appendix B): two for each parameter forward and four
    backward, and attention's two products, of which a causal one could leave out half. Of experts
    those count that read a symbol.
    """
    c, idle = config, 0
    if c.experts:
        of_all = _count({**tensors(c)["blocks"]["experts"], "router": {}})
        idle = of_all * (c.experts - c.experts_per_token) // c.experts
    return 6 * (size(c) - idle) + 12 * c.layers * c.heads * c.of_head * length
