"""Language models: a decoder-only Transformer that tells of each symbol what may come next.

    p(x) = Π_t p(x_t | x_<t),     p(x_t | x_<t) = softmax(W h_{t-1})_{x_t}

GPT (Radford et al. 2018, 2019; Brown et al. 2020), LLaMA (Touvron et al. 2023), PaLM, Falcon,
Mistral and others are configs of it. The network is nets/decoder.py.

A batch is x [B, L] of symbols. Where several documents share a row, `document` [B, L] numbers them
from 1, and 0 is padding, which is neither read nor told; no document is told anything of another.
Where not all places count, `loss_mask` [B, L] is 1 at those that do. What a document begins with
follows the `begin` token; without one its first symbol is one of V that are equally likely, of
which nothing can be learnt. A row that goes on with a document of the row before has not read that:
it is read like a beginning, and its `loss_mask` is 0 at the first place.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from genjax_zoo import typed
from genjax_zoo.contract import (
    BINARY,
    COUNTS,
    NOTHING,
    Array,
    Autoregression,
    Batch,
    ConfigError,
    DataError,
    Exactness,
    Key,
    Measure,
    Model,
    categorical,
)
from genjax_zoo.learn.micro_batches import Mean
from genjax_zoo.learn.state import TrainState, adopt, eval_params, of_params, whole
from genjax_zoo.learn.verbs import descend
from genjax_zoo.maths.probability.given import check_count, part_of, prompt, read_given
from genjax_zoo.nets import lora
from genjax_zoo.nets.architecture import Decoder, Params
from genjax_zoo.nets.decoder import Cache, first_of, network, rewind
from genjax_zoo.nets.linear import cross_entropy
from genjax_zoo.typed import number

VERB = "descend"
MOST_DRAWN = 2**24
"""How many numbers of noise are drawn before the first symbol: in the loop each draw is a loop."""


@typed.config
class Config(Decoder):
    """A language model: a decoder (nets.architecture.Decoder), and what is said of symbols.

    Attributes:
      begin: the symbol that is read before a document; -1 is none.
      end: the symbol that ends one, where a writer stops; -1 is none.
      balance: the weight of the balancing loss of experts (nets.experts.Routed), in the mean over
        layers.
      average: decay of the moving average of the parameters; 0 keeps none.
      lora_rank: r > 0 learns low-rank adapters of matrices (nets.lora) that stay as they are.
      lora_alpha: α, by which they are scaled: α / r.
      lora_where: a pattern found in the paths of the matrices that are adapted.
    """

    begin: int = number(-1, least=-1)
    end: int = number(-1, least=-1)
    balance: float = number(0.01, least=0)
    average: float = number(0.0, least=0, below=1)
    lora_rank: int = number(0, least=0)
    lora_alpha: float = number(16.0, above=0)
    lora_where: str = "attention/(query|value)"

    def __post_init__(self):
        super().__post_init__()
        for name in ("begin", "end"):
            if getattr(self, name) >= self.vocabulary:
                raise ConfigError(
                    f"language_model: {name} should be a symbol 0 .. {self.vocabulary - 1} or -1, "
                    f"got {getattr(self, name)}."
                )
        for name in () if self.lora_rank else ("lora_alpha", "lora_where"):
            if getattr(self, name) != getattr(Config, name):
                raise ConfigError(
                    f"language_model: {name}={getattr(self, name)!r} is of adapters, and without a "
                    "rank there are none; set lora_rank, or leave it out."
                )

    @property
    def longest(self) -> int:
        """How many symbols a row may have: the last is told, and need not be read."""
        return self.context + (self.begin < 0)


@struct.dataclass
class Memory:
    """What is remembered of the data.

    Attributes:
      length: L, how many symbols a row has, and a sample.
      base: the weights, where adapters of them are what is learnt.
    """

    length: int = struct.field(pytree_node=False)
    base: lora.Base | None = None


class Read(NamedTuple):
    """A batch, as the network reads it.

    Attributes:
      inputs: [B, T] symbols.
      document: [B, T], of each input's own; None where a row is one.
      targets: [B, T], the symbol that each input is asked for.
      told: [B, T] bool, which of the targets are told of, and count.
      first: [B], how many symbols that count are told from nothing.
      known: [B] bool, whether all symbols that count are 0 .. V - 1.
    """

    inputs: Array
    document: Array | None
    targets: Array
    told: Array
    first: Array
    known: Array


def make(config: Config, tx: optax.GradientTransformation) -> Model:
    """A language model that follows the gradient of its likelihood."""
    V, net = config.vocabulary, network(config)

    def init(key: Key, batch: Batch, weights: Params | None = None) -> tuple[Params, Memory]:
        x = batch["x"]
        if x.ndim != 2 or not jnp.issubdtype(x.dtype, jnp.integer):
            raise ConfigError(
                f"language_model: x should be integers [B, L], got {x.dtype} {list(x.shape)}; "
                "choose data of symbols, such as text:PATH."
            )
        check_length(x, ConfigError)
        params, length = adopt(net.init(key), weights, "weights"), x.shape[1]
        if not config.lora_rank:
            return params, Memory(length)
        if weights is None:
            raise ConfigError(
                "language_model: low-rank adapters are of weights that are there already; add "
                "--begin=weights=WORKDIR or --begin=weights=hf:DIR, or set lora_rank=0."
            )
        own = jax.random.fold_in(key, 1)
        adapters = lora.adapters(own, params, config.lora_rank, config.lora_where)
        return adapters, Memory(length, lora.Base(params, config.lora_alpha))

    def check_length(x: Array, error: type[Exception]) -> None:
        if x.shape[1] > config.longest:
            raise error(
                f"language_model: a row of {x.shape[1]} symbols is longer than what a context of "
                f"{config.context} tells, {config.longest}; set config.data.length to that, or "
                "config.model.context to more."
            )

    # ----------------------------------------------------------------------------------- reading

    def read(batch: Batch) -> Read:
        """Shifts: what stands at place t - 1 of a document is asked for what stands at t."""
        x, document, mask = batch["x"], batch.get("document"), batch.get("loss_mask")
        check_length(x, DataError)
        real = jnp.ones(x.shape, bool) if document is None else document > 0
        counts = real if mask is None else real & (mask > 0)
        begins = first_of(jnp.ones_like(x) if document is None else document)
        good = (x >= 0) & (x < V)
        x = jnp.where(good, x, 0).astype(jnp.int32)
        known = jnp.all(good | ~counts, axis=1)
        if config.begin >= 0:
            before = jnp.where(begins, config.begin, jnp.roll(x, 1, axis=1))
            return Read(before, document, x, counts, jnp.zeros(len(x)), known)
        first = jnp.sum(begins & counts, axis=1)
        of_inputs = None if document is None else document[:, :-1]
        return Read(x[:, :-1], of_inputs, x[:, 1:], (counts & ~begins)[:, 1:], first, known)

    def nats(key: Key | None, params: Params, batch: Read) -> tuple[Array, dict[str, Array]]:
        """-log p(x_t | x_<t) of each target [B, T], 0 where it does not count."""
        h, info = net.hidden(params, batch.inputs, batch.document, key)
        return cross_entropy(net.head(params, h), batch.targets, batch.told), info

    # ---------------------------------------------------------------------------------- learning

    def loss(key: Key, params: Params, memory: Memory, batch: Batch):
        """Nats a predicted symbol: a sum over the batch by how many there are."""
        asked = read(batch)
        each, info = nats(key, whole(params, memory), asked)
        nats_per_token = Mean(jnp.sum(each), jnp.sum(asked.told))
        if not config.experts:
            return nats_per_token, (memory, info)
        total, weight = nats_per_token
        balanced = Mean(total + weight * config.balance * info["balance"], weight)
        return balanced, (memory, {"nats_per_token": nats_per_token.value, **info})

    # --------------------------------------------------------------------------------- the numbers

    def log_prob(key: Key, params: Params, batch: Batch) -> Array:
        """log p(x), exactly: [B] nats, and -inf for an x that is no string of symbols."""
        asked = read(batch)
        each, _ = nats(None, params, asked)
        total = -jnp.sum(each, axis=1) - asked.first * np.log(V)
        return jnp.where(asked.known, total, -jnp.inf)

    def predicted(key: Key, params: Params, batch: Batch) -> Array:
        """-log p of the symbols that were predicted from others, or from `begin`: [B] nats, and inf
        where `log_prob` is -inf."""
        asked = read(batch)
        return jnp.where(asked.known, jnp.sum(nats(None, params, asked)[0], axis=1), jnp.inf)

    def count(batch: Batch) -> Array:
        """How many those are [B]."""
        return jnp.sum(read(batch).told, axis=1).astype(jnp.float32)

    # --------------------------------------------------------------------------------- the samples

    def sample(key: Key, state: TrainState, n: int, given: Batch = NOTHING) -> Batch:
        """Draws x_1, then x_2 given x_1, and so on, after the beginning that is given."""
        T = state.memory.length
        told = read_given(given, part_of(COUNTS.of(V), (T,)), n, "language_model")
        value, known = prompt(told, "language_model") or (np.zeros((n, T)), np.zeros((n, T), bool))

        noise_of = lambda key: jax.random.gumbel(key, (n, V))
        is_small = T * n * V <= MOST_DRAWN

        def draw(before: tuple[Array, Cache], now: tuple[Array, Array, Array]):
            (logits, cache), (noise, value, known) = before, now
            # A draw of softmax(l) is argmax(l + g), g Gumbel noise.
            drawn = jnp.argmax(logits + (noise if is_small else noise_of(noise)), axis=-1)
            x = jnp.where(known, value, drawn).astype(jnp.int32)
            after, cache = extend(state, cache, x[:, None])
            return (after[:, 0], cache), x

        keys = jax.random.split(key, T)
        noise = jax.vmap(noise_of)(keys) if is_small else keys
        value, known, state = jnp.asarray(value, jnp.int32), jnp.asarray(known), ready(state)
        _, x = jax.lax.scan(draw, start(state, n, T), (noise, value.T, known.T))
        return {"x": x.T}

    def start(state: TrainState, n: int, length: int, given: Batch = NOTHING) -> tuple[Array, Any]:
        """The begin token has been read, if there is one; else what comes first is uniform."""
        read_given(given, {}, n, "language_model")
        check_count("length", length, "language_model", config.longest)
        if config.begin < 0:
            return jnp.zeros((n, V)), net.cache(n, length)
        first = jnp.full((n, 1), config.begin, jnp.int32)
        logits, cache = net.extend(eval_params(state), net.cache(n, length + 1), first)
        return logits[:, 0], cache

    def ready(state: TrainState) -> TrainState:
        """Weights alone, averaged and merged with their adapters, as `extend` reads them."""
        return TrainState(net.ready(eval_params(state)), Memory(state.memory.length))

    def extend(state: TrainState, cache: Cache, x: Array) -> tuple[Array, Cache]:
        """Behind the context no logits mean anything: what follows a whole row is not asked for."""
        return net.extend(eval_params(state), cache, x)

    return Model(
        *descend(init, loss, tx, config.average),
        sample=sample,
        log_prob=Measure(of_params(log_prob), Exactness.EXACT),
        measures={
            "nats_per_token": Measure(
                *(of_params(predicted), Exactness.EXACT, "nats/token", "lower"),
                detail=f"context {config.context}, the first symbol "
                + ("not counted" if config.begin < 0 else "after a begin token"),
                per=count,
            )
        },
        spaces={"x": categorical(V), "document": categorical(), "loss_mask": BINARY},
        autoregression=Autoregression(
            *(start, extend, rewind),
            longest=lambda state: config.longest,
            begin=config.begin,
            end=config.end,
            ready=ready,
        ),
    )
