"""The app on FakeEngine with every method there is, and ways to it on which something is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from steer_server.settings import Settings
from tests.support.adapters import TINY, random_adapter, tiny_base_model
from tests.support.heads import random_head
from tests.support.prompters import info
from tests.support.servers import Running, app_server

MAX_BODY_BYTES = 100_000
TOKEN_SECONDS = 0.002


@asynccontextmanager
async def load_server(folder: Path) -> AsyncIterator[Running]:
    """With three cultures, value axes, a head and a prompter."""
    base = tiny_base_model(folder / TINY)
    adapters = folder / "adapters"
    for name in ("amber", "blue", "coral"):
        random_adapter(adapters, name, base)
    random_adapter(adapters, "compass", base, axes=["helpful", "harmless"])
    random_adapter(adapters, "clarity", base, prompter=info("clear"))
    random_head(adapters, "head-warm", base)
    settings = Settings(
        model=base.path, served_model_name="fake", bank_rank=8, adapters=adapters, data=folder / "data"
    )
    async with app_server(settings, token_seconds=TOKEN_SECONDS) as server:
        yield server


class Proxy(httpx.AsyncHTTPTransport):
    """Refuses bodies that are too large, as one before the server may, and passes on all else."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if len(request.content) > MAX_BODY_BYTES:
            error = {"message": "too large", "type": "BadRequestError", "param": None, "code": "too_large"}
            return httpx.Response(413, json={"error": error})
        response = await super().handle_async_request(request)
        return await self.spoilt(request, response)

    async def spoilt(self, request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return response


class Wrong(Proxy):
    """Three things are wrong: one steered stream stops in the middle, one score fails, and an unknown culture
    is taken as if nothing were wrong."""

    num_streams = 0
    num_scores = 0

    async def spoilt(self, request: httpx.Request, response: httpx.Response) -> httpx.Response:
        is_stream = response.headers.get("content-type", "").startswith("text/event-stream")
        if is_stream and b'"adapters"' in request.content:
            self.num_streams += 1
            if self.num_streams == 1:
                return httpx.Response(200, headers=response.headers, stream=Endless(response))
        if request.url.path == "/v1/rewards" and response.status_code == 200:
            self.num_scores += 1
            if self.num_scores == 2:
                await response.aread()
                return httpx.Response(500, text="Internal Server Error")
        if b"atlantis" in request.content and b'"cultures"' in request.content:
            await response.aread()
            return httpx.Response(200, json={"choices": [{}]})
        return response


class Endless(httpx.AsyncByteStream):
    """Its first piece, and then nothing."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        assert isinstance(self.response.stream, httpx.AsyncByteStream)
        async for piece in self.response.stream:
            yield piece
            await asyncio.sleep(3600)

    async def aclose(self) -> None:
        await self.response.aclose()


class Full(Proxy):
    """Has no room for whoever asks for a culture alone."""

    async def spoilt(self, request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if b'"method":"adapters"' in request.content.replace(b" ", b""):
            await response.aclose()
            error = {"message": "full", "type": "ServiceUnavailableError", "param": None}
            error |= {"code": "no_bank_slot"}
            return httpx.Response(503, headers={"Retry-After": "1"}, json={"error": error})
        return response
