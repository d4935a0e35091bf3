"""Answers that settings sample to prompts, each checked to come from the plan that the setting stands for."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steer_server.evaluation.answers import Setting
from steer_server.evaluation.client import RequestFailed, ServerClient, check_plan
from steer_server.evaluation.judge_prompts import Messages
from steer_server.progress import Progress

CHAT_PATH = "/v1/chat/completions"


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn."""

    temperature: float = 0.7
    max_tokens: int = 128
    """Longest answer."""
    seed: int = 20261121
    """Of the reference's answers; all others are drawn with the next one."""

    @property
    def other_seed(self) -> int:
        return self.seed + 1


@dataclass(frozen=True)
class Sample:
    """One sampled answer."""

    text: str
    num_tokens: int
    """As the server counts them."""
    is_cut: bool
    """It reached the most tokens; a judge reads it as if it ended there."""


Cell = tuple[Setting, int]
"""A setting and the seed that it samples with."""
Samples = dict[tuple[str, int], dict[Messages, Sample]]
"""By the setting's name and seed; an answer that failed is not there."""


async def sample_answers(
    client: ServerClient,
    model: str,
    cells: Sequence[Cell],
    prompts: Sequence[Messages],
    sampling: Sampling,
    plans: Mapping[str, Mapping[str, Any]],
) -> Samples:
    """One answer of each cell to each prompt.

    Args:
        plans: by setting, as the server described them beforehand. An answer under another plan is a failure.
    """
    samples: Samples = {(setting.name, seed): {} for setting, seed in cells}

    async def ask(item: tuple[Setting, int, Messages]) -> None:
        setting, seed, prompt = item
        body = {
            "model": model,
            "messages": as_messages(prompt),
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "seed": seed,
            **setting.steering(),
        }
        with contextlib.suppress(RequestFailed):  # Recorded; the prompt is left out of its rows and counted.
            samples[setting.name, seed][prompt] = await _sample(client, body, plans[setting.name])
        progress.advance()

    items = [(setting, seed, prompt) for setting, seed in cells for prompt in prompts]
    with Progress("win rate", len(items), "answers") as progress:
        await client.for_each(items, ask)
    return samples


async def _sample(client: ServerClient, body: Mapping[str, Any], plan: Mapping[str, Any]) -> Sample:
    """Raises: RequestFailed."""
    answer = await client.post(CHAT_PATH, body)
    try:
        check_plan(answer, plan)
        choice = answer["choices"][0]
        return Sample(
            choice["message"]["content"] or "",
            int(answer["usage"]["completion_tokens"]),
            choice["finish_reason"] == "length",
        )
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise client.fail(CHAT_PATH, body, f"an answer that cannot be used: {error!r}") from error


def as_messages(prompt: Messages) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in prompt]


def describe_samples(samples: Mapping[Messages, Sample]) -> dict[str, int]:
    """How many answers there are, and what may make their scores misleading."""
    return {
        "answers": len(samples),
        "cut": sum(sample.is_cut for sample in samples.values()),
        "empty": sum(not sample.text.strip() for sample in samples.values()),
    }
