"""The survey's fake server with value axes, plans and sampled answers, which are what `answer_of` says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.support.survey_server import SurveyServer, plan_of


def said(steering: dict[str, Any], prompt: str, seed: int) -> str:
    """Steered answers begin with an axis; with another seed the base says something else."""
    axes = "+".join(sorted(steering.get("values", {})))
    return f"{axes or 'plain'} {seed % 2} {prompt}"[:40]


@dataclass
class ValuesServer(SurveyServer):
    axes: list[str] = field(default_factory=lambda: ["helpful", "harmless"])
    adapters: dict[str, str] = field(default_factory=dict)
    """Digest by name of adapters beside the cultures'."""
    answer_of: Callable[[dict[str, Any], str, int], str] = said

    def answer(self, request: httpx.Request) -> httpx.Response:
        path, body = request.url.path, json.loads(request.content or b"{}")
        if path == "/v1/steering/plan":
            if unknown := set(body["steering"].get("values", {})) - set(self.axes):
                return httpx.Response(400, text=f"Unknown value axis {unknown.pop()}")
            applied = [{"adapter": "values@1.0.0", "weight": 1.0}] if body["steering"].get("values") else []
            return httpx.Response(200, json={"plan": plan_of(body["steering"]), "applied": applied})
        if path == "/v1/chat/completions" and "seed" in body:
            self.requests.append((path, body))
            if refusal := self.refuse(path, body):
                return refusal
            text = self.answer_of(body["steering"], body["messages"][-1]["content"], body["seed"])
            return httpx.Response(200, json=self._sampled(text, body["steering"]))
        return super().answer(request)

    def _sampled(self, text: str, steering: dict[str, Any]) -> dict[str, Any]:
        choice = {"message": {"content": text}, "finish_reason": "stop"}
        return {
            "choices": [choice],
            "usage": {"completion_tokens": len(text)},
            "steering": {"plan": self.applied(plan_of(steering))},
        }

    def _about(self) -> dict[str, Any]:
        values = [{"id": axis, "adapter": "values@1.0.0"} for axis in self.axes]
        about = super()._about()
        about["/v1/adapters"]["data"] += [
            {"name": name, "version": "1.0.0", "kind": "panacea", "digest": digest, "state": "active"}
            for name, digest in self.adapters.items()
        ]
        return {**about, "/v1/steering": {**about["/v1/steering"], "values": values}}
