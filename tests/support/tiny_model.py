"""A random Llama of two layers with a tokenizer of single characters, complete on disk."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

from tests.support.adapters import TINY_CONFIG

FOR_VLLM = {
    "hidden_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
}
"""Heads of 32, the smallest that vLLM has on CPU, and weights large enough for texts that adapters change."""


def tiny_model_with_weights(folder: Path, **config: Any) -> Path:
    """Args: config: of the model, in place of `TINY_CONFIG`'s."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

    vocabulary = {"<eos>": 0, "<unk>": 1, **{c: i + 2 for i, c in enumerate(string.printable)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", unk_token="<unk>")
    fast.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    sizes = {**TINY_CONFIG, "vocab_size": len(vocabulary), "max_position_embeddings": 512, **config}
    AutoModelForCausalLM.from_config(LlamaConfig(**sizes)).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder
