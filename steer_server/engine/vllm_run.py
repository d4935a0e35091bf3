"""One request in vLLM: its own OpenAI handler, given an engine client that adds the request's plan.

vLLM's handlers choose an adapter from the model's name; ours must come from the plan. So the handlers' engine
client is vLLM's own but for one thing: `generate` adds the plan of the current request.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import aclosing
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from starlette.requests import Request
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.utils.sse_keep_alive import with_sse_keep_alive
from vllm.lora.request import LoRARequest

from steer_server.engine.answer_scores import Readings
from steer_server.engine.base import Answer, ChoiceScores, Route
from steer_server.engine.reward_tap import answer_id
from steer_server.engine.translate import failure, invalid_body, refusal
from steer_server.errors import EngineError
from steer_server.observing.spans import trace_headers
from steer_server.steering.plan import SteeringPlan

if TYPE_CHECKING:
    from steer_server.engine.vllm_engine import VllmEngine

ABORT_AGAIN_SECONDS = 0.02

_current_run: ContextVar[VllmRun | None] = ContextVar("current_run", default=None)


class SteeredClient:
    """vLLM's engine client; `generate` runs under the current request's plan, and below its span."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._next = itertools.count(1)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def generate(self, prompt: Any, sampling_params: Any, request_id: str, **kwargs: Any) -> Any:
        run = _current_run.get()
        if run is None:
            raise AssertionError("a steered handler was called outside a run")
        # It has the client's X-Request-Id, and vLLM's `abort` ends all requests that share one.
        # One of ours has the tap read the answer.
        request_id = answer_id() if run.reads_heads else f"{request_id}-{next(self._next)}"
        run.request_ids.append(request_id)
        kwargs["lora_request"] = run.lora_request
        if run.trace_headers:
            kwargs["trace_headers"] = run.trace_headers
        outputs = self._client.generate(prompt, sampling_params, request_id, **kwargs)
        if run.reads_heads:
            outputs = run.engine.answer_scores.note(request_id, run.readings, outputs)
        return run.unless_stopped(outputs)


class VllmRun:
    """One request; owns its plan id until it has stopped."""

    def __init__(
        self,
        engine: VllmEngine,
        route: Route,
        body: dict[str, Any],
        plan: SteeringPlan,
        request: Request,
        *,
        reads_heads: bool = False,
    ) -> None:
        self.engine, self.route, self.body, self.plan, self.request = engine, route, body, plan, request
        self.reads_heads = reads_heads
        self.readings: Readings = {}
        self.request_ids: list[str] = []
        self.trace_headers: dict[str, str] = {}
        self.lora_request: LoRARequest | None = None
        self._num_starting = 0
        """Of the requests in the engine, those that may not have reached it yet."""
        self._is_stopped = False
        self._is_finished = False

    async def answer(self) -> Answer:
        model, handle = self.engine.handlers[self.route]
        try:
            parsed = model.model_validate(self.body)
        except ValidationError as error:
            raise await invalid_body(error, self.request) from error
        if not self.plan.is_base:
            self.lora_request = self.engine.plan_ids.take(self.plan)
        # Now: beam search starts its work later, in the context of whoever reads the stream.
        self.trace_headers = trace_headers()
        token = _current_run.set(self)
        try:
            result = await handle(parsed, self.request)
        except Exception as error:
            raise failure(error) from error
        finally:
            _current_run.reset(token)
        if isinstance(result, ErrorResponse):
            raise refusal(result)
        choice_scores = self._choice_scores if self.reads_heads else None
        if hasattr(result, "model_dump"):
            self._is_finished = True
            return Answer(body=result.model_dump(), choice_scores=choice_scores)
        events = with_sse_keep_alive(result, self.engine.keep_alive_seconds)
        return Answer(events=self._watched(events), choice_scores=choice_scores)

    def _choice_scores(self) -> ChoiceScores:
        scorer = self.engine.scorer
        return {choice: scorer.by_digest(pairs) for choice, pairs in self.readings.items()}

    async def _watched(self, events: Any) -> AsyncIterator[str]:
        # The stream is read in another task than `answer`, and beam search starts its work only then.
        _current_run.set(self)
        try:
            async for event in events:
                yield event
            self._is_finished = True
        finally:
            await events.aclose()

    async def unless_stopped(self, outputs: Any) -> AsyncIterator[Any]:
        """What a request in the engine gives. None begins when the run has stopped: a handler that was still
        reading the prompt, or a stream that nobody had read from, would find its adapters' slots emptied.

        Raises: EngineError when the run has stopped before the first output was asked for.
        """
        if self._is_stopped:
            raise EngineError("The request was ended before the engine had it.")
        self._num_starting += 1
        is_starting = True
        try:
            async with aclosing(outputs):
                async for output in outputs:
                    if is_starting:
                        self._num_starting -= 1
                        is_starting = False
                    yield output
        finally:
            self._num_starting -= is_starting

    async def stop(self) -> None:
        if self._is_stopped:
            return
        self._is_stopped = True
        try:
            if not self._is_finished and self.request_ids:
                await self.engine.client.abort(self.request_ids)
            # vLLM does not know an id yet whose request is on its way, and forgets what it was told of it.
            while self._num_starting:
                await asyncio.sleep(ABORT_AGAIN_SECONDS)
                await self.engine.client.abort(self.request_ids)
        finally:
            if self.lora_request is not None:
                self.engine.plan_ids.give_back(self.plan)
