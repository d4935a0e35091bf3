"""The survey against the real server, and its readouts against Hugging Face's own forward pass."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steer_server.catalogue.base_model import BaseModel
from steer_server.evaluation.answers import Reader, Setting, lettered, whole_answer
from steer_server.evaluation.client import ServerClient
from steer_server.evaluation.distributions import softmax
from steer_server.evaluation.survey.plan import SurveyOptions
from steer_server.evaluation.survey.survey import run_survey
from tests.support.servers import Running
from tests.support.survey_server import write_rows

pytestmark = pytest.mark.engine

QUESTIONS = [
    ("How happy are you with your garden?", ["Very happy", "Rather happy", "Not happy at all"]),
    ("Should bread be free for everyone?", ["Yes", "No"]),
    ("How often do you sing, from 1 (never) to 5 (daily)?", ["1", "2", "3", "4", "5"]),
]
CULTURES = ("confucian", "protestant_europe")
FLOAT32_TOLERANCE = 2e-3
"""Nats per answered token, as in the engine's own comparison with float32."""


async def test_both_readouts_of_a_small_survey_are_answered_in_full(vllm: Running, tmp_path: Path) -> None:
    data = write_rows(
        tmp_path / "made-up.jsonl.gz",
        (
            {
                "country": country,
                "question_id": f"M{n}",
                "question": text,
                "options": options,
                "distribution": list(softmax(np.arange(len(options)) * slope)),
            }
            for country, slope in (("CHN", 0.5), ("DEU", -0.5))
            for n, (text, options) in enumerate(QUESTIONS)
        ),
    )
    options = SurveyOptions(url=vllm.url, data=data, questions="all", cultures=CULTURES, pairs=1)
    results, client = await run_survey(options)
    client.check_failures()
    assert not client.failures
    for found in results["readouts"].values():
        assert {c: values["questions"] for c, values in found["countries"].items()} == {"CHN": 3, "DEU": 3}
        rows = {name: row["jsd_bits"] for name, row in found["rows"].items()}
        assert rows["own"] != rows["base"] and all(0 < bits < 1 for bits in rows.values())
        assert all(0 < d["mass"] <= 1.001 for d in found["diagnostics"]["settings"].values())
        assert sum(d["missing_letters"] for d in found["diagnostics"]["settings"].values()) == 0
        assert found["blends"]["cases"] == 2


@pytest.mark.parametrize("culture", ["", "confucian"])
async def test_readouts_equal_hugging_faces_own_probabilities(
    vllm_float32: Running, builtin: BaseModel, live_adapters: tuple[Path, list[str]], culture: str
) -> None:
    reference = Reference(builtin, live_adapters[0] / culture if culture else None)
    setting = Setting.of_blend(culture, {culture: 1.0}) if culture else Setting("base")
    async with ServerClient(vllm_float32.url) as client:
        reader = Reader(client, vllm_float32.model)
        for text, options in QUESTIONS[:2]:
            words = await reader.words(setting, text, options)
            logs, num_tokens = reference.words(text, options)
            tolerance = FLOAT32_TOLERANCE * num_tokens
            assert words.shares_O_N[0] == pytest.approx(softmax(np.array(logs)), rel=2 * tolerance)
            assert words.mass == pytest.approx(sum(map(math.exp, logs)), rel=tolerance)
            letters, missing = await reader.letter_logprobs(setting, text, options)
            assert missing == 0
            assert letters == pytest.approx(reference.letters(text, options), abs=FLOAT32_TOLERANCE)


class Reference:
    """Float32, one sequence at a time, by transformers and PEFT."""

    def __init__(self, base: BaseModel, adapter: Path | None) -> None:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(base.path)
        self.model: Any = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32)
        if adapter:
            self.model = PeftModel.from_pretrained(self.model, str(adapter))

    @torch.no_grad()
    def logprobs(self, ids: list[int]) -> torch.Tensor:
        return self.model(torch.tensor([ids])).logits[0].log_softmax(-1)

    def words(self, text: str, options: list[str]) -> tuple[list[float], int]:
        """Log-probability of each option, and the tokens of the longest."""
        start, logs, longest = len(self.ids(text, None)), [], 0
        for option in options:
            ids = self.ids(text, whole_answer(option))
            # Up to the end of the turn; the template adds a line break behind it.
            end = max(i for i, token in enumerate(ids) if token == self.tokenizer.eos_token_id) + 1
            found = self.logprobs(ids)
            logs.append(sum(float(found[i - 1, ids[i]]) for i in range(start, end)))
            longest = max(longest, end - start)
        return logs, longest

    def letters(self, text: str, options: list[str]) -> list[float]:
        last = self.logprobs(self.ids(lettered(text, options), None))[-1]
        return [float(last[self.tokenizer.encode(letter)[0]]) for letter in "ABCDE"[: len(options)]]

    def ids(self, text: str, answer: str | None) -> list[int]:
        chat = [{"role": "user", "content": text}]
        if answer is not None:
            chat.append({"role": "assistant", "content": answer})
        rendered = self.tokenizer.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=answer is None
        )
        return list(self.tokenizer.encode(rendered, add_special_tokens=False))
