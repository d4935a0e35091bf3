"""A random Llama of two layers with a tokenizer of single characters, complete on disk."""

from __future__ import annotations

import string
from pathlib import Path

from tests.support.adapters import TINY_CONFIG


def tiny_model_with_weights(folder: Path) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

    vocabulary = {"<eos>": 0, "<unk>": 1, **{c: i + 2 for i, c in enumerate(string.printable)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", unk_token="<unk>")
    fast.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    config = LlamaConfig(**{**TINY_CONFIG, "vocab_size": len(vocabulary), "max_position_embeddings": 512})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder
