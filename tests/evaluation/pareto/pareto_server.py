"""A steer-server with value axes behind httpx.MockTransport, whose preferences are known beforehand.

Tokens are characters. Every turn ends with END_OF_TURN and a line break; without a system prompt there is a
default one. A question names its axis, and `lift` says by how many nats a setting moves its preference pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.support.survey_server import END_OF_TURN, NEWLINE, SurveyServer

AXES = ("kind", "brief", "bold")
ASSISTANT = "assistant:"
DEFAULT_SYSTEM = "Be fair."
CHOSEN, REJECTED = "good", "bad"
BASE_LOG_PROBS = {CHOSEN: -9.0, REJECTED: -7.0}
"""Nats; the base model prefers the rejected answer, as longer ones are less probable."""

Lift = Callable[[dict[str, Any], str, str], float]
"""(the request's `steering`, system prompt, axis) -> Δ in nats."""


@dataclass
class ParetoServer(SurveyServer):
    lift: Lift = lambda steering, system, axis: 0.0
    axes: dict[str, str] = field(default_factory=lambda: dict.fromkeys(AXES, "small@1.0.0"))
    """Axis -> its adapter."""
    value_floors: dict[str, float] = field(default_factory=dict)
    has_system_turns: bool = True

    def _about(self) -> dict[str, Any]:
        found = super()._about()
        found["/v1/steering"]["values"] = [
            {"id": axis, "description": "", "adapter": adapter, "range": [0, 1]}
            for axis, adapter in self.axes.items()
        ]
        found["/v1/steering"]["policy"] = {"value_floors": self.value_floors}
        return found

    def _tokenize(self, body: dict[str, Any]) -> dict[str, Any]:
        if "prompt" in body:
            return {"tokens": characters(body["prompt"])}
        tokens = conversation(body["messages"], self.has_system_turns)
        if body["add_generation_prompt"]:
            tokens += characters(ASSISTANT)
        return {"tokens": tokens}

    def _words(self, body: dict[str, Any]) -> dict[str, Any]:
        choices = []
        for index, tokens in enumerate(body["prompt"]):
            before, answer = "".join(map(chr, tokens)).rsplit(ASSISTANT, 1)
            system = before.split(chr(END_OF_TURN))[0].removeprefix("system:")
            axis = next(axis for axis in AXES if f"Be {axis}" in before)
            kind = CHOSEN if answer.startswith(CHOSEN) else REJECTED
            delta = self.lift(body["steering"], system, axis)
            total = BASE_LOG_PROBS[kind] + (delta / 2 if kind == CHOSEN else -delta / 2)
            logs = [-1.0] * len(tokens)
            logs[-len(answer) :] = [total / len(answer)] * len(answer)
            positions = [None, *({str(t): {"logprob": v}} for t, v in zip(tokens[1:], logs[1:], strict=True))]
            choices.append({"index": index, "prompt_logprobs": positions})
        return {"choices": choices[::-1]}


def characters(text: str) -> list[int]:
    return [ord(c) for c in text]


def conversation(messages: Iterable[dict[str, str]], has_system_turns: bool = True) -> list[int]:
    """The turns in tokens; a template without system turns puts the system prompt into the next turn."""
    turns = list(messages)
    if has_system_turns and turns[0]["role"] != "system":
        turns.insert(0, {"role": "system", "content": DEFAULT_SYSTEM})
    tokens: list[int] = []
    for turn in turns:
        tokens += characters(f"{turn['role']}:{turn['content']}")
        if has_system_turns or turn["role"] != "system" or len(turns) == 1:
            tokens += [END_OF_TURN, NEWLINE]
    return tokens
