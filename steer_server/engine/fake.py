"""FakeEngine: a tiny deterministic language model that obeys the bank's laws, for tests without vLLM.

Semantics: over a vocabulary of 64 words, the logits at position i of prompt p are

    base(p, i) + Σ over adapters, ranks r of  gate[r] * direction(adapter digest, r)

and the next word is their argmax. So gates of 0 give the base model's text exactly, weights add, and the
order of adapters does not matter: the promises that the contract suite checks on this engine and on vLLM.
Choice i > 0 of a request for several answers to p is what p followed by "#i" gives. A reward head's raw score
is a number that its digest and the text's last words alone decide.

Not covered: tools, logprobs of alternatives, structured output, batching effects.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
from starlette.requests import Request

from steer_server.catalogue.snapshot import LoadedAdapter, LoadedRewardHead
from steer_server.engine.base import Answer, Route, ScoredText, ScoringText
from steer_server.errors import EngineError, EngineRefusal
from steer_server.steering.plan import SteeringPlan

WORDS = [f"w{i:02d}" for i in range(64)]
RANK = 8


def _noise(*seed: object) -> np.ndarray:
    digest = hashlib.sha256(repr(seed).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big")).standard_normal(len(WORDS))


class FakeEngine:
    """See the module. `token_seconds` slows generation down, so that tests can interrupt it."""

    def __init__(self, served_name: str = "fake", num_slots: int = 4, token_seconds: float = 0.0) -> None:
        self.served_name = served_name
        self.num_slots = num_slots
        self.token_seconds = token_seconds
        self.slots: dict[int, str] = {}
        """Digest of the adapter in each slot."""
        self.failing_digests: set[str] = set()
        """Adapters and heads whose loading fails."""
        self.heads: set[str] = set()
        """Digests of the loaded heads."""
        self.scored: list[ScoringText] = []
        """Every text that was scored."""
        self.num_loads = 0
        self.num_running = 0
        self.is_dead = False

    async def load_slot(self, slot: int, adapter: LoadedAdapter) -> None:
        self.slots.pop(slot, None)
        self.num_loads += 1
        await asyncio.sleep(self.token_seconds)
        if adapter.digest in self.failing_digests:
            raise EngineError(f"adapter {adapter.title} cannot be loaded")
        self.slots[slot] = adapter.digest

    async def clear_slot(self, slot: int) -> None:
        self.slots.pop(slot, None)

    def run(self, route: Route, body: dict[str, Any], plan: SteeringPlan, request: Request) -> FakeRun:
        return FakeRun(self, route, body, plan)

    async def load_head(self, head: LoadedRewardHead) -> None:
        await asyncio.sleep(self.token_seconds)
        if head.digest in self.failing_digests:
            raise EngineError(f"reward head {head.title} cannot be loaded")
        self.heads.add(head.digest)

    async def drop_head(self, digest: str) -> None:
        self.heads.discard(digest)

    async def score(self, texts: Sequence[ScoringText]) -> list[ScoredText]:
        if self.is_dead:
            raise EngineError("the engine is dead")
        self.scored += texts
        loaded = sorted(self.heads)
        self.num_running += 1
        try:
            await asyncio.sleep(self.token_seconds)
        finally:
            self.num_running -= 1
        return [self._scored(text, loaded) for text in texts]

    @staticmethod
    def _scored(text: ScoringText, loaded: Sequence[str]) -> ScoredText:
        whole = [word for m in text.messages for word in m["content"].split()] + text.answer.split()
        read = whole[-text.text_format.max_tokens :]
        raw = {digest: float(_noise("score", digest, *read)[0]) for digest in loaded}
        return ScoredText(raw, len(read), len(read) < len(whole))

    async def check_health(self) -> None:
        if self.is_dead:
            raise EngineError("the engine is dead")

    async def bank_info(self) -> dict[str, Any]:
        return {"slots": self.num_slots, "rank": RANK, "layers": 0, "bytes": 0, "compilation_mode": "none"}

    def next_word(self, prompt: str, position: int, plan: SteeringPlan) -> tuple[str, float]:
        """The greedy word and its log-probability."""
        logits = _noise("base", prompt, position)
        for adapter in plan.adapters:
            if adapter.digest not in self.slots.values():
                raise AssertionError(f"{adapter.name} is planned and not resident")
            for index, gate in enumerate(adapter.gates(RANK)):
                logits = logits + gate * _noise(adapter.digest, index)
        best = int(np.argmax(logits))
        return WORDS[best], float(logits[best] - np.log(np.exp(logits).sum()))


class FakeRun:
    def __init__(self, engine: FakeEngine, route: Route, body: dict[str, Any], plan: SteeringPlan) -> None:
        self.engine, self.route, self.body, self.plan = engine, route, body, plan
        self.is_running = False

    async def answer(self) -> Answer:
        if self.engine.is_dead:
            raise EngineError("the engine is dead")
        if self.body.get("model") not in (None, self.engine.served_name):
            error = {
                "message": "The model does not exist.",
                "type": "NotFoundError",
                "param": "model",
                "code": 404,
            }
            raise EngineRefusal({"error": error}, 404)
        key = "messages" if self.route == "chat" else "prompt"
        if not self.body.get(key):
            error = {
                "message": f"Field required: {key}",
                "type": "BadRequestError",
                "param": key,
                "code": 400,
            }
            raise EngineRefusal({"error": error}, 400)
        self.prompt = json.dumps(self.body[key], sort_keys=True)
        self.max_tokens = int(self.body.get("max_tokens") or self.body.get("max_completion_tokens") or 16)
        self.is_running = True
        self.engine.num_running += 1
        if self.body.get("stream"):
            return Answer(events=self._events())
        words = [word async for word, _ in self._words()]
        await self.stop()
        choices = [self._choice(0, " ".join(words))]
        for i in range(1, int(self.body.get("n") or 1)):
            others = [
                self.engine.next_word(f"{self.prompt}#{i}", at, self.plan)[0] for at in range(len(words))
            ]
            choices.append(self._choice(i, " ".join(others)))
        total = len(words) * len(choices)
        usage = {"prompt_tokens": 1, "completion_tokens": total, "total_tokens": 1 + total}
        object_ = "chat.completion" if self.route == "chat" else "text_completion"
        return Answer(body={**self._envelope(object_), "choices": choices, "usage": usage})

    async def stop(self) -> None:
        if self.is_running:
            self.is_running = False
            self.engine.num_running -= 1

    async def _words(self) -> AsyncIterator[tuple[str, float]]:
        for position in range(self.max_tokens):
            await asyncio.sleep(self.engine.token_seconds)
            if not self.is_running:
                return
            yield self.engine.next_word(self.prompt, position, self.plan)

    async def _events(self) -> AsyncIterator[str]:
        object_ = "chat.completion.chunk" if self.route == "chat" else "text_completion"
        position = 0
        async for word, _ in self._words():
            text = word if position == 0 else f" {word}"
            part = (
                {"delta": {"role": "assistant", "content": text}} if self.route == "chat" else {"text": text}
            )
            choice = {"index": 0, "finish_reason": None, **part}
            position += 1
            yield f"data: {json.dumps({**self._envelope(object_), 'choices': [choice]})}\n\n"
        await self.stop()
        yield "data: [DONE]\n\n"

    def _envelope(self, object_: str) -> dict[str, Any]:
        return {"id": "fake-1", "object": object_, "created": 0, "model": self.engine.served_name}

    def _choice(self, index: int, text: str) -> dict[str, Any]:
        content: dict[str, Any] = {"text": text}
        if self.route == "chat":
            content = {"message": {"role": "assistant", "content": text}}
        return {"index": index, "finish_reason": "length", "logprobs": None, **content}
