"""ServerClient: asks a running server many questions at once; every failure is kept and counted."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any, TypeVar

import httpx

from steer_server.errors import EvaluationError
from steer_server.together import together

T = TypeVar("T")

MAX_ATTEMPTS = 6
RETRIED_STATUSES = frozenset({429, 502, 503, 504})
FIRST_WAIT_SECONDS = 0.5
"""Doubled with every attempt; a server's `Retry-After` is obeyed instead, up to the longest wait."""
LONGEST_WAIT_SECONDS = 30.0
REQUEST_SECONDS = 600.0
MAX_FAILED_SHARE = 0.01
"""An evaluation with more failed requests than this ends with an error, after its report is written."""
MAX_DROPPED_SHARE = 0.05
"""The same for what was left out for it: one request may cost a question under every setting."""
PLAN_PATH = "/v1/steering/plan"
MAX_LISTED_FAILURES = 50


@dataclass(frozen=True)
class Failure:
    """One request that got no usable answer after all attempts."""

    path: str
    digest: str
    """Of the request's body, which may hold text that must not be copied."""
    problem: str


class RequestFailed(Exception):
    """One request failed and is in `ServerClient.failures`. Caught by whoever needs the answer."""


@dataclass(frozen=True)
class Culture:
    """A culture that the server offers."""

    id: str
    countries: tuple[str, ...]
    """ISO 3166 alpha-3."""
    adapter: str


@dataclass(frozen=True)
class OfferedAxis:
    """A value axis that the server offers."""

    id: str
    adapter: str
    """`name@version`; a preference vector uses the axes of one adapter."""


@dataclass(frozen=True)
class ServerInfo:
    """What the server says of itself."""

    url: str
    model: str
    cultures: tuple[Culture, ...]
    adapters: tuple[dict[str, Any], ...]
    axes: tuple[OfferedAxis, ...] = ()
    value_floors: tuple[tuple[str, float], ...] = ()
    """(value axis, least share) of the operator's policy, which raises what a request asks for."""
    prompters: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        return {
            "url": self.url,
            "model": self.model,
            "cultures": [asdict(c) for c in self.cultures],
            "values": [asdict(a) for a in self.axes],
            "value_floors": dict(self.value_floors),
            "adapters": list(self.adapters),
        }


@dataclass
class ServerClient:
    """Bounded concurrency, retries, and one request for equal bodies. Use as an async context manager.

    Not covered: streaming.
    """

    url: str
    api_key: str = ""
    concurrency: int = 16
    transport: httpx.AsyncBaseTransport | None = None
    """For tests."""
    longest_wait_seconds: float = LONGEST_WAIT_SECONDS
    failures: list[Failure] = field(default_factory=list)
    num_requests: int = 0
    """Distinct requests; attempts are not counted."""
    num_retries: int = 0

    async def __aenter__(self) -> ServerClient:
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        self._http = httpx.AsyncClient(
            base_url=self.url.rstrip("/"),
            headers=headers,
            timeout=REQUEST_SECONDS,
            transport=self.transport,
            limits=httpx.Limits(max_connections=self.concurrency),
        )
        self._room = asyncio.Semaphore(self.concurrency)
        self._asked: dict[str, asyncio.Task[dict[str, Any]]] = {}
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        unfinished = [task for task in self._asked.values() if not task.done()]
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)
        await self._http.aclose()

    async def post(self, path: str, body: Mapping[str, Any], is_kept: bool = True) -> dict[str, Any]:
        """The answer to a POST; a request with the same path and body is sent once and shared.

        Args:
            is_kept: False for one of thousands of large answers that nobody shares: log-probabilities of
                prompts are some hundred kilobytes each.

        Raises: RequestFailed.
        """
        text = json.dumps(body, sort_keys=True)
        if not is_kept:
            self.num_requests += 1
            return await self._post(path, text)
        key = f"{path} {text}"
        if key not in self._asked:
            self.num_requests += 1
            self._asked[key] = asyncio.create_task(self._post(path, text))
        return await asyncio.shield(self._asked[key])

    async def post_steered(self, path: str, body: Mapping[str, Any], is_kept: bool = True) -> dict[str, Any]:
        """`post` of a body with `steering`. An answer counts only if it says that the plan was applied which
        the server described when this client first asked for it.

        Raises: RequestFailed.
        """
        plan = await self.post(PLAN_PATH, {"steering": body["steering"]})
        answer = await self.post(path, body, is_kept)
        try:
            check_plan(answer, plan)
        except (KeyError, TypeError, ValueError) as error:
            raise self.fail(path, body, f"an answer that cannot be used: {error!r}") from error
        return answer

    async def for_each(self, items: Iterable[T], work: Callable[[T], Awaitable[None]]) -> None:
        """Works on the items in order, as many at a time as there may be requests: what belongs to one item
        is done before later items begin, so that few adapters are wanted at a time."""
        waiting = iter(items)

        async def work_on() -> None:
            for item in waiting:
                await work(item)

        await together(work_on() for _ in range(self.concurrency))

    async def info(self) -> ServerInfo:
        """The served model, cultures and adapters.

        Raises: EvaluationError when this is not a steer-server that answers.
        """
        try:
            found = {}
            for path in ("models", "steering", "adapters"):
                answer = await self._http.get(f"/v1/{path}")
                found[path] = answer.raise_for_status().json()
            cultures = tuple(
                Culture(c["id"], tuple(c["countries"]), c["adapter"]) for c in found["steering"]["cultures"]
            )
            axes = tuple(OfferedAxis(a["id"], a["adapter"]) for a in found["steering"].get("values", []))
            floors = found["steering"].get("policy", {}).get("value_floors", {})
            prompters = tuple(p["id"] for p in found["steering"].get("prompters", []))
            model = next(m["id"] for m in found["models"]["data"] if not m.get("parent"))
            adapters = tuple(
                {key: a[key] for key in ("name", "version", "kind", "digest") if key in a}
                for a in found["adapters"]["data"]
                if a["state"] == "active"
            )
        except (httpx.HTTPError, ValueError, KeyError, TypeError, StopIteration) as error:
            raise EvaluationError(f"{self.url} does not answer as a steer-server: {error!r}") from error
        return ServerInfo(self.url, model, cultures, adapters, axes, tuple(sorted(floors.items())), prompters)

    def fail(self, path: str, body: Mapping[str, Any], problem: str) -> RequestFailed:
        """Records that the answer to a request cannot be used, once per request. Returns: what to raise."""
        return self._fail(path, json.dumps(body, sort_keys=True), problem)

    def describe(self) -> dict[str, Any]:
        """For the report: how many requests were made, and which failed."""
        return {
            "requests": self.num_requests,
            "retries": self.num_retries,
            "failed": len(self.failures),
            "failures": [asdict(f) for f in self.failures[:MAX_LISTED_FAILURES]],
        }

    def check_failures(self, num_dropped: int = 0, num_asked: int = 0) -> None:
        """Raises: EvaluationError when more than `MAX_FAILED_SHARE` of the requests failed, or more than
        `MAX_DROPPED_SHARE` of what was asked, such as questions, was left out of the scores for it."""
        problem = f"{len(self.failures)} of {self.num_requests} requests failed"
        if self.failures:
            problem += f", first: {self.failures[0].path}: {self.failures[0].problem}"
        if num_dropped > MAX_DROPPED_SHARE * num_asked:
            raise EvaluationError(
                f"{num_dropped} of {num_asked} questions or texts were left out of the scores: {problem}"
            )
        if len(self.failures) > MAX_FAILED_SHARE * self.num_requests:
            raise EvaluationError(problem)

    async def _post(self, path: str, text: str) -> dict[str, Any]:
        problem = ""
        headers = {"Content-Type": "application/json"}
        for attempt in range(MAX_ATTEMPTS):
            wait_seconds = FIRST_WAIT_SECONDS * 2**attempt
            async with self._room:
                try:
                    response = await self._http.post(path, content=text, headers=headers)
                except httpx.HTTPError as error:
                    problem = repr(error)
                else:
                    if response.status_code == 200:
                        try:
                            return dict(response.json())
                        except ValueError:
                            problem = "200 with a body that is not a JSON object"
                            break
                    problem = f"{response.status_code}: {response.text[:300]}"
                    if response.status_code not in RETRIED_STATUSES:
                        break
                    wait_seconds = _retry_after(response) or wait_seconds
            if attempt + 1 < MAX_ATTEMPTS:
                self.num_retries += 1
                await asyncio.sleep(min(wait_seconds, self.longest_wait_seconds))
        raise self._fail(path, text, problem)

    def _fail(self, path: str, text: str, problem: str) -> RequestFailed:
        failure = Failure(path, hashlib.sha256(text.encode()).hexdigest()[:16], problem)
        if failure not in self.failures:
            self.failures.append(failure)
        return RequestFailed(problem)


def check_plan(answer: Mapping[str, Any], plan: Mapping[str, Any]) -> None:
    """Raises: ValueError when a response does not say that the setting's plan was applied."""
    applied = answer["steering"]["plan"]
    if applied != plan["plan"]:
        raise ValueError(f"plan {applied} was applied instead of {plan['plan']}")


def _retry_after(response: httpx.Response) -> float | None:
    try:
        return float(response.headers["Retry-After"])
    except (KeyError, ValueError):
        return None
