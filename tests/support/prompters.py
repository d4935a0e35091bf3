"""A server on the fake engine with a prompter, whose rewrites a test dictates, and an upstream beside it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import SecretStr

from steer_server.catalogue.manifest import PrompterInfo
from steer_server.engine.fake import FakeEngine
from steer_server.frozen.prompter_template import TEMPLATE_VERSION, prompter_messages
from steer_server.frozen.rewriting import Rewriter
from steer_server.settings import Settings
from steer_server.state import Server
from tests.support.adapters import TINY, random_adapter, tiny_base_model
from tests.support.heads import random_head
from tests.support.servers import Running, app_server
from tests.support.upstream import HandmadeUpstream, handmade_upstream

QUESTION = "Why do cats purr?"
REWRITE = "Please explain why cats purr."
ALIGN_PRO: dict[str, Any] = {"method": "align_pro"}


def info(prompter: str, **more: Any) -> PrompterInfo:
    return PrompterInfo(id=prompter, template_version=TEMPLATE_VERSION, **more)


@dataclass
class Prompted:
    """The server, and what it asks of its engine."""

    server: Running
    upstream: HandmadeUpstream

    @property
    def engine(self) -> FakeEngine:
        assert self.server.fake is not None
        return self.server.fake

    @property
    def steer(self) -> Server:
        assert self.server.steer is not None
        return self.server.steer

    def writes(self, prompt: str, rewrite: str) -> None:
        """From now on the prompter writes this for it."""
        self.engine.answers[json.dumps(prompter_messages(prompt), sort_keys=True)] = rewrite

    def asked(self) -> list[tuple[Any, list[str]]]:
        """Messages, and the adapters that they ran under, since the last look."""
        found, self.engine.asked = self.engine.asked, []
        return [(body.get("messages"), [gate.name for gate in plan.adapters]) for body, plan in found]

    async def chat(self, steering: Any = ALIGN_PRO, question: Any = QUESTION, **options: Any) -> Any:
        """The answer, or a stream's chunks."""
        messages = [{"role": "user", "content": question}]
        body = {"steering": steering} if steering is not None else {}
        async with self.server.client() as client:
            answer: Any = await client.chat.completions.create(
                **{"model": "fake", "messages": messages, "max_tokens": 6, "extra_body": body, **options}
            )
            return [chunk async for chunk in answer] if options.get("stream") else answer

    async def post(self, path: str, key: str | None = None, **body: Any) -> Any:
        messages = [{"role": "user", "content": QUESTION}]
        async with self.server.http(key) as http:
            return await http.post(path, json={"model": "fake", "messages": messages, **body})

    async def key(self, **limits: Any) -> str:
        """A new application key's secret."""
        async with self.server.http() as http:
            made = await http.post("/v1/keys", json={"label": "a demo", "limits": limits})
        return str(made.raise_for_status().json()["secret"])

    def counted(self, outcome: str) -> float:
        """Messages with this outcome."""
        return float(self.steer.metrics.rewrites_total.labels(outcome)._value.get())

    def begin(self, max_tokens: int = 128) -> None:
        """As if nothing had been asked before."""
        self.steer.rewriter = Rewriter(
            max_tokens=max_tokens, cache_characters=10_000, metrics=self.steer.metrics
        )
        self.engine.token_seconds = 0.0
        for kept in (self.engine.answers, self.engine.asked, self.engine.scored, self.upstream.received):
            kept.clear()

    def end(self) -> None:
        """Nothing is left running or held."""
        assert self.engine.num_running == 0 and self.steer.leases.num_leases == 0


@asynccontextmanager
async def prompted_server(folder: Path) -> AsyncIterator[Prompted]:
    """With the prompter `clear` (adapter `clarity`), cultures, the head `warm`, and the preset `careful`."""
    base = tiny_base_model(folder / TINY)
    adapters = folder / "adapters"
    random_adapter(adapters, "clarity", base, prompter=info("clear", culture="amber", aim="clear answers"))
    for culture in ("amber", "blue", "coral", "denim"):
        random_adapter(adapters, culture, base)
    random_head(adapters, "head-warm", base)
    presets = folder / "presets.yaml"
    presets.write_text(yaml.safe_dump({"careful": ALIGN_PRO}))
    async with handmade_upstream() as upstream:
        settings = Settings(
            model=base.path,
            served_model_name="fake",
            bank_rank=8,
            adapters=adapters,
            data=folder / "data",
            presets=presets,
            admin_key=SecretStr("admin"),
            max_wait_seconds=0.2,
            upstream={"up": upstream.url},
        )
        async with app_server(settings, key="admin") as server:
            yield Prompted(server, upstream)
