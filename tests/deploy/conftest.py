"""A server under mixed load, and a Prometheus that scrapes it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from steer_server.settings import Settings
from tests.deploy.load import (
    act_on_adapters,
    answer_requests,
    ask_upstreams,
    ask_without_a_key,
    rewrite_and_denoise,
)
from tests.support.adapters import TINY, random_adapter, tiny_base_model
from tests.support.heads import random_head
from tests.support.ports import free_port
from tests.support.prometheus import Prometheus, scraping
from tests.support.prompters import info
from tests.support.servers import Running, app_server
from tests.support.upstream import handmade_upstream


@dataclass
class Watched:
    server: Running
    prometheus: Prometheus


@pytest.fixture(scope="package")
async def watched(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Watched]:
    """Under load until the tests are over."""
    folder = tmp_path_factory.mktemp("watched")
    base = tiny_base_model(folder / TINY)
    for name in ("amber", "blue", "coral", "denim", "ebony", "fern"):
        random_adapter(folder / "adapters", name, base)
    random_adapter(folder / "adapters", "clarity", base, prompter=info("clear"))
    random_head(folder / "adapters", "head-kind", base)
    random_adapter(folder / "pushed", "good", base)
    random_adapter(folder / "pushed", "bad", base)
    weights = folder / "pushed" / "bad" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    async with handmade_upstream() as upstream:
        settings = Settings(
            model=str(folder / TINY),
            served_model_name="fake",
            bank_rank=8,
            adapters=folder / "adapters",
            data=folder / "data",
            upstream={"up": upstream.url, "down": f"http://127.0.0.1:{free_port()}"},
        )
        async with app_server(settings, token_seconds=0.002) as server:

            async def load() -> None:
                for number in itertools.count():
                    await rewrite_and_denoise(server, f"May {number} guests refuse food?")
                    await answer_requests(server, head="kind")
                    await ask_upstreams(server)
                    await ask_without_a_key(server)
                    await act_on_adapters(server, folder / "pushed" / "good", folder / "pushed" / "bad")

            (folder / "prometheus").mkdir()
            async with scraping(server.url, folder / "prometheus") as prometheus:
                loading = asyncio.create_task(load())
                yield Watched(server, prometheus)
                loading.cancel()
                with pytest.raises(asyncio.CancelledError):  # it went on all the time
                    await loading
