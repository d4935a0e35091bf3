"""The real app beside a handmade upstream and one that is down. Whatever happens, no test may see the key."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from steer_server.settings import Settings
from steer_server.upstream.client import Upstream
from tests.support.adapters import TINY, random_adapter, tiny_base_model
from tests.support.ports import free_port
from tests.support.servers import Running, app_server
from tests.support.upstream import KEY, HandmadeUpstream, RecordingTransport, handmade_upstream
from tests.support.waiting import until

SECONDS = {"connect": 60.0, "first_byte": 120.0, "between_bytes": 120.0, "breaker": 0.5, "models": 0.1}
"""An upstream is waited for longer than any machine takes; a test that waits for the end of it says so."""


class Clock:
    """Of a breaker: time passes when a test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class World:
    server: Running
    upstream: HandmadeUpstream
    record: list[str] = field(default_factory=list)
    """Everything that clients received."""
    clock: Clock = field(default_factory=Clock)
    """Of the upstream's breaker."""

    def __post_init__(self) -> None:
        self.up.breaker._clock = self.clock

    @property
    def up(self) -> Upstream:
        """The app's side of the upstream."""
        assert self.server.steer is not None
        relay = self.server.steer.upstreams.find("up/big")
        assert relay is not None
        return relay.upstream

    def waits(self, **seconds: float) -> None:
        """The upstream is waited for so long from now on."""
        self.up.patience = replace(self.up.patience, **seconds)

    def client(self) -> openai.AsyncOpenAI:
        return self.server.client(http_client=httpx.AsyncClient(transport=RecordingTransport(self.record)))

    async def ask(self, model: str = "up/big", **options: Any) -> Any:
        async with self.client() as client:
            return await client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": "hello"}], **options
            )

    async def stream(self, model: str = "up/big", **options: Any) -> tuple[str, list[Any]]:
        """The text and the chunks."""
        async with self.client() as client:
            events = await client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": "hello"}], stream=True, **options
            )
            chunks = [chunk async for chunk in events]
        return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices), chunks

    async def refused(self, **options: Any) -> openai.APIStatusError:
        with pytest.raises(openai.APIStatusError) as caught:
            await (self.stream if options.pop("stream", False) else self.ask)(**options)
        return caught.value

    async def local_text(self) -> str:
        return str((await self.ask("fake", max_tokens=4)).choices[0].message.content)

    async def models(self) -> list[str]:
        async with self.client() as client:
            return [model.id async for model in client.models.list()]

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples with these labels."""
        assert self.server.steer is not None
        (family,) = getattr(self.server.steer.metrics, name).collect()
        wanted = labels.items()
        return sum(
            sample.value
            for sample in family.samples
            if wanted <= sample.labels.items() and not sample.name.endswith(("_created", "_bucket", "_sum"))
        )

    async def breaker_becomes(self, state: int) -> None:
        await until(lambda: self.metric("upstream_breaker_state", upstream="up") == state)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    random_adapter(folder / "adapters", "amber", tiny_base_model(folder / TINY))
    return folder


@pytest.fixture
async def world(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[World]:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("STEER_UPSTREAM_UP_KEY", KEY)
    async with handmade_upstream() as upstream:
        settings = Settings(
            model=str(base / TINY),
            served_model_name="fake",
            bank_rank=8,
            adapters=base / "adapters",
            data=tmp_path / "data",
            upstream={"up": upstream.url, "down": f"http://127.0.0.1:{free_port()}"},
            **{f"upstream_{name}_seconds": seconds for name, seconds in SECONDS.items()},
        )
        async with app_server(settings) as server:
            world = World(server, upstream)
            yield world
            await world.models()
            assert server.fake is not None and server.fake.num_running == 0
            assert not any(KEY in text for text in world.record)
            formatter = logging.Formatter()
            logged = [formatter.format(record) for record in caplog.get_records("call")]
            assert not any(KEY in text for text in logged)
            async with server.http() as http:
                assert KEY not in (await http.get("/openapi.json")).text
