"""What a frozen model on a running server answers to rewrites, and how reward heads there score the answers.

An answer is always scored as one to the user's own prompt, whatever the frozen model was asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steer_server.catalogue.reward_head import text_or_space
from steer_server.errors import EvaluationError, TrainingError
from steer_server.evaluation.client import RequestFailed, ServerClient, check_plan
from steer_server.evaluation.named_settings import BASE, read_plans
from steer_server.evaluation.samples import CHAT_PATH
from steer_server.progress import Progress
from steer_server.training.align_pro_recipe import Answering

REWARDS_PATH = "/v1/rewards"


@dataclass(frozen=True)
class Asked:
    """One question to the frozen model."""

    prompt: str
    """The user's, which the answer is scored with."""
    sent: str
    """What the frozen model is shown instead: a rewrite, or the prompt itself."""
    seed: int


@dataclass(frozen=True)
class Answered:
    """Its scored answer."""

    text: str
    num_tokens: int
    scores: dict[str, float]
    """Calibrated, 0..1, by head."""


@dataclass(frozen=True)
class FrozenModel:
    """The base model of a server, without steering, and reward heads beside it.

    Every request that fails ends in an error: a run that is started again goes on where it stopped.
    """

    url: str
    api_key: str
    heads: tuple[str, ...]
    answering: Answering
    concurrency: int = 16

    def describe(self) -> dict[str, Any]:
        """The served model and the heads' versions.

        Raises: TrainingError when there is no such server, or it lacks a head.
        """
        return asyncio.run(self._describe())

    def answers(self, asked: Sequence[Asked], what: str = "") -> list[Answered]:
        """One answer to each question, in the given order.

        Args:
            what: shown with the progress; empty for none.

        Raises: TrainingError when the server fails.
        """
        return asyncio.run(self._answers(asked, what))

    async def _describe(self) -> dict[str, Any]:
        async with self._client() as client:
            try:
                info = await client.info()
                body = self._scoring("A question.", "An answer.")
                scored = await client.post(REWARDS_PATH, body)
            except (EvaluationError, RequestFailed) as error:
                raise TrainingError(f"{self.url}: {error}") from error
        return {"model": info.model, "heads": scored["heads"]}

    async def _answers(self, asked: Sequence[Asked], what: str) -> list[Answered]:
        found: dict[int, Answered] = {}
        async with self._client() as client:
            try:
                model = (await client.info()).model
                plan = (await read_plans(client, [BASE]))[BASE.name]
                with Progress(what, len(asked), "answers") as progress:

                    async def work(numbered: tuple[int, Asked]) -> None:
                        number, one = numbered
                        found[number] = await self._answer(client, model, plan, one)
                        if what:
                            progress.advance()

                    await client.for_each(enumerate(asked), work)
            except (EvaluationError, RequestFailed) as error:
                raise TrainingError(f"{self.url}: {error}; the same command goes on from here") from error
        return [found[number] for number in range(len(asked))]

    async def _answer(
        self, client: ServerClient, model: str, plan: Mapping[str, Any], asked: Asked
    ) -> Answered:
        body = {
            "model": model,
            "messages": BASE.messages(asked.sent),
            "max_tokens": self.answering.max_tokens,
            "temperature": self.answering.temperature,
            "seed": asked.seed,
            **BASE.steering(),
        }
        answer = await client.post(CHAT_PATH, body)
        try:
            check_plan(answer, plan)
            text = answer["choices"][0]["message"]["content"] or ""
            num_tokens = int(answer["usage"]["completion_tokens"])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise client.fail(CHAT_PATH, body, f"an answer that cannot be used: {error!r}") from error
        body = self._scoring(asked.prompt, text_or_space(text))
        scored = await client.post(REWARDS_PATH, body)
        try:
            scores = {head: float(scored["scores"][0][head]["calibrated"]) for head in self.heads}
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise client.fail(REWARDS_PATH, body, f"scores that cannot be used: {error!r}") from error
        return Answered(text, num_tokens, scores)

    def _scoring(self, prompt: str, answer: str) -> dict[str, Any]:
        return {"messages": BASE.messages(prompt), "answers": [answer], "heads": list(self.heads)}

    def _client(self) -> ServerClient:
        return ServerClient(self.url, self.api_key, self.concurrency)
