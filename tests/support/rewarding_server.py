"""A server on a real socket whose frozen model repeats what it is sent, and whose heads score what we say."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import httpx

from tests.evaluation.values_server import ValuesServer


@dataclass
class RewardingServer(ValuesServer):
    heads: dict[str, Callable[[str, str], float]] = field(default_factory=dict)
    """Calibrated score of (prompt, answer), by head."""

    def answer(self, request: httpx.Request) -> httpx.Response:
        if request.url.path != "/v1/rewards":
            return super().answer(request)
        body = json.loads(request.content)
        self.requests.append((request.url.path, body))
        if unknown := set(body["heads"]) - set(self.heads):
            return httpx.Response(400, text=f"Unknown head {unknown.pop()}")
        prompt = body["messages"][-1]["content"]
        scores = [
            {h: {"raw": 0.0, "calibrated": self.heads[h](prompt, answer)} for h in body["heads"]}
            for answer in body["answers"]
        ]
        return httpx.Response(
            200, json={"scores": scores, "heads": {h: f"head-{h}@1.0.0" for h in body["heads"]}}
        )


def rewarding_server(heads: dict[str, Callable[[str, str], float]]) -> RewardingServer:
    """Whose answers are the prompts."""
    return RewardingServer({}, lambda *_: 0.5, answer_of=lambda steering, prompt, seed: prompt, heads=heads)


@contextmanager
def on_socket(server: ValuesServer) -> Iterator[str]:
    """Its URL, as long as it answers there."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer("GET")

        def do_POST(self) -> None:
            self._answer("POST")

        def _answer(self, method: str) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            response = server.answer(httpx.Request(method, f"http://test{self.path}", content=content))
            self.send_response(response.status_code)
            self.send_header("Content-Length", str(len(response.content)))
            self.end_headers()
            self.wfile.write(response.content)

        def log_message(self, *args: Any) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}"
        finally:
            listening.shutdown()
            thread.join()
