"""`steer-server check URL`: what an operator wants to know of a live server, asked over HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

PROMPT = "How important is religion in your life?"
NUM_TOKENS = 24


class CheckFailed(Exception):
    """What was expected and what came."""


@dataclass
class Checker:
    """One server under test."""

    client: httpx.Client
    model: str
    cultures: list[str]

    def chat(self, steering: Any = None, **body: Any) -> dict[str, Any]:
        request = {
            "model": self.model,
            "messages": [{"role": "user", "content": PROMPT}],
            "max_tokens": NUM_TOKENS,
            "temperature": 0,
            **body,
        }
        if steering is not None:
            request["steering"] = steering
        response = self.client.post("/v1/chat/completions", json=request)
        if response.status_code != 200:
            raise CheckFailed(f"{response.status_code}: {response.text[:300]}")
        return {**response.json(), "header": response.headers.get("X-Steering-Plan")}

    def text(self, steering: Any = None) -> str:
        return str(self.chat(steering)["choices"][0]["message"]["content"])

    def server_is_ready(self) -> str:
        response = self.client.get("/ready")
        _expect(response.status_code == 200, f"/ready says {response.status_code}")
        refused = response.json()["refused"]
        active = f"{response.json()['adapters']} adapters active"
        return f"{active}; refused: {', '.join(refused)}" if refused else active

    def base_is_unchanged(self) -> str:
        plain = self.text()
        _expect(self.text({"method": "none"}) == plain, "method none differs from no steering")
        zero = {"cultures": {self.cultures[0]: 1.0}, "strength": 0}
        _expect(self.text(zero) == plain, "strength 0 differs from the base model")
        return "method none and strength 0 equal the base model"

    def steered_differs(self) -> str:
        plain = self.text()
        same = [c for c in self.cultures if self.text({"cultures": {c: 1.0}}) == plain]
        _expect(not same, f"no effect on this prompt: {', '.join(same)}")
        return f"{len(self.cultures)} of {len(self.cultures)} cultures change the answer"

    def blends_add_up(self) -> str:
        first, second = (self.cultures * 2)[:2]
        if first == second:
            halves = self.chat({"cultures": {first: 0.5}})
            scaled = self.chat({"cultures": {first: 1.0}, "strength": 0.5})
        else:
            halves = self.chat({"cultures": {first: 0.3, second: 0.2}})
            scaled = self.chat({"cultures": {second: 0.4, first: 0.6}, "strength": 0.5})
        _expect(halves["header"] == scaled["header"], "equal blends have different plans")
        _expect(
            halves["choices"][0]["message"] == scaled["choices"][0]["message"],
            "equal blends give different answers",
        )
        return "order does not matter; weight x strength is one number"

    def answers_say_what_was_applied(self) -> str:
        spec = {"cultures": {self.cultures[0]: 0.7}}
        planned = self.client.post("/v1/steering/plan", json={"steering": spec}).json()["plan"]
        answer = self.chat(spec)
        _expect(answer["steering"]["plan"] == answer["header"] == planned, "plan, header and body disagree")
        weights = [applied["weight"] for applied in answer["steering"]["applied"]]
        _expect(weights == [0.7], f"applied weights {weights}")
        return f"plan {planned}"

    def streams_equal_answers(self) -> str:
        spec = {"cultures": {self.cultures[0]: 1.0}}
        whole = self.chat(spec)["choices"][0]["message"]["content"]
        request = {
            "model": self.model,
            "messages": [{"role": "user", "content": PROMPT}],
            "stream": True,
            "max_tokens": NUM_TOKENS,
            "temperature": 0,
            "steering": spec,
        }
        chunks = []
        with self.client.stream("POST", "/v1/chat/completions", json=request) as response:
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    chunks.append(json.loads(line.removeprefix("data: ")))
        streamed = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])
        _expect(streamed == whole, "the streamed text differs")
        _expect("steering" in chunks[-1], "the last chunk has no `steering`")
        return f"{len(chunks)} chunks"

    def bad_input_is_refused(self) -> str:
        wrong: list[tuple[Any, str]] = [
            ({"cultures": {"no-such-culture": 1}}, "steering.cultures.no-such-culture"),
            ({"culture": {self.cultures[0]: 1}}, "steering.culture"),
            ({"cultures": {self.cultures[0]: "much"}}, f"steering.cultures.{self.cultures[0]}"),
            ({"cultures": {self.cultures[0]: 1}, "strength": 1e9}, "steering.strength"),
        ]
        for spec, param in wrong:
            request = {"model": self.model, "messages": [{"role": "user", "content": "x"}], "steering": spec}
            response = self.client.post("/v1/chat/completions", json=request)
            found = response.json().get("error", {}).get("param")
            _expect(
                response.status_code == 400 and found == param, f"{spec}: {response.status_code}, {found}"
            )
        return f"{len(wrong)} wrong specs, each 400 with its param"


def _expect(condition: bool, problem: str) -> None:
    if not condition:
        raise CheckFailed(problem)


def run_checks(url: str, api_key: str = "") -> bool:
    """Runs every check and prints a table. Returns: whether all passed."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    table = Table("check", "result", "detail")
    passed = True
    with httpx.Client(base_url=url.rstrip("/"), headers=headers, timeout=300) as client:
        try:
            models = client.get("/v1/models").raise_for_status().json()["data"]
            cultures = [c["id"] for c in client.get("/v1/steering").raise_for_status().json()["cultures"]]
        except (httpx.HTTPError, KeyError) as error:
            Console().print(f"[red]{url} does not answer as a steer-server: {error}[/red]")
            return False
        checker = Checker(client, models[0]["id"], cultures)
        checks: list[Callable[[], str]] = [checker.server_is_ready]
        if cultures:
            checks += [
                checker.base_is_unchanged,
                checker.steered_differs,
                checker.blends_add_up,
                checker.answers_say_what_was_applied,
                checker.streams_equal_answers,
                checker.bad_input_is_refused,
            ]
        for check in checks:
            name = check.__name__.replace("_", " ")
            try:
                table.add_row(name, "[green]ok[/green]", check())
            except (CheckFailed, httpx.HTTPError, KeyError, ValueError) as problem:
                passed = False
                table.add_row(name, "[red]FAILED[/red]", str(problem) or type(problem).__name__)
    if not cultures:
        passed = False
        table.add_row("steering", "[red]FAILED[/red]", "no culture adapter is active")
    Console().print(table)
    return passed
