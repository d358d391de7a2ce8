"""The architectures of Hugging Face that a decoder-only Transformer of ours can be: data alone.

Floor 6. Of each: what its config.json calls the fields of ours, what it always is, and the rules of
its tensors (maps.py). Queries and keys lie in all folders so that a rotation mixes the first half
of a head with the second; a model of ours that mixes neighbours (`interleaved`) has their rows in
another order, which is settled here, at the door, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from genjax_zoo.run.weights.maps import Leaf, Rule, one

NEEDED = object()
"""The default of a field without which there is no model."""


class Field(NamedTuple):
    """A field of config.json, and the one of ours that says the same.

    Attributes:
      ours, theirs: what they are called.
      default: of theirs, where it is not written.
      null: what their null means in ours.
      names: what their values are called here, where that is something else.
    """

    ours: str
    theirs: str
    default: Any = NEEDED
    null: Any = None
    names: Mapping[Any, Any] = {}


class Only(NamedTuple):
    """A field of config.json of which we know to compute some values alone.

    Attributes:
      theirs: what it is called.
      default: where it is not written.
      values: those that we know; the first is the one that is written.
    """

    theirs: str
    default: Any
    values: tuple[Any, ...]


class Architecture(NamedTuple):
    """One kind of folder.

    Attributes:
      kind: what we call it.
      model_type, class_name: what config.json calls it.
      fields: those that both have.
      always: our fields, by what each model of this kind has.
      only: their fields that ours has not, and what they must be.
      rules: our `rotary_layout` -> the tensors.
      prefix: of the names of all tensors but the head, which the folder of a bare model lacks.
      buffers: patterns of tensors that are computed, and which older versions wrote nevertheless.
    """

    kind: str
    model_type: str
    class_name: str
    fields: tuple[Field, ...]
    always: Mapping[str, Any]
    only: tuple[Only, ...]
    rules: Callable[[str], tuple[Rule, ...]]
    prefix: str
    buffers: tuple[str, ...] = ()

    def named(self, name: str) -> str:
        """A tensor as it is written."""
        return name if name == HEAD else self.prefix + name


HEAD = "lm_head.weight"
"""The one tensor that has no prefix."""
ACTIVATIONS = {
    **{"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh"},
    **{"gelu": "gelu", "silu": "silu", "swish": "silu", "relu": "relu"},
}
"""What the activations are called there, and here; of several the first is written."""
UNUSED = {
    *("architectures", "model_type", "transformers_version", "_name_or_path", "name_or_path"),
    *("dtype", "torch_dtype", "use_cache", "auto_map", "pad_token_id", "n_ctx", "is_decoder"),
    *("initializer_range", "attention_dropout", "hidden_dropout", "gradient_checkpointing"),
    *("resid_pdrop", "embd_pdrop", "attn_pdrop", "pretraining_tp", "reorder_and_upcast_attn"),
    *("summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type"),
    *("summary_use_proj", "task_specific_params", "output_past", "multi_query", "num_kv_heads"),
}
"""Fields of config.json that change nothing of what a trained model computes.

So the number of key heads of Falcon 7B, which is written and is not what it has; where the last two
do tell something, a field or an `Only` says so.
"""


def _ends(begin: int, end: int) -> tuple[Field, ...]:
    return Field("begin", "bos_token_id", begin, -1), Field("end", "eos_token_id", end, -1)


ROTARY = (
    Field("rotary_base", "rope_theta", 10000.0),
    Field("rotary_factor", "rope_factor", 1.0),
    Field("rotary_low", "rope_low_freq_factor", 1.0),
    Field("rotary_high", "rope_high_freq_factor", 4.0),
    Field("rotary_context", "rope_original_max_position_embeddings", 8192),
)
"""Of `rope_scaling` or `rope_parameters`, which dialects.py lays flat."""
ROPE = (
    Only("rope_type", "default", ("default", "llama3")),
    Only("partial_rotary_factor", 1.0, (1.0, None)),
)
PLAIN = {"window": 0, "experts": 0}


def _turned(layout: str) -> str:
    """The axes of a head of ours whose rows a rotation mixes."""
    return {"half": "(c r)", "interleaved": "(r c)"}[layout]


def _norms(names: Mapping[str, str], bias: bool) -> tuple[Rule, ...]:
    """Of norms by their names there, and here."""
    ends = {"weight": "scale", "bias": "bias"} if bias else {"weight": "scale"}
    return tuple(
        one(f"{name}.{end}", "D", f"{path}/{own}")
        for name, path in names.items()
        for end, own in ends.items()
    )


# ------------------------------------------------------------------------------------------- GPT-2


def _gpt2(layout: str) -> tuple[Rule, ...]:
    """Its matrices are (in, out); query, key and value lie beside each other in one of them."""
    fused = [f"blocks/attention/{name}" for name in ("query", "key", "value")]
    return (
        one("wte.weight", "V D", "embedding/kernel"),
        one("wpe.weight", "P D", "positions/kernel"),
        *_norms(
            {
                "h.{}.ln_1": "blocks/attention_norm",
                "h.{}.ln_2": "blocks/mlp_norm",
                "ln_f": "final_norm",
            },
            bias=True,
        ),
        Rule(
            *("h.{}.attn.c_attn.weight", "D (p h W)"),
            tuple(Leaf(f"{path}/kernel", "D (p h) W") for path in fused),
        ),
        Rule(
            *("h.{}.attn.c_attn.bias", "(p h W)"),
            tuple(Leaf(f"{path}/bias", "(p h) W") for path in fused),
        ),
        one("h.{}.attn.c_proj.weight", "(h W) D", "blocks/attention/out/kernel", "h W D"),
        one("h.{}.attn.c_proj.bias", "D", "blocks/attention/out/bias"),
        one("h.{}.mlp.c_fc.weight", "D F", "blocks/mlp/up/kernel"),
        one("h.{}.mlp.c_fc.bias", "F", "blocks/mlp/up/bias"),
        one("h.{}.mlp.c_proj.weight", "F D", "blocks/mlp/down/kernel"),
        one("h.{}.mlp.c_proj.bias", "D", "blocks/mlp/down/bias"),
        one(HEAD, "V D", "head/kernel", "D V"),
    )


GPT2 = Architecture(
    *("GPT-2", "gpt2", "GPT2LMHeadModel"),
    fields=(
        Field("vocabulary", "vocab_size"),
        Field("context", "n_positions"),
        Field("layers", "n_layer"),
        Field("width", "n_embd"),
        Field("heads", "n_head"),
        Field("inner", "n_inner", None, 0),
        Field("activation", "activation_function", "gelu_new", names=ACTIVATIONS),
        Field("epsilon", "layer_norm_epsilon", 1e-5),
        Field("tied", "tie_word_embeddings", True),
        *_ends(50256, 50256),
    ),
    always={
        **PLAIN,
        **{"norm": "layer", "norm_bias": True, "position": "learnt", "gated": False},
        **{"parallel": False, "bias": True, "key_heads": 0, "head_width": 0},
    },
    only=(
        Only("scale_attn_weights", True, (True,)),
        Only("scale_attn_by_inverse_layer_idx", False, (False,)),
        Only("add_cross_attention", False, (False,)),
    ),
    rules=_gpt2,
    prefix="transformer.",
    buffers=(r"h\.\d+\.attn\.(masked_)?bias",),
)


# ------------------------------------------------------------------------------- LLaMA and Mistral


def _llama(layout: str) -> tuple[Rule, ...]:
    """All matrices are (out, in)."""
    turned = _turned(layout)
    attention, mlp = "layers.{}.self_attn", "layers.{}.mlp"
    into = [("q", "query", "h", turned), ("k", "key", "k", turned), ("v", "value", "k", "(c r)")]
    return (
        one("embed_tokens.weight", "V D", "embedding/kernel"),
        *_norms(
            {
                "layers.{}.input_layernorm": "blocks/attention_norm",
                "layers.{}.post_attention_layernorm": "blocks/mlp_norm",
                "norm": "final_norm",
            },
            bias=False,
        ),
        *(
            rule
            for letter, name, heads, head in into
            for there, here in [
                (f"{attention}.{letter}_proj", f"blocks/attention/{name}"),
            ]
            for rule in (
                one(f"{there}.weight", f"({heads} c r) D", f"{here}/kernel", f"D {heads} {head}"),
                one(f"{there}.bias", f"({heads} c r)", f"{here}/bias", f"{heads} {head}"),
            )
        ),
        one(f"{attention}.o_proj.weight", "D (h W)", "blocks/attention/out/kernel", "h W D"),
        one(f"{attention}.o_proj.bias", "D", "blocks/attention/out/bias"),
        *(
            rule
            for name in ("gate", "up")
            for rule in (
                one(f"{mlp}.{name}_proj.weight", "F D", f"blocks/mlp/{name}/kernel", "D F"),
                one(f"{mlp}.{name}_proj.bias", "F", f"blocks/mlp/{name}/bias"),
            )
        ),
        one(f"{mlp}.down_proj.weight", "D F", "blocks/mlp/down/kernel", "F D"),
        one(f"{mlp}.down_proj.bias", "D", "blocks/mlp/down/bias"),
        one(HEAD, "V D", "head/kernel", "D V"),
    )


LLAMA = Architecture(
    *("LLaMA", "llama", "LlamaForCausalLM"),
    fields=(
        Field("vocabulary", "vocab_size"),
        Field("context", "max_position_embeddings", 2048),
        Field("layers", "num_hidden_layers"),
        Field("width", "hidden_size"),
        Field("heads", "num_attention_heads"),
        Field("key_heads", "num_key_value_heads", None, 0),
        Field("head_width", "head_dim", None, 0),
        Field("inner", "intermediate_size"),
        Field("activation", "hidden_act", "silu", names=ACTIVATIONS),
        Field("epsilon", "rms_norm_eps", 1e-6),
        Field("tied", "tie_word_embeddings", False),
        Field("bias", "attention_bias", False),
        Field("bias", "mlp_bias", False),
        *ROTARY,
        *_ends(1, 2),
    ),
    always={
        **PLAIN,
        **{"norm": "rms", "norm_bias": False, "position": "rotary", "gated": True},
        **{"parallel": False},
    },
    only=ROPE,
    rules=_llama,
    prefix="model.",
    buffers=(r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq",),
)
MISTRAL = LLAMA._replace(
    kind="Mistral",
    model_type="mistral",
    class_name="MistralForCausalLM",
    fields=(
        *(
            {
                "num_key_value_heads": Field("key_heads", "num_key_value_heads", 8, 0),
                "max_position_embeddings": Field("context", "max_position_embeddings", 131072),
            }.get(field.theirs, field)
            for field in LLAMA.fields
            if field.ours not in ("bias", "window")
        ),
        Field("window", "sliding_window", 4096, 0),
    ),
    always={**LLAMA.always, "bias": False},
)


# ------------------------------------------------------------------------------------------ Falcon


def _falcon(norms: Mapping[str, str]) -> Callable[[str], tuple[Rule, ...]]:
    """Rows of each key head: its queries, then its key, then its value. Of one key head (Falcon 7B)
    these are all queries, then key, value."""

    def rules(layout: str) -> tuple[Rule, ...]:
        turned = _turned(layout)
        parts = [("query", "g", turned), ("key", "1", turned), ("value", "1", "(c r)")]
        attention, mlp = "h.{}.self_attention", "h.{}.mlp"
        return (
            one("word_embeddings.weight", "V D", "embedding/kernel"),
            *_norms({**norms, "ln_f": "final_norm"}, bias=True),
            Rule(
                *(f"{attention}.query_key_value.weight", "(k p c r) D"),
                tuple(
                    Leaf(f"blocks/attention/{name}/kernel", f"D (k p) {head}", count)
                    for name, count, head in parts
                ),
            ),
            Rule(
                *(f"{attention}.query_key_value.bias", "(k p c r)"),
                tuple(
                    Leaf(f"blocks/attention/{name}/bias", f"(k p) {head}", count)
                    for name, count, head in parts
                ),
            ),
            one(f"{attention}.dense.weight", "D (h W)", "blocks/attention/out/kernel", "h W D"),
            one(f"{attention}.dense.bias", "D", "blocks/attention/out/bias"),
            one(f"{mlp}.dense_h_to_4h.weight", "F D", "blocks/mlp/up/kernel", "D F"),
            one(f"{mlp}.dense_h_to_4h.bias", "F", "blocks/mlp/up/bias"),
            one(f"{mlp}.dense_4h_to_h.weight", "D F", "blocks/mlp/down/kernel", "F D"),
            one(f"{mlp}.dense_4h_to_h.bias", "D", "blocks/mlp/down/bias"),
            one(HEAD, "V D", "head/kernel", "D V"),
        )

    return rules


FALCON_7B = Architecture(
    *("Falcon 7B", "falcon", "FalconForCausalLM"),
    fields=(
        Field("vocabulary", "vocab_size"),
        Field("context", "max_position_embeddings", 2048),
        Field("layers", "num_hidden_layers"),
        Field("width", "hidden_size"),
        Field("heads", "num_attention_heads"),
        # Its num_kv_heads is not used.
        Field("key_heads", "multi_query", True, names={True: 1, False: 0}),
        Field("inner", "ffn_hidden_size", None, 0),
        Field("activation", "activation", "gelu", names=ACTIVATIONS),
        Field("epsilon", "layer_norm_epsilon", 1e-5),
        Field("tied", "tie_word_embeddings", True),
        Field("bias", "bias", False),
        *ROTARY,
        *_ends(11, 11),
    ),
    always={
        **PLAIN,
        **{"norm": "layer", "norm_bias": True, "position": "rotary", "gated": False},
        **{"parallel": True, "norms": 1, "head_width": 0},
    },
    only=(
        Only("new_decoder_architecture", False, (False,)),
        Only("num_ln_in_parallel_attn", None, (None, 1)),
        Only("parallel_attn", True, (True,)),
        # Its slopes are divided by the root of the head width, as no other's are.
        Only("alibi", False, (False,)),
        Only("apply_residual_connection_post_layernorm", False, (False,)),
        *ROPE,
    ),
    rules=_falcon({"h.{}.input_layernorm": "blocks/attention_norm"}),
    prefix="transformer.",
    buffers=(r"h\.\d+\.self_attention\.(rotary_emb|maybe_rotary)\.inv_freq",),
)
FALCON_40B = FALCON_7B._replace(
    kind="Falcon 40B",
    fields=tuple(
        Field("key_heads", "num_kv_heads", None, 0) if field.ours == "key_heads" else field
        for field in FALCON_7B.fields
    ),
    always={**FALCON_7B.always, "norms": 2},
    only=(
        Only("new_decoder_architecture", False, (True,)),
        Only("num_ln_in_parallel_attn", 2, (2, None)),
        *FALCON_7B.only[2:],
    ),
    rules=_falcon({"h.{}.ln_attn": "blocks/attention_norm", "h.{}.ln_mlp": "blocks/mlp_norm"}),
)
FALCON_11B = FALCON_40B._replace(
    kind="Falcon 11B",
    always=FALCON_7B.always,
    only=(
        FALCON_40B.only[0],
        Only("num_ln_in_parallel_attn", 2, (1,)),
        *FALCON_7B.only[2:],
    ),
    rules=FALCON_7B.rules,
)

ARCHITECTURES = (GPT2, LLAMA, MISTRAL, FALCON_7B, FALCON_40B, FALCON_11B)
"""Those that are known; where several can be what a model of ours is, the first is written."""
