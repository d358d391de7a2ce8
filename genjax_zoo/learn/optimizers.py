"""Optimizers by name, from optax, with their schedules.

Floor 3.
"""

from __future__ import annotations

from typing import Any, Literal

import jax
import optax

from genjax_zoo import typed
from genjax_zoo.contract import ConfigError
from genjax_zoo.typed import number


@typed.config
class Config:
    """Which optimizer, at what pace.

    Attributes:
      name: adam, adamw, sgd (with `momentum`) or rmsprop.
      learning_rate: the peak of the schedule.
      schedule: constant, cosine or linear: from the peak to `final_fraction` of it at the end.
      final_fraction: where the schedule ends, as a fraction of `learning_rate`.
      warmup_steps: steps in which the rate first rises linearly from 0.
      b1, b2, eps: Adam's moments; rmsprop's decay is `b2`.
      momentum: of sgd and rmsprop; 0 is none.
      weight_decay: decoupled (adamw), in units of the learning rate.
      decayed: what of the parameters: "all", or those called "kernel", which leaves out biases and
        the scales of norms.
      clip_norm: largest global norm of a gradient; 0 leaves it alone.
      micro_batches: in how many parts a batch is taken, one after another, so that a batch can be
        larger than what memory holds of it at once; the step is the same (learn/micro_batches.py).
    """

    name: Literal["adam", "adamw", "sgd", "rmsprop"] = "adam"
    learning_rate: float = number(1e-3, above=0)
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    final_fraction: float = number(0.0, least=0, most=1)
    warmup_steps: int = number(0, least=0)
    b1: float = number(0.9, least=0, below=1)
    b2: float = number(0.999, least=0, below=1)
    eps: float = number(1e-8, above=0, most=1)
    momentum: float = number(0.0, least=0, below=1)
    weight_decay: float = number(0.0, least=0)
    decayed: Literal["all", "kernels"] = "all"
    clip_norm: float = number(0.0, least=0)
    micro_batches: int = number(1, least=1)

    def __post_init__(self):
        for name, what, is_read in (
            ("momentum", "name 'sgd' or 'rmsprop'", self.name in ("sgd", "rmsprop")),
            ("weight_decay", "name 'adamw'", self.name == "adamw"),
            ("final_fraction", "schedule 'cosine' or 'linear'", self.schedule != "constant"),
        ):
            if getattr(self, name) and not is_read:
                raise ConfigError(
                    f"optimizers: {name}={getattr(self, name)} is of {what}, and would be ignored "
                    f"by {self.name!r} with a {self.schedule} schedule; set it to 0, or choose "
                    "what reads it."
                )


class Optimizer(optax.GradientTransformation):
    """An optimizer, and what its user wants of the gradient that it is given.

    Attributes:
      micro_batches: in how many parts the gradient of a batch is taken. What is made of an
        Optimizer by optax is none any more, and its batches are taken whole.
    """

    micro_batches: int = 1


def make(config: Config, steps: int) -> Optimizer:
    """The optimizer for a run of `steps` steps."""
    rate = schedule(config, steps)
    moments = {"b1": config.b1, "b2": config.b2, "eps": config.eps}
    momentum = config.momentum or None
    rule = {
        "adam": lambda: optax.adam(rate, **moments),
        "adamw": lambda: optax.adamw(
            rate,
            **moments,
            weight_decay=config.weight_decay,
            mask=kernels if config.decayed == "kernels" else None,
        ),
        "sgd": lambda: optax.sgd(rate, momentum=momentum),
        "rmsprop": lambda: optax.rmsprop(rate, config.b2, config.eps, momentum=momentum),
    }[config.name]()
    if config.clip_norm > 0:
        rule = optax.chain(optax.clip_by_global_norm(config.clip_norm), rule)
    optimizer = Optimizer(*rule)
    optimizer.micro_batches = config.micro_batches
    return optimizer


def kernels(params: Any) -> Any:
    """Which leaves of a tree are called "kernel", or adapt one (nets.lora): a tree of bool.

    It goes by the name, for a bias of stacked layers has as many axes as a matrix.
    """
    called = lambda path, _: jax.tree_util.DictKey("kernel") in path
    found = jax.tree_util.tree_map_with_path(called, params)
    if not any(jax.tree.leaves(found)):
        raise ConfigError(
            "optimizers: decayed='kernels' decays what a network calls a kernel, and this model "
            "has none; set it to 'all'."
        )
    return found


def schedule(config: Config, steps: int) -> optax.Schedule:
    """The learning rate as a function of the step."""
    peak, warmup = config.learning_rate, config.warmup_steps
    rest = max(steps - warmup, 1)
    after = {
        "constant": lambda: optax.constant_schedule(peak),
        "cosine": lambda: optax.cosine_decay_schedule(peak, rest, config.final_fraction),
        "linear": lambda: optax.linear_schedule(peak, peak * config.final_fraction, rest),
    }[config.schedule]()
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def at_step(optimizer: Any, steps: int) -> Any:
    """An optimizer's fresh state whose schedules of the learning rate stand where they do after
    `steps` steps: for a stage that begins in the middle of a run."""
    scheduled = lambda leaf: isinstance(leaf, optax.ScaleByScheduleState)
    join = lambda leaf: leaf._replace(count=leaf.count + steps) if scheduled(leaf) else leaf
    return jax.tree.map(join, optimizer, is_leaf=scheduled)
