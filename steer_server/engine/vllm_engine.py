"""VllmEngine: the Engine protocol on vLLM's own OpenAI handlers, and how its server gets our routes."""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Awaitable, Callable, Mapping, Sequence
from copy import copy
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.v1.engine.exceptions import EngineDeadError

from steer_server.app import attach, start
from steer_server.catalogue.snapshot import LoadedAdapter, LoadedRewardHead
from steer_server.engine.answer_scores import AnswerScores
from steer_server.engine.base import ReadText, Route, ScoredText, ScoringText, TokenisedText
from steer_server.engine.calls import call_workers
from steer_server.engine.ending import EngineEnd
from steer_server.engine.log_probs import VllmLogProbs
from steer_server.engine.plan_ids import PlanIds
from steer_server.engine.scoring import VllmScorer
from steer_server.engine.texts import ModelTokenizer, VllmTexts
from steer_server.engine.vllm_run import SteeredClient, VllmRun
from steer_server.engine.worker import BANK_KEY
from steer_server.errors import EngineError
from steer_server.observing.spans import Tracer
from steer_server.settings import Settings, otlp_traces
from steer_server.steering.plan import SteeringPlan

logger = logging.getLogger("steer_server.engine")


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
