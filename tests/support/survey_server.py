"""A steer-server of a few lines behind httpx.MockTransport, whose answers are known beforehand.

Tokens are characters. The probability of an option is what `belief` says; all options together have `MASS`,
and letters that stand further up the list can be made likelier, as real models do.
"""

from __future__ import annotations

import gzip
import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

MASS = 0.8
END_OF_TURN, NEWLINE = 3, 10
ANSWER_MARK = "\nassistant:"

Belief = Callable[[dict[str, float], str, str], float]
"""(cultures, all text before the answer, option) -> probability among the options."""


@dataclass
class SurveyServer:
    cultures: dict[str, list[str]]
    """Culture -> its countries."""
    belief: Belief
    first_letter_bonus: float = 0.0
    """Added to the log-probability of A."""
    exact_letters: bool = True
    """Obeys `logprob_token_ids`; otherwise lists the two most likely letters only."""
    refuse: Callable[[str, dict[str, Any]], httpx.Response | None] = lambda path, body: None
    applied: Callable[[str], str] = lambda plan: plan
    """The plan that responses say was applied, from the one that was asked for."""
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self.answer)

    def answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if request.method == "GET":
            return httpx.Response(200, json=self._about()[path])
        body = json.loads(request.content)
        if path == "/v1/steering/plan":
            return httpx.Response(200, json={"plan": plan_of(body["steering"])})
        self.requests.append((path, body))
        if refusal := self.refuse(path, body):
            return refusal
        routes = {
            "/tokenize": self._tokenize,
            "/v1/chat/completions": self._letters,
            "/v1/completions": self._words,
        }
        found = routes[path](body)
        if "steering" in body:
            found["steering"] = {"plan": self.applied(plan_of(body["steering"]))}
        return httpx.Response(200, json=found)

    def _about(self) -> dict[str, Any]:
        cultures = [
            {"id": c, "description": "", "countries": countries, "adapter": f"{c}@1.0.0"}
            for c, countries in self.cultures.items()
        ]
        adapters = [
            {"name": c, "version": "1.0.0", "kind": "lora", "digest": "0", "state": "active"}
            for c in self.cultures
        ]
        return {
            "/v1/models": {"data": [{"id": "tiny", "parent": None}]},
            "/v1/steering": {"cultures": cultures},
            "/v1/adapters": {"data": adapters},
        }

    def _tokenize(self, body: dict[str, Any]) -> dict[str, Any]:
        if "prompt" in body:
            return {"tokens": [ord(c) for c in body["prompt"]]}
        tokens = [ord(c) for c in _rendered(body["messages"])]
        if body["add_generation_prompt"]:
            return {"tokens": [*tokens, *(ord(c) for c in ANSWER_MARK)]}
        return {"tokens": [*tokens, END_OF_TURN, NEWLINE]}

    def _letters(self, body: dict[str, Any]) -> dict[str, Any]:
        text = body["messages"][-1]["content"]
        options = re.findall(r"^([A-Z])\. (.*)$", text, re.MULTILINE)
        before = _rendered(body["messages"])
        cultures = body["steering"].get("cultures", {})
        logs = {letter: math.log(max(self.belief(cultures, before, o), 1e-9)) for letter, o in options}
        logs["A"] += self.first_letter_bonus
        total = math.log(sum(map(math.exp, logs.values())) / MASS)
        listed = sorted(logs, key=lambda letter: -logs[letter])
        if not (self.exact_letters and "logprob_token_ids" in body):
            listed = listed[:2]
        top = [{"token": letter, "logprob": logs[letter] - total} for letter in listed]
        return {"choices": [{"logprobs": {"content": [{"token": "A", "top_logprobs": top}]}}]}

    def _words(self, body: dict[str, Any]) -> dict[str, Any]:
        cultures = body["steering"].get("cultures", {})
        choices = []
        for index, tokens in enumerate(body["prompt"]):
            assert tokens[-1] == END_OF_TURN
            before, answer = "".join(map(chr, tokens[:-1])).split(ANSWER_MARK)
            share = self.belief(cultures, before, answer.removesuffix(".")) * MASS
            # The first token of the answer carries half of it, and the end of the turn the other half.
            logs = dict.fromkeys(range(len(tokens)), -1.0)
            start = len(tokens) - len(answer) - 1
            logs |= dict.fromkeys(range(start, len(tokens)), 0.0)
            logs[start] = logs[len(tokens) - 1] = math.log(max(share, 1e-9)) / 2
            positions = [None, *({str(t): {"logprob": logs[i]}} for i, t in enumerate(tokens) if i)]
            choices.append({"index": index, "prompt_logprobs": positions})
        return {"choices": choices[::-1]}


def plan_of(steering: dict[str, Any]) -> str:
    return json.dumps(steering, sort_keys=True)


def _rendered(messages: Iterable[dict[str, str]]) -> str:
    return "\n".join(f"{m['role']}:{m['content']}" for m in messages)


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    with gzip.open(path, "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)
    return path
