"""A reward head: how a text becomes a score.

    raw = w·h + b                  h: hidden state of the text's last token after the model's final norm
    calibrated = σ(a·raw + c)      0..1

`reward_head.json` holds the text's format, (a, c) and what the score means; `reward_head.safetensors` holds w
(`weight` `[hidden]`) and b (`bias` `[1]`), float32. How features were standardised is folded into w and b.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, JsonValue

HEAD_WEIGHTS = "reward_head.safetensors"
HEAD_CONFIG = "reward_head.json"

Message = Mapping[str, str]


def text_or_space(answer: str) -> str:
    """What is scored in place of an answer. `/v1/rewards` takes no empty one; a space stands for every answer
    without text, so that whoever scores it, here or there, reads the same tokens."""
    return answer if answer.strip() else " "


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TextFormat(_Strict):
    """Which token ids stand for (messages, answer)."""

    layout: Literal["conversation"]
    """The chat template over the messages and the answer as the assistant's last turn, without the white
    space behind it, so that the last token is the one that ends the turn."""
    max_tokens: Annotated[int, Field(ge=8, le=131072)] = 256
    """Of longer texts the last ones count."""

    def token_ids(self, tokenizer: Any, messages: Sequence[Message], answer: str) -> list[int]:
        """The ids whose last one's hidden state the head reads; at least one, at most `max_tokens`."""
        return self.all_token_ids(tokenizer, messages, answer)[-self.max_tokens :]

    def all_token_ids(self, tokenizer: Any, messages: Sequence[Message], answer: str) -> list[int]:
        """The ids of the whole text."""
        turns = [*messages, {"role": "assistant", "content": answer}]
        text = tokenizer.apply_chat_template(turns, tokenize=False).rstrip()
        return list(tokenizer.encode(text, add_special_tokens=False))


class Calibration(_Strict):
    """`calibrated = σ(scale·raw + offset)`."""

    scale: FiniteFloat
    offset: FiniteFloat = 0.0

    def __call__(self, raw: float) -> float:
        z = self.scale * raw + self.offset
        return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))


class RewardHeadConfig(_Strict):
    """The checked contents of `reward_head.json`."""

    schema_version: Literal[1]
    hidden_size: Annotated[int, Field(ge=1)]
    layer: Literal["final_norm"]
    """The hidden state is the one that the LM head would read."""
    text_format: TextFormat
    model: Literal["logistic", "bradley_terry"]
    """logistic: σ(raw) is fitted to judgements of one text. bradley_terry: σ(raw₁ - raw₂) is fitted to
    choices between two; raw is shifted so that the average training text has 0."""
    label_meaning: str
    """What a calibrated score is the probability of."""
    calibration: Calibration
    split: Literal["steer", "judge"]
    """Heads of one split share no training text with heads of the other."""
    metrics: dict[str, JsonValue] = {}
