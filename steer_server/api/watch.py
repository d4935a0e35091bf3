"""What one request leaves in the metrics and in its log line: noted where its answer passes, whatever method
made it."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse

from steer_server.api.encode import ERROR_PREFIX
from steer_server.api.held import HeldStream
from steer_server.api.respond import error_response
from steer_server.errors import CLIENT_CLOSED_STATUS, CapacityError, RateLimitError, SteerError
from steer_server.metrics import Metrics
from steer_server.metrics.adapters import Outcome
from steer_server.observing.request import observed
from steer_server.observing.timings import Timings
from steer_server.steering.plan import SteeringPlan

INDEX = re.compile(r'"index": ?(\d+)')
"""Of the choice that an event is about; events without one, such as usage, are no tokens."""
NO_TEXT = re.compile(r'"content": ?""')
"""In the first event of a chat's choice: it has the role alone, and the first token comes with it."""
NO_ROOM = frozenset({CapacityError.status, RateLimitError.status})


@dataclass(slots=True)
class _Choice:
    """The tokens of one streamed choice."""

    first: float
    last: float
    num_tokens: int


class RequestWatch:
    """One request, from its body to the last byte of its answer. `plan` is set when there is one."""

    def __init__(
        self,
        metrics: Metrics,
        route: str,
        timings: Timings,
        *,
        method: str = "unknown",
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._metrics, self._route, self._timings, self._method = metrics, route, timings, method
        self._clock = clock
        self.plan: SteeringPlan | None = None
        self._observed = observed()
        self._observed.timings = timings

    async def response(self, work: Awaitable[Response]) -> Response:
        """The response of `work`, or the one that its error asks for."""
        try:
            response = await work
        except SteerError as error:
            self._note_error(error.code)
            response = error_response(error)
        except ClientDisconnect:
            # While its body was read: nobody is there to be answered.
            response = Response(status_code=CLIENT_CLOSED_STATUS)
        except Exception:
            self._note_error(SteerError.code)
            self._count(SteerError.status)
            self._note_end(Outcome.FAILED)
            raise
        self._count(response.status_code)
        if isinstance(response, StreamingResponse):
            response.body_iterator = self._passed_on(
                response.body_iterator, is_live=isinstance(response, HeldStream)
            )
        else:
            self._note_end(_outcome(response.status_code))
        return response

    async def _passed_on(
        self, events: AsyncIterable[str | bytes | memoryview], *, is_live: bool
    ) -> AsyncIterator[str | bytes | memoryview]:
        """The same events. Args: is_live: they come as the engine makes them, not all at once."""
        outcome = Outcome.LEFT
        choices: dict[str, _Choice] = {}
        has_failed = False
        try:
            async for event in events:
                if isinstance(event, str) and event.startswith("data: {"):
                    if event.startswith(ERROR_PREFIX):
                        has_failed = True
                    elif found := INDEX.search(event):
                        self._note_token(choices, found[1], event)
                yield event
            outcome = Outcome.FAILED if has_failed else Outcome.ANSWERED
        except Exception:
            outcome, has_failed = Outcome.FAILED, True
            raise
        finally:
            if has_failed:
                self._note_error("in_stream")
            elif is_live and outcome is Outcome.ANSWERED:
                self._note_speed(choices)
            self._note_end(outcome)

    def _note_token(self, choices: dict[str, _Choice], index: str, event: str) -> None:
        now = self._clock()
        choice = choices.get(index)
        if choice is not None:
            choice.last = now
            choice.num_tokens += 1
            return
        if not choices:
            self._note_first_token(now - self._timings.started)
        choices[index] = _Choice(now, now, 0 if NO_TEXT.search(event) else 1)

    def _note_first_token(self, seconds: float) -> None:
        self._observed.first_token_seconds = seconds
        self._metrics.requests.first_token_seconds.labels(self.method).observe(seconds)
        if self.plan is not None:
            for adapter in self._metrics.adapters.of(self.plan):
                self._metrics.adapters.first_token_seconds.labels(adapter).observe(seconds)

    def _note_speed(self, choices: dict[str, _Choice]) -> None:
        for choice in choices.values():
            if choice.num_tokens < 2:
                continue
            seconds = (choice.last - choice.first) / (choice.num_tokens - 1)
            self._metrics.requests.output_token_seconds.labels(self.method).observe(seconds)
            if self.plan is not None:
                for adapter in self._metrics.adapters.of(self.plan):
                    self._metrics.adapters.output_token_seconds.labels(adapter).observe(seconds)

    def _note_end(self, outcome: Outcome) -> None:
        seconds = self._clock() - self._timings.started
        self._observed.plan, self._observed.method = self.plan, self.method
        self._observed.outcome = outcome
        if outcome is Outcome.ANSWERED:
            self._metrics.requests.duration_seconds.labels(self._route, self.method).observe(seconds)
        if self.plan is not None:
            for adapter in self._metrics.adapters.of(self.plan):
                self._metrics.adapters.requests_total.labels(adapter, outcome).inc()
                if outcome is Outcome.ANSWERED:
                    self._metrics.adapters.duration_seconds.labels(adapter).observe(seconds)

    def _note_error(self, code: str) -> None:
        self._observed.note_error(code)
        self._metrics.requests.errors.labels(self._route, self.method, code).inc()

    def _count(self, status: int) -> None:
        self._metrics.requests.answered.labels(self._route, self.method, status).inc()

    @property
    def method(self) -> str:
        return self.plan.method if self.plan is not None else self._method


def _outcome(status: int) -> Outcome:
    if status < 400:
        return Outcome.ANSWERED
    if status == CLIENT_CLOSED_STATUS:
        return Outcome.LEFT
    return Outcome.REFUSED if status < 500 or status in NO_ROOM else Outcome.FAILED
