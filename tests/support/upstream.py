"""An upstream for tests: a real HTTP server in this process whose every answer is written by hand, so that it
can be slow, cut itself off, or talk nonsense."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

KEY = "sk-upstream-0123456789abcdef"
MODELS = {"object": "list", "data": [{"id": "big", "object": "model", "created": 7, "owned_by": "them"}]}


@dataclass
class Exchange:
    """One request, and the means to answer it."""

    path: str
    headers: dict[str, str]
    body: Any
    _reader: asyncio.StreamReader
    _writer: asyncio.StreamWriter

    async def send(self, raw: bytes) -> None:
        """Returns when the client has taken most of what was sent."""
        self._writer.write(raw)
        await self._writer.drain()

    async def reply(self, status: int, content: Any, **headers: str) -> None:
        body = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        await self.send(head(status, {"content-length": str(len(body)), **headers}) + body)

    async def start_stream(self) -> None:
        await self.send(head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"}))

    async def event(self, data: Any) -> None:
        text = data if isinstance(data, str) else json.dumps(data)
        await self.piece(f"data: {text}\n\n".encode())

    async def piece(self, raw: bytes) -> None:
        await self.send(b"%x\r\n%s\r\n" % (len(raw), raw))

    async def words(self, *words: str) -> None:
        for word in words:
            await self.event(chunk(word))

    async def end_stream(self) -> None:
        await self.event("[DONE]")
        await self.send(b"0\r\n\r\n")

    def cut(self) -> None:
        self._writer.transport.abort()

    async def client_left(self) -> None:
        with suppress(ConnectionError):
            assert await self._reader.read(1) == b""


Behaviour = Callable[[Exchange], Awaitable[None]]


def head(status: int, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Whatever", *(f"{k.replace('_', '-')}: {v}" for k, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def completion(text: str = "well") -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": "stop", "message": message, "text": text}
    return {"id": "up-1", "object": "chat.completion", "created": 1, "model": "big", "choices": [choice]}


def chunk(text: str) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": None, "delta": {"content": text}, "text": text}
    return {
        "id": "up-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "big",
        "choices": [choice],
    }


async def well(exchange: Exchange) -> None:
    """The usual behaviour."""
    if not exchange.body.get("stream"):
        await exchange.reply(200, completion())
        return
    await exchange.start_stream()
    await exchange.words("we", "ll")
    await exchange.end_stream()


@dataclass
class HandmadeUpstream:
    """Does what `behaviours` say, in turn, then `behaviour`."""

    url: str = ""
    behaviour: Behaviour = well
    behaviours: list[Behaviour] = field(default_factory=list)
    models: tuple[int, Any] = (200, MODELS)
    """Status and body of the list of models."""
    received: list[Exchange] = field(default_factory=list)
    """Requests for answers."""
    num_connections: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while not writer.is_closing():
                    await self._answer(await _read(reader, writer))
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _answer(self, exchange: Exchange) -> None:
        if exchange.path.endswith("/models"):
            await exchange.reply(*self.models)
            return
        self.received.append(exchange)
        await (self.behaviours.pop(0) if self.behaviours else self.behaviour)(exchange)

    async def hang_up(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Exchange:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    content = await reader.readexactly(int(headers.get("content-length", 0)))
    return Exchange(first.split()[1], headers, json.loads(content) if content else None, reader, writer)


@asynccontextmanager
async def handmade_upstream() -> AsyncIterator[HandmadeUpstream]:
    upstream = HandmadeUpstream()
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    upstream.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield upstream
    finally:
        server.close()
        await upstream.hang_up()


class RecordingTransport(httpx.AsyncHTTPTransport):
    """Keeps all that comes back, headers too, while it passes."""

    def __init__(self, record: list[str]) -> None:
        super().__init__()
        self.record = record

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        self.record.append(str(response.headers.raw))
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _Recorded(response.stream, self.record)
        return response


class _Recorded(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream, record: list[str]) -> None:
        self.stream, self.record = stream, record

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self.stream:
            self.record.append(part.decode(errors="replace"))
            yield part

    async def aclose(self) -> None:
        await self.stream.aclose()
