"""VllmEngine: requests go to vLLM's own OpenAI handlers, each with its plan in place of a LoRA adapter.

vLLM's handlers choose an adapter from the model's name; ours must come from the plan. The handlers are given
an engine client that is vLLM's own but for one thing: `generate` adds the plan of the current request.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from argparse import Namespace
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from contextvars import ContextVar
from copy import copy
from typing import Any

from fastapi import FastAPI
from pydantic import ValidationError
from starlette.requests import Request
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.utils.sse_keep_alive import with_sse_keep_alive
from vllm.lora.request import LoRARequest
from vllm.v1.engine.exceptions import EngineDeadError

from steer_server.app import attach, start
from steer_server.catalogue.snapshot import LoadedAdapter, LoadedRewardHead
from steer_server.engine.answer_scores import AnswerScores, Readings
from steer_server.engine.base import (
    Answer,
    ChoiceScores,
    ReadText,
    Route,
    ScoredText,
    ScoringText,
    TokenisedText,
)
from steer_server.engine.calls import call_workers
from steer_server.engine.ending import EngineEnd
from steer_server.engine.log_probs import VllmLogProbs
from steer_server.engine.reward_tap import answer_id
from steer_server.engine.scoring import VllmScorer
from steer_server.engine.texts import ModelTokenizer, VllmTexts
from steer_server.engine.translate import failure, invalid_body, refusal
from steer_server.engine.worker import BANK_KEY
from steer_server.errors import EngineError
from steer_server.observing.spans import Tracer, trace_headers
from steer_server.settings import Settings, otlp_traces
from steer_server.steering.plan import SteeringPlan

FIRST_PLAN_ID = 1 << 20
"""Above every id that vLLM gives to adapters of its own or to warm-up requests."""

ABORT_AGAIN_SECONDS = 0.02

logger = logging.getLogger("steer_server.engine")

_current_run: ContextVar[VllmRun | None] = ContextVar("current_run", default=None)


class PlanIds:
    """A fresh integer for each plan, the same one for as long as the plan is remembered, never used twice.

    vLLM takes two `LoRARequest`s of one name for the same, so a plan in use must keep its id.
    """

    def __init__(self, max_plans: int) -> None:
        self._max_plans = max_plans
        self._next = itertools.count(FIRST_PLAN_ID)
        self._known: OrderedDict[str, LoRARequest] = OrderedDict()
        self._num_users: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._known)

    def take(self, plan: SteeringPlan) -> LoRARequest:
        """The plan as vLLM carries it; `give_back` when the request has ended."""
        request = self._known.get(plan.digest)
        if request is None:
            request = LoRARequest(plan.digest, next(self._next), plan.to_json())
            self._known[plan.digest] = request
        self._known.move_to_end(plan.digest)
        self._num_users[plan.digest] = self._num_users.get(plan.digest, 0) + 1
        while len(self._known) > self._max_plans:
            idle = next((digest for digest in self._known if digest not in self._num_users), None)
            if idle is None:
                break
            del self._known[idle]
        return request

    def give_back(self, plan: SteeringPlan) -> None:
        self._num_users[plan.digest] -= 1
        if not self._num_users[plan.digest]:
            del self._num_users[plan.digest]


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


class VllmEngine:
    """The Engine protocol on one vLLM server's state."""

    provider = "vllm"

    def __init__(self, client: Any, state: Any, args: Namespace, settings: Settings) -> None:
        self.client = client
        self.served_name = str(state.openai_serving_models.base_model_paths[0].name)
        self.num_slots = int(args.additional_config[BANK_KEY]["slots"])
        self.keep_alive_seconds = float(getattr(args, "sse_keep_alive_interval", 0) or 0)
        self.plan_ids = PlanIds(settings.max_plans)
        self.max_model_tokens = int(client.model_config.max_model_len)
        self.can_read_heads = client.vllm_config.speculative_config is None
        tokenizer = ModelTokenizer(client)
        self.scorer = VllmScorer(client, tokenizer)
        self.answer_scores = AnswerScores(client.output_processor)
        self.reader = VllmLogProbs(client)
        self.texts = VllmTexts(tokenizer, state.serving_tokenization)
        # Copies: vLLM's own routes keep the handlers as they are.
        chat, completion = copy(state.openai_serving_chat), copy(state.openai_serving_completion)
        chat.engine_client = completion.engine_client = SteeredClient(client)
        self.handlers: dict[str, tuple[Any, Callable[..., Awaitable[Any]]]] = {
            "chat": (ChatCompletionRequest, chat.create_chat_completion),
            "completion": (CompletionRequest, completion.create_completion),
        }

    async def load_slot(self, slot: int, adapter: LoadedAdapter) -> None:
        try:
            await call_workers(self.client, "steer_load_slot", slot, adapter.digest, str(adapter.folder))
        except EngineDeadError as error:
            raise EngineError("The engine is dead.") from error
        except Exception as error:
            # vLLM's words name the folder.
            logger.exception("adapter %s could not be loaded", adapter.title)
            raise EngineError(
                f"The engine could not load adapter {adapter.title}; its log says why."
            ) from error

    async def clear_slot(self, slot: int) -> None:
        try:
            await call_workers(self.client, "steer_clear_slot", slot)
        except Exception as error:
            raise EngineError(f"Slot {slot} could not be emptied: {error}") from error

    def run(
        self,
        route: Route,
        body: dict[str, Any],
        plan: SteeringPlan,
        request: Request,
        *,
        reads_heads: bool = False,
    ) -> VllmRun:
        return VllmRun(self, route, body, plan, request, reads_heads=reads_heads)

    async def load_head(self, head: LoadedRewardHead) -> None:
        await self.scorer.load_head(head)

    async def drop_head(self, digest: str) -> None:
        await self.scorer.drop_head(digest)

    async def score(self, texts: Sequence[ScoringText]) -> list[ScoredText]:
        return await self.scorer.score(texts)

    async def log_probs(
        self, texts: Sequence[ReadText], plan: SteeringPlan, cache_salt: str | None = None
    ) -> list[list[float]]:
        if plan.is_base:
            return await self.reader.read(texts, None, cache_salt)
        lora_request = self.plan_ids.take(plan)
        try:
            return await self.reader.read(texts, lora_request, cache_salt)
        finally:
            self.plan_ids.give_back(plan)

    async def tokenise_chat(self, body: Mapping[str, Any], request: Request) -> list[int]:
        return await self.texts.tokenise_chat(body, request)

    async def tokenise(self, texts: Sequence[str]) -> list[TokenisedText]:
        return await self.texts.tokenise(texts)

    async def check_health(self) -> None:
        try:
            await self.client.check_health()
        except Exception as error:
            raise EngineError(f"The engine is dead: {error}") from error

    async def bank_info(self) -> dict[str, Any]:
        (info, *_) = await call_workers(self.client, "steer_bank_info")
        return dict(info)


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


class HttpPlugin:
    """What vLLM calls to attach our routes and to prepare their state."""

    name = "steer_server_http"
    required_tasks = ("generate",)

    def __init__(self) -> None:
        self.end = EngineEnd()

    def attach_router(self, app: FastAPI) -> None:
        attach(app)

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:
        """Loads the catalogue and probes it; the server does not start when that fails."""
        settings = Settings.read()
        engine = VllmEngine(engine_client, state, args, settings)
        server = await start(state, engine, settings, tracer=_tracer())
        self.end.watch(engine_client, server.drain.finish)


def _tracer() -> Tracer | None:
    """None: traces are off. Raises: ConfigError."""
    otlp = otlp_traces()
    if otlp is None:
        return None
    from steer_server.observing.tracing import open_tracer  # the SDK, only where it is used

    return open_tracer(otlp)
