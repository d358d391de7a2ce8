"""The outer fields that every config has, and how a config file is put together.

Floor 6. A config file of the zoo holds a table of variants and one line:

    def get_config(variant: str = "digits"):
        return assemble(VARIANTS, variant)

`assemble` fills in every field that the variant does not name, so that each can be overridden on
the command line (`--config.model.latents=10`) and a misspelt one cannot.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import ml_collections

from genjax_zoo import typed
from genjax_zoo.contract import ConfigError, Model
from genjax_zoo.data.config import Data
from genjax_zoo.learn import optimizers
from genjax_zoo.models import ZOO, Family
from genjax_zoo.run.devices import Devices
from genjax_zoo.typed import choose, number


@typed.config
class Run:
    """One run, whole. `model` alone differs from family to family.

    Attributes:
      seed: the root of all randomness: initial parameters, order of the data, keys of the steps.
      steps: how many steps in all.
      data: what is learnt from.
      model: `name`, and the family's own fields.
      optimizer: for the verbs that follow gradients.
      log_every: steps between two lines of metrics.
      checkpoint_every: steps between two checkpoints.
      sample_every: steps between two pictures of samples; 0 draws only the last.
      eval_every: steps between two measurements on held-out data; 0 measures only at the end.
      eval_examples: held-out examples measured during training, from the first.
      final_examples: the same at the end; 0 measures all of them.
      samples: how many samples a picture shows.
      keep_last: checkpoints kept, and one more while the run lasts; the best, by the measurements,
        is kept besides.
      steps_per_call: steps in one compiled call.
      devices: how the batch and the parameters are laid over the devices.
    """

    model: dict
    # jax would drop the upper half of a longer one, and two seeds would be the same.
    seed: int = number(0, least=0, below=2**32)
    steps: int = number(1000, least=1)
    data: Data = dataclasses.field(default_factory=Data)
    optimizer: optimizers.Config = dataclasses.field(default_factory=optimizers.Config)
    log_every: int = number(100, least=1)
    checkpoint_every: int = number(1000, least=1)
    sample_every: int = number(1000, least=0)
    eval_every: int = number(1000, least=0)
    eval_examples: int = number(1000, least=1)
    final_examples: int = number(0, least=0)
    samples: int = number(64, least=1, most=10**5)
    keep_last: int = number(2, least=1)
    steps_per_call: int = number(20, least=1)
    devices: Devices = dataclasses.field(default_factory=Devices)


def family_of(model: Mapping[str, Any]) -> Family:
    """The family that `config.model.name` names."""
    if "name" not in model:
        raise ConfigError(f"config.model.name is missing; known models: {', '.join(ZOO)}.")
    return choose(model["name"], ZOO, "model")


def make_model(run: Run) -> Model:
    """The model that a run's config describes."""
    family = family_of(run.model)
    fields = {k: v for k, v in run.model.items() if k != "name"}
    _check_owner(family, fields)
    model = family.make(
        typed.typed(family.Config, fields, "config.model"),
        optimizers.make(run.optimizer, run.steps),
    )
    if getattr(model.step, "micro_batches", 1) != (wanted := run.optimizer.micro_batches):
        raise ConfigError(
            f"config.optimizer.micro_batches={wanted}, but this {family.name} (verb "
            f"{family.verb}) takes each batch whole: only what follows the gradient of one loss "
            "adds it up from parts. Set it to 1."
        )
    return model


def _check_owner(family: Family, fields: Mapping[str, Any]) -> None:
    """Raises ConfigError where the fields are all those of another family."""
    own = lambda of: {field.name for field in dataclasses.fields(of.Config)}
    if not set(fields) <= own(family):
        for other in ZOO.values():
            if set(fields) == own(other):
                raise ConfigError(
                    f"config.model.name={family.name!r}, but its other fields are those of a "
                    f"{other.name}; choose that family's own: "
                    f"--config=configs/{family.name}.py:VARIANT."
                )


def read(config: ml_collections.ConfigDict | Mapping[str, Any]) -> Run:
    """The typed run of an untyped config; raises ConfigError and names what is wrong."""
    fields = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else dict(config)
    run = typed.typed(Run, fields, "config")
    make_model(run)
    return run


def assemble(variants: Mapping[str, Mapping], variant: str) -> ml_collections.ConfigDict:
    """The locked ConfigDict of one variant, every field of it filled in.

    Args:
      variants: name -> nested fields. A field that is not named keeps its dataclass's default.
      variant: which one.
    """
    given = choose(variant, variants, "variant")
    family = family_of(given["model"])
    # The defaults are read off the dataclasses, whose fields all have one.
    defaults = dataclasses.asdict(Run(model={}))
    defaults["model"] = {"name": family.name, **_defaults(family.Config)}
    config = ml_collections.ConfigDict(_merge(defaults, given), convert_dict=True)
    return config.lock()


def _defaults(cls: type) -> dict[str, Any]:
    return dataclasses.asdict(cls())


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in over.items():
        old = merged.get(name)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[name] = _merge(dict(old or {}), value) if both else value
    return merged
