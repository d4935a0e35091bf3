"""How each way of steering asks a server for one answer, and what the answer cost: time, and tokens.

ask_once               one request; the server's methods, and a client that puts a statement into the prompt
search_prompts         k rewrites by the base model itself, an answer to each, the best by a reward head
choose_best            k answers, the best by a reward head, of a model that the server does not score

Rewrites are drawn with a prompter's own template, and one that fails the checks of `align_pro` is replaced by
the original, as there: what a search lacks is the training.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from steer_server.catalogue.reward_head import text_or_space
from steer_server.evaluation.answers import Setting
from steer_server.evaluation.client import ServerClient, check_plan
from steer_server.evaluation.judge_prompts import Messages
from steer_server.evaluation.named_settings import BASE
from steer_server.evaluation.samples import CHAT_PATH, Sampling, as_messages
from steer_server.frozen.prompter_template import prompter_messages
from steer_server.frozen.rewrite_checks import check_rewrite
from steer_server.frozen.statement import with_statement
from steer_server.frozen.user_prompt import with_last_user_text

REWARDS_PATH = "/v1/rewards"
MAX_REWRITE_TOKENS = 128
"""As the server's default."""
FINDINGS = ("denoising", "rewrite", "timings_ms")
"""What is kept of a response's `steering`."""


@dataclass(frozen=True)
class Given:
    """What one way gave to one prompt. The tokens are those of all requests that it took."""

    text: str
    is_cut: bool
    """It reached the most tokens; a judge reads it as if it ended there."""
    prefilled: int
    """Tokens read, by the model and by the heads that chose; those that the prefix cache had are included."""
    generated: int
    findings: dict[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    """From the first request to the last answer; None when a request was repeated, as that took a wait."""
    score: float = 0.0
    """Calibrated, by the steering head, and no part of the cost."""


@dataclass(frozen=True)
class Way:
    """One way to steer."""

    name: str
    setting: Setting
    """What its requests ask the server for; for a way of the client's own, the base model."""
    ask: Callable[[Asker, Way, Messages], Awaitable[Given]]
    statement: str = ""
    """That the client puts into the system prompt."""

    @property
    def method(self) -> str:
        """The server's."""
        return str(self.setting.steering()["steering"].get("method", "adapters"))

    def describe(self) -> dict[str, Any]:
        told = {"statement": self.statement} if self.statement else {}
        return {**self.setting.steering(), **told, "asked_by": self.ask.__name__}


@dataclass(frozen=True)
class Reply:
    """What a chat request gave."""

    texts: tuple[str, ...]
    endings: tuple[str, ...]
    prompt_tokens: int
    completion_tokens: int
    steering: dict[str, Any]

    def given(self, index: int, **cost: int) -> Given:
        """One of its answers. Args: cost: tokens, where they are not those of the request alone."""
        own = {"prefilled": self.prompt_tokens, "generated": self.completion_tokens}
        return Given(
            self.texts[index],
            self.endings[index] == "length",
            findings={key: self.steering[key] for key in FINDINGS if key in self.steering},
            **{**own, **cost},
        )


@dataclass(frozen=True)
class Asker:
    """Asks for the answers of one aim."""

    client: ServerClient
    model: str
    """That is steered: the base model, or an upstream's."""
    base_model: str
    """That is served; it rewrites."""
    head: str
    """That chooses, and scores every answer."""
    candidates: int
    """Of a search, and of a choice."""
    sampling: Sampling
    plans: Mapping[str, Mapping[str, Any]]
    """By way's name, as the server described them. An answer under another plan is a failure."""
    salt: str
    """Of this run, so that no rewrite of an earlier one is found in the server's cache."""

    @property
    def is_ours(self) -> bool:
        """Whether the model is the server's own, and no upstream's."""
        return self.model == self.base_model

    async def give(self, way: Way, prompt: Messages) -> Given:
        """Raises: RequestFailed."""
        retries, started = self.client.num_retries, time.perf_counter()
        given = await way.ask(self, way, prompt)
        seconds = time.perf_counter() - started
        return replace(given, seconds=seconds if retries == self.client.num_retries else None)

    def body(self, way: Way, messages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """A chat request of this way for one answer."""
        told = with_statement(messages, way.statement) if way.statement else messages
        return {
            "model": self.model,
            "messages": list(told),
            "max_tokens": self.sampling.max_tokens,
            "temperature": self.sampling.temperature,
            "seed": self.sampling.other_seed,
            **way.setting.steering(),
            **self._salt(way),
        }

    async def chat(self, body: Mapping[str, Any], plan: Mapping[str, Any]) -> Reply:
        """Raises: RequestFailed."""
        found = await self.client.post(CHAT_PATH, body, is_kept=False)
        try:
            check_plan(found, plan)
            choices = sorted(found["choices"], key=lambda choice: int(choice["index"]))
            return Reply(
                tuple(choice["message"]["content"] or "" for choice in choices),
                tuple(choice["finish_reason"] for choice in choices),
                int(found["usage"]["prompt_tokens"]),
                int(found["usage"]["completion_tokens"]),
                found["steering"],
            )
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise self.client.fail(CHAT_PATH, body, f"an answer that cannot be used: {error!r}") from error

    async def scores(self, prompt: Messages, texts: Sequence[str]) -> tuple[list[float], int]:
        """Calibrated scores by the head, and the tokens that were read for them. Raises: RequestFailed."""
        body = {
            "messages": as_messages(prompt),
            "answers": [text_or_space(text) for text in texts],
            "heads": [self.head],
        }
        found = await self.client.post(REWARDS_PATH, body, is_kept=False)
        try:
            scores = [float(score[self.head]["calibrated"]) for score in found["scores"]]
            return scores, int(found["usage"]["prompt_tokens"])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise self.client.fail(REWARDS_PATH, body, f"scores that cannot be used: {error!r}") from error

    def _salt(self, way: Way) -> dict[str, str]:
        # An upstream might refuse the field. There a rewrite may come from the cache, and the report says so.
        return {"cache_salt": self.salt} if way.method == "align_pro" and self.is_ours else {}


async def ask_once(asker: Asker, way: Way, prompt: Messages) -> Given:
    """One request. Raises: RequestFailed."""
    reply = await asker.chat(asker.body(way, as_messages(prompt)), asker.plans[way.name])
    read = reply.steering.get("rewards", {}).get("num_tokens", 0)
    read += reply.steering.get("denoising", {}).get("forward_tokens", {}).get("prefilled", 0)
    return reply.given(0, prefilled=reply.prompt_tokens + read)


async def ask_first(asker: Asker, way: Way, prompt: Messages) -> Given:
    """The same with the seed of the reference, to which all others are compared. Raises: RequestFailed."""
    body = {**asker.body(way, as_messages(prompt)), "seed": asker.sampling.seed}
    return (await asker.chat(body, asker.plans[way.name])).given(0)


async def choose_best(asker: Asker, way: Way, prompt: Messages) -> Given:
    """A request for several answers, and one that scores them. Raises: RequestFailed."""
    body = {**asker.body(way, as_messages(prompt)), "n": asker.candidates}
    reply = await asker.chat(body, asker.plans[way.name])
    scores, read = await asker.scores(prompt, reply.texts)
    return reply.given(scores.index(max(scores)), prefilled=reply.prompt_tokens + read)


async def search_prompts(asker: Asker, way: Way, prompt: Messages) -> Given:
    """A request for rewrites, one for an answer to each, and one that scores the answers.

    Raises: RequestFailed.
    """
    messages, original = as_messages(prompt), prompt[-1][1]
    asking = {
        **asker.body(way, prompter_messages(original)),
        "model": asker.base_model,
        "max_tokens": MAX_REWRITE_TOKENS,
        "n": asker.candidates,
    }
    plan = asker.plans[way.name]
    written = await asker.chat(asking, plan)
    rewrites = [
        text.strip() if ending == "stop" and check_rewrite(original, text.strip()) is None else original
        for text, ending in zip(written.texts, written.endings, strict=True)
    ]
    sent = list(dict.fromkeys(rewrites))
    replies = await asyncio.gather(
        *(asker.chat(asker.body(way, with_last_user_text(messages, text)), plan) for text in sent)
    )
    scores, read = await asker.scores(prompt, [reply.texts[0] for reply in replies])
    given = replies[scores.index(max(scores))].given(
        0,
        prefilled=written.prompt_tokens + sum(reply.prompt_tokens for reply in replies) + read,
        generated=written.completion_tokens + sum(reply.completion_tokens for reply in replies),
    )
    usable = sum(rewrite != original for rewrite in rewrites)
    return replace(given, findings={"search": {"rewrites": len(rewrites), "usable": usable}})


def base_way(name: str, ask: Callable[[Asker, Way, Messages], Awaitable[Given]], statement: str = "") -> Way:
    """A way that asks the model as it is."""
    return Way(name, BASE, ask, statement)
