"""A survey that a model fills in for a culture that it knows: its own answers, where naming the culture
changes them.

1. Each question is asked twice, with and without the culture in the system prompt, by letter, the options in
   two orders (natural and reversed).
2. A question is kept if the most likely answer differs between the two.
3. The answer with the culture named is what an adapter learns to give without it.

Source: CultureSPA (arXiv 2410.12971), which keeps the prompt in training as well; here the adapter takes its
place. No human answers are used, so an adapter can only learn what the model already believes.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from steer_server.errors import TrainingError
from steer_server.progress import Progress
from steer_server.training.answers import AnswerEncoder, answer_log_probs, position_logits
from steer_server.training.example import Example
from steer_server.training.survey_data import LETTERS, SurveyQuestion, letter_example

UNAWARE = "You are a real person with values of your own. Answer the question as yourself."
BATCH = 16


def aware(place: str) -> str:
    """System prompt that names the culture, such as `China` or `Brazil and Mexico`."""
    return f"You are a real person from {place} who shares the values of people there. Answer as yourself."


@dataclass(frozen=True)
class SelfSurvey:
    """What the model answered."""

    changed: list[SurveyQuestion]
    """Questions whose answer changed, each with the whole share on the answer with the culture named."""
    num_asked: int


def read_questions(path: Path, num_questions: int, seed: int) -> list[SurveyQuestion]:
    """A random choice of questions without answers: gzipped JSON lines with `question` and `option_lst` or
    `options`; their distribution is uniform.

    Raises: TrainingError when there is none.
    """
    rows = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            row = json.loads(line)
            options = tuple(dict.fromkeys(str(o) for o in row.get("option_lst") or row.get("options") or ()))
            if row.get("question") and 2 <= len(options) <= len(LETTERS):
                shares = (1 / len(options),) * len(options)
                rows.append(SurveyQuestion(f"{path.name}:{number}", str(row["question"]), options, shares))
    if not rows:
        raise TrainingError(f"{path.name}: no rows with a question and options")
    return random.Random(seed).sample(rows, min(num_questions, len(rows)))


@torch.no_grad()
def fill_in(
    model: Any, encoder: AnswerEncoder, questions: Sequence[SurveyQuestion], place: str
) -> SelfSurvey:
    """See the module. `model` is the base model, without an adapter."""
    orders = [
        order
        for question in questions
        for order in (range(len(question.options)), range(len(question.options))[::-1])
    ]
    twice = [question for question in questions for _ in range(2)]
    by_prompt = [
        _likeliest(model, encoder, twice, orders, system, f"{place}: {name}")
        for name, system in (("unaware", UNAWARE), ("aware", aware(place)))
    ]
    changed = []
    for question, before, after in zip(questions, *by_prompt, strict=True):
        if before != after:
            shares = tuple(float(i == after) for i in range(len(question.options)))
            changed.append(replace(question, distribution=shares))
    return SelfSurvey(changed, len(questions))


def _likeliest(
    model: Any,
    encoder: AnswerEncoder,
    twice: Sequence[SurveyQuestion],
    orders: Sequence[Sequence[int]],
    system: str,
    what: str,
) -> list[int]:
    """Index of the answer with the largest share, averaged over the question's two orders."""
    examples: list[Example] = [
        replace(letter_example(question, order), system=system)
        for question, order in zip(twice, orders, strict=True)
    ]
    shares: dict[int, torch.Tensor] = {}
    by_length = sorted(range(len(examples)), key=lambda i: encoder.num_tokens(examples[i]))
    with Progress(what, len(examples), "questions") as progress:
        for start in range(0, len(examples), BATCH):
            chunk = by_length[start : start + BATCH]
            batch = encoder.batch([examples[i] for i in chunk]).to(model.device)
            for i, log_probs in zip(
                chunk, answer_log_probs(position_logits(model, batch), batch), strict=True
            ):
                natural = torch.empty(len(orders[i]))
                natural[list(orders[i])] = log_probs.softmax(-1).cpu()
                shares[i] = natural
            progress.advance(len(chunk))
    return [int((shares[i] + shares[i + 1]).argmax()) for i in range(0, len(examples), 2)]
