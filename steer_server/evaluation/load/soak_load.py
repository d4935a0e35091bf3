"""The mixed load of a soak: people who ask well, read slowly, go away, and ask badly."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import httpx

from steer_server.errors import CapacityError, RateLimitError
from steer_server.evaluation.load.bad_requests import CHAT, BadRequest
from steer_server.evaluation.load.offer import Vectors
from steer_server.evaluation.load.open_loop import Sent
from steer_server.evaluation.streaming import PROMPTS, Refused, StreamFailed, read_stream

NO_ROOM = frozenset({CapacityError.status, RateLimitError.status})
NO_ROOM_CODES = frozenset(
    {CapacityError.code, RateLimitError.code, "concurrency_limit_exceeded", *map(str, NO_ROOM)}
)
"""Ours; and the engine's, whose codes are statuses."""
NUM_ANSWERS = 4
"""That one scoring request brings."""
MAX_PATIENCE_TOKENS = 8
"""Of who goes away in the middle of a stream."""
MAX_PATIENCE_SECONDS = 0.5
"""Of who goes away before an answer that is no stream."""


class End(StrEnum):
    """How a request ended. The first three are as it should be."""

    ANSWERED = "answered"
    REFUSED = "refused"
    """A bad one, in the right way."""
    LEFT = "left"
    """The client went away on purpose."""
    NO_ROOM = "no_room"
    """A good one, with 429 or 503 and when to come back."""
    WRONG = "wrong"
    """Anything else: a good one that failed, a bad one that did not, or in another way."""
    HANG = "hang"


GOOD_ENDS = frozenset({End.ANSWERED, End.REFUSED, End.LEFT})

SHARES: Mapping[str, float] = {
    "stream": 20,
    "steered_stream": 25,
    "whole": 6,
    "steered_whole": 8,
    "completion": 4,
    "scored_stream": 5,
    "best_of_n": 3,
    "scoring": 7,
    "slow_reader": 6,
    "left_stream": 6,
    "left_whole": 4,
    "bad": 6,
}
"""Of 100 requests. A kind that the server does not offer is left out."""


@dataclass(frozen=True)
class Asked(Sent):
    """One request of the mix."""

    kind: str
    """Of `SHARES`; the name of a bad one behind `bad/`."""
    end: End
    detail: str = ""

    def describe(self) -> dict[str, str]:
        return {key: str(value) for key, value in asdict(self).items() if key in ("kind", "end", "detail")}


class _Left(Exception):
    """The client goes away."""


class _Wrong(Exception):
    """Not the answer that it should be."""


@dataclass
class Mix:
    """Draws kinds of requests and sends them.

    Args:
        slow_http: its sockets have little room for what was not read yet.
        hang_seconds: a request that has not ended by then hangs.
    """

    http: httpx.AsyncClient
    slow_http: httpx.AsyncClient
    vectors: Vectors
    rng: random.Random
    bad: list[BadRequest]
    max_tokens: int
    pause_seconds: float
    """Of a slow reader, between two lines of a stream."""
    hang_seconds: float

    @property
    def kinds(self) -> tuple[str, ...]:
        """Every kind that can be sent here, bad ones apart."""
        offer = self.vectors.offer
        needs = {
            "steered_stream": "adapters" in offer.methods,
            "steered_whole": "adapters" in offer.methods,
            "completion": "adapters" in offer.methods,
            "slow_reader": "adapters" in offer.methods,
            "left_stream": "adapters" in offer.methods,
            "best_of_n": "best_of_n" in offer.methods,
            "scored_stream": bool(offer.heads),
            "scoring": bool(offer.heads),
        }
        return tuple(kind for kind in SHARES if needs.get(kind, True))

    async def send(self, due: float) -> Asked:
        """One request of a kind that is drawn."""
        weights = [SHARES[kind] for kind in self.kinds]
        (kind,) = self.rng.choices(self.kinds, weights)
        return await self._send(kind, due, self.rng.choice(self.bad) if kind == "bad" else None)

    async def send_each_once(self) -> list[Asked]:
        """One request of every kind, and every bad one, one after the other."""
        kinds: list[tuple[str, BadRequest | None]] = [(kind, None) for kind in self.kinds if kind != "bad"]
        kinds += [("bad", bad) for bad in self.bad]
        return [await self._send(kind, time.perf_counter(), bad) for kind, bad in kinds]

    async def _send(self, kind: str, due: float, bad: BadRequest | None) -> Asked:
        began = time.perf_counter()
        end, detail = End.HANG, f"not ended after {self.hang_seconds:g} s"
        try:
            async with asyncio.timeout(self.hang_seconds):
                end, detail = await self._ended(kind, bad)
        except TimeoutError:
            pass
        name = kind if bad is None else f"bad/{bad.name}"
        problem = "" if end in GOOD_ENDS else end.value
        return Asked(due, began, time.perf_counter(), problem, name, end, detail)

    async def _ended(self, kind: str, bad: BadRequest | None) -> tuple[End, str]:
        try:
            if bad is not None:
                return await self._refused(bad)
            await self._ways[kind]()
        except _Left:
            return End.LEFT, ""
        except _Wrong as error:
            return End.WRONG, str(error)
        except Refused as error:
            return End.WRONG, f"refused: {error}"
        except StreamFailed as error:
            if error.kind == "hang":
                return End.HANG, str(error)
            return (End.NO_ROOM if error.code in NO_ROOM_CODES else End.WRONG), str(error)
        except httpx.TimeoutException as error:
            return End.HANG, repr(error)
        except httpx.HTTPStatusError as error:
            response = error.response
            is_full = response.status_code in NO_ROOM and "Retry-After" in response.headers
            return (End.NO_ROOM if is_full else End.WRONG), f"{response.status_code}: {response.text[:300]}"
        except httpx.HTTPError as error:
            return End.WRONG, repr(error)
        return End.ANSWERED, ""

    async def _refused(self, bad: BadRequest) -> tuple[End, str]:
        response = await self.http.post(bad.path, content=bad.content, headers=dict(bad.headers))
        problem = bad.problem(response)
        return (End.WRONG if problem else End.REFUSED), problem

    @property
    def _ways(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        return {
            "stream": lambda: self._stream("none"),
            "steered_stream": lambda: self._stream("adapters"),
            "whole": lambda: self._whole(None),
            "steered_whole": lambda: self._whole("adapters"),
            "completion": self._completion,
            "scored_stream": self._scored_stream,
            "best_of_n": lambda: self._whole("best_of_n"),
            "scoring": self._score,
            "slow_reader": self._read_slowly,
            "left_stream": self._leave_stream,
            "left_whole": self._leave_whole,
        }

    async def _stream(self, method: str) -> None:
        await read_stream(self.http, self._chat(method, stream=True))

    async def _scored_stream(self) -> None:
        body = self._chat("none", stream=True)
        body["steering"] |= {"reward_heads": [self._head()]}
        await read_stream(self.http, body)

    async def _whole(self, method: str | None) -> None:
        answer = await self._post(CHAT, self._chat(method))
        if method is not None and "plan" not in answer.get("steering", {}):
            raise _Wrong("the answer does not say what was applied")
        if not answer.get("choices"):
            raise _Wrong("an answer without choices")

    async def _completion(self) -> None:
        steering = self.vectors.steering("adapters")
        body = {"model": self.vectors.offer.model, "prompt": self._prompt(), "max_tokens": self.max_tokens}
        answer = await self._post("/v1/completions", {**body, "steering": steering})
        if "plan" not in answer.get("steering", {}):
            raise _Wrong("the answer does not say what was applied")

    async def _score(self) -> None:
        answers = [self._prompt() for _ in range(NUM_ANSWERS)]
        body = {"messages": self._messages(), "answers": answers, "heads": [self._head()]}
        if len((await self._post("/v1/rewards", body)).get("scores", ())) != NUM_ANSWERS:
            raise _Wrong("not a score for every answer")

    async def _read_slowly(self) -> None:
        async def slowly(lines: AsyncIterator[str]) -> AsyncIterator[str]:
            async for line in lines:
                yield line
                await asyncio.sleep(self.pause_seconds)

        await read_stream(self.slow_http, self._chat("adapters", stream=True), through=slowly)

    async def _leave_stream(self) -> None:
        patience = self.rng.randint(1, min(MAX_PATIENCE_TOKENS, self.max_tokens))

        def lose_patience() -> None:
            nonlocal patience
            patience -= 1
            if not patience:
                raise _Left

        await read_stream(self.http, self._chat("adapters", stream=True), on_token=lose_patience)

    async def _leave_whole(self) -> None:
        try:
            async with asyncio.timeout(self.rng.uniform(0, MAX_PATIENCE_SECONDS)):
                await self._whole(None)
        except TimeoutError as error:
            raise _Left from error

    async def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        response = (await self.http.post(path, json=body)).raise_for_status()
        try:
            return dict(response.json())
        except ValueError as error:
            raise _Wrong(f"200 with a body that is not a JSON object: {response.text[:200]}") from error

    def _chat(self, method: str | None, *, stream: bool = False) -> dict[str, Any]:
        """Args: method: None for a request without `steering`."""
        body = {
            "model": self.vectors.offer.model,
            "messages": self._messages(),
            "max_tokens": self.max_tokens,
            "stream": stream,
        }
        return body if method is None else {**body, "steering": self.vectors.steering(method)}

    def _messages(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": self._prompt()}]

    def _prompt(self) -> str:
        """No two are equal, so that what the server keeps by text must be bounded."""
        return f"{self.rng.randrange(10**9)}: {self.rng.choice(PROMPTS)}"

    def _head(self) -> str:
        return self.rng.choice(self.vectors.offer.heads)
