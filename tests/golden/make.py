"""Tiny random models made by transformers, and what it computes: the truth of test_weights.py.

    pip install 'genjax-zoo[oracle]'
    python tests/golden/make.py

writes, of each kind, a folder as `save_pretrained` leaves it, and NAME.npz beside it with

    x [2, 20]         symbols
    logits [2, 20, V] of the symbol after each of them, float32
    prompt [2, 5]     symbols, the first of which is that of a beginning
    greedy [2, 12]    what is written greedily after each prompt

Every number of a model is drawn, those of norms and biases too, which are ones and zeros at first:
a scale that was forgotten would not be noticed. It was run with transformers 5.24 and torch 2.13;
other versions draw other numbers, which are as good.
"""

import pathlib
import shutil

import numpy as np
import tokenizers
import torch
import transformers

HERE = pathlib.Path(__file__).resolve().parent
V = 48
WORDS = "the cat sat on the mat and the dog sat on the log; that is all that they did. " * 3
ROTARY = {"rope_type": "default", "rope_theta": 10000.0}
LLAMA3 = {
    **{"rope_type": "llama3", "rope_theta": 100.0, "factor": 8.0, "low_freq_factor": 1.0},
    **{"high_freq_factor": 4.0, "original_max_position_embeddings": 64},
}
ENDS = {"bos_token_id": 0, "eos_token_id": 1}


def configs() -> dict[str, transformers.PretrainedConfig]:
    """The five kinds, as small as what tells them apart allows."""
    return {
        "gpt2": transformers.GPT2Config(
            **{"vocab_size": V, "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2},
            **{"n_inner": 32, "bos_token_id": 0, "eos_token_id": 0},
        ),
        # Grouped queries, heads that are wider than width / heads, llama3's scaling, a head apart.
        "llama": transformers.LlamaConfig(
            **{"vocab_size": V, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2},
            **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, **ENDS},
            **{"max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_parameters": LLAMA3},
        ),
        "mistral": transformers.MistralConfig(
            **{"vocab_size": V, "hidden_size": 16, "intermediate_size": 28, "num_hidden_layers": 2},
            **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4, **ENDS},
            **{"max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_parameters": ROTARY},
            **{"sliding_window": 6},
        ),
        "falcon7b": transformers.FalconConfig(
            **{"vocab_size": V, "hidden_size": 16, "num_hidden_layers": 2, "ffn_hidden_size": 32},
            **{"num_attention_heads": 4, "rope_parameters": ROTARY, "max_position_embeddings": 64},
            **{"bos_token_id": 0, "eos_token_id": 0},
        ),
        "falcon40b": transformers.FalconConfig(
            **{"vocab_size": V, "hidden_size": 24, "num_hidden_layers": 2, "ffn_hidden_size": 32},
            **{"num_attention_heads": 6, "rope_parameters": ROTARY, "max_position_embeddings": 64},
            **{"num_kv_heads": 2, "new_decoder_architecture": True},
            **{"bos_token_id": 0, "eos_token_id": 0},
        ),
    }


def tokenizer() -> tokenizers.Tokenizer:
    """BPE of a few letters, which fits into V symbols."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    made.decoder = tokenizers.decoders.Metaspace()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=V, special_tokens=["<s>", "</s>", "<unk>"], show_progress=False
    )
    made.train_from_iterator([WORDS], trainer)
    return made


def make(name: str, config: transformers.PretrainedConfig) -> None:
    """Writes one folder and its numbers."""
    torch.manual_seed(sum(map(ord, name)))
    make_model = transformers.AutoModelForCausalLM.from_config
    model = make_model(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for path, weight in model.named_parameters():
            scale = 0.1 if weight.ndim == 1 else 0.5
            mean = 1.0 if weight.ndim == 1 and path.endswith("weight") else 0.0
            weight.copy_(mean + scale * torch.randn(weight.shape))
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    # One of them lies in several files with an index.
    model.save_pretrained(folder, max_shard_size="12KB" if name == "falcon40b" else "1GB")
    (folder / "generation_config.json").unlink(missing_ok=True)
    tokenizer().save(str(folder / "tokenizer.json"))
    rng = np.random.default_rng(0)
    x, prompt = rng.integers(0, V, (2, 20)), rng.integers(3, V, (2, 5))
    prompt[:, 0] = config.bos_token_id
    with torch.no_grad():
        logits = model(torch.tensor(x)).logits.numpy()
        read = torch.tensor(prompt)
        # As generate does without a cache and without an end: the best symbol, again and again.
        for _ in range(12):
            read = torch.cat([read, model(read).logits[:, -1:].argmax(-1)], dim=1)
    greedy = read[:, prompt.shape[1] :].numpy()
    whole = {"x": x, "logits": logits, "prompt": prompt, "greedy": greedy}
    np.savez(HERE / f"{name}.npz", **{k: a.astype(a.dtype.kind + "4") for k, a in whole.items()})


if __name__ == "__main__":
    for name, config in configs().items():
        make(name, config)
