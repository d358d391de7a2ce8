"""Tabular policy: a table of what to write after each prefix, and a reward that is a rule.

    p(x) = Π_t softmax(θ[x_<t])_(x_t),   t = 1 .. T,   x_t in 0 .. V - 1       the policy

    J(p) = E_p[r(x)] - b KL(p, q)                                              what it raises
    J(p*) = b log Z,   p*(x) = q(x) exp(r(x) / b) / Z                          as high as it gets

Small enough to enumerate all V^T strings, so that what an estimator of policy gradients makes of it
(maths/sequences/policy_gradients.py) is measured against the closed form. The reference q is
uniform, or the policy of another run (--begin=reference=WORKDIR), from which learning then starts.

Of the data a policy needs nothing but its prompts, the first symbols of each string; without a
prompt they only say how long a string is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from genjax_zoo import typed
from genjax_zoo.contract import (
    COUNTS,
    NOTHING,
    Array,
    Autoregression,
    Batch,
    ConfigError,
    Exactness,
    Info,
    Key,
    Measure,
    Model,
    categorical,
)
from genjax_zoo.learn.state import TrainState, adopt, eval_params, of_params
from genjax_zoo.learn.verbs import reinforce
from genjax_zoo.maths.probability.given import check_count, part_of, prompt, read_given
from genjax_zoo.maths.sequences import optimum, policy_gradients
from genjax_zoo.maths.sequences.policy_gradients import Attempts
from genjax_zoo.typed import MOST_STEPS, choose, number

VERB = "reinforce"

REWARDS: dict[str, Callable[[Array], Array]] = {
    "count": lambda x: jnp.sum(x == 0, axis=1, dtype=jnp.float32),
    "palindrome": lambda x: jnp.asarray(jnp.all(x == x[:, ::-1], axis=1), jnp.float32),
    "alternation": lambda x: jnp.sum(x[:, 1:] != x[:, :-1], axis=1, dtype=jnp.float32),
}
"""r of strings [n, T] -> [n]: how many symbols are 0; 1 for what is the same backwards; how many
symbols differ from the one before."""

LARGEST = 2**16
"""Strings that are enumerated at most."""


@typed.config
class Config:
    """A tabular policy.

    Attributes:
      vocabulary: V, how many symbols there are.
      length: T, symbols in a string.
      prompt: how many symbols of each example are given, and not chosen by the policy.
      reward: r, a name in `REWARDS`.
      estimator: how worth becomes a gradient, and `beta`, the weight b of the KL.
      value: whether a value of each prefix is learnt, for ppo.
      sample_best_of: samples are the best, by the reward, of so many each.
      average: decay of the moving average of the parameters; 0 keeps none.
    """

    vocabulary: int = number(3, least=2)
    length: int = number(4, least=1, most=64)
    prompt: int = number(0, least=0)
    reward: str = "count"
    estimator: policy_gradients.Config = policy_gradients.Config()
    value: bool = False
    sample_best_of: int = number(1, least=1, most=MOST_STEPS)
    average: float = number(0.0, least=0, below=1)

    def __post_init__(self):
        choose(self.reward, REWARDS, "reward")
        if self.vocabulary**self.length > LARGEST:
            raise ConfigError(
                f"tabular_policy: all {self.vocabulary}^{self.length} strings are enumerated, and "
                f"that should be at most {LARGEST}; choose a smaller vocabulary or length."
            )
        if self.prompt >= self.length:
            raise ConfigError(
                f"tabular_policy: prompt should be below length={self.length}, got {self.prompt}: "
                "it leaves nothing to choose."
            )


@struct.dataclass
class Params:
    """What a tabular policy learns, for each of R = 1 + V + ... + V^(T-1) prefixes.

    A prefix is numbered like a node of a heap: the empty one is 0, and that of the prefix k with
    the symbol v at its end is V k + 1 + v.

    Attributes:
      logits: θ, of the next symbol [R, V].
      values: what is expected from there on [R]; None without a value function.
    """

    logits: Array
    values: Array | None = None


def make(config: Config, tx: optax.GradientTransformation) -> Model:
    """A policy that learns by trial; its memory is the frozen table of the reference."""
    V, T, P = config.vocabulary, config.length, config.prompt
    rows, best = (V**T - 1) // (V - 1), config.sample_best_of
    group, b, reward = config.estimator.group, config.estimator.beta, REWARDS[config.reward]

    def init(key: Key, batch: Batch, reference: Params | None = None) -> tuple[Params, Array]:
        """Raises ConfigError for strings of another length, or a reference that does not fit."""
        if batch["x"].shape[1:] != (T,):
            raise ConfigError(
                f"tabular_policy: strings should have model.length={T} symbols, got examples of "
                f"shape {batch['x'].shape[1:]}; set config.data.length to the same."
            )
        table = {"logits": jnp.zeros((rows, V))}
        if reference is not None:
            known = {"logits": getattr(reference, "logits", reference)}
            table = adopt(table, known, "reference")
        values = jnp.zeros(rows) if config.value else None
        return Params(table["logits"], values), table["logits"]

    # --------------------------------------------------------------------------- p(x_t | x_<t)

    def following(prefix: Array, x: Array) -> Array:
        """The prefixes after each symbol of x [n, S] that follows a prefix [n]: [n, S].

        What is below 0 is padding, and leads on to no other prefix.
        """
        found = [prefix]
        for symbol in x.T:
            found.append(jnp.where(symbol < 0, found[-1], V * found[-1] + 1 + symbol))
        return jnp.stack(found[1:], axis=1)

    def prefixes(x: Array) -> Array:
        """The prefix before each symbol: x [n, T] -> [n, T]."""
        first = jnp.zeros((len(x), 1), jnp.int32)
        return jnp.concatenate([first, following(first[:, 0], x)[:, :-1]], axis=1)

    def symbols(logits: Array, x: Array) -> Array:
        """log p(x_t | x_<t): x [n, T] -> [n, T]."""
        return jax.nn.log_softmax(logits)[prefixes(x), x]

    def write(key: Key, logits: Array, x: Array, known: Array) -> tuple[Array, Array]:
        """Strings and log p of their symbols [n, T], as x [n, T] has them where they are known."""

        def one(prefix: Array, now: tuple[Key, Array, Array]) -> tuple[Array, tuple[Array, Array]]:
            key, symbol, known = now
            symbol = jnp.where(known, symbol, jax.random.categorical(key, logits[prefix]))
            log_p = jax.nn.log_softmax(logits[prefix])[jnp.arange(len(prefix)), symbol]
            return V * prefix + 1 + symbol, (symbol, log_p)

        start = jnp.zeros(len(x), jnp.int32)
        _, (x, log_p) = jax.lax.scan(one, start, (jax.random.split(key, T), x.T, known.T))
        return x.T, log_p.T

    # ------------------------------------------------------------------------------- the trial

    def attempt(key: Key, params: Params, memory: Array, batch: Batch) -> tuple[Attempts, Array]:
        prompts = jnp.repeat(batch["x"], group, axis=0)
        chosen = jnp.broadcast_to(jnp.arange(T) >= P, prompts.shape)
        x, log_p = write(key, params.logits, prompts, ~chosen)
        return Attempts({"x": x}, log_p, jnp.asarray(chosen, jnp.float32)), memory

    def worth(key: Key, params: Params, memory: Array, attempts: Batch) -> tuple[Array, Info]:
        return reward(attempts["x"]), {}

    def log_probs(key: Key, params: Params, memory: Array, attempts: Batch) -> Array:
        return symbols(params.logits, attempts["x"])

    def reference(key: Key, params: Params, memory: Array, attempts: Batch) -> Array:
        return symbols(memory, attempts["x"])

    def value(key: Key, params: Params, memory: Array, attempts: Batch) -> Array:
        return params.values[prefixes(attempts["x"])]  # type: ignore[index]

    # ----------------------------------------------------------------------------- the numbers

    def everything(state: TrainState) -> tuple[Array, Array, Array]:
        """log p and log q of all that may follow a prompt, and r: [V^P, V^(T - P)] each."""
        x = jnp.arange(V**T)[:, None] // V ** jnp.arange(T - 1, -1, -1) % V
        after = lambda logits: jnp.sum(symbols(logits, x)[:, P:], axis=1)
        of = (after(eval_params(state).logits), after(state.memory), reward(x))
        return tuple(each.reshape(V**P, -1) for each in of)  # type: ignore[return-value]

    def of_prompt(number: Callable[[Array, Array, Array], Array]) -> Callable[..., Array]:
        """A number of (log p, log q, r) after each example's own prompt, exactly: [B]."""

        def measure(key: Key, state: TrainState, batch: Batch) -> Array:
            places = V ** jnp.arange(P - 1, -1, -1)
            return number(*everything(state))[batch["x"][:, :P] @ places]

        return measure

    expected = lambda log_p, log_q, r: jnp.sum(jnp.exp(log_p) * r, axis=1)
    kl = lambda log_p, log_q, r: optimum.divergence(log_p, log_q)
    objective = lambda *of: expected(*of) - b * kl(*of)
    gap = lambda log_p, log_q, r: optimum.optimum(log_q, r, b)[1] - objective(log_p, log_q, r)

    def log_prob(key: Key, params: Params, batch: Batch) -> Array:
        """log p(x), exactly: [B] nats."""
        return jnp.sum(symbols(params.logits, batch["x"]), axis=1)

    # ----------------------------------------------------------------------------- the samples

    def prompt_of(given: Batch, n: int) -> tuple[Array, Array]:
        """What is given of x [n, T], and where; raises DataError for what is no prompt."""
        told = read_given(given, part_of(COUNTS.of(V), (T,)), n, "tabular_policy")
        part = prompt(told, "tabular_policy")
        if part is None:
            return jnp.zeros((n, T), jnp.int32), jnp.zeros((n, T), bool)
        return jnp.asarray(part[0], jnp.int32), jnp.asarray(part[1])

    def sample(key: Key, params: Params, n: int, given: Batch = NOTHING) -> Batch:
        """x ~ p, after a prompt if one is given; the best of several with `sample_best_of`."""
        prompts, known = (jnp.repeat(part, best, axis=0) for part in prompt_of(given, n))
        x = write(key, params.logits, prompts, known)[0].reshape(n, best, T)
        first = jnp.argmax(reward(x.reshape(-1, T)).reshape(n, best), axis=1)
        return {"x": x[jnp.arange(n), first]}

    def start(state: TrainState, n: int, length: int, given: Batch = NOTHING) -> tuple[Array, Any]:
        """The cache is the number of the prefix [n]; raises DataError for more than T symbols."""
        read_given(given, {}, n, "tabular_policy")
        check_count("length", length, "tabular_policy", T)
        return jnp.broadcast_to(eval_params(state).logits[0], (n, V)), jnp.zeros(n, jnp.int32)

    def extend(state: TrainState, cache: Array, x: Array) -> tuple[Array, Array]:
        """What follows each symbol; after the T-th nothing does, and all logits are 0."""
        after = following(cache, x)
        logits = jnp.take(eval_params(state).logits, after, axis=0, mode="fill", fill_value=0.0)
        return logits, after[:, -1]

    def rewind(cache: Array, count: Array) -> Array:
        """A node's parent, T times at most."""
        up = lambda t, prefix: jnp.where(t < count, (prefix - 1) // V, prefix)
        return jax.lax.fori_loop(0, T, up, cache)

    estimator = policy_gradients.make(config.estimator)
    exact = lambda of, unit, better: Measure(of_prompt(of), Exactness.EXACT, unit, better)
    return Model(
        *reinforce(
            *(init, attempt, log_probs, worth, tx, estimator, reference),
            value=value if config.value else None,
            average=config.average,
        ),
        sample=of_params(sample),
        # The data are its prompts, and no example to follow.
        log_prob=Measure(of_params(log_prob), Exactness.EXACT, better="neither"),
        measures={
            "value": exact(objective, "reward", "higher"),
            "gap": exact(gap, "reward", "lower"),
            "expected_reward": exact(expected, "reward", "higher"),
            "kl": exact(kl, "nats", "neither"),
        },
        spaces={"x": categorical(V)},
        autoregression=Autoregression(start, extend, rewind, longest=lambda state: T),
    )
