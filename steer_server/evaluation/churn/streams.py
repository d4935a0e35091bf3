"""The load of a churn: many streaming requests at once, each read to its end and timed between tokens."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from typing import Any

import httpx

from steer_server.evaluation.churn.timeline import Timeline
from steer_server.evaluation.streaming import PROMPTS, Refused, StreamFailed, read_stream

NUM_TOKENS = 48
REST_SECONDS = 0.05
"""After a refusal; asking again at once would only measure refusals."""
SHARE_OF_ANY_NAME = 0.1
"""Of requests name an adapter without looking whether it is active."""


@dataclass(frozen=True)
class Ask:
    """One request."""

    cultures: tuple[tuple[str, float], ...]
    """Culture and weight; empty for an unsteered request."""
    prompt: str

    def body(self, model: str) -> dict[str, Any]:
        steering = {"cultures": dict(self.cultures)} if self.cultures else {"method": "none"}
        return {
            "model": model,
            "messages": [{"role": "user", "content": self.prompt}],
            "max_tokens": NUM_TOKENS,
            "temperature": 0,
            "stream": True,
            "steering": steering,
        }


@dataclass(frozen=True)
class Answered:
    """A stream that came to its end."""

    ask: Ask
    applied: tuple[str, ...]
    """`name@version` of every adapter, as the answer says."""
    text: str


@dataclass(frozen=True)
class ChurnFailure:
    """Something that must never happen."""

    kind: str
    """act, cut, error_after_first_byte, hang, not_active, refused_while_active, server_error, unusable or
    wrong_text."""
    detail: str
    phase: str

    def describe(self) -> dict[str, str]:
        return asdict(self)


@dataclass
class Load:
    """Streams that go on until told to stop, and what became of them. `phase` says what is counted where."""

    http: httpx.AsyncClient
    model: str
    timeline: Timeline
    names: tuple[str, ...]
    """Of churned adapters."""
    stable: str | None
    """A culture that nobody touches."""
    num_streams: int
    rng: random.Random
    phase: str = "warm-up"
    answered: list[Answered] = field(default_factory=list)
    num_answered: Counter[str] = field(default_factory=Counter)
    """By phase; so are the next ones."""
    num_refused: Counter[str] = field(default_factory=Counter)
    gaps: dict[str, dict[int, list[float]]] = field(default_factory=lambda: defaultdict(dict))
    """Phase -> stream -> seconds between two tokens of one answer; a gap counts where it ended."""
    first_tokens: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Phase -> seconds until the first token."""
    refusal_codes: Counter[str] = field(default_factory=Counter)
    failures: list[ChurnFailure] = field(default_factory=list)
    _is_stopping: bool = False
    _streams: list[asyncio.Task[None]] = field(default_factory=list)
    _num_by_stream: Counter[int] = field(default_factory=Counter)

    def start(self) -> None:
        self._streams = [asyncio.create_task(self._stream(i)) for i in range(self.num_streams)]

    async def warm(self) -> None:
        """Returns when every stream has come to an end of an answer."""
        while len(self._num_by_stream) < self.num_streams:
            self.check()
            await asyncio.sleep(0.02)

    def check(self) -> None:
        """Raises whatever ended a stream that should go on."""
        for stream in self._streams:
            if stream.done():
                stream.result()

    async def finish(self) -> None:
        """Returns when every answer under way has come to its end."""
        self._is_stopping = True
        await asyncio.gather(*self._streams)

    async def cancel(self) -> None:
        """Drops what is under way."""
        for stream in self._streams:
            stream.cancel()
        await asyncio.gather(*self._streams, return_exceptions=True)

    def fail(self, kind: str, detail: str) -> None:
        self.failures.append(ChurnFailure(kind, detail, self.phase))

    def next_ask(self) -> Ask:
        """A fifth unsteered, to see what batching alone does to texts; of the others half are blends."""
        prompt = self.rng.choice(PROMPTS)
        active = [name for name in self.names if self.timeline.active(name)]
        among = self.names if self.rng.random() < SHARE_OF_ANY_NAME else active
        if not among or self.rng.random() < 0.2:
            return Ask((), prompt)
        name = self.rng.choice(among)
        if self.stable and self.rng.random() < 0.5:
            return Ask(((name, 0.6), (self.stable, 0.4)), prompt)
        return Ask(((name, 1.0),), prompt)

    async def _stream(self, stream: int) -> None:
        while not self._is_stopping:
            await self._ask(stream, self.next_ask())
            self._num_by_stream[stream] += 1

    async def _ask(self, stream: int, ask: Ask) -> None:
        sent = last = began = self.timeline.clock()
        has_token = False

        def on_first_byte() -> None:
            nonlocal began
            began = self.timeline.clock()

        def on_token() -> None:
            nonlocal last, has_token
            now = time.monotonic()
            if has_token:
                self.gaps[self.phase].setdefault(stream, []).append(now - last)
            else:
                self.first_tokens[self.phase].append(now - sent)
            last, has_token = now, True

        try:
            applied, text = await read_stream(self.http, ask.body(self.model), on_first_byte, on_token)
        except Refused as refused:
            churned = [name for name, _ in ask.cultures if name in self.names]
            if not any(self.timeline.may_meet(name, None, sent, began) for name in churned):
                self.fail("refused_while_active", f"{ask.cultures}: {refused}")
            self.num_refused[self.phase] += 1
            self.refusal_codes[refused.code] += 1
            await asyncio.sleep(REST_SECONDS)
        except StreamFailed as failed:
            self.fail(failed.kind, f"{ask.cultures}: {failed}")
            await asyncio.sleep(REST_SECONDS)
        else:
            self.num_answered[self.phase] += 1
            self.answered.append(Answered(ask, applied, text))
            self._check_applied(ask, applied, sent, began)

    def _check_applied(self, ask: Ask, applied: tuple[str, ...], sent: float, began: float) -> None:
        names = [title.rpartition("@")[0] for title in applied]
        if len(applied) != len(ask.cultures):
            self.fail("not_active", f"{ask.cultures} was answered by {applied}")
        for title, name in zip(applied, names, strict=True):
            version = title.rpartition("@")[2]
            if name in self.names and not self.timeline.may_meet(name, version, sent, began):
                self.fail("not_active", f"{title} answered a request that was sent when it was not active")
