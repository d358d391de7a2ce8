"""config.json and the fields of ours that say the same, read and written by one table.

Floor 6. transformers 4 writes `rope_theta`, `rope_scaling` and `torch_dtype`, 5 writes
`rope_parameters` and `dtype`: both are read, and both are written, so that either reads what is
ours. Whatever is written is read again first: what comes back otherwise cannot be said there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from genjax_zoo.contract import ConfigError
from genjax_zoo.run.weights.architectures import (
    ARCHITECTURES,
    NEEDED,
    UNUSED,
    Architecture,
    Field,
    Only,
)
from genjax_zoo.typed import nearest

ROPE = "rope_"
LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
"""What the rope_type "llama3" needs."""
TRAINING = {
    *("name", "dropout", "init_std", "residual_init", "dtype", "remat", "average", "balance"),
    *("capacity", "lora_rank", "lora_alpha", "lora_where", "rotary_layout", "pad_vocabulary_to"),
}
"""Our fields that no folder has to hold: how a model learns, and what is settled at the door."""


class Read(NamedTuple):
    """What a config.json says.

    Attributes:
      architecture: of which kind it is.
      fields: ours, by their names.
      remarks: what is not taken from it, in words.
    """

    architecture: Architecture
    fields: dict[str, Any]
    remarks: tuple[str, ...]


def read(theirs: Mapping[str, Any], where: str) -> Read:
    """The fields of ours that a config.json means; raises ConfigError where we know none.

    Args:
      theirs: its fields.
      where: whose they are, for messages.
    """
    known = sorted({one.model_type for one in ARCHITECTURES})
    kind = theirs.get("model_type")
    if kind is None:
        raise ConfigError(
            f"{where} has no model_type; expected one of {', '.join(known)}, as transformers "
            "writes it."
        )
    if kind not in known:
        raise ConfigError(f"{where}: {nearest(str(kind), known, 'architecture')}")
    if theirs.get("quantization_config"):
        raise ConfigError(
            f"{where}: these weights are quantized (quantization_config), and are read as "
            "float32, float16 or bfloat16 alone; take the folder that they were made from."
        )
    flat = _flat(theirs, where)
    kinds = [one for one in ARCHITECTURES if one.model_type == kind]
    wrong = {one.kind: [o for o in one.only if not _may(o, flat)] for one in kinds}
    best = min(kinds, key=lambda one: len(wrong[one.kind]))
    if wrong[best.kind]:
        only = wrong[best.kind][0]
        raise ConfigError(
            f"{where}: {only.theirs} is {flat.get(only.theirs, only.default)!r}, which we do not "
            f"know to compute; expected {' or '.join(map(repr, only.values))}."
        )
    fields: dict[str, Any] = dict(best.always)
    said: dict[str, Field] = {}
    remarks = []
    for field in best.fields:
        value = _ours(field, flat, where)
        if isinstance(value, list) and value and field.ours == "end":
            remarks.append(f"of the ends {value} the first is taken; the others stop no sample")
            value = value[0]
        if field.ours in said and fields[field.ours] != value:
            raise ConfigError(
                f"{where}: {said[field.ours].theirs} and {field.theirs} differ, and in a model of "
                f"ours both are {field.ours}; such a one we cannot compute."
            )
        fields[field.ours], said[field.ours] = value, field
    told = {field.theirs for field in best.fields} | {only.theirs for only in best.only}
    strange = sorted(set(flat) - told - UNUSED)
    if strange:
        remarks.append(f"not known, and not used: {', '.join(strange)}")
    return Read(best, fields, tuple(remarks))


def write(ours: Mapping[str, Any], dtype: str) -> tuple[Architecture, dict[str, Any]]:
    """The config.json of a model of ours, and the architecture that it is.

    Args:
      ours: all fields of its config.
      dtype: of the numbers of its tensors.

    Raises ConfigError, with the fields, for one that is none of those that we know.
    """
    differing = {}
    for architecture in ARCHITECTURES:
        theirs = _written(architecture, ours, dtype)
        back = {**ours, **read(theirs, "config.json").fields}
        one, other = resolved(ours), resolved(back)
        differing[architecture.kind] = [n for n in one if n in other and one[n] != other[n]]
        if not differing[architecture.kind]:
            return architecture, theirs
    nearest_kind = min(differing, key=lambda kind: len(differing[kind]))
    names = ", ".join(f"{name}={ours[name]!r}" for name in differing[nearest_kind])
    raise ConfigError(
        f"no architecture of transformers that we know is this model: of {nearest_kind}, the "
        f"nearest, it differs by {names}. It can be kept as it is, in its workdir."
    )


def resolved(ours: Mapping[str, Any]) -> dict[str, Any]:
    """What of our fields a model computes by, each as what it means."""
    fields = {name: value for name, value in ours.items() if name not in TRAINING}
    heads = fields["heads"]
    fields["key_heads"] = fields["key_heads"] or heads
    fields["head_width"] = fields["head_width"] or fields["width"] // heads
    fields["inner"] = fields["inner"] or 4 * fields["width"]
    scaling = [name for name in fields if name.startswith("rotary_")]
    unread = scaling if fields["position"] != "rotary" else []
    if fields["rotary_factor"] == 1:
        unread = [*unread, "rotary_low", "rotary_high", "rotary_context"]
    unread += [] if fields["parallel"] else ["norms"]
    unread += [] if fields["experts"] else ["experts_per_token"]
    return {name: value for name, value in fields.items() if name not in unread}


def sizes(ours: Mapping[str, Any]) -> dict[str, int]:
    """Of the axes of our arrays and theirs, by their letters (maps.py)."""
    fields = resolved(ours)
    heads, keys, head = (fields[name] for name in ("heads", "key_heads", "head_width"))
    return {
        **{"N": fields["layers"], "V": fields["vocabulary"], "D": fields["width"]},
        **{"P": fields["context"], "F": fields["inner"], "h": heads, "k": keys},
        **{"g": heads // keys, "W": head, "c": 2, "r": head // 2},
    }


# ---------------------------------------------------------------------------------- one dialect


def _flat(theirs: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields of either dialect under one name each; those of a rotation begin with rope_."""
    flat = {k: v for k, v in theirs.items() if k not in ("rope_parameters", "rope_scaling")}
    for group in ("rope_scaling", "rope_parameters"):
        inside = {} if theirs.get(group) is None else theirs[group]
        if not isinstance(inside, Mapping):
            raise ConfigError(f"{where}: {group} should be an object, got {inside!r}.")
        # The oldest called it `type`, and many have both.
        named = {"rope_type" if k in ("type", "rope_type") else k: v for k, v in inside.items()}
        for name, value in named.items():
            if isinstance(value, Mapping):
                raise ConfigError(
                    f"{where}: {group} differs from layer to layer ({name}), and in a model of "
                    "ours it does not."
                )
            outer = name if name in ("rope_type", "rope_theta", PARTIAL) else ROPE + name
            if outer in flat and flat[outer] != value:
                raise ConfigError(
                    f"{where}: {outer} is {flat[outer]!r} and, in {group}, {value!r}; leave the "
                    "wrong one out."
                )
            flat[outer] = value
        missing = [name for name in LLAMA3 if name not in named]
        if named.get("rope_type") == "llama3" and missing:
            raise ConfigError(f"{where}: {missing[0]} is missing in {group}, which is of llama3.")
    if flat.get("rope_type", "default") == "default":
        # transformers 5 leaves numbers there that it does not use.
        flat = {name: value for name, value in flat.items() if name not in _SCALING}
    return flat


PARTIAL = "partial_rotary_factor"
_SCALING = frozenset(ROPE + name for name in LLAMA3)


def _may(only: Only, flat: Mapping[str, Any]) -> bool:
    return flat.get(only.theirs, only.default) in only.values


def _ours(field: Field, flat: Mapping[str, Any], where: str) -> Any:
    """What a field of theirs means in ours."""
    value = flat.get(field.theirs, field.default)
    if value is NEEDED:
        raise ConfigError(
            f"{where}: {field.theirs} is missing; without it the shapes of the weights are not "
            "known."
        )
    if value is None:
        return field.null
    if not field.names:
        return value
    if not isinstance(value, str | bool) or value not in field.names:
        raise ConfigError(f"{where}: {nearest(str(value), map(str, field.names), field.theirs)}")
    return field.names[value]


def _written(architecture: Architecture, ours: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The fields of ours in theirs, whether that says all of them or not."""
    fields = {**ours, **resolved(ours)}
    flat: dict[str, Any] = {}
    for field in architecture.fields:
        value = fields[field.ours]
        inverse = {own: name for name, own in reversed(list(field.names.items()))}
        if field.names:
            flat[field.theirs] = inverse.get(value, next(iter(field.names)))
        else:
            flat[field.theirs] = None if value == field.null else value
    flat |= {only.theirs: only.values[0] for only in architecture.only}
    theirs = {
        "architectures": [architecture.class_name],
        "model_type": architecture.model_type,
        **{
            name: value
            for name, value in flat.items()
            if name not in _SCALING | {"rope_type", PARTIAL}
        },
        "dtype": dtype,
        "torch_dtype": dtype,
    }
    if "rope_theta" in flat:
        scaled = flat["rope_factor"] != 1
        told = {name: flat[ROPE + name] for name in LLAMA3} if scaled else {}
        told = {"rope_type": "llama3" if scaled else "default", **told}
        theirs["rope_scaling"] = told if scaled else None
        theirs["rope_parameters"] = {**told, "rope_theta": flat["rope_theta"]}
    return theirs
