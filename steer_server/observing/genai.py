"""A request to a model and its answer in the words of OpenTelemetry's conventions for generative AI.

Only numbers, and names that have no room for a text: bodies are the client's, or an upstream's, and hold what
they like.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steer_server.observing.request import titles
from steer_server.observing.spans import Attributes, Kind, Span, begin_span
from steer_server.steering.plan import SteeringPlan

OPERATIONS = {"chat": "chat", "completion": "text_completion"}
"""By route."""
REQUEST_NUMBERS = {
    "max_tokens": "gen_ai.request.max_tokens",
    "max_completion_tokens": "gen_ai.request.max_tokens",
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "seed": "gen_ai.request.seed",
    "n": "gen_ai.request.choice.count",
}
MAX_NAME_CHARACTERS = 128


def begin_call(
    route: str, body: Mapping[str, Any], plan: SteeringPlan, *, provider: str, is_remote: bool
) -> Span:
    """The span of one request to a model.

    Args:
        plan: under which it answers.
        provider: who answers, such as `vllm` or an upstream's name.
    """
    operation, model = OPERATIONS[route], _name(body.get("model"))
    attributes: dict[str, Any] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": provider,
        "gen_ai.request.model": model,
        "gen_ai.request.stream": True if body.get("stream") is True else None,
        "steer.plan": plan.digest,
        "steer.method": plan.method,
        "steer.adapters": titles(plan),
    }
    for field, attribute in REQUEST_NUMBERS.items():
        if _is_number(body.get(field)):
            attributes[attribute] = body[field]
    name = f"{operation} {model}" if model else operation
    return begin_span(name, attributes, Kind.CLIENT if is_remote else Kind.INTERNAL)


def answer_attributes(body: Mapping[str, Any]) -> Attributes:
    """Of an answer that is no stream."""
    choices, usage = body.get("choices"), body.get("usage")
    ends = [choice.get("finish_reason") for choice in choices if isinstance(choice, dict)] if choices else []
    counts = usage if isinstance(usage, dict) else {}
    read, written = counts.get("prompt_tokens"), counts.get("completion_tokens")
    return {
        "gen_ai.response.id": _name(body.get("id")),
        "gen_ai.response.model": _name(body.get("model")),
        "gen_ai.response.finish_reasons": [name for end in ends if (name := _name(end))] or None,
        "gen_ai.usage.input_tokens": read if _is_number(read) else None,
        "gen_ai.usage.output_tokens": written if _is_number(written) else None,
    }


def _name(value: Any) -> str | None:
    return value[:MAX_NAME_CHARACTERS] if isinstance(value, str) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
