"""A value statement in a conversation's system prompt: steering for a model that has no adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def with_statement(messages: Sequence[Mapping[str, Any]], statement: str) -> list[Mapping[str, Any]]:
    """The same conversation with the statement at the end of its system prompt, or as one."""
    first, *others = messages
    if first.get("role") not in ("system", "developer"):
        return [{"role": "system", "content": statement}, *messages]
    content = first.get("content")
    if isinstance(content, list):
        return [{**first, "content": [*content, {"type": "text", "text": statement}]}, *others]
    return [{**first, "content": f"{content}\n\n{statement}"}, *others]
