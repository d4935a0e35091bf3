"""The load of a churn: many streaming requests at once, each read to its end and timed between tokens."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import httpx

from steer_server.evaluation.churn_timeline import Timeline

NUM_TOKENS = 48
REFUSING_STATUSES = frozenset({400, 404, 409})
REST_SECONDS = 0.05
"""After a refusal; asking again at once would only measure refusals."""
SHARE_OF_ANY_NAME = 0.1
"""Of requests name an adapter without looking whether it is active."""

_SUBJECTS = (
    "religion in daily life",
    "obedience in children",
    "trust in strangers",
    "the role of the state",
    "care for old parents",
    "work and leisure",
    "protecting nature",
    "new technology",
)
_FORMS = ("Tell me what you think about {}.", "Write a short note to a friend about {}.")
PROMPTS = tuple(form.format(subject) for form in _FORMS for subject in _SUBJECTS)


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


class StreamFailed(Exception):
    """A request got no whole answer. Caught by whoever asked."""

    def __init__(self, kind: str, detail: str, code: str = "") -> None:
        super().__init__(detail)
        self.kind = kind
        self.code = code or kind
        """The error's own, where the server said one."""


class Refused(Exception):
    """A clean 4xx before the first byte. Caught by whoever asked."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


async def read_stream(
    http: httpx.AsyncClient,
    body: dict[str, Any],
    on_first_byte: Callable[[], None] = lambda: None,
    on_token: Callable[[], None] = lambda: None,
    through: Callable[[AsyncIterator[str]], AsyncIterator[str]] = lambda lines: lines,
) -> tuple[tuple[str, ...], str]:
    """What was applied, and the text, of a stream that came to its end.

    Args:
        through: what its lines pass on their way.

    Raises: StreamFailed; Refused.
    """
    has_begun = False
    try:
        async with http.stream("POST", "/v1/chat/completions", json=body) as response:
            on_first_byte()
            if response.status_code != 200:
                raise _refusal(response.status_code, await response.aread())
            has_begun = True
            return await _read_events(through(response.aiter_lines()), on_token)
    except httpx.TimeoutException as error:
        raise StreamFailed("hang", f"nothing came any more: {error!r}") from error
    except httpx.HTTPError as error:
        raise StreamFailed("cut" if has_begun else "unusable", repr(error)) from error


async def _read_events(
    lines: AsyncIterator[str], on_token: Callable[[], None]
) -> tuple[tuple[str, ...], str]:
    pieces: list[str] = []
    applied: tuple[str, ...] | None = None
    is_done = False
    async for line in lines:
        if not line.startswith("data: "):
            continue
        if line == "data: [DONE]":
            is_done = True
            continue
        try:
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                raise StreamFailed("error_after_first_byte", json.dumps(event["error"])[:300])
            if "steering" in event:
                applied = tuple(one["adapter"] for one in event["steering"]["applied"])
            for choice in event["choices"]:
                if choice.get("finish_reason") not in (None, "stop", "length"):
                    raise StreamFailed("cut", f"finish_reason {choice['finish_reason']!r}")
                if content := choice["delta"].get("content"):
                    on_token()
                    pieces.append(content)
        except (ValueError, KeyError, TypeError) as error:
            raise StreamFailed("unusable", f"{error!r} in {line[:200]}") from error
    if not is_done:
        raise StreamFailed("cut", f"the stream ended after {len(pieces)} pieces without [DONE]")
    if applied is None:
        raise StreamFailed("unusable", "the stream does not say what was applied")
    return applied, "".join(pieces)


def _refusal(status: int, content: bytes) -> Exception:
    try:
        error = json.loads(content)["error"]
        code, message = str(error["code"]), str(error["message"])
    except (ValueError, KeyError, TypeError):
        return StreamFailed("server_error" if status >= 500 else "unusable", f"{status}: {content[:200]!r}")
    if status in REFUSING_STATUSES:
        return Refused(code, message)
    kind = "server_error" if status >= 500 else "unusable"
    return StreamFailed(kind, f"{status} {code}: {message[:300]}", code)


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
