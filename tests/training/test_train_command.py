"""Training end to end on a model of two layers and a survey of three questions."""

from __future__ import annotations

import gzip
import json
import string
from pathlib import Path

import pytest

from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.validation import validate_adapter
from steer_server.settings import Settings
from tests.support.adapters import TINY, TINY_CONFIG

pytestmark = [
    # PEFT's own imports warn.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def tiny_model_with_weights(folder: Path) -> Path:
    """A random Llama with a tokenizer of single characters."""
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


def write_lines(path: Path, rows: list[dict]) -> Path:
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def test_a_trained_culture_is_an_adapter_that_passes_validation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from steer_server.training.culture import train_cultures

    model = tiny_model_with_weights(tmp_path / TINY)
    survey = write_lines(
        tmp_path / "survey.gz",
        [
            {
                "country": "AAA",
                "question_id": f"Q{i}",
                "question": f"Tea {i}?",
                "options": ["yes", "no"],
                "distribution": [0.9, 0.1],
            }
            for i in range(12)
        ],
    )
    prompts = write_lines(tmp_path / "prompts.gz", [{"instruction": "Say hi", "reference": "hi"}] * 4)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "defaults: {rank: 2, alpha: 4, epochs: 1, batch_size: 8}\n"
        "cultures: [{culture: tea_drinkers, countries: [AAA]}]"
    )
    settings = Settings(model=str(model))
    train_cultures(recipe, survey, prompts, tmp_path / "out", settings)
    adapter = validate_adapter(tmp_path / "out" / "tea_drinkers", BaseModel.of(settings), max_rank=8)
    assert adapter.manifest.culture is not None and adapter.manifest.culture.countries == ("AAA",)
    card = (tmp_path / "out" / "tea_drinkers" / "README.md").read_text()
    scores = json.loads(capsys.readouterr().out)
    assert f"| this adapter | {scores['adapter_bits']:.3f} |" in card and "| uniform |" in card

    train_cultures(recipe, survey, prompts, tmp_path / "out", settings)
    assert "skipped" in capsys.readouterr().err
