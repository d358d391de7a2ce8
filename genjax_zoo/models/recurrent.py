"""Recurrent networks: what comes next, by a state of fixed size that has read all that came before.

    p(x) = Π_t p(x_t | h_t),     h_t = cell(h_{t-1}, x_{t-1})          Elman, LSTM or GRU, in layers

The symbols of a text, the pixels of a binary image in reading order, or a series of vectors, each
with the output that fits:

    categorical  x_t in 0 .. V - 1    softmax(W h + b)
    bernoulli    x_t in {0, 1}        the same of two, row by row
    gaussian     x_t in R^D           Σ_k w_k Π_d N(x_td; μ_kd, σ_kd²), w, μ and log σ all W h + b
                                      (a mixture density network: Bishop 1994, Graves 2013)

Learnt through time, back to the beginning or within pieces of so many places (Williams & Peng
1990). The state is the cache of what is written: h and c of each layer, whatever has been read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from genjax_zoo import nets, typed
from genjax_zoo.contract import (
    BINARY,
    COUNTS,
    NOTHING,
    REAL,
    Array,
    Autoregression,
    Batch,
    ConfigError,
    Exactness,
    Key,
    Measure,
    Model,
    categorical,
)
from genjax_zoo.learn.micro_batches import Mean
from genjax_zoo.learn.state import TrainState, eval_params, of_params
from genjax_zoo.learn.verbs import descend
from genjax_zoo.maths.probability import distributions
from genjax_zoo.maths.probability.distributions import flat
from genjax_zoo.maths.probability.given import check_count, part_of, prompt, read_given
from genjax_zoo.maths.probability.likelihoods import FLOOR
from genjax_zoo.maths.sequences.documents import PACKED_SPACES, beginnings, counted
from genjax_zoo.typed import MOST_LAYERS, number

VERB = "descend"


@typed.config
class Config:
    """A recurrent network.

    Attributes:
      output: what x_t is drawn of: "categorical", "bernoulli" or "gaussian".
      vocabulary: V of a categorical output.
      components: how many Gaussians a real x_t is a mixture of.
      cell: "elman", "lstm" or "gru".
      layers: how many, each reading the one below.
      width: H, units of each layer.
      embedding: numbers by which a symbol is read; 0 for as many as `width`.
      truncate: places of a piece that gradients stay within; 0 lets them through all time.
      begin: the symbol that is read before the first one, of V or, as V, of its own; -1 for none:
        the first symbol of a text is then uniform, log V nats. A series begins after zeros.
      dropout: probability by which an input of a layer, or of the output, is 0 in learning (Zaremba
        et al. 2014: not along time).
      average: decay of the moving average of the parameters; 0 keeps none.
    """

    output: Literal["categorical", "bernoulli", "gaussian"] = "bernoulli"
    vocabulary: int = number(0, least=0)
    components: int = number(1, least=1)
    cell: Literal["elman", "lstm", "gru"] = "lstm"
    layers: int = number(1, least=1, most=MOST_LAYERS)
    width: int = number(128, least=1)
    embedding: int = number(0, least=0)
    truncate: int = number(0, least=0)
    begin: int = number(-1, least=-1)
    dropout: float = number(0.0, least=0, below=1)
    average: float = number(0.0, least=0, below=1)

    def __post_init__(self):
        if (self.output == "categorical") != (self.vocabulary > 0) or self.vocabulary == 1:
            raise ConfigError(
                "recurrent: vocabulary should be 2 or more for a categorical output, and 0 for any "
                f"other, got {self.vocabulary} for {self.output!r}."
            )
        symbols = {"categorical": self.vocabulary, "bernoulli": 2, "gaussian": -1}[self.output]
        if self.begin > symbols:
            raise ConfigError(
                f"recurrent: begin should be in [-1, {symbols}] for a {self.output} output, got "
                f"{self.begin}."
            )
        if self.components > 1 and self.output != "gaussian":
            raise ConfigError(
                f"recurrent: components={self.components} is of a gaussian output, and this one is "
                f"{self.output}; set it to 1."
            )


@struct.dataclass
class Params:
    """What a recurrent network learns.

    Attributes:
      embedding: {"kernel": [V + 1, E]}, a row for each symbol and for a beginning of its own; {}
        of a series, whose numbers are read as they are.
      layers: of each, {"input", "recurrent"}: {"kernel", "bias"} (nets/recurrent.py).
      head: {"kernel" [H, outputs], "bias" [outputs]}.
      shape: of one example, without the batch.
    """

    embedding: Any
    layers: Any
    head: Any
    shape: tuple[int, ...] = struct.field(pytree_node=False)


class Output(NamedTuple):
    """What the times of an x are, and what is made of them.

    Attributes:
      code_length: (params, batch, key) -> (-log p(x) [B] nats, how much of it counts [B]); the key
        is that of dropout, None for none.
      sample: (key, params, n, given) -> batch.
      measures: of a model, beside its log_prob.
      autoregression: of one that writes symbols.
    """

    code_length: Callable[[Params, Batch, Key | None], tuple[Array, Array]]
    sample: Callable[..., Batch]
    measures: Mapping[str, Measure]
    autoregression: Autoregression | None = None


def make(config: Config, tx: optax.GradientTransformation) -> Model:
    """A recurrent network that follows the gradient of its likelihood."""
    net = nets.recurrent(config.cell, config.layers, config.width)
    of_symbols = config.output != "gaussian"
    output = symbols(config, net) if of_symbols else series(config, net)
    space = {"bernoulli": BINARY, "gaussian": REAL}.get(
        config.output, categorical(config.vocabulary)
    )

    def init(key: Key, batch: Batch) -> tuple[Params, tuple[()]]:
        shape = tuple(batch["x"].shape[1:])
        D, K, V, H = math.prod(shape[1:]), config.components, config.vocabulary or 2, config.width
        E, outputs = (config.embedding or H, V) if of_symbols else (D, K * (1 + 2 * D))
        key_embedding, key_layers, key_head, key_means = jax.random.split(key, 4)
        table = {"kernel": jax.random.normal(key_embedding, (V + 1, E))} if of_symbols else {}
        bias = jnp.zeros(outputs)
        if K > 1:
            # Components that begin alike would stay so.
            bias = bias.at[K : K + K * D].set(jax.random.normal(key_means, (K * D,)))
        kernel = 0.1 * jax.random.normal(key_head, (H, outputs)) / math.sqrt(H)
        head = {"kernel": kernel, "bias": bias}
        return Params(table, net.init(key_layers, E), head, shape), ()

    def loss(key: Key, params: Params, memory: tuple[()], batch: Batch):
        nats, amount = output.code_length(params, batch, key)
        return Mean(jnp.sum(nats), jnp.sum(amount)), (memory, {})

    def log_prob(key: Key, params: Params, batch: Batch) -> Array:
        """log p(x), exactly: [B] nats, and -inf for an x that is no string of symbols."""
        return -output.code_length(params, batch, None)[0]

    return Model(
        *descend(init, loss, tx, config.average),
        sample=of_params(output.sample),
        log_prob=Measure(of_params(log_prob), Exactness.EXACT, density=not config.vocabulary),
        measures=output.measures,
        spaces={"x": space, **(PACKED_SPACES if config.vocabulary else {})},
        autoregression=output.autoregression,
    )


def read(
    config: Config,
    net: nets.Recurrent,
    params: Params,
    state: Any,
    x: Array,
    known: Array,
    first: Array | None = None,
    key: Key | None = None,
) -> tuple[Array, Any]:
    """What the head says after each input, and the state after all of them.

    Args:
      config, net: of the model.
      params: of it.
      state: before.
      x: [n, S, E], inputs as the lowest layer reads them.
      known: which of them are read at all [n, S].
      first: before which of them all is forgotten [n, S]; None for nowhere.
      key: of dropout; None for none.

    Returns:
      [n, S, outputs], state.
    """
    S, K = x.shape[1], config.truncate
    begins = jnp.zeros(known.shape, bool) if first is None else first
    within = jnp.broadcast_to((jnp.arange(S) % K != 0) if K else jnp.ones(S, bool), known.shape)
    masks = nets.Masks(~begins.T, within.T, known.T)

    def drop(l: int, h: Array) -> Array:
        if key is None or not config.dropout:
            return h
        kept = jax.random.bernoulli(jax.random.fold_in(key, l), 1 - config.dropout, h.shape)
        return jnp.where(kept, h / (1 - config.dropout), 0)

    h, state = net.read(params.layers, state, x, masks, drop)
    return drop(config.layers, h) @ params.head["kernel"] + params.head["bias"], state


# -------------------------------------------------------------------------------------- symbols


def symbols(config: Config, net: nets.Recurrent) -> Output:
    """Symbols 0 .. V - 1, of which 0 and 1 are pixels."""
    V, begin = config.vocabulary or 2, config.begin

    def logits_after(params: Params, state: Any, x: Array, *how: Any) -> tuple[Array, Any]:
        """log p, but for a constant, of what follows x [n, S]: [n, S, V]; below 0 is not read."""
        inputs = params.embedding["kernel"][jnp.maximum(x, 0)]
        return read(config, net, params, state, inputs, x >= 0, *how)

    def of_each(params: Params, batch: Batch, key: Key | None = None) -> Array:
        """log p(x_t | x_<t) [B, T], -inf for what is no symbol."""
        x = flat(batch["x"])
        number = jnp.asarray(x, jnp.int32)
        known = (number == x) & (number >= 0) & (number < V)
        number = jnp.where(known, number, 0)
        first = beginnings(batch, x.shape)
        before = jnp.where(first, begin, jnp.roll(number, 1, axis=1))
        logits, _ = logits_after(params, net.start(len(x)), before, first, key)
        # Where nothing was read, nothing is known: log V.
        logits = jnp.where(before[..., None] >= 0, logits, 0.0)
        of = jnp.take_along_axis(jax.nn.log_softmax(logits), number[..., None], axis=-1)[..., 0]
        return jnp.where(known, of, -jnp.inf)

    def code_length(params: Params, batch: Batch, key: Key | None) -> tuple[Array, Array]:
        counts = counted(batch, flat(batch["x"]).shape)
        # What does not count may be anything, -inf too.
        nats = jnp.where(counts > 0, -of_each(params, batch, key) * counts, 0.0)
        return jnp.sum(nats, axis=1), jnp.sum(counts, axis=1)

    def start_of(params: Params, n: int) -> tuple[Array, Any]:
        empty = net.start(n)
        if begin < 0:
            return jnp.zeros((n, V)), empty
        logits, state = logits_after(params, empty, jnp.full((n, 1), begin, jnp.int32))
        return logits[:, 0], state

    def sample(key: Key, params: Params, n: int, given: Batch = NOTHING) -> Batch:
        """Draws x_1, then x_2 given x_1, and so on, after the beginning that is given."""
        numbers = COUNTS.of(V) if config.vocabulary else BINARY
        told = read_given(given, part_of(numbers, params.shape), n, "recurrent")
        T = math.prod(params.shape)
        value, known = prompt(told, "recurrent") or (jnp.zeros((n, T)), jnp.zeros((n, T), bool))

        def draw(before: tuple[Array, Any], now: tuple[Key, Array, Array]):
            (logits, state), (key, value, known) = before, now
            x = jnp.where(known, value, jax.random.categorical(key, logits)).astype(jnp.int32)
            logits, state = logits_after(params, state, x[:, None])
            return (logits[:, 0], state), x

        keys, value = jax.random.split(key, T), jnp.asarray(value, jnp.int32)
        _, x = jax.lax.scan(draw, start_of(params, n), (keys, value.T, jnp.asarray(known).T))
        dtype = jnp.int32 if config.vocabulary else jnp.float32
        return {"x": x.T.reshape(n, *params.shape).astype(dtype)}

    def start(state: TrainState, n: int, length: int, given: Batch = NOTHING) -> tuple[Array, Any]:
        """The cache is the state of every layer [n, H]; it has no end."""
        read_given(given, {}, n, "recurrent")
        check_count("length", length, "recurrent", typed.LARGEST)
        return start_of(eval_params(state), n)

    def extend(state: TrainState, cache: Any, x: Array) -> tuple[Array, Any]:
        return logits_after(eval_params(state), cache, x)

    nats = lambda key, params, batch: code_length(params, batch, None)[0]
    amount = lambda batch: jnp.sum(counted(batch, flat(batch["x"]).shape), axis=1)
    of_symbol = Measure(of_params(nats), Exactness.EXACT, "nats/symbol", "lower", per=amount)
    writes = Autoregression(start, extend, begin=begin if begin < V else -1)
    return Output(code_length, sample, {"nats_per_symbol": of_symbol}, writes)


# --------------------------------------------------------------------------------------- series


def series(config: Config, net: nets.Recurrent) -> Output:
    """Real x_t, the times of an x [T, ...], in nats per unit volume."""
    K = config.components

    def mixture(f: Array) -> tuple[Array, Array, Array]:
        """log w [..., K], μ and log σ [..., K, D] of what the head says."""
        D = (f.shape[-1] // K - 1) // 2
        means, log_std = (
            f[..., first : first + K * D].reshape(*f.shape[:-1], K, D) for first in (K, K + K * D)
        )
        return jax.nn.log_softmax(f[..., :K]), means, jnp.maximum(log_std, FLOOR)

    def times(x: Array) -> Array:
        """[B, T, D]."""
        return x.reshape(*x.shape[:2], -1)

    def predicted(params: Params, x: Array, key: Key | None = None) -> tuple[Array, Array, Array]:
        """The mixture of each x_t, given those before it."""
        before = jnp.pad(x[:, :-1], ((0, 0), (1, 0), (0, 0)))
        known = jnp.ones(x.shape[:2], bool)
        return mixture(read(config, net, params, net.start(len(x)), before, known, None, key)[0])

    def of_each(params: Params, x: Array, key: Key | None = None) -> Array:
        """log p(x_t | x_<t) [B, T] of x [B, T, D]."""
        log_w, means, log_std = predicted(params, x, key)
        # log Σ_k w_k N(x; μ_k, σ_k²)
        of_component = distributions.gaussian(x[:, :, None], means, log_std)
        return jax.nn.logsumexp(log_w + of_component, axis=-1)

    def code_length(params: Params, batch: Batch, key: Key | None) -> tuple[Array, Array]:
        x = times(batch["x"])
        return -jnp.sum(of_each(params, x, key), axis=1), jnp.full(len(x), x[0].size)

    def forecast_error(key: Key, params: Params, batch: Batch) -> Array:
        """Σ_t |x_t - E[x_t | x_<t]|² [B]."""
        x = times(batch["x"])
        log_w, means, _ = predicted(params, x)
        mean = jnp.sum(jnp.exp(log_w)[..., None] * means, axis=-2)
        return jnp.sum((x - mean) ** 2, axis=(1, 2))

    def numbers_of(batch: Batch) -> Array:
        """How many numbers each example has [B]."""
        x = batch["x"]
        return jnp.full(len(x), x[0].size, jnp.float32)

    def sample(key: Key, params: Params, n: int, given: Batch = NOTHING) -> Batch:
        """Draws x_1, then x_2 given x_1, and so on, after the beginning that is given."""
        told = read_given(given, part_of(REAL, params.shape), n, "recurrent")
        T, D = params.shape[0], math.prod(params.shape[1:])
        nothing = (jnp.zeros((n, T * D)), jnp.zeros((n, T * D), bool))
        value, known = (
            jnp.asarray(part).reshape(n, T, D).swapaxes(0, 1)
            for part in prompt(told, "recurrent") or nothing
        )

        def draw(before: tuple[Array, Any], now: tuple[Key, Array, Array]):
            (x, state), (key, value, known) = before, now
            f, state = read(config, net, params, state, x[:, None], jnp.ones((n, 1), bool))
            log_w, means, log_std = mixture(f[:, 0])
            key_component, key_noise = jax.random.split(key)
            # Of an x_t that is known in part: p(k | known) ∝ w_k Π_known N(x_d; μ_kd, σ_kd²)
            told = (value[:, None, :, None], means[..., None], log_std[..., None])
            log_p = jnp.where(known[:, None], distributions.gaussian(*told), 0.0)
            log_w += jnp.sum(log_p, axis=-1)
            k = jax.random.categorical(key_component, log_w)
            mean, log_std = (part[jnp.arange(n), k] for part in (means, log_std))
            x = mean + jnp.exp(log_std) * jax.random.normal(key_noise, mean.shape)
            x = jnp.where(known, value, x)
            return (x, state), x

        first = (jnp.zeros((n, D)), net.start(n))
        _, x = jax.lax.scan(draw, first, (jax.random.split(key, T), value, known))
        return {"x": x.swapaxes(0, 1).reshape(n, *params.shape)}

    error = Measure(
        *(of_params(forecast_error), Exactness.EXACT, "squared error", "lower"), per=numbers_of
    )
    return Output(code_length, sample, {"forecast_error": error})
